"""What bounds funcnet on a workload: the time of its step's kernels, by what they do, from JAX's own profiler.

python -m experiments.bench.profile [W1 W6 ...]
"""

import argparse
import collections
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from experiments.bench.program import CORES
from experiments.bench.workloads import COLD, WORKLOADS

ROOT = Path(__file__).parents[2]
STEPS = 64  # of a sweep that is profiled: a trace of many more slows what it traces
KINDS = ("products", "sums", "elementwise", "copies")
WARM = tuple(name for name in WORKLOADS if name not in COLD)


def record(name: str, folder: Path) -> float:
    """The sweep's seconds, warm; the profile of a short one, which runs the same program, is left in the folder."""
    import jax

    from experiments.bench import ours

    workload, seconds = WORKLOADS[name](), []
    everyone = tuple(range(len(workload.variants)))
    sweep, short = ours.build(workload), ours.build(workload._replace(num_steps=STEPS))
    for _ in range(4):
        began = time.perf_counter()
        sweep.run(everyone)
        seconds.append(time.perf_counter() - began)
    short.run(everyone)
    with jax.profiler.trace(folder):
        short.run(everyone)
    return statistics.median(seconds[1:])


def kinds_of(text: str) -> dict[str, str]:
    """What each instruction of a compiled program does, by its name.

    A fusion is a product if it holds one, or else a sum if it holds a reduction.
    """
    bodies: dict[str, str] = dict(re.findall(r"^%?([\w.-]+) \(.*?\{\n(.*?)^\}", text, re.M | re.S))

    def kind(operation: str, body: str) -> str | None:
        if operation in ("dot", "convolution") or re.search(r" (dot|convolution)\(", body):
            return "products"
        if operation.startswith("reduce") or re.search(r" reduce(-window)?\(", body):
            return "sums"
        if operation in ("while", "call", "conditional", "get-tuple-element", "tuple", "parameter", "bitcast", "constant"):
            return None  # its parts have events of their own, or it takes no time
        return "copies" if operation in ("copy", "transpose", "concatenate", "pad", "slice") else "elementwise"

    found = {}
    for name, operation, rest in re.findall(r"^\s+(?:ROOT )?%?([\w.-]+) = .*? ([a-z][\w-]*)\((.*)$", text, re.M):
        called = re.search(r"calls=%?([\w.-]+)", rest)
        does = kind(operation, bodies.get(called.group(1), "") if called else "")
        if does:
            found[name] = does
    return found


def kernel_times(folder: Path) -> dict[str, float]:
    """Seconds of the training program's kernels by what they do, all threads together."""
    from jax.profiler import ProfileData

    (program,) = folder.glob("dump/*jit__advance*after_optimizations.txt")
    kinds, times = kinds_of(program.read_text()), collections.Counter(dict.fromkeys(KINDS, 0.0))
    (trace,) = folder.glob("plugins/profile/*/*.xplane.pb")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "builtin type event_stats", DeprecationWarning)  # as an error it would end the process
        for plane in ProfileData.from_file(str(trace)).planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in kinds and dict(event.stats).get("hlo_module") == "jit__advance":
                        times[kinds[event.name]] += event.duration_ns / 1e9
    return dict(times)


def profile(name: str) -> dict[str, float]:
    """Where a workload's time goes, in seconds of all threads together, and the GFLOP/s of a thread's products.

    A chunk trains on a thread; one variant has one, whose kernels use all cores. Tracing lengthens a kernel by up to a
    microsecond: where they are short, their sum may exceed the seconds without it, and nothing is left for the rest.
    """
    workload = WORKLOADS[name]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dump = f"--xla_dump_to={folder / 'dump'} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit__advance"
        environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {dump}".strip()}
        code = "import pathlib, sys; from experiments.bench.profile import record; print(record(sys.argv[1], pathlib.Path(sys.argv[2])))"
        done = subprocess.run([sys.executable, "-c", code, name, temporary], cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"bench: the profile of {name} must finish, got exit code {done.returncode}: {done.stderr[-2000:]}")
        times = {kind: spent * workload.num_steps / STEPS for kind, spent in kernel_times(folder).items()}
    seconds, kernels = min(CORES, len(workload.variants)) * float(done.stdout.splitlines()[-1]), sum(times.values())
    return {"seconds": seconds, **times, "rest": max(0.0, seconds - kernels), "gflops": workload.flops() / times["products"] / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.profile", description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="W", help=f"which of {', '.join(WARM)} (default: all)")
    arguments = parser.parse_args()
    unknown = set(arguments.workloads) - set(WARM)
    if unknown:
        parser.error(f"unknown workload {sorted(unknown)[0]!r}; one of {', '.join(WARM)}")
    print(f"{'':4}{'thread seconds':>15}" + "".join(f"{kind:>13}" for kind in (*KINDS, "rest")) + "   products, GFLOP/s a thread")
    for name in arguments.workloads or WARM:
        found = profile(name)
        whole = sum(found[kind] for kind in (*KINDS, "rest"))
        print(f"{name:4}{found['seconds']:>15.3g}" + "".join(f"{found[kind] / whole:>13.0%}" for kind in (*KINDS, "rest")), end="")
        print(f"{found['gflops']:>13.0f}", flush=True)


if __name__ == "__main__":
    main()
