"""A sweep's result: the table, the best, the files."""

import json
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_same_bits

import funcnet as fn

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
DATA = fn.split(fn.Dataset(X, X[:, :1]), key=jax.random.key(0), validation=0.2, test=0.2)
SETTINGS = dict(key=jax.random.key(1), num_steps=20, batch_size=8, eval_every=5, progress=False)


def recipe(learning_rate, optimizer="sgd", activation="tanh"):
    return fn.training(fn.mlp((3, 1), activation), fn.squared_error, fn.optimizer(optimizer, learning_rate), in_shape=(4,), metrics=["r2"])


def bend(x):
    return x / (1 + x * x)


@pytest.fixture(scope="module")
def result():
    return fn.sweep(recipe, fn.grid(learning_rate=[0.01, 1e38, 0.1], optimizer=["sgd", "adam"]), DATA, replicates=2, **SETTINGS)


def test_table_has_a_row_a_run_in_the_order_given(result):
    names = [
        "variant",
        "replicate",
        "learning_rate",
        "optimizer",
        "train/loss",
        "train/r2",
        "validation/loss",
        "validation/r2",
        "status",
        "steps",
    ]
    assert list(result.table) == names and len(result) == 12
    assert {len(column) for column in result.table.values()} == {12}
    assert all(isinstance(column, np.ndarray) for column in result.table.values())
    assert result.table["variant"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert result.table["optimizer"].tolist() == ["sgd", "sgd", "adam", "adam"] * 3
    assert result.table["learning_rate"].tolist() == [0.01] * 4 + [1e38] * 4 + [0.1] * 4


def test_curves_are_rows_by_evaluations(result):
    assert result.curves["step"].tolist() == [5, 10, 15, 20]
    for name in result.metrics:
        assert result.curves[name].shape == (12, 4)
        np.testing.assert_array_equal(result.curves[name][:, -1], result.table[name])


def test_curves_of_runs_of_different_lengths():
    result = fn.sweep(recipe, [{"learning_rate": 0.1, "num_steps": n} for n in (7, 20)], DATA, **SETTINGS)
    assert result.curves["step"].tolist() == [5, 7, 10, 15, 20]
    measured = np.isfinite(result.curves["train/loss"])
    np.testing.assert_array_equal(measured, [[1, 1, 0, 0, 0], [1, 0, 1, 1, 1]])
    assert result.table["steps"].tolist() == [7, 20]


# Best, by the mean over replicates.


def made(rows, name="validation/loss", **options):
    """A result of runs that are given as (variant, value), or (variant, status, steps); nothing is trained."""
    runs = [(variant, *more, "completed", 20) if len(more) == 1 else (variant, math.nan, *more) for variant, *more in rows]
    variants, values, statuses, steps = map(np.array, zip(*runs, strict=True))
    replicates = np.array([[run[0] for run in runs[:i]].count(run[0]) for i, run in enumerate(runs)])
    outcome = {"variant": variants, "replicate": replicates, name: values.astype(float), "status": statuses, "steps": steps}
    states = {row: np.full(2, row) for row in range(len(runs))}
    settings = [{"rate": 0.1 * (i + 1)} for i in range(max(variants) + 1)]
    return fn.SweepResult(settings, outcome, {"step": np.array([20]), name: values[:, None]}, states, None, ["rate"], {}, **options)


LUCKY = [(0, 0.1), (0, 0.9), (0, 0.8), (1, 0.3), (1, 0.2), (1, 0.4)]  # variant 0 has the best run, variant 1 the best mean


def test_best_is_the_best_mean_over_replicates_and_not_the_luckiest_run():
    best = made(LUCKY).best()
    assert (best.variant, best.row, best.rows) == (1, 4, (3, 4, 5)) and best.hyperparameters == {"rate": 0.2}
    assert best.metrics == {"validation/loss": 0.2} and best.state.tolist() == [4, 4]
    assert best.mean == {"validation/loss": pytest.approx(0.3)} and best.std == {"validation/loss": pytest.approx(0.1)}
    assert made(LUCKY).ranking().tolist() == [4, 3, 5, 0, 2, 1]
    worst = made(LUCKY).best(mode="max")
    assert (worst.variant, worst.row) == (0, 1) and made(LUCKY).ranking(mode="max").tolist() == [1, 2, 0, 5, 3, 4]


def test_of_equals_the_first_is_best():
    assert made([(0, 0.5), (1, 0.2), (2, 0.2)]).best().row == 1
    assert made([(0, 0.5), (1, 0.7), (2, 0.7)]).best(mode="max").row == 1
    assert made([(0, 0.2), (0, 0.2), (1, 0.1), (1, 0.3)]).best().rows == (0, 1)


@pytest.mark.parametrize(
    "spoilt", [(0, "diverged", 0), (0, "diverged", 7), (0, "unfinished", 9), (0, math.nan), (0, math.inf), (0, -math.inf)], ids=str
)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_variant_with_one_run_without_a_finite_end_is_not_ranked(spoilt, mode):
    good = 0.1 if mode == "min" else 0.9
    result = made([(0, good), spoilt, (1, 0.5), (1, 0.6)])
    assert result.best(mode=mode).variant == 1 and set(result.ranking(mode=mode)) == {2, 3}
    table = result.by_variant(mode=mode)
    assert table["variant"].tolist() == [1, 0] and table["validation/loss/count"].tolist() == [2, 2 if len(spoilt) == 2 else 1]
    if len(spoilt) == 3:
        assert table["validation/loss"][1] == good and np.isnan(table["validation/loss/std"][1])


def test_by_variant_is_a_table_with_the_best_first():
    result = made([*LUCKY, (2, 0.1), (2, "diverged", 3), (2, "unfinished", 5), (3, "diverged", 0), (3, "diverged", 0), (3, "diverged", 0)])
    table = result.by_variant()
    metric = ["validation/loss", "validation/loss/std", "validation/loss/count"]
    names = ["variant", "rate", *metric, "completed", "diverged", "unfinished"]
    assert list(table) == names and all(isinstance(column, np.ndarray) and len(column) == 4 for column in table.values())
    assert table["variant"].tolist() == [1, 0, 2, 3] and table["rate"].tolist() == [0.2, 0.1, 0.1 * 3, 0.4]
    for place, values in enumerate(([0.3, 0.2, 0.4], [0.1, 0.9, 0.8])):
        np.testing.assert_allclose(table["validation/loss"][place], np.mean(values), rtol=1e-15)
        np.testing.assert_allclose(table["validation/loss/std"][place], np.std(values, ddof=1), rtol=1e-15)
    np.testing.assert_array_equal(table["validation/loss"][2:], [0.1, np.nan])
    np.testing.assert_array_equal(table["validation/loss/std"][2:], [np.nan, np.nan])
    assert table["validation/loss/count"].tolist() == table["completed"].tolist() == [3, 3, 1, 0]
    assert table["diverged"].tolist() == [0, 0, 1, 3] and table["unfinished"].tolist() == [0, 0, 1, 0]
    assert result.by_variant(mode="max")["variant"].tolist() == [0, 1, 2, 3]


def test_by_variant_of_a_sweep(result):
    table = result.by_variant("validation/r2")
    ranked = [variant for variant in table["variant"] if np.all(result.table["status"][result.table["variant"] == variant] == "completed")]
    means = [np.mean(result.table["validation/r2"][result.table["variant"] == variant]) for variant in ranked]
    assert table["variant"][: len(ranked)].tolist() == ranked and means == sorted(means, reverse=True) and 0 < len(ranked) < 6
    np.testing.assert_array_equal(table["validation/r2"][: len(ranked)], means)
    assert table["optimizer"].tolist() == [result.hyperparameters(2 * variant)["optimizer"] for variant in table["variant"]]
    best = result.best("validation/r2")
    assert best.variant == ranked[0] and best.mean["validation/r2"] == means[0] and set(best.metrics) == set(result.metrics)
    assert best.hyperparameters == result.hyperparameters(best.row)
    assert_same_bits(best.state, result.state(best.row))


def test_names_of_the_tables_own_cannot_be_hyperparameters():
    for name in ("steps", "completed", "diverged"):
        with pytest.raises(ValueError, match=f"a hyperparameter must have a name that the result's table doesn't use itself, got '{name}'"):
            fn.sweep(lambda **given: recipe(0.1), [{name: 1}], DATA, **SETTINGS)


def test_losses_and_known_metrics_know_which_way_is_better():
    for name, variant in (("validation/loss", 0), ("train/mean_squared_error", 0), ("validation/accuracy", 1), ("validation/r2", 1)):
        assert made([(0, 0.1), (1, 0.9)], name).best(name).variant == variant
        assert made([(0, 0.1), (1, 0.9)], name).by_variant()["variant"][0] == variant


def test_a_metric_of_your_own_needs_its_mode():
    result = made([(0, 0.1), (1, 0.9)], "validation/return")
    for ask in (result.best, result.ranking, result.by_variant):
        for more in ({}, {"metric": "validation/return"}):
            fix = r'give mode="min" or mode="max"; fn.metric\(fn, mode=...\) or Training\(..., modes=...\) says it once for all'
            match = f"{ask.__name__}: must know which way 'validation/return' is better, got no mode; {fix}"
            with pytest.raises(ValueError, match=match):
                ask(**more)
            ask(**more, mode="max")
    assert result.best(mode="max").variant == 1 and result.best("validation/return", "min").variant == 0


@pytest.mark.parametrize("modes", [{"return": "max"}, {"validation/return": "max"}])
def test_modes_of_a_training_are_known(modes):
    result = made([(0, 0.1), (1, 0.9)], "validation/return", modes=modes)
    assert result.best().variant == 1 and result.mode == "max" and result.best(mode="min").variant == 0
    deep = made([(0, 0.1), (1, 0.9)], "validation/agent/return", modes={"agent/return": "max"})
    assert deep.best().variant == 1
    assert made([(0, 0.1), (1, 0.9)], "validation/accuracy", modes={"accuracy": "min"}).best().variant == 0  # the training knows better


def test_the_sweeps_metric_and_mode_are_the_default(tmp_path):
    result = made([(0, 0.1), (1, 0.9)], "validation/return", metric="validation/return", mode="max")
    assert (result.metric, result.mode) == ("validation/return", "max")
    assert result.best().variant == 1 and result.by_variant()["variant"].tolist() == [1, 0] and result.ranking().tolist() == [1, 0]
    assert str(result).splitlines()[2].split()[0] == "1"
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path)
    assert (loaded.metric, loaded.mode) == ("validation/return", "max") and loaded.best().variant == 1 and str(loaded) == str(result)
    made([(0, 0.1), (1, 0.9)], "validation/return", modes={"return": "max"}).save(tmp_path)
    assert fn.load_result(tmp_path).best().variant == 1


