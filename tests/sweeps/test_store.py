"""A sweep that is kept in a folder: called again it goes on, grows or is refused, and ends with the bits of one that nothing disturbed."""

import dataclasses
import errno
import importlib.util
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet import prune
from funcnet.policy import Decisions, Policy
from funcnet.sweeps import executors, files, loop, program, store
from funcnet.sweeps import run as engine
from funcnet.sweeps.executors import Slot
from funcnet.sweeps.files import Folder

search_module = sys.modules["funcnet.sweeps.searching"]  # `funcnet.sweeps.searching` is the function
ROOT = pathlib.Path(__file__).parents[2]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype(np.float32)
DATA = fn.split(fn.Dataset(X, X[:, :1] - X[:, 1:2]), key=jax.random.key(0))
RATES = np.geomspace(1e-3, 0.5, 6).tolist()
KEY = jax.random.key(5)
# Of 150 steps the host looks at a chunk after 64, 128 and 150: enough moments at which something can come in between.
SETTINGS = dict(key=KEY, num_steps=150, batch_size=8, eval_every=50, progress=False, chunk_size=4)


# Recipes: two nets of funcnet's own, and two of pure arithmetic, which compile in no time.


def net(learning_rate, width=3, activation="tanh", optimizer="momentum"):
    return fn.training(fn.mlp((width, 1), activation), fn.squared_error, fn.optimizer(optimizer, learning_rate), in_shape=(4,))


def line(learning_rate, scale=1.0, shift=0.0):
    """y = w·x by gradient descent, with a noise of its own."""

    def init(key):
        return jax.random.normal(key, (4,))

    def loss(w, batch):
        return scale * jnp.mean((batch.x @ w + shift - batch.y[:, 0]) ** 2)

    def step(w, batch, key):
        value, slope = jax.value_and_grad(loss)(w, batch)
        return w - learning_rate * (slope + 1e-11 * jax.random.key_data(key)[0].astype(jnp.float32)), {"loss": value}

    return fn.Training(init, step, lambda w, part: {"loss": loss(w, part)})


def fails_at(lost_at, learning_rate=0.1):
    """Counts its steps, and from one on has no finite state."""

    def step(state, batch, key):
        return jnp.where(state == lost_at, jnp.inf, state + 1), {"loss": 0.0 * learning_rate}

    return fn.Training(lambda key: jnp.zeros(()), step, lambda state, data: {"loss": learning_rate + 0 * state})


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Box:
    weight: jax.Array
    count: jax.Array


class Memory(NamedTuple):
    box: Box
    key: jax.Array
    nothing: jax.Array
    flag: jax.Array


def odd(learning_rate):
    """A state of every kind of leaf: bfloat16, a whole number, a random key, an empty array, a bool; a dataclass in a NamedTuple."""

    def init(key):
        weight = jax.random.normal(key, (3,)).astype(jnp.bfloat16)
        return Memory(Box(weight, jnp.zeros((), jnp.int32)), key, jnp.zeros((0, 2)), jnp.array(True))

    def step(state, batch, key):
        own, now = jax.random.split(state.key)
        noise = learning_rate * jax.random.normal(now, (3,))
        weight = (state.box.weight.astype(jnp.float32) * 0.99 + noise).astype(jnp.bfloat16)
        return Memory(Box(weight, state.box.count + 1), own, state.nothing, ~state.flag), {}

    def evaluate(state, part):
        return {"loss": jnp.sum(state.box.weight.astype(jnp.float32) ** 2) + state.box.count.astype(jnp.float32)}

    return fn.Training(init, step, evaluate)


def stateless(learning_rate):
    return fn.Training(lambda key: (), lambda state, batch, key: ((), {}), lambda state, part: {"loss": learning_rate * jnp.mean(part.x)})


def rates(*values):
    return fn.grid(learning_rate=list(values or RATES))


WIDE = np.geomspace(1e-4, 2.0, 9).tolist()  # some are good, some diverge
FAMILIES = {
    "net": (net, rates(), {}),
    "several programs": (net, fn.grid(learning_rate=RATES[:3], width=[2, 3]), {}),
    "traced names": (net, fn.grid(learning_rate=RATES[:3], activation=fn.traced(["relu", "tanh"])), {}),
    "own batch_size and num_steps": (line, fn.grid(learning_rate=RATES[:2], batch_size=[4, 8], num_steps=[70, 150]), {}),
    "num_examples": (line, fn.grid(learning_rate=RATES[:3], num_examples=[12, 20]), {}),
    "replicates": (line, rates(), dict(replicates=3)),
    "independent": (line, rates(), dict(randomness="independent", replicates=2)),
    "keep": (line, rates(), dict(keep=2, replicates=2)),
    "keep_best": (line, rates(*WIDE), dict(keep_best=True, eval_every=15)),
    "keep_best and keep": (line, rates(*WIDE), dict(keep_best=True, keep=2, eval_every=15, replicates=2)),
    "diverging": (fails_at, [dict(lost_at=float(lost)) for lost in (3, 63, 64, 100, 149, 1e6, 1e6, 1e6)], {}),
    "all diverging": (fails_at, [dict(lost_at=float(lost)) for lost in (3, 63, 64, 100)], {}),
    "odd leaves": (odd, rates(), {}),
    "odd leaves, keep_best": (odd, rates(), dict(keep_best=True, eval_every=25)),
    "rbg keys": (odd, rates(), dict(key=jax.random.key(3, impl="rbg"), replicates=2)),
    "no leaves": (stateless, rates(), {}),
    "no validation": (line, rates(), dict(data=DATA.train)),
    "once evaluated": (line, rates(), dict(eval_every=None)),
    "full batch": (line, rates(), dict(batch_size=None)),
}
RULES = {
    "patience": prune.patience(1),
    "threshold": prune.threshold(above=1.0),
    "median": prune.median(),
    "percentile": prune.percentile(0.3),
    "successive_halving": prune.successive_halving(10),
    "hyperband": prune.hyperband(10),
    "asha": prune.asha(10),
}
FAMILIES |= {name: (line, rates(*WIDE), dict(prune=rule, eval_every=20)) for name, rule in RULES.items()}
FAMILIES |= {"asha, programs": (net, fn.grid(learning_rate=WIDE[::2], width=[2, 3]), dict(prune=RULES["asha"]))}
FAMILIES |= {"median, replicates, best": (line, rates(*WIDE), dict(prune=RULES["median"], eval_every=20, replicates=2, keep_best=True))}
every_family = pytest.mark.parametrize("name", FAMILIES)


def swept(recipe, variants=None, data=DATA, **changed):
    """The sweep of a family, by its name, or of a recipe."""
    settings = {}
    if isinstance(recipe, str):
        recipe, variants, settings = FAMILIES[recipe]
    settings = {"data": data} | SETTINGS | settings | changed
    return fn.sweep(recipe, rates() if variants is None else variants, **settings)


