"""Layers made of layers, and layers of one's own among them."""

import jax
import jax.numpy as jnp
import numpy as np
from properties import check_mistake, mistakes
from registries import draw

from funcnet.layers import Layer, activation, apply_batch, conv, dense, dropout, flatten, mlp, out_shape, parallel, residual, serial

KEY = jax.random.key(5)


def scaled_by(weight):
    """A layer as a user writes one, of fixed width: no batch form, and no check of its input."""
    return Layer(lambda key, in_shape: {}, lambda params, x, *, key=None: weight @ x)


def test_serial_is_composition():
    layers = [dense(4), activation("tanh"), dense(2)]
    model, x = serial(*layers), jnp.array(draw((3,)), jnp.float32)
    params = model.init(KEY, (3,))
    by_hand = layers[2].apply(params[2], jnp.tanh(layers[0].apply(params[0], x)))
    np.testing.assert_allclose(model.apply(params, x), by_hand, rtol=1e-6)


def test_serial_of_nothing_is_the_identity():
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(serial().apply(serial().init(KEY, (3,)), x), x)


def test_layers_of_one_model_start_from_different_draws():
    for params in (serial(dense(3), dense(3)).init(KEY, (3,)), parallel(dense(3), dense(3)).init(KEY, (3,))):
        assert np.any(np.asarray(params[0]["weight"]) != np.asarray(params[1]["weight"]))


def test_parallel_joins_features_and_channels():
    x = jnp.array(draw((2, 5)), jnp.float32)
    layers = [conv(3, 3), activation("relu")]
    model = parallel(*layers)
    params = model.init(KEY, (2, 5))
    parts = [layer.apply(own, x) for layer, own in zip(layers, params)]
    np.testing.assert_allclose(model.apply(params, x), np.concatenate(parts), rtol=1e-6)


def test_residual_adds_its_input():
    layer, x = dense(3), jnp.array(draw((3,)), jnp.float32)
    params = layer.init(KEY, (3,))
    np.testing.assert_allclose(residual(layer).apply(params, x), x + layer.apply(params, x), rtol=1e-6)


def test_mlp_is_dense_activation_dropout_and_ends_in_dense():
    x = jnp.array(draw((3,)), jnp.float32)
    by_hand = serial(dense(6), activation("gelu"), dropout(0.4), dense(5), activation("gelu"), dropout(0.4), dense(2))
    model = mlp((6, 5, 2), "gelu", 0.4)
    params = model.init(KEY, (3,))
    np.testing.assert_array_equal(model.apply(params, x, key=KEY), by_hand.apply(by_hand.init(KEY, (3,)), x, key=KEY))
    assert [np.shape(own["weight"]) for own in params if own] == [(6, 3), (5, 6), (2, 5)]
    assert len(mlp((2,)).init(KEY, (3,))) == 1


def test_a_layer_of_ones_own_mixes_with_the_built_in_ones():
    """It is vmapped over the examples, and in training each example has a key of its own."""
    noise = Layer(lambda key, in_shape: (), lambda params, x, *, key=None: x if key is None else x + jax.random.normal(key, x.shape))
    model = serial(dense(3), scaled_by(jnp.array(draw((2, 3)), jnp.float32)), noise, activation("tanh"))
    params, xs = model.init(KEY, (4,)), jnp.array(draw((4, 6)), jnp.float32)
    one_by_one = jnp.stack([model.apply(params, xs[:, i]) for i in range(6)], -1)
    np.testing.assert_allclose(apply_batch(model, params, xs), one_by_one, rtol=1e-5)
    training = np.asarray(apply_batch(model, params, jnp.ones((4, 6)), key=KEY))
    assert out_shape(model, (4,)) == (2,) and len({tuple(column) for column in training.T}) == 6


def test_a_layer_needs_no_namedtuple():
    class Doubling:
        init = staticmethod(lambda key, in_shape: ())
        apply = staticmethod(lambda params, x, *, key=None: 2 * x)

    np.testing.assert_array_equal(serial(Doubling()).apply([()], jnp.ones(2)), [2, 2])


def init(model, shape):
    return lambda: model().init(KEY, shape)


def branching(params, x, *, key=None):
    return x if x.sum() > 0 else -x


