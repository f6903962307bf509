"""Optimizers: pure `init` and `update`, whose updates are added to the parameters.

A learning rate is a number, a traced scalar or a schedule. The signature is the ecosystem's: an optimizer from here
works in code written for gradient transformations, and theirs work here.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.option import Option
from funcnet.penalties import Where
from funcnet.schedules import ScalarOrSchedule
from funcnet.tree import (
    Params,
    PyTree,
    Scalar,
    abs_square,
    at_least_float32,
    cast,
    global_norm,
    next_count,
    root,
    scale,
    traced_once,
    wide,
    zeros_like,
)

State: TypeAlias = PyTree
P = ParamSpec("P")


class Optimizer(NamedTuple):
    """init(params) -> state; update(grads, state, params=None, **extra) -> (updates, state).

    `extra` is what else is known of the step: `training` gives `value` (the objective), `grad` (of it, as jax.grad gives it) and
    `value_fn` (params -> value, on the same batch). An optimizer takes what it needs and ignores the rest.
    """

    init: Callable[[Params], State]
    update: Callable[..., tuple[PyTree, State]]


def apply_updates(params: Params, updates: PyTree) -> Params:
    """params + updates, dtypes of params kept.

    Args:
      params: a pytree of floating-point or complex arrays; Python floats become arrays.
      updates: a pytree of the same structure and shapes.

    Raises:
      TypeError: a parameter is of another dtype, or its update is complex where it is real.

    Example:
      >>> print(apply_updates(jnp.array([1.0]), jnp.array([-0.5])))
      [0.5]
    """

    params = _arrays("apply_updates", "params", params)
    updates = _arrays("apply_updates", "updates", updates)
    _check_real("apply_updates", "updates", updates, params)
    return _moved(params, updates)


@traced_once
def _moved(params: Params, updates: PyTree) -> Params:
    return jax.tree.map(lambda p, u: (wide(p) + u.astype(wide(p).dtype)).astype(p.dtype), params, updates)


class ScheduledState(NamedTuple):
    """What an optimizer with a schedule carries from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    state: State  # of the optimizer at one learning rate


def _schedulable(factory: Callable[P, Optimizer]) -> Callable[P, Optimizer]:
    """Lets a factory written for a number take a schedule: the optimizer is made anew at each step's learning rate."""

    default = inspect.signature(factory).parameters["learning_rate"].default
    at_rate: Callable[..., Optimizer] = factory

    @functools.wraps(factory)
    def make(learning_rate: Any = default, *args: Any, **kwargs: Any) -> Optimizer:
        if learning_rate is inspect.Parameter.empty:
            return at_rate(*args, **kwargs)  # Python says that it is missing
        if not callable(learning_rate):
            check.in_range(factory.__name__, "learning_rate", learning_rate, 0)
            return at_rate(learning_rate, *args, **kwargs)

        def init(params: Params) -> ScheduledState:
            return ScheduledState(jnp.zeros((), jnp.int32), at_rate(0.0, *args, **kwargs).init(params))

        def update(grads: PyTree, state: ScheduledState, params: Params | None = None, **extra: Any) -> tuple[PyTree, ScheduledState]:
            rate = learning_rate(state.step)
            if jnp.shape(rate) != ():
                got = f"shape {jnp.shape(rate)}"
                raise TypeError(check.message(factory.__name__, "a schedule must give one number a step", got, "return a scalar"))
            updates, inner = at_rate(rate, *args, **kwargs).update(grads, state.state, params)
            return updates, ScheduledState(next_count(state.step), inner)

        at_rate(0.0, *args, **kwargs)  # its checks of the other arguments belong here, not in the first step
        return Optimizer(init, update)

    return make


def _number(learning_rate: ScalarOrSchedule) -> Scalar:
    """Inside a factory a learning rate is a number: its decorator has dealt with schedules."""
    assert not callable(learning_rate)
    return learning_rate


@_schedulable
def sgd(learning_rate: ScalarOrSchedule) -> Optimizer:
    """Gradient descent; with minibatches, stochastic.

    params <- params - learning_rate * gradient

    Args:
      learning_rate: shape (), parameter units per gradient unit, >= 0; or a schedule.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> optimizer = sgd(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates)
      [-1.]

    Source: Robbins and Monro (1951).
    """

    def update(grads: PyTree, state: tuple[Any, ...], params: Params | None = None) -> tuple[PyTree, tuple[Any, ...]]:
        return scale(-_number(learning_rate), grads), state

    return _checked("sgd", lambda params: (), update)


class MomentumState(NamedTuple):
    """What heavy-ball SGD carries from step to step."""

    velocity: Params  # structure, shapes and dtypes of params; gradients, of which the learning rate makes a step


@_schedulable
def momentum(learning_rate: ScalarOrSchedule, decay: Scalar = 0.9, *, nesterov: bool = False) -> Optimizer:
    """Gradient descent that keeps rolling downhill.

    velocity <- decay * velocity + gradient
    params   <- params - learning_rate * velocity

    With nesterov, params <- params - learning_rate * (decay * velocity + gradient), the new velocity taken.

    This is torch's and optax's rule: a schedule acts on the whole velocity. The other form in use,
    step <- decay * step - learning_rate * gradient, params <- params + step, is the same while the learning rate is constant
    (step is -learning_rate * velocity); under a schedule it is another rule, which weighs each gradient by the rate of its own step.

    Args:
      learning_rate: shape (), parameter units per gradient unit, >= 0; or a schedule.
      decay: shape (), share of the velocity kept each step, in [0, 1).
      nesterov: whether the gradient counts as taken where the velocity leads to.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> optimizer = momentum(learning_rate=0.5)
      >>> state = optimizer.init(jnp.array([1.0]))
      >>> updates, state = optimizer.update(jnp.array([2.0]), state)
      >>> print(updates)
      [-1.]

    Source: Polyak (1964); Nesterov (1983) in the form of Sutskever et al. (2013).
    """
    check.in_range("momentum", "decay", decay, 0, 1)

    def update(grads: PyTree, state: MomentumState, params: Params | None = None) -> tuple[PyTree, MomentumState]:
        velocity = _blended(decay, state.velocity, 1.0, grads)
        ahead = _blended(decay, velocity, 1.0, grads) if nesterov else velocity
        return scale(-_number(learning_rate), ahead), MomentumState(velocity)

    return _checked("momentum", lambda params: MomentumState(zeros_like(params)), update)


class AdagradState(NamedTuple):
    """What AdaGrad carries from step to step."""

    sum_of_squares: Params  # structure and shapes of params; real, at least float32


@_schedulable
def adagrad(learning_rate: ScalarOrSchedule, eps: Scalar = 1e-10, *, eps_root: Scalar = 0.0, initial_sum: Scalar = 0.0) -> Optimizer:
    """Each parameter at its own pace: the more it has been pushed, the smaller its steps.

    v      <- v + gradient^2
    params <- params - learning_rate * gradient / (sqrt(v + eps_root) + eps)

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      initial_sum: shape (), v before the first step, >= 0.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> optimizer = adagrad(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates)
      [-0.5]

    Source: Duchi, Hazan and Singer (2011).
    """
    _check_positive("adagrad", eps=eps, eps_root=eps_root, initial_sum=initial_sum)

    def init(params: Params) -> AdagradState:
        return AdagradState(jax.tree.map(lambda zero: jnp.full_like(zero, initial_sum), _no_squares(params)))

    def update(grads: PyTree, state: AdagradState, params: Params | None = None) -> tuple[PyTree, AdagradState]:
        v = jax.tree.map(lambda v, g: v + abs_square(g).astype(v.dtype), state.sum_of_squares, grads)

        return _paced(_number(learning_rate), grads, v, eps, eps_root, grads), AdagradState(v)

    return _checked("adagrad", init, update)


