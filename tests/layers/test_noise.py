"""What dropping does: the share, the scale, the draws; neurons and connections."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import check_mistake, mistakes

from funcnet.layers import apply_batch, dense, drop_connect, dropout, flatten, parallel, recurrent, residual, serial

KEY = jax.random.key(3)
MANY = 20_000
ONES = jnp.ones(MANY)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_dropped_and_scale_of_the_rest(rate):
    y = dropout(rate).apply((), ONES, key=KEY)
    kept = np.asarray(y != 0)
    sigma = np.sqrt(rate * (1 - rate) / MANY)
    assert abs(kept.mean() - (1 - rate)) < 4 * sigma
    np.testing.assert_allclose(np.asarray(y)[kept], 1 / (1 - round(rate * 65536) / 65536), rtol=1e-6)
    assert abs(y.mean() - 1) < 4 * sigma / (1 - rate)  # so the mean stays


def test_rates_near_one_stay_finite_in_bfloat16():
    """There 0.999 would round to 1, and the scale to infinity."""
    y = dropout(0.999).apply((), ONES.astype(jnp.bfloat16), key=KEY)
    assert y.dtype == jnp.bfloat16 and float(y.max()) == float(jnp.bfloat16(65536 / 66))


@pytest.mark.parametrize("rate", [1e-6, 0.1, 1 / 3, 0.7, 0.99, 0.999, 0.9999, 0.999999])
def test_the_scale_is_that_of_the_rounded_rate(rate):
    """Over all words that can be drawn the mean stays what it is, also under vmap: the scale is 65536 / those kept."""
    dropped = min(round(rate * 65536), 65535)
    run = lambda rate: dropout(rate).apply((), jnp.ones(400_000), key=KEY).max()
    for scale in (run(rate), *jax.vmap(run)(jnp.array([rate, rate], jnp.float32))):
        np.testing.assert_allclose(scale, 65536 / (65536 - dropped), rtol=1e-6)


def test_whole_numbers_are_scaled_as_well():
    y = dropout(0.5).apply((), jnp.full(100, 3), key=KEY)
    assert set(np.asarray(y)) == {0.0, 6.0}


def test_a_higher_rate_drops_what_a_lower_one_drops_and_more():
    masks = [np.asarray(dropout(rate).apply((), ONES, key=KEY) == 0) for rate in (0.2, 0.5, 0.8)]
    together = jax.vmap(lambda rate: dropout(rate).apply((), ONES, key=KEY) == 0)(jnp.array([0.2, 0.5, 0.8]))
    np.testing.assert_array_equal(together, masks)
    for lower, higher in itertools.pairwise(masks):
        assert np.all(higher[lower]) and higher.sum() > lower.sum()


def test_examples_of_a_batch_are_dropped_independently():
    y = np.asarray(apply_batch(dropout(0.5), (), jnp.ones((MANY // 2, 2)), key=KEY) != 0)
    assert abs((y[:, 0] == y[:, 1]).mean() - 0.5) < 4 * 0.5 / np.sqrt(MANY // 2)


def test_layers_of_one_model_are_dropped_independently():
    side_by_side = parallel(dropout(0.5), dropout(0.5)).apply([(), ()], ONES, key=KEY).reshape(2, MANY) != 0
    assert abs((side_by_side[0] == side_by_side[1]).mean() - 0.5) < 4 * 0.5 / np.sqrt(MANY)
    one_after_the_other = serial(dropout(0.5), dropout(0.5)).apply([(), ()], ONES, key=KEY) != 0
    assert abs(one_after_the_other.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / MANY)


def test_residual_drops_the_branch_and_not_the_input():
    y = residual(dropout(0.5)).apply((), ONES, key=KEY)
    assert set(np.asarray(y)) == {1.0, 3.0}
    np.testing.assert_array_equal(residual(dropout(0.5)).apply((), ONES), 2 * ONES)


def test_without_a_key_nothing_is_dropped():
    np.testing.assert_array_equal(dropout(0.9).apply((), ONES), ONES)
    layer = drop_connect(dense(3), 0.9)
    params = layer.init(KEY, (4,))
    np.testing.assert_array_equal(layer.apply(params, jnp.ones(4)), dense(3).apply(params, jnp.ones(4)))


def test_drop_connect_drops_weights_and_keeps_biases():
    """On unit vectors a dense layer's outputs are its weights plus its biases: one draw serves the whole batch."""
    layer = drop_connect(dense(200, initializer="ones"), 0.25)
    params = layer.init(KEY, (100,)) | {"bias": jnp.full(200, 5.0)}
    weights = np.asarray(apply_batch(layer, params, jnp.eye(100), key=KEY)) - 5
    kept = weights != 0
    np.testing.assert_allclose(weights[kept], 4 / 3, rtol=1e-5)
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / kept.size)


