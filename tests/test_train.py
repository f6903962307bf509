"""Training: the objective, a step, evaluation, and fit as a pure function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from properties import assert_close, assert_same_bits, check_mistake, mistakes

import funcnet as fn
from funcnet.train import evaluation_steps

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4)).astype(np.float32)
Y = (X @ RNG.normal(size=(4, 1)) + 0.1 * RNG.normal(size=(50, 1))).astype(np.float32)
DATA = fn.split(fn.Dataset(X, Y), key=jax.random.key(0), validation=0.2)


def linear(learning_rate=0.1, l2=0.0, **settings):
    return fn.training(fn.dense(1), fn.squared_error, fn.momentum(learning_rate), in_shape=(4,), penalty=fn.l2(l2), **settings)


def test_objective_is_the_mean_loss_plus_the_penalty_once():
    model = fn.dense(1)
    params = model.init(KEY, (4,))
    objective = fn.penalized(model, fn.squared_error, fn.l2(0.3))
    residual = X @ np.asarray(params["weight"]).T + np.asarray(params["bias"]) - Y
    penalty = 0.3 * np.sum(np.asarray(params["weight"]) ** 2)
    np.testing.assert_allclose(objective(params, (X, Y)), np.mean(residual**2) + penalty, rtol=1e-5)
    weights = RNG.uniform(size=50).astype(np.float32)
    weighted = np.sum(weights * residual[:, 0] ** 2) / np.sum(weights) + penalty
    np.testing.assert_allclose(objective(params, fn.WeightedDataset(X, Y, weights)), weighted, rtol=1e-5)
    some = np.arange(50) < 20
    np.testing.assert_allclose(objective(params, (X, Y, some.astype(np.float32))), objective(params, (X[:20], Y[:20])), rtol=1e-5)


def test_a_weight_of_zero_hides_even_what_is_not_finite():
    model = fn.dense(1)
    params = model.init(KEY, (4,))
    x = X.copy()
    x[0] = 1e30  # its squared error overflows
    objective = fn.penalized(model, fn.squared_error)
    weights = (np.arange(50) > 0).astype(np.float32)
    np.testing.assert_allclose(objective(params, (x, Y, weights)), objective(params, (X[1:], Y[1:])), rtol=1e-5)


WAY = np.array([1.0 + 2.0j, -0.5j], np.complex64)


def turning(optimizer):
    """A model of complex weights, whose imaginary parts count as its real ones do."""

    def init(key, in_shape):
        return {"weight": jnp.zeros(in_shape, jnp.complex64)}

    def apply(params, x, *, key=None):
        z = jnp.sum(params["weight"] * x.astype(jnp.complex64))
        return jnp.stack([z.real, z.imag])

    return fn.training(fn.Layer(init, apply), fn.squared_error, optimizer, in_shape=(2,), penalty=fn.l2(0.0))


TURNING = fn.Dataset(X[:, :2], np.stack([(X[:, :2] @ WAY).real, (X[:, :2] @ WAY).imag], 1))
RATES = {"sgd": 0.1, "momentum": 0.1, "adagrad": 0.5, "rmsprop": 0.01, "adam": 0.03, "adamw": 0.03, "nadam": 0.03}
DESCENT = dict(key=KEY, num_steps=400, batch_size=None)


def turning_by(learning_rate, name, **settings):
    return turning(fn.optimizer(name, learning_rate, **settings))


@functools.cache
def turned(*names):
    """A sweep over optimizers whose name is traced, or over one whose name is as it is."""
    settings = {"weight_decay": [0.0]} if names == ("adamw",) else {}
    name = fn.traced(list(names)) if len(names) > 1 else list(names)
    rates = sorted({RATES[name] for name in names})
    return fn.sweep(turning_by, fn.grid(learning_rate=rates, name=name, **settings), TURNING, **DESCENT, progress=False)


@pytest.mark.parametrize("name", RATES)
def test_complex_parameters_go_down_the_hill(name):
    """In fit and in a sweep, with the optimizer's name as it is or traced: both parts of each weight come to what the data say."""
    settings = {"weight_decay": 0.0} if name == "adamw" else {}
    alone = fn.fit(turning_by(RATES[name], name, **settings), TURNING, **DESCENT)
    np.testing.assert_allclose(alone.state.params["weight"], WAY, atol=0.02)
    together = turned(name) if name in ("adamw", "nadam") else turned("sgd", "momentum", "adagrad", "rmsprop", "adam")
    (row,) = np.flatnonzero((together.table["name"] == name) & (together.table["learning_rate"] == RATES[name]))
    np.testing.assert_allclose(together.state(int(row)).params["weight"], alone.state.params["weight"], rtol=1e-4, atol=1e-4)


def test_steps_agree_with_a_loop_in_numpy():
    """Ridge regression by heavy-ball descent, written out by hand."""
    training = linear(0.05, l2=0.01)
    state = training.init(KEY)
    w, b = (np.asarray(state.params[name], np.float64) for name in ("weight", "bias"))
    vw, vb = np.zeros_like(w), np.zeros_like(b)
    for start in range(0, 50, 10):
        x, y = X[start : start + 10].astype(np.float64), Y[start : start + 10].astype(np.float64)
        state, metrics = jax.jit(training.step)(state, fn.Dataset(X[start : start + 10], Y[start : start + 10]), KEY)
        residual = x @ w.T + b - y
        np.testing.assert_allclose(metrics["loss"], np.mean(residual**2) + 0.01 * np.sum(w**2), rtol=1e-4)
        vw = 0.9 * vw - 0.05 * (2 * residual.T @ x / 10 + 0.02 * w)
        vb = 0.9 * vb - 0.05 * 2 * residual.mean(0)
        w, b = w + vw, b + vb
    np.testing.assert_allclose(state.params["weight"], w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.params["bias"], b, rtol=1e-4, atol=1e-6)
    assert state.step == 5


