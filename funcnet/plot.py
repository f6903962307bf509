"""Pictures of results: each takes a `SweepResult` and returns matplotlib axes. Needs the extra [experiments].

Replicates are seeds: where a variant has several, its mean is drawn, in its 95% confidence interval by Student's t.
Colours are Okabe and Ito's (2008), which colour-blind readers can tell apart; markers and line styles differ as well.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from funcnet import check
from funcnet.data import Dataset
from funcnet.inspection import predict
from funcnet.sweep.result import SweepResult, default_metric

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
COLOUR_MAP = "cividis"
LEVEL = 0.95  # of every interval
_MOST_CELLS = 60  # along one side of a heatmap
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def learning_curves(result: SweepResult, metric: str | None = None, *, by: str | None = None, mode: str = "min", ax: Any = None) -> Any:
    """A metric over steps: every run as a faint line, and the best variant as a bold one, or one for each value of `by`.

    With replicates the bold line is their mean, in the 95% confidence interval of that mean.

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
    final = _variant_means(result, metric)
    for i, (label, rows) in enumerate(_groups("learning_curves", result, by)):
        best = _best_variant(final, variants[rows], mode)
        if best is None:
            continue
        own = curves[rows & (variants == best)]
        style = dict(color=COLOURS[i % len(COLOURS)], linestyle=LINES[i % len(LINES)])
        ax.plot(steps, own.mean(0), linewidth=2.2, zorder=3, label=label or "best variant", **style)
        if len(own) > 1:
            half = stats.sem(own) * stats.t.ppf((1 + LEVEL) / 2, len(own) - 1)
            ax.fill_between(steps, own.mean(0) - half, own.mean(0) + half, color=style["color"], alpha=0.2, linewidth=0, zorder=2)
    ax.set_xlabel("steps")
    ax.set_ylabel(_words(metric))
    ax.legend(title=f"best of each {_words(by)}" if by else None, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
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
    if not _is_number(x):
        raise ValueError(check.message("over_hyperparameter", f"{name} must hold numbers", x.dtype))
    diverged = ~np.isfinite(y)
    for i, (label, rows) in enumerate(_groups("over_hyperparameter", result, by)):
        style = dict(color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)])
        fine = rows & ~diverged
        ax.scatter(x[fine], y[fine], s=22, alpha=0.75, linewidth=0, label=label, **style)
        lost = rows & diverged
        ax.scatter(x[lost], np.ones(lost.sum()), marker="x", s=30, color=style["color"], transform=ax.get_xaxis_transform(), clip_on=False)
    if _spans_decades(x):
        ax.set_xscale("log")
    ax.set_xlabel(_words(name))
    ax.set_ylabel(_words(metric))
    if by:
        ax.legend(title=_words(by), frameon=False)
    return ax


def heatmap(result: SweepResult, x: str, y: str, metric: str | None = None, *, mode: str = "min", ax: Any = None) -> Any:
    """A final metric over two hyperparameters: a cell a pair of values, coloured by its best variant's mean over replicates.

    The best cell of all is framed. A cell without a run stays white; one whose every variant diverged in some replicate is crossed.

    Args:
      result: of a sweep over a grid, or over values that repeat.
      x: the hyperparameter along the horizontal axis; numbers run upwards, other values in the order given.
      y: the one along the vertical axis.
      metric: final metric; the loss to rank by unless said otherwise.
      mode: whether a small ("min") or a large ("max") metric is good.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes; the colour bar stands beside them.

    Raises:
      ValueError: a name or the mode is unknown, or a hyperparameter has too many values for a grid.
      ImportError: matplotlib is not installed.
    """
    metric, ax = _metric("heatmap", result, metric), _axes("heatmap", ax)
    check.one_of("heatmap", "mode", mode, ("min", "max"))
    columns, rows = (_values("heatmap", result, name) for name in (x, y))
    final, variants = _variant_means(result, metric), result.table["variant"]
    cells = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            own = variants[(result.table[y] == row) & (result.table[x] == column)]
            best = _best_variant(final, own, mode)
            if best is not None:
                cells[i, j] = final[best]
            elif len(own):
                ax.plot(j, i, "x", color="0.4")
    image = ax.pcolormesh(np.arange(len(columns)), np.arange(len(rows)), cells, cmap=_colour_map(mode), shading="nearest")
    if np.any(np.isfinite(cells)):
        place = (np.nanargmin if mode == "min" else np.nanargmax)(cells)
        i, j = divmod(int(place), len(columns))
        ax.plot([j - 0.5, j + 0.5, j + 0.5, j - 0.5, j - 0.5], [i - 0.5, i - 0.5, i + 0.5, i + 0.5, i - 0.5], color=COLOURS[1], linewidth=3)
    ax.set_xticks(range(len(columns)), [_written(value) for value in columns])
    ax.set_yticks(range(len(rows)), [_written(value) for value in rows])
    ax.set_xlabel(_words(x))
    ax.set_ylabel(_words(y))
    ax.figure.colorbar(image, ax=ax, label=_words(metric))
    return ax


