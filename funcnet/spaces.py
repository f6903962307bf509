"""Spaces of hyperparameters, and the variants drawn from them.

A distribution is given by its quantile function, from [0, 1) to values, so that random and quasi-random sampling work the same way.
"""

import copy
import enum
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from funcnet import check
from funcnet.lattice import Lattice, lattice

Where: TypeAlias = Callable[[dict[str, Any]], bool]
Draw: TypeAlias = Callable[[int], Sequence[dict[str, Any]]]
_FEW, _SHARE = 10_000, 1_000  # if, after 10,000 draws, a constraint has accepted fewer than one in 1,000, that is an error


class Missing(enum.Enum):
    """The class of `MISSING`."""

    MISSING = "missing"

    def __repr__(self) -> str:
        return self.name


MISSING = Missing.MISSING  # the value of a hyperparameter that a variant doesn't have: its recipe is not given that name


@dataclass(frozen=True)
class Static:
    """A value that picks a program: variants that differ in it are compiled separately."""

    value: Any


@dataclass(frozen=True)
class Traced:
    """A number or a name that is an argument of the program: variants that differ in it share the program."""

    value: Any


@dataclass(frozen=True)
class Distribution:
    """A distribution of values: quantile(u), for u in [0, 1), is the value below which a share u of the draws lies.

    The other fields describe the same distribution to libraries that have distributions themselves.
    """

    quantile: Callable[[float], Any]
    # "uniform", "log_uniform", "normal", "integers", "log_integers" or "choice"; None if only the quantile is known
    kind: str | None = field(default=None, compare=False, repr=False)
    low: float = field(default=0.0, compare=False, repr=False)
    high: float = field(default=1.0, compare=False, repr=False)  # excluded
    options: tuple[Any, ...] = field(default=(), compare=False, repr=False)  # of a choice; an option may be a distribution
    mark: "type[Static] | type[Traced] | None" = field(default=None, compare=False, repr=False)
    lattice: Lattice | None = field(default=None, compare=False, repr=False)  # all values, if it is drawn in steps

    def marked(self, value: Any) -> Any:
        """Marks a value of this distribution in the way that its draws are marked."""
        return value if self.mark is None else _marked(self.mark, value)


@dataclass(frozen=True)
class When:
    """A distribution, a value or a list of values that only some variants have; made by `when`."""

    value: Any
    conditions: dict[str, tuple[Any, ...]]  # name of another hyperparameter -> its values for which this one exists


def static(value: Any) -> Any:
    """Marks a float, or a distribution or a list of floats, so that each value gets a separate program.

    Example:
      >>> static(0.5)
      Static(value=0.5)
      >>> grid(learning_rate=static([0.1, 0.2]))[1]
      {'learning_rate': Static(value=0.2)}
    """
    return _marked(Static, value)


def traced(value: Any) -> Any:
    """Marks a whole number or a name, or a distribution or a list of them, so that all its values share a program.

    The recipe computes with a traced number. It may also decide a shape, such as a width: all sizes then share the program of the
    largest, and smaller ones are padded with zeros. Their results are those of separate programs, up to rounding. This is tried before
    anything trains. Each size gets a separate program if the results would differ (as with a mean over units in `layer_norm`, or an
    activation that is not zero at zero), if the sweep has store= or evolve=, or if one program would take longer than compiling one for
    each size; `plan` and Python's logging say which, and why. A name must be that of an activation or an
    optimizer, and the recipe may only pass it on. None among the values stays as it is.

    Example:
      >>> traced(3)
      Traced(value=3)
      >>> traced(["relu", "tanh"])
      [Traced(value='relu'), Traced(value='tanh')]
    """
    return _marked(Traced, list(value) if isinstance(value, tuple) else value)


