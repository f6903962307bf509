"""Crash-safe snapshots in a folder. A snapshot is a JSON content and parts; each part is a dict of NumPy arrays.

On disk a snapshot is a manifest, `snapshot-00000012.json`, and the part files that it names, such as `part-00000012-ledger.npz`. Two
consecutive snapshots never share a file, so that damage to one leaves the other intact. A part that doesn't change is therefore copied
once; later snapshots name its two files in turn, so a manifest may name files with earlier numbers. No file is changed in place:

1. each new part is written to a draft file, flushed to the disk and renamed; then the folder is flushed;
2. the manifest is written in the same way: once it is renamed, the new snapshot exists;
3. all snapshot and part files are removed that neither of the newest two manifests needs.

A manifest holds the sizes and SHA-256 sums of its parts, and ends with its own SHA-256. The current snapshot is the newest one for
which all of these are right; damaged files are renamed and kept. Files are not trusted when they are read: every size is checked
before memory is allocated, and every name before a file is opened.

Two processes never write to one folder: the owner locks `lock.json` (flock), and the kernel unlocks it when the owner dies.
Any process may read: `read_snapshot` and `read_owner` take no lock and change nothing.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import socket
import stat
import struct
import threading
import time
import weakref
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple, cast
from urllib.parse import quote, unquote

import numpy as np

from funcnet import check

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FORMAT = 1
_MANIFEST = re.compile(r"snapshot-([0-9]{8,12})\.json")
_PART = re.compile(r"part-([0-9]{8,12})-([A-Za-z0-9_-]{1,64})\.npz")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DRAFT, _DAMAGED, _LOCK = ".draft", ".damaged", "lock.json"
_LAST = 10**12 - 1  # the largest snapshot number that fits the patterns
_LONGEST = 2**26  # bytes of a manifest
_DEEPEST = 100  # nested lists and dicts in a content: far below the limit of Python's parser
_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}')
_SEAL_BYTES = 77
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(r"\{'descr': '([<>|][biufc][0-9]{1,2})', 'fortran_order': (True|False), 'shape': \(([0-9, ]{0,2000})\), \} *\n")
_CHUNK = 2**20
_MOST_TRIES = 100  # to read a snapshot while newer ones replace it
_YOUNG = 5.0  # seconds after its creation in which a lock file may still be without its owner's name
_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe must not block
_MAKE = os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
# What reading a damaged file raises; not MemoryError, which is no sign of damage.
_WRONG = (ValueError, KeyError, TypeError, IndexError, EOFError, OverflowError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)


class Snapshot(NamedTuple):
    """What one `Folder.write` stores."""

    content: dict[str, Any]  # JSON data
    parts: Mapping[str, Mapping[str, np.ndarray]]  # arrays by part and name


class StoreInUse(RuntimeError):
    """Another process, or another `Folder` of this one, has the folder open or writes to it."""


class StoreDamaged(ValueError):
    """A store's files are damaged: no snapshot can be read, or a file of the current one has changed."""


class _Damage(Exception):
    """A file is not what was written; the message is a phrase to follow the file's name, such as "is missing"."""


class _Newer(Exception):
    """A file is not damaged, but written by a newer version."""


class _Entry(NamedTuple):
    """A manifest's entry for one part."""

    file: str
    size: int  # bytes
    sha256: str
    dtypes: dict[str, str]  # by array name, for arrays that are stored as bytes


class _Manifest(NamedTuple):
    number: int
    content: dict[str, Any]
    entries: dict[str, _Entry]  # by part


