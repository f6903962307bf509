"""Timing: funcnet and its peers in turn, warm, on one workload; and whether they came to the same losses."""

import contextlib
import datetime
import functools
import importlib.metadata
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import ks_2samp

from experiments.bench import cold, ours, timing
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
    rows, losses, left_out = (_cold if workload.name in COLD else _warm)(workload, names, repeats, patience, tell, place)
    for name, row in rows.items():
        indices = row["variants_run"]
        row["variants_run"] = len(indices)
        if name != "funcnet":
            differ = workload.random_steps or name in OWN_STREAMS
            row["equal"], row["agreement"] = agreement(losses["funcnet"][list(indices)], losses[name], streams_differ=differ)
    share = workload.flops() / rows["funcnet"]["seconds"] / (peak * 1e9)
    return {
        "title": workload.title,
        "variants": len(workload.variants),
        "funcnet": rows.pop("funcnet"),
        "peers": rows,
        "left_out": left_out,
        "goals": {} if place.on_gpu else GOALS.get(workload.name, {}),
        "sgemm_fraction": None if workload.name in COLD else share,  # a cold start mostly compiles
    }


Timed = tuple[dict[str, dict], dict[str, np.ndarray], dict[str, str]]  # rows and final losses, by name; and why who is left out


def _warm(workload: Workload, names: Iterable[str], repeats: int, patience: float, tell: Callable, place: Place) -> Timed:
    everyone, left_out, losses = tuple(range(len(workload.variants))), {}, {}
    tell(f"{workload.name}: funcnet compiles")
    program = ours.build(workload)
    contestants = {"funcnet": Contestant(program, everyone, "fn.sweep", timing.seconds_of(lambda: program.run(everyone))[0], {})}
    for name in names:
        tell(f"{workload.name}: {name} is made ready")
        try:
            contestants[name] = fastest(peer(name, place), workload, patience, tell)
        except (ImportError, NotImplementedError) as error:
            left_out[name] = str(error)

    def run(name: str) -> float:
        contestant = contestants[name]
        seconds, losses[name] = timing.seconds_of(lambda: contestant.program.run(contestant.indices))
        return seconds

    try:
        runs = {name: functools.partial(run, name) for name in contestants}
        seconds = timing.in_turn(runs, repeats, patience, lambda line: tell(f"{workload.name}: {line}"))
    finally:
        for contestant in contestants.values():
            contestant.program.close()
    rows = {}
    for name, (_, indices, form, compiling, tried) in contestants.items():
        compiling -= statistics.median(seconds[name]) if name == "funcnet" else 0.0
        scaled = [spent * len(everyone) / len(indices) for spent in seconds[name]]
        rows[name] = _row(scaled, max(0.0, compiling), len(everyone), form, indices) | {"forms_tried": tried}
    rows["funcnet"]["foreseen"] = ours.foreseen(workload)
    return rows, losses, left_out


def _cold(workload: Workload, names: Iterable[str], repeats: int, patience: float, tell: Callable, place: Place) -> Timed:
    """Every run is a new process. W8 knows funcnet and optax_vmap, each without and with a filled compilation cache."""
    first_only, everyone = workload.name == "W8", tuple(range(len(workload.variants)))
    names = ["funcnet", *(name for name in names if not first_only or name == "optax_vmap")]
    outcomes, left_out = {}, {}
    with tempfile.TemporaryDirectory() as folder:

        def run(name: str, cached: bool) -> float:
            cache = Path(folder, name) if cached else None
            try:
                if cached and not cache.exists():
                    cold.start(workload, name, cache, place)  # fills it
                seconds, outcome = cold.start(workload, name, cache, place)
            except cold.CannotRun as error:
                left_out[name] = str(error)
                return math.inf  # it sits out the other rounds
            if not cached:
                outcomes[name] = outcome
            return seconds

        runs = {}
        for name in names:
            runs |= {name: functools.partial(run, name, False)}
            runs |= {f"{name} cached": functools.partial(run, name, True)} if first_only else {}
        seconds = timing.in_turn(runs, repeats, patience, lambda line: tell(f"{workload.name} from a cold start: {line}"))
    rows = {}
    for name, outcome in outcomes.items():
        rows[name] = _row(seconds[name], outcome["compile_seconds"], len(everyone), outcome["form"], everyone)
        if first_only:
            rows[name] |= {f"cached_{key}": value for key, value in _spread(seconds[f"{name} cached"]).items()}
    return rows, {name: np.array(outcome["losses"]) for name, outcome in outcomes.items()}, left_out


def fastest(found: Peer, workload: Workload, patience: float, tell: Callable) -> Contestant:
    """The peer in the form that is fastest here; a peer that goes one at a time tries its forms on a few variants."""
    everyone = tuple(range(len(workload.variants)))
    trial = thinned(everyone, 4 * CORES) if found.one_at_a_time else everyone
    best, tried, reasons = None, {}, []
    for form, build in found.forms.items():
        program = None
        try:
            program = build(workload)
            first = timing.seconds_of(lambda program=program: program.run(trial))[0]
            ahead = program.compile_seconds > 0 and first > patience  # compiled ahead of time: its first run is a warm one
            warm = first if ahead else timing.seconds_of(lambda program=program: program.run(trial))[0]
        except Exception as error:  # a form that this workload, library version or device can't have: it is said, and the others stand
            text = (str(error).strip().splitlines() or [""])[0]
            reasons.append(text if isinstance(error, NotImplementedError) else f"{form}: {type(error).__name__}: {text}")
            tell(f"{workload.name}:   {form}: {reasons[-1]}")
            if program is not None:
                program.close()
            continue
        tried[form] = warm * len(everyone) / len(trial)
        tell(f"{workload.name}:   {form}: {tried[form]:.3g} s")
        beaten = program
        if best is None or tried[form] < tried[best.form]:
            beaten = best and best.program
            best = Contestant(program, trial, form, program.compile_seconds + max(0.0, first - warm), tried)
        if beaten:
            beaten.close()
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
    peaks = {"xla": _sgemm(lambda: jax.block_until_ready(product(on_device, on_device)), size, seconds)}
    if not place.on_gpu:
        peaks["numpy"] = _sgemm(lambda: matrix @ matrix, size, seconds)
    with contextlib.suppress(RuntimeError):  # PyTorch isn't installed, or not for this device
        peaks["torch"] = timing.fresh("from experiments.bench.harness import torch_peak as run", place.torch, size, seconds)
    return peaks


def torch_peak(device: str, size: int, seconds: float) -> float:
    """By PyTorch, in the process that calls it."""
    import torch

    torch.set_num_threads(CORES)
    matrix = torch.rand(size, size, device=device)
    return _sgemm(lambda: (matrix @ matrix)[0, 0].item(), size, seconds)  # a number is there when the product is


def _sgemm(multiply: Callable[[], Any], size: int, seconds: float) -> float:
    multiply()  # compiles
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, timing.seconds_of(multiply)[0])
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
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _row(seconds: list[float], compile_seconds: float, variants: int, form: str, indices: tuple[int, ...]) -> dict[str, Any]:
    spread = _spread(seconds)
    return spread | {
        "compile_seconds": compile_seconds,
        "variants": variants,
        "variants_per_second": variants / spread["seconds"],
        "form": form,
        "variants_run": indices,
    }


def _spread(seconds: list[float]) -> dict[str, Any]:
    return {"seconds": statistics.median(seconds), "seconds_min": min(seconds), "seconds_max": max(seconds), "runs": len(seconds)}
