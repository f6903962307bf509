"""Recurrent layers: one cell, applied step after step along a sequence."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from funcnet import check
from funcnet.activations import Activation, activation_fn
from funcnet.batching import examples_last
from funcnet.layers.layer import Initializer, Layer, Shape, apply_batch, check_shape, compute_dtype, product, weight_initializer
from funcnet.padded import agreed, checked, count, filled, is_padded, real, zeroed
from funcnet.tree import Params

_UNROLL = 8  # steps in one iteration of the loop: on a CPU an iteration costs as much as a small product


Carry: TypeAlias = tuple[jax.Array, ...]


class Cell(NamedTuple):
    """One kind of recurrent cell.

    gates: number of blocks of `width` rows in the weights.
    step(carry, from_input, from_hidden, activation) -> carry: from_input and from_hidden are the products W x and U h with their biases,
      shape (gates, width, examples); carry[0] is the output.
    carries: number of arrays in the carry, each (width, examples).
    """

    gates: int
    step: Callable[[Carry, jax.Array, jax.Array, Activation], Carry]
    carries: int


def _rnn(carry: Carry, from_input: jax.Array, from_hidden: jax.Array, activation: Activation) -> Carry:
    return (activation(from_input[0] + from_hidden[0]),)


def _gru(carry: Carry, from_input: jax.Array, from_hidden: jax.Array, activation: Activation) -> Carry:
    """Gates in the order reset, update, candidate; the reset gate acts after the product (Cho et al. 2014, v3)."""
    reset = jax.nn.sigmoid(from_input[0] + from_hidden[0])
    update = jax.nn.sigmoid(from_input[1] + from_hidden[1])
    candidate = activation(from_input[2] + reset * from_hidden[2])
    return ((1 - update) * candidate + update * carry[0],)


def _lstm(carry: Carry, from_input: jax.Array, from_hidden: jax.Array, activation: Activation) -> Carry:
    """Gates in the order input, forget, candidate, output (Hochreiter and Schmidhuber 1997; Gers et al. 2000)."""
    total = from_input + from_hidden
    enter, forget, leave = jax.nn.sigmoid(total[0]), jax.nn.sigmoid(total[1]), jax.nn.sigmoid(total[3])
    memory = forget * carry[1] + enter * activation(total[2])
    return leave * activation(memory), memory


CELLS: dict[str, Cell] = {"rnn": Cell(1, _rnn, 1), "gru": Cell(3, _gru, 1), "lstm": Cell(4, _lstm, 2)}


def recurrent(
    width: int,
    *,
    cell: str = "rnn",
    activation: str | Callable[[jax.Array], jax.Array] = "tanh",
    return_sequence: bool = False,
    initializer: str | Initializer = "glorot_uniform",
    recurrent_initializer: str | Initializer = "orthogonal",
) -> Layer:
    """Reads a sequence step by step and keeps a state of `width` numbers: h' = f(W x + U h + b).

    Args:
      width: length of the state, at least 1.
      cell: "rnn" (the equation above), "gru" or "lstm".
      activation: the f of an rnn, or the function of a GRU's or LSTM's candidate; gates are sigmoids.
      return_sequence: True returns the state after every step, False only after the last.
      initializer: of the input weight W, by name or function; the biases start at zero.
      recurrent_initializer: of the recurrent weight U of each gate.

    Returns:
      A `Layer`, (time, inputs) -> (width,) or (time, width), with params {"input": (gates * width, inputs),
      "recurrent": (gates * width, width), "bias": (gates * width,), "recurrent_bias": (gates * width,)}. For a `Padded` it returns the
      state after the last real step, or with return_sequence a `Padded`.

    Raises:
      ValueError: width is below 1, a name is unknown, or x has another shape than init was given.

    Example:
      >>> layer = recurrent(4, cell="gru")
      >>> params = layer.init(jax.random.key(0), (7, 2))
      >>> layer.apply(params, jnp.ones((7, 2))).shape
      (4,)

      A stack of them is a `serial`, in which all but the last return their sequence:

      >>> from funcnet.layers import serial
      >>> stack = serial(recurrent(8, cell="gru", return_sequence=True), recurrent(4, cell="gru"))
      >>> stack.apply(stack.init(jax.random.key(0), (7, 2)), jnp.ones((7, 2))).shape
      (4,)

    Source: Elman (1990); Cho et al. (2014); Hochreiter and Schmidhuber (1997).
    """
    width = check.whole("recurrent", "width", width, 1)
    check.one_of("recurrent", "cell", cell, CELLS)
    gates, step, carries = CELLS[cell]
    fn = activation_fn(activation, "recurrent")
    draw_input = weight_initializer("recurrent", initializer)
    draw_recurrent = weight_initializer("recurrent", recurrent_initializer)

    def init(key: jax.Array, in_shape: Shape) -> Params:
        _, inputs = check_shape("recurrent", in_shape, (2,), step_axes=1)
        check.random_key("init", key)
        input_key, recurrent_key = jax.random.split(key)
        dtype = jnp.result_type(float)

        def each_gate(draw: Initializer, key: jax.Array, inputs: int) -> jax.Array:
            return jnp.concatenate([draw(key, (width, inputs), dtype) for key in jax.random.split(key, gates)])

        weight = each_gate(draw_input, input_key, inputs)
        bias = jnp.zeros(gates * width, weight.dtype)
        return {"input": weight, "recurrent": each_gate(draw_recurrent, recurrent_key, width), "bias": bias, "recurrent_bias": bias}

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: Any, *, key: jax.Array | None = None) -> Any:
        if not is_padded(x):
            return read(params, x, None)
        x = checked("recurrent", x)
        y = read(params, filled(x), real(x).reshape(len(x.values), 1, -1))
        return zeroed(y, x) if return_sequence else y

    def read(params: Params, x: jax.Array, inside: jax.Array | None) -> jax.Array:
        """Runs the cell over arrays; where inside, shape (time, 1, examples), is False, the state stays the same."""
        inputs = params["input"].shape[1]
        if x.ndim != 3 or x.shape[1] != inputs:
            fix = "for a batch, use jax.vmap" if x.ndim == 4 else "time comes first"
            raise ValueError(check.message("recurrent", f"x must have shape (time, {inputs})", x.shape[:-1], fix))
        dtype = compute_dtype(x, params["input"])
        weights = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        steps, _, examples = x.shape
        split = (gates, width, examples)

        def one_step(carry: Carry, step_input: tuple[jax.Array, jax.Array | None]) -> tuple[Carry, Any]:
            x, here = step_input
            before = carry
            if here is not None:  # padding repeats the first step from the initial state, so it is as finite as that was
                carry = tuple(jnp.where(here, one, zero) for one, zero in zip(carry, start, strict=True))
            from_input = product(weights["input"], x) + weights["bias"][:, None]
            from_hidden = product(weights["recurrent"], carry[0]) + weights["recurrent_bias"][:, None]
            carry = step(carry, from_input.reshape(split), from_hidden.reshape(split), fn)
            if here is not None:
                carry = tuple(jnp.where(here, new, old) for new, old in zip(carry, before, strict=True))
            return carry, carry[0] if return_sequence else None

        start = (jnp.zeros((width, examples), dtype),) * carries
        carry, sequence = jax.lax.scan(one_step, start, (x.astype(dtype), inside), unroll=min(steps, _UNROLL))
        return sequence if return_sequence else carry[0]

    return Layer(init, apply)


def bidirectional(layer: Layer) -> Layer:
    """Applies a layer to a sequence and a second copy of it to the reversed sequence, and joins the outputs.

    The two copies have different weights. If the outputs are sequences, the second is reversed again, so that both halves of an entry
    belong to the same step; otherwise both halves are of the whole sequence.

    Args:
      layer: (time, inputs) -> (time, width) or (width,), such as `recurrent`.

    Returns:
      A `Layer`, (time, inputs) -> (time, 2 * width) or (2 * width,), with params {"forward": the layer's, "backward": the same}.
      Each sequence of a `Padded` is reversed within its length. Stack such layers as in `recurrent`.

    Raises:
      ValueError: the layer doesn't fit its input, or its output has another shape.

    Example:
      >>> from funcnet.layers import serial
      >>> both = bidirectional(recurrent(4, cell="lstm", return_sequence=True))
      >>> stack = serial(both, bidirectional(recurrent(4, cell="lstm")))
      >>> stack.apply(stack.init(jax.random.key(0), (7, 2)), jnp.ones((7, 2))).shape
      (8,)

    Source: Schuster and Paliwal (1997).
    """
    check.callables("bidirectional", layer, ("init", "apply"), "wrap a Layer such as recurrent(10)")

    def init(key: jax.Array, in_shape: Shape) -> Params:
        check_shape("bidirectional", in_shape, (2,), step_axes=1)
        check.random_key("init", key)
        forward, backward = jax.random.split(key)
        return {"forward": layer.init(forward, in_shape), "backward": layer.init(backward, in_shape)}

    @examples_last(argnums=(1,), padded=True)
    def apply(params: Params, x: Any, *, key: jax.Array | None = None) -> Any:
        x = checked("bidirectional", x) if is_padded(x) else x
        keys = (None, None) if key is None else jax.random.split(key)
        forward: Any = apply_batch(layer, params["forward"], x, key=keys[0])
        backward: Any = apply_batch(layer, params["backward"], _reversed(x), key=keys[1])
        if is_padded(forward):
            _check_part(forward.values)
            return agreed("bidirectional", [forward, backward], jnp.concatenate([forward.values, _reversed(backward).values], -2))
        _check_part(forward)
        if forward.ndim == 3:
            backward = _reversed(backward)
        return jnp.concatenate([forward, backward], -2)

    return Layer(init, apply)


def _reversed(x: Any) -> Any:
    """A batch of sequences in reverse order; those of a `Padded` are reversed within their lengths."""
    if not is_padded(x):
        return jnp.flip(x, 0)
    steps, values = count(x), filled(x)
    place = steps[None] - 1 - jax.lax.broadcasted_iota(jnp.int32, (len(values), len(steps)), 0)
    place = jnp.where(place < 0, 0, place).reshape(len(values), *(1,) * (values.ndim - 2), -1)
    return zeroed(jnp.take_along_axis(values, place, 0), x)


def _check_part(y: jax.Array) -> None:
    if y.ndim not in (2, 3):
        got = f"shape {y.shape[:-1]}"
        raise ValueError(check.message("bidirectional", "the layer must give (time, width) or (width,)", got))
