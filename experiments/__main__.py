"""Experiments on the claims of the source article, run on real data and drawn.

python -m experiments NAME [--quick] [--out DIR] [--seed N]; NAME may be list, or all.
"""

import argparse
import importlib
import time
from pathlib import Path
from typing import Any

import matplotlib

from experiments import report

NAMES = (
    "activations",
    "depth",
    "architectures",
    "transformer",
    "overfit_regression",
    "overfit_classification",
    "more_data",
    "penalties",
    "dropout",
    "batches",
    "optimizers",
    "regression_net",
    "classification_net",
    "features",
    "hypergradient",
    "pruning",
    "precision",
)


def title(name: str) -> str:
    """The first line of an experiment's module docstring."""
    return importlib.import_module(f"experiments.{name}").__doc__.splitlines()[0].rstrip(".")


def run(name: str, folder: Path, *, quick: bool, seed: int) -> dict[str, Any]:
    """Runs one experiment, writes its results and prints its verdicts."""
    began = time.perf_counter()
    outcome = importlib.import_module(f"experiments.{name}").run(quick=quick, seed=seed)
    seconds = time.perf_counter() - began
    summary = report.write(name, title(name), outcome, folder, quick=quick, seed=seed, seconds=seconds)
    print(report.text(summary))
    print(f"  {seconds:.0f} s; written to {folder / name}", flush=True)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*NAMES, "list", "all"], metavar="NAME", help=f"one of {', '.join(NAMES)}; or list, or all")
    parser.add_argument("--quick", action="store_true", help="a small version, in seconds: fewer seeds, fewer steps")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides everything random (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.name == "list":
        for name in NAMES:
            print(f"{name:24s}{title(name)}")
        return
    matplotlib.use("Agg")
    names = NAMES if arguments.name == "all" else [arguments.name]
    summaries = [run(name, arguments.out, quick=arguments.quick, seed=arguments.seed) for name in names]
    if arguments.name == "all":
        report.page(summaries, arguments.out / "index.html")
        (arguments.out / "claims.md").write_text(report.markdown(summaries) + "\n")
        print(f"every picture and verdict on one page: {arguments.out / 'index.html'}; the table of claims: {arguments.out / 'claims.md'}")


if __name__ == "__main__":
    main()
