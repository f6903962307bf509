"""Pictures are checked by what they draw: which points, which lines, which labels."""

import itertools

import jax
import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from scipy import stats
from sklearn.datasets import make_moons

import funcnet as fn
from funcnet import plot

matplotlib.use("Agg")


def recipe(learning_rate, activation="relu"):
    return fn.training(fn.mlp((4, 1), activation), fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))


@pytest.fixture(scope="module")
def result():
    x = np.linspace(-1, 1, 64)[:, None]
    data = fn.split(fn.Dataset(x, x**2), key=jax.random.key(0))
    variants = fn.grid(learning_rate=[1e-3, 1e-2, 1e-1, 1e30], activation=["relu", "tanh"])
    return fn.sweep(recipe, variants, data, key=jax.random.key(1), num_steps=40, batch_size=16, eval_every=10, replicates=2, progress=False)


def made(settings, final, curves=None, *, steps=None, status=None, replicates=1, metric="validation/loss", **told):
    """A result from arrays: final values, (runs,), and curves, (runs, evaluations)."""
    final = np.asarray(final, float)
    curves = np.repeat(final[:, None], 5, axis=1) if curves is None else np.asarray(curves, float)
    evaluated = 10 * np.arange(1, curves.shape[1] + 1)
    outcome = {
        "variant": np.repeat(np.arange(len(settings)), replicates),
        "replicate": np.tile(np.arange(replicates), len(settings)),
        metric: final,
        "status": np.where(np.isfinite(final), "completed", "diverged") if status is None else np.asarray(status),
        "steps": np.full(len(final), 10 * curves.shape[1]) if steps is None else np.asarray(steps),
    }
    return fn.SweepResult(settings, outcome, {"step": evaluated, metric: curves}, {}, None, list(settings[0]), {}, **told)


def trained(count, *, evaluations=20, seed=0, far=0, value=3e16, lost=0):
    """A sweep of `count` runs whose loss falls, of which some end at a far value and some diverge."""
    rng = np.random.default_rng(seed)
    rates = 10 ** rng.uniform(-4, 0, count)
    settings = [dict(learning_rate=float(rate), dropout=float(rng.uniform(0, 0.6)), kind=f"kind {i % 3}") for i, rate in enumerate(rates)]
    best = 0.2 + 0.2 * (np.log10(rates) + 2) ** 2
    curves = best[:, None] + 2 * np.exp(-np.arange(1, evaluations + 1) / 5)
    curves[:far, evaluations // 2 :] = value
    steps = np.full(count, 10 * evaluations)
    for row in range(far, far + lost):
        steps[row] = rng.integers(20, 10 * evaluations)
        curves[row, steps[row] // 10 :] = np.nan
        curves[row, steps[row] // 10 - 1] = 1e30
    return made(settings, curves[:, -1], curves, steps=steps)


def inside_their_axes(ax, *, drawn=False):
    """Whether every point and mark lies in the axes, and no word begins or ends outside."""
    if not drawn:
        ax.figure.canvas.draw()
    box = ax.get_window_extent()
    for points in ax.collections:
        if isinstance(points, PathCollection):
            places = points.get_offset_transform().transform(np.ma.getdata(points.get_offsets()))
            if not all(box.contains(*place) for place in places):
                return False
    return all(
        box.contains(*text.get_window_extent().min) and box.contains(*text.get_window_extent().max) for text in ax.texts if text.get_text()
    )


def markers(ax, marker):
    """Where the marks of one kind stand, as places along the axis."""
    path = matplotlib.markers.MarkerStyle(marker)
    own = path.get_path().transformed(path.get_transform()).vertices
    found = [
        points for points in ax.collections if isinstance(points, PathCollection) and np.array_equal(points.get_paths()[0].vertices, own)
    ]
    return sorted(float(x) for points in found for x in points.get_offsets()[:, 0])


def words(ax):
    return " ".join([*(text.get_text().replace("\n", " ") for text in ax.texts), ax.get_title(loc="left").replace("\n", " ")]).strip()


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


@pytest.fixture(autouse=True)
def close_figures():
    yield
    matplotlib.pyplot.close("all")


def test_learning_curves_show_every_run_and_the_best_of_each_kind(result):
    ax = plot.learning_curves(result, "validation/loss", by="activation")
    faint, bold = ax.lines[: len(result)], ax.lines[len(result) :]
    for row, line in enumerate(faint):
        np.testing.assert_array_equal(line.get_ydata(), result.curves["validation/loss"][row])
    assert [line.get_label() for line in bold] == ["relu", "tanh"]
    for line in bold:
        rows = (result.table["activation"] == line.get_label()) & (result.table["status"] == "completed")
        means = [
            np.mean(result.table["validation/loss"][rows & (result.table["variant"] == v)])
            for v in np.unique(result.table["variant"][rows])
        ]
        assert line.get_ydata()[-1] == min(means)  # the mean over the two replicates of the best variant
    bands, crosses = ax.collections[1:], ax.collections[0]
    assert len(bands) == 2  # one of each
    assert crosses.get_offsets()[:, 0].tolist() == result.table["steps"][result.table["status"] == "diverged"].tolist()
    assert ax.get_xlabel() == "steps" and ax.get_ylabel() == "validation loss"


def test_the_band_is_the_interval_of_the_mean_over_replicates(result):
    ax = plot.learning_curves(result, "train/loss")
    best = min(range(8), key=lambda variant: np.mean(result.table["train/loss"][result.table["variant"] == variant]))
    own = result.curves["train/loss"][result.table["variant"] == best]
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), own.mean(0), rtol=1e-6)
    low, high = stats.t.interval(0.95, 1, own.mean(0), stats.sem(own))
    drawn = ax.collections[-1].get_paths()[0].vertices
    for step, bottom, top in zip(result.curves["step"], low, high, strict=True):
        there = drawn[drawn[:, 0] == step, 1]
        np.testing.assert_allclose([there.min(), there.max()], [bottom, top], rtol=1e-5)


def test_a_heatmap_cell_is_the_best_variants_mean_and_the_best_is_framed(result):
    ax = plot.heatmap(result, "learning_rate", "activation")
    cells = np.ma.getdata(ax.collections[0].get_array()).reshape(2, 4)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0.001", "0.01", "0.1", "1e+30"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["relu", "tanh"]
    for i, activation in enumerate(["relu", "tanh"]):
        for j, learning_rate in enumerate([1e-3, 1e-2, 1e-1, 1e30]):
            own = (result.table["activation"] == activation) & (result.table["learning_rate"] == learning_rate)
            np.testing.assert_allclose(cells[i, j], np.mean(result.table["validation/loss"][own]), rtol=1e-6)
    crosses, frame = ax.lines[:2], ax.lines[2]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses] == [(3, 0), (3, 1)]
    i, j = np.unravel_index(np.nanargmin(cells), cells.shape)
    assert (np.mean(frame.get_xdata()[:4]), np.mean(frame.get_ydata()[:4])) == (j, i)
    assert ax.figure.axes[1].get_ylabel() == "validation loss"
    over = plot.heatmap(result, "activation", "activation")
    best = np.ma.getdata(over.collections[0].get_array()).reshape(2, 2)
    np.testing.assert_allclose(np.diag(best), np.nanmin(cells, axis=1), rtol=1e-6)  # of the variants in a cell, the best


