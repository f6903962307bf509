"""The type `Layer`: two pure functions, `init` and `apply`, for one example; and what all layers use."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check, inner
from funcnet.batching import on_batch, refused
from funcnet.padded import Padded, filled_up, is_padded
from funcnet.tree import Params, PyTree, at_least_float32

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Any  # a Shape; for several inputs a dict or a tuple of Shapes; for sequences Padded(Shape, ())
Initializer: TypeAlias = Callable[..., jax.Array]  # (key, shape, dtype) -> array, as jax.nn.initializers makes them


class Init(Protocol):
    """A layer's `init`."""

    def __call__(self, key: jax.Array, in_shape: Shape) -> Params: ...


class Apply(Protocol):
    """A layer's `apply`."""

    def __call__(self, params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array: ...


class Layer(NamedTuple):
    """A layer or a whole model; both have the same type.

    init(key, in_shape) -> params: in_shape is the shape of one example, without a batch axis.
    apply(params, x, *, key=None) -> y: x is one example. With a key the layer trains (dropout is on), without one it evaluates.

    For a batch, use `jax.vmap(layer.apply, (None, 0))(params, xs)`, or `apply_batch`, which takes the examples last and is faster.
    Sequences of different lengths are a `Padded`; a layer of your own gets it unchanged.

    Example:
      >>> double = Layer(lambda key, in_shape: (), lambda params, x, *, key=None: 2 * x)
      >>> print(double.apply((), jnp.array([1.0])))
      [2.]
    """

    init: Init
    apply: Apply


def apply_batch(layer: Layer, params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
    """Applies a layer to a batch whose examples lie on the last axis.

    Args:
      layer: any `Layer`. funcnet's own have a batch form without transposes; others are vmapped.
      params: the layer's parameters.
      x: shape (*in_shape, examples).
      key: for training; each example gets its own draws, except in `drop_connect`.

    Returns:
      Shape (*out_shape, examples).

    Example:
      >>> flip = Layer(lambda key, in_shape: (), lambda params, x, *, key=None: x[::-1])
      >>> print(apply_batch(flip, (), jnp.array([[1.0, 2.0], [3.0, 4.0]])))
      [[3. 4.]
       [1. 2.]]
    """
    y: jax.Array = outputs_of(layer, params, x, key=key)
    shape_of(y)
    return y


def outputs_of(layer: Layer, params: Params, x: jax.Array, *, key: jax.Array | None = None) -> PyTree:
    """Like `apply_batch`, for a layer that may return a pytree of arrays, as a whole model may."""
    fn = on_batch(layer.apply, argnums=(1,))
    return fn(params, x) if key is None else fn(params, x, key=key)


def out_shape(layer: Layer, in_shape: Shapes, dtype: jax.typing.DTypeLike | None = None) -> Shapes:
    """The shape of the output for one example, found without computing anything.

    Args:
      layer: any `Layer`.
      in_shape: shape of one example; for a sequence, `Padded((time, *rest), ())`. The shape of a `Padded` output has that form too.
      dtype: of the example; default: floating point (an embedding takes integers).

    Raises:
      ValueError: the layer doesn't fit the input.

    Example:
      >>> from funcnet.layers import dense
      >>> out_shape(dense(3), (5,))
      (3,)
    """
    shape = as_shapes("out_shape", in_shape) if is_padded(in_shape) else check_shape("out_shape", in_shape)
    return shape_of(_traced(layer, shape, dtype)[0])


def outline(layer: Layer, in_shape: Shapes, dtype: Any = None, params: Params = None) -> tuple[Shapes | None, bool]:
    """The shape of one output, as in `out_shape`, and whether the layer does a lookup, as an embedding does.

    Args:
      params: the params' shapes if they are known; None finds them.

    Returns:
      The shape, or None if the layer returns a pytree of several arrays; and a bool.
    """
    y, looks_up = _traced(layer, in_shape, dtype, params)
    several = not hasattr(y, "shape") and not is_padded(y) and jax.tree.leaves(y)
    return None if several else shape_of(y), looks_up


def _traced(layer: Layer, in_shape: Shapes, dtype: Any, params: Params = None) -> tuple[PyTree, bool]:
    """The shapes of a layer's output for a batch of one, and whether it does a lookup (a gather)."""
    if params is None:
        params = jax.eval_shape(lambda: layer.init(jax.random.key(0), in_shape))
    example = one_example(in_shape, dtype)
    jaxpr, y = jax.make_jaxpr(functools.partial(outputs_of, layer), return_shape=True)(params, example)
    return y, inner.uses(jaxpr.jaxpr, "gather")


def one_example(in_shape: Shapes, dtype: Any = None) -> Any:
    """The shape and dtype of a batch of one example; for several inputs, theirs in the same structure.

    Args:
      in_shape: as `as_shapes` returns it.
      dtype: of all inputs, or one for each in the same structure; None for floating point.
    """
    if is_padded(in_shape):
        own = dtype.values if is_padded(dtype) else dtype
        return Padded(one_example(in_shape.values, own), jax.ShapeDtypeStruct((1,), jnp.int32))
    if is_shape(in_shape):
        return jax.ShapeDtypeStruct((*in_shape, 1), dtype or jnp.result_type(float))
    shapes, structure = jax.tree.flatten(in_shape, is_leaf=lambda own: is_shape(own) or is_padded(own))
    dtypes = jax.tree.leaves(dtype, is_leaf=is_padded) if type(dtype) is type(in_shape) else [dtype] * len(shapes)
    return jax.tree.unflatten(structure, list(map(one_example, shapes, dtypes)))


def is_shape(in_shape: Any) -> bool:
    """Whether in_shape is the shape of one array, and not a structure of several shapes."""
    return isinstance(in_shape, tuple | list) and all(map(check.is_integer, in_shape))


def as_shapes(where: str, in_shape: Shapes) -> Shapes:
    """The shape of one example, checked; for several inputs, their shapes in the same structure."""
    if is_padded(in_shape):
        if in_shape.length != ():
            raise ValueError(check.message(where, "in_shape of sequences must be Padded((time, *rest), ())", in_shape))
        return Padded(steps_shape(where, in_shape, 0), ())
    if isinstance(in_shape, Mapping) and in_shape:
        return {name: as_shapes(where, own) for name, own in in_shape.items()}
    if isinstance(in_shape, tuple) and in_shape and all(isinstance(own, tuple | list | Mapping) for own in in_shape):
        each = [as_shapes(where, own) for own in in_shape]
        return type(in_shape)(*each) if hasattr(in_shape, "_fields") else tuple(each)
    return check_shape(where, in_shape)


def steps_shape(where: str, in_shape: Padded, axes: int) -> Shape:
    """The shape of a sequence, (time, *rest), checked: each step must have at least `axes` axes."""
    shape = check_shape(where, in_shape.values)
    if len(shape) < 1 + axes:
        fix = "values[..., None] gives every step one" if axes == 1 else ""
        raise ValueError(check.message(where, f"each step of a Padded must have at least {axes} axes", f"shape {shape}", fix))
    return shape


def shape_of(y: Any) -> Shapes:
    """The shape of one example in a layer's output for a batch, which must be one array or a `Padded`."""
    if is_padded(y):
        return Padded(shape_of(y.values), shape_of(y.length))
    if not hasattr(y, "shape"):
        fix = "join them with jnp.concatenate, or give one of them"
        raise TypeError(check.message("layer", "apply must return one array", type(y).__name__, fix))
    return tuple(y.shape[:-1])


def check_symbols(where: str, layer: Layer, x: Any) -> None:
    """Checks that concrete examples hold no symbol outside the vocabulary, for which an embedding returns NaN.

    A vocabulary has no gaps, so at each place of an example only the smallest and the largest symbol found there are tried. The layer
    is applied to them with constant parameters, and must not return NaN.

    Args:
      where: name of the caller, for the message.
      layer: any `Layer`.
      x: shape (examples, *in_shape). Of several inputs each is tried in turn, with the others from the first example.

    Raises:
      ValueError: a symbol makes the output NaN.
    """
    if is_padded(x):
        return check_symbols(where, _of_whole(layer), filled_up(x))
    if not hasattr(x, "shape"):
        leaves, structure = jax.tree.flatten(x, is_leaf=is_padded)
        for i in range(len(leaves)):
            check_symbols(where, _of_one_input(layer, leaves, structure, i), leaves[i])
        return
    shape = x.shape[1:]
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), shape))
    ends = np.stack([x.min(0), x.max(0)])
    usual = next((row for row in (ends[0] * 0, ends[0] * 0 + 1) if not _gives_nan(layer, params, row[None])[0]), None)
    if usual is None or not _gives_nan(layer, params, ends).any():
        return
    for place in np.ndindex(shape):
        tried = np.stack([usual, usual])
        tried[(slice(None), *place)] = ends[(slice(None), *place)]
        bad = _gives_nan(layer, params, tried)
        if bad.any():
            symbol = ends[(int(np.argmax(bad)), *place)]
            row = int(np.argmax(x[(slice(None), *place)] == symbol))
            got = f"{symbol} at index {(row, *place)} of x"
            raise ValueError(
                check.message(where, "a symbol must be in the vocabulary", got, "symbols are numbered from 0; widen it, or map the others")
            )


