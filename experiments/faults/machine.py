"""A state machine over one stored sweep: run, stop, fail, kill, resume, damage, extend, in any order that Hypothesis thinks of."""

import hashlib
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import funcnet as fn
from experiments.faults import disk
from experiments.faults.sweeps import EVERY, KINDS, differences, stored_often, sweep, undisturbed
from funcnet.sweeps import judge, kept, loop, pack

_MOST_ADDED, _MOST_LONGER = 6, 4 * EVERY
_INTERRUPTED = {module.__file__ for module in (judge, kept, loop, pack)}
_DAMAGES = ("truncated", "flipped", "empty", "missing")


class Broken(Exception):
    """What a callback raises here."""


class StoredSweep(RuleBasedStateMachine):
    """Does things to one stored sweep; whatever was done, it ends with the bits of the undisturbed one."""

    kinds = tuple(KINDS)

    def __init__(self) -> None:
        super().__init__()
        self._above = Path(tempfile.mkdtemp())
        self.folder = self._above / "store"
        self.damaged: dict[str, str] = {}  # sum by name, of the files that were damaged
        self.add = self.longer = 0
        self.kind = ""

    def teardown(self) -> None:
        try:
            if self.kind:
                self._finish()
        finally:
            shutil.rmtree(self._above)

    @initialize(kind=st.data())
    def begin(self, kind: st.DataObject) -> None:
        self.kind = kind.draw(st.sampled_from(self.kinds), label="kind")

    @rule()
    def resume(self) -> None:
        self._finish()

    @rule(looks=st.integers(1, 30))
    def stop(self, looks: int) -> None:
        """Ctrl-C while the host looks."""
        left = [looks]

        def tell(progress: object) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        self._run(progress=tell)

    @rule(evaluations=st.integers(1, 20))
    def fail(self, evaluations: int) -> None:
        """An error in a callback."""
        left = [evaluations]

        def callback(evaluation: object) -> None:
            left[0] -= 1
            if not left[0]:
                raise Broken

        self._run(callback=callback)

    @rule()
    def run_out_of_time(self) -> None:
        self._run(max_seconds=1e-9)

    @rule(call=st.integers(1, 1000))
    def stop_while_it_writes(self, call: int) -> None:
        """Ctrl-C in the middle of a write."""

        def stop() -> None:
            raise KeyboardInterrupt

        with disk.at_call(call, stop):
            self._run()

    @rule(line=st.integers(1, 5000))
    def stop_between_two_lines(self, line: int) -> None:
        """Ctrl-C between any two lines of the loop and of what it calls."""
        left = [line]

        def trace(frame: FrameType, event: str, _: object) -> Callable | None:
            if frame.f_code.co_filename not in _INTERRUPTED:
                return None
            left[0] -= event == "line"
            if event == "line" and not left[0]:
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            self._run()
        finally:
            sys.settrace(before)

    @rule(call=st.integers(1, 1000))
    def kill(self, call: int) -> None:
        """The process dies at one of the calls that change the folder: what it would leave is put in the folder's place."""
        left = self._above / "left"

        def die() -> None:
            if self.folder.is_dir():
                shutil.copytree(self.folder, left)

        damaged = dict(self.damaged)
        with disk.at_call(call, die):
            self._run()
        if left.is_dir():
            shutil.rmtree(self.folder, ignore_errors=True)  # it is gone where nothing was left to go on from
            left.rename(self.folder)
            self.damaged = damaged
            if (lock := self.folder / "lock.json").exists():
                os.utime(lock, (0, 0))  # where it says nothing yet, its maker is given some seconds to say who it is

    @precondition(lambda self: self._manifests())
    @rule(how=st.sampled_from(_DAMAGES), which=st.integers(0, 9), share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def damage(self, how: str, which: int, share: float, bit: int) -> None:
        """A file of the newest snapshot is not what was written."""
        manifest = self._manifests()[-1]
        names = [manifest.name, *sorted(self._files(manifest))]
        path = self.folder / names[which % len(names)]
        if not path.is_file() or self._sum(path) == self.damaged.get(path.name):
            return
        raw = bytearray(path.read_bytes())
        at = int(share * len(raw))
        if how == "missing":
            path.unlink()
        else:
            if how == "flipped":
                raw[at] ^= 1 << bit
            path.write_bytes({"truncated": raw[:at], "flipped": raw, "empty": b""}[how])
        self.damaged[path.name] = self._sum(path)

    @precondition(lambda self: self.kind and self.add < _MOST_ADDED)
    @rule(more=st.integers(1, 4))
    def add_variants(self, more: int) -> None:
        if self._grows() or not self._has_snapshot():
            self.add += more
            self._run(progress=_stops_at_once())
        else:
            self._refused("can't grow", add=self.add + more)

    @precondition(lambda self: self.kind and self.longer < _MOST_LONGER)
    @rule(more=st.integers(1, 2))
    def add_steps(self, more: int) -> None:
        if self.kind == "best":  # whose runs have no last states to go on from
            return
        if self._grows() or not self._has_snapshot():
            self.longer += more * EVERY
            self._run(progress=_stops_at_once())
        else:
            self._refused("can't grow", longer=self.longer + more * EVERY)

    @precondition(lambda self: self.kind)
    @rule()
    def change(self) -> None:
        """Another batch size is another sweep."""
        if self._has_snapshot():
            self._refused("must hold this very sweep.*batch_size", batch_size=KINDS[self.kind].batch_size + 1)

    @invariant()
    def is_let_go_of(self) -> None:
        """Nobody holds the folder between two runs."""
        if self.folder.is_dir() and not (self.folder / "lock.json").exists():
            assert not any(path.name.endswith(".draft") for path in self.folder.iterdir())

    # What is expected

    def _grows(self) -> bool:
        return "prune" not in KINDS[self.kind].settings

    def _manifests(self) -> list[Path]:
        return sorted(self.folder.glob("snapshot-*.json")) if self.folder.is_dir() else []

    def _files(self, manifest: Path) -> set[str]:
        return set(re.findall(r"part-[0-9]+-[A-Za-z0-9_-]+\.npz", manifest.read_bytes().decode("latin1")))

    def _sum(self, path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"

    def _is_damaged(self, name: str) -> bool:
        return name in self.damaged and self._sum(self.folder / name) == self.damaged[name]

    def _good(self) -> list[Path]:
        """Manifests whose files are all as they were written."""
        found = [path for path in self._manifests() if not self._is_damaged(path.name)]
        return [path for path in found if not any(self._is_damaged(name) for name in self._files(path))]

    def _has_snapshot(self) -> bool:
        return bool(self._good())

    def _refused(self, said: str, **changed: object) -> None:
        """It raises, and changes nothing: what comes after is as right."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some file may be damaged
                sweep(self.kind, self.folder, **({"add": self.add, "longer": self.longer} | changed))
        except ValueError as error:
            assert re.search(said, str(error)), error
        else:
            raise AssertionError(f"{changed} was not refused")

    def _run(self, **changed: object) -> dict | None:
        """Runs until it ends, or is ended: None. Where nothing is left to go on from, it says so; it logs what was damaged."""
        newest, good = self._manifests()[-1:], self._good()
        lost, found = bool(newest) and not good, None
        caught: list[warnings.WarningMessage] = []
        try:
            with stored_often(), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = sweep(self.kind, self.folder, add=self.add, longer=self.longer, **changed)
        except ValueError as error:
            if not lost or "must hold a snapshot that is whole" not in str(error):
                raise
            shutil.rmtree(self.folder)  # another folder begins anew
            self.damaged = {}
        except (fn.SweepInterrupted, KeyboardInterrupt, Broken) as error:
            cause = error.__cause__ if isinstance(error, fn.SweepInterrupted) else error
            if not isinstance(cause, KeyboardInterrupt | Broken):
                raise
        if found is not None:
            assert not lost, "no snapshot was left, and nobody said so"
            told = (self.folder / "events.jsonl").read_text()
            assert all(f'"damaged", "what": "{path.name}' in told for path in newest if path not in good), (newest, told)
            assert len(caught) == len(newest) - len(set(newest) & set(good)), caught
        return found

    def _finish(self) -> None:
        lost = bool(self._manifests()) and not self._good()
        found = self._run()
        if lost:
            found = self._run()
        different = differences(found, undisturbed(self.kind, self.add, self.longer))
        assert not different, different


def _stops_at_once():
    def tell(progress: object) -> None:
        raise KeyboardInterrupt

    return tell
