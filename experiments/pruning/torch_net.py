"""The problem's net as usually trained in PyTorch: modules, autograd, and torch.optim's fused Adam."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from experiments.pruning.problem import BATCH_SIZE, CLASSES, WIDTH, Part, Problem, points


class Digits:
    """The problem as tensors; minibatches are taken by index, without a loader."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.train, self.validation = _tensors(problem.train), _tensors(problem.validation)

    def training(self, learning_rate: float, l2: float, dropout: float, seed: int, every: int) -> Iterator[tuple[int, float]]:
        """Trains one net; every `every` steps, and after the last, yields the steps taken and the validation accuracy in points."""
        draws = torch.Generator().manual_seed(seed)  # for minibatches, since trials on threads share PyTorch's global generator
        (x, y), problem = self.train, self.problem
        net = nn.Sequential(nn.Linear(x.shape[1], WIDTH), nn.ReLU(), nn.Dropout(dropout), nn.Linear(WIDTH, CLASSES))
        weights, biases = ([p for p in net.parameters() if (p.ndim > 1) == matrices] for matrices in (True, False))
        # weight_decay adds weight_decay * w to the gradient; the gradient of l2 * w^2 is 2 * l2 * w.
        groups = [{"params": weights, "weight_decay": 2 * l2}, {"params": biases, "weight_decay": 0.0}]
        optimizer = torch.optim.Adam(groups, lr=learning_rate, fused=True)
        for step in range(problem.num_steps):
            if (place := step % problem.batches) == 0:
                order = torch.randperm(len(y), generator=draws)
            rows = order[place * BATCH_SIZE : (place + 1) * BATCH_SIZE]
            loss = F.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done = step + 1
            if done % every == 0 or done == problem.num_steps:
                yield done, self.accuracy(net)

    def accuracy(self, net: nn.Module) -> float:
        """Accuracy on the validation digits, in points."""
        x, y = self.validation
        net.eval()
        with torch.no_grad():
            right = (net(x).argmax(1) == y).double().mean()
        net.train()
        return points(float(right))


def _tensors(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = part
    return torch.from_numpy(x), torch.from_numpy(y).long()
