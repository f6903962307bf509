"""The straight line against least squares and its theory; the verdicts, and that they can be otherwise."""

import types

import numpy as np
import pytest

from experiments import overfit_regression as experiment
from experiments.redrawn import drawn

NOISE = experiment.NOISE


@pytest.fixture(scope="module")
def result():
    return experiment.trained(quick=True, seed=0)


def of_line(result):
    rows = np.flatnonzero((result.table["name"] == "straight line") & np.isclose(result.table["noise"], NOISE))
    parts = {row: [drawn(experiment.point(NOISE), result.state(row).data_key, part) for part in experiment.GIVEN[:2]] for row in rows}
    return {row: [(np.ravel(part.x), np.ravel(part.y)) for part in own] for row, own in parts.items()}


def test_the_straight_line_is_that_of_least_squares_on_each_seeds_points(result):
    for row, ((x, y), (new_x, new_y)) in of_line(result).items():
        best = np.polynomial.Polynomial.fit(x, y, 1)
        np.testing.assert_allclose(result.table["train/loss"][row], np.mean((best(x) - y) ** 2), rtol=1e-3)
        np.testing.assert_allclose(result.table["validation/loss"][row], np.mean((best(new_x) - new_y) ** 2), rtol=1e-2)


def test_the_straight_lines_errors_are_what_theory_expects(result):
    """Training: noise^2 (1 - 2 / n), of n points and 2 coefficients. New points: noise^2 (1 + mean leverage)."""
    n, data = experiment.POINTS, experiment.GIVEN
    train, new = (np.vander(part.x.ravel(), 2) for part in data[:2])
    leverage = np.einsum("ij,jk,ik->i", new, np.linalg.inv(train.T @ train), new).mean()
    for part, expected in (("train", NOISE**2 * (1 - 2 / n)), ("validation", NOISE**2 * (1 + leverage))):
        errors = experiment.curves(result, "straight line", part)[:, -1]
        assert abs(errors.mean() - expected) < 4 * errors.std(ddof=1) / len(errors) ** 0.5


def test_every_claim_holds_and_the_net_passes_nearer_to_its_points(result):
    findings = experiment.findings(result)
    assert [finding.holds for finding in findings] == [True, True, True]
    assert experiment.curves(result, "net", "train")[:, -1].mean() < NOISE**2 / 10
    assert experiment.curves(result, "net", "validation")[:, -1].mean() > NOISE**2  # what no fit can be below


def test_were_the_net_a_straight_line_the_claims_would_be_refuted(result):
    swapped = np.where(result.table["name"] == "net", "straight line", "net")
    other = types.SimpleNamespace(table={**result.table, "name": swapped}, curves=result.curves)
    assert [finding.holds for finding in experiment.findings(other)][:2] == [False, False]


def test_without_noise_the_truth_is_a_straight_line_and_with_it_the_noise_is_as_said(result):
    residuals = np.concatenate([y - x / 2 for parts in of_line(result).values() for x, y in parts])
    assert abs(residuals.std() / NOISE - 1) < 4 / (2 * len(residuals)) ** 0.5


def test_run_draws_the_curves(result, monkeypatch):
    monkeypatch.setattr(experiment, "trained", lambda quick, seed: result)
    outcome = experiment.run(quick=True)
    left, right = outcome.pictures["curves"].axes
    assert {text.get_text() for text in right.get_legend().get_texts()} >= {"net on new points", "net on its 12 points"}
    assert left.get_xlabel() and right.get_ylabel().startswith("mean squared error")
