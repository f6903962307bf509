"""Arithmetic on pytrees."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from funcnet.padded import Padded

PyTree: TypeAlias = Any
Params: TypeAlias = Any  # a pytree of floating-point or complex arrays
Scalar: TypeAlias = float | jax.Array  # shape (), concrete or traced
P = ParamSpec("P")
R = TypeVar("R")


def traced_once(function: Callable[P, R], static: tuple[str, ...] = ()) -> Callable[P, R]:
    """Traces a function only once for each kind of tree; other programs then reuse that trace.

    Operations on every leaf take most of the time to trace a step. The compiled program stays the same. Only for functions that depend
    on nothing but their arguments, since JAX doesn't trace them again.

    Args:
      function: trees of arrays, and numbers -> trees of arrays.
      static: names of its parameters that are not arrays but hashable.
    """
    once: Callable[P, R] = jax.jit(function, static_argnames=static, inline=True)
    return once


def cast(scalar: Scalar, like: jax.Array) -> jax.Array:
    """Casts a hyperparameter to the dtype of the array that it is combined with, so that bfloat16 stays bfloat16."""
    return jnp.asarray(scalar, like.dtype)


def at_least_float32(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype to compute in: float32 for shorter floats, JAX's default float for integers; float64 and complex ones stay."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.dtype(jnp.result_type(float))
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits > 32 else jnp.dtype(jnp.float32)


def wide_dtype(*arrays: jax.Array) -> jnp.dtype:
    """The dtype to combine arrays in: the widest of their float dtypes, at least float32; JAX's default float if none is floating.

    Example:
      >>> wide_dtype(jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.uint8))
      dtype('float32')
    """
    floating = [at_least_float32(array.dtype) for array in arrays if jnp.issubdtype(array.dtype, jnp.floating)]
    return functools.reduce(jnp.promote_types, floating) if floating else jnp.result_type(float)


def wide(x: jax.typing.ArrayLike) -> jax.Array:
    """Casts an array to at least float32: in float16 squares overflow from 256 on and an eps of 1e-8 is zero."""
    x = jnp.asarray(x)
    return x.astype(at_least_float32(x.dtype))


def abs_square(x: jax.typing.ArrayLike) -> jax.Array:
    """|x|^2, real and at least float32.

    Example:
      >>> print(abs_square(jnp.array([3.0 + 4.0j, 2.0j])), abs_square(jnp.array([-2.0])))
      [25.  4.] [4.]
    """
    x = wide(x)
    return x.real * x.real + x.imag * x.imag if jnp.iscomplexobj(x) else x * x


def root(x: jax.Array) -> jax.Array:
    """Square root whose gradient at zero is zero, so that a whole training can be differentiated."""
    zero = x == 0
    return jnp.where(zero, jnp.zeros((), x.dtype), jnp.sqrt(jnp.where(zero, jnp.ones((), x.dtype), x)))


def next_count(count: jax.Array) -> jax.Array:
    """count + 1, but at most the largest number of its dtype, so that a counter never becomes negative.

    Example:
      >>> print(next_count(jnp.int32(7)), next_count(jnp.int32(2**31 - 1)))
      8 2147483647
    """
    return jnp.where(count < jnp.iinfo(count.dtype).max, count + 1, count)


@traced_once
def scale(scalar: Scalar, tree: PyTree) -> PyTree:
    """scalar * tree, leaf by leaf, dtypes kept; multiplied in at least float32, since a small scalar would be zero in float16.

    Example:
      >>> print(scale(2.0, {"w": jnp.array([1.0, 3.0])})["w"])
      [2. 6.]
    """
    return jax.tree.map(lambda leaf: (cast(scalar, wide(leaf)) * wide(leaf)).astype(leaf.dtype), tree)


def add(left: PyTree, right: PyTree) -> PyTree:
    """left + right, leaf by leaf."""
    return jax.tree.map(jnp.add, left, right)


def zeros_like(tree: PyTree) -> PyTree:
    """A tree of zeros with the structure, shapes and dtypes of tree."""
    return jax.tree.map(jnp.zeros_like, tree)


def global_norm(tree: PyTree) -> jax.Array:
    """Euclidean norm of all leaves taken as one vector, shape (), at least float32; its gradient at zero is zero.

    Example:
      >>> print(global_norm([jnp.array([3.0]), jnp.array([4.0])]))
      5.0
    """
    squares = [jnp.sum(abs_square(leaf)) for leaf in jax.tree.leaves(tree)]
    if not squares:
        return jnp.zeros(())
    widest = max((square.dtype for square in squares), key=lambda dtype: dtype.itemsize)
    return root(jnp.sum(jnp.stack([square.astype(widest) for square in squares])))


def all_finite(tree: PyTree) -> jax.Array:
    """Whether every floating-point entry is finite, shape (), bool.

    Example:
      >>> print(all_finite([jnp.array([1.0, jnp.nan])]), all_finite({"count": jnp.array(3)}))
      False True
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    if not leaves:
        return jnp.array(True)
    return jnp.all(jnp.concatenate([jnp.isfinite(leaf).ravel() for leaf in leaves]))  # one reduction compiles faster than many


def is_inexact(leaf: jax.Array) -> bool:
    """Whether a leaf's dtype has NaN and infinity."""
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)


def finite_leaves(tree: PyTree) -> jax.Array:
    """Which leaves hold only finite numbers, shape (leaves,), bool.

    Example:
      >>> print(finite_leaves([jnp.array([1.0, jnp.inf]), jnp.zeros(2), jnp.array(3)]))
      [False  True  True]
    """
    leaves = [jnp.all(jnp.isfinite(leaf)) if is_inexact(leaf) else jnp.array(True) for leaf in jax.tree.leaves(tree)]
    return jnp.stack(leaves) if leaves else jnp.zeros(0, bool)


def examples_of(tree: PyTree) -> int:
    """The number of examples of a set, whose arrays have the examples on the first axis.

    Example:
      >>> examples_of({"age": jnp.ones(3), "image": jnp.ones((3, 4, 4))})
      3
    """
    return len(jax.tree.leaves(tree)[0])


def where(condition: jax.Array, left: PyTree, right: PyTree) -> PyTree:
    """left if the scalar condition is true, else right, for whole trees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), left, right)


def is_several(x: Any) -> bool:
    """Whether a model's input is several arrays, in a dict, a tuple or a `Padded`, and not one array or a tuple of numbers.

    Example:
      >>> is_several({"age": jnp.ones(3)}), is_several((jnp.ones(3), jnp.ones((3, 2)))), is_several((1.0, 2.0))
      (True, True, False)
    """
    if isinstance(x, Padded):
        return True
    if isinstance(x, Mapping):
        return len(x) > 0
    return isinstance(x, tuple) and len(x) > 0 and all(is_several(part) or hasattr(part, "shape") for part in x)
