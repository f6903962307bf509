"""Rehearses a sweep before it trains: calls the recipe with every variant's values, and traces each group's functions once."""

import functools
import operator
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import check, inner
from funcnet.data import Dataset, FirstExamples, Split
from funcnet.folds import Folds
from funcnet.option import Option
from funcnet.spaces import Variants
from funcnet.sweeps.assignment import Variant, brief
from funcnet.sweeps.cost import flops
from funcnet.sweeps.mixed import ALIKE, Mixed, Sizes, Unlike, check_alike, seconds_each_way, sizes_of
from funcnet.sweeps.planning import Group, Plan, Recipe, with_static
from funcnet.sweeps.trial import Arguments, Trial, measured, state_of, try_out, unknown
from funcnet.sweeps.width import core_lanes
from funcnet.train import Training, as_training, check_data


class Rehearsal(NamedTuple):
    """What the rehearsal has found out about a plan."""

    trials: list[Trial]  # one per group
    metrics: tuple[str, ...]  # the names of all metrics, such as "validation/loss"
    modes: dict[str, str]  # "min" or "max" by a metric's name without the part of the data, if a training gives it
    notes: tuple[str, ...] = ()  # for each group whose traced numbers decide shapes: whether its sizes share a program, and why


def rehearse(plan: Plan, variants: Variants, data: Folds, key: jax.Array, *, apart: str = "") -> tuple[Plan, Rehearsal]:
    """Calls the recipe with each variant's concrete values, and traces the functions of each group.

    Args:
      apart: the reason why sizes (traced numbers that decide shapes) must not share a program; empty if they may.

    Returns:
      The plan, in which sizes that share no program have become static; and the rehearsal's findings.

    Raises:
      ValueError, TypeError: the recipe rejects a value or returns no training, or the data doesn't fit it; the message
        names the variant.
    """
    firsts = [plan.rows[group.rows[0]].variant for group in plan.groups]
    trainings = _call_each(plan, variants, range(len(plan.variants)), set(firsts))
    plan, notes = _with_sizes(plan, data[0], key, apart)
    firsts = [plan.rows[group.rows[0]].variant for group in plan.groups]
    more = [first for first in firsts if first not in trainings]
    trainings |= _call_each(plan, variants, more, set(more))
    trials = []
    for group, first in zip(plan.groups, firsts, strict=True):
        own = functools.partial(_try_group, plan.recipe_of(group), trainings[first], group, plan.variants[first], data, key)
        trials.append(_named_after(variants, first, own))
    modes = {name: mode for first in sorted(firsts) for name, mode in trainings[first].modes.items()}
    return plan, Rehearsal(trials, _metric_names(trials, data[0]), modes, notes)


def _with_sizes(plan: Plan, data: Split, key: jax.Array, apart: str) -> tuple[Plan, tuple[str, ...]]:
    """Decides for each group's sizes (traced integers that the recipe needs as Python ints) whether they share a program.

    Returns:
      The plan, changed accordingly, and the reasons as notes.
    """
    notes, sharing = [], {}
    for group in plan.groups:
        first = plan.of_row(group.rows[0])
        names = _shaping(plan.recipe, group, first, data, key) if any(isinstance(value, int) for value in first.numbers.values()) else []
        if not names:
            continue
        sizes, note = _shared(plan, group, names, data, key, apart)
        if sizes is None:
            plan = with_static(plan, group, names)  # which groups all rows once more
        else:
            sharing[group.rows[0]] = sizes
        notes += [note] if note else []
    return plan._replace(groups=[group._replace(sizes=sharing.get(group.rows[0])) for group in plan.groups]), tuple(notes)


