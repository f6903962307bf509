"""Training of any objective, and from given parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from properties import assert_close, check_mistake, mistakes

import funcnet as fn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
DATA = fn.split(fn.Dataset(X, Y), key=jax.random.key(0))
MODEL = fn.mlp((5, 2), "tanh", 0.2)
RUN = dict(key=jax.random.key(1), num_steps=12, batch_size=8)


def supervised(learning_rate, l2=0.01):
    return fn.training(MODEL, fn.cross_entropy, fn.adam(learning_rate), in_shape=(4,), penalty=fn.l2(l2))


def by_objective(learning_rate, l2=0.01):
    """The same, of its parts; evaluation has no penalty."""
    own = lambda params, dataset: {"loss": fn.penalized(MODEL, fn.cross_entropy)(params, dataset)}
    init = lambda key: MODEL.init(key, (4,))
    return fn.minimization(init, fn.penalized(MODEL, fn.cross_entropy, fn.l2(l2)), fn.adam(learning_rate), own)


def test_it_trains_as_the_supervised_training_of_the_same_objective():
    one, other = (fn.fit(recipe(0.02), DATA, **RUN) for recipe in (supervised, by_objective))
    jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
    assert_close(one.curves, other.curves)


def test_variants_of_an_objective_in_a_sweep():
    grid = fn.grid(learning_rate=[0.01, 0.1], l2=[0.0, 0.1])
    one, other = (fn.sweep(recipe, grid, DATA, progress=False, **RUN) for recipe in (supervised, by_objective))
    assert other.best().row == one.best().row and len(other.timing["lane_widths"]) == 1
    np.testing.assert_allclose(other.table["validation/loss"], one.table["validation/loss"], rtol=1e-5)


def quadratic(matrix, noise=0.0):
    """Half of (p - 1)' matrix (p - 1), whose minimum is at 1, and noise if there is a key."""

    def objective(params, batch, key=None):
        away = params["p"] - 1
        draw = 0.0 if key is None else noise * jnp.sum(jax.random.normal(key, away.shape) * away)
        return 0.5 * away @ matrix @ away + draw, {"distance": jnp.max(jnp.abs(away))}

    return objective


def test_it_comes_to_the_minimum_and_reports_metrics():
    training = fn.minimization(lambda key: {"p": jax.random.normal(key, (2,))}, quadratic(jnp.diag(jnp.array([1.0, 3.0]))), fn.sgd(0.3))
    fitted = fn.fit(training, DATA, key=jax.random.key(3), num_steps=60, batch_size=None, eval_every=20)
    np.testing.assert_allclose(fitted.state.params["p"], 1, atol=1e-5)
    assert {"train/loss", "train/distance", "validation/distance"} <= set(fitted.curves)
    state, metrics = training.step(training.init(jax.random.key(0)), DATA.train, jax.random.key(0))
    assert sorted(metrics) == ["distance", "loss"] and state.step == 1


def test_an_objective_with_a_key_gets_the_steps_and_evaluation_has_none():
    matrix = jnp.eye(2)
    training = fn.minimization(lambda key: {"p": jnp.zeros(2)}, quadratic(matrix, 1.0), fn.sgd(1.0))
    start, key = training.init(jax.random.key(0)), jax.random.key(7)
    state, _ = training.step(start, DATA.train, key)
    np.testing.assert_allclose(state.params["p"], 1 - jax.random.normal(key, (2,)), rtol=1e-6)  # a step of 1 minus the noise's slope
    assert float(training.evaluate(start, DATA.train)["loss"]) == 1.0


def test_a_line_search_sees_the_objective():
    """Its `value_fn` is the loss alone, of the same batch and key."""
    seen = {}

    def update(grads, state, params=None, *, value, grad, value_fn):
        seen.update(value=value, again=value_fn(params), grad=grad)
        return jax.tree.map(jnp.negative, grads), state

    training = fn.minimization(lambda key: {"p": jnp.zeros(2)}, quadratic(jnp.eye(2), 0.5), fn.Optimizer(lambda params: (), update))
    training.step(training.init(jax.random.key(0)), DATA.train, jax.random.key(7))
    assert seen["value"] == seen["again"] and seen["again"].shape == () and seen["grad"]["p"].shape == (2,)


def test_predictions_and_modes_of_a_result(tmp_path):
    def recipe(slope):
        init = lambda key: {"w": jnp.zeros(4)}
        objective = lambda params, batch: jnp.mean((batch.x @ params["w"] - slope * batch.x[:, 0]) ** 2)
        found = lambda params, dataset: {"correct": jnp.mean(((dataset.x @ params["w"]) > 0) == (dataset.y > 0))}
        return fn.minimization(init, objective, fn.sgd(0.3), found, predict=lambda params, x: x @ params["w"], modes={"correct": "max"})

    result = fn.sweep(recipe, fn.grid(slope=[-1.0, 2.0]), DATA, key=jax.random.key(0), num_steps=100, batch_size=None, progress=False)
    assert result.metric == "validation/correct" and result.mode == "max" and result.best().hyperparameters == {"slope": 2.0}
    np.testing.assert_allclose(result.predict(1, X), 2 * X[:, 0], atol=1e-3)
    result.save(tmp_path / "result")
    np.testing.assert_array_equal(fn.load_result(tmp_path / "result", recipe).predict(1, X), result.predict(1, X))


