"""Hundreds of variants of a small net on scikit-learn's digits, trained together: the sweep that the README shows.

python -m experiments.digits_sweep [--variants N] [--steps N] [--seed N] [--out FOLDER]
"""

import argparse
import time
from pathlib import Path

import jax
import matplotlib
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from sklearn.datasets import load_digits

import funcnet as fn
from funcnet import plot

ACTIVATIONS = ("relu", "tanh", "sigmoid", "arctan_sigmoid")
OPTIMIZERS = ("sgd", "momentum", "adagrad", "rmsprop", "adam")
ERROR = "validation/error"


def error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Share of digits misread."""
    return 1 - fn.accuracy(predictions, targets)


def recipe(learning_rate: float, l2: float, dropout: float, activation: str, optimizer: str) -> fn.Training:
    return fn.training(
        fn.mlp((128, 10), activation, dropout),
        fn.cross_entropy,
        fn.optimizer(optimizer, learning_rate),
        in_shape=(64,),
        penalty=fn.l2(l2),
        metrics={"error": error},
    )


def search_space() -> fn.Space:
    return fn.space(
        learning_rate=fn.log_uniform(1e-4, 1.0),
        l2=fn.log_uniform(1e-6, 1e-2),
        dropout=fn.uniform(0.0, 0.6),
        activation=fn.traced(fn.choice(ACTIVATIONS)),
        optimizer=fn.traced(fn.choice(OPTIMIZERS)),
    )


def digits(key: jax.Array) -> fn.Split:
    """1,797 scans of handwritten digits, 8 x 8 pixels: 60% for training, 20% for validation, 20% for the test.

    Pixels run from 0 to 16. All are scaled by the same factor, which works better than one for each pixel: a pixel at the edge that is
    almost always blank would count as much as one in the middle.
    """
    x, y = load_digits(return_X_y=True)
    return fn.split(fn.Dataset(x / 8 - 1, y), key=key, validation=0.2, test=0.2)


def run(variants: int = 256, steps: int = 500, seed: int = 0, progress: bool | None = None) -> tuple[fn.SweepResult, fn.Split]:
    data_key, space_key, sweep_key = jax.random.split(jax.random.key(seed), 3)
    data = digits(data_key)
    drawn = search_space().sample(variants, key=space_key, method="sobol")
    every = max(1, steps // 10)
    result = fn.sweep(recipe, drawn, data, key=sweep_key, num_steps=steps, batch_size=64, eval_every=every, progress=progress)
    return result, data


def draw_learning_curves(result: fn.SweepResult, path: Path) -> None:
    _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    ax.set_yscale("log")
    plot.learning_curves(result, ERROR, by="optimizer", mode="min", ax=ax)
    ax.set(xlabel="steps (minibatches of 64 digits)", title=f"{len(result)} runs in one sweep (grey: each run)")
    _percent_axis(ax)
    ax.set_ylabel("validation error (share of digits misread)")
    _save(ax.figure, path)


def draw_learning_rates(result: fn.SweepResult, path: Path) -> None:
    """Draws validation error over learning rate: a panel for each optimizer, a colour for each activation."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 6.2), sharex=True, sharey=True, layout="constrained")
    for ax, optimizer in zip(axes.flat, OPTIMIZERS, strict=False):
        rows = result.table["optimizer"] == optimizer
        for activation, colour, marker in zip(ACTIVATIONS, plot.COLOURS, plot.MARKERS, strict=False):
            own = rows & (result.table["activation"] == activation)
            ax.scatter(
                result.table["learning_rate"][own],
                result.table[ERROR][own],
                s=26,
                c=colour,
                marker=marker,
                alpha=0.8,
                linewidth=0,
                label=activation,
            )
        ax.set(xscale="log", title=optimizer)
        _percent_axis(ax)
    axes.flat[2].tick_params(labelbottom=True)
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(
        *axes.flat[0].get_legend_handles_labels(), title="activation", loc="center", frameon=False, fontsize=12, title_fontsize=12
    )
    figure.supxlabel("learning rate (size of a step)")
    figure.supylabel("validation error (share of digits misread)")
    _save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.digits_sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=256, help="how many variants to draw and train (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=500, help="minibatches each variant trains on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides everything random (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/digits_sweep"), help="folder to write to (default: %(default)s)")
    arguments = parser.parse_args()
    matplotlib.use("Agg")

    began = time.perf_counter()
    result, data = run(arguments.variants, arguments.steps, arguments.seed)
    best = result.best("validation/loss")
    test = result.training(best.row).evaluate(best.state, data.test)

    arguments.out.mkdir(parents=True, exist_ok=True)
    result.to_pandas().to_csv(arguments.out / "table.csv", index=False)
    result.save(arguments.out / "result")
    draw_learning_curves(result, arguments.out / "learning_curves.png")
    draw_learning_rates(result, arguments.out / "learning_rates.png")

    print(result)
    settings = ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in best.hyperparameters.items()
    )
    print(f"best by validation loss: {settings}")
    print(f"its accuracy on {len(data.test.y)} test digits that no choice has seen: {1 - float(test['error']):.1%}")
    seconds, compiling = time.perf_counter() - began, result.timing["compile_seconds"]
    print(f"{seconds:.1f} s, of which compiling on all cores together took {compiling:.1f} s for {result.timing['programs']} programs")
    print(f"written to {arguments.out}: table.csv, result/, learning_curves.png, learning_rates.png")


def _percent_axis(ax: matplotlib.axes.Axes) -> None:
    """A logarithmic axis of percentages, with enough tick labels to read values from it."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(alpha=0.3)


def _save(figure: matplotlib.figure.Figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
