"""What sending a task costs the process that sends it, and so how many workers one such process can keep busy.

python -m experiments.bench.cluster_scale [--tasks 10000] [--workers 1 2 4 8] [--in-flight 8 100 1000 10000] [--pairs 21]

The workers do nothing: each trains the first chunk that it is given, and from then on answers every order at once with that reply.
So messages, pickling, pipes and the loop's bookkeeping are those of a real sweep, and what is left is what the driver takes. For
more workers than fit in one machine, an executor in the driver's process holds as many tasks on their way.
"""

import argparse
import concurrent.futures
import heapq
import importlib.util
import json
import math
import multiprocessing
import os
import pickle
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np

import funcnet as fn
from experiments.bench import ours
from experiments.bench.workloads import w1
from experiments.cluster.train import own_core
from funcnet.sweeps import worker

_PATIENCE = 120  # seconds until a worker has had its first task
STEPS = 16
MOST = 5.0  # milliseconds of the driver for a task
SHARE = 0.03  # of W1's time that sending it to two processes may cost
FEW, MANY = 1, 16  # lanes of a chunk, to tell what a task costs from what its lanes do
SECONDS = (1.0, 4.0, 30.0)  # that a task lasts, in the picture; 4 is what a sweep aims at where runs are long
VARIANTS = 1_000_000


class Cost(NamedTuple):
    """What a sweep of workers that do nothing has taken the driver."""

    workers: int  # or tasks on their way
    tasks: int
    lanes: int
    cpu: float  # milliseconds of all its threads, a task, from the first task on to the result
    wall: float  # milliseconds a task
    planning: float  # milliseconds of CPU a variant, before the first task
    sent: float  # bytes a task, without brief and data
    brief: int  # bytes
    data: int  # bytes
    briefs: int  # how often it was sent
    received: int  # bytes a task


# Workers that do nothing.


def answer_at_once() -> None:
    """From now on this process carries out the first order of each kind, and then answers with what came of that."""
    carry_out, replies = worker.work, {}

    def answer(versions: Any, sent: bytes, brief: bytes | None, data: Any) -> Any:
        order = pickle.loads(sent)
        kind = order.task.at, order.task.stops, order.task.width
        if kind not in replies:
            reply = carry_out(versions, sent, brief, data)
            if reply[0] != "done":
                return reply
            replies[kind] = reply
        return replies[kind]

    answer.__module__, answer.__qualname__ = worker.work.__module__, worker.work.__qualname__
    worker.work = answer


class Count:
    """Of the orders that an executor is given, and when the first one was."""

    def __init__(self, executor: Any):
        """Counts from now on what is submitted to an executor."""
        self.clear()
        submit = executor.submit

        def counted(function: Callable[..., Any], *arguments: Any, **others: Any) -> Any:
            if len(arguments) == 4:  # else it asks a worker who it is
                self._given(*arguments)
            future = submit(function, *arguments, **others)
            if len(arguments) == 4:
                self.reply = future
            return future

        executor.submit = counted

    def clear(self) -> None:
        self.sent, self.brief, self.data, self.tasks, self.briefs = 0, 0, 0, 0, 0
        self.first: tuple[float, float] | None = None
        self.reply: concurrent.futures.Future[Any] | None = None

    def received(self) -> int:
        """Bytes of a reply: of the last one, as all are as long."""
        assert self.reply is not None
        return len(pickle.dumps(self.reply.result(), protocol=5))

    def _given(self, versions: Any, order: bytes, brief: Any, data: Any) -> None:
        if self.first is None:
            self.first = time.process_time(), time.perf_counter()
        self.sent += len(order)
        self.tasks += 1
        self.briefs += brief is not None
        if isinstance(data, bytes) and isinstance(brief, bytes):  # Dask's are scattered once
            self.brief, self.data = len(brief), len(data)