def test_a_training_without_a_loss_is_ranked_by_what_it_reports_first_of_the_validation_part():
    def recipe(slope):
        def evaluate(state, part):
            return {"error": jnp.abs(slope - part.y[0]), "other": jnp.zeros(())}

        return fn.Training(lambda key: jnp.zeros(()), lambda state, batch, key: (state, {}), evaluate, modes={"error": "min"})

    one, two = (fn.Dataset(np.zeros((2, 1)), np.full(2, y)) for y in (1.0, 2.0))
    settings = SETTINGS | dict(num_steps=1, batch_size=None, eval_every=None)
    result = fn.sweep(recipe, fn.grid(slope=[1.0, 2.0]), fn.Split(one, two), **settings)
    assert result.metric == "validation/error" and result.best().hyperparameters == {"slope": 2.0}
    alone = fn.sweep(recipe, fn.grid(slope=[1.0, 2.0]), one, **settings)
    assert alone.metric == "train/error" and alone.best().hyperparameters == {"slope": 1.0}


def test_a_file_from_before_there_was_a_default_still_loads(tmp_path):
    result = made(LUCKY)
    result.save(tmp_path)
    rest = json.loads((tmp_path / "result.json").read_text())
    for name in ("metric", "mode", "modes", "settings"):
        del rest[name]
    (tmp_path / "result.json").write_text(json.dumps(rest))
    assert str(fn.load_result(tmp_path)) == str(result)


