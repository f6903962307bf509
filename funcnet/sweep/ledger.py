"""The ledger of a sweep: what was measured and how each run stands, in arrays alone, an entry for each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from funcnet.sweep.plan import Plan

UNFINISHED, COMPLETED, DIVERGED, PRUNED = range(4)
STATUSES = ("unfinished", "completed", "diverged", "pruned")  # as the table says it


@dataclass(frozen=True)
class Ledger:
    """Arrays that the sweep's loop fills in, and nothing else does."""

    steps: np.ndarray  # (evaluations,), int: after how many steps runs are measured, upwards
    values: dict[str, np.ndarray]  # by metric, (rows, evaluations), float64; NaN where a row was not measured
    measured: np.ndarray  # (rows, evaluations), bool: what has been
    num_steps: np.ndarray  # (rows,), int: the step at which each run ends
    at: np.ndarray  # (rows,), int: steps completed with everything finite
    status: np.ndarray  # (rows,), int: the place in STATUSES
    ended: np.ndarray  # (rows,), bool: no step more

    def note(self, rows: Sequence[int], step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """What these rows were measured to be after a step; the entries after the last row are nobody's."""
        column = np.searchsorted(self.steps, step)
        for name, values in metrics.items():
            self.values[name][rows, column] = values[: len(rows)]
        self.measured[rows, column] = True

    def final(self, name: str) -> np.ndarray:
        """A metric at the end of each run, (rows,); NaN for one that did not complete."""
        last = self.values[name][np.arange(len(self.at)), np.searchsorted(self.steps, self.num_steps)]
        return np.where(self.status == COMPLETED, last, np.nan)


def new_ledger(plan: Plan, metrics: Sequence[str]) -> Ledger:
    """The ledger before anything has trained."""
    steps = np.array(sorted({step for variant in plan.variants for step in plan.evaluations(variant.num_steps)}))
    rows, columns = len(plan.rows), len(steps)
    return Ledger(
        steps,
        {name: np.full((rows, columns), np.nan) for name in metrics},
        np.zeros((rows, columns), bool),
        np.array([plan.of_row(row).num_steps for row in range(rows)]),
        np.zeros(rows, int),
        np.full(rows, UNFINISHED),
        np.zeros(rows, bool),
    )
