"""The sweep: plan, chunks, tasks, result.

A task is one chunk over one stretch of steps; it could run anywhere. Tasks go to an executor with a thread for each core
or device, and between them the host looks: it tells the progress and hands out the next task.
"""

import collections
import contextlib
import heapq
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check, inner
from funcnet.data import Dataset, Split, as_split
from funcnet.space import Variants, as_variants
from funcnet.sweep.plan import (
    Chunk,
    Plan,
    Recipe,
    brief,
    chunks_of,
    core_lanes,
    key_kind,
    lane_width,
    lots_of,
    make_plan,
    one_key_for_all,
    shares_keys,
    traced_values,
    trial_of,
)
from funcnet.sweep.program import STRETCH, Compiled, Lanes, Pending, Programs, compile_programs
from funcnet.sweep.progress import Progress, Reporter, reporter
from funcnet.sweep.ranking import default_metric, wanted_mode
from funcnet.sweep.result import SweepResult
from funcnet.sweep.trial import Constants
from funcnet.training import Run, RunKeys, evaluation_steps, run_keys
from funcnet.tree import PyTree

_LOOKS = 20  # times the host looks at a chunk while it trains, where a run is long


class SweepInterrupted(BaseException):
    """A sweep that ended early; `result` holds what there is, rows that didn't end with the status "unfinished".

    It is also an error of the kind that ended it: a RuntimeError (`SweepFailed`), a KeyboardInterrupt (`SweepStopped`, which
    `except Exception` lets through), or, under `jax_debug_nans`, a FloatingPointError (`SweepNotFinite`).
    """

    def __init__(self, message: str, result: SweepResult):
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.result)


class SweepFailed(SweepInterrupted, RuntimeError):
    """Something went wrong on the way."""


class SweepStopped(SweepInterrupted, KeyboardInterrupt):
    """The user stopped the sweep, as by Ctrl-C."""


class SweepNotFinite(SweepInterrupted, FloatingPointError):
    """A run diverged while jax_debug_nans or jax_debug_infs was on."""


def sweep(
    recipe: Recipe,
    variants: Variants | Iterable[Mapping[str, Any]],
    data: Split | Dataset,
    *,
    key: jax.Array,
    num_steps: int,
    batch_size: int | None,
    eval_every: int | None = None,
    replicates: int = 1,
    progress: bool | Callable[[Progress], None] | None = None,
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    randomness: str = "shared",
    keep: int | None = None,
    metric: str | None = None,
    mode: str | None = None,
) -> SweepResult:
    """Trains every variant of a recipe, many at once.

    Variants that differ in floats alone share a program and train in its lanes; any other hyperparameter (int, bool, str,
    tuple, function) picks a program, unless `static` or `traced` says otherwise. Before anything is compiled, the recipe
    is called once with each variant's values, so that its own checks see them.

    Args:
      recipe: recipe(**hyperparameters) -> `Training`, or any triple of functions of its form.
      variants: `grid(...)`, `space(...).sample(...)`, or a list of dicts. Three names belong to the sweep and may stand
        among the hyperparameters: batch_size and num_steps, and num_examples, which lets a variant see only the first so
        many of the training examples. A recipe that declares one of these gets it too.
      data: a `Split`, or a `Dataset` to train on with nothing to validate by.
      key: decides everything random. Replicate r of a variant gets fold_in(key, r).
      num_steps: steps each run takes, at least 1.
      batch_size: examples a step, at most as many as there are to train on; None takes all of them.
      eval_every: steps between evaluations, which the curves show; None evaluates once, after the last step.
      replicates: runs of each variant, each with its own key.
      progress: None or True for a bar in a terminal (by tqdm, where it is installed) and plain lines elsewhere; False for
        silence; or a function that is called with a `Progress`.
      chunk_size: how many runs train together; by default as many as keep every core busy within the memory budget.
      memory_budget: bytes that training may take, all threads together; by default a quarter of the machine's memory, or
        half of what a GPU or TPU has.
      randomness: "shared" gives the variants of one replicate the same key, hence the same initial draws, minibatches and
        dropout draws: they are compared under common random numbers. "independent" folds the variant's index in as well.
      keep: how many final states to keep, those of the best variants (with replicates, of each one's best run); None keeps all.
      metric: what variants are ranked by, shown and kept; by default the validation loss (training loss without validation).
      mode: whether a small ("min") or a large ("max") value of it is good; may be left out where that is known: for losses,
        `METRICS`, and what a training says of its own metrics.

    Returns:
      A `SweepResult`. A run that becomes non-finite is frozen, marked "diverged", and changes nothing for the others.

    Raises:
      ValueError, TypeError: an argument, a hyperparameter or the data will not do; nothing has been trained.
      SweepInterrupted: something failed on the way, or the user stopped it; its `result` holds whatever there is.

    Example:
      >>> import funcnet as fn
      >>> def recipe(learning_rate):
      ...     return fn.training(fn.dense(1), fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> data = fn.split(fn.Dataset(x, 3 * x), key=jax.random.key(0))
      >>> variants = fn.grid(learning_rate=[1e-3, 1e-2, 1e-1])
      >>> result = sweep(recipe, variants, data, key=jax.random.key(1), num_steps=200, batch_size=16, progress=False)
      >>> result.best("validation/loss").hyperparameters
      {'learning_rate': 0.1}
    """
    inner.warn_of_wrong_jax("sweep")
    key = _as_key(key)
    _check_arguments(key, num_steps, chunk_size, memory_budget, randomness, keep)
    data = as_split("sweep", data)
    with inner.no_mesh():  # each chunk trains on one device
        plan = make_plan(
            recipe,
            as_variants("sweep", variants),
            data,
            key=key,
            num_steps=num_steps,
            batch_size=batch_size,
            eval_every=eval_every,
            replicates=replicates,
        )
        rank = _rank(plan, metric, mode, keep)
        tell, close = reporter(progress)
        try:
            return _Engine(plan, data, key, chunk_size, memory_budget, randomness, keep, rank, tell).run()
        finally:
            close()