class InFlight:
    """An executor that holds many tasks on their way, as if as many workers took some seconds each.

    What goes to a worker is pickled, and what comes from one is unpickled, as at a connection's near end.
    """

    def __init__(self, count: int, seconds: float):
        self._max_workers, self._seconds, self._reply = count, seconds, b""
        self._due: list[tuple[float, int, concurrent.futures.Future[Any]]] = []
        self._number, self._more, self._closed = 0, threading.Condition(), False
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "concurrent.futures.Future[Any]":
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        if len(arguments) != 4 or not self._reply:
            reply = function(*arguments)
            if reply[0] == "done":
                self._reply = pickle.dumps(reply, protocol=5)
            future.set_result(reply)
            return future
        pickle.dumps((function, arguments), protocol=5)
        with self._more:
            self._number += 1
            heapq.heappush(self._due, (time.perf_counter() + self._seconds, self._number, future))
            self._more.notify()
        return future

    def close(self) -> None:
        with self._more:
            self._closed = True
            self._more.notify()
        self._thread.join()

    def _answer(self) -> None:
        while True:
            with self._more:
                while not self._closed and (not self._due or self._due[0][0] > time.perf_counter()):
                    self._more.wait(max(0.0, self._due[0][0] - time.perf_counter()) if self._due else None)
                if self._closed:
                    return
                future = heapq.heappop(self._due)[2]
            future.set_result(pickle.loads(self._reply))


@contextmanager
def processes(count: int, *, work: bool = False) -> Iterator[concurrent.futures.Executor]:
    """Processes that answer at once, or that work, on a core each."""
    spawn = multiprocessing.get_context("spawn")
    initializer, arguments = (own_core, (spawn.Value("i", 0),)) if work else (answer_at_once, ())
    pool = concurrent.futures.ProcessPoolExecutor(count, mp_context=spawn, initializer=initializer, initargs=arguments)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# What it costs.


def swept(executor: Any, variants: int, lanes: int) -> fn.SweepResult:
    """W1's net in chunks of so many lanes, a task each. The best state alone is kept, as a million of them would not fit."""
    workload = w1()
    recipe = ours.recipe_of(workload._replace(x=workload.x[:1], y=workload.y[:1]))  # which holds its workload, and is sent with it
    rates = fn.grid(learning_rate=np.geomspace(1e-4, 1e-1, variants).tolist())
    settings = dict(num_steps=STEPS, batch_size=128, chunk_size=lanes, keep=1, metric="train/loss", progress=False)
    data, key = fn.Dataset(workload.x, workload.y), jax.random.key(ours.KEY)
    return fn.sweep(recipe, rates, data, key=key, executor=executor, **settings)


def all_warm(run: Callable[[], fn.SweepResult], workers: int) -> None:
    """Runs a sweep until each worker has had a task of it."""
    seen: set[str] = set()
    began = time.monotonic()
    while time.monotonic() < began + _PATIENCE:  # a worker that is started by its first task imports JAX meanwhile
        seen.update(run().timing["workers"])
        if len(seen) >= workers:
            return
    raise RuntimeError(f"cluster_scale: each of {workers} workers must take a task in {_PATIENCE} s, got {len(seen)}; is the machine busy?")


def cost(executor: Any, workers: int, tasks: int, lanes: int, processes: int | None = None) -> Cost:
    """Of a sweep whose workers know what to answer.

    Args:
      processes: that have to have answered before; as many as workers by default.
    """
    all_warm(lambda: swept(executor, 4 * lanes * min(workers, 8), lanes), workers if processes is None else processes)
    count, began = Count(executor), time.process_time()
    result = swept(executor, tasks * lanes, lanes)
    cpu, wall = time.process_time(), time.perf_counter()
    assert count.first is not None and count.tasks >= tasks and len(result.table["status"]) == tasks * lanes
    return Cost(
        workers,
        tasks,
        lanes,
        cpu=1e3 * (cpu - count.first[0]) / tasks,
        wall=1e3 * (wall - count.first[1]) / tasks,
        planning=1e3 * (count.first[0] - began) / (tasks * lanes),
        sent=count.sent / count.tasks,
        brief=count.brief,
        data=count.data,
        briefs=count.briefs,
        received=count.received(),
    )


