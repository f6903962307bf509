"""Converts hyperparameters to JSON and back; what can't be read back becomes a `Named`. Reading runs no code and imports nothing."""

import dataclasses
import enum
import functools
import json
import math
import pickle
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from funcnet import activations, check, layers, losses, metrics, optimizers, penalties, schedules

_MODULES = (activations, layers, losses, metrics, optimizers, penalties, schedules, jax.nn)
_NUMPY = """abs arctan ceil cos cosh exp exp2 expm1 floor log log10 log1p log2 max maximum mean median min minimum negative round sign
    sin sinc sinh sqrt square std sum tan tanh var bfloat16 bool_ float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32
    uint64 complex64 complex128""".split()
_CONTAINERS: dict[str, Any] = {kind.__name__: kind for kind in (tuple, list, set, frozenset)}


class Named:
    """Stands for a function, or for a value of an unknown class, that a file holds by name only; equal to its name."""

    def __init__(self, name: str, written: Any):
        """Made when a file is read.

        Args:
          name: as it is shown.
          written: its JSON in the file.
        """
        self.__name__, self.written = name, written

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises: only the function itself could be called."""
        fix = f"load_result(path, recipe, functions={{{self.__name__!r}: ...}})"
        raise TypeError(check.message("load_result", "a function that was a hyperparameter must be given", f"its name {self!r}", fix))

    def __eq__(self, other: object) -> bool:
        return other == self.__name__ if isinstance(other, str) else isinstance(other, Named) and other.written == self.written

    def __hash__(self) -> int:
        return hash(self.__name__)

    def __repr__(self) -> str:
        return self.__name__


class Names:
    """Unique names for values that aren't plain: each value's own name, with a number if another has the same."""

    def __init__(self, taken: Iterable[str] = ()):
        self._found: dict[Hashable, str] = {}
        self._values: list[Any] = []  # kept alive, so that no other value gets the same id
        self._taken, self._numbers = set(taken), dict[str, int]()

    def of(self, value: Any) -> str:
        """The name of a value; equal values have the same name."""
        key = _typed(value)
        if key not in self._found:
            own = name = text(value)
            while name in self._taken:
                self._numbers[own] = self._numbers.get(own, 1) + 1
                name = f"{own} {self._numbers[own]}"
            self._taken.add(name)
            self._values.append(value)
            self._found[key] = name
        return self._found[key]


def text(value: Any) -> str:
    """A value as text, without memory addresses.

    Example:
      >>> text(max), text((1, None)), text(functools.partial(max, 1))
      ('max', '(1, None)', 'partial(max, 1)')
    """
    if isinstance(value, functools.partial):
        given = [*map(repr, value.args), *(f"{name}={entry!r}" for name, entry in value.keywords.items())]
        shown = f"partial({', '.join([text(value.func), *given])})"
    elif isinstance(value, enum.Enum):
        shown = f"{type(value).__name__}.{value.name}"
    else:
        shown = str(getattr(value, "__name__", value))
    return re.sub(r" at 0x[0-9a-fA-F]+", "", shown)


def can_pickle(value: Any) -> bool:
    """Whether a value can be pickled; a function made inside another can't."""
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def written(value: Any, names: Names, at: str) -> Any:
    """A value as JSON. Floats keep every bit; functions are written by name, and those of `_known` can be read back.

    Args:
      value: such as a hyperparameter.
      names: gives names to functions.
      at: where the value stands, for error messages.

    Raises:
      TypeError: the value, or one inside it, couldn't be read back unchanged.
    """

    def entries(values: Iterable[Any]) -> list[Any]:
        return [written(entry, names, f"{at}[{i}]") for i, entry in enumerate(values)]

    def fields(values: Mapping[str, Any]) -> list[Any]:
        return [[name, written(entry, names, f"{at}.{name}")] for name, entry in values.items()]

    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return {"float": value.hex() if math.isfinite(value) else str(value)}
    if kind is complex:
        return {"complex": entries([value.real, value.imag])}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if kind in (tuple, list):
        return {kind.__name__: entries(value)}
    if kind in (set, frozenset):
        return {kind.__name__: sorted(entries(value), key=json.dumps)}
    if kind is dict:
        return {
            "dict": [[written(name, names, f"{at}, a key,"), written(entry, names, f"{at}[{name!r}]")] for name, entry in value.items()]
        }
    if isinstance(value, Named):
        return value.written
    if isinstance(value, np.generic) and value.dtype.kind not in "OSV":
        return {"scalar": value.dtype.str, "value": value.item() if value.dtype.kind == "U" else value.tobytes().hex()}
    if isinstance(value, np.generic) and value.dtype.kind == "V" and value.dtype.names is None:  # bfloat16 and similar
        return {"scalar": value.dtype.name, "value": value.tobytes().hex()}
    if isinstance(value, np.dtype) and not value.hasobject and value.names is None:
        return {"dtype": value.name if value.kind == "V" else value.str}
    if isinstance(value, enum.Enum) and value.name in kind.__members__:
        return {"enum": _class_name(kind, at), "member": value.name}
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return {"namedtuple": _class_name(kind, at), "fields": fields(dict(zip(kind._fields, value, strict=True)))}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"dataclass": _class_name(kind, at), "fields": fields(attributes(value))}
    if callable(value):
        known = _known_names().get(id(value))
        return {"name": names.of(value)} if known is None else {"known": known}
    rule = f"{at} must be of a kind that a file can hold: a number, text, None, a function, an Enum, or a tuple, NamedTuple or dataclass of such"
    raise TypeError(check.message("save", rule, f"{text(value)} of type {kind.__name__}", "or the name of it, which the recipe looks up"))


