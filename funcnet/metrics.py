"""Metrics: (predictions, targets) -> scalar over a whole set; they are measured, not minimised.

Predictions are a model's outputs. For classification they are logits: shape (examples, classes), where the largest logit is the
predicted class, or one logit for each example, shape (examples,) or (examples, 1), where a positive logit predicts class 1.
Targets are labels from 0 to classes - 1. With one logit they may also be -1 and 1, as for `hinge`, or probabilities of class 1,
as for `binary_cross_entropy`, where the likelier class is the label. An example with a NaN among its logits, or with any other
target, is never counted as right.

Each metric takes `weights`, shape (examples,), >= 0: how much an example counts, as scikit-learn's `sample_weight`. An example of
weight 0 is ignored; if all weights are 0, the metric is NaN. Without any example there is a ValueError. Sums and means are
computed in at least float32.

For `Padded` predictions, values (examples, time, *outputs), a metric takes each real step as an example: a long sequence counts more
than a short one, and every step has the weight of its example. The targets are an array, (examples, time, *target), or a `Padded`
of the same lengths.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.padded import Padded, agreed, check_steps, checked, filled, is_padded, real
from funcnet.tree import at_least_float32, wide_dtype

Metric: TypeAlias = Callable[..., jax.Array]
P = ParamSpec("P")


def _of_steps(fn: Callable[P, jax.Array]) -> Callable[P, jax.Array]:
    """Makes a metric of examples take sequences too: each real step counts as an example."""
    over: Callable[..., jax.Array] = functools.partial(_over_steps, fn)

    @functools.wraps(fn)
    def of_steps(*args: P.args, **kwargs: P.kwargs) -> jax.Array:
        given: Any = (*args, *kwargs.values())
        return over(*args, **kwargs) if any(map(is_padded, given)) else fn(*args, **kwargs)

    return of_steps


def _over_steps(
    fn: Callable[..., jax.Array], predictions: Any, targets: Any, *args: Any, weights: jax.Array | None = None, **settings: Any
) -> jax.Array:
    """A metric over the real steps; the others have weight 0."""
    where = fn.__name__
    if not is_padded(predictions):
        fix = "end the model with a layer for each step, such as dense(width, leading_axes=1)"
        raise TypeError(check.message(where, "Padded targets need Padded predictions", type(predictions).__name__, fix))
    said = checked(where, predictions, first=True)
    goal = checked(where, targets, first=True) if is_padded(targets) else Padded(jnp.asarray(targets), said.length)
    examples, time = said.values.shape[:2]
    if goal.values.shape[:2] != (examples, time):
        rule = f"targets must have one entry for each step, shape ({examples}, {time}, ...)"
        raise ValueError(check.message(where, rule, goal.values.shape))
    said, goal = (x._replace(values=jnp.moveaxis(jnp.asarray(x.values), 0, -1)) for x in (said, goal))
    counts = _weights(where, weights, examples)
    inside = real(Padded(goal.values.reshape(time, -1, examples)[:, 0], said.length))
    each = inside.astype(jnp.float32) if counts is None else inside.astype(counts.dtype) * counts[None]

    def rows(x: Padded) -> jax.Array:
        values = jnp.moveaxis(filled(x), -1, 1)
        return values.reshape(time * examples, *values.shape[2:])

    value = fn(rows(said), rows(goal), *args, weights=each.reshape(-1), **settings)
    return value + jnp.sum(agreed(where, [said, goal], jnp.zeros(examples, value.dtype)).values)  # NaN where lengths differ


@dataclasses.dataclass(frozen=True)
class DirectedMetric(check.Marked):
    """A metric that says which way is better; `metric` makes one."""

    mode: str  # "min" or "max"


def metric(fn: Metric, mode: str) -> DirectedMetric:
    """Marks a metric of your own with its mode: whether a small or a large value of it is good.

    Args:
      fn: (predictions, targets) -> scalar over a whole set, written in jax.numpy; to work with `num_examples` it needs a
        parameter `weights=None`, shape (examples,).
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