class Slot(NamedTuple):
    """A place where one chunk trains at a time."""

    device: jax.Device
    number: int


class _Place(NamedTuple):
    """Where programs are compiled for."""

    group: int
    width: int  # lanes
    shared: bool  # whether the lanes share one key
    device: jax.Device


class Rank(NamedTuple):
    """What variants are ranked by."""

    metric: str
    mode: str | None  # "min" or "max"; None where nobody has said which way is better


class _Active(NamedTuple):
    """A chunk that has begun."""

    chunk: Chunk
    slot: Slot
    constants: Constants
    lanes: Lanes
    programs: Programs
    run: Run | None  # None before its first task
    done: int  # steps


class _Engine:
    """Runs a plan. All of its state is the host's; the tasks are pure functions."""

    def __init__(
        self,
        plan: Plan,
        data: Split,
        key: jax.Array,
        chunk_size: int | None,
        memory_budget: int | None,
        randomness: str,
        keep: int | None,
        rank: Rank,
        tell: Reporter,
    ):
        self.plan, self.key, self.randomness, self.tell = plan, key, randomness, tell
        self.chunk_size, self.keep, self.rank = chunk_size, keep, rank
        self.raises = inner.flag("jax_debug_nans") or inner.flag("jax_debug_infs")
        self.slots = _slots()
        self.budget = memory_budget or _memory(self.slots[0].device) // 4
        self.data = {device: jax.device_put(data, device) for device in {slot.device for slot in self.slots}}
        self.began = time.monotonic()
        self.compile_seconds, self.programs = 0.0, 0
        self.steps_done, self.diverged, self.best = 0, 0, math.inf
        self.steps = sum(plan.variants[row.variant].num_steps for row in plan.rows)
        self.rows: dict[int, dict[str, Any]] = {}  # by row, once done or given up: metrics, status, steps
        self.curves: dict[int, dict[int, dict[str, float]]] = collections.defaultdict(dict)  # row -> step -> metrics
        self.states: dict[int, PyTree] = {}
        self.replicates = collections.Counter(row.variant for row in plan.rows)
        self.ended: dict[int, list[int]] = collections.defaultdict(list)  # by variant, its rows that are done
        self.losers: list[tuple[float, int]] = []  # heap of (-value, -variant) of the variants whose state is kept: the worst first
        self.widths: dict[int, int] = {}
        self.requested: dict[_Place, Pending] = {}
        self.ready: dict[_Place, Programs] = {}
        self.constants: dict[tuple[int, jax.Device], Constants] = {}  # by group, as its programs take them
        self.shared_keys: dict[tuple[int, jax.Device], RunKeys] = {}  # by replicate, where they are used
        self.training: dict[Future[Any], _Active] = {}
        self.trained: list[_Active] = []  # to their end, and to be noted once their slots have something to do

    def run(self) -> SweepResult:
        pool = ThreadPoolExecutor(len(self.slots), thread_name_prefix="funcnet")
        try:
            self._run(pool)
        except BaseException as error:
            pool.shutdown(wait=True, cancel_futures=True)
            self._give_up()
            if not self.rows:
                raise
            done = sum(row["status"] != "unfinished" for row in self.rows.values())
            what = f"sweep: {type(error).__name__} after {done} of {len(self.plan.rows)} runs, which the error's .result holds"
            said = f"{what}: {error}" if str(error) else what
            raise _interruption(error)(said, self._result()) from error
        pool.shutdown()
        return self._result()

    def _run(self, pool: ThreadPoolExecutor) -> None:
        to_lower = collections.deque(range(len(self.plan.groups)))
        compiling: dict[_Place, Pending] = {}  # each group's first programs
        to_start: list[tuple[Chunk, _Place]] = []
        free = list(self.slots)

        def compile_group(group: int, width: int) -> None:
            place = _Place(
                group, width, shares_keys(self.plan, group, width, self.randomness, must=one_key_for_all(self.key)), self.slots[0].device
            )
            compiling[place] = self._request(place)

        def submit_segment(active: _Active) -> None:
            self.training[pool.submit(_segment, active, self.data[active.slot.device], self._next_stops(active))] = active

        while to_lower or to_start or compiling or self.training:
            for slot in list(free):
                found = self._startable(to_start, slot)
                if found is not None:
                    free.remove(slot)
                    submit_segment(self._begun(*to_start.pop(found), slot))
            self._finish_trained()
            if to_lower and len(compiling) < len(self.slots) and not self._any_done():
                group = to_lower.popleft()
                compile_group(group, self._width(group))
                continue
            self.tell(self._progress(len(to_lower) + len(compiling)))
            awaited = [future for pending in self.requested.values() for future in pending.futures if not future.done()]
            if not any(pending.done() for pending in compiling.values()):
                wait([*awaited, *self.training], return_when=FIRST_COMPLETED, timeout=1.0)
            for place in [place for place, pending in compiling.items() if pending.done()]:
                found_width = self._compiled(compiling.pop(place).result(), place)
                if found_width < place.width:
                    compile_group(place.group, found_width)
                else:
                    to_start.extend((chunk, place) for chunk in chunks_of(self.plan, place.group, place.width, place.shared))
            for future in [future for future in self.training if future.done()]:
                active = self._trained(future)
                if active.done < active.chunk.num_steps:
                    submit_segment(active)
                else:
                    self.trained.append(active)
                    free.append(active.slot)
        self._finish_trained()
        self.tell(self._progress(0))

    def _any_done(self) -> bool:
        return any(future.done() for future in self.training)

    def _request(self, place: "_Place") -> Pending:
        """Has the programs of a place compiled, which takes none of the slots."""
        if place not in self.requested:
            group = self.plan.groups[place.group]
            lanes = self._lanes(place, group.rows[: place.width])
            self.requested[place] = compile_programs(group, lanes, self.data[place.device], place.shared, place.device)
        return self.requested[place]

    def _startable(self, to_start: Sequence[tuple[Chunk, "_Place"]], slot: Slot) -> int | None:
        """Which of the chunks may start on a slot: the first whose programs are compiled for the slot's device."""
        asked = False
        for i, (_, place) in enumerate(to_start):
            here = place._replace(device=slot.device)
            if here in self.ready:
                return i
            if here in self.requested and self.requested[here].done():
                self._note(self.requested[here].result(), here)
                return i
            if not asked:
                self._request(here)
                asked = True
        return None

    def _begun(self, chunk: Chunk, place: "_Place", slot: Slot) -> _Active:
        here = place._replace(device=slot.device)
        group = self.plan.groups[here.group]
        if (here.group, slot.device) not in self.constants:
            self.constants[here.group, slot.device] = jax.device_put(trial_of(group).constants, slot.device)
        return _Active(chunk, slot, self.constants[here.group, slot.device], self._lanes(here, chunk.rows), self.ready[here], None, 0)

    def _note(self, found: Compiled, place: "_Place") -> None:
        """Notes what a place's programs cost."""
        self.compile_seconds += found.seconds
        self.programs += found.new
        self.ready[place] = found.programs

    def _compiled(self, found: Compiled, place: "_Place") -> int:
        """Notes a group's first programs; returns the lane width that fits the memory budget."""
        self._note(found, place)
        width = place.width
        if self.chunk_size is None:
            share = self.budget / sum(slot.device == place.device for slot in self.slots)
            width = max(1, min(width, int(width * share / max(1, found.bytes_needed))))
        self.widths[place.group] = width
        return width

    def _trained(self, future: Future[Any]) -> _Active:
        """Notes what a task has measured; returns the chunk as it stands."""
        run, measured, done = future.result()
        active = self.training[future]
        self.steps_done += (done - active.done) * len(active.chunk.rows)
        for step, metrics in measured.items():
            for lane, row in enumerate(active.chunk.rows):
                self.curves[row][step] = {name: float(values[lane]) for name, values in metrics.items()}
        active = active._replace(run=run, done=done)
        self.training.pop(future)
        if self.raises:
            self._raise_for_diverged(active)
        return active

    def _raise_for_diverged(self, active: _Active) -> None:
        """Under jax_debug_nans a run that diverges ends the sweep, and the error says which."""
        assert active.run is not None
        diverged = np.asarray(active.run.diverged)
        for lane, row in enumerate(active.chunk.rows):
            if diverged[lane] >= 0:
                self._note_unfinished(active)
                variant, replicate = self.plan.rows[row]
                setting = brief(self.plan.variants[variant].hyperparameters)
                where = f"sweep: variant {variant} {setting}" + (f", replicate {replicate}" if self.replicates[variant] > 1 else "")
                raise FloatingPointError(
                    check.message(where, "must stay finite, as jax_debug_nans asks", f"NaN or inf in step {diverged[lane]}")
                )

    def _width(self, group: int) -> int:
        if self.chunk_size is not None:
            return self.chunk_size
        own = self.plan.groups[group]
        most = core_lanes(trial_of(own).step_bytes) if self.slots[0].device.platform == "cpu" else 8192
        lots = lots_of(self.plan, group, shared=False)
        return lane_width([len(lot) for _, lot in lots], len(self.slots), most)

    def _lanes(self, place: "_Place", rows: Sequence[int]) -> Lanes:
        rows = [*rows, *[rows[0]] * (place.width - len(rows))]
        with np.errstate(over="ignore"):  # as when the recipe was checked
            hyperparameters = {
                name: values.astype(np.int32 if values.dtype.kind in "iu" else jnp.result_type(float))
                for name, values in traced_values(self.plan, rows).items()
            }
        named = self.plan.variants[self.plan.rows[rows[0]].variant].named
        options = {name: np.int32(self.plan.groups[place.group].options[name].index(value)) for name, value in named.items()}
        limits = [self.plan.variants[self.plan.rows[row].variant].num_examples for row in rows]
        num_examples = None if limits[0] is None else np.asarray(limits, np.int32)
        if place.shared:
            own = self.plan.rows[rows[0]].replicate, place.device
            if own not in self.shared_keys:
                self.shared_keys[own] = jax.device_put(run_keys(self._key(rows[0])), place.device)
            keys = self.shared_keys[own]
        else:
            keys = jax.device_put(jax.vmap(run_keys)(jnp.stack([self._key(row) for row in rows])), place.device)
        numbers: Any = (np.arange(place.width, dtype=np.int32), hyperparameters, options, num_examples)
        lane, hyperparameters, options, num_examples = jax.device_put(numbers, place.device)
        return Lanes(lane, hyperparameters, options, num_examples, keys)

    def _key(self, row: int) -> jax.Array:
        variant, replicate = self.plan.rows[row]
        key = jax.random.fold_in(self.key, replicate)
        return jax.random.fold_in(key, variant) if self.randomness == "independent" else key

    def _next_stops(self, active: _Active) -> list[tuple[int, bool]]:
        """Where the next task pauses, and whether it evaluates there."""
        total = active.chunk.num_steps
        evaluations = set(evaluation_steps(total, self.plan.eval_every or total))
        stride = STRETCH * math.ceil(total / _LOOKS / STRETCH)
        end = min(total, active.done + stride)
        return [(stop, stop in evaluations) for stop in sorted({end, *(step for step in evaluations if active.done < step <= end)})]

    def _finish_trained(self) -> None:
        while self.trained:
            self._finish(self.trained[0])
            self.trained.pop(0)

    def _finish(self, active: _Active) -> None:
        run = jax.device_get(active.run)
        states = self._states_of(active, run)
        for lane, row in enumerate(active.chunk.rows):
            if row in self.rows:  # by a Ctrl-C in the middle of this it is done again
                continue
            diverged = int(run.diverged[lane])
            self.diverged += diverged >= 0
            self.rows[row] = {
                "status": "completed" if diverged < 0 else "diverged",
                "steps": active.chunk.num_steps if diverged < 0 else diverged,
                "metrics": self.curves[row][active.chunk.num_steps],
            }
            self.states[row] = states[lane]
            self._ended(row)

    def _states_of(self, active: _Active, run: Run) -> list[PyTree]:
        """The state of each row, in the structure that the recipe gave it."""
        structure, lanes = trial_of(self.plan.groups[active.chunk.group]).structure, range(len(active.chunk.rows))
        leaves = [_apart(leaf, len(lanes)) for leaf in run.state]
        return [jax.tree.unflatten(structure, [each[lane] for each in leaves]) for lane in lanes]

    def _give_up(self) -> None:
        """Notes what the chunks on their way have come to: their curves, and their states as they are."""
        self._finish_trained()
        for future, active in list(self.training.items()):
            if future.cancelled() or future.exception() is not None:
                if not future.cancelled():  # what it had come to is gone with what it failed in
                    active = active._replace(run=None)
            else:
                with contextlib.suppress(FloatingPointError):  # the first one has been said
                    active = self._trained(future)
            if active.run is not None and active.done == active.chunk.num_steps:
                self._finish(active)
            else:
                self._note_unfinished(active)

    def _note_unfinished(self, active: _Active) -> None:
        run = None if active.run is None else jax.device_get(active.run)
        states = None if run is None else self._states_of(active, run)
        for lane, row in enumerate(active.chunk.rows):
            diverged = -1 if run is None else int(run.diverged[lane])
            steps = active.done if diverged < 0 else diverged
            self.rows[row] = {"status": "unfinished" if diverged < 0 else "diverged", "steps": steps, "metrics": {}}
            if states is not None:
                self.states[row] = states[lane]

    def _ended(self, row: int) -> None:
        """Ranks a variant once all of its replicates are done, and keeps the states asked for: of the best variants, their best run's."""
        variant = self.plan.rows[row].variant
        own = self.ended[variant]
        own.append(row)
        if len(own) < self.replicates[variant] or self.rank.mode is None:
            return
        values = {row: self._ranked(row) for row in own}
        mean = float(np.mean(list(values.values())))
        self.best = min(self.best, mean)
        if self.keep is None:
            return
        best = min(own, key=lambda row: (values[row], row))
        for other in own:
            if other != best:
                del self.states[other]
        heapq.heappush(self.losers, (-mean, -variant))
        if len(self.losers) > self.keep:
            worst = -heapq.heappop(self.losers)[1]
            for other in self.ended[worst]:
                self.states.pop(other, None)

    def _ranked(self, row: int) -> float:
        """A row's metric for ranking, the least the best; infinite where it is none."""
        value = self.rows[row]["metrics"].get(self.rank.metric, math.nan)
        fine = math.isfinite(value) and self.rows[row]["status"] == "completed"
        return (value if self.rank.mode == "min" else -value) if fine else math.inf

    def _progress(self, compiling: int) -> Progress:
        best = None
        if math.isfinite(self.best):
            best = self.best if self.rank.mode == "min" else -self.best
        seconds = time.monotonic() - self.began
        return Progress(
            len(self.rows), len(self.plan.rows), self.steps_done, self.steps, self.diverged, best, self.rank.metric, compiling, seconds
        )

    def _result(self) -> SweepResult:
        rows = range(len(self.plan.rows))
        undone = {"status": "unfinished", "steps": 0, "metrics": {}}
        ended = [self.rows.get(row, undone) for row in rows]
        names = self.plan.metrics
        steps = sorted({step for curve in self.curves.values() for step in curve})
        outcome = {
            "variant": np.array([row.variant for row in self.plan.rows]),
            "replicate": np.array([row.replicate for row in self.plan.rows]),
            **{name: np.array([row["metrics"].get(name, math.nan) for row in ended]) for name in names},
            "status": np.array([row["status"] for row in ended]),
            "steps": np.array([row["steps"] for row in ended]),
        }
        curves = {
            name: np.array([[self.curves[row].get(step, {}).get(name, math.nan) for step in steps] for row in rows]) for name in names
        }
        timing = {
            "seconds": time.monotonic() - self.began,
            "compile_seconds": self.compile_seconds,
            "programs": self.programs,
            "lane_widths": [self.widths.get(group, 0) for group in range(len(self.plan.groups))],
        }
        settings = [variant.hyperparameters for variant in self.plan.variants]
        options = {self.plan.rows[row].variant: group.options for group in self.plan.groups for row in group.rows}
        first = self.plan.variants[0]
        arguments = [name for name in [*first.static, *first.traced, *first.named] if name not in first.own]
        return SweepResult(
            settings,
            outcome,
            {"step": np.array(steps), **curves},
            self.states,
            self.plan.recipe,
            arguments,
            timing,
            metric=self.rank.metric,
            mode=self.rank.mode,
            modes=self.plan.modes,
            settings=[variant.own for variant in self.plan.variants],
            options=[options[variant] for variant in range(len(self.plan.variants))],
        )


