"""Strategies for `search`, which choose the variants to try next.

A strategy is any object with `ask(n) -> variants` and `tell(variants, values)`. Those here draw from a space, or let
Optuna's samplers draw from it. funcnet has no model-based search itself.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from funcnet import check
from funcnet.lattice import Lattice
from funcnet.spaces import Distribution, Space, Variants, Where, accepted, bare, check_where, is_accepted, sequence

_PATIENCE = 10  # rejected trials in a row after which a random one that is accepted is tried
_SHARES = (2.0**-24, 1 - 2.0**-24)  # samplers like to try the ends; for a normal distribution these are 5.3 deviations from the mean


class Strategy(Protocol):
    """An object that chooses the variants to try next.

    ask(n) -> n variants, a dict each, all with the same names.
    tell(variants, values) -> None: takes the value of each variant that ask returned, a float; NaN for one that diverged.

    A strategy that wants small or large values may say so in an attribute `mode`, "min" or "max", which `search` checks.
    """

    def ask(self, n: int, /) -> Iterable[Mapping[str, Any]]: ...

    def tell(self, variants: Sequence[Mapping[str, Any]], values: Sequence[float], /) -> None: ...


class Drawn:
    """A strategy that draws from a space and does not look at the values; made by `random` and `quasi_random`."""

    def __init__(self, space: Space, points: Callable[[int], np.ndarray], where: Where | None = None):
        self._space, self._points, self._where = space, points, where

    def ask(self, n: int) -> Variants:
        """The next n variants, n at least 1."""
        n = check.whole("ask", "n", n, 1)
        found = accepted("ask", lambda lot: self._space.at(self._points(lot)), n, self._where)
        return self._space.variants(found, self._where)

    def tell(self, variants: Sequence[Mapping[str, Any]], values: Sequence[float]) -> None:
        """Does nothing: the next draws don't depend on the values."""


def random(space: Space, *, key: jax.Array, where: Where | None = None) -> Drawn:
    """Tries variants drawn at random: the baseline for cleverer strategies.

    All calls of ask together return the variants of one `space.sample(n, key=key)`.

    Args:
      space: the space to draw from, made by `fn.space(...)`.
      key: a JAX random key for the draws.
      where: a constraint, variant -> bool, as `space.sample` takes it.

    Returns:
      A strategy: `ask(n)` goes on where the last call ended, `tell` does nothing.

    Raises:
      TypeError: space is not a space, or key is not a JAX random key.

    Example:
      >>> from funcnet.spaces import log_uniform, space
      >>> rates = space(learning_rate=log_uniform(1e-4, 1.0))
      >>> strategy = random(rates, key=jax.random.key(0))
      >>> strategy.ask(2) + strategy.ask(3) == rates.sample(5, key=jax.random.key(0))
      True

    Source: Bergstra and Bengio (2012).
    """
    _check_space("random", space)
    check.random_key("random", key)
    check_where("random", where)
    return Drawn(space, sequence("random", len(space.distributions), key), where)


