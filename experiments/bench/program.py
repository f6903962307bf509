"""What the benchmark asks of everyone: a program that trains variants."""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.bench.workloads import Workload

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Program(NamedTuple):
    """A workload, ready to be trained as often as one likes."""

    run: Callable[[tuple[int, ...]], np.ndarray]  # trains these variants; their final training losses
    compile_seconds: float = 0.0  # spent before the first run; what the first run takes longer than a warm one is added
    close: Callable[[], None] = lambda: None


class Peer(NamedTuple):
    """Another way to train the same workload.

    forms: ways to run it, by name; the benchmark tries each and keeps the fastest. One that can't do a workload raises
      NotImplementedError.
    one_at_a_time: whether its time is its number of variants times the time of one, so that few can stand for many.
    cold: the form for a cold start, where there is no time to try.
    """

    forms: dict[str, Callable[[Workload], Program]]
    one_at_a_time: bool
    cold: str
