"""The plan of a sweep: which variants share a program, and which lanes train together.

Variants are grouped by what is static; a group's rows (a row is one variant in one replicate) are cut into chunks of one
lane width. Nothing here is compiled or trained: everything a user can get wrong is found while the plan is made.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import check, inner
from funcnet.data import Split
from funcnet.space import Static, Traced, Variants
from funcnet.sweep.recent import Recent, signature
from funcnet.training import Training, as_training, check_batch_size, check_data

RESERVED = ("batch_size", "num_steps", "num_examples")  # names that belong to the sweep and may stand among the variants
# Names that the tables of the result have for themselves.
_COLUMNS = ("variant", "replicate", "status", "steps", "completed", "diverged", "unfinished")
Recipe = Callable[..., Training]


class Variant(NamedTuple):
    """One setting of the hyperparameters, taken apart."""

    hyperparameters: dict[str, Any]  # as given, without the marks static and traced
    static: dict[str, Any]  # of the recipe's, what picks a program
    traced: dict[str, float | int]  # of the recipe's, the numbers that ride in the batch
    named: dict[str, str]  # of the recipe's, the names that do
    batch_size: int | None
    num_steps: int
    num_examples: int | None


class Row(NamedTuple):
    """One run: a variant in a replicate."""

    variant: int
    replicate: int


class Group(NamedTuple):
    """Rows that share a program."""

    static: dict[str, Any]
    batch_size: int | None
    limits_examples: bool  # whether its variants see only their first num_examples examples
    rows: list[int]
    options: dict[str, tuple[str, ...]] = {}  # noqa: RUF012  # of each hyperparameter whose names ride in the batch, all of them
    step_bytes: int = 0  # what one step of one of its runs writes


class Chunk(NamedTuple):
    """Rows of a group that train together, in lanes 0, 1, ...; the lanes left over repeat the first row."""

    group: int
    rows: tuple[int, ...]
    num_steps: int


class Plan(NamedTuple):
    recipe: Recipe
    variants: list[Variant]
    rows: list[Row]
    groups: list[Group]
    eval_every: int | None


def make_plan(
    recipe: Recipe, variants: Variants, data: Split, *, num_steps: int, batch_size: int | None, eval_every: int | None, replicates: int
) -> Plan:
    """Takes the variants apart, calls the recipe once with each one's concrete values, and groups them.

    Raises:
      ValueError, TypeError: the recipe lacks a hyperparameter, objects to a value or gives no training; the data doesn't
        fit it; the message names the variant.
    """
    if not variants:
        raise ValueError(check.message("sweep", "needs at least one variant", "none", "such as grid(learning_rate=[0.1, 0.01])"))
    if eval_every is not None:
        check.whole("sweep", "eval_every", eval_every, 1)
    check.whole("sweep", "replicates", replicates, 1)
    declared = _check_signature(recipe, variants[0])
    parts = []
    for i, setting in enumerate(variants):
        where = f"sweep: variant {i} {_brief(setting)}"
        parts.append(_take_apart(where, setting, declared, num_steps, batch_size, len(data.train.y)))
    rows = [Row(variant, replicate) for variant in range(len(parts)) for replicate in range(replicates)]
    groups: dict[Any, Group] = {}
    for i, row in enumerate(rows):
        variant = parts[row.variant]
        group = groups.setdefault(_identity(variant), Group(variant.static, variant.batch_size, variant.num_examples is not None, [], {}))
        group.rows.append(i)
    for group in groups.values():
        mine = [parts[rows[row].variant].named for row in group.rows]
        group.options.update({name: tuple(sorted({named[name] for named in mine})) for name in mine[0]})
    written = _check_each(recipe, variants, parts, groups.values(), rows, data)
    measured = [group._replace(step_bytes=written[rows[group.rows[0]].variant]) for group in groups.values()]
    return Plan(recipe, parts, rows, measured, eval_every)


def chunks_of(plan: Plan, index: int, width: int, shared: bool) -> list[Chunk]:
    """A group's chunks of at most so many lanes."""
    lots = lots_of(plan, index, shared)
    return [Chunk(index, tuple(lot[i : i + width]), num_steps) for num_steps, lot in lots for i in range(0, len(lot), width)]


def lots_of(plan: Plan, index: int, shared: bool) -> list[tuple[int, list[int]]]:
    """A group's rows by what the lanes of a chunk have in common, each lot with its number of steps.

    The lanes of a chunk take the same number of steps, have the same names and, where they share it, one key.
    """

    def kind(row: int) -> tuple[Any, ...]:
        variant = plan.variants[plan.rows[row].variant]
        return variant.num_steps, *variant.named.values(), plan.rows[row].replicate if shared else 0

    rows = sorted(plan.groups[index].rows, key=lambda row: (*kind(row), row))
    return [(num_steps, list(lot)) for (num_steps, *_), lot in itertools.groupby(rows, key=kind)]