def test_drop_connect_shares_its_draws_between_rates():
    def kept(rate):
        layer = drop_connect(dense(50, initializer="ones"), rate)
        return np.asarray(apply_batch(layer, layer.init(KEY, (40,)), jnp.eye(40), key=KEY)) != 0

    low, high = kept(0.3), kept(0.7)
    assert np.all(low[high]) and low.sum() > high.sum()


def test_drop_connect_draws_for_each_weight_anew():
    """Two weights of one shape, one identity input: the same draws would keep the same connections of both."""
    layer = drop_connect(parallel(dense(60, initializer="ones"), dense(60, initializer="ones")), 0.5)
    kept = np.asarray(apply_batch(layer, layer.init(KEY, (60,)), jnp.eye(60), key=KEY)) != 0
    assert abs((kept[:60] == kept[60:]).mean() - 0.5) < 4 * 0.5 / 60


def test_drop_connect_keeps_its_draw_along_a_sequence():
    """An rnn's connections stay dropped for all steps: with an identity activation, W x_t comes out of the same W."""
    layer = drop_connect(recurrent(30, activation="identity", initializer="ones", recurrent_initializer="zeros", return_sequence=True), 0.5)
    sequence = np.asarray(layer.apply(layer.init(KEY, (4, 1)), jnp.ones((4, 1)), key=KEY))
    assert set(sequence.ravel()) == {0.0, 2.0}
    np.testing.assert_array_equal(sequence, np.broadcast_to(sequence[0], sequence.shape))


def test_drop_connect_passes_the_key_on():
    layer = drop_connect(serial(dropout(0.5), dense(1, initializer="ones")), 0.0)
    params = layer.init(KEY, (100,))
    assert layer.apply(params, jnp.ones(100), key=KEY) != layer.apply(params, jnp.ones(100))
    some = drop_connect(serial(dropout(0.5), flatten()), 0.5)  # no weights to drop: what is dropped is the neurons
    assert set(np.asarray(some.apply([(), ()], jnp.ones(100), key=KEY))) == {0.0, 2.0}


@mistakes(
    {
        "rate of one": (lambda: dropout(1.0), ValueError, r"^dropout: rate must be in \[0, 1\), got 1.0$", lambda: dropout(0.999)),
        "rate above one": (lambda: dropout(20), ValueError, r"^dropout: rate must be in \[0, 1\), got 20$", lambda: dropout(0.2)),
        "rate below zero": (lambda: dropout(-0.1), ValueError, r"^dropout: rate must be in \[0, 1\), got -0.1$", lambda: dropout(0)),
        "rate NaN": (lambda: dropout(float("nan")), ValueError, r"^dropout: rate .* got nan$", lambda: dropout(0.1)),
        "rates": (
            lambda: jax.jit(lambda rates: dropout(rates).apply((), jnp.ones(3)))(jnp.array([0.1, 0.2])),
            TypeError,
            r"^dropout: rate must be one number, got shape \(2,\); use jax.vmap for several",
            lambda: jax.vmap(lambda rate: dropout(rate).apply((), jnp.ones(3)))(jnp.array([0.1, 0.2])),
        ),
        "rate no number": (lambda: dropout("0.1"), TypeError, r"^dropout: rate must be one number, got '0.1'$", lambda: dropout(0.1)),
        "connections": (
            lambda: drop_connect(dense(3), 1.0),
            ValueError,
            r"^drop_connect: rate must be in \[0, 1\), got 1.0$",
            lambda: drop_connect(dense(3), 0.9),
        ),
        "no layer": (
            lambda: drop_connect(0.5, 0.5),
            TypeError,
            r"^drop_connect: needs an object with init and apply, got 0.5; wrap a Layer such as dense\(10\)$",
            lambda: drop_connect(dense(10), 0.5),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)
