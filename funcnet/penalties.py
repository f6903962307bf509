"""Penalties: params -> scalar, strength * sum |w|^p over the weights; added to the loss, they keep the weights small.

No factor of one half. The weights are the leaves with two axes or more; `where` picks others.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.leaves import Where, chosen, is_weight, takes_path
from funcnet.tree import Params, Scalar, abs_square, root, wide

Penalty: TypeAlias = Callable[[Params], jax.Array]


def lp(p: Scalar, strength: Scalar, *, where: Where = is_weight) -> Penalty:
    """strength * sum |w|^p.

    Args:
      p: shape (), the power, >= 1; may be traced (1, 2, 3 and 4 are faster given as numbers).
      strength: shape (), >= 0; may be traced.
      where: leaf or (path, leaf) -> bool, which leaves count; a path is such as "0/weight".

    Returns:
      params -> scalar, real and at least float32. Of a complex weight, |w| is the modulus.

    Raises:
      ValueError: p is below 1, or the strength is negative; a traced value cannot be checked. The penalty raises it too when it is
        called with parameters of which `where` picks no leaf; only the default may pick none.

    Example:
      >>> params = {"weight": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}
      >>> print(lp(3, 0.5)(params), lp(3, 0.5, where=lambda path, leaf: path == "bias")(params))
      4.5 62.5
    """
    check.in_range("lp", "p", p, 1)
    check.in_range("lp", "strength", strength, 0)
    takes_path("lp", where)

    def penalty(params: Params) -> jax.Array:
        flags = chosen("lp", where, params)
        sums = [jnp.sum(_power(leaf, p)) for leaf, flag in zip(jax.tree.leaves(params), flags, strict=True) if flag]
        total = jnp.sum(jnp.stack([term.astype(sums[0].dtype) for term in sums])) if sums else _nothing(params)
        return jnp.asarray(strength, total.dtype) * total

    return penalty


def l1(strength: Scalar, *, where: Where = is_weight) -> Penalty:
    """strength * sum |w|: pulls every weight with the same force, so that some become zero.

    Args:
      strength: shape (), >= 0; may be traced.
      where: leaf or (path, leaf) -> bool, which leaves count; a path is such as "0/weight".

    Returns:
      params -> scalar.

    Raises:
      ValueError: the strength is negative.

    Example:
      >>> print(l1(0.5)({"weight": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}))
      1.5

    Source: Tibshirani (1996).
    """
    return lp(1, strength, where=where)


def l2(strength: Scalar, *, where: Where = is_weight) -> Penalty:
    """strength * sum w^2: pulls a weight in proportion to its size.

    With the mean loss over n examples, these settings of other libraries give the same objective:

    - torch, `weight_decay` of SGD, Adam and the others except AdamW: 2 * strength, on the weights only (torch adds w^2 / 2, and that
      of biases too if they are among the parameters). AdamW's is not a penalty: here it is `adamw(..., weight_decay=)`.
    - scikit-learn, `alpha` of Ridge: n * strength with `squared_error`, or n * outputs * strength with several outputs, because
      Ridge sums the squares.
    - scikit-learn, `C` of LogisticRegression: 1 / (2 * n * strength) with `binary_cross_entropy`, or with `cross_entropy` and three
      classes or more. With two classes, `cross_entropy` has two outputs and scikit-learn one: 1 / (n * strength).
    - scikit-learn, `alpha` of MLPClassifier: 2 * n * strength; of MLPRegressor, which halves the square: n * strength with
      `squared_error`. For both, n is the number of examples in a minibatch.
    - scikit-learn, `alpha` of SGDClassifier: 2 * strength; of SGDRegressor, which halves the square: strength.

    Args:
      strength: shape (), >= 0; may be traced.
      where: leaf or (path, leaf) -> bool, which leaves count; a path is such as "0/weight".

    Returns:
      params -> scalar.

    Raises:
      ValueError: the strength is negative.

    Example:
      >>> print(l2(0.5)({"weight": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}))
      2.5

    Source: Hoerl and Kennard (1970).
    """
    return lp(2, strength, where=where)


def l3(strength: Scalar, *, where: Where = is_weight) -> Penalty:
    """strength * sum |w|^3: hardly touches small weights.

    Args:
      strength: shape (), >= 0; may be traced.
      where: leaf or (path, leaf) -> bool, which leaves count; a path is such as "0/weight".

    Returns:
      params -> scalar.

    Raises:
      ValueError: the strength is negative.

    Example:
      >>> print(l3(0.5)({"weight": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}))
      4.5
    """
    return lp(3, strength, where=where)


def l4(strength: Scalar, *, where: Where = is_weight) -> Penalty:
    """strength * sum w^4: bounds the largest weights and leaves the others alone.

    Args:
      strength: shape (), >= 0; may be traced.
      where: leaf or (path, leaf) -> bool, which leaves count; a path is such as "0/weight".

    Returns:
      params -> scalar.

    Raises:
      ValueError: the strength is negative.

    Example:
      >>> print(l4(0.5)({"weight": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}))
      8.5
    """
    return lp(4, strength, where=where)


def penalty(*, l1: Scalar = 0.0, l2: Scalar = 0.0, l3: Scalar = 0.0, l4: Scalar = 0.0, where: Where = is_weight) -> Penalty:
    """The sum of L1 to L4, each with its strength.

    Args:
      l1, l2, l3, l4: shape (), strengths, >= 0; may be traced. A plain zero costs nothing.
      where: leaf or (path, leaf) -> bool, which leaves count; a path is such as "0/weight".

    Returns:
      params -> scalar.

    Raises:
      ValueError: a strength is negative.

    Example:
      >>> print(penalty(l1=1.0, l2=0.5)({"weight": jnp.array([[1.0, -2.0]])}))
      5.5
    """
    terms = []
    for p, strength in enumerate((l1, l2, l3, l4), start=1):
        check.in_range("penalty", f"l{p}", strength, 0)
        if check.is_traced(strength) or float(strength) != 0:
            terms.append(lp(p, strength, where=where))

    def total(params: Params) -> jax.Array:
        return jnp.sum(jnp.stack([term(params) for term in terms])) if terms else _nothing(params)

    return total


PENALTIES: dict[str, Callable[..., Penalty]] = {"l1": l1, "l2": l2, "l3": l3, "l4": l4}


def _nothing(params: Params) -> jax.Array:
    """Zero in the dtype that a penalty of these parameters would have."""
    floating = [leaf for leaf in jax.tree.leaves(params) if check.is_floating(leaf)]
    return jnp.zeros((), wide(floating[0]).dtype if floating else jnp.result_type(float))


def _power(leaf: jax.Array, p: Scalar) -> jax.Array:
    """|w|^p with a finite gradient at zero: whole powers are products, and other powers never take the logarithm of zero."""
    square = abs_square(leaf)
    leaf = wide(leaf)
    size = root(square) if jnp.iscomplexobj(leaf) else leaf * jnp.sign(leaf)  # JAX's abs has slope 1 at zero; this has 0
    if not check.is_traced(p) and float(p) in (1, 2, 3, 4):
        return {1: size, 2: square, 3: size * square, 4: square * square}[int(p)]
    zero = size == 0
    return jnp.where(zero, jnp.zeros((), size.dtype), jnp.where(zero, jnp.ones((), size.dtype), size) ** jnp.asarray(p, size.dtype))