_UNDISTURBED = {}


def undisturbed(name):
    """Its result without a store, computed once."""
    if name not in _UNDISTURBED:
        _UNDISTURBED[name] = swept(name)
    return _UNDISTURBED[name]


def bits(leaf):
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    return str(leaf.dtype), array.shape, array.tobytes()


def assert_same(result, expected, rows=None, columns=None):
    """The same table, curves and states, bit for bit.

    Args:
      rows: of both; all of them where it is None.
      columns: of the curves, the steps that both have; where it is None they have the same.
    """
    rows = range(len(expected)) if rows is None else rows
    if columns is None:
        assert len(result) == len(expected) and result.curves["step"].tolist() == expected.curves["step"].tolist()
        assert sorted(result._states) == sorted(expected._states)
        assert result.ranking().tolist() == expected.ranking().tolist()
    assert list(result.table) == list(expected.table)
    for name, column in expected.table.items():
        for row in rows:
            one, other = result.table[name][row], column[row]
            assert one == other or (one != one and other != other), (name, row, one, other)
    steps = expected.curves["step"].tolist() if columns is None else columns
    places, others = (np.searchsorted(each.curves["step"], steps) for each in (result, expected))
    for name in expected.curves.keys() - {"step"}:
        np.testing.assert_array_equal(result.curves[name][list(rows)][:, places], expected.curves[name][list(rows)][:, others])
    for row in rows:
        if row in expected._states:
            one, other = result.state(row), expected.state(row)
            assert jax.tree.structure(one) == jax.tree.structure(other)
            assert list(map(bits, jax.tree.leaves(one))) == list(map(bits, jax.tree.leaves(other))), row


def assert_same_views(result, expected):
    """What a user asks a result for."""
    for name, column in expected.by_variant().items():
        np.testing.assert_array_equal(result.by_variant()[name], column)
    if (expected.table["status"] == "completed").any():
        one, other = result.best(), expected.best()
        assert (one.row, one.hyperparameters, one.metrics) == (other.row, other.hyperparameters, other.metrics)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Every moment is stored, and chunks train one after another: what happens when is the same each time."""
    monkeypatch.setattr(store, "_LEAST", 0.0)
    monkeypatch.setattr(store, "_SHARE", 1e9)
    slots(monkeypatch, 1)


def slots(monkeypatch, count):
    monkeypatch.setattr(engine, "local_slots", lambda: [Slot(jax.devices()[0], i) for i in range(count)])


@pytest.fixture
def trained(monkeypatch):
    """The steps that each task takes."""
    own, steps = executors.run_task, []

    def noted(task, here, seconds=None):
        done = own(task, here, seconds)
        steps.append(done.at - task.at)
        return done

    monkeypatch.setattr(executors, "run_task", noted)
    return steps


@pytest.fixture
def nothing_is_trained(monkeypatch):
    """Nor compiled."""

    def fails(*_, **__):
        raise AssertionError("something was trained or compiled")

    def forbid():
        monkeypatch.setattr(executors, "run_task", fails)
        monkeypatch.setattr(program, "_compile", fails)

    return forbid


def events(folder):
    return [json.loads(line) for line in (pathlib.Path(folder) / "events.jsonl").read_text().splitlines()]


def told(folder):
    return [event["event"] for event in events(folder)]


def contents(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def stop_after(steps, error=KeyboardInterrupt):
    """A progress function that raises once so many steps are done."""

    def tell(progress):
        if progress.steps_done >= steps:
            raise error

    return tell


# Called again after it finished.


@every_family
def test_a_finished_sweep_is_what_its_store_says(tmp_path, name, nothing_is_trained):
    first = swept(name, store=tmp_path)
    assert_same(first, undisturbed(name))
    before = {file: raw for file, raw in contents(tmp_path).items() if file != "events.jsonl"}
    nothing_is_trained()
    for _ in range(2):
        again = swept(name, store=tmp_path)
        assert again.timing["programs"] == 0
        assert_same(again, first)
        assert_same_views(again, first)
    assert {file: raw for file, raw in contents(tmp_path).items() if file != "events.jsonl"} == before


# Interrupted.


SEVERAL_PLACES = ("several programs", "keep_best and keep", "odd leaves", "successive_halving", "asha")


@pytest.mark.parametrize(("name", "count"), [*((name, 1) for name in FAMILIES), *((name, 3) for name in SEVERAL_PLACES)])
def test_interrupted_again_and_again_it_ends_as_if_nothing_had_been(tmp_path, name, count, monkeypatch, trained):
    slots(monkeypatch, count)
    whole = undisturbed(name)
    del trained[:]
    swept(name)
    work = sum(trained)
    del trained[:]
    total, stops = int(whole.table["steps"].sum()), 0
    for share in (0.01, 0.3, 0.3, 0.6, 0.9):
        try:
            swept(name, store=tmp_path, progress=stop_after(share * total))
        except KeyboardInterrupt as error:
            if not isinstance(error, fn.SweepStopped):  # nothing had begun
                continue
            stops += 1
            assert "the same call goes on from what is stored" in str(error)
            for row in range(len(whole)):
                status = error.result.table["status"][row]
                assert status in ("unfinished", whole.table["status"][row])
                if status != "unfinished":
                    assert_same(error.result, whole, [row], [])
    assert stops
    result = swept(name, store=tmp_path)
    if name.startswith("asha"):  # who goes on depends on what is known when a place is free
        if count == 1:
            assert_same(result, whole)
        return
    assert_same(result, whole)
    if "prune" not in FAMILIES[name][2]:  # else the survivors may be packed into other chunks
        assert sum(trained) == work, "a step was taken twice"
    assert_same(swept(name, store=tmp_path), whole)


ERRORS = {"Ctrl-C": (KeyboardInterrupt(), fn.SweepStopped), "an error": (ValueError("of the user's"), fn.SweepFailed)}


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("name", ["net", "keep_best", "median", "asha"])
def test_a_callback_that_raises_ends_the_sweep_and_loses_no_row(tmp_path, name, kind, trained):
    """Wherever it is: it is told nothing more, and what it wasn't told of is measured all the same."""
    whole, (error, expected) = undisturbed(name), ERRORS[kind]
    for number in (3, 2):
        calls = []

        def fails(evaluation, calls=calls, number=number):
            calls.append(evaluation.step)
            if len(calls) == number:
                raise error

        with pytest.raises(expected, match=r"which the error's .result holds; the same call goes on from what is stored") as caught:
            swept(name, store=tmp_path, callback=fails)
        assert len(calls) == number and caught.value.__cause__ is error
        result = caught.value.result
        assert (result.table["steps"] > 0).any()
        for row in np.flatnonzero(result.table["status"] != "unfinished"):
            assert_same(result, whole, [row], [])
    assert_same(swept(name, store=tmp_path), whole)


