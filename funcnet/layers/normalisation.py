"""Normalisation of each example separately, which works the same in any batch; or of the weights.

There is no layer for batch normalisation. It needs the mean and variance of a minibatch, but a layer's `apply` sees only one example:
in a minibatch, in a prediction, under `jax.vmap`. In evaluation it uses running averages that training has collected, but `apply` returns
an output and no state; as params the averages would be trained, decayed and penalized. A triple (init, step, evaluate) of your own sees
the whole minibatch and keeps any state, as test_flax_batch_norm_by_a_triple_of_ones_own in tests/sweeps/test_sweep.py shows.
"""

from typing import Any

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.batching import examples_last
from funcnet.layers.layer import Layer, Shape, apply_batch, check_shape, compute_dtype
from funcnet.layers.steps import each_step
from funcnet.tree import Params, Scalar, abs_square, at_least_float32, root


def layer_norm(*, eps: Scalar = 1e-5) -> Layer:
    """Normalises an example's features, its last axis, to mean zero and variance one; then a learned scale and shift.

    y = scale * (x - mean) / sqrt(variance + eps) + bias, computed in at least float32

    Args:
      eps: shape (), added to the variance, > 0.

    Returns:
      A `Layer`, (*shape, features) -> (*shape, features), with params {"scale": (features,), "bias": (features,)}. It also takes a
      `Padded`.

    Raises:
      ValueError: eps is not positive, or x has another number of features than init was given.

    Example:
      >>> layer = layer_norm()
      >>> params = layer.init(jax.random.key(0), (2,))
      >>> print(layer.apply(params, jnp.array([3.0, 5.0])).round(3))
      [-1.  1.]

    Source: Ba, Kiros and Hinton (2016).
    """
    check.in_range("layer_norm", "eps", eps, 0, ends="()")

    def init(key: jax.Array, in_shape: Shape) -> Params:
        in_shape = check_shape("layer_norm", in_shape, (1, 2, 3), step_axes=1)
        dtype = jnp.result_type(float)
        return {"scale": jnp.ones(in_shape[-1], dtype), "bias": jnp.zeros(in_shape[-1], dtype)}

    @each_step("layer_norm", 1)
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
    """Normalises an example's features, its last axis, to root mean square one; then a learned scale. `layer_norm` without shifts.

    y = scale * x / sqrt(mean(x^2) + eps), computed in at least float32

    Args:
      eps: shape (), added to the mean square, > 0.

    Returns:
      A `Layer`, (*shape, features) -> (*shape, features), with params {"scale": (features,)}. It also takes a `Padded`.

    Raises:
      ValueError: eps is not positive, or x has another number of features than init was given.

    Example:
      >>> layer = rms_norm()
      >>> print(layer.apply(layer.init(jax.random.key(0), (2,)), jnp.array([1.0, 7.0])).round(3))
      [0.2 1.4]

    Source: Zhang and Sennrich (2019).
    """
    check.in_range("rms_norm", "eps", eps, 0, ends="()")

    def init(key: jax.Array, in_shape: Shape) -> Params:
        in_shape = check_shape("rms_norm", in_shape, (1, 2, 3), step_axes=1)
        return {"scale": jnp.ones(in_shape[-1], jnp.result_type(float))}

    @each_step("rms_norm", 1)
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
    """Normalises each group of channels, over all places, to mean zero and variance one; then a learned scale and shift per channel.

    y = scale * (x - mean) / sqrt(variance + eps) + bias, computed in at least float32

    Args:
      groups: number of groups, a divisor of the number of channels. One group holds all channels; with as many groups as channels, each
        channel is normalised separately (instance normalisation).
      eps: shape (), added to the variance, > 0.

    Returns:
      A `Layer`, (channels, *spatial) -> (channels, *spatial), with params {"scale": (channels,), "bias": (channels,)}.

    Raises:
      ValueError: groups is below 1 or does not divide the number of channels, eps is not positive, or x has another number of channels
        than init was given.

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


def weight_norm(layer: Layer) -> Layer:
    """Stores a layer's weights as lengths and directions, so that a step can turn a neuron's weights without changing their length.

    weight = length * direction / |direction|, for each entry of a weight's first axis: a neuron of `dense`, a channel of `conv`

    Args:
      layer: any `Layer`, or a whole model; its weights are its leaves with two axes or more.

    Returns:
      A `Layer` that starts as the one it wraps, with params {"direction": that layer's params, "length": {name of a weight: (outputs,)}}.
      A weight's name is its path, such as "weight" or, in a model, "0/weight". A penalty on a direction only shortens the direction; the
      weight stays the same. Where a direction is zero, the weight is zero and stays zero, so don't initialize with zeros.

    Raises:
      TypeError: layer is no Layer.

    Example:
      >>> from funcnet.layers import dense
      >>> layer = weight_norm(dense(2))
      >>> params = {"direction": {"weight": jnp.array([[3.0, 4.0], [0.0, 9.0]]), "bias": jnp.zeros(2)}, "length": {"weight": jnp.array([5.0, 1.0])}}
      >>> print(layer.apply(params, jnp.array([1.0, 1.0])))
      [7. 1.]

    Source: Salimans and Kingma (2016).
    """
    check.callables("weight_norm", layer, ("init", "apply"), "wrap a Layer such as dense(10)")

    def init(key: jax.Array, in_shape: Shape) -> Params:
        direction = layer.init(key, in_shape)
        weights = [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(direction) if leaf.ndim >= 2]
        return {"direction": direction, "length": {name: _lengths(leaf).astype(leaf.dtype) for name, leaf in weights}}

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        def weight(path: Any, direction: jax.Array) -> jax.Array:
            if direction.ndim < 2:
                return direction
            size = _lengths(direction)
            none = size == 0
            factor = jnp.where(none, 0, params["length"][_name(path)].astype(size.dtype) / jnp.where(none, 1, size))
            scaled = factor.reshape(-1, *(1,) * (direction.ndim - 1)) * direction.astype(size.dtype)
            return scaled.astype(direction.dtype)

        return apply_batch(layer, jax.tree_util.tree_map_with_path(weight, params["direction"]), x, key=key)

    return Layer(init, apply)


def _lengths(weight: jax.Array) -> jax.Array:
    """The norm of a weight for each entry of its first axis, in at least float32."""
    return root(jnp.sum(abs_square(weight), axis=tuple(range(1, weight.ndim))))


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _normal(x: jax.Array, axis: int, eps: Scalar) -> jax.Array:
    """(x - mean) / sqrt(variance + eps) along an axis."""
    centred = x - jnp.mean(x, axis=axis, keepdims=True)
    variance = jnp.mean(centred * centred, axis=axis, keepdims=True)
    return centred * jax.lax.rsqrt(variance + jnp.asarray(eps, x.dtype))