def uniform(low: float, high: float, *, step: float | None = None) -> Distribution:
    """Floats drawn uniformly from [low, high); with a step, from low, low + step, low + 2 step, ...

    high is excluded, with a step too, as in Python's range: uniform(0, 0.6, step=0.2) gives 0, 0.2 and 0.4. A value within a
    billionth of a step of high counts as high. Values are computed in decimals: 0.3, not 0.1 + 2 * 0.1, which is
    0.30000000000000004. The step need not divide the range.

    Args:
      low: finite.
      high: finite, above low.
      step: positive; None for all floats of the range.

    Raises:
      ValueError: low is not below high, or one is not finite; or the step is not positive, or leaves more than 2**31 values.

    Example:
      >>> uniform(0.0, 0.5).quantile(0.5)
      0.25
      >>> [uniform(0.1, 0.5, step=0.1).quantile(u) for u in (0.0, 0.25, 0.5, 0.75)]
      [0.1, 0.2, 0.3, 0.4]
    """
    low, high = _bounds("uniform", low, high)
    if step is None:
        return Distribution(lambda u: low + (high - low) * u, "uniform", low, high)
    check.in_range("uniform", "step", step, 0, ends="()")
    values = lattice("uniform", low, high, float(step))
    return Distribution(lambda u: values.at(int(u * values.size)), "uniform", low, high, lattice=values)


def log_uniform(low: float, high: float) -> Distribution:
    """Floats whose logarithm is uniform: as many between 0.001 and 0.01 as between 0.01 and 0.1.

    Raises:
      ValueError: low is not positive, or not below high, or one is not finite.

    Example:
      >>> round(log_uniform(1e-4, 1e-2).quantile(0.5), 6)
      0.001
    """
    check.in_range("log_uniform", "low", low, 0, ends="()")
    bounds = _bounds("log_uniform", low, high)
    low, high = map(math.log, bounds)
    return Distribution(lambda u: math.exp(low + (high - low) * u), "log_uniform", *bounds)


def normal(mean: float = 0.0, deviation: float = 1.0) -> Distribution:
    """Floats of a normal distribution with this mean and standard deviation.

    Raises:
      ValueError: the deviation is not positive.

    Example:
      >>> normal(2.0, 1.0).quantile(0.5)
      2.0
    """
    mean = check.as_number("normal", "mean", mean)
    check.in_range("normal", "deviation", deviation, 0, ends="()")
    from scipy.special import ndtri  # here, as in sample: SciPy takes as long to import as JAX

    return Distribution(lambda u: mean + float(deviation) * float(ndtri(max(u, 2.0**-60))), "normal", -math.inf, math.inf)


def integers(low: int, high: int, *, step: int | None = None) -> Distribution:
    """Whole numbers drawn uniformly from low to high - 1. They are static; `traced(integers(...))` makes them traced.

    Args:
      low: at least -2**31.
      high: above low, at most 2**31; excluded.
      step: at least 1, for the numbers of range(low, high, step).

    Raises:
      ValueError: low is not below high, or step below 1.
      TypeError: one isn't a whole number.

    Example:
      >>> [integers(1, 4).quantile(u) for u in (0.0, 0.5, 0.9)]
      [1, 2, 3]
      >>> [integers(16, 64, step=16).quantile(u) for u in (0.0, 0.5, 0.9)]
      [16, 32, 48]
    """
    low, high = _whole_bounds("integers", low, high, -(2**31))
    if step is None:
        return Distribution(lambda u: low + int(u * (high - low)), "integers", low, high)
    values = lattice("integers", low, high, check.whole("integers", "step", step, 1))
    return Distribution(lambda u: values.at(int(u * values.size)), "integers", low, high, lattice=values)