@pytest.mark.parametrize("name", ["net", "replicates", "keep", "successive_halving", "asha, programs"])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_chunk_that_fails_once(tmp_path, name, number, monkeypatch):
    own, calls = executors.run_task, []

    def fails(task, here, seconds=None):
        calls.append(task.at)
        if len(calls) == number:
            raise RuntimeError("the device is lost")
        return own(task, here, seconds)

    with monkeypatch.context() as patched:
        patched.setattr(executors, "run_task", fails)
        kind = fn.SweepFailed if number > 1 else RuntimeError  # before anything has ended its stretch it is itself
        with pytest.raises(kind, match="the device is lost") as caught:
            swept(name, store=tmp_path)
    with Folder(tmp_path) as folder:
        assert (folder.snapshot.content["steps_done"] > 0) == (number > 1)
    if number > 1:
        assert "the same call goes on from what is stored" in str(caught.value) and len(caught.value.result)
    assert "failed" in told(tmp_path)
    assert_same(swept(name, store=tmp_path), undisturbed(name))


class Clock:
    """A second passes with each task."""

    def __init__(self, tasks):
        self.tasks = tasks

    def monotonic(self):
        return float(len(self.tasks))


@pytest.mark.parametrize("name", ["several programs", "diverging", "keep_best and keep", "median", "asha"])
def test_time_that_is_over_loses_no_step(tmp_path, name, monkeypatch, trained):
    whole, sessions = undisturbed(name), 0
    del trained[:]
    swept(name)
    work, statuses = sum(trained), []
    del trained[:]
    with monkeypatch.context() as patched:
        for module in (engine, loop):
            patched.setattr(module, "time", Clock(trained))
        while True:
            result = swept(name, store=tmp_path, max_seconds=2)
            sessions += 1
            statuses = result.table["status"].tolist()
            if "unfinished" not in statuses:
                break
            assert told(tmp_path)[-1] == "out of time" and sessions < 200
            for row in np.flatnonzero(result.table["status"] != "unfinished"):
                assert_same(result, whole, [row], [])
    assert sessions > 1
    assert_same(result, whole)
    if name not in ("median", "asha"):
        assert sum(trained) == work


def test_what_waits_for_its_programs_is_not_lost(tmp_path, monkeypatch, trained):
    """A second stop, before the programs of all that is stored are compiled again, may not forget it."""
    whole = undisturbed("several programs")
    del trained[:]
    swept("several programs")
    work = sum(trained)
    del trained[:]
    with pytest.raises(fn.SweepStopped):
        swept("several programs", store=tmp_path, progress=stop_after(1))
    assert 0 < sum(trained) < work
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(store.Store, "_place", lambda self, loop: object())  # something has always happened, and is written
            with pytest.raises(KeyboardInterrupt):
                swept("several programs", store=tmp_path, progress=stop_after(0))
    assert_same(swept("several programs", store=tmp_path), whole)
    assert sum(trained) == work


def run_in_a_process(code, *arguments, **more):
    """Starts Python code that has this file's names."""
    begin = "import sys, importlib.util\nspec = importlib.util.spec_from_file_location('stored', sys.argv[1])\n"
    begin += "stored = importlib.util.module_from_spec(spec); sys.modules['stored'] = stored; spec.loader.exec_module(stored)\n"
    begin += "from stored import *\nimport jax\nstore._LEAST, store._SHARE = 0.0, 1e9\n"
    begin += "jax.config.update('jax_numpy_dtype_promotion', 'strict')\njax.config.update('jax_numpy_rank_promotion', 'raise')\n"
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", begin + code, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **more)


IN_PROCESSES = ["net", "odd leaves", "successive_halving"]
BEGINS = """
for name in sys.argv[3:]:
    try:
        swept(name, store=f"{sys.argv[2]}/{name}", progress=stop_after(100))
    except fn.SweepStopped:
        print(name)
"""
HOLDS = """
import time
def hold(progress):
    if progress.steps_done >= 300:
        print("holds", flush=True)
        while True:
            time.sleep(1)
swept("net", store=sys.argv[2], progress=hold)
"""


def test_another_process_goes_on_and_a_killed_one_is_succeeded(tmp_path):
    process = run_in_a_process(BEGINS, tmp_path, *IN_PROCESSES)
    other = run_in_a_process(HOLDS, tmp_path / "held")
    out, err = process.communicate(timeout=240)
    assert out.split("\n")[:-1] == IN_PROCESSES, err
    try:
        for name in IN_PROCESSES:
            assert_same(swept(name, store=tmp_path / name), undisturbed(name))
            assert "resumed" in told(tmp_path / name)
        assert other.stdout.readline() == "holds\n"
        before = contents(tmp_path / "held")
        host = os.uname().nodename
        for _ in range(2):
            with pytest.raises(
                fn.StoreInUse, match=rf"sweep: store: .* is in use by process {other.pid} on host {host}; wait until it ends"
            ):
                swept("net", store=tmp_path / "held")
        assert contents(tmp_path / "held") == before
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate(timeout=60)
    assert_same(swept("net", store=tmp_path / "held"), undisturbed("net"))
    assert "resumed" in told(tmp_path / "held")


def test_a_finished_sweep_in_a_fresh_process(tmp_path):
    """Whatever the salt of Python's hashes."""
    for name in IN_PROCESSES:
        swept(name, store=tmp_path / name)
    code = """
program._compile = executors.run_task = None
import pickle
results = {name: swept(name, store=f"{sys.argv[2]}/{name}") for name in sys.argv[3:]}
for name, result in results.items():
    assert result.timing["programs"] == 0
    result.save(f"{sys.argv[2]}/{name}.saved")
"""
    process = run_in_a_process(code, tmp_path, *IN_PROCESSES)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    for name in IN_PROCESSES:
        loaded = fn.load_result(tmp_path / f"{name}.saved", FAMILIES[name][0])
        assert_same(loaded, undisturbed(name))


# Another sweep is refused.

WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0], np.float32)


def changing(learning_rate, constant=0.5, weights=WEIGHTS, more=False, activation="tanh"):
    """A recipe of which each part can be changed without a hyperparameter."""
    made = line(learning_rate)
    init = (lambda key: (made.init(key), jnp.zeros(2))) if more else (lambda key: (made.init(key),))

    def step(state, batch, key):
        w, metrics = made.step(state[0], batch, key)
        return (constant * w + 0.01 * jnp.asarray(weights), *state[1:]), metrics

    return fn.Training(init, step, lambda state, part: made.evaluate(state[0], part))


def other(**changed):
    def recipe(learning_rate, activation="tanh"):
        return changing(learning_rate, activation=activation, **changed)

    return recipe


def moved(data):
    x = data.train.x.copy()
    x[3, 2] = np.nextafter(x[3, 2], np.float32(9))
    return data._replace(train=data.train._replace(x=x))