class Reader:
    """Reads what `written` wrote, and records which functions and classes it couldn't find."""

    def __init__(self, given: Mapping[str, Any]):
        """Starts with nothing missing.

        Args:
          given: functions and classes by their names in the file.
        """
        self._given = given
        self.missing: dict[str, str] = {}  # by name, the hyperparameter that needs it

    def read(self, value: Any, at: str = "") -> Any:
        """A value from its JSON; a `Named` in place of a function or a class that isn't known.

        Raises:
          ValueError, KeyError, TypeError, OverflowError: the JSON is not what `written` makes.
        """
        if value is None or isinstance(value, bool | int | str):
            return value
        kind = next(iter(value))
        content = value[kind]
        if kind == "float":
            return float.fromhex(content)
        if kind == "complex":
            return complex(*map(self.read, content))
        if kind == "bytes":
            return bytes.fromhex(content)
        if kind == "range":
            return range(*content)
        if kind in _CONTAINERS:
            return _CONTAINERS[kind]([self.read(entry, at) for entry in content])
        if kind == "dict":
            return {self.read(name, at): self.read(entry, at) for name, entry in content}
        if kind == "dtype":
            return _dtype(content)
        if kind == "scalar":
            return np.str_(value["value"]) if "U" in content else np.frombuffer(bytes.fromhex(value["value"]), _dtype(content))[0]
        if kind == "known":
            return _known()[content] if content in _known() else self._lacks(content.rpartition(".")[2], value, at)
        if kind == "name":
            return self._given[content] if content in self._given else self._lacks(content, value, at)
        if kind in ("enum", "namedtuple", "dataclass"):
            return self._instance(kind, content, value, at)
        raise ValueError(f"a value must be of a known kind, got {kind}")

    def find(self, name: str) -> Any:
        """The class with this name, module:qualname, if it was given or is already imported; else None."""
        module, _, path = name.partition(":")
        for own in (path, path.rpartition(".")[2]):
            if own in self._given:
                return self._given[own]
        return found(module, path)

    def _instance(self, kind: str, name: str, value: Mapping[str, Any], at: str) -> Any:
        """An instance of the named class, made without running the class's code; a `Named` if the class isn't found."""
        cls, short = self.find(name), name.rpartition(".")[2].rpartition(":")[2]
        if kind == "enum":
            if isinstance(cls, enum.EnumMeta) and value["member"] in cls.__members__:
                return cls.__members__[value["member"]]
            return self._lacks(f"{short}.{value['member']}", value, at, short)
        fields = {field: self.read(entry, at) for field, entry in value["fields"]}
        if kind == "namedtuple" and isinstance(cls, type) and issubclass(cls, tuple) and list(getattr(cls, "_fields", ())) == list(fields):
            return tuple.__new__(cls, fields.values())
        if kind == "dataclass" and (made := instance(cls, fields)) is not None:
            return made
        return self._lacks(f"{short}({', '.join(f'{field}={text(entry)}' for field, entry in fields.items())})", value, at, short)

    def _lacks(self, name: str, value: Any, at: str, needs: str | None = None) -> Named:
        self.missing.setdefault(needs or name, at)
        return Named(name, value)


