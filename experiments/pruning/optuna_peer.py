"""Optuna's own loop: its default sampler, one of its pruners, and a PyTorch net trained in the objective."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch

from experiments.pruning.problem import DROPOUT, ETA, L2, LEARNING_RATE, Problem
from experiments.pruning.torch_net import Digits


def pruner(name: str, problem: Problem) -> optuna.pruners.BasePruner:
    """The pruner of the peer with this name: with the rungs of funcnet's rules, and default settings otherwise."""
    if name == "optuna_median":
        return optuna.pruners.MedianPruner()
    if name == "optuna_halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=problem.first, reduction_factor=ETA)
    return optuna.pruners.HyperbandPruner(min_resource=problem.first_of(name), max_resource=problem.num_steps, reduction_factor=ETA)


def compete(
    problem: Problem, name: str, form: tuple[int, int, int], tell: Callable[..., None], shared: Path, worker: int, trials: int | None = None
) -> None:
    """Runs trials until it is stopped.

    Args:
      name: of the peer, which decides the pruner.
      form: processes, jobs per process, PyTorch's threads per process.
      tell: takes the steps of each trial, and the accuracy in points of each completed trial.
      shared: a folder for the journal, for several processes that work on one study.
      worker: index of this process, from 0.
      trials: number of trials; None for no limit.
    """
    processes, jobs, threads = form
    torch.set_num_threads(threads)
    torch.manual_seed(problem.seed * 1000 + worker)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    digits = Digits(problem)

    def objective(trial: optuna.Trial) -> float:
        settings: dict[str, Any] = {
            "learning_rate": trial.suggest_float("learning_rate", *LEARNING_RATE, log=True),
            "l2": trial.suggest_float("l2", *L2, log=True),
            "dropout": trial.suggest_float("dropout", *DROPOUT),
        }
        for step, accuracy in digits.training(**settings, seed=problem.seed * 100_000 + trial.number, every=problem.first_of(name)):
            if step < problem.num_steps:
                trial.report(accuracy, step)
                if trial.should_prune():
                    tell(steps=step)
                    raise optuna.TrialPruned
        tell(answer=accuracy, steps=step)
        return accuracy

    storage = None
    if processes > 1:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        storage = JournalStorage(JournalFileBackend(str(shared / "journal")))
    study = optuna.create_study(
        study_name=name,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=problem.seed * 1000 + worker),
        pruner=pruner(name, problem),
        storage=storage,
        load_if_exists=True,
    )
    study.optimize(objective, n_trials=trials, n_jobs=jobs)
