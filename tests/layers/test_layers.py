"""What is particular to each layer: how it starts, what it takes, and what it says of a wrong input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close, check_mistake, mistakes
from registries import shift_and_flip

import funcnet as fn
from funcnet.layers import (
    CELLS,
    INITIALIZERS,
    Layer,
    activation,
    adaptive_avg_pool,
    apply_batch,
    attention,
    augment,
    avg_pool,
    bidirectional,
    check_symbols,
    conv,
    conv_transpose,
    dense,
    drop_connect,
    embedding,
    flatten,
    global_avg_pool,
    group_norm,
    layer_norm,
    max_pool,
    out_shape,
    outline,
    parallel,
    positional_embedding,
    positional_encoding,
    prelu,
    recurrent,
    residual,
    serial,
    weight_norm,
)

KEY = jax.random.key(11)


def start(layer, *in_shape):
    return layer.init(KEY, in_shape)


def applied(layer, in_shape, x):
    return lambda: layer().apply(start(layer(), *in_shape), x)


def of_jax(name):
    return {"zeros": jax.nn.initializers.zeros, "ones": jax.nn.initializers.ones}.get(name) or getattr(jax.nn.initializers, name)()


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializers_draw_from_jaxs_distributions(name):
    """A convolution's fan-in counts its window, and its inputs, not its outputs; so its weights' scale is that of JAX's layout."""
    kernel, matrix = start(conv(60, (2, 5), initializer=name), 200, 8, 8)["weight"], start(dense(300, initializer=name), 700)["weight"]
    assert kernel.shape == (60, 200, 2, 5) and matrix.shape == (300, 700)
    for own, theirs in (
        (kernel, of_jax(name)(KEY, (2, 5, 200, 60), jnp.float32)),
        (matrix, of_jax(name)(KEY, (700, 300), jnp.float32)),
    ):
        own, theirs = np.ravel(own), np.ravel(theirs)
        np.testing.assert_allclose(own.std(), theirs.std(), rtol=0.01)
        np.testing.assert_allclose(own.mean(), theirs.mean(), atol=4 * theirs.std() / np.sqrt(own.size) + 1e-9)
        np.testing.assert_allclose(
            np.quantile(own, [0.0005, 0.25, 0.75, 0.9995]), np.quantile(theirs, [0.0005, 0.25, 0.75, 0.9995]), rtol=0.05
        )


@pytest.mark.parametrize(("outputs", "inputs"), [(3, 40), (40, 3)])
def test_orthogonal_weights_are_orthogonal(outputs, inputs):
    """Whichever are fewer, an output's weights or an input's; a convolution's window counts among the inputs."""
    for weight in (
        start(dense(outputs, initializer="orthogonal"), inputs)["weight"],
        start(conv(outputs, (2, 3), initializer="orthogonal"), inputs, 8, 8)["weight"].reshape(outputs, -1),
    ):
        product = weight @ weight.T if outputs < weight.shape[1] else weight.T @ weight
        assert_close(product, np.eye(len(product)), atol=1e-5)


def test_an_initializer_may_be_a_function():
    def halves(key, shape, dtype):
        return jnp.full(shape, 0.5, dtype)

    for layer, shape in (
        (dense(2, initializer=halves), (3,)),
        (conv(2, 3, initializer=halves), (1, 4)),
        (embedding(4, 2, initializer=halves), (3,)),
    ):
        weight = next(leaf for leaf in jax.tree.leaves(start(layer, *shape)) if leaf.ndim > 1)
        np.testing.assert_array_equal(weight, np.full(weight.shape, 0.5))


@pytest.mark.parametrize("name", INITIALIZERS)
def test_a_function_is_given_jaxs_layout_of_weights(name):
    """(window..., inputs, outputs): there it finds its fan-in."""
    draw = of_jax(name)
    weight = start(conv(3, (2, 5), initializer=draw), 4, 8, 8)["weight"]
    np.testing.assert_array_equal(weight, np.transpose(draw(KEY, (2, 5, 4, 3), jnp.float32), (3, 2, 0, 1)))
    np.testing.assert_array_equal(start(dense(3, initializer=draw), 4)["weight"], draw(KEY, (4, 3), jnp.float32).T)


def test_biases_start_at_zero_and_keys_give_other_weights():
    for layer, shape in ((dense(3), (4,)), (conv(3, 3), (2, 5)), (recurrent(3, cell="lstm"), (4, 2))):
        params, other = layer.init(KEY, shape), layer.init(jax.random.key(1), shape)
        for name, leaf in params.items():
            assert bool(jnp.all(leaf == 0)) == ("bias" in name)
            assert bool(jnp.any(leaf != other[name])) == ("bias" not in name)


def test_recurrent_weights_of_each_gate_are_orthogonal():
    for cell, (gates, *_) in CELLS.items():
        blocks = start(recurrent(5, cell=cell), 3, 2)["recurrent"].reshape(gates, 5, 5)
        assert_close(jnp.einsum("gij,gik->gjk", blocks, blocks), np.broadcast_to(np.eye(5), (gates, 5, 5)), atol=1e-5)
        if gates > 1:
            assert np.any(np.asarray(blocks[0] != blocks[1]))


