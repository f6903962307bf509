"""The sweep: plan, chunks, tasks, result.

A task is one chunk over one stretch of steps; it could run anywhere. Tasks go to an executor with a thread for each core
or device, and between them the host looks: it tells the progress and hands out the next task.
"""

import collections
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
from funcnet.sweep.plan import Chunk, Plan, Recipe, chunks_of, core_lanes, lane_width, lots_of, make_plan, shares_keys, traced_values
from funcnet.sweep.program import STRETCH, Compiled, Lanes, Programs, bytes_needed, trace
from funcnet.sweep.progress import Progress, reporter
from funcnet.sweep.result import SweepResult, default_metric
from funcnet.training import Run, RunKeys, evaluation_steps, run_keys
from funcnet.tree import PyTree

_LOOKS = 20  # times the host looks at a chunk while it trains, where a run is long


class SweepInterrupted(RuntimeError):
    """A sweep that ended early, by an error or by hand, after some runs were done; `result` holds them."""

    def __init__(self, message: str, result: SweepResult):
        super().__init__(message)
        self.result = result


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
      keep: how many final states to keep, the best by validation loss (training loss without validation); None keeps all.

    Returns:
      A `SweepResult`. A run that becomes non-finite is frozen, marked "diverged", and changes nothing for the others.

    Raises:
      ValueError, TypeError: an argument, a hyperparameter or the data will not do; nothing has been trained.
      SweepInterrupted: something failed on the way, or the user stopped it; its `result` holds the runs that were done.

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
    _check_arguments(key, num_steps, chunk_size, memory_budget, randomness, keep)
    tell, close = reporter(progress)
    data = as_split("sweep", data)
    plan = make_plan(
        recipe,
        as_variants("sweep", variants),
        data,
        num_steps=num_steps,
        batch_size=batch_size,
        eval_every=eval_every,
        replicates=replicates,
    )
    try:
        return _Engine(plan, data, key, chunk_size, memory_budget, randomness, keep, tell).run()
    finally:
        close()


class Slot(NamedTuple):
    """A place where one chunk trains at a time."""

    device: jax.Device
    number: int


