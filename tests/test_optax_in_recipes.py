"""optax's rules that look at the loss train in recipes, and its inject_hyperparams takes every optimizer of funcnet's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close
from registries import OPTIMIZERS, optimizer_params, variant

import funcnet as fn
from funcnet import optimizers

optax = pytest.importorskip("optax", reason="optax is in the extra [bench]")

X = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5]], np.float32) + 0.1 * X[:, :1] ** 2
DATA = fn.Dataset(X, Y)
RUN = dict(key=jax.random.key(0), num_steps=12, batch_size=None)
RATES = [0.2, 0.05]


@pytest.fixture(autouse=True)
def usual_promotion():
    """JAX's own, which optax is written for."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def chained(first, *rest, ours=True):
    return (fn.chain if ours else optax.chain)(first, *rest)


def backtracking(ours, rate):
    return chained(optax.sgd(rate), optax.scale_by_backtracking_linesearch(8, store_grad=True), ours=ours)


LOOKING = {
    "lbfgs": lambda ours, rate: optax.lbfgs(),
    "lbfgs_after_clipping": lambda ours, rate: chained(optax.clip_by_global_norm(10.0), optax.lbfgs(5 * rate), ours=ours),
    "backtracking": backtracking,
    "chain_in_a_chain": lambda ours, rate: chained(optax.scale(0.5), backtracking(ours, rate), ours=ours),
    "polyak_sgd": lambda ours, rate: optax.polyak_sgd(max_learning_rate=rate),
    "momo": lambda ours, rate: optax.contrib.momo(rate),
    "momo_adam": lambda ours, rate: optax.contrib.momo_adam(rate),
    "reduce_on_plateau": lambda ours, rate: chained(
        optax.sgd(10 * rate), optax.contrib.reduce_on_plateau(factor=0.5, patience=1), ours=ours
    ),
}


def model():
    """A line from zero, so that optax alone needs no draws of funcnet's."""
    return fn.Layer(lambda key, in_shape: jnp.zeros(in_shape), lambda params, x, *, key=None: jnp.sum(params * x, keepdims=True))


def recipe_of(name):
    return lambda rate: fn.training(model(), fn.squared_error, LOOKING[name](True, rate), in_shape=(3,))


def by_optax_alone(name, rate):
    optimizer = optax.with_extra_args_support(LOOKING[name](False, rate))
    value_fn = lambda params: jnp.mean((X @ params - Y[:, 0]) ** 2)

    def step(now, _):
        params, state = now
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return (optax.apply_updates(params, updates), state), None

    params = jnp.zeros(3)
    return jax.lax.scan(step, (params, optimizer.init(params)), None, RUN["num_steps"])[0][0]


