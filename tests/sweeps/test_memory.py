"""Memory: the budget that a sweep finds, chunks that are halved when it was not enough, and data that stays in its file."""

import collections
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
import funcnet.train as training_module
from funcnet.sweeps import executors, memory

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 6)).astype(np.float32)
DATA = fn.split(fn.Dataset(X, (X[:, 0] > 0).astype(np.int32)), key=jax.random.key(0))
RATES = np.geomspace(1e-3, 1.0, 22).tolist()
SETTINGS = dict(key=jax.random.key(5), num_steps=150, batch_size=16, progress=False, eval_every=30)


def recipe(learning_rate, width=6):
    return fn.training(fn.mlp((width, 2), "relu", 0.2), fn.cross_entropy, fn.adam(learning_rate), in_shape=(6,))


# The budget.


def test_most_of_what_is_free_is_taken(monkeypatch):
    monkeypatch.setattr(memory, "_available", lambda: 4000)
    monkeypatch.setattr(memory, "_group_allows", lambda: None)
    assert memory.free_memory(jax.devices("cpu")[0]) == 3000
    monkeypatch.setattr(memory, "_group_allows", lambda: 1000)
    assert memory.free_memory(jax.devices("cpu")[0]) == 750


def test_what_is_free_of_a_gpu():
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 10_000, "bytes_in_use": 2000}

    assert memory.free_memory(Device()) == 6000


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(str(text))


def test_the_strictest_group_above_counts(tmp_path):
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    group(root / "a", memory__max="max", memory__current=10)
    group(root / "a" / "b", memory__max=5000, memory__current=1500, memory__stat="anon 7\ninactive_file 500\n")
    group(root / "a" / "b" / "c", memory__max=9000, memory__current=100)
    proc.write_text("0::/a/b/c\n")
    assert memory._group_allows(proc, root) == 4000
    proc.write_text("0::/a\n")
    assert memory._group_allows(proc, root) is None


def test_a_container_sees_its_own_limit_at_the_root(tmp_path):
    group(tmp_path / "cgroup", memory__max=700, memory__current=900)
    (tmp_path / "proc").write_text("0::/\n")
    assert memory._group_allows(tmp_path / "proc", tmp_path / "cgroup") == 0


