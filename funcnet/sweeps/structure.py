"""Converts a state's structure to JSON and back: with the recipe that makes it, or from the file alone as far as possible."""

import functools
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import jax
import numpy as np

from funcnet import optimizers
from funcnet.sweeps.written import Named, Names, Reader, attributes, class_name, instance, written
from funcnet.train import TrainState
from funcnet.tree import PyTree

_NAMED: dict[str, Any] = {
    kind.__name__: kind for kind in [TrainState, *vars(optimizers).values()] if hasattr(kind, "_fields")
}  # funcnet's own states, by class name


@dataclass(frozen=True)
class Saved:
    """A state as read from a file: its described structure and its leaves."""

    described: Any
    leaves: Sequence[np.ndarray]


class UnknownState(Exception):
    """A state of a class that only its recipe can make."""


def described(tree: PyTree, names: Names) -> Any:
    """A pytree's structure as JSON; its leaves are {"leaf": i}, or {"key": i} for random keys, in the order of jax.tree.leaves."""
    if isinstance(tree, Saved):
        return tree.described
    count = iter(range(10**9))

    def walk(node: Any) -> Any:
        if node is None:
            return None
        if type(node) is dict:
            return {"dict": [[written(name, names, "a state's name"), walk(node[name])] for name in sorted(node)]}
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            kind = {"class": class_name(type(node))} if type(node) not in _NAMED.values() else {}
            return {"named": type(node).__name__, "fields": list(node._fields), "items": [walk(item) for item in node], **kind}
        if type(node) in (list, tuple):
            return {type(node).__name__: [walk(item) for item in node]}
        items = _children(node)
        if items is None:
            return {"key": next(count), "kind": _key_kind(node)} if is_key(node) else {"leaf": next(count)}
        rest = {name: value for name, value in attributes(node).items() if name not in dict(items)} if is_dataclass(node) else {}
        return {
            "custom": type(node).__name__,
            "class": class_name(type(node)) if is_dataclass(node) else None,
            "fields": [name for name, _ in items],
            "items": [walk(item) for _, item in items],
            "rest": [[name, _aside(value, names)] for name, value in rest.items()],
        }

    return walk(tree)


def leaves(tree: PyTree) -> list[np.ndarray]:
    """A pytree's leaves as NumPy arrays, random keys as their data."""
    if isinstance(tree, Saved):
        return list(tree.leaves)
    return [np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)]


def unwritable(tree: PyTree) -> str | None:
    """The first leaf that doesn't hold numbers, in words; None if all do."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not is_key(leaf) and np.asarray(leaf).dtype.kind in "OSU":
            return f"{type(leaf).__name__} at {jax.tree_util.keystr(path) or 'its root'}"
    return None


def as_told(saved: Saved) -> PyTree:
    """The state from its file alone; a NamedTuple whose class isn't imported becomes one of a new class with its name and fields.

    Raises:
      UnknownState: only the recipe can make it.
    """
    return _rebuilt(saved.described, saved.leaves)


def as_made(saved: Saved, init: Callable[[jax.Array], PyTree]) -> PyTree:
    """The state in the structure that a recipe's init makes.

    Raises:
      ValueError: this structure differs from the file's; the message is the first difference.
    """
    made = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))
    expected, structure = jax.tree.flatten(made)
    if difference := _difference(saved.described, described(made, Names()), "state", saved.leaves, expected):
        raise ValueError(difference)
    keys = _keys(saved.described)
    return jax.tree.unflatten(structure, [_leaf(leaf, keys.get(i)) for i, leaf in enumerate(saved.leaves)])


def has_keys(tree: PyTree) -> bool:
    return any(map(is_key, jax.tree.leaves(tree)))


def is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _children(node: Any) -> list[tuple[str, Any]] | None:
    """The children of a node of a registered class, with their names; None for a leaf."""
    found, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda other: other is not node)
    if [path for path, _ in found] == [()]:
        return None
    return [(str(getattr(path[0], "name", path[0])), child) for path, child in found]


def _aside(value: Any, names: Names) -> Any:
    """An attribute of a node that is no child, as JSON; one that can't be written is left to the recipe."""
    try:
        return written(value, names, "")
    except TypeError:
        return {"left": type(value).__name__}


def _rebuilt(node: Any, leaves: Sequence[np.ndarray]) -> PyTree:
    if node is None:
        return None
    if "leaf" in node:
        return leaves[_index(node["leaf"])]
    if "key" in node:
        return _leaf(leaves[_index(node["key"])], node["kind"])
    if "dict" in node:
        return {Reader({}).read(name): _rebuilt(item, leaves) for name, item in node["dict"]}
    for kind in (list, tuple):
        if kind.__name__ in node:
            return kind(_rebuilt(item, leaves) for item in node[kind.__name__])
    items = [_rebuilt(item, leaves) for item in node["items"]]
    if "named" in node:
        return _named(node["named"], node["fields"], node.get("class"), "class" in node)(items)
    if "custom" in node:
        return _custom(node, items)
    raise ValueError(f"a state's nodes must be known, got {list(node)}")