@pytest.mark.parametrize("name", LOOKING)
def test_rules_that_look_at_the_loss_train_in_recipes(name):
    """In fit and in a sweep as by optax alone."""
    together = fn.sweep(recipe_of(name), fn.grid(rate=RATES), DATA, **RUN)
    assert list(together.table["status"]) == ["completed"] * len(RATES)
    expected = jax.jit(functools.partial(jax.lax.map, functools.partial(by_optax_alone, name)))(jnp.array(RATES))
    assert not np.any(np.isclose(expected, 0))
    np.testing.assert_allclose(np.stack([together.state(row).params for row in range(len(RATES))]), expected, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(fn.fit(recipe_of(name)(RATES[0]), DATA, **RUN).state.params, expected[0], rtol=2e-3, atol=1e-4)


def numbers_of(name):
    """The optimizer's own arguments that are numbers, by name."""
    factory, numbers = OPTIMIZERS[name]
    return factory, variant(numbers, 1)


def path(optimizer, steps=3):
    params, state = optimizer_params(), None
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(optimizer_params(5 + step), state, params)
        params = optimizers.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_inject_hyperparams_takes_every_optimizer(name):
    """With each of its numbers as it is, in place of each a schedule, and one that is changed on the way."""
    factory, numbers = numbers_of(name)
    injected = optax.inject_hyperparams(factory)
    assert_close(path(injected(**numbers)), path(factory(**numbers)))
    assert_close(jax.jit(lambda numbers: path(injected(**numbers)))(numbers), path(factory(**numbers)))
    scheduled = {key: lambda step, value=value: jnp.float32(value) for key, value in numbers.items()}
    assert_close(path(injected(**scheduled)), path(factory(**numbers)))
    assert set(injected(**numbers).init(optimizer_params()).hyperparams) >= set(numbers)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_inject_hyperparams_takes_every_optimizer_at_its_defaults(name):
    """And its rate may be a schedule or change in a sweep."""
    factory = optimizers.OPTIMIZERS[name]
    injected = optax.inject_hyperparams(factory, static_args=["min_dim_size_to_factor"] if name == "adafactor" else ())
    assert_close(path(injected(0.1)), path(factory(0.1)))
    line = fn.linear_schedule(0.2, 0.05, 3)
    assert_close(path(injected(line)), path(factory(line)))

    state = injected(0.1).init(optimizer_params())
    assert "learning_rate" in state.hyperparams and not any(callable(value) for value in jax.tree.leaves(state.hyperparams))
    state.hyperparams["learning_rate"] = jnp.float32(0.0)
    updates, _ = jax.jit(injected(0.1).update)(optimizer_params(5), state, optimizer_params())
    np.testing.assert_array_equal(updates["weight"], 0)

    def recipe(rate, wrap):
        return fn.training(model(), fn.squared_error, (injected if wrap else factory)(rate), in_shape=(3,))

    wrapped, plain = (fn.sweep(functools.partial(recipe, wrap=wrap), fn.grid(rate=RATES), DATA, **RUN) for wrap in (True, False))
    for row in range(len(RATES)):
        np.testing.assert_allclose(wrapped.state(row).params, plain.state(row).params, rtol=1e-5, atol=1e-6)


def with_flax(optimizer_of):
    """A recipe whose state is flax's TrainState, which holds the optimizer itself."""
    train_state = pytest.importorskip("flax.training.train_state", reason="flax is in the extra [bench]")
    value_fn = lambda params, dataset: jnp.mean((dataset.x @ params["w"] - dataset.y[:, 0]) ** 2)

    def recipe(rate):
        def init(key):
            return train_state.TrainState.create(apply_fn=None, params={"w": jnp.zeros(3)}, tx=optimizer_of(rate))

        def step(state, batch, key):
            value, grads = jax.value_and_grad(value_fn)(state.params, batch)
            return state.apply_gradients(grads=grads), {"loss": value}

        return fn.Training(init, step, lambda state, dataset: {"loss": value_fn(state.params, dataset)})

    return recipe


@pytest.mark.parametrize("adam", [optax.adam, fn.adam], ids=["theirs", "ours"])
def test_a_train_state_of_flax_works_or_says_why_not(adam):
    """The optimizer in it is made from a traced rate: refused by name, and each way out that the message names works."""
    with pytest.raises(TypeError, match=r"a state must hold arrays, and no function made from a hyperparameter.*TrainState.*static"):
        fn.sweep(with_flax(adam), fn.grid(rate=RATES), DATA, **RUN)
    plain = fn.sweep(lambda rate: fn.training(model(), fn.squared_error, adam(rate), in_shape=(3,)), fn.grid(rate=RATES), DATA, **RUN)
    static = fn.sweep(with_flax(adam), fn.grid(rate=fn.static(RATES)), DATA, **RUN)
    injected = fn.sweep(with_flax(lambda rate: optax.inject_hyperparams(adam)(rate)), fn.grid(rate=RATES), DATA, **RUN)
    for row, rate in enumerate(RATES):
        alone = fn.fit(with_flax(adam)(rate), DATA, **RUN).state.params["w"]
        for found in (static, injected):
            np.testing.assert_allclose(found.state(row).params["w"], plain.state(row).params, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alone, plain.state(row).params, rtol=1e-5, atol=1e-6)


def test_an_infinity_that_a_state_begins_with_is_no_divergence():
    """The best loss so far is one until the first few losses are averaged."""
    recipe = lambda rate: fn.training(
        model(), fn.squared_error, fn.chain(fn.sgd(rate), optax.contrib.reduce_on_plateau(accumulation_size=8)), in_shape=(3,)
    )
    together = fn.sweep(recipe, fn.grid(rate=RATES), DATA, **RUN, eval_every=3)
    assert list(together.table["status"]) == ["completed"] * len(RATES)
    assert np.all(np.isfinite(fn.fit(recipe(RATES[0]), DATA, **RUN, eval_every=3).curves["train/loss"]))
