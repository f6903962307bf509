"""`sweep`: trains every variant of a recipe, many at once."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import check, inner
from funcnet.data import AnyDataset, Split
from funcnet.folds import Folds, alike, are_folds, as_folds
from funcnet.policy import Policy
from funcnet.spaces import Variants, as_variants
from funcnet.sweeps.events import Callback, log
from funcnet.sweeps.executors import Executor, Threads, local_slots
from funcnet.sweeps.judge import Facts, Judge, check_policy, facts_of
from funcnet.sweeps.kept import Rank
from funcnet.sweeps.ledger import UNFINISHED, Ledger, new_ledger
from funcnet.sweeps.loop import Loop, Settings
from funcnet.sweeps.mixed import cut
from funcnet.sweeps.pack import key_kind, one_key_for_all
from funcnet.sweeps.planning import Plan, Recipe, make_plan
from funcnet.sweeps.progress import Progress, Reporter, reporter
from funcnet.sweeps.ranking import default_metric, wanted_mode
from funcnet.sweeps.rehearsal import Rehearsal, rehearse
from funcnet.sweeps.remote import Remote
from funcnet.sweeps.result import Lineage, SweepResult
from funcnet.sweeps.store import Store
from funcnet.train import check_length
from funcnet.tree import examples_of


class SweepInterrupted(BaseException):
    """A sweep ended early; `result` holds its rows so far, those that had not ended with the status "unfinished".

    Each subclass is also a built-in error, by what ended the sweep: a RuntimeError (`SweepFailed`), a KeyboardInterrupt
    (`SweepStopped`, which `except Exception` doesn't catch), or, under `jax_debug_nans`, a FloatingPointError (`SweepNotFinite`).
    """

    def __init__(self, message: str, result: SweepResult):
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.result)


class SweepFailed(SweepInterrupted, RuntimeError):
    """An error ended the sweep while it trained."""


class SweepStopped(SweepInterrupted, KeyboardInterrupt):
    """The user stopped the sweep, such as by Ctrl-C."""


class SweepNotFinite(SweepInterrupted, FloatingPointError):
    """A run diverged while jax_debug_nans or jax_debug_infs was on."""


def sweep(
    recipe: Recipe,
    variants: Variants | Iterable[Mapping[str, Any]],
    data: Split | AnyDataset | Sequence[Split],
    *,
    key: jax.Array,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    batch_size: int | None,
    eval_every: int | None = None,
    replicates: int = 1,
    progress: bool | Callable[[Progress], None] | None = None,
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    randomness: str = "shared",
    keep: int | None = None,
    keep_best: bool = False,
    metric: str | None = None,
    mode: str | None = None,
    prune: Policy | None = None,
    evolve: Policy | None = None,
    max_seconds: float | None = None,
    store: str | os.PathLike[str] | None = None,
    callback: Callback | None = None,
    executor: Any = None,
) -> SweepResult:
    """Trains every variant of a recipe, many at once.

    Variants that differ only in floats share a program and train in its lanes. Each value of any other hyperparameter (int, bool,
    str, tuple, function) picks a program. `static` and `traced` change this (with `traced`, widths may share a program). Before
    anything is compiled, the recipe is called once with each variant's values, so that the recipe's own checks see them. `plan`, called
    with the same arguments, estimates what the sweep will take.

    Args:
      recipe: recipe(**hyperparameters) -> `Training`, or any triple of functions of its form.
      variants: `grid(...)`, `space(...).sample(...)`, or a list of dicts. Three hyperparameters have a meaning for the sweep itself:
        batch_size, num_steps, and num_examples, which limits a variant to that many training examples, the first ones.
        A recipe that declares one of these as an argument gets it too.
      data: a `Split`; or a `Dataset` or `WeightedDataset` to train on without validation; or a list of splits, such as `k_fold`
        gives: each variant then has a run on each of these folds, in the same programs even if fold sizes differ, and is ranked by
        the mean over them. The table then has a column "fold". The smallest fold decides how long an epoch is. A run's numbers are,
        to rounding, those of training on its fold alone; only dropout masks differ, if fold sizes differ and batch_size is None.
      key: decides everything random. Replicate r of a variant gets fold_in(key, r).
      num_steps: steps each run takes, at least 1; give either this or num_epochs.
      num_epochs: passes of each run over its training examples, at least 1: num_epochs * (examples // batch_size) steps, with the
        variant's own batch_size and num_examples; one step an epoch if batch_size is None. eval_every still counts steps.
      batch_size: examples in a step's minibatch, at most the number of training examples; None takes all of them.
      eval_every: steps between the evaluations that the curves show; None evaluates once, after the last step.
      replicates: runs of each variant, each with its own key.
      progress: None or True for a bar in a terminal (if tqdm is installed) and plain lines elsewhere; False for
        silence; or a function that is called with a `Progress`.
      chunk_size: how many runs train together; by default as many as keep every core busy within the memory budget.
      memory_budget: bytes that training may take, the data and all threads together. The default is three quarters of the memory that
        is free on a GPU or TPU, or for a CPU of what the system, container or job still allows. A chunk that runs out of memory
        all the same is halved. Data that is mapped from a file (`np.load(path, mmap_mode="r")`) doesn't count and may be larger.
      randomness: "shared" gives the variants of one replicate the same key, hence the same initial weights, minibatches and
        dropout masks: they are compared under common random numbers. "independent" folds the variant's index in as well.
      keep: how many variants, the best ones, to keep a final state of (that of the variant's best run); None keeps every run's.
      keep_best: keep each run's state at its best evaluation rather than the last one, show its metrics there (and a column
        "best_step"), and rank by them; runs that were pruned or are unfinished are then ranked too.
      metric: the metric that variants are ranked, printed and kept by; the default is the validation loss (without validation data the
        training loss), or, if the training reports no loss, the first metric that it reports.
      mode: whether a small ("min") or a large ("max") value of the metric is good; may be left out if that is known: for losses,
        `METRICS`, and metrics whose mode the training gives.
      prune: a rule that stops poor variants early, such as `funcnet.prune.successive_halving(100)`. All runs of a variant continue
        or stop together. Stopped runs have the status "pruned", and the column "pruned_by" names the rule.
      evolve: `population()`: at its evaluations poor variants copy the states of good ones and continue with changed numbers. The
        result's `lineage` says which run copied which, and each run's numbers over time. Not together with `prune`.
      max_seconds: after this many seconds the sweep ends and returns what it has; runs that have not ended are "unfinished".
      callback: a function that is called with an `Evaluation` whenever rows have been measured, such as one that logs to TensorBoard.
      store: a folder, made if need be, in which the sweep saves itself while it trains. The same call continues from there, also after
        a crash; once the sweep has finished it returns the result. A later call may add variants, after the first ones, or steps,
        unless a rule has compared variants.
      executor: any `concurrent.futures.Executor`, whose workers train the chunks: a `ProcessPoolExecutor` (of spawned processes), Dask's
        `Client.get_executor()`, `mpi4py.futures.MPIPoolExecutor`. The sweep doesn't shut it down. With the same `chunk_size` the
        result is bit for bit the one computed here, on machines of the same kind. The recipe is sent by cloudpickle if that is
        installed, else by reference; the data is sent with the first tasks, then to workers that ask. `memory_budget` is per worker.

    Returns:
      A `SweepResult`. A run that becomes non-finite is frozen and marked "diverged"; the other runs are unaffected.

    Raises:
      ValueError, TypeError: an argument, a hyperparameter or the data is invalid; nothing has been trained.
      SweepInterrupted: something failed during training, or the user stopped it; its `result` holds the runs so far.

    Example:
      >>> import numpy as np
      >>> import funcnet as fn
      >>> def recipe(learning_rate):
      ...     return fn.training(fn.dense(1), fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> data = fn.split(fn.Dataset(x, 3 * x), key=jax.random.key(0))
      >>> variants = fn.grid(learning_rate=[1e-3, 1e-2, 1e-1])
      >>> result = sweep(recipe, variants, data, key=jax.random.key(1), num_steps=200, batch_size=16, progress=False)
      >>> result.best("validation/loss").hyperparameters
      {'learning_rate': 0.1}
    """
    began = time.monotonic()
    inner.warn_of_wrong_jax("sweep")
    with inner.no_mesh():  # each chunk trains on one device
        key, data, variants, plan, rehearsal, rank, policy = prepare(
            recipe,
            variants,
            data,
            key=key,
            num_steps=num_steps,
            num_epochs=num_epochs,
            batch_size=batch_size,
            eval_every=eval_every,
            replicates=replicates,
            chunk_size=chunk_size,
            memory_budget=memory_budget,
            randomness=randomness,
            keep=keep,
            keep_best=keep_best,
            metric=metric,
            mode=mode,
            prune=prune,
            evolve=evolve,
            max_seconds=max_seconds,
            store=store,
            callback=callback,
        )
        deadline = None if max_seconds is None else began + float(max_seconds)
        raises = inner.flag("jax_debug_nans") or inner.flag("jax_debug_infs")
        settings = Settings(key, chunk_size, randomness, keep, keep_best, rank, raises, deadline, callback, evolve is not None)
        tell, close = reporter(progress)
        try:
            kept = None if store is None else Store(store, plan, rehearsal, data, settings, policy)
            try:
                if executor is None:
                    place: Executor = Threads(rehearsal.trials, data, key, local_slots(), memory_budget)
                else:
                    told, fits = log if kept is None else kept.event, chunk_size is None
                    place = Remote(executor, plan, rehearsal.trials, data, key, memory_budget, told, fits=fits)
                ledger = new_ledger(plan, rehearsal.metrics, kept.steps if kept else [])
                facts = facts_of(variants, ledger, key, evolves=evolve is not None)
                judge = None if policy is None else judge_of(policy, ledger, plan, rehearsal, rank, facts)
                return _carried_out(plan, rehearsal, ledger, place, settings, judge, None if progress is False else tell, kept)
            finally:
                if kept is not None:
                    kept.close()
        finally:
            close()


class Prepared(NamedTuple):
    """A sweep's checked arguments, and the outcome of rehearsing its recipe."""

    key: jax.Array
    data: Folds
    variants: Variants
    plan: Plan
    rehearsal: Rehearsal
    rank: Rank
    policy: Policy | None


def prepare(
    recipe: Recipe,
    variants: Variants | Iterable[Mapping[str, Any]],
    data: Split | AnyDataset | Sequence[Split],
    *,
    key: jax.Array,
    num_steps: int | None,
    num_epochs: int | None,
    batch_size: int | None,
    eval_every: int | None,
    replicates: int,
    chunk_size: int | None,
    memory_budget: int | None,
    randomness: str,
    keep: int | None,
    keep_best: bool,
    metric: str | None,
    mode: str | None,
    prune: Policy | None,
    evolve: Policy | None,
    max_seconds: float | None,
    store: str | os.PathLike[str] | None,
    callback: Callback | None,
) -> Prepared:
    """Checks the arguments of `sweep` and rehearses its recipe; no program of the sweep is compiled and nothing is trained."""
    key = _as_key(key)
    _check_arguments(key, num_steps, num_epochs, chunk_size, memory_budget, randomness, keep)
    if max_seconds is not None:
        check.in_range("sweep", "max_seconds", max_seconds, 0, ends="()", fix="None for as long as it takes")
    if callback is not None and not callable(callback):
        raise TypeError(check.message("sweep", "callback must be a function of an Evaluation", repr(callback), "such as print"))
    if store is not None and not isinstance(store, str | os.PathLike):
        raise TypeError(check.message("sweep", "store must be the path of a folder", repr(store)))
    folds = as_folds("sweep", data)
    variants, own = as_variants("sweep", variants), dict(num_steps=num_steps, num_epochs=num_epochs, batch_size=batch_size)
    plan = make_plan(
        recipe,
        variants,
        [examples_of(fold.train.y) for fold in folds],
        has_folds=are_folds(data),
        **own,
        eval_every=eval_every,
        replicates=replicates,
    )
    folds = alike(folds)
    apart = "a store may grow by others" if store is not None else "numbers that evolve must leave shapes as they are" if evolve else ""
    plan, rehearsal = rehearse(plan, variants, folds, key, apart=apart)
    rank = _rank(rehearsal, metric, mode, needed=keep is not None or keep_best)
    if prune is not None and evolve is not None:
        raise ValueError(check.message("sweep", "must have one policy", "prune and evolve", "leave out one of them"))
    policy = prune if evolve is None else evolve
    if policy is not None:
        plan = _with_looks(plan, policy, "prune" if evolve is None else "evolve")
    return Prepared(key, folds, variants, plan, rehearsal, rank, policy)


def _carried_out(
    plan: Plan,
    rehearsal: Rehearsal,
    ledger: Ledger,
    executor: Executor,
    settings: Settings,
    judge: Judge | None,
    tell: Reporter | None,
    store: Store | None,
) -> SweepResult:
    loop = Loop(plan, rehearsal, ledger, executor, settings, judge, tell)
    if store is not None:
        store.restore(loop)
        loop.checkpoint, loop.event = store.save, store.event
    loop.event("begun" if store is None or not store.resumed else "resumed", runs=len(plan.rows), programs=len(plan.groups))
    for note in rehearsal.notes:
        loop.event("sizes", of=note)
    goes_on = ""
    try:
        loop.run()
    except BaseException as error:
        executor.close(cancel=True)
        loop.settings = loop.settings._replace(callback=None)  # it may be what failed, and noting its evaluation again would call it again
        loop.event("failed" if isinstance(error, Exception) else "stopped", error=f"{type(error).__name__}: {error}")
        if store is not None:
            goes_on = _stored_to_go_on(loop, store)
        loop.give_up()
        if not loop.ledger.ended.any():
            raise
        done = int((loop.ledger.ended & (loop.ledger.status != UNFINISHED)).sum())
        what = f"sweep: {type(error).__name__} after {done} of {len(plan.rows)} runs, which the error's .result holds{goes_on}"
        said = f"{what}: {error}" if str(error) else what
        raise interruption_of(error)(said, _result(loop, rehearsal, store)) from error
    executor.close()
    loop.event(
        "finished" if loop.ledger.ended.all() and UNFINISHED not in loop.ledger.status else "out of time", seconds=round(loop.seconds(), 3)
    )
    return _result(loop, rehearsal, store)


def _stored_to_go_on(loop: Loop, store: Store) -> str:
    """Stores how far an interrupted sweep has come; returns advice on how to continue it."""
    try:
        loop.end_early()
    except Exception as error:
        return f"; the store has the snapshot before, since another could not be written ({error}); the same call goes on from there"
    return "; the same call goes on from what is stored"


def _result(loop: Loop, rehearsal: Rehearsal, store: Store | None) -> SweepResult:
    """The `SweepResult` of everything that has been trained so far."""
    plan, ledger = loop.plan, loop.ledger
    policy = None if loop.judge is None or loop.judge.copies else loop.judge.policy.name
    outcome = ledger.outcome(plan.columns(), best=loop.settings.keep_best, rule=policy)
    timing = {
        "seconds": loop.seconds(),
        "compile_seconds": loop.executor.seconds,
        "programs": loop.executor.made,
        "halved": loop.halvings,
        "store_seconds": 0.0 if store is None else store.seconds,
        "lane_widths": [loop.widths.get(group, 0) for group in range(len(plan.groups))],
    }
    if isinstance(loop.executor, Remote):
        timing["workers"] = sorted(loop.executor.workers)
    names = {plan.rows[row].variant: group.names for group in plan.groups for row in group.rows}
    structures = {row: rehearsal.trials[i].structure for i, group in enumerate(plan.groups) for row in group.rows}
    rank = loop.settings.rank
    taken = dict.fromkeys(name for each in plan.variants for name in [*each.static, *each.numbers, *each.names] if name not in each.own)
    return SweepResult(
        [variant.hyperparameters for variant in plan.variants],
        outcome,
        ledger.curves(),
        {row: jax.tree.unflatten(structures[row], _of_its_size(plan, row, leaves)) for row, leaves in loop.kept.states.items()},
        plan.recipe,
        list(taken),
        timing,
        metric=rank.metric,
        mode=rank.mode,
        modes=rehearsal.modes,
        settings=[variant.own for variant in plan.variants],
        options=[names[variant] for variant in range(len(plan.variants))],
        lineage=Lineage(ledger.generations, ledger.parents, ledger.history) if loop.judge is not None and loop.judge.copies else None,
    )


def _of_its_size(plan: Plan, row: int, leaves: list[Any]) -> list[Any]:
    """A row's state without its padding, if it shared a program with larger sizes."""
    sizes = plan.groups[plan.group_of[row]].sizes
    return leaves if sizes is None else cut(leaves, sizes.of(plan.of_row(row).numbers))


def interruption_of(error: BaseException) -> type[SweepInterrupted]:
    """The subclass of `SweepInterrupted` for an error."""
    if isinstance(error, KeyboardInterrupt):
        return SweepStopped
    return SweepNotFinite if isinstance(error, FloatingPointError) else SweepFailed


def _as_key(key: Any) -> jax.Array:
    """The key as a typed one (`jax.random.key`), checked to be a single random key."""
    check.random_key("sweep", key)
    typed: jax.Array = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(jnp.asarray(key))
    return typed


def _check_arguments(
    key: jax.Array,
    num_steps: int | None,
    num_epochs: int | None,
    chunk_size: int | None,
    memory_budget: int | None,
    randomness: str,
    keep: int | None,
) -> None:
    check_length("sweep", num_steps, num_epochs)
    for name, value in (("chunk_size", chunk_size), ("memory_budget", memory_budget), ("keep", keep)):
        if value is not None:
            check.whole("sweep", name, value, 1)
    check.one_of("sweep", "randomness", randomness, ("shared", "independent"))
    if randomness == "independent" and one_key_for_all(key):
        rule = "key must be of a kind that jax.vmap draws from rightly where every variant has its own"
        raise ValueError(check.message("sweep", rule, f"{key_kind(key)}", 'jax.random.key(0, impl="threefry2x32"), or randomness="shared"'))


def _with_looks(plan: Plan, policy: Policy, argument: str) -> Plan:
    """The plan with an evaluation of every run at each step where any run is evaluated or the policy looks."""
    check_policy(f"sweep: {argument}", policy)
    lengths = {variant.num_steps for variant in plan.variants}
    looks = {step for length in lengths for step in plan.evaluations(length)}
    if policy.looks is None:
        if not any(step < length for length in lengths for step in looks):
            rule = f"{argument}={policy.name} must have evaluations to decide by before the last step"
            raise ValueError(check.message("sweep", rule, f"eval_every={plan.eval_every}", "give a smaller eval_every"))
    else:
        looks |= set(policy.looks(max(lengths)))
    return plan._replace(looks=tuple(sorted(looks)))


def judge_of(policy: Policy, ledger: Ledger, plan: Plan, rehearsal: Rehearsal, rank: Rank, facts: Facts) -> Judge:
    name = rank.metric if policy.metric is None else policy.metric
    check.one_of(policy.name, "metric", name, rehearsal.metrics)
    mode = policy.mode or (rank.mode if name == rank.metric else None)
    return Judge(policy, ledger, plan, name, wanted_mode(policy.name, name, mode, rehearsal.modes), facts)


def _rank(rehearsal: Rehearsal, metric: str | None, mode: str | None, *, needed: bool) -> Rank:
    """The metric and mode that variants are ranked by; an unknown mode is an error if the user gave either, or `needed`."""
    if metric is not None:
        check.one_of("sweep", "metric", metric, rehearsal.metrics)
    name = default_metric(rehearsal.metrics) if metric is None else metric
    try:
        return Rank(name, wanted_mode("sweep", name, mode, rehearsal.modes))
    except ValueError:
        if metric is not None or mode is not None or needed:
            raise
        return Rank(name, None)
