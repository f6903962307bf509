"""Spaces of hyperparameters, and the variants drawn from them.

A distribution is its quantile function, from [0, 1) to values: random and quasi-random sampling are then the same thing.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import check


class Static(NamedTuple):
    """A value that picks a program: variants that differ in it are compiled apart."""

    value: Any


class Traced(NamedTuple):
    """A number or a name that rides in the batch: variants that differ in it share a program."""

    value: Any


class Distribution(NamedTuple):
    """quantile(u) -> value, for u in [0, 1): the value below which a share u of the draws lie."""

    quantile: Callable[[float], Any]


def static(value: Any) -> Any:
    """Says of a float, or of a distribution of floats, that each value gets a program of its own.

    Example:
      >>> static(0.5)
      Static(value=0.5)
    """
    return Distribution(lambda u: Static(value.quantile(u))) if isinstance(value, Distribution) else Static(value)


def traced(value: Any) -> Any:
    """Says of a whole number or a name, or of a distribution or a list of them, that its values share a program.

    A number must be one that a recipe computes with; one that decides a shape or a branch can't be traced. A name must be
    an activation's or an optimizer's (sgd, momentum, adagrad, rmsprop or adam), which the recipe only hands on.

    Example:
      >>> traced(3)
      Traced(value=3)
      >>> traced(["relu", "tanh"])
      [Traced(value='relu'), Traced(value='tanh')]
    """
    if isinstance(value, Distribution):
        return Distribution(lambda u: Traced(value.quantile(u)))
    return [Traced(entry) for entry in value] if isinstance(value, list | tuple) else Traced(value)


def uniform(low: float, high: float) -> Distribution:
    """Floats, evenly spread over [low, high).

    Raises:
      ValueError: low is not below high, or one is not finite.

    Example:
      >>> uniform(0.0, 0.5).quantile(0.5)
      0.25
    """
    low, high = _bounds("uniform", low, high)
    return Distribution(lambda u: low + (high - low) * u)


def log_uniform(low: float, high: float) -> Distribution:
    """Floats whose logarithm is evenly spread: as many between 0.001 and 0.01 as between 0.01 and 0.1.

    Raises:
      ValueError: low is not positive, or not below high, or one is not finite.

    Example:
      >>> round(log_uniform(1e-4, 1e-2).quantile(0.5), 6)
      0.001
    """
    check.in_range("log_uniform", "low", low, 0, ends="()")
    low, high = map(math.log, _bounds("log_uniform", low, high))
    return Distribution(lambda u: math.exp(low + (high - low) * u))


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

    return Distribution(lambda u: mean + float(deviation) * float(ndtri(max(u, 2.0**-60))))


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
    return Distribution(lambda u: int(low) + int(u * (int(high) - int(low))))


def choice(options: Sequence[Any]) -> Distribution:
    """One of the options, each as likely.

    Raises:
      ValueError: there are none.

    Example:
      >>> choice(["relu", "tanh"]).quantile(0.6)
      'tanh'
    """
    options = _options("choice", "options", options)
    return Distribution(lambda u: options[int(u * len(options))])


class Variants(Sequence[dict[str, Any]]):
    """Hyperparameter settings, a dict each, in order; `+` joins two lots, and a list of dicts will do as one."""

    def __init__(self, settings: Iterable[Mapping[str, Any]]):
        self._settings = [dict(setting) for setting in settings]

    def __len__(self) -> int:
        return len(self._settings)

    def __getitem__(self, index: Any) -> Any:
        return Variants(self._settings[index]) if isinstance(index, slice) else self._settings[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._settings)

    def __add__(self, other: Iterable[Mapping[str, Any]]) -> "Variants":
        return Variants([*self, *as_variants("variants", other)])

    def __radd__(self, other: Iterable[Mapping[str, Any]]) -> "Variants":
        return Variants([*as_variants("variants", other), *self])

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
      TypeError: something isn't a list of values.

    Example:
      >>> list(grid(learning_rate=[0.1, 0.01], activation=["relu"]))
      [{'learning_rate': 0.1, 'activation': 'relu'}, {'learning_rate': 0.01, 'activation': 'relu'}]
    """
    options = [_options("grid", name, values) for name, values in lists.items()]
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

        Example:
          >>> variants = space(learning_rate=log_uniform(1e-4, 1.0), width=64).sample(8, key=jax.random.key(0), method="sobol")
          >>> len(variants), variants[0]["width"]
          (8, 64)

        Source: Bergstra and Bengio (2012) for random search; Sobol' (1967), Halton (1960), McKay et al. (1979).
        """
        n = check.whole("sample", "n", n, 1)
        check.one_of("sample", "method", method, ("random", "sobol", "halton", "latin_hypercube"))
        rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
        axes = len(self.distributions)
        if method == "random":
            points = rng.random((n, axes))
        else:
            from scipy.stats import qmc

            if method == "sobol":
                points = qmc.Sobol(axes, rng=rng).random_base2(math.ceil(math.log2(n)))[:n]
            else:
                points = {"halton": qmc.Halton, "latin_hypercube": qmc.LatinHypercube}[method](axes, rng=rng).random(n)
        points = np.minimum(points, np.nextafter(1.0, 0.0))
        return Variants(
            {name: distribution.quantile(float(u)) for (name, distribution), u in zip(self.distributions.items(), row, strict=True)}
            for row in points
        )


def space(**distributions: Any) -> Space:
    """A space of hyperparameters to draw variants from.

    Args:
      **distributions: for each hyperparameter a distribution, or a value that all variants share.

    Returns:
      A `Space`, whose `sample(n, key=...)` draws variants.

    Raises:
      ValueError: there are no hyperparameters.
      TypeError: a list is given, which could be meant either way.

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
                check.message(where, "every variant must name the same hyperparameters", f"{odd} in only one of variants 0 and {i}")
            )
    return Variants(settings)


def _bounds(where: str, low: float, high: float) -> tuple[float, float]:
    low, high = check.as_number(where, "low", low), check.as_number(where, "high", high)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(check.message(where, "low must be below high, both finite", f"{low:g} and {high:g}"))
    return low, high


def _options(where: str, name: str, values: Any) -> list[Any]:
    if isinstance(values, str | Mapping | Distribution) or not isinstance(values, Iterable):
        raise TypeError(check.message(where, f"{name} must be a list of values", repr(values), f"{name}=[{values!r}] is a list of one"))
    options = list(values)
    if not options:
        raise ValueError(check.message(where, f"{name} must have at least one value", "none"))
    return options