def log_integers(low: int, high: int) -> Distribution:
    """Whole numbers from low to high - 1 whose logarithm is uniform: about as many from 1 to 9 as from 10 to 99.

    exp(uniform(log(low - 1/2), log(high - 1/2))), rounded to the nearest whole number. So k has the probability
    log((k + 1/2) / (k - 1/2)) / log((high - 1/2) / (low - 1/2)).

    They are static; `traced(log_integers(...))` makes them traced.

    Args:
      low: at least 1.
      high: above low, at most 2**31; excluded.

    Raises:
      ValueError: low is below 1, or not below high.
      TypeError: one isn't a whole number.

    Example:
      >>> [log_integers(1, 1000).quantile(u) for u in (0.0, 0.25, 0.5, 0.75, 0.9999)]
      [1, 3, 22, 149, 999]

    Source: as Optuna's IntDistribution(low, high - 1, log=True) is sampled at random.
    """
    low, high = _whole_bounds("log_integers", low, high, 1)
    start, span = math.log(low - 0.5), math.log(high - 0.5) - math.log(low - 0.5)

    def quantile(u: float) -> int:
        return min(max(math.floor(math.exp(start + span * u) + 0.5), low), high - 1)

    return Distribution(quantile, "log_integers", low, high)


def choice(options: Sequence[Any]) -> Distribution:
    """One of the options, drawn uniformly; if it is a distribution, a draw from it.

    Raises:
      ValueError: there are no options.
      TypeError: an option is a tuple, list or dict that holds a distribution.

    Example:
      >>> choice(["relu", "tanh"]).quantile(0.6)
      'tanh'
      >>> dropout = choice([None, uniform(0, 1)])  # of half of the variants
      >>> dropout.quantile(0.2), dropout.quantile(0.75)
      (None, 0.5)
    """
    options = _options("choice", "options", options)
    for option in options:
        _check_whole("choice", "options", option)

    def quantile(u: float) -> Any:
        place, rest = divmod(u * len(options), 1.0)
        return drawn(options[int(place)], rest)

    return Distribution(quantile, "choice", options=tuple(options))


def when(value: Any, /, **conditions: Any) -> When:
    """A hyperparameter that a variant only has if another one has a certain value, such as a decay only with momentum.

    Otherwise its value is `MISSING`: the recipe is called without that name and uses its default, and the result's table says None.
    With several conditions, all must hold. A condition on a hyperparameter that is itself missing doesn't hold.

    Args:
      value: for `space` a distribution, or one value that all variants share that have it; for `grid` a list of values.
      **conditions: for the name of another hyperparameter, the value for which this one exists, or a list of such values.

    Returns:
      An object that `space` and `grid` take in place of a distribution or a list.

    Raises:
      ValueError: there is no condition, or one that lists no value.
      TypeError: the value is itself conditional, or a condition is a distribution.

    Example:
      >>> list(grid(optimizer=["sgd", "momentum"], decay=when([0.5, 0.9], optimizer="momentum")))[:2]
      [{'optimizer': 'sgd', 'decay': MISSING}, {'optimizer': 'momentum', 'decay': 0.5}]
      >>> nets = space(depth=integers(1, 4), width_3=when(integers(8, 64), depth=3), rate=log_uniform(1e-3, 1.0))
      >>> [(v["depth"], v["width_3"]) for v in nets.sample(3, key=jax.random.key(0))]
      [(3, 31), (1, MISSING), (1, MISSING)]
    """
    if isinstance(value, When):
        raise TypeError(check.message("when", "the value must not have conditions of its own", "when(...)", "give one when all of them"))
    if not conditions:
        raise ValueError(check.message("when", "needs a condition", "none", 'such as when(uniform(0.5, 1), optimizer="momentum")'))
    listed = {}
    for name, given in conditions.items():
        values = list(given) if isinstance(given, list | range) else [given]
        if not values:
            raise ValueError(check.message("when", f"{name} must have at least one value", "none"))
        for one in values:
            if isinstance(one, Distribution | When):
                raise TypeError(check.message("when", f"{name} must be a value or a list of values", "a distribution"))
        listed[name] = tuple(map(bare, values))
    return When(value, listed)


