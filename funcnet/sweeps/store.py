"""Stores a sweep in a folder so that it can be resumed: what it computes, how far it has come, and the states of its runs."""

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from funcnet import check, inner
from funcnet.data import part_digest
from funcnet.folds import Folds
from funcnet.policy import Policy
from funcnet.sweeps.events import to_file
from funcnet.sweeps.executors import Request
from funcnet.sweeps.files import Folder, StoreDamaged
from funcnet.sweeps.ledger import COMPLETED, UNFINISHED
from funcnet.sweeps.loop import Loop, Settings
from funcnet.sweeps.pack import Cohort, key_kind, lot_by
from funcnet.sweeps.planning import Plan
from funcnet.sweeps.rehearsal import Rehearsal
from funcnet.sweeps.task import Stand, bare, clothed
from funcnet.sweeps.written import Names, written

_SHARE = 0.02  # the largest share of the time that writing may take
_LEAST = 1.0  # the fewest seconds between two snapshots
_MOST_PARTS = 64  # of states, before they are rewritten as one part
_BEST = "best"  # the part with the best states of runs that have not ended; every snapshot writes it again
_WHERE = "sweep: store"


class _Known(NamedTuple):
    """Which states are already in the folder."""

    parts: dict[str, list[int]]  # the rows of each part of states
    number: int  # of the newest part of states