@_of_steps
def accuracy(predictions: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Share of the examples whose class is predicted right.

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), in [0, 1].

    Example:
      >>> print(accuracy(jnp.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0])))
      0.5
    """
    said, real, _ = _labels("accuracy", predictions, targets)
    return _share("accuracy", said == real, weights)


@_of_steps
def top_k_accuracy(predictions: jax.Array, targets: jax.Array, k: int = 2, *, weights: jax.Array | None = None) -> jax.Array:
    """Share of the examples whose class is among the k largest logits.

    Args:
      predictions: logits, shape (examples, classes).
      targets: labels, shape (examples,).
      k: at least 1. A tie at the k-th place counts as right.
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

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


@_of_steps
def precision(predictions: jax.Array, targets: jax.Array, *, average: str = "macro", weights: jax.Array | None = None) -> jax.Array:
    """Share of the examples predicted to be of a class that really are of it: true / (true + false positives).

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      average: "macro", the mean over the classes that occur in predictions or targets; "weighted", their mean weighted by
        how often each is real; "micro", from the counts of all classes together; or "binary", class 1 alone.
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), in [0, 1]; 0 for a class that is never predicted.

    Raises:
      ValueError: average is unknown, or a concrete label is out of range; a traced one gives NaN.

    Example:
      >>> print(precision(jnp.array([3.0, 1.0, -2.0]), jnp.array([1, 0, 1]), average="binary"))
      0.5
    """
    counts = _counts("precision", predictions, targets, weights)
    return _averaged("precision", counts.hits, counts.said, counts, average)


@_of_steps
def recall(predictions: jax.Array, targets: jax.Array, *, average: str = "macro", weights: jax.Array | None = None) -> jax.Array:
    """Share of the examples of a class that are predicted to be of it: true positives / (true positives + false negatives).

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      average: "macro", the mean over the classes that occur in predictions or targets; "weighted", their mean weighted by
        how often each is real; "micro", from the counts of all classes together; or "binary", class 1 alone.
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), in [0, 1]; 0 for a class that doesn't occur in the targets.

    Raises:
      ValueError: average is unknown, or a concrete label is out of range; a traced one gives NaN.

    Example:
      >>> print(recall(jnp.array([3.0, 1.0, -2.0]), jnp.array([1, 0, 1]), average="binary"))
      0.5
    """
    counts = _counts("recall", predictions, targets, weights)
    return _averaged("recall", counts.hits, counts.real, counts, average)


@_of_steps
def f1(predictions: jax.Array, targets: jax.Array, *, average: str = "macro", weights: jax.Array | None = None) -> jax.Array:
    """Harmonic mean of precision and recall: 2 true positives / (predicted positives + actual positives).

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      average: "macro", the mean over the classes that occur in predictions or targets; "weighted", their mean weighted by
        how often each is real; "micro", from the counts of all classes together; or "binary", class 1 alone.
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), in [0, 1].

    Raises:
      ValueError: average is unknown, or a concrete label is out of range; a traced one gives NaN.

    Example:
      >>> print(f1(jnp.array([3.0, 1.0, -2.0]), jnp.array([1, 0, 1]), average="binary"))
      0.5

    Source: van Rijsbergen (1979).
    """
    counts = _counts("f1", predictions, targets, weights)
    return _averaged("f1", 2 * counts.hits, counts.said + counts.real, counts, average)


