"""Sequences of different lengths: one array, padded to a common length, and the number of real steps of each sequence.

Values after a sequence's length never affect a result. Before computing, they are replaced with the sequence's first step (`filled`):
a function that is finite for the real steps is then finite there too, and so is its gradient. With zeros, or with what was there,
it need not be. After computing, the results at these steps are set to zero (`zeroed`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check


class Padded(NamedTuple):
    """A sequence, or a set of them, whose first `length` steps are real; the values after them are ignored.

    For one example, values has shape (time, *rest) and length (); for a data set, (examples, time, *rest) and (examples,), as `pad`
    makes them; in a batch the examples are on the last axis of both. As in_shape it is `Padded((time, *rest), ())`. A length outside
    [1, time] is refused; a traced one is clipped to that range.

    Example:
      >>> sequences = Padded(np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]]), np.array([2, 3]))
      >>> [values[:length].tolist() for values, length in zip(*sequences)]
      [[1.0, 2.0], [3.0, 4.0, 5.0]]
    """

    values: Any  # (time, *rest), (examples, time, *rest), or in a batch (time, *rest, examples)
    length: Any  # int, () or (examples,): how many of its steps are real


def pad(sequences: Sequence[Any], size: int | None = None, value: float = 0) -> Padded:
    """Puts sequences of different lengths into one array, with padding after each.

    Args:
      sequences: a list of arrays, or lists of numbers, of shape (length, *rest). Lengths may differ, and are at least 1; rest is the
        same for all.
      size: number of steps to pad to, at least the longest length; None for the longest length.
      value: the padding value. It doesn't affect results; you only see it when you draw or print the arrays.

    Returns:
      A `Padded` of NumPy arrays: values, shape (examples, size, *rest), and length, shape (examples,), int32. `Dataset(pad(...), y)` is
      a data set of them.

    Raises:
      TypeError: sequences is not a list of arrays of numbers.
      ValueError: there is no sequence; one has no step, more steps than size, or another rest than the first; or value doesn't fit
        their dtype.

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
    """Checks the shapes of a batch and, if they are concrete, its lengths; returns it as arrays.

    Args:
      first: whether the examples are on the first axis, as in a data set, and not on the last.

    Raises:
      TypeError: the lengths are not whole numbers.
      ValueError: there isn't one length for each example, or one is outside [1, time].
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
    """How many steps of each example of a batch are real, int32, shape (examples,); a traced length is clipped to [1, time]."""
    return jnp.clip(jnp.asarray(x.length).astype(jnp.int32), 1, x.values.shape[0])


def real(x: Padded) -> jax.Array:
    """Mask of the real values of a batch, bool, shape (time, 1 for each axis of rest, examples)."""
    time, examples, rest = x.values.shape[0], x.values.shape[-1], x.values.ndim - 2
    inside = jax.lax.broadcasted_iota(jnp.int32, (time, examples), 0) < count(x)[None]
    return inside.reshape(time, *(1,) * rest, examples)


def filled(x: Padded) -> jax.Array:
    """The values of a batch, where the steps after each example's length are replaced with its first step."""
    values = jnp.asarray(x.values)
    return jnp.where(real(x), values, values[:1])


def filled_up(x: Padded) -> np.ndarray:
    """As `filled`, for a set of NumPy arrays with the examples first."""
    inside = np.arange(x.values.shape[1])[None] < np.asarray(x.length)[:, None]
    return np.asarray(np.where(inside.reshape(*inside.shape, *(1,) * (x.values.ndim - 2)), x.values, x.values[:, :1]))


def zeroed(values: jax.Array, like: Padded) -> Padded:
    """Values computed from the steps of a batch, as a `Padded` that is zero after the batch's lengths."""
    x = Padded(values, like.length)
    return x._replace(values=jnp.where(real(x), values, jnp.zeros((), values.dtype)))


def agreed(where: str, parts: Sequence[Padded], values: jax.Array) -> Padded:
    """Values computed from the steps of several batches, whose lengths must be equal; an example whose traced lengths differ gets NaN.

    Raises:
      ValueError: concrete lengths differ.
      TypeError: the lengths are traced and the values are whole numbers, which can't be NaN.
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
    """Applies fn to every leaf of a tree except lengths, which stay whole numbers."""

    def one(part: Any) -> Any:
        return part._replace(values=fn(part.values)) if isinstance(part, Padded) else fn(part)

    return jax.tree.map(one, tree, is_leaf=is_padded)


def is_padded(x: Any) -> bool:
    return isinstance(x, Padded)


def steps_of(x: Padded) -> tuple[np.ndarray, np.ndarray]:
    """The real steps of a set of NumPy arrays (examples first), one after the other, and the index of each one's example."""
    inside = np.arange(x.values.shape[1])[None] < np.asarray(x.length)[:, None]
    return np.asarray(x.values)[inside], np.nonzero(inside)[0]


def check_steps(check_fn: Callable[[Any, np.ndarray], None], outputs: Padded, y: Padded) -> None:
    """Checks the real steps of concrete targets with `check_fn(outputs of one step, steps)`; an error names the example.

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
