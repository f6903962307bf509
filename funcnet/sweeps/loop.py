"""The loop of a sweep: it owns the cohorts, hands out their tasks, and records the results."""

import collections
import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import check
from funcnet.sweeps.assignment import brief
from funcnet.sweeps.events import Callback, Evaluation, Teller, log
from funcnet.sweeps.executors import Executor, Request, Slot
from funcnet.sweeps.judge import Judge
from funcnet.sweeps.kept import Kept, Rank
from funcnet.sweeps.lanes import LaneArrays, lane_arrays
from funcnet.sweeps.ledger import COMPLETED, DIVERGED, PRUNED, STATUSES, UNFINISHED, Ledger
from funcnet.sweeps.memory import is_out_of_memory
from funcnet.sweeps.pack import NOBODY, Cohort, chunks_of, halved, lot_by, packed, request_of, wanted_width
from funcnet.sweeps.planning import Plan
from funcnet.sweeps.program import STRETCH
from funcnet.sweeps.progress import Progress, Reporter
from funcnet.sweeps.rehearsal import Rehearsal
from funcnet.sweeps.task import Done, Stand, Task, one_lane
from funcnet.sweeps.width import fitting


class Settings(NamedTuple):
    """How a plan is carried out."""

    key: jax.Array
    chunk_size: int | None
    randomness: str
    keep: int | None
    keep_best: bool
    rank: Rank
    raises: bool  # whether a run that diverges ends the sweep
    deadline: float | None  # on time.monotonic's clock: when the sweep ends with what it has
    callback: Callback | None  # called with every evaluation
    evolves: bool  # whether poor variants copy the states of good ones


class Active(NamedTuple):
    """A cohort that is training, and its slot."""

    cohort: Cohort
    slot: Slot


