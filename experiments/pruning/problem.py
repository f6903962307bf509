"""What everyone trains: the digits, a net, a space of hyperparameters. NumPy alone, as every process reads it."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

WIDTH = 64  # neurons of the one hidden layer, relu
CLASSES = 10
BATCH_SIZE = 64
# Lowest and highest: the first two drawn log-uniformly, dropout uniformly.
LEARNING_RATE = (1e-4, 1e-1)  # of Adam
L2 = (1e-6, 1e-2)  # strength, times the sum of squared weights
DROPOUT = (0.0, 0.6)
ETA = 3  # of how many one goes on, for every rule and peer that has rungs
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Part = tuple[np.ndarray, np.ndarray]  # (examples, pixels) float32, (examples,) int32


class Problem(NamedTuple):
    """One seed's split of the digits, and how much is trained."""

    train: Part
    validation: Part  # what everyone chooses by
    test: Part
    seed: int
    variants: int  # of a sweep
    num_steps: int  # that a variant takes to its end
    first: int  # steps up to the first rung

    @property
    def batches(self) -> int:
        """Minibatches in an epoch; the examples left over wait for another epoch's order."""
        return len(self.train[1]) // BATCH_SIZE

    def first_of(self, name: str) -> int:
        """Steps up to the first rung of a rule or peer: Hyperband's brackets are its hedge against one too early, and begin at a third."""
        return max(1, self.first // ETA) if "hyperband" in name else self.first


def save(problem: Problem, path: Path) -> None:
    """Writes a problem for the processes that race."""
    parts = {f"{name}_{what}": array for name in ("train", "validation", "test") for what, array in zip("xy", getattr(problem, name))}
    np.savez(path, **parts, numbers=np.array([problem.seed, problem.variants, problem.num_steps, problem.first]))


def load(path: Path) -> Problem:
    """What `save` wrote."""
    with np.load(path) as file:
        parts = [(file[f"{name}_x"], file[f"{name}_y"]) for name in ("train", "validation", "test")]
        return Problem(*parts, *map(int, file["numbers"]))


def points(accuracy: float) -> float:
    """An accuracy in percent; float32's last digits are nobody's merit."""
    return round(100 * float(accuracy), 4)
