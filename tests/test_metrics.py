"""Metrics against scikit-learn, in every shape they take."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as theirs
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.exceptions import UndefinedMetricWarning

from funcnet import metrics

RNG = np.random.default_rng(0)
N = 60
LOGITS = RNG.normal(size=(N, 4)).astype(np.float32)
LABELS = RNG.integers(0, 4, N)
PREDICTED = LOGITS.argmax(1)
MARGINS = RNG.normal(size=N).astype(np.float32)
SIDES = RNG.integers(0, 2, N)
SAID = (MARGINS > 0).astype(int)
OUTPUTS = RNG.normal(size=(N, 3)).astype(np.float32)
TARGETS = (OUTPUTS + 0.5 * RNG.normal(size=(N, 3))).astype(np.float32)
FLAT = np.stack([TARGETS[:, 0], np.full(N, 0.1, np.float32), TARGETS[:, 2]], 1)  # the mean of many 0.1s is not quite 0.1
TIED = np.round(LOGITS)  # many classes share the largest logit, and many margins are zero
RARE = np.where(LABELS == 3, 0, LABELS)  # class 3 never occurs
RARE_LOGITS = np.where(np.arange(4) == 3, -9, LOGITS)  # and is never predicted

CASES = {
    "accuracy": (metrics.accuracy, LOGITS, LABELS, theirs.accuracy_score(LABELS, PREDICTED)),
    "accuracy_binary": (metrics.accuracy, MARGINS, SIDES, theirs.accuracy_score(SIDES, SAID)),
    "accuracy_binary_column": (metrics.accuracy, MARGINS[:, None], SIDES[:, None], theirs.accuracy_score(SIDES, SAID)),
    "top_k_accuracy": (metrics.top_k_accuracy, LOGITS, LABELS, theirs.top_k_accuracy_score(LABELS, LOGITS, k=2)),
    "top_k_accuracy_3": (lambda p, t: metrics.top_k_accuracy(p, t, 3), LOGITS, LABELS, theirs.top_k_accuracy_score(LABELS, LOGITS, k=3)),
    "mean_squared_error": (metrics.mean_squared_error, OUTPUTS, TARGETS, theirs.mean_squared_error(TARGETS, OUTPUTS)),
    "mean_absolute_error": (metrics.mean_absolute_error, OUTPUTS, TARGETS, theirs.mean_absolute_error(TARGETS, OUTPUTS)),
    "r2": (metrics.r2, OUTPUTS, TARGETS, theirs.r2_score(TARGETS, OUTPUTS)),
    "r2_single": (metrics.r2, OUTPUTS[:, :1], TARGETS[:, 0], theirs.r2_score(TARGETS[:, 0], OUTPUTS[:, 0])),
    "r2_one_constant": (metrics.r2, OUTPUTS, FLAT, (theirs.r2_score(FLAT, OUTPUTS, multioutput="raw_values")[[0, 2]].sum() + 0) / 3),
    "r2_constant_inexact": (metrics.r2, OUTPUTS[:, 0], np.full(N, 3.3, np.float32), 0.0),
    "accuracy_tied": (metrics.accuracy, TIED, LABELS, theirs.accuracy_score(LABELS, TIED.argmax(1))),  # the first of equals
    "accuracy_binary_tied": (metrics.accuracy, TIED[:, 0], SIDES, theirs.accuracy_score(SIDES, TIED[:, 0] > 0)),
    "top_k_accuracy_tied": (metrics.top_k_accuracy, np.array([[1, 1, 1.0], [3, 2, 1]]), np.array([2, 2]), 0.5),  # a tie is among them
    "r2_constant_missed": (metrics.r2, OUTPUTS[:, 0], np.ones(N, np.float32), theirs.r2_score(np.ones(N), OUTPUTS[:, 0])),
    "r2_constant_met": (metrics.r2, np.ones(N, np.float32), np.ones(N, np.float32), theirs.r2_score(np.ones(N), np.ones(N))),
}
for _name, _ours, _theirs in [
    ("precision", metrics.precision, theirs.precision_score),
    ("recall", metrics.recall, theirs.recall_score),
    ("f1", metrics.f1, theirs.f1_score),
]:
    CASES |= {
        f"{_name}_macro": (_ours, LOGITS, LABELS, _theirs(LABELS, PREDICTED, average="macro")),
        f"{_name}_absent_in_both": (_ours, RARE_LOGITS, RARE, _theirs(RARE, RARE_LOGITS.argmax(1), average="macro")),
        f"{_name}_absent_in_targets": (_ours, LOGITS, RARE, _theirs(RARE, PREDICTED, average="macro", zero_division=0)),
        f"{_name}_absent_in_predictions": (
            _ours,
            RARE_LOGITS,
            LABELS,
            _theirs(LABELS, RARE_LOGITS.argmax(1), average="macro", zero_division=0),
        ),
        f"{_name}_binary": (lambda p, t, ours=_ours: ours(p, t, average="binary"), MARGINS, SIDES, _theirs(SIDES, SAID)),
        f"{_name}_binary_column": (
            lambda p, t, ours=_ours: ours(p, t, average="binary"),
            MARGINS[:, None],
            SIDES[:, None],
            _theirs(SIDES, SAID),
        ),
        f"{_name}_macro_single_logit": (_ours, MARGINS, SIDES, _theirs(SIDES, SAID, average="macro")),
        f"{_name}_binary_two_logits": (
            lambda p, t, ours=_ours: ours(p, t, average="binary"),
            LOGITS[:, :2],
            SIDES,
            _theirs(SIDES, LOGITS[:, :2].argmax(1)),
        ),
        f"{_name}_binary_none_said": (lambda p, t, ours=_ours: ours(p, t, average="binary"), -np.abs(MARGINS), SIDES, 0.0),
    }
SHARES = special.softmax(LOGITS.astype(float), 1)
TIED_SHARES = special.softmax(TIED.astype(float), 1)


def calibration(targets, shares, bins=15, weights=None):
    """By scikit-learn's bins: calibration_curve has the mean of each that isn't empty, and their sizes are counted beside it."""
    right, confidence = shares.argmax(1) == targets, shares.max(1)
    weights = np.ones(len(right)) if weights is None else weights
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    each = [abs(np.sum((weights * (right - confidence))[place == b])) for b in range(bins)]
    if np.all(weights == 1):
        accuracy, mean = calibration_curve(right, confidence, n_bins=bins)
        np.testing.assert_allclose(
            np.sort(each),
            np.sort(np.append(np.zeros(bins - len(mean)), (abs(accuracy - mean) * np.bincount(place)[np.unique(place)]))),
            atol=1e-9,
        )
    return sum(each) / np.sum(weights)


def sides(margins):
    return np.stack([special.expit(-margins.astype(float)), special.expit(margins.astype(float))], 1)


CASES |= {
    "roc_auc": (metrics.roc_auc, MARGINS, SIDES, theirs.roc_auc_score(SIDES, MARGINS)),
    "roc_auc_tied": (metrics.roc_auc, TIED[:, :1], SIDES, theirs.roc_auc_score(SIDES, TIED[:, 0])),
    "roc_auc_two_logits": (metrics.roc_auc, TIED[:, :2], SIDES, theirs.roc_auc_score(SIDES, TIED[:, 1] - TIED[:, 0])),
    "roc_auc_classes": (metrics.roc_auc, LOGITS, LABELS, theirs.roc_auc_score(LABELS, SHARES, multi_class="ovr")),
    "roc_auc_weighted": (
        functools.partial(metrics.roc_auc, average="weighted"),
        LOGITS,
        LABELS,
        theirs.roc_auc_score(LABELS, SHARES, multi_class="ovr", average="weighted"),
    ),
    "average_precision": (metrics.average_precision, MARGINS, SIDES, theirs.average_precision_score(SIDES, MARGINS)),
    "average_precision_tied": (metrics.average_precision, TIED[:, 0], SIDES, theirs.average_precision_score(SIDES, TIED[:, 0])),
    "average_precision_classes": (metrics.average_precision, LOGITS, LABELS, theirs.average_precision_score(LABELS, SHARES)),
    "average_precision_weighted": (
        functools.partial(metrics.average_precision, average="weighted"),
        LOGITS,
        LABELS,
        theirs.average_precision_score(LABELS, SHARES, average="weighted"),
    ),
    "average_precision_of_none": (metrics.average_precision, MARGINS, SIDES * 0, 0.0),
    "log_loss": (metrics.log_loss, LOGITS, LABELS, theirs.log_loss(LABELS, SHARES)),
    "log_loss_binary": (metrics.log_loss, MARGINS[:, None], SIDES, theirs.log_loss(SIDES, sides(MARGINS))),
    "balanced_accuracy": (metrics.balanced_accuracy, RARE_LOGITS, LABELS, theirs.balanced_accuracy_score(LABELS, RARE_LOGITS.argmax(1))),
    "balanced_accuracy_absent": (metrics.balanced_accuracy, RARE_LOGITS, RARE, theirs.balanced_accuracy_score(RARE, RARE_LOGITS.argmax(1))),
    "matthews_correlation": (metrics.matthews_correlation, LOGITS, LABELS, theirs.matthews_corrcoef(LABELS, PREDICTED)),
    "matthews_correlation_binary": (metrics.matthews_correlation, MARGINS, SIDES, theirs.matthews_corrcoef(SIDES, SAID)),
    "matthews_correlation_one_said": (metrics.matthews_correlation, -np.abs(MARGINS), SIDES, theirs.matthews_corrcoef(SIDES, 0 * SIDES)),
    "matthews_correlation_one_real": (metrics.matthews_correlation, MARGINS, 0 * SIDES, theirs.matthews_corrcoef(0 * SIDES, SAID)),
    "calibration_error": (metrics.calibration_error, LOGITS, LABELS, calibration(LABELS, SHARES)),
    "calibration_error_binary": (
        functools.partial(metrics.calibration_error, bins=4),
        MARGINS,
        SIDES,
        calibration(SIDES, sides(MARGINS), 4),
    ),
    "median_absolute_error": (metrics.median_absolute_error, OUTPUTS, TARGETS, theirs.median_absolute_error(TARGETS, OUTPUTS)),
    "median_absolute_error_odd": (
        metrics.median_absolute_error,
        OUTPUTS[:9, 0],
        TARGETS[:9, 0],
        theirs.median_absolute_error(TARGETS[:9, 0], OUTPUTS[:9, 0]),
    ),
    "r2_by_variance": (
        functools.partial(metrics.r2, multioutput="variance_weighted"),
        OUTPUTS * np.float32([1, 2, 9]),
        TARGETS * np.float32([1, 2, 9]),
        theirs.r2_score(TARGETS * [1, 2, 9], OUTPUTS * [1, 2, 9], multioutput="variance_weighted"),
    ),
    "r2_by_no_variance": (
        functools.partial(metrics.r2, multioutput="variance_weighted"),
        np.stack([np.ones(N, np.float32), MARGINS], 1),
        np.ones((N, 2), np.float32),
        theirs.r2_score(np.ones((N, 2)), np.stack([np.ones(N), MARGINS], 1), multioutput="variance_weighted"),
    ),
    **{
        f"{name}_{average}": (
            functools.partial(metrics.METRICS[name], average=average),
            LOGITS,
            RARE,
            fn(RARE, PREDICTED, average=average, zero_division=0),
        )
        for name, fn in {"precision": theirs.precision_score, "recall": theirs.recall_score, "f1": theirs.f1_score}.items()
        for average in ("micro", "weighted")
    },
}
every_case = pytest.mark.parametrize("name", CASES)


def test_every_metric_has_a_case():
    assert {name for name in metrics.METRICS if not any(case.startswith(name) for case in CASES)} == set()


@every_case
def test_agrees_with_scikit_learn_eagerly_jitted_and_under_vmap(name):
    metric_fn, predictions, targets, expected = CASES[name]
    predictions, targets = jnp.asarray(predictions), jnp.asarray(targets)
    value = metric_fn(predictions, targets)
    assert value.shape == () and value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    jitted = jax.jit(metric_fn)
    np.testing.assert_allclose(jitted(predictions, targets), expected, rtol=1e-5, atol=1e-6)
    both = jax.jit(jax.vmap(metric_fn, (0, None)))(jnp.stack([predictions, predictions[::-1]]), targets)
    np.testing.assert_allclose(both, [expected, jitted(predictions[::-1], targets)], rtol=1e-5, atol=1e-6)


@every_case
def test_bfloat16_predictions_will_do(name):
    metric_fn, predictions, targets, _ = CASES[name]
    short = jnp.asarray(predictions, jnp.bfloat16)
    value = metric_fn(short, jnp.asarray(targets))
    assert jnp.issubdtype(value.dtype, jnp.floating)
    np.testing.assert_allclose(float(value), metric_fn(short.astype(jnp.float32), jnp.asarray(targets)), rtol=0.02, atol=1e-6)


def test_all_right_is_exactly_one_in_a_compiled_program():
    """XLA divides by a constant by multiplying with its reciprocal, and 1079 / 1079 is then not 1."""
    for count in (7, 49, 359, 1079):
        logits, labels = jnp.eye(4)[jnp.arange(count) % 4], jnp.arange(count) % 4
        assert jax.jit(metrics.accuracy)(logits, labels) == 1
        assert jax.jit(lambda p, t: 1 - metrics.accuracy(p, t))(logits, labels) == 0
        assert jax.jit(metrics.top_k_accuracy)(logits, labels) == 1


# Labels of every kind, and what is never right.

LABELLED = [metrics.accuracy, metrics.precision, metrics.recall, metrics.f1]
SIDES_AS = {
    "-1 and 1": 2 * SIDES - 1,
    "int8": (2 * SIDES - 1).astype(np.int8)[:, None],
    "-1.0 and 1.0": (2 * SIDES - 1).astype(np.float32),
    "probabilities": np.where(SIDES == 1, 0.9, 0.2).astype(np.float32)[:, None],
    "float16": np.where(SIDES == 1, 0.51, 0.49).astype(np.float16),
    "bool": SIDES.astype(bool),
    "uint8": SIDES.astype(np.uint8),
    "0.0 and 1.0": SIDES.astype(np.float32),
}


@pytest.mark.parametrize("form", SIDES_AS)
def test_a_side_is_a_side_however_it_is_written(form):
    targets = SIDES_AS[form]
    margins = jnp.asarray(MARGINS.reshape(targets.shape), jnp.bfloat16)
    np.testing.assert_allclose(metrics.accuracy(margins, targets), theirs.accuracy_score(SIDES, SAID), rtol=1e-6)
    binary = jax.jit(functools.partial(metrics.f1, average="binary"))
    np.testing.assert_allclose(binary(margins, targets), theirs.f1_score(SIDES, SAID), rtol=1e-6)


def test_classes_written_as_floats_are_the_same_classes():
    for metric_fn in [*LABELLED, metrics.top_k_accuracy]:
        assert metric_fn(LOGITS, LABELS.astype(np.float32)) == metric_fn(LOGITS, LABELS)


@pytest.mark.parametrize("odd", [-1, 4, 2**31 - 1, 1.5, np.nan, np.inf])
def test_a_label_out_of_range_is_never_right(odd):
    labels = np.where(np.arange(N) < 20, odd, LABELS)
    for metric_fn in (metrics.accuracy, metrics.top_k_accuracy, functools.partial(metrics.top_k_accuracy, k=4)):
        expected = metric_fn(LOGITS[20:], LABELS[20:]) * 40 / 60
        np.testing.assert_allclose(metric_fn(LOGITS, labels), expected, rtol=1e-6)
        np.testing.assert_allclose(jax.jit(metric_fn)(LOGITS, labels), expected, rtol=1e-6)
    assert np.isnan(metrics.log_loss(LOGITS, labels)) and np.isnan(jax.jit(metrics.calibration_error)(LOGITS, labels))
    for metric_fn in (
        metrics.precision,
        metrics.recall,
        metrics.f1,
        metrics.balanced_accuracy,
        metrics.matthews_correlation,
        metrics.roc_auc,
        metrics.average_precision,
    ):
        with pytest.raises(ValueError, match=rf"{metric_fn.__name__}: labels must be in \[0, 3\], got \S+ in row 0"):
            metric_fn(LOGITS, labels)
        assert np.isnan(jax.jit(metric_fn)(LOGITS, labels)) and np.isfinite(metric_fn(LOGITS[20:], labels[20:]))
        weights = (np.arange(N) >= 20).astype(np.float32)  # those of no weight may have any label
        np.testing.assert_allclose(metric_fn(LOGITS, labels, weights=weights), metric_fn(LOGITS[20:], LABELS[20:]), rtol=1e-6)


@pytest.mark.parametrize("odd", [-2, 2, 0.5 - 1, 1.5, np.nan, 2.0**32 - 1])
def test_a_target_that_is_no_side_is_never_right(odd):
    targets = np.where(np.arange(N) < 20, odd, SIDES)
    np.testing.assert_allclose(metrics.accuracy(MARGINS, targets), metrics.accuracy(MARGINS[20:], SIDES[20:]) * 40 / 60, rtol=1e-6)
    assert np.isnan(jax.jit(functools.partial(metrics.recall, average="binary"))(MARGINS, targets))


@pytest.mark.parametrize("column", [None, 0, 2])
def test_a_nan_among_the_logits_is_never_right(column):
    """As scikit-learn counts a prediction that is none of the classes."""
    sick = np.arange(N) % 3 == 0
    logits = LOGITS.copy()
    logits[sick, slice(None) if column is None else column] = np.nan
    said = np.where(sick, -1, PREDICTED)
    np.testing.assert_allclose(metrics.accuracy(logits, LABELS), theirs.accuracy_score(LABELS, said), rtol=1e-6)
    right = metrics.top_k_accuracy(LOGITS[~sick], LABELS[~sick]) * np.mean(~sick)
    np.testing.assert_allclose(jax.jit(metrics.top_k_accuracy)(logits, LABELS), right, rtol=1e-6)
    assert metrics.top_k_accuracy(np.full((6, 4), np.nan), LABELS[:6], 4) == metrics.accuracy(np.full((6, 4), np.nan), LABELS[:6]) == 0
    for ours, other in ((metrics.precision, theirs.precision_score), (metrics.recall, theirs.recall_score), (metrics.f1, theirs.f1_score)):
        expected = other(LABELS, said, labels=range(4), average="macro")
        np.testing.assert_allclose(jax.jit(ours)(logits, LABELS), expected, rtol=1e-6)
        margins = np.where(sick, np.nan, MARGINS)
        expected = other(SIDES, np.where(sick, -1, SAID), labels=[1], average="macro")
        np.testing.assert_allclose(ours(margins, SIDES, average="binary"), expected, rtol=1e-6)
    assert metrics.accuracy(np.full(4, np.nan), np.zeros(4, int)) == 0


# Weights.

WEIGHTS = RNG.uniform(0.1, 3, N).astype(np.float32)
_AVERAGED = {"precision": theirs.precision_score, "recall": theirs.recall_score, "f1": theirs.f1_score}
WEIGHED = {
    "accuracy": (metrics.accuracy, LOGITS, LABELS, lambda t, p, **w: theirs.accuracy_score(t, p.argmax(1), **w)),
    "accuracy_binary": (metrics.accuracy, MARGINS, SIDES, lambda t, p, **w: theirs.accuracy_score(t, p > 0, **w)),
    "top_k_accuracy": (metrics.top_k_accuracy, LOGITS, LABELS, lambda t, p, **w: theirs.top_k_accuracy_score(t, p, labels=range(4), **w)),
    "mean_squared_error": (metrics.mean_squared_error, OUTPUTS, TARGETS, theirs.mean_squared_error),
    "mean_absolute_error": (metrics.mean_absolute_error, OUTPUTS, TARGETS, theirs.mean_absolute_error),
    "mean_absolute_error_single": (metrics.mean_absolute_error, OUTPUTS[:, 0], TARGETS[:, :1], theirs.mean_absolute_error),
    "r2": (metrics.r2, OUTPUTS, TARGETS, theirs.r2_score),
    "r2_one_constant": (metrics.r2, OUTPUTS, np.round(FLAT, 1) * 0 + np.array([1, 0, 1], np.float32) * FLAT, theirs.r2_score),
    **{
        f"{name}_{average}": (
            functools.partial(metrics.METRICS[name], average=average),
            MARGINS if average == "binary" else LOGITS,
            SIDES if average == "binary" else RARE,
            lambda t, p, fn=fn, average=average, **w: fn(
                t, p > 0 if average == "binary" else p.argmax(1), average=average, zero_division=0, **w
            ),
        )
        for name, fn in _AVERAGED.items()
        for average in ("macro", "binary", "micro", "weighted")
    },
    "roc_auc": (metrics.roc_auc, TIED[:, 0], SIDES, theirs.roc_auc_score),
    "roc_auc_classes": (
        functools.partial(metrics.roc_auc, average="weighted"),
        LOGITS,
        LABELS,
        lambda t, p, **w: theirs.roc_auc_score(t, special.softmax(p.astype(float), 1), multi_class="ovr", average="weighted", **w),
    ),
    "average_precision": (metrics.average_precision, TIED[:, 0], SIDES, theirs.average_precision_score),
    "average_precision_classes": (
        metrics.average_precision,
        LOGITS,
        LABELS,
        lambda t, p, **w: theirs.average_precision_score(t, special.softmax(p.astype(float), 1), **w),
    ),
    "log_loss": (metrics.log_loss, LOGITS, LABELS, lambda t, p, **w: theirs.log_loss(t, special.softmax(p.astype(float), 1), **w)),
    "balanced_accuracy": (metrics.balanced_accuracy, LOGITS, LABELS, lambda t, p, **w: theirs.balanced_accuracy_score(t, p.argmax(1), **w)),
    "matthews_correlation": (metrics.matthews_correlation, LOGITS, LABELS, lambda t, p, **w: theirs.matthews_corrcoef(t, p.argmax(1), **w)),
    "calibration_error": (
        metrics.calibration_error,
        LOGITS,
        LABELS,
        lambda t, p, sample_weight=None: calibration(t, special.softmax(p.astype(float), 1), weights=sample_weight),
    ),
    "median_absolute_error": (metrics.median_absolute_error, OUTPUTS, TARGETS, theirs.median_absolute_error),
    "r2_by_variance": (
        functools.partial(metrics.r2, multioutput="variance_weighted"),
        OUTPUTS * np.float32([1, 2, 9]),
        TARGETS * np.float32([1, 2, 9]),
        functools.partial(theirs.r2_score, multioutput="variance_weighted"),
    ),
}
every_weighed = pytest.mark.parametrize("name", WEIGHED)


def test_every_metric_is_weighed():
    assert {name for name in metrics.METRICS if not any(case.startswith(name) for case in WEIGHED)} == set()


@every_weighed
def test_weights_are_scikit_learns(name):
    metric_fn, predictions, targets, other = WEIGHED[name]
    expected = other(targets, predictions, sample_weight=WEIGHTS)
    assert abs(expected - other(targets, predictions)) > 1e-5
    weighed = lambda p, t, w: metric_fn(p, t, weights=w)
    np.testing.assert_allclose(weighed(predictions, targets, WEIGHTS), expected, rtol=1e-5)
    both = jax.jit(jax.vmap(weighed, (None, None, 0)))(predictions, targets, jnp.stack([WEIGHTS, jnp.ones(N)]))
    np.testing.assert_allclose(both, [expected, other(targets, predictions)], rtol=1e-5)


@every_weighed
@pytest.mark.parametrize("dtype", [np.float32, np.int32, bool, np.float16])
def test_a_weight_of_zero_is_an_example_that_is_not_there(name, dtype):
    """Whatever its predictions and targets are."""
    metric_fn, predictions, targets, _ = WEIGHED[name]
    seen = np.arange(N) % 3 != 0
    predictions, hidden = (np.where(seen.reshape(-1, *(1,) * (p.ndim - 1)), p, np.nan) for p in (predictions, targets))
    for fn in (metric_fn, jax.jit(metric_fn)):
        got = fn(predictions, hidden, weights=seen.astype(dtype))
        np.testing.assert_allclose(got, metric_fn(predictions[seen], targets[seen]), rtol=1e-5)


@every_weighed
def test_where_nothing_counts_a_metric_is_nan(name):
    metric_fn, predictions, targets, _ = WEIGHED[name]
    for fn in (metric_fn, jax.jit(metric_fn)):
        assert np.isnan(fn(predictions, targets, weights=np.zeros(N, np.float32)))
    with pytest.raises(ValueError, match=r"^\w+: there must be at least one example, got none$"):
        metric_fn(predictions[:0], targets[:0])
    assert np.isfinite(metric_fn(predictions, targets, weights=(np.arange(N) < N - 1).astype(np.float32)))


@every_weighed
def test_only_the_ratio_of_weights_counts(name):
    metric_fn, predictions, targets, _ = WEIGHED[name]
    for factor in (2.0**-60, 2.0**60):  # products of them are no float32
        got = metric_fn(predictions, targets, weights=WEIGHTS * np.float32(factor))
        np.testing.assert_allclose(got, metric_fn(predictions, targets, weights=WEIGHTS), rtol=1e-6)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_wrong_weights_are_refused(name):
    metric_fn, predictions, targets, _ = next(case for key, case in WEIGHED.items() if key.startswith(name))
    with pytest.raises(ValueError, match=rf"{name}: weights must have shape \(60,\), got \(59,\); one for each example"):
        metric_fn(predictions, targets, weights=WEIGHTS[:-1])
    with pytest.raises(ValueError, match=rf"{name}: weights must be at least 0, got -1"):
        metric_fn(predictions, targets, weights=np.where(np.arange(N) == 3, -1, 1))
    metric_fn(predictions, targets, weights=WEIGHTS)


# Many random inputs, each with ties, whole weights and some of zero; programs are compiled once for all of them.


@functools.cache
def mapped(metric_fn):
    return jax.jit(jax.vmap(lambda p, t, w: metric_fn(p, t, weights=w)))


RANDOM = {
    "roc_auc": (metrics.roc_auc, 1, theirs.roc_auc_score),
    "average_precision": (metrics.average_precision, 1, theirs.average_precision_score),
    "matthews_correlation": (metrics.matthews_correlation, 1, lambda t, p, **w: theirs.matthews_corrcoef(t, p > 0, **w)),
    "matthews_correlation_classes": (metrics.matthews_correlation, 4, lambda t, p, **w: theirs.matthews_corrcoef(t, p.argmax(1), **w)),
    "balanced_accuracy": (metrics.balanced_accuracy, 4, lambda t, p, **w: theirs.balanced_accuracy_score(t, p.argmax(1), **w)),
    "log_loss": (metrics.log_loss, 1, lambda t, p, **w: theirs.log_loss(t, sides(p), labels=[0, 1], **w)),
    "median_absolute_error": (metrics.median_absolute_error, 0, theirs.median_absolute_error),
    "roc_auc_classes": (
        functools.partial(metrics.roc_auc, average="weighted"),
        3,
        lambda t, p, **w: theirs.roc_auc_score(
            t, special.softmax(p.astype(float), 1), multi_class="ovr", average="weighted", labels=range(3), **w
        ),
    ),
    **{
        f"{name}_{average}": (
            functools.partial(metrics.METRICS[name], average=average),
            4,
            lambda t, p, fn=fn, average=average, **w: fn(t, p.argmax(1), average=average, zero_division=0, **w),
        )
        for name, fn in _AVERAGED.items()
        for average in ("micro", "weighted")
    },
}


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.filterwarnings("ignore")  # scikit-learn's, of what is undefined
def test_many_random_inputs(name):
    metric_fn, classes, other = RANDOM[name]
    rng, runs, examples = np.random.default_rng(5), 200, 12
    predictions = np.round(rng.normal(size=(runs, examples)) * 2).astype(np.float32)
    if classes > 1:  # whole rows are alike: of rows with the same numbers in another order, rounding decides which is likelier
        pool, chosen = rng.normal(size=(runs, 6, classes)), rng.integers(0, 6, (runs, examples))
        predictions = np.take_along_axis(pool, chosen[..., None], axis=1).astype(np.float32)
    targets = rng.integers(0, max(2, classes), (runs, examples))
    weights = rng.integers(0, 3, (runs, examples)).astype(np.float32)
    weights[:, 0] = 1
    got = mapped(metric_fn)(predictions, targets, weights)
    expected = [
        other(t[w > 0], p[w > 0].astype(float), sample_weight=w[w > 0].astype(float))
        for p, t, w in zip(predictions, targets, weights, strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert len(np.unique(np.round(expected, 6))) > 5


# What is undefined.


def test_an_area_under_a_curve_of_one_class():
    """As scikit-learn's, whose warnings say so."""
    for run in (metrics.roc_auc, jax.jit(metrics.roc_auc)):
        for side in (0, 1):
            with pytest.warns(UndefinedMetricWarning, match="Only one class is present"):
                expected = theirs.roc_auc_score(np.full(N, side), MARGINS)
            assert np.isnan(expected) and np.isnan(run(MARGINS, np.full(N, side)))
        assert np.isnan(run(LOGITS, RARE))  # of class 3 there is none
        assert np.isnan(run(MARGINS, SIDES, weights=np.zeros(N)))
    np.testing.assert_allclose(
        metrics.roc_auc(LOGITS, RARE, average="weighted"),
        np.average([theirs.roc_auc_score(RARE == c, SHARES[:, c]) for c in range(3)], weights=[np.sum(RARE == c) for c in range(3)]),
        rtol=1e-5,
    )
    assert metrics.average_precision(MARGINS, np.ones(N, int)) == 1


