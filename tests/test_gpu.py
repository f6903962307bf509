"""What only a GPU can show: `pytest -m gpu`. Where JAX sees none, every test here is skipped.

FUNCNET_GPU_TESTS_ON=cpu runs the same bodies on the CPU, which shows that they work. Where a GPU's memory is filled up, a CPU's is said
to be full.
"""

import contextlib
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_same_bits

import funcnet as fn
from funcnet.sweeps import executors, memory

ROOT = Path(__file__).parents[1]
ON = os.environ.get("FUNCNET_GPU_TESTS_ON", "gpu")
CLOSE = dict(rtol=2e-3, atol=1e-4)  # two platforms add in different orders, and 60 steps of training enlarge that

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device():
    try:
        return jax.local_devices(backend=ON)[0]
    except RuntimeError:
        pytest.skip("needs a GPU that JAX can see: pip install 'jax[cuda12]' or 'jax[cuda13]'")


@pytest.fixture(autouse=True)
def on_the_device(device):
    with jax.default_device(device), jax.default_matmul_precision("float32"):  # a GPU's usual one is TensorFloat-32
        yield


RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 36)).astype(np.float32)
DATA = fn.Split(fn.Dataset(X[:64], (X[:64, 0] > 0).astype(np.int32)), fn.Dataset(X[64:], (X[64:, 0] > 0).astype(np.int32)))


def dense(learning_rate, drop):
    return fn.training(fn.mlp((16, 2), "relu", drop), fn.cross_entropy, fn.adam(learning_rate), in_shape=(36,), metrics="accuracy")


def conv(learning_rate, drop):
    hidden = fn.serial(fn.conv(4, 3), fn.activation("relu"), fn.max_pool(2), fn.flatten(), fn.dropout(drop))
    return fn.training(fn.serial(hidden, fn.dense(2)), fn.cross_entropy, fn.momentum(learning_rate), in_shape=(1, 6, 6))


def recurrent(learning_rate, drop):
    model = fn.serial(fn.recurrent(8, cell="gru"), fn.dropout(drop), fn.dense(2))
    return fn.training(model, fn.cross_entropy, fn.rmsprop(learning_rate), in_shape=(6, 6))


RECIPES = {"dense": (dense, (36,)), "conv": (conv, (1, 6, 6)), "recurrent": (recurrent, (6, 6))}
RATES = np.geomspace(1e-3, 3e-2, 10).tolist()
every_recipe = pytest.mark.parametrize("name", RECIPES)


def swept(name, rates, chunk_size=4, **changed):
    recipe, in_shape = RECIPES[name]
    data = fn.Split(*(fn.Dataset(part.x.reshape(-1, *in_shape), part.y) for part in DATA[:2]))
    settings = dict(key=jax.random.key(5), num_steps=60, batch_size=16, eval_every=20, progress=False, chunk_size=chunk_size)
    return fn.sweep(recipe, fn.grid(learning_rate=rates, drop=[0.2]), data, **settings | changed)


# Identity.


@every_recipe
@pytest.mark.parametrize("randomness", ["shared", "independent"])
def test_a_variants_numbers_do_not_depend_on_its_neighbours_or_its_chunk(name, randomness):
    """Bit for bit: in another order, so in another chunk and lane; and one beside a neighbour that diverges."""
    if randomness == "independent":  # where a variant draws by its place among the others, only those behind it may change
        orders = [RATES, RATES[:7] + [1e30, 0.5, 0.1]]
    else:
        orders = [RATES, RATES[::-1], [1e30, *RATES[3:], *RATES[:2]]]
    first, *others = [swept(name, rates, randomness=randomness) for rates in orders]
    assert np.isfinite(first.table["train/loss"]).all()
    for rates, other in zip(orders[1:], others, strict=True):
        shared = [(i, rates.index(rate)) for i, rate in enumerate(RATES) if rate in rates]
        assert len(shared) >= 7
        for here, there in shared:
            for metric in ("train/loss", "validation/loss"):
                assert_same_bits(first.curves[metric][here], other.curves[metric][there])
            assert_same_bits(first.state(here), other.state(there))


@every_recipe
def test_a_sweep_run_twice_has_the_same_bits(name):
    first, again = swept(name, RATES), swept(name, RATES)
    assert_same_bits(first.curves, again.curves)


