"""Precision: the cost of fewer bits in products only, in all computations, or in the parameters too.

An MLP on scikit-learn's digits and a convolutional net on MNIST's are trained with Adam, each precision at its best of five learning rates.
`jax.default_matmul_precision` only affects products and convolutions, and is a request: a CPU computes them in float32 regardless, a TPU
does use bfloat16, a GPU has TensorFloat-32. `fn.mixed_precision` computes everything in bfloat16, on any device, from parameters in
float32.
"""

import collections
import contextlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import funcnet as fn
from experiments import report
from experiments.architectures import digits, mnist, training
from funcnet import plot

LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
PRODUCTS = {"float32": "HIGHEST", "tensorfloat32": "HIGH", "bfloat16": "DEFAULT"}  # JAX's names, and XLA's words for them in a program


class Precision(NamedTuple):
    """The precision of each part of a training."""

    products: str  # jax.default_matmul_precision
    compute: str  # dtype of inputs, products and activations
    params: str  # dtype of parameters and of Adam's first moment; the second moment is always in at least float32


PRECISIONS = {
    "float32": Precision("float32", "float32", "float32"),
    "products in tensorfloat32": Precision("tensorfloat32", "float32", "float32"),
    "products in bfloat16": Precision("bfloat16", "float32", "float32"),
    "bfloat16": Precision("float32", "bfloat16", "float32"),
    "bfloat16, parameters too": Precision("float32", "bfloat16", "bfloat16"),
}
FULL = {"MLP": dict(seeds=16, steps=400), "CNN": dict(seeds=10, steps=200)}
QUICK = {"MLP": dict(seeds=3, steps=60), "CNN": dict(seeds=2, steps=20)}
EXAMPLES = {False: 2000, True: 400}  # of MNIST: {quick: number}


def kept_in(model: fn.Layer, dtype: str) -> fn.Layer:
    """The model with its parameters kept in dtype."""
    return fn.Layer(lambda key, in_shape: jax.tree.map(lambda leaf: leaf.astype(dtype), model.init(key, in_shape)), model.apply)


def mlp(learning_rate: float, compute: str, params: str, choice: int) -> fn.Training:
    model = fn.serial(fn.flatten(), fn.mlp((64, 64, 10), "relu"))
    return training(kept_in(fn.mixed_precision(model, compute), params), (8, 8), learning_rate, choice)


def cnn(learning_rate: float, compute: str, params: str, choice: int) -> fn.Training:
    bend, pool = fn.activation("relu"), fn.max_pool(2)
    model = fn.serial(fn.conv(8, 3), bend, pool, fn.conv(16, 3), bend, pool, fn.flatten(), fn.dense(10))
    return training(kept_in(fn.mixed_precision(model, compute), params), (1, 14, 14), learning_rate, choice)


NETS = {"MLP": mlp, "CNN": cnn}


