"""Spaces and variants: what is drawn, in what order, and how it is joined."""

import jax
import numpy as np
import pytest
from scipy.stats import kstest, norm, qmc

import funcnet as fn
from funcnet.space import Static, Traced, as_variants

KEY = jax.random.key(0)


def draws(distribution, n=2000):
    return np.array([variant["v"] for variant in fn.space(v=distribution).sample(n, key=KEY)])


@pytest.mark.parametrize(
    ("distribution", "cdf"),
    [
        (fn.uniform(-1.0, 3.0), lambda v: (v + 1) / 4),
        (fn.log_uniform(1e-4, 1.0), lambda v: np.log(v / 1e-4) / np.log(1e4)),
        (fn.normal(2.0, 0.5), lambda v: norm.cdf(v, 2.0, 0.5)),
    ],
    ids=["uniform", "log_uniform", "normal"],
)
def test_floats_follow_their_distribution(distribution, cdf):
    values = draws(distribution)
    assert kstest(values, cdf).pvalue > 1e-4
    assert kstest(values, lambda v: cdf(v) ** 1.2).pvalue < 1e-4  # the test tells a wrong one apart
    assert all(type(value) is float for value in fn.space(v=distribution).sample(3, key=KEY)[0].values())


def test_whole_numbers_and_choices_are_as_likely_each():
    values = draws(fn.integers(3, 7))
    assert set(values) == {3, 4, 5, 6} and np.bincount(values)[3:].min() > 430
    values = draws(fn.choice(["a", "b"]))
    assert 900 < np.sum(values == "a") < 1100
    assert type(fn.space(v=fn.integers(0, 9)).sample(1, key=KEY)[0]["v"]) is int


def test_a_key_decides_the_draws():
    def sample(seed):
        return list(fn.space(a=fn.uniform(0, 1), b=fn.normal()).sample(5, key=jax.random.key(seed)))

    assert sample(1) == sample(1) != sample(2)


@pytest.mark.parametrize("method", ["sobol", "halton", "latin_hypercube"])
@pytest.mark.parametrize("n", [1, 7, 64])
def test_quasi_random_draws_cover_the_space_more_evenly(method, n):
    def points(method):
        drawn = fn.space(a=fn.uniform(0, 1), b=fn.uniform(0, 1), c=fn.uniform(0, 1)).sample(n, key=KEY, method=method)
        return np.array([list(variant.values()) for variant in drawn])

    assert points(method).shape == (n, 3)
    if n == 64:
        assert qmc.discrepancy(points(method)) < qmc.discrepancy(points("random"))


def test_grid_is_every_combination_the_last_name_fastest():
    variants = fn.grid(a=[1, 2], b=["x", "y", "z"])
    assert len(variants) == 6 and list(variants)[:4] == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 1, "b": "z"}, {"a": 2, "b": "x"}]
    assert [v["a"] for v in fn.grid(a=np.array([0.5, 1.0]))] == [0.5, 1.0]


def test_plus_joins_variants_and_lists_of_dicts():
    joined = [{"a": 0}] + fn.grid(a=[1]) + [{"a": 2}] + fn.space(a=fn.choice([3])).sample(1, key=KEY)
    assert isinstance(joined, fn.Variants) and [v["a"] for v in joined] == [0, 1, 2, 3]
    assert joined == [{"a": 0}, {"a": 1}, {"a": 2}, {"a": 3}] and len(joined[1:3]) == 2


def test_static_and_traced_mark_values_and_distributions():
    assert fn.static(0.5) == Static(0.5) and fn.traced(3) == Traced(3)
    variants = fn.space(a=fn.static(fn.uniform(0, 1)), b=fn.traced(fn.integers(0, 5))).sample(4, key=KEY)
    assert all(isinstance(v["a"], Static) and isinstance(v["b"], Traced) for v in variants)


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (lambda: fn.uniform(1.0, 1.0), ValueError, "uniform: low must be below high, both finite, got 1 and 1"),
        (lambda: fn.uniform(0.0, float("nan")), ValueError, "uniform: low must be below high, both finite, got 0 and nan"),
        (lambda: fn.uniform("0", 1), TypeError, "uniform: low must be one number, got '0'"),
        (lambda: fn.log_uniform(0.0, 1.0), ValueError, r"log_uniform: low must be in \(0, inf\), got 0.0"),
        (lambda: fn.normal(0.0, -1.0), ValueError, r"normal: deviation must be in \(0, inf\), got -1.0"),
        (lambda: fn.integers(3, 3), ValueError, "integers: low must be below high = 3, got 3; high itself is left out"),
        (lambda: fn.integers(0.5, 3), TypeError, "integers: low must be a whole number, got 0.5"),
        (lambda: fn.choice([]), ValueError, "choice: options must have at least one value, got none"),
        (
            lambda: fn.choice("relu"),
            TypeError,
            r"choice: options must be a list of values, got 'relu'; options=\['relu'\] is a list of one",
        ),
        (lambda: fn.grid(a=0.1), TypeError, r"grid: a must be a list of values, got 0.1; a=\[0.1\] is a list of one"),
        (lambda: fn.grid(a=[]), ValueError, "grid: a must have at least one value, got none"),
        (
            lambda: fn.space(),
            ValueError,
            r"space: needs at least one hyperparameter, got none; such as learning_rate=log_uniform\(1e-4, 1\)",
        ),
        (
            lambda: fn.space(a=[1, 2]),
            TypeError,
            r"space: a must be a distribution or one value, got \[1, 2\]; choice\(\[1, 2\]\) draws from a list",
        ),
        (lambda: fn.space(a=1).sample(0, key=KEY), ValueError, "sample: n must be at least 1, got 0"),
        (lambda: fn.space(a=1).sample(1, key=KEY, method="sobel"), ValueError, "sample: unknown method 'sobel'; did you mean 'sobol'"),
        (lambda: as_variants("sweep", fn.space(a=1)), TypeError, r"sweep: variants must be a list of dicts, got a space; draw some with"),
        (lambda: as_variants("sweep", {"a": 1}), TypeError, "sweep: variants must be a list of dicts, got dict; such as grid"),
        (lambda: as_variants("sweep", [1]), TypeError, "sweep: every variant must be a dict, got 1 as variant 0"),
        (lambda: fn.grid(a=[1]) + [{"b": 1}], ValueError, None),
    ],
)
def test_bad_input(wrong, error, match):
    if match is None:  # variants may be joined before they are checked: the sweep, which needs them alike, says so
        with pytest.raises(
            ValueError, match="every variant must name the same hyperparameters, got 'a', 'b' in only one of variants 0 and 1"
        ):
            as_variants("sweep", wrong())
    else:
        with pytest.raises(error, match=match):
            wrong()


def test_traced_marks_a_value_each_of_a_list_and_each_draw():
    assert fn.traced(("relu", "tanh")) == [fn.traced("relu"), fn.traced("tanh")]
    drawn = fn.space(activation=fn.traced(fn.choice(["relu"])), width=fn.traced(fn.integers(3, 4))).sample(2, key=jax.random.key(0))
    assert list(drawn) == [{"activation": fn.traced("relu"), "width": fn.traced(3)}] * 2
