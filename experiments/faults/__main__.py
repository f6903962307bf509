"""Breaks stored sweeps in every way there is, and looks whether each ends as if nothing had happened.

python -m experiments.faults [--quick] [--kills N] [--deaths N] [--offsets N] [--examples N] [--kinds NAME ...] [--seed N]
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.faults import damage, kills
from experiments.faults.kills import Count
from experiments.faults.sweeps import KINDS, use_cache


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs at random moments, over all kinds (default: %(default)s)")
    parser.add_argument("--deaths", type=int, default=60, help="SIGKILLs at write points, over all kinds (default: %(default)s)")
    parser.add_argument("--offsets", type=int, default=100, help="of each damage at each kind of file (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=200, help="of the state machine (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few of each: 5 kills, 5 deaths, 2 offsets, 5 examples")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=[], metavar="NAME", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="decides everything random (default: %(default)s)")
    return parser


def run(numbers: argparse.Namespace, above: Path) -> Iterator[Count]:
    """All of it, a count at a time."""
    kinds, cache = numbers.kinds or list(KINDS), above / "compiled"
    use_cache(cache)
    for i, kind in enumerate(kinds):
        own = above / kind
        own.mkdir()
        yield kills.at_random_moments(kind, _share(numbers.kills, i, len(kinds)), own, cache, numbers.seed)
        yield from kills.at_write_points(kind, _share(numbers.deaths, i, len(kinds)), own, cache)
    yield from damage.all_damages(numbers.offsets, above / "damage", numbers.seed)
    if numbers.examples:
        yield machine_count(numbers.examples, kinds, numbers.seed)


def _share(total: int, i: int, of: int) -> int:
    return total // of + (i < total % of)


def machine_count(examples: int, kinds: list[str], seed: int) -> Count:
    """The state machine, so many times."""
    import hypothesis  # of the extra [test]
    from hypothesis.stateful import run_state_machine_as_test

    from experiments.faults.machine import StoredSweep

    began, begun = time.monotonic(), []

    class Machine(StoredSweep):
        def __init__(self) -> None:
            super().__init__()
            begun.append(None)

    Machine.kinds = tuple(kinds)
    settings = hypothesis.settings(
        max_examples=examples, stateful_step_count=12, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    wrong = ()
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(Machine), settings=settings)
    except Exception as error:
        wrong = ("\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]),)
    same = len(begun) - len(wrong)
    return Count("state machine", "all", len(begun), same, "", wrong, time.monotonic() - began)


def line(count: Count) -> str:
    outcome = f"{count.same:5d} same"
    return f"{count.what:26s} {count.kind:8s} {count.times:5d} {outcome} {count.seconds:7.1f} s  {count.notes}"


def main() -> int:
    numbers = parser().parse_args()
    if numbers.quick:
        numbers.kills, numbers.deaths, numbers.offsets, numbers.examples = 5, 5, 2, 5
    logging.getLogger("funcnet").setLevel(logging.CRITICAL)  # damage is expected
    wrong = []
    with tempfile.TemporaryDirectory() as above:
        for count in run(numbers, Path(above)):
            print(line(count), flush=True)
            wrong += [f"{count.what}, {count.kind}: {each}" for each in count.wrong]
    for each in wrong:
        print(f"WRONG {each}")
    print("everything ended as if nothing had happened" if not wrong else f"{len(wrong)} did not")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
