"""Strategies for `search`: who says which variants are tried next.

A strategy is any object with `ask(n) -> variants` and `tell(variants, values)`. Those here draw from a space, or let
Optuna's samplers draw from it. A model-based search of funcnet's own there is none.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from funcnet import check
from funcnet.space import Distribution, Space, Static, Traced, Variants, generator

_SHARES = (2.0**-24, 1 - 2.0**-24)  # samplers like to try the ends: of a normal distribution they are 5.3 deviations away on either side


class Strategy(Protocol):
    """Who says which variants are tried next.

    ask(n) -> n variants, a dict each, all with the same names.
    tell(variants, values) -> None: how good the variants were that ask gave, a float each; NaN for one that diverged.

    A strategy that wants small or large values may say so in an attribute `mode`, "min" or "max", which `search` checks.
    """

    def ask(self, n: int, /) -> Iterable[Mapping[str, Any]]: ...

    def tell(self, variants: Sequence[Mapping[str, Any]], values: Sequence[float], /) -> None: ...


class _Points(Protocol):
    """Where the points of the unit cube come from, which go on from call to call."""

    def random(self, n: int) -> np.ndarray: ...


class Drawn:
    """A strategy that draws from a space and does not look at the values; made by `random` and `quasi_random`."""

    def __init__(self, space: Space, points: _Points):
        self._space, self._points = space, points

    def ask(self, n: int) -> Variants:
        """The next n variants, n at least 1."""
        n = check.whole("ask", "n", n, 1)
        # SciPy warns where the first lot of a Sobol' sequence is no power of 2: as lots go on from each other, it may be one point
        return self._space.at(np.concatenate([self._points.random(lot) for lot in (1, n - 1) if lot]))

    def tell(self, variants: Sequence[Mapping[str, Any]], values: Sequence[float]) -> None:
        """Nothing: what is drawn next doesn't depend on the values."""


def random(space: Space, *, key: jax.Array) -> Drawn:
    """Tries variants drawn at random, which is what cleverer strategies must beat.

    All asks together give what one `space.sample(n, key=key)` gives.

    Args:
      space: `fn.space(...)`, what is drawn from.
      key: decides the draws.

    Returns:
      A strategy: `ask(n)` goes on where the last one ended, `tell` does nothing.

    Raises:
      TypeError: space is no space, or key no JAX random key.

    Example:
      >>> from funcnet.space import log_uniform, space
      >>> rates = space(learning_rate=log_uniform(1e-4, 1.0))
      >>> strategy = random(rates, key=jax.random.key(0))
      >>> strategy.ask(2) + strategy.ask(3) == rates.sample(5, key=jax.random.key(0))
      True

    Source: Bergstra and Bengio (2012).
    """
    _check_space("random", space)
    check.random_key("random", key)
    return Drawn(space, _Uniform(generator(key), len(space.distributions)))


def quasi_random(space: Space, *, key: jax.Array, method: str = "sobol") -> Drawn:
    """Tries variants that cover the space more evenly than random ones, over all rounds together.

    One low-discrepancy sequence goes on from ask to ask: all asks together give what one
    `space.sample(n, key=key, method=method)` gives. A Sobol' sequence is most even after a power of 2 variants.

    Args:
      space: `fn.space(...)`, what is drawn from.
      key: decides how the sequence is scrambled.
      method: "sobol" or "halton".

    Returns:
      A strategy: `ask(n)` goes on where the last one ended, `tell` does nothing.

    Raises:
      ValueError: the method is unknown, or can't go on, as a Latin hypercube can't.
      TypeError: space is no space, or key no JAX random key.

    Example:
      >>> from funcnet.space import log_uniform, space
      >>> rates = space(learning_rate=log_uniform(1e-4, 1.0))
      >>> strategy = quasi_random(rates, key=jax.random.key(0))
      >>> strategy.ask(8) + strategy.ask(8) == rates.sample(16, key=jax.random.key(0), method="sobol")
      True

    Source: Sobol' (1967), Halton (1960); Owen (1998) for the scrambling.
    """
    _check_space("quasi_random", space)
    check.random_key("quasi_random", key)
    if method == "latin_hypercube":
        rule, fix = "method must be one that can go on", 'such as "sobol"; space.sample(n, key=key, method=...) draws one as a whole'
        raise ValueError(check.message("quasi_random", rule, repr(method), fix))
    check.one_of("quasi_random", "method", method, ("sobol", "halton"))
    from scipy.stats import qmc

    return Drawn(space, {"sobol": qmc.Sobol, "halton": qmc.Halton}[method](len(space.distributions), rng=generator(key)))