def _interruption(error: BaseException) -> type[SweepInterrupted]:
    if isinstance(error, KeyboardInterrupt):
        return SweepStopped
    return SweepNotFinite if isinstance(error, FloatingPointError) else SweepFailed


def _segment(active: _Active, data: Split, stops: list[tuple[int, bool]]) -> tuple[Run, dict[int, dict[str, np.ndarray]], int]:
    """One task: a chunk from where it is through these stops. The metrics come back in NumPy arrays, (lanes,) each."""
    programs, lanes, at = active.programs, (active.constants, active.lanes), active.done
    measured = {}
    with jax.debug_nans(False), jax.debug_infs(False):  # a diverged lane's are no surprise; the engine raises for them if asked
        run = programs.init(*lanes) if active.run is None else active.run
        for stop, evaluates in stops:
            run = programs.advance(*lanes, run, data, np.int32(at), np.int32(stop))
            at = stop
            if evaluates:
                measured[stop] = programs.evaluate(*lanes, run, data)
        jax.block_until_ready(run)
        return run, jax.device_get(measured), at


def _apart(leaf: Any, lanes: int) -> list[Any]:
    """Each lane's part, a copy that doesn't keep the others' memory alive; a random key, which NumPy can't hold, stays one."""
    if isinstance(leaf, jax.Array):
        return [leaf[lane] for lane in range(lanes)]
    return [leaf[lane, ...].copy() for lane in range(lanes)]


