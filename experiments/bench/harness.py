"""Timing: funcnet and its peers in turn, warm, on one workload; and whether they came to the same losses."""

import datetime
import importlib.metadata
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import ks_2samp

from experiments.bench import cold, ours
from experiments.bench.peers import peer
from experiments.bench.place import CPU, Place
from experiments.bench.program import CORES, Peer, Program
from experiments.bench.workloads import COLD, GOALS, Workload

SAME = 1e-4  # the median variant's relative difference in loss, where everyone starts alike and sees the same minibatches
ALIKE = 0.01  # least p-value of the two-sample Kolmogorov-Smirnov test, where random streams differ
OWN_STREAMS = ("sklearn",)  # peers that draw their initial weights and minibatches themselves


class Contestant(NamedTuple):
    """Someone ready to be timed."""

    program: Program
    indices: tuple[int, ...]  # of the variants it trains: all of them, or an even sample that stands for all
    form: str
    compile_seconds: float
    tried: dict[str, float]  # seconds for all variants, by form


def measure(
    workload: Workload,
    names: Iterable[str],
    *,
    repeats: int,
    patience: float,
    peak: float,
    tell: Callable = print,
    place: Place = CPU,
) -> dict[str, Any]:
    """One workload's part of the JSON.

    Args:
      workload: as its function in `WORKLOADS` makes it.
      names: the peers.
      repeats: rounds, in each of which everyone runs once.
      patience: seconds. Who has been timed for longer sits out the rounds that are left; who trains one variant after
        another, and would need longer for all of them, trains an even sample, and its time is scaled.
      peak: GFLOP/s of the machine's own matrix products.
      tell: takes a line that says what is going on.
      place: where everyone trains. The goals are those of a CPU: on a GPU there are none.
    """
    workload = ours.recorded(workload)
    if workload.name in COLD:
        timed, left_out = _cold(workload, names, repeats, patience, tell, place)
    else:
        timed, left_out = _warm(workload, names, repeats, patience, tell, place)
    rows = {name: row for name, (row, _) in timed.items()}
    own = timed["funcnet"][1]
    for name, (row, losses) in timed.items():
        if name != "funcnet":
            chosen = np.array(row["variants_run"])
            row["equal"], row["agreement"] = agreement(own[chosen], losses, streams_differ=workload.random_steps or name in OWN_STREAMS)
    for row in rows.values():
        row["variants_run"] = len(row["variants_run"])
    result = {
        "title": workload.title,
        "variants": len(workload.variants),
        "funcnet": rows.pop("funcnet"),
        "peers": rows,
        "left_out": left_out,
        "goals": {} if place.on_gpu else GOALS.get(workload.name, {}),
    }
    share = workload.flops() / result["funcnet"]["seconds"] / (peak * 1e9)
    return result | {"sgemm_fraction": None if workload.name in COLD else share}  # a cold start mostly compiles


def _warm(
    workload: Workload, names: Iterable[str], repeats: int, patience: float, tell: Callable, place: Place
) -> tuple[dict, dict[str, str]]:
    everyone, left_out = tuple(range(len(workload.variants))), {}
    tell(f"{workload.name}: funcnet compiles")
    first, program = _seconds(lambda: _run_once(ours.build(workload), everyone))
    contestants = {"funcnet": Contestant(program, everyone, "fn.sweep", first, {})}
    for name in names:
        tell(f"{workload.name}: {name} is made ready")
        try:
            contestants[name] = fastest(peer(name, place), workload, patience, tell)
        except (ImportError, NotImplementedError) as error:
            left_out[name] = str(error)
    try:
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        losses = {}
        for i in range(repeats):
            tell(f"{workload.name}: round {i + 1} of {repeats}")
            for name, contestant in contestants.items():
                if sum(seconds[name]) <= patience:
                    spent, losses[name] = _seconds(lambda contestant=contestant: contestant.program.run(contestant.indices))
                    seconds[name].append(spent)
    finally:
        for contestant in contestants.values():
            contestant.program.close()
    timed = {}
    for name, contestant in contestants.items():
        scale = len(everyone) / len(contestant.indices)
        compiling = contestant.compile_seconds
        if name == "funcnet":
            compiling = max(0.0, compiling - statistics.median(seconds[name]))
        row = _row([scale * spent for spent in seconds[name]], compiling, len(everyone), contestant.form, contestant.indices)
        timed[name] = (row | {"forms_tried": contestant.tried}, losses[name])
    return timed, left_out


def _cold(
    workload: Workload, names: Iterable[str], repeats: int, patience: float, tell: Callable, place: Place
) -> tuple[dict, dict[str, str]]:
    """Every run is a new process. W8 knows funcnet and optax_vmap, each without and with a filled compilation cache."""
    first_only = workload.name == "W8"
    names = [name for name in names if not first_only or name == "optax_vmap"]
    everyone, left_out, timed = tuple(range(len(workload.variants))), {}, {}
    with cold.Processes(workload, first_only, place) as processes:
        seconds: dict[str, list[float]] = {"funcnet": [], **{name: [] for name in names}}
        outcomes, cached = {}, {name: [] for name in seconds}
        for i in range(repeats):
            for name in list(seconds):
                if sum(seconds[name]) > patience:
                    continue
                tell(f"{workload.name}: {name} from a cold start, {i + 1} of {repeats}")
                try:
                    spent, outcomes[name] = processes.run(name, cached=False)
                    seconds[name].append(spent)
                    if first_only:
                        if i == 0:
                            processes.run(name, cached=True)  # fills the cache
                        cached[name].append(processes.run(name, cached=True)[0])
                except cold.CannotRun as error:
                    left_out[name] = str(error)
                    del seconds[name]
    for name, spent in seconds.items():
        outcome = outcomes[name]
        row = _row(spent, outcome["compile_seconds"], len(everyone), outcome["form"], everyone)
        if first_only:
            row |= {f"cached_{key}": value for key, value in _spread(cached[name]).items()}
        timed[name] = (row, np.array(outcome["losses"]))
    return timed, left_out


