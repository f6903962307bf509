"""The regression net: its figures against the parabola's own numbers, least squares and scikit-learn."""

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

import funcnet as fn
from experiments import regression_net

VARIANCE = 1 / 5 - 1 / 9  # of x^2 where x is uniform on [-1, 1]: what a straight line can't explain of it


@pytest.fixture(scope="module")
def outcome():
    yield regression_net.run(quick=True)
    plt.close("all")


def test_the_straight_line_errs_by_what_a_line_must(outcome):
    error = outcome.findings[0].figures["straight line"]
    assert error.mean == pytest.approx((VARIANCE + regression_net.NOISE**2) * (1 + 2 / regression_net.POINTS), abs=0.003)
    assert error.low < error.mean < error.high


def test_the_net_bends_and_stays_above_the_noise(outcome):
    line, net, less = outcome.findings[0].figures.values()
    assert outcome.findings[0].holds
    assert regression_net.NOISE**2 < net.mean < 0.2 * line.mean
    assert less.mean == pytest.approx(line.mean - net.mean)


def test_what_is_left_is_compared_with_what_must_be(outcome):
    """Three numbers found from a hundred points cost 3 / 100 of the noise's variance; a net has more to find."""
    figures = outcome.findings[1].figures
    parabola = figures["excess of a parabola fitted by least squares"]
    assert parabola.low < 3 / regression_net.POINTS < parabola.high
    assert parabola.mean < figures["excess over the noise's variance, median seed"] < 0.25


def test_its_scores_are_scikit_learns(outcome):
    figures = outcome.findings[2].figures
    assert set(regression_net.SCORES) == {"mean_squared_error", "mean_absolute_error", "median_absolute_error", "r2"} < set(fn.METRICS)
    assert outcome.findings[2].holds and figures["largest difference"] < 1e-5
    data = regression_net.drawn(jax.random.split(jax.random.key(0), 20)[0])
    assert figures["r2"] == pytest.approx(1 - figures["mean_squared_error"] / float(np.var(data.validation.y)), rel=1e-4)


def test_the_pictures(outcome):
    fit, error = outcome.pictures["fit"], outcome.pictures["error"]
    errors = [float(ax.get_title().split()[-1]) for ax in fit.axes]
    assert errors == sorted(errors, reverse=True) and len(errors) == len(regression_net.SHOWN)
    assert error.axes[0].get_xlabel().startswith("steps") and error.axes[0].get_ylabel() == "squared error on new points"
