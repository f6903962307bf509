"""Makes the stores beside it, of a finished sweep and of one that was stopped, and what the whole sweep comes to.

They were made once, as stores of format 1, and stay as they are: what is stored with an older funcnet must go on with a newer one. The
recipe is a plain triple of functions in jax.numpy, so that no change of funcnet's layers changes it, and uses the key for nothing that
another JAX may draw otherwise. A new format gets folders of its own: python tests/sweeps/stores/make.py v2
"""

import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn
from funcnet.sweeps import run, store
from funcnet.sweeps.executors import Slot

HERE = pathlib.Path(__file__).parent
X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(8, 2)
DATA = fn.Split(fn.Dataset(X[:6], X[:6] @ np.array([1.0, -2.0], np.float32)), fn.Dataset(X[6:], X[6:] @ np.array([1.0, -2.0], np.float32)))
RATES = [0.01, 0.03, 0.1, 30.0]  # the last one diverges


def recipe(learning_rate):
    """A line by gradient descent; beside it leaves of other kinds: bfloat16, a whole number, a random key, an empty array."""

    def init(key):
        return {
            "w": jnp.zeros(2),
            "short": jnp.ones(3, jnp.bfloat16),
            "count": jnp.zeros((), jnp.int32),
            "key": key,
            "empty": jnp.zeros((0, 2)),
        }

    def loss(w, part):
        return jnp.mean((part.x @ w - part.y) ** 2)

    def step(state, batch, key):
        value, slope = jax.value_and_grad(loss)(state["w"], batch)
        short = (state["short"].astype(jnp.float32) * 0.99).astype(jnp.bfloat16)
        return state | {"w": state["w"] - learning_rate * slope, "short": short, "count": state["count"] + 1}, {"loss": value}

    return fn.Training(init, step, lambda state, part: {"loss": loss(state["w"], part)})


def swept(folder, **more):
    settings = dict(key=jax.random.key(7), num_steps=150, batch_size=None, eval_every=50, chunk_size=4, progress=False) | more
    return fn.sweep(recipe, fn.grid(learning_rate=RATES), DATA, **settings, store=folder)


def stop(progress):
    if progress.steps_done:
        raise KeyboardInterrupt


def make(name):
    store._LEAST = store._SHARE = 1e9  # one snapshot at the end will do
    run.local_slots = lambda: [Slot(jax.devices()[0], 0)]
    for folder in (HERE / name, HERE / f"{name}-unfinished"):
        shutil.rmtree(folder, ignore_errors=True)
    result = swept(HERE / name)
    try:
        swept(HERE / f"{name}-unfinished", progress=stop)
    except KeyboardInterrupt:
        pass
    leaves = {leaf: np.stack([np.asarray(result.state(row)[leaf], np.float32) for row in range(4)]) for leaf in ("w", "short", "count")}
    keys = np.stack([jax.random.key_data(result.state(row)["key"]) for row in range(4)])
    curves = {metric: result.curves[metric] for metric in ("train/loss", "validation/loss")}
    np.savez(HERE / "expected.npz", key=keys, **leaves, **curves)


if __name__ == "__main__":
    make(*sys.argv[1:])
