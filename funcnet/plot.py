"""Pictures of results: each takes a `SweepResult` and returns matplotlib axes. Needs the extra [experiments].

Colours are Okabe and Ito's (2008), which colour-blind readers can tell apart; markers and line styles differ as well.
"""

from typing import Any

import numpy as np

from funcnet import check
from funcnet.sweep.result import SweepResult, default_metric

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def learning_curves(result: SweepResult, metric: str | None = None, *, by: str | None = None, mode: str = "min", ax: Any = None) -> Any:
    """A metric over steps: every run as a faint line, and the best variant as a bold one, or one for each value of `by`.

    With replicates the bold line is their mean, in a band from the least to the largest.

    Args:
      result: of a sweep with eval_every.
      metric: of the curves; the loss to rank by unless said otherwise.
      by: a hyperparameter; the best variant of each of its values is shown.
      mode: whether the best variant is that with the least ("min") or largest ("max") final mean.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes.

    Raises:
      ValueError: the metric, the hyperparameter or the mode is unknown.
      ImportError: matplotlib is not installed.
    """
    metric, ax = _metric("learning_curves", result, metric), _axes("learning_curves", ax)
    check.one_of("learning_curves", "mode", mode, ("min", "max"))
    steps, curves, variants = result.curves["step"], result.curves[metric], result.table["variant"]
    ax.plot(steps, curves.T, color="0.6", linewidth=0.5, alpha=0.35, zorder=1)
    for i, (label, rows) in enumerate(_groups("learning_curves", result, by)):
        final = {variant: np.mean(result.table[metric][rows & (variants == variant)]) for variant in np.unique(variants[rows])}
        final = {variant: value for variant, value in final.items() if np.isfinite(value)}
        if not final:
            continue
        best = (min if mode == "min" else max)(final, key=final.__getitem__)
        own = curves[rows & (variants == best)]
        style = dict(color=COLOURS[i % len(COLOURS)], linestyle=LINES[i % len(LINES)])
        ax.plot(steps, own.mean(0), linewidth=2.2, zorder=3, label=label or "best variant", **style)
        if len(own) > 1:
            ax.fill_between(steps, own.min(0), own.max(0), color=style["color"], alpha=0.2, linewidth=0, zorder=2)
    ax.set_xlabel("steps")
    ax.set_ylabel(metric.replace("/", " "))
    ax.legend(title=f"best of each {by.replace('_', ' ')}" if by else None, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def over_hyperparameter(result: SweepResult, name: str, metric: str | None = None, *, by: str | None = None, ax: Any = None) -> Any:
    """A final metric over one hyperparameter: a point a run, coloured by another hyperparameter.

    Runs that diverged stand as crosses along the upper edge.

    Args:
      result: of a sweep.
      name: a hyperparameter that is a number; its axis is logarithmic where its values span more than two decades.
      metric: final metric; the loss to rank by unless said otherwise.
      by: a hyperparameter whose values the colours and markers tell apart.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes.

    Raises:
      ValueError: a name is unknown, or the hyperparameter isn't a number.
      ImportError: matplotlib is not installed.
    """
    metric, ax = _metric("over_hyperparameter", result, metric), _axes("over_hyperparameter", ax)
    check.one_of("over_hyperparameter", "hyperparameter", name, result.hyperparameters(0))
    x, y = result.table[name], result.table[metric]
    if x.dtype.kind not in "iuf":
        raise ValueError(check.message("over_hyperparameter", f"{name} must hold numbers", x.dtype))
    diverged = ~np.isfinite(y)
    for i, (label, rows) in enumerate(_groups("over_hyperparameter", result, by)):
        style = dict(color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)])
        fine = rows & ~diverged
        ax.scatter(x[fine], y[fine], s=22, alpha=0.75, linewidth=0, label=label, **style)
        lost = rows & diverged
        ax.scatter(x[lost], np.ones(lost.sum()), marker="x", s=30, color=style["color"], transform=ax.get_xaxis_transform(), clip_on=False)
    if np.all(x > 0) and np.max(x) > 100 * np.min(x):
        ax.set_xscale("log")
    ax.set_xlabel(name.replace("_", " "))
    ax.set_ylabel(metric.replace("/", " "))
    if by:
        ax.legend(title=by.replace("_", " "), frameon=False)
    return ax


def _groups(where: str, result: SweepResult, by: str | None) -> list[tuple[str | None, np.ndarray]]:
    if by is None:
        return [(None, np.ones(len(result), bool))]
    check.one_of(where, "hyperparameter", by, result.hyperparameters(0))
    values = result.table[by]
    return [(str(value), values == value) for value in dict.fromkeys(values.tolist())]


def _metric(where: str, result: SweepResult, metric: str | None) -> str:
    metric = default_metric(result.metrics) if metric is None else metric
    check.one_of(where, "metric", metric, result.metrics)
    return metric


def _axes(where: str, ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(check.needs_extra(where, "matplotlib", "experiments")) from error
    return plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1]
