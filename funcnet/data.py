"""Data sets, their parts, and the order in which training goes through the examples."""

import functools
import hashlib
import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check, partition
from funcnet.draws import bits, mixed
from funcnet.padded import Padded, checked, is_padded
from funcnet.tree import Scalar, examples_of, is_several, wide_dtype


class Dataset(NamedTuple):
    """Inputs x and targets y, with the examples on the first axis of both. A minibatch is a `Dataset` too.

    x and y may be lists, NumPy or JAX arrays, memory-mapped arrays, pandas or Polars data frames, or Arrow tables. They hold numbers
    or bools; a missing value is an error. For a model with several inputs, x is a dict or a tuple of such arrays. Sequences of
    different lengths are a `Padded`, which `pad` makes: x, one of several inputs, or y. Values after a sequence's length are set to zero.
    """

    x: Any  # shape (examples, *in_shape), or several in a dict or a tuple; or a Padded
    y: Any  # shape (examples, *target), or a Padded


class WeightedDataset(NamedTuple):
    """A data set in which some examples count more than others: losses and metrics are weighted means.

    A mean is sum(weights * loss) / sum(weights), over a minibatch in training and over the whole part in evaluation, as with torch's
    weighted losses and scikit-learn's `sample_weight`. For a part with weights `fit` and `sweep` report weighted values, and also
    the "unweighted_loss", the mean over the examples whose weight isn't zero.

    Example:
      >>> y = np.array([0, 0, 0, 1])
      >>> balanced = WeightedDataset(np.ones((4, 2)), y, class_weights(y)[y])
      >>> print(balanced.weights.round(3))
      [0.667 0.667 0.667 2.   ]
    """

    x: Any  # shape (examples, *in_shape)
    y: Any  # shape (examples, *target)
    weights: Any  # shape (examples,), >= 0


class FirstExamples(WeightedDataset):
    """A data set whose first examples have weight 1 and whose others have weight 0. Its metrics count as unweighted."""

    __slots__ = ()


AnyDataset: TypeAlias = Dataset | WeightedDataset


class Split(NamedTuple):
    """The parts of a data set: one to train on, one to choose variants by, and one for a final test. A part left out is None."""

    train: AnyDataset
    validation: AnyDataset | None = None
    test: AnyDataset | None = None


def split(
    dataset: AnyDataset,
    *,
    key: jax.Array | None = None,
    validation: float = 0.2,
    test: float = 0.0,
    stratify: Any = None,
    shuffle: bool = True,
    groups: Any = None,
) -> Split:
    """Shuffles a data set and cuts it into up to three parts.

    Args:
      dataset: `Dataset(x, y)`, or any pair of arrays, or a `WeightedDataset`, whose parts have weights too.
      key: a JAX random key that decides which part each example goes to; not used if shuffle is False.
      validation: share of the examples for choosing among variants, in [0, 1).
      test: share of the examples for the final test, in [0, 1); the two shares add up to less than 1.
      stratify: shape (examples,), the class of each example, such as dataset.y. Every part gets its exact share of each class,
        rounded up or down, and rounding avoids a part without a class. With groups, the shares are met as nearly as they allow.
      shuffle: False keeps the order: training takes the first examples (of each class), then validation, then test.
      groups: shape (examples,), the group of each example, such as the patient. A group stays in one part. The shares still count
        examples: they are met to within the size of one group, or of two groups if there are three parts.

    Returns:
      A `Split` of NumPy arrays in JAX's dtypes; a part whose share is zero is None. An array with a column whose values float32
      can't distinguish, such as seconds since 1970, stays in float64, so that `standardize` can still distinguish them.

    Raises:
      ValueError: a share is out of range, or so small or large that a part would be empty; a class has only one example, or a
        part fewer examples than there are classes; there are fewer groups than parts; the data is not usable.
      TypeError: the data doesn't hold numbers, or key isn't a JAX random key.

    Example:
      >>> parts = split(Dataset(np.ones((10, 3)), np.arange(10)), key=jax.random.key(0), test=0.1)
      >>> [len(part.y) for part in parts]
      [7, 2, 1]
      >>> rare = Dataset(np.ones((30, 3)), np.repeat([0, 1], [28, 2]))
      >>> [np.bincount(part.y).tolist() for part in split(rare, key=jax.random.key(0), stratify=rare.y) if part]
      [[23, 1], [5, 1]]
    """
    dataset = as_dataset("split", dataset, cast="gently")
    check.in_range("split", "validation", validation, 0, 1)
    check.in_range("split", "test", test, 0, 1)
    examples = examples_of(dataset.y)
    counts = {"validation": round(examples * validation), "test": round(examples * test)}
    for name, share in (("validation", validation), ("test", test)):
        if share > 0 and counts[name] == 0:
            raise ValueError(check.message("split", f"{name} must hold at least one example", f"a share of {share} of {examples}"))
    rest = examples - sum(counts.values())
    _check_left("split", rest, "lower validation or test")
    order = example_order("split", key, examples, shuffle=shuffle)
    if stratify is None and groups is None:
        pieces = np.split(order, [rest, rest + counts["validation"]])
    else:
        part = _parts({"train": rest, **counts}, order, stratify, groups)
        pieces = [order[part[order] == i] for i in range(3)]
        _check_left("split", len(pieces[0]), "groups are too large for these shares")
    return Split(*(examples_at(dataset, piece) if len(piece) else None for piece in pieces))  # type: ignore[arg-type]


