"""funcnet and its peers on the same work, side by side.

python -m experiments.bench [W1 W2 ...] [--platform cpu|gpu] [--json FILE] [--repeats N] [--peers NAME ...] [--patience SECONDS] [--out FOLDER]
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from experiments.bench.peers import NAMES
from experiments.bench.place import PLACES, missing
from experiments.bench.workloads import WORKLOADS


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench", description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="W", help=f"which of {', '.join(WORKLOADS)} (default: all)")
    parser.add_argument(
        "--platform",
        choices=list(PLACES),
        default="cpu",
        help="where everyone trains: on the CPU's cores, or on one GPU, where there are no goals (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="file to write what was measured to")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; in each everyone runs once (default: %(default)s)")
    parser.add_argument(
        "--peers", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"which of {', '.join(NAMES)} (default: all)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="seconds of timed runs after which someone sits out the other rounds; whoever trains one variant after another and "
        "would need longer for one round trains an even sample of the variants (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("results/bench"), help="folder for the chart and the table (default: %(default)s)")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    unknown = set(arguments.workloads) - set(WORKLOADS)
    if unknown or arguments.repeats < 1:
        parser().error(
            f"unknown workload {sorted(unknown)[0]!r}; one of {', '.join(WORKLOADS)}" if unknown else "--repeats must be at least 1"
        )

    place = PLACES[arguments.platform]
    os.environ |= place.environment()  # before JAX is imported
    if place.on_gpu and (lines := missing(place, arguments.peers)):
        sys.exit("\n".join(f"bench: --platform gpu {line}" for line in lines))

    import matplotlib

    from experiments.bench import harness, report  # and with them jax: the processes that PyTorch trains in read this file too

    matplotlib.use("Agg")
    place.use()
    peaks = harness.sgemm_peak(place)
    results = {"machine": harness.machine(peaks, place)}
    for name in arguments.workloads or WORKLOADS:
        results[name] = harness.measure(
            WORKLOADS[name](),
            arguments.peers,
            place=place,
            repeats=arguments.repeats,
            patience=arguments.patience,
            peak=max(peaks.values()),
            tell=lambda line: print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True),
        )
        if arguments.json is not None:  # after each workload, so that an interrupted run keeps what it has measured
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(report.table(results))
    report.chart(results, arguments.out / "ratios.png")
    (arguments.out / "table.md").write_text(report.markdown(results) + "\n")
    written = {"the chart": arguments.out / "ratios.png", "the README's table": arguments.out / "table.md", "the figures": arguments.json}
    print("; ".join(f"{what}: {path}" for what, path in written.items() if path))


if __name__ == "__main__":
    main()