class RmspropState(NamedTuple):
    """What RMSProp carries from step to step."""

    mean_square: Params  # structure and shapes of params; real, at least float32
    mean: Params = None  # the same, complex where params are; where centered
    velocity: Params = None  # structure, shapes and dtypes of params; where there is momentum


@_schedulable
def rmsprop(
    learning_rate: ScalarOrSchedule,
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    momentum: Scalar | None = None,
    centered: bool = False,
) -> Optimizer:
    """AdaGrad that forgets: the squares are averaged over recent steps.

    v      <- decay * v + (1 - decay) * gradient^2
    params <- params - learning_rate * gradient / (sqrt(v + eps_root) + eps)

    With centered, the mean of recent gradients squared is taken from v, which leaves their variance. With a momentum,
    velocity <- momentum * velocity + gradient / (sqrt(v + eps_root) + eps), params <- params - learning_rate * velocity: a
    schedule acts on the whole velocity, as in `momentum` and torch (optax's acts on what is added to it).

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      decay: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      momentum: shape (), share of the velocity kept each step, in [0, 1); None keeps no velocity.
      centered: whether the steps are divided by the deviation of recent gradients, rather than by their size.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> optimizer = rmsprop(0.5, decay=0.75)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates)
      [-1.]

    Source: Tieleman and Hinton (2012), lecture 6.5 of Neural Networks for Machine Learning; Graves (2013) for the centered form.
    """
    check.in_range("rmsprop", "decay", decay, 0, 1)
    _check_positive("rmsprop", eps=eps, eps_root=eps_root)
    if momentum is not None:
        check.in_range("rmsprop", "momentum", momentum, 0, 1)

    def init(params: Params) -> RmspropState:
        return RmspropState(
            _no_squares(params), _wide_zeros(params) if centered else None, None if momentum is None else zeros_like(params)
        )

    def update(grads: PyTree, state: RmspropState, params: Params | None = None) -> tuple[PyTree, RmspropState]:
        v, mean, velocity = _averaged(decay, state.mean_square, _squares(grads)), None, None
        spread = v
        if centered:
            mean = _averaged(decay, state.mean, grads)
            spread = jax.tree.map(lambda v, m: jnp.maximum(v - abs_square(m), 0), v, mean)  # rounding may leave less than nothing
        if momentum is None:
            return _paced(_number(learning_rate), grads, spread, eps, eps_root, grads), RmspropState(v, mean)
        velocity = _blended(momentum, state.velocity, 1.0, _paced(-1.0, grads, spread, eps, eps_root, grads))
        return scale(-_number(learning_rate), velocity), RmspropState(v, mean, velocity)

    return _checked("rmsprop", init, update)


class AdamState(NamedTuple):
    """What Adam and its relatives carry from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    mean: Params  # structure, shapes and dtypes of params; or of mu_dtype
    mean_square: Params  # structure and shapes of params; real, at least float32


@_schedulable
def adam(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> Optimizer:
    """Momentum's step and RMSProp's pace, both corrected for starting at zero.

    m      <- b1 * m + (1 - b1) * gradient
    v      <- b2 * v + (1 - b2) * gradient^2
    params <- params - learning_rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t) + eps_root) + eps)

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      mu_dtype: dtype in which m is kept, such as "bfloat16", which halves its memory; None for that of params. Complex m stay as they are.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> optimizer = adam(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-0.5]

    Source: Kingma and Ba (2015), algorithm 1.
    """
    return _adam("adam", _number(learning_rate), b1, b2, eps, eps_root, mu_dtype)


@_schedulable
def adamw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2,
    *,
    eps_root: Scalar = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    where: Where | None = None,
) -> Optimizer:
    """Adam, and apart from the gradient every parameter shrinks by learning_rate * weight_decay of itself.

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      weight_decay: shape (), >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      mu_dtype: dtype in which m is kept, such as "bfloat16", which halves its memory; None for that of params. Complex m stay as they are.
      where: leaf -> bool, which leaves shrink; None for all of them.

    Returns:
      An `Optimizer` whose updates are added to params; its `update` needs params.

    Raises:
      ValueError: a concrete argument is out of range, or update is called without params.

    Example:
      >>> optimizer = adamw(0.5, weight_decay=0.2)
      >>> params = jnp.array([1.0])
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
      >>> print(updates.round(4))
      [-0.6]

    Source: Loshchilov and Hutter (2019).
    """
    _check_positive("adamw", weight_decay=weight_decay)
    plain = _adam("adamw", _number(learning_rate), b1, b2, eps, eps_root, mu_dtype)
    return _decoupled("adamw", plain, _number(learning_rate), weight_decay, where)


class AdadeltaState(NamedTuple):
    """What AdaDelta carries from step to step."""

    mean_square: Params  # of the gradients; structure and shapes of params, at least float32
    mean_square_update: Params  # the same, of the updates before the learning rate


@_schedulable
def adadelta(learning_rate: ScalarOrSchedule = 1.0, rho: Scalar = 0.9, eps: Scalar = 1e-6) -> Optimizer:
    """RMSProp that finds its own unit: steps as large as recent steps were.

    v      <- rho * v + (1 - rho) * gradient^2
    d      <- sqrt(u + eps) / sqrt(v + eps) * gradient
    u      <- rho * u + (1 - rho) * d^2
    params <- params - learning_rate * d

    Args:
      learning_rate: shape (), no unit, >= 0; or a schedule.
      rho: shape (), share of the averages kept each step, in [0, 1).
      eps: shape (), squared gradient units, >= 0.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> optimizer = adadelta(1.0, eps=0.1)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-0.8944]

    Source: Zeiler (2012), algorithm 1.
    """
    check.in_range("adadelta", "rho", rho, 0, 1)
    _check_positive("adadelta", eps=eps)

    def update(grads: PyTree, state: AdadeltaState, params: Params | None = None) -> tuple[PyTree, AdadeltaState]:
        v = _averaged(rho, state.mean_square, _squares(grads))

        def move(u: jax.Array, v: jax.Array, g: jax.Array) -> jax.Array:
            return _over(root(u + cast(eps, u)) * g.astype(u.dtype), root(v + cast(eps, v)))

        moves = jax.tree.map(move, state.mean_square_update, v, grads)
        u = _averaged(rho, state.mean_square_update, _squares(moves))
        updates = jax.tree.map(lambda step, g: step.astype(g.dtype), scale(-_number(learning_rate), moves), grads)
        return updates, AdadeltaState(v, u)

    return _checked("adadelta", lambda params: AdadeltaState(_no_squares(params), _no_squares(params)), update, complex_too=False)


class NadamState(NamedTuple):
    """What NAdam carries from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    momentum_product: jax.Array  # shape (), float: product of the momenta so far
    mean: Params  # structure, shapes and dtypes of params; or of mu_dtype
    mean_square: Params  # structure and shapes of params; real, at least float32


