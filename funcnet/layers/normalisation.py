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
        normal = _normal(x.astype(wide), -2, eps)
        column = (*(1,) * (x.ndim - 2), -1, 1)
        y: jax.Array = params["scale"].astype(wide).reshape(column) * normal + params["bias"].astype(wide).reshape(column)
        return y.astype(dtype)

    return Layer(init, apply)


def rms_norm(*, eps: Scalar = 1e-6) -> Layer:
    """Root mean square one over an example's features, its last axis; then a learned scale. `layer_norm` without its shifts.

    y = scale * x / sqrt(mean(x^2) + eps), computed in at least float32

    Args:
      eps: shape (), added to the mean square, > 0.

    Returns:
      A `Layer`, (*shape, features) -> the same, with params {"scale": (features,)}.

    Raises:
      ValueError: eps is not positive, or x has another number of features than init was told.

    Example:
      >>> layer = rms_norm()
      >>> print(layer.apply(layer.init(jax.random.key(0), (2,)), jnp.array([1.0, 7.0])).round(3))
      [0.2 1.4]

    Source: Zhang and Sennrich (2019).
    """
    check.in_range("rms_norm", "eps", eps, 0, ends="()")

    def init(key: jax.Array, in_shape: Shape) -> Params:
        in_shape = check_shape("rms_norm", in_shape, (1, 2, 3))
        return {"scale": jnp.ones(in_shape[-1], jnp.result_type(float))}

    @examples_last(argnums=(1,))
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        check.shape_is("rms_norm", "the last axis of x", x.shape[-2:-1], params["scale"].shape)
        dtype = compute_dtype(x, params["scale"])
        wide = at_least_float32(dtype)
        x = x.astype(wide)
        size = jax.lax.rsqrt(jnp.mean(x * x, axis=-2, keepdims=True) + jnp.asarray(eps, wide))
        scale: jax.Array = params["scale"].astype(wide).reshape(*(1,) * (x.ndim - 2), -1, 1)
        return (scale * (x * size)).astype(dtype)

    return Layer(init, apply)


def group_norm(groups: int, *, eps: Scalar = 1e-5) -> Layer:
    """Mean zero and variance one over each group of channels and all their places; then a learned scale and shift a channel.

    y = scale * (x - mean) / sqrt(variance + eps) + bias, computed in at least float32

    Args:
      groups: number of groups, which divides the channels: one is all channels together, and as many as channels each on its own
        (instance normalisation).
      eps: shape (), added to the variance, > 0.

    Returns:
      A `Layer`, (channels, *spatial) -> the same, with params {"scale": (channels,), "bias": (channels,)}.

    Raises:
      ValueError: groups is below 1 or does not divide the channels, eps is not positive, or x has other channels than init was told.

    Example:
      >>> layer = group_norm(2)
      >>> params = layer.init(jax.random.key(0), (4,))
      >>> print(layer.apply(params, jnp.array([1.0, 3.0, 10.0, 30.0])).round(3))
      [-1.  1. -1.  1.]

    Source: Wu and He (2018).
    """
    groups = check.whole("group_norm", "groups", groups, 1)
    check.in_range("group_norm", "eps", eps, 0, ends="()")

    def init(key: jax.Array, in_shape: Shape) -> Params:
        channels = check_shape("group_norm", in_shape, (1, 2, 3, 4))[0]
        if channels % groups:
            raise ValueError(check.message("group_norm", f"the channels must be a multiple of the {groups} groups", channels))
        dtype = jnp.result_type(float)
        return {"scale": jnp.ones(channels, dtype), "bias": jnp.zeros(channels, dtype)}

    @examples_last(argnums=(1,))
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        check.shape_is("group_norm", "the first axis of x", x.shape[:-1][:1], params["scale"].shape)
        dtype = compute_dtype(x, params["scale"])
        wide = at_least_float32(dtype)
        normal = _normal(x.astype(wide).reshape(groups, -1, x.shape[-1]), 1, eps).reshape(x.shape)
        column = (-1, *(1,) * (x.ndim - 1))
        y: jax.Array = params["scale"].astype(wide).reshape(column) * normal + params["bias"].astype(wide).reshape(column)
        return y.astype(dtype)

    return Layer(init, apply)


def _normal(x: jax.Array, axis: int, eps: Scalar) -> jax.Array:
    """(x - mean) / sqrt(variance + eps) along an axis."""
    centred = x - jnp.mean(x, axis=axis, keepdims=True)
    variance = jnp.mean(centred * centred, axis=axis, keepdims=True)
    return centred * jax.lax.rsqrt(variance + jnp.asarray(eps, x.dtype))
