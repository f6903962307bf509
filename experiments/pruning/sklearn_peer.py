"""scikit-learn's HalvingRandomSearchCV around its MLPClassifier: the resource is epochs, the score is on the same validation digits."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import loguniform
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import HalvingRandomSearchCV, PredefinedSplit
from sklearn.neural_network import MLPClassifier

from experiments.pruning.problem import BATCH_SIZE, CORES, ETA, L2, LEARNING_RATE, WIDTH, Problem, points


def epochs(problem: Problem) -> tuple[int, int]:
    """Whole epochs of the first and the last rung: the first as close as possible to funcnet's, the last in the same ratio to it."""
    first = max(1, round(problem.first / np.ceil(len(problem.train[1]) / BATCH_SIZE)))
    return first, max(first, round(first * problem.num_steps / problem.first))


def search(problem: Problem, seed: int) -> HalvingRandomSearchCV:
    """The search. It has no dropout. It adds alpha / 2 / batch * w^2 to the loss, so alpha is 2 * batch times the L2 strength."""
    first, last = epochs(problem)
    (low, high), scale = L2, 2 * BATCH_SIZE
    return HalvingRandomSearchCV(
        MLPClassifier((WIDTH,), activation="relu", solver="adam", batch_size=BATCH_SIZE),
        {"learning_rate_init": loguniform(*LEARNING_RATE), "alpha": loguniform(scale * low, scale * high)},
        resource="max_iter",
        n_candidates=problem.variants,
        factor=ETA,
        min_resources=first,
        max_resources=last,
        cv=PredefinedSplit(np.repeat([-1, 0], [len(problem.train[1]), len(problem.validation[1])])),
        scoring="accuracy",
        refit=False,  # an answer is a score, so refitting and training scores are left out
        return_train_score=False,
        random_state=seed,
        n_jobs=CORES,
    )


def compete(problem: Problem, tell: Callable[..., None], turns: Iterator[int] | None = None) -> None:
    """Searches again and again, over other candidates each time, until it is stopped.

    Args:
      tell: takes the best accuracy of each search, in points, and the epochs it took in steps.
      turns: which searches; None for one after the other without end.
    """
    x, y = (np.concatenate(both) for both in zip(problem.train, problem.validation, strict=True))
    a_step = int(np.ceil(len(problem.train[1]) / BATCH_SIZE))
    for turn in itertools.count() if turns is None else turns:
        found = search(problem, problem.seed * 1000 + turn).fit(x, y)
        tell(answer=points(found.best_score_), steps=int(np.dot(found.n_candidates_, found.n_resources_)) * a_step)