@_schedulable
def nadam(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    momentum_decay: Scalar | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> Optimizer:
    """Adam whose momentum looks one step ahead.

    params <- params - learning_rate * (mu' * m / (1 - P * mu') + (1 - mu) * gradient / (1 - P))
                       / (sqrt(v / (1 - b2^t) + eps_root) + eps)

    mu is b1, mu' the next step's mu, P the product of all mu so far; m and v as in `adam`. With a momentum_decay,
    mu is b1 * (1 - 0.96^(t * momentum_decay) / 2), which the paper suggests, with 0.004.

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      momentum_decay: shape (), per step, >= 0; None keeps mu at b1.
      mu_dtype: dtype in which m is kept, such as "bfloat16", which halves its memory; None for that of params. Complex m stay as they are.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> optimizer = nadam(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-0.7368]

    Source: Dozat (2016).
    """
    _check_adam("nadam", b1, b2, eps, eps_root)
    if momentum_decay is not None:
        _check_positive("nadam", momentum_decay=momentum_decay)

    def mu(t: jax.Array) -> jax.Array:
        b = jnp.asarray(b1, t.dtype)
        return b if momentum_decay is None else b * (1 - 0.5 * 0.96 ** (t * jnp.asarray(momentum_decay, t.dtype)))

    def init(params: Params) -> NadamState:
        return NadamState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.result_type(float)), zeros_like(params), _no_squares(params))

    def update(grads: PyTree, state: NadamState, params: Params | None = None) -> tuple[PyTree, NadamState]:
        step, (correct_v,) = _corrections(state.step, b2)
        t = step.astype(jnp.result_type(float))
        now, ahead = mu(t), mu(t + 1)
        product = state.momentum_product * now
        m, v = _averaged(b1, state.mean, grads), _averaged(b2, state.mean_square, _squares(grads))
        of_mean, of_gradient = ahead / (1 - product * ahead), (1 - now) / (1 - product)

        steps = jax.tree.map(lambda m, g: _sum(of_mean, m, of_gradient, g), m, grads)
        return _paced(_number(learning_rate), steps, _corrected(v, correct_v), eps, eps_root, m), NadamState(step, product, m, v)

    return _checked("nadam", init, update, mu_dtype=mu_dtype)


class LionState(NamedTuple):
    """What Lion carries from step to step."""

    mean: Params  # structure, shapes and dtypes of params; or of mu_dtype


@_schedulable
def lion(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    weight_decay: Scalar = 0.0,
    *,
    mu_dtype: jax.typing.DTypeLike | None = None,
    where: Where | None = None,
) -> Optimizer:
    """Steps of one size: only the sign of the averaged gradient counts.

    params <- params - learning_rate * (sign(b1 * m + (1 - b1) * gradient) + weight_decay * params)
    m      <- b2 * m + (1 - b2) * gradient

    Args:
      learning_rate: shape (), parameter units, >= 0, about a tenth of Adam's; or a schedule.
      b1: shape (), share of m in the step, in [0, 1).
      b2: shape (), share of m kept each step, in [0, 1).
      weight_decay: shape (), >= 0.
      mu_dtype: dtype in which m is kept, such as "bfloat16", which halves its memory; None for that of params. Complex m stay as they are.
      where: leaf -> bool, which leaves decay; None for all of them.

    Returns:
      An `Optimizer` whose updates are added to params; with weight decay its `update` needs params.

    Raises:
      ValueError: a concrete argument is out of range, or update is called without the params it needs.

    Example:
      >>> optimizer = lion(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates)
      [-0.5]

    Source: Chen et al. (2023).
    """
    check.in_range("lion", "b1", b1, 0, 1)
    check.in_range("lion", "b2", b2, 0, 1)
    _check_positive("lion", weight_decay=weight_decay)

    def update(grads: PyTree, state: LionState, params: Params | None = None) -> tuple[PyTree, LionState]:
        share = jnp.asarray(b1, jnp.result_type(float))
        direction = jax.tree.map(lambda m, g: jnp.sign(_sum(share, m, 1 - share, g)).astype(m.dtype), state.mean, grads)
        return scale(-_number(learning_rate), direction), LionState(_averaged(b2, state.mean, grads))

    plain = _checked("lion", lambda params: LionState(zeros_like(params)), update, complex_too=False, mu_dtype=mu_dtype)
    if not check.is_traced(weight_decay) and float(weight_decay) == 0:
        return plain
    return _decoupled("lion", plain, _number(learning_rate), weight_decay, where)


class AmsgradState(NamedTuple):
    """What AMSGrad carries from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    mean: Params  # structure, shapes and dtypes of params; or of mu_dtype
    mean_square: Params  # structure and shapes of params; real, at least float32
    max_mean_square: Params  # the same: the largest so far, each corrected for starting at zero


@_schedulable
def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> Optimizer:
    """Adam whose pace never rises again: it divides by the root of the largest mean square so far.

    u      <- max(u, v / (1 - b2^t))
    params <- params - learning_rate * (m / (1 - b1^t)) / (sqrt(u + eps_root) + eps)

    m and v as in `adam`. This is optax's rule. torch's takes the maximum of v before it is corrected and corrects that; the
    paper corrects neither m nor v.

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      mu_dtype: dtype in which m is kept, such as "bfloat16", which halves its memory; None for that of params. Complex m stay as they are.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> optimizer = amsgrad(0.5, b1=0.0)
      >>> _, state = optimizer.update(jnp.array([4.0]), optimizer.init(jnp.array([1.0])))
      >>> updates, state = optimizer.update(jnp.array([2.0]), state)  # its size is half of the largest
      >>> print(updates.round(4))
      [-0.25]

    Source: Reddi, Kale and Kumar (2018).
    """
    _check_adam("amsgrad", b1, b2, eps, eps_root)

    def init(params: Params) -> AmsgradState:
        return AmsgradState(*_no_steps(params), _no_squares(params))

    def update(grads: PyTree, state: AmsgradState, params: Params | None = None) -> tuple[PyTree, AmsgradState]:
        step, (correct_m, correct_v) = _corrections(state.step, b1, b2)
        m, v = _averaged(b1, state.mean, grads), _averaged(b2, state.mean_square, _squares(grads))
        u = jax.tree.map(jnp.maximum, state.max_mean_square, _corrected(v, correct_v))
        return _paced(_number(learning_rate), _corrected(m, correct_m), u, eps, eps_root, m), AmsgradState(step, m, v, u)

    return _checked("amsgrad", init, update, mu_dtype=mu_dtype)


class AdamaxState(NamedTuple):
    """What AdaMax carries from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    mean: Params  # structure, shapes and dtypes of params
    max_size: Params  # structure and shapes of params; at least float32