@pytest.mark.parametrize("cell", CELLS)
def test_the_last_state_ends_the_sequence(cell):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)), jnp.float32)
    whole, last = recurrent(3, cell=cell, return_sequence=True), recurrent(3, cell=cell)
    params = start(last, 4, 2)
    sequence = whole.apply(params, x)
    assert sequence.shape == (4, 3)
    assert_close(sequence[-1], last.apply(params, x))
    assert_close(sequence[:2], whole.apply(params, x[:2]))  # the past does not depend on the future


def test_gates_stay_sigmoids_when_the_activation_is_another():
    """An activation of zero leaves a GRU's state at zero, whatever its gates do; and a state of zero an LSTM's."""
    for cell in ("gru", "lstm"):
        layer = recurrent(3, cell=cell, activation="relu", initializer="ones")
        negative = layer.apply(start(layer, 4, 2), jnp.full((4, 2), -1.0))
        assert_close(negative, jnp.zeros(3))
        assert float(layer.apply(start(layer, 4, 2), jnp.full((4, 2), 1.0)).max()) > 0.5


def test_whole_numbers_are_taken_in_the_weights_dtype():
    """Images as bytes go in as they are."""
    pixels = np.arange(12, dtype=np.uint8)
    for layer, shape in ((dense(2), (12,)), (conv(2, 3), (1, 12)), (recurrent(2), (6, 2)), (layer_norm(), (12,))):
        params = start(layer, *shape)
        y = layer.apply(params, jnp.asarray(pixels.reshape(shape)))
        assert y.dtype == jnp.float32
        assert_close(y, layer.apply(params, jnp.asarray(pixels.reshape(shape), jnp.float32)))


def test_max_pool_never_picks_its_padding():
    assert_close(max_pool(3, padding=1).apply((), jnp.full((1, 3), -5.0)), jnp.full((1, 1), -5.0))


def test_flatten_is_row_major():
    x = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(flatten().apply((), x), np.asarray(x).ravel())


def test_layer_norm_has_mean_zero_and_variance_one():
    x = jnp.asarray(np.random.default_rng(0).normal(5, 3, size=(2, 50)), jnp.float32)
    y = np.asarray(layer_norm().apply(start(layer_norm(), 2, 50), x))
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(-1), 1, rtol=1e-4)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("window", "stride"), [((3, 2), (2, 2)), ((4, 3), (1, 3)), ((2, 1), (3, 2))])
def test_conv_transpose_pads_as_flax_does(window, stride, padding):
    """Whose kernels are turned round, with the examples first and the channels last."""
    linen = pytest.importorskip("flax.linen", reason="flax is in the extra [bench]")
    layer = conv_transpose(3, window, stride=stride, padding=padding)
    params, x = start(layer, 2, 4, 5), jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 5)), jnp.float32)
    kernel = jnp.flip(params["weight"], (2, 3)).transpose(2, 3, 1, 0)
    theirs = linen.ConvTranspose(3, window, stride, padding)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = theirs.apply({"params": {"kernel": kernel, "bias": params["bias"]}}, x.transpose(1, 2, 0)[None])[0]
    assert_close(layer.apply(params, x), expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "window", "stride", "padding"), [(9, 3, 2, 1), (8, (2, 3), 1, 0), (8, 4, (2, 3), (1, 2))], ids=["even", "unequal", "wide"]
)
def test_conv_transpose_is_the_gradient_of_conv(rows, window, stride, padding):
    """In its input, with the same kernel; of sizes that the windows fill."""
    there, back = conv(2, window, stride=stride, padding=padding), conv_transpose(3, window, stride=stride, padding=padding)
    params, x = start(there, 3, rows, 9), jnp.ones((3, rows, 9))
    y, gradient = jax.vjp(lambda x: there.apply(params, x), x)
    y = jnp.asarray(np.random.default_rng(0).normal(size=y.shape), jnp.float32)
    kernel = {"weight": params["weight"].swapaxes(0, 1), "bias": jnp.zeros(3)}
    assert_close(back.apply(kernel, y), gradient(y)[0], atol=1e-5)


