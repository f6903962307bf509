"""Normalisation: each example on its own, so that it works for one example and for any batch."""

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.batching import examples_last
from funcnet.layers.layer import Layer, Shape, check_shape, compute_dtype
from funcnet.tree import Params, Scalar, at_least_float32


def layer_norm(*, eps: Scalar = 1e-5) -> Layer:
    """Mean zero and variance one over an example's features, its last axis; then a learned scale and shift.

    y = scale * (x - mean) / sqrt(variance + eps) + bias, computed in at least float32

    Args:
      eps: shape (), added to the variance, > 0.

    Returns:
      A `Layer`, (*shape, features) -> the same, with params {"scale": (features,), "bias": (features,)}.

    Raises:
      ValueError: eps is not positive, or x has another number of features than init was told.

    Example:
      >>> layer = layer_norm()
      >>> params = layer.init(jax.random.key(0), (2,))
      >>> print(layer.apply(params, jnp.array([3.0, 5.0])).round(3))
      [-1.  1.]

    Source: Ba, Kiros and Hinton (2016).
    """
    check.in_range("layer_norm", "eps", eps, 0, ends="()")

    def init(key: jax.Array, in_shape: Shape) -> Params:
        in_shape = check_shape("layer_norm", in_shape, (1, 2, 3))
        dtype = jnp.result_type(float)
        return {"scale": jnp.ones(in_shape[-1], dtype), "bias": jnp.zeros(in_shape[-1], dtype)}

    @examples_last(argnums=(1,))
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        check.shape_is("layer_norm", "the last axis of x", x.shape[-2:-1], params["scale"].shape)
        dtype = compute_dtype(x, params["scale"])
        wide = at_least_float32(dtype)  # float16 holds no variance of 300 squared
        x = x.astype(wide)
        centred = x - jnp.mean(x, axis=-2, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-2, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + jnp.asarray(eps, wide))
        column = (*(1,) * (x.ndim - 2), -1, 1)
        y: jax.Array = params["scale"].astype(wide).reshape(column) * normal + params["bias"].astype(wide).reshape(column)
        return y.astype(dtype)

    return Layer(init, apply)
