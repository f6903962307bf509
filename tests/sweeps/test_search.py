"""Search: what a strategy is asked and told, what all rounds together give, and what is handed out when a round fails."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forgetting import forget_programs

import funcnet as fn

KEY = jax.random.key(5)
DATA = fn.split(fn.Dataset(np.ones((10, 1), np.float32), np.ones((10, 1), np.float32)), key=KEY, validation=0.5)
SETTINGS = dict(key=KEY, num_steps=2, batch_size=2, progress=False)
BUDGET = dict(rounds=3, per_round=4)


def bowl(rate, shift=0.0):
    """Its loss is (rate - 1/4)² + shift, whatever the data, and its state the noise that its key drew; it diverges where rate is above 2."""

    def init(key):
        return {"noise": jax.random.normal(key), "size": jnp.float32(0)}

    def step(state, batch, key):
        return state | {"size": jnp.where(rate > 2, jnp.nan, state["size"] + 1)}, {}

    def evaluate(state, dataset):
        loss = (rate - 0.25) ** 2 + shift + 0 * state["size"]
        return {"loss": loss, "noisy": loss + rate * state["noise"], "gain": -loss, "unsaid": loss}

    return fn.Training(init, step, evaluate, modes={"gain": "max", "noisy": "min"})


def loss(rate):
    return (np.float32(rate) - np.float32(0.25)) ** 2


class Listed:
    """Gives lists in turn, and remembers what it is told."""

    def __init__(self, *rounds, mode=None):
        self.rounds, self.asked, self.told = list(rounds), [], []
        if mode is not None:
            self.mode = mode

    def ask(self, n):
        self.asked.append(n)
        return self.rounds[len(self.asked) - 1]

    def tell(self, variants, values):
        self.told.append((variants, values))


def rates(*values):
    return [{"rate": value} for value in values]


def all_of(rounds):
    return [variant for lot in rounds for variant in lot]


ROUNDS = (rates(0.5, 0.125, 1.0, 0.75), rates(0.25, 2.0, 0.375, 1.5), rates(0.3, 0.0, 0.2, 0.1))


def searched(strategy, recipe=bowl, **options):
    return fn.search(recipe, strategy, DATA, **(SETTINGS | BUDGET | options))


def test_each_round_is_asked_for_swept_and_told_and_all_stand_in_one_result():
    strategy = Listed(*ROUNDS)
    result = searched(strategy)
    assert strategy.asked == [4, 4, 4]
    assert result.table["variant"].tolist() == list(range(12)) and set(result.table["status"]) == {"completed"}
    assert result.table["rate"].tolist() == [variant["rate"] for variant in all_of(ROUNDS)]
    np.testing.assert_allclose(result.table["validation/loss"], loss(result.table["rate"]), rtol=1e-6)
    assert result.best().hyperparameters == {"rate": 0.25} and result.best().variant == 4
    for number, (variants, values) in enumerate(strategy.told):
        assert variants is ROUNDS[number] and all(type(value) is float for value in values)
        assert values == result.table["validation/loss"][result.table["variant"] // 4 == number].tolist()
    assert len(strategy.told) == 3


def test_a_search_is_the_sweep_of_all_its_variants():
    """Under common random numbers: the variants of all rounds had the same draws."""
    result = searched(Listed(*ROUNDS), metric="validation/noisy", replicates=2)
    whole = fn.sweep(bowl, all_of(ROUNDS), DATA, metric="validation/noisy", replicates=2, **SETTINGS)
    assert result.table.keys() == whole.table.keys() and result.metric == whole.metric and result.mode == whole.mode == "min"
    for name, column in whole.table.items():
        np.testing.assert_array_equal(result.table[name], column)
    assert {float(result.state(row)["noise"]) for row in range(24)} == {float(whole.state(row)["noise"]) for row in (0, 1)}


def test_rounds_of_independent_randomness_draw_nothing_twice():
    result = searched(Listed(*ROUNDS), randomness="independent", replicates=2)
    assert len({float(result.state(row)["noise"]) for row in range(24)}) == 24
    second = fn.sweep(bowl, ROUNDS[1], DATA, randomness="independent", replicates=2, **(SETTINGS | {"key": jax.random.fold_in(KEY, 1)}))
    assert [float(result.state(8 + row)["noise"]) for row in range(8)] == [float(second.state(row)["noise"]) for row in range(8)]


def test_a_later_round_compiles_nothing():
    def fresh(rate):
        return bowl(rate * 1.5)

    programs = []
    for rounds in (1, 3):
        forget_programs()
        programs.append(searched(Listed(*ROUNDS), fresh, rounds=rounds).timing["programs"])
    assert programs[0] == programs[1] > 0


def test_timing_adds_up():
    result = searched(Listed(*ROUNDS))
    assert len(result.timing["lane_widths"]) == 3 and len(set(result.timing["lane_widths"])) == 1


def test_a_value_is_the_mean_over_replicates_in_the_metrics_own_sign():
    strategy = Listed(*ROUNDS)
    result = searched(strategy, metric="validation/noisy", replicates=3)
    for variant, value in enumerate(value for _, values in strategy.told for value in values):
        assert value == pytest.approx(np.mean(result.table["validation/noisy"][result.table["variant"] == variant]), rel=1e-12)
    strategy = Listed(*ROUNDS, mode="max")
    result = searched(strategy, metric="validation/gain")
    assert [value for _, values in strategy.told for value in values] == result.table["validation/gain"].tolist()
    assert max(result.table["validation/gain"]) == 0 > min(result.table["validation/gain"])


def test_what_diverged_or_is_not_finite_is_told_as_nan():
    strategy = Listed(
        [{"rate": 0.5, "shift": 0.0}, {"rate": 3.0, "shift": 0.0}, {"rate": 0.5, "shift": np.inf}, {"rate": 0.25, "shift": 1.0}]
    )
    result = searched(strategy, rounds=1)
    assert result.table["status"].tolist() == ["completed", "diverged", "completed", "completed"]
    assert strategy.told[0][1] == [0.0625, pytest.approx(np.nan, nan_ok=True), pytest.approx(np.nan, nan_ok=True), 1.0]


def test_one_diverged_replicate_spoils_the_value():
    first = float(fn.sweep(bowl, rates(0.5), DATA, **SETTINGS).state(0)["noise"])

    def sometimes(rate):
        """Its second replicate, which draws another number, diverges at a high rate."""
        init, _, evaluate = bowl(rate)

        def diverges(state, batch, key):
            return state | {"size": jnp.where((rate > 1) & (state["noise"] != first), jnp.nan, state["size"])}, {}

        return fn.Training(init, diverges, evaluate)

    strategy = Listed(rates(0.5, 1.5))
    result = searched(strategy, sometimes, rounds=1, per_round=2, replicates=2)
    assert result.table["status"].tolist() == ["completed", "completed", "completed", "diverged"]
    assert strategy.told[0][1] == [0.0625, pytest.approx(np.nan, nan_ok=True)]


@pytest.mark.parametrize("keep", [1, 2, 3, 5, 7, 9, 20])
@pytest.mark.parametrize("metric", ["validation/noisy", "validation/gain"])
def test_as_many_states_are_kept_as_one_sweep_keeps(keep, metric):
    options = dict(keep=keep, metric=metric, replicates=3)
    rounds = (rates(1.9, 9.0, 0.5, 0.1), rates(8.0, 0.1, np.inf, 0.5), rates(0.3, 7.0, 1.9, 0.1))  # some diverge, some are equal
    rounds = [[each | {"shift": -np.inf if each["rate"] == 0.3 else 0.0} for each in lot] for lot in rounds]  # and one can't be ranked
    result = searched(Listed(*rounds), **options)
    whole = fn.sweep(bowl, all_of(rounds), DATA, **options, **SETTINGS)
    assert sorted(result._states) == sorted(whole._states) and len(result._states) == min(keep, 12)
    assert result.best().row == whole.best().row and result.best().state == whole.best().state


def test_variants_of_every_form_will_do():
    """A generator, `Variants` and marked values, as `sweep` takes them."""
    strategy = Listed(({"rate": rate} for rate in (0.5, 0.25)), fn.grid(rate=[0.1, 0.2]), fn.grid(rate=fn.static([0.4, 0.3])))
    result = searched(strategy, per_round=2)
    assert result.table["rate"].tolist() == [0.5, 0.25, 0.1, 0.2, 0.4, 0.3]
    assert list(strategy.told[0][0]) == rates(0.5, 0.25) and strategy.told[2][0][0] == {"rate": fn.static(0.4)}


def test_a_result_of_a_search_can_be_saved(tmp_path):
    result = searched(Listed(*ROUNDS), keep=2)
    result.save(tmp_path)
    again = fn.load_result(tmp_path, bowl)
    assert again.best().metrics == result.best().metrics and sorted(again._states) == sorted(result._states)


# A round that fails.


class Fails(Listed):
    """Raises in a later ask or tell."""

    def __init__(self, where, number, error):
        super().__init__(*ROUNDS)
        self.where, self.number, self.error = where, number, error

    def ask(self, n):
        if (self.where, self.number) == ("ask", len(self.asked)):
            raise self.error
        return super().ask(n)

    def tell(self, variants, values):
        if (self.where, self.number) == ("tell", len(self.told)):
            raise self.error
        super().tell(variants, values)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyError("lost"), fn.SweepFailed),
        (KeyboardInterrupt(), fn.SweepStopped),
        (FloatingPointError("odd"), fn.SweepNotFinite),
    ],
    ids=["error", "Ctrl-C", "not finite"],
)
@pytest.mark.parametrize(("where", "number", "rows"), [("ask", 1, 4), ("ask", 2, 8), ("tell", 0, 4), ("tell", 2, 12)])
def test_a_strategy_that_fails_loses_no_rows(where, number, rows, error, kind):
    match = rf"search: {type(error).__name__} in round {number + 1} of 3, after {rows} runs, which the error's .result holds"
    with pytest.raises(kind, match=match) as caught:
        searched(Fails(where, number, error))
    assert type(caught.value) is kind and caught.value.__cause__ is error
    assert caught.value.result.table["rate"].tolist() == [variant["rate"] for variant in all_of(ROUNDS)][:rows]
    assert set(caught.value.result.table["status"]) == {"completed"}


def test_a_strategy_that_fails_at_once_raises_its_own_error():
    error = KeyError("nothing yet")
    with pytest.raises(KeyError, match="nothing yet") as caught:
        searched(Fails("ask", 0, error))
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "kind"), [(KeyboardInterrupt, fn.SweepStopped), (MemoryError("no room"), fn.SweepFailed)], ids=["Ctrl-C", "error"]
)
@pytest.mark.parametrize("after", [0, 2], ids=["before a run is done", "half way"])
@pytest.mark.parametrize("keep", [None, 2])
def test_an_interrupted_round_hands_out_all_rounds(error, kind, after, keep):
    def stop(now):
        if len(strategy.asked) == 2 and after <= now.runs_done < now.runs and (now.steps_done > 4 or not after):
            raise error

    rounds = [[each | {"num_steps": 2 if i < 2 else 40_000} for i, each in enumerate(lot)] for lot in ROUNDS[:2]]
    rounds[0] = [each | {"num_steps": 2} for each in rounds[0]]
    strategy = Listed(*rounds)
    with pytest.raises(kind, match=r"search: .*round 2 of 3") as caught:
        searched(strategy, progress=stop, chunk_size=1, keep=keep)
    result = caught.value.result
    assert type(caught.value) is kind and len(strategy.told) == 1
    assert result.table["status"].tolist() == ["completed"] * 4 + (["completed"] * 2 + ["unfinished"] * 2 if after else [])
    assert result.table["rate"].tolist() == [variant["rate"] for variant in all_of(ROUNDS)][: 8 if after else 4]
    done = result.table["status"] == "completed"
    np.testing.assert_allclose(result.table["validation/loss"][done], loss(result.table["rate"][done]), rtol=1e-6)
    ended = {row for row in result._states if done[row]}
    assert ended == set(result.ranking()[:keep].tolist())
    on_their_way = result._states.keys() - ended  # at least one of them, in as many places as there are cores
    assert on_their_way <= {6, 7} and bool(on_their_way) == bool(after)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# Refusals.

UNDER_ONE = {"rounds": "search: rounds must be at least 1, got 0", "per_round": "search: per_round must be at least 1, got 0"}


@pytest.mark.parametrize("name", UNDER_ONE)
def test_there_is_at_least_one_round_of_one_variant(name):
    strategy = Listed(*ROUNDS)
    with pytest.raises(ValueError, match=UNDER_ONE[name]):
        searched(strategy, **{name: 0})
    with pytest.raises(TypeError, match=f"search: {name} must be a whole number, got 1.5"):
        searched(strategy, **{name: 1.5})
    assert not strategy.asked
    assert len(searched(Listed(rates(0.5)), rounds=1, per_round=1)) == 1


def test_a_strategy_asks_and_tells():
    class Half:
        def ask(self, n):
            return rates(*[0.5] * n)

    for wrong in (Half(), fn.grid(rate=[0.1]), None, fn.space(rate=fn.uniform(0, 1))):
        with pytest.raises(
            TypeError, match=r"search: needs an object with ask and tell, got .*; fn.suggest.random\(space, key=key\) is one"
        ):
            searched(wrong)
    assert len(searched(fn.suggest.random(fn.space(rate=fn.uniform(0, 1)), key=KEY), rounds=1)) == 4


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (
            rates(0.5, 0.1),
            ValueError,
            r"search: strategy.ask\(4\) must give 4 variants, got 2; a strategy gives as many as it is asked for",
        ),
        (rates(*[0.5] * 5), ValueError, r"search: strategy.ask\(4\) must give 4 variants, got 5"),
        ([], ValueError, r"search: strategy.ask\(4\) must give 4 variants, got 0"),
        (None, TypeError, "search: strategy.ask: variants must be a list of dicts, got NoneType"),
        ({"rate": 0.5}, TypeError, "search: strategy.ask: variants must be a list of dicts, got dict"),
        ([0.5] * 4, TypeError, "search: strategy.ask: every variant must be a dict, got 0.5 as variant 0"),
    ],
    ids=["few", "many", "empty", "None", "one", "numbers"],
)
@pytest.mark.parametrize("number", [0, 1])
def test_as_many_variants_are_given_as_were_asked_for(given, error, match, number):
    strategy = Listed(*ROUNDS[:number], given)
    with pytest.raises(fn.SweepFailed if number else error, match=match) as caught:
        searched(strategy)
    assert len(strategy.told) == number
    if number:
        assert type(caught.value.__cause__) is error and len(caught.value.result) == 4


def test_every_round_names_the_same_hyperparameters():
    strategy = Listed(ROUNDS[0], [{"rate": 0.5, "shift": 0.0}] * 4)
    match = "search: strategy.ask: every round must name the same hyperparameters, got 'shift' in only one of this and the first"
    with pytest.raises(fn.SweepFailed, match=match) as caught:
        searched(strategy)
    assert len(caught.value.result) == 4
    assert len(searched(Listed(*[[each | {"shift": 0.0} for each in lot] for lot in ROUNDS]))) == 12


OPTIONS = {
    "misspelt": ({"replicate": 2}, "search: neither search nor sweep has an argument 'replicate'; did you mean 'replicates'?"),
    "odd": ({"zzz": 2}, "search: neither search nor sweep has an argument 'zzz'; there are 'key', 'num_steps'"),
    "the strategy's": ({"variants": []}, "search: neither search nor sweep has an argument 'variants'"),
    "seed": ({"key": 0}, r"search: key must be a JAX random key, got 0; such as jax.random.key\(0\)"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_wrong_option_is_found_before_anything_is_asked(name):
    options, match = OPTIONS[name]
    strategy = Listed(*ROUNDS)
    with pytest.raises(TypeError, match=match):
        searched(strategy, **options)
    assert not strategy.asked


def test_what_sweep_needs_search_needs():
    strategy = Listed(*ROUNDS)
    with pytest.raises(TypeError, match="search: needs key and batch_size, got none; as sweep does"):
        fn.search(bowl, strategy, DATA, num_steps=2, **BUDGET)
    with pytest.raises(TypeError, match="search: neither search nor sweep has an argument 'num_step'; did you mean 'num_steps'?"):
        fn.search(bowl, strategy, DATA, num_step=2, **BUDGET)
    assert not strategy.asked


@pytest.mark.parametrize(
    ("options", "mode", "match"),
    [
        ({"mode": "min"}, "max", "search: the strategy's mode must be 'min', as the metric is ranked, got 'max'; .*direction=\"minimize\""),
        ({"metric": "validation/loss"}, "max", "search: the strategy's mode must be 'min', as 'validation/loss' is ranked, got 'max'"),
        ({"metric": "validation/gain", "mode": "max"}, "min", "search: the strategy's mode must be 'max', as 'validation/gain' is ranked"),
        ({"mode": "min"}, "up", "search: unknown mode of a strategy 'up'"),
        ({"mode": "minimum"}, "min", "search: unknown mode 'minimum'; did you mean 'min'?"),
    ],
)
def test_a_strategy_that_looks_the_other_way_is_found_before_anything_is_asked(options, mode, match):
    strategy = Listed(*ROUNDS, mode=mode)
    with pytest.raises(ValueError, match=match):
        searched(strategy, **options)
    assert not strategy.asked


@pytest.mark.parametrize(
    ("options", "mode", "match"),
    [
        ({}, "max", "search: the strategy's mode must be 'min', as 'validation/loss' is ranked, got 'max'"),
        (
            {"metric": "validation/gain"},
            "min",
            "the strategy's mode must be 'max', as 'validation/gain' is ranked, .*direction=\"maximize\"",
        ),
    ],
)
def test_or_as_soon_as_the_metric_is_known_and_the_round_is_not_lost(options, mode, match):
    strategy = Listed(*ROUNDS, mode=mode)
    with pytest.raises(ValueError, match=match) as caught:
        searched(strategy, **options)
    assert isinstance(caught.value, fn.SweepFailed) and len(caught.value.result) == 4
    assert len(strategy.asked) == 1 and not strategy.told
    other = {"min": "max", "max": "min"}[mode]
    assert len(searched(Listed(*ROUNDS, mode=other), **options)) == 12  # the other direction, or the other mode, as the message says
    assert len(searched(Listed(*ROUNDS, mode=mode), mode=mode, **options)) == 12


def test_a_strategy_with_a_mode_needs_a_metric_with_one():
    def unsaid(rate):
        init, step, evaluate = bowl(rate)
        return init, step, lambda state, dataset: {"unsaid": evaluate(state, dataset)["unsaid"]}

    with pytest.raises(ValueError, match="search: must know which way 'validation/unsaid' is better, got no mode; give search mode="):
        searched(Listed(*ROUNDS, mode="min"), unsaid)
    assert len(searched(Listed(*ROUNDS, mode="min"), unsaid, mode="min")) == len(searched(Listed(*ROUNDS), unsaid)) == 12