@_schedulable
def adamax(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Optimizer:
    """Adam that divides by the largest recent gradient in place of the root of the mean square.

    m      <- b1 * m + (1 - b1) * gradient
    u      <- max(b2 * u, |gradient| + eps)
    params <- params - learning_rate * (m / (1 - b1^t)) / u

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of u kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> optimizer = adamax(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-0.5]

    Source: Kingma and Ba (2015), algorithm 2.
    """
    _check_adam("adamax", b1, b2, eps, 0.0)

    def init(params: Params) -> AdamaxState:
        return AdamaxState(jnp.zeros((), jnp.int32), zeros_like(params), _no_squares(params))

    def update(grads: PyTree, state: AdamaxState, params: Params | None = None) -> tuple[PyTree, AdamaxState]:
        step, (correct_m, _) = _corrections(state.step, b1, b2)
        m = _averaged(b1, state.mean, grads)

        def largest(u: jax.Array, g: jax.Array) -> jax.Array:
            return jnp.maximum(cast(b2, u) * u, jnp.abs(g.astype(u.dtype)) + cast(eps, u))

        u = jax.tree.map(largest, state.max_size, grads)
        steps = jax.tree.map(lambda m, u, g: _over(m, u).astype(g.dtype), _corrected(m, correct_m), u, grads)
        return scale(-_number(learning_rate), steps), AdamaxState(step, m, u)

    return _checked("adamax", init, update, complex_too=False)


@_schedulable
def adabelief(
    learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-16, *, eps_root: Scalar = 1e-16
) -> Optimizer:
    """Adam that trusts a gradient the more, the nearer it is to what was expected: it divides by the deviation from m.

    m      <- b1 * m + (1 - b1) * gradient
    v      <- b2 * v + (1 - b2) * (gradient - m)^2 + eps_root
    params <- params - learning_rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0; it stays in v, as in the paper.

    Returns:
      An `Optimizer` whose updates are added to params, and whose state is an `AdamState`.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> optimizer = adabelief(0.5, b1=0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-1.]

    Source: Zhuang et al. (2020).
    """
    _check_adam("adabelief", b1, b2, eps, eps_root)

    def update(grads: PyTree, state: AdamState, params: Params | None = None) -> tuple[PyTree, AdamState]:
        step, (correct_m, correct_v) = _corrections(state.step, b1, b2)
        m = _averaged(b1, state.mean, grads)
        surprises = jax.tree.map(lambda g, m: abs_square(wide(g) - wide(m)), grads, m)
        v = jax.tree.map(lambda v: v + cast(eps_root, v), _averaged(b2, state.mean_square, surprises))
        updates = _paced(_number(learning_rate), _corrected(m, correct_m), _corrected(v, correct_v), eps, 0.0, m)
        return updates, AdamState(step, m, v)

    return _checked("adabelief", _no_steps, update)


@_schedulable
def radam(
    learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8, *, eps_root: Scalar = 0.0
) -> Optimizer:
    """Adam with a warmup of its own: as long as v is of too few gradients to be trusted, the steps are momentum's.

    n      =  2 * a + 1, where a is the mean age of the gradients in v: how many they count as; at last N = 2 / (1 - b2) - 1
    r      =  sqrt((n - 4) * (n - 2) * N / ((N - 4) * (N - 2) * n))
    params <- params - learning_rate * r * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t) + eps_root) + eps), from n = 5 on;
    params <- params - learning_rate * m / (1 - b1^t) before

    m and v as in `adam`.

    Args:
      learning_rate: shape (), parameter units, and per gradient unit in the first steps, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.

    Returns:
      An `Optimizer` whose updates are added to params, and whose state is an `AdamState`.

    Raises:
      ValueError: a concrete argument is out of range; a traced one cannot be checked.

    Example:
      >>> optimizer = radam(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-1.]

    Source: Liu et al. (2020), algorithm 2.
    """
    _check_adam("radam", b1, b2, eps, eps_root)

    def update(grads: PyTree, state: AdamState, params: Params | None = None) -> tuple[PyTree, AdamState]:
        step, (correct_m, correct_v) = _corrections(state.step, b1, b2)
        m, v = _averaged(b1, state.mean, grads), _averaged(b2, state.mean_square, _squares(grads))
        mean, mean_square = _corrected(m, correct_m), _corrected(v, correct_v)
        n, last = _effective_count(step, b2)
        enough = n >= 5
        n, last = jnp.where(enough, n, 6), jnp.where(enough, last, 6)  # in their place, so that no gradient is of a root of less than zero
        rectified = jnp.sqrt((n - 4) * (n - 2) * last / ((last - 4) * (last - 2) * n))

        def move(m: jax.Array, v: jax.Array, g: jax.Array) -> jax.Array:
            step = jnp.where(enough, cast(rectified, m) * _divided(m, v, eps, eps_root), m)
            return (-cast(_number(learning_rate), step) * step).astype(g.dtype)

        return jax.tree.map(move, mean, mean_square, grads), AdamState(step, m, v)

    return _checked("radam", _no_steps, update)


@_schedulable
def lamb(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0.0,
    *,
    eps_root: Scalar = 0.0,
    where: Where | None = None,
) -> Optimizer:
    """Adam for large batches: each leaf's step is as long as the leaf, times the learning rate.

    step   =  (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t) + eps_root) + eps) + weight_decay * params
    params <- params - learning_rate * |params| / |step| * step, leaf by leaf

    m and v as in `adam`. Where |params| or |step| is zero their ratio counts as one.

    Args:
      learning_rate: shape (), share of a leaf's norm, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      weight_decay: shape (), >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      where: leaf -> bool, which leaves decay and are scaled by the ratio of norms; None for all of them.

    Returns:
      An `Optimizer` whose updates are added to params, and whose state is an `AdamState`; its `update` needs params.

    Raises:
      ValueError: a concrete argument is out of range, or update is called without params.

    Example:
      >>> optimizer = lamb(0.5)
      >>> params = jnp.array([3.0, 4.0])
      >>> updates, state = optimizer.update(jnp.array([2.0, 0.0]), optimizer.init(params), params)
      >>> print(updates.round(4))
      [-2.5  0. ]

    Source: You et al. (2020), algorithm 2.
    """
    _check_adam("lamb", b1, b2, eps, eps_root)
    _check_positive("lamb", weight_decay=weight_decay)

    def update(grads: PyTree, state: AdamState, params: Params | None = None) -> tuple[PyTree, AdamState]:
        _check_given("lamb", params, "its ratio of norms")
        step, (correct_m, correct_v) = _corrections(state.step, b1, b2)
        m, v = _averaged(b1, state.mean, grads), _averaged(b2, state.mean_square, _squares(grads))

        def move(m: jax.Array, v: jax.Array, p: jax.Array, g: jax.Array) -> jax.Array:
            step = _divided(m, v, eps, eps_root)
            if where is None or where(p):
                step = step + cast(weight_decay, step) * p.astype(step.dtype)
                step = cast(_trust(p, step, 1.0, 0.0), step) * step
            return (-cast(_number(learning_rate), step) * step).astype(g.dtype)

        return jax.tree.map(move, _corrected(m, correct_m), _corrected(v, correct_v), params, grads), AdamState(step, m, v)

    return _checked("lamb", _no_steps, update)


class LarsState(NamedTuple):
    """What LARS carries from step to step."""

    velocity: Params  # structure and shapes of params, at least float32; steps, the learning rate in them


@_schedulable
def lars(
    learning_rate: ScalarOrSchedule,
    momentum: Scalar = 0.9,
    weight_decay: Scalar = 0.0,
    trust_coefficient: Scalar = 0.001,
    eps: Scalar = 0.0,
    *,
    nesterov: bool = False,
    where: Where | None = None,
) -> Optimizer:
    """Momentum for large batches: each leaf's gradient is made as long as the leaf, times a small number.

    g        =  gradient + weight_decay * params
    velocity <- momentum * velocity + learning_rate * trust_coefficient * |params| / (|g| + eps) * g, leaf by leaf
    params   <- params - velocity

    With nesterov, what is added to the velocity counts once more in the step. Where |params| or |g| is zero,
    trust_coefficient * |params| / (|g| + eps) counts as one. A schedule acts on what is added to the velocity, as in the paper.

    Args:
      learning_rate: shape (), >= 0; or a schedule.
      momentum: shape (), share of the velocity kept each step, in [0, 1).
      weight_decay: shape (), gradient units per parameter unit, >= 0.
      trust_coefficient: shape (), share of a leaf's norm, >= 0.
      eps: shape (), gradient units, >= 0.
      nesterov: whether the gradient counts as taken where the velocity leads to.
      where: leaf -> bool, which leaves decay and are scaled by the ratio of norms; None for all of them.

    Returns:
      An `Optimizer` whose updates are added to params; its `update` needs params.

    Raises:
      ValueError: a concrete argument is out of range, or update is called without params.

    Example:
      >>> optimizer = lars(0.5, trust_coefficient=0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> updates, state = optimizer.update(jnp.array([2.0, 0.0]), optimizer.init(params), params)
      >>> print(updates.round(4))
      [-0.25 -0.  ]

    Source: You, Gitman and Ginsburg (2017).
    """
    check.in_range("lars", "momentum", momentum, 0, 1)
    _check_positive("lars", weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps)

    def update(grads: PyTree, state: LarsState, params: Params | None = None) -> tuple[PyTree, LarsState]:
        _check_given("lars", params, "its ratio of norms")

        def paced(g: jax.Array, p: jax.Array) -> jax.Array:
            g = wide(g)
            if where is None or where(p):
                g = g + cast(weight_decay, g) * p.astype(g.dtype)
                g = cast(_trust(p, g, trust_coefficient, eps), g) * g
            return cast(_number(learning_rate), g) * g

        steps = jax.tree.map(paced, grads, params)
        velocity = _blended(momentum, state.velocity, 1.0, steps)
        ahead = _blended(momentum, velocity, 1.0, steps) if nesterov else velocity
        return jax.tree.map(lambda step, g: -step.astype(g.dtype), ahead, grads), LarsState(velocity)

    return _checked("lars", lambda params: LarsState(_wide_zeros(params)), update)


class Factors(NamedTuple):
    """Mean squares of a leaf, of which only their means along either of its two longest axes are kept; at least float32."""

    rows: jax.Array  # without the leaf's longest axis
    columns: jax.Array  # without its second longest


class AdafactorState(NamedTuple):
    """What Adafactor carries from step to step."""

    step: jax.Array  # shape (), int32: updates made so far
    mean_square: Params  # of each leaf its `Factors`, or where it is too small for them all of it, at least float32


@_schedulable
def adafactor(
    learning_rate: ScalarOrSchedule,
    decay_rate: Scalar = 0.8,
    clipping_threshold: Scalar = 1.0,
    eps: Scalar = 1e-30,
    *,
    min_dim_size_to_factor: int = 128,
    multiply_by_parameter_scale: bool = True,
) -> Optimizer:
    """RMSProp that keeps of a matrix's mean squares their row and column means alone: almost no memory.

    decay  =  1 - t^-decay_rate
    v      <- decay * v + (1 - decay) * (gradient^2 + eps), or its row means R and column means C: v is R * C / mean(R)
    step   =  gradient / sqrt(v)
    params <- params - learning_rate * step / max(1, rms(step) / clipping_threshold) * max(rms(params), 0.001), leaf by leaf

    Args:
      learning_rate: shape (), share of a leaf's root mean square, >= 0; or a schedule.
      decay_rate: shape (), >= 0: how fast the past comes to count for nearly all.
      clipping_threshold: shape (), the largest root mean square of a leaf's step before the learning rate, >= 0.
      eps: shape (), squared gradient units, >= 0.
      min_dim_size_to_factor: leaves whose second longest axis is at least so long are kept as rows and columns, at least 1.
      multiply_by_parameter_scale: whether the steps are shares of the parameters, as in the last line's last factor.

    Returns:
      An `Optimizer` whose updates are added to params; its `update` needs params.

    Raises:
      ValueError: a concrete argument is out of range, or update is called without params.

    Example:
      >>> optimizer = adafactor(0.5)
      >>> params = jnp.array([3.0, 3.0])
      >>> updates, state = optimizer.update(jnp.array([2.0, -1.0]), optimizer.init(params), params)
      >>> print(updates.round(4))
      [-1.5  1.5]

    Source: Shazeer and Stern (2018), algorithms 4 and 5; as in optax.
    """
    _check_positive("adafactor", decay_rate=decay_rate, clipping_threshold=clipping_threshold, eps=eps)
    shortest = check.whole("adafactor", "min_dim_size_to_factor", min_dim_size_to_factor, 1)

    def init(params: Params) -> AdafactorState:
        def zeros(leaf: jax.Array) -> jax.Array | Factors:
            axes = _longest_axes(leaf.shape, shortest)
            return leaf if axes is None else Factors(*(jnp.mean(leaf, axis) for axis in axes))

        return AdafactorState(jnp.zeros((), jnp.int32), jax.tree.map(zeros, _no_squares(params)))

    def update(grads: PyTree, state: AdafactorState, params: Params | None = None) -> tuple[PyTree, AdafactorState]:
        _check_given("adafactor", params, "the size of its steps")
        step = next_count(state.step)
        t = step.astype(jnp.result_type(float))
        decay = 1 - t ** -jnp.asarray(decay_rate, t.dtype)

        def one(g: jax.Array, p: jax.Array, v: Any) -> tuple[jax.Array, jax.Array | Factors]:
            move, square = wide(g), abs_square(g)
            square = square + cast(eps, square)
            axes = _longest_axes(g.shape, shortest)
            if axes is None:
                v = _blend(decay, v, 1 - decay, square)
                move = _over(move, root(v))
            else:
                v = Factors(*(_blend(decay, old, 1 - decay, jnp.mean(square, axis)) for old, axis in zip(v, axes, strict=True)))
                rows, columns = (jnp.expand_dims(mean, axis) for mean, axis in zip(v, axes, strict=True))
                share = _over(root(rows), root(jnp.mean(rows, axes[1], keepdims=True)))
                move = _over(_over(move, share), root(columns))
            size, limit = _rms(move), cast(clipping_threshold, move)
            long = size > limit
            move = jnp.where(long, limit / jnp.where(long, size, 1), 1) * move
            if multiply_by_parameter_scale:
                move = jnp.maximum(_rms(p).astype(move.dtype), 1e-3) * move
            return (-cast(_number(learning_rate), move) * move).astype(g.dtype), v

        each = jax.tree.map(one, grads, params, state.mean_square)
        updates, v = (jax.tree.map(lambda g, pair, i=i: pair[i], grads, each) for i in (0, 1))
        return updates, AdafactorState(step, v)

    return _checked("adafactor", init, update, complex_too=False)


def clip_by_global_norm(max_norm: Scalar) -> Optimizer:
    """Shortens gradients whose Euclidean norm, all leaves together, exceeds max_norm; put it first in a `chain`.

    Args:
      max_norm: shape (), gradient units, > 0.

    Returns:
      An `Optimizer` that gives the clipped gradients.

    Raises:
      ValueError: max_norm is not positive.

    Example:
      >>> clip = clip_by_global_norm(1.0)
      >>> updates, state = clip.update(jnp.array([3.0, 4.0]), clip.init(None))
      >>> print(updates)
      [0.6 0.8]

    Source: Pascanu, Mikolov and Bengio (2013).
    """
    check.in_range("clip_by_global_norm", "max_norm", max_norm, 0, ends="()")

    def update(grads: PyTree, state: tuple[Any, ...], params: Params | None = None) -> tuple[PyTree, tuple[Any, ...]]:
        norm = global_norm(grads)
        limit = jnp.asarray(max_norm, norm.dtype)
        long = norm > limit
        factor = jnp.where(long, limit / jnp.where(long, norm, 1), 1)
        return scale(factor, grads), state

    return _checked("clip_by_global_norm", lambda params: (), update)


def clip_by_value(max_value: Scalar) -> Optimizer:
    """Brings each entry of the gradients into [-max_value, max_value]; put it first in a `chain`.

    Args:
      max_value: shape (), gradient units, > 0.

    Returns:
      An `Optimizer` that gives the clipped gradients.

    Raises:
      ValueError: max_value is not positive.

    Example:
      >>> clip = clip_by_value(1.0)
      >>> updates, state = clip.update(jnp.array([3.0, -0.5]), clip.init(None))
      >>> print(updates)
      [ 1.  -0.5]
    """
    check.in_range("clip_by_value", "max_value", max_value, 0, ends="()")

    def update(grads: PyTree, state: tuple[Any, ...], params: Params | None = None) -> tuple[PyTree, tuple[Any, ...]]:
        def one(g: jax.Array) -> jax.Array:
            limit = cast(max_value, wide(g))
            return jnp.clip(wide(g), -limit, limit).astype(g.dtype)

        return jax.tree.map(one, grads), state

    return _checked("clip_by_value", lambda params: (), update, complex_too=False)


def adaptive_clip(clipping: Scalar, eps: Scalar = 1e-3) -> Optimizer:
    """Shortens the gradients of each neuron whose norm exceeds a share of its weights' norm; put it first in a `chain`.

    gradient <- gradient * min(1, clipping * max(|weights|, eps) / |gradient|)

    A neuron's weights are one entry along a leaf's first axis, as in the weights of `dense` and `conv`; a leaf with one axis or none,
    such as a bias, is taken as a whole.

    Args:
      clipping: shape (), largest ratio of the norms, > 0; 0.01 is the paper's for large batches.
      eps: shape (), the least that a norm of weights counts as, parameter units, > 0, so that weights of zero can grow.

    Returns:
      An `Optimizer` that gives the clipped gradients; its `update` needs params.

    Raises:
      ValueError: an argument is not positive, or update is called without params.

    Example:
      >>> clip = adaptive_clip(0.1)
      >>> params = jnp.array([[3.0, 4.0], [30.0, 40.0]])
      >>> updates, state = clip.update(jnp.array([[1.0, 0.0], [1.0, 0.0]]), clip.init(params), params)
      >>> print(updates)
      [[0.5 0. ]
       [1.  0. ]]

    Source: Brock et al. (2021).
    """
    check.in_range("adaptive_clip", "clipping", clipping, 0, ends="()")
    check.in_range("adaptive_clip", "eps", eps, 0, ends="()")

    def update(grads: PyTree, state: tuple[Any, ...], params: Params | None = None) -> tuple[PyTree, tuple[Any, ...]]:
        _check_given("adaptive_clip", params, "the norms of its weights")

        def one(g: jax.Array, p: jax.Array) -> jax.Array:
            axes = tuple(range(1, g.ndim)) if g.ndim > 1 else None
            norm, of_weights = (root(jnp.sum(abs_square(x), axes, keepdims=True)) for x in (g, p))
            limit = cast(clipping, norm) * jnp.maximum(of_weights.astype(norm.dtype), cast(eps, norm))
            long = norm > limit
            factor = jnp.where(long, limit / jnp.where(long, norm, 1), 1)
            return (factor.astype(wide(g).dtype) * wide(g)).astype(g.dtype)

        return jax.tree.map(one, grads, params), state

    return _checked("adaptive_clip", lambda params: (), update)


def chain(*optimizers: Optimizer) -> Optimizer:
    """One after the other: each takes the updates of the one before it as its gradients.

    What else is known of the step (`value`, `grad`, `value_fn`) goes as it is to each whose `update` names it or takes `**extra`,
    such as a line search, or a rule that lowers the rate when the loss stands still.

    Args:
      *optimizers: anything with init and update, funcnet's or another library's gradient transformations.

    Returns:
      An `Optimizer` whose state is the tuple of theirs.

    Raises:
      TypeError: one lacks init or update.

    Example:
      >>> optimizer = chain(clip_by_global_norm(1.0), sgd(0.5))
      >>> updates, state = optimizer.update(jnp.array([30.0, 40.0]), optimizer.init(jnp.zeros(2)))
      >>> print(updates)
      [-0.3 -0.4]
    """
    for i, optimizer in enumerate(optimizers):
        check.callables(f"chain: optimizer {i}", optimizer, ("init", "update"), "an optimizer is made by a call, such as adam(1e-3)")

    def update(grads: PyTree, state: tuple[Any, ...], params: Params | None = None, **extra: Any) -> tuple[PyTree, tuple[Any, ...]]:
        states = []
        for optimizer, own in zip(optimizers, state, strict=True):
            grads, own = optimizer.update(grads, own, params, **taken(optimizer.update, extra))
            states.append(own)
        return grads, tuple(states)

    return Optimizer(lambda params: tuple(optimizer.init(params) for optimizer in optimizers), update)


def taken(update: Callable[..., Any], extra: dict[str, Any]) -> dict[str, Any]:
    """What of extra a function that updates takes: all of it by **, or what it names.

    Example:
      >>> taken(lambda grads, state, params=None, *, value: (grads, state), {"value": 1.0, "grad": 2.0})
      {'value': 1.0}
    """
    try:
        parameters = inspect.signature(update).parameters.values()
    except (TypeError, ValueError):  # no signature can be read
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return extra
    named = {parameter.name for parameter in parameters if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)}
    return {name: value for name, value in extra.items() if name in named}


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


