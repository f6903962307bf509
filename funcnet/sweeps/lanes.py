"""What tells the lanes of a chunk apart: their numbers, names, limits and random keys."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.sweeps.planning import Plan
from funcnet.train import RunKeys, run_keys


class LaneArrays(NamedTuple):
    """What tells the lanes of a chunk apart, in NumPy arrays."""

    numbers: dict[str, np.ndarray]  # each (lanes,)
    names: dict[str, np.ndarray]  # each of shape (), int32: which of the group's names all lanes have
    num_examples: np.ndarray | None  # (lanes,), int32, or shape () where they all see as many
    replicate: np.ndarray  # (lanes,), int32, or shape () where the lanes share one key
    variant: np.ndarray | None  # (lanes,), int32, where every variant has a key of its own


class Lanes(NamedTuple):
    """The same on a device, as programs take it beside the sweep's key."""

    lane: jax.Array  # (lanes,), int32: 0, 1, ...
    numbers: dict[str, jax.Array]  # each (lanes,)
    names: dict[str, jax.Array]  # each of shape (), int32
    num_examples: jax.Array | None  # (lanes,), int32, or shape () where they all see as many
    replicate: jax.Array  # (lanes,), int32, or shape () where the lanes share one key
    variant: jax.Array | None  # (lanes,), int32, where every variant has a key of its own


def lane_arrays(
    plan: Plan, index: int, rows: Sequence[int], numbers: Mapping[str, np.ndarray], width: int, *, shared: bool, independent: bool
) -> LaneArrays:
    """The lanes of a group's rows, filled up with the first of them to the width.

    Args:
      numbers: the hyperparameters that are numbers as they are now, (rows of the plan,) each.
      shared: whether the lanes share one key.
      independent: whether every variant has a key of its own.
    """
    rows = [*rows, *[rows[0]] * (width - len(rows))]
    variants = [plan.of_row(row) for row in rows]
    with np.errstate(over="ignore"):  # as when the recipe was checked
        own = {name: _as_number(numbers[name][rows], value) for name, value in variants[0].numbers.items()}
    names = {name: np.int32(plan.groups[index].names[name].index(value)) for name, value in variants[0].names.items()}
    limits = None
    if plan.groups[index].limits_examples:
        seen = np.asarray([plan.seen(row) for row in rows], np.int32)
        limits = seen[0] if variants[0].num_examples is None else seen
    replicate = np.asarray([plan.rows[row].replicate for row in rows], np.int32)
    return LaneArrays(
        own,
        names,  # type: ignore[arg-type]  # an array of shape () in all but its type
        limits,
        replicate[0] if shared else replicate,
        np.asarray([plan.rows[row].variant for row in rows]) if independent else None,
    )


def on_device(arrays: LaneArrays, width: int, device: jax.Device) -> Lanes:
    """The lanes where their programs run."""
    lanes: Any = Lanes(np.arange(width, dtype=np.int32), *arrays)  # type: ignore[arg-type]
    placed: Lanes = jax.device_put(lanes, device)
    return placed


def keys_of(key: jax.Array, replicate: jax.Array, variant: jax.Array | None) -> RunKeys:
    """The lanes' keys, of the sweep's: folded with the replicate, and with the variant where each has its own."""
    if replicate.ndim == 0:
        return run_keys(jax.random.fold_in(key, replicate))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, replicate)
    if variant is not None:
        keys = jax.vmap(jax.random.fold_in)(keys, variant)
    return jax.vmap(run_keys)(keys)


def _as_number(values: np.ndarray, like: float | int) -> np.ndarray:
    return values.astype(np.int32 if isinstance(like, int) else jnp.result_type(float))
