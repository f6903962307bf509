"""A sweep's programs compile for TPUs, on any Linux machine: `tests/tpu.py` sweeps as far as that goes without one.

`make tpu` installs the TPU's compiler in an environment of its own and runs this file; elsewhere it is skipped.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tpu import BATCH, ENVIRONMENT, FEW, MEMORY, SWEEPS, VARIANTS

TESTS = Path(__file__).parents[1]
every_chip = pytest.mark.parametrize("chip", MEMORY)
every_sweep = pytest.mark.parametrize(("chip", "name"), [(chip, name) for chip, names in SWEEPS.items() for name in names])


@pytest.fixture(scope="module")
def compiled():
    """Of each chip and each recipe's sweep, how many lanes a chunk has and what the compiler says of its programs."""
    if importlib.util.find_spec("libtpu") is None:
        missing = "needs the TPU's compiler: make tpu, or pip install -e '.[tpu]'"
        pytest.fail(missing) if os.environ.get("FUNCNET_NEEDS_LIBTPU") else pytest.skip(missing)
    command = [sys.executable, "-W", "error", str(TESTS / "tpu.py"), *SWEEPS]
    path = os.pathsep.join([str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env=os.environ | ENVIRONMENT | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@every_sweep
def test_every_program_of_a_chunk_compiles_and_fits(chip, name, compiled):
    """In the memory that the sweep may take, three quarters of the chip's; `draw` may be one that another sweep has compiled."""
    sweep = compiled[chip]["sweeps"][name]
    assert {"jit_begin", "jit__advance", "jit_evaluate", "jit_finite_leaves"} <= set(sweep["programs"])
    assert all(0 < program["bytes"] < 0.75 * MEMORY[chip] for program in sweep["programs"].values())
    assert all(program["flops"] > 0 for program in sweep["programs"].values())


@every_chip
def test_a_chunk_has_all_variants_unless_they_do_not_fit(chip, compiled):
    sweeps = compiled[chip]["sweeps"]
    lanes = dict.fromkeys(SWEEPS[chip], VARIANTS) | ({"named": FEW, "large": VARIANTS // 2} if chip == "v5e:2x2" else {})
    assert {name: sweep["lanes"] for name, sweep in sweeps.items()} == lanes
    assert {name: sweep["halved"] for name, sweep in sweeps.items()} == {name: int(name == "large") for name in lanes}


@every_sweep
def test_steps_are_one_loop_that_neither_waits_for_the_host_nor_for_another_chip(chip, name, compiled):
    programs = compiled[chip]["sweeps"][name]["programs"]
    assert programs["jit__advance"]["loops"] >= 1
    assert {which: (program["unwanted"], program["host_bytes"]) for which, program in programs.items()} == dict.fromkeys(programs, ([], 0))


@every_chip
def test_a_transfer_or_a_collective_would_be_found(chip, compiled):
    found = compiled[chip]["controls"]
    assert {"send", "recv", "is_host_transfer=true"} <= set(found["callback"])
    assert found["host"] == ["S(5)"] and found["collective"] == ["all-reduce"]


@every_sweep
def test_a_convolution_is_its_own(chip, name, compiled):
    """And there are as many as were lowered."""
    programs = compiled[chip]["sweeps"][name]["programs"]
    windows = [programs[which]["windows"] for which in ("jit_begin", "jit__advance", "jit_evaluate")]
    assert windows == ([0, 5, 4] if name == "conv" else [0, 0, 0])


@every_chip
def test_a_convolution_of_many_lanes_is_no_larger_one_of_zeros(chip, compiled):
    """A compiler may make a grouped convolution an ordinary one, most of whose products are with zero: times as many as lanes."""
    sweep = compiled[chip]["sweeps"]["conv"]
    first, second, dense = 9 * 4 * 8 * 8, 9 * 4 * 4 * 4 * 4, 10 * 4 * 4 * 4  # multiplications of an example, forwards
    step = 2 * BATCH * sweep["lanes"] * (2 * first + 3 * second + 3 * dense)  # there is no gradient in the data
    assert sweep["programs"]["jit__advance"]["flops"] < 2 * step
