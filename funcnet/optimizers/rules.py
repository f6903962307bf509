"""The named optimizers, each composed of parts, one of which applies the learning rate."""

import jax
import jax.numpy as jnp  # noqa: F401  (the examples use it)

from funcnet import check
from funcnet.leaves import Where
from funcnet.optimizers.moments import (
    by_adadelta,
    by_adam,
    by_adamax,
    by_amsgrad,
    by_belief,
    by_factored_rms,
    by_lion,
    by_nadam,
    by_radam,
    by_rms,
    by_rss,
)
from funcnet.optimizers.parts import by_rate, by_rate_upwards, composed, negated, rounded_between
from funcnet.optimizers.protocol import Optimizer
from funcnet.optimizers.steps import by_param_rms, by_trust, clipped_by_rms, decayed, shrunk, traced
from funcnet.schedules import ScalarOrSchedule
from funcnet.tree import Scalar


def sgd(learning_rate: ScalarOrSchedule, *, where: Where | None = None) -> Optimizer:
    """Gradient descent, stochastic if the gradients are those of minibatches.

    params <- params - learning_rate * gradient

    Args:
      learning_rate: shape (), parameter units per gradient unit, >= 0; or a schedule.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range (a traced one cannot be checked), or where picks no leaf.

    Example:
      >>> optimizer = sgd(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates)
      [-1.]

    Source: Robbins and Monro (1951).
    """
    return composed("sgd", [by_rate], learning_rate, where)


def momentum(learning_rate: ScalarOrSchedule, decay: Scalar = 0.9, *, nesterov: bool = False, where: Where | None = None) -> Optimizer:
    """Gradient descent that keeps rolling downhill.

    velocity <- decay * velocity + gradient
    params   <- params - learning_rate * velocity

    With nesterov, params <- params - learning_rate * (decay * velocity + gradient), with the new velocity.

    This is torch's and optax's rule: a schedule acts on the whole velocity. There is another form,
    step <- decay * step - learning_rate * gradient, params <- params + step. It is the same while the learning rate is constant
    (step is -learning_rate * velocity). With a schedule it is another rule: each gradient is weighted by the rate of the step it came in.

    Args:
      learning_rate: shape (), parameter units per gradient unit, >= 0; or a schedule.
      decay: shape (), share of the velocity kept each step, in [0, 1).
      nesterov: True for Nesterov's momentum: the gradient is treated as if taken at the point that the velocity leads to.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range (a traced one cannot be checked), or where picks no leaf.

    Example:
      >>> optimizer = momentum(learning_rate=0.5)
      >>> state = optimizer.init(jnp.array([1.0]))
      >>> updates, state = optimizer.update(jnp.array([2.0]), state)
      >>> print(updates)
      [-1.]

    Source: Polyak (1964); Nesterov (1983) in the form of Sutskever et al. (2013).
    """
    return composed("momentum", [traced("momentum", "decay", decay, nesterov), by_rate], learning_rate, where)


def adagrad(
    learning_rate: ScalarOrSchedule, eps: Scalar = 1e-10, *, eps_root: Scalar = 0.0, initial_sum: Scalar = 0.0, where: Where | None = None
) -> Optimizer:
    """Gradient descent with a step size for each parameter: the larger its gradients so far, the smaller its steps.

    v      <- v + gradient^2
    params <- params - learning_rate * gradient / (sqrt(v + eps_root) + eps)

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      initial_sum: shape (), v before the first step, >= 0.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range (a traced one cannot be checked), or where picks no leaf.

    Example:
      >>> optimizer = adagrad(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates)
      [-0.5]

    Source: Duchi, Hazan and Singer (2011).
    """
    return composed("adagrad", [by_rss("adagrad", eps, eps_root, initial_sum), by_rate], learning_rate, where)


