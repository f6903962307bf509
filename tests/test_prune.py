"""Rules that stop variants: worked by hand, against plain loops and Optuna, and driven as a sweep drives them, in any order."""

import math
import warnings
from typing import NamedTuple

import jax
import numpy as np
import pytest
from properties import check_mistake, mistakes

from funcnet.policy import Policy, Seen
from funcnet.prune import asha, hyperband, median, patience, percentile, successive_halving, threshold

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)

INF, NAN = math.inf, math.nan
MAKERS = {
    "patience": lambda **kwargs: patience(2, 0.05, **kwargs),
    "threshold": lambda **kwargs: threshold(0.1, 0.9, **kwargs),
    "median": median,
    "percentile": lambda **kwargs: percentile(0.7, **kwargs),
    "successive_halving": lambda **kwargs: successive_halving(5, 2.5, **kwargs),
    "hyperband": lambda **kwargs: hyperband(5, 3, **kwargs),
    "asha": lambda **kwargs: asha(5, 3, **kwargs),
}
every_rule = pytest.mark.parametrize("name", MAKERS)
every_rung_rule = pytest.mark.parametrize("make", [successive_halving, hyperband, asha], ids=lambda make: make.__name__)


class Driven(NamedTuple):
    """What a policy has decided, an entry for each variant."""

    stopped: list[int]  # the step at which it was stopped; -1 where it was not
    reached: list[int]  # the step up to which it trained, or at which it diverged
    allowed: list[list[int]]  # the steps that it was allowed, one after the other


def evaluations(policy, num_steps, eval_every):
    looks = [] if policy.looks is None else policy.looks(max(num_steps))
    own = [] if eval_every is None else range(eval_every, max(num_steps), eval_every)
    return np.array(sorted({*looks, *own, *num_steps}))


def read_only(tree):
    """Copies that raise where they are written to: a policy is pure. Whatever it carries must be fit for a file."""

    def copy(leaf):
        assert isinstance(leaf, np.ndarray | int | float), f"{type(leaf)} cannot be stored"
        if isinstance(leaf, np.ndarray):
            assert leaf.dtype != object
            leaf = leaf.copy()
            leaf.setflags(write=False)
        return leaf

    return jax.tree.map(copy, tree)


def drive(policy, curves, num_steps, eval_every=None, order_rng=None, sign=1, watch=None):
    """Does what a sweep does, without training.

    Args:
      curves: (variants, steps + 1), each variant's value after so many steps, the smaller the better; inf from where it diverges.
      num_steps: one for all, or one each.
      order_rng: None where all variants arrive together at what they are allowed; else draws which ones arrive, and how far.
      watch: called with what was seen and decided.
    """
    count = len(curves)
    num_steps = [num_steps] * count if isinstance(num_steps, int) else list(num_steps)
    steps = evaluations(policy, num_steps, eval_every)
    seen = Seen(
        steps=steps,
        values=np.full((count, len(steps)), NAN),
        num_steps=np.array(num_steps),
        allowed=np.zeros(count, int),
        running=np.full(count, True),
        sign=sign,
    )
    reached, stopped, allowed = np.zeros(count, int), [-1] * count, [[] for _ in range(count)]
    state = policy.init(read_only(seen))
    while True:
        state, decisions = policy.decide(read_only(state), read_only(seen))
        if watch is not None:
            watch(seen, decisions)
        raised = decisions.allowed > seen.allowed
        assert (decisions.allowed >= seen.allowed).all() and (decisions.allowed <= seen.num_steps).all()
        assert decisions.stop.dtype == bool and not (decisions.stop & raised).any()
        assert seen.running[decisions.stop].all() and seen.running[raised].all()
        assert decisions.copy is None and decisions.numbers is None
        for i in np.flatnonzero(decisions.stop):
            stopped[i] = int(reached[i])
        for i in np.flatnonzero(raised):
            allowed[i].append(int(decisions.allowed[i]))
        values, running = seen.values.copy(), seen.running & ~decisions.stop
        if not running.any():
            return Driven(stopped, reached.tolist(), allowed)
        pending = np.flatnonzero(running & (reached < decisions.allowed))
        assert len(pending), "all that run wait, and nothing more is decided"
        if order_rng is not None:
            pending = order_rng.permutation(pending)[: order_rng.integers(1, len(pending) + 1)]
        for i in pending:
            stops = [step for step in steps if reached[i] < step <= decisions.allowed[i]]
            upto = stops[-1] if order_rng is None else int(order_rng.choice(stops))
            for column in np.flatnonzero((steps > reached[i]) & (steps <= upto)):
                values[i, column] = curves[i][steps[column]]
            reached[i], running[i] = upto, upto < num_steps[i]
            bad = np.flatnonzero(np.isinf(curves[i][: upto + 1]))
            if len(bad):
                values[i, steps >= bad[0]], reached[i], running[i] = INF, bad[0], False
        seen = seen._replace(values=values, running=running, allowed=decisions.allowed)


def flat(*values, num_steps=100):
    """Curves that stay where they are."""
    return np.repeat(np.array(values, float)[:, None], num_steps + 1, axis=1)


def at(eval_every, *rows):
    """Curves from their values at each evaluation; all steps before an evaluation have its value."""
    return np.array([np.concatenate([row[:1], np.repeat(np.array(row, float), eval_every)]) for row in rows])


