"""Reference numbers from torch and optax, on inputs that NumPy draws.

    python tests/references/make.py

writes the fixtures beside this file anew; the tests read those and need neither library. Where the libraries are
installed, test_live_references.py computes the same numbers again. A case's `ours` builds the same thing with funcnet:
it is given the module, so that this file needs funcnet no more than the tests need torch.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

HERE = pathlib.Path(__file__).parent
EXAMPLES = 3  # in a layer's batch
STEPS = 100  # of an optimizer
KEPT = np.array([0, 1, 2, 4, 9, 19, 49, 99])  # the steps after which a fixture holds the parameters

Arrays = dict[str, np.ndarray]


# Layers and losses: torch, in float64.


class LayerCase(NamedTuple):
    ours: Callable[[Any], Any]  # funcnet.layers -> Layer
    in_shape: tuple[int, ...]
    params: dict[str, tuple[int, ...]]  # funcnet's names and shapes
    torch: Callable[[Any, Any, Any], Any]  # (torch, params, x with the examples first) -> y
    symbols: int = 0  # x holds integers below this; 0 for floating point


def _pad_2d(torch, x, rows, columns, value=0.0):
    return torch.nn.functional.pad(x, (*columns, *rows), value=value)


_RECURRENT_NAMES = {"input": "weight_ih_l0", "recurrent": "weight_hh_l0", "bias": "bias_ih_l0", "recurrent_bias": "bias_hh_l0"}


def _recurrent(kind: str, inputs: int, width: int, sequence: bool, **settings) -> Callable:
    def run(torch, params, x):
        module = getattr(torch.nn, kind)(inputs, width, batch_first=True, dtype=torch.float64, **settings)
        y, _ = torch.func.functional_call(module, {_RECURRENT_NAMES[name]: value for name, value in params.items()}, (x,))
        return y if sequence else y[:, -1]

    return run


def _recurrent_shapes(gates: int, inputs: int, width: int) -> dict[str, tuple[int, ...]]:
    rows = gates * width
    return {"input": (rows, inputs), "recurrent": (rows, width), "bias": (rows,), "recurrent_bias": (rows,)}


def _recurrent_case(cell: str, kind: str, gates: int, activation: str = "tanh", sequence: bool = False) -> LayerCase:
    settings = {"nonlinearity": activation} if kind == "RNN" else {}
    return LayerCase(
        lambda layers: layers.recurrent(4, cell=cell, activation=activation, return_sequence=sequence),
        (11, 3),  # more steps than the loop's body holds, and no multiple of it
        _recurrent_shapes(gates, 3, 4),
        _recurrent(kind, 3, 4, sequence, **settings),
    )


def _stack_case(cell: str, kind: str, gates: int, depth: int, sequence: bool, both_ways: bool = False) -> LayerCase:
    """A stack of layers, each in one direction or in both, in one module of torch's."""
    inputs, width = 3, 4
    directions = {"forward/": "", "backward/": "_reverse"} if both_ways else {"": ""}
    shapes, names = {}, {}
    for i in range(depth):
        for direction, suffix in directions.items():
            start = f"{i}/{direction}"
            shapes |= {
                start + key: shape for key, shape in _recurrent_shapes(gates, len(directions) * width if i else inputs, width).items()
            }
            names |= {start + key: name.replace("_l0", f"_l{i}{suffix}") for key, name in _RECURRENT_NAMES.items()}

    def run(torch, params, x):
        module = getattr(torch.nn, kind)(inputs, width, depth, batch_first=True, bidirectional=both_ways, dtype=torch.float64)
        y, last = torch.func.functional_call(module, {names[name]: value for name, value in params.items()}, (x,))
        last = last[0] if kind == "LSTM" else last
        return y if sequence else torch.cat([*last[-len(directions) :]], -1)

    def ours(layers):
        each = [layers.recurrent(width, cell=cell, return_sequence=sequence or i < depth - 1) for i in range(depth)]
        return layers.serial(*map(layers.bidirectional, each) if both_ways else each)

    return LayerCase(ours, (3, inputs), shapes, run)


def _attention_shapes(features: int, width: int) -> dict[str, tuple[int, ...]]:
    inputs = {"query": features, "key": features, "value": features, "out": width}
    return {name: (width, size) for name, size in inputs.items()} | {f"{name}_bias": (width,) for name in inputs}


def _attention(heads: int, causal: bool = False, seen: Any = None) -> Callable:
    def run(torch, p, x):
        unseen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if causal else None
        if seen is not None:
            unseen = ~torch.tensor(seen).expand(x.shape[1], x.shape[1])
        x = x.swapaxes(0, 1)
        bias = torch.cat([p["query_bias"], p["key_bias"], p["value_bias"]])
        weights = {f"{name[0]}_proj_weight": p[name] for name in ("query", "key", "value")}
        y, _ = torch.nn.functional.multi_head_attention_forward(
            x, x, x, x.shape[-1], heads, None, bias, None, None, False, 0.0, p["out"], p["out_bias"],
            attn_mask=unseen, need_weights=False, use_separate_proj_weight=True, **weights,
        )  # fmt: skip
        return y.swapaxes(0, 1)

    return run


def _narrow_attention(torch, p, x):
    linear = torch.nn.functional.linear
    split = lambda name: linear(x, p[name], p[f"{name}_bias"]).unflatten(-1, (3, 2)).swapaxes(1, 2)
    found = torch.nn.functional.scaled_dot_product_attention(split("query"), split("key"), split("value"))
    return linear(found.swapaxes(1, 2).flatten(2), p["out"], p["out_bias"])


