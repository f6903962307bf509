"""The ledger of a sweep: what was measured and how far each run is, as arrays with one entry per row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from funcnet.sweeps.planning import Plan

UNFINISHED, COMPLETED, DIVERGED, PRUNED = range(4)
STATUSES = ("unfinished", "completed", "diverged", "pruned")  # as in the table


@dataclass
class Ledger:
    """Arrays that record a sweep's progress; only the sweep's loop and its parts change them."""

    steps: np.ndarray  # (evaluations,), int: the steps after which runs are measured, ascending
    values: dict[str, np.ndarray]  # by metric, (rows, evaluations), float64; NaN where a row was not measured
    measured: np.ndarray  # (rows, evaluations), bool: which rows have been measured
    num_steps: np.ndarray  # (rows,), int: the step at which each run ends
    at: np.ndarray  # (rows,), int: steps completed with everything finite
    status: np.ndarray  # (rows,), int: the index in STATUSES
    ended: np.ndarray  # (rows,), bool: whether each has taken its last step
    allowed: np.ndarray  # (rows,), int: the step up to which each may train
    stopped: np.ndarray  # (rows,), bool: which a policy has stopped; they end when their cohort waits for the judge
    numbers: dict[str, np.ndarray]  # (rows,) each: current values of the hyperparameters that are numbers; NaN if a row has none
    parents: np.ndarray  # (rows, generations), int: the row whose state each row copied at that generation, or the row itself
    generations: np.ndarray  # (generations,), int: the steps at which rows could copy others; empty except for a population
    history: dict[str, np.ndarray]  # (rows, generations + 1) each: the numbers before the first generation, and from each on
    best: np.ndarray  # (rows,), int: the evaluation at which each was best; -1 before any, and without keep_best

    def note(self, rows: Sequence[int], step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Records the metrics of these rows after a step."""
        column = np.searchsorted(self.steps, step)
        for name, values in metrics.items():
            self.values[name][rows, column] = values
        self.measured[rows, column] = True

    def take_over(self, step: int, parents: np.ndarray, numbers: Mapping[str, np.ndarray]) -> None:
        """Records a generation of a population: the row whose state each row copies after this step, and the new numbers."""
        self.generations = np.append(self.generations, step)
        self.parents = np.column_stack([self.parents, parents])
        for name, values in numbers.items():
            self.numbers[name] = values
        self.history = {name: np.column_stack([before, self.numbers[name]]) for name, before in self.history.items()}

    def final(self, name: str) -> np.ndarray:
        """A metric of each run, (rows,): at its best evaluation with keep_best, else at its last one; NaN for a run that diverged.

        A run that ended early has the last value measured; one that was never measured has NaN.
        """
        last = self.measured.shape[1] - 1 - np.argmax(self.measured[:, ::-1], axis=1)
        column = np.where(self.best >= 0, self.best, last)
        known = self.measured.any(1) & (self.status != DIVERGED)
        return np.where(known, self.values[name][np.arange(len(self.at)), column], np.nan)

    def outcome(self, index: Mapping[str, np.ndarray], *, best: bool, rule: str | None) -> dict[str, np.ndarray]:
        """The columns of the result's table, by name, without the hyperparameters; (rows,) each.

        Args:
          index: (rows,), int, each: "variant" and "replicate", and "fold" if there are folds.
          best: whether to add the column "best_step" (with keep_best).
          rule: the name of the rule that prunes, for the column "pruned_by"; None for no such column.
        """
        found = {
            **index,
            **{name: self.final(name) for name in self.values},
            "status": np.array([STATUSES[status] for status in self.status.tolist()]),
            "steps": self.at.copy(),
        }
        if best:
            found["best_step"] = np.where(self.best >= 0, self.steps[self.best], -1)
        if rule is not None:
            found["pruned_by"] = np.where(self.status == PRUNED, rule, "")
        return found

    def curves(self) -> dict[str, np.ndarray]:
        """Each metric, (rows, evaluations), and "step", (evaluations,); only evaluations at which any row was measured."""
        met = self.measured.any(0)
        return {"step": self.steps[met], **{name: values[:, met] for name, values in self.values.items()}}


def new_ledger(plan: Plan, metrics: Sequence[str], also: Sequence[int] = ()) -> Ledger:
    """The ledger before anything has trained.

    Args:
      also: further steps, at which a stored sweep has evaluated runs.
    """
    steps = np.array(sorted({*also, *(step for variant in plan.variants for step in plan.evaluations(variant.num_steps))}))
    rows, columns = len(plan.rows), len(steps)
    num_steps = np.array([plan.of_row(row).num_steps for row in range(rows)])
    named = dict.fromkeys(name for variant in plan.variants for name in variant.numbers)
    numbers = {name: _column([plan.of_row(row).numbers.get(name) for row in range(rows)]) for name in named}
    return Ledger(
        steps,
        {name: np.full((rows, columns), np.nan) for name in metrics},
        np.zeros((rows, columns), bool),
        num_steps,
        np.zeros(rows, int),
        np.full(rows, UNFINISHED),
        np.zeros(rows, bool),
        num_steps.copy(),
        np.zeros(rows, bool),
        numbers,
        np.zeros((rows, 0), int),
        np.zeros(0, int),
        {name: values[:, None].copy() for name, values in numbers.items()},
        np.full(rows, -1),
    )


def _column(values: Sequence[float | int | None]) -> np.ndarray:
    """Numbers as one array: int64 if all are ints, else float64, with NaN for None."""
    if all(isinstance(value, int) for value in values):
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], np.float64)
