"""Connects the sweep's loop, which works with rows, to a policy, which works with variants; translates in both directions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import check
from funcnet.lattice import Lattice
from funcnet.policy import Decisions, Policy, Seen
from funcnet.spaces import Variants, Where, is_accepted
from funcnet.sweeps.ledger import DIVERGED, Ledger
from funcnet.sweeps.planning import Plan


class Facts(NamedTuple):
    """What a policy needs to know besides the ledger."""

    evolves: bool  # whether rows may copy the states of others
    bounds: dict[str, tuple[float, float]]  # of each number
    logarithmic: frozenset[str]  # numbers drawn on a log scale
    seed: int
    lattices: dict[str, Lattice]  # for each number that is drawn in steps, its possible values
    where: Where | None  # the constraint that all variants satisfy


def facts_of(variants: Variants, ledger: Ledger, key: jax.Array, *, evolves: bool) -> Facts:
    """Collects the facts. A number's bounds are those of its distribution, if known, else its smallest and largest value in the variants.

    Raises:
      ValueError: a number that evolves decides whether a variant has another hyperparameter.
    """
    bounds, logarithmic, lattices = {}, set(), {}
    for name, values in ledger.numbers.items():
        if evolves and name in variants.decisive:
            rule = f"evolve= must not change {name}, which decides whether other hyperparameters are there"
            raise ValueError(check.message("sweep", rule, "a traced number", f"static(...) keeps {name} as it is"))
        distribution = variants.distributions.get(name)
        if distribution is not None and distribution.kind in ("uniform", "log_uniform", "normal", "integers", "log_integers"):
            bounds[name] = float(distribution.low), float(distribution.high)
            if distribution.kind in ("log_uniform", "log_integers"):
                logarithmic.add(name)
            if distribution.lattice is not None:
                lattices[name] = distribution.lattice
            elif distribution.kind in ("integers", "log_integers") and values.dtype.kind == "f":  # some variants lack it: NaN
                lattices[name] = Lattice(int(distribution.low), 1, int(distribution.high - distribution.low))
        elif not np.isnan(values).all():
            bounds[name] = float(np.nanmin(values)), float(np.nanmax(values)) + (values.dtype.kind == "i")  # the upper bound is exclusive
    seed = int.from_bytes(np.asarray(jax.random.key_data(key)).tobytes(), "little")
    return Facts(evolves, bounds, frozenset(logarithmic), seed, lattices, variants.where)


class Judge:
    """Asks a policy which variants continue, and records the answer in the ledger."""

    def __init__(self, policy: Policy, ledger: Ledger, plan: Plan, metric: str, mode: str, facts: Facts):
        self.policy, self.state = policy, None
        self._ledger, self._metric, self._sign, self._facts = ledger, metric, 1 if mode == "min" else -1, facts
        self._runs = runs = plan.runs
        self._group = _alike(plan)
        self._variants = plan.variants
        self._begun = False
        variants = len(ledger.at) // runs
        self._values = np.full((variants, len(ledger.steps)), np.nan)
        self._lost = np.zeros(variants, bool)  # variants with a run that has diverged

    @property
    def copies(self) -> bool:
        """Whether rows may copy the states of others."""
        return self._facts.evolves

    def resume(self, state: Any, variants: int) -> None:
        """Continues with the policy's state of a stored sweep, whose measurements are already in the ledger.

        Args:
          variants: how many the stored sweep had; if there are new ones after them, the policy is asked at once.
        """
        self.news(range(len(self._ledger.at)))
        grown = variants < len(self._lost)
        self.state, self._begun = _grown(state, self.policy.init(self._seen()), variants) if grown else state, True
        if grown:
            self.rule()

    @property
    def begun(self) -> bool:
        """Whether the policy has been asked."""
        return self._begun

    def news(self, rows: Sequence[int]) -> None:
        """Takes in new measurements, or divergence, of these rows."""
        ledger, runs = self._ledger, self._runs
        for variant in {row // runs for row in rows}:
            own = slice(variant * runs, (variant + 1) * runs)
            values = ledger.values[self._metric][own]
            with np.errstate(invalid="ignore"):
                mean = self._sign * values.mean(0)
            mean[~np.isfinite(mean)] = np.inf
            self._values[variant] = np.where(ledger.measured[own].all(0), mean, np.nan)
            lost = ledger.status[own] == DIVERGED
            if lost.any():
                self._lost[variant] = True
                self._values[variant, ledger.steps > ledger.at[own][lost].min()] = np.inf

    def rule(self) -> np.ndarray | None:
        """Asks the policy to decide, and records in the ledger how far each row may train and which rows stop.

        Returns:
          (rows,), int: the row whose state each row copies, or the row itself; None if the policy copies nothing.
        """
        ledger, runs = self._ledger, self._runs
        seen = self._seen()
        allowed, running, numbers = seen.allowed, seen.running, seen.numbers or {}
        if not self._begun:
            self.state, self._begun = self.policy.init(seen), True
        self.state, decisions = self.policy.decide(self.state, seen)
        self._check(decisions, seen)
        # A variant with a diverged run can't be ranked: its other runs stop too.
        stop = (decisions.stop & running) | (self._lost & ~ledger.ended.reshape(-1, runs).all(1))
        moved = running & (decisions.allowed > allowed)
        ledger.allowed[:] = np.repeat(np.where(moved, decisions.allowed, allowed), runs)
        ledger.stopped[:] |= np.repeat(stop, runs) & ~ledger.ended
        if decisions.copy is None and decisions.numbers is None:
            return None
        copy = np.arange(len(allowed)) if decisions.copy is None else np.where(decisions.copy < 0, np.arange(len(allowed)), decisions.copy)
        source = np.repeat(copy * runs, runs) + np.tile(np.arange(runs), len(allowed))
        given = {name: np.repeat(values, runs) for name, values in (decisions.numbers or numbers).items()}
        ledger.take_over(int(allowed[moved].min()) if moved.any() else 0, source, given)
        return source

    def _seen(self) -> Seen:
        ledger, runs, facts = self._ledger, self._runs, self._facts
        running = ~ledger.ended.reshape(-1, runs).any(1) & ~self._lost
        numbers = {name: values[::runs] for name, values in ledger.numbers.items()}
        accepts = None if facts.where is None else self._accepts
        known = numbers, self._group, facts.bounds, facts.logarithmic, facts.seed, facts.lattices, accepts
        lengths, allowed = ledger.num_steps[::runs], ledger.allowed[::runs].copy()
        return Seen(ledger.steps, self._values, lengths, allowed, running, self._sign, *known)

    def _accepts(self, variant: int, numbers: dict[str, float]) -> bool:
        """Whether the variants' constraint accepts this variant with these numbers."""
        own = self._variants[variant]
        changed = {name: type(value)(numbers[name]) for name, value in own.numbers.items()}
        return is_accepted("sweep", self._facts.where, own.hyperparameters | changed)

    def _check_copy(self, decisions: Decisions, seen: Seen, where: str) -> None:
        if (decisions.copy is not None or decisions.numbers is not None) and not self.copies:
            raise ValueError(check.message(where, "prune= must copy nothing and change no number", "a copy", "evolve= takes such a policy"))
        if decisions.copy is not None:
            copy = np.asarray(decisions.copy)
            check.shape_is(where, "copy", copy.shape, seen.allowed.shape)
            mine = np.flatnonzero(copy >= 0)
            odd = mine[
                ~seen.running[copy[mine]]
                | (self._group[copy[mine]] != self._group[mine])
                | (seen.allowed[copy[mine]] != seen.allowed[mine])
            ]
            if odd.size:
                rule = "a variant takes over from one of its own program that runs and stands at its step"
                raise ValueError(check.message(where, rule, f"variant {copy[odd[0]]} for variant {odd[0]}"))
        for name, values in (decisions.numbers or {}).items():
            check.one_of(where, "number", name, self._ledger.numbers)
            check.shape_is(where, f"numbers[{name!r}]", np.shape(values), seen.allowed.shape)

    def _check(self, decisions: Decisions, seen: Seen) -> None:
        """Raises if a policy's decisions are invalid: users can write policies."""
        where, allowed = f"policy {self.policy.name!r}", np.asarray(decisions.allowed)
        self._check_copy(decisions, seen, where)
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


