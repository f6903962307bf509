"""Population-based training: variants that do poorly copy the states of those that do well, and go on with changed numbers.

`population` is a `Policy`, in NumPy alone. It is built from two functions, and you can pass your own for each:

exploit  (values, rng) -> copy: which variant copies which
explore  (name, value, low, high, logarithmic, rng) -> value: the new value of a number that was copied
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from funcnet import check
from funcnet.policy import Decisions, Policy, Seen, check_metric

_TRIES = 100  # calls of explore to find numbers that the sweep's constraint accepts
Exploit: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Explore: TypeAlias = Callable[[str, float, float, float, bool, np.random.Generator], float]


def population(
    exploit: Exploit | None = None, explore: Explore | None = None, *, metric: str | None = None, mode: str | None = None
) -> Policy:
    """Population-based training: poor variants copy the states of good ones, and train on with changed numbers.

    at each evaluation, once all variants that still train have been measured there, for each group of variants:
      copy   <- exploit(values, rng)
      state  <- state of copy                      where copy is not -1
      number <- explore(number of copy, ..., rng)  where copy is not -1, for each numeric hyperparameter

    So it finds a schedule of the numbers, not one best value of each. No variant is stopped. All copies are made at once, from the
    states and numbers at this evaluation. rng is numpy.random.default_rng([seed, generation]), where generation counts the
    evaluations at which this was done: the same seed gives the same decisions, in whatever order results arrive.

    A group is the variants that share a program and have the same traced names, such as an optimizer's, since only their states mean the
    same: a static hyperparameter, such as a width, and a name never change. A variant alone in its group only trains. One that has
    diverged or finished doesn't copy and isn't copied.

    The value from explore is kept within the number's bounds [low, high): outside, it becomes low, or the last float32 below
    high. If the two are equal, or no float32 lies between them, the number is low. Whole numbers are rounded; explore sees their
    bounds half a number lower, so that a uniform draw gives each of them with the same probability. A number with a step is rounded
    to the nearest step, and explore sees its bounds half a step lower.

    If the variants have a constraint (`where=`), explore is called until the constraint accepts the new numbers, at most 100 times.
    After that the variant takes the numbers of the one that it copies; if the constraint refuses these too, it keeps its own.

    Args:
      exploit: (values, rng) -> copy. values: (n,) float64, the metric of one group's variants, smaller is better, inf where it has
        no value. copy: (n,) int, for each variant the index of the one that it copies, -1 for none. None for `truncation(0.2)`.
      explore: (name, value, low, high, logarithmic, rng) -> value, a finite number; logarithmic says whether the number was drawn
        on a log scale, and low and high may be infinite. None for `perturb()`.
      metric: the metric to compare variants by, such as "validation/loss"; None for the one that the sweep ranks by.
      mode: whether a small ("min") or a large ("max") metric is good; None for the metric's known mode.

    Returns:
      A `Policy`. Its `init` refuses a sweep that is only measured at its end. Its `decide` refuses invalid results of a custom
      exploit or explore.

    Raises:
      ValueError: mode is unknown.
      TypeError: exploit or explore is not a function, or metric is not a name.

    Example:
      >>> policy = population(truncation(0.5), perturb(factors=(0.8, 1.2), resample=0.0))
      >>> seen = Seen(
      ...     steps=np.array([10, 20]),
      ...     values=np.array([[1.0, np.nan], [3.0, np.nan]]),
      ...     num_steps=np.array([20, 20]),
      ...     allowed=np.array([10, 10]),
      ...     running=np.array([True, True]),
      ...     numbers={"learning_rate": np.array([0.1, 0.5])},
      ... )
      >>> state, decisions = policy.decide(policy.init(seen), seen)
      >>> print(decisions.copy, decisions.numbers["learning_rate"], decisions.allowed)
      [-1  0] [0.1  0.12] [20 20]

    Source: Jaderberg et al. (2017), Algorithm 1, arXiv 1711.09846, with all variants at the same step.
    """
    exploit = truncation() if exploit is None else _function("exploit", exploit, truncation, binary_tournament)
    explore = perturb() if explore is None else _function("explore", explore, perturb)
    check_metric("population", metric, mode)

    def init(seen: Seen) -> dict[str, int]:
        if seen.steps.min() >= seen.num_steps.max():
            rule, got = f"variants must be measured before num_steps = {seen.num_steps.max()}", f"evaluations at {seen.steps.tolist()}"
            raise ValueError(check.message("population", rule, got, "let eval_every be shorter"))
        return {"generation": 0}

    def decide(state: dict[str, int], seen: Seen) -> tuple[dict[str, int], Decisions]:
        unfinished = seen.running & (seen.allowed < seen.num_steps)
        nothing = Decisions(np.array(seen.allowed), np.zeros_like(unfinished))
        if not unfinished.any():
            return state, nothing
        step = seen.allowed[unfinished].min()
        standing = unfinished & (seen.allowed == step)
        after = min((later for later in seen.steps if later > step), default=seen.num_steps.max())
        onwards = nothing._replace(allowed=np.where(standing, np.minimum(after, seen.num_steps), seen.allowed))
        if step == 0:
            return state, onwards
        values = seen.values[:, np.searchsorted(seen.steps, step)]
        if np.isnan(values[standing]).any():
            return state, nothing
        generation = state["generation"]
        rng = np.random.default_rng([seen.seed, generation])
        copy = np.full(len(values), -1)
        group = np.zeros(len(values), np.int64) if seen.group is None else seen.group
        numbers = {name: np.array(number) for name, number in sorted((seen.numbers or {}).items())}
        for which in np.unique(group[standing]):
            members = np.flatnonzero(standing & (group == which))
            if len(members) > 1:
                own = _checked_copy(exploit(values[members], rng), len(members))
                copy[members] = np.where(own < 0, -1, members[own])
                for variant in members[own >= 0]:
                    for name, value in _accepted(explore, variant, copy[variant], seen, rng).items():
                        numbers[name][variant] = value
        state = {"generation": generation + 1}
        return state, onwards._replace(copy=copy, numbers=numbers or None) if (copy >= 0).any() else onwards

    return Policy("population", init, decide, None, metric, mode, f"exploit={_described(exploit)}, explore={_described(explore)}")


def truncation(share: float = 0.2) -> Exploit:
    """The worst variants copy the best ones.

    count = max(1, floor(share * n))
      each of the count worst variants copies one of the count best, drawn uniformly

    Of equal values, the earlier variant's counts as better.

    Args:
      share: how much of a group is replaced, and how much is copied from, in (0, 0.5].

    Returns:
      (values, rng) -> copy, as `population` takes it.

    Raises:
      ValueError: share is out of range.
      TypeError: share is no number.

    Example:
      >>> exploit = truncation(0.25)
      >>> print(exploit(np.array([3.0, 1.0, 4.0, 2.0]), np.random.default_rng(0)))
      [-1 -1  1 -1]

    Source: Jaderberg et al. (2017), section 4.1.1, where share is 0.2.
    """
    check.in_range("truncation", "share", share, 0, 0.5, ends="(]", fix="a share of all variants, not a percentage")
    share = check.as_number("truncation", "share", share)

    def exploit(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        copy = np.full(len(values), -1)
        if len(values) > 1:
            count = max(1, math.floor(share * len(values) * (1 + 1e-12)))  # 0.29 of 100 is a bit less than 29 in floats
            order = np.argsort(values, kind="stable")
            copy[order[-count:]] = rng.choice(order[:count], count)
        return copy

    return exploit


def binary_tournament() -> Exploit:
    """Each variant is compared with another one, drawn at random, and copies it if that one is better.

    other: one of the n - 1 others, drawn uniformly
    copied where its value < own value

    Returns:
      (values, rng) -> copy, as `population` takes it.

    Example:
      >>> exploit = binary_tournament()
      >>> print(exploit(np.array([2.0, 1.0]), np.random.default_rng(0)))
      [ 1 -1]

    Source: Jaderberg et al. (2017), section 4.3.1.
    """

    def exploit(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        count = len(values)
        if count < 2:
            return np.full(count, -1)
        other = (np.arange(count) + rng.integers(1, count, count)) % count
        return np.where(values[other] < values, other, -1)

    return exploit


def perturb(factors: Sequence[float] = (0.8, 1.2), resample: float = 0.25) -> Explore:
    """Multiplies a number by a random factor, or sometimes draws a new value.

    with probability resample, where both bounds are finite:
      value <- uniform(low, high), or where the number is drawn on a log scale exp(uniform(log(low), log(high)))
    otherwise:
      value <- value * factor, one of the factors, drawn uniformly

    Each number is drawn separately. A value outside [low, high) becomes low, or the last float32 below high: training may
    round to float32, where 1 - 1e-16 would be 1. A 0 stays 0 until a new value is drawn, and a small whole number may be rounded back
    to its old value.

    Args:
      factors: at least one, each in (0, inf).
      resample: probability of drawing a new value, in [0, 1].

    Returns:
      (name, value, low, high, logarithmic, rng) -> value, as `population` takes it.

    Raises:
      ValueError: an argument is out of range, or there are no factors. The returned function raises it too, for a number on a log
        scale whose low is not positive.
      TypeError: factors is not a list of numbers, or resample is not a number.

    Example:
      >>> explore = perturb(factors=(2.0,), resample=0.0)
      >>> explore("learning_rate", 0.1, 0.0, 1.0, False, np.random.default_rng(0))
      0.2
      >>> explore("learning_rate", 0.9, 0.0, 1.0, False, np.random.default_rng(0)) < 1
      True

    Source: Jaderberg et al. (2017), section 4.1.1, for both ways; Ray Tune mixes them like this.
    """
    if np.ndim(factors) != 1:
        raise TypeError(check.message("perturb", "factors must be a list of numbers", repr(factors), "such as (0.8, 1.2)"))
    if not len(factors):
        raise ValueError(check.message("perturb", "factors must have at least one", "none", "factors=(1.0,) changes nothing"))
    for place, factor in enumerate(factors):
        check.in_range("perturb", f"factors[{place}]", factor, 0, ends="()")
    check.in_range("perturb", "resample", resample, 0, 1, ends="[]")
    factors = [float(factor) for factor in factors]
    resample = check.as_number("perturb", "resample", resample)

    def explore(name: str, value: float, low: float, high: float, logarithmic: bool, rng: np.random.Generator) -> float:
        if rng.random() >= resample or not math.isfinite(high - low):
            value = value * factors[rng.integers(len(factors))]
        elif logarithmic:
            check.in_range("perturb", f"low of {name!r}, which is drawn on a log scale,", low, 0, ends="()")
            value = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            value = rng.uniform(low, high)
        return _within(value, low, high)

    return explore


def _accepted(explore: Explore, variant: int, source: int, seen: Seen, rng: np.random.Generator) -> dict[str, float]:
    """The new numbers of a variant that copies source: explored ones that the sweep's constraint accepts, else source's, else its own."""
    names = sorted(seen.numbers or {})
    for _ in range(1 if seen.accepts is None else _TRIES):
        found = {name: _explored(explore, name, source, seen, rng) for name in names}
        if seen.accepts is None or seen.accepts(variant, found):
            return found
    assert seen.numbers is not None and seen.accepts is not None
    same, own = ({name: float(seen.numbers[name][place]) for name in names} for place in (source, variant))
    return same if seen.accepts(variant, same) else own


def _explored(explore: Explore, name: str, source: int, seen: Seen, rng: np.random.Generator) -> float:
    """The new value of a number copied from source, within its bounds; NaN if source doesn't have the number."""
    assert seen.numbers is not None
    number = seen.numbers[name]
    if np.isnan(number[source]):
        return math.nan
    whole = np.issubdtype(number.dtype, np.integer)
    low, high = (seen.bounds or {}).get(name, (-math.inf, math.inf))
    steps = (seen.lattices or {}).get(name)
    if steps is not None:
        high = steps.low + steps.step * steps.size
    shift = steps.step / 2 if steps is not None else 0.5 if whole else 0.0
    # A uniform draw from [low - 1/2, high - 1/2), rounded, gives low to high - 1 with equal probability; the same holds for steps.
    value = explore(name, float(number[source]), low - shift, high - shift, name in (seen.logarithmic or ()), rng)
    check.in_range("population", f"what explore gives for {name!r}", value, -math.inf, math.inf, ends="()")
    value = check.as_number("population", f"what explore gives for {name!r}", value)
    if steps is not None:
        return steps.nearest(value)
    return max(min(float(np.round(value)), float(np.ceil(high)) - 1), float(np.ceil(low))) if whole else _within(value, low, high)


