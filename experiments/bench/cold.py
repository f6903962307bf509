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
from experiments.bench.workloads import Workload

ROOT = Path(__file__).parents[2]


class CannotRun(Exception):
    """The peer's library is missing, or it can't do the workload."""


class Processes:
    """Starts them, in a folder of their own that goes when they have."""

    def __init__(self, workload: Workload, first_only: bool, place: Place = CPU):
        self._folder = tempfile.TemporaryDirectory()
        self.folder, self.first_only, self.place = Path(self._folder.name), first_only, place
        with (self.folder / "workload").open("wb") as file:
            pickle.dump(workload, file)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: Any) -> None:
        self._folder.cleanup()

    def run(self, name: str, *, cached: bool) -> tuple[float, dict[str, Any]]:
        """Seconds, and what came out: losses, form, compile_seconds.

        Args:
          name: "funcnet", or a peer's.
          cached: whether JAX's persistent compilation cache is on; each name has one of its own.
        """
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
        environment |= self.place.environment()
        if cached:
            environment |= {
                "JAX_COMPILATION_CACHE_DIR": str(self.folder / f"cache_{name}"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
        which, where = "first" if self.first_only else "all", ",".join(self.place)
        command = [sys.executable, "-m", "experiments.bench.cold", name, str(self.folder), which, where]
        began = time.perf_counter()
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            said = process.stdout.readline().strip()
            seconds = time.perf_counter() - began
        outcome = json.loads((self.folder / f"{name}.json").read_text()) if process.returncode == 0 else {}
        if "cannot" in outcome:
            raise CannotRun(outcome["cannot"])
        if said != "finished" or process.returncode:
            raise RuntimeError(f"bench: {name} must finish its cold start, got exit code {process.returncode} and {said!r}")
        return seconds, outcome


def main(name: str, folder: Path, first_only: bool, place: Place = CPU) -> None:
    with (folder / "workload").open("rb") as file:
        workload = pickle.load(file)  # written by the process that started this one
    everyone, told = tuple(range(len(workload.variants))), []

    def finished() -> None:
        if not told:
            told.append(True)
            print("finished", flush=True)

    if name == "funcnet":
        from experiments.bench import ours

        place.use()

        form, compiling = "fn.sweep", 0.0
        program = ours.build(workload, tell=lambda progress: finished() if first_only and progress.runs_done else None)
    else:
        from experiments.bench.peers import ON_JAX, peer

        try:
            if name in ON_JAX:
                place.use()
            found = peer(name, place)
            form = found.cold
            program = found.forms[form](workload)
        except (ImportError, NotImplementedError) as error:
            (folder / f"{name}.json").write_text(json.dumps({"cannot": str(error)}))
            return
        compiling = program.compile_seconds
    began = time.perf_counter()
    losses = program.run(everyone)
    first = time.perf_counter() - began
    finished()
    program.run(everyone)
    warm = time.perf_counter() - began - first
    program.close()
    compiling += max(0.0, first - warm)
    outcome = {"losses": [float(loss) for loss in losses], "form": form, "compile_seconds": compiling, "warm_seconds": warm}
    (folder / f"{name}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "first", *[Place(*word.split(",")) for word in sys.argv[4:]])