@every_recipe
def test_the_numbers_are_those_of_the_cpu(name):
    """At a rate at which rounding is not enlarged without end, to the tolerance stated above."""
    ours = swept(name, RATES)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        theirs = swept(name, RATES)
    for metric in ("train/loss", "validation/loss"):
        np.testing.assert_allclose(ours.curves[metric], theirs.curves[metric], **CLOSE)


# Memory.

WIDE = 512
LANE = 4 * 3 * (36 * WIDE + WIDE + WIDE * WIDE + WIDE + WIDE * 2 + 2)  # bytes of a lane's parameters and Adam's two moments


def wide(learning_rate):
    return fn.training(fn.mlp((WIDE, WIDE, 2), "relu"), fn.cross_entropy, fn.adam(learning_rate), in_shape=(36,))


def swept_wide(variants, chunk_size=None, **changed):
    settings = dict(key=jax.random.key(1), num_steps=130, batch_size=8, progress=False, chunk_size=chunk_size, keep=1, metric="train/loss")
    return fn.sweep(wide, fn.grid(learning_rate=np.geomspace(1e-4, 1e-3, variants).tolist()), DATA, **settings | changed)


@contextlib.contextmanager
def filled_up(device, leave):
    """All of the device's memory is taken but so many bytes."""
    if device.platform == "cpu":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "_available", lambda: leave)
            patch.setattr(memory, "_group_allows", lambda: None)
            yield
        return
    gc.collect()
    taken = []
    while (free := free_bytes(device) - leave) > 2**20:
        taken.append(jnp.zeros(min(free, 2**28), jnp.uint8).block_until_ready())
    yield
    del taken


def free_bytes(device):
    stats = device.memory_stats()
    return stats["bytes_limit"] - stats["bytes_in_use"]


def test_what_is_free_is_what_the_device_says(device):
    stats = device.memory_stats()
    if not stats:
        pytest.skip("needs a device that says how much memory it has")
    with filled_up(device, 2**28):
        assert abs(memory.free_memory(device) - 0.75 * 2**28) < 2**22
    assert memory.free_memory(device) > 0.75 * 2**28 + 2**22


def test_lanes_are_as_many_as_fit_in_what_is_free(device, caplog):
    """And with these nothing runs out of memory, in more than one stretch of steps, where the device goes on while the host looks."""
    lanes = 6 if device.platform == "cpu" else 128  # a GPU's products need some room beside the lanes
    leave, variants = lanes * LANE, 3 * lanes
    with filled_up(device, leave), caplog.at_level("DEBUG", "funcnet"):
        result = swept_wide(variants)
    (width,), (plenty,) = result.timing["lane_widths"], swept_wide(variants).timing["lane_widths"]
    (needed,) = map(int, re.findall(r"compiled.* bytes (\d+)", caplog.text))
    slots = sum(slot.device == device for slot in executors.local_slots())
    assert 1 <= width < plenty and result.timing["halved"] == 0
    assert width == 1 or needed <= leave / slots
    assert set(result.table["status"].tolist()) == {"completed"}
    if device.platform != "cpu":  # there nothing but memory speaks against one chunk of all
        assert plenty >= variants


def test_a_chunk_that_runs_out_of_memory_is_halved(device, monkeypatch, caplog):
    if device.platform == "cpu":  # which can't be filled up without harm to others

        def run_out(task, here, seconds=None, own=executors.run_task):
            if task.width > 8:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")
            return own(task, here, seconds)

        monkeypatch.setattr(executors, "run_task", run_out)
    with filled_up(device, 16 * LANE), caplog.at_level("WARNING", "funcnet"):
        result = swept_wide(32, chunk_size=32)
    (width,) = result.timing["lane_widths"]
    assert width < 32 and result.timing["halved"] > 0 and "out of memory" in caplog.text
    assert set(result.table["status"].tolist()) == {"completed"}
    monkeypatch.undo()
    assert_same_bits(result.table["train/loss"], swept_wide(32, chunk_size=width).table["train/loss"])


def test_states_lie_on_the_host():
    result = swept("dense", RATES)
    assert all(isinstance(leaf, np.ndarray) for row in range(len(result)) for leaf in jax.tree.leaves(result.state(row)))


