"""Metrics: (predictions, targets) -> scalar over a whole set; what is measured, not minimised.

Predictions are a model's outputs. For classes they are logits: shape (examples, classes), where the largest wins, or
one logit an example, (examples,) or (examples, 1), where a positive one means class 1. Targets are labels from 0 to
classes - 1. For one logit they may be -1 and 1 as well, as `hinge` takes them, or probabilities of class 1, as
`binary_cross_entropy` does, of which the class is the likelier one. A NaN among an example's logits is never right, nor
is a target that is none of these.

Each takes `weights`, shape (examples,), >= 0: how much an example counts, as scikit-learn's `sample_weight`. One with a
weight of zero counts as if it weren't there. Sums and means are taken in at least float32.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.tree import at_least_float32, wide_dtype

Metric: TypeAlias = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class DirectedMetric:
    """A metric that says which way is better; `metric` makes one."""

    fn: Metric
    mode: str  # "min" or "max"

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        return self.fn(*args, **kwargs)


def metric(fn: Metric, mode: str) -> DirectedMetric:
    """A metric of your own, and whether a small or a large value of it is good.

    Args:
      fn: (predictions, targets) -> scalar over a whole set, written in jax.numpy; with a parameter `weights=None`, shape
        (examples,), where it is to work with `num_examples`.
      mode: "min" or "max".

    Returns:
      The same function, which carries its mode.

    Raises:
      TypeError: fn isn't a function.
      ValueError: the mode is unknown.

    Example:
      >>> worst = metric(lambda predictions, targets: jnp.max(jnp.abs(predictions - targets)), mode="min")
      >>> print(worst(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])), worst.mode)
      2.0 min
    """
    if not callable(fn):
        raise TypeError(check.message("metric", "fn must be a function of (predictions, targets)", repr(fn)))
    check.one_of("metric", "mode", mode, ("min", "max"))
    return DirectedMetric(fn, mode)


def accuracy(predictions: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Share of the examples whose class is right.

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      weights: shape (examples,), >= 0, how much each counts; None for all alike.

    Returns:
      Shape (), in [0, 1].

    Example:
      >>> print(accuracy(jnp.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0])))
      0.5
    """
    said, real, _ = _labels("accuracy", predictions, targets)
    return _share("accuracy", said == real, weights)


def top_k_accuracy(predictions: jax.Array, targets: jax.Array, k: int = 2, *, weights: jax.Array | None = None) -> jax.Array:
    """Share of the examples whose class is among the k largest logits.

    Args:
      predictions: logits, shape (examples, classes).
      targets: labels, shape (examples,).
      k: at least 1. A tie at the k-th place counts as among them.
      weights: shape (examples,), >= 0, how much each counts; None for all alike.

    Returns:
      Shape (), in [0, 1].

    Raises:
      ValueError: k is below 1, or predictions have no axis of classes.

    Example:
      >>> print(top_k_accuracy(jnp.array([[3.0, 2.0, 1.0]]), jnp.array([1]), k=2))
      1.0
    """
    k = check.whole("top_k_accuracy", "k", k, 1)
    predictions = jnp.asarray(predictions)
    if predictions.ndim != 2 or predictions.shape[1] < 2:
        raise ValueError(check.message("top_k_accuracy", "predictions must have shape (examples, classes)", predictions.shape))
    real = _real("top_k_accuracy", targets, *predictions.shape)
    own = jnp.take_along_axis(predictions, jnp.maximum(real, 0)[:, None], axis=1)
    missed = (jnp.sum(predictions > own, axis=1) >= k) | (real < 0) | jnp.any(jnp.isnan(predictions), axis=1)
    return _share("top_k_accuracy", ~missed, weights)


def precision(predictions: jax.Array, targets: jax.Array, *, average: str = "macro", weights: jax.Array | None = None) -> jax.Array:
    """Of the examples said to be of a class, the share that is: true / (true + false positives).

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      average: "macro", the mean over the classes that occur in predictions or targets; or "binary", class 1 alone.
      weights: shape (examples,), >= 0, how much each counts; None for all alike.

    Returns:
      Shape (), in [0, 1]; 0 where nothing was said to be of the class.

    Raises:
      ValueError: average is unknown, or a concrete label is out of range; a traced one gives NaN.

    Example:
      >>> print(precision(jnp.array([3.0, 1.0, -2.0]), jnp.array([1, 0, 1]), average="binary"))
      0.5
    """
    hits, said, real, known = _counts("precision", predictions, targets, weights)
    return _averaged("precision", _ratio(hits, said), said + real, known, average)


