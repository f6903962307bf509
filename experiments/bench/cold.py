"""Cold starts: a new process is timed from its start until the variants, or the first of them, have finished.

The process finds the workload, with everyone's initial parameters and minibatches, in a file; it imports its own library
and no other. It says "finished" when it has, and writes what came out beside the workload.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.bench.place import CPU, Place
from experiments.bench.timing import ROOT, seconds_of
from experiments.bench.workloads import Workload


class CannotRun(Exception):
    """The peer's library is missing, or it can't do the workload."""


def start(workload: Workload, name: str, cache: Path | None = None, place: Place = CPU, root: Path = ROOT) -> tuple[float, dict[str, Any]]:
    """Seconds, and what came out: losses, form, compile_seconds. Of W8 only the first variant is waited for.

    Args:
      name: "funcnet", or a peer's.
      cache: a folder for JAX's persistent compilation cache; without one there is none.
      root: of the checkout whose code runs.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    environment |= place.environment()
    if cache is not None:
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "workload").write_bytes(pickle.dumps(workload))
        which, where = "first" if workload.name == "W8" else "all", ",".join(place)
        command = [sys.executable, "-m", "experiments.bench.cold", name, folder, which, where]
        began = time.perf_counter()
        with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
            said = process.stdout.readline().strip()
            seconds = time.perf_counter() - began
        outcome = json.loads(Path(folder, f"{name}.json").read_text()) if process.returncode == 0 else {}
    if "cannot" in outcome:
        raise CannotRun(outcome["cannot"])
    if said != "finished" or process.returncode:
        raise RuntimeError(f"bench: {name} must finish its cold start in {root}, got exit code {process.returncode} and {said!r}")
    return seconds, outcome


def main(name: str, folder: Path, first_only: bool, place: Place = CPU) -> None:
    workload = pickle.loads((folder / "workload").read_bytes())  # written by the process that started this one
    everyone, told = tuple(range(len(workload.variants))), []

    def finished() -> None:
        if not told:
            told.append(True)
            print("finished", flush=True)

    if name == "funcnet":
        from experiments.bench import ours

        place.use()
        form, program = "fn.sweep", ours.build(workload, tell=lambda progress: finished() if first_only and progress.runs_done else None)
    else:
        from experiments.bench.peers import ON_JAX, peer

        try:
            if name in ON_JAX:
                place.use()
            found = peer(name, place)
            form, program = found.cold, found.forms[found.cold](workload)
        except (ImportError, NotImplementedError) as error:
            (folder / f"{name}.json").write_text(json.dumps({"cannot": str(error)}))
            return
    first, losses = seconds_of(lambda: program.run(everyone))
    finished()
    warm, _ = seconds_of(lambda: program.run(everyone))
    program.close()
    compiling = program.compile_seconds + max(0.0, first - warm)
    outcome = {"losses": [float(loss) for loss in losses], "form": form, "compile_seconds": compiling}
    (folder / f"{name}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "first", *[Place(*word.split(",")) for word in sys.argv[4:]])