# In a process of its own, since the most that was ever in use is told of a whole process.
CHUNKS = f"""
import gc, json, sys
sys.path[:0] = [{str(ROOT)!r}]
import jax, numpy as np
import funcnet as fn

from funcnet.sweeps.executors import local_slots

device = jax.local_devices(backend={ON!r})[0]
jax.config.update("jax_default_device", device)
slots, seen = len(local_slots()), 0

def in_use():
    stats = device.memory_stats()
    return stats["bytes_in_use"] if stats else sum(array.nbytes for array in jax.live_arrays())

def peak():
    stats = device.memory_stats()
    return stats["peak_bytes_in_use"] if stats else seen

def watch(evaluation):
    global seen
    seen = max(seen, in_use())

x = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
data = fn.Dataset(x, (x[:, 0] > 0).astype(np.int32))

def recipe(learning_rate):
    return fn.training(fn.mlp((1024, 2), "relu"), fn.cross_entropy, fn.adam(learning_rate), in_shape=(256,))

def run(chunks):  # on each core, or on the GPU
    global seen
    seen = 0
    rates = np.geomspace(1e-4, 1e-2, 8 * chunks * slots).tolist()
    settings = dict(key=jax.random.key(0), num_steps=40, batch_size=16, eval_every=10, progress=False, keep=1, metric="train/loss")
    result = fn.sweep(recipe, fn.grid(learning_rate=rates), data, chunk_size=8, callback=watch, **settings)
    gc.collect()
    return {{"seen": seen, "peak": peak(), "after": in_use(), "programs": result.timing["programs"], "runs": len(result)}}

jax.block_until_ready(jax.numpy.zeros(1))
print(json.dumps([{{"before": in_use(), "slots": slots}}, run(2), run(10)]))
"""


def test_ten_chunks_need_no_more_memory_than_two_and_it_is_given_back(device):
    """What is in use at each evaluation, and at most; of a CPU the most is only known of the evaluations."""
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # this process may hold most of a GPU's
    command = [sys.executable, "-W", "error", "-c", CHUNKS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    start, two, ten = json.loads(done.stdout.splitlines()[-1])
    chunk = 8 * 4 * 3 * (256 * 1024 + 1024 + 1024 * 2 + 2)  # bytes: 8 lanes' parameters and Adam's two moments
    assert [run["runs"] for run in (two, ten)] == [16 * start["slots"], 80 * start["slots"]] and ten["programs"] == 0
    assert two["seen"] - start["before"] > chunk  # what is watched is there to be seen
    timing = start["slots"] * chunk  # one that has just ended may or may not have been noted when the next is looked at
    assert ten["seen"] <= two["seen"] + timing
    assert ten["peak"] <= two["peak"] + timing
    for run in (two, ten):
        assert run["after"] - start["before"] < chunk // 4


# What is done once.


def test_a_second_sweep_compiles_nothing():
    fn.clear_caches()
    first = swept("dense", RATES)
    again = swept("dense", [2 * rate for rate in RATES])
    assert first.timing["programs"] > 0 and again.timing["programs"] == 0
    assert not np.isin(first.table["train/loss"], again.table["train/loss"]).any()


def test_data_is_moved_once(device, monkeypatch):
    """However many chunks and evaluations there are, all of them are given the same arrays, which lie on the device."""
    put, given, own_put, own_run = [], set(), jax.device_put, executors.run_task

    def device_put(tree, *args, **kwargs):
        put.extend(leaf.shape for leaf in jax.tree.leaves(tree) if isinstance(leaf, np.ndarray))
        return own_put(tree, *args, **kwargs)

    def run_task(task, here, seconds=None):
        leaves = jax.tree.leaves(here.data)
        assert all(isinstance(leaf, jax.Array) and leaf.devices() == {device} for leaf in leaves)
        given.add(tuple(map(id, leaves)))
        return own_run(task, here, seconds)

    monkeypatch.setattr(jax, "device_put", device_put)
    monkeypatch.setattr(executors, "run_task", run_task)
    result = swept("dense", RATES, chunk_size=2)
    assert len(result) == 10 and len(given) == 1
    assert [put.count(part.x.shape) for part in DATA[:2]] == [1, 1]
