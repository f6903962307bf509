"""Spaces and variants: what is drawn, in what order, and how it is joined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm, qmc

import funcnet as fn
from funcnet.check import is_traced
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


MARKED = {
    "number": (lambda: fn.grid(v=fn.traced(3)), [Traced(3)]),
    "float": (lambda: fn.grid(v=fn.static(0.1)), [Static(0.1)]),
    "list": (lambda: fn.grid(v=fn.static([0.1, 0.2])), [Static(0.1), Static(0.2)]),
    "tuple": (lambda: fn.grid(v=fn.static((0.1, 0.2))), [Static(0.1), Static(0.2)]),
    "tuple of traced": (lambda: fn.grid(v=fn.traced((1, 2))), [Traced(1), Traced(2)]),
    "array": (lambda: fn.grid(v=fn.static(np.array([0.5, 1.0]))), [Static(0.5), Static(1.0)]),
    "range": (lambda: fn.grid(v=fn.traced(range(2))), [Traced(0), Traced(1)]),
    "generator": (lambda: fn.grid(v=fn.traced(n for n in (1, 2))), [Traced(1), Traced(2)]),
    "each": (lambda: fn.grid(v=[fn.traced(1), 2, fn.static(0.5)]), [Traced(1), 2, Static(0.5)]),
    "tuples": (lambda: fn.grid(v=fn.static([(1, 2), (3,)])), [Static((1, 2)), Static((3,))]),
    "the last": (lambda: fn.grid(v=fn.static([fn.traced(1), 2])), [Static(1), Static(2)]),
    "nothing": (lambda: fn.grid(v=fn.traced([None, 2])), [None, Traced(2)]),
    "space": (lambda: fn.space(v=fn.traced(3)).sample(1, key=KEY), [Traced(3)]),
    "choice": (lambda: fn.space(v=fn.choice(fn.traced([7]))).sample(1, key=KEY), [Traced(7)]),
    "choice of one": (lambda: fn.space(v=fn.choice(fn.traced(7))).sample(1, key=KEY), [Traced(7)]),
    "choice of marked": (lambda: fn.space(v=fn.choice([fn.static(0.5)])).sample(1, key=KEY), [Static(0.5)]),
    "marked choice": (lambda: fn.space(v=fn.traced(fn.choice([fn.static(5)]))).sample(1, key=KEY), [Traced(5)]),
    "nested": (lambda: fn.space(v=fn.choice([fn.traced(fn.integers(4, 5))])).sample(1, key=KEY), [Traced(4)]),
    "marked nested": (lambda: fn.space(v=fn.static(fn.choice([fn.choice([0.5])]))).sample(1, key=KEY), [Static(0.5)]),
    "joined": (lambda: fn.grid(v=fn.traced(3)) + [{"v": fn.static(4)}] + fn.grid(v=[5]), [Traced(3), Static(4), 5]),
    "taken": (lambda: fn.grid(v=fn.traced([1, 2, 3]))[1:], [Traced(2), Traced(3)]),
    "listed": (lambda: as_variants("sweep", list(fn.grid(v=fn.traced([1])))), [Traced(1)]),
}


@pytest.mark.parametrize("name", MARKED)
def test_marks_survive(name):
    make, expected = MARKED[name]
    values = [variant["v"] for variant in make()]
    assert values == expected and [type(value) for value in values] == [type(value) for value in expected]


def test_marks_and_distributions_are_no_tuples():
    for value in (fn.static(0.5), fn.traced(3), fn.uniform(0, 1)):
        with pytest.raises(TypeError):
            list(value)


def test_a_distribution_among_options_is_drawn_from():
    values = [variant["v"] for variant in fn.space(v=fn.choice([None, fn.uniform(2, 4)])).sample(2000, key=KEY)]
    inner = [value for value in values if value is not None]
    assert 900 < len(inner) < 1100 and kstest(inner, lambda v: (np.asarray(v) - 2) / 2).pvalue > 1e-4


def test_deeply_nested_options_have_their_shares():
    deep = fn.choice(["a", fn.choice([fn.integers(0, 2), fn.choice([None, fn.log_uniform(1e-3, 1.0)])]), fn.normal()])
    values = [variant["v"] for variant in fn.space(v=deep).sample(8192, key=KEY, method="sobol")]
    shares = {"a": 1 / 3, 0: 1 / 12, 1: 1 / 12, None: 1 / 12}
    for value, share in shares.items():
        assert abs(sum(type(other) is type(value) and other == value for other in values) / 8192 - share) < 0.002
    floats = np.array([value for value in values if isinstance(value, float)])
    assert abs(len(floats) / 8192 - (1 / 12 + 1 / 3)) < 0.002
    assert not any(isinstance(value, type(deep)) for value in values)
    edges = [np.nextafter(edge, side) for edge in np.arange(1, 12) / 12 for side in (0, 1)]
    assert all(deep.quantile(u) is None or isinstance(deep.quantile(u), str | int | float) for u in [0.0, *edges, np.nextafter(1, 0)])


def test_a_hyperparameter_that_only_one_optimizer_has():
    sgd, momentum = (
        fn.space(optimizer=name, decay=decay).sample(3, key=KEY) for name, decay in (("sgd", None), ("momentum", fn.uniform(0, 1)))
    )
    joined = as_variants("sweep", sgd + momentum)
    assert [variant["decay"] for variant in joined[:3]] == [None] * 3 and len({variant["decay"] for variant in joined[3:]}) == 3
    with pytest.raises(ValueError, match="got 'decay' in only one of variants 0 and 1; None will do where one has no part"):
        as_variants("sweep", fn.grid(optimizer=["sgd"]) + fn.grid(optimizer=["momentum"], decay=[0.9]))


HELD = {
    "grid": (lambda: fn.grid(a=[1, fn.uniform(0, 1)]), r"grid: a must be a value, got a distribution; space\(a=...\).sample\(n, key=...\)"),
    "dict": (lambda: as_variants("sweep", [{"a": fn.uniform(0, 1)}]), "sweep: variant 0: a must be a value, got a distribution"),
    "option": (
        lambda: fn.choice([("sgd", None), ("adam", fn.uniform(0, 1))]),
        "choice: options must .*, got a distribution inside a tuple",
    ),
    "deep": (lambda: fn.choice([[{"x": (fn.uniform(0, 1),)}]]), "choice: options must .*, got a distribution inside a list; give each"),
    "constant": (
        lambda: fn.space(a=(1, fn.uniform(0, 1))),
        "space: a must be marked or drawn as a whole, got a distribution inside a tuple",
    ),
    "marked": (lambda: fn.space(a=fn.static((1, fn.uniform(0, 1)))), "space: a must .*, got a distribution inside a tuple"),
    "mark": (lambda: fn.grid(a=[(1, fn.traced(3))]), "grid: a must .*, got a mark inside a tuple; mark the whole, or a hyperparameter of"),
    "list": (lambda: as_variants("sweep", [{"a": fn.static([0.1])}]), "sweep: variant 0: a must .*, got a mark inside a list"),
}


@pytest.mark.parametrize("name", HELD)
def test_no_recipe_is_handed_a_distribution_or_a_mark(name):
    make, match = HELD[name]
    with pytest.raises(TypeError, match=match):
        make()


def test_nested_distributions_and_marks_reach_the_recipe_as_numbers():
    met = []

    def recipe(rate, decay, n):
        met.append((decay, n))
        model = fn.serial(fn.dense(2), fn.dropout(0.0 if decay is None else decay))
        return fn.training(model, fn.squared_error, fn.sgd(rate * jnp.asarray(n, float)), in_shape=(1,))

    variants = fn.space(
        rate=0.1, decay=fn.choice([None, fn.choice([fn.uniform(0.1, 0.2), fn.static(0.5)])]), n=fn.traced(fn.choice([1, 2]))
    ).sample(12, key=KEY)
    data = fn.Dataset(np.ones((4, 1)), np.ones((4, 2)))
    result = fn.sweep(recipe, variants, data, key=KEY, num_steps=1, batch_size=None, progress=False)
    kinds = {type(value) for value in result.table["decay"]}
    assert kinds == {type(None), float} and set(result.table["n"]) == {1, 2}
    concrete = [pair for pair in met if not any(map(is_traced, pair))]
    assert {decay for decay, _ in concrete} == set(result.table["decay"]) and {type(n) for _, n in concrete} == {int}


@pytest.mark.parametrize("key", [0, 7, 0.5, None, "x", np.uint32(3), np.zeros(2), [1, 2]], ids=str)
def test_a_seed_is_not_a_key(key):
    seed = key if isinstance(key, int | np.uint32) else 0
    line = fn.training(fn.dense(1), fn.squared_error, fn.sgd(0.1), in_shape=(1,))
    match = rf"must be a JAX random key, got .*; such as jax.random.key\({seed}\)"
    for ask in (
        lambda key: fn.space(a=fn.uniform(0, 1)).sample(2, key=key),
        lambda key: fn.split(fn.Dataset(np.ones((9, 1)), np.ones(9)), key=key),
        lambda key: fn.fit(line, fn.Dataset(np.ones((9, 1)), np.ones((9, 1))), key=key, num_steps=1, batch_size=None),
    ):
        with pytest.raises(TypeError, match=match):
            ask(key)
        ask(jax.random.key(seed))
        ask(jax.random.PRNGKey(seed))
        with pytest.raises(
            ValueError, match=r"key must be one key, got shape \(2,.*; jax.random.split makes several, of which one will do"
        ):
            ask(jax.random.split(KEY))


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
