"""Strategies: what is drawn over many asks, how a space looks to Optuna, and what a study knows after a search."""

import json
import math
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2_contingency, norm, qmc

import funcnet as fn
from funcnet.spaces import Distribution, Static, Traced, plain
from funcnet.suggest import _RandomTrial, _suggested

KEY = jax.random.key(3)
DATA = fn.Dataset(np.ones((8, 1), np.float32), np.ones((8, 1), np.float32))
SETTINGS = dict(key=KEY, num_steps=1, batch_size=None, progress=False)
SPACE = fn.space(
    rate=fn.log_uniform(1e-3, 1.0),
    drop=fn.uniform(0.0, 0.5),
    width=fn.integers(1, 5),
    size=fn.traced(fn.integers(0, 3)),
    name=fn.choice(["a", "b"]),
    shift=fn.normal(2.0, 0.5),
    depth=7,
)


# Drawn, whatever the values.


def drawn(method, space=SPACE, key=KEY):
    return fn.suggest.random(space, key=key) if method == "random" else fn.suggest.quasi_random(space, key=key, method=method)


methods = pytest.mark.parametrize("method", ["random", "sobol", "halton"])


@methods
@pytest.mark.parametrize("lots", [(16,), (8, 8), (1, 15), (5, 1, 3, 7), (3, 13)], ids=str)
def test_all_asks_together_are_one_sample(method, lots):
    strategy = drawn(method)
    variants = [variant for lot in lots for variant in strategy.ask(lot)]
    assert variants == SPACE.sample(16, key=KEY, method=method)
    assert [type(value) for value in variants[0].values()] == [float, float, int, Traced, str, float, int]


@methods
def test_what_is_told_changes_nothing(method):
    told, untold = drawn(method), drawn(method)
    for _ in range(3):
        variants = told.ask(4)
        assert variants == untold.ask(4)
        told.tell(variants, [1.0, math.nan, 2.0, 3.0])


@methods
def test_a_key_decides_what_is_drawn(method):
    first, again, other = (drawn(method, key=jax.random.key(seed)).ask(4) for seed in (0, 0, 1))
    assert first == again != other


def test_rounds_go_on_covering_the_space():
    """Four lots of 16 are 64 points of one sequence: more even than four sequences of 16."""
    space = fn.space(a=fn.uniform(0, 1), b=fn.uniform(0, 1))

    def discrepancy(lots):
        return qmc.discrepancy(np.array([list(variant.values()) for lot in lots for variant in lot]))

    for method in ("sobol", "halton"):
        strategy = drawn(method, space)
        together = discrepancy([strategy.ask(16) for _ in range(4)])
        apart = np.mean([discrepancy([space.sample(16, key=jax.random.key(4 * i + j), method=method) for j in range(4)]) for i in range(4)])
        assert together < 0.5 * apart


def net_free(rate, drop=0.0, width=1, size=0, name="a", shift=0.0, depth=7, **_):
    """Its loss is (log10(rate) + 1)² + width, whatever the data; at a drop above 0.4 it diverges."""
    size = size if isinstance(size, jax.Array) else jnp.int32(size)

    def step(state, batch, key):
        return jnp.where(drop > 0.4, jnp.nan, state), {}

    def evaluate(state, dataset):
        loss = (jnp.log10(rate) + 1.0) ** 2 + (width + (name == "b")) + 0.0 * size.astype(float)
        return {"loss": loss, "gain": -loss}

    return fn.Training(lambda key: jnp.float32(0), step, evaluate, modes={"gain": "max"})