def _of_one_input(layer: Layer, leaves: list[np.ndarray], structure: Any, i: int) -> Layer:
    """The layer as a function of one of its inputs; the others are those of the first example."""
    shapes = jax.tree.map(lambda leaf: leaf.shape[1:], jax.tree.unflatten(structure, leaves))
    first = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), leaves)

    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> Any:
        return layer.apply(params, jax.tree.unflatten(structure, [*first[:i], x, *first[i + 1 :]]))

    return Layer(lambda key, in_shape: layer.init(key, shapes), apply)


def _of_whole(layer: Layer) -> Layer:
    """The layer as a function of sequences without padding."""

    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> Any:
        whole: Any = Padded(x, jnp.int32(x.shape[0]))
        return layer.apply(params, whole)

    return Layer(lambda key, in_shape: layer.init(key, Padded(in_shape, ())), apply)


def _gives_nan(layer: Layer, params: Params, x: np.ndarray) -> np.ndarray:
    """For which examples the layer returns NaN, shape (examples,); all False if a traced hyperparameter makes it unknowable."""
    with jax.ensure_compile_time_eval(), jax.debug_nans(False), jax.disable_jit():  # only single operations are compiled
        params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01 if check.is_floating(leaf) else 0, leaf.dtype), params)
        try:
            leaves = jax.tree.leaves(outputs_of(layer, params, jnp.moveaxis(jnp.asarray(x), 0, -1)))
            each = [np.isnan(np.asarray(leaf)).reshape(-1, len(x)).any(0) for leaf in leaves]
        except (jax.errors.JAXTypeError, jax.errors.UnexpectedTracerError):
            return np.zeros(len(x), bool)
    missing: np.ndarray = np.logical_or.reduce(each)
    return missing


