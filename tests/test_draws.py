"""The cheap random bits: even, and independent from word to word and from key to key, as far as tests can tell.

Every threshold is one that a good generator misses once in ten thousand tries; the seeds are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, chisquare, kstest, norm

from funcnet.draws import bits, mixed

N = 1 << 18
RARE = 1e-4


def words(seed=0, count=N, fold=0):
    return np.asarray(jax.jit(bits, static_argnums=1)(jax.random.key(seed), count, fold))


def as_bits(values):
    return np.unpackbits(np.ascontiguousarray(values).view(np.uint8)).reshape(len(values), 32)


KEYS = {
    "one key, many words": lambda: words(),
    "many folds, one word each": lambda: np.asarray(jax.jit(jax.vmap(lambda i: bits(jax.random.key(3), 1, i)[0]))(jnp.arange(N))),
    "many folded keys, one word each": lambda: np.asarray(
        jax.jit(jax.vmap(lambda i: bits(jax.random.fold_in(jax.random.key(3), i), 1)[0]))(jnp.arange(N))
    ),
    "many seeds, one word each": lambda: np.asarray(jax.jit(jax.vmap(lambda i: bits(jax.random.key(i), 1)[0]))(jnp.arange(N))),
}


@pytest.mark.parametrize("name", KEYS)
def test_bytes_and_halves_are_even_and_neighbours_independent(name):
    values = KEYS[name]()
    for byte in np.ascontiguousarray(values).view(np.uint8).reshape(-1, 4).T:
        assert chisquare(np.bincount(byte, minlength=256)).pvalue > RARE
    halves = np.ascontiguousarray(values).view(np.uint16).reshape(-1, 2)
    assert kstest(halves.ravel() / 65536, "uniform").pvalue > RARE
    assert chisquare(np.histogram2d(*(halves.T >> 11), bins=32)[0].ravel()).pvalue > RARE  # the two that share a word
    for lag in (1, 2, 64, 128):
        pairs = np.histogram2d(values[:-lag] >> 27, values[lag:] >> 27, bins=32)[0].ravel()
        assert chisquare(pairs).pvalue > RARE
        agree = np.mean(as_bits(values[:-lag]) == as_bits(values[lag:]), axis=0)
        assert np.max(np.abs(agree - 0.5)) * 2 * np.sqrt(len(values) - lag) < norm.isf(RARE / 64)


def test_keys_that_differ_in_one_bit_have_nothing_in_common():
    start = np.array([0x12345678, 0x9ABCDEF0], np.uint32)
    base = as_bits(np.asarray(bits(jax.random.wrap_key_data(start), 4096)))
    for word in range(2):
        for bit in (0, 1, 13, 31):
            near = start.copy()
            near[word] ^= np.uint32(1 << bit)
            other = as_bits(np.asarray(bits(jax.random.wrap_key_data(near), 4096)))
            assert abs(np.mean(base == other) - 0.5) * 2 * np.sqrt(base.size) < norm.isf(RARE)


def test_sums_of_masks_vary_as_they_should():
    """Over 4,000 keys, the number kept of 512 at a rate of 0.3 is binomial: its mean, and its variance by chi-square."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(5), i))(jnp.arange(4000))
    kept = np.asarray(jax.vmap(lambda key: jnp.sum(bits(key, 512) >= np.uint32(0.3 * 2**32)))(keys))
    assert abs(np.mean(kept) - 0.7 * 512) / np.sqrt(512 * 0.21 / 4000) < norm.isf(RARE)
    spread = np.sum((kept - np.mean(kept)) ** 2) / (512 * 0.21)
    assert RARE < chi2(3999).cdf(spread) < 1 - RARE


def test_the_tests_above_tell_a_bad_generator_apart():
    """A hash of one round, without its last steps, fails them."""
    weak = np.arange(N, dtype=np.uint32) * np.uint32(0x9E3779B9)
    pairs = np.histogram2d(weak[:-1] >> 27, weak[1:] >> 27, bins=32)[0].ravel()
    assert chisquare(pairs).pvalue < RARE


def test_the_hash_is_one_to_one_and_keys_of_every_kind_work():
    assert len(np.unique(np.asarray(mixed(jnp.arange(1 << 16, dtype=jnp.uint32))))) == 1 << 16
    assert len(np.unique(words(count=1 << 16))) == 1 << 16  # no word comes twice under one key
    old = bits(jax.random.PRNGKey(7), 5)
    np.testing.assert_array_equal(old, bits(jax.random.key(7), 5))
    assert bits(jax.random.key(7, impl="rbg"), 5).shape == (5,)
    assert np.any(words(count=8, fold=1) != words(count=8, fold=2))
