"""What is remembered between sweeps depends on JAX's configuration: a sweep under another one computes what that one says."""

import jax
import numpy as np
import pytest

import funcnet as fn

DATA = fn.Split(*[fn.Dataset(np.ones((4, 3), np.float32), np.ones((4, 1), np.float32))] * 2)
SWEEP = dict(key=jax.random.key(0), num_steps=2, batch_size=2)


def draws(scale):
    """Reports what is drawn under the configuration of the moment, from a key of the recipe's own."""
    noise = lambda: scale * jax.random.normal(jax.random.key(7), (5,)).sum()
    return fn.Training(
        lambda key: {"x": noise()}, lambda state, batch, key: (state, {"loss": noise()}), lambda state, data: {"loss": noise()}
    )


def multiplies(scale):
    """Reports a product, whose numbers are the same on a CPU, however precise it is to be."""
    product = lambda: scale * (jax.numpy.ones((2, 3)) @ jax.numpy.ones((3, 2))).sum()
    return fn.Training(
        lambda key: {"x": product()}, lambda state, batch, key: (state, {"loss": product()}), lambda state, data: {"loss": product()}
    )


def swept(recipe):
    return fn.sweep(recipe, fn.grid(scale=[1.0, 2.0]), DATA, **SWEEP)


CONTEXTS = {
    "kind of keys": lambda: jax.default_prng_impl("rbg"),
    "how keys are drawn from": lambda: jax.threefry_partitionable(not jax.config.jax_threefry_partitionable),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_sweep_draws_as_jax_is_told_to_now(name):
    expected = lambda: [float(scale * jax.random.normal(jax.random.key(7), (5,)).sum()) for scale in (1.0, 2.0)]
    before, first = expected(), swept(draws)
    with CONTEXTS[name]():
        inside, second = expected(), swept(draws)
    again = swept(draws)
    assert before != pytest.approx(inside)
    for result, values in ((first, before), (second, inside), (again, before)):
        np.testing.assert_allclose(result.table["validation/loss"], values, rtol=1e-6)
    assert second.timing["programs"] > 0 and again.timing["programs"] == 0


@pytest.mark.parametrize(
    "context",
    [
        lambda: jax.default_matmul_precision("highest"),
        lambda: jax.default_device(jax.devices("cpu")[0]),
        lambda: jax.debug_nans(True),
    ],
    ids=["precision", "device", "NaNs raise"],
)
def test_what_was_compiled_under_another_configuration_is_not_taken(context):
    swept(multiplies)
    with context():
        assert swept(multiplies).timing["programs"] > 0
        assert swept(multiplies).timing["programs"] == 0
    assert swept(multiplies).timing["programs"] == 0
