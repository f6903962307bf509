"""Mixed sizes: one program for variants that differ in integers that decide shapes, such as widths.

A recipe needs a width as a Python int, so that each width would need its own program. Here, variants of all widths share the program
of the largest. A smaller state is padded (filled up) with zeros, and after each step its padding is set to zero again. A padding
unit then has no weights, in or out, and adds zero to the other units' sums, which are those of the smaller net.

This is true of layers such as dense ones, but not of one that takes a mean over its units, such as `layer_norm`. So it is not assumed
but tested before anything trains: a few steps with and without padding. If the numbers differ, or if training at the largest size
is estimated to take longer than compiling a program for each size, each size gets its own program.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import inner
from funcnet.data import Split
from funcnet.option import Option
from funcnet.sweeps.recent import Recent
from funcnet.train import Training, as_training, examples_seen
from funcnet.tree import PyTree, examples_of

Recipe: TypeAlias = Callable[..., Any]
Shapes: TypeAlias = tuple[tuple[int, ...], ...]  # of a state's leaves


class Sizes(NamedTuple):
    """The sizes that share a program."""

    names: tuple[str, ...]  # the hyperparameters that decide shapes
    settings: tuple[tuple[int, ...], ...]  # their distinct values in the variants, ascending
    shapes: tuple[Shapes, ...]  # a state's shapes for each setting
    largest: tuple[int, ...]  # the largest value of each name
    filled: Shapes  # a state's shapes for the largest values: those of every padded state

    def of(self, numbers: Mapping[str, float | int]) -> Shapes:
        """The shapes of a variant's state without padding."""
        return self.shapes[self.settings.index(tuple(int(numbers[name]) for name in self.names))]

    def parts(self) -> list[float]:
        """For each setting, the count of numbers in its state as a fraction of that in the largest state."""
        most = sum(map(np.prod, self.filled))
        return [float(sum(map(np.prod, own)) / most) for own in self.shapes]


ALIKE = Recent(64)  # sizes that passed `check_alike`, by what they compute with and without padding


class Unlike(Exception):
    """Sizes can't share a program; the message says why."""


@dataclass(frozen=True)
class Mixed:
    """A recipe whose sizes may be traced: its trainings are of the largest size, with padded states.

    Called like the recipe itself, mixed(**hyperparameters) -> Training; those of `sizes.names` are integers, shape ().
    """

    recipe: Recipe
    sizes: Sizes

    def __call__(self, **hyperparameters: Any) -> Training:
        whole, init, cut_back = self.pieces(**hyperparameters)

        def step(state: PyTree, batch: Any, key: jax.Array) -> tuple[PyTree, Any]:
            after, metrics = whole.step(state, batch, key)
            return cut_back(after), metrics

        return whole._replace(init=init, step=step)

    def pieces(self, **hyperparameters: Any) -> tuple[Training, Callable[[jax.Array], PyTree], Callable[[PyTree], PyTree]]:
        """The training of the largest size; init, which makes a padded state of the given size; and a function that zeroes its padding."""
        sizes = self.sizes
        own = jnp.stack([jnp.asarray(hyperparameters.pop(name), jnp.int32) for name in sizes.names])
        place = jnp.argmax((jnp.asarray(sizes.settings, jnp.int32) == own[None]).all(1))

        def made(setting: Sequence[int]) -> Training:
            return as_training("sweep", self.recipe(**hyperparameters, **dict(zip(sizes.names, setting, strict=True))))

        def init(key: jax.Array) -> PyTree:
            states = [_filled_up(made(setting).init(key), sizes.filled) for setting in sizes.settings]

            def chosen(*leaves: jax.Array) -> jax.Array:
                # One by one, so that at most two of the states are in memory at a time.
                return functools.reduce(lambda found, i: jnp.where(place == i, leaves[i], found), range(1, len(leaves)), leaves[0])

            return jax.tree.map(chosen, *states)

        def cut_back(state: PyTree) -> PyTree:
            leaves, structure = jax.tree.flatten(state)
            return jax.tree.unflatten(structure, [_cut(leaf, *_along(sizes, i), place) for i, leaf in enumerate(leaves)])

        return made(sizes.largest), init, cut_back


