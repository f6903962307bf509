"""The calls by which a store changes its folder: counted, and what the folder looks like at each of them."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from funcnet.sweeps import files

_CALLS = ("open", "write", "fsync", "replace", "rename", "link", "unlink", "ftruncate")


class _Watched:
    """The module os, which says before each call that may change a folder what it is about to do; a write is two halves."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        own = getattr(os, name)
        if name not in _CALLS:
            return own

        def told(*args: Any, **named: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return own(*args, **named)
            self._tell(name)
            if name != "write" or len(args[1]) < 2:
                return own(*args, **named)
            half = len(args[1]) // 2
            first = own(args[0], args[1][:half])
            self._tell("half of a write")
            return first + own(args[0], args[1][first:])

        return told


@contextlib.contextmanager
def watched(tell: Callable[[str], None]) -> Iterator[None]:
    """Within it `tell` is called before each call of the store that may change its folder, with the call's name."""
    before, files.os = files.os, _Watched(tell)  # type: ignore[assignment]
    try:
        yield
    finally:
        files.os = before


@contextlib.contextmanager
def at_call(number: int, do: Callable[[], None]) -> Iterator[list[str]]:
    """Within it something is done just before so many calls have been made; yields the calls so far."""
    calls: list[str] = []

    def tell(name: str) -> None:
        calls.append(name)
        if len(calls) == number:
            do()

    with watched(tell):
        yield calls


def content(folder: Path) -> str:
    """A sum of all names and bytes in a folder. Of a draft, which nobody ever reads, it tells only whether it is empty."""
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        raw = b"-" * bool(path.stat().st_size) if path.name.endswith(".draft") else path.read_bytes()
        found.update(f"{path.name}\0{len(raw)}\0".encode())
        found.update(raw)
    return found.hexdigest()


@contextlib.contextmanager
def copied(folder: Path, to: Path, points: list[str]) -> Iterator[None]:
    """Within it the folder is copied whenever it is about to change: what a process leaves that dies at that moment.

    Args:
      folder: the store's.
      to: where the copies go, named 0, 1, ... in order; those that are equal but for what a draft holds are kept once.
      points: each call's name is added.
    """
    seen: set[str] = set()

    def tell(name: str) -> None:
        points.append(name)
        if "write" in name and "write" in points[-2] and "write" in points[-3]:  # a draft has grown
            return
        if not folder.is_dir() or (own := content(folder)) in seen:
            return
        shutil.copytree(folder, to / str(len(seen)))
        seen.add(own)

    with watched(tell):
        yield
