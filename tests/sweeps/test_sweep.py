"""How a sweep groups, draws, tells and refuses; and whose recipes it takes."""

import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forgetting import forget_programs

import funcnet as fn
from funcnet.sweeps import run as engine
from funcnet.sweeps.trial import bytes_written
from funcnet.sweeps.width import core_lanes, lane_width

KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
Y = X[:, :1] - X[:, 1:2]
DATA = fn.split(fn.Dataset(X, Y), key=jax.random.key(0))
SETTINGS = dict(key=KEY, num_steps=6, batch_size=8, progress=False)


def recipe(learning_rate=0.1, width=3, activation="tanh", drop=0.0):
    return fn.training(fn.mlp((width, 1), activation, drop), fn.squared_error, fn.sgd(learning_rate), in_shape=(4,))


# Compiling.


def test_what_failed_to_compile_is_compiled_anew(monkeypatch):
    def fails(*_):
        raise RuntimeError("no memory")

    def fresh(learning_rate):
        return recipe(learning_rate)

    forget_programs()  # another test's sweep may have compiled the same
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["funcnet.sweeps.program"], "_executable", fails)
        with pytest.raises(RuntimeError, match="no memory"):
            fn.sweep(fresh, fn.grid(learning_rate=[0.1]), DATA, **SETTINGS)
    assert list(fn.sweep(fresh, fn.grid(learning_rate=[0.1]), DATA, **SETTINGS).table["status"]) == ["completed"]


# Grouping.


def groups(variants, recipe=recipe):
    return len(fn.sweep(recipe, variants, DATA, **SETTINGS).timing["lane_widths"])


def takes_anything(learning_rate=0.1, **others):
    return recipe(learning_rate)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.2, np.float32(0.3), np.float64(0.4), jnp.float32(0.5)], 1),  # floats of any make ride
        ([fn.static(0.1), fn.static(0.2)], 2),
        ([1, 2, np.int64(2)], 2),
        ([fn.traced(1), fn.traced(2), fn.traced(3)], 1),
        ([True, 1, fn.static(1.0)], 3),  # equal, not alike
        ([(1, True), (1, 1), [1, 1]], 2),  # a list is a tuple
        (["a", "b", None], 3),
        ([np.tanh, np.exp, np.tanh], 2),
    ],
    ids=str,
)
def test_floats_ride_and_everything_else_picks_a_program(values, expected):
    assert groups([{"value": value} for value in values], takes_anything) == expected


def test_a_recipe_gets_plain_values_and_traced_numbers():
    seen = []

    def record(rate, count, widths):
        seen.append((rate, count, widths))
        return recipe(0.1 * rate)

    fn.sweep(record, [{"rate": np.float32(0.5), "count": fn.traced(3), "widths": [4, 2]}], DATA, **SETTINGS)
    assert seen[0] == (0.5, 3, (4, 2)) and type(seen[0][0]) is float and type(seen[0][1]) is int
    rate, count, widths = seen[-1]
    assert (rate.dtype, count.dtype, widths) == (jnp.float32, jnp.int32, (4, 2))


def test_names_of_the_sweep_reach_a_recipe_that_declares_them():
    def scheduled(learning_rate, num_steps, num_examples):
        return fn.training(fn.dense(1), fn.squared_error, fn.sgd(fn.cosine_decay(learning_rate, num_steps)), in_shape=(4,))

    variants = fn.grid(learning_rate=[0.1], num_steps=[4, 9], num_examples=[20, 30], batch_size=[8, None])
    result = fn.sweep(scheduled, variants, DATA, **SETTINGS)
    assert result.table["steps"].tolist() == [4] * 4 + [9] * 4
    assert len(result.timing["lane_widths"]) == 4  # num_steps here picks the program, and batch_size; num_examples rides
    assert np.all(np.isfinite(result.table["validation/loss"]))