def test_a_place_that_sees_nothing_takes_nothing():
    """The output is what the bias of the last product says, with finite gradients; the other places are as without it."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
    seen = jnp.array([[True, True, False], [False, False, False], [True, True, True]])
    layer = attention(2, mask=seen)
    params = start(layer, 3, 4) | {"out_bias": jnp.arange(4.0)}
    y = layer.apply(params, x)
    assert_close(y[1], jnp.arange(4.0))
    assert_close(y[2], attention(2).apply(params, x)[2])
    grads = jax.grad(lambda params, x: jnp.sum(layer.apply(params, x) ** 2), (0, 1))(params, x)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(grads))


def test_a_causal_place_does_not_depend_on_the_future():
    layer = attention(2, causal=True)
    params, x = start(layer, 5, 4), jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    changed = x.at[3:].add(1.0)
    assert_close(layer.apply(params, x)[:3], layer.apply(params, changed)[:3], rtol=0, atol=0)
    assert np.any(layer.apply(params, x)[3:] != layer.apply(params, changed)[3:])
    assert_close(layer.apply(params, x[:3]), layer.apply(params, x)[:3])


def test_padding_that_a_mask_finds_changes_nothing():
    """Sequences padded with zeros, each as long as it is: the numbers of the unpadded ones."""
    layer = attention(2, mask=lambda x: jnp.any(x != 0, -1)[None])
    params, x = start(layer, 6, 4), jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 4)), jnp.float32)
    lengths = (6, 4, 1)
    padded = jnp.stack([each.at[length:].set(0.0) for each, length in zip(x, lengths)])
    together = apply_batch(layer, params, jnp.moveaxis(padded, 0, -1))
    for i, length in enumerate(lengths):
        assert_close(together[:length, :, i], attention(2).apply(params, x[i, :length]))


def test_each_group_has_mean_zero_and_variance_one():
    x = jnp.asarray(np.random.default_rng(0).normal(5, 3, size=(6, 30)), jnp.float32)
    y = np.asarray(group_norm(2).apply(start(group_norm(2), 6, 30), x)).reshape(2, -1)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(-1), 1, rtol=1e-4)


def test_each_example_is_augmented_by_a_draw_of_its_own_and_in_training_alone():
    layer, x = augment(lambda key, x: x + jax.random.uniform(key, ())), jnp.zeros((2, 50))
    np.testing.assert_array_equal(apply_batch(layer, (), x), x)
    y = np.asarray(apply_batch(layer, (), x, key=KEY))
    np.testing.assert_array_equal(y[0], y[1])
    assert len(np.unique(y[0])) == 50
    np.testing.assert_array_equal(y, jax.vmap(lambda key: layer.apply((), x[:, 0], key=key), out_axes=-1)(jax.random.split(KEY, 50)))


def test_augmented_images_are_shifts_and_flips():
    """Of one bright pixel, left of the middle: shifted as often to each row, and to the first column unflipped alone, to the last flipped."""
    image = jnp.zeros((1, 5, 5)).at[0, 2, 1].set(1.0)
    y = jax.vmap(lambda key: augment(shift_and_flip).apply((), image, key=key))(jax.random.split(KEY, 4000))
    counts = np.asarray(y[:, 0].sum(0))
    expected = 4000 / 50 * np.tile([1, 2, 2, 2, 1], (5, 1))
    np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(160))


def test_weight_norm_starts_as_its_layer_and_turns_without_stretching():
    layer = conv(3, 2)
    normed, x = weight_norm(layer), jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4)), jnp.float32)
    params = start(normed, 2, 4, 4)
    assert_close(params["direction"], start(layer, 2, 4, 4))
    assert_close(normed.apply(params, x), layer.apply(params["direction"], x), rtol=1e-5)
    stretched = params | {"direction": jax.tree.map(lambda leaf: 7 * leaf, params["direction"])}
    assert_close(normed.apply(stretched, x), normed.apply(params, x), rtol=1e-5)
    assert_close(normed.apply(params | {"length": {"weight": 2 * params["length"]["weight"]}}, x), 2 * normed.apply(params, x), rtol=1e-5)


def test_weights_of_zero_stay_so_and_their_neighbours_train():
    layer = weight_norm(dense(2, initializer="ones"))
    params = start(layer, 3)
    params["direction"]["weight"] = params["direction"]["weight"].at[0].set(0.0)
    grads = jax.grad(lambda params: jnp.sum(layer.apply(params, jnp.arange(3.0)) ** 2))(params)
    np.testing.assert_array_equal(grads["direction"]["weight"][0], 0)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(grads))
    assert float(layer.apply(params, jnp.arange(3.0))[0]) == 0 and bool(jnp.any(grads["direction"]["weight"][1] != 0))


def test_prelu_starts_as_told():
    assert_close(prelu(0.1).init(KEY, (3,)), {"slope": jnp.float32(0.1)})
    assert_close(prelu(0.1, shared=False).init(KEY, (3, 2)), {"slope": jnp.full(3, 0.1)})


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32])
def test_a_symbol_out_of_range_gives_nan_and_never_another_symbols_vector(dtype):
    """A vocabulary of 300 is more than 8 bits can count, so that counting in them could wrap around."""
    layer = embedding(300, 2, initializer="ones")
    params = start(layer, 2)
    assert np.all(np.asarray(layer.apply(params, jnp.array([0, 100], dtype))) == 1)
    if jnp.issubdtype(dtype, jnp.signedinteger):
        assert np.all(np.isnan(layer.apply(params, jnp.array([-1, -100], dtype))))
    small = embedding(5, 2, initializer="ones")
    np.testing.assert_array_equal(np.isnan(small.apply(start(small, 2), jnp.array([4, 5], dtype)))[:, 0], [False, True])


def test_numpy_inputs_are_taken():
    layer = dense(2)
    params = start(layer, 3)
    assert_close(layer.apply(params, np.ones(3, np.float32)), layer.apply(params, jnp.ones(3)))


@mistakes(
    {
        "width of zero": (lambda: dense(0), ValueError, "^dense: width must be at least 1, got 0$", lambda: dense(1)),
        "width negative": (lambda: recurrent(-2), ValueError, "^recurrent: width must be at least 1, got -2$", lambda: recurrent(2)),
        "width no whole number": (lambda: dense(2.5), TypeError, "^dense: width must be a whole number, got 2.5$", lambda: dense(2)),
        "width traced": (
            lambda: jax.jit(lambda width: start(dense(width), 3))(2),
            TypeError,
            "^dense: width must be a whole number, got ",
            lambda: jax.jit(lambda: start(dense(2), 3))(),
        ),
        "channels of zero": (lambda: conv(0, 3), ValueError, "^conv: channels must be at least 1, got 0$", lambda: conv(1, 3)),
        "vocabulary of zero": (
            lambda: embedding(0, 3),
            ValueError,
            "^embedding: vocabulary must be at least 1, got 0$",
            lambda: embedding(1, 3),
        ),
        "another shape": (
            applied(lambda: dense(2), (3,), jnp.ones(4)),
            ValueError,
            r"^dense: x must have shape \(3,\), got \(4,\)$",
            applied(lambda: dense(2), (4,), jnp.ones(4)),
        ),
        "a batch for dense": (
            applied(lambda: dense(2), (3,), jnp.ones((32, 3))),
            ValueError,
            r"^dense: x must have shape \(3,\), got \(32, 3\); for a batch, use jax.vmap$",
            lambda: jax.vmap(dense(2).apply, (None, 0))(start(dense(2), 3), jnp.ones((32, 3))),
        ),
        "time for dense": (
            applied(lambda: dense(2, leading_axes=1), (5, 3), jnp.ones((7, 5, 3))),
            ValueError,
            r"^dense: x must have shape \(7, 3\), got \(7, 5, 3\); for a batch, use jax.vmap$",
            applied(lambda: dense(2, leading_axes=1), (5, 3), jnp.ones((7, 3))),
        ),
        "a volume for dense": (
            lambda: start(dense(2), 5, 3),
            ValueError,
            r"^dense: in_shape must have 1 axes, got \(5, 3\); it is one example's shape, without a batch axis$",
            lambda: start(dense(2, leading_axes=1), 5, 3),
        ),
        "a batch for a convolution of images": (
            lambda: start(conv(2, 3), 7, 3, 8, 8),
            ValueError,
            r"^conv: in_shape must have 2 or 3 axes, got \(7, 3, 8, 8\); it is one example's shape, without a batch axis$",
            lambda: start(conv(2, (3, 3, 3)), 7, 3, 8, 8),
        ),
        "an image for a convolution of volumes": (
            applied(lambda: conv(2, (3, 3, 3)), (1, 4, 4, 4), jnp.ones((4, 4, 4))),
            ValueError,
            r"^conv: x must have shape \(1, planes, rows, columns\), got \(4, 4, 4\); channels come first$",
            applied(lambda: conv(2, (3, 3, 3)), (1, 4, 4, 4), jnp.ones((1, 4, 4, 4))),
        ),
        "a batch for a pool of volumes": (
            lambda: max_pool((2, 2, 2)).apply((), jnp.ones((7, 1, 4, 4, 4))),
            ValueError,
            r"^max_pool: x must have shape \(channels, planes, rows, columns\), got \(7, 1, 4, 4, 4\); for a batch, use jax.vmap$",
            lambda: max_pool((2, 2, 2)).apply((), jnp.ones((1, 4, 4, 4))),
        ),
        "more cut than there is": (
            applied(lambda: conv_transpose(2, 3, padding=3), (1, 4), jnp.ones((1, 4))),
            ValueError,
            "^conv_transpose: padding must be less than the output's 6, got 6; it is cut off here$",
            applied(lambda: conv_transpose(2, 3, padding=2), (1, 4), jnp.ones((1, 4))),
        ),
        "a batch for a global pool": (
            lambda: global_avg_pool().apply((), jnp.ones((7, 1, 4, 4, 4))),
            ValueError,
            r"^global_avg_pool: x must have shape \(channels, \*spatial\), got \(7, 1, 4, 4, 4\); for a batch, use jax.vmap$",
            lambda: global_avg_pool().apply((), jnp.ones((1, 4, 4, 4))),
        ),
        "a pool to nothing": (
            lambda: adaptive_avg_pool(0),
            ValueError,
            "^adaptive_avg_pool: every size must be at least 1, got 0$",
            lambda: adaptive_avg_pool(1),
        ),
        "sizes that are too many": (
            lambda: adaptive_avg_pool((2, 2)).apply((), jnp.ones((1, 4))),
            ValueError,
            r"^adaptive_avg_pool: sizes must have one size for each of the 1 spatial axes, got \(2, 2\)$",
            lambda: adaptive_avg_pool((2, 2)).apply((), jnp.ones((1, 4, 4))),
        ),
        "groups that don't divide": (
            lambda: start(group_norm(3), 4),
            ValueError,
            "^group_norm: the channels must be a multiple of the 3 groups, got 4$",
            lambda: start(group_norm(2), 4),
        ),
        "other channels for group_norm": (
            applied(lambda: group_norm(2), (4,), jnp.ones(6)),
            ValueError,
            r"^group_norm: the first axis of x must have shape \(4,\), got \(6,\)$",
            applied(lambda: group_norm(2), (6,), jnp.ones(6)),
        ),
        "heads that don't divide": (
            lambda: start(attention(3), 5, 4),
            ValueError,
            "^attention: the width must be a multiple of the 3 heads, got 4; width= sets another than that of x$",
            lambda: start(attention(3, width=6), 5, 4),
        ),
        "a batch for attention": (
            applied(lambda: attention(2), (5, 4), jnp.ones((7, 5, 4))),
            ValueError,
            r"^attention: x must have shape \(time, 4\), got \(7, 5, 4\); for a batch, use jax.vmap$",
            applied(lambda: attention(2), (5, 4), jnp.ones((7, 4))),
        ),
        "a mask of another time": (
            applied(lambda: attention(2, mask=jnp.ones((1, 5), bool)), (5, 4), jnp.ones((6, 4))),
            ValueError,
            r"^attention: mask must have shape \(6, 6\) or \(1, 6\), got \(1, 5\)$",
            applied(lambda: attention(2, mask=jnp.ones((1, 6), bool)), (5, 4), jnp.ones((6, 4))),
        ),
        "a mask of numbers": (
            applied(lambda: attention(2, mask=jnp.ones((5, 5))), (5, 4), jnp.ones((5, 4))),
            TypeError,
            "^attention: mask must be of bool, got float32; True where a place is seen$",
            applied(lambda: attention(2, mask=jnp.ones((5, 5), bool)), (5, 4), jnp.ones((5, 4))),
        ),
        "a longer sequence than there are vectors": (
            applied(positional_embedding, (5, 4), jnp.ones((6, 4))),
            ValueError,
            r"^positional_embedding: x must have shape \(at most 5, 4\), got \(6, 4\)$",
            applied(positional_embedding, (6, 4), jnp.ones((6, 4))),
        ),
        "waves of no length": (
            lambda: positional_encoding(max_wavelength=1.0),
            ValueError,
            r"^positional_encoding: max_wavelength must be in \(1, inf\), got 1.0$",
            lambda: positional_encoding(max_wavelength=10.0),
        ),
        "features alone for waves": (
            lambda: positional_encoding().apply((), jnp.ones(4)),
            ValueError,
            r"^positional_encoding: x must have shape \(time, features\), got \(4,\); time comes first$",
            lambda: positional_encoding().apply((), jnp.ones((1, 4))),
        ),
        "an augmentation that is none": (
            lambda: augment(0.5),
            TypeError,
            r"^augment: augment_fn must be a function \(key, x\) -> x, got 0.5$",
            lambda: augment(lambda key, x: 0.5 * x),
        ),
        "an augmentation that crops": (
            lambda: augment(lambda key, x: x[1:]).apply((), jnp.ones(3), key=KEY),
            ValueError,
            r"^augment: what augment_fn gives must have shape \(3,\), got \(2,\)$",
            lambda: augment(lambda key, x: x[::-1]).apply((), jnp.ones(3), key=KEY),
        ),
        "weight_norm of a function": (
            lambda: weight_norm(dense),
            TypeError,
            r"^weight_norm: needs an object with init and apply, got <function dense.*; wrap a Layer such as dense\(10\)$",
            lambda: weight_norm(dense(2)),
        ),
        "both ways of a function": (
            lambda: bidirectional(recurrent),
            TypeError,
            "^bidirectional: needs an object with init and apply, got <function recurrent.*; wrap a Layer such as recurrent\\(10\\)$",
            lambda: bidirectional(recurrent(2)),
        ),
        "a slope that is none": (
            lambda: prelu(float("nan")),
            ValueError,
            r"^prelu: initial must be in \(-inf, inf\), got nan$",
            lambda: prelu(0.0),
        ),
        "a batch for conv": (
            applied(lambda: conv(2, 3), (1, 5), jnp.ones((4, 1, 5))),
            ValueError,
            r"^conv: x must have shape \(1, length\), got \(4, 1, 5\); for a batch, use jax.vmap$",
            lambda: jax.vmap(conv(2, 3).apply, (None, 0))(start(conv(2, 3), 1, 5), jnp.ones((4, 1, 5))),
        ),
        "channels last": (
            applied(lambda: conv(2, 3), (3, 8, 8), jnp.ones((8, 8, 3))),
            ValueError,
            r"^conv: x must have shape \(3, rows, columns\), got \(8, 8, 3\); channels come first$",
            applied(lambda: conv(2, 3), (3, 8, 8), jnp.moveaxis(jnp.ones((8, 8, 3)), -1, 0)),
        ),
        "a batch for a pool": (
            applied(lambda: max_pool(2), (1, 4, 4), jnp.ones((7, 1, 4, 4))),
            ValueError,
            r"^max_pool: x must have shape \(channels, \*spatial\), got \(7, 1, 4, 4\); for a batch, use jax.vmap$",
            lambda: jax.vmap(max_pool(2).apply, (None, 0))((), jnp.ones((7, 1, 4, 4))),
        ),
        "a batch for recurrent": (
            applied(lambda: recurrent(2), (5, 3), jnp.ones((7, 5, 3))),
            ValueError,
            r"^recurrent: x must have shape \(time, 3\), got \(7, 5, 3\); for a batch, use jax.vmap$",
            lambda: jax.vmap(recurrent(2).apply, (None, 0))(start(recurrent(2), 5, 3), jnp.ones((7, 5, 3))),
        ),
        "time last": (
            applied(lambda: recurrent(2), (5, 3), jnp.ones((3, 5))),
            ValueError,
            r"^recurrent: x must have shape \(time, 3\), got \(3, 5\); time comes first$",
            applied(lambda: recurrent(2), (5, 3), jnp.ones((3, 5)).T),
        ),
        "other features for layer_norm": (
            applied(lambda: layer_norm(), (3,), jnp.ones(4)),
            ValueError,
            r"^layer_norm: the last axis of x must have shape \(3,\), got \(4,\)$",
            applied(lambda: layer_norm(), (4,), jnp.ones(4)),
        ),
        "eps of zero": (
            lambda: layer_norm(eps=0.0),
            ValueError,
            r"^layer_norm: eps must be in \(0, inf\), got 0.0$",
            lambda: layer_norm(eps=1e-6),
        ),
        "floats for symbols": (
            applied(lambda: embedding(5, 2), (3,), jnp.ones(3)),
            TypeError,
            "^embedding: x must hold integers, got float32; the symbols are numbered from 0$",
            applied(lambda: embedding(5, 2), (3,), jnp.ones(3).astype(int)),
        ),
        "axes for dense": (
            lambda: start(dense(2), 4, 4),
            ValueError,
            r"^dense: in_shape must have 1 axes, got \(4, 4\); it is one example's shape, without a batch axis$",
            lambda: start(dense(2), 4),
        ),
        "axes for conv": (
            lambda: start(conv(2, 3), 4),
            ValueError,
            r"^conv: in_shape must have 2 or 3 axes, got \(4,\)",
            lambda: start(conv(2, 3), 1, 4),
        ),
        "shape no tuple": (
            lambda: dense(2).init(KEY, 3),
            TypeError,
            "^dense: in_shape must be a tuple of whole numbers, got 3; one example's shape$",
            lambda: dense(2).init(KEY, (3,)),
        ),
        "axis of zero": (
            lambda: start(dense(2), 0),
            ValueError,
            r"^dense: every axis of in_shape must be at least 1, got \(0,\)$",
            lambda: start(dense(2), 1),
        ),
        "window of zero": (lambda: conv(2, 0), ValueError, "^conv: window must be at least 1, got 0$", lambda: conv(2, 1)),
        "window no whole number": (
            lambda: max_pool(1.5),
            TypeError,
            "^max_pool: window must be a whole number, got 1.5$",
            lambda: max_pool(2),
        ),
        "window of other axes": (
            lambda: start(conv(2, (3, 3)), 1, 8),
            ValueError,
            r"^conv: window must have one size for each of the 1 spatial axes, got \(3, 3\)$",
            lambda: start(conv(2, (3,)), 1, 8),
        ),
        "stride of zero": (
            lambda: avg_pool(2, stride=0),
            ValueError,
            "^avg_pool: stride must be at least 1, got 0$",
            lambda: avg_pool(2, stride=1),
        ),
        "window too large": (
            lambda: out_shape(max_pool(5), (1, 4)),
            ValueError,
            r"^max_pool: the window \(5,\) must fit the input, got spatial shape \(4,\); padding='SAME' fits any",
            lambda: out_shape(max_pool(5, padding="SAME"), (1, 4)),
        ),
        "padding unknown": (
            lambda: conv(2, 3, padding="SAM"),
            ValueError,
            r"^conv: unknown padding 'SAM'; did you mean 'SAME'\?$",
            lambda: conv(2, 3, padding="SAME"),
        ),
        "padding None": (
            lambda: conv(2, 3, padding=None),
            TypeError,
            r"^conv: padding must be a whole number, got None; one number, or one or \(before, after\) for each axis$",
            lambda: (conv(2, 3, padding=1), conv(2, 3, padding=(1, 1)), conv(2, 3, padding=((1, 0),))),
        ),
        "padding of three": (
            lambda: conv(2, 3, padding=((1, 2, 3),)),
            TypeError,
            r"^conv: padding must be a whole number, got \(1, 2, 3\); ",
            lambda: conv(2, 3, padding=((1, 2),)),
        ),
        "padding negative": (
            lambda: conv(2, 3, padding=-1),
            ValueError,
            r"^conv: padding must be at least 0, got -1; ",
            lambda: conv(2, 3, padding=0),
        ),
        "padding of other axes": (
            lambda: out_shape(conv(2, 3, padding=(1, 1)), (1, 8)),
            ValueError,
            r"^conv: padding must have one entry for each of the 1 spatial axes, got \(1, 1\)",
            lambda: out_shape(conv(2, 3, padding=(1,)), (1, 8)),
        ),
        "initializer unknown": (
            lambda: dense(2, initializer="he_norml"),
            ValueError,
            r"^dense: unknown initializer 'he_norml'; did you mean 'he_normal'\?$",
            lambda: dense(2, initializer="he_normal"),
        ),
        "cell unknown": (
            lambda: recurrent(2, cell="ltsm"),
            ValueError,
            r"^recurrent: unknown cell 'ltsm'; did you mean 'lstm'\?$",
            lambda: recurrent(2, cell="lstm"),
        ),
        "cell no name": (
            lambda: recurrent(2, cell=None),
            TypeError,
            "^recurrent: cell must be a name, got None; there are 'rnn'",
            lambda: recurrent(2),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)


# Symbols out of a vocabulary are found in the data.

WORDS = np.random.default_rng(4).integers(0, 10, (50, 6))


def _own_lookup(vocabulary):
    """A layer of one's own, by jnp.take, which gives NaN out of range."""
    return Layer(lambda key, in_shape: jnp.ones((vocabulary, 4)), lambda params, x, *, key=None: jnp.take(params, x, axis=0))


