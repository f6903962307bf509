"""Runs tasks in other processes and on other machines, with any `concurrent.futures.Executor`.

funcnet itself opens no port, and starts processes only to replace a `ProcessPoolExecutor` that broke.

Each task is sent by itself, together with what its worker may not have yet: the brief, from which its programs are made, and the data.
A worker that lacks one of them replies so, and the task is sent again with it. If a worker dies or a task fails, another worker repeats
the task.
"""

import contextlib
import hashlib
import importlib.util
import itertools
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, ProcessPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import check, inner
from funcnet.data import part_digest
from funcnet.folds import Folds
from funcnet.sweeps.events import Teller
from funcnet.sweeps.executors import Request, Slot
from funcnet.sweeps.lanes import LaneArrays
from funcnet.sweeps.memory import data_bytes
from funcnet.sweeps.planning import Plan
from funcnet.sweeps.recent import Recent
from funcnet.sweeps.task import Done, Task, bare_stand, clothed_stand
from funcnet.sweeps.trial import Trial
from funcnet.sweeps.worker import Answer, Brief, Order, Reply, Worker, introduce, own_versions, work

_WHERE = "sweep: executor"
_MOST_TRIES = 3  # of a task whose workers die
_PATIENCE = 30.0  # seconds without any worker, after which there is a warning
_COUNTED = 2.0  # seconds between two counts of the workers
_SECONDS = 4.0  # the shortest time that a task should take, by estimate
_BYTES_A_SECOND = 4e9  # that one core writes, roughly
_digests = Recent(256)  # of trials' keys; computing one takes longer than sending a small task


class ExecutorLost(RuntimeError):
    """The executor can't run tasks any more."""


class WorkerRefused(RuntimeError):
    """A worker can't be used: its versions or its recipe differ from those of the process that sends tasks, or a module is missing."""


class _Sent(NamedTuple):
    """A task that has been sent."""

    task: Task
    shared: bool
    deadline: float | None  # on time.monotonic's clock
    own: "Future[Done]"  # the loop's
    theirs: "Future[Reply]"  # the executor's
    attach: frozenset[str] = frozenset()  # which of "brief" and "data" to attach, since some worker that got the task lacked it
    deaths: int = 0  # of workers that had the task
    failed: str = ""  # on which worker it has failed, and how