def _waves(torch, p, x):
    _, time, features = x.shape
    wave = [[(np.sin, np.cos)[i % 2](t / 1e4 ** (i // 2 * 2 / features)) for i in range(features)] for t in range(time)]
    return x + torch.tensor(wave)


def _weight_normed(torch, module, weights, params, names=None):
    """x -> what torch's module makes of it with these weights normed; names are torch's for funcnet's, where they differ."""
    for weight in weights:
        torch.nn.utils.parametrizations.weight_norm(module, weight)
    theirs = {}
    for path, value in params.items():
        kind, name = path.split("/")
        name = (names or {}).get(name, name)
        part = name if name not in weights else f"parametrizations.{name}.original{'10'[kind == 'length']}"
        theirs[part] = value if kind == "direction" else value.reshape(-1, *(1,) * (module.get_parameter(part).ndim - 1))
    return lambda x: torch.func.functional_call(module, theirs, (x,))


_SEEN = np.random.default_rng(3).uniform(size=(6, 6)) < 0.6
_SEEN |= np.eye(6, dtype=bool)  # torch's answer is NaN where nothing is seen


LAYERS: dict[str, LayerCase] = {
    "dense": LayerCase(
        lambda layers: layers.dense(4),
        (5,),
        {"weight": (4, 5), "bias": (4,)},
        lambda torch, p, x: torch.nn.functional.linear(x, p["weight"], p["bias"]),
    ),
    "conv_1d_valid": LayerCase(
        lambda layers: layers.conv(3, 4, padding="VALID"),
        (2, 9),
        {"weight": (3, 2, 4), "bias": (3,)},
        lambda torch, p, x: torch.nn.functional.conv1d(x, p["weight"], p["bias"]),
    ),
    "conv_1d_same_stride": LayerCase(  # 9 outputs / 2 -> 5; 4 + 2 * 4 - 9 = 3 zeros, the larger half after
        lambda layers: layers.conv(3, 4, stride=2, padding="SAME"),
        (2, 9),
        {"weight": (3, 2, 4), "bias": (3,)},
        lambda torch, p, x: torch.nn.functional.conv1d(torch.nn.functional.pad(x, (1, 2)), p["weight"], p["bias"], stride=2),
    ),
    "conv_2d_same": LayerCase(
        lambda layers: layers.conv(3, (3, 2)),
        (2, 5, 6),
        {"weight": (3, 2, 3, 2), "bias": (3,)},
        lambda torch, p, x: torch.nn.functional.conv2d(_pad_2d(torch, x, (1, 1), (0, 1)), p["weight"], p["bias"]),
    ),
    "conv_2d_strides": LayerCase(
        lambda layers: layers.conv(2, 3, stride=(2, 3), padding=(1, 2)),
        (2, 7, 8),
        {"weight": (2, 2, 3, 3), "bias": (2,)},
        lambda torch, p, x: torch.nn.functional.conv2d(x, p["weight"], p["bias"], stride=(2, 3), padding=(1, 2)),
    ),
    "conv_2d_uneven": LayerCase(
        lambda layers: layers.conv(2, (2, 3), stride=2, padding=((0, 1), (2, 0))),
        (1, 6, 6),
        {"weight": (2, 1, 2, 3), "bias": (2,)},
        lambda torch, p, x: torch.nn.functional.conv2d(_pad_2d(torch, x, (0, 1), (2, 0)), p["weight"], p["bias"], stride=2),
    ),
    "max_pool_1d": LayerCase(
        lambda layers: layers.max_pool(3, stride=2, padding=1), (2, 9), {}, lambda torch, p, x: torch.nn.functional.max_pool1d(x, 3, 2, 1)
    ),
    "max_pool_2d": LayerCase(lambda layers: layers.max_pool(2), (2, 6, 7), {}, lambda torch, p, x: torch.nn.functional.max_pool2d(x, 2)),
    "max_pool_2d_overlap": LayerCase(
        lambda layers: layers.max_pool((3, 2), stride=(2, 1), padding="VALID"),
        (2, 7, 6),
        {},
        lambda torch, p, x: torch.nn.functional.max_pool2d(x, (3, 2), (2, 1)),
    ),
    "max_pool_2d_same": LayerCase(
        lambda layers: layers.max_pool(3, stride=2, padding="SAME"),
        (1, 6, 6),
        {},
        lambda torch, p, x: torch.nn.functional.max_pool2d(_pad_2d(torch, x, (0, 1), (0, 1), -torch.inf), 3, 2),
    ),
    "avg_pool_1d": LayerCase(
        lambda layers: layers.avg_pool(3, stride=2, padding=1), (2, 9), {}, lambda torch, p, x: torch.nn.functional.avg_pool1d(x, 3, 2, 1)
    ),
    "avg_pool_2d": LayerCase(
        lambda layers: layers.avg_pool((2, 3)), (2, 6, 7), {}, lambda torch, p, x: torch.nn.functional.avg_pool2d(x, (2, 3))
    ),
    "rnn_tanh": _recurrent_case("rnn", "RNN", 1),
    "rnn_relu": _recurrent_case("rnn", "RNN", 1, "relu", sequence=True),
    "gru": _recurrent_case("gru", "GRU", 3, sequence=True),
    "lstm": _recurrent_case("lstm", "LSTM", 4, sequence=True),
    "layer_norm": LayerCase(
        lambda layers: layers.layer_norm(),
        (6,),
        {"scale": (6,), "bias": (6,)},
        lambda torch, p, x: torch.nn.functional.layer_norm(x, (6,), p["scale"], p["bias"]),
    ),
    "layer_norm_2d": LayerCase(
        lambda layers: layers.layer_norm(eps=0.1),
        (4, 5),
        {"scale": (5,), "bias": (5,)},
        lambda torch, p, x: torch.nn.functional.layer_norm(x, (5,), p["scale"], p["bias"], eps=0.1),
    ),
    "embedding": LayerCase(
        lambda layers: layers.embedding(7, 4),
        (5,),
        {"table": (7, 4)},
        lambda torch, p, x: torch.nn.functional.embedding(x, p["table"]),
        symbols=7,
    ),
}

LAYERS |= {
    "dense_along_time": LayerCase(
        lambda layers: layers.dense(4, leading_axes=1),
        (3, 5),
        {"weight": (4, 5), "bias": (4,)},
        lambda torch, p, x: torch.nn.functional.linear(x, p["weight"], p["bias"]),
    ),
    "dense_along_planes": LayerCase(
        lambda layers: layers.dense(2, leading_axes=2),
        (3, 4, 5),
        {"weight": (2, 5), "bias": (2,)},
        lambda torch, p, x: torch.nn.functional.linear(x, p["weight"], p["bias"]),
    ),
    "conv_3d": LayerCase(
        lambda layers: layers.conv(2, (2, 3, 2), stride=(1, 2, 1), padding=1),
        (2, 3, 5, 4),
        {"weight": (2, 2, 2, 3, 2), "bias": (2,)},
        lambda torch, p, x: torch.nn.functional.conv3d(x, p["weight"], p["bias"], stride=(1, 2, 1), padding=1),
    ),
    "conv_transpose_1d": LayerCase(
        lambda layers: layers.conv_transpose(3, 4, stride=2, padding=1),
        (2, 5),
        {"weight": (3, 2, 4), "bias": (3,)},
        lambda torch, p, x: torch.nn.functional.conv_transpose1d(x, p["weight"].swapaxes(0, 1), p["bias"], stride=2, padding=1),
    ),
    "conv_transpose_2d_valid": LayerCase(  # the second window is shorter than its stride: an output more, which nothing reaches
        lambda layers: layers.conv_transpose(3, (3, 2), stride=(1, 3), padding="VALID"),
        (2, 4, 3),
        {"weight": (3, 2, 3, 2), "bias": (3,)},
        lambda torch, p, x: torch.nn.functional.conv_transpose2d(
            x, p["weight"].swapaxes(0, 1), p["bias"], stride=(1, 3), output_padding=(0, 1)
        ),
    ),
    "conv_transpose_2d_same": LayerCase(  # 2 * 4 + 1 rows without the last
        lambda layers: layers.conv_transpose(2, 3, stride=2),
        (2, 4, 5),
        {"weight": (2, 2, 3, 3), "bias": (2,)},
        lambda torch, p, x: torch.nn.functional.conv_transpose2d(x, p["weight"].swapaxes(0, 1), p["bias"], stride=2)[..., :-1, :-1],
    ),
    "conv_transpose_2d_uneven": LayerCase(  # one more is cut than there is of the window's edge
        lambda layers: layers.conv_transpose(2, (2, 3), stride=2, padding=((2, 0), (1, 3))),
        (2, 4, 5),
        {"weight": (2, 2, 2, 3), "bias": (2,)},
        lambda torch, p, x: torch.nn.functional.conv_transpose2d(x, p["weight"].swapaxes(0, 1), p["bias"], stride=2)[..., 2:, 1:-3],
    ),
    "conv_transpose_3d": LayerCase(
        lambda layers: layers.conv_transpose(2, (2, 1, 3), stride=(2, 1, 2), padding=(0, 0, 1)),
        (2, 3, 2, 3),
        {"weight": (2, 2, 2, 1, 3), "bias": (2,)},
        lambda torch, p, x: torch.nn.functional.conv_transpose3d(
            x, p["weight"].swapaxes(0, 1), p["bias"], stride=(2, 1, 2), padding=(0, 0, 1)
        ),
    ),
    "max_pool_3d": LayerCase(
        lambda layers: layers.max_pool((2, 2, 3)), (2, 4, 5, 6), {}, lambda torch, p, x: torch.nn.functional.max_pool3d(x, (2, 2, 3))
    ),
    "avg_pool_3d": LayerCase(
        lambda layers: layers.avg_pool((2, 1, 2), stride=1),
        (2, 3, 2, 3),
        {},
        lambda torch, p, x: torch.nn.functional.avg_pool3d(x, (2, 1, 2), 1),
    ),
    "global_avg_pool": LayerCase(lambda layers: layers.global_avg_pool(), (3, 4, 5), {}, lambda torch, p, x: x.mean((2, 3))),
    "global_max_pool": LayerCase(lambda layers: layers.global_max_pool(), (3, 2, 3, 2), {}, lambda torch, p, x: x.amax((2, 3, 4))),
    "adaptive_avg_pool_1d": LayerCase(
        lambda layers: layers.adaptive_avg_pool(3), (2, 8), {}, lambda torch, p, x: torch.nn.functional.adaptive_avg_pool1d(x, 3)
    ),
    "adaptive_avg_pool_2d": LayerCase(
        lambda layers: layers.adaptive_avg_pool((3, 7)),
        (2, 7, 5),
        {},
        lambda torch, p, x: torch.nn.functional.adaptive_avg_pool2d(x, (3, 7)),
    ),
    "adaptive_max_pool_2d": LayerCase(
        lambda layers: layers.adaptive_max_pool((3, 2)),
        (2, 7, 5),
        {},
        lambda torch, p, x: torch.nn.functional.adaptive_max_pool2d(x, (3, 2)),
    ),
    "adaptive_max_pool_3d": LayerCase(
        lambda layers: layers.adaptive_max_pool(2), (2, 3, 4, 5), {}, lambda torch, p, x: torch.nn.functional.adaptive_max_pool3d(x, 2)
    ),
    "rms_norm": LayerCase(
        lambda layers: layers.rms_norm(eps=0.1),
        (4, 5),
        {"scale": (5,)},
        lambda torch, p, x: torch.nn.functional.rms_norm(x, (5,), p["scale"], eps=0.1),
    ),
    "group_norm": LayerCase(
        lambda layers: layers.group_norm(2),
        (4, 3, 5),
        {"scale": (4,), "bias": (4,)},
        lambda torch, p, x: torch.nn.functional.group_norm(x, 2, p["scale"], p["bias"]),
    ),
    "group_norm_of_features": LayerCase(
        lambda layers: layers.group_norm(3, eps=0.1),
        (6,),
        {"scale": (6,), "bias": (6,)},
        lambda torch, p, x: torch.nn.functional.group_norm(x, 3, p["scale"], p["bias"], eps=0.1),
    ),
    "weight_norm_of_dense": LayerCase(
        lambda layers: layers.weight_norm(layers.dense(4)),
        (5,),
        {"direction/weight": (4, 5), "direction/bias": (4,), "length/weight": (4,)},
        lambda torch, p, x: _weight_normed(torch, torch.nn.Linear(5, 4, dtype=torch.float64), ["weight"], p)(x),
    ),
    "weight_norm_of_conv": LayerCase(
        lambda layers: layers.weight_norm(layers.conv(4, (3, 2), padding="VALID")),
        (2, 5, 4),
        {"direction/weight": (4, 2, 3, 2), "direction/bias": (4,), "length/weight": (4,)},
        lambda torch, p, x: _weight_normed(torch, torch.nn.Conv2d(2, 4, (3, 2), dtype=torch.float64), ["weight"], p)(x),
    ),
    "weight_norm_of_gru": LayerCase(
        lambda layers: layers.weight_norm(layers.recurrent(4, cell="gru")),
        (5, 3),
        {f"direction/{name}": shape for name, shape in _recurrent_shapes(3, 3, 4).items()}
        | {"length/input": (12,), "length/recurrent": (12,)},
        lambda torch, p, x: _weight_normed(
            torch, torch.nn.GRU(3, 4, batch_first=True, dtype=torch.float64), ["weight_ih_l0", "weight_hh_l0"], p, _RECURRENT_NAMES
        )(x)[0][:, -1],
    ),
    "prelu": LayerCase(
        lambda layers: layers.prelu(), (3, 4), {"slope": ()}, lambda torch, p, x: torch.nn.functional.prelu(x, p["slope"].reshape(1))
    ),
    "prelu_of_channels": LayerCase(
        lambda layers: layers.prelu(shared=False), (3, 4), {"slope": (3,)}, lambda torch, p, x: torch.nn.functional.prelu(x, p["slope"])
    ),
    "softmax": LayerCase(lambda layers: layers.softmax(), (3, 5), {}, lambda torch, p, x: torch.softmax(x, -1)),
    "attention": LayerCase(lambda layers: layers.attention(2), (6, 4), _attention_shapes(4, 4), _attention(2)),
    "attention_causal": LayerCase(
        lambda layers: layers.attention(2, causal=True), (6, 4), _attention_shapes(4, 4), _attention(2, causal=True)
    ),
    "attention_masked": LayerCase(
        lambda layers: layers.attention(2, mask=_SEEN), (6, 4), _attention_shapes(4, 4), _attention(2, seen=_SEEN)
    ),
    "attention_without_padding": LayerCase(
        lambda layers: layers.attention(1, mask=lambda x: (x[:, 0] == x[:, 0])[None] & (np.arange(6) < 4)[None]),
        (6, 4),
        _attention_shapes(4, 4),
        _attention(1, seen=np.arange(6)[None] < 4),
    ),
    "attention_narrow": LayerCase(lambda layers: layers.attention(3, width=6), (5, 4), _attention_shapes(4, 6), _narrow_attention),
    "positional_encoding": LayerCase(lambda layers: layers.positional_encoding(), (7, 5), {}, _waves),
    "positional_embedding": LayerCase(
        lambda layers: layers.positional_embedding(), (4, 3), {"table": (4, 3)}, lambda torch, p, x: x + p["table"]
    ),
    "rnn_both_ways": _stack_case("rnn", "RNN", 1, 1, sequence=True, both_ways=True),
    "gru_both_ways": _stack_case("gru", "GRU", 3, 2, sequence=True, both_ways=True),
    "lstm_both_ways": _stack_case("lstm", "LSTM", 4, 2, sequence=False, both_ways=True),
    "rnn_stacked": _stack_case("rnn", "RNN", 1, 2, sequence=True),
    "gru_stacked": _stack_case("gru", "GRU", 3, 2, sequence=False),
    "lstm_stacked": _stack_case("lstm", "LSTM", 4, 2, sequence=True),
}


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))


def layer_inputs(name: str) -> Arrays:
    """x with the examples first, and "params/<name>"."""
    case, rng = LAYERS[name], _rng(name)
    shape = (EXAMPLES, *case.in_shape)
    mean = -2 if "max_pool" in name else 0  # below zero, so that a padding of zeros would be the largest
    x = rng.integers(0, case.symbols, shape) if case.symbols else rng.normal(mean, 1, shape)
    return {"x": x} | {f"params/{key}": 0.7 * rng.normal(size=shape) for key, shape in case.params.items()}


def cotangent(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of the sum whose gradient is taken: no two outputs count the same."""
    return _rng(name + "/cotangent").normal(size=shape)


def torch_layer(name: str) -> Arrays:
    """y, and the gradient of sum(cotangent * y) in x ("dx") and in each of the params ("d<name>")."""
    import torch

    inputs = {key: torch.tensor(value) for key, value in layer_inputs(name).items()}
    for value in inputs.values():
        value.requires_grad_(value.is_floating_point())
    x = inputs["x"]
    params = {key.removeprefix("params/"): value for key, value in inputs.items() if key != "x"}
    y = LAYERS[name].torch(torch, params, x)
    wanted = {f"d{key}": value for key, value in {"x": x, **params}.items() if value.requires_grad}
    grads = torch.autograd.grad((torch.tensor(cotangent(name, tuple(y.shape))) * y).sum(), list(wanted.values()))
    return {"y": y.detach().numpy()} | {key: grad.numpy() for key, grad in zip(wanted, grads, strict=True)}


class LossCase(NamedTuple):
    ours: Callable[[Any], Callable]  # funcnet.losses -> (prediction, target) -> scalar
    torch: Callable[[Any, Any, Any], Any]  # (torch.nn.functional, predictions, targets) -> the mean over the examples
    target: str  # what targets are, by the names in loss_inputs


LOSSES: dict[str, LossCase] = {
    "squared_error": LossCase(lambda losses: losses.squared_error, lambda F, p, t: F.mse_loss(p, t), "like"),
    "absolute_error": LossCase(lambda losses: losses.absolute_error, lambda F, p, t: F.l1_loss(p, t), "like"),
    "huber": LossCase(lambda losses: losses.huber, lambda F, p, t: F.huber_loss(p, t), "like"),
    "huber_delta": LossCase(
        lambda losses: lambda p, t: losses.huber(p, t, delta=0.3), lambda F, p, t: F.huber_loss(p, t, delta=0.3), "like"
    ),
    "cross_entropy": LossCase(lambda losses: losses.cross_entropy, lambda F, p, t: F.cross_entropy(p, t), "label"),
    "cross_entropy_soft": LossCase(lambda losses: losses.cross_entropy, lambda F, p, t: F.cross_entropy(p, t), "distribution"),
    "binary_cross_entropy": LossCase(
        lambda losses: losses.binary_cross_entropy, lambda F, p, t: F.binary_cross_entropy_with_logits(p, t), "share"
    ),
    "cross_entropy_smoothed": LossCase(
        lambda losses: lambda p, t: losses.cross_entropy(p, t, label_smoothing=0.1),
        lambda F, p, t: F.cross_entropy(p, t, label_smoothing=0.1),
        "label",
    ),
    "cross_entropy_soft_smoothed": LossCase(
        lambda losses: lambda p, t: losses.cross_entropy(p, t, label_smoothing=0.3),
        lambda F, p, t: F.cross_entropy(p, t, label_smoothing=0.3),
        "distribution",
    ),
    "cross_entropy_sequence": LossCase(
        lambda losses: lambda p, t: losses.cross_entropy(p.reshape(2, 2), t),
        lambda F, p, t: F.cross_entropy(p.reshape(6, 2, 2).swapaxes(1, 2), t),
        "labels of two",
    ),
    "kl_divergence": LossCase(
        lambda losses: losses.kl_divergence, lambda F, p, t: F.kl_div(F.log_softmax(p, -1), t, reduction="batchmean"), "distribution"
    ),
    "poisson": LossCase(lambda losses: losses.poisson, lambda F, p, t: F.poisson_nll_loss(p, t, log_input=True), "count"),
    "cosine_distance": LossCase(lambda losses: losses.cosine_distance, lambda F, p, t: (1 - F.cosine_similarity(p, t)).mean(), "like"),
    "focal": LossCase(  # torch has no focal loss of its own: the paper's formula
        lambda losses: losses.focal,
        lambda F, p, t: ((1 - (-F.cross_entropy(p, t, reduction="none")).exp()) ** 2 * F.cross_entropy(p, t, reduction="none")).mean(),
        "label",
    ),
    "focal_binary": LossCase(
        lambda losses: lambda p, t: losses.focal(p, t, gamma=1.5, alpha=0.25),
        lambda F, p, t: (
            (0.25 * t + 0.75 * (1 - t))
            * (1 - (-F.binary_cross_entropy_with_logits(p, t, reduction="none")).exp()) ** 1.5
            * F.binary_cross_entropy_with_logits(p, t, reduction="none")
        ).mean(),
        "side",
    ),
}


def loss_inputs(name: str) -> Arrays:
    rng = _rng(name)
    prediction = 2 * rng.normal(size=(6, 4))
    target = {
        "like": lambda: rng.normal(size=(6, 4)),
        "label": lambda: rng.integers(0, 4, 6),
        "distribution": lambda: rng.dirichlet(np.ones(4), 6),
        "share": lambda: rng.uniform(size=(6, 4)),
        "labels of two": lambda: rng.integers(0, 2, (6, 2)),
        "count": lambda: rng.poisson(2.0, (6, 4)).astype(np.float64),
        "side": lambda: rng.integers(0, 2, (6, 4)).astype(np.float64),
    }[LOSSES[name].target]()
    return {"prediction": prediction, "target": target}


def torch_loss(name: str) -> Arrays:
    """The mean loss ("loss") and its gradient in the predictions ("dprediction")."""
    import torch

    inputs = loss_inputs(name)
    prediction = torch.tensor(inputs["prediction"], requires_grad=True)
    loss = LOSSES[name].torch(torch.nn.functional, prediction, torch.tensor(inputs["target"]))
    (grad,) = torch.autograd.grad(loss, [prediction])
    return {"loss": loss.detach().numpy(), "dprediction": grad.numpy()}


# Schedules: optax, in float64.


class ScheduleCase(NamedTuple):
    ours: Callable[[Any], Callable]  # funcnet.schedules -> schedule
    optax: Callable[[Any], Callable]


SCHEDULES: dict[str, ScheduleCase] = {
    "constant_schedule": ScheduleCase(lambda s: s.constant_schedule(0.3), lambda optax: optax.constant_schedule(0.3)),
    "linear_schedule": ScheduleCase(lambda s: s.linear_schedule(0.1, 0.9, 20), lambda optax: optax.linear_schedule(0.1, 0.9, 20)),
    "exponential_decay": ScheduleCase(
        lambda s: s.exponential_decay(0.5, 0.8, 7), lambda optax: optax.exponential_decay(0.5, transition_steps=7, decay_rate=0.8)
    ),
    "step_decay": ScheduleCase(
        lambda s: s.step_decay(0.5, 0.8, 7), lambda optax: optax.exponential_decay(0.5, transition_steps=7, decay_rate=0.8, staircase=True)
    ),
    "cosine_decay": ScheduleCase(
        lambda s: s.cosine_decay(0.5, 30, final=0.05), lambda optax: optax.cosine_decay_schedule(0.5, 30, alpha=0.1)
    ),
    "warmup_cosine_decay": ScheduleCase(
        lambda s: s.warmup_cosine_decay(0.5, 8, 30, initial=0.1, final=0.02),
        lambda optax: optax.warmup_cosine_decay_schedule(0.1, 0.5, warmup_steps=8, decay_steps=30, end_value=0.02),
    ),
    "one_cycle": ScheduleCase(lambda s: s.one_cycle(0.5, 40), lambda optax: optax.cosine_onecycle_schedule(40, 0.5)),
    "one_cycle_factors": ScheduleCase(
        lambda s: s.one_cycle(0.5, 40, 0.25, 10.0, 100.0), lambda optax: optax.cosine_onecycle_schedule(40, 0.5, 0.25, 10.0, 100.0)
    ),
    "polynomial_decay": ScheduleCase(
        lambda s: s.polynomial_decay(0.5, 30, 2.5, 0.05), lambda optax: optax.polynomial_schedule(0.5, 0.05, 2.5, 30)
    ),
    "polynomial_decay_slow": ScheduleCase(
        lambda s: s.polynomial_decay(0.5, 30, 0.4), lambda optax: optax.polynomial_schedule(0.5, 0.0, 0.4, 30)
    ),
    "exponential_growth": ScheduleCase(
        lambda s: s.exponential_growth(1e-3, 2.0, 40),
        lambda optax: optax.exponential_decay(1e-3, transition_steps=40, decay_rate=2e3, end_value=2.0),
    ),
    "cosine_restarts": ScheduleCase(
        lambda s: s.cosine_restarts(0.5, 6, 2, 0.05),
        lambda optax: optax.sgdr_schedule(
            [{"init_value": 0.5, "peak_value": 0.5, "warmup_steps": 0, "decay_steps": n, "end_value": 0.05} for n in (6, 12, 24, 48)]
        ),
    ),
    "cosine_restarts_even": ScheduleCase(
        lambda s: s.cosine_restarts(0.5, 7),
        lambda optax: optax.sgdr_schedule([{"init_value": 0.5, "peak_value": 0.5, "warmup_steps": 0, "decay_steps": 7}] * 8),
    ),
    "piecewise_constant": ScheduleCase(
        lambda s: s.piecewise_constant([0.5, 0.05, 0.02], [10, 25]),
        lambda optax: optax.piecewise_constant_schedule(0.5, {10: 0.1, 25: 0.4}),
    ),
    "join_schedules": ScheduleCase(
        lambda s: s.join_schedules([s.linear_schedule(0.0, 0.5, 8), s.cosine_decay(0.5, 20), s.constant_schedule(0.1)], [8, 31]),
        lambda optax: optax.join_schedules(
            [optax.linear_schedule(0.0, 0.5, 8), optax.cosine_decay_schedule(0.5, 20), optax.constant_schedule(0.1)], [8, 31]
        ),
    ),
    "delayed": ScheduleCase(
        lambda s: s.delayed(s.polynomial_decay(0.5, 20, 2.0), 11), lambda optax: optax.polynomial_schedule(0.5, 0.0, 2.0, 20, 11)
    ),
}
SCHEDULE_STEPS = np.arange(50)  # each schedule's end and some steps beyond


@contextlib.contextmanager
def _optax_in(dtype: str) -> Iterator[Any]:
    """optax, under JAX's usual promotion of dtypes and ranks, which the tests make stricter, in the precision asked for."""
    import jax
    import optax

    with jax.enable_x64(dtype in ("float64", "complex128")), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield optax


def optax_schedule(name: str) -> Arrays:
    with _optax_in("float64") as optax:
        schedule = SCHEDULES[name].optax(optax)
        return {"values": np.array([schedule(np.float64(step)) for step in SCHEDULE_STEPS], np.float64)}


# Optimizers: both libraries, both precisions.


class OptimizerCase(NamedTuple):
    """One setting in funcnet and in the library that has it. Where eps sits differs between the two, hence two cases."""

    ours: Callable[[Any], Any]  # funcnet.optimizers -> Optimizer
    theirs: Callable[[Any], Any]  # optax -> GradientTransformation, or torch.optim -> (parameters -> Optimizer)
    rate: Callable[[Any], Any] | None = None  # the schedule of a torch optimizer, which has a learning rate of 1


def _falling(step: Any) -> Any:
    """A schedule that all take."""
    return 0.1 / (2.0 + step.astype(float))


def _rounding(optax: Any, optimizer: Any, dtype: str) -> Any:
    """The optimizer, whose mean is rounded when it is kept. With optax's own mu_dtype, b1 times the mean is rounded once more."""
    import jax

    def update(grads, state, params=None):
        updates, state = optimizer.update(grads, state, params)
        mean = jax.tree.map(lambda m: m.astype(dtype).astype(m.dtype), optax.tree_utils.tree_get(state, "mu"))
        return updates, optax.tree_utils.tree_set(state, mu=mean)

    return optax.GradientTransformation(optimizer.init, update)


def _adafactor(
    optax: Any, rate: Any, power: float = 0.8, limit: float = 1.0, eps: float = 1e-30, shortest: int = 128, scaled: bool = True
) -> Any:
    """optax.adafactor of its parts, since that takes its decay in float32 always."""
    decay = lambda step, power: 1 - (step.astype(float) + 1) ** -power
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=power, min_dim_size_to_factor=shortest, epsilon=eps, decay_rate_fn=decay),
        optax.clip_by_block_rms(limit),
        optax.scale_by_learning_rate(rate, flip_sign=False),
        optax.scale_by_param_block_rms() if scaled else optax.identity(),
        optax.scale(-1),
    )


OPTAX: dict[str, OptimizerCase] = {
    "sgd": OptimizerCase(lambda o: o.sgd(0.1), lambda optax: optax.sgd(0.1)),
    "momentum": OptimizerCase(lambda o: o.momentum(0.05), lambda optax: optax.sgd(0.05, momentum=0.9)),
    "nesterov": OptimizerCase(lambda o: o.momentum(0.05, 0.8, nesterov=True), lambda optax: optax.sgd(0.05, momentum=0.8, nesterov=True)),
    "adagrad": OptimizerCase(lambda o: o.adagrad(0.1, 0.0, eps_root=1e-7, initial_sum=0.1), lambda optax: optax.adagrad(0.1)),
    "rmsprop": OptimizerCase(lambda o: o.rmsprop(0.01, eps=0.0, eps_root=1e-8), lambda optax: optax.rmsprop(0.01)),
    "rmsprop_eps": OptimizerCase(
        lambda o: o.rmsprop(0.01, 0.95, 1e-3), lambda optax: optax.rmsprop(0.01, decay=0.95, eps=1e-3, eps_in_sqrt=False)
    ),
    "adam": OptimizerCase(lambda o: o.adam(0.01), lambda optax: optax.adam(0.01)),
    "adam_constants": OptimizerCase(
        lambda o: o.adam(0.02, 0.8, 0.95, 1e-2, eps_root=1e-3), lambda optax: optax.adam(0.02, 0.8, 0.95, 1e-2, eps_root=1e-3)
    ),
    "adamw": OptimizerCase(lambda o: o.adamw(0.01, weight_decay=0.1), lambda optax: optax.adamw(0.01, weight_decay=0.1)),
    "adadelta": OptimizerCase(lambda o: o.adadelta(0.5), lambda optax: optax.adadelta(0.5)),
    "nadam": OptimizerCase(lambda o: o.nadam(0.01), lambda optax: optax.nadam(0.01)),
    "lion": OptimizerCase(lambda o: o.lion(0.01, weight_decay=1e-3), lambda optax: optax.lion(0.01)),
    "clip_by_global_norm": OptimizerCase(
        lambda o: o.chain(o.clip_by_global_norm(1.5), o.momentum(0.1)),
        lambda optax: optax.chain(optax.clip_by_global_norm(1.5), optax.sgd(0.1, momentum=0.9)),
    ),
    "rmsprop_momentum": OptimizerCase(
        lambda o: o.rmsprop(0.01, eps=0.0, eps_root=1e-8, momentum=0.8), lambda optax: optax.rmsprop(0.01, momentum=0.8)
    ),
    "rmsprop_centered": OptimizerCase(
        lambda o: o.rmsprop(0.01, eps=0.0, eps_root=1e-3, centered=True), lambda optax: optax.rmsprop(0.01, eps=1e-3, centered=True)
    ),
    "adam_mu_dtype": OptimizerCase(
        lambda o: o.adam(0.01, mu_dtype="bfloat16"), lambda optax: _rounding(optax, optax.adam(0.01), "bfloat16")
    ),
    "adamw_mu_dtype": OptimizerCase(
        lambda o: o.adamw(0.01, mu_dtype="float16"), lambda optax: _rounding(optax, optax.adamw(0.01, weight_decay=0.01), "float16")
    ),
    "nadam_mu_dtype": OptimizerCase(
        lambda o: o.nadam(0.01, mu_dtype="bfloat16"), lambda optax: _rounding(optax, optax.nadam(0.01), "bfloat16")
    ),
    "lion_mu_dtype": OptimizerCase(
        lambda o: o.lion(0.01, mu_dtype="bfloat16"), lambda optax: _rounding(optax, optax.lion(0.01, weight_decay=0.0), "bfloat16")
    ),
    "amsgrad": OptimizerCase(lambda o: o.amsgrad(0.01), lambda optax: optax.amsgrad(0.01)),
    "amsgrad_mu_dtype": OptimizerCase(
        lambda o: o.amsgrad(0.02, 0.8, 0.95, 1e-2, mu_dtype="bfloat16"),
        lambda optax: _rounding(optax, optax.amsgrad(0.02, 0.8, 0.95, 1e-2), "bfloat16"),
    ),
    "adamax": OptimizerCase(lambda o: o.adamax(0.01), lambda optax: optax.adamax(0.01)),
    "adabelief": OptimizerCase(lambda o: o.adabelief(0.01), lambda optax: optax.adabelief(0.01)),
    "adabelief_constants": OptimizerCase(
        lambda o: o.adabelief(0.02, 0.8, 0.95, 1e-2, eps_root=1e-3), lambda optax: optax.adabelief(0.02, 0.8, 0.95, 1e-2, eps_root=1e-3)
    ),
    "radam": OptimizerCase(  # with b2 nearer to one, optax's count of gradients loses its digits in float32, and torch's doesn't
        lambda o: o.radam(0.01, b2=0.99), lambda optax: optax.radam(0.01, b2=0.99)
    ),
    "radam_constants": OptimizerCase(
        lambda o: o.radam(0.02, 0.8, 0.95, 1e-2, eps_root=1e-3), lambda optax: optax.radam(0.02, 0.8, 0.95, 1e-2, eps_root=1e-3)
    ),
    "lamb": OptimizerCase(lambda o: o.lamb(0.02, weight_decay=0.1), lambda optax: optax.lamb(0.02, weight_decay=0.1)),
    "lamb_constants": OptimizerCase(
        lambda o: o.lamb(0.02, 0.8, 0.95, 1e-2, eps_root=1e-3), lambda optax: optax.lamb(0.02, 0.8, 0.95, 1e-2, eps_root=1e-3)
    ),
    "lars": OptimizerCase(
        lambda o: o.lars(0.5, weight_decay=0.1, trust_coefficient=0.1),
        lambda optax: optax.lars(0.5, weight_decay=0.1, trust_coefficient=0.1),
    ),
    "lars_nesterov": OptimizerCase(
        lambda o: o.lars(0.5, 0.8, trust_coefficient=0.1, eps=0.2, nesterov=True, decay_where=lambda leaf: leaf.ndim > 1),
        lambda optax: optax.lars(
            0.5,
            trust_coefficient=0.1,
            eps=0.2,
            momentum=0.8,
            nesterov=True,
            trust_ratio_mask={"weight": True, "bias": False},
        ),
    ),
    "adafactor": OptimizerCase(lambda o: o.adafactor(0.02), lambda optax: _adafactor(optax, 0.02)),
    "adafactor_of_rows_and_columns": OptimizerCase(
        lambda o: o.adafactor(0.02, 0.7, 0.5, 1e-3, min_dim_size_to_factor=2, multiply_by_parameter_scale=False),
        lambda optax: _adafactor(optax, 0.02, 0.7, 0.5, 1e-3, shortest=2, scaled=False),
    ),
    "adafactor_of_rows_and_columns_scaled": OptimizerCase(
        lambda o: o.adafactor(0.02, min_dim_size_to_factor=2), lambda optax: _adafactor(optax, 0.02, shortest=2)
    ),
    "clip_by_value": OptimizerCase(
        lambda o: o.chain(o.clip_by_value(0.7), o.momentum(0.1)), lambda optax: optax.chain(optax.clip(0.7), optax.sgd(0.1, momentum=0.9))
    ),
    "adaptive_clip": OptimizerCase(
        lambda o: o.chain(o.adaptive_clip(0.3, 0.1), o.momentum(0.1)),
        lambda optax: optax.chain(
            optax.masked(optax.adaptive_grad_clip(0.3, 0.1, axis=1), {"weight": True, "bias": False}),
            optax.masked(optax.adaptive_grad_clip(0.3, 0.1), {"weight": False, "bias": True}),
            optax.sgd(0.1, momentum=0.9),
        ),
    ),
    "sgd_of_a_schedule": OptimizerCase(lambda o: o.sgd(_falling), lambda optax: optax.sgd(_falling)),
    "momentum_of_a_schedule": OptimizerCase(lambda o: o.momentum(_falling), lambda optax: optax.sgd(_falling, momentum=0.9)),
    "nesterov_of_a_schedule": OptimizerCase(
        lambda o: o.momentum(_falling, 0.8, nesterov=True), lambda optax: optax.sgd(_falling, momentum=0.8, nesterov=True)
    ),
    "adagrad_of_a_schedule": OptimizerCase(
        lambda o: o.adagrad(_falling, 0.0, eps_root=1e-7, initial_sum=0.1), lambda optax: optax.adagrad(_falling)
    ),
    "rmsprop_of_a_schedule": OptimizerCase(lambda o: o.rmsprop(_falling, eps=0.0, eps_root=1e-8), lambda optax: optax.rmsprop(_falling)),
    "adam_of_a_schedule": OptimizerCase(lambda o: o.adam(_falling), lambda optax: optax.adam(_falling)),
    "adamw_of_a_schedule": OptimizerCase(
        lambda o: o.adamw(_falling, weight_decay=0.1), lambda optax: optax.adamw(_falling, weight_decay=0.1)
    ),
    "adadelta_of_a_schedule": OptimizerCase(lambda o: o.adadelta(_falling), lambda optax: optax.adadelta(_falling)),
    "nadam_of_a_schedule": OptimizerCase(lambda o: o.nadam(_falling), lambda optax: optax.nadam(_falling)),
    "lion_of_a_schedule": OptimizerCase(lambda o: o.lion(_falling, weight_decay=0.1), lambda optax: optax.lion(_falling, weight_decay=0.1)),
    "amsgrad_of_a_schedule": OptimizerCase(lambda o: o.amsgrad(_falling), lambda optax: optax.amsgrad(_falling)),
    "adamax_of_a_schedule": OptimizerCase(lambda o: o.adamax(_falling), lambda optax: optax.adamax(_falling)),
    "adabelief_of_a_schedule": OptimizerCase(lambda o: o.adabelief(_falling), lambda optax: optax.adabelief(_falling)),
    "radam_of_a_schedule": OptimizerCase(lambda o: o.radam(_falling), lambda optax: optax.radam(_falling)),
    "lamb_of_a_schedule": OptimizerCase(lambda o: o.lamb(_falling), lambda optax: optax.lamb(_falling)),
    "lars_of_a_schedule": OptimizerCase(
        lambda o: o.lars(_falling, trust_coefficient=0.1), lambda optax: optax.lars(_falling, trust_coefficient=0.1)
    ),
    "adafactor_of_a_schedule": OptimizerCase(lambda o: o.adafactor(_falling), lambda optax: _adafactor(optax, _falling)),
}

TORCH: dict[str, OptimizerCase] = {
    "sgd": OptimizerCase(lambda o: o.sgd(0.1), lambda optim: lambda p: optim.SGD(p, 0.1)),
    "momentum": OptimizerCase(lambda o: o.momentum(0.05), lambda optim: lambda p: optim.SGD(p, 0.05, momentum=0.9)),
    "nesterov": OptimizerCase(
        lambda o: o.momentum(0.05, 0.8, nesterov=True), lambda optim: lambda p: optim.SGD(p, 0.05, momentum=0.8, nesterov=True)
    ),
    "adagrad": OptimizerCase(lambda o: o.adagrad(0.1), lambda optim: lambda p: optim.Adagrad(p, 0.1)),
    "adagrad_constants": OptimizerCase(
        lambda o: o.adagrad(0.1, 1e-2, initial_sum=0.2),
        lambda optim: lambda p: optim.Adagrad(p, 0.1, eps=1e-2, initial_accumulator_value=0.2),
    ),
    "rmsprop": OptimizerCase(lambda o: o.rmsprop(0.01, 0.99), lambda optim: lambda p: optim.RMSprop(p, 0.01)),
    "rmsprop_momentum": OptimizerCase(
        lambda o: o.rmsprop(0.01, 0.99, momentum=0.8), lambda optim: lambda p: optim.RMSprop(p, 0.01, momentum=0.8)
    ),
    "rmsprop_centered": OptimizerCase(
        lambda o: o.rmsprop(0.01, 0.95, 1e-3, momentum=0.8, centered=True),
        lambda optim: lambda p: optim.RMSprop(p, 0.01, 0.95, 1e-3, momentum=0.8, centered=True),
    ),
    "rmsprop_momentum_of_a_schedule": OptimizerCase(
        lambda o: o.rmsprop(_falling, 0.99, momentum=0.8), lambda optim: lambda p: optim.RMSprop(p, 1.0, momentum=0.8), _falling
    ),
    "adamax": OptimizerCase(lambda o: o.adamax(0.01), lambda optim: lambda p: optim.Adamax(p, 0.01)),
    "radam": OptimizerCase(  # torch's eps is added before v is corrected
        lambda o: o.radam(0.01, eps=0.0), lambda optim: lambda p: optim.RAdam(p, 0.01, eps=0.0)
    ),
    "adam": OptimizerCase(lambda o: o.adam(0.01), lambda optim: lambda p: optim.Adam(p, 0.01)),
    "adam_constants": OptimizerCase(
        lambda o: o.adam(0.02, 0.8, 0.95, 1e-2), lambda optim: lambda p: optim.Adam(p, 0.02, betas=(0.8, 0.95), eps=1e-2)
    ),
    "adamw": OptimizerCase(lambda o: o.adamw(0.01), lambda optim: lambda p: optim.AdamW(p, 0.01)),
    "adadelta": OptimizerCase(lambda o: o.adadelta(), lambda optim: lambda p: optim.Adadelta(p)),
    "nadam": OptimizerCase(lambda o: o.nadam(0.01, momentum_decay=0.004), lambda optim: lambda p: optim.NAdam(p, 0.01)),
    "sgd_of_a_schedule": OptimizerCase(lambda o: o.sgd(_falling), lambda optim: lambda p: optim.SGD(p, 1.0), _falling),
    "momentum_of_a_schedule": OptimizerCase(
        lambda o: o.momentum(_falling), lambda optim: lambda p: optim.SGD(p, 1.0, momentum=0.9), _falling
    ),
    "nesterov_of_a_schedule": OptimizerCase(
        lambda o: o.momentum(_falling, 0.8, nesterov=True), lambda optim: lambda p: optim.SGD(p, 1.0, momentum=0.8, nesterov=True), _falling
    ),
    "adagrad_of_a_schedule": OptimizerCase(lambda o: o.adagrad(_falling), lambda optim: lambda p: optim.Adagrad(p, 1.0), _falling),
    "rmsprop_of_a_schedule": OptimizerCase(lambda o: o.rmsprop(_falling, 0.99), lambda optim: lambda p: optim.RMSprop(p, 1.0), _falling),
    "adam_of_a_schedule": OptimizerCase(lambda o: o.adam(_falling), lambda optim: lambda p: optim.Adam(p, 1.0), _falling),
    "adamw_of_a_schedule": OptimizerCase(
        lambda o: o.adamw(_falling, weight_decay=0.1), lambda optim: lambda p: optim.AdamW(p, 1.0, weight_decay=0.1), _falling
    ),
    "adadelta_of_a_schedule": OptimizerCase(lambda o: o.adadelta(_falling), lambda optim: lambda p: optim.Adadelta(p, 1.0), _falling),
    "adamax_of_a_schedule": OptimizerCase(lambda o: o.adamax(_falling), lambda optim: lambda p: optim.Adamax(p, 1.0), _falling),
    "radam_of_a_schedule": OptimizerCase(
        lambda o: o.radam(_falling, eps=0.0), lambda optim: lambda p: optim.RAdam(p, 1.0, eps=0.0), _falling
    ),
    "nadam_of_a_schedule": OptimizerCase(
        lambda o: o.nadam(_falling, momentum_decay=0.004), lambda optim: lambda p: optim.NAdam(p, 1.0), _falling
    ),
}


def takes_complex(name: str) -> bool:
    """optax's rules for these know real numbers only."""
    return not name.startswith(("lion", "adadelta", "adamax", "adafactor", "clip_by_value")) and not name.endswith("mu_dtype")


def descent_inputs() -> Arrays:
    """A bowl and the noise on its slope: params {"weight": (2, 3), "bias": (3,)}, gradient = curvature * params + noise."""
    rng = _rng("descent")
    shapes = {"weight": (2, 3), "bias": (3,)}
    return {
        f"{what}/{key}": draw(shape)
        for key, shape in shapes.items()
        for what, draw in {
            "params": lambda shape: 2 * rng.normal(size=shape),
            "curvature": lambda shape: rng.uniform(0.5, 2, size=shape),
            "noise": lambda shape: rng.normal(size=(STEPS, *shape)),
        }.items()
    }


def descent(dtype: str, asarray: Callable[[np.ndarray], Any]) -> tuple[Any, Callable[[Any, Any], Any]]:
    """The initial params and gradient(params, step), as arrays of any library."""
    inputs = {}
    for key, value in descent_inputs().items():
        if "complex" in dtype and "curvature" not in key:
            value = value + 0.5j * np.flip(value)  # the imaginary parts are others than the real ones
        inputs[key] = asarray(value.astype(dtype))
    params = {"weight": inputs["params/weight"], "bias": inputs["params/bias"]}
    return params, lambda p, step: {key: inputs[f"curvature/{key}"] * p[key] + inputs[f"noise/{key}"][step] for key in p}


def optax_descent(name: str, dtype: str) -> Arrays:
    with _optax_in(dtype) as optax:
        return jax_descent(OPTAX[name].theirs(optax), dtype)


def jax_descent(optimizer: Any, dtype: str) -> Arrays:
    """The params after each of the kept steps, for anything with init and update."""
    import jax

    params, gradient = descent(dtype, jax.numpy.asarray)

    def one(carry, step):
        params, state = carry
        updates, state = optimizer.update(gradient(params, step), state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
        return (params, state), params

    _, path = jax.jit(lambda: jax.lax.scan(one, (params, optimizer.init(params)), jax.numpy.arange(STEPS)))()
    return {key: np.asarray(value)[KEPT] for key, value in path.items()}


def torch_descent(name: str, dtype: str) -> Arrays:
    import torch

    usual = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))  # NAdam keeps the product of its momenta in it
    try:
        return _torch_descent(torch, name, dtype)
    finally:
        torch.set_default_dtype(usual)


