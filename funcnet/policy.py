"""What decides, while a sweep trains, which variants go on: a pure pair `init`, `decide`.

A sweep trains each variant up to the step that it is allowed, measures it there, and waits. Whenever something new has been
measured it asks the policy, which sees arrays and gives arrays; nothing of a device, a thread or the time of day is among them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from funcnet import check
from funcnet.lattice import Lattice


class Seen(NamedTuple):
    """What has been measured so far; an entry for each variant, in the order given."""

    steps: np.ndarray  # (evaluations,), int: after how many steps variants are measured, upwards
    values: np.ndarray  # (variants, evaluations), float64: the smaller the better; NaN where not measured, or not yet; see `Policy`
    num_steps: np.ndarray  # (variants,), int: the step at which each ends
    allowed: np.ndarray  # (variants,), int: the step up to which each may train
    running: np.ndarray  # (variants,), bool: those that have neither ended, nor diverged, nor been stopped
    sign: int = 1  # 1 where the metric is the better the smaller, -1 the larger: values * sign are in the metric's own sign
    numbers: dict[str, np.ndarray] | None = None  # (variants,) each: the numeric hyperparameters as they are now; NaN where one has none
    group: np.ndarray | None = None  # (variants,), int: those with the same one may take over each other's state; None for all the same
    bounds: dict[str, tuple[float, float]] | None = None  # of each number: low, and high, itself left out unless it is low; may be infinite
    logarithmic: frozenset[str] | None = None  # numbers drawn on a log scale, whose low is positive; None for no such
    seed: int = 0  # >= 0; of whatever a policy draws
    lattices: dict[str, Lattice] | None = None  # of each number that is drawn in steps, all that it may be
    accepts: Callable[[int, dict[str, float]], bool] | None = None  # (variant, its numbers) -> whether the sweep's constraint allows them


class Decisions(NamedTuple):
    """What is to happen; an entry for each variant."""

    allowed: np.ndarray  # (variants,), int: from now on, never less than it was
    stop: np.ndarray  # (variants,), bool: which end where they are
    copy: np.ndarray | None = (
        None  # (variants,), int: whose state and numbers each takes over, all at once; -1 for its own; None for nobody
    )
    numbers: dict[str, np.ndarray] | None = None  # (variants,) each: the numeric hyperparameters from now on; None for as they are


class Policy(NamedTuple):
    """A rule that decides.

    A variant is measured at every evaluation up to the step that it is allowed: at each of `Seen.steps` up to there, also at
    those that stand among them for the sake of others. A value is the mean over the variant's replicates. One that has diverged
    has the value inf at every later evaluation. A metric that was measured as NaN has the value inf too: NaN says that nothing
    has been measured, and a policy may wait for it.

    A sweep that is stored under a policy may get more variants or more steps only where each is judged by its own values alone, and
    the policy says so (`alone`): then it decides as if what is new had been there from the start.
    """

    name: str  # as the table says by what a run was stopped, such as "median"
    init: Callable[[Seen], Any]  # before anything trains -> the policy's state, a pytree of arrays and plain numbers
    decide: Callable[[Any, Seen], tuple[Any, Decisions]]  # (state, seen) -> (state, decisions); called after init, and when there is news
    looks: Callable[[int], list[int]] | None = None  # num_steps -> steps at which it looks; None for every evaluation
    metric: str | None = None  # what it decides by; None for what the sweep ranks by
    mode: str | None = None  # "min" or "max"
    settings: str = ""  # its arguments, as text: a stored sweep is gone on with by the rule that it was begun with
    in_order: bool = False  # whether it decides by the order in which results arrive, which the sweep then keeps to
    alone: bool = False  # whether it judges each variant by its own values alone, and its state's arrays have an entry for each variant:
    # a stored sweep may then grow


def check_metric(where: str, metric: Any, mode: Any) -> None:
    """Checks what a rule is told to decide by."""
    if metric is not None and not isinstance(metric, str):
        raise TypeError(check.message(where, "metric must be a name", repr(metric), 'such as "validation/loss"'))
    if mode is not None:
        check.one_of(where, "mode", mode, ("min", "max"))
