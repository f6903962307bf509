"""Everything that a model is made of lowers for a CPU, a GPU and a TPU, with its gradient, alone and mapped over variants.

Each test goes over funcnet's own registry as well as the tests': what is added to one and has no case in the other fails here.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from platforms import RECIPES, lowered, unwanted
from registries import (
    ACTIVATIONS,
    EXAMPLES,
    LAYERS,
    LOSSES,
    OPTIMIZERS,
    PENALTIES,
    SCHEDULES,
    VARIANTS,
    optimizer_params,
    penalty_params,
    variant,
)

import funcnet as fn
from funcnet.optimizers import apply_updates

KEY = jax.random.key(0)


def each(*registries):
    return pytest.mark.parametrize("name", list(dict.fromkeys(name for registry in registries for name in registry)))


def with_gradient(function, *inputs):
    """The function's outputs and the gradient of their sum, in all inputs."""
    outputs, back = jax.vjp(function, *inputs)
    return outputs, back(jax.tree.map(jnp.ones_like, outputs))


def shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def assert_lowers(function, *inputs, key=None):
    """With the inputs alone and with many of them, all under one key, in one program; its gradient too.

    Args:
      function: (*inputs) -> floating-point numbers, or (*inputs, key) where there is one.
      inputs: arrays or their shapes.
    """
    shared = () if key is None else (key,)

    def one(*inputs):
        return with_gradient(lambda *inputs: function(*inputs, *shared), *inputs)

    inputs = shapes(inputs)
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((VARIANTS, *leaf.shape), leaf.dtype), inputs)
    text = lowered(lambda inputs, many: (one(*inputs), jax.vmap(one)(*many)), inputs, many)
    assert unwanted(text) == set()


def numbers_of(numbers):
    return {name: jnp.float32(value) for name, value in variant(numbers, 0).items()}


@each(LAYERS)
def test_a_layer_lowers(name):
    """As it is drawn, evaluated and trained; test_registry_holds_every_layer says that each has a case."""
    case = LAYERS[name]
    layer, x = case.make(**variant(case.numbers, 0)), case.x(EXAMPLES)
    init = lambda key: layer.init(key, case.in_shape)
    assert unwanted(lowered(lambda key: (init(key), jax.vmap(init)(jax.random.split(key, VARIANTS))), KEY)) == set()

    def both(numbers, params, x, key):
        layer = case.make(**numbers)
        return fn.apply_batch(layer, params, x), fn.apply_batch(layer, params, x, key=key)

    inputs = numbers_of(case.numbers), jax.eval_shape(init, KEY)
    if case.symbols:
        assert_lowers(lambda numbers, params, key: both(numbers, params, x, key), *inputs, key=KEY)
    else:
        assert_lowers(both, *inputs, x, key=KEY)


@each(fn.INITIALIZERS)
def test_an_initializer_lowers(name):
    def init(key):
        dense, conv = fn.dense(3, initializer=name), fn.conv(3, 2, initializer=name)
        return dense.init(key, (5,)), conv.init(key, (2, 4, 4))

    assert unwanted(lowered(lambda key: (init(key), jax.vmap(init)(jax.random.split(key, VARIANTS))), KEY)) == set()


@each(fn.ACTIVATIONS, ACTIVATIONS)
def test_an_activation_lowers(name):
    assert_lowers(ACTIVATIONS[name], jnp.zeros((3, EXAMPLES)))


@each(fn.LOSSES, LOSSES)
def test_a_loss_lowers(name):
    case = LOSSES[name]
    target = case.target if case.target.dtype == np.int32 else case.target.astype(np.float32)

    def mean(numbers, prediction):
        return jnp.mean(jax.vmap(case.make(**numbers))(prediction, target))

    assert_lowers(mean, numbers_of(case.numbers), case.prediction.astype(np.float32))


@each(fn.PENALTIES, PENALTIES)
def test_a_penalty_lowers(name):
    make, numbers = PENALTIES[name]
    assert_lowers(lambda numbers, params: make(**numbers)(params), numbers_of(numbers), penalty_params())


@each(fn.SCHEDULES, SCHEDULES)
def test_a_schedule_lowers(name):
    make, numbers = SCHEDULES[name]
    assert_lowers(lambda numbers, step: make(**numbers)(step), numbers_of(numbers), jnp.float32(0))
    whole = lambda step: make(**variant(numbers, 0))(step)
    assert unwanted(lowered(whole, jnp.int32(0))) == set()


