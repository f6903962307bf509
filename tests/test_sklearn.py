"""Sweeps as scikit-learn's estimators: its own checks, and what they don't look at."""

import pickle
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

import funcnet as fn

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[experiments]'")
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from funcnet.sklearn import SweepClassifier, SweepRegressor, _ordered, classifier_recipe, regressor_recipe

X, Y = (part[np.arange(150) % 5 < 4] for part in load_iris(return_X_y=True))  # 120, which are filled up: one program for parts of any size
FEW = dict(variants=fn.grid(learning_rate=[1e-4, 1e-2]), num_steps=30, random_state=0)
RNG = np.random.default_rng(0)


@parametrize_with_checks([SweepClassifier(), SweepRegressor()])
def test_scikit_learns_own_checks(estimator, check):
    """All of them; none is expected to fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # scikit-learn's checks provoke some, and look at them
        check(estimator)


def softmax(logits):
    return np.asarray(jax.nn.softmax(logits.astype(np.float64)))


@pytest.fixture(scope="module")
def fitted():
    return SweepClassifier(**FEW).fit(X, Y)


def test_the_best_of_the_sweep_is_chosen_and_the_results_are_named_as_in_a_search(fitted):
    table, results = fitted.result_.table, fitted.cv_results_
    losses = table["validation/loss"]
    assert fitted.best_index_ == np.argmin(losses) == 1 and fitted.best_params_ == {"learning_rate": 1e-2}
    assert results["params"] == [{"learning_rate": 1e-4}, {"learning_rate": 1e-2}]
    np.testing.assert_array_equal(results["mean_test_score"], -losses)
    assert results["rank_test_score"].tolist() == [2, 1] and results["std_test_score"].tolist() == [0, 0]
    assert results["param_learning_rate"].tolist() == [1e-4, 1e-2] and fitted.best_score_ == -losses.min()
    theirs = GridSearchCV(Ridge(), {"alpha": [1.0, 2.0]}, cv=2).fit(X, Y)
    assert {name for name in results if not name.startswith("param_")} <= set(theirs.cv_results_)
    assert all(hasattr(theirs, name) for name in ("best_params_", "best_index_", "best_score_", "cv_results_", "n_features_in_"))


def test_scores_over_replicates_are_those_of_numpy():
    model = SweepClassifier(**FEW, replicates=3, metric="validation/accuracy").fit(X, Y)
    accuracy = model.result_.table["validation/accuracy"].reshape(2, 3)
    np.testing.assert_allclose(model.cv_results_["mean_test_score"], accuracy.mean(1))
    np.testing.assert_allclose(model.cv_results_["std_test_score"], accuracy.std(1), atol=1e-12)
    assert model.best_index_ == np.argmax(accuracy.mean(1))


def test_what_is_predicted_is_the_model_of_the_sweep(fitted):
    """Without a second training it is the state of the sweep's best row, on rows scaled by those it was trained on."""
    model = SweepClassifier(**FEW, refit=False).fit(X, Y)
    own = _ordered(X, Y, None, int(np.random.RandomState(0).randint(2**31 - 1)), merge=True)
    held = np.zeros(len(own.y), bool)
    counts = np.ones(len(own.y)) if own.weights is None else own.weights
    for label in range(3):
        rows = np.flatnonzero(own.y == label)
        held[rows[np.cumsum(counts[rows]) <= 0.2 * counts[rows].sum() + 1e-9]] = True
    assert [np.sum(counts[held & (own.y == label)]) for label in range(3)] == [8, 8, 8]
    mean = np.average(own.x[~held], axis=0, weights=counts[~held])
    deviation = np.sqrt(np.average((own.x[~held] - mean) ** 2, axis=0, weights=counts[~held]))
    best = model.result_.best()
    logits = model.result_.predict(best.row, ((X - mean) / deviation).astype(np.float32))
    np.testing.assert_allclose(model.predict_proba(X), softmax(np.asarray(logits)), atol=1e-6)
    right = (model.predict(own.x) == own.y)[held]
    assert np.average(right, weights=counts[held]) == pytest.approx(best.metrics["validation/accuracy"])
    assert not np.allclose(fitted.predict_proba(X), model.predict_proba(X), atol=1e-4)  # trained again, on everything


def test_training_again_is_a_fit_of_the_best_on_everything():
    x = RNG.normal(size=(200, 3))
    y = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int)
    model = SweepClassifier(**FEW, batch_size=None, validation=0.25).fit(x, y)
    key = jax.random.key(int(np.random.RandomState(0).randint(2**31 - 1)))
    scaled = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    training = classifier_recipe((3,), 2, **model.best_params_)
    alone = fn.sweep(
        lambda: training, [{}], fn.Dataset(scaled, y), key=key, num_steps=30, batch_size=None, progress=False
    )  # full batches: the order of the rows decides nothing but rounding
    np.testing.assert_allclose(model.predict_proba(x), softmax(np.asarray(alone.predict(0, scaled))), atol=1e-4)