class Folder:
    """Writes snapshots to a folder, and reads the newest good one when the folder is opened again.

    A snapshot is written completely or not at all, even after a crash, a full disk or a power cut. The newest two are kept. If the
    newest is damaged, the one before it is used; damaged files are renamed (`snapshot-00000012.json.damaged`), never deleted.

    Only one `Folder` at a time may have a folder open. The lock of a process that died on this host is taken over; that of another
    host's process never is, since this host can't see whether that process is alive.

    Args:
      path: the folder, made if need be. Files of other names in it are left alone.
      where: the name that error messages begin with.

    Attributes:
      snapshot: the newest good `Snapshot`, or None. Its arrays have been checked and may be written to. After a `write` it is read
        back from the disk at the first access.
      damaged: sentences for a log: which files were damaged when the folder was opened, and their new names. If this is not empty
        and snapshot is None, there were snapshots but none is good.

    Raises:
      StoreInUse: another process or `Folder` has it open.
      ValueError: a newer version of funcnet wrote the newest snapshot; no file is renamed then.
      OSError: the folder can't be made, read or written; errno is the system's.

    Example:
      >>> import tempfile
      >>> path = tempfile.mkdtemp()
      >>> with Folder(path) as folder:
      ...     folder.write({"step": 10}, {"params": {"w": np.ones(3)}, "data": {"x": np.arange(4)}})
      ...     folder.write({"step": 20}, {"params": {"w": np.zeros(3)}}, keep=["data"])
      >>> with Folder(path) as folder:
      ...     content, parts = folder.snapshot
      >>> content, parts["params"]["w"], parts["data"]["x"]
      ({'step': 20}, array([0., 0., 0.]), array([0, 1, 2, 3]))

    Source: for the order of writing, Pillai et al. (2014), All file systems are not created equal.
    """

    damaged: list[str]

    def __init__(self, path: str | os.PathLike[str], *, where: str = "store") -> None:
        self._where = where
        self.damaged = []
        self._guard = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._current: _Manifest | None = None  # the newest good one; with an empty content if this Folder wrote it
        self._before: _Manifest | None = None  # the one before it; its parts may be damaged
        if not os.fspath(path):
            raise ValueError(check.message(where, "path must be a folder's name", repr(path)))
        self._folder = os.path.join(os.getcwd(), os.fsdecode(path))  # absolute: the process may change its folder later
        with self._explained():
            _make_folder(self._folder)
            self._lock = _Lock(self._folder, where)
        self._release = weakref.finalize(self, self._lock.release)  # also on garbage collection and at the process's exit
        try:
            with self._explained():
                self._find()
        except BaseException:
            self._release()
            raise

    @property
    def snapshot(self) -> Snapshot | None:
        with self._guard:
            if self._snapshot is None and self._current is not None:
                self._check_held("read")
                with self._explained():
                    self._snapshot = self._read_again(self._current.number)
            return self._snapshot

    def write(self, content: dict[str, Any], parts: Mapping[str, Mapping[str, np.ndarray]], keep: Iterable[str] = ()) -> None:
        """Stores a new snapshot; when this returns, it is on the disk.

        Args:
          content: data that JSON reads back unchanged: dicts with text as keys, lists, text, numbers (also NaN and the infinities),
            True, False and None, nested at most 100 deep.
          parts: arrays by part and name, of new and changed parts. A part's name has 1 to 64 letters, digits, '_' and '-'.
            Arrays hold booleans or numbers, also bfloat16 and similar; their shapes, dtypes and bits are read back unchanged.
          keep: names of parts of the previous snapshot that belong to this one too, unchanged. The file of such a part is
            copied once; later snapshots use its two files in turn.

        Raises:
          TypeError: content holds something that JSON can't, or an array doesn't hold numbers.
          ValueError: a name can't be a file's, is given twice, or keep names a part that isn't there; or the folder was closed.
          StoreDamaged: the file of a part in keep has been removed or changed since it was read or written.
          StoreInUse: lock.json was removed, so that another process may have written to the folder.
          OSError: such as a full disk; errno is the system's. The previous snapshot is then still intact, and
            a later write may succeed.

        Example:
          >>> import tempfile
          >>> with Folder(tempfile.mkdtemp()) as folder:
          ...     folder.write({"done": False}, {"ledger": {"validation/loss": np.array([0.5, np.nan])}})
          ...     folder.snapshot.parts["ledger"]["validation/loss"]
          array([0.5, nan])
        """
        with self._guard:
            self._check_held("write")
            if not isinstance(parts, Mapping):
                raise TypeError(check.message(self._where, "parts must be a dict of dicts of arrays", type(parts).__name__))
            kept = self._kept(keep, parts)
            arrays = self._checked(parts)
            _check_json(self._where, content)
            with self._explained():
                self._clear()
                number = self._next_number()
                try:
                    entries = {name: self._copy_of(name, entry, number) for name, entry in kept.items()}
                    for name, own in arrays.items():
                        entries[name] = self._write_part(f"part-{number:08d}-{name}.npz", own)
                    if any(_number(entry.file) == number for entry in entries.values()):
                        _flush_folder(self._folder)
                    sealed = _sealed(self._where, number, content, entries)
                    self._put(f"snapshot-{number:08d}.json", lambda sink: sink.write(sealed))
                    _flush_folder(self._folder)
                except BaseException:
                    with contextlib.suppress(OSError):
                        self._clear()  # frees space, in case the disk is full
                    raise
            self._before, self._current, self._snapshot = self._current, _Manifest(number, {}, entries), None
            with contextlib.suppress(OSError):  # the new snapshot is safe anyway; the next write tries again
                self._remove(_unnamed(self._names(), [self._before, self._current]))

    def close(self) -> None:
        """Unlocks the folder, so that others can open it. A snapshot that was read stays available; a second call does nothing."""
        with self._guard:
            self._release()

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Reading

    def _find(self) -> None:
        """Finds the newest good snapshot; then renames the damaged files of newer ones."""
        names = self._names()
        self._remove(name for name in names if name.endswith(_DRAFT) and _number(name.removesuffix(_DRAFT)))
        wrong: dict[str, list[str]] = {}  # sentences by manifest
        bad: dict[str, list[str]] = {}  # files by manifest
        for name in _manifests(names):
            manifest, parts, reasons, files = _examined(self._where, self._folder, name)
            if manifest is not None and not reasons:
                self._current, self._snapshot = manifest, Snapshot(manifest.content, parts)
                break
            wrong[name], bad[name] = reasons, files
        if self._current is not None:
            self._before = self._older(names, self._current.number)
        renamed = {file: self._set_aside(file) for file in dict.fromkeys(file for files in bad.values() for file in files)}
        for name, reasons in wrong.items():
            now = [f"{file} is now {renamed[file]}" for file in bad[name] if renamed[file]]
            self.damaged.append(f"{name} is damaged: {' and '.join(reasons)}; {', '.join(now)}")
        if wrong and self._current is None:  # the next write would remove the other parts, and a person may still want them
            others = [self._set_aside(name) for name in self._names() if _PART.fullmatch(name)]
            self.damaged.append(
                f"no snapshot in {self._folder} is good" + f"; other parts are now {', '.join(map(str, others))}" * bool(others)
            )

    def _older(self, names: list[str], number: int) -> _Manifest | None:
        """The newest readable manifest before the one with this number; None if there is none."""
        for name in _manifests(names):
            if _number(name) < number:
                with contextlib.suppress(_Damage, _Newer):
                    return _read_manifest(os.path.join(self._folder, name), _number(name))
        return None

    def _read_again(self, number: int) -> Snapshot:
        try:
            content, entries = _read_manifest(os.path.join(self._folder, f"snapshot-{number:08d}.json"), number)[1:]
            return Snapshot(content, {part: _read_part(os.path.join(self._folder, entry.file), entry) for part, entry in entries.items()})
        except (_Damage, _Newer) as damage:
            rule = f"snapshot {number} in {self._folder} must be as it was written"
            raise StoreDamaged(
                check.message(self._where, rule, f"one that {damage}", "open the folder again: it finds what is good")
            ) from None

    def _set_aside(self, name: str) -> str | None:
        """Renames a damaged file; returns its new, unused name, or None if there is no such file."""
        path, i = os.path.join(self._folder, name), 1
        while os.path.lexists(path + (aside := _DAMAGED + (f"-{i}" if i > 1 else ""))):
            i += 1
        try:
            os.rename(path, path + aside)
        except FileNotFoundError:
            return None
        return name + aside

    # Writing

    def _kept(self, keep: Iterable[str], parts: Mapping[str, Any]) -> dict[str, _Entry]:
        if isinstance(keep, str):
            raise TypeError(check.message(self._where, "keep must be a list of names", repr(keep), f"[{keep!r}]"))
        entries, known = {}, {} if self._current is None else self._current.entries
        for name in keep:
            if name not in known:
                raise ValueError(f"{self._where}: keep has {name!r}, which is no part of the snapshot before; {check.nearest(name, known)}")
            if name in parts:
                raise ValueError(check.message(self._where, "a part must be written or kept", f"{name!r} in both parts and keep"))
            entries[name] = known[name]
            if wrong := self._differs(known[name]):
                raise self._changed(name, known[name], wrong)
        return entries

    def _differs(self, entry: _Entry) -> str:
        """How a part's file differs from what was written, judged by its kind and size; empty if it doesn't."""
        try:
            found = os.stat(os.path.join(self._folder, entry.file), follow_symlinks=False)
        except FileNotFoundError:
            return "no such file"
        is_same = stat.S_ISREG(found.st_mode) and found.st_size == entry.size
        return "" if is_same else f"another file of {found.st_size} bytes"

    def _changed(self, name: str, entry: _Entry, got: str) -> StoreDamaged:
        rule = f"{entry.file}, which is kept, must be as it was written"
        return StoreDamaged(check.message(self._where, rule, got, f"write the part {name!r} again"))

    def _copy_of(self, name: str, entry: _Entry, number: int) -> _Entry:
        """A second file with a part of the current snapshot: the previous snapshot's if it has the same part, else a new copy."""
        other = None if self._before is None else self._before.entries.get(name)
        if other is not None and other.file != entry.file and other._replace(file=entry.file) == entry and not self._differs(other):
            return other

        def fill(sink: "_Sink") -> None:
            with _opened(os.path.join(self._folder, entry.file)) as file:
                while chunk := file.read(_CHUNK):
                    sink.write(chunk)

        file = f"part-{number:08d}-{name}.npz"
        try:
            size, sha256 = self._put(file, fill)
        except _Damage as damage:
            raise self._changed(name, entry, f"one that {damage}") from None
        if (size, sha256) != (entry.size, entry.sha256):
            raise self._changed(name, entry, "one of other bytes")
        return entry._replace(file=file)

    def _checked(self, parts: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
        """The parts as plain arrays; raises if a name or a dtype is invalid."""
        checked: dict[str, dict[str, np.ndarray]] = {}
        folded: dict[str, str] = {}  # some disks ignore case in file names
        for part, arrays in parts.items():
            if not isinstance(part, str) or not _NAME.fullmatch(part):
                rule = "a part's name must have 1 to 64 of the letters a to z and A to Z, digits, '_' and '-'"
                raise (ValueError if isinstance(part, str) else TypeError)(check.message(self._where, rule, repr(part)))
            if (other := folded.setdefault(part.lower(), part)) != part:
                raise ValueError(check.message(self._where, "names of parts must differ in more than case", f"{other!r} and {part!r}"))
            if not isinstance(arrays, Mapping):
                raise TypeError(check.message(self._where, f"part {part!r} must be a dict of arrays", type(arrays).__name__))
            checked[part] = {name: self._checked_array(part, name, array) for name, array in arrays.items()}
        return checked

    def _checked_array(self, part: str, name: str, array: np.ndarray) -> np.ndarray:
        if not isinstance(name, str):
            raise TypeError(check.message(self._where, f"names of arrays in part {part!r} must be text", repr(name)))
        try:
            if _array_name(_member_name(name)) != name:
                raise ValueError
        except ValueError:
            rule = f"names of arrays in part {part!r} must be text of 1 to 1000 characters without '..'"
            raise ValueError(check.message(self._where, rule, repr(name[:100]))) from None
        what = f"{name!r} in part {part!r}"
        if not isinstance(array, np.ndarray | np.generic) or isinstance(array, np.ma.MaskedArray):
            fix = "jax.random.key_data gives a key's numbers" if "key" in str(getattr(array, "dtype", "")) else "np.asarray makes one"
            raise TypeError(check.message(self._where, f"{what} must be a NumPy array", type(array).__name__, fix))
        if array.dtype.hasobject:
            fix = "give numbers, and put everything else into content"
            raise TypeError(check.message(self._where, f"{what} must be an array of numbers", f"Python objects (dtype {array.dtype})", fix))
        if not _is_native(array.dtype) and not _is_foreign(array.dtype):
            fix = "text goes into content, and each field of a structured array is one of its own"
            raise TypeError(check.message(self._where, f"{what} must be an array of booleans or numbers", f"dtype {array.dtype}", fix))
        return np.asarray(array)

    def _write_part(self, file: str, arrays: Mapping[str, np.ndarray]) -> _Entry:
        foreign = {name: array.dtype.name for name, array in arrays.items() if not _is_native(array.dtype)}

        def fill(sink: "_Sink") -> None:
            with zipfile.ZipFile(cast(Any, sink), "w", zipfile.ZIP_STORED) as archive:
                for name, array in arrays.items():
                    stored = np.asarray(array, order="C")[..., None].view(np.uint8) if name in foreign else array
                    # a new ZipInfo has a fixed date: equal arrays make equal files
                    with archive.open(zipfile.ZipInfo(_member_name(name)), "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, stored, version=(1, 0), allow_pickle=False)

        return _Entry(file, *self._put(file, fill), foreign)

    def _put(self, name: str, fill: "Callable[[_Sink], object]") -> tuple[int, str]:
        """Writes a file completely or not at all; returns its size and SHA-256."""
        path = os.path.join(self._folder, name)
        sink = _Sink(os.open(path + _DRAFT, os.O_WRONLY | _MAKE, 0o666))
        try:
            fill(sink)
            os.fsync(sink.descriptor)
        finally:
            os.close(sink.descriptor)
        os.replace(path + _DRAFT, path)
        return sink.size, sink.sum.hexdigest()

    def _next_number(self) -> int:
        """A number larger than that of any file in the folder, including damaged ones and those of failed writes."""
        number = 1 + max([_number(name.partition(_DAMAGED)[0]) for name in self._names()], default=0)
        if number > _LAST:
            raise ValueError(check.message(self._where, f"snapshots must have numbers of at most {_LAST}", number, "give another folder"))
        return number

    def _clear(self) -> None:
        """Removes what a failed write has left: drafts, and files newer than the newest good snapshot."""
        newest = 0 if self._current is None else self._current.number
        self._remove([name for name in _unnamed(self._names(), []) if name.endswith(_DRAFT) or _number(name) > newest])

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, name))

    # Both

    def _names(self) -> list[str]:
        return sorted(os.listdir(self._folder))

    def _check_held(self, what: str) -> None:
        if not self._release.alive:
            raise ValueError(check.message(self._where, f"the folder must be open to {what}", "one that was closed", "open it again"))
        with self._explained():
            held = self._lock.is_held()
        if not held:
            rule = f"{os.path.join(self._folder, _LOCK)} must stay while the folder is open, and in the process that opened it"
            raise StoreInUse(check.message(self._where, rule, "none of this process", "open the folder again"))

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        return _explained(self._where, self._folder, "read and written")


