"""The loop of a sweep: it owns the chunks on their way, hands out tasks, and notes what comes back."""

import collections
import contextlib
import math
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, NamedTuple

import jax

from funcnet import check
from funcnet.sweep.assignment import brief
from funcnet.sweep.executors import Request, Slot, Threads
from funcnet.sweep.kept import Kept, Rank
from funcnet.sweep.lanes import LaneArrays, lane_arrays
from funcnet.sweep.ledger import COMPLETED, DIVERGED, UNFINISHED, Ledger
from funcnet.sweep.pack import Chunk, chunks_of, lots_of, one_key_for_all, shares_keys
from funcnet.sweep.plan import Plan
from funcnet.sweep.program import STRETCH
from funcnet.sweep.progress import Progress, Reporter
from funcnet.sweep.rehearsal import Rehearsal
from funcnet.sweep.task import Done, Stand, Task, one_lane
from funcnet.sweep.width import core_lanes, fitting, lane_width

_LOOKS = 20  # times the host looks at a chunk while it trains, where a run is long


class Settings(NamedTuple):
    """How a plan is carried out."""

    key: jax.Array
    chunk_size: int | None
    budget: int  # bytes that training may take
    randomness: str
    keep: int | None
    rank: Rank
    raises: bool  # whether a run that diverges ends the sweep


class Cohort(NamedTuple):
    """A chunk on its way."""

    request: Request  # the programs that train it
    rows: tuple[int, ...]  # in lanes 0, 1, ...; the lanes left over are nobody's
    num_steps: int
    stand: Stand | None  # None before its first step
    at: int  # steps taken


class Active(NamedTuple):
    """A cohort that trains."""

    cohort: Cohort
    slot: Slot