def parallel_coordinates(
    result: SweepResult, metric: str | None = None, *, names: Sequence[str] | None = None, mode: str = "min", ax: Any = None
) -> Any:
    """Every run as a line through its hyperparameters to its final metric, the best tenth bold.

    Lines are coloured by rank, not by value, so that one bad run doesn't take up the colours. A run that diverged is
    grey and ends before the metric.

    Args:
      result: of a sweep.
      metric: final metric; the loss to rank by unless said otherwise.
      names: hyperparameters, from left to right; all that differ between runs unless said otherwise.
      mode: whether a small ("min") or a large ("max") metric is good.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes; a line's heights are shares of its columns' ranges. A column of positive numbers that span more than two
      decades is logarithmic.

    Raises:
      ValueError: a name or the mode is unknown, or no hyperparameter differs between runs.
      ImportError: matplotlib is not installed.
    """
    metric, ax = _metric("parallel_coordinates", result, metric), _axes("parallel_coordinates", ax)
    import matplotlib  # _axes has made sure that it is there

    names = _differing("parallel_coordinates", result, names)
    ranking = result.ranking(metric, mode)
    heights, ticks = zip(*(_column_heights(result.table[name]) for name in [*names, metric]), strict=True)
    lines = np.stack(heights, axis=1)
    lost = np.setdiff1d(np.arange(len(result)), ranking)
    places = np.arange(len(names) + 1)
    colours = matplotlib.colormaps[COLOUR_MAP](np.linspace(0, 0.95, len(ranking)))
    for row in lost:
        ax.plot(places[:-1], lines[row, :-1], color="0.75", linewidth=0.8, linestyle=":", zorder=1)
    for place, row in reversed(list(enumerate(ranking))):
        bold = place < max(1, len(ranking) // 10)
        ax.plot(
            places, lines[row], color=colours[place], linewidth=2.0 if bold else 0.7, alpha=1.0 if bold else 0.6, zorder=3 if bold else 2
        )
    for place, column in enumerate(ticks):
        ax.axvline(place, color="black", linewidth=0.8, zorder=4)
        for height, words in column:
            ax.annotate(
                words,
                (place, height),
                (4, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                zorder=5,
                bbox=dict(boxstyle="round,pad=0.1", facecolor="white", alpha=0.8, linewidth=0),
            )
    ax.set_xticks(places, [_words(name) for name in [*names, metric]])
    ax.set_yticks([])
    ax.set_xlim(-0.1, len(names) + 0.35)
    ax.set_ylim(-0.05, 1.05)
    ax.spines[["left", "right", "top", "bottom"]].set_visible(False)
    return ax


def hyperparameter_importance(
    result: SweepResult, metric: str | None = None, *, names: Sequence[str] | None = None, seed: int = 0, ax: Any = None
) -> Any:
    """How much each hyperparameter tells of how good a variant will be: bars, the most telling on top.

    A random forest learns a variant's rank by the metric (its mean over replicates; those that diverged share the last
    rank) from its hyperparameters. A bar is by how much R^2 on variants that the forest hasn't seen falls when one
    hyperparameter is shuffled among them: 0 tells nothing. It is the mean over five folds, with its 95% interval. The
    forest's own R^2 stands in the title: where it is small, the bars say little.

    Args:
      result: of a sweep, with at least ten variants.
      metric: final metric; the loss to rank by unless said otherwise.
      names: hyperparameters; all that differ between runs unless said otherwise.
      seed: decides the folds, the forest and the shuffles.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes.

    Raises:
      ValueError: a name is unknown, no hyperparameter differs between runs, or there are fewer than ten variants.
      ImportError: matplotlib or scikit-learn is not installed.

    Source: Breiman (2001).
    """
    where = "hyperparameter_importance"
    metric, ax = _metric(where, result, metric), _axes(where, ax)
    try:
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.inspection import permutation_importance
        from sklearn.model_selection import KFold
    except ImportError as error:
        raise ImportError(check.needs_extra(where, "scikit-learn", "experiments")) from error
    names = _differing(where, result, names)
    final = _variant_means(result, metric)
    check.whole(where, "the number of variants", len(final), 10)
    first = np.unique(result.table["variant"], return_index=True)[1]
    settings = np.stack([_column_heights(result.table[name])[0][first] for name in names], axis=1)
    ranks = stats.rankdata(np.nan_to_num(np.array([final[variant] for variant in result.table["variant"][first]]), nan=np.inf))
    falls, fits = [], []
    for seen, unseen in KFold(5, shuffle=True, random_state=seed).split(settings):
        forest = RandomForestRegressor(random_state=seed).fit(settings[seen], ranks[seen])
        shuffled = permutation_importance(forest, settings[unseen], ranks[unseen], scoring="r2", n_repeats=10, random_state=seed)
        falls.append(shuffled.importances_mean)
        fits.append(forest.score(settings[unseen], ranks[unseen]))
    mean, half = np.mean(falls, axis=0), stats.sem(falls) * stats.t.ppf((1 + LEVEL) / 2, len(falls) - 1)
    order = np.argsort(mean)
    ax.barh(range(len(names)), mean[order], xerr=half[order], color=COLOURS[0], ecolor="0.3", capsize=3)
    ax.set_yticks(range(len(names)), [_words(names[i]) for i in order])
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set_xlabel("fall in the forest's R² when shuffled")
    ax.set_title(f"what decides the {_words(metric)} (forest's R² on unseen variants: {np.mean(fits):.2f})", fontsize=10)
    return ax


def decision_boundary(result: SweepResult, row: int, dataset: Dataset, *, resolution: int = 200, ax: Any = None) -> Any:
    """Which class a trained model sees where, in a plane of two features, with the examples on top.

    Args:
      result: of a sweep whose training predicts logits: one for each class, or a single one for class 1.
      row: whose state was kept.
      dataset: examples of two features, and their labels; one that the model gets wrong has a black edge.
      resolution: points along each side of the picture where the model is asked.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes.

    Raises:
      ValueError: the examples don't have two features, or the row's state was not kept.
      TypeError: the row's training can't predict.
      ImportError: matplotlib is not installed.
    """
    ax = _axes("decision_boundary", ax)
    x, y = np.asarray(dataset.x), np.asarray(dataset.y).reshape(-1).astype(int)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(check.message("decision_boundary", "x must have shape (examples, 2)", x.shape))
    training, state = result.training(row), result.state(row)
    low, high = x.min(0), x.max(0)
    margin = 0.05 * (high - low)
    across, up = (np.linspace(low[i] - margin[i], high[i] + margin[i], resolution, dtype=x.dtype) for i in (0, 1))
    plane = np.stack(np.meshgrid(across, up), axis=-1)
    classes = _classes(predict(training, state, plane.reshape(-1, 2))).reshape(resolution, resolution)
    right = _classes(predict(training, state, x)) == y
    labels = range(max(classes.max(), y.max()) + 1)
    edges = np.arange(len(labels) + 1) - 0.5
    ax.contourf(across, up, classes, levels=edges, colors=[COLOURS[i % len(COLOURS)] for i in labels], alpha=0.25)
    for label in labels:
        for own, edge in ((right, "white"), (~right, "black")):
            style = dict(color=COLOURS[label % len(COLOURS)], marker=MARKERS[label % len(MARKERS)], edgecolor=edge)
            shown = x[own & (y == label)]
            ax.scatter(
                *shown.T, s=30, linewidth=0.6 if edge == "white" else 1.4, label=f"class {label}" if edge == "white" else None, **style
            )
    ax.set_xlabel("feature 0")
    ax.set_ylabel("feature 1")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _groups(where: str, result: SweepResult, by: str | None) -> list[tuple[str | None, np.ndarray]]:
    if by is None:
        return [(None, np.ones(len(result), bool))]
    check.one_of(where, "hyperparameter", by, result.hyperparameters(0))
    values = result.table[by]
    return [(str(value), values == value) for value in dict.fromkeys(values.tolist())]


def _variant_means(result: SweepResult, metric: str) -> dict[int, float]:
    """Each variant's final metric, the mean over its replicates; NaN if one of them diverged."""
    variants, place = np.unique(result.table["variant"], return_inverse=True)
    means = np.bincount(place, result.table[metric]) / np.bincount(place)
    return dict(zip(variants.tolist(), means.tolist(), strict=True))


def _best_variant(final: dict[int, float], variants: np.ndarray, mode: str) -> int | None:
    """The best of some variants; None where every one diverged."""
    finite = [variant for variant in np.unique(variants).tolist() if np.isfinite(final[variant])]
    return (min if mode == "min" else max)(finite, key=final.__getitem__) if finite else None


def _values(where: str, result: SweepResult, name: str) -> list[Any]:
    """The different values of a hyperparameter: numbers upwards, others in the order given."""
    check.one_of(where, "hyperparameter", name, result.hyperparameters(0))
    values = list(dict.fromkeys(result.table[name].tolist()))
    if len(values) > _MOST_CELLS:
        fix = "over_hyperparameter draws values that don't repeat"
        raise ValueError(check.message(where, f"{name} must have at most {_MOST_CELLS} different values", len(values), fix))
    return sorted(values) if _is_number(result.table[name]) else values


def _differing(where: str, result: SweepResult, names: Sequence[str] | None) -> list[str]:
    """The hyperparameters asked for, or all that differ between runs."""
    if names is None:
        names = [name for name in result.hyperparameters(0) if len(set(result.table[name].tolist())) > 1]
    for name in names:
        check.one_of(where, "hyperparameter", name, result.hyperparameters(0))
    if not names:
        raise ValueError(check.message(where, "needs a hyperparameter that differs between runs", "none"))
    return list(names)


def _column_heights(values: np.ndarray) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """A column's values as shares of its range, and where to write what beside it; NaN stays NaN."""
    if not _is_number(values):
        different = list(dict.fromkeys(values.tolist()))
        share = {value: i / max(1, len(different) - 1) for i, value in enumerate(different)}
        return np.array([share[value] for value in values.tolist()]), [(share[value], str(value)) for value in different]
    logarithmic = _spans_decades(values)
    scaled = np.log10(values) if logarithmic else values.astype(float)
    low, high = np.nanmin(scaled), np.nanmax(scaled)
    ends = np.linspace(low, high, 3 if high > low else 1)
    span = high - low if high > low else 1.0
    return (scaled - low) / span, [((end - low) / span, f"{10**end if logarithmic else end:.3g}") for end in ends]


def _is_number(values: np.ndarray) -> bool:
    return values.dtype.kind in "iuf"


def _spans_decades(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return bool(len(finite) and np.all(finite > 0) and np.max(finite) > 100 * np.min(finite))


def _classes(predictions: Any) -> np.ndarray:
    """The class that each row of logits stands for."""
    logits = np.asarray(predictions).reshape(len(predictions), -1)
    return (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else logits.argmax(1)


def _colour_map(mode: str) -> str:
    """Dark is good."""
    return COLOUR_MAP if mode == "min" else f"{COLOUR_MAP}_r"


def _written(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("/", " ")


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