def _torch_descent(torch: Any, name: str, dtype: str) -> Arrays:
    start, gradient = descent(dtype, torch.tensor)
    params = {key: value.requires_grad_() for key, value in start.items()}
    case = TORCH[name]
    optimizer = case.theirs(torch.optim)(list(params.values()))
    schedule = None if case.rate is None else torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(case.rate(np.int64(step))))
    path: dict[str, list[np.ndarray]] = {key: [] for key in params}
    for step in range(STEPS):
        with torch.no_grad():
            for key, grad in gradient(params, step).items():
                params[key].grad = grad
        optimizer.step()
        if schedule is not None:
            schedule.step()
        for key, value in params.items():
            path[key].append(value.detach().numpy().copy())
    return {key: np.stack(values)[KEPT] for key, values in path.items()}


# The files.


def compute() -> dict[str, Callable[[], Arrays]]:
    """Every reference by name: what makes it. The name's first part is its file."""
    makers: dict[str, Callable[[], Arrays]] = {}
    makers |= {f"layers/{name}": lambda name=name: torch_layer(name) for name in LAYERS}
    makers |= {f"losses/{name}": lambda name=name: torch_loss(name) for name in LOSSES}
    makers |= {f"schedules/{name}": lambda name=name: optax_schedule(name) for name in SCHEDULES}
    for dtype in ("float64", "float32"):
        makers |= {f"optax/{name}/{dtype}": lambda name=name, dtype=dtype: optax_descent(name, dtype) for name in OPTAX}
        makers |= {f"torch/{name}/{dtype}": lambda name=name, dtype=dtype: torch_descent(name, dtype) for name in TORCH}
    makers |= {f"optax/{name}/complex128": lambda name=name: optax_descent(name, "complex128") for name in OPTAX if takes_complex(name)}
    return makers


def load(name: str) -> Arrays:
    """One reference from its file."""
    file, _, prefix = name.partition("/")
    with np.load(HERE / f"{file}.npz", allow_pickle=False) as arrays:
        found = {key.removeprefix(prefix + "/"): arrays[key] for key in arrays.files if key.startswith(prefix + "/")}
    if not found:
        raise KeyError(f"{name} is not in {file}.npz; run this file")
    return found


def main() -> None:
    files: dict[str, Arrays] = {}
    for name, make in compute().items():
        file, _, prefix = name.partition("/")
        files.setdefault(file, {}).update({f"{prefix}/{key}": value for key, value in make().items()})
    for file, arrays in files.items():
        np.savez_compressed(HERE / f"{file}.npz", **arrays)
        print(f"{file}.npz: {len(arrays)} arrays")


if __name__ == "__main__":
    main()