@methods
def test_a_search_sweeps_what_is_drawn(method):
    result = fn.search(net_free, drawn(method), DATA, rounds=2, per_round=4, **SETTINGS)
    expected = SPACE.sample(8, key=KEY, method=method)
    plain = [{name: value.value if isinstance(value, Traced) else value for name, value in variant.items()} for variant in expected]
    assert [result.hyperparameters(row) for row in range(8)] == plain


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (lambda: fn.suggest.random([1], key=KEY), TypeError, r"random: space must be a space, got list; space\(learning_rate=log_uniform"),
        (lambda: fn.suggest.quasi_random(None, key=KEY), TypeError, "quasi_random: space must be a space, got NoneType"),
        (lambda: fn.suggest.random(SPACE, key=0), TypeError, r"random: key must be a JAX random key, got 0; such as jax.random.key\(0\)"),
        (lambda: fn.suggest.quasi_random(SPACE, key=7), TypeError, r"quasi_random: key must be a JAX random key, got 7"),
        (lambda: drawn("sobel"), ValueError, "quasi_random: unknown method 'sobel'; did you mean 'sobol'?"),
        (lambda: drawn("latin_hypercube"), ValueError, "quasi_random: method must be one that can go on, got 'latin_hypercube'; such as"),
        (lambda: drawn("sobol").ask(0), ValueError, "ask: n must be at least 1, got 0"),
        (lambda: drawn("random").ask(1.5), TypeError, "ask: n must be a whole number, got 1.5"),
    ],
)
def test_what_cannot_be_drawn_from(wrong, error, match):
    with pytest.raises(error, match=match):
        wrong()


# Optuna.


@pytest.fixture
def library():
    optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install -e '.[optuna]'")
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield optuna
    optuna.logging.set_verbosity(before)


def sampler(library, name, seed=0):
    """One of Optuna's samplers, of few random trials at first, so that it soon looks at what it was told."""
    if name == "tpe":
        return library.samplers.TPESampler(seed=seed, n_startup_trials=4)
    if name == "gp":
        pytest.importorskip("torch", reason="Optuna's GPSampler needs torch")
        with warnings.catch_warnings(action="ignore"):  # that it is experimental, before Optuna 5
            return library.samplers.GPSampler(seed=seed, n_startup_trials=4)
    if name == "cma-es":
        pytest.importorskip("cmaes", reason="Optuna's CmaEsSampler needs the package cmaes")
        return library.samplers.CmaEsSampler(seed=seed, n_startup_trials=4)
    return library.samplers.RandomSampler(seed=seed)


samplers = pytest.mark.parametrize("name", ["tpe", "gp", "cma-es", "random"])


@samplers
def test_a_study_knows_what_a_search_found(library, name):
    def searched(seed):
        study = library.create_study(sampler=sampler(library, name, seed))
        strategy = fn.suggest.optuna(study, SPACE)
        return study, fn.search(net_free, strategy, DATA, rounds=3, per_round=4, **SETTINGS)

    study, result = searched(0)
    assert len(study.trials) == len(result) == 12
    shares = {row: study.trials[row].params["shift"] for row in range(12)}
    for row, trial in enumerate(study.trials):
        told = {key: result.table[key][row] for key in ("rate", "drop", "width", "size", "name", "depth")}
        assert {key: value for key, value in trial.params.items() if key != "shift"} == told
        assert result.table["shift"][row] == pytest.approx(norm.ppf(shares[row], 2.0, 0.5), rel=1e-12)
        if result.table["status"][row] == "completed":
            assert trial.state.name == "COMPLETE" and trial.value == result.table["train/loss"][row]
        else:
            assert trial.state.name == "FAIL" and trial.values is None and trial.params["drop"] > 0.4
        assert 1e-3 <= told["rate"] < 1 and 0 <= told["drop"] < 0.5 and told["width"] in range(1, 5) and told["size"] in range(3)
    assert study.best_trial.number == result.best().row and study.best_value == result.best().metrics["train/loss"]
    again, other = (searched(seed)[0] for seed in (0, 1))
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials] != [trial.params for trial in other.trials]