@pytest.mark.parametrize(
    ("lots", "workers", "most", "expected"),
    [([1], 2, 16, 1), ([13], 2, 16, 8), ([12], 2, 16, 6), ([300], 2, 16, 16), ([5], 1, 3, 3), ([9], 1, 7, 3)]
    + [([40], 1, 64, 48), ([32], 2, 6, 4), ([16] * 20, 2, 64, 16), ([3] * 9, 2, 64, 3), ([12, 13, 14, 4], 2, 64, 16), ([40], 2, 64, 24)],
)
def test_lane_width(lots, workers, most, expected):
    assert lane_width(lots, workers, most) == expected


def test_lanes_suit_a_cores_cache():
    """Small steps, many lanes, and the other way round; never a lane alone."""
    assert [core_lanes(size) for size in (1, 10**6, 10**7, 10**9)] == [64, 16, 4, 2]


def test_of_a_choice_by_platform_a_cpu_writes_its_own_part():
    def chosen(x):
        return jax.lax.platform_dependent(x, cpu=jnp.sin, default=lambda x: jnp.exp(jnp.cos(x)))

    own, choice = (bytes_written(jax.make_jaxpr(fn)(jnp.ones(100)).jaxpr) for fn in (jnp.sin, chosen))
    assert (own, choice) == (400, 404)  # and the number of the platform


# Replicates and randomness.


def initial(result, row):
    """The initial weights: after one step at a learning rate of zero."""
    return np.asarray(result.state(row).params[0]["weight"])


@pytest.mark.parametrize("variants", [1, 2, 5])
def test_replicates_draw_anew_and_variants_of_one_share(variants):
    rates = [{"learning_rate": 0.0, "drop": 0.1 * i} for i in range(variants)]
    result = fn.sweep(recipe, rates, DATA, replicates=3, **SETTINGS)
    assert result.table["variant"].tolist() == [v for v in range(variants) for _ in range(3)]
    assert result.table["replicate"].tolist() == [0, 1, 2] * variants
    for row in range(3 * variants):
        np.testing.assert_array_equal(initial(result, row), initial(result, row % 3))
    assert len({initial(result, row).tobytes() for row in range(3)}) == 3


def test_independent_randomness_draws_anew_for_every_row():
    result = fn.sweep(recipe, [{"learning_rate": 0.0}] * 3, DATA, replicates=2, randomness="independent", **SETTINGS)
    assert len({initial(result, row).tobytes() for row in range(6)}) == 6


def test_lanes_with_keys_of_their_own_give_what_lanes_with_one_key_do():
    """One variant in many replicates shares no key, a chunk of one replicate does; the numbers are the same."""
    rates = [{"learning_rate": 0.1 * i, "drop": 0.3} for i in range(1, 9)]
    shared = fn.sweep(recipe, rates, DATA, replicates=2, chunk_size=8, **SETTINGS)
    apart = fn.sweep(recipe, rates[:1], DATA, replicates=2, chunk_size=8, **SETTINGS)
    np.testing.assert_allclose(apart.table["validation/loss"], shared.table["validation/loss"][:2], rtol=1e-5)


# Progress.


def test_a_function_is_told_how_far_it_is():
    said = []
    result = fn.sweep(recipe, fn.grid(learning_rate=[0.1, 1e38], width=[2, 3]), DATA, **(SETTINGS | {"progress": said.append}))
    last = said[-1]
    assert (last.runs_done, last.runs, last.steps_done, last.steps, last.diverged, last.share) == (4, 4, 24, 24, 2, 1.0)
    assert last.best == result.best().metrics["validation/loss"] and last.metric == "validation/loss"
    assert [now.steps_done for now in said] == sorted(now.steps_done for now in said)
    assert "4/4 runs, 100% of the steps" in str(last) and "2 diverged" in str(last)