class Variants(Sequence[dict[str, Any]]):
    """A sequence of hyperparameter settings, one dict for each variant; `+` joins two of them, or one and a list of dicts.

    A hyperparameter that a variant doesn't have has the value `MISSING` in its dict.

    Attributes:
      distributions: the distributions that the settings were drawn from, by name; empty if they were not drawn.
      where: the constraint that accepted them; None if there was none, or not the same one for all.
      decisive: the hyperparameters that decide whether others exist.
    """

    def __init__(
        self,
        settings: Iterable[Mapping[str, Any]],
        distributions: Mapping[str, Distribution] | None = None,
        where: Where | None = None,
        decisive: Iterable[str] = (),
    ):
        """Copies the settings.

        Args:
          settings: a dict for each variant.
          distributions: as the attribute.
          where: as the attribute.
          decisive: as the attribute.
        """
        self._settings = [dict(setting) for setting in settings]
        self.distributions = dict(distributions or {})
        self.where, self.decisive = where, frozenset(decisive)

    def __reduce__(self) -> tuple[Any, ...]:
        return Variants, (self._settings, None, None, self.decisive)  # distributions are functions, which pickle can't hold

    def __deepcopy__(self, memo: dict[int, Any]) -> "Variants":
        return Variants(copy.deepcopy(self._settings, memo), self.distributions, self.where, self.decisive)

    def __len__(self) -> int:
        return len(self._settings)

    def __getitem__(self, index: Any) -> Any:
        return self._of(self._settings[index]) if isinstance(index, slice) else self._settings[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._settings)

    def __add__(self, other: Iterable[Mapping[str, Any]]) -> "Variants":
        joined = as_variants("variants", other)
        return self._of([*self, *joined], joined)

    def __radd__(self, other: Iterable[Mapping[str, Any]]) -> "Variants":
        joined = as_variants("variants", other)
        return self._of([*joined, *self], joined)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Variants({len(self)} of {', '.join(self._settings[0]) if self._settings else 'nothing'})"

    def _of(self, settings: Iterable[Mapping[str, Any]], other: "Variants | None" = None) -> "Variants":
        """`Variants` of these settings, with the distributions and the constraint that self and other have in common."""
        other = self if other is None else other
        where = self.where if other.where is self.where else None
        return Variants(settings, _shared(self.distributions, other.distributions), where, self.decisive | other.decisive)


def grid(*, where: Where | None = None, **lists: Any) -> Variants:
    """Every combination of the values listed; the last name varies fastest.

    Args:
      where: a constraint, variant -> bool: only combinations for which it returns True are kept. It gets a dict of the values, without
        the marks static and traced, and without the names that are missing in the variant.
      **lists: the values of each hyperparameter; `when([...], other=value)` for one that only exists with that value of another.

    Returns:
      `Variants`, as many as the product of the lengths; a hyperparameter that is missing counts as a single value.

    Raises:
      ValueError: a list is empty, the constraint accepts nothing, or a condition can't hold.
      TypeError: something isn't a list of values, or a value is or holds a distribution; or where is not a function, or doesn't return
        a bool.

    Example:
      >>> list(grid(learning_rate=[0.1, 0.01], activation=["relu"]))
      [{'learning_rate': 0.1, 'activation': 'relu'}, {'learning_rate': 0.01, 'activation': 'relu'}]
      >>> len(grid(width=[8, 64, 512], depth=[1, 2, 4, 8], where=lambda variant: variant["width"] * variant["depth"] <= 512))
      9
    """
    check_where("grid", where)
    bodies, conditions = _split("grid", lists)
    options = {name: _options("grid", name, values) for name, values in bodies.items()}
    for name, listed in options.items():
        for value in listed:
            _check_drawn("grid", name, value)
    for name, own in conditions.items():
        for parent, values in own.items():
            _check_possible("grid", name, parent, values, choice(options[parent]))
    settings = []
    for places in itertools.product(*(range(len(values)) for values in options.values())):
        place = dict(zip(options, places, strict=True))
        setting = _drawn_in(options, conditions, lambda name: options[name][place[name]])  # noqa: B023  # called here and now
        if not any(place[name] for name, value in setting.items() if value is MISSING and name in conditions):
            settings.append(setting)
    found = [setting for setting in settings if is_accepted("grid", where, setting)]
    if not found:
        raise ValueError(check.message("grid", "where must accept a variant", f"none of {len(settings)} accepted", "or leave it out"))
    return Variants(found, None, where, _decisive(conditions))


