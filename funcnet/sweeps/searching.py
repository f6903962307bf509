"""`search`: sweeps in rounds; a strategy chooses each round's variants from the results of the rounds before."""

import copy
import inspect
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from funcnet import check
from funcnet.data import AnyDataset, Split
from funcnet.spaces import Variants, as_variants
from funcnet.suggest import Strategy
from funcnet.sweeps.ranking import known_mode, statistics
from funcnet.sweeps.result import SweepResult
from funcnet.sweeps.run import SweepFailed, SweepInterrupted, interruption_of, sweep
from funcnet.train import Training, check_length


class _OtherWay(SweepFailed, ValueError):
    """The strategy's mode doesn't match the metric's, which only the first round has shown."""


def search(
    recipe: Callable[..., Training],
    strategy: Strategy,
    data: Split | AnyDataset | Sequence[Split],
    *,
    rounds: int,
    per_round: int,
    **options: Any,
) -> SweepResult:
    """Sweeps in rounds; a strategy chooses each round's variants from the results of the rounds before.

    In each round: variants = strategy.ask(per_round); they are swept; strategy.tell(variants, values), where a variant's
    value is the mean over its runs of the metric that is ranked by, with its own sign; NaN if one of its runs can't be ranked or
    the mean is not finite. Since all rounds have the same shapes, later ones compile nothing, unless they have a new value of
    a hyperparameter that picks a program.

    Args:
      recipe: recipe(**hyperparameters) -> `Training`, as for `sweep`.
      strategy: such as `fn.suggest.random`, `fn.suggest.quasi_random` or `fn.suggest.optuna`; or any object with
        ask(n) -> n variants, all with the same names, and tell(variants, values) -> None. If it has an attribute `mode` ("min"
        or "max"), that must be the metric's mode.
      data: a `Split`; a `Dataset` or `WeightedDataset` to train on without validation; or a list of splits, as for `sweep`.
      rounds: at least 1.
      per_round: variants in each round, at least 1.
      **options: the other arguments of `sweep`: key, num_steps or num_epochs, batch_size, ... All rounds use the same key, so that
        variants of different rounds too are compared under common random numbers; with randomness="independent" round r, from 0,
        gets fold_in(key, r). `keep` counts over all rounds. `max_seconds` is for the whole search, which ends with the round in which
        the time runs out. `store` is a folder that gets a folder for each round, round-1, round-2, ...: the same call, with a new
        strategy made like the first (not the one that was told results), continues the search without training finished rounds
        again. For this, the strategy must ask for the same variants when it is told the same values, as one with a seed does.

    Returns:
      A `SweepResult` of all rounds, or of those begun within `max_seconds`. Variants are numbered through all rounds:
      `table["variant"] // per_round` is the round, from 0.

    Raises:
      ValueError: rounds or per_round is below 1, the strategy gives another number of variants, or its mode is not the metric's.
      TypeError: the strategy has no ask or tell, or an option isn't one of sweep's.
      SweepInterrupted: something failed during a round or in the strategy, or the user stopped the search; its `result`
        holds the rows of all rounds. The strategy is not told of a round that didn't end.
      ValueError: the store holds another search, or the strategy asked for other variants than before.

    Example:
      >>> import funcnet as fn
      >>> def recipe(learning_rate):
      ...     return fn.training(fn.dense(1), fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> data = fn.split(fn.Dataset(x, 3 * x), key=jax.random.key(0))
      >>> strategy = fn.suggest.quasi_random(fn.space(learning_rate=fn.log_uniform(1e-3, 1.0)), key=jax.random.key(1))
      >>> steps = dict(key=jax.random.key(2), num_steps=50, batch_size=16, progress=False)
      >>> result = search(recipe, strategy, data, rounds=3, per_round=4, keep=1, **steps)
      >>> len(result), len(set(result.table["learning_rate"].tolist())), result.best().metrics["validation/loss"] < 0.01
      (12, 12, True)
    """
    rounds, per_round = check.whole("search", "rounds", rounds, 1), check.whole("search", "per_round", per_round, 1)
    check.callables("search", strategy, ("ask", "tell"), "fn.suggest.random(space, key=key) is one")
    _check_options(options)
    key, keep, independent = options.pop("key"), options.get("keep"), options.get("randomness") == "independent"
    check.random_key("search", key)
    metric, mode = options.get("metric"), options.get("mode")
    known = known_mode(metric, {}) if mode is None and isinstance(metric, str) else mode
    if known is not None:  # else they are known only after the first round
        _check_mode(strategy, "the metric" if metric is None else repr(metric), known)
    folder, seconds = options.pop("store", None), options.pop("max_seconds", None)
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise TypeError(check.message("search", "store must be the path of a folder", repr(folder)))
    folder = None if folder is None else os.path.abspath(folder)  # absolute: the process may change its folder between two rounds
    if seconds is not None:
        check.in_range("search", "max_seconds", seconds, 0, ends="()", fix="None for as long as it takes")
    deadline = None if seconds is None else time.monotonic() + float(seconds)
    found: SweepResult | None = None
    for number in range(rounds):
        if folder is not None:
            options["store"] = os.path.join(folder, f"round-{number + 1}")
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 and found is not None and not _is_stored(options.get("store")):
                break
            options["max_seconds"] = max(left, 1e-9)  # a stored round is read even after the deadline
        try:
            given = strategy.ask(per_round)
            variants = _checked(given, per_round, found)
            result = sweep(recipe, variants, data, key=jax.random.fold_in(key, number) if independent else key, **options)
            found = _kept(result if found is None else found + result, keep)
            if number == 0:
                _check_first(strategy, result)
            if "unfinished" in result.table["status"]:  # out of time
                break
            strategy.tell(given if isinstance(given, Sequence) else variants, _values(result))
        except _OtherWay:
            raise
        except SweepInterrupted as error:
            joined = error.result if found is None else found + error.result
            raise type(error)(f"search: round {number + 1} of {rounds}: {error}", _kept(joined, keep)) from error
        except BaseException as error:
            if found is None:
                raise
            what = f"search: {type(error).__name__} in round {number + 1} of {rounds}, after {len(found)} runs, which the error's .result holds"
            raise interruption_of(error)(f"{what}: {error}" if str(error) else what, found) from error
    assert found is not None
    return found


