"""Rules that stop poor variants early; each is a `Policy`, in NumPy alone.

All see a metric of which smaller values are better: if a large metric is good, the sweep changes its sign. There are three kinds:

- `patience` and `threshold` judge a variant by its own curve.
- `median` and `percentile` compare it with the others at the same step, at every evaluation.
- `successive_halving`, `hyperband` and `asha` only look at a few steps, their rungs, and let the best 1 / eta of a rung go on.

`asha` decides as results arrive. All others wait until everything that a decision depends on has been measured, so that the order
in which results arrive doesn't matter.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from funcnet import check
from funcnet.policy import Decisions, Policy, Seen, check_metric

_NEVER = np.iinfo(np.int64).max  # a step that no variant reaches


def patience(evaluations: int, min_delta: float = 0.0, *, metric: str | None = None, mode: str | None = None) -> Policy:
    """Stops a variant that has not improved for several evaluations.

    value < best - min_delta:  best <- value, stale <- 0
    else:                      stale <- stale + 1, and the variant is stopped once stale = evaluations

    The first value is the first best. Only a value that counts as better replaces the best, so that many small improvements count
    once they add up to more than min_delta.

    Args:
      evaluations: how many evaluations in a row without a better value stop a variant, at least 1.
      min_delta: by how much a value must be better to count, in units of the metric, >= 0.
      metric: the metric to decide by, such as "validation/loss"; None for the one that the sweep ranks by.
      mode: whether a small ("min") or a large ("max") metric is good; None for the metric's known mode.

    Returns:
      A `Policy`.

    Raises:
      ValueError: an argument is out of range.
      TypeError: an argument is not a number, or metric is not a name.

    Example:
      >>> policy = patience(evaluations=1)
      >>> seen = Seen(
      ...     steps=np.array([10, 20, 30]),
      ...     values=np.array([[3.0, np.nan, np.nan], [3.0, np.nan, np.nan]]),
      ...     num_steps=np.array([30, 30]),
      ...     allowed=np.array([10, 10]),
      ...     running=np.array([True, True]),
      ... )
      >>> state, decisions = policy.decide(policy.init(seen), seen)
      >>> print(decisions.allowed)
      [20 20]
      >>> seen = seen._replace(values=np.array([[3.0, 2.0, np.nan], [3.0, 4.0, np.nan]]), allowed=decisions.allowed)
      >>> print(policy.decide(state, seen)[1].stop)
      [False  True]

    Source: Prechelt (1998) for early stopping; the rule is Keras's EarlyStopping(patience=evaluations, min_delta=min_delta). Optuna's
    PatientPruner(None, evaluations - 1) differs in two things: it lets a variant go on whose value equals the best, and its min_delta
    is by how much a value may be worse.
    """
    evaluations = check.whole("patience", "evaluations", evaluations, 1)
    check.in_range("patience", "min_delta", min_delta, 0)
    min_delta = check.as_number("patience", "min_delta", min_delta)
    check_metric("patience", metric, mode)

    def init(seen: Seen) -> dict[str, np.ndarray]:
        variants = len(seen.allowed)
        return {"best": np.full(variants, np.inf), "stale": np.zeros(variants, np.int64)}

    def decide(state: dict[str, np.ndarray], seen: Seen) -> tuple[dict[str, np.ndarray], Decisions]:
        value, unfinished = _value(seen), _unfinished(seen)
        new = unfinished & ~np.isnan(value)
        better = new & (value < state["best"] - min_delta)
        best = np.where(better, value, state["best"])
        stale = np.where(better, 0, state["stale"] + new)
        stop = new & (stale >= evaluations)
        return {"best": best, "stale": stale}, _decisions(seen, new & ~stop | unfinished & (seen.allowed == 0), stop, seen.steps)

    return Policy("patience", init, decide, None, metric, mode, f"{evaluations=}, {min_delta=}", alone=True)


def threshold(below: float | None = None, above: float | None = None, *, metric: str | None = None, mode: str | None = None) -> Policy:
    """Stops a variant whose metric leaves a range.

    A variant is stopped at an evaluation where metric < below or metric > above. The sign of the metric isn't changed for this. A
    metric that is NaN counts as the worst value: inf if small is good, -inf if large is good.

    Args:
      below: the lowest value with which a variant goes on; None for no limit.
      above: the highest value with which a variant goes on; None for no limit.
      metric: the metric to decide by, such as "validation/loss"; None for the one that the sweep ranks by.
      mode: whether a small ("min") or a large ("max") metric is good; None for the metric's known mode.

    Returns:
      A `Policy`.

    Raises:
      ValueError: neither limit is given, one is not finite, or below is not the smaller one.
      TypeError: a limit is not a number, or metric is not a name.

    Example:
      >>> policy = threshold(above=5.0)
      >>> seen = Seen(
      ...     steps=np.array([10, 20]),
      ...     values=np.array([[9.0, np.nan], [1.0, np.nan]]),
      ...     num_steps=np.array([20, 20]),
      ...     allowed=np.array([10, 10]),
      ...     running=np.array([True, True]),
      ... )
      >>> print(policy.decide(policy.init(seen), seen)[1].stop)
      [ True False]
    """
    if below is None and above is None:
        raise ValueError(check.message("threshold", "needs below or above", "neither", "such as threshold(above=10.0)"))
    low, high = (
        default if limit is None else _finite("threshold", name, limit)
        for name, limit, default in (("below", below, -math.inf), ("above", above, math.inf))
    )
    if not low < high:
        fix = "a variant goes on between the two"
        raise ValueError(check.message("threshold", f"below must be smaller than above = {above}", below, fix))
    check_metric("threshold", metric, mode)

    def decide(state: tuple[()], seen: Seen) -> tuple[tuple[()], Decisions]:
        value, unfinished = _value(seen), _unfinished(seen)
        new = unfinished & ~np.isnan(value)
        own = value * seen.sign
        stop = new & ((own < low) | (own > high))
        return (), _decisions(seen, new & ~stop | unfinished & (seen.allowed == 0), stop, seen.steps)

    return Policy("threshold", _nothing, decide, None, metric, mode, f"{below=}, {above=}", alone=True)


def median(*, metric: str | None = None, mode: str | None = None) -> Policy:
    """Stops a variant that is worse than half of the others.

    It is `percentile` with a share of 0.5: see there for the rule, and for why the first evaluation should not come too early.

    Args:
      metric: the metric to decide by, such as "validation/loss"; None for the one that the sweep ranks by.
      mode: whether a small ("min") or a large ("max") metric is good; None for the metric's known mode.

    Returns:
      A `Policy`.

    Raises:
      ValueError: mode is unknown.
      TypeError: metric is not a name.

    Example:
      >>> policy = median()
      >>> seen = Seen(
      ...     steps=np.array([10, 20]),
      ...     values=np.array([[1.0, np.nan], [2.0, np.nan], [3.0, np.nan], [4.0, np.nan]]),
      ...     num_steps=np.array([20, 20, 20, 20]),
      ...     allowed=np.array([10, 10, 10, 10]),
      ...     running=np.array([True, True, True, True]),
      ... )
      >>> print(policy.decide(policy.init(seen), seen)[1].stop)  # the medians of the others are 3, 3, 2, 2
      [False False  True  True]

    Source: Golovin et al. (2017), section 3.2.2, with the values at a step in place of running averages, as in Optuna.
    """
    return _percentile("median", 0.5, metric, mode)


def percentile(share: float, *, metric: str | None = None, mode: str | None = None) -> Policy:
    """Stops a variant that is not in the best share of all variants.

    bar = quantile of the other variants' values at this step, with that share of them below it (linear between two values)
    best = the smallest of the variant's own values so far
    stopped where best > bar

    It decides at every evaluation, once all running variants have been measured there. There must be at least two others.

    A variant that no longer runs counts with its last value, one that diverged with inf. Without them the bar would become stricter
    each time poor variants are stopped, and the rule would stop the same share at every evaluation, as successive halving does. With
    them, a variant is compared with all that began. So about 1 - share of the variants are stopped in total, most of them at the first
    evaluation: choose eval_every long enough for that evaluation to tell good variants from poor ones.

    Among the variants that run or have ended, the one with the best value so far is never stopped.

    Args:
      share: share of the variants that go on, in (0, 1); a smaller one is stricter.
      metric: the metric to decide by, such as "validation/loss"; None for the one that the sweep ranks by.
      mode: whether a small ("min") or a large ("max") metric is good; None for the metric's known mode.

    Returns:
      A `Policy`.

    Raises:
      ValueError: share is out of range, or mode unknown.
      TypeError: share is not a number, or metric is not a name.

    Example:
      >>> policy = percentile(0.25)
      >>> seen = Seen(
      ...     steps=np.array([10, 20]),
      ...     values=np.array([[1.0, np.nan], [2.0, np.nan], [3.0, np.nan], [4.0, np.nan]]),
      ...     num_steps=np.array([20, 20, 20, 20]),
      ...     allowed=np.array([10, 10, 10, 10]),
      ...     running=np.array([True, True, True, True]),
      ... )
      >>> print(policy.decide(policy.init(seen), seen)[1].stop)  # the bars are 2.5, 2, 1.5, 1.5
      [False False  True  True]

    Source: Golovin et al. (2017), section 3.2.2, with another quantile than the median; Optuna's PercentilePruner.
    """
    check.in_range("percentile", "share", share, 0, 1, ends="()", fix=_as_share(share))
    return _percentile("percentile", check.as_number("percentile", "share", share), metric, mode)


def successive_halving(first: int, eta: float = 3, *, metric: str | None = None, mode: str | None = None) -> Policy:
    """Trains all variants a little, the best of them eta times as long, the best of these eta times as long again, and so on.

    rungs: first * eta^k for k = 0, 1, ..., rounded to whole steps, as far as they are below num_steps
    of the n variants at a rung, the best max(1, floor(n / eta)) go on to the next, or to their end after the last

    A rung is decided once all running variants in it have been measured. A variant that diverged on its way to a rung counts among
    the n, as the worst. Of equal values, the earlier variant's counts as better. A variant whose num_steps is not above a rung doesn't
    count in it.

    Args:
      first: steps up to the first rung, at least 1.
      eta: one of eta variants goes on and trains eta times as long, >= 2; need not be whole.
      metric: the metric to decide by, such as "validation/loss"; None for the one that the sweep ranks by.
      mode: whether a small ("min") or a large ("max") metric is good; None for the metric's known mode.

    Returns:
      A `Policy`, whose `looks(num_steps)` gives the rungs. Its `init` refuses a first that is not below any variant's num_steps.

    Raises:
      ValueError: an argument is out of range.
      TypeError: first is not a whole number, eta is not a number, or metric is not a name.

    Example:
      >>> policy = successive_halving(first=10, eta=3)
      >>> policy.looks(300)
      [10, 30, 90, 270]
      >>> seen = Seen(
      ...     steps=np.array([10, 20]),
      ...     values=np.array([[4.0, np.nan], [1.0, np.nan], [3.0, np.nan], [2.0, np.nan]]),
      ...     num_steps=np.array([20, 20, 20, 20]),
      ...     allowed=np.array([10, 10, 10, 10]),
      ...     running=np.array([True, True, True, True]),
      ... )
      >>> print(policy.decide(policy.init(seen), seen)[1].stop)
      [ True False  True  True]

    Source: Jamieson and Talwalkar (2016), with rungs as in Li et al. (2020), Algorithm 1.
    """
    first, eta = _check_rungs("successive_halving", first, eta)

    def deal(seen: Seen) -> np.ndarray:
        return np.zeros(len(seen.allowed), np.int64)

    return _halving("successive_halving", first, eta, deal, metric, mode)


def hyperband(first: int, eta: float = 3, *, metric: str | None = None, mode: str | None = None) -> Policy:
    """Runs several successive halvings side by side, from one with very early rungs to one with hardly any.

    Use it when `first` is hard to choose.

    s_max = floor(log_eta(R / first)), R the largest num_steps
    bracket s = s_max, ..., 0: successive halving with rungs first * eta^(s_max - s), first * eta^(s_max - s + 1), ... below R
    its share of the variants: in proportion to n_s = ceil((s_max + 1) / (s + 1) * eta^s)

    If R is first times a power of eta, the brackets are the paper's, and bracket 0 stops no variant. Otherwise each has one more
    rung, first * eta^s_max, between the paper's last one and R.

    Variants are assigned to the brackets in the order given: the next one goes to the bracket with the largest
    n_s / (2 * dealt_s + 1), where dealt_s variants already are, and among equals to the one with the largest s. Parliaments assign
    seats this way (Webster, Sainte-Lague): any number of variants is divided in proportion, neighbours in a grid are spread evenly, and
    if there are as many variants as the sum of all n_s, the brackets are exactly the paper's.

    Args:
      first: steps up to the first rung of bracket s_max, at least 1.
      eta: one of eta variants goes on and trains eta times as long, >= 2; need not be whole.
      metric: the metric to decide by, such as "validation/loss"; None for the one that the sweep ranks by.
      mode: whether a small ("min") or a large ("max") metric is good; None for the metric's known mode.

    Returns:
      A `Policy`, whose `looks(num_steps)` gives the rungs of all brackets. Its `init` refuses a first that is not below any variant's
      num_steps.

    Raises:
      ValueError: an argument is out of range.
      TypeError: first is not a whole number, eta is not a number, or metric is not a name.

    Example:
      >>> policy = hyperband(first=1, eta=3)
      >>> policy.looks(9)
      [1, 3]
      >>> seen = Seen(  # n_2, n_1, n_0 = 9, 5, 3: of ten variants five, three and two
      ...     steps=np.array([1, 3, 9]),
      ...     values=np.full((10, 3), np.nan),
      ...     num_steps=np.full(10, 9),
      ...     allowed=np.full(10, 0),
      ...     running=np.full(10, True),
      ... )
      >>> print(policy.decide(policy.init(seen), seen)[1].allowed)
      [1 3 1 9 1 3 1 1 3 9]

    Source: Li et al. (2018), Algorithm 1.
    """
    first, eta = _check_rungs("hyperband", first, eta)

    def deal(seen: Seen) -> np.ndarray:
        s_max = len(_rungs(first, eta, int(seen.num_steps.max()) + 1)) - 1  # a rung may be R itself here
        return _dealt(len(seen.allowed), [math.ceil((s_max + 1) * eta**s / (s + 1)) for s in range(s_max, -1, -1)])

    return _halving("hyperband", first, eta, deal, metric, mode)


def asha(first: int, eta: float = 3, *, metric: str | None = None, mode: str | None = None) -> Policy:
    """Successive halving that never waits for a whole rung: a variant goes on as soon as it is good enough.

    rungs: first * eta^k for k = 0, 1, ..., rounded to whole steps, as far as they are below num_steps
    of the n variants measured at a rung so far, including those that have gone on, the best floor(n / eta) go on

    So no device waits for a rung. In return, some variants go on that would not after a look at the whole rung, and the decisions depend
    on the order in which results arrive, which a resumed sweep keeps. Waiting variants are stopped when all running ones have been
    measured and none can go on.

    In the paper new variants keep coming. Here their number is fixed, and a rung may be left with fewer than eta variants, of which none
    would go on. So that one variant trains to its end, there is another rule for when no variant can go on. It looks at the last
    rung where variants wait: if none went beyond that rung, or all that did have diverged, the best variant waiting there goes on.

    Diverged variants, equal values and different num_steps count as in `successive_halving`.

    Args:
      first: steps up to the first rung, at least 1.
      eta: one of eta variants goes on and trains eta times as long, >= 2; need not be whole.
      metric: the metric to decide by, such as "validation/loss"; None for the one that the sweep ranks by.
      mode: whether a small ("min") or a large ("max") metric is good; None for the metric's known mode.

    Returns:
      A `Policy` with `in_order`, whose `looks(num_steps)` gives the rungs. Its `init` refuses a first that is not below any variant's
      num_steps.

    Raises:
      ValueError: an argument is out of range.
      TypeError: first is not a whole number, eta is not a number, or metric is not a name.

    Example:
      >>> policy = asha(first=10, eta=3)
      >>> seen = Seen(
      ...     steps=np.array([10, 20]),
      ...     values=np.array([[4.0, np.nan], [2.0, np.nan], [3.0, np.nan], [np.nan, np.nan]]),
      ...     num_steps=np.array([20, 20, 20, 20]),
      ...     allowed=np.array([10, 10, 10, 10]),
      ...     running=np.array([True, True, True, True]),
      ... )
      >>> print(policy.decide(policy.init(seen), seen)[1].allowed)  # one of three goes on, the others wait
      [10 20 10 10]

    Source: Li et al. (2020), Algorithm 2.
    """
    first, eta = _check_rungs("asha", first, eta)
    check_metric("asha", metric, mode)

    def init(seen: Seen) -> tuple[()]:
        _check_seen("asha", first, _rungs(first, eta, int(seen.num_steps.max())), seen)
        return ()

    def decide(state: tuple[()], seen: Seen) -> tuple[tuple[()], Decisions]:
        rungs = _rungs(first, eta, int(seen.num_steps.max()))
        unfinished = _unfinished(seen)
        waiting = unfinished & ~np.isnan(_value(seen))
        go = unfinished & (seen.allowed == 0)
        for rung in rungs:
            here = waiting & (seen.allowed == rung)
            if here.any():
                value = seen.values[:, np.searchsorted(seen.steps, rung)]
                counted = np.flatnonzero(_stood(seen, rung) & ~np.isnan(value))
                best = counted[_best(value[counted], _share(len(counted), eta))]
                go[best] |= here[best]
        stop = np.zeros_like(go)
        if not go.any() and waiting.any() and waiting[seen.running].all():
            furthest = int(seen.allowed[waiting].max())
            diverged = np.isposinf(seen.values).any(axis=1)
            if (~diverged & (seen.allowed > furthest)).any():
                stop = waiting
            else:
                candidates = np.flatnonzero(waiting & (seen.allowed == furthest))
                go[candidates[_best(_value(seen)[candidates], 1)]] = True
        return (), _decisions(seen, go, stop, rungs)

    return Policy("asha", init, decide, lambda num_steps: _rungs(first, eta, num_steps), metric, mode, f"{first=}, {eta=}", in_order=True)


def _percentile(name: str, share: float, metric: str | None, mode: str | None) -> Policy:
    check_metric(name, metric, mode)

    def decide(state: tuple[()], seen: Seen) -> tuple[tuple[()], Decisions]:
        unfinished = _unfinished(seen)
        ready = unfinished & ~np.isnan(_value(seen))
        stop = np.zeros_like(ready)
        if not ready.any() or not ready[seen.running].all():  # variants on the way to their end count too
            return (), _decisions(seen, unfinished & (seen.allowed == 0), stop, seen.steps)
        step = seen.allowed[ready].min()
        ready &= seen.allowed == step
        curves = seen.values[:, : np.searchsorted(seen.steps, step) + 1]
        last = _last(curves)
        known = np.flatnonzero(~np.isnan(last))
        if len(known) > 2:  # two others
            best = np.fmin.reduce(curves, axis=1)
            bar = np.full(len(last), np.inf)
            bar[known] = _quantile_of_others(last[known], share)
            stop = ready & (best > bar)
        return (), _decisions(seen, ready & ~stop, stop, seen.steps)

    return Policy(name, _nothing, decide, None, metric, mode, f"{share=}")


def _halving(name: str, first: int, eta: float, deal: Callable[[Seen], np.ndarray], metric: str | None, mode: str | None) -> Policy:
    """Successive halving in independent brackets; bracket b leaves out the first b rungs."""
    check_metric(name, metric, mode)

    def init(seen: Seen) -> dict[str, np.ndarray]:
        _check_seen(name, first, _rungs(first, eta, int(seen.num_steps.max())), seen)
        return {"bracket": deal(seen)}

    def decide(state: dict[str, np.ndarray], seen: Seen) -> tuple[dict[str, np.ndarray], Decisions]:
        rungs = _rungs(first, eta, int(seen.num_steps.max()))
        value, unfinished = _value(seen), _unfinished(seen)
        allowed, stop = np.array(seen.allowed), np.zeros_like(unfinished)
        for bracket in range(int(state["bracket"].max()) + 1):
            members = state["bracket"] == bracket
            standing = members & unfinished
            if not standing.any():
                continue
            rung = int(seen.allowed[standing].min())
            standing &= seen.allowed == rung
            if rung == 0:
                go = standing
            elif np.isnan(value[standing]).any():
                continue
            else:
                candidates = np.flatnonzero(standing)
                keep = max(1, _share(int((members & _stood(seen, rung)).sum()), eta))
                go = np.zeros_like(standing)
                go[candidates[_best(value[candidates], keep)]] = True
                stop |= standing & ~go
            allowed = np.where(go, _onwards(seen, rungs[bracket:]), allowed)
        return state, Decisions(allowed, stop)

    return Policy(name, init, decide, lambda num_steps: _rungs(first, eta, num_steps), metric, mode, f"{first=}, {eta=}")


def _nothing(seen: Seen) -> tuple[()]:
    return ()


def _value(seen: Seen) -> np.ndarray:
    """Each variant's value at its allowed step; NaN if there is none, or not yet."""
    place = np.minimum(np.searchsorted(seen.steps, seen.allowed), len(seen.steps) - 1)
    return np.where(seen.steps[place] == seen.allowed, seen.values[np.arange(len(place)), place], np.nan)