class Space(NamedTuple):
    """A distribution for each hyperparameter."""

    distributions: dict[str, Distribution]
    conditions: Mapping[str, Mapping[str, tuple[Any, ...]]] = MappingProxyType({})  # of those that not all variants have, as in `When`

    def sample(self, n: int, *, key: jax.Array, method: str = "random", where: Where | None = None) -> Variants:
        """Draws n variants.

        Args:
          n: at least 1.
          key: a JAX random key for the draws.
          method: "random", or quasi-random, which covers the space more evenly: "sobol", "halton", "latin_hypercube".
          where: a constraint, variant -> bool: a variant for which it returns False is replaced with the next one of the sequence (for
            Latin hypercubes, with one of another hypercube). It gets a dict of the values, without the marks static and traced, and
            without the names that are missing in the variant.

        Returns:
          `Variants`, n of them.

        Raises:
          ValueError: n is below 1, or the method is unknown; or the constraint accepted fewer than one in 1,000 of at least 10,000
            draws.
          TypeError: key isn't a JAX random key, or where is not a function, or doesn't return a bool.

        Example:
          >>> variants = space(learning_rate=log_uniform(1e-4, 1.0), width=64).sample(8, key=jax.random.key(0), method="sobol")
          >>> len(variants), variants[0]["width"]
          (8, 64)

        Source: Bergstra and Bengio (2012) for random search; Sobol' (1967), Halton (1960), McKay et al. (1979).
        """
        n = check.whole("sample", "n", n, 1)
        check.one_of("sample", "method", method, ("random", "sobol", "halton", "latin_hypercube"))
        check.random_key("sample", key)
        check_where("sample", where)
        points = sequence(method, len(self.distributions), key)
        return self.variants(accepted("sample", lambda lot: self.at(points(lot)), n, where), where)

    def at(self, points: np.ndarray) -> Variants:
        """The variants at points of the unit cube, shape (variants, hyperparameters): a value is its distribution's quantile there."""
        points = np.minimum(points, np.nextafter(1.0, 0.0))
        places = {name: i for i, name in enumerate(self.distributions)}
        return self.variants(
            self.drawn(lambda name, distribution: distribution.quantile(float(row[places[name]])))  # noqa: B023  # called here and now
            for row in points
        )

    def drawn(self, value_of: Callable[[str, Distribution], Any]) -> dict[str, Any]:
        """One variant, with the values that value_of returns; it is asked for each after those that decide whether it exists."""
        return _drawn_in(self.distributions, self.conditions, lambda name: value_of(name, self.distributions[name]))

    def variants(self, settings: Iterable[Mapping[str, Any]], where: Where | None = None) -> Variants:
        """`Variants` of settings drawn from this space."""
        return Variants(settings, self.distributions, where, _decisive(self.conditions))


def sequence(method: str, axes: int, key: jax.Array) -> Callable[[int], np.ndarray]:
    """A function that draws the next points of the unit cube by a method: number of points -> (points, axes)."""
    rng = generator(key)
    if method == "random":
        return lambda lot: rng.random((lot, axes))
    from scipy.stats import qmc

    points = {"sobol": qmc.Sobol, "halton": qmc.Halton, "latin_hypercube": qmc.LatinHypercube}[method](axes, rng=rng)
    if method != "sobol":
        return points.random  # type: ignore[no-any-return]
    # SciPy warns unless the first draw of a Sobol' sequence is a power of 2; draws continue each other, so the first can be one point
    return lambda lot: np.concatenate([points.random(part) for part in (1, lot - 1) if part])