def walks(rng, count=23, num_steps=100):
    """Random walks that set out from one value at different steps, fall on the whole and cross each other; some diverge."""
    moves = rng.standard_normal((count, num_steps + 1)) / num_steps**0.5 - 0.5 / num_steps
    start = rng.integers(0, num_steps // 2 + 1, (count, 1))
    curves = 0.5 + np.where(np.arange(num_steps + 1) > start, moves, 0).cumsum(axis=1)
    curves = np.round(curves, 1)
    for i in rng.permutation(count)[:4]:
        curves[i, rng.integers(1, num_steps) :] = INF
    return curves


def seen_at(column, values, *, num_steps=None, running=None, steps=None, sign=1):
    """All variants are allowed the step of a column, and measured there."""
    values = np.array(values, float)
    steps = np.arange(1, values.shape[1] + 1) if steps is None else np.array(steps)
    values[:, column + 1 :] = np.where(np.isposinf(values[:, column + 1 :]), INF, NAN)
    return Seen(
        steps=steps,
        values=values,
        num_steps=np.full(len(values), steps[-1] + 1) if num_steps is None else np.array(num_steps),
        allowed=np.full(len(values), steps[column]),
        running=np.full(len(values), True) if running is None else np.array(running),
        sign=sign,
    )


def stops(policy, seen):
    return policy.decide(policy.init(seen), seen)[1].stop.tolist()


# every rule


@every_rule
def test_carries_its_name_metric_and_mode(name):
    policy = MAKERS[name](metric="validation/accuracy", mode="max")
    assert isinstance(policy, Policy)
    assert (policy.name, policy.metric, policy.mode) == (name, "validation/accuracy", "max")
    plain = MAKERS[name]()
    assert (plain.metric, plain.mode, plain.in_order) == (None, None, name == "asha")


@every_rule
def test_looks_are_the_rungs_or_every_evaluation(name):
    policy = MAKERS[name]()
    if name in ("patience", "threshold", "median", "percentile"):
        assert policy.looks is None
    else:
        assert policy.looks(46) == ([5, 12, 31] if name == "successive_halving" else [5, 15, 45])  # 12.5 and 31.25 are rounded
        assert policy.looks(45) == ([5, 12, 31] if name == "successive_halving" else [5, 15])
        assert policy.looks(5) == []
    assert asha(1, 2.6).looks(40) == [1, 3, 7, 18]  # 2.6, 6.76, 17.576, 45.6976
    assert asha(10, 1e308).looks(40) == [10]


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "asha"])
@pytest.mark.parametrize("lengths", [(100,), (45, 60, 100), (5, 12, 45, 100)], ids=["one length", "lengths", "lengths at rungs"])
def test_decisions_do_not_depend_on_the_order_of_arrival(name, lengths):
    rng = np.random.default_rng(7)
    happened = set()
    for _ in range(4):
        curves, num_steps = walks(rng), rng.choice(lengths, 23)
        together = drive(MAKERS[name](), curves, num_steps, eval_every=10)
        for seed in range(6):
            assert drive(MAKERS[name](), curves, num_steps, 10, np.random.default_rng(seed)) == together
        happened |= {*together.stopped}
    assert len(happened) > (3 if lengths == (100,) else 1)  # the curves are such that there is something to decide


@every_rule
def test_one_variant_alone_trains_to_its_end_or_diverges(name):
    falling = 0.8 - np.linspace(0, 0.6, 101)[None]
    assert drive(MAKERS[name](), falling, 100, 10) == ([-1], [100], [drive(MAKERS[name](), falling, 100, 10).allowed[0]])
    diverging = np.where(np.arange(101) >= 33, INF, falling)
    driven = drive(MAKERS[name](), diverging, 100, 10)
    assert driven.stopped == [-1] and driven.reached[0] < 100


@every_rule
def test_all_that_diverge_end_the_sweep(name):
    for start in (1, 7, 60):
        curves = np.where(np.arange(101) >= start, INF, flat(0.2, 0.3, 0.4, 0.5))
        driven = drive(MAKERS[name](), curves, 100, 10, np.random.default_rng(start))
        assert all(stopped >= 0 or reached == start for stopped, reached in zip(driven.stopped, driven.reached, strict=True))


@every_rule
def test_short_variants_train_to_their_end(name):
    """Their num_steps lies before the first rung."""
    driven = drive(MAKERS[name](), flat(0.2, 0.3, 0.4), [3, 4, 100], eval_every=10)
    assert driven.stopped[:2] == [-1, -1] and driven.reached[:2] == [3, 4]


@every_rule
def test_nothing_is_decided_before_something_is_measured(name):
    policy = MAKERS[name]()
    seen = Seen(np.array([5, 12, 15, 31, 45, 60]), np.full((9, 6), NAN), np.full(9, 60), np.zeros(9, int), np.full(9, True))
    state, decisions = policy.decide(policy.init(seen), seen)
    assert (decisions.allowed >= 5).all() and not decisions.stop.any()
    _, again = policy.decide(state, seen._replace(allowed=decisions.allowed))
    np.testing.assert_array_equal(again.allowed, decisions.allowed)
    assert not again.stop.any()
    state, early = policy.decide(policy.init(seen), seen._replace(values=np.arange(54.0).reshape(9, 6)))
    assert not early.stop.any() and early.allowed.tolist() == decisions.allowed.tolist()  # none of these is at step 0


@every_rule
def test_nothing_is_decided_about_a_variant_at_its_end(name):
    """Even where a sweep says in a later call that it runs no more."""
    seen = seen_at(2, [[1, 2, 3], [2, 3, 4], [3, 4, 5], [9, 9, 9]], steps=[5, 12, 20], num_steps=[20] * 4)
    _, decisions = MAKERS[name]().decide(patience(1).init(seen) if name == "patience" else {"bracket": np.zeros(4, int)}, seen)
    assert not decisions.stop.any() and decisions.allowed.tolist() == [20] * 4


@pytest.mark.parametrize("policy", [median(), successive_halving(10, 2)], ids=lambda policy: policy.name)
def test_those_behind_are_decided_first(policy):
    """Were some further on, they would wait, and have the say that they had where the others are."""
    values = [[1.0, 2.0, 60.0, NAN], [1.0, 3.0, 70.0, NAN], [1.0, 4.0, NAN, NAN], [1.0, 5.0, NAN, NAN], [1.0, 6.0, NAN, NAN]]
    steps = np.array([10, 20, 40, 60])
    seen = Seen(steps, np.array(values), np.full(5, 60), np.array([40, 40, 20, 20, 20]), np.full(5, True))
    _, decisions = policy.decide({"bracket": np.zeros(5, int)}, seen)
    if policy.name == "median":  # no best is above 1
        assert decisions.allowed.tolist() == [40] * 5 and not decisions.stop.any()
        seen.values[:, 0] = NAN  # the others of 4 are 2, 3, 5, 6; those of 5 and of 6 have a median of 3.5
        assert stops(policy, seen) == [False, False, False, True, True]
    else:
        assert decisions.allowed.tolist() == [40, 40, 40, 40, 20] and decisions.stop.tolist() == [False] * 4 + [True]


