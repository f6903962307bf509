"""PyTorch: a loop over variants, and torch.func's ensembles, in processes that live as long as the benchmark needs them.

A process of its own also keeps PyTorch's threads, which wait actively for a while, away from what is timed next; torch is
imported there and not here.
"""

import functools
import importlib
import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from experiments.bench.place import Place
from experiments.bench.program import CORES, Peer, Program
from experiments.bench.workloads import Workload

if importlib.util.find_spec("torch") is None:
    raise ImportError("torch is not installed: pip install -e '.[bench]'")

_trainer: Any  # of this process, where it is one of a pool


def _begin(kind: str, workload: Workload, threads: int, settings: dict[str, Any]) -> None:
    global _trainer
    training = importlib.import_module("experiments.bench.peers.torch_training")
    _trainer = getattr(training, kind)(workload, threads, **settings)


def _train(indices: Sequence[int]) -> list[float]:
    return _trainer.train(indices)


def pooled(kind: str, workload: Workload, *, processes: int, **settings: Any) -> Program:
    """The variants dealt out to processes, whose threads share the cores."""
    if processes > max(1, len(workload.variants)):
        raise NotImplementedError("there are fewer variants than processes")
    threads = max(1, CORES // processes)
    old = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read as a new process imports torch
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, context) for _ in range(processes)]

    def close() -> None:
        for pool in pools:
            pool.shutdown()

    def run(indices: tuple[int, ...]) -> np.ndarray:
        losses = np.full(len(workload.variants), np.nan)
        shares = [indices[i::processes] for i in range(processes)]
        futures = [pool.submit(_train, share) if share else None for pool, share in zip(pools, shares, strict=True)]
        for share, future in zip(shares, futures, strict=True):
            if future is not None:
                losses[list(share)] = future.result()
        return losses[list(indices)]

    try:
        for future in [pool.submit(_begin, kind, workload, threads, settings) for pool in pools]:
            future.result()
    except BaseException:
        close()
        raise
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        os.environ |= {} if old is None else {"OMP_NUM_THREADS": old}
    return Program(run, close=close)


LOOP = {"eager": dict(compiled=False), "torch.compile": dict(compiled=True)}
GRAPHS = {"torch.compile with CUDA graphs": dict(compiled=True, graphs=True)}
FUNC = {
    "vmap": dict(compiled=False, by_hand=False),
    "vmap, torch.compile": dict(compiled=True, by_hand=False),
    "batched products": dict(compiled=False, by_hand=True),
    "batched products, torch.compile": dict(compiled=True, by_hand=True),
}


def peers(place: Place) -> dict[str, Peer]:
    """The cores share the work, or one process has all of them, and on a GPU the GPU."""
    shares = {"one process": 1} if place.on_gpu else {"a process a core": CORES, "one process": 1}

    def forms(kind: str, ways: dict[str, dict[str, bool]]) -> dict[str, Callable[[Workload], Program]]:
        return {
            f"{way}, {share}": functools.partial(pooled, kind, processes=processes, device=place.torch, **settings)
            for way, settings in ways.items()
            for share, processes in shares.items()
        }

    first = next(iter(shares))
    return {
        "torch_loop": Peer(forms("Loop", LOOP | (GRAPHS if place.on_gpu else {})), one_at_a_time=True, cold=f"eager, {first}"),
        "torch_func": Peer(forms("Ensemble", FUNC), one_at_a_time=False, cold=f"batched products, {first}"),
    }
