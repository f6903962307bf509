"""What is checked before anything trains: the recipe is called with every variant's values, and each group is traced once."""

import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import check
from funcnet.data import Dataset, FirstExamples, Split
from funcnet.folds import Folds
from funcnet.spaces import Variants
from funcnet.sweeps.assignment import Variant, brief
from funcnet.sweeps.planning import Group, Plan, Recipe
from funcnet.sweeps.trial import Trial, measured, state_of, try_out, unknown
from funcnet.train import Training, as_training, check_data


class Rehearsal(NamedTuple):
    """What is known of a plan before it is carried out."""

    trials: list[Trial]  # one a group
    metrics: tuple[str, ...]  # the names of what is measured, as "validation/loss"
    modes: dict[str, str]  # "min" or "max" by the last part of a metric's name, where that is known


def rehearse(plan: Plan, variants: Variants, data: Folds, key: jax.Array) -> Rehearsal:
    """Calls the recipe with each variant's concrete values, and traces what each group of them computes.

    Raises:
      ValueError, TypeError: the recipe objects to a value or gives no training, or the data doesn't fit it; the message
        names the variant.
    """
    firsts = [plan.rows[group.rows[0]].variant for group in plan.groups]
    trainings = _call_each(plan, variants, set(firsts))
    trials = []
    for group, first in zip(plan.groups, firsts, strict=True):
        own = functools.partial(_try_group, plan.recipe, trainings[first], group, plan.variants[first], data, key)
        trials.append(_named_after(variants, first, own))
    modes = {name: mode for first in sorted(firsts) for name, mode in trainings[first].modes.items()}
    return Rehearsal(trials, _metric_names(trials, data[0]), modes)


def _call_each(plan: Plan, variants: Variants, firsts: set[int]) -> dict[int, Training]:
    """Calls the recipe with every variant's concrete values, so that every factory's own checks see them.

    Args:
      firsts: the first variant of each group.

    Returns:
      Their trainings.
    """
    trainings: dict[int, Training] = {}

    def call(i: int) -> None:
        variant = plan.variants[i]
        with np.errstate(over="ignore"):  # of a number beyond float32, which is infinite there: its run diverges
            training = as_training("sweep", plan.recipe(**variant.static, **variant.numbers, **variant.names))
        if i in firsts:
            trainings[i] = training

    for i in range(len(plan.variants)):
        _named_after(variants, i, functools.partial(call, i))
    return trainings


def _try_group(recipe: Recipe, training: Training, group: Group, first: Variant, data: Folds, key: jax.Array) -> Trial:
    """The trial of a group, whose first variant's training has a look at the data itself; what it objects to goes first."""
    failed = None
    try:
        trial = _trial_or_reason(recipe, group, first, data[0], key)
    except Exception as error:
        failed = _for_its_weights(error, recipe, group, first, data[0], key)
    for fold in data:
        check_data(training, fold, None if failed else state_of(trial))
    if failed:
        raise failed
    return trial


def _for_its_weights(error: Exception, recipe: Recipe, group: Group, first: Variant, data: Split, key: jax.Array) -> Exception:
    """What a trial has failed by, or that it takes no weights, if it would do without those that tell which examples count."""
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
    """The trial of a group; where the recipe looks at a number that its lanes differ in, the error names that number."""

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

    try:
        return trial(())
    except jax.errors.UnexpectedTracerError as error:
        rule = "a state must hold arrays, and no function made from a hyperparameter"
        fix = "keep optimizers and other functions in the recipe, as flax's TrainState doesn't, or make the hyperparameter static(...)"
        raise TypeError(check.message("recipe", rule, "a traced number that left its trace", fix)) from error
    except Exception as error:
        guilty = list(first.numbers)
        if not guilty or not works(guilty):
            raise
        for name in list(guilty):
            rest = [other for other in guilty if other != name]
            if works(rest):
                guilty = rest
        names = " and ".join(map(repr, guilty))
        rule = f"the recipe must not look at {names} in Python, since variants that differ in it share a program"
        got = type(error).__name__ + ("" if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError) else f": {error}")
        fix = f"static(...) gives each value of {guilty[0]} a program of its own; jax.numpy.where(...) chooses within one"
        raise TypeError(check.message("recipe", rule, got, fix)) from error


def _named_after(variants: Variants, i: int, call: Callable[[], Any]) -> Any:
    """What the call gives; whatever it raises says of which variant."""
    try:
        return call()
    except Exception as error:
        said = f"sweep: variant {i} {brief(variants[i])}: {error}"
        try:
            named = type(error)(said)
        except Exception:  # some can't be made from a text
            named = None
        if named is None or said not in str(named):
            kind = next((kind for kind in (TypeError, ValueError) if isinstance(error, kind)), None)
            if kind is None:
                error.add_note(f"sweep: variant {i} {brief(variants[i])}")
                raise
            named = kind(said)
        raise named from error


def _metric_names(trials: list[Trial], data: Split) -> tuple[str, ...]:
    """The names of everything that any group measures, in the order of the table."""
    parts = [name for name, part in zip(("train", "validation"), data[:2], strict=True) if part is not None]
    found: dict[str, None] = {}
    for trial in trials:
        for name in parts:
            for metric in measured(trial, getattr(data, name), limited=name == "train" and trial.limits_examples):
                found[f"{name}/{metric}"] = None
    return tuple(found)
