"""Pictures of results: each takes a `SweepResult` and returns matplotlib axes. Needs the extra [experiments].

Replicates are seeds: if a variant has several, their mean is drawn, with its 95% confidence interval by Student's t.
Colours are Okabe and Ito's (2008), which colour-blind readers can distinguish; markers and line styles differ as well.

An axis is logarithmic if its values are spread that way, unless the given axes already have a scale. A few outliers don't stretch it:
values outside are marked at its edge and counted in a note, and so are runs without a result. More than seven numbers get a colour bar;
of more than twelve names, eleven are shown one by one, the commonest or the best, and the others together.
"""

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from funcnet import check, scales
from funcnet.data import Dataset
from funcnet.inspection import predict
from funcnet.sweeps.ranking import wanted_mode
from funcnet.sweeps.result import SweepResult

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
COLOUR_MAP = "cividis"
GREY = "0.6"
LEVEL = 0.95  # of every interval
_MOST_CELLS = 60  # along one side of a heatmap
_MOST_CURVES = 300  # drawn one by one; more become bands
_MOST_NAMES = 12  # in a legend or along an axis
_MOST_RANGES = 20  # of numbers, for each of which the best variant is drawn
_BANDS = (0.9, 0.5)  # shares of the runs
_ROW = 12.0  # height of a line of text or of marks, in points


class _Group(NamedTuple):
    """Runs that are drawn in the same style."""

    label: str | None
    rows: np.ndarray  # (runs,), bool
    style: dict[str, Any]  # color, marker and linestyle


class _Inside(NamedTuple):
    """Where the vertical axis begins and ends, without its margins."""

    low: float
    high: float
    scale: str
    taken: bool = False  # whether something was drawn on the axis before

    def below(self, values: np.ndarray) -> np.ndarray:
        return values < self.low

    def above(self, values: np.ndarray) -> np.ndarray:
        return values > self.high


def learning_curves(
    result: SweepResult, metric: str | None = None, *, by: str | None = None, mode: str | None = None, ax: Any = None
) -> Any:
    """A metric over steps: every run as a faint line, and the best variant as a bold one, or the best of each value of `by`.

    With replicates the bold line is their mean, with its 95% confidence interval. More than 300 runs are drawn as bands that hold
    the middle 50% and 90% of them, around their median. A cross marks where a run diverged, a triangle where one leaves the axis.

    Args:
      result: of a sweep with eval_every.
      metric: a metric of the curves; by default `result.metric`, which the result is ranked by.
      by: a hyperparameter; the best variant of each of its values is shown. More than seven numbers get a colour bar; more than 20
        are divided into 20 ranges with equally many numbers, and the best of each range is shown. Of more than twelve names, the
        eleven that did best are shown, and the others together.
      mode: whether a small ("min") or a large ("max") metric is good; may be left out for losses, `METRICS`, and metrics whose mode
        the sweep knows.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes.

    Raises:
      ValueError: the metric, the hyperparameter or the mode is unknown, or the mode is left out for a metric of your own.
      ImportError: matplotlib is not installed.
    """
    where = "learning_curves"
    metric, mode = _ranked(where, result, metric, mode)
    column = None if by is None else _column(where, result, by)
    ax = _axes(where, ax)
    steps, curves = result.curves["step"], result.curves[metric].astype(float)
    lost = result.table["status"] == "diverged"
    settled = curves[~lost] if np.any(np.isfinite(curves[~lost])) else curves
    inside = _inside(ax, settled)
    above, below = ((test(curves) & ~lost[:, None]) for test in (inside.above, inside.below))
    fine, goodness = _finished(result, metric), _goodness(result, metric, mode)
    edges = _frame(ax, inside, _note(result, metric, fine, above.any(1), below.any(1)), lost.any(), above.any(), below.any())
    _draw_runs(ax, steps, curves)
    _mark(ax, "x", result.table["steps"][lost], edges.lost)
    for outside, marker, height in ((above, "^", edges.above), (below, "v", edges.below)):
        left = outside.any(1)
        _mark(ax, marker, steps[outside[left].argmax(1)], height)
    groups, bar = _best_of(column, goodness)
    for group in groups:
        row = np.argmin(np.where(group.rows, goodness, np.inf))
        if not (group.rows[row] and np.isfinite(goodness[row])):
            continue
        own = curves[result.table["variant"] == result.table["variant"][row]]
        style = {name: value for name, value in group.style.items() if name != "marker"}
        if bar is not None and group.label is None and column is not None:
            style["color"] = bar.to_rgba(column.numbers[row])
        _draw_mean(ax, steps, own, label=group.label, interval=len(groups) <= len(COLOURS), **style)
    ends = np.concatenate([steps, result.table["steps"][lost]])
    ax.update_datalim(np.stack([ends, ends], axis=1), updatey=False)
    ax.autoscale_view(scaley=False)
    ax.set_xlabel("steps")
    ax.set_ylabel(_words(metric))
    if bar is not None:
        ranges = f"in {_MOST_RANGES} ranges" if column is not None and len(column.values) - column.names > _MOST_RANGES else "of each"
        ax.figure.colorbar(bar, ax=ax, label=f"{_words(str(by))} (best {ranges})")
    _legend(ax, f"best of each {_words(by)}" if by and any(group.label for group in groups) else None)
    return ax


