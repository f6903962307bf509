"""Population-based training: worked by hand, by its frequencies, driven as a sweep drives it, and on problems that need a schedule."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from properties import check_mistake, mistakes
from scipy.stats import binomtest, chisquare, kstest

from funcnet.evolve import binary_tournament, perturb, population, truncation
from funcnet.lattice import lattice
from funcnet.policy import Policy, Seen

INF, NAN = math.inf, math.nan
EXPLOITS = {"truncation": truncation(0.3), "binary_tournament": binary_tournament()}
every_exploit = pytest.mark.parametrize("name", EXPLOITS)
keep = perturb(factors=(1.0,), resample=0.0)


def rng_of(seed):
    return np.random.default_rng(seed)


def seen_at(column, values, **fields):
    """All variants are allowed the step of a column, and measured there; steps are 10, 20, ..."""
    values = np.array(values, float)
    values = np.tile(values[:, None], 4) if values.ndim == 1 else values
    values[:, column + 1 :] = NAN
    count, steps = len(values), 10 * np.arange(1, values.shape[1] + 1)
    given = {"num_steps": np.full(count, steps[-1]), "allowed": np.full(count, steps[column]), "running": np.full(count, True)}
    return Seen(steps, values, **(given | {name: np.array(field) if isinstance(field, list) else field for name, field in fields.items()}))


def decide(policy, seen, generation=0):
    return policy.decide({"generation": generation}, seen)[1]


def taken(policy, seen, generation=0):
    """Whom each takes over from."""
    copy = decide(policy, seen, generation).copy
    return [-1] * len(seen.allowed) if copy is None else copy.tolist()


def read_only(seen):
    """Copies that raise where they are written to: a policy is pure."""

    def copy(field):
        if isinstance(field, dict):
            return {name: copy(value) for name, value in field.items()}
        if isinstance(field, np.ndarray):
            field = field.copy()
            field.setflags(write=False)
        return field

    return Seen(*map(copy, seen))


class Driven(NamedTuple):
    """What came of a population."""

    values: np.ndarray  # (variants, evaluations)
    copies: list[tuple[int, list[int]]]  # (step, copy) of each decision in which somebody took over
    numbers: list[dict[str, list[float]]]  # of each evaluation, what led to it
    generations: int


def drive(policy, train, value, start, numbers, num_steps, eval_every, order_rng=None, **fields):
    """Does what a sweep does, one variant after the other.

    Args:
      train: (state, numbers) -> state, one step of all variants at once, each row by itself.
      value: state -> (variants,), inf or NaN where one diverges.
      start: (variants, size), the states.
      num_steps: one for all, or one each.
      order_rng: None where all variants arrive together at what they are allowed; else draws which ones arrive.
    """
    count, state = len(start), np.array(start, float)
    num_steps = np.broadcast_to(num_steps, count)
    steps = np.array(sorted({*range(eval_every, max(num_steps), eval_every), *num_steps.tolist()}))
    group = fields.get("group", np.zeros(count, int))
    numbers = {name: np.array(number) for name, number in numbers.items()}
    seen = Seen(steps, np.full((count, len(steps)), NAN), num_steps, np.zeros(count, int), np.full(count, True), numbers=numbers, **fields)
    policy_state, reached, copies, history = policy.init(read_only(seen)), np.zeros(count, int), [], {}
    while True:
        policy_state, decisions = policy.decide(policy_state, read_only(seen))
        assert list(map(type, policy_state.values())) == [int]  # fit for a file
        raised = decisions.allowed > seen.allowed
        assert not decisions.stop.any() and decisions.stop.dtype == bool
        assert (decisions.allowed >= seen.allowed).all() and (decisions.allowed <= num_steps).all() and seen.running[raised].all()
        if decisions.copy is not None:
            to = np.flatnonzero(decisions.copy >= 0)
            source = decisions.copy[to]
            assert len(to) and (source != to).all() and (group[source] == group[to]).all()
            assert raised[to].all() and raised[source].all() and len({*reached[[*to, *source]]}) == 1
            assert all((decisions.numbers[name] == number)[decisions.copy < 0].all() for name, number in numbers.items())
            copies.append((int(reached[to[0]]), decisions.copy.tolist()))
            state[to], numbers = state[source], decisions.numbers
        else:
            assert decisions.numbers is None
        values, running = seen.values.copy(), seen.running
        if not running.any():
            shown = [{name: number.tolist() for name, number in history[step].items()} for step in sorted(history)]
            return Driven(values, copies, shown, policy_state["generation"])
        pending = np.flatnonzero(running & (reached < decisions.allowed))
        assert len(pending), "all that run wait, and nothing more is decided"
        if order_rng is not None:
            pending = order_rng.permutation(pending)[: order_rng.integers(1, len(pending) + 1)]
        for step in {*decisions.allowed[pending].tolist()}:
            which = pending[decisions.allowed[pending] == step]
            history.setdefault(step, numbers)
            for _ in range(step - reached[which[0]]):
                state[which] = train(state[which], {name: number[which] for name, number in numbers.items()})
            reached[which] = step
            values[which, steps == step] = value(state[which])
        lost = ~np.isfinite(values).all(axis=1, where=steps <= reached[:, None])
        values[lost[:, None] & (steps >= reached[:, None])] = INF
        seen = seen._replace(values=values, running=(reached < num_steps) & ~lost, allowed=decisions.allowed, numbers=numbers)


# the policy


def test_carries_its_name_metric_and_mode():
    policy = population(metric="validation/accuracy", mode="max")
    assert isinstance(policy, Policy)
    assert (policy.name, policy.metric, policy.mode) == ("population", "validation/accuracy", "max")
    plain = population()
    assert (plain.metric, plain.mode, plain.looks, plain.in_order) == (None, None, None, False)


def test_by_hand():
    """Of ten the worst two, 7 and 3, take over from the best two, 4 and 9; explore sees the number of the one taken over."""
    calls = []

    def explore(*arguments):
        calls.append(arguments[:-1])
        assert isinstance(arguments[-1], np.random.Generator)
        return arguments[1] + 0.5

    seen = seen_at(
        1,
        [5, 4, 3, 9, 0, 6, 7, 8, 2, 1],
        numbers={"rate": np.arange(10.0), "decay": np.arange(10) / 10},
        bounds={"rate": (0.0, 100.0), "decay": (0.0, 0.95)},
        logarithmic=frozenset(["rate"]),
    )
    state, decisions = population(truncation(0.2), explore).decide({"generation": 3}, read_only(seen))
    assert state == {"generation": 4}
    assert decisions.allowed.tolist() == [30] * 10 and not decisions.stop.any()
    sources = decisions.copy[[3, 7]].tolist()
    assert {*sources} <= {4, 9}
    assert [copy for place, copy in enumerate(decisions.copy.tolist()) if place not in (3, 7)] == [-1] * 8
    expected = {"rate": np.arange(10.0), "decay": np.arange(10) / 10}
    for place, source in zip((3, 7), sources, strict=True):
        expected["rate"][place] = source + 0.5
        expected["decay"][place] = 0.9 if source == 4 else np.nextafter(np.float32(0.95), np.float32(0))  # of 1.4, which is outside
    for name, number in expected.items():
        np.testing.assert_array_equal(decisions.numbers[name], number)
    assert sorted(calls) == sorted(
        call for s in sources for call in [("rate", float(s), 0.0, 100.0, True), ("decay", s / 10, 0.0, 0.95, False)]
    )


def test_all_take_over_at_once():
    """In a chain each gets what its source was, not what that becomes."""
    chain = population(lambda values, rng: np.array([1, 2, -1]), lambda name, value, *rest: value + 0.5)
    decisions = decide(chain, seen_at(0, [3, 2, 1], numbers={"rate": np.array([10.0, 20.0, 30.0])}))
    assert decisions.copy.tolist() == [1, 2, -1] and decisions.numbers["rate"].tolist() == [20.5, 30.5, 30.0]


def test_defaults_are_truncation_and_perturb():
    fields = {"numbers": {"rate": np.linspace(1, 2, 40)}, "bounds": {"rate": (1.0, 2.0)}, "seed": 5}
    seen = seen_at(0, rng_of(1).random(40), **fields)
    default, same = decide(population(), seen), decide(population(truncation(0.2), perturb((0.8, 1.2), 0.25)), seen)
    assert default.copy.tolist() == same.copy.tolist() and default.numbers["rate"].tolist() == same.numbers["rate"].tolist()
    other = decide(population(truncation(0.2), perturb((0.8, 1.2), 0.75)), seen)
    assert other.numbers["rate"].tolist() != same.numbers["rate"].tolist()
    assert sum(copy >= 0 for copy in default.copy) == 8


def test_a_seed_and_a_generation_decide_the_draws():
    policy = population(binary_tournament())
    fields = {"numbers": {"rate": np.ones(30)}, "bounds": {"rate": (0.0, 2.0)}}

    def outcome(seed, generation):
        decisions = decide(policy, seen_at(0, np.arange(30), seed=seed, **fields), generation)
        return decisions.copy.tolist(), decisions.numbers["rate"].tolist()

    assert outcome(1, 0) == outcome(1, 0)
    others = [outcome(seed, generation) for seed, generation in [(1, 0), (2, 0), (1, 1), (0, 1), (2**64 + 1, 0)]]
    assert all(a[0] != b[0] and a[1] != b[1] for i, a in enumerate(others) for b in others[:i])


def test_the_order_in_which_numbers_are_given_decides_nothing():
    numbers = {name: np.ones(10) for name in ("a", "b", "c")}
    bounds = dict.fromkeys(numbers, (0.0, 2.0))
    results = [
        decide(population(), seen_at(0, np.arange(10), numbers={name: numbers[name] for name in order}, bounds=bounds)).numbers
        for order in ("abc", "cab")
    ]
    assert all(results[0][name].tolist() == results[1][name].tolist() for name in numbers)
    assert results[0]["a"].tolist() != results[0]["b"].tolist()  # each has draws of its own


def walk(state, numbers):
    """Each variant by itself; the best rate depends on where it is, and a rate beyond 3 diverges."""
    rate = numbers["rate"][:, None]
    return np.where(rate > 3, NAN, state - 0.1 * rate * np.sin(7 * state))


def distance(state):
    return (state**2).sum(axis=1)


@every_exploit
@pytest.mark.parametrize("num_steps", [60, (23, 40, 60)], ids=["one length", "lengths"])
def test_decisions_do_not_depend_on_the_order_of_arrival(name, num_steps):
    rng = rng_of(3)
    start, rates = rng.standard_normal((24, 2)), rng.uniform(0, 3.3, 24)
    fields = {"seed": 11, "group": rng.integers(0, 3, 24), "bounds": {"rate": (0.0, 3.3)}}
    lengths = rng.choice(num_steps, 24) if isinstance(num_steps, tuple) else num_steps

    def run(order_rng):
        return drive(population(EXPLOITS[name]), walk, distance, start, {"rate": rates}, lengths, 10, order_rng, **fields)

    together = run(None)
    assert together.generations == len(together.copies) == (5 if num_steps == 60 else 6)
    assert np.isinf(together.values).any() and np.isfinite(together.values[:, -1]).any()
    for seed in range(5):
        driven = run(rng_of(seed))
        np.testing.assert_array_equal(driven.values, together.values)
        assert driven[1:] == together[1:]


def test_it_waits_for_all_that_train_on():
    policy, values = population(truncation(0.5)), [[1, 1], [2, 2], [3, 3], [NAN, NAN]]
    seen = seen_at(0, values)
    state, decisions = policy.decide({"generation": 0}, seen)
    assert state == {"generation": 0} and decisions.copy is None and decisions.allowed.tolist() == [10] * 4
    for change in ({"running": np.array([True] * 3 + [False])}, {"num_steps": np.array([20] * 3 + [10])}):  # nothing more comes from it
        state, decisions = policy.decide({"generation": 0}, seen._replace(**change))
        assert state == {"generation": 1} and decisions.copy.tolist() == [-1, -1, 0, -1] and decisions.allowed.tolist() == [20] * 3 + [10]


def test_all_set_out_for_the_first_evaluation():
    seen = seen_at(0, [1, 2, 3], allowed=[0, 0, 0], num_steps=[40, 40, 4])._replace(values=np.full((3, 4), NAN))
    state, decisions = population().decide({"generation": 0}, seen)
    assert state == {"generation": 0} and decisions.copy is None and decisions.allowed.tolist() == [10, 10, 4]
    _, decisions = population().decide(state, seen._replace(values=np.arange(12.0).reshape(3, 4)))
    assert decisions.copy is None and decisions.allowed.tolist() == [10, 10, 4]


def test_those_behind_are_decided_first():
    """Were some further on, they would wait, and have no part: their states are of another step."""
    values = [[9, 9, NAN], [1, 1, NAN], [5, NAN, NAN], [6, NAN, NAN]]
    seen = seen_at(1, values, allowed=[20, 20, 10, 10])
    decisions = decide(population(truncation(0.5)), seen._replace(values=np.array(values)))
    assert decisions.copy.tolist() == [-1, -1, -1, 2] and decisions.allowed.tolist() == [20] * 4


def test_at_the_end_nobody_takes_over():
    seen = seen_at(3, [1, 2, 3, 4])
    state, decisions = population(truncation(0.5)).decide({"generation": 3}, seen)
    assert state == {"generation": 3} and decisions.copy is None and decisions.allowed.tolist() == [40] * 4


@every_exploit
def test_groups_never_mix(name):
    rng = rng_of(8)
    for generation in range(50):
        group = rng.integers(0, 4, 20) * 10
        copy = np.array(taken(population(EXPLOITS[name]), seen_at(1, rng.random(20), group=group), generation))
        assert (group[copy[copy >= 0]] == group[copy >= 0]).all() and (copy >= 0).any()


def test_each_group_is_a_population_of_its_own():
    """Of four and of two, half; the variant that is alone, and the best of all, takes no part."""
    group = [7, 7, 0, 7, 9, 7, 0]
    values = [4, 1, 30, 2, 0, 3, 20]
    calls = []

    def exploit(values, rng):
        calls.append(values.tolist())
        return truncation(0.5)(values, rng)

    copy = taken(population(exploit), seen_at(0, values, group=group))
    assert calls == [[30, 20], [4, 1, 2, 3]]
    assert copy[2] == 6 and {copy[0], copy[5]} <= {1, 3} and [copy[i] for i in (1, 3, 4, 6)] == [-1] * 4
    assert taken(population(truncation(0.5)), seen_at(0, values, group=list(range(7)))) == [-1] * 7


@every_exploit
def test_the_diverged_and_the_ended_have_no_part(name):
    """Even where an ended one has the best value."""
    running, num_steps = [True, True, False, True, False], [40, 40, 40, 10, 40]
    seen = seen_at(0, [5, 4, 3, 1, INF], running=running, num_steps=num_steps)
    copies = [taken(population(EXPLOITS[name]), seen, generation) for generation in range(40)]
    assert {tuple(copy) for copy in copies} == {(1, -1, -1, -1, -1)}
    assert decide(population(), seen).allowed.tolist() == [20, 20, 10, 10, 10]


@every_exploit
def test_a_metric_without_a_value_is_the_worst(name):
    copies = [taken(population(EXPLOITS[name]), seen_at(0, [INF, 1, 2, 3]), generation) for generation in range(40)]
    assert {copy[0] for copy in copies} <= {-1, 1, 2, 3} and any(copy[0] >= 0 for copy in copies)
    assert all(0 not in copy for copy in copies)


def test_one_variant_alone_trains_to_its_end():
    driven = drive(population(), walk, distance, np.ones((1, 1)), {"rate": [1.0]}, 60, 10)
    assert driven.copies == [] and np.isfinite(driven.values).all()


def test_states_alone_are_taken_over_where_there_are_no_numbers():
    for numbers in (None, {}):
        decisions = decide(population(truncation(0.5)), seen_at(0, [2, 1], numbers=numbers))
        assert decisions.copy.tolist() == [1, -1] and decisions.numbers is None


def test_a_number_that_a_variant_does_not_have():
    """Where some recipes have a decay and others have none, these are in other groups."""
    seen = seen_at(0, [2, 1, 4, 3], group=[0, 0, 1, 1], numbers={"decay": np.array([NAN, NAN, 0.5, 0.6])}, bounds={"decay": (0.0, 1.0)})
    decisions = decide(population(truncation(0.5), keep), seen)
    assert decisions.copy.tolist() == [1, -1, 3, -1]
    np.testing.assert_array_equal(decisions.numbers["decay"], [NAN, NAN, 0.6, 0.6])


def test_functions_of_ones_own_cannot_change_what_is_seen():
    def exploit(values, rng):
        values[:] = 0
        return [1, -1]

    seen = seen_at(0, [2, 1], numbers={"rate": np.array([1.0, 2.0])})
    decisions = decide(population(exploit, lambda *_: jnp.float32(0.5)), seen)
    assert seen.values[:, 0].tolist() == [2, 1] and seen.numbers["rate"].tolist() == [1, 2]
    assert decisions.copy.tolist() == [1, -1] and decisions.numbers["rate"].tolist() == [0.5, 2.0]


# who takes over from whom


@pytest.mark.parametrize(
    "share, values, worst, best",
    [
        (0.2, [3, 1, 4, 1.5, 5], [4], [1]),
        (0.2, [3, 1, 2], [0], [1]),  # at least one
        (0.2, [1, 2], [1], [0]),
        (0.2, [1], [], []),
        (0.5, [3, 1, 4, 1.5, 5], [2, 4], [1, 3]),  # 2.5 rounded down: nobody is both
        (0.5, [2, 1], [0], [1]),
        (0.4, [7, 7, 7, 7, 7], [3, 4], [0, 1]),  # of equals the earlier is the better
        (0.5, [INF, 2, INF, 1], [0, 2], [1, 3]),
        (0.02, [1] * 50 + [0] * 50, [48, 49], [50, 51]),
    ],
)
def test_truncation_by_hand(share, values, worst, best):
    exploit = truncation(share)
    copies = np.array([exploit(np.array(values, float), rng_of(seed)) for seed in range(40)])
    assert np.flatnonzero((copies >= 0).any(axis=0)).tolist() == np.flatnonzero((copies >= 0).all(axis=0)).tolist() == worst
    assert sorted({*copies[copies >= 0].tolist()}) == best


def test_a_share_counts_as_its_decimals_say():
    """0.29 * 100 and 0.07 * 100 are a bit less and a bit more than they should be."""
    for share, count in ((0.29, 29), (0.07, 7), (0.015, 1), (0.0199, 1)):
        assert (truncation(share)(np.arange(100.0), rng_of(0)) >= 0).sum() == count


def test_truncation_takes_each_of_the_best_as_often():
    rng, exploit = rng_of(4), truncation(0.3)
    values = rng.permutation(10).astype(float)
    best, worst = np.argsort(values)[:3], np.argsort(values)[-3:]
    copies = np.array([exploit(values, rng)[worst] for _ in range(5400)])
    joint = np.array([((copies == np.array(best)[list(place)]).all(axis=1)).sum() for place in np.ndindex(3, 3, 3)])
    assert joint.sum() == 5400 and chisquare(joint).pvalue > 1e-3  # also independent of each other


def test_a_tournament_is_won_by_the_better_of_two():
    """The variant of rank r is taken over from by chance r / 5, from each better one alike; from an equal one never."""
    rng, exploit = rng_of(5), binary_tournament()
    values = np.array([3.0, 0.0, 4.0, 1.0, 2.0, 5.0])
    copies = np.array([exploit(values, rng) for _ in range(6000)])
    for place, rank in enumerate(values.astype(int)):
        counts = np.bincount(copies[:, place] + 1, minlength=7)
        assert (counts[1:][values >= rank] == 0).all()
        expected = np.append(6000 * (5 - rank) / 5, np.where(values < rank, 1200, 0))
        assert rank == 0 or chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3
    assert (binary_tournament()(np.full(9, 2.0), rng) == -1).all()
    assert binary_tournament()(np.array([1.0]), rng).tolist() == [-1] and binary_tournament()(np.array([]), rng).tolist() == []


# the new numbers


def explored(explore, n, value=1.0, low=-INF, high=INF, logarithmic=False, seed=6):
    rng = rng_of(seed)
    return np.array([explore("rate", value, low, high, logarithmic, rng) for _ in range(n)])


def test_perturb_takes_each_factor_as_often():
    values = explored(perturb((0.5, 1.5, 2.0), resample=0.0), 3000, value=-2.0)
    assert {*values.tolist()} == {-1.0, -3.0, -4.0}
    assert chisquare([(values == value).sum() for value in (-1, -3, -4)]).pvalue > 1e-3


@pytest.mark.parametrize("resample", [0.25, 0.6])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_perturb_draws_a_share_anew(resample, logarithmic):
    low, high = 1e-3, 10.0
    values = explored(perturb((0.8, 1.2), resample), 4000, 0.5, low, high, logarithmic)
    drawn = values[~np.isin(values, [0.5 * 0.8, 0.5 * 1.2])]
    assert binomtest(len(drawn), 4000, resample).pvalue > 1e-3
    cdfs = [lambda v: (v - low) / (high - low), lambda v: np.log(v / low) / np.log(high / low)]
    assert kstest(drawn, cdfs[logarithmic]).pvalue > 1e-3 and kstest(drawn, cdfs[not logarithmic]).pvalue < 1e-6
    assert (drawn >= low).all() and (drawn < high).all()


@pytest.mark.parametrize("low, high", [(-INF, INF), (0.0, INF), (-INF, 2.0)])
def test_nothing_is_drawn_between_infinite_bounds(low, high):
    assert {*explored(perturb((0.5, 1.5), resample=1.0), 200, 1.0, low, high)} == {0.5, 1.5}


def test_always_and_never_are_what_they_say():
    assert not np.isin(explored(perturb((0.5,), 1.0), 200, 1.0, 0.0, 2.0), [0.5]).any()
    assert (explored(perturb((0.5,), 0.0), 200, 1.0, 0.0, 2.0) == 0.5).all()


def test_zero_stays_until_it_is_drawn_anew():
    assert (explored(perturb(resample=0.0), 50, 0.0, 0.0, 1.0) == 0).all()
    values = explored(perturb(resample=0.5), 400, 0.0, 0.0, 1.0)
    assert binomtest(int((values == 0).sum()), 400, 0.5).pvalue > 1e-3


BOUNDS = {
    "high": (0.9, 0.0, 1.0, 2.0),
    "high itself": (0.5, 0.0, 1.0, 2.0),
    "a float32 above its decimals": (0.25, 0.0, 0.3, 2.0),
    "a float32 below its decimals": (0.5, 0.0, 0.7, 2.0),
    "just below high": (0.5, 0.0, 1.0, 2 - 1e-12),
    "negative": (-0.1, -1.0, -0.1, 0.5),
    "large": (3e38, 0.0, 1e39, 5.0),
    "narrow": (1.0, 1.0, 1.0 + 1e-12, 2.0),
    "open below": (0.9, -INF, 1.0, 2.0),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_high_is_left_out_also_where_training_rounds_to_float32(case):
    value, low, high, factor = BOUNDS[case]
    found = perturb((factor,), 0.0)("rate", value, low, high, False, rng_of(0))
    assert low <= found < high
    if case == "large":  # the last float32 there is
        assert found == np.finfo(np.float32).max
    elif case == "narrow":  # no float32 lies between the two
        assert found == low
    else:
        assert high - found <= 1e-6 * abs(high) and np.float32(found) < np.float32(high)


def test_the_lowest_is_low_and_equal_bounds_fix_a_number():
    assert perturb((0.5,), 0.0)("rate", 0.15, 0.1, 1.0, False, rng_of(0)) == 0.1
    assert perturb((0.5,), 0.0)("rate", 0.15, 0.1, INF, False, rng_of(0)) == 0.1
    for logarithmic in (False, True):
        assert set(explored(perturb((0.5, 2.0), 0.5), 100, 0.9, 0.9, 0.9, logarithmic)) == {0.9}


def test_what_explore_gives_is_kept_within_the_bounds():
    """Also by an explore that pays no heed to them."""
    numbers = {"a": np.zeros(2), "b": np.zeros(2), "c": np.full(2, 7.0), "d": np.zeros(2)}
    seen = seen_at(0, [2, 1], numbers=numbers, bounds={"a": (0.0, 1.0), "b": (-3.0, 3.0), "c": (7.0, 7.0)})
    found = decide(population(explore=lambda name, *_: -100 if name == "b" else 100), seen).numbers
    assert [found[name][0] for name in "abcd"] == [float(np.nextafter(np.float32(1), np.float32(0))), -3.0, 7.0, 100.0]


def test_whole_numbers_stay_whole_and_are_drawn_alike():
    count = 6000
    numbers, bounds = np.full(2 * count, 3), {"units": (1, 5)}
    pairs = {"group": np.arange(2 * count) // 2, "values": np.tile([2.0, 1.0], count)}
    seen = seen_at(0, pairs["values"], group=pairs["group"], numbers={"units": numbers}, bounds=bounds)

    def found(explore):
        units = decide(population(explore=explore), seen).numbers["units"]
        assert units.dtype == numbers.dtype
        return units[::2]

    assert chisquare(np.bincount(found(perturb(resample=1.0)), minlength=5)[1:]).pvalue > 1e-3
    assert {*found(perturb((0.5, 0.8, 1.2, 10.0), 0.0)).tolist()} == {2, 4}  # 1.5, 2.4, 3.6, and 30, which is outside
    assert [{*found(lambda *_, value=value: value).tolist()} for value in (-5.4, 1.6, 4.4, 4.6)] == [{1}, {2}, {4}, {4}]
    seen = seen._replace(bounds={"units": (3, 3)})
    assert {*found(perturb(resample=0.5)).tolist()} == {3}
    seen = seen._replace(bounds=None)
    assert {*found(perturb((0.4, 9.0), 0.0)).tolist()} == {1, 27}


def stepped(own, count=4000):
    """Pairs, of which the first takes over from the second, whose number is 1."""
    pairs = {"group": np.arange(2 * count) // 2, "values": np.tile([2.0, 1.0], count)}
    given = {"numbers": {"v": np.ones(2 * count, np.int64 if isinstance(own.low, int) else float)}, "lattices": {"v": own}}
    return seen_at(0, pairs["values"], group=pairs["group"], bounds={"v": (own.low, own.low + own.step * own.size)}, **given)


@pytest.mark.parametrize("own", [lattice("uniform", 0.1, 0.75, 0.1), lattice("integers", 1, 12, 3)], ids=["floats", "whole"])
def test_numbers_in_steps_stay_on_them_and_are_drawn_alike(own):
    seen, known = stepped(own), [own.at(k) for k in range(own.size)]

    def found(explore):
        return decide(population(explore=explore), seen).numbers["v"][::2]

    drawn = found(perturb(resample=1.0))
    assert set(drawn.tolist()) == set(known) and chisquare([np.sum(drawn == value) for value in known]).pvalue > 1e-3
    for given in (-100.0, 100.0, 0.349, 4.7):
        assert set(found(lambda *_, given=given: given).tolist()) == {own.nearest(given)}
    assert set(found(perturb((0.33, 3.9), 0.0)).tolist()) == {own.nearest(0.33), own.nearest(3.9)}


def test_numbers_that_a_constraint_rejects_are_explored_again():
    """Then those of the source count, and then its own."""
    seen = seen_at(0, [2, 1], numbers={"v": np.array([5.0, 7.0]), "w": np.array([1.0, 1.0])})
    asked = []

    def accepts(variant, numbers):
        asked.append(numbers["v"])
        return variant == 0 and numbers["v"] in allowed

    policy = population(explore=lambda name, value, low, high, logarithmic, rng: float(rng.integers(10, 20)))
    for allowed, tries in (({13.0}, None), ({5.0, 7.0}, 101), ({5.0}, 101), ({*range(10, 20)}, 1)):
        asked.clear()
        decisions = decide(policy, seen._replace(accepts=accepts))
        expected = {13.0} if 13.0 in allowed and len(allowed) == 1 else {7.0} if 7.0 in allowed else allowed
        assert decisions.copy.tolist() == [1, -1] and decisions.numbers["v"][0] in expected
        assert (len(asked) == tries if tries else len(asked) > 1) and decisions.numbers["v"][1] == 7.0
    assert decide(policy, seen._replace(accepts=accepts)).numbers["v"][0] == decide(policy, seen).numbers["v"][0]  # no draw more


# what it is for


@pytest.mark.parametrize("seed", range(10))
def test_figure_2_of_the_paper(seed):
    """Q = 1.2 - (t0^2 + t1^2) is to be large; a member climbs 1.2 - (h0 t0^2 + h1 t1^2), with h = (1, 0) or (0, 1).

    Each alone gets rid of one of the two, and ends below 1.2 - 0.9^2 = 0.39. Taking over in turns gets rid of both.
    """

    def climb(theta, numbers):
        return theta - 0.02 * 2 * np.stack([numbers["h0"], numbers["h1"]], axis=1) * theta

    def run(policy):
        numbers, bounds = {"h0": [1.0, 0.0], "h1": [0.0, 1.0]}, {"h0": (0.0, 1.0), "h1": (0.0, 1.0)}
        theta = np.full((2, 2), 0.9)
        return drive(policy, climb, lambda theta: distance(theta) - 1.2, theta, numbers, 200, 4, bounds=bounds, seed=seed)

    fixed, found = run(population(lambda values, rng: [-1, -1])), run(population(truncation(0.5)))
    assert fixed.copies == [] and (-fixed.values[:, -1] < 0.39).all() and (-fixed.values[:, -1] > 0.38).all()
    assert (-found.values[:, -1]).max() > 1.15
    assert (np.diff(found.values.min(axis=0)) <= 1e-12).all()  # the better of the two is never given up


def descend(theta, numbers):
    """Steps of one length: far away long ones are the best, close by short ones."""
    return theta - numbers["rate"][:, None] * np.sign(theta)


def mean_square(theta):
    return (theta**2).mean(axis=1)


START = np.linspace(0.7, 1.3, 7) ** 1.5


def descent(policy, rates, seed=0):
    start, fields = np.tile(START, (len(rates), 1)), {"bounds": {"rate": (1e-3, 0.3)}, "logarithmic": frozenset(["rate"])}
    return drive(policy, descend, mean_square, start, {"rate": rates}, 200, 5, seed=seed, **fields)


def best_fixed_rate():
    theta, rates = np.tile(START, (4000, 1)), np.geomspace(1e-3, 0.3, 4000)
    for _ in range(200):
        theta = descend(theta, {"rate": rates})
    return mean_square(theta).min()


@every_exploit
def test_a_schedule_is_found_that_beats_every_fixed_number(name):
    rates, fixed = np.geomspace(1e-3, 0.3, 20), best_fixed_rate()
    assert fixed < descent(population(lambda values, rng: np.full(20, -1)), rates).values[:, -1].min()
    for seed in range(8):
        driven = descent(population(EXPLOITS[name]), rates, seed)
        assert driven.values[:, -1].min() < fixed / 4
        middle = [np.median(numbers["rate"]) for numbers in driven.numbers]
        assert np.max(middle[:20]) > 4 * np.mean(middle[-5:])  # long steps first, short ones at last
        copied = descent(population(EXPLOITS[name], keep), rates, seed)
        assert copied.values[:, -1].min() > 10 * fixed  # taking over without trying others keeps to what was good at first


# mistakes


def test_a_sweep_that_is_measured_at_its_end_alone():
    match = r"^population: variants must be measured before num_steps = 40, got evaluations at \[40\]; let eval_every be shorter$"
    seen = seen_at(0, [1, 2])
    with pytest.raises(ValueError, match=match):
        population().init(seen._replace(steps=np.array([40])))
    assert population().init(seen._replace(steps=np.array([20, 40]))) == {"generation": 0}
    assert population().init(seen._replace(steps=np.array([20, 40]), num_steps=np.array([20, 40]))) == {"generation": 0}


def test_a_number_on_a_log_scale_must_be_positive():
    match = r"^perturb: low of 'rate', which is drawn on a log scale, must be in \(0, inf\), got 0.0$"
    with pytest.raises(ValueError, match=match):
        perturb(resample=1.0)("rate", 0.5, 0.0, 1.0, True, rng_of(0))
    perturb(resample=1.0)("rate", 0.5, 0.1, 1.0, True, rng_of(0))


def gives(copy):
    return lambda: decide(population(lambda values, rng: copy), seen_at(0, [3, 2, 1], numbers={"rate": np.ones(3)}))


def becomes(value):
    return lambda: decide(population(explore=lambda *_: value), seen_at(0, [3, 2, 1], numbers={"rate": np.ones(3)}))


@mistakes(
    {
        "no share": (
            lambda: truncation(0),
            ValueError,
            r"^truncation: share must be in \(0, 0.5\], got 0; a share of all variants, not a percentage$",
            lambda: truncation(0.2),
        ),
        "share too large": (lambda: truncation(0.6), ValueError, r"^truncation: share .* got 0.6", lambda: truncation(0.5)),
        "share NaN": (lambda: truncation(NAN), ValueError, "^truncation: share .* got nan", lambda: truncation(1e-9)),
        "share a name": (
            lambda: truncation("a fifth"),
            TypeError,
            "^truncation: share must be one number, got 'a fifth'$",
            lambda: truncation(np.float32(0.2)),
        ),
        "factors one number": (
            lambda: perturb(1.2),
            TypeError,
            r"^perturb: factors must be a list of numbers, got 1.2; such as \(0.8, 1.2\)$",
            lambda: perturb([1.2]),
        ),
        "factors a name": (lambda: perturb("12"), TypeError, "^perturb: factors .* got '12'", lambda: perturb(np.array([0.8, 1.2]))),
        "no factors": (
            lambda: perturb(()),
            ValueError,
            r"^perturb: factors must have at least one, got none; factors=\(1.0,\) changes nothing$",
            lambda: perturb((1.0,)),
        ),
        "factor zero": (
            lambda: perturb((1, 0)),
            ValueError,
            r"^perturb: factors\[1\] must be in \(0, inf\), got 0$",
            lambda: perturb((1, 2)),
        ),
        "factor NaN": (lambda: perturb((NAN,)), ValueError, r"^perturb: factors\[0\] .* got nan$", lambda: perturb((0.5,))),
        "factor infinite": (lambda: perturb((INF,)), ValueError, r"^perturb: factors\[0\] .* got inf$", lambda: perturb((1e3,))),
        "resample a percentage": (
            lambda: perturb(resample=25),
            ValueError,
            r"^perturb: resample must be in \[0, 1\], got 25$",
            lambda: perturb(resample=1),
        ),
        "resample NaN": (lambda: perturb(resample=NAN), ValueError, "^perturb: resample .* got nan$", lambda: perturb(resample=0)),
        "resample nothing": (lambda: perturb(resample=None), TypeError, "^perturb: resample must be one number, got None$", perturb),
        "exploit a number": (
            lambda: population(0.2),
            TypeError,
            r"^population: exploit must be a function, got 0.2; such as truncation\(\)$",
            lambda: population(truncation(0.2)),
        ),
        "explore an array": (
            lambda: population(explore=np.array([0.8, 1.2])),
            TypeError,
            r"^population: explore must be a function, got array\(\[0.8, 1.2\]\); such as perturb\(\)$",
            lambda: population(explore=perturb(np.array([0.8, 1.2]))),
        ),
        "exploit not called": (
            lambda: population(binary_tournament),
            TypeError,
            r"^population: exploit must be a rule, got binary_tournament; binary_tournament\(\) makes one$",
            lambda: population(binary_tournament()),
        ),
        "explore not called": (
            lambda: population(explore=perturb),
            TypeError,
            r"^population: explore must be a rule, got perturb; perturb\(\) makes one$",
            lambda: population(explore=perturb()),
        ),
        "mode": (
            lambda: population(mode="maximum"),
            ValueError,
            r"^population: unknown mode 'maximum'; did you mean 'max'\?$",
            lambda: population(mode="max"),
        ),
        "metric": (
            lambda: population(metric=3),
            TypeError,
            '^population: metric must be a name, got 3; such as "validation/loss"$',
            lambda: population(metric="validation/loss"),
        ),
        "too few": (
            gives([-1, -1]),
            ValueError,
            r"^population: what exploit gives must have shape \(3,\), got \(2,\); one entry a variant of the group$",
            gives([-1, -1, -1]),
        ),
        "floats": (
            gives([2.0, -1.0, -1.0]),
            TypeError,
            "^population: exploit must give whole numbers, got float64; places of variants, -1 where one keeps its own$",
            gives([2, -1, -1]),
        ),
        "truths": (gives([True, False, False]), TypeError, "^population: exploit must give whole numbers, got bool", gives([1, -1, -1])),
        "outside": (
            gives([-1, 3, -1]),
            ValueError,
            r"^population: exploit must give -1 or the place of another of 3 variants for variant 1 of the group, got 3; "
            "-1 where one keeps its own$",
            gives(np.array([2, 2, -1], np.int8)),
        ),
        "below": (
            gives([-2, -1, -1]),
            ValueError,
            "^population: exploit must give -1 or .* variant 0 of the group, got -2",
            gives([1, 0, 0]),
        ),
        "itself": (
            gives([-1, -1, 2]),
            ValueError,
            "^population: exploit must give -1 or .* variant 2 of the group, got 2",
            gives([-1, -1, 1]),
        ),
        "a number NaN": (
            becomes(NAN),
            ValueError,
            r"^population: what explore gives for 'rate' must be in \(-inf, inf\), got nan$",
            becomes(1),
        ),
        "a number infinite": (becomes(INF), ValueError, "^population: what explore gives for 'rate' .* got inf$", becomes(np.float32(1))),
        "no number": (
            becomes(None),
            TypeError,
            "^population: what explore gives for 'rate' must be one number, got None$",
            becomes(np.array(2.0)),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)