# Reading without the lock


def read_snapshot(
    path: str | os.PathLike[str], *, where: str = "store", only: Container[str] | None = None
) -> tuple[Snapshot | None, list[str]]:
    """Reads the newest good snapshot of a folder, even while another process writes to it.

    It takes no lock and changes nothing in the folder: damaged files keep their names. The checks are those of `Folder`. If a file
    is missing because a newer snapshot has just been written, that is no damage: everything is read again.

    Args:
      path: the folder.
      where: the name that error messages begin with.
      only: names of the parts to read; None for all. The size and SHA-256 of the other parts are checked too, but they take no
        memory.

    Returns:
      The snapshot, or None if there is no good one; and sentences that say what is damaged. If the snapshot is None and there are
      sentences, there are snapshots but none is good.

    Raises:
      ValueError: a newer version of funcnet wrote the newest snapshot.
      StoreInUse: the snapshots are replaced faster than they can be read.
      OSError: there is no such folder, or it can't be read; errno is the system's.

    Example:
      >>> import tempfile
      >>> path = tempfile.mkdtemp()
      >>> read_snapshot(path)
      (None, [])
      >>> with Folder(path) as folder:
      ...     folder.write({"step": 10}, {"params": {"w": np.ones(3)}, "data": {"x": np.arange(4)}})
      ...     snapshot, damaged = read_snapshot(path, only={"data"})
      >>> snapshot.content, list(snapshot.parts), damaged
      ({'step': 10}, ['data'], [])
    """
    if not os.fspath(path):
        raise ValueError(check.message(where, "path must be a folder's name", repr(path)))
    folder = os.path.join(os.getcwd(), os.fsdecode(path))
    with _explained(where, folder, "read"):
        for _ in range(_MOST_TRIES):
            names = _manifests(os.listdir(folder))
            damaged: list[str] = []
            for name in names:
                manifest, parts, reasons, _ = _examined(where, folder, name, only)
                if reasons and _manifests(os.listdir(folder)) != names:
                    break  # a newer snapshot was written meanwhile, and a file that is missing may have been removed for it
                if manifest is not None and not reasons:
                    return Snapshot(manifest.content, parts), damaged
                damaged.append(f"{name} is damaged: {' and '.join(reasons)}")
            else:
                return None, damaged
    raise StoreInUse(check.message(where, f"{folder} must hold still for as long as it is read", "newer snapshots each time", "try again"))