def over_hyperparameter(result: SweepResult, name: str, metric: str | None = None, *, by: str | None = None, ax: Any = None) -> Any:
    """A final metric over one hyperparameter: one point for each run, coloured by another hyperparameter.

    Runs that diverged, or have no finite metric, are crosses along the upper edge. Far outliers are triangles at the edge beyond which
    they lie.

    Args:
      result: of a sweep.
      name: a hyperparameter with numbers or booleans. Its axis is logarithmic if the logarithms are spread more evenly than the
        numbers, also on both sides of zero. None, and other names among the numbers, are placed left of them.
      metric: final metric; by default `result.metric`, which the result is ranked by.
      by: a hyperparameter that decides colours and markers. More than seven numbers get a colour bar; of more than twelve names, the
        eleven commonest are shown, and the others together.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes.

    Raises:
      ValueError: a name is unknown, or the hyperparameter isn't a number.
      ImportError: matplotlib is not installed.
    """
    where = "over_hyperparameter"
    metric = _metric(where, result, metric)
    column, colours = _column(where, result, name), None if by is None else _column(where, result, by)
    _check_places(where, name, column)
    ax = _axes(where, ax)
    y, fine = result.table[metric].astype(float), _finished(result, metric)
    inside = _inside(ax, y[fine, None])
    above, below = (test(y) & fine for test in (inside.above, inside.below))
    x = _horizontal(ax, column)
    edges = _frame(ax, inside, _note(result, metric, fine, above, below), not fine.all(), above.any(), below.any())
    groups, bar = _groups(colours, len(result))
    for group in groups:
        shown = group.rows & fine & ~above & ~below
        paint = group.style["color"] if bar is None or group.label else bar.to_rgba(colours.numbers)  # type: ignore[union-attr]
        own = [
            paint if isinstance(paint, str) else paint[rows] for rows in (shown, group.rows & ~fine, group.rows & above, group.rows & below)
        ]
        few = min(1.0, _MOST_CURVES / len(result))
        ax.scatter(x[shown], y[shown], s=6 + 16 * few, alpha=0.35 + 0.4 * few, linewidth=0, color=own[0], marker=group.style["marker"])
        _mark(ax, "x", x[group.rows & ~fine], edges.lost, own[1])
        _mark(ax, "^", x[group.rows & above], edges.above, own[2])
        _mark(ax, "v", x[group.rows & below], edges.below, own[3])
        if group.label:
            ax.plot([], [], linestyle="none", color=group.style["color"], marker=group.style["marker"], label=group.label)
    ax.set_xlabel(_words(name))
    ax.set_ylabel(_words(metric))
    if bar is not None:
        ax.figure.colorbar(bar, ax=ax, label=_words(str(by)))
    _legend(ax, _words(by) if by else None)
    return ax


def heatmap(result: SweepResult, x: str, y: str, metric: str | None = None, *, mode: str | None = None, ax: Any = None) -> Any:
    """A final metric over two hyperparameters: one cell for each pair of values, coloured by its best variant's mean over replicates.

    The best cell is framed. A cell without a run stays white; a cell is crossed if each of its variants has a replicate that did not
    complete with a finite metric. A cell too far from the others for the colour bar has a triangle.

    Args:
      result: of a sweep over a grid, or over values that repeat.
      x: the hyperparameter along the horizontal axis; numbers ascend, after other values in the order given.
      y: the hyperparameter along the vertical axis.
      metric: final metric; by default `result.metric`, which the result is ranked by.
      mode: whether a small ("min") or a large ("max") metric is good; may be left out for losses, `METRICS`, and metrics whose mode
        the sweep knows.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes; the colour bar is beside them.

    Raises:
      ValueError: a name or the mode is unknown, the mode is left out for a metric of your own, or a hyperparameter has too many
        values for a grid.
      ImportError: matplotlib is not installed.
    """
    where = "heatmap"
    metric, mode = _ranked(where, result, metric, mode)
    columns, rows = (_cells_along(where, result, name) for name in (x, y))
    ax = _axes(where, ax)
    goodness = _goodness(result, metric, mode)
    best = np.full((len(rows.values), len(columns.values)), np.inf)
    there = np.zeros(best.shape, bool)
    np.minimum.at(best, (rows.codes, columns.codes), goodness)
    there[rows.codes, columns.codes] = True
    cells = np.where(np.isfinite(best), best if mode == "min" else -best, np.nan)
    words = _lost_words(result, metric, _finished(result, metric))
    note = [f"of {len(result)} runs: {words} (x)"] if words else []
    for i, j in np.argwhere(there & np.isnan(cells)):
        ax.plot(j, i, "x", color="0.4")
    if np.any(np.isfinite(cells)):
        note += _draw_cells(ax, cells, mode, _words(metric))
    else:
        note = [f"no cell has a finite {_words(metric)}: {words} (x)"]
    _name_ticks(ax.xaxis, columns.labels, "vertical")
    _name_ticks(ax.yaxis, rows.labels, "horizontal")
    ax.set(xlim=(-0.5, len(columns.values) - 0.5), ylim=(-0.5, len(rows.values) - 0.5), xlabel=_words(x), ylabel=_words(y))
    ax.set_title("\n".join(_wrapped(ax, "; ".join(note))), loc="left", fontsize=8, color="0.3")
    return ax