def _alike(plan: Plan) -> np.ndarray:
    """(variants,), int: variants with the same number have the same program and the same traced names.

    So a population is the same whether a name is traced or has a program of its own, and Adam never takes momentum's velocity for its
    mean of gradients.
    """
    numbers: dict[tuple[Any, ...], int] = {}
    kinds = zip(plan.group_of[:: plan.runs], (tuple(sorted(variant.names.items())) for variant in plan.variants), strict=True)
    return np.array([numbers.setdefault(kind, len(numbers)) for kind in kinds])


def _grown(before: Any, fresh: Any, variants: int) -> Any:
    """A policy's state for more variants: its entries for the stored variants, then the initial ones for the new variants."""
    if isinstance(fresh, np.ndarray):
        return np.concatenate([np.asarray(before, fresh.dtype), fresh[variants:]])
    if isinstance(fresh, dict):
        return {name: _grown(before[name], value, variants) for name, value in fresh.items()}
    if isinstance(fresh, tuple | list):
        return type(fresh)(_grown(one, other, variants) for one, other in zip(before, fresh, strict=True))
    return before


def check_policy(where: str, policy: Any) -> None:
    """Raises unless policy is a `Policy`."""
    if not isinstance(policy, Policy):
        raise TypeError(check.message(where, "must be a Policy", repr(policy), "such as funcnet.prune.successive_halving(100)"))
