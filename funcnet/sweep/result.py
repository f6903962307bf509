"""What a sweep leaves: a table, curves, and the states that were kept; it can be saved and loaded safely."""

import functools
import html
import io
import json
import math
import os
import zipfile
import zlib
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import numpy as np

from funcnet import check, optimizers
from funcnet.sweep.ranking import default_metric as default_metric
from funcnet.sweep.ranking import direction, known_mode, own_name, ranked, statistics, why_none
from funcnet.training import Training, TrainState, as_training
from funcnet.tree import PyTree

_FORMAT = 1
_ARRAYS, _REST = "arrays.npz", "result.json"
_DAMAGES = (ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError, OSError, RuntimeError, MemoryError, OverflowError)
_NAMED: dict[str, Any] = {
    kind.__name__: kind for kind in [TrainState, *vars(optimizers).values()] if hasattr(kind, "_fields")
}  # states by name


class Best(NamedTuple):
    """The variant that is best by one metric, and its best run."""

    row: int  # the variant's best run
    hyperparameters: dict[str, Any]
    metrics: dict[str, float]  # that run's
    state: PyTree  # that run's
    variant: int
    rows: tuple[int, ...]  # the variant's runs, one a replicate, in the table's order
    mean: dict[str, float]  # of each metric over those runs
    std: dict[str, float]  # with a divisor of runs - 1; NaN for one run

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.state)
        numbers = sum(math.prod(np.shape(leaf)) for leaf in leaves)
        what = {
            "hyperparameters": ", ".join(f"{name}={_cell(value)}" for name, value in self.hyperparameters.items()),
            "metrics": ", ".join(f"{name} {_cell(value)}" for name, value in self.metrics.items()),
            "mean over replicates": ", ".join(f"{name} {_spread(value, self.std[name])}" for name, value in self.mean.items()),
            "state": f"{type(self.state).__name__} of {len(leaves)} arrays, {numbers:,} numbers",
        }
        if len(self.rows) == 1:
            del what["mean over replicates"]
        lines = [f"  {name}: {_shortened(text, 140)}" for name, text in what.items()]
        return "\n".join([f"Best: row {self.row}, of variant {self.variant} in rows {_shortened(str(list(self.rows)), 80)}", *lines])


