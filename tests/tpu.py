"""Sweeps for TPUs that aren't here, as a program of its own: everything but running is done, and what was compiled is described.

    python tests/tpu.py v5e:2x2 v6e:2x2

prints what `tests/sweeps/test_tpu.py` looks at, as JSON. It stands apart since libtpu reads its environment as it is loaded, and ends
the process where it can't go on.
"""

import functools
import json
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import PartitionSpec, SingleDeviceSharding
from platforms import RECIPES, Example, unwanted_once_compiled

import funcnet as fn

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it only compiles, and takes no TPU from anyone
    "TPU_SKIP_MDS_QUERY": "1",  # asks nobody on the network what machine this is
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # what was compiled without a chip can be written to it, and not read
}
MEMORY = {"v5e:2x2": 16 * 2**30, "v6e:2x2": 32 * 2**30}  # bytes a chip


def large_recipe(learning_rate, drop, strength):
    model = fn.mlp((1024, 10), "relu", drop)
    return fn.training(model, fn.cross_entropy, fn.adam(learning_rate), in_shape=(64,), penalty=fn.l2(strength))


EVERY = RECIPES | {"large": Example(large_recipe, (64,))}  # more of whose lanes than an accelerator would take don't fit on a small one
SWEEPS = {"v5e:2x2": tuple(EVERY), "v6e:2x2": ("dense", "conv", "recurrent")}  # the others would take a minute more, and say no more
VARIANTS, FEW, EXAMPLES, BATCH = 8192, 256, 1024, 32


class OnlyCompiled(Exception):
    """A program for a chip that isn't here would have been run."""


def main(topology: str) -> dict[str, Any]:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    made: dict[str, Any] = {}
    stand_in(devices[0], made)
    return {"sweeps": {name: swept(name, topology, made) for name in SWEEPS[topology]}, "controls": controls(devices)}


def stand_in(device: Any, made: dict[str, Any]) -> None:
    """This process has this device alone, moves to the CPU what should go there, and notes in `made` what is compiled, the last of each name."""
    put, compile_lowered, here = jax.device_put, jax.stages.Lowered.compile, jax.devices("cpu")[0]

    def note(lowered: Any, *options: Any) -> Any:
        program = compile_lowered(lowered, *options)
        made[re.match(r"HloModule (\w+)", program.as_text())[1]] = program  # type: ignore[index]
        return program

    def refuse(*arguments: Any, **named: Any) -> None:
        raise OnlyCompiled

    jax.local_devices = lambda *_, **__: [device]
    jax.device_put = lambda x, to=None, **named: put(x, here if to is device else to, **named)
    jax.stages.Lowered.compile = note
    jax.stages.Compiled.__call__ = refuse


def swept(name: str, topology: str, made: dict[str, Any]) -> dict[str, Any]:
    """What a sweep of so many variants compiles, and how many of them for one chunk."""
    example, every = EVERY[name], name == "named"  # and then with all that a sweep can ask for, as keys of the lanes' own
    number = FEW if every else VARIANTS
    names = {argument: [fn.traced(option) for option in options[:1]] for argument, options in example.names.items()}
    variants = fn.grid(learning_rate=list(np.geomspace(1e-4, 1e-1, number // 2)), drop=[0.1, 0.5], strength=[0.01], **names)
    if every:
        variants = [{**variant, "num_examples": 500 + i % 500} for i, variant in enumerate(variants)]
    own = dict(key=jax.random.key(0), num_steps=100, batch_size=BATCH, memory_budget=3 * MEMORY[topology] // 4)
    made.clear()
    try:
        fn.sweep(example.recipe, variants, example.data(EXAMPLES), progress=False, randomness="independent" if every else "shared", **own)
    except fn.SweepFailed as failed:
        if not isinstance(failed.__cause__, OnlyCompiled):
            raise
        (lanes,), halved = failed.result.timing["lane_widths"], failed.result.timing["halved"]
    return {"lanes": lanes, "halved": halved, "programs": {own: described(program) for own, program in made.items()}}


def described(program: Any) -> dict[str, Any]:
    text, memory = program.as_text(), program.memory_analysis()
    return {
        "bytes": memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes,
        "host_bytes": memory.host_argument_size_in_bytes + memory.host_output_size_in_bytes + memory.host_temp_size_in_bytes,
        "flops": program.cost_analysis().get("flops", 0),  # a loop's body counted once
        "loops": text.count(" while("),
        "windows": len(re.findall(r" convolution\([^\n]*window={size=\d+x\d", text)),  # products have one axis or none
        "unwanted": sorted(unwanted_once_compiled(text)),
    }


def controls(devices: Any) -> dict[str, list[str]]:
    """What is found in programs that do what a sweep's may not."""
    place = SingleDeviceSharding(devices[0])
    mesh = jax.sharding.Mesh(np.array(devices), "chips")

    def loop(body: Any) -> Any:
        return jax.jit(lambda x: jax.lax.fori_loop(0, len(x), lambda i, x: body(x), x)).lower(
            jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=place)
        )

    def callback(x: jax.Array) -> jax.Array:
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def away(x: jax.Array) -> jax.Array:
        there = jax.device_put(x, jax.memory.Space.Host)
        return jax.device_put(there, jax.memory.Space.Device) + 1

    add = jax.shard_map(
        functools.partial(jax.lax.psum, axis_name="chips"), mesh=mesh, in_specs=PartitionSpec("chips"), out_specs=PartitionSpec()
    )
    spread = jax.ShapeDtypeStruct((len(devices), 128), jnp.float32, sharding=jax.NamedSharding(mesh, PartitionSpec("chips")))
    lowered = {"callback": loop(callback), "host": loop(away), "collective": jax.jit(add).lower(spread)}
    return {name: sorted(unwanted_once_compiled(program.compile().as_text())) for name, program in lowered.items()}


if __name__ == "__main__":
    print(json.dumps({topology: main(topology) for topology in sys.argv[1:]}))
