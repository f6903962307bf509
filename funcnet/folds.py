"""Folds for cross-validation: the same data cut several times into a training and a validation part."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check, partition
from funcnet.data import AnyDataset, Dataset, FirstExamples, Split, as_dataset, as_split, example_order, examples_at
from funcnet.tree import examples_of

Folds: TypeAlias = tuple[Split, ...]


def k_fold(
    dataset: AnyDataset, folds: int, *, key: jax.Array | None = None, shuffle: bool = True, stratify: Any = None, groups: Any = None
) -> list[Split]:
    """Cuts a data set into folds; each is the validation part once, while the others are trained on.

    Args:
      dataset: `Dataset(x, y)`, or any pair of arrays, or a `WeightedDataset`.
      folds: number of folds, at least 2 and at most the number of examples.
      key: a JAX random key that decides which fold each example goes to; not used if shuffle is False.
      shuffle: False keeps neighbours together: the folds are those of scikit-learn's splitters that don't shuffle.
      stratify: shape (examples,), the class of each example, such as dataset.y. Any two folds differ by at most one example of each
        class, and by at most one in size.
      groups: shape (examples,), the group of each example, such as the patient. A group stays in one fold, and a greedy choice
        makes the folds similar in size. With stratify, classes are spread as evenly as the groups allow.

    Returns:
      A `Split(train, validation)` for each fold, the examples in the order given. `sweep` takes the list, and then ranks variants
      by their mean over the folds.

    Raises:
      ValueError: there are fewer examples or groups than folds, or every class has fewer examples than there are folds; the data
        is not usable.
      TypeError: the data doesn't hold numbers, or key isn't a JAX random key.

    Warns:
      UserWarning: a class has fewer examples than there are folds, so that some folds have none.

    Example:
      >>> from funcnet.data import Dataset
      >>> data = Dataset(np.ones((6, 2)), np.array([0, 0, 0, 0, 1, 1]))
      >>> [part.validation.y.tolist() for part in k_fold(data, 2, key=jax.random.key(0), stratify=data.y)]
      [[0, 0, 1], [0, 0, 1]]

    Source: as scikit-learn's KFold, StratifiedKFold, GroupKFold and StratifiedGroupKFold promise.
    """
    dataset = as_dataset("k_fold", dataset, cast="gently")
    examples = examples_of(dataset.y)
    folds = check.whole("k_fold", "folds", folds, 2, examples)
    order = example_order("k_fold", key, examples, shuffle=shuffle)
    fold = _fold_of(folds, order, shuffle, stratify, groups)
    return list(_splits("k_fold", dataset, [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(folds)]))


def time_series_folds(
    dataset: AnyDataset, folds: int, *, validation_size: int | None = None, max_train_size: int | None = None, gap: int = 0
) -> list[Split]:
    """Cuts a data set that is in order of time into folds whose training examples all come before their validation examples.

    The last folds * validation_size examples are the validation parts, one after the other; each fold trains on what comes before.

    Args:
      dataset: `Dataset(x, y)`, or any pair of arrays, or a `WeightedDataset`; the oldest example first.
      folds: at least 2.
      validation_size: examples in each validation part, at least 1; examples // (folds + 1) by default.
      max_train_size: most examples to train on, the latest ones, at least 2; None for all.
      gap: examples left out between the two parts, at least 0.

    Returns:
      A `Split(train, validation)` for each fold.

    Raises:
      ValueError: a number is out of range, or leaves the first fold fewer than two examples to train on.
      TypeError: the data doesn't hold numbers.

    Example:
      >>> from funcnet.data import Dataset
      >>> data = Dataset(np.ones((7, 1)), np.arange(7))
      >>> [(part.train.y.tolist(), part.validation.y.tolist()) for part in time_series_folds(data, 2)]
      [([0, 1, 2], [3, 4]), ([0, 1, 2, 3, 4], [5, 6])]

    Source: as scikit-learn's TimeSeriesSplit, whose test_size is validation_size here.
    """
    dataset = as_dataset("time_series_folds", dataset, cast="gently")
    examples = examples_of(dataset.y)
    folds = check.whole("time_series_folds", "folds", folds, 2, examples - 1)
    given = examples // (folds + 1) if validation_size is None else validation_size
    size = check.whole("time_series_folds", "validation_size", given, 1)
    gap = check.whole("time_series_folds", "gap", gap, 0)
    longest = examples if max_train_size is None else check.whole("time_series_folds", "max_train_size", max_train_size, 2)
    begins = range(examples - folds * size, examples, size)
    if begins[0] - gap < 2:
        rule = f"the first of {folds} folds of {size} must have at least two of the {examples} examples to train on"
        raise ValueError(check.message("time_series_folds", rule, max(0, begins[0] - gap), "fewer folds, or a smaller size or gap"))
    cuts = [(np.arange(max(0, begin - gap - longest), begin - gap), np.arange(begin, begin + size)) for begin in begins]
    return list(_splits("time_series_folds", dataset, cuts))


def as_folds(where: str, data: Any) -> Folds:
    """Checks a list of folds; other data becomes a single `Split`.

    Raises:
      ValueError: a fold has no validation part, or examples of another shape or kind than the first one's.
      TypeError: the data is neither a list of splits nor a data set.
    """
    if not are_folds(data):
        return (as_split(where, data),)
    folds = tuple(as_split(f"{where}: fold {i}", part) for i, part in enumerate(data))
    for i, fold in enumerate(folds):
        if fold.validation is None:
            raise ValueError(
                check.message(f"{where}: fold {i}", "every fold must have a validation part", "none", "Split(train, validation)")
            )
        mine, first = (_kind(own) for own in (fold, folds[0]))
        if mine != first:
            raise ValueError(check.message(f"{where}: fold {i}", f"every fold must hold what the first one holds, {first}", mine))
    return folds


def are_folds(data: Any) -> bool:
    """Whether data is a list of splits."""
    return isinstance(data, tuple | list) and not isinstance(data, Split) and any(isinstance(part, Split) for part in data)


def _kind(fold: Split) -> str:
    """Describes what must be the same in all folds: kinds of parts, dtypes and shapes of an example."""
    parts = [part for part in fold[:2] if part is not None]
    return " and ".join(
        f"{type(part).__name__}({', '.join(f'{name} {_shown(field)}' for name, field in part._asdict().items())})" for part in parts
    )


def _shown(field: Any) -> str:
    shown = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape[1:])}", field)
    return shown if isinstance(shown, str) else str(shown).replace("'", "")


def alike(folds: Sequence[Split]) -> Folds:
    """Pads the folds to the size of the largest, so that one program takes them all.

    A part is padded with copies of its last example. In a validation part the copies have weight 0; in a training part only
    the first, real examples are to be used.
    """
    if len(folds) == 1:
        return tuple(folds)
    train, validation = (max(examples_of(part.y) for part in parts) for parts in ([fold.train for fold in folds], _validations(folds)))
    weighs = len({examples_of(part.y) for part in _validations(folds)}) > 1
    return tuple(
        Split(_filled(fold.train, train), _filled(part, validation, weighs=weighs))
        for fold, part in zip(folds, _validations(folds), strict=True)
    )


def _validations(folds: Sequence[Split]) -> list[AnyDataset]:
    return [fold.validation for fold in folds if fold.validation is not None]


def _filled(part: AnyDataset, examples: int, *, weighs: bool = False) -> AnyDataset:
    own = examples_of(part.y)
    more = examples - own
    rows = np.concatenate([np.arange(own), np.full(more, own - 1)])
    filled = examples_at(part, rows) if more else part
    if not weighs:
        return filled
    counts = np.arange(examples) < own
    if isinstance(filled, Dataset):
        return FirstExamples(*filled, counts.astype(jnp.result_type(float)))
    return filled._replace(weights=np.where(counts, filled.weights, 0).astype(filled.weights.dtype))


def _splits(where: str, dataset: AnyDataset, cuts: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[Split]:
    for i, (train, validation) in enumerate(cuts):
        if len(train) < 2:
            raise ValueError(check.message(where, "every fold must leave at least two examples to train on", f"{len(train)} in fold {i}"))
        yield Split(examples_at(dataset, train), examples_at(dataset, validation))


def _fold_of(folds: int, order: np.ndarray, shuffle: bool, stratify: Any, groups: Any) -> np.ndarray:
    """The fold of each example, shape (examples,), int."""
    examples = len(order)
    strata = None if stratify is None else _strata(folds, stratify, examples)
    if groups is None:
        return partition.folds_plain(examples, folds, order) if strata is None else partition.folds_by_class(strata, folds, order)
    members = partition.labels_of("k_fold", "groups", groups, examples)
    if members.max() + 1 < folds:
        raise ValueError(check.message("k_fold", f"there must be a group for each of the {folds} folds", members.max() + 1, "fewer folds"))
    met = members[order]
    turns = met[np.sort(np.unique(met, return_index=True)[1])] if shuffle else np.arange(members.max() + 1)
    if strata is None:
        return partition.folds_by_group(members, folds, turns)
    return partition.folds_by_group_and_class(members, strata, folds, turns)


def _strata(folds: int, stratify: Any, examples: int) -> np.ndarray:
    strata = partition.labels_of("k_fold", "stratify", stratify, examples)
    members = np.bincount(strata)
    if members.max() < folds:
        rule = f"stratify must have at least {folds} examples of a class"
        raise ValueError(check.message("k_fold", rule, f"at most {members.max()}", "fewer folds; bin a target of real numbers"))
    if members.min() < folds:
        rule = f"every class must have at least {folds} examples to be in each fold"
        warnings.warn(check.message("k_fold", rule, members.min(), "fewer folds, or join classes"), UserWarning, stacklevel=4)
    return strata
