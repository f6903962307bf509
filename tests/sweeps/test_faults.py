"""Stored sweeps that are ended at the worst moments go on with the same bits; each of these moments was once got wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import funcnet as fn
from experiments.faults.sweeps import EVERY, KINDS, differences, stored_often, sweep, undisturbed
from funcnet import prune
from funcnet.sweeps import executors, judge
from funcnet.sweeps.files import Folder

ROOT = Path(__file__).parents[2]
every_kind = pytest.mark.parametrize("kind", KINDS)


def stops_at(look):
    """A progress function that is as good as Ctrl-C at its call of that number."""
    left = [look]

    def tell(progress):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return tell


def stops_once_trained(steps):
    def tell(progress):
        if progress.steps_done >= steps:
            raise KeyboardInterrupt

    return tell


def stops_once_ended(rows):
    def tell(progress):
        if progress.runs_done >= rows:
            raise KeyboardInterrupt

    return tell


def is_stopped(kind, folder, tell, **changed):
    with stored_often(), pytest.raises(KeyboardInterrupt, match="^$|the same call goes on from"):
        sweep(kind, folder, progress=tell, **changed)


def stored(folder):
    with Folder(folder) as found:
        return found.snapshot.content


def stopped_on_the_way(kind, folder, tells):
    """A store of a sweep that was stopped by the first of these that finds a chunk on its way."""
    for i, tell in enumerate(tells):
        own = folder / str(i)
        is_stopped(kind, own, tell)
        if any(at > 0 for _, at, _ in trains(own)):
            return own
    raise AssertionError(f"no chunk of {kind} was on its way")


def trains(folder):
    return sorted((cohort["rows"], cohort["at"], cohort["stand"]) for cohort in stored(folder)["cohorts"])


@every_kind
def test_a_resumed_sweep_that_ends_before_it_trains_keeps_what_was_on_its_way(kind, tmp_path):
    folder = stopped_on_the_way(kind, tmp_path, map(stops_once_trained, range(1, 102, 10)))
    before, programs = trains(folder), stored(folder)["programs"]
    with stored_often():
        sweep(kind, folder, max_seconds=1e-9)
    assert trains(folder) == before and stored(folder)["programs"] == programs
    assert not differences(sweep(kind, folder), undisturbed(kind))


@every_kind
def test_stopped_again_and_again_at_every_few_looks(kind, tmp_path):
    for look in (3, 9, 5, 6, 4, 8):
        try:
            with stored_often():
                sweep(kind, tmp_path, progress=stops_at(look))
        except KeyboardInterrupt:
            continue
        break
    assert not differences(sweep(kind, tmp_path), undisturbed(kind))


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_more_steps_join_a_sweep_on_its_way(kind, tmp_path):
    """Some runs have ended, others are on their way, and others have not begun."""
    folder = stopped_on_the_way(kind, tmp_path, map(stops_once_ended, range(2, 10)))
    assert not differences(sweep(kind, folder, longer=2 * EVERY), undisturbed(kind, 0, 2 * EVERY))


def test_more_steps_join_where_a_resumed_sweep_ended_before_its_first_programs(tmp_path):
    """Of a program all of whose runs have ended nothing is compiled when the sweep goes on: it must be known all the same."""
    is_stopped("mlp", tmp_path, stops_once_ended(7))
    with stored_often():
        sweep("mlp", tmp_path)
        sweep("mlp", tmp_path, add=1)  # a variant of one of the two programs
    assert not differences(sweep("mlp", tmp_path, add=1, longer=EVERY), undisturbed("mlp", 1, EVERY))


def test_what_could_not_be_written_is_written_with_the_next(tmp_path, monkeypatch):
    own, failed = Folder.write, []

    def write(self, content, parts, keep=()):
        if "states-1" in parts and not failed:
            failed.append(parts)
            raise OSError(28, "No space left on device")
        own(self, content, parts, keep)

    monkeypatch.setattr(Folder, "write", write)
    with stored_often(), pytest.raises(fn.SweepFailed, match="the same call goes on from what is stored: .*No space left") as caught:
        sweep("mlp", tmp_path)
    assert "could not be written" not in str(caught.value) and failed and "states-1" in stored(tmp_path)["states"]
    assert not differences(sweep("mlp", tmp_path), undisturbed("mlp"))


@pytest.mark.parametrize(("kind", "call"), [("halving", 2), ("halving", 3), ("asha", 2), ("asha", 3), ("asha", 5), ("asha", 8)])
def test_stopped_in_the_middle_of_a_decision(kind, call, tmp_path, monkeypatch):
    own, calls = judge.Judge.rule, []

    def rule(self):
        own(self)
        calls.append(None)
        if len(calls) == call:
            raise KeyboardInterrupt

    monkeypatch.setattr(judge.Judge, "rule", rule)
    is_stopped(kind, tmp_path, False)
    assert not differences(sweep(kind, tmp_path), undisturbed(kind))


def test_asha_with_several_programs_does_not_depend_on_which_is_compiled_first(tmp_path, monkeypatch):
    def swept(store=None, progress=False):
        variants = fn.grid(learning_rate=np.geomspace(1e-3, 0.3, 9).tolist(), width=[5, 7])
        return sweep("asha", store, progress=progress, prune=prune.asha(6), variants=variants)

    expected, own, waits = swept(), executors.Threads.compiled, []

    def compiled(self, request):
        """The first group's programs come last."""
        if request.group == 0 and len(waits) % 3 < 2:
            waits.append(request)
            return None
        return own(self, request)

    monkeypatch.setattr(executors.Threads, "compiled", compiled)
    assert not differences(swept(), expected) and waits
    with stored_often(), pytest.raises(fn.SweepStopped, match="after"):
        swept(tmp_path, stops_once_ended(1))
    assert not differences(swept(tmp_path), expected)


ON_THREE_DEVICES = """
import time
import jax
from experiments.faults.sweeps import sweep
from funcnet.sweeps import executors

assert jax.local_device_count() == 3
compiles, trains, made, used = executors.compile_programs, executors.run_task, {}, set()


class Later:
    def __init__(self, pending, seconds):
        self.pending, self.futures, self.until = pending, pending.futures, time.monotonic() + seconds

    def done(self):
        return self.pending.done() and time.monotonic() > self.until

    def result(self):
        return self.pending.result()


def compile_programs(trial, kind):
    made[kind.device.id] = Later(compiles(trial, kind), 0.4 * kind.device.id)
    return made[kind.device.id]


def run_task(task, here, seconds=None):
    assert sorted(made) == [0, 1, 2] and all(pending.done() for pending in made.values())
    used.add(here.device.id)
    return trains(task, here, seconds)


executors.compile_programs, executors.run_task = compile_programs, run_task
sweep("asha", None)
assert used == {0, 1, 2}
"""


def test_asha_on_three_devices_begins_once_all_have_its_programs():
    """Else how many train at a time, and with it what is known at each decision, hung on when the others had theirs."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", ON_THREE_DEVICES], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_event_after_a_torn_line_has_a_line_of_its_own(tmp_path):
    is_stopped("mlp", tmp_path, stops_once_ended(1))
    log = tmp_path / "events.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-5])
    sweep("mlp", tmp_path)
    lines = log.read_text().splitlines()
    torn = whole[:-5].count(b"\n")
    events = [json.loads(line)["event"] for i, line in enumerate(lines) if i != torn]
    assert events[torn] == "resumed" and events[-1] == "finished"
