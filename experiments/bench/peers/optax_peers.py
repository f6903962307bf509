"""optax and flax: the training loop that one writes by hand, jitted, over all variants (vmap) or over one at a time."""

import functools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench.place import Place
from experiments.bench.program import CORES, Peer, Program
from experiments.bench.workloads import GATES, Group, Layers, Workload

ACTIVATIONS: dict[str, Callable] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "arctan_sigmoid": lambda x: jnp.arctan(x) * (2 / np.pi),
}
OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adagrad": lambda rate: optax.adagrad(rate, initial_accumulator_value=0.0, eps=0.0),
    "rmsprop": lambda rate: optax.rmsprop(rate, decay=0.9, eps=1e-8),
    "adam": optax.adam,
}


class Recurrent(nn.Module):
    """An rnn or GRU as PyTorch and funcnet define it, with both biases. All inputs' products are one, before the loop."""

    kind: str
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        columns, zeros = GATES[self.kind] * self.width, nn.initializers.zeros
        inputs = nn.Dense(columns, name="input")(x)
        recurrent = self.param("recurrent", nn.initializers.orthogonal(), (self.width, columns))
        bias = self.param("recurrent_bias", zeros, (columns,))

        def rnn(hidden, inputs):
            hidden = jnp.tanh(inputs + hidden @ recurrent + bias)
            return hidden, hidden

        def gru(hidden, inputs):
            reset, update, candidate = jnp.split(inputs, 3, -1)
            own_reset, own_update, own_candidate = jnp.split(hidden @ recurrent + bias, 3, -1)
            reset, update = jax.nn.sigmoid(reset + own_reset), jax.nn.sigmoid(update + own_update)
            candidate = jnp.tanh(candidate + reset * own_candidate)
            return (1 - update) * candidate + update * hidden, None

        first = jnp.zeros((x.shape[0], self.width), x.dtype)
        last, sequence = jax.lax.scan({"rnn": rnn, "gru": gru}[self.kind], first, jnp.moveaxis(inputs, 1, 0), unroll=8)
        return jnp.moveaxis(sequence, 0, 1) if self.kind == "rnn" else last


class Net(nn.Module):
    """The model in flax's layouts: examples first, channels last."""

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, *, rate: Any = None, key: jax.Array | None = None) -> jax.Array:
        for i, (kind, size) in enumerate(self.layers):
            name = f"layer_{i}"
            if kind == "dense":
                x = nn.Dense(size, name=name)(x)
            elif kind == "conv":
                x = nn.Conv(size, (3, 3), name=name)(x)
            elif kind == "max_pool":
                x = nn.max_pool(x, (size, size), (size, size))
            elif kind == "flatten":
                x = x.reshape(x.shape[0], -1)
            elif kind == "activation":
                x = ACTIVATIONS[size](x)
            elif kind in GATES:
                x = Recurrent(kind, size, name=name)(x)
            elif kind == "dropout" and key is not None:
                # One draw for all variants, each with its own threshold: flax's Dropout takes no traced rate.
                draws = jax.random.uniform(jax.random.fold_in(key, i), x.shape)
                x = jnp.where(draws >= rate, x / (1 - rate), 0)
        return x


def flax_params(layers: Layers, start: list[list[np.ndarray]]) -> dict[str, Any]:
    """funcnet's initial parameters in flax's layouts; flattened channels are in another order, the model is the same."""
    params, channels = {}, None
    for i, ((kind, _), own) in enumerate(zip(layers, start, strict=True)):
        if kind == "dense":
            weight, bias = own
            if channels is not None:
                weight = weight.reshape(len(weight), channels, -1).swapaxes(1, 2).reshape(len(weight), -1)
                channels = None
            params[f"layer_{i}"] = {"kernel": weight.T, "bias": bias}
        elif kind == "conv":
            params[f"layer_{i}"] = {"kernel": own[0].transpose(2, 3, 1, 0), "bias": own[1]}
            channels = len(own[1])
        elif kind in GATES:
            weight, recurrent, bias, recurrent_bias = own
            params[f"layer_{i}"] = {
                "input": {"kernel": weight.T, "bias": bias},
                "recurrent": recurrent.T,
                "recurrent_bias": recurrent_bias,
            }
    return {"params": params}


def optimizer(name: str, numbers: dict[str, Any]) -> optax.GradientTransformation:
    """With an L2 penalty, its gradient 2 * l2 * w joins before the rule: cheaper than differentiating the sum of squares."""
    rule = OPTIMIZERS[name](numbers["learning_rate"])
    if "l2" not in numbers:
        return rule
    return optax.chain(
        optax.add_decayed_weights(2 * numbers["l2"], mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)), rule
    )


