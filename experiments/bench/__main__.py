"""funcnet and its peers on the same work, side by side.

python -m experiments.bench [W1 W2 ...] [--platform cpu|gpu] [--json FILE] [--repeats N] [--peers NAME ...] [--patience SECONDS]
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from experiments.bench import timing
from experiments.bench.peers import NAMES
from experiments.bench.place import PLACES
from experiments.bench.workloads import WORKLOADS

PATIENCE = """seconds of timed runs after which someone sits out the other rounds; whoever trains one variant after another and would
need longer for one round trains an even sample of the variants (default: %(default)s)"""


def parser() -> argparse.ArgumentParser:
    parser = timing.parser("", __doc__, repeats=5)
    timing.add_workloads(parser, WORKLOADS)
    where = "where everyone trains: on the CPU's cores, or on one GPU, where there are no goals (default: %(default)s)"
    parser.add_argument("--platform", choices=list(PLACES), default="cpu", help=where)
    parser.add_argument("--json", type=Path, help="file to write what was measured to")
    which = f"which of {', '.join(NAMES)} (default: all)"
    parser.add_argument("--peers", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=which)
    parser.add_argument("--patience", type=float, default=60.0, help=PATIENCE)
    return parser


def main() -> None:
    arguments = parser().parse_args()
    place = PLACES[arguments.platform]
    os.environ |= place.environment()  # before JAX is imported
    from experiments.bench import harness, report  # and with them jax: the processes that PyTorch trains in read this file too

    try:
        place.device_name()
    except RuntimeError as error:
        fix = "install JAX's plugin for it ('jax[cuda13]'), and see that JAX_PLATFORMS leaves it in"
        sys.exit(f"bench: --platform {place.platform} needs a device that JAX can see, got {error}; {fix}")
    place.use()
    peaks = harness.sgemm_peak(place)
    results = {"machine": harness.machine(peaks, place)}
    for name in arguments.workloads:
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
    print(report.table(results), report.details(results), report.machine(results["machine"]), sep="\n\n")


if __name__ == "__main__":
    main()