def optimizer(name: str, learning_rate: ScalarOrSchedule, **settings: Any) -> Optimizer:
    """The optimizer of that name, so that a sweep can choose it.

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: shape (), >= 0; or a schedule.
      **settings: the optimizer's own arguments.

    Returns:
      An `Optimizer`.

    A name marked `traced` may be sgd, momentum, adagrad, rmsprop or adam, at their own defaults: one update rule with
    coefficients for each, whose state is an `AdamState`.

    Raises:
      ValueError: the name is unknown, or an argument out of range.
      TypeError: the optimizer has no such argument.

    Example:
      >>> optimizer("adm", 1e-3)
      Traceback (most recent call last):
      ValueError: optimizer: unknown optimizer 'adm'; did you mean 'adam'?
    """
    if isinstance(name, Option):
        return _one_rule(learning_rate, name, settings)
    check.one_of("optimizer", "optimizer", name, OPTIMIZERS)
    for setting in settings:
        if setting not in (known := list(inspect.signature(OPTIMIZERS[name]).parameters)):
            raise TypeError(f"optimizer: {name} has no argument {setting!r}; {check.nearest(setting, known)}")
    return OPTIMIZERS[name](learning_rate, **settings)


class _Rule(NamedTuple):
    """The coefficients that make an optimizer of the one rule

    m <- decay * m + gain * gradient;  v <- v_decay * v + v_gain * gradient^2;  move by -learning_rate * m / (sqrt(v) + eps)
    """

    decay: float
    averages: float  # 1 where gain is 1 - decay, 0 where it is 1
    v_decay: float
    v_averages: float
    scales: float  # whether the move is divided by the root of v; if not, v stays as it is
    corrects: float  # whether m and v are corrected for starting at zero
    eps: float