class Loop:
    """Carries out a plan.

    A cohort is ready when its rows may train further. It trains on a slot; then it is ready again, or waits for the judge, or has
    ended. The judge is asked when a slot is free, or after each result if its policy depends on the order of results (in_order).
    """

    def __init__(
        self,
        plan: Plan,
        rehearsal: Rehearsal,
        ledger: Ledger,
        executor: Executor,
        settings: Settings,
        judge: Judge | None,
        tell: Reporter | None,
    ):
        self.plan, self.trials, self.ledger, self.executor = plan, rehearsal.trials, ledger, executor
        self.settings, self.judge, self.tell = settings, judge, tell
        self.began = time.monotonic()
        self.widths: dict[int, int] = {}  # by group
        self.kept = Kept(plan, ledger, settings.rank, settings.keep, settings.keep_best)
        self.ready: list[Cohort] = []
        self.training: dict[Future[Done], Active] = {}  # in the order in which they started
        self.waiting: list[Cohort] = []  # for the judge
        self.trained: list[Cohort] = []  # to their goal; recorded once their slots are busy again
        self.requests: dict[int, Request] = {}  # by group, the programs that its chunks train with
        self.restored: dict[int, Request] = {}  # by group, the programs of a stored sweep
        self.resumed: list[Cohort] = []  # a stored sweep's cohorts, in training order, until their programs are compiled
        self.seconds_before = 0.0  # that a stored sweep had taken
        self.checkpoint: Callable[..., None] = lambda loop, **_: None
        self.halvings = 0  # of chunks that ran out of memory
        self.event: Teller = log
        self._places: dict[int, int] = {}  # by id, each resumed cohort's place in the order of training
        self._evaluations = functools.cache(plan.evaluations)
        # While a policy's decisions are being carried out (_deciding), and under an in_order policy while anything is in progress
        # (_changing), nothing may be stored: an uninterrupted sweep is never in such a state.
        self._deciding = self._changing = False
        self._in_order = judge is not None and judge.policy.in_order
        self.steps_done = 0

    def run(self) -> None:
        """Trains every row to its end, or until the deadline."""
        if any(cohort.stand is not None for cohort in self.resumed):  # else nothing has started, and there is no order yet
            self._places = {id(cohort): i for i, cohort in enumerate(self.resumed)}
        to_lower = collections.deque(i for i, group in enumerate(self.plan.groups) if not self.ledger.ended[group.rows].all())
        compiling: list[Request] = []  # each group's first programs
        if self.judge is not None and not self.judge.begun:
            self._deciding = True
            self.ledger.allowed[:] = 0
            self.judge.rule()
            self._deciding = False
        self._write_down(must=True)  # a snapshot to fall back on should the next be damaged; and a full disk is noticed now
        while to_lower or compiling or self.ready or self.waiting or self.trained or self.training:
            self._changing = False
            if self._late():
                self._stop()
                self._tell(0)
                return
            self._changing = self._in_order
            if not (self._in_order and (to_lower or compiling)):
                self._start()
                self._finish_trained()
            self._changing = False
            self._write_down()
            if not (self.ready or self.training or to_lower or compiling):
                if self.waiting:
                    self._judge(must=True)
                continue
            if to_lower and len(compiling) < len(self.executor.slots) and not any(future.done() for future in self.training):
                group = to_lower.popleft()
                compiling.append(self._ask(group, self.restored[group].width if group in self.restored else self._width(group)))
                continue
            self._tell(len(to_lower) + len(compiling))
            found = self._compiled(compiling)
            awaited = [*self.executor.awaited(), *self.training]
            if not found and awaited:
                wait(awaited, return_when=FIRST_COMPLETED, timeout=min(1.0, max(0.0, self._seconds_left() or 1.0)))
            self._changing = self._in_order
            for request in found:
                compiling.remove(request)
                width = request.width if request.group in self.restored else self._fitting(request)
                if width < request.width:
                    compiling.append(self._ask(request.group, width))
                else:
                    self._take_up(request)
            for future in self._done():
                if self._halved(future) or self._handed_on(future):
                    continue
                slot, cohort = self._noted(future)
                if cohort.at < cohort.goal and slot in self.executor.slots:
                    self._submit(cohort, slot)
                elif cohort.at < cohort.goal:  # its device has been retired
                    self.ready.insert(0, cohort)
                else:
                    self.trained.append(cohort)
                    self.executor.release(slot)
                    if self._in_order:
                        self._finish_trained()
                        self._judge()
        self._finish_trained()
        self._changing = False
        self._write_down(must=True)
        self._tell(0)

    def in_flight(self) -> list[Cohort]:
        """Every cohort that has not ended, as of its last result; training ones first, in the order in which they started."""
        training = [active.cohort for active in self.training.values()]
        found = [*training, *self.ready, *self.resumed, *self.waiting, *self.trained]
        if self._in_order and self.resumed:  # their programs aren't compiled yet
            found.sort(key=self._place)
        return found

    def seconds(self) -> float:
        """Seconds that the sweep has taken, including earlier calls if it was stored."""
        return self.seconds_before + time.monotonic() - self.began

    def end_early(self) -> None:
        """Records the finished tasks' results once no further task is handed out, and stores a snapshot.

        Under an in_order policy the snapshot is stored first, without these results: there each result must be recorded in its
        turn, with the policy's decision right after it.
        """
        if self._in_order:
            self._write_down(must=True)
        for future in list(self.training):
            if not future.cancelled() and future.done() and future.exception() is None:
                try:
                    _, cohort = self._noted(future)
                except FloatingPointError:  # the first one is being raised already
                    continue
                (self.trained if cohort.at == cohort.goal else self.ready).append(cohort)
        if not self._in_order:
            self._finish_trained()
            self._write_down(must=True)

    def _write_down(self, *, must: bool = False) -> None:
        """Stores a snapshot; none while a decision is carried out: after a Ctrl-C there, the sweep continues from the last snapshot."""
        if not self._deciding and not self._changing:
            self.checkpoint(self, must=must)

    def give_up(self) -> None:
        """Ends every cohort that has started, at its goal or as unfinished: records its curves and its current states."""
        self._finish_trained()
        for future, active in list(self.training.items()):
            cohort = active.cohort
            if not future.cancelled() and future.exception() is None:
                with contextlib.suppress(FloatingPointError):  # the first one is being raised already
                    _, cohort = self._noted(future)
            self._finish(cohort) if cohort.at == cohort.goal else self._note_unfinished(cohort)
        for cohort in [*self.waiting, *self.ready]:
            if cohort.stand is not None:
                self._note_unfinished(cohort)

    def _tell(self, compiling: int) -> None:
        if self.tell is not None:
            self.tell(self.progress(compiling))

    def progress(self, compiling: int) -> Progress:
        """How far the sweep has come.

        Args:
          compiling: groups whose programs are still to be compiled.
        """
        ledger, best = self.ledger, self.kept.best
        done, steps = int(ledger.ended.sum()), int(ledger.num_steps.sum())
        diverged, pruned = (int((ledger.status == status).sum()) for status in (DIVERGED, PRUNED))
        seconds, metric = self.seconds(), self.settings.rank.metric
        return Progress(done, len(self.plan.rows), self.steps_done, steps, diverged, best, metric, compiling, seconds, pruned)

    def _late(self) -> bool:
        left = self._seconds_left()
        return left is not None and left <= 0

    def _seconds_left(self) -> float | None:
        return None if self.settings.deadline is None else self.settings.deadline - time.monotonic()

    def _stop(self) -> None:
        """Ends the sweep at its deadline: running tasks stop after their current stretch, and runs that have not ended are unfinished."""
        self.executor.finish(list(self.training))
        self.end_early()
        self.give_up()
        self.ready, self.waiting = [], []

    def _ask(self, group: int, width: int) -> Request:
        """Starts compiling a group's programs for chunks of a width."""
        if group in self.restored and self.restored[group].width == width:
            request = self.restored[group]
            self.executor.ask(request, self._lanes(request, self.plan.groups[group].rows[:1]))
            return request
        request = request_of(self.plan, group, self.ledger.allowed, width, self.settings.randomness, self.settings.key)
        self.executor.ask(request, self._lanes(request, self.plan.groups[group].rows[:width]))
        return request

    def _compiled(self, compiling: list[Request]) -> list[Request]:
        """The requests whose programs are compiled. If a compiler runs out of memory, half the width is requested instead."""
        found = []
        for i, request in enumerate(compiling):
            try:
                if self.executor.compiled(request) is not None and (not self._in_order or self._everywhere(request)):
                    found.append(request)
            except Exception as error:
                if not is_out_of_memory(error) or request.width == 1:
                    raise
                half = self._half(request, error)
                if request.group in self.restored:
                    self.restored[request.group] = half
                    own = {id(cohort) for cohort in self.resumed if cohort.request == request}
                    parts = [part for cohort in self.resumed if id(cohort) in own for part in halved(cohort, half)]
                    self.resumed = [*parts, *(cohort for cohort in self.resumed if id(cohort) not in own)]
                compiling[i] = self._ask(request.group, half.width)
        return found

    def _everywhere(self, request: Request) -> bool:
        """Whether programs are compiled for the devices of all slots; under an in_order policy no device may start before the others."""
        return all([self._is_ready(request, slot, asks=True) for slot in list(self.executor.slots)])

    def _half(self, request: Request, error: BaseException) -> Request:
        """The request with half the width after it ran out of memory; counts and logs that."""
        half = request._replace(width=request.width // 2)
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        self.event("out of memory", group=request.group, lanes=request.width, now=half.width, error=said)
        self.halvings += 1
        return half

    def _width(self, group: int) -> int:
        slots, step_bytes, chunk_size = len(self.executor.slots), self.trials[group].step_bytes, self.settings.chunk_size
        return wanted_width(self.plan, group, self.ledger.allowed, step_bytes, slots, self.executor.platform, chunk_size)

    def _fitting(self, request: Request) -> int:
        """How many lanes fit in the memory budget, by what the compiled programs need."""
        width, found = request.width, self.executor.compiled(request)
        if self.settings.chunk_size is None and found is not None:
            width = fitting(width, found.bytes_needed, self.executor.budget)
        return width

    def _lanes(self, request: Request, rows: Sequence[int]) -> LaneArrays:
        first = next(row for row in rows if row != NOBODY)
        rows = [first if row == NOBODY else row for row in rows]
        independent = self.settings.randomness == "independent"
        return lane_arrays(
            self.plan, request.group, rows, self.ledger.numbers, request.width, shared=request.shared, independent=independent
        )

    def _take_up(self, request: Request) -> None:
        """Makes the chunks of a group whose programs are compiled ready to train; those of a stored sweep continue where they were."""
        group, goals = request.group, self.ledger.allowed
        self.event("compiled", group=group, lanes=request.width, of=len(self.plan.groups), bytes=self._bytes_needed(request))
        self.requests[group], self.widths[group] = request, request.width
        resumed = [cohort for cohort in self.resumed if cohort.request == request]
        self.resumed = [cohort for cohort in self.resumed if cohort.request != request]
        self.ready += [cohort for cohort in resumed if cohort.at < cohort.goal]
        self.trained += [cohort for cohort in resumed if cohort.at >= cohort.goal]
        begun = {row for cohort in resumed for row in cohort.rows}
        left = [row for row in self.plan.groups[group].rows if row not in begun and not self.ledger.ended[row]]
        chunks = chunks_of(self.plan, left, goals, request.width, request.shared)
        self.ready += [Cohort(request, rows, None, 0, int(goals[rows[0]])) for rows in chunks]
        if self._in_order:  # a fixed order, whichever group was compiled first
            self.ready.sort(key=self._place)
            self.trained.sort(key=self._place)

    def _place(self, cohort: Cohort) -> tuple[int, int]:
        """Sort key for the order in which cohorts train under an in_order policy: as in the stored sweep, then by group."""
        return self._places.get(id(cohort), len(self._places)), cohort.request.group

    def _bytes_needed(self, request: Request) -> int:
        found = self.executor.compiled(request)
        return 0 if found is None else found.bytes_needed

    def _start(self) -> None:
        """Gives each free slot the first cohort whose programs are compiled for its device."""
        for slot in self.executor.free():
            if not self.ready and self.judge is not None and not self._in_order and not self.resumed:
                self._finish_trained()
                self._judge()
            asks = True  # compile only the first cohort's programs for this device; the others wait for them
            for i, cohort in enumerate(self.ready):
                if self._is_ready(cohort.request, slot, asks=asks):
                    self._submit(self.ready.pop(i), slot)
                    break
                if self._in_order:
                    break
                asks = False

    def _is_ready(self, request: Request, slot: Slot, *, asks: bool) -> bool:
        """Whether a slot may start a task of these programs; a device whose compiler fails is retired, if there is another device."""
        try:
            return slot in self.executor.slots and self.executor.ready(request, slot, asks=asks)
        except Exception as error:
            if is_out_of_memory(error) or not self.executor.retire(slot):
                raise
            self._tell_failed(slot, error, [])
            return False

    def _submit(self, cohort: Cohort, slot: Slot) -> None:
        request = cohort.request
        lanes = self._lanes(request, cohort.rows) if cohort.told is None else cohort.told
        cohort = cohort._replace(told=lanes)
        fold = self.plan.rows[cohort.rows[cohort.lanes[0]]].fold
        task = Task(request.group, lanes, request.width, fold, cohort.stand, cohort.at, self._stops(cohort))
        self.training[self.executor.submit(task, request.shared, slot, self._seconds_left())] = Active(cohort, slot)

    def _stops(self, cohort: Cohort) -> tuple[tuple[int, bool], ...]:
        """The steps at which the next task stops, each with whether it evaluates there."""
        lengths = set(self.ledger.num_steps[[cohort.rows[lane] for lane in cohort.lanes]].tolist())
        evaluations = set().union(*map(self._evaluations, lengths))
        steps = max(lengths)
        stride = STRETCH * math.ceil(steps / self.executor.pauses(cohort.request, steps) / STRETCH)
        end = min(cohort.goal, cohort.at + stride)
        ahead = sorted(step for step in evaluations if cohort.at < step <= end)
        if self.settings.keep_best and ahead:
            end, ahead = ahead[0], ahead[:1]  # the task ends at its first evaluation, where a state may have to be kept
        return tuple((stop, stop in evaluations) for stop in sorted({end, *ahead}))

    def _done(self) -> list[Future[Done]]:
        """The tasks that are done; under an in_order policy only the one that started first."""
        if not self._in_order:
            return [future for future in self.training if future.done()]
        first = next(iter(self.training), None)
        return [first] if first is not None and first.done() else []

    def _halved(self, future: Future[Done]) -> bool:
        """If a task ran out of memory, splits its cohort, and those that have not started, into chunks of half the width.

        Returns whether it did.
        """
        error = future.exception()
        if error is None or not is_out_of_memory(error):
            return False
        active = self.training[future]
        before = active.cohort.request
        if before.width == 1:
            return False
        half = self._half(before, error)
        del self.training[future]
        self.executor.release(active.slot)
        if self.requests[before.group].width > half.width:
            self.requests[before.group], self.widths[before.group] = half, half.width
        self.executor.ask(half, self._lanes(half, self.plan.groups[before.group].rows[:1]))
        narrowed = [cohort for cohort in self.ready if cohort.request == before and cohort.stand is None]
        ids = {id(cohort) for cohort in narrowed}
        self.ready = [cohort for cohort in self.ready if id(cohort) not in ids]
        self.ready[:0] = [part for cohort in [active.cohort, *narrowed] for part in halved(cohort, half)]
        return True

    def _handed_on(self, future: Future[Done]) -> bool:
        """If a task failed and there is another device, retires the device and makes the cohort ready again. Returns whether it did.

        A cohort that fails on a second device too is not handed on again: the device is not to blame.
        """
        error, (cohort, slot) = future.exception(), self.training[future]
        if not isinstance(error, Exception) or cohort.failed or not self.executor.retire(slot):
            return False
        stand, at = cohort.stand, cohort.at
        try:
            stand = None if stand is None else stand._replace(state=jax.device_get(stand.state))
        except Exception:  # the state was lost with the device; training again from step 0 gives the same state
            if self.judge is not None and self.judge.copies:  # but not if it was copied from another row
                return False
            stand, at = None, 0
        del self.training[future]
        said = self._tell_failed(slot, error, [cohort.rows[lane] for lane in cohort.lanes])
        self.ready.insert(0, cohort._replace(stand=stand, at=at, failed=said))
        return True

    def _tell_failed(self, slot: Slot, error: Exception, rows: list[int]) -> str:
        said = f"{slot.device}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        self.event("device failed", error=said, rows=rows)
        return said

    def _noted(self, future: Future[Done]) -> tuple[Slot, Cohort]:
        """Records what a task has measured; returns its slot and its updated cohort."""
        done = future.result()
        slot, cohort = self.training[future].slot, self.training[future].cohort
        lanes = cohort.lanes
        rows = [cohort.rows[lane] for lane in lanes]
        for step, metrics in done.measured.items():
            own = {name: values[lanes] for name, values in metrics.items()}
            self.ledger.note(rows, step, own)
            self._call_back(step, rows, own)
        steps = (done.at - cohort.at) * len(lanes)
        if cohort.failed:
            rule, fix = "every device must train what it is given", "its chunk was handed to another device, and it is used no more"
            warnings.warn(check.message("sweep", rule, cohort.failed, fix), RuntimeWarning, stacklevel=5)
        cohort = cohort._replace(stand=done.stand, at=done.at, failed="")
        if self.settings.keep_best and done.measured:
            self._keep_best(cohort, max(done.measured))
        self.steps_done += steps  # only here: what fails above is recorded again
        self.training.pop(future)
        if self.settings.raises:
            self._raise_for_diverged(cohort)
        return slot, cohort

    def _call_back(self, step: int, rows: list[int], metrics: dict[str, np.ndarray]) -> None:
        if self.settings.callback is not None:
            variants, replicates, folds = np.array([self.plan.rows[row] for row in rows]).T
            self.settings.callback(Evaluation(step, np.array(rows), variants, replicates, metrics, folds))

    def _keep_best(self, cohort: Cohort, step: int) -> None:
        """Keeps the states of lanes whose row is better at this evaluation than at any before."""
        assert cohort.stand is not None
        better = [lane for lane in cohort.lanes if cohort.stand.diverged[lane] < 0 and self.kept.is_better(cohort.rows[lane], step)]
        if better:
            host = jax.device_get(cohort.stand.state)
            for lane in better:
                self.kept.improve(cohort.rows[lane], step, one_lane(host, lane))

    def _raise_for_diverged(self, cohort: Cohort) -> None:
        """Raises an error that names the run if one of the cohort's has diverged, as jax_debug_nans asks."""
        assert cohort.stand is not None
        for lane in cohort.lanes:
            if cohort.stand.diverged[lane] >= 0:
                self._note_unfinished(cohort)
                variant, replicate, fold = self.plan.rows[cohort.rows[lane]]
                where = f"sweep: variant {variant} {brief(self.plan.variants[variant].hyperparameters)}"
                where += f", replicate {replicate}" if self.plan.replicates > 1 else ""
                where += f", fold {fold}" if self.plan.has_folds else ""
                got = f"NaN or inf in step {cohort.stand.diverged[lane]}"
                raise FloatingPointError(check.message(where, "must stay finite, as jax_debug_nans asks", got))

    def _finish_trained(self) -> None:
        while self.trained:
            self._finish(self.trained[0])
            self.trained.pop(0)

    def _finish(self, cohort: Cohort) -> None:
        """Ends those rows of a cohort at its goal that have completed or diverged; with any others the cohort waits for the judge."""
        assert cohort.stand is not None
        ends = [lane for lane in cohort.lanes if self.ledger.num_steps[cohort.rows[lane]] == cohort.at or cohort.stand.diverged[lane] >= 0]
        self._end(cohort, ends, COMPLETED)
        if self.judge is not None:
            self.judge.news([cohort.rows[lane] for lane in cohort.lanes])
        left = tuple(NOBODY if lane in set(ends) else row for lane, row in enumerate(cohort.rows))
        if any(row != NOBODY for row in left):
            cohort = cohort._replace(rows=left)
            self.waiting.append(cohort if self.judge is not None and self.judge.copies else _on_host(cohort))

    def _end(self, cohort: Cohort, lanes: Sequence[int], status: int) -> None:
        """Ends the rows of these lanes: records their status and keeps their states."""
        assert cohort.stand is not None
        if lanes:
            rows = {lane: cohort.rows[lane] for lane in lanes if not self.ledger.ended[cohort.rows[lane]]}
            lost = [row for lane, row in rows.items() if cohort.stand.diverged[lane] >= 0]
            for how, own in ((STATUSES[status], [row for row in rows.values() if row not in lost]), (STATUSES[DIVERGED], lost)):
                if own:
                    self.event("ended", step=cohort.at, how=how, rows=own)
        states = _states(cohort.stand, lanes)
        for lane in lanes:
            row = cohort.rows[lane]
            if self.ledger.ended[row]:  # after a Ctrl-C in the middle of this loop it runs again
                continue
            self._note(row, cohort, lane, status)
            self.kept.add(row, states[lane])
            self.ledger.ended[row] = True

    def _judge(self, *, must: bool = False) -> None:
        """Asks the judge, ends the rows that it stops, and packs into chunks those that may continue.

        Args:
          must: whether nothing else is left to do, so that the judge has to decide something.
        """
        assert self.judge is not None
        self._deciding = True
        self._carry_out(self.judge, self.judge.rule(), must)
        self._deciding = False

    def _carry_out(self, judge: Judge, source: np.ndarray | None, must: bool) -> None:
        """Carries out what the judge has decided.

        Args:
          source: (rows,), the row whose state each row copies; None if none does.
          must: whether the judge has to have decided something.
        """
        ledger = self.ledger
        lanes = [(cohort, cohort.rows[lane]) for cohort in self.waiting for lane in cohort.lanes]
        if not any(ledger.stopped[row] or ledger.allowed[row] > cohort.at for cohort, row in lanes):
            if must:
                rule, fix = "must let a variant go on or stop one once all have been measured", "it waits for something that never comes"
                raise RuntimeError(check.message(f"policy {judge.policy.name!r}", rule, "neither", fix))
            return
        waiting = []
        for cohort in self.waiting:
            ends = [lane for lane in cohort.lanes if ledger.stopped[cohort.rows[lane]]]
            self._end(cohort, ends, PRUNED)
            left = tuple(NOBODY if lane in set(ends) else row for lane, row in enumerate(cohort.rows))
            if any(row != NOBODY for row in left):
                waiting.append(cohort._replace(rows=left))
        # Waiting rows may join cohorts that are ready, have started and have unused lanes.
        joinable = [cohort for cohort in self.ready if cohort.stand is not None and len(cohort.lanes) < cohort.request.width]
        own = {id(cohort) for cohort in joinable}
        ready = [cohort for cohort in self.ready if id(cohort) not in own]
        by_program: dict[Request, list[Cohort]] = {}
        for cohort in [*waiting, *joinable]:
            by_program.setdefault(cohort.request, []).append(cohort)
        left_over = []
        for request, cohorts in by_program.items():
            going, staying = packed(cohorts, ledger.allowed, lot_by(self.plan, request.shared), source, waiting)
            left_over += staying
            ready += going
        # Full chunks train first, then those at a later step.
        ready.sort(key=lambda cohort: (len(cohort.lanes) < cohort.request.width, -cohort.at))
        self.waiting, self.ready = left_over, ready  # in one statement: a Ctrl-C before it leaves both lists unchanged

    def _note_unfinished(self, cohort: Cohort) -> None:
        states = None if cohort.stand is None else _states(cohort.stand, cohort.lanes)
        for lane in cohort.lanes:
            row = cohort.rows[lane]
            if self.ledger.ended[row]:
                continue
            self._note(row, cohort, lane, UNFINISHED)
            if states is not None:
                self.kept.leave(row, states[lane])
            self.ledger.ended[row] = True

    def _note(self, row: int, cohort: Cohort, lane: int, status: int) -> None:
        """Records how a row ended: diverged if its lane has, else with this status."""
        diverged = -1 if cohort.stand is None else int(cohort.stand.diverged[lane])
        self.ledger.status[row] = status if diverged < 0 else DIVERGED
        self.ledger.at[row] = cohort.at if diverged < 0 else diverged


def _states(stand: Stand, lanes: Sequence[int]) -> dict[int, list[Any]]:
    """The leaves of each lane's last finite state, by lane."""
    host = jax.device_get(stand.state) if lanes else []
    return {lane: stand.frozen[lane] if lane in stand.frozen else one_lane(host, lane) for lane in lanes}


def _on_host(cohort: Cohort) -> Cohort:
    """The cohort with its state moved to the host, which frees an accelerator's memory while the cohort waits."""
    stand = cohort.stand
    if stand is None or all(not isinstance(leaf, jax.Array) or next(iter(leaf.devices())).platform == "cpu" for leaf in stand.state):
        return cohort
    return cohort._replace(stand=stand._replace(state=jax.device_get(stand.state)))
