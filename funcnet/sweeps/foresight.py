"""`plan`: predicts the programs, lanes, memory, operations and time of a sweep before it trains."""

import contextlib
import heapq
import importlib.util
import itertools
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import check, inner
from funcnet.data import AnyDataset, Split
from funcnet.policy import Policy
from funcnet.spaces import Variants
from funcnet.sweeps.cost import bytes_touched, flops
from funcnet.sweeps.events import Callback
from funcnet.sweeps.executors import Request, Slot, Threads, local_slots, share_of
from funcnet.sweeps.foreseen import Plan, PlannedProgram, Seconds
from funcnet.sweeps.judge import facts_of
from funcnet.sweeps.lanes import LaneArrays, Lanes, lane_arrays
from funcnet.sweeps.ledger import Ledger, new_ledger
from funcnet.sweeps.memory import MARGIN, data_bytes, free_memory, is_out_of_memory
from funcnet.sweeps.pack import chunks_of, request_of, wanted_width
from funcnet.sweeps.planning import Recipe
from funcnet.sweeps.program import STRETCH, Compiled, Kind, compile_programs
from funcnet.sweeps.progress import Progress, check_progress
from funcnet.sweeps.run import Prepared, judge_of, prepare
from funcnet.sweeps.task import Stand, Task
from funcnet.sweeps.trial import TracedFunction, Trial, evaluation_of
from funcnet.sweeps.width import fitting

_TIMED_SECONDS = 1.0  # seconds of steps to time, all programs together
_LEAST_TIMED = 0.02  # seconds of steps to time, at least, for one program
_REPEATS = 3  # of each timing; the median is used, against short disturbances
_LEAST_LAYOUT = "2x2"  # the TPU topology to compile for if one chip is asked for


class Chip(NamedTuple):
    """A chip's peak figures, as its maker states them."""

    kind: str  # as JAX names it
    flops: float  # per second, in bfloat16
    bandwidth: float  # of its memory, in bytes per second
    memory: int  # bytes


# https://cloud.google.com/tpu/docs/v5e and https://cloud.google.com/tpu/docs/v6e
CHIPS = {"v5e": Chip("TPU v5 lite", 197e12, 819e9, 16 * 10**9), "v6e": Chip("TPU v6 lite", 918e12, 1640e9, 32 * 10**9)}