def test_a_nan_logit_leaves_no_order_and_no_loss():
    sick = np.where(np.arange(N) == 3, np.nan, MARGINS)
    for metric_fn in (metrics.roc_auc, metrics.average_precision, metrics.log_loss, metrics.calibration_error):
        assert np.isnan(metric_fn(sick, SIDES)) and np.isnan(jax.jit(metric_fn)(sick, SIDES))
        assert np.isfinite(metric_fn(sick, SIDES, weights=(np.arange(N) != 3).astype(np.float32)))
    said = np.where(np.arange(N) % 3 == 0, np.nan, MARGINS)
    expected = theirs.matthews_corrcoef(SIDES, np.where(np.arange(N) % 3 == 0, -1, SAID))  # one more class, never real
    np.testing.assert_allclose(metrics.matthews_correlation(said, SIDES), expected, rtol=1e-5)


def test_log_loss_keeps_its_digits_where_a_probability_has_none():
    """scikit-learn clips a probability that was rounded to 0."""
    np.testing.assert_allclose(metrics.log_loss(jnp.array([90.0, -200.0]), jnp.array([0, 1])), 145, rtol=1e-6)
    assert metrics.log_loss(jnp.array([200.0]), jnp.array([1])) == 0


def test_a_rare_class_keeps_its_correlation():
    """1 - sum of squared shares would be a difference of nearly equal numbers."""
    real = np.zeros(200_000, int)
    real[:3] = 1
    said = np.where(np.arange(200_000) < 2, 1.0, -1.0).astype(np.float32)
    np.testing.assert_allclose(metrics.matthews_correlation(said, real), theirs.matthews_corrcoef(real, said > 0), rtol=1e-5)


