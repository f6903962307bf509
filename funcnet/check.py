"""Argument checks: every error message a user can meet is built here.

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
    """A function that carries what is known of it, as `metric` and `batch_loss` make them; called, it is the function."""

    fn: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


def unwrapped(fn: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """A function, and what it is made of, down to the function without marks and without arguments bound by functools.partial."""
    yield fn
    while isinstance(fn, Marked | functools.partial):
        fn = fn.fn if isinstance(fn, Marked) else fn.func
        yield fn


def bare(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, without marks and without the arguments that functools.partial has bound.

    Example:
      >>> bare(functools.partial(Marked(round), ndigits=1))
      <built-in function round>
    """
    return list(unwrapped(fn))[-1]


def parameters(fn: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of the function itself by name; none of a builtin that doesn't say."""
    try:
        return inspect.signature(bare(fn)).parameters
    except (TypeError, ValueError):
        return {}


def message(where: str, rule: str, got: Any, fix: str = "") -> str:
    """The one form of an error: what is asked, where, the value met and the likely fix."""
    return f"{where}: {rule}, got {got}" + (f"; {fix}" if fix else "")


def is_traced(value: Any) -> bool:
    return isinstance(value, inner.Tracer)


def in_range(where: str, name: str, value: Any, low: float, high: float = math.inf, *, ends: str = "[)", fix: str = "") -> None:
    """Checks a scalar: `ends` says which of low and high belong to the range. A traced value is let through.

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
    """The Python float of a number or of an array of shape (); anything else is a TypeError."""
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
    # jax.Array is asked through a metaclass, which takes longer than all else that a recipe's factories check.
    return type(value) not in _PLAIN and isinstance(value, np.ndarray | np.generic | jax.Array)


_PLAIN = frozenset({bool, int, float, str, type(None), tuple, list, dict})


def is_integer(value: Any) -> bool:
    """Whether value is a whole number by type; a bool is not."""
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
    """Checks one JAX random key, typed or as raw numbers; a traced one will do.

    Raises:
      TypeError: key isn't one, but for example a seed.
      ValueError: key holds several.

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
    """`did you mean 'relu'?`, or the whole list where nothing is near."""
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
    """The registry's entry of that name; a function is its own entry."""
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
    """As `lookup`; of a pair (name or function, settings), the function with the settings bound by functools.partial.

    Raises:
      TypeError: given is none of these, or a setting isn't one of the function's parameters after the first two.
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
    """Checks a shape; one axis too many is most often a batch, and the error says so."""
    if tuple(shape) != tuple(expected):
        if not fix and len(shape) == len(expected) + 1:
            fix = "for a batch, use jax.vmap"
        raise ValueError(message(where, f"{name} must have shape {tuple(expected)}", tuple(shape), fix))


def callables(where: str, value: Any, fields: tuple[str, ...], make: str) -> None:
    """Checks that value has each of the fields as a function, as a layer or an optimizer has."""
    missing = [field for field in fields if not callable(getattr(value, field, None))]
    if missing:
        raise TypeError(message(where, f"needs an object with {' and '.join(fields)}", repr(value)[:80], make))


def needs_extra(where: str, package: str, extra: str) -> str:
    return f"{where}: needs {package}, which is not installed; pip install 'funcnet[{extra}]'"
