"""Sequences of different lengths: one array, filled up to a common length, and how many steps of each are real.

What stands after a sequence's length decides nothing. Whoever computes with it puts the sequence's own first step there (`filled`):
a function that is finite for the real steps is finite for these, and so is its slope, which zero or whatever was there may not give.
What is made of them is then zero (`zeroed`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check


class Padded(NamedTuple):
    """A sequence, or a set of them, whose first `length` steps are real; what stands after them has no say.

    Of one example, values has the shape (time, *rest) and length (); of a data set, (examples, time, *rest) and (examples,), as `pad`
    makes them; in a batch the examples lie last on both. As in_shape it is `Padded((time, *rest), ())`. A length is in [1, time]:
    others are refused, except in a traced one, which counts as the nearest that is in it.

    Example:
      >>> sequences = Padded(np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]]), np.array([2, 3]))
      >>> [values[:length].tolist() for values, length in zip(*sequences)]
      [[1.0, 2.0], [3.0, 4.0, 5.0]]
    """

    values: Any  # (time, *rest), (examples, time, *rest), or in a batch (time, *rest, examples)
    length: Any  # int, () or (examples,): how many of its steps are real


def pad(sequences: Sequence[Any], size: int | None = None, value: float = 0) -> Padded:
    """Sequences of different lengths as one array, each filled up behind.

    Args:
      sequences: a list of arrays of shape (length, *rest), each with a length of its own, at least 1, and all with the same rest; they
        may be lists of numbers.
      size: steps to fill up to, at least as many as the longest has; None for that many.
      value: what to fill up with. It decides nothing, but who draws or prints the arrays sees it.

    Returns:
      A `Padded` of NumPy arrays: values, shape (examples, size, *rest), and length, shape (examples,), int32. `Dataset(pad(...), y)` is
      a data set of them.

    Raises:
      TypeError: sequences is no list of arrays of numbers.
      ValueError: a sequence has no step, more than size, or another rest than the first one; or value doesn't go with their dtype.

    Example:
      >>> padded = pad([[1, 2, 3], [4]])
      >>> print(padded.values, padded.length)
      [[1 2 3]
       [4 0 0]] [3 1]
    """
    if isinstance(sequences, Padded) or not isinstance(sequences, list | tuple | np.ndarray):
        raise TypeError(check.message("pad", "sequences must be a list of arrays", type(sequences).__name__))
    arrays = [_sequence(i, sequence) for i, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError(check.message("pad", "there must be at least one sequence", "none"))
    lengths = np.array([len(array) for array in arrays], np.int32)
    rest, longest = arrays[0].shape[1:], int(np.argmax(lengths))
    for i, array in enumerate(arrays):
        if array.shape[1:] != rest:
            rule = f"each step must have the shape of the first sequence's, {rest}"
            raise ValueError(check.message("pad", rule, f"{array.shape[1:]} in sequence {i}, of shape {array.shape}"))
    size = int(lengths[longest]) if size is None else check.whole("pad", "size", size, 1)
    if size < lengths[longest]:
        got = f"{size} and sequence {longest} of shape {arrays[longest].shape}"
        raise ValueError(
            check.message("pad", "size must be at least the longest sequence's length", got, "cut that one, or leave size out")
        )
    dtype = np.result_type(*arrays)
    filler = np.asarray(value)
    with np.errstate(invalid="ignore"):
        cast = filler.astype(dtype)
    if filler.shape != () or (dtype.kind in "biu" and not np.array_equal(cast, filler)):
        raise ValueError(check.message("pad", f"value must be one number of the sequences' dtype {dtype}", repr(value)))
    values = np.full((len(arrays), size, *rest), cast, dtype)
    for row, array in zip(values, arrays, strict=True):
        row[: len(array)] = array
    return Padded(values, lengths)


def _sequence(i: int, sequence: Any) -> np.ndarray:
    try:
        array = np.asarray(sequence)
    except ValueError as error:
        raise ValueError(check.message("pad", "each step of a sequence must have the same shape", f"several in sequence {i}")) from error
    if array.dtype.kind not in "biu" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(check.message("pad", "sequences must hold numbers", f"dtype {array.dtype} in sequence {i}"))
    if array.ndim == 0 or len(array) == 0:
        rule = "a sequence must have the shape (length, *rest), with at least one step"
        raise ValueError(check.message("pad", rule, f"shape {array.shape} in sequence {i}"))
    return array


def checked(where: str, x: Padded, *, first: bool = False) -> Padded:
    """A batch as arrays, its shapes and, where they are concrete, its lengths checked.

    Args:
      first: whether the examples lie first, as in a data set, not last.

    Raises:
      TypeError: the lengths are no whole numbers.
      ValueError: there isn't one for each example, or one is out of [1, time].
    """
    values, length = (part if hasattr(part, "shape") else jnp.asarray(part) for part in x)
    if not jnp.issubdtype(length.dtype, jnp.integer):
        raise TypeError(check.message(where, "the lengths of a Padded must be whole numbers", length.dtype))
    if values.ndim < 2 or length.shape != (values.shape[0 if first else -1],):
        shapes = [part.shape[1:] if first else part.shape[:-1] for part in (values, length)] if values.ndim and length.ndim else "no batch"
        rule = "a Padded must have values of shape (time, *rest) and a length of shape (), for each example"
        got = f"{values.shape} and {length.shape}, in a set" if first else f"{shapes}"
        raise ValueError(check.message(where, rule, got))
    if not check.is_traced(length):
        time, given = values.shape[1 if first else 0], np.asarray(length)
        bad = np.flatnonzero((given < 1) | (given > time))
        if bad.size:
            fix = "a sequence has at least one step; leave the empty ones out" if given[bad[0]] < 1 else "the values are cut off"
            got = f"{given[bad[0]]} for example {bad[0]}"
            raise ValueError(check.message(where, f"a length must be in [1, {time}], as there are {time} steps", got, fix))
    return Padded(values, length)


def count(x: Padded) -> jax.Array:
    """How many steps of each example of a batch are real, int32, shape (examples,); a traced length is brought into [1, time]."""
    return jnp.clip(jnp.asarray(x.length).astype(jnp.int32), 1, x.values.shape[0])


def real(x: Padded) -> jax.Array:
    """Which values of a batch are real, bool, shape (time, 1 for each axis of rest, examples)."""
    time, examples, rest = x.values.shape[0], x.values.shape[-1], x.values.ndim - 2
    inside = jax.lax.broadcasted_iota(jnp.int32, (time, examples), 0) < count(x)[None]
    return inside.reshape(time, *(1,) * rest, examples)


def filled(x: Padded) -> jax.Array:
    """The values of a batch, with each example's first step in the place of those after its length."""
    values = jnp.asarray(x.values)
    return jnp.where(real(x), values, values[:1])