@samplers
def test_a_sampler_sees_what_it_would_see_by_hand(library, name):
    """The same trials as in a loop of Optuna's own, which asks and tells the losses that the sweep found."""
    space = fn.space(rate=fn.log_uniform(1e-3, 1.0), width=fn.integers(1, 5))
    study = library.create_study(sampler=sampler(library, name))
    result = fn.search(net_free, fn.suggest.optuna(study, space), DATA, rounds=4, per_round=3, **SETTINGS)
    by_hand = library.create_study(sampler=sampler(library, name))
    for start in range(0, 12, 3):
        trials = [by_hand.ask() for _ in range(3)]
        for row, trial in enumerate(trials, start):
            high = study.trials[0].distributions["rate"].high
            assert trial.suggest_float("rate", 1e-3, high, log=True) == result.table["rate"][row]
            assert trial.suggest_int("width", 1, 4) == result.table["width"][row]
        for row, trial in enumerate(trials, start):
            by_hand.tell(trial, result.table["train/loss"][row])
    assert by_hand.best_value == study.best_value


def test_how_a_space_looks_to_optuna(library):
    floats, whole, category = (getattr(library.distributions, f"{kind}Distribution") for kind in ("Float", "Int", "Categorical"))
    study = library.create_study()
    fn.suggest.optuna(study, SPACE).ask(1)
    found = study.trials[0].distributions
    below = {high: float(np.nextafter(np.float32(high), np.float32(0))) for high in (1.0, 0.5)}
    assert found == {
        "rate": floats(1e-3, below[1.0], log=True),
        "drop": floats(0.0, below[0.5]),
        "width": whole(1, 4),
        "size": whole(0, 2),
        "name": category(["a", "b"]),
        "shift": floats(2.0**-24, 1 - 2.0**-24),  # as far from the middle on either side
        "depth": category([7]),
    }


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-1.0, -0.5), (1e9, 1e9 + 1), (0.0, 1e300), (0.0, 1e-60), (0.99999997, 1.0), (-1e-3, 0.0), (0.1, 0.3)]
)
def test_the_upper_end_is_left_out_and_nothing_else_to_be_seen(library, low, high):
    study = library.create_study()
    fn.suggest.optuna(study, fn.space(v=fn.uniform(low, high))).ask(1)
    found = study.trials[0].distributions["v"]
    assert found.low == low < found.high < high and high - found.high <= 1e-6 * (high - low)
    if (low, high) == (0.0, 1.0):
        assert np.float32(found.high) < 1  # in a sweep too, so that a drop rate stays below 1


class Ends:
    """Gives the upper or the lower end of each range."""

    def __init__(self, library, end):
        class Sampler(library.samplers.BaseSampler):
            def infer_relative_search_space(self, study, trial):
                return {}

            def sample_relative(self, study, trial, space):
                return {}

            def sample_independent(self, study, trial, name, distribution):
                if hasattr(distribution, "choices"):
                    return distribution.choices[-1 if end == "high" else 0]
                return getattr(distribution, end)

        self.sampler = Sampler()


@pytest.mark.parametrize("end", ["low", "high"])
def test_the_ends_of_a_range_will_do(library, end):
    """A drop rate of 1 would be refused, and the quantile of 0 or 1 is infinite."""

    def recipe(drop, shift, rate):
        return fn.training(fn.serial(fn.dense(1), fn.dropout(drop)), fn.squared_error, fn.sgd(rate), in_shape=(1,))

    space = fn.space(drop=fn.uniform(0, 1), shift=fn.normal(), rate=fn.log_uniform(1e-3, 0.1))
    study = library.create_study(sampler=Ends(library, end).sampler)
    result = fn.search(recipe, fn.suggest.optuna(study, space), DATA, rounds=1, per_round=2, **SETTINGS)
    assert set(result.table["status"]) == {"completed"} and np.all(np.abs(result.table["shift"]) < 5.5)
    assert (result.table["drop"][0] == 0) if end == "low" else (0.9999 < result.table["drop"][0] < 1)


def twice(v):
    return 2 * v


