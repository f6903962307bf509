"""Inspecting a model: the gradient norm of each layer, predictions, and the importance of each feature."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.data import AnyDataset, Dataset, WeightedDataset, as_examples
from funcnet.layers import Layer
from funcnet.leaves import Where, chosen, is_weight, kept
from funcnet.losses import LOSSES
from funcnet.padded import is_padded
from funcnet.penalties import Penalty
from funcnet.train import Training, as_training, penalized
from funcnet.tree import Params, PyTree, at_least_float32, is_several


def gradient_norms(
    model: Layer,
    params: Params,
    loss: str | Callable[..., jax.Array],
    batch: AnyDataset,
    *,
    penalty: Penalty | None = None,
    key: jax.Array | None = None,
    where: Where = is_weight,
) -> jax.Array:
    """Euclidean norm of the gradient with respect to each layer's weights.

    norm_l = |d objective / d weights_l|

    Norms that shrink from the output to the input show vanishing gradients; norms that grow show exploding ones.

    Args:
      model: a `Layer`; the layers inside a `serial`, or any other that keeps its params in a list, count one by one.
      params: the model's parameters.
      loss: (prediction, target) -> scalar, for one example, or a name in `LOSSES`.
      batch: `Dataset(x, y)`; the objective is the loss's mean over it, plus the penalty.
      penalty: params -> scalar.
      key: a JAX random key, with which the model is in training mode (dropout is on); None for evaluation.
      where: leaf or (path, leaf) -> bool, which leaves of params count; by default the weights.

    Returns:
      Shape (layers,), the layer nearest the input first; layers without such leaves (activations, dropout) are left out.
      Squares don't overflow or underflow: a norm of 1e-30 is not 0.

    Raises:
      ValueError: the loss is unknown, or no leaf counts.
      TypeError: model isn't a layer.

    Example:
      >>> from funcnet import layers
      >>> model = layers.serial(layers.dense(1, initializer="ones"), layers.dense(1, initializer="ones"))
      >>> params = model.init(jax.random.key(0), (1,))
      >>> print(gradient_norms(model, params, "squared_error", Dataset(jnp.array([[3.0]]), jnp.array([[1.0]]))))
      [12. 12.]
    """
    check.callables("gradient_norms", model, ("init", "apply"), "model must be a Layer, such as mlp((64, 10))")
    objective = penalized(model, check.lookup("gradient_norms", "loss", loss, LOSSES), penalty)
    grads = jax.grad(objective)(params, batch, key=key)
    counted = [jax.tree.leaves(layer) for layer in _layers(kept(grads, chosen("gradient_norms", where, grads)))]
    norms = [_norm(leaves) for leaves in counted if leaves]
    if not norms:
        raise ValueError(check.message("gradient_norms", "needs a layer with leaves that count", "none", "where= says which count"))
    return jnp.stack(norms)


def predict(training: Training, state: PyTree, x: Any) -> jax.Array:
    """Predictions of a trained model for a set of examples, without dropout.

    Args:
      training: a `Training` with a `predict`, as those of `training(...)` have.
      state: the training's state.
      x: shape (examples, *in_shape), or a `Padded`.

    Returns:
      Shape (examples, *out_shape); a `Padded`, zero after the lengths, if the model returns one.

    Raises:
      TypeError: the training has no `predict`.

    Example:
      >>> import funcnet as fn
      >>> linear = fn.training(fn.dense(1, initializer="ones"), fn.squared_error, fn.sgd(0.1), in_shape=(2,))
      >>> print(predict(linear, linear.init(jax.random.key(0)), jnp.array([[1.0, 2.0], [3.0, 4.0]])))
      [[3.]
       [7.]]
    """
    own = as_training("predict", training).predict
    if own is None:
        fix = "Training(init, step, evaluate, predict=...) takes a function of (state, x)"
        raise TypeError(check.message("predict", "the training must say how to predict", "none", fix))
    return own(state, as_examples("predict", x))


def permutation_importance(
    training: Training, state: PyTree, dataset: AnyDataset, *, key: jax.Array, metric: str = "loss", mode: str = "min", repeats: int = 10
) -> jax.Array:
    """How much a trained model needs each feature: how much worse it scores once that feature's column is shuffled.

    A feature that the model ignores scores 0. A feature with a copy in another column may score little although it matters,
    because the model can use the copy.

    Args:
      training: a `Training`; the score is a metric of its `evaluate`.
      state: the training's state.
      dataset: the data to score on, best data that the model wasn't trained on; a feature is an entry of an example's first axis.
      key: a JAX random key for the shuffles, which are the same for all features.
      metric: the name of one of the metrics that `evaluate` returns.
      mode: whether a small ("min") or a large ("max") metric is good.
      repeats: number of shuffles of each feature, at least 1.

    Returns:
      Shape (features, repeats), in the metric's unit, positive where shuffling hurts. The features are scored one after
      the other, each with all its shuffles at once.

    Raises:
      ValueError: the metric or the mode is unknown, repeats is below 1, or the examples have no axis.
      TypeError: x is a `Padded`, or several inputs.

    Example:
      >>> import funcnet as fn
      >>> linear = fn.training(fn.dense(1, initializer="ones"), fn.squared_error, fn.sgd(0.1), in_shape=(2,))
      >>> x = jnp.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
      >>> data = Dataset(x, jnp.sum(x, axis=1, keepdims=True))
      >>> importance = permutation_importance(linear, linear.init(jax.random.key(0)), data, key=jax.random.key(1))
      >>> print(importance.mean(1) > 0)
      [ True False]

    Source: Breiman (2001); as in scikit-learn.
    """
    training = as_training("permutation_importance", training)
    repeats = check.whole("permutation_importance", "repeats", repeats, 1)
    check.one_of("permutation_importance", "mode", mode, ("min", "max"))
    whole = jax.tree.map(jnp.asarray, dataset if isinstance(dataset, WeightedDataset) else Dataset(dataset.x, dataset.y))
    x = whole.x
    if is_several(x):
        rule = "x must be one array, whose columns are shuffled one by one"
        got = "a Padded, sequences of different lengths" if is_padded(x) else f"{len(x)} inputs"
        raise TypeError(check.message("permutation_importance", rule, got))
    if x.ndim < 2:
        fix = "x[:, None] gives every example one axis"
        raise ValueError(check.message("permutation_importance", "x must have shape (examples, features)", x.shape, fix))
    check.one_of("permutation_importance", "metric", metric, jax.eval_shape(training.evaluate, state, whole))

    def score(x: jax.Array) -> jax.Array:
        return training.evaluate(state, whole._replace(x=x))[metric]

    orders = jax.vmap(lambda key: jax.random.permutation(key, len(x)))(jax.random.split(key, repeats))

    def shuffled(feature: jax.Array) -> jax.Array:
        return jax.vmap(lambda order: score(x.at[:, feature].set(x[order, feature])))(orders)

    scores: jax.Array = jax.lax.map(shuffled, jnp.arange(x.shape[1]))
    unshuffled = score(x)
    return scores - unshuffled if mode == "min" else unshuffled - scores


def _layers(params: Params) -> list[Params]:
    """The params of each layer, taken out of nested lists."""
    return [layer for part in params for layer in _layers(part)] if isinstance(params, list) else [params]


def _norm(leaves: list[jax.Array]) -> jax.Array:
    """Euclidean norm of the leaves as one vector, which is scaled to entries of at most 1 before it is squared."""
    flat = jnp.concatenate([leaf.astype(at_least_float32(leaf.dtype)).ravel() for leaf in leaves])
    largest = jnp.max(jnp.abs(flat))
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return unit * jnp.sqrt(jnp.sum((flat / unit) ** 2))
