"""scikit-learn's own tests of its metrics, from the installed package, with funcnet's metrics in the place of scikit-learn's.

Those that can't pass stand in differences.txt with the reason (conftest.py marks them). A new failure fails, and so does one on the
list that passes.
"""

import importlib
import inspect
import types
import warnings
from typing import Any

import jax
import numpy as np
import pytest

import funcnet as fn

pytest.importorskip("optax", reason="the peers' own tests run where the extra [bench] is installed")
pytest.importorskip("sklearn", reason="scikit-learn is in the extra [experiments]")

from peers.exchange import in_place, ours, unmatched, used

# Metrics, under scikit-learn's names and arguments; an argument that funcnet has not is an error


def only(**usual: Any) -> None:
    """Each value must be the one beside it, which is all that funcnet has."""
    for name, (value, known) in usual.items():
        if not any(value is one or (np.ndim(value) == 0 and value == one) for one in known):
            raise NotImplementedError(name)


def of_labels(metric: Any, y_true: Any, y_pred: Any, average: Any, pos_label: Any, sample_weight: Any) -> float:
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if average == "binary":
        targets, scores = (y_true == pos_label).astype(int), np.where(y_pred == pos_label, 1.0, -1.0)
    else:
        names, places = np.unique(np.concatenate([y_true, y_pred]), return_inverse=True)
        targets, scores = places[: len(y_true)], np.eye(max(2, len(names)))[places[len(y_true) :]]
    return float(metric(scores, targets, average=average, weights=sample_weight))


def prf(metric: Any) -> Any:
    def score(
        y_true: Any,
        y_pred: Any,
        *,
        labels: Any = None,
        pos_label: Any = 1,
        average: Any = "binary",
        sample_weight: Any = None,
        zero_division: Any = "warn",
    ) -> float:
        only(labels=(labels, [None]), zero_division=(zero_division, ["warn", 0]))
        return of_labels(metric, y_true, y_pred, average, pos_label, sample_weight)

    return score


def accuracy_score(y_true: Any, y_pred: Any, *, normalize: bool = True, sample_weight: Any = None) -> float:
    only(normalize=(normalize, [True]))
    return of_labels(lambda *args, average, **kwargs: fn.accuracy(*args, **kwargs), y_true, y_pred, "macro", None, sample_weight)


def top_k_accuracy_score(
    y_true: Any, y_score: Any, *, k: int = 2, normalize: bool = True, sample_weight: Any = None, labels: Any = None
) -> float:
    only(normalize=(normalize, [True]))
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    names = np.unique(y_true) if labels is None else np.asarray(labels)
    return float(fn.top_k_accuracy(y_score, np.searchsorted(names, y_true), k, weights=sample_weight))


def of_numbers(metric: Any) -> Any:
    def score(
        y_true: Any, y_pred: Any, *, sample_weight: Any = None, multioutput: Any = "uniform_average", force_finite: bool = True
    ) -> Any:
        only(force_finite=(force_finite, [True]))
        weights = None if sample_weight is None else np.asarray(sample_weight)
        y_true, y_pred = np.asarray(y_true, float), np.asarray(y_pred, float)
        if isinstance(multioutput, str) and multioutput == "uniform_average":
            return float(metric(y_pred, y_true, weights=weights))
        if isinstance(multioutput, str) and multioutput == "variance_weighted":
            return float(metric(y_pred, y_true, multioutput=multioutput, weights=weights))
        each = np.array([metric(said, real, weights=weights) for said, real in zip(y_pred.T, y_true.T, strict=True)])
        if isinstance(multioutput, str):
            only(multioutput=(multioutput, ["raw_values"]))
            return each
        return float(np.average(each, weights=multioutput))

    return score


def named(name: str, metric: Any) -> Any:
    metric.__name__ = name
    return ours(metric)


METRICS = {
    name: named(name, metric)
    for name, metric in {
        "accuracy_score": accuracy_score,
        "precision_score": prf(fn.precision),
        "recall_score": prf(fn.recall),
        "f1_score": prf(fn.f1),
        "top_k_accuracy_score": top_k_accuracy_score,
        "mean_squared_error": of_numbers(fn.mean_squared_error),
        "mean_absolute_error": of_numbers(fn.mean_absolute_error),
        "r2_score": of_numbers(fn.r2),
    }.items()
}


def names_in(code: types.CodeType) -> set[str]:
    return set(code.co_names).union(*(names_in(part) for part in code.co_consts if isinstance(part, types.CodeType)))


def calls_ours(test: Any) -> bool:
    """By name, or as one of its cases (conftest.py leaves out the others)."""
    cases = [case for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize" for case in mark.args[1]]
    return bool(names_in(inspect.unwrap(test).__code__) & set(METRICS)) or any(
        case is metric for case in cases for metric in METRICS.values()
    )


def collected() -> dict[str, Any]:
    found: dict[str, Any] = {}
    with warnings.catch_warnings(action="ignore"), in_place({"sklearn.metrics": METRICS}):
        for name in ("test_classification", "test_regression", "test_ranking"):
            module = importlib.import_module(f"sklearn.metrics.tests.{name}")
            tests = {key: value for key, value in vars(module).items() if key.startswith("test_") and inspect.isfunction(value)}
            chosen = {key: test for key, test in tests.items() if calls_ours(test)}
            assert not set(chosen) & set(found)
            found |= chosen
    return found


globals().update(collected())
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def global_random_seed():
    """As scikit-learn's own tests have it."""
    return 42


@pytest.fixture(autouse=True)
def in_float64(request):
    """As scikit-learn computes; and something of funcnet's must have been called, or the test says nothing."""
    used.clear()
    with in_place({}), jax.enable_x64(True):
        yield
    if request.node.name != "test_every_difference_in_metrics_is_of_a_test" and request.node.get_closest_marker("xfail") is None:
        assert used, "the test calls nothing of funcnet's"


def test_every_difference_in_metrics_is_of_a_test(request):
    here = [item.name for item in request.session.items if item.path == request.node.path]
    if len(here) > 40:  # else some were chosen by name
        assert not unmatched("scikit-learn", here)