def test_bad_names_and_modes():
    result = made(LUCKY)
    for ask in (result.best, result.ranking, result.by_variant):
        with pytest.raises(ValueError, match=f"{ask.__name__}: unknown metric 'validation/los'; did you mean 'validation/loss'"):
            ask("validation/los")
        with pytest.raises(ValueError, match=f"{ask.__name__}: unknown mode 'least'; there are 'min', 'max'"):
            ask("validation/loss", "least")


@pytest.mark.parametrize(
    ("rows", "got", "fix"),
    [
        ([(0, "diverged", 0)] * 2, "2 diverged at step 0", "look at the data and the loss, not at the rate$"),
        ([(0, "diverged", 1)], "1 diverged later", "try lower learning rates$"),
        ([(0, math.nan)], "1 completed with validation/loss NaN", "look at the metric and the data it is taken on$"),
        ([(0, -math.inf)], "1 completed with validation/loss infinite", "look at the loss, and at labels or targets out of range$"),
        ([(0, "unfinished", 3)], "1 unfinished", "let the sweep run on$"),
        (
            [(0, "diverged", 0), (0, "diverged", 4), (1, 0.5), (1, math.nan)],
            "1 diverged at step 0, 1 diverged later, 1 completed with validation/loss NaN",
            "diverged at step 0: look at .*; diverged later: try lower learning rates; completed with NaN: look at the metric",
        ),
    ],
    ids=["step 0", "later", "NaN", "infinite", "unfinished", "several"],
)
def test_best_says_why_there_is_none(rows, got, fix):
    result = made(rows)
    of = f"{len(rows)} runs? of . variants?" if len({variant for variant, *_ in rows}) < len(rows) else "1 run"
    rule = "best: needs a variant whose every run completed with a finite validation/loss"
    with pytest.raises(ValueError, match=f"{rule}, got none: of {of} {got}; {fix}"):
        result.best()
    assert result.ranking().tolist() == [] and len(result.by_variant()["variant"]) == len({variant for variant, *_ in rows})
    assert f"not ranked (none: of {len(rows)} run" in str(result) and got in str(result)


