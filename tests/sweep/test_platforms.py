"""A sweep's programs lower for accelerators that this machine doesn't have."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.sweep.plan import Group
from funcnet.sweep.program import Lanes, lane_functions
from funcnet.training import run_keys

LANES = 4


def dense_recipe(learning_rate, drop):
    return fn.training(fn.mlp((8, 3), "relu", drop), fn.cross_entropy, fn.adam(learning_rate), in_shape=(6,), metrics=["accuracy"])


def conv_recipe(learning_rate, drop):
    model = fn.serial(fn.conv(4, 3), fn.activation("relu"), fn.max_pool(2), fn.flatten(), fn.dropout(drop), fn.dense(3))
    return fn.training(model, fn.cross_entropy, fn.momentum(learning_rate), in_shape=(1, 6, 6))


def recurrent_recipe(learning_rate, drop):
    model = fn.serial(fn.recurrent(5, cell="lstm"), fn.dropout(drop), fn.dense(3))
    return fn.training(model, fn.cross_entropy, fn.rmsprop(learning_rate), in_shape=(6, 6))


def named_recipe(learning_rate, drop, activation, optimizer):
    model = fn.mlp((8, 3), activation, drop)
    return fn.training(model, fn.cross_entropy, fn.optimizer(optimizer, learning_rate), in_shape=(6,))


OPTIONS = {"activation": ("arctan_sigmoid", "relu"), "optimizer": ("adam", "sgd")}
RECIPES = {
    "dense": (dense_recipe, (6,), {}),
    "conv": (conv_recipe, (1, 6, 6), {}),
    "recurrent": (recurrent_recipe, (6, 6), {}),
    "named": (named_recipe, (6,), OPTIONS),
}


def programs(name, shared=True):
    """A recipe's three programs as functions, with arguments to lower them for."""
    recipe, in_shape, options = RECIPES[name]
    functions = lane_functions(recipe, Group({}, 8, False, [], options), shared)
    key = jax.random.key(0)
    keys = run_keys(key) if shared else jax.vmap(run_keys)(jax.random.split(key, LANES))
    numbers = {"learning_rate": jnp.full(LANES, 0.1), "drop": jnp.full(LANES, 0.2)}
    lanes = Lanes(jnp.arange(LANES, dtype=jnp.int32), numbers, {name: jnp.int32(0) for name in options}, None, keys)
    part = fn.Dataset(jnp.zeros((16, *in_shape)), jnp.zeros(16, jnp.int32))
    data = fn.Split(part, part)
    run = jax.eval_shape(functions.init, lanes)
    step = jax.ShapeDtypeStruct((), np.int32)
    return functions, ((lanes,), (lanes, run, data, step, step), (lanes, run, data))


@pytest.mark.parametrize("shared", [True, False], ids=["shared keys", "a key a lane"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_program_lowers_for_cpu_cuda_and_tpu(name, shared):
    for function, arguments in zip(*programs(name, shared), strict=True):
        exported = jax.export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*arguments)
        assert exported.platforms == ("cpu", "cuda", "tpu")
        assert {value.shape[0] for value in exported.out_avals} == {LANES}


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", (0, 0)), ("cuda", (2, 2)), ("rocm", (2, 2)), ("tpu", (2, 2))])
def test_a_convolution_is_a_product_on_a_cpu_and_a_convolution_elsewhere(platform, convolutions):
    """A step's two, on the way forward and for the kernels' gradients; none for the gradient of data. Evaluation's, of two sets."""
    functions, arguments = programs("conv")
    for i in (1, 2):
        text = jax.jit(functions[i]).trace(*arguments[i]).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == convolutions[i - 1]


def test_nothing_of_the_choice_is_left_once_compiled():
    """No branch, no form but the one, and one gathering of windows for both ways."""
    functions, arguments = programs("conv")
    text = jax.jit(functions.advance).lower(*arguments[1]).compile().as_text()
    assert not re.search(r" (conditional|convolution)\(", text)
    assert len(re.findall(r"f32\[9,[^ ]* concatenate\(", text)) == 1


def test_a_traced_name_is_a_branch_and_no_select_among_all():
    """Forwards and backwards one branch is taken; a batched switch would have become selects."""
    functions, arguments = programs("named")
    text = jax.jit(functions.advance).lower(*arguments[1]).as_text()
    assert text.count("stablehlo.case") == 2  # the activation and its slope; the optimizer is one rule, without branches
