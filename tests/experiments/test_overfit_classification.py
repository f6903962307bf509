"""The straight boundary against scikit-learn's logistic regression, the points against theory; the verdicts."""

import types

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from experiments import overfit_classification as experiment
from experiments.redrawn import drawn


@pytest.fixture(scope="module")
def result():
    return experiment.trained(quick=True, seed=0)


def of(result, name):
    rows = np.flatnonzero(result.table["name"] == name)
    return {row: [drawn(experiment.point, result.state(row).data_key, part) for part in experiment.GIVEN[:2]] for row in rows}


def test_the_straight_boundary_is_that_of_logistic_regression(result):
    for row, (points, new) in of(result, "straight boundary").items():
        best = LogisticRegression(C=1e6, max_iter=1000).fit(points.x, points.y)
        np.testing.assert_allclose(result.table["train/loss"][row], log_loss(points.y, best.predict_proba(points.x)), atol=0.01)
        assert abs(result.table["validation/error"][row] - (1 - best.score(new.x, new.y))) < 0.03


def test_the_best_boundary_misjudges_the_share_that_theory_says(result):
    wrong = np.concatenate([(np.asarray(new.x).sum(1) > 0) != np.asarray(new.y) for _, new in of(result, "net").values()])
    least = experiment.LEAST_ERROR
    assert abs(wrong.mean() - least) < 4 * (least * (1 - least) / len(wrong)) ** 0.5


def test_every_claim_holds_and_no_boundary_beats_the_best(result):
    assert [finding.holds for finding in experiment.findings(result)] == [True, True]
    for name in experiment.MODELS:
        assert experiment.curves(result, name, "validation/error")[:, -1].mean() > experiment.LEAST_ERROR


def test_were_the_net_a_straight_boundary_the_claims_would_be_refuted(result):
    swapped = np.where(result.table["name"] == "net", "straight boundary", "net")
    other = types.SimpleNamespace(table={**result.table, "name": swapped}, curves=result.curves, metrics=result.metrics)
    assert [finding.holds for finding in experiment.findings(other)] == [False, False]


def test_run_draws_both_boundaries_where_the_logit_is_zero(result, monkeypatch):
    monkeypatch.setattr(experiment, "trained", lambda quick, seed: result)
    outcome = experiment.run(quick=True)
    assert set(outcome.pictures) == {"boundaries", "curves"}
    straight, _ = outcome.pictures["boundaries"].axes
    row = next(iter(of(result, "straight boundary")))
    layer = result.state(row).fitted.params[0]
    (path,) = straight.collections[1].get_paths()
    x = path.vertices
    assert np.abs(x @ layer["weight"][0] + layer["bias"]).max() < 1e-3
    assert f"{result.table['validation/error'][row]:.0%} of new ones" in straight.get_title()
