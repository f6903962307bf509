"""Transformations that scale gradients by averages of gradients and of their squares.

Each `scale_by_...` is an `Optimizer` that returns directions; a learning rate after it in a `chain` scales them. `by_...` is the same rule
as a `Part`, of which the named optimizers are composed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.optimizers.parts import (
    At,
    Part,
    averaged,
    blend,
    composed,
    corrected,
    corrections,
    divided,
    no_squares,
    over,
    paced,
    positive,
    rounded,
    share,
    squares,
    weighed,
    wide_zeros,
    with_mean_in,
)
from funcnet.optimizers.protocol import Optimizer, check_alike
from funcnet.tree import Params, PyTree, Scalar, abs_square, cast, next_count, root, wide, zeros_like

# Averages of squares only


class AdagradState(NamedTuple):
    """What AdaGrad carries from step to step."""

    sum_of_squares: Params  # structure and shapes of params; real, at least float32


def scale_by_rss(eps: Scalar = 1e-10, *, eps_root: Scalar = 0.0, initial_sum: Scalar = 0.0) -> Optimizer:
    """The part of `adagrad` before the learning rate: gradients divided by the root of the sum of their squares so far.

    v    <- v + gradient^2
    move =  gradient / (sqrt(v + eps_root) + eps)

    Args:
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      initial_sum: shape (), v before the first step, >= 0.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> scaling = scale_by_rss()
      >>> moves, state = scaling.update(jnp.array([2.0]), scaling.init(jnp.array([1.0])))
      >>> print(moves)
      [1.]

    Source: Duchi, Hazan and Singer (2011).
    """
    return composed("scale_by_rss", [by_rss("scale_by_rss", eps, eps_root, initial_sum)])


def by_rss(name: str, eps: Scalar, eps_root: Scalar, initial_sum: Scalar) -> Part:
    """`scale_by_rss` as a `Part`."""
    positive(name, eps=eps, eps_root=eps_root, initial_sum=initial_sum)

    def init(params: Params) -> AdagradState:
        return AdagradState(jax.tree.map(lambda zero: jnp.full_like(zero, initial_sum), no_squares(params)))

    def update(moves: PyTree, state: AdagradState, at: At) -> tuple[PyTree, AdagradState]:
        added = jax.tree.map(abs_square, moves)
        check_alike(name, "gradients", added, state.sum_of_squares)
        v = jax.tree.map(lambda v, square: v + square.astype(v.dtype), state.sum_of_squares, added)
        return paced(moves, v, eps, eps_root), AdagradState(v)

    return Part(update, init)


class RmspropState(NamedTuple):
    """What RMSProp carries from step to step, except its velocity."""

    mean_square: Params  # structure and shapes of params; real, at least float32
    mean: Params = None  # of the gradients, if centered, else None; at least float32, complex where params are


def scale_by_rms(decay: Scalar = 0.9, eps: Scalar = 1e-8, *, eps_root: Scalar = 0.0, centered: bool = False) -> Optimizer:
    """The part of `rmsprop` before the learning rate: gradients divided by the root of the mean of their recent squares.

    v    <- decay * v + (1 - decay) * gradient^2
    move =  gradient / (sqrt(v + eps_root) + eps)

    With centered, the square of the mean of recent gradients is subtracted from v first.

    Args:
      decay: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      centered: True divides by the standard deviation of recent gradients, False by their root mean square.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> scaling = scale_by_rms(0.75)
      >>> moves, state = scaling.update(jnp.array([2.0]), scaling.init(jnp.array([1.0])))
      >>> print(moves)
      [2.]

    Source: Tieleman and Hinton (2012), lecture 6.5 of Neural Networks for Machine Learning; Graves (2013) for the centered form.
    """
    return composed("scale_by_rms", [by_rms("scale_by_rms", decay, eps, eps_root, centered)])


def by_rms(name: str, decay: Scalar, eps: Scalar, eps_root: Scalar, centered: bool) -> Part:
    """`scale_by_rms` as a `Part`."""
    share(name, decay=decay)
    positive(name, eps=eps, eps_root=eps_root)

    def init(params: Params) -> RmspropState:
        return RmspropState(no_squares(params), wide_zeros(params) if centered else None)

    def update(moves: PyTree, state: RmspropState, at: At) -> tuple[PyTree, RmspropState]:
        v, mean = averaged(decay, state.mean_square, squares(moves)), None
        spread = v
        if centered:
            mean = averaged(decay, state.mean, moves)
            spread = jax.tree.map(lambda v, m: jnp.maximum(v - abs_square(m), 0), v, mean)  # rounding may leave less than nothing
        return paced(moves, spread, eps, eps_root), RmspropState(v, mean)

    return Part(update, init)


class AdadeltaState(NamedTuple):
    """What AdaDelta carries from step to step."""

    mean_square: Params  # of the gradients; structure and shapes of params, at least float32
    mean_square_update: Params  # the same, of the updates before the learning rate


def scale_by_adadelta(rho: Scalar = 0.9, eps: Scalar = 1e-6) -> Optimizer:
    """The part of `adadelta` before the learning rate: moves about as large as recent moves.

    v    <- rho * v + (1 - rho) * gradient^2
    move =  sqrt(u + eps) / sqrt(v + eps) * gradient
    u    <- rho * u + (1 - rho) * move^2

    Args:
      rho: shape (), share of the averages kept each step, in [0, 1).
      eps: shape (), squared gradient units, >= 0.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> scaling = scale_by_adadelta(eps=0.1)
      >>> moves, state = scaling.update(jnp.array([2.0]), scaling.init(jnp.array([1.0])))
      >>> print(moves.round(4))
      [0.8944]

    Source: Zeiler (2012), algorithm 1.
    """
    return composed("scale_by_adadelta", [by_adadelta("scale_by_adadelta", rho, eps)])


def by_adadelta(name: str, rho: Scalar, eps: Scalar) -> Part:
    """`scale_by_adadelta` as a `Part`."""
    share(name, rho=rho)
    positive(name, eps=eps)

    def update(moves: PyTree, state: AdadeltaState, at: At) -> tuple[PyTree, AdadeltaState]:
        v = averaged(rho, state.mean_square, squares(moves))

        def move(u: jax.Array, v: jax.Array, g: jax.Array) -> jax.Array:
            return over(root(u + cast(eps, u)) * g.astype(u.dtype), root(v + cast(eps, v)))

        moves = jax.tree.map(move, state.mean_square_update, v, moves)
        return moves, AdadeltaState(v, averaged(rho, state.mean_square_update, squares(moves)))

    return Part(update, lambda params: AdadeltaState(no_squares(params), no_squares(params)), complex_too=False)


class Factors(NamedTuple):
    """A leaf's mean squares, kept only as their means along each of its two longest axes; at least float32."""

    rows: jax.Array  # means along the leaf's longest axis, which is left out
    columns: jax.Array  # means along its second longest axis, which is left out


