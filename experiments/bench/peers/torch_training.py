"""How PyTorch trains a workload, in the process that imports this: one variant after the other, or stacked."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from experiments.bench.workloads import GATES, PARAMETERS, Group, Layers, Variant, Workload

Tensors = list[torch.Tensor]


def arctan_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.arctan(x) * (2 / np.pi)


ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "arctan_sigmoid": arctan_sigmoid}


class Trainer:
    """A workload in tensors on a device; minibatches are taken by index, without a loader."""

    def __init__(self, workload: Workload, threads: int, device: str):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.workload, self.device = workload, torch.device(device)
        if self.device.type != "cpu":  # float32 throughout, as everyone: cuDNN takes TensorFloat-32 otherwise
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = False
        self.x, y = self.put(workload.x), self.put(workload.y)
        self.y = y.long() if workload.classifies else y
        self.loss_fn = F.cross_entropy if workload.classifies else F.mse_loss
        order = workload.order
        self.order = [None] * workload.num_steps if order is None else list(self.put(order).long())

    def put(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def start(self, layers: Layers) -> Tensors:
        return [self.put(array) for own in self.workload.start[layers] for array in own]

    def batch(self, rows: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])


class Loop(Trainer):
    """One variant after the other: modules, autograd, and torch.optim's optimizers, fused where there is a fused form.

    Compiled with graphs, a GPU starts the kernels of a pass by one call.
    """

    def __init__(self, workload: Workload, threads: int, compiled: bool, graphs: bool = False, device: str = "cpu"):
        super().__init__(workload, threads, device)
        self.nets = {layers: module(layers, workload.x.shape[1:]).to(self.device) for layers in workload.models()}
        self.losses = {layers: self._loss(net) for layers, net in self.nets.items()}
        if compiled:
            mode = {"mode": "reduce-overhead"} if graphs else {}
            self.losses = {layers: torch.compile(loss, fullgraph=True, dynamic=False, **mode) for layers, loss in self.losses.items()}

    def train(self, indices: Sequence[int]) -> list[float]:
        return [float(self.train_one(self.workload.variants[i])) for i in indices]

    def _loss(self, net: nn.Module) -> Callable:
        loss_fn = self.loss_fn
        return lambda x, y: loss_fn(net(x), y)

    def train_one(self, variant: Variant) -> torch.Tensor:
        """Its final loss, on the device."""
        layers = self.workload.layers_of(variant)
        net, loss = self.nets[layers], self.losses[layers]
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), self.start(layers), strict=True):
                parameter.copy_(value)
        for part in net.modules():
            if isinstance(part, nn.Dropout):
                part.p = variant.dropout
        optimizer = optimizer_of(variant, list(net.parameters()))
        net.train()
        for rows in self.order:
            value = loss(*self.batch(rows))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            return self.loss_fn(net(self.x), self.y)


class Activation(nn.Module):
    def __init__(self, name: str):
        super().__init__()
        self.fn = ACTIVATIONS[name]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fn(x)


class Recurrent(nn.Module):
    """torch's own RNN, which gives its sequence, or GRU, which gives its last state."""

    def __init__(self, kind: str, inputs: int, width: int):
        super().__init__()
        self.kind = kind
        self.own = (nn.RNN if kind == "rnn" else nn.GRU)(inputs, width, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequence, last = self.own(x)
        return sequence if self.kind == "rnn" else last[0]


def module(layers: Layers, in_shape: tuple[int, ...]) -> nn.Sequential:
    parts, sample = [], torch.zeros(1, *in_shape)
    for kind, size in layers:
        parts.append(_part(kind, size, sample.shape))
        sample = parts[-1](sample)
    return nn.Sequential(*parts)


def _part(kind: str, size: Any, shape: torch.Size) -> nn.Module:
    """A layer for inputs of this shape, the examples first."""
    if kind == "dense":
        return nn.Linear(shape[-1], size)
    if kind == "conv":
        return nn.Conv2d(shape[1], size, 3, padding="same")
    if kind in GATES:
        return Recurrent(kind, shape[-1], size)
    plain = {"max_pool": nn.MaxPool2d, "flatten": lambda _: nn.Flatten(), "activation": Activation, "dropout": lambda _: nn.Dropout()}
    return plain[kind](size)


def optimizer_of(variant: Variant, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """An L2 penalty is a weight_decay of the weights, which adds its gradient: cheaper than a term of the loss."""
    fused = {"fused": True} if parameters[0].device.type in ("cpu", "cuda") else {"foreach": True}
    weights = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 2 * variant.l2}
    groups = [weights, {"params": [p for p in parameters if p.ndim <= 1]}] if variant.l2 else [{"params": parameters}]
    make, settings = {
        "sgd": (torch.optim.SGD, fused),
        "momentum": (torch.optim.SGD, {"momentum": 0.9} | fused),
        "adagrad": (torch.optim.Adagrad, fused),
        "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "foreach": True}),
        "adam": (torch.optim.Adam, fused),
    }[variant.optimizer]
    return make(groups, lr=variant.learning_rate, **settings)


class Ensemble(Trainer):
    """A group's variants stacked along a first axis: one gradient for all of them, and updates by hand, in place.

    The gradient is torch.func's vmap of one variant's, or autograd's of batched products written out (by_hand). Compiled, a
    whole step is one function; what changes from step to step is given in tensors, so that it is compiled once.
    """

    def __init__(self, workload: Workload, threads: int, compiled: bool, by_hand: bool, device: str = "cpu"):
        super().__init__(workload, threads, device)
        make = stacked_gradient if by_hand else mapped_gradient
        gradients = {layers: make(layers, self.loss_fn) for layers in workload.models()}
        kinds = {(group.layers, group.optimizer) for group in workload.groups()}
        self.steps = {(layers, name): step_of(gradients[layers], RULES[name], "l2" in workload.swept) for layers, name in kinds}
        if compiled:
            self.steps = {kind: torch.compile(step, dynamic=False) for kind, step in self.steps.items()}

    def train(self, indices: Sequence[int]) -> list[float]:
        losses: dict[int, float] = {}
        for group in self.workload.groups(tuple(indices)):
            losses |= zip(group.indices, self.train_group(group).tolist(), strict=True)
        return [losses[i] for i in indices]

    def train_group(self, group: Group) -> torch.Tensor:
        """The variants' final losses, on the device."""
        layers, name = group.layers, group.optimizer
        params = [leaf.expand(len(group.indices), *leaf.shape).clone() for leaf in self.start(layers)]
        state = [[torch.zeros_like(leaf) for leaf in params] for _ in range(MOMENTS[name])]
        rates, dropout, l2 = (
            torch.tensor([getattr(self.workload.variants[i], field) for i in group.indices], device=self.device)
            for field in ("learning_rate", "dropout", "l2")
        )
        step = self.steps[layers, name]
        for t, rows in enumerate(self.order, start=1):
            x, y = self.batch(rows)
            scale, eps = scale_and_eps(name, t)
            eps = torch.full((), eps, device=self.device)  # made there: a number that is copied there waits for what runs
            step(params, state, x, y, rates * scale, eps, dropout, l2, dropout_draws(layers, len(x), self.device))
        with torch.no_grad():
            last = torch.func.vmap(lambda params: self.loss_fn(forward(layers, params, self.x), self.y))
            return last(params)


def step_of(gradient: Callable, rule: Callable, penalized: bool) -> Callable:
    """One step of a group, which changes params and state in place. Rates, eps, dropout rates and l2 are tensors."""

    def step(params, state, x, y, rates, eps, dropout, l2, draws) -> None:
        grads = list(gradient(params, x, y, dropout, draws))
        if penalized:  # the weights, which are the leaves with two axes or more besides the variants'
            weights = [(grad, leaf) for grad, leaf in zip(grads, params, strict=True) if leaf.ndim > 2]
            for grad, leaf in weights:
                grad.addcmul_(leaf, _beside(2 * l2, leaf))
        rule(params, grads, state, [_beside(rates, leaf) for leaf in params], eps)

    return step


def _beside(values: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """One number a variant, in a shape that multiplies a stack of leaves."""
    return values.reshape(-1, *[1] * (leaf.ndim - 1))


def dropout_draws(layers: Layers, examples: int, device: torch.device) -> Tensors:
    """One draw for all variants, each of which has its own threshold."""
    widths = [layers[i - 2][1] for i, (kind, _) in enumerate(layers) if kind == "dropout"]
    return list(torch.rand(sum(widths), examples, device=device).mT.split(widths, 1)) if widths else []


def mapped_gradient(layers: Layers, loss_fn: Callable) -> Callable:
    """(params, x, y, rates, draws) -> gradients, the variants first."""

    def loss(params, x, y, rate, draws):
        return loss_fn(forward(layers, params, x, rate, draws), y)

    return torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None, 0, None))


