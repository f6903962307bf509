"""Dropout: a net too large for its data overfits less if each step ignores some of its neurons or connections.

A net with two hidden layers of 100 and 11,301 parameters learns from half of scikit-learn's 442 diabetes patients: it predicts the
progress of the disease from ten measurements. Each seed draws another half; within a seed all variants share initial weights and
minibatches.
"""

import jax
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

import funcnet as fn
from experiments import report
from funcnet import plot

RATES = tuple(i / 10 for i in range(10))
KINDS = ("neurons", "connections")
# Row i drops neurons at RATES[i], row 10 + i drops connections at RATES[i]; each kind has a row without dropout.
VARIANTS = fn.grid(neurons=RATES, connections=[0.0]) + fn.grid(neurons=[0.0], connections=RATES)
FULL, QUICK = (24, 600), (6, 300)  # seeds, steps


def recipe(neurons: float, connections: float) -> fn.Training:
    """Both rates are floats, so all twenty variants share one program."""

    def after(width: int) -> fn.Layer:
        return fn.serial(fn.activation("relu"), fn.dropout(neurons), fn.drop_connect(fn.dense(width), connections))

    return fn.training(fn.serial(fn.dense(100), after(100), after(1)), fn.squared_error, fn.adam(3e-3), in_shape=(10,))


def diabetes(key: jax.Array) -> fn.Split:
    """Half for training, half for validation; a model that always predicts the mean has an error of about 1."""
    x, y = load_diabetes(return_X_y=True)
    return fn.standardize(fn.split(fn.Dataset(x, (y[:, None] - y.mean()) / y.std()), key=key, validation=0.5))


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    seeds, steps = QUICK if quick else FULL
    curves, linear = [], []
    for key in jax.random.split(jax.random.key(seed), seeds):
        data = diabetes(key)
        result = fn.sweep(recipe, VARIANTS, data, key=key, num_steps=steps, batch_size=32, eval_every=steps // 15, progress=False)
        curves.append(result.curves)
        line = LinearRegression().fit(*data.train)
        linear.append(np.mean((line.predict(data.validation.x) - data.validation.y) ** 2))
    step = curves[0]["step"]
    train, new = (np.stack([c[f"{part}/loss"] for c in curves]).reshape(seeds, 2, len(RATES), -1) for part in ("train", "validation"))
    return report.Outcome(
        [*(cures(kind, new[:, i], np.array(linear)) for i, kind in enumerate(KINDS)), alike(new)],
        {"rates": draw_rates(train[..., -1], new[..., -1], float(np.mean(linear))), "cure": draw_cure(step, new)},
    )


def best_rate(error: np.ndarray) -> int:
    """The index of the rate with the least error over every other seed; the remaining seeds then measure it without bias.

    Args:
      error: shape (seeds, rates).
    """
    return int(np.argmin(error[::2].mean(0)))


def cures(kind: str, new: np.ndarray, linear: np.ndarray) -> report.Finding:
    best, rest = best_rate(new[..., -1]), new[1::2]
    without, dropping = rest[:, 0], rest[:, best]
    fall = report.interval(without[:, -1] - dropping[:, -1])
    return report.Finding(
        f"Dropping {kind} cures overfitting: at some rate the error on new patients is lower than without.",
        fall.low > 0,
        {
            "squared error without (share of the variance)": report.interval(without[:, -1]),
            "the same at its best step": report.interval(without.min(1)),
            "squared error dropping": report.interval(dropping[:, -1]),
            "lower by, paired over seeds": fall,
            "rate": RATES[best],
            "squared error of linear regression": report.interval(linear[1::2]),
        },
        "The rate is chosen on one half of the seeds and measured on the other. Depends on a net that overfits: one too small, "
        "or stopped at its best step, has less to cure.",
    )


def alike(new: np.ndarray) -> report.Finding:
    best = [best_rate(new[:, i, :, -1]) for i in range(2)]
    neurons, connections = (new[1::2, i, best[i], -1] for i in range(2))
    more = report.interval(connections / neurons - 1)
    return report.Finding(
        "Neurons or connections, it makes no odds: at their best rates their errors on new patients are within 5% of each other.",
        -0.05 < more.low and more.high < 0.05,
        {"error dropping connections above that dropping neurons (share)": more},
        "A minibatch shares one draw of connections, while each of its examples has neurons of its own.",
    )


def draw_rates(train: np.ndarray, new: np.ndarray, linear: float) -> matplotlib.figure.Figure:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True, layout="constrained")
    for i, ax in enumerate(axes):
        for error, label, colour, marker in (
            (train, "patients trained on", plot.COLOURS[0], "o"),
            (new, "new patients", plot.COLOURS[1], "^"),
        ):
            mean, low, high = np.array([report.interval(values) for values in error[:, i].T]).T
            ax.plot(RATES, mean, marker=marker, color=colour, linewidth=2, label=label)
            ax.fill_between(RATES, low, high, color=colour, alpha=0.25, linewidth=0)
        ax.axhline(linear, color="k", linestyle=":", label="linear regression on new patients")
        ax.set(xlabel=f"share of {KINDS[i]} dropped each step", ylim=(0, None), title=f"dropping {KINDS[i]}")
    axes[0].set_ylabel("squared error (1: always saying the mean)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_cure(step: np.ndarray, new: np.ndarray) -> matplotlib.figure.Figure:
    figure, ax = plt.subplots(figsize=(6.8, 4.2), layout="constrained")
    chosen = [("nothing dropped", new[:, 0, 0])]
    for i, kind in enumerate(KINDS):
        best = best_rate(new[:, i, :, -1])
        chosen.append((f"{RATES[best]:.0%} of {kind} dropped", new[:, i, best]))
    for (label, error), colour, marker, line in zip(chosen, plot.COLOURS[1:], plot.MARKERS, plot.LINES, strict=False):
        mean, low, high = np.array([report.interval(values) for values in error.T]).T
        ax.plot(step, mean, marker=marker, linestyle=line, color=colour, linewidth=2, label=label)
        ax.fill_between(step, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel="steps (minibatches of 32 patients)", ylabel="squared error on new patients")
    ax.set_title(f"mean of {len(new)} seeds and its 95% interval")
    ax.legend(frameon=False)
    return figure