class Owner(NamedTuple):
    """The process that a folder's lock names."""

    pid: int
    host: str
    alive: bool | None  # whether the process is alive; None for one on another host, where this can't be seen


def read_owner(path: str | os.PathLike[str]) -> Owner | None:
    """Which process has a folder open, according to lock.json; takes no lock.

    Args:
      path: the folder.

    Returns:
      An `Owner`, whose process may have died without removing its lock; None if there is no lock, or one that names no process.

    Example:
      >>> import tempfile
      >>> path = tempfile.mkdtemp()
      >>> with Folder(path):
      ...     owner = read_owner(path)
      >>> owner.pid == os.getpid(), owner.alive, read_owner(path)
      (True, True, None)
    """
    try:
        with _opened(os.path.join(os.fsdecode(path), _LOCK)) as file:
            owner = _read_owner(file.fileno())
    except (_Damage, OSError):  # there is none, or none that we can read
        return None
    if owner is None:
        return None
    return Owner(owner.pid, owner.host, _is_alive(owner) if owner.host == socket.gethostname() else None)


def written_at(path: str | os.PathLike[str]) -> float | None:
    """The modification time of a folder's newest snapshot, good or not, in seconds since 1970; None if there is none.

    Example:
      >>> import tempfile
      >>> path = tempfile.mkdtemp()
      >>> with Folder(path) as folder:
      ...     before = written_at(path)
      ...     folder.write({}, {})
      ...     before, written_at(path) > 0
      (None, True)
    """
    for name in _manifests(os.listdir(path)):
        with contextlib.suppress(FileNotFoundError):  # a newer one has taken its place
            return os.stat(os.path.join(os.fsdecode(path), name), follow_symlinks=False).st_mtime
    return None


