"""Metrics against scikit-learn, in every shape they take."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as theirs

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
    np.testing.assert_allclose(jax.jit(metric_fn)(predictions, targets), expected, rtol=1e-5, atol=1e-6)
    both = jax.vmap(metric_fn, (0, None))(jnp.stack([predictions, predictions[::-1]]), targets)
    np.testing.assert_allclose(both, [expected, metric_fn(predictions[::-1], targets)], rtol=1e-5, atol=1e-6)


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


def test_bad_input():
    with pytest.raises(ValueError, match=r"accuracy: targets must have shape \(60,\), got \(60, 4\); labels, not one-hot rows"):
        metrics.accuracy(LOGITS, np.eye(4)[LABELS])
    with pytest.raises(ValueError, match=r"f1: predictions must have shape \(examples, classes\) or \(examples,\), got \(2, 3, 4\)"):
        metrics.f1(np.zeros((2, 3, 4)), LABELS)
    with pytest.raises(ValueError, match=r"precision: average='binary' needs two classes, got 4; average='macro' takes any number"):
        metrics.precision(LOGITS, LABELS, average="binary")
    with pytest.raises(ValueError, match="recall: unknown average 'makro'; did you mean 'macro'"):
        metrics.recall(LOGITS, LABELS, average="makro")
    with pytest.raises(ValueError, match="top_k_accuracy: k must be at least 1, got 0"):
        metrics.top_k_accuracy(LOGITS, LABELS, 0)
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
    right, target = numbers if name in ("mean_squared_error", "mean_absolute_error", "r2") else perfect
    better = fn(right, target) > fn(right[::-1], target)
    assert metrics.mode_of("best", f"validation/{name}", None) == ("max" if better else "min")


def test_a_metric_of_ones_own_needs_a_mode():
    with pytest.raises(
        ValueError, match='best: must know which way \'validation/return\' is better, got no mode; give mode="min" or mode="max"'
    ):
        metrics.mode_of("best", "validation/return", None)
    assert metrics.mode_of("best", "validation/return", "max") == "max"