# patience


@pytest.mark.parametrize(
    "evaluations, min_delta, row, stopped",
    [
        (2, 0.0, [5, 4, 4.5, 4, 3, 2], 40),  # best 4 at 20; neither 4.5 nor an equal 4 is better: stopped at the second
        (3, 0.0, [5, 4, 4.5, 4, 3, 2], -1),  # the third is better
        (1, 0.0, [5, 4, 3, 2, 1, 0], -1),
        (1, 0.0, [5, 5, 5, 5, 5, 5], 20),
        (2, 0.5, [5, 4.6, 4.3, 4.0, 3.9, 3.7], 50),  # 4.3 is better than 5 by 0.7, then neither 4.0 nor 3.9 than 4.3 by more than 0.5
        (2, 0.5, [5, 4.5, 4.5, 0, 0, 0], 30),  # better by exactly 0.5 is not enough
        (5, 0.0, [1, 2, 3, 4, 5, 6], -1),  # at the last evaluation it ends anyway
        (4, 0.0, [1, 2, 3, 4, 5, 6], 50),
    ],
)
def test_patience_by_hand(evaluations, min_delta, row, stopped):
    driven = drive(patience(evaluations, min_delta), at(10, row), 60, 10)
    assert driven.stopped == [stopped] and driven.reached == [60 if stopped < 0 else stopped]


def test_patience_is_of_each_variant_alone():
    rows = [5, 4, 4.5, 4, 3, 2], [6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6], [1, 1, INF, INF, INF, INF]
    assert drive(patience(2), at(10, *rows), 60, 10).stopped == [40, -1, 30, -1]


def loop_of_patience(row, evaluations, min_delta):
    best, stale = INF, 0
    for place, value in enumerate(row[:-1]):  # at the last one it ends
        best, stale = (value, 0) if value < best - min_delta else (best, stale + 1)
        if stale >= evaluations:
            return place + 1
    return -1


@pytest.mark.parametrize("min_delta", [0.0, 0.25])
def test_patience_agrees_with_a_loop(min_delta):
    rng = np.random.default_rng(0)
    rows = np.round(rng.standard_normal((60, 15)).cumsum(axis=1), 1)
    expected = [loop_of_patience(row, 3, min_delta) for row in rows]
    assert drive(patience(3, min_delta), at(1, *rows), 15, 1, rng).stopped == expected
    assert {*expected} >= {-1, 4, 5, 6}


def reported(pruner, row, direction="minimize", study=None):
    """Whether Optuna's pruner would stop after each of a trial's values."""
    study = optuna.create_study(direction=direction, pruner=pruner) if study is None else study
    trial, answers = study.ask(), []
    for step, value in enumerate(row):
        trial.report(float(value), step)
        answers.append(trial.should_prune())
    return answers


def first_stop(answers):
    return answers.index(True) + 1 if True in answers else -1