# Precision.


def test_numbers_of_few_bits_are_measured_in_float32():
    """Neither sums nor targets are rounded to what the predictions are given in."""
    for dtype in (jnp.float16, jnp.bfloat16):
        targets = (1000 + np.arange(200) / 100).astype(np.float32)
        predictions = jnp.asarray(targets + 0.5 * np.sin(np.arange(200)), dtype)
        exact = np.asarray(predictions, np.float64)
        for ours, other in (
            (metrics.r2, theirs.r2_score),
            (metrics.mean_squared_error, theirs.mean_squared_error),
            (metrics.mean_absolute_error, theirs.mean_absolute_error),
        ):
            assert ours(predictions, targets).dtype == np.float32
            np.testing.assert_allclose(ours(predictions, targets), other(targets.astype(np.float64), exact), rtol=1e-4)
    many = jnp.full(70_000, 2.0, jnp.float16)
    np.testing.assert_allclose(metrics.mean_squared_error(many, jnp.zeros(70_000, jnp.float16)), 4)
    np.testing.assert_allclose(metrics.mean_squared_error(many, many * 0, weights=jnp.ones(70_000, jnp.float16)), 4)


def test_whole_numbers_are_cast_before_they_are_subtracted():
    predictions, targets = np.array([200, 10], np.uint8), np.array([10, 200], np.uint8)
    assert metrics.mean_squared_error(predictions, targets) == 190**2
    assert metrics.mean_absolute_error(predictions, targets.astype(np.float32)) == 190