def _as_key(key: Any) -> jax.Array:
    """One random key, of the new make."""
    check.random_key("sweep", key)
    typed: jax.Array = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(jnp.asarray(key))
    return typed


def _check_arguments(
    key: jax.Array, num_steps: int, chunk_size: int | None, memory_budget: int | None, randomness: str, keep: int | None
) -> None:
    check.whole("sweep", "num_steps", num_steps, 1)
    for name, value in (("chunk_size", chunk_size), ("memory_budget", memory_budget), ("keep", keep)):
        if value is not None:
            check.whole("sweep", name, value, 1)
    check.one_of("sweep", "randomness", randomness, ("shared", "independent"))
    if randomness == "independent" and one_key_for_all(key):
        rule = "key must be of a kind that jax.vmap draws from rightly where every variant has its own"
        raise ValueError(check.message("sweep", rule, f"{key_kind(key)}", 'jax.random.key(0, impl="threefry2x32"), or randomness="shared"'))


def _rank(plan: Plan, metric: str | None, mode: str | None, keep: int | None) -> Rank:
    """What variants are ranked by; which way is better must be known where that is needed."""
    if metric is not None:
        check.one_of("sweep", "metric", metric, plan.metrics)
    name = default_metric(plan.metrics) if metric is None else metric
    try:
        return Rank(name, wanted_mode("sweep", name, mode, plan.modes))
    except ValueError:
        if metric is not None or mode is not None or keep is not None:
            raise
        return Rank(name, None)


def _slots() -> list[Slot]:
    """One for each device; where the one device is a CPU, one for each of its cores. `jax.default_device` is the only one."""
    chosen = inner.flag("jax_default_device")
    if chosen is None:
        devices = jax.local_devices()
    else:
        devices = jax.local_devices(backend=chosen) if isinstance(chosen, str) else [chosen]
    if len(devices) == 1 and devices[0].platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        devices = devices * cores
    return [Slot(device, i) for i, device in enumerate(devices)]


def _memory(device: jax.Device) -> int:
    """Bytes a device has; of a CPU, the machine's."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return 2 * int(stats["bytes_limit"])
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 * 2**30