class _Active(NamedTuple):
    """A chunk that has begun."""

    chunk: Chunk
    slot: Slot
    lanes: Lanes
    programs: Callable[[], Compiled]
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
        tell: Callable[[Progress], None],
    ):
        self.plan, self.key, self.randomness, self.tell = plan, key, randomness, tell
        self.chunk_size, self.keep = chunk_size, keep
        self.slots = _slots()
        self.budget = memory_budget or _memory(self.slots[0].device) // 4
        self.data = {device: jax.device_put(data, device) for device in {slot.device for slot in self.slots}}
        self.began = time.monotonic()
        self.compile_seconds, self.programs = 0.0, 0
        self.steps_done, self.diverged, self.best = 0, 0, math.inf
        self.steps = sum(plan.variants[row.variant].num_steps for row in plan.rows)
        self.rows: dict[int, dict[str, Any]] = {}  # by row, once done: metrics, status, steps, curves
        self.curves: dict[int, dict[int, dict[str, float]]] = collections.defaultdict(dict)  # row -> step -> metrics
        self.states: dict[int, PyTree] = {}
        self.losers: list[tuple[float, int]] = []  # heap of (-metric, -row) of the states kept: the worst first
        self.widths: dict[int, int] = {}
        self.traced: dict[tuple[Any, ...], Callable[[], Compiled]] = {}  # by group, lane width, sharing and device
        self.shared_keys: dict[int, RunKeys] = {}  # by replicate

    def run(self) -> SweepResult:
        pool = ThreadPoolExecutor(len(self.slots), thread_name_prefix="funcnet")
        try:
            self._run(pool)
        except BaseException as error:
            pool.shutdown(wait=True, cancel_futures=True)
            if not self.rows:
                raise
            what = f"sweep: {type(error).__name__} after {len(self.rows)} of {len(self.plan.rows)} runs, which the error's .result holds: {error}"
            raise SweepInterrupted(what, self._result()) from error
        pool.shutdown()
        return self._result()

    def _run(self, pool: ThreadPoolExecutor) -> None:
        to_trace = collections.deque(range(len(self.plan.groups)))
        to_start: collections.deque[tuple[Chunk, int, bool]] = collections.deque()  # with the group's lane width and sharing
        free = collections.deque(self.slots)
        compiling: dict[Future[Compiled], tuple[int, int, bool]] = {}  # group, lane width, sharing
        training: dict[Future[Any], _Active] = {}

        def submit_compile(group: int, width: int) -> None:
            shared = shares_keys(self.plan, group, width, self.randomness)
            compiling[pool.submit(self._trace(group, width, shared, self.slots[0].device))] = (group, width, shared)

        def submit_segment(active: _Active) -> None:
            training[pool.submit(_segment, active, self.data[active.slot.device], self._next_stops(active))] = active

        while to_trace or to_start or compiling or training:
            while free and to_start:
                slot, (chunk, width, shared) = free.popleft(), to_start.popleft()
                programs = self._trace(chunk.group, width, shared, slot.device)
                submit_segment(_Active(chunk, slot, self._lanes(chunk.group, chunk.rows, width, shared, slot.device), programs, None, 0))
            if to_trace and len(compiling) + len(training) <= len(self.slots):
                group = to_trace.popleft()
                submit_compile(group, self._width(group))
                continue
            self.tell(self._progress(len(to_trace) + len(compiling)))
            for future in wait([*compiling, *training], return_when=FIRST_COMPLETED, timeout=1.0).done:
                if future in compiling:
                    group, width, shared = compiling.pop(future)
                    narrower = self._compiled(future.result(), group, width)
                    if narrower < width:
                        submit_compile(group, narrower)
                    else:
                        to_start.extend((chunk, width, shared) for chunk in chunks_of(self.plan, group, width, shared))
                else:
                    active = self._trained(training.pop(future), *future.result())
                    if active.done < active.chunk.num_steps:
                        submit_segment(active)
                    else:
                        self._finish(active)
                        free.append(active.slot)
        self.tell(self._progress(0))

    def _compiled(self, found: Compiled, group: int, width: int) -> int:
        """Notes what a group's programs cost; returns the lane width that fits the memory budget."""
        self.compile_seconds += found.seconds
        self.programs += found.new
        narrower = width if self.chunk_size is not None else self._fitting(found.programs, width)
        self.widths[group] = narrower
        return narrower

    def _trained(self, active: _Active, run: Run, measured: dict[int, dict[str, np.ndarray]], done: int) -> _Active:
        """Notes what a task has measured; returns the chunk as it stands."""
        self.steps_done += (done - active.done) * len(active.chunk.rows)
        for step, metrics in measured.items():
            for lane, row in enumerate(active.chunk.rows):
                self.curves[row][step] = {name: float(values[lane]) for name, values in metrics.items()}
        return active._replace(run=run, done=done)

    def _width(self, group: int) -> int:
        if self.chunk_size is not None:
            return self.chunk_size
        own = self.plan.groups[group]
        most = core_lanes(own.step_bytes) if self.slots[0].device.platform == "cpu" else 8192
        lots = lots_of(self.plan, group, shared=False)
        return lane_width([len(lot) for _, lot in lots], len(self.slots), most)

    def _fitting(self, programs: Programs, width: int) -> int:
        """The width at which every slot's chunk fits the budget, going by what the compiler says of this one."""
        share = self.budget / sum(slot.device == self.slots[0].device for slot in self.slots)
        return max(1, min(width, int(width * share / max(1, bytes_needed(programs)))))

    def _trace(self, group: int, width: int, shared: bool, device: jax.Device) -> Callable[[], Compiled]:
        place = group, width, shared, device
        if place not in self.traced:
            lanes = self._lanes(group, self.plan.groups[group].rows[:width], width, shared, device)
            self.traced[place] = trace(self.plan.recipe, self.plan.groups[group], lanes, self.data[device], shared, device)
        return self.traced[place]

    def _lanes(self, group: int, rows: Sequence[int], width: int, shared: bool, device: jax.Device) -> Lanes:
        rows = [*rows, *[rows[0]] * (width - len(rows))]
        with np.errstate(over="ignore"):  # as when the recipe was checked
            hyperparameters = {
                name: values.astype(np.int32 if values.dtype.kind in "iu" else jnp.result_type(float))
                for name, values in traced_values(self.plan, rows).items()
            }
        named = self.plan.variants[self.plan.rows[rows[0]].variant].named
        options = {name: np.int32(self.plan.groups[group].options[name].index(value)) for name, value in named.items()}
        limits = [self.plan.variants[self.plan.rows[row].variant].num_examples for row in rows]
        num_examples = None if limits[0] is None else np.asarray(limits, np.int32)
        if shared:
            replicate = self.plan.rows[rows[0]].replicate
            if replicate not in self.shared_keys:
                self.shared_keys[replicate] = run_keys(self._key(rows[0]))
            keys = self.shared_keys[replicate]
        else:
            keys = jax.vmap(run_keys)(jnp.stack([self._key(row) for row in rows]))
        lanes: Any = Lanes(np.arange(width, dtype=np.int32), hyperparameters, options, num_examples, keys)  # type: ignore[arg-type]
        placed: Lanes = jax.device_put(lanes, device)
        return placed

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

    def _finish(self, active: _Active) -> None:
        run = jax.device_get(active.run)
        for lane, row in enumerate(active.chunk.rows):
            diverged = int(run.diverged[lane])
            self.diverged += diverged >= 0
            self.rows[row] = {
                "status": "completed" if diverged < 0 else "diverged",
                "steps": active.chunk.num_steps if diverged < 0 else diverged,
                "metrics": self.curves[row][active.chunk.num_steps],
            }
            self.best = min(self.best, self._ranked(row))
            self._keep(row, jax.tree.map(lambda leaf, lane=lane: _own(leaf[lane]), run.state))

    def _keep(self, row: int, state: PyTree) -> None:
        self.states[row] = state
        if self.keep is None:
            return
        value = self._ranked(row)
        heapq.heappush(self.losers, (-value, -row))
        if len(self.states) > self.keep:
            del self.states[-heapq.heappop(self.losers)[1]]

    def _ranked(self, row: int) -> float:
        """A row's metric for ranking; infinite where it is none."""
        metrics = self.rows[row]["metrics"]
        value = metrics[default_metric(list(metrics))]
        return value if math.isfinite(value) and self.rows[row]["status"] == "completed" else math.inf

    def _progress(self, compiling: int) -> Progress:
        metric = default_metric(list(next(iter(self.rows.values()))["metrics"])) if self.rows else ""
        best = self.best if math.isfinite(self.best) else None
        seconds = time.monotonic() - self.began
        return Progress(len(self.rows), len(self.plan.rows), self.steps_done, self.steps, self.diverged, best, metric, compiling, seconds)

    def _result(self) -> SweepResult:
        rows = range(len(self.plan.rows))
        undone = {"status": "unfinished", "steps": 0, "metrics": {}}
        ended = [self.rows.get(row, undone) for row in rows]
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row["metrics"]))
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
        first = self.plan.variants[0]
        arguments = [*first.static, *first.traced, *first.named]
        return SweepResult(settings, outcome, {"step": np.array(steps), **curves}, self.states, self.plan.recipe, arguments, timing)