def test_parallel_coordinates_lead_from_a_runs_values_to_its_metric(result):
    ax = plot.parallel_coordinates(result)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["learning rate", "activation", "validation loss"]
    lost, faint, bold = (collection.get_segments() for collection in ax.collections[:3])
    curves = [*reversed(bold), *reversed(faint)]
    assert len(curves) == 12 and len(lost) == 4 and len(bold) == 1
    ranking = result.ranking()
    loss = result.table["validation/loss"]
    for line, row in zip(curves, ranking, strict=True):
        assert line[:, 0].tolist() == [0, 1, 2]
        rate, activation, height = line[:, 1]
        np.testing.assert_allclose(rate, (np.log10(result.table["learning_rate"][row]) + 3) / 33, atol=1e-9)
        assert activation == (result.table["activation"][row] == "tanh")
        np.testing.assert_allclose(height, (loss[row] - np.nanmin(loss)) / (np.nanmax(loss) - np.nanmin(loss)), atol=1e-6)
    assert ax.collections[2].get_linewidth() > ax.collections[1].get_linewidth()
    assert all(line[0, 1] == 1.0 and len(line) == 2 for line in lost)
    words = {text.get_text() for text in ax.texts}
    assert {"0.001", "1e+30", "relu", "tanh"} <= words


@pytest.fixture(scope="module")
def moons():
    """A sweep in which the learning rate decides and a metric-free number says nothing."""
    x, y = make_moons(200, noise=0.1, random_state=0)

    def recipe(learning_rate, l2, unused):
        del unused
        return fn.training(fn.mlp((16, 2), "tanh"), fn.cross_entropy, fn.adam(learning_rate), in_shape=(2,), penalty=fn.l2(l2))

    drawn = fn.space(learning_rate=fn.log_uniform(1e-5, 1e-1), l2=fn.log_uniform(1e-9, 1e-8), unused=fn.uniform(0.0, 1.0))
    variants = drawn.sample(40, key=jax.random.key(2), method="sobol")
    data = fn.Dataset(x, y)
    return fn.sweep(recipe, variants, data, key=jax.random.key(3), num_steps=200, batch_size=None, progress=False), data


def test_importance_finds_the_hyperparameter_that_decides(moons):
    result, _ = moons
    ax = plot.hyperparameter_importance(result)
    names = [text.get_text() for text in ax.get_yticklabels()]
    widths = dict(zip(names, [bar.get_width() for bar in ax.patches], strict=True))
    assert names[-1] == "learning rate" and set(names) == {"learning rate", "l2", "unused"}
    assert widths["learning rate"] > 1  # shuffling the only thing that tells turns R^2 of about 1 into about -1
    assert max(abs(widths["l2"]), abs(widths["unused"])) < 0.1
    assert float(ax.get_title().split()[-1].rstrip(")")) > 0.9