def patient(patience, min_delta=0.0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.pruners.PatientPruner(None, patience, min_delta)


@pytest.mark.parametrize("evaluations", [1, 2, 4])
def test_patience_agrees_with_optuna(evaluations):
    """Optuna's patience is one less: it is the number of evaluations that may pass after the first that was not better."""
    rows = np.random.default_rng(1).standard_normal((40, 12)).cumsum(axis=1)
    expected = [first_stop(reported(patient(evaluations - 1), row[:-1])) for row in rows]
    assert drive(patience(evaluations), at(1, *rows), 12, 1).stopped == expected
    assert len({*expected}) > 3


def test_patience_differs_from_optuna_in_equal_values_and_in_min_delta():
    """Optuna goes on where a value is as good as the best, and its min_delta is how much worse is still all right."""
    equal, slow = [3, 3, 3, 3, 3], [3, 2.9, 2.8, 2.7, 2.6]
    assert drive(patience(2), at(1, equal), 5, 1).stopped == [3]
    assert first_stop(reported(patient(1), equal)) == -1
    assert drive(patience(2, min_delta=0.5), at(1, slow), 5, 1).stopped == [3]
    assert first_stop(reported(patient(1, min_delta=0.5), slow)) == -1


# threshold


@pytest.mark.parametrize(
    "limits, sign, stopped",
    [
        (dict(above=2.0), 1, [20, -1, 30]),
        (dict(below=0.5), 1, [30, -1, -1]),
        (dict(below=0.5, above=2.0), 1, [20, -1, 30]),
        (dict(below=-2.0), -1, [20, -1, 30]),  # the metric is -values
        (dict(above=-0.5), -1, [30, -1, -1]),
    ],
)
def test_threshold_by_hand(limits, sign, stopped):
    """At a limit a variant goes on."""
    rows = [1, 3, 0.4, 1], [2, 0.5, 2, 0.5], [1, 2, 2.1, 1]
    assert drive(threshold(**limits), at(10, *rows), 40, 10, sign=sign).stopped == stopped


def test_threshold_takes_a_metric_without_a_value_for_the_worst():
    assert stops(threshold(above=5.0), seen_at(0, [[INF, NAN], [1, NAN]])) == [True, False]
    assert stops(threshold(below=-5.0), seen_at(0, [[INF, NAN], [1, NAN]], sign=-1)) == [True, False]
    assert stops(threshold(below=-5.0), seen_at(0, [[INF, NAN], [1, NAN]])) == [False, False]


@pytest.mark.parametrize("direction, sign", [("minimize", 1), ("maximize", -1)])
def test_threshold_agrees_with_optuna(direction, sign):
    rows = np.random.default_rng(2).standard_normal((40, 8))
    expected = [first_stop(reported(optuna.pruners.ThresholdPruner(-1.2, 1.0), row[:-1], direction)) for row in rows]
    assert drive(threshold(-1.2, 1.0), at(1, *(sign * rows)), 8, 1, sign=sign).stopped == expected
    assert len({*expected}) > 3


# median and percentile


def test_median_by_hand():
    # the medians of the others are 3 (of 2, 3, 5), 3 (of 1, 3, 5), 2 (of 1, 2, 5) and 2 (of 1, 2, 3)
    assert stops(median(), seen_at(0, [[1, 0], [2, 0], [3, 0], [5, 0]])) == [False, False, True, True]
    # the first is the worst now, but its best is better than 2, the median of 2, 2, 3; 3 is worse than 2, the median of 9, 2, 2
    assert stops(median(), seen_at(1, [[1, 9], [2, 2], [2, 2], [4, 3]])) == [False, False, False, True]


def test_percentile_by_hand():
    # share 0.25: the others of 1 are 2, 3, 4, a quarter of whose two gaps is 2.5; of 2: 1, 3, 4 -> 2; of 3: 1, 2, 4 -> 1.5
    assert stops(percentile(0.25), seen_at(0, [[1], [2], [3], [4]])) == [False, False, True, True]
    # share 0.75: 3.5, 3.5, 3, 2.5
    assert stops(percentile(0.75), seen_at(0, [[1], [2], [3], [4]])) == [False, False, False, True]


def test_median_needs_two_others():
    assert stops(median(), seen_at(0, [[1], [9]])) == [False, False]
    assert stops(median(), seen_at(0, [[1], [2], [9]])) == [False, False, True]
    # one that was never measured has no say
    assert stops(median(), seen_at(0, [[1], [9], [NAN]], running=[True, True, False])) == [False, False, False]


def test_the_stopped_stand_in_so_that_the_bar_does_not_rise():
    """Of eight that never change half are stopped once; without the stopped it would be a half each time."""
    driven = drive(median(), flat(*range(8)), 100, 10)
    assert driven.stopped == [-1] * 4 + [10] * 4


def test_the_ended_and_the_diverged_stand_in():
    # the others of the last two: 1 (ended), inf (diverged) and 3 or 4: medians 4 and 3
    seen = seen_at(1, [[1, NAN], [0, INF], [3, 3], [4, 4]], num_steps=[1, 9, 9, 9], running=[False, False, True, True])
    assert stops(median(), seen) == [False, False, False, True]
    # the last value counts, not the best: of 1, 9 and 4 it is 4, of 1, 9 and 3 it is 3
    seen = seen_at(2, [[1, NAN, NAN], [0, 9, NAN], [3, 3, 3], [4, 4, 4]], num_steps=[1, 9, 9, 9], running=[False, False, True, True])
    assert stops(median(), seen) == [False, False, False, True]


def test_a_bar_of_inf_stops_nobody():
    seen = seen_at(0, [[INF], [INF], [INF], [3], [4]], running=[False, False, False, True, True])
    assert stops(median(), seen) == [False] * 5
    # of 1, 4, inf, inf the median lies between 4 and inf, of 1, 3, inf, inf between 3 and inf; of 3, 4, inf, inf too
    seen = seen_at(0, [[INF], [INF], [1], [3], [4]], running=[False, False, True, True, True])
    assert stops(median(), seen) == [False] * 5
    # a metric that was NaN is the worst there is
    assert stops(median(), seen_at(0, [[INF], [1], [2], [3]])) == [True, False, False, True]


def test_equal_variants_all_go_on():
    for share in (0.1, 0.3, 0.5, 0.9):
        for count in (3, 4, 11, 50):
            assert not any(stops(percentile(share), seen_at(0, np.full((count, 1), 0.1))))
    # 0.55 of the 100 gaps is the 55th value and a bit in floats, 0.29 the 29th and a bit less: the bar is that value itself
    for share, place in ((0.55, 55), (0.29, 29)):
        values = np.arange(102.0)
        values[place] = values[place + 1] = place
        assert stops(percentile(share), seen_at(0, values[:, None])) == [False] * (place + 2) + [True] * (100 - place)


def loop_of_percentile(curves, num_steps, share):
    """At which evaluation each is stopped; an evaluation after each step."""
    count, longest = len(curves), max(num_steps)
    end, running = list(num_steps), [True] * count
    stopped = [-1] * count
    for i, row in enumerate(curves):
        bad = [step for step in range(1, num_steps[i] + 1) if row[step] == INF]
        end[i] = bad[0] if bad else num_steps[i]
    for step in range(1, longest):
        running = [stopped[i] < 0 and end[i] > step for i in range(count)]
        value = [curves[i][min(step, num_steps[i]) if stopped[i] < 0 else stopped[i]] for i in range(count)]
        for i in range(count):
            others = [value[k] for k in range(count) if k != i]
            with np.errstate(invalid="ignore"):  # NumPy's quantile of inf is NaN: nothing is worse
                bar = np.quantile(others, share)
            if running[i] and min(curves[i][1 : step + 1]) > bar:
                stopped[i] = step
    return stopped


@pytest.mark.parametrize("share", [0.2, 0.5, 0.73])
def test_percentile_agrees_with_a_loop(share):
    rng, happened = np.random.default_rng(3), set()
    for _ in range(5):
        curves, num_steps = walks(rng, 13, 12), rng.choice([5, 12], 13).tolist()
        expected = loop_of_percentile(curves, num_steps, share)
        assert drive(percentile(share), curves, num_steps, 1, rng).stopped == expected
        happened |= {*expected}
    assert len(happened) > 2


def test_the_best_so_far_of_those_that_run_or_have_ended_is_never_stopped():
    def watch(seen, decisions):
        if decisions.stop.any():
            best = np.fmin.reduce(seen.values, axis=1)
            alive = seen.running | (seen.allowed == seen.num_steps) & ~np.isinf(seen.values).any(axis=1)
            assert not decisions.stop[alive & (best == best[alive].min())].any()
            counts.append(int(decisions.stop.sum()))

    rng, counts = np.random.default_rng(4), []
    for share in (0.01, 0.3, 0.5):
        for _ in range(10):
            curves = walks(rng)
            drive(
                percentile(share), np.where(curves < INF, rng.permuted(curves, axis=1), INF), rng.choice([50, 100], 23), 10, rng, 1, watch
            )
    assert len(counts) > 30


def completed(rows, direction, pruner):
    study = optuna.create_study(direction=direction, pruner=pruner)
    for row in rows:
        values = {step: float(value) for step, value in enumerate(row)}
        study.add_trial(optuna.trial.create_trial(value=float(row[-1]), intermediate_values=values))
    return study


@pytest.mark.parametrize("direction, sign", [("minimize", 1), ("maximize", -1)])
@pytest.mark.parametrize("share", [0.5, 0.25, 0.75])
@pytest.mark.parametrize("count", [3, 8, 9])
def test_percentile_agrees_with_optuna(count, share, direction, sign):
    """Every variant in turn is the trial, the others are completed."""
    rows = np.random.default_rng(5).standard_normal((count, 6))
    options = dict(n_startup_trials=0, n_warmup_steps=0, interval_steps=1)
    policy, pruner = percentile(share), optuna.pruners.PercentilePruner(100 * share, **options)
    if share == 0.5:
        policy, pruner = median(), optuna.pruners.MedianPruner(**options)
    expected = [reported(pruner, rows[i], study=completed(np.delete(rows, i, axis=0), direction, pruner)) for i in range(count)]
    ours = [stops(policy, seen_at(column, sign * rows)) for column in range(6)]
    assert np.array(ours).T.tolist() == expected
    assert 0 < np.mean(expected) < 1


# successive halving


def test_successive_halving_by_hand():
    """Nine, rungs at 10, 30 and 90: three go on to 30, one to 90 and to its end."""
    policy = successive_halving(10, 3)
    driven = drive(policy, flat(4, 8, 1, 6, 2, 9, 3, 7, 5), 100)
    assert driven.stopped == [10, 10, -1, 10, 30, 10, 30, 10, 10]
    assert driven.allowed == [[10], [10], [10, 30, 90, 100], [10], [10, 30], [10], [10, 30], [10], [10]]
    # what it was at 10 is no help at 30
    curves = flat(4, 8, 1, 6, 2, 9, 3, 7, 5)
    curves[2, 11:] = 20
    assert drive(policy, curves, 100).stopped == [10, 10, 30, 10, -1, 10, 30, 10, 10]


def test_of_equal_variants_the_earlier_ones_go_on():
    assert drive(successive_halving(10, 2), flat(3, 1, 1, 1, 3), 20).stopped == [10, -1, -1, 10, 10]
    assert drive(successive_halving(10, 3), flat(3, 3), 20).stopped == [-1, 10]


def test_diverged_variants_count_at_their_rung_as_the_worst():
    curves = flat(1, 2, 3, 4, 5, 6)
    curves[[0, 2, 4], 7:] = INF
    assert drive(successive_halving(10, 3), curves, 25).stopped == [-1, -1, -1, -1, -1, 10]  # two of six: of 2, 4 and 6
    curves[1, 9:] = curves[3, 10:] = INF
    assert drive(successive_halving(10, 3), curves, 25).reached == [7, 9, 7, 10, 7, 25]  # two places, one left for them
    curves = flat(*range(18))
    curves[:2, 12:] = INF  # they stand in the rung at 30 too: two of six go on, not one of four
    driven = drive(successive_halving(10, 3), curves, 100)
    assert [step for step in driven.stopped if step != 10] == [-1, -1, -1, 90, 30, 30]
    curves[:6, 12:] = INF  # all of them: none is left
    assert drive(successive_halving(10, 3), curves, 100).stopped == [-1] * 6 + [10] * 12


def test_a_metric_without_a_value_comes_last_but_before_the_diverged():
    seen = seen_at(0, [[INF, NAN], [INF, NAN], [2, NAN], [3, NAN]], steps=[10, 20], num_steps=[20] * 4, running=[False, True, True, True])
    assert stops(successive_halving(10, 2), seen) == [False, True, False, False]
    seen = seen_at(0, [[INF, NAN], [INF, NAN]], steps=[10, 20], num_steps=[20] * 2, running=[False, True])
    assert stops(successive_halving(10, 2), seen) == [False, False]


def test_variants_that_end_before_a_rung_or_at_it_take_no_place():
    # at 10 four stand, one goes on; those with 10 and 7 steps end
    assert drive(successive_halving(10, 3), flat(0, 0, 3, 4, 5, 6), [10, 7, 100, 100, 100, 100]).stopped == [-1, -1, -1, 10, 10, 10]
    # at 10 nine stand, three go on; one of these ends at 20, before the rung at 30, where one of two goes on
    driven = drive(successive_halving(10, 3), flat(*range(9)), [20] + [100] * 8)
    assert driven.stopped == [-1, -1, 30] + [10] * 6 and driven.reached == [20, 100, 30] + [10] * 6


def test_an_eta_that_is_not_whole():
    policy = successive_halving(10, 2.2)
    assert policy.looks(300) == [10, 22, 48, 106, 234]  # 48.4, 106.48, 234.256
    stopped = drive(policy, flat(*range(11)), 40).stopped
    assert stopped.count(10) == 6 and stopped.count(22) == 3  # 11 / 2.2 = 5 go on, then floor(5 / 2.2) = 2
    for count in (*range(1, 30), *range(33, 400, 11)):  # exactly as decimals say
        assert drive(successive_halving(1, 2.2), flat(*range(count), num_steps=2), 2).stopped.count(-1) == max(1, count * 10 // 22)


def loop_of_halving(curves, num_steps, rungs, eta):
    alive, stopped = list(range(len(curves))), [-1] * len(curves)
    for rung in rungs:
        alive = [i for i in alive if num_steps[i] > rung]
        ranked = sorted(alive, key=lambda i: (max(curves[i][1 : rung + 1]) == INF, curves[i][rung], i))
        kept = [i for i in ranked[: max(1, int(len(alive) / eta))] if max(curves[i][1 : rung + 1]) < INF]
        for i in alive:
            if i not in kept and max(curves[i][1 : rung + 1]) < INF:
                stopped[i] = rung
        alive = kept
    return stopped


@pytest.mark.parametrize("eta", [2, 3, 2.5])
def test_successive_halving_agrees_with_a_loop(eta):
    rng, happened = np.random.default_rng(6), set()
    for _ in range(8):
        curves, num_steps = walks(rng, 40), rng.choice([15, 40, 100], 40)
        policy = successive_halving(5, eta)
        expected = loop_of_halving(curves, num_steps, policy.looks(100), eta)
        assert drive(policy, curves, num_steps, 20, rng).stopped == expected
        happened |= {*expected}
    assert len(happened) > 3


# how many stand at each rung in Table 1 of Li et al. (2018), R = 81, eta = 3: n_s = ceil(5 / (s + 1) * 3^s) as in Algorithm 1 and
# floor(n_s / 3^i) after i rungs; and as it is also printed, with n_s = floor(5 / (s + 1)) * 3^s
BRACKETS = {4: [81, 27, 9, 3, 1], 3: [34, 11, 3, 1], 2: [15, 5, 1], 1: [8, 2], 0: [5]}
ROUNDED = {4: [81, 27, 9, 3, 1], 3: [27, 9, 3, 1], 2: [9, 3, 1], 1: [6, 2]}


def counts(reached, looks):
    return [sum(step >= look for step in reached) for look in looks]


@pytest.mark.parametrize("table", [BRACKETS, ROUNDED], ids=["Algorithm 1", "rounded down"])
@pytest.mark.parametrize("bracket", [4, 3, 2, 1])
def test_survivors_of_a_bracket_are_the_papers(table, bracket):
    first, expected = 3 ** (4 - bracket), table[bracket]
    curves = np.random.default_rng(8).random((expected[0], 82))
    driven = drive(successive_halving(first, 3), curves, 81, None, np.random.default_rng(9))
    assert counts(driven.reached, [first * 3**i for i in range(bracket + 1)]) == expected


# hyperband


def test_hyperband_is_the_papers_brackets_side_by_side():
    curves = np.random.default_rng(10).random((81 + 34 + 15 + 8 + 5, 82))
    policy = hyperband(1, 3)
    assert policy.looks(81) == [1, 3, 9, 27]
    driven = drive(policy, curves, 81, None, np.random.default_rng(11))
    starts = [allowed[0] for allowed in driven.allowed]
    for bracket, expected in BRACKETS.items():
        members = [i for i, start in enumerate(starts) if start == 3 ** (4 - bracket)]
        assert counts([driven.reached[i] for i in members], [3 ** (4 - bracket + i) for i in range(bracket + 1)]) == expected
        if bracket:  # each alone is successive halving
            alone = drive(successive_halving(3 ** (4 - bracket), 3), curves[members], 81)
            assert [driven.stopped[i] for i in members] == alone.stopped


def test_hyperband_deals_one_after_the_other_in_proportion():
    """By the rule that its docstring gives, and never far from the proportions, whatever the number of variants."""
    votes = {1: 81, 3: 34, 9: 15, 27: 8, 81: 5}  # by first rung
    for count in (1, 2, 3, 10, 143, 1000):
        starts = [allowed[0] for allowed in drive(hyperband(1, 3), flat(*range(count), num_steps=81), 81).allowed]
        dealt = dict.fromkeys(votes, 0)
        for place, start in enumerate(starts):
            assert start == max(votes, key=lambda first: votes[first] / (2 * dealt[first] + 1))  # of equals the first
            dealt[start] += 1
            assert all(abs(dealt[first] - (place + 1) * votes[first] / 143) < 1.5 for first in votes)


def test_hyperband_where_the_end_is_no_rung():
    """s_max = floor(log_3(100)) = 4: bracket 0 has a rung at 81, where one of its two or three goes on."""
    policy = hyperband(1, 3)
    assert policy.looks(100) == [1, 3, 9, 27, 81]
    starts = [allowed[0] for allowed in drive(policy, flat(*range(143)), 100).allowed]
    assert [starts.count(step) for step in (1, 3, 9, 27, 81)] == [81, 34, 15, 8, 5]
    assert max(drive(hyperband(1, 3), flat(*range(20), num_steps=26), 26).reached) == 26
    starts = [allowed[0] for allowed in drive(hyperband(1, 3), flat(*range(20), num_steps=26), 26).allowed]
    assert {*starts} == {1, 3, 9}  # s_max = 2


def test_hyperband_counts_powers_exactly():
    """log(243) / log(3) and log(1000) / log(10) are a bit less than 5 and 3 in floats."""
    for eta, power in ((3, 5), (10, 3), (2, 9)):
        starts = [allowed[0] for allowed in drive(hyperband(1, eta), np.zeros((3000, eta**power + 1)), eta**power).allowed]
        assert {*starts} == {eta**k for k in range(power + 1)}


def test_hyperband_takes_the_largest_num_steps():
    driven = drive(hyperband(1, 3), flat(*range(20), num_steps=9), [2] * 10 + [9] * 10)
    assert {allowed[0] for allowed in driven.allowed} == {1, 2, 3, 9}  # a bracket that begins at 3 or 9 is no bar to two steps
    assert all(reached == 2 for reached, allowed in zip(driven.reached[:10], driven.allowed, strict=False) if allowed[0] > 1)


@pytest.mark.parametrize("first, eta, num_steps", [(1, 3, 81), (2, 3, 100), (5, 2, 47), (10, 4, 1000)])
def test_hyperband_has_optunas_brackets(first, eta, num_steps):
    """As many, with the same first rungs and in the same proportions; Optuna deals by a hash and halves as ASHA does."""
    pruner = optuna.pruners.HyperbandPruner(min_resource=first, max_resource=num_steps, reduction_factor=eta)
    pruner._try_initialization(optuna.create_study())
    weights = pruner._trial_allocation_budgets
    driven = drive(hyperband(first, eta), np.zeros((sum(weights), num_steps + 1)), num_steps)
    starts = [allowed[0] for allowed in driven.allowed]
    theirs = [inner._min_resource * eta**inner._min_early_stopping_rate for inner in pruner._pruners]
    assert sorted({*starts}) == theirs and [starts.count(first) for first in theirs] == weights


# asha


def arrive(policy, values, first=10, num_steps=20):
    """Which variants go on at once when each value arrives at the first rung, one after the other."""
    seen = seen_at(0, np.full((len(values), 2), NAN), steps=[first, num_steps], num_steps=[num_steps] * len(values))
    gone = []
    for i, value in enumerate(values):
        seen.values[i, 0] = value
        _, decisions = policy.decide((), seen)
        gone.append(np.flatnonzero(decisions.allowed > seen.allowed).tolist())
        seen = seen._replace(allowed=decisions.allowed)
    return gone


def test_asha_by_hand():
    # the best one of three is 3, of four and of five 2; the best two of six are 2 and 3, which have gone on; of seven and eight
    # 1 and 2; the best three of nine are 1, 2 and 2.5
    assert arrive(asha(10, 3), [5, 4, 3, 2, 9, 8, 1, 7, 2.5]) == [[], [], [2], [3], [], [], [6], [], [8]]
    # 2 is the second best of six, when the sixth has come
    assert arrive(asha(10, 3), [1, 2, 3, 4, 5, 6]) == [[], [], [0], [], [], [1]]


def test_asha_stops_when_all_is_measured_and_nothing_can_go_on():
    policy = asha(10, 3)
    seen = seen_at(0, [[1, NAN], [2, NAN], [3, NAN], [4, NAN]], steps=[10, 20], num_steps=[20] * 4)
    _, decisions = policy.decide((), seen)
    assert decisions.allowed.tolist() == [20, 10, 10, 10] and not decisions.stop.any()
    seen = seen._replace(allowed=decisions.allowed)
    assert not policy.decide((), seen)[1].stop.any()  # the first still trains
    ended = seen._replace(running=np.array([False, True, True, True]))
    ended.values[0, 1] = 1.0
    _, decisions = policy.decide((), ended)
    assert decisions.stop.tolist() == [False, True, True, True]


def test_asha_lets_the_best_go_on_where_there_are_fewer_than_eta():
    assert drive(asha(10, 3), flat(2, 1), 100).stopped == [10, -1]
    assert drive(asha(10, 3), flat(1, 1), 100).stopped == [-1, 10]
    driven = drive(asha(10, 3), flat(*range(8)), 100)  # two go on to 30, where one of two would not
    assert driven.stopped == [-1, 30] + [10] * 6 and driven.reached[0] == 100
    curves = flat(*range(8))
    curves[0, 50:] = INF  # then the second goes on; should it diverge too, the third
    assert drive(asha(10, 3), curves, 100).stopped == [-1, -1] + [10] * 6
    curves[1, 20:] = INF
    driven = drive(asha(10, 3), curves, 100)
    assert driven.stopped == [-1, -1, -1] + [10] * 5 and driven.reached[2] == 100
    curves = flat(*range(8))
    curves[:2, 20:] = [[60], [50]]  # of those that are furthest the best, although 2 waits further back
    assert drive(asha(10, 3), curves, 100).stopped == [30, -1] + [10] * 6


def test_asha_counts_diverged_variants_only_at_rungs_they_set_out_for():
    curves = flat(*range(9))
    curves[[0, 1, 2], 5:] = INF
    stopped = drive(asha(10, 3), curves, 100).stopped
    assert stopped == [-1] * 4 + [30, 30, 10, 10, 10]  # three of nine go on to 30; one of three from there, not two of six


def loop_of_asha(rung_values, gone_on, eta):
    """Algorithm 2, get_job: all promotable of a rung."""
    ranked = sorted(rung_values, key=lambda i: (rung_values[i], i))
    return [i for i in ranked[: len(rung_values) // eta] if i not in gone_on]


@pytest.mark.parametrize("eta", [2, 3])
def test_asha_agrees_with_algorithm_2_at_every_arrival(eta):
    """And a variant never waits that may go on; more go on than with the whole rung in sight."""
    first, num_steps = 4, 100
    rungs = asha(first, eta).looks(num_steps)

    def watch(seen, decisions):
        for rung in rungs:
            column = seen.steps.tolist().index(rung)
            values = {i: v for i, v in enumerate(seen.values[:, column]) if not np.isnan(v) and seen.allowed[i] >= rung}
            gone_on = {i for i in values if seen.allowed[i] > rung or not seen.running[i]}
            expected = set(loop_of_asha(values, gone_on, eta))
            moved = {i for i in values if seen.allowed[i] == rung and decisions.allowed[i] > rung}
            if moved != expected:  # only as the last resort
                assert not expected and len(moved) == 1 and moved <= set(np.flatnonzero(seen.running))
                waiting = {i for i in values if seen.running[i] and seen.allowed[i] == rung}
                assert moved == {min(waiting, key=lambda i: (values[i], i))}
            promotions.append(len(expected))

    rng, promotions, orders = np.random.default_rng(12), [], set()
    for _ in range(6):
        curves = walks(rng, 30)
        driven = drive(asha(first, eta), curves, num_steps, 20, rng, 1, watch)
        orders.add(tuple(drive(asha(first, eta), curves, num_steps, 20, rng).stopped) == tuple(driven.stopped))
        assert sum(step > first for step in driven.reached) >= 30 // eta - 4
        assert 100 in driven.reached
    assert sum(promotions) > 50 and False in orders  # the order of arrival matters: hence in_order


def test_asha_with_all_in_sight_at_once_is_successive_halving():
    """Where all arrive together and each rung's count is a multiple of eta."""
    curves = np.random.default_rng(13).random((81, 82))
    assert drive(asha(1, 3), curves, 81) == drive(successive_halving(1, 3), curves, 81)


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_asha_agrees_with_optuna_at_a_rung(eta):
    """From the eta-th trial on: whether a trial goes on at once, when its value arrives after all the others'.

    Of the first eta - 1 trials Optuna lets those go on that are the best so far; here they wait, as in the paper.
    """
    values = np.random.default_rng(14).random(40)
    study = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=10, reduction_factor=eta))
    theirs = []
    for value in values:
        trial = study.ask()
        trial.report(float(value), 10)
        theirs.append(not trial.should_prune())
    ours = [i in gone for i, gone in enumerate(arrive(asha(10, eta), values))]
    assert ours[eta - 1 :] == theirs[eta - 1 :] and 2 < sum(ours) < 38
    assert ours[: eta - 1] == [False] * (eta - 1)
    assert theirs[: eta - 1] == [values[i] == values[: i + 1].min() for i in range(eta - 1)]


def test_asha_differs_from_optuna_in_that_a_variant_may_go_on_later():
    values = [1, 2, 3, 4, 5, 6]
    study = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=10, reduction_factor=3))
    theirs = []
    for value in values:
        trial = study.ask()
        trial.report(float(value), 10)
        theirs.append(not trial.should_prune())
    assert theirs == [True] + [False] * 5  # 2 was stopped for good when it came
    assert arrive(asha(10, 3), values) == [[], [], [0], [], [], [1]]


