"""Standardizing features, and finding those that matter by L1 paths and permutation importance, on breast cancers and wines."""

from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_wine

import funcnet as fn
from experiments import report
from funcnet import plot

LEARNING_RATES = np.geomspace(1e-6, 1.0, 13)  # raw features go up to thousands and need small steps
NEAR = 0.02  # share of the examples: accuracies that differ by less than this count as equal
ZERO = 1e-2  # on standardized features a weight below this counts as zero


def net(learning_rate: float, features: int, classes: int) -> fn.Training:
    return fn.training(
        fn.mlp((16, classes), "tanh"), fn.cross_entropy, fn.momentum(learning_rate), in_shape=(features,), metrics=["accuracy"]
    )


def linear(strength: float, features: int, classes: int, decay_steps: int) -> fn.Training:
    """Logistic regression with an L1 penalty; the learning rate decays, so that the weights converge."""
    steps = fn.cosine_decay(0.1, decay_steps)
    return fn.training(
        fn.dense(classes, initializer="zeros"),
        fn.cross_entropy,
        fn.momentum(steps),
        in_shape=(features,),
        penalty=fn.l1(strength),
        metrics=["accuracy"],
    )


def l1_path(data: fn.Split, strengths: np.ndarray, steps: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each feature's absolute weight at each strength, summed over classes, (strengths, features); validation and test accuracies."""
    sizes = dict(features=[data.train.x.shape[1]], classes=[int(data.train.y.max()) + 1], decay_steps=[steps])
    result = fn.sweep(
        linear, fn.grid(strength=strengths.tolist(), **sizes), data, key=key, num_steps=steps, batch_size=None, progress=False
    )
    weights = np.stack([np.abs(result.state(row).params["weight"]).sum(0) for row in range(len(result))])
    test = [
        np.mean(fn.predict(result.training(row), result.state(row), data.test.x).argmax(1) == data.test.y) for row in range(len(result))
    ]
    return weights, result.table["validation/accuracy"], np.array(test)


def one_split(dataset: fn.Dataset, strengths: np.ndarray, steps: tuple[int, int], key: jax.Array) -> dict[str, Any]:
    """Everything measured on one split of a data set; other splits run the same programs and compile nothing."""
    split_key, net_key, path_key, shuffle_key = jax.random.split(key, 4)
    raw = fn.split(dataset, key=split_key, validation=0.2, test=0.2)
    parts = {"standardized": fn.standardize(raw), "raw": raw}
    variants = fn.grid(learning_rate=LEARNING_RATES.tolist(), features=[dataset.x.shape[1]], classes=[int(dataset.y.max()) + 1])
    measured: dict[str, Any] = {}
    for name, data in parts.items():
        result = fn.sweep(net, variants, data, key=net_key, num_steps=steps[0], batch_size=32, eval_every=steps[0] // 20, progress=False)
        best = result.best("validation/loss")
        training, state = result.training(best.row), best.state
        accuracy = np.mean(fn.predict(training, state, data.test.x).argmax(1) == data.test.y)
        measured[name] = {"accuracy": accuracy, "curve": result.curves["validation/loss"][best.row], "steps": result.curves["step"]}
        if name == "standardized":
            importance = jax.jit(fn.permutation_importance, static_argnums=0, static_argnames="repeats")
            measured["importance"] = np.asarray(importance(training, state, data.test, key=shuffle_key, repeats=20)).mean(1)
    measured["path"], measured["choice"], measured["path_accuracy"] = l1_path(parts["standardized"], strengths, steps[1], path_key)
    measured["entry"] = entry_strengths(measured["path"], strengths)
    return measured


def run(quick: bool, seed: int) -> report.Outcome:
    strengths = np.geomspace(1e-3, 0.5, 8 if quick else 16)
    steps, splits = ((100, 400), 6) if quick else ((200, 1000), 20)
    sources = {"breast cancer": load_breast_cancer(), "wine": load_wine()}
    names = {name: [str(feature).replace("_", " ") for feature in source.feature_names] for name, source in sources.items()}
    keys = jax.random.split(jax.random.key(seed), splits)
    measured = {
        name: [one_split(fn.Dataset(source.data, source.target), strengths, steps, key) for key in keys] for name, source in sources.items()
    }
    findings = [_standardized(measured), _few_features(measured, strengths), _agreement(measured)]
    pictures = {
        "standardized": draw_curves(measured),
        "l1_paths": draw_paths(measured, strengths, names),
        "importance": draw_importance(measured, names),
    }
    return report.Outcome(findings, pictures)


def entry_strengths(path: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """The largest strength at which each feature has a nonzero weight, shape (features,); 0 if there is none."""
    return np.max(np.where(path > ZERO, strengths[:, None], 0), axis=0)


def _standardized(measured: dict) -> report.Finding:
    figures, holds = {}, True
    for name, splits in measured.items():
        accuracy = {kind: np.array([split[kind]["accuracy"] for split in splits]) for kind in ("standardized", "raw")}
        for kind, values in accuracy.items():
            figures[f"{name}, {kind}: accuracy on new examples"] = report.interval(values)
        figures[f"{name}: standardized is ahead by"] = ahead = report.interval(accuracy["standardized"] - accuracy["raw"])
        holds &= ahead.low > 0
    return report.Finding(
        "In as many steps a net learns more from standardized features than from raw ones",
        holds,
        figures,
        "Each at its own best of 13 learning rates, from a millionth to one; differences are paired by division of the data. "
        "Here features differ in scale a thousandfold and more; where they don't, little is to be gained.",
    )


def _few_features(measured: dict, strengths: np.ndarray) -> report.Finding:
    """Chooses the strongest penalty that costs at most NEAR / 2 on the validation part, and measures it on the test part."""
    figures, holds = {}, True
    for name, splits in measured.items():
        shares, behind = [], []
        for split in splits:
            strongest = int(np.flatnonzero(split["choice"] >= split["choice"].max() - NEAR / 2)[-1])
            shares.append(np.mean(split["path"][strongest] > ZERO))
            behind.append(split["path_accuracy"][0] - split["path_accuracy"][strongest])
        figures[f"{name}: share of the features that L1 keeps"] = kept = report.interval(shares)
        figures[f"{name}: accuracy lost by it"] = lost = report.interval(behind)
        holds &= kept.high < 0.5 and lost.high < NEAR
    return report.Finding(
        f"L1 finds that fewer than half of the features will do: accuracy falls by less than {NEAR:.0%}",
        holds,
        figures,
        f"Against a penalty of {strengths[0]:.0e}. Logistic regression; its strength is the largest that costs no more than "
        f"{NEAR / 2:.0%} on validation examples.",
    )


def _agreement(measured: dict) -> report.Finding:
    figures, holds = {}, True
    for name, splits in measured.items():
        ranks = [stats.spearmanr(split["entry"], split["importance"]).statistic for split in splits]
        figures[f"{name}: rank correlation of the two orders"] = agreement = report.interval(ranks)
        holds &= agreement.low > 0.5
    return report.Finding(
        "L1 paths and permutation importance agree on which features matter: their orders correlate by more than one half",
        holds,
        figures,
        "L1's order is by the strength at which a feature's weight becomes zero. Of features that say the same, L1 keeps one, "
        "while a net reads all of them and misses none when it is shuffled.",
    )


def draw_curves(measured: dict) -> Figure:
    figure, axes = plt.subplots(1, len(measured), figsize=(9, 3.8), layout="constrained")
    for ax, (name, splits) in zip(axes, measured.items(), strict=True):
        for i, kind in enumerate(("standardized", "raw")):
            curves = [report.interval(values) for values in np.stack([split[kind]["curve"] for split in splits]).T]
            mean, low, high = np.array(curves).T
            at = splits[0][kind]["steps"]
            ax.plot(at, mean, color=plot.COLOURS[i], linestyle=plot.LINES[i], linewidth=2.2, label=kind)
            ax.fill_between(at, np.maximum(low, 1e-3), high, color=plot.COLOURS[i], alpha=0.2, linewidth=0)
        ax.set(title=name, xlabel="steps (minibatches of 32)", yscale="log")
    axes[0].set_ylabel("validation loss (nats)")
    axes[0].legend(frameon=False, title="features")
    return figure


def draw_paths(measured: dict, strengths: np.ndarray, names: dict[str, list[str]]) -> Figure:
    figure, axes = plt.subplots(1, len(measured), figsize=(11, 4.2), layout="constrained")
    for ax, (name, splits) in zip(axes, measured.items(), strict=True):
        path = np.mean([split["path"] for split in splits], axis=0)
        last = np.argsort(-np.mean([split["entry"] for split in splits], axis=0), kind="stable")
        for feature in last[5:]:
            ax.plot(strengths, path[:, feature], color="0.75", linewidth=0.9)
        for i, feature in enumerate(last[:5]):
            style = dict(color=plot.COLOURS[i], linestyle=plot.LINES[i], marker=plot.MARKERS[i], markersize=4)
            ax.plot(strengths, path[:, feature], linewidth=2, label=names[name][feature], **style)
        ax.set(title=name, xscale="log", xlabel="strength of the L1 penalty")
        ax.legend(frameon=False, title="the last to be dropped", fontsize=9)
    axes[0].set_ylabel("weight of a feature (sum over classes)")
    return figure


def draw_importance(measured: dict, names: dict[str, list[str]], most: int = 10) -> Figure:
    figure, axes = plt.subplots(1, len(measured), figsize=(11, 4.2), layout="constrained")
    for ax, (name, splits) in zip(axes, measured.items(), strict=True):
        each = [report.interval(values) for values in np.stack([split["importance"] for split in splits]).T]
        order = np.argsort([-importance.mean for importance in each])[:most][::-1]
        mean, low, high = np.array([each[feature] for feature in order]).T
        style = dict(color=plot.COLOURS[0], ecolor="0.3", capsize=3)
        ax.barh(range(len(order)), mean, xerr=[mean - low, high - mean], **style)
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.set_yticks(range(len(order)), [names[name][feature] for feature in order])
        ax.set(title=f"{name}: the {len(order)} that matter most", xlabel="rise in loss when shuffled (nats)")
    return figure
