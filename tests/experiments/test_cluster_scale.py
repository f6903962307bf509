"""The measurement of what a task costs the driver: that its workers really do nothing else, its model, and what is asked of it."""

import pickle

import numpy as np
import pytest

from experiments.bench import cluster_scale as scale
from funcnet.sweeps import worker


def test_workers_that_do_nothing_answer_with_the_first_reply_and_a_few_tasks_are_measured():
    (narrow, wide) = scale.with_processes([1], 12, lambda line: None)
    assert (narrow.lanes, wide.lanes, narrow.tasks, wide.tasks) == (scale.FEW, scale.MANY, 12, 8)
    state = 4 * (3 * (64 * 64 + 64 + 64 * 10 + 10) + 2)  # float32: parameters and Adam's two moments
    assert state < narrow.received < state + 4000 and 16 * state < wide.received < 16 * (state + 4000)
    assert narrow.data > 1408 * 65 * 4 and 0 < narrow.brief < 20_000 and 100 < narrow.sent < 4000
    assert 1 <= narrow.briefs <= 2 and narrow.cpu > 0 and narrow.wall > 0 and narrow.planning > 0
    (many,) = scale.in_flight([3], 12, lambda line: None)
    assert many.sent == pytest.approx(narrow.sent, rel=0.1) and many.received == pytest.approx(narrow.received, rel=0.1)


def test_an_order_is_carried_out_once_and_then_answered(monkeypatch):
    carried_out = []

    class Task:
        at, stops, width = 0, ((16, True),), 1

    class Order:
        task = Task

    def work(versions, sent, brief, data):
        carried_out.append(data)
        return ("missing", "me", ("data",)) if data is None else ("done", "me", len(carried_out))

    monkeypatch.setattr(worker, "work", work)
    monkeypatch.setattr(pickle, "loads", lambda sent: Order)
    scale.answer_at_once()
    assert [worker.work({}, b"", None, data)[2] for data in (None, b"x", None, None)] == [("data",), 2, 2, 2]
    assert carried_out == [None, b"x"]
    Task.width = 2
    assert worker.work({}, b"", None, b"x")[2] == 3


def cost(workers=2, lanes=1, cpu=1.0, wall=1.0, planning=0.1):
    return scale.Cost(workers, 1000, lanes, cpu, wall, planning, 900.0, 4000, 360_000, workers, 58_000)


PAIRS = {"share": 0.01, "low": 0.0, "high": 0.02, "noise": 0.01, "threads": 0.2, "pairs": []}


def test_what_is_asked_holds_or_fails_by_the_figures():
    real, many = [cost(), cost(lanes=16, cpu=30.0, wall=30.0), cost(8)], [cost(8), cost(1000)]
    assert [holds for _, holds in scale.verdicts(real, many, PAIRS)] == [True] * 3
    for changed, place in (((real + [cost(cpu=5.1)], many, PAIRS), 0), ((real + [cost(wall=5.1)], many, PAIRS), 0),
                           ((real, many + [cost(cpu=5.1)], PAIRS), 1), ((real, many, PAIRS | {"share": 0.031}), 2),
                           ((real, many, PAIRS | {"noise": 0.04}), 2)):  # fmt: skip
        assert [holds for _, holds in scale.verdicts(*changed)] == [i != place for i in range(3)]


def test_the_model_is_the_line_through_narrow_and_wide_chunks_and_what_many_tasks_add():
    real, many = [cost(cpu=1.0), cost(lanes=16, cpu=2.5)], [cost(10, cpu=0.5), cost(1010, cpu=1.0)]
    model = scale.model_of(real, many)
    assert model.task == pytest.approx(0.9) and model.lane == pytest.approx(0.1) and model.planning == 0.1
    np.testing.assert_allclose(model.milliseconds([1, 10, 510, 1010, 2010], 1), [1.0, 1.0, 1.25, 1.5, 2.0])  # a half for each thousand
    flat = scale.model_of(real, [cost(10, cpu=0.5), cost(1000, cpu=0.4)])
    np.testing.assert_allclose(flat.milliseconds([10, 1000, 100_000], 16), 2.5)
    assert flat.most(16, 4.0) == pytest.approx(4.0 / 2.5e-3, rel=0.01)  # a driver that is busy all the time
    np.testing.assert_allclose(flat.busy([100, 3200], 16, 4.0), [1.0, 0.5])


def test_what_was_measured_is_told_and_drawn(tmp_path):
    real, many = [cost(), cost(lanes=16, cpu=2.5)], [cost(8), cost(1000, cpu=2.0)]
    model = scale.model_of(real, many)
    assert "| 1,000 on their way | 1,000 | 1 | 2.000 |" in scale.table(real, many) and "58.0 |" in scale.table(real, many)
    told = scale.words(real, model)
    assert "4.0 kB of the recipe and 360 kB of data" in told and "of 1,000,000 variants the driver's part is 100 s" in told
    figure = scale.picture(real, many, model)
    figure.savefig(tmp_path / "driver.png")
    assert len(figure.axes) == 3
    scale.plt.close(figure)


def test_w1_is_timed_by_threads_and_by_processes_in_turn():
    found = scale.w1_pairs(2, lambda line: None, variants=4, epochs=1)
    assert len(found["pairs"]) == 2 and all(seconds > 0 for own in found["pairs"] for seconds in own.values())
    ratios = [2 * own["processes"] / (own["threads"] + own["again"]) for own in found["pairs"]]
    assert found["share"] == pytest.approx(np.median(ratios) - 1) and found["low"] <= found["share"] <= found["high"]


@pytest.mark.parametrize("wrong", [["--tasks", "0"], ["--pairs", "0"], ["--workers", "0"], ["--in-flight", "-1"]])
def test_the_command_refuses_what_cannot_be_measured(wrong, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cluster_scale", *wrong])
    with pytest.raises(SystemExit):
        scale.main()
    assert "every number must be at least 1" in capsys.readouterr().err