# mistakes


def start(policy, num_steps, steps=None):
    looks = [*policy.looks(num_steps), num_steps] if steps is None else steps
    return policy.init(Seen(np.array(looks), np.full((2, len(looks)), NAN), np.full(2, num_steps), np.zeros(2, int), np.full(2, True)))


@every_rung_rule
def test_a_first_rung_that_nobody_trains_beyond(make):
    match = f"^{make.__name__}: first must be below num_steps = 50, got 50; first and num_steps both count steps, and nothing .*$"
    with pytest.raises(ValueError, match=match):
        start(make(50), 50)
    start(make(49), 50)


@every_rung_rule
def test_a_rung_that_is_not_measured(make):
    match = rf"^{make.__name__}: variants must be measured at every rung, got none at \[15\]; Policy.looks gives them$"
    with pytest.raises(ValueError, match=match):
        start(make(5), 40, [5, 10, 20, 40])
    start(make(5), 40, sorted({5, 10, 20, 40, *make(5).looks(40)}))


@every_rule
def test_mistakes_in_metric_and_mode(name):
    with pytest.raises(ValueError, match=f"^{name}: unknown mode 'maximum'; did you mean 'max'\\?$"):
        MAKERS[name](mode="maximum")
    MAKERS[name](mode="max")
    with pytest.raises(TypeError, match=f'^{name}: metric must be a name, got 3; such as "validation/loss"$'):
        MAKERS[name](metric=3)
    MAKERS[name](metric="validation/loss")


