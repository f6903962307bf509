"""Minibatches: steps on a few examples reach a given loss sooner than steps on all examples.

A small net on scikit-learn's digits, plain gradient descent, batches of one example up to all 1,079. Each batch size has the learning
rate that reaches the target loss soonest. Measured are the examples seen, and the seconds of one run trained alone.
"""

import time
from typing import NamedTuple

import jax
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np

import funcnet as fn
from experiments import report
from experiments.digits_sweep import digits, error
from funcnet import plot

AIM = 0.2  # training loss
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
BATCHES = {1: 5000, 8: 2000, 64: 600, None: 300}  # batch size (None for all examples): number of steps
QUICK = {1: 3000, 32: 600, None: 300}


class Measured(NamedTuple):
    """One batch size at its best learning rate."""

    name: str
    rate: float
    examples: np.ndarray  # (evaluations,), seen so far
    seconds: np.ndarray  # (evaluations,), since the first step
    loss: np.ndarray  # (seeds, evaluations), training loss
    error: np.ndarray  # (seeds,), share of new digits misread at the end
    reached: np.ndarray  # (seeds,), index of the first evaluation at or below the target loss


def recipe(learning_rate: float) -> fn.Training:
    return fn.training(fn.mlp((32, 10)), fn.cross_entropy, fn.sgd(learning_rate), in_shape=(64,), metrics={"error": error})


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    key = jax.random.key(seed)
    data = digits(key)
    batches, seeds = (QUICK, 4) if quick else (BATCHES, 10)
    measured = [measure(data, size, steps, seeds, key) for size, steps in batches.items()]
    return report.Outcome([fewer_examples(measured), less_time(measured), as_accurate(measured)], {"loss": draw(measured)})


def measure(data: fn.Split, batch_size: int | None, steps: int, seeds: int, key: jax.Array) -> Measured:
    result = fn.sweep(
        recipe,
        fn.grid(learning_rate=RATES),
        data,
        key=key,
        num_steps=steps,
        batch_size=batch_size,
        eval_every=steps // 60,
        replicates=seeds,
        progress=False,
    )
    loss = result.curves["train/loss"].reshape(len(RATES), seeds, -1)
    there = np.nan_to_num(loss, nan=np.inf) <= AIM
    reached = np.where(there.any(-1), there.argmax(-1), np.inf)
    best = int(np.argmin(reached.mean(1)))
    if not there[best].any(-1).all():
        raise RuntimeError(f"batches: every seed must get to a loss of {AIM}, and batch size {batch_size} doesn't; give it more steps")
    step, size = result.curves["step"], batch_size or len(data.train.y)
    seconds = step * seconds_a_step(data, batch_size, min(steps, 1000), key)
    ended = result.table["validation/error"].reshape(len(RATES), seeds)[best]
    return Measured(f"{size:,}", RATES[best], step * size, seconds, loss[best], ended, reached[best].astype(int))


def seconds_a_step(data: fn.Split, batch_size: int | None, steps: int, key: jax.Array) -> float:
    """Seconds per step of one compiled run: the least of five timings, since disturbances only make a timing longer."""
    run = jax.jit(lambda key: fn.fit(recipe(0.1), data.train, key=key, num_steps=steps, batch_size=batch_size)).lower(key).compile()
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(run(key))
        taken.append(time.perf_counter() - began)
    return min(taken) / steps


def fewer_examples(measured: list[Measured]) -> report.Finding:
    *minibatches, whole = (m.examples[m.reached] for m in measured)
    shares = [report.interval(few / whole) for few in minibatches]
    return report.Finding(
        f"Every size of minibatch gets to a training loss of {AIM} after fewer examples than the whole set.",
        all(share.high < 1 for share in shares),
        {
            **{f"examples, {m.name} a step": report.interval(m.examples[m.reached]) for m in measured},
            **{f"share of the whole set's, {m.name} a step": share for m, share in zip(measured, shares, strict=False)},
            **{f"learning rate, {m.name} a step": m.rate for m in measured},
        },
        "Seeds draw first weights and minibatches; the digits are split once.",
    )


def less_time(measured: list[Measured]) -> report.Finding:
    *minibatches, whole = (m.seconds[m.reached] for m in measured)
    fastest = min(minibatches, key=np.mean)
    share = report.interval(fastest / whole)
    return report.Finding(
        f"The best size of minibatch gets to a training loss of {AIM} in less time than the whole set.",
        share.high < 1,
        {
            **{f"milliseconds, {m.name} a step": report.interval(1000 * m.seconds[m.reached]) for m in measured},
            "share of the whole set's time": share,
        },
        "Depends on the machine: the more it does at once, the less a large batch costs.",
    )


def as_accurate(measured: list[Measured]) -> report.Finding:
    *minibatches, whole = (m.error for m in measured)
    more = [report.interval(few - whole) for few in minibatches]
    return report.Finding(
        "Minibatches lose little accuracy: at the end each size misreads at most one new digit in a hundred more than the whole set.",
        all(interval.high < 0.01 for interval in more),
        {
            **{f"error on new digits, {m.name} a step": report.interval(m.error) for m in measured},
            **{f"more than the whole set, {m.name} a step": interval for m, interval in zip(measured, more, strict=False)},
        },
        "At the learning rate that is fastest. Each ends after the steps it was given: "
        + ", ".join(f"{m.examples[-1]:,} examples for {m.name} a step" for m in measured)
        + ".",
    )


def draw(measured: list[Measured]) -> matplotlib.figure.Figure:
    figure, (by_examples, by_seconds) = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for i, m in enumerate(measured):
        mean, low, high = np.array([report.interval(values) for values in m.loss.T]).T
        for ax, x in ((by_examples, m.examples), (by_seconds, 1000 * m.seconds)):
            style = dict(color=plot.COLOURS[i], linestyle=plot.LINES[i], marker=plot.MARKERS[i], markevery=6)
            ax.plot(x, mean, linewidth=2, label=f"{m.name} example{'s' if m.name != '1' else ''}", **style)
            ax.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    for ax, label in ((by_examples, "examples seen"), (by_seconds, "milliseconds of training")):
        ax.axhline(AIM, color="k", linestyle=":", linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel=label, ylim=(0.02, 3))
    by_examples.set_ylabel("training loss")
    by_examples.text(0.02, AIM, "aimed at", va="bottom", transform=by_examples.get_yaxis_transform())
    by_seconds.legend(title="each step sees", frameon=False, loc="upper right")
    figure.suptitle(f"each batch size at its own best learning rate; mean of {len(measured[0].error)} seeds and its 95% interval")
    return figure
