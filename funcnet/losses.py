"""Losses: (prediction, target) -> scalar, for one example; with several outputs, the mean over them.

Classification losses take logits, the net's outputs before any sigmoid or softmax. A single output may have its axis or not:
a prediction of shape (1,) goes with a target of shape (). A loss is computed in at least float32, and rounded to the
prediction's dtype at the end; in training and evaluation, predictions are first cast to at least float32.

For a `Padded` prediction, with an output for each step, a loss of this module is the mean over an example's real steps, each compared
with the target of that step. So every example counts the same, however long it is, and a weight belongs to an example as always. The
target is an array, (time, *target), whose entries after the length are ignored, or a `Padded` of the same length.

A loss of your own may also
- have a parameter `key=None`: in training it gets a different key for each example and step, in evaluation none;
- take a pytree of predictions, or a `Padded`, if the model returns that;
- see the whole batch, if `batch_loss` marks it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.batching import examples_last, on_batch
from funcnet.padded import Padded, agreed, check_steps, checked, count, filled, is_padded, map_values, real
from funcnet.tree import Scalar, at_least_float32, root, wide_dtype

P = ParamSpec("P")


def both(batch_fn: Callable[P, jax.Array]) -> Callable[P, jax.Array]:
    """Turns a loss written for a batch, examples last, into a loss of one example; for sequences, the mean over their real steps."""

    @examples_last(argnums=(0, 1), padded=True)
    @functools.wraps(batch_fn)
    def loss(*args: P.args, **kwargs: P.kwargs) -> jax.Array:
        if not any(map(is_padded, args)):
            return batch_fn(*args, **kwargs)
        return _over_steps(batch_fn, *args, **kwargs)

    return loss


def _over_steps(batch_fn: Callable[..., jax.Array], prediction: Any, target: Any, *others: Any, **named: Any) -> jax.Array:
    """The mean of a loss over the real steps of each example, shape (examples,). The loss takes every step as an example."""
    where = batch_fn.__name__
    if not is_padded(prediction):
        fix = "end the model with a layer for each step, such as dense(width, leading_axes=1)"
        raise TypeError(check.message(where, "a Padded target needs a Padded prediction", type(prediction).__name__, fix))
    prediction = checked(where, prediction)
    target = checked(where, target) if is_padded(target) else Padded(jnp.asarray(target), prediction.length)
    time, examples = prediction.values.shape[0], prediction.values.shape[-1]
    if target.values.ndim < 2 or target.values.shape[0] != time:
        rule = f"target must have one entry for each of the {time} steps, shape ({time}, ...)"
        raise ValueError(check.message(where, rule, target.values.shape[:-1]))

    def by_step(x: Padded) -> jax.Array:
        values = jnp.moveaxis(filled(x), 0, -2)
        return values.reshape(*values.shape[:-2], time * examples)

    each = batch_fn(by_step(prediction), by_step(target), *others, **named).reshape(time, examples)
    wide = each.astype(at_least_float32(each.dtype))
    total = jnp.sum(jnp.where(real(Padded(each, prediction.length)), wide, jnp.zeros((), wide.dtype)), axis=0)
    mean = total / count(prediction).astype(wide.dtype)
    values: jax.Array = agreed(where, [prediction, target], mean).values
    return values.astype(each.dtype)


@dataclasses.dataclass(frozen=True)
class BatchLoss(check.Marked):
    """A loss that sees a whole batch; `batch_loss` makes one."""


def batch_loss(fn: Callable[..., jax.Array]) -> BatchLoss:
    """Marks a loss that needs the whole batch, such as a contrastive loss or a surrogate for an area under a curve.

    In `training`, the loss of a step is computed on its minibatch, and a reported loss on the whole set at once. So it should be a
    mean, and what it computes for all pairs of examples must fit in memory. A minibatch may hold a single class.

    Args:
      fn: (predictions, targets) -> scalar, with the examples on the first axis of both; written in jax.numpy. With a parameter
        `weights=None`, shape (examples,), it also works with `num_examples` and weighted data, and must ignore examples of
        weight 0; with `key=None` it gets the step's key.

    Returns:
      The same function, marked.

    Raises:
      TypeError: fn isn't a function.

    Example:
      >>> def misordered(predictions, targets):  # a smooth share of the pairs whose order is wrong
      ...     margins = predictions[:, None, 0] - predictions[None, :, 0]
      ...     pairs = (targets[:, None] > targets[None]).astype(margins.dtype)
      ...     return jnp.sum(pairs * jax.nn.sigmoid(-margins)) / jnp.maximum(jnp.sum(pairs), 1)
      >>> print(batch_loss(misordered)(jnp.array([[1.0], [1.0]]), jnp.array([0, 1])))
      0.5
    """
    if not callable(fn):
        raise TypeError(check.message("batch_loss", "fn must be a function of (predictions, targets)", repr(fn)))
    return BatchLoss(fn)


def _paired(where: str, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as (outputs, examples), in at least float32: neither is rounded to the other's dtype."""
    examples = prediction.shape[-1]
    if prediction.shape != target.shape and not prediction.size == target.size == examples:
        fix = "integer labels go with cross_entropy or hinge" if target.ndim < prediction.ndim else ""
        raise ValueError(check.message(where, f"target must have the prediction's shape {prediction.shape[:-1]}", target.shape[:-1], fix))
    dtype = wide_dtype(prediction, target)
    return prediction.reshape(-1, examples).astype(dtype), target.reshape(-1, examples).astype(dtype)