CHOICES = {
    "names": (fn.choice(["a", "b", None]), ["a", "b", None], ["a", "b", None]),
    "numbers": (fn.choice([1, 0.5, True + 1]), [1, 0.5, 2], [1, 0.5, 2]),
    "functions": (fn.choice([twice, abs]), [0, 1], [twice, abs]),
    "tuples": (fn.choice([(1, 2), (3,)]), [0, 1], [(1, 2), (3,)]),
    "alike": (fn.choice([1, True, 1.0]), [0, 1, 2], [1, True, 1.0]),
    "twice": (fn.choice(["a", "a"]), [0, 1], ["a", "a"]),
    "nan": (fn.choice([math.nan, 1.0]), [0, 1], [math.nan, 1.0]),
    "marked": (fn.traced(fn.choice([1, 2, None])), [1, 2, None], [Traced(1), Traced(2), None]),
    "marked options": (fn.choice([fn.static(0.5), fn.traced(2)]), [0.5, 2], [Static(0.5), Traced(2)]),
    "marked twice": (fn.static(fn.choice([fn.traced(1), 3])), [1, 3], [Static(1), Static(3)]),
    "one": (fn.choice([twice]), [0], [twice]),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_a_category_by_itself_or_by_place(library, name):
    distribution, categories, options = CHOICES[name]
    study = library.create_study(sampler=library.samplers.RandomSampler(seed=0))
    variants = fn.suggest.optuna(study, fn.space(v=distribution)).ask(40)
    choices = list(study.trials[0].distributions["v"].choices)
    assert choices == categories and [type(each) for each in choices] == [type(each) for each in categories]
    places = [next(i for i, each in enumerate(categories) if each == trial.params["v"]) for trial in study.trials]
    assert set(places) == set(range(len(options)))
    for variant, place in zip(variants, places):
        assert type(variant["v"]) is type(options[place]) and (variant["v"] is options[place] or variant["v"] == options[place])


NESTED = {
    "choice": lambda: fn.choice([None, fn.uniform(2.0, 4.0), fn.choice([fn.integers(5, 7), "x"])]),
    "static": lambda: fn.static(fn.choice([None, fn.uniform(2.0, 4.0), fn.choice([fn.integers(5, 7), "x"])])),
    "inside": lambda: fn.choice([None, fn.static(fn.uniform(2.0, 4.0)), fn.choice(fn.static([fn.integers(5, 7), "x"]))]),
}


@pytest.mark.parametrize("name", NESTED)
def test_a_distribution_among_the_options_is_a_parameter_of_the_trials_that_chose_it(library, name):
    study = library.create_study(sampler=library.samplers.RandomSampler(seed=0))
    variants = fn.suggest.optuna(study, fn.space(v=NESTED[name]())).ask(60)
    mark = (lambda value: value) if name == "choice" else Static
    seen = set()
    for variant, trial in zip(variants, study.trials):
        place = trial.params["v"]
        inner = trial.params.get("v[2]")
        seen.add((place, inner))
        names, value = {
            (0, None): ({"v"}, None),
            (1, None): ({"v", "v[1]"}, trial.params.get("v[1]")),
            (2, 0): ({"v", "v[2]", "v[2][0]"}, trial.params.get("v[2][0]")),
            (2, 1): ({"v", "v[2]"}, "x"),
        }[place, inner]
        assert trial.params.keys() == names and variant["v"] == (None if value is None else mark(value))
    assert len(seen) == 4


def test_any_other_distribution_is_the_share_below(library):
    steps = Distribution(lambda u: "low" if u < 0.25 else "high")
    study = library.create_study(sampler=library.samplers.RandomSampler(seed=0))
    variants = fn.suggest.optuna(study, fn.space(v=steps, w=fn.static(steps))).ask(20)
    for variant, trial in zip(variants, study.trials):
        expected = {name: "low" if trial.params[name] < 0.25 else "high" for name in "vw"}
        assert variant == {"v": expected["v"], "w": Static(expected["w"])}
    assert {variant["v"] for variant in variants} == {"low", "high"}


def test_a_distribution_says_what_it_is_and_draws_as_before():
    """At any depth of marks; and two distributions are equal where their quantiles are."""
    marked = fn.static(fn.traced(fn.integers(2, 9)))
    assert (marked.kind, marked.low, marked.high, marked.mark) == ("integers", 2, 9, Static)
    assert marked.quantile(0.5) == Static(5) == marked.marked(5) and fn.uniform(0, 1).marked(0.5) == 0.5
    assert (fn.normal().kind, fn.normal().low, fn.normal().high) == ("normal", -np.inf, np.inf) and fn.choice(["a"]).options == ("a",)
    assert hash(fn.choice([[1]])) and repr(fn.uniform(0, 1)).startswith("Distribution(quantile=<function")
    quantile = fn.uniform(0, 1).quantile
    assert Distribution(quantile) == Distribution(quantile, "uniform", 0, 1)


@pytest.mark.parametrize(("direction", "mode"), [("minimize", "min"), ("maximize", "max")])
def test_a_studys_direction_is_the_strategys_mode(library, direction, mode):
    study = library.create_study(direction=direction, sampler=library.samplers.RandomSampler(seed=0))
    strategy = fn.suggest.optuna(study, SPACE)
    assert strategy.mode == mode and strategy.study is study
    metric, other = ("train/loss", "train/gain") if mode == "min" else ("train/gain", "train/loss")
    with pytest.raises(
        ValueError, match=f"search: the strategy's mode must be '{'max' if mode == 'min' else 'min'}', as '{other}' is ranked"
    ):
        fn.search(net_free, strategy, DATA, rounds=2, per_round=8, metric=other, **SETTINGS)
    strategy = fn.suggest.optuna(library.create_study(direction=direction), SPACE)
    result = fn.search(net_free, strategy, DATA, rounds=2, per_round=8, metric=metric, **SETTINGS)
    assert strategy.study.best_value == result.best().metrics[metric] and strategy.study.best_trial.number == result.best().row


def test_the_mean_over_replicates_is_told(library):
    def noisy(rate):
        return net_free(rate)._replace(
            init=lambda key: jax.random.normal(key), evaluate=lambda state, dataset: {"loss": state + jnp.log10(rate)}
        )

    study = library.create_study(sampler=library.samplers.RandomSampler(seed=0))
    strategy = fn.suggest.optuna(study, fn.space(rate=fn.log_uniform(1e-3, 1.0)))
    result = fn.search(noisy, strategy, DATA, rounds=2, per_round=3, replicates=4, **SETTINGS)
    assert [trial.value for trial in study.trials] == pytest.approx(result.table["train/loss"].reshape(6, 4).mean(1), rel=1e-12)
    assert study.best_trial.number == result.best().variant and study.best_value == pytest.approx(result.best().mean["train/loss"])


def test_a_study_goes_on_from_its_trials_and_takes_what_is_enqueued(library):
    study = library.create_study(sampler=sampler(library, "tpe"))
    space = fn.space(rate=fn.log_uniform(1e-3, 1.0))
    study.enqueue_trial({"rate": 0.1})
    first = fn.search(net_free, fn.suggest.optuna(study, space), DATA, rounds=2, per_round=3, **SETTINGS)
    second = fn.search(net_free, fn.suggest.optuna(study, space), DATA, rounds=1, per_round=3, **SETTINGS)
    assert first.table["rate"][0] == 0.1 and study.best_params == {"rate": 0.1}
    assert [trial.params["rate"] for trial in study.trials] == (first + second).table["rate"].tolist()


def test_variants_may_be_told_in_any_order_and_a_few_at_a_time(library):
    study = library.create_study()
    strategy = fn.suggest.optuna(study, fn.space(v=fn.choice([1, 2]), w=fn.uniform(0, 1)))
    variants = strategy.ask(3) + strategy.ask(2)
    strategy.tell([variants[4], json.loads(json.dumps(variants[1]))], [4.0, np.float32(1.0)])
    strategy.tell([variants[0], variants[3]], [-math.inf, 3])
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "RUNNING", "COMPLETE", "COMPLETE"]
    assert [trial.value for trial in study.trials] == [None, 1.0, None, 3.0, 4.0]