def test_examples_are_counted_beyond_what_float32_counts():
    """2^24 + 1 is no float32: a sum of ones would stand still there."""
    count = 2**24 + 2**12
    margins = jnp.where(jnp.arange(count) < count // 2, 1.0, -1.0)
    for fn, expected in ((metrics.accuracy, 0.5), (functools.partial(metrics.recall, average="binary"), 0.5)):
        np.testing.assert_allclose(jax.jit(fn)(margins, jnp.ones(count, jnp.int8)), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(metrics.accuracy)(margins, -jnp.ones(count, jnp.int8)), 0.5, rtol=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match=r"accuracy: targets must have shape \(60,\), got \(60, 4\); labels, not one-hot rows"):
        metrics.accuracy(LOGITS, np.eye(4)[LABELS])
    with pytest.raises(ValueError, match=r"f1: predictions must have shape \(examples, classes\) or \(examples,\), got \(2, 3, 4\)"):
        metrics.f1(np.zeros((2, 3, 4)), LABELS)
    with pytest.raises(ValueError, match=r"precision: average='binary' needs two classes, got 4; average='macro' takes any number"):
        metrics.precision(LOGITS, LABELS, average="binary")
    with pytest.raises(ValueError, match="recall: unknown average 'makro'; did you mean 'macro'"):
        metrics.recall(LOGITS, LABELS, average="makro")
    with pytest.raises(ValueError, match="roc_auc: unknown average 'micro'; did you mean 'macro'"):
        metrics.roc_auc(LOGITS, LABELS, average="micro")
    with pytest.raises(ValueError, match="r2: unknown multioutput 'raw_values'"):
        metrics.r2(OUTPUTS, TARGETS, multioutput="raw_values")
    with pytest.raises(ValueError, match="calibration_error: bins must be at least 1, got 0"):
        metrics.calibration_error(LOGITS, LABELS, bins=0)
    with pytest.raises(ValueError, match="top_k_accuracy: k must be at least 1, got 0"):
        metrics.top_k_accuracy(LOGITS, LABELS, 0)
    with pytest.raises(ValueError, match=r"top_k_accuracy: predictions must have shape \(examples, classes\), got \(60, 1\)"):
        metrics.top_k_accuracy(MARGINS[:, None], SIDES)
    with pytest.raises(ValueError, match=r"top_k_accuracy: targets must have shape \(60,\), got \(60, 4\); labels, not one-hot rows"):
        metrics.top_k_accuracy(LOGITS, np.eye(4)[LABELS])
    with pytest.raises(ValueError, match=r"r2: targets must have the predictions' shape \(60, 3\), got \(60, 2\)"):
        metrics.r2(OUTPUTS, TARGETS[:, :2])


@pytest.mark.parametrize("name", [*metrics.METRICS, "loss"])
def test_a_metric_knows_which_way_is_better(name):
    perfect = jnp.array([[9.0, -9.0], [-9.0, 9.0]]), jnp.array([0, 1])
    numbers = jnp.array([1.0, 2.0]), jnp.array([1.0, 2.0])
    if name == "loss":
        assert metrics.mode_of("best", "validation/loss", None) == "min"
        return
    fn = metrics.METRICS[name]
    if name == "top_k_accuracy":
        fn = functools.partial(fn, k=1)
    right, target = numbers if name in metrics._OF_NUMBERS else perfect
    better = fn(right, target) > fn(right[::-1], target)
    assert metrics.mode_of("best", f"validation/{name}", None) == ("max" if better else "min")


def test_the_direction_follows_the_function():
    for name, fn in metrics.METRICS.items():
        assert metrics.direction(name) == metrics.direction(fn) == metrics.direction(functools.partial(fn)) == metrics.MODES[name]
    own = lambda predictions, targets: jnp.max(predictions)
    assert metrics.direction(own) is None and metrics.direction("own") is None
    for mode in ("min", "max"):
        marked = metrics.metric(own, mode)
        assert marked.mode == mode == metrics.direction(marked) == metrics.direction(functools.partial(marked))
        assert marked(jnp.arange(3.0), None) == jax.jit(marked)(jnp.arange(3.0), None) == 2
    assert metrics.direction(metrics.metric(metrics.accuracy, "min")) == "min"  # what is said comes first

    @functools.wraps(metrics.accuracy)
    def error_rate(predictions, targets):
        return 1 - metrics.accuracy(predictions, targets)

    assert metrics.direction(error_rate) is None  # a wrapper may turn it around


def test_marks_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="metric: unknown mode 'largest'; there are 'min', 'max'"):
        metrics.metric(metrics.accuracy, mode="largest")
    with pytest.raises(TypeError, match=r"metric: fn must be a function of \(predictions, targets\), got 'accuracy'"):
        metrics.metric("accuracy", mode="max")
    metrics.metric(metrics.accuracy, mode="max")


