"""One example or many: the two forms of a function are one function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close

from funcnet.batching import examples_last, on_batch


@examples_last(argnums=(1, 2))
def weighted(weight, x, y, *, power=1):
    """Knows what it does with a batch: x and y are (features, examples)."""
    assert x.ndim == y.ndim == 2
    return weight @ (x * y) ** power


def by_hand(weight, x, y, *, power=1):
    """The same for one example, as a user writes it."""
    return weight @ (x * y) ** power


weight, xs, ys = (jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32) for shape in ((2, 3), (3, 5), (3, 5)))


def test_one_example_has_no_batch_axis():
    assert_close(weighted(weight, xs[:, 0], ys[:, 0]), weight @ (xs[:, 0] * ys[:, 0]))
    assert_close(weighted(weight, xs[:, 0], ys[:, 0], power=2), weight @ (xs[:, 0] * ys[:, 0]) ** 2)


@pytest.mark.parametrize("fn", [weighted, by_hand])
def test_a_batch_is_its_examples(fn):
    batch = on_batch(fn, argnums=(1, 2))(weight, xs, ys, power=2)
    assert batch.shape == (2, 5)
    assert_close(batch, jnp.stack([fn(weight, xs[:, i], ys[:, i], power=2) for i in range(5)], -1))


def test_the_own_form_is_used_where_there_is_one():
    assert on_batch(weighted, argnums=(1, 2)) is weighted.on_batch
    assert weighted.__name__ == "weighted" and "batch" in weighted.__doc__


def doubled(fn):
    """A decorator as a user writes one."""

    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return 2 * fn(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    "wrap", [doubled, jax.jit, jax.checkpoint, lambda fn: functools.partial(fn, power=2)], ids=["by hand", "jit", "checkpoint", "partial"]
)
def test_a_wrapper_is_not_passed_over(wrap):
    """It takes over the attributes of what it wraps, the batch form among them."""
    fn = wrap(weighted)
    batch = on_batch(fn, argnums=(1, 2))(weight, xs, ys)
    assert_close(batch, jnp.stack([fn(weight, xs[:, i], ys[:, i]) for i in range(5)], -1))


@pytest.mark.parametrize("fn", [weighted, by_hand])
def test_both_forms_work_under_vmap_jit_and_grad(fn):
    batch, weights = on_batch(fn, argnums=(1, 2)), jnp.stack([weight, 2 * weight])
    together = jax.jit(jax.vmap(batch, (0, None, None)))(weights, xs, ys)
    assert_close(together, jnp.stack([batch(weight, xs, ys), batch(2 * weight, xs, ys)]))
    assert_close(jax.grad(lambda w: jnp.sum(batch(w, xs, ys)))(weight), jnp.broadcast_to(jnp.sum(xs * ys, 1), (2, 3)))


def test_numpy_inputs_are_taken():
    assert_close(weighted(np.asarray(weight), np.asarray(xs[:, 0]), np.asarray(ys[:, 0])), weighted(weight, xs[:, 0], ys[:, 0]))


def test_a_vmapped_function_gets_a_key_for_each_example():
    def noise(x, *, key=None):
        return x if key is None else x + jax.random.normal(key, x.shape)

    batch = on_batch(noise, argnums=(0,))
    assert_close(batch(xs), xs)
    noisy = np.asarray(batch(jnp.zeros((3, 5)), key=jax.random.key(0)))
    assert len(set(noisy.ravel())) == 15
    np.testing.assert_array_equal(noisy, batch(jnp.zeros((3, 5)), key=jax.random.key(0)))