def lane_width(lots: Sequence[int], workers: int, most: int) -> int:
    """How many lanes a group's chunks have: enough chunks for all workers, few lanes left over, few widths to compile.

    Args:
      lots: how many rows there are of each kind that can train together.
      workers: how many chunks train at a time.
      most: how many lanes suit a worker.
    """
    enough = min([width for width in _WIDTHS if width * workers >= sum(lots)], default=most)
    widths = [width for width in _WIDTHS if width <= min(enough, most)]

    def time(width: int) -> float:
        chunks = sum(math.ceil(lot / width) for lot in lots)
        return math.ceil(chunks / workers) * (width + _START * most)

    return min(reversed(widths), key=time)


_START = 0.2  # what a chunk's step takes for being one, in the time of as many lanes as suit a core


def core_lanes(step_bytes: int) -> int:
    """How many lanes suit one core of a CPU.

    More lanes share the cost of starting each operation, which is a lane's part of a / lanes, and soon need more than the
    core's own cache, which costs b * lanes * step_bytes: least where lanes is as sqrt(1 / step_bytes). The constant was
    measured on nets of 30 to 50,000 weights, dense, recurrent and convolutional (experiments/bench/README.md).
    """
    wanted = math.sqrt(_CORE_BYTES / max(step_bytes, 1))
    return min((width for width in _WIDTHS if 2 <= width <= 64), key=lambda width: abs(math.log(width / wanted)))


_CORE_BYTES = 200e6
_WIDTHS: list[int] = sorted({2**i for i in range(14)} | {3 * 2**i for i in range(13)})


def shares_keys(plan: Plan, index: int, width: int, randomness: str) -> bool:
    """Whether each of a group's chunks keeps to one replicate, so that its lanes share one key and draw once.

    They do not where that would leave many lanes empty, as with one variant in a hundred replicates.
    """
    if randomness == "independent":
        return False
    apart, mixed = (len(chunks_of(plan, index, width, shared)) for shared in (True, False))
    return apart <= 1.5 * mixed