def test_a_result_without_a_measurement_is_shown_and_says_why_none_is_best():
    outcome = {"variant": np.array([0]), "replicate": np.array([0]), "status": np.array(["unfinished"]), "steps": np.array([0])}
    result = fn.SweepResult([{"rate": 0.1}], outcome, {"step": np.array([], int)}, {}, None, ["rate"], {})
    with pytest.raises(ValueError, match="got none: of 1 run 1 unfinished; let the sweep run on"):
        result.best()
    assert str(result).startswith("1 run, 0 diverged, 1 unfinished; not ranked (none: of 1 run 1 unfinished; let the sweep run on):\n")
    assert result.ranking().tolist() == [] and result.by_variant()["unfinished"].tolist() == [1]


def test_the_best_prints_in_a_few_short_lines():
    many = {f"metric{i}": float(i) for i in range(200)}
    state = fn.TrainState({"weight": np.zeros((500, 500))}, (), np.array(3))
    best = fn.Best(3, {"rate": 0.1, "widths": (1,) * 500}, many, state, 1, tuple(range(2, 500)), many, many)
    lines = repr(best).splitlines()
    assert len(lines) <= 6 and max(map(len, lines)) <= 200
    assert "row 3, of variant 1" in lines[0] and "rate=0.1" in lines[1] and "state: TrainState of 2 arrays, 250,001 numbers" in lines[-1]
    single = repr(made([(0, 0.25)]).best())
    assert "validation/loss 0.25" in single and "replicates" not in single and "± 0.1" in repr(made(LUCKY).best())


def test_a_row_can_be_scored_on_new_data(result):
    best = result.best()
    scores = result.training(best.row).evaluate(best.state, DATA.validation)
    np.testing.assert_allclose(scores["loss"], best.metrics["validation/loss"], rtol=1e-5)
    assert set(result.training(best.row).evaluate(best.state, DATA.test)) == {"loss", "r2"}
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(best.state))  # on the host


def test_bad_rows(result):
    with pytest.raises(ValueError, match=r"state: row must be in \[0, 11\], got 12"):
        result.state(12)
    with pytest.raises(TypeError, match="state: row must be a whole number, got 1.5"):
        result.state(1.5)


