"""A population: poor variants take over from good ones, on the way."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.policy import Decisions, Policy
from funcnet.sweeps import run as engine
from funcnet.sweeps.executors import Slot

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32) + (X[:, 1] > 1).astype(np.int32)
DATA = fn.split(fn.Dataset(X, Y), key=jax.random.key(0))
SETTINGS = dict(key=jax.random.key(5), num_steps=60, batch_size=16, progress=False, chunk_size=4, eval_every=12)
VARIANTS = fn.space(learning_rate=fn.log_uniform(1e-3, 1.0), l2=fn.uniform(0.0, 1e-3)).sample(12, key=jax.random.key(1))


def recipe(learning_rate, l2=0.0, width=8, activation="relu"):
    model = fn.mlp((width, 3), activation)
    return fn.training(model, fn.cross_entropy, fn.momentum(learning_rate), in_shape=(6,), penalty=fn.l2(l2), metrics=["accuracy"])


def swept(variants=VARIANTS, evolve=None, **changed):
    return fn.sweep(recipe, variants, DATA, **(SETTINGS | changed), evolve=fn.population() if evolve is None else evolve)


def assert_same(one, other):
    for name, column in one.table.items():
        np.testing.assert_array_equal(column, other.table[name], err_msg=name)
    for name in one.lineage.numbers:
        np.testing.assert_array_equal(one.lineage.numbers[name], other.lineage.numbers[name])
    np.testing.assert_array_equal(one.lineage.parent, other.lineage.parent)
    for row in range(len(one)):
        for ours, theirs in zip(jax.tree.leaves(one.state(row)), jax.tree.leaves(other.state(row)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name, values", [("optimizer", ["adam", "momentum", "amsgrad"]), ("activation", ["relu", "tanh"])])
def test_names_that_are_traced_are_populations_of_their_own_as_are_those_that_are_not(name, values):
    """Adam can do nothing with the velocity of momentum, nor a net of relu with the weights of one of tanh."""

    def named(learning_rate, optimizer="momentum", activation="relu"):
        model = fn.mlp((8, 3), activation)
        return fn.training(model, fn.cross_entropy, fn.optimizer(optimizer, learning_rate), in_shape=(6,))

    def evolved(names):
        rates = {"learning_rate": np.geomspace(1e-3, 0.1, 5).tolist()}
        return fn.sweep(named, fn.grid(**{name: names}, **rates), DATA, **SETTINGS, evolve=fn.population(fn.binary_tournament()))

    traced, plain = evolved(fn.traced(values)), evolved(values)
    assert len(traced.timing["lane_widths"]) == 1 and len(plain.timing["lane_widths"]) == len(values)
    np.testing.assert_array_equal(traced.lineage.parent, plain.lineage.parent)
    assert (traced.lineage.parent != np.arange(5 * len(values))[:, None]).any()
    np.testing.assert_allclose(traced.lineage.numbers["learning_rate"], plain.lineage.numbers["learning_rate"], rtol=1e-6)
    np.testing.assert_allclose(traced.table["validation/loss"], plain.table["validation/loss"], rtol=1e-3, atol=1e-5)


def test_who_took_over_from_whom_and_with_what_numbers():
    result = swept()
    lineage = result.lineage
    assert lineage.step.tolist() == [12, 24, 36, 48] and lineage.parent.shape == (12, 4)
    assert result.table["status"].tolist() == ["completed"] * 12 and set(result.table["steps"].tolist()) == {60}
    for place, step in enumerate(lineage.step.tolist()):
        loss = result.curves["validation/loss"][:, result.curves["step"].tolist().index(step)]
        moved = np.flatnonzero(lineage.parent[:, place] != np.arange(12))
        worst, best = np.argsort(loss, kind="stable")[-2:], np.argsort(loss, kind="stable")[:2]
        assert sorted(moved) == sorted(worst) and set(lineage.parent[moved, place]) <= set(best)
        for name, values in lineage.numbers.items():
            stayed = np.setdiff1d(np.arange(12), moved)
            np.testing.assert_array_equal(values[stayed, place + 1], values[stayed, place])
            low, high = {"learning_rate": (1e-3, 1.0), "l2": (0.0, 1e-3)}[name]
            assert np.all((values >= low) & (values < high))
    for name in ("learning_rate", "l2"):
        np.testing.assert_array_equal(lineage.numbers[name][:, 0], result.table[name])


def test_two_populations_are_the_same_and_the_second_compiles_nothing():
    first, second = swept(), swept()
    assert_same(first, second)
    assert second.timing["programs"] == 0
    assert not np.array_equal(swept(key=jax.random.key(6)).lineage.parent, first.lineage.parent)


def test_the_number_of_slots_and_of_lanes_changes_nothing_but_rounding(monkeypatch):
    first = swept()
    for slots in (1, 3):
        monkeypatch.setattr(engine, "local_slots", lambda slots=slots: [Slot(jax.devices()[0], i) for i in range(slots)])
        assert_same(first, swept())
    wide = swept(chunk_size=6)
    np.testing.assert_array_equal(wide.lineage.parent, first.lineage.parent)
    np.testing.assert_allclose(wide.table["train/loss"], first.table["train/loss"], rtol=1e-4)


@pytest.mark.parametrize("replicates", [1, 2])
def test_a_schedule_that_was_found_is_trained_anew(replicates):
    """Its state was trained with these numbers from the first step on, in whoever had it: so is the one that is trained with them."""
    variants = fn.space(learning_rate=fn.log_uniform(1e-3, 1.0)).sample(12, key=jax.random.key(1))
    result = swept(variants, fn.population(explore=fn.perturb((0.5, 2.0), resample=0.5)), replicates=replicates)
    moved = [row for row in range(len(result)) if len(set(result.lineage.along(row, "learning_rate").tolist())) > 2]
    assert moved
    for row in moved[:4]:
        schedule = result.schedule(row, "learning_rate")
        assert [float(schedule(step)) for step in (0, 11, 12, 59)] == pytest.approx(
            [result.lineage.along(row, "learning_rate")[i] for i in (0, 0, 1, 4)]
        )
        anew = fn.sweep(recipe, [{"learning_rate": schedule}], DATA, **SETTINGS, replicates=replicates)
        own = int(result.table["replicate"][row])
        assert anew.table["train/loss"][own] == pytest.approx(result.table["train/loss"][row], rel=1e-3)
        for ours, theirs in zip(jax.tree.leaves(anew.state(own).params), jax.tree.leaves(result.state(row).params), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_replicate_takes_over_from_the_same_replicate():
    result = swept(replicates=3)
    parents = result.lineage.parent
    assert (parents != np.arange(36)[:, None]).any()
    np.testing.assert_array_equal(parents % 3, np.tile(np.arange(3), 12)[:, None] * np.ones(4, int))


def test_programs_do_not_mix_and_static_ones_stay():
    variants = fn.grid(learning_rate=np.geomspace(1e-3, 1.0, 6).tolist(), width=[5, 8], activation=fn.traced(["relu", "tanh"]))
    result = swept(variants, fn.population(fn.binary_tournament()))
    width = result.table["width"]
    assert (result.lineage.parent != np.arange(24)[:, None]).any()
    for parents in result.lineage.parent.T:
        np.testing.assert_array_equal(width[parents], width)
    for row in range(24):
        assert result.state(row).params[0]["weight"].shape == (width[row], 6)


def test_numbers_of_a_list_stay_between_their_least_and_largest():
    result = swept(fn.grid(learning_rate=[0.01, 0.02, 0.04, 0.08]), fn.population(fn.binary_tournament(), fn.perturb((0.1, 10.0))))
    rates = result.lineage.numbers["learning_rate"]
    assert rates.min() >= 0.01 and rates.max() <= 0.08 and len(np.unique(rates)) > 4


def test_whole_numbers_stay_whole():
    def counts(learning_rate, power):
        return recipe(learning_rate * (1 + 0 * jnp.asarray(power, jnp.float32)))

    variants = fn.space(learning_rate=fn.log_uniform(1e-3, 1.0), power=fn.traced(fn.integers(1, 9))).sample(8, key=jax.random.key(0))
    result = fn.sweep(counts, variants, DATA, **SETTINGS, evolve=fn.population(fn.binary_tournament()))
    powers = result.lineage.numbers["power"]
    assert powers.dtype == np.int64 and powers.min() >= 1 and powers.max() <= 8


def test_one_that_diverged_takes_no_part():
    variants = fn.grid(learning_rate=[0.01, 0.02, 1e38, 0.05, 0.1])
    result = swept(variants, fn.population(fn.binary_tournament(), fn.perturb(resample=0.0)))
    assert result.table["status"].tolist() == ["completed", "completed", "diverged", "completed", "completed"]
    assert set(result.lineage.parent[2].tolist()) == {2} and not (np.delete(result.lineage.parent, 2, 0) == 2).any()


def test_it_is_stored_and_goes_on(tmp_path, monkeypatch):
    from funcnet.sweeps import store

    monkeypatch.setattr(store, "_LEAST", 0.0)
    monkeypatch.setattr(store, "_SHARE", 1e9)
    whole = swept()
    for stop in (2, 4, 6, 8):
        calls = []

        def tell(progress, calls=calls, stop=stop):
            calls.append(progress)
            if len(calls) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            swept(progress=tell, store=tmp_path / str(stop))
        assert_same(whole, swept(store=tmp_path / str(stop)))
    with pytest.raises(ValueError, match="rule: stored .*truncation.*0.2.* given .*truncation.*0.3"):
        swept(evolve=fn.population(fn.truncation(0.3)), store=tmp_path / "2")


@pytest.mark.parametrize("policy", [fn.population(), fn.prune.patience(1), fn.prune.successive_halving(12)], ids=lambda policy: policy.name)
@pytest.mark.parametrize("nth", [1, 2])
def test_a_stop_between_a_decision_and_its_carrying_out_is_no_decision(policy, nth, tmp_path, monkeypatch):
    """Numbers that were changed already, and states that were not yet copied, would be another training."""
    from funcnet.sweeps import loop, store

    monkeypatch.setattr(store, "_LEAST", 0.0)
    monkeypatch.setattr(store, "_SHARE", 1e9)
    argument = "evolve" if policy.name == "population" else "prune"
    settings = SETTINGS | {argument: policy}
    whole = fn.sweep(recipe, VARIANTS, DATA, **settings)
    own, calls = loop.packed, []

    def stops(*arguments):
        calls.append(1)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return own(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "packed", stops)
        with pytest.raises(fn.SweepStopped):
            fn.sweep(recipe, VARIANTS, DATA, **settings, store=tmp_path)
    again = fn.sweep(recipe, VARIANTS, DATA, **settings, store=tmp_path)
    for name, column in whole.table.items():
        np.testing.assert_array_equal(column, again.table[name], err_msg=name)
    if argument == "evolve":
        assert_same(whole, again)


def test_a_lineage_is_saved_loaded_and_pickled(tmp_path):
    result = swept()
    result.save(tmp_path)
    for again in (fn.load_result(tmp_path, recipe), pickle.loads(pickle.dumps(result))):
        assert_same(result, again)
        assert again.schedule(3, "l2") == result.schedule(3, "l2")
    assert (result + result).lineage is None


def test_a_policy_of_ones_own_may_change_numbers_alone():
    def decide(state, seen):
        standing = seen.running & (seen.allowed < seen.num_steps)
        begun = seen.allowed[0] > 0
        if not standing.any() or (begun and np.isnan(seen.values[:, seen.steps.tolist().index(seen.allowed[0])]).any()):
            return state, Decisions(seen.allowed, standing & False)
        after = np.array([next((step for step in seen.steps if step > allowed), 60) for allowed in seen.allowed])
        numbers = {"learning_rate": seen.numbers["learning_rate"] * 0.5} if begun else None
        return state, Decisions(np.where(standing, after, seen.allowed), standing & False, None, numbers)

    result = swept(fn.grid(learning_rate=[0.1, 0.2]), Policy("halve", lambda seen: (), decide))
    np.testing.assert_allclose(result.lineage.numbers["learning_rate"], np.outer([0.1, 0.2], 0.5 ** np.arange(5)))
    rate = lambda step: 0.1 * 0.5 ** jnp.floor(step / 12)
    anew = fn.sweep(recipe, [{"learning_rate": rate}], DATA, **SETTINGS)
    assert anew.table["train/loss"][0] == pytest.approx(result.table["train/loss"][0], rel=1e-4)


OWN = {
    "in prune": (dict(prune=fn.population()), "prune= must copy nothing and change no number, got a copy; evolve= takes such a policy"),
    "both": (dict(prune=fn.prune.median(), evolve=fn.population()), "must have one policy, got prune and evolve"),
    "no evaluation": (dict(evolve=fn.population(), eval_every=None), "evolve=population must have evaluations to decide by"),
    "no policy": (dict(evolve="population"), "sweep: evolve: must be a Policy, got 'population'"),
}


@pytest.mark.parametrize("name", OWN)
def test_what_is_refused(name):
    changed, said = OWN[name]
    with pytest.raises((ValueError, TypeError, fn.SweepFailed), match=said):
        fn.sweep(recipe, VARIANTS, DATA, **(SETTINGS | changed))


def test_a_schedule_needs_a_lineage_and_a_number():
    with pytest.raises(ValueError, match=r"schedule: needs the lineage of a population, got a result without one; sweep\(..., evolve="):
        fn.sweep(recipe, VARIANTS[:2], DATA, **SETTINGS).schedule(0, "learning_rate")
    with pytest.raises(ValueError, match="schedule: unknown number 'learning_rat'; did you mean 'learning_rate'"):
        swept().schedule(0, "learning_rat")
