"""Pooling with windows that depend on the input's size: one window for the whole input, or a given number of windows."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.batching import examples_last, refused
from funcnet.layers.convolution import Sizes, per_axis
from funcnet.layers.layer import Layer, Shapes, no_params
from funcnet.padded import Padded, checked, count, is_padded, real
from funcnet.tree import Params, wide_dtype

_AXES = (2, 3, 4)  # channels, and one to three spatial axes


def global_avg_pool() -> Layer:
    """Takes the mean of each channel, in at least float32.

    Returns:
      A `Layer` without parameters, (channels, *spatial) -> (channels,). For a `Padded`, in which time comes first, it returns the mean
      over the real steps: (time, *rest) -> (*rest,).

    Example:
      >>> print(global_avg_pool().apply((), jnp.arange(8.0).reshape(2, 2, 2)))
      [1.5 5.5]

    Source: Lin, Chen and Yan (2014).
    """
    return _pool("global_avg_pool", None, largest=False)


def global_max_pool() -> Layer:
    """Takes the largest value of each channel.

    Returns:
      A `Layer` without parameters, (channels, *spatial) -> (channels,). For a `Padded`, in which time comes first, it returns the
      largest value over the real steps: (time, *rest) -> (*rest,).

    Example:
      >>> print(global_max_pool().apply((), jnp.arange(8.0).reshape(2, 2, 2)))
      [3. 7.]
    """
    return _pool("global_max_pool", None, largest=True)


def adaptive_avg_pool(sizes: Sizes) -> Layer:
    """Takes the mean of each of a given number of windows, in at least float32, whatever the input's size.

    Along an axis of n, window i of m goes from floor(i * n / m) up to ceil((i + 1) * n / m), as in torch: neighbours may share an entry.

    Args:
      sizes: of the output, one number for all spatial axes or one for each, at least 1.

    Returns:
      A `Layer` without parameters, (channels, *spatial) -> (channels, *sizes).

    Raises:
      ValueError: a size is below 1, or there is not one size for each spatial axis.

    Example:
      >>> print(adaptive_avg_pool(2).apply((), jnp.arange(5.0).reshape(1, 5)))
      [[1. 3.]]
    """
    return _pool("adaptive_avg_pool", sizes, largest=False)


def adaptive_max_pool(sizes: Sizes) -> Layer:
    """Takes the largest value of each of a given number of windows, which are those of `adaptive_avg_pool`.

    Args:
      sizes: of the output, one number for all spatial axes or one for each, at least 1.

    Returns:
      A `Layer` without parameters, (channels, *spatial) -> (channels, *sizes).

    Raises:
      ValueError: a size is below 1, or there is not one size for each spatial axis.

    Example:
      >>> print(adaptive_max_pool(2).apply((), jnp.arange(5.0).reshape(1, 5)))
      [[2. 4.]]
    """
    return _pool("adaptive_max_pool", sizes, largest=True)


def _pool(where: str, sizes: Sizes | None, *, largest: bool) -> Layer:
    for size in [] if sizes is None else sizes if isinstance(sizes, Sequence) else [sizes]:
        check.whole(where, "every size", size, 1)

    def init(key: jax.Array, in_shape: Shapes) -> Params:
        if sizes is None and is_padded(in_shape):
            return no_params(where, step_axes=0)(key, in_shape)
        return no_params(where, _AXES)(key, in_shape)

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: Any, *, key: jax.Array | None = None) -> Any:
        if is_padded(x):
            if sizes is not None:
                raise refused(where)
            return _over_steps(checked(where, x), largest)
        shape = x.shape[:-1]
        if len(shape) not in _AXES:
            fix = "for a batch, use jax.vmap" if len(shape) == max(_AXES) + 1 else "channels come first"
            raise ValueError(check.message(where, "x must have shape (channels, *spatial)", shape, fix))
        dtype = x.dtype if largest or check.is_floating(x) else jnp.result_type(float)
        x = x if largest else x.astype(wide_dtype(x))
        reduce = jnp.max if largest else jnp.mean
        for axis, size in enumerate(per_axis(where, "sizes", 1 if sizes is None else sizes, len(shape) - 1), 1):
            x = _windows(x, axis, size, reduce)
        return (x.reshape(x.shape[0], -1) if sizes is None else x).astype(dtype)

    return Layer(init, apply)


def _over_steps(x: Padded, largest: bool) -> jax.Array:
    """The mean or the largest value over the real steps of a batch."""
    values, inside = x.values, real(x)
    floating = check.is_floating(values)
    if largest:
        low = -jnp.inf if floating else jnp.iinfo(values.dtype).min
        return jnp.max(jnp.where(inside, values, jnp.asarray(low, values.dtype)), axis=0)
    wide = values.astype(wide_dtype(values))
    steps = count(x).astype(wide.dtype).reshape(*(1,) * (wide.ndim - 2), -1)
    mean: jax.Array = jnp.sum(jnp.where(inside, wide, jnp.zeros((), wide.dtype)), axis=0) / steps
    return mean.astype(values.dtype if floating else jnp.result_type(float))


def _windows(x: jax.Array, axis: int, size: int, reduce: Callable[..., jax.Array]) -> jax.Array:
    length = x.shape[axis]
    bounds = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    parts = [reduce(jax.lax.slice_in_dim(x, start, end, axis=axis), axis=axis, keepdims=True) for start, end in bounds]
    return jnp.concatenate(parts, axis)