class Loop:
    """Carries out a plan."""

    def __init__(self, plan: Plan, rehearsal: Rehearsal, ledger: Ledger, executor: Threads, settings: Settings, tell: Reporter):
        self.plan, self.trials, self.ledger, self.executor = plan, rehearsal.trials, ledger, executor
        self.settings, self.tell = settings, tell
        self.began = time.monotonic()
        self.widths: dict[int, int] = {}  # by group
        self.kept = Kept(plan, ledger, settings.rank, settings.keep)
        self.training: dict[Future[Done], Active] = {}
        self._steps_done = 0
        self.trained: list[Cohort] = []  # to their end, and to be noted once their slots have something to do

    def run(self) -> None:
        """Trains every row to its end."""
        to_lower = collections.deque(range(len(self.plan.groups)))
        compiling: list[Request] = []  # each group's first programs
        to_start: list[Cohort] = []
        while to_lower or to_start or compiling or self.training:
            self._start(to_start)
            self._finish_trained()
            if to_lower and len(compiling) < len(self.executor.slots) and not any(future.done() for future in self.training):
                group = to_lower.popleft()
                compiling.append(self._ask(group, self._width(group)))
                continue
            self.tell(self.progress(len(to_lower) + len(compiling)))
            found = [request for request in compiling if self.executor.compiled(request) is not None]
            if not found:
                wait([*self.executor.awaited(), *self.training], return_when=FIRST_COMPLETED, timeout=1.0)
            for request in found:
                compiling.remove(request)
                width = self._fitting(request)
                if width < request.width:
                    compiling.append(self._ask(request.group, width))
                else:
                    chunks = chunks_of(self.plan, request.group, request.width, request.shared)
                    to_start.extend(self._cohort(chunk, request) for chunk in chunks)
            for future in [future for future in self.training if future.done()]:
                slot, cohort = self._noted(future)
                if cohort.at < cohort.num_steps:
                    self._submit(cohort, slot)
                else:
                    self.trained.append(cohort)
                    self.executor.release(slot)
        self._finish_trained()
        self.tell(self.progress(0))

    def give_up(self) -> None:
        """Notes what the chunks on their way have come to: their curves, and their states as they are."""
        self._finish_trained()
        for future, active in list(self.training.items()):
            cohort = active.cohort
            if not future.cancelled() and future.exception() is None:
                with contextlib.suppress(FloatingPointError):  # the first one has been said
                    _, cohort = self._noted(future)
            if cohort.at == cohort.num_steps:
                self._finish(cohort)
            else:
                self._note_unfinished(cohort)

    def progress(self, compiling: int) -> Progress:
        """How far the sweep has come.

        Args:
          compiling: groups whose programs are still to be compiled.
        """
        ledger, best = self.ledger, self.kept.best
        done, steps = int(ledger.ended.sum()), int(ledger.num_steps.sum())
        diverged = int((ledger.status == DIVERGED).sum())
        seconds = time.monotonic() - self.began
        metric = self.settings.rank.metric
        return Progress(done, len(self.plan.rows), self._steps_done, steps, diverged, best, metric, compiling, seconds)

    def _ask(self, group: int, width: int) -> Request:
        """Has a group's programs compiled for chunks of a width."""
        must = one_key_for_all(self.settings.key)
        request = Request(group, width, shares_keys(self.plan, group, width, self.settings.randomness, must=must))
        self.executor.ask(request, self._lanes(request, self.plan.groups[group].rows[:width]))
        return request

    def _width(self, group: int) -> int:
        if self.settings.chunk_size is not None:
            return self.settings.chunk_size
        slots = self.executor.slots
        most = core_lanes(self.trials[group].step_bytes) if slots[0].device.platform == "cpu" else 8192
        return lane_width([len(lot) for lot in lots_of(self.plan, group, shared=False)], len(slots), most)

    def _fitting(self, request: Request) -> int:
        """How many lanes fit in the memory, as the compiled programs say."""
        width, found = request.width, self.executor.compiled(request)
        if self.settings.chunk_size is None and found is not None:
            device = self.executor.slots[0].device
            budget = self.settings.budget / sum(slot.device == device for slot in self.executor.slots)
            width = fitting(width, found.bytes_needed, budget)
        self.widths[request.group] = width
        return width

    def _lanes(self, request: Request, rows: Sequence[int]) -> LaneArrays:
        independent = self.settings.randomness == "independent"
        return lane_arrays(self.plan, request.group, rows, request.width, shared=request.shared, independent=independent)

    def _cohort(self, chunk: Chunk, request: Request) -> Cohort:
        return Cohort(request, chunk.rows, self.plan.of_row(chunk.rows[0]).num_steps, None, 0)

    def _start(self, to_start: list[Cohort]) -> None:
        """Gives each free slot the first cohort whose programs are compiled for its device."""
        for slot in self.executor.free():
            asks = True  # for a device's first programs; the others wait for them
            for i, cohort in enumerate(to_start):
                if self.executor.ready(cohort.request, slot, asks=asks):
                    self._submit(to_start.pop(i), slot)
                    break
                asks = False

    def _submit(self, cohort: Cohort, slot: Slot) -> None:
        request = cohort.request
        lanes = self._lanes(request, cohort.rows)
        task = Task(request.group, lanes, request.width, cohort.stand, cohort.at, self._stops(cohort))
        self.training[self.executor.submit(task, request.shared, slot)] = Active(cohort, slot)

    def _stops(self, cohort: Cohort) -> tuple[tuple[int, bool], ...]:
        """Where the next task pauses, and whether it evaluates there."""
        total = cohort.num_steps
        evaluations = set(self.plan.evaluations(total))
        stride = STRETCH * math.ceil(total / _LOOKS / STRETCH)
        end = min(total, cohort.at + stride)
        return tuple((stop, stop in evaluations) for stop in sorted({end, *(step for step in evaluations if cohort.at < step <= end)}))

    def _noted(self, future: Future[Done]) -> tuple[Slot, Cohort]:
        """Notes what a task has measured; returns the cohort as it stands now, and its slot."""
        done = future.result()
        slot, cohort = self.training[future].slot, self.training[future].cohort
        self._steps_done += (done.at - cohort.at) * len(cohort.rows)
        for step, metrics in done.measured.items():
            self.ledger.note(cohort.rows, step, metrics)
        cohort = cohort._replace(stand=done.stand, at=done.at)
        self.training.pop(future)
        if self.settings.raises:
            self._raise_for_diverged(cohort)
        return slot, cohort

    def _raise_for_diverged(self, cohort: Cohort) -> None:
        """Under jax_debug_nans a run that diverges ends the sweep, and the error says which."""
        assert cohort.stand is not None
        for lane, row in enumerate(cohort.rows):
            if cohort.stand.diverged[lane] >= 0:
                self._note_unfinished(cohort)
                variant, replicate = self.plan.rows[row]
                setting, replicates = brief(self.plan.variants[variant].hyperparameters), max(own.replicate for own in self.plan.rows)
                where = f"sweep: variant {variant} {setting}" + (f", replicate {replicate}" if replicates else "")
                got = f"NaN or inf in step {cohort.stand.diverged[lane]}"
                raise FloatingPointError(check.message(where, "must stay finite, as jax_debug_nans asks", got))

    def _finish_trained(self) -> None:
        while self.trained:
            self._finish(self.trained[0])
            self.trained.pop(0)

    def _finish(self, cohort: Cohort) -> None:
        assert cohort.stand is not None
        states = _states(cohort.stand, len(cohort.rows))
        for lane, row in enumerate(cohort.rows):
            if self.ledger.ended[row]:  # by a Ctrl-C in the middle of this it is done again
                continue
            self._note(row, cohort, lane, COMPLETED)
            self.kept.add(row, states[lane])
            self.ledger.ended[row] = True

    def _note_unfinished(self, cohort: Cohort) -> None:
        states = None if cohort.stand is None else _states(cohort.stand, len(cohort.rows))
        for lane, row in enumerate(cohort.rows):
            self._note(row, cohort, lane, UNFINISHED)
            if states is not None:
                self.kept.states[row] = states[lane]
            self.ledger.ended[row] = True

    def _note(self, row: int, cohort: Cohort, lane: int, status: int) -> None:
        """How a row ended: by divergence, or else so."""
        diverged = -1 if cohort.stand is None else int(cohort.stand.diverged[lane])
        self.ledger.status[row] = status if diverged < 0 else DIVERGED
        self.ledger.at[row] = cohort.at if diverged < 0 else diverged


def _states(stand: Stand, lanes: int) -> list[list[Any]]:
    """Each lane's leaves, of the last state in which everything was finite."""
    host = jax.device_get(stand.state)
    return [stand.frozen[lane] if lane in stand.frozen else one_lane(host, lane) for lane in range(lanes)]