def test_equal_variants_are_each_told_once(library):
    study = library.create_study()
    strategy = fn.suggest.optuna(study, fn.space(v=1))
    variants = strategy.ask(2)
    strategy.tell(variants, [1.0, 2.0])
    assert [trial.value for trial in study.trials] == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"tell: variants must be those that ask gave, each told once, got {'v': 1}; study.add_trial adds"):
        strategy.tell(variants[:1], [1.0])


@pytest.mark.parametrize(
    ("variants", "values", "error", "match"),
    [
        (lambda asked: asked, [1.0], ValueError, "tell: values must be one for each of the 2 variants, got 1"),
        (
            lambda asked: [asked[0], {"v": 3}],
            [1.0, 2.0],
            ValueError,
            "tell: variants must be those that ask gave, each told once, got {'v': 3}",
        ),
        (lambda asked: [asked[0], asked[0]], [1.0, 2.0], ValueError, "tell: variants must be those that ask gave, each told once"),
        (lambda asked: [asked[0], {"w": 1.0}], [1.0, 2.0], ValueError, "tell: variants must be those that ask gave"),
        (lambda asked: asked, [1.0, "2"], TypeError, "tell: a value must be one number, got '2'"),
        (lambda asked: asked, [1.0, None], TypeError, "tell: a value must be one number, got None"),
    ],
)
def test_what_cannot_be_told_is_not_told_in_part(library, variants, values, error, match):
    study = library.create_study()
    strategy = fn.suggest.optuna(study, fn.space(v=fn.uniform(0, 1)))
    asked = strategy.ask(2)
    with pytest.raises(error, match=match):
        strategy.tell(variants(asked), values)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"] * 2
    strategy.tell(asked, [1.0, 2.0])
    assert [trial.value for trial in study.trials] == [1.0, 2.0]


