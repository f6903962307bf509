"""What stopping early is worth: rules that stop poor variants, beside the whole sweep and beside what a user would run instead.

Variants of a small net on scikit-learn's digits. `python -m experiments pruning` measures the rules alone; `python -m experiments.pruning`
also races them, each from a cold start, against Optuna, scikit-learn and hyperoptax. Modules that other processes read import little.
"""

from typing import Any


def run(quick: bool = False, seed: int = 0) -> Any:
    """The rules beside the whole sweep, as a `report.Outcome`."""
    from experiments.pruning import study  # here: a peer's process reads this file, and must not pay for JAX

    return study.run(quick, seed)
