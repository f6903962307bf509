"""Every layer, every property: the registry crossed with what a layer promises."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close, assert_quarantined, check_gradient, lane, traced_once
from registries import EXAMPLES, LAYERS, VARIANTS, stacked, variant

import funcnet.layers
from funcnet.layers import CELLS, apply_batch, out_shape

KEY = jax.random.key(7)
every_layer = pytest.mark.parametrize("name", LAYERS)


@functools.cache
def programs(name):
    """A case's program of one variant, which must never be traced twice, and of all of them together; compiled once."""
    case = LAYERS[name]

    def run(numbers, params, x, key):
        layer = case.make(**numbers)
        return {"evaluation": apply_batch(layer, params, x), "training": apply_batch(layer, params, x, key=key)}

    return traced_once(run, f"layer_{name}"), jax.jit(jax.vmap(run, (0, 0, 0, None)))


@functools.cache
def inputs(name):
    """Numbers, params and a batch for each variant, stacked."""
    case = LAYERS[name]
    layer = case.make(**variant(case.numbers, 1))  # whose numbers no init looks at
    params = jax.jit(jax.vmap(lambda key: layer.init(key, case.in_shape)))(jax.random.split(KEY, VARIANTS))
    return stacked(case.numbers), params, jnp.stack([case.x(EXAMPLES, seed=i) for i in range(VARIANTS)])


def test_registry_holds_every_layer():
    factories = {name for name, value in vars(funcnet.layers).items() if callable(value) and name.islower()}
    factories -= {"apply_batch", "as_shapes", "check_symbols", "out_shape", "outline", "outputs_of", "recurrent"}
    factories -= {"branches"}  # of several inputs: tests/test_several_inputs.py
    covered = [name for name in LAYERS if not name.startswith("by_hand")]
    assert {factory for factory in factories | set(CELLS) if not any(name.startswith(factory) for name in covered)} == set()


@every_layer
def test_promised_shape(name):
    case = LAYERS[name]
    layer = case.make(**variant(case.numbers, 1))
    promised = out_shape(layer, case.in_shape, jnp.int32 if case.symbols else None)
    numbers, params, x = lane(inputs(name), 1)
    outputs = programs(name)[0](numbers, params, x, KEY)
    assert jax.eval_shape(layer.apply, params, case.x()).shape == promised
    assert jax.eval_shape(lambda params, x: layer.apply(params, x, key=KEY), params, case.x()).shape == promised
    assert outputs["evaluation"].shape == outputs["training"].shape == (*promised, EXAMPLES)


@every_layer
def test_jit_equals_no_jit(name):
    case = LAYERS[name]
    numbers, params, x = lane(inputs(name), 1)
    layer = case.make(**variant(case.numbers, 1))
    eager = {"evaluation": apply_batch(layer, params, x), "training": apply_batch(layer, params, x, key=KEY)}
    assert_close(programs(name)[0](numbers, params, x, KEY), eager)


@every_layer
def test_batch_equals_vmap_of_one_example(name):
    case = LAYERS[name]
    numbers, params, x = lane(inputs(name), 1)
    layer = case.make(**variant(case.numbers, 1))
    one_by_one = jax.jit(jax.vmap(layer.apply, (None, -1), -1))(params, x)
    assert_close(programs(name)[0](numbers, params, x, KEY)["evaluation"], one_by_one)


@every_layer
def test_dtypes_and_structure_are_kept(name):
    """bfloat16 inputs give bfloat16, whatever the params are; and the same numbers, as well as eight bits can say."""
    case = LAYERS[name]
    numbers, params, x = lane(inputs(name), 1)
    layer = case.make(**variant(case.numbers, 1))
    single = programs(name)[0](numbers, params, x, KEY)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, single)))
    short_params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    short_x = x if case.symbols else x.astype(jnp.bfloat16)
    run = jax.jit(lambda params, x: (apply_batch(layer, params, x), apply_batch(layer, params, x, key=KEY)))
    if not case.symbols:  # an embedding has no dtype but its table's
        assert {y.dtype for y in jax.eval_shape(run, params, short_x)} == {jnp.dtype(jnp.bfloat16)}
    evaluation, training = run(short_params, short_x)
    assert evaluation.dtype == training.dtype == jnp.bfloat16
    for short, full in ((evaluation, single["evaluation"]), (training, single["training"])):
        assert_close(short, full, rtol=0.05, atol=0.05 * float(jnp.max(jnp.abs(full))))
    grads = jax.eval_shape(jax.grad(lambda p: jnp.sum(apply_batch(layer, p, short_x, key=KEY).astype(jnp.float32))), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)


@every_layer
def test_variants_together_equal_each_alone_without_a_new_trace(name):
    alone, together = programs(name)
    variants = inputs(name)
    outputs = together(*variants, KEY)
    for i in range(VARIANTS):
        assert_close(lane(outputs, i), alone(*lane(variants, i), KEY))


@every_layer
def test_nan_variant_leaves_the_others_alone(name):
    numbers, params, x = inputs(name)
    assert_quarantined(lambda *variants: programs(name)[1](*variants, KEY), (numbers, params, x), 1)


@every_layer
def test_gradients(name):
    """In the numbers, the parameters and the input, in evaluation and in training."""
    case = LAYERS[name]
    numbers, params, x = lane(inputs(name), 1)
    with jax.enable_x64(True):
        numbers, params, x = jax.tree.map(
            lambda leaf: leaf if leaf.dtype == jnp.int32 else jnp.array(leaf, jnp.float64), (numbers, params, x)
        )

        def run(numbers, params, *floating):
            layer = case.make(**numbers)
            inside = (floating or (x,))[0]
            return apply_batch(layer, params, inside), apply_batch(layer, params, inside, key=KEY)

        check_gradient(run, (numbers, params) if case.symbols else (numbers, params, x))


@every_layer
def test_shared_key_gives_shared_draws_and_another_key_others(name):
    alone = programs(name)[0]
    variants = lane(inputs(name), 1)
    first, again, other = (alone(*variants, key)["training"] for key in (KEY, KEY, jax.random.key(8)))
    np.testing.assert_array_equal(first, again)
    random = any(name.startswith(word) for word in ("drop", "augment", "serial", "parallel", "residual", "mlp", "mixed", "by_hand"))
    assert bool(jnp.any(first != other)) == random


@every_layer
def test_by_name_as_by_position(name):
    """The same program comes of either, to the last constant."""
    case = LAYERS[name]
    layer = case.make(**variant(case.numbers, 1))
    _, params, x = lane(inputs(name), 1)

    def traced(apply, key):
        closed = jax.make_jaxpr(apply)(params, x[..., 0], key)
        return str(closed), closed.consts

    for key in (None, KEY):
        text, constants = traced(lambda params, x, key: layer.apply(params, x, key=key), key)
        for apply in (
            lambda params, x, key: layer.apply(params, x=x, key=key),
            lambda params, x, key: layer.apply(x=x, params=params, key=key),
        ):
            other, others = traced(apply, key)
            assert other == text
            chex.assert_trees_all_equal(others, constants)