def _examined(
    where: str, folder: str, name: str, only: Container[str] | None = None
) -> tuple[_Manifest | None, dict[str, dict[str, np.ndarray]], list[str], list[str]]:
    """Reads a manifest and its parts.

    Returns:
      The manifest (None if it can't be read), its parts, what is wrong with any of them, in words, and the files to rename if
      something is: the manifest's and those of damaged parts.
    """
    parts: dict[str, dict[str, np.ndarray]] = {}
    reasons, files = [], [name]
    manifest = None
    try:
        manifest = _read_manifest(os.path.join(folder, name), _number(name))
        for part, entry in manifest.entries.items():
            wanted = only is None or part in only
            try:
                arrays = _read_part(os.path.join(folder, entry.file), entry, wanted=wanted)
            except _Damage as damage:
                reasons.append(f"{entry.file} {damage}")
                files.append(entry.file)
            else:
                if wanted:
                    parts[part] = arrays
    except _Newer as newer:
        fix = "update funcnet, and JAX with it, or give another folder"
        raise ValueError(check.message(where, f"{folder} must be one that this version can read", newer, fix)) from None
    except _Damage as damage:
        reasons.append(f"it {damage}")
    return manifest, parts, reasons, files


# Files: names, and what they hold


@contextlib.contextmanager
def _explained(where: str, folder: str, how: str) -> Iterator[None]:
    """A `with` in which an OSError is raised again with a message that says what to do, and with its errno."""
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        fix = {
            errno.ENOSPC: "free some space, then write again: the snapshot before is whole",
            errno.EDQUOT: "free some space of the quota, then write again: the snapshot before is whole",
            errno.EFBIG: "raise the limit on the size of files (ulimit -f), then write again: the snapshot before is whole",
            errno.EEXIST: "give the path of a folder, or of none",
            errno.ENOTDIR: "give the path of a folder" + ", or of none" * (how != "read"),
            errno.ENOENT: "give the path of a folder that is there" if how == "read" else "was the folder removed? open it again",
            errno.EMFILE: "close some files, or raise the limit on them (ulimit -n)",
        }.get(number, f"give a folder that can be {how}")
        got = f"{os.strerror(number)} at {os.path.basename(os.fsdecode(error.filename or folder))}"
        raise OSError(number, check.message(where, f"{folder} must be a folder that can be {how}", got, fix), folder) from error


def _number(name: str) -> int:
    """The number in the file name of a manifest or a part; 0 for any other file name."""
    found = _MANIFEST.fullmatch(name) or _PART.fullmatch(name)
    return int(found[1]) if found and f"{int(found[1]):08d}" == found[1] else 0


def _manifests(names: Iterable[str]) -> list[str]:
    """The manifests among these file names, newest first."""
    return sorted((name for name in names if _MANIFEST.fullmatch(name) and _number(name)), key=_number, reverse=True)


