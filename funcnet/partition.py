"""Assigns examples to parts and folds: classes (strata) are spread evenly, groups stay whole. It never looks at the examples."""

from typing import Any

import numpy as np

from funcnet import check


def labels_of(where: str, name: str, values: Any, examples: int) -> np.ndarray:
    """The class or group of each example as an integer, shape (examples,): the sorted values are numbered from 0.

    Args:
      where: name of the caller, for messages.
      name: the argument, "stratify" or "groups".
      values: one number, text or row of numbers for each example.
      examples: the number of examples.

    Raises:
      ValueError: there is not one value for each example.
      TypeError: the values are of kinds that can't be compared.
    """
    array = np.asarray(values)
    if array.ndim not in (1, 2) or len(array) != examples:
        rule = f"{name} must hold one value for each of the {examples} examples"
        raise ValueError(check.message(where, rule, f"shape {array.shape}", "such as dataset.y"))
    try:
        found = np.unique(array, return_inverse=True, axis=None if array.ndim == 1 else 0)[1]
    except TypeError as error:
        rule = f"{name} must hold values of one kind"
        raise TypeError(check.message(where, rule, f"dtype {array.dtype}", f"such as {name}.astype(str)")) from error
    return np.asarray(found.reshape(-1), np.int64)


def check_strata(where: str, strata: np.ndarray) -> None:
    """Raises a ValueError if a class has only one example, which can't be in two parts."""
    least = np.bincount(strata).min()
    if least < 2:
        rule = "stratify must have at least 2 examples of each class"
        raise ValueError(check.message(where, rule, least, "leave such examples out, or join classes; bin a target of real numbers"))