def quasi_random(space: Space, *, key: jax.Array, method: str = "sobol", where: Where | None = None) -> Drawn:
    """Tries variants that cover the space more evenly than random ones, over all rounds together.

    One low-discrepancy sequence goes on from call to call: all calls of ask together return the variants of one
    `space.sample(n, key=key, method=method)`. A Sobol' sequence is most even after a power of 2 variants.

    Args:
      space: the space to draw from, made by `fn.space(...)`.
      key: a JAX random key that scrambles the sequence.
      method: "sobol" or "halton".
      where: a constraint, variant -> bool, as `space.sample` takes it.

    Returns:
      A strategy: `ask(n)` goes on where the last call ended, `tell` does nothing.

    Raises:
      ValueError: the method is unknown, or can't be continued, such as a Latin hypercube.
      TypeError: space is not a space, or key is not a JAX random key.

    Example:
      >>> from funcnet.spaces import log_uniform, space
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
    check_where("quasi_random", where)
    return Drawn(space, sequence(method, len(space.distributions), key), where)


class Asked(NamedTuple):
    """A variant that Optuna has suggested and whose value it has not been told."""

    trial: int  # its number in the study
    variant: dict[str, Any]


class OptunaStrategy:
    """A strategy that asks and tells an Optuna study; made by `optuna`.

    Attributes:
      study: the study, whose trials are the variants, in the order asked.
      mode: "min" or "max", the study's direction.
    """

    def __init__(self, library: Any, study: Any, space: Space, where: Where | None = None):
        self.study = study
        self.mode = "max" if study.direction == library.study.StudyDirection.MAXIMIZE else "min"
        self._states, self._space, self._where = library.trial.TrialState, space, where
        self._asked: list[Asked] = []

    def ask(self, n: int) -> Variants:
        """The next n variants, n at least 1, each a new trial of the study."""
        n = check.whole("ask", "n", n, 1)
        asked = []
        for _ in range(n):
            rejected = 0
            while True:
                trial = self.study.ask()
                variant = self._drawn(trial)
                if is_accepted("ask", self._where, variant):
                    break
                self.study.tell(trial, state=self._states.PRUNED)
                rejected += 1
                if rejected >= _PATIENCE:
                    self._enqueue()
            asked.append(Asked(trial.number, variant))
        self._asked += asked
        return self._space.variants((variant for _, variant in asked), self._where)

    def _drawn(self, trial: Any) -> dict[str, Any]:
        return self._space.drawn(lambda name, distribution: _suggested(trial, name, distribution))

    def _enqueue(self) -> None:
        """Lets the study try a random variant that the constraint accepts."""
        rng, trials = np.random.default_rng(len(self.study.trials)), list[_RandomTrial]()

        def draw(lot: int) -> list[dict[str, Any]]:
            trials[:] = [_RandomTrial(rng) for _ in range(lot)]
            return [self._drawn(trial) for trial in trials]

        accepted("ask", draw, 1, self._where)
        self.study.enqueue_trial(trials[-1].params)

    def tell(self, variants: Sequence[Mapping[str, Any]], values: Sequence[float]) -> None:
        """Tells the study the value of each variant; the trial of one whose value isn't finite is marked as failed.

        Args:
          variants: any that ask returned, each told once.
          values: a float for each.

        Raises:
          ValueError: there isn't one value for each variant, ask didn't return a variant, or it was told before; then none is told.
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
                self.study.tell(trial, state=self._states.FAIL)