def _unnamed(names: Iterable[str], manifests: Iterable[_Manifest | None]) -> list[str]:
    """The snapshot files, part files and drafts that none of these manifests needs; manifests first, so that none loses its parts."""
    needed = set()
    for manifest in manifests:
        if manifest is not None:
            needed |= {f"snapshot-{manifest.number:08d}.json", *(entry.file for entry in manifest.entries.values())}
    own = [name for name in names if _number(name.removesuffix(_DRAFT)) and name not in needed]
    return sorted(own, key=lambda name: not name.startswith("snapshot-"))


def _member_name(name: str) -> str:
    """An array's name in an npz file: quoted, so that names with a separator, such as validation/loss, are allowed."""
    return quote(name, safe="") + ".npy"


def _array_name(member: str) -> str:
    name = unquote(member.removesuffix(".npy"))
    if member != _member_name(name) or ".." in name or not 1 <= len(name) <= 1000:
        raise ValueError(f"an array's name must be plain, got {member[:100]!r}")
    return name


def _is_native(dtype: np.dtype) -> bool:
    """Whether an npz file holds the dtype itself."""
    return dtype.kind in "biufc" and dtype.isbuiltin != 2  # 2: a dtype that a package has registered, such as ml_dtypes


def _is_foreign(dtype: np.dtype) -> bool:
    """Whether the dtype is bfloat16 or similar: numbers that an npz file holds only as bytes."""
    try:
        return dtype.isbuiltin == 2 and not dtype.hasobject and np.dtype(dtype.name) == dtype
    except TypeError:
        return False


def _check_json(where: str, content: dict[str, Any]) -> None:
    """Raises if content is not what JSON reads back unchanged."""
    if type(content) is not dict:
        raise TypeError(check.message(where, "content must be a dict", type(content).__name__))
    rest: list[tuple[Any, int, str]] = [(content, 1, "content")]
    while rest:
        value, depth, path = rest.pop()
        if depth > _DEEPEST and type(value) in (dict, list):
            raise ValueError(check.message(where, f"content must be at most {_DEEPEST} deep", f"more at {path[:60]}...", "make it flatter"))
        if type(value) is dict:
            for key, own in value.items():
                if type(key) is not str:
                    raise TypeError(check.message(where, f"keys in {path} must be text", repr(key), "JSON has no others"))
                rest.append((own, depth + 1, f"{path}[{key!r}]"))
        elif type(value) is list:
            rest.extend((own, depth + 1, f"{path}[{i}]") for i, own in enumerate(value))
        elif type(value) is int and value.bit_length() > 10_000:  # near the longest that Python reads by default
            raise ValueError(check.message(where, f"{path} must have at most 10000 bits", value.bit_length()))
        elif value is not None and type(value) not in (str, bool, int, float, np.float64):
            fix = "a list, a number of Python's, or an array in parts"
            raise TypeError(check.message(where, f"{path} must be what JSON gives back as it is", f"{type(value).__name__}", fix))


def _sealed(where: str, number: int, content: dict[str, Any], entries: Mapping[str, _Entry]) -> bytes:
    """A manifest's bytes: JSON without spaces, whose last field is the SHA-256 of the JSON without that field.

    Every later format must keep the field `format` and this sum, else older versions would take its files for damaged ones.
    """
    parts = {name: {"file": e.file, "bytes": e.size, "sha256": e.sha256, "dtypes": e.dtypes} for name, e in entries.items()}
    body = json.dumps({"format": _FORMAT, "number": number, "content": content, "parts": parts}, separators=(",", ":")).encode()
    if len(body) + _SEAL_BYTES > _LONGEST:
        fix = "put numbers into parts"
        raise ValueError(check.message(where, f"content must have at most {_LONGEST} bytes as JSON", len(body), fix))
    return b'%s,"sha256":"%s"}' % (body[:-1], hashlib.sha256(body).hexdigest().encode())


def _read_manifest(path: str, number: int) -> _Manifest:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LONGEST:
            raise _Damage(f"has {size} bytes, more than a manifest's {_LONGEST}")
        raw = file.read(size)
    seal = _SEAL.fullmatch(raw[-_SEAL_BYTES:])
    body = raw[:-_SEAL_BYTES] + b"}"
    if seal is None or hashlib.sha256(body).hexdigest().encode() != seal[1]:
        raise _Damage("has not the bytes that were written")
    try:
        found = json.loads(body)
        if type(found["format"]) is not int or found["format"] < 1:
            raise ValueError(f"format must be a whole number from 1 on, got {found['format']!r}")
        if found["format"] > _FORMAT:
            raise _Newer(f"format {found['format']}, which is written by a newer version of funcnet")
        if type(found["number"]) is not int or found["number"] != number:
            raise ValueError(f"it must be snapshot {number}, got {found['number']!r}")
        if type(found["content"]) is not dict:
            raise ValueError("content must be a dict")
        return _Manifest(number, found["content"], {name: _entry(number, name, fields) for name, fields in found["parts"].items()})
    except (*_WRONG, AttributeError) as error:
        raise _Damage(f"is no manifest ({type(error).__name__}: {error})") from error


