"""Mixed precision: what is computed in bfloat16, what stays in float32, and flax's numbers for the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_same_bits, check_mistake, lane, mistakes
from registries import draw

import funcnet as fn
from funcnet.layers import Layer, activation, apply_batch, conv, dense, embedding, flatten, max_pool, mixed_precision, mlp, serial

KEY = jax.random.key(3)
ULP = 2.0**-7  # a step of bfloat16 at 1; a rounding errs by at most half of it


def short(x):
    """Rounded to bfloat16, in float64."""
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)


def recorder(seen):
    """A layer that notes the dtypes that it meets."""

    def apply(params, x, *, key=None):
        seen.append((params["weight"].dtype, x.dtype))
        return params["weight"] @ x

    return Layer(lambda key, in_shape: {"weight": jnp.ones((2, *in_shape))}, apply)


def test_params_and_input_are_cast_on_the_way_in_and_the_output_on_the_way_out():
    seen = []
    layer = mixed_precision(recorder(seen), jnp.bfloat16)
    params = layer.init(KEY, (3,))
    assert params["weight"].dtype == jnp.float32
    assert layer.apply(params, jnp.ones(3)).dtype == jnp.float32
    assert layer.apply(params, jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
    assert set(seen) == {(jnp.dtype("bfloat16"), jnp.dtype("bfloat16"))}


def test_a_dense_layer_is_a_product_of_rounded_numbers():
    """In NumPy: the factors rounded, their sum whole, then rounded, the bias added, and rounded once more."""
    layer, x = mixed_precision(dense(4)), draw((5, 6), dtype=np.float32)
    params = {"weight": jnp.asarray(draw((4, 5), 1), jnp.float32), "bias": jnp.asarray(draw((4,), 2), jnp.float32)}
    by_hand = short(short(short(params["weight"]) @ short(x)) + short(params["bias"])[:, None])
    got = np.asarray(apply_batch(layer, params, jnp.asarray(x)))
    np.testing.assert_allclose(got, by_hand, rtol=ULP, atol=1e-6)
    assert np.array_equal(got, short(got)) and np.mean(got == by_hand) > 0.9
    single = np.asarray(apply_batch(dense(4), params, jnp.asarray(x)))
    assert np.max(np.abs(got - single)) > 1e-3  # it is another number


@pytest.mark.parametrize("dtype", ["float32", jnp.float32, np.float32])
def test_float32_changes_no_bit(dtype):
    model, x = mlp((8, 3), "silu", 0.3), jnp.asarray(draw((5, 7)), jnp.float32)
    params = model.init(KEY, (5,))
    for key in (None, KEY):
        assert_same_bits(apply_batch(mixed_precision(model, dtype), params, x, key=key), apply_batch(model, params, x, key=key))


def test_whole_numbers_are_looked_up_as_they_are():
    layer = mixed_precision(embedding(300, 2))
    params = layer.init(KEY, (1,))
    y = layer.apply(params, jnp.array([257]))  # which bfloat16 can't tell from 256
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y[0], short(params["table"][257]))


def net():
    return serial(conv(3, 3), activation("relu"), max_pool(2), flatten(), dense(2))


def loss_fn(model):
    return lambda params, x: jnp.sum(jnp.square(apply_batch(model, params, x)))


def test_gradients_are_float32_and_near_those_of_float32():
    model, x = net(), jnp.asarray(draw((1, 6, 6, 4)), jnp.float32)
    params = model.init(KEY, (1, 6, 6))
    exact = jax.grad(loss_fn(model), (0, 1))(params, x)
    rounded = jax.grad(loss_fn(mixed_precision(model)), (0, 1))(params, x)
    for ours, theirs in zip(jax.tree.leaves(rounded), jax.tree.leaves(exact), strict=True):
        assert ours.dtype == jnp.float32
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert 1e-5 < error < 0.05  # some eight bits are left of them, and no more


def test_variants_together_are_each_alone():
    """A lane's sums may be taken in another order: to a rounding of bfloat16."""
    layer, x = mixed_precision(mlp((8, 2), "tanh")), jnp.asarray(draw((3, 4, 5)), jnp.float32)
    params = jax.vmap(lambda key: layer.init(key, (4,)))(jax.random.split(KEY, 3))
    together = jax.vmap(lambda params, x: apply_batch(layer, params, x))(params, x)
    assert together.dtype == jnp.float32
    for i in range(3):
        np.testing.assert_allclose(together[i], apply_batch(layer, lane(params, i), x[i]), rtol=2 * ULP, atol=2 * ULP)