NAMED = fn.grid(learning_rate=RATES[:2], activation=fn.traced(["relu", "tanh"]))
PRUNED = dict(prune=prune.median())
REFUSED = {  # what is stored, what is given then, what the message says
    "a constant": ({}, dict(recipe=other(constant=0.25)), "what the recipe computes .of variant 0.: stored something else, given this"),
    "an array": ({}, dict(recipe=other(weights=WEIGHTS + 1)), "the arrays that the recipe holds .of variant 0."),
    "a leaf": ({}, dict(recipe=other(more=True)), "the state that the recipe makes .of variant 0."),
    "a number of the data": ({}, dict(data=moved(DATA)), "another .data: stored .*train"),
    "no validation": ({}, dict(data=DATA.train), "data: stored .*validation.*, given .*None"),
    "key": ({}, dict(key=jax.random.key(6)), "key: stored .*5.*, given .*6"),
    "kind of key": ({}, dict(key=jax.random.key(5, impl="rbg")), "key: stored .*threefry2x32.*, given .*rbg"),
    "randomness": ({}, dict(randomness="independent"), "randomness: stored shared, given independent"),
    "replicates": ({}, dict(replicates=2), "replicates: stored 1, given 2"),
    "eval_every": ({}, dict(eval_every=25), "eval_every: stored 50, given 25"),
    "no eval_every": ({}, dict(eval_every=None), "eval_every: stored 50, given None"),
    "metric": ({}, dict(metric="train/loss"), "metric: stored validation/loss, given train/loss"),
    "mode": ({}, dict(mode="max"), "mode: stored min, given max"),
    "keep": (dict(keep=2), dict(keep=1), "keep: stored 2, given 1"),
    "keep_best": ({}, dict(keep_best=True), "keep_best: stored False, given True"),
    "a rule": ({}, PRUNED, "rule: stored None, given .*median"),
    "another rule": (PRUNED, dict(prune=prune.patience(1)), "rule: stored .*median.*, given .*patience"),
    "a rule's arguments": (dict(prune=prune.patience(1)), dict(prune=prune.patience(2)), "rule: stored .*patience.*, given .*patience"),
    "fewer variants": ({}, dict(variants=rates(*RATES[:3])), "variants: stored 4, given 3"),
    "a hyperparameter": ({}, dict(variants=rates(*RATES[:3], 0.7)), "variant 3: stored .*learning_rate.*, given .*0x1.66"),
    "more before": ({}, dict(variants=rates(0.7, *RATES[:4])), "variant 0: stored .*, given .*more variants go after the stored ones"),
    "fewer steps": ({}, dict(num_steps=100), "num_steps of variant 0: stored 150, given 100"),
    "batch_size": ({}, dict(batch_size=4), "batch_size of variant 0: stored 8, given 4"),
    "names": (
        dict(variants=NAMED),
        dict(variants=NAMED + fn.grid(learning_rate=[0.1], activation=fn.traced(["sigmoid"]))),
        "the names that variants choose from",
    ),
    "a variant more under a rule": (PRUNED, PRUNED | dict(variants=rates(*RATES)), "a sweep that prunes can't grow: median has decided"),
    "steps more under a rule": (PRUNED, PRUNED | dict(num_steps=200), "a sweep that prunes can't grow: median has decided"),
    "steps more, states gone": (
        dict(keep=2),
        dict(keep=2, num_steps=200),
        "must have kept their last states .* got none of row .*keep=None",
    ),
    "steps more, states of before": (dict(keep_best=True), dict(keep_best=True, num_steps=200), "must have kept their last states"),
}


