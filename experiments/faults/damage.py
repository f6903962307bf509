"""Damage to every file of a store: cut short, a bit flipped, emptied, removed, in the place of another."""

import json
import os
import random
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.faults import disk
from experiments.faults.kills import Count
from experiments.faults.sweeps import KINDS, differences, stored_often, sweep, undisturbed
from funcnet.sweeps.files import StoreInUse

PARTS = ("manifest", "ledger", "cohorts", "policy", "states", "best", "events", "lock")
WAYS = ("truncated", "bit flipped", "empty", "missing", "swapped")
_AT_AN_OFFSET = ("truncated", "bit flipped")


class Victim(NamedTuple):
    """A store that was left on its way, and what its newest snapshot says."""

    kind: str
    folder: Path
    files: dict[str, str]  # of the newest snapshot, by part
    older: dict[str, str]  # of the one before


def victims(above: Path) -> list[Victim]:
    """A store of each kind, in which every part is that the kind has, as a death in the middle has left it."""
    found = []
    for kind in KINDS:
        copies = above / f"{kind} copies"
        copies.mkdir(parents=True)
        with stored_often(), disk.copied(above / "watched", copies, []):
            sweep(kind, above / "watched")
        shutil.rmtree(above / "watched")
        candidates = [
            Victim(kind, folder, *_files(folder)) for folder in copies.iterdir() if len(list(folder.glob("snapshot-*.json"))) == 2
        ]
        best = max(candidates, key=lambda own: (len(own.files) + len(own.older), _new_files(own), -int(own.folder.name)))
        kept = above / kind
        best.folder.rename(kept)
        shutil.rmtree(copies)
        found.append(best._replace(folder=kept))
    return found


def _new_files(store: Victim) -> int:
    """How many files of the newest snapshot the one before does without."""
    return len(set(store.files.values()) - set(store.older.values()))


def _part(name: str) -> str:
    return "states" if name.startswith("states") else name


def _files(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The files of the newest snapshot and of the one before, by part."""
    found = []
    for manifest in sorted(folder.glob("snapshot-*.json"), reverse=True):
        parts = {_part(name): own["file"] for name, own in json.loads(manifest.read_bytes())["parts"].items()}
        found.append({"manifest": manifest.name, **parts, "events": "events.jsonl", "lock": "lock.json"})
    return found[0], found[1]


def damaged(part: str, way: str, offsets: int, stores: list[Victim], above: Path, seed: int) -> Count:
    """One kind of damage to one kind of file, at so many random offsets, over the stores that have such a file in turn."""
    draw, began = random.Random(f"{seed} {part} {way}"), time.monotonic()
    able = [store for store in stores if part in store.files]
    times = offsets if way in _AT_AN_OFFSET else len(able)
    same = reported = done = 0
    wrong = []
    for i in range(times):
        store = able[i % len(able)]
        folder = above / "damaged"
        shutil.copytree(store.folder, folder)
        what = _damage(folder, store, part, way, draw, stores)
        if what is None:
            shutil.rmtree(folder)
            continue
        done += 1
        os.utime(folder / "lock.json", (0, 0)) if (folder / "lock.json").exists() else None
        how, note = _gone_on(store, folder, part)
        same += how == "same"
        reported += note == "reported"
        if how == "wrong":
            wrong.append(f"{store.kind}: {what}: {note}")
        shutil.rmtree(folder)
    notes = f"{reported} in the event log"
    return Count(f"{way}: {part}", "all", done, same, notes, tuple(wrong), time.monotonic() - began)


def _damage(folder: Path, store: Victim, part: str, way: str, draw: random.Random, stores: list[Victim]) -> str | None:
    """Damages a file; says how, or None where that would change nothing."""
    path = folder / store.files[part]
    raw = path.read_bytes()
    at = draw.randrange(len(raw))
    if way == "missing":
        path.unlink()
        return f"{path.name} removed"
    new = {
        "truncated": lambda: raw[:at],
        "bit flipped": lambda: raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :],
        "empty": lambda: b"",
        "swapped": lambda: _another(store, part, draw, stores),
    }[way]()
    if new == raw:
        return None
    path.write_bytes(new)
    return f"{path.name} {way} at byte {at} of {len(raw)}"


def _another(store: Victim, part: str, draw: random.Random, stores: list[Victim]) -> bytes:
    """The bytes of another file of a kind: of the snapshot before, or else of another sweep; its own where all are equal."""
    raw = (store.folder / store.files[part]).read_bytes()
    if part == "lock":
        return json.dumps({**json.loads(raw), "host": "elsewhere"}).encode()
    before = [(store.folder / store.older[part]).read_bytes()] if part in store.older else []
    others = [(other.folder / other.files[part]).read_bytes() for other in stores if part in other.files]
    return next((own for own in [*before, *draw.sample(others, len(others))] if own != raw), raw)


def _gone_on(store: Victim, folder: Path, part: str) -> tuple[str, str]:
    """What becomes of a damaged store: "same" or "wrong", and a note."""
    name = store.files[part]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = sweep(store.kind, folder)
    except StoreInUse as error:
        if part != "lock" or "lock.json" not in str(error):
            return "wrong", str(error)
        (folder / "lock.json").unlink()  # as the error says
        return _judged(store, sweep(store.kind, folder))
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {error}"
    how, note = _judged(store, found)
    if how == "wrong":
        return how, note
    log = (folder / "events.jsonl").read_text(errors="replace")
    is_told = bool(re.search(rf'"event": "damaged", "what": "[^\n]*{re.escape(name)}', log))
    expected = part not in ("events", "lock", "manifest") or (part == "manifest" and (folder / f"{name}.damaged").exists())
    if expected and not is_told:
        return "wrong", "nothing in the event log"
    if is_told != any(name in str(warning.message) for warning in caught):
        return "wrong", "no warning"
    return how, "reported" if is_told else ""


def _judged(store: Victim, found: dict) -> tuple[str, str]:
    different = differences(found, undisturbed(store.kind))
    return ("wrong", ", ".join(different[:5])) if different else ("same", "")


def all_damages(offsets: int, above: Path, seed: int, tell: Callable[[str], None] = lambda line: None) -> Iterator[Count]:
    """Every way at every kind of file."""
    stores = victims(above)
    for part in PARTS:
        for way in WAYS:
            tell(f"{way}: {part}")
            yield damaged(part, way, offsets, stores, above, seed)
