"""Names that ride in the batch: they do what the names themselves do, and a recipe can't look at them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close
from registries import ACTIVATIONS, optimizer_params

import funcnet as fn
from funcnet.activations import activation_fn
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
@pytest.mark.parametrize("name", list(fn.OPTIMIZERS))
def test_a_traced_name_is_the_optimizer_that_its_index_says(name, schedule):
    """Over 30 steps, to ten digits in float64."""
    names = tuple(sorted(fn.OPTIMIZERS))

    def path(made):
        def step(carry, i):
            params, state = carry
            grads = jax.tree.map(lambda p: p - jnp.cos(i + jnp.arange(p.size, dtype=p.dtype).reshape(p.shape)), params)
            updates, state = made.update(grads, state, params)
            return (fn.apply_updates(params, updates), state), params

        params = optimizer_params(dtype=jnp.float64)
        return jax.lax.scan(step, (params, made.init(params)), jnp.arange(30.0, dtype=jnp.float64))[1]

    with jax.enable_x64(True):
        rate = fn.cosine_decay(0.1, 80) if schedule else 0.1
        traced = jax.jit(lambda i: path(fn.optimizer(Option("optimizer", names, i), rate)))(jnp.int32(names.index(name)))
        assert_close(traced, jax.jit(lambda: path(fn.optimizer(name, rate)))(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("names, like", [(("momentum", "sgd"), "adam"), (("lion", "radam"), "adam"), (("adam", "amsgrad"), "amsgrad")])
def test_the_optimizers_of_a_traced_name_share_their_arrays(names, like, dtype):
    """There are as many of a shape and dtype as the one needs that needs most of them, and at least Adam's, in an order that never varies."""
    params = optimizer_params(dtype=dtype)
    made = fn.optimizer(Option("optimizer", names, jnp.int32(1)), 0.1)
    updates, state = made.update(params, made.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    kinds = lambda tree: [str(leaf.aval) for leaf in jax.tree.leaves(tree)]
    assert kinds(state) == kinds(fn.optimizer(like, 0.1).init(params))


def test_a_traced_name_takes_settings_that_all_of_them_have():
    grads, params = optimizer_params(1), optimizer_params(0)
    for i, name in enumerate(names := ("adam", "radam", "nadam")):
        traced, plain = fn.optimizer(Option("optimizer", names, jnp.int32(i)), 0.1, b1=0.5), fn.optimizer(name, 0.1, b1=0.5)
        assert_close(*(made.update(grads, made.init(params), params)[0] for made in (traced, plain)), rtol=1e-6)


def test_a_traced_name_hands_on_what_is_known_of_the_step(monkeypatch):
    def polyak(learning_rate, where=None):
        """A step of Polyak's size, which needs the objective's value."""
        update = lambda grads, state, params=None, *, value: (jax.tree.map(lambda g: -learning_rate * value * g, grads), state)
        return fn.Optimizer(lambda params: (), update)

    monkeypatch.setitem(fn.OPTIMIZERS, "polyak", polyak)
    made = fn.optimizer(Option("optimizer", ("adam", "polyak"), jnp.int32(1)), 0.5)
    updates, _ = jax.jit(lambda g, value: made.update(g, made.init(g), value=value))(jnp.ones(2), 3.0)
    assert updates.tolist() == [-1.5, -1.5]


def test_without_params_the_state_of_a_traced_name_is_that_of_the_gradients():
    """Where these have another dtype, it asks for the params."""
    made = fn.optimizer(Option("optimizer", ("adam", "sgd"), jnp.int32(0)), 0.1)
    params = optimizer_params(dtype=jnp.float32)
    grads = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    with pytest.raises(ValueError, match=r"optimizer: state must hold .*bfloat16.*; call update\(grads, state, params\)"):
        made.update(grads, made.init(params))
    made.update(grads, made.init(params), params)
    made.update(params, made.init(params))


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


def test_what_a_traced_name_cannot_be_is_said():
    with pytest.raises(ValueError, match="unknown optimizer 'adm'; did you mean 'adam'"):
        fn.optimizer(Option("optimizer", ("sgd", "adm"), jnp.int32(0)), 0.1)
    with pytest.raises(TypeError, match="sgd has no argument 'b1'"):
        fn.optimizer(Option("optimizer", ("adam", "sgd"), jnp.int32(0)), 0.1, b1=0.5)


def test_an_only_name_stays_a_branch():
    """XLA would fuse a function that is no branch with what surrounds it, and its numbers could differ from those among others."""
    lowered = jax.jit(lambda i, x: activation_fn(Option("activation", ("sigmoid",), i))(x)).lower(jnp.int32(0), jnp.ones(3))
    assert lowered.as_text().count("stablehlo.case") == 1