def test_labels_of_any_kind():
    for labels in (
        np.array(["setosa", "versicolor", "virginica"]),
        np.array([-5, 7, 100]),
        np.array([30.0, 20.0, 10.0]),
        np.array([True, False]),
    ):
        few = labels[:2] if labels.dtype == bool else labels
        rows = Y < len(few)
        model = SweepClassifier(**FEW).fit(X[rows], few[Y[rows]])
        assert model.classes_.tolist() == sorted(few.tolist()) and model.predict(X).dtype == few.dtype
        assert model.score(X[rows], few[Y[rows]]) > 0.8
        np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
        np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X))


def test_a_seed_decides_everything_and_the_order_of_the_rows_nothing():
    """Of 150 rows, more than a minibatch holds."""
    x, y = load_iris(return_X_y=True)
    order = np.random.default_rng(3).permutation(len(y))
    first, again, other = (SweepClassifier(**(FEW | {"random_state": seed})) for seed in (0, 0, 1))
    first.fit(x, y), again.fit(x[order], y[order]), other.fit(x, y)
    np.testing.assert_array_equal(first.predict_proba(x), again.predict_proba(x))
    assert not np.allclose(first.predict_proba(x), other.predict_proba(x))
    assert np.array_equal(first.result_.table["validation/loss"], again.result_.table["validation/loss"])
    state = np.random.RandomState(0)
    np.testing.assert_array_equal(SweepClassifier(**(FEW | {"random_state": state})).fit(x, y).predict_proba(x), first.predict_proba(x))


@pytest.mark.parametrize("validation", [0.2, 0.0])
def test_weights_are_repetitions(validation):
    """Bit for bit, of a sample with labels of its own; and other weights give another model."""
    weights = np.random.default_rng(1).integers(0, 4, len(Y))
    weighted = SweepClassifier(**FEW, validation=validation).fit(X, Y, sample_weight=weights)
    repeated = SweepClassifier(**FEW, validation=validation).fit(X.repeat(weights, 0), Y.repeat(weights))
    np.testing.assert_array_equal(weighted.predict_proba(X), repeated.predict_proba(X))
    assert not np.allclose(weighted.predict_proba(X), SweepClassifier(**FEW).fit(X, Y).predict_proba(X))
    x, y = load_diabetes(return_X_y=True)
    x, y, weights = x[:60], y[:60], weights[:60]
    one = SweepRegressor(**FEW).fit(x, y, sample_weight=weights)
    np.testing.assert_array_equal(one.predict(x), SweepRegressor(**FEW).fit(x.repeat(weights, 0), y.repeat(weights)).predict(x))


def test_a_weight_counts_what_it_says():
    """A constant model under squared error is the weighted mean."""

    def constant(num_outputs, learning_rate):
        return fn.training(fn.dense(num_outputs, initializer="zeros"), fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))

    y, weights = np.array([1.0, 2.0, 6.0, 7.0]), np.array([1.0, 0.5, 3.0, 0.0])
    model = SweepRegressor(constant, fn.grid(learning_rate=[0.3]), num_steps=60, validation=0.0, standardize=False)
    found = model.fit(np.zeros((4, 1)), y, sample_weight=weights).predict([[0.0]])
    assert found == pytest.approx(np.average(y, weights=weights), rel=1e-4)


def test_equal_examples_are_never_in_both_parts():
    rows = RNG.integers(0, 2, (300, 4)).astype(float)
    seen = []

    def watched(learning_rate):
        training = classifier_recipe((4,), 2, learning_rate)
        return training._replace(check_data=lambda split: seen.append(split))

    SweepClassifier(watched, **FEW, refit=False).fit(rows, (rows.sum(1) > 2).astype(int))
    train, held = ({tuple(row) for row in np.asarray(part.x).round(4)} for part in seen[0][:2])
    assert not train & held and len(train) + len(held) == 16


def test_targets_in_any_unit_and_several_of_them():
    x, y = load_diabetes(return_X_y=True)
    both = np.column_stack([y, 1e6 - 1e4 * x[:, 2]])
    model = SweepRegressor(random_state=0, num_epochs=30).fit(x, both)
    assert model.predict(x).shape == (442, 2) and model.predict(x).dtype == np.float64
    assert np.all(model.score(x, both) > 0.6)
    one, scaled = (SweepRegressor(**FEW).fit(x[:100], target) for target in (y[:100], 1e3 * y[:100] - 5))
    np.testing.assert_allclose(scaled.predict(x), 1e3 * one.predict(x) - 5, rtol=1e-3)
    assert one.predict(x).shape == (442,) and one.best_params_ == scaled.best_params_


