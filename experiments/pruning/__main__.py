"""The gain of stopping early: every rule compared with the whole sweep, and a race against other libraries.

python -m experiments.pruning [--quick] [--seeds N] [--variants N] [--steps N] [--no-peers] [--patience MINUTES] [--out FOLDER]
"""

import argparse
import sys
import time
from pathlib import Path

from experiments.pruning.contestant import PEERS


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.pruning", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small version, in seconds: few variants, one seed, no peers")
    parser.add_argument("--seeds", type=int, default=5, help="how many; each draws its own split and variants (default: %(default)s)")
    parser.add_argument("--variants", type=int, default=512, help="of a sweep (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=1620, help="minibatches to a variant's end, best 3, 9, 27 ... times --first (default: %(default)s)"
    )
    parser.add_argument(
        "--first", type=int, default=60, help="minibatches to the first rung; Hyperband's brackets begin at a third (default: %(default)s)"
    )
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="race against the peers, from cold starts")
    parser.add_argument(
        "--only", nargs="+", choices=PEERS, default=PEERS, metavar="PEER", help=f"which of {', '.join(PEERS)} (default: all)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=5.0,
        help="minutes after which who is not within 0.3 points of the best is stopped (default: %(default)s)",
    )
    parser.add_argument(
        "--probe", type=float, default=20.0, help="seconds that each form of Optuna's loop is tried for (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder to write to (default: %(default)s)")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    sizes = dict(seeds=arguments.seeds, variants=arguments.variants, num_steps=arguments.steps, first=arguments.first)
    if arguments.quick:
        sizes = dict(seeds=1, variants=27, num_steps=54, first=2)
    if min(sizes.values()) < 1 or sizes["first"] >= sizes["num_steps"] or not arguments.patience > 0 or not arguments.probe > 0:
        parser().error("--seeds, --variants, --first, --patience and --probe must be positive, and --first below --steps")

    import matplotlib

    from experiments import report
    from experiments.pruning import __doc__ as title
    from experiments.pruning import study

    matplotlib.use("Agg")
    tell = lambda line: print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
    folder, began = arguments.out / "pruning", time.perf_counter()
    keep = lambda found: study.write(found, folder / "measured.json")  # after each seed, so that an interrupted race keeps what it has
    drawn = study.drawn(seed=arguments.seed, **sizes)
    found = study.measure(drawn, tell)
    keep(found)
    if arguments.peers and not arguments.quick:
        found = study.race(
            found, drawn, patience=60 * arguments.patience, peers=arguments.only, probe=arguments.probe, tell=tell, keep=keep
        )
        keep(found)
    summary = report.write(
        "pruning",
        title.splitlines()[0].rstrip("."),
        study.outcome(found),
        arguments.out,
        quick=arguments.quick,
        seed=arguments.seed,
        seconds=time.perf_counter() - began,
    )
    (folder / "table.md").write_text(study.markdown(found) + "\n")
    print(study.text(found))
    print(report.text(summary))
    print(f"  {summary['seconds']:.0f} s; written to {folder}", flush=True)


if __name__ == "__main__":
    main()