def shared_out(strata: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """How many examples of each class each part gets, shape (classes, parts), int.

    Every number is the exact share, class size * part size / examples, rounded up or down, and every part gets its size. Where
    there is a choice, no part should miss a class; after that, the largest remainders are rounded up.

    Args:
      strata: each example's class, shape (examples,), int.
      sizes: shape (parts,), int, which add up to the number of examples.

    Example:
      >>> print(shared_out(np.repeat([0, 1], [28, 2]), np.array([24, 6])))
      [[23  5]
       [ 1  1]]
    """
    from scipy import sparse  # slow to import
    from scipy.optimize import linprog

    members = np.bincount(strata)
    low, rest = np.divmod(np.outer(members, sizes), len(strata))
    classes, parts = low.shape
    # Integers with given row and column sums are a network flow, for which the simplex method finds an integer optimum.
    wanted = rest / len(strata) + 2.0 * (low == 0) + 0.1 * (np.arange(parts) == 0)
    ones = np.ones((1, parts)), np.ones((1, classes))
    sums = sparse.vstack([sparse.kron(sparse.eye(classes), ones[0]), sparse.kron(ones[1], sparse.eye(parts))], format="csr")
    missing = np.concatenate([members - low.sum(1), sizes - low.sum(0)])
    up = linprog(-wanted.ravel(), A_eq=sums, b_eq=missing, bounds=np.stack([0 * rest, rest > 0], -1).reshape(-1, 2), method="highs-ds").x
    return np.asarray(low + np.rint(up).astype(int).reshape(low.shape), int)


def parts_by_class(strata: np.ndarray, counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The part of each example, given how many examples of each class each part gets.

    Args:
      strata: each example's class, shape (examples,), int.
      counts: examples of each class for each part, shape (classes, parts), int.
      order: the order in which examples are assigned, first part first, shape (examples,), int.

    Returns:
      Shape (examples,), int.
    """
    part = np.empty(len(strata), int)
    for kind, each in enumerate(counts):
        part[order[strata[order] == kind]] = np.repeat(np.arange(len(each)), each)
    return part


def parts_by_group(groups: np.ndarray, strata: np.ndarray, sizes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The part of each example, where a whole group goes to the part that most lacks the classes in it.

    Groups are assigned in a given order. A part's size is missed by less than a group's size times the number of other parts; no part
    is empty.

    Args:
      groups: each example's group, shape (examples,), int; there are at least as many groups as parts.
      strata: each example's class, shape (examples,), int; all the same if classes don't matter.
      sizes: shape (parts,), int, all above zero, which add up to the number of examples.
      order: the order in which groups are assigned, shape (groups,), int.

    Returns:
      Shape (examples,), int.
    """
    members = _members(groups, strata)
    classes = members.sum(0)
    missing = np.outer(sizes / len(groups), classes)
    part, held = np.empty(len(members), int), np.zeros(len(sizes), int)
    for taken, group in enumerate(order):
        need = missing @ (members[group] / classes**2)  # least squares of the shares of each class
        if np.count_nonzero(held == 0) == len(order) - taken:
            need[held > 0] = -np.inf
        part[group] = np.argmax(need)
        held[part[group]] += 1
        missing[part[group]] -= members[group]
    return np.asarray(part[groups], int)


def folds_plain(examples: int, folds: int, order: np.ndarray) -> np.ndarray:
    """The fold of each example, shape (examples,), int: sizes differ by at most one. As scikit-learn's KFold."""
    fold = np.empty(examples, int)
    for i, members in enumerate(np.array_split(order, folds)):
        fold[members] = i
    return fold


def folds_by_class(strata: np.ndarray, folds: int, order: np.ndarray) -> np.ndarray:
    """The fold of each example, shape (examples,), int: sizes, and numbers of each class, differ by at most one.

    As scikit-learn's StratifiedKFold: the sorted classes are dealt out to the folds in turn.
    """
    first = np.unique(strata[order], return_index=True)[1]
    renamed = np.argsort(np.argsort(first))[strata]  # classes in the order in which they are met
    dealt = np.sort(renamed)
    counts = np.stack([np.bincount(dealt[i::folds], minlength=len(first)) for i in range(folds)], axis=1)
    return parts_by_class(renamed, counts, order)


def folds_by_group(groups: np.ndarray, folds: int, order: np.ndarray) -> np.ndarray:
    """The fold of each example, shape (examples,), int: whole groups, the largest first, each go to the smallest fold.

    As scikit-learn's GroupKFold; order decides which of two groups of the same size comes first.
    """
    sizes, filled = np.bincount(groups), np.zeros(folds, int)
    fold = np.empty(len(sizes), int)
    for group in order[np.argsort(sizes[order], kind="stable")][::-1]:
        fold[group] = np.argmin(filled)
        filled[fold[group]] += sizes[group]
    return np.asarray(fold[groups], int)


def folds_by_group_and_class(groups: np.ndarray, strata: np.ndarray, folds: int, order: np.ndarray) -> np.ndarray:
    """The fold of each example, shape (examples,), int: groups stay whole, and classes are spread as evenly as that allows.

    As scikit-learn's StratifiedGroupKFold: the groups with the most uneven classes first, each to the fold that makes the shares
    of the classes vary least among the folds; order decides which of two equally uneven groups comes first.
    """
    members = _members(groups, strata)
    classes = members.sum(0)
    filled = np.zeros((folds, len(classes)))
    fold = np.empty(len(members), int)
    for group in order[np.argsort(-np.std(members[order], axis=1), kind="stable")]:
        best, least, held = 0, np.inf, np.inf
        for i in range(folds):
            tried = filled.copy()
            tried[i] += members[group]
            spread = np.mean(np.std(tried / classes, axis=0))
            if spread < least or (np.isclose(spread, least) and filled[i].sum() < held):
                best, least, held = i, spread, filled[i].sum()
        fold[group] = best
        filled[best] += members[group]
    return np.asarray(fold[groups], int)


def _members(groups: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """How many of each class are in each group, shape (groups, classes)."""
    counts = np.zeros((groups.max() + 1, strata.max() + 1))
    np.add.at(counts, (groups, strata), 1)
    return counts