@_of_steps
def balanced_accuracy(predictions: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Mean of the recall over the classes, so that a rare class counts as much as a frequent one.

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), in [0, 1]: the mean over the classes that occur in the targets, as in scikit-learn, which warns if another class is
      predicted; NaN if no class occurs.

    Raises:
      ValueError: a concrete label is out of range; a traced one gives NaN.

    Example:
      >>> print(balanced_accuracy(jnp.array([1.0, 1.0, 1.0, 1.0]), jnp.array([1, 1, 1, 0])))
      0.5

    Source: Brodersen et al. (2010).
    """
    counts = _counts("balanced_accuracy", predictions, targets, weights)
    return _where_known(counts, _mean_where(counts.real > 0, _ratio(counts.hits, counts.real)))


@_of_steps
def matthews_correlation(predictions: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Matthews' correlation of predicted and true classes; with more than two classes, Gorodkin's.

    cov(predicted, true) / sqrt(cov(predicted, predicted) cov(true, true)), where cov sums the covariances of the classes' indicators

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), in [-1, 1]; 0 if only one class is predicted, or only one occurs, as in scikit-learn.

    Raises:
      ValueError: a concrete label is out of range; a traced one gives NaN.

    Example:
      >>> print(matthews_correlation(jnp.array([3.0, 1.0, -2.0, -1.0]), jnp.array([1, 0, 0, 0])).round(4))
      0.5774

    Source: Matthews (1975); Gorodkin (2004).
    """
    said, real, classes = _labels("matthews_correlation", predictions, targets)
    weights = _weights("matthews_correlation", weights, said.size)
    known = _all_known("matthews_correlation", targets, real, classes, weights)
    names = jnp.arange(-1, classes, dtype=jnp.int32)[None]  # -1 is predicted where a logit is NaN
    said, real, counts = said[:, None] == names, real[:, None] == names, _even(weights)
    both, said_alone, real_alone, neither = (_often(mask, counts) for mask in (said & real, said & ~real, real & ~said, ~said & ~real))
    together = jnp.sum(both * neither - said_alone * real_alone)  # all four are counted: a difference would lose a rare class by rounding
    spread = [jnp.sum(_often(mask, counts) * _often(~mask, counts)) for mask in (said, real)]
    varies = (spread[0] > 0) & (spread[1] > 0)
    value = together / jnp.where(varies, jnp.sqrt(spread[0]) * jnp.sqrt(spread[1]), 1)
    return jnp.where(known, jnp.clip(jnp.where(varies, value, 0), -1, 1), jnp.nan)


