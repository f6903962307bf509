"""The states that are kept: those of the best variants."""

import collections
import heapq
import math
from typing import Any, NamedTuple

import numpy as np

from funcnet.sweep.ledger import COMPLETED, Ledger
from funcnet.sweep.plan import Plan


class Rank(NamedTuple):
    """What variants are ranked by."""

    metric: str
    mode: str | None  # "min" or "max"; None where nobody has said which way is better


class Kept:
    """The states of the rows that have ended; of the best so many variants only, where that was asked for."""

    def __init__(self, plan: Plan, ledger: Ledger, rank: Rank, keep: int | None):
        self.states: dict[int, list[Any]] = {}  # leaves by row
        self._best = math.inf  # mean of a variant over its replicates, the smaller the better
        self._plan, self._ledger, self._rank, self._keep = plan, ledger, rank, keep
        self._replicates = collections.Counter(row.variant for row in plan.rows)
        self._ended: dict[int, list[int]] = collections.defaultdict(list)  # by variant, its rows that are done
        self._losers: list[tuple[float, int]] = []  # heap of (-value, -variant) of the variants whose state is kept: the worst first

    @property
    def best(self) -> float | None:
        """The best variant's value so far, in the metric's own direction."""
        if math.isinf(self._best):
            return None
        return self._best if self._rank.mode == "min" else -self._best

    def add(self, row: int, state: list[Any]) -> None:
        """A row has ended. Once all replicates of its variant have, the variant is ranked, and of the best their best run's state stays."""
        self.states[row] = state
        variant = self._plan.rows[row].variant
        own = self._ended[variant]
        own.append(row)
        if len(own) < self._replicates[variant] or self._rank.mode is None:
            return
        values = {row: self._value(row) for row in own}
        mean = float(np.mean(list(values.values())))
        self._best = min(self._best, mean)
        if self._keep is None:
            return
        best = min(own, key=lambda row: (values[row], row))
        for other in own:
            if other != best:
                del self.states[other]
        heapq.heappush(self._losers, (-mean, -variant))
        if len(self._losers) > self._keep:
            worst = -heapq.heappop(self._losers)[1]
            for other in self._ended[worst]:
                self.states.pop(other, None)

    def _value(self, row: int) -> float:
        """A row's metric for ranking, the least the best; infinite where it is none."""
        if self._ledger.status[row] != COMPLETED or self._rank.metric not in self._ledger.values:
            return math.inf
        last = np.searchsorted(self._ledger.steps, self._ledger.num_steps[row])
        value = float(self._ledger.values[self._rank.metric][row, last])
        if not math.isfinite(value):
            return math.inf
        return value if self._rank.mode == "min" else -value
