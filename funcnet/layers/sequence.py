"""Attention between the places of a sequence, and positional encodings, by which it can tell the places apart."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.batching import examples_last
from funcnet.layers.layer import (
    Initializer,
    Layer,
    Shape,
    check_shape,
    compute_dtype,
    initializer_fn,
    no_params,
    product,
    weight_initializer,
)
from funcnet.layers.steps import each_step
from funcnet.padded import checked, filled, is_padded, real, zeroed
from funcnet.tree import Params, Scalar, at_least_float32


def attention(
    heads: int,
    *,
    width: int | None = None,
    causal: bool = False,
    mask: jax.Array | Callable[[jax.Array], jax.Array] | None = None,
    initializer: str | Initializer = "glorot_uniform",
) -> Layer:
    """Multi-head self-attention: each place takes a mean of all places' values, weighted by how well their keys fit its query.

    Each head computes softmax(Q K^T / sqrt(size)) V, where Q, K and V are products of x and size is width / heads. The heads' outputs
    are joined and go through one more product.

    Args:
      heads: number of heads, at least 1.
      width: of all heads together and of the output, a multiple of heads; None for the number of features of x.
      causal: whether a place sees only itself and earlier places.
      mask: which places (columns) each place (row) sees, bool, shape (time, time) or (1, time); or a function that returns this for an
        example x, such as one that finds the padding in it. For a `Padded` the function gets its values. A place that sees nothing takes
        zeros.
      initializer: of the four weights, by name or function; the biases start at zero.

    Returns:
      A `Layer`, (time, features) -> (time, width), with params {"query", "key", "value": (width, features), "out": (width, width)}
      and a bias for each, {"query_bias", ...: (width,)}. x may have another time than init was given. For a `Padded` it returns a
      `Padded`, and no place sees the padding.

    Raises:
      ValueError: heads is below 1, the width is no multiple of it, or x or the mask has a shape that doesn't fit.

    Example:
      >>> layer = attention(2, causal=True)
      >>> params = layer.init(jax.random.key(0), (7, 4))
      >>> layer.apply(params, jnp.ones((7, 4))).shape
      (7, 4)

    Source: Vaswani et al. (2017).
    """
    heads = check.whole("attention", "heads", heads, 1)
    if width is not None:
        _check_width(check.whole("attention", "width", width, 1), heads)
    draw = weight_initializer("attention", initializer)

    def init(key: jax.Array, in_shape: Shape) -> Params:
        _, features = check_shape("attention", in_shape, (2,), step_axes=1)
        check.random_key("init", key)
        own = features if width is None else width
        _check_width(own, heads)
        dtype = jnp.result_type(float)
        inputs = {"query": features, "key": features, "value": features, "out": own}
        keys = jax.random.split(key, len(inputs))
        params = {name: draw(keys[i], (own, size), dtype) for i, (name, size) in enumerate(inputs.items())}
        return params | {f"{name}_bias": jnp.zeros(own, weight.dtype) for name, weight in params.items()}

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: Any, *, key: jax.Array | None = None) -> Any:
        if not is_padded(x):
            return attend(params, x, None)
        x = checked("attention", x)
        return zeroed(attend(params, filled(x), real(x).reshape(1, len(x.values), -1)), x)

    def attend(params: Params, x: jax.Array, inside: jax.Array | None) -> jax.Array:
        """Attention on arrays; inside, shape (1, time, examples), says which places are real steps, None that all are."""
        own, features = params["query"].shape
        if x.ndim != 3 or x.shape[1] != features:
            fix = "for a batch, use jax.vmap" if x.ndim == 4 else "time comes first"
            raise ValueError(check.message("attention", f"x must have shape (time, {features})", x.shape[:-1], fix))
        seen = _seen(mask, x, causal)
        if inside is not None:
            seen = inside if seen is None else seen & inside
        dtype = compute_dtype(x, params["query"])
        weights = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        x = x.astype(dtype)
        time, _, examples = x.shape

        def linear(name: str, x: jax.Array) -> jax.Array:
            bias: jax.Array = weights[f"{name}_bias"]
            return product(weights[name], x) + bias[None, :, None]

        def split(name: str) -> jax.Array:
            return linear(name, x).reshape(time, heads, own // heads, examples)

        found = _attend(split("query"), split("key"), split("value"), seen)
        return linear("out", found.reshape(time, own, examples))

    return Layer(init, apply)


def _attend(query: jax.Array, keys: jax.Array, values: jax.Array, seen: jax.Array | None) -> jax.Array:
    """The values' means, weighted by how the keys fit; all (time, heads, size, examples), seen (time or 1, time, examples or 1)."""
    wide = at_least_float32(query.dtype)
    fits = jnp.einsum("qhsn,khsn->hqkn", query, keys, preferred_element_type=wide) / math.sqrt(query.shape[2])
    if seen is not None:
        fits = jnp.where(seen[None], fits, -0.5 * float(jnp.finfo(wide).max))
    shares = jax.nn.softmax(fits, axis=2)
    if seen is not None:
        shares = jnp.where(seen[None], shares, 0)  # without this, a place that sees nothing would see all
    found = jnp.einsum("hqkn,khsn->qhsn", shares.astype(query.dtype), values, preferred_element_type=wide)
    return found.astype(query.dtype)