def _segment(active: _Active, data: Split, stops: list[tuple[int, bool]]) -> tuple[Run, dict[int, dict[str, np.ndarray]], int]:
    """One task: a chunk from where it is through these stops. The metrics come back in NumPy arrays, (lanes,) each."""
    programs, lanes, at = active.programs().programs, active.lanes, active.done
    run = programs.init(lanes) if active.run is None else active.run
    measured = {}
    for stop, evaluates in stops:
        run = programs.advance(lanes, run, data, np.int32(at), np.int32(stop))
        at = stop
        if evaluates:
            measured[stop] = programs.evaluate(lanes, run, data)
    jax.block_until_ready(run)
    return run, jax.device_get(measured), at


def _own(leaf: Any) -> Any:
    """A copy that doesn't keep the other lanes' memory alive; a random key, which NumPy can't hold, stays one."""
    return leaf if isinstance(leaf, jax.Array) else np.array(leaf)


def _check_arguments(
    key: Any, num_steps: int, chunk_size: int | None, memory_budget: int | None, randomness: str, keep: int | None
) -> None:
    is_typed = check.is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not is_typed and not (check.is_array(key) and key.dtype == np.uint32):
        raise TypeError(check.message("sweep", "key must be a JAX random key", repr(key), "such as jax.random.key(0)"))
    if key.ndim != (0 if is_typed else 1):
        raise ValueError(check.message("sweep", "key must be one key", f"shape {key.shape}", "each replicate gets one of its own from it"))
    check.whole("sweep", "num_steps", num_steps, 1)
    for name, value in (("chunk_size", chunk_size), ("memory_budget", memory_budget), ("keep", keep)):
        if value is not None:
            check.whole("sweep", name, value, 1)
    check.one_of("sweep", "randomness", randomness, ("shared", "independent"))


def _slots() -> list[Slot]:
    """One for each device; where the one device is a CPU, one for each of its cores."""
    devices = jax.local_devices()
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