def sweep(recipe: Any, data: fn.Split, key: jax.Array, products: str, *, seeds: int, steps: int) -> fn.SweepResult:
    """Sweeps all precisions with these products over the learning rates; with one key, sweeps share initial weights and minibatches."""
    variants = [
        {"learning_rate": rate, "compute": own.compute, "params": own.params, "choice": len(data.validation.y) // 2}
        for own in PRECISIONS.values()
        if own.products == products
        for rate in LEARNING_RATES
    ]
    with jax.default_matmul_precision(products):
        return fn.sweep(recipe, variants, data, key=key, num_steps=steps, batch_size=32, replicates=seeds, keep=1, progress=False)


def rows(result: fn.SweepResult, own: Precision) -> np.ndarray:
    return (result.table["compute"] == own.compute) & (result.table["params"] == own.params)


def scores(found: dict[str, fn.SweepResult]) -> dict[str, dict[str, Any]]:
    """For each precision: the accuracy of each seed at the best learning rate, and accuracy by learning rate, rates x seeds."""
    each = {}
    for name, own in PRECISIONS.items():
        if own.products in found:
            result, table = found[own.products], found[own.products].table
            best = report.best_rows(result, "validation/choice", "max", compute=own.compute, params=own.params)
            at = [rows(result, own) & (table["learning_rate"] == rate) for rate in LEARNING_RATES]
            each[name] = {
                "accuracy": table["validation/accuracy"][best],
                "learning_rate": float(table["learning_rate"][best[0]]),
                "by_learning_rate": [table["validation/accuracy"][some] for some in at],
            }
    return each


def products_differ() -> bool:
    """Whether the device has products in more than one precision."""
    return jax.local_devices()[0].platform != "cpu"


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    """Runs the experiment. On a CPU, where products are always in float32, it leaves out other products, and checks this with the MLP."""
    sizes = QUICK if quick else FULL
    data_key, key = jax.random.split(jax.random.key(seed))
    data = {"MLP": digits(data_key), "CNN": mnist(EXAMPLES[quick], data_key)}
    here = tuple(PRODUCTS) if products_differ() else ("float32",)
    found = {net: {products: sweep(NETS[net], data[net], key, products, **sizes[net]) for products in here} for net in NETS}
    with jax.default_device(jax.local_devices(backend="cpu")[0]) if products_differ() else contextlib.nullcontext():
        there = {products: sweep(mlp, data["MLP"], key, products, **sizes["MLP"]) for products in PRODUCTS}
    scored = {net: scores(own) for net, own in found.items()}
    findings = [cheap(scored, "bfloat16", "Computing everything in bfloat16, from parameters in float32,"), parameters_matter(scored)]
    if products_differ():
        findings = [cheap(scored, name, f"To take {name}") for name in list(PRECISIONS)[1:3]] + findings
    return report.Outcome([*findings, words(there)], {"accuracy": draw(scored), "learning_rates": draw_rates(scored)})


WITHIN = 0.01  # of accuracy: a digit in a hundred
DEPENDS = (
    "Each precision at its own best of five learning rates of Adam, chosen on half of the held-out digits and measured on the other; seeds "
    "differ in first weights and minibatches, which all precisions share, on one division of the data. "
)


def difference(found: dict[str, dict], net: str, better: str, worse: str) -> report.Interval:
    """The difference in accuracy, paired over seeds."""
    return report.interval(found[net][better]["accuracy"] - found[net][worse]["accuracy"])


def cheap(found: dict[str, dict], name: str, words: str) -> report.Finding:
    lost = {net: difference(found, net, "float32", name) for net in found}
    figures = {f"{net}: accuracy lost, paired over seeds": own for net, own in lost.items()}
    for net in found:
        figures |= {f"{net}, {kind}: accuracy": report.interval(found[net][kind]["accuracy"]) for kind in ("float32", name)}
    return report.Finding(
        f"{words} costs less than one digit in a hundred.",
        all(own.high < WITHIN for own in lost.values()),
        figures,
        f"{DEPENDS}On {jax.local_devices()[0].device_kind}.",
    )


def parameters_matter(found: dict[str, dict]) -> report.Finding:
    lost = {net: difference(found, net, "bfloat16", "bfloat16, parameters too") for net in found}
    figures = {f"{net}: accuracy lost, paired over seeds": own for net, own in lost.items()}
    figures |= {f"{net}: accuracy": report.interval(found[net]["bfloat16, parameters too"]["accuracy"]) for net in found}
    for net, own in found.items():  # where updates are smallest
        kept, too = (own[name]["by_learning_rate"][0] for name in ("bfloat16", "bfloat16, parameters too"))
        figures[f"{net}, learning rate {LEARNING_RATES[0]:g}: accuracy lost"] = report.interval(kept - too)
    return report.Finding(
        "Parameters kept in bfloat16 as well cost accuracy: small updates are rounded away.",
        all(own.low > 0 for own in lost.values()),
        figures,
        DEPENDS + "An update below some 256th of a parameter changes nothing there; Adam's are about as large as its learning rate.",
    )


def words(found: dict[str, fn.SweepResult]) -> report.Finding:
    """The effect of `jax.default_matmul_precision`: on the text of programs for other devices, and on the bits of a sweep on a CPU.

    Args:
      found: sweeps on a CPU, by the precision of products.
    """
    whole, eight = (rows(found["float32"], PRECISIONS[name]) for name in ("float32", "bfloat16"))
    table = found["float32"].table
    exact, rounded = table["train/loss"][whole], table["train/loss"][eight]
    others = {products: found[products].table["train/loss"] for products in PRODUCTS if products != "float32"}
    count = lambda other: f"{np.sum(other != exact)} of {len(exact)}"
    told = {(platform, products): said(platform, products) for platform in ("cuda", "tpu") for products in PRODUCTS}
    return report.Finding(
        "jax.default_matmul_precision is in every product of a program for a GPU or TPU, and changes no bit on a CPU; bfloat16 does.",
        all(other.tobytes() == exact.tobytes() for other in others.values())
        and not np.isin(rounded, exact).any()
        and all(set(kinds) == {PRODUCTS[products]} for (_, products), kinds in told.items()),
        {
            **{f"runs on a CPU that end differently, products in {name}": count(other) for name, other in others.items()},
            "runs on a CPU that end differently, everything in bfloat16": count(rounded),
            **{f"products of a step for {platform}, {name}": listed(kinds) for (platform, name), kinds in told.items()},
        },
        "DEFAULT, HIGH and HIGHEST are XLA's words: a TPU takes one, three or six products in bfloat16; a GPU takes DEFAULT and HIGH for "
        "TensorFloat-32 where it has it.",
    )


def listed(kinds: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def said(platform: str, products: str) -> collections.Counter[str]:
    """How many of a step's products and convolutions ask for each precision on a platform; both factors of each ask for the same."""
    own = cnn(0.01, "float32", "float32", 1)
    state = jax.eval_shape(own.init, jax.random.key(0))
    batch = fn.Dataset(jax.ShapeDtypeStruct((8, 1, 14, 14), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32))
    with jax.default_matmul_precision(products):
        text = jax.jit(own.step).trace(state, batch, jax.random.key(0)).lower(lowering_platforms=(platform,)).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line or "stablehlo.convolution" in line]
    kinds = [re.findall(r"\b(DEFAULT|HIGHEST|HIGH)\b", line) or ["none"] for line in lines]
    return collections.Counter(kind for line in kinds for kind in set(line))


def draw(found: dict[str, dict]) -> Figure:
    """Draws each seed's accuracy minus that of float32, and their mean with its interval."""
    figure, axes = plt.subplots(1, len(found), figsize=(9, 3.2), layout="constrained", sharey=True)
    names = list(found["MLP"])[1:]
    for ax, (net, own) in zip(axes, found.items(), strict=True):
        for i, name in enumerate(names):
            values = 100 * (own[name]["accuracy"] - own["float32"]["accuracy"])
            mean, low, high = report.interval(values)
            style = dict(color=plot.COLOURS[i + 1], marker=plot.MARKERS[i + 1])
            ax.scatter(values, np.full(len(values), i - 0.12), s=16, alpha=0.5, linewidth=0, **style)
            ax.errorbar(mean, i + 0.12, xerr=[[mean - low], [high - mean]], capsize=4, markersize=8, **style)
        ax.axvline(0, color="black", linewidth=1)
        ax.set(title=net, xlabel="accuracy less that of float32 (percentage points)")
        ax.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def draw_rates(found: dict[str, dict]) -> Figure:
    figure, axes = plt.subplots(1, len(found), figsize=(9, 3.7), layout="constrained", sharey=True)
    for ax, (net, own) in zip(axes, found.items(), strict=True):
        for i, (name, one) in enumerate(own.items()):
            mean, low, high = 100 * np.array([report.interval(values) for values in one["by_learning_rate"]]).T
            places = np.array(LEARNING_RATES) * 1.05 ** (i - 2)  # side by side, so that the bars can be seen
            style = dict(color=plot.COLOURS[i], marker=plot.MARKERS[i], linestyle=plot.LINES[i])
            ax.errorbar(places, mean, [mean - low, high - mean], capsize=3, label=name, **style)
        ax.set(title=net, xlabel="learning rate of Adam", xscale="log")
        ax.set_xticks(LEARNING_RATES, [f"{rate:g}" for rate in LEARNING_RATES])
        ax.set_xticks([], minor=True)
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("digits read right (% of new ones)")
    axes[1].legend(frameon=False, title="precision", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