class Asked(NamedTuple):
    """A variant that Optuna was asked for and has not been told of."""

    trial: int  # its number in the study
    variant: dict[str, Any]


class OptunaStrategy:
    """A strategy that asks and tells an Optuna study; made by `optuna`.

    Attributes:
      study: the study, whose trials are the variants, in the order asked.
      mode: "min" or "max", the study's direction.
    """

    def __init__(self, library: Any, study: Any, space: Space):
        self.study = study
        self.mode = "max" if study.direction == library.study.StudyDirection.MAXIMIZE else "min"
        self._failed, self._space = library.trial.TrialState.FAIL, space
        self._asked: list[Asked] = []

    def ask(self, n: int) -> Variants:
        """The next n variants, n at least 1, each a new trial of the study."""
        n = check.whole("ask", "n", n, 1)
        asked = []
        for _ in range(n):
            trial = self.study.ask()
            asked.append(Asked(trial.number, {name: _suggested(trial, name, each) for name, each in self._space.distributions.items()}))
        self._asked += asked
        return Variants(variant for _, variant in asked)

    def tell(self, variants: Sequence[Mapping[str, Any]], values: Sequence[float]) -> None:
        """How good these variants were; the trial of one whose value isn't finite has failed.

        Args:
          variants: any that ask gave, each told once.
          values: a float for each.

        Raises:
          ValueError: there isn't one value for each variant, or ask didn't give a variant, or it was told before; nothing is told then.
        """
        if len(variants) != len(values):
            raise ValueError(check.message("tell", f"values must be one for each of the {len(variants)} variants", len(values)))
        left, told = list(self._asked), []
        for variant, value in zip(variants, values, strict=True):
            number = check.as_number("tell", "a value", value)
            place = next((i for i, asked in enumerate(left) if _same(asked.variant, variant)), None)
            if place is None:
                rule = "variants must be those that ask gave, each told once"
                raise ValueError(check.message("tell", rule, repr(variant), "study.add_trial adds what others have tried"))
            told.append((left.pop(place).trial, number))
        self._asked = left
        for trial, number in told:
            if math.isfinite(number):
                self.study.tell(trial, number)
            else:
                self.study.tell(trial, state=self._failed)


