"""What optimizers are made of: parts in sequence, each of which turns moves into other moves.

The first part gets the gradients as its moves; the last part's moves are the updates. One part applies the learning rate. It gets the rate
with each step, so the same part serves for a schedule, a traced number and a plain number. Moves are computed in at least float32, and
rounded once, at the end, to the dtypes of the gradients.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.leaves import Where
from funcnet.optimizers.freezing import only
from funcnet.optimizers.protocol import Functions, Optimizer, State, as_arrays, check_alike
from funcnet.schedules import ScalarOrSchedule
from funcnet.tree import Params, PyTree, Scalar, abs_square, at_least_float32, cast, next_count, root, traced_once, wide


class At(NamedTuple):
    """What a part knows about a step besides the moves."""

    grads: PyTree  # as the first part got them; the updates have their dtypes
    params: Params | None
    rate: Scalar  # shape (), the learning rate of this step


class Part(NamedTuple):
    """One transformation without its checks: update(moves, state, at) -> (moves, state)."""

    update: Callable[[PyTree, Any, At], tuple[PyTree, Any]]
    init: Callable[[Params], Any] | None = None  # None if the part keeps no state
    complex_too: bool = True  # whether it takes complex numbers


class ScheduledState(NamedTuple):
    """What an optimizer with a schedule carries from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    state: State  # of its parts


def stateless(move: Callable[[PyTree, At], PyTree], complex_too: bool = True) -> Part:
    """A part that keeps no state."""
    return Part(lambda moves, state, at: (move(moves, at), state), None, complex_too)


def composed(name: str, parts: Sequence[Part], learning_rate: ScalarOrSchedule = 1.0, where: Where | None = None) -> Optimizer:
    """Composes parts into an optimizer, whose updates are the moves of the last part in the dtypes of the gradients.

    Args:
      name: for messages.
      parts: the first takes the gradients as its moves, each other one the moves of the one before.
      learning_rate: shape (), >= 0; or a schedule, which gives a rate for each step.
      where: which leaves it trains; None for all of them.

    Returns:
      An `Optimizer`. If exactly one part keeps a state, the optimizer's state is that one, else a tuple of the parts' states. With a
      schedule it is inside a `ScheduledState`.

    Raises:
      ValueError: the learning rate is negative.
    """
    scheduled, complex_too = callable(learning_rate), all(part.complex_too for part in parts)
    if not callable(learning_rate):
        check.in_range(name, "learning_rate", learning_rate, 0)
    inits = [part.init for part in parts if part.init is not None]

    def init(params: Params) -> State:
        params = as_arrays(name, "params", params, complex_too)
        states = tuple(init(params) for init in inits)
        state = states[0] if len(states) == 1 else states
        return ScheduledState(jnp.zeros((), jnp.int32), state) if scheduled else state

    def update(grads: PyTree, state: State, params: Params | None = None, **extra: Any) -> tuple[PyTree, State]:
        grads = as_arrays(name, "gradients", grads, complex_too)
        if params is not None:
            params = as_arrays(name, "params", params, complex_too)
            check_alike(name, "gradients", grads, params)
        kept = state.state if scheduled else state
        before = iter((kept,) if len(inits) == 1 else kept if inits else ())
        at = At(grads, params, _rate(name, learning_rate, state))
        moves, after = grads, []
        for part in parts:
            if part.init is None:
                moves, _ = part.update(moves, (), at)
            else:
                moves, own = part.update(moves, next(before), at)
                after.append(own)
        if after:  # if no part keeps a state, the given state is returned unchanged, even another library's
            kept = after[0] if len(after) == 1 else tuple(after)
        return rounded(moves, grads), ScheduledState(next_count(state.step), kept) if scheduled else kept

    return only(name, where, Functions(init, update))


def _rate(name: str, learning_rate: ScalarOrSchedule, state: State) -> Scalar:
    if not callable(learning_rate):
        return learning_rate
    rate = learning_rate(state.step)
    if jnp.shape(rate) != ():
        got = f"shape {jnp.shape(rate)}"
        raise TypeError(check.message(name, "a schedule must give one number a step", got, "return a scalar"))
    return rate


@traced_once
def _times(scalar: Scalar, moves: PyTree) -> PyTree:
    return jax.tree.map(lambda move: cast(scalar, wide(move)) * wide(move), moves)


@traced_once
def _down(rate: Scalar, moves: PyTree, like: PyTree) -> PyTree:
    return jax.tree.map(lambda move, like: (-cast(rate, wide(move)) * wide(move)).astype(like.dtype), moves, like)


by_rate = stateless(lambda moves, at: _down(at.rate, moves, at.grads))  # the last part of most: downhill, in the gradients' dtypes
by_rate_upwards = stateless(lambda moves, at: _times(at.rate, moves))
negated = stateless(lambda moves, at: jax.tree.map(jnp.negative, moves))
rounded_between = stateless(lambda moves, at: rounded(moves, at.grads))


def rounded(moves: PyTree, like: PyTree) -> PyTree:
    """The moves in the dtypes of another tree."""
    return jax.tree.map(lambda move, like: move if move.dtype == like.dtype else move.astype(like.dtype), moves, like)


def positive(name: str, **values: Scalar) -> None:
    """Raises ValueError where a number is negative."""
    for argument, value in values.items():
        check.in_range(name, argument, value, 0)


def share(name: str, **values: Scalar) -> None:
    """Raises ValueError where a number isn't in [0, 1)."""
    for argument, value in values.items():
        check.in_range(name, argument, value, 0, 1)