class SweepResult:
    """A sweep's outcome, one row a variant and replicate, in the order given; printing it shows the ten best variants.

    Attributes:
      table: dict of NumPy arrays of one length: "variant", "replicate", each hyperparameter, the final metrics
        ("train/loss", "validation/loss", ...; NaN where a run diverged), "status" ("completed", "diverged" or, where the
        sweep was interrupted, "unfinished") and "steps", the steps completed with everything finite.
      curves: dict of NumPy arrays, rows x evaluations, NaN where a row was not evaluated; "step", of shape
        (evaluations,), says after how many steps each was made.
      timing: seconds and counts of the sweep itself: "seconds", "compile_seconds" (summed over the threads that
        compiled), "programs" (how many were compiled) and "lane_widths" (one a group).
      metric: the final metric that variants are ranked by unless another is named.
    """

    def __init__(
        self,
        hyperparameters: Sequence[Mapping[str, Any]],
        outcome: Mapping[str, np.ndarray],
        curves: Mapping[str, np.ndarray],
        states: Mapping[int, PyTree],
        recipe: Callable[..., Training] | None,
        arguments: Sequence[str],
        timing: Mapping[str, Any],
        *,
        metric: str | None = None,
        mode: str | None = None,
        modes: Mapping[str, str] | None = None,
        settings: Sequence[Mapping[str, Any]] | None = None,
    ):
        """Made by `sweep` and `load_result`.

        Args:
          hyperparameters: of every variant.
          outcome: "variant", "replicate", the metrics, "status" and "steps", a row each.
          curves: as the attribute.
          states: the kept states by row.
          recipe: makes the training of a variant; None for a result that was loaded without one.
          arguments: which hyperparameters the recipe takes.
          timing: as the attribute.
          metric: as the attribute; None for the validation loss, or the training loss without validation.
          mode: whether a small ("min") or a large ("max") value of that metric is good; None where its name says so.
          modes: the same of the metrics, by the names that a training's evaluate reports.
          settings: for every variant, what the sweep itself passed to the recipe beside these hyperparameters.
        """
        self.curves = dict(curves)
        self.timing = dict(timing)
        self.metric = default_metric(self.metrics) if metric is None else metric
        self._hyperparameters = [dict(setting) for setting in hyperparameters]
        self._settings = [dict(setting) for setting in settings] if settings is not None else [{} for _ in self._hyperparameters]
        self._states, self._recipe, self._arguments = dict(states), recipe, tuple(arguments)
        self._mode, self._modes = mode, dict(modes or {})
        self._directions = self._modes | ({} if mode is None else {own_name(self.metric): mode})
        index = ("variant", "replicate")
        names = list(self._hyperparameters[0])
        self._columns = {name: _column([setting[name] for setting in self._hyperparameters]) for name in names}
        self.table: dict[str, np.ndarray] = {
            **{name: outcome[name] for name in index},
            **{name: column[outcome["variant"]] for name, column in self._columns.items()},
            **{name: values for name, values in outcome.items() if name not in index},
        }

    @property
    def metrics(self) -> list[str]:
        """The names of the final metrics."""
        return [name for name in self.curves if name != "step"]

    def __len__(self) -> int:
        return len(self.table["variant"])

    @property
    def mode(self) -> str | None:
        """Whether a small ("min") or a large ("max") value of `metric` is good; None where that isn't known."""
        return known_mode(self.metric, self._directions)

    def ranking(self, metric: str | None = None, mode: str | None = None) -> np.ndarray:
        """The rows of the variants that can be ranked: the best variant's first, its best run first.

        A variant is as good as the mean over its replicates. One of which a run diverged, is unfinished or has a metric
        that isn't finite is left out with all its rows.

        Args:
          metric: such as "validation/loss"; None for the result's own, `metric`.
          mode: whether a small ("min") or a large ("max") value is good; may be left out for losses, `METRICS` and what
            the sweep was told of.

        Raises:
          ValueError: the metric or the mode is unknown, or the mode is left out for a metric of your own.

        Example:
          >>> import funcnet as fn
          >>> from funcnet.sweep import sweep
          >>> def recipe(learning_rate):
          ...     return fn.training(fn.dense(1), fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))
          >>> x = np.linspace(-1, 1, 16)[:, None]
          >>> steps = dict(key=jax.random.key(0), num_steps=50, batch_size=None, progress=False)
          >>> result = sweep(recipe, fn.grid(learning_rate=[0.01, 0.1]), fn.Dataset(x, 3 * x), replicates=2, **steps)
          >>> result.table["variant"][result.ranking()]
          array([1, 1, 0, 0])
        """
        return np.array([row for _, rows in self._ranked("ranking", metric, mode) for row in rows], int)

    def best(self, metric: str | None = None, mode: str | None = None) -> Best:
        """The variant with the best mean over its replicates, and its best run.

        A variant of which a run diverged, is unfinished or has a metric that isn't finite is never best; of equals the
        first is.

        Args:
          metric: such as "validation/loss"; None for the result's own, `metric`.
          mode: whether a small ("min") or a large ("max") value is good; may be left out for losses, `METRICS` and what
            the sweep was told of.

        Returns:
          `Best(row, hyperparameters, metrics, state, variant, rows, mean, std)`: the row, metrics and state are
          those of the variant's best run, mean and std are over all of its runs.

        Raises:
          ValueError: the metric or mode is unknown, no variant can be ranked (the message counts the runs that diverged,
            have a NaN or infinite metric, or are unfinished), or the best row's state was not kept.
        """
        ranked = self._ranked("best", metric, mode)
        if not ranked:
            name = self.metric if metric is None else metric
            rule = f"needs a variant whose every run completed with a finite {name}"
            raise ValueError(check.message("best", rule, *why_none(self.table, name)))
        variant, (row, *_) = ranked[0]
        rows = np.flatnonzero(self.table["variant"] == variant)
        own = statistics({name: column[rows] for name, column in self.table.items()}, self.metrics)
        return Best(
            row,
            self.hyperparameters(row),
            {name: float(self.table[name][row]) for name in self.metrics},
            self.state(row),
            variant,
            tuple(rows.tolist()),
            {name: float(values[0]) for name, values in own.mean.items()},
            {name: float(values[0]) for name, values in own.std.items()},
        )

    def by_variant(self, metric: str | None = None, mode: str | None = None) -> dict[str, np.ndarray]:
        """A table with one entry for each variant, the best first, and last those that can't be ranked, in the order given.

        Args:
          metric: to order by, such as "validation/loss"; None for the result's own, `metric`.
          mode: whether a small ("min") or a large ("max") value is good; may be left out for losses, `METRICS` and what
            the sweep was told of.

        Returns:
          A dict of NumPy arrays of one length: "variant"; each hyperparameter; each metric's mean over the variant's
          completed runs under the metric's name, their standard deviation (with a divisor of runs - 1; NaN for one run) under
          "<metric>/std" and their number under "<metric>/count"; and "completed", "diverged" and "unfinished", how many
          runs have that status.

        Raises:
          ValueError: the metric or the mode is unknown, or the mode is left out for a metric of your own.
        """
        best = [variant for variant, _ in self._ranked("by_variant", metric, mode)]
        found = statistics(self.table, self.metrics)
        place = {variant: i for i, variant in enumerate(found.variants.tolist())}
        order = np.array([place[variant] for variant in [*best, *(variant for variant in place if variant not in set(best))]], int)
        metrics: dict[str, np.ndarray] = {}
        for name in self.metrics:
            metrics |= {name: found.mean[name], f"{name}/std": found.std[name], f"{name}/count": found.completed}
        columns = {name: column[found.variants] for name, column in self._columns.items()}
        return {name: values[order] for name, values in {"variant": found.variants, **columns, **metrics, **found.statuses}.items()}

    def hyperparameters(self, row: int) -> dict[str, Any]:
        """The hyperparameters of a row, as they were given."""
        return dict(self._hyperparameters[int(self.table["variant"][self._row("hyperparameters", row)])])

    def state(self, row: int) -> PyTree:
        """A row's last finite state, in NumPy arrays.

        Raises:
          ValueError: there is no such row, or its state was not kept.
        """
        row = self._row("state", row)
        if row not in self._states:
            fix = f"sweep(..., keep=n) keeps the best n by {self.metric}; {len(self._states)} were kept"
            raise ValueError(check.message("state", "row must be one whose state was kept", row, fix))
        return self._states[row]

    def training(self, row: int) -> Training:
        """A row's training, so that `result.training(row).evaluate(result.state(row), dataset)` scores it.

        Raises:
          ValueError: there is no such row, or the result was loaded without its recipe.
        """
        if self._recipe is None:
            raise ValueError(check.message("training", "needs the recipe, which a file can't hold", None, "load_result(path, recipe=...)"))
        variant = int(self.table["variant"][self._row("training", row)])
        own, settings = self._hyperparameters[variant], self._settings[variant]
        return as_training("training", self._recipe(**{name: own[name] for name in self._arguments}, **settings))

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame.

        Raises:
          ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(check.needs_extra("to_pandas", "pandas", "experiments")) from error
        return pandas.DataFrame(self.table)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the result to a folder: arrays in an npz file without pickle, the rest in JSON.

        Hyperparameters that are functions are written by name.

        Args:
          path: a folder, made if need be; a result saved there before is replaced.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        rows = sorted(self._states)
        shape = _described(self._states[rows[0]]) if rows else None
        leaves = [[_plain(leaf) for leaf in jax.tree.leaves(self._states[row])] for row in rows]
        kinds = {json.dumps(_described(self._states[row])) for row in rows}
        shapes = [shape] if len(kinds) == 1 else [_described(self._states[row]) for row in rows]
        arrays = {f"outcome/{name}": self.table[name] for name in self.table if name not in self._hyperparameters[0]}
        arrays |= {f"curves/{name}": values for name, values in self.curves.items()}
        if len(kinds) == 1 and len({tuple((leaf.shape, leaf.dtype) for leaf in own) for own in leaves}) == 1:
            arrays |= {f"states/{i}": np.stack(same) for i, same in enumerate(zip(*leaves, strict=True))}
        else:
            arrays |= {f"state/{row}/{i}": leaf for row, own in zip(rows, leaves, strict=True) for i, leaf in enumerate(own)}
        foreign = {name: str(array.dtype) for name, array in arrays.items() if array.dtype.kind == "V"}  # bfloat16 and its kind
        arrays |= {name: arrays[name][..., None].view(np.uint8) for name in foreign}
        rest = {
            "format": _FORMAT,
            "hyperparameters": [{name: _written(value) for name, value in setting.items()} for setting in self._hyperparameters],
            "arguments": self._arguments,
            "settings": [{name: _written(value) for name, value in setting.items()} for setting in self._settings],
            "metric": self.metric,
            "mode": self._mode,
            "modes": self._modes,
            "timing": self.timing,
            "kept": rows,
            "dtypes": foreign,
            "states": shapes,
        }
        _replace(folder / _ARRAYS, lambda file: np.savez(file, allow_pickle=False, **arrays))
        _replace(folder / _REST, lambda file: file.write(json.dumps(rest, indent=1).encode()))

    def __repr__(self) -> str:
        summary, headers, cells = self._ten_best()
        widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
        lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in [headers, *cells]]
        return "\n".join([summary, *lines])

    def _repr_html_(self) -> str:
        summary, headers, cells = self._ten_best()

        def line(tag: str, row: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in row) + "</tr>"

        body = "".join(line("td", row) for row in cells)
        return f"<p>{html.escape(summary)}</p><table><thead>{line('th', headers)}</thead><tbody>{body}</tbody></table>"

    def _ten_best(self) -> tuple[str, list[str], list[list[str]]]:
        """What is printed: a summary, headers, and a line for each run or, where there are replicates, for each variant."""
        try:
            best, why = [variant for variant, _ in self._ranked("ranking", None, None)], ""
        except ValueError as error:
            best, why = [], str(error)
        if not best and not why:
            why = "; ".join(filter(None, why_none(self.table, self.metric)))
        shown = (best or list(dict.fromkeys(self.table["variant"].tolist())))[:10]
        replicated = bool(np.any(self.table["replicate"]))
        ranking = f"the {len(shown)} best variants by mean {self.metric}" if replicated else f"the {len(shown)} best by {self.metric}"
        summary = f"{self._counts()}; {ranking if best else f'not ranked ({why})'}:"
        return summary, *(self._variant_lines(shown, ranked=bool(best)) if replicated else self._run_lines(shown, ranked=bool(best)))

    def _counts(self) -> str:
        runs, variants = len(self), len(self._hyperparameters)
        of = "" if runs == variants else f" of {variants} variant{'s' if variants > 1 else ''}"
        ended = {status: int(np.sum(self.table["status"] == status)) for status in ("diverged", "unfinished")}
        unfinished = f", {ended['unfinished']} unfinished" if ended["unfinished"] else ""
        return f"{runs} run{'s' if runs > 1 else ''}{of}, {ended['diverged']} diverged{unfinished}"

    def _run_lines(self, variants: Sequence[int], ranked: bool) -> tuple[list[str], list[list[str]]]:
        headers = [name for name in self.table if name != "replicate" and not (name == "status" and ranked)]
        rows = [int(np.argmax(self.table["variant"] == variant)) for variant in variants]
        return headers, [[_cell(self.table[name][row]) for name in headers] for row in rows]

    def _variant_lines(self, variants: Sequence[int], ranked: bool) -> tuple[list[str], list[list[str]]]:
        found = statistics(self.table, self.metrics)
        headers = ["variant", *self._columns, *self.metrics, *([] if ranked else found.statuses)]
        lines = []
        for variant in variants:
            place = int(np.searchsorted(found.variants, variant))
            spreads = [_spread(found.mean[name][place], found.std[name][place]) for name in self.metrics]
            ends = [] if ranked else [str(runs[place]) for runs in found.statuses.values()]
            lines.append([str(variant), *(_cell(column[variant]) for column in self._columns.values()), *spreads, *ends])
        return headers, lines

    def _ranked(self, where: str, metric: str | None, mode: str | None) -> list[tuple[int, list[int]]]:
        """The variants that can be ranked, the best first, each with its rows."""
        if not self.metrics:  # interrupted before anything was measured
            return []
        name = self.metric if metric is None else metric
        check.one_of(where, "metric", name, self.metrics)
        return ranked(self.table, name, direction(where, name, mode, self._directions))

    def _row(self, where: str, row: int) -> int:
        return check.whole(where, "row", row, 0, len(self) - 1)