def examples_at(dataset: AnyDataset, rows: np.ndarray) -> AnyDataset:
    """The examples at these indices of a data set of NumPy arrays, in the order of the indices."""
    taken: AnyDataset = jax.tree.map(lambda field: field[rows], dataset)
    return taken


def example_order(where: str, key: jax.Array | None, examples: int, *, shuffle: bool) -> np.ndarray:
    """The order in which examples are dealt out to parts, shape (examples,), int; without shuffling, the given order."""
    if not shuffle:
        return np.arange(examples)
    check.random_key(where, key)
    assert key is not None
    return np.asarray(jax.random.permutation(key, examples))


def _check_left(where: str, count: int, fix: str) -> None:
    if count < 2:
        raise ValueError(check.message(where, "at least two examples must be left to train on", count, fix))


def _parts(sizes: dict[str, int], order: np.ndarray, stratify: Any, groups: Any) -> np.ndarray:
    """The part of each example, as an index into sizes, shape (examples,), int."""
    examples = len(order)
    strata = np.zeros(examples, int) if stratify is None else partition.labels_of("split", "stratify", stratify, examples)
    wanted = np.array(list(sizes.values()))
    if stratify is not None:
        partition.check_strata("split", strata)
        classes = strata.max() + 1
        for name, size in sizes.items():
            if 0 < size < classes:
                rule = f"{name} must hold at least one example of each of the {classes} classes to stratify by"
                raise ValueError(check.message("split", rule, f"{size} example{'s' if size > 1 else ''}", "a larger share"))
    if groups is None:
        return partition.parts_by_class(strata, partition.shared_out(strata, wanted), order)
    members = partition.labels_of("split", "groups", groups, examples)
    used = np.flatnonzero(wanted)
    if members.max() + 1 < len(used):
        raise ValueError(check.message("split", f"there must be a group for each of the {len(used)} parts", members.max() + 1))
    met = members[order]
    turns = met[np.sort(np.unique(met, return_index=True)[1])]
    return np.asarray(used[partition.parts_by_group(members, strata, wanted[used], turns)])


def class_weights(y: Any, num_classes: int | None = None) -> np.ndarray:
    """Weights that make every class count the same: examples / (classes * examples of the class).

    Args:
      y: labels from 0 to num_classes - 1, shape (examples,) or (examples, 1); a bool is 0 or 1.
      num_classes: at least 1; by default the largest label plus one.

    Returns:
      One weight for each class, shape (num_classes,), in JAX's default float dtype. `class_weights(y)[y]` gives each example its
      weight; their mean is 1. A class without examples has weight 0 and isn't counted among the classes.

    Raises:
      TypeError: y doesn't hold integers.
      ValueError: a label is out of range, or there are no labels.

    Example:
      >>> print(class_weights(np.array([0, 0, 0, 1])).round(3))
      [0.667 2.   ]

    Source: scikit-learn's class_weight="balanced".
    """
    labels = as_numbers("class_weights", "y", y)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(check.message("class_weights", "y must hold labels, whole numbers", labels.dtype, "such as y.astype(int)"))
    if labels.size == 0 or labels.size != len(labels):
        raise ValueError(check.message("class_weights", "y must hold one label an example", f"shape {labels.shape}"))
    count = int(labels.max()) + 1 if num_classes is None else check.whole("class_weights", "num_classes", num_classes, 1)
    bad = labels[(labels < 0) | (labels >= count)]
    if bad.size:
        raise ValueError(check.message("class_weights", f"labels must be in [0, {count - 1}]", bad.ravel()[0]))
    members = np.bincount(labels.ravel(), minlength=count)
    weights = np.where(members > 0, labels.size / (np.count_nonzero(members) * np.maximum(members, 1)), 0)
    return np.asarray(weights, jnp.result_type(float))


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Encodes each label as a vector of zeros with a one at the label's index.

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


