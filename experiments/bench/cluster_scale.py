"""What a task costs the process that sends it, the driver, and so how many workers one driver can keep busy.

python -m experiments.bench.cluster_scale [--tasks 5000] [--workers 1 2 4] [--in-flight 8 100 1000 10000]

What counts is the processor time of the driver's own process: workers train as ever, and take what they take. For more workers than fit in
one machine, an executor in the driver's process holds as many tasks on their way, and answers each with the first one's reply.
"""

import concurrent.futures
import importlib.util
import multiprocessing
import os
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import funcnet as fn
from experiments.bench import ours, timing
from experiments.bench.workloads import w1

STEPS = 16
FEW, MANY = 1, 16  # lanes of a chunk, to tell what a task costs from what its lanes do


class Cost(NamedTuple):
    """What a sweep has taken the driver."""

    what: str  # processes, or tasks on their way
    workers: int
    tasks: int
    lanes: int
    cpu: float  # milliseconds of all the driver's threads, a task; what comes before the first one is shared out among all
    scheduler: float  # milliseconds of Dask's scheduler, a task


class InFlight:
    """An executor that holds many tasks on their way, as if as many workers took some seconds each.

    What goes to a worker is pickled, and what comes from one is unpickled, as at a connection's near end.
    """

    def __init__(self, count: int, seconds: float):
        self._max_workers, self._seconds, self._reply = count, seconds, b""
        self._due: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "concurrent.futures.Future[Any]":
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        sent = pickle.dumps((function, arguments), protocol=5)
        if self._reply and len(arguments) == 4:  # an order; else a worker is asked who it is
            self._due.put((time.perf_counter() + self._seconds, future))
            return future
        function, arguments = pickle.loads(sent)
        reply = function(*arguments)
        if reply[0] == "done":
            self._reply = pickle.dumps(reply, protocol=5)
        future.set_result(reply)
        return future

    def close(self) -> None:
        self._due.put(None)
        self._thread.join()

    def _answer(self) -> None:
        for due, future in iter(self._due.get, None):  # who came first is due first
            time.sleep(max(0.0, due - time.perf_counter()))
            future.set_result(pickle.loads(self._reply))


def swept(executor: Any, tasks: int, lanes: int) -> None:
    """W1's net in chunks of so many lanes, a task each. The best state alone is kept, as a million of them would not fit."""
    workload = w1()
    recipe = ours.recipe_of(workload._replace(x=workload.x[:1], y=workload.y[:1]))  # which holds its workload, and is sent with it
    rates = fn.grid(learning_rate=np.geomspace(1e-4, 1e-1, tasks * lanes).tolist())
    settings = dict(num_steps=STEPS, batch_size=128, chunk_size=lanes, keep=1, metric="train/loss", progress=False)
    data, key = fn.Dataset(workload.x, workload.y), jax.random.key(ours.KEY)
    result = fn.sweep(recipe, rates, data, key=key, executor=executor, **settings)
    assert len(result.table["status"]) == tasks * lanes


def cost(executor: Any, what: str, workers: int, tasks: int, lanes: int = FEW, scheduler: Callable[[], float] = lambda: 0.0) -> Cost:
    """Of a sweep, after a short one in which the driver compiles what it needs.

    Args:
      scheduler: gives the seconds of processor time that a scheduler has taken until now.
    """
    swept(executor, 4 * min(workers, 8), lanes)
    began = time.process_time(), scheduler()
    swept(executor, tasks, lanes)
    spent = [1e3 * (end - start) / tasks for start, end in zip(began, (time.process_time(), scheduler()), strict=True)]
    found = Cost(what, workers, tasks, lanes, *spent)
    print(f"{time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:.1f}  {found}", flush=True)
    return found


def with_processes(numbers: Sequence[int], tasks: int) -> Iterator[Cost]:
    """Narrow chunks with each number of processes, and wide ones with one of these numbers."""
    for number in numbers:
        with concurrent.futures.ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield cost(pool, "processes", number, tasks)
            if number == min(2, max(numbers)):
                yield cost(pool, "processes", number, max(8, tasks // 10), MANY)


def in_flight(numbers: Sequence[int], tasks: int) -> Iterator[Cost]:
    """With more tasks on their way at a time than one machine has processes for."""
    for number in numbers:
        executor = InFlight(number, 0.5 if number > 8 else 0.0)
        yield cost(executor, "on their way", number, max(tasks, 2 * number))
        executor.close()


def with_dask(workers: int, tasks: int) -> Iterator[Cost]:
    """With Dask, whose scheduler is a process of its own on loopback."""
    from distributed import Client
    from distributed.deploy.subprocess import SubprocessCluster

    options = {"nthreads": 1, "nanny": False, "dashboard": False, "host": "127.0.0.1"}
    with SubprocessCluster(host="127.0.0.1", n_workers=workers, worker_kwargs=options) as cluster, Client(cluster) as client:
        client.wait_for_workers(workers, timeout=120)
        yield cost(client.get_executor(), "of Dask", workers, tasks, scheduler=lambda: client.run_on_scheduler(time.process_time))


def table(found: Sequence[Cost]) -> str:
    """The figures in Markdown."""
    head = ["workers", "tasks", "lanes", "driver, ms a task", "scheduler, ms a task"]
    forms = "{0.workers:,} {0.what}", "{0.tasks:,}", "{0.lanes}", "{0.cpu:.3f}"
    rows = [[*(form.format(own) for form in forms), f"{own.scheduler:.3f}" if own.scheduler else ""] for own in found]
    return timing.markdown(head, rows)


def main() -> None:
    parser = timing.parser(".cluster_scale", __doc__)
    parser.add_argument("--tasks", type=timing.number, default=5000, help="of each measurement (%(default)s)")
    parser.add_argument("--workers", type=timing.number, nargs="+", default=(1, 2, 4), help="processes (%(default)s)")
    many = (8, 100, 1000, 10_000)
    parser.add_argument("--in-flight", type=timing.number, nargs="+", default=many, help="tasks on their way (%(default)s)")
    arguments = parser.parse_args()
    found = [*with_processes(sorted(arguments.workers), arguments.tasks), *in_flight(sorted(arguments.in_flight), arguments.tasks)]
    if importlib.util.find_spec("distributed"):
        found += with_dask(min(2, max(arguments.workers)), max(8, arguments.tasks // 5))
    print(table(found))


if __name__ == "__main__":
    main()
