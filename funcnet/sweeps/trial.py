"""Traces a group's functions once before anything trains, for one lane with unknown numbers; the result is a `Trial`.

A trial says what a recipe computes. A sweep's programs are made from it and cached by it, so that a change in anything that the
recipe depends on (a global, a closure, an attribute) is noticed.
"""

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check, inner
from funcnet.data import AnyDataset, Split
from funcnet.option import Option
from funcnet.sweeps.recent import signature
from funcnet.train import UNWEIGHTED, Training, as_training, examples_seen, reports_both
from funcnet.tree import PyTree


class Arguments(NamedTuple):
    """The hyperparameters of a lane that are arguments of its program, each of shape ()."""

    numbers: dict[str, jax.Array]
    names: dict[str, jax.Array]  # int32: index into the group's values of that name


class TracedFunction(NamedTuple):
    """A traced function: a jaxpr without Python code, which takes the arrays that the function closed over as arguments."""

    jaxpr: Any  # (*constants, *arguments) -> leaves of the result
    structure: Any  # of the result


class Constants(NamedTuple):
    """The arrays that a group's functions closed over; arguments of its programs."""

    init: tuple[Any, ...]
    step: tuple[Any, ...]
    evaluate: tuple[tuple[Any, ...], ...]


class Trial(NamedTuple):
    """What a group's recipe computes in one lane. Here a state is the list of its leaves."""

    init: TracedFunction  # (arguments, key) -> state
    step: TracedFunction  # (arguments, state, batch, key) -> state, metrics
    evaluate: dict[Any, TracedFunction]  # by the signature of the data: (arguments, state, data) -> metrics
    constants: Constants
    structure: Any  # of the state
    step_bytes: int  # bytes that one step writes
    key: tuple[Any, ...]  # equal for trials that compute the same, whatever their constants
    batch_size: int | None
    limits_examples: bool  # whether a lane uses only its first num_examples examples


def try_out(
    recipe: Callable[..., Training],
    static: Mapping[str, Any],
    arguments: Arguments,
    names: Mapping[str, tuple[str, ...]],
    data: Split,
    batch_size: int | None,
    limits_examples: bool,
    key: Any,
) -> Trial:
    """Traces a recipe's functions for a lane with these arguments.

    Args:
      static: the hyperparameters that all lanes share.
      arguments: shapes and dtypes of the numbers and names.
      names: for each name, all its values in the group.
      key: shape and dtype of a lane's random keys.

    Raises:
      TypeError: a step changes the structure, shapes or dtypes of the state, or a metric isn't a scalar.
      ValueError: evaluate reports no metric. Errors of the recipe itself pass through.
    """

    def training(arguments: Arguments) -> Training:
        named = {name: Option(name, names[name], index) for name, index in arguments.names.items()}
        return as_training("sweep", recipe(**static, **arguments.numbers, **named))

    train, *others = (part for part in _shapes(data)[:2] if part is not None)
    seen = jax.eval_shape(examples_seen, train, jax.ShapeDtypeStruct((), jnp.int32)) if limits_examples else train
    batch = (
        seen if batch_size is None else jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype), train)
    )
    structure: Any = None

    def init(arguments: Arguments, key: jax.Array) -> list[Any]:
        nonlocal structure
        leaves, structure = jax.tree.flatten(training(arguments).init(key))
        return leaves

    def step(arguments: Arguments, leaves: list[Any], batch: Any, key: jax.Array) -> tuple[list[Any], dict[str, Any]]:
        before = jax.tree.unflatten(structure, leaves)
        result = training(arguments).step(before, batch, key)
        if not isinstance(result, tuple) or len(result) != 2:
            kind = "an array" if check.is_array(result) else type(result).__name__
            got = f"a tuple of {len(result)}" if isinstance(result, tuple) else kind
            raise TypeError(check.message("step", "must return (state, metrics), metrics a dict of scalars", got))
        after, metrics = result
        _check_kept(before, after)
        return jax.tree.leaves(after), _scalars("step", metrics)

    def evaluate(arguments: Arguments, leaves: list[Any], part: Any) -> dict[str, Any]:
        values = _scalars("evaluate", training(arguments).evaluate(jax.tree.unflatten(structure, leaves), part))
        if not values:
            raise ValueError(check.message("evaluate", "must measure something", "no metrics", 'such as {"loss": ...}'))
        return values

    parts = {signature(part): part for part in (seen, *others)}
    with uncollected():
        first, of_init, state = _traced(init, arguments, key)
        second, of_step, _ = _traced(step, arguments, state, batch, key)
        found = {kind: _traced(evaluate, arguments, state, part) for kind, part in parts.items()}
    evaluations = {kind: function for kind, (function, _, _) in found.items()}
    functions = [first, second, *evaluations.values()]
    return Trial(
        first,
        second,
        evaluations,
        Constants(of_init, of_step, tuple(constants for _, constants, _ in found.values())),
        structure,
        bytes_written(second.jaxpr),
        tuple(zip(inner.fingerprints([function.jaxpr for function in functions]), [f.structure for f in functions], strict=True)),
        batch_size,
        limits_examples,
    )


