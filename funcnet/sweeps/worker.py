"""The worker's side of a sweep with an executor: `work` trains one task that another process sends.

The sender names what a task needs by digests: the brief, from which its programs are made, and the data. A worker caches both,
and its compiled programs, and asks for what it lacks. It traces the recipe itself, and refuses one that does not compute the same as
the sender's.
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
    """What a worker needs to make a group's programs."""

    recipe: Callable[..., Any]
    static: dict[str, Any]
    numbers: dict[str, float | int]  # of any one of its lanes
    names: dict[str, tuple[str, ...]]  # for each name, all its values in the group
    batch_size: int | None
    limits_examples: bool
    settings: dict[str, Any]  # JAX's, in the sender
    computes: str  # digest of what the recipe computes in the sender
    holds: str  # digest of the arrays that the recipe closes over in the sender


class Order(NamedTuple):
    """A task as it is sent."""

    number: int  # makes all orders different, since an executor may cache results
    brief: str  # digest
    data: str  # digest
    key: np.ndarray  # the sweep's, as data
    kind: str  # of the key's generator
    shared: bool  # whether the lanes share one key
    task: Task  # with NumPy arrays only
    seconds: float | None  # after these the task stops early; None for no limit
    budget: float | None  # bytes that a chunk may take; None for no limit


class Answer(NamedTuple):
    """The result of an order."""

    done: Done  # with NumPy arrays only
    seconds: float  # spent compiling
    made: int  # programs compiled


class Worker(NamedTuple):
    """A worker's description of itself."""

    name: str
    platform: str  # "cpu", "gpu" or "tpu"
    cores: int
    devices: int
    free: float  # bytes that training may take on one of them


Reply = tuple[str, str, Any]  # kind of reply, the worker's name, and the kind's value; see `work`
_trials, _data, _sites = Recent(64), Recent(2), Recent(8)


def introduce(versions: Mapping[str, str]) -> Reply:
    """Describes this worker to a sender with these versions: ("here", name, Worker), or ("refused", name, versions) if they differ."""
    if versions != own_versions():
        return "refused", worker_name(), own_versions()
    device = jax.local_devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = Worker(worker_name(), device.platform, cores, len(jax.local_devices()), free_memory(device))
    return "here", own.name, tuple(own)


def work(versions: Mapping[str, str], sent: bytes, brief: bytes | None, data: Any) -> Reply:
    """Carries out an order.

    Args:
      versions: of the sender.
      sent: the `Order`, pickled.
      brief: the `Brief`, pickled by cloudpickle or pickle; None if the worker should have it.
      data: `Folds`, perhaps pickled; None if the worker should have them.

    Returns:
      The kind of reply, the worker's name, and a value, which depends on the kind:
      "done", an `Answer`; "missing", which of "brief" and "data" the worker lacks; "unknown", the name of a module that it lacks;
      "failed", the exception, or its type and text if it can't be sent; "different", how the recipe differs here; "refused", the
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
    """The versions that must be the same in the sender and its workers."""
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
    """A short digest of the package's files, since two copies of one version may differ during development."""
    found = hashlib.sha256()
    files = sorted(Path(folder).rglob("*.py"))
    for path in files:
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:8] if files else ""


def worker_name() -> str:
    """The host, the process and, for a worker of Dask's, the name that Dask gives it."""
    name = f"{socket.gethostname()}, process {os.getpid()}"
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        with contextlib.suppress(Exception):  # not a worker of Dask's
            name += f" ({distributed.get_worker().name})"
    return name


class _Missing(Exception):
    def __init__(self, what: tuple[str, ...]):
        self.what = what


class _Unknown(Exception):
    """The recipe needs a module that the worker lacks."""


class _Different(Exception):
    """The recipe computes something else here than in the sender."""


def _carried_out(order: Order, brief: bytes | None, data: Any, began: float) -> Answer:
    with _device() as device:
        trial, place, settings = _known(order, brief, data, device)
        with inner.under(settings), inner.no_mesh():
            task = order.task
            if task.stand is not None:
                dtypes = [aval.dtype for aval in inner.outputs(trial.init.jaxpr)]
                task = task._replace(stand=clothed_stand(task.stand, dtypes))
            task = task._replace(group=0)  # the place has one group, 0
            found = place.compiled(task, order.shared, device)
            if order.budget is not None and found.bytes_needed > order.budget and task.width > 1:
                raise MemoryError(f"a chunk of {task.width} lanes needs {found.bytes_needed} bytes, and may take {order.budget:.0f}")
            seconds = None if order.seconds is None else max(0.0, order.seconds - (time.monotonic() - began))
            here = place.site.workplace(found.programs, task, device, threading.get_ident())
            done = run_task(task, here, seconds)
            new = place.newly(found)
            return Answer(done._replace(stand=bare_stand(done.stand)), new.seconds, new.new)


class _Place:
    """A worker's resources for one group of one sweep on one device, with the programs compiled so far."""

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
        """The programs with the cost of compiling them at the first call, and a cost of zero at later ones."""
        with self._lock:
            if id(found) in self._told:
                return found._replace(seconds=0.0, new=0)
            self._told.add(id(found))
            return found


def _known(order: Order, brief: bytes | None, data: Any, device: jax.Device) -> tuple[Trial, _Place, dict[str, Any]]:
    """The trial, place and JAX settings for an order, from the caches or from what was sent with it."""
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
    """Data that was sent to this worker, and its copies on devices."""

    def __init__(self, data: Any):
        if data is None:  # dropped from the cache just now
            raise _Missing(("data",))
        self.host: Folds = pickle.loads(data) if isinstance(data, bytes) else data
        self._placed: dict[jax.Device, Folds] = {}

    def on(self, device: jax.Device) -> Folds:
        if device not in self._placed:
            self._placed[device] = jax.device_put(self.host, device)
        return self._placed[device]


def _tried_out(brief: bytes | None, data: Folds, order: Order) -> tuple[Trial, dict[str, Any]]:
    """The recipe's trial and JAX's settings; raises if the recipe computes something else here than in the sender."""
    if brief is None:  # dropped from the cache just now
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
    """The exception, or its type and text if it would not survive pickling."""
    with contextlib.suppress(Exception):
        again = pickle.loads(pickle.dumps(error))
        if type(again) is type(error) and str(again) == str(error):
            return error
    return type(error).__name__, str(error)


_busy: dict[jax.Device, int] = {}  # tasks on each device: a worker may run several, in threads
_choosing = threading.Lock()


@contextlib.contextmanager
def _device() -> Iterator[jax.Device]:
    """The device with the fewest tasks, counted as one more within the `with`."""
    with _choosing:
        device = min(jax.local_devices(), key=lambda own: _busy.get(own, 0))
        _busy[device] = _busy.get(device, 0) + 1
    try:
        yield device
    finally:
        with _choosing:
            _busy[device] -= 1
