"""Runs that each draw their own data, so that a claim is measured over many data sets and not over one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import funcnet as fn

DrawFn = Callable[[jax.Array, jax.Array], tuple[Any, Any]]  # (key, given) -> (x, y), one example


class Redrawn(NamedTuple):
    """The state of a training whose run draws its own data."""

    fitted: Any  # the state of the original training
    data_key: jax.Array


def redrawn(training: fn.Training, draw_fn: DrawFn) -> fn.Training:
    """Changes a training so that each run draws its data from its own key.

    The sweep's data then hold only what all runs share: x is the given part of each example, y is its number (see `numbered`).
    """

    def init(key: jax.Array) -> Redrawn:
        init_key, data_key = jax.random.split(key)
        return Redrawn(training.init(init_key), data_key)

    def step(state: Redrawn, batch: fn.Dataset, key: jax.Array) -> tuple[Redrawn, dict[str, jax.Array]]:
        fitted, metrics = training.step(state.fitted, drawn(draw_fn, state.data_key, batch), key)
        return state._replace(fitted=fitted), metrics

    def evaluate(state: Redrawn, dataset: fn.Dataset) -> dict[str, jax.Array]:
        return training.evaluate(state.fitted, drawn(draw_fn, state.data_key, dataset))

    return fn.Training(init, step, evaluate)


def drawn(draw_fn: DrawFn, data_key: jax.Array, shared: fn.Dataset) -> fn.Dataset:
    """The examples that a run with this data key sees."""
    keys = jax.vmap(lambda number: jax.random.fold_in(data_key, number))(shared.y)
    return fn.Dataset(*jax.vmap(draw_fn)(keys, shared.x))


def numbered(train: Any, validation: Any) -> fn.Split:
    """A sweep's data for `redrawn`, from the given parts of the examples, which it numbers."""
    numbers = np.arange(len(train) + len(validation))
    return fn.Split(fn.Dataset(train, numbers[: len(train)]), fn.Dataset(validation, numbers[len(train) :]))