def _unfinished(seen: Seen) -> np.ndarray:
    """The variants to decide about: they run, and may not yet train to their end."""
    return seen.running & (seen.allowed < seen.num_steps)


def _onwards(seen: Seen, looks: Any) -> np.ndarray:
    """The next step at which each variant is looked at, or its end if that is no later."""
    after = np.append(np.asarray(looks, np.int64), _NEVER)[np.searchsorted(looks, seen.allowed, side="right")]
    onwards: np.ndarray = np.minimum(after, seen.num_steps).astype(seen.allowed.dtype)
    return onwards


def _decisions(seen: Seen, go: np.ndarray, stop: np.ndarray, looks: Any) -> Decisions:
    return Decisions(np.where(go, _onwards(seen, looks), seen.allowed), stop)


def _stood(seen: Seen, rung: int) -> np.ndarray:
    """The variants that reached a rung, or diverged on the way to it; without those that end there or before."""
    return (seen.allowed >= rung) & (seen.num_steps > rung)


def _last(curves: np.ndarray) -> np.ndarray:
    """The last number of each curve; NaN where there is none."""
    place = curves.shape[1] - 1 - np.argmax(~np.isnan(curves[:, ::-1]), axis=1)
    last: np.ndarray = curves[np.arange(len(curves)), place]
    return last


