"""Vanishing and exploding gradients: how deep a net can be depends on its activation and on the scale of its initial weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import funcnet as fn
from experiments import report
from funcnet import plot

WIDTH = 32
SHALLOW = (2, 3)
NEAR = 0.02  # share of the digits: activations that differ by less than this count as equal
FAR = 0.10
LEARNING_RATES = {  # by depth: deeper nets need smaller steps; most promising first
    2: [0.1, 0.3, 0.03],
    3: [0.1, 0.3, 0.03],
    10: [0.03, 0.1, 0.01],
    20: [0.01, 0.03, 0.003],
    50: [0.003, 0.01, 0.001],
}
DECADES = 3.0  # a gradient that differs from a shallow net's by this many powers of ten has vanished or exploded


def scaled(scale: Any) -> Callable:
    """Weights of standard deviation scale / sqrt(inputs); at scale 1 a linear layer keeps its input's size."""

    def initializer(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.asarray(scale, dtype) * jax.nn.initializers.lecun_normal()(key, shape, dtype)

    return initializer


def hidden(layers: int, activation: str, scale: Any) -> fn.Layer:
    """Hidden layers as one loop over stacked weights, which compiles as fast for fifty layers as for two."""
    bend, draw = fn.ACTIVATIONS[activation], scaled(scale)

    def init(key: jax.Array, in_shape: tuple[int, ...]) -> dict[str, jax.Array]:
        weight = jax.vmap(lambda key: draw(key, 2 * in_shape, jnp.result_type(float)))(jax.random.split(key, layers))
        return {"weight": weight, "bias": jnp.zeros((layers, *in_shape), weight.dtype)}

    def apply(params: dict[str, jax.Array], x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return jax.lax.scan(lambda x, own: (bend(own["weight"] @ x + own["bias"]), None), x, params)[0]

    return fn.Layer(init, apply)


def recipe(learning_rate: float, scale: float, activation: str, depth: int, choice: int) -> fn.Training:
    """A net with `depth` layers of weights. Variants are chosen by the first `choice` held-out digits; the rest are for the report."""
    first = [fn.dense(WIDTH, initializer=scaled(scale)), fn.activation(activation)]
    loop = [hidden(depth - 2, activation, scale)] if depth > 2 else []
    return fn.training(
        fn.serial(*first, *loop, fn.dense(10, initializer=scaled(scale))),
        fn.cross_entropy,
        fn.momentum(learning_rate),
        in_shape=(64,),
        metrics={
            "choice": lambda predictions, labels: fn.accuracy(predictions[:choice], labels[:choice]),
            "accuracy": lambda predictions, labels: fn.accuracy(predictions[choice:], labels[choice:]),
        },
    )


def layer_gradients(activation: str, depth: int, scales: np.ndarray, batch: fn.Dataset, keys: jax.Array) -> np.ndarray:
    """The norm of each layer's gradient before any training, shape (scales, seeds, layers)."""

    def norms(scale: jax.Array, key: jax.Array) -> jax.Array:
        model = fn.mlp((WIDTH,) * (depth - 1) + (10,), activation, initializer=scaled(scale))
        return fn.gradient_norms(model, model.init(key, (64,)), fn.cross_entropy, batch)

    each_seed = jax.vmap(norms, (None, 0))
    found = jax.jit(jax.vmap(each_seed, (0, None)))(jnp.asarray(scales, jnp.result_type(float)), keys)
    return np.maximum(found, np.finfo(np.float32).tiny)  # so that the logarithm of a zero is finite


def chosen(result: fn.SweepResult, activation: str, depth: int) -> np.ndarray:
    """The rows, one per seed, of the learning rate and scale that read the most digits of the part held out for choosing."""
    return report.best_rows(result, "validation/choice", "max", activation=activation, depth=depth)


def run(quick: bool, seed: int) -> report.Outcome:
    activations = ("tanh", "sigmoid") if quick else ("relu", "tanh", "sigmoid", "arctan_sigmoid")
    depths = (2, 10) if quick else (2, 3, 10, 20, 50)
    scales = np.geomspace(0.5, 8, 5 if quick else 9)  # includes 1 (no scaling) and, unless quick, 1.41, which suits relu
    seeds, steps = (4, 120) if quick else (5, 300)
    data_key, sweep_key, gradient_key = jax.random.split(jax.random.key(seed), 3)
    x, y = load_digits(return_X_y=True)
    data = fn.split(fn.Dataset(x / 8 - 1, y), key=data_key, validation=0.4)

    batch = fn.Dataset(jnp.asarray(data.train.x[:256]), jnp.asarray(data.train.y[:256]))
    keys = jax.random.split(gradient_key, 2 * seeds)
    shallow, deep = (
        {activation: layer_gradients(activation, depth, scales, batch, keys) for activation in activations} for depth in (2, depths[-1])
    )
    first_layers = {name: np.log10(deep[name][:, :, 0]) - np.log10(shallow[name][:, :, 0]) for name in activations}

    variants = fn.Variants([])
    for depth in depths:
        variants += fn.grid(
            learning_rate=LEARNING_RATES[depth][: 2 if quick else 3],
            scale=[1.0, 4.0] if quick else [1.0, 1.41, 2.0, 8.0],
            activation=activations,
            depth=[depth],
            choice=[len(data.validation.y) // 2],
        )
    result = fn.sweep(recipe, variants, data, key=sweep_key, num_steps=steps, batch_size=64, replicates=seeds, keep=1)
    accuracy = {(name, depth): result.table["validation/accuracy"][chosen(result, name, depth)] for name in activations for depth in depths}
    choice = {key: np.mean(result.table["validation/choice"][chosen(result, *key)]) for key in accuracy}

    findings = [_any_activation(accuracy, choice, activations, [depth for depth in SHALLOW if depth in depths])]
    findings += [_gradients(first_layers, scales, depths[-1]), _deep_accuracy(accuracy, choice, activations, depths[-1])]
    pictures = {"gradients": draw_gradients(deep, scales), "accuracy": draw_accuracy(accuracy, activations, depths)}
    return report.Outcome(findings, pictures)


def _any_activation(accuracy: dict, choice: dict, activations: tuple[str, ...], depths: list[int]) -> report.Finding:
    figures, holds = {}, True
    for depth in depths:
        best = max(activations, key=lambda name: choice[name, depth])
        figures[f"{depth} layers, {best} (best): share of digits read"] = report.interval(accuracy[best, depth])
        for name in activations:
            if name != best:
                behind = report.interval(accuracy[best, depth] - accuracy[name, depth])
                figures[f"{depth} layers, {name}: behind by"] = behind
                holds &= behind.high < NEAR
    return report.Finding(
        f"In a net of two or three layers any activation will do: all read within {NEAR:.0%} of as many digits",
        holds,
        figures,
        "Each activation at its own best learning rate and scale, found on other held-out digits; differences are paired by seed.",
    )


def _gradients(first_layers: dict[str, np.ndarray], scales: np.ndarray, depth: int) -> report.Finding:
    """Holds if some activation at scale 1 (careless) loses its gradients, and some activation at its best scale (careful) keeps them."""
    plain = int(np.argmin(np.abs(scales - 1)))
    careless = {name: report.interval(decades[plain]) for name, decades in first_layers.items()}
    figures: dict[str, Any] = {f"{name}, scale 1: powers of ten": decades for name, decades in careless.items()}
    kept = []
    for name, decades in first_layers.items():
        best = int(np.argmin(np.abs(decades.mean(1))))
        figures[f"{name}, at its best scale of {scales[best]:.2g}: powers of ten"] = report.interval(decades[best])
        kept.append(abs(decades[best].mean()) < 1)
        figures[f"{name}, scale {scales[-1]:.2g}: powers of ten"] = report.interval(decades[-1])
    lost = [decades.high < -DECADES or decades.low > DECADES for decades in careless.values()]
    return report.Finding(
        f"In a net of {depth} layers a careless activation makes gradients vanish or explode, by {DECADES:.0f} powers of ten or more",
        any(lost) and any(kept),
        figures,
        "The first layer's gradient against that of a net of two layers, before training. It depends on the scale of the first "
        "weights as much as on the activation: what vanishes at one scale may explode at another.",
    )


def _deep_accuracy(accuracy: dict, choice: dict, activations: tuple[str, ...], depth: int) -> report.Finding:
    best, worst = (pick(activations, key=lambda name: choice[name, depth]) for pick in (max, min))
    behind = report.interval(accuracy[best, depth] - accuracy[worst, depth])
    figures = {f"{name}: share of digits read": report.interval(accuracy[name, depth]) for name in activations}
    return report.Finding(
        f"In a net of {depth} layers not any activation will do: the worst reads at least {FAR:.0%} fewer digits than the best",
        behind.low > FAR,
        {**figures, f"{worst} behind {best} by": behind},
        "Plain layers trained by momentum for a few hundred steps; residual layers, normalisation or Adam shift the limits.",
    )


def draw_gradients(norms: dict[str, np.ndarray], scales: np.ndarray) -> Figure:
    figure, axes = plt.subplots(1, len(norms), figsize=(1.2 + 2.7 * len(norms), 3.6), sharey=True, layout="constrained", squeeze=False)
    for ax, (name, values) in zip(axes.flat, norms.items(), strict=True):
        decades = np.mean(np.log10(values), axis=1)
        layers = np.arange(1, decades.shape[1] + 1)
        image = ax.pcolormesh(layers, scales, decades, cmap="PuOr_r", vmin=-12, vmax=12, shading="nearest")
        ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
        ax.set(title=name.replace("_", " "), yscale="log", xlabel="layer (1 is the first)")
        ax.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        ax.set_yticks([], minor=True)
    axes.flat[0].set_ylabel("scale of the first weights")
    bar = figure.colorbar(image, ax=axes, label="gradient's norm (power of ten)", extend="both")
    bar.ax.text(0.5, 0.97, "explodes", transform=bar.ax.transAxes, ha="center", va="top", fontsize=7, rotation=90, color="white")
    bar.ax.text(0.5, 0.03, "vanishes", transform=bar.ax.transAxes, ha="center", va="bottom", fontsize=7, rotation=90, color="white")
    return figure


def draw_accuracy(accuracy: dict, activations: tuple[str, ...], depths: tuple[int, ...]) -> Figure:
    figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for i, name in enumerate(activations):
        means = [report.interval(accuracy[name, depth]) for depth in depths]
        low, high = ([abs(getattr(mean, end) - mean.mean) for mean in means] for end in ("low", "high"))
        places = np.array(depths) * 1.02 ** (i - len(activations) / 2)  # side by side, so that the bars can be seen
        style = dict(color=plot.COLOURS[i], marker=plot.MARKERS[i], linestyle=plot.LINES[i])
        ax.errorbar(
            places, [100 * mean.mean for mean in means], 100 * np.array([low, high]), capsize=3, label=name.replace("_", " "), **style
        )
    ax.axhline(10, color="0.5", linewidth=0.8)
    ax.annotate("guessing", (depths[0], 10), (0, 3), textcoords="offset points", color="0.4")
    ax.set(xscale="log", xlabel="layers", ylabel="digits read right (% of new ones)", ylim=(0, 102))
    ax.set_xticks(depths, map(str, depths))
    ax.set_xticks([], minor=True)
    ax.legend(frameon=False, title="each at its best\nlearning rate and scale", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
