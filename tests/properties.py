"""What the property tests of all registries share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_vjp


def lane(tree: Any, i: int) -> Any:
    """One variant out of a tree of stacked ones."""
    return jax.tree.map(lambda leaf: leaf[i], tree)


def stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def traced_once(fn: Callable, name: str) -> Callable:
    """fn jitted, and an error where it is traced a second time; chex tells functions apart by their names."""
    fn.__name__ = name
    return jax.jit(chex.assert_max_traces(fn, n=1))


def assert_close(got: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=rtol, atol=atol)


def assert_same_bits(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def poisoned(tree: Any, i: int) -> Any:
    """The same tree with variant i all NaN, wherever it holds floating-point numbers."""
    return jax.tree.map(lambda leaf: leaf.at[i].set(jnp.nan) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def assert_quarantined(run: Callable, clean: Sequence[Any], i: int, shown: Callable = lambda outputs: outputs) -> None:
    """A NaN in variant i shows, in every output or in those that `shown` picks, and changes no bit of the other variants."""
    before, after = run(*clean), run(*[poisoned(tree, i) for tree in clean])
    count = jax.tree.leaves(before)[0].shape[0]
    for other in set(range(count)) - {i}:
        assert_same_bits(lane(after, other), lane(before, other))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(lane(before, other)))
    sick = [leaf for leaf in jax.tree.leaves(lane(shown(after), i)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert sick and not any(np.all(np.isfinite(leaf)) for leaf in sick)


_LENGTH = 512  # of the vector that holds all arguments: one length, so that the check's own arithmetic is compiled once


def check_gradient(fn: Callable, arguments: tuple) -> None:
    """jax.test_util's check, backwards, of fn's outputs weighed and summed, in all of the arguments; to be called in float64.

    The value and its gradient come from one program, as compiling is what takes the time.
    """
    flat, restore = jax.flatten_util.ravel_pytree(arguments)
    assert flat.size <= _LENGTH and flat.dtype == jnp.float64
    start = jnp.asarray(np.pad(np.asarray(flat), (0, _LENGTH - flat.size)))

    @jax.jit
    @jax.value_and_grad
    def both(vector):
        outputs = jax.tree.leaves(fn(*restore(vector[: flat.size])))
        return sum(jnp.sum(y * jnp.cos(1.0 + jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)) for y in outputs)

    def vjp(vector):
        value, grad = both(vector)
        return value, lambda cotangent: (cotangent * grad,)

    check_vjp(lambda vector: both(vector)[0], vjp, (start,), rtol=1e-6, atol=1e-6, eps=1e-6)


class Mistake(NamedTuple):
    """A wrong call, what is said of it, and the call that follows the advice."""

    wrong: Callable[[], Any]
    error: type[Exception]
    match: str
    right: Callable[[], Any]


def mistakes(table: dict[str, tuple]) -> Any:
    return pytest.mark.parametrize("mistake", [pytest.param(Mistake(*row), id=name) for name, row in table.items()])


def check_mistake(mistake: Mistake) -> None:
    with pytest.raises(mistake.error, match=mistake.match):
        mistake.wrong()
    mistake.right()