def mixup(key: jax.Array, batch: Dataset, alpha: Scalar = 0.2) -> Dataset:
    """Mixes each example of a minibatch with another one of it, and their targets in the same proportion.

    x <- share * x + (1 - share) * x of the other; the same for y; share ~ Beta(alpha, alpha), one for the minibatch

    Args:
      key: a JAX random key.
      batch: x and y with the examples on the first axis; y holds numbers or distributions, because labels can't be mixed.
      alpha: shape (), > 0. A small alpha mixes little in most steps; with alpha = 1 the share is uniform in [0, 1].

    Returns:
      A `Dataset` of as many examples.

    Raises:
      TypeError: y holds labels, x or y is a `Padded`, or the batch is weighted (an example of weight 0 must not be used).
      ValueError: alpha is not positive.

    Example:
      Minibatches are mixed in a training's step, and not in evaluation:

      >>> from funcnet import layers, losses, optimizers
      >>> from funcnet.train import training
      >>> model = training(layers.dense(3), losses.cross_entropy, optimizers.sgd(0.1), in_shape=(2,))
      >>> def step(state, batch, key):
      ...     mix_key, key = jax.random.split(key)
      ...     return model.step(state, mixup(mix_key, Dataset(batch.x, one_hot(batch.y, 3))), key)
      >>> mixed = model._replace(step=step)
      >>> state, metrics = mixed.step(model.init(jax.random.key(0)), Dataset(jnp.ones((4, 2)), jnp.array([0, 1, 2, 0])), jax.random.key(1))
      >>> sorted(metrics)
      ['loss']

    Source: Zhang et al. (2018), as in their code.
    """
    check.in_range("mixup", "alpha", alpha, 0, ends="()")
    if any(map(is_padded, jax.tree.leaves(batch, is_leaf=is_padded))):
        raise TypeError(check.message("mixup", "x and y must be arrays", "a Padded", "there is nothing between two lengths"))
    if len(batch) != 2:
        raise TypeError(check.message("mixup", "batch must be (x, y)", f"{len(batch)} arrays", "set batch_size where num_examples varies"))
    x, y = jax.tree.map(jnp.asarray, batch.x), jnp.asarray(batch.y)
    if not check.is_floating(y):
        raise TypeError(check.message("mixup", "y must be floating point", y.dtype, "one_hot makes distributions of labels"))
    share_key, order_key = jax.random.split(key)
    share = jax.random.beta(share_key, *(jnp.asarray(alpha, jnp.result_type(float)),) * 2)
    others = jax.random.permutation(order_key, len(y))

    def along(part: jax.Array) -> jax.Array:
        part = part.astype(wide_dtype(part))
        own = share.astype(part.dtype)
        return own * part + (1 - own) * part[others]

    return Dataset(jax.tree.map(along, x), along(y))


def minibatch(key: jax.Array, step: Any, num_examples: Any, batch_size: int) -> jax.Array:
    """Computes which examples are in the minibatch of one step, without running the steps before it.

    Training goes through the data set in minibatches, and shuffles it again for every epoch. The last examples of an epoch, at most
    batch_size - 1, are skipped if they don't fill a minibatch. The shuffle is a keyed permutation, the swap-or-not shuffle, which is
    computed for each place separately: nothing is sorted, and no order is kept between steps.

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
    """Applies the permutation of 0 .. count - 1 given by key and epoch to these places; all arguments but key are uint32.

    In each round every place has a partner: the two add up to a random pivot, modulo count. A random bit for the pair decides
    whether they swap.
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


