"""Layers that slide a window over one, two or three spatial axes: convolution, transposed convolution and pooling.

Pooling gathers the input once for each offset inside the window, with the examples on the last axis, and takes the maximum
or mean over the offsets. On a CPU, convolution gathers in the same way and then computes one matrix product over channels and
offsets: many times faster there than a convolution whose kernels differ between variants. A GPU or TPU convolves (`correlate`).
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from funcnet import check, inner
from funcnet.batching import examples_last, refused
from funcnet.layers.layer import Init, Initializer, Layer, Shape, check_shape, compute_dtype, no_params, weight_initializer
from funcnet.padded import is_padded
from funcnet.tree import Params, at_least_float32, wide_dtype

Sizes: TypeAlias = int | Sequence[int]
Pads: TypeAlias = Sequence[tuple[int, int]]  # zeros before and after each axis
Padding: TypeAlias = str | int | Sequence[int | tuple[int, int]]


def conv(
    channels: int, window: Sizes, *, stride: Sizes = 1, padding: Padding = "SAME", initializer: str | Initializer = "glorot_uniform"
) -> Layer:
    """Slides one small dense layer over a signal, an image or a volume (a cross-correlation, as usual in deep learning).

    Args:
      channels: number of output channels, at least 1.
      window: size of the window, one number for all spatial axes or one for each. A volume needs three numbers; without them it could
        be a batch of images.
      stride: step of the window, one number for all spatial axes or one for each.
      padding: "SAME", "VALID", or the zeros to add at both ends: one number, one for each axis, or (before, after) for each axis.
      initializer: of the kernel, by name or function; the bias starts at zero.

    Returns:
      A `Layer`, (inputs, length) -> (channels, length'), (inputs, rows, columns) -> (channels, rows', columns') or
      (inputs, planes, rows, columns) -> (channels, planes', rows', columns'), with
      params {"weight": (channels, inputs, *window), "bias": (channels,)}.

    Raises:
      ValueError: a size is below 1, the padding is unknown, or the window doesn't fit the input.

    Example:
      >>> layer = conv(8, 3)
      >>> params = layer.init(jax.random.key(0), (1, 28, 28))
      >>> layer.apply(params, jnp.ones((1, 28, 28))).shape
      (8, 28, 28)

    Source: LeCun et al. (1989).
    """
    channels = check.whole("conv", "channels", channels, 1)
    _check_window("conv", window, stride, padding)

    @examples_last(argnums=(1,))
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        weight = params["weight"]
        _check_image("conv", x, len(weight.shape) - 1, weight.shape[1])
        dtype = compute_dtype(x, weight)
        steps = per_axis("conv", "stride", stride, weight.ndim - 2)
        pads = _check_fits("conv", x.shape[1:-1], weight.shape[2:], steps, padding)
        y: jax.Array = correlate(weight.astype(dtype), x.astype(dtype), steps, pads)
        bias: jax.Array = params["bias"].astype(dtype)
        return y + bias.reshape(-1, *(1,) * (y.ndim - 1))

    return Layer(_init("conv", channels, window, initializer), apply)


def conv_transpose(
    channels: int, window: Sizes, *, stride: Sizes = 1, padding: Padding = "SAME", initializer: str | Initializer = "glorot_uniform"
) -> Layer:
    """A transposed convolution: every input adds its window to the output, so that a stride makes the output longer.

    y[o, stride * i + w] gets weight[o, c, w] * x[c, i] from every input i, channel c and offset w; then the edges are cut. It is the
    gradient of `conv` with respect to its input.

    Args:
      channels: number of output channels, at least 1.
      window: size of the window, one number for all spatial axes or one for each; three for a volume.
      stride: distance between the windows of neighbouring inputs, one number for all spatial axes or one for each.
      padding: how much to cut from both ends of an axis: one number, one for each axis, or (before, after) for each axis. An axis has the
        length (length - 1) * stride + window before the cut. "SAME" leaves length * stride; "VALID" cuts nothing, and leaves at least
        length * stride.
      initializer: of the kernel, by name or function; the bias starts at zero.

    Returns:
      A `Layer`, (inputs, *spatial) -> (channels, *spatial'), with params {"weight": (channels, inputs, *window), "bias":
      (channels,)}. torch's weight has the shape (inputs, channels, *window); flax's is also reversed along the spatial axes.

    Raises:
      ValueError: a size is below 1, the padding is unknown, or nothing would be left of the output.

    Example:
      >>> layer = conv_transpose(8, 3, stride=2)
      >>> params = layer.init(jax.random.key(0), (4, 7, 7))
      >>> layer.apply(params, jnp.ones((4, 7, 7))).shape
      (8, 14, 14)

    Source: Zeiler et al. (2010); Dumoulin and Visin (2016).
    """
    channels = check.whole("conv_transpose", "channels", channels, 1)
    _check_window("conv_transpose", window, stride, padding)

    @examples_last(argnums=(1,))
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        weight = params["weight"]
        _check_image("conv_transpose", x, len(weight.shape) - 1, weight.shape[1])
        dtype = compute_dtype(x, weight)
        steps = per_axis("conv_transpose", "stride", stride, weight.ndim - 2)
        edges = _edges(x.shape[1:-1], weight.shape[2:], steps, padding)
        between = [(*edge, step - 1) for edge, step in zip(edges, steps, strict=True)]
        apart = jax.lax.pad(x.astype(dtype), jnp.zeros((), dtype), [(0, 0, 0), *between, (0, 0, 0)])
        turned = jnp.flip(weight.astype(dtype), tuple(range(2, weight.ndim)))
        y: jax.Array = correlate(turned, apart, (1,) * len(steps), ((0, 0),) * len(steps))
        bias: jax.Array = params["bias"].astype(dtype)
        return y + bias.reshape(-1, *(1,) * (y.ndim - 1))

    return Layer(_init("conv_transpose", channels, window, initializer), apply)


def _init(where: str, channels: int, window: Sizes, initializer: str | Initializer) -> Init:
    draw = weight_initializer(where, initializer)

    def init(key: jax.Array, in_shape: Shape) -> Params:
        inputs, *spatial = check_shape(where, in_shape, _axes(window))
        sizes = per_axis(where, "window", window, len(spatial))
        weight = draw(key, (channels, inputs, *sizes), jnp.result_type(float))
        return {"weight": weight, "bias": jnp.zeros(channels, weight.dtype)}

    return init


def _edges(spatial: Shape, window: Shape, steps: Shape, padding: Padding) -> list[tuple[int, int]]:
    """The zeros to add before and after inputs spread a stride apart; negative where the output is cut by a window or more."""
    if padding == "SAME":
        before = [size - 1 if step > size - 1 else -(-(size + step - 2) // 2) for size, step in zip(window, steps, strict=True)]
        return [(first, size + step - 2 - first) for first, size, step in zip(before, window, steps, strict=True)]
    if padding == "VALID":
        return [(size - 1, max(size, step) - 1) for size, step in zip(window, steps, strict=True)]
    cuts = _pads("conv_transpose", padding, spatial, window, steps)
    for length, size, step, cut in zip(spatial, window, steps, cuts, strict=True):
        if (length - 1) * step + size <= sum(cut):
            rule = f"padding must be less than the output's {(length - 1) * step + size}"
            raise ValueError(check.message("conv_transpose", rule, sum(cut), "it is cut off here"))
    return [(size - 1 - before, size - 1 - after) for size, (before, after) in zip(window, cuts, strict=True)]


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(2, 3))
def correlate(weight: jax.Array, x: jax.Array, steps: Shape, pads: Pads) -> jax.Array:
    """The cross-correlation of a batch, in the form that is fast on the platform, which is chosen while lowering.

    With a different kernel in every lane, a convolution becomes a grouped convolution. GPUs and TPUs have those in hardware or in
    a library; XLA's CPU compiler runs them naively, and there one matrix product of gathered windows is many times faster.

    Only the arguments are kept for the backward pass (`jax.checkpoint`). JAX would otherwise keep what any of the forms needs,
    such as gathered windows on a TPU. If forward and backward pass are in one program, XLA gathers only once.

    Args:
      weight: shape (channels, inputs, *window).
      x: shape (inputs, *spatial, examples).
      steps: stride of the window along each spatial axis.
      pads: zeros before and after each spatial axis.

    Returns:
      Shape (channels, *spatial', examples).
    """
    here, elsewhere = (functools.partial(form, steps=steps, pads=pads) for form in (product_of_windows, convolution))
    y: jax.Array = inner.by_platform(weight, x, cpu=here, default=elsewhere)
    return y


def product_of_windows(weight: jax.Array, x: jax.Array, steps: Shape, pads: Pads) -> jax.Array:
    """`correlate` for a CPU: gathers the inputs of every window, then computes one matrix product.

    Gathering writes every input once for each offset, which takes as long as the product. Along the first spatial axis it can
    be avoided: each row of the kernels multiplies all rows of the input, and the products that belong to one output are added.
    That is worth it if these products have no more entries than the gathering would have written.
    """
    channels, inputs, height, *widths = weight.shape
    gathered = inputs * math.prod(widths)
    parts = height if steps[0] == 1 and height * channels <= (height - 1) * gathered else 1
    patches = _offsets(x, (height // parts, *widths), steps, pads, fill=0)
    _, *spatial, examples = patches[0].shape
    columns = jnp.concatenate(patches).reshape(-1, math.prod(spatial) * examples)
    rows = weight.reshape(channels, inputs, parts, -1).transpose(2, 0, 3, 1).reshape(parts * channels, -1)  # inputs innermost
    products = jnp.matmul(rows, columns, preferred_element_type=at_least_float32(x.dtype))
    products = products.reshape(parts, channels, *spatial, examples)
    meeting = [products[i, :, i : i + spatial[0] - parts + 1] for i in range(parts)]
    return functools.reduce(jnp.add, meeting).astype(x.dtype)


def convolution(weight: jax.Array, x: jax.Array, steps: Shape, pads: Pads) -> jax.Array:
    """`correlate` for other platforms: XLA's own convolution, which gathers nothing."""
    image = (x.ndim - 1, *range(x.ndim - 1))  # the axes of the examples, of the channels, and of space
    layout = jax.lax.ConvDimensionNumbers(lhs_spec=image, rhs_spec=tuple(range(weight.ndim)), out_spec=image)
    return jax.lax.conv_general_dilated(x, weight, steps, pads, dimension_numbers=layout)


def max_pool(window: Sizes, *, stride: Sizes | None = None, padding: Padding = "VALID") -> Layer:
    """Takes the largest value in each window; by default the windows touch and don't overlap.

    Args:
      window: size of the window, one number for all spatial axes or one for each; three for a volume.
      stride: step of the window, one number for all spatial axes or one for each; default: the window's size.
      padding: as in `conv`, at most half the window; a padded place is never the largest.

    Returns:
      A `Layer` without parameters, (channels, *spatial) -> (channels, *spatial').

    Raises:
      ValueError: a size is below 1, the padding is unknown, or the window doesn't fit the input.

    Example:
      >>> layer = max_pool(2)
      >>> print(layer.apply((), jnp.arange(16.0).reshape(1, 4, 4)))
      [[[ 5.  7.]
        [13. 15.]]]
    """
    return _pool("max_pool", window, stride, padding, largest=True)


def avg_pool(window: Sizes, *, stride: Sizes | None = None, padding: Padding = "VALID") -> Layer:
    """Takes the mean of each window, with padding as zeros, in at least float32; by default the windows touch and don't overlap.

    Args:
      window: size of the window, one number for all spatial axes or one for each; three for a volume.
      stride: step of the window, one number for all spatial axes or one for each; default: the window's size.
      padding: as in `conv`.

    Returns:
      A `Layer` without parameters, (channels, *spatial) -> (channels, *spatial').

    Raises:
      ValueError: a size is below 1, the padding is unknown, or the window doesn't fit the input.

    Example:
      >>> layer = avg_pool(2)
      >>> print(layer.apply((), jnp.arange(16.0).reshape(1, 4, 4)))
      [[[ 2.5  4.5]
        [10.5 12.5]]]
    """
    return _pool("avg_pool", window, stride, padding, largest=False)


def flatten() -> Layer:
    """Flattens an example to one axis, in row-major order.

    Returns:
      A `Layer` without parameters, (*shape) -> (product of shape,).

    Example:
      >>> flatten().apply((), jnp.ones((2, 3, 4))).shape
      (24,)
    """

    @examples_last(argnums=(1,))
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return x.reshape(-1, x.shape[-1])

    return Layer(no_params("flatten"), apply)


def _pool(where: str, window: Sizes, stride: Sizes | None, padding: Padding, *, largest: bool) -> Layer:
    """Reduces along one axis after the other: this takes fewer slices than one per offset, and as few masks in the gradient."""
    stride = window if stride is None else stride
    _check_window(where, window, stride, padding)

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        if is_padded(x):
            raise refused(where)
        _check_image(where, x, 4 if 4 in _axes(window) else None, None)
        axes = x.ndim - 2
        sizes, steps = per_axis(where, "window", window, axes), per_axis(where, "stride", stride, axes)
        pads = _check_fits(where, x.shape[1:-1], sizes, steps, padding)
        if largest:
            _check_padding(where, pads, sizes)
        dtype = x.dtype if check.is_floating(x) or largest else jnp.result_type(float)
        x = x if largest else x.astype(wide_dtype(x))
        fill = 0 if not largest else -math.inf if check.is_floating(x) else jnp.iinfo(x.dtype).min
        for axis in range(axes):
            own, step = (tuple(along[i] if i == axis else 1 for i in range(axes)) for along in (sizes, steps))
            pad = [pads[i] if i == axis else (0, 0) for i in range(axes)]
            patches = _offsets(x, own, step, pad, fill)
            x = functools.reduce(jnp.maximum, patches) if largest else functools.reduce(jnp.add, patches) / len(patches)
        return x.astype(dtype)

    return Layer(no_params(where, _axes(window)), apply)


def _offsets(x: jax.Array, window: Shape, steps: Shape, pads: Pads, fill: float) -> list[jax.Array]:
    """For each offset inside the window, the inputs at that offset: shape (channels, *spatial', examples)."""
    if any(any(pad) for pad in pads):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    sizes = [(padded - size) // step + 1 for padded, size, step in zip(x.shape[1:-1], window, steps, strict=True)]

    def at(offset: Shape) -> jax.Array:
        starts = [slice(o, o + (n - 1) * step + 1, step) for o, n, step in zip(offset, sizes, steps, strict=True)]
        return x[(slice(None), *starts)]

    return [at(offset) for offset in itertools.product(*map(range, window))]


def _check_fits(where: str, spatial: Shape, window: Shape, steps: Shape, padding: Padding) -> list[tuple[int, int]]:
    """The zeros at both ends of each axis; raises ValueError if the window is larger than the padded input."""
    pads = _pads(where, padding, spatial, window, steps)
    if any(size + sum(pad) < own for size, pad, own in zip(spatial, pads, window, strict=True)):
        raise ValueError(
            check.message(where, f"the window {window} must fit the input", f"spatial shape {tuple(spatial)}", "padding='SAME' fits any")
        )
    return pads


def _check_padding(where: str, pads: Pads, window: Shape) -> None:
    """More padding than half a window would leave windows of nothing but padding."""
    for pad, size in zip(pads, window, strict=True):
        if max(pad) > size // 2:
            rule = f"padding must be at most half the window, {size // 2} for a window of {size}"
            raise ValueError(check.message(where, rule, max(pad), "padding='SAME' covers every number"))


def _axes(window: Sizes) -> tuple[int, ...]:
    """How many axes an input may have: four only if the window has three sizes, since a batch of images has four axes too."""
    return (4,) if isinstance(window, Sequence) and len(window) == 3 else (2, 3)


def per_axis(where: str, name: str, sizes: Any, axes: int) -> Shape:
    sizes = (sizes,) * axes if check.is_integer(sizes) else tuple(sizes)
    if len(sizes) != axes:
        raise ValueError(check.message(where, f"{name} must have one size for each of the {axes} spatial axes", sizes))
    return tuple(int(size) for size in sizes)


def _pads(where: str, padding: Any, spatial: Sequence[int], window: Shape, steps: Shape) -> list[tuple[int, int]]:
    if isinstance(padding, str):
        return list(jax.lax.padtype_to_pads(spatial, window, steps, padding))
    pads = [padding] * len(spatial) if check.is_integer(padding) else list(padding)
    if len(pads) != len(spatial):
        raise ValueError(check.message(where, f"padding must have one entry for each of the {len(spatial)} spatial axes", padding))
    return [(int(pad), int(pad)) if check.is_integer(pad) else (int(pad[0]), int(pad[1])) for pad in pads]


def _check_window(where: str, window: Sizes, stride: Sizes, padding: Padding) -> None:
    for name, sizes in (("window", window), ("stride", stride)):
        for size in [sizes] if check.is_integer(sizes) or not isinstance(sizes, Sequence) else sizes:
            check.whole(where, name, size, 1)
    if isinstance(padding, str):
        check.one_of(where, "padding", padding, ("SAME", "VALID"))
    else:
        pads = list(padding) if isinstance(padding, Sequence) else [padding]
        for edge in [size for pad in pads for size in (pad if isinstance(pad, Sequence) and len(pad) == 2 else [pad])]:
            check.whole(where, "padding", edge, 0, fix="one number, or one or (before, after) for each axis")


def _check_image(where: str, x: jax.Array, axes: int | None, channels: int | None) -> None:
    """Checks that x has channels, then spatial axes (as many as init was given, else one or two), then the examples."""
    got = x.shape[:-1]
    good = len(got) == axes if axes else len(got) in (2, 3)
    if not good or (channels is not None and got[0] != channels):
        spatial = {2: "length", 3: "rows, columns", 4: "planes, rows, columns", None: "*spatial"}[axes]
        shape = f"({'channels' if channels is None else channels}, {spatial})"
        fix = "for a batch, use jax.vmap" if len(got) == (axes or 3) + 1 else "channels come first"
        raise ValueError(check.message(where, f"x must have shape {shape}", got, fix))
