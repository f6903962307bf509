"""Argument checks: every error message that a user can see is built here.

The form is `where: rule, got value; likely fix`. Shapes, dtypes and structures are checked while tracing, values when
they are concrete: a traced value passes, NaN never does.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from funcnet import inner

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Marked:
    """A function with information attached, as `metric` and `batch_loss` return it; calling it calls the function."""

    fn: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


def unwrapped(fn: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Yields a function, then what it wraps, until no mark (`Marked`) and no functools.partial is left."""
    yield fn
    while isinstance(fn, Marked | functools.partial):
        fn = fn.fn if isinstance(fn, Marked) else fn.func
        yield fn


def bare(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Removes all marks and all arguments bound by functools.partial from a function.

    Example:
      >>> bare(functools.partial(Marked(round), ndigits=1))
      <built-in function round>
    """
    return list(unwrapped(fn))[-1]


def parameters(fn: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of the bare function, by name; empty for a builtin without a signature."""
    try:
        return inspect.signature(bare(fn)).parameters
    except (TypeError, ValueError):
        return {}


def message(where: str, rule: str, got: Any, fix: str = "") -> str:
    """Formats an error message: the function, its rule, the value that it got and the likely fix."""
    return f"{where}: {rule}, got {got}" + (f"; {fix}" if fix else "")


def is_traced(value: Any) -> bool:
    return isinstance(value, inner.Tracer)


def in_range(where: str, name: str, value: Any, low: float, high: float = math.inf, *, ends: str = "[)", fix: str = "") -> None:
    """Checks that a scalar lies between low and high; `ends` says which of the two are included. A traced scalar passes.

    Raises:
      TypeError: value is not one number.
      ValueError: value lies outside the range, or is NaN.

    Example:
      >>> in_range("momentum", "decay", 1.5, 0, 1)
      Traceback (most recent call last):
      ValueError: momentum: decay must be in [0, 1), got 1.5
    """
    if is_traced(value):
        if value.shape != ():
            raise TypeError(message(where, f"{name} must be one number", f"shape {value.shape}", "use jax.vmap for several"))
        return
    number = as_number(where, name, value)
    above = number >= low if ends[0] == "[" else number > low
    below = number <= high if ends[1] == "]" else number < high
    if not (above and below):
        raise ValueError(message(where, f"{name} must be in {ends[0]}{low:g}, {high:g}{ends[1]}", value, fix))


def as_number(where: str, name: str, value: Any) -> float:
    """Converts a number or an array of shape () to a Python float; raises a TypeError for anything else."""
    if is_array(value):
        one = np.shape(value) == () and jax.numpy.issubdtype(value.dtype, jax.numpy.number)
    else:
        one = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not one:
        kind = f"shape {np.shape(value)}" if is_array(value) and np.shape(value) else repr(value)
        raise TypeError(message(where, f"{name} must be one number", kind))
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(message(where, f"{name} must be one number", repr(value))) from error


def is_array(value: Any) -> bool:
    # isinstance goes through a metaclass for jax.Array, which takes longer than all other checks of a recipe's factories.
    return type(value) not in _PLAIN and isinstance(value, np.ndarray | np.generic | jax.Array)


_PLAIN = frozenset({bool, int, float, str, type(None), tuple, list, dict})


def is_integer(value: Any) -> bool:
    """Whether value is one number of an integer type; a bool isn't."""
    if is_array(value):
        return np.shape(value) == () and np.issubdtype(value.dtype, np.integer)
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def whole(where: str, name: str, value: Any, low: int, high: float = math.inf, *, fix: str = "") -> int:
    """Checks a static whole number in [low, high] and returns it as an int."""
    if is_traced(value) or not is_integer(value):
        raise TypeError(message(where, f"{name} must be a whole number", repr(value), fix))
    if not low <= int(value) <= high:
        rule = f"at least {low}" if math.isinf(high) else f"in [{low}, {high:g}]"
        raise ValueError(message(where, f"{name} must be {rule}", int(value), fix))
    return int(value)


def random_key(where: str, key: Any) -> None:
    """Checks that key is one JAX random key, typed or raw (uint32); a traced key passes.

    Raises:
      TypeError: key is something else, such as a seed.
      ValueError: key holds several keys.

    Example:
      >>> random_key("split", 0)
      Traceback (most recent call last):
      TypeError: split: key must be a JAX random key, got 0; such as jax.random.key(0)
    """
    shape, dtype = np.shape(key), getattr(key, "dtype", None)
    typed = dtype is not None and jax.numpy.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and (dtype != np.uint32 or not shape):
        seed = int(key) if is_integer(key) and not is_traced(key) else 0
        got = repr(key) if is_integer(key) or not is_array(key) else f"an array of {dtype}"
        raise TypeError(message(where, "key must be a JAX random key", got, f"such as jax.random.key({seed})"))
    if len(shape) > (0 if typed else 1):
        raise ValueError(message(where, "key must be one key", f"shape {shape}", "jax.random.split makes several, of which one will do"))


def nearest(name: Any, names: Iterable[str]) -> str:
    """Suggests the nearest name, as in `did you mean 'relu'?`, or lists all names if none is near."""
    names = [str(other) for other in names]
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(map(repr, names)) or 'none'}"


