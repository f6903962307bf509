"""Regression: a net of ten relus fits a noisy parabola.

A hundred points y = x^2 + noise; one hidden layer; gradient descent on the squared error of all points at once. Each seed has
different points and initial weights.
"""

import jax
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
from sklearn import metrics

import funcnet as fn
from experiments import report
from funcnet import plot

POINTS, NOISE = 100, 0.1  # noise: standard deviation, in units of y
NET, LINE = (10, 1), (1,)  # widths; a net without hidden neurons is a straight line
SHOWN = (1, 20, 100, 1000)  # steps after which the fit is drawn
SCORES = {  # name of the metric: scikit-learn's function of (targets, predictions)
    "mean_squared_error": metrics.mean_squared_error,
    "mean_absolute_error": metrics.mean_absolute_error,
    "median_absolute_error": metrics.median_absolute_error,
    "r2": metrics.r2_score,
}


def recipe(widths: tuple[int, ...] = NET) -> fn.Training:
    return fn.training(fn.mlp(widths), fn.squared_error, fn.sgd(0.2), in_shape=(1,), metrics=list(SCORES))


def parabola(key: jax.Array, points: int) -> fn.Dataset:
    x_key, noise_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (points, 1), minval=-1, maxval=1)
    return fn.Dataset(x, x**2 + NOISE * jax.random.normal(noise_key, (points, 1)))


def drawn(key: jax.Array) -> fn.Split:
    """One seed's training points, and 2,000 new ones to measure the error."""
    train_key, new_key = jax.random.split(key)
    return fn.Split(parabola(train_key, POINTS), parabola(new_key, 2000))


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    seeds, steps = (20, 1000) if quick else (100, 3000)
    keys = jax.random.split(jax.random.key(seed), seeds)

    def curves(widths: tuple[int, ...]) -> dict[str, np.ndarray]:
        def one(key: jax.Array) -> fn.Fit:
            return fn.fit(recipe(widths), drawn(key), key=key, num_steps=steps, batch_size=None, eval_every=10)

        return jax.device_get(jax.jit(jax.vmap(one))(keys).curves)

    net, line = curves(NET), curves(LINE)
    # Variants share their randomness, so these four are stages of the same training run.
    stops = fn.sweep(recipe, fn.grid(num_steps=SHOWN), drawn(keys[0]), key=keys[0], num_steps=1, batch_size=None, progress=False)
    return report.Outcome(
        [beats_a_line(net, line), little_but_noise_is_left(net, keys), agrees_with_scikit_learn(stops, drawn(keys[0]).validation)],
        {"fit": draw_fit(stops, drawn(keys[0]).train), "error": draw_error(net, line)},
    )


def beats_a_line(net: dict[str, np.ndarray], line: dict[str, np.ndarray]) -> report.Finding:
    net_error, line_error = net["validation/loss"][:, -1], line["validation/loss"][:, -1]
    less = report.interval(line_error - net_error)
    return report.Finding(
        "The net bends: its mean squared error on new points is below a straight line's.",
        less.low > 0,
        {"straight line": report.interval(line_error), "net": report.interval(net_error), "less by, paired over seeds": less},
    )


def little_but_noise_is_left(net: dict[str, np.ndarray], keys: jax.Array) -> report.Finding:
    """Compares the error with the noise's variance, below which no function of x can get on average."""
    excess = net["validation/loss"][:, -1] / NOISE**2 - 1
    near = report.interval(excess <= 0.25)
    return report.Finding(
        "It bends far enough: in four seeds of five the net's squared error on new points ends within a quarter of the noise's variance.",
        near.low >= 0.8,
        {
            "share of seeds within a quarter": near,
            "excess over the noise's variance, median seed": float(np.median(excess)),
            "excess, worst seed": float(np.max(excess)),
            "excess of a parabola fitted by least squares": report.interval([excess_of_a_parabola(drawn(key)) for key in keys]),
        },
        f"Depends on {POINTS} points and {net['step'][0, -1]} steps; where all relus of one side have died, the net can't bend there and stays far off.",
    )


def excess_of_a_parabola(data: fn.Split) -> float:
    """The excess error of a least-squares parabola, which knows the form of the curve and fits only three numbers."""
    fitted = np.polyfit(data.train.x[:, 0], data.train.y[:, 0], 2)
    return float(np.mean((np.polyval(fitted, data.validation.x) - data.validation.y) ** 2)) / NOISE**2 - 1


def agrees_with_scikit_learn(stops: fn.SweepResult, new: fn.Dataset) -> report.Finding:
    """Compares every regression metric with scikit-learn's on the same predictions."""
    last = len(SHOWN) - 1
    said = jax.vmap(fn.mlp(NET).apply, (None, 0))(stops.state(last).params, new.x)
    own = {name: float(stops.table[f"validation/{name}"][last]) for name in SCORES}
    theirs = {name: float(score(new.y, said)) for name, score in SCORES.items()}
    largest = max(abs(own[name] - theirs[name]) for name in SCORES)
    return report.Finding(
        "funcnet's scores of a regression are scikit-learn's, to five digits.",
        largest < 1e-5,
        {**own, "largest difference": largest},
    )


def draw_fit(stops: fn.SweepResult, points: fn.Dataset) -> matplotlib.figure.Figure:
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(12, 3.6), sharex=True, sharey=True, layout="constrained")
    x = np.linspace(-1, 1, 200, dtype=np.float32)[:, None]
    for row, ax in enumerate(axes):
        ax.scatter(points.x, points.y, s=14, color="0.6", linewidth=0, label="points")
        ax.plot(x, x**2, color="k", linestyle=":", label="true curve, y = x²")
        fitted = jax.vmap(fn.mlp(NET).apply, (None, 0))(stops.state(row).params, x)
        ax.plot(x, fitted, color=plot.COLOURS[1], linewidth=2.5, label="net of 10 relus")
        steps, error = SHOWN[row], stops.table["validation/loss"][row]
        ax.set_title(f"after {steps} step{'s' if steps > 1 else ''}\nsquared error {error:.3f}")
    axes[0].set_ylabel("y")
    figure.supxlabel("x")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False)
    return figure


def draw_error(net: dict[str, np.ndarray], line: dict[str, np.ndarray]) -> matplotlib.figure.Figure:
    figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for name, curves, colour, style in (("straight line", line, plot.COLOURS[0], "--"), ("net of 10 relus", net, plot.COLOURS[1], "-")):
        mean, low, high = np.array([report.interval(values) for values in curves["validation/loss"].T]).T
        ax.plot(curves["step"][0], mean, style, color=colour, linewidth=2.2, label=name)
        ax.fill_between(curves["step"][0], low, high, color=colour, alpha=0.25, linewidth=0)
    ax.axhline(NOISE**2, color="k", linestyle=":", label="variance of the noise: the least possible")
    ax.set(xscale="log", yscale="log", xlabel="steps (all 100 points each)", ylabel="squared error on new points")
    ax.set_title(f"mean of {len(net['step'])} seeds and its 95% interval")
    ax.legend(frameon=False)
    return figure