def test_what_is_no_study_of_one_objective(library):
    with pytest.raises(TypeError, match=r"optuna: study must be an Optuna study, got Space; optuna.create_study\(\) makes one"):
        fn.suggest.optuna(SPACE, library.create_study())
    with pytest.raises(TypeError, match="optuna: space must be a space, got dict"):
        fn.suggest.optuna(library.create_study(), {"rate": fn.uniform(0, 1)})
    with pytest.raises(ValueError, match="optuna: study must have one objective, got 2 directions; search ranks variants by one metric"):
        fn.suggest.optuna(library.create_study(directions=["minimize", "maximize"]), SPACE)
    with pytest.raises(ValueError, match="ask: n must be at least 1, got 0"):
        fn.suggest.optuna(library.create_study(), SPACE).ask(0)


def test_without_optuna_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"optuna: needs optuna, which is not installed; pip install 'funcnet\[optuna\]'"):
        fn.suggest.optuna(None, SPACE)


STEPS = fn.space(
    drop=fn.uniform(0.1, 0.75, step=0.1),
    third=fn.uniform(1 / 3, 2.0, step=1 / 3),
    width=fn.integers(16, 100, step=16),
    units=fn.log_integers(1, 9),
    size=fn.traced(fn.log_integers(2, 5)),
)


