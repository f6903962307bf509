"""Activation functions: y = f(W x) bends the line y = W x.

Each takes one array, acts on every element separately and keeps shape and dtype. All but gelu and arctan_sigmoid are JAX's own.
`check_activation` tests a function of your own: it must be differentiable, or no gradient flows back through it.
"""

import contextlib
import math
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.option import Option
from funcnet.tree import at_least_float32

Activation: TypeAlias = Callable[[jax.Array], jax.Array]

relu = jax.nn.relu
leaky_relu = jax.nn.leaky_relu
elu = jax.nn.elu
selu = jax.nn.selu
silu = jax.nn.silu
softplus = jax.nn.softplus
sigmoid = jax.nn.sigmoid
tanh = jnp.tanh
identity = jax.nn.identity


def gelu(x: jax.Array) -> jax.Array:
    """Gaussian error linear unit: x * sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).

    This is about x times the probability that a standard normal number is below x. It equals x (1 + tanh u) / 2, the form of
    jax.nn.gelu, which subtracts two nearly equal numbers for negative x and so loses digits.

    Args:
      x: any shape, floating point.

    Returns:
      The shape and dtype of x.

    Example:
      >>> print(gelu(jnp.array([0.0, 10.0])))
      [ 0. 10.]

    Source: Hendrycks and Gimpel (2016).
    """
    return x * jax.nn.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x)))


def arctan_sigmoid(x: jax.Array) -> jax.Array:
    """A sigmoid that saturates slowly: arctan(x) / (pi / 2), in (-1, 1).

    Args:
      x: any shape, floating point.

    Returns:
      The shape and dtype of x.

    Example:
      >>> print(arctan_sigmoid(jnp.array([-1.0, 0.0, 1.0])).round(3))
      [-0.5  0.   0.5]
    """
    return _arctan(x) / (math.pi / 2)


@jax.custom_jvp
def _arctan(x: jax.Array) -> jax.Array:
    """arctan, right to three units in the last place of float32; XLA's own takes seventeen times as long on a CPU.

    For x >= 0, arctan(x) = pi / 4 + arctan((x - 1) / (x + 1)) maps x into [-1, tan(pi / 8)], where a polynomial is accurate.

    Source: Moshier, Cephes mathematical library, atanf.
    """
    if jnp.finfo(x.dtype).bits > 32:
        return jnp.arctan(x)
    size = jnp.abs(x.astype(jnp.float32))
    large, middle = size > math.tan(3 * math.pi / 8), size > math.tan(math.pi / 8)
    top = jnp.where(large, -1, jnp.where(middle, size - 1, size))
    bottom = jnp.where(large, size, jnp.where(middle, size + 1, 1))
    base = jnp.where(large, math.pi / 2, jnp.where(middle, math.pi / 4, 0)).astype(jnp.float32)
    t = top / bottom
    square = t * t
    series = ((8.05374449538e-2 * square - 1.38776856032e-1) * square + 1.99777106478e-1) * square - 3.33329491539e-1
    return (jnp.sign(x.astype(jnp.float32)) * (base + (series * square * t + t))).astype(x.dtype)