def _best(values: np.ndarray, count: int) -> np.ndarray:
    """The indices of the count smallest values; of equal values the earlier ones."""
    best: np.ndarray = np.argsort(values, kind="stable")[:count]
    return best


def _share(count: int, eta: float) -> int:
    """floor(count / eta), where the rounding of an eta such as 2.2 doesn't matter: 11 / 2.2 is five."""
    return math.floor(count / eta * (1 + 1e-12))


def _quantile_of_others(values: np.ndarray, share: float) -> np.ndarray:
    """For each value the quantile of all others, linear between two of them as in `np.quantile`; values hold no NaN."""
    order = np.argsort(values)
    ordered, rank = values[order], np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    position = share * (len(values) - 2)
    if abs(position - round(position)) < 1e-9:
        position = round(position)  # in floats 0.55 * 100 is a bit more than 55: a value that equals the bar must not fall below it
    low = math.floor(position)
    high, weight = min(low + 1, len(values) - 2), position - low
    below, above = (ordered[place + (rank <= place)] for place in (low, high))  # of the others: each value's own place is left out
    with np.errstate(invalid="ignore"):  # inf - inf
        gap = above - below
        quantile: np.ndarray = np.where(np.isfinite(gap), below + gap * weight, below if weight == 0 else above)
    return quantile


