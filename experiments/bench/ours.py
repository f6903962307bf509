"""funcnet's side of the benchmark: its public API, used as any user would."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn
from experiments.bench.program import Program
from experiments.bench.workloads import PARAMETERS, Layers, Workload

KEY = 0  # of every sweep
SHARED_NAMES: tuple[str, ...] = ("activation", "optimizer")  # hyperparameters whose names share a program, marked with fn.traced

LOSSES = {True: fn.cross_entropy, False: fn.squared_error}  # by whether the workload classifies
LAYERS: dict[str, Callable[..., fn.Layer]] = {
    "conv": lambda channels: fn.conv(channels, 3),
    "max_pool": fn.max_pool,
    "flatten": lambda _: fn.flatten(),
    "activation": fn.activation,
    "rnn": lambda width: fn.recurrent(width, return_sequence=True),
    "gru": lambda width: fn.recurrent(width, cell="gru"),
}


def model(layers: Layers, initializer: str, dropout: Any = 0.0) -> fn.Layer:
    def layer(kind: str, size: Any) -> fn.Layer:
        if kind == "dense":
            return fn.dense(size, initializer=initializer)
        return fn.dropout(dropout) if kind == "dropout" else LAYERS[kind](size)

    return fn.serial(*(layer(kind, size) for kind, size in layers))


def recipe_of(workload: Workload) -> Callable[..., fn.Training]:
    def recipe(**hyperparameters: Any) -> fn.Training:
        variant = workload.variants[0]._replace(**hyperparameters)
        return fn.training(
            model(workload.layers_of(variant), workload.initializer, variant.dropout),
            LOSSES[workload.classifies],
            fn.optimizer(variant.optimizer, variant.learning_rate),
            in_shape=workload.x.shape[1:],
            penalty=fn.l2(variant.l2) if "l2" in workload.swept else None,
        )

    return recipe


def call_of(workload: Workload) -> tuple[Callable[..., fn.Training], list[dict[str, Any]], fn.Dataset, dict[str, Any]]:
    """What `fn.sweep` is called with: the recipe, the variants, the data, and the rest by name."""
    marks = {name: fn.traced if name in SHARED_NAMES else lambda value: value for name in workload.swept}
    variants = [{name: mark(getattr(variant, name)) for name, mark in marks.items()} for variant in workload.variants]
    rest = {"key": jax.random.key(KEY), "num_steps": workload.num_steps, "batch_size": workload.batch_size}
    return recipe_of(workload), variants, fn.Dataset(workload.x, workload.y), rest


def build(workload: Workload, tell: Callable[[fn.Progress], None] | bool = False) -> Program:
    """The sweep; its first run compiles, the later ones find the programs."""
    recipe, variants, data, rest = call_of(workload)

    def run(indices: tuple[int, ...]) -> np.ndarray:
        return fn.sweep(recipe, [variants[i] for i in indices], data, **rest, progress=tell).table["train/loss"]

    return Program(run)


def foreseen(workload: Workload) -> float:
    """The seconds of a warm sweep by `fn.plan`."""
    recipe, variants, data, rest = call_of(workload)
    seconds = fn.plan(recipe, variants, data, **rest).seconds
    return seconds.rehearse + seconds.train


def recorded(workload: Workload) -> Workload:
    """The workload with the initial parameters and minibatches that funcnet's sweep gives each variant.

    They are noted by a sweep of its own whose only variant learns nothing: its state holds every model's parameters as
    they were drawn, and the examples' numbers, which it finds in the batches.
    """
    models = workload.models()
    examples = np.arange(len(workload.x), dtype=np.int32)
    batch_size = workload.batch_size or len(examples)

    def init(key: jax.Array):
        nets = [model(layers, workload.initializer) for layers in models]
        params = [net.init(key, workload.x.shape[1:]) for net in nets]
        return params, jnp.zeros((workload.num_steps, batch_size), jnp.int32), jnp.zeros((), jnp.int32)

    def step(state, batch: fn.Dataset, key: jax.Array):
        params, seen, at = state
        return (params, seen.at[at].set(batch.y), at + 1), {}

    def evaluate(state, data: fn.Dataset):
        return {"loss": jnp.zeros(())}

    result = fn.sweep(
        lambda: fn.Training(init, step, evaluate),
        [{}],
        fn.Dataset(examples, examples),
        key=jax.random.key(KEY),
        num_steps=workload.num_steps,
        batch_size=workload.batch_size,
        progress=False,
    )
    params, seen, _ = result.state(0)
    start = {
        layers: [[np.asarray(own[name]) for name in PARAMETERS.get(kind, ())] for (kind, _), own in zip(layers, net, strict=True)]
        for layers, net in zip(models, params, strict=True)
    }
    return workload._replace(start=start, order=None if workload.batch_size is None else np.asarray(seen))