@_arctan.defjvp
def _arctan_slope(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    wide = x.astype(at_least_float32(x.dtype))  # in float16 the square of 256 is already infinite
    return _arctan(x), tangent * (1 / (1 + wide * wide)).astype(x.dtype)


ACTIVATIONS: dict[str, Activation] = {
    "relu": relu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "selu": selu,
    "gelu": gelu,
    "silu": silu,
    "softplus": softplus,
    "sigmoid": sigmoid,
    "arctan_sigmoid": arctan_sigmoid,
    "tanh": tanh,
    "identity": identity,
}

_checked: weakref.WeakSet[Any] = weakref.WeakSet()


def activation_fn(name_or_fn: str | Activation, where: str = "activation") -> Activation:
    """Looks up an activation by its name; a function is returned as it is, once `check_activation` has accepted it."""
    if isinstance(name_or_fn, Option):
        return name_or_fn.elementwise([activation_fn(name, where) for name in name_or_fn.names])
    fn = check.lookup(where, "activation", name_or_fn, ACTIVATIONS)
    if any(fn is known for known in ACTIVATIONS.values()):
        return fn
    cells = [cell.cell_contents for cell in getattr(fn, "__closure__", None) or ()]
    if any(map(check.is_traced, jax.tree.leaves(cells))):
        return fn  # a traced hyperparameter has no value to try; the sweep has tried it with concrete ones
    state = cells or getattr(fn, "__defaults__", None) or getattr(fn, "__kwdefaults__", None) or hasattr(fn, "__self__")
    seen = fn if state else getattr(fn, "__code__", fn)  # a recipe may make the same lambda again for every variant
    try:
        known = seen in _checked
    except TypeError:
        known = False
    if not known:
        check_activation(fn)
        with contextlib.suppress(TypeError):  # an object without a hash or weak references is tried each time
            _checked.add(seen)
    return fn


def check_activation(fn: Activation) -> None:
    """Checks that a net with a custom activation can be trained.

    The function must keep shape and dtype (float32 and bfloat16), act on each element separately, and have finite values and
    gradients for inputs from -10,000 to 10,000. Its gradient must explain how its values change: a step function is refused,
    because its gradient is zero while its value jumps.

    Args:
      fn: array -> array.

    Raises:
      ValueError: one of these fails; the message says which, and at which input.

    Example:
      >>> check_activation(lambda x: x * jax.nn.sigmoid(2 * x))
      >>> check_activation(jnp.sign)
      Traceback (most recent call last):
      ValueError: check_activation: sign must be differentiable, got a jump from -1 to 0 near x = -0.00625; ...
    """
    where, name = "check_activation", getattr(fn, "__name__", repr(fn))
    with jax.ensure_compile_time_eval():
        _check_shape_and_dtype(where, name, fn)
        points = np.concatenate([-np.geomspace(1e4, 8.0, 60), np.linspace(-8, 8, 2561), np.geomspace(8.0, 1e4, 60)])
        points = np.unique(points.astype(np.float32))
        values, alone, slopes = map(np.asarray, _measured(fn, points))
        _refuse(
            where, f"{name} must act on each element alone", np.isclose(values, alone, rtol=1e-5, atol=1e-6, equal_nan=True), points, alone
        )
        _refuse(where, f"{name} must have finite values", np.isfinite(values), points, values)
        _refuse(where, f"{name} must have finite gradients", np.isfinite(slopes), points, slopes)
    _check_no_jump(where, name, points, values, slopes)


def _measured(fn: Activation, points: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Values at all points in one call, and values and gradients at each point separately. One program, since compiling is slow."""

    def one(x: jax.Array) -> jax.Array:
        return fn(x[None])[0]

    @jax.jit
    def all_of_them(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return fn(x), *jax.vmap(jax.value_and_grad(one))(x)

    measured: tuple[jax.Array, jax.Array, jax.Array] = all_of_them(points)
    return measured


def _check_shape_and_dtype(where: str, name: str, fn: Activation) -> None:
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jax.ShapeDtypeStruct((2, 3), dtype)
        try:
            jax.eval_shape(jax.vmap(jax.value_and_grad(lambda row: fn(row).sum().astype(jnp.float32))), x)
            y = jax.eval_shape(lambda x: fn(x), x)  # whatever fn is: it may have no hash
        except Exception as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise ValueError(check.message(where, f"{name} must be differentiable by JAX", said, "write it with jax.numpy")) from error
        got = (np.shape(y), getattr(y, "dtype", type(y).__name__))
        if got != (x.shape, x.dtype):
            fix = "write constants as Python numbers" if got[0] == x.shape else ""
            raise ValueError(check.message(where, f"{name} must keep shape {x.shape} and dtype {x.dtype}", f"{got[0]} and {got[1]}", fix))


def _refuse(where: str, rule: str, good: np.ndarray, points: np.ndarray, values: np.ndarray) -> None:
    if not good.all():
        first = np.flatnonzero(~good)
        first = first[np.argmin(np.abs(points[first]))]
        raise ValueError(check.message(where, rule, f"{values[first]:.6g} at x = {points[first]:.6g}"))


def _check_no_jump(where: str, name: str, points: np.ndarray, values: np.ndarray, slopes: np.ndarray) -> None:
    """Raises where the values change by more than the gradient explains (trapezoid rule on small steps); kinks are allowed."""
    near = np.flatnonzero((np.abs(points[:-1]) < 8) & (np.abs(points[1:]) < 8))
    step = points[near + 1] - points[near]
    left, right = slopes[near], slopes[near + 1]
    missed = np.abs(values[near + 1] - values[near] - step * (left + right) / 2)
    bad = near[missed > step * (0.5 + np.abs(left) + np.abs(right))]
    if bad.size:
        i = bad[0]
        got = f"a jump from {values[i]:.3g} to {values[i + 1]:.3g} near x = {points[i]:.3g}"
        raise ValueError(check.message(where, f"{name} must be differentiable", got, "or the error cannot travel back; smooth it"))
    if not np.any(slopes):
        raise ValueError(
            check.message(where, f"{name} must be differentiable", "a gradient of zero everywhere", "or no error can travel back")
        )