def _entry(number: int, part: str, fields: Mapping[str, Any]) -> _Entry:
    file, size, sha256, dtypes = (fields[name] for name in ("file", "bytes", "sha256", "dtypes"))
    found = _PART.fullmatch(file)
    if not found or found[2] != part or not 0 < _number(file) <= number:
        raise ValueError(f"the file of part {part!r} must be named after it, got {file!r}")
    if type(size) is not int or type(sha256) is not str:
        raise ValueError(f"part {part!r} must have a size and a sum, got {size!r} and {sha256!r}")
    for name in dtypes.values():
        if not re.fullmatch("[a-z][a-z0-9_]{1,40}", name):
            raise ValueError(f"a dtype must be a number's, got {name!r}")
        try:
            dtype = np.dtype(name)  # JAX registers bfloat16 and similar
        except TypeError:
            raise _Newer(f"dtype {name}, which this version of JAX doesn't know") from None
        if not _is_foreign(dtype):
            raise ValueError(f"a dtype that is stored as bytes must be bfloat16 or of its kind, got {name!r}")
    return _Entry(file, size, sha256, dict(dtypes))


def _read_part(path: str, entry: _Entry, *, wanted: bool = True) -> dict[str, np.ndarray]:
    """A part's arrays, after its size and SHA-256 have been checked; none if they aren't wanted."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size != entry.size:
            raise _Damage(f"has {size} bytes, not {entry.size}")
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:  # type: ignore[arg-type]
            raise _Damage("has not the bytes that were written")
        if not wanted:
            return {}
        file.seek(0)
        try:
            return _arrays(file, size, entry.dtypes)
        except _WRONG as error:
            raise _Damage(f"is no file of arrays ({type(error).__name__}: {error})") from error


def _arrays(file: IO[bytes], size: int, dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > size:
            raise ValueError(f"its arrays must fit into its {size} bytes")
        for member in members:
            name = _array_name(member.orig_filename)
            if name in arrays:
                raise ValueError(f"it must hold an array once, got {name!r} twice")
            if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size or member.flag_bits & 1:
                raise ValueError(f"{name!r} must be stored as it is, neither compressed nor encrypted")
            with archive.open(member) as stream:
                arrays[name] = _array(stream, member.file_size, name, np.dtype(dtypes[name]) if name in dtypes else None)
    if missing := sorted(set(dtypes) - set(arrays)):
        raise ValueError(f"it must hold {missing}")
    return arrays


def _array(stream: IO[bytes], size: int, name: str, foreign: np.dtype | None) -> np.ndarray:
    """Reads an array in NumPy's npy format, version 1.0, from exactly size bytes."""
    start = stream.read(len(_MAGIC) + 2)
    length = int.from_bytes(start[-2:], "little")
    header = stream.read(length)
    found = _HEADER.fullmatch(header.decode("latin1"))
    if start[:-2] != _MAGIC or not found:
        raise ValueError(f"{name!r} must be an array of numbers in npy format 1.0, got {header[:100]!r}")
    dtype, shape = np.dtype(found[1]), tuple(int(length) for length in found[3].split(",") if length.strip())
    count = math.prod(shape)
    if len(start) + length + count * dtype.itemsize != size:
        raise ValueError(f"{name!r} must have the {count * dtype.itemsize} bytes of shape {shape} and {dtype}, got {size} with its header")
    array = np.empty(count, dtype)
    raw, at = array.view(np.uint8), 0
    while chunk := stream.read(_CHUNK):  # to the end, where zipfile checks its own sum
        raw[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
    if at != len(raw):
        raise EOFError(f"{name!r} must have {len(raw)} bytes, got {at}")
    array = array.reshape(shape, order="F" if found[2] == "True" else "C")
    if foreign is None:
        return array
    if dtype != np.uint8 or not shape or shape[-1] != foreign.itemsize:
        raise ValueError(f"{name!r} must be the bytes of {foreign}, got shape {shape} and {dtype}")
    return np.asarray(array, order="C").view(foreign).reshape(shape[:-1])


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """Opens a regular file, no link, to read; anything else, or a read error of the disk, is damage."""
    try:
        descriptor = os.open(path, _OPEN)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _Damage("is no plain file")
        with os.fdopen(descriptor, "rb") as file:
            yield file
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EIO, errno.EINVAL):
            raise  # such as too many open files: no sign of damage
        why = {errno.ENOENT: "is missing", errno.ELOOP: "is a link"}.get(error.errno, f"can't be read ({error.strerror})")
        raise _Damage(why) from error


class _Sink:
    """A file to write to, without seeking, as zipfile accepts it; counts and hashes the bytes."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = 0
        self.sum = hashlib.sha256()

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        self.sum.update(rest)
        while rest.nbytes:
            rest = rest[os.write(self.descriptor, rest) :]  # os.write may write only a part
        size = memoryview(data).nbytes
        self.size += size
        return size

    def flush(self) -> None:
        pass


def _make_folder(folder: str) -> None:
    """Makes a folder and any missing folders above it, and flushes each to the disk."""
    above, missing = folder, []
    while not os.path.isdir(above):
        missing.append(above := above.rstrip(os.sep))
        above = os.path.dirname(above)
    os.makedirs(folder, exist_ok=True)
    for made in missing:
        with contextlib.suppress(OSError):  # a folder that can't be opened is left to the system to flush
            _flush_folder(os.path.dirname(made))


def _flush_folder(folder: str) -> None:
    """Flushes the names in a folder to the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP):  # some network disks can't flush a folder
            raise
    finally:
        os.close(descriptor)