_RULES = {
    "sgd": _Rule(0, 0, 0, 0, 0, 0, 0),
    "momentum": _Rule(0.9, 0, 0, 0, 0, 0, 0),
    "adagrad": _Rule(0, 0, 1, 0, 1, 0, 1e-10),
    "rmsprop": _Rule(0, 0, 0.9, 1, 1, 0, 1e-8),
    "adam": _Rule(0.9, 1, 0.999, 1, 1, 1, 1e-8),
}


@_schedulable
def _one_rule(learning_rate: ScalarOrSchedule, option: Option, settings: dict[str, Scalar]) -> Optimizer:
    for name in option.names:
        check.one_of("optimizer", "optimizer that can be traced", name, _RULES)
    if settings:
        got = ", ".join(map(repr, settings))
        raise TypeError(check.message("optimizer", "a traced name must come without settings", got, "leave out traced, or the settings"))
    never_meant = _Rule(*[0.5] * len(_Rule._fields))  # as in Option.elementwise: the coefficients of an only name are no constants
    columns = zip(*(_RULES[name] for name in option.names), never_meant, strict=True)
    rule = _Rule(*(jnp.array(column, jnp.result_type(float))[option.index] for column in columns))  # type: ignore[arg-type]
    rate = jnp.asarray(learning_rate, jnp.result_type(float))

    def update(grads: PyTree, state: AdamState, params: Params | None = None) -> tuple[PyTree, AdamState]:
        step = next_count(state.step)
        t = step.astype(rate.dtype)
        gain = jnp.where(rule.averages == 1, 1 - rule.decay, 1)
        v_gain = jnp.where(rule.v_averages == 1, 1 - rule.v_decay, 1)
        correct_m, correct_v = (jnp.where(rule.corrects == 1, 1 - decay**t, 1) for decay in (rule.decay, rule.v_decay))

        def squared(v: jax.Array, g: jax.Array) -> jax.Array:
            return jnp.where(rule.scales == 1, _blend(rule.v_decay, v, v_gain, abs_square(g)), v)

        def move(m: jax.Array, v: jax.Array) -> jax.Array:
            step = wide(m) / cast(correct_m, wide(m))
            scaled = _divided(step, v / cast(correct_v, v), rule.eps, 0.0)
            return (-cast(rate, step) * jnp.where(rule.scales == 1, scaled, step)).astype(m.dtype)

        m = jax.tree.map(lambda m, g: _blend(rule.decay, m, gain, g), state.mean, grads)
        v = jax.tree.map(squared, state.mean_square, grads)
        return jax.tree.map(move, m, v), AdamState(step, m, v)

    return _checked("optimizer", _no_steps, update)


