"""Rules that stop poor variants early; each is a `Policy`, in NumPy alone.

All look at a metric whose smaller values are better: the sweep turns the sign of one that is to be large. Three kinds:

- `patience` and `threshold` judge a variant by its own curve.
- `median` and `percentile` judge it by the others at the same step, at every evaluation.
- `successive_halving`, `hyperband` and `asha` look at a few steps alone, their rungs, and let the best 1 / eta of a rung go on.

`asha` decides as results arrive. All others decide the same whatever the order and the grouping in which results arrive: about
a step they decide when all that has a say in it has been measured.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from funcnet import check
from funcnet.policy import Decisions, Policy, Seen, check_metric

_NEVER = np.iinfo(np.int64).max  # a step that no variant comes to


def patience(evaluations: int, min_delta: float = 0.0, *, metric: str | None = None, mode: str | None = None) -> Policy:
    """Stops a variant that has not got better for a while.

    value < best - min_delta:  best <- value, stale <- 0
    else:                      stale <- stale + 1, and the variant is stopped once stale = evaluations

    The first value is the first best. A best is replaced by a value alone that counts as better: many small steps count as
    better as soon as they come to more than min_delta together.

    Args:
      evaluations: how many in a row may pass without a better value, at least 1.
      min_delta: by how much a value must be better to count, in units of the metric, >= 0.
      metric: what to decide by, such as "validation/loss"; None for what the sweep ranks by.
      mode: whether the metric is to be small ("min") or large ("max"); None for what is known of it.

    Returns:
      A `Policy`.

    Raises:
      ValueError: an argument is out of range.
      TypeError: an argument is no number, or metric no name.

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
    PatientPruner(None, evaluations - 1) differs in two things: it goes on where a value equals the best, and its min_delta is by
    how much a value may be worse.
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

    A variant is stopped at an evaluation where metric < below or metric > above. The metric is in its own sign, whether it is to
    be small or large. A metric that is NaN counts as the worst there is: inf where small is better, -inf where large is.

    Args:
      below: the metric's lowest value to go on with; None for any.
      above: the metric's highest value to go on with; None for any.
      metric: what to decide by, such as "validation/loss"; None for what the sweep ranks by.
      mode: whether the metric is to be small ("min") or large ("max"); None for what is known of it.

    Returns:
      A `Policy`.

    Raises:
      ValueError: neither limit is given, one is not finite, or below is not the smaller one.
      TypeError: a limit is no number, or metric no name.

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
      metric: what to decide by, such as "validation/loss"; None for what the sweep ranks by.
      mode: whether the metric is to be small ("min") or large ("max"); None for what is known of it.

    Returns:
      A `Policy`.

    Raises:
      ValueError: mode is unknown.
      TypeError: metric is no name.

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

    Source: Golovin et al. (2017), section 3.2.2, with the values of a step in place of running averages, as Optuna has it.
    """
    return _percentile("median", 0.5, metric, mode)


def percentile(share: float, *, metric: str | None = None, mode: str | None = None) -> Policy:
    """Stops a variant that is not among the best share of all.

    bar = quantile of the other variants' values at this step, with that share of them below it (linear between two values)
    best = the smallest of the variant's own values so far
    stopped where best > bar

    It looks at every evaluation, once all that run have been measured there. There must be at least two others.

    A variant that does not run any more stands in with its last value, one that diverged with inf. Without them the bar would
    rise each time the poor have left, and the rule would cut the same share at every evaluation: successive halving in
    disguise. With them a variant is judged by all that began. So about 1 - share of the variants are stopped in all, most of them
    at the first evaluation: let eval_every be long enough for it to tell the good from the poor.

    Of those that run or have ended, the one with the best value so far is never stopped.

    Args:
      share: of the variants that are to go on, in (0, 1): the smaller, the stricter.
      metric: what to decide by, such as "validation/loss"; None for what the sweep ranks by.
      mode: whether the metric is to be small ("min") or large ("max"); None for what is known of it.

    Returns:
      A `Policy`.

    Raises:
      ValueError: share is out of range, or mode unknown.
      TypeError: share is no number, or metric no name.

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
    at a rung n variants stand; the best max(1, floor(n / eta)) go on to the next, or to their end after the last

    A rung is decided once all that run in it have been measured. One that diverged on its way to a rung counts among the n, as
    the worst. Of equal values the earlier variant's is the better. A variant whose num_steps is not above a rung ends before
    and takes no place in it.

    Args:
      first: steps up to the first rung, at least 1.
      eta: of how many one goes on, and how many times as long it trains, >= 2; need not be whole.
      metric: what to decide by, such as "validation/loss"; None for what the sweep ranks by.
      mode: whether the metric is to be small ("min") or large ("max"); None for what is known of it.

    Returns:
      A `Policy`, whose `looks(num_steps)` gives the rungs. Its `init` refuses a first that no variant trains beyond.

    Raises:
      ValueError: an argument is out of range.
      TypeError: first is no whole number, eta no number, or metric no name.

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
    """Successive halving several times side by side, from very early rungs to hardly any: for when `first` is hard to choose.

    s_max = floor(log_eta(R / first)), R the largest num_steps
    bracket s = s_max, ..., 0: successive halving with rungs first * eta^(s_max - s), first * eta^(s_max - s + 1), ... below R
    its share of the variants: in proportion to n_s = ceil((s_max + 1) / (s + 1) * eta^s)

    Where R is first times a power of eta, the brackets are the paper's, and bracket 0 stops nobody. Otherwise each has one rung
    more, first * eta^s_max, between the paper's last and R.

    The variants are dealt to the brackets in the order given: the next one goes to the bracket with the largest
    n_s / (2 * dealt_s + 1), where dealt_s are already there, of equals to the one with the largest s. So seats are given to
    parties by their votes (Webster, Sainte-Lague): any number of variants is dealt in proportion, neighbours in a grid evenly,
    and the sum of all n_s exactly as in the paper.

    Args:
      first: steps up to the first rung of bracket s_max, at least 1.
      eta: of how many one goes on, and how many times as long it trains, >= 2; need not be whole.
      metric: what to decide by, such as "validation/loss"; None for what the sweep ranks by.
      mode: whether the metric is to be small ("min") or large ("max"); None for what is known of it.

    Returns:
      A `Policy`, whose `looks(num_steps)` gives the rungs of all brackets. Its `init` refuses a first that no variant trains
      beyond.

    Raises:
      ValueError: an argument is out of range.
      TypeError: first is no whole number, eta no number, or metric no name.

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
    of the n variants measured in a rung so far, those gone on included, the best floor(n / eta) go on

    No device is ever idle, at the price of some that go on and would not have with the whole rung in sight; and who goes on
    depends on the order in which results arrive, which the sweep keeps to where it is resumed. Those that wait are stopped when
    all that run have been measured and nothing can go on any more.

    In the paper new variants keep coming. Here their number is fixed, and a rung may be left with fewer than eta, of which none
    would go on. So that something trains to its end: when nothing else can go on, look at the last rung where variants wait. If
    none went beyond it, or all that did have diverged, the best that waits there goes on.

    Diverged variants, equal values and different num_steps count as in `successive_halving`.

    Args:
      first: steps up to the first rung, at least 1.
      eta: of how many one goes on, and how many times as long it trains, >= 2; need not be whole.
      metric: what to decide by, such as "validation/loss"; None for what the sweep ranks by.
      mode: whether the metric is to be small ("min") or large ("max"); None for what is known of it.

    Returns:
      A `Policy` with `in_order`, whose `looks(num_steps)` gives the rungs. Its `init` refuses a first that no variant trains
      beyond.

    Raises:
      ValueError: an argument is out of range.
      TypeError: first is no whole number, eta no number, or metric no name.

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
        if not ready.any() or not ready[seen.running].all():  # a variant on its way to its end is waited for too: it has a say
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
    """Successive halving in brackets, which know nothing of each other; bracket b leaves out the first b rungs."""
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
    """Each variant's value at the step that it is allowed; NaN where there is none, or not yet."""
    place = np.minimum(np.searchsorted(seen.steps, seen.allowed), len(seen.steps) - 1)
    return np.where(seen.steps[place] == seen.allowed, seen.values[np.arange(len(place)), place], np.nan)


