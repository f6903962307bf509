"""Reads a stored sweep without its recipe: its result so far, its progress, and what the rule that prunes it has decided."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from funcnet import check, prune
from funcnet.sweeps.files import Snapshot, read_snapshot
from funcnet.sweeps.ledger import COMPLETED, DIVERGED, PRUNED, STATUSES, UNFINISHED, Ledger
from funcnet.sweeps.result import SweepResult
from funcnet.sweeps.written import Reader

_PARTS = ("ledger", "cohorts", "policy")  # the other parts are states
_HALVING = ("successive_halving", "hyperband", "asha")
_RUNGS = re.compile(r"first=([0-9]{1,18}), eta=([0-9.e+]{1,30})")
_WRONG = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, StopIteration)  # what other content raises


class Rung(NamedTuple):
    """A step at which a rule decides, and what became of the variants that reached it; counts of variants."""

    bracket: int | None  # hyperband's s; None for other rules
    step: int
    came: int  # all of whose runs reached this step, everything finite, and end later
    went_on: int
    stopped: int
    waiting: int  # for a decision


class Rule(NamedTuple):
    """The rule that prunes a sweep."""

    name: str
    settings: str
    metric: str
    mode: str | None
    rungs: tuple[Rung, ...]  # for a rule without rungs, the steps at which it stopped variants


class Stored(NamedTuple):
    """A sweep as its newest good snapshot holds it."""

    result: SweepResult  # without states and recipe
    rule: Rule | None
    runs: int  # of each variant
    steps: np.ndarray  # (rows,), int: the step at which each run ends unless it is stopped
    steps_done: int  # summed over the runs
    seconds: float
    versions: dict[str, str]  # by package
    damaged: tuple[str, ...]  # sentences about newer snapshots that are damaged

    @property
    def finished(self) -> bool:
        """Whether every run has ended."""
        return "unfinished" not in self.result.table["status"]


def load_store(path: str | os.PathLike[str]) -> SweepResult:
    """Reads the result so far of a sweep with `store=path`, even while it trains, without its recipe and states.

    It reads the newest good snapshot, changes nothing in the folder and doesn't disturb the process that trains. A run that has
    not ended has the status "unfinished" and, as "steps", those that it had taken in the snapshot.

    Args:
      path: the folder.

    Returns:
      A `SweepResult` without states, and without `training(row)`. Functions that were hyperparameters are replaced by their names,
      except those of funcnet and jax.nn.

    Raises:
      ValueError: the folder holds no sweep, nothing but damaged snapshots, or one that a newer version of funcnet wrote.
      OSError: there is no such folder, or it can't be read.

    Example:
      >>> import tempfile, jax
      >>> import funcnet as fn
      >>> def recipe(learning_rate):
      ...     return fn.training(fn.dense(1), fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))
      >>> x, folder = np.linspace(-1, 1, 16)[:, None], tempfile.mkdtemp()
      >>> steps = dict(key=jax.random.key(0), num_steps=50, batch_size=None, progress=False)
      >>> result = fn.sweep(recipe, fn.grid(learning_rate=[0.01, 0.1]), fn.Dataset(x, 3 * x), **steps, store=folder)
      >>> loaded = load_store(folder)
      >>> loaded.table["status"].tolist(), bool(np.all(loaded.table["train/loss"] == result.table["train/loss"]))
      (['completed', 'completed'], True)
    """
    found = read_stored(path, where="load_store")
    if found is None:
        rule, fix = (
            f"{os.fspath(path)!s} must hold a stored sweep",
            "sweep(..., store=folder) stores one; one that has just begun soon will",
        )
        raise ValueError(check.message("load_store", rule, "no snapshot", fix))
    return found.result


def read_stored(path: str | os.PathLike[str], *, where: str) -> Stored | None:
    """Reads a sweep from the newest good snapshot in a folder; None if there is no snapshot.

    Args:
      path: the folder.
      where: the name that error messages begin with.

    Raises:
      ValueError: there are snapshots but none is good, or it is not a sweep's, or a newer version of funcnet wrote it.
      OSError: there is no such folder, or it can't be read.
    """
    snapshot, damaged = read_snapshot(path, where=where, only=_PARTS)
    if snapshot is None:
        if damaged:
            fix = "the same sweep in another folder begins anew; this one holds what is left"
            raise ValueError(check.message(where, f"{os.fspath(path)!s} must hold a snapshot that is whole", "; ".join(damaged), fix))
        return None
    try:
        return _stored(snapshot, tuple(damaged))
    except _WRONG as error:
        rule = f"the snapshot in {os.fspath(path)!s} must be a sweep's of this version of funcnet"
        fix = "was it written by sweep(..., store=folder)?"
        raise ValueError(check.message(where, rule, f"{type(error).__name__}: {error}", fix)) from error


def _stored(snapshot: Snapshot, damaged: tuple[str, ...]) -> Stored:
    content, parts = snapshot
    identity = content["identity"]
    folds = identity.get("folds")
    runs = int(identity["replicates"]) * int(folds or 1)
    variants, read = identity["variants"], Reader({}).read
    rows = len(parts["ledger"]["at"])
    if not variants or len(variants) * runs != rows:
        raise ValueError(f"{len(variants)} variants of {runs} runs must have as many rows, got {rows}")
    num_steps = np.repeat(np.array([int(variant["num_steps"]) for variant in variants]), runs)
    ledger = _ledger(parts["ledger"], content["metrics"], num_steps)
    _note_cohorts(ledger, content["cohorts"], parts["cohorts"])
    rule = identity["rule"]
    number, place = np.divmod(np.arange(rows), runs)
    replicate, fold = np.divmod(place, int(folds or 1))
    index = {"variant": number, "replicate": replicate, **({} if folds is None else {"fold": fold})}
    outcome = ledger.outcome(index, best=bool(identity["keep_best"]), rule=None if rule is None or rule["evolves"] else str(rule["name"]))
    widths = {int(group): int(width) for group, (width, _) in content["programs"].items()}
    result = SweepResult(
        [{name: read(value, name) for name, value in variant["hyperparameters"].items()} for variant in variants],
        outcome,
        ledger.curves(),
        {},
        None,
        [],
        {"seconds": float(content["seconds"]), "lane_widths": [widths.get(group, 0) for group in range(len(identity["groups"]))]},
        metric=str(identity["metric"]),
        mode=identity["mode"],
    )
    found = None if rule is None else _rule(rule, identity, ledger, runs, content, parts)
    versions = {str(name): str(version) for name, version in content["versions"].items()}
    return Stored(result, found, runs, num_steps, int(content["steps_done"]), float(content["seconds"]), versions, damaged)


def _ledger(stored: Mapping[str, np.ndarray], metrics: list[str], num_steps: np.ndarray) -> Ledger:
    """The ledger of a snapshot; raises if its arrays are not a ledger's."""
    rows, columns = len(num_steps), len(stored["steps"])
    values = {str(name): stored[f"values/{name}"] for name in metrics}
    shapes = {
        "steps": (columns,),
        "measured": (rows, columns),
        **dict.fromkeys(("at", "status", "ended", "allowed", "stopped", "best"), (rows,)),
    }
    for name, shape in shapes.items():
        if stored[name].shape != shape or stored[name].dtype.kind not in "bi":
            raise ValueError(f"{name} must be whole numbers of shape {shape}, got {stored[name].dtype} of {stored[name].shape}")
    if any(each.shape != (rows, columns) or each.dtype.kind != "f" for each in values.values()):
        raise ValueError(f"metrics must be numbers of shape {rows, columns}")
    status, best = stored["status"].copy(), stored["best"]
    if rows and not (0 <= status.min() <= status.max() < len(STATUSES) and best.max() < columns):
        raise ValueError("every status must be known, and every best evaluation be one")
    return Ledger(
        steps=stored["steps"],
        values=values,
        measured=stored["measured"].astype(bool),
        num_steps=num_steps,
        at=stored["at"].copy(),
        status=status,
        numbers={},
        parents=np.zeros((rows, 0), int),
        generations=np.zeros(0, int),
        history={},
        **{name: stored[name] for name in ("ended", "allowed", "stopped", "best")},
    )