def as_split(where: str, data: Any, cast: str = "always", least: int = 2) -> Split:
    """Checks a `Split` or a data set and returns a `Split` of NumPy arrays; traced arrays are returned as they are.

    Args:
      where: name of the caller, for messages.
      data: a `Split` or a data set.
      cast: as in `as_dataset`.
      least: the least number of examples to train on.
    """
    if isinstance(data, Split):
        parts = [
            None if part is None else as_dataset(f"{where}: {name}", part, least=least if name == "train" else 1, cast=cast)
            for name, part in zip(Split._fields, data, strict=True)
        ]
        if parts[0] is None:
            raise TypeError(check.message(where, "data must have a training part", "None"))
        for name, part in zip(Split._fields[1:], parts[1:], strict=True):
            for field in ("x", "y") if part else ():
                own, train = (example_shape(getattr(other, field)) for other in (part, parts[0]))
                if own != train:
                    fix = "pad(sequences, size) makes both as long" if is_padded(own) and is_padded(train) else ""
                    raise ValueError(check.message(f"{where}: {name}", f"each {field} must have the shape of train's, {train}", own, fix))
        return Split(*parts)  # type: ignore[arg-type]
    return Split(as_dataset(where, data, least=least, cast=cast))


def as_dataset(where: str, data: Any, least: int = 2, cast: str = "always") -> AnyDataset:
    """Checks a data set and returns it as NumPy arrays; traced arrays are returned as they are.

    Args:
      where: name of the caller, for messages.
      data: a pair of arrays, or a `WeightedDataset`.
      least: the least number of examples.
      cast: whether to cast to JAX's dtypes: "always", with a warning if different numbers of a column become equal by it; "gently",
        only if none do; or "never".
    """
    if isinstance(data, tuple | list) and _holds_datasets(data):
        splits = all(isinstance(part, Split) for part in data)
        fix = "folds are for sweep; give one of them" if splits else "Split(train, validation) says which is which"
        raise TypeError(check.message(where, "data must be Dataset(x, y) or a Split", f"{len(data)} data sets", fix))
    weighted = isinstance(data, WeightedDataset)
    if not weighted and (not isinstance(data, tuple | list) or len(data) != 2):
        fix = "WeightedDataset(x, y, weights)" if isinstance(data, tuple | list) and len(data) == 3 else "such as Dataset(x, y)"
        raise TypeError(check.message(where, "data must be Dataset(x, y) or a Split", type(data).__name__, fix))
    if any(check.is_traced(leaf) for leaf in jax.tree.leaves(data)):
        return data if weighted else Dataset(*data)
    y = as_padded(where, "y", data[1], cast) if is_padded(data[1]) else as_numbers(where, "y", data[1], cast)
    examples = examples_of(y)
    x = _as_inputs(where, "x", data[0], cast, examples)
    lengths = sorted({len(leaf) for leaf in jax.tree.leaves(x)})
    if lengths != [examples]:
        raise ValueError(
            check.message(where, "x and y must have one entry for each example", f"{' or '.join(map(str, lengths))} and {examples}")
        )
    if examples < least:
        raise ValueError(check.message(where, f"a data set must have at least {least} example{'s' if least > 1 else ''}", examples))
    return WeightedDataset(x, y, _as_weights(where, data.weights, examples)) if weighted else Dataset(x, y)


def _as_inputs(where: str, name: str, x: Any, cast: str, examples: int) -> Any:
    """Checks inputs: an array of numbers, a dict or tuple of arrays, or a `Padded`."""
    if is_padded(x):
        return as_padded(where, name, x, cast)
    if isinstance(x, Mapping) and x:
        return {key: _as_inputs(where, f"{name}[{key!r}]", value, cast, examples) for key, value in x.items()}
    if is_several(x) and not (len(x) == examples and np.ndim(x[0]) == 1 and len(x[0]) != examples):  # else a tuple of examples
        each = [_as_inputs(where, f"{name}[{i}]", value, cast, examples) for i, value in enumerate(x)]
        return type(x)(*each) if hasattr(x, "_fields") else tuple(each)
    return as_numbers(where, name, x, cast)


def as_padded(where: str, name: str, x: Padded, cast: str = "always") -> Padded:
    """Checks sequences and returns them as NumPy arrays, zero after their lengths; `cast` as in `as_dataset`."""
    length = np.asarray(x.length)
    values = _array(where, f"{name}.values", x.values)
    checked(f"{where}: {name}", Padded(values, length), first=True)
    outside = np.arange(values.shape[1])[None] >= length[:, None]
    if np.any(values[outside] != 0):  # true for NaN too
        values = values.copy()
        values[outside] = 0
    return Padded(as_numbers(where, f"{name}.values", values, cast), length.astype(np.int32))


def example_shape(x: Any) -> Any:
    """The shape of one example; for several inputs, their shapes in the same structure."""
    return jax.tree.map(lambda leaf: tuple(np.shape(leaf)[1:]), x)


