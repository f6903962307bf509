"""Cross-validation of 64 settings of an MLP in five folds of the digits, by one sweep, by a sweep a fold, and by scikit-learn's GridSearchCV.

python -m experiments.bench.cross_validation [--repeats N] [--epochs N] [--width N]

They train the same network on the same folds for as many steps, in turn, warm; scikit-learn in joblib's processes, one a core. Its
draws are its own, so that the two sets of mean scores must pass the two-sample Kolmogorov-Smirnov test.
"""

import statistics
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import funcnet as fn
from experiments.bench import timing
from experiments.bench.harness import agreement
from experiments.bench.program import CORES
from experiments.bench.workloads import digits, rates

FOLDS, BATCH = 5, 128
RATES, STRENGTHS = rates(1e-4, 1e-1, 16), [0.0, 1e-5, 1e-4, 1e-3]
GOAL = 10.0  # times as fast as GridSearchCV

Scores = Callable[[], np.ndarray]  # trains everything; each setting's mean validation accuracy, the rates running slowest


def recipe(learning_rate: float, l2: float, width: int) -> fn.Training:
    net, penalty = fn.mlp((width, 10)), fn.l2(l2)
    return fn.training(net, "cross_entropy", fn.adam(learning_rate), in_shape=(64,), penalty=penalty, metrics=["accuracy"])


def sweeps(folds: list[fn.Split], epochs: int, width: int) -> dict[str, Scores]:
    """One sweep, and a sweep a fold, of as many steps as scikit-learn takes, whose epochs end with a smaller batch."""
    variants = fn.grid(learning_rate=RATES, l2=STRENGTHS, width=[width])
    num_steps = epochs * -(-min(len(fold.train.y) for fold in folds) // BATCH)
    settings = {"key": jax.random.key(0), "num_steps": num_steps, "batch_size": BATCH, "keep": 1, "progress": False}

    def accuracy(data: Any) -> np.ndarray:
        return fn.sweep(recipe, variants, data, **settings).table["validation/accuracy"]

    return {
        "one sweep": lambda: accuracy(folds).reshape(-1, FOLDS).mean(1),
        "a sweep a fold": lambda: np.mean([accuracy(fold) for fold in folds], axis=0),
    }


def grid_search(folds: list[fn.Split], epochs: int, width: int) -> Scores:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import MLPClassifier

    x, y = digits()
    where = {row.tobytes(): i for i, row in enumerate(x)}
    cut = [tuple(np.array([where[row.tobytes()] for row in part.x]) for part in fold[:2] if part) for fold in folds]
    net = MLPClassifier((width,), batch_size=BATCH, max_iter=epochs, tol=0.0, n_iter_no_change=10**6, random_state=0)
    grid = {"learning_rate_init": RATES, "alpha": [2 * BATCH * strength for strength in STRENGTHS]}  # of a batch, and halved

    def run() -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = GridSearchCV(net, grid, cv=cut, n_jobs=CORES, refit=False).fit(x, y).cv_results_
        order = sorted(range(len(found["params"])), key=lambda i: (found["params"][i]["learning_rate_init"], found["params"][i]["alpha"]))
        return np.asarray(found["mean_test_score"])[order]

    return run


def measure(repeats: int, epochs: int, width: int) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Seconds of each round, and the scores, by contestant."""
    x, y = digits()
    folds = fn.k_fold(fn.Dataset(x, y), FOLDS, key=jax.random.key(0), stratify=y)
    ready = sweeps(folds, epochs, width) | {"GridSearchCV": grid_search(folds, epochs, width)}
    scores = {name: run() for name, run in ready.items()}  # compiles, and starts joblib's processes
    return timing.in_turn({name: timing.timed(run) for name, run in ready.items()}, repeats), scores


def main() -> None:
    parser = timing.parser(".cross_validation", __doc__, repeats=5)
    parser.add_argument("--epochs", type=timing.number, default=20, help="how often each goes through its examples (default: %(default)s)")
    parser.add_argument("--width", type=timing.number, default=64, help="hidden units of everyone's net (default: %(default)s)")
    arguments = parser.parse_args()
    seconds, scores = measure(arguments.repeats, arguments.epochs, arguments.width)
    over = {name: statistics.median(each) / statistics.median(seconds["one sweep"]) for name, each in seconds.items()}
    for name, each in seconds.items():
        print(f"{name:<16} {timing.spread(each, '.3f')} s  {over[name]:6.2f}  best {scores[name].max():.4f}")
    alike, how = agreement(scores["one sweep"], scores["GridSearchCV"], streams_differ=True)
    ratio, loop = over["GridSearchCV"], over["a sweep a fold"]
    print(f"scores alike: {'yes' if alike else 'NO'} ({how})")
    reached = "reached" if ratio >= GOAL else "missed"
    print(f"at least {GOAL:g} times as fast as GridSearchCV: {reached} ({ratio:.1f} with {arguments.width} hidden units)")
    print(f"faster than a sweep a fold: {'reached' if loop > 1 else 'missed'} ({loop:.2f})")


if __name__ == "__main__":
    main()