# Arithmetic of averages and roots, in at least float32


def corrections(step: jax.Array, *decays: Scalar) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The next step's number t, and 1 - decay^t for each decay: the sum of the weights in an average that started at zero."""
    step = next_count(step)
    t = step.astype(jnp.result_type(float))
    return step, tuple(1 - jnp.asarray(decay, t.dtype) ** t for decay in decays)


def averaged(decay: Scalar, old: PyTree, new: PyTree) -> PyTree:
    """decay * old + (1 - decay) * new, in old's dtypes."""
    part = jnp.asarray(decay, jnp.result_type(float))
    return blended(part, old, 1 - part, new)


def blended(a: Scalar, left: PyTree, b: Scalar, right: PyTree) -> PyTree:
    """a * left + b * right, leaf by leaf, in left's dtypes."""
    check_alike("optimizer", "gradients", right, left)
    return _blend_all(a, left, b, right)


@traced_once
def _blend_all(a: Scalar, left: PyTree, b: Scalar, right: PyTree) -> PyTree:
    return jax.tree.map(lambda left, right: blend(a, left, b, right), left, right)


def blend(a: Scalar, left: jax.Array, b: Scalar, right: jax.Array) -> jax.Array:
    """a * left + b * right, rounded once to left's dtype: in bfloat16 a decay of 0.999 would be 1, and 1 - decay zero."""
    return weighed(a, left, b, right).astype(left.dtype)


def weighed(a: Scalar, left: jax.Array, b: Scalar, right: jax.Array) -> jax.Array:
    """a * left + b * right in left's dtype, but at least float32."""
    left = wide(left)
    if jnp.shape(left) != jnp.shape(right):
        raise ValueError(check.message("optimizer", f"gradients must have the shapes of the state's, {jnp.shape(left)}", jnp.shape(right)))
    if jnp.iscomplexobj(right) and not jnp.iscomplexobj(left):
        raise TypeError(check.message("optimizer", "gradients must be real where params are", right.dtype, "take the real part"))
    return cast(a, left) * left + cast(b, left) * right.astype(left.dtype)


@traced_once
def squares(tree: PyTree) -> PyTree:
    """|x|^2, leaf by leaf."""
    return jax.tree.map(abs_square, tree)


def wide_zeros(params: Params) -> PyTree:
    """Zeros in the shapes of params, at least float32."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=at_least_float32(p.dtype)), params)


def no_squares(params: Params) -> PyTree:
    """Zeros for sums or means of squares, in at least float32.

    In float16 the square of 1e-4 is zero, and in bfloat16 an average with a decay of 0.999 would not change.
    """
    return jax.tree.map(lambda p: jnp.zeros_like(p, jnp.finfo(at_least_float32(p.dtype)).dtype), params)


@traced_once
def corrected(averages: PyTree, total: Scalar) -> PyTree:
    """Averages that started at zero, divided by the total of their weights so far, in at least float32."""
    return jax.tree.map(lambda average: wide(average) / cast(total, wide(average)), averages)


@traced_once
def paced(steps: PyTree, v: PyTree, eps: Scalar, eps_root: Scalar) -> PyTree:
    """steps / (sqrt(v + eps_root) + eps), in at least float32."""
    return jax.tree.map(lambda step, v: divided(wide(step), v, eps, eps_root), steps, v)


def divided(step: jax.Array, v: jax.Array, eps: Scalar, eps_root: Scalar) -> jax.Array:
    """step / (sqrt(v + eps_root) + eps) of one leaf."""
    return over(step, root(v + cast(eps_root, v)) + cast(eps, v))


def over(step: jax.Array, size: jax.Array) -> jax.Array:
    """step / size, and zero where size is zero, as it is before the first nonzero gradient if eps is zero."""
    zero = size == 0
    return jnp.where(zero, jnp.zeros((), step.dtype), step / jnp.where(zero, jnp.ones((), size.dtype), size).astype(step.dtype))


def rms(x: jax.Array) -> jax.Array:
    """Root mean square of one leaf, shape ()."""
    return root(jnp.mean(abs_square(x)))


def with_mean_in(name: str, mu_dtype: jax.typing.DTypeLike | None, part: Part) -> Part:
    """The part with its state's mean kept in mu_dtype: a step uses the mean before it is rounded. Complex means are never rounded."""
    if mu_dtype is None:
        return part
    assert part.init is not None
    dtype, init = _floating(name, mu_dtype), part.init

    def kept(state: Any) -> Any:
        return state._replace(mean=jax.tree.map(lambda m: m if jnp.iscomplexobj(m) else m.astype(dtype), state.mean))

    def widened(m: jax.Array, g: jax.Array) -> jax.Array:
        dtypes = at_least_float32(m.dtype), jnp.finfo(g.dtype).dtype
        return m if jnp.iscomplexobj(m) else m.astype(max(dtypes, key=lambda dtype: dtype.itemsize))

    def update(moves: PyTree, state: Any, at: At) -> tuple[PyTree, Any]:
        before = state._replace(mean=jax.tree.map(widened, state.mean, moves))
        moves, state = part.update(moves, before, at)
        return moves, kept(state)

    return Part(update, lambda params: kept(init(params)), part.complex_too)


def _floating(name: str, mu_dtype: jax.typing.DTypeLike) -> jnp.dtype:
    try:
        dtype = jnp.dtype(mu_dtype)
    except TypeError:
        dtype = np.dtype(object)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(check.message(name, "mu_dtype must be a floating-point dtype", repr(mu_dtype), "such as 'bfloat16'"))
    return dtype