def load_result(path: str | os.PathLike[str], recipe: Callable[..., Training] | None = None) -> SweepResult:
    """Reads a result that `SweepResult.save` wrote. A file can't run code or reach outside its folder.

    Args:
      path: the folder.
      recipe: the function that was swept; without it the result has no `training(row)`.

    Returns:
      A `SweepResult`; hyperparameters that were functions have become their names.

    Raises:
      ValueError: the folder holds no result, or one that is damaged or of another format.
    """
    folder = Path(path)
    try:
        rest = json.loads((folder / _REST).read_bytes())
        if rest["format"] != _FORMAT:
            raise ValueError(f"format must be {_FORMAT}, got {rest['format']}; written by another version of funcnet")
        with np.load(io.BytesIO((folder / _ARRAYS).read_bytes()), allow_pickle=False) as file:
            arrays = {name: _native(file[name], rest["dtypes"].get(name)) for name in file.files}
        settings = [{name: _read(value) for name, value in setting.items()} for setting in rest["hyperparameters"]]
        outcome, curves = (
            {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(kind)} for kind in ("outcome/", "curves/")
        )
        passed = [{name: _read(value) for name, value in setting.items()} for setting in rest.get("settings", [{}] * len(settings))]
        ranking = {name: rest.get(name) for name in ("metric", "mode", "modes")}
        states = _read_states(rest, arrays)
        return SweepResult(settings, outcome, curves, states, recipe, rest["arguments"], rest["timing"], **ranking, settings=passed)
    except FileNotFoundError as error:
        raise ValueError(
            check.message("load_result", f"the folder must hold {_ARRAYS} and {_REST}", str(folder), "save(path) writes them")
        ) from error
    except (*_DAMAGES, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            check.message("load_result", "the files must be whole and unaltered", f"{type(error).__name__}: {error}")
        ) from error