def _rungs(first: int, eta: float, num_steps: int) -> list[int]:
    rungs: list[int] = []
    while (rung := round(min(first * eta ** len(rungs), num_steps))) < num_steps:
        rungs.append(rung)
    return rungs


def _dealt(count: int, weights: list[int]) -> np.ndarray:
    """The bracket of each of count variants: the next one goes to the bracket with the largest weight / (2 * dealt + 1)."""
    total = sum(weights)
    most = [min(count, count * weight // total + len(weights) + 1) for weight in weights]  # more than any bracket gets
    bracket = np.repeat(np.arange(len(weights)), most)
    turn = np.concatenate([(2 * np.arange(times) + 1) / weight for times, weight in zip(most, weights, strict=True)])
    dealt: np.ndarray = bracket[np.lexsort((bracket, turn))[:count]]
    return dealt


def _check_rungs(where: str, first: Any, eta: Any) -> tuple[int, float]:
    first = check.whole(where, "first", first, 1)
    check.in_range(where, "eta", eta, 2)
    return first, check.as_number(where, "eta", eta)


def _check_seen(where: str, first: int, rungs: list[int], seen: Seen) -> None:
    if not rungs:
        fix = "first and num_steps both count steps, and nothing would be stopped"
        raise ValueError(check.message(where, f"first must be below num_steps = {seen.num_steps.max()}", first, fix))
    missing = sorted({*rungs} - {*seen.steps.tolist()})
    if missing:
        raise ValueError(check.message(where, "variants must be measured at every rung", f"none at {missing}", "Policy.looks gives them"))


def _finite(where: str, name: str, value: Any) -> float:
    check.in_range(where, name, value, -math.inf, math.inf, ends="()", fix="None sets no limit")
    return check.as_number(where, name, value)


def _as_share(share: Any) -> str:
    """The fix for a value that looks like a percentage: the share that it stands for."""
    one = not check.is_traced(share) and isinstance(share, int | float)
    return f"a share, not a percentage: {share / 100:g}" if one and 1 < share < 100 else ""
