"""Deaths of the process: by SIGKILL at random moments and at calls that write, and what every write point leaves behind."""

import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.faults import disk
from experiments.faults.sweeps import differences, stored_often, sweep, undisturbed

_ROOT = Path(__file__).parents[2]
_AHEAD = 2  # processes that start while another one is at work


class Count(NamedTuple):
    """What was done to a kind of sweep, and what came of it."""

    what: str
    kind: str
    times: int
    same: int  # ended with the same bits
    notes: str = ""
    wrong: tuple[str, ...] = ()  # what did not
    seconds: float = 0.0


class Workers:
    """Processes that have started before they are needed; each is killed once."""

    def __init__(self, kind: str, cache: Path):
        self._kind, self._cache = kind, cache
        self._ready: collections.deque[subprocess.Popen[str]] = collections.deque()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._ready:
            _end(process)

    def run(self, folder: Path, *, die_at: int = 0, kill_after: float | None = None) -> str:
        """Has a sweep carried out in a folder, by a process that dies on the way.

        Args:
          folder: of the store.
          die_at: the call that changes the folder before which the process kills itself; 0 for none.
          kill_after: seconds after which it is killed; None for never.

        Returns:
          "killed", or "done" where it came to its end before.
        """
        while len(self._ready) <= _AHEAD:
            self._ready.append(self._started())
        process = self._ready.popleft()
        try:
            _expect(process, "ready")
            process.stdin.write(json.dumps({"folder": str(folder), "die_at": die_at}) + "\n")
            process.stdin.flush()
            _expect(process, "begun")
            if kill_after is not None:
                time.sleep(kill_after)
                process.kill()
            said = process.stdout.readline().strip()
            if said == "done":
                return "done"
            if process.wait() != -signal.SIGKILL:
                raise RuntimeError(f"a worker ended by itself, with {process.returncode}: see above")
            return "killed"
        finally:
            _end(process)

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "experiments.faults.worker", str(self._cache), self._kind]
        return subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _expect(process: "subprocess.Popen[str]", word: str) -> None:
    if (said := process.stdout.readline().strip()) != word:
        raise RuntimeError(f"a worker should say {word!r}, not {said!r}")


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def at_random_moments(kind: str, kills: int, above: Path, cache: Path, seed: int) -> Count:
    """SIGKILL at moments drawn evenly from a sweep's duration; each third sweep is killed again while it goes on."""
    draw, began, outcomes = random.Random(f"{seed} {kind}"), time.monotonic(), collections.Counter()
    wrong = []
    with Workers(kind, cache) as workers:
        seconds = _duration(kind, above)
        while outcomes["killed"] < kills:
            folder = above / "store"
            moments = []
            for _ in range(1 + (draw.random() < 1 / 3)):
                moments.append(draw.random() * seconds)
                how = workers.run(folder, kill_after=moments[-1])
                outcomes[how] += 1
            found, note = _resumed(kind, folder)
            outcomes["same"] += found
            outcomes["sweeps"] += 1
            if not found:
                wrong.append(f"killed after {moments} of {seconds:.2f} s: {note}")
            shutil.rmtree(folder, ignore_errors=True)
    notes = f"{outcomes['killed']} kills; {outcomes['done']} came too late"
    return Count("SIGKILL at random", kind, outcomes["sweeps"], outcomes["same"], notes, tuple(wrong), time.monotonic() - began)


def at_write_points(kind: str, deaths: int, above: Path, cache: Path) -> Iterator[Count]:
    """Every call that changes the folder: what it looks like just before is what a process leaves that dies there.

    All that differs is gone on with; so many of the calls, evenly spread, are met by real deaths too.
    """
    began, copies, points = time.monotonic(), above / "copies", []
    copies.mkdir()
    with stored_often(), disk.copied(above / "watched", copies, points):
        sweep(kind, above / "watched")
    wrong, names = [], sorted(copies.iterdir(), key=lambda path: int(path.name))
    for copy in names:
        same, note = _resumed(kind, copy)
        if not same:
            wrong.append(f"copy {copy.name}: {note}")
        shutil.rmtree(copy)
    shutil.rmtree(above / "watched")
    notes = f"{len(points)} calls, {len(names)} folders that differ"
    yield Count("every write point", kind, len(names), len(names) - len(wrong), notes, tuple(wrong), time.monotonic() - began)
    began, wrong = time.monotonic(), []
    chosen = _evenly([i + 1 for i, name in enumerate(points) if "write" not in name], deaths)
    with Workers(kind, cache) as workers:
        killed = 0
        for call in chosen:
            killed += workers.run(above / "store", die_at=call) == "killed"
            same, note = _resumed(kind, above / "store")
            if not same:
                wrong.append(f"SIGKILL before call {call}, {points[call - 1]}: {note}")
            shutil.rmtree(above / "store", ignore_errors=True)
    notes = f"{killed} killed"
    yield Count("SIGKILL at write points", kind, len(chosen), len(chosen) - len(wrong), notes, tuple(wrong), time.monotonic() - began)


def _evenly(items: Sequence[int], count: int) -> list[int]:
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def _duration(kind: str, above: Path) -> float:
    """Seconds that the stored sweep takes: the shortest of three times, so that few kills come too late."""
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        with stored_often():
            sweep(kind, above / "timed")
        seconds.append(time.monotonic() - began)
        shutil.rmtree(above / "timed")
    return min(seconds)


def _resumed(kind: str, folder: Path) -> tuple[bool, str]:
    """Goes on with a stored sweep: whether it ends as the undisturbed one, and what differs."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(folder / "lock.json", (0, 0))  # where it says nothing yet, its maker is given some seconds to say who it is
    try:
        different = differences(sweep(kind, folder), undisturbed(kind))
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
    return not different, ", ".join(different[:5])