def with_processes(numbers: Sequence[int], tasks: int, tell: Callable[[str], None]) -> list[Cost]:
    """Narrow chunks with each number of processes, and wide ones with one of these numbers."""
    found = []
    for number in numbers:
        with processes(number) as pool:
            widths = (FEW, MANY) if number == min(2, max(numbers)) else (FEW,)
            for lanes in widths:
                found.append(cost(pool, number, tasks if lanes == FEW else max(8, tasks // 10), lanes))
                tell(said(found[-1], "processes"))
    return found


def in_flight(numbers: Sequence[int], tasks: int, tell: Callable[[str], None]) -> list[Cost]:
    """With more tasks on their way at a time than one machine has processes for."""
    found = []
    for number in numbers:
        executor = InFlight(number, 0.5 if number > 8 else 0.0)
        try:
            found.append(cost(executor, number, max(tasks, 2 * number), FEW, processes=1))
        finally:
            executor.close()
        tell(said(found[-1], "on their way"))
    return found


def with_dask(workers: int, tasks: int, tell: Callable[[str], None]) -> dict[str, float]:
    """Milliseconds a task of this process and of Dask's scheduler, which is one of its own on loopback."""
    from distributed import Client
    from distributed.deploy.subprocess import SubprocessCluster

    options = {"nthreads": 1, "nanny": False, "dashboard": False, "host": "127.0.0.1"}
    with SubprocessCluster(host="127.0.0.1", n_workers=workers, worker_kwargs=options) as cluster, Client(cluster) as client:
        client.wait_for_workers(workers, timeout=120)
        client.run(answer_at_once)
        executor = client.get_executor()
        all_warm(lambda: swept(executor, 4 * FEW * workers, FEW), workers)
        before = client.run_on_scheduler(time.process_time)
        own = cost(executor, workers, tasks, FEW, processes=0)
        scheduler = 1e3 * (client.run_on_scheduler(time.process_time) - before) / tasks
    tell(f"Dask, {workers} workers: {own.cpu:.3f} ms of this process, {scheduler:.3f} ms of the scheduler, {own.wall:.3f} ms a task")
    return {"workers": workers, "tasks": tasks, "cpu": own.cpu, "scheduler": scheduler, "wall": own.wall}


def said(own: Cost, what: str) -> str:
    return f"{own.workers} {what}, {own.lanes} lanes: {own.cpu:.3f} ms of the driver's CPU, {own.wall:.3f} ms a task"


def w1_pairs(pairs: int, tell: Callable[[str], None], variants: int = 64, epochs: int = 20) -> dict[str, Any]:
    """Seconds of W1 by this process's threads, by two processes with a core each, and by the threads again, in turn."""
    workload = w1(variants, epochs=epochs)
    recipe, data, key = ours.recipe_of(workload), fn.Dataset(workload.x, workload.y), jax.random.key(ours.KEY)
    values = [ours.hyperparameters(workload, variant) for variant in workload.variants]

    def run(executor: Any) -> fn.SweepResult:
        settings = dict(num_steps=workload.num_steps, batch_size=workload.batch_size, progress=False)
        return fn.sweep(recipe, values, data, key=key, executor=executor, **settings)

    def seconds(executor: Any) -> float:
        began = time.perf_counter()
        run(executor)
        return time.perf_counter() - began

    with processes(2, work=True) as pool:
        all_warm(lambda: run(pool), 2)
        run(None), run(None), run(pool)
        found = []
        for i in range(pairs):
            order = ("threads", "processes", "again") if i % 2 else ("again", "processes", "threads")
            found.append({name: seconds(pool if name == "processes" else None) for name in order})
    ratios = [2 * own["processes"] / (own["threads"] + own["again"]) for own in found]
    noise = [abs(math.log(own["threads"] / own["again"])) for own in found]
    share, spread = statistics.median(ratios) - 1, statistics.median(noise)
    usual = statistics.median(own["threads"] for own in found)
    tell(f"W1: {usual:.3f} s by threads, {share:+.1%} by two processes; two runs by threads differ by {spread:.1%}")
    low, high = (np.quantile(ratios, [0.25, 0.75]) - 1).tolist() if pairs > 1 else (share, share)
    return {"threads": usual, "share": share, "low": low, "high": high, "noise": spread, "pairs": found}


# What follows from it.


class Model(NamedTuple):
    """Milliseconds that a task takes the driver: `task`, `lane` for each lane, and what comes to it where many are on their way."""

    task: float
    lane: float
    numbers: tuple[float, ...]  # of tasks on their way, upwards
    extra: tuple[float, ...]  # milliseconds with each of these, beyond those with the fewest
    planning: float  # milliseconds for a variant, before the first task

    def milliseconds(self, workers: Any, lanes: int) -> Any:
        """Between the numbers that were measured, and beyond them, it grows in proportion to the tasks on their way."""
        at, last = np.asarray(workers, float), self.numbers[-1]
        slope = (self.extra[-1] - self.extra[-2]) / (last - self.numbers[-2]) if len(self.numbers) > 1 else 0.0
        beyond = max(0.0, slope) * np.maximum(0.0, at - last)
        return self.task + self.lane * lanes + np.interp(at, self.numbers, self.extra) + beyond

    def busy(self, workers: Any, lanes: int, seconds: float) -> Any:
        """The share of the workers that have something to do, where a task lasts so many seconds."""
        return np.minimum(1.0, 1e3 * seconds / self.milliseconds(workers, lanes) / np.asarray(workers, float))

    def most(self, lanes: int, seconds: float) -> int:
        """Workers that have something to do all the time."""
        counts = np.unique(np.geomspace(1, 1e6, 2000).round())
        enough = counts[self.busy(counts, lanes, seconds) >= 1.0]
        return int(enough[-1]) if len(enough) else 0


def model_of(real: Sequence[Cost], many: Sequence[Cost]) -> Model:
    wide = next(own for own in real if own.lanes == MANY)
    narrow = next(own for own in real if own.lanes == FEW and own.workers == wide.workers)
    lane = max(0.0, (wide.cpu - narrow.cpu) / (MANY - FEW))
    numbers, extra = tuple(float(own.workers) for own in many), tuple(max(0.0, own.cpu - many[0].cpu) for own in many)
    return Model(max(0.0, narrow.cpu - FEW * lane), lane, numbers, extra, statistics.median(own.planning for own in real))


def verdicts(real: Sequence[Cost], many: Sequence[Cost], pairs: dict[str, Any]) -> list[tuple[str, bool]]:
    """What is asked of the figures, and whether it holds."""
    worst = max(max(own.cpu, own.wall) for own in real if own.lanes == FEW)
    far, share = max(own.cpu for own in many), pairs["share"]
    range_of = f"quartiles {pairs['low']:+.1%} and {pairs['high']:+.1%}, two runs by threads differ by {pairs['noise']:.1%}"
    tells = pairs["noise"] < SHARE
    if not tells:
        range_of += ", too much to tell: measure again on a quiet machine"
    return [
        (f"a task costs less than {MOST:.0f} ms with any number of processes: {worst:.2f} ms", worst < MOST),
        (f"and with {max(own.workers for own in many):,} on their way: {far:.2f} ms", far < MOST),
        (f"W1 by two processes takes less than {SHARE:.0%} longer than by threads: {share:+.1%} ({range_of})", tells and share < SHARE),
    ]


def table(real: Sequence[Cost], many: Sequence[Cost]) -> str:
    """The figures in Markdown."""
    lines = [
        "| workers | tasks | lanes | CPU, ms a task | wall, ms a task | sent, kB a task | received, kB a task |",
        "|---|---|---|---|---|---|---|",
    ]
    for own, what in [*((own, "processes") for own in real), *((own, "on their way") for own in many)]:
        kilobytes = f"{own.sent / 1e3:.2f} | {own.received / 1e3:.1f}"
        lines.append(f"| {own.workers:,} {what} | {own.tasks:,} | {own.lanes} | {own.cpu:.3f} | {own.wall:.3f} | {kilobytes} |")
    return "\n".join(lines)


def words(real: Sequence[Cost], model: Model) -> str:
    """What goes along beside the tasks, and where the driver is full."""
    first, lanes = real[0], MANY
    most = ", ".join(f"{model.most(lanes, seconds):,} of tasks of {seconds:g} s" for seconds in SECONDS)
    tasks = VARIANTS / lanes
    at = min(10_000, int(model.numbers[-1]))
    return (
        f"each worker also gets, once, {first.brief / 1e3:.1f} kB of the recipe and {first.data / 1e3:.0f} kB of data\n"
        f"a task takes the driver {model.task:.3f} ms and {model.lane:.4f} ms a lane, a variant {model.planning:.3f} ms before the first task\n"
        f"so it keeps this many workers busy, at {lanes} lanes: {most}\n"
        f"of {VARIANTS:,} variants the driver's part is {VARIANTS * model.planning / 1e3:,.0f} s before the first task, and "
        f"{tasks * model.milliseconds(at, lanes) / 1e3:,.0f} s with {at:,} tasks on their way"
    )


def picture(real: Sequence[Cost], many: Sequence[Cost], model: Model) -> matplotlib.figure.Figure:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    narrow = [own for own in real if own.lanes == FEW]
    left.plot([own.workers for own in narrow], [own.cpu for own in narrow], "o", label="processes, CPU")
    left.plot([own.workers for own in narrow], [own.wall for own in narrow], "s", mfc="none", label="processes, wall")
    left.plot([own.workers for own in many], [own.cpu for own in many], ".-", label="in one process, CPU")
    left.axhline(MOST, color="0.5", linestyle="--", label="to stay below")
    left.set(xscale="log", yscale="log", xlabel="tasks on their way", ylabel="driver, ms a task", title=f"Measured, {FEW} lane a task")
    left.legend(fontsize=8)
    workers = np.geomspace(1, 10_000, 200)
    for seconds in SECONDS:
        middle.plot(workers, 100 * model.busy(workers, MANY, seconds), label=f"{seconds:g} s a task")
        took = VARIANTS / MANY * np.maximum(seconds / workers, model.milliseconds(workers, MANY) / 1e3)
        right.plot(workers, (took + VARIANTS * model.planning / 1e3) / 3600, label=f"{seconds:g} s a task")
    middle.set(xscale="log", ylim=(0, 105), xlabel="workers", ylabel="workers busy, %", title=f"Model, {MANY} lanes a task")
    right.set(xscale="log", yscale="log", xlabel="workers", ylabel="hours", title=f"Model, {VARIANTS:,} variants")
    middle.legend(fontsize=8), right.legend(fontsize=8)
    return figure


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.cluster_scale", description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000, help="of each measurement (%(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=(1, 2, 4, 8), help="processes (%(default)s)")
    parser.add_argument("--in-flight", type=int, nargs="+", default=(8, 100, 1000, 10_000), help="tasks on their way (%(default)s)")
    parser.add_argument("--pairs", type=int, default=21, help="of W1 with processes and without (%(default)s)")
    parser.add_argument("--no-dask", action="store_true", help="leaves Dask out, as where it isn't installed")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder to write to (%(default)s)")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    if min(arguments.tasks, arguments.pairs, *arguments.workers, *arguments.in_flight) < 1:
        parser().error("every number must be at least 1")
    matplotlib.use("Agg")

    def tell(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:.1f}  {line}", flush=True)

    pairs = w1_pairs(arguments.pairs, tell)
    real = with_processes(sorted(arguments.workers), arguments.tasks, tell)
    many = in_flight(sorted(arguments.in_flight), arguments.tasks, tell)
    dask = None
    if not arguments.no_dask and importlib.util.find_spec("distributed"):
        dask = with_dask(min(2, max(arguments.workers)), max(1, arguments.tasks // 10), tell)
    model, folder = model_of(real, many), arguments.out / "cluster_scale"
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "load": os.getloadavg()[0],
        "w1": pairs,
        "processes": [own._asdict() for own in real],
        "in_flight": [own._asdict() for own in many],
        "dask": dask,
        "model": model._asdict(),
    }
    (folder / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "table.md").write_text(table(real, many) + "\n")
    picture(real, many, model).savefig(folder / "driver.png", dpi=120)
    print(table(real, many))
    print(words(real, model))
    for sentence, holds in verdicts(real, many, pairs):
        print(f"{'holds' if holds else 'FAILS'}: {sentence}")


if __name__ == "__main__":
    main()