@pytest.mark.parametrize("examples", [5, 256, 257, 700])
def test_evaluation_in_batches_is_evaluation_at_once(examples):
    x = RNG.normal(size=(examples, 4)).astype(np.float32)
    labels = RNG.integers(0, 3, examples)
    training = fn.training(fn.mlp((6, 3), "tanh", 0.5), fn.cross_entropy, fn.sgd(0.1), in_shape=(4,), metrics=["accuracy", "f1"])
    state = training.init(KEY)
    model = fn.mlp((6, 3), "tanh", 0.5)
    logits = np.asarray(jax.jit(jax.vmap(model.apply, (None, 0)))(state.params, x), np.float64)
    values = jax.jit(training.evaluate)(state, fn.Dataset(x, labels))
    of_labels = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    np.testing.assert_allclose(values["loss"], np.mean(np.log(np.exp(logits).sum(1)) - of_labels), rtol=1e-5)
    np.testing.assert_allclose(values["accuracy"], np.mean(logits.argmax(1) == labels), rtol=1e-6)
    np.testing.assert_allclose(values["f1"], sklearn.metrics.f1_score(labels, logits.argmax(1), average="macro"), rtol=1e-5)


def test_metrics_by_name_or_function_and_losses_by_name():
    training = fn.training(
        fn.dense(1), "huber", fn.sgd(0.1), in_shape=(4,), metrics={"r2": "r2", "worst": lambda p, t: jnp.max(jnp.abs(p - t))}
    )
    values = training.evaluate(training.init(KEY), fn.Dataset(X, Y))
    assert set(values) == {"loss", "r2", "worst"}
    single = fn.training(fn.dense(1), fn.squared_error, fn.sgd(0.1), in_shape=(4,), metrics="r2")
    assert set(single.evaluate(single.init(KEY), fn.Dataset(X, Y[:, 0]))) == {"loss", "r2"}


LABELS = (X[:, 0] > 0).astype(int)


def test_metrics_are_taken_as_names_and_functions_alone_or_several():
    halves = functools.partial(fn.f1, average="binary")
    for given, names in (
        (fn.accuracy, ["accuracy"]),
        ("accuracy", ["accuracy"]),
        ([fn.accuracy, "recall"], ["accuracy", "recall"]),
        ((halves, fn.metric(fn.precision, "max")), ["f1", "precision"]),
        ({"share": fn.accuracy}, ["share"]),
        ((), []),
        (None, []),
    ):
        one = fn.training(fn.dense(1), fn.binary_cross_entropy, fn.sgd(0.1), in_shape=(4,), metrics=given)
        values = one.evaluate(one.init(KEY), fn.Dataset(X, LABELS))
        assert list(values) == ["loss", *names]
        assert one.modes == {"loss": "min", **dict.fromkeys(names, "max")}


def test_names_with_settings():
    """A pair alone, among others, and under a name of one's own; a loss's too, also one that a sweep traces."""
    y = (X[:, 0] > 0).astype(int)
    pair = ("f1", {"average": "binary"})
    given = [
        pair,
        (pair, "accuracy"),
        {"own": pair, "weighted": (fn.f1, {"average": "weighted"})},
        [pair, ("calibration_error", {"bins": 5})],
    ]
    names = [["f1"], ["f1", "accuracy"], ["own", "weighted"], ["f1", "calibration_error"]]
    for metrics, expected in zip(given, names, strict=True):
        one = fn.training(fn.dense(1), "binary_cross_entropy", fn.sgd(0.1), in_shape=(4,), metrics=metrics)
        state = one.init(KEY)
        values = one.evaluate(state, fn.Dataset(X, y[:, None]))
        assert set(values) == {"loss", *expected} and set(one.modes) == {"loss", *expected}
        said = np.asarray(one.predict(state, X))[:, 0] > 0
        if expected[0] in ("f1", "own"):
            np.testing.assert_allclose(values[expected[0]], sklearn.metrics.f1_score(y, said), rtol=1e-6)
        if "weighted" in expected:
            np.testing.assert_allclose(values["weighted"], sklearn.metrics.f1_score(y, said, average="weighted"), rtol=1e-6)
        assert {name: mode for name, mode in one.modes.items() if mode == "min"}.keys() <= {"loss", "calibration_error"}

    def recipe(delta=1.0):
        return fn.training(fn.dense(1), ("huber", {"delta": delta}), fn.sgd(0.1), in_shape=(4,), metrics=("median_absolute_error", {}))

    result = fn.sweep(recipe, fn.grid(delta=[0.1, 1.0]), DATA, key=KEY, num_steps=5, batch_size=8, progress=False)
    for row, delta in enumerate([0.1, 1.0]):
        residual = np.abs(np.asarray(result.predict(row, DATA.validation.x)) - DATA.validation.y)
        by_hand = np.where(residual <= delta, residual**2 / 2, delta * (residual - delta / 2)).mean()
        np.testing.assert_allclose(result.table["validation/loss"][row], by_hand, rtol=1e-5)
        np.testing.assert_allclose(result.table["validation/median_absolute_error"][row], np.median(residual), rtol=1e-5)
    assert result.best("validation/median_absolute_error").row in (0, 1)


def test_settings_of_marked_functions_and_without_defaults():
    """A pair of what `metric` or `batch_loss` has marked is still marked, and takes weights; a setting may have no default."""

    def beyond(predictions, targets, limit, *, weights=None):
        far = (jnp.abs(predictions - targets)[:, 0] > limit).astype(jnp.float32)
        return jnp.mean(far) if weights is None else jnp.sum(far * weights) / jnp.sum(weights)

    one = linear(
        metrics={"far": (fn.metric(beyond, mode="min"), {"limit": 0.5}), "one": functools.partial(fn.metric(beyond, "min"), limit=1.0)}
    )
    assert one.modes == {"loss": "min", "far": "min", "one": "min"}
    state = one.init(KEY)
    off = np.abs(np.asarray(one.predict(state, X)) - Y)[:, 0]
    weighed = one.evaluate(state, fn.WeightedDataset(X, Y, (np.arange(50) < 20).astype(np.float32)))
    np.testing.assert_allclose([weighed["far"], weighed["one"]], [np.mean(off[:20] > 0.5), np.mean(off[:20] > 1)], rtol=1e-6)

    def scaled(predictions, targets, *, scale=1.0):
        return scale * jnp.sum((predictions - targets) ** 2)

    for loss in ((fn.batch_loss(scaled), {"scale": 0.5}), functools.partial(fn.batch_loss(scaled), scale=0.5)):
        summed = fn.training(fn.dense(1), loss, fn.sgd(0.1), in_shape=(4,))
        np.testing.assert_allclose(summed.evaluate(state, fn.Dataset(X, Y))["loss"], 0.5 * np.sum(off**2), rtol=1e-5)
    with pytest.raises(TypeError, match="the loss 'scaled' has no setting 'scael'; did you mean 'scale'"):
        fn.training(fn.dense(1), (fn.batch_loss(scaled), {"scael": 0.5}), fn.sgd(0.1), in_shape=(4,))