def plan(
    recipe: Recipe,
    variants: Variants | Iterable[Mapping[str, Any]],
    data: Split | AnyDataset | Sequence[Split],
    *,
    key: jax.Array,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    batch_size: int | None,
    eval_every: int | None = None,
    replicates: int = 1,
    progress: bool | Callable[[Progress], None] | None = None,
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    randomness: str = "shared",
    keep: int | None = None,
    keep_best: bool = False,
    metric: str | None = None,
    mode: str | None = None,
    prune: Policy | None = None,
    evolve: Policy | None = None,
    max_seconds: float | None = None,
    store: str | os.PathLike[str] | None = None,
    callback: Callback | None = None,
    executor: Any = None,
    device: str | jax.Device | None = None,
) -> Plan:
    """Predicts what a sweep will take: call it with the arguments of the sweep.

    It rehearses the recipe and compiles its programs exactly as the sweep does: arguments that the sweep refuses are refused here,
    and a sweep that follows in this process compiles nothing more (for up to 256 programs). No run is trained. On a device of this
    machine it times a few steps of a chunk of each program, with as many chunks at a time as the sweep trains, and discards them;
    this takes a few seconds, unless single steps take longer.

    Args:
      recipe, variants, data, key, num_steps, num_epochs, batch_size, eval_every, replicates, chunk_size, memory_budget, randomness:
        as for `sweep`.
      prune, evolve: as for `sweep`; but the plan assumes that no run ends early. This is the most that the sweep takes, except for
        repacking runs that a rule lets continue at different times.
      progress, keep, keep_best, metric, mode, max_seconds, store, callback: checked as `sweep` does, but without effect. What a store
        already holds is not subtracted.
      executor: without effect: the plan is for a sweep in this process.
      device: None for the devices that a sweep would use now; or a `jax.Device` of this machine, as under
        `with jax.default_device(device)`. For a TPU that isn't here give its name, "v5e" or "v6e" for one chip, "v5e:2x2" or "v6e:2x4"
        for several, or a device of `jax.experimental.topologies`. The programs are then compiled for it here (with the extra [tpu]),
        and the training time is a roofline estimate, the larger of two: operations at the chip's bfloat16 peak, since TPUs by default
        multiply float32 numbers in bfloat16; and bytes at its memory bandwidth. A sweep takes longer if its operations are small,
        and less if their results stay on the chip, which the compiler's count of bytes ignores.

    Returns:
      A `Plan`, which prints as a table.

    Raises:
      ValueError, TypeError: as for `sweep`; or there is no such device.
      ImportError: the plan is for a TPU, and its compiler is not installed.

    Example:
      >>> import funcnet as fn
      >>> def recipe(learning_rate, width):
      ...     model = fn.mlp((width, 1), "relu")
      ...     return fn.training(model, fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> variants = fn.grid(learning_rate=[1e-3, 1e-2, 1e-1], width=[8, 16])
      >>> found = plan(recipe, variants, fn.Dataset(x, x**2), key=jax.random.key(1), num_steps=200, batch_size=16, chunk_size=2)
      >>> found.runs, len(found.programs), found.lane_widths, found.chunks
      (6, 2, [2, 2], 4)
      >>> found.seconds.total > found.seconds.train > 0
      True

    Source: the roofline model, Williams, Waterman, Patterson (2009); the chips' figures are Google's
    (https://cloud.google.com/tpu/docs/v5e, https://cloud.google.com/tpu/docs/v6e).
    """
    inner.warn_of_wrong_jax("plan")
    check_progress(progress)
    place = _place(device)
    with inner.no_mesh(), place.context():
        began = time.perf_counter()
        ready = prepare(
            recipe,
            variants,
            data,
            key=key,
            num_steps=num_steps,
            num_epochs=num_epochs,
            batch_size=batch_size,
            eval_every=eval_every,
            replicates=replicates,
            chunk_size=chunk_size,
            memory_budget=memory_budget,
            randomness=randomness,
            keep=keep,
            keep_best=keep_best,
            metric=metric,
            mode=mode,
            prune=prune,
            evolve=evolve,
            max_seconds=max_seconds,
            store=store,
            callback=callback,
        )
        rehearsed = time.perf_counter() - began
        ledger = new_ledger(ready.plan, ready.rehearsal.metrics)
        if ready.policy is not None:
            _begin_rule(ready, ledger, evolves=evolve is not None)
        memory = memory_budget or place.memory()
        budget = share_of(max(0, memory - data_bytes(ready.data)), place.slots)
        return _foreseen(ready, ledger, place, budget, chunk_size, randomness, rehearsed)


class _Place(NamedTuple):
    """The devices on which the sweep would train."""

    slots: list[Slot]
    device: jax.Device | None  # the device of this machine that the user asks for
    chip: Chip | None  # if the device isn't here, only its compiler

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.device is not None:
                stack.enter_context(jax.default_device(self.device))
            if self.chip is not None:  # JAX's cache can't read a program without its chip: it is compiled again
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry", UserWarning)
            yield

    def memory(self) -> int:
        return free_memory(self.slots[0].device) if self.chip is None else int(MARGIN * self.chip.memory)

    @property
    def name(self) -> str:
        device, devices = self.slots[0].device, len({slot.device for slot in self.slots})
        kind = device.device_kind
        named = kind if kind.lower().startswith(device.platform) else f"{device.platform} {kind}"
        return f"{devices} x {named}" if devices > 1 else named