READERS = {
    "alone": (lambda v: embedding(v, 4), 10),
    "dense": (lambda v: serial(embedding(v, 4), flatten(), dense(3)), 10),
    "recurrent": (lambda v: serial(embedding(v, 4), recurrent(5, cell="lstm"), dense(3)), 10),
    "normalised and pooled": (lambda v: serial(embedding(v, 4), layer_norm(), max_pool(2), activation("relu"), flatten(), dense(3)), 10),
    "side by side": (lambda v: parallel(serial(embedding(v, 4), flatten()), serial(embedding(20, 1), flatten())), 10),
    "of one's own": (lambda v: serial(_own_lookup(v), flatten(), dense(3)), 10),
    "counted from one": (lambda v: serial(_shifted(embedding(v, 4)), flatten(), dense(3)), 11),
    "wrapped": (lambda v: serial(drop_connect(embedding(v, 4), 0.5), flatten()), 10),
}


def no_params_init(key, in_shape):
    return ()


def _shifted(layer):
    return Layer(layer.init, lambda params, x, *, key=None: layer.apply(params, x + 1))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("dtype", [np.int32, np.int8])
def test_symbols_out_of_a_vocabulary_are_found(name, dtype):
    make, vocabulary = READERS[name]
    words = WORDS.astype(dtype)
    check_symbols("data", make(vocabulary), words)
    for odd, place in ((10, (17, 3)), (100, (0, 0)), (-12, (49, 5))):
        wrong = words.copy()
        wrong[place] = odd
        with pytest.raises(
            ValueError, match=rf"data: a symbol must be in the vocabulary, got {odd} at index \({place[0]}, {place[1]}\) of x"
        ):
            check_symbols("data", make(vocabulary), wrong)
    wrong[place] = 7
    check_symbols("data", make(vocabulary), wrong)


