"""The plan of a sweep: which variants share a program, and which lanes train together.

Variants are grouped by what is static; a group's rows (a row is one variant in one replicate) are cut into chunks of one
lane width. Nothing here is compiled or trained: everything a user can get wrong is found while the plan is made.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.data import Split
from funcnet.space import Static, Traced, Variants
from funcnet.sweep.trial import Numbers, Trial, measured, state_of, try_out
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
    own: dict[str, Any] = {}  # noqa: RUF012  # the sweep's own values that the recipe asks for


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
    trial: Trial | None = None  # what its recipe computes


def trial_of(group: Group) -> Trial:
    assert group.trial is not None, "make_plan tries out every group"
    return group.trial


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
    metrics: tuple[str, ...]  # the names of what is measured, as "validation/loss"
    modes: dict[str, str]  # "min" or "max" by the last part of a metric's name, where that is known


def make_plan(
    recipe: Recipe,
    variants: Variants,
    data: Split,
    *,
    key: jax.Array,
    num_steps: int,
    batch_size: int | None,
    eval_every: int | None,
    replicates: int,
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
    declared, wants = _check_signature(recipe, variants[0])
    parts = []
    for i, setting in enumerate(variants):
        where = f"sweep: variant {i} {brief(setting)}"
        parts.append(_take_apart(where, setting, declared, wants, num_steps, batch_size, len(data.train.y)))
    rows = [Row(variant, replicate) for variant in range(len(parts)) for replicate in range(replicates)]
    groups: dict[Any, Group] = {}
    for i, row in enumerate(rows):
        variant = parts[row.variant]
        group = groups.setdefault(_identity(variant), Group(variant.static, variant.batch_size, variant.num_examples is not None, [], {}))
        group.rows.append(i)
    for group in groups.values():
        mine = [parts[rows[row].variant].named for row in group.rows]
        group.options.update({name: tuple(sorted({named[name] for named in mine})) for name in mine[0]})
    firsts = {rows[group.rows[0]].variant for group in groups.values()}
    trainings = _call_each(recipe, variants, parts, firsts)
    tried = []
    for group in groups.values():
        first = rows[group.rows[0]].variant
        trial = _named_after(variants, first, functools.partial(_try_group, recipe, trainings[first], group, parts[first], data, key))
        tried.append(group._replace(trial=trial))
    modes = {name: mode for first in sorted(firsts) for name, mode in trainings[first].modes.items()}
    return Plan(recipe, parts, rows, tried, eval_every, _metric_names(tried, data), modes)


def chunks_of(plan: Plan, index: int, width: int, shared: bool) -> list[Chunk]:
    """A group's chunks of at most so many lanes."""
    lots = lots_of(plan, index, shared)
    chunks = [Chunk(index, tuple(lot[i : i + width]), num_steps) for num_steps, lot in lots for i in range(0, len(lot), width)]
    return sorted(chunks, key=lambda chunk: plan.rows[chunk.rows[0]])  # a variant's replicates end near to each other


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


def shares_keys(plan: Plan, index: int, width: int, randomness: str, *, must: bool = False) -> bool:
    """Whether each of a group's chunks keeps to one replicate, so that its lanes share one key and draw once.

    They do not where that would leave many lanes empty, as with one variant in a hundred replicates, unless they must.
    """
    if must or randomness == "independent":
        return must
    apart, mixed = (len(chunks_of(plan, index, width, shared)) for shared in (True, False))
    return apart <= 1.5 * mixed


def key_kind(key: jax.Array) -> str:
    """The name of the generator that a key is for."""
    return str(jax.random.key_impl(key))


def one_key_for_all(key: jax.Array) -> bool:
    """Whether the lanes of a chunk must share one key: under jax.vmap the rbg generators draw from the first key alone."""
    return "rbg" in key_kind(key)