class Remote:
    """Trains chunks on an executor's workers.

    Each worker compiles a program when it first gets a task that needs it. A slot stands for one task in progress, not for a particular
    worker: there are as many slots as the executor has workers, and more when it gets more workers.
    """

    def __init__(
        self,
        executor: Any,
        plan: Plan,
        trials: list[Trial],
        data: Folds,
        key: jax.Array,
        memory_budget: int | None,
        event: Teller,
        *,
        fits: bool,
    ):
        """Waits for a first worker, which reports its platform, cores and free memory.

        Args:
          executor: any `concurrent.futures.Executor`.
          memory_budget: bytes that the data and all chunks of one worker may take; None for most of what is free there.
          event: records events, such as a new worker or one that died.
          fits: whether workers refuse chunks that need more than the budget.
        """
        self._pool = _pool_of(executor)
        self._plan, self._trials, self._fits = plan, trials, fits
        self._data = tuple(fold._replace(test=None) for fold in data)  # workers don't use the test part
        self._key = np.asarray(jax.random.key_data(key)), str(jax.random.key_impl(key))
        self._settings, self._versions = inner.settings(), own_versions()
        self.seconds, self.made, self._event = 0.0, 0, event
        self.workers: set[str] = set()  # the names of those that have trained
        self._digest = " ".join(str(part_digest(part)) for fold in self._data for part in fold)
        self._briefs: dict[int, tuple[str, bytes]] = {}  # digest and bytes, by group
        self._by_value: set[str] = set()  # modules that workers lack, and that are therefore sent with the recipe
        self._blobs: dict[str, Any] = {}  # data and briefs, pickled, by digest
        self._given: dict[str, int] = {}  # how often each was sent, by digest
        self._numbers = itertools.count()
        self._sent: list[_Sent] = []
        first = self._first()
        self.platform = first.platform
        self.slots = [Slot(None, i) for i in range(self._pool.workers())]
        self._free, self._counted = list(self.slots), time.monotonic()
        sharing = min(first.cores, len(self.slots)) if first.platform == "cpu" else 1
        self.budget = 2.0**62  # no limit for the loop: each worker checks its chunks
        self._budget = max(0.0, (memory_budget or first.free) - data_bytes(self._data)) / sharing

    def ask(self, request: Request, example: LaneArrays) -> None:
        """Does nothing: workers compile what their tasks need."""

    def compiled(self, request: Request) -> "_NotHere":
        """A placeholder, at once: only workers compile the programs."""
        return _NotHere(0)

    def free(self) -> list[Slot]:
        """The slots without a task; adds slots if there are more workers than before."""
        if time.monotonic() - self._counted > _COUNTED:
            self._counted = time.monotonic()
            new = [Slot(None, i) for i in range(len(self.slots), self._pool.workers())]
            self.slots += new
            self._free += new
        return list(self._free)

    def ready(self, request: Request, slot: Slot, *, asks: bool) -> bool:
        """True: any task may start on any slot."""
        return True

    def pauses(self, request: Request, steps: int) -> int:
        """Into how many tasks to cut a chunk's training of so many steps: few if it is short, since each task sends the states."""
        seconds = self._trials[request.group].step_bytes * request.width * steps / _BYTES_A_SECOND
        return max(1, min(8, int(seconds / _SECONDS)))

    def submit(self, task: Task, shared: bool, slot: Slot, seconds: float | None = None) -> "Future[Done]":
        """Sends a task, for a free slot, which stays taken until `release`.

        Args:
          shared: whether the task's lanes share one key.
          seconds: after these the task stops early, at the end of a stretch; None for no limit.
        """
        if slot in self._free:
            self._free.remove(slot)
        task = task._replace(stand=None if task.stand is None else bare_stand(task.stand))
        deadline = None if seconds is None else time.monotonic() + seconds
        own: Future[Done] = Future()
        self._send(_Sent(task, shared, deadline, own, own))  # type: ignore[arg-type]
        return own

    def release(self, slot: Slot) -> None:
        """Frees a slot whose task is done."""
        self._free.append(slot)

    def retire(self, slot: Slot) -> bool:
        """False: a slot is not tied to a worker, and a failed task has already been tried on a second worker."""
        return False

    def awaited(self) -> list[Future[Any]]:
        """Handles replies that have arrived; returns the futures of the tasks still in progress."""
        self._collect()
        return [sent.theirs for sent in self._sent]

    def finish(self, futures: Sequence[Future[Done]]) -> None:
        """Waits for tasks."""
        while not all(future.done() for future in futures):
            wait(self.awaited(), return_when=FIRST_COMPLETED, timeout=1.0)
            self._collect()

    def close(self, *, cancel: bool = False) -> None:
        """Cancels the tasks in progress. The user's executor is not shut down."""
        with contextlib.suppress(Exception):
            self._collect()
        for sent in self._sent:
            sent.theirs.cancel()
            sent.own.cancel()
        self._sent = []
        self._pool.close()

    def _first(self) -> Worker:
        theirs = self._submitted(introduce, self._versions)
        try:
            if not wait([theirs], timeout=_PATIENCE).done:
                rule, fix = "must have a worker that answers", "start one, or interrupt; this waits for as long as it takes"
                warnings.warn(check.message(_WHERE, rule, f"none in {_PATIENCE:g} seconds", fix), RuntimeWarning, stacklevel=4)
            what, name, own = theirs.result()
        except KeyboardInterrupt:
            theirs.cancel()
            raise
        except (CancelledError, BrokenExecutor, OSError) as error:
            raise self._lost(error) from error
        except Exception as error:
            rule = "workers, and the scheduler if there is one, must be able to import this funcnet"
            fix = f"install funcnet {self._versions['funcnet']} where they run"
            raise WorkerRefused(check.message(_WHERE, rule, _said(error.__cause__ or error), fix)) from error
        if what == "refused":
            raise self._refused(name, own)
        return Worker(*own)

    # Sending

    def _send(self, sent: _Sent) -> None:
        """Sends a task, with brief and data if its worker may lack them."""
        task, (brief, _) = sent.task, self._brief(sent.task.group)
        left = None if sent.deadline is None else max(0.0, sent.deadline - time.monotonic())
        key, kind = self._key
        budget = self._budget if self._fits else None
        order = Order(next(self._numbers), brief, self._digest, key, kind, sent.shared, task, left, budget)
        given = (self._attached(name, digest, name in sent.attach) for name, digest in (("brief", brief), ("data", self._digest)))
        theirs = self._submitted(work, self._versions, pickle.dumps(order, protocol=5), *given)
        self._sent.append(sent._replace(theirs=theirs))

    def _submitted(self, function: Callable[..., Reply], *arguments: Any) -> "Future[Reply]":
        try:
            theirs = self._pool.submit(function, *arguments)
        except BrokenExecutor as error:
            if not self._pool.remade():
                raise self._lost(error) from error
            theirs = self._pool.submit(function, *arguments)
        except (RuntimeError, OSError) as error:  # it has been shut down, or can't be reached
            raise self._lost(error) from error
        if not isinstance(theirs, Future):
            rule = "submit must return a concurrent.futures.Future"
            raise TypeError(check.message(_WHERE, rule, type(theirs).__name__, "an adapter of a few lines makes one of it"))
        return theirs

    def _attached(self, name: str, digest: str, is_missing: bool) -> Any:
        """The brief or the data to send with a task, or None: each is sent as often as there are slots, and when a worker lacks it."""
        if (there := self._pool.kept(digest)) is not None:
            return there
        given = self._given.get(digest, 0)
        if given >= len(self.slots) and not is_missing:
            return None
        self._given[digest] = given + 1
        if digest not in self._blobs:
            self._blobs[digest] = self._blob(name, digest)
        return self._pool.put(digest, self._blobs[digest])

    def _blob(self, name: str, digest: str) -> bytes:
        if name == "data":
            return pickle.dumps(self._data, protocol=5)
        return next(blob for own, blob in self._briefs.values() if own == digest)

    def _brief(self, index: int) -> tuple[str, bytes]:
        if index not in self._briefs:
            group, trial = self._plan.groups[index], self._trials[index]
            numbers = self._plan.of_row(group.rows[0]).numbers
            computes, _ = _digests.get(trial.key, lambda: inner.digest(trial.key))
            holds = inner.digest(trial.constants)
            brief = Brief(
                self._plan.recipe_of(group),
                group.static,
                numbers,
                group.names,
                group.batch_size,
                group.limits_examples,
                self._settings,
                computes,
                holds,
            )
            told = (computes, holds, repr(sorted(group.names.items())), group.batch_size, group.limits_examples, repr(self._settings))
            shapes = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(self._data)]
            found, blob = hashlib.sha256(repr((told, shapes)).encode()), _pickled(brief, self._by_value)
            functions = (trial.init, trial.step, *trial.evaluate.values())
            if any(inner.calls_python(function.jaxpr.jaxpr) for function in functions):  # their closures are only in the bytes
                found.update(blob)
            self._briefs[index] = found.hexdigest(), blob
        return self._briefs[index]

    # Replies

    def _collect(self) -> None:
        """Handles the replies that have arrived."""
        back: list[_Sent] = []
        left: list[_Sent] = []
        for sent in self._sent:
            (back if sent.theirs.done() else left).append(sent)
        self._sent = left
        for sent in back:
            try:
                self._came(sent)
            except Exception as error:  # raised where the task's result is asked for
                sent.own.set_exception(error)

    def _came(self, sent: _Sent) -> None:
        try:
            what, worker, own = sent.theirs.result()
        except (CancelledError, BrokenExecutor, OSError) as error:
            self._died(sent, error)
            return
        except Exception as error:
            self._died(sent, error) if self._pool.is_death(error) else self._failed(sent, "a worker", error)
            return
        if what == "done":
            self._done(sent, worker, own)
        elif what == "missing":
            self._send(sent._replace(attach=sent.attach | set(own)))
        elif what == "unknown" and self._goes_along(own):
            self._send(sent._replace(attach=sent.attach | {"brief"}))
        elif what == "unknown":
            rule, fix = "workers must have the modules that the recipe needs", "install them there, or cloudpickle here"
            raise WorkerRefused(check.message(_WHERE, rule, f"{worker} without {own!r}", fix))
        elif what == "failed":
            self._failed(sent, worker, own if isinstance(own, Exception) else RuntimeError(f"{own[0]}: {own[1]}"))
        elif what == "different":
            rule = "the recipe must be the same on every worker"
            fix = "give each worker the same files, or define the recipe in the script itself, which travels by cloudpickle"
            raise WorkerRefused(check.message(_WHERE, rule, f"one of which {worker} says that {own}", fix))
        else:
            raise self._refused(worker, own)

    def _goes_along(self, module: str) -> bool:
        """Whether a module that a worker lacks can be sent with the recipe, by value; if so, later briefs include it."""
        if module in self._by_value:
            return True  # another worker has asked for it before
        if module not in sys.modules or importlib.util.find_spec("cloudpickle") is None:
            return False
        self._by_value.add(module)
        for digest, _ in self._briefs.values():
            self._blobs.pop(digest, None)
            self._pool.forget(digest)
        self._briefs = {}
        return True

    def _done(self, sent: _Sent, worker: str, answer: Answer) -> None:
        if sent.failed:
            rule, fix = "workers must carry out what they are given", f"at a second try {worker} did"
            warnings.warn(check.message(_WHERE, rule, sent.failed, fix), RuntimeWarning, stacklevel=7)
        if worker not in self.workers:
            self._event("worker", name=worker, of=len(self.slots))
        self.workers.add(worker)
        self.seconds += answer.seconds
        self.made += answer.made
        dtypes = [aval.dtype for aval in inner.outputs(self._trials[sent.task.group].init.jaxpr)]
        sent.own.set_result(answer.done._replace(stand=clothed_stand(answer.done.stand, dtypes)))

    def _failed(self, sent: _Sent, worker: str, error: Exception) -> None:
        """Sends a failed task to be tried once more; raises if it has failed before, or ran out of memory, as it would anywhere."""
        if sent.failed or isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]  # of a traceback the last line names the error
        said = f"{worker}: {type(error).__name__}: {' ... '.join(dict.fromkeys((lines[0][:200], lines[-1][:200])))}"
        self._event("worker failed", error=said)
        self._send(sent._replace(failed=said))

    def _died(self, sent: _Sent, error: BaseException) -> None:
        """Sends a task again after its worker, or the whole pool, has died; raises if too many have, or the executor is lost."""
        self._event("worker died", error=f"{type(error).__name__}: {error}"[:300])
        if sent.deaths + 1 >= _MOST_TRIES or self._pool.gives_up(error):
            rule = "a task's workers must live; too many have died with this one"
            raise ExecutorLost(
                check.message(_WHERE, rule, _said(error), "is there memory enough? chunk_size or memory_budget makes chunks smaller")
            ) from error
        if not self._pool.goes_on(error):
            raise self._lost(error) from error
        self._send(sent._replace(deaths=sent.deaths + 1, attach=frozenset({"brief", "data"})))

    def _lost(self, error: BaseException) -> ExecutorLost:
        fix = "start it again; with store= the same call goes on from where this one was"
        return ExecutorLost(check.message(_WHERE, "must take tasks for as long as the sweep lasts", _said(error), fix))

    def _refused(self, worker: str, versions: Mapping[str, str]) -> WorkerRefused:
        odd = [f"{name} {versions.get(name)}, not {own}" for name, own in self._versions.items() if versions.get(name) != own]
        rule = "workers must have the versions of the process that sends them tasks"
        return WorkerRefused(check.message(_WHERE, rule, f"{worker} with {' and '.join(odd)}", "install the same there"))


