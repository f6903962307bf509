"""One rule for divergence, which keys and devices a sweep takes, what it raises under jax_debug_nans, and what it ranks by."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn

ROOT = Path(__file__).parents[2]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
Y = X[:, :1] - X[:, 1:2]
DATA = fn.split(fn.Dataset(X, Y), key=jax.random.key(0))
SETTINGS = dict(key=jax.random.key(5), num_steps=12, batch_size=8, progress=False)


def made(learning_rate=0.1, drop=0.0):
    return fn.training(fn.mlp((3, 1), "tanh", drop), fn.squared_error, fn.sgd(learning_rate), in_shape=(4,))


# Divergence.


def holding(learning_rate, until):
    """Training that holds a number in its state that isn't finite until a step, as the best loss so far is."""
    training = made(learning_rate)

    def init(key):
        return {"own": training.init(key), "best": jnp.full(2, jnp.inf), "step": jnp.int32(0)}

    def step(state, batch, key):
        own, metrics = training.step(state["own"], batch, key)
        best = jnp.where(state["step"] + 1 >= until, jnp.minimum(state["best"], metrics["loss"]), state["best"])
        return {"own": own, "best": best, "step": state["step"] + 1}, metrics

    return fn.Training(init, step, lambda state, part: training.evaluate(state["own"], part))


@pytest.mark.parametrize("eval_every", [1, 5, None])
def test_what_is_infinite_at_the_start_is_no_divergence(eval_every):
    until = [1, 10, 100]
    variants = fn.grid(learning_rate=[0.1], until=[fn.traced(step) for step in until])
    result = fn.sweep(holding, variants, DATA, **SETTINGS, eval_every=eval_every)
    assert result.table["status"].tolist() == ["completed"] * 3 and result.table["steps"].tolist() == [12] * 3

    def fitted(until):
        key = jax.random.fold_in(SETTINGS["key"], 0)
        return fn.fit(holding(0.1, until), DATA, key=key, num_steps=12, batch_size=8, eval_every=eval_every or 12)

    fits = jax.vmap(fitted)(jnp.array(until))
    assert fits.state["step"].tolist() == [12] * 3
    np.testing.assert_allclose(fits.curves["train/loss"][:, -1], result.table["train/loss"], rtol=1e-6)


def turning(at):
    """Training of which the state (part 0) or the loss (part 1), finite at first, becomes something else at a step."""

    def recipe(part, kind):
        value = jnp.array([jnp.nan, jnp.inf, -jnp.inf])[jnp.asarray(kind, jnp.int32)]

        def step(state, batch, key):
            turned = state["step"] + 1 == at
            x = jnp.where(turned & (part == 0), value, state["x"])
            return {"x": x, "never": state["never"], "step": state["step"] + 1}, {"loss": jnp.where(turned & (part == 1), value, 1.0)}

        start = {"x": jnp.zeros(2), "never": jnp.array([jnp.nan, 1.0]), "step": jnp.int32(0)}
        return fn.Training(lambda key: start, step, lambda state, part: {"loss": jnp.sum(state["x"])})

    return recipe


@pytest.mark.parametrize("eval_every", [1, 5, None])
def test_what_becomes_infinite_is_one(eval_every):
    recipe = turning(at=7)
    result = fn.sweep(recipe, fn.grid(part=[0.0, 1.0], kind=[0.0, 1.0, 2.0]), DATA, **SETTINGS, eval_every=eval_every)
    assert result.table["status"].tolist() == ["diverged"] * 6 and result.table["steps"].tolist() == [6] * 6

    @jax.jit
    def fit(part, kind):
        return fn.fit(recipe(part, kind), DATA, key=jax.random.key(0), num_steps=12, batch_size=8, eval_every=eval_every or 12)

    for row in range(6):
        fitted = fit(result.table["part"][row], result.table["kind"][row])
        assert int(fitted.state["step"]) == 6 and np.isnan(fitted.curves["train/loss"][-1])


# Keys.


