"""A sweep that ends some of its runs early: by a rule, by time, or at each run's best evaluation."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet import prune
from funcnet.policy import Decisions, Policy
from funcnet.sweeps import run as engine
from funcnet.sweeps.executors import Slot

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32) + (X[:, 1] > 1).astype(np.int32)
DATA = fn.split(fn.Dataset(X, Y), key=jax.random.key(0))
RATES = np.geomspace(1e-4, 3.0, 24).tolist()
SETTINGS = dict(key=jax.random.key(5), num_steps=162, batch_size=16, progress=False, chunk_size=4)


def recipe(learning_rate, optimizer="adam", activation="relu", width=8, drop=0.2):
    model = fn.mlp((width, 3), activation, drop)
    return fn.training(model, fn.cross_entropy, fn.optimizer(optimizer, learning_rate), in_shape=(6,), metrics=["accuracy"])


RULES = {
    "patience": (prune.patience(1), 27),
    "threshold": (prune.threshold(above=1.1), 27),
    "median": (prune.median(), 27),
    "percentile": (prune.percentile(0.3), 27),
    "successive_halving": (prune.successive_halving(6), None),
    "hyperband": (prune.hyperband(6), None),
    "asha": (prune.asha(6), None),
}
every_rule = pytest.mark.parametrize("name", RULES)


def swept(variants, policy=None, eval_every=None, **changed):
    return fn.sweep(recipe, variants, DATA, **(SETTINGS | changed), prune=policy, eval_every=eval_every)


def assert_same(one, other):
    for name, column in one.table.items():
        np.testing.assert_array_equal(column, other.table[name], err_msg=name)
    for name, curve in one.curves.items():
        np.testing.assert_array_equal(curve, other.curves[name], err_msg=name)
    for row in range(len(one)):
        for ours, theirs in zip(jax.tree.leaves(one.state(row)), jax.tree.leaves(other.state(row)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@every_rule
@pytest.mark.parametrize("kind", ["numbers", "programs and names", "replicates", "independent"])
def test_what_is_left_has_the_bits_of_a_sweep_that_stops_nobody(name, kind):
    policy, eval_every = RULES[name]
    variants, changed = fn.grid(learning_rate=RATES), {}
    if kind == "programs and names":
        variants = fn.grid(learning_rate=RATES[::4], width=[6, 8], activation=fn.traced(["relu", "tanh"]))
    elif kind == "replicates":
        variants, changed = fn.grid(learning_rate=RATES[::2]), {"replicates": 3}
    elif kind == "independent":
        changed = {"randomness": "independent"}
    result = swept(variants, policy, eval_every, **changed)
    looks = [int(step) for step in result.curves["step"]]
    whole = {step: swept(variants, num_steps=step, **changed) for step in sorted({*looks, *result.table["steps"].tolist()} - {0})}
    met = collections.Counter()
    for row in range(len(result)):
        steps, status = int(result.table["steps"][row]), result.table["status"][row]
        met[status] += 1
        for place, step in enumerate(looks):
            value = result.curves["validation/loss"][row, place]
            assert (value == whole[step].table["validation/loss"][row]) if step <= steps else np.isnan(value) or status == "diverged"
        for ours, theirs in zip(jax.tree.leaves(result.state(row)), jax.tree.leaves(whole[steps].state(row)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert result.table["pruned_by"][row] == (name if status == "pruned" else "")
        if status != "diverged":
            assert result.table["validation/loss"][row] == whole[steps].table["validation/loss"][row]
    assert met["pruned"] and met["completed"], met
    assert all(steps in looks for steps, status in zip(result.table["steps"], result.table["status"], strict=True) if status == "pruned")


@every_rule
def test_two_sweeps_prune_the_same_and_the_second_compiles_nothing(name):
    policy, eval_every = RULES[name]
    first, second = (swept(fn.grid(learning_rate=RATES), policy, eval_every) for _ in range(2))
    assert_same(first, second)
    assert second.timing["programs"] == 0


def test_pruning_compiles_nothing_that_the_whole_sweep_has_not():
    swept(fn.grid(learning_rate=RATES))
    for policy, eval_every in RULES.values():
        assert swept(fn.grid(learning_rate=RATES), policy, eval_every).timing["programs"] == 0


@every_rule
def test_the_number_of_slots_changes_nothing(name, monkeypatch):
    """But for asha, who goes on depends on what is known when a slot is free."""
    policy, eval_every = RULES[name]
    results = []
    for slots in (1, 3):
        monkeypatch.setattr(engine, "local_slots", lambda slots=slots: [Slot(jax.devices()[0], i) for i in range(slots)])
        results.append(swept(fn.grid(learning_rate=RATES), policy, eval_every))
    if name != "asha":
        assert_same(*results)


def test_successive_halving_keeps_the_numbers_of_the_paper():
    result = swept(fn.grid(learning_rate=np.geomspace(1e-4, 0.1, 27).tolist()), prune.successive_halving(6))
    assert collections.Counter(result.table["steps"].tolist()) == {6: 18, 18: 6, 54: 2, 162: 1}
    assert result.curves["step"].tolist() == [6, 18, 54, 162]
    for place, step in enumerate([6, 18, 54]):
        here = result.curves["validation/loss"][:, place]
        on, out = here[result.table["steps"] > step], here[result.table["steps"] == step]
        assert on.max() <= out.min()


def test_survivors_are_packed_into_fewer_chunks(monkeypatch):
    """27 variants in chunks of 4 are 7 chunks, then 3, 1 and 1: no more tasks than that."""
    from funcnet.sweeps import executors

    own, widths = executors.run_task, []

    def noted(task, here, seconds=None):
        widths.append((task.at, len(task.lanes.numbers["learning_rate"])))
        return own(task, here, seconds)

    monkeypatch.setattr(executors, "run_task", noted)
    swept(fn.grid(learning_rate=np.geomspace(1e-4, 0.1, 27).tolist()), prune.successive_halving(6), num_steps=60)
    assert collections.Counter(widths) == {(0, 4): 7, (6, 4): 3, (18, 4): 1, (54, 4): 1}


def test_the_replicates_of_a_variant_go_on_or_stop_together():
    result = swept(fn.grid(learning_rate=RATES), prune.successive_halving(6), replicates=3)
    for variant in range(len(RATES)):
        assert len(set(result.table["steps"][result.table["variant"] == variant].tolist())) == 1
    mean = result.curves["validation/loss"][:, 0].reshape(-1, 3).mean(1)
    gone_on = result.table["steps"].reshape(-1, 3)[:, 0] > 6
    assert gone_on.sum() == 8 and mean[gone_on].max() <= mean[~gone_on].min()


def fails_at(lost_at, learning_rate=0.1):
    """Counts its steps, and from one on has no finite state; the loss is its rate."""

    def step(state, batch, key):
        return jnp.where(state == lost_at, jnp.inf, state + 1), {"loss": 0.0 * learning_rate}

    return fn.Training(lambda key: jnp.zeros(()), step, lambda state, data: {"loss": learning_rate + 0 * state})


def test_one_that_diverged_counts_as_the_worst_of_its_rung():
    variants = [dict(lost_at=3.0 if i % 2 else 1e6, learning_rate=float(9 - i)) for i in range(9)]
    result = fn.sweep(fails_at, variants, DATA, **(SETTINGS | dict(num_steps=20)), prune=prune.successive_halving(6))
    assert result.table["status"].tolist() == ["pruned", "diverged"] * 4 + ["completed"]
    assert result.table["steps"].tolist() == [6, 3, 6, 3, 18, 3, 18, 3, 20]  # three of the nine go on to 18, one of these three to the end


def test_the_others_of_a_variant_of_which_one_diverged_are_stopped():
    def luck(learning_rate):
        training = fails_at(1e6, learning_rate)

        def init(key):
            return jnp.where(jax.random.uniform(key) < 0.5, 1e6 - 3, 0.0)  # reaches the number after three steps

        return training._replace(init=init)

    result = fn.sweep(
        luck, fn.grid(learning_rate=RATES), DATA, **(SETTINGS | dict(num_steps=20)), replicates=4, prune=prune.median(), eval_every=5
    )
    statuses = result.table["status"].reshape(-1, 4)
    assert (statuses[0] == "diverged").any() and (statuses == statuses[0]).all()  # common random numbers
    assert set(result.table["steps"].tolist()) == {3, 5} and set(statuses.ravel()) == {"diverged", "pruned"}


def test_variants_of_several_lengths():
    variants = fn.grid(learning_rate=RATES[::3], num_steps=[20, 60, 162])
    for policy, eval_every in RULES.values():
        result = swept(variants, policy, eval_every)
        lengths = np.array([setting["num_steps"] for setting in variants])
        assert np.all((result.table["steps"] == lengths) == (result.table["status"] == "completed"))
        assert np.all(result.table["steps"] <= lengths) and (result.table["status"] == "pruned").any()


def test_the_metric_of_a_rule_may_be_another_than_that_of_the_ranking():
    result = swept(fn.grid(learning_rate=RATES), prune.successive_halving(6, metric="validation/accuracy"), metric="validation/loss")
    accuracy = result.curves["validation/accuracy"][:, 0]
    assert accuracy[result.table["steps"] > 6].min() >= accuracy[result.table["steps"] == 6].max() and result.metric == "validation/loss"


def test_a_rule_of_ones_own():
    def decide(state, seen):
        """Every second of those that have been measured."""
        due = seen.running & (seen.allowed == 9) & ~np.isnan(seen.values[:, 0])
        allowed = np.where(seen.allowed == 0, 9, np.where(due, seen.num_steps, seen.allowed))
        return state, Decisions(allowed, due & (np.arange(len(due)) % 2 == 1))

    result = swept(fn.grid(learning_rate=RATES), Policy("own", lambda seen: (), decide, lambda num_steps: [9]))
    assert result.table["status"].tolist() == ["completed", "pruned"] * 12 and set(result.table["pruned_by"]) == {"", "own"}


OWN = {
    "never decides": (lambda s, seen: (s, Decisions(np.maximum(seen.allowed, 9), seen.running & False)), RuntimeError, "must let a variant go on or stop one"),
    "goes back": (lambda s, seen: (s, Decisions(seen.allowed * 0 + 9 - seen.allowed, seen.running & False)), ValueError, "allowed must lie between 9"),
    "too far": (lambda s, seen: (s, Decisions(seen.allowed + 500, seen.running & False)), ValueError, "allowed must lie between 0, .* got 500"),
    "not measured there": (lambda s, seen: (s, Decisions(seen.allowed * 0 + 10, seen.running & False)), ValueError, "at which variants are measured .* got 10; Policy.looks"),
    "of another shape": (lambda s, seen: (s, Decisions(np.zeros(2, int), seen.running)), ValueError, r"must have shape \(24,\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_a_rule_that_is_wrong_says_so(name):
    decide, kind, said = OWN[name]
    with pytest.raises((kind, fn.SweepFailed), match=rf"policy 'own': .*{said}"):
        swept(fn.grid(learning_rate=RATES), Policy("own", lambda seen: (), decide, lambda num_steps: [9]))


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        (dict(prune="median"), TypeError, r"sweep: prune: must be a Policy, got 'median'; such as funcnet.prune.successive_halving"),
        (
            dict(prune=prune.median()),
            ValueError,
            "prune=median must have evaluations to decide by before the last step, got eval_every=None",
        ),
        (dict(prune=prune.median(), eval_every=500), ValueError, "before the last step, got eval_every=500"),
        (dict(prune=prune.successive_halving(162)), ValueError, "first must be below num_steps = 162, got 162"),
        (dict(prune=prune.asha(6, metric="validation/los")), ValueError, "asha: unknown metric 'validation/los'; did you mean"),
        (dict(max_seconds=0), ValueError, r"sweep: max_seconds must be in \(0, inf\), got 0; None for as long"),
        (dict(max_seconds=float("nan")), ValueError, "max_seconds must be in"),
    ],
)
def test_what_is_refused_before_anything_trains(changed, kind, said):
    with pytest.raises(kind, match=said):
        fn.sweep(recipe, fn.grid(learning_rate=RATES), DATA, **(SETTINGS | changed))


def test_no_rank_is_given_to_a_run_that_was_pruned_but_by_its_best():
    result = swept(fn.grid(learning_rate=RATES), prune.patience(1), 9)
    completed = np.flatnonzero(result.table["status"] == "completed")
    assert sorted(result.ranking()) == completed.tolist()
    kept = swept(fn.grid(learning_rate=RATES), prune.patience(1), 9, keep_best=True)
    assert (
        sorted(kept.ranking()) == list(range(24)) and kept.best().metrics["validation/loss"] < result.table["validation/loss"].min() + 1e-9
    )
    everybody = swept(fn.grid(learning_rate=RATES[:3]), prune.threshold(above=-1.0), 27)
    with pytest.raises(ValueError, match="none: of 3 runs 3 pruned; keep_best=True ranks every run by its best evaluation"):
        everybody.best()
    assert "3 pruned" in repr(everybody)


# The best evaluation.


@pytest.mark.parametrize(("metric", "mode"), [("validation/loss", "min"), ("validation/accuracy", "max")])
@pytest.mark.parametrize("replicates", [1, 2])
def test_each_run_is_kept_where_it_was_best(metric, mode, replicates):
    result = swept(fn.grid(learning_rate=RATES), eval_every=9, keep_best=True, metric=metric, replicates=replicates)
    curves = result.curves[metric] * (1 if mode == "min" else -1)
    steps = result.curves["step"]
    best = np.array([steps[np.nanargmin(np.where(np.isfinite(curve), curve, np.nan))] for curve in curves])  # of equals the first
    np.testing.assert_array_equal(result.table["best_step"], best)
    assert len(set(best.tolist())) > 2 and np.all(result.table["steps"][result.table["status"] == "completed"] == 162)
    for step in sorted(set(best.tolist())):
        there = swept(fn.grid(learning_rate=RATES), num_steps=int(step), replicates=replicates)
        for row in np.flatnonzero(best == step).tolist():
            assert result.table["train/loss"][row] == there.table["train/loss"][row]
            for ours, theirs in zip(jax.tree.leaves(result.state(row)), jax.tree.leaves(there.state(row)), strict=True):
                np.testing.assert_array_equal(ours, theirs)
    means = np.where(mode == "min", 1, -1) * result.table[metric].reshape(-1, replicates).mean(1)
    assert result.best().variant == int(np.argmin(means))


def overfits(learning_rate):
    """Its loss falls to zero after 1 / learning_rate steps, and rises then: at the end the slowest is best."""
    return fn.Training(
        lambda key: jnp.zeros(()),
        lambda state, batch, key: (state + 1, {"loss": 0.0 * learning_rate}),
        lambda state, data: {"loss": jnp.abs(1 - state * learning_rate) + 0.1 / learning_rate / 100},
    )


def test_ranking_by_the_last_evaluation_picks_another_than_by_the_best():
    variants, settings = fn.grid(learning_rate=[0.01, 0.1, 1.0]), SETTINGS | dict(num_steps=100, eval_every=1)
    last = fn.sweep(overfits, variants, DATA, **settings)
    best = fn.sweep(overfits, variants, DATA, **settings, keep_best=True, keep=1)
    assert last.best().hyperparameters == {"learning_rate": 0.01} and best.best().hyperparameters == {"learning_rate": 1.0}
    assert (
        best.table["best_step"].tolist() == [100, 10, 1]
        and float(best.state(2)) == 1.0
        and best.best().metrics["validation/loss"] == pytest.approx(0.001)
    )
    with pytest.raises(ValueError, match="row must be one whose state was kept"):
        best.state(0)


def test_a_run_that_diverges_keeps_its_best_state_and_no_rank():
    result = fn.sweep(
        fails_at, [dict(lost_at=7.0), dict(lost_at=1e6)], DATA, **(SETTINGS | dict(num_steps=20)), eval_every=5, keep_best=True
    )
    assert result.table["status"].tolist() == ["diverged", "completed"] and result.table["best_step"].tolist() == [5, 5]
    assert np.isnan(result.table["validation/loss"][0]) and result.ranking().tolist() == [1] and float(result.state(0)) == 5.0


def test_keep_best_needs_a_metric_with_a_direction():
    def own(learning_rate):
        return overfits(learning_rate)._replace(evaluate=lambda state, data: {"odd": state})

    with pytest.raises(ValueError, match="must know which way 'train/odd' is better|must know which way 'validation/odd' is better"):
        fn.sweep(own, fn.grid(learning_rate=[0.1]), DATA, **SETTINGS, keep_best=True)


# Time.


class Clock:
    """A second passes with each stretch of steps."""

    def __init__(self):
        self.ticks = itertools.count()

    def monotonic(self):
        return float(next(self.ticks))


def test_time_that_is_over_ends_the_sweep_with_what_there_is(monkeypatch):
    whole = swept(fn.grid(learning_rate=RATES), num_steps=2000, eval_every=200)
    from funcnet.sweeps import loop, task

    clock = Clock()
    for module in (engine, loop, task):
        monkeypatch.setattr(module, "time", clock)
    result = swept(fn.grid(learning_rate=RATES), num_steps=2000, eval_every=200, max_seconds=150)
    statuses = collections.Counter(result.table["status"].tolist())
    assert statuses["unfinished"] > 0 and result.table["steps"].sum() > 0, statuses
    for row in range(len(result)):
        steps = int(result.table["steps"][row])
        assert (steps == 2000) == (result.table["status"][row] == "completed")
        known = result.curves["step"] <= steps
        np.testing.assert_array_equal(result.curves["train/loss"][row][known], whole.curves["train/loss"][row][: known.sum()])
        if 0 < steps < 2000:
            there = swept([{"learning_rate": RATES[row]}], num_steps=steps)
            for ours, theirs in zip(jax.tree.leaves(result.state(row)), jax.tree.leaves(there.state(0)), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_no_time_at_all_gives_a_result_of_nothing():
    result = swept(fn.grid(learning_rate=RATES), max_seconds=1e-9)
    assert set(result.table["status"].tolist()) == {"unfinished"} and not result.table["steps"].any()
    assert "24 unfinished" in repr(result)
    with pytest.raises(ValueError, match="24 unfinished; let the sweep run on"):
        result.best()


def test_time_and_a_rule_and_the_best_together():
    result = swept(fn.grid(learning_rate=RATES), prune.successive_halving(6), eval_every=3, keep_best=True, max_seconds=1e6, keep=2)
    assert set(result.table["status"].tolist()) == {"pruned", "completed"}
    assert result.best().metrics["validation/loss"] == np.nanmin(result.curves["validation/loss"])


def test_progress_counts_what_was_pruned():
    seen = []
    swept(fn.grid(learning_rate=RATES), prune.successive_halving(6), progress=seen.append)
    assert seen[-1].runs_done == 24 and seen[-1].pruned == 23 and "23 pruned" in str(seen[-1])


def test_a_stop_in_the_middle_hands_out_everything():
    def tell(progress):
        if progress.pruned:
            raise KeyboardInterrupt

    with pytest.raises(fn.SweepStopped) as caught:
        swept(fn.grid(learning_rate=RATES), prune.successive_halving(6), progress=tell)
    result = caught.value.result
    assert {"pruned", "unfinished"} <= set(result.table["status"].tolist()) and (result.table["steps"] >= 6).all()
    for row in range(24):
        result.state(row)


def test_a_result_with_pruned_rows_is_saved_joined_and_shown(tmp_path):
    result = swept(fn.grid(learning_rate=RATES), prune.successive_halving(6), eval_every=27, keep_best=True)
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path, recipe)
    assert_same(result, loaded)
    assert loaded.best().row == result.best().row
    joined = result + result
    assert (
        joined.table["pruned_by"].tolist() == [*result.table["pruned_by"], *result.table["pruned_by"]]
        and len(joined.by_variant()["pruned"]) == 48
    )
    assert "pruned" in repr(result)
