"""Hyperparameters that only some variants have, and constraints: what the recipe is given, and what the result says, keeps and stores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.spaces import plain

KEY = jax.random.key(4)
X = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
DATA = fn.split(fn.Dataset(X, X[:, :1] - 2 * X[:, 1:]), key=KEY)
SETTINGS = dict(key=KEY, num_steps=8, batch_size=8, chunk_size=2, progress=False)  # one width: programs that tests share
CALLS = []  # the names that the recipe was called with


def recipe(optimizer, rate, **others):
    CALLS.append({"optimizer", "rate", *others})
    decay = {"decay": others["decay"]} if "decay" in others else {}
    nesterov = {"nesterov": others["nesterov"]} if "nesterov" in others else {}
    own = fn.sgd(rate) if optimizer == "sgd" else fn.momentum(rate, **decay, **nesterov)
    return fn.training(fn.mlp((others.get("width", 3), 1), "tanh"), fn.squared_error, own, in_shape=(2,))


SPACE = fn.space(
    optimizer=fn.choice(["sgd", "momentum"]),
    decay=fn.when(fn.uniform(0.0, 1.0, step=0.125), optimizer="momentum"),
    nesterov=fn.when(fn.choice([True, False]), decay=[0.5, 0.625, 0.75, 0.875]),
    rate=fn.log_uniform(1e-3, 0.1),
    width=fn.log_integers(2, 3),
)
VARIANTS = SPACE.sample(16, key=jax.random.key(1), method="sobol")


def alike(one, other):
    """Whether two tables are, bit for bit, the same."""
    assert one.keys() == other.keys()
    return all(np.array_equal(column, other[name], equal_nan=column.dtype.kind == "f") for name, column in one.items())


@pytest.fixture(scope="module")
def result():
    CALLS.clear()
    return fn.sweep(recipe, VARIANTS, DATA, **SETTINGS)


def test_a_recipe_gets_the_names_that_a_variant_has(result):
    had = {frozenset(plain(variant)) for variant in VARIANTS}
    assert {frozenset(call) for call in CALLS} == had and len(had) == 3
    for row, variant in enumerate(VARIANTS):
        assert result.hyperparameters(row) == plain(variant)
        for name, value in variant.items():
            shown = result.table[name][row]
            assert shown is None if value is fn.MISSING else shown == value
    assert result.hyperparameter_names == list(VARIANTS[0])


def test_its_numbers_are_those_of_the_variant_by_itself(result):
    """A variant of the same names alone, given as a plain dict that leaves the others out."""
    for row in (0, 3, 5, 6):
        alone = fn.sweep(recipe, [result.hyperparameters(row)], DATA, **SETTINGS)
        assert alone.table["train/loss"][0] == pytest.approx(result.table["train/loss"][row], rel=1e-5)


def test_a_result_is_whole_after_a_file_pickling_joining_and_asking(result, tmp_path):
    result.save(tmp_path)
    for again in (fn.load_result(tmp_path, recipe), (result + result)):
        for row in range(16):
            assert again.hyperparameters(row) == result.hyperparameters(row)
            CALLS.clear()
            assert again.training(row) and CALLS == [{*result.hyperparameters(row)}]
            assert again.evaluate(row, DATA.train)["loss"] == pytest.approx(result.table["train/loss"][row], rel=1e-5)
    assert alike(fn.load_result(tmp_path).table, result.table)
    best = result.best()
    assert best.hyperparameters == result.hyperparameters(best.row) and recipe(**best.hyperparameters)
    assert result.by_variant()["decay"].tolist().count(None) == sum(variant["decay"] is fn.MISSING for variant in VARIANTS)
    assert "None" in repr(result) and len(result.to_pandas()) == 16


def test_a_plan_and_a_store(result, tmp_path):
    assert "decay" not in repr(fn.plan(recipe, VARIANTS, DATA, **SETTINGS))  # it is a number
    first = fn.sweep(recipe, VARIANTS[:8], DATA, **SETTINGS, store=tmp_path)
    grown = fn.sweep(recipe, VARIANTS, DATA, **SETTINGS, store=tmp_path)
    assert len(first) == 8 and alike(grown.table, result.table) and alike(fn.load_store(tmp_path).table, result.table)


def test_a_search_whose_rounds_have_other_names():
    """Of one variant a round: some have a decay, others not."""
    strategy = fn.suggest.random(SPACE, key=jax.random.key(1), where=lambda variant: variant.get("decay", 0.5) >= 0.25)
    found = fn.search(recipe, strategy, DATA, rounds=6, per_round=1, **SETTINGS)
    names = {frozenset(found.hyperparameters(row)) for row in range(6)}
    assert len(names) > 1 and len(found) == 6
    expected = SPACE.sample(6, key=jax.random.key(1), where=lambda variant: variant.get("decay", 0.5) >= 0.25)
    assert [found.hyperparameters(row) for row in range(6)] == [plain(variant) for variant in expected]


def test_the_sweeps_own_names_may_be_conditional():
    def small(rate, size):
        return fn.training(fn.dense(1), fn.squared_error, fn.sgd(rate), in_shape=(2,))

    variants = fn.grid(size=["small", "large"], rate=[0.1], num_steps=fn.when([3], size="small"), batch_size=fn.when([4], size="small"))
    result = fn.sweep(small, variants, DATA, **SETTINGS)
    assert result.table["steps"].tolist() == [3, 8] and result.table["batch_size"].tolist() == [4, None]
    alone = fn.sweep(small, [{"size": "small", "rate": 0.1}], DATA, **(SETTINGS | {"num_steps": 3, "batch_size": 4}))
    assert result.table["train/loss"][0] == pytest.approx(alone.table["train/loss"][0], rel=1e-6)


def test_a_hyperparameter_that_a_recipe_must_have():
    def strict(optimizer, decay, rate=0.1):
        return recipe(optimizer, rate, decay=decay)

    def lenient(optimizer, decay=0.9, rate=0.1):
        return recipe(optimizer, rate, decay=decay)

    variants = fn.grid(optimizer=["momentum", "sgd"], decay=fn.when([0.5], optimizer="momentum"))
    match = r"sweep: recipe needs the hyperparameter 'decay', which variant 1 \(optimizer='sgd'\) does not have; give it a default"
    with pytest.raises(ValueError, match=match):
        fn.sweep(strict, variants, DATA, **SETTINGS)
    assert len(fn.sweep(lenient, variants, DATA, **SETTINGS)) == 2


# A population.

MOVING = dict(SETTINGS, num_steps=24, eval_every=3)


def test_a_population_stays_on_steps_within_its_conditions_and_its_constraint():
    def allowed(variant):
        return variant["rate"] * (1 + variant.get("decay", 0.0)) <= 0.08 and (variant.get("k", 3) + variant["rate"] * 10) < 4.5

    def moved(optimizer, rate, decay=None, k=1):
        own = fn.sgd(rate) if decay is None else fn.momentum(rate * 1.0, decay)
        return fn.training(fn.mlp((3, 1), "tanh"), fn.squared_error, own, in_shape=(2,), penalty=fn.l2(1e-4 * jnp.asarray(k, float)))

    space = fn.space(
        optimizer=fn.choice(["sgd", "momentum"]),
        decay=fn.when(fn.uniform(0.0, 1.0, step=0.125), optimizer="momentum"),
        k=fn.when(fn.traced(fn.log_integers(1, 6)), optimizer="momentum"),
        rate=fn.log_uniform(1e-3, 0.1),
    )
    variants = space.sample(20, key=KEY, where=allowed)
    evolve = fn.population(fn.binary_tournament(), fn.perturb((0.5, 2.0), resample=0.5))
    result = fn.sweep(moved, variants, DATA, **MOVING, evolve=evolve)
    numbers, kind = result.lineage.numbers, result.table["optimizer"]
    assert (result.lineage.parent != np.arange(20)[:, None]).sum() > 20
    for name in ("decay", "k"):
        assert np.isnan(numbers[name][kind == "sgd"]).all() and np.isfinite(numbers[name][kind == "momentum"]).all()
    assert set(numbers["decay"][kind == "momentum"].ravel()) <= {i / 8 for i in range(8)}
    assert set(numbers["k"][kind == "momentum"].ravel()) <= {1, 2, 3, 4, 5} and len(set(numbers["k"][kind == "momentum"].ravel())) > 2
    for row in range(20):
        for time in range(numbers["rate"].shape[1]):
            own = {name: values[row, time] for name, values in numbers.items() if np.isfinite(values[row, time])}
            assert allowed(own)
    free = fn.sweep(moved, space.variants(variants), DATA, **MOVING, evolve=evolve).lineage.numbers
    everything = [
        {name: values[row, time] for name, values in free.items() if np.isfinite(values[row, time])}
        for row in range(20)
        for time in range(free["rate"].shape[1])
    ]
    assert not all(map(allowed, everything))  # it would have gone where it must not


def test_a_number_that_decides_about_others_does_not_evolve():
    def gated(gate, rate=0.01):
        return fn.training(fn.dense(1), fn.squared_error, fn.sgd(rate * gate), in_shape=(2,))

    def variants(gate):
        return fn.grid(gate=gate, rate=fn.when([0.01, 0.02], gate=0.5))

    evolve = fn.population(fn.truncation(0.5))
    match = r"sweep: evolve= must not change gate, which decides whether other .*; static\(...\) keeps gate as it is"
    with pytest.raises(ValueError, match=match):
        fn.sweep(gated, variants([0.25, 0.5]), DATA, **MOVING, evolve=evolve)
    assert fn.sweep(gated, variants(fn.static([0.25, 0.5])), DATA, **MOVING, evolve=evolve).table["gate"].tolist() == [0.25, 0.5, 0.5]
