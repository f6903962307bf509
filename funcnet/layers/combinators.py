"""Layers made of other layers: in sequence, in parallel, or around one layer."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.activations import activation_fn
from funcnet.batching import examples_last
from funcnet.layers.affine import dense
from funcnet.layers.layer import Initializer, Layer, Shape, Shapes, apply_batch, as_shapes, check_shape, no_params, one_example, shape_of
from funcnet.layers.noise import dropout
from funcnet.layers.steps import each_step
from funcnet.padded import agreed, filled, is_padded, zeroed
from funcnet.tree import Params, Scalar


def activation(name_or_fn: str | Callable[[jax.Array], jax.Array]) -> Layer:
    """An activation function as a layer.

    Args:
      name_or_fn: a name in `ACTIVATIONS`, or a function that passes `check_activation`.

    Returns:
      A `Layer` without parameters that keeps its input's shape. It also takes a `Padded`.

    Raises:
      ValueError: the name is unknown, or the function doesn't pass the check.

    Example:
      >>> print(activation("relu").apply((), jnp.array([-1.0, 2.0])))
      [0. 2.]
    """
    fn = activation_fn(name_or_fn)

    @each_step("activation")
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return fn(x)

    return Layer(no_params("activation", step_axes=0), apply)


def serial(*layers: Layer) -> Layer:
    """Applies layers one after the other.

    Args:
      *layers: each takes the output of the one before it; no layers at all make the identity.

    Returns:
      A `Layer` whose params are the list of the layers' params.

    Raises:
      ValueError: a layer doesn't fit its input; the message says which, counted from 0.

    Example:
      >>> model = serial(dense(8), activation("relu"), dense(2))
      >>> params = model.init(jax.random.key(0), (3,))
      >>> model.apply(params, jnp.ones(3)).shape
      (2,)
    """
    _check_layers("serial", layers)

    def init(key: jax.Array, in_shape: Shape) -> Params:
        check.random_key("init", key)
        shape, params = as_shapes("serial", in_shape), []
        for i, layer in enumerate(layers):
            own, shape = _init_and_shape("serial", i, layer, jax.random.fold_in(key, i), shape)
            params.append(own)
        return params

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        _check_count("serial", params, layers)
        for i, (layer, own) in enumerate(zip(layers, params, strict=True)):
            x = _apply_one("serial", i, layer, own, x, None if key is None else jax.random.fold_in(key, i))
        return x

    return Layer(init, apply)


def parallel(*layers: Layer) -> Layer:
    """Applies several layers to the same input and joins their outputs along the first axis (features or channels).

    Outputs that are a `Padded` are joined along the last axis, the features of each step.

    Args:
      *layers: at least one; their outputs agree in all axes but the first.

    Returns:
      A `Layer` whose params are the list of the layers' params.

    Raises:
      ValueError: there is no layer, or one doesn't fit the input; the message says which, counted from 0.

    Example:
      >>> both = parallel(dense(3), serial(dense(8), activation("tanh")))
      >>> both.apply(both.init(jax.random.key(0), (5,)), jnp.ones(5)).shape
      (11,)
    """
    _check_layers("parallel", layers)
    if not layers:
        raise ValueError(check.message("parallel", "needs at least one layer", 0))

    def init(key: jax.Array, in_shape: Shape) -> Params:
        check.random_key("init", key)
        in_shape = as_shapes("parallel", in_shape) if is_padded(in_shape) else check_shape("parallel", in_shape)
        keys = [jax.random.fold_in(key, i) for i in range(len(layers))]
        own, shapes = zip(*(_init_and_shape("parallel", i, layer, keys[i], in_shape) for i, layer in enumerate(layers)), strict=True)
        _check_join("parallel", shapes)
        return list(own)

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: Any, *, key: jax.Array | None = None) -> Any:
        _check_count("parallel", params, layers)
        keys = [None if key is None else jax.random.fold_in(key, i) for i in range(len(layers))]
        each = enumerate(zip(layers, params, keys, strict=True))
        return _joined("parallel", [_apply_one("parallel", i, layer, own, x, key) for i, (layer, own, key) in each])

    return Layer(init, apply)


def branches(*layers: Layer, **named: Layer) -> Layer:
    """Applies one layer to each of several inputs and joins the outputs along the first axis (features or channels).

    Outputs that are a `Padded` are joined along the last axis, the features of each step. Their lengths must be equal; if traced lengths
    of an example differ, its values are NaN.

    Args:
      *layers: for inputs in a tuple; or
      **named: for inputs in a dict, by their names. Their outputs agree in all axes but the first.

    Returns:
      A `Layer` on a tuple or dict of arrays, whose params are the list or the dict of the layers' params.

    Raises:
      TypeError, ValueError: there are no layers, or layers of both kinds; the inputs are not those that the layers are for; or a layer
        doesn't fit its input, and the message says which.

    Example:
      >>> from funcnet.layers import flatten
      >>> both = serial(branches(image=flatten(), age=dense(4)), dense(2))
      >>> params = both.init(jax.random.key(0), {"image": (1, 8, 8), "age": (1,)})
      >>> both.apply(params, {"image": jnp.ones((1, 8, 8)), "age": jnp.ones(1)}).shape
      (2,)
    """
    own: dict[Any, Layer] = named or dict(enumerate(layers))
    _check_layers("branches", [*layers, *named.values()])
    if bool(layers) == bool(named):
        raise ValueError(check.message("branches", "needs layers, either in order or by name", "both" if layers else "none"))

    def each(what: str, inputs: Any) -> dict[Any, Any]:
        """The inputs, or their shapes or params, by the names of their layers."""
        found = dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(inputs)) if isinstance(inputs, tuple | list) else None
        if found is None or found.keys() != own.keys():
            rule = f"{what} must be a {'dict' if named else 'tuple'} with one entry for each of {', '.join(map(str, own))}"
            got = type(inputs).__name__ if found is None else f"{', '.join(map(str, found))}"
            raise (TypeError if found is None else ValueError)(check.message("branches", rule, got))
        return found

    def init(key: jax.Array, in_shape: Shapes) -> Params:
        check.random_key("init", key)
        shapes = each("in_shape", as_shapes("branches", in_shape))
        keys = dict(zip(own, jax.random.split(key, len(own)), strict=True))
        found = {name: _init_and_shape("branches", name, layer, keys[name], shapes[name]) for name, layer in own.items()}
        _check_join("branches", [shape for _, shape in found.values()])
        return {name: params for name, (params, _) in found.items()} if named else [params for params, _ in found.values()]

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: Any, *, key: jax.Array | None = None) -> Any:
        inputs, theirs = each("x", x), each("params", params)
        keys = dict(zip(own, [None] * len(own) if key is None else jax.random.split(key, len(own)), strict=True))
        return _joined("branches", [_apply_one("branches", name, own[name], theirs[name], inputs[name], keys[name]) for name in own])

    return Layer(init, apply)


def residual(layer: Layer) -> Layer:
    """Adds a layer's output to its input: y = x + layer(x).

    Args:
      layer: a `Layer` whose output has the shape of its input.

    Returns:
      A `Layer` with the params of the layer it wraps.

    Raises:
      ValueError: the layer changes the shape.

    Example:
      >>> block = residual(dense(2, initializer="zeros"))
      >>> print(block.apply(block.init(jax.random.key(0), (2,)), jnp.array([1.0, 2.0])))
      [1. 2.]

    Source: He et al. (2016).
    """
    _check_layers("residual", [layer])

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: Any, *, key: jax.Array | None = None) -> Any:
        y: Any = apply_batch(layer, params, x, key=key)
        if is_padded(x) and is_padded(y):
            return agreed("residual", [x, y], zeroed(added(filled(x), y.values), x).values)
        if is_padded(x) or is_padded(y):
            raise TypeError(
                check.message("residual", "the layer must give a Padded for a Padded", f"{type(y).__name__} for {type(x).__name__}")
            )
        return added(x, y)

    def added(x: jax.Array, y: jax.Array) -> jax.Array:
        if y.shape != x.shape:
            raise ValueError(check.message("residual", f"the layer must keep the shape {x.shape[:-1]}", y.shape[:-1]))
        if not check.is_floating(x) and not check.is_floating(y):
            x, y = (part.astype(jnp.result_type(float)) for part in (x, y))  # a sum of two int8 may overflow int8
        return x + y

    return Layer(lambda key, in_shape: layer.init(key, in_shape), apply)


def mlp(
    widths: Sequence[int],
    activation: str | Callable[[jax.Array], jax.Array] = "relu",
    dropout: Scalar = 0.0,
    *,
    initializer: str | Initializer = "glorot_uniform",
) -> Layer:
    """A multilayer perceptron: dense layers, with an activation and then dropout after each hidden one.

    Args:
      widths: of every dense layer, the output last: (64, 10) has one hidden layer.
      activation: of the hidden layers, by name or function; the output has none.
      dropout: shape (), share of the hidden neurons dropped, in [0, 1); may be traced.
      initializer: of the weights.

    Returns:
      A `Layer`, (inputs,) -> (widths[-1],).

    Raises:
      ValueError: there are no widths, one is below 1, the activation is unknown, or dropout is out of range.

    Example:
      >>> model = mlp((64, 10), "relu", dropout=0.2)
      >>> params = model.init(jax.random.key(0), (64,))
      >>> model.apply(params, jnp.ones(64)).shape
      (10,)
    """
    if not isinstance(widths, Sequence) or isinstance(widths, str):
        raise TypeError(check.message("mlp", "widths must be a sequence of whole numbers", repr(widths), "such as (64, 10)"))
    if not widths:
        raise ValueError(check.message("mlp", "widths must name at least the output", repr(widths), "such as (64, 10)"))
    *hidden, outputs = [check.whole("mlp", "every width", width, 1) for width in widths]
    check.in_range("mlp", "dropout", dropout, 0, 1)
    bend = _activation(activation)
    blocks = [(dense(width, initializer=initializer), bend, _dropout(dropout)) for width in hidden]
    return serial(*(layer for block in blocks for layer in block), dense(outputs, initializer=initializer))


# mlp's arguments hide the functions of these names.
_activation = activation
_dropout = dropout


def _check_layers(where: str, layers: Sequence[Layer]) -> None:
    for i, layer in enumerate(layers):
        check.callables(f"{where}: layer {i}", layer, ("init", "apply"), "a layer is made by a call, such as flatten()")


def _check_count(where: str, params: Params, layers: Sequence[Layer]) -> None:
    if len(params) != len(layers):
        raise ValueError(check.message(where, f"params must hold one entry for each of the {len(layers)} layers", len(params)))


def _joined(where: str, outputs: Sequence[Any]) -> Any:
    """The outputs of several layers for a batch, joined."""
    _check_join(where, list(map(shape_of, outputs)))
    if is_padded(outputs[0]):
        return agreed(where, outputs, jnp.concatenate([y.values for y in outputs], -2))
    return jnp.concatenate(outputs)


def _check_join(where: str, shapes: Sequence[Shapes]) -> None:
    if any(map(is_padded, shapes)):
        if not all(map(is_padded, shapes)):
            fix = "recurrent(...) and global_avg_pool() make one vector of a sequence"
            raise TypeError(check.message(where, "outputs must be all arrays, or all a Padded", f"shapes {shapes}", fix))
        if len({shape.values[:-1] for shape in shapes}) > 1 or not all(len(shape.values) > 1 for shape in shapes):
            raise ValueError(check.message(where, "outputs that are a Padded must agree in all axes but the last", f"shapes {shapes}"))
        return
    if len({shape[1:] for shape in shapes}) > 1 or not all(shapes):
        raise ValueError(check.message(where, "outputs must agree in all axes but the first", f"shapes {shapes}"))


def _init_and_shape(where: str, i: int | str, layer: Layer, key: jax.Array, in_shape: Shapes) -> tuple[Params, Shapes]:
    """One layer's params and output shape; an error in it is raised with its position."""
    try:
        params = layer.init(key, in_shape)
        apply = functools.partial(apply_batch, layer)
        try:
            return params, shape_of(jax.eval_shape(apply, params, one_example(in_shape)))
        except (TypeError, ValueError) as error:
            try:  # an embedding takes whole numbers
                return params, shape_of(jax.eval_shape(apply, params, one_example(in_shape, jnp.int32)))
            except (TypeError, ValueError):
                raise error from None  # the error for floats, which layers usually take
    except (TypeError, ValueError) as error:
        raise _misfit(where, i, in_shape, error) from error


def _apply_one(where: str, i: int | str, layer: Layer, params: Params, x: Any, key: jax.Array | None) -> jax.Array:
    try:
        return apply_batch(layer, params, x, key=key)
    except (TypeError, ValueError) as error:
        raise _misfit(where, i, jax.tree.map(lambda leaf: leaf.shape[:-1], x), error) from error


def _misfit(where: str, i: int | str, in_shape: Shapes, error: Exception) -> Exception:
    kind = TypeError if isinstance(error, TypeError) else ValueError  # a subclass, such as JAX's own, may not take a message
    return kind(f"{where}: layer {i} does not fit its input of shape {in_shape}: {error}")
