"""Breaking stored sweeps, a little of each: deaths, what write points leave, damage, and a state machine; and that faults are seen."""

import hypothesis
import numpy as np
import pytest
from hypothesis.stateful import run_state_machine_as_test

from experiments.faults import damage, disk, kills
from experiments.faults.machine import StoredSweep
from experiments.faults.sweeps import KINDS, differences, stored_often, sweep, undisturbed
from funcnet.sweeps import files, store

SETTINGS = hypothesis.settings(
    max_examples=8, stateful_step_count=6, derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)  # fmt: skip


@pytest.fixture(scope="module")
def victims(tmp_path_factory):
    return damage.victims(tmp_path_factory.mktemp("victims"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_sweep_is_the_undisturbed_one(kind, tmp_path):
    with stored_often():
        assert not differences(sweep(kind, tmp_path), undisturbed(kind))
    statuses = set(undisturbed(kind)["table status"].tolist())
    assert "completed" in statuses and len(statuses) > 1  # some diverge, or are pruned


def test_a_single_bit_is_a_difference():
    one = undisturbed("mlp")
    name = next(name for name, array in one.items() if name.startswith("state of row 3") and array.dtype == np.float32)
    other = {**one, name: one[name].copy()}
    other[name].view(np.uint8).flat[0] ^= 1
    assert differences(one, other) == [name] and not differences(one, dict(one))
    assert differences({**one, name: one[name].astype(np.float64)}, one) == [name]
    assert differences({key: array for key, array in one.items() if key != name}, one) == [name]


def test_a_process_dies_before_the_call_that_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "_AHEAD", 0)
    with kills.Workers("asha", tmp_path / "compiled") as workers:
        assert workers.run(tmp_path / "store", die_at=3000) == "killed"
        assert (tmp_path / "store" / "lock.json").exists()  # nobody has cleared up
    assert kills._resumed("asha", tmp_path / "store") == (True, "")


def test_what_a_write_point_leaves_goes_on(tmp_path):
    copies, calls = tmp_path / "copies", []
    copies.mkdir()
    with stored_often(), disk.copied(tmp_path / "store", copies, calls):
        sweep("halving", tmp_path / "store")
    assert {"open", "write", "half of a write", "fsync", "replace", "unlink"} <= set(calls)
    names = sorted(copies.iterdir(), key=lambda path: int(path.name))
    assert len(names) > 100 and len({disk.content(path) for path in names}) == len(names)
    for copy in names[::10]:
        assert kills._resumed("halving", copy) == (True, ""), copy


@pytest.mark.parametrize("part", damage.PARTS)
@pytest.mark.parametrize("way", damage.WAYS)
def test_damage_is_noticed_and_gone_on_with(part, way, victims, tmp_path):
    count = damage.damaged(part, way, 2, [victim for victim in victims if victim.kind in ("best", "halving")], tmp_path, seed=0)
    assert not count.wrong and count.same == count.times
    assert count.times or (part, way) == ("policy", "swapped")  # all of whose files are equal


def test_damage_that_nobody_checks_for_is_seen(victims, tmp_path, monkeypatch):
    """A store that doesn't look at sums ends with other numbers, or fails; the experiment says so."""

    def unchecked(path, entry):
        with open(path, "rb") as file:
            return files._arrays(file, entry.size, entry.dtypes)

    monkeypatch.setattr(files, "_read_part", unchecked)
    monkeypatch.setattr(files.zipfile.ZipExtFile, "_update_crc", lambda self, data: None)
    count = damage.damaged("cohorts", "bit flipped", 8, victims, tmp_path, seed=0)
    assert len(count.wrong) > 2 and count.same < count.times


@pytest.mark.parametrize("kinds", [("mlp",), ("cnn", "best"), ("halving", "asha")], ids="+".join)
def test_whatever_is_done_to_it(kinds):
    class Machine(StoredSweep):
        pass

    Machine.kinds = kinds
    run_state_machine_as_test(Machine, settings=SETTINGS)


def test_the_machine_sees_a_store_that_mixes_up_states(monkeypatch):
    own = store.Store._stacked

    def stacked(self, rows, states):
        return own(self, rows, {row: states[rows[0]] for row in rows})

    class Machine(StoredSweep):
        kinds = ("mlp",)

    monkeypatch.setattr(store.Store, "_stacked", stacked)
    with pytest.raises(AssertionError, match="state of row"):
        run_state_machine_as_test(Machine, settings=hypothesis.settings(SETTINGS, phases=[hypothesis.Phase.generate]))
