"""Who goes to which part: strata shared out evenly, groups kept whole. NumPy alone; what an example holds is not looked at."""

from typing import Any

import numpy as np

from funcnet import check


def labels_of(where: str, name: str, values: Any, examples: int) -> np.ndarray:
    """Each example's class or group as an integer from 0 on, shape (examples,), in the order in which the values sort.

    Args:
      where: who asks, for the message.
      name: the argument, "stratify" or "groups".
      values: one number, text or row of numbers an example.
      examples: how many there are.

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
    """Raises where a class has one example alone: it can't be in two parts."""
    least = np.bincount(strata).min()
    if least < 2:
        rule = "stratify must have at least 2 examples of each class"
        raise ValueError(check.message(where, rule, least, "leave such examples out, or join classes; bin a target of real numbers"))


def shared_out(strata: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """How many examples of each class each part gets, shape (classes, parts), int.

    Every number is the exact share, class size * part size / examples, rounded up or down, and every part gets its size. Where
    that leaves a choice a class is in every part rather than missing in one; then the largest remainders are rounded up.

    Args:
      strata: each example's class, shape (examples,), int.
      sizes: shape (parts,), int, which add up to the examples.

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
    # Whole numbers with given sums of rows and columns are a flow, whose best solution a simplex finds at whole numbers.
    wanted = rest / len(strata) + 2.0 * (low == 0) + 0.1 * (np.arange(parts) == 0)
    ones = np.ones((1, parts)), np.ones((1, classes))
    sums = sparse.vstack([sparse.kron(sparse.eye(classes), ones[0]), sparse.kron(ones[1], sparse.eye(parts))], format="csr")
    missing = np.concatenate([members - low.sum(1), sizes - low.sum(0)])
    up = linprog(-wanted.ravel(), A_eq=sums, b_eq=missing, bounds=np.stack([0 * rest, rest > 0], -1).reshape(-1, 2), method="highs-ds").x
    return np.asarray(low + np.rint(up).astype(int).reshape(low.shape), int)


def parts_by_class(strata: np.ndarray, counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The part of each example, where each part takes so many of each class, in turn.

    Args:
      strata: each example's class, shape (examples,), int.
      counts: shape (classes, parts), int.
      order: in which the examples are taken, shape (examples,), int.

    Returns:
      Shape (examples,), int.
    """
    part = np.empty(len(strata), int)
    for kind, each in enumerate(counts):
        part[order[strata[order] == kind]] = np.repeat(np.arange(len(each)), each)
    return part


def parts_by_group(groups: np.ndarray, strata: np.ndarray, sizes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The part of each example, where a group goes to one part alone, the one that misses most of what the group has.

    Groups are taken in a given order. A part's size is missed by less than a group's, times the other parts; none is empty.

    Args:
      groups: each example's group, shape (examples,), int, of which there are at least as many as parts.
      strata: each example's class, shape (examples,), int; all the same where classes don't count.
      sizes: shape (parts,), int, all above zero, which add up to the examples.
      order: in which the groups are taken, shape (groups,), int.

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
    """The fold of each example, shape (examples,), int: groups stay whole, the largest first, each to the smallest fold.

    As scikit-learn's GroupKFold; order says in which order groups of one size are taken.
    """
    sizes, filled = np.bincount(groups), np.zeros(folds, int)
    fold = np.empty(len(sizes), int)
    for group in order[np.argsort(sizes[order], kind="stable")][::-1]:
        fold[group] = np.argmin(filled)
        filled[fold[group]] += sizes[group]
    return np.asarray(fold[groups], int)


def folds_by_group_and_class(groups: np.ndarray, strata: np.ndarray, folds: int, order: np.ndarray) -> np.ndarray:
    """The fold of each example, shape (examples,), int: groups stay whole, and classes are spread as evenly as that lets them.

    As scikit-learn's StratifiedGroupKFold: the groups with the most uneven classes first, each to the fold where the shares of
    the classes then vary least among the folds; order says in which order groups that are alike are taken.
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
