"""The inputs in which the lanes of a chunk differ: numbers, limits on examples, and random keys; and the names they share."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.sweeps.planning import Plan
from funcnet.train import RunKeys, run_keys


class LaneArrays(NamedTuple):
    """A chunk's per-lane inputs, in NumPy arrays."""

    numbers: dict[str, np.ndarray]  # each (lanes,)
    names: dict[str, np.ndarray]  # each of shape (), int32: which of the group's names all lanes have
    num_examples: np.ndarray | None  # (lanes,), int32, or shape () if all lanes have the same
    replicate: np.ndarray  # (lanes,), int32, or shape () if the lanes share one key
    variant: np.ndarray | None  # (lanes,), int32, if every variant has its own key


class Lanes(NamedTuple):
    """`LaneArrays` on a device, with the lanes' indices: what programs take besides the sweep's key."""

    lane: jax.Array  # (lanes,), int32: 0, 1, ...
    numbers: dict[str, jax.Array]  # each (lanes,)
    names: dict[str, jax.Array]  # each of shape (), int32
    num_examples: jax.Array | None  # (lanes,), int32, or shape () if all lanes have the same
    replicate: jax.Array  # (lanes,), int32, or shape () if the lanes share one key
    variant: jax.Array | None  # (lanes,), int32, if every variant has its own key


def lane_arrays(
    plan: Plan, index: int, rows: Sequence[int], numbers: Mapping[str, np.ndarray], width: int, *, shared: bool, independent: bool
) -> LaneArrays:
    """The per-lane inputs of a group's rows; unused lanes, up to the width, repeat the first row.

    Args:
      numbers: current values of the hyperparameters that are numbers, (rows of the plan,) each.
      shared: whether the lanes share one key.
      independent: whether every variant has its own key.
    """
    rows = [*rows, *[rows[0]] * (width - len(rows))]
    variants = [plan.of_row(row) for row in rows]
    with np.errstate(over="ignore"):  # as in the rehearsal: a number beyond float32 becomes infinite
        own = {name: _as_number(numbers[name][rows], value) for name, value in variants[0].numbers.items()}
    names = {name: np.int32(plan.groups[index].names[name].index(value)) for name, value in variants[0].names.items()}
    limits = None
    if plan.groups[index].limits_examples:
        seen = np.asarray([plan.seen(row) for row in rows], np.int32)
        limits = seen[0] if variants[0].num_examples is None else seen
    replicate = np.asarray([plan.rows[row].replicate for row in rows], np.int32)
    return LaneArrays(
        own,
        names,  # type: ignore[arg-type]  # NumPy scalars serve as arrays of shape ()
        limits,
        replicate[0] if shared else replicate,
        np.asarray([plan.rows[row].variant for row in rows]) if independent else None,
    )


def on_device(arrays: LaneArrays, width: int, device: jax.Device) -> Lanes:
    """Puts the lanes' inputs on the device where their program runs."""
    lanes: Any = Lanes(np.arange(width, dtype=np.int32), *arrays)  # type: ignore[arg-type]
    placed: Lanes = jax.device_put(lanes, device)
    return placed


def keys_of(key: jax.Array, replicate: jax.Array, variant: jax.Array | None) -> RunKeys:
    """The lanes' keys: the sweep's key folded with the replicate, and with the variant if each has its own."""
    if replicate.ndim == 0:
        return run_keys(jax.random.fold_in(key, replicate))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, replicate)
    if variant is not None:
        keys = jax.vmap(jax.random.fold_in)(keys, variant)
    return jax.vmap(run_keys)(keys)


def _as_number(values: np.ndarray, like: float | int) -> np.ndarray:
    return values.astype(np.int32 if isinstance(like, int) else jnp.result_type(float))
