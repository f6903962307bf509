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
from funcnet.metrics import MODES, mode_of
from funcnet.training import Training, TrainState, as_training
from funcnet.tree import PyTree

_FORMAT = 1
_ARRAYS, _REST = "arrays.npz", "result.json"
_DAMAGES = (ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError, OSError, RuntimeError, MemoryError, OverflowError)
_NAMED: dict[str, Any] = {
    kind.__name__: kind for kind in [TrainState, *vars(optimizers).values()] if hasattr(kind, "_fields")
}  # states by name


class Best(NamedTuple):
    """The row that is best by one metric."""

    row: int
    hyperparameters: dict[str, Any]
    metrics: dict[str, float]
    state: PyTree


class SweepResult:
    """A sweep's outcome, one row a variant and replicate, in the order given; printing it shows the ten best.

    Attributes:
      table: dict of NumPy arrays of one length: "variant", "replicate", each hyperparameter, the final metrics
        ("train/loss", "validation/loss", ...; NaN where a run diverged), "status" ("completed" or "diverged") and
        "steps", the steps completed with everything finite.
      curves: dict of NumPy arrays, rows x evaluations, NaN where a row was not evaluated; "step", of shape
        (evaluations,), says after how many steps each was made.
      timing: seconds and counts of the sweep itself: "seconds", "compile_seconds" (summed over the threads that
        compiled), "programs" (how many were compiled) and "lane_widths" (one a group).
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
        """
        self.curves = dict(curves)
        self.timing = dict(timing)
        self._hyperparameters = [dict(setting) for setting in hyperparameters]
        self._states, self._recipe, self._arguments = dict(states), recipe, tuple(arguments)
        index = ("variant", "replicate")
        names = list(self._hyperparameters[0])
        columns = {name: _column([setting[name] for setting in self._hyperparameters])[outcome["variant"]] for name in names}
        self.table: dict[str, np.ndarray] = {
            **{name: outcome[name] for name in index},
            **columns,
            **{name: values for name, values in outcome.items() if name not in index},
        }

    @property
    def metrics(self) -> list[str]:
        """The names of the final metrics."""
        return [name for name in self.curves if name != "step"]

    def __len__(self) -> int:
        return len(self.table["variant"])

    def ranking(self, metric: str = "validation/loss", mode: str | None = None) -> np.ndarray:
        """The rows from best to worst by a final metric; those that diverged, and NaN, are left out.

        Args:
          metric: such as "validation/loss".
          mode: whether a small ("min") or a large ("max") value is good; may be left out for losses and `METRICS`.

        Raises:
          ValueError: the metric or the mode is unknown, or the mode is left out for a metric of your own.
        """
        check.one_of("ranking", "metric", metric, self.metrics)
        mode = mode_of("ranking", metric, mode)
        values = self.table[metric]
        order = np.argsort(values if mode == "min" else -values, kind="stable")
        ranked: np.ndarray = order[(self.table["status"][order] == "completed") & np.isfinite(values[order])]
        return ranked

    def best(self, metric: str = "validation/loss", mode: str | None = None) -> Best:
        """The best row by a final metric; one that diverged is never best, and of equals the first is.

        Args:
          metric: such as "validation/loss".
          mode: whether a small ("min") or a large ("max") value is good; may be left out for losses and `METRICS`.

        Returns:
          `Best(row, hyperparameters, metrics, state)`.

        Raises:
          ValueError: the metric or mode is unknown, every row diverged, or the best row's state was not kept.
        """
        rows = self.ranking(metric, mode)
        if not len(rows):
            raise ValueError(check.message("best", "needs a row that completed", "none: every one diverged", "try lower learning rates"))
        row = int(rows[0])
        return Best(row, self.hyperparameters(row), {name: float(self.table[name][row]) for name in self.metrics}, self.state(row))

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
            fix = f"sweep(..., keep=n) keeps the best n by {default_metric(self.metrics)}; {len(self._states)} were kept"
            raise ValueError(check.message("state", "row must be one whose state was kept", row, fix))
        return self._states[row]

    def training(self, row: int) -> Training:
        """A row's training, so that `result.training(row).evaluate(result.state(row), dataset)` scores it.

        Raises:
          ValueError: there is no such row, or the result was loaded without its recipe.
        """
        if self._recipe is None:
            raise ValueError(check.message("training", "needs the recipe, which a file can't hold", None, "load_result(path, recipe=...)"))
        settings = self.hyperparameters(row)
        return as_training("training", self._recipe(**{name: settings[name] for name in self._arguments}))

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
            "timing": self.timing,
            "kept": rows,
            "dtypes": foreign,
            "states": shapes,
        }
        _replace(folder / _ARRAYS, lambda file: np.savez(file, allow_pickle=False, **arrays))
        _replace(folder / _REST, lambda file: file.write(json.dumps(rest, indent=1).encode()))

    def __repr__(self) -> str:
        headers, cells = self._ten_best()
        widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
        lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in [headers, *cells]]
        return "\n".join([self._summary(), *lines])

    def _repr_html_(self) -> str:
        headers, cells = self._ten_best()

        def line(tag: str, row: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in row) + "</tr>"

        body = "".join(line("td", row) for row in cells)
        return f"<p>{html.escape(self._summary())}</p><table><thead>{line('th', headers)}</thead><tbody>{body}</tbody></table>"

    def _summary(self) -> str:
        diverged = int(np.sum(self.table["status"] == "diverged"))
        runs = f"{len(self)} run{'s' if len(self) > 1 else ''}"
        shown = min(10, len(self._by_default()))
        return f"{runs}, {diverged} diverged; the {shown} best by {default_metric(self.metrics)}:"

    def _ten_best(self) -> tuple[list[str], list[list[str]]]:
        hidden = {"status"} | ({"replicate"} if not np.any(self.table["replicate"]) else set())
        headers = [name for name in self.table if name not in hidden]
        return headers, [[_cell(self.table[name][row]) for name in headers] for row in self._by_default()[:10]]

    def _by_default(self) -> np.ndarray:
        metric = default_metric(self.metrics)
        return self.ranking(metric, MODES.get(metric.rpartition("/")[2], "min"))

    def _row(self, where: str, row: int) -> int:
        return check.whole(where, "row", row, 0, len(self) - 1)


def default_metric(metrics: Sequence[str]) -> str:
    """What variants are ranked by unless said otherwise: the validation loss where there is one."""
    wanted = [name for name in ("validation/loss", "train/loss") if name in metrics]
    return [*wanted, *metrics][0]


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
        return SweepResult(settings, outcome, curves, _read_states(rest, arrays), recipe, rest["arguments"], rest["timing"])
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
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
