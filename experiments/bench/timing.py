"""What every measurement here needs: runs in turn, a process of its own, medians, a table, a command's arguments.

Nothing is imported but the standard library, so that a process that is timed from its start pays for its own library alone.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it returns."""
    began = time.perf_counter()
    outcome = run()
    return time.perf_counter() - began, outcome


def timed(run: Callable[[], Any]) -> Callable[[], float]:
    """A call that returns its own seconds, as `in_turn` wants it."""
    return lambda: seconds_of(run)[0]


def in_turn(
    runs: Mapping[Any, Callable[[], float]], repeats: int, patience: float = math.inf, tell: Callable[[str], None] = lambda line: None
) -> dict[Any, list[float]]:
    """The seconds of each run, by name. In each round everyone runs once; who was first is last in the next.

    Args:
      runs: each returns its seconds.
      patience: seconds; who has taken longer sits out the rounds that are left.
      tell: takes a line before each run.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    for i in range(repeats):
        for name in reversed(runs) if i % 2 else runs:
            if sum(seconds[name]) <= patience:
                tell(f"{name}, round {i + 1} of {repeats}")
                seconds[name].append(runs[name]())
    return seconds


def fresh(text: str, *arguments: Any, root: Path = ROOT) -> Any:
    """What `run(*arguments)` returns in a process of its own, whose folder is root; arguments and what is returned pass as JSON.

    Args:
      text: defines `run`, such as "from experiments.bench.scale import measure as run".
    """
    code = f"import json, sys\n{text}\nprint(json.dumps(run(*json.loads(sys.argv[1]))))"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(arguments)], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"bench: run{arguments} must finish in {root}, got exit code {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """Median and range, as a table shows them."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def parser(module: str, about: str, repeats: int | None = None) -> argparse.ArgumentParser:
    """Of a command of the benchmark, and of its rounds if it has any. What it is about is the first line of the module's own words."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.bench{module}", description=about.splitlines()[0])
    if repeats is not None:
        parser.add_argument("--repeats", type=number, default=repeats, help="rounds; in each everyone runs once (default: %(default)s)")
    return parser


def add_workloads(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Which workloads, all by default."""
    listed = ", ".join(names)

    def workload(name: str) -> str:
        if name not in names:
            raise argparse.ArgumentTypeError(f"unknown workload {name!r}; one of {listed}")
        return name

    about = f"which of {listed} (default: all)"
    parser.add_argument("workloads", nargs="*", type=workload, default=list(names), metavar="W", help=about)


def number(text: str) -> int:
    """Of repeats, tasks, variants, in a command's arguments."""
    if (found := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {found}")
    return found
