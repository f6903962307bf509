"""Two checkouts in turn: how long funcnet takes in this one, beside another, such as the commit before a change.

git worktree add --detach ../before COMMIT
python -m experiments.bench.pairs ../before [W1 W2 ...] [--rounds N]

Warm, each checkout has a process of its own, and the two run the workload alternately; from a cold start (W5 and W8, without a cache) each
run is a new process, timed until its variants, or the first of them, have finished. Whoever went first goes second in the next round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from experiments.bench.cold import ROOT
from experiments.bench.workloads import COLD, WORKLOADS

_BUILT = """
import sys, time
from experiments.bench import ours
from experiments.bench.workloads import WORKLOADS
workload = WORKLOADS[sys.argv[1]]()
program, everyone = ours.build(workload), tuple(range(len(workload.variants)))
program.run(everyone), program.run(everyone)
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    program.run(everyone)
    print(time.perf_counter() - began, flush=True)
"""
_RECORDED = """
import pickle, sys
from experiments.bench import ours
from experiments.bench.workloads import WORKLOADS
pickle.dump(ours.recorded(WORKLOADS[sys.argv[1]]()), open(sys.argv[2] + "/workload", "wb"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.pairs", description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("workloads", nargs="*", metavar="W", help=f"which of {', '.join(WORKLOADS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=9, help="how often each runs (default: %(default)s)")
    arguments = parser.parse_args()
    unknown = set(arguments.workloads) - set(WORKLOADS)
    if unknown or arguments.rounds < 1 or not (arguments.other / "experiments" / "bench").is_dir():
        parser.error("OTHER must be a checkout of funcnet, a workload one of W1 to W8, and --rounds at least 1")
    print("here over there, seconds: medians; ratio: of each pair, median and range; above 1 it takes longer here")
    for name in arguments.workloads or WORKLOADS:
        print(line(name, in_turn(name, (ROOT, arguments.other.resolve()), arguments.rounds)), flush=True)


def line(name: str, pairs: list[tuple[float, float]]) -> str:
    """What a table says of (here, there) seconds."""
    ratios = [here / there for here, there in pairs]
    here, there = (statistics.median(column) for column in zip(*pairs, strict=True))
    how = "cold" if name in COLD else "warm"
    return f"{name} {how}  {here:8.3f} {there:8.3f}   {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"


def in_turn(name: str, trees: tuple[Path, Path], rounds: int) -> list[tuple[float, float]]:
    """Seconds in both checkouts, round by round."""
    with ExitStack() as stack:
        runs = [stack.enter_context((cold if name in COLD else warm)(name, tree)) for tree in trees]
        pairs = []
        for i in range(rounds):
            seconds = {place: next(runs[place]) for place in ((0, 1) if i % 2 == 0 else (1, 0))}
            pairs.append((seconds[0], seconds[1]))
    return pairs


@contextmanager
def warm(name: str, tree: Path) -> Iterator[Iterator[float]]:
    """A process that has run the workload twice, and runs it again whenever it is asked."""
    command = [sys.executable, "-c", _BUILT, name]
    with subprocess.Popen(command, cwd=tree, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def asked() -> Iterator[float]:
            while True:
                process.stdin.write("go\n")
                process.stdin.flush()
                yield float(process.stdout.readline())

        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"pairs: {name} must run in {tree}, got exit code {process.wait()}")
        yield asked()
        process.stdin.close()


@contextmanager
def cold(name: str, tree: Path) -> Iterator[Iterator[float]]:
    """New processes, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", _RECORDED, name, folder], cwd=tree, env=_environment(), check=True)
        command = [sys.executable, "-m", "experiments.bench.cold", "funcnet", folder, "first" if name == "W8" else "all"]

        def started() -> Iterator[float]:
            while True:
                began = time.perf_counter()
                with subprocess.Popen(command, cwd=tree, env=_environment(), stdout=subprocess.PIPE, text=True) as process:
                    said = process.stdout.readline().strip()
                    seconds = time.perf_counter() - began
                if said != "finished" or process.returncode:
                    raise RuntimeError(f"pairs: {name} must finish in {tree}, got exit code {process.returncode}")
                yield seconds

        yield started()


def _environment() -> dict[str, str]:
    """Each checkout's own code, and no compilation cache."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("JAX_COMPILATION", "JAX_PERSISTENT", "PYTHONPATH"))}


if __name__ == "__main__":
    main()