def _place(device: str | jax.Device | None) -> _Place:
    if device is None:
        return _Place(local_slots(), None, None)
    if isinstance(device, str):
        name, _, layout = device.partition(":")
        rule = f"device must be the name of a TPU: {' or '.join(CHIPS)}, or of several, such as 'v5e:2x2'"
        if name not in CHIPS:
            raise ValueError(check.message("plan", rule, repr(device), "a jax.Device stands for one that is here"))
        if importlib.util.find_spec("libtpu") is None:
            raise ImportError(check.needs_extra("plan", "libtpu, the TPU's compiler", "tpu"))
        try:
            devices = inner.tpu_devices(f"{name}:{layout or _LEAST_LAYOUT}")
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(check.message("plan", rule, repr(device), str(error).splitlines()[0])) from error
        return _Place([Slot(own, i) for i, own in enumerate(devices if layout else devices[:1])], None, CHIPS[name])
    if not isinstance(device, jax.Device):
        raise TypeError(check.message("plan", "device must be a name, a jax.Device or None", repr(device), 'such as "v5e"'))
    if inner.is_here(device):
        with jax.default_device(device):
            return _Place(local_slots(), device, None)
    chip = next((chip for chip in CHIPS.values() if chip.kind == device.device_kind), None)
    if chip is None:
        rule = f"a device that isn't here must be one of {', '.join(chip.kind for chip in CHIPS.values())}, whose figures are known"
        raise ValueError(check.message("plan", rule, device.device_kind))
    return _Place([Slot(device, 0)], None, chip)


def _begin_rule(ready: Prepared, ledger: Ledger, *, evolves: bool) -> None:
    """Sets in the ledger how far the sweep's rule lets each row train at first."""
    assert ready.policy is not None
    facts = facts_of(ready.variants, ledger, ready.key, evolves=evolves)
    judge = judge_of(ready.policy, ledger, ready.plan, ready.rehearsal, ready.rank, facts)
    ledger.allowed[:] = 0
    judge.rule()


class _Settled(NamedTuple):
    """A group's programs, compiled for chunks that fit in memory."""

    request: Request
    compiled: Compiled
    before: tuple[Compiled, ...]  # for wider chunks, which didn't fit; the sweep compiles these too


class _Compiler:
    """Compiles programs as the sweep's loop does, with chunk widths from the same functions."""

    def __init__(self, ready: Prepared, ledger: Ledger, place: _Place, budget: float, chunk_size: int | None, randomness: str):
        self._ready, self._ledger, self._slots = ready, ledger, place.slots
        self._budget, self._chunk_size, self._randomness = budget, chunk_size, randomness
        trials = ready.rehearsal.trials
        self.executor = Threads(trials, ready.data, ready.key, place.slots) if place.chip is None else None

    def close(self) -> None:
        if self.executor is not None:
            self.executor.close(cancel=True)

    def lanes(self, request: Request, rows: Sequence[int]) -> LaneArrays:
        independent, numbers = self._randomness == "independent", self._ledger.numbers
        return lane_arrays(self._ready.plan, request.group, rows, numbers, request.width, shared=request.shared, independent=independent)

    def settled(self) -> list[_Settled]:
        """Each group's compiled programs; all are started first, so that they compile in parallel."""
        groups = range(len(self._ready.plan.groups))
        return [self._settle(asked) for asked in [self._ask(group, self._first(group)) for group in groups]]

    def _first(self, group: int) -> int:
        step_bytes = self._ready.rehearsal.trials[group].step_bytes
        slots, platform = len(self._slots), self._slots[0].device.platform
        return wanted_width(self._ready.plan, group, self._ledger.allowed, step_bytes, slots, platform, self._chunk_size)

    def _ask(self, group: int, width: int) -> tuple[Request, Callable[[], Compiled]]:
        """Starts compiling programs; returns their request and a function that waits for them."""
        ready, executor = self._ready, self.executor
        request = request_of(ready.plan, group, self._ledger.allowed, width, self._randomness, ready.key)
        example = self.lanes(request, ready.plan.groups[group].rows[:width])
        if executor is not None:
            executor.ask(request, example)
            return request, lambda: _waited(executor, request)
        lanes: Any = Lanes(np.arange(width, dtype=np.int32), *example)  # type: ignore[arg-type]
        kind = Kind(_shapes(lanes), ready.key, _shapes(ready.data[0]), request.shared, self._slots[0].device)
        return request, compile_programs(ready.rehearsal.trials[group], kind).result

    def _settle(self, asked: tuple[Request, Callable[[], Compiled]]) -> _Settled:
        before: list[Compiled] = []
        while True:
            request, compiled = asked
            try:
                found = compiled()
            except Exception as error:
                if not is_out_of_memory(error) or request.width == 1:
                    raise
                width = request.width // 2
            else:
                width = fitting(request.width, found.bytes_needed, self._budget) if self._chunk_size is None else request.width
                if width == request.width:
                    return _Settled(request, found, tuple(before))
                before.append(found)
            asked = self._ask(request.group, width)


