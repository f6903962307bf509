"""A sweep's programs lower, and with libtpu compile, for accelerators that this machine doesn't have."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.sweep.plan import Group
from funcnet.sweep.program import Lanes, lane_functions
from funcnet.sweep.trial import Numbers, try_out
from funcnet.training import run_keys

LANES = 4


def dense_recipe(learning_rate, drop):
    return fn.training(fn.mlp((8, 3), "relu", drop), fn.cross_entropy, fn.adam(learning_rate), in_shape=(6,), metrics=["accuracy"])


def conv_recipe(learning_rate, drop):
    hidden = fn.serial(fn.conv(4, 3), fn.activation("relu"), fn.max_pool(2), fn.conv(4, 3), fn.activation("relu"))
    model = fn.serial(hidden, fn.flatten(), fn.dropout(drop), fn.dense(3))
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


def asked(name, shared=True):
    """What a recipe's programs depend on: group, lanes and data."""
    recipe, in_shape, options = RECIPES[name]
    key = jax.random.key(0)
    keys = run_keys(key) if shared else jax.vmap(run_keys)(jax.random.split(key, LANES))
    numbers = {"learning_rate": jnp.full(LANES, 0.1), "drop": jnp.full(LANES, 0.2)}
    lanes = Lanes(jnp.arange(LANES, dtype=jnp.int32), numbers, {name: jnp.int32(0) for name in options}, None, keys)
    part = fn.Dataset(jnp.zeros((16, *in_shape)), jnp.zeros(16, jnp.int32))
    data = fn.Split(part, part)
    lane = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    unknown = Numbers({name: lane[0] for name in numbers}, {name: lane[1] for name in options})
    trial = try_out(recipe, {}, unknown, options, data, 8, False, jax.eval_shape(lambda: key))
    return Group({}, 8, False, [], options, trial), lanes, data


def programs(name, shared=True):
    """A recipe's three programs as functions, with arguments to lower them for."""
    group, lanes, data = asked(name, shared)
    functions = lane_functions(group, shared)
    own = group.trial.constants, lanes
    run = jax.eval_shape(functions.init, *own)
    step = jax.ShapeDtypeStruct((), np.int32)
    return functions, (own, (*own, run, data, step, step), (*own, run, data))


@pytest.mark.parametrize("shared", [True, False], ids=["shared keys", "a key a lane"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_program_lowers_for_cpu_cuda_and_tpu(name, shared):
    for function, arguments in zip(*programs(name, shared), strict=True):
        exported = jax.export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*arguments)
        assert exported.platforms == ("cpu", "cuda", "tpu")
        assert {value.shape[0] for value in exported.out_avals} == {LANES}


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", (0, 0)), ("cuda", (5, 4)), ("rocm", (5, 4)), ("tpu", (5, 4))])
def test_a_convolution_is_a_product_on_a_cpu_and_a_convolution_elsewhere(platform, convolutions):
    """A step's two, on the way forward and for the kernels' gradients; none for the gradient of data. Evaluation's, of two sets."""
    functions, arguments = programs("conv")
    for i in (1, 2):
        text = jax.jit(functions[i]).trace(*arguments[i]).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == convolutions[i - 1]


def test_nothing_of_the_choice_is_left_once_compiled():
    """No branch, no form but the one, and for each convolution windows gathered once for both ways."""
    functions, arguments = programs("conv")
    text = jax.jit(functions.advance).lower(*arguments[1]).compile().as_text()
    assert not re.search(r" (conditional|convolution)\(", text)
    assert len(re.findall(r"f32\[[^ ]* concatenate\(", text)) == 2


def test_a_traced_name_is_a_branch_and_no_select_among_all():
    """Forwards and backwards one branch is taken; a batched switch would have become selects."""
    functions, arguments = programs("named")
    text = jax.jit(functions.advance).lower(*arguments[1]).as_text()
    assert text.count("stablehlo.case") == 2  # the activation and its slope; the optimizer is one rule, without branches


HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MEMORY = 16e9  # of the TPU named below, in bytes

# In a process of its own: libtpu reads its environment as it is loaded, and ends the process where it can't go on.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it only compiles, and takes no TPU from anyone
    "TPU_SKIP_MDS_QUERY": "1",  # asks nobody on the network what machine this is
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
COMPILE = f"""
import json, re, sys
sys.path[:0] = [{str(ROOT)!r}, {str(HERE)!r}]
from jax.experimental import topologies
from funcnet.sweep.program import compile_programs
from test_platforms import RECIPES, asked

device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
found = {{}}
for name in RECIPES:
    made = compile_programs(*asked(name), True, device).result()
    programs = made.programs
    found[name] = {{"bytes_needed": made.bytes_needed}}
    for which, program in programs._asdict().items():
        memory = program.memory_analysis()
        found[name][which] = {{
            "flops": program.cost_analysis()["flops"],  # a loop's body counted once
            "windows": len(re.findall(r" convolution\\([^\\n]*window={{size=\\d+x\\d", program.as_text())),  # products have one axis or none
            "fresh": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        }}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compiled():
    """Of each recipe what a TPU's compiler says of the three programs that a sweep would run."""
    pytest.importorskip("libtpu", reason="needs the TPU's compiler: pip install -e '.[tpu]'")
    command = [sys.executable, "-W", "error", "-c", COMPILE]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", RECIPES)
def test_every_program_compiles_for_a_tpu_and_fits(name, compiled):
    assert 0 < compiled[name]["bytes_needed"] < MEMORY
    assert all(compiled[name][which]["flops"] > 0 for which in ("init", "advance", "evaluate"))


@pytest.mark.parametrize("name", RECIPES)
def test_on_a_tpu_training_uses_the_memory_of_its_state_again(name, compiled):
    """But for the table that says where each array lies."""
    assert compiled[name]["advance"]["fresh"] < 0.02 * compiled[name]["init"]["fresh"]


def test_on_a_tpu_a_convolution_is_its_own(compiled):
    """And there are as many as were lowered for it."""
    windows = {name: [own[which]["windows"] for which in ("init", "advance", "evaluate")] for name, own in compiled.items()}
    assert windows == {"dense": [0, 0, 0], "conv": [0, 5, 4], "recurrent": [0, 0, 0], "named": [0, 0, 0]}


def test_on_a_tpu_a_convolution_of_many_lanes_is_no_larger_one_of_zeros(compiled):
    """A compiler may make a grouped convolution an ordinary one, most of whose products are with zero: times as many as lanes."""
    first, second, dense = 9 * 4 * 6 * 6, 9 * 4 * 4 * 3 * 3, 4 * 3 * 3 * 3  # multiplications of an example, forwards
    step = 2 * 8 * LANES * (2 * first + 3 * second + 3 * dense)  # there is no gradient in the data
    assert compiled["conv"]["advance"]["flops"] < 2 * step