def test_a_run_from_given_parameters_starts_there():
    first = fn.fit(supervised(0.02), DATA, **RUN).state.params
    again = fn.training(MODEL, fn.cross_entropy, fn.adam(0.01), in_shape=(4,), params=jax.tree.map(np.asarray, first))
    jax.tree.map(np.testing.assert_array_equal, again.init(jax.random.key(9)).params, first)

    def recipe(learning_rate):
        head = lambda path, leaf: path.startswith("3/")
        return fn.training(MODEL, fn.cross_entropy, fn.adam(learning_rate, where=head), in_shape=(4,), params=first)

    result = fn.sweep(recipe, fn.grid(learning_rate=[0.01, 0.1]), DATA, progress=False, **RUN)
    for row in range(2):
        jax.tree.map(np.testing.assert_array_equal, result.state(row).params[0], first[0])
        assert (np.asarray(result.state(row).params[3]["weight"]) != np.asarray(first[3]["weight"])).any()


def test_other_parameters_are_other_trainings():
    """Nothing that is remembered of a sweep is taken for one that starts elsewhere."""
    draws = [MODEL.init(jax.random.key(i), (4,)) for i in range(2)]
    results = []
    for params in draws:
        recipe = lambda learning_rate, params=params: fn.training(
            MODEL, fn.cross_entropy, fn.sgd(learning_rate), in_shape=(4,), params=params
        )
        results.append(fn.sweep(recipe, fn.grid(learning_rate=[0.0]), DATA, progress=False, **RUN))
    for result, params in zip(results, draws, strict=True):
        jax.tree.map(np.testing.assert_array_equal, result.state(0).params, params)


def made(**changed):
    arguments = {"init": lambda key: {"p": jnp.zeros(2)}, "objective": quadratic(jnp.eye(2)), "optimizer": fn.sgd(0.1)} | changed
    return lambda: fn.minimization(**arguments)


def stepped(value):
    """A step by an objective that returns this of a parameter."""
    own = lambda value: lambda params, batch: value(jnp.sum(params["p"]))

    def run():
        training = made(objective=own(value))()
        return training.step(training.init(jax.random.key(0)), DATA.train, jax.random.key(1))

    return run


def started(params):
    return lambda: fn.training(fn.dense(3), fn.squared_error, fn.sgd(0.1), in_shape=(2,), params=params).init(jax.random.key(0))


DRAWN = MODEL.init(jax.random.key(0), (4,))
RIGHT = {"weight": jnp.zeros((3, 2)), "bias": jnp.zeros(3)}
RULE = "^minimization: the objective must return one floating-point number, got "


@mistakes(
    {
        "no optimizer": (
            made(optimizer="adam"),
            TypeError,
            r"^minimization: .*'adam'.*such as adam\(1e-3\)",
            made(optimizer=fn.adam(1e-3)),
        ),
        "params for their init": (
            made(init={"p": 0.0}),
            TypeError,
            r"^minimization: init must be a function, key -> params, got \{'p': 0.0\}$",
            made(),
        ),
        "a name for an objective": (made(objective="mse"), TypeError, "objective must be a function, .*, got 'mse'", made()),
        "no evaluation": (
            made(objective=lambda params, batch, *, key: 0.0),
            TypeError,
            "^minimization: needs evaluate= where the objective needs a key, got None; or give the key a default, key=None$",
            made(objective=lambda params, batch, *, key=None: 0.0),
        ),
        "a vector": (stepped(lambda p: p[None]), TypeError, RULE + r"float32\[1\]; such as a jnp.mean", stepped(lambda p: p)),
        "a whole number": (stepped(lambda p: jnp.int32(p)), TypeError, RULE + r"int32\[\]", stepped(lambda p: p)),
        "nothing": (stepped(lambda p: None), TypeError, RULE + "NoneType; ", stepped(lambda p: (p, {}))),
        "three": (
            stepped(lambda p: (p, p, p)),
            TypeError,
            RULE + r"float32\[3\]; .*a pair is \(loss, metrics\)",
            stepped(lambda p: (p, {"a": p})),
        ),
        "metrics no dict": (
            stepped(lambda p: (p, p)),
            TypeError,
            "metrics must be a dict without 'loss', got ",
            stepped(lambda p: (p, {})),
        ),
        "a metric loss": (
            stepped(lambda p: (p, {"loss": p})),
            TypeError,
            r"^minimization: the objective's metrics must be a dict without 'loss', got \['loss'\]; loss is reported anyway",
            stepped(lambda p: (p, {"own": p})),
        ),
        "params of another model": (
            started([RIGHT]),
            ValueError,
            "^training: params must have the structure of the model's, leaves 'bias', 'weight', got leaves '0/bias', '0/weight'; such as fit",
            started(RIGHT),
        ),
        "params in a tuple": (
            lambda: fn.training(MODEL, fn.squared_error, fn.sgd(0.1), in_shape=(4,), params=tuple(DRAWN)).init(jax.random.key(0)),
            ValueError,
            r"^training: params must have the structure of the model's, PyTreeDef\(\[.*, got PyTreeDef\(\(",
            lambda: fn.training(MODEL, fn.squared_error, fn.sgd(0.1), in_shape=(4,), params=DRAWN).init(jax.random.key(0)),
        ),
        "params of another shape": (
            started({**RIGHT, "weight": jnp.zeros((3, 4))}),
            ValueError,
            r"^training: params at 'weight' must be float32\[3, 2\], got float32\[3, 4\]; params of the same model and in_shape$",
            started(RIGHT),
        ),
        "params of another dtype": (
            started({**RIGHT, "bias": jnp.zeros(3, jnp.bfloat16)}),
            ValueError,
            r"^training: params at 'bias' must be float32\[3\], got bfloat16\[3\]",
            started(RIGHT),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)