def _mean(losses: jax.Array, prediction: jax.Array) -> jax.Array:
    """The mean over the outputs, in the prediction's dtype."""
    return jnp.mean(losses, axis=0).astype(_dtype(prediction))


def _dtype(prediction: jax.Array) -> jnp.dtype:
    return prediction.dtype if jnp.issubdtype(prediction.dtype, jnp.floating) else jnp.result_type(float)


@both
def squared_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean of (prediction - target)^2.

    Args:
      prediction: shape (*outputs,).
      target: the same shape.

    Returns:
      Shape (), in the prediction's dtype.

    Example:
      >>> print(squared_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
      2.0
    """
    wide, target = _paired("squared_error", prediction, target)
    return _mean((wide - target) ** 2, prediction)


@both
def absolute_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean of |prediction - target|.

    Args:
      prediction: shape (*outputs,).
      target: the same shape.

    Returns:
      Shape (), in the prediction's dtype.

    Example:
      >>> print(absolute_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
      1.0
    """
    wide, target = _paired("absolute_error", prediction, target)
    error = wide - target
    return _mean(error * jnp.sign(error), prediction)  # JAX's abs has slope 1 at zero: a perfect fit would keep moving


@both
def huber(prediction: jax.Array, target: jax.Array, delta: Scalar = 1.0) -> jax.Array:
    """Huber loss, squared near zero and absolute far away: mean of e^2 / 2 for |e| <= delta, else delta (|e| - delta / 2).

    Args:
      prediction: shape (*outputs,).
      target: the same shape.
      delta: shape (), the error at which the square ends, in units of the target, > 0; may be traced.

    Returns:
      Shape (), in the prediction's dtype.

    Raises:
      ValueError: delta is not positive.

    Example:
      >>> print(huber(jnp.array([0.5, 3.0]), jnp.zeros(2)))
      1.3125

    Source: Huber (1964).
    """
    check.in_range("huber", "delta", delta, 0, ends="()")
    wide, target = _paired("huber", prediction, target)
    delta = jnp.asarray(delta, wide.dtype)
    error = jnp.abs(wide - target)
    near = jnp.minimum(error, delta)
    return _mean(near * near / 2 + delta * (error - near), prediction)


@both
def cross_entropy(logits: jax.Array, target: jax.Array, *, label_smoothing: Scalar = 0.0) -> jax.Array:
    """Cross-entropy with a label or a distribution p over the classes: -sum_c p_c log softmax(logits)_c, the mean over positions.

    With label smoothing s, p is replaced with (1 - s) p + s / classes.

    Args:
      logits: shape (*positions, classes), such as (classes,) or (time, classes).
      target: integer labels, shape (*positions,), from 0 to classes - 1; or distributions that sum to 1, shape
        (*positions, classes).
      label_smoothing: shape (), in [0, 1]; may be traced.

    Returns:
      Shape (), nats, in the logits' dtype; NaN for a label out of range.

    Raises:
      TypeError: a single label isn't an integer.
      ValueError: the shapes don't fit, or label_smoothing is out of range.

    Example:
      >>> print(cross_entropy(jnp.array([0.0, 0.0]), jnp.array(1)).round(4))
      0.6931
      >>> print(cross_entropy(jnp.array([4.0, 0.0]), jnp.array(0), label_smoothing=0.1).round(4))
      0.2181

    Source: Szegedy et al. (2016) for label smoothing.
    """
    check.in_range("cross_entropy", "label_smoothing", label_smoothing, 0, 1, ends="[]")
    if logits.ndim < 2:
        raise ValueError(check.message("cross_entropy", "logits must have shape (classes,)", logits.shape[:-1]))
    if target.ndim == logits.ndim:
        check.shape_is("cross_entropy", "a distribution", target.shape[:-1], logits.shape[:-1])
        dtype = wide_dtype(logits, target)
        target, log_p = target.astype(dtype), jax.nn.log_softmax(logits.astype(dtype), axis=-2)
        likely = jnp.where((target == 0) & (log_p == -np.inf), jnp.zeros((), dtype), log_p)  # 0 log 0 is 0
        loss = -jnp.sum(target * likely, axis=-2)
    else:
        check.shape_is("cross_entropy", "labels", target.shape[:-1], logits.shape[:-2], fix=_POSITIONS if logits.ndim > 2 else "")
        log_p = jax.nn.log_softmax(logits.astype(wide_dtype(logits)), axis=-2)
        chosen = _chosen("cross_entropy", target, logits.shape[-2])
        loss = -jnp.sum(jnp.where(chosen, log_p, jnp.zeros((), log_p.dtype)), axis=-2) + _nan_where_none(chosen, log_p.dtype)
    if check.is_traced(label_smoothing) or float(label_smoothing) != 0:
        smoothing, even = jnp.asarray(label_smoothing, loss.dtype), -jnp.mean(log_p, axis=-2)
        even = jnp.where((smoothing == 0) & jnp.isinf(even), jnp.zeros((), loss.dtype), even)
        loss = (1 - smoothing) * loss + smoothing * even
    return _over_positions(loss, logits)


_POSITIONS = "a label for each position; for a batch, use jax.vmap"


def _over_positions(losses: jax.Array, logits: jax.Array) -> jax.Array:
    """The mean over all axes except the last, the examples, in the logits' dtype."""
    return (jnp.mean(losses.reshape(-1, losses.shape[-1]), axis=0) if losses.ndim > 1 else losses).astype(_dtype(logits))


@both
def kl_divergence(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence from a distribution p over the classes: sum_c p_c (log p_c - log softmax(logits)_c).

    With several positions, it is the mean over them. It is `cross_entropy` minus the entropy of the target: 0 for a perfect
    prediction, and with the same gradients.

    Args:
      logits: shape (*positions, classes).
      target: distributions that sum to 1, the same shape.

    Returns:
      Shape (), nats, in the logits' dtype; NaN where a target is negative.

    Example:
      >>> print(kl_divergence(jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])).round(4))
      0.6931

    Source: Kullback and Leibler (1951).
    """
    check.shape_is("kl_divergence", "a distribution", target.shape[:-1], logits.shape[:-1])
    if logits.ndim < 2:
        raise ValueError(check.message("kl_divergence", "logits must have shape (classes,)", logits.shape[:-1]))
    dtype = wide_dtype(logits, target)
    target, log_p = target.astype(dtype), jax.nn.log_softmax(logits.astype(dtype), axis=-2)
    there = target > 0  # 0 log 0 is 0
    ratio = jnp.log(jnp.where(there, target, jnp.ones((), dtype))) - jnp.where(there, log_p, jnp.zeros((), dtype))
    return _over_positions(jnp.sum(_nan_unless(target >= 0, target * ratio), axis=-2), logits)


@both
def poisson(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Poisson loss: mean of exp(prediction) - target * prediction, where the prediction is the log of the rate of events.

    This is the negative log likelihood of a count, without the term log(target!), which doesn't depend on the prediction.

    Args:
      prediction: shape (*outputs,), log rates.
      target: the same shape, counts, >= 0.

    Returns:
      Shape (), nats, in the prediction's dtype; NaN for a negative target.

    Example:
      >>> print(poisson(jnp.array([0.0, 0.0]), jnp.array([3.0, 0.0])))
      1.0
    """
    wide, target = _paired("poisson", prediction, target)
    return _mean(_nan_unless(target >= 0, jnp.exp(wide) - target * wide), prediction)