def accepted(label: str, draw: Draw, n: int, where: Where | None) -> list[dict[str, Any]]:
    """The next n variants that a constraint accepts.

    Args:
      label: name of the caller, for messages.
      draw: n -> the next n variants.

    Raises:
      ValueError: fewer than one in 1,000 is accepted.
    """
    found: list[dict[str, Any]] = []
    tried = 0
    while len(found) < n:
        lot = draw(n - len(found))
        tried += len(lot)
        found += [setting for setting in lot if is_accepted(label, where, setting)]
        if len(found) < n and tried >= _FEW and len(found) * _SHARE < tried:
            rule, got = "where must accept at least one draw in 1,000", f"{len(found)} of {tried} accepted ({len(found) / tried:.3%})"
            raise ValueError(check.message(label, rule, got, "a space whose ranges are narrower needs fewer draws"))
    return found


def is_accepted(label: str, where: Where | None, setting: Mapping[str, Any]) -> bool:
    """Whether a constraint accepts a variant."""
    if where is None:
        return True
    try:
        accepts = where(plain(setting))
    except KeyError as error:
        name = error.args[0] if error.args else None
        if name in setting:
            fix = f"variant.get({name!r}) is None there"
            raise ValueError(check.message(label, "where must do without a hyperparameter that is missing", repr(name), fix)) from error
        raise ValueError(f"{label}: where asks for {name!r}, which is no hyperparameter; {check.nearest(name, setting)}") from error
    if not isinstance(accepts, bool | np.bool_):
        raise TypeError(check.message(label, "where must say True or False of a variant", repr(accepts)))
    return bool(accepts)