def test_plain_lines_without_a_terminal_and_silence_on_request(capsys):
    fn.sweep(recipe, [{"learning_rate": 0.1}], DATA, **(SETTINGS | {"progress": None}))
    assert "sweep: 1/1 runs, 100% of the steps" in capsys.readouterr().err
    fn.sweep(recipe, [{"learning_rate": 0.1}], DATA, **(SETTINGS | {"progress": False}))
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_in_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    fn.sweep(recipe, [{"learning_rate": 0.1}], DATA, **(SETTINGS | {"progress": None}))
    assert "100%|" in terminal.getvalue() and "1/1 runs" in terminal.getvalue()


def test_plain_lines_in_a_terminal_without_tqdm(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    fn.sweep(recipe, [{"learning_rate": 0.1}], DATA, **(SETTINGS | {"progress": True}))
    assert "sweep: 1/1 runs" in terminal.getvalue() and "%|" not in terminal.getvalue()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError("no room")])
def test_what_was_done_before_an_interruption_is_not_lost(error):
    variants = fn.grid(learning_rate=[0.1, 0.2, 0.3], width=[2, 3])
    whole = fn.sweep(recipe, variants, DATA, **SETTINGS)

    def stop(now):
        if 2 <= now.runs_done < now.runs:
            raise error

    with pytest.raises(fn.SweepInterrupted, match=r"after \d of 6 runs, which the error's .result holds") as caught:
        fn.sweep(recipe, variants, DATA, chunk_size=1, **(SETTINGS | {"progress": stop}))
    result = caught.value.result
    done = result.table["status"] == "completed"
    assert 2 <= done.sum() < 6 and set(result.table["status"][~done]) == {"unfinished"}
    np.testing.assert_allclose(result.table["validation/loss"][done], whole.table["validation/loss"][done], rtol=1e-5)
    assert result.best().row in np.flatnonzero(done)
    assert str(result).startswith(f"6 runs, 0 diverged, {6 - done.sum()} unfinished; the {done.sum()} best by validation/loss:")


def test_an_error_before_any_run_is_done_is_itself():
    def stop(now):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        fn.sweep(recipe, fn.grid(learning_rate=[0.1]), DATA, **(SETTINGS | {"progress": stop}))


def test_data_without_a_validation_part_is_ranked_by_the_training_loss():
    result = fn.sweep(recipe, fn.grid(learning_rate=[0.001, 0.1]), fn.Dataset(X, Y), keep=1, **SETTINGS)
    assert result.metrics == ["train/loss"] and "best by train/loss" in str(result)
    assert result.best("train/loss").row == np.argmin(result.table["train/loss"])
    with pytest.raises(ValueError, match="best: unknown metric 'validation/loss'"):
        result.best("validation/loss")


@pytest.mark.parametrize("key", [jax.random.PRNGKey(5), jax.random.key(5)], ids=["old", "new"])
def test_keys_of_both_makes_give_the_same(key):
    result = fn.sweep(recipe, fn.grid(learning_rate=[0.1]), DATA, **(SETTINGS | {"key": key}))
    expected = fn.sweep(recipe, fn.grid(learning_rate=[0.1]), DATA, **SETTINGS)
    assert result.table["validation/loss"] == expected.table["validation/loss"]


# Anybody's recipe.


def test_a_triple_written_by_hand():
    def by_hand(rate):
        def init(key):
            return {"w": jax.random.normal(key, (4,))}

        def loss(state, batch):
            return jnp.mean((batch.x @ state["w"] - batch.y[:, 0]) ** 2)

        def step(state, batch, key):
            value, grads = jax.value_and_grad(loss)(state, batch)
            return {"w": state["w"] - rate * grads["w"]}, {"loss": value}

        return init, step, lambda state, dataset: {"loss": loss(state, dataset), "size": jnp.sum(jnp.abs(state["w"]))}

    result = fn.sweep(by_hand, fn.grid(rate=[0.01, 0.1]), DATA, **(SETTINGS | {"num_steps": 60}))
    assert result.metrics == ["train/loss", "train/size", "validation/loss", "validation/size"]
    assert result.best().row == 1 and result.best().metrics["validation/loss"] < 1e-2
    np.testing.assert_allclose(result.state(1)["w"], [1, -1, 0, 0], atol=0.1)