def _within(value: float, low: float, high: float) -> float:
    """The nearest number in [low, high) that stays below high as a float32; low where there is none."""
    with np.errstate(over="ignore"):  # a high beyond float32
        below = float(np.nextafter(np.float32(high), np.float32(-math.inf)))
    return max(min(value, below), low)


def _checked_copy(given: Any, count: int) -> np.ndarray:
    """Checks what exploit returned."""
    copy: np.ndarray = np.asarray(given)
    check.shape_is("population", "what exploit gives", copy.shape, (count,), fix="one entry a variant of the group")
    if not np.issubdtype(copy.dtype, np.integer):
        fix = "places of variants, -1 where one keeps its own"
        raise TypeError(check.message("population", "exploit must give whole numbers", copy.dtype, fix))
    wrong = np.flatnonzero((copy < -1) | (copy >= count) | (copy == np.arange(count)))
    if len(wrong):
        rule = f"exploit must give -1 or the place of another of {count} variants for variant {wrong[0]} of the group"
        raise ValueError(check.message("population", rule, copy[wrong[0]], "-1 where one keeps its own"))
    return copy


def _function(name: str, value: Any, *makers: Callable[..., Any]) -> Any:
    """Checks that value is a function, and not a factory such as `truncation` that the user forgot to call."""
    if any(value is maker for maker in makers):
        raise TypeError(check.message("population", f"{name} must be a rule", value.__name__, f"{value.__name__}() makes one"))
    if not callable(value):
        raise TypeError(check.message("population", f"{name} must be a function", repr(value), f"such as {makers[0].__name__}()"))
    return value


def _described(function: Any) -> str:
    """Describes a function by its name and the plain numbers that it closes over."""
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    plain = [cell for cell in cells if isinstance(cell, int | float | list | tuple)]
    return f"{getattr(function, '__qualname__', type(function).__qualname__)}{tuple(plain)}".replace(".<locals>", "")