def plain(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that a variant has, without the marks static and traced."""
    return {name: bare(value) for name, value in setting.items() if value is not MISSING}


def bare(value: Any) -> Any:
    """A value without its mark."""
    return value.value if isinstance(value, Static | Traced) else value


def generator(key: jax.Array) -> np.random.Generator:
    """A NumPy generator, seeded by a JAX key."""
    return np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))


def space(**distributions: Any) -> Space:
    """A space of hyperparameters to draw variants from.

    Args:
      **distributions: for each hyperparameter a distribution, or a value that all variants share; `when(..., other=value)` for one that
        only exists with that value of another.

    Returns:
      A `Space`, whose `sample(n, key=...)` draws variants.

    Raises:
      ValueError: there are no hyperparameters, or a condition names one that doesn't exist, or a value that it never has.
      TypeError: a list is given, which is ambiguous, or a tuple or dict that holds a distribution.

    Example:
      >>> len(space(learning_rate=log_uniform(1e-4, 1.0), activation=choice(["relu", "tanh"])).sample(5, key=jax.random.key(0)))
      5
    """
    if not distributions:
        raise ValueError(check.message("space", "needs at least one hyperparameter", "none", "such as learning_rate=log_uniform(1e-4, 1)"))
    bodies, conditions = _split("space", distributions)
    for name, value in bodies.items():
        if isinstance(value, list | range | np.ndarray):
            raise TypeError(
                check.message("space", f"{name} must be a distribution or one value", repr(value), f"choice({value!r}) draws from a list")
            )
        _check_whole("space", name, value)
    found = {name: value if isinstance(value, Distribution) else choice([value]) for name, value in bodies.items()}
    for name, own in conditions.items():
        for parent, values in own.items():
            _check_possible("space", name, parent, values, found[parent])
    return Space(found, conditions)


def as_variants(where: str, variants: Any) -> Variants:
    """`Variants` from any list of dicts; all must name the same hyperparameters."""
    if isinstance(variants, Space):
        raise TypeError(check.message(where, "variants must be a list of dicts", "a space", "draw some with space(...).sample(n, key=...)"))
    if isinstance(variants, Mapping | str) or not isinstance(variants, Iterable):
        raise TypeError(
            check.message(where, "variants must be a list of dicts", type(variants).__name__, "such as grid(learning_rate=[0.1, 0.01])")
        )
    settings = list(variants)
    for i, setting in enumerate(settings):
        if not isinstance(setting, Mapping):
            raise TypeError(check.message(where, "every variant must be a dict", f"{setting!r} as variant {i}"))
        if setting.keys() != settings[0].keys():
            odd = ", ".join(map(repr, sorted(setting.keys() ^ settings[0].keys())))
            raise ValueError(
                check.message(
                    where,
                    "every variant must name the same hyperparameters",
                    f"{odd} in only one of variants 0 and {i}",
                    "None will do where one has no part",
                )
            )
        for name, value in setting.items():
            _check_drawn(f"{where}: variant {i}", name, value)
    return variants if isinstance(variants, Variants) else Variants(settings)


def _split(where: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, tuple[Any, ...]]]]:
    """Separates the values of each hyperparameter from its conditions, if it has some."""
    bodies = {name: value.value if isinstance(value, When) else value for name, value in given.items()}
    conditions = {name: value.conditions for name, value in given.items() if isinstance(value, When)}
    for name, own in conditions.items():
        for parent in own:
            if parent not in given:
                others = [other for other in given if other != name]
                raise ValueError(f"{where}: {name} depends on {parent!r}, which is no hyperparameter; {check.nearest(parent, others)}")
    _order(where, bodies, conditions)
    return bodies, conditions


def _order(where: str, names: Iterable[str], conditions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sorts names so that each comes after those that it depends on."""
    left, order = list(names), list[str]()
    while left:
        free = [name for name in left if not conditions.get(name, {}).keys() & set(left)]
        if not free:
            raise ValueError(check.message(where, "conditions must not go round in a circle", " and ".join(left)))
        order += free
        left = [name for name in left if name not in free]
    return order


def _drawn_in(
    names: Iterable[str], conditions: Mapping[str, Mapping[str, tuple[Any, ...]]], value_of: Callable[[str], Any]
) -> dict[str, Any]:
    """The values of one variant; value_of is asked for each after those that decide whether it exists."""
    setting = dict.fromkeys(names, MISSING)
    for name in _order("space", setting, conditions) if conditions else setting:
        if all(_is_among(setting[parent], values) for parent, values in conditions.get(name, {}).items()):
            setting[name] = value_of(name)
    return setting


def _decisive(conditions: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {parent for own in conditions.values() for parent in own}


def _is_among(value: Any, values: Iterable[Any]) -> bool:
    """Whether one of the values equals this one; True is not 1."""
    value = bare(value)
    return any(value is other or (isinstance(value, bool) == isinstance(other, bool) and bool(value == other)) for other in values)


def _check_possible(where: str, name: str, parent: str, values: Sequence[Any], distribution: Distribution) -> None:
    """Checks that a condition can hold."""
    for value in values:
        if not _is_possible(distribution, value):
            known = [bare(option) for option in distribution.options if not isinstance(option, Distribution)]
            fix = check.nearest(value, known) if known else "a condition needs whole numbers, steps or a choice"
            raise ValueError(check.message(where, f"{name} must depend on a value that {parent} can have", repr(value), fix))


def _is_possible(distribution: Distribution, value: Any) -> bool:
    """Whether a distribution can give this value with more than probability 0."""
    if distribution.kind is None:
        return True
    if distribution.kind == "choice":
        within = [option for option in distribution.options if isinstance(option, Distribution)]
        return _is_among(value, map(bare, distribution.options)) or any(_is_possible(option, value) for option in within)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return False
    if distribution.lattice is not None:
        return distribution.lattice.nearest(float(value)) == value
    whole = distribution.kind in ("integers", "log_integers")
    return whole and bool(distribution.low <= value < distribution.high and value == int(value))


def check_where(label: str, where: Any) -> None:
    """Checks that a constraint is a function, or None."""
    if where is not None and not callable(where):
        fix = 'such as lambda variant: variant["width"] < 64; no hyperparameter can have the name where'
        raise TypeError(check.message(label, "where must be a function of a variant", repr(where), fix))


def _whole_bounds(where: str, low: int, high: int, least: int) -> tuple[int, int]:
    low, high = (check.whole(where, name, value, least, 2**31) for name, value in (("low", low), ("high", high)))
    if low >= high:
        raise ValueError(check.message(where, f"low must be below high = {high}", low, "high itself is left out"))
    return low, high


def _shared(one: Mapping[str, Distribution], other: Mapping[str, Distribution]) -> dict[str, Distribution]:
    """The distributions that two `Variants` have in common."""
    return {name: distribution for name, distribution in one.items() if other.get(name) == distribution}


def _bounds(where: str, low: float, high: float) -> tuple[float, float]:
    low, high = check.as_number(where, "low", low), check.as_number(where, "high", high)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(check.message(where, "low must be below high, both finite", f"{low:g} and {high:g}"))
    return low, high


def drawn(option: Any, u: float) -> Any:
    """The value of an option at u: the quantile of a distribution; any other option is its value."""
    return option.quantile(u) if isinstance(option, Distribution) else option


def _options(where: str, name: str, values: Any) -> list[Any]:
    if isinstance(values, Static | Traced):
        inner = values.value if isinstance(values.value, tuple) else [values.value]
        return [_marked(type(values), value) for value in _options(where, name, inner)]
    if isinstance(values, str | Mapping | Distribution) or not isinstance(values, Iterable) or _is_one(values):
        raise TypeError(check.message(where, f"{name} must be a list of values", repr(values), f"{name}=[{values!r}] is a list of one"))
    options = list(values)
    if not options:
        raise ValueError(check.message(where, f"{name} must have at least one value", "none"))
    return options


def _is_one(value: Any) -> bool:
    """Whether value is an array of shape ()."""
    return check.is_array(value) and np.ndim(value) == 0


def _marked(mark: type[Static] | type[Traced], value: Any) -> Any:
    """Marks a value, each entry of a list, or each draw of a distribution; a new mark replaces an old one."""
    if isinstance(value, When):
        return replace(value, value=_marked(mark, value.value))
    if isinstance(value, Distribution):
        return replace(value, quantile=lambda u: _marked(mark, value.quantile(u)), mark=mark)
    if isinstance(value, list | range | Iterator) or (check.is_array(value) and not _is_one(value)):
        return [_marked(mark, entry) for entry in value]
    value = bare(value)
    return value if value is None or value is MISSING else mark(value)


def _check_drawn(where: str, name: str, value: Any) -> None:
    """Checks that a value is not a distribution, and doesn't hold one."""
    if isinstance(value, Distribution):
        raise TypeError(
            check.message(where, f"{name} must be a value", "a distribution", f"space({name}=...).sample(n, key=...) draws from it")
        )
    _check_whole(where, name, value)


def _check_whole(where: str, name: str, value: Any) -> None:
    """Checks that a container holds only values, neither distributions nor marks."""
    if isinstance(value, When):
        fix = f"{name}=when(...) is of a space or a grid alone"
        raise TypeError(check.message(where, f"{name} must be a value", "when(...)", fix))
    held = bare(value)
    for kind, fix in (
        (When, "give each hyperparameter a condition of its own"),
        (Distribution, "give each hyperparameter a distribution of its own"),
        (Static | Traced, "mark the whole, or a hyperparameter of its own"),
    ):
        if _holds(held, kind):
            got = "a distribution" if kind is Distribution else "when(...)" if kind is When else "a mark"
            raise TypeError(
                check.message(where, f"{name} must be marked or drawn as a whole", f"{got} inside a {type(held).__name__}", fix)
            )


def _holds(value: Any, kind: Any) -> bool:
    """Whether a container holds something of that kind, at any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, tuple | list | set | frozenset) and any(isinstance(entry, kind) or _holds(entry, kind) for entry in value)
