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
from funcnet.sweep.lanes import Lanes
from funcnet.sweep.program import Kind, lane_functions
from funcnet.sweep.trial import Arguments, try_out

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


NAMES = {"activation": ("arctan_sigmoid", "relu"), "optimizer": ("adam", "sgd")}
RECIPES = {
    "dense": (dense_recipe, (6,), {}),
    "conv": (conv_recipe, (1, 6, 6), {}),
    "recurrent": (recurrent_recipe, (6, 6), {}),
    "named": (named_recipe, (6,), NAMES),
}


def asked(name, shared=True, device=None):
    """What a recipe's programs depend on: its trial, and the kind of what they are given."""
    recipe, in_shape, names = RECIPES[name]
    key = jax.random.key(0)
    replicate = jnp.int32(0) if shared else jnp.arange(LANES, dtype=jnp.int32)
    numbers = {"learning_rate": jnp.full(LANES, 0.1), "drop": jnp.full(LANES, 0.2)}
    lanes = Lanes(jnp.arange(LANES, dtype=jnp.int32), numbers, {name: jnp.int32(0) for name in names}, None, replicate, None)
    part = fn.Dataset(jnp.zeros((16, *in_shape)), jnp.zeros(16, jnp.int32))
    data = fn.Split(part, part)
    lane = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    unknown = Arguments({name: lane[0] for name in numbers}, {name: lane[1] for name in names})
    trial = try_out(recipe, {}, unknown, names, data, 8, False, jax.eval_shape(lambda: key))
    return trial, Kind(lanes, key, data, shared, device)


def programs(name, shared=True):
    """A recipe's programs as functions, each with arguments to lower it for."""
    trial, kind = asked(name, shared)
    functions = lane_functions(trial, len(kind.data.train.y), shared)
    own = trial.constants, kind.lanes
    state = jax.eval_shape(functions.init, *own, kind.key)
    step = jax.ShapeDtypeStruct((), np.int32)
    drawn_by = kind.key, kind.lanes.replicate, None, None, step
    draws = jax.eval_shape(functions.draw, *drawn_by)
    arguments = (
        (*own, kind.key),
        drawn_by,
        (*own, state, kind.data, draws, step, step),
        (*own, state, kind.data),
        (state,),
    )
    return functions, functions._make(arguments)


@pytest.mark.parametrize("shared", [True, False], ids=["shared keys", "a key a lane"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_program_lowers_for_cpu_cuda_and_tpu(name, shared):
    functions, all_arguments = programs(name, shared)
    for function, arguments in zip(functions, all_arguments, strict=True):
        exported = jax.export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*arguments)
        assert exported.platforms == ("cpu", "cuda", "tpu")
        if function is not functions.draw or not shared:
            assert {LANES} <= {size for value in exported.out_avals for size in value.shape[:2]}


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", (0, 0)), ("cuda", (5, 4)), ("rocm", (5, 4)), ("tpu", (5, 4))])
def test_a_convolution_is_a_product_on_a_cpu_and_a_convolution_elsewhere(platform, convolutions):
    """A step's two, on the way forward and for the kernels' gradients; none for the gradient of data. Evaluation's, of two sets."""
    functions, arguments = programs("conv")
    for which, number in zip(("advance", "evaluate"), convolutions, strict=True):
        text = jax.jit(getattr(functions, which)).trace(*getattr(arguments, which)).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == number


def test_nothing_of_the_choice_is_left_once_compiled():
    """No branch, no form but the one, and for each convolution windows gathered once for both ways."""
    functions, arguments = programs("conv")
    text = jax.jit(functions.advance).lower(*arguments.advance).compile().as_text()
    assert not re.search(r" (conditional|convolution)\(", text)
    assert len(re.findall(r"f32\[[^ ]* concatenate\(", text)) == 2


def test_a_traced_name_is_a_branch_and_no_select_among_all():
    """Forwards and backwards one branch is taken; a batched switch would have become selects."""
    functions, arguments = programs("named")
    text = jax.jit(functions.advance).lower(*arguments.advance).as_text()
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
    made = compile_programs(*asked(name, device=device)).result()
    programs = made.programs
    found[name] = {{"bytes_needed": made.bytes_needed}}
    for which, program in programs._asdict().items():
        found[name][which] = {{
            "flops": program.cost_analysis()["flops"],  # a loop's body counted once
            "windows": len(re.findall(r" convolution\\([^\\n]*window={{size=\\d+x\\d", program.as_text())),  # products have one axis or none
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


def test_on_a_tpu_a_convolution_is_its_own(compiled):
    """And there are as many as were lowered for it."""
    windows = {name: [own[which]["windows"] for which in ("init", "advance", "evaluate")] for name, own in compiled.items()}
    assert windows == {"dense": [0, 0, 0], "conv": [0, 5, 4], "recurrent": [0, 0, 0], "named": [0, 0, 0]}


def test_on_a_tpu_a_convolution_of_many_lanes_is_no_larger_one_of_zeros(compiled):
    """A compiler may make a grouped convolution an ordinary one, most of whose products are with zero: times as many as lanes."""
    first, second, dense = 9 * 4 * 6 * 6, 9 * 4 * 4 * 3 * 3, 4 * 3 * 3 * 3  # multiplications of an example, forwards
    step = 2 * 8 * LANES * (2 * first + 3 * second + 3 * dense)  # there is no gradient in the data
    assert compiled["conv"]["advance"]["flops"] < 2 * step