def stacked_gradient(layers: Layers, loss_fn: Callable) -> Callable:
    """As `mapped_gradient`, for dense nets: the variants do not touch, so the gradient of their sum is each one's own."""
    if any(kind not in ("dense", "activation", "dropout") for kind, _ in layers):
        raise NotImplementedError("only dense layers are written out")

    def linear(x, weight, bias):
        return torch.baddbmm(bias[:, None], x, weight.mT)

    def gradient(params, x, y, rates, draws):
        leaves, count = [leaf.detach().requires_grad_() for leaf in params], len(params[0])
        prediction = forward(layers, leaves, x.expand(count, *x.shape), rates[:, None, None], draws, linear)
        sum_of_means = loss_fn(prediction.flatten(0, 1), y.repeat(count, *[1] * (y.ndim - 1)), reduction="sum") / len(y)
        return torch.autograd.grad(sum_of_means, leaves)

    return gradient


def forward(
    layers: Layers, params: Tensors, x: torch.Tensor, rate: Any = None, draws: Sequence = (), linear: Any = F.linear
) -> torch.Tensor:
    """One variant's prediction, in functions that vmap knows; without a rate, as in evaluation. Of a dense net a stack's, given `linear`."""
    own_of, draws = iter(params), iter(draws)
    for kind, size in layers:
        own = [next(own_of) for _ in PARAMETERS.get(kind, ())]
        if kind == "dense":
            x = linear(x, *own)
        elif kind == "conv":
            x = F.conv2d(x, *own, padding="same")
        elif kind == "max_pool":
            x = F.max_pool2d(x, size)
        elif kind == "flatten":
            x = x.flatten(1)
        elif kind == "activation":
            x = ACTIVATIONS[size](x)
        elif kind in GATES:
            x = recurrent(kind, x, *own)
        elif rate is not None:
            x = drop(x, rate, next(draws))
    return x


