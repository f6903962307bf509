"""Augmentation: each training step changes its examples at random."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.batching import refused
from funcnet.layers.layer import Layer, no_params
from funcnet.padded import is_padded
from funcnet.tree import Params


def augment(augment_fn: Callable[[jax.Array, jax.Array], jax.Array]) -> Layer:
    """Changes each example at random in training, with a separate key for each; in evaluation it is the identity.

    Args:
      augment_fn: (key, x) -> x, for one example x, whose shape it must keep.

    Returns:
      A `Layer` without parameters that keeps its input's shape and dtype; put it first in a `serial`. Variants that share a key share
      the draws.

    Raises:
      TypeError: augment_fn is not a function.
      ValueError: augment_fn changes the shape.

    Example:
      >>> def shift_and_flip(key, image):  # (channels, rows, columns), by up to two pixels in each direction
      ...     shift_key, flip_key = jax.random.split(key)
      ...     row, column = jax.random.randint(shift_key, (2,), 0, 5)
      ...     padded = jnp.pad(image, ((0, 0), (2, 2), (2, 2)))
      ...     shifted = jax.lax.dynamic_slice(padded, (0, row, column), image.shape)
      ...     return jnp.where(jax.random.bernoulli(flip_key), shifted[:, :, ::-1], shifted)
      >>> layer, image = augment(shift_and_flip), jnp.arange(9.0).reshape(1, 3, 3)
      >>> print(layer.apply((), image)[0])
      [[0. 1. 2.]
       [3. 4. 5.]
       [6. 7. 8.]]
      >>> print(layer.apply((), image, key=jax.random.key(1))[0])
      [[1. 0. 0.]
       [4. 3. 0.]
       [7. 6. 0.]]

    Source: Krizhevsky, Sutskever and Hinton (2012) for shifts and flips of images.
    """
    if not callable(augment_fn):
        raise TypeError(check.message("augment", "augment_fn must be a function (key, x) -> x", repr(augment_fn)[:80]))

    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        if is_padded(x):
            raise refused("augment")
        x = jnp.asarray(x)
        if key is None:
            return x
        y = jnp.asarray(augment_fn(key, x))
        check.shape_is("augment", "what augment_fn gives", y.shape, x.shape)
        return y.astype(x.dtype)

    return Layer(no_params("augment"), apply)
