"""Tasks: train one chunk for some steps. A task can run in any process, since its input and its result are plain data."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.data import Split
from funcnet.sweeps.lanes import LaneArrays, Lanes
from funcnet.sweeps.program import STRETCH, Programs, State
from funcnet.sweeps.trial import Constants
from funcnet.train import Draws


class Stand(NamedTuple):
    """The training state of a chunk's lanes between two tasks."""

    state: list[Any]  # leaves, each with a leading axis of lanes; invalid in lanes that have diverged
    watched: np.ndarray | None  # (lanes, leaves), bool: which leaves were finite at the start; None: to be computed again
    diverged: np.ndarray  # (lanes,), int: steps completed before something became non-finite, or -1
    frozen: dict[int, list[np.ndarray]]  # by lane that has diverged, the leaves of its last finite state


class Task(NamedTuple):
    """The work to do with a chunk."""

    group: int
    lanes: LaneArrays
    width: int
    fold: int  # of the data
    stand: Stand | None  # None before the first step
    at: int  # steps taken
    stops: tuple[tuple[int, bool], ...]  # ascending: after how many steps to stop, and whether to evaluate there


class Done(NamedTuple):
    """A task's result."""

    stand: Stand
    measured: dict[int, dict[str, np.ndarray]]  # by step, then metric, (lanes,) each; NaN in lanes that have diverged
    at: int  # steps taken


class Workplace(NamedTuple):
    """What a task uses on the device where it runs."""

    programs: Programs
    constants: Constants
    lanes: Lanes
    key: jax.Array  # the sweep's
    draws: Callable[[int], Draws]  # first step of a stretch -> the stretch's draws
    data: Split
    device: jax.Device


def run_task(task: Task, here: Workplace, seconds: float | None = None) -> Done:
    """Trains a task's chunk to its last stop, and evaluates it at its stops.

    Args:
      seconds: after these it stops early, at the end of a stretch; None for no limit.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    measured: dict[int, dict[str, np.ndarray]] = {}
    with jax.debug_nans(False), jax.debug_infs(False):  # diverged lanes have NaN; the sweep itself raises for them if asked
        stand, at = _begin(here, task.width) if task.stand is None else _put(here, task.stand, task.width), task.at
        for stop, evaluates in task.stops:
            ahead = None
            while at < stop and np.any(stand.diverged < 0):
                if deadline is not None and time.monotonic() >= deadline:
                    return Done(jax.block_until_ready(stand), measured, at)
                now = _begun(here, stand.state, at, stop) if ahead is None else ahead
                # While the host checks a stretch, the device starts the next; that one is discarded if a lane has diverged.
                ahead = _begun(here, now.after, now.end, stop) if now.end < stop and deadline is None else None
                after = _looked_at(here, stand, now)
                if after is None:
                    stand, ahead = _step_by_step(here, stand, now), None
                else:
                    stand = stand._replace(state=after)
                at = now.end
            at = stop
            if evaluates:
                values: dict[str, np.ndarray] = jax.device_get(here.programs.evaluate(here.constants, here.lanes, stand.state, here.data))
                measured[stop] = {name: np.where(stand.diverged < 0, value, np.nan) for name, value in values.items()}
        return Done(jax.block_until_ready(stand), measured, at)


def _begin(here: Workplace, width: int) -> Stand:
    state = here.programs.init(here.constants, here.lanes, here.key)
    return Stand(state, np.asarray(here.programs.finite(state)), np.full(width, -1), {})


def _put(here: Workplace, stand: Stand, width: int) -> Stand:
    if stand.watched is None:
        stand = stand._replace(watched=_begin(here, width).watched)
    if all(isinstance(leaf, jax.Array) for leaf in stand.state):
        return stand
    return stand._replace(state=jax.device_put(stand.state, here.device))


class _Stretch(NamedTuple):
    """Steps begin .. end - 1, started on the device, perhaps still running."""

    begin: int
    end: int
    after: State
    met: jax.Array  # (lanes,), bool: whether all losses were finite


def _begun(here: Workplace, state: State, begin: int, stop: int) -> _Stretch:
    """Starts the steps from begin to the end of its stretch, or to stop if that is earlier, on the device."""
    end = min(stop, begin + STRETCH - begin % STRETCH)
    draws = here.draws(begin - begin % STRETCH)
    return _Stretch(begin, end, *here.programs.advance(here.constants, here.lanes, state, here.data, draws, np.int32(begin), np.int32(end)))


def _fine(here: Workplace, stand: Stand, done: _Stretch) -> np.ndarray:
    """(lanes,), bool: which lanes had finite losses only, and are still finite in every leaf that was at the start."""
    assert stand.watched is not None
    met = np.asarray(done.met)
    return met & np.all(np.asarray(here.programs.finite(done.after)) | ~stand.watched, axis=1) if done.after else met


def _looked_at(here: Workplace, stand: Stand, done: _Stretch) -> State | None:
    """The state after a stretch; None if a lane diverged in it."""
    return None if (~_fine(here, stand, done) & (stand.diverged < 0)).any() else done.after


def _step_by_step(here: Workplace, stand: Stand, done: _Stretch) -> Stand:
    """Replays a stretch step by step, to find the step at which each lane diverged and its last finite state.

    A check of all lanes after every step would cost as much as a layer of a small net. So they are checked after each stretch. If one
    has diverged, the stretch is repeated with the same program, one step at a time, and the lane's state before the bad step is
    kept. The other lanes take the same steps twice, with bitwise equal results.
    """
    suspects = ~_fine(here, stand, done) & (stand.diverged < 0)
    state, diverged, frozen = stand.state, stand.diverged.copy(), dict(stand.frozen)
    for step in range(done.begin, done.end):
        if not suspects.any():
            state = _begun(here, state, step, done.end).after
            break
        one = _begun(here, state, step, step + 1)
        fine = _fine(here, stand, one)
        for lane in np.flatnonzero(suspects & ~fine).tolist():
            frozen[lane] = one_lane(jax.device_get(state), lane)
            diverged[lane] = step
        suspects &= fine
        state = one.after
    return Stand(state, stand.watched, diverged, frozen)


def one_lane(state: list[Any], lane: int) -> list[Any]:
    """A lane's leaves, copied so that they don't keep the other lanes' memory alive; JAX arrays, such as random keys, stay JAX's."""
    return [leaf[lane] if isinstance(leaf, jax.Array) else leaf[lane, ...].copy() for leaf in state]


def bare(leaf: Any) -> np.ndarray:
    """A leaf as a NumPy array, for a file or another process; of a random key its data."""
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def clothed(array: np.ndarray, dtype: Any) -> Any:
    """The inverse of `bare`: the leaf, as a random key if dtype is a key's."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=dtype._impl.name)
    return array


def bare_stand(stand: Stand) -> Stand:
    """A stand with NumPy arrays only."""
    frozen = {lane: [bare(leaf) for leaf in leaves] for lane, leaves in stand.frozen.items()}
    return stand._replace(state=[bare(leaf) for leaf in stand.state], frozen=frozen)


def clothed_stand(stand: Stand, dtypes: Sequence[Any]) -> Stand:
    """The inverse of `bare_stand`.

    Args:
      dtypes: of the state's leaves.
    """

    def all_of(leaves: Sequence[Any]) -> list[Any]:
        return [clothed(leaf, dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]

    return stand._replace(state=all_of(stand.state), frozen={lane: all_of(leaves) for lane, leaves in stand.frozen.items()})