def drop(x: torch.Tensor, rate: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    return x * (draws >= rate) / (1 - rate)


def recurrent(kind: str, x: torch.Tensor, weight, recurrent_weight, bias, recurrent_bias) -> torch.Tensor:
    """(examples, time, inputs) -> the sequence of an rnn, the last state of a GRU; all inputs' products are one."""
    inputs = F.linear(x, weight, bias)
    hidden = torch.zeros_like(inputs[:, 0, : recurrent_weight.shape[1]])
    sequence = []
    for now in inputs.unbind(1):
        own = F.linear(hidden, recurrent_weight, recurrent_bias)
        if kind == "rnn":
            hidden = torch.tanh(now + own)
            sequence.append(hidden)
        else:
            (reset, update, candidate), (own_reset, own_update, own_candidate) = now.chunk(3, -1), own.chunk(3, -1)
            candidate = torch.tanh(candidate + torch.sigmoid(reset + own_reset) * own_candidate)
            hidden = candidate + torch.sigmoid(update + own_update) * (hidden - candidate)
    return torch.stack(sequence, 1) if kind == "rnn" else hidden


def sgd(params: Tensors, grads: Tensors, state: list[Tensors], rates: Tensors, eps: torch.Tensor) -> None:
    torch._foreach_addcmul_(params, grads, rates, -1.0)


def momentum(params: Tensors, grads: Tensors, state: list[Tensors], rates: Tensors, eps: torch.Tensor) -> None:
    (velocity,) = state
    torch._foreach_mul_(velocity, 0.9)
    torch._foreach_add_(velocity, grads)
    torch._foreach_addcmul_(params, velocity, rates, -1.0)


def adagrad(params: Tensors, grads: Tensors, state: list[Tensors], rates: Tensors, eps: torch.Tensor) -> None:
    (squares,) = state
    torch._foreach_addcmul_(squares, grads, grads)
    _scaled(params, grads, squares, rates, eps)


def rmsprop(params: Tensors, grads: Tensors, state: list[Tensors], rates: Tensors, eps: torch.Tensor) -> None:
    (squares,) = state
    torch._foreach_mul_(squares, 0.9)
    torch._foreach_addcmul_(squares, grads, grads, 0.1)
    _scaled(params, grads, squares, rates, eps)


def adam(params: Tensors, grads: Tensors, state: list[Tensors], rates: Tensors, eps: torch.Tensor) -> None:
    means, squares = state
    torch._foreach_lerp_(means, grads, 0.1)
    torch._foreach_mul_(squares, 0.999)
    torch._foreach_addcmul_(squares, grads, grads, 0.001)
    _scaled(params, means, squares, rates, eps)


def _scaled(params: Tensors, steps: Tensors, squares: Tensors, rates: Tensors, eps: torch.Tensor) -> None:
    """params -= rate * step / (sqrt(square) + eps)"""
    below = torch._foreach_sqrt(squares)
    torch._foreach_add_(below, eps)
    torch._foreach_addcmul_(params, torch._foreach_div(steps, below), rates, -1.0)


def scale_and_eps(name: str, step: int) -> tuple[float, float]:
    """What the learning rate is multiplied by at a step, counted from 1, and what is added to the root.

    Adam's corrections of both moments come to this, without a pass over them:
    rate * (m / c1) / (sqrt(v / c2) + eps) = rate * sqrt(c2) / c1 * m / (sqrt(v) + eps * sqrt(c2))
    """
    if name != "adam":
        return 1.0, {"rmsprop": 1e-8, "adagrad": 1e-10}.get(name, 0.0)
    root = (1 - 0.999**step) ** 0.5
    return root / (1 - 0.9**step), 1e-8 * root


RULES = {"sgd": sgd, "momentum": momentum, "adagrad": adagrad, "rmsprop": rmsprop, "adam": adam}
MOMENTS = {"sgd": 0, "momentum": 1, "adagrad": 1, "rmsprop": 1, "adam": 2}