@_of_steps
def log_loss(predictions: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Mean of -log p, where p is the probability of the true class: softmax of several logits, sigmoid of one.

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), nats, >= 0. It is computed from the logits, so that no probability is rounded to 0 and clipped, as scikit-learn has
      to. NaN where a logit is NaN, or a label is out of range.

    Example:
      >>> print(log_loss(jnp.array([0.0, 0.0]), jnp.array([1, 0])).round(4))
      0.6931
    """
    rows, real = _scores("log_loss", predictions, targets)
    own = jnp.take_along_axis(jax.nn.log_softmax(rows, axis=1), jnp.maximum(real, 0)[:, None], axis=1)[:, 0]
    return weighted_mean("log_loss", jnp.where(real < 0, jnp.nan, -own), weights)


@_of_steps
def calibration_error(predictions: jax.Array, targets: jax.Array, *, bins: int = 15, weights: jax.Array | None = None) -> jax.Array:
    """Expected calibration error: how far the confidence is from the accuracy, in bins of equal width.

    sum_b share_b |accuracy_b - confidence_b|; an example's confidence is the probability of its predicted class, and bin b holds
    the confidences above (b - 1) / bins and up to b / bins

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,).
      targets: labels, shape (examples,) or (examples, 1).
      bins: at least 1.
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), in [0, 1]; NaN where a logit is NaN, or a label is out of range. The bins are those of scikit-learn's
      calibration_curve. The error is biased upwards if bins hold few examples.

    Raises:
      ValueError: bins is below 1.

    Example:
      >>> print(calibration_error(jnp.array([0.0, 0.0, 0.0, 0.0]), jnp.array([0, 0, 0, 1])))
      0.25

    Source: Naeini et al. (2015); Guo et al. (2017).
    """
    bins = check.whole("calibration_error", "bins", bins, 1)
    rows, real = _scores("calibration_error", predictions, targets)
    confidence = jnp.max(jax.nn.softmax(rows, axis=1), axis=1)
    edges = jnp.asarray(np.linspace(0, 1, bins + 1)[1:-1], confidence.dtype)
    place = jnp.sum(confidence[:, None] > edges[None], axis=1, dtype=jnp.int32)
    right = jnp.argmax(rows, axis=1).astype(jnp.int32) == real
    miss = jnp.where(real < 0, jnp.nan, right.astype(confidence.dtype) - confidence)
    counts = _weights("calibration_error", weights, len(rows), miss.dtype)
    inside = place[:, None] == jnp.arange(bins, dtype=jnp.int32)[None]
    sums = _total(jnp.where(inside, miss[:, None], 0), counts)
    return jnp.sum(jnp.abs(sums)) / (len(rows) if counts is None else jnp.sum(counts))


@_of_steps
def roc_auc(predictions: jax.Array, targets: jax.Array, *, average: str = "macro", weights: jax.Array | None = None) -> jax.Array:
    """Area under the ROC curve: the probability that an example of class 1 has a larger logit than one of class 0; a tie counts half.

    With three classes or more, each class is compared with the rest by its softmax probability, and the areas are averaged.

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,). Of two logits, the difference is used.
      targets: labels, shape (examples,) or (examples, 1).
      average: with three classes or more, "macro", their plain mean; or "weighted", by how often each occurs in the targets.
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), in [0, 1]; NaN if a class doesn't occur in the targets, or is the only one, as in scikit-learn, which warns. With
      "weighted", a class that doesn't occur is left out. NaN where a logit is NaN.

    Raises:
      ValueError: average is unknown, or a concrete label is out of range; a traced one gives NaN.

    Example:
      >>> print(roc_auc(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])))
      0.75

    Source: Hanley and McNeil (1982); Provost and Domingos (2000) for several classes.
    """
    return _ranked("roc_auc", _roc_area, predictions, targets, average, weights)


@_of_steps
def average_precision(predictions: jax.Array, targets: jax.Array, *, average: str = "macro", weights: jax.Array | None = None) -> jax.Array:
    """Area under the precision-recall curve, drawn in steps: sum over thresholds of (R_n - R_(n-1)) P_n.

    With three classes or more, each class is compared with the rest by its softmax probability, and the areas are averaged.

    Args:
      predictions: logits, shape (examples, classes), (examples, 1) or (examples,). Of two logits, the difference is used.
      targets: labels, shape (examples,) or (examples, 1).
      average: with three classes or more, "macro", their plain mean; or "weighted", by how often each occurs in the targets.
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), in [0, 1]; 0 for a class that doesn't occur in the targets, as in scikit-learn, which warns. NaN where a logit is NaN.

    Raises:
      ValueError: average is unknown, or a concrete label is out of range; a traced one gives NaN.

    Example:
      >>> print(average_precision(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])).round(4))
      0.8333

    Source: Davis and Goadrich (2006).
    """
    return _ranked("average_precision", _precision_area, predictions, targets, average, weights)


@_of_steps
def mean_squared_error(predictions: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Mean over examples and outputs of (prediction - target)^2.

    Args:
      predictions: shape (examples, *outputs).
      targets: the same shape.
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), squared units of the target.

    Example:
      >>> print(mean_squared_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
      2.0
    """
    predictions, targets = _numbers("mean_squared_error", predictions, targets)
    return weighted_mean("mean_squared_error", (predictions - targets) ** 2, weights)


