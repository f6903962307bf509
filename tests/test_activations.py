"""Activations: values and slopes against closed forms, what is kept, and which functions of one's own will do."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from properties import assert_same_bits, check_mistake, mistakes, traced_once
from registries import ACTIVATIONS, draw
from scipy import special

import funcnet
from funcnet import activations
from funcnet.activations import activation_fn, check_activation
from funcnet.layers import activation, mlp, recurrent

every_activation = pytest.mark.parametrize("name", ACTIVATIONS)

CLOSED_FORMS = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "gelu": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x * special.expit(x),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "arctan_sigmoid": lambda x: np.arctan(x) / (np.pi / 2),
    "tanh": np.tanh,
    "identity": lambda x: x,
}


@functools.cache
def jitted(name):
    return traced_once(lambda x: ACTIVATIONS[name](x), f"activation_{name}")


def inputs(seed=0):
    return jnp.array(3 * draw((4, 5), seed), jnp.float32)


@every_activation
def test_agrees_with_its_closed_form(name):
    x = np.asarray(inputs(), np.float64)
    with jax.enable_x64(True):
        np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x)), CLOSED_FORMS[name](x), rtol=1e-12, atol=1e-14)


def test_the_tail_of_gelu_keeps_its_digits():
    """Where 1 + tanh is a difference of numbers near to each other: jax.nn.gelu of -5 is 0 in float32."""
    x = np.linspace(-5, -1, 41)
    np.testing.assert_allclose(
        ACTIVATIONS["gelu"](jnp.asarray(x, jnp.float32)), CLOSED_FORMS["gelu"](np.float32(x).astype(float)), rtol=1e-5
    )


@every_activation
def test_jit_equals_no_jit_and_new_numbers_cause_no_new_trace(name):
    for seed in (0, 1):
        np.testing.assert_allclose(jitted(name)(inputs(seed)), ACTIVATIONS[name](inputs(seed)), rtol=1e-6, atol=1e-7)


@every_activation
def test_shape_and_dtype_are_kept(name):
    single = jitted(name)(inputs())
    short = ACTIVATIONS[name](inputs().astype(jnp.bfloat16))
    assert (single.shape, single.dtype) == ((4, 5), jnp.float32)
    assert (short.shape, short.dtype) == ((4, 5), jnp.bfloat16)
    np.testing.assert_allclose(np.asarray(short, np.float32), single, rtol=0.02, atol=0.02)


@every_activation
def test_variants_together_equal_each_alone_and_a_nan_leaves_the_others_alone(name):
    together = jax.jit(jax.vmap(ACTIVATIONS[name]))
    clean = together(inputs())
    for row, x in zip(clean, inputs()):
        np.testing.assert_allclose(row, ACTIVATIONS[name](x), rtol=1e-6, atol=1e-7)
    sick = together(inputs().at[1].set(jnp.nan))
    assert_same_bits(sick[jnp.array([0, 2, 3])], clean[jnp.array([0, 2, 3])])
    assert bool(jnp.all(jnp.isnan(sick[1])))


@every_activation
def test_gradients(name):
    with jax.enable_x64(True):
        x = jnp.asarray(draw((20,), 4)) + 0.01  # no point lies within check_grads' step of the kink at zero
        assert float(jnp.min(jnp.abs(x))) > 1e-3
        check_grads(jax.jit(ACTIVATIONS[name]), (x,), order=1, rtol=1e-6, atol=1e-6, eps=1e-6)


@every_activation
def test_passes_the_check_of_a_custom_activation(name):
    check_activation(ACTIVATIONS[name])


def test_closed_forms_cover_the_registry():
    assert set(CLOSED_FORMS) == set(activations.ACTIVATIONS)
    assert all(activation_fn(name) is fn for name, fn in activations.ACTIVATIONS.items())


class Scaled:
    """A callable that carries a setting: two of them share their code."""

    def __init__(self, fn):
        self.fn = fn

    def method(self, x):
        return self.fn(x)

    def __call__(self, x):
        return self.fn(x)


class Unhashable(Scaled):
    __hash__ = None

    def __eq__(self, other):
        return self is other


class Slotted:
    __slots__ = ()

    def __call__(self, x):
        return jnp.tanh(x)


def in_closure(fn):
    return lambda x: fn(x)


def in_default(fn):
    return lambda x, fn=fn: fn(x)


def in_keyword_default(fn):
    return lambda x, *, fn=fn: fn(x)


@pytest.mark.parametrize(
    "wrap", [in_closure, in_default, in_keyword_default, Scaled, lambda fn: Scaled(fn).method, Unhashable, lambda fn: functools.partial(fn)]
)
def test_the_same_code_with_another_setting_is_checked_anew(wrap):
    """A check is remembered, but never for a function that only shares its code with one that passed."""
    activation(wrap(jnp.tanh))
    with pytest.raises(ValueError, match="must be differentiable"):
        activation(wrap(jnp.sign))


def test_a_check_that_passed_is_remembered_for_the_same_lambda_written_anew():
    calls = []

    def make():
        return lambda x: seen(x)

    def seen(x):
        calls.append(x)
        return jnp.tanh(x)

    fn = make()
    activation(fn)
    once = len(calls)
    activation(fn)
    assert once > 0 and len(calls) == once


def test_odd_callables_work():
    for fn in (Slotted(), jnp.tanh, functools.partial(jax.nn.leaky_relu, negative_slope=0.3), jax.jit(jnp.sin)):
        layer = activation(fn)
        np.testing.assert_allclose(layer.apply((), jnp.array([0.5])), fn(jnp.array([0.5])), rtol=1e-6)


def test_a_traced_setting_passes_unchecked_and_can_be_vmapped():
    def run(slope):
        return activation(lambda x: jnp.tanh(slope * x)).apply((), jnp.array([1.0]))

    np.testing.assert_allclose(jax.vmap(run)(jnp.array([0.5, 2.0]))[:, 0], np.tanh([0.5, 2.0]), rtol=1e-6)


def test_check_works_inside_a_trace():
    """A recipe may build its model while the sweep traces it."""
    own = in_closure(lambda x: x / (1 + jnp.abs(x)))
    y = jax.jit(lambda x: activation(own).apply((), x))(jnp.array([1.0]))
    np.testing.assert_allclose(y, [0.5], rtol=1e-6)


def unfit(fn):
    return lambda: check_activation(fn)


def step(x):
    return jnp.where(x > 0.7, jnp.ones_like(x), jnp.zeros_like(x))


def smooth_step(x):
    return jax.nn.sigmoid(20 * (x - 0.7))


@mistakes(
    {
        "step": (
            unfit(step),
            ValueError,
            r"^check_activation: step must be differentiable, got a jump from 0 to 1 near x = 0.7; or the error cannot travel back; smooth it$",
            unfit(smooth_step),
        ),
        "sign": (
            unfit(jnp.sign),
            ValueError,
            r"^check_activation: sign must be differentiable, got a jump from -1 to 0 near x = -0.00625; .* smooth it$",
            unfit(jnp.tanh),
        ),
        "rounded": (unfit(jnp.round), ValueError, "must be differentiable, got a jump from -8 to -7 near x = -7.5", unfit(jax.nn.identity)),
        "relu with a jump": (
            unfit(lambda x: jnp.where(x > 0, x + 0.1, jnp.zeros_like(x))),
            ValueError,
            r"must be differentiable, got a jump from 0 to 0.106 near x = 0;",
            unfit(lambda x: jnp.where(x > 0, x, jnp.zeros_like(x))),
        ),
        "constant": (
            unfit(lambda x: jnp.ones_like(x)),
            ValueError,
            "must be differentiable, got a gradient of zero everywhere; or no error can travel back$",
            unfit(lambda x: jnp.ones_like(x) + x),
        ),
        "gradient stopped": (
            unfit(lambda x: jax.lax.stop_gradient(jnp.tanh(x))),
            ValueError,
            "must be differentiable, got a jump from -0.707 to -0.704 near x = -0.881",  # so it looks without its gradient
            unfit(jnp.tanh),
        ),
        "NumPy": (
            unfit(np.tanh),
            ValueError,
            r"^check_activation: tanh must be differentiable by JAX, got TracerArrayConversionError: .*; write it with jax.numpy$",
            unfit(jnp.tanh),
        ),
        "Python's branch": (
            unfit(lambda x: x if x > 0 else 0 * x),
            ValueError,
            "must be differentiable by JAX, got ValueError: The truth value of an array .*; write it with jax.numpy$",
            unfit(lambda x: jnp.where(x > 0, x, 0 * x)),
        ),
        "whole numbers": (
            unfit(lambda x: x.astype(jnp.int32)),
            ValueError,
            r"must keep shape \(2, 3\) and dtype float32, got \(2, 3\) and int32; write constants as Python numbers$",
            unfit(lambda x: x.astype(x.dtype)),
        ),
        "a wider dtype": (
            unfit(lambda x: (x * 2).astype(jnp.float32)),
            ValueError,
            r"must keep shape \(2, 3\) and dtype bfloat16, got \(2, 3\) and float32; write constants as Python numbers$",
            unfit(lambda x: x * 2),
        ),
        "another shape": (
            unfit(lambda x: x.sum(-1)),
            ValueError,
            r"must keep shape \(2, 3\) and dtype float32, got \(2,\) and float32$",
            unfit(lambda x: 2 * x),
        ),
        "softmax": (
            unfit(jax.nn.softmax),
            ValueError,
            r"^check_activation: softmax must act on each element alone, got 1 at x = ",
            unfit(jax.nn.sigmoid),
        ),
        "exponential": (
            unfit(jnp.exp),
            ValueError,
            r"^check_activation: exp must have finite values, got inf at x = ",
            unfit(lambda x: jnp.exp(jnp.minimum(x, 10))),
        ),
        "logarithm": (
            unfit(jnp.log),
            ValueError,
            r"^check_activation: log must have finite values, got -inf at x = 0$",
            unfit(lambda x: jnp.log(jnp.abs(x) + 1)),
        ),
        "square root": (
            unfit(lambda x: jnp.sqrt(jnp.abs(x))),
            ValueError,
            r"must have finite gradients, got (nan|inf|-inf) at x = 0$",
            unfit(lambda x: jnp.sqrt(jnp.abs(x) + 1)),
        ),
        "unknown name": (
            lambda: activation("rleu"),
            ValueError,
            r"^activation: unknown activation 'rleu'; did you mean 'relu'\?$",
            lambda: activation("relu"),
        ),
        "unknown name, nothing near": (
            lambda: activation("xyzzy"),
            ValueError,
            r"^activation: unknown activation 'xyzzy'; there are 'relu', 'leaky_relu', .* 'identity'$",
            lambda: activation("leaky_relu"),
        ),
        "no name": (
            lambda: activation(3),
            TypeError,
            r"^activation: activation must be a name, got 3; there are 'relu'",
            lambda: activation("relu"),
        ),
        "in a model": (lambda: mlp((3, 2), jnp.sign), ValueError, "sign must be differentiable", lambda: mlp((3, 2), jnp.tanh)),
        "in a recurrent layer": (
            lambda: recurrent(3, activation="than"),
            ValueError,
            r"^recurrent: unknown activation 'than'; did you mean 'tanh'\?$",
            lambda: recurrent(3, activation="tanh"),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)


def test_every_activation_is_a_function_by_a_public_name():
    for name, fn in funcnet.ACTIVATIONS.items():
        assert getattr(funcnet, name) is fn