def test_importance_needs_variants_and_something_that_differs(result):
    with pytest.raises(ValueError, match="hyperparameter_importance: the number of variants must be at least 10, got 8"):
        plot.hyperparameter_importance(result)
    with pytest.raises(ValueError, match="needs a hyperparameter that differs between runs, got none"):
        plot.parallel_coordinates(result, names=[])


def test_a_decision_boundary_shows_the_models_own_classes(moons):
    result, data = moons
    row = result.best("train/loss").row
    ax = plot.decision_boundary(result, row, data, resolution=50)
    predictions = np.asarray(fn.predict(result.training(row), result.state(row), data.x)).argmax(1)
    regions, points = ax.collections[0], ax.collections[1:]
    assert sum(len(part.get_offsets()) for part in points) == 200
    for label in (0, 1):
        right, wrong = (np.asarray(part.get_offsets()) for part in points[2 * label : 2 * label + 2])
        np.testing.assert_allclose(right, data.x[(data.y == label) & (predictions == label)])
        np.testing.assert_allclose(wrong, data.x[(data.y == label) & (predictions != label)])
    inside = [[path.contains_point(point) for path in regions.get_paths()] for point in data.x]
    agree = np.mean(np.argmax(inside, axis=1) == predictions)
    assert agree > 0.97  # but for points within a cell of the boundary
    with pytest.raises(ValueError, match=r"x must have shape \(examples, 2\), got \(200, 3\)"):
        plot.decision_boundary(result, row, fn.Dataset(np.ones((200, 3)), data.y))


def test_over_hyperparameter_draws_a_point_a_run_and_marks_the_diverged(result):
    ax = plot.over_hyperparameter(result, "learning_rate", by="activation")
    drawn = [np.asarray(points.get_offsets()) for points in ax.collections]
    fine, lost = np.concatenate(drawn[0::2]), np.concatenate(drawn[1::2])
    completed = result.table["status"] == "completed"
    assert completed.sum() == 12 and len(fine) == 12
    assert set(map(tuple, fine)) == set(
        zip(result.table["learning_rate"][completed], result.table["validation/loss"][completed], strict=True)
    )
    assert lost[:, 0].tolist() == [1e30] * 4 and np.all((0.9 < lost[:, 1]) & (lost[:, 1] < 1))
    assert inside_their_axes(ax)
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "learning rate"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["relu", "tanh"]


def test_a_given_axes_is_drawn_on(result, moons):
    pictures = [
        lambda ax: plot.learning_curves(result, ax=ax),
        lambda ax: plot.over_hyperparameter(result, "learning_rate", ax=ax),
        lambda ax: plot.heatmap(result, "learning_rate", "activation", ax=ax),
        lambda ax: plot.parallel_coordinates(result, ax=ax),
        lambda ax: plot.hyperparameter_importance(moons[0], ax=ax),
        lambda ax: plot.decision_boundary(moons[0], 0, moons[1], resolution=10, ax=ax),
    ]
    for picture in pictures:
        _, ax = matplotlib.pyplot.subplots()
        assert picture(ax) is ax and ax.has_data()


def test_bad_names_are_refused_with_the_nearest(result):
    with pytest.raises(ValueError, match=r"learning_curves: unknown metric 'validation/los'; did you mean 'validation/loss'\?"):
        plot.learning_curves(result, "validation/los")
    with pytest.raises(ValueError, match=r"over_hyperparameter: unknown hyperparameter 'learning'; did you mean 'learning_rate'\?"):
        plot.over_hyperparameter(result, "learning")
    with pytest.raises(ValueError, match=r"heatmap: unknown hyperparameter 'learning'; did you mean 'learning_rate'\?"):
        plot.heatmap(result, "learning", "activation")
    with pytest.raises(ValueError, match="activation must hold numbers"):
        plot.over_hyperparameter(result, "activation")


def test_without_matplotlib_the_error_names_the_extra(result, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"needs matplotlib, .*; pip install 'funcnet\[experiments\]'"):
        plot.learning_curves(result)


