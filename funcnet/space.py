"""Spaces of hyperparameters, and the variants drawn from them.

A distribution is its quantile function, from [0, 1) to values: random and quasi-random sampling are then the same thing.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import check


@dataclass(frozen=True)
class Static:
    """A value that picks a program: variants that differ in it are compiled apart."""

    value: Any


@dataclass(frozen=True)
class Traced:
    """A number or a name that rides in the batch: variants that differ in it share a program."""

    value: Any


@dataclass(frozen=True)
class Distribution:
    """quantile(u) -> value, for u in [0, 1): the value below which a share u of the draws lie.

    The other fields say the same in a form that a library with distributions of its own understands.
    """

    quantile: Callable[[float], Any]
    # "uniform", "log_uniform", "normal", "integers" or "choice"; None where the quantile is all there is to know
    kind: str | None = field(default=None, compare=False, repr=False)
    low: float = field(default=0.0, compare=False, repr=False)
    high: float = field(default=1.0, compare=False, repr=False)  # left out itself
    options: tuple[Any, ...] = field(default=(), compare=False, repr=False)  # of a choice; a distribution may be one
    mark: "type[Static] | type[Traced] | None" = field(default=None, compare=False, repr=False)

    def marked(self, value: Any) -> Any:
        """A value of this distribution, marked as its own draws are."""
        return value if self.mark is None else _marked(self.mark, value)


def static(value: Any) -> Any:
    """Says of a float, or of a distribution or a list of them, that each value gets a program of its own.

    Example:
      >>> static(0.5)
      Static(value=0.5)
      >>> grid(learning_rate=static([0.1, 0.2]))[1]
      {'learning_rate': Static(value=0.2)}
    """
    return _marked(Static, value)


def traced(value: Any) -> Any:
    """Says of a whole number or a name, or of a distribution or a list of them, that its values share a program.

    A number must be one that a recipe computes with; one that decides a shape or a branch can't be traced. A name must be
    an activation's or an optimizer's (sgd, momentum, adagrad, rmsprop or adam), which the recipe only hands on. None among
    them stays as it is.

    Example:
      >>> traced(3)
      Traced(value=3)
      >>> traced(["relu", "tanh"])
      [Traced(value='relu'), Traced(value='tanh')]
    """
    return _marked(Traced, list(value) if isinstance(value, tuple) else value)


def uniform(low: float, high: float) -> Distribution:
    """Floats, evenly spread over [low, high).

    Raises:
      ValueError: low is not below high, or one is not finite.

    Example:
      >>> uniform(0.0, 0.5).quantile(0.5)
      0.25
    """
    low, high = _bounds("uniform", low, high)
    return Distribution(lambda u: low + (high - low) * u, "uniform", low, high)


def log_uniform(low: float, high: float) -> Distribution:
    """Floats whose logarithm is evenly spread: as many between 0.001 and 0.01 as between 0.01 and 0.1.

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


def integers(low: int, high: int) -> Distribution:
    """Whole numbers from low to high - 1, each as likely. Each is static, unless `traced(integers(...))` says otherwise.

    Raises:
      ValueError: low is not below high.

    Example:
      >>> [integers(1, 4).quantile(u) for u in (0.0, 0.5, 0.9)]
      [1, 2, 3]
    """
    for name, value in (("low", low), ("high", high)):
        check.whole("integers", name, value, -(2**31), 2**31)
    if low >= high:
        raise ValueError(check.message("integers", f"low must be below high = {high}", low, "high itself is left out"))
    return Distribution(lambda u: int(low) + int(u * (int(high) - int(low))), "integers", int(low), int(high))


