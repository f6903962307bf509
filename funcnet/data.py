"""Data: a set of examples, its parts, and the order in which training meets them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.draws import bits, mixed


class Dataset(NamedTuple):
    """Examples and what is wanted of them; the examples lie on the first axis of both. A minibatch is one too."""

    x: Any  # shape (examples, *in_shape)
    y: Any  # shape (examples, *target)


class WeightedDataset(NamedTuple):
    """A data set in which some examples count more than others: losses are weighted means."""

    x: Any  # shape (examples, *in_shape)
    y: Any  # shape (examples, *target)
    weights: Any  # shape (examples,), >= 0


class Split(NamedTuple):
    """The parts of a data set: to train on, to choose by, and to report on once. A part left out is None."""

    train: Dataset
    validation: Dataset | None = None
    test: Dataset | None = None


def split(dataset: Dataset, *, key: jax.Array, validation: float = 0.2, test: float = 0.0) -> Split:
    """Shuffles a data set and cuts it in up to three.

    Args:
      dataset: `Dataset(x, y)`, or any pair of arrays.
      key: decides who goes where.
      validation: share for choosing among variants, in [0, 1).
      test: share for the report at the end, in [0, 1); with validation below 1.

    Returns:
      A `Split` of NumPy arrays; a share of zero gives None.

    Raises:
      ValueError: a share is out of range, or so small or large that a part would be empty; the data is not usable.
      TypeError: the data holds no numbers, or key isn't a JAX random key.

    Example:
      >>> parts = split(Dataset(np.ones((10, 3)), np.arange(10)), key=jax.random.key(0), test=0.1)
      >>> [len(part.y) for part in parts]
      [7, 2, 1]
    """
    dataset = as_dataset("split", dataset)
    check.random_key("split", key)
    check.in_range("split", "validation", validation, 0, 1)
    check.in_range("split", "test", test, 0, 1)
    examples = len(dataset.y)
    counts = {"validation": round(examples * validation), "test": round(examples * test)}
    for name, share in (("validation", validation), ("test", test)):
        if share > 0 and counts[name] == 0:
            raise ValueError(check.message("split", f"{name} must hold at least one example", f"a share of {share} of {examples}"))
    rest = examples - sum(counts.values())
    if rest < 2:
        raise ValueError(check.message("split", "at least two examples must be left to train on", rest, "lower validation or test"))
    order = np.asarray(jax.random.permutation(key, examples))
    pieces = np.split(order, [rest, rest + counts["validation"]])
    return Split(*(Dataset(dataset.x[piece], dataset.y[piece]) if len(piece) else None for piece in pieces))  # type: ignore[arg-type]


def standardize(data: Split | Dataset) -> Any:
    """Mean zero and variance one for every feature, by the statistics of the training part alone.

    x <- (x - mean) / standard deviation; a feature that doesn't vary in training is only centred.

    Args:
      data: a `Split`, or a `Dataset` taken as its own training part.

    Returns:
      The same kind of thing, x in floating point; y is left as it is.

    Raises:
      ValueError: the data is not usable.

    Example:
      >>> parts = standardize(Split(Dataset(np.array([[1.0], [3.0]]), np.zeros(2)), Dataset(np.array([[5.0]]), np.zeros(1))))
      >>> print(parts.train.x.ravel(), parts.validation.x.ravel())
      [-1.  1.] [3.]
    """
    parts = as_split("standardize", data)
    train = np.asarray(parts.train.x, np.float64)
    mean, deviation = train.mean(0), train.std(0)
    flat = deviation <= 1e-12 * np.abs(mean)

    def scaled(part: Dataset | None) -> Dataset | None:
        if part is None:
            return None
        x = (np.asarray(part.x, np.float64) - mean) / np.where(flat, 1, deviation)
        return Dataset(x.astype(jnp.result_type(float)), part.y)

    done = Split(*map(scaled, parts))  # type: ignore[arg-type]
    return done.train if isinstance(data, Dataset) else done


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Each label as a row of zeros with a one at its place.

    Args:
      labels: integers from 0 to num_classes - 1, any shape.
      num_classes: at least 1.

    Returns:
      Shape (*labels.shape, num_classes), floating point.

    Raises:
      TypeError: labels are not integers.
      ValueError: a concrete label is out of range.

    Example:
      >>> print(one_hot(jnp.array([1, 0]), 3))
      [[0. 1. 0.]
       [1. 0. 0.]]
    """
    num_classes = check.whole("one_hot", "num_classes", num_classes, 1)
    labels = labels if check.is_traced(labels) else np.asarray(labels)  # type: ignore[assignment]
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(check.message("one_hot", "labels must be integers", labels.dtype, "such as labels.astype(int)"))
    if not check.is_traced(labels):
        bad = np.asarray(labels)[(np.asarray(labels) < 0) | (np.asarray(labels) >= num_classes)]
        if bad.size:
            raise ValueError(check.message("one_hot", f"labels must be in [0, {num_classes - 1}]", bad[0]))
    return jax.nn.one_hot(labels, num_classes)


