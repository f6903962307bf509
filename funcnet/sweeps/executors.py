"""Runs tasks on this process's devices: keeps a copy of the data on each, and the programs compiled for it."""

import functools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from funcnet import inner
from funcnet.folds import Folds
from funcnet.sweeps.lanes import LaneArrays, Lanes, on_device
from funcnet.sweeps.memory import data_bytes, free_memory
from funcnet.sweeps.program import Compiled, Kind, Pending, Programs, compile_programs
from funcnet.sweeps.recent import Recent
from funcnet.sweeps.task import Done, Stand, Task, Workplace, run_task
from funcnet.sweeps.trial import Constants, Trial
from funcnet.train import Draws

_PAUSES = 8  # tasks that a chunk's training is cut into, if the run is long
_DRAWN_BYTES = 2**26  # size of the cache of draws, which the chunks of a replicate share


class Slot(NamedTuple):
    """A place that trains one chunk at a time."""

    device: Any  # None if the slot is in another process
    number: int


class Request(NamedTuple):
    """Which programs the loop asks an executor for."""

    group: int
    width: int  # lanes
    shared: bool  # whether the lanes share one key


class Ready(Protocol):
    """Compiled programs: what the loop needs to know of them."""

    @property
    def bytes_needed(self) -> int: ...


class Executor(Protocol):
    """The interface through which the loop has its tasks run."""

    slots: list[Slot]  # the present ones; the loop gives each of them one task at a time
    platform: str  # "cpu", "gpu" or "tpu"
    budget: float  # bytes that one chunk may take
    seconds: float  # spent compiling
    made: int  # programs compiled

    def ask(self, request: Request, example: LaneArrays) -> None: ...
    def compiled(self, request: Request) -> Ready | None: ...
    def free(self) -> list[Slot]: ...
    def ready(self, request: Request, slot: Slot, *, asks: bool) -> bool: ...
    def submit(self, task: Task, shared: bool, slot: Slot, seconds: float | None = None) -> Future[Done]: ...
    def release(self, slot: Slot) -> None: ...
    def retire(self, slot: Slot) -> bool: ...
    def pauses(self, request: Request, steps: int) -> int: ...
    def awaited(self) -> list[Future[Any]]: ...
    def finish(self, futures: Sequence[Future[Done]]) -> None: ...
    def close(self, *, cancel: bool = False) -> None: ...