def optuna(study: Any, space: Space, *, where: Where | None = None) -> OptunaStrategy:
    """Lets an Optuna sampler (TPE, a Gaussian process, CMA-ES) choose the variants to try next.

    Each variant is a trial of the study, with the hyperparameters as its parameters: `uniform` and `log_uniform` as floats,
    `integers` and `log_integers` as whole numbers, with their steps, `choice` and constants as categories. A hyperparameter that a
    variant doesn't have is not a parameter of its trial. If Optuna can't store the options of a choice (functions, tuples,
    distributions) or can't tell them apart (1 and True), the categories are their indices, from 0. A distribution at index 1 of the
    choice `dropout` is the parameter `dropout[1]`, which only the trials that chose it have. Any other distribution, such as
    `normal`, is a float between 0 and 1, from which the quantile function computes the value.

    As in the space, the upper end of a range is excluded: Optuna gets the next float32 below it, because samplers like to try the
    ends, and a drop rate of 1 would fail.

    Args:
      study: from `optuna.create_study(direction=..., sampler=...)`, with one objective. Its direction must suit the metric:
        "maximize" for an accuracy. It also learns from the trials that it already has.
      space: the space to draw from, made by `fn.space(...)`.
      where: a constraint, variant -> bool, as `space.sample` takes it. A variant for which it returns False is reported to the study
        as a pruned trial, and another is asked for; after ten in a row, a random one that it accepts.

    Returns:
      A strategy. Its `tell` completes the trials with their values, and marks those of diverged variants as failed.

    Raises:
      ImportError: Optuna is not installed.
      ValueError: the study has several objectives.
      TypeError: study is not a study, or space is not a space.

    Example:
      >>> import optuna as library
      >>> from funcnet.spaces import choice, log_uniform, space
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
    check_where("optuna", where)
    return OptunaStrategy(library, study, space, where)


class _RandomTrial:
    """Suggests random values, as a trial of Optuna's RandomSampler does, and records them."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self.params: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        if step is not None:
            value = low + step * float(self._rng.integers(0, round((high - low) / step), endpoint=True))
        else:
            value = math.exp(self._rng.uniform(math.log(low), math.log(high))) if log else self._rng.uniform(low, high)
        self.params[name] = min(max(float(value), low), high)
        return float(self.params[name])

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if log:
            value = min(max(round(math.exp(self._rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))), low), high)
        else:
            value = low + step * int(self._rng.integers(0, (high - low) // step, endpoint=True))
        self.params[name] = value
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.params[name] = choices[int(self._rng.integers(len(choices)))]
        return self.params[name]


def _check_space(where: str, space: Any) -> None:
    if not isinstance(space, Space):
        fix = "space(learning_rate=log_uniform(1e-4, 1)) makes one"
        raise TypeError(check.message(where, "space must be a space", type(space).__name__, fix))


def _suggested(trial: Any, name: str, distribution: Distribution) -> Any:
    """The value of one hyperparameter that a trial suggests, marked in the way that the distribution's draws are."""
    low, high, steps = distribution.low, distribution.high, distribution.lattice
    value: Any
    if steps is not None:
        if distribution.kind == "integers":
            value = int(trial.suggest_int(name, steps.low, steps.at(steps.size - 1), step=steps.step))
        else:
            first, last, step = _in_decimals(steps)
            value = steps.nearest(trial.suggest_float(name, first, last, step=step))
    elif distribution.kind in ("uniform", "log_uniform"):
        log = distribution.kind == "log_uniform"
        value = float(trial.suggest_float(name, low, _below(high, low), log=log))
    elif distribution.kind in ("integers", "log_integers"):
        value = int(trial.suggest_int(name, int(low), int(high) - 1, log=distribution.kind == "log_integers"))
    elif distribution.kind == "choice":
        categories = _categories(distribution.options)
        place = categories.index(trial.suggest_categorical(name, categories))
        option = distribution.options[place]
        value = _suggested(trial, f"{name}[{place}]", option) if isinstance(option, Distribution) else option
    else:
        value = distribution.quantile(float(trial.suggest_float(name, *_SHARES)))
    return distribution.marked(value)


def _below(high: float, low: float) -> float:
    """The last number of [low, high): in float32, as a sweep computes, unless that would cut off a visible part of the range."""
    with np.errstate(over="ignore"):
        below = float(np.nextafter(np.float32(high), np.float32(-np.inf)))
    return below if 0 < high - below <= 1e-6 * (high - low) else math.nextafter(high, low)


def _in_decimals(steps: Lattice) -> tuple[float, float, float]:
    """low, last and step for Optuna, which computes in decimals.

    If the decimals of low and step don't lead to last, as with a step of a third, both are rounded to 12 digits.
    """
    low, step, last = (Decimal(repr(number)) for number in (steps.low, steps.step, steps.at(steps.size - 1)))
    if (last - low) % step:
        digit = Decimal(1).scaleb(step.adjusted() - 11)
        low, step = ((number / digit).to_integral_value() * digit for number in (low, step))
        last = low + (steps.size - 1) * step
    return float(low), float(last), float(step)


def _categories(options: Sequence[Any]) -> list[Any]:
    """The categories for Optuna: the options if it can store them and tell them apart, else their indices."""
    values = [bare(option) for option in options]
    storable = all(value is None or type(value) in (bool, int, float, str) for value in values)
    if storable and len(set(values)) == len(values) and not any(value != value for value in values):
        return values
    return list(range(len(values)))


def _same(asked: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Whether two variants have the same values."""
    return asked.keys() == told.keys() and all(
        value is told[name] or (type(value) is type(told[name]) and bool(np.all(value == told[name]))) for name, value in asked.items()
    )
