"""Recipes that workers load by reference, and what a worker can be made to do."""

import dataclasses
import functools
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


def gaussian_divergence(mean, log_variance):
    """Of a normal distribution from the standard one, summed over the coordinates."""
    return jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance) / 2


def drawn_divergence(key, mean, log_variance):
    """The same by one draw z: log q(z) - log p(z)."""
    noise = jax.random.normal(key, mean.shape)
    return jnp.sum((mean + jnp.exp(log_variance / 2) * noise) ** 2 - noise**2 - log_variance) / 2


def autoencoder(learning_rate, beta=0.1, drop=0.1):
    """A variational autoencoder (Kingma and Welling 2014): a pytree of predictions, and a loss that draws while training."""
    encoder, decoder = fn.serial(fn.mlp((8, 4), "tanh", drop)), fn.dense(6)

    def init(key, in_shape):
        first, second = jax.random.split(key)
        return {"encoder": encoder.init(first, in_shape), "decoder": decoder.init(second, (2,))}

    def apply(params, x, *, key=None):
        first, second = (None, None) if key is None else jax.random.split(key)
        mean, log_variance = jnp.split(encoder.apply(params["encoder"], x, key=first), 2)
        z = mean if second is None else mean + jnp.exp(log_variance / 2) * jax.random.normal(second, mean.shape)
        return {"x": decoder.apply(params["decoder"], z), "mean": mean, "log_variance": log_variance}

    def loss(said, x, *, key=None):
        latent = said["mean"], said["log_variance"]
        divergence = gaussian_divergence(*latent) if key is None else drawn_divergence(key, *latent)
        return fn.squared_error(said["x"], x) + beta * divergence

    return fn.training(fn.Layer(init, apply), loss, fn.adam(learning_rate), in_shape=(6,), metrics={"rebuilt": _rebuilt})


def _rebuilt(said, x, *, weights=None):
    return fn.METRICS["mean_squared_error"](said["x"], x, weights=weights)


def misordered(predictions, targets, *, weights=None, key=None, noise=0.0):
    """A surrogate of 1 - the area under the ROC curve: each pair's sigmoid, of scores that are blurred while training."""
    scores, counts = predictions[:, 0], jnp.ones(len(targets)) if weights is None else weights
    blurred = scores if key is None else scores + noise * jax.random.normal(key, scores.shape)
    pairs = (targets[:, None] > targets[None]).astype(counts.dtype) * counts[:, None] * counts[None]
    return jnp.sum(pairs * jax.nn.sigmoid(blurred[None] - blurred[:, None])) / jnp.maximum(jnp.sum(pairs), 1)  # may be of one class


def ranking(learning_rate, noise=0.1):
    loss = fn.batch_loss(misordered), {"noise": noise}
    # The bias has no slope but of rounding, which Adam would scale up.
    return fn.training(fn.dense(1), loss, fn.momentum(learning_rate), in_shape=(6,), metrics=["roc_auc", ("f1", {"average": "binary"})])


def contrastive(predictions, targets, *, weights=None, temperature=0.5):
    """Examples of one class are to be near each other (Khosla et al. 2020)."""
    counts = jnp.ones(len(targets)) if weights is None else weights
    length = jnp.sqrt(jnp.sum(predictions**2, axis=1, keepdims=True) + 1e-6)
    others = ~jnp.eye(len(targets), dtype=bool) & (counts > 0)[None]
    near = jnp.where(others, (predictions / length) @ (predictions / length).T / temperature, -1e9)
    alike = (others & (targets[:, None] == targets[None])).astype(counts.dtype)
    each = -jnp.sum(alike * jax.nn.log_softmax(near, axis=1), axis=1) / jnp.maximum(jnp.sum(alike, axis=1), 1)
    return jnp.sum(counts * each) / jnp.sum(counts)


def embedded(learning_rate, temperature=0.5):
    loss = functools.partial(fn.batch_loss(contrastive), temperature=temperature)
    return fn.training(fn.mlp((8, 2), "tanh"), loss, fn.adam(learning_rate), in_shape=(6,))


def scored(learning_rate, average="macro"):
    """A net whose loss and metrics have settings."""
    metrics = [("f1", {"average": average}), ("calibration_error", {"bins": 5}), "roc_auc", "matthews_correlation"]
    loss = "cross_entropy", {"label_smoothing": 0.1}
    return fn.training(fn.dense(3), loss, fn.adam(learning_rate), in_shape=(6,), metrics=metrics)


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


def sides():
    return _mapped(lambda part: fn.Dataset(part.x, np.minimum(part.y, 1)))


def themselves():
    """Whose targets are the examples."""
    return _mapped(lambda part: fn.Dataset(part.x, part.x))


def _mapped(change):
    data = points()
    return data._replace(train=change(data.train), validation=change(data.validation))


def images(shape=(1, 6, 6)):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, *shape)).astype(np.float32)
    return fn.split(fn.Dataset(x, draw.integers(0, 3, 60)), key=jax.random.key(0))