def choice(options: Sequence[Any]) -> Distribution:
    """One of the options, each as likely; where that is a distribution itself, a draw from it.

    Raises:
      ValueError: there are none.
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


class Variants(Sequence[dict[str, Any]]):
    """Hyperparameter settings, a dict each, in order; `+` joins two lots, and a list of dicts will do as one.

    Attributes:
      distributions: what they were drawn from, by name; empty where they were not.
    """

    def __init__(self, settings: Iterable[Mapping[str, Any]], distributions: Mapping[str, Distribution] | None = None):
        """Copies the settings.

        Args:
          settings: a dict each.
          distributions: as the attribute.
        """
        self._settings = [dict(setting) for setting in settings]
        self.distributions = dict(distributions or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return Variants, (self._settings,)  # a distribution is a function, which pickle can't hold

    def __len__(self) -> int:
        return len(self._settings)

    def __getitem__(self, index: Any) -> Any:
        return Variants(self._settings[index], self.distributions) if isinstance(index, slice) else self._settings[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._settings)

    def __add__(self, other: Iterable[Mapping[str, Any]]) -> "Variants":
        joined = as_variants("variants", other)
        return Variants([*self, *joined], _shared(self.distributions, joined.distributions))

    def __radd__(self, other: Iterable[Mapping[str, Any]]) -> "Variants":
        joined = as_variants("variants", other)
        return Variants([*joined, *self], _shared(self.distributions, joined.distributions))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Variants({len(self)} of {', '.join(self._settings[0]) if self._settings else 'nothing'})"


def grid(**lists: Sequence[Any]) -> Variants:
    """Every combination of the values listed; the last name varies fastest.

    Args:
      **lists: for each hyperparameter, its values.

    Returns:
      `Variants`, as many as the product of the lengths.

    Raises:
      ValueError: a list is empty.
      TypeError: something isn't a list of values, or a value is or holds a distribution.

    Example:
      >>> list(grid(learning_rate=[0.1, 0.01], activation=["relu"]))
      [{'learning_rate': 0.1, 'activation': 'relu'}, {'learning_rate': 0.01, 'activation': 'relu'}]
    """
    options = [_options("grid", name, values) for name, values in lists.items()]
    for name, values in zip(lists, options, strict=True):
        for value in values:
            _check_drawn("grid", name, value)
    return Variants(dict(zip(lists, values, strict=True)) for values in itertools.product(*options))


class Space(NamedTuple):
    """A distribution for each hyperparameter."""

    distributions: dict[str, Distribution]

    def sample(self, n: int, *, key: jax.Array, method: str = "random") -> Variants:
        """Draws n variants.

        Args:
          n: at least 1.
          key: decides the draws.
          method: "random", or quasi-random, which covers the space more evenly: "sobol", "halton", "latin_hypercube".

        Returns:
          `Variants`, n of them.

        Raises:
          ValueError: n is below 1, or the method unknown.
          TypeError: key isn't a JAX random key.

        Example:
          >>> variants = space(learning_rate=log_uniform(1e-4, 1.0), width=64).sample(8, key=jax.random.key(0), method="sobol")
          >>> len(variants), variants[0]["width"]
          (8, 64)

        Source: Bergstra and Bengio (2012) for random search; Sobol' (1967), Halton (1960), McKay et al. (1979).
        """
        n = check.whole("sample", "n", n, 1)
        check.one_of("sample", "method", method, ("random", "sobol", "halton", "latin_hypercube"))
        check.random_key("sample", key)
        rng = generator(key)
        axes = len(self.distributions)
        if method == "random":
            points = rng.random((n, axes))
        else:
            from scipy.stats import qmc

            if method == "sobol":
                points = qmc.Sobol(axes, rng=rng).random_base2(math.ceil(math.log2(n)))[:n]
            else:
                points = {"halton": qmc.Halton, "latin_hypercube": qmc.LatinHypercube}[method](axes, rng=rng).random(n)
        return self.at(points)

    def at(self, points: np.ndarray) -> Variants:
        """The variants at points of the unit cube, of shape (variants, hyperparameters): each distribution's quantile there."""
        points = np.minimum(points, np.nextafter(1.0, 0.0))
        settings = (
            {name: distribution.quantile(float(u)) for (name, distribution), u in zip(self.distributions.items(), row, strict=True)}
            for row in points
        )
        return Variants(settings, self.distributions)


def generator(key: jax.Array) -> np.random.Generator:
    """NumPy's generator of the draws that a key decides."""
    return np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))


def space(**distributions: Any) -> Space:
    """A space of hyperparameters to draw variants from.

    Args:
      **distributions: for each hyperparameter a distribution, or a value that all variants share.

    Returns:
      A `Space`, whose `sample(n, key=...)` draws variants.

    Raises:
      ValueError: there are no hyperparameters.
      TypeError: a list is given, which could be meant either way, or a tuple or dict that holds a distribution.

    Example:
      >>> len(space(learning_rate=log_uniform(1e-4, 1.0), activation=choice(["relu", "tanh"])).sample(5, key=jax.random.key(0)))
      5
    """
    if not distributions:
        raise ValueError(check.message("space", "needs at least one hyperparameter", "none", "such as learning_rate=log_uniform(1e-4, 1)"))
    for name, value in distributions.items():
        if isinstance(value, list | range | np.ndarray):
            raise TypeError(
                check.message("space", f"{name} must be a distribution or one value", repr(value), f"choice({value!r}) draws from a list")
            )
        _check_whole("space", name, value)
    return Space({name: value if isinstance(value, Distribution) else choice([value]) for name, value in distributions.items()})


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
    return Variants(settings, variants.distributions if isinstance(variants, Variants) else None)


def _shared(one: Mapping[str, Distribution], other: Mapping[str, Distribution]) -> dict[str, Distribution]:
    """The distributions that two lots of variants were both drawn from."""
    return {name: distribution for name, distribution in one.items() if other.get(name) == distribution}


def _bounds(where: str, low: float, high: float) -> tuple[float, float]:
    low, high = check.as_number(where, "low", low), check.as_number(where, "high", high)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(check.message(where, "low must be below high, both finite", f"{low:g} and {high:g}"))
    return low, high


def drawn(option: Any, u: float) -> Any:
    """The value of an option at u: a distribution's quantile, anything else itself."""
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
    """A value, each entry of a list or each draw of a distribution, marked; the mark given last counts."""
    if isinstance(value, Distribution):
        return replace(value, quantile=lambda u: _marked(mark, value.quantile(u)), mark=mark)
    if isinstance(value, list | range | Iterator) or (check.is_array(value) and not _is_one(value)):
        return [_marked(mark, entry) for entry in value]
    bare = value.value if isinstance(value, Static | Traced) else value
    return None if bare is None else mark(bare)


def _check_drawn(where: str, name: str, value: Any) -> None:
    """A distribution is never handed on in place of a value."""
    if isinstance(value, Distribution):
        raise TypeError(
            check.message(where, f"{name} must be a value", "a distribution", f"space({name}=...).sample(n, key=...) draws from it")
        )
    _check_whole(where, name, value)


def _check_whole(where: str, name: str, value: Any) -> None:
    """A container holds values alone: neither distributions nor marks."""
    held = value.value if isinstance(value, Static | Traced) else value
    for kind, fix in (
        (Distribution, "give each hyperparameter a distribution of its own"),
        (Static | Traced, "mark the whole, or a hyperparameter of its own"),
    ):
        if _holds(held, kind):
            got = "a distribution" if kind is Distribution else "a mark"
            raise TypeError(
                check.message(where, f"{name} must be marked or drawn as a whole", f"{got} inside a {type(held).__name__}", fix)
            )


def _holds(value: Any, kind: Any) -> bool:
    """Whether a container holds something of that kind, at any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, tuple | list | set | frozenset) and any(isinstance(entry, kind) or _holds(entry, kind) for entry in value)
