"""A policy decides, while a sweep trains, which variants go on: a pair of pure functions, `init` and `decide`.

A sweep trains each variant up to its allowed step, measures it there, and waits. After each new measurement it calls the policy,
which takes and returns arrays; they hold nothing about devices, threads or the time of day.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from funcnet import check
from funcnet.lattice import Lattice


class Seen(NamedTuple):
    """What has been measured so far; an entry for each variant, in the order given."""

    steps: np.ndarray  # (evaluations,), int: the steps after which variants are measured, ascending
    values: np.ndarray  # (variants, evaluations), float64: smaller is better; NaN where not measured, or not yet; see `Policy`
    num_steps: np.ndarray  # (variants,), int: the step at which each ends
    allowed: np.ndarray  # (variants,), int: the step up to which each may train
    running: np.ndarray  # (variants,), bool: those that have neither ended, nor diverged, nor been stopped
    sign: int = 1  # 1 if a small metric is good, -1 if a large one is: values * sign are the metric itself
    numbers: dict[str, np.ndarray] | None = None  # (variants,) each: the numeric hyperparameters as they are now; NaN where one has none
    group: np.ndarray | None = None  # (variants,), int: variants of one group may copy each other's state; None if all are one group
    bounds: dict[str, tuple[float, float]] | None = None  # low and high of each number; high is excluded unless it is low; may be infinite
    logarithmic: frozenset[str] | None = None  # numbers drawn on a log scale, whose low is positive; None if there are none
    seed: int = 0  # >= 0; for the policy's random draws
    lattices: dict[str, Lattice] | None = None  # for each number that is drawn in steps, all values that it may have
    accepts: Callable[[int, dict[str, float]], bool] | None = None  # (variant, its numbers) -> whether the sweep's constraint allows them


class Decisions(NamedTuple):
    """What the sweep is to do; an entry for each variant."""

    allowed: np.ndarray  # (variants,), int: the step up to which each may train from now on, never less than before
    stop: np.ndarray  # (variants,), bool: whether each ends at its current step
    copy: np.ndarray | None = (
        None  # (variants,), int: the index of the variant whose state it copies, all at once; -1 for none; None if none copies
    )
    numbers: dict[str, np.ndarray] | None = None  # (variants,) each: the numeric hyperparameters from now on; None for no change


class Policy(NamedTuple):
    """A rule that decides how far each variant trains and which ones end.

    A variant is measured at each of `Seen.steps` up to its allowed step, including those that only other variants need. A value is
    the mean over the variant's replicates. A variant that has diverged has the value inf at every later evaluation. A metric that
    was measured as NaN has the value inf too, because NaN means that nothing has been measured yet, and a policy may wait for it.

    A stored sweep with a policy may get more variants or more steps only if the policy judges each variant by its own values alone,
    and says so (`alone`): then it decides as if they had been there from the start.
    """

    name: str  # such as "median"; the table's column "pruned_by" shows it for the runs that the policy stopped
    init: Callable[[Seen], Any]  # before anything trains -> the policy's state, a pytree of arrays and plain numbers
    decide: Callable[[Any, Seen], tuple[Any, Decisions]]  # (state, seen) -> (state, decisions); called after init and each new measurement
    looks: Callable[[int], list[int]] | None = None  # num_steps -> further steps at which variants are measured; None for none
    metric: str | None = None  # the metric to decide by; None for the one that the sweep ranks by
    mode: str | None = None  # "min" or "max"
    settings: str = ""  # its arguments as text: a stored sweep only goes on with the rule that it began with
    in_order: bool = False  # whether it decides by the order in which results arrive, which the sweep then keeps the same
    alone: bool = False  # whether it judges each variant by its own values alone, and its state's arrays have an entry for each variant:
    # a stored sweep may then grow


def check_metric(where: str, metric: Any, mode: Any) -> None:
    """Checks the metric and the mode that a rule decides by."""
    if metric is not None and not isinstance(metric, str):
        raise TypeError(check.message(where, "metric must be a name", repr(metric), 'such as "validation/loss"'))
    if mode is not None:
        check.one_of(where, "mode", mode, ("min", "max"))