def test_in_a_pipeline_a_cross_validation_and_a_grid_search_around_both():
    pipeline = make_pipeline(StandardScaler(), SweepClassifier(**FEW))
    assert cross_val_score(pipeline, X, Y, cv=3).mean() > 0.8
    search = GridSearchCV(pipeline, {"sweepclassifier__num_steps": [1, 40], "sweepclassifier__refit": [True, False]}, cv=2).fit(X, Y)
    assert search.best_params_["sweepclassifier__num_steps"] == 40 and search.best_estimator_[-1].best_params_ == {"learning_rate": 1e-2}
    assert set(pipeline[-1].get_params()) == set(SweepRegressor().get_params())
    x, y = (part[:441] for part in load_diabetes(return_X_y=True))  # of three parts of one size
    assert cross_val_score(make_pipeline(StandardScaler(), SweepRegressor(**FEW)), x, y, cv=3).mean() > 0.2


def tiny(in_shape, num_outputs, learning_rate, decay=0.9, optimizer="momentum", width=4):
    own = fn.sgd(learning_rate) if optimizer == "sgd" else fn.momentum(learning_rate, decay)
    return fn.training(fn.mlp((width, num_outputs)), fn.cross_entropy, own, in_shape=in_shape, metrics=["accuracy"])


VARIANTS = fn.space(
    optimizer=fn.choice(["sgd", "momentum"]),
    decay=fn.when(fn.uniform(0.5, 1.0), optimizer="momentum"),
    learning_rate=fn.log_uniform(1e-2, 1.0),
).sample(6, key=jax.random.key(0))


@pytest.mark.parametrize(
    "estimator", [SweepClassifier(random_state=0), SweepClassifier(tiny, VARIANTS, num_steps=40, random_state=0)], ids=["default", "own"]
)
def test_pickling_and_cloning(estimator):
    model = clone(estimator).fit(X, Y)
    model.predict(X)  # what it compiles is left behind
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.best_params_ == model.best_params_ and again.result_.best().metrics == model.result_.best().metrics
    np.testing.assert_array_equal(clone(model).fit(X, Y).predict_proba(X), model.predict_proba(X))
    with pytest.raises(NotFittedError):
        clone(model).predict(X)
    if estimator.variants is not None:
        assert clone(model).variants.distributions == VARIANTS.distributions  # which a population's bounds come from


def test_a_sweeps_options_by_name(tmp_path):
    told = []
    model = SweepClassifier(
        tiny,
        VARIANTS,
        num_steps=96,
        eval_every=8,
        random_state=0,
        keep_best=True,
        prune=fn.prune.median(),
        store=tmp_path / "kept",
        callback=told.append,
    ).fit(X, Y)
    assert "pruned_by" in model.result_.table and told and (tmp_path / "kept").is_dir() and model.score(X, Y) > 0.8
    assert model.n_iter_ == model.result_.table["best_step"][model.result_.best().row]
    evolved = SweepClassifier(
        tiny, VARIANTS, num_steps=48, eval_every=8, random_state=0, evolve=fn.population(fn.truncation(0.5)), refit=False
    ).fit(X, Y)
    assert evolved.result_.lineage is not None and evolved.score(X, Y) > 0.8
    with pytest.raises(ValueError, match="SweepClassifier: refit must be False with evolve, got refit=True; refit=False keeps the state"):
        SweepClassifier(tiny, VARIANTS, evolve=fn.population()).fit(X, Y)


def test_a_recipe_in_the_readers_own_words():
    """Without in_shape or num_outputs, and with batch sizes and steps among the variants."""

    def plain(learning_rate):
        return fn.training(fn.mlp((8, 3)), fn.cross_entropy, fn.adam(learning_rate), in_shape=(4,))

    variants = fn.grid(learning_rate=[1e-2], batch_size=[16, 32], num_steps=[1, 50])
    model = SweepClassifier(plain, variants, random_state=0).fit(X, Y)
    assert model.best_params_["num_steps"] == 50 and model.score(X, Y) > 0.8
    wild = fn.grid(learning_rate=[1.0], batch_size=[16], num_steps=[50])  # at its best early
    best = SweepClassifier(plain, wild, random_state=0, keep_best=True, eval_every=5).fit(X, Y)
    assert best.n_iter_ < 50 and best.n_iter_ == best.result_.table["best_step"][best.result_.best().row]


def any_settings(in_shape, num_outputs, **settings):
    """Its hyperparameters by **, of which the activation makes a difference to a prediction."""
    return classifier_recipe(in_shape, num_outputs, hidden=(8,), **settings)


def own_values(in_shape, num_outputs, learning_rate, num_steps):
    """It asks for a value of the sweep's own, on which its model depends."""
    model = fn.mlp((8, num_outputs), "relu" if num_steps > 10 else "tanh")
    return fn.training(model, fn.cross_entropy, fn.adam(fn.cosine_decay(learning_rate, num_steps)), in_shape=in_shape)