@_of_steps
def mean_absolute_error(predictions: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Mean over examples and outputs of |prediction - target|.

    Args:
      predictions: shape (examples, *outputs).
      targets: the same shape.
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), units of the target.

    Example:
      >>> print(mean_absolute_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
      1.0
    """
    predictions, targets = _numbers("mean_absolute_error", predictions, targets)
    return weighted_mean("mean_absolute_error", jnp.abs(predictions - targets), weights)


@_of_steps
def median_absolute_error(predictions: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Median over examples of |prediction - target|, averaged over the outputs: a few outliers don't move it.

    Args:
      predictions: shape (examples, *outputs).
      targets: the same shape.
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), units of the target. If exactly half of the weight lies below a gap between two errors, the middle of the gap.

    Example:
      >>> print(median_absolute_error(jnp.array([1.0, 2.0, 90.0]), jnp.array([1.0, 1.0, 1.0])))
      1.0
    """
    predictions, targets = _numbers("median_absolute_error", predictions, targets)
    errors = jnp.abs(predictions - targets)
    counts = _weights("median_absolute_error", weights, len(errors), errors.dtype)
    if counts is None:
        return jnp.mean(jnp.median(errors, axis=0))
    errors, column = jnp.where(counts[:, None] > 0, errors, jnp.inf), jnp.broadcast_to(counts[:, None], errors.shape)
    lined, carried = jax.lax.sort((errors, column.astype(errors.dtype)), dimension=0, num_keys=1)
    below = jnp.cumsum(carried, axis=0)
    half = below[-1] / 2
    low, high = (
        jnp.take_along_axis(lined, jnp.argmax(past, axis=0)[None], axis=0)[0] for past in (below >= half[None], below > half[None])
    )
    missing = jnp.any(jnp.isnan(errors), axis=0) | ~(half > 0)
    return jnp.mean(jnp.where(missing, jnp.nan, (low + high) / 2))


@_of_steps
def r2(predictions: jax.Array, targets: jax.Array, *, multioutput: str = "uniform_average", weights: jax.Array | None = None) -> jax.Array:
    """Coefficient of determination, 1 - residual / total sum of squares, averaged over the outputs.

    Args:
      predictions: shape (examples, *outputs).
      targets: the same shape.
      multioutput: "uniform_average", all outputs count the same; or "variance_weighted", each counts by its total sum of squares, or
        the same if no output varies.
      weights: shape (examples,), >= 0, how much each example counts; None for equal weights.

    Returns:
      Shape (), at most 1. An output whose target doesn't vary counts as 1 if it is predicted exactly, else 0.

    Raises:
      ValueError: multioutput is unknown.

    Example:
      >>> print(r2(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 4.0])).round(4))
      0.7857
    """
    check.one_of("r2", "multioutput", multioutput, ("uniform_average", "variance_weighted"))
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
    varies = jnp.any(targets != first, axis=0) & (total != 0)  # total alone isn't enough: the mean of equal numbers is rounded
    flat = jnp.where(whole > 0, jnp.where(residual == 0, 1, 0).astype(residual.dtype), jnp.nan)
    each = jnp.where(varies, 1 - residual / jnp.where(varies, total, 1), flat)
    if multioutput == "uniform_average":
        return jnp.mean(each)
    spread = jnp.where(jnp.any(varies), jnp.where(varies, total, 0), 1)
    return jnp.sum(each * spread) / jnp.sum(spread)


METRICS: dict[str, Callable[..., jax.Array]] = {
    "accuracy": accuracy,
    "top_k_accuracy": top_k_accuracy,
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "balanced_accuracy": balanced_accuracy,
    "matthews_correlation": matthews_correlation,
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "log_loss": log_loss,
    "calibration_error": calibration_error,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
    "median_absolute_error": median_absolute_error,
    "r2": r2,
}

MODES: dict[str, str] = {name: "min" if name.endswith(("error", "loss")) else "max" for name in METRICS} | {
    "loss": "min",
    "unweighted_loss": "min",
}


def mode_of(where: str, metric: str, mode: str | None) -> str:
    """Whether a small ("min") or a large ("max") value of a metric is good: the given mode, or else the known one of its name.

    Args:
      where: name of the caller, for messages.
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

    It is known for the functions of `METRICS`, under any reported name and with arguments bound by functools.partial, and for
    metrics marked by `metric`.

    Example:
      >>> import functools
      >>> direction(functools.partial(f1, average="binary")), direction(lambda predictions, targets: 0)
      ('max', None)
    """
    name = known_name(metric)
    said = [] if isinstance(metric, str) else [part.mode for part in check.unwrapped(metric) if isinstance(part, DirectedMetric)]
    return next(iter(said), None if name is None else MODES[name])


def check_metric_targets(metric: Metric, outputs: Any, y: Any) -> None:
    """Checks concrete targets, one for each example or real step, against a metric of this module and the model's output shape.

    Raises:
      ValueError: the targets are not labels of the model's classes, or a shape is wrong.
    """
    name = known_name(metric)
    if name is None:
        return
    if is_padded(outputs) and is_padded(y):
        return check_steps(functools.partial(check_metric_targets, metric), outputs, y)
    if is_padded(outputs) or is_padded(y):
        return
    if name in _OF_NUMBERS:
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


_OF_NUMBERS = ("mean_squared_error", "mean_absolute_error", "median_absolute_error", "r2")


def weighted_mean(where: str, values: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Weighted mean over examples, the first axis, and mean over all others, in at least float32; an example of weight 0 may be NaN."""
    values = values.astype(at_least_float32(values.dtype))
    counts = _weights(where, weights, len(values), values.dtype)
    if counts is None:
        return jnp.mean(values)
    each = jnp.mean(values.reshape(len(values), -1), axis=1) if values.ndim > 1 else values
    return _total(each, counts) / jnp.sum(counts)


def known_name(metric: str | Metric) -> str | None:
    """The name of a function in `METRICS`, also of one that is marked or has bound arguments; None if it isn't there."""
    if isinstance(metric, str):
        return metric if metric in METRICS else None
    return next((name for name, known in METRICS.items() if known is check.bare(metric)), None)


def _weights(where: str, weights: jax.Array | None, examples: int, dtype: jnp.dtype | None = None) -> jax.Array | None:
    """Checks the weights and casts them to at least float32, and to at least the dtype of the values that they weigh."""
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
    """Share of the examples for which the mask is true; exactly 1 for all of them, however XLA divides.

    Without weights they are counted in integers, since float32 only counts up to 2^24.
    """
    counts = _weights(where, weights, mask.size)
    if counts is None:
        return jnp.where(jnp.all(mask), 1, jnp.sum(mask.astype(jnp.int32)).astype(jnp.result_type(float)) / mask.size)
    total = jnp.sum(counts)
    return jnp.where(jnp.all(mask | (counts == 0)) & (total > 0), 1, _total(mask, counts) / total)


def _labels(where: str, predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, int]:
    """Predicted labels, -1 where a logit is NaN, and true ones, -2 where the target is not a class, both (examples,); and the
    number of classes."""
    predictions = jnp.asarray(predictions)
    if predictions.ndim not in (1, 2):
        raise ValueError(check.message(where, "predictions must have shape (examples, classes) or (examples,)", predictions.shape))
    single = predictions.ndim == 1 or predictions.shape[1:] == (1,)
    real = _real(where, targets, len(predictions), 1 if single else predictions.shape[1])
    rows = predictions.reshape(len(predictions), -1)
    said = (rows[:, 0] > 0).astype(jnp.int32) if single else jnp.argmax(rows, axis=1).astype(jnp.int32)
    said = jnp.where(jnp.any(jnp.isnan(rows), axis=1), -1, said) if check.is_floating(rows) else said
    return said, real, 2 if single else rows.shape[1]


def _real(where: str, targets: jax.Array, examples: int, classes: int) -> jax.Array:
    """The true labels, shape (examples,), int32; -2 where the target is not a class."""
    targets = jnp.asarray(targets)
    if targets.size != examples:
        raise ValueError(check.message(where, f"targets must have shape ({examples},)", targets.shape, "labels, not one-hot rows"))
    _check_some(where, examples)
    targets = targets.reshape(-1).astype(at_least_float32(targets.dtype) if check.is_floating(targets) else jnp.result_type(float))
    if classes == 1:
        label, known = (targets > 0.5).astype(targets.dtype), (targets == -1) | ((targets >= 0) & (targets <= 1))
    else:
        label, known = targets, (targets >= 0) & (targets < classes) & (targets == jnp.floor(targets))
    return jnp.where(known, label, -2).astype(jnp.int32)


def _check_some(where: str, examples: int) -> None:
    if examples == 0:
        raise ValueError(check.message(where, "there must be at least one example", "none"))


class _Counts(NamedTuple):
    """How often each class occurs, each shape (classes,)."""

    hits: jax.Array  # predicted, and true
    said: jax.Array  # predicted
    real: jax.Array  # true
    known: jax.Array  # shape (), bool: whether every label is a class, and some example has weight


def _counts(where: str, predictions: jax.Array, targets: jax.Array, weights: jax.Array | None) -> _Counts:
    said, real, classes = _labels(where, predictions, targets)
    counts = _weights(where, weights, said.size)
    known = _all_known(where, targets, real, classes, counts)
    names = jnp.arange(classes, dtype=jnp.int32)[None]
    masks = said[:, None] == names, real[:, None] == names
    hits, often, there = (_often(mask, counts) for mask in (masks[0] & masks[1], *masks))
    return _Counts(hits, often, there, known)


def _often(mask: jax.Array, counts: jax.Array | None) -> jax.Array:
    """How often each column of a mask is true; without weights counted in integers, since float32 only counts up to 2^24."""
    dtype = jnp.result_type(float) if counts is None else counts.dtype
    return _total(mask.astype(jnp.int32), counts).astype(dtype)


def _even(weights: jax.Array | None) -> jax.Array | None:
    """The weights scaled so that the largest is 1: their products neither overflow nor vanish."""
    if weights is None:
        return None
    largest = jnp.max(weights)
    return weights / jnp.where(largest > 0, largest, 1)


def _all_known(where: str, targets: jax.Array, real: jax.Array, classes: int, counts: jax.Array | None) -> jax.Array:
    """Whether some example has weight, and the labels of all such examples are classes, shape (), bool. A concrete label that
    isn't raises an error."""
    known = (real >= 0) if counts is None else (real >= 0) | (counts == 0)
    if not check.is_traced(known) and not np.all(known):
        row = int(np.flatnonzero(~np.asarray(known))[0])
        raise ValueError(check.message(where, f"labels must be in [0, {classes - 1}]", f"{jnp.ravel(targets)[row]} in row {row}"))
    return jnp.all(known) if counts is None else jnp.all(known) & jnp.any(counts > 0)


def _where_known(counts: _Counts, value: jax.Array) -> jax.Array:
    return jnp.where(counts.known, value, jnp.nan)


def _scores(where: str, predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A logit for each class, shape (examples, classes), in at least float32, and the true labels, shape (examples,), as
    `_real` returns them. A single logit becomes that of class 1, and class 0 gets 0."""
    predictions = jnp.asarray(predictions)
    _, real, _ = _labels(where, predictions, targets)
    rows = predictions.reshape(len(predictions), -1).astype(wide_dtype(predictions))
    return jnp.concatenate([jnp.zeros_like(rows), rows], axis=1) if rows.shape[1] == 1 else rows, real


_Area: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (scores, weights of a class's examples, of the others) -> area


def _ranked(where: str, area: _Area, predictions: jax.Array, targets: jax.Array, average: str, weights: jax.Array | None) -> jax.Array:
    """An area under a curve, averaged over the classes if there are more than two."""
    check.one_of(where, "average", average, ("macro", "weighted"))
    rows, real = _scores(where, predictions, targets)
    classes = rows.shape[1]
    counts = _even(_weights(where, weights, len(rows), rows.dtype))
    known = _all_known(where, targets, real, classes, counts)
    weights = jnp.ones(len(rows), rows.dtype) if counts is None else counts
    broken = jnp.any(jnp.any(jnp.isnan(rows), axis=1) & (weights > 0))
    scores = rows[:, 1:] - rows[:, :1] if classes == 2 else jax.nn.log_softmax(rows, axis=1)
    names = jnp.arange(1 if classes == 2 else 0, classes, dtype=jnp.int32)
    scores = jnp.where((weights > 0)[:, None], scores, 0).astype(weights.dtype)
    own = (real[:, None] == names[None]).astype(weights.dtype) * weights[:, None]
    each = jax.vmap(area, 1)(scores, own, weights[:, None] - own)
    if average == "weighted" and classes > 2:
        often = _total(own, None)
        value = jnp.sum(jnp.where(often > 0, each * often, 0)) / jnp.sum(often)
    else:
        value = jnp.mean(each)
    return jnp.where(known & ~broken, value, jnp.nan)


def _roc_area(scores: jax.Array, right: jax.Array, wrong: jax.Array) -> jax.Array:
    """Mean over the class's examples of the share of the others that have a lower score; one with the same score counts half."""
    scores, right, wrong = jax.lax.sort((scores, right, wrong), num_keys=1)
    upto = jnp.cumsum(wrong)
    starts, ends = _groups(scores)
    below = jax.lax.cummax(jnp.where(starts, upto - wrong, 0))
    through = jax.lax.cummin(jnp.where(ends, upto, jnp.inf), reverse=True)
    return jnp.sum(right * (below + through)) / (2 * jnp.sum(right)) / upto[-1]


def _precision_area(scores: jax.Array, right: jax.Array, wrong: jax.Array) -> jax.Array:
    """Mean over the class's examples of the precision with their score as the threshold."""
    downward, right, wrong = jax.lax.sort((-scores, right, wrong), num_keys=1)
    _, ends = _groups(downward)
    through = [jax.lax.cummin(jnp.where(ends, jnp.cumsum(part), jnp.inf), reverse=True) for part in (right, wrong)]
    return _ratio(jnp.sum(right * _ratio(through[0], through[0] + through[1])), jnp.sum(right))


def _groups(lined: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which of the sorted numbers begins a group of equal ones, and which ends one."""
    differs, edge = lined[1:] != lined[:-1], jnp.ones(1, bool)
    return jnp.concatenate([edge, differs]), jnp.concatenate([differs, edge])


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)


def _averaged(where: str, part: jax.Array, whole: jax.Array, counts: _Counts, average: str) -> jax.Array:
    """Averages part / whole, one ratio for each class, to one number."""
    check.one_of(where, "average", average, ("macro", "binary", "micro", "weighted"))
    scores = _ratio(part, whole)
    if average == "binary":
        if scores.shape[0] != 2:
            raise ValueError(
                check.message(where, "average='binary' needs two classes", scores.shape[0], "average='macro' takes any number")
            )
        return _where_known(counts, scores[1])
    if average == "micro":
        return _where_known(counts, _ratio(jnp.sum(part), jnp.sum(whole)))
    if average == "weighted":
        return _where_known(counts, jnp.sum(scores * counts.real) / jnp.sum(counts.real))
    return _where_known(counts, _mean_where(counts.said + counts.real > 0, scores))


def _mean_where(mask: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.sum(mask.astype(values.dtype))


def _numbers(where: str, predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as (examples, outputs), in at least float32: neither is rounded to the other's dtype."""
    predictions, targets = jnp.asarray(predictions), jnp.asarray(targets)
    if predictions.shape != targets.shape and not predictions.size == targets.size == predictions.shape[0]:
        raise ValueError(check.message(where, f"targets must have the predictions' shape {predictions.shape}", targets.shape))
    dtype = wide_dtype(predictions, targets)
    examples = predictions.shape[0]
    _check_some(where, examples)
    return predictions.reshape(examples, -1).astype(dtype), targets.reshape(examples, -1).astype(dtype)
