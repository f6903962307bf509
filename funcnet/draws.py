"""Cheap random bits for dropout masks and shuffles.

JAX's own generator is made to be unpredictable, and drawing a layer's dropout mask with it takes as long as the layer. A mask or
a shuffle only needs bits that are uniform and independent; hashing a counter with the key gives those several times faster.
Keys are JAX's, and JAX splits and folds them.
"""

import jax
import jax.numpy as jnp
import numpy as np


def bits(key: jax.Array, count: int, fold: jax.Array | int = 0) -> jax.Array:
    """Draws random words: the counter 0, 1, ... is hashed with each word of the key in turn.

    Args:
      key: a JAX random key of any kind.
      count: number of words, at least 0.
      fold: shape (), integer; different numbers give different words, as with jax.random.fold_in.

    Returns:
      Shape (count,), uint32.

    Example:
      >>> bits(jax.random.key(0), 3).shape
      (3,)

    Source: Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3, for generators that hash a counter.
    """
    words = jnp.append(jax.random.key_data(key).astype(jnp.uint32), jnp.asarray(fold, jnp.uint32))
    counter = jax.lax.iota(jnp.uint32, count) * np.uint32(0x9E3779B9)  # 2^32 over the golden ratio: neighbours lie far apart
    # A loop, because XLA would copy any other form into each use: lanes that share their draws would all hash them again.
    hashed: jax.Array = jax.lax.fori_loop(0, words.size, lambda i, hashed: mixed(hashed ^ words[i]), counter)
    return hashed


def mixed(word: jax.Array) -> jax.Array:
    """MurmurHash3's finalizer (Appleby 2011): every bit of the result depends on every bit of a uint32."""
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return word ^ (word >> np.uint32(16))
