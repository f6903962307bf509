"""What a worker does: `work` trains one task that another process sends.

Whoever sends names what a task needs by digests: the brief, from which its programs are made, and the data. A worker remembers both,
and its compiled programs; what it doesn't have it asks for. It makes the programs from the recipe itself, and takes none but those
that compute what the sender's do.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from funcnet import inner
from funcnet.folds import Folds
from funcnet.sweeps.executors import Request, Site
from funcnet.sweeps.memory import free_memory
from funcnet.sweeps.program import Compiled
from funcnet.sweeps.recent import Recent
from funcnet.sweeps.task import Done, Task, bare_stand, clothed_stand, run_task
from funcnet.sweeps.trial import Trial, try_out, unknown


class Brief(NamedTuple):
    """What the programs of a group are made from."""

    recipe: Callable[..., Any]
    static: dict[str, Any]
    numbers: dict[str, float | int]  # of one of its lanes
    names: dict[str, tuple[str, ...]]  # all that each name may be
    batch_size: int | None
    limits_examples: bool
    settings: dict[str, Any]  # JAX's
    computes: str  # digest of what the recipe computes where it is sent from
    holds: str  # digest of the arrays that it holds


class Order(NamedTuple):
    """A task as it is sent."""

    number: int  # so that no two orders are equal: an executor may remember results
    brief: str  # digest
    data: str  # digest
    key: np.ndarray  # the sweep's, as data
    kind: str  # of the key's generator
    shared: bool  # whether the lanes share one key
    task: Task  # with NumPy's arrays alone
    seconds: float | None  # after these it stops early
    budget: float | None  # bytes that a chunk may take; None where that isn't to be looked at


class Answer(NamedTuple):
    """What comes back of an order that was carried out."""

    done: Done  # with NumPy's arrays alone
    seconds: float  # spent compiling
    made: int  # programs compiled


class Worker(NamedTuple):
    """A process that says who it is."""

    name: str
    platform: str  # "cpu", "gpu" or "tpu"
    cores: int
    devices: int
    free: float  # bytes that training may take on one of them


Reply = tuple[str, str, Any]  # what came of an order, the worker's name, and what belongs to it
_trials, _data, _sites = Recent(64), Recent(2), Recent(8)


def introduce(versions: Mapping[str, str]) -> Reply:
    """Says who this worker is, to one of the same versions: ("here", name, Worker) or ("refused", name, versions)."""
    if versions != own_versions():
        return "refused", worker_name(), own_versions()
    device = jax.local_devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = Worker(worker_name(), device.platform, cores, len(jax.local_devices()), free_memory(device))
    return "here", own.name, tuple(own)


def work(versions: Mapping[str, str], sent: bytes, brief: bytes | None, data: Any) -> Reply:
    """Carries out an order.

    Args:
      versions: of whoever sends it.
      sent: the `Order`, pickled.
      brief: the `Brief`, pickled by cloudpickle or pickle; None for one that the worker should know.
      data: `Folds`, or such that are pickled; None likewise.

    Returns:
      What came of it, the worker's name, and what belongs to it:
      "done", an `Answer`; "missing", which of "brief" and "data" the worker doesn't know; "unknown", the name of a module that it hasn't;
      "failed", the exception, or its type and text where that can't be sent; "different", how the recipe differs here; "refused", the
      worker's versions.
    """
    began, name = time.monotonic(), worker_name()
    if versions != own_versions():
        return "refused", name, own_versions()
    order: Order = pickle.loads(sent)
    try:
        return "done", name, _carried_out(order, brief, data, began)
    except _Missing as missing:
        return "missing", name, missing.what
    except _Unknown as unknown_module:
        return "unknown", name, str(unknown_module)
    except _Different as difference:
        return "different", name, str(difference)
    except Exception as error:
        return "failed", name, _sendable(error)


def own_versions() -> dict[str, str]:
    """What must be the same where a task is sent from and where it runs."""
    funcnet = sys.modules["funcnet"]
    source = _source_of(str(Path(funcnet.__file__ or "").parent))
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "funcnet": f"{funcnet.__version__} ({source})" if source else str(funcnet.__version__),
    }


@functools.cache
def _source_of(folder: str) -> str:
    """A short digest of the package's files: two copies of one version may differ, as while it is worked on."""
    found = hashlib.sha256()
    files = sorted(Path(folder).rglob("*.py"))
    for path in files:
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:8] if files else ""


def worker_name() -> str:
    """The host and the process, and what Dask calls the worker if it is one of Dask's."""
    name = f"{socket.gethostname()}, process {os.getpid()}"
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        with contextlib.suppress(Exception):  # no worker of Dask's
            name += f" ({distributed.get_worker().name})"
    return name


class _Missing(Exception):
    def __init__(self, what: tuple[str, ...]):
        self.what = what


class _Unknown(Exception):
    """A module that the recipe needs isn't here."""


class _Different(Exception):
    """The recipe computes something else here."""