@both
def cosine_distance(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """1 minus the cosine of the angle between prediction and target: 0 for the same direction, 2 for the opposite one.

    It is computed as |p / |p| - t / |t||^2 / 2, which stays accurate for small angles.

    Args:
      prediction: shape (*outputs,), taken as one vector.
      target: the same shape.

    Returns:
      Shape (), in [0, 2], in the prediction's dtype; 1, with a gradient of zero, if one of them is all zeros.

    Example:
      >>> print(cosine_distance(jnp.array([2.0, 0.0]), jnp.array([0.0, 0.5])))
      1.0
    """
    wide, target = _paired("cosine_distance", prediction, target)
    (one, there), (other, real) = _direction(wide), _direction(target)
    distance = jnp.sum((one - other) ** 2, axis=0) / 2
    return jnp.where(there & real, distance, jnp.ones((), distance.dtype)).astype(_dtype(prediction))


def _direction(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scales each vector, along axis 0, to length 1; also returns whether it has a direction, which a vector of zeros doesn't."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=0))  # a direction doesn't change with the length
    there = largest != 0
    vectors = vectors / jnp.where(there, largest, jnp.ones((), largest.dtype))[None]
    length = root(jnp.sum(vectors * vectors, axis=0))
    return vectors / jnp.where(there, length, jnp.ones((), length.dtype))[None], there


@both
def binary_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Binary cross-entropy: mean of -t log sigmoid(logit) - (1 - t) log(1 - sigmoid(logit)).

    Args:
      logits: shape (*outputs,).
      target: the same shape, probabilities in [0, 1]: a label is 0 or 1.

    Returns:
      Shape (), nats, in the logits' dtype; NaN for a target out of range.

    Example:
      >>> print(binary_cross_entropy(jnp.array(0.0), jnp.array(1)).round(4))
      0.6931
    """
    wide, target = _paired("binary_cross_entropy", logits, target)
    return _mean(_nan_unless(jnp.abs(target - 0.5) <= 0.5 + _SLACK, _binary(wide, target)), logits)


@jax.custom_jvp
def _binary(logit: jax.Array, target: jax.Array) -> jax.Array:
    """-t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)), in a form that is accurate in both tails."""
    return jnp.maximum(logit, 0) - target * logit + jnp.log1p(jnp.exp(-jnp.abs(logit)))


@_binary.defjvp
def _binary_slope(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    (logit, target), (along_logit, along_target) = primals, tangents
    slope = (1 - target) * jax.nn.sigmoid(logit) - target * jax.nn.sigmoid(-logit)
    return _binary(logit, target), slope * along_logit - logit * along_target


@both
def focal(logits: jax.Array, target: jax.Array, gamma: Scalar = 2.0, alpha: Scalar | None = None) -> jax.Array:
    """Focal loss: -(1 - p)^gamma log p, where p is the probability of the true class, so that easy examples count little.

    For an integer label among several classes, p is its softmax probability. For targets of the logits' shape, each 0 or 1,
    p is a sigmoid's, and the loss is the mean. gamma = 0 gives `cross_entropy` and `binary_cross_entropy`.

    Args:
      logits: shape (classes,) or (*outputs,).
      target: an integer label, shape (), from 0 to classes - 1; or 0s and 1s in the logits' shape.
      gamma: shape (), >= 0; may be traced.
      alpha: shape (), in [0, 1], the weight of a target of 1; a target of 0 has 1 - alpha. None for no weights. May be traced.

    Returns:
      Shape (), nats, in the logits' dtype; NaN for a label out of range, or a target that is neither 0 nor 1.

    Raises:
      ValueError: gamma or alpha is out of range, or alpha is given with a label among several classes.

    Example:
      >>> print(focal(jnp.array([0.0, 0.0]), jnp.array(1)).round(4), focal(jnp.array(0.0), jnp.array(1), alpha=0.25).round(4))
      0.1733 0.0433

    Source: Lin et al. (2017).
    """
    check.in_range("focal", "gamma", gamma, 0)
    if alpha is not None:
        check.in_range("focal", "alpha", alpha, 0, 1, ends="[]")
    if target.ndim == 1 and logits.ndim == 2 and logits.shape[0] > 1:
        if alpha is not None:
            raise ValueError(check.message("focal", "alpha must be None for a label among several classes", alpha, "weigh the examples"))
        wide, chosen = logits.astype(wide_dtype(logits)), _chosen("focal", target, logits.shape[0])
        own = jnp.sum(jnp.where(chosen, wide, jnp.zeros((), wide.dtype)), axis=0)
        others = jax.nn.logsumexp(jnp.where(chosen, np.asarray(-np.inf, wide.dtype), wide), axis=0)
        return (_focal(own - others, gamma) + _nan_where_none(chosen, wide.dtype)).astype(_dtype(logits))
    wide, target = _paired("focal", logits, target)
    each = _focal((2 * target - 1) * wide, gamma)
    if alpha is not None:
        share = jnp.asarray(alpha, each.dtype)
        each = each * (target * share + (1 - target) * (1 - share))
    return _mean(_nan_unless(jnp.abs(jnp.abs(target - 0.5) - 0.5) <= _SLACK, each), logits)


def _focal(margin: jax.Array, gamma: Scalar) -> jax.Array:
    """-(1 - p)^gamma log p for p = sigmoid(margin), accurate in both tails."""
    zero, one = jnp.zeros((), margin.dtype), jnp.ones((), margin.dtype)
    return jnp.exp(-jnp.asarray(gamma, margin.dtype) * _binary(margin, zero)) * _binary(margin, one)


@both
def hinge(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Hinge loss: how far the score falls short of a margin of 1.

    For an integer label among several classes, max(0, 1 + largest score of the other classes - score of the label); for
    targets of the prediction's shape, each -1 or 1, the mean of max(0, 1 - target * prediction).

    Args:
      prediction: scores, shape (classes,) or (*outputs,).
      target: an integer label, shape (), from 0 to classes - 1; or -1s and 1s in the prediction's shape.

    Returns:
      Shape (), in the prediction's dtype; NaN for a label out of range, or a target that is neither -1 nor 1.

    Example:
      >>> print(hinge(jnp.array([2.0, 1.5]), jnp.array(0)), hinge(jnp.array([0.25]), jnp.array([-1.0])))
      0.5 1.25

    Source: Crammer and Singer (2001) for several classes.
    """
    if target.ndim == 1 and prediction.ndim == 2 and prediction.shape[0] > 1:
        wide, chosen = prediction.astype(wide_dtype(prediction)), _chosen("hinge", target, prediction.shape[0])
        right = jnp.sum(jnp.where(chosen, wide, jnp.zeros((), wide.dtype)), axis=0)
        others = jnp.max(jnp.where(chosen, np.asarray(-np.inf, wide.dtype), wide), axis=0)
        return (jax.nn.relu(1 + others - right) + _nan_where_none(chosen, wide.dtype)).astype(_dtype(prediction))
    wide, target = _paired("hinge", prediction, target)
    return _mean(_nan_unless(jnp.abs(jnp.abs(target) - 1) <= _SLACK, jax.nn.relu(1 - target * wide)), prediction)


