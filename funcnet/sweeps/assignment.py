"""Sorts a variant's hyperparameters into static ones, which pick a program, and numbers and names, which are its arguments.

Each lane has its own numbers; all lanes of a chunk have the same names. `static`, `numbers` and `names` mean the same wherever
a variant's values are passed on: in variants, groups, lanes and the trial of a group.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from funcnet import check
from funcnet.spaces import MISSING, Static, Traced, bare, plain
from funcnet.train import check_batch_size, steps_of

RESERVED = ("batch_size", "num_steps", "num_examples")  # hyperparameters that have a meaning for the sweep itself


class Variant(NamedTuple):
    """One setting of the hyperparameters."""

    hyperparameters: dict[str, Any]  # as given, without the marks static and traced; MISSING ones are in no other field
    static: dict[str, Any]  # the recipe's hyperparameters that pick a program
    numbers: dict[str, float | int]  # the recipe's hyperparameters that are numeric arguments of the program
    names: dict[str, str]  # the recipe's hyperparameters that are names, such as of an activation or an optimizer
    batch_size: int | None
    num_steps: int
    num_examples: int | None
    own: dict[str, Any] = {}  # noqa: RUF012  # RESERVED values that the recipe declares and the variant doesn't set


def assign(
    where: str,
    setting: Mapping[str, Any],
    declared: set[str],
    wants: set[str],
    num_steps: int | None,
    num_epochs: int | None,
    batch_size: int | None,
    examples: int,
) -> Variant:
    """Sorts the hyperparameters of one variant into static ones, numbers and names.

    Args:
      where: names the variant in error messages.
      setting: the variant's values, as given.
      declared: which of them the recipe takes.
      wants: which of the `RESERVED` names the recipe takes.
      num_steps: of the sweep, or None; the variant's own takes precedence.
      num_epochs: of the sweep, used if there is no num_steps; converted to steps with the variant's own batch_size and num_examples.
      batch_size: of the sweep; the variant's own takes precedence.
      examples: number of training examples.

    Raises:
      TypeError: a static value isn't hashable, or a value marked as traced is no number or name.
      ValueError: one of the `RESERVED` values is out of range.
    """
    values = {name: _plain(where, name, value) for name, value in setting.items() if value is not MISSING}
    there = {name: bare(value) for name, value in values.items()}
    given = {name: there.get(name, MISSING) for name in setting}
    if "num_steps" in there:
        num_steps = check.whole(where, "num_steps", there["num_steps"], 1)
    own_batch = there.get("batch_size", batch_size)
    limit = there.get("num_examples")
    if limit is not None:
        check.whole(where, "num_examples", limit, 1, examples)
    seen = examples if limit is None else limit
    check_batch_size(where, own_batch, seen)
    own_steps = steps_of(num_steps, num_epochs, seen, own_batch)
    asked = {"batch_size": own_batch, "num_steps": own_steps, "num_examples": examples}
    own = {name: asked[name] for name in RESERVED if name in wants and name not in there}
    mine = {name: value for name, value in values.items() if name in declared}
    arguments = {name: bare(value) for name, value in mine.items() if _is_argument(name, value)}
    static = {name: bare(value) for name, value in mine.items() if name not in arguments} | own
    for name, value in static.items():
        try:
            hash(value)
        except TypeError:
            fix = "a tuple will do in place of a list or array"
            raise TypeError(check.message(where, f"{name} must be a number or something hashable", type(value).__name__, fix)) from None
    names = {name: value for name, value in arguments.items() if isinstance(value, str)}
    numbers = {name: value for name, value in arguments.items() if name not in names}
    return Variant(given, static, numbers, names, own_batch, own_steps, limit, own)


def program_of(variant: Variant) -> tuple[Any, ...]:
    """A key that is equal for variants that share a program. It tells 1, 1.0 and True apart, which Python treats as equal."""
    picks = tuple((name, typed(value)) for name, value in sorted(variant.static.items()))
    numbers = tuple((name, isinstance(value, int)) for name, value in sorted(variant.numbers.items()))
    return picks, numbers, tuple(sorted(variant.names)), variant.batch_size, variant.num_examples is not None


def typed(value: Any) -> Any:
    """A hashable value paired with its type; in a tuple, each entry is."""
    return (tuple, *map(typed, value)) if type(value) is tuple else (type(value), value)


def brief(setting: Mapping[str, Any]) -> str:
    """Hyperparameters as error messages show them."""

    def short(value: Any) -> str:
        if not isinstance(value, float):
            return str(getattr(value, "__name__", repr(value)))
        digits = f"{float(value):.4g}"
        return f"{digits}.0" if digits.lstrip("-").isdigit() else digits  # so that a width of 8.0 differs from one of 8

    return "(" + ", ".join(f"{name}={short(value)}" for name, value in plain(setting).items()) + ")"


def _is_argument(name: str, value: Any) -> bool:
    """Whether a recipe's hyperparameter is an argument of its program: a float, one marked as traced, or num_examples."""
    return isinstance(value, float | Traced) or (name == "num_examples" and value is not None)


def _plain(where: str, name: str, value: Any) -> Any:
    """The value with arrays of shape () as Python numbers and lists as tuples; keeps the marks static and traced."""
    if isinstance(value, Static | Traced):
        inner = _plain(where, name, value.value)
        if isinstance(value, Traced):
            if isinstance(inner, bool) or not isinstance(inner, int | float | str):
                raise TypeError(check.message(where, f"traced {name} must be a number or a name", repr(inner)))
            if isinstance(inner, int) and not -(2**31) <= inner < 2**31:
                raise ValueError(check.message(where, f"traced {name} must fit in int32", inner, "a float of that size will do"))
        return type(value)(inner)
    if check.is_array(value) and np.shape(value) == ():
        return value.item()
    return tuple(_plain(where, name, entry) for entry in value) if isinstance(value, list) else value