def _carried_out(order: Order, brief: bytes | None, data: Any, began: float) -> Answer:
    with _device() as device:
        trial, place, settings = _known(order, brief, data, device)
        with inner.under(settings), inner.no_mesh():
            task = order.task
            if task.stand is not None:
                dtypes = [aval.dtype for aval in inner.outputs(trial.init.jaxpr)]
                task = task._replace(stand=clothed_stand(task.stand, dtypes))
            task = task._replace(group=0)  # as the place has it
            found = place.compiled(task, order.shared, device)
            if order.budget is not None and found.bytes_needed > order.budget and task.width > 1:
                raise MemoryError(f"a chunk of {task.width} lanes needs {found.bytes_needed} bytes, and may take {order.budget:.0f}")
            seconds = None if order.seconds is None else max(0.0, order.seconds - (time.monotonic() - began))
            here = place.site.workplace(found.programs, task, device, threading.get_ident())
            done = run_task(task, here, seconds)
            new = place.newly(found)
            return Answer(done._replace(stand=bare_stand(done.stand)), new.seconds, new.new)


class _Place:
    """Where the tasks of a group of a sweep are done, and the programs that have been compiled for them."""

    def __init__(self, site: Site):
        self.site = site
        self._compiled: dict[tuple[int, bool, jax.Device], Compiled] = {}
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def compiled(self, task: Task, shared: bool, device: jax.Device) -> Compiled:
        own = task.width, shared, device
        found = self._compiled.get(own)
        if found is None:
            found = self.site.compile(Request(task.group, task.width, shared), task.lanes, device).result()
            with self._lock:
                found = self._compiled.setdefault(own, found)
        return found

    def newly(self, found: Compiled) -> Compiled:
        """The programs with what they have cost, the first time that this is asked."""
        with self._lock:
            if id(found) in self._told:
                return found._replace(seconds=0.0, new=0)
            self._told.add(id(found))
            return found


def _known(order: Order, brief: bytes | None, data: Any, device: jax.Device) -> tuple[Trial, _Place, dict[str, Any]]:
    """What the order names, from memory or from what was sent with it."""
    kept = ("data", data, order.data in _data), ("brief", brief, (order.brief, order.kind) in _trials)
    if missing := tuple(what for what, given, is_known in kept if given is None and not is_known):
        raise _Missing(missing)
    held: _Held = _data.get(order.data, lambda: _Held(data))[0]
    trial, settings = _trials.get((order.brief, order.kind), lambda: _tried_out(brief, held.host, order))[0]

    def place() -> _Place:
        with inner.under(settings):
            key = jax.random.wrap_key_data(jnp.asarray(order.key), impl=order.kind)
            return _Place(Site({0: trial}, {device: held.on(device)}, {device: jax.device_put(key, device)}))

    return trial, _sites.get((order.brief, order.data, order.key.tobytes(), order.kind, device), place)[0], settings


class _Held:
    """Data that has come here, and its copies on devices."""

    def __init__(self, data: Any):
        if data is None:  # forgotten just now
            raise _Missing(("data",))
        self.host: Folds = pickle.loads(data) if isinstance(data, bytes) else data
        self._placed: dict[jax.Device, Folds] = {}

    def on(self, device: jax.Device) -> Folds:
        if device not in self._placed:
            self._placed[device] = jax.device_put(self.host, device)
        return self._placed[device]


def _tried_out(brief: bytes | None, data: Folds, order: Order) -> tuple[Trial, dict[str, Any]]:
    """What the recipe computes, once it is known to be the same here as where it was sent from."""
    if brief is None:  # forgotten just now
        raise _Missing(("brief",))
    try:
        own: Brief = pickle.loads(brief)
    except ModuleNotFoundError as error:
        raise _Unknown(error.name or str(error)) from error
    except Exception as error:
        raise _Different(f"it can't be loaded ({type(error).__name__}: {error})") from error
    with inner.under(own.settings), inner.no_mesh():
        key = jax.eval_shape(lambda: jax.random.wrap_key_data(jnp.asarray(order.key), impl=order.kind))
        arguments = unknown(own.numbers, own.names)
        trial = try_out(own.recipe, own.static, arguments, own.names, data[0], own.batch_size, own.limits_examples, key)
    if inner.digest(trial.key) != own.computes:
        raise _Different("it computes something else")
    if inner.digest(trial.constants) != own.holds:
        raise _Different("it holds other arrays")
    return trial, own.settings


def _sendable(error: Exception) -> Any:
    """The exception, or its type and text where it would not come through."""
    with contextlib.suppress(Exception):
        again = pickle.loads(pickle.dumps(error))
        if type(again) is type(error) and str(again) == str(error):
            return error
    return type(error).__name__, str(error)


_busy: dict[jax.Device, int] = {}  # tasks on each device, as several threads of one worker may have one each
_choosing = threading.Lock()


@contextlib.contextmanager
def _device() -> Iterator[jax.Device]:
    """The device that has the least to do."""
    with _choosing:
        device = min(jax.local_devices(), key=lambda own: _busy.get(own, 0))
        _busy[device] = _busy.get(device, 0) + 1
    try:
        yield device
    finally:
        with _choosing:
            _busy[device] -= 1