def test_what_the_sweep_itself_passed_to_the_recipe_is_passed_again(tmp_path):
    def long(rate, num_steps):
        return lambda key: num_steps, lambda state, batch, key: (state, {}), lambda state, data: {"loss": num_steps * rate}

    outcome = {
        "variant": np.array([0, 1]),
        "replicate": np.array([0, 0]),
        "status": np.array(["completed"] * 2),
        "steps": np.array([20, 30]),
    }
    settings = [{"num_steps": 20}, {"num_steps": 30}]
    result = fn.SweepResult([{"rate": 0.5}, {"rate": 2.0}], outcome, {"step": np.array([20])}, {}, long, ["rate"], {}, settings=settings)
    assert [result.training(row).evaluate(None, None)["loss"] for row in range(2)] == [10, 60]
    result.save(tmp_path)
    assert fn.load_result(tmp_path, long).training(1).evaluate(None, None) == {"loss": 60}
    assert result.hyperparameters(0) == {"rate": 0.5} and "num_steps" not in result.table


def test_printed_are_the_ten_best_in_columns(result):
    """A line a variant where there are replicates, a line a run where there are none."""
    summary, header, *rows = str(result).splitlines()
    diverged = np.sum(result.table["status"] == "diverged")
    assert summary == f"12 runs of 6 variants, {diverged} diverged; the {len(rows)} best variants by mean validation/loss:"
    assert len({len(line) for line in [header, *rows]}) == 1  # aligned
    table = result.by_variant()
    assert header.split() == ["variant", "learning_rate", "optimizer", *result.metrics]
    assert [int(row.split()[0]) for row in rows] == table["variant"][: len(rows)].tolist()
    assert f"{table['validation/loss'][0]:.4g} ± {table['validation/loss/std'][0]:.2g}" in rows[0]
    single = made([(i, 1.0 - i / 20) for i in range(14)])
    summary, header, *rows = str(single).splitlines()
    assert summary == "14 runs, 0 diverged; the 10 best by validation/loss:" and len(rows) == 10
    assert header.split() == ["variant", "rate", "validation/loss", "steps"]
    assert [int(row.split()[0]) for row in rows] == single.ranking()[:10].tolist() == list(range(13, 3, -1))


def test_printed_is_how_many_runs_ended_in_which_way():
    rows = [(0, 0.5), (1, "diverged", 3), (2, "unfinished", 2), (3, "unfinished", 2), (4, "pruned", 1)]
    assert str(made(rows)).startswith("5 runs, 1 diverged, 1 pruned, 2 unfinished; the 1 best by validation/loss:")
    assert str(made(rows[:1])).startswith("1 run, 0 diverged; ")
    assert "<p>2 runs, 1 diverged;" in made(rows[:2])._repr_html_()


@pytest.mark.parametrize("replicates", [1, 2])
def test_what_cannot_be_ranked_is_printed_in_the_order_given_and_says_why(replicates):
    result = made([(0, 0.1)] * replicates + [(1, 0.9)] * replicates, "validation/return")
    for text in (str(result), result._repr_html_()):
        assert "not ranked (ranking: must know which way " in text and "is better, got no mode; give mode=" in text
    assert [line.split()[0] for line in str(result).splitlines()[2:]] == ["0", "1"]
    assert "status" in str(result) or "completed" in str(result)


def test_html_is_escaped():
    result = fn.sweep(lambda learning_rate, note: recipe(learning_rate), [{"learning_rate": 0.1, "note": "<b>&"}], DATA, **SETTINGS)
    assert "<td>&lt;b&gt;&amp;</td>" in result._repr_html_() and "<b>" not in result._repr_html_()
    assert result._repr_html_().count("<tr>") == 2


def test_to_pandas(result, monkeypatch):
    frame = result.to_pandas()
    assert list(frame.columns) == list(result.table) and len(frame) == 12
    assert frame.groupby("optimizer")["validation/loss"].min().idxmin() in ("sgd", "adam")
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_pandas: needs pandas, which is not installed; pip install 'funcnet\[experiments\]'"):
        result.to_pandas()


# Joined.