def test_modes_say_which_way_each_metric_is_better():
    def off(predictions, targets):
        return jnp.max(jnp.abs(predictions - targets))

    given = {"hits": fn.accuracy, "f": functools.partial(fn.f1, average="binary"), "e": fn.mean_absolute_error, "off": off}
    assert linear(metrics=given).modes == {"loss": "min", "hits": "max", "f": "max", "e": "min"}
    assert linear(metrics=given | {"off": fn.metric(off, mode="min")}).modes["off"] == "min"


def test_metrics_are_those_of_the_examples_seen():
    """With weights, as with num_examples, each metric is what it is of the examples that count."""
    metrics = {
        "accuracy": fn.accuracy,
        "f": fn.metric(functools.partial(fn.f1, average="binary"), "max"),
        "error": lambda predictions, targets, weights=None: fn.mean_squared_error(predictions[:, 0], targets, weights=weights),
    }
    one = fn.training(fn.mlp((5, 1), "tanh"), fn.binary_cross_entropy, fn.sgd(0.1), in_shape=(4,), metrics=metrics)
    state = one.init(KEY)
    seen = np.arange(50) % 3 > 0
    values = jax.jit(one.evaluate)(state, fn.WeightedDataset(X, LABELS, seen.astype(np.float32)))
    assert_close(values, one.evaluate(state, fn.Dataset(X[seen], LABELS[seen])))


def test_a_metric_without_weights_is_left_out_with_a_word():
    worst = lambda predictions, targets: jnp.max(jnp.abs(predictions - targets))
    one = linear(metrics={"worst": worst, "error": fn.mean_absolute_error})
    state, counted = one.init(KEY), fn.WeightedDataset(X, Y, np.ones(50))
    with pytest.warns(RuntimeWarning, match=r"evaluate: a metric must take weights=None, .*num_examples.*, got 'worst' without; left out"):
        values = one.evaluate(state, counted)
    assert list(values) == ["loss", "error"]
    assert list(one.evaluate(state, fn.Dataset(X, Y))) == ["loss", "worst", "error"]
    weighed = linear(metrics={"worst": lambda predictions, targets, weights=None: worst(predictions, targets)})
    assert list(weighed.evaluate(state, counted)) == ["loss", "worst"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_many_examples_of_few_bits_have_a_finite_weighted_loss(dtype):
    one = fn.training(fn.dense(1), fn.squared_error, fn.sgd(0.1), in_shape=(4,))
    x = np.tile(X, (1400, 1)).astype(dtype)
    data = fn.WeightedDataset(x, np.ones(70_000, dtype), np.ones(70_000, np.float32))
    state = one.init(KEY)
    loss = one.evaluate(state, data)["loss"]
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, one.evaluate(state, fn.Dataset(X, np.ones(50, np.float32)))["loss"], rtol=1e-2)


@pytest.mark.parametrize("loss", [fn.cross_entropy, lambda logits, target: 2 * fn.cross_entropy(logits, target)], ids=["bare", "wrapped"])
def test_labels_are_checked_before_training_in_fit_and_sweep(loss):
    labels = np.arange(50) % 3
    recipe = lambda rate: fn.training(fn.dense(3), loss, fn.sgd(rate), in_shape=(4,))
    run_sweep = lambda y: fn.sweep(recipe, fn.grid(rate=[0.1, 0.2]), fn.Dataset(X, y), key=KEY, num_steps=1, batch_size=4, progress=False)
    for run in (lambda y: run_fit(fn.Dataset(X, y), recipe(0.1)), run_sweep):
        with pytest.raises(ValueError, match="3 in row 49"):
            run(np.append(labels[:-1], 3))
    with pytest.raises(ValueError, match="3 in row 9"):
        run_fit(fn.Split(fn.Dataset(X, labels), fn.Dataset(X[:10], np.append(labels[:9], 3))), recipe(0.1))
    assert np.all(run_sweep(labels).table["status"] == "completed")


def test_float16_examples_are_trained_on_in_float32():
    """Sums of squares of digits x 64 don't fit in float16: it diverged at every rate."""
    x = np.round(64 * np.random.default_rng(3).uniform(0, 16, (60, 64))).astype(np.float16)
    y = (x[:, :3].argmax(1)).astype(np.int32)

    def run(x):
        one = fn.training(fn.serial(fn.layer_norm(), fn.mlp((8, 3))), fn.cross_entropy, fn.adam(1e-2), in_shape=(64,))
        fitted = fn.fit(one, fn.Dataset(x, y), key=KEY, num_steps=5, batch_size=16)
        return fitted, one.predict(fitted.state, x), one.evaluate(fitted.state, fn.Dataset(x, y))

    low, high = run(x), run(x.astype(np.float32))
    assert_same_bits(low, high)
    asked = fn.serial(fn.Layer(lambda key, in_shape: (), lambda params, x, *, key=None: x.astype(jnp.float16)), fn.dense(3))
    assert (
        fn.training(asked, fn.cross_entropy, fn.sgd(0.1), in_shape=(64,))
        .predict(fn.TrainState([(), {"weight": jnp.ones((3, 64)), "bias": jnp.ones(3)}], (), 0), x)
        .dtype
        == np.float16
    )