def _as_weights(where: str, weights: Any, examples: int) -> np.ndarray:
    """Checks weights, and returns them with shape (examples,) in JAX's default float dtype."""
    given = as_numbers(where, "weights", weights, cast="never").astype(jnp.result_type(float))
    check.shape_is(where, "weights", given.shape, (examples,), fix="one for each example")
    if np.any(given < 0):
        raise ValueError(check.message(where, "weights must be at least 0", given[given < 0][0]))
    if not np.any(given > 0):
        raise ValueError(check.message(where, "some weight must be above 0", "none"))
    return given


def as_numbers(where: str, name: str, values: Any, cast: str = "always") -> np.ndarray:
    """Checks numbers with the examples on the first axis, and returns a NumPy array; `cast` as in `as_dataset`."""
    given = _array(where, name, values)
    if given.ndim == 0:
        raise ValueError(check.message(where, f"{name} must have a first axis of examples", f"shape {given.shape}"))
    if given.dtype == bool:
        return given.astype(np.int32)
    is_float = jnp.issubdtype(given.dtype, jnp.floating)
    native = np.dtype(np.float64) if given.dtype.kind == "f" and given.dtype.itemsize > 8 else given.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):
        usual = given.astype(jax.dtypes.canonicalize_dtype(native), copy=False)
    place = _first_infinite(usual) if is_float else None
    if place is not None:
        raise ValueError(
            check.message(where, f"{name} must be finite", f"{given[place]} at index {place}", "fill or drop such examples first")
        )
    if not is_float and np.any(usual != given):
        raise ValueError(check.message(where, f"{name} must fit in {usual.dtype}", given[usual != given][0]))
    if cast == "never":
        return given.astype(native, copy=False)
    collapsed = _collapsed(given)
    if collapsed is None:
        return usual
    if cast == "gently":
        return given.astype(native, copy=False)
    column, before, after = collapsed
    got = f"only {after} left of {before} in {_column_name(name, given, values, column)}"
    rule = f"different values of {name} must differ in float32"
    warnings.warn(check.message(where, rule, got, "standardize them first, or subtract their mean in float64"), UserWarning, stacklevel=3)
    return usual


def _first_infinite(array: np.ndarray) -> tuple[int, ...] | None:
    """The index of the first number that isn't finite, searched in blocks, so that a memory-mapped array isn't loaded as a whole."""
    block = max(1, _LOOKED_AT // max(1, math.prod(array.shape[1:])))
    for begin in range(0, len(array), block):
        fine = np.isfinite(array[begin : begin + block])
        if not fine.all():
            first, *rest = np.argwhere(~fine)[0].tolist()
            return begin + first, *rest
    return None


def as_examples(where: str, x: Any) -> Any:
    """Checks examples to predict on: an array of numbers, finite or not, or several; a JAX array is returned as it is."""
    if isinstance(x, jax.Array):
        return x
    if is_several(x):
        return jax.tree.map(functools.partial(as_examples, where), x, is_leaf=lambda part: part is not x and not is_several(part))
    given = _array(where, "x", x)
    return given.astype(np.int32) if given.dtype == bool else given


_DATASETS = (Dataset, WeightedDataset, Split)


def _holds_datasets(data: Any) -> bool:
    """Whether a list or tuple holds data sets, which may be pairs of arrays; a pair of inputs and targets doesn't."""

    def is_pair(part: Any) -> bool:
        return (
            isinstance(part, tuple)
            and not is_padded(part)
            and len(part) == 2
            and all(hasattr(own, "shape") and len(own.shape) > 0 for own in part)
        )

    return any(isinstance(part, _DATASETS) for part in data) or (not isinstance(data, _DATASETS) and bool(data) and all(map(is_pair, data)))


def _array(where: str, name: str, values: Any) -> np.ndarray:
    """Converts values to a NumPy array of numbers or bools; a table with columns of several dtypes is converted column by column."""
    rule = f"{name} must be an array of numbers"
    if hasattr(values, "toarray") or hasattr(values, "todense"):
        raise TypeError(check.message(where, rule, f"a sparse {type(values).__name__}", "x.toarray() or x.todense() is dense"))
    if hasattr(values, "collect") and not hasattr(values, "shape"):
        raise TypeError(check.message(where, rule, f"a lazy {type(values).__name__}", "x.collect() is a table"))
    ragged = check.message(where, rule, "rows of different lengths", "pad(rows) makes sequences of them")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(ragged) from error
    if array.dtype == object and hasattr(values, "iloc") and array.ndim == 2:
        array = np.column_stack([_column(values.iloc[:, i]) for i in range(array.shape[1])])
    elif array.dtype == object and hasattr(values, "iloc"):
        array = _column(values)
    elif array.dtype == object and array.ndim == 2 and _labels(values):
        array = np.column_stack([np.asarray(values[label]) for label in _labels(values)])
    if array.dtype == object and array.ndim == 1 and len(array) and all(isinstance(row, list | tuple | np.ndarray) for row in array):
        if len({np.shape(row) for row in array}) > 1:
            raise ValueError(ragged)
        array = np.stack(list(array))
    if array.dtype.kind not in "biu" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(check.message(where, f"{name} must hold numbers", *_no_numbers(array, values)))
    return array


def _column(series: Any) -> np.ndarray:
    """A column of a pandas frame as an array; a nullable dtype becomes float64, with NaN for a missing value."""
    nullable = not isinstance(series.dtype, np.dtype) and getattr(series.dtype, "kind", "O") in "biuf"
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan) if nullable else series.to_numpy())


