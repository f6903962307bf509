"""What a picture decides before it draws: which entries are one value, which scale they are spread on, what lies far out."""

import math

import numpy as np
import pytest

import funcnet as fn
from funcnet import scales


@pytest.mark.parametrize(
    "entries, labels, codes",
    [
        ([None, 0.5, None, 1.0], ["None", "0.5", "1"], [0, 1, 0, 2]),
        ([math.nan, 2.0, math.nan], ["nan", "2"], [0, 1, 0]),
        ([True, False, True], ["True", "False"], [0, 1, 0]),
        ([True, 1, 1.0, False, 0], ["True", "False", "0", "1"], [0, 3, 3, 1, 2]),
        ([math.inf, 5.0, math.inf], ["inf", "5"], [0, 1, 0]),
        (["b", "a", "b"], ["b", "a"], [0, 1, 0]),
        (["auto", 0.1, None, 0.1], ["auto", "None", "0.1"], [0, 2, 1, 2]),
        ([(8, 8), (8,), (8, 8)], ["(8, 8)", "(8,)"], [0, 1, 0]),
        ([[8, 8], [8], [8, 8]], ["[8, 8]", "[8]"], [0, 1, 0]),
        ([np.float32(0.1), np.int64(3), np.float32(0.1)], ["0.1", "3"], [0, 1, 0]),
        ([np.bool_(True), True, 1], ["True", "1"], [0, 0, 1]),
        ([fn.sgd, fn.adam, fn.sgd], ["sgd", "adam"], [0, 1, 0]),
    ],
    ids=lambda case: str(case) if isinstance(case, list) and not callable(case[0]) else None,
)
def test_one_value_is_one_entry_and_two_are_two(entries, labels, codes):
    column = scales.column(entries)
    assert column.labels == labels
    assert column.codes.tolist() == codes
    for entry, number in zip(entries, column.numbers, strict=True):
        if isinstance(entry, bool | np.bool_ | str | tuple | list | None) or callable(entry) or not math.isfinite(entry):
            assert math.isnan(number)
        else:
            assert number == entry


def test_a_column_of_a_table_is_read_as_a_list_is():
    assert scales.column(np.array([None, 0.5, True], object)).labels == ["None", "True", "0.5"]
    assert scales.column(np.array([True, False])).labels == ["True", "False"]
    assert scales.column(np.array([3, 1, 2])).codes.tolist() == [2, 0, 1]
    assert scales.column(np.array(["x", "y"])).names == 2
    assert scales.column([]).values == []


def test_two_lambdas_stay_two():
    column = scales.column([lambda x: x, lambda x: -x])
    assert column.labels == ["<lambda> (1)", "<lambda> (2)"]


def test_long_names_are_cut_and_stay_apart():
    first, second = scales.column([(64,) * 30, (64,) * 31]).labels
    assert max(len(first), len(second)) < 34 and first != second and "…" in first


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-9])
def test_short_numbers_are_told_apart_in_no_more_digits_than_it_takes(seed, spread):
    values = (1 + spread * np.random.default_rng(seed).random(40)).tolist()
    words = scales.short(values)
    assert len(set(words)) == len(set(values))
    digits = max(len(word) for word in words) - 1
    assert digits <= 5 - math.log10(spread)
    if digits > 3:
        assert len({f"{value:.{digits - 1}g}" for value in values}) < len(set(values))


LINEAR = {
    "a step of one": [1, 2, 3],
    "counted": list(range(1, 101)),
    "from a hundred": list(range(100, 201, 10)),
    "shares with zero": [0.0, 0.1, 0.2, 0.5],
    "tenths": [0.0, 0.25, 0.5, 0.75, 1.0],
    "around zero": [-2, -1, 0, 1, 2],
    "one": [3.0],
    "none": [],
    "two near": [16, 32],
    "zero and one": [0.0, 1e-3],
    "near one": [0.9, 0.99, 0.999],
    "not finite": [1.0, 2.0, 3.0, math.nan, math.inf],
}
LOG = {
    "decades": [1e-3, 1e-2, 1e-1],
    "decades and one far": [1e-3, 1e-2, 1e-1, 1e30],
    "half decades": [0.01, 0.03, 0.1, 0.3],
    "powers of two": [16, 32, 64],
    "two far": [1e-4, 1e-1],
    "the range of floats": [5e-324, 1.0, 1.7e308],
    "whole numbers": [1, 10, 100, 1000],
}
SYMLOG = {
    "decades and zero": [0, 1e-4, 1e-3, 1e-2],
    "two decades and zero": [0, 1e-4, 1e-2],
    "both signs": [-0.1, -0.01, -0.001, 0.001, 0.01, 0.1],
    "negative": [-1e-1, -1e-2, -1e-3],
}