def by_names(in_shape, num_outputs, activation):
    return fn.training(fn.mlp((8, num_outputs), activation), fn.cross_entropy, fn.adam(0.01), in_shape=in_shape)


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize(
    "recipe, variants",
    [
        (any_settings, fn.grid(learning_rate=[1e-2], activation=["tanh"])),
        (own_values, fn.grid(learning_rate=[1e-2])),
        (by_names, fn.grid(activation=fn.traced(["tanh", "gelu"]))),
    ],
)
def test_what_the_recipe_was_given_it_is_given_for_a_prediction(recipe, variants, refit):
    model = SweepClassifier(recipe, variants, num_steps=20, random_state=0, standardize=False, refit=refit).fit(X, Y)
    result, row = (model._fitted.result, model._fitted.row) if refit else (model.result_, model.result_.best().row)
    expected = softmax(np.asarray(result.predict(row, X.astype(np.float32))))
    for each in (model, pickle.loads(pickle.dumps(model))):
        np.testing.assert_allclose(each.predict_proba(X), expected, rtol=1e-5, atol=1e-7)


def test_small_samples():
    for y in (np.array([0, 1]), np.array([0, 0, 1]), np.array([0, 0, 0])):
        x = RNG.normal(size=(len(y), 2))
        model = SweepClassifier(random_state=0).fit(x, y)
        assert model.predict(x).shape == y.shape
        held = "validation/loss" in model.result_.curves
        assert held == (np.bincount(y).max() > 1)
    assert SweepRegressor(random_state=0).fit(np.eye(2), [1.0, 2.0]).predict(np.eye(2)).shape == (2,)
    ones = SweepRegressor(random_state=0).fit(np.ones((5, 2)), np.ones(5))
    assert ones.predict(np.ones((1, 2))) == pytest.approx(1)


def two(learning_rate):
    return regressor_recipe((4,), 2, learning_rate)


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (lambda: SweepClassifier(validation=1.0).fit(X, Y), ValueError, r"SweepClassifier: validation must be in \[0, 1\), got 1.0"),
        (
            lambda: SweepClassifier(num_steps=3, num_epochs=2).fit(X, Y),
            TypeError,
            "SweepClassifier: needs num_epochs or num_steps, not both, got 2 and 3",
        ),
        (lambda: SweepClassifier(num_epochs=0).fit(X, Y), ValueError, "SweepClassifier: num_epochs must be at least 1, got 0"),
        (lambda: SweepClassifier(batch_size=0).fit(X, Y), ValueError, "batch_size must be at least 1, got 0"),
        (lambda: SweepClassifier("mlp").fit(X, Y), TypeError, "SweepClassifier: recipe must be a function of hyperparameters, got 'mlp'"),
        (
            lambda: SweepClassifier(variants=fn.grid(learning_rat=[1.0])).fit(X, Y),
            ValueError,
            "no hyperparameter 'learning_rat'; did you mean 'learning_rate'?",
        ),
        (
            lambda: SweepClassifier(variants=fn.space(learning_rate=0.1)).fit(X, Y),
            TypeError,
            "SweepClassifier: variants must be a list of dicts, got a space",
        ),
        (lambda: SweepClassifier(metric="validation/acuracy").fit(X, Y), ValueError, "unknown metric 'validation/acuracy'; did you mean"),
        (lambda: SweepClassifier().fit(X, Y, sample_weight=np.zeros(120)), ValueError, "(?i)sample.weight.*zero"),
        (lambda: SweepClassifier().fit(X, Y, sample_weight=-np.ones(120)), ValueError, "Negative values"),
        (lambda: SweepClassifier().fit(np.where(X > 5, np.nan, X), Y), ValueError, "contains NaN"),
        (lambda: SweepClassifier(two, [{"learning_rate": 0.1}]).fit(X, Y).predict(X), ValueError, None),
    ],
)
def test_mistakes(wrong, error, match):
    with pytest.raises(error, match=match):
        wrong()


def test_loading_funcnet_does_not_load_scikit_learn():
    code = """
import sys, funcnet
assert "sklearn" not in sys.modules
assert funcnet.sklearn.SweepClassifier().get_params()["num_steps"] is None
assert "sklearn" in sys.modules
try:
    funcnet.skleran
except AttributeError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "module 'funcnet' has no attribute 'skleran'"


def test_without_scikit_learn_the_error_names_the_extra():
    code = "import sys; sys.modules['sklearn.base'] = None; import funcnet; funcnet.sklearn"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: funcnet.sklearn: needs scikit-learn, which is not installed; pip install 'funcnet[experiments]'" in said.stderr
