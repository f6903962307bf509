"""Pictures are checked by what they draw: which points, which lines, which labels."""

import jax
import matplotlib
import numpy as np
import pytest

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
    assert len(ax.collections) == 2  # a band over the replicates of each
    assert ax.get_xlabel() == "steps" and ax.get_ylabel() == "validation loss"


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


def test_a_given_axes_is_drawn_on(result):
    _, ax = matplotlib.pyplot.subplots()
    assert plot.learning_curves(result, ax=ax) is ax
    assert plot.over_hyperparameter(result, "learning_rate", ax=ax) is ax


def test_bad_names_are_refused_with_the_nearest(result):
    with pytest.raises(ValueError, match=r"learning_curves: unknown metric 'validation/los'; did you mean 'validation/loss'\?"):
        plot.learning_curves(result, "validation/los")
    with pytest.raises(ValueError, match=r"over_hyperparameter: unknown hyperparameter 'learning'; did you mean 'learning_rate'\?"):
        plot.over_hyperparameter(result, "learning")
    with pytest.raises(ValueError, match="activation must hold numbers"):
        plot.over_hyperparameter(result, "activation")


def test_without_matplotlib_the_error_names_the_extra(result, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'funcnet\[experiments\]'"):
        plot.learning_curves(result)