def _chosen(where: str, labels: jax.Array, classes: int) -> jax.Array:
    """Mask of each label's class, shape (*positions, classes, examples): a masked sum is faster than indexing, mainly under vmap."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(check.message(where, "a label must be an integer", labels.dtype, "or give a distribution over the classes"))
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels  # 300 classes are more than a uint8 can count
    shape = (*labels.shape[:-1], classes, labels.shape[-1])
    return jax.lax.broadcasted_iota(labels.dtype, shape, len(shape) - 2) == labels[..., None, :]


_SLACK = 1e-3  # how far outside its range a target may be, because of rounding


def _nan_unless(good: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.where(good, values, np.asarray(np.nan, values.dtype))  # a NumPy NaN, since jax_debug_nans raises for one made by JAX


def _nan_where_none(chosen: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return _nan_unless(jnp.any(chosen, axis=-2), jnp.zeros((), dtype))


def _check_labels(where: str, outputs: tuple[int, ...], y: np.ndarray) -> None:
    """Checks labels, one for each example or for each position: they must be integers from 0 to classes - 1."""
    classes = outputs[-1] if outputs else 1
    if not np.issubdtype(y.dtype, np.integer):
        raise TypeError(
            check.message(where, "labels must be integers", y.dtype, "such as y.astype(int); or give a distribution over the classes")
        )
    bad = np.argwhere((y < 0) | (y >= classes))
    if bad.size:
        rule = f"labels must be in [0, {classes - 1}], as the model has {classes} outputs"
        raise ValueError(
            check.message(
                where, rule, f"{y[tuple(bad[0])]} in row {bad[0][0]}", "number the classes from 0, or widen the model's last layer"
            )
        )


def _check_classes(outputs: tuple[int, ...], y: np.ndarray) -> None:
    if y.ndim == max(1, len(outputs)):
        check.shape_is("cross_entropy", "each row of y", y.shape[1:], outputs[:-1], fix="a label for each position")
        _check_labels("cross_entropy", outputs, y)
    else:
        _check_distributions("cross_entropy", outputs, y)


def _check_distributions(where: str, outputs: tuple[int, ...], y: np.ndarray) -> None:
    check.shape_is(where, "each row of y", y.shape[1:], outputs)
    if np.any(y < 0) or not np.allclose(y.sum(-1), 1, atol=1e-3):
        raise ValueError(check.message(where, "each row of y must be a distribution", "one that is negative or doesn't sum to 1"))


def _check_each(
    where: str,
    rule: str,
    good: Callable[[np.ndarray], np.ndarray],
    outputs: tuple[int, ...],
    y: np.ndarray,
    *,
    fix: str = "",
    labels: bool = False,
) -> None:
    """Checks that each number of the targets is good or, if the loss takes labels too, that each target is a label."""
    if labels and y.ndim == 1 and outputs not in ((), (1,)):
        return _check_labels(where, outputs, y)
    _check_targets(where, outputs, y)
    bad = np.argwhere(~good(y))
    if bad.size:
        raise ValueError(check.message(where, f"targets must be {rule}", f"{y[tuple(bad[0])]} in row {bad[0][0]}", fix))


def _check_targets(where: str, outputs: tuple[int, ...], y: np.ndarray) -> None:
    if y.shape[1:] != outputs and not {y.shape[1:], outputs} <= {(), (1,)}:
        raise ValueError(check.message(where, f"each target must have the shape of the model's output, {outputs}", y.shape[1:]))


def each_loss(loss: Callable[..., jax.Array], prediction: Any, target: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """The loss of each example, shape (examples,), from predictions cast to at least float32; both arguments have the examples last.

    Args:
      prediction: an array, or a pytree of arrays.
      key: in training, for a loss that takes one; it is split so that each example gets a different key.

    Raises:
      TypeError, ValueError: the loss doesn't take one example, or doesn't give one number.
    """
    if is_known(loss) and not hasattr(prediction, "shape") and not is_padded(prediction):
        fix = "a function of your own can pick one of them"
        raise TypeError(check.message("training", "a loss of LOSSES takes one array of predictions", type(prediction).__name__, fix))
    prediction = _widened(prediction)
    examples = jax.tree.leaves(target)[0].shape[-1]
    named: dict[str, Any] = {} if key is None else {"key": key}
    try:
        values = on_batch(loss, argnums=(0, 1))(prediction, target, **named)
    except jax.errors.TracerArrayConversionError as error:
        said = f"one that turns its arguments into NumPy arrays ({type(error).__name__})"
        raise TypeError(check.message("training", "a loss must be written in jax.numpy", said, "such as those of LOSSES")) from error
    except jax.errors.JAXTypeError:
        raise
    except (TypeError, ValueError, IndexError) as error:
        if is_known(loss):
            raise
        shapes, goal = (jax.tree.map(lambda leaf: leaf.shape[:-1], part) for part in (prediction, target))
        one = f"a prediction of shape {shapes} and a target of shape {goal}"
        text = check.message("training", f"a loss must take one example, {one}", f"{type(error).__name__}: {error}", _ONE_EXAMPLE)
        raise (TypeError if isinstance(error, TypeError) else ValueError)(text) from error
    if getattr(values, "shape", None) != (examples,):
        got = f"shape {values.shape[:-1]}" if isinstance(values, jax.Array) else type(values).__name__
        raise ValueError(check.message("training", "a loss must give one number for one example", got, _ONE_EXAMPLE))
    return values


def whole_loss(
    loss: Callable[..., jax.Array], predictions: Any, targets: jax.Array, weights: jax.Array | None, key: jax.Array | None
) -> jax.Array:
    """The loss of a batch, shape (), from predictions cast to at least float32; both arguments have the examples first.

    Args:
      loss: a loss for which `sees_batch` is true.
      key: in training, for a loss that takes one.

    Raises:
      TypeError: examples are weighted, and the loss takes no weights.
      ValueError: the loss doesn't give one number.
    """
    if weights is not None and "weights" not in check.parameters(loss):
        rule = "a loss that sees the batch must take weights=None where examples are weighted or only num_examples of them are seen"
        raise TypeError(check.message("training", rule, f"{getattr(check.bare(loss), '__name__', 'one')} without"))
    named = {name: value for name, value in (("weights", weights), ("key", key)) if value is not None}
    value = loss(_widened(predictions), targets, **named)
    if getattr(value, "shape", None) != ():
        got = f"shape {value.shape}" if isinstance(value, jax.Array) else type(value).__name__
        raise ValueError(check.message("training", "a loss that sees the batch must give one number for it", got, "such as the mean"))
    return value.astype(at_least_float32(value.dtype))


def sees_batch(loss: Callable[..., jax.Array]) -> bool:
    """Whether a loss is marked by `batch_loss`, also with settings bound by functools.partial."""
    return any(isinstance(part, BatchLoss) for part in check.unwrapped(loss))


def _widened(predictions: Any) -> Any:
    return map_values(lambda leaf: leaf.astype(wide_dtype(leaf)), predictions)


_ONE_EXAMPLE = "a loss sees one example, without a batch axis; the mean over the batch is taken for it"


def check_targets(loss: Callable[..., jax.Array], outputs: Any, y: Any) -> None:
    """Checks concrete targets, one for each example, against a loss and the model's output shape.

    Args:
      loss: a loss of this module or any other, which may have a function `check_targets(outputs, y)` as an attribute. A loss
        without, such as a wrapped one, is tried on every target with a prediction of 0.5. If that gives NaN for some targets, but
        not for all, or not for targets of 0 or 1, the data is wrong.
      outputs: shape of one prediction; for a `Padded` prediction `Padded((time, *outputs), ())`, and then only losses of this module
        and those with such an attribute are checked.
      y: shape (examples, *target), or a `Padded` of them.

    Raises:
      ValueError: targets are out of range, or a shape is wrong.
      TypeError: labels are not integers, or the loss doesn't take one example.
    """
    if is_padded(outputs) and is_padded(y) and is_known(loss):
        return check_steps(functools.partial(check_targets, loss), outputs, y)
    if is_known(loss) and (is_padded(outputs) or is_padded(y)):
        return None
    own = next((checked for known, checked in _CHECKS if known is check.bare(loss)), None)
    if own is None:  # an attribute that functools.wraps has copied is not the wrapper's
        parts = (part for part in check.unwrapped(loss) if hasattr(part, "check_targets") and not hasattr(part, "__wrapped__"))
        own = next((part.check_targets for part in parts), None)
    if own is not None:
        own(outputs, y)
    elif not sees_batch(loss) and not is_padded(outputs) and not is_padded(y):  # a loss of a batch doesn't show which target is wrong
        _try_targets(loss, outputs, y)


def is_known(loss: Callable[..., jax.Array]) -> bool:
    """Whether a loss is of this module, also with settings bound by functools.partial."""
    return any(known is check.bare(loss) for known, _ in _CHECKS)


def _try_targets(loss: Callable[..., jax.Array], outputs: tuple[int, ...], y: np.ndarray) -> None:
    size = max(1, _TRIED_AT_ONCE // max(1, math.prod(outputs), y[0].size))
    usual = np.stack([np.zeros_like(y[0]), np.ones_like(y[0])])
    bad = []
    for rows in [usual, *(y[start : start + size] for start in range(0, len(y), size))]:
        missing = _nan_at_a_half(loss, outputs, rows)
        if missing is None:  # a hyperparameter that the loss depends on is traced
            return
        bad.append(missing)
    known, tried = bad[0], np.concatenate(bad[1:])
    if tried.any() and not (known.all() and tried.all()):
        row = int(np.argmax(tried))
        name = getattr(loss, "__name__", type(loss).__name__)
        rule = f"the loss {name} must be a number for every target, also at a prediction of 0.5"
        raise ValueError(check.message("training", rule, f"NaN for the target {y[row]} in row {row}", "is it in the loss's range?"))


_TRIED_AT_ONCE = 2**22  # numbers


def _nan_at_a_half(loss: Callable[..., jax.Array], outputs: tuple[int, ...], y: np.ndarray) -> np.ndarray | None:
    with jax.ensure_compile_time_eval(), jax.debug_nans(False):
        prediction = jnp.full((*outputs, len(y)), 0.5, jnp.result_type(float))
        try:
            missing: np.ndarray = np.isnan(np.asarray(each_loss(loss, prediction, jnp.moveaxis(jnp.asarray(y), 0, -1))))
            return missing
        except (jax.errors.JAXTypeError, jax.errors.UnexpectedTracerError):
            return None


_CHECKS: list[tuple[Callable[..., jax.Array], Callable[[tuple[int, ...], np.ndarray], None]]] = [
    *((loss, functools.partial(_check_targets, loss.__name__)) for loss in (squared_error, absolute_error, huber, cosine_distance)),
    (cross_entropy, _check_classes),
    (binary_cross_entropy, functools.partial(_check_each, "binary_cross_entropy", "in [0, 1]", lambda y: (y >= 0) & (y <= 1))),
    (hinge, functools.partial(_check_each, "hinge", "-1 or 1", lambda y: np.abs(y) == 1, fix="such as 2 * y - 1", labels=True)),
    (focal, functools.partial(_check_each, "focal", "0 or 1", lambda y: (y == 0) | (y == 1), labels=True)),
    (kl_divergence, functools.partial(_check_distributions, "kl_divergence")),
    (poisson, functools.partial(_check_each, "poisson", "at least 0", lambda y: y >= 0)),
]

LOSSES: dict[str, Callable[..., jax.Array]] = {
    "squared_error": squared_error,
    "absolute_error": absolute_error,
    "huber": huber,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "hinge": hinge,
    "focal": focal,
    "kl_divergence": kl_divergence,
    "poisson": poisson,
    "cosine_distance": cosine_distance,
}
