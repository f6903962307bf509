"""Cross-validation: a sweep over folds is the sweeps of its folds, in one program, and ranks by their mean."""

import concurrent.futures
import functools
import multiprocessing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import remote_recipes
from forgetting import forget_programs
from jax.flatten_util import ravel_pytree

import funcnet as fn
from funcnet import page, prune
from funcnet.sweeps.lanes import lane_arrays
from funcnet.sweeps.planning import make_plan

KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 5)).astype(np.float32)
Y = (X[:, 0] + 0.6 * RNG.normal(size=48) > 0.5).astype(np.int32)
DATA = fn.Dataset(X, Y)
EQUAL = fn.k_fold(DATA, 4, key=KEY, stratify=Y)
UNEQUAL = fn.k_fold(fn.Dataset(X[:47], Y[:47]), 3, key=KEY)
VARIANTS = fn.grid(learning_rate=[0.1, 0.3, 1.0, 1e30])  # the last one diverges
SETTINGS = dict(key=KEY, num_steps=90, batch_size=8, eval_every=30, chunk_size=4, progress=False)


def net(learning_rate, width=4, drop=0.1):
    return fn.training(fn.mlp((width, 2), "relu", drop), "cross_entropy", fn.sgd(learning_rate), in_shape=(5,), metrics=["accuracy", "f1"])


swept = functools.partial(fn.sweep, net, VARIANTS, **SETTINGS)
WHOLE = functools.cache(lambda: swept(EQUAL))


def assert_same(one, other, rows=None, others=None, tolerance=None):
    """Rows of two results have the same numbers: bit for bit, or to a tolerance."""
    rows = range(len(one)) if rows is None else rows
    others = range(len(other)) if others is None else others
    close = np.testing.assert_array_equal if tolerance is None else functools.partial(np.testing.assert_allclose, **tolerance)
    for name in one.metrics:
        close(one.table[name][rows], other.table[name][others], err_msg=name)
        close(one.curves[name][rows], other.curves[name][others], err_msg=name)
    assert one.table["status"][rows].tolist() == other.table["status"][others].tolist()
    for row, its in zip(rows, others, strict=True):
        jax.tree.map(close, jax.device_get(one.state(row)), jax.device_get(other.state(its)))


def test_folds_of_one_size_are_bit_for_bit_their_own_sweeps():
    whole = WHOLE()
    assert whole.table["fold"].tolist() == [0, 1, 2, 3] * 4 and list(whole.table)[:3] == ["variant", "replicate", "fold"]
    assert whole.folds == 4 and whole.table["status"].tolist() == ["completed"] * 12 + ["diverged"] * 4
    for i, fold in enumerate(EQUAL):
        assert_same(whole, swept(fold), np.flatnonzero(whole.table["fold"] == i))


def test_folds_of_several_sizes_are_their_own_sweeps_to_rounding():
    whole = swept(UNEQUAL)
    assert sorted(len(fold.train.y) for fold in UNEQUAL) == [31, 31, 32]
    for i, fold in enumerate(UNEQUAL):
        assert_same(whole, swept(fold), np.flatnonzero(whole.table["fold"] == i), tolerance=dict(rtol=1e-5, atol=1e-6))


