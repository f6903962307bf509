"""Where tasks run: this process's devices, their copies of the data, and the programs that are compiled for them."""

import functools
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import inner
from funcnet.data import Split
from funcnet.sweep.lanes import LaneArrays, Lanes, on_device
from funcnet.sweep.program import Compiled, Kind, Pending, Programs, compile_programs
from funcnet.sweep.recent import Recent
from funcnet.sweep.task import Done, Task, Workplace, run_task
from funcnet.sweep.trial import Constants, Trial
from funcnet.training import Draws

_DRAWN_BYTES = 2**26  # of draws that are remembered on a device, since the chunks of a replicate share them


class Slot(NamedTuple):
    """A place where one chunk trains at a time."""

    device: jax.Device
    number: int


class Request(NamedTuple):
    """Programs that are asked for."""

    group: int
    width: int  # lanes
    shared: bool  # whether the lanes share one key


class Threads:
    """Trains chunks on this process's devices, one thread a slot.

    Programs are compiled for the first device when they are asked for, and for another one when it first has nothing to do.
    """

    def __init__(self, trials: list[Trial], data: Split, key: jax.Array, slots: list[Slot]):
        self.slots, self.seconds, self.made = slots, 0.0, 0  # spent compiling, summed over the threads; programs compiled
        self._trials = trials
        self._free = list(slots)
        self._pool = ThreadPoolExecutor(len(slots), thread_name_prefix="funcnet")
        devices = {slot.device for slot in slots}
        self._data = {device: jax.device_put(data, device) for device in devices}
        self._key = {device: jax.device_put(key, device) for device in devices}
        self._requested: dict[tuple[Request, jax.Device], Pending] = {}
        self._compiled: dict[tuple[Request, jax.Device], Compiled] = {}
        self._examples: dict[Request, LaneArrays] = {}
        self._constants: dict[tuple[int, jax.Device], Constants] = {}  # as its programs take them
        self._drawn: Recent | None = None
        self._before: dict[Slot, tuple[LaneArrays, Lanes]] = {}  # of each slot's last task

    def ask(self, request: Request, example: LaneArrays) -> None:
        """Has programs compiled, which takes none of the slots.

        Args:
          example: of the lanes that they will be given.
        """
        self._examples[request] = example
        self._ask(request, self.slots[0].device)

    def compiled(self, request: Request) -> Compiled | None:
        """The programs that were asked for, on the first device; None while they are compiled."""
        return self._found(request, self.slots[0].device)

    def free(self) -> list[Slot]:
        """The slots that have nothing to do."""
        return list(self._free)

    def ready(self, request: Request, slot: Slot, *, asks: bool) -> bool:
        """Whether a task of these programs may start on a slot.

        Args:
          asks: whether to have them compiled for the slot's device where they are not.
        """
        if self._found(request, slot.device) is not None:
            return True
        if asks and (request, slot.device) not in self._requested:
            self._ask(request, slot.device)
        return False

    def submit(self, task: Task, shared: bool, slot: Slot, seconds: float | None = None) -> Future[Done]:
        """Starts a task on a free slot, which is free again once `release` says so.

        Args:
          shared: whether the task's lanes share one key.
          seconds: as `run_task` takes them.
        """
        if slot in self._free:
            self._free.remove(slot)
        return self._pool.submit(run_task, task, self._workplace(task, shared, slot), seconds)

    def release(self, slot: Slot) -> None:
        """The slot's task is done, and no other follows at once."""
        self._free.append(slot)

    def awaited(self) -> list[Future[Any]]:
        """What is being compiled."""
        return [future for pending in self._requested.values() for future in pending.futures if not future.done()]

    def close(self, *, cancel: bool = False) -> None:
        """Waits for the tasks that run.

        Args:
          cancel: those that have not begun never will.
        """
        self._pool.shutdown(wait=True, cancel_futures=cancel)

    def _ask(self, request: Request, device: jax.Device) -> None:
        example, trial = self._examples[request], self._trials[request.group]
        kind = Kind(on_device(example, request.width, device), self._key[device], self._data[device], request.shared, device)
        self._requested[request, device] = compile_programs(trial, kind)

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

    def _placed(self, task: Task, slot: Slot) -> Lanes:
        """The task's lanes on the slot's device, where they still are from the task before, if they are the same."""
        before = self._before.get(slot)
        if before is None or before[0] is not task.lanes:
            before = self._before[slot] = task.lanes, on_device(task.lanes, task.width, slot.device)
        return before[1]

    def _workplace(self, task: Task, shared: bool, slot: Slot) -> Workplace:
        device = slot.device
        found = self._compiled[Request(task.group, task.width, shared), device]
        own = task.group, device
        if own not in self._constants:
            self._constants[own] = jax.device_put(self._trials[task.group].constants, device)
        lanes = self._placed(task, slot)
        draws = functools.partial(self._draws, found.programs, lanes, self._drawn_by(task, device), device)
        return Workplace(found.programs, self._constants[own], lanes, self._key[device], draws, self._data[device], device)

    def _drawn_by(self, task: Task, device: jax.Device) -> tuple[Any, ...] | None:
        """What the draws of a task depend on beside the step, where chunks may share them."""
        if task.lanes.replicate.ndim or task.lanes.num_examples is not None:
            return None
        return int(task.lanes.replicate), self._trials[task.group].batch_size, device

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


def share_of(budget: int, slots: list[Slot]) -> float:
    """Bytes that one chunk may take, of those that all chunks of a device may."""
    return float(budget / sum(slot.device == slots[0].device for slot in slots))


def local_slots() -> list[Slot]:
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
