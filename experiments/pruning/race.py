"""A race from a cold start: starts processes and records their answers with the seconds since the start.

The clock runs from the start of the process, so the interpreter, imports, compilation and reading the digits from a file count for every
contestant. An answer counts when its line arrives.
"""

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments.pruning.contestant import OPTUNA_FORMS

ROOT = Path(__file__).parents[2]


class Trace(NamedTuple):
    """The answers of one contestant on one seed."""

    answers: tuple[tuple[float, float], ...]  # (seconds since its start, validation accuracy in points), in order of arrival
    seconds: float  # for which it was watched
    steps: int  # training steps that it reported, over all nets
    pace: float = 0.0  # steps per second from its first line to its last, without imports and compilation
    cannot: str = ""  # why it could not run, if it couldn't

    def reached(self, aim: float) -> float:
        """Seconds until the first answer that is at least as good as aim; infinite if there is none."""
        return next((seconds for seconds, value in self.answers if value >= aim), math.inf)

    @property
    def best(self) -> float:
        """The best answer, in points; -inf if there is none."""
        return max((value for _, value in self.answers), default=-math.inf)

    @property
    def first(self) -> float:
        """Seconds until the first answer of any kind."""
        return self.reached(-math.inf)


def watch(name: str, path: Path, form: str, *, seconds: float, aim: float = math.inf) -> Trace:
    """Starts a contestant, watches it until it has an answer as good as the aim or the time is over, then ends it.

    Args:
      name: "funcnet" or the name of a peer.
      path: of the problem, as `problem.save` wrote it.
      form: a rule of funcnet, or the form in which the peer runs.
      seconds: the longest time to wait.
      aim: accuracy, in points.

    Returns:
      A `Trace`, with `cannot` if the contestant's library is missing.

    Raises:
      RuntimeError: a process failed.
    """
    read, write = os.pipe()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "errors").open("w+") as errors:
        command = [sys.executable, "-m", "experiments.pruning.contestant", name, str(path), form, folder]
        workers = OPTUNA_FORMS.get(form, (1,))[0]
        settings = {"cwd": ROOT, "env": _environment(), "stdout": write, "stderr": errors, "start_new_session": True}
        began = time.monotonic()
        processes = [subprocess.Popen([*command, str(worker)], **settings) for worker in range(workers)]
        os.close(write)
        answers, told, cannot = [], [], ""
        try:
            for at, said in _lines(read, processes, errors, began, seconds):
                if "cannot" in said:
                    cannot = said["cannot"]
                    break
                told.append((at, said["steps"]))
                if "answer" in said:
                    answers.append((at, said["answer"]))
                    if said["answer"] >= aim:
                        break
        finally:
            watched = time.monotonic() - began
            _end(processes)
            os.close(read)
    steps = sum(taken for _, taken in told)
    working = told[-1][0] - told[0][0] if told else 0.0
    pace = (steps - told[0][1]) / working if working else 0.0
    return Trace(tuple(answers), watched, steps, pace, cannot)


def _lines(read: int, processes: list, errors: Any, began: float, seconds: float) -> Iterator[tuple[float, dict[str, Any]]]:
    """Each line that the processes print, with the seconds since the start; ends when the time is over."""
    pending, gone = b"", False
    while (left := began + seconds - time.monotonic()) > 0:
        got = os.read(read, 65536) if select.select([read], [], [], min(left, 1.0))[0] else b""
        at = time.monotonic() - began
        *whole, pending = (pending + got).split(b"\n")
        for line in whole:
            yield at, json.loads(line)
        if gone:  # a process had ended before this read, so its last line has been read
            errors.seek(0)
            codes, said = [process.poll() for process in processes], errors.read().strip()[-2000:]
            raise RuntimeError(f"race: a process must go on until it is ended, got exit codes {codes}: {said}")
        gone = any(process.poll() is not None for process in processes)


def _environment() -> dict[str, str]:
    """The environment without JAX's compilation cache (no cold start) and without warnings (of scikit-learn, for nets not converged)."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    return own | {"PYTHONWARNINGS": "ignore", "TF_CPP_MIN_LOG_LEVEL": "3"}


def _end(processes: list) -> None:
    """Kills each process with those that it started, which are in the same process group."""
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
