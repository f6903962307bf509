"""Which states are kept: each run's last or best one, of all variants or of the best ones only."""

import collections
import heapq
import math
from typing import Any, NamedTuple

import numpy as np

from funcnet.sweeps.ledger import COMPLETED, DIVERGED, Ledger
from funcnet.sweeps.planning import Plan


class Rank(NamedTuple):
    """The metric that variants are ranked by."""

    metric: str
    mode: str | None  # "min" or "max"; None if it is unknown which is better


class Kept:
    """The states of rows that have ended, and with keep_best also the best states so far of those that train."""

    def __init__(self, plan: Plan, ledger: Ledger, rank: Rank, keep: int | None, keep_best: bool):
        self.states: dict[int, list[Any]] = {}  # leaves by row
        self._best = math.inf  # the best variant's mean over its runs; smaller is better, whatever the mode
        self._plan, self._ledger, self._rank, self._keep, self._keep_best = plan, ledger, rank, keep, keep_best
        self._last: list[int] = np.searchsorted(ledger.steps, ledger.num_steps).tolist()  # the column of each row's last evaluation
        self._ended: dict[int, list[int]] = collections.defaultdict(list)  # by variant, its rows that have ended
        self._losers: list[tuple[float, int]] = []  # heap of (-value, -variant) of the variants whose states are kept, worst first

    @property
    def best(self) -> float | None:
        """The best variant's value so far, with the metric's own sign; None before any."""
        if math.isinf(self._best):
            return None
        return self._best if self._rank.mode == "min" else -self._best

    def is_better(self, row: int, step: int) -> bool:
        """Whether a row is better at this evaluation than at any before; False if its value isn't finite."""
        value = self._value(row, int(np.searchsorted(self._ledger.steps, step)))
        before = int(self._ledger.best[row])
        return math.isfinite(value) and (before < 0 or value < self._value(row, before))

    def improve(self, row: int, step: int, state: list[Any]) -> None:
        """Records that a row is at its best after this step, and keeps its state."""
        self.states[row] = state
        self._ledger.best[row] = np.searchsorted(self._ledger.steps, step)

    def leave(self, row: int, state: list[Any]) -> None:
        """Keeps the last state of a row, unless its best one is kept."""
        if self._ledger.best[row] < 0:
            self.states[row] = state

    def add(self, row: int, state: list[Any]) -> None:
        """Keeps the state of a row that has ended. Once all runs of its variant have, ranks it and drops states that aren't to be kept."""
        self.leave(row, state)
        variant = self._plan.rows[row].variant
        own = self._ended[variant]
        if row not in own:
            own.append(row)
        if len(own) < self._plan.runs or self._rank.mode is None:
            return
        self._rank_variant(variant)

    def recount(self) -> None:
        """Ranks again all variants that have ended by the ledger, after a stored sweep has been restored."""
        for row in np.flatnonzero(self._ledger.ended).tolist():
            self._ended[self._plan.rows[row].variant].append(row)
        for variant, own in list(self._ended.items()):
            if len(own) == self._plan.runs and self._rank.mode is not None:
                self._rank_variant(variant)

    def _rank_variant(self, variant: int) -> None:
        own = self._ended[variant]
        values = {row: self._ranked(row) for row in own}
        mean = float(np.mean(list(values.values())))
        self._best = min(self._best, mean)
        if self._keep is None:
            return
        best = min(own, key=lambda row: (values[row], row))
        for other in own:
            if other != best:
                self.states.pop(other, None)
        heapq.heappush(self._losers, (-mean, -variant))
        if len(self._losers) > self._keep:
            worst = -heapq.heappop(self._losers)[1]
            for other in self._ended[worst]:
                self.states.pop(other, None)

    def _ranked(self, row: int) -> float:
        """A row's value for ranking, smaller is better; infinite if the row can't be ranked."""
        ledger = self._ledger
        if ledger.best[row] >= 0 and self._keep_best and ledger.status[row] != DIVERGED:
            return self._value(row, int(ledger.best[row]))
        if ledger.status[row] != COMPLETED:
            return math.inf
        return self._value(row, self._last[row])

    def _value(self, row: int, column: int) -> float:
        if self._rank.metric not in self._ledger.values:
            return math.inf
        value = float(self._ledger.values[self._rank.metric][row, column])
        if not math.isfinite(value):
            return math.inf
        return value if self._rank.mode == "min" else -value