class AdafactorState(NamedTuple):
    """What Adafactor carries from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    mean_square: Params  # for each leaf its `Factors`, or all of its mean squares if it is too small for them; at least float32


def scale_by_factored_rms(decay_rate: Scalar = 0.8, eps: Scalar = 1e-30, *, min_dim_size_to_factor: int = 128) -> Optimizer:
    """The first part of `adafactor`: gradients divided by the root of their mean squares, kept as row and column means for a matrix.

    decay = 1 - t^-decay_rate
    v     <- decay * v + (1 - decay) * (gradient^2 + eps), or its row means R and column means C: v is R * C / mean(R)
    move  = gradient / sqrt(v)

    Args:
      decay_rate: shape (), >= 0; the larger, the faster the decay rises to 1.
      eps: shape (), squared gradient units, >= 0.
      min_dim_size_to_factor: at least 1; leaves whose second longest axis is at least this long are kept as row and column means.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> scaling = scale_by_factored_rms(min_dim_size_to_factor=2)
      >>> moves, state = scaling.update(jnp.array([[1.0, 2.0], [2.0, 4.0]]), scaling.init(jnp.ones((2, 2))))
      >>> print(moves, state.mean_square.rows)
      [[1. 1.]
       [1. 1.]] [ 2.5 10. ]

    Source: Shazeer and Stern (2018), algorithms 4 and 5; as in optax.
    """
    name = "scale_by_factored_rms"
    return composed(name, [by_factored_rms(name, decay_rate, eps, min_dim_size_to_factor)])


def by_factored_rms(name: str, decay_rate: Scalar, eps: Scalar, min_dim_size_to_factor: int) -> Part:
    """`scale_by_factored_rms` as a `Part`."""
    positive(name, decay_rate=decay_rate, eps=eps)
    shortest = check.whole(name, "min_dim_size_to_factor", min_dim_size_to_factor, 1)

    def init(params: Params) -> AdafactorState:
        def zeros(leaf: jax.Array) -> jax.Array | Factors:
            axes = _longest_axes(leaf.shape, shortest)
            return leaf if axes is None else Factors(*(jnp.mean(leaf, axis) for axis in axes))

        return AdafactorState(jnp.zeros((), jnp.int32), jax.tree.map(zeros, no_squares(params)))

    def update(moves: PyTree, state: AdafactorState, at: At) -> tuple[PyTree, AdafactorState]:
        step = next_count(state.step)
        t = step.astype(jnp.result_type(float))
        decay = 1 - t ** -jnp.asarray(decay_rate, t.dtype)

        def one(g: jax.Array, v: Any) -> tuple[jax.Array, jax.Array | Factors]:
            move, square = wide(g), abs_square(g)
            square = square + cast(eps, square)
            axes = _longest_axes(g.shape, shortest)
            if axes is None:
                v = blend(decay, v, 1 - decay, square)
                return over(move, root(v)), v
            v = Factors(*(blend(decay, old, 1 - decay, jnp.mean(square, axis)) for old, axis in zip(v, axes, strict=True)))
            rows, columns = (jnp.expand_dims(mean, axis) for mean, axis in zip(v, axes, strict=True))
            part = over(root(rows), root(jnp.mean(rows, axes[1], keepdims=True)))
            return over(over(move, part), root(columns)), v

        each = jax.tree.map(one, moves, state.mean_square)
        moved, v = (jax.tree.map(lambda g, pair, i=i: pair[i], moves, each) for i in (0, 1))
        return moved, AdafactorState(step, v)

    return Part(update, init, complex_too=False)


def _longest_axes(shape: tuple[int, ...], shortest: int) -> tuple[int, int] | None:
    """The longest axis and the second longest; None if the second is shorter than `shortest`."""
    if len(shape) < 2:
        return None
    *_, second, first = map(int, np.argsort(shape))
    return (first, second) if shape[second] >= shortest else None


# Averages of gradients and of squares: Adam and its relatives


class AdamState(NamedTuple):
    """What Adam and its relatives carry from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    mean: Params  # structure, shapes and dtypes of params; or of mu_dtype
    mean_square: Params  # structure and shapes of params; real, at least float32


