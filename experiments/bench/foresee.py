"""What `fn.plan` foresees of the workloads, and what their sweeps then take, in the same minute.

python -m experiments.bench.foresee [W1 W2 ...] [--rounds N]

In each round nothing is remembered at first: the plan, the sweep twice, which finds the plan's programs (warm), and, everything forgotten
once more, the sweep that compiles (cold). A ratio is the plan's seconds over the sweep's: above 1 the plan expects too much.
"""

import argparse
import statistics
import time
from typing import NamedTuple

from experiments.bench.workloads import WORKLOADS, Workload


class Foreseen(NamedTuple):
    """Seconds of one round."""

    planning: float  # that the plan itself took, its compiling with it
    warm: float  # foreseen: rehearsal and training
    cold: float  # foreseen: compiling too
    warm_taken: tuple[float, ...]
    cold_taken: float


def foresee(workload: Workload) -> Foreseen:
    """One round."""
    import funcnet as fn
    from experiments.bench import ours

    recipe, variants, data, rest = ours.call_of(workload)

    def sweep() -> float:
        began = time.perf_counter()
        fn.sweep(recipe, variants, data, **rest, progress=False)
        return time.perf_counter() - began

    fn.clear_caches()
    began = time.perf_counter()
    plan = fn.plan(recipe, variants, data, **rest)
    planning, seconds = time.perf_counter() - began, plan.seconds
    warm = sweep(), sweep()
    fn.clear_caches()
    return Foreseen(planning, seconds.rehearse + seconds.train, seconds.total, warm, sweep())


def line(name: str, rounds: list[Foreseen]) -> str:
    """A workload in a table of Markdown: medians, and each ratio's range over the rounds."""

    def cells(foreseen: list[float], taken: list[float]) -> list[str]:
        ratios = [a / b for a, b in zip(foreseen, taken, strict=True)]
        middle = statistics.median(ratios)
        spread = f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        return [f"{statistics.median(foreseen):.3g}", f"{statistics.median(taken):.3g}", spread]

    warm = cells([own.warm for own in rounds], [statistics.mean(own.warm_taken) for own in rounds])
    cold = cells([own.cold for own in rounds], [own.cold_taken for own in rounds])
    return " | ".join([f"| {name}", *warm, *cold, f"{statistics.median(own.planning for own in rounds):.3g} |"])


HEADER = """|  | warm: foreseen, s | taken, s | ratio | cold: foreseen, s | taken, s | ratio | the plan itself, s |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.foresee", description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="W", help=f"which of {', '.join(WORKLOADS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    arguments = parser.parse_args()
    unknown = set(arguments.workloads) - set(WORKLOADS)
    if unknown or arguments.rounds < 1:
        parser.error("a workload must be one of W1 to W8, and --rounds at least 1")
    print(HEADER)
    for name in arguments.workloads or WORKLOADS:
        print(line(name, [foresee(WORKLOADS[name]()) for _ in range(arguments.rounds)]), flush=True)


if __name__ == "__main__":
    main()
