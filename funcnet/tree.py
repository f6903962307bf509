"""Arithmetic on pytrees."""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

PyTree: TypeAlias = Any
Params: TypeAlias = Any  # a pytree of floating-point arrays
Scalar: TypeAlias = float | jax.Array  # shape (), concrete or traced


def cast(scalar: Scalar, like: jax.Array) -> jax.Array:
    """A hyperparameter in the dtype of the array that it meets, so that bfloat16 stays bfloat16."""
    return jnp.asarray(scalar, like.dtype)


def at_least_float32(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype to compute in where eight bits, as bfloat16 has, are too few: float32, or float64 if it is that."""
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits > 32 else jnp.dtype(jnp.float32)


def wide_dtype(*arrays: jax.Array) -> jnp.dtype:
    """The dtype in which arrays meet: that of the widest, and at least float32; whole numbers are taken in JAX's float.

    Example:
      >>> wide_dtype(jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.uint8))
      dtype('float32')
    """
    floating = [at_least_float32(array.dtype) for array in arrays if jnp.issubdtype(array.dtype, jnp.floating)]
    return functools.reduce(jnp.promote_types, floating) if floating else jnp.result_type(float)


def scale(scalar: Scalar, tree: PyTree) -> PyTree:
    """scalar * tree, leaf by leaf, dtypes kept.

    Example:
      >>> print(scale(2.0, {"w": jnp.array([1.0, 3.0])})["w"])
      [2. 6.]
    """
    return jax.tree.map(lambda leaf: cast(scalar, leaf) * leaf, tree)


def add(left: PyTree, right: PyTree) -> PyTree:
    """left + right, leaf by leaf."""
    return jax.tree.map(jnp.add, left, right)


def zeros_like(tree: PyTree) -> PyTree:
    """A tree of zeros with the structure, shapes and dtypes of tree."""
    return jax.tree.map(jnp.zeros_like, tree)


def global_norm(tree: PyTree) -> jax.Array:
    """Euclidean norm of all leaves taken as one vector, shape (), at least float32.

    Example:
      >>> print(global_norm([jnp.array([3.0]), jnp.array([4.0])]))
      5.0
    """
    leaves = [leaf.astype(at_least_float32(leaf.dtype)) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.sum(jnp.stack([jnp.sum(leaf * leaf) for leaf in leaves]))) if leaves else jnp.zeros(())


def all_finite(tree: PyTree) -> jax.Array:
    """Whether every floating-point entry is finite, shape (), bool.

    Example:
      >>> print(all_finite([jnp.array([1.0, jnp.nan])]), all_finite({"count": jnp.array(3)}))
      False True
    """
    leaves = [leaf for leaf in map(jnp.asarray, jax.tree.leaves(tree)) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if not leaves:
        return jnp.array(True)
    return jnp.all(jnp.concatenate([jnp.isfinite(leaf).ravel() for leaf in leaves]))  # one reduction compiles faster than many


def where(condition: jax.Array, left: PyTree, right: PyTree) -> PyTree:
    """left where the scalar condition holds, else right, for whole trees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), left, right)