def _native(array: np.ndarray, dtype: str | None) -> np.ndarray:
    """An array that was written as bytes, in its own dtype, such as bfloat16."""
    if dtype is None:
        return array
    own = np.dtype(dtype)
    if own.kind != "V" or own.hasobject:
        raise ValueError(f"a dtype must be a number's, got {dtype}")
    return array.view(own)[..., 0]


def _read_states(rest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[int, PyTree]:
    states = {}
    for place, row in enumerate(rest["kept"]):
        described = rest["states"][place if len(rest["states"]) > 1 else 0]
        stacked = "states/0" in arrays

        def leaf(i: int, place: int = place, row: int = row, stacked: bool = stacked) -> np.ndarray:
            return arrays[f"states/{i}"][place] if stacked else arrays[f"state/{row}/{i}"]

        states[row] = _rebuilt(described, leaf)
    return states


def _described(tree: PyTree) -> Any:
    """A pytree's structure in JSON: {"leaf": i} in the order of jax.tree.leaves; unknown nodes become their leaves."""
    count = iter(range(10**9))

    def walk(node: Any) -> Any:
        if node is None:
            return None
        if type(node) is dict:
            return {"dict": [[_written(name), walk(node[name])] for name in sorted(node)]}
        fields = getattr(node, "_fields", None)
        if fields is not None and isinstance(node, tuple):
            return {"named": type(node).__name__, "fields": list(fields), "items": [walk(item) for item in node]}
        if type(node) in (list, tuple):
            return {type(node).__name__: [walk(item) for item in node]}
        leaves = jax.tree.leaves(node)
        if len(leaves) == 1 and leaves[0] is node:
            return {"key": next(count), "kind": str(jax.random.key_impl(node))} if _is_key(node) else {"leaf": next(count)}
        return {"list": [walk(leaf) for leaf in leaves]}

    return walk(tree)


def _rebuilt(node: Any, leaf: Callable[[int], np.ndarray]) -> PyTree:
    if node is None:
        return None
    ((kind, content), *others) = node.items()
    if kind == "leaf":
        return leaf(int(content))
    if kind == "key":
        return jax.random.wrap_key_data(leaf(int(content)), impl=node["kind"])  # type: ignore[arg-type]
    if kind == "dict":
        return {_read(name): _rebuilt(item, leaf) for name, item in content}
    if kind in ("list", "tuple"):
        items = [_rebuilt(item, leaf) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "named":
        fields, items = (value for _, value in others)
        if not all(isinstance(name, str) and name.isidentifier() for name in [content, *fields]):
            raise ValueError(f"a state's names must be identifiers, got {[content, *fields]}")
        own = _NAMED.get(content)
        make = own if own is not None and list(own._fields) == fields else _kind(content, tuple(fields))
        return make(*(_rebuilt(item, leaf) for item in items))
    raise ValueError(f"a state's nodes must be known, got {kind}")


@functools.lru_cache
def _kind(name: str, fields: tuple[str, ...]) -> Any:
    """One class for all rows, so that their states have one structure."""
    return namedtuple(name, fields)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> np.ndarray:
    """A leaf of a state in a NumPy array, random keys too."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _written(value: Any) -> Any:
    """A hyperparameter in JSON; floats keep every bit, tuples stay tuples, functions become their names."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value.hex()} if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, tuple):
        return {"tuple": [_written(entry) for entry in value]}
    return {"name": getattr(value, "__qualname__", repr(value))}


def _read(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    readers: dict[str, Callable[[Any], Any]] = {"float": float.fromhex, "tuple": lambda entries: tuple(map(_read, entries)), "name": str}
    return readers[kind](content)


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("wb") as file:
        write(file)
    draft.replace(path)


def _column(values: Sequence[Any]) -> np.ndarray:
    """A column of the table: numbers and text as such, anything else by its text."""
    kinds = {type(value) for value in values}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {bool, str}):
        return np.asarray(values)
    if kinds <= {int, float, type(None)}:
        return np.asarray([math.nan if value is None else value for value in values], float)
    return np.asarray([getattr(value, "__name__", str(value)) for value in values])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(getattr(value, "__name__", value))


def _spread(mean: float, std: float) -> str:
    return f"{mean:.4g}" if math.isnan(std) else f"{mean:.4g} ± {std:.2g}"


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."