def test_without_scikit_learn_the_error_names_the_extra(moons, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.ensemble", None)
    with pytest.raises(ImportError, match=r"needs scikit-learn, .*; pip install 'funcnet\[experiments\]'"):
        plot.hyperparameter_importance(moons[0])


FAR = pytest.mark.parametrize("count, far, value", [(40, 1, 3e16), (9, 1, 1e9), (40, 8, 1e30), (400, 20, 1e300), (40, 1, np.inf)])


@FAR
def test_far_runs_dont_flatten_the_curves(count, far, value):
    result = trained(count, far=far, value=value)
    result.table["status"][:] = "completed"  # so that a loss that became infinite is told from a run that diverged
    ax = plot.learning_curves(result)
    low, high = ax.get_ylim()
    near = result.curves["validation/loss"][far:]
    assert low < near.min() and near.max() < high
    assert near.max() - near.min() > 0.6 * (high - low)
    above = f"{far} above (▲)"
    assert above in words(ax)
    assert markers(ax, "^") == [110.0] * far  # the first evaluation that lies outside
    assert inside_their_axes(ax)


@FAR
def test_far_runs_dont_flatten_the_points(count, far, value):
    if np.isinf(value):
        pytest.skip("no finite metric: tested below")
    result = trained(count, far=far, value=value)
    ax = plot.over_hyperparameter(result, "learning_rate", by="kind")
    low, high = ax.get_ylim()
    near = result.table["validation/loss"][far:]
    assert low < near.min() and near.max() < high and near.max() - near.min() > 0.6 * (high - low)
    marks = markers(plot.over_hyperparameter(result, "learning_rate"), "^")
    assert marks == sorted(result.table["learning_rate"][:far])
    assert f"of {count} runs: {far} above (▲)" in words(ax)
    assert inside_their_axes(ax)


def test_far_below_is_marked_as_far_above():
    final = np.append(np.linspace(0.2, 0.9, 30), [-1e9, -1e12])
    settings = [dict(rate=float(i)) for i in range(32)]
    result = made(settings, final, metric="validation/r2")
    for ax in (plot.over_hyperparameter(result, "rate"), plot.learning_curves(result)):
        assert "2 below (▼)" in words(ax)
        assert ax.get_ylim()[0] > -1
        assert len(markers(ax, "v")) == 2
        assert inside_their_axes(ax)


def test_a_logarithmic_axis_that_is_given_stays_and_marks_what_it_cant_show():
    result = made([dict(rate=float(i)) for i in range(12)], np.linspace(0, 1, 12))
    _, ax = matplotlib.pyplot.subplots()
    ax.set_yscale("log")
    plot.over_hyperparameter(result, "rate", ax=ax)
    assert ax.get_yscale() == "log" and markers(ax, "v") == [0.0] and "1 below" in words(ax)


def test_a_loss_over_decades_is_drawn_on_a_logarithmic_axis():
    rates = np.linspace(0.1, 1, 40)
    result = made([dict(rate=float(rate)) for rate in rates], 10 ** np.linspace(-6, 0, 40))
    for ax in (plot.over_hyperparameter(result, "rate"), plot.learning_curves(result)):
        assert ax.get_yscale() == "log"
        assert 1e-7 < ax.get_ylim()[0] < 1e-6 and ax.get_ylim()[1] > 1


@pytest.mark.parametrize("layout", [None, "constrained"])
@pytest.mark.parametrize("shared", [True, False])
def test_diverged_runs_stay_in_their_own_panel(layout, shared):
    result = trained(60, lost=7)
    figure, axes = matplotlib.pyplot.subplots(2, 3, figsize=(12, 7), sharex="row" if shared else False, sharey=shared, layout=layout)
    for ax in axes[0]:
        plot.over_hyperparameter(result, "learning_rate", by="kind", ax=ax)
    for ax in axes[1]:
        plot.learning_curves(result, by="kind", ax=ax)
    figure.canvas.draw()
    for ax in axes.flat:
        assert sum(len(points.get_offsets()) for points in ax.collections if isinstance(points, PathCollection)) >= 7
        assert "7 diverged (x)" in words(ax)
        assert inside_their_axes(ax, drawn=True)
        if layout is None:
            box, legend = ax.get_window_extent(), ax.get_legend().get_window_extent()
            assert box.x0 <= legend.x0 and legend.x1 <= box.x1
    assert markers(axes[0, 0], "x") == sorted(result.table["learning_rate"][:7])
    assert markers(axes[1, 0], "x") == sorted(result.table["steps"][:7].tolist())


def test_panels_that_share_an_axis_show_all_of_both():
    few, many = made([dict(rate=1.0), dict(rate=2.0)], [1.0, 2.0]), made([dict(rate=2.0), dict(rate=9.0)], [5.0, 9.0])
    _, axes = matplotlib.pyplot.subplots(1, 2, sharex=True, sharey=True)
    for ax, result in zip(axes, (few, many), strict=True):
        plot.over_hyperparameter(result, "rate", ax=ax)
    assert axes[0].get_xlim()[0] < 1 and axes[0].get_xlim()[1] > 9
    assert axes[0].get_ylim()[0] < 1 and axes[0].get_ylim()[1] > 9


@pytest.mark.parametrize("count", [60, 4000])
def test_many_numbers_have_a_colour_bar_and_no_legend(count):
    result = trained(count)
    for ax, label in (
        (plot.over_hyperparameter(result, "dropout", by="learning_rate"), "learning rate"),
        (plot.learning_curves(result, by="learning_rate"), "learning rate (best in 20 ranges)"),
    ):
        bar = ax.figure.axes[1]
        assert bar.get_ylabel() == label
        assert bar.get_yscale() == "log"
        np.testing.assert_allclose(bar.get_ylim(), [result.table["learning_rate"].min(), result.table["learning_rate"].max()])
        assert len(legend(ax)) <= 3  # what the bands are
    points = plot.over_hyperparameter(result, "dropout", by="learning_rate").collections[0]
    order = np.argsort(points.get_facecolors()[:, 2] - points.get_facecolors()[:, 0])  # from yellow to blue
    assert len(points.get_offsets()) == count
    rates = dict(zip(result.table["dropout"], result.table["learning_rate"], strict=True))
    coloured = [rates[dropout] for dropout in np.asarray(points.get_offsets())[order, 0]]
    assert np.mean(coloured[: count // 4]) > 10 * np.mean(coloured[-count // 4 :])


def test_ranges_of_numbers_show_the_best_variant_of_each():
    result = trained(200)
    lines = [line for line in plot.learning_curves(result, by="learning_rate").lines if line.get_linewidth() == 1.5]
    rates = np.argsort(result.table["learning_rate"])
    for line, rows in zip(lines, np.array_split(rates, 20), strict=True):
        best = rows[np.argmin(result.table["validation/loss"][rows])]
        np.testing.assert_allclose(line.get_ydata(), result.curves["validation/loss"][best])


def test_few_numbers_have_a_legend_in_few_digits():
    rates = [0.1 + 0.2, 0.1, 0.7 - 0.1, 1e-17 + 1e-5]
    result = made([dict(rate=rate, width=i) for i, rate in enumerate(rates)], [0.4, 0.3, 0.2, 0.1])
    for ax in (plot.over_hyperparameter(result, "width", by="rate"), plot.learning_curves(result, by="rate")):
        assert legend(ax) == ["1e-05", "0.1", "0.3", "0.6"]
        assert len(ax.figure.axes) == 1


@pytest.mark.parametrize("count", [13, 60, 4000])
def test_a_legend_of_names_is_bounded_and_says_how_many_others(count):
    rng = np.random.default_rng(0)
    names = [f"name {i}" for i in range(count)] + ["name 7"] * 3
    final = rng.permutation(np.linspace(0.2, 1, len(names)))
    result = made([dict(name=name, width=i) for i, name in enumerate(names)], final)
    points = plot.over_hyperparameter(result, "width", by="name")
    assert len(legend(points)) == 12 and "name 7" in legend(points) and legend(points)[-1] == f"{count - 11} others"
    assert sum(len(drawn.get_offsets()) for drawn in points.collections) == len(names)
    curves = plot.learning_curves(result, by="name")
    shown = [label for label in legend(curves) if label.startswith("name")]
    best = sorted({name: final[[other == name for other in names]].min() for name in names}.items(), key=lambda pair: pair[1])
    assert set(shown) == {name for name, _ in best[:11]}
    styles = {(line.get_color(), line.get_linestyle()) for line in curves.lines if line.get_label() in shown}
    assert len(styles) == 11  # none twice


def test_thousands_of_runs_become_bands_around_their_median():
    result = trained(4000, evaluations=50, lost=100, far=3)
    ax = plot.learning_curves(result, by="kind")
    assert len(ax.lines) + len(ax.collections) < 20
    curves = result.curves["validation/loss"]
    wide, half = (band for band in ax.collections if not isinstance(band, PathCollection))
    for band, levels in ((wide, [0.05, 0.95]), (half, [0.25, 0.75])):
        low, high = np.nanquantile(curves, levels, axis=0)
        vertices = band.get_paths()[0].vertices
        for i in (0, 20, 49):
            there = vertices[vertices[:, 0] == 10 * (i + 1), 1]
            np.testing.assert_allclose([there.min(), there.max()], [low[i], high[i]])
    assert legend(ax)[:3] == ["middle 90% of the runs", "middle 50% of the runs", "their median"]
    median = next(line for line in ax.lines if line.get_label() == "their median")
    np.testing.assert_allclose(median.get_ydata(), np.nanmedian(curves, axis=0))
    assert ax.get_ylim()[1] < 10
    assert len(plot.parallel_coordinates(result).lines) + len(plot.parallel_coordinates(result).collections) < 20


def test_few_runs_are_drawn_one_by_one():
    ax = plot.learning_curves(trained(300))
    assert len(ax.lines) == 301 and not ax.collections


SCALES = {
    "uniform": (np.random.default_rng(0).uniform(0, 1, 40).tolist(), "linear"),
    "decades": ([1e-3, 1e-2, 1e-1], "log"),
    "powers of two": ([16, 32, 64, 128], "log"),
    "a step of one": ([1, 2, 3, 4], "linear"),
    "decades and zero": ([0.0, 1e-4, 1e-3, 1e-2], "symlog"),
    "both signs": ([-0.1, -0.01, -0.001, 0.001, 0.01, 0.1], "symlog"),
    "one value": ([0.5], "linear"),
}


@pytest.mark.parametrize("values, scale", SCALES.values(), ids=SCALES)
def test_an_axis_follows_its_values(values, scale):
    result = made([dict(rate=value, other=i) for i, value in enumerate(values)], np.linspace(1, 2, len(values)))
    ax = plot.over_hyperparameter(result, "rate")
    assert ax.get_xscale() == scale
    low, high = ax.get_xlim()
    assert low < min(values) and max(values) < high
    assert inside_their_axes(ax)
    if len(values) <= 4:
        assert [tick for tick in ax.get_xticks() if low <= tick <= high] == values or scale == "linear"
    heights = plot.parallel_coordinates(result, names=["rate", "other"]).collections
    drawn = np.sort([segment[0, 1] for lines in heights[:3] for segment in lines.get_segments()])
    np.testing.assert_allclose(drawn, np.sort(relative(ax.xaxis.get_transform().transform(np.array(values, float)))), atol=1e-9)


def relative(along):
    return (along - along.min()) / (np.ptp(along) or 1)


MIXED = {
    "numbers and None": [None, None, None, None, 0.5, 1.0, 2.0],
    "whole numbers and None": [None, 1, 2, None, 3, 4, 4],
    "booleans": [True, False, True, False, True, True, False],
    "names and None": [None, "a", None, "b", "a", "b", None],
    "everything": [None, "a", 1, 2.5, True, (8, 8), None],
    "numbers and names": ["auto", 0.1, 0.2, "auto", 0.3, "off", None],
    "infinity": [np.inf, 1.0, 2.0, np.inf, 3.0, np.inf, 1.0],
    "NaN": [np.nan, 1.0, 2.0, np.nan, 3.0, np.nan, 1.0],
}
mixed = pytest.mark.parametrize("entries", MIXED.values(), ids=MIXED)


@mixed
def test_none_and_other_names_are_values_like_any_other(entries):
    settings = [dict(entry=entry, width=i) for i, entry in enumerate(entries)]
    result = made(settings, [0.9, 0.8, 0.7, 0.95, 0.5, 0.4, 0.6])
    different = len({str(entry) for entry in entries})

    points = plot.over_hyperparameter(result, "width", by="entry")
    assert sum(len(drawn.get_offsets()) for drawn in points.collections) == 7
    assert len(legend(points)) == different and len(set(legend(points))) == different
    curves = plot.learning_curves(result, by="entry")
    assert legend(curves) == legend(points)
    bold = [line for line in curves.lines if line.get_label() in legend(curves)]
    final = result.table["validation/loss"]
    best = [
        min(value for entry, value in zip(entries, final, strict=True) if str(entry) == name) for name in {str(entry) for entry in entries}
    ]
    assert sorted(line.get_ydata()[-1] for line in bold) == sorted(best)

    cells = plot.heatmap(result, "entry", "width")
    assert np.isfinite(np.ma.getdata(cells.collections[0].get_array())).sum() == 7
    assert [label.get_text() for label in cells.get_xticklabels()] == legend(points)
    lines = plot.parallel_coordinates(result, names=["entry", "width"])
    drawn = np.array([segment for part in lines.collections[:3] for segment in part.get_segments()])
    assert drawn.shape == (7, 3, 2) and np.all(np.isfinite(drawn))
    assert len({segment[0, 1] for segment in drawn}) == different


@mixed
def test_an_axis_has_a_place_for_none_beside_the_numbers(entries):
    result = made([dict(entry=entry, width=i) for i, entry in enumerate(entries)], [0.9, 0.8, 0.7, 0.95, 0.5, 0.4, 0.6])
    if not any(isinstance(entry, bool | float | int) for entry in entries):
        with pytest.raises(ValueError, match="entry must hold numbers, got None, a, b; by= tells names apart"):
            plot.over_hyperparameter(result, "entry")
        plot.over_hyperparameter(result, "width", by="entry")
        return
    ax = plot.over_hyperparameter(result, "entry")
    (points,) = ax.collections
    assert len(points.get_offsets()) == 7 and inside_their_axes(ax)
    numbers = [entry for entry in entries if isinstance(entry, float | int) and not isinstance(entry, bool) and np.isfinite(entry)]
    for entry, (x, _) in zip(entries, points.get_offsets(), strict=True):
        if entry in numbers and not isinstance(entry, bool):
            assert x == entry
        elif numbers:
            assert x < min(numbers)
    ticks = dict(zip((label.get_text() for label in ax.get_xticklabels()), ax.get_xticks(), strict=True))
    for entry, (x, _) in zip(entries, points.get_offsets(), strict=True):
        if entry not in numbers:
            assert ticks[str(entry)] == pytest.approx(x)


def test_a_plot_knows_which_way_its_metric_is_better():
    settings = list(fn.grid(rate=[0.1, 0.2, 0.3], width=[1, 2, 3, 4]))
    score = np.random.default_rng(0).permutation(np.linspace(0.1, 0.9, 12))
    accuracy, loss = made(settings, score, metric="validation/accuracy"), made(settings, -score)
    assert plot.learning_curves(accuracy).lines[-1].get_ydata()[-1] == score.max()
    frame = plot.heatmap(accuracy, "rate", "width").lines[-1]
    best = settings[int(np.argmax(score))]
    assert np.mean(frame.get_xdata()[:4]) == [0.1, 0.2, 0.3].index(best["rate"]) and np.mean(frame.get_ydata()[:4]) == best["width"] - 1
    (bold,) = plot.parallel_coordinates(accuracy).collections[2].get_segments()
    assert bold[-1, 1] == 1
    up, down = (plot.hyperparameter_importance(result) for result in (accuracy, loss))
    assert [bar.get_width() for bar in up.patches] == [bar.get_width() for bar in down.patches]


def test_diverged_variants_share_the_last_rank_whichever_way_is_better():
    settings = [dict(rate=0.05 * i, other=float(i % 3)) for i in range(20)]
    score = np.append(np.linspace(0.1, 0.9, 15), [np.nan] * 5)  # good until it diverges
    accuracy, loss = made(settings, score, metric="validation/accuracy"), made(settings, -score)
    widths = [[bar.get_width() for bar in plot.hyperparameter_importance(result).patches] for result in (accuracy, loss)]
    assert widths[0] == widths[1]


RANKING = {
    "learning_curves": lambda result, **how: plot.learning_curves(result, **how),
    "heatmap": lambda result, **how: plot.heatmap(result, "learning_rate", "kind", **how),
    "parallel_coordinates": lambda result, **how: plot.parallel_coordinates(result, **how),
    "hyperparameter_importance": lambda result, **how: plot.hyperparameter_importance(result, **how),
}


def test_a_plot_ranks_by_what_the_sweep_was_told_to():
    settings = [dict(a=a, b=b) for a in (0.1, 0.2) for b in (1, 2)]

    def framed(result):
        frame = plot.heatmap(result, "a", "b").lines[-1]
        return np.mean(frame.get_xdata()[:4]), np.mean(frame.get_ydata()[:4])

    for told, cell in (
        (dict(modes={"mine": "max"}), (1, 0)),
        (dict(modes={"mine": "min"}), (0, 0)),
        (dict(mode="max"), (1, 0)),
    ):
        own = made(settings, [0.5, 0.7, 0.9, 0.6], metric="validation/mine", **told)
        assert framed(own) == cell
    outcome = own.table | {"validation/loss": np.arange(4.0)}
    curves = own.curves | {"validation/loss": np.ones((4, 5))}
    two = fn.SweepResult(settings, outcome, curves, {}, None, ["a", "b"], {}, metric="validation/mine", mode="max")
    assert framed(two) == (1, 0)
    assert plot.over_hyperparameter(two, "a").get_ylabel() == "validation mine"
    assert plot.learning_curves(two).lines[-1].get_ydata()[-1] == 0.9


@pytest.mark.parametrize("name", RANKING)
def test_a_metric_of_ones_own_needs_a_mode_where_a_plot_ranks(name):
    losses = trained(20)
    own = made([losses.hyperparameters(row) for row in range(20)], losses.table["validation/loss"], metric="validation/mine")
    with pytest.raises(ValueError, match=rf"{name}: must know which way 'validation/mine' is better, got no mode; give mode=\"min\""):
        RANKING[name](own)
    assert RANKING[name](own, mode="min").has_data() and RANKING[name](own, mode="max").has_data()
    with pytest.raises(ValueError, match=f"{name}: unknown mode 'mni'; did you mean 'min'"):
        RANKING[name](own, mode="mni")
    assert not matplotlib.pyplot.get_fignums() or len(matplotlib.pyplot.get_fignums()) == 2  # none is left by an error


DRAWN = RANKING | {
    "over_hyperparameter": lambda result, **how: plot.over_hyperparameter(result, "learning_rate", by="kind", **how),
    "over_hyperparameter, many": lambda result, **how: plot.over_hyperparameter(result, "learning_rate", by="dropout", **how),
    "learning_curves, by": lambda result, **how: plot.learning_curves(result, by="learning_rate", **how),
}
ENDS = {
    "all diverged": (["diverged"] * 20, 1.0, "20 diverged"),
    "all unfinished, before the first evaluation": (["unfinished"] * 20, np.nan, "20 unfinished"),
    "some of each": (["diverged"] * 13 + ["unfinished"] * 7, np.nan, "13 diverged, 7 unfinished"),
    "an infinite metric": (["completed"] * 20, np.inf, "20 without a finite validation loss"),
}


@pytest.mark.parametrize("status, until, said", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("name", DRAWN)
def test_a_result_without_results_says_so(name, status, until, said):
    settings = [trained(20).hyperparameters(row) for row in range(20)]
    curves = np.full((20, 5), np.nan)
    curves[:, :2] = until
    ax = DRAWN[name](made(settings, np.full(20, np.nan), curves, status=status))
    assert said in words(ax)
    ax.figure.canvas.draw()


@pytest.mark.parametrize("name", DRAWN)
def test_runs_without_a_result_are_counted_by_kind(name):
    result = trained(40)
    result.table["status"] = result.table["status"].astype(object)
    result.table["status"][:5], result.table["status"][5:8] = "diverged", "unfinished"
    result.table["validation/loss"][:9] = np.nan
    ax = DRAWN[name](result)
    if name != "hyperparameter_importance":
        assert "5 diverged, 3 unfinished, 1 without a finite validation loss" in words(ax)
    ax.figure.canvas.draw()


def test_curves_of_one_evaluation_are_points():
    ax = plot.learning_curves(trained(5, evaluations=1))
    assert all(line.get_marker() not in ("", "None", None) for line in ax.lines)


def test_one_cell_doesnt_take_up_a_heatmaps_colours():
    settings = list(fn.grid(rate=[1e-3, 1e-2, 1e-1], l2=[0.0, 1e-4, 1e-2]))
    ax = plot.heatmap(made(settings, [0.5, 0.6, 0.9, 0.3, 0.31, 0.4, 2.0, np.nan, 3e16]), "rate", "l2")
    low, high = ax.collections[0].get_clim()
    assert (low, high) == (0.3, 2.0)
    assert ax.figure.axes[1].get_ylim() == (0.3, 2.0)
    assert markers(ax, "^") == [2.0] and words(ax) == "of 9 runs: 1 diverged (x); of 8 cells: 1 above (▲)"


def test_a_heatmaps_labels_can_be_read_however_many_there_are():
    ax = plot.heatmap(made([dict(a=f"quite a long name {i}", b=i) for i in range(60)], np.arange(60.0)), "a", "b")
    assert len(ax.get_xticks()) <= 24 and len(ax.get_yticks()) <= 24
    assert ax.get_xticklabels()[1].get_text() == f"quite a long name {int(ax.get_xticks()[1])}"
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert not any(first.overlaps(second) for first, second in itertools.pairwise(boxes))


def test_a_far_run_ends_in_a_triangle_in_parallel_coordinates():
    result = trained(40, far=1)
    ax = plot.parallel_coordinates(result)
    heights = sorted(segment[-1, 1] for lines in ax.collections[1:3] for segment in lines.get_segments())
    assert heights[:2] != [0, 0] and heights[0] == 0 and heights[-2] == 1 and 1 < heights[-1] < 1.05
    assert "of 40 runs: 1 above (▲)" in words(ax)
    assert np.median(heights) > 0.05


def test_every_replicate_is_drawn_in_parallel_coordinates():
    result = made([dict(rate=0.1), dict(rate=0.2), dict(rate=0.3)], [0.5, 0.6, 0.7, np.nan, 0.1, 0.2], replicates=2)
    ax = plot.parallel_coordinates(result)
    drawn = [segment for lines in ax.collections[:3] for segment in lines.get_segments()]
    assert sorted(len(segment) for segment in drawn) == [1, 2, 2, 2, 2, 2]


def test_parallel_coordinates_write_few_names_beside_an_axis():
    ax = plot.parallel_coordinates(made([dict(name=f"name {i}", width=i) for i in range(50)], np.linspace(0, 1, 50)))
    assert len(ax.texts) < 25


@pytest.mark.parametrize("labels", [[0, 1], [-1, 1], [0.1, 0.9]])
def test_a_decision_boundary_takes_labels_as_a_single_logit_has_them(labels):
    x = np.array([[-1.0, 0.0], [1.0, 0.0], [-1.0, 1.0], [1.0, 1.0]], np.float32)

    def recipe(scale):
        return fn.training(fn.dense(1), fn.squared_error, fn.sgd(scale), in_shape=(2,))

    y = np.array(labels * 2, np.float32)
    result = fn.sweep(recipe, [{"scale": 0.3}], fn.Dataset(x, y), key=jax.random.key(0), num_steps=60, batch_size=None, progress=False)
    ax = plot.decision_boundary(result, 0, fn.Dataset(x, y), resolution=5)
    logits = np.asarray(fn.predict(result.training(0), result.state(0), x)).reshape(-1)
    wrong = sum(len(points.get_offsets()) for points in ax.collections[2::2])
    assert wrong == np.sum((logits > 0) != (y > np.mean(labels)))


def test_a_prediction_that_isnt_a_number_is_of_no_class(moons, monkeypatch):
    result, data = moons
    monkeypatch.setattr(plot, "predict", lambda training, state, x: np.stack([np.zeros(len(x)), np.where(x[:, 0] > 0, 1, np.nan)], axis=1))
    ax = plot.decision_boundary(result, 0, data, resolution=5)
    rightly = sum(len(points.get_offsets()) for points in ax.collections[1::2])
    assert rightly == np.sum((data.x[:, 0] > 0) & (data.y == 1))
