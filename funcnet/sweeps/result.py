"""The result of a sweep: a table, curves, and the kept states; how it is saved, and loaded safely."""

import copy
import functools
import html
import io
import json
import math
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.option import Option
from funcnet.schedules import Schedule
from funcnet.spaces import MISSING, plain
from funcnet.sweeps.ranking import default_metric, known_mode, own_name, ranked, statistics, wanted_mode, why_none
from funcnet.sweeps.structure import Saved, UnknownState, as_made, as_told, described, has_keys, unwritable
from funcnet.sweeps.structure import leaves as leaves_of
from funcnet.sweeps.written import Named, Names, Reader, can_pickle, text, written
from funcnet.train import Training, as_training, measured
from funcnet.tree import PyTree, Scalar, is_several

_FORMAT = 1
_ARRAYS, _REST = "arrays.npz", "result.json"
_DAMAGES = (ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError, OSError, RuntimeError, MemoryError, OverflowError)


class Best(NamedTuple):
    """The best variant by one metric, and that variant's best run."""

    row: int  # the variant's best run
    hyperparameters: dict[str, Any]
    metrics: dict[str, float]  # the best run's
    state: PyTree  # the best run's
    variant: int
    rows: tuple[int, ...]  # the variant's runs, one per replicate and fold, in the table's order
    mean: dict[str, float]  # of each metric over those runs
    std: dict[str, float]  # with a divisor of runs - 1; NaN for one run

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.state)
        numbers = sum(math.prod(np.shape(leaf)) for leaf in leaves)
        what = {
            "hyperparameters": ", ".join(f"{name}={_cell(value)}" for name, value in self.hyperparameters.items()),
            "metrics": ", ".join(f"{name} {_cell(value)}" for name, value in self.metrics.items()),
            "mean over its runs": ", ".join(f"{name} {_spread(value, self.std[name])}" for name, value in self.mean.items()),
            "state": f"{type(self.state).__name__} of {len(leaves)} arrays, {numbers:,} numbers",
        }
        if len(self.rows) == 1:
            del what["mean over its runs"]
        lines = [f"  {name}: {_shortened(text, 140)}" for name, text in what.items()]
        return "\n".join([f"Best: row {self.row}, of variant {self.variant} in rows {_shortened(str(list(self.rows)), 80)}", *lines])


@dataclass(frozen=True)
class Steps:
    """A piecewise constant schedule, step -> value; it is hashable, so that it can be a hyperparameter."""

    steps: tuple[int, ...]  # where the value changes, ascending
    values: tuple[float, ...]  # before the first of the steps, and from each of them on

    def __call__(self, step: Scalar) -> jax.Array:
        place = jnp.sum(jnp.asarray(step) >= jnp.asarray(self.steps, jnp.int32)) if self.steps else 0
        return jnp.asarray(self.values, jnp.result_type(float))[place]


class Lineage(NamedTuple):
    """Which run of a population copied which, and the numbers of each run over time."""

    step: np.ndarray  # (generations,), int: the step after which each generation begins
    parent: np.ndarray  # (rows, generations), int: the row whose state each row copied there, or the row itself
    numbers: dict[str, np.ndarray]  # (rows, generations + 1) each: a run's values before the first generation and from each on

    def along(self, row: int, name: str) -> np.ndarray:
        """The values that a row's state was trained with, (generations + 1,): its own since it last copied, before that its parent's."""
        values, own = [], row
        for generation in range(len(self.step), 0, -1):
            values.append(self.numbers[name][own, generation])
            own = int(self.parent[own, generation - 1])
        return np.array([self.numbers[name][own, 0], *reversed(values)])


