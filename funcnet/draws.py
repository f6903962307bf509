"""Random bits that cost less than the products they disturb.

JAX's own generator is made to be unpredictable, and a layer's dropout mask from it takes as long as the layer. A mask or
a shuffle needs bits that are even and independent; a hash of a counter under the key gives those several times cheaper.
Keys are JAX's, and are split and folded by JAX.
"""

import jax
import jax.numpy as jnp
import numpy as np


def bits(key: jax.Array, count: int, fold: jax.Array | int = 0) -> jax.Array:
    """Random words: the counter 0, 1, ... hashed with each word of the key in turn.

    Args:
      key: a JAX random key of any kind.
      count: how many, at least 0.
      fold: shape (), integer: each number has words of its own, as after jax.random.fold_in.

    Returns:
      Shape (count,), uint32.

    Example:
      >>> bits(jax.random.key(0), 3).shape
      (3,)

    Source: Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3, for generators that hash a counter.
    """
    words = jnp.append(jax.random.key_data(key).astype(jnp.uint32), jnp.asarray(fold, jnp.uint32))
    counter = jax.lax.iota(jnp.uint32, count) * np.uint32(0x9E3779B9)  # 2^32 over the golden ratio: neighbours lie far apart
    # A loop, as XLA would copy anything else into each use: lanes that share their draws would hash them anew in each.
    hashed: jax.Array = jax.lax.fori_loop(0, words.size, lambda i, hashed: mixed(hashed ^ words[i]), counter)
    return hashed


def mixed(word: jax.Array) -> jax.Array:
    """MurmurHash3's finalizer (Appleby 2011): every bit of the result depends on every bit of a uint32."""
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return word ^ (word >> np.uint32(16))
