"""Freezing leaves: a frozen leaf's update is zero, no state is kept for it, and it counts in no norm."""

from typing import Any

import jax
import jax.numpy as jnp

from funcnet.leaves import Where, chosen, kept, takes_path
from funcnet.optimizers.protocol import Functions, Optimizer, State
from funcnet.tree import Params, PyTree


def only(name: str, where: Where | None, optimizer: Functions) -> Optimizer:
    """The optimizer applied only to the leaves that a predicate picks; it doesn't see the others.

    Args:
      name: of the function that was given the predicate, for messages.
      where: leaf -> bool or (path, leaf) -> bool; None for all leaves.
      optimizer: its `update` must take **extra.
    """
    if where is None:
        return Optimizer(*optimizer)
    takes_path(name, where)

    def init(params: Params) -> State:
        return optimizer.init(kept(params, chosen(name, where, params)))

    def update(grads: PyTree, state: State, params: Params | None = None, **extra: Any) -> tuple[PyTree, State]:
        flags = chosen(name, where, grads if params is None else params)
        shown = None if params is None else kept(params, flags)
        updates, state = optimizer.update(kept(grads, flags), state, shown, **_shown(extra, params, flags))
        return merged(grads, updates, flags), state

    return Optimizer(init, update, where=where)


def merged(grads: PyTree, updates: PyTree, flags: list[bool]) -> PyTree:
    """The updates of the trained leaves, and zeros for the frozen ones, in the structure of grads."""
    leaves, structure = jax.tree.flatten(grads)
    moved = iter(jax.tree.leaves(updates))
    return jax.tree.unflatten(structure, [next(moved) if flag else still(leaf) for leaf, flag in zip(leaves, flags, strict=True)])


def still(leaf: Any) -> jax.Array:
    """The update of a frozen leaf: minus zero, since adding 0.0 would change a parameter of -0.0 to 0.0."""
    return jnp.negative(jnp.zeros_like(leaf))


def _shown(extra: dict[str, Any], params: Params | None, flags: list[bool]) -> dict[str, Any]:
    """The extra arguments of `update`, for the trained leaves only."""
    shown = dict(extra)
    if "grad" in extra:
        shown["grad"] = kept(extra["grad"], flags)
    if "value_fn" in extra and params is not None:
        leaves, structure = jax.tree.flatten(params)

        def value_fn(trained: Params) -> jax.Array:
            moved = iter(jax.tree.leaves(trained))
            both = [next(moved) if flag else leaf for leaf, flag in zip(leaves, flags, strict=True)]
            value: jax.Array = extra["value_fn"](jax.tree.unflatten(structure, both))
            return value

        shown["value_fn"] = value_fn
    return shown
