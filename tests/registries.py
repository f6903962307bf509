"""One registry a kind: what every property test runs over, so that a new entry gets every property at once.

A case says how to make a thing from its numeric arguments, and gives three variants of those numbers: alone, under
`jax.vmap` together, and traced, they must do the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import activations, layers, losses, optimizers, penalties, schedules
from funcnet.layers import Layer

VARIANTS = 3
EXAMPLES = 4

Numbers = dict[str, tuple[float, float, float]]  # of each numeric argument, three variants


def variant(numbers: Numbers, i: int) -> dict[str, float]:
    return {name: values[i] for name, values in numbers.items()}


def stacked(numbers: Numbers, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    return {name: jnp.array(values, dtype) for name, values in numbers.items()}


def draw(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


class LayerCase(NamedTuple):
    make: Callable[..., Layer]  # (**numbers) -> Layer
    in_shape: tuple[int, ...]
    numbers: Numbers = {}  # noqa: RUF012  (an empty one is never written to)
    symbols: int = 0  # the input holds integers below this; 0 for floating point

    def x(self, *batch: int, seed: int = 0, dtype: Any = jnp.float32) -> jax.Array:
        """Inputs of shape (*in_shape, *batch)."""
        shape = (*self.in_shape, *batch)
        if self.symbols:
            return jnp.array(np.random.default_rng(seed).integers(0, self.symbols, shape), jnp.int32)
        return jnp.array(draw(shape, seed), dtype)


def _bent(x):
    return x / (1 + x * x)


def _by_hand() -> Layer:
    """A layer as a user writes one: it knows of one example, and nothing of batches."""

    def init(key, in_shape):
        return {"weight": jax.random.normal(key, (in_shape[0], 3))}

    def apply(params, x, *, key=None):
        noise = 1 if key is None else jax.random.normal(key, ()).astype(x.dtype)
        return jnp.tanh(x @ params["weight"].astype(x.dtype)) * noise

    return Layer(init, apply)


_RATES: Numbers = {"rate": (0.1, 0.5, 0.9)}

LAYERS: dict[str, LayerCase] = {
    "dense": LayerCase(lambda: layers.dense(3), (5,)),
    "conv_1d": LayerCase(lambda: layers.conv(3, 4, stride=2), (2, 7)),
    "conv_2d": LayerCase(lambda: layers.conv(3, (3, 2), stride=(1, 2), padding=((1, 0), (0, 1))), (2, 5, 4)),
    "max_pool": LayerCase(lambda: layers.max_pool(2, stride=1, padding="SAME"), (2, 3, 4)),
    "avg_pool": LayerCase(lambda: layers.avg_pool((3, 2)), (2, 6, 4)),
    "flatten": LayerCase(lambda: layers.flatten(), (2, 3, 2)),
    "embedding": LayerCase(lambda: layers.embedding(5, 3), (4,), symbols=5),
    "rnn": LayerCase(lambda: layers.recurrent(3, activation=_bent), (3, 2)),
    "gru": LayerCase(lambda: layers.recurrent(3, cell="gru"), (3, 2)),
    "lstm": LayerCase(lambda: layers.recurrent(3, cell="lstm", return_sequence=True), (3, 2)),
    "layer_norm": LayerCase(lambda eps: layers.layer_norm(eps=eps), (3, 5), {"eps": (1e-5, 1e-2, 1.0)}),
    "dropout": LayerCase(layers.dropout, (40,), _RATES),
    "drop_connect": LayerCase(lambda rate: layers.drop_connect(layers.dense(8), rate), (5,), _RATES),
    "drop_connect_recurrent": LayerCase(lambda rate: layers.drop_connect(layers.recurrent(4), rate), (3, 2), _RATES),
    "activation": LayerCase(lambda: layers.activation("gelu"), (2, 3)),
    "activation_own": LayerCase(lambda slope: layers.activation(lambda x: x * jax.nn.sigmoid(slope * x)), (6,), {"slope": (0.5, 1.0, 2.0)}),
    "serial": LayerCase(lambda rate: layers.serial(layers.dense(6), layers.dropout(rate), layers.activation("tanh")), (4,), _RATES),
    "parallel": LayerCase(
        lambda rate: layers.parallel(layers.dense(2), layers.serial(layers.dropout(rate), layers.dense(3))), (4,), _RATES
    ),
    "residual": LayerCase(lambda rate: layers.residual(layers.serial(layers.dropout(rate), layers.dense(4))), (4,), _RATES),
    "mixed_precision": LayerCase(
        lambda drop: layers.mixed_precision(layers.mlp((8, 2), "silu", drop), jnp.result_type(float)), (4,), {"drop": (0.0, 0.3, 0.8)}
    ),
    "mlp": LayerCase(lambda drop: layers.mlp((8, 2), "silu", drop), (4,), {"drop": (0.0, 0.3, 0.8)}),
    "by_hand": LayerCase(_by_hand, (4,)),
    "by_hand_in_serial": LayerCase(lambda rate: layers.serial(layers.dense(4), _by_hand(), layers.dropout(rate)), (3,), _RATES),
    "by_hand_in_parallel": LayerCase(lambda: layers.parallel(_by_hand(), layers.residual(layers.dense(4))), (4,)),
}


def shift_and_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """As in the example of `augment`."""
    shift_key, flip_key = jax.random.split(key)
    row, column = jax.random.randint(shift_key, (2,), 0, 5)
    padded = jnp.pad(image, ((0, 0), (2, 2), (2, 2)))
    shifted = jax.lax.dynamic_slice(padded, (0, row, column), image.shape)
    return jnp.where(jax.random.bernoulli(flip_key), shifted[:, :, ::-1], shifted)


_EPS_OF_NORMS: Numbers = {"eps": (1e-5, 1e-2, 1.0)}

LAYERS |= {
    "dense_along": LayerCase(lambda: layers.dense(3, leading_axes=2), (2, 3, 5)),
    "conv_3d": LayerCase(lambda: layers.conv(2, (2, 1, 2), stride=(1, 1, 2)), (2, 3, 2, 4)),
    "conv_transpose_1d": LayerCase(lambda: layers.conv_transpose(3, 4, stride=2), (2, 4)),
    "conv_transpose_2d": LayerCase(lambda: layers.conv_transpose(2, (3, 2), stride=(1, 3), padding=((1, 0), (0, 1))), (2, 3, 3)),
    "conv_transpose_3d": LayerCase(lambda: layers.conv_transpose(2, (2, 1, 2), padding="VALID"), (1, 2, 2, 2)),
    "max_pool_3d": LayerCase(lambda: layers.max_pool((2, 1, 2)), (2, 4, 2, 4)),
    "avg_pool_3d": LayerCase(lambda: layers.avg_pool((2, 1, 2), stride=1, padding="SAME"), (2, 2, 2, 3)),
    "global_avg_pool": LayerCase(lambda: layers.global_avg_pool(), (3, 2, 4)),
    "global_max_pool": LayerCase(lambda: layers.global_max_pool(), (3, 2, 2, 2)),
    "adaptive_avg_pool": LayerCase(lambda: layers.adaptive_avg_pool((2, 3)), (2, 3, 5)),
    "adaptive_max_pool": LayerCase(lambda: layers.adaptive_max_pool(3), (2, 7)),
    "rms_norm": LayerCase(lambda eps: layers.rms_norm(eps=eps), (3, 5), _EPS_OF_NORMS),
    "group_norm": LayerCase(lambda eps: layers.group_norm(2, eps=eps), (4, 3), _EPS_OF_NORMS),
    "augment": LayerCase(lambda: layers.augment(lambda key, x: x + jax.random.normal(key, x.shape).astype(x.dtype)), (3, 2)),
    "augment_image": LayerCase(lambda: layers.augment(shift_and_flip), (2, 4, 3)),
    "weight_norm": LayerCase(lambda: layers.weight_norm(layers.serial(layers.conv(2, 2), layers.flatten(), layers.dense(3))), (2, 3)),
    "prelu": LayerCase(lambda: layers.prelu(shared=False), (3, 2)),
    "softmax": LayerCase(lambda: layers.softmax(), (2, 3)),
    "attention": LayerCase(lambda: layers.attention(2, width=6), (4, 3)),
    "attention_causal": LayerCase(lambda: layers.attention(1, causal=True), (4, 3)),
    "attention_masked": LayerCase(lambda: layers.attention(3, mask=lambda x: (x[:, 0] > 0)[None]), (4, 3)),
    "positional_encoding": LayerCase(
        lambda max_wavelength: layers.positional_encoding(max_wavelength=max_wavelength), (4, 5), {"max_wavelength": (10.0, 100.0, 1e4)}
    ),
    "positional_embedding": LayerCase(lambda: layers.positional_embedding(), (4, 3)),
    "bidirectional": LayerCase(lambda: layers.bidirectional(layers.recurrent(3, cell="gru", return_sequence=True)), (3, 2)),
    "bidirectional_stack": LayerCase(
        lambda: layers.serial(
            layers.bidirectional(layers.recurrent(2, return_sequence=True)), layers.bidirectional(layers.recurrent(3, cell="lstm"))
        ),
        (3, 2),
    ),
}

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = dict(activations.ACTIVATIONS)


class LossCase(NamedTuple):
    make: Callable[..., Callable]  # (**numbers) -> (prediction, target) -> scalar
    prediction: np.ndarray  # (EXAMPLES, *outputs)
    target: np.ndarray  # (EXAMPLES, *target)
    numbers: Numbers = {}  # noqa: RUF012  (an empty one is never written to)


_OUTPUTS = 2 * draw((EXAMPLES, 3), 1)
_LABELS = np.array([0, 2, 1, 2], np.int32)
_ODDS = np.exp(draw((EXAMPLES, 3), 3))

LOSSES: dict[str, LossCase] = {
    "squared_error": LossCase(lambda: losses.squared_error, _OUTPUTS, draw((EXAMPLES, 3), 2)),
    "squared_error_scalar": LossCase(lambda: losses.squared_error, _OUTPUTS[:, :1], draw((EXAMPLES,), 2)),
    "absolute_error": LossCase(lambda: losses.absolute_error, _OUTPUTS, draw((EXAMPLES, 3), 2)),
    "huber": LossCase(lambda delta: lambda p, t: losses.huber(p, t, delta), _OUTPUTS, draw((EXAMPLES, 3), 2), {"delta": (0.2, 1.0, 5.0)}),
    "cross_entropy": LossCase(lambda: losses.cross_entropy, _OUTPUTS, _LABELS),
    "cross_entropy_soft": LossCase(lambda: losses.cross_entropy, _OUTPUTS, _ODDS / _ODDS.sum(-1, keepdims=True)),
    "binary_cross_entropy": LossCase(lambda: losses.binary_cross_entropy, _OUTPUTS, (draw((EXAMPLES, 3), 2) > 0).astype(np.float64)),
    "hinge": LossCase(lambda: losses.hinge, _OUTPUTS, _LABELS),
    "hinge_sides": LossCase(lambda: losses.hinge, _OUTPUTS, np.sign(draw((EXAMPLES, 3), 2))),
    "cross_entropy_smoothed": LossCase(
        lambda label_smoothing: lambda p, t: losses.cross_entropy(p, t, label_smoothing=label_smoothing),
        _OUTPUTS,
        _LABELS,
        {"label_smoothing": (0.05, 0.1, 0.9)},
    ),
    "cross_entropy_sequence": LossCase(lambda: losses.cross_entropy, 2 * draw((EXAMPLES, 2, 3), 4), np.stack([_LABELS, 2 - _LABELS], 1)),
    "focal": LossCase(lambda gamma: lambda p, t: losses.focal(p, t, gamma), _OUTPUTS, _LABELS, {"gamma": (0.5, 2.0, 5.0)}),
    "focal_binary": LossCase(
        lambda gamma, alpha: lambda p, t: losses.focal(p, t, gamma, alpha),
        _OUTPUTS,
        (draw((EXAMPLES, 3), 2) > 0).astype(np.float64),
        {"gamma": (0.5, 2.0, 5.0), "alpha": (0.25, 0.5, 0.9)},
    ),
    "kl_divergence": LossCase(lambda: losses.kl_divergence, _OUTPUTS, _ODDS / _ODDS.sum(-1, keepdims=True)),
    "poisson": LossCase(lambda: losses.poisson, _OUTPUTS, 1 + np.floor(_ODDS)),
    "cosine_distance": LossCase(lambda: losses.cosine_distance, _OUTPUTS, draw((EXAMPLES, 3), 2)),
}

_STRENGTHS = (0.0, 0.1, 2.0)

PENALTIES: dict[str, tuple[Callable[..., penalties.Penalty], Numbers]] = {
    **{name: (make, {"strength": _STRENGTHS}) for name, make in penalties.PENALTIES.items()},
    "lp": (penalties.lp, {"p": (1.0, 1.7, 3.0), "strength": _STRENGTHS}),
    "penalty": (penalties.penalty, {"l1": _STRENGTHS, "l2": (0.2, 0.0, 1.0), "l3": _STRENGTHS, "l4": (1.0, 0.1, 0.0)}),
}


def penalty_params(seed: int = 0, dtype: Any = jnp.float32) -> dict[str, Any]:
    return {
        "hidden": {"weight": jnp.array(draw((3, 2), seed), dtype), "bias": jnp.array(draw((3,), seed + 1), dtype)},
        "kernel": jnp.array(draw((2, 1, 3), seed + 2), dtype),
    }


_LENGTHS = (5.0, 12.0, 30.0)
_FACTORS = (0.5, 0.9, 1.0)
_HEIGHTS = (0.1, 1.0, 3.0)

SCHEDULES: dict[str, tuple[Callable[..., schedules.Schedule], Numbers]] = {
    "constant_schedule": (schedules.constant_schedule, {"value": _HEIGHTS}),
    "linear_schedule": (schedules.linear_schedule, {"initial": _HEIGHTS, "final": (0.0, 2.0, 1.0), "num_steps": _LENGTHS}),
    "exponential_decay": (schedules.exponential_decay, {"initial": _HEIGHTS, "decay_rate": _FACTORS, "num_steps": _LENGTHS}),
    "step_decay": (schedules.step_decay, {"initial": _HEIGHTS, "decay_rate": _FACTORS, "num_steps": _LENGTHS}),
    "cosine_decay": (schedules.cosine_decay, {"initial": _HEIGHTS, "num_steps": _LENGTHS, "final": (0.0, 0.1, 3.0)}),
    "warmup_cosine_decay": (
        schedules.warmup_cosine_decay,
        {"peak": _HEIGHTS, "warmup_steps": (0.0, 3.0, 10.0), "num_steps": _LENGTHS, "initial": (0.0, 0.1, 3.0), "final": (0.0, 0.1, 0.2)},
    ),
    "one_cycle": (
        schedules.one_cycle,
        {
            "peak": _HEIGHTS,
            "num_steps": _LENGTHS,
            "warmup_share": (0.0, 0.3, 0.9),
            "start_factor": (1.0, 10.0, 25.0),
            "final_factor": (1e4, 1.0, 10.0),
        },
    ),
}

SCHEDULES |= {
    "polynomial_decay": (
        schedules.polynomial_decay,
        {"initial": _HEIGHTS, "num_steps": _LENGTHS, "power": (0.5, 1.7, 3.0), "final": (0.0, 0.1, 3.0)},
    ),
    "exponential_growth": (schedules.exponential_growth, {"initial": _HEIGHTS, "final": (0.1, 2.0, 100.0), "num_steps": _LENGTHS}),
    "cosine_restarts": (
        schedules.cosine_restarts,
        {"initial": _HEIGHTS, "num_steps": (5.0, 4.0, 30.0), "factor": (1.0, 1.5, 2.0), "final": (0.0, 0.1, 3.0)},
    ),
    "piecewise_constant": (
        lambda a, b, c, first_steps, more_steps: schedules.piecewise_constant([a, b, c], [first_steps, first_steps + more_steps]),
        {"a": _HEIGHTS, "b": (0.0, 0.3, 0.2), "c": (0.5, 0.1, 4.0), "first_steps": (0.0, 2.0, 7.0), "more_steps": (1.0, 4.0, 20.0)},
    ),
    "join_schedules": (
        lambda peak, warmup_steps, decay_rate: schedules.join_schedules(
            [schedules.linear_schedule(0.0, peak, warmup_steps), schedules.exponential_decay(peak, decay_rate)], [warmup_steps]
        ),
        {"peak": _HEIGHTS, "warmup_steps": (1.0, 5.0, 12.0), "decay_rate": _FACTORS},
    ),
    "delayed": (
        lambda initial, delay_steps, num_steps: schedules.delayed(schedules.cosine_decay(initial, num_steps), delay_steps),
        {"initial": _HEIGHTS, "delay_steps": (0.0, 2.0, 10.0), "num_steps": _LENGTHS},
    ),
}

_LEARNING_RATES = (1e-3, 0.03, 0.2)
_DECAYS = (0.0, 0.5, 0.95)
_SLOW_DECAYS = (0.9, 0.99, 0.999)
_EPS = (0.1, 1e-3, 1e-8)
_ADAM: Numbers = {"learning_rate": _LEARNING_RATES, "b1": _DECAYS, "b2": _SLOW_DECAYS, "eps": _EPS, "eps_root": (1e-2, 1e-4, 0.0)}
_LION: Numbers = {"learning_rate": _LEARNING_RATES, "b1": _DECAYS, "b2": _SLOW_DECAYS, "weight_decay": (0.0, 0.1, 1.0)}


def _with_schedule(learning_rate, num_steps, b1):
    return optimizers.adam(schedules.cosine_decay(learning_rate, num_steps), b1)


def _clipped(max_norm, learning_rate, decay):
    return optimizers.chain(optimizers.clip_by_global_norm(max_norm), optimizers.momentum(learning_rate, decay))


OPTIMIZERS: dict[str, tuple[Callable[..., optimizers.Optimizer], Numbers]] = {
    "sgd": (optimizers.sgd, {"learning_rate": _LEARNING_RATES}),
    "momentum": (optimizers.momentum, {"learning_rate": _LEARNING_RATES, "decay": _DECAYS}),
    "nesterov": (
        lambda learning_rate, decay: optimizers.momentum(learning_rate, decay, nesterov=True),
        {"learning_rate": _LEARNING_RATES, "decay": _DECAYS},
    ),
    "adagrad": (
        optimizers.adagrad,
        {"learning_rate": _LEARNING_RATES, "eps": _EPS, "eps_root": (1e-2, 1e-4, 0.0), "initial_sum": (1.0, 0.1, 0.0)},
    ),
    "rmsprop": (
        optimizers.rmsprop,
        {"learning_rate": _LEARNING_RATES, "decay": _SLOW_DECAYS, "eps": _EPS, "eps_root": (1e-2, 1e-4, 0.0), "momentum": _DECAYS},
    ),
    "adam": (optimizers.adam, _ADAM),
    "adamw": (optimizers.adamw, _ADAM | {"weight_decay": (0.0, 0.1, 1.0)}),
    "adadelta": (optimizers.adadelta, {"learning_rate": _LEARNING_RATES, "rho": _SLOW_DECAYS, "eps": (1e-4, 1e-2, 1e-6)}),
    "nadam": (optimizers.nadam, _ADAM | {"momentum_decay": (0.0, 0.004, 0.1)}),
    "nadam_constant": (optimizers.nadam, _ADAM),
    "lion": (optimizers.lion, _LION),
    "rmsprop_without_momentum": (
        optimizers.rmsprop,
        {"learning_rate": _LEARNING_RATES, "decay": _SLOW_DECAYS, "eps": _EPS, "eps_root": (1e-2, 1e-4, 0.0)},
    ),
    "rmsprop_centered": (
        lambda learning_rate, decay, eps: optimizers.rmsprop(learning_rate, decay, eps, eps_root=1e-4, momentum=0.5, centered=True),
        {"learning_rate": _LEARNING_RATES, "decay": _SLOW_DECAYS, "eps": _EPS},
    ),
    "adam_mu_dtype": (
        lambda learning_rate, b1, b2, eps, eps_root: optimizers.adam(
            learning_rate, b1, b2, eps, eps_root=eps_root, mu_dtype=jnp.result_type(float)
        ),
        _ADAM,
    ),
    "amsgrad": (optimizers.amsgrad, _ADAM),
    "adamax": (optimizers.adamax, {name: _ADAM[name] for name in ("learning_rate", "b1", "b2", "eps")}),
    "adabelief": (optimizers.adabelief, _ADAM | {"eps_root": (1e-3, 1e-2, 0.0)}),  # at less, too steep for differences
    "radam": (optimizers.radam, _ADAM),
    "lamb": (optimizers.lamb, _ADAM | {"weight_decay": (0.0, 0.1, 1.0)}),
    "lars": (
        optimizers.lars,
        {
            "learning_rate": _LEARNING_RATES,
            "momentum": _DECAYS,
            "weight_decay": (0.0, 0.1, 1.0),
            "trust_coefficient": (1e-3, 0.1, 1.0),
            "eps": _EPS,
        },
    ),
    "adafactor": (
        lambda learning_rate, decay_rate, clipping_threshold, eps: optimizers.adafactor(
            learning_rate,
            decay_rate,
            clipping_threshold,
            eps,
            min_dim_size_to_factor=2,  # a matrix is kept as rows and columns
        ),
        {"learning_rate": _LEARNING_RATES, "decay_rate": (0.5, 0.8, 1.0), "clipping_threshold": (0.5, 1.0, 2.0), "eps": _EPS},
    ),
    "clip_by_value": (
        lambda max_value, learning_rate: optimizers.chain(optimizers.clip_by_value(max_value), optimizers.sgd(learning_rate)),
        {"max_value": (0.1, 1.0, 100.0), "learning_rate": _LEARNING_RATES},
    ),
    "adaptive_clip": (
        lambda clipping, eps, learning_rate: optimizers.chain(optimizers.adaptive_clip(clipping, eps), optimizers.sgd(learning_rate)),
        {"clipping": (0.01, 0.5, 10.0), "eps": (1e-3, 0.1, 1.0), "learning_rate": _LEARNING_RATES},
    ),
    "chain": (_clipped, {"max_norm": (0.1, 1.0, 100.0), "learning_rate": _LEARNING_RATES, "decay": _DECAYS}),
    "scheduled": (_with_schedule, {"learning_rate": _LEARNING_RATES, "num_steps": (2.0, 5.0, 50.0), "b1": _DECAYS}),
}


TRACED = ("sgd", "momentum", "adam", "adafactor")  # optimizers that a traced name selects among


def optimizer_params(seed: int = 0, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    return {"weight": jnp.array(draw((3, 2), seed), dtype), "bias": jnp.array(draw((3,), seed + 1), dtype)}
