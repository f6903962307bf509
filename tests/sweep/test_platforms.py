"""A sweep's programs lower for accelerators that this machine doesn't have."""

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


@pytest.mark.parametrize("shared", [True, False], ids=["shared keys", "a key a lane"])
@pytest.mark.parametrize(("recipe", "in_shape"), [(dense_recipe, (6,)), (conv_recipe, (1, 6, 6)), (recurrent_recipe, (6, 6))])
def test_every_program_lowers_for_cpu_cuda_and_tpu(recipe, in_shape, shared):
    functions = lane_functions(recipe, Group({}, 8, False, []), shared)
    key = jax.random.key(0)
    keys = run_keys(key) if shared else jax.vmap(run_keys)(jax.random.split(key, LANES))
    lanes = Lanes(jnp.arange(LANES, dtype=jnp.int32), {"learning_rate": jnp.full(LANES, 0.1), "drop": jnp.full(LANES, 0.2)}, None, keys)
    part = fn.Dataset(jnp.zeros((16, *in_shape)), jnp.zeros(16, jnp.int32))
    data = fn.Split(part, part)
    run = jax.eval_shape(functions.init, lanes)
    step = jax.ShapeDtypeStruct((), np.int32)
    for function, arguments in (
        (functions.init, (lanes,)),
        (functions.advance, (lanes, run, data, step, step)),
        (functions.evaluate, (lanes, run, data)),
    ):
        exported = jax.export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*arguments)
        assert exported.platforms == ("cpu", "cuda", "tpu")
        assert {value.shape[0] for value in exported.out_avals} == {LANES}
