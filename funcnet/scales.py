"""Prepares a column of values for a picture: its different entries, short labels, a scale and the limits of an axis."""

import math
import numbers
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

_LONGEST = 28  # characters of a label
_RARE, _FAR = 20, 10.0  # one run in 20 may lie outside, if it is 10 times the others' range away
_QUARTER_FAR = 20.0  # and one in 4, if it is 20 times the middle half's range away
_WIDE = 100.0  # a metric that spans more than this factor is drawn on a logarithmic axis


class Column(NamedTuple):
    """A column of a table. Finite numbers have a place on an axis; other entries (None, text, booleans, NaN, infinities) are names."""

    numbers: np.ndarray  # (rows,), float64; NaN where the entry is a name
    codes: np.ndarray  # (rows,), the index of each entry in values
    values: list[float]  # the different entries: first names, as NaN, in order of appearance, then numbers, ascending
    labels: list[str]  # one for each of the values

    @property
    def names(self) -> int:
        """How many of the different entries are names; they come first."""
        return sum(map(math.isnan, self.values))


def column(entries: Sequence[Any] | np.ndarray) -> Column:
    """Finds the different entries of a column: None equals None, NaN equals NaN, and True is not 1.

    Example:
      >>> column([0.5, None, 0.30000000000000004, None]).labels
      ['None', '0.3', '0.5']
      >>> column([0.5, None, 0.25, None]).codes
      array([2, 0, 1, 0])
    """
    entries = entries.tolist() if isinstance(entries, np.ndarray) else list(entries)
    keys = [_key(entry) for entry in entries]
    different = dict(zip(reversed(keys), reversed(entries), strict=True))
    met = [key for key in dict.fromkeys(keys)]
    names = [key for key in met if not _is_number(different[key])]
    found = sorted((key for key in met if _is_number(different[key])), key=lambda key: float(different[key]))
    values = [math.nan] * len(names) + [float(different[key]) for key in found]
    labels = _distinct([_cut(_text(different[key])) for key in names]) + short([different[key] for key in found])
    place = {key: i for i, key in enumerate([*names, *found])}
    codes = np.array([place[key] for key in keys], int)
    return Column(np.array(values)[codes] if values else np.zeros(0), codes, values, labels)


def short(values: Sequence[float]) -> list[str]:
    """Numbers as text, in as few digits as keep them different, but at least three.

    Example:
      >>> short([0.1, 0.30000000000000004, 1e-05, 16384])
      ['0.1', '0.3', '1e-05', '16384']
      >>> short([0.1234, 0.1235])
      ['0.1234', '0.1235']
    """
    words: list[str] = []
    for digits in range(3, 18):
        words = [str(int(value)) if value == int(value) and abs(value) < 1e6 else f"{value:.{digits}g}" for value in values]
        if len(set(words)) == len(set(values)):
            break
    return words


def scale_of(values: Iterable[float] | np.ndarray) -> str:
    """The scale on which a hyperparameter's different values are evenly spread: "linear", "log" or "symlog".

    Values drawn uniformly between a and b have a geometric mean above the logarithmic mean (b - a) / log(b / a); values whose
    logarithm is uniform have one below it. Comparing the two means is the likelihood ratio test of the two distributions. "symlog" is
    logarithmic on both sides of zero, for values of which some are zero or negative. Fewer than 50 values within a decade tell too
    little and get a linear scale, except for powers such as 16, 32, 64.

    Example:
      >>> scale_of([1e-3, 1e-2, 1e-1]), scale_of([1, 2, 3]), scale_of([0, 1e-4, 1e-3, 1e-2])
      ('log', 'linear', 'symlog')
    """
    values = np.asarray(values, float)
    values = np.unique(values[np.isfinite(values)])
    sizes = np.unique(np.abs(values[values != 0]))
    if len(sizes) < 2:
        return "linear"
    logs = np.log(sizes)
    span = logs[-1] - logs[0]
    signs = len({*np.sign(values[values != 0])})
    if len(sizes) == 2:
        logarithmic = span > math.log(50)
    elif span < math.log(9.99) and len(sizes) < 50:
        logarithmic = values[0] > 0 and span > math.log(3) and np.ptp(np.diff(logs)) < 0.1 * span / len(sizes)  # such as 16, 32, 64
    else:
        even = logs[-1] + math.log1p(-math.exp(-span)) - math.log(span)  # the log of the logarithmic mean
        logarithmic = span > math.log(3) and np.mean(logs[1:-1]) < even - (math.log(2) if signs == 2 else 0)
    if not logarithmic:
        return "linear"
    return "log" if values[0] > 0 else "symlog"


