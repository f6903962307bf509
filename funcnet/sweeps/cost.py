"""What a traced function costs: its floating-point operations, loops counted in full.

A compiler counts a loop's body once, however often it runs, and counts what it computes twice to save memory. These are counts
of what was asked for, by the rules of a textbook: a matrix product of (m, n) and (n, k) takes 2 m n k.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcnet import inner

# Operations that move numbers and compute none.
_MOVES = frozenset(
    "broadcast_in_dim reshape transpose squeeze convert_element_type bitcast_convert_type iota copy copy_p rev slice dynamic_slice "
    "dynamic_update_slice concatenate pad gather scatter select_n split optimization_barrier stop_gradient".split()
)
_SUMS = frozenset("reduce_sum reduce_max reduce_min reduce_prod argmax argmin cumsum cummax cummin cumprod cumlogsumexp".split())


def flops(jaxpr: Any, *, cpu: bool = True) -> float:
    """Floating-point operations of a `Jaxpr`: two a multiplication that is added, one a number elementwise, an exponential too.

    Operations on whole numbers, comparisons and what only moves numbers count as none; of a choice, its most expensive branch counts.
    A loop whose number of rounds is a value counts once.

    Args:
      cpu: whether the program is for a CPU, for which some layers compute otherwise.

    Example:
      >>> import jax
      >>> flops(jax.make_jaxpr(lambda a, b: jnp.tanh(a @ b))(jnp.ones((2, 3)), jnp.ones((3, 4))).jaxpr)
      56.0
    """
    return _counted(jaxpr, _flops_of, full=True, cpu=cpu)


def bytes_touched(jaxpr: Any, *, full: bool, cpu: bool = True) -> float:
    """Bytes that a `Jaxpr`'s operations read and write, each by itself: only good to compare one with another.

    Args:
      full: whether loops are counted in full, and not once, as compilers do.
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
    if name.startswith("scatter"):  # scatter-add and its like: what is added
        return float(equation.invars[-1].aval.size)
    return made


def _convolution(equation: Any) -> float:
    """Two for each product of a kernel's number with an input's, those with the zeros around and between inputs left out."""
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