class Site:
    """A sweep's resources in one process: data and key on each device, the compiler of its programs, and a cache of shared draws."""

    def __init__(self, trials: Mapping[int, Trial], data: Mapping[jax.Device, Folds], key: Mapping[jax.Device, jax.Array]):
        self.trials, self._data, self._key = trials, data, key
        self._constants: dict[tuple[int, jax.Device], Constants] = {}  # by group and device
        self._drawn: Recent | None = None
        self._before: dict[int, tuple[LaneArrays, Lanes]] = {}  # by slot, the lanes of its last task

    def compile(self, request: Request, example: LaneArrays, device: jax.Device) -> Pending:
        """Starts compiling programs for a device.

        Args:
          example: lanes of the shapes and dtypes that the programs will get.
        """
        lanes = on_device(example, request.width, device)
        return compile_programs(self.trials[request.group], Kind(lanes, self._key[device], self._data[device][0], request.shared, device))

    def workplace(self, programs: Programs, task: Task, device: jax.Device, slot: int) -> Workplace:
        """Everything that a task with these programs needs on a device."""
        own = task.group, device
        if own not in self._constants:
            self._constants[own] = jax.device_put(self.trials[task.group].constants, device)
        lanes = self._placed(task, device, slot)
        draws = functools.partial(self._draws, programs, lanes, self._drawn_by(task, device), device)
        return Workplace(programs, self._constants[own], lanes, self._key[device], draws, self._data[device][task.fold], device)

    def _placed(self, task: Task, device: jax.Device, slot: int) -> Lanes:
        """The task's lanes on the slot's device; reuses those of the slot's last task if they are the same."""
        before = self._before.get(slot)
        if before is None or before[0] is not task.lanes:
            before = self._before[slot] = task.lanes, on_device(task.lanes, task.width, device)
        return before[1]

    def _drawn_by(self, task: Task, device: jax.Device) -> tuple[Any, ...] | None:
        """The key, besides the step, under which chunks share a task's draws; None if its lanes have draws of their own."""
        limits = task.lanes.num_examples
        if task.lanes.replicate.ndim or (limits is not None and limits.ndim):
            return None
        return int(task.lanes.replicate), None if limits is None else int(limits), self.trials[task.group].batch_size, device

    def _draws(self, programs: Programs, lanes: Lanes, drawn_by: tuple[Any, ...] | None, device: jax.Device, first: int) -> Draws:
        def make() -> Draws:
            return programs.draw(self._key[device], lanes.replicate, lanes.variant, lanes.num_examples, np.int32(first))

        if drawn_by is None:
            return make()
        if self._drawn is None:
            size = sum(4 * leaf.size for leaf in jax.tree.leaves(make()))
            self._drawn = Recent(max(2, _DRAWN_BYTES // max(1, size)))
        drawn: Draws = self._drawn.get((*drawn_by, first), make)[0]
        return drawn


class Threads:
    """Trains chunks on this process's devices, one thread per slot.

    Programs are compiled for the first device when they are asked for, and for another device when it is first free to run them.
    """

    def __init__(self, trials: list[Trial], data: Folds, key: jax.Array, slots: list[Slot], memory_budget: int | None = None):
        """Puts the data on every device.

        Args:
          slots: where tasks may run.
          memory_budget: bytes that the data and all chunks of one device may take; None for most of what is free.
        """
        self.slots, self.seconds, self.made = list(slots), 0.0, 0
        device = self.slots[0].device
        self.platform = device.platform
        self.budget = share_of(max(0, (memory_budget or free_memory(device)) - data_bytes(data)), self.slots)
        self._free = list(self.slots)
        self._pool = ThreadPoolExecutor(len(self.slots), thread_name_prefix="funcnet")
        devices = {slot.device for slot in self.slots}
        placed = {device: jax.device_put(data, device) for device in devices}
        self._site = Site(dict(enumerate(trials)), placed, {device: jax.device_put(key, device) for device in devices})
        self._requested: dict[tuple[Request, jax.Device], Pending] = {}
        self._compiled: dict[tuple[Request, jax.Device], Compiled] = {}
        self._examples: dict[Request, LaneArrays] = {}

    def ask(self, request: Request, example: LaneArrays) -> None:
        """Starts compiling programs, which occupies no slot.

        Args:
          example: lanes of the shapes and dtypes that the programs will get.
        """
        self._examples[request] = example
        self._ask(request, self.slots[0].device)

    def compiled(self, request: Request) -> Compiled | None:
        """The programs that were asked for, on the first device; None while they are being compiled."""
        device = self.slots[0].device
        if (request, device) not in self._requested:  # the previous first device was retired
            self._ask(request, device)
        return self._found(request, device)

    def free(self) -> list[Slot]:
        """The slots that run no task."""
        return list(self._free)

    def ready(self, request: Request, slot: Slot, *, asks: bool) -> bool:
        """Whether a task with these programs may start on a slot.

        Args:
          asks: whether to start compiling them for the slot's device if nobody has yet.
        """
        if self._found(request, slot.device) is not None:
            return True
        if asks and (request, slot.device) not in self._requested:
            self._ask(request, slot.device)
        return False

    def submit(self, task: Task, shared: bool, slot: Slot, seconds: float | None = None) -> Future[Done]:
        """Starts a task on a free slot, which stays taken until `release`.

        Args:
          shared: whether the task's lanes share one key.
          seconds: after these the task stops early, at the end of a stretch; None for no limit.
        """
        if slot in self._free:
            self._free.remove(slot)
        task = task._replace(stand=_on(task.stand, slot.device))
        programs = self._compiled[Request(task.group, task.width, shared), slot.device].programs
        return self._pool.submit(run_task, task, self._site.workplace(programs, task, slot.device, slot.number), seconds)

    def release(self, slot: Slot) -> None:
        """Frees a slot whose task is done."""
        if slot in self.slots:
            self._free.append(slot)

    def retire(self, slot: Slot) -> bool:
        """Stops using the slot's device, which has failed, if there is another one; returns whether there is."""
        left = [other for other in self.slots if other.device != slot.device]
        if left:
            self.slots = left
            self._free = [other for other in self._free if other.device != slot.device]
        return bool(left)

    def pauses(self, request: Request, steps: int) -> int:
        """Into how many tasks to cut a chunk's training of so many steps; after each the loop sees the chunk's progress."""
        return _PAUSES

    def finish(self, futures: Sequence[Future[Done]]) -> None:
        """Waits for tasks."""
        wait(futures)

    def awaited(self) -> list[Future[Any]]:
        """Futures of the programs that are being compiled."""
        return [future for pending in self._requested.values() for future in pending.futures if not future.done()]

    def close(self, *, cancel: bool = False) -> None:
        """Waits for the tasks that run.

        Args:
          cancel: whether to cancel those that have not started.
        """
        self._pool.shutdown(wait=True, cancel_futures=cancel)

    def _ask(self, request: Request, device: jax.Device) -> None:
        self._requested[request, device] = self._site.compile(request, self._examples[request], device)

    def _found(self, request: Request, device: jax.Device) -> Compiled | None:
        place = request, device
        if place in self._compiled:
            return self._compiled[place]
        if place not in self._requested or not self._requested[place].done():
            return None
        found = self._compiled[place] = self._requested[place].result()
        self.seconds += found.seconds
        self.made += found.new
        return found


def _on(stand: Stand | None, device: jax.Device) -> Stand | None:
    """The stand with its state on a device. Call it in the user's thread: a `with jax.enable_x64()` has no effect in others."""
    if stand is None or all(isinstance(leaf, jax.Array) and leaf.devices() == {device} for leaf in stand.state):
        return stand
    return stand._replace(state=jax.device_put(stand.state, device))


def share_of(budget: int, slots: list[Slot]) -> float:
    """Bytes that one chunk may take, if all chunks of a device together may take budget."""
    return float(budget / sum(slot.device == slots[0].device for slot in slots))


def local_slots() -> list[Slot]:
    """One slot per device, or per core if the only device is a CPU. If `jax.default_device` is set, that device alone is used."""
    chosen = inner.flag("jax_default_device")
    if chosen is None:
        devices = jax.local_devices()
    else:
        devices = jax.local_devices(backend=chosen) if isinstance(chosen, str) else [chosen]
    if len(devices) == 1 and devices[0].platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        devices = devices * cores
    return [Slot(device, i) for i, device in enumerate(devices)]