def test_plus_joins_two_sweeps(result):
    more = fn.sweep(
        recipe,
        fn.grid(learning_rate=[0.05], optimizer=["momentum"]),
        DATA,
        **{**SETTINGS, "num_steps": 10, "eval_every": 4},
    )
    joined = result + more
    assert len(joined) == 13 and joined.table["variant"].tolist() == [*result.table["variant"], 6]
    for name, column in joined.table.items():
        if name != "variant":
            np.testing.assert_array_equal(column, np.concatenate([result.table[name], more.table[name]]))
    assert joined.curves["step"].tolist() == [4, 5, 8, 10, 15, 20]
    for name in result.metrics:
        np.testing.assert_array_equal(joined.curves[name][:12, [1, 3, 4, 5]], result.curves[name])
        np.testing.assert_array_equal(joined.curves[name][12, [0, 2, 3]], more.curves[name][0])
        assert np.isnan(joined.curves[name][:12, [0, 2]]).all() and np.isnan(joined.curves[name][12, [1, 4, 5]]).all()
    assert joined.hyperparameters(12) == more.hyperparameters(0)
    assert (
        joined.predict(12, X).tolist() == more.predict(0, X).tolist() and joined.predict(11, X).tolist() == result.predict(11, X).tolist()
    )
    assert joined.timing["seconds"] == result.timing["seconds"] + more.timing["seconds"]
    assert joined.by_variant()["variant"].shape == (7,)
    with pytest.raises(TypeError):
        result + [more]


def test_what_is_joined_is_ranked_as_the_first():
    first = made([(0, 0.1), (1, 0.9)], "validation/return", metric="validation/return", mode="max")
    second = made([(0, 0.95)], "validation/return", modes={"return": "min"})
    joined = first + second
    assert (joined.metric, joined.mode) == ("validation/return", "max") and joined.best().variant == 2
    assert [joined.state(row)[0] for row in range(3)] == [0, 1, 0]


def test_results_that_differ_are_not_joined():
    first = made([(0, 0.1)])
    with pytest.raises(
        ValueError, match=r"\+: results must have the same metrics, \['validation/loss'\], got \['validation/r2'\]; other results"
    ):
        first + made([(0, 0.1)], "validation/r2")
    other = first._with({**vars(first), "_recipe": recipe})
    with pytest.raises(ValueError, match=r"\+: results must have the same recipe, None, got recipe; load_result\(path, recipe\) gives"):
        first + other
    outcome = {name: first.table[name] for name in ("variant", "replicate", "validation/loss", "status", "steps")}
    other = fn.SweepResult([{"width": 1}], outcome, first.curves, {}, None, ["width"], {})
    with pytest.raises(ValueError, match=r"\+: results must have the same hyperparameters, \['rate'\], got \['width'\]"):
        first + other


# Files.


def assert_same(loaded, result):
    assert list(loaded.table) == list(result.table) and list(loaded.curves) == list(result.curves)
    for left, right in ((loaded.table, result.table), (loaded.curves, result.curves)):
        for name in right:
            assert left[name].dtype == right[name].dtype
            np.testing.assert_array_equal(left[name], right[name])
    assert loaded.timing == result.timing
    for row in range(len(result)):
        assert_same_bits(loaded.state(row), result.state(row))


def test_saved_and_loaded_bit_for_bit(result, tmp_path):
    """With states of two structures, as sgd and Adam have."""
    result.save(tmp_path / "a" / "b")
    loaded = fn.load_result(tmp_path / "a" / "b", recipe)
    assert_same(loaded, result)
    best = loaded.best()
    assert type(best.state) is fn.TrainState and best.hyperparameters == result.best().hyperparameters
    np.testing.assert_array_equal(
        loaded.training(best.row).evaluate(best.state, DATA.test)["loss"], result.training(best.row).evaluate(best.state, DATA.test)["loss"]
    )
    result.save(tmp_path / "a" / "b")  # replaces
    assert str(fn.load_result(tmp_path / "a" / "b")) == str(result)


class Memory(NamedTuple):
    short: jax.Array
    parts: dict


def odd_states(rate):
    """A state of every kind of node, bfloat16 and integers among its leaves."""

    def init(key):
        parts = {"b": [jax.random.normal(key, (2,)), None], "a": (jnp.arange(3), jnp.array(True))}
        return Memory(jax.random.normal(key, (3,)).astype(jnp.bfloat16), parts)

    return (
        init,
        lambda state, batch, key: (state._replace(short=state.short * rate.astype(jnp.bfloat16)), {}),
        lambda state, data: {"loss": rate * jnp.ones(())},
    )


