"""hyperoptax's random search around a training loop in JAX and optax; it stops no net early."""

import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hyperoptax import LinearSpace, LogSpace, RandomSearch

from experiments.pruning.problem import BATCH_SIZE, CLASSES, DROPOUT, L2, LEARNING_RATE, WIDTH, Problem, points

PARALLEL = 64  # nets that one program trains together


def objective_of(problem: Problem) -> Callable[[jax.Array, dict[str, jax.Array]], jax.Array]:
    """(key, hyperparameters) -> validation accuracy of one net."""
    (x, y), validation = map(jnp.asarray, problem.train), tuple(map(jnp.asarray, problem.validation))
    epochs, rng = -(-problem.num_steps // problem.batches), np.random.default_rng(problem.seed)
    # All nets use one order of examples, made beforehand: with a shuffle inside the program XLA takes several times as long to compile.
    orders = np.concatenate([rng.permutation(len(y))[: problem.batches * BATCH_SIZE] for _ in range(epochs)])
    orders = jnp.asarray(orders.reshape(-1, BATCH_SIZE)[: problem.num_steps])
    draw = jax.nn.initializers.glorot_uniform()

    def logits(net: dict, x: jax.Array, keep: jax.Array | float = 1.0) -> jax.Array:
        return (jax.nn.relu(x @ net["w1"] + net["b1"]) * keep) @ net["w2"] + net["b2"]

    @jax.jit
    def objective(key: jax.Array, params: dict[str, jax.Array]) -> jax.Array:
        first, second, drop = jax.random.split(key, 3)
        net = {
            "w1": draw(first, (x.shape[1], WIDTH)),
            "b1": jnp.zeros(WIDTH),
            "w2": draw(second, (WIDTH, CLASSES)),
            "b2": jnp.zeros(CLASSES),
        }
        optimizer = optax.adam(params["learning_rate"])

        def loss(net: dict, rows: jax.Array, key: jax.Array) -> jax.Array:
            share = 1 - params["dropout"]
            keep = (jax.random.uniform(key, (BATCH_SIZE, WIDTH)) < share) / share
            value = optax.softmax_cross_entropy_with_integer_labels(logits(net, x[rows], keep), y[rows]).mean()
            return value + params["l2"] * ((net["w1"] ** 2).sum() + (net["w2"] ** 2).sum())

        def step(carry: tuple, each: tuple) -> tuple:
            net, state = carry
            updates, state = optimizer.update(jax.grad(loss)(net, *each), state, net)
            return (optax.apply_updates(net, updates), state), None

        (net, _), _ = jax.lax.scan(step, (net, optimizer.init(net)), (orders, jax.random.split(drop, problem.num_steps)))
        return (logits(net, validation[0]).argmax(1) == validation[1]).mean()

    return objective


def compete(problem: Problem, tell: Callable[..., None], turns: Iterator[int] | None = None) -> None:
    """Draws and trains up to PARALLEL nets at once, again and again, until it is stopped.

    Args:
      tell: takes the best accuracy of each round, in points, and the steps it took.
      turns: which rounds; None for one after the other without end.
    """
    space = {"learning_rate": LogSpace(*LEARNING_RATE), "l2": LogSpace(*L2), "dropout": LinearSpace(*DROPOUT)}
    objective, parallel = objective_of(problem), min(PARALLEL, problem.variants)
    state, optimizer = RandomSearch.init(space, n_parallel=parallel)
    for turn in itertools.count() if turns is None else turns:
        key = jax.random.fold_in(jax.random.PRNGKey(problem.seed), turn)
        state, (_, results) = optimizer.optimize(state, key, objective, n_iterations=1)
        tell(answer=points(jnp.nanmax(results[0])), steps=parallel * problem.num_steps)