class _NotHere(NamedTuple):
    """Stands for programs that workers compile, whose memory is not known here."""

    bytes_needed: int


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _pickled(brief: Brief, by_value: Iterable[str]) -> bytes:
    """A pickled brief. With cloudpickle, if installed, it contains the script's and local functions; else functions by reference.

    Args:
      by_value: modules whose contents to include too.
    """
    try:
        import cloudpickle
    except ImportError:
        cloudpickle = None
    named = [sys.modules[name] for name in by_value]
    try:
        for module in named:
            cloudpickle.register_pickle_by_value(module)
        try:
            blob: bytes = pickle.dumps(brief, protocol=5) if cloudpickle is None else cloudpickle.dumps(brief, protocol=5)
        finally:
            for module in named:
                cloudpickle.unregister_pickle_by_value(module)
    except Exception as error:
        fix = "pip install cloudpickle" if cloudpickle is None else "what it holds must be picklable"
        raise TypeError(check.message(_WHERE, "recipe must be one that can be sent", _said(error), fix)) from error
    return blob


# Adapters for kinds of executors


class _Pool:
    """An executor of `concurrent.futures`, or a similar one."""

    def __init__(self, executor: Any):
        self._executor, self._own = executor, False

    def submit(self, function: Callable[..., Reply], *arguments: Any) -> Any:
        return self._executor.submit(function, *arguments)

    def workers(self) -> int:
        """How many tasks run at a time."""
        found = getattr(self._executor, "_max_workers", None)  # an attribute of the known executors; an adapter may have it too
        return max(1, int(found)) if isinstance(found, int) else 1

    def put(self, digest: str, blob: bytes) -> Any:
        """The argument for `submit` by which the worker gets these bytes."""
        return blob

    def kept(self, digest: str) -> Any:
        """The argument for `submit` by which a worker gets bytes that were put before; None if they must be sent again."""
        return None

    def forget(self, digest: str) -> None:
        """Drops bytes that were put, since they have changed."""

    def is_death(self, error: Exception) -> bool:
        """Whether an error says that a worker has died."""
        return False

    def gives_up(self, error: BaseException) -> bool:
        """Whether an error says that too many workers have died with a task."""
        return False

    def goes_on(self, error: BaseException) -> bool:
        """Whether tasks can be sent again after this error."""
        return self.remade() if isinstance(error, BrokenExecutor) else False

    def remade(self) -> bool:
        """Replaces a process pool that the death of a process has broken; returns whether tasks can be sent again."""
        old = self._executor
        if not isinstance(old, ProcessPoolExecutor):
            return False
        if getattr(old, "_broken", False):
            told = {"max_workers": "_max_workers", "mp_context": "_mp_context", "initializer": "_initializer", "initargs": "_initargs"}
            self.close()
            self._executor, self._own = ProcessPoolExecutor(**{name: getattr(old, own) for name, own in told.items()}), True
        return True

    def close(self) -> None:
        if self._own:
            self._executor.shutdown(wait=False, cancel_futures=True)


