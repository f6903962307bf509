"""Activations: without one a net is a line; any differentiable one bends it enough for XOR and two moons.

The same small net is trained with each activation, with none (identity), with a custom one, and with a step function. funcnet refuses
a step, so it is written by hand as a layer. Each activation has the learning rate with the lowest training loss.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.ticker import PercentFormatter
from sklearn.datasets import make_moons

import funcnet as fn
from experiments import report
from funcnet import plot

SHOWN = ("identity", "relu", "tanh", "snake", "step")  # a quick run trains only these, since each one compiles a program
NOT_BENT = ("identity", "step")


def snake(x: jax.Array) -> jax.Array:
    """A custom activation: a line with a wave on it (Ziyin, Hartwig and Ueda, 2020)."""
    return x + jnp.sin(x) ** 2


def step(x: jax.Array) -> jax.Array:
    """A step function: 1 above zero, else 0."""
    return jnp.where(x > 0, 1.0, 0.0).astype(x.dtype)


FUNCTIONS = {**fn.ACTIVATIONS, "snake": snake, "step": step}
FORCED = fn.Layer(init=lambda key, in_shape: (), apply=lambda params, x, *, key=None: step(x))  # fn.activation(step) is refused


def model(activation: str) -> fn.Layer:
    return fn.serial(fn.dense(8), FORCED if activation == "step" else fn.activation(FUNCTIONS[activation]), fn.dense(1))


def recipe(activation: str, learning_rate: float) -> fn.Training:
    return fn.training(model(activation), fn.binary_cross_entropy, fn.adam(learning_rate), in_shape=(2,), metrics=["accuracy"])


def problems(seed: int) -> dict[str, fn.Split]:
    """XOR (four noisy corners; opposite ones have the same class) and two moons: each 200 points to train on and 1,000 new ones."""
    corners = np.tile([[1, 1], [-1, 1], [-1, -1], [1, -1]], (300, 1))
    xor = corners + np.random.default_rng(seed).normal(0, 0.3, corners.shape), (corners.prod(1) > 0).astype(int)
    moons = make_moons(1200, noise=0.15, random_state=seed)
    return {
        name: fn.Split(fn.Dataset(x[:200], y[:200]), fn.Dataset(x[200:], y[200:]))
        for name, (x, y) in zip(("XOR", "two moons"), (xor, moons))
    }


def trained(quick: bool, seed: int) -> dict[str, fn.SweepResult]:
    steps, seeds, names = (500, 8, SHOWN) if quick else (2000, 32, tuple(FUNCTIONS))
    variants, key = fn.grid(activation=names, learning_rate=[0.003, 0.01, 0.03, 0.1]), jax.random.key(seed)
    settings = dict(key=key, num_steps=steps, batch_size=None, replicates=seeds, progress=False)
    return {name: fn.sweep(recipe, variants, data, **settings) for name, data in problems(seed).items()}


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    results, data = trained(quick, seed), problems(seed)
    lines = {name: best_line(split.validation) for name, split in data.items()}
    findings = [stays_a_line(results, lines), bends(results, lines), needs_a_gradient(results, data)]
    pictures = {"functions": draw_functions(), "accuracy": draw_accuracy(results, lines), "boundaries": draw_boundaries(results, data)}
    return report.Outcome(findings, pictures)


def rows(result: fn.SweepResult, activation: str) -> np.ndarray:
    """The rows of an activation, one per seed, at the learning rate with the lowest mean training loss."""
    return report.best_rows(result, "train/loss", activation=activation)


def accuracy(result: fn.SweepResult, activation: str) -> np.ndarray:
    """Accuracy on new points, one value per seed."""
    return result.table["validation/accuracy"][rows(result, activation)]


def best_line(data: fn.Dataset) -> float:
    """The largest accuracy of any straight boundary, found by trying 720 directions and every place to cut."""
    angles = np.linspace(0, np.pi, 720, endpoint=False)
    order = np.argsort(data.x @ np.stack([np.cos(angles), np.sin(angles)]), axis=0)
    sides = np.cumsum(2 * data.y[order] - 1, axis=0)  # points of class 1 minus points of class 0, on the near side of each cut
    return float(max((data.y == 0).sum() + sides.max(), (data.y == 1).sum() - sides.min()) / len(data.y))


def stays_a_line(results: dict[str, fn.SweepResult], lines: dict[str, float]) -> report.Finding:
    best = {
        name: float(result.table["validation/accuracy"][result.table["activation"] == "identity"].max()) for name, result in results.items()
    }
    return report.Finding(
        "Without activation no run, at any learning rate, is right more often than the best straight line",
        all(best[name] <= lines[name] for name in results),
        {f"{name}: {what}": value[name] for name in results for what, value in (("best run", best), ("best line", lines))},
        "A line that cuts off one corner of XOR is right about three quarters; training, by cross-entropy, doesn't come near it.",
    )


def bends(results: dict[str, fn.SweepResult], lines: dict[str, float]) -> report.Finding:
    names = [name for name in dict.fromkeys(results["XOR"].table["activation"].tolist()) if name not in NOT_BENT]
    scores = {(name, activation): report.interval(accuracy(result, activation)) for name, result in results.items() for activation in names}
    return report.Finding(
        "The same net, bent by any activation, beats the best straight line on XOR and on two moons",
        all(score.low > lines[name] for (name, _), score in scores.items()),
        {f"{name}: accuracy on new points with {activation}": score for (name, activation), score in scores.items()},
        "8 hidden neurons. The means hide single seeds of relu and leaky_relu that stop at a straighter boundary: see the picture.",
    )


def needs_a_gradient(results: dict[str, fn.SweepResult], data: dict[str, fn.Split]) -> report.Finding:
    fn.check_activation(snake)
    try:
        refused = "no: it was accepted"
        fn.check_activation(step)
    except ValueError as error:
        refused = str(error)
    norms = {name: hidden_gradient(results["XOR"], name, data["XOR"].train) for name in ("step", "tanh")}
    behind = {name: report.interval(accuracy(result, "step") - accuracy(result, "tanh")) for name, result in results.items()}
    return report.Finding(
        "A step is refused, and where it is forced in no error travels back: only the last layer learns",
        "differentiable" in refused and norms["step"] == 0 and norms["tanh"] > 0 and all(each.high < 0 for each in behind.values()),
        {
            "refused": refused,
            "largest gradient of any hidden weight, with a step": norms["step"],
            "with tanh": norms["tanh"],
            **{f"{name}: accuracy with a step minus with tanh, same initial weights": each for name, each in behind.items()},
        },
        "The hidden layer stays as it was drawn: 8 edges through the origin, of which the last layer makes what it can.",
    )


def hidden_gradient(result: fn.SweepResult, activation: str, data: fn.Dataset) -> float:
    """The largest gradient of any hidden weight at the end of training, over all seeds."""
    gradient = jax.jit(jax.grad(fn.penalized(model(activation), fn.binary_cross_entropy)))
    return max(float(jnp.abs(gradient(result.state(row).params, data)[0]["weight"]).max()) for row in rows(result, activation))


def draw_functions() -> plt.Figure:
    figure, axes = plt.subplots(3, 5, figsize=(12, 7), sharex=True, sharey=True, layout="constrained")
    x = jnp.linspace(-4, 4, 401)
    for ax, (name, function) in zip(axes.flat, FUNCTIONS.items()):
        ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        ax.plot(x, function(x), color=plot.COLOURS[0], linewidth=2.2, label="function")
        ax.plot(x, jax.vmap(jax.grad(function))(x), color=plot.COLOURS[1], linewidth=2.2, linestyle="--", label="its derivative")
        ax.set(title={"snake": "snake (our own)", "step": "step (refused)"}.get(name, name), ylim=(-2, 4))
    for ax in axes.flat[len(FUNCTIONS) :]:
        ax.axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", frameon=False, fontsize=12)
    figure.supxlabel("what comes in: x")
    figure.supylabel("what goes out: f(x)")
    return figure


def draw_accuracy(results: dict[str, fn.SweepResult], lines: dict[str, float]) -> plt.Figure:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), sharex=True, sharey=True, layout="constrained")
    for ax, (name, result) in zip(axes, results.items()):
        names = sorted(list(dict.fromkeys(result.table["activation"].tolist()))[::-1], key=lambda name: name not in NOT_BENT)
        for place, activation in enumerate(names):
            each = accuracy(result, activation)
            mean, low, high = report.interval(each)
            colour = plot.COLOURS[1] if activation in NOT_BENT else plot.COLOURS[0]
            ax.scatter(each, np.full(len(each), place), s=14, color="0.7", zorder=1)
            ax.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, capsize=4, markersize=7, zorder=2)
        ax.axvline(lines[name], color="black", linestyle="--", linewidth=1.2, label="best of any straight line")
        ax.set(title=name, xlabel="accuracy on new points", yticks=range(len(names)), yticklabels=names)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
    figure.suptitle(f"The same net with each activation: mean of {len(each)} seeds, grey: each seed")
    return figure


def draw_boundaries(results: dict[str, fn.SweepResult], data: dict[str, fn.Split]) -> plt.Figure:
    figure, axes = plt.subplots(2, len(SHOWN), figsize=(13, 5.6), layout="constrained")
    for across, (name, result) in zip(axes, results.items()):
        x, y = data[name].train
        low, high = x.min(0) - 0.4, x.max(0) + 0.4
        side_x, side_y = (np.linspace(*ends, 150, dtype=np.float32) for ends in zip(low, high))
        plane = np.stack(np.meshgrid(side_x, side_y))
        for ax, activation in zip(across, SHOWN):
            own = rows(result, activation)
            median = own[np.argsort(result.table["validation/accuracy"][own])[len(own) // 2]]
            logits = fn.apply_batch(model(activation), result.state(median).params, plane.reshape(2, -1)).reshape(150, 150)
            ax.contourf(side_x, side_y, logits > 0, levels=[-0.5, 0.5, 1.5], cmap=ListedColormap(plot.COLOURS[:2]), alpha=0.25)
            for label, (colour, marker) in enumerate(zip(plot.COLOURS, plot.MARKERS[:2])):
                ax.scatter(*x[y == label].T, s=12, color=colour, marker=marker, linewidth=0)
            ax.set(title=f"{activation}: {result.table['validation/accuracy'][median]:.0%}", xticks=[], yticks=[])
        across[0].set_ylabel(name)
    figure.suptitle("Where each net draws the boundary (its median seed), and its accuracy on new points")
    return figure
