"""Schedules: step -> scalar. An optimizer takes one in place of a learning rate.

The first update is step 0. Numbers may be traced, lengths too: `jnp.where` decides which phase a step is in.
"""

import itertools
import math
from collections.abc import Callable, Sequence
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
    """The share of num_steps that has passed, in [0, 1]; 1 if num_steps is not positive.

    At the end it is exactly 1: a compiler may multiply by the inverse of a constant instead, and 41 * (1 / 41) is less than 1.
    """
    step, length = _float(step), _float(num_steps)
    over = (step >= length) | (length <= 0)
    return jnp.where(over, 1, jnp.clip(step / jnp.where(over, 1, length), 0, 1))


def _times(step: Scalar, num_steps: Scalar) -> jax.Array:
    """floor(step / num_steps), corrected where the quotient is one off because a compiler multiplies by the inverse of a constant.

    It is exact for whole lengths up to four million steps. The rounding of other lengths doesn't matter: 11 / 1.1 is ten.
    """
    step, length = _float(step), _float(num_steps)
    times = jnp.floor(step / length)
    rest = step - times * length
    rounding = 2 * float(jnp.finfo(step.dtype).eps) * step
    early, late = rest < -rounding, rest >= length - rounding
    return times + late.astype(times.dtype) - early.astype(times.dtype)


def constant_schedule(value: Scalar) -> Schedule:
    """The same value at every step.

    Args:
      value: shape (), >= 0.

    Returns:
      step -> scalar.

    Raises:
      ValueError: value is negative or NaN.

    Example:
      >>> print(constant_schedule(0.1)(1000))
      0.1
    """
    check.in_range("constant_schedule", "value", value, 0)
    return lambda step: _float(value)


def linear_schedule(initial: Scalar, final: Scalar, num_steps: Scalar) -> Schedule:
    """A straight line from initial to final, and then constant.

    Args:
      initial: shape (), value at step 0, >= 0.
      final: shape (), value from num_steps on, >= 0.
      num_steps: shape (), >= 1.

    Returns:
      step -> scalar.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> print(linear_schedule(1.0, 0.0, 4)(1))
      0.75
    """
    check.in_range("linear_schedule", "initial", initial, 0)
    check.in_range("linear_schedule", "final", final, 0)
    check.in_range("linear_schedule", "num_steps", num_steps, 1)
    return lambda step: _float(initial) + (_float(final) - _float(initial)) * _share(step, num_steps)


