"""The measurement of what a task costs the driver."""

import pytest

from experiments.bench import cluster_scale as scale


def test_a_few_tasks_are_measured():
    narrow, wide = scale.with_processes([1], 12)
    (many,) = scale.in_flight([3], 12)
    assert {own.scheduler for own in (narrow, wide, many)} == {0.0}
    assert [(own.tasks, own.lanes) for own in (narrow, wide, many)] == [(12, scale.FEW), (8, scale.MANY), (12, scale.FEW)]
    assert all(own.cpu > 0 for own in (narrow, wide, many))


def test_tasks_on_their_way_are_answered_in_time_with_the_first_reply():
    executor = scale.InFlight(2, 0.2)
    assert executor.submit(max, "a", "b").result() == "b"  # not an order, whose arguments are four
    first = executor.submit(max, ("done", 1), ("a",), ("b",), ("c",))
    assert first.done() and first.result() == ("done", 1)
    later = [executor.submit(max, ("done", i), ("a",), ("b",), ("c",)) for i in (2, 3)]
    assert not any(future.done() for future in later)
    assert [future.result(timeout=10) for future in later] == [("done", 1)] * 2
    executor.close()


def test_the_table():
    found = [scale.Cost("processes", 2, 1000, 16, 1.0754, 0.0), scale.Cost("of Dask", 2, 1000, 1, 1.8, 1.9)]
    assert scale.table(found).splitlines()[2:] == ["| 2 processes | 1,000 | 16 | 1.075 |  |", "| 2 of Dask | 1,000 | 1 | 1.800 | 1.900 |"]


def test_the_command_refuses_what_cannot_be_measured(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cluster_scale", "--in-flight", "0"])
    with pytest.raises(SystemExit):
        scale.main()
    assert "must be at least 1, got 0" in capsys.readouterr().err
