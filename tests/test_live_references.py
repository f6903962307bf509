"""The references once more, live, where torch and optax are installed: they agree with the fixtures and with funcnet.

And the two ecosystems work in each other's code, as they share one call signature.
"""

import jax
import jax.numpy as jnp
import numpy as np
import ours
import pytest
from properties import assert_close
from references import make
from registries import LAYERS, OPTIMIZERS, optimizer_params, variant

from funcnet import optimizers, schedules
from funcnet.layers import apply_batch

optax = pytest.importorskip("optax")
pytest.importorskip("torch")

MAKERS = make.compute()


@pytest.mark.parametrize("reference", MAKERS)
def test_library_fixture_and_funcnet_agree(reference):
    kind, name, *rest = reference.split("/")
    live, fixture = MAKERS[reference](), make.load(reference)
    assert set(live) == set(fixture)
    if kind in ("optax", "torch"):
        ours.assert_same_path(live, fixture, rest[0])
        ours.assert_same_path(ours.descent(kind, name, rest[0]), live, rest[0])
        return
    found = {"layers": ours.layer, "losses": ours.loss, "schedules": ours.schedule}[kind](name, "float64")
    ours.assert_agree(live, fixture, "float64")
    ours.assert_agree(found, live, "float64")


def usual_promotion():
    """JAX's own, which optax is written for."""
    return jax.numpy_dtype_promotion("standard")


def descend(optimizer, params, grads, steps=3):
    with usual_promotion():
        state = optimizer.init(params)
        for _ in range(steps):
            updates, state = optimizer.update(grads, state, params)
            params = jax.tree.map(lambda p, u: p + u, params, updates)
        return params


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ours_work_inside_optax_chain_and_theirs_inside_ours(name):
    build, numbers = OPTIMIZERS[name]
    opt = build(**variant(numbers, 1))
    params, grads = optimizer_params(), optimizer_params(5)
    mixed = descend(optax.chain(optax.clip_by_global_norm(0.5), opt), params, grads)
    assert_close(mixed, descend(optimizers.chain(optax.clip_by_global_norm(0.5), opt), params, grads), rtol=1e-5)
    assert_close(mixed, descend(optimizers.chain(optimizers.clip_by_global_norm(0.5), opt), params, grads), rtol=1e-5)
    assert np.any(np.asarray(mixed["weight"] != params["weight"]))


@pytest.mark.parametrize(
    "theirs", [lambda: optax.adam(0.1), lambda: optax.sgd(0.1, momentum=0.9), lambda: optax.adamw(0.1), lambda: optax.lion(0.1)]
)
def test_theirs_after_ours(theirs):
    params, grads = optimizer_params(), optimizer_params(5)
    mixed = descend(optimizers.chain(optimizers.clip_by_global_norm(0.5), theirs()), params, grads)
    assert_close(mixed, descend(optax.chain(optax.clip_by_global_norm(0.5), theirs()), params, grads), rtol=1e-5)


def test_schedules_and_updates_are_exchangeable():
    params, grads = optimizer_params(), optimizer_params(5)
    ours_in_theirs = descend(optax.sgd(schedules.linear_schedule(0.4, 0.1, 3)), params, grads)
    theirs_in_ours = descend(optimizers.sgd(optax.linear_schedule(0.4, 0.1, 3)), params, grads)
    assert_close(ours_in_theirs, descend(optimizers.sgd(schedules.linear_schedule(0.4, 0.1, 3)), params, grads))
    assert_close(theirs_in_ours, ours_in_theirs)
    assert_close(optax.apply_updates(params, grads), optimizers.apply_updates(params, grads))


def has_params(name):
    case = LAYERS[name]
    return bool(
        jax.tree.leaves(jax.eval_shape(lambda key: case.make(**variant(case.numbers, 1)).init(key, case.in_shape), jax.random.key(0)))
    )


@pytest.mark.parametrize("name", list(filter(has_params, LAYERS)))
def test_every_layer_trains_with_either_chain(name):
    """The gradients of any layer's params go through funcnet's and optax's objects in one chain, in either order."""
    case = LAYERS[name]
    layer = case.make(**variant(case.numbers, 1))
    params, x = layer.init(jax.random.key(0), case.in_shape), case.x(2)
    ours_then_theirs = optimizers.chain(optimizers.momentum(0.1), optax.scale(0.5))
    theirs_then_ours = optax.chain(optax.scale(0.5), optimizers.momentum(0.1))

    @jax.jit
    def trained(params):
        grads = jax.grad(lambda p: jnp.sum(apply_batch(layer, p, x) ** 2))(params)
        both = []
        for optimizer in (ours_then_theirs, theirs_then_ours):
            updates, _ = optimizer.update(grads, optimizer.init(params), params)
            both.append(optimizers.apply_updates(params, updates))
        return both, jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)

    with usual_promotion():
        (first, second), expected = trained(params)
    assert_close(first, expected)
    assert_close(second, expected)
