"""The gain of stopping early: rules that stop poor variants, compared with the whole sweep and with other libraries.

Variants of a small net on scikit-learn's digits. `python -m experiments pruning` measures the rules alone; `python -m experiments.pruning`
also races them, each from a cold start, against Optuna, scikit-learn and hyperoptax. Modules that other processes load import little.
"""

from typing import Any


def run(quick: bool = False, seed: int = 0) -> Any:
    """Compares the rules with the whole sweep; returns a `report.Outcome`."""
    from experiments.pruning import study  # here, since peers' processes import this file and must not wait for JAX

    return study.run(quick, seed)