def _unfinished(seen: Seen) -> np.ndarray:
    """The variants about which there is something to decide: they run, and not to their end."""
    return seen.running & (seen.allowed < seen.num_steps)


def _onwards(seen: Seen, looks: Any) -> np.ndarray:
    """The next look of each variant, or its end if that is no later."""
    after = np.append(np.asarray(looks, np.int64), _NEVER)[np.searchsorted(looks, seen.allowed, side="right")]
    onwards: np.ndarray = np.minimum(after, seen.num_steps).astype(seen.allowed.dtype)
    return onwards


def _decisions(seen: Seen, go: np.ndarray, stop: np.ndarray, looks: Any) -> Decisions:
    return Decisions(np.where(go, _onwards(seen, looks), seen.allowed), stop)


def _stood(seen: Seen, rung: int) -> np.ndarray:
    """The variants that came to a rung, or set out for it and diverged; not those that end there or before."""
    return (seen.allowed >= rung) & (seen.num_steps > rung)


def _last(curves: np.ndarray) -> np.ndarray:
    """The last number of each curve; NaN where there is none."""
    place = curves.shape[1] - 1 - np.argmax(~np.isnan(curves[:, ::-1]), axis=1)
    last: np.ndarray = curves[np.arange(len(curves)), place]
    return last


def _best(values: np.ndarray, count: int) -> np.ndarray:
    """Where the smallest values are; of equals the earlier ones."""
    best: np.ndarray = np.argsort(values, kind="stable")[:count]
    return best


def _share(count: int, eta: float) -> int:
    """floor(count / eta), where an eta such as 2.2 counts as its decimals say: 11 are five times 2.2."""
    return math.floor(count / eta * (1 + 1e-12))


def _quantile_of_others(values: np.ndarray, share: float) -> np.ndarray:
    """For each value the quantile of all others, linear between two of them as in `np.quantile`; values hold no NaN."""
    order = np.argsort(values)
    ordered, rank = values[order], np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    position = share * (len(values) - 2)
    if abs(position - round(position)) < 1e-9:
        position = round(position)  # 0.55 of 100 is a bit more than 55: a value that equals the bar must not fall below it
    low = math.floor(position)
    high, weight = min(low + 1, len(values) - 2), position - low
    below, above = (ordered[place + (rank <= place)] for place in (low, high))  # of the others: one's own place is left out
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
    """Which of the brackets each of so many gets: the next one is the bracket's with the largest weight / (2 * dealt + 1)."""
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
    """A likely percentage is answered with the share that it stands for."""
    one = not check.is_traced(share) and isinstance(share, int | float)
    return f"a share, not a percentage: {share / 100:g}" if one and 1 < share < 100 else ""