def rmsprop(
    learning_rate: ScalarOrSchedule,
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    momentum: Scalar | None = None,
    centered: bool = False,
    where: Where | None = None,
) -> Optimizer:
    """AdaGrad that forgets: it averages the squares over recent steps.

    v      <- decay * v + (1 - decay) * gradient^2
    params <- params - learning_rate * gradient / (sqrt(v + eps_root) + eps)

    With centered, the square of the mean of recent gradients is subtracted from v, which leaves their variance. With a momentum,
    velocity <- momentum * velocity + gradient / (sqrt(v + eps_root) + eps), params <- params - learning_rate * velocity: a
    schedule acts on the whole velocity, as in `momentum` and torch (in optax it acts on what is added to the velocity).

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      decay: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      momentum: shape (), share of the velocity kept each step, in [0, 1); None keeps no velocity.
      centered: True divides by the standard deviation of recent gradients, False by their root mean square.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range (a traced one cannot be checked), or where picks no leaf.

    Example:
      >>> optimizer = rmsprop(0.5, decay=0.75)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates)
      [-1.]

    Source: Tieleman and Hinton (2012), lecture 6.5 of Neural Networks for Machine Learning; Graves (2013) for the centered form.
    """
    parts = [by_rms("rmsprop", decay, eps, eps_root, centered)]
    if momentum is not None:
        parts += [rounded_between, traced("rmsprop", "momentum", momentum)]
    return composed("rmsprop", [*parts, by_rate], learning_rate, where)


def adam(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    where: Where | None = None,
) -> Optimizer:
    """Averages gradients as momentum does and divides by their size as RMSProp does, both corrected for starting at zero.

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
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range (a traced one cannot be checked), or where picks no leaf.

    Example:
      >>> optimizer = adam(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-0.5]

    Source: Kingma and Ba (2015), algorithm 1.
    """
    return composed("adam", [by_adam("adam", b1, b2, eps, eps_root, mu_dtype), by_rate], learning_rate, where)


def adamw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2,
    *,
    eps_root: Scalar = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    decay_where: Where | None = None,
    where: Where | None = None,
) -> Optimizer:
    """Adam with decoupled weight decay: each step also subtracts learning_rate * weight_decay * params.

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      weight_decay: shape (), >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      mu_dtype: dtype in which m is kept, such as "bfloat16", which halves its memory; None for that of params. Complex m stay as they are.
      decay_where: leaf or (path, leaf) -> bool, which leaves shrink; None for all of them.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params; its `update` needs params.

    Raises:
      ValueError: a concrete argument is out of range, update is called without params, or where picks no leaf.

    Example:
      >>> optimizer = adamw(0.5, weight_decay=0.2)
      >>> params = jnp.array([1.0])
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
      >>> print(updates.round(4))
      [-0.6]

    Source: Loshchilov and Hutter (2019).
    """
    adam = by_adam("adamw", b1, b2, eps, eps_root, mu_dtype)
    return composed("adamw", [adam, by_rate, shrunk("adamw", weight_decay, decay_where, "decay_where")], learning_rate, where)


def adadelta(learning_rate: ScalarOrSchedule = 1.0, rho: Scalar = 0.9, eps: Scalar = 1e-6, *, where: Where | None = None) -> Optimizer:
    """RMSProp whose steps are about as large as recent steps, so that they have the unit of the parameters.

    v      <- rho * v + (1 - rho) * gradient^2
    d      <- sqrt(u + eps) / sqrt(v + eps) * gradient
    u      <- rho * u + (1 - rho) * d^2
    params <- params - learning_rate * d

    Args:
      learning_rate: shape (), no unit, >= 0; or a schedule.
      rho: shape (), share of the averages kept each step, in [0, 1).
      eps: shape (), squared gradient units, >= 0.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range (a traced one cannot be checked), or where picks no leaf.

    Example:
      >>> optimizer = adadelta(1.0, eps=0.1)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-0.8944]

    Source: Zeiler (2012), algorithm 1.
    """
    return composed("adadelta", [by_adadelta("adadelta", rho, eps), by_rate], learning_rate, where)