def test_each_place_may_have_a_vocabulary_of_its_own():
    columns = np.stack([np.arange(30) % 3, np.arange(30) % 15], 1)
    at = lambda i: Layer(no_params_init, lambda params, x, *, key=None: x[i : i + 1])
    model = serial(parallel(serial(at(0), embedding(3, 2)), serial(at(1), embedding(15, 2))), flatten())
    check_symbols("data", model, columns)
    with pytest.raises(ValueError, match=r"got 3 at index \(4, 0\) of x"):
        check_symbols("data", model, np.where(np.arange(60).reshape(30, 2) == 8, 3, columns))


def test_symbols_that_a_model_hides_are_no_mistake():
    hidden = lambda params, x, *, key=None: jnp.where((x < 0)[:, None], 0.0, embedding(10, 4).apply(params, x))
    model = serial(Layer(embedding(10, 4).init, hidden), flatten(), dense(3))
    check_symbols("data", model, np.where(WORDS == 3, -1, WORDS))
    with pytest.raises(ValueError, match=r"got 10 at index"):
        check_symbols("data", model, np.where(WORDS == 3, 10, WORDS))


def test_it_is_known_which_models_look_something_up():
    model = serial(conv(3, 3), max_pool(2), activation("gelu"), flatten(), layer_norm(), dense(3))
    assert outline(model, (1, 8, 8)) == ((3,), False)
    assert outline(recurrent(3, cell="gru"), (7, 2)) == ((3,), False)
    reader = serial(embedding(5, 2), flatten())
    assert outline(reader, (4,), jnp.int32) == ((8,), True)
    known = jax.eval_shape(lambda: reader.init(KEY, (4,)))
    without_init = Layer(lambda key, in_shape: pytest.fail("parameters whose shapes are known were drawn"), reader.apply)
    assert outline(without_init, (4,), jnp.int32, known) == ((8,), True)