class SweepResult:
    """A sweep's outcome, one row per variant, replicate and fold, in the order given; printing it shows the ten best variants.

    Attributes:
      table: dict of NumPy arrays of one length: "variant"; "replicate"; "fold" if the data was given in folds; each
        hyperparameter; the final metrics ("train/loss", "validation/loss", ...; NaN if a run diverged); "status" ("completed",
        "pruned", "diverged", or "unfinished" if the sweep ended before the run did); "steps", the steps completed with everything
        finite; "best_step" with `keep_best` and "pruned_by" with `prune`.
      curves: dict of NumPy arrays, rows x evaluations, NaN where a row was not evaluated; "step", of shape
        (evaluations,), is the step after which each evaluation was made.
      timing: seconds and counts of the sweep itself: "seconds", "compile_seconds" (summed over the threads that
        compiled), "programs" (how many were compiled), "lane_widths" (one per group), "halved" (how often chunks were halved since
        memory ran out), "store_seconds" (spent writing the store) and, with an executor, "workers" (names of those that trained).
      lineage: a `Lineage` if `sweep(..., evolve=)` made the result, else None.
      metric: the final metric by which variants are ranked by default.
      modes: by metric name, without the part of the data: whether a small ("min") or a large ("max") value is good; only
        metrics whose mode was given.
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
        options: Sequence[Mapping[str, Sequence[str]]] | None = None,
        lineage: Lineage | None = None,
    ):
        """Called by `sweep` and `load_result`.

        Args:
          hyperparameters: of every variant.
          outcome: "variant", "replicate", "fold" if there are folds, the metrics, "status" and "steps"; each with an entry per row.
          curves: as the attribute.
          states: the kept states by row.
          recipe: makes the training of a variant; None for a result that was loaded without one.
          arguments: which hyperparameters the recipe takes.
          timing: as the attribute.
          metric: as the attribute; None for the validation loss, or the training loss without validation.
          mode: whether a small ("min") or a large ("max") value of that metric is good; None if its name says so.
          modes: "min" or "max" of further metrics, by the names that a training's evaluate reports.
          settings: for every variant, the values that the sweep itself passed to the recipe, besides the hyperparameters.
          options: for every variant, all values that each traced name can take; the state's structure depends on them.
          lineage: as the attribute.
        """
        self.lineage = lineage
        self.curves = dict(curves)
        self.timing = dict(timing)
        self.metric = default_metric(self.metrics) if metric is None else metric
        self._hyperparameters = [dict(setting) for setting in hyperparameters]
        self._settings = [dict(setting) for setting in settings] if settings is not None else [{} for _ in self._hyperparameters]
        self._options = (
            [{name: list(names) for name, names in own.items()} for own in options]
            if options is not None
            else [{} for _ in self._hyperparameters]
        )
        self._states, self._recipe, self._arguments = dict(states), recipe, tuple(arguments)
        self._lost: str | None = None  # the recipe's name if pickle couldn't hold the recipe
        self._mode, self._modes = mode, dict(modes or {})
        self.modes = self._modes | ({} if mode is None else {own_name(self.metric): mode})
        index = [name for name in ("variant", "replicate", "fold") if name in outcome]
        names = self.hyperparameter_names
        self._names = _names_of(self._hyperparameters)
        self._columns = {name: _column([setting[name] for setting in self._hyperparameters], self._names) for name in names}
        self.table: dict[str, np.ndarray] = {
            **{name: outcome[name] for name in index},
            **{name: column[outcome["variant"]] for name, column in self._columns.items()},
            **{name: values for name, values in outcome.items() if name not in index},
        }

    @property
    def hyperparameter_names(self) -> list[str]:
        """The names of all hyperparameters, including those that only some variants have; each is a column of the table."""
        return list(self._hyperparameters[0])

    @property
    def metrics(self) -> list[str]:
        """The names of the final metrics."""
        return [name for name in self.curves if name != "step"]

    @property
    def folds(self) -> int:
        """The number of folds that the data was given in; 1 for a single split."""
        return int(self.table["fold"].max()) + 1 if "fold" in self.table else 1

    def __len__(self) -> int:
        return len(self.table["variant"])

    def __add__(self, other: "SweepResult") -> "SweepResult":
        """The runs of two sweeps in one result: this one's first; the other's variants get the numbers after this one's.

        Both must have the same hyperparameters, metrics, folds and recipe. Variants are ranked by this result's metric and mode.

        Raises:
          ValueError: their hyperparameters, metrics, numbers of folds or recipes differ.

        Example:
          >>> import funcnet as fn
          >>> from funcnet.sweeps import sweep
          >>> def recipe(learning_rate):
          ...     return fn.training(fn.dense(1), fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))
          >>> data = fn.Dataset(np.ones((8, 1)), np.ones((8, 1)))
          >>> steps = dict(key=jax.random.key(0), num_steps=5, batch_size=None, progress=False)
          >>> low, high = (sweep(recipe, fn.grid(learning_rate=[rate]), data, **steps) for rate in (0.01, 0.1))
          >>> (low + high).table["variant"], (low + high).best().hyperparameters
          (array([0, 1]), {'learning_rate': 0.1})
        """
        if not isinstance(other, SweepResult):
            return NotImplemented
        for name, mine, theirs in (
            ("hyperparameters", sorted(self._columns), sorted(other._columns)),
            ("metrics", sorted(self.metrics), sorted(other.metrics)),
            ("folds", self.folds, other.folds),
            ("recipe", self._recipe, other._recipe),
        ):
            if mine != theirs:
                fix = (
                    "load_result(path, recipe) gives a loaded one its recipe"
                    if name == "recipe"
                    else "other results can't be ranked together"
                )
                raise ValueError(check.message("+", f"results must have the same {name}, {text(mine)}", text(theirs), fix))
        count = len(self)
        numbered = {**other.table, "variant": other.table["variant"] + len(self._hyperparameters)}
        outcome = {name: np.concatenate([values, numbered[name]]) for name, values in self.table.items() if name not in self._columns}
        return SweepResult(
            self._hyperparameters + other._hyperparameters,
            outcome,
            _joined(self.curves, other.curves),
            self._states | {count + row: state for row, state in other._states.items()},
            self._recipe,
            self._arguments,
            {name: value + other.timing[name] for name, value in self.timing.items() if name in other.timing},
            metric=self.metric,
            mode=self._mode,
            modes=other._modes | self._modes,
            settings=self._settings + other._settings,
            options=self._options + other._options,
        )

    def __getstate__(self) -> dict[str, Any]:
        """The attributes for pickle; a function that can't be pickled (a lambda) is replaced by its name, and `training` then raises."""
        whole = {"_hyperparameters": self._hyperparameters, "_settings": self._settings}
        settings = {name: [{key: self._pickled(value) for key, value in own.items()} for own in each] for name, each in whole.items()}
        states = {row: state if _is_plain(state) else self._saved(state) for row, state in self._states.items()}
        recipe = {"_recipe": self._recipe} if can_pickle(self._recipe) else {"_recipe": None, "_lost": text(self._recipe)}
        return {**self.__dict__, **settings, **recipe, "_states": states, "_names": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the attributes; reads each hyperparameter that couldn't be pickled from its written form."""
        read = Reader({}).read
        self.__dict__.update(state)
        for each in (self._hyperparameters, self._settings):
            for own in each:
                own.update({name: read(value.written) for name, value in own.items() if isinstance(value, Named)})
        self._names = _names_of(self._hyperparameters)

    def __copy__(self) -> "SweepResult":
        return self._with(self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SweepResult":
        return self._with(copy.deepcopy(self.__dict__, memo))

    @property
    def mode(self) -> str | None:
        """Whether a small ("min") or a large ("max") value of `metric` is good; None if that isn't known."""
        return known_mode(self.metric, self.modes)

    def ranking(self, metric: str | None = None, mode: str | None = None) -> np.ndarray:
        """The rows of the variants that can be ranked: the best variant's first, its best run first.

        Variants are compared by the mean over their replicates and folds. A variant is left out, with all its rows, if one of its
        runs can't be compared: it diverged, is unfinished or was pruned (the last two only without `keep_best`), or its metric is
        not finite.

        Args:
          metric: such as "validation/loss"; None for the result's own, `metric`.
          mode: whether a small ("min") or a large ("max") value is good; may be left out for losses, `METRICS` and metrics
            whose mode the sweep knows.

        Raises:
          ValueError: the metric or the mode is unknown, or the mode is left out for a metric of your own.

        Example:
          >>> import funcnet as fn
          >>> from funcnet.sweeps import sweep
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
        """The variant with the best mean over its replicates and folds, and its best run.

        Only variants that `ranking` includes can be best; of equal ones the first is.

        Args:
          metric: such as "validation/loss"; None for the result's own, `metric`.
          mode: whether a small ("min") or a large ("max") value is good; may be left out for losses, `METRICS` and metrics
            whose mode the sweep knows.

        Returns:
          `Best(row, hyperparameters, metrics, state, variant, rows, mean, std)`: the row, metrics and state are
          those of the variant's best run, mean and std are over all of its runs.

        Raises:
          ValueError: the metric or mode is unknown, no variant can be ranked (the message counts the reasons), or the best
            row's state was not kept.
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
        """A table with one entry per variant: the ranked ones, best first, then those that can't be ranked, in the order given.

        Args:
          metric: to order by, such as "validation/loss"; None for the result's own, `metric`.
          mode: whether a small ("min") or a large ("max") value is good; may be left out for losses, `METRICS` and metrics
            whose mode the sweep knows.

        Returns:
          A dict of NumPy arrays of one length: "variant"; each hyperparameter; for each metric, under its name, the mean over
          the variant's completed runs (with `keep_best`: over all that were evaluated and did not diverge), "<metric>/std", their
          standard deviation (with a divisor of runs - 1; NaN for one run), and "<metric>/count", their number; and "completed",
          "diverged", "unfinished" and, if there are any, "pruned": how many runs have that status.

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
        """The hyperparameters that a row's variant has, as they were given."""
        return plain(self._hyperparameters[int(self.table["variant"][self._row("hyperparameters", row)])])

    def state(self, row: int) -> PyTree:
        """A row's kept state, in NumPy arrays: its last finite one or, with `keep_best`, that of its best evaluation.

        Raises:
          ValueError: there is no such row, or its state was not kept; or the result was loaded, and the state differs from what
            the recipe makes, or needs the recipe, which wasn't given.
        """
        return self._stated("state", row)

    def training(self, row: int) -> Training:
        """A row's training, so that `result.training(row).evaluate(result.state(row), dataset)` scores it.

        Raises:
          ValueError: there is no such row, or the result was loaded without its recipe.
        """
        if self._recipe is None:
            lost = self._lost is not None
            rule = f"needs the recipe, which {'pickle' if lost else 'a file'} can't hold"
            fix = "a function at the top of a module can be pickled" if lost else "load_result(path, recipe=...)"
            raise ValueError(check.message("training", rule, self._lost, fix))
        variant = int(self.table["variant"][self._row("training", row)])
        own, settings = plain(self._hyperparameters[variant]), self._settings[variant]
        for name, value in own.items():
            if isinstance(value, Named):
                rule = f"{name} must be itself, which pickle can't hold"
                raise ValueError(check.message("training", rule, f"its name {value!r}", "a function at the top of a module can be pickled"))
        options = self._options[variant]
        named = {name: Option(name, names, jnp.int32(names.index(own[name]))) for name, names in options.items()}
        training = as_training("training", self._recipe(**{name: own[name] for name in self._arguments if name in own} | named, **settings))
        step, evaluate, predict = (fn and _on_device(fn) for fn in (training.step, training.evaluate, training.predict))
        return training._replace(step=step, evaluate=evaluate, predict=predict)

    def evaluate(self, row: int, dataset: Any) -> dict[str, float]:
        """Evaluates a row's kept state on a dataset, such as `data.test`.

        Args:
          row: one whose state was kept.
          dataset: a `Dataset`, or anything else that the training's evaluate takes.

        Returns:
          The metrics by name; for a `WeightedDataset` they are weighted, with the "unweighted_loss" in addition.

        Raises:
          ValueError: there is no such row, its state was not kept, or the result was loaded without its recipe.
        """
        state = self._stated("evaluate", row)
        return {name: float(value) for name, value in measured(self.training(row), state, dataset).items()}

    def predict(self, row: int, x: Any) -> jax.Array:
        """The predictions of a row's model for these examples.

        Args:
          row: one whose state was kept.
          x: examples on the first axis.

        Returns:
          The predictions, examples on the first axis.

        Raises:
          ValueError: as `evaluate`.
          TypeError: the training has no predict.
        """
        state, predict = self._stated("predict", row), self.training(row).predict
        if predict is None:
            fix = "training(...) has one; give your own with Training(init, step, evaluate, predict=...)"
            raise TypeError(check.message("predict", "the recipe's training must have a predict function", "none", fix))
        return predict(state, jax.tree.map(jnp.asarray, x) if is_several(x) else jnp.asarray(x))

    def schedule(self, row: int, name: str) -> Schedule:
        """The schedule of a numeric hyperparameter that a population found: its values along the row's ancestry.

        Args:
          row: the row whose ancestry to follow.
          name: such as "learning_rate".

        Returns:
          A schedule, step -> value, constant between two generations, to train another run with.

        Raises:
          ValueError: the result has no lineage, or there is no such row or number.
        """
        row = self._row("schedule", row)
        if self.lineage is None:
            rule = "needs the lineage of a population"
            raise ValueError(check.message("schedule", rule, "a result without one", "sweep(..., evolve=population())"))
        check.one_of("schedule", "number", name, self.lineage.numbers)
        return Steps(tuple(self.lineage.step.tolist()), tuple(self.lineage.along(row, name).tolist()))

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

        These hyperparameters are read back unchanged: numbers, text, None, tuples and other containers, Enums, NamedTuples and
        dataclasses whose class is defined at the top of a module, and the functions of funcnet and jax.nn. Of any other
        function only the name is written.

        Args:
          path: a folder, made if need be; a result saved there before is replaced.

        Raises:
          TypeError: a hyperparameter or a state holds something that couldn't be read back; the message says what and where.
        """
        rows = sorted(self._states)
        variants = range(len(self._hyperparameters))
        hyperparameters = [self._written(variant, self._hyperparameters[variant]) for variant in variants]
        settings = [self._written(variant, self._settings[variant]) for variant in variants]
        for row in rows:
            if not isinstance(self._states[row], Saved) and (odd := unwritable(self._states[row])):
                raise TypeError(check.message("save", f"the state of row {row} must hold nothing but numbers", odd))
        shapes = [described(self._states[row], self._names) for row in rows]
        leaves = [leaves_of(self._states[row]) for row in rows]
        one = len({json.dumps(shape) for shape in shapes}) == 1
        arrays = {f"outcome/{name}": self.table[name] for name in self.table if name not in self._columns}
        arrays |= {f"curves/{name}": values for name, values in self.curves.items()}
        if self.lineage is not None:
            arrays |= {"lineage/step": self.lineage.step, "lineage/parent": self.lineage.parent}
            arrays |= {f"lineage/numbers/{name}": values for name, values in self.lineage.numbers.items()}
        if one and len({tuple((leaf.shape, leaf.dtype) for leaf in own) for own in leaves}) == 1:
            arrays |= {f"states/{i}": np.stack(same) for i, same in enumerate(zip(*leaves, strict=True))}
        else:
            arrays |= {f"state/{row}/{i}": leaf for row, own in zip(rows, leaves, strict=True) for i, leaf in enumerate(own)}
        foreign = {name: str(array.dtype) for name, array in arrays.items() if array.dtype.kind == "V"}  # bfloat16 and similar
        arrays |= {name: arrays[name][..., None].view(np.uint8) for name in foreign}
        rest = {
            "format": _FORMAT,
            "hyperparameters": hyperparameters,
            "arguments": self._arguments,
            "settings": settings,
            "options": self._options,
            "metric": self.metric,
            "mode": self._mode,
            "modes": self._modes,
            "timing": self.timing,
            "kept": rows,
            "dtypes": foreign,
            "states": shapes[:1] if one else shapes,
        }
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
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
        """What is printed: a summary, headers, and a line per run or, if there are replicates or folds, per variant."""
        try:
            best, why = [variant for variant, _ in self._ranked("ranking", None, None)], ""
        except ValueError as error:
            best, why = [], str(error)
        if not best and not why:
            why = "; ".join(filter(None, why_none(self.table, self.metric)))
        shown = (best or list(dict.fromkeys(self.table["variant"].tolist())))[:10]
        replicated = bool(np.any(self.table["replicate"])) or self.folds > 1
        ranking = f"the {len(shown)} best variants by mean {self.metric}" if replicated else f"the {len(shown)} best by {self.metric}"
        summary = f"{self._counts()}; {ranking if best else f'not ranked ({why})'}:"
        return summary, *(self._variant_lines(shown, ranked=bool(best)) if replicated else self._run_lines(shown, ranked=bool(best)))

    def _counts(self) -> str:
        runs, variants = len(self), len(self._hyperparameters)
        of = "" if runs == variants else f" of {variants} variant{'s' if variants > 1 else ''}"
        ended = Counter(self.table["status"].tolist())
        counts = [f"{ended[status]} {status}" for status in sorted({"diverged", *ended} - {"completed"})]
        return f"{runs} run{'s' if runs > 1 else ''}{of}, {', '.join(counts)}"

    def _run_lines(self, variants: Sequence[int], ranked: bool) -> tuple[list[str], list[list[str]]]:
        headers = [name for name in self.table if name not in ("replicate", "fold") and not (name == "status" and ranked)]
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
        return ranked(self.table, name, wanted_mode(where, name, mode, self.modes))

    def _with(self, attributes: Mapping[str, Any]) -> "SweepResult":
        made = object.__new__(type(self))
        made.__dict__.update(attributes)
        return made

    def _pickled(self, value: Any) -> Any:
        if can_pickle(value):
            return value
        try:
            return Named(text(value), written(value, self._names, ""))
        except TypeError:
            return Named(text(value), {"name": self._names.of(value)})

    def _saved(self, state: PyTree) -> Saved:
        return Saved(described(state, self._names), leaves_of(state))

    def _written(self, variant: int, setting: Mapping[str, Any]) -> dict[str, Any]:
        return {name: written(value, self._names, f"{name} of variant {variant}") for name, value in setting.items()}

    def _stated(self, where: str, row: int) -> PyTree:
        row = self._row(where, row)
        if row not in self._states:
            fix = f"sweep(..., keep=n) keeps the best n by {self.metric}; {len(self._states)} were kept"
            raise ValueError(check.message(where, "row must be one whose state was kept", row, fix))
        return self._restored(where, row)

    def _restored(self, where: str, row: int) -> PyTree:
        """A row's state; one that was loaded is first rebuilt in the structure that the recipe makes."""
        saved = self._states[row]
        if isinstance(saved, Saved):
            if self._recipe is None and not isinstance(told := _as_told(saved), Saved):
                self._states[row] = told
                return told
            if self._recipe is None:
                rule = f"the state of row {row} needs its recipe, which knows how it is made"
                raise ValueError(check.message(where, rule, "none", "load_result(path, recipe)"))
            try:
                self._states[row] = as_made(saved, self.training(row).init)
            except ValueError as error:
                rule = f"the state of row {row} must be as the recipe makes it"
                fix = "give the recipe that was swept, or none to have the table alone"
                raise ValueError(check.message(where, rule, error, fix)) from error
        return self._states[row]

    def _row(self, where: str, row: int) -> int:
        return check.whole(where, "row", row, 0, len(self) - 1)


def load_result(
    path: str | os.PathLike[str],
    recipe: Callable[..., Training] | None = None,
    *,
    functions: Mapping[str, Callable[..., Any]] | None = None,
) -> SweepResult:
    """Reads a result that `SweepResult.save` wrote. A file can't run code or reach outside its folder.

    Args:
      path: the folder.
      recipe: the function that was swept, which makes the states' structure. Without it the result has no `training(row)`,
        and a state that is a registered class (pytree node) can be read only if that class is imported.
      functions: functions and classes that were hyperparameters, by the names that the table shows. Those of funcnet and
        jax.nn, and classes that are imported, need not be given.

    Returns:
      A `SweepResult`. Without a recipe, a function that isn't given is replaced by its name.

    Raises:
      ValueError: the folder holds no result, or one that is damaged or of another format; with a recipe: a function is
        missing, or a state differs from what the recipe makes.
    """
    folder, reader = Path(path), Reader(functions or {})
    try:
        rest = json.loads((folder / _REST).read_bytes())
        if rest["format"] != _FORMAT:
            raise ValueError(f"format must be {_FORMAT}, got {rest['format']}; written by another version of funcnet")
        with np.load(io.BytesIO((folder / _ARRAYS).read_bytes()), allow_pickle=False) as file:
            arrays = {name: _native(file[name], rest["dtypes"].get(name)) for name in file.files}
        hyperparameters, settings = (
            [{name: reader.read(value, name) for name, value in setting.items()} for setting in own]
            for own in (rest["hyperparameters"], rest.get("settings", [{} for _ in rest["hyperparameters"]]))
        )
        outcome, curves = (
            {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(kind)} for kind in ("outcome/", "curves/")
        )
        ranking = {name: rest.get(name) for name in ("metric", "mode", "modes")}
        saved = _read_states(rest, arrays)
        told = {row: _as_told(state) for row, state in saved.items()}  # raises for a damaged one
        result = SweepResult(
            hyperparameters,
            outcome,
            curves,
            told if recipe is None else saved,
            recipe,
            rest["arguments"],
            rest["timing"],
            **ranking,
            settings=settings,
            options=rest.get("options"),
            lineage=_read_lineage(arrays),
        )
    except FileNotFoundError as error:
        raise ValueError(
            check.message("load_result", f"the folder must hold {_ARRAYS} and {_REST}", str(folder), "save(path) writes them")
        ) from error
    except (*_DAMAGES, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            check.message("load_result", "the files must be whole and unaltered", f"{type(error).__name__}: {error}")
        ) from error
    if recipe is not None:
        _check_found(reader)
        for row in {json.dumps(state.described): row for row, state in reversed(saved.items())}.values():
            result._restored("load_result", row)
    return result


def _read_lineage(arrays: Mapping[str, np.ndarray]) -> Lineage | None:
    if "lineage/step" not in arrays:
        return None
    prefix = "lineage/numbers/"
    numbers = {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
    return Lineage(arrays["lineage/step"], arrays["lineage/parent"], numbers)


def _check_found(reader: Reader) -> None:
    """Raises if a function or class is missing: a recipe needs the hyperparameters themselves, not their names."""
    if reader.missing:
        where = " and ".join(f"{name!r} ({hyperparameter})" for name, hyperparameter in reader.missing.items())
        given = ", ".join(f"{name!r}: ..." for name in reader.missing)
        fix = f"load_result(path, recipe, functions={{{given}}}) gives them, and without a recipe the table is read alone"
        rule = f"functions and classes that were hyperparameters must be given, which a file can't hold: {where}"
        raise ValueError(check.message("load_result", rule, "none of that name", fix))


def _on_device(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function, wrapped so that a state of NumPy arrays is converted to JAX arrays first; NumPy's lack methods such as `at`."""

    @functools.wraps(fn)
    def wrapped(state: PyTree, *args: Any, **kwargs: Any) -> Any:
        return fn(
            jax.tree.map(lambda leaf: jax.numpy.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf, state),
            *args,
            **kwargs,
        )

    return wrapped


def _is_plain(state: PyTree) -> bool:
    """Whether a state can be pickled: it has no random keys, which NumPy can't hold, and no class that pickle can't find."""
    return isinstance(state, Saved) or (not has_keys(state) and can_pickle(jax.tree.map(lambda leaf: 0, state)))


def _native(array: np.ndarray, dtype: str | None) -> np.ndarray:
    """The array in its own dtype, such as bfloat16, if it was written as bytes; a dtype of None leaves it unchanged."""
    if dtype is None:
        return array
    own = np.dtype(dtype)
    if own.kind != "V" or own.hasobject:
        raise ValueError(f"a dtype must be a number's, got {dtype}")
    return array.view(own)[..., 0]


def _read_states(rest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[int, Saved]:
    stacked = [arrays[f"states/{i}"] for i in range(sum(name.startswith("states/") for name in arrays))]
    states = {}
    for place, row in enumerate(rest["kept"]):
        own = sum(name.startswith(f"state/{row}/") for name in arrays) if not stacked else 0
        leaves = [each[place] for each in stacked] or [arrays[f"state/{row}/{i}"] for i in range(own)]
        states[int(row)] = Saved(rest["states"][place if len(rest["states"]) > 1 else 0], leaves)
    return states


def _as_told(saved: Saved) -> PyTree:
    try:
        return as_told(saved)
    except UnknownState:
        return saved


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("wb") as file:
        write(file)
    draft.replace(path)


def _joined(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Both curves over the steps of either, NaN where one wasn't evaluated."""
    steps = np.union1d(first["step"], second["step"])

    def spread(curves: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        own = np.full((len(curves[name]), len(steps)), np.nan, curves[name].dtype)
        own[:, np.searchsorted(steps, curves["step"])] = curves[name]
        return own

    return {"step": steps, **{name: np.concatenate([spread(first, name), spread(second, name)]) for name in first if name != "step"}}


def _names_of(hyperparameters: Sequence[Mapping[str, Any]]) -> Names:
    return Names(value for setting in hyperparameters for value in setting.values() if type(value) is str)


def _column(values: Sequence[Any], names: Names) -> np.ndarray:
    """A column of the table: numbers, text and None as they are, None too for variants without it; anything else as its name."""
    values = [None if value is MISSING else value for value in values]
    entries = [value if value is None or type(value) in (bool, int, float, str) else names.of(value) for value in values]
    kinds = {type(entry) for entry in entries}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {bool, str}):
        return np.asarray(entries)
    column = np.empty(len(entries), object)
    column[:] = entries
    return column


def _cell(value: Any) -> str:
    return f"{float(value):.4g}" if isinstance(value, float | np.floating) else str(getattr(value, "__name__", value))


def _spread(mean: float, std: float) -> str:
    return f"{mean:.4g}" if math.isnan(std) else f"{mean:.4g} ± {std:.2g}"


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."