def test_rbg_keys_give_a_row_the_same_bits_alone_and_among_others():
    """Under vmap they draw from the first key alone, so lanes must share one."""
    variants, settings = fn.grid(learning_rate=[0.01, 0.02, 0.05], drop=[0.2, 0.4]), SETTINGS | {"key": jax.random.key(3, impl="rbg")}
    whole = fn.sweep(made, variants, DATA, replicates=3, chunk_size=4, **settings)
    assert len(set(whole.table["train/loss"].tolist())) == 18
    for row in (0, 4, 17):
        variant, replicate = whole.table["variant"][row], whole.table["replicate"][row]
        alone = fn.sweep(made, [variants[variant]], DATA, replicates=3, chunk_size=4, **settings)
        np.testing.assert_array_equal(alone.table["train/loss"][replicate], whole.table["train/loss"][row])


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_rbg_keys_of_their_own_are_refused(impl):
    with pytest.raises(ValueError, match=rf"sweep: key must be of a kind .*, got {impl}; .*threefry2x32"):
        fn.sweep(made, fn.grid(learning_rate=[0.1]), DATA, **(SETTINGS | {"key": jax.random.key(0, impl=impl)}), randomness="independent")


def test_one_variant_in_many_replicates_draws_anew_in_each_under_rbg():
    result = fn.sweep(made, [{"learning_rate": 0.1}], DATA, replicates=5, **(SETTINGS | {"key": jax.random.key(0, impl="rbg")}))
    assert len(set(result.table["train/loss"].tolist())) == 5


# Devices and meshes.

DEVICES = """
import jax, numpy as np
import funcnet as fn
x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
used = set()
def recipe(learning_rate):
    return fn.training(fn.dense(1), fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))
def run():
    return fn.sweep(recipe, fn.grid(learning_rate=[0.1, 0.2, 0.3, 0.4]), fn.Dataset(x, 3 * x), key=jax.random.key(0),
                    num_steps=5, batch_size=8, progress=False, chunk_size=1)
from funcnet.sweeps import executors
own = executors.run_task
def noted(task, here, seconds):
    used.add((here.device, *here.data.train.x.devices()))
    return own(task, here, seconds)
executors.run_task = noted
assert jax.device_count() == 3
plain = run()
assert (jax.devices()[0],) * 2 in used, used
used.clear()
with jax.default_device(jax.devices()[1]):
    inside = run()
assert used == {(jax.devices()[1],) * 2}, used
with jax.set_mesh(jax.make_mesh((3,), ("i",))):
    meshed = run()
with jax.set_mesh(jax.make_mesh((3,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))):
    explicit = run()
for other in (inside, meshed, explicit):
    np.testing.assert_array_equal(plain.table["train/loss"], other.table["train/loss"])
    np.testing.assert_array_equal(jax.tree.leaves(plain.state(3))[0], jax.tree.leaves(other.state(3))[0])
"""


def test_the_default_device_is_the_only_one_and_a_mesh_changes_nothing():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", DEVICES], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# jax_debug_nans.


@pytest.mark.parametrize("what", [jax.debug_nans, jax.debug_infs])
def test_a_diverging_sweep_raises_and_names_the_variant_under_debug_nans(what):
    variants = fn.grid(learning_rate=[0.01, 1e38, 0.02])
    with what(True), pytest.raises(FloatingPointError, match=r"sweep: variant 1 \(learning_rate=1e\+38\): must stay finite") as found:
        fn.sweep(made, variants, DATA, **SETTINGS)
    assert isinstance(found.value, fn.SweepNotFinite)
    assert found.value.result.table["status"][1] == "diverged"


def test_a_healthy_sweep_raises_nothing_under_debug_nans():
    with jax.debug_nans(True):
        inside = fn.sweep(made, fn.grid(learning_rate=[0.01, 0.02], drop=[0.0, 0.5]), DATA, **SETTINGS, eval_every=3)
    outside = fn.sweep(made, fn.grid(learning_rate=[0.01, 0.02], drop=[0.0, 0.5]), DATA, **SETTINGS, eval_every=3)
    np.testing.assert_array_equal(inside.table["train/loss"], outside.table["train/loss"])


