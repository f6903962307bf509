"""Between the sweep's loop, which knows rows, and a policy, which knows variants: what it sees, and what its decisions mean for rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from funcnet import check
from funcnet.policy import Decisions, Policy, Seen
from funcnet.sweep.ledger import DIVERGED, Ledger


class Judge:
    """Asks a policy which variants go on."""

    def __init__(self, policy: Policy, ledger: Ledger, replicates: int, metric: str, mode: str):
        self.policy, self.state = policy, None
        self._ledger, self._replicates, self._metric, self._sign = ledger, replicates, metric, 1 if mode == "min" else -1
        self._begun = False
        variants = len(ledger.at) // replicates
        self._values = np.full((variants, len(ledger.steps)), np.nan)
        self._lost = np.zeros(variants, bool)  # of which a run has diverged

    def resume(self, state: Any) -> None:
        """Goes on with the state of a stored sweep, whose measurements are in the ledger."""
        self.state, self._begun = state, True
        self.news(range(len(self._ledger.at)))

    @property
    def begun(self) -> bool:
        """Whether the policy has been asked."""
        return self._begun

    def news(self, rows: Sequence[int]) -> None:
        """These rows have been measured, or have diverged."""
        ledger, replicates = self._ledger, self._replicates
        for variant in {row // replicates for row in rows}:
            own = slice(variant * replicates, (variant + 1) * replicates)
            values = ledger.values[self._metric][own]
            with np.errstate(invalid="ignore"):
                mean = self._sign * values.mean(0)
            mean[~np.isfinite(mean)] = np.inf
            self._values[variant] = np.where(ledger.measured[own].all(0), mean, np.nan)
            lost = ledger.status[own] == DIVERGED
            if lost.any():
                self._lost[variant] = True
                self._values[variant, ledger.steps > ledger.at[own][lost].min()] = np.inf

    def rule(self) -> None:
        """Asks what is to happen now, and notes in the ledger how far each row may train, and which are stopped."""
        ledger, replicates = self._ledger, self._replicates
        allowed = ledger.allowed[::replicates]
        running = ~ledger.ended.reshape(-1, replicates).any(1) & ~self._lost
        seen = Seen(ledger.steps, self._values, ledger.num_steps[::replicates], allowed, running, self._sign)
        if not self._begun:
            self.state, self._begun = self.policy.init(seen), True
        self.state, decisions = self.policy.decide(self.state, seen)
        self._check(decisions, seen)
        # What is left of a variant of which a run has diverged can't be ranked.
        stop = (decisions.stop & running) | (self._lost & ~ledger.ended.reshape(-1, replicates).all(1))
        moved = running & (decisions.allowed > allowed)
        ledger.allowed[:] = np.repeat(np.where(moved, decisions.allowed, allowed), replicates)
        ledger.stopped[:] |= np.repeat(stop, replicates) & ~ledger.ended

    def _check(self, decisions: Decisions, seen: Seen) -> None:
        """A policy of one's own may be wrong."""
        where, allowed = f"policy {self.policy.name!r}", np.asarray(decisions.allowed)
        if allowed.shape != seen.allowed.shape or np.shape(decisions.stop) != seen.allowed.shape:
            got = f"{allowed.shape} and {np.shape(decisions.stop)}"
            raise ValueError(check.message(where, f"allowed and stop must have shape {seen.allowed.shape}", got))
        for variant in np.flatnonzero(seen.running & ((allowed < seen.allowed) | (allowed > seen.num_steps))).tolist()[:1]:
            rule = f"allowed must lie between {seen.allowed[variant]}, which it was, and num_steps = {seen.num_steps[variant]}"
            raise ValueError(check.message(where, f"{rule} for variant {variant}", int(allowed[variant])))
        odd = seen.running & (allowed != seen.num_steps) & ~np.isin(allowed, [0, *seen.steps.tolist()])
        for variant in np.flatnonzero(odd).tolist()[:1]:
            rule, fix = f"allowed must be a step at which variants are measured for variant {variant}", "Policy.looks adds steps"
            raise ValueError(check.message(where, rule, int(allowed[variant]), fix))


def check_policy(where: str, policy: Any) -> None:
    """Checks that something is a policy."""
    if not isinstance(policy, Policy):
        raise TypeError(check.message(where, "must be a Policy", repr(policy), "such as funcnet.prune.successive_halving(100)"))
