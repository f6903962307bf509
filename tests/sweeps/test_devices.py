"""One process with several devices: the same table, bit for bit, on any number of them, each used; one that fails hands its chunk on."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
KINDS = ["plain", "halving", "population"]
FAULTS = [("one", "plain"), ("one", "store")]
FAULTS += [(fault, kind) for fault in ("from the start", "compiler") for kind in ("plain", "halving", "store", "asha")]

# 13 runs in chunks of 2, which none of the numbers of devices divides. What a device did is noted; some fail. A process has all the
# sweeps on so many devices: to start it, and to compile, takes longer than they do.
_ON_DEVICES = """
import json, pathlib, pickle, sys, time, warnings
import jax
import numpy as np
import funcnet as fn
import remote_recipes as recipes
from funcnet import prune
from funcnet.sweeps import executors

count, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
assert len(jax.local_devices()) == count
own, compiles = executors.run_task, executors.compile_programs

def run_task(task, here, seconds=None):
    place = here.device.id
    if fault == "one" and place == 1 and task.at >= 50 or fault == "from the start" and place == 1:
        failed.append(task.at)
        raise RuntimeError("INTERNAL: the device has gone\\nand more")
    if fault == "every":
        raise ArithmeticError("it never works")
    used[place] = used.get(place, 0) + 1
    if fault == "none" and kind == "plain":  # whoever is quick waits until all have begun: programs may still be compiled for some
        patience = time.monotonic() + 120
        while len(used) < min(count, 7) and time.monotonic() < patience:
            time.sleep(0.01)
    return own(task, here, seconds)

def compile_programs(trial, kind):
    if fault == "compiler" and kind.device.id == 1:
        failed.append(0)
        raise RuntimeError("INTERNAL: nothing compiles here")
    return compiles(trial, kind)

executors.run_task, executors.compile_programs = run_task, compile_programs
rates = [*np.geomspace(1e-3, 0.3, 12).tolist(), 1e30]
settings = dict(key=jax.random.key(1), num_steps=400, batch_size=8, eval_every=100, chunk_size=2, progress=False)
for fault, kind in json.loads(sys.argv[3]):
    used, failed, place = {}, [], folder / fault / kind
    place.mkdir(parents=True)
    others = {
        "plain": {}, "halving": dict(prune=prune.successive_halving(50)), "asha": dict(prune=prune.asha(50)),
        "store": dict(store=place / "store"), "population": dict(evolve=fn.population()),
    }[kind]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = fn.sweep(recipes.net, fn.grid(learning_rate=rates), recipes.points(), **settings, **others)
            table, curves = result.table, result.curves
            states = {row: [np.asarray(leaf) for leaf in jax.tree.leaves(state)] for row, state in result._states.items()}
            error = None
        except Exception as raised:
            table, curves, states, error = {}, {}, {}, f"{type(raised).__name__}: {raised}"
    found = dict(table={k: np.asarray(v).tolist() for k, v in table.items()}, curves={k: np.asarray(v).tobytes() for k, v in curves.items()},
                 states={r: [leaf.tobytes() for leaf in s] for r, s in states.items()}, used=used, error=error, failed=failed,
                 warned=[str(warning.message) for warning in caught])
    (place / "found").write_bytes(pickle.dumps(found))
"""


@pytest.fixture(scope="module")
def on(tmp_path_factory):
    """What comes of a sweep on so many devices."""
    folders = {}

    def found(count, fault="none", kind="plain"):
        if count not in folders:
            folders[count] = tmp_path_factory.mktemp("devices")
            environment = os.environ | {
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            }
            sweeps = [("none", own) for own in KINDS] + {2: [("every", "plain")], 4: FAULTS}.get(count, [])
            command = [sys.executable, "-c", _ON_DEVICES, str(count), str(folders[count]), json.dumps(sweeps)]
            subprocess.run(command, env=environment, check=True)
        place = folders[count] / fault / kind
        return pickle.loads((place / "found").read_bytes()), place / "store"

    return found


def assert_same(one, other):
    assert one["error"] is None and other["error"] is None, (one["error"], other["error"])
    np.testing.assert_equal(one["table"], other["table"])
    assert one["curves"] == other["curves"] and one["states"] == other["states"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 4, 8])
def test_any_number_of_devices_gives_the_same_bits_and_all_are_used(on, count, kind):
    one, many = on(1, kind=kind)[0], on(count, kind=kind)[0]
    assert_same(one, many)
    assert "diverged" in one["table"]["status"]
    assert set(one["used"]) == {0}
    if kind == "plain":  # there are 7 chunks
        assert len(many["used"]) >= min(count, 7)


@pytest.mark.parametrize("fault, kind", FAULTS)
def test_a_device_that_fails_hands_its_chunk_to_another_and_is_reported(on, fault, kind):
    found, store = on(4, fault, kind)
    assert found["failed"] and found["error"] is None
    if kind != "asha":  # whose decisions depend on how many train at a time
        assert_same(on(1, kind="plain" if kind == "store" else kind)[0], found)
    assert len(found["table"]["status"]) == 13 and "unfinished" not in found["table"]["status"]
    if fault != "compiler":
        warned = [text for text in found["warned"] if "every device must train what it is given" in text]
        assert warned and "got cpu:1: RuntimeError: INTERNAL: the device has gone;" in warned[0] and "handed to another device" in warned[0]
    if kind == "store":
        assert '"device failed"' in (store / "events.jsonl").read_text()
    assert (fault == "one") == (1 in found["used"])


def test_what_fails_on_every_device_is_the_callers(on):
    found, _ = on(2, "every")
    assert re.match("SweepFailed: sweep: ArithmeticError after 0 of 13 runs.*: it never works", found["error"]) and not found["warned"]
