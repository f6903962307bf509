"""Nonlinear layers with parameters (`prelu`) or across features (`softmax`). For functions of one number there is `activation`."""

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.batching import examples_last
from funcnet.layers.layer import Layer, Shape, check_shape, compute_dtype, no_params
from funcnet.layers.steps import each_step
from funcnet.tree import Params, Scalar, at_least_float32


def prelu(initial: Scalar = 0.25, *, shared: bool = True) -> Layer:
    """relu whose slope below zero is learned: x where x > 0, else slope * x.

    Args:
      initial: shape (), the initial slope; may be traced.
      shared: True for one slope; False for one slope for each entry of x's first axis (features or channels).

    Returns:
      A `Layer`, (*shape) -> (*shape), with params {"slope": (), or (channels,)}. With one slope it also takes a `Padded`.

    Raises:
      ValueError: initial is not a finite number, or x has another number of channels than init was given.

    Example:
      >>> layer = prelu()
      >>> print(layer.apply(layer.init(jax.random.key(0), (2,)), jnp.array([-1.0, 2.0])))
      [-0.25  2.  ]

    Source: He et al. (2015).
    """
    check.in_range("prelu", "initial", initial, -jnp.inf, ends="()")

    def init(key: jax.Array, in_shape: Shape) -> Params:
        in_shape = check_shape("prelu", in_shape, step_axes=0 if shared else None)
        if not shared and not in_shape:
            raise ValueError(check.message("prelu", "in_shape must have channels", in_shape, "shared=True needs none"))
        return {"slope": jnp.full(() if shared else in_shape[:1], initial, jnp.result_type(float))}

    @(each_step("prelu") if shared else examples_last(argnums=(1,)))
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        slope = params["slope"]
        dtype = compute_dtype(x, slope)
        if slope.ndim:
            check.shape_is("prelu", "the first axis of x", x.shape[:-1][:1], slope.shape)
        slope = slope.reshape(*slope.shape, *(1,) * (x.ndim - slope.ndim)).astype(dtype)
        x = x.astype(dtype)
        return jnp.where(x > 0, x, slope * x)

    return Layer(init, apply)


def softmax() -> Layer:
    """Softmax over an example's last axis: e^x / sum(e^x), computed in at least float32.

    Returns:
      A `Layer` without parameters, (*shape, classes) -> (*shape, classes). It also takes a `Padded`. Don't end a model that is trained
      with `cross_entropy` with it: that loss takes logits.

    Raises:
      ValueError: x has no axis.

    Example:
      >>> print(softmax().apply((), jnp.array([0.0, 0.0])))
      [0.5 0.5]
    """

    @each_step("softmax", 1)
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        if x.ndim < 2:
            raise ValueError(check.message("softmax", "x must have at least one axis", x.shape[:-1]))
        dtype = x.dtype if check.is_floating(x) else jnp.result_type(float)
        y: jax.Array = jax.nn.softmax(x.astype(at_least_float32(dtype)), axis=-2)
        return y.astype(dtype)

    return Layer(no_params("softmax", step_axes=1), apply)
