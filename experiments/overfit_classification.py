"""Overfitting in classification: a net that classifies every training point correctly misjudges more of the new ones.

Two classes, each a round cloud of points, overlap. The best boundary is a straight line, and even it misjudges about 16% of the
points. A linear model and a net are fitted to 40 points, which each seed draws separately.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.ticker import PercentFormatter
from scipy import stats

import funcnet as fn
from experiments import report
from experiments.redrawn import drawn, numbered, redrawn
from funcnet import plot

POINTS = 40
CENTRE = 1 / 2**0.5  # the clouds' centres are (c, c) and (-c, -c), two standard deviations apart
LEAST_ERROR = float(stats.norm.cdf(-1))  # of any boundary: each centre is one standard deviation from the best one
MODELS = {"straight boundary": (1,), "net": (100, 100, 1)}
GIVEN = numbered(np.arange(POINTS) % 2, np.arange(1000) % 2)  # the class of each point


def model(name: str) -> fn.Layer:
    return fn.mlp(MODELS[name], "tanh")


def point(key: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    return CENTRE * (2 * label - 1).astype(float) + jax.random.normal(key, (2,)), label


def error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Share of points misjudged."""
    return 1 - fn.accuracy(predictions, targets)


def recipe(name: str) -> fn.Training:
    fitted = fn.training(model(name), fn.binary_cross_entropy, fn.adam(0.01), in_shape=(2,), metrics={"error": error})
    return redrawn(fitted, point)


def trained(quick: bool, seed: int) -> fn.SweepResult:
    steps, seeds = (2000, 16) if quick else (4000, 64)
    variants, key = fn.grid(name=list(MODELS)), jax.random.key(seed)
    return fn.sweep(recipe, variants, GIVEN, key=key, num_steps=steps, batch_size=None, eval_every=10, replicates=seeds, progress=False)


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    result = trained(quick, seed)
    return report.Outcome(findings(result), {"boundaries": draw_boundaries(result), "curves": draw_curves(result)})


def curves(result: fn.SweepResult, name: str, metric: str) -> np.ndarray:
    """A model's metric over training, shape (seeds, evaluations)."""
    return result.curves[metric][result.table["name"] == name]


def findings(result: fn.SweepResult) -> list[report.Finding]:
    net = {metric: curves(result, "net", metric) for metric in result.metrics}
    line = {metric: curves(result, "straight boundary", metric)[:, -1] for metric in result.metrics}
    turn = net["validation/error"][::2].mean(0).argmin()  # chosen on half of the seeds, measured on the others
    change = {metric: report.interval(values[1::2, -1] - values[1::2, turn]) for metric, values in net.items()}
    worse = report.interval(net["validation/error"][:, -1] - line["validation/error"])
    fewer = report.interval(line["train/error"] - net["train/error"][:, -1])
    return [
        report.Finding(
            "A net's error on its points keeps falling while its error on new ones rises",
            change["train/error"].high < 0 and change["validation/error"].low > 0,
            {
                "steps at which fewest new points are misjudged": int(result.curves["step"][turn]),
                "change of the share misjudged of its points from there to the end": change["train/error"],
                "change of the share misjudged of new points": change["validation/error"],
                "change of the cross-entropy on new points (nats)": change["validation/loss"],
            },
            "The cross-entropy rises far more than the share misjudged: the net grows sure of what it has wrong.",
        ),
        report.Finding(
            "The net misjudges none of its points, and more of the new ones than a straight boundary",
            report.interval(net["train/error"][:, -1]).high < 0.01 and fewer.low > 0 and worse.low > 0,
            {
                "share of its points that the net misjudges": report.interval(net["train/error"][:, -1]),
                "straight boundary": report.interval(line["train/error"]),
                "share of new points that the net misjudges": report.interval(net["validation/error"][:, -1]),
                "straight boundary on new points": report.interval(line["validation/error"]),
                "net minus straight boundary on new points, same data": worse,
                "least possible": LEAST_ERROR,
            },
            "The best boundary is straight here, and the classes overlap: of classes that don't, a net may fence in every point.",
        ),
    ]


def draw_boundaries(result: fn.SweepResult) -> plt.Figure:
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharex=True, sharey=True, layout="constrained")
    across = jnp.linspace(-4, 4, 201)
    plane = jnp.stack(jnp.meshgrid(across, across))  # (2, 201, 201)
    for ax, name in zip(axes, MODELS):
        row = int(np.flatnonzero(result.table["name"] == name)[0])
        state = result.state(row)
        logits = fn.apply_batch(model(name), state.fitted.params, plane.reshape(2, -1)).reshape(plane.shape[1:])
        ax.contourf(across, across, logits > 0, levels=[-0.5, 0.5, 1.5], cmap=ListedColormap(plot.COLOURS[:2]), alpha=0.2)
        ax.contour(across, across, logits, levels=[0], colors="black", linewidths=1.5)
        points, new = (drawn(point, state.data_key, part) for part in GIVEN[:2])
        for label, (colour, marker) in enumerate(zip(plot.COLOURS[:2], plot.MARKERS)):
            ax.scatter(*new.x[new.y == label][:150].T, s=8, color=colour, marker=marker, alpha=0.35, linewidth=0)
            ax.scatter(*points.x[points.y == label].T, s=55, color=colour, marker=marker, edgecolor="black", label=f"class {label}")
        wrong, wrong_new = (result.table[f"{part}/error"][row] for part in ("train", "validation"))
        ax.set(title=f"{name}: misjudges {wrong:.0%} of its points,\n{wrong_new:.0%} of new ones", xlabel="$x_1$", aspect="equal")
    axes[0].set_ylabel("$x_2$")
    axes[0].legend(title=f"large: the {POINTS} to learn from\nsmall: new ones", loc="lower left", fontsize=9)
    return figure


def draw_curves(result: fn.SweepResult) -> plt.Figure:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for ax, metric in zip(axes, ("error", "loss")):
        for name, colour in zip(MODELS, plot.COLOURS):
            for part, style, words in (("train", ":", f"on its {POINTS} points"), ("validation", "-", "on new points")):
                values = curves(result, name, f"{part}/{metric}")
                report.band(ax, result.curves["step"], values, color=colour, linestyle=style, label=f"{name} {words}")
        ax.set(xscale="log", xlabel="steps of training")
    axes[0].axhline(LEAST_ERROR, color="0.4", linewidth=1)
    axes[0].annotate("least\npossible", (1.01, LEAST_ERROR), xycoords=("axes fraction", "data"), va="center", color="0.3")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0].set(ylabel="share of points misjudged", title=f"Mean of {len(values)} seeds, each with data of its own")
    axes[1].set(ylabel="cross-entropy (nats)", yscale="log", ylim=(1e-3, None), title="The same, as the net is trained: by cross-entropy")
    axes[0].legend(frameon=False, fontsize=9)
    return figure