def _seen(mask: jax.Array | Callable[[jax.Array], jax.Array] | None, x: jax.Array, causal: bool) -> jax.Array | None:
    """Which places each sees, shape (time or 1, time, examples or 1); None for all."""
    time = x.shape[0]
    seen = None
    if mask is not None:
        seen = jax.vmap(mask, -1, -1)(x) if callable(mask) else jnp.asarray(mask)[..., None]
        if seen.ndim != 3 or seen.shape[0] not in (1, time) or seen.shape[1] != time:
            raise ValueError(check.message("attention", f"mask must have shape ({time}, {time}) or (1, {time})", seen.shape[:-1]))
        if seen.dtype != bool:
            raise TypeError(check.message("attention", "mask must be of bool", seen.dtype, "True where a place is seen"))
    if causal:
        before = jnp.tri(time, dtype=bool)[..., None]
        seen = before if seen is None else seen & before
    return seen


def _check_width(width: int, heads: int) -> None:
    if width % heads:
        fix = "width= sets another than that of x"
        raise ValueError(check.message("attention", f"the width must be a multiple of the {heads} heads", width, fix))


def positional_encoding(*, max_wavelength: Scalar = 10000.0) -> Layer:
    """Adds sine and cosine waves of different lengths to a sequence's features, so that a model can tell its places apart.

    y[t, 2i] = x[t, 2i] + sin(t / max_wavelength^(2i / features)); y[t, 2i + 1] the same with cos

    Args:
      max_wavelength: shape (), length of the longest wave divided by 2 pi, in steps, > 1; may be traced.

    Returns:
      A `Layer` without parameters, (time, features) -> (time, features). It also takes a `Padded`.

    Raises:
      ValueError: max_wavelength is out of range, or x doesn't have two axes.

    Example:
      >>> print(positional_encoding().apply((), jnp.zeros((2, 2))).round(2))
      [[0.   1.  ]
       [0.84 0.54]]

    Source: Vaswani et al. (2017).
    """
    check.in_range("positional_encoding", "max_wavelength", max_wavelength, 1, ends="()")

    @each_step("positional_encoding", 1)
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        _check_sequence("positional_encoding", x)
        dtype = x.dtype if check.is_floating(x) else jnp.result_type(float)
        wide = at_least_float32(dtype)
        time, features, _ = x.shape
        pair = jnp.arange(features) // 2
        pace = jnp.asarray(max_wavelength, wide) ** (-2 * pair.astype(wide) / features)
        angle = jnp.arange(time).astype(wide)[:, None] * pace[None]
        wave = jnp.where((jnp.arange(features) % 2 == 0)[None], jnp.sin(angle), jnp.cos(angle))
        return (x.astype(wide) + wave[..., None]).astype(dtype)

    return Layer(no_params("positional_encoding", (2,), step_axes=1), apply)


def positional_embedding(*, initializer: str | Initializer = "normal") -> Layer:
    """Adds a learned vector to each place of a sequence, a different one for each place.

    Args:
      initializer: of the table, by name or function.

    Returns:
      A `Layer`, (time, features) -> (time, features), with params {"table": (time, features)}. A shorter sequence takes the table's
      first rows. It also takes a `Padded`.

    Raises:
      ValueError: x is longer than init was given, or has another number of features.

    Example:
      >>> layer = positional_embedding(initializer="ones")
      >>> print(layer.apply(layer.init(jax.random.key(0), (2, 2)), jnp.zeros((2, 2))))
      [[1. 1.]
       [1. 1.]]

    Source: Gehring et al. (2017).
    """
    draw = initializer_fn("positional_embedding", initializer)

    def init(key: jax.Array, in_shape: Shape) -> Params:
        in_shape = check_shape("positional_embedding", in_shape, (2,), step_axes=1)
        check.random_key("init", key)
        return {"table": draw(key, in_shape, jnp.result_type(float))}

    @each_step("positional_embedding", 1)
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        _check_sequence("positional_embedding", x)
        time, features = params["table"].shape
        if x.shape[0] > time or x.shape[1] != features:
            rule = f"x must have shape (at most {time}, {features})"
            raise ValueError(check.message("positional_embedding", rule, x.shape[:-1]))
        dtype = compute_dtype(x, params["table"])
        table: jax.Array = params["table"][: x.shape[0], :, None].astype(dtype)
        return x.astype(dtype) + table

    return Layer(init, apply)


def _check_sequence(where: str, x: jax.Array) -> None:
    if x.ndim != 3:
        fix = "for a batch, use jax.vmap" if x.ndim == 4 else "time comes first"
        raise ValueError(check.message(where, "x must have shape (time, features)", x.shape[:-1], fix))