def recall(predictions: jax.Array, targets: jax.Array, *, average: str = "macro", weights: jax.Array | None = None) -> jax.Array:
    """Of the examples of a class, the share that was found: true / (true positives + false negatives).

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      average: "macro", the mean over the classes that occur in predictions or targets; or "binary", class 1 alone.
      weights: shape (examples,), >= 0, how much each counts; None for all alike.

    Returns:
      Shape (), in [0, 1]; 0 where the class doesn't occur.

    Raises:
      ValueError: average is unknown, or a concrete label is out of range; a traced one gives NaN.

    Example:
      >>> print(recall(jnp.array([3.0, 1.0, -2.0]), jnp.array([1, 0, 1]), average="binary"))
      0.5
    """
    hits, said, real, known = _counts("recall", predictions, targets, weights)
    return _averaged("recall", _ratio(hits, real), said + real, known, average)


def f1(predictions: jax.Array, targets: jax.Array, *, average: str = "macro", weights: jax.Array | None = None) -> jax.Array:
    """Harmonic mean of precision and recall: 2 true / (said + real).

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      average: "macro", the mean over the classes that occur in predictions or targets; or "binary", class 1 alone.
      weights: shape (examples,), >= 0, how much each counts; None for all alike.

    Returns:
      Shape (), in [0, 1].

    Raises:
      ValueError: average is unknown, or a concrete label is out of range; a traced one gives NaN.

    Example:
      >>> print(f1(jnp.array([3.0, 1.0, -2.0]), jnp.array([1, 0, 1]), average="binary"))
      0.5

    Source: van Rijsbergen (1979).
    """
    hits, said, real, known = _counts("f1", predictions, targets, weights)
    return _averaged("f1", _ratio(2 * hits, said + real), said + real, known, average)