def fastest(found: Peer, workload: Workload, patience: float, tell: Callable) -> Contestant:
    """The peer in the form that is fastest here; a peer that goes one at a time tries its forms on a few variants."""
    everyone = tuple(range(len(workload.variants)))
    trial = thinned(everyone, 4 * CORES) if found.one_at_a_time else everyone
    best, tried, reasons = None, {}, []
    for form, build in found.forms.items():
        try:
            program = build(workload)
        except NotImplementedError as error:
            reasons.append(str(error))
            continue
        try:
            first, _ = _seconds(lambda program=program: program.run(trial))
            ahead = program.compile_seconds > 0 and first > patience  # compiled ahead of time: its first run is a warm one
            warm = first if ahead else _seconds(lambda program=program: program.run(trial))[0]
        except Exception as error:  # a form that this library version can't run: said in the results, and the others stand
            reasons.append(f"{form}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")
            tell(f"{workload.name}:   {reasons[-1]}")
            program.close()
            continue
        tried[form] = warm * len(everyone) / len(trial)
        tell(f"{workload.name}:   {form}: {tried[form]:.3g} s")
        if best is None or tried[form] < tried[best.form]:
            if best is not None:
                best.program.close()
            best = Contestant(program, trial, form, program.compile_seconds + max(0.0, first - warm), tried)
        else:
            program.close()
    if best is None:
        raise NotImplementedError("; ".join(dict.fromkeys(reasons)))
    affordable = max(len(trial), math.floor(len(everyone) * patience / tried[best.form]))
    return best._replace(indices=thinned(everyone, affordable) if found.one_at_a_time else everyone)


def thinned(indices: tuple[int, ...], count: int) -> tuple[int, ...]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if count >= len(indices):
        return indices
    places = np.unique(np.round(np.linspace(0, len(indices) - 1, count)).astype(int))
    return tuple(indices[place] for place in places)


def agreement(ours: np.ndarray, theirs: np.ndarray, *, streams_differ: bool) -> tuple[bool, str]:
    """Whether two sets of final losses are of the same work, and the measure of it."""
    both = np.isfinite(ours) & np.isfinite(theirs)
    if np.mean(both) < 0.9 * max(np.mean(np.isfinite(ours)), np.mean(np.isfinite(theirs))):
        return False, f"{np.sum(np.isfinite(ours))} and {np.sum(np.isfinite(theirs))} of {len(ours)} losses are finite"
    ours, theirs = np.asarray(ours, float)[both], np.asarray(theirs, float)[both]
    if streams_differ:
        p = ks_2samp(ours, theirs).pvalue
        return bool(p >= ALIKE), f"Kolmogorov-Smirnov p = {p:.2g}"
    difference = float(np.median(np.abs(theirs - ours) / np.maximum(np.abs(ours), 1e-12)))
    return difference <= SAME, f"median relative difference {difference:.1e}"


def sgemm_peak(place: Place = CPU, size: int | None = None, seconds: float = 2.0) -> dict[str, float]:
    """GFLOP/s of a product of two square float32 matrices, the best of many: by XLA and PyTorch, and on a CPU, on all cores, by NumPy.

    Args:
      size: rows of the matrices; 2,048 on a CPU and 8,192 on a GPU if left out.
    """
    size = size or (8192 if place.on_gpu else 2048)
    matrix = np.random.default_rng(0).random((size, size), np.float32)
    product, on_device = jax.jit(jnp.matmul), jnp.asarray(matrix)
    jax.block_until_ready(product(on_device, on_device))
    peaks = {"xla": _sgemm(lambda: jax.block_until_ready(product(on_device, on_device)), size, seconds)}
    if not place.on_gpu:
        peaks = {"numpy": _sgemm(lambda: matrix @ matrix, size, seconds)} | peaks
    code = (
        "import torch; from experiments.bench.harness import _sgemm;"
        f"torch.set_num_threads({CORES}); matrix = torch.rand({size}, {size}, device={place.torch!r});"
        f"print(_sgemm(lambda: (matrix @ matrix)[0, 0].item(), {size}, {seconds}))"  # a number is there when the product is
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cold.ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        peaks["torch"] = float(done.stdout)
    return peaks


def _sgemm(multiply: Callable[[], Any], size: int, seconds: float) -> float:
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e9


def machine(peaks: dict[str, float], place: Place = CPU) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in ("funcnet", "jax", "jaxlib", "torch", "optax", "flax", "scikit-learn", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "platform": place.platform,
        "device": place.device_name() if place.on_gpu else _cpu(),
        "cpu": _cpu(),
        "cores": CORES,
        "versions": versions,
        "sgemm_gflops": max(peaks.values()),
        "sgemm_gflops_by": peaks,
        "date": datetime.date.today().isoformat(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def _row(seconds: list[float], compile_seconds: float, variants: int, form: str, indices: tuple[int, ...]) -> dict[str, Any]:
    spread = _spread(seconds)
    return spread | {
        "compile_seconds": compile_seconds,
        "variants_per_second": variants / spread["seconds"],
        "form": form,
        "variants_run": indices,
    }


def _spread(seconds: list[float]) -> dict[str, Any]:
    return {"seconds": statistics.median(seconds), "seconds_min": min(seconds), "seconds_max": max(seconds), "runs": len(seconds)}


def _seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    outcome = run()
    return time.perf_counter() - began, outcome


def _run_once(program: Program, indices: tuple[int, ...]) -> Program:
    program.run(indices)
    return program
