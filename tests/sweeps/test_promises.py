"""What a sweep promises: identity, quarantine, no surprise compilation, bounded memory."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from forgetting import forget_programs
from properties import assert_close, assert_same_bits

import funcnet as fn
from funcnet.sweeps import run as engine
from funcnet.sweeps.executors import Slot

ROOT = Path(__file__).parents[2]
KEY = jax.random.key(5)
SETTINGS = dict(key=KEY, num_steps=25, batch_size=8, eval_every=10, chunk_size=4, progress=False)


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    return fn.split(fn.Dataset(x, (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)), key=jax.random.key(0))


DATA = make_data()
TRACES = []


def recipe(learning_rate, l2=1e-3, drop=0.2, activation="relu", optimizer="adam"):
    made = fn.training(
        fn.mlp((7, 3), activation, drop),
        fn.cross_entropy,
        fn.optimizer(optimizer, learning_rate),
        in_shape=(5,),
        penalty=fn.l2(l2),
        metrics=["accuracy"],
    )

    def step(state, batch, key):
        TRACES.append(optimizer)
        return made.step(state, batch, key)

    return made._replace(step=step)


RATES = np.geomspace(1e-3, 1.0, 64).tolist()


@pytest.fixture(scope="module")
def sixty_four():
    return fn.sweep(recipe, fn.grid(learning_rate=RATES), DATA, **SETTINGS)


def assert_rows_equal(result, row, other, other_row):
    """The same bits: every metric, every point of every curve, every leaf of the state."""
    for name in result.metrics:
        assert result.table[name][row].tobytes() == other.table[name][other_row].tobytes()
        np.testing.assert_array_equal(result.curves[name][row], other.curves[name][other_row])
    assert_same_bits(result.state(row), other.state(other_row))


# Identity.


@pytest.mark.parametrize("row", [0, 21, 63])
def test_alone_as_in_a_sweep_of_64(sixty_four, row):
    assert_rows_equal(sixty_four, row, fn.sweep(recipe, [{"learning_rate": RATES[row]}], DATA, **SETTINGS), 0)


def test_with_a_diverging_neighbour_and_in_another_order(sixty_four):
    rows = [9, 2, 40]
    neighbours = [{"learning_rate": RATES[rows[0]]}, {"learning_rate": 1e38}, *({"learning_rate": RATES[row]} for row in rows[1:])]
    result = fn.sweep(recipe, neighbours, DATA, **SETTINGS)
    assert result.table["status"].tolist() == ["completed", "diverged", "completed", "completed"]
    for row, other in zip(rows, (0, 2, 3), strict=True):
        assert_rows_equal(sixty_four, row, result, other)


_ON_DEVICES = """
import sys
sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
import jax
import funcnet as fn
import test_promises as t
assert jax.local_device_count() == 4
rates = [{{"learning_rate": rate}} for rate in t.RATES[:12]] + [{{"learning_rate": 1e38}}]
fn.sweep(t.recipe, rates, t.DATA, **t.SETTINGS).save(sys.argv[1])
"""


def test_in_another_process_of_four_devices(sixty_four, tmp_path):
    """On one, two and eight as on four: test_devices."""
    code = _ON_DEVICES.format(root=str(ROOT), tests=str(ROOT / "tests"), here=str(Path(__file__).parent))
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)
    result = fn.load_result(tmp_path, recipe)
    assert result.table["status"][12] == "diverged"
    for row in range(12):
        assert_rows_equal(sixty_four, row, result, row)


@pytest.mark.parametrize(
    "extra",
    [{"batch_size": 5, "num_steps": 13}, {"batch_size": None}, {"num_examples": 17}, {"num_examples": 17, "batch_size": None}],
    ids=str,
)
def test_a_row_is_what_fit_gives(extra):
    """To rounding: fit is another program. num_examples is what fit gives on the first so many examples."""
    drop = 0.0 if extra == {"num_examples": 17, "batch_size": None} else 0.3  # all examples draw, seen or not: other draws than fit's
    variants = [{"learning_rate": rate, "l2": 1e-2, "drop": drop, **extra} for rate in (0.003, 0.03)]
    result = fn.sweep(recipe, variants, DATA, replicates=2, **SETTINGS)
    limit = extra.get("num_examples", len(DATA.train.y))
    seen = DATA._replace(train=fn.Dataset(DATA.train.x[:limit], DATA.train.y[:limit]))

    @jax.jit
    def fit(learning_rate, key):
        steps, batch_size = extra.get("num_steps", 25), extra.get("batch_size", 8)
        return fn.fit(recipe(learning_rate, 1e-2, drop), seen, key=key, num_steps=steps, batch_size=batch_size, eval_every=10)

    for row in range(4):
        fitted = fit(result.table["learning_rate"][row], jax.random.fold_in(KEY, int(result.table["replicate"][row])))
        assert_close(result.state(row), jax.device_get(fitted.state), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(result.curves["step"], fitted.curves["step"])
        for name in ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy"):
            np.testing.assert_allclose(result.curves[name][row], fitted.curves[name], rtol=1e-4, atol=1e-5)
            assert result.table[name][row] == result.curves[name][row][-1]


def test_with_randomness_of_its_own_a_row_is_what_fit_gives_with_the_variant_folded_in():
    result = fn.sweep(recipe, fn.grid(learning_rate=[0.01, 0.03]), DATA, replicates=2, randomness="independent", **SETTINGS)
    assert result.table["variant"][3] == result.table["replicate"][3] == 1
    key = jax.random.fold_in(jax.random.fold_in(KEY, 1), 1)
    fitted = jax.jit(lambda rate: fn.fit(recipe(rate), DATA, key=key, num_steps=25, batch_size=8))(0.03)
    assert_close(result.state(3), jax.device_get(fitted.state), rtol=1e-4, atol=1e-5)


def test_in_float64_a_row_is_what_fit_gives_to_ten_digits():
    fn.sweep(recipe, fn.grid(learning_rate=[0.01, 0.03]), DATA, **SETTINGS)  # in float32: its programs must not serve float64
    with jax.enable_x64(True):
        data = jax.tree.map(lambda leaf: leaf.astype(np.float64 if leaf.dtype == np.float32 else np.int64), DATA)
        result = fn.sweep(recipe, fn.grid(learning_rate=[0.01, 0.03]), data, **SETTINGS)
        key = jax.random.fold_in(KEY, 0)
        fitted = jax.jit(lambda rate: fn.fit(recipe(rate), data, key=key, num_steps=25, batch_size=8))(jnp.float64(0.03))
        assert result.state(1).params[0]["weight"].dtype == np.float64
        assert_close(result.state(1), jax.device_get(fitted.state), rtol=1e-10, atol=1e-12)


def test_each_variant_of_a_mixed_sweep_is_what_it_is_alone():
    """Batch sizes, lengths and replicates mixed: every row as in a sweep of its variant."""
    variants = fn.grid(batch_size=[8, None], num_steps=[13, 25], learning_rate=[0.01, 0.1])
    mixed = fn.sweep(recipe, variants, DATA, replicates=2, **SETTINGS)
    assert len(mixed.timing["lane_widths"]) == 2 and mixed.table["steps"].tolist() == ([13] * 4 + [25] * 4) * 2
    for row in (0, 3, 6, 9, 15):
        variant, replicate = divmod(row, 2)
        alone = fn.sweep(recipe, [variants[variant]], DATA, replicates=2, **SETTINGS)
        for name in mixed.metrics:
            assert alone.table[name][replicate] == mixed.table[name][row]
        assert_close(alone.state(replicate), mixed.state(row))


# Quarantine.


def test_a_diverged_run_is_frozen_marked_and_never_best():
    result = fn.sweep(recipe, fn.grid(learning_rate=[1e38, 0.01], optimizer=["sgd"]), DATA, **SETTINGS)
    assert result.table["status"].tolist() == ["diverged", "completed"]
    assert 0 <= result.table["steps"][0] < 5 and result.table["steps"][1] == 25
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result.state(0)))
    assert result.state(0).step == result.table["steps"][0]  # the last finite state: no later step has touched it
    for name in result.metrics:
        assert np.isnan(result.table[name][0]) and np.all(np.isnan(result.curves[name][0]))
        assert result.best(name, "min").row == result.best(name, "max").row == 1


def test_a_number_beyond_float32_diverges_in_silence():
    result = fn.sweep(recipe, fn.grid(learning_rate=[0.01, 1e39]), DATA, **SETTINGS)
    assert result.table["status"].tolist() == ["completed", "diverged"] and result.table["learning_rate"][1] == 1e39


def test_when_every_run_diverges_best_says_so():
    result = fn.sweep(recipe, fn.grid(learning_rate=[1e38], optimizer=["sgd"]), DATA, **SETTINGS)
    with pytest.raises(ValueError, match="best: needs a variant whose every run completed .*, got none: of 1 run 1 diverged "):
        result.best()
    assert "1 run, 1 diverged" in str(result)


# No surprise compilation.


class Compilations:
    """Counts what XLA compiles while it is entered."""

    def __enter__(self):
        self.count, self.listening = 0, True

        def listen(event: str, seconds: float, **_):
            self.count += self.listening and event == "/jax/core/compile/backend_compile_duration"

        jax.monitoring.register_event_duration_secs_listener(listen)
        return self

    def __exit__(self, *_):
        self.listening = False


def test_64_numeric_variants_compile_each_program_once_and_a_second_sweep_nothing():
    def fresh(learning_rate, l2):
        return recipe(learning_rate, l2, activation="softplus")

    def variants(seed):
        return fn.space(learning_rate=fn.log_uniform(1e-3, 1.0), l2=fn.log_uniform(1e-6, 1.0)).sample(64, key=jax.random.key(seed))

    TRACES.clear()
    forget_programs()  # draw may be another sweep's too
    first = fn.sweep(fresh, variants(0), DATA, **SETTINGS)
    assert first.timing["programs"] == 4  # init, draw, advance and evaluate, for 16 chunks
    traced = len(TRACES)
    jax.block_until_ready(jax.random.fold_in(jax.random.key(9), 3))
    with Compilations() as compilations:
        second = fn.sweep(fresh, variants(1), DATA, **(SETTINGS | {"num_steps": 35, "eval_every": 7, "key": jax.random.key(9)}))
    assert (second.timing["programs"], compilations.count) == (0, 0)
    assert len(TRACES) == 2 * traced > 0  # it is traced once, for one lane: to see that it computes what it did


def test_a_recipe_written_anew_with_the_same_code_compiles_nothing():
    def make():
        def rewritten(learning_rate):
            return recipe(learning_rate, activation="silu")

        return rewritten

    variants = fn.grid(learning_rate=[0.1, 0.2])
    first, second = (fn.sweep(make(), variants, DATA, **SETTINGS) for _ in range(2))
    assert first.timing["programs"] > 0 and second.timing["programs"] == 0
    assert_rows_equal(first, 1, second, 1)


def test_a_constant_that_a_recipe_closes_over_is_part_of_its_program():
    def make(constant):
        def scaled(learning_rate):
            made = recipe(learning_rate, activation="elu")
            return made._replace(evaluate=lambda state, dataset: {"loss": made.evaluate(state, dataset)["loss"] * constant})

        return scaled

    one, ten = (fn.sweep(make(np.float32(c)), fn.grid(learning_rate=[0.1]), DATA, **SETTINGS) for c in (1, 10))
    np.testing.assert_allclose(ten.table["train/loss"], 10 * one.table["train/loss"], rtol=1e-6)


def test_one_program_a_group():
    result = fn.sweep(recipe, fn.grid(learning_rate=[0.1, 0.2], activation=["relu", "tanh"], optimizer=["sgd", "adam"]), DATA, **SETTINGS)
    assert result.timing["lane_widths"] == [4] * 4


# Bounded memory.


@pytest.mark.parametrize("slots", [1, 2])
def test_a_memory_budget_narrows_the_lanes_and_keeps_the_results(slots, monkeypatch):
    monkeypatch.setattr(engine, "local_slots", lambda: [Slot(jax.devices()[0], i) for i in range(slots)])
    arguments = {name: value for name, value in SETTINGS.items() if name != "chunk_size"}
    variants = fn.grid(learning_rate=RATES[:40])
    wide = fn.sweep(recipe, variants, DATA, **arguments)
    narrow = fn.sweep(recipe, variants, DATA, memory_budget=50_000 * slots, **arguments)
    assert 1 < narrow.timing["lane_widths"][0] < wide.timing["lane_widths"][0] == {1: 48, 2: 24}[slots]
    for name in wide.metrics:
        np.testing.assert_allclose(narrow.table[name], wide.table[name], rtol=1e-4, atol=1e-5)
    smallest = fn.sweep(recipe, variants[:2], DATA, memory_budget=1, **arguments)
    assert smallest.timing["lane_widths"] == [1]


def test_keep_holds_the_best_states_alone(sixty_four):
    result = fn.sweep(recipe, fn.grid(learning_rate=RATES), DATA, keep=3, **SETTINGS)
    best = sixty_four.ranking("validation/loss")
    for row in best[:3]:
        assert_same_bits(result.state(int(row)), sixty_four.state(int(row)))
    with pytest.raises(
        ValueError, match=r"state: row must be one whose state was kept, got \d+; sweep\(..., keep=n\) keeps the best n by validation/loss"
    ):
        result.state(int(best[3]))
    assert result.best("validation/loss").row == best[0]


# A lane is looked at after a stretch of steps, and frozen where it was lost all the same.

LOST_AT = [0.0, 1.0, 40.0, 63.0, 64.0, 65.0, 100.0, 127.0, 128.0, 149.0, 1e6]  # the last one never


def counts(lost_at, transient):
    """Counts its steps; what it meets at one of them is not finite, and with transient only there."""

    def step(state, batch, key):
        here = state == lost_at
        after = state + (1 if transient else jnp.where(here, jnp.inf, 1.0))
        return after, {"loss": jnp.where(here, jnp.nan, 0.0) if transient else 0.0 * state}

    return fn.Training(lambda key: jnp.zeros(()), step, lambda state, data: {"count": state})


@pytest.mark.parametrize("transient", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 4, 16])
def test_a_lane_is_frozen_at_the_step_it_is_lost_at(chunk_size, transient):
    settings = SETTINGS | dict(num_steps=150, eval_every=50, chunk_size=chunk_size)
    result = fn.sweep(counts, fn.grid(transient=[transient], lost_at=LOST_AT), DATA, **settings)
    steps = [150 if lost_at == 1e6 else int(lost_at) for lost_at in LOST_AT]
    assert result.table["steps"].tolist() == steps
    assert [float(result.state(row)) for row in range(len(LOST_AT))] == steps
    assert result.table["status"].tolist() == ["diverged"] * 10 + ["completed"]
    for row, lost_at in enumerate(LOST_AT):
        expected = [at if at <= lost_at else np.nan for at in (50, 100, 150)]
        np.testing.assert_array_equal(result.curves["train/count"][row], expected)


# Names that ride in the batch.

TRACED = fn.grid(
    learning_rate=[0.003, 0.03], activation=fn.traced(["relu", "tanh", "sigmoid"]), optimizer=fn.traced(["sgd", "adam"]), drop=[0.0]
)


@pytest.fixture(scope="module")
def traced():
    return fn.sweep(recipe, TRACED, DATA, **SETTINGS)


def test_traced_names_share_one_program(traced):
    assert len(traced.timing["lane_widths"]) == 1
    assert traced.table["activation"].tolist() == [variant["activation"].value for variant in TRACED]
    assert traced.training(3).evaluate(traced.state(3), DATA.validation)["loss"] == pytest.approx(
        traced.table["validation/loss"][3], rel=1e-5
    )


def test_a_traced_name_trains_as_the_name_itself(traced):
    """To rounding: it is another program."""
    plain = fn.sweep(recipe, [{name: getattr(value, "value", value) for name, value in v.items()} for v in TRACED], DATA, **SETTINGS)
    assert len(plain.timing["lane_widths"]) == 6
    for name in traced.metrics:
        np.testing.assert_allclose(traced.curves[name], plain.curves[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row", [0, 5, 11])
def test_a_traced_name_is_the_same_alone_and_among_others(traced, row):
    assert_rows_equal(traced, row, fn.sweep(recipe, [TRACED[row]], DATA, **SETTINGS), 0)


def test_a_recipe_that_looks_at_a_traced_name_is_told_before_anything_trains():
    def looks(learning_rate, activation):
        return recipe(learning_rate, activation="relu" if activation == "relu" else "tanh")

    variants = fn.grid(learning_rate=[0.1], activation=fn.traced(["relu", "tanh"]))
    with pytest.raises(TypeError, match="may only hand on a traced name"):
        fn.sweep(looks, variants, DATA, **SETTINGS)
    fn.sweep(looks, fn.grid(learning_rate=[0.1], activation=["relu", "tanh"]), DATA, **SETTINGS)
