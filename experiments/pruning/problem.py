"""What every contestant trains: the digits, a net, a space of hyperparameters. It only imports NumPy, since every process imports it."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

WIDTH = 64  # neurons of the one hidden layer, relu
CLASSES = 10
BATCH_SIZE = 64
# Lowest and highest values: the first two are drawn log-uniformly, dropout uniformly.
LEARNING_RATE = (1e-4, 1e-1)  # of Adam
L2 = (1e-6, 1e-2)  # strength, times the sum of squared weights
DROPOUT = (0.0, 0.6)
ETA = 3  # one variant in ETA continues at each rung, for every rule and peer that has rungs
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Part = tuple[np.ndarray, np.ndarray]  # (examples, pixels) float32, (examples,) int32


class Problem(NamedTuple):
    """One seed's split of the digits, and the numbers of variants and steps."""

    train: Part
    validation: Part  # used for all choices
    test: Part
    seed: int
    variants: int  # in a sweep
    num_steps: int  # of a variant that trains to its end
    first: int  # steps up to the first rung

    @property
    def batches(self) -> int:
        """Minibatches in an epoch; the examples left over are not used in that epoch."""
        return len(self.train[1]) // BATCH_SIZE

    def first_of(self, name: str) -> int:
        """Steps up to the first rung; Hyperband's is at a third of them, since its brackets protect against a rung that is too early."""
        return max(1, self.first // ETA) if "hyperband" in name else self.first


def save(problem: Problem, path: Path) -> None:
    """Writes a problem for the processes that race."""
    parts = {f"{name}_{what}": array for name in ("train", "validation", "test") for what, array in zip("xy", getattr(problem, name))}
    np.savez(path, **parts, numbers=np.array([problem.seed, problem.variants, problem.num_steps, problem.first]))


def load(path: Path) -> Problem:
    """Reads a problem that `save` wrote."""
    with np.load(path) as file:
        parts = [(file[f"{name}_x"], file[f"{name}_y"]) for name in ("train", "validation", "test")]
        return Problem(*parts, *map(int, file["numbers"]))


def points(accuracy: float) -> float:
    """An accuracy in percent, without float32's last digits, which are rounding errors."""
    return round(100 * float(accuracy), 4)
