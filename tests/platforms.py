"""Recipes of each kind, what their programs depend on, and what a program's text may not hold, for whatever platform it is."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn
from funcnet.sweeps.lanes import Lanes
from funcnet.sweeps.program import Kind, Programs, lane_functions
from funcnet.sweeps.trial import Arguments, Trial, try_out

PLATFORMS = ("cpu", "cuda", "tpu")


def lowered(function: Callable[..., Any], *arguments: Any) -> str:
    """The text of one program for all platforms; arguments may be shapes."""
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    return exported.mlir_module()


# Of XLA's or JAX's own. Any other call is taken to leave the program, as a callback to Python does.
OWN_CALLS = {
    "Qr",  # draws orthogonal weights, with the next, on a TPU
    "ProductOfElementaryHouseholderReflectors",
    "lapack_sgeqrf_ffi",  # the same on a CPU
    "lapack_sorgqr_ffi",
    "cusolver_geqrf_ffi",  # and on a GPU
    "cusolver_orgqr_ffi",
}
_COLLECTIVE = "all.reduce|all.gather|all.to.all|collective.permute|collective.broadcast|reduce.scatter|partition.id|replica.id"
_HOST = "infeed|outfeed|send|recv"
_LOWERED = re.compile(rf"stablehlo\.(?:{_COLLECTIVE}|{_HOST})\b|f64\b")
_COMPILED = re.compile(rf" ((?:{_COLLECTIVE}|{_HOST})(?:-start)?)\(|(is_host_transfer=true|S\(5\)|f64\[)|target=\"([^\"]*callback[^\"]*)\"")


def unwanted(text: str) -> set[str]:
    """What a lowered program has of calls to Python, transfers from and to the host, collectives and float64."""
    calls = set(re.findall(r"custom_call @([\w.]+)", text)) | set(re.findall(r'call_target_name = "([^"]*)"', text))
    return set(_LOWERED.findall(text)) | (calls - OWN_CALLS)


def unwanted_once_compiled(text: str) -> set[str]:
    """The same of a program as a TPU's compiler leaves it, where S(5) is the host's memory."""
    return {"".join(found) for found in _COMPILED.findall(text)}


# The digits' shapes: 64 pixels, an image of one channel, or eight rows of eight.


def dense_recipe(learning_rate, drop, strength):
    model = fn.mlp((32, 10), "relu", drop)
    return fn.training(model, fn.cross_entropy, fn.adam(learning_rate), in_shape=(64,), penalty=fn.l2(strength), metrics=["accuracy"])


def conv_recipe(learning_rate, drop, strength):
    hidden = fn.serial(fn.conv(4, 3), fn.activation("relu"), fn.max_pool(2), fn.conv(4, 3), fn.activation("relu"))
    model = fn.serial(hidden, fn.flatten(), fn.dropout(drop), fn.dense(10))
    return fn.training(model, fn.cross_entropy, fn.adam(learning_rate), in_shape=(1, 8, 8), penalty=fn.l1(strength))


def recurrent_recipe(learning_rate, drop, strength):
    model = fn.serial(fn.recurrent(16, cell="lstm"), fn.dropout(drop), fn.dense(10))
    return fn.training(model, fn.cross_entropy, fn.adam(learning_rate), in_shape=(8, 8), penalty=fn.l3(strength))


def named_recipe(learning_rate, drop, strength, activation, optimizer):
    model = fn.mlp((32, 10), activation, drop)
    return fn.training(model, fn.cross_entropy, fn.optimizer(optimizer, learning_rate), in_shape=(64,), penalty=fn.l2(strength))


NAMES = {"activation": ("arctan_sigmoid", "relu"), "optimizer": ("adam", "sgd")}


class Example(NamedTuple):
    """A recipe, the shape of an example, and the names that it leaves open."""

    recipe: Callable[..., fn.Training]
    in_shape: tuple[int, ...]
    names: dict[str, tuple[str, ...]] = {}  # noqa: RUF012  (an empty one is never written to)

    def data(self, examples: int) -> fn.Split:
        part = fn.Dataset(np.zeros((examples, *self.in_shape), np.float32), np.zeros(examples, np.int32))
        return fn.Split(part, part)


RECIPES = {
    "dense": Example(dense_recipe, (64,)),
    "conv": Example(conv_recipe, (1, 8, 8)),
    "recurrent": Example(recurrent_recipe, (8, 8)),
    "named": Example(named_recipe, (64,), NAMES),
}

LANES, EXAMPLES, BATCH = 3, 16, 8


class Form(NamedTuple):
    """What a sweep asks of its programs beside the recipe."""

    keys: str = "shared"  # or one "each" lane, of its replicate, or "independent", of its variant too
    batch_size: int | None = BATCH
    limits_examples: bool = False


FORMS = {
    "shared keys": Form(),
    "a key a lane": Form("each"),
    "a key a variant": Form("independent"),
    "all examples": Form(batch_size=None),
    "all examples, a key a lane": Form("each", batch_size=None),
    "num_examples": Form(limits_examples=True),
    "num_examples, a key a lane": Form("each", limits_examples=True),
    "all of num_examples": Form(batch_size=None, limits_examples=True),
}


def asked(name: str, form: Form = FORMS["shared keys"]) -> tuple[Trial, Kind]:
    """What a recipe's programs depend on: its trial, and the kind of what they are given."""
    example, key, shared = RECIPES[name], jax.random.key(0), form.keys == "shared"
    each, one = jnp.arange(LANES, dtype=jnp.int32), jnp.int32(0)
    numbers = {number: jnp.full(LANES, 0.1) for number in ("learning_rate", "drop", "strength")}
    names = dict.fromkeys(example.names, one)
    limits = 4 * each + 2 if form.limits_examples else None
    lanes = Lanes(each, numbers, names, limits, one if shared else each, each if form.keys == "independent" else None)
    unknown = jax.eval_shape(lambda numbers: Arguments({k: v[0] for k, v in numbers.items()}, names), numbers)
    data = example.data(EXAMPLES)
    trial = try_out(example.recipe, {}, unknown, example.names, data, form.batch_size, form.limits_examples, jax.eval_shape(lambda: key))
    return trial, Kind(lanes, key, data, shared, jax.devices("cpu")[0])


def programs(name: str, form: Form = FORMS["shared keys"]) -> tuple[Programs, Programs]:
    """A recipe's programs as functions, and for each the arguments to lower it for."""
    trial, kind = asked(name, form)
    functions = lane_functions(trial, EXAMPLES, kind.shared)
    own = trial.constants, kind.lanes
    state = jax.eval_shape(functions.init, *own, kind.key)
    step = jax.ShapeDtypeStruct((), np.int32)
    drawn_by = kind.key, kind.lanes.replicate, kind.lanes.variant, kind.lanes.num_examples, step
    draws = jax.eval_shape(functions.draw, *drawn_by)
    arguments: Any = Programs(
        init=(*own, kind.key),
        draw=drawn_by,
        advance=(*own, state, kind.data, draws, step, step),
        evaluate=(*own, state, kind.data),
        finite=(state,),
    )
    return functions, arguments