def _check_positive(where: str, **values: Scalar) -> None:
    for name, value in values.items():
        check.in_range(where, name, value, 0)


def _check_adam(where: str, b1: Scalar, b2: Scalar, eps: Scalar, eps_root: Scalar) -> None:
    check.in_range(where, "b1", b1, 0, 1)
    check.in_range(where, "b2", b2, 0, 1)
    _check_positive(where, eps=eps, eps_root=eps_root)


def _adam(
    where: str, learning_rate: Scalar, b1: Scalar, b2: Scalar, eps: Scalar, eps_root: Scalar, mu_dtype: jax.typing.DTypeLike | None
) -> Optimizer:
    _check_adam(where, b1, b2, eps, eps_root)

    def update(grads: PyTree, state: AdamState, params: Params | None = None) -> tuple[PyTree, AdamState]:
        step, (correct_m, correct_v) = _corrections(state.step, b1, b2)
        m, v = _averaged(b1, state.mean, grads), _averaged(b2, state.mean_square, _squares(grads))
        return _paced(learning_rate, _corrected(m, correct_m), _corrected(v, correct_v), eps, eps_root, m), AdamState(step, m, v)

    return _checked(where, _no_steps, update, mu_dtype=mu_dtype)


def _no_steps(params: Params) -> AdamState:
    return AdamState(jnp.zeros((), jnp.int32), zeros_like(params), _no_squares(params))


def _corrections(step: jax.Array, *decays: Scalar) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The next step's number, and the sum of the weights in an average of each decay that started at zero."""
    step = next_count(step)
    t = step.astype(jnp.result_type(float))
    return step, tuple(1 - jnp.asarray(decay, t.dtype) ** t for decay in decays)


def _effective_count(step: jax.Array, decay: Scalar) -> tuple[jax.Array, jax.Array]:
    """How many gradients an average of them counts as, after so many steps and at last: twice their mean age, and one.

    The mean age is h(z) - t * h(t * z), where z is -log(decay) and h(z) is 1 / (e^z - 1). Both are large and almost the same
    where decay is near one; their difference is (t - 1) / 2 + k(z) - t * k(t * z), where k is h less 1 / z - 1 / 2.
    """
    t = step.astype(jnp.result_type(float))
    decay = jnp.asarray(decay, t.dtype)
    z = -jnp.log(jnp.maximum(decay, 1e-30))

    def k(z: jax.Array) -> jax.Array:
        small, large = jnp.minimum(z, 0.1), jnp.maximum(z, 0.1)
        series = small * (1 / 12 - small**2 * (1 / 720 - small**2 * (1 / 30240 - small**2 / 1209600)))
        return jnp.where(z < 0.1, series, 1 / jnp.expm1(jnp.minimum(large, 80)) - 1 / large + 0.5)

    return t + 2 * (k(z) - t * k(t * z)), 2 / (1 - decay) - 1


def _trust(p: jax.Array, step: jax.Array, coefficient: Scalar, eps: Scalar) -> jax.Array:
    """coefficient * |p| / (|step| + eps), and one where a norm is zero."""
    length, of_step = root(jnp.sum(abs_square(p))), root(jnp.sum(abs_square(step)))
    length = length.astype(of_step.dtype)
    none = (length == 0) | (of_step == 0)
    return jnp.where(none, 1, cast(coefficient, length) * length / jnp.where(none, 1, of_step + cast(eps, of_step)))


def _rms(x: jax.Array) -> jax.Array:
    return root(jnp.mean(abs_square(x)))


def _longest_axes(shape: tuple[int, ...], shortest: int) -> tuple[int, int] | None:
    """The longest axis and the second longest, where that is long enough."""
    if len(shape) < 2:
        return None
    *_, second, first = map(int, np.argsort(shape))
    return (first, second) if shape[second] >= shortest else None


def _check_given(where: str, params: Params | None, what: str) -> None:
    if params is None:
        raise ValueError(check.message(where, f"update needs params for {what}", None, "call update(grads, state, params)"))


def _decoupled(where: str, optimizer: Optimizer, learning_rate: Scalar, weight_decay: Scalar, where_fn: Where | None) -> Optimizer:
    """The optimizer, whose updates also shrink the parameters by learning_rate * weight_decay of themselves."""

    def update(grads: PyTree, state: State, params: Params | None = None, **extra: Any) -> tuple[PyTree, State]:
        _check_given(where, params, "its weight decay")
        updates, state = optimizer.update(grads, state, params)

        def shrink(u: jax.Array, p: jax.Array) -> jax.Array:
            if where_fn is not None and not where_fn(p):
                return u
            wide_u = wide(u)
            return (wide_u - cast(learning_rate, wide_u) * cast(weight_decay, wide_u) * p.astype(wide_u.dtype)).astype(u.dtype)

        return jax.tree.map(shrink, updates, _arrays(where, "params", params)), state

    return Optimizer(optimizer.init, update)


