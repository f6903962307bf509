"""Minibatches: what is counted is counted right, and findings that can refute. No test asserts seconds."""

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments import batches
from experiments.batches import Measured


@pytest.fixture(scope="module")
def outcome():
    yield batches.run(quick=True)
    plt.close("all")


def made(name, examples_to_aim, seconds_to_aim, error):
    """A batch size that reaches the aim at its second evaluation."""
    error = np.asarray(error)
    loss = np.tile([1.0, 0.1, 0.05], (len(error), 1))
    examples, seconds = examples_to_aim * np.array([0.5, 1, 2]), seconds_to_aim * np.array([0.5, 1, 2])
    return Measured(name, 0.1, examples, seconds, loss, error, np.ones(len(error), int))


def test_the_smaller_the_batch_the_fewer_the_examples(outcome):
    finding = outcome.findings[0]
    seen = [finding.figures[f"examples, {size} a step"].mean for size in ("1", "32", "1,079")]
    assert finding.holds and seen == sorted(seen)
    for size, own in zip(("1", "32"), seen, strict=False):
        assert finding.figures[f"share of the whole set's, {size} a step"].mean == pytest.approx(own / seen[-1], rel=0.25)


def test_the_larger_the_batch_the_larger_its_best_learning_rate(outcome):
    """The noise of a gradient falls with the size of the batch, and with it what bounds the rate."""
    rates = [outcome.findings[0].figures[f"learning rate, {size} a step"] for size in ("1", "32", "1,079")]
    assert rates == sorted(rates) and rates[0] < rates[-1] < max(batches.RATES)


def test_the_picture_shows_every_size_by_examples_and_by_time(outcome):
    by_examples, by_time = outcome.pictures["loss"].axes
    for ax in (by_examples, by_time):
        assert [line.get_label() for line in ax.lines[:3]] == ["1 example", "32 examples", "1,079 examples"]
    for first, second in zip(by_examples.lines[:3], by_time.lines[:3], strict=True):
        np.testing.assert_array_equal(first.get_ydata(), second.get_ydata())
        assert np.ptp(first.get_xdata() / second.get_xdata()) < 1e-6 * np.max(first.get_xdata() / second.get_xdata())
    steps = [dict(batches.QUICK)[size] * (size or 1079) for size in (1, 32, None)]
    assert [line.get_xdata()[-1] for line in by_examples.lines[:3]] == steps


def test_a_whole_set_that_is_as_good_refutes_each_claim():
    noise = np.array([0.0, 0.001, -0.001, 0.0005])
    small, whole = made("1", 100, 2.0, 0.03 + noise), made("1,079", 1000, 4.0, 0.03 - noise)
    assert batches.fewer_examples([small, whole]).holds and not batches.fewer_examples([whole, small]).holds
    assert batches.less_time([small, whole]).holds and not batches.less_time([whole, small]).holds
    assert batches.less_time([whole, small, whole]).figures["share of the whole set's time"].mean == pytest.approx(0.5)
    assert batches.as_accurate([small, whole]).holds
    assert not batches.as_accurate([small._replace(error=whole.error + 0.02), whole]).holds


def test_a_batch_size_that_never_gets_there_is_said():
    key = jax.random.key(0)
    with pytest.raises(RuntimeError, match="every seed must get to a loss of 0.2, and batch size 1 doesn't; give it more steps"):
        batches.measure(batches.digits(key), 1, 60, 2, key)
