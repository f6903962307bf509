"""Hypergradient: the validation loss, differentiated through a whole training run, improves learning rate and L2 strength.

A small net trains on 200 of scikit-learn's digits. `fit` is a pure function, so `jax.grad` gives the derivative of the final loss with
respect to the logarithms of both hyperparameters, through every training step.
"""

import jax
import jax.numpy as jnp
import matplotlib.colors
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, NullLocator

import funcnet as fn
from experiments import report
from experiments.digits_sweep import digits
from funcnet import plot

STEPS = 60  # of each training run
# Lowest and highest learning rate and L2 strength, as logarithms: [[lowest rate, lowest L2], [highest rate, highest L2]].
STARTS = np.log([[1e-3, 1e-4], [0.1, 0.1]])
SEARCHED = np.log([[1e-3, 1e-6], [1.0, 0.1]])  # random search covers all that the descent reaches


def recipe(learning_rate: jax.Array, l2: jax.Array) -> fn.Training:
    """A net with tanh, since relu has a corner where it can't be differentiated."""
    model = fn.mlp((32, 10), "tanh")
    return fn.training(model, fn.cross_entropy, fn.momentum(learning_rate), in_shape=(64,), penalty=fn.l2(l2))


def losses(log: jax.Array, key: jax.Array, data: fn.Split) -> tuple[jax.Array, jax.Array]:
    """The final losses of a training run: on the validation part, and on the test part, which is used for no choice."""
    training = recipe(*jnp.exp(log))
    fit = fn.fit(training, data, key=key, num_steps=STEPS, batch_size=32)
    return fit.curves["validation/loss"][-1], training.evaluate(fit.state, data.test)["loss"]


hypergradient = jax.jit(jax.vmap(jax.value_and_grad(losses, has_aux=True)))  # for all seeds at once