def test_validation_losses_of_bfloat16_data_differ_as_in_float32():
    """They are reported in float32: 24 variants had 4 different ones."""
    parts = fn.Split(fn.Dataset(X[:40], Y[:40]), fn.Dataset(X[40:], Y[40:]))
    short = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), parts)
    recipe = lambda rate: fn.training(fn.dense(1), fn.squared_error, fn.sgd(rate), in_shape=(4,), metrics="r2")
    variants = fn.grid(rate=list(np.linspace(0.01, 0.011, 24)))
    result = fn.sweep(recipe, variants, short, key=KEY, num_steps=20, batch_size=8, progress=False)
    for name in ("train/loss", "validation/loss", "validation/r2"):
        assert result.table[name].dtype.itemsize >= 4 and len(np.unique(result.table[name])) > 20, name


@pytest.mark.parametrize("name", fn.LOSSES)
def test_healthy_training_raises_nothing_under_debug_nans(name):
    """Of every loss, behind one layer; of metrics, dropout and what normalises with a loss of labels and one of numbers."""
    label = X[:, :3].argmax(1)
    rows = {"binary_cross_entropy": np.eye(3)[label], "kl_divergence": np.eye(3)[label], "poisson": np.floor(np.exp(X[:, :3]))}
    y = {"cross_entropy": label, "hinge": label, "focal": label, **rows}.get(name, X[:, :3])
    model, metrics = fn.dense(3), ()
    if name in ("cross_entropy", "squared_error"):
        model = fn.serial(fn.mlp((8, 3), dropout=0.2), fn.layer_norm())
        metrics = ["accuracy", "top_k_accuracy", "f1"] if y.ndim == 1 else ["r2", "mean_absolute_error"]
    one = fn.training(model, name, fn.adam(1e-2), in_shape=(4,), metrics=metrics)
    with jax.debug_nans(True):
        fitted = fn.fit(one, fn.Dataset(X, y), key=KEY, num_steps=2, batch_size=8, eval_every=1)
        values = one.evaluate(fitted.state, fn.Dataset(X, y)) | one.evaluate(fitted.state, fn.WeightedDataset(X, y, np.arange(50.0) % 2))
        norms = fn.gradient_norms(model, fitted.state.params, name, fn.Dataset(jnp.asarray(X), jnp.asarray(y)))
    assert all(np.isfinite(value) for value in values.values()) and np.all(np.isfinite(norms))


# fit.


def test_fit_learns_and_its_curves_are_evaluations():
    """Down to the noise: the loss of the least squares solution, which NumPy finds."""
    line = linear(0.02, metrics=["r2"])
    result = fn.fit(line, DATA, key=KEY, num_steps=95, batch_size=10, eval_every=20)
    np.testing.assert_array_equal(result.curves["step"], [20, 40, 60, 80, 95])
    assert set(result.curves) == {"step", "train/loss", "train/r2", "validation/loss", "validation/r2"}
    x = np.column_stack([DATA.train.x, np.ones(40)])
    _, (squares,), *_ = np.linalg.lstsq(x, DATA.train.y, rcond=None)
    assert squares / 40 < result.curves["train/loss"][-1] < 1.2 * squares / 40 < result.curves["train/loss"][0]
    values = line.evaluate(result.state, DATA.validation)
    for name, value in values.items():
        np.testing.assert_allclose(result.curves[f"validation/{name}"][-1], value, rtol=1e-5)
    early = fn.fit(line, DATA, key=KEY, num_steps=40, batch_size=10)
    np.testing.assert_allclose(early.curves["train/loss"], result.curves["train/loss"][1:2], rtol=1e-5)


def test_fit_meets_the_minibatches_it_should():
    """A training whose state records what it is given."""

    def step(seen, batch, key):
        return seen.at[batch.y].add(1), {"loss": jnp.sum(batch.x)}

    count = fn.Training(lambda key: jnp.zeros(12, jnp.int32), step, lambda seen, dataset: {"loss": jnp.sum(seen).astype(jnp.float32)})
    data = fn.Dataset(np.ones(12), np.arange(12))
    for steps, expected in ((3, 1), (9, 3)):
        np.testing.assert_array_equal(fn.fit(count, data, key=KEY, num_steps=steps, batch_size=4).state, [expected] * 12)
    np.testing.assert_array_equal(fn.fit(count, data, key=KEY, num_steps=2, batch_size=None).state, [2] * 12)


def test_every_step_draws_anew_and_the_initial_draws_apart():
    """A training whose state records the keys it is given."""

    def init(key):
        return jnp.zeros((6, 2), jnp.uint32).at[5].set(jax.random.key_data(key)), jnp.zeros((), jnp.int32)

    def step(state, batch, key):
        keys, count = state
        return (keys.at[count].set(jax.random.key_data(key)), count + 1), {}

    record = fn.Training(init, step, lambda state, dataset: {"count": state[1]})
    for eval_every in (None, 2):
        keys, count = fn.fit(record, DATA, key=KEY, num_steps=5, batch_size=None, eval_every=eval_every).state
        assert count == 5 and len({tuple(key) for key in keys.tolist()}) == 6


def test_fit_takes_traced_data():
    def run(x):
        return fn.fit(linear(0.03), fn.Dataset(x, Y), key=KEY, num_steps=10, batch_size=None, eval_every=5)

    assert_close(jax.jit(run)(X), run(X))
    slope = jax.grad(lambda scale: run(scale * X).curves["train/loss"][-1])(jnp.float32(1))
    h = np.float32(1e-2)
    ahead, behind = (run((1 + sign * h) * X).curves["train/loss"][-1] for sign in (1, -1))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-2)


def test_fit_is_a_pure_function_jitted_or_mapped():
    def run(learning_rate, key):
        return fn.fit(linear(learning_rate), DATA, key=key, num_steps=30, batch_size=8, eval_every=10)

    rates, keys = jnp.array([0.01, 0.1]), jax.random.split(KEY, 2)
    eager, jitted = run(rates[1], keys[1]), jax.jit(run)(rates[1], keys[1])
    assert_close(jitted, eager)
    mapped = jax.jit(jax.vmap(run))(rates, keys)
    assert_close(jax.tree.map(lambda leaf: leaf[1], mapped), eager)


