"""funcnet's numbers for every reference in references/make.py, computed once a session, and what agreeing means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from references import make

from funcnet import layers, losses, optimizers, schedules

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


def nested(arrays):
    """Params of their names: "0/weight" is the first of a list's; none are an empty tuple."""
    tree = {}
    for path, value in arrays.items():
        *inside, last = path.split("/")
        functools.reduce(lambda place, name: place.setdefault(name, {}), inside, tree)[last] = value
    return (list(tree.values()) if "0" in tree else tree) or ()


def flat(params):
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): value for path, value in paths}


@functools.cache
def layer(name, dtype):
    """As make.torch_layer; by the batch form, whose examples lie last."""
    given, built = make.layer_inputs(name), make.LAYERS[name].ours(layers)
    with jax.enable_x64(dtype == "float64"):
        inputs = {key: jnp.asarray(value, jnp.int32 if value.dtype == np.int64 else dtype) for key, value in given.items()}
        params = nested({key.removeprefix("params/"): value for key, value in inputs.items() if key != "x"})
        initial = jax.eval_shape(lambda key: built.init(key, make.LAYERS[name].in_shape), jax.random.key(0))
        assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, params)
        x = inputs["x"]
        weights = jnp.asarray(make.cotangent(name, (make.EXAMPLES, *layers.out_shape(built, x.shape[1:], x.dtype))), dtype)

        def total(params, x):
            y = jnp.moveaxis(layers.apply_batch(built, params, jnp.moveaxis(x, 0, -1)), -1, 0)
            return jnp.sum(weights * y), y

        argnums = (0, 1) if jnp.issubdtype(x.dtype, jnp.floating) else (0,)
        (dparams, *dx), y = jax.jit(jax.grad(total, argnums, has_aux=True))(params, x)
        found = {"y": y} | {f"d{key}": value for key, value in flat(dparams).items()} | dict(zip(["dx"], dx))
        return {key: np.asarray(value) for key, value in found.items()}


@functools.cache
def loss(name, dtype):
    """As make.torch_loss."""
    fn, given = make.LOSSES[name].ours(losses), make.loss_inputs(name)
    with jax.enable_x64(dtype == "float64"):
        target = jnp.asarray(given["target"], jnp.int32 if given["target"].dtype == np.int64 else dtype)
        prediction = jnp.asarray(given["prediction"], dtype)
        value, grad = jax.jit(jax.value_and_grad(lambda p: jnp.mean(jax.vmap(fn)(p, target))))(prediction)
        return {"loss": np.asarray(value), "dprediction": np.asarray(grad)}


@functools.cache
def schedule(name, dtype):
    """As make.optax_schedule."""
    with jax.enable_x64(dtype == "float64"):
        return {"values": np.asarray(jax.vmap(make.SCHEDULES[name].ours(schedules))(jnp.asarray(make.SCHEDULE_STEPS)))}


@functools.cache
def descent(library, name, dtype):
    """As make.optax_descent and make.torch_descent."""
    case = {"optax": make.OPTAX, "torch": make.TORCH}[library][name]
    with jax.enable_x64(dtype in ("float64", "complex128")):
        return make.jax_descent(case.ours(optimizers), dtype)


def assert_agree(got, expected, dtype):
    """To the tolerance of dtype, absolute below one: outputs and gradients here are of the order of one."""
    assert set(got) == set(expected)
    for key in expected:
        assert got[key].dtype == dtype and got[key].shape == expected[key].shape
        np.testing.assert_allclose(got[key], expected[key], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def assert_same_path(got, expected, dtype):
    """To the tolerance of dtype, relative: of each parameter in float64; in float32 of all of them as one vector, at each
    step, as a parameter near zero is a difference of larger numbers."""
    assert set(got) == set(expected)
    assert all(got[key].dtype == dtype and got[key].shape == expected[key].shape for key in expected)
    if dtype in ("float64", "complex128"):
        assert all(np.max(np.abs(got[key] - expected[key]) / np.abs(expected[key])) < TOLERANCE["float64"] for key in expected)
    else:
        a, b = (np.concatenate([path[key].reshape(len(path[key]), -1) for key in sorted(path)], 1) for path in (got, expected))
        assert np.max(np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)) < TOLERANCE[dtype]
