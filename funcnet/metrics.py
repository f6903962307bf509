"""Metrics: (predictions, targets) -> scalar over a whole set; what is measured, not minimised.

Predictions are a model's outputs. For classes they are logits: shape (examples, classes), where the largest wins, or
one logit an example, (examples,) or (examples, 1), where a positive one means class 1. Targets are integer labels.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from funcnet import check

Metric: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]


def accuracy(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Share of the examples whose class is right.

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).

    Returns:
      Shape (), in [0, 1].

    Example:
      >>> print(accuracy(jnp.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0])))
      0.5
    """
    labels, targets, _ = _labels("accuracy", predictions, targets)
    return 1 - jnp.mean((labels != targets).astype(jnp.result_type(float)))  # so that all right is exactly 1, however XLA divides


def top_k_accuracy(predictions: jax.Array, targets: jax.Array, k: int = 2) -> jax.Array:
    """Share of the examples whose class is among the k largest logits.

    Args:
      predictions: logits, shape (examples, classes).
      targets: labels, shape (examples,).
      k: at least 1. A tie at the k-th place counts as among them.

    Returns:
      Shape (), in [0, 1].

    Raises:
      ValueError: k is below 1, or predictions have no axis of classes.

    Example:
      >>> print(top_k_accuracy(jnp.array([[3.0, 2.0, 1.0]]), jnp.array([1]), k=2))
      1.0
    """
    k = check.whole("top_k_accuracy", "k", k, 1)
    predictions, targets = jnp.asarray(predictions), jnp.asarray(targets)
    if predictions.ndim != 2:
        raise ValueError(check.message("top_k_accuracy", "predictions must have shape (examples, classes)", predictions.shape))
    own = jnp.take_along_axis(predictions, targets.reshape(-1, 1), axis=1)
    return 1 - jnp.mean((jnp.sum(predictions > own, axis=1) >= k).astype(jnp.result_type(float)))


def precision(predictions: jax.Array, targets: jax.Array, *, average: str = "macro") -> jax.Array:
    """Of the examples said to be of a class, the share that is: true / (true + false positives).

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      average: "macro", the mean over the classes that occur in predictions or targets; or "binary", class 1 alone.

    Returns:
      Shape (), in [0, 1]; 0 where nothing was said to be of the class.

    Raises:
      ValueError: average is unknown.

    Example:
      >>> print(precision(jnp.array([3.0, 1.0, -2.0]), jnp.array([1, 0, 1]), average="binary"))
      0.5
    """
    hits, said, real = _counts("precision", predictions, targets)
    return _averaged("precision", _ratio(hits, said), said + real, average)


def recall(predictions: jax.Array, targets: jax.Array, *, average: str = "macro") -> jax.Array:
    """Of the examples of a class, the share that was found: true / (true positives + false negatives).

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      average: "macro", the mean over the classes that occur in predictions or targets; or "binary", class 1 alone.

    Returns:
      Shape (), in [0, 1]; 0 where the class doesn't occur.

    Raises:
      ValueError: average is unknown.

    Example:
      >>> print(recall(jnp.array([3.0, 1.0, -2.0]), jnp.array([1, 0, 1]), average="binary"))
      0.5
    """
    hits, said, real = _counts("recall", predictions, targets)
    return _averaged("recall", _ratio(hits, real), said + real, average)


def f1(predictions: jax.Array, targets: jax.Array, *, average: str = "macro") -> jax.Array:
    """Harmonic mean of precision and recall: 2 true / (said + real).

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      average: "macro", the mean over the classes that occur in predictions or targets; or "binary", class 1 alone.

    Returns:
      Shape (), in [0, 1].

    Raises:
      ValueError: average is unknown.

    Example:
      >>> print(f1(jnp.array([3.0, 1.0, -2.0]), jnp.array([1, 0, 1]), average="binary"))
      0.5

    Source: van Rijsbergen (1979).
    """
    hits, said, real = _counts("f1", predictions, targets)
    return _averaged("f1", _ratio(2 * hits, said + real), said + real, average)