def test_fit_can_be_differentiated_by_hyperparameters():
    """The validation loss after 20 steps of Adam with dropout, by learning rate and L2, against central differences."""
    with jax.enable_x64(True):
        data = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), DATA)

        @jax.jit
        @functools.partial(jax.value_and_grad, argnums=(0, 1))
        def final_loss(log_rate, log_l2):
            training = fn.training(
                fn.mlp((5, 1), "tanh", 0.1), fn.squared_error, fn.adam(jnp.exp(log_rate)), in_shape=(4,), penalty=fn.l2(jnp.exp(log_l2))
            )
            return fn.fit(training, data, key=KEY, num_steps=20, batch_size=8).curves["validation/loss"][-1]

        at = (jnp.log(0.02), jnp.log(0.03))
        _, gradient = final_loss(*at)
        h = 1e-5
        for i, slope in enumerate(gradient):
            ahead, behind = ([value + sign * h * (j == i) for j, value in enumerate(at)] for sign in (1, -1))
            np.testing.assert_allclose(slope, (final_loss(*ahead)[0] - final_loss(*behind)[0]) / (2 * h), rtol=1e-5)
            assert abs(slope) > 1e-4


def test_a_run_that_diverges_is_frozen_at_its_last_finite_state():
    fine = fn.fit(linear(0.1), DATA, key=KEY, num_steps=20, batch_size=10, eval_every=5)
    wild = fn.fit(linear(1e9), DATA, key=KEY, num_steps=20, batch_size=10, eval_every=5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((fine, wild.state)))
    assert wild.state.step < 20
    assert np.all(np.isnan(wild.curves["train/loss"][1:]))


def test_any_triple_of_functions_will_do():
    triple = (lambda key: jnp.zeros(()), lambda w, batch, key: (w + 1, {}), lambda w, data: {"loss": w})
    assert fn.fit(triple, DATA, key=KEY, num_steps=7, batch_size=4).state == 7


def test_evaluation_steps():
    assert evaluation_steps(10, 3) == [3, 6, 9, 10] and evaluation_steps(9, 3) == [3, 6, 9] and evaluation_steps(2, 5) == [2]


def run_fit(data=DATA, training=None, **settings):
    """Checked and traced as ever; nothing is compiled."""
    settings = dict(key=KEY, num_steps=3, batch_size=4) | settings
    return jax.eval_shape(lambda: fn.fit(linear() if training is None else training, data, **settings))


def fn_training(width, loss, **settings):
    return fn.training(fn.dense(width), loss, fn.sgd(0.1), in_shape=(4,), **settings)


def own_loss(width, **settings):
    """A loss of one's own, which takes any target."""
    return fn_training(width, lambda prediction, target: jnp.mean(prediction**2), **settings)


def classifier():
    return fn.training(fn.dense(3), fn.cross_entropy, fn.sgd(0.1), in_shape=(4,))