def test_symbols_are_found_before_training_with_the_part_they_stand_in():
    recipe = lambda rate: fn.training(serial(embedding(10, 2), flatten(), dense(3)), "cross_entropy", fn.sgd(rate), in_shape=(6,))
    train, other = fn.Dataset(WORDS, WORDS[:, 0] % 3), fn.Dataset(np.where(np.arange(6) == 2, 10, WORDS[:8]), WORDS[:8, 0] % 3)
    settings = dict(key=jax.random.key(0), num_steps=1, batch_size=4)
    for run in (
        lambda data: fn.fit(recipe(0.1), data, **settings),
        lambda data: fn.sweep(recipe, fn.grid(rate=[0.1]), data, progress=False, **settings),
    ):
        with pytest.raises(ValueError, match=r"training: validation: a symbol must be in the vocabulary, got 10 at index \(0, 2\) of x"):
            run(fn.Split(train, other))
    jax.jit(lambda rate: fn.fit(recipe(rate), train, **settings).curves)(0.1)  # a traced hyperparameter


def test_an_embedding_reads_a_table_from_a_file_or_the_host():
    layer = embedding(3, 2)
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(layer.apply({"table": table}, jnp.array([2, 0])), table[[2, 0]])
    np.testing.assert_array_equal(apply_batch(layer, {"table": table}, np.array([[2, 0]])), table[[2, 0]].T[None])