@pytest.fixture(scope="module")
def stored_before(tmp_path_factory):
    """A folder for each thing that REFUSED stores first."""
    made = {}

    def folder(settings):
        name = str(sorted(settings)) + str(settings.get("prune"))
        if name not in made:
            made[name] = tmp_path_factory.mktemp("refused") / "store"
            swept(**(dict(recipe=other(), variants=rates(*RATES[:4])) | settings), store=made[name])
        return made[name]

    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_another_sweep_is_refused_and_the_folder_stays_as_it_was(name, stored_before, nothing_is_trained):
    before, given, said = REFUSED[name]
    folder = stored_before(before)
    was = contents(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(executors, "run_task", None)
        with pytest.raises(ValueError, match=rf"sweep: store: .*{said}"):
            swept(**(dict(recipe=other(), variants=rates(*RATES[:4])) | before | given), store=folder)
    after = contents(folder)
    assert after.keys() == was.keys() and {n: raw for n, raw in after.items() if n != "events.jsonl"} == {
        n: raw for n, raw in was.items() if n != "events.jsonl"
    }


def test_as_the_message_says_another_folder_or_the_arguments_of_before_will_do(stored_before, tmp_path, nothing_is_trained):
    folder, plain = stored_before({}), dict(recipe=other(), variants=rates(*RATES[:4]))
    swept(**(plain | dict(key=jax.random.key(6))), store=tmp_path / "another")
    nothing_is_trained()
    swept(**plain, store=folder)


class Lot:
    """A value that no file holds."""


def test_a_hyperparameter_that_no_file_holds_is_refused_before_anything(tmp_path, nothing_is_trained):
    nothing_is_trained()

    def recipe(learning_rate, lot):
        return line(learning_rate)

    with pytest.raises(TypeError, match="lot of variant 0 must be of a kind that a file can hold.*Lot"):
        swept(recipe, [dict(learning_rate=0.1, lot=Lot())], store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("value", [3, 1.5, object()], ids=["int", "float", "object"])
def test_a_store_is_a_path(value):
    with pytest.raises(TypeError, match=r"sweep: store must be the path of a folder, got"):
        swept("net", store=value)


def test_whole_numbers_of_numpy_are_numbers(tmp_path):
    """JSON knows none of them."""
    numbers = dict(num_steps=np.int64(20), batch_size=np.int32(8), eval_every=np.int64(10), replicates=np.int64(2), keep=np.int64(2))
    assert_same(swept(line, store=tmp_path, **numbers), swept(line, **{name: int(value) for name, value in numbers.items()}))


# Another JAX.


def rewritten(folder, **versions):
    with Folder(folder) as own:
        content, parts = own.snapshot
        own.write(content | {"versions": content["versions"] | versions}, parts)


def test_another_jax_warns_and_goes_on_but_not_with_another_state(tmp_path):
    with pytest.raises(fn.SweepStopped):
        swept("net", store=tmp_path, progress=stop_after(300))
    rewritten(tmp_path, jax="0.4.0")
    with pytest.warns(
        RuntimeWarning, match=r"sweep: store: what the recipe computes .* got .* after 0.4.0; numbers go on to rounding"
    ) as seen:
        result = fn.sweep(net, rates(), DATA, **SETTINGS, store=tmp_path)
    assert seen[0].filename == __file__  # it points at the call
    assert_same(result, undisturbed("net"))
    rewritten(tmp_path, jax="0.4.0")

    def wider(learning_rate):
        return net(learning_rate, width=5)

    with pytest.warns(RuntimeWarning, match="what the recipe computes"), pytest.raises(ValueError, match="the state that the recipe makes"):
        swept(wider, store=tmp_path)


# It grows.


def grown(recipe, before, after, folder, trained, stop=None, **settings):
    """What it gives, and how many steps its tasks took in each of both calls."""
    del trained[:]
    first = dict(variants=rates(*RATES[:4])) | before
    try:
        swept(recipe, store=folder, **(settings | first), **(dict(progress=stop_after(stop)) if stop else {}))
    except fn.SweepStopped:
        assert stop
    one = sum(trained)
    result = swept(recipe, store=folder, **(settings | first | after))
    return result, one, sum(trained) - one


MORE = {
    "variants": dict(variants=rates(*RATES[:4], 0.2, 0.3, 0.4, 0.6)),
    "steps": dict(num_steps=200),
    "both": dict(variants=rates(*RATES[:4], 0.2, 0.3, 0.4, 0.6), num_steps=200),
}


GROWS = [
    (name, more, stop) for more in MORE for name, stop in [("plain", 200), ("odd", 500), ("independent", None), ("once evaluated", None)]
]


@pytest.mark.parametrize(("name", "more", "stop"), [*GROWS, ("once evaluated", "both", 200), ("plain", "both", None)])
def test_it_grows_and_trains_only_what_is_new(tmp_path, more, name, stop, trained):
    recipe = odd if name == "odd" else line
    settings = {"independent": dict(randomness="independent"), "once evaluated": dict(eval_every=None)}.get(name, {})
    result, one, two = grown(recipe, {}, MORE[more], tmp_path, trained, stop, **settings)
    del trained[:]
    whole = swept(recipe, **(dict(variants=rates(*RATES[:4])) | settings | MORE[more]))
    assert one + two == sum(trained) and (stop or one == 150)
    columns = whole.curves["step"].tolist()
    assert set(columns) <= set(result.curves["step"].tolist()) <= {*columns, 150}
    assert_same(result, whole, range(len(whole)), columns)
    again = swept(recipe, store=tmp_path, **(dict(variants=rates(*RATES[:4])) | settings | MORE[more]))
    assert again.timing["programs"] == 0
    assert_same(again, result)


ALONE = {"patience": prune.patience(2, 0.05), "threshold": prune.threshold(above=2.0)}


@pytest.mark.parametrize("stop", [None, 200, 500, 700])  # of up to 1,200 steps, of all lanes together
@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize("rule", ALONE)
def test_under_a_rule_that_looks_at_each_variant_alone_it_grows(tmp_path, more, rule, stop, trained):
    """As if what is new had been there from the start: whoever was stopped stays so, and whoever goes on is judged by all of its curve."""
    settings = dict(prune=ALONE[rule], eval_every=10, replicates=2)
    result, one, two = grown(line, {}, MORE[more], tmp_path, trained, stop, **settings)
    del trained[:]
    whole = swept(line, **(dict(variants=rates(*RATES[:4])) | settings | MORE[more]))
    assert {"pruned", "completed"} <= set(whole.table["status"].tolist())
    assert_same(result, whole)
    assert 0 < two and one + two <= sum(trained) + 50 * len(whole)  # the second call packs anew, and nothing trains twice


def test_a_policy_of_ones_own_that_looks_at_each_variant_alone_grows_with_its_state(tmp_path):
    """Its state may be any tree: arrays have an entry for each variant."""

    def init(seen):
        return {"looks": (np.zeros(len(seen.allowed), int), "a word"), "none": None}

    def decide(state, seen):
        at = np.searchsorted(seen.steps, seen.allowed)
        new = seen.running & (seen.allowed < seen.num_steps)
        new &= (seen.allowed == 0) | ~np.isnan(seen.values[np.arange(len(at)), np.minimum(at, len(seen.steps) - 1)])
        looks = state["looks"][0] + (new & (seen.allowed > 0))
        stop = new & (looks >= 2) & (np.arange(len(looks)) % 2 == 1)  # every second one after two looks
        ahead = np.minimum(seen.allowed + 50, seen.num_steps)
        return {"looks": (looks, "a word"), "none": None}, Decisions(np.where(new & ~stop, ahead, seen.allowed), stop)

    own = dict(prune=Policy("own", init, decide, alone=True))
    with pytest.raises(KeyboardInterrupt):
        swept(line, rates(*RATES[:3]), store=tmp_path, progress=stop_after(300), **own)  # all have been looked at twice, and one is stopped
    result = swept(line, rates(*RATES), store=tmp_path, **own)
    assert result.table["status"].tolist() == ["completed", "pruned"] * 3 and result.table["steps"].tolist() == [150, 100] * 3
    assert_same(result, swept(line, rates(*RATES), **own))


def test_runs_that_a_rule_has_looked_at_elsewhere_go_on_no_further(tmp_path):
    settings = dict(prune=ALONE["patience"], eval_every=40)
    swept(line, store=tmp_path, **settings)
    with pytest.raises(
        ValueError, match="under patience must look wherever it has looked before, got no look after step 150; num_steps a multiple"
    ):
        swept(line, store=tmp_path, **settings, num_steps=200)


def test_a_variants_own_length_may_grow(tmp_path, trained):
    def of(*steps):
        return [dict(learning_rate=rate, num_steps=own) for rate, own in zip(RATES[:3], steps, strict=True)]

    swept(line, of(60, 100, 150), store=tmp_path)
    before = sum(trained)
    result = swept(line, of(100, 100, 200), store=tmp_path)
    assert sum(trained) - before == 40 + 50
    whole = swept(line, of(100, 100, 200))
    assert_same(result, whole, range(3), whole.curves["step"].tolist())
    with pytest.raises(ValueError, match="num_steps of variant 1: stored 100, given 90"):
        swept(line, of(100, 90, 200), store=tmp_path)


def test_a_length_that_the_recipe_is_told_does_not_grow(tmp_path):
    """It is part of what the recipe computes."""

    def recipe(learning_rate, num_steps):
        return line(learning_rate, scale=1 / num_steps)

    swept(recipe, fn.grid(learning_rate=RATES[:2]), store=tmp_path)
    with pytest.raises(ValueError, match="must hold this very sweep"):
        swept(recipe, fn.grid(learning_rate=RATES[:2]), store=tmp_path, num_steps=200)
    swept(recipe, fn.grid(learning_rate=RATES[:2], num_steps=[60]), store=tmp_path / "own")
    with pytest.raises(ValueError, match="must hold this very sweep"):
        swept(recipe, fn.grid(learning_rate=RATES[:2], num_steps=[90]), store=tmp_path / "own")


def test_it_grows_by_groups(tmp_path, trained):
    def recipe(learning_rate, width=1):
        return line(learning_rate, scale=width)

    few = fn.grid(learning_rate=RATES[:2], width=[1])
    more = few + fn.grid(learning_rate=RATES[:3], width=[2])
    result, one, two = grown(recipe, dict(variants=few), dict(variants=more), tmp_path, trained)
    assert_same(result, swept(recipe, more))
    assert (one, two) == (150, 150)
    longer = swept(recipe, more, store=tmp_path, num_steps=200)  # of a group too of which the call before trained nothing
    whole = swept(recipe, more, num_steps=200)
    assert_same(longer, whole, range(len(whole)), whole.curves["step"].tolist())


def test_it_grows_again_after_it_was_only_read(tmp_path, trained):
    """A call that trains nothing must not forget what programs the states belong to."""
    settings = dict(variants=rates(*RATES[:4]))
    swept(line, store=tmp_path, **settings)
    for steps in (150, 150, 200, 200, 250):
        result = swept(line, store=tmp_path, **settings, num_steps=steps)
    whole = swept(line, **settings, num_steps=250)
    assert_same(result, whole, range(4), whole.curves["step"].tolist())


def test_numbers_of_64_bits_come_back_and_are_told_from_those_of_32(tmp_path):
    with jax.enable_x64(True):
        whole = swept(fails_at, [dict(lost_at=64.0), dict(lost_at=1e6)])
        with pytest.raises(fn.SweepStopped):
            swept(fails_at, [dict(lost_at=64.0), dict(lost_at=1e6)], store=tmp_path, progress=stop_after(70))
        result = swept(fails_at, [dict(lost_at=64.0), dict(lost_at=1e6)], store=tmp_path)
        assert_same(result, whole)
        assert result.state(1).dtype == np.float64
    with pytest.raises(ValueError, match="the state that the recipe makes"):
        swept(fails_at, [dict(lost_at=64.0), dict(lost_at=1e6)], store=tmp_path)


# The disk, and the folder.


class Failing:
    """An `os` whose calls that open or write a file fail from one on."""

    def __init__(self, number, code=errno.ENOSPC):
        self.number, self.code, self.calls = number, code, []

    def __getattr__(self, name):
        own = getattr(os, name)
        if name not in ("open", "write"):
            return own

        def call(*args):
            self.calls.append(name)
            if len(self.calls) >= self.number:
                raise OSError(self.code, "failed")
            return own(*args)

        return call


@pytest.mark.parametrize("name", ["odd leaves, keep_best", "successive_halving"])
def test_a_full_disk_ends_the_sweep_with_what_there_is_and_later_it_goes_on(tmp_path, name, monkeypatch):
    """Full from one call on, whichever: the store has its last snapshot, and goes on once there is room."""
    whole, opened, failed = undisturbed(name), 0, 0
    with monkeypatch.context() as patched:
        patched.setattr(files, "os", disk := Failing(10**9))
        swept(name, store=tmp_path / "room")
    for number in range(1, len(disk.calls), max(1, len(disk.calls) // 6)):
        path = tmp_path / str(number)
        with monkeypatch.context() as patched:
            patched.setattr(files, "os", Failing(number))
            with pytest.raises((OSError, fn.SweepFailed), match="No space left on device") as caught:
                swept(name, store=path)
        if isinstance(caught.value, fn.SweepFailed):
            failed += 1
            assert "the store has the snapshot before, since another could not be written" in str(caught.value)
            assert "must be a folder that can be read and written" in str(caught.value)
            assert (caught.value.result.table["steps"] > 0).any()
            for row in np.flatnonzero(caught.value.result.table["status"] != "unfinished"):
                assert_same(caught.value.result, whole, [row], [])
        else:
            opened += 1
        with Folder(path) as folder:
            assert folder.damaged == [] and (folder.snapshot is not None) == isinstance(caught.value, fn.SweepFailed)
        assert_same(swept(name, store=path), whole)
        assert told(path)[-1] == "finished"
    assert opened and failed > 2


def test_a_disk_that_is_full_for_a_moment_is_written_to_at_the_end(tmp_path, monkeypatch):
    """The parts that could not be written are not taken for written when the interrupted sweep writes its last snapshot."""
    own, calls = Folder.write, []

    def fails_once(self, content, parts, keep=()):
        calls.append(sorted(parts))
        if len(calls) > 1 and any(part.startswith("states") for part in parts) and not any("failed" in call for call in calls):
            calls[-1].append("failed")
            raise OSError(errno.ENOSPC, "No space left on device")
        own(self, content, parts, keep)

    monkeypatch.setattr(Folder, "write", fails_once)
    with pytest.raises(fn.SweepFailed, match="No space left") as caught:
        swept("net", store=tmp_path)
    assert "the same call goes on from what is stored: " in str(caught.value) and any("failed" in call for call in calls)
    result = caught.value.result
    assert (result.table["status"] == "completed").any()
    assert_same(swept("net", store=tmp_path), undisturbed("net"))
    assert_same(swept("net", store=tmp_path), undisturbed("net"))


def test_paths_that_can_be_no_store(tmp_path, nothing_is_trained):
    nothing_is_trained()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="sweep: store: .*must be a folder that can be read and written.*give the path of a folder"):
        swept("net", store=tmp_path / "file")
    with pytest.raises(OSError, match="give the path of a folder"):
        swept("net", store=tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_somebody_else(tmp_path, monkeypatch, nothing_is_trained):
    nothing_is_trained()
    monkeypatch.setattr(files, "os", Failing(1, errno.EACCES))
    with pytest.raises(PermissionError, match="Permission denied"):
        swept("net", store=tmp_path / "store")


# Damage.


def damage(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))


def manifests(folder):
    return sorted(pathlib.Path(folder).glob("snapshot-*.json"))


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize("what", ["manifest", "ledger", "cut"])
def test_the_snapshot_before_a_damaged_one_will_do(tmp_path, what, stopped, caplog):
    try:
        swept("net", store=tmp_path, **(dict(progress=stop_after(500)) if stopped else {}))
    except fn.SweepStopped:
        assert stopped
    newest = manifests(tmp_path)[-1]
    if what == "manifest":
        damage(newest)
    elif what == "cut":
        newest.write_bytes(newest.read_bytes()[:-20])
    else:
        damage(tmp_path / newest.name.replace("snapshot", "part").replace(".json", "-ledger.npz"))
    said = f"{newest.name} is damaged: .*; going on from the snapshot before, of [0-9]+ steps"
    with caplog.at_level(logging.WARNING, "funcnet"), pytest.warns(RuntimeWarning, match=said):
        result = swept("net", store=tmp_path)
    assert_same(result, undisturbed("net"))
    (event,) = (event for event in events(tmp_path) if event["event"] == "damaged")
    assert newest.name in event["what"] and f"{newest.name}.damaged" in event["what"]
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert record.name == "funcnet" and f"{newest.name} is damaged" in record.getMessage()


def test_where_no_snapshot_is_good_nothing_begins_anew(tmp_path, nothing_is_trained):
    swept("net", store=tmp_path)
    for manifest in manifests(tmp_path):
        damage(manifest)
    nothing_is_trained()
    for _ in range(3):  # not on a second call either, to which the folder has only renamed files
        with pytest.raises(
            fn.StoreDamaged, match="sweep: store: .* must hold a snapshot that is whole, got .*; another folder begins anew"
        ):
            swept("net", store=tmp_path)
    assert not manifests(tmp_path) and list(tmp_path.glob("*.damaged"))


# The folder.


@pytest.mark.parametrize("kind", [str, pathlib.Path, "relative", "a link"])
def test_whatever_way_a_folder_is_given(tmp_path, kind, monkeypatch):
    """One that is not there yet is made, in folders that are not there yet; the process may go elsewhere meanwhile."""
    path, elsewhere = tmp_path / "not" / "yet" / "store", tmp_path / "elsewhere"
    elsewhere.mkdir()
    given = path
    if kind is str:
        given = str(path)
    elif kind == "relative":
        monkeypatch.chdir(tmp_path)
        given = pathlib.Path("not/yet/store")
    elif kind == "a link":
        (tmp_path / "really").mkdir(), (tmp_path / "not" / "yet").mkdir(parents=True)
        path.symlink_to(tmp_path / "really")
    result = swept("net", store=given, callback=lambda _: os.chdir(elsewhere) if kind == "relative" else None)
    assert_same(result, undisturbed("net"))
    assert told(path)[-1] == "finished" and not list(elsewhere.iterdir())
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["elsewhere", "not"] + ["really"] * (kind == "a link"))


def test_only_the_folder_is_written_without_pickle_and_what_is_foreign_stays(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    mine = {"notes.txt": "mine", "snapshot.json": "{}", "part-1.npz": "x", "snapshot-1.json": "odd"}
    for name, text in mine.items():
        (folder / name).write_text(text)
    (folder / "figures").mkdir()
    with pytest.raises(fn.SweepStopped):
        swept("odd leaves", store=folder, progress=stop_after(300))
    swept("odd leaves", store=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    for name, text in mine.items():
        assert (folder / name).read_text() == text
    own = {path.name for path in folder.iterdir()} - mine.keys() - {"figures"}
    assert "lock.json" not in own and {name.partition("-")[0] for name in own} == {"snapshot", "part", "events.jsonl"}
    for path in folder.glob("part-0*.npz"):
        for array in np.load(path, allow_pickle=False).values():
            assert array.dtype.kind in "biufc"
    for path in folder.iterdir():
        assert path.is_dir() or b"pickle" not in path.read_bytes()


# What is said.


def test_every_line_of_the_event_log_is_json_in_order(tmp_path):
    with pytest.raises(fn.SweepStopped):
        swept("several programs", store=tmp_path, progress=stop_after(300))
    swept("several programs", store=tmp_path)
    swept("several programs", store=tmp_path)
    found = events(tmp_path)
    assert all(type(event["time"]) is float for event in found)
    assert [event["time"] for event in found] == sorted(event["time"] for event in found)
    names = [event["event"] for event in found]
    assert [name for name in names if name not in ("compiled", "ended", "stored")] == ["begun", "stopped", "resumed", "finished"] + [
        "resumed",
        "finished",
    ]
    assert {"stored", "ended", "compiled"} <= set(names)
    assert found[0]["runs"] == 6 and found[0]["programs"] == 2
    ended = [row for event in found if event["event"] == "ended" for row in event["rows"]]
    assert sorted(ended) == list(range(6))
    done = [event["runs_done"] for event in found if event["event"] == "stored"]
    assert done == sorted(done) and done[-1] == 6


def test_logging_is_by_pythons_own_and_says_nothing_by_default(tmp_path):
    """Python's last resort prints warnings and errors of loggers that nobody has set up. What is damaged is a warning beside."""
    code = """
try:
    swept("net", store=sys.argv[2], callback=lambda evaluation: 1 / 0)
except RuntimeError:
    pass
import pathlib
newest = sorted(pathlib.Path(sys.argv[2]).glob("snapshot-*.json"))[-1]
newest.write_bytes(b"")
swept("net", store=sys.argv[2])
"""
    process = run_in_a_process(code, tmp_path)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and out == ""
    assert re.fullmatch(r".*: RuntimeWarning: sweep: store: every file .* is damaged: .*, of [0-9]+ steps\n  .*\n", err), err
    assert {"failed", "damaged", "finished"} <= set(told(tmp_path))


def test_logging_that_is_set_up_hears_the_whole_sweep(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "funcnet"):
        swept("net", store=tmp_path)
    assert {record.name for record in caplog.records} == {"funcnet"}
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("sweep: begun, runs 6, programs 1") and said[-1].startswith("sweep: finished, seconds")


# A callback.


@pytest.mark.parametrize("name", ["net", "replicates", "diverging", "median", "own batch_size and num_steps"])
def test_a_callback_is_told_of_every_evaluation_once(name):
    seen = []
    result = swept(name, callback=seen.append)
    places = {int(step): place for place, step in enumerate(result.curves["step"])}
    told_of = set()
    for evaluation in seen:
        assert type(evaluation) is fn.Evaluation and type(evaluation.step) is int
        arrays = [evaluation.rows, evaluation.variants, evaluation.replicates, *evaluation.metrics.values()]
        assert all(type(array) is np.ndarray and array.shape == evaluation.rows.shape for array in arrays)
        assert evaluation.variants.tolist() == result.table["variant"][evaluation.rows].tolist()
        assert evaluation.replicates.tolist() == result.table["replicate"][evaluation.rows].tolist()
        for metric, values in evaluation.metrics.items():
            np.testing.assert_array_equal(values, result.curves[metric][evaluation.rows, places[evaluation.step]])
        own = {(row, evaluation.step) for row in evaluation.rows.tolist()}
        assert len(own) == len(evaluation.rows) and not own & told_of
        told_of |= own
    measured = {(row, step) for row in range(len(result)) for step, p in places.items() if np.isfinite(result.curves["train/loss"][row, p])}
    assert measured <= told_of and all(step in places for _, step in told_of)


@pytest.mark.parametrize("callback", [3, "print", []], ids=["int", "str", "list"])
def test_a_callback_is_a_function(callback):
    with pytest.raises(TypeError, match="sweep: callback must be a function of an Evaluation, got .*; such as print"):
        swept("net", callback=callback)


# A rule of one's own.


class Memory2(NamedTuple):
    count: int


def own_rule(state):
    def decide(state, seen):
        return state, Decisions(seen.num_steps, seen.running & False)

    return Policy("own", lambda seen: state, decide)


def test_the_state_of_a_rule_comes_back_as_it_was_or_is_refused(tmp_path):
    fine = {"a": (1, [2.5, None, "x", True]), "b": np.arange(3), "c": {"d": np.float32(1.5)}, "e": ()}
    arrays = {}
    again = store._read_tree(json.loads(json.dumps(store._written_tree(fine, arrays))), arrays)
    assert jax.tree.structure(again) == jax.tree.structure(fine)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(fine), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(TypeError, match="sweep: store: the state of a policy must be made of dicts, tuples.*got Memory2"):
        swept(line, store=tmp_path, prune=own_rule(Memory2(1)))
    assert_same(swept(line, store=tmp_path / "fine", prune=own_rule(fine)), swept(line, prune=own_rule(fine)))


# Search.

SPACE = fn.space(learning_rate=fn.log_uniform(1e-3, 0.5))


def seeded_study():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=4))
    return fn.suggest.optuna(study, SPACE)


STRATEGIES = {
    "random": lambda: fn.suggest.random(SPACE, key=KEY),
    "quasi_random": lambda: fn.suggest.quasi_random(SPACE, key=KEY),
    "optuna": seeded_study,
}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def searched(strategy, **changed):
    own = STRATEGIES[strategy]() if isinstance(strategy, str) else strategy
    return fn.search(line, own, DATA, **(SETTINGS | dict(rounds=3, per_round=4) | changed))


def stop_in_round(number, steps):
    """Raises in a round once so many of its steps are done."""
    rounds = [1]
    last = [0]

    def tell(progress):
        rounds[0] += progress.steps_done < last[0]
        last[0] = progress.steps_done
        if rounds[0] == number and progress.steps_done >= steps:
            raise KeyboardInterrupt

    return tell


@every_strategy
@pytest.mark.parametrize("settings", [{}, dict(randomness="independent", keep=2, replicates=2)], ids=["plain", "independent and keep"])
def test_a_search_that_was_stopped_goes_on(tmp_path, strategy, settings, trained, nothing_is_trained):
    whole = searched(strategy, **settings)
    work = sum(trained)
    del trained[:]
    with pytest.raises(fn.SweepStopped, match=r"search: round 2 of 3: .*the same call goes on from what is stored") as caught:
        searched(strategy, store=tmp_path / "search", progress=stop_in_round(2, 256), **settings)
    assert caught.value.result.table["variant"].max() == 7 and 0 < sum(trained) < work
    assert sorted(path.name for path in (tmp_path / "search").iterdir()) == ["round-1", "round-2"]
    result = searched(strategy, store=tmp_path / "search", **settings)
    assert sum(trained) == work
    assert_same(result, whole)
    assert told(tmp_path / "search" / "round-1")[-2:] == ["resumed", "finished"]
    nothing_is_trained()
    assert_same(searched(strategy, store=str(tmp_path / "search"), **settings), whole)


@every_strategy
def test_the_time_is_the_whole_searchs(tmp_path, strategy, monkeypatch, trained):
    whole = searched(strategy)
    work = sum(trained)
    for folder in (None, tmp_path):
        del trained[:]
        with monkeypatch.context() as patched:
            for module in (engine, loop, search_module):
                patched.setattr(module, "time", Clock(trained))
            result = searched(strategy, max_seconds=5, store=folder)  # of 9 tasks
        assert result.table["variant"].tolist() == list(range(8)) and "unfinished" in result.table["status"][4:]
        assert set(result.table["status"][:4]) == {"completed"}
        assert_same(result, whole, range(4), [])
    del trained[:]
    assert_same(searched(strategy, store=tmp_path), whole)
    assert sum(trained) == work - 64 * 4 - 22


def test_a_round_whose_time_is_over_before_it_began_is_not_asked_for(trained, monkeypatch):
    strategy = STRATEGIES["random"]()
    with monkeypatch.context() as patched:
        for module in (engine, loop, search_module):
            patched.setattr(module, "time", Clock(trained))
        result = searched(strategy, max_seconds=3)
    assert len(result) == 4
    assert list(strategy.ask(4)) == list(SPACE.sample(8, key=KEY))[4:]


def test_a_strategy_that_asks_something_else_is_refused(tmp_path):
    strategy = STRATEGIES["random"]()
    searched(strategy, store=tmp_path, rounds=1)
    with pytest.raises(ValueError, match="must hold this very sweep, got another .variant 0"):
        searched(strategy, store=tmp_path)
    assert len(searched("random", store=tmp_path)) == 12


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        (dict(store=3), TypeError, "search: store must be the path of a folder, got 3"),
        (dict(max_seconds=0), ValueError, r"search: max_seconds must be in \(0, inf\), got 0"),
        (dict(max_seconds=float("nan")), ValueError, "search: max_seconds must be in"),
    ],
    ids=["store", "no time", "NaN"],
)
def test_what_a_search_refuses_before_it_asks(options, kind, said):
    strategy = STRATEGIES["random"]()
    with pytest.raises(kind, match=said):
        searched(strategy, **options)
    assert strategy.ask(2) == SPACE.sample(2, key=KEY)