def optuna(study: Any, space: Space) -> OptunaStrategy:
    """Lets a sampler of Optuna (TPE, a Gaussian process, CMA-ES) say which variants are tried next.

    Each variant is a trial of the study, with the hyperparameters as its parameters: `uniform` and `log_uniform` as floats,
    `integers` as whole numbers, `choice` and constants as categories. Of a choice among what Optuna doesn't store
    (functions, tuples, distributions) or can't tell apart (1 and True) the categories are the options' places, from 0; a
    distribution at place 1 of the choice `dropout` is the parameter `dropout[1]`, which only trials have that chose it. Any
    other distribution, such as `normal`, is the share of its draws that lie below, a float between 0 and 1.

    As in the space, the upper end of a range is left out: Optuna is given the next float32 below it, as samplers like to
    try the ends, and a drop rate of 1 would fail.

    Args:
      study: from `optuna.create_study(direction=..., sampler=...)`, of one objective. Its direction must be the way in
        which the metric is good: "maximize" for an accuracy. Trials that it has already are taken into account.
      space: `fn.space(...)`, what is drawn from.

    Returns:
      A strategy. Its `tell` completes the trials with their values, and those of variants that diverged as failed.

    Raises:
      ImportError: Optuna is not installed.
      ValueError: the study has several objectives.
      TypeError: study is no study, or space no space.

    Example:
      >>> import optuna as library
      >>> from funcnet.space import choice, log_uniform, space
      >>> library.logging.set_verbosity(library.logging.WARNING)
      >>> study = library.create_study(sampler=library.samplers.TPESampler(seed=0))
      >>> strategy = optuna(study, space(learning_rate=log_uniform(1e-4, 1.0), activation=choice(["relu", "tanh"])))
      >>> variants = strategy.ask(4)
      >>> strategy.tell(variants, [0.3, 0.1, float("nan"), 0.2])
      >>> study.best_params == variants[1], study.trials[2].state.name
      (True, 'FAIL')

    Source: Akiba et al. (2019).
    """
    try:
        import optuna as library
    except ImportError as error:
        raise ImportError(check.needs_extra("optuna", "optuna", "optuna")) from error
    if not isinstance(study, library.Study):
        raise TypeError(check.message("optuna", "study must be an Optuna study", type(study).__name__, "optuna.create_study() makes one"))
    _check_space("optuna", space)
    if len(study.directions) != 1:
        fix = "search ranks variants by one metric"
        raise ValueError(check.message("optuna", "study must have one objective", f"{len(study.directions)} directions", fix))
    return OptunaStrategy(library, study, space)


class _Uniform(NamedTuple):
    """Random points, by the interface of SciPy's sequences."""

    rng: np.random.Generator
    axes: int

    def random(self, n: int) -> np.ndarray:
        return self.rng.random((n, self.axes))


def _check_space(where: str, space: Any) -> None:
    if not isinstance(space, Space):
        fix = "space(learning_rate=log_uniform(1e-4, 1)) makes one"
        raise TypeError(check.message(where, "space must be a space", type(space).__name__, fix))


def _suggested(trial: Any, name: str, distribution: Distribution) -> Any:
    """A trial's value of one hyperparameter, marked as the distribution's draws are."""
    low, high = distribution.low, distribution.high
    if distribution.kind in ("uniform", "log_uniform"):
        log = distribution.kind == "log_uniform"
        value: Any = float(trial.suggest_float(name, low, _below(high, low), log=log))
    elif distribution.kind == "integers":
        value = int(trial.suggest_int(name, int(low), int(high) - 1))
    elif distribution.kind == "choice":
        categories = _categories(distribution.options)
        place = categories.index(trial.suggest_categorical(name, categories))
        option = distribution.options[place]
        value = _suggested(trial, f"{name}[{place}]", option) if isinstance(option, Distribution) else option
    else:
        value = distribution.quantile(float(trial.suggest_float(name, *_SHARES)))
    return distribution.marked(value)


def _below(high: float, low: float) -> float:
    """The last number of [low, high): as a sweep computes, in float32, unless that would cut off a visible part of the range."""
    with np.errstate(over="ignore"):
        below = float(np.nextafter(np.float32(high), np.float32(-np.inf)))
    return below if 0 < high - below <= 1e-6 * (high - low) else math.nextafter(high, low)


def _categories(options: Sequence[Any]) -> list[Any]:
    """What Optuna chooses among: the options themselves where it can store them and tell them apart, else their places."""
    bare = [option.value if isinstance(option, Static | Traced) else option for option in options]
    plain = all(option is None or type(option) in (bool, int, float, str) for option in bare)
    if plain and len(set(bare)) == len(bare) and not any(option != option for option in bare):
        return bare
    return list(range(len(bare)))


def _same(asked: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Whether two variants have the same values."""
    return asked.keys() == told.keys() and all(
        value is told[name] or (type(value) is type(told[name]) and bool(np.all(value == told[name]))) for name, value in asked.items()
    )