# Ranked by.


def returns(learning_rate):
    """A hand-written triple that reports a return, the larger the better."""
    return fn.Training(
        lambda key: {"x": jnp.zeros(())},
        lambda state, batch, key: ({"x": state["x"] + learning_rate}, {"loss": jnp.float32(0)}),
        lambda state, part: {"return": state["x"], "loss": -state["x"]},
    )


def test_keep_one_keeps_the_best_agent():
    result = fn.sweep(
        returns, fn.grid(learning_rate=[0.1, 0.5, 0.3]), DATA, **SETTINGS, keep=1, metric="validation/return", mode="max", chunk_size=1
    )
    assert result.best().variant == 1 and result.metric == "validation/return" and result.mode == "max"
    assert float(result.state(1)["x"]) == pytest.approx(6.0)
    for row in (0, 2):
        with pytest.raises(ValueError, match=r"keep=n\) keeps the best n by validation/return"):
            result.state(row)
    assert repr(result).index("0.5") < repr(result).index("0.3") < repr(result).index("0.1")


@pytest.mark.parametrize("changed", [{"metric": "validation/return"}, {"metric": "validation/return", "keep": 1}])
def test_a_metric_of_ones_own_needs_a_mode(changed):
    with pytest.raises(ValueError, match=r"sweep: must know which way 'validation/return' is better, got no mode; give mode="):
        fn.sweep(returns, fn.grid(learning_rate=[0.1]), DATA, **SETTINGS, **changed)


def test_or_a_training_that_says_so():
    def recipe(learning_rate):
        return returns(learning_rate)._replace(modes={"return": "max"})

    result = fn.sweep(recipe, fn.grid(learning_rate=[0.1, 0.5]), DATA, **SETTINGS, metric="validation/return")
    assert result.best().variant == 1


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="sweep: unknown metric 'validation/accuracy'; did you mean 'validation/loss'"):
        fn.sweep(made, fn.grid(learning_rate=[0.1]), DATA, **SETTINGS, metric="validation/accuracy")


def test_progress_tells_the_best_in_the_metrics_own_direction():
    seen = []
    fn.sweep(
        returns,
        fn.grid(learning_rate=[0.1, 0.5, 0.3]),
        DATA,
        **(SETTINGS | {"progress": seen.append}),
        metric="validation/return",
        mode="max",
    )
    assert seen[-1].metric == "validation/return" and seen[-1].best == pytest.approx(6.0)


def noisy(learning_rate):
    """Of replicates one is lucky: its variant is the worse in the mean."""

    def init(key):
        return {"x": jax.random.uniform(key)}

    def evaluate(state, part):
        return {"loss": jnp.where(learning_rate > 0.05, jnp.where(state["x"] > LUCK, 0.0, 10.0), 1.0 + 0.1 * state["x"])}

    return fn.Training(init, lambda state, batch, key: (state, {"loss": jnp.float32(0)}), evaluate)


LUCK = 0.0


def test_keep_goes_by_the_mean_over_replicates_and_keeps_its_best_run(monkeypatch):
    probe = fn.sweep(noisy, fn.grid(learning_rate=[0.01]), DATA, replicates=4, **SETTINGS)
    xs = [float(probe.state(row)["x"]) for row in range(4)]
    monkeypatch.setitem(globals(), "LUCK", sorted(xs)[-2])
    result = fn.sweep(noisy, fn.grid(learning_rate=[0.1, 0.01]), DATA, replicates=4, keep=1, **SETTINGS)
    assert result.table["validation/loss"].min() == 0.0  # the lucky seed of 0.1
    best = result.best()
    assert best.hyperparameters == {"learning_rate": 0.01}
    assert best.row == 4 + int(np.argmin(xs)) and float(result.state(best.row)["x"]) == min(xs)
