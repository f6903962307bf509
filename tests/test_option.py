"""Names that ride in the batch: they do what the names themselves do, and a recipe can't look at them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close
from registries import ACTIVATIONS, optimizer_params

import funcnet as fn
from funcnet.activations import activation_fn
from funcnet.optimizers.names import COEFFICIENTS
from funcnet.option import Option

NAMES = tuple(ACTIVATIONS)
X = jnp.linspace(-3.0, 3.0, 24).reshape(4, 6)


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_an_activation_is_the_one_its_index_says(index):
    """Its values, and its gradient forwards and backwards, in float64."""

    def of(fn, x):
        return fn(x), jax.vjp(fn, x)[1](jnp.cos(x))[0], jax.jvp(fn, (x,), (jnp.sin(x),))[1]

    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(X), jnp.float64)
        traced = jax.jit(lambda i: of(activation_fn(Option("activation", NAMES, i)), x))
        assert_close(traced(jnp.int32(index)), of(ACTIVATIONS[NAMES[index]], x), rtol=1e-12, atol=1e-14)


def test_each_lane_may_have_its_own():
    each = jax.jit(jax.vmap(lambda i, x: activation_fn(Option("activation", NAMES, i))(x), (0, None)))
    for y, name in zip(each(jnp.arange(len(NAMES)), X), NAMES, strict=True):
        np.testing.assert_allclose(y, ACTIVATIONS[name](X), rtol=1e-6, atol=1e-7)


def test_one_name_in_the_lanes_of_a_program_stays_a_branch():
    """No select among all of them: the branch that is meant is the only one that runs."""

    def loss(i, x):
        return jnp.sum(activation_fn(Option("activation", ("relu", "tanh"), i))(x))

    jaxpr = str(jax.make_jaxpr(jax.vmap(jax.grad(loss, 1), (None, 0)))(0, X))
    assert "cond[" in jaxpr
    assert "cond[" not in str(jax.make_jaxpr(jax.vmap(jax.grad(loss, 1), (0, 0)))(jnp.zeros(4, jnp.int32), X))


@pytest.mark.parametrize("schedule", [False, True], ids=["number", "schedule"])
@pytest.mark.parametrize("name", list(COEFFICIENTS))
def test_the_one_rule_is_each_optimizer(name, schedule):
    """Over 100 steps, to ten digits in float64."""
    names = tuple(sorted(COEFFICIENTS))

    def path(made):
        def step(carry, i):
            params, state = carry
            grads = jax.tree.map(lambda p: p - jnp.cos(i + jnp.arange(p.size, dtype=p.dtype).reshape(p.shape)), params)
            updates, state = made.update(grads, state, params)
            return (fn.apply_updates(params, updates), state), params

        params = optimizer_params(dtype=jnp.float64)
        return jax.lax.scan(step, (params, made.init(params)), jnp.arange(100.0, dtype=jnp.float64))[1]

    with jax.enable_x64(True):
        rate = fn.cosine_decay(0.1, 80) if schedule else 0.1
        traced = jax.jit(lambda i: path(fn.optimizer(Option("optimizer", names, i), rate)))(jnp.int32(names.index(name)))
        assert_close(traced, jax.jit(lambda: path(fn.optimizer(name, rate)))(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_one_rule_keeps_dtypes(dtype):
    params = optimizer_params(dtype=dtype)
    made = fn.optimizer(Option("optimizer", ("adam", "sgd"), jnp.int32(0)), 0.1)
    updates, state = made.update(params, made.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves((updates, state.mean))} == {jnp.dtype(dtype)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.mean_square)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    "look",
    [
        lambda name: name == "relu",
        lambda name: name in ("relu", "tanh"),
        lambda name: {"relu": 1}[name],
        lambda name: f"{name}",
        lambda name: not name,
        lambda name: name[0],
    ],
)
def test_a_recipe_cannot_look_at_a_traced_name(look):
    option = Option("activation", ("relu", "tanh"), jnp.int32(0))
    with pytest.raises(TypeError, match="may only hand on a traced name.*got a look at 'activation'; leave out traced"):
        look(option)


def test_what_the_one_rule_cannot_do_is_said():
    with pytest.raises(ValueError, match="unknown optimizer that can be traced 'lion'"):
        fn.optimizer(Option("optimizer", ("adam", "lion"), jnp.int32(0)), 0.1)
    with pytest.raises(TypeError, match="a traced name must come without settings, got 'b1'"):
        fn.optimizer(Option("optimizer", ("adam", "sgd"), jnp.int32(0)), 0.1, b1=0.5)


def test_an_only_name_stays_a_branch():
    """XLA would fuse a function that is no branch with what surrounds it, and its numbers could differ from those among others."""
    lowered = jax.jit(lambda i, x: activation_fn(Option("activation", ("sigmoid",), i))(x)).lower(jnp.int32(0), jnp.ones(3))
    assert lowered.as_text().count("stablehlo.case") == 1
