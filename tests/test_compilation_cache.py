"""Tests take from JAX's compilation cache what was compiled before, and compile what they can't."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_same_bits

import funcnet as fn
from funcnet.sweeps import program
from funcnet.sweeps.recent import Recent

FOLDER = jax.config.jax_compilation_cache_dir
pytestmark = pytest.mark.skipif(FOLDER is None, reason="pytest -p no:cacheprovider")


@pytest.fixture
def counts():
    """How often a program was found in the cache, and how often not."""
    found = {"cache_hits": 0, "cache_misses": 0}

    def count(event, **_):
        if event.startswith("/jax/compilation_cache/cache_"):
            found[event.rpartition("/")[2]] += 1

    jax.monitoring.register_event_listener(count)
    yield found
    jax.monitoring.unregister_event_listener(count)


def test_a_sweep_compiled_before_comes_from_the_cache(counts, monkeypatch):
    x = np.linspace(-1, 1, 20).reshape(10, 2)

    def sweep():
        for name in ("_programs", "_executables"):
            monkeypatch.setattr(program, name, Recent(8))
        recipe = lambda learning_rate: fn.training(fn.mlp((3, 1)), fn.squared_error, fn.adam(learning_rate), in_shape=(2,))
        settings = dict(key=jax.random.key(0), num_steps=5, batch_size=4, progress=False)
        return fn.sweep(recipe, fn.grid(learning_rate=[0.1, 0.2]), fn.Dataset(x, x[:, :1]), **settings)

    first = sweep()
    counts.update(cache_hits=0, cache_misses=0)
    second = sweep()
    assert second.timing["programs"] == first.timing["programs"] == counts["cache_hits"] and counts["cache_misses"] == 0
    assert_same_bits(second.state(1), first.state(1))


def test_a_damaged_entry_is_compiled(counts):
    def make():
        def damaged_entry(x):
            return jnp.sin(x) + 0.125

        return jax.jit(damaged_entry)

    for path in pathlib.Path(FOLDER).glob("jit_damaged_entry*"):
        path.unlink()
    before = make()(jnp.ones(3))
    entries = {path: path.read_bytes() for path in pathlib.Path(FOLDER).glob("jit_damaged_entry*")}
    assert entries
    for content in (lambda whole: b"", lambda whole: whole[:-9]):
        for path, whole in entries.items():
            path.write_bytes(content(whole))
        counts.update(cache_hits=0)
        np.testing.assert_array_equal(make()(jnp.ones(3)), before)
        assert counts["cache_hits"] == 0
    for path, whole in entries.items():
        path.write_bytes(whole)
    make()(jnp.ones(3))
    assert counts["cache_hits"] == 1