# Stores of before.

STORES = pathlib.Path(__file__).parent / "stores"


def of_before():
    """The recipe and arguments of the stores that are kept beside this file."""
    spec = importlib.util.spec_from_file_location("stores_make", STORES / "make.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("name", ["v1", "v1-unfinished"])
def test_a_store_of_format_1_is_read_and_gone_on_with(tmp_path, name, trained):
    """Made once and for all: whoever has one gets its numbers, under another JAX with a warning."""
    make = of_before()
    folder = shutil.copytree(STORES / name, tmp_path / name)
    with Folder(folder) as own:
        content = own.snapshot.content
    assert content["finished"] == (name == "v1") and content["steps_done"] == (600 if name == "v1" else 256)
    if content["versions"]["jax"] == jax.__version__:
        result = make.swept(folder)
    else:
        with pytest.warns(RuntimeWarning, match="what the recipe computes can be compared under the JAX of the store alone"):
            result = make.swept(folder)
    assert sum(trained) == (0 if name == "v1" else 64 + 22)
    with np.load(STORES / "expected.npz", allow_pickle=False) as expected:
        assert result.table["status"].tolist() == ["completed"] * 3 + ["diverged"]
        for metric in ("train/loss", "validation/loss"):
            np.testing.assert_allclose(result.curves[metric], expected[metric], rtol=1e-4, atol=1e-6)
        for row in range(4):
            state = result.state(row)
            np.testing.assert_allclose(state["w"], expected["w"][row], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(state["short"].astype(jnp.float32), expected["short"][row], rtol=1e-2)
            assert int(state["count"]) == expected["count"][row]
            np.testing.assert_array_equal(jax.random.key_data(state["key"]), expected["key"][row])
    assert "resumed" in told(folder) and told(folder)[-1] == "finished"


def test_the_stores_are_small():
    assert sum(path.stat().st_size for path in STORES.rglob("*") if path.is_file()) < 30_000
