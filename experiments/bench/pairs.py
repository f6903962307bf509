"""Two checkouts in turn: how long funcnet takes in this one, beside another, such as the commit before a change.

git worktree add --detach ../before COMMIT
python -m experiments.bench.pairs ../before [W1 W2 ...] [--repeats N]

Each run is a new process: warm, the median of five after two; from a cold start (W5 and W8, without a cache), timed until its variants, or
the first of them, have finished. Whoever went first goes second in the next round.
"""

import argparse
import functools
import statistics
from pathlib import Path

from experiments.bench import timing
from experiments.bench.cold import start
from experiments.bench.workloads import COLD, WORKLOADS

RUNS = 5  # of a warm process, whose median counts
WARM = """
def run(name, runs):
    import statistics, time
    from experiments.bench import ours
    from experiments.bench.workloads import WORKLOADS
    workload, seconds = WORKLOADS[name](), []
    program, everyone = ours.build(workload), tuple(range(len(workload.variants)))
    for _ in range(2 + runs):
        began = time.perf_counter()
        program.run(everyone)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])
"""  # the other checkout may not have it


def main() -> None:
    parser = timing.parser(".pairs", __doc__, repeats=5)
    parser.add_argument("other", type=checkout, help="folder of the other checkout")
    timing.add_workloads(parser, WORKLOADS)
    arguments = parser.parse_args()
    rows = [cells(name, *in_turn(name, (timing.ROOT, arguments.other), arguments.repeats)) for name in arguments.workloads]
    print(timing.markdown(["", "here, s", "there, s", "here over there, pair by pair"], rows))


def checkout(folder: str) -> Path:
    if not (Path(folder) / "experiments" / "bench").is_dir():
        raise argparse.ArgumentTypeError(f"must be a checkout of funcnet, got {folder}")
    return Path(folder).resolve()


def cells(name: str, here: list[float], there: list[float]) -> list[str]:
    """A workload's row: medians, and the ratios' range."""
    seconds = (f"{statistics.median(each):.3f}" for each in (here, there))
    return [f"{name} {'cold' if name in COLD else 'warm'}", *seconds, timing.spread(timing.ratios(here, there), ".3f")]


def in_turn(name: str, trees: tuple[Path, Path], repeats: int) -> list[list[float]]:
    """Seconds in both checkouts, round by round. funcnet draws its own weights and minibatches, so that none are recorded."""
    runs = {tree: functools.partial(timing.fresh, WARM, name, RUNS, root=tree) for tree in trees}
    if name in COLD:
        runs = {tree: lambda tree=tree: start(WORKLOADS[name](), "funcnet", root=tree)[0] for tree in trees}
    return list(timing.in_turn(runs, repeats).values())


if __name__ == "__main__":
    main()