def mean_squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over examples and outputs of (prediction - target)^2.

    Args:
      predictions: shape (examples, *outputs).
      targets: the same shape.

    Returns:
      Shape (), squared units of the target.

    Example:
      >>> print(mean_squared_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
      2.0
    """
    predictions, targets = _numbers("mean_squared_error", predictions, targets)
    return jnp.mean((predictions - targets) ** 2)


def mean_absolute_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over examples and outputs of |prediction - target|.

    Args:
      predictions: shape (examples, *outputs).
      targets: the same shape.

    Returns:
      Shape (), units of the target.

    Example:
      >>> print(mean_absolute_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
      1.0
    """
    predictions, targets = _numbers("mean_absolute_error", predictions, targets)
    return jnp.mean(jnp.abs(predictions - targets))


def r2(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Coefficient of determination, 1 - residual / total sum of squares, the mean over the outputs.

    Args:
      predictions: shape (examples, *outputs).
      targets: the same shape.

    Returns:
      Shape (), at most 1. Where a target doesn't vary: 1 if it is met exactly, else 0.

    Example:
      >>> print(r2(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 4.0])).round(4))
      0.7857
    """
    predictions, targets = _numbers("r2", predictions, targets)
    residual = jnp.sum((predictions - targets) ** 2, axis=0)
    total = jnp.sum((targets - jnp.mean(targets, axis=0, keepdims=True)) ** 2, axis=0)
    varies = jnp.any(targets != targets[:1], axis=0) & (total != 0)  # total alone won't tell: the mean of equal numbers is rounded
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

MODES: dict[str, str] = {name: "min" if name.endswith("error") else "max" for name in METRICS} | {"loss": "min"}


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


def _labels(where: str, predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, int]:
    """Predicted labels, true labels, both (examples,), and the number of classes."""
    predictions, targets = jnp.asarray(predictions), jnp.asarray(targets)
    single = predictions.ndim == 1 or predictions.shape[1:] == (1,)
    if predictions.ndim not in (1, 2):
        raise ValueError(check.message(where, "predictions must have shape (examples, classes) or (examples,)", predictions.shape))
    if targets.size != predictions.shape[0]:
        raise ValueError(
            check.message(where, f"targets must have shape ({predictions.shape[0]},)", targets.shape, "labels, not one-hot rows")
        )
    labels = (predictions.reshape(-1) > 0).astype(jnp.int32) if single else jnp.argmax(predictions, axis=1).astype(jnp.int32)
    return labels, targets.reshape(-1).astype(jnp.int32), 2 if single else predictions.shape[1]


def _counts(where: str, predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """For each class: how often it was rightly said, said, and real; each shape (classes,)."""
    labels, targets, classes = _labels(where, predictions, targets)
    names = jnp.arange(classes, dtype=jnp.int32)[:, None]
    said, real = labels[None] == names, targets[None] == names
    return tuple(jnp.sum(mask.astype(jnp.result_type(float)), axis=1) for mask in (said & real, said, real))  # type: ignore[return-value]


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)


def _averaged(where: str, scores: jax.Array, seen: jax.Array, average: str) -> jax.Array:
    check.one_of(where, "average", average, ("macro", "binary"))
    if average == "binary":
        if scores.shape[0] != 2:
            raise ValueError(
                check.message(where, "average='binary' needs two classes", scores.shape[0], "average='macro' takes any number")
            )
        return scores[1]
    return jnp.sum(jnp.where(seen > 0, scores, 0)) / jnp.sum((seen > 0).astype(scores.dtype))


def _numbers(where: str, predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as (examples, outputs), in the dtype of the predictions."""
    predictions, targets = jnp.asarray(predictions), jnp.asarray(targets)
    if predictions.shape != targets.shape and not predictions.size == targets.size == predictions.shape[0]:
        raise ValueError(check.message(where, f"targets must have the predictions' shape {predictions.shape}", targets.shape))
    dtype = predictions.dtype if jnp.issubdtype(predictions.dtype, jnp.floating) else jnp.result_type(float)
    examples = predictions.shape[0]
    return predictions.reshape(examples, -1).astype(dtype), targets.reshape(examples, -1).astype(dtype)
