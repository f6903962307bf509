"""Layers that slide a window over one, two or three spatial axes: convolution, the other way round too, and pooling.

A pool gathers the input once for each offset inside the window, with the examples on the last axis, and takes the maximum
or mean over the offsets. So does a convolution on a CPU, where one matrix product over channels and offsets follows, many
times faster than a convolution whose kernels differ between variants; a GPU or TPU convolves (`correlate`).
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
    """Slides one small dense layer over a signal, an image or a volume (a cross-correlation, as everywhere in this field).

    Args:
      channels: number of output channels, at least 1.
      window: size of the window, one number for all spatial axes or one for each. A volume needs three, so that a batch of images is
        not taken for one.
      stride: step of the window, likewise.
      padding: "SAME", "VALID", or zeros to add at both ends: a number, one for each axis, or (before, after) for each.
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
    """The other way round: every input adds its window to the output, so that a stride makes the output longer.

    y[o, stride * i + w] gets weight[o, c, w] * x[c, i] from every input i, channel c and offset w; then the edges are cut. It is the
    gradient of `conv` in its input.

    Args:
      channels: number of output channels, at least 1.
      window: size of the window, one number for all spatial axes or one for each; three for a volume.
      stride: how far apart the windows of neighbouring inputs are, likewise.
      padding: what is cut from both ends of an axis, which else is (length - 1) * stride + window: a number, one for each axis, or
        (before, after) for each. "VALID" cuts nothing and shows at least a stride of each input, "SAME" leaves length * stride.
      initializer: of the kernel, by name or function; the bias starts at zero.

    Returns:
      A `Layer`, (inputs, *spatial) -> (channels, *spatial'), with params {"weight": (channels, inputs, *window), "bias":
      (channels,)}. torch keeps this weight as (inputs, channels, *window), flax turned round in space too.

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
    """How many zeros stand before and after inputs that stand a stride apart; fewer than none where the output is cut by more."""
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
    """Each kernel on each window of each example, in the form that suits the platform, which is chosen while lowering.

    A kernel of its own for every lane makes a grouped convolution of a convolution. GPUs and TPUs have one in hardware or in
    a library; XLA's CPU compiler runs it naively, and there one matrix product of gathered windows is many times faster.

    What is kept for the way back are the arguments alone (`jax.checkpoint`). JAX, differentiating a choice, would keep whatever
    any of the forms needs: gathered windows on a TPU too. Where both ways are in one program XLA gathers once for both.

    Args:
      weight: shape (channels, inputs, *window).
      x: shape (inputs, *spatial, examples).
      steps: of the window, along each spatial axis.
      pads: zeros before and after each.

    Returns:
      Shape (channels, *spatial', examples).
    """
    here, elsewhere = (functools.partial(form, steps=steps, pads=pads) for form in (product_of_windows, convolution))
    y: jax.Array = inner.by_platform(weight, x, cpu=here, default=elsewhere)
    return y


def product_of_windows(weight: jax.Array, x: jax.Array, steps: Shape, pads: Pads) -> jax.Array:
    """`correlate` for a CPU: the windows' inputs side by side, then one product.

    To gather is to write every input once for each offset, which takes as long as the product. Along the first spatial axis
    it can be spared: the parts of the kernels that lie in one row of the window multiply all rows of the input, and the
    products are added where they meet. That pays where the products are no more numbers than are spared.
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
    """`correlate` for anything else: nothing is gathered, and a window's inputs are read where they lie."""
    image = (x.ndim - 1, *range(x.ndim - 1))  # where the examples are, the channels, and the spatial axes
    layout = jax.lax.ConvDimensionNumbers(lhs_spec=image, rhs_spec=tuple(range(weight.ndim)), out_spec=image)
    return jax.lax.conv_general_dilated(x, weight, steps, pads, dimension_numbers=layout)


def max_pool(window: Sizes, *, stride: Sizes | None = None, padding: Padding = "VALID") -> Layer:
    """The largest value in each window; by default windows lie side by side.

    Args:
      window: size of the window, one number for all spatial axes or one for each; three for a volume.
      stride: step of the window, likewise; the window's size if left out.
      padding: as in `conv`, at most half the window; padding is never the largest.

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
    """The mean of each window, padding counted as zeros, in at least float32; by default windows lie side by side.

    Args:
      window: size of the window, one number for all spatial axes or one for each; three for a volume.
      stride: step of the window, likewise; the window's size if left out.
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
    """All axes of an example in one, in row-major order.

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
    """A pool is a reduction along one axis, then along the other: few slices, and a gradient without a mask for each offset."""
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
    """For each offset inside the window, the input that lies there: shape (channels, *spatial', examples)."""
    if any(any(pad) for pad in pads):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    sizes = [(padded - size) // step + 1 for padded, size, step in zip(x.shape[1:-1], window, steps, strict=True)]

    def at(offset: Shape) -> jax.Array:
        starts = [slice(o, o + (n - 1) * step + 1, step) for o, n, step in zip(offset, sizes, steps, strict=True)]
        return x[(slice(None), *starts)]

    return [at(offset) for offset in itertools.product(*map(range, window))]


def _check_fits(where: str, spatial: Shape, window: Shape, steps: Shape, padding: Padding) -> list[tuple[int, int]]:
    """The zeros at both ends of each axis; an input with no room for the window is an error."""
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
    """How many axes an input may have: a volume is one only where the window says so, since a batch of images has as many."""
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
    """x must have channels, then its spatial axes (as many as init was told, or one or two), then the examples."""
    got = x.shape[:-1]
    good = len(got) == axes if axes else len(got) in (2, 3)
    if not good or (channels is not None and got[0] != channels):
        spatial = {2: "length", 3: "rows, columns", 4: "planes, rows, columns", None: "*spatial"}[axes]
        shape = f"({'channels' if channels is None else channels}, {spatial})"
        fix = "for a batch, use jax.vmap" if len(got) == (axes or 3) + 1 else "channels come first"
        raise ValueError(check.message(where, f"x must have shape {shape}", got, fix))
