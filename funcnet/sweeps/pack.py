"""Packs a group's rows into chunks of one width: at the start, and again when some of a chunk's rows have ended."""

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.sweeps.executors import Request
from funcnet.sweeps.lanes import LaneArrays
from funcnet.sweeps.planning import Plan
from funcnet.sweeps.task import Stand
from funcnet.sweeps.width import core_lanes, lane_width

NOBODY = -1  # in place of a row: its lane is unused since the row ended or moved to another cohort


class Cohort(NamedTuple):
    """A chunk and its training state: rows of a group at one step, in lanes 0, 1, ...; unused lanes repeat the first."""

    request: Request  # the programs that train it
    rows: tuple[int, ...]  # by lane; NOBODY for a lane whose row has left; lanes beyond these are unused
    stand: Stand | None  # None before its first step
    at: int  # steps taken
    goal: int  # the step up to which its rows may train
    told: LaneArrays | None = None  # the lanes' inputs in its last task, while they are still valid
    failed: str = ""  # on which device its last task failed, and how

    @property
    def lanes(self) -> list[int]:
        """The lanes in use."""
        return [lane for lane, row in enumerate(self.rows) if row != NOBODY]


Lot = Callable[[int], Hashable]  # row -> what all rows of a chunk must have in common, besides step and goal


def lot_by(plan: Plan, shared: bool) -> Lot:
    """The `Lot` of a plan: rows of a chunk have the same names and fold and, if lanes share one key, the same replicate."""
    return lambda row: (*plan.of_row(row).names.values(), plan.rows[row].replicate if shared else 0, plan.rows[row].fold)


def lots_of(plan: Plan, rows: Sequence[int], goals: np.ndarray, shared: bool) -> list[list[int]]:
    """A group's rows, divided into lots; the rows of a lot have one goal.

    Args:
      goals: (rows,), the step up to which each row may train.
    """
    lot = lot_by(plan, shared)

    def kind(row: int) -> Any:
        return int(goals[row]), lot(row)

    rows = sorted(rows, key=lambda row: (kind(row), row))
    return [list(own) for _, own in itertools.groupby(rows, key=kind)]


def chunks_of(plan: Plan, rows: Sequence[int], goals: np.ndarray, width: int, shared: bool) -> list[tuple[int, ...]]:
    """A group's rows, divided into chunks of at most width rows of one lot."""
    lots = lots_of(plan, rows, goals, shared)
    chunks = [tuple(lot[i : i + width]) for lot in lots for i in range(0, len(lot), width)]
    return sorted(chunks, key=lambda rows: plan.rows[rows[0]])  # so that a variant's replicates end at about the same time


def packed(
    cohorts: Sequence[Cohort], goals: np.ndarray, lot: Lot, source: np.ndarray | None = None, everyone: Sequence[Cohort] = ()
) -> tuple[list[Cohort], list[Cohort]]:
    """Repacks waiting cohorts: the rows that may now continue go into as few chunks as possible.

    A cohort whose rows all continue together is left as it is if it is full or repacking would not reduce the number of chunks.

    Args:
      cohorts: with the same program.
      goals: (rows,), the step up to which each row may train now.
      lot: what all rows of a chunk must have in common.
      source: (rows,), the row whose state each row continues from; None if each continues from its own.
      everyone: further cohorts that may hold rows of source.

    Returns:
      The cohorts that continue, and those that still wait.
    """
    width = cohorts[0].request.width
    places = {row: (cohort, lane) for cohort in (*everyone, *cohorts) for lane, row in enumerate(cohort.rows) if row != NOBODY}
    moving: dict[Any, list[int]] = {}
    waiting = []
    for cohort in cohorts:
        movers = [row for row in cohort.rows if row != NOBODY and goals[row] > cohort.at]
        for row in movers:
            moving.setdefault((cohort.at, int(goals[row]), lot(row)), []).append(row)
        left = tuple(NOBODY if row in set(movers) else row for row in cohort.rows)
        if any(row != NOBODY for row in left):
            waiting.append(cohort._replace(rows=left))
    going = []
    for (at, goal, _), rows in moving.items():
        own = {id(places[row][0]): places[row][0] for row in rows}
        whole = [
            cohort
            for cohort in own.values()
            if len(cohort.lanes) == sum(places[row][0] is cohort for row in rows)
            and (source is None or all(source[cohort.rows[lane]] == cohort.rows[lane] for lane in cohort.lanes))
        ]
        full = (
            whole if len(own) == len(whole) == math.ceil(len(rows) / width) else [cohort for cohort in whole if len(cohort.lanes) == width]
        )
        going += [cohort._replace(goal=goal, told=cohort.told if source is None else None) for cohort in full]
        kept = {id(cohort) for cohort in full}
        rest = sorted(row for row in rows if id(places[row][0]) not in kept)
        for i in range(0, len(rest), width):
            chunk = tuple(rest[i : i + width])
            picks = [places[row if source is None else int(source[row])] for row in chunk]
            going.append(Cohort(cohorts[0].request, chunk, _gathered(picks, width), at, goal))
    return going, waiting