def traced_values(plan: Plan, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """The traced hyperparameters of these rows, one array of shape (rows,) each."""
    settings = [plan.variants[plan.rows[row].variant].traced for row in rows]
    return {name: np.asarray([setting[name] for setting in settings]) for name in settings[0]}


def unwrapped(value: Any) -> Any:
    return value.value if isinstance(value, Static | Traced) else value


def _check_signature(recipe: Recipe, setting: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """The hyperparameters that go to the recipe, and the sweep's own names that it declares; a name that it lacks is an error."""
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
        if p.name in names and p.default is p.empty and p.name not in setting and p.name not in RESERVED:
            raise ValueError(f"sweep: recipe needs the hyperparameter {p.name!r}, which no variant sets; give it a default or a value")
    return {name for name in setting if name in names or (takes_any and name not in RESERVED)}, {*names} & {*RESERVED}


def _take_apart(
    where: str, setting: Mapping[str, Any], declared: set[str], wants: set[str], num_steps: int, batch_size: int | None, examples: int
) -> Variant:
    values = {name: _plain(where, name, value) for name, value in setting.items()}
    bare = {name: unwrapped(value) for name, value in values.items()}
    own_steps = check.whole(where, "num_steps", bare.get("num_steps", num_steps), 1)
    own_batch = bare.get("batch_size", batch_size)
    limit = bare.get("num_examples")
    asked = {"batch_size": own_batch, "num_steps": own_steps, "num_examples": examples}
    own = {name: asked[name] for name in RESERVED if name in wants and name not in bare}
    if limit is not None:
        check.whole(where, "num_examples", limit, 1, examples)
    check_batch_size(where, own_batch, examples if limit is None else limit)
    mine = {name: value for name, value in values.items() if name in declared}
    rides = {name for name, value in mine.items() if _rides(name, value)}
    static = {name: unwrapped(value) for name, value in mine.items() if name not in rides} | own
    for name, value in static.items():
        try:
            hash(value)
        except TypeError:
            fix = "a tuple will do in place of a list or array"
            raise TypeError(check.message(where, f"{name} must be a number or something hashable", type(value).__name__, fix)) from None
    traced = {name: unwrapped(mine[name]) for name in mine if name in rides}
    named = {name: value for name, value in traced.items() if isinstance(value, str)}
    numbers = {name: value for name, value in traced.items() if name not in named}
    return Variant(bare, static, numbers, named, own_batch, own_steps, limit, own)


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


def _call_each(recipe: Recipe, variants: Variants, parts: list[Variant], firsts: set[int]) -> dict[int, Training]:
    """Calls the recipe with every variant's concrete values, so that every factory's own checks see them.

    Args:
      firsts: the first variant of each group.

    Returns:
      Their trainings.
    """
    trainings: dict[int, Training] = {}

    def call(i: int) -> None:
        variant = parts[i]
        with np.errstate(over="ignore"):  # of a number beyond float32, which is infinite there: its run diverges
            training = as_training("sweep", recipe(**variant.static, **variant.traced, **variant.named))
        if i in firsts:
            trainings[i] = training

    for i in range(len(parts)):
        _named_after(variants, i, functools.partial(call, i))
    return trainings


def _try_group(recipe: Recipe, training: Training, group: Group, first: Variant, data: Split, key: jax.Array) -> Trial:
    """The trial of a group, whose first variant's training has a look at the data itself; what it objects to goes first."""
    failed = None
    try:
        trial = _trial_or_reason(recipe, group, first, data, key)
    except Exception as error:
        failed = error
    check_data(training, data, None if failed else state_of(trial))
    if failed:
        raise failed
    return trial


def _trial_or_reason(recipe: Recipe, group: Group, first: Variant, data: Split, key: jax.Array) -> Trial:
    """The trial of a group; where the recipe looks at a number that its lanes differ in, the error names that number."""

    kind = jax.ShapeDtypeStruct((), key.dtype)

    def trial(concrete: Collection[str]) -> Trial:
        kinds = {name: jnp.int32 if isinstance(value, int) else jnp.result_type(float) for name, value in first.traced.items()}
        unknown = {name: jax.ShapeDtypeStruct((), kind) for name, kind in kinds.items() if name not in concrete}
        known = {name: first.traced[name] for name in concrete}
        meant = {name: jax.ShapeDtypeStruct((), jnp.int32) for name in group.options}
        numbers: Any = Numbers(unknown, meant)  # type: ignore[arg-type]
        return try_out(recipe, {**group.static, **known}, numbers, group.options, data, group.batch_size, group.limits_examples, kind)

    def works(concrete: Collection[str]) -> bool:
        try:
            trial(concrete)
        except Exception:
            return False
        return True

    try:
        return trial(())
    except jax.errors.UnexpectedTracerError as error:
        rule = "a state must hold arrays, and no function made from a hyperparameter"
        fix = "keep optimizers and other functions in the recipe, as flax's TrainState doesn't, or make the hyperparameter static(...)"
        raise TypeError(check.message("recipe", rule, "a traced number that left its trace", fix)) from error
    except Exception as error:
        guilty = list(first.traced)
        if not guilty or not works(guilty):
            raise
        for name in list(guilty):
            rest = [other for other in guilty if other != name]
            if works(rest):
                guilty = rest
        names = " and ".join(map(repr, guilty))
        rule = f"the recipe must not look at {names} in Python, since variants that differ in it share a program"
        got = type(error).__name__ + ("" if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError) else f": {error}")
        fix = f"static(...) gives each value of {guilty[0]} a program of its own; jax.numpy.where(...) chooses within one"
        raise TypeError(check.message("recipe", rule, got, fix)) from error


def _named_after(variants: Variants, i: int, call: Callable[[], Any]) -> Any:
    """What the call gives; whatever it raises says of which variant."""
    try:
        return call()
    except Exception as error:
        said = f"sweep: variant {i} {brief(variants[i])}: {error}"
        try:
            named = type(error)(said)
        except Exception:  # some can't be made from a text
            named = None
        if named is None or said not in str(named):
            kind = next((kind for kind in (TypeError, ValueError) if isinstance(error, kind)), None)
            if kind is None:
                error.add_note(f"sweep: variant {i} {brief(variants[i])}")
                raise
            named = kind(said)
        raise named from error


def _metric_names(groups: list[Group], data: Split) -> tuple[str, ...]:
    """The names of everything that any group measures, in the order of the table."""
    parts = [name for name, part in zip(("train", "validation"), data[:2], strict=True) if part is not None]
    found: dict[str, None] = {}
    for group in groups:
        for name in parts:
            for metric in measured(trial_of(group), getattr(data, name), limited=name == "train" and group.limits_examples):
                found[f"{name}/{metric}"] = None
    return tuple(found)


def brief(setting: Mapping[str, Any]) -> str:
    """Hyperparameters as an error shows them."""

    def short(value: Any) -> str:
        value = unwrapped(value)
        return f"{float(value):.4g}" if isinstance(value, float) else getattr(value, "__name__", repr(value))

    return "(" + ", ".join(f"{name}={short(value)}" for name, value in setting.items()) + ")"