def test_a_layer_gives_one_array():
    two = Layer(no_params_init, lambda params, x, *, key=None: {"mean": x, "deviation": x})
    pair = Layer(no_params_init, lambda params, x, *, key=None: (x, x))
    rule = "layer: apply must return one array, got {}; join them with jnp.concatenate, or give one of them"
    for layer, kind in ((two, "dict"), (pair, "tuple")):
        match = rule.format(kind)
        with pytest.raises(TypeError, match=match):
            out_shape(layer, (3,))
        with pytest.raises(TypeError, match=match):
            apply_batch(layer, (), jnp.ones((3, 2)))
        with pytest.raises(TypeError, match=f"serial: layer 1 does not fit its input .*{match}"):
            serial(dense(3), layer).init(KEY, (3,))
        one = fn.training(layer, "squared_error", fn.sgd(0.1), in_shape=(3,))
        with pytest.raises(TypeError, match="training: a loss of LOSSES takes one array of predictions, got a model that gives several"):
            fn.fit(one, fn.Dataset(np.ones((4, 3)), np.ones((4, 3))), key=KEY, num_steps=1, batch_size=2)
    joined = Layer(no_params_init, lambda params, x, *, key=None: jnp.concatenate([x, x]))
    assert out_shape(serial(dense(3), joined), (3,)) == (6,)