def exponential_decay(initial: Scalar, decay_rate: Scalar, num_steps: Scalar = 1) -> Schedule:
    """Smooth exponential decay: initial * decay_rate^(step / num_steps).

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
    """Exponential decay in stairs, each num_steps long: initial * decay_rate^floor(step / num_steps).

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
    """Half a cosine from initial to final, and then constant.

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
      warmup_share: shape (), share of the steps in which it rises, in [0, 1).
      start_factor: shape (), peak divided by the value at step 0, >= 1.
      final_factor: shape (), value at step 0 divided by the value from num_steps on, >= 1.

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


def polynomial_decay(initial: Scalar, num_steps: Scalar, power: Scalar = 1.0, final: Scalar = 0.0) -> Schedule:
    """A power of a straight line from initial to final, and then constant.

    final + (initial - final) * (1 - step / num_steps)^power

    Args:
      initial: shape (), value at step 0, >= 0.
      num_steps: shape (), >= 1.
      power: shape (), > 0; 1 gives a straight line, a larger power falls faster at first.
      final: shape (), value from num_steps on, >= 0.

    Returns:
      step -> scalar.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> print(polynomial_decay(1.0, 10, 2.0)(5))
      0.25
    """
    check.in_range("polynomial_decay", "initial", initial, 0)
    check.in_range("polynomial_decay", "num_steps", num_steps, 1)
    check.in_range("polynomial_decay", "power", power, 0, ends="()")
    check.in_range("polynomial_decay", "final", final, 0)

    def schedule(step: Scalar) -> jax.Array:
        left = 1 - _share(step, num_steps)
        over = left == 0  # where a power has no finite slope
        return _float(final) + (_float(initial) - _float(final)) * jnp.where(over, 0, jnp.where(over, 1, left) ** _float(power))

    return schedule


def exponential_growth(initial: Scalar, final: Scalar, num_steps: Scalar) -> Schedule:
    """Grows by the same factor at every step, and is then constant: initial * (final / initial)^(step / num_steps).

    Use it to find a learning rate: train once while it grows from far too small to far too large, and choose one at which the loss
    still falls fast.

    Args:
      initial: shape (), value at step 0, > 0.
      final: shape (), value from num_steps on, > 0.
      num_steps: shape (), >= 1.

    Returns:
      step -> scalar.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> print(exponential_growth(0.01, 1.0, 10)(5).round(6))
      0.1

    Source: Smith (2017), the learning rate range test.
    """
    check.in_range("exponential_growth", "initial", initial, 0, ends="()")
    check.in_range("exponential_growth", "final", final, 0, ends="()")
    check.in_range("exponential_growth", "num_steps", num_steps, 1)

    def schedule(step: Scalar) -> jax.Array:
        share = _share(step, num_steps)
        grown = _float(initial) * (_float(final) / _float(initial)) ** share
        return jnp.where(share < 1, grown, _float(final))

    return schedule


def cosine_restarts(initial: Scalar, num_steps: Scalar, factor: Scalar = 1.0, final: Scalar = 0.0) -> Schedule:
    """Half a cosine from initial to final that restarts at initial again and again, each time factor times as long.

    Args:
      initial: shape (), value at each start, >= 0.
      num_steps: shape (), length of the first fall, >= 1.
      factor: shape (), length of each fall divided by that of the one before, >= 1.
      final: shape (), value that each fall leads to, >= 0; the step that would reach it is the start of the next fall.

    Returns:
      step -> scalar.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = cosine_restarts(1.0, 10, factor=2)
      >>> print(*(schedule(step).round(6) for step in (0, 5, 10, 20, 30)))
      1.0 0.5 1.0 0.5 1.0

    Source: Loshchilov and Hutter (2017).
    """
    check.in_range("cosine_restarts", "initial", initial, 0)
    check.in_range("cosine_restarts", "num_steps", num_steps, 1)
    check.in_range("cosine_restarts", "factor", factor, 1)
    check.in_range("cosine_restarts", "final", final, 0)

    def schedule(step: Scalar) -> jax.Array:
        start, length = _restart(step, num_steps, factor)
        return _cosine(initial, final, jnp.clip((_float(step) - start) / length, 0, 1))

    return schedule


def _restart(step: Scalar, num_steps: Scalar, factor: Scalar) -> tuple[jax.Array, jax.Array]:
    """The start and the length of the fall that a step is in; each fall is factor times as long as the one before."""
    step, length, factor = _float(step), _float(num_steps), _float(factor)
    grows = factor > 1
    factor = jnp.where(grows, factor, 2)

    def start(times: jax.Array) -> jax.Array:
        return length * (factor**times - 1) / (factor - 1)

    times = jax.lax.stop_gradient(jnp.floor(jnp.log1p(step * (factor - 1) / length) / jnp.log(factor)))
    rounding = 4 * float(jnp.finfo(step.dtype).eps) * step  # as in _times: the quotient of logarithms may be one off
    times = times + (step >= start(times + 1) - rounding).astype(times.dtype) - (step < start(times) - rounding).astype(times.dtype)
    even = _times(step, length)
    return jnp.where(grows, start(times), even * length), length * jnp.where(grows, factor**times, 1)


def piecewise_constant(values: Sequence[Scalar], boundaries: Sequence[Scalar]) -> Schedule:
    """One value after the other: values[0] before step boundaries[0], then values[1] before step boundaries[1], and so on.

    Args:
      values: each of shape (), >= 0; at least one.
      boundaries: each of shape (), the first step of the next value, >= 0 and rising; one fewer than values.

    Returns:
      step -> scalar.

    Raises:
      ValueError: an argument is out of range, the boundaries don't rise, or there isn't one boundary fewer than values.

    Example:
      >>> schedule = piecewise_constant([0.1, 0.01], [100])
      >>> print(schedule(99), schedule(100))
      0.1 0.01
    """
    for value in values:
        check.in_range("piecewise_constant", "every value", value, 0)
    return _piecewise("piecewise_constant", "values", [constant_schedule(value) for value in values], boundaries)


def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[Scalar]) -> Schedule:
    """One schedule after the other; each counts its steps from zero.

    Args:
      schedules: at least one.
      boundaries: each of shape (), the first step of the next schedule, >= 0 and rising; one fewer than schedules.

    Returns:
      step -> scalar.

    Raises:
      TypeError: a schedule is not a function.
      ValueError: a boundary is out of range, the boundaries don't rise, or there isn't one boundary fewer than schedules.

    Example:
      >>> schedule = join_schedules([linear_schedule(0.0, 1.0, 10), exponential_decay(1.0, 0.5)], [10])
      >>> print(schedule(5), schedule(10), schedule(11))
      0.5 1.0 0.5
    """
    for schedule in schedules:
        _check_schedule("join_schedules", schedule)
    return _piecewise("join_schedules", "schedules", schedules, boundaries)


def delayed(schedule: Schedule, num_steps: Scalar) -> Schedule:
    """Delays a schedule: it keeps its first value before num_steps, and counts its steps from there.

    Args:
      schedule: step -> scalar.
      num_steps: shape (), by how many steps it is delayed, >= 0.

    Returns:
      step -> scalar.

    Raises:
      TypeError: schedule is not a function.
      ValueError: num_steps is out of range.

    Example:
      >>> late = delayed(linear_schedule(1.0, 0.0, 4), 10)
      >>> print(late(3), late(10), late(11))
      1.0 1.0 0.75
    """
    _check_schedule("delayed", schedule)
    check.in_range("delayed", "num_steps", num_steps, 0)
    return lambda step: schedule(jnp.maximum(_float(step) - _float(num_steps), 0))


def _piecewise(where: str, what: str, schedules: Sequence[Schedule], boundaries: Sequence[Scalar]) -> Schedule:
    if len(boundaries) != len(schedules) - 1:
        got = f"{len(boundaries)} beside {len(schedules)} {what}"
        raise ValueError(check.message(where, f"boundaries must be one fewer than {what}", got))
    for boundary in boundaries:
        check.in_range(where, "every boundary", boundary, 0)
    known = [float(boundary) for boundary in boundaries if not check.is_traced(boundary)]
    if any(a >= b for a, b in itertools.pairwise(known)):
        raise ValueError(check.message(where, "boundaries must rise", known))

    def schedule(step: Scalar) -> jax.Array:
        value = _float(schedules[0](step))
        for boundary, each in zip(boundaries, schedules[1:], strict=True):
            since = _float(step) - _float(boundary)
            value = jnp.where(since >= 0, _float(each(jnp.maximum(since, 0))), value)
        return value

    return schedule


def _check_schedule(where: str, schedule: Schedule) -> None:
    if not callable(schedule):
        raise TypeError(
            check.message(where, "a schedule must be a function", repr(schedule)[:80], "constant_schedule makes one of a number")
        )


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant_schedule": constant_schedule,
    "linear_schedule": linear_schedule,
    "exponential_decay": exponential_decay,
    "step_decay": step_decay,
    "cosine_decay": cosine_decay,
    "warmup_cosine_decay": warmup_cosine_decay,
    "one_cycle": one_cycle,
    "polynomial_decay": polynomial_decay,
    "exponential_growth": exponential_growth,
    "cosine_restarts": cosine_restarts,
    "piecewise_constant": piecewise_constant,
    "join_schedules": join_schedules,
    "delayed": delayed,
}


def _cosine(initial: Scalar, final: Scalar, share: jax.Array) -> jax.Array:
    return _float(final) + (_float(initial) - _float(final)) * (1 + jnp.cos(math.pi * share)) / 2


def _check_shorter(where: str, warmup_steps: Scalar, num_steps: Scalar) -> None:
    if not check.is_traced(warmup_steps) and not check.is_traced(num_steps) and float(warmup_steps) >= float(num_steps):
        raise ValueError(check.message(where, f"warmup_steps must be below num_steps = {num_steps}", warmup_steps))