def test_steps_and_logarithms_are_optunas(library):
    study = library.create_study(sampler=library.samplers.RandomSampler(seed=0))
    variants = fn.suggest.optuna(study, STEPS).ask(1500)
    floats, whole = library.distributions.FloatDistribution, library.distributions.IntDistribution
    found = study.trials[0].distributions
    assert found.pop("third") == floats(1 / 3, 1.6666666666666665, step=1 / 3)  # of five, as it reckons in decimals
    assert found == {
        "drop": floats(0.1, 0.7, step=0.1),
        "width": whole(16, 96, step=16),
        "units": whole(1, 8, log=True),
        "size": whole(2, 4, log=True),
    }
    ours, random = STEPS.sample(1500, key=KEY), [_RandomTrial(np.random.default_rng(seed)) for seed in range(1500)]
    again = [STEPS.drawn(lambda name, distribution, trial=trial: _suggested(trial, name, distribution)) for trial in random]
    for name in STEPS.distributions:
        drawn = [[plain(variant)[name] for variant in lot] for lot in (variants, ours, again)]
        known = sorted(set(drawn[0]))
        assert [sorted(set(lot)) for lot in drawn] == [known] * 3 and len(known) == {
            "drop": 7,
            "third": 5,
            "width": 6,
            "units": 8,
            "size": 3,
        }[name]
        counts = [[lot.count(value) for value in known] for lot in drawn]
        assert chi2_contingency(counts).pvalue > 1e-4  # one and the same distribution
        for trial, variant in zip(study.trials, variants):
            assert trial.params[name] == pytest.approx(plain(variant)[name], rel=2e-12)
    assert {variant["drop"] for variant in variants} == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.3), (1.0, 1.3), (1 / 3, 1.0), (-math.pi, math.e), (0.0, 1e-30), (-1e30, 1e30)])
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 49])
def test_optuna_counts_as_many_steps(library, low, high, parts):
    distribution = fn.uniform(low, high, step=(high - low) / parts)
    study = library.create_study(sampler=Ends(library, "high").sampler)
    strategy = fn.suggest.optuna(study, fn.space(v=distribution))
    assert strategy.ask(1)[0]["v"] == distribution.quantile(np.nextafter(1, 0)) == distribution.lattice.at(parts - 1)
    found = study.trials[0].distributions["v"]
    assert round((found.high - found.low) / found.step) == parts - 1


CONDITIONAL = fn.space(
    decay=fn.when(fn.uniform(0.0, 1.0), optimizer="momentum"),
    nesterov=fn.when(fn.choice([True, False]), optimizer="momentum", depth=2),
    optimizer=fn.choice(["sgd", "momentum"]),
    depth=fn.integers(1, 4),
)


quick_samplers = pytest.mark.parametrize("name", ["tpe", "cma-es", "random"])  # GPSampler takes seconds for a few trials


@quick_samplers
def test_a_hyperparameter_that_a_variant_does_not_have_is_no_parameter(library, name):
    study = library.create_study(sampler=sampler(library, name))
    strategy = fn.suggest.optuna(study, CONDITIONAL)
    with warnings.catch_warnings(action="ignore"):  # that a sampler has a random one for parameters that come and go
        for _ in range(3):
            variants = strategy.ask(8)
            strategy.tell(variants, [0.1 * i for i in range(8)])
            assert list(variants[0]) == list(CONDITIONAL.distributions) and variants.decisive == {"optimizer", "depth"}
            for variant, trial in zip(variants, study.trials[-8:]):
                assert trial.params == plain(variant)
                assert ("decay" in trial.params) == (variant["optimizer"] == "momentum")
                assert ("nesterov" in trial.params) == (variant["optimizer"] == "momentum" and variant["depth"] == 2)


@quick_samplers
def test_rejected_trials_are_pruned_and_asked_for_again(library, name):
    def where(variant):
        return variant.get("decay", 1.0) * variant["depth"] <= 1.0

    study = library.create_study(sampler=sampler(library, name))
    strategy = fn.suggest.optuna(study, CONDITIONAL, where=where)
    with warnings.catch_warnings(action="ignore"):
        variants = []
        for _ in range(3):
            asked = strategy.ask(4)
            strategy.tell(asked, [variant["depth"] for variant in asked])
            variants += asked
    states = [trial.state.name for trial in study.trials]
    assert len(variants) == 12 and all(where(plain(variant)) for variant in variants)
    assert states.count("COMPLETE") == 12 and states.count("PRUNED") == len(states) - 12 > 0
    assert [trial.params for trial in study.trials if trial.state.name == "COMPLETE"] == [plain(variant) for variant in variants]