def attributes(value: Any) -> dict[str, Any]:
    """The attributes of a dataclass instance: its fields, and any others that were set on it."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)}
    return {**fields, **{name: entry for name, entry in getattr(value, "__dict__", {}).items() if name not in fields}}


def instance(cls: Any, values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass with these attributes, made without running its code; None if cls is no dataclass or lacks values."""
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)) or any(name.startswith("__") for name in values):
        return None
    if not {field.name for field in dataclasses.fields(cls)} <= set(values):
        return None
    made = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def class_name(cls: type) -> str | None:
    """A class's name, module:qualname, if the class can be found by it; None for one made inside a function."""
    return f"{cls.__module__}:{cls.__qualname__}" if found(cls.__module__, cls.__qualname__) is cls else None


def found(module: str, path: str) -> Any:
    """The object with this qualified name in a module that is already imported; else None."""
    owner: Any = sys.modules.get(module)
    for name in path.split("."):
        owner = getattr(owner, "__dict__", {}).get(name)
    return owner


def _class_name(cls: type, at: str) -> str:
    name = class_name(cls)
    if name is None:
        rule = f"{at} must be of a class that is found by its name"
        raise TypeError(check.message("save", rule, cls.__qualname__, "define it at the top of a module"))
    return name


def _dtype(name: str) -> np.dtype:
    dtype = np.dtype(name)
    if dtype.hasobject:
        raise ValueError(f"a dtype must be a number's, got {name}")
    return dtype


@functools.cache
def _known() -> dict[str, Callable[..., Any]]:
    """The functions that a file may refer to, by name: all of them only compute, without side effects."""
    found = {
        f"{module.__name__}.{name}": value
        for module in _MODULES
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and str(getattr(value, "__module__", "")).split(".")[0] in ("funcnet", "jax")
    }
    found |= {f"funcnet.activations.ACTIVATIONS.{name}": value for name, value in activations.ACTIVATIONS.items()}
    found |= {f"jax.numpy.{name}": getattr(jax.numpy, name) for name in _NUMPY}
    found |= {f"numpy.{name}": getattr(np, name) for name in _NUMPY if name != "bfloat16"}
    return found | {f"builtins.{kind.__name__}": kind for kind in (bool, int, float, complex, abs, max, min, sum)}


@functools.cache
def _known_names() -> dict[int, str]:
    """The names of `_known` functions by id; ids stay valid, since these functions are never freed."""
    return {id(value): name for name, value in reversed(_known().items())}


def _typed(value: Any) -> Hashable:
    """A hashable key that is equal for equal values of the same type."""
    if type(value) is tuple:
        return (tuple, *map(_typed, value))
    try:
        hash(value)
    except TypeError:
        return (type(value), id(value) if callable(value) else text(value))
    return (type(value), value)