def traced_values(plan: Plan, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """The traced hyperparameters of these rows, one array of shape (rows,) each."""
    settings = [plan.variants[plan.rows[row].variant].traced for row in rows]
    return {name: np.asarray([setting[name] for setting in settings]) for name in settings[0]}


def unwrapped(value: Any) -> Any:
    return value.value if isinstance(value, Static | Traced) else value


def _check_signature(recipe: Recipe, setting: Mapping[str, Any]) -> set[str]:
    """The hyperparameters that go to the recipe; a name that it doesn't have is an error."""
    if not callable(recipe):
        raise TypeError(check.message("sweep", "recipe must be a function of hyperparameters", repr(recipe)))
    parameters = inspect.signature(recipe).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    for name in setting:
        if name in _COLUMNS:
            rule = "a hyperparameter must have a name that the result's table doesn't use itself"
            raise ValueError(check.message("sweep", rule, repr(name), "give it another"))
        if name not in names and name not in RESERVED and not takes_any:
            raise ValueError(f"sweep: recipe has no hyperparameter {name!r}; {check.nearest(name, [*names, *RESERVED])}")
    for p in parameters:
        if p.name in names and p.default is p.empty and p.name not in setting:
            raise ValueError(f"sweep: recipe needs the hyperparameter {p.name!r}, which no variant sets; give it a default or a value")
    return {name for name in setting if name in names or (takes_any and name not in RESERVED)}


def _take_apart(
    where: str, setting: Mapping[str, Any], declared: set[str], num_steps: int, batch_size: int | None, examples: int
) -> Variant:
    values = {name: _plain(where, name, value) for name, value in setting.items()}
    bare = {name: unwrapped(value) for name, value in values.items()}
    own_steps = check.whole(where, "num_steps", bare.get("num_steps", num_steps), 1)
    own_batch = bare.get("batch_size", batch_size)
    limit = bare.get("num_examples")
    if limit is not None:
        check.whole(where, "num_examples", limit, 1, examples)
    check_batch_size(where, own_batch, examples if limit is None else limit)
    mine = {name: value for name, value in values.items() if name in declared}
    rides = {name for name, value in mine.items() if _rides(name, value)}
    static = {name: unwrapped(value) for name, value in mine.items() if name not in rides}
    for name, value in static.items():
        try:
            hash(value)
        except TypeError:
            fix = "a tuple will do in place of a list or array"
            raise TypeError(check.message(where, f"{name} must be a number or something hashable", type(value).__name__, fix)) from None
    traced = {name: unwrapped(mine[name]) for name in mine if name in rides}
    named = {name: value for name, value in traced.items() if isinstance(value, str)}
    numbers = {name: value for name, value in traced.items() if name not in named}
    return Variant(bare, static, numbers, named, own_batch, own_steps, limit)


def _rides(name: str, value: Any) -> bool:
    """Whether a recipe's hyperparameter rides in the batch: floats do, and what was marked so."""
    return isinstance(value, float | Traced) or (name == "num_examples" and value is not None)


def _plain(where: str, name: str, value: Any) -> Any:
    """Arrays of shape () as Python numbers, lists as tuples; the marks static and traced stay on."""
    if isinstance(value, Static | Traced):
        inner = _plain(where, name, value.value)
        if isinstance(value, Traced):
            if isinstance(inner, bool) or not isinstance(inner, int | float | str):
                raise TypeError(check.message(where, f"traced {name} must be a number or a name", repr(inner)))
            if isinstance(inner, int) and not -(2**31) <= inner < 2**31:
                raise ValueError(check.message(where, f"traced {name} must fit in int32", inner, "a float of that size will do"))
        return type(value)(inner)
    if check.is_array(value) and np.shape(value) == ():
        return value.item()
    return tuple(_plain(where, name, entry) for entry in value) if isinstance(value, list) else value


def _identity(variant: Variant) -> tuple[Any, ...]:
    """What two variants must have in common to share a program. 1, 1.0 and True are equal, but not alike."""
    picks = tuple((name, typed(value)) for name, value in sorted(variant.static.items()))
    rides = tuple((name, isinstance(value, int)) for name, value in sorted(variant.traced.items()))
    return picks, rides, tuple(sorted(variant.named)), variant.batch_size, variant.num_examples is not None


def typed(value: Any) -> Any:
    """A hashable value together with its type, tuples entry by entry."""
    return (tuple, *map(typed, value)) if type(value) is tuple else (type(value), value)


def _check_each(recipe: Recipe, variants: Variants, parts: list[Variant], groups: Any, rows: list[Row], data: Split) -> dict[int, int]:
    """Calls the recipe with every variant's concrete values; checks each group's data and first steps by shape.

    Returns:
      For the first variant of each group, the bytes that one step of it writes.
    """
    written = {}
    first = {rows[group.rows[0]].variant for group in groups}
    for i, variant in enumerate(parts):
        try:
            with np.errstate(over="ignore"):  # of a number beyond float32, which is infinite there: its run diverges
                training = as_training("sweep", recipe(**variant.static, **variant.traced, **variant.named))
                if i in first:
                    check_data(training, data)
                    check_shapes = functools.partial(_check_shapes, training, data, variant.batch_size)
                    written[i], _ = _fitting.get((recipe, _identity(variant), signature(data), inner.trace_context()), check_shapes)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError  # some of JAX's own can't be made from a text
            raise kind(f"sweep: variant {i} {_brief(variants[i])}: {error}") from error
    return written


_fitting = Recent(1024)  # what passed _check_shapes, and what it said: a second sweep need not trace for it


def _check_shapes(training: Training, data: Split, batch_size: int | None) -> int:
    """The state must come out of a step as it went in, and every metric must be one number; gives the bytes a step writes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch_size or len(leaf), *leaf.shape[1:]), leaf.dtype), data.train)
    state = jax.eval_shape(training.init, key)
    jaxpr, result = jax.make_jaxpr(training.step, return_shape=True)(state, batch, key)
    if not isinstance(result, tuple) or len(result) != 2:
        got = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        raise TypeError(check.message("step", "must return (state, metrics), metrics a dict of scalars", got))
    after, metrics = result
    before, behind = (jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree) for tree in (state, after))
    if before != behind:
        raise TypeError(check.message("step", f"must keep the structure, shapes and dtypes of the state {before}", behind))
    values = jax.eval_shape(training.evaluate, state, data.train)
    for where, result in (("step", metrics), ("evaluate", values)):
        if not isinstance(result, Mapping) or any(getattr(value, "shape", None) != () for value in result.values()):
            raise TypeError(check.message(where, "metrics must be a dict of scalars", jax.tree.map(lambda leaf: leaf.shape, result)))
    if not values:
        raise ValueError(check.message("evaluate", "must measure something", "no metrics", 'such as {"loss": ...}'))
    return bytes_written(jaxpr.jaxpr)


# Operations that write nothing of their own.
_SHAPING = frozenset("broadcast_in_dim reshape transpose squeeze convert_element_type iota copy".split())


def bytes_written(jaxpr: Any) -> int:
    """The size of everything a program computes on its way, loops counted in full: near to its traffic with the memory."""
    total = 0
    for equation in jaxpr.eqns:
        bodies = inner.inner_jaxprs(equation)
        if bodies:
            total += equation.params.get("length", 1) * sum(map(bytes_written, bodies))
        elif equation.primitive.name not in _SHAPING:
            total += sum(out.aval.size * getattr(out.aval.dtype, "itemsize", 4) for out in equation.outvars)
    return total


def _brief(setting: Mapping[str, Any]) -> str:
    def short(value: Any) -> str:
        value = unwrapped(value)
        return f"{value:.4g}" if isinstance(value, float) else getattr(value, "__name__", repr(value))

    return "(" + ", ".join(f"{name}={short(value)}" for name, value in setting.items()) + ")"
