"""Selecting leaves of a pytree, as every `where=` does: by a predicate of the leaf, or of its path and the leaf.

A path is text such as "0/weight": the names and indices that lead to a leaf, joined by "/". The number of required arguments
decides which kind a predicate is. It is called while tracing, so that it sees shape, dtype and path, but no values.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.tree import PyTree

Where: TypeAlias = Callable[[jax.Array], bool] | Callable[[str, jax.Array], bool]

_SHOWN = 12  # paths in a message


def is_weight(leaf: jax.Array) -> bool:
    """Whether a leaf has two axes or more: so have weights and kernels, but not biases and scales.

    Example:
      >>> is_weight(jnp.ones((3, 2))), is_weight(jnp.ones(3))
      (True, False)
    """
    return jnp.ndim(leaf) >= 2


def paths(tree: PyTree) -> list[str]:
    """The path of each leaf, in the order of jax.tree.leaves; the empty text for a tree that is a single leaf.

    Example:
      >>> paths([{"bias": 1.0, "weight": 2.0}, 3.0])
      ['0/bias', '0/weight', '1']
    """
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def check_structure(where: str, what: str, tree: PyTree, whose: str, like: PyTree, fix: str) -> None:
    """Raises ValueError unless two trees have the same structure; names their leaves, or shows their structures if those are the same."""
    structures = jax.tree.structure(tree), jax.tree.structure(like)
    if structures[0] != structures[1]:  # type: ignore[operator]
        named = [", ".join(map(repr, paths(each))) or "none" for each in (tree, like)]
        got, expected = structures if named[0] == named[1] else (f"leaves {each}" for each in named)
        raise ValueError(check.message(where, f"{what} must have the structure of {whose}, {expected}", got, fix))


def chosen(name: str, where: Where | None, tree: PyTree, argument: str = "where") -> list[bool]:
    """Whether a predicate picks each leaf, in the order of jax.tree.leaves.

    Args:
      name: the function that was given the predicate, for messages.
      where: leaf -> bool, or (path, leaf) -> bool; None for all of them.
      tree: a pytree of arrays, which may be concrete, traced or only shapes.
      argument: the name of the argument that is the predicate, for messages.

    Raises:
      ValueError: the predicate picks no leaf of a tree that has leaves. Only `is_weight`, a frequent default, may pick none.
      TypeError: it is not such a function, doesn't return a bool, or looks at values.

    Example:
      >>> params = [{"bias": jnp.ones(3), "weight": jnp.ones((3, 2))}]
      >>> chosen("adam", lambda leaf: leaf.ndim == 1, params), chosen("adam", lambda path, leaf: path.endswith("weight"), params)
      ([True, False], [False, True])
      >>> chosen("adam", lambda path, leaf: path.startswith("head"), params)
      Traceback (most recent call last):
      ValueError: adam: where must pick a leaf, got none of '0/bias', '0/weight'; such as where=lambda path, leaf: path.startswith('0/')
    """
    leaves, named = jax.tree.leaves(tree), paths(tree)
    if where is None:
        return [True] * len(leaves)
    with_path = takes_path(name, where, argument)
    answers: list[Any] = []

    def ask(arrays: Sequence[Any]) -> None:
        given = iter(arrays)
        for path, leaf in zip(named, leaves, strict=True):
            seen = next(given) if _is_number(leaf) else leaf
            answers.append(where(path, seen) if with_path else where(seen))  # type: ignore[call-arg, arg-type]

    try:
        jax.eval_shape(ask, [leaf for leaf in leaves if _is_number(leaf)])
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise _no_bool(name, argument, "a look at values") from error
    for path, answer in zip(named, answers, strict=True):
        if not isinstance(answer, bool | np.bool_):
            got = "a look at values" if check.is_traced(answer) else repr(answer)[:80]
            raise _no_bool(name, argument, f"{got} for {path!r}")
    if leaves and not any(answers) and where is not is_weight:
        raise ValueError(check.message(name, f"{argument} must pick a leaf", f"none of {_listed(named)}", _such_as(argument, named[0])))
    return [bool(answer) for answer in answers]


def takes_path(name: str, where: Any, argument: str = "where") -> bool:
    """Whether a predicate takes (path, leaf), and not the leaf alone.

    Raises:
      TypeError: it is neither.
    """
    fix = f"such as {argument}=lambda path, leaf: path.startswith('0/')"
    if not callable(where):
        raise TypeError(check.message(name, f"{argument} must be a function of a leaf or of (path, leaf)", repr(where)[:80], fix))
    try:
        parameters = inspect.signature(where).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    needed = [each for each in parameters if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if not positional or len(needed) > 2 or not all(each in positional for each in needed):
        got = f"one of {inspect.signature(where)}"
        raise TypeError(check.message(name, f"{argument} must be a function of a leaf or of (path, leaf)", got, fix))
    return len(needed) == 2


def kept(tree: PyTree, flags: Sequence[bool]) -> PyTree:
    """Replaces the leaves that aren't picked with None, so that nothing is computed or stored for them.

    Example:
      >>> kept({"bias": 1.0, "weight": 2.0}, [False, True])
      {'bias': None, 'weight': 2.0}
    """
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [leaf if flag else None for leaf, flag in zip(leaves, flags, strict=True)])


def _is_number(leaf: Any) -> bool:
    """Whether a leaf can be traced."""
    if isinstance(leaf, np.ndarray | np.generic):
        return jnp.issubdtype(leaf.dtype, jnp.number) or jnp.issubdtype(leaf.dtype, jnp.bool_)
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | int | float | complex)


def _no_bool(name: str, argument: str, got: str) -> TypeError:
    return TypeError(check.message(name, f"{argument} must give a bool", got, "ask a leaf for its shape, its dtype or its path"))


def _listed(named: Sequence[str]) -> str:
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return ", ".join(map(repr, named[:_SHOWN])) + more


def _such_as(argument: str, path: str) -> str:
    if not path:
        return f"leave out {argument}: there is one leaf alone"
    begins = path.split("/")[0] + "/" if "/" in path else path
    return f"such as {argument}=lambda path, leaf: path.startswith({begins!r})"