BAD = {
    "no steps": (lambda: run_fit(num_steps=0), ValueError, "fit: num_steps must be at least 1, got 0", lambda: run_fit(num_steps=1)),
    "half a step": (
        lambda: run_fit(num_steps=1.5),
        TypeError,
        "fit: num_steps must be a whole number, got 1.5",
        lambda: run_fit(num_steps=1),
    ),
    "batch": (
        lambda: run_fit(batch_size=41),
        ValueError,
        "fit: batch_size must be at most the 40 examples to train on, got 41; batch_size=None takes them all",
        lambda: run_fit(batch_size=None),
    ),
    "no batch": (lambda: run_fit(batch_size=0), ValueError, "fit: batch_size must be at least 1, got 0", lambda: run_fit(batch_size=1)),
    "eval_every": (lambda: run_fit(eval_every=0), ValueError, "fit: eval_every must be at least 1, got 0", lambda: run_fit(eval_every=1)),
    "axes": (
        lambda: run_fit(fn.Dataset(X[:, 0], Y), fn.training(fn.dense(1), fn.squared_error, fn.sgd(0.1), in_shape=(1,))),
        ValueError,
        r"each example must have in_shape \(1,\), got \(\); x\[:, None\] gives every example one axis",
        lambda: run_fit(fn.Dataset(X[:, :1], Y), fn.training(fn.dense(1), fn.squared_error, fn.sgd(0.1), in_shape=(1,))),
    ),
    "features": (
        lambda: run_fit(fn.Dataset(X[:, :3], Y)),
        ValueError,
        r"each example must have in_shape \(4,\), got \(3,\); say so with training\(..., in_shape=\)",
        run_fit,
    ),
    "target shape": (
        lambda: run_fit(fn.Dataset(X, X)),
        ValueError,
        r"squared_error: each target must have the shape of the model's output, \(1,\), got \(4,\)",
        run_fit,
    ),
    "label too large": (
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 4), classifier()),
        ValueError,
        r"labels must be in \[0, 2\], as the model has 3 outputs, got 3 in row 3; number the classes from 0, or widen",
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 3), classifier()),
    ),
    "label negative": (
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 3 - 1), classifier()),
        ValueError,
        r"labels must be in \[0, 2\], as the model has 3 outputs, got -1 in row 0",
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 3), classifier()),
    ),
    "label dtype": (
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 3 + 0.0), classifier()),
        TypeError,
        r"labels must be integers, got float32; such as y.astype\(int\)",
        lambda: run_fit(fn.Dataset(X, (np.arange(50) % 3 + 0.0).astype(int)), classifier()),
    ),
    "not a distribution": (
        lambda: run_fit(fn.Dataset(X, X[:, :3]), classifier()),
        ValueError,
        "each row of y must be a distribution, got one that is negative or doesn't sum to 1",
        lambda: run_fit(fn.Dataset(X, fn.one_hot(np.arange(50) % 3, 3)), classifier()),
    ),
    "not a triple": (
        lambda: run_fit(training=(1, 2)),
        TypeError,
        r"fit: a training must be a triple of functions \(init, step, evaluate\), got tuple of 2; training\(...\) makes one",
        run_fit,
    ),
    "optimizer by name": (
        lambda: fn.training(fn.dense(1), "squared_error", "adam", in_shape=(4,)),
        TypeError,
        r"training: needs an object with init and update, got 'adam'; such as adam\(1e-3\)",
        lambda: fn.training(fn.dense(1), "squared_error", fn.optimizer("adam", 1e-3), in_shape=(4,)),
    ),
    "metric": (
        lambda: linear(metrics=["acuracy"]),
        ValueError,
        "training: unknown metric 'acuracy'; did you mean 'accuracy'",
        lambda: linear(metrics=["accuracy"]),
    ),
    "metric twice": (
        lambda: linear(metrics=[fn.f1, functools.partial(fn.f1, average="binary")]),
        ValueError,
        "training: every metric must have a name of its own, got 'f1' twice; give a dict of name to function",
        lambda: linear(metrics={"f1": fn.f1, "binary": functools.partial(fn.f1, average="binary")}),
    ),
    "setting": (
        lambda: linear(metrics=[("f1", {"avrage": "binary"})]),
        TypeError,
        "training: the metric 'f1' has no setting 'avrage'; did you mean 'average'",
        lambda: linear(metrics=[("f1", {"average": "binary"})]),
    ),
    "settings that are no dict": (
        lambda: linear(metrics=[("f1", "binary")]),
        TypeError,
        r"training: a metric with settings must be a pair of a name or function and a dict, got \('f1', 'binary'\); such as",
        lambda: linear(metrics=[("f1", {"average": "binary"})]),
    ),
    "metric with settings": (
        lambda: linear(metrics=[("recal", {"average": "binary"})]),
        ValueError,
        "training: unknown metric 'recal'; did you mean 'recall'",
        lambda: linear(metrics=[("recall", {"average": "binary"})]),
    ),
    "setting of a loss": (
        lambda: fn.training(fn.dense(1), ("huber", {"delt": 0.3}), fn.sgd(0.1), in_shape=(4,)),
        TypeError,
        "training: the loss 'huber' has no setting 'delt'; did you mean 'delta'",
        lambda: fn.training(fn.dense(1), ("huber", {"delta": 0.3}), fn.sgd(0.1), in_shape=(4,)),
    ),
    "metric without a name": (
        lambda: linear(metrics=lambda predictions, targets: 0),
        ValueError,
        'training: a metric must have a name, got a function without one; such as metrics={"worst": function}',
        lambda: linear(metrics={"worst": lambda predictions, targets: 0}),
    ),
    "scikit-learn's metric": (
        lambda: linear(metrics=[functools.partial(sklearn.metrics.f1_score, average="macro")]),
        TypeError,
        "training: the metric 'f1_score' must be written in jax.numpy, got scikit-learn's; as those of METRICS are",
        lambda: linear(metrics=fn.f1),
    ),
    "scikit-learn's metric inside": (
        lambda: run_fit(training=linear(metrics={"r": lambda p, t: sklearn.metrics.r2_score(t, p)})),
        TypeError,
        "evaluate: the metric 'r' must be written in jax.numpy, got TracerArrayConversionError: .*; as those of METRICS are",
        lambda: run_fit(training=linear(metrics={"r": fn.r2})),
    ),
    "labels out of a metric's range": (
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 4), own_loss(3, metrics=[fn.accuracy])),
        ValueError,
        r"accuracy: labels must be in \[0, 2\], as the model has 3 outputs, got 3 in row 3; number the classes from 0",
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 3), own_loss(3, metrics=[fn.accuracy])),
    ),
    "broken labels": (
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 3 + 0.5), own_loss(3, metrics="f1")),
        ValueError,
        r"f1: labels must be in \[0, 2\], as the model has 3 outputs, got 0.5 in row 0",
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 3 + 0.0), own_loss(3, metrics="f1")),
    ),
    "no sides": (
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 3), own_loss(1, metrics={"p": fn.metric(fn.precision, "max")})),
        ValueError,
        "precision: with one logit, each target must be 0 or 1, or all of them -1 or 1, or probabilities, got 2 in row 2",
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 2), own_loss(1, metrics={"p": fn.metric(fn.precision, "max")})),
    ),
    "sides of both kinds": (
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 3 - 1), own_loss(1, metrics="accuracy")),
        ValueError,
        "accuracy: with one logit, each target must be 0 or 1, or all of them -1 or 1, or probabilities, got -1 in row 0",
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 2 * 2 - 1), own_loss(1, metrics="accuracy")),
    ),
    "one-hot rows for a metric": (
        lambda: run_fit(fn.Dataset(X, fn.one_hot(np.arange(50) % 3, 3)), fn_training(3, fn.cross_entropy, metrics="accuracy")),
        ValueError,
        r"accuracy: each target must be one label, got shape \(3,\); not a one-hot row",
        lambda: run_fit(fn.Dataset(X, np.arange(50) % 3), fn_training(3, fn.cross_entropy, metrics="accuracy")),
    ),
    "top k of one logit": (
        lambda: run_fit(fn.Dataset(X, LABELS), fn_training(1, fn.binary_cross_entropy, metrics="top_k_accuracy")),
        ValueError,
        r"top_k_accuracy: the model's output must have shape \(classes,\), got \(1,\)",
        lambda: run_fit(fn.Dataset(X, LABELS), fn_training(3, fn.cross_entropy, metrics="top_k_accuracy")),
    ),
    "numbers for another metric": (
        lambda: run_fit(fn.Dataset(X, LABELS), fn_training(3, fn.cross_entropy, metrics="r2")),
        ValueError,
        r"r2: each target must have the shape of the model's output, \(3,\), got \(\)",
        lambda: run_fit(fn.Dataset(X, LABELS), fn_training(3, fn.cross_entropy, metrics="recall")),
    ),
    "loss": (
        lambda: fn.training(fn.dense(1), "squared_eror", fn.sgd(0.1), in_shape=(4,)),
        ValueError,
        "training: unknown loss 'squared_eror'; did you mean 'squared_error'",
        lambda: fn.training(fn.dense(1), "squared_error", fn.sgd(0.1), in_shape=(4,)),
    ),
    "a metric called loss": (
        lambda: linear(metrics={"loss": fn.r2}),
        ValueError,
        "training: a metric must have a name of its own, got 'loss'",
        lambda: linear(metrics={"score": fn.r2}),
    ),
    "model": (
        lambda: fn.training(fn.dense, "squared_error", fn.sgd(0.1), in_shape=(4,)),
        TypeError,
        "training: needs an object with init and apply",
        lambda: fn.training(fn.dense(1), "squared_error", fn.sgd(0.1), in_shape=(4,)),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    wrong, error, match, right = BAD[name]
    with pytest.raises(error, match=match):
        wrong()
    right()


def test_targets_of_binary_and_hinge_losses_are_checked():
    def run(loss, y, width=1):
        return run_fit(fn.Dataset(X, y), fn.training(fn.dense(width), loss, fn.sgd(0.1), in_shape=(4,)))

    sides = np.where(X[:, 0] > 0, 1, -1)
    with pytest.raises(ValueError, match=r"binary_cross_entropy: targets must be in \[0, 1\], got -1 in row"):
        run("binary_cross_entropy", sides)
    run("binary_cross_entropy", (sides + 1) // 2)
    with pytest.raises(ValueError, match=r"hinge: targets must be -1 or 1, got 0 in row \d+; such as 2 \* y - 1"):
        run("hinge", (sides + 1) // 2)
    run("hinge", sides)
    with pytest.raises(ValueError, match=r"hinge: labels must be in \[0, 1\]"):
        run("hinge", sides, width=2)
    run("hinge", (sides + 1) // 2, width=2)


def test_evaluation_holds_the_layers_of_a_batch_not_of_the_whole_set():
    wide = fn.training(fn.mlp((512, 1)), fn.squared_error, fn.sgd(0.1), in_shape=(4,))
    data = fn.Dataset(jax.ShapeDtypeStruct((40_000, 4), jnp.float32), jax.ShapeDtypeStruct((40_000, 1), jnp.float32))
    state = jax.eval_shape(wide.init, jax.random.key(0))
    layer = 4 * 512 * len(data.x)  # bytes, for all examples
    assert jax.jit(wide.evaluate).lower(state, data).compile().memory_analysis().temp_size_in_bytes < layer / 10


def test_a_training_is_a_triple_whose_further_fields_a_replace_keeps():
    base = fn.training(fn.dense(3), "cross_entropy", fn.sgd(0.1), in_shape=(2,))
    init, step, evaluate = base
    assert (init, step, evaluate) == tuple(base) and len(base) == 3
    wrapped = base._replace(step=lambda state, batch, key: base.step(state, batch, key))
    assert wrapped.predict is base.predict and wrapped.modes == base.modes and wrapped.step is not base.step
    bad = fn.Dataset(np.ones((4, 2), np.float32), np.array([0, 1, 2, 3]))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\].*got 3 in row 3"):
        fn.fit(wrapped, bad, key=jax.random.key(0), num_steps=1, batch_size=2)


# Losses that take a key, a pytree of predictions, or the whole batch.


def noisy(prediction, target, *, key=None):
    noise = 0 if key is None else jax.random.normal(key, prediction.shape)
    return jnp.mean((prediction + noise - target) ** 2)


def two_headed(rate=0.1):
    """A mean and the logarithm of a scale, whose loss is the negative log likelihood of a Gaussian."""
    heads = fn.dense(2)

    def apply(params, x, *, key=None):
        mean, log_scale = heads.apply(params, x)
        return {"mean": mean, "log_scale": log_scale}

    return fn.training(fn.Layer(heads.init, apply), gaussian, fn.adam(rate), in_shape=(4,), metrics={"off": far_off})


def gaussian(prediction, target):
    return prediction["log_scale"] + (prediction["mean"] - target[0]) ** 2 / (2 * jnp.exp(2 * prediction["log_scale"]))


def far_off(predictions, targets, *, weights=None):
    return jnp.max(jnp.abs(predictions["mean"] - targets[:, 0]) * (1 if weights is None else weights))


def misordered(predictions, targets, *, weights=None):
    """A smooth share of the pairs in the wrong order: 1 - the area under the ROC curve, with a sigmoid for a step."""
    scores, counts = predictions[:, 0], jnp.ones(len(targets)) if weights is None else weights
    pairs = (targets[:, None] > targets[None]).astype(counts.dtype) * counts[:, None] * counts[None]
    return jnp.sum(pairs * jax.nn.sigmoid(scores[None] - scores[:, None])) / jnp.maximum(jnp.sum(pairs), 1)  # may be of one class


SIGNS = (Y[:, 0] > 0).astype(int)
PARTS = fn.Split(fn.Dataset(X[:40], SIGNS[:40]), fn.Dataset(X[40:], SIGNS[40:]))


def ranking(rate=0.1, loss=misordered):
    return fn.training(fn.dense(1), fn.batch_loss(loss), fn.sgd(rate), in_shape=(4,), metrics=["roc_auc"])


def keyed(rate=0.1):
    return fn.training(fn.dense(1), noisy, fn.sgd(rate), in_shape=(4,))


def test_a_loss_with_a_key_has_one_for_each_example_in_training_alone():
    one = keyed()
    state, key = one.init(KEY), jax.random.key(5)
    said = np.asarray(one.predict(state, X[:8]))
    keys = jax.random.split(jax.random.fold_in(key, 0x6C6F7373), 8)
    noise = np.stack([jax.random.normal(each, (1,)) for each in keys])
    assert len(np.unique(noise)) == 8
    for run in (one.step, jax.jit(one.step)):
        _, metrics = run(state, fn.Dataset(X[:8], Y[:8]), key)
        np.testing.assert_allclose(metrics["loss"], np.mean((said + noise - Y[:8]) ** 2), rtol=1e-5)
    np.testing.assert_allclose(one.evaluate(state, fn.Dataset(X[:8], Y[:8]))["loss"], np.mean((said - Y[:8]) ** 2), rtol=1e-5)
    both = jax.vmap(lambda key: one.step(state, fn.Dataset(X[:8], Y[:8]), key)[1]["loss"])(jnp.stack([key, jax.random.key(6)]))
    np.testing.assert_allclose(both[0], np.mean((said + noise - Y[:8]) ** 2), rtol=1e-5)
    assert both[0] != both[1]


def test_a_pytree_of_predictions():
    one = two_headed()
    state = one.init(KEY)
    many = np.tile(X, (40, 1))  # evaluated in several parts
    weight, bias = (np.asarray(state.params[name], np.float64) for name in ("weight", "bias"))
    mean, log_scale = (many @ weight.T + bias).T
    said = one.predict(state, many)
    np.testing.assert_allclose(said["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(said["log_scale"], log_scale, rtol=1e-4, atol=1e-5)
    assert jax.tree.map(jnp.shape, one.predict(state, many[:0])) == {"mean": (0,), "log_scale": (0,)}
    y = np.tile(Y, (40, 1))
    values = one.evaluate(state, fn.Dataset(many, y))
    np.testing.assert_allclose(values["loss"], np.mean(log_scale + (mean - y[:, 0]) ** 2 / (2 * np.exp(2 * log_scale))), rtol=1e-4)
    np.testing.assert_allclose(values["off"], np.max(np.abs(mean - y[:, 0])), rtol=1e-4)
    fitted = fn.fit(one, DATA, key=KEY, num_steps=300, batch_size=16, eval_every=100)
    assert fitted.curves["train/loss"][-1] < fitted.curves["train/loss"][0] - 0.3


def test_a_loss_that_sees_the_batch():
    """In value and gradient that of the batch; in evaluation that of the set; with weights that of the examples seen."""
    one = ranking()
    state = one.init(KEY)

    def scores(params, x):
        return x @ params["weight"].T + params["bias"][None]

    by_hand = jax.value_and_grad(lambda params: misordered(scores(params, X[:16]), jnp.asarray(SIGNS[:16])))(state.params)
    after, metrics = jax.jit(one.step)(state, fn.Dataset(X[:16], SIGNS[:16]), KEY)
    np.testing.assert_allclose(metrics["loss"], by_hand[0], rtol=1e-5)
    np.testing.assert_allclose(after.params["weight"], state.params["weight"] - 0.1 * by_hand[1]["weight"], rtol=1e-5)
    whole = misordered(scores(state.params, X), jnp.asarray(SIGNS))
    np.testing.assert_allclose(one.evaluate(state, fn.Dataset(X, SIGNS))["loss"], whole, rtol=1e-5)
    weighed = one.evaluate(state, fn.WeightedDataset(X, SIGNS, (np.arange(50) < 16).astype(np.float32)))
    np.testing.assert_allclose(weighed["loss"], by_hand[0], rtol=1e-5)


@pytest.mark.parametrize("recipe, data", [(keyed, DATA), (two_headed, DATA), (ranking, PARTS)])
def test_such_losses_in_a_sweep(recipe, data):
    """Each row is what fit gives; the lanes train together."""
    rates = [0.01, 0.1, 0.2]
    fit = jax.jit(lambda rate: fn.fit(recipe(rate), data, key=jax.random.fold_in(KEY, 0), num_steps=20, batch_size=8))
    result = fn.sweep(recipe, fn.grid(rate=rates), data, key=KEY, num_steps=20, batch_size=8, progress=False)
    for row, rate in enumerate(rates):
        alone = fit(rate)
        for name in ("train/loss", "validation/loss"):
            np.testing.assert_allclose(result.table[name][row], alone.curves[name][-1], rtol=1e-4)
    assert len(np.unique(result.table["validation/loss"])) == 3 and set(result.table["status"]) == {"completed"}


def test_a_batch_loss_among_num_examples():
    variants = [{"num_examples": 16}, {"num_examples": 40}]
    result = fn.sweep(ranking, variants, PARTS, key=KEY, num_steps=5, batch_size=None, progress=False)
    first = fn.fit(
        ranking(), PARTS._replace(train=fn.Dataset(X[:16], SIGNS[:16])), key=jax.random.fold_in(KEY, 0), num_steps=5, batch_size=None
    )
    np.testing.assert_allclose(result.table["train/loss"][0], first.curves["train/loss"][-1], rtol=1e-4)


def plain(predictions, targets):
    return jnp.mean((predictions[:, 0] - targets.astype(jnp.float32)) ** 2)


@mistakes(
    {
        "no function": (
            lambda: fn.batch_loss("contrastive"),
            TypeError,
            r"batch_loss: fn must be a function of \(predictions, targets\), got 'contrastive'",
            lambda: fn.batch_loss(misordered),
        ),
        "weights": (
            lambda: ranking(loss=plain).evaluate(ranking().init(KEY), fn.WeightedDataset(X, SIGNS, np.ones(50, np.float32))),
            TypeError,
            "training: a loss that sees the batch must take weights=None where examples are weighted.*, got plain without",
            lambda: ranking().evaluate(ranking().init(KEY), fn.WeightedDataset(X, SIGNS, np.ones(50, np.float32))),
        ),
        "one for each example": (
            lambda: ranking(loss=lambda p, t: p[:, 0]).evaluate(ranking().init(KEY), PARTS.train),
            ValueError,
            r"training: a loss that sees the batch must give one number for it, got shape \(40,\); such as the mean",
            lambda: ranking(loss=plain).evaluate(ranking().init(KEY), PARTS.train),
        ),
        "a loss of one array": (
            lambda: two_with({}, ("huber", {"delta": 0.5})).evaluate(two_headed().init(KEY), DATA.train),
            TypeError,
            "training: a loss of LOSSES takes one array of predictions, got tuple; a function of your own can pick one of them",
            lambda: two_with({}).evaluate(two_headed().init(KEY), DATA.train),
        ),
        "a metric of one array": (
            lambda: run_fit(training=two_headed()._replace(check_data=two_with("r2").check_data)),
            TypeError,
            "training: the metric 'r2' takes one array of predictions, got a model that gives several; a function of your own",
            lambda: run_fit(training=two_headed()),
        ),
    }
)
def test_mistakes_of_such_losses(mistake):
    check_mistake(mistake)


def two_with(metric, loss=lambda p, t: (p[0] - t[0]) ** 2):
    model = fn.Layer(fn.dense(2).init, lambda params, x, *, key=None: tuple(fn.dense(2).apply(params, x)))
    return fn.training(model, loss, fn.sgd(0.1), in_shape=(4,), metrics=metric)