def mean_squared_error(predictions: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Mean over examples and outputs of (prediction - target)^2.

    Args:
      predictions: shape (examples, *outputs).
      targets: the same shape.
      weights: shape (examples,), >= 0, how much each counts; None for all alike.

    Returns:
      Shape (), squared units of the target.

    Example:
      >>> print(mean_squared_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
      2.0
    """
    predictions, targets = _numbers("mean_squared_error", predictions, targets)
    return weighted_mean("mean_squared_error", (predictions - targets) ** 2, weights)


def mean_absolute_error(predictions: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Mean over examples and outputs of |prediction - target|.

    Args:
      predictions: shape (examples, *outputs).
      targets: the same shape.
      weights: shape (examples,), >= 0, how much each counts; None for all alike.

    Returns:
      Shape (), units of the target.

    Example:
      >>> print(mean_absolute_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
      1.0
    """
    predictions, targets = _numbers("mean_absolute_error", predictions, targets)
    return weighted_mean("mean_absolute_error", jnp.abs(predictions - targets), weights)


def r2(predictions: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Coefficient of determination, 1 - residual / total sum of squares, the mean over the outputs.

    Args:
      predictions: shape (examples, *outputs).
      targets: the same shape.
      weights: shape (examples,), >= 0, how much each counts; None for all alike.

    Returns:
      Shape (), at most 1. Where a target doesn't vary: 1 if it is met exactly, else 0.

    Example:
      >>> print(r2(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 4.0])).round(4))
      0.7857
    """
    predictions, targets = _numbers("r2", predictions, targets)
    counts = _weights("r2", weights, targets.shape[0], targets.dtype)
    first = targets[:1]
    if counts is not None:
        seen = counts > 0
        first = targets[jnp.argmax(seen)][None]
        predictions, targets = (jnp.where(seen[:, None], values, first) for values in (predictions, targets))
    whole = len(targets) if counts is None else jnp.sum(counts)
    residual = _total((predictions - targets) ** 2, counts)
    total = _total((targets - _total(targets, counts)[None] / whole) ** 2, counts)
    varies = jnp.any(targets != first, axis=0) & (total != 0)  # total alone won't tell: the mean of equal numbers is rounded
    flat = jnp.where(residual == 0, 1, 0).astype(residual.dtype)
    return jnp.mean(jnp.where(varies, 1 - residual / jnp.where(varies, total, 1), flat))


METRICS: dict[str, Callable[..., jax.Array]] = {
    "accuracy": accuracy,
    "top_k_accuracy": top_k_accuracy,
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
    "r2": r2,
}

MODES: dict[str, str] = {name: "min" if name.endswith("error") else "max" for name in METRICS} | {"loss": "min", "unweighted_loss": "min"}


def mode_of(where: str, metric: str, mode: str | None) -> str:
    """Whether a small ("min") or a large ("max") value of a metric is good: as given, else as its name is known for.

    Args:
      where: who asks, for the message.
      metric: a name such as "validation/accuracy".
      mode: "min", "max", or None for what `MODES` says.

    Raises:
      ValueError: the mode is unknown, or left out for a metric that isn't known.

    Example:
      >>> mode_of("best", "validation/accuracy", None)
      'max'
    """
    if mode is None:
        mode = MODES.get(metric.rpartition("/")[2])
        if mode is None:
            fix = 'give mode="min" or mode="max"; fn.metric(fn, mode=...) or Training(..., modes=...) says it once for all'
            raise ValueError(check.message(where, f"must know which way {metric!r} is better", "no mode", fix))
    check.one_of(where, "mode", mode, ("min", "max"))
    return mode


def direction(metric: str | Metric) -> str | None:
    """Whether a small ("min") or a large ("max") value of a metric is good; None where that isn't known.

    Known are the functions of `METRICS`, by whatever name they are reported and with arguments bound by functools.partial,
    and what `metric` has marked.

    Example:
      >>> direction(functools.partial(f1, average="binary")), direction(lambda predictions, targets: 0)
      ('max', None)
    """
    while isinstance(metric, functools.partial):
        metric = metric.func
    if isinstance(metric, DirectedMetric):
        return metric.mode
    name = _known_name(metric)
    return None if name is None else MODES[name]


def bare(metric: Metric) -> Metric:
    """The function itself, without `metric`'s mark or the arguments that functools.partial has bound."""
    while isinstance(metric, DirectedMetric | functools.partial):
        metric = metric.fn if isinstance(metric, DirectedMetric) else metric.func
    return metric


def takes_weights(metric: Metric) -> bool:
    """Whether a metric has a parameter `weights`."""
    try:
        return "weights" in inspect.signature(metric.fn if isinstance(metric, DirectedMetric) else metric).parameters
    except (TypeError, ValueError):  # a builtin may not say
        return False


def check_metric_targets(metric: Metric, outputs: tuple[int, ...], y: np.ndarray[Any, Any]) -> None:
    """Checks concrete targets, one a row, against a metric of this module's and the model's output shape.

    Raises:
      ValueError: the targets are no labels of the model's classes, or a shape is wrong.
    """
    name = _known_name(metric)
    if name is None:
        return
    if name not in _OF_LABELS:
        if y.shape[1:] != outputs and not {y.shape[1:], outputs} <= {(), (1,)}:
            raise ValueError(check.message(name, f"each target must have the shape of the model's output, {outputs}", y.shape[1:]))
        return
    if len(outputs) > 1 or (name == "top_k_accuracy" and outputs in ((), (1,))):
        raise ValueError(check.message(name, "the model's output must have shape (classes,)", outputs))
    if y.size != len(y):
        raise ValueError(check.message(name, "each target must be one label", f"shape {y.shape[1:]}", "not a one-hot row"))
    labels = np.asarray(y, np.float64).reshape(-1)
    classes = outputs[0] if outputs else 1
    if classes > 1:
        good = (labels >= 0) & (labels < classes) & (labels == np.floor(labels))
        rule, fix = f"labels must be in [0, {classes - 1}], as the model has {classes} outputs", "number the classes from 0"
    else:
        sides, shares = np.abs(labels) == 1, (labels >= 0) & (labels <= 1)
        good = sides if np.all(sides) else shares
        rule, fix = "with one logit, each target must be 0 or 1, or all of them -1 or 1, or probabilities", "as (y > 0).astype(int) is"
    bad = np.flatnonzero(~good)
    if bad.size:
        raise ValueError(check.message(name, rule, f"{y.reshape(-1)[bad[0]]} in row {bad[0]}", fix))


_OF_LABELS = ("accuracy", "top_k_accuracy", "precision", "recall", "f1")


def weighted_mean(where: str, values: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Mean over examples, the first axis, and whatever else there is, in at least float32; what counts nothing may be NaN."""
    values = values.astype(at_least_float32(values.dtype))
    counts = _weights(where, weights, len(values), values.dtype)
    if counts is None:
        return jnp.mean(values)
    each = jnp.mean(values.reshape(len(values), -1), axis=1) if values.ndim > 1 else values
    return _total(each, counts) / jnp.sum(counts)


def _known_name(metric: str | Metric) -> str | None:
    """The name in `METRICS` of a function, however it is marked or bound."""
    if isinstance(metric, str):
        return metric if metric in METRICS else None
    metric = bare(metric)
    return next((name for name, known in METRICS.items() if known is metric), None)


def _weights(where: str, weights: jax.Array | None, examples: int, dtype: jnp.dtype | None = None) -> jax.Array | None:
    """The weights, checked, in at least float32 and the dtype of what they count."""
    if weights is None:
        return None
    weights = jnp.asarray(weights)
    check.shape_is(where, "weights", weights.shape, (examples,), fix="one for each example")
    if not check.is_traced(weights) and not np.all(np.asarray(weights) >= 0):
        raise ValueError(check.message(where, "weights must be at least 0", np.asarray(weights)[~(np.asarray(weights) >= 0)][0]))
    return weights.astype(jnp.promote_types(wide_dtype(weights), dtype or jnp.float32))


def _total(values: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Weighted sum over the examples, the first axis."""
    if weights is None:
        return jnp.sum(values, axis=0)
    column = weights.reshape(-1, *(1,) * (values.ndim - 1))
    return jnp.sum(jnp.where(column > 0, values.astype(weights.dtype) * column, 0), axis=0)


def _share(where: str, mask: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Share of the examples that the mask holds for, exactly 1 for all of them, however XLA divides.

    They are counted in whole numbers, as float32 counts no further than 2^24.
    """
    counts = _weights(where, weights, mask.size)
    if counts is None:
        return jnp.where(jnp.all(mask), 1, jnp.sum(mask.astype(jnp.int32)).astype(jnp.result_type(float)) / mask.size)
    total = jnp.sum(counts)
    return jnp.where(jnp.all(mask | (counts == 0)) & (total > 0), 1, _total(mask, counts) / total)


def _labels(where: str, predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, int]:
    """Predicted labels, -1 where a logit is NaN, and true ones, -2 where there is no such class, both (examples,); and the
    number of classes."""
    predictions = jnp.asarray(predictions)
    if predictions.ndim not in (1, 2):
        raise ValueError(check.message(where, "predictions must have shape (examples, classes) or (examples,)", predictions.shape))
    single = predictions.ndim == 1 or predictions.shape[1:] == (1,)
    rows = predictions.reshape(len(predictions), -1)
    said = (rows[:, 0] > 0).astype(jnp.int32) if single else jnp.argmax(rows, axis=1).astype(jnp.int32)
    said = jnp.where(jnp.any(jnp.isnan(rows), axis=1), -1, said) if check.is_floating(rows) else said
    return said, _real(where, targets, *rows.shape), 2 if single else rows.shape[1]


def _real(where: str, targets: jax.Array, examples: int, classes: int) -> jax.Array:
    """The true labels, shape (examples,), int32; -2 where there is no such class."""
    targets = jnp.asarray(targets)
    if targets.size != examples:
        raise ValueError(check.message(where, f"targets must have shape ({examples},)", targets.shape, "labels, not one-hot rows"))
    targets = targets.reshape(-1).astype(at_least_float32(targets.dtype) if check.is_floating(targets) else jnp.result_type(float))
    if classes == 1:
        label, known = (targets > 0.5).astype(targets.dtype), (targets == -1) | ((targets >= 0) & (targets <= 1))
    else:
        label, known = targets, (targets >= 0) & (targets < classes) & (targets == jnp.floor(targets))
    return jnp.where(known, label, -2).astype(jnp.int32)


def _counts(
    where: str, predictions: jax.Array, targets: jax.Array, weights: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """For each class how often it was rightly said, said, and real, each shape (classes,); and whether every label is known."""
    said, real, classes = _labels(where, predictions, targets)
    counts = _weights(where, weights, said.size)
    known = (real >= 0) if counts is None else (real >= 0) | (counts == 0)
    if not check.is_traced(known) and not np.all(known):
        row = int(np.flatnonzero(~np.asarray(known))[0])
        raise ValueError(check.message(where, f"labels must be in [0, {classes - 1}]", f"{jnp.ravel(targets)[row]} in row {row}"))
    names = jnp.arange(classes, dtype=jnp.int32)[None]
    masks = said[:, None] == names, real[:, None] == names
    dtype = jnp.result_type(float) if counts is None else counts.dtype
    hits, often, there = (_total(mask.astype(jnp.int32), counts).astype(dtype) for mask in (masks[0] & masks[1], *masks))
    return hits, often, there, jnp.all(known)


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)


def _averaged(where: str, scores: jax.Array, seen: jax.Array, known: jax.Array, average: str) -> jax.Array:
    check.one_of(where, "average", average, ("macro", "binary"))
    if average == "binary":
        if scores.shape[0] != 2:
            raise ValueError(
                check.message(where, "average='binary' needs two classes", scores.shape[0], "average='macro' takes any number")
            )
        return jnp.where(known, scores[1], jnp.nan)
    mean = jnp.sum(jnp.where(seen > 0, scores, 0)) / jnp.sum((seen > 0).astype(scores.dtype))
    return jnp.where(known, mean, jnp.nan)


def _numbers(where: str, predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as (examples, outputs), in at least float32: neither is rounded to the other's dtype."""
    predictions, targets = jnp.asarray(predictions), jnp.asarray(targets)
    if predictions.shape != targets.shape and not predictions.size == targets.size == predictions.shape[0]:
        raise ValueError(check.message(where, f"targets must have the predictions' shape {predictions.shape}", targets.shape))
    dtype = wide_dtype(predictions, targets)
    examples = predictions.shape[0]
    return predictions.reshape(examples, -1).astype(dtype), targets.reshape(examples, -1).astype(dtype)