def _is_stored(folder: str | None) -> bool:
    """Whether a round's folder exists, so that it has been started."""
    return folder is not None and os.path.isdir(folder)


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises for a misspelt or missing option before the strategy is asked or anything is trained."""
    parameters = {name: each for name, each in inspect.signature(sweep).parameters.items() if name not in ("recipe", "variants", "data")}
    for name in options:
        if name not in parameters:
            raise TypeError(f"search: neither search nor sweep has an argument {name!r}; {check.nearest(name, parameters)}")
    missing = [name for name, each in parameters.items() if each.default is inspect.Parameter.empty and name not in options]
    if missing:
        raise TypeError(check.message("search", f"needs {' and '.join(missing)}", "none", "as sweep does"))
    check_length("search", options.get("num_steps"), options.get("num_epochs"))


def _check_mode(strategy: Strategy, metric: str, mode: str) -> None:
    check.one_of("search", "mode", mode, ("min", "max"))
    wanted = getattr(strategy, "mode", None)
    if wanted is None:
        return
    check.one_of("search", "mode of a strategy", wanted, ("min", "max"))
    if wanted != mode:
        direction = "maximize" if mode == "max" else "minimize"
        fix = f'optuna.create_study(direction="{direction}") makes a study of that mode; search(..., mode={wanted!r}) ranks the other way'
        raise ValueError(check.message("search", f"the strategy's mode must be {mode!r}, as {metric} is ranked", repr(wanted), fix))


def _check_first(strategy: Strategy, result: SweepResult) -> None:
    """Raises if the strategy's mode is not that of the first round's metric; the error holds the round's result."""
    try:
        if result.mode is not None:
            _check_mode(strategy, repr(result.metric), result.mode)
        elif getattr(strategy, "mode", None) is not None:
            fix = 'give search mode="min" or mode="max"; Training(..., modes=...) says it once for all'
            raise ValueError(check.message("search", f"must know which way {result.metric!r} is better", "no mode", fix))
    except (ValueError, TypeError) as error:
        raise _OtherWay(str(error), result) from None


def _checked(given: Any, per_round: int, found: SweepResult | None) -> Variants:
    """The strategy's variants, checked: per_round of them, with the hyperparameters of the rounds before."""
    variants = as_variants("search: strategy.ask", given)
    if len(variants) != per_round:
        fix = "a strategy gives as many as it is asked for"
        raise ValueError(check.message("search", f"strategy.ask({per_round}) must give {per_round} variants", len(variants), fix))
    if found is not None and (names := {*found.hyperparameter_names}) != variants[0].keys():
        odd = ", ".join(map(repr, sorted(names ^ variants[0].keys())))
        rule, fix = "every round must name the same hyperparameters", "None will do where one has no part"
        raise ValueError(check.message("search: strategy.ask", rule, f"{odd} in only one of this and the first", fix))
    return variants


def _values(result: SweepResult) -> list[float]:
    """The value of each variant of a round: the metric's mean over its runs; NaN if it can't be ranked."""
    own = statistics(result.table, [result.metric])
    mean, whole = own.mean[result.metric], own.completed == sum(own.statuses.values())
    values: list[float] = np.where(whole & np.isfinite(mean), mean, np.nan).tolist()
    return values


def _kept(result: SweepResult, keep: int | None) -> SweepResult:
    """The result with only the states of the keep best variants of all rounds; until now each round's best were kept."""
    if keep is None:
        return result
    table, sign = result.table, 1 if result.mode == "min" else -1
    fine = (table["status"] == "completed") & np.isfinite(table[result.metric])
    values: dict[int, list[float]] = {}
    for variant, value in zip(table["variant"].tolist(), np.where(fine, sign * table[result.metric], math.inf).tolist(), strict=True):
        values.setdefault(variant, []).append(value)
    best = sorted(values, key=lambda variant: (float(np.mean(values[variant])), variant))[:keep]
    unfinished = table["variant"][table["status"] == "unfinished"].tolist()  # of an interrupted round: a sweep keeps these too
    wanted = {*best, *unfinished}
    kept = copy.copy(result)
    kept._states = {row: state for row, state in result._states.items() if int(table["variant"][row]) in wanted}
    return kept