def test_a_sampler_that_insists_is_given_a_random_one(library):
    """Of ends alone, none of which is accepted."""
    for space, where in (
        (CONDITIONAL, lambda variant: 0.2 < variant.get("decay", 0) < 0.8),
        (STEPS, lambda variant: 0.1 < variant["drop"] < 0.7 and variant["units"] in (2, 3) and variant["width"] > 16),
    ):
        study = library.create_study(sampler=Ends(library, "low").sampler)
        variants = fn.suggest.optuna(study, space, where=where).ask(3)
        assert all(where(plain(variant)) for variant in variants) and variants.where is where
        assert [trial.state.name for trial in study.trials] == [*["PRUNED"] * 10, "RUNNING"] * 3
        for variant, trial in zip(variants, study.trials[10::11]):
            assert trial.params == pytest.approx(plain(variant)) if space is STEPS else trial.params == plain(variant)
    strategy = fn.suggest.optuna(library.create_study(), CONDITIONAL, where=lambda variant: False)
    with pytest.raises(ValueError, match="ask: where must accept at least one draw in 1,000, got 0 of 10000 accepted"):
        strategy.ask(1)


@methods
@pytest.mark.parametrize("lots", [(16,), (8, 8), (1, 15), (5, 1, 3, 7)], ids=str)
def test_all_asks_together_are_one_sample_under_a_constraint(method, lots):
    def where(variant):
        return variant["width"] > 1 and variant["drop"] < 0.3

    make = fn.suggest.random if method == "random" else lambda *args, **named: fn.suggest.quasi_random(*args, method=method, **named)
    strategy = make(SPACE, key=KEY, where=where)
    variants = [variant for lot in lots for variant in strategy.ask(lot)]
    assert variants == SPACE.sample(16, key=KEY, method=method, where=where)
    with pytest.raises(TypeError, match="random: where must be a function of a variant, got 1"):
        make(SPACE, key=KEY, where=1)


# Searches of other libraries need no strategy: a fit is a function of its hyperparameters.


def test_bayesian_search_of_hyperoptax_drives_a_fit():
    """All of it in one program: the library maps the fits of a lot of candidates, and its own search is traced with them."""
    hyperoptax = pytest.importorskip("hyperoptax", reason="needs the package hyperoptax")
    x = jnp.linspace(-1, 1, 16)[:, None]
    data = fn.Dataset(x, 3 * x)

    def objective(key, params):
        training = fn.training(fn.dense(1), fn.squared_error, fn.sgd(params["learning_rate"]), in_shape=(1,))
        state, _ = fn.fit(training, data, key=jax.random.fold_in(KEY, 0), num_steps=20, batch_size=None)
        return training.evaluate(state, data)["loss"]

    space = {"learning_rate": hyperoptax.LogSpace(1e-4, 1.0)}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state, optimizer = hyperoptax.BayesianSearch.init(space, n_max=24, n_parallel=4, maximize=False)
        state, (params, losses) = optimizer.optimize_scan(state, jax.random.key(0), objective, n_iterations=6)
        best = optimizer.best_params(state)["learning_rate"]
    assert losses.shape == (6, 4) and np.all(np.isfinite(losses))
    variants = [{"learning_rate": float(rate)} for rate in np.ravel(params["learning_rate"])]

    def recipe(learning_rate):
        return fn.training(fn.dense(1), fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))

    swept = fn.sweep(recipe, variants, data, key=KEY, num_steps=20, batch_size=None, progress=False)  # of the same fits
    np.testing.assert_allclose(np.ravel(losses), swept.table["train/loss"], rtol=1e-4)
    np.testing.assert_allclose(optimizer.best_result(state), np.min(losses), rtol=1e-6)
    np.testing.assert_allclose(best, variants[swept.best().row]["learning_rate"], rtol=1e-5)