def improved(log: jax.Array, keys: jax.Array, data: fn.Split, rounds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Descends the hypergradient with Adam from each seed's start: the path, (rounds, seeds, 2), and both losses, (rounds, seeds)."""
    optimizer = fn.adam(0.15)
    state, path, validation, test = optimizer.init(log), [], [], []
    for _ in range(rounds):
        (on_validation, on_test), gradient = hypergradient(log, keys, data)
        path.append(log)
        validation.append(on_validation)
        test.append(on_test)
        updates, state = optimizer.update(gradient, state)
        log = fn.apply_updates(log, updates)
    return np.array(path), np.array(validation), np.array(test)


def searched(points: jax.Array, keys: jax.Array, data: fn.Split) -> tuple[np.ndarray, np.ndarray]:
    """Both losses of every seed at every point, each (points, seeds); infinite where training diverges."""
    found = [hypergradient(jnp.tile(point, (len(keys), 1)), keys, data)[0] for point in points]  # its program is compiled already
    return tuple(np.nan_to_num(np.array(losses), nan=np.inf) for losses in zip(*found, strict=True))


def drawn(seeds: int, seed: int) -> tuple[jax.Array, jax.Array, fn.Split]:
    """For each seed: its start, its key, and its split of the digits."""
    keys = jax.random.split(jax.random.key(seed), seeds)
    splits = [digits(key) for key in keys]
    splits = [fn.Split(fn.Dataset(*(part[:200] for part in train)), *rest) for train, *rest in splits]
    start = jax.vmap(lambda key: jax.random.uniform(key, (2,), minval=STARTS[0], maxval=STARTS[1]))(keys)
    return start, keys, jax.tree.map(lambda *parts: np.stack(parts), *splits)


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    seeds, rounds = (8, 20) if quick else (16, 50)
    with jax.enable_x64(True):  # central differences need float64
        start, keys, data = drawn(seeds, seed)
        path, validation, test = improved(start, keys, data, rounds)
        points = jax.random.uniform(jax.random.key(seed), (3 * rounds, 2), minval=SEARCHED[0], maxval=SEARCHED[1])
        random = searched(points, keys, data)
        agrees = agrees_with_differences(start, keys, data)
    return report.Outcome(
        [agrees, improves(path, validation, test), beats_random_search(test, random)],
        {"improvement": draw(path, validation, test, np.asarray(points), random)},
    )


def agrees_with_differences(log: jax.Array, keys: jax.Array, data: fn.Split, width: float = 1e-4) -> report.Finding:
    """Compares with fourth-order central differences in both hyperparameters, whose error falls with the fourth power of width."""
    gradient = hypergradient(log, keys, data)[1]
    far, ahead, behind, back = (
        jnp.stack([hypergradient(log + move[None], keys, data)[0][0] for move in way * jnp.eye(2)], 1)
        for way in (2 * width, width, -width, -2 * width)
    )
    difference = (8 * (ahead - behind) - (far - back)) / (12 * width)
    off = float(jnp.max(jnp.abs(gradient - difference) / jnp.abs(difference)))
    return report.Finding(
        f"The derivative through all {STEPS} steps is that of central differences, to six digits.",
        off < 1e-6,
        {"largest relative difference": off, "of derivatives": difference.size},
        "In float64: in float32 a difference of two losses has no six digits.",
    )


def improves(path: np.ndarray, validation: np.ndarray, test: np.ndarray) -> report.Finding:
    lower = report.interval(1 - test[-1] / test[0])
    start, end = np.exp(path[0]), np.exp(path[-1])
    return report.Finding(
        "Descending the hypergradient improves both hyperparameters: the loss on digits that nothing was chosen by ends lower than it started.",
        lower.low > 0,
        {
            "validation loss at the start": report.interval(validation[0]),
            "validation loss at the end": report.interval(validation[-1]),
            "test loss lower by (share), paired over seeds": lower,
            "seeds whose validation loss fell": f"{np.sum(validation[-1] < validation[0])} of {len(start)}",
            "learning rates at the start": f"{start[:, 0].min():.2g} to {start[:, 0].max():.2g}",
            "learning rates at the end": f"{end[:, 0].min():.2g} to {end[:, 0].max():.2g}",
            "L2 strengths at the start": f"{start[:, 1].min():.2g} to {start[:, 1].max():.2g}",
            "L2 strengths at the end": f"{end[:, 1].min():.2g} to {end[:, 1].max():.2g}",
        },
        f"Depends on {len(path)} rounds of Adam on the logarithms, and on training runs short enough ({STEPS} steps) to be no chaos.",
    )


def beats_random_search(test: np.ndarray, random: tuple[np.ndarray, np.ndarray]) -> report.Finding:
    """Random search gets three training runs for each gradient, which costs about as much."""
    chosen = np.argmin(random[0], axis=0)
    best = np.take_along_axis(random[1], chosen[None], 0)[0]
    lower = report.interval(best - test[-1])
    return report.Finding(
        f"That descent ends lower than the best of {len(random[0])} random draws, which cost as much.",
        lower.low > 0,
        {"test loss of random search": report.interval(best), "of the descent": report.interval(test[-1]), "lower by, paired": lower},
        "Two hyperparameters are few: random search covers a plane, and not a space of many dimensions.",
    )


def draw(path: np.ndarray, validation: np.ndarray, test: np.ndarray, points: np.ndarray, random: tuple) -> matplotlib.figure.Figure:
    figure, (plane, rounds) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    surface = np.minimum(random[0].mean(1), 3)  # cut off where training is worse than guessing or diverges
    levels = np.geomspace(surface.min(), surface.max(), 12)
    shade = plane.tricontourf(*np.exp(points).T, surface, levels=levels, cmap="Greys", norm=matplotlib.colors.LogNorm())
    bar = figure.colorbar(shade, ax=plane, label="validation loss, mean over the seeds", format="%.2g")
    bar.set_ticks(levels[::2])
    for seed in range(path.shape[1]):
        plane.plot(*np.exp(path[:, seed]).T, color=plot.COLOURS[1], linewidth=1.3)
    plane.plot(*np.exp(path[0]).T, "o", color="white", markeredgecolor=plot.COLOURS[0], markeredgewidth=1.8, label="start")
    plane.plot(*np.exp(path[-1]).T, "^", color=plot.COLOURS[0], markersize=9, label="end")
    plane.set(
        xscale="log", yscale="log", xlabel="learning rate", ylabel="L2 strength", title=f"{path.shape[1]} seeds, each from its own start"
    )
    plane.legend(loc="lower left")
    for losses, label, style in ((validation, "validation: descended", "-"), (test, "test: nothing is chosen by it", "--")):
        mean, low, high = np.array([report.interval(values) for values in losses]).T
        colour = plot.COLOURS[1 if style == "-" else 2]
        rounds.plot(mean, style, color=colour, linewidth=2.2, label=label)
        rounds.fill_between(range(len(mean)), low, high, color=colour, alpha=0.2, linewidth=0)
    rounds.set(xlabel="steps of hyperparameter descent", ylabel="loss after training", yscale="log", title="mean and its 95% interval")
    rounds.yaxis.set_major_locator(FixedLocator([0.2, 0.3, 0.5, 1, 2]))
    rounds.yaxis.set_major_formatter("{x:g}")
    rounds.yaxis.set_minor_locator(NullLocator())
    rounds.legend(frameon=False)
    return figure
