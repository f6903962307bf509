"""Spaces and variants: what is drawn, in what order, and how it is joined."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare, kstest, loguniform, norm, qmc, randint

import funcnet as fn
from funcnet.check import is_traced
from funcnet.spaces import Static, Traced, as_variants, plain

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


def shares(values, known):
    """How often each of the known values was drawn; nothing else may be."""
    assert set(values.tolist()) <= set(known)
    return np.array([np.sum(values == value) for value in known])


@pytest.mark.parametrize(("low", "high"), [(1, 9), (3, 40), (100, 400)])
def test_the_logarithm_of_whole_numbers_is_evenly_spread(low, high):
    known, scipys = np.arange(low, high), loguniform(low - 0.5, high - 0.5)
    expected = scipys.cdf(known + 0.5) - scipys.cdf(known - 0.5)
    found = shares(draws(fn.log_integers(low, high), 5000), known)
    assert chisquare(found, 5000 * expected).pvalue > 1e-4
    assert chisquare(found).pvalue < 1e-4  # the test tells an even spread apart
    if low == 1:
        assert chisquare(found, 5000 * np.diff(loguniform(low, high).cdf(np.arange(low, high + 1)))).pvalue < 1e-4  # and one rounded down


def test_the_logarithm_is_evenly_spread_at_the_ends_too():
    """Of 2**20 points a long way from each other, to the last number and no further."""
    distribution = fn.log_integers(1, 2**31)
    assert distribution.quantile(0.0) == 1 and distribution.quantile(np.nextafter(1, 0)) == 2**31 - 1
    for low, high in ((1, 3), (2, 3), (3, 4), (7, 8)):  # of some of which exp rounds up
        assert fn.log_integers(low, high).quantile(np.nextafter(1, 0)) == high - 1
    ends = [np.nextafter(place, side) for place in np.linspace(0, 1, 101)[1:-1] for side in (0, 1)]
    drawn = [distribution.quantile(u) for u in ends]
    assert drawn == sorted(drawn) and {type(value) for value in drawn} == {int}
    assert type(fn.space(v=fn.log_integers(1, 9)).sample(1, key=KEY)[0]["v"]) is int


STEPPED = {
    "uniform": (fn.uniform(0.0, 0.6, step=0.1), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
    "uniform, not divided": (fn.uniform(-1, 1, step=0.75), [-1.0, -0.25, 0.5]),
    "uniform, one": (fn.uniform(0.5, 0.6, step=3), [0.5]),
    "uniform, rounding": (fn.uniform(1.0, 1.3, step=0.1), [1.0, 1.1, 1.2]),
    "integers": (fn.integers(2, 12, step=2), [2, 4, 6, 8, 10]),
    "integers, not divided": (fn.integers(-4, 8, step=5), [-4, 1, 6]),
    "integers, one": (fn.integers(3, 4, step=9), [3]),
}


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize("method", ["random", "sobol", "halton", "latin_hypercube"])
def test_steps_are_as_likely_each(name, method):
    distribution, known = STEPPED[name]
    variants = fn.space(v=distribution).sample(1024, key=KEY, method=method)
    found = shares(np.array([variant["v"] for variant in variants]), known)
    assert len(known) == 1 or (chisquare(found).pvalue > 1e-4 if method == "random" else np.ptp(found) <= 4)
    assert {type(variant["v"]) for variant in variants} == {type(known[0])}
    if name == "integers":
        assert chisquare(found, 1024 * np.diff(randint(0, 5).cdf(np.arange(-1, 5)))).pvalue > 1e-4
    assert distribution.quantile(0.0) == known[0] and distribution.quantile(np.nextafter(1, 0)) == known[-1]


def test_marks_and_choices_hold_what_is_drawn_in_steps():
    values = fn.space(v=fn.traced(fn.integers(0, 9, step=4)), w=fn.choice([None, fn.uniform(0, 1, step=0.5)])).sample(64, key=KEY)
    assert {variant["v"].value for variant in values} == {0, 4, 8} and {type(variant["v"]) for variant in values} == {Traced}
    assert {variant["w"] for variant in values} == {None, 0.0, 0.5}


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


# Conditions.

NETS = fn.space(
    nesterov=fn.when(fn.choice([True, False]), optimizer="momentum", decay=[0.5, 0.75]),
    decay=fn.when(fn.uniform(0.0, 1.0, step=0.25), optimizer=["momentum", "nadam"]),
    optimizer=fn.choice(["sgd", "momentum", "nadam"]),
    rate=fn.log_uniform(1e-3, 1.0),
)


@pytest.mark.parametrize("method", ["random", "sobol", "halton", "latin_hypercube"])
def test_a_conditional_hyperparameter_is_there_where_its_condition_holds(method):
    """Also where the condition is of one that is conditional itself, and stands behind it."""
    variants = NETS.sample(1024, key=KEY, method=method)
    assert list(variants[0]) == ["nesterov", "decay", "optimizer", "rate"]
    for variant in variants:
        has_decay = variant["optimizer"] != "sgd"
        has_nesterov = variant["optimizer"] == "momentum" and variant["decay"] in (0.5, 0.75)
        assert (variant["decay"] is not fn.MISSING) == has_decay and (variant["nesterov"] is not fn.MISSING) == has_nesterov
    counts = {name: sum(variant[name] is not fn.MISSING for variant in variants) for name in ("decay", "nesterov")}
    for name, share in (("decay", 2 / 3), ("nesterov", 1 / 6)):
        assert chisquare([counts[name], 1024 - counts[name]], [1024 * share, 1024 * (1 - share)]).pvalue > 1e-4
    decays = np.array([variant["decay"] for variant in variants if variant["decay"] is not fn.MISSING])
    assert chisquare(shares(decays, [0.0, 0.25, 0.5, 0.75])).pvalue > 1e-4


def test_a_condition_changes_no_other_draw():
    plain_space = fn.space(optimizer=fn.choice(["sgd", "momentum"]), decay=fn.uniform(0, 1), rate=fn.uniform(0, 1))
    conditional = fn.space(
        optimizer=fn.choice(["sgd", "momentum"]), decay=fn.when(fn.uniform(0, 1), optimizer="momentum"), rate=fn.uniform(0, 1)
    )
    for without, variant in zip(plain_space.sample(32, key=KEY), conditional.sample(32, key=KEY), strict=True):
        assert variant == without | ({"decay": fn.MISSING} if without["optimizer"] == "sgd" else {})


def test_a_grid_has_a_missing_one_once():
    variants = fn.grid(
        decay=fn.when([0.5, 0.9], optimizer="momentum"),
        nesterov=fn.when([True, False], decay=0.9),
        optimizer=["sgd", "momentum"],
        rate=[0.1, 0.2],
    )
    assert len(variants) == 2 * (1 + 1 + 2)
    by_hand = [
        {"decay": decay, "nesterov": nesterov, "optimizer": optimizer, "rate": rate}
        for decay in (0.5, 0.9)
        for nesterov in (True, False)
        for optimizer in ("sgd", "momentum")
        for rate in (0.1, 0.2)
    ]
    expected = []
    for variant in by_hand:
        if variant["optimizer"] == "sgd":
            variant["decay"] = fn.MISSING
        if variant["decay"] != 0.9:
            variant["nesterov"] = fn.MISSING
        if variant not in expected:
            expected.append(variant)
    assert list(variants) == expected


@pytest.mark.parametrize("mark", [fn.static, fn.traced])
def test_marks_and_conditions_go_together(mark):
    kind = Static if mark is fn.static else Traced
    for made in (mark(fn.when(fn.integers(2, 3), a=1)), fn.when(mark(fn.integers(2, 3)), a=1)):
        found = fn.space(a=mark(fn.choice([0, 1])), b=made).sample(32, key=KEY)
        assert {(variant["a"].value, variant["b"]) for variant in found} == {(0, fn.MISSING), (1, kind(2))}
    for made in (mark(fn.when([2, 3], a=1)), mark(fn.when((2, 3), a=1)), fn.when(mark([2, 3]), a=mark(1))):
        found = fn.grid(a=mark([0, 1]), b=made)
        assert [(variant["a"].value, variant["b"]) for variant in found] == [(0, fn.MISSING), (1, kind(2)), (1, kind(3))]


def test_true_is_not_one_in_a_condition():
    variants = fn.grid(a=[True, 1, 1.0], b=fn.when([5], a=1), c=fn.when([6], a=True))
    assert [(variant["b"], variant["c"]) for variant in variants] == [(fn.MISSING, 6), (5, fn.MISSING), (5, fn.MISSING)]


def test_conditions_of_functions_tuples_and_none():
    variants = fn.grid(a=[None, abs, (1, 2)], b=fn.when([1], a=[None, (1, 2)]), c=fn.when([2], a=abs))
    assert [(variant["b"], variant["c"]) for variant in variants] == [(1, fn.MISSING), (fn.MISSING, 2), (1, fn.MISSING)]


def test_a_conditional_hyperparameter_within_a_choice_of_distributions():
    nested = fn.choice([None, fn.choice([fn.integers(0, 2), fn.uniform(0, 1, step=0.25)])])
    found = fn.space(a=nested, b=fn.when(fn.uniform(0, 1), a=[1, 0.5])).sample(256, key=KEY)
    assert {variant["a"] for variant in found if variant["b"] is not fn.MISSING} == {1, 0.5}


def test_missing_is_one_thing_wherever_it_goes():
    assert pickle.loads(pickle.dumps(NETS.sample(8, key=KEY))) == NETS.sample(8, key=KEY)
    assert pickle.loads(pickle.dumps(fn.MISSING)) is fn.MISSING and repr(fn.MISSING) == "MISSING"
    joined = NETS.sample(4, key=KEY) + fn.grid(nesterov=[fn.MISSING], decay=[fn.MISSING], optimizer=["sgd"], rate=[0.1])
    assert plain(joined[4]) == {"optimizer": "sgd", "rate": 0.1} and joined.decisive == {"optimizer", "decay"}


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (
            lambda: fn.space(optimizer=fn.choice(["sgd"]), decay=fn.when(0.9, optimiser="sgd")),
            ValueError,
            "space: decay depends on 'optimiser', which is no hyperparameter; did you mean 'optimizer'?",
        ),
        (
            lambda: fn.grid(optimizer=["sgd"], decay=fn.when([0.9], optimiser="sgd")),
            ValueError,
            "grid: decay depends on 'optimiser', which is no hyperparameter; did you mean 'optimizer'?",
        ),
        (
            lambda: fn.space(optimizer=fn.choice(["sgd", "momentum"]), decay=fn.when(0.9, optimizer=["sgd", "momentun"])),
            ValueError,
            "space: decay must depend on a value that optimizer can have, got 'momentun'; did you mean 'momentum'?",
        ),
        (
            lambda: fn.grid(a=[1, 2], b=fn.when([1], a=3)),
            ValueError,
            "grid: b must depend on a value that a can have, got 3; there are '1', '2'",
        ),
        (lambda: fn.grid(a=[1, 2], b=fn.when([1], a=True)), ValueError, "grid: b must depend on a value that a can have, got True"),
        (
            lambda: fn.space(a=fn.integers(1, 3), b=fn.when(1, a=3)),
            ValueError,
            "space: b must depend on a value that a can have, got 3; a cond",
        ),
        (
            lambda: fn.space(a=fn.log_integers(1, 3), b=fn.when(1, a=1.5)),
            ValueError,
            "that a can have, got 1.5; a condition needs whole numbers",
        ),
        (
            lambda: fn.space(a=fn.uniform(0, 1), b=fn.when(1, a=0.5)),
            ValueError,
            "that a can have, got 0.5; a condition needs whole numbers, s",
        ),
        (
            lambda: fn.space(a=fn.uniform(0, 1, step=0.5), b=fn.when(1, a=0.4)),
            ValueError,
            "that a can have, got 0.4; a condition needs whole",
        ),
        (
            lambda: fn.space(a=fn.integers(1, 9, step=2), b=fn.when(1, a=4)),
            ValueError,
            "space: b must depend on a value that a can have, got 4",
        ),
        (lambda: fn.space(a=5, b=fn.when(1, a=4)), ValueError, "space: b must depend on a value that a can have, got 4; there are '5'"),
        (
            lambda: fn.space(c=1, a=fn.when(1, b=1), b=fn.when(1, a=1)),
            ValueError,
            "space: conditions must not go round in a circle, got a and b",
        ),
        (lambda: fn.space(a=fn.when(1, a=1)), ValueError, "space: conditions must not go round in a circle, got a"),
        (lambda: fn.when(1), ValueError, r"when: needs a condition, got none; such as when\(uniform\(0.5, 1\), optimizer"),
        (lambda: fn.when(1, a=[]), ValueError, "when: a must have at least one value, got none"),
        (lambda: fn.when(1, a=fn.uniform(0, 1)), TypeError, "when: a must be a value or a list of values, got a distribution"),
        (
            lambda: fn.when(fn.when(1, a=1), b=1),
            TypeError,
            r"when: the value must not have conditions of its own, got when\(...\); give one",
        ),
        (lambda: fn.choice([1, fn.when(1, a=1)]), TypeError, r"choice: options must be a value, got when\(...\)"),
        (
            lambda: fn.grid(a=[fn.when(1, a=1)]),
            TypeError,
            r"grid: a must be a value, got when\(...\); a=when\(...\) is of a space or a grid",
        ),
        (lambda: fn.grid(a=[1], b=fn.when(1, a=1)), TypeError, r"grid: b must be a list of values, got 1; b=\[1\] is a list of one"),
        (lambda: fn.space(a=1, b=fn.when([1], a=1)), TypeError, r"space: b must be a distribution or one value, got \[1\]"),
        (lambda: as_variants("sweep", [{"a": fn.when(1, b=1)}]), TypeError, r"sweep: variant 0: a must be a value, got when\(...\)"),
        (lambda: fn.space(a=(1, fn.when(1, b=1))), TypeError, r"space: a must .*, got when\(...\) inside a tuple"),
    ],
)
def test_conditions_that_cannot_be(wrong, error, match):
    with pytest.raises(error, match=match):
        wrong()


# Constraints.


def thin(variant):
    return variant["width"] * variant["depth"] <= 128


THIN = fn.space(width=fn.log_integers(1, 257), depth=fn.traced(fn.integers(1, 9)), rate=fn.when(fn.uniform(0, 1), depth=[1, 2]))


@pytest.mark.parametrize("method", ["random", "sobol", "halton", "latin_hypercube"])
@pytest.mark.parametrize("n", [1, 7, 64])
def test_a_rejected_draw_is_drawn_again(method, n):
    variants = THIN.sample(n, key=KEY, method=method, where=thin)
    assert len(variants) == n and all(thin(plain(variant)) for variant in variants) and variants.where is thin
    more = THIN.sample(16 * n, key=KEY, method=method)
    if method != "latin_hypercube":  # the next of the same sequence
        assert variants == [variant for variant in more if thin(plain(variant))][:n]
    assert (
        variants == THIN.sample(n, key=KEY, method=method, where=thin) != THIN.sample(n, key=jax.random.key(9), method=method, where=thin)
    )


def test_what_is_accepted_has_the_distribution_given_that_it_is():
    values = np.array(
        [variant["v"] for variant in fn.space(v=fn.uniform(0, 1)).sample(2000, key=KEY, where=lambda variant: variant["v"] > 0.7)]
    )
    assert kstest(values, lambda v: (v - 0.7) / 0.3).pvalue > 1e-4


def test_a_constraint_sees_plain_values_and_only_those_that_are_there():
    seen = []
    fn.grid(a=fn.traced([1, 2]), b=fn.when([fn.static(0.5)], a=2), where=lambda variant: not seen.append(variant))
    assert seen == [{"a": 1}, {"a": 2, "b": 0.5}]


def test_a_grid_keeps_what_is_accepted():
    variants = fn.grid(width=[8, 64, 512], depth=[1, 2, 4], where=lambda variant: np.bool_(variant["width"] * variant["depth"] <= 64))
    assert list(variants) == [{"width": 8, "depth": depth} for depth in (1, 2, 4)] + [{"width": 64, "depth": 1}]
    assert variants[1:].where is variants.where is not None and (variants + fn.grid(width=[1], depth=[1])).where is None


def test_a_constraint_that_hardly_anything_meets():
    with pytest.raises(
        ValueError, match=r"sample: where must accept at least one draw in 1,000, got 0 of 10002 accepted \(0.000%\); a space"
    ):
        fn.space(v=fn.uniform(0, 1)).sample(3, key=KEY, where=lambda variant: False)
    rare = fn.space(v=fn.uniform(0, 1))
    with pytest.raises(ValueError, match=r"sample: where .*, got [1-9] of 10\d\d\d accepted \(0.0\d\d%\)"):
        rare.sample(20, key=KEY, method="sobol", where=lambda variant: variant["v"] < 4e-4)
    assert len(rare.sample(20, key=KEY, where=lambda variant: variant["v"] < 4e-3)) == 20
    with pytest.raises(ValueError, match="grid: where must accept a variant, got none of 6 accepted; or leave it out"):
        fn.grid(a=[1, 2], b=[1, 2, 3], where=lambda variant: False)


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (
            lambda: fn.grid(width=[1], where=lambda variant: variant["widht"] < 3),
            ValueError,
            "grid: where asks for 'widht', which is no hyperparameter; did you mean 'width'?",
        ),
        (
            lambda: NETS.sample(9, key=KEY, where=lambda variant: variant["decay"] > 0.3),
            ValueError,
            r"sample: where must do without a hyperparameter that is missing, got 'decay'; variant.get\('decay'\) is None there",
        ),
        (
            lambda: NETS.sample(9, key=KEY, where=lambda variant: None),
            TypeError,
            "sample: where must say True or False of a variant, got None",
        ),
        (
            lambda: fn.grid(a=[1], where=[1, 2]),
            TypeError,
            r"grid: where must be a function of a variant, got \[1, 2\]; such as lambda variant",
        ),
        (lambda: NETS.sample(9, key=KEY, where=3), TypeError, "sample: where must be a function of a variant, got 3"),
        (lambda: NETS.sample(9, key=KEY, where=lambda variant: 1 / 0), ZeroDivisionError, "division by zero"),
    ],
)
def test_constraints_that_cannot_be(wrong, error, match):
    with pytest.raises(error, match=match):
        wrong()
    assert len(NETS.sample(9, key=KEY, where=lambda variant: variant.get("decay") is None)) == 9


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (lambda: fn.log_integers(0, 4), ValueError, "log_integers: low must be in .*, got 0"),
        (lambda: fn.log_integers(4, 4), ValueError, "log_integers: low must be below high = 4, got 4; high itself is left out"),
        (lambda: fn.log_integers(1.5, 4), TypeError, "log_integers: low must be a whole number, got 1.5"),
        (lambda: fn.uniform(1, 1, step=0.1), ValueError, "uniform: low must be below high, both finite, got 1 and 1"),
        (lambda: fn.uniform(0, 1, step=0), ValueError, r"uniform: step must be in \(0, inf\), got 0"),
        (lambda: fn.uniform(0, 1, step=float("nan")), ValueError, r"uniform: step must be in \(0, inf\), got nan"),
        (lambda: fn.uniform(0, 1, step=float("inf")), ValueError, r"uniform: step must be in \(0, inf\), got inf"),
        (lambda: fn.uniform(0, 1, step="1"), TypeError, "uniform: step must be one number, got '1'"),
        (lambda: fn.integers(5, 5, step=2), ValueError, "integers: low must be below high = 5, got 5"),
        (lambda: fn.integers(0, 9, step=0), ValueError, "integers: step must be at least 1, got 0"),
        (lambda: fn.integers(0, 9, step=0.5), TypeError, "integers: step must be a whole number, got 0.5"),
    ],
)
def test_numbers_that_cannot_be_drawn(wrong, error, match):
    with pytest.raises(error, match=match):
        wrong()