def test_an_optax_optimizer_inside():
    optax = pytest.importorskip("optax")

    def with_optax(learning_rate):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(learning_rate, momentum=0.9))
        return fn.training(fn.dense(1), fn.squared_error, optimizer, in_shape=(4,))

    def with_ours(learning_rate):
        return fn.training(fn.dense(1), fn.squared_error, fn.chain(fn.clip_by_global_norm(1.0), fn.momentum(learning_rate)), in_shape=(4,))

    with jax.numpy_dtype_promotion("standard"):
        theirs, ours = (fn.sweep(each, fn.grid(learning_rate=[0.01, 0.1]), DATA, **SETTINGS) for each in (with_optax, with_ours))
    np.testing.assert_allclose(theirs.table["validation/loss"], ours.table["validation/loss"], rtol=1e-5)


def test_a_flax_model_around():
    linen = pytest.importorskip("flax.linen")

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(linen.tanh(linen.Dense(5)(x)))

    def with_flax(learning_rate):
        net = Net()
        model = fn.Layer(lambda key, in_shape: net.init(key, jnp.zeros(in_shape)), lambda params, x, *, key=None: net.apply(params, x))
        return fn.training(model, fn.squared_error, fn.adam(learning_rate), in_shape=(4,))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        result = fn.sweep(with_flax, fn.grid(learning_rate=[1e-4, 0.03]), DATA, **(SETTINGS | {"num_steps": 100}))
    assert result.table["validation/loss"][1] < 0.2 * result.table["validation/loss"][0]


def test_flax_batch_norm_by_a_triple_of_ones_own():
    """What no layer can do: the state holds running statistics, which a step on a whole minibatch changes and the evaluation uses."""
    linen = pytest.importorskip("flax.linen")

    class Net(linen.Module):
        momentum: jax.Array

        @linen.compact
        def __call__(self, x, training):
            return linen.Dense(1)(linen.BatchNorm(use_running_average=not training, momentum=self.momentum)(x))

    def with_batch_norm(learning_rate, momentum):
        net, optimizer = Net(momentum), fn.adam(learning_rate)

        def init(key):
            variables = net.init(key, jnp.zeros((1, 4)), training=False)
            return {**variables, "optimizer": optimizer.init(variables["params"])}

        def step(state, batch, key):
            def loss(params):
                variables = {"params": params, "batch_stats": state["batch_stats"]}
                prediction, changed = net.apply(variables, batch.x, training=True, mutable="batch_stats")
                return jnp.mean((prediction - batch.y) ** 2), changed

            (value, changed), grads = jax.value_and_grad(loss, has_aux=True)(state["params"])
            updates, own = optimizer.update(grads, state["optimizer"], state["params"])
            return {"params": fn.apply_updates(state["params"], updates), "optimizer": own, **changed}, {"loss": value}

        def evaluate(state, dataset):
            variables = {"params": state["params"], "batch_stats": state["batch_stats"]}
            return {"loss": jnp.mean((net.apply(variables, dataset.x, training=False) - dataset.y) ** 2)}

        return fn.Training(init, step, evaluate, modes={"loss": "min"})

    variants, settings = fn.grid(learning_rate=[0.1], momentum=[0.5, 0.9]), SETTINGS | {"num_steps": 60, "batch_size": None}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        result = fn.sweep(with_batch_norm, variants, DATA, **settings)
    assert all(result.table["validation/loss"] < 0.1)
    x = np.asarray(DATA.train.x)
    for row, momentum in enumerate([0.5, 0.9]):
        (found,) = result.state(row)["batch_stats"].values()
        left = momentum**60  # of the zeros and ones that they start as
        np.testing.assert_allclose(found["mean"], (1 - left) * x.mean(0), atol=1e-6)
        np.testing.assert_allclose(found["var"], left + (1 - left) * x.var(0), rtol=1e-5)


