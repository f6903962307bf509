"""Rows of a group, packed into chunks of one width."""

import itertools
from typing import Any, NamedTuple

import jax

from funcnet.sweep.plan import Plan


class Chunk(NamedTuple):
    """Rows of a group that train together, in lanes 0, 1, ...; the lanes left over repeat the first row."""

    group: int
    rows: tuple[int, ...]


def chunks_of(plan: Plan, index: int, width: int, shared: bool) -> list[Chunk]:
    """A group's chunks of at most so many lanes."""
    chunks = [Chunk(index, tuple(lot[i : i + width])) for lot in lots_of(plan, index, shared) for i in range(0, len(lot), width)]
    return sorted(chunks, key=lambda chunk: plan.rows[chunk.rows[0]])  # a variant's replicates end near to each other


def lots_of(plan: Plan, index: int, shared: bool) -> list[list[int]]:
    """A group's rows by what the lanes of a chunk have in common."""
    rows = sorted(plan.groups[index].rows, key=lambda row: (*lot_of(plan, row, shared), row))
    return [list(lot) for _, lot in itertools.groupby(rows, key=lambda row: lot_of(plan, row, shared))]


def lot_of(plan: Plan, row: int, shared: bool) -> tuple[Any, ...]:
    """The lanes of a chunk take the same number of steps, have the same names and, where they share it, one key."""
    variant = plan.of_row(row)
    return variant.num_steps, *variant.names.values(), plan.rows[row].replicate if shared else 0


def shares_keys(plan: Plan, index: int, width: int, randomness: str, *, must: bool = False) -> bool:
    """Whether each of a group's chunks keeps to one replicate, so that its lanes share one key and draw once.

    They do not where that would leave many lanes empty, as with one variant in a hundred replicates, unless they must.
    """
    if must or randomness == "independent":
        return must
    separate, mixed = (len(chunks_of(plan, index, width, shared)) for shared in (True, False))
    return separate <= 1.5 * mixed


def key_kind(key: jax.Array) -> str:
    """The name of the generator that a key is for."""
    return str(jax.random.key_impl(key))


def one_key_for_all(key: jax.Array) -> bool:
    """Whether the lanes of a chunk must share one key: under jax.vmap the rbg generators draw from the first key alone."""
    return "rbg" in key_kind(key)