def check_shape(where: str, in_shape: Shapes, axes: tuple[int, ...] = (), *, step_axes: int | None = None) -> Shape:
    """Checks that in_shape is a shape, with one of the given numbers of axes.

    Args:
      step_axes: for a layer that takes a `Padded`, the least number of axes of a step; the shape returned is that of the sequence.
    """
    if is_padded(in_shape):
        if step_axes is None:
            raise refused(where)
        in_shape = steps_shape(where, in_shape, step_axes)
    if not isinstance(in_shape, tuple | list) or not all(check.is_integer(size) for size in in_shape):
        raise TypeError(check.message(where, "in_shape must be a tuple of whole numbers", repr(in_shape), "one example's shape"))
    if any(size < 1 for size in in_shape):
        raise ValueError(check.message(where, "every axis of in_shape must be at least 1", tuple(in_shape)))
    if axes and len(in_shape) not in axes:
        rule = f"in_shape must have {' or '.join(map(str, axes))} axes"
        raise ValueError(check.message(where, rule, tuple(in_shape), "it is one example's shape, without a batch axis"))
    return tuple(int(size) for size in in_shape)


INITIALIZERS: dict[str, Callable[..., Initializer]] = {
    "glorot_uniform": jax.nn.initializers.glorot_uniform,
    "glorot_normal": jax.nn.initializers.glorot_normal,
    "he_uniform": jax.nn.initializers.he_uniform,
    "he_normal": jax.nn.initializers.he_normal,
    "lecun_uniform": jax.nn.initializers.lecun_uniform,
    "lecun_normal": jax.nn.initializers.lecun_normal,
    "orthogonal": jax.nn.initializers.orthogonal,
    "normal": jax.nn.initializers.normal,
    "uniform": jax.nn.initializers.uniform,
    "truncated_normal": jax.nn.initializers.truncated_normal,
    "zeros": lambda: jax.nn.initializers.zeros,
    "ones": lambda: jax.nn.initializers.ones,
}