def metric_scale(lows: np.ndarray, highs: np.ndarray) -> str:
    """ "log" for a positive metric that spans more than two decades, even without a few outlying runs; else "linear".

    Args:
      lows: finite, the least value of each run.
      highs: finite, the largest.

    Example:
      >>> losses = np.geomspace(1e-4, 1, 9)
      >>> metric_scale(losses, losses), metric_scale(losses[5:], losses[5:])
      ('log', 'linear')
    """
    if not len(lows) or lows.min() <= 0:
        return "linear"
    _, top = limits(lows, highs)
    few, lows, highs = _few(len(lows)), np.sort(lows), np.sort(highs[highs <= top])
    return "log" if highs[max(0, len(highs) - 1 - few)] / _WIDE > lows[few] else "linear"


def limits(lows: np.ndarray, highs: np.ndarray) -> tuple[float, float]:
    """Finds where an axis starts and ends, so that a few outlying runs don't flatten the others.

    At most a twentieth of the runs (or one, if that is more) lie outside if they are more than ten times the range of the others away,
    or a hundred times among fewer than 20 runs. Up to a quarter of the runs lie outside if they are more than twenty times the range of
    the middle half away.

    Args:
      lows: finite, the least value of each run, on the axis' scale.
      highs: finite, the largest.

    Returns:
      The least and the largest value inside.

    Example:
      >>> limits(np.array([0.1, 0.2, 0.3, 3e16]), np.array([0.1, 0.2, 0.3, 3e16]))
      (0.1, 0.3)
    """
    lows, highs = np.sort(lows), np.sort(highs)
    with np.errstate(over="ignore"):
        return -_top(-highs[::-1], -lows[::-1]), _top(lows, highs)


def _top(lows: np.ndarray, highs: np.ndarray) -> float:
    """The largest value inside the limits, from each run's least and largest value, both sorted."""
    inside, least = len(highs), len(highs) - max(1, len(highs) // 4)
    while True:
        kept = _without_far(lows, highs[:inside])
        if kept == inside or kept < least:
            return float(highs[inside - 1])
        inside = kept


def _without_far(lows: np.ndarray, highs: np.ndarray) -> int:
    """How many runs are left without those that lie far from the others."""
    count = len(highs)
    judged = [(0, _few(count), _FAR if count >= 20 else 100.0)] if count >= 3 else []
    judged += [(count // 4, count // 4, _QUARTER_FAR)] if count >= 8 else []
    kept = [count]
    for bottom, few, far in judged:
        inner = highs[-1 - few]
        span = inner - lows[bottom]
        if span > 0:
            kept.append(int(np.searchsorted(highs, inner + far * span, side="right")))
    return min(kept)


def _few(count: int) -> int:
    """How many of count runs may be outliers at one end."""
    return max(1, count // _RARE) if count >= 3 else 0


def _is_number(entry: Any) -> bool:
    """Whether an entry has a place on an axis."""
    return isinstance(entry, numbers.Real) and not isinstance(entry, bool | np.bool_) and math.isfinite(entry)


def _key(entry: Any) -> Hashable:
    """A key that is equal for equal entries."""
    if isinstance(entry, numbers.Real) and not isinstance(entry, bool | np.bool_):
        return ("number", float(entry)) if entry == entry else ("number", "nan")
    if isinstance(entry, np.generic):
        return _key(entry.item())
    try:
        hash(entry)
    except TypeError:
        return (type(entry), repr(entry))
    return (type(entry), entry)


def _text(entry: Any) -> str:
    return str(getattr(entry, "__name__", entry))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[1 - _LONGEST // 2 :]}"


def _distinct(labels: list[str]) -> list[str]:
    """Adds a number to labels that occur more than once."""
    seen: dict[str, int] = {}
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
    count: dict[str, int] = {}
    numbered = []
    for label in labels:
        count[label] = count.get(label, 0) + 1
        numbered.append(f"{label} ({count[label]})" if seen[label] > 1 else label)
    return numbered
