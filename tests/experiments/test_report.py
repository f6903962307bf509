"""What experiments share: choosing among variants by their seeds' mean."""

import numpy as np
import pytest

import funcnet as fn
from experiments import report


@pytest.fixture
def result():
    """Four variants of two seeds; the luckiest seed is not the best variant's, and one diverged."""
    settings = [dict(kind=kind, rate=rate) for kind in ("a", "b") for rate in (0.1, 0.01)]
    loss, accuracy = [0.1, 0.9, 0.4, 0.5, 0.0, np.nan, 0.7, 0.8], [0.2, 0.9, 0.6, 0.6, 1.0, np.nan, 0.1, 0.2]
    outcome = {
        "variant": np.repeat(np.arange(4), 2),
        "replicate": np.tile(np.arange(2), 4),
        "validation/loss": np.array(loss),
        "validation/accuracy": np.array(accuracy),
        "validation/choice": -np.array(loss),
        "status": np.where(np.isnan(loss), "diverged", "completed"),
        "steps": np.full(8, 10),
    }
    curves = {"step": np.array([10]), **{name: outcome[name][:, None] for name in outcome if "/" in name}}
    return fn.SweepResult(settings, outcome, curves, {}, None, ["kind", "rate"], {})


def test_the_best_variant_is_that_of_the_best_mean(result):
    assert report.best_rows(result, "validation/loss").tolist() == [2, 3]
    assert report.best_rows(result, "validation/loss", kind="a").tolist() == [2, 3]
    assert report.best_rows(result, "validation/loss", kind="a", rate=0.1).tolist() == [0, 1]
    assert report.best_rows(result, "validation/accuracy", kind="a").tolist() == [2, 3]  # a metric knows its direction
    assert report.best_rows(result, "validation/choice", "min", kind="a").tolist() == [0, 1]


def test_a_variant_of_which_a_seed_diverged_is_not_chosen(result):
    assert report.best_rows(result, "validation/loss", kind="b").tolist() == [6, 7]
    with pytest.raises(ValueError, match=r"best_rows: needs a variant with \{'kind': 'b', 'rate': 0.1\} whose every run completed"):
        report.best_rows(result, "validation/loss", kind="b", rate=0.1)
    with pytest.raises(ValueError, match="mode"):
        report.best_rows(result, "validation/choice")
