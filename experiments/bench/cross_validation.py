"""Cross-validation of 64 settings of an MLP in five folds of the digits, by one sweep, by a sweep a fold, and by scikit-learn's GridSearchCV.

python -m experiments.bench.cross_validation [--repeats N] [--epochs N]

They train the same network on the same folds for as many steps, in turn, warm; scikit-learn in joblib's processes, one a core. Its
draws are its own, so that the two sets of mean scores must pass the two-sample Kolmogorov-Smirnov test.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.stats import ks_2samp

import funcnet as fn
from experiments.bench.harness import ALIKE
from experiments.bench.program import CORES
from experiments.bench.workloads import digits, rates

FOLDS, BATCH = 5, 128
RATES, STRENGTHS = rates(1e-4, 1e-1, 16), [0.0, 1e-5, 1e-4, 1e-3]
GOAL = 10.0  # times as fast as GridSearchCV

Scores = Callable[[], np.ndarray]  # trains everything; each setting's mean validation accuracy, the rates running slowest


def recipe(learning_rate: float, l2: float) -> fn.Training:
    return fn.training(fn.mlp((64, 10)), "cross_entropy", fn.adam(learning_rate), in_shape=(64,), penalty=fn.l2(l2), metrics=["accuracy"])


def folds() -> list[fn.Split]:
    x, y = digits()
    return fn.k_fold(fn.Dataset(x, y), FOLDS, key=jax.random.key(0), stratify=y)


def settings(epochs: int) -> dict[str, Any]:
    """As many steps as scikit-learn takes, whose epochs end with a smaller batch."""
    examples = min(len(fold.train.y) for fold in folds())
    return {"key": jax.random.key(0), "num_steps": epochs * -(-examples // BATCH), "batch_size": BATCH, "keep": 1, "progress": False}


def one_sweep(epochs: int) -> Scores:
    cut, variants, rest = folds(), fn.grid(learning_rate=RATES, l2=STRENGTHS), settings(epochs)
    return lambda: fn.sweep(recipe, variants, cut, **rest).table["validation/accuracy"].reshape(-1, FOLDS).mean(1)


def a_sweep_a_fold(epochs: int) -> Scores:
    cut, variants, rest = folds(), fn.grid(learning_rate=RATES, l2=STRENGTHS), settings(epochs)
    return lambda: np.mean([fn.sweep(recipe, variants, fold, **rest).table["validation/accuracy"] for fold in cut], axis=0)


def grid_search(epochs: int) -> Scores:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import MLPClassifier

    x, y = digits()
    where = {row.tobytes(): i for i, row in enumerate(x)}
    cut = [tuple(np.array([where[row.tobytes()] for row in part.x]) for part in fold[:2] if part) for fold in folds()]
    net = MLPClassifier((64,), batch_size=BATCH, max_iter=epochs, tol=0.0, n_iter_no_change=10**6, random_state=0)
    grid = {"learning_rate_init": RATES, "alpha": [2 * BATCH * strength for strength in STRENGTHS]}  # of a batch, and halved

    def run() -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = GridSearchCV(net, grid, cv=cut, n_jobs=CORES, refit=False).fit(x, y).cv_results_
        order = sorted(range(len(found["params"])), key=lambda i: (found["params"][i]["learning_rate_init"], found["params"][i]["alpha"]))
        return np.asarray(found["mean_test_score"])[order]

    return run


CONTESTANTS = {"one sweep": one_sweep, "a sweep a fold": a_sweep_a_fold, "GridSearchCV": grid_search}


def measure(repeats: int, epochs: int) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Seconds of each round, and the scores, by contestant; in each round everyone runs once."""
    ready = {name: make(epochs) for name, make in CONTESTANTS.items()}
    scores = {name: run() for name, run in ready.items()}  # compiles, and starts joblib's processes
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(repeats):
        for name, run in ready.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds, scores


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.cross_validation", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds, in each of which everyone runs once (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="how often each goes through its examples (default: %(default)s)")
    arguments = parser.parse_args()
    seconds, scores = measure(arguments.repeats, arguments.epochs)
    own = statistics.median(seconds["one sweep"])
    for name, each in seconds.items():
        middle = statistics.median(each)
        print(f"{name:<16} {middle:7.3f} s ({min(each):.3f} to {max(each):.3f})  {middle / own:6.2f}  best {scores[name].max():.4f}")
    alike = float(ks_2samp(scores["one sweep"], scores["GridSearchCV"]).pvalue)
    ratio, loop = (statistics.median(seconds[name]) / own for name in ("GridSearchCV", "a sweep a fold"))
    print(f"scores alike: {'yes' if alike >= ALIKE else 'NO'} (Kolmogorov-Smirnov p {alike:.2f})")
    print(f"at least {GOAL:g} times as fast as GridSearchCV: {'reached' if ratio >= GOAL else 'missed'} ({ratio:.1f})")
    print(f"faster than a sweep a fold: {'reached' if loop > 1 else 'missed'} ({loop:.2f})")


if __name__ == "__main__":
    main()
