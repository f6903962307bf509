"""More data: the error on new digits falls with every doubling of the examples, and the gap to the training error closes.

A net reads scikit-learn's digits, trained for equally many steps on the first 10 of the training examples, the first 20,
and so on to all of them. The number of examples is an argument of the program: all sizes and all seeds share one program.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from sklearn.datasets import load_digits

import funcnet as fn
from experiments import report
from funcnet import plot

SIZES = (10, 20, 40, 80, 160, 320, 640, 1258)  # the last is all of them


def error(predictions: jax.Array, targets: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Share of digits misread."""
    return 1 - fn.accuracy(predictions, targets, weights=weights)


def recipe() -> fn.Training:
    return fn.training(fn.mlp((64, 10)), fn.cross_entropy, fn.adam(1e-3), in_shape=(64,), metrics={"error": error})


def digits(key: jax.Array) -> fn.Split:
    """The digits, with pixels scaled from [0, 16] to [-1, 1]; the key decides which ones are trained on, and in what order."""
    x, y = load_digits(return_X_y=True)
    return fn.split(fn.Dataset(x / 8 - 1, y), key=key, validation=0.3)


def trained(quick: bool, seed: int) -> list[fn.SweepResult]:
    """A sweep over the sizes for each of several splits of the digits."""
    steps, seeds = (1000, 16) if quick else (3000, 40)
    variants = fn.grid(num_examples=SIZES)
    keys = jax.random.split(jax.random.key(seed), seeds)
    return [fn.sweep(recipe, variants, digits(key), key=key, num_steps=steps, batch_size=10, progress=False) for key in keys]


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    results = trained(quick, seed)
    measured = {name: np.array([result.table[name] for result in results]) for name in results[0].metrics}  # (seeds, sizes)
    return report.Outcome(findings(measured, results), {"learning_curve": draw(measured)})


def findings(measured: dict[str, np.ndarray], results: list[fn.SweepResult]) -> list[report.Finding]:
    wrong, gap = measured["validation/error"], measured["validation/loss"] - measured["train/loss"]
    fewer = [report.interval(larger - smaller) for smaller, larger in zip(wrong.T, wrong.T[1:])]
    closer = [report.interval(larger - smaller) for smaller, larger in zip(gap.T, gap.T[1:])]
    rise = report.interval(measured["train/loss"][:, -1] - measured["train/loss"][:, 0])
    slopes = np.polynomial.polynomial.polyfit(np.log2(SIZES), np.log2(wrong).T, 1)[1]
    return [
        report.Finding(
            "Each doubling of the examples lowers the share of new digits misread",
            all(change.high < 0 for change in fewer),
            {
                **{f"share misread after {size} examples": report.interval(column) for size, column in zip(SIZES, wrong.T)},
                "change by the last doubling": fewer[-1],
                "share misread, times this with each doubling": report.interval(2.0**slopes),
                "programs compiled for all (to begin, to train, to score)": sum(result.timing["programs"] for result in results),
            },
            "As many steps for each size, of 10 examples each. Splits share digits, which makes the intervals too narrow.",
        ),
        report.Finding(
            "Each doubling narrows the gap between the errors on new digits and on those trained on",
            all(change.high < 0 for change in closer),
            {
                "gap in cross-entropy after 10 examples (nats)": report.interval(gap[:, 0]),
                "after all": report.interval(gap[:, -1]),
                "change of the training loss, 10 examples to all": rise,
            },
            "The error on new digits comes down to the training error more than that one rises.",
        ),
    ]


def draw(measured: dict[str, np.ndarray]) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for ax in (left, right):
        ax.set(xscale="log", yscale="log", xlabel="examples to train on")
        ax.set_xticks(SIZES, [*map(str, SIZES[:-1]), "all"])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.grid(alpha=0.3)
    report.band(left, SIZES, measured["validation/error"], color=plot.COLOURS[1], marker=plot.MARKERS[1])
    left.yaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    left.yaxis.set_minor_locator(NullLocator())
    left.set(ylabel="share of new digits misread", ylim=(0.02, 1))
    for part, words, colour, marker in zip(("train", "validation"), ("digits trained on", "new digits"), plot.COLOURS, plot.MARKERS):
        report.band(right, SIZES, measured[f"{part}/loss"], color=colour, marker=marker, label=words)
    right.set(ylabel="cross-entropy (nats)")
    right.legend(frameon=False)
    figure.suptitle(f"Mean of {len(measured['train/loss'])} splits of scikit-learn's digits")
    return figure
