"""The stored sweeps that are broken, and what they must come to, bit for bit."""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import funcnet as fn
from funcnet import prune
from funcnet.sweeps import store

Outcome = dict[str, np.ndarray]
EVERY = 20  # steps between evaluations, where no rule decides where to look
_RATES = [*np.geomspace(1e-3, 0.3, 5).tolist(), 1e30]  # the last one diverges


class Kind(NamedTuple):
    """A sweep."""

    recipe: Callable[..., fn.Training]
    data: str  # "points" or "images"
    choices: dict[str, list[Any]]  # of a grid
    settings: dict[str, Any]
    num_steps: int = 160
    batch_size: int = 16


def _bent(learning_rate: float, width: int = 8) -> fn.Training:
    return fn.training(fn.mlp((width, 3), "relu", 0.2), fn.cross_entropy, fn.adam(learning_rate), in_shape=(6,), metrics=["accuracy"])


def _convolutional(learning_rate: float) -> fn.Training:
    model = fn.serial(fn.conv(2, 3), fn.activation("relu"), fn.max_pool(2), fn.flatten(), fn.dense(3))
    return fn.training(model, fn.cross_entropy, fn.adam(learning_rate), in_shape=(1, 6, 6))


KINDS = {
    "mlp": Kind(_bent, "points", dict(learning_rate=_RATES, width=[6, 8]), dict(eval_every=EVERY)),
    "cnn": Kind(_convolutional, "images", dict(learning_rate=_RATES), dict(eval_every=EVERY, chunk_size=2)),
    "best": Kind(_bent, "points", dict(learning_rate=_RATES), dict(eval_every=EVERY, keep_best=True, keep=3, replicates=2)),
    "halving": Kind(_bent, "points", dict(learning_rate=_RATES, width=[6, 8]), dict(prune=prune.successive_halving(6), replicates=2)),
    "asha": Kind(_bent, "points", dict(learning_rate=np.geomspace(1e-3, 0.3, 18).tolist()), dict(prune=prune.asha(6))),
}


def variants_of(kind: str, add: int = 0) -> list[dict[str, Any]]:
    """The variants of a kind, and so many more behind them."""
    grid = list(fn.grid(**KINDS[kind].choices))
    return grid + [{**grid[i % len(grid)], "learning_rate": 0.002 * (i + 1)} for i in range(add)]


@functools.cache
def _data(name: str) -> fn.Split:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(100, 6) if name == "points" else (100, 1, 6, 6)).astype(np.float32)
    flat = x.reshape(100, -1)
    return fn.split(fn.Dataset(x, (flat[:, 0] > 0).astype(np.int32) + (flat[:, 1] > 1)), key=jax.random.key(0))


def sweep(kind: str, folder: str | os.PathLike[str] | None, *, add: int = 0, longer: int = 0, **changed: Any) -> Outcome:
    """Carries out a sweep of a kind, stored in a folder if one is given.

    Args:
      kind: a name in KINDS.
      folder: of the store; None for a sweep that keeps nothing.
      add: variants behind those of the kind.
      longer: steps more than those of the kind.
      changed: other arguments of `funcnet.sweeps`, variants among them.
    """
    own = KINDS[kind]
    settings = dict(
        key=jax.random.key(5), num_steps=own.num_steps + longer, batch_size=own.batch_size, progress=False, chunk_size=4, store=folder
    )
    variants = changed.pop("variants", None) or variants_of(kind, add)
    return outcome(fn.sweep(own.recipe, variants, _data(own.data), **(settings | own.settings | changed)))


def outcome(result: fn.SweepResult) -> Outcome:
    """Everything that a result holds, but for its timing, by name."""
    found = {f"table {name}": np.asarray(column) for name, column in result.table.items()}
    found |= {f"curve {name}": curve for name, curve in result.curves.items()}
    for row in range(len(result)):
        try:
            state = result.state(row)
        except ValueError:  # its state is none of those kept
            continue
        found |= {f"state of row {row}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}
    return found


def differences(one: Outcome, other: Outcome) -> list[str]:
    """The names of what differs, in a bit or more, or is in one of the two alone."""
    return [name for name in {**one, **other} if name not in one or name not in other or not _same(one[name], other[name])]


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()


@functools.cache
def undisturbed(kind: str, add: int = 0, longer: int = 0) -> Outcome:
    """What the sweep comes to that nothing happens to, and that keeps nothing."""
    return sweep(kind, None, add=add, longer=longer)


class stored_often:
    """Within it a sweep is stored after every segment, however long that takes."""

    def __enter__(self) -> None:
        self._before = store._LEAST, store._SHARE
        store._LEAST, store._SHARE = 0.0, float("inf")

    def __exit__(self, *_: object) -> None:
        store._LEAST, store._SHARE = self._before


def use_cache(folder: str | os.PathLike[str]) -> None:
    """Takes from JAX's compilation cache what another process has compiled: it has the same bits, and a worker starts sooner."""
    for name, value in _CACHE.items():
        jax.config.update(name, str(folder) if value is None else value)


_CACHE: dict[str, Any] = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