class _Dask(_Pool):
    """Dask's `Client.get_executor()`; Dask itself brings data to each worker once."""

    def __init__(self, executor: Any):
        super().__init__(executor)
        self._client = executor._client
        self._put: dict[str, Any] = {}  # futures of what was scattered

    def submit(self, function: Callable[..., Reply], *arguments: Any) -> Any:
        import dask

        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):  # tasks contain their states
            return self._executor.submit(function, *arguments, pure=False)

    def workers(self) -> int:
        try:
            return max(1, sum(map(int, self._client.nthreads().values())))
        except Exception:
            return 1

    def put(self, digest: str, blob: bytes) -> Any:
        try:
            self._put[digest] = self._client.scatter(blob, broadcast=True, hash=False)
        except TimeoutError:  # there is no worker yet: the bytes are sent with the task
            return blob
        return self._put[digest]

    def kept(self, digest: str) -> Any:
        own = self._put.get(digest)
        return own if own is not None and own.status == "finished" else None

    def forget(self, digest: str) -> None:
        self._put.pop(digest, None)

    def is_death(self, error: Exception) -> bool:
        return type(error).__name__ in ("KilledWorker", "FutureCancelledError", "FuturesCancelledError", "CommClosedError")

    def gives_up(self, error: BaseException) -> bool:
        return type(error).__name__ == "KilledWorker"

    def goes_on(self, error: BaseException) -> bool:
        """Whether tasks can be sent again: as long as the client is connected to its scheduler."""
        return bool(self._client.status == "running")

    def close(self) -> None:
        self._put = {}


def _pool_of(executor: Any) -> _Pool:
    check.callables(_WHERE, executor, ("submit",), "such as concurrent.futures.ProcessPoolExecutor(8, mp_context=...)")
    if callable(getattr(executor, "get_executor", None)):
        raise TypeError(
            check.message(_WHERE, "must be a concurrent.futures.Executor", type(executor).__name__, "its get_executor() is one")
        )
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        fix = 'ProcessPoolExecutor(..., mp_context=multiprocessing.get_context("spawn"))'
        raise ValueError(check.message(_WHERE, "must spawn its processes, since JAX hangs in one that is forked", "fork", fix))
    return _Dask(executor) if type(executor).__module__.startswith("distributed.") and hasattr(executor, "_client") else _Pool(executor)