def test_a_metric_of_ones_own_needs_a_mode():
    with pytest.raises(
        ValueError, match='best: must know which way \'validation/return\' is better, got no mode; give mode="min" or mode="max"'
    ):
        metrics.mode_of("best", "validation/return", None)
    assert metrics.mode_of("best", "validation/return", "max") == "max"


@pytest.mark.parametrize("examples", [1, 3, 5, 10, 41, 128])
@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.top_k_accuracy])
def test_shares_stay_within_0_and_1_however_xla_divides(metric, examples):
    """In a program a division by 5 may be a product that is fused with what follows: all wrong was -1.5e-8."""
    logits, right, wrong = jnp.tile(jnp.array([1.0, 0.0, -1.0]), (examples, 1)), jnp.zeros(examples, int), jnp.full(examples, 2)
    weights = jnp.asarray(RNG.uniform(size=examples), jnp.float32).at[0].set(0.3)
    for run in (metric, jax.jit(metric)):
        assert float(run(logits, right)) == 1 and float(run(logits, wrong)) == 0
        assert float(run(logits, right, weights=weights)) == 1 and float(run(logits, wrong, weights=weights)) == 0
        assert np.isnan(run(logits, right, weights=jnp.zeros(examples)))
    assert jax.vmap(metric, (None, 0))(logits, jnp.stack([right, wrong])).tolist() == [1, 0]
