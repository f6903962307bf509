"""Arithmetic on pytrees: structure, dtypes and numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close, assert_same_bits

from funcnet import tree

TREE = {"a": jnp.array([1.0, -2.0]), "b": [jnp.array([[3.0]]), jnp.array(4.0, jnp.bfloat16)]}
scalar = pytest.mark.parametrize("number", [0.5, np.float64(0.5), jnp.float32(0.5), jnp.bfloat16(0.5), 2])


def dtypes(values):
    return [leaf.dtype for leaf in jax.tree.leaves(values)]


@scalar
def test_scale_keeps_dtypes_whatever_the_scalar_is(number):
    """A float32 rate meets bfloat16 parameters, under strict promotion."""
    for scaled in (tree.scale(number, TREE), jax.jit(tree.scale)(number, TREE)):
        assert dtypes(scaled) == dtypes(TREE)
        assert_close(scaled, jax.tree.map(lambda leaf: float(number) * np.asarray(leaf, np.float32), TREE))


def test_scale_under_vmap_over_the_scalar():
    scaled = jax.vmap(tree.scale, (0, None))(jnp.array([1.0, 3.0]), TREE)
    assert_close(scaled["a"], jnp.array([[1.0, -2.0], [3.0, -6.0]]))


@scalar
def test_cast_gives_the_dtype_of_the_array_it_meets(number):
    for like in jax.tree.leaves(TREE):
        assert (tree.cast(number, like).dtype, float(tree.cast(number, like))) == (like.dtype, float(number))


def test_scale_by_less_than_float16_can_say():
    assert_close(tree.scale(1e-8, jnp.array([6e4], jnp.float16)), jnp.array([6e-4]), rtol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.int8, jnp.uint8])
def test_a_count_stays_at_its_largest(dtype):
    largest = jnp.iinfo(dtype).max
    counts = jnp.array([0, 5, largest - 1, largest], dtype)
    for up in (tree.next_count, jax.vmap(tree.next_count), jax.jit(tree.next_count)):
        assert up(counts).dtype == dtype
        np.testing.assert_array_equal(up(counts), [1, 6, largest, largest])


def test_add_and_zeros_like():
    assert_close(tree.add(TREE, TREE), tree.scale(2, TREE))
    assert_same_bits(tree.add(TREE, tree.zeros_like(TREE)), TREE)
    assert dtypes(tree.zeros_like(TREE)) == dtypes(TREE)


@pytest.mark.parametrize(
    "x64, dtype, wide",
    [
        (False, "bfloat16", "float32"),
        (False, "float16", "float32"),
        (False, "float32", "float32"),
        (True, "float64", "float64"),
        (False, "complex64", "complex64"),
        (True, "complex128", "complex128"),
        (False, "int32", "float32"),
        (False, "bool", "float32"),
        (True, "int32", "float64"),
    ],
)
def test_at_least_float32(x64, dtype, wide):
    with jax.enable_x64(x64):
        assert tree.at_least_float32(jnp.dtype(dtype)) == wide


def test_global_norm_is_the_norm_of_all_leaves_as_one_vector():
    norm = tree.global_norm(TREE)
    assert (norm.shape, norm.dtype) == ((), jnp.float32)
    assert_close(norm, np.linalg.norm([1, -2, 3, 4]))
    assert_close(tree.global_norm({}), 0.0)
    with jax.enable_x64(True):
        assert tree.global_norm(jnp.ones(4, jnp.float64)).dtype == jnp.float64


def test_global_norm_at_zero_has_a_gradient_of_zero():
    for like in (jnp.zeros(3), jnp.zeros(3, jnp.bfloat16), jnp.zeros(3, jnp.complex64)):
        for norm in (tree.global_norm, jax.jit(tree.global_norm)):
            assert_close(jnp.abs(jax.grad(norm)(like)), jnp.zeros(3))
    assert_close(jax.vmap(jax.grad(tree.global_norm))(jnp.array([[0.0, 0.0], [3.0, 4.0]])), jnp.array([[0.0, 0.0], [0.6, 0.8]]))


def test_global_norm_of_complex_numbers_and_of_leaves_of_any_kind():
    assert_close(tree.global_norm({"a": jnp.array([3 + 4j, 12j]), "b": 84.0}), 85.0)
    with jax.enable_x64(True):
        assert tree.global_norm([jnp.ones(4, jnp.float32), jnp.ones(4, jnp.float64)]).dtype == jnp.float64


def test_global_norm_of_many_bfloat16_numbers_is_summed_in_float32():
    """In eight bits a sum of ones stops at 256."""
    assert_close(tree.global_norm(jnp.ones(10_000, jnp.bfloat16)), 100.0)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_all_finite_finds_one_bad_entry_anywhere(bad):
    assert bool(tree.all_finite(TREE))
    for i in range(3):
        leaves, structure = jax.tree.flatten(TREE)
        leaves[i] = leaves[i].at[...].set(bad)
        assert not bool(jax.jit(tree.all_finite)(jax.tree.unflatten(structure, leaves)))


def test_all_finite_passes_over_what_cannot_be_infinite():
    assert bool(tree.all_finite({"count": jnp.array(3), "flag": True, "key": jnp.array([1], jnp.uint32)}))
    assert bool(tree.all_finite(()))
    assert not bool(tree.all_finite([1, float("nan")]))


def test_where_chooses_whole_trees_and_lets_no_nan_through():
    other = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), TREE)
    for choose in (tree.where, jax.jit(tree.where)):
        assert_same_bits(choose(jnp.array(True), TREE, other), TREE)
        assert_same_bits(choose(jnp.array(False), other, TREE), TREE)
    both = jax.vmap(tree.where, (0, None, None))(jnp.array([True, False]), jnp.array([1.0]), jnp.array([2.0]))
    assert_close(both, jnp.array([[1.0], [2.0]]))


def test_what_is_traced_once_gives_the_same_bits():
    """One trace for each kind of tree, in whatever program, and no number is kept."""
    traces = []

    def shrink(rate, values):
        traces.append(None)
        return jax.tree.map(lambda leaf: leaf - tree.cast(rate, leaf) * leaf, values)

    once = tree.traced_once(shrink)
    for rate in (0.25, 0.5):
        within = jax.jit(lambda rate, values: once(rate, values))(rate, TREE)
        assert_same_bits(within, once(rate, TREE))
        assert len(traces) == 1
        assert_same_bits(within, jax.jit(lambda rate, values: shrink(rate, values))(rate, TREE))
        traces.pop()
    once(0.25, TREE["b"])
    assert len(traces) == 2
    ones = tree.traced_once(lambda key, *, count: jnp.ones(count) * key, static=("count",))
    assert ones(2.0, count=3).tolist() == [2.0, 2.0, 2.0]
