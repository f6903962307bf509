"""Overfitting in regression: a net that passes through every point misses the new ones.

Points lie around a line. A straight line and a net wide enough to pass through every point are fitted by the same optimizer to 12
points, which each seed draws separately. As a control, the same is done without noise, where there is nothing to overfit.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import funcnet as fn
from experiments import report
from experiments.redrawn import DrawFn, drawn, numbered, redrawn
from funcnet import plot

POINTS, NOISE = 12, 0.3  # noise: standard deviation around the line
MODELS = {"straight line": (1,), "net": (100, 100, 1)}
GIVEN = numbered(np.linspace(-1, 1, POINTS)[:, None], np.linspace(-1, 1, 200)[:, None])  # the points' x


def model(name: str) -> fn.Layer:
    return fn.mlp(MODELS[name], "tanh")


def point(noise: float) -> DrawFn:
    return lambda key, x: (x, x / 2 + noise * jax.random.normal(key, (1,)))


def recipe(name: str, noise: float) -> fn.Training:
    return redrawn(fn.training(model(name), fn.squared_error, fn.adam(0.01), in_shape=(1,)), point(noise))


def trained(quick: bool, seed: int) -> fn.SweepResult:
    variants = fn.grid(name=list(MODELS), noise=[NOISE, 0.0])
    steps, seeds = (2000, 16) if quick else (4000, 64)
    key = jax.random.key(seed)
    return fn.sweep(recipe, variants, GIVEN, key=key, num_steps=steps, batch_size=None, eval_every=10, replicates=seeds, progress=False)


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    result = trained(quick, seed)
    return report.Outcome(findings(result), {"curves": draw(result)})


def curves(result: fn.SweepResult, name: str, part: str, noise: float = NOISE) -> np.ndarray:
    """A model's loss over training, shape (seeds, evaluations)."""
    rows = (result.table["name"] == name) & np.isclose(result.table["noise"], noise)
    return result.curves[f"{part}/loss"][rows]


def findings(result: fn.SweepResult) -> list[report.Finding]:
    points, new = curves(result, "net", "train"), curves(result, "net", "validation")
    line_points, line_new = curves(result, "straight line", "train"), curves(result, "straight line", "validation")
    clean = curves(result, "net", "validation", noise=0.0)[:, -1]
    turn = new[::2].mean(0).argmin()  # half of the seeds choose where to stop, the others measure the gain
    rise = report.interval(new[1::2, -1] - new[1::2, turn])
    fall = report.interval(points[1::2, -1] - points[1::2, turn])
    worse, closer = report.interval(new[:, -1] - line_new[:, -1]), report.interval(line_points[:, -1] - points[:, -1])
    return [
        report.Finding(
            "A net's error on its points keeps falling while its error on new ones rises",
            rise.low > 0 and fall.high < 0,
            {
                "steps at which the error on new points is least": int(result.curves["step"][turn]),
                "change of the squared error on its points from there to the end": fall,
                "change of the squared error on new points": rise,
            },
            f"Points off the line by {NOISE} (standard deviation); a net that stops at the turn has not overfitted.",
        ),
        report.Finding(
            "The net comes closer to its points than a straight line, and less close to new ones",
            closer.low > 0 and worse.low > 0,
            {
                "net's squared error on its points": report.interval(points[:, -1]),
                "straight line's": report.interval(line_points[:, -1]),
                "net's squared error on new points": report.interval(new[:, -1]),
                "straight line's on new points": report.interval(line_new[:, -1]),
                "net minus straight line on new points, same data": worse,
            },
            "The truth is a straight line here: on a truth that bends the line would miss it.",
        ),
        report.Finding(
            "Without noise the same net, trained as long, does not overfit",
            report.interval(clean).high < NOISE**2 / 100,
            {"net's squared error on new points": report.interval(clean)},
        ),
    ]


def draw(result: fn.SweepResult) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    x = jnp.linspace(-1, 1, 401)[None]  # examples last
    steps = result.curves["step"]
    for name, colour in zip(MODELS, plot.COLOURS):
        state = result.state(int(np.flatnonzero(result.table["name"] == name)[0]))
        y = fn.apply_batch(model(name), state.fitted.params, x)
        left.plot(x[0], y[0], color=colour, linestyle="--" if name == "straight line" else "-", linewidth=2, label=f"{name} fitted to them")
        for part, style, words in (("train", ":", "on its 12 points"), ("validation", "-", "on new points")):
            report.band(right, steps, curves(result, name, part), color=colour, linestyle=style, label=f"{name} {words}")
    points, new = (drawn(point(NOISE), state.data_key, part) for part in GIVEN[:2])
    left.scatter(new.x, new.y, s=12, color="0.65", label="new points", zorder=1)
    left.scatter(points.x, points.y, s=60, color="black", label="the 12 points to learn from", zorder=3)
    left.set(xlabel="x", ylabel="y", title="One seed's data and what was learned from it")
    left.legend(frameon=False, fontsize=9)
    right.axhline(NOISE**2, color="0.4", linewidth=1)
    right.annotate("the noise\nitself", (1.01, NOISE**2), xycoords=("axes fraction", "data"), va="center", color="0.3")
    right.set(xscale="log", ylim=(0, 0.3), xlabel="steps of training", ylabel="mean squared error (y squared)")
    right.set_title(f"Mean of {len(curves(result, 'net', 'train'))} seeds, each with data of its own")
    right.legend(frameon=False, fontsize=9)
    return figure