def _shared(plan: Plan, group: Group, names: list[str], data: Split, key: jax.Array, apart: str) -> tuple[Sizes | None, str]:
    """A group's `Sizes` if they are to share a program, else None; and the reason, as a note."""
    kind = jax.ShapeDtypeStruct((), key.dtype)
    rows: dict[tuple[int, ...], list[int]] = {}
    for row in group.rows:
        rows.setdefault(tuple(int(plan.of_row(row).numbers[name]) for name in names), []).append(row)
    if len(rows) == 1:
        return None, ""
    largest = ", ".join(str(max(column)) for column in zip(*rows, strict=True))
    what, each = f"{' and '.join(names)} in {len(rows)} sizes up to {largest}", "a program for each"
    if apart:
        return None, f"{what}: {each}, since {apart}"
    first = plan.of_row(group.rows[0])
    arguments = unknown({name: value for name, value in first.numbers.items() if name not in names}, group.names)

    def training(arguments: Arguments, values: dict[str, int]) -> Training:
        named = {name: Option(name, group.names[name], index) for name, index in arguments.names.items()}
        return as_training("sweep", plan.recipe(**group.static, **arguments.numbers, **named, **values))

    try:
        sizes = sizes_of(training, names, list(rows), arguments, kind)
        mixed = Mixed(plan.recipe, sizes)
        trial = _trial_or_reason(mixed, group, first, data, key)
        counts = [(len(rows[at]), sum(plan.of_row(row).num_steps for row in rows[at])) for at in sizes.settings]
        one, many = seconds_each_way(sizes, counts, flops(trial.step.jaxpr), core_lanes(trial.step_bytes), os.cpu_count() or 1)
        if one > many:
            return None, f"{what}: {each}, about {many:.2g} s where one filled up to the largest would take {one:.2g} s"
        for at in {min(sizes.settings, key=operator.itemgetter(i)) for i in range(len(names))}:
            own = plan.of_row(rows[at][0])
            alone = _tries(plan.recipe, group, own, data, key)[0](names)
            tried = {**own.static, **own.numbers}, group.names, data, group.batch_size, group.limits_examples, key
            remembered = inner.digest((trial.key, alone.key, trial.constants, alone.constants)), inner.trace_context()
            ALIKE.get(remembered, functools.partial(check_alike, mixed, *tried))
    except Unlike as reason:
        return None, f"{what}: {each}, since {reason}"
    except Exception as error:  # an error of the recipe itself also shows in the trials without padding
        return None, f"{what}: {each}, since filled up to the largest it fails: {type(error).__name__}: {error}"
    return sizes, f"{what}: one program, filled up to the largest, about {one:.2g} s where {each} would take {many:.2g} s"


def _shaping(recipe: Recipe, group: Group, first: Variant, data: Split, key: jax.Array) -> list[str]:
    """The traced integers that the recipe needs as Python ints, such as a width; none if it needs floats too, or fails anyway."""
    trial, works = _tries(recipe, group, first, data, key)
    try:
        trial(())
    except Exception:
        guilty = _looked_at(works, first)
        return guilty if all(isinstance(first.numbers[name], int) for name in guilty) else []
    return []


def _call_each(plan: Plan, variants: Variants, which: Sequence[int], firsts: set[int]) -> dict[int, Training]:
    """Calls the recipe with the concrete values of these variants, so that every factory's own checks see them.

    Args:
      which: the variants to call it for.
      firsts: the first variant of each group.

    Returns:
      The trainings of firsts, by variant.
    """
    trainings: dict[int, Training] = {}

    def call(i: int) -> None:
        variant = plan.variants[i]
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, and its run diverges
            training = as_training("sweep", plan.recipe(**variant.static, **variant.numbers, **variant.names))
        if i in firsts:
            trainings[i] = training

    for i in which:
        _named_after(variants, i, functools.partial(call, i))
    return trainings


def _try_group(recipe: Recipe, training: Training, group: Group, first: Variant, data: Folds, key: jax.Array) -> Trial:
    """The trial of a group; its first variant's training also checks the data, and an error of that check comes before the trial's."""
    failed = None
    try:
        trial = _trial_or_reason(recipe, group, first, data[0], key)
    except Exception as error:
        failed = _for_its_weights(error, recipe, group, first, data[0], key)
    for fold in data:
        check_data(training, fold, None if failed or group.sizes else state_of(trial))
    if failed:
        raise failed
    return trial