def sizes_of(
    training: Callable[..., Training], names: Sequence[str], settings: Sequence[tuple[int, ...]], arguments: Any, key: Any
) -> Sizes:
    """Finds the shapes of the states for all settings.

    Args:
      training: (arguments, {name: value}) -> Training.
      names: the hyperparameters that decide shapes.
      settings: their values in the variants.
      arguments: shapes of the other hyperparameters.
      key: shape of a random key.

    Raises:
      Unlike: the states differ in more than the lengths of their arrays, or that of the largest values is not the largest.
    """
    settings = sorted(set(settings))
    largest = tuple(max(setting[i] for setting in settings) for i in range(len(names)))
    every = [*settings, *([] if largest in settings else [largest])]
    found = [jax.eval_shape(lambda own, key, at=at: training(own, dict(zip(names, at))).init(key), arguments, key) for at in every]
    kinds = [(jax.tree.structure(state), [(len(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(state)]) for state in found]
    odd = next((setting for setting, kind in zip(every, kinds, strict=True) if kind != kinds[0]), None)
    if odd is not None:
        raise Unlike("their states differ in structure")
    shapes = [tuple(tuple(leaf.shape) for leaf in jax.tree.leaves(state)) for state in found]
    filled = shapes[every.index(largest)]
    if any(np.any(np.greater(own, most)) for each in shapes for own, most in zip(each, filled, strict=True)):
        raise Unlike("the largest setting does not have the largest state")
    return Sizes(tuple(names), tuple(settings), tuple(shapes[: len(settings)]), largest, filled)


def cut(leaves: Sequence[Any], shapes: Shapes) -> list[Any]:
    """A lane's leaves without their padding; copies, so that the padded arrays can be freed."""

    def inside(leaf: Any, shape: tuple[int, ...]) -> Any:
        part = leaf[tuple(slice(length) for length in shape)]
        return part.copy() if isinstance(part, np.ndarray) else part

    return [leaf if jnp.shape(leaf) == shape else inside(leaf, shape) for leaf, shape in zip(leaves, shapes, strict=True)]


def check_alike(
    mixed: Mixed,
    hyperparameters: Mapping[str, Any],
    names: Mapping[str, tuple[str, ...]],
    data: Split,
    batch_size: int | None,
    limited: bool,
    key: jax.Array,
) -> None:
    """Raises unless a few steps give the same numbers with and without padding; in float64 if the recipe allows it.

    The padding must also stay zero in a step by itself, before it is set to zero. Otherwise its gradients would count wherever
    all gradients are combined, such as in a norm to clip by, perhaps only long after this check.

    Args:
      hyperparameters: of a variant, as the recipe takes them, without the names.
      names: for each name, all its values; every combination is tried.
      data: concrete.
      limited: whether lanes use only some of the examples.
      key: the sweep's; the test's draws depend on it.

    Raises:
      Unlike: the numbers differ by more than rounding, or the padding doesn't stay zero.
    """
    sizes = mixed.sizes
    own_size = tuple(int(hyperparameters[name]) for name in sizes.names)
    every = dict(zip(sizes.settings, sizes.shapes, strict=True)) | {sizes.largest: sizes.filled}
    two = sorted({own_size, sizes.largest})
    few = min(_TRIED, examples_of(data.train.y) if batch_size is None else batch_size)
    part = jax.tree.map(lambda leaf: np.asarray(leaf[:few]), data.train)
    if limited:
        part = examples_seen(part, jnp.int32(few))
    tried = functools.partial(
        _both_ways,
        Mixed(mixed.recipe, sizes._replace(settings=tuple(two), shapes=tuple(every[at] for at in two))),
        hyperparameters,
        names,
        key,
    )
    try:
        with inner.under({"enable_x64": True}):
            found = tried(jax.tree.map(_wide, part))
    except Exception:  # a recipe that insists on float32
        found = tried(part)
    for filled, own, beyond in found:
        flags = np.asarray(beyond)
        if np.any(flags if _is_finite(own.states[-1]) else flags[: (len(flags) + 1) // 2]):
            raise Unlike("what fills up the smaller ones would not stay zero, as it does by an activation with f(0) = 0 such as tanh")
        _compare(filled, own, every[own_size])


_TRIED = 64  # the most examples to use
_RELATIVE = 1e-5  # tolerance, relative to what the steps change
_LOUD = 1000.0  # factor on the second step's inputs, so that rules for large gradients, such as clipping, take effect


class _Way(NamedTuple):
    states: list[PyTree]  # at the start, and after each step
    measured: dict[str, Any]  # after the first


def _compare(filled: _Way, own: _Way, shapes: Shapes) -> None:
    ours, theirs = ([[_wider(leaf) for leaf in jax.tree.leaves(state)] for state in way.states] for way in (filled, own))
    finite = _is_finite(own.states[-1])
    noises = [_noise(leaf) for leaf in jax.tree.leaves(own.states[0])]
    for before, after in [(0, 1), *([(1, 2)] if finite else [])]:
        for i, noise in enumerate(noises):
            start, end = cut([ours[before][i], ours[after][i]], (shapes[i],) * 2)
            noise = noise * (_norm(theirs[before][i]) + _norm(theirs[after][i]))
            wanted = theirs[after][i] - theirs[before][i]
            if not _norm(start - theirs[before][i]) <= noise + _RELATIVE * _norm(theirs[before][i]) * before:
                raise Unlike("the smaller ones would begin with other numbers")
            if not _norm(end - start - wanted) <= _RELATIVE * _norm(wanted) + noise:
                raise Unlike("what fills up the smaller ones would change their numbers")
    for name, value in own.measured.items():
        if not np.allclose(_wider(filled.measured[name]), _wider(value), rtol=100 * _RELATIVE, atol=1e-6, equal_nan=True):
            raise Unlike(f"what fills up the smaller ones would change their {name}")


def _is_finite(state: PyTree) -> bool:
    return all(bool(np.all(np.isfinite(_wider(leaf)))) for leaf in jax.tree.leaves(state))


def _both_ways(
    mixed: Mixed, hyperparameters: Mapping[str, Any], names: Mapping[str, tuple[str, ...]], key: jax.Array, part: Any
) -> list[tuple[_Way, _Way, Any]]:
    """For every combination of names: the steps with padding, those without, and flags for leaves whose padding became nonzero."""
    loud = part._replace(x=jax.tree.map(lambda leaf: leaf * _LOUD if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, part.x))

    def taken(key: jax.Array, places: Mapping[str, jax.Array]) -> tuple[_Way, _Way, jax.Array]:
        named = {name: Option(name, names[name], place) for name, place in places.items()}
        ways, beyond = [], []
        whole, init, cut_back = mixed.pieces(**hyperparameters, **named)
        own = as_training("sweep", mixed.recipe(**hyperparameters, **named))
        for training, start, after in ((whole, init, cut_back), (own, own.init, lambda state: state)):
            states: list[PyTree] = [start(key)]
            for i, batch in enumerate((part, loud)):
                raw, _ = training.step(states[-1], batch, jax.random.fold_in(key, i))
                states.append(after(raw))
                pairs = zip(jax.tree.leaves(raw), jax.tree.leaves(states[-1]), strict=True)
                beyond += [jnp.any(one != other) for one, other in pairs if one is not other]
            ways.append(_Way([jax.tree.map(_bare, state) for state in states], training.evaluate(states[1], part)))
        return ways[0], ways[1], jnp.stack([jnp.asarray(False), *beyond])

    places = [dict(zip(names, each, strict=True)) for each in itertools.product(*(range(len(own)) for own in names.values()))]
    lowered = jax.jit(taken).lower(key, {name: jnp.int32(0) for name in names})
    hints: dict[str, str | bool] = {"xla_backend_optimization_level": "0"} if jax.default_backend() == "cpu" else {}
    compiled = lowered.compile(hints)
    with jax.debug_nans(False), jax.debug_infs(False):  # the second step may diverge with or without padding
        return [compiled(key, {name: jnp.int32(place) for name, place in each.items()}) for each in places]


def seconds_each_way(sizes: Sizes, counts: Sequence[tuple[int, int]], step_flops: float, lanes: int, cores: int) -> tuple[float, float]:
    """Estimates the seconds to compile and train with one program for all sizes, and with one for each size.

    Args:
      counts: for each setting, its number of runs, and the sum of their steps.
      step_flops: operations of one step of one lane at the largest size.
      lanes: of a chunk.
      cores: how many programs compile, and how many chunks train, at a time.
    """
    runs, steps = (sum(column) for column in zip(*counts, strict=True))
    parts = sizes.parts()
    together = _COMPILE + len(counts) * _INIT + _TRY * len(sizes.names)
    apart = len(counts) * _COMPILE / min(cores, len(counts))
    together += (steps * step_flops / _FLOPS + steps / min(lanes, runs) * _STEP) / cores
    for part, (own_runs, own_steps) in zip(parts, counts, strict=True):
        apart += (own_steps * part * step_flops / _FLOPS + own_steps / min(lanes, own_runs) * _STEP) / cores
    return together, apart


# Seconds, as measured on two cores of an AMD EPYC; on a GPU a step costs less, and compiling a program more.
_COMPILE = 1.9  # to compile a program
_INIT = 0.12  # more to compile a program for each size, for its initial state
_TRY = 2.0  # to check one size with `check_alike`
_FLOPS = 2e10  # operations per second of one core that trains
_STEP = 5e-5  # fixed cost of a chunk's step


def _filled_up(state: PyTree, shapes: Shapes) -> PyTree:
    leaves, structure = jax.tree.flatten(state)

    def filled(leaf: Any, shape: tuple[int, ...]) -> Any:
        missing = [(0, most - length) for most, length in zip(shape, jnp.shape(leaf), strict=True)]
        return jnp.pad(leaf, missing) if any(after for _, after in missing) else leaf

    return jax.tree.unflatten(structure, [filled(leaf, shape) for leaf, shape in zip(leaves, shapes, strict=True)])


def _along(sizes: Sizes, leaf: int) -> tuple[tuple[int, ...], list[list[int]]]:
    """The axes along which a leaf's length differs between settings, and for each of them the length in every setting."""
    axes = tuple(axis for axis, most in enumerate(sizes.filled[leaf]) if any(own[leaf][axis] != most for own in sizes.shapes))
    return axes, [[own[leaf][axis] for own in sizes.shapes] for axis in axes]


def _cut(leaf: jax.Array, axes: Sequence[int], lengths: Sequence[Sequence[int]], place: jax.Array) -> jax.Array:
    """The leaf with zeros beyond the lengths that the setting at index place has along these axes."""
    for axis, each in zip(axes, lengths, strict=True):
        inside = jax.lax.broadcasted_iota(jnp.int32, leaf.shape, axis) < jnp.asarray(each, jnp.int32)[place]
        leaf = jnp.where(inside, leaf, jnp.zeros((), leaf.dtype))
    return leaf


def _bare(leaf: Any) -> Any:
    """The leaf as an array of numbers; of a random key its data."""
    return jax.random.key_data(leaf) if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key) else jnp.asarray(leaf)


def _wide(leaf: Any) -> Any:
    return leaf.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _wider(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array if np.iscomplexobj(array) else array.astype(np.float64)


def _norm(array: Any) -> float:
    return float(np.sqrt(np.sum(np.abs(_wider(array)) ** 2)))


def _noise(array: np.ndarray) -> float:
    return 20 * float(jnp.finfo(array.dtype).eps) if jnp.issubdtype(array.dtype, jnp.inexact) else 0.0