def filled_up(x: Padded) -> np.ndarray:
    """As `filled`, of a set of NumPy arrays with the examples first."""
    inside = np.arange(x.values.shape[1])[None] < np.asarray(x.length)[:, None]
    return np.asarray(np.where(inside.reshape(*inside.shape, *(1,) * (x.values.ndim - 2)), x.values, x.values[:, :1]))


def zeroed(values: jax.Array, like: Padded) -> Padded:
    """What was made of the steps of a batch, zero after the lengths of what it was made of."""
    x = Padded(values, like.length)
    return x._replace(values=jnp.where(real(x), values, jnp.zeros((), values.dtype)))


def agreed(where: str, parts: Sequence[Padded], values: jax.Array) -> Padded:
    """What was made of the steps of several batches, whose lengths must be the same: NaN for an example of which traced ones aren't.

    Raises:
      ValueError: concrete lengths differ.
      TypeError: the values are whole numbers, which know no NaN, and the lengths are traced.
    """
    length = parts[0].length
    others = [other.length for other in parts[1:] if other.length is not length]
    for other in others:
        same = jnp.asarray(other).astype(jnp.int32) == jnp.asarray(length).astype(jnp.int32)
        if not check.is_traced(same):
            if not np.all(same):
                i = int(np.flatnonzero(~np.asarray(same))[0])
                got = f"{np.ravel(length)[i]} and {np.ravel(other)[i]} for example {i}"
                raise ValueError(check.message(where, "sequences of one example must have one length", got))
            continue
        if not check.is_floating(values):
            raise TypeError(check.message(where, "sequences with lengths of their own must hold real numbers here", values.dtype))
        values = jnp.where(same, values, np.asarray(np.nan, values.dtype))
    return Padded(values, length)


def map_values(fn: Callable[[Any], Any], tree: Any) -> Any:
    """fn of every leaf of a tree but lengths, which stay whole numbers."""

    def one(part: Any) -> Any:
        return part._replace(values=fn(part.values)) if isinstance(part, Padded) else fn(part)

    return jax.tree.map(one, tree, is_leaf=is_padded)


def is_padded(x: Any) -> bool:
    return isinstance(x, Padded)


def steps_of(x: Padded) -> tuple[np.ndarray, np.ndarray]:
    """The real steps of a set of NumPy arrays, the examples first, one after the other, and the example that each is of."""
    inside = np.arange(x.values.shape[1])[None] < np.asarray(x.length)[:, None]
    return np.asarray(x.values)[inside], np.nonzero(inside)[0]


def check_steps(check_fn: Callable[[Any, np.ndarray], None], outputs: Padded, y: Padded) -> None:
    """Checks the real steps of concrete targets, one a row, as `check_fn(outputs of one step, rows)` does; an error says of which example.

    Args:
      outputs: the shape of one prediction.
      y: targets, shape (examples, time, *target), and lengths.
    """
    if y.values.shape[1:2] != outputs.values[:1]:
        rule = f"y must hold a target for each of the {outputs.values[0]} steps, shape (examples, {outputs.values[0]}, ...)"
        raise ValueError(check.message("training", rule, np.shape(y.values), "or end the model with one vector for a sequence"))
    rows, example = steps_of(y)
    try:
        check_fn(outputs.values[1:], rows)
    except (TypeError, ValueError):
        for i in range(int(example[-1]) + 1):
            try:
                check_fn(outputs.values[1:], rows[example == i])
            except (TypeError, ValueError) as error:
                raise type(error)(f"{error} (a row is a step of example {i})") from error
        raise