# The lock


class _Owner(NamedTuple):
    pid: int
    host: str
    started: int | None  # the process's start, in clock ticks since boot: distinguishes it from a later one with the same pid


class _Lock:
    """The lock on a folder, lock.json. The mutex is flock on the open file, which the kernel releases when its process dies.

    On a disk without flock, the existence of the file is the mutex, and pid and start time in it tell whether its owner is dead.
    """

    def __init__(self, folder: str, where: str) -> None:
        self.descriptor = -1
        self._folder, self._where = folder, where
        self._path = os.path.join(folder, _LOCK)
        for _ in range(100):
            made = True
            try:
                descriptor = os.open(self._path, os.O_RDWR | _MAKE, 0o666)
            except FileExistsError:
                made = False
                try:
                    descriptor = os.open(self._path, os.O_RDWR | _OPEN)
                except FileNotFoundError:  # its owner released it in between
                    continue
            try:
                if self._take(descriptor, made):
                    self.descriptor = descriptor
                    _held.add(self)
                    return
            finally:
                if self.descriptor != descriptor:
                    os.close(descriptor)
        raise self._in_use(None, "wait, or give another folder")

    def _take(self, descriptor: int, made: bool) -> bool:
        """Tries to take the lock; False if the caller should try again. Raises StoreInUse if another process has it."""
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no plain file", self._path)
        locked = _flock(descriptor)
        for _ in range(100):
            if locked is False and made:  # another process has locked our new, still empty file, and will release it
                time.sleep(0.01)
                locked = _flock(descriptor)
        owner = _read_owner(descriptor)
        if locked is False:
            raise self._in_use(owner, "wait until it ends or closes the folder, or give another folder")
        if (locked or not made) and not self._is(descriptor):  # its owner released it in between
            return False
        own = _Owner(os.getpid(), socket.gethostname(), _started(os.getpid()))
        if not made:
            if owner is None and abs(time.time() - os.fstat(descriptor).st_mtime) < _YOUNG:
                raise self._in_use(None, f"try again in {_YOUNG:g} seconds")
            if owner is not None and owner.host != own.host:
                raise self._in_use(owner, f"if that process has ended, delete {self._path}, else give another folder")
            if not locked:
                if owner is not None and _is_alive(owner):
                    raise self._in_use(owner, "wait until it ends or closes the folder, or give another folder")
                self._take_away(descriptor)
                return False
        text = json.dumps(own._asdict()).encode()
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, text)
            os.ftruncate(descriptor, len(text))
        except BaseException:
            os.unlink(self._path)  # a lock without an owner's name would keep others out for a while
            raise
        return True

    def _take_away(self, descriptor: int) -> None:
        """Removes a dead owner's lock on a disk without flock, by renaming it: of several processes, only one can."""
        aside = f"{self._path}.{secrets.token_hex(8)}"
        try:
            os.rename(self._path, aside)
        except FileNotFoundError:
            return
        if not os.path.samestat(os.stat(aside, follow_symlinks=False), os.fstat(descriptor)):  # another's new lock
            with contextlib.suppress(FileExistsError):
                os.link(aside, self._path)
        os.unlink(aside)

    def _is(self, descriptor: int) -> bool:
        """Whether the path still refers to the open file."""
        try:
            return os.path.samestat(os.stat(self._path, follow_symlinks=False), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _in_use(self, owner: _Owner | None, fix: str) -> StoreInUse:
        by = "another process" if owner is None else f"process {owner.pid} on host {owner.host}"
        return StoreInUse(f"{self._where}: {self._folder} is in use by {by}; {fix}")

    def is_held(self) -> bool:
        return self.descriptor >= 0 and self._is(self.descriptor)

    def release(self) -> None:
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            try:
                with contextlib.suppress(OSError):
                    if self._is(descriptor):  # the file is still ours: nobody else can have taken it
                        os.unlink(self._path)
            finally:
                os.close(descriptor)


def _flock(descriptor: int) -> bool | None:
    """Whether the file could be locked; None if the system or the disk has no flock."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        if error.errno in _NO_FLOCK:
            return None
        raise
    return True


def _read_owner(descriptor: int) -> _Owner | None:
    """The owner that a lock file names; None if it names none, or its text is invalid."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        found = json.loads(os.read(descriptor, 4096))
        owner = _Owner(found["pid"], found["host"], found["started"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    fine = type(owner.pid) is int and 0 < owner.pid < 2**31 and type(owner.host) is str and owner.host.isprintable()
    return owner if fine and (owner.started is None or type(owner.started) is int) else None


def _started(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])  # field 22; the second may hold spaces and brackets
    except (OSError, ValueError, IndexError):
        return None


def _is_alive(owner: _Owner) -> bool:
    """Whether a process on this host is alive; True if that can't be found out."""
    if os.name == "nt":  # where os.kill with signal 0 would end it
        return True
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    started = _started(owner.pid)
    return owner.started is None or started is None or started == owner.started


_held: "weakref.WeakSet[_Lock]" = weakref.WeakSet()


def _let_go_in_child() -> None:
    """Closes the locks in a forked child, which would otherwise hold them after its parent's death."""
    for lock in list(_held):
        if lock.descriptor >= 0:
            os.close(lock.descriptor)
            lock.descriptor = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