def test_states_of_every_kind_of_node(tmp_path):
    def traced_rate(rate):
        return odd_states(jnp.asarray(rate, jnp.float32))

    result = fn.sweep(traced_rate, fn.grid(rate=[0.5, 0.25]), DATA, **SETTINGS)
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path)
    for row in range(2):
        state = loaded.state(row)
        assert type(state).__name__ == "Memory" and state._fields == ("short", "parts") and state.parts["b"][1] is None
        assert state.short.dtype == jnp.bfloat16
        leaves, expected = jax.tree.leaves(state), jax.tree.leaves(result.state(row))
        assert_same_bits(leaves, expected)


class _Walk(NamedTuple):
    key: jax.Array
    place: jax.Array


def walk(rate):
    """A state that carries a random key of its own."""

    def step(state, batch, key):
        key, now = jax.random.split(state.key)
        return _Walk(key, state.place + rate * jax.random.normal(now, (2,))), {}

    return lambda key: _Walk(key, jnp.zeros(2)), step, lambda state, data: {"loss": jnp.sum(state.place)}


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_states_with_random_keys_go_on_where_they_were(tmp_path, kind):
    key = jax.random.key(1, impl=kind)
    result = fn.sweep(walk, fn.grid(rate=[0.1, 0.2]), DATA, **(SETTINGS | {"key": key}))
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path)
    assert jax.tree.structure(loaded.state(0)) == jax.tree.structure(loaded.state(1))
    for row in range(2):
        state, expected = loaded.state(row), result.state(row)
        assert type(state).__name__ == "_Walk" and state.key.dtype == key.dtype
        assert_same_bits(jax.random.bits(state.key, (3,)), jax.random.bits(expected.key, (3,)))
        assert_same_bits(state.place, expected.place)


def test_states_that_differ_in_dtype_or_structure_keep_both(tmp_path):
    def scalar(dtype, nested):
        def init(key):
            value = jax.random.normal(key, ()).astype(dtype)
            return [value] if nested else value

        return init, lambda state, batch, key: (state, {}), lambda state, data: {"loss": jnp.ones(())}

    for name, variants in (
        ("dtype", fn.grid(dtype=["bfloat16", "float32"], nested=[False])),
        ("structure", fn.grid(dtype=["bfloat16"], nested=[False, True])),
    ):
        result = fn.sweep(scalar, variants, DATA, **SETTINGS)
        result.save(tmp_path / name)
        assert_same(fn.load_result(tmp_path / name), result)


def test_hyperparameters_keep_every_bit_and_functions_become_names(tmp_path):
    variants = [{"learning_rate": 0.1 + 0.2, "activation": bend, "more": (1, (2.5, None)), "limit": float("inf")}]

    def many(learning_rate, activation, more, limit):
        return recipe(learning_rate, activation=activation)

    result = fn.sweep(many, variants, DATA, **SETTINGS)
    assert result.table["activation"].tolist() == ["bend"]
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path)
    assert loaded.hyperparameters(0) == {"learning_rate": 0.1 + 0.2, "activation": "bend", "more": (1, (2.5, None)), "limit": float("inf")}
    with pytest.raises(ValueError, match=r"training: needs the recipe, which a file can't hold, got None; load_result\(path, recipe=...\)"):
        loaded.training(0)


def test_a_kept_few_are_saved_as_such(tmp_path):
    result = fn.sweep(recipe, fn.grid(learning_rate=[0.01, 0.1, 0.05]), DATA, keep=1, **SETTINGS)
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path)
    assert_same_bits(loaded.best().state, result.best().state)
    with pytest.raises(ValueError, match="row must be one whose state was kept"):
        loaded.state(0)


def test_no_folder_no_result(tmp_path):
    with pytest.raises(
        ValueError, match=r"load_result: the folder must hold arrays.npz and result.json, got .*nowhere; save\(path\) writes them"
    ):
        fn.load_result(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["arrays.npz", "result.json"])