@pytest.mark.parametrize(
    "values, scale",
    [
        pytest.param(values, scale, id=f"{scale}: {name}")
        for scale, kinds in (("linear", LINEAR), ("log", LOG), ("symlog", SYMLOG))
        for name, values in kinds.items()
    ],
)
def test_a_lists_scale_is_the_one_on_which_it_is_even(values, scale):
    assert scales.scale_of(values) == scale
    assert scales.scale_of([*reversed(values), *values]) == scale  # how often a value occurs doesn't matter, nor its place


@pytest.mark.parametrize("count", [32, 100, 1000])
@pytest.mark.parametrize("seed", range(10))
def test_a_samples_scale_is_its_distributions(count, seed):
    rng = np.random.default_rng(seed)
    assert scales.scale_of(rng.uniform(0, 1, count)) == "linear"
    assert scales.scale_of(np.append(rng.uniform(0, 1, count), 1e-12)) == "linear"  # one tiny value makes no decades
    assert scales.scale_of(rng.uniform(-1, 1, count)) == "linear"
    assert scales.scale_of(rng.normal(size=count)) == "linear"
    assert scales.scale_of(rng.uniform(1, 3, count)) == "linear"
    assert scales.scale_of(rng.integers(1, 65, count)) == "linear"
    assert scales.scale_of(10 ** rng.uniform(-4, 0, count)) == "log"
    assert scales.scale_of(10 ** rng.uniform(-9, -7, count)) == "log"
    assert scales.scale_of(np.append(10 ** rng.uniform(-4, 0, count), 0.0)) == "symlog"


def test_a_metrics_scale_is_logarithmic_past_two_decades_whatever_one_run_does():
    def scale(values):
        return scales.metric_scale(np.array(values), np.array(values))

    rng = np.random.default_rng(0)
    losses, decades = rng.uniform(0.1, 2, 40), 10 ** rng.uniform(-4, 0, 40)
    assert scale(losses) == "linear"
    for count in (5, 9, 40):
        assert scale([*losses[:count], 3e16]) == scale([*losses[:count], 1e-16]) == "linear"
    assert scale([*losses, *[1e30] * 8]) == "linear"
    assert scale(decades) == scale([*decades, 1e30]) == "log"
    assert scale([*decades, 0.0]) == scale([]) == scale([1.0]) == "linear"
    assert scales.metric_scale(decades, np.ones(40)) == "log"  # every run's loss falls


@pytest.mark.parametrize("count", [4, 9, 40, 4000])
@pytest.mark.parametrize("far", [3e16, 1e6, 1e300])
def test_far_values_stay_outside_and_all_others_inside(count, far):
    near = np.random.default_rng(0).uniform(0.1, 1, count)
    for values in (np.append(near, far), np.append(near, -far)):
        low, high = scales.limits(values, values)
        assert (low, high) == (near.min(), near.max())
    if count > 8:
        both = np.concatenate([near, [far, -far]])
        assert scales.limits(both, both) == (near.min(), near.max())
        fifth = np.append(near, np.full(count // 5, far))
        assert scales.limits(fifth, fifth) == (near.min(), near.max())
    half = np.append(near, np.full(count, far))
    assert scales.limits(half, half) == (near.min(), far)  # half of the runs are no outliers


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_left_out_that_one_could_see_beside_the_rest(seed):
    rng = np.random.default_rng(seed)
    for values in (rng.normal(size=100), rng.uniform(size=5), rng.exponential(size=1000), np.append(rng.uniform(0, 0.3, 40), [2.3] * 8)):
        assert scales.limits(values, values) == (values.min(), values.max())
    assert scales.limits(np.full(9, 2.0), np.full(9, 2.0)) == (2.0, 2.0)
    assert scales.limits(np.array([1.0, 1e9]), np.array([1.0, 1e9])) == (1.0, 1e9)


@pytest.mark.parametrize("seed", range(20))
def test_at_most_a_quarter_of_the_runs_lies_outside_at_one_end(seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_cauchy(int(rng.integers(4, 200))) ** 5
    low, high = scales.limits(values, values)
    assert np.sum(values > high) <= max(1, len(values) // 4) and np.sum(values < low) <= max(1, len(values) // 4)
    assert low in values and high in values


def test_runs_that_all_begin_high_begin_inside():
    curves = 2.3 * np.exp(-np.arange(50.0)) + np.random.default_rng(0).uniform(0.05, 0.06, (40, 1))
    assert scales.limits(curves.min(1), curves.max(1)) == (curves.min(), curves.max())