def minibatch(key: jax.Array, step: Any, num_examples: Any, batch_size: int) -> jax.Array:
    """Which examples make up the minibatch of one step, found without running the steps before it.

    Training goes through a shuffled data set in batches, epoch after epoch, shuffled anew each time; the up to
    batch_size - 1 examples that would not fill a batch sit that epoch out. The shuffle is a keyed permutation that is
    computed for each place alone, the swap-or-not shuffle: no sorting, and no order to keep between steps.

    Args:
      key: decides the order.
      step: shape (), integer, counted from 0; may be traced.
      num_examples: shape (), integer, at least batch_size; may be traced.
      batch_size: at least 1.

    Returns:
      Shape (batch_size,), int32, in [0, num_examples), all different.

    Raises:
      ValueError: batch_size is below 1 or above a concrete num_examples.

    Example:
      >>> key = jax.random.key(0)
      >>> sorted(int(i) for step in range(3) for i in minibatch(key, step, 6, 2))
      [0, 1, 2, 3, 4, 5]

    Source: Hoang, Morris and Rogaway (2012), An enciphering scheme based on a card shuffle.
    """
    batch_size = check.whole("minibatch", "batch_size", batch_size, 1)
    if not check.is_traced(num_examples) and batch_size > num_examples:
        raise ValueError(check.message("minibatch", f"batch_size must be at most the {num_examples} examples", batch_size))
    count = jnp.asarray(num_examples, jnp.uint32)
    step = jnp.asarray(step, jnp.uint32)
    batches = jnp.maximum(count // np.uint32(batch_size), np.uint32(1))
    epoch = step // batches
    places = (step % batches) * np.uint32(batch_size) + jnp.arange(batch_size, dtype=jnp.uint32)
    return _shuffled(key, epoch, places, count).astype(jnp.int32)


_ROUNDS = 24


def _shuffled(key: jax.Array, epoch: jax.Array, places: jax.Array, count: jax.Array) -> jax.Array:
    """The permutation of 0 .. count - 1 that key and epoch stand for, at these places; all but the key uint32.

    In each round every place has a partner, the two the same distance from a random pivot, and a coin for the pair
    decides whether they swap.
    """
    words = bits(key, 2 * _ROUNDS, epoch)
    pivots, coins = words[:_ROUNDS] % count, words[_ROUNDS:]

    def one_round(i: jax.Array, places: jax.Array) -> jax.Array:
        partner = pivots[i] - places
        partner = jnp.where(places > pivots[i], partner + count, partner)
        swap = mixed(jnp.maximum(places, partner) ^ coins[i]) >> np.uint32(31)
        return jnp.where(swap == 1, partner, places)

    places = jax.lax.fori_loop(0, _ROUNDS, one_round, places)
    return places


def as_split(where: str, data: Any) -> Split:
    """A checked `Split` of NumPy arrays from a `Split` or a `Dataset`; traced arrays pass as they are."""
    if isinstance(data, Split):
        parts = [
            None if part is None else as_dataset(f"{where}: {name}", part, least=2 if name == "train" else 1)
            for name, part in zip(Split._fields, data, strict=True)
        ]
        if parts[0] is None:
            raise TypeError(check.message(where, "data must have a training part", "None"))
        for name, part in zip(Split._fields[1:], parts[1:], strict=True):
            for field in ("x", "y"):
                own, train = np.shape(getattr(part, field))[1:] if part else None, np.shape(getattr(parts[0], field))[1:]
                if own is not None and own != train:
                    raise ValueError(check.message(f"{where}: {name}", f"each {field} must have the shape of train's, {train}", own))
        return Split(*parts)  # type: ignore[arg-type]
    return Split(as_dataset(where, data))


def as_dataset(where: str, data: Any, least: int = 2) -> Dataset:
    """A checked `Dataset` of NumPy arrays in JAX's dtypes; traced arrays pass as they are."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(check.message(where, "data must be Dataset(x, y) or a Split", type(data).__name__, "such as Dataset(x, y)"))
    if any(check.is_traced(leaf) for leaf in data):
        return Dataset(*data)
    x, y = (_numeric(where, name, values) for name, values in zip("xy", data, strict=True))
    if len(x) != len(y):
        raise ValueError(check.message(where, "x and y must have one entry for each example", f"{len(x)} and {len(y)}"))
    if len(x) < least:
        raise ValueError(check.message(where, f"a data set must have at least {least} example{'s' if least > 1 else ''}", len(x)))
    return Dataset(x, y)


def _numeric(where: str, name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(check.message(where, f"{name} must be an array of numbers", "rows of different lengths")) from error
    if array.ndim == 0:
        raise ValueError(check.message(where, f"{name} must have a first axis of examples", f"shape {array.shape}"))
    if array.dtype == bool:
        return array.astype(np.int32)
    is_float = jnp.issubdtype(array.dtype, jnp.floating)
    if not is_float and array.dtype.kind not in "iu":
        kind = (
            "complex numbers are not supported"
            if np.issubdtype(array.dtype, np.complexfloating)
            else "turn text and categories into numbers first"
        )
        raise TypeError(check.message(where, f"{name} must hold numbers", f"dtype {array.dtype}", kind))
    native = np.dtype(np.float64) if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):
        cast = array.astype(jax.dtypes.canonicalize_dtype(native), copy=False)
    if is_float and not np.all(np.isfinite(cast)):
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(cast))[0])
        raise ValueError(
            check.message(where, f"{name} must be finite", f"{array[place]} at index {place}", "fill or drop such examples first")
        )
    if not is_float and np.any(cast != array):
        raise ValueError(check.message(where, f"{name} must fit in {cast.dtype}", array[cast != array][0]))
    return cast
