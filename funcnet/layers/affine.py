"""Layers that multiply by one weight: `dense`, and `embedding`, which is a product with a one-hot vector."""

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.batching import examples_last
from funcnet.layers.layer import Initializer, Layer, Shape, check_shape, compute_dtype, initializer_fn, product, weight_initializer
from funcnet.layers.steps import each_step
from funcnet.tree import Params


def dense(width: int, *, initializer: str | Initializer = "glorot_uniform", leading_axes: int = 0) -> Layer:
    """A dense layer, in which every output depends on every input: y = W x + b.

    Args:
      width: number of outputs, at least 1.
      leading_axes: number of axes before the features of an example. The same weights are used at each place along them, such as
        each step of a sequence.
      initializer: of the weight: a name in `INITIALIZERS`, or a function like those of `jax.nn.initializers`, called with the shape in
        their layout, (inputs, width). The bias starts at zero.

    Returns:
      A `Layer`, (*leading, inputs) -> (*leading, width), with params {"weight": (width, inputs), "bias": (width,)}. With leading axes,
      the first of which is time, it also takes a `Padded` and then returns one.

    Raises:
      ValueError: width is below 1, the initializer is unknown, or x has another shape than init was given.

    Example:
      >>> layer = dense(2, initializer="ones")
      >>> params = layer.init(jax.random.key(0), (3,))
      >>> print(layer.apply(params, jnp.array([1.0, 2.0, 3.0])))
      [6. 6.]

    Source: Glorot and Bengio (2010) for the default initializer.
    """
    width = check.whole("dense", "width", width, 1)
    leading_axes = check.whole("dense", "leading_axes", leading_axes, 0)
    draw = weight_initializer("dense", initializer)
    step_axes = 1 if leading_axes else None

    def init(key: jax.Array, in_shape: Shape) -> Params:
        *_, inputs = check_shape("dense", in_shape, (1 + leading_axes,), step_axes=step_axes)
        weight = draw(key, (width, inputs), jnp.result_type(float))
        return {"weight": weight, "bias": jnp.zeros(width, weight.dtype)}

    @(each_step("dense", 1) if leading_axes else examples_last(argnums=(1,)))
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        leading = x.shape[:-1][:leading_axes]
        check.shape_is("dense", "x", x.shape[:-1], (*leading, params["weight"].shape[1]))
        dtype = compute_dtype(x, params["weight"])
        weight, bias = params["weight"].astype(dtype), params["bias"].astype(dtype)
        y: jax.Array = product(weight, x.astype(dtype)) + bias.reshape(*(1,) * leading_axes, -1, 1)
        return y

    return Layer(init, apply)


def embedding(vocabulary: int, width: int, *, initializer: str | Initializer = "normal") -> Layer:
    """Looks up a learned vector for each of the symbols 0 to vocabulary - 1.

    Args:
      vocabulary: number of symbols, at least 1.
      width: length of each vector, at least 1.
      initializer: of the table, by name or function.

    Returns:
      A `Layer` on integers, (*shape) -> (*shape, width), with params {"table": (vocabulary, width)}. A symbol out of
      range gives NaN, never another symbol's vector. For a `Padded` of symbols it returns a `Padded` of vectors.

    Raises:
      TypeError: x doesn't hold integers.

    Example:
      >>> layer = embedding(3, 2, initializer="ones")
      >>> print(layer.apply(layer.init(jax.random.key(0), (2,)), jnp.array([0, 2])))
      [[1. 1.]
       [1. 1.]]
    """
    vocabulary = check.whole("embedding", "vocabulary", vocabulary, 1)
    width = check.whole("embedding", "width", width, 1)
    draw = initializer_fn("embedding", initializer)

    def init(key: jax.Array, in_shape: Shape) -> Params:
        check_shape("embedding", in_shape, step_axes=0)
        check.random_key("init", key)
        return {"table": draw(key, (vocabulary, width), jnp.result_type(float))}

    @each_step("embedding")
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(check.message("embedding", "x must hold integers", x.dtype, "the symbols are numbered from 0"))
        x = x.astype(jnp.int32) if x.dtype.itemsize < 4 else x  # an int8 cannot hold a vocabulary of 300
        symbols = jnp.where(x < 0, vocabulary, x)
        rows = jnp.asarray(params["table"]).at[symbols].get(mode="fill", fill_value=jnp.nan)
        return jnp.swapaxes(rows, -1, -2)

    return Layer(init, apply)
