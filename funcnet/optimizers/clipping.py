"""Clipping: gradients that are too large are scaled down before an optimizer sees them."""

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.optimizers.parts import At, composed, stateless
from funcnet.optimizers.protocol import Optimizer, check_given
from funcnet.tree import PyTree, Scalar, abs_square, cast, global_norm, root, scale, wide


def clip_by_global_norm(max_norm: Scalar) -> Optimizer:
    """Scales the gradients down if their Euclidean norm, over all leaves, exceeds max_norm; put it first in a `chain`.

    Args:
      max_norm: shape (), gradient units, > 0.

    Returns:
      An `Optimizer` that returns the clipped gradients.

    Raises:
      ValueError: max_norm is not positive.

    Example:
      >>> clip = clip_by_global_norm(1.0)
      >>> updates, state = clip.update(jnp.array([3.0, 4.0]), clip.init(None))
      >>> print(updates)
      [0.6 0.8]

    Source: Pascanu, Mikolov and Bengio (2013).
    """
    check.in_range("clip_by_global_norm", "max_norm", max_norm, 0, ends="()")

    def clipped(moves: PyTree, at: At) -> PyTree:
        norm = global_norm(moves)
        limit = jnp.asarray(max_norm, norm.dtype)
        long = norm > limit
        factor = jnp.where(long, limit / jnp.where(long, norm, 1), 1)
        return scale(factor, moves)

    return composed("clip_by_global_norm", [stateless(clipped)])


def clip_by_value(max_value: Scalar) -> Optimizer:
    """Clips each entry of the gradients to [-max_value, max_value]; put it first in a `chain`.

    Args:
      max_value: shape (), gradient units, > 0.

    Returns:
      An `Optimizer` that returns the clipped gradients.

    Raises:
      ValueError: max_value is not positive.

    Example:
      >>> clip = clip_by_value(1.0)
      >>> updates, state = clip.update(jnp.array([3.0, -0.5]), clip.init(None))
      >>> print(updates)
      [ 1.  -0.5]
    """
    check.in_range("clip_by_value", "max_value", max_value, 0, ends="()")

    def one(g: jax.Array) -> jax.Array:
        limit = cast(max_value, wide(g))
        return jnp.clip(wide(g), -limit, limit)

    return composed("clip_by_value", [stateless(lambda moves, at: jax.tree.map(one, moves), complex_too=False)])


def adaptive_clip(clipping: Scalar, eps: Scalar = 1e-3) -> Optimizer:
    """Scales down each neuron's gradient if its norm exceeds a share of its weights' norm; put it first in a `chain`.

    gradient <- gradient * min(1, clipping * max(|weights|, eps) / |gradient|)

    A neuron's weights are one entry along a leaf's first axis, as in the weights of `dense` and `conv`; a leaf with one axis or none,
    such as a bias, is taken as a whole.

    Args:
      clipping: shape (), largest ratio of the norms, > 0; 0.01 is the paper's for large batches.
      eps: shape (), lower bound for |weights|, parameter units, > 0, so that weights of zero can grow.

    Returns:
      An `Optimizer` that returns the clipped gradients; its `update` needs params.

    Raises:
      ValueError: an argument is not positive, or update is called without params.

    Example:
      >>> clip = adaptive_clip(0.1)
      >>> params = jnp.array([[3.0, 4.0], [30.0, 40.0]])
      >>> updates, state = clip.update(jnp.array([[1.0, 0.0], [1.0, 0.0]]), clip.init(params), params)
      >>> print(updates)
      [[0.5 0. ]
       [1.  0. ]]

    Source: Brock et al. (2021).
    """
    check.in_range("adaptive_clip", "clipping", clipping, 0, ends="()")
    check.in_range("adaptive_clip", "eps", eps, 0, ends="()")

    def one(g: jax.Array, p: jax.Array) -> jax.Array:
        axes = tuple(range(1, g.ndim)) if g.ndim > 1 else None
        norm, of_weights = (root(jnp.sum(abs_square(x), axes, keepdims=True)) for x in (g, p))
        limit = cast(clipping, norm) * jnp.maximum(of_weights.astype(norm.dtype), cast(eps, norm))
        long = norm > limit
        factor = jnp.where(long, limit / jnp.where(long, norm, 1), 1)
        return factor.astype(wide(g).dtype) * wide(g)

    def clipped(moves: PyTree, at: At) -> PyTree:
        check_given("adaptive_clip", at.params, "the norms of its weights")
        return jax.tree.map(one, moves, at.params)

    return composed("adaptive_clip", [stateless(clipped)])