# Precision: statistics, sums and pools in at least float32.


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.uint8, jnp.int8])
def test_layers_sum_in_float32(dtype):
    """Whatever dtype x is in: the same as in float32, to the rounding of the result."""
    whole = jnp.issubdtype(dtype, jnp.integer)
    high = 120 if whole else 30_000
    x = jnp.asarray(np.random.default_rng(5).integers(100, high, (2, 8, 8)), dtype)
    exact = x.astype(jnp.float32)
    rtol = 1e-6 if whole else 2 * float(jnp.finfo(dtype).eps)
    cases = {
        "layer_norm": (layer_norm(), (2, 8, 8), x, exact),
        "avg_pool": (avg_pool(4), (2, 8, 8), x, exact),
        "avg_pool padded": (avg_pool((3, 2), stride=1, padding=1), (2, 8, 8), x, exact),
        "avg_pool of a signal": (avg_pool(8), (2, 8), x[0], exact[0]),
        "dense": (dense(2, initializer="ones"), (8192,), jnp.ones(8192, dtype), jnp.ones(8192)),
        "recurrent": (
            recurrent(2, activation="identity", initializer="ones", recurrent_initializer="zeros"),
            (3, 4096),
            jnp.ones((3, 4096), dtype),
            jnp.ones((3, 4096)),
        ),
        "conv": (conv(2, 3, initializer="ones"), (1024, 4), jnp.ones((1024, 4), dtype), jnp.ones((1024, 4))),
        "residual": (residual(flatten()), (8192,), jnp.full(8192, 100, dtype), jnp.full(8192, 100.0)),
    }
    for name, (layer, in_shape, given, wide) in cases.items():
        params = start(layer, *in_shape)
        y, expected = layer.apply(params, given), layer.apply(params, wide)
        assert y.dtype == (jnp.float32 if whole else dtype), name
        np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=rtol, atol=rtol, err_msg=name)
        together = jax.vmap(layer.apply, (None, 0))(params, jnp.stack([given, given]))
        np.testing.assert_allclose(np.asarray(together[1], np.float64), expected, rtol=rtol, atol=rtol, err_msg=name)


def test_avg_pool_of_bytes():
    np.testing.assert_array_equal(avg_pool(2).apply((), jnp.full((1, 2, 2), 200, jnp.uint8)), [[[200]]])


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int32, jnp.float16, jnp.float32])
def test_max_pool_never_takes_the_padding(dtype):
    x = jnp.asarray(np.arange(9).reshape(1, 3, 3) - (0 if dtype == jnp.uint8 else 20), dtype)
    y = max_pool(2, stride=1, padding=1).apply((), x)
    assert y.dtype == dtype
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    expected = np.lib.stride_tricks.sliding_window_view(padded, (2, 2), (1, 2)).max((-1, -2))
    np.testing.assert_array_equal(np.asarray(y, np.float64), expected)


@pytest.mark.parametrize(
    ("window", "stride", "padding", "shape"),
    [(2, 2, 2, (1, 4, 4)), (3, 1, 2, (1, 6)), (1, 1, 1, (2, 5)), ((2, 5), 1, ((0, 0), (0, 3)), (1, 8, 8)), (4, 4, (2, 3), (1, 8, 8))],
    ids=str,
)
def test_more_padding_than_half_a_window_is_refused(window, stride, padding, shape):
    """It leaves windows of padding alone, whose largest is minus infinity; torch refuses it too."""
    with pytest.raises(ValueError, match=r"max_pool: padding must be at most half the window, \d for a window of \d, got \d"):
        max_pool(window, stride=stride, padding=padding).apply((), jnp.ones(shape))
    for fine in ("SAME", "VALID", 0):
        y = max_pool(window, stride=stride, padding=fine).apply((), jnp.ones(shape))
        np.testing.assert_array_equal(y, np.ones(y.shape))