def nadam(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    momentum_decay: Scalar | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    where: Where | None = None,
) -> Optimizer:
    """Adam with Nesterov's momentum, which looks one step ahead.

    params <- params - learning_rate * (mu' * m / (1 - P * mu') + (1 - mu) * gradient / (1 - P))
                       / (sqrt(v / (1 - b2^t) + eps_root) + eps)

    mu is b1, mu' is mu at the next step, P is the product of all mu so far; m and v as in `adam`. With a momentum_decay,
    mu is b1 * (1 - 0.96^(t * momentum_decay) / 2); the paper suggests this, with a momentum_decay of 0.004.

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      momentum_decay: shape (), per step, >= 0; None keeps mu at b1.
      mu_dtype: dtype in which m is kept, such as "bfloat16", which halves its memory; None for that of params. Complex m stay as they are.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range (a traced one cannot be checked), or where picks no leaf.

    Example:
      >>> optimizer = nadam(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-0.7368]

    Source: Dozat (2016).
    """
    return composed("nadam", [by_nadam("nadam", b1, b2, eps, eps_root, momentum_decay, mu_dtype), by_rate], learning_rate, where)


def lion(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    weight_decay: Scalar = 0.0,
    *,
    mu_dtype: jax.typing.DTypeLike | None = None,
    decay_where: Where | None = None,
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
      mu_dtype: dtype in which m is kept, such as "bfloat16", which halves its memory; None for that of params.
      decay_where: leaf or (path, leaf) -> bool, which leaves decay; None for all of them.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params; with weight decay its `update` needs params.

    Raises:
      ValueError: a concrete argument is out of range, update is called without the params it needs, or where picks no leaf.

    Example:
      >>> optimizer = lion(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates)
      [-0.5]

    Source: Chen et al. (2023).
    """
    parts = [by_lion("lion", b1, b2, mu_dtype), by_rate, shrunk("lion", weight_decay, decay_where, "decay_where")]
    if not check.is_traced(weight_decay) and float(weight_decay) == 0:
        del parts[-1]  # then update needs no params
    return composed("lion", parts, learning_rate, where)


def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    where: Where | None = None,
) -> Optimizer:
    """Adam that divides by the root of the largest mean square so far.

    u      <- max(u, v / (1 - b2^t))
    params <- params - learning_rate * (m / (1 - b1^t)) / (sqrt(u + eps_root) + eps)

    m and v as in `adam`. This is optax's rule. torch takes the maximum of the uncorrected v, and corrects the maximum; the
    paper corrects neither m nor v.

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      mu_dtype: dtype in which m is kept, such as "bfloat16", which halves its memory; None for that of params. Complex m stay as they are.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range (a traced one cannot be checked), or where picks no leaf.

    Example:
      >>> optimizer = amsgrad(0.5, b1=0.0)
      >>> _, state = optimizer.update(jnp.array([4.0]), optimizer.init(jnp.array([1.0])))
      >>> updates, state = optimizer.update(jnp.array([2.0]), state)  # its size is half of the largest
      >>> print(updates.round(4))
      [-0.25]

    Source: Reddi, Kale and Kumar (2018).
    """
    return composed("amsgrad", [by_amsgrad("amsgrad", b1, b2, eps, eps_root, mu_dtype), by_rate], learning_rate, where)


def adamax(
    learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8, *, where: Where | None = None
) -> Optimizer:
    """Adam that divides by the largest recent gradient instead of the root of the mean square.

    m      <- b1 * m + (1 - b1) * gradient
    u      <- max(b2 * u, |gradient| + eps)
    params <- params - learning_rate * (m / (1 - b1^t)) / u

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of u kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params.

    Raises:
      ValueError: a concrete argument is out of range (a traced one cannot be checked), or where picks no leaf.

    Example:
      >>> optimizer = adamax(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-0.5]

    Source: Kingma and Ba (2015), algorithm 2.
    """
    return composed("adamax", [by_adamax("adamax", b1, b2, eps), by_rate], learning_rate, where)


def adabelief(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-16,
    *,
    eps_root: Scalar = 1e-16,
    where: Where | None = None,
) -> Optimizer:
    """Adam that divides by the deviation of gradients from their mean m: the smaller the deviation, the larger the steps.

    m      <- b1 * m + (1 - b1) * gradient
    v      <- b2 * v + (1 - b2) * (gradient - m)^2 + eps_root
    params <- params - learning_rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Args:
      learning_rate: shape (), parameter units, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0; it stays in v, as in the paper.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params, and whose state is an `AdamState`.

    Raises:
      ValueError: a concrete argument is out of range (a traced one cannot be checked), or where picks no leaf.

    Example:
      >>> optimizer = adabelief(0.5, b1=0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-1.]

    Source: Zhuang et al. (2020).
    """
    return composed("adabelief", [by_belief("adabelief", b1, b2, eps, eps_root), by_rate], learning_rate, where)


def radam(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    where: Where | None = None,
) -> Optimizer:
    """Adam with a built-in warmup: while v averages too few gradients to be trusted, the steps are those of momentum.

    n      =  2 * a + 1, the effective number of gradients in v, where a is their mean age; in the limit N = 2 / (1 - b2) - 1
    r      =  sqrt((n - 4) * (n - 2) * N / ((N - 4) * (N - 2) * n))
    params <- params - learning_rate * r * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t) + eps_root) + eps), from n = 5 on;
    params <- params - learning_rate * m / (1 - b1^t) before

    m and v as in `adam`.

    Args:
      learning_rate: shape (), parameter units (in the first steps parameter units per gradient unit), >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params, and whose state is an `AdamState`.

    Raises:
      ValueError: a concrete argument is out of range (a traced one cannot be checked), or where picks no leaf.

    Example:
      >>> optimizer = radam(0.5)
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.array([1.0])))
      >>> print(updates.round(4))
      [-1.]

    Source: Liu et al. (2020), algorithm 2.
    """
    return composed("radam", [by_radam("radam", b1, b2, eps, eps_root), by_rate], learning_rate, where)


def lamb(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0.0,
    *,
    eps_root: Scalar = 0.0,
    decay_where: Where | None = None,
    where: Where | None = None,
) -> Optimizer:
    """Adam for large batches: each leaf's step is as long as the leaf, times the learning rate.

    step   =  (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t) + eps_root) + eps) + weight_decay * params
    params <- params - learning_rate * |params| / |step| * step, leaf by leaf

    m and v as in `adam`. Where |params| or |step| is zero, their ratio is taken as one.

    Args:
      learning_rate: shape (), share of a leaf's norm, >= 0; or a schedule.
      b1: shape (), share of m kept each step, in [0, 1).
      b2: shape (), share of v kept each step, in [0, 1).
      eps: shape (), gradient units, >= 0.
      weight_decay: shape (), >= 0.
      eps_root: shape (), squared gradient units, >= 0.
      decay_where: leaf or (path, leaf) -> bool, which leaves decay and are scaled by the ratio of norms; None for all of them.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params, and whose state is an `AdamState`; its `update` needs params.

    Raises:
      ValueError: a concrete argument is out of range, update is called without params, or where picks no leaf.

    Example:
      >>> optimizer = lamb(0.5)
      >>> params = jnp.array([3.0, 4.0])
      >>> updates, state = optimizer.update(jnp.array([2.0, 0.0]), optimizer.init(params), params)
      >>> print(updates.round(4))
      [-2.5  0. ]

    Source: You et al. (2020), algorithm 2.
    """
    parts = [
        by_adam("lamb", b1, b2, eps, eps_root),
        decayed("lamb", weight_decay, decay_where, "decay_where", "its ratio of norms"),
        by_trust("lamb", 1.0, 0.0, decay_where, "decay_where"),
    ]
    return composed("lamb", [*parts, by_rate], learning_rate, where)


def lars(
    learning_rate: ScalarOrSchedule,
    momentum: Scalar = 0.9,
    weight_decay: Scalar = 0.0,
    trust_coefficient: Scalar = 0.001,
    eps: Scalar = 0.0,
    *,
    nesterov: bool = False,
    decay_where: Where | None = None,
    where: Where | None = None,
) -> Optimizer:
    """Momentum for large batches: each leaf's gradient is scaled to a small share of the leaf's norm.

    g        =  gradient + weight_decay * params
    velocity <- momentum * velocity + learning_rate * trust_coefficient * |params| / (|g| + eps) * g, leaf by leaf
    params   <- params - velocity

    With nesterov, the step is momentum * velocity, with the new velocity, plus what was added to it. Where |params| or |g| is zero,
    trust_coefficient * |params| / (|g| + eps) is taken as one. A schedule acts on what is added to the velocity, as in the paper.

    Args:
      learning_rate: shape (), >= 0; or a schedule.
      momentum: shape (), share of the velocity kept each step, in [0, 1).
      weight_decay: shape (), gradient units per parameter unit, >= 0.
      trust_coefficient: shape (), share of a leaf's norm, >= 0.
      eps: shape (), gradient units, >= 0.
      nesterov: True for Nesterov's momentum: the gradient is treated as if taken at the point that the velocity leads to.
      decay_where: leaf or (path, leaf) -> bool, which leaves decay and are scaled by the ratio of norms; None for all of them.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params; its `update` needs params.

    Raises:
      ValueError: a concrete argument is out of range, update is called without params, or where picks no leaf.

    Example:
      >>> optimizer = lars(0.5, trust_coefficient=0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> updates, state = optimizer.update(jnp.array([2.0, 0.0]), optimizer.init(params), params)
      >>> print(updates.round(4))
      [-0.25 -0.  ]

    Source: You, Gitman and Ginsburg (2017).
    """
    parts = [
        decayed("lars", weight_decay, decay_where, "decay_where", "its ratio of norms"),
        by_trust("lars", trust_coefficient, eps, decay_where, "decay_where"),
        by_rate_upwards,
        traced("lars", "momentum", momentum, nesterov, wide_velocity=True),
        negated,
    ]
    return composed("lars", parts, learning_rate, where)


def adafactor(
    learning_rate: ScalarOrSchedule,
    decay_rate: Scalar = 0.8,
    clipping_threshold: Scalar = 1.0,
    eps: Scalar = 1e-30,
    *,
    min_dim_size_to_factor: int = 128,
    multiply_by_parameter_scale: bool = True,
    where: Where | None = None,
) -> Optimizer:
    """RMSProp with almost no memory: it keeps only the row and column means of a matrix's mean squares.

    decay  =  1 - t^-decay_rate
    v      <- decay * v + (1 - decay) * (gradient^2 + eps), or its row means R and column means C: v is R * C / mean(R)
    step   =  gradient / sqrt(v)
    params <- params - learning_rate * step / max(1, rms(step) / clipping_threshold) * max(rms(params), 0.001), leaf by leaf

    Args:
      learning_rate: shape (), share of a leaf's root mean square, >= 0; or a schedule.
      decay_rate: shape (), >= 0; the larger, the faster the decay rises to 1.
      clipping_threshold: shape (), the largest root mean square of a leaf's step before the learning rate, >= 0.
      eps: shape (), squared gradient units, >= 0.
      min_dim_size_to_factor: at least 1; leaves whose second longest axis is at least this long are kept as row and column means.
      multiply_by_parameter_scale: whether steps are relative to the parameters: the factor max(rms(params), 0.001) above.
      where: leaf or (path, leaf) -> bool, which leaves it trains; None for all of them. The others are frozen, as `combine` says.

    Returns:
      An `Optimizer` whose updates are added to params; its `update` needs params, unless multiply_by_parameter_scale is False.

    Raises:
      ValueError: a concrete argument is out of range, update is called without the params it needs, or where picks no leaf.

    Example:
      >>> optimizer = adafactor(0.5)
      >>> params = jnp.array([3.0, 3.0])
      >>> updates, state = optimizer.update(jnp.array([2.0, -1.0]), optimizer.init(params), params)
      >>> print(updates.round(4))
      [-1.5  1.5]

    Source: Shazeer and Stern (2018), algorithms 4 and 5; as in optax.
    """
    parts = [
        by_factored_rms("adafactor", decay_rate, eps, min_dim_size_to_factor),
        clipped_by_rms("adafactor", "clipping_threshold", clipping_threshold),
    ]
    if multiply_by_parameter_scale:
        parts.append(by_param_rms("adafactor", 1e-3))
    return composed("adafactor", [*parts, by_rate], learning_rate, where)