def _checked(
    where: str,
    init: Callable[[Params], State],
    update: Callable[..., tuple[PyTree, State]],
    *,
    complex_too: bool = True,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> Optimizer:
    """An optimizer whose rule meets floating-point or complex arrays only, whatever the leaves of params and gradients are.

    With a mu_dtype, the `mean` of its state is kept in that.
    """
    if mu_dtype is not None:
        init, update = _mean_kept_in(_floating(where, mu_dtype), init, update)

    def checked_init(params: Params) -> State:
        return init(_arrays(where, "params", params, complex_too))

    def checked_update(grads: PyTree, state: State, params: Params | None = None, **extra: Any) -> tuple[PyTree, State]:
        grads = _arrays(where, "gradients", grads, complex_too)
        if params is not None:
            params = _arrays(where, "params", params, complex_too)
            _check_real(where, "gradients", grads, params)
        return update(grads, state, params)

    return Optimizer(checked_init, checked_update)


def _mean_kept_in(
    dtype: jnp.dtype, init: Callable[[Params], Any], update: Callable[..., tuple[PyTree, Any]]
) -> tuple[Callable[[Params], State], Callable[..., tuple[PyTree, State]]]:
    """The rule, whose state's mean is rounded to dtype between steps alone: a step uses it before. Complex means stay as they are."""

    def kept(state: Any) -> Any:
        return state._replace(mean=jax.tree.map(lambda m: m if jnp.iscomplexobj(m) else m.astype(dtype), state.mean))

    def widened(m: jax.Array, g: jax.Array) -> jax.Array:
        dtypes = at_least_float32(m.dtype), jnp.finfo(g.dtype).dtype
        return m if jnp.iscomplexobj(m) else m.astype(max(dtypes, key=lambda dtype: dtype.itemsize))

    def kept_update(grads: PyTree, state: Any, params: Params | None = None) -> tuple[PyTree, State]:
        before = state._replace(mean=jax.tree.map(widened, state.mean, grads))
        updates, state = update(grads, before, params)
        return jax.tree.map(lambda u, g: u.astype(g.dtype), updates, grads), kept(state)

    return lambda params: kept(init(params)), kept_update


def _floating(where: str, mu_dtype: jax.typing.DTypeLike) -> jnp.dtype:
    try:
        dtype = jnp.dtype(mu_dtype)
    except TypeError:
        dtype = np.dtype(object)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(check.message(where, "mu_dtype must be a floating-point dtype", repr(mu_dtype), "such as 'bfloat16'"))
    return dtype


def _arrays(where: str, what: str, tree: PyTree, complex_too: bool = True) -> PyTree:
    """The tree with arrays as leaves: Python floats become arrays, and whole gradients floating point; other leaves are errors."""

    def one(path: Any, leaf: Any) -> Any:
        dtype = _dtype(leaf)
        if jnp.issubdtype(dtype, jnp.floating) or (complex_too and jnp.issubdtype(dtype, jnp.complexfloating)):
            return leaf if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else jnp.asarray(leaf, dtype)
        if what != "params" and (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)):
            return jnp.asarray(leaf, jnp.result_type(float))
        kinds = "floating-point or complex" if complex_too else "floating-point"
        got = repr(leaf)[:80] if dtype == np.dtype(object) else dtype
        is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
        fix = "sgd, momentum and adam take complex numbers" if is_complex else "keep what isn't trained out of params"
        raise TypeError(check.message(where, f"{what} must be {kinds}", f"{got}{_at(path)}", fix))

    return jax.tree_util.tree_map_with_path(one, tree)


def _check_real(where: str, what: str, tree: PyTree, params: Params) -> None:
    def one(path: Any, leaf: jax.Array, p: jax.Array) -> None:
        if jnp.iscomplexobj(leaf) and not jnp.iscomplexobj(p):
            raise TypeError(check.message(where, f"{what} must be real where params are", f"{leaf.dtype}{_at(path)}", "take the real part"))

    jax.tree_util.tree_map_with_path(one, tree, params)


def _at(path: Any) -> str:
    return f" at {jax.tree_util.keystr(path)}" if path else ""


def _dtype(leaf: Any) -> Any:
    """A leaf's dtype; object where it is no number and no array."""
    try:
        return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    except (TypeError, ValueError):
        return np.dtype(object)


def _averaged(decay: Scalar, old: PyTree, new: PyTree) -> PyTree:
    share = jnp.asarray(decay, jnp.result_type(float))
    return _blended(share, old, 1 - share, new)


def _blended(a: Scalar, left: PyTree, b: Scalar, right: PyTree) -> PyTree:
    """a * left + b * right, leaf by leaf, in left's dtypes."""
    _check_real("optimizer", "gradients", right, left)
    return _blend_all(a, left, b, right)


@traced_once
def _blend_all(a: Scalar, left: PyTree, b: Scalar, right: PyTree) -> PyTree:
    return jax.tree.map(lambda left, right: _blend(a, left, b, right), left, right)


def _blend(a: Scalar, left: jax.Array, b: Scalar, right: jax.Array) -> jax.Array:
    """a * left + b * right, rounded once to left's dtype: a decay of 0.999 is 1 in bfloat16, and 1 - decay nothing."""
    return _sum(a, left, b, right).astype(left.dtype)


def _sum(a: Scalar, left: jax.Array, b: Scalar, right: jax.Array) -> jax.Array:
    """a * left + b * right in left's dtype, or float32 where that is shorter."""
    left = wide(left)
    if jnp.iscomplexobj(right) and not jnp.iscomplexobj(left):
        raise TypeError(check.message("optimizer", "gradients must be real where params are", right.dtype, "take the real part"))
    return cast(a, left) * left + cast(b, left) * right.astype(left.dtype)


@traced_once
def _squares(tree: PyTree) -> PyTree:
    return jax.tree.map(abs_square, tree)


def _wide_zeros(params: Params) -> PyTree:
    """Zeros in the shapes of params, at least float32."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=at_least_float32(p.dtype)), params)


def _no_squares(params: Params) -> PyTree:
    """Zeros to add squares to: in float16 the square of 1e-4 is zero, and in bfloat16 an average of decay 0.999 stands still."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, jnp.finfo(at_least_float32(p.dtype)).dtype), params)


@traced_once
def _corrected(averages: PyTree, total: Scalar) -> PyTree:
    """Averages that started at zero, over the total of their weights so far, in at least float32."""
    return jax.tree.map(lambda average: wide(average) / cast(total, wide(average)), averages)


@traced_once
def _paced(learning_rate: Scalar, steps: PyTree, v: PyTree, eps: Scalar, eps_root: Scalar, like: PyTree) -> PyTree:
    """-learning_rate * steps / (sqrt(v + eps_root) + eps), found in at least float32, in the dtypes of another tree."""

    def move(step: jax.Array, v: jax.Array, like: jax.Array) -> jax.Array:
        return (-cast(learning_rate, wide(step)) * _divided(wide(step), v, eps, eps_root)).astype(like.dtype)

    return jax.tree.map(move, steps, v, like)


def _divided(step: jax.Array, v: jax.Array, eps: Scalar, eps_root: Scalar) -> jax.Array:
    return _over(step, root(v + cast(eps_root, v)) + cast(eps, v))


def _over(step: jax.Array, size: jax.Array) -> jax.Array:
    """step / size, and zero where size is, as where no gradient has been yet and eps is zero."""
    zero = size == 0
    return jnp.where(zero, jnp.zeros((), step.dtype), step / jnp.where(zero, jnp.ones((), size.dtype), size).astype(step.dtype))