@mistakes(
    {
        "no patience": (lambda: patience(0), ValueError, "^patience: evaluations must be at least 1, got 0$", lambda: patience(1)),
        "patience a float": (
            lambda: patience(2.5),
            TypeError,
            "^patience: evaluations must be a whole number, got 2.5$",
            lambda: patience(2),
        ),
        "min_delta negative": (
            lambda: patience(2, -0.1),
            ValueError,
            r"^patience: min_delta must be in \[0, inf\), got -0.1$",
            lambda: patience(2, 0.1),
        ),
        "min_delta NaN": (lambda: patience(2, NAN), ValueError, "^patience: min_delta .* got nan$", lambda: patience(2, 0)),
        "no limit": (
            lambda: threshold(),
            ValueError,
            r"^threshold: needs below or above, got neither; such as threshold\(above=10.0\)$",
            lambda: threshold(above=10.0),
        ),
        "limits the wrong way round": (
            lambda: threshold(2.0, 1.0),
            ValueError,
            "^threshold: below must be smaller than above = 1.0, got 2.0; a variant goes on between the two$",
            lambda: threshold(1.0, 2.0),
        ),
        "limit NaN": (
            lambda: threshold(NAN),
            ValueError,
            "^threshold: below must be in .* got nan; None sets no limit$",
            lambda: threshold(0.0),
        ),
        "limit infinite": (
            lambda: threshold(above=INF),
            ValueError,
            r"^threshold: above must be in \(-inf, inf\), got inf; None sets no limit$",
            lambda: threshold(below=1.0, above=None),
        ),
        "limit a name": (lambda: threshold("low"), TypeError, "^threshold: below must be one number, got 'low'$", lambda: threshold(1)),
        "share none": (lambda: percentile(0), ValueError, r"^percentile: share must be in \(0, 1\), got 0$", lambda: percentile(0.1)),
        "share all": (lambda: percentile(1.0), ValueError, r"^percentile: share must be in \(0, 1\), got 1.0$", lambda: percentile(0.9)),
        "share a percentage": (
            lambda: percentile(25),
            ValueError,
            r"^percentile: share must be in \(0, 1\), got 25; a share, not a percentage: 0.25$",
            lambda: percentile(0.25),
        ),
        "share NaN": (lambda: percentile(NAN), ValueError, "^percentile: share .* got nan$", lambda: percentile(0.5)),
        "no first": (
            lambda: successive_halving(0),
            ValueError,
            "^successive_halving: first must be at least 1, got 0$",
            lambda: successive_halving(1),
        ),
        "first a float": (lambda: hyperband(1.5), TypeError, "^hyperband: first must be a whole number, got 1.5$", lambda: hyperband(2)),
        "eta too small": (lambda: asha(1, 1.5), ValueError, r"^asha: eta must be in \[2, inf\), got 1.5$", lambda: asha(1, 2)),
        "eta NaN": (lambda: hyperband(1, NAN), ValueError, "^hyperband: eta .* got nan$", lambda: hyperband(1, 2.0)),
        "eta infinite": (lambda: successive_halving(1, INF), ValueError, "^successive_halving: eta .* got inf$", lambda: asha(1, 1e6)),
        "eta a name": (lambda: asha(1, "3"), TypeError, "^asha: eta must be one number, got '3'$", lambda: asha(1, np.float32(3))),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)
