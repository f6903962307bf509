"""Ranks variants by the mean over their runs; a variant is ranked only if every one of its runs has a finite value to compare."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from funcnet.metrics import MODES, mode_of

STATUSES = ("completed", "diverged", "unfinished")
_BEST = "best_step"  # a table has this column if it shows each run at its best evaluation (keep_best)
Table = Mapping[str, np.ndarray]


class Statistics(NamedTuple):
    """Statistics over the runs of each variant; arrays with one entry per variant."""

    variants: np.ndarray  # ascending
    mean: dict[str, np.ndarray]  # by metric, over the `rankable` runs; NaN if there are none
    std: dict[str, np.ndarray]  # by metric, with a divisor of runs - 1; NaN for fewer than two
    completed: np.ndarray  # number of `rankable` runs
    statuses: dict[str, np.ndarray]  # by status, number of runs


def default_metric(metrics: Sequence[str]) -> str:
    """The default metric to rank by: the validation loss, else the training loss, else the first metric (of validation if there is any)."""
    wanted = [name for name in ("validation/loss", "train/loss") if name in metrics]
    wanted += [name for name in metrics if name.startswith("validation/")]
    return [*wanted, *metrics, "validation/loss"][0]


def own_name(metric: str) -> str:
    """A metric's name as evaluate reports it, without the part of the data: "loss" for "validation/loss"."""
    return metric.partition("/")[2] or metric


def known_mode(metric: str, modes: Mapping[str, str]) -> str | None:
    """A metric's mode: from modes, by its full name, its own name or the last part of it; else from `MODES` by the last part."""
    last = metric.rpartition("/")[2]
    return next((modes[name] for name in (metric, own_name(metric), last) if name in modes), MODES.get(last))


def wanted_mode(where: str, metric: str, mode: str | None, modes: Mapping[str, str]) -> str:
    """The given mode, or if there is none the known one.

    Raises:
      ValueError: the mode is unknown.
    """
    return mode_of(where, metric, known_mode(metric, modes) if mode is None else mode)


def rankable(table: Table) -> np.ndarray:
    """Which runs can be compared, (rows,), bool: those that completed; with keep_best, those that have a best and did not diverge."""
    fine: np.ndarray = (table["status"] != "diverged") & (table[_BEST] >= 0) if _BEST in table else table["status"] == "completed"
    return fine


def statistics(table: Table, metrics: Sequence[str]) -> Statistics:
    """Means, standard deviations and counts over each variant's runs."""
    variants, place = np.unique(table["variant"], return_inverse=True)
    completed = rankable(table)
    place_completed = place[completed]
    count = np.bincount(place_completed, minlength=len(variants))
    statuses = [*STATUSES, *sorted(set(table["status"].tolist()) - set(STATUSES))]
    mean, std = {}, {}
    with np.errstate(all="ignore"):  # a metric may be infinite or NaN: so is the mean
        for name in metrics:
            values = table[name][completed].astype(float)
            mean[name] = np.bincount(place_completed, values, len(variants)) / count
            squares = (values - mean[name][place_completed]) ** 2
            std[name] = np.where(count > 1, np.sqrt(np.bincount(place_completed, squares, len(variants)) / (count - 1)), np.nan)
    runs = {status: np.bincount(place[table["status"] == status], minlength=len(variants)) for status in statuses}
    return Statistics(variants, mean, std, count, runs)


def ranked(table: Table, metric: str, mode: str) -> list[tuple[int, list[int]]]:
    """The variants that can be ranked, best mean first, each with its rows, best first; ties keep the table's order."""
    fine = rankable(table) & np.isfinite(table[metric].astype(float))
    spoilt = set(table["variant"][~fine].tolist())
    rows: dict[int, list[int]] = {}
    for row, variant in enumerate(table["variant"].tolist()):
        if variant not in spoilt:
            rows.setdefault(variant, []).append(row)
    found = statistics(table, [metric])
    sign = 1 if mode == "min" else -1
    means = dict(zip(found.variants.tolist(), (sign * found.mean[metric]).tolist(), strict=True))
    values = (sign * table[metric]).tolist()
    return [(variant, sorted(rows[variant], key=values.__getitem__)) for variant in sorted(sorted(rows), key=means.__getitem__)]


def hindrances(table: Table, metric: str) -> tuple[str, str]:
    """Why runs can't be ranked, in words: how many there are for each reason, and what to do about it."""
    status, steps = table["status"], table["steps"]
    values = table[metric].astype(float) if metric in table else np.full(len(status), np.nan)
    completed, diverged, pruned = rankable(table), status == "diverged", status == "pruned"
    kinds = [
        (diverged & (steps == 0), "diverged at step 0", "look at the data and the loss, not at the rate"),
        (diverged & (steps > 0), "diverged later", "try lower learning rates"),
        (completed & np.isnan(values), f"completed with {metric} NaN", "look at the metric and the data it is taken on"),
        (completed & np.isinf(values), f"completed with {metric} infinite", "look at the loss, and at labels or targets out of range"),
        (~completed & pruned, "pruned", "keep_best=True ranks every run by its best evaluation"),
        (~completed & ~diverged & ~pruned, "unfinished", "let the sweep run on"),
    ]
    met = [(int(which.sum()), words, fix) for which, words, fix in kinds if which.any()]
    counts = ", ".join(f"{count} {words}" for count, words, _ in met)
    fixes = [f"{words.replace(f' {metric}', '')}: {fix}" if len(met) > 1 else fix for _, words, fix in met]
    return counts, "; ".join(fixes)


def why_none(table: Table, metric: str) -> tuple[str, str]:
    """Why no variant of a result can be ranked: what was got, and a fix, for an error message."""
    variants = len(np.unique(table["variant"]))
    counts, fix = hindrances(table, metric)
    runs = f"{len(table['variant'])} run{'s' if len(table['variant']) > 1 else ''}"
    of = runs if variants == len(table["variant"]) else f"{runs} of {variants} variants"
    return f"none: of {of} {counts}", fix