def _named(name: str, fields: Sequence[str], told: str | None, foreign: bool) -> Callable[[list[Any]], Any]:
    """A function that makes a NamedTuple of its items: of its own class if that is imported, else of a new one with the same name.

    Args:
      name: of its class.
      fields: of its class.
      told: module:qualname of a class that isn't funcnet's own.
      foreign: whether the class isn't funcnet's own.
    """
    if not all(isinstance(part, str) and part.isidentifier() for part in [name, *fields]):
        raise ValueError(f"a state's names must be identifiers, got {[name, *fields]}")
    own = Reader({}).find(told) if told else None if foreign else _NAMED.get(name)
    if isinstance(own, type) and issubclass(own, tuple) and list(getattr(own, "_fields", ())) == list(fields):
        return functools.partial(tuple.__new__, own)
    return functools.partial(tuple.__new__, _kind(name, tuple(fields)))


def _custom(node: Mapping[str, Any], items: Sequence[Any]) -> PyTree:
    """An instance of a registered dataclass that is imported, made without running the class's code."""
    reader = Reader({})
    rest = {name: Named(name, value) if isinstance(value, dict) and "left" in value else reader.read(value) for name, value in node["rest"]}
    cls = node["class"] and reader.find(node["class"])
    told = not reader.missing and not any(isinstance(value, Named) for value in rest.values())
    made = instance(cls, dict(zip(node["fields"], items, strict=True)) | rest) if told else None
    if made is None or _children(made) is None:
        raise UnknownState(node["custom"])
    return made


@functools.lru_cache
def _kind(name: str, fields: tuple[str, ...]) -> Any:
    """The new class for a name and fields; cached, so that the states of all rows have one structure."""
    return namedtuple(name, fields)


def _leaf(leaf: np.ndarray, kind: str | None) -> Any:
    return leaf if kind is None else jax.random.wrap_key_data(leaf, impl=kind)  # type: ignore[arg-type]


def _index(i: Any) -> int:
    if not isinstance(i, int) or i < 0:
        raise ValueError(f"a leaf must be numbered from 0, got {i}")
    return i


def _keys(node: Any) -> dict[int, str]:
    """By leaf index, the kind of each leaf that is a random key."""
    if not isinstance(node, dict):
        return {}
    if "key" in node:
        return {node["key"]: node["kind"]}
    return {i: kind for item in _items(node) for i, kind in _keys(item).items()}


def _items(node: Mapping[str, Any]) -> list[Any]:
    if "dict" in node:
        return [item for _, item in node["dict"]]
    return next((node[kind] for kind in ("list", "tuple", "items") if kind in node), [])


def _difference(file: Any, recipe: Any, at: str, saved: Sequence[np.ndarray], expected: Sequence[Any]) -> str | None:
    """The first place at which two structures differ, in words; None if they are the same."""
    if _what(file) != _what(recipe):
        return _apart(at, _what(file), _what(recipe))
    if file is None:
        return None
    if "leaf" in file:
        leaf, other = saved[file["leaf"]], expected[recipe["leaf"]]
        alike = leaf.shape == other.shape and leaf.dtype == other.dtype
        return None if alike else _apart(at, f"{leaf.dtype} of shape {leaf.shape}", f"{other.dtype} of shape {other.shape}")
    if "key" in file:
        return None
    for i, (item, other) in enumerate(zip(_items(file), _items(recipe), strict=True)):
        if found := _difference(item, other, f"{at}{_step(file, i)}", saved, expected):
            return found
    return None


def _apart(at: str, file: str, recipe: str) -> str:
    return f"{at} is {file} in the file and {recipe} from the recipe"


def _what(node: Any) -> str:
    """A node in words, without its children."""
    if node is None:
        return "None"
    if "leaf" in node:
        return "an array"
    if "key" in node:
        return "a random key"
    if "dict" in node:
        return f"a dict of {', '.join(str(Reader({}).read(name)) for name, _ in node['dict']) or 'nothing'}"
    if "fields" in node:
        return f"{node.get('named', node.get('custom'))}({', '.join(node['fields'])})"
    return f"a {next(iter(node))} of {len(_items(node))}"


def _step(node: Mapping[str, Any], i: int) -> str:
    if "fields" in node:
        name = str(node["fields"][i])
        return f".{name}" if name.isidentifier() else name
    return f"[{Reader({}).read(node['dict'][i][0])!r}]" if "dict" in node else f"[{i}]"


def _key_kind(leaf: Any) -> str | None:
    """The generator of a random key; None for a key of which only the shape is known."""
    return str(jax.random.key_impl(leaf)) if isinstance(leaf, jax.Array) else None
