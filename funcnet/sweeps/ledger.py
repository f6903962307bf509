"""The ledger of a sweep: what was measured and how each run stands, in arrays alone, an entry for each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from funcnet.sweeps.planning import Plan

UNFINISHED, COMPLETED, DIVERGED, PRUNED = range(4)
STATUSES = ("unfinished", "completed", "diverged", "pruned")  # as the table says it


@dataclass
class Ledger:
    """Arrays that the sweep's loop fills in, and nothing else does."""

    steps: np.ndarray  # (evaluations,), int: after how many steps runs are measured, upwards
    values: dict[str, np.ndarray]  # by metric, (rows, evaluations), float64; NaN where a row was not measured
    measured: np.ndarray  # (rows, evaluations), bool: what has been
    num_steps: np.ndarray  # (rows,), int: the step at which each run ends
    at: np.ndarray  # (rows,), int: steps completed with everything finite
    status: np.ndarray  # (rows,), int: the place in STATUSES
    ended: np.ndarray  # (rows,), bool: no step more
    allowed: np.ndarray  # (rows,), int: the step up to which each may train
    stopped: np.ndarray  # (rows,), bool: which a policy has stopped; they end as soon as they stand still
    numbers: dict[str, np.ndarray]  # (rows,) each: the hyperparameters that are numbers, as they are now; NaN where a row has none
    parents: np.ndarray  # (rows, generations), int: the row whose state each took over at that generation, or itself
    generations: np.ndarray  # (generations,), int: the steps at which rows could take over; empty but for a population
    history: dict[str, np.ndarray]  # (rows, generations + 1) each: the numbers before the first generation, and from each on
    best: np.ndarray  # (rows,), int: the evaluation at which each was best; -1 before any, or where nobody asks

    def note(self, rows: Sequence[int], step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """What these rows were measured to be after a step."""
        column = np.searchsorted(self.steps, step)
        for name, values in metrics.items():
            self.values[name][rows, column] = values
        self.measured[rows, column] = True

    def take_over(self, step: int, parents: np.ndarray, numbers: Mapping[str, np.ndarray]) -> None:
        """A generation of a population: whose state each row takes over after this step, and the numbers from now on."""
        self.generations = np.append(self.generations, step)
        self.parents = np.column_stack([self.parents, parents])
        for name, values in numbers.items():
            self.numbers[name] = values
        self.history = {name: np.column_stack([before, self.numbers[name]]) for name, before in self.history.items()}

    def final(self, name: str) -> np.ndarray:
        """A metric of each run, (rows,): where it was best, if that is kept, else where it ended; NaN for one that diverged.

        Of one that ended on the way, it is the last that was measured; of one that nobody measured, NaN.
        """
        last = self.measured.shape[1] - 1 - np.argmax(self.measured[:, ::-1], axis=1)
        column = np.where(self.best >= 0, self.best, last)
        known = self.measured.any(1) & (self.status != DIVERGED)
        return np.where(known, self.values[name][np.arange(len(self.at)), column], np.nan)

    def outcome(self, index: Mapping[str, np.ndarray], *, best: bool, rule: str | None) -> dict[str, np.ndarray]:
        """The columns of the result's table that training has decided, by name, a row each.

        Args:
          index: (rows,), int, each: "variant" and "replicate", and "fold" where there are folds.
          best: whether each run is shown where it was best; then there is the column "best_step".
          rule: the name of what prunes; then there is the column "pruned_by".
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
        """Each metric by row and evaluation, as far as any row was measured, and the "step" of each evaluation."""
        met = self.measured.any(0)
        return {"step": self.steps[met], **{name: values[:, met] for name, values in self.values.items()}}


def new_ledger(plan: Plan, metrics: Sequence[str], also: Sequence[int] = ()) -> Ledger:
    """The ledger before anything has trained.

    Args:
      also: steps after which a stored sweep has measured.
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
    """Numbers in one array, whole ones as such."""
    if all(isinstance(value, int) for value in values):
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], np.float64)
