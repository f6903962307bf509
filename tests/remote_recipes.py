"""Recipes that workers load by reference, and what a worker can be made to do."""

import dataclasses
import os
import pathlib
import re
import time

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn

SCALE = 1.0  # which one worker may have otherwise


def net(learning_rate, width=8, activation="relu", drop=0.2):
    model = fn.mlp((width, 3), activation, drop)
    return fn.training(model, fn.cross_entropy, fn.adam(learning_rate), in_shape=(6,), metrics=["accuracy"])


def convolutional(learning_rate):
    model = fn.serial(fn.conv(2, 3), fn.activation("relu"), fn.max_pool(2), fn.flatten(), fn.dense(3))
    return fn.training(model, fn.cross_entropy, fn.momentum(learning_rate), in_shape=(1, 6, 6))


def recurrent(learning_rate):
    return fn.training(fn.serial(fn.recurrent(4, cell="gru"), fn.dense(3)), fn.cross_entropy, fn.sgd(learning_rate), in_shape=(6, 6))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Odd:
    """A state of odd leaves."""

    weight: jax.Array
    key: jax.Array
    nothing: jax.Array


def odd(learning_rate):
    def step(state, batch, key):
        own, now = jax.random.split(state.key)
        moved = state.weight.astype(jnp.float32) * 0.99 + learning_rate * jax.random.normal(now, (3,))
        return Odd(moved.astype(jnp.bfloat16), own, state.nothing), {}

    def init(key):
        return Odd(jax.random.normal(key, (3,)).astype(jnp.bfloat16), key, jnp.zeros((0, 2)))

    return fn.Training(init, step, lambda state, part: {"loss": jnp.sum(state.weight.astype(jnp.float32) ** 2)})


def line(learning_rate):
    """y = scale * w·x, cheap to compile."""

    def loss(w, batch):
        return jnp.mean((SCALE * (batch.x @ w) - batch.y.astype(jnp.float32)) ** 2)

    def step(w, batch, key):
        value, slope = jax.value_and_grad(loss)(w, batch)
        return w - learning_rate * slope, {"loss": value}

    return fn.Training(lambda key: jax.random.normal(key, (6,)), step, lambda w, part: {"loss": loss(w, part)})


def _called(where, then):
    """A recipe whose step calls Python, which does something where the process is not the one that has sent the task."""

    def recipe(learning_rate):
        plain = line(learning_rate)

        def there(value):
            if os.environ.get("FUNCNET_TEST_WORKER") == "1":
                then(pathlib.Path(where))
            return value

        def step(w, batch, key):
            w, metrics = plain.step(w, batch, key)
            return w, {
                "loss": jax.pure_callback(there, jax.ShapeDtypeStruct((), jnp.float32), metrics["loss"], vmap_method="legacy_vectorized")
            }

        return plain._replace(step=step)

    return recipe


def dies(where):
    return _called(where, lambda path: os._exit(1))


def _die_later(path):
    """Once the store whose event log that is holds a run that has ended."""
    time.sleep(0.05)
    if path.exists() and re.search(r'"stored", "runs_done": [1-9]', path.read_text()):
        os._exit(1)


def dies_later(where):
    return _called(where, _die_later)


def _fail_once(path):
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return
    raise OSError("the disk is on fire")


def fails_once(where):
    return _called(where, _fail_once)


def _fail(path):
    raise ArithmeticError("it never works")


def fails(where):
    return _called(where, _fail)


def slow(where):
    """20 steps a second."""
    return _called(where, lambda path: time.sleep(0.05))


def is_worker():
    os.environ["FUNCNET_TEST_WORKER"] = "1"


def another_version():
    fn.__version__ = "0.0.9"


def another_jax():
    jax.__version__ = "0.4.1"


def another_scale():
    global SCALE
    SCALE = 2.0


def points():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(120, 6)).astype(np.float32)
    return fn.split(fn.Dataset(x, (x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 1)), key=jax.random.key(0))


def images(shape=(1, 6, 6)):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, *shape)).astype(np.float32)
    return fn.split(fn.Dataset(x, draw.integers(0, 3, 60)), key=jax.random.key(0))
