"""Mixed precision: a layer computes in another dtype than its parameters have."""

from typing import Any

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.batching import examples_last
from funcnet.layers.layer import Layer, Shape, apply_batch
from funcnet.padded import is_padded, map_values
from funcnet.tree import Params


def mixed_precision(layer: Layer, compute_dtype: jax.typing.DTypeLike = "bfloat16") -> Layer:
    """Computes a layer, or a whole model, in another precision than its parameters have.

    Parameters and input are cast to compute_dtype, and the output is cast back to the input's dtype. Gradients and the optimizer's
    state keep the parameters' dtype, so that small updates are not lost. A dense or recurrent layer sums its products in at least
    float32, as it always does, and computes the products of its backward pass in at least float32. A convolution does all this in
    compute_dtype, except on a CPU.

    Args:
      layer: any `Layer`.
      compute_dtype: a floating-point dtype or its name. "bfloat16" has float32's range and eight bits of precision. In "float16",
        gradients below 6e-8 become zero; funcnet does not scale the loss to prevent that. As a hyperparameter it is static: each name
        has its own program.

    Returns:
      A `Layer` with the params of the layer it wraps. For an input of whole numbers the output has JAX's default float dtype.

    Raises:
      TypeError: compute_dtype is not a floating-point dtype, or layer is no Layer.
      ValueError: compute_dtype is float64, and JAX computes in 32 bits.

    Example:
      >>> from funcnet.layers import dense
      >>> layer = mixed_precision(dense(1, initializer="ones"), "bfloat16")
      >>> params = layer.init(jax.random.key(0), (2,))
      >>> y = layer.apply(params, jnp.array([1.0, 1 / 1024]))
      >>> print(params["weight"].dtype, y, y.dtype)
      float32 [1.] float32

    Source: Micikevicius et al. (2018); Kalamkar et al. (2019) for bfloat16.
    """
    check.callables("mixed_precision", layer, ("init", "apply"), "wrap a Layer such as mlp((64, 10))")
    dtype = _floating_dtype(compute_dtype)

    def init(key: jax.Array, in_shape: Shape) -> Params:
        return layer.init(key, in_shape)

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: Any, *, key: jax.Array | None = None) -> Any:
        numbers = x.values if is_padded(x) else x
        given = numbers.dtype if check.is_floating(numbers) else jnp.result_type(float)
        short, x = (map_values(lambda leaf: _cast(leaf, dtype), part) for part in (params, x))
        return map_values(lambda leaf: _cast(leaf, given), apply_batch(layer, short, x, key=key))

    return Layer(init, apply)


def _cast(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """x in dtype if x is floating point; whole numbers, such as symbols, and complex numbers keep their dtype."""
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _floating_dtype(given: jax.typing.DTypeLike) -> jnp.dtype:
    try:
        dtype = jnp.dtype("bool" if given is None else given)  # NumPy takes None for float64
    except TypeError:
        dtype = jnp.dtype("bool")
    if not jnp.issubdtype(dtype, jnp.floating):
        rule = "compute_dtype must be a floating-point dtype"
        raise TypeError(check.message("mixed_precision", rule, repr(given), "such as 'bfloat16'"))
    if dtype.itemsize > jnp.dtype(jnp.result_type(float)).itemsize:
        rule = "compute_dtype must be one that JAX computes in"
        raise ValueError(check.message("mixed_precision", rule, dtype, "jax.config.update('jax_enable_x64', True), or 'float32'"))
    return dtype