def unknown(numbers: Mapping[str, float | int], names: Iterable[str]) -> Arguments:
    """Shapes and dtypes of a lane's arguments.

    Args:
      numbers: those of any lane: integers become int32, others JAX's default float dtype.
      names: the hyperparameters that are names.
    """
    kinds = {name: jnp.int32 if isinstance(value, int) else jnp.result_type(float) for name, value in numbers.items()}
    shapes: Any = {name: jax.ShapeDtypeStruct((), kind) for name, kind in kinds.items()}
    return Arguments(shapes, {name: jax.ShapeDtypeStruct((), jnp.int32) for name in names})  # type: ignore[misc]


def state_of(trial: Trial) -> PyTree:
    """The shapes and dtypes of a state, in the recipe's own structure."""
    leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in inner.outputs(trial.init.jaxpr)]
    return jax.tree.unflatten(trial.structure, leaves)


def training_of(trial: Trial, constants: Constants, arguments: Arguments) -> Training:
    """The traced training of a lane with these arguments; its state is the list of leaves."""
    places = {kind: i for i, kind in enumerate(trial.evaluate)}

    def evaluate(state: list[Any], part: Any) -> dict[str, jax.Array]:
        kind = signature(part)
        metrics: dict[str, jax.Array] = _call(trial.evaluate[kind], constants.evaluate[places[kind]], arguments, state, part)
        return metrics

    return Training(
        lambda key: _call(trial.init, constants.init, arguments, key),
        lambda state, batch, key: _call(trial.step, constants.step, arguments, state, batch, key),
        evaluate,
    )


def measured(trial: Trial, part: AnyDataset, *, limited: bool) -> list[str]:
    """The names of the metrics on a part of the data; limited if a lane uses only some of its examples."""
    structure = evaluation_of(trial, part, limited=limited).structure
    names = list(jax.tree.unflatten(structure, range(structure.num_leaves)))
    return [*names, UNWEIGHTED] if reports_both(part, names) else names


def evaluation_of(trial: Trial, part: AnyDataset, *, limited: bool) -> TracedFunction:
    """The traced evaluate for a part of the data; limited if a lane uses only some of its examples."""
    shapes = _shapes(part)
    if limited:
        shapes = jax.eval_shape(examples_seen, shapes, jax.ShapeDtypeStruct((), jnp.int32))
    return trial.evaluate[signature(shapes)]


def _call(function: TracedFunction, constants: Sequence[Any], *arguments: Any) -> Any:
    return jax.tree.unflatten(function.structure, inner.eval_jaxpr(function.jaxpr, [*constants, *jax.tree.leaves(arguments)]))


def _traced(function: Callable[..., Any], *arguments: Any) -> tuple[TracedFunction, tuple[Any, ...], Any]:
    """Traces a function for arguments of these shapes; returns it, the arrays that it closed over, and its result's shapes."""
    jaxpr, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
    bare, constants = inner.without_constants(jaxpr)
    if any(isinstance(constant, inner.Tracer) for constant in constants):
        raise jax.errors.UnexpectedTracerError("a number of one function's trace is used in another function")
    return TracedFunction(bare, jax.tree.structure(result)), tuple(constants), _shapes(result)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """A `with` without garbage collection, for tracing. A trace makes some hundred thousand objects, which are all freed at its end;
    collections meanwhile would promote them to the oldest generation, and scanning that takes longer than the trace."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype), tree)


def _check_kept(before: PyTree, after: PyTree) -> None:
    """Raises unless a step has kept the structure, shapes and dtypes of the state."""

    def kinds(tree: PyTree) -> list[tuple[Any, str]]:
        return [(jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in jax.tree.leaves(tree)]

    structures: list[Any] = [jax.tree.structure(tree) for tree in (before, after)]
    if structures[0] != structures[1] or kinds(before) != kinds(after):
        rule = "must keep the structure, shapes and dtypes of the state"
        shown = [jax.tree.map(lambda leaf: (jnp.shape(leaf), str(jnp.result_type(leaf))), tree) for tree in (before, after)]
        raise TypeError(check.message("step", f"{rule} {shown[0]}", shown[1]))


def _scalars(where: str, metrics: Any) -> dict[str, Any]:
    """The metrics as a dict of scalar arrays; raises if they aren't a dict of scalars."""

    def is_scalar(value: Any) -> bool:
        return (check.is_array(value) or isinstance(value, bool | int | float)) and np.shape(value) == ()

    if not isinstance(metrics, Mapping) or not all(map(is_scalar, metrics.values())):
        got = jax.tree.map(np.shape, metrics)
        raise TypeError(check.message(where, "metrics must be a dict of scalars", got))
    return {name: jnp.asarray(value) for name, value in metrics.items()}


# Operations that write no new numbers of their own.
_SHAPING = frozenset("broadcast_in_dim reshape transpose squeeze convert_element_type iota copy".split())


def bytes_written(jaxpr: Any) -> int:
    """Bytes of all intermediate results of a program, with every iteration of loops: close to its memory traffic."""
    total = 0
    for equation in jaxpr.eqns:
        bodies = inner.inner_jaxprs(equation)
        if bodies:
            total += equation.params.get("length", 1) * sum(map(bytes_written, bodies))
        elif equation.primitive.name not in _SHAPING:
            total += sum(out.aval.size * getattr(out.aval.dtype, "itemsize", 4) for out in equation.outvars)
    return total