def _note_cohorts(ledger: Ledger, cohorts: list[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]) -> None:
    """Records in the ledger how far the runs in cohorts are: diverged, completed or unfinished, and their steps."""
    for i, own in enumerate(cohorts):
        at, lost = int(own["at"]), arrays[f"{i}/diverged"] if own["stand"] else np.full(len(own["rows"]), -1)
        for lane, row in enumerate(own["rows"]):
            if row < 0:  # a lane without a row
                continue
            if lost[lane] >= 0:
                ledger.at[row], ledger.status[row] = lost[lane], DIVERGED
            else:
                ledger.at[row] = at
                ledger.status[row] = COMPLETED if at == ledger.num_steps[row] else UNFINISHED


def _rule(
    rule: Mapping[str, Any],
    identity: Mapping[str, Any],
    ledger: Ledger,
    runs: int,
    content: Mapping[str, Any],
    parts: Mapping[str, Any],
) -> Rule:
    name, settings = str(rule["name"]), str(rule["settings"])
    metric = str(rule["metric"] or identity["metric"])
    mode = rule["mode"] or (identity["mode"] if metric == identity["metric"] else None)
    pruned = ledger.status == PRUNED
    looks = _looks(name, settings)
    last = int(ledger.num_steps.max())
    steps = sorted(set(ledger.at[pruned].tolist())) if looks is None else looks(last)
    everybody = np.ones(len(pruned) // runs, bool)
    lots: list[tuple[int | None, list[int], np.ndarray]] = []
    if name == "hyperband" and looks is not None and content["policy"] is not None:
        ((_, array),) = content["policy"]["dict"]  # the policy's state as it is stored: {"bracket": an array}
        left_out = parts["policy"][array["array"]]  # how many of the first rungs each variant skips
        s_max = len(looks(last + 1)) - 1
        lots += [(s_max - first, steps[first:], everybody & (left_out == first)) for first in range(s_max + 1)]
    else:
        lots.append((None, steps, everybody))
    rungs = [_rung(ledger, runs, bracket, step, members) for bracket, own, members in lots for step in own]
    return Rule(name, settings, metric, mode, tuple(rungs))


def _looks(name: str, settings: str) -> Callable[[int], list[int]] | None:
    """For a rule of successive halving: the function num_steps -> steps at which it decides; None for another rule."""
    found = _RUNGS.fullmatch(settings)
    if name not in _HALVING or not found:
        return None
    looks: Callable[[int], list[int]] | None = getattr(prune, name)(int(found[1]), float(found[2])).looks
    return looks


def _rung(ledger: Ledger, runs: int, bracket: int | None, step: int, members: np.ndarray) -> Rung:
    def by_variant(each: np.ndarray) -> np.ndarray:
        return each.reshape(-1, runs)

    came = members & (by_variant(ledger.at).min(1) >= step) & (by_variant(ledger.num_steps)[:, 0] > step)
    stopped = came & by_variant((ledger.status == PRUNED) & (ledger.at == step)).any(1)
    went_on = came & ~stopped & (by_variant(ledger.allowed)[:, 0] > step)
    counts = [int(each.sum()) for each in (came, went_on, stopped, came & ~stopped & ~went_on)]
    return Rung(bracket, step, *counts)