def no_steps(params: Params) -> AdamState:
    """An `AdamState` before the first step."""
    return AdamState(jnp.zeros((), jnp.int32), zeros_like(params), no_squares(params))


def check_adam(name: str, b1: Scalar, b2: Scalar, eps: Scalar, eps_root: Scalar) -> None:
    """Raises ValueError where a number of Adam's is out of range."""
    share(name, b1=b1, b2=b2)
    positive(name, eps=eps, eps_root=eps_root)


def scale_by_adam(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> Optimizer:
    """The part of `adam` before the learning rate.

    m    <- b1 * m + (1 - b1) * gradient
    v    <- b2 * v + (1 - b2) * gradient^2
    move =  (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t) + eps_root) + eps)

    `chain(scale_by_adam(), scale_by_learning_rate(rate))` is `adam(rate)`; in bfloat16 it rounds once more, between the two.

    Args:
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      mu_dtype: dtype in which m is kept, such as "bfloat16"; None for that of params. Complex m stay as they are.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> scaling = scale_by_adam()
      >>> moves, state = scaling.update(jnp.array([2.0]), scaling.init(jnp.array([1.0])))
      >>> print(moves.round(4))
      [1.]

    Source: Kingma and Ba (2015), algorithm 1.
    """
    return composed("scale_by_adam", [by_adam("scale_by_adam", b1, b2, eps, eps_root, mu_dtype)])


def by_adam(name: str, b1: Scalar, b2: Scalar, eps: Scalar, eps_root: Scalar, mu_dtype: jax.typing.DTypeLike | None = None) -> Part:
    """`scale_by_adam` as a `Part`."""
    check_adam(name, b1, b2, eps, eps_root)

    def update(moves: PyTree, state: AdamState, at: At) -> tuple[PyTree, AdamState]:
        step, (correct_m, correct_v) = corrections(state.step, b1, b2)
        m, v = averaged(b1, state.mean, moves), averaged(b2, state.mean_square, squares(moves))
        return paced(corrected(m, correct_m), corrected(v, correct_v), eps, eps_root), AdamState(step, m, v)

    return with_mean_in(name, mu_dtype, Part(update, no_steps))


class AmsgradState(NamedTuple):
    """What AMSGrad carries from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    mean: Params  # structure, shapes and dtypes of params; or of mu_dtype
    mean_square: Params  # structure and shapes of params; real, at least float32
    max_mean_square: Params  # the same: the largest mean square so far, after correction for starting at zero


def scale_by_amsgrad(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> Optimizer:
    """The part of `amsgrad` before the learning rate.

    u    <- max(u, v / (1 - b2^t))
    move =  (m / (1 - b1^t)) / (sqrt(u + eps_root) + eps)

    m and v as in `scale_by_adam`.

    Args:
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      mu_dtype: dtype in which m is kept, such as "bfloat16"; None for that of params. Complex m stay as they are.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> scaling = scale_by_amsgrad(b1=0.0)
      >>> _, state = scaling.update(jnp.array([4.0]), scaling.init(jnp.array([1.0])))
      >>> moves, state = scaling.update(jnp.array([2.0]), state)  # its size is half of the largest
      >>> print(moves.round(4))
      [0.5]

    Source: Reddi, Kale and Kumar (2018).
    """
    return composed("scale_by_amsgrad", [by_amsgrad("scale_by_amsgrad", b1, b2, eps, eps_root, mu_dtype)])


def by_amsgrad(name: str, b1: Scalar, b2: Scalar, eps: Scalar, eps_root: Scalar, mu_dtype: jax.typing.DTypeLike | None) -> Part:
    """`scale_by_amsgrad` as a `Part`."""
    check_adam(name, b1, b2, eps, eps_root)

    def init(params: Params) -> AmsgradState:
        return AmsgradState(*no_steps(params), no_squares(params))

    def update(moves: PyTree, state: AmsgradState, at: At) -> tuple[PyTree, AmsgradState]:
        step, (correct_m, correct_v) = corrections(state.step, b1, b2)
        m, v = averaged(b1, state.mean, moves), averaged(b2, state.mean_square, squares(moves))
        u = jax.tree.map(jnp.maximum, state.max_mean_square, corrected(v, correct_v))
        return paced(corrected(m, correct_m), u, eps, eps_root), AmsgradState(step, m, v, u)

    return with_mean_in(name, mu_dtype, Part(update, init))


class AdamaxState(NamedTuple):
    """What AdaMax carries from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    mean: Params  # structure, shapes and dtypes of params
    max_size: Params  # structure and shapes of params; at least float32


def scale_by_adamax(b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Optimizer:
    """The part of `adamax` before the learning rate.

    m    <- b1 * m + (1 - b1) * gradient
    u    <- max(b2 * u, |gradient| + eps)
    move =  (m / (1 - b1^t)) / u

    Args:
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of u kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> scaling = scale_by_adamax()
      >>> moves, state = scaling.update(jnp.array([2.0]), scaling.init(jnp.array([1.0])))
      >>> print(moves.round(4))
      [1.]

    Source: Kingma and Ba (2015), algorithm 2.
    """
    return composed("scale_by_adamax", [by_adamax("scale_by_adamax", b1, b2, eps)])


def by_adamax(name: str, b1: Scalar, b2: Scalar, eps: Scalar) -> Part:
    """`scale_by_adamax` as a `Part`, which rounds its moves to the dtypes of the gradients."""
    check_adam(name, b1, b2, eps, 0.0)

    def init(params: Params) -> AdamaxState:
        return AdamaxState(jnp.zeros((), jnp.int32), zeros_like(params), no_squares(params))

    def update(moves: PyTree, state: AdamaxState, at: At) -> tuple[PyTree, AdamaxState]:
        step, (correct_m,) = corrections(state.step, b1)
        m = averaged(b1, state.mean, moves)

        def largest(u: jax.Array, g: jax.Array) -> jax.Array:
            return jnp.maximum(cast(b2, u) * u, jnp.abs(g.astype(u.dtype)) + cast(eps, u))

        u = jax.tree.map(largest, state.max_size, moves)
        moves = rounded(jax.tree.map(over, corrected(m, correct_m), u), at.grads)
        return moves, AdamaxState(step, m, u)

    return Part(update, init, complex_too=False)


def scale_by_belief(b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-16, *, eps_root: Scalar = 1e-16) -> Optimizer:
    """The part of `adabelief` before the learning rate.

    m    <- b1 * m + (1 - b1) * gradient
    v    <- b2 * v + (1 - b2) * (gradient - m)^2 + eps_root
    move =  (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Args:
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0; it stays in v, as in the paper.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> scaling = scale_by_belief(b1=0.5)
      >>> moves, state = scaling.update(jnp.array([2.0]), scaling.init(jnp.array([1.0])))
      >>> print(moves.round(4))
      [2.]

    Source: Zhuang et al. (2020).
    """
    return composed("scale_by_belief", [by_belief("scale_by_belief", b1, b2, eps, eps_root)])


def by_belief(name: str, b1: Scalar, b2: Scalar, eps: Scalar, eps_root: Scalar) -> Part:
    """`scale_by_belief` as a `Part`."""
    check_adam(name, b1, b2, eps, eps_root)

    def update(moves: PyTree, state: AdamState, at: At) -> tuple[PyTree, AdamState]:
        step, (correct_m, correct_v) = corrections(state.step, b1, b2)
        m = averaged(b1, state.mean, moves)
        surprises = jax.tree.map(lambda g, m: abs_square(wide(g) - wide(m)), moves, m)
        v = jax.tree.map(lambda v: v + cast(eps_root, v), averaged(b2, state.mean_square, surprises))
        return paced(corrected(m, correct_m), corrected(v, correct_v), eps, 0.0), AdamState(step, m, v)

    return Part(update, no_steps)


def scale_by_radam(b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8, *, eps_root: Scalar = 0.0) -> Optimizer:
    """The part of `radam` before the learning rate: Adam's moves, rectified, and momentum's in the first steps.

    Args:
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> scaling = scale_by_radam()
      >>> moves, state = scaling.update(jnp.array([2.0]), scaling.init(jnp.array([1.0])))
      >>> print(moves.round(4))
      [2.]

    Source: Liu et al. (2020), algorithm 2.
    """
    return composed("scale_by_radam", [by_radam("scale_by_radam", b1, b2, eps, eps_root)])


def by_radam(name: str, b1: Scalar, b2: Scalar, eps: Scalar, eps_root: Scalar) -> Part:
    """`scale_by_radam` as a `Part`."""
    check_adam(name, b1, b2, eps, eps_root)

    def update(moves: PyTree, state: AdamState, at: At) -> tuple[PyTree, AdamState]:
        step, (correct_m, correct_v) = corrections(state.step, b1, b2)
        m, v = averaged(b1, state.mean, moves), averaged(b2, state.mean_square, squares(moves))
        n, last = effective_count(step, b2)
        enough = n >= 5
        n, last = jnp.where(enough, n, 6), jnp.where(enough, last, 6)  # placeholders: no root of a negative number has a gradient
        rectified = jnp.sqrt((n - 4) * (n - 2) * last / ((last - 4) * (last - 2) * n))

        def move(m: jax.Array, v: jax.Array) -> jax.Array:
            return jnp.where(enough, cast(rectified, m) * divided(m, v, eps, eps_root), m)

        return jax.tree.map(move, corrected(m, correct_m), corrected(v, correct_v)), AdamState(step, m, v)

    return Part(update, no_steps)


def effective_count(step: jax.Array, decay: Scalar) -> tuple[jax.Array, jax.Array]:
    """The effective number of gradients in an average, after `step` steps and in the limit: twice their mean age, plus one.

    The mean age is h(z) - t * h(t * z), where z = -log(decay) and h(z) = 1 / (e^z - 1). If decay is near one, both terms are large and
    almost equal, so the difference is computed as (t - 1) / 2 + k(z) - t * k(t * z), where k(z) = h(z) - 1 / z + 1 / 2.
    """
    t = step.astype(jnp.result_type(float))
    decay = jnp.asarray(decay, t.dtype)
    z = -jnp.log(jnp.maximum(decay, 1e-30))

    def k(z: jax.Array) -> jax.Array:
        small, large = jnp.minimum(z, 0.1), jnp.maximum(z, 0.1)
        series = small * (1 / 12 - small**2 * (1 / 720 - small**2 * (1 / 30240 - small**2 / 1209600)))
        return jnp.where(z < 0.1, series, 1 / jnp.expm1(jnp.minimum(large, 80)) - 1 / large + 0.5)

    return t + 2 * (k(z) - t * k(t * z)), 2 / (1 - decay) - 1


class NadamState(NamedTuple):
    """What NAdam carries from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    momentum_product: jax.Array  # shape (), float: product of the momenta so far
    mean: Params  # structure, shapes and dtypes of params; or of mu_dtype
    mean_square: Params  # structure and shapes of params; real, at least float32


def scale_by_nadam(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    momentum_decay: Scalar | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> Optimizer:
    """The part of `nadam` before the learning rate: Adam's moves with the momentum of the next step.

    Args:
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      momentum_decay: shape (), per step, >= 0; None keeps the momentum at b1.
      mu_dtype: dtype in which m is kept, such as "bfloat16"; None for that of params. Complex m stay as they are.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> scaling = scale_by_nadam()
      >>> moves, state = scaling.update(jnp.array([2.0]), scaling.init(jnp.array([1.0])))
      >>> print(moves.round(4))
      [1.4737]

    Source: Dozat (2016).
    """
    return composed("scale_by_nadam", [by_nadam("scale_by_nadam", b1, b2, eps, eps_root, momentum_decay, mu_dtype)])


def by_nadam(
    name: str,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    eps_root: Scalar,
    momentum_decay: Scalar | None,
    mu_dtype: jax.typing.DTypeLike | None,
) -> Part:
    """`scale_by_nadam` as a `Part`."""
    check_adam(name, b1, b2, eps, eps_root)
    if momentum_decay is not None:
        positive(name, momentum_decay=momentum_decay)

    def mu(t: jax.Array) -> jax.Array:
        b = jnp.asarray(b1, t.dtype)
        return b if momentum_decay is None else b * (1 - 0.5 * 0.96 ** (t * jnp.asarray(momentum_decay, t.dtype)))

    def init(params: Params) -> NadamState:
        return NadamState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.result_type(float)), zeros_like(params), no_squares(params))

    def update(moves: PyTree, state: NadamState, at: At) -> tuple[PyTree, NadamState]:
        step, (correct_v,) = corrections(state.step, b2)
        t = step.astype(jnp.result_type(float))
        now, ahead = mu(t), mu(t + 1)
        product = state.momentum_product * now
        m, v = averaged(b1, state.mean, moves), averaged(b2, state.mean_square, squares(moves))
        of_mean, of_gradient = ahead / (1 - product * ahead), (1 - now) / (1 - product)

        steps = jax.tree.map(lambda m, g: weighed(of_mean, m, of_gradient, g), m, moves)
        return paced(steps, corrected(v, correct_v), eps, eps_root), NadamState(step, product, m, v)

    return with_mean_in(name, mu_dtype, Part(update, init))


# Averages of gradients only


class LionState(NamedTuple):
    """What Lion carries from step to step."""

    mean: Params  # structure, shapes and dtypes of params; or of mu_dtype


def scale_by_lion(b1: Scalar = 0.9, b2: Scalar = 0.99, *, mu_dtype: jax.typing.DTypeLike | None = None) -> Optimizer:
    """The part of `lion` before the learning rate: the sign of the averaged gradient.

    move =  sign(b1 * m + (1 - b1) * gradient)
    m    <- b2 * m + (1 - b2) * gradient

    Args:
      b1: shape (), share of m in the step, in [0, 1).
      b2: shape (), share of m kept each step, in [0, 1).
      mu_dtype: dtype in which m is kept, such as "bfloat16"; None for that of params.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> scaling = scale_by_lion()
      >>> moves, state = scaling.update(jnp.array([2.0, -0.1]), scaling.init(jnp.ones(2)))
      >>> print(moves)
      [ 1. -1.]

    Source: Chen et al. (2023).
    """
    return composed("scale_by_lion", [by_lion("scale_by_lion", b1, b2, mu_dtype)])


def by_lion(name: str, b1: Scalar, b2: Scalar, mu_dtype: jax.typing.DTypeLike | None) -> Part:
    """`scale_by_lion` as a `Part`."""
    share(name, b1=b1, b2=b2)

    def update(moves: PyTree, state: LionState, at: At) -> tuple[PyTree, LionState]:
        part = jnp.asarray(b1, jnp.result_type(float))
        direction = jax.tree.map(lambda m, g: jnp.sign(weighed(part, m, 1 - part, g)).astype(m.dtype), state.mean, moves)
        return direction, LionState(averaged(b2, state.mean, moves))

    return with_mean_in(name, mu_dtype, Part(update, lambda params: LionState(zeros_like(params)), complex_too=False))