# Refusals: all before anything is compiled.


@pytest.fixture
def nothing_is_compiled(monkeypatch):
    def refuse(*_):
        raise AssertionError("the sweep began")

    monkeypatch.setattr(engine, "Threads", refuse)


def classify(learning_rate=0.1):
    return fn.training(fn.dense(3), fn.cross_entropy, fn.sgd(learning_rate), in_shape=(4,))


def unfit(learning_rate=0.1):
    return fn.training(fn.serial(fn.dense(3), fn.conv(2, 3)), fn.squared_error, fn.sgd(learning_rate), in_shape=(4,))


def grows(learning_rate=0.1):
    return lambda key: jnp.zeros(2), lambda state, batch, key: (jnp.zeros(3), {}), lambda state, data: {}


def vector_metric(learning_rate=0.1):
    return lambda key: jnp.zeros(2), lambda state, batch, key: (state, {}), lambda state, data: {"loss": state}


def only_state(learning_rate=0.1):
    return lambda key: jnp.zeros(3), lambda state, batch, key: state, lambda state, data: {}


def measures_nothing(learning_rate=0.1):
    return lambda key: jnp.zeros(2), lambda state, batch, key: (state, {}), lambda state, data: {}


def nested_metric(learning_rate=0.1):
    return lambda key: jnp.zeros(2), lambda state, batch, key: (state, {}), lambda state, data: {"loss": {"mean": jnp.sum(state)}}


def branches(learning_rate=0.1):
    return (
        lambda key: jnp.zeros(2),
        lambda state, batch, key: (state if state[0] > 0 else -state, {}),
        lambda state, data: {"loss": state[0]},
    )


def jumpy(learning_rate=0.1):
    return recipe(learning_rate, activation=jnp.sign)


