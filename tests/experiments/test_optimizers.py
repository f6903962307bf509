"""The optimizers: the valley against closed forms, the figures against each other, and findings that can refute."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments import optimizers
from experiments.optimizers import Measured


@pytest.fixture(scope="module")
def outcome():
    yield optimizers.run(quick=True)
    plt.close("all")


def measured(ends, steps=4):
    """Losses that fall straight to these ends at every learning rate, with a little noise over three seeds."""
    noise = np.array([0.99, 1.0, 1.01])[:, None, None]
    fall = np.linspace(1, 0, steps)
    losses = {name: noise * (end + (1 - end) * fall) * np.ones((1, len(optimizers.RATES), 1)) for name, end in ends.items()}
    return {"data": Measured(np.arange(1, steps + 1), losses, losses)}


def test_sgd_in_the_valley_is_the_closed_form():
    """Each coordinate shrinks by (1 - rate x curvature) a step."""
    walk = optimizers.walk("sgd", 0.0)
    factors = 1 - walk["rate"] * np.array([1.0, optimizers.STEEP])
    np.testing.assert_allclose(walk["path"], np.array([-1, 0.5]) * factors ** np.arange(101)[:, None], rtol=1e-3, atol=1e-6)
    assert 1 / optimizers.STEEP < walk["rate"] < 2 / (1 + optimizers.STEEP) * 1.01  # the last is the best for many steps


def test_turning_the_valley_changes_nothing_for_those_that_do_not_scale_coordinates():
    for name, turns_with_it in (("sgd", True), ("momentum", True), ("adagrad", False), ("rmsprop", False), ("adam", False)):
        straight, turned = (float(optimizers.walk(name, turn)["height"]) for turn in (0.0, np.pi / 4))
        assert np.isclose(turned, straight, rtol=0.05, atol=0) == turns_with_it, name


def test_a_range_of_good_rates_is_measured_in_decades():
    decades = np.log10(optimizers.RATES)
    assert optimizers.good_decades(np.ones(len(decades))) == pytest.approx(5)
    parabola = np.exp(np.log(1.2) * (decades + 1.5) ** 2)  # 20% above its best one decade away to either side
    assert optimizers.good_decades(parabola) == pytest.approx(2, abs=0.1)
    diverged = np.where(decades > -1.4, np.inf, parabola)  # -5/3 is the last that doesn't
    assert optimizers.good_decades(diverged) == pytest.approx(2.5 - 5 / 3, abs=0.1)


def test_speed_is_counted_to_where_sgd_ends():
    data = measured({"sgd": 0.5, "momentum": 0.0, "adagrad": 0.8, "rmsprop": 0.5, "adam": 0.0})["data"]
    np.testing.assert_array_equal(optimizers.speed(data, "sgd"), 1)
    np.testing.assert_array_equal(optimizers.speed(data, "adam"), 3 / 4)
    np.testing.assert_array_equal(optimizers.speed(data, "adagrad"), 1)  # never there
    data.train["adam"][:, 1:] = 1.0  # at other rates it learns nothing; the fastest rate counts
    np.testing.assert_array_equal(optimizers.speed(data, "adam"), 3 / 4)


def test_findings_can_refute():
    good = measured({"sgd": 0.5, "momentum": 0.3, "adagrad": 0.35, "rmsprop": 0.1, "adam": 0.1}, steps=20)
    assert optimizers.faster_than_sgd(good).holds and optimizers.end_lowest(good).holds and optimizers.adam_is_good(good).holds
    bad = measured({"sgd": 0.1, "momentum": 0.3, "adagrad": 0.35, "rmsprop": 0.4, "adam": 0.5}, steps=20)
    for finding in (optimizers.faster_than_sgd, optimizers.end_lowest, optimizers.adam_is_good, optimizers.adam_is_easy):
        assert not finding(bad).holds
    assert not optimizers.adam_is_easy(good).holds  # all ranges are alike


def test_the_figures_fit_each_other(outcome):
    faster, lowest, adam, easy, _ = outcome.findings
    assert adam.figures["digits: share of SGD's steps"] == faster.figures["share of SGD's steps: Adam, digits"]
    assert faster.holds == all(share.high < 1 for share in faster.figures.values())
    assert all(0 < share.mean < 5 for share in faster.figures.values())
    assert 0 < lowest.figures["digits: Adam"].mean < np.log(10) / 4  # guessing among ten digits costs log 10
    assert all(0 < width.mean < 5 for width in easy.figures.values())
    labels = [line.get_label() for line in outcome.pictures["rates"].axes[0].lines]
    assert labels == list(optimizers.OPTIMIZERS.values())