def test_a_truncated_file_is_refused(result, tmp_path, name):
    result.save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="load_result: the files must be whole and unaltered"):
        fn.load_result(tmp_path)


def test_whatever_is_damaged_is_refused_or_harmless(result, tmp_path):
    """Bytes changed at random: a result, or a ValueError; nothing else."""
    result.save(tmp_path)
    rng = np.random.default_rng(0)
    refused = 0
    for name in ("arrays.npz", "result.json"):
        whole = (tmp_path / name).read_bytes()
        for place in rng.integers(0, len(whole), 200):
            damaged = bytearray(whole)
            damaged[place] = rng.integers(256)
            (tmp_path / name).write_bytes(damaged)
            try:
                fn.load_result(tmp_path)
            except ValueError as error:
                assert str(error).startswith("load_result: the files must be whole and unaltered, got ")
                refused += 1
        (tmp_path / name).write_bytes(whole)
    assert refused > 200


def damage_method(content):
    """Marks every member of a zip as compressed by a method that doesn't exist."""
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset : at + offset + 2] = b"\x63\x00"
            at = content.find(signature, at + 4)
    return content


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("result.json", lambda content: b"[" * 100_000),
        ("result.json", lambda content: content.replace(b"0x1.4", b"0x1p9999", 1)),
        ("arrays.npz", damage_method),
    ],
    ids=["too deep", "too large", "unknown compression"],
)
def test_damage_that_python_reports_in_its_own_ways(result, tmp_path, name, damage):
    result.save(tmp_path)
    content = (tmp_path / name).read_bytes()
    damaged = bytes(damage(bytearray(content)))
    assert damaged != content
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(ValueError, match="load_result: the files must be whole and unaltered"):
        fn.load_result(tmp_path)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


def test_a_file_cannot_run_code(result, tmp_path):
    result.save(tmp_path)
    with np.load(tmp_path / "arrays.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["outcome/steps"] = np.array([Bomb()], object)
    np.savez(tmp_path / "arrays.npz", **arrays)
    with pytest.raises(
        ValueError, match="load_result: the files must be whole and unaltered, got ValueError: Object arrays cannot be loaded"
    ):
        fn.load_result(tmp_path)


@pytest.mark.parametrize("part", ["named", "fields"])
@pytest.mark.parametrize("name", ["__import__('os')", "a b", "x;y", "", 3])
def test_names_of_nodes_must_be_plain(result, tmp_path, name, part):
    result.save(tmp_path)
    rest = json.loads((tmp_path / "result.json").read_text())
    rest["states"][0][part] = name if part == "named" else [name, "optimizer_state", "step"]
    (tmp_path / "result.json").write_text(json.dumps(rest))
    with pytest.raises(ValueError, match="load_result: .*a state's names must be identifiers"):
        fn.load_result(tmp_path)


def test_another_format_is_refused(result, tmp_path):
    result.save(tmp_path)
    rest = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps(rest | {"format": 99}))
    with pytest.raises(ValueError, match="load_result: .*format must be 1, got 99; written by another version of funcnet"):
        fn.load_result(tmp_path)


def test_a_traced_names_training_goes_on_from_its_state(tmp_path):
    """Several optimizers that share a program share one kind of state, which the training of a row takes, a loaded one too."""

    def recipe(learning_rate, optimizer):
        return fn.training(fn.dense(1), fn.squared_error, fn.optimizer(optimizer, learning_rate), in_shape=(4,))

    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 4)).astype(np.float32)
    data = fn.Split(*[fn.Dataset(x, x[:, :1])] * 2)
    settings = dict(key=jax.random.key(0), batch_size=8, progress=False)
    names = fn.grid(learning_rate=[0.1], optimizer=fn.traced(["rmsprop", "adam", "sgd"]))
    result = fn.sweep(recipe, names, data, num_steps=3, **settings)
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path, recipe)
    for row in range(3):
        for one in (result, loaded, result + result):
            training = one.training(row)
            state, metrics = training.step(one.state(row), data.train, jax.random.key(1))
            assert jax.tree.structure(state) == jax.tree.structure(training.init(jax.random.key(0)))
            assert float(metrics["loss"]) == pytest.approx(result.table["train/loss"][row], rel=1e-5)