def one_of(where: str, kind: str, name: Any, registry: Iterable[str]) -> None:
    """Checks that a name is in a registry; the error names the nearest one."""
    names = list(registry)
    if not isinstance(name, str):
        raise TypeError(message(where, f"{kind} must be a name", repr(name), f"there are {', '.join(map(repr, names))}"))
    if name not in names:
        raise ValueError(f"{where}: unknown {kind} {name!r}; {nearest(name, names)}")


def lookup(where: str, kind: str, name_or_fn: str | Callable[..., T], registry: Mapping[str, Callable[..., T]]) -> Callable[..., T]:
    """Looks up a name in a registry; a function is returned as it is."""
    if callable(name_or_fn):
        return name_or_fn
    one_of(where, kind, name_or_fn, registry)
    return registry[name_or_fn]


def is_configured(value: Any) -> bool:
    """Whether value is a pair of a name or function and its settings, such as ("f1", {"average": "binary"})."""
    return (
        isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping) and (isinstance(value[0], str) or callable(value[0]))
    )


def configured(where: str, kind: str, given: Any, registry: Mapping[str, Callable[..., T]]) -> Callable[..., T]:
    """As `lookup`, but also takes a pair (name or function, settings) and binds the settings with functools.partial.

    Raises:
      TypeError: given is no name, function or such a pair, or a setting isn't one of the function's parameters after the first two.
      ValueError: the name is unknown.

    Example:
      >>> configured("training", "metric", ("power", {"mod": 5}), {"power": pow})(3, 2)
      4
    """
    if not is_configured(given):
        if isinstance(given, tuple) and not callable(given):
            rule, fix = f"a {kind} with settings must be a pair of a name or function and a dict", 'such as ("f1", {"average": "binary"})'
            raise TypeError(message(where, rule, repr(given)[:80], fix))
        return lookup(where, kind, given, registry)
    fn, settings = lookup(where, kind, given[0], registry), given[1]
    known = parameters(fn)
    names = list(known)[2:]
    if known and not any(each.kind == each.VAR_KEYWORD for each in known.values()):
        for setting in settings:
            if setting not in names:
                name = given[0] if isinstance(given[0], str) else getattr(bare(fn), "__name__", "function")
                raise TypeError(f"{where}: the {kind} {name!r} has no setting {setting!r}; {nearest(setting, names)}")
    return functools.partial(fn, **settings)


def is_floating(value: Any) -> bool:
    return jax.numpy.issubdtype(jax.numpy.result_type(value), jax.numpy.floating)


def shape_is(where: str, name: str, shape: Sequence[int], expected: Sequence[int], *, fix: str = "") -> None:
    """Checks a shape. One axis too many is usually a batch, and the error then suggests jax.vmap."""
    if tuple(shape) != tuple(expected):
        if not fix and len(shape) == len(expected) + 1:
            fix = "for a batch, use jax.vmap"
        raise ValueError(message(where, f"{name} must have shape {tuple(expected)}", tuple(shape), fix))


def callables(where: str, value: Any, fields: tuple[str, ...], make: str) -> None:
    """Checks that value has all these fields and that they are functions, such as `init` and `apply` of a layer."""
    missing = [field for field in fields if not callable(getattr(value, field, None))]
    if missing:
        raise TypeError(message(where, f"needs an object with {' and '.join(fields)}", repr(value)[:80], make))


def needs_extra(where: str, package: str, extra: str) -> str:
    return f"{where}: needs {package}, which is not installed; pip install 'funcnet[{extra}]'"