def parallel_coordinates(
    result: SweepResult, metric: str | None = None, *, names: Sequence[str] | None = None, mode: str | None = None, ax: Any = None
) -> Any:
    """Every run as a line through its hyperparameters to its final metric; the best tenth of the runs, at most 20, are bold.

    Lines are coloured by rank, not by value, so that one bad run doesn't use up the colours. A run that diverged, or has no finite
    metric, is grey and ends before the metric; the other replicates of its variant are grey too if the variant has no rank. A run that
    lies far from the others ends in a triangle.

    Args:
      result: of a sweep.
      metric: final metric; by default `result.metric`, which the result is ranked by.
      names: hyperparameters, from left to right; by default all that differ between runs.
      mode: whether a small ("min") or a large ("max") metric is good; may be left out for losses, `METRICS`, and metrics whose mode
        the sweep knows.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes, on which a height is a share of its column's range. A column of numbers is logarithmic as in `over_hyperparameter`;
      names, also those below numbers, are evenly spaced.

    Raises:
      ValueError: a name or the mode is unknown, the mode is left out for a metric of your own, or no hyperparameter differs
        between runs.
      ImportError: matplotlib is not installed.
    """
    where = "parallel_coordinates"
    metric, mode = _ranked(where, result, metric, mode)
    names = _differing(where, result, names)
    ax = _axes(where, ax)
    import matplotlib  # _axes has made sure that it is there
    from matplotlib.collections import LineCollection

    ranking, fine = result.ranking(metric, mode), _finished(result, metric)
    heights, ticks = map(list, zip(*(_column_heights(_column(where, result, name)) for name in names), strict=True))
    final, inside, ends = _metric_heights(np.where(fine, result.table[metric], np.nan).astype(float))
    lines = np.stack([*heights, final], axis=1)
    places = np.arange(len(names) + 1)
    points = np.stack([np.broadcast_to(places, lines.shape), lines], axis=2)
    colours = matplotlib.colormaps[COLOUR_MAP](np.linspace(0, 0.95, len(ranking)))[::-1]
    bold = min(max(1, len(ranking) // 10), _MOST_RANGES)
    faint = min(1.0, _MOST_CURVES / max(1, len(ranking)))
    unranked = [points[row] if fine[row] else points[row, :-1] for row in np.setdiff1d(np.arange(len(result)), ranking)]
    ax.add_collection(LineCollection(unranked, colors="0.75", linewidths=0.8, linestyles=":", alpha=max(0.1, faint), zorder=1))
    for rows, own, style in (
        (ranking[bold:][::-1], colours[:-bold], dict(linewidths=0.4 + 0.3 * faint, alpha=0.05 + 0.55 * faint, zorder=2)),
        (ranking[:bold][::-1], colours[-bold:], dict(linewidths=2.0, zorder=3)),
    ):
        ax.add_collection(LineCollection(list(points[rows]), colors=own, **style))
    values = result.table[metric].astype(float)
    above, below = (test(values) & fine for test in (inside.above, inside.below))
    for rows, marker in ((above, "^"), (below, "v")):
        ax.scatter(np.full(rows.sum(), len(names)), lines[rows, -1], marker=marker, s=30, color="0.3", zorder=6)
    ax.vlines(places, 0, 1, color="black", linewidth=0.8, zorder=4)
    for place, column in enumerate([*ticks, ends]):
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
    ax.spines[["left", "right", "top", "bottom"]].set_visible(False)
    note = _wrapped(ax, _note(result, metric, fine, above, below, lost="grey"))
    ax.set_ylim(-0.05, 1.1 + 0.05 * len(note))
    ax.text(0.01, 0.99, "\n".join(note), transform=ax.transAxes, va="top", fontsize=8, color="0.3")
    return ax


def hyperparameter_importance(
    result: SweepResult,
    metric: str | None = None,
    *,
    names: Sequence[str] | None = None,
    mode: str | None = None,
    seed: int = 0,
    ax: Any = None,
) -> Any:
    """How much each hyperparameter helps to predict a variant's rank: bars, the most important on top.

    A random forest learns to predict a variant's rank by the metric (its mean over replicates; variants without one share the last
    rank) from its hyperparameters. A bar shows by how much R^2 on variants that the forest hasn't seen falls when one hyperparameter is
    shuffled among them; 0 means that it doesn't help. It is the mean over five folds, with its 95% interval. The title shows the
    forest's R^2: if that is small, the bars say little.

    Args:
      result: of a sweep, with at least ten variants.
      metric: final metric; by default `result.metric`, which the result is ranked by.
      names: hyperparameters; by default all that differ between runs.
      mode: whether a small ("min") or a large ("max") metric is good; may be left out for losses, `METRICS`, and metrics whose mode
        the sweep knows.
      seed: a whole number for the random draws of the folds, the forest and the shuffles.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes.

    Raises:
      ValueError: a name or the mode is unknown, the mode is left out for a metric of your own, no hyperparameter differs between
        runs, or there are fewer than ten variants.
      ImportError: matplotlib or scikit-learn is not installed.

    Source: Breiman (2001).
    """
    where = "hyperparameter_importance"
    metric, mode = _ranked(where, result, metric, mode)
    names = _differing(where, result, names)
    variants, first = np.unique(result.table["variant"], return_index=True)
    check.whole(where, "the number of variants", len(variants), 10)
    ax = _axes(where, ax)
    try:
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.inspection import permutation_importance
        from sklearn.model_selection import KFold
    except ImportError as error:
        raise ImportError(check.needs_extra(where, "scikit-learn", "experiments")) from error
    ranks = stats.rankdata(_goodness(result, metric, mode)[first])
    if np.all(ranks == ranks[0]):
        return _nothing(ax, result, metric)
    settings = np.stack([_column_heights(_column(where, result, name))[0][first] for name in names], axis=1)
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
    """The class that a trained model predicts at each point of a plane of two features, with the examples on top.

    Args:
      result: of a sweep whose training predicts logits: one for each class, or a single one for class 1.
      row: a row of the result whose state was kept.
      dataset: examples with two features, and their labels or the shares of the classes; one that the model gets wrong has a black edge.
      resolution: number of points along each side of the picture at which the model predicts.
      ax: matplotlib axes to draw on; new ones if left out.

    Returns:
      The axes.

    Raises:
      ValueError: the examples don't have two features, or the row's state was not kept.
      TypeError: the row's training has no `predict`.
      ImportError: matplotlib is not installed.
    """
    ax = _axes("decision_boundary", ax)
    x = np.asarray(dataset.x)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(check.message("decision_boundary", "x must have shape (examples, 2)", x.shape))
    training, state = result.training(row), result.state(row)
    low, high = x.min(0), x.max(0)
    margin = np.where(high > low, 0.05 * (high - low), 0.5)
    dtype = x.dtype if x.dtype.kind == "f" else np.float32
    across, up = (np.linspace(low[i] - margin[i], high[i] + margin[i], resolution, dtype=dtype) for i in (0, 1))
    plane = np.stack(np.meshgrid(across, up), axis=-1)
    classes = _classes(predict(training, state, plane.reshape(-1, 2))).reshape(resolution, resolution)
    predictions = predict(training, state, x)
    y = _true_classes(dataset.y, single=np.size(predictions) == len(x))
    right = _classes(predictions) == y
    labels = range(max(classes.max(), y.max()) + 1)
    edges = np.arange(len(labels) + 1) - 0.5
    ax.contourf(across, up, classes, levels=edges, colors=[COLOURS[i % len(COLOURS)] for i in labels], alpha=0.25)
    for label in labels:
        for own, edge in ((right, "white"), (~right, "black")):
            style = dict(color=COLOURS[label % len(COLOURS)], marker=MARKERS[label % len(MARKERS)], edgecolor=edge)
            shown = x[own & (y == label)]
            name = f"class {label}" if edge == "white" and label < _MOST_NAMES else None
            ax.scatter(*shown.T, s=30, linewidth=0.6 if edge == "white" else 1.4, label=name, **style)
    ax.set_xlabel("feature 0")
    ax.set_ylabel("feature 1")
    _legend(ax, None)
    return ax


def _groups(column: scales.Column | None, runs: int) -> tuple[list[_Group], Any]:
    """Groups of runs to draw in one style, one for each value; and a colour bar if the numbers, then the first group, need one."""
    if column is None:
        return [_Group(None, np.ones(runs, bool), _style(0))], None
    bar = _bar(column)
    if bar is None:
        commonest = np.argsort(-np.bincount(column.codes), kind="stable")
        return _named(column, commonest.tolist()), None
    numbers = _Group(None, ~np.isnan(column.numbers), dict(color=GREY, marker="o", linestyle="-"))
    return [numbers, *_named(column, list(range(column.names)))], bar


def _best_of(column: scales.Column | None, goodness: np.ndarray) -> tuple[list[_Group], Any]:
    """Groups of runs of which the best variant is drawn, and a colour bar if there are groups without a label."""
    if column is None:
        return [_Group("best variant", np.ones(len(goodness), bool), _style(0))], None
    best = np.full(len(column.values), np.inf)
    np.minimum.at(best, column.codes, goodness)
    order, bar = np.argsort(best, kind="stable").tolist(), _bar(column)
    if bar is None:
        return _named(column, order), None
    numbers = range(column.names, len(column.values))
    ranges = np.array_split(numbers, min(len(numbers), _MOST_RANGES))
    style = dict(color=GREY, linestyle="-")
    groups = [_Group(None, (column.codes >= own[0]) & (column.codes <= own[-1]), style) for own in ranges]
    return [*groups, *_named(column, [code for code in order if code < column.names])], bar


def _named(column: scales.Column, order: list[int]) -> list[_Group]:
    """A group for each value, numbers ascending; of more than twelve values, the first eleven in order, and one group for the others."""
    kept = order if len(order) <= _MOST_NAMES else order[: _MOST_NAMES - 1]
    groups = [_Group(column.labels[code], column.codes == code, _style(i)) for i, code in enumerate(sorted(kept))]
    others = sorted(set(order) - set(kept))
    if others:
        groups.append(_Group(f"{len(others)} others", np.isin(column.codes, others), dict(color=GREY, marker=".", linestyle="-")))
    return groups


def _style(i: int) -> dict[str, Any]:
    """The i-th combination of colour, marker and line; after the seventh, colours are combined with other markers and lines."""
    shifted = (i + i // len(COLOURS)) % len(COLOURS)
    return dict(color=COLOURS[i % len(COLOURS)], marker=MARKERS[shifted], linestyle=LINES[shifted])


def _bar(column: scales.Column) -> Any:
    """A colour bar if there are more numbers than a legend should list, else None."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm, Normalize, SymLogNorm

    numbers = np.array(column.values[column.names :])
    if len(numbers) <= len(COLOURS):
        return None
    scale, ends = scales.scale_of(numbers), (numbers[0], numbers[-1])
    norm = LogNorm(*ends) if scale == "log" else Normalize(*ends)
    if scale == "symlog":
        norm = SymLogNorm(np.abs(numbers[numbers != 0]).min(), vmin=ends[0], vmax=ends[1])
    return ScalarMappable(norm, ListedColormap(matplotlib.colormaps[COLOUR_MAP](np.linspace(0, 0.95, 256))))  # the lightest can't be seen


def _draw_runs(ax: Any, steps: np.ndarray, curves: np.ndarray) -> None:
    """Draws every run as a faint line, or bands that hold shares of the runs."""
    marker = "." if len(steps) == 1 else None
    if len(curves) <= _MOST_CURVES:
        ax.plot(steps, curves.T, color=GREY, linewidth=0.5, alpha=0.35, marker=marker, zorder=1)
        return
    finite = np.where(np.isfinite(curves), curves, np.nan)
    steps, finite = steps[~np.isnan(finite).all(0)], finite[:, ~np.isnan(finite).all(0)]
    edges = [(1 - share) / 2 for share in _BANDS]
    levels = np.nanquantile(finite, [*edges, 0.5, *(1 - edge for edge in edges)], axis=0) if len(steps) else np.zeros((5, 0))
    for i, share in enumerate(_BANDS):
        label = f"middle {share:.0%} of the runs"
        ax.fill_between(steps, levels[i], levels[i + len(_BANDS) + 1], color=GREY, alpha=0.3, linewidth=0, zorder=1, label=label)
    ax.plot(steps, levels[len(_BANDS)], color="0.35", linewidth=1, marker=marker, zorder=1, label="their median")


def _draw_mean(ax: Any, steps: np.ndarray, own: np.ndarray, *, label: str | None, interval: bool, **style: Any) -> None:
    """Draws the mean over a variant's replicates as a bold line, with its interval."""
    mean = own.mean(0)
    ax.plot(steps, mean, linewidth=2.2 if interval else 1.5, marker="o" if len(steps) == 1 else None, zorder=3, label=label, **style)
    if len(own) > 1 and interval:
        half = stats.sem(own) * stats.t.ppf((1 + LEVEL) / 2, len(own) - 1)
        ax.fill_between(steps, mean - half, mean + half, color=style["color"], alpha=0.2, linewidth=0, zorder=2)


def _draw_cells(ax: Any, cells: np.ndarray, mode: str, words: str) -> list[str]:
    """Draws a heatmap's cells and colour bar, the best cell's frame, and triangles for cells beyond the colours; returns notes on those."""
    from matplotlib.colors import LogNorm, Normalize

    values = cells[np.isfinite(cells)]
    scale = scales.metric_scale(values, values)
    low, high = _ends(values, values, scale)
    norm = (LogNorm if scale == "log" else Normalize)(low, high)
    colours = COLOUR_MAP if mode == "min" else f"{COLOUR_MAP}_r"  # dark is good
    image = ax.pcolormesh(np.arange(cells.shape[1]), np.arange(cells.shape[0]), cells, cmap=colours, norm=norm, shading="nearest")
    above, below = cells > high, cells < low
    for outside, marker in ((above, "^"), (below, "v")):
        up, across = np.nonzero(outside)
        ax.scatter(across, up, marker=marker, s=36, color="white", edgecolor="black")
    extend = {(True, True): "both", (True, False): "max", (False, True): "min", (False, False): "neither"}[
        bool(above.any()), bool(below.any())
    ]
    ax.figure.colorbar(image, ax=ax, label=words, extend=extend)
    i, j = divmod(int((np.nanargmin if mode == "min" else np.nanargmax)(cells)), cells.shape[1])
    ax.plot([j - 0.5, j + 0.5, j + 0.5, j - 0.5, j - 0.5], [i - 0.5, i - 0.5, i + 0.5, i + 0.5, i - 0.5], color=COLOURS[1], linewidth=3)
    counts = [f"{outside.sum()} {side} ({mark})" for outside, side, mark in ((above, "above", "▲"), (below, "below", "▼")) if outside.any()]
    return [f"of {len(values)} cells: {', '.join(counts)}"] if counts else []


def _inside(ax: Any, runs: np.ndarray) -> _Inside:
    """Sets the scale of the vertical axis, and finds where it should begin and end for the runs' values, (runs, points)."""
    taken = _taken(ax, "y")
    if ax.get_yscale() == "linear" and not taken:
        ax.set_yscale(scales.metric_scale(*_extremes(runs, np.isfinite(runs))))
    scale = ax.get_yscale()
    lows, highs = _extremes(runs, np.isfinite(runs) & ((runs > 0) | (scale != "log")))
    ends = _ends(lows, highs, scale) if len(lows) else (0.1, 1.0) if scale == "log" else (0.0, 1.0)
    return _Inside(*ends, scale, taken)


def _extremes(runs: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest shown value of every run that has one."""
    rows = shown.any(1)
    return np.where(shown, runs, np.inf)[rows].min(1), np.where(shown, runs, -np.inf)[rows].max(1)


def _ends(lows: np.ndarray, highs: np.ndarray, scale: str) -> tuple[float, float]:
    """The least and the largest value that an axis or a colour bar shows, exactly, so that none is lost by rounding."""
    low, high = scales.limits(*(np.log10(ends) if scale == "log" else ends for ends in (lows, highs)))
    if scale == "log":
        low, high = lows[np.log10(lows) >= low].min(), highs[np.log10(highs) <= high].max()
    return float(low), float(high)


class _Edges(NamedTuple):
    """The heights of the marks for runs that are not between the limits, as shares of the axes' height."""

    lost: float
    above: float
    below: float


def _frame(ax: Any, inside: _Inside, note: str, lost: bool, above: bool, below: bool) -> _Edges:
    """Sets the ends of the vertical axis, with room inside for a note and for the marks of runs that are not between its limits."""
    row = min(_ROW * ax.figure.dpi / 72 / max(1.0, ax.get_window_extent().height), 0.1)
    lines = _wrapped(ax, note)
    top = 1 - row * (len(lines) + bool(lost) + bool(above))
    bottom = row * bool(below)
    forward = ax.yaxis.get_transform()
    low, high = forward.transform(np.array([inside.low, inside.high], float))
    if not high > low:
        half = 0.5 if inside.scale == "log" else 0.05 * abs(low) or 0.5
        low, high = low - half, high + half
    whole = (high / 2 - low / 2) * 2 / (top - bottom - 0.08)
    start = low - (bottom + 0.04) * whole
    ends = forward.inverted().transform(np.array([start, start + whole]))
    if inside.taken:
        ends = [min(*ends, *ax.get_ylim()), max(*ends, *ax.get_ylim())]
    ax.set_ylim(*ends)
    for start, height in ((top, 1 - top), (0, bottom)):
        if height:
            _shade(ax, (0, start), 1, height)
    ax.text(0.01, 1 - 0.2 * row, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=8, color="0.3", zorder=5, clip_on=True)
    return _Edges(1 - row * (len(lines) + 0.5), top + 0.5 * row, 0.5 * row)


def _horizontal(ax: Any, column: scales.Column) -> np.ndarray:
    """Sets the scale, ends and ticks of the horizontal axis for a column; returns the places of its entries, names left of numbers."""
    numbers = np.array(column.values[column.names :])
    if not len(numbers):
        _name_ticks(ax.xaxis, column.labels, "vertical")
        ax.set_xlim(-0.5, column.names - 0.5)
        return column.codes.astype(float)
    taken, scale = _taken(ax, "x"), ax.get_xscale()
    if scale == "linear" and not taken:
        scale = scales.scale_of(numbers)
    elif scale == "log" and numbers[0] <= 0:
        scale = "symlog"
    if scale != ax.get_xscale():
        ax.set_xscale(scale, **(dict(linthresh=np.abs(numbers[numbers != 0]).min()) if scale == "symlog" else {}))
    forward = ax.xaxis.get_transform()
    along = forward.transform(numbers)
    span = along[-1] - along[0] or (1.0 if scale == "log" else abs(along[0]) or 1.0)
    apart = 0.1 * span * np.arange(column.names, 0, -1)
    left, right = along[0] - (apart[0] + 0.06 * span if column.names else 0.04 * span), along[-1] + 0.04 * span
    *beside, left, right, edge = forward.inverted().transform(np.array([*(along[0] - apart), left, right, along[0] - 0.05 * span]))
    places = np.array([*beside, *numbers])
    if column.names:
        ax.axvspan(left, edge, color="0.95", zorder=0)
    if taken:
        ax.set_xlim(min(left, *ax.get_xlim()), max(right, *ax.get_xlim()))
    else:
        ax.set_xlim(left, right)
        _number_ticks(ax, column, places, bool(np.all(np.diff(along) >= 0.07 * span)))
    at: np.ndarray = places[column.codes]
    return at


def _number_ticks(ax: Any, column: scales.Column, places: np.ndarray, apart: bool) -> None:
    """Sets ticks at the names, and at the numbers themselves if they are few and far from each other."""
    from matplotlib.ticker import NullLocator

    numbers = np.array(column.values[column.names :])
    if len(numbers) > 8 or not apart:
        if not column.names:
            return
        numbers = np.array(
            [at for at in ax.xaxis.get_major_locator().tick_values(numbers[0], numbers[-1]) if numbers[0] <= at <= numbers[-1]]
        )
    ax.set_xticks([*places[: column.names], *numbers], [*column.labels[: column.names], *scales.short(numbers.tolist())])
    ax.xaxis.set_minor_locator(NullLocator())


def _name_ticks(axis: Any, labels: list[str], rotation: str) -> None:
    """Sets a tick for each label, or, if there are many, for as many of them as can be read."""
    every = -(-len(labels) // (2 * _MOST_NAMES))
    crowded = len(labels[::every]) > _MOST_NAMES or sum(map(len, labels)) > 60
    turned = rotation if crowded else "horizontal"
    axis.set_ticks(range(0, len(labels), every), labels[::every], rotation=turned, fontsize=8 if crowded else None)


def _taken(ax: Any, axis: str) -> bool:
    """Whether something was drawn before on this axis, here or on a panel that shares it."""
    shared = ax.get_shared_x_axes() if axis == "x" else ax.get_shared_y_axes()
    return any(panel.has_data() for panel in shared.get_siblings(ax))


def _mark(ax: Any, marker: str, x: np.ndarray, height: float, color: Any = "0.3") -> None:
    """Marks at places along the horizontal axis, at a share of the axes' height."""
    if len(x):
        few = min(1.0, _MOST_CURVES / len(x))
        line = dict(linewidth=1.2) if marker == "x" else dict(linewidth=0)
        place = ax.get_xaxis_transform()
        ax.scatter(x, np.full(len(x), height), marker=marker, s=28, alpha=0.2 + 0.6 * few, color=color, transform=place, zorder=4, **line)


def _shade(ax: Any, corner: tuple[float, float], width: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle(corner, width, height, transform=ax.transAxes, facecolor="0.95", edgecolor="none", zorder=0))


def _legend(ax: Any, title: str | None) -> None:
    """Draws a legend beside the axes if the figure makes room for it, else inside, where it doesn't cover a neighbour."""
    if not ax.get_legend_handles_labels()[0]:
        return
    if ax.figure.get_figure(root=True).get_layout_engine() is not None:
        place = dict(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    else:
        place = dict(loc="center right", framealpha=0.7)
    ax.legend(title=title, fontsize=9, title_fontsize=9, **place)


def _note(result: SweepResult, metric: str, fine: np.ndarray, above: np.ndarray, below: np.ndarray, lost: str = "x") -> str:
    """A note on the runs that are not between the limits; empty if all are."""
    words = _lost_words(result, metric, fine)
    parts = [f"{side.sum()} {word}" for side, word in ((above, "above (▲)"), (below, "below (▼)")) if side.any()]
    parts += [f"{words} ({lost})"] if words else []
    if not fine.any():
        return f"no run has a finite {_words(metric)}: {', '.join(parts)}"
    return f"of {len(result)} runs: {', '.join(parts)}" if parts else ""


def _nothing(ax: Any, result: SweepResult, metric: str) -> Any:
    """Axes that say why there is nothing to draw."""
    words = _lost_words(result, metric, _finished(result, metric))
    why = f": {words}" if words else ", and all have the same mean"
    ax.text(
        0.5, 0.5, "\n".join(_wrapped(ax, f"nothing tells the variants' {_words(metric)} apart{why}")), transform=ax.transAxes, ha="center"
    )
    ax.set_axis_off()
    return ax


def _lost_words(result: SweepResult, metric: str, fine: np.ndarray) -> str:
    """How many runs have no finite metric, and why."""
    counts = Counter(result.table["status"][~fine].tolist())
    bare = counts.pop("completed", 0)
    parts = [f"{count} {status}" for status, count in sorted(counts.items())]
    return ", ".join([*parts, f"{bare} without a finite {_words(metric)}"] if bare else parts)


def _wrapped(ax: Any, note: str) -> list[str]:
    """A note, broken into lines that fit on the axes, also after a layout has made room beside them."""
    left = 1.0 if ax.figure.get_figure(root=True).get_layout_engine() is None else 0.75
    width = left * ax.get_window_extent().width * 72 / ax.figure.dpi
    return textwrap.wrap(note, max(12, int(width / 5)))


def _finished(result: SweepResult, metric: str) -> np.ndarray:
    """Which runs completed with a finite metric."""
    return np.asarray((result.table["status"] == "completed") & np.isfinite(result.table[metric]))


def _goodness(result: SweepResult, metric: str, mode: str) -> np.ndarray:
    """For each run, its variant's mean over replicates, with the sign that makes small good; inf if a replicate has no finite metric."""
    place = np.unique(result.table["variant"], return_inverse=True)[1]
    values = np.where(_finished(result, metric), result.table[metric], np.nan).astype(float)
    means = np.bincount(place, values) / np.bincount(place)
    return np.where(np.isfinite(means), means if mode == "min" else -means, np.inf)[place]


def _column(where: str, result: SweepResult, name: str) -> scales.Column:
    check.one_of(where, "hyperparameter", name, result.hyperparameter_names)
    return scales.column(result.table[name])


def _check_places(where: str, name: str, column: scales.Column) -> None:
    """Checks that a column can be placed on an axis: it has numbers, and at most a few names, or booleans."""
    if len(column.values) == column.names and not set(column.labels) <= {"True", "False"}:
        raise ValueError(check.message(where, f"{name} must hold numbers", ", ".join(column.labels[:3]), "by= tells names apart"))
    if column.names > _MOST_NAMES:
        raise ValueError(check.message(where, f"{name} must hold numbers, and at most {_MOST_NAMES} names among them", column.names))


def _cells_along(where: str, result: SweepResult, name: str) -> scales.Column:
    """A hyperparameter along one side of a heatmap."""
    column = _column(where, result, name)
    if len(column.values) > _MOST_CELLS:
        fix = "over_hyperparameter draws values that don't repeat"
        raise ValueError(check.message(where, f"{name} must have at most {_MOST_CELLS} different values", len(column.values), fix))
    return column


def _differing(where: str, result: SweepResult, names: Sequence[str] | None) -> list[str]:
    """The hyperparameters asked for, or all that differ between runs."""
    if names is None:
        names = [name for name in result.hyperparameter_names if len(_column(where, result, name).values) > 1]
    for name in names:
        check.one_of(where, "hyperparameter", name, result.hyperparameter_names)
    if not names:
        raise ValueError(check.message(where, "needs a hyperparameter that differs between runs", "none"))
    return list(names)


def _column_heights(column: scales.Column) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """A column's entries as shares of its range, names below numbers, and its ticks: (height, text) each."""
    numbers = np.array(column.values[column.names :])
    if not len(numbers):
        share = np.arange(column.names) / max(1, column.names - 1)
        return share[column.codes], _thinned(list(zip(share.tolist(), column.labels, strict=True)))
    floor = 0.15 if column.names else 0.0
    names = floor * np.arange(column.names) / max(1, column.names)
    scale = scales.scale_of(numbers)
    forward, back = _transforms(scale, numbers)
    along = forward(numbers)
    span = along[-1] - along[0] or 1.0
    ends = np.linspace(along[0], along[-1], 3 if along[-1] > along[0] else 1)
    if len(numbers) <= 5 and np.all(np.diff(along) >= 0.05 * span):
        ends = along
    marks = zip((floor + (1 - floor) * (ends - along[0]) / span).tolist(), scales.short(_rounded(back(ends))), strict=True)
    places = np.concatenate([names, floor + (1 - floor) * (along - along[0]) / span])
    return places[column.codes], _thinned(list(zip(names.tolist(), column.labels[: column.names], strict=True))) + list(marks)


def _metric_heights(values: np.ndarray) -> tuple[np.ndarray, _Inside, list[tuple[float, str]]]:
    """A metric's values as shares of its range without outliers, that range, and its ticks: (height, text) each."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return values, _Inside(0.0, 0.0, "linear"), []
    scale = scales.metric_scale(finite, finite)
    inside = _Inside(*_ends(finite, finite, scale), scale)
    forward, back = _transforms(scale, finite)
    low, high = forward(np.array([inside.low, inside.high]))
    span = high - low or 1.0
    ends = np.linspace(low, high, 3 if high > low else 1)
    heights = np.clip((forward(values) - low) / span, -0.03, 1.03)
    return heights, inside, list(zip(((ends - low) / span).tolist(), scales.short(_rounded(back(ends))), strict=True))


def _transforms(scale: str, numbers: np.ndarray) -> tuple[Any, Any]:
    """A scale's transform, and its inverse."""
    from matplotlib.scale import SymmetricalLogTransform

    if scale == "log":
        return np.log10, lambda values: 10**values
    if scale == "symlog":
        transform = SymmetricalLogTransform(10, np.abs(numbers[numbers != 0]).min(), 1)
        return transform.transform, transform.inverted().transform
    return np.asarray, np.asarray


def _rounded(ends: np.ndarray) -> list[float]:
    """Rounds the numbers of ticks to three digits, so that their text is short."""
    return [float(f"{end:.3g}") for end in ends]


def _thinned(ticks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return ticks[:: -(-len(ticks) // _MOST_NAMES)] if ticks else ticks


def _classes(predictions: Any) -> np.ndarray:
    """The class of each example by its logits; -1 where one of them is NaN."""
    logits = np.asarray(predictions).reshape(len(predictions), -1)
    classes = (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else logits.argmax(1)
    return np.where(np.isnan(logits).any(1), -1, classes)


def _true_classes(targets: Any, *, single: bool) -> np.ndarray:
    """The class of each example, from labels, from shares of the classes, or, for a single logit, from labels 0 and 1 or -1 and 1."""
    targets = np.asarray(targets).reshape(len(targets), -1)
    if targets.shape[1] > 1:
        return np.asarray(targets.argmax(1))
    return np.asarray(targets[:, 0] > (0 if targets.min() < 0 else 0.5) if single else targets[:, 0], int)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("/", " ")


def _metric(where: str, result: SweepResult, metric: str | None) -> str:
    metric = result.metric if metric is None else metric
    check.one_of(where, "metric", metric, result.metrics)
    return metric


def _ranked(where: str, result: SweepResult, metric: str | None, mode: str | None) -> tuple[str, str]:
    """The metric to rank by, and its mode."""
    metric = _metric(where, result, metric)
    return metric, wanted_mode(where, metric, mode, result.modes)


def _axes(where: str, ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(check.needs_extra(where, "matplotlib", "experiments")) from error
    return plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1]