def train_fn(workload: Workload, group: Group) -> tuple[Callable[..., jax.Array], tuple]:
    """One variant's whole training, (numbers, *shared) -> final loss, and what all variants share.

    Parameters and moments live and die inside the program, so that there is nothing to donate.
    """
    net = Net(group.layers)
    start = jax.tree.map(jnp.asarray, flax_params(group.layers, workload.start[group.layers]))
    x = jnp.asarray(np.moveaxis(workload.x, 1, -1) if workload.x.ndim == 4 else workload.x)
    y = jax.nn.one_hot(workload.y, 10) if workload.classifies else jnp.asarray(workload.y)
    order = None if workload.order is None else jnp.asarray(workload.order)
    key = jax.random.key(1, impl="rbg")  # faster draws than the default's

    def loss(params, x, y, **dropout):
        prediction = net.apply(params, x, **dropout)
        each = optax.softmax_cross_entropy(prediction, y) if workload.classifies else jnp.square(prediction - y)
        return each.mean()

    def train(numbers: dict[str, Any], start, x, y, order) -> jax.Array:
        rule = optimizer(group.optimizer, numbers)

        def step(carry, now):
            params, state = carry
            i, rows = now
            batch = (x, y) if rows is None else (x[rows], y[rows])
            dropout = {"rate": numbers["dropout"], "key": jax.random.fold_in(key, i)} if workload.random_steps else {}
            updates, state = rule.update(jax.grad(loss)(params, *batch, **dropout), state, params)
            return (optax.apply_updates(params, updates), state), None

        steps = jnp.arange(workload.num_steps)
        (params, _), _ = jax.lax.scan(step, (start, rule.init(start)), (steps, order))
        return loss(params, x, y)

    return train, (start, x, y, order)


def numbers_of(workload: Workload, indices: Iterable[int]) -> dict[str, np.ndarray]:
    """What the variants of a group differ in, shape (variants,) each."""
    names = [name for name in ("learning_rate", "dropout", "l2") if name in workload.swept]
    return {name: np.array([getattr(workload.variants[i], name) for i in indices], np.float32) for name in names}


def vmapped(workload: Workload, *, threads: int) -> Program:
    """Each group is one program of all its variants; or with threads of a share of them, a share a thread."""

    def tasks_of(group: Group):
        size = -(-len(group.indices) // (threads if len(workload.groups()) == 1 else 1))
        shares = [group.indices[i : i + size] for i in range(0, len(group.indices), size)]
        padded = [share + share[:1] * (size - len(share)) for share in shares]
        train, shared = train_fn(workload, group)
        compiled = jax.jit(jax.vmap(train, (0, None, None, None, None))).lower(numbers_of(workload, padded[0]), *shared).compile()
        return [(share, compiled, numbers_of(workload, lanes), shared) for share, lanes in zip(shares, padded, strict=True)]

    return _program(workload, tasks_of, threads)


def looped(workload: Workload, *, threads: int) -> Program:
    """Each group is compiled once, for one variant whose numbers are arguments."""

    def tasks_of(group: Group):
        train, shared = train_fn(workload, group)
        each = {i: jax.tree.map(lambda values: values[0], numbers_of(workload, (i,))) for i in group.indices}
        compiled = jax.jit(train).lower(each[group.indices[0]], *shared).compile()
        return [((i,), compiled, numbers, shared) for i, numbers in each.items()]

    return _program(workload, tasks_of, threads)


def _program(workload: Workload, tasks_of: Callable[[Group], list], threads: int) -> Program:
    """Compiles each group's program and runs the tasks of all of them, on that many threads."""
    if threads > len(workload.variants):
        raise NotImplementedError("there are fewer variants than threads")
    pool = ThreadPoolExecutor(threads)
    began = time.perf_counter()
    tasks = [task for lot in pool.map(tasks_of, workload.groups()) for task in lot]
    compile_seconds = time.perf_counter() - began

    def run(indices: tuple[int, ...]) -> np.ndarray:
        wanted, losses = set(indices), np.full(len(workload.variants), np.nan)
        chosen = [task for task in tasks if wanted.intersection(task[0])]
        outcomes = pool.map(lambda task: np.atleast_1d(task[1](task[2], *task[3])), chosen)
        for (own, *_), values in zip(chosen, outcomes, strict=True):
            losses[list(own)] = values[: len(own)]
        return losses[list(indices)]

    return Program(run, compile_seconds, pool.shutdown)


def peers(place: Place) -> dict[str, Peer]:
    """On a GPU, which runs one program after the other, there is nothing to share out among threads."""
    shared = {} if place.on_gpu else {"a thread a core": CORES}

    def forms(build: Callable[..., Program], alone: str, one_at_a_time: bool) -> Peer:
        threads = {alone: 1} | shared
        return Peer({form: functools.partial(build, threads=count) for form, count in threads.items()}, one_at_a_time, cold=[*threads][-1])

    return {"optax_vmap": forms(vmapped, "one program", False), "jitted_loop": forms(looped, "one thread", True)}