@mistakes(
    {
        "wrong layer by position": (
            init(lambda: serial(dense(3), conv(2, 3), dense(1)), (4,)),
            ValueError,
            r"^serial: layer 1 does not fit its input of shape \(3,\): conv: in_shape must have 2 or 3 axes, got \(3,\)",
            init(lambda: serial(dense(3), dense(2), dense(1)), (4,)),
        ),
        "wrong layer of one's own": (
            init(lambda: serial(dense(3), scaled_by(jnp.ones((2, 5)))), (4,)),
            TypeError,
            r"^serial: layer 1 does not fit its input of shape \(3,\): dot_general requires .* got \(5,\) and \(3,\)",
            init(lambda: serial(dense(5), scaled_by(jnp.ones((2, 5)))), (4,)),
        ),
        "a branch on a value": (
            init(lambda: serial(Layer(lambda key, in_shape: (), branching)), (4,)),
            TypeError,
            r"^serial: layer 0 does not fit its input of shape \(4,\): Attempted boolean conversion of traced array",
            init(lambda: serial(activation("relu")), (4,)),
        ),
        "a branch on a value in apply": (
            lambda: serial(Layer(lambda key, in_shape: (), branching)).apply([()], jnp.ones(2)),
            TypeError,
            r"^serial: layer 0 does not fit its input of shape \(2,\): Attempted boolean conversion of traced array",
            lambda: serial(activation("relu")).apply([()], jnp.ones(2)),
        ),
        "image into dense": (
            init(lambda: serial(conv(2, 3), dense(3)), (1, 4, 4)),
            ValueError,
            r"^serial: layer 1 does not fit its input of shape \(2, 4, 4\): dense: in_shape must have 1 axes",
            init(lambda: serial(conv(2, 3), flatten(), dense(3)), (1, 4, 4)),
        ),
        "window too large": (
            init(lambda: serial(conv(2, 3, padding="VALID"), conv(2, 5, padding="VALID")), (1, 6)),
            ValueError,
            r"^serial: layer 1 does not fit its input of shape \(2, 4\): conv: the window \(5,\) must fit the input, "
            r"got spatial shape \(4,\); padding='SAME' fits any$",
            init(lambda: serial(conv(2, 3, padding="VALID"), conv(2, 5, padding="SAME")), (1, 6)),
        ),
        "a batch": (
            lambda: serial(dense(3)).apply(serial(dense(3)).init(KEY, (4,)), jnp.ones((7, 4))),
            ValueError,
            r"^serial: layer 0 does not fit its input of shape \(7, 4\): dense: x must have shape \(4,\), got \(7, 4\); "
            r"for a batch, use jax.vmap$",
            lambda: jax.vmap(serial(dense(3)).apply, (None, 0))(serial(dense(3)).init(KEY, (4,)), jnp.ones((7, 4))),
        ),
        "factory for layer": (
            lambda: serial(dense(3), flatten),
            TypeError,
            r"^serial: layer 1: needs an object with init and apply, got <function flatten.*; a layer is made by a call, such as flatten\(\)$",
            lambda: serial(dense(3), flatten()),
        ),
        "params of another model": (
            lambda: serial(dense(3), dense(2)).apply(serial(dense(3)).init(KEY, (4,)), jnp.ones(4)),
            ValueError,
            r"^serial: params must hold one entry for each of the 2 layers, got 1$",
            lambda: serial(dense(3)).apply(serial(dense(3)).init(KEY, (4,)), jnp.ones(4)),
        ),
        "nothing in parallel": (lambda: parallel(), ValueError, r"^parallel: needs at least one layer, got 0$", lambda: parallel(dense(1))),
        "parallel by position": (
            init(lambda: parallel(dense(3), conv(2, 3)), (4,)),
            ValueError,
            r"^parallel: layer 1 does not fit its input of shape \(4,\): conv: ",
            init(lambda: parallel(dense(3), dense(2)), (4,)),
        ),
        "parallel of other lengths": (
            init(lambda: parallel(conv(2, 3), conv(2, 3, padding="VALID")), (1, 6)),
            ValueError,
            r"^parallel: outputs must agree in all axes but the first, got shapes \(\(2, 6\), \(2, 4\)\)$",
            init(lambda: parallel(conv(2, 3), conv(2, 3, padding="SAME")), (1, 6)),
        ),
        "residual of another shape": (
            lambda: residual(dense(3)).apply(dense(3).init(KEY, (4,)), jnp.ones(4)),
            ValueError,
            r"^residual: the layer must keep the shape \(4,\), got \(3,\)$",
            lambda: residual(dense(4)).apply(dense(4).init(KEY, (4,)), jnp.ones(4)),
        ),
        "residual no layer": (lambda: residual(3), TypeError, r"^residual: layer 0: needs an object with init and apply, got 3", flatten),
        "unknown activation": (
            lambda: mlp((3, 2), "rleu"),
            ValueError,
            r"^activation: unknown activation 'rleu'; did you mean 'relu'\?$",
            lambda: mlp((3, 2), "relu"),
        ),
        "width of zero": (lambda: mlp((0, 2)), ValueError, r"^mlp: every width must be at least 1, got 0$", lambda: mlp((1, 2))),
        "width no whole number": (
            lambda: mlp((2.5, 2)),
            TypeError,
            r"^mlp: every width must be a whole number, got 2.5$",
            lambda: mlp((2, 2)),
        ),
        "no widths": (
            lambda: mlp(()),
            ValueError,
            r"^mlp: widths must name at least the output, got \(\); such as \(64, 10\)$",
            lambda: mlp((64, 10)),
        ),
        "widths no sequence": (
            lambda: mlp(10),
            TypeError,
            r"^mlp: widths must be a sequence of whole numbers, got 10; such as \(64, 10\)$",
            lambda: mlp((64, 10)),
        ),
        "drop of one": (
            lambda: mlp((3, 2), dropout=1.0),
            ValueError,
            r"^mlp: dropout must be in \[0, 1\), got 1.0$",
            lambda: mlp((3, 2), dropout=0.9),
        ),
        "shape no tuple": (
            init(lambda: mlp((3, 2)), 4),
            TypeError,
            r"^serial: in_shape must be a tuple of whole numbers, got 4; one example's shape$",
            init(lambda: mlp((3, 2)), (4,)),
        ),
        "axis of zero": (
            init(lambda: mlp((3, 2)), (0,)),
            ValueError,
            r"^serial: every axis of in_shape must be at least 1, got \(0,\)$",
            init(lambda: mlp((3, 2)), (1,)),
        ),
        "out_shape": (
            lambda: out_shape(dense(3), (2, 2)),
            ValueError,
            r"^dense: in_shape must have 1 axes, got \(2, 2\); it is one example's shape, without a batch axis",
            lambda: out_shape(dense(3), (2,)),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)
