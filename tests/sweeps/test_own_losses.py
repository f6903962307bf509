"""Losses that take a key, a pytree of predictions or the whole batch, and metrics with settings: by fit, in a sweep, planned and stored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import remote_recipes as recipes
import sklearn.metrics as theirs

import funcnet as fn
from funcnet import metrics

KEY = jax.random.key(3)
SETTINGS = dict(num_steps=60, batch_size=16, eval_every=20)
RATES = [0.01, 0.03, 0.1]
CASES = {  # recipe, a second hyperparameter, data
    "autoencoder": (recipes.autoencoder, {"beta": [0.01, 0.3]}, recipes.themselves()),
    "ranking": (recipes.ranking, {"noise": [0.0, 0.5]}, recipes.sides()),
    "contrastive": (recipes.embedded, {"temperature": [0.3, 1.0]}, recipes.points()),
}
every_case = pytest.mark.parametrize("name", CASES)


def swept(recipe, variants, data, **others):
    return fn.sweep(recipe, variants, data, key=KEY, progress=False, **(SETTINGS | dict(chunk_size=3) | others))


@functools.cache
def result_of(name):
    recipe, others, data = CASES[name]
    return swept(recipe, fn.grid(learning_rate=RATES, **others), data)


@every_case
def test_each_row_is_what_fit_gives(name):
    """To rounding; and among other lanes what it is alone, bit for bit."""
    recipe, _, data = CASES[name]
    result = result_of(name)
    assert set(result.table["status"]) == {"completed"} and len(np.unique(result.table["validation/loss"])) == 6
    fallen = result.curves["train/loss"][:, 0] - result.curves["train/loss"][:, -1]
    assert np.all(fallen[:4] > 0)  # at the largest rate it may rise again
    fit = jax.jit(lambda own: fn.fit(recipe(**own), data, key=jax.random.fold_in(KEY, 0), **SETTINGS).curves)
    for row in (0, 5):
        own = {other: float(result.table[other][row]) for other in ("learning_rate", *CASES[name][1])}
        for curve, values in fit(own).items():
            if curve != "step":
                np.testing.assert_allclose(result.curves[curve][row], values, rtol=2e-4, atol=1e-6, err_msg=curve)
        again = swept(recipe, [own], data)
        for curve in set(result.curves) - {"step"}:
            assert result.curves[curve][row].tobytes() == again.curves[curve][0].tobytes()


@every_case
def test_a_plan_and_files(name, tmp_path):
    recipe, others, data = CASES[name]
    variants, settings = fn.grid(learning_rate=RATES, **others), SETTINGS | dict(key=KEY, chunk_size=3)
    assert "6 runs in 1 program" in str(fn.plan(recipe, variants, data, **settings))
    result = result_of(name)
    result.save(tmp_path / "result")
    loaded = fn.load_result(tmp_path / "result", recipe)
    part = data.validation
    assert loaded.evaluate(4, part) == result.evaluate(4, part)
    for one, other in zip(jax.tree.leaves(loaded.predict(4, part.x)), jax.tree.leaves(result.predict(4, part.x)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded.best("validation/loss").row == result.best("validation/loss").row


# Keys.


def test_the_divergence_by_draws_is_the_closed_form():
    mean, log_variance = jnp.array([0.5, -1.0, 0.0]), jnp.array([0.3, -2.0, 0.0])
    draws = jax.vmap(lambda key: recipes.drawn_divergence(key, mean, log_variance))(jax.random.split(KEY, 40_000))
    closed = sum(
        np.log(1 / s) + (s**2 + m**2) / 2 - 0.5 for m, s in zip(np.asarray(mean), np.exp(np.asarray(log_variance) / 2), strict=True)
    )
    np.testing.assert_allclose(recipes.gaussian_divergence(mean, log_variance), closed, rtol=1e-6)
    np.testing.assert_allclose(jnp.mean(draws), closed, atol=5 * float(jnp.std(draws)) / 200)


def test_a_loss_draws_other_numbers_than_the_model():
    """The mean square of the difference of two independent uniform numbers is 1/6; of one and the same it is 0."""

    def init(key, in_shape):
        return {"weight": jnp.ones((1, 1))}

    def apply(params, x, *, key=None):
        return params["weight"][0] * (jnp.zeros(1) if key is None else jax.random.uniform(key, (1,)))

    def far(said, target, *, key=None):
        return jnp.zeros(()) if key is None else jnp.mean((said - jax.random.uniform(key, (1,))) ** 2)

    def whole(said, targets, *, key=None):
        return jnp.mean((said - jax.random.uniform(key, said.shape)) ** 2)

    batch = fn.Dataset(jnp.zeros((4000, 2)), jnp.zeros((4000, 1)))
    for loss in (far, fn.batch_loss(whole)):
        one = fn.training(fn.Layer(init, apply), loss, fn.sgd(0.1), in_shape=(2,))
        state = one.init(KEY)
        first, again, other = (float(one.step(state, batch, jax.random.key(seed))[1]["loss"]) for seed in (0, 0, 1))
        assert first == again != other
        np.testing.assert_allclose([first, other], 1 / 6, atol=0.02)


def test_a_models_draws_are_the_same_whether_the_loss_draws():
    def quiet(said, target):
        return fn.squared_error(said, target)

    def drawing(said, target, *, key=None):
        return fn.squared_error(said, target) + 0.0 * (0.0 if key is None else jax.random.normal(key))

    curves = []
    for loss in (quiet, drawing):
        one = fn.training(fn.mlp((8, 6), "tanh", 0.5), loss, fn.sgd(0.1), in_shape=(6,))
        curves.append(fn.fit(one, recipes.themselves(), key=KEY, num_steps=10, batch_size=16).curves)
    np.testing.assert_allclose(curves[0]["train/loss"], curves[1]["train/loss"], rtol=1e-6)


# Metrics in a sweep.


def test_an_area_under_the_curve_is_what_its_surrogate_drives_up():
    result = result_of("ranking")
    assert result.best("validation/roc_auc").metrics["validation/roc_auc"] > 0.9
    part = recipes.sides().validation
    for row in range(6):
        scores = np.asarray(result.predict(row, part.x), float)[:, 0]
        np.testing.assert_allclose(result.table["validation/roc_auc"][row], theirs.roc_auc_score(part.y, scores), rtol=1e-5)
        np.testing.assert_allclose(result.table["validation/f1"][row], theirs.f1_score(part.y, scores > 0), rtol=1e-5)


def of_classes(learning_rate):
    names = [name for name in metrics.METRICS if name not in metrics._OF_NUMBERS]
    return fn.training(fn.dense(3), fn.cross_entropy, fn.sgd(learning_rate), in_shape=(6,), metrics=names)


def of_numbers(learning_rate):
    return fn.training(fn.dense(6), fn.squared_error, fn.sgd(learning_rate), in_shape=(6,), metrics=list(metrics._OF_NUMBERS))


@pytest.mark.parametrize("recipe, data", [(of_classes, recipes.points()), (of_numbers, recipes.themselves())])
def test_every_metric_of_a_sweep_is_that_of_the_predictions(recipe, data):
    """Also where only num_examples are seen."""
    few = len(data.validation.y)
    variants = [{"learning_rate": rate, "num_examples": seen} for rate in RATES[:2] for seen in (few, 60)]
    result = swept(recipe, variants, data, num_steps=10, eval_every=None, batch_size=8)
    alone = jax.eval_shape(lambda: fn.fit(recipe(RATES[0]), data, key=KEY, num_steps=10, batch_size=8).curves)
    names = set(recipe(0.1).modes) - {"loss"}
    assert len(names) > 2 and {f"validation/{name}" for name in names} <= set(alone)
    measured = jax.jit(lambda said, targets: {name: metrics.METRICS[name](said, targets) for name in names})
    for row, variant in enumerate(variants):
        seen = fn.Dataset(*(leaf[: variant["num_examples"]] for leaf in data.train))
        for part, examples in (("train", seen), ("validation", data.validation)):
            for name, expected in measured(result.predict(row, examples.x), examples.y).items():
                np.testing.assert_allclose(result.table[f"{part}/{name}"][row], expected, rtol=1e-4, atol=1e-6, err_msg=f"{part}/{name}")


@pytest.mark.parametrize("hyperparameter", ["average", "smoothing"])
def test_a_store_of_other_settings_is_refused(hyperparameter, tmp_path):
    """The settings of a metric are in what the recipe computes, and so are those of a loss."""

    def recipe_of(value):
        settings = {"average": "macro", "smoothing": 0.1} | {hyperparameter: value}

        def recipe(learning_rate):
            loss = "cross_entropy", {"label_smoothing": settings["smoothing"]}
            return fn.training(fn.dense(3), loss, fn.sgd(learning_rate), in_shape=(6,), metrics=("f1", {"average": settings["average"]}))

        return recipe

    one, other = {"average": ("macro", "weighted"), "smoothing": (0.1, 0.2)}[hyperparameter]
    given = dict(num_steps=10, eval_every=None, store=tmp_path / "store")
    stored = swept(recipe_of(one), fn.grid(learning_rate=RATES), recipes.points(), **given)
    with pytest.raises(ValueError, match="must hold this very sweep, got another .*what the recipe computes"):
        swept(recipe_of(other), fn.grid(learning_rate=RATES), recipes.points(), **given)
    again = swept(recipe_of(one), fn.grid(learning_rate=RATES), recipes.points(), **given)
    np.testing.assert_array_equal(again.table["validation/f1"], stored.table["validation/f1"])
    different = swept(recipe_of(other), fn.grid(learning_rate=RATES), recipes.points(), **(given | {"store": tmp_path / "other"}))
    column = {"average": "validation/f1", "smoothing": "validation/loss"}[hyperparameter]
    assert different.table[column].tolist() != stored.table[column].tolist()