class Store:
    """Saves a sweep in a folder, and restores it."""

    def __init__(self, path: Any, plan: Plan, rehearsal: Rehearsal, data: Folds, settings: Settings, policy: Policy | None):
        """Opens the folder.

        Raises:
          ValueError: it holds a different sweep; the message says what differs.
          StoreDamaged: it held a sweep, but no snapshot of it can be read.
          StoreInUse: another process has it open.
        """
        self._plan, self._rehearsal, self._policy = plan, rehearsal, policy
        self.identity = _identity(plan, rehearsal, data, settings, policy)
        self.folder = Folder(path, where=_WHERE)
        self._known = _Known({}, 0)
        self._said, self._cost = time.monotonic(), 0.0
        self.seconds = 0.0  # spent writing
        self._written: tuple[int, int, int] | None = None  # how far the loop was at the last snapshot
        try:
            found = self.folder.snapshot
            self.found, self.resumed = found, found is not None
            self.event = to_file(os.path.abspath(os.fsdecode(path)))  # absolute: the process may change its folder later
            for sentence in self.folder.damaged:
                self.event("damaged", what=sentence)
            if found is not None:
                _warn_of(self.folder.damaged, found.content["steps_done"])
                _check_same(found.content["identity"], self.identity, str(path), found.content["versions"])
                before, now = ([own["num_steps"] for own in each["variants"]] for each in (found.content["identity"], self.identity))
                if policy is not None and before != now:
                    _check_grows(policy, plan, found.parts["ledger"], f"{len(before)} variants stored, {len(now)} given")
            elif left := self.folder.damaged or _set_aside(path):
                rule = f"{os.fspath(path)} must hold a snapshot that is whole"
                fix = "another folder begins anew; this one holds what is left, under names that end in .damaged"
                raise StoreDamaged(check.message(_WHERE, rule, "; ".join(left), fix))
        except BaseException:
            self.folder.close()
            raise

    @property
    def steps(self) -> list[int]:
        """The steps after which the stored sweep has evaluated runs."""
        return [] if self.found is None else self.found.parts["ledger"]["steps"].tolist()

    def restore(self, loop: Loop) -> None:
        """Restores the stored sweep's progress in a loop, which may have more variants or more steps."""
        if self.found is None:
            return
        content, parts = self.found
        before, ledger = parts["ledger"], loop.ledger
        old = len(before["at"])
        columns = np.searchsorted(ledger.steps, before["steps"])
        for name in ledger.values:
            if name in content["metrics"]:
                ledger.values[name][:old, columns] = before[f"values/{name}"]
        ledger.measured[:old, columns] = before["measured"]
        for name in ("at", "status", "ended"):
            getattr(ledger, name)[:old] = before[name]
        if self._policy is not None:
            ledger.allowed[:old], ledger.stopped[:old] = before["allowed"], before["stopped"]
            ledger.allowed[old:] = 0
        if content["identity"]["rule"] is not None and content["identity"]["rule"]["evolves"]:
            ledger.generations, ledger.parents = before["generations"], before["parents"]
            ledger.numbers = {name: before[f"numbers/{name}"] for name in ledger.numbers}
            ledger.history = {name: before[f"history/{name}"] for name in ledger.history}
        best = before["best"]
        ledger.best[:old] = np.where(best >= 0, columns[best], -1)
        loop.steps_done, loop.seconds_before = content["steps_done"], content["seconds"]
        own = {part: [row for rows in kept.values() for row in rows] for part, kept in content["states"].items() if part != _BEST}
        self._known = _Known(own, content["number"])
        for part, kept in content["states"].items():
            for group, rows in kept.items():
                self._restore_states(loop, int(group), rows, parts[part])
        for group, (width, shared) in content["programs"].items():
            loop.restored[int(group)] = Request(int(group), width, shared)
            loop.widths[int(group)] = width
        loop.resumed = [self._cohort(own, parts["cohorts"], i) for i, own in enumerate(content["cohorts"])]
        if self._policy is None:  # the rows of a chunk have one number of steps, which may have grown
            loop.resumed = [cohort._replace(goal=int(ledger.num_steps[cohort.rows[cohort.lanes[0]]])) for cohort in loop.resumed]
        longer = np.flatnonzero((ledger.status == COMPLETED) & (ledger.at < ledger.num_steps)).tolist()
        if longer:
            loop.resumed += self._prolonged(loop, longer)
        if loop.judge is not None:
            loop.judge.resume(_read_tree(content["policy"], parts["policy"]), old // self._plan.runs)
        loop.kept.recount()
        self._written = self._place(loop)
        self.found = None  # frees its memory

    def save(self, loop: Loop, *, must: bool = False) -> None:
        """Writes a snapshot of the loop if the last one is old enough and something has happened since.

        Args:
          must: whether to write however new the last one is.
        """
        began = time.monotonic()
        if not must and began - self._said < max(_LEAST, self._cost / _SHARE):
            return
        ledger = loop.ledger
        now = self._place(loop)
        if now == self._written:  # nothing has happened
            return
        arrays: dict[str, dict[str, np.ndarray]] = {
            "ledger": {
                "steps": ledger.steps,
                "measured": ledger.measured,
                "at": ledger.at,
                "status": ledger.status,
                "ended": ledger.ended & (ledger.status != UNFINISHED),
                "allowed": ledger.allowed,
                "stopped": ledger.stopped,
                "best": ledger.best,
                "generations": ledger.generations,
                "parents": ledger.parents,
                **{f"numbers/{name}": values for name, values in ledger.numbers.items()},
                **{f"history/{name}": values for name, values in ledger.history.items()},
                **{f"values/{name}": values for name, values in ledger.values.items()},
            },
            "cohorts": {},
            "policy": {},
        }
        cohorts = [_written_cohort(cohort, arrays["cohorts"], i) for i, cohort in enumerate(loop.in_flight())]
        state = None if loop.judge is None else _written_tree(loop.judge.state, arrays["policy"])
        content = {
            "identity": self.identity,
            "versions": _versions(),
            "metrics": list(ledger.values),
            "programs": {str(group): [request.width, request.shared] for group, request in (loop.restored | loop.requests).items()},
            "cohorts": cohorts,
            "policy": state,
            "steps_done": loop.steps_done,
            "seconds": loop.seconds(),
            "finished": bool(ledger.ended.all()),
        }
        try:
            self._write(loop, content, arrays)
        except StoreDamaged:  # a file of states is damaged, but all states are still in memory
            self._known = _Known({}, self._known.number)
            self._write(loop, content, arrays)
        self.event("stored", runs_done=int(ledger.ended.sum()), steps_done=loop.steps_done, seconds=round(loop.seconds(), 3))
        self._written = now
        self._said = time.monotonic()
        self._cost = self._said - began
        self.seconds += self._cost

    def _write(self, loop: Loop, content: dict[str, Any], arrays: dict[str, dict[str, np.ndarray]]) -> None:
        own = dict(arrays)
        states, known = self._states(loop, own)
        self.folder.write({**content, "number": known.number, "states": states}, own, keep=[part for part in states if part not in own])
        self._known = known  # only now, since the write may fail and be tried again

    @staticmethod
    def _place(loop: Loop) -> tuple[int, int, int]:
        return loop.steps_done, int(loop.ledger.ended.sum()), len(loop.restored | loop.requests)

    def close(self) -> None:
        """Unlocks the folder, so that others can open it."""
        self.folder.close()

    def _states(self, loop: Loop, arrays: dict[str, dict[str, np.ndarray]]) -> tuple[dict[str, dict[str, list[int]]], _Known]:
        """The parts that hold the kept states, with their rows by group; adds to arrays the states that aren't written yet."""
        ended, kept = loop.ledger.ended & (loop.ledger.status != UNFINISHED), loop.kept.states
        parts, number = self._known
        if len(parts) >= _MOST_PARTS:
            parts = {}
        have = {row for rows in parts.values() for row in rows}
        parts = {part: rows for part, rows in parts.items() if any(row in kept for row in rows)}
        new = [row for row in kept if ended[row] and row not in have]
        if new:
            number += 1
            parts[f"states-{number}"] = new
            arrays[f"states-{number}"] = self._stacked(new, kept)
        found = {part: self._by_group(rows) for part, rows in parts.items()}
        best = [row for row in kept if not ended[row] and loop.ledger.best[row] >= 0]
        if best:
            arrays[_BEST] = self._stacked(best, kept)
            found[_BEST] = self._by_group(best)
        return found, _Known(parts, number)

    def _by_group(self, rows: Sequence[int]) -> dict[str, list[int]]:
        group = self._plan.group_of
        found: dict[str, list[int]] = {}
        for row in rows:
            found.setdefault(str(group[row]), []).append(row)
        return found

    def _stacked(self, rows: Sequence[int], states: Mapping[int, list[Any]]) -> dict[str, np.ndarray]:
        arrays = {}
        for group, own in self._by_group(rows).items():
            for i, leaves in enumerate(zip(*(states[row] for row in own), strict=True)):
                arrays[f"{group}/{i}"] = np.stack([bare(leaf) for leaf in leaves])
        return arrays

    def _restore_states(self, loop: Loop, group: int, rows: Sequence[int], arrays: Mapping[str, np.ndarray]) -> None:
        leaves = self._leaves(group, lambda i: arrays[f"{group}/{i}"])
        for place, row in enumerate(rows):
            loop.kept.states[row] = [leaf[place] if isinstance(leaf, jax.Array) else leaf[place, ...].copy() for leaf in leaves]

    def _leaves(self, group: int, get: Any) -> list[Any]:
        """A state's leaves, with a leading axis of lanes or rows; random keys are turned from data into keys again."""
        avals = inner.outputs(self._rehearsal.trials[group].init.jaxpr)
        return [clothed(get(i), aval.dtype) for i, aval in enumerate(avals)]

    def _cohort(self, own: Mapping[str, Any], arrays: Mapping[str, np.ndarray], i: int) -> Cohort:
        request = Request(*own["request"])
        stand = None
        if own["stand"]:
            frozen = {
                lane: [
                    leaf if not isinstance(leaf, np.ndarray) else leaf.copy()
                    for leaf in self._one(request.group, arrays, f"{i}/frozen{lane}")
                ]
                for lane in own["frozen"]
            }
            state = self._leaves(request.group, lambda j: arrays[f"{i}/{j}"])
            stand = Stand(state, arrays.get(f"{i}/watched"), arrays[f"{i}/diverged"].copy(), frozen)
        return Cohort(request, tuple(own["rows"]), stand, own["at"], own["goal"])

    def _one(self, group: int, arrays: Mapping[str, np.ndarray], prefix: str) -> list[Any]:
        return self._leaves(group, lambda j: arrays[f"{prefix}/{j}"])

    def _prolonged(self, loop: Loop, rows: Sequence[int]) -> list[Cohort]:
        """Cohorts of rows that had completed and now have more steps to train."""
        missing = [row for row in rows if row not in loop.kept.states or loop.ledger.best[row] >= 0]
        if missing:
            rule = "runs must have kept their last states to go on for more steps"
            fix = "a sweep whose store is to grow keeps all last states: keep=None, keep_best=False"
            raise ValueError(check.message(_WHERE, rule, f"none of row {missing[0]}", fix))
        cohorts = []
        lots: dict[Any, list[int]] = {}
        for row in rows:
            request = loop.restored[self._plan.group_of[row]]
            goal = loop.ledger.num_steps if self._policy is None else loop.ledger.at  # a policy decides how far they train
            lot = request, int(loop.ledger.at[row]), int(goal[row]), lot_by(self._plan, request.shared)(row)
            lots.setdefault(lot, []).append(row)
        for (request, at, goal, *_), own in lots.items():
            for i in range(0, len(own), request.width):
                chunk = own[i : i + request.width]
                filled = [*chunk, *[chunk[0]] * (request.width - len(chunk))]
                leaves: Any = zip(*(loop.kept.states[row] for row in filled), strict=True)
                state = [_stack(own_leaves) for own_leaves in leaves]
                stand = Stand(state, None, np.full(request.width, -1), {})
                cohorts.append(Cohort(request, tuple(chunk), stand, at, goal))
        for row in rows:
            loop.ledger.status[row], loop.ledger.ended[row] = UNFINISHED, False
            del loop.kept.states[row]
        self._known = _Known({}, self._known.number)
        return cohorts


def _warn_of(damaged: Sequence[str], steps: int) -> None:
    if damaged:
        rule, fix = "every file of the store must be as it was written", f"going on from the snapshot before, of {steps} steps"
        warnings.warn(check.message(_WHERE, rule, "; ".join(damaged), fix), RuntimeWarning, stacklevel=4)


def _set_aside(path: Any) -> list[str]:
    """Manifests that an earlier call renamed as damaged: in such a folder a sweep must not silently start from the beginning."""
    return sorted(name for name in map(os.fsdecode, os.listdir(path)) if name.startswith("snapshot-") and ".json.damaged" in name)


def _stack(leaves: Sequence[Any]) -> Any:
    return jnp.stack(leaves) if isinstance(leaves[0], jax.Array) else np.stack(leaves)


def _written_cohort(cohort: Cohort, arrays: dict[str, np.ndarray], i: int) -> dict[str, Any]:
    stand = cohort.stand
    if stand is not None:
        arrays |= {f"{i}/{j}": bare(leaf) for j, leaf in enumerate(stand.state)}
        arrays |= {f"{i}/{name}": array for name, array in (("diverged", stand.diverged), ("watched", stand.watched)) if array is not None}
        arrays |= {f"{i}/frozen{lane}/{j}": bare(leaf) for lane, leaves in stand.frozen.items() for j, leaf in enumerate(leaves)}
    return {
        "request": list(cohort.request),
        "rows": list(cohort.rows),
        "at": cohort.at,
        "goal": cohort.goal,
        "stand": stand is not None,
        "frozen": [] if stand is None else list(stand.frozen),
    }


def _written_tree(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A policy's state as JSON; its arrays are added to arrays."""
    if isinstance(tree, np.ndarray | np.generic | jax.Array):
        arrays[str(len(arrays))] = np.asarray(tree)
        return {"array": str(len(arrays) - 1)}
    if type(tree) is dict:
        return {"dict": [[name, _written_tree(value, arrays)] for name, value in tree.items()]}
    if type(tree) in (tuple, list):  # a NamedTuple would come back as a tuple
        return {type(tree).__name__: [_written_tree(value, arrays) for value in tree]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    rule = "the state of a policy must be made of dicts, tuples, lists, NumPy arrays and plain numbers"
    raise TypeError(check.message(_WHERE, rule, type(tree).__name__))


def _read_tree(node: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "array":
        return arrays[content]
    if kind == "dict":
        return {name: _read_tree(value, arrays) for name, value in content}
    return {"tuple": tuple, "list": list}[kind](_read_tree(value, arrays) for value in content)


_GROUP_FACTS = {
    "names": "the names that variants choose from",
    "outline": "the state that the recipe makes",
    "computes": "what the recipe computes",
    "holds": "the arrays that the recipe holds",
}


class _Difference(NamedTuple):
    what: str
    stored: Any
    given: Any


def _identity(plan: Plan, rehearsal: Rehearsal, data: Folds, settings: Settings, policy: Policy | None) -> dict[str, Any]:
    """Everything that must be the same for a stored sweep to continue, as JSON."""
    names = Names(value for variant in plan.variants for value in variant.hyperparameters.values() if type(value) is str)
    groups = [
        {
            "computes": inner.digest(trial.key),
            "outline": [str(aval) for aval in inner.outputs(trial.init.jaxpr)],
            "holds": inner.digest(trial.constants),
            "names": {name: list(each) for name, each in group.names.items()},
        }
        for group, trial in zip(plan.groups, rehearsal.trials, strict=True)
    ]
    group_of = plan.group_of
    variants = [
        {
            "hyperparameters": {
                name: written(value, names, f"{name} of variant {i}")
                for name, value in variant.hyperparameters.items()
                if name != "num_steps" or name in variant.static or name in variant.numbers  # else it is stored below, and may grow
            },
            "num_steps": int(variant.num_steps),
            "batch_size": None if variant.batch_size is None else int(variant.batch_size),
            "group": group_of[i * plan.runs],
        }
        for i, variant in enumerate(plan.variants)
    ]
    digests = [{name: part_digest(getattr(fold, name)) for name in ("train", "validation")} for fold in data]
    rule = None
    if policy is not None:
        own = {"name": policy.name, "settings": policy.settings, "metric": policy.metric, "mode": policy.mode}
        rule = {**own, "evolves": settings.evolves}
    return {
        "key": {"kind": key_kind(settings.key), "data": np.asarray(jax.random.key_data(settings.key)).ravel().tolist()},
        "data": digests if plan.has_folds else digests[0],
        "folds": len(data) if plan.has_folds else None,
        "randomness": settings.randomness,
        "replicates": int(plan.replicates),
        "eval_every": None if plan.eval_every is None else int(plan.eval_every),
        "metric": settings.rank.metric,
        "mode": settings.rank.mode,
        "keep": None if settings.keep is None else int(settings.keep),
        "keep_best": bool(settings.keep_best),
        "rule": rule,
        "groups": groups,
        "variants": variants,
    }


def _check_same(stored: Mapping[str, Any], given: Mapping[str, Any], path: str, versions: Mapping[str, str]) -> None:
    """Raises unless the given sweep is the stored one, perhaps with more variants or more steps.

    What a recipe computes can only be compared under the same JAX version; under another, only the shapes of its state are.
    """
    now = _versions()
    skipped: tuple[str, ...] = ()
    if versions["jax"] != now["jax"]:
        rule = "what the recipe computes can be compared under the JAX of the store alone"
        got = f"{now['jax']} after {versions['jax']}"
        warnings.warn(
            check.message(_WHERE, rule, got, "numbers go on to rounding; give another folder to begin anew"), RuntimeWarning, stacklevel=4
        )
        skipped = ("computes", "holds")
    plain = [name for name in given if name not in ("groups", "variants")]
    found = [_Difference(name, stored.get(name), given[name]) for name in plain if stored.get(name) != given[name]]
    old, new = stored["variants"], given["variants"]
    if len(new) < len(old):
        found.append(_Difference("variants", len(old), len(new)))
    for i, (one, other) in enumerate(zip(old, new, strict=False)):
        before = {name: value for name, value in one["hyperparameters"].items() if name in other["hyperparameters"] or name != "num_steps"}
        if before != other["hyperparameters"]:
            found.append(_Difference(f"variant {i}", one["hyperparameters"], other["hyperparameters"]))
            break
        if other["num_steps"] < one["num_steps"] or one["batch_size"] != other["batch_size"]:
            name = "batch_size" if one["batch_size"] != other["batch_size"] else "num_steps"
            found.append(_Difference(f"{name} of variant {i}", one[name], other[name]))
            break
    if not found:
        for i, (one, other) in enumerate(zip(stored["groups"], given["groups"], strict=False)):
            if any(one[name] != other[name] for name in one if name not in skipped):
                first = next(variant for variant, own in enumerate(old) if own["group"] == i)
                different = next(name for name in ("names", "outline", "computes", "holds") if one[name] != other[name])
                what = _GROUP_FACTS[different]
                found.append(_Difference(f"{what} (of variant {first})", "something else", "this"))
                break
    if found:
        shown = "; ".join(f"{each.what}: stored {_short(each.stored)}, given {_short(each.given)}" for each in found)
        fix = "give another folder, or the arguments of before; more variants go after the stored ones"
        raise ValueError(check.message(_WHERE, f"{path} must hold this very sweep", f"another ({shown})", fix))


def _check_grows(policy: Policy, plan: Plan, ledger: Mapping[str, np.ndarray], got: str) -> None:
    """Raises unless the policy decides the same as if the new variants or steps had been there from the start."""
    fix = "give another folder"
    if not policy.alone:
        raise ValueError(check.message(_WHERE, f"a sweep that prunes can't grow: {policy.name} has decided without what is new", got, fix))
    looks = {step for variant in plan.variants for step in plan.evaluations(variant.num_steps)}
    odd = [step for step in ledger["steps"][ledger["measured"].any(0)].tolist() if step not in looks]
    if odd:
        rule = f"a sweep that grows under {policy.name} must look wherever it has looked before"
        raise ValueError(check.message(_WHERE, rule, f"no look after step {odd[0]}", f"num_steps a multiple of eval_every; or {fix}"))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 100 else f"{text[:96]} ..."


def _versions() -> dict[str, str]:
    return {"jax": jax.__version__, "jaxlib": jaxlib.version.__version__, "numpy": np.__version__}
