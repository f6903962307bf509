"""Optimizers by name, so that a sweep can try several; the name may be traced."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.leaves import Where
from funcnet.optimizers.moments import AdamState, no_steps
from funcnet.optimizers.parts import At, Part, blend, by_rate, composed, corrections, divided
from funcnet.optimizers.protocol import Optimizer
from funcnet.optimizers.rules import (
    adabelief,
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    adamw,
    amsgrad,
    lamb,
    lars,
    lion,
    momentum,
    nadam,
    radam,
    rmsprop,
    sgd,
)
from funcnet.option import Option
from funcnet.schedules import ScalarOrSchedule
from funcnet.tree import PyTree, abs_square, cast, wide

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": sgd,
    "momentum": momentum,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
    "adadelta": adadelta,
    "nadam": nadam,
    "lion": lion,
    "amsgrad": amsgrad,
    "adamax": adamax,
    "adabelief": adabelief,
    "radam": radam,
    "lamb": lamb,
    "lars": lars,
    "adafactor": adafactor,
}


def optimizer(name: str, learning_rate: ScalarOrSchedule, *, where: Where | None = None, **settings: Any) -> Optimizer:
    """Makes an optimizer by its name, so that a sweep can try several.

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: shape (), >= 0; or a schedule.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them.
      **settings: the optimizer's own arguments.

    Returns:
      An `Optimizer`.

    A name marked `traced` may be sgd, momentum, adagrad, rmsprop or adam, with default settings: these are one rule with
    different coefficients, whose state is an `AdamState`.

    Raises:
      ValueError: the name is unknown, or an argument out of range.
      TypeError: the optimizer has no such argument.

    Example:
      >>> optimizer("adm", 1e-3)
      Traceback (most recent call last):
      ValueError: optimizer: unknown optimizer 'adm'; did you mean 'adam'?
    """
    if isinstance(name, Option):
        return composed("optimizer", [_by_name(name, settings), by_rate], learning_rate, where)
    check.one_of("optimizer", "optimizer", name, OPTIMIZERS)
    for setting in settings:
        if setting not in (known := list(inspect.signature(OPTIMIZERS[name]).parameters)):
            raise TypeError(f"optimizer: {name} has no argument {setting!r}; {check.nearest(setting, known)}")
    return OPTIMIZERS[name](learning_rate, where=where, **settings)


class Coefficients(NamedTuple):
    """The coefficients by which one general rule becomes a named optimizer:

    m <- decay * m + gain * gradient;  v <- v_decay * v + v_gain * gradient^2;  move by m / (sqrt(v) + eps)
    """

    decay: float
    averages: float  # 1 where gain is 1 - decay, 0 where it is 1
    v_decay: float
    v_averages: float
    scales: float  # whether the move is divided by the root of v; if not, v stays as it is
    corrects: float  # whether m and v are corrected for starting at zero
    eps: float


COEFFICIENTS = {
    "sgd": Coefficients(0, 0, 0, 0, 0, 0, 0),
    "momentum": Coefficients(0.9, 0, 0, 0, 0, 0, 0),
    "adagrad": Coefficients(0, 0, 1, 0, 1, 0, 1e-10),
    "rmsprop": Coefficients(0, 0, 0.9, 1, 1, 0, 1e-8),
    "adam": Coefficients(0.9, 1, 0.999, 1, 1, 1, 1e-8),
}


def _by_name(option: Option, settings: dict[str, Any]) -> Part:
    for name in option.names:
        check.one_of("optimizer", "optimizer that can be traced", name, COEFFICIENTS)
    if settings:
        got = ", ".join(map(repr, settings))
        raise TypeError(check.message("optimizer", "a traced name must come without settings", got, "leave out traced, or the settings"))
    never_meant = Coefficients(*[0.5] * len(Coefficients._fields))  # never selected: a single name isn't constant, as in Option.elementwise
    columns = zip(*(COEFFICIENTS[name] for name in option.names), never_meant, strict=True)
    of = Coefficients(*(jnp.array(column, jnp.result_type(float))[option.index] for column in columns))  # type: ignore[arg-type]

    def update(moves: PyTree, state: AdamState, at: At) -> tuple[PyTree, AdamState]:
        gain = jnp.where(of.averages == 1, 1 - of.decay, 1)
        v_gain = jnp.where(of.v_averages == 1, 1 - of.v_decay, 1)
        step, totals = corrections(state.step, of.decay, of.v_decay)
        correct_m, correct_v = (jnp.where(of.corrects == 1, total, 1) for total in totals)

        def squared(v: jax.Array, g: jax.Array) -> jax.Array:
            return jnp.where(of.scales == 1, blend(of.v_decay, v, v_gain, abs_square(g)), v)

        def move(m: jax.Array, v: jax.Array) -> jax.Array:
            step = wide(m) / cast(correct_m, wide(m))
            return jnp.where(of.scales == 1, divided(step, v / cast(correct_v, v), of.eps, 0.0), step)

        m = jax.tree.map(lambda m, g: blend(of.decay, m, gain, g), state.mean, moves)
        v = jax.tree.map(squared, state.mean_square, moves)
        return jax.tree.map(move, m, v), AdamState(step, m, v)

    return Part(update, no_steps)
