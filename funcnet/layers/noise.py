"""Dropout: each training step ignores some neurons or connections at random."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.batching import examples_last
from funcnet.draws import bits
from funcnet.layers.layer import Layer, Shape, apply_batch, no_params
from funcnet.layers.steps import each_step
from funcnet.tree import Params, Scalar, at_least_float32, traced_once


def dropout(rate: Scalar) -> Layer:
    """In training, sets each number to zero with probability rate and scales the rest by 1 / (1 - rate).

    Args:
      rate: shape (), share dropped, in [0, 1); may be traced. It is rounded to a multiple of 1 / 65,536, and at most 65,535 / 65,536;
        dropping and scaling use the rounded rate. Variants that share a key share the draws: a higher rate drops what a lower one
        drops, and more.

    Returns:
      A `Layer` without parameters that keeps its input's shape. Without a key it is the identity. It also takes a `Padded`.

    Raises:
      ValueError: a concrete rate is out of range; a traced one cannot be checked.

    Example:
      >>> layer = dropout(0.5)
      >>> print(layer.apply((), jnp.ones(4)), layer.apply((), jnp.ones(4), key=jax.random.key(1)))
      [1. 1. 1. 1.] [0. 0. 0. 2.]

    Source: Srivastava et al. (2014).
    """
    check.in_range("dropout", "rate", rate, 0, 1)

    @each_step("dropout")
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return x if key is None or _is_zero(rate) else drop(key, rate, x)

    return Layer(no_params("dropout", step_axes=0), apply)


def drop_connect(layer: Layer, rate: Scalar) -> Layer:
    """In training, drops connections: entries of the layer's weights (leaves with two axes or more), not its outputs.

    Args:
      layer: any `Layer`.
      rate: shape (), share dropped, in [0, 1); may be traced.

    Returns:
      A `Layer` with the parameters of the layer it wraps. In `apply_batch` the whole batch shares one draw; under
      `jax.vmap` over keys every example has its own.

    Raises:
      ValueError: a concrete rate is out of range; a traced one cannot be checked.

    Example:
      >>> from funcnet.layers import dense
      >>> layer = drop_connect(dense(2, initializer="ones"), 0.5)
      >>> params = layer.init(jax.random.key(0), (4,))
      >>> print(layer.apply(params, jnp.ones(4)), layer.apply(params, jnp.ones(4), key=jax.random.key(1)))
      [4. 4.] [4. 2.]

    Source: Wan et al. (2013).
    """
    check.in_range("drop_connect", "rate", rate, 0, 1)
    check.callables("drop_connect", layer, ("init", "apply"), "wrap a Layer such as dense(10)")

    def init(key: jax.Array, in_shape: Shape) -> Params:
        return layer.init(key, in_shape)

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        if key is None or _is_zero(rate):
            return apply_batch(layer, params, x, key=key)
        leaves, structure = jax.tree.flatten(params)
        kept = [drop(jax.random.fold_in(key, i), rate, leaf) if leaf.ndim >= 2 else leaf for i, leaf in enumerate(leaves)]
        return apply_batch(layer, jax.tree.unflatten(structure, kept), x, key=jax.random.fold_in(key, len(leaves)))

    return Layer(init, apply)


def drop(key: jax.Array, rate: Scalar, x: jax.Array) -> jax.Array:
    """Zeroes entries of x with probability rate, shape (), to the nearest 1 / 65,536, and scales the others so that the mean stays.

    That takes 16 random bits for each entry, so each 32-bit word serves two consecutive rows of x. The draws for few rows are the first
    of those for more rows, so that padding a net with units doesn't change the draws of its own units.
    """
    threshold = jnp.minimum(jnp.round(jnp.asarray(rate, jnp.float32) * 65536), 65535)  # NaN stays NaN
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.result_type(float)
    wide = at_least_float32(dtype)  # in bfloat16 a rate of 0.999 is 1
    scale = 65536 / (65536 - threshold.astype(wide))
    kept = _draws(key, shape=x.shape) >= threshold.astype(jnp.int32)
    return jnp.where(kept, (x.astype(wide) * scale).astype(dtype), jnp.zeros((), dtype))


@functools.partial(traced_once, static=("shape",))
def _draws(key: jax.Array, *, shape: Shape) -> jax.Array:
    """Uniform draws, int32 in [0, 65536)."""
    rows, *rest = shape or (1,)
    half = (rows + 1) // 2
    words = bits(key, half * math.prod(rest)).reshape(half, 1, *rest)
    both = (words >> np.array([0, 16], np.uint32).reshape(1, 2, *[1] * len(rest))) & np.uint32(0xFFFF)
    return both.reshape(2 * half, *rest)[:rows].reshape(shape).astype(jnp.int32)


def _is_zero(rate: Scalar) -> bool:
    return not check.is_traced(rate) and float(rate) == 0