X = draw((60, 4), 5, np.float32)
DATA = fn.Dataset(X, (X[:, 0] > 0).astype(np.int32))


def recipe(learning_rate, compute_dtype="float32"):
    model = mixed_precision(mlp((8, 2), "relu", 0.1), compute_dtype)
    return fn.training(model, fn.cross_entropy, fn.adam(learning_rate), in_shape=(4,))


def test_a_sweep_over_precisions_is_a_program_each():
    variants = fn.grid(learning_rate=[0.01, 0.03, 0.1], compute_dtype=["float32", "bfloat16"])
    settings = dict(key=KEY, num_steps=60, batch_size=16, progress=False)
    result = fn.sweep(recipe, variants, DATA, **settings)
    assert len(result.timing["lane_widths"]) == 2
    loss, rounded = result.table["train/loss"], result.table["compute_dtype"] == "bfloat16"
    assert not np.isin(loss[rounded], loss[~rounded]).any()
    np.testing.assert_allclose(loss[rounded], loss[~rounded], rtol=0.2, atol=0.01)
    for row in range(len(result)):
        assert {leaf.dtype for leaf in jax.tree.leaves(result.state(row))} == {jnp.dtype("float32"), jnp.dtype("int32")}
    again = fn.sweep(recipe, variants, DATA, **settings)
    assert again.timing["programs"] == 0
    np.testing.assert_array_equal(again.table["train/loss"], loss)


@pytest.mark.parametrize("examples", [1, 6])
def test_flax_computes_the_same_from_the_same_weights(examples):
    nn = pytest.importorskip("flax.linen")
    kinds = dict(dtype=jnp.bfloat16, param_dtype=jnp.float32)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(3, (3, 3), **kinds, name="conv")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
            return nn.Dense(2, **kinds, name="dense")(x.reshape(len(x), -1))

    model, x = mixed_precision(net()), jnp.asarray(draw((examples, 1, 6, 6)), jnp.float32)
    params = model.init(KEY, (1, 6, 6))
    kernel, weight = params[0]["weight"], params[4]["weight"]
    own = {  # channels lie last there, before they are flattened too
        "conv": {"kernel": kernel.transpose(2, 3, 1, 0), "bias": params[0]["bias"]},
        "dense": {"kernel": weight.reshape(2, 3, 9).swapaxes(1, 2).reshape(2, 27).T, "bias": params[4]["bias"]},
    }
    theirs = lambda own, x: Net().apply({"params": own}, jnp.moveaxis(x, 1, -1)).astype(jnp.float32)
    ours = jax.vmap(model.apply, (None, 0))

    def both(net, params):
        def squares(params):
            y = net(params, x)
            return jnp.sum(jnp.square(y)), y

        (_, y), grad = jax.jit(jax.value_and_grad(squares, has_aux=True))(params)
        return y, grad

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        (y, of_ours), (expected, of_theirs) = both(ours, params), both(theirs, own)
        np.testing.assert_allclose(y, expected, atol=ULP * float(np.max(np.abs(y))))
    assert {leaf.dtype for leaf in jax.tree.leaves((of_ours, of_theirs))} == {jnp.dtype("float32")}
    conv_grad = of_theirs["conv"]["kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_allclose(of_ours[0]["weight"], conv_grad, atol=3 * ULP * float(np.max(np.abs(conv_grad))))


def in_64_bits():
    with jax.enable_x64(True):
        assert (
            mixed_precision(dense(1), "float64").apply({"weight": jnp.ones((1, 1)), "bias": jnp.ones(1)}, jnp.ones(1)).dtype == jnp.float64
        )


@mistakes(
    {
        "no dtype": (
            lambda: mixed_precision(dense(1), "bfloat17"),
            TypeError,
            "compute_dtype must be .* got 'bfloat17'; such as 'bfloat16'",
            lambda: mixed_precision(dense(1), "bfloat16"),
        ),
        "none": (lambda: mixed_precision(dense(1), None), TypeError, "floating-point dtype, got None", lambda: mixed_precision(dense(1))),
        "whole numbers": (
            lambda: mixed_precision(dense(1), jnp.int8),
            TypeError,
            "floating-point dtype, got .*int8",
            lambda: mixed_precision(dense(1), jnp.float16),
        ),
        "wider than JAX": (
            lambda: mixed_precision(dense(1), "float64"),
            ValueError,
            "computes in, got float64; .*'jax_enable_x64', True",
            in_64_bits,
        ),
        "no layer": (lambda: mixed_precision(dense), TypeError, "needs an object with init and apply", lambda: mixed_precision(dense(1))),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)