def _labels(values: Any) -> list[Any]:
    """The column names of a pandas, Polars or Arrow table; empty for anything else."""
    names = getattr(values, "column_names", None)  # Arrow's columns are the columns themselves
    names = getattr(values, "columns", None) if names is None else names
    return [] if names is None else list(names)


def _no_numbers(array: np.ndarray, values: Any) -> tuple[str, str]:
    """Two parts of an error message: what was found instead of numbers, and what to do."""
    if np.issubdtype(array.dtype, np.complexfloating):
        return f"dtype {array.dtype}", "complex numbers are not supported"
    labels = _labels(values) if array.ndim == 2 else []
    columns = [values.iloc[:, i] if hasattr(values, "iloc") else np.asarray(values[label]) for i, label in enumerate(labels)]
    odd = [label for label, column in zip(labels, columns, strict=True) if getattr(column.dtype, "kind", "O") not in "biuf"]
    column = f" in column {odd[0]!r}" if odd else ""
    return f"dtype {array.dtype}{column}", "turn text and categories into numbers first"


def _collapsed(given: np.ndarray) -> tuple[int, int, int] | None:
    """The first column that keeps half of its different values, or fewer, in float32, and their numbers before and after.

    A column that varies by no more than float64's rounding counts as constant.
    """
    if jax.dtypes.canonicalize_dtype(np.float64) != np.float32 or given.dtype.itemsize < 4 or given.dtype == np.float32:
        return None
    columns = given.reshape(len(given), math.prod(given.shape[1:]))
    rows = max(64, _LOOKED_AT // max(1, columns.shape[1]))
    spread = slice(None, None, math.ceil(2 * len(columns) / rows))  # the first examples, which are neighbours, and some spread over all
    some = (columns if len(columns) <= rows else np.concatenate([columns[: rows // 2], columns[spread]])).astype(np.float64)
    if np.array_equal(some, some.astype(np.float32)):
        return None
    some = np.sort(some, axis=0)
    varies = np.ptp(some, axis=0) > 1e-12 * np.abs(some).max(0)
    before, after = (1 + np.count_nonzero(np.diff(values, axis=0), axis=0) for values in (some, some.astype(np.float32)))
    bad = np.flatnonzero(varies & (2 * after <= before))
    return (int(bad[0]), int(before[bad[0]]), int(after[bad[0]])) if bad.size else None


_LOOKED_AT = 2**20  # numbers


def _column_name(name: str, array: np.ndarray, values: Any, column: int) -> str:
    labels = _labels(values)
    if array.ndim == 1:
        return name
    if labels:
        return f"column {labels[column]!r} of {name}"
    place = np.unravel_index(column, array.shape[1:])
    return f"column {column} of {name}" if array.ndim == 2 else f"{name} at {tuple(int(i) for i in place)}"


def part_digest(part: AnyDataset | None) -> str | None:
    """SHA-256 of a part's arrays: their dtypes, shapes and bytes; None if there is no part."""
    if part is None:
        return None
    found = hashlib.sha256()
    if is_several(part.x) or is_padded(part.y):
        found.update(str(jax.tree.structure(part)).encode())
    for array in map(np.ascontiguousarray, jax.tree.leaves(part)):
        found.update(f"{array.dtype.str} {array.shape} ".encode())
        found.update(array.view(np.uint8).data if array.size else b"")
    return found.hexdigest()
