"""Transformations that turn directions into steps: velocity, weight decay, ratios of norms, and the learning rate."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcnet.leaves import Where, chosen, takes_path
from funcnet.optimizers.parts import (
    At,
    Part,
    blended,
    by_rate,
    by_rate_upwards,
    composed,
    positive,
    rms,
    share,
    stateless,
    wide_zeros,
)
from funcnet.optimizers.protocol import Optimizer, check_given
from funcnet.schedules import ScalarOrSchedule
from funcnet.tree import Params, PyTree, Scalar, abs_square, cast, root, wide, zeros_like


def scale_by_learning_rate(learning_rate: ScalarOrSchedule, *, flip_sign: bool = True) -> Optimizer:
    """Multiplies moves by -learning_rate: usually the last transformation of a `chain`.

    Args:
      learning_rate: shape (), >= 0; or a schedule.
      flip_sign: True multiplies by -learning_rate, which makes downhill steps of gradients; False by learning_rate.

    Returns:
      An `Optimizer` whose updates are added to params. With a schedule its state counts the updates made.

    Raises:
      ValueError: the learning rate is negative; a traced one cannot be checked.

    Example:
      >>> from funcnet import chain, scale_by_adam
      >>> optimizer = chain(scale_by_adam(), scale_by_learning_rate(0.5))
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-0.5]
    """
    return composed("scale_by_learning_rate", [by_rate if flip_sign else by_rate_upwards], learning_rate)


class MomentumState(NamedTuple):
    """What heavy-ball SGD carries from step to step."""

    velocity: Params  # structure, shapes and dtypes of params, before the learning rate; in lars at least float32, and after it


def trace(decay: Scalar = 0.9, *, nesterov: bool = False) -> Optimizer:
    """Replaces moves by a velocity: a sum of the moves so far that decays.

    velocity <- decay * velocity + move

    It returns the new velocity; with nesterov, decay * (new velocity) + move.

    Args:
      decay: shape (), share of the velocity kept each step, in [0, 1).
      nesterov: True for Nesterov's momentum: the gradient is treated as if taken at the point that the velocity leads to.

    Returns:
      An `Optimizer` whose moves point uphill; `scale_by_learning_rate` changes their sign.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> velocity = trace(0.5)
      >>> _, state = velocity.update(jnp.array([2.0]), velocity.init(jnp.array([1.0])))
      >>> moves, state = velocity.update(jnp.array([2.0]), state)
      >>> print(moves)
      [3.]

    Source: Polyak (1964); Nesterov (1983) in the form of Sutskever et al. (2013).
    """
    return composed("trace", [traced("trace", "decay", decay, nesterov)])


def traced(name: str, argument: str, decay: Scalar, nesterov: bool = False, *, wide_velocity: bool = False) -> Part:
    """`trace` as a `Part`; wide_velocity keeps the velocity in at least float32."""
    share(name, **{argument: decay})

    def init(params: Params) -> MomentumState:
        return MomentumState(wide_zeros(params) if wide_velocity else zeros_like(params))

    def update(moves: PyTree, state: MomentumState, at: At) -> tuple[PyTree, MomentumState]:
        velocity = blended(decay, state.velocity, 1.0, moves)
        return blended(decay, velocity, 1.0, moves) if nesterov else velocity, MomentumState(velocity)

    return Part(update, init)


def add_decayed_weights(weight_decay: Scalar, *, where: Where | None = None) -> Optimizer:
    """Adds weight_decay * params to the moves.

    Before `scale_by_adam` in a `chain` this acts as the gradient of a penalty; after it, and before the learning rate, as the weight decay
    of `adamw`.

    Args:
      weight_decay: shape (), >= 0.
      where: leaf or (path, leaf) -> bool, which leaves decay; None for all of them. The moves of others pass unchanged.

    Returns:
      An `Optimizer` whose `update` needs params.

    Raises:
      ValueError: weight_decay is negative, update is called without params, or where picks no leaf.

    Example:
      >>> decay = add_decayed_weights(0.1)
      >>> moves, state = decay.update(jnp.array([2.0]), decay.init(jnp.array([5.0])), jnp.array([5.0]))
      >>> print(moves)
      [2.5]

    Source: Loshchilov and Hutter (2019).
    """
    name = "add_decayed_weights"
    return composed(name, [decayed(name, weight_decay, where, "where", "its weight decay")])


def decayed(name: str, weight_decay: Scalar, where: Where | None, argument: str, what: str) -> Part:
    """`add_decayed_weights` as a `Part`.

    Args:
      argument: name of the predicate, for messages.
      what: what params are needed for, for messages.
    """
    positive(name, weight_decay=weight_decay)

    def one(move: jax.Array, p: jax.Array) -> jax.Array:
        move = wide(move)
        return move + cast(weight_decay, move) * p.astype(move.dtype)

    return _with_params(name, one, where, argument, what)


def shrunk(name: str, weight_decay: Scalar, where: Where | None, argument: str) -> Part:
    """A part after the learning rate: it also subtracts learning_rate * weight_decay * params from the moves."""
    positive(name, weight_decay=weight_decay)
    flags = _flags(name, where, argument)

    def move(moves: PyTree, at: At) -> PyTree:
        check_given(name, at.params, "its weight decay")

        def one(u: jax.Array, p: jax.Array, flag: bool) -> jax.Array:
            if not flag:
                return u
            wide_u = wide(u)
            return (wide_u - cast(at.rate, wide_u) * cast(weight_decay, wide_u) * p.astype(wide_u.dtype)).astype(u.dtype)

        return jax.tree.map(one, moves, at.params, flags(at.params))

    return stateless(move)


def scale_by_trust_ratio(trust_coefficient: Scalar = 1.0, eps: Scalar = 0.0, *, where: Where | None = None) -> Optimizer:
    """Scales each leaf's move to a share of the leaf's norm, for large batches.

    move <- trust_coefficient * |params| / (|move| + eps) * move, leaf by leaf

    Where |params| or |move| is zero, the move is not scaled.

    Args:
      trust_coefficient: shape (), share of a leaf's norm, >= 0.
      eps: shape (), units of the move, >= 0.
      where: leaf or (path, leaf) -> bool, which leaves are scaled; None for all of them. The others pass unchanged.

    Returns:
      An `Optimizer` whose `update` needs params.

    Raises:
      ValueError: a concrete argument is out of range, update is called without params, or where picks no leaf.

    Example:
      >>> ratio = scale_by_trust_ratio(0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> moves, state = ratio.update(jnp.array([2.0, 0.0]), ratio.init(params), params)
      >>> print(moves)
      [0.5 0. ]

    Source: You, Gitman and Ginsburg (2017).
    """
    name = "scale_by_trust_ratio"
    return composed(name, [by_trust(name, trust_coefficient, eps, where, "where")])


def by_trust(name: str, trust_coefficient: Scalar, eps: Scalar, where: Where | None, argument: str) -> Part:
    """`scale_by_trust_ratio` as a `Part`."""
    positive(name, trust_coefficient=trust_coefficient, eps=eps)

    def one(move: jax.Array, p: jax.Array) -> jax.Array:
        move = wide(move)
        return cast(_trust(p, move, trust_coefficient, eps), move) * move

    return _with_params(name, one, where, argument, "its ratio of norms")


def clip_by_block_rms(threshold: Scalar) -> Optimizer:
    """Scales down each leaf's move whose root mean square exceeds a threshold.

    move <- move / max(1, rms(move) / threshold), leaf by leaf

    Args:
      threshold: shape (), units of the move, >= 0.

    Returns:
      An `Optimizer` that returns the clipped moves.

    Raises:
      ValueError: the threshold is negative; a traced one cannot be checked.

    Example:
      >>> clip = clip_by_block_rms(1.0)
      >>> moves, state = clip.update({"a": jnp.array([2.0, -2.0]), "b": jnp.array([0.5])}, clip.init(None))
      >>> print(moves["a"], moves["b"])
      [ 1. -1.] [0.5]

    Source: Shazeer and Stern (2018), section 6.
    """
    return composed("clip_by_block_rms", [clipped_by_rms("clip_by_block_rms", "threshold", threshold)])


def clipped_by_rms(name: str, argument: str, threshold: Scalar) -> Part:
    """`clip_by_block_rms` as a `Part`."""
    positive(name, **{argument: threshold})

    def one(move: jax.Array) -> jax.Array:
        move = wide(move)
        size = rms(move)
        limit = cast(threshold, size)
        long = size > limit
        return jnp.where(long, limit / jnp.where(long, size, 1), 1).astype(move.dtype) * move

    return stateless(lambda moves, at: jax.tree.map(one, moves))


def scale_by_param_block_rms(min_scale: Scalar = 1e-3) -> Optimizer:
    """Multiplies each leaf's move by the leaf's root mean square, or by min_scale if that is larger: steps are relative to params.

    Args:
      min_scale: shape (), parameter units, >= 0.

    Returns:
      An `Optimizer` whose `update` needs params.

    Raises:
      ValueError: min_scale is negative, or update is called without params.

    Example:
      >>> scaling = scale_by_param_block_rms()
      >>> params = jnp.array([3.0, -3.0])
      >>> moves, state = scaling.update(jnp.array([1.0, 0.5]), scaling.init(params), params)
      >>> print(moves)
      [3.  1.5]

    Source: Shazeer and Stern (2018), section 8.
    """
    return composed("scale_by_param_block_rms", [by_param_rms("scale_by_param_block_rms", min_scale)])


def by_param_rms(name: str, min_scale: Scalar) -> Part:
    """`scale_by_param_block_rms` as a `Part`."""
    positive(name, min_scale=min_scale)

    def one(move: jax.Array, p: jax.Array) -> jax.Array:
        move = wide(move)
        size = rms(p)
        return jnp.maximum(size, cast(min_scale, size)).astype(move.dtype) * move

    return _with_params(name, one, None, "where", "the size of its steps")


def _trust(p: jax.Array, step: jax.Array, coefficient: Scalar, eps: Scalar) -> jax.Array:
    """coefficient * |p| / (|step| + eps), and one where a norm is zero."""
    length, of_step = root(jnp.sum(abs_square(p))), root(jnp.sum(abs_square(step)))
    length = length.astype(of_step.dtype)
    none = (length == 0) | (of_step == 0)
    return jnp.where(none, 1, cast(coefficient, length) * length / jnp.where(none, 1, of_step + cast(eps, of_step)))


def _flags(name: str, where: Where | None, argument: str) -> Callable[[Params], PyTree]:
    """params -> which leaves a predicate picks, in a tree of their structure."""
    if where is not None:
        takes_path(name, where, argument)

    def flags(params: Params) -> PyTree:
        return jax.tree.unflatten(jax.tree.structure(params), chosen(name, where, params, argument))

    return flags


def _with_params(name: str, one: Callable[[jax.Array, jax.Array], jax.Array], where: Where | None, argument: str, what: str) -> Part:
    """A part that applies a function of (move, parameter) to the leaves that a predicate picks; other moves pass unchanged."""
    flags = _flags(name, where, argument)

    def move(moves: PyTree, at: At) -> PyTree:
        check_given(name, at.params, what)
        return jax.tree.map(lambda move, p, flag: one(move, p) if flag else move, moves, at.params, flags(at.params))

    return stateless(move)