@each(fn.OPTIMIZERS, OPTIMIZERS)
def test_an_optimizer_lowers(name):
    """Two of its steps, and their gradient in the hyperparameters and in where they start."""
    make, numbers = OPTIMIZERS[name]

    def two_steps(numbers, params):
        optimizer = make(**numbers)
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(params, state, params)
            params = apply_updates(params, updates)
        return params

    assert_lowers(two_steps, numbers_of(numbers), optimizer_params())


LABELS = jnp.zeros(EXAMPLES, jnp.int32)
MEASURED = {  # predictions and targets
    "accuracy": (jnp.zeros((EXAMPLES, 3)), LABELS),
    "top_k_accuracy": (jnp.zeros((EXAMPLES, 3)), LABELS),
    "precision": (jnp.zeros((EXAMPLES, 3)), LABELS),
    "recall": (jnp.zeros((EXAMPLES, 3)), LABELS),
    "f1": (jnp.zeros((EXAMPLES, 3)), LABELS),
    "balanced_accuracy": (jnp.zeros((EXAMPLES, 3)), LABELS),
    "matthews_correlation": (jnp.zeros((EXAMPLES, 3)), LABELS),
    "roc_auc": (jnp.zeros((EXAMPLES, 3)), LABELS),
    "average_precision": (jnp.zeros((EXAMPLES, 3)), LABELS),
    "log_loss": (jnp.zeros((EXAMPLES, 3)), LABELS),
    "calibration_error": (jnp.zeros((EXAMPLES, 3)), LABELS),
    "mean_squared_error": (jnp.zeros((EXAMPLES, 3)), jnp.zeros((EXAMPLES, 3))),
    "mean_absolute_error": (jnp.zeros((EXAMPLES, 3)), jnp.zeros((EXAMPLES, 3))),
    "median_absolute_error": (jnp.zeros((EXAMPLES, 3)), jnp.zeros((EXAMPLES, 3))),
    "r2": (jnp.zeros((EXAMPLES, 3)), jnp.zeros((EXAMPLES, 3))),
}


@each(fn.METRICS)
def test_a_metric_lowers(name):
    metric_fn, (predictions, targets) = fn.METRICS[name], MEASURED[name]
    weighted = lambda predictions, weights: metric_fn(predictions, targets, weights=weights)
    assert_lowers(lambda predictions: metric_fn(predictions, targets), predictions)
    assert_lowers(weighted, predictions, jnp.ones(EXAMPLES))


@each(RECIPES)
def test_a_whole_fit_lowers(name):
    """And with it what the sweep has no program of its own for, its loop over evaluations."""
    example = RECIPES[name]

    def fitted(key, *numbers):
        names = {argument: options[0] for argument, options in example.names.items()}
        data = example.data(EXAMPLES)
        return fn.fit(example.recipe(*numbers, **names), data, key=key, num_steps=4, batch_size=2, eval_every=2).curves

    assert unwanted(lowered(fitted, KEY, *[jnp.float32(0.1)] * 3)) == set()


def called_back(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")


def told(x):
    jax.debug.callback(lambda x: None, x)
    return x


def summed_over_devices(x):
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")[:1]), "devices")
    add = functools.partial(jax.lax.psum, axis_name="devices")
    return jax.shard_map(add, mesh=mesh, in_specs=PartitionSpec("devices"), out_specs=PartitionSpec())(x)


@pytest.mark.parametrize("function", [called_back, told])
def test_a_callback_to_python_would_be_found(function):
    """In a program for one platform: for three at once JAX itself refuses it."""
    assert any("callback" in call for call in unwanted(jax.jit(function).lower(jnp.zeros(2)).as_text()))


def test_a_collective_would_be_found():
    assert unwanted(lowered(summed_over_devices, jnp.zeros(2))) == {"stablehlo.all_reduce"}


def test_float64_is_there_where_it_is_asked_for():
    single = jnp.zeros((5, EXAMPLES))
    apply = lambda x: fn.apply_batch(fn.activation("gelu"), (), x)
    assert unwanted(lowered(apply, single)) == set()
    with jax.enable_x64(True):
        assert unwanted(lowered(apply, np.zeros((5, EXAMPLES)))) == {"f64"}
        assert unwanted(lowered(apply, np.zeros((5, EXAMPLES), np.float32))) == set()
