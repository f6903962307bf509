"""The type `Optimizer`: pure `init` and `update`, whose updates are added to the parameters; and checks of their arguments."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.leaves import Where, check_structure
from funcnet.tree import Params, PyTree, traced_once, wide

State: TypeAlias = PyTree


class Functions(NamedTuple):
    """`init` and `update`: another library's gradient transformation is such a pair too."""

    init: Callable[[Params], State]
    update: Callable[..., tuple[PyTree, State]]


class Optimizer(Functions):
    """init(params) -> state; update(grads, state, params=None, **extra) -> (updates, state). It unpacks as `init, update = optimizer`.

    `extra` is what else is known about the step: `training` passes `value` (of the objective), `grad` (its gradient, as from jax.grad) and
    `value_fn` (params -> value, on the same batch). An optimizer takes what it needs and ignores the rest.

    where: the predicate for the leaves that it trains, which `combine` reads; None for all of them.
    """

    where: Where | None

    def __new__(
        cls, init: Callable[[Params], State], update: Callable[..., tuple[PyTree, State]], *, where: Where | None = None
    ) -> "Optimizer":
        self = super().__new__(cls, init, update)
        self.where = where
        return self

    def _replace(self, **fields: Any) -> "Optimizer":
        return Optimizer(**{**self._asdict(), "where": self.where, **fields})


def apply_updates(params: Params, updates: PyTree) -> Params:
    """Adds updates to params, in the dtypes of params.

    Args:
      params: a pytree of floating-point or complex arrays; Python floats become arrays.
      updates: a pytree of the same structure and shapes.

    Raises:
      TypeError: a parameter has another dtype, or is real while its update is complex.
      ValueError: their structures or shapes differ.

    Example:
      >>> print(apply_updates(jnp.array([1.0]), jnp.array([-0.5])))
      [0.5]
    """

    params = as_arrays("apply_updates", "params", params)
    updates = as_arrays("apply_updates", "updates", updates)
    check_alike("apply_updates", "updates", updates, params)
    return _moved(params, updates)


@traced_once
def _moved(params: Params, updates: PyTree) -> Params:
    return jax.tree.map(lambda p, u: (wide(p) + u.astype(wide(p).dtype)).astype(p.dtype), params, updates)


def taken(update: Callable[..., Any], extra: dict[str, Any]) -> dict[str, Any]:
    """The entries of extra that an update function accepts: all of them if it takes **, else those that it names.

    Example:
      >>> taken(lambda grads, state, params=None, *, value: (grads, state), {"value": 1.0, "grad": 2.0})
      {'value': 1.0}
    """
    try:
        parameters = inspect.signature(update).parameters.values()
    except (TypeError, ValueError):  # no signature can be read
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return extra
    named = {parameter.name for parameter in parameters if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)}
    return {name: value for name, value in extra.items() if name in named}


def as_arrays(name: str, what: str, tree: PyTree, complex_too: bool = True) -> PyTree:
    """The tree with arrays as leaves: Python floats become arrays, integer gradients floating point; other leaves are errors."""

    def one(path: Any, leaf: Any) -> Any:
        dtype = _dtype(leaf)
        if jnp.issubdtype(dtype, jnp.floating) or (complex_too and jnp.issubdtype(dtype, jnp.complexfloating)):
            return leaf if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else jnp.asarray(leaf, dtype)
        if what != "params" and (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)):
            return jnp.asarray(leaf, jnp.result_type(float))
        kinds = "floating-point or complex" if complex_too else "floating-point"
        got = repr(leaf)[:80] if dtype == np.dtype(object) else dtype
        is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
        fix = "sgd, momentum and adam take complex numbers" if is_complex else "keep what isn't trained out of params"
        raise TypeError(check.message(name, f"{what} must be {kinds}", f"{got}{_at(path)}", fix))

    return jax.tree_util.tree_map_with_path(one, tree)


def check_alike(name: str, what: str, tree: PyTree, params: Params) -> None:
    """Raises unless a tree has the structure and the shapes of params, and is real where they are.

    Else a gradient for each example of a batch, or one with an axis of length 1, would be broadcast, and the parameters take its shape.
    """
    check_structure(name, what, tree, "params", params, "take jax.grad by these params")

    def one(path: Any, leaf: jax.Array, p: jax.Array) -> None:
        if jnp.shape(leaf) != jnp.shape(p):
            rule = f"{what} must have the shapes of params, {jnp.shape(p)}{_at(path)}"
            batch = jnp.ndim(p) < jnp.ndim(leaf) and jnp.shape(leaf)[1:] == jnp.shape(p)
            raise ValueError(check.message(name, rule, jnp.shape(leaf), "take their mean over the examples" if batch else ""))
        if jnp.iscomplexobj(leaf) and not jnp.iscomplexobj(p):
            raise TypeError(check.message(name, f"{what} must be real where params are", f"{leaf.dtype}{_at(path)}", "take the real part"))

    jax.tree_util.tree_map_with_path(one, tree, params)


def check_given(name: str, params: Params | None, what: str) -> None:
    """Raises ValueError where update was called without the params that it needs."""
    if params is None:
        raise ValueError(check.message(name, f"update needs params for {what}", None, "call update(grads, state, params)"))


def _at(path: Any) -> str:
    return f" at {jax.tree_util.keystr(path)}" if path else ""


def _dtype(leaf: Any) -> Any:
    """A leaf's dtype; object if it is neither a number nor an array."""
    try:
        return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    except (TypeError, ValueError):
        return np.dtype(object)
