"""Pools whose windows follow from the input's size: one window for all of it, or as many as are asked for."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.batching import examples_last
from funcnet.layers.convolution import Sizes, per_axis
from funcnet.layers.layer import Layer, no_params
from funcnet.tree import Params, wide_dtype

_AXES = (2, 3, 4)  # channels, and one to three spatial axes


def global_avg_pool() -> Layer:
    """The mean of each channel, in at least float32.

    Returns:
      A `Layer` without parameters, (channels, *spatial) -> (channels,).

    Example:
      >>> print(global_avg_pool().apply((), jnp.arange(8.0).reshape(2, 2, 2)))
      [1.5 5.5]

    Source: Lin, Chen and Yan (2014).
    """
    return _pool("global_avg_pool", None, largest=False)


def global_max_pool() -> Layer:
    """The largest value of each channel.

    Returns:
      A `Layer` without parameters, (channels, *spatial) -> (channels,).

    Example:
      >>> print(global_max_pool().apply((), jnp.arange(8.0).reshape(2, 2, 2)))
      [3. 7.]
    """
    return _pool("global_max_pool", None, largest=True)


def adaptive_avg_pool(sizes: Sizes) -> Layer:
    """Means of as many windows as are asked for, in at least float32, whatever the input's size.

    Along an axis of n, window i of m covers floor(i * n / m) up to ceil((i + 1) * n / m), as in torch: windows may share an edge.

    Args:
      sizes: of the output, one number for all spatial axes or one for each, at least 1.

    Returns:
      A `Layer` without parameters, (channels, *spatial) -> (channels, *sizes).

    Raises:
      ValueError: a size is below 1, or there are not as many as spatial axes.

    Example:
      >>> print(adaptive_avg_pool(2).apply((), jnp.arange(5.0).reshape(1, 5)))
      [[1. 3.]]
    """
    return _pool("adaptive_avg_pool", sizes, largest=False)


def adaptive_max_pool(sizes: Sizes) -> Layer:
    """The largest values of as many windows as are asked for, which lie as in `adaptive_avg_pool`.

    Args:
      sizes: of the output, one number for all spatial axes or one for each, at least 1.

    Returns:
      A `Layer` without parameters, (channels, *spatial) -> (channels, *sizes).

    Raises:
      ValueError: a size is below 1, or there are not as many as spatial axes.

    Example:
      >>> print(adaptive_max_pool(2).apply((), jnp.arange(5.0).reshape(1, 5)))
      [[2. 4.]]
    """
    return _pool("adaptive_max_pool", sizes, largest=True)


def _pool(where: str, sizes: Sizes | None, *, largest: bool) -> Layer:
    for size in [] if sizes is None else sizes if isinstance(sizes, Sequence) else [sizes]:
        check.whole(where, "every size", size, 1)

    @examples_last(argnums=(1,))
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
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

    return Layer(no_params(where, _AXES), apply)


def _windows(x: jax.Array, axis: int, size: int, reduce: Callable[..., jax.Array]) -> jax.Array:
    length = x.shape[axis]
    bounds = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    parts = [reduce(jax.lax.slice_in_dim(x, start, end, axis=axis), axis=axis, keepdims=True) for start, end in bounds]
    return jnp.concatenate(parts, axis)