ONE = [{"learning_rate": 0.1}]
REFUSED = {
    "unknown hyperparameter": (
        recipe,
        [{"learning_rat": 0.1}],
        {},
        ValueError,
        "sweep: recipe has no hyperparameter 'learning_rat'; did you mean 'learning_rate'",
    ),
    "missing hyperparameter": (
        lambda a, b: recipe(),
        [{"a": 1}],
        {},
        ValueError,
        "sweep: recipe needs the hyperparameter 'b', which no variant sets",
    ),
    "no variants": (recipe, [], {}, ValueError, r"sweep: needs at least one variant, got none; such as grid\(learning_rate="),
    "different keys": (
        recipe,
        [*ONE, {"width": 2}],
        {},
        ValueError,
        "every variant must name the same hyperparameters, got 'learning_rate', 'width' in only one of",
    ),
    "a space": (recipe, fn.space(learning_rate=0.1), {}, TypeError, "variants must be a list of dicts, got a space; draw some with"),
    "nan": (
        recipe,
        [*ONE, {"learning_rate": float("nan")}],
        {},
        ValueError,
        r"sweep: variant 1 \(learning_rate=nan\): sgd: learning_rate must be in \[0, inf\), got nan",
    ),
    "negative rate": (
        recipe,
        [{"learning_rate": -0.1}],
        {},
        ValueError,
        r"variant 0 \(learning_rate=-0.1\): sgd: learning_rate must be in",
    ),
    "drop of one": (
        recipe,
        [{"drop": 0.5}, {"drop": 1.0}],
        {},
        ValueError,
        r"sweep: variant 1 \(drop=1\.0\): mlp: dropout must be in \[0, 1\), got 1.0",
    ),
    "width of a float": (
        recipe,
        [{"width": 8.0}],
        {},
        TypeError,
        r"variant 0 \(width=8\.0\): mlp: every width must be a whole number, got 8\.0",
    ),
    "width": (recipe, [{"width": 0}], {}, ValueError, r"variant 0 \(width=0\): mlp: every width must be at least 1, got 0"),
    "activation": (
        recipe,
        [{"activation": "rleu"}],
        {},
        ValueError,
        r"variant 0 \(activation='rleu'\): activation: unknown activation 'rleu'; did you mean 'relu'",
    ),
    "jump": (jumpy, ONE, {}, ValueError, "check_activation: sign must be differentiable, got a jump"),
    "layer": (unfit, ONE, {}, ValueError, r"serial: layer 1 does not fit its input of shape \(3,\): conv: in_shape must have 2 or 3 axes"),
    "not a triple": (
        lambda learning_rate: 3,
        ONE,
        {},
        TypeError,
        r"sweep: variant 0 \(learning_rate=0.1\): sweep: a training must be a triple of functions .* got int",
    ),
    "state grows": (grows, ONE, {}, TypeError, "step: must keep the structure, shapes and dtypes of the state"),
    "metric is a vector": (vector_metric, ONE, {}, TypeError, "evaluate: metrics must be a dict of scalars"),
    "no metric": (
        measures_nothing,
        ONE,
        {},
        ValueError,
        r"variant 0 \(learning_rate=0.1\): evaluate: must measure something, got no metrics",
    ),
    "metrics in metrics": (nested_metric, ONE, {}, TypeError, r"evaluate: metrics must be a dict of scalars, got {'loss': {'mean': \(\)}}"),
    "branch on a number": (branches, ONE, {}, TypeError, r"variant 0 \(learning_rate=0.1\): Attempted boolean conversion of traced array"),
    "a name of the table": (
        takes_anything,
        [{"steps": 3}],
        {},
        ValueError,
        "sweep: a hyperparameter must have a name that the result's table doesn't use itself, got 'steps'; give it another",
    ),
    "step gives only a state": (
        only_state,
        ONE,
        {},
        TypeError,
        r"step: must return \(state, metrics\), metrics a dict of scalars, got an array",
    ),
    "unhashable": (
        takes_anything,
        [{"value": {"a": 1}}],
        {},
        TypeError,
        r"variant 0 \(value={'a': 1}\): value must be a number or something hashable, got dict",
    ),
    "array": (
        takes_anything,
        [{"value": np.ones(2)}],
        {},
        TypeError,
        "value must be a number or something hashable, got ndarray; a tuple will do",
    ),
    "traced bool": (takes_anything, [{"value": fn.traced(True)}], {}, TypeError, "traced value must be a number or a name, got True"),
    "traced beyond int32": (
        takes_anything,
        [{"value": fn.traced(2**31)}],
        {},
        ValueError,
        r"variant 0 \(value=2147483648\): traced value must fit in int32, got 2147483648; a float of that size will do",
    ),
    "batch": (
        recipe,
        ONE,
        {"batch_size": 33},
        ValueError,
        "batch_size must be at most the 32 examples to train on, got 33; batch_size=None takes them all",
    ),
    "batch of a variant": (
        recipe,
        [{"batch_size": 8}, {"batch_size": 99}],
        {},
        ValueError,
        r"sweep: variant 1 \(batch_size=99\): batch_size must be at most the 32",
    ),
    "few examples": (
        recipe,
        [{"num_examples": 5}],
        {},
        ValueError,
        r"variant 0 \(num_examples=5\): batch_size must be at most the 5 examples",
    ),
    "many examples": (recipe, [{"num_examples": 33}], {}, ValueError, r"num_examples must be in \[1, 32\], got 33"),
    "steps": (recipe, ONE, {"num_steps": 0}, ValueError, "sweep: num_steps must be at least 1, got 0"),
    "steps of a variant": (recipe, [{"num_steps": -1}], {}, ValueError, "num_steps must be at least 1, got -1"),
    "eval_every": (recipe, ONE, {"eval_every": 0}, ValueError, "sweep: eval_every must be at least 1, got 0"),
    "replicates": (recipe, ONE, {"replicates": 0}, ValueError, "sweep: replicates must be at least 1, got 0"),
    "chunk_size": (recipe, ONE, {"chunk_size": 0}, ValueError, "sweep: chunk_size must be at least 1, got 0"),
    "keep": (recipe, ONE, {"keep": 0}, ValueError, "sweep: keep must be at least 1, got 0"),
    "randomness": (recipe, ONE, {"randomness": "share"}, ValueError, "sweep: unknown randomness 'share'; did you mean 'shared'"),
    "key": (recipe, ONE, {"key": 0}, TypeError, r"sweep: key must be a JAX random key, got 0; such as jax.random.key\(0\)"),
    "keys": (recipe, ONE, {"key": jax.random.split(KEY, 2)}, ValueError, r"sweep: key must be one key, got shape \(2,\)"),
    "memory_budget": (recipe, ONE, {"memory_budget": 1e9}, TypeError, "sweep: memory_budget must be a whole number, got 1000000000.0"),
    "progress": (recipe, ONE, {"progress": "loud"}, TypeError, "sweep: progress must be True, False, None or a function, got 'loud'"),
    "recipe": (3, ONE, {}, TypeError, "sweep: recipe must be a function of hyperparameters, got 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments_are_refused_before_anything_is_compiled(name, nothing_is_compiled):
    who, variants, extra, error, match = REFUSED[name]
    with pytest.raises(error, match=match):
        fn.sweep(who, variants, DATA, **(SETTINGS | extra))


DATA_REFUSED = {
    "lengths": (fn.Dataset(X, Y[:-1]), ValueError, "sweep: x and y must have one entry for each example, got 40 and 39"),
    "empty": (fn.Dataset(X[:0], Y[:0]), ValueError, "sweep: a data set must have at least 2 examples, got 0"),
    "one": (fn.Dataset(X[:1], Y[:1]), ValueError, "sweep: a data set must have at least 2 examples, got 1"),
    "nan in validation": (
        fn.Split(fn.Dataset(X, Y), fn.Dataset(X * np.nan, Y)),
        ValueError,
        r"sweep: validation: x must be finite, got nan at index \(0, 0\)",
    ),
    "other features": (
        fn.Split(fn.Dataset(X, Y), fn.Dataset(X[:, :2], Y)),
        ValueError,
        r"sweep: validation: each x must have the shape of train's, \(4,\), got \(2,\)",
    ),
    "axes": (fn.Dataset(X[:, 0], Y), ValueError, r"each example must have in_shape \(4,\), got \(\)"),
    "text": (fn.Dataset(X.astype(str), Y), TypeError, "sweep: x must hold numbers, got dtype <U"),
    "not data": (X, TypeError, r"sweep: data must be Dataset\(x, y\) or a Split, got ndarray"),
    "no training part": (fn.Split(None, fn.Dataset(X, Y)), TypeError, "sweep: data must have a training part"),
}


@pytest.mark.parametrize("name", DATA_REFUSED)
def test_bad_data_is_refused_before_anything_is_compiled(name, nothing_is_compiled):
    data, error, match = DATA_REFUSED[name]
    with pytest.raises(error, match=match):
        fn.sweep(recipe, ONE, data, **SETTINGS)


def test_labels_are_checked_before_anything_is_compiled(nothing_is_compiled):
    with pytest.raises(
        ValueError, match=r"variant 0 \(learning_rate=0.1\): cross_entropy: labels must be in \[0, 2\], as the model has 3 outputs, got 3"
    ):
        fn.sweep(classify, ONE, fn.Dataset(X, np.arange(40) % 4), **SETTINGS)
    with pytest.raises(TypeError, match="cross_entropy: labels must be integers, got float32"):
        fn.sweep(classify, ONE, fn.Dataset(X, np.arange(40.0) % 3), **SETTINGS)