def test_groups_of_the_first_version(tmp_path):
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    group(root / "memory" / "job", memory__limit_in_bytes=3000, memory__usage_in_bytes=1000, memory__stat="total_inactive_file 200\n")
    group(root / "memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=1)
    proc.write_text("12:cpu,cpuacct:/job\n4:hugetlb,memory:/job\n")
    assert memory._group_allows(proc, root) == 2200


def test_a_machine_without_groups(tmp_path):
    assert memory._group_allows(tmp_path / "none", tmp_path) is None


# Out of memory.


class OutOfMemory:
    """Every task wider than so many lanes runs out of memory."""

    def __init__(self, monkeypatch, most, error, times=10**9):
        self.own, self.most, self.error, self.left = executors.run_task, most, error, times
        self.widths = []
        monkeypatch.setattr(executors, "run_task", self)

    def __call__(self, task, here, seconds=None):
        if task.width > self.most and self.left:
            self.left -= 1
            raise self.error
        self.widths.append(task.width)
        return self.own(task, here, seconds)


FULL = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")


TWO_PROGRAMS = fn.grid(learning_rate=RATES[:11], width=[5, 6])
WAYS = {
    "as ever": {},
    "replicates": {"replicates": 2},
    "pruned": {"prune": fn.prune.successive_halving(6)},
    "keys of their own": {"randomness": "independent"},
}


@functools.cache
def in_narrow_chunks(way):
    return fn.sweep(recipe, TWO_PROGRAMS, DATA, **SETTINGS, chunk_size=3, **WAYS[way])


@pytest.mark.parametrize("way, error", [("as ever", MemoryError("no more")), *((way, FULL) for way in WAYS)])
def test_a_chunk_that_needs_more_than_there_is_is_halved(way, error, monkeypatch, caplog):
    whole = in_narrow_chunks(way)
    OutOfMemory(monkeypatch, 3, error)
    with caplog.at_level("WARNING", "funcnet"):
        result = fn.sweep(recipe, TWO_PROGRAMS, DATA, **SETTINGS, chunk_size=12, **WAYS[way])
    assert "out of memory" in caplog.text and "lanes 12, now 6" in caplog.text
    assert result.timing["lane_widths"] == [3, 3] and result.timing["halved"] > 0
    for name, column in whole.table.items():
        np.testing.assert_array_equal(column, result.table[name], err_msg=name)
    for row in range(len(whole)):
        for ours, theirs in zip(jax.tree.leaves(whole.state(row)), jax.tree.leaves(result.state(row)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def compilers_run_out(monkeypatch, most, error):
    """Programs of more lanes than so many can't be compiled."""
    own = executors.compile_programs

    class Lost:
        futures = ()

        def done(self):
            return True

        def result(self):
            raise error

    monkeypatch.setattr(executors, "compile_programs", lambda trial, kind: Lost() if len(kind.lanes.lane) > most else own(trial, kind))


@pytest.mark.parametrize("way, error", [("as ever", MemoryError()), *((way, FULL) for way in WAYS)])
def test_a_program_that_needs_more_than_there_is_to_compile_is_halved(way, error, monkeypatch, caplog):
    whole = in_narrow_chunks(way)
    compilers_run_out(monkeypatch, 3, error)
    with caplog.at_level("WARNING", "funcnet"):
        result = fn.sweep(recipe, TWO_PROGRAMS, DATA, **SETTINGS, chunk_size=12, **WAYS[way])
    assert "out of memory" in caplog.text and "lanes 12, now 6" in caplog.text
    assert result.timing["lane_widths"] == [3, 3] and result.timing["halved"] == 4  # of two programs, from 12 to 6 to 3
    for name, column in whole.table.items():
        np.testing.assert_array_equal(column, result.table[name], err_msg=name)


def test_one_that_not_even_a_single_lane_compiles_for_says_so(monkeypatch):
    compilers_run_out(monkeypatch, 0, FULL)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        fn.sweep(recipe, fn.grid(learning_rate=RATES[:3]), DATA, **SETTINGS)


def test_a_stored_sweep_goes_on_where_its_programs_no_longer_compile(monkeypatch, tmp_path):
    variants = fn.grid(learning_rate=RATES[:11])
    whole = fn.sweep(recipe, variants, DATA, **SETTINGS, chunk_size=2)

    def stop(progress):
        if progress.steps_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fn.sweep(recipe, variants, DATA, **SETTINGS | dict(progress=stop), chunk_size=8, store=tmp_path)
    compilers_run_out(monkeypatch, 2, FULL)
    result = fn.sweep(recipe, variants, DATA, **SETTINGS, chunk_size=8, store=tmp_path)
    assert result.timing["halved"] == 2 and result.table["status"].tolist() == ["completed"] * 11
    for name in ("train/loss", "validation/loss"):
        np.testing.assert_allclose(result.curves[name], whole.curves[name], rtol=1e-4)


def test_one_that_runs_out_on_its_way_goes_on_from_where_it_stood(monkeypatch):
    """Not from the first step: what was computed is kept."""
    full, steps = OutOfMemory(monkeypatch, 12, FULL), collections.Counter()
    began = full.own

    def late(task, here, seconds=None):
        if task.width == 12 and task.at >= 60:
            raise FULL
        steps[task.width] += 1
        assert task.width == 12 or task.at > 0 or task.stand is None
        return began(task, here, seconds)

    monkeypatch.setattr(executors, "run_task", late)
    result = fn.sweep(recipe, fn.grid(learning_rate=RATES), DATA, **SETTINGS, chunk_size=12)
    assert set(result.table["status"].tolist()) == {"completed"} and steps[6] > 0
    np.testing.assert_array_equal(result.curves["step"], [30, 60, 90, 120, 150])
    assert np.isfinite(result.curves["train/loss"]).all()


def test_one_lane_that_does_not_fit_is_an_error(monkeypatch):
    OutOfMemory(monkeypatch, 0, FULL)
    with pytest.raises(fn.SweepFailed, match="RESOURCE_EXHAUSTED"):
        fn.sweep(recipe, fn.grid(learning_rate=RATES), DATA, **SETTINGS, chunk_size=4)


def test_another_error_is_not_taken_for_it(monkeypatch):
    OutOfMemory(monkeypatch, 0, RuntimeError("broken"), times=1)
    with pytest.raises((fn.SweepFailed, RuntimeError), match="broken"):
        fn.sweep(recipe, fn.grid(learning_rate=RATES), DATA, **SETTINGS, chunk_size=4)


# Data in a file.


def test_large_sets_are_predicted_in_slices_with_the_same_numbers(monkeypatch):
    model = fn.mlp((7, 2), "relu")
    for examples in (33, 64, 65, 1000, 1025, 2049):
        x = jnp.asarray(RNG.normal(size=(examples, 6)), jnp.float32)
        params = model.init(jax.random.key(0), (6,))
        padded = training_module._predictions(model, params, x)
        monkeypatch.setattr(training_module, "_LARGE", 0)
        sliced = training_module._predictions(model, params, x)
        monkeypatch.undo()
        assert sliced.shape == padded.shape == (2, examples)
        np.testing.assert_allclose(sliced, padded, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("at", [0, 5, 79])
def test_what_is_not_finite_is_found_in_whichever_block(at, monkeypatch):
    from funcnet import data

    monkeypatch.setattr(data, "_LOOKED_AT", 60)
    x = X.copy()
    x[at, 3] = np.inf
    with pytest.raises(ValueError, match=rf"x must be finite, got inf at index \({at}, 3\)"):
        fn.split(fn.Dataset(x, X[:, 0]), key=jax.random.key(0))


MAPPED = """
import json, sys
import jax, numpy as np
import funcnet as fn
def anonymous():
    return max(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(("RssAnon:",))) // 1024
def recipe(learning_rate):
    return fn.training(fn.dense(2), fn.cross_entropy, fn.sgd(learning_rate), in_shape=(1024,))
y = np.load(sys.argv[2])
settings = dict(key=jax.random.key(0), num_steps=20, batch_size=8, progress=False, chunk_size=2, memory_budget=2**27)
for mode in ("r", None):
    x = np.load(sys.argv[1], mmap_mode=mode)
    few = fn.Split(fn.Dataset(np.array(x[:64]), y[:64]), fn.Dataset(np.array(x[64:96]), y[64:96]))
    fn.sweep(recipe, fn.grid(learning_rate=[0.001, 0.01]), few, **settings)
    before = anonymous()
    result = fn.sweep(recipe, fn.grid(learning_rate=[0.001, 0.01]), fn.Split(fn.Dataset(x, y), few.validation), **settings)
    losses = {part: result.table[part + "/loss"].tolist() for part in ("train", "validation")}
    print(json.dumps({"grown": anonymous() - before, **losses}))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux says how much of its memory a process has from files")
def test_data_larger_than_the_budget_stays_in_its_file_with_the_same_numbers(tmp_path):
    """300 MB of examples, with a budget of 128 MB: neither the checks, nor training, nor evaluation takes them into memory."""
    examples = 76_800
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(examples, 1024))
    block = RNG.normal(size=(6400, 1024)).astype(np.float32)
    for begin in range(0, examples, 6400):
        x[begin : begin + 6400] = block + np.float32(begin / examples)
    x.flush()
    np.save(tmp_path / "y.npy", (x[:, 0] > 0).astype(np.int32))
    del x
    command = [sys.executable, "-c", MAPPED, str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mapped, loaded = map(json.loads, done.stdout.splitlines()[-2:])
    assert mapped["train"] == loaded["train"] and mapped["validation"] == loaded["validation"]
    assert mapped["grown"] < 100, mapped