# The axes of inputs and outputs in a weight of shape (outputs, inputs, *window), for initializers that need them.
_FANS = {"in_axis": 1, "out_axis": 0}
_AXES: dict[str, dict[str, int]] = {
    "glorot_uniform": _FANS,
    "glorot_normal": _FANS,
    "he_uniform": _FANS,
    "he_normal": _FANS,
    "lecun_uniform": _FANS,
    "lecun_normal": _FANS,
    "orthogonal": {"column_axis": 0},
}


def initializer_fn(where: str, name_or_fn: str | Initializer) -> Initializer:
    """JAX's initializer of that name, or the function itself, for an array in JAX's layout."""
    if callable(name_or_fn):
        return name_or_fn
    check.one_of(where, "initializer", name_or_fn, INITIALIZERS)
    return INITIALIZERS[name_or_fn]()


def weight_initializer(where: str, name_or_fn: str | Initializer) -> Initializer:
    """An initializer for weights of shape (outputs, inputs, *window), made of one of JAX's.

    A name in `INITIALIZERS` draws in that layout. A function is called with the shape in JAX's layout, (*window, inputs, outputs),
    from which it computes the fan-in.
    """
    if callable(name_or_fn):
        own: Initializer = functools.partial(_from_jaxs_layout, name_or_fn)
    else:
        check.one_of(where, "initializer", name_or_fn, INITIALIZERS)
        own = INITIALIZERS[name_or_fn](**_AXES.get(name_or_fn, {}))

    def draw(key: jax.Array, shape: Shape, dtype: Any) -> jax.Array:
        check.random_key("init", key)
        return own(key, shape, dtype)

    return draw


def _from_jaxs_layout(initializer: Initializer, key: jax.Array, shape: Shape, dtype: Any) -> jax.Array:
    outputs, inputs, *window = shape
    return jnp.moveaxis(initializer(key, (*window, inputs, outputs), dtype), (-1, -2), (0, 1))


def compute_dtype(x: jax.Array, weight: jax.Array) -> jnp.dtype:
    """The dtype to compute in: the input's if it is floating point, else the weights'."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else weight.dtype


def product(weight: jax.Array, x: jax.Array) -> jax.Array:
    """weight @ x in x's dtype, summed in at least float32."""
    y: jax.Array = jnp.matmul(weight, x, preferred_element_type=at_least_float32(x.dtype))
    return y.astype(x.dtype)


def no_params(where: str, axes: tuple[int, ...] = (), *, step_axes: int | None = None) -> Init:
    """The `init` of a layer without parameters."""

    def init(key: jax.Array, in_shape: Shapes) -> tuple[()]:
        check_shape(where, in_shape, axes, step_axes=step_axes)
        return ()

    return init
