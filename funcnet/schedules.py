"""Schedules: step -> scalar. An optimizer takes one where it takes a learning rate.

The first update is step 0. Numbers may be traced, lengths too: which phase a step is in is decided with `jnp.where`.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.tree import Scalar

Schedule: TypeAlias = Callable[[Scalar], jax.Array]
ScalarOrSchedule: TypeAlias = Scalar | Schedule


def _float(value: Scalar) -> jax.Array:
    return jnp.asarray(value, jnp.result_type(float))


def _share(step: Scalar, num_steps: Scalar) -> jax.Array:
    """How much of num_steps has passed, in [0, 1]; all of it where there are none.

    All of it is exactly one: a compiler divides by a constant as it likes, and 41 times 1 / 41 is less than one.
    """
    step, length = _float(step), _float(num_steps)
    over = (step >= length) | (length <= 0)
    return jnp.where(over, 1, jnp.clip(step / jnp.where(over, 1, length), 0, 1))


def _times(step: Scalar, num_steps: Scalar) -> jax.Array:
    """floor(step / num_steps), whose quotient alone may be one off: a compiler multiplies by the inverse of a constant.

    Exact for whole lengths up to four million steps; other lengths count as their decimals say: 11 is ten times 1.1.
    """
    step, length = _float(step), _float(num_steps)
    times = jnp.floor(step / length)
    rest = step - times * length
    rounding = 2 * float(jnp.finfo(step.dtype).eps) * step
    early, late = rest < -rounding, rest >= length - rounding
    return times + late.astype(times.dtype) - early.astype(times.dtype)


def constant(value: Scalar) -> Schedule:
    """The same value at every step.

    Args:
      value: shape (), >= 0.

    Returns:
      step -> scalar.

    Raises:
      ValueError: value is negative or NaN.

    Example:
      >>> print(constant(0.1)(1000))
      0.1
    """
    check.in_range("constant", "value", value, 0)
    return lambda step: _float(value)


def linear(initial: Scalar, final: Scalar, num_steps: Scalar) -> Schedule:
    """A straight line from initial to final, which then stays.

    Args:
      initial: shape (), value at step 0, >= 0.
      final: shape (), value from num_steps on, >= 0.
      num_steps: shape (), >= 1.

    Returns:
      step -> scalar.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> print(linear(1.0, 0.0, 4)(1))
      0.75
    """
    check.in_range("linear", "initial", initial, 0)
    check.in_range("linear", "final", final, 0)
    check.in_range("linear", "num_steps", num_steps, 1)
    return lambda step: _float(initial) + (_float(final) - _float(initial)) * _share(step, num_steps)


def exponential_decay(initial: Scalar, decay_rate: Scalar, num_steps: Scalar = 1) -> Schedule:
    """initial * decay_rate^(step / num_steps): smooth.

    Args:
      initial: shape (), value at step 0, >= 0.
      decay_rate: shape (), factor each num_steps, in (0, 1].
      num_steps: shape (), >= 1.

    Returns:
      step -> scalar.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> print(exponential_decay(1.0, 0.5, 10)(20))
      0.25
    """
    check.in_range("exponential_decay", "initial", initial, 0)
    check.in_range("exponential_decay", "decay_rate", decay_rate, 0, 1, ends="(]")
    check.in_range("exponential_decay", "num_steps", num_steps, 1)
    return lambda step: _float(initial) * _float(decay_rate) ** (_float(step) / _float(num_steps))


def step_decay(initial: Scalar, decay_rate: Scalar, num_steps: Scalar) -> Schedule:
    """initial * decay_rate^floor(step / num_steps): in stairs, the first step of each is a multiple of num_steps.

    Args:
      initial: shape (), value at step 0, >= 0.
      decay_rate: shape (), factor each num_steps, in (0, 1].
      num_steps: shape (), length of a stair, >= 1.

    Returns:
      step -> scalar.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> print(step_decay(1.0, 0.5, 10)(19), step_decay(1.0, 0.5, 10)(20))
      0.5 0.25
    """
    check.in_range("step_decay", "initial", initial, 0)
    check.in_range("step_decay", "decay_rate", decay_rate, 0, 1, ends="(]")
    check.in_range("step_decay", "num_steps", num_steps, 1)
    return lambda step: _float(initial) * _float(decay_rate) ** _times(step, num_steps)


def cosine_decay(initial: Scalar, num_steps: Scalar, final: Scalar = 0.0) -> Schedule:
    """Half a cosine from initial to final, which then stays.

    final + (initial - final) * (1 + cos(pi * step / num_steps)) / 2

    Args:
      initial: shape (), value at step 0, >= 0.
      num_steps: shape (), >= 1.
      final: shape (), value from num_steps on, >= 0.

    Returns:
      step -> scalar.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> print(cosine_decay(1.0, 10)(5).round(6))
      0.5

    Source: Loshchilov and Hutter (2017), without restarts.
    """
    check.in_range("cosine_decay", "initial", initial, 0)
    check.in_range("cosine_decay", "num_steps", num_steps, 1)
    check.in_range("cosine_decay", "final", final, 0)
    return lambda step: _cosine(initial, final, _share(step, num_steps))


def warmup_cosine_decay(peak: Scalar, warmup_steps: Scalar, num_steps: Scalar, initial: Scalar = 0.0, final: Scalar = 0.0) -> Schedule:
    """A line from initial up to peak, then half a cosine down to final.

    Args:
      peak: shape (), the highest value, >= 0.
      warmup_steps: shape (), length of the line, >= 0.
      num_steps: shape (), length of both together, above warmup_steps.
      initial: shape (), value at step 0, >= 0.
      final: shape (), value from num_steps on, >= 0.

    Returns:
      step -> scalar.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = warmup_cosine_decay(1.0, 2, 10)
      >>> print(schedule(1), schedule(2), schedule(10))
      0.5 1.0 0.0

    Source: Goyal et al. (2017) for the warmup.
    """
    for name, value in (("peak", peak), ("warmup_steps", warmup_steps), ("initial", initial), ("final", final)):
        check.in_range("warmup_cosine_decay", name, value, 0)
    check.in_range("warmup_cosine_decay", "num_steps", num_steps, 1)
    _check_shorter("warmup_cosine_decay", warmup_steps, num_steps)

    def schedule(step: Scalar) -> jax.Array:
        up = _float(initial) + (_float(peak) - _float(initial)) * _share(step, warmup_steps)
        down = _cosine(peak, final, _share(_float(step) - _float(warmup_steps), _float(num_steps) - _float(warmup_steps)))
        return jnp.where(_float(step) < _float(warmup_steps), up, down)

    return schedule


def one_cycle(
    peak: Scalar, num_steps: Scalar, warmup_share: Scalar = 0.3, start_factor: Scalar = 25.0, final_factor: Scalar = 1e4
) -> Schedule:
    """Half a cosine up from peak / start_factor to peak, then half a cosine down to almost nothing.

    Args:
      peak: shape (), the highest value, >= 0.
      num_steps: shape (), length of the whole cycle, >= 1.
      warmup_share: shape (), share of the steps that rise, in [0, 1).
      start_factor: shape (), peak over the value at step 0, >= 1.
      final_factor: shape (), value at step 0 over the value from num_steps on, >= 1.

    Returns:
      step -> scalar.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = one_cycle(1.0, 100)
      >>> print(schedule(0).round(3), schedule(30), schedule(100).round(3))
      0.04 1.0 0.0

    Source: Smith and Topin (2018).
    """
    check.in_range("one_cycle", "peak", peak, 0)
    check.in_range("one_cycle", "num_steps", num_steps, 1)
    check.in_range("one_cycle", "warmup_share", warmup_share, 0, 1)
    check.in_range("one_cycle", "start_factor", start_factor, 1)
    check.in_range("one_cycle", "final_factor", final_factor, 1)

    def schedule(step: Scalar) -> jax.Array:
        low = _float(peak) / _float(start_factor)
        rise = _float(warmup_share) * _float(num_steps)
        up = _cosine(low, peak, _share(step, rise))
        down = _cosine(peak, low / _float(final_factor), _share(_float(step) - rise, _float(num_steps) - rise))
        return jnp.where(_float(step) < rise, up, down)

    return schedule


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "exponential_decay": exponential_decay,
    "step_decay": step_decay,
    "cosine_decay": cosine_decay,
    "warmup_cosine_decay": warmup_cosine_decay,
    "one_cycle": one_cycle,
}


def _cosine(initial: Scalar, final: Scalar, share: jax.Array) -> jax.Array:
    return _float(final) + (_float(initial) - _float(final)) * (1 + jnp.cos(math.pi * share)) / 2


def _check_shorter(where: str, warmup_steps: Scalar, num_steps: Scalar) -> None:
    if not check.is_traced(warmup_steps) and not check.is_traced(num_steps) and float(warmup_steps) >= float(num_steps):
        raise ValueError(check.message(where, f"warmup_steps must be below num_steps = {num_steps}", warmup_steps))
