"""Prints the best runs of several stores, such as those of a job array's shares.

python -m experiments.cluster.best STORE [STORE ...] [--count N] [--metric NAME]
"""

import argparse
from pathlib import Path

import numpy as np

import funcnet as fn


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.cluster.best", description=__doc__.splitlines()[0])
    parser.add_argument("stores", type=Path, nargs="+", metavar="STORE", help="folders of sweeps, finished or not")
    parser.add_argument("--count", type=int, default=5, help="how many runs to show (%(default)s)")
    parser.add_argument("--metric", default="validation/accuracy", help="the larger the better (%(default)s)")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    found, runs = [], 0
    for store in arguments.stores:
        table = fn.load_store(store).table
        runs += len(table["status"])
        for row in np.flatnonzero(table["status"] == "completed").tolist():
            found.append(
                (float(table[arguments.metric][row]), store, {name: table[name][row] for name in ("width", "l2", "learning_rate")})
            )
    print(f"{len(found)} of {runs} runs are completed")
    for value, store, hyperparameters in sorted(found, key=lambda own: -own[0])[: arguments.count]:
        print(
            f"{arguments.metric} {value:.4f} in {store} with " + ", ".join(f"{name} {value:.4g}" for name, value in hyperparameters.items())
        )


if __name__ == "__main__":
    main()