@pytest.mark.parametrize(("batch_size", "drop"), [(8, 0.1), (None, 0.0)])  # all of a fold's examples draw as many as there are
def test_a_row_is_fits(batch_size, drop):
    result = fn.sweep(
        net, fn.grid(learning_rate=[0.1, 0.3], drop=[drop]), UNEQUAL, **SETTINGS | {"batch_size": batch_size, "replicates": 2}
    )
    assert result.table["replicate"].tolist() == [0, 0, 0, 1, 1, 1] * 2 and result.table["fold"].tolist() == [0, 1, 2] * 4
    fit = jax.jit(lambda rate, fold, key: fn.fit(net(rate, drop=drop), fold, key=key, num_steps=90, batch_size=batch_size, eval_every=30))
    assert [len(fold.train.y) for fold in UNEQUAL] == [31, 31, 32]
    for row in (1, 5, 9):
        key = jax.random.fold_in(KEY, int(result.table["replicate"][row]))
        fitted = fit(result.table["learning_rate"][row], UNEQUAL[result.table["fold"][row]], key)
        for name in ("train/loss", "validation/loss"):
            np.testing.assert_allclose(result.curves[name][row], fitted.curves[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("folds", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_no_fold_compiles_anything_of_its_own(folds):
    forget_programs()
    assert swept(folds).timing["programs"] == 4
    assert swept(folds[::-1]).timing["programs"] == 0


def test_variants_are_ranked_by_their_mean_over_folds():
    whole = WHOLE()
    means = whole.table["validation/loss"].reshape(4, 4).mean(1)
    by = whole.by_variant()
    order = np.argsort(means[:3])
    assert by["variant"].tolist() == [*order, 3]
    np.testing.assert_allclose(by["validation/loss"][:3], means[order])
    np.testing.assert_allclose(by["validation/loss/std"][:3], whole.table["validation/loss"].reshape(4, 4).std(1, ddof=1)[order])
    assert by["validation/loss/count"].tolist() == [4, 4, 4, 0] and by["diverged"].tolist() == [0, 0, 0, 4]
    best = whole.best()
    assert best.variant == order[0] and len(best.rows) == 4 and best.row in best.rows
    assert best.mean["validation/loss"] == pytest.approx(means[order[0]])
    assert "16 runs of 4 variants, 4 diverged; the 3 best variants by mean validation/loss" in repr(whole)


def test_independent_randomness_is_as_without_folds():
    settings = SETTINGS | {"randomness": "independent", "replicates": 2}
    whole = fn.sweep(net, VARIANTS, EQUAL, **settings)
    own = fn.sweep(net, VARIANTS, EQUAL[2], **settings)
    assert_same(whole, own, np.flatnonzero(whole.table["fold"] == 2))


def test_each_variant_may_see_its_own_number_of_examples():
    variants = [{"learning_rate": 0.1, "num_examples": own} for own in (12, 30)]
    whole = fn.sweep(net, variants, UNEQUAL, **SETTINGS)
    for i, fold in enumerate(UNEQUAL):
        own = fn.sweep(net, variants, fold, **SETTINGS)
        assert_same(whole, own, np.flatnonzero(whole.table["fold"] == i), tolerance=dict(rtol=1e-5, atol=1e-6))


def test_an_epoch_is_of_the_smallest_fold():
    settings = SETTINGS | {"num_steps": None, "num_epochs": 3, "batch_size": 8, "eval_every": None}
    assert fn.sweep(net, VARIANTS[:1], UNEQUAL, **settings).table["steps"].tolist() == [3 * (31 // 8)] * 3


def test_weighted_folds_of_several_sizes():
    weights = RNG.exponential(size=47)
    folds = fn.k_fold(fn.WeightedDataset(X[:47], Y[:47], weights), 3, key=KEY)
    whole = fn.sweep(net, VARIANTS[:2], folds, **SETTINGS)
    assert "validation/unweighted_loss" in whole.metrics
    for i, fold in enumerate(folds):
        own = fn.sweep(net, VARIANTS[:2], fold, **SETTINGS)
        assert_same(whole, own, np.flatnonzero(whole.table["fold"] == i), tolerance=dict(rtol=1e-5, atol=1e-6))
    assert "validation/unweighted_loss" not in swept(UNEQUAL).metrics


def test_folds_may_each_be_scaled_by_their_own_training_part():
    folds = fn.standardize(UNEQUAL)
    for fold, plain in zip(folds, UNEQUAL, strict=True):
        np.testing.assert_array_equal(fold.validation.x, fn.standardize(plain).validation.x)
    whole = swept(folds)
    own = swept(folds[1])
    assert_same(whole, own, np.flatnonzero(whole.table["fold"] == 1), tolerance=dict(rtol=1e-5, atol=1e-6))


# What else a sweep does


def test_a_rule_stops_a_variant_on_all_folds_by_its_mean():
    result = fn.sweep(net, VARIANTS, EQUAL, prune=prune.successive_halving(30, 2), **SETTINGS)
    status = result.table["status"].reshape(4, 4)
    assert all(len(set(own)) == 1 for own in status.tolist())
    means = WHOLE().curves["validation/loss"].reshape(4, 4, -1).mean(1)
    kept = np.argsort(np.where(np.isnan(means[:, 0]), np.inf, means[:, 0]))[:2]
    assert sorted(np.flatnonzero(result.table["steps"].reshape(4, 4)[:, 0] > 30)) == sorted(kept)
    best = result.best()
    assert_same(result, WHOLE(), list(best.rows), list(best.rows))


def test_a_population_takes_over_within_a_fold():
    result = fn.sweep(net, VARIANTS[:3], EQUAL, evolve=fn.population(), **SETTINGS)
    took = result.lineage.parent != np.arange(12)[:, None]
    assert took.any() and (result.table["fold"][result.lineage.parent] == result.table["fold"][:, None]).all()
    assert (took.reshape(3, 4, -1).all(1) == took.reshape(3, 4, -1).any(1)).all()  # a variant's runs together


def test_states_that_are_kept_are_the_best_variants():
    for keep_best in (False, True):
        result = fn.sweep(net, VARIANTS, EQUAL[::-1], keep=1, keep_best=keep_best, **SETTINGS)
        losses = result.table["validation/loss"][:12].reshape(3, 4)
        best = result.best()
        assert best.variant == losses.mean(1).argmin() != losses[:, 0].argmin()  # not the first fold's best
        assert list(result._states) == [best.row]
        found = result.evaluate(best.row, EQUAL[::-1][result.table["fold"][best.row]].validation)["loss"]
        assert found == pytest.approx(result.table["validation/loss"][best.row], rel=1e-5)


def test_a_store_goes_on_grows_and_knows_its_folds(tmp_path):
    settings = SETTINGS | {"store": tmp_path}
    part = fn.sweep(net, VARIANTS[:2], EQUAL, **settings)
    assert part.table["fold"].tolist() == [0, 1, 2, 3] * 2
    grown = fn.sweep(net, VARIANTS, EQUAL, **settings)
    assert_same(grown, WHOLE())
    seen = fn.load_store(tmp_path)
    for name in ("variant", "replicate", "fold", "validation/loss"):
        np.testing.assert_array_equal(seen.table[name], grown.table[name])
    longer = fn.sweep(net, VARIANTS, EQUAL, **settings | {"num_steps": 120})
    assert_same(longer, swept(EQUAL, num_steps=120))
    for other, what in ((EQUAL[:3], "folds: stored 4, given 3"), (EQUAL[::-1], "data: stored"), (EQUAL[0], "folds: stored 4, given None")):
        with pytest.raises(ValueError, match=f"must hold this very sweep, got another .*{what}"):
            fn.sweep(net, VARIANTS, other, **settings)


def test_a_store_that_was_interrupted_goes_on(tmp_path):
    told = []

    def stop(evaluation):
        told.append(evaluation)
        if len(told) == 5:
            raise KeyboardInterrupt

    with pytest.raises(fn.SweepStopped):
        fn.sweep(net, VARIANTS, UNEQUAL, store=tmp_path, callback=stop, **SETTINGS)
    assert_same(fn.sweep(net, VARIANTS, UNEQUAL, store=tmp_path, **SETTINGS), swept(UNEQUAL))
    for evaluation in told:
        index = np.stack([evaluation.variants, evaluation.replicates, evaluation.folds])
        np.testing.assert_array_equal(index, np.unravel_index(evaluation.rows, (4, 1, 3)))


def test_other_processes_get_the_folds():
    points = remote_recipes.points()
    folds = fn.k_fold(fn.Dataset(points.train.x[:-1], points.train.y[:-1]), 3, key=KEY)
    settings = dict(key=KEY, num_steps=70, batch_size=4, chunk_size=2, progress=False)
    variants = fn.grid(learning_rate=[0.01, 0.1, 0.3])
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = fn.sweep(remote_recipes.net, variants, folds, executor=pool, **settings)
    assert there.timing["workers"] and len({len(fold.train.y) for fold in folds}) == 2
    assert_same(there, fn.sweep(remote_recipes.net, variants, folds, **settings))


def test_results_are_saved_loaded_and_joined(tmp_path):
    whole = WHOLE()
    whole.save(tmp_path)
    loaded = fn.load_result(tmp_path, net)
    assert_same(loaded, whole)
    np.testing.assert_array_equal(loaded.table["fold"], whole.table["fold"])
    both = whole + loaded
    assert both.table["fold"].tolist() == [0, 1, 2, 3] * 8 and both.best().variant == whole.best().variant
    with pytest.raises(ValueError, match=r"\+: results must have the same folds, 4, got 1"):
        whole + swept(EQUAL[0])


def test_a_search_goes_by_the_mean_over_folds():
    told = {}

    class Two:
        def ask(self, n):
            return [{"learning_rate": rate} for rate in (0.03, 0.3)]

        def tell(self, variants, values):
            told.update(zip([own["learning_rate"] for own in variants], values, strict=True))

    result = fn.search(net, Two(), EQUAL, rounds=1, per_round=2, **SETTINGS)
    assert list(told.values()) == pytest.approx(result.table["validation/loss"].reshape(2, 4).mean(1))


def test_what_it_will_take_is_planned_for_all_folds():
    plan = fn.plan(net, VARIANTS, UNEQUAL, **SETTINGS)
    assert plan.runs == 12 and [(own.lanes, own.chunks) for own in plan.programs] == [(4, 3)]


def test_the_page_and_the_pictures_show_the_folds():
    plot = pytest.importorskip("matplotlib.pyplot")
    assert '<th scope="col" class="number">fold</th>' in page._table(WHOLE(), ["learning_rate"])
    assert fn.plot.learning_curves(WHOLE()) is not None
    plot.close("all")


# References


def newton(training, loss, penalty):
    """A linear model's training with Newton's steps, which come to the optimum itself."""
    objective = fn.penalized(fn.dense(1), getattr(fn, loss), penalty)

    def step(state, batch, key):
        flat, unravel = ravel_pytree(state.params)
        value, grad = jax.value_and_grad(lambda flat: objective(unravel(flat), batch))(flat)
        curvature = jax.hessian(lambda flat: objective(unravel(flat), batch))(flat)
        return state._replace(params=unravel(flat - jnp.linalg.solve(curvature, grad))), {"loss": value}

    return training._replace(step=step)


def test_ridge_regression_is_grid_searchs():
    """scikit-learn minimises |residual|^2 + alpha * |w|^2; funcnet its mean, and l2 = alpha / examples; the bias is free in both."""
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, KFold

    x, y = (values[:440] for values in load_diabetes(return_X_y=True))
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    alphas = [1.0, 30.0, 300.0, 3000.0]
    theirs = GridSearchCV(Ridge(), {"alpha": alphas}, cv=KFold(4), scoring="neg_mean_squared_error", return_train_score=True).fit(x, y)
    folds = fn.k_fold(fn.Dataset(x, y), 4, shuffle=False)
    assert {len(fold.train.y) for fold in folds} == {330}

    def ridge(l2):
        return newton(fn.training(fn.dense(1), "squared_error", fn.sgd(0.1), in_shape=(10,)), "squared_error", fn.l2(l2))

    ours = fn.sweep(ridge, fn.grid(l2=[alpha / 330 for alpha in alphas]), folds, **SETTINGS | {"batch_size": None, "num_steps": 3})
    split_scores = np.stack([theirs.cv_results_[f"split{i}_test_score"] for i in range(4)], axis=1)
    np.testing.assert_allclose(ours.table["validation/loss"].reshape(4, 4), -split_scores, rtol=1e-5)
    found = ours.by_variant()
    np.testing.assert_allclose(np.sort(found["validation/loss"]), np.sort(-theirs.cv_results_["mean_test_score"]), rtol=1e-5)
    assert alphas[found["variant"][0]] == theirs.best_params_["alpha"]


def test_logistic_regression_is_grid_searchs():
    """scikit-learn minimises C * sum(loss) + |w|^2 / 2; funcnet the mean, and l2 = 1 / (2 * C * examples).

    Of 455 or 456 examples: one l2 for all folds is another C in each, by 1 in 1,000, which moves the loss by less than that.
    """
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    strengths = [0.001, 0.01, 0.1, 1.0]
    own = LogisticRegression(tol=1e-8, max_iter=1000)
    theirs = GridSearchCV(own, {"C": strengths}, cv=StratifiedKFold(5), scoring="neg_log_loss").fit(x, y)
    folds = fn.k_fold(fn.Dataset(x, y), 5, shuffle=False, stratify=y)

    def logistic(l2):
        return newton(fn.training(fn.dense(1), "binary_cross_entropy", fn.sgd(0.1), in_shape=(30,)), "binary_cross_entropy", fn.l2(l2))

    examples = np.mean([len(fold.train.y) for fold in folds])
    settings = SETTINGS | {"batch_size": None, "num_steps": 12, "eval_every": None}
    ours = fn.sweep(logistic, fn.grid(l2=[1 / (2 * strength * examples) for strength in strengths]), folds, **settings)
    split_scores = np.stack([theirs.cv_results_[f"split{i}_test_score"] for i in range(5)], axis=1)
    np.testing.assert_allclose(ours.table["validation/loss"].reshape(4, 5), -split_scores, rtol=1e-3)
    assert strengths[ours.best().variant] == theirs.best_params_["C"]


def test_lanes_of_one_fold_share_their_limit_and_so_their_draws():
    own = make_plan(net, VARIANTS, [31, 32], has_folds=True, num_steps=1, num_epochs=None, batch_size=8, eval_every=None, replicates=1)
    rates = {"learning_rate": np.full(8, 0.1)}
    assert [lane_arrays(own, 0, rows, rates, 2, shared=True, independent=False).num_examples.tolist() for rows in ([0, 2], [1, 3])] == [
        31,
        32,
    ]


# What will not do


def test_a_metric_without_weights_is_left_out_where_folds_differ_in_size():
    def worst(predictions, targets):
        return jnp.max(jnp.abs(predictions[:, 0] - targets.astype(jnp.float32)))

    def line(learning_rate):
        return fn.training(fn.dense(1), "squared_error", fn.sgd(learning_rate), in_shape=(5,), metrics={"worst": fn.metric(worst, "min")})

    with pytest.warns(RuntimeWarning, match="must take weights=None, .*folds of several sizes.*, got 'worst' without; left out"):
        result = fn.sweep(line, VARIANTS[:1], UNEQUAL, **SETTINGS)
    assert "validation/worst" not in result.metrics
    assert "validation/worst" in fn.sweep(line, VARIANTS[:1], EQUAL, **SETTINGS).metrics


def test_a_triple_of_ones_own_must_take_weights_where_folds_differ_in_size():
    def own(learning_rate, weighs=False):
        def loss(w, dataset):
            x, y, *weights = dataset
            if weights and not weighs:
                raise ValueError("too many values to unpack (expected 2)")
            return jnp.average((x @ w - y.astype(jnp.float32)) ** 2, weights=weights[0] if weights else None)

        def step(w, batch, key):
            value, grad = jax.value_and_grad(loss)(w, batch)
            return w - learning_rate * grad, {"loss": value}

        return lambda key: jnp.zeros(5), step, lambda w, dataset: {"loss": loss(w, dataset)}

    rule = r"recipe: step and evaluate must take WeightedDataset\(x, y, weights\) where not all examples count .*, got ValueError: too many"
    with pytest.raises(TypeError, match=f"sweep: variant 0 .*{rule}.*; weighted means; or folds of one size"):
        fn.sweep(own, VARIANTS[:2], UNEQUAL, **SETTINGS)
    with pytest.raises(TypeError, match=rule):
        fn.sweep(own, [{"learning_rate": 0.1, "num_examples": 20}], EQUAL[0], **SETTINGS)
    assert len(fn.sweep(own, VARIANTS[:2], EQUAL, **SETTINGS)) == 8
    assert len(fn.sweep(own, fn.grid(learning_rate=[0.1], weighs=[True]), UNEQUAL, **SETTINGS)) == 3


@pytest.mark.parametrize(
    ("folds", "kind", "match"),
    [
        ([EQUAL[0], fn.Split(DATA)], ValueError, r"sweep: fold 1: every fold must have a validation part, got none; Split\(train, valid"),
        ([EQUAL[0], DATA], ValueError, "sweep: fold 1: every fold must have a validation part, got none"),
        ([DATA, DATA], TypeError, "sweep: data must be .* or a Split, got 2 data sets; Split"),
        (
            [EQUAL[0], fn.Split(fn.Dataset(X[:, :2], Y), fn.Dataset(X[:, :2], Y))],
            ValueError,
            r"sweep: fold 1: every fold must hold what the first one holds, Dataset\(x float32\[5\], .* got Dataset\(x float32\[2\]",
        ),
        ([EQUAL[0], fn.Split(DATA, fn.Dataset(X * np.nan, Y))], ValueError, "sweep: fold 1: validation: x must be finite, got nan"),
        ([EQUAL[0], fn.Split(fn.Dataset(X, Y + 7), DATA)], ValueError, r"sweep: variant 0 .*labels must be in \[0, 1\], .*, got 8"),
        ([], TypeError, "sweep: data must be .* or a Split, got list"),
    ],
    ids=["no validation", "no split", "no splits", "shapes", "nan", "labels", "none"],
)
def test_folds_that_will_not_do_are_refused_before_anything_trains(folds, kind, match):
    with pytest.raises(kind, match=match):
        swept(folds)
    swept(EQUAL[:1])


def test_limits_are_those_of_the_smallest_fold():
    with pytest.raises(ValueError, match=r"num_examples must be in \[1, 31\], got 32"):
        fn.sweep(net, [{"learning_rate": 0.1, "num_examples": 32}], UNEQUAL, **SETTINGS)
    with pytest.raises(ValueError, match="batch_size must be at most the 31 examples to train on, got 32"):
        swept(UNEQUAL, batch_size=32)
    with pytest.raises(ValueError, match="a hyperparameter must have a name that the result's table doesn't use itself, got 'fold'"):
        fn.sweep(lambda fold: net(0.1), [{"fold": 0.5}], EQUAL, **SETTINGS)


def test_fit_takes_one_fold():
    with pytest.raises(TypeError, match="fit: data must be .* or a Split, got 4 data sets; folds are for sweep; give one of them"):
        fn.fit(net(0.1), EQUAL, key=KEY, num_steps=3, batch_size=4)
    fn.fit(net(0.1), EQUAL[0], key=KEY, num_steps=3, batch_size=4)