def _for_its_weights(error: Exception, recipe: Recipe, group: Group, first: Variant, data: Split, key: jax.Array) -> Exception:
    """The error to raise for a failed trial: if the trial works without weights, one that says the recipe must accept them.

    The weights mark which examples count, with num_examples or folds of several sizes.
    """
    validation = data.validation
    if not group.limits_examples and not isinstance(validation, FirstExamples):
        return error
    plain = Split(data.train, Dataset(*validation[:2]) if isinstance(validation, FirstExamples) else validation)
    try:
        _trial_or_reason(recipe, group._replace(limits_examples=False), first, plain, key)
    except Exception:
        return error
    rule = "step and evaluate must take WeightedDataset(x, y, weights) where not all examples count (num_examples, folds of several sizes)"
    return TypeError(check.message("recipe", rule, f"{type(error).__name__}: {error}", "weighted means; or folds of one size"))


def _trial_or_reason(recipe: Recipe, group: Group, first: Variant, data: Split, key: jax.Array) -> Trial:
    """The trial of a group; if the recipe needs the Python value of a number in which lanes differ, the error names that number."""
    trial, works = _tries(recipe, group, first, data, key)
    try:
        return trial(())
    except jax.errors.UnexpectedTracerError as error:
        rule = "a state must hold arrays, and no function made from a hyperparameter"
        fix = "keep optimizers and other functions in the recipe, as flax's TrainState doesn't, or make the hyperparameter static(...)"
        raise TypeError(check.message("recipe", rule, "a traced number that left its trace", fix)) from error
    except Exception as error:
        guilty = _looked_at(works, first)
        if not guilty:
            trial(list(first.numbers))  # if it fails with Python numbers too, that error is clearer
            raise
        names = " and ".join(map(repr, guilty))
        rule = f"the recipe must not look at {names} in Python, since variants that differ in it share a program"
        got = type(error).__name__ + ("" if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError) else f": {error}")
        fix = f"static(...) gives each value of {guilty[0]} a program of its own; jax.numpy.where(...) chooses within one"
        raise TypeError(check.message("recipe", rule, got, fix)) from error


def _tries(
    recipe: Recipe, group: Group, first: Variant, data: Split, key: jax.Array
) -> tuple[Callable[[Collection[str]], Trial], Callable[[Collection[str]], bool]]:
    """Two functions of a collection of a group's numbers, which are then Python numbers: the trial, and whether it succeeds."""
    kind = jax.ShapeDtypeStruct((), key.dtype)

    def trial(concrete: Collection[str]) -> Trial:
        known = {name: first.numbers[name] for name in concrete}
        arguments = unknown({name: value for name, value in first.numbers.items() if name not in concrete}, group.names)
        return try_out(recipe, {**group.static, **known}, arguments, group.names, data, group.batch_size, group.limits_examples, kind)

    def works(concrete: Collection[str]) -> bool:
        try:
            trial(concrete)
        except Exception:
            return False
        return True

    return trial, works


def _looked_at(works: Callable[[Collection[str]], bool], first: Variant) -> list[str]:
    """A minimal list of a group's numbers that the recipe needs as Python numbers to work; empty if it fails even with all."""
    guilty = list(first.numbers)
    if not guilty or not works(guilty):
        return []
    for name in list(guilty):
        rest = [other for other in guilty if other != name]
        if works(rest):
            guilty = rest
    return guilty


def _named_after(variants: Variants, i: int, call: Callable[[], Any]) -> Any:
    """The result of call(); an error that it raises gets the variant into its message."""
    try:
        return call()
    except Exception as error:
        said = f"sweep: variant {i} {brief(variants[i])}: {error}"
        try:
            named = type(error)(said)
        except Exception:  # some errors can't be made from a text
            named = None
        if named is None or said not in str(named):
            kind = next((kind for kind in (TypeError, ValueError) if isinstance(error, kind)), None)
            if kind is None:
                error.add_note(f"sweep: variant {i} {brief(variants[i])}")
                raise
            named = kind(said)
        raise named from error


def _metric_names(trials: list[Trial], data: Split) -> tuple[str, ...]:
    """The names of all metrics of all groups, in the order of the table's columns."""
    parts = [name for name, part in zip(("train", "validation"), data[:2], strict=True) if part is not None]
    found: dict[str, None] = {}
    for trial in trials:
        for name in parts:
            for metric in measured(trial, getattr(data, name), limited=name == "train" and trial.limits_examples):
                found[f"{name}/{metric}"] = None
    return tuple(found)
