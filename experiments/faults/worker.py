"""A process that carries out stored sweeps until it is killed: a line of JSON on stdin for each, and lines of text on stdout.

It has imported JAX and compiled its programs before it says "ready", so that who kills it a moment later hits the sweep. For each
request it says "begun", and "done" if it comes to the end.
"""

import json
import os
import signal
import sys
from pathlib import Path

from experiments.faults import disk
from experiments.faults.sweeps import stored_often, sweep, use_cache


def main(cache: str, kind: str) -> None:
    use_cache(cache)
    sweep(kind, None)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        print("begun", flush=True)
        with stored_often(), disk.at_call(request["die_at"], die):
            sweep(kind, Path(request["folder"]))
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
