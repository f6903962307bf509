"""Pictures are checked by what they draw: which points, which lines, which labels."""

import jax
import matplotlib
import numpy as np
import pytest
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
    assert len(ax.collections) == 2  # a band of each
    assert ax.get_xlabel() == "steps" and ax.get_ylabel() == "validation loss"


def test_the_band_is_the_interval_of_the_mean_over_replicates(result):
    ax = plot.learning_curves(result, "train/loss")
    best = min(range(8), key=lambda variant: np.mean(result.table["train/loss"][result.table["variant"] == variant]))
    own = result.curves["train/loss"][result.table["variant"] == best]
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), own.mean(0), rtol=1e-6)
    low, high = stats.t.interval(0.95, 1, own.mean(0), stats.sem(own))
    drawn = ax.collections[0].get_paths()[0].vertices
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
    curves = [line for line in ax.lines if len(line.get_xdata()) == 3]
    lost = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert len(curves) == 12 and len(lost) == 4
    ranking = result.ranking()
    loss = result.table["validation/loss"]
    for line, row in zip(reversed(curves), ranking, strict=True):
        rate, activation, height = line.get_ydata()
        np.testing.assert_allclose(rate, (np.log10(result.table["learning_rate"][row]) + 3) / 33, atol=1e-9)
        assert activation == (result.table["activation"][row] == "tanh")
        scaled = np.log10(loss) if np.nanmax(loss) > 100 * np.nanmin(loss) else loss
        np.testing.assert_allclose(height, (scaled[row] - np.nanmin(scaled)) / (np.nanmax(scaled) - np.nanmin(scaled)), atol=1e-6)
    assert curves[-1].get_linewidth() > curves[0].get_linewidth()
    assert all(line.get_ydata()[0] == 1.0 and len(line.get_xdata()) == 2 for line in lost)
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
    np.testing.assert_array_equal(lost, [[1e30, 1.0]] * 4)
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