def _shapes(arrays: Any) -> Any:
    """The shapes and dtypes that arrays would have on a device."""
    return jax.eval_shape(lambda arrays: arrays, arrays)


def _waited(executor: Threads, request: Request) -> Compiled:
    while (found := executor.compiled(request)) is None:
        wait(executor.awaited(), return_when=FIRST_COMPLETED)
    return found


class _Way(NamedTuple):
    """How many steps and evaluations a chunk makes."""

    steps: int
    evaluations: int


class _Cost(NamedTuple):
    """The cost of a chunk's parts, in operations, bytes or seconds: its start, one step, one evaluation."""

    begin: float
    step: float
    evaluation: float

    def of(self, way: _Way) -> float:
        return self.begin + way.steps * self.step + way.evaluations * self.evaluation


def _foreseen(
    ready: Prepared, ledger: Ledger, place: _Place, budget: float, chunk_size: int | None, randomness: str, rehearsed: float
) -> Plan:
    plan, trials, slots, device = ready.plan, ready.rehearsal.trials, place.slots, place.slots[0].device
    compiler = _Compiler(ready, ledger, place, budget, chunk_size, randomness)
    try:
        found = compiler.settled()
        chunks = [chunks_of(plan, group.rows, ledger.allowed, *own.request[1:]) for group, own in zip(plan.groups, found, strict=True)]
        ways = [[_way(ready, ledger, rows) for rows in own] for own in chunks]
        works = [_flops(trial, ready.data[0], own.request.width, device) for trial, own in zip(trials, found, strict=True)]
        moves = [_bytes(trial, own.compiled, ready.data[0], device) for trial, own in zip(trials, found, strict=True)]
        if compiler.executor is None:
            assert place.chip is not None
            bounds = zip(works, moves, ways, strict=True)
            seconds = [[_roofline(place.chip, work, moved, way) for way in own] for work, moved, own in bounds]
        else:
            at_a_time = min(sum(slot.device == device for slot in slots), sum(map(len, chunks)))
            lanes = [compiler.lanes(own.request, rows[0]) for own, rows in zip(found, chunks, strict=True)]
            each = max(_LEAST_TIMED, _TIMED_SECONDS / len(found))
            paces = [_pace(compiler.executor, found[i].request, lanes[i], ways[i][0].steps, at_a_time, each) for i in range(len(found))]
            seconds = [list(map(pace.of, own)) for pace, own in zip(paces, ways, strict=True)]
    finally:
        compiler.close()
    programs = [
        PlannedProgram(
            group.static,
            group.batch_size,
            len(group.rows),
            found[i].request.width,
            len(chunks[i]),
            found[i].compiled.bytes_needed,
            sum(map(works[i].of, ways[i])),
            sum(map(moves[i].of, ways[i])),
            max(seconds[i]),
        )
        for i, group in enumerate(plan.groups)
    ]
    executables = {id(one.program): one for own in found for compiled in (*own.before, own.compiled) for one in compiled.executables}
    devices = min(len({slot.device for slot in slots}), sum(map(len, ways)))
    compiling = [one.seconds for one in executables.values()] * devices
    return Plan(
        tuple(programs),
        len(plan.rows),
        len(compiling),
        len(slots),
        place.name,
        int(budget),
        Seconds(rehearsed, _until_all_end(compiling, os.cpu_count() or 1), _until_all_end(itertools.chain(*seconds), len(slots))),
        place.chip is None,
        ready.policy is not None,
        ready.rehearsal.notes,
    )


def _roofline(chip: Chip, work: _Cost, moved: _Cost, way: _Way) -> float:
    """Seconds that a chunk takes on a chip at its peak rate, or at its memory bandwidth, whichever is longer."""
    return max(work.of(way) / chip.flops, moved.of(way) / chip.bandwidth)


