"""A convolution's two forms, a product of gathered windows for a CPU and a convolution for anything else, against each other."""

import sys

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close
from registries import draw

import funcnet as fn
from funcnet.layers import apply_batch
from funcnet.layers.convolution import convolution, correlate, product_of_windows

EXAMPLES, LANES = 3, 4
QUICK = {"xla_backend_optimization_level": 0}  # of the compiler, which is what takes the time

CASES = {  # weight, spatial shape of x, steps, pads
    "1-d": ((2, 3, 4), (7,), (1,), ((0, 0),)),
    "1-d, strided, uneven pads": ((2, 1, 3), (8,), (2,), ((2, 1),)),
    "1-d, steps beyond the window": ((2, 2, 2), (9,), (3,), ((0, 0),)),
    "2-d": ((3, 2, 3, 3), (5, 4), (1, 1), ((1, 1), (1, 1))),
    "2-d, strided, uneven pads": ((2, 2, 2, 3), (6, 5), (2, 1), ((1, 0), (0, 2))),
    "2-d, one window": ((2, 3, 4, 2), (4, 2), (1, 1), ((0, 0), (0, 0))),
}
every_case = pytest.mark.parametrize("case", CASES)


def arguments(case, *lanes):
    weight, spatial, _, _ = CASES[case]
    return jnp.asarray(draw((*lanes, *weight))), jnp.asarray(draw((*lanes, weight[1], *spatial, EXAMPLES), 1))


def bent(form, case):
    """A scalar whose second derivatives in, and between, weight and x are not zero."""
    _, _, steps, pads = CASES[case]

    def value(weight, x):
        y = form(weight, x, steps, pads)
        return jnp.sum(jnp.sin(y) * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return value


def everything(form, case):
    """The output, and of `bent` the gradients and the second derivatives: forwards of backwards and backwards of backwards."""
    _, _, steps, pads = CASES[case]
    value = bent(form, case)

    def all_of(weight, x):
        directions = jnp.sin(3 * weight), jnp.cos(2 * x)
        gradients = jax.grad(value, (0, 1))

        def along(weight, x):
            return sum(jnp.vdot(own, direction) for own, direction in zip(gradients(weight, x), directions, strict=True))

        return {
            "output": form(weight, x, steps, pads),
            "slope": jax.jvp(value, (weight, x), directions)[1],
            "gradients": gradients(weight, x),
            "forwards": jax.jvp(gradients, (weight, x), directions)[1],
            "backwards": jax.grad(along, (0, 1))(weight, x),
        }

    return all_of


@every_case
@pytest.mark.parametrize("mapped", ["alone", "a kernel a lane", "the same x for all lanes"])
def test_both_forms_agree_in_values_and_derivatives(case, mapped):
    """Sums of some hundred float64s in two orders; rounding is near 1e-15 of the largest."""
    with jax.enable_x64(True):
        lanes = () if mapped == "alone" else (LANES,)
        weight, x = arguments(case, *lanes)
        axes = (0, 0)
        if mapped == "the same x for all lanes":
            x, axes = x[0], (0, None)
        fns = [everything(form, case) for form in (correlate, convolution)]  # on this machine the first is a product of windows
        fns = [jax.vmap(fn, axes) if lanes else fn for fn in fns]
        here, elsewhere = jax.jit(lambda *arrays: [fn(*arrays) for fn in fns], compiler_options=QUICK)(weight, x)
        largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(here))
        assert {leaf.dtype for leaf in jax.tree.leaves((here, elsewhere))} == {np.dtype(np.float64)}
        assert_close(elsewhere, here, rtol=1e-12, atol=1e-14 * largest)


@every_case
@pytest.mark.parametrize("form", [product_of_windows, convolution])
def test_each_form_in_short_precision_rounds_the_exact_result_once(case, form):
    """bfloat16 in, bfloat16 out; products are summed in more."""
    _, _, steps, pads = CASES[case]
    with jax.enable_x64(True):
        short = [array.astype(jnp.bfloat16) for array in arguments(case)]
        got = form(*short, steps, pads)
        exact = form(*(array.astype(jnp.float64) for array in short), steps, pads)
        assert got.dtype == jnp.bfloat16
        eps = float(jnp.finfo(jnp.bfloat16).eps)
        assert_close(got, exact, rtol=eps / 2 + 1e-6, atol=1e-5)


@every_case
def test_the_way_back_keeps_the_arguments_and_no_gathered_windows(case):
    """To differentiate a choice keeps whatever any form needs: windows, many times as large as x."""
    weight, x = arguments(case, LANES)
    _, _, steps, pads = CASES[case]

    def kept(fn, *arrays):
        return sorted(leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(lambda *arrays: jax.vjp(fn, *arrays)[1], *arrays)))

    def own(weight, x):
        return correlate(weight, x, steps, pads)

    assert kept(own, weight[0], x[0]) == sorted([weight.shape[1:], x.shape[1:]])
    assert kept(jax.jit(jax.vmap(own)), weight, x) == sorted([weight.shape, x.shape])


def trained(data):
    """What people do with a convolutional net: fit it, sweep it, and differentiate the loss, and the fit itself."""
    key, settings = jax.random.key(0), {"num_steps": 3, "batch_size": 4}
    net = fn.serial(fn.conv(2, 3, stride=2), fn.activation("tanh"), fn.conv(2, 2, padding="VALID"), fn.flatten(), fn.dense(3))
    flat, restore = jax.flatten_util.ravel_pytree(net.init(key, (1, 5, 5)))

    def recipe(learning_rate):
        return fn.training(net, fn.cross_entropy, fn.sgd(learning_rate), in_shape=(1, 5, 5))

    def last_loss(learning_rate):
        return fn.fit(recipe(learning_rate), data, key=key, **settings).curves["train/loss"][-1]

    def loss(flat):
        logits = apply_batch(net, restore(flat), jnp.moveaxis(data.x, 0, -1))
        return jnp.mean(jax.vmap(fn.cross_entropy, (-1, 0))(logits, data.y))

    def derived(learning_rate, flat):
        return {
            "backwards through a fit": jax.grad(last_loss)(learning_rate),
            "forwards through a fit": jax.jacfwd(last_loss)(learning_rate),
            "hessian": jax.hessian(loss)(flat),
        }

    swept = fn.sweep(recipe, fn.grid(learning_rate=[0.01, 0.1, 0.3]), data, key=key, progress=False, **settings)
    return {"sweep": jnp.asarray(swept.table["train/loss"]), **jax.jit(derived, compiler_options=QUICK)(0.1, flat)}


def test_a_net_trains_the_same_by_either_form(monkeypatch):
    """In a CPU's place `correlate` is given what everything else gets."""
    with jax.enable_x64(True):
        data = fn.Dataset(jnp.asarray(draw((8, 1, 5, 5))), jnp.arange(8, dtype=jnp.int32) % 3)
        here = trained(data)
        monkeypatch.setattr(sys.modules[correlate.__module__], "product_of_windows", convolution)
        elsewhere = trained(data)
        assert {leaf.dtype for leaf in elsewhere.values()} == {np.dtype(np.float64)}
        assert_close(elsewhere, here, rtol=1e-12, atol=1e-14)
        assert abs(here["backwards through a fit"]) > 1e-3  # there is something to compare
