"""Optimizers by name, so that a sweep can try several; the name may be traced."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.leaves import Where
from funcnet.optimizers.freezing import only
from funcnet.optimizers.protocol import Functions, Optimizer, as_arrays
from funcnet.optimizers.rules import (
    adabelief,
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    adamw,
    amsgrad,
    lamb,
    lars,
    lion,
    momentum,
    nadam,
    radam,
    rmsprop,
    sgd,
)
from funcnet.option import Option
from funcnet.schedules import ScalarOrSchedule
from funcnet.tree import Params, PyTree

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": sgd,
    "momentum": momentum,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
    "adadelta": adadelta,
    "nadam": nadam,
    "lion": lion,
    "amsgrad": amsgrad,
    "adamax": adamax,
    "adabelief": adabelief,
    "radam": radam,
    "lamb": lamb,
    "lars": lars,
    "adafactor": adafactor,
}


def optimizer(name: str, learning_rate: ScalarOrSchedule, *, where: Where | None = None, **settings: Any) -> Optimizer:
    """Makes an optimizer by its name, so that a sweep can try several.

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: shape (), >= 0; or a schedule.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them.
      **settings: the optimizer's own arguments.

    Returns:
      An `Optimizer`.

    A name marked `traced` selects one of several optimizers while the program runs. Each of them must take the settings, and
    their state is a `PooledState`, whose arrays they share.

    Raises:
      ValueError: the name is unknown, or an argument out of range.
      TypeError: the optimizer has no such argument.

    Example:
      >>> optimizer("adm", 1e-3)
      Traceback (most recent call last):
      ValueError: optimizer: unknown optimizer 'adm'; did you mean 'adam'?
    """
    if isinstance(name, Option):
        optimizers = [_named(each, learning_rate, settings) for each in name.names]
        return only("optimizer", where, _selected(name, optimizers, adam(learning_rate)))
    return _named(name, learning_rate, {**settings, "where": where})


def _named(name: str, learning_rate: ScalarOrSchedule, settings: Mapping[str, Any]) -> Optimizer:
    check.one_of("optimizer", "optimizer", name, OPTIMIZERS)
    for setting in settings:
        if setting not in (known := list(inspect.signature(OPTIMIZERS[name]).parameters)):
            raise TypeError(f"optimizer: {name} has no argument {setting!r}; {check.nearest(setting, known)}")
    return OPTIMIZERS[name](learning_rate, **settings)


class PooledState(NamedTuple):
    """The state of an optimizer whose name is traced."""

    arrays: tuple[jax.Array, ...]  # enough of each shape and dtype for any of the optimizers, and for Adam


def _selected(option: Option, optimizers: Sequence[Optimizer], least: Optimizer) -> Functions:
    """Runs the optimizer that a traced name selects: one branch for each.

    Args:
      least: an optimizer whose state always fits, so that the state's structure is the same for most sets of names.
    """

    def pool_for(params: Params) -> _Pool:
        return _Pool(*(jax.eval_shape(optimizer.init, params) for optimizer in [least, *optimizers]))

    def init(params: Params) -> PooledState:
        pool = pool_for(params)

        def branch(i: int) -> Callable[[Params], tuple[jax.Array, ...]]:
            return lambda params: pool.filled(i, pool.empty(), optimizers[i].init(params))

        return PooledState(option.switch([branch(i) for i in range(len(optimizers))], params))

    def update(grads: PyTree, state: PooledState, params: Params | None = None, **extra: Any) -> tuple[PyTree, PooledState]:
        grads = as_arrays("optimizer", "gradients", grads)
        pool = pool_for(grads if params is None else params)
        pool.check_holds(state.arrays)

        def branch(i: int) -> Callable[..., tuple[PyTree, tuple[jax.Array, ...]]]:
            def run(grads: PyTree, arrays: tuple[jax.Array, ...], params: Params | None) -> tuple[PyTree, tuple[jax.Array, ...]]:
                updates, own = optimizers[i].update(grads, pool.of(i, arrays), params, **extra)
                return updates, pool.filled(i, arrays, own)

            return run

        updates, arrays = option.switch([branch(i) for i in range(len(optimizers))], grads, state.arrays, params)
        return updates, PooledState(arrays)

    return Functions(init, update)


class _Pool:
    """Arrays that hold any one of several states."""

    def __init__(self, least: PyTree, *states: PyTree):
        """Takes the states' shapes and dtypes; the first arrays are those of `least`."""
        self._structures = [jax.tree.structure(state) for state in states]
        self._arrays: list[tuple[Any, Any]] = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(least)]
        self._places = [self._places_of(state) for state in states]

    def _places_of(self, state: PyTree) -> list[int]:
        """Where in the pool the state's arrays are; the pool grows where it has too few of a shape and dtype."""
        free, places = list(range(len(self._arrays))), []
        for leaf in jax.tree.leaves(state):
            own = (leaf.shape, leaf.dtype)
            place = next((place for place in free if self._arrays[place] == own), len(self._arrays))
            if place in free:
                free.remove(place)
            else:
                self._arrays.append(own)
            places.append(place)
        return places

    def empty(self) -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros(shape, dtype) for shape, dtype in self._arrays)

    def of(self, i: int, arrays: Sequence[jax.Array]) -> PyTree:
        """The i-th state."""
        return jax.tree.unflatten(self._structures[i], [arrays[place] for place in self._places[i]])

    def filled(self, i: int, arrays: Sequence[jax.Array], state: PyTree) -> tuple[jax.Array, ...]:
        """The arrays with the i-th state in them."""
        after = list(arrays)
        for place, leaf in zip(self._places[i], jax.tree.leaves(state), strict=True):
            after[place] = leaf
        return tuple(after)

    def check_holds(self, arrays: Sequence[jax.Array]) -> None:
        got, wanted = ([f"{dtype}{list(shape)}" for shape, dtype in each] for each in ([(a.shape, a.dtype) for a in arrays], self._arrays))
        if got != wanted:
            fix = "call update(grads, state, params), with a state of the same optimizers' init"
            raise ValueError(check.message("optimizer", f"state must hold {', '.join(wanted)}", ", ".join(got), fix))