def _until_all_end(seconds: Iterable[float], places: int) -> float:
    """When the last job ends, if each job in turn starts as soon as one of the places is free.

    Example:
      >>> _until_all_end([1.0, 1.0, 3.0], 2)
      4.0
    """
    free = [0.0] * places
    for own in seconds:
        heapq.heapreplace(free, free[0] + own)
    return max(free)


def _way(ready: Prepared, ledger: Ledger, rows: Sequence[int]) -> _Way:
    lengths = set(ledger.num_steps[list(rows)].tolist())
    return _Way(max(lengths), len({step for length in lengths for step in ready.plan.evaluations(length)}))


def _flops(trial: Trial, data: Split, lanes: int, device: jax.Device) -> _Cost:
    """Floating-point operations of a chunk, by part."""
    cpu = device.platform == "cpu"
    evaluations = [flops(function.jaxpr, cpu=cpu) for function in _evaluations(trial, data)]
    return _Cost(lanes * flops(trial.init.jaxpr, cpu=cpu), lanes * flops(trial.step.jaxpr, cpu=cpu), lanes * sum(evaluations))


def _bytes(trial: Trial, compiled: Compiled, data: Split, device: jax.Device) -> _Cost:
    """Bytes that a chunk reads and writes, by part: the compiler's count, scaled up since it counts a loop's body only once."""
    cpu = device.platform == "cpu"

    def rounds(functions: Sequence[TracedFunction]) -> float:
        whole, once = (sum(bytes_touched(own.jaxpr, full=full, cpu=cpu) for own in functions) for full in (True, False))
        return whole / max(once, 1.0)

    init, draw, advance, evaluate = (inner.bytes_accessed(one.program) for one in compiled.executables[:4])
    step = rounds([trial.step]) * advance + draw / STRETCH
    return _Cost(rounds([trial.init]) * init, step, rounds(_evaluations(trial, data)) * evaluate)


def _evaluations(trial: Trial, data: Split) -> list[TracedFunction]:
    """The functions that an evaluation runs: on the training data and, if there is any, on the validation data."""
    parts = [(data.train, trial.limits_examples), (data.validation, False)]
    return [evaluation_of(trial, part, limited=limited) for part, limited in parts if part is not None]


def _pace(executor: Threads, request: Request, lanes: LaneArrays, steps: int, at_a_time: int, seconds: float) -> _Cost:
    """Times a chunk's parts on this process's devices, with as many chunks at a time as in the sweep.

    Args:
      lanes: of a chunk; each slot trains a copy of it, which is discarded.
      steps: steps of the chunk in the sweep; no more than these are timed.
      at_a_time: how many slots train at a time.
      seconds: how long to time steps for, if there are enough.
    """
    slots = executor.slots[:at_a_time]

    def timed(stand: Stand | None, at: int, stop: int, *, evaluates: bool) -> tuple[float, Stand]:
        began = time.perf_counter()
        task = Task(request.group, lanes, request.width, 0, stand, at, ((stop, evaluates),))
        done = [future.result() for future in [executor.submit(task, request.shared, slot) for slot in slots]]
        took = time.perf_counter() - began
        for slot in slots:
            executor.release(slot)
        return took, done[0].stand

    def middle(*what: Any, evaluates: bool) -> float:
        took: list[float] = []
        while len(took) < _REPEATS and sum(took) <= seconds:
            took.append(timed(*what, evaluates=evaluates)[0])
        return statistics.median(took)

    _, stand = timed(None, 0, 1, evaluates=True)  # not timed: a program's first call takes longer
    count = 1
    while timed(stand, 1, 1 + count, evaluates=False)[0] < seconds / _REPEATS / 2 and count < steps - 1:
        count = min(steps - 1, 4 * count)
    step = middle(stand, 1, 1 + count, evaluates=False) / count
    begin, evaluation = middle(None, 0, 1, evaluates=False), middle(stand, 1, 2, evaluates=True)
    return _Cost(max(0.0, begin - step), step, max(0.0, evaluation - step))
