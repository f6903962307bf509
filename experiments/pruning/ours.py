"""funcnet on the problem: the whole sweep, and sweeps with each rule that stops variants."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

import funcnet as fn
from experiments.pruning.problem import BATCH_SIZE, CLASSES, DROPOUT, ETA, L2, LEARNING_RATE, WIDTH, Problem, points
from funcnet import prune

WHOLE = "none"
METRIC = "validation/accuracy"


class Run(NamedTuple):
    """One sweep of one seed."""

    validation: float  # accuracy of the best variant, in points
    test: float  # accuracy of the same variant, in points
    seconds: float  # from the call to the result
    steps: float  # steps taken, as a share of the whole sweep's
    programs: int  # compiled during the sweep: none if it was warm


def recipe(learning_rate: float, l2: float, dropout: float) -> fn.Training:
    return fn.training(
        fn.mlp((WIDTH, CLASSES), "relu", dropout),
        fn.cross_entropy,
        fn.adam(learning_rate),
        in_shape=(64,),
        penalty=fn.l2(l2),
        metrics=["accuracy"],
    )


def rules(problem: Problem) -> dict[str, tuple[fn.Policy | None, int | None]]:
    """Each rule and the number of steps between its evaluations; None if the rule itself decides when to evaluate.

    Rules that decide at every evaluation first do so at three times the steps of the first rung: they stop most variants at once.
    """
    first = problem.first
    return {
        WHOLE: (None, None),
        "patience": (prune.patience(4), ETA * first),
        "median": (prune.median(), ETA * first),
        "percentile": (prune.percentile(0.25), ETA * first),
        "successive_halving": (prune.successive_halving(first, ETA), None),
        "hyperband": (prune.hyperband(problem.first_of("hyperband"), ETA), None),
        "asha": (prune.asha(first, ETA), None),
    }


RULES = (WHOLE, "patience", "median", "percentile", "successive_halving", "hyperband", "asha")


def variants(problem: Problem, turn: int = 0) -> fn.Variants:
    """The variants of a turn, the same for every rule; each further sweep (turn) draws others."""
    space = fn.space(learning_rate=fn.log_uniform(*LEARNING_RATE), l2=fn.log_uniform(*L2), dropout=fn.uniform(*DROPOUT))
    return space.sample(problem.variants, key=_key(problem, turn, 0), method="sobol")


def swept(problem: Problem, rule: str, turn: int = 0) -> fn.SweepResult:
    """One sweep, ranked by the accuracy at each variant's end."""
    policy, eval_every = rules(problem)[rule]
    return fn.sweep(
        recipe,
        variants(problem, turn),
        fn.Split(fn.Dataset(*problem.train), fn.Dataset(*problem.validation), None),
        key=_key(problem, turn, 1),
        num_steps=problem.num_steps,
        batch_size=BATCH_SIZE,
        eval_every=eval_every,
        metric=METRIC,
        prune=policy,
        progress=False,
    )


def measured(problem: Problem, rule: str) -> Run:
    """Times a sweep; the test accuracy is computed after the clock has stopped."""
    began = time.perf_counter()
    result = swept(problem, rule)
    seconds = time.perf_counter() - began
    best = result.best()
    return Run(
        points(best.metrics[METRIC]),
        points(result.evaluate(best.row, fn.Dataset(*problem.test))["accuracy"]),
        seconds,
        float(result.table["steps"].sum()) / (problem.variants * problem.num_steps),
        int(result.timing["programs"]),
    )


def compete(problem: Problem, form: str, tell: Callable[..., None], turns: Iterator[int] | None = None) -> None:
    """Sweeps again and again, each time over other variants, until it is stopped.

    Args:
      form: the rule.
      tell: takes the best accuracy of each sweep, in points, and the steps it took.
      turns: which sweeps; None for one after the other without end.
    """
    for turn in itertools.count() if turns is None else turns:
        result = swept(problem, form, turn)
        tell(answer=points(result.best().metrics[METRIC]), steps=int(result.table["steps"].sum()))


def _key(problem: Problem, turn: int, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.split(jax.random.key(problem.seed), 2)[purpose], turn)
