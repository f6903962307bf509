"""Counts the floating-point operations of a traced function, with every iteration of its loops.

A compiler's own count has a loop's body once, however often it runs, and also what the compiler recomputes to save memory.
These are the textbook's counts of what the function asks for: a matrix product of (m, n) and (n, k) takes 2 m n k.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcnet import inner

# Operations that move numbers and compute nothing.
_MOVES = frozenset(
    "broadcast_in_dim reshape transpose squeeze convert_element_type bitcast_convert_type iota copy copy_p rev slice dynamic_slice "
    "dynamic_update_slice concatenate pad gather scatter select_n split optimization_barrier stop_gradient".split()
)
_SUMS = frozenset("reduce_sum reduce_max reduce_min reduce_prod argmax argmin cumsum cummax cummin cumprod cumlogsumexp".split())


def flops(jaxpr: Any, *, cpu: bool = True) -> float:
    """Floating-point operations of a `Jaxpr`: two for a multiply-add, one per number of an elementwise operation, also of `exp`.

    Integer operations, comparisons and operations that only move numbers count as zero. Of a conditional, the most expensive
    branch counts. A loop whose number of iterations is not known when it is traced counts once.

    Args:
      cpu: whether the program is for a CPU, where some layers compute in another way.

    Example:
      >>> import jax
      >>> flops(jax.make_jaxpr(lambda a, b: jnp.tanh(a @ b))(jnp.ones((2, 3)), jnp.ones((3, 4))).jaxpr)
      56.0
    """
    return _counted(jaxpr, _flops_of, full=True, cpu=cpu)


def bytes_touched(jaxpr: Any, *, full: bool, cpu: bool = True) -> float:
    """Bytes that a `Jaxpr`'s operations read and write, without fusion; useful only to compare two such counts.

    Args:
      full: whether to count every iteration of a loop, instead of its body once, as compilers do.
    """
    return _counted(jaxpr, _bytes_of, full=full, cpu=cpu)


def _counted(jaxpr: Any, count: Callable[[Any], float], *, full: bool, cpu: bool) -> float:
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        bodies = [_counted(body, count, full=full, cpu=cpu) for body in inner.inner_jaxprs(equation, cpu=cpu)]
        if not bodies:
            total += count(equation)
        elif equation.primitive.name == "cond":
            total += max(bodies)
        else:
            rounds = equation.params.get("length", 1) if full else equation.params.get("unroll", 1)
            total += int(rounds) * sum(bodies)
    return float(total)


def _flops_of(equation: Any) -> float:
    name, outputs = equation.primitive.name, equation.outvars
    if not any(jnp.issubdtype(out.aval.dtype, jnp.inexact) for out in outputs) or name in _MOVES:
        return 0.0
    made = float(sum(out.aval.size for out in outputs))
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return float(2 * made * math.prod(left[axis] for axis in contracted))
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name in _SUMS or name.startswith("reduce_window"):
        window = equation.params.get("window_dimensions")
        each = equation.invars[0].aval.size if window is None else made * math.prod(window)
        return float(each)
    if name.startswith("scatter"):  # scatter-add and similar: the numbers that are added
        return float(equation.invars[-1].aval.size)
    return made


def _convolution(equation: Any) -> float:
    """Two for each product of a kernel's number with an input's; products with padding or dilation zeros don't count."""
    params, (image, kernel), out = equation.params, (variable.aval.shape for variable in equation.invars), equation.outvars[0].aval.shape
    numbers = params["dimension_numbers"]
    batch, channels = (out[axis] for axis in numbers.out_spec[:2])
    met = 1
    for i, axis in enumerate(numbers.lhs_spec[2:]):
        starts = np.arange(out[numbers.out_spec[2 + i]])[:, None] * params["window_strides"][i] - params["padding"][i][0]
        places = starts + np.arange(kernel[numbers.rhs_spec[2 + i]]) * params["rhs_dilation"][i]
        apart = params["lhs_dilation"][i]
        met *= int(((places >= 0) & (places <= (image[axis] - 1) * apart) & (places % apart == 0)).sum())
    inputs = kernel[numbers.rhs_spec[1]]  # of one group
    return float(2 * batch * channels * inputs * met)


def _bytes_of(equation: Any) -> float:
    avals = [variable.aval for variable in (*equation.invars, *equation.outvars)]
    return float(sum(aval.size * getattr(aval.dtype, "itemsize", 4) for aval in avals if hasattr(aval, "size")))