def halved(cohort: Cohort, request: Request) -> list[Cohort]:
    """Splits a cohort into chunks of the request's smaller width."""
    lanes, width = cohort.lanes, request.width
    parts = [lanes[i : i + width] for i in range(0, len(lanes), width)]
    return [
        cohort._replace(
            request=request,
            rows=tuple(cohort.rows[lane] for lane in part),
            told=None,
            stand=_gathered([(cohort, lane) for lane in part], width),
        )
        for part in parts
    ]


def _gathered(picks: Sequence[tuple[Cohort, int]], width: int) -> Stand | None:
    """The `Stand` of a new chunk of these lanes, (cohort, lane) each; unused lanes repeat the first."""
    picks = [*picks, *[picks[0]] * (width - len(picks))]
    stands = list({id(cohort): cohort.stand for cohort, _ in picks}.values())
    if any(stand is None for stand in stands):
        return None
    starts = np.cumsum([0, *(len(stand.diverged) for stand in stands if stand is not None)])
    first = dict(zip(dict.fromkeys(id(cohort) for cohort, _ in picks), starts.tolist(), strict=False))
    index = np.array([first[id(cohort)] + lane for cohort, lane in picks])
    leaves: Any = zip(*(stand.state for stand in stands if stand is not None), strict=True)
    watched = [stand.watched for stand in stands if stand is not None and stand.watched is not None]
    seen = np.concatenate(watched)[index] if len(watched) == len(stands) else None
    diverged = np.concatenate([stand.diverged for stand in stands if stand is not None])[index]
    frozen = {i: cohort.stand.frozen[lane] for i, (cohort, lane) in enumerate(picks) if cohort.stand and lane in cohort.stand.frozen}
    return Stand([_taken(own, index) for own in leaves], seen, diverged, frozen)


def _taken(leaves: Sequence[Any], index: np.ndarray) -> Any:
    """The entries at index of the concatenated arrays; arrays on an accelerator stay there."""
    on_device = [isinstance(leaf, jax.Array) and next(iter(leaf.devices())).platform != "cpu" for leaf in leaves]
    if all(on_device) or any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves):
        return jnp.concatenate(leaves)[index]
    return np.concatenate([np.asarray(leaf) for leaf in leaves])[index]


def shares_keys(plan: Plan, rows: Sequence[int], goals: np.ndarray, width: int, randomness: str, *, must: bool = False) -> bool:
    """Whether each of a group's chunks holds one replicate only, so that its lanes share one key and draw once.

    False if that would leave many lanes unused, such as with one variant in a hundred replicates; True in any case if `must`.
    """
    if must or randomness == "independent":
        return must
    separate, mixed = (len(chunks_of(plan, rows, goals, width, shared)) for shared in (True, False))
    return separate <= 1.5 * mixed


def wanted_width(plan: Plan, group: int, goals: np.ndarray, step_bytes: int, slots: int, platform: str, chunk_size: int | None) -> int:
    """How many lanes to ask for in a group's chunks, before the memory that they need is known.

    Args:
      goals: (rows,), the step up to which each row may train.
      step_bytes: bytes that one step of one lane writes.
      slots: how many chunks train at a time.
      platform: of their devices, "cpu" or another.
      chunk_size: the user's; None for as many as suit the slots.
    """
    if chunk_size is not None:
        return chunk_size
    most = core_lanes(step_bytes) if platform == "cpu" else 8192
    lots = lots_of(plan, plan.groups[group].rows, goals, shared=False)
    return lane_width([len(lot) for lot in lots], slots, most)


def request_of(plan: Plan, group: int, goals: np.ndarray, width: int, randomness: str, key: jax.Array) -> Request:
    """The request for the programs that train a group's chunks of this width; goals and key are the sweep's."""
    shared = shares_keys(plan, plan.groups[group].rows, goals, width, randomness, must=one_key_for_all(key))
    return Request(group, width, shared)


def key_kind(key: jax.Array) -> str:
    """The name of the generator that a key is for."""
    return str(jax.random.key_impl(key))


def one_key_for_all(key: jax.Array) -> bool:
    """Whether the lanes of a chunk must share one key: under jax.vmap the rbg generators use only the first key."""
    return "rbg" in key_kind(key)
