"""Snapshots in a folder: back bit for bit, whole after a death at any call or a power cut, and no harm from any file."""

import errno
import hashlib
import io
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import funcnet
from funcnet.sweeps import files
from funcnet.sweeps.files import Folder, StoreDamaged, StoreInUse, read_owner, read_snapshot, written_at

ROOT = pathlib.Path(funcnet.__file__).parent.parent
FOREIGN = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"]
NATIVE = ["bool", "int8", "uint8", "int16", "uint32", "int64", "uint64", "float16", "float32", "float64", ">f4", "longdouble", "complex64"]


def numbers(seed, n=4):
    return np.random.default_rng(seed).normal(size=n)


def first_parts():
    return {"data": {"x": numbers(1)}, "params": {"w": numbers(2)}}


def second_parts():
    return {"params": {"w": numbers(3), "b": np.asarray(0.5, "bfloat16")}}


@pytest.fixture
def two(tmp_path):
    """A folder of two snapshots; the second keeps `data` of the first, in a file of its own."""
    path = tmp_path / "store"
    with Folder(path) as folder:
        folder.write({"step": 1}, first_parts())
        folder.write({"step": 2}, second_parts(), keep=["data"])
    return path


MANIFEST, PART, KEPT, COPY = "snapshot-00000002.json", "part-00000002-params.npz", "part-00000001-data.npz", "part-00000002-data.npz"
OF_FIRST = {"snapshot-00000001.json", "part-00000001-params.npz", KEPT}
OF_SECOND = {MANIFEST, PART, COPY}


def names(path):
    return set(os.listdir(path))


def assert_equal(found, expected):
    assert {part: list(arrays) for part, arrays in found.items()} == {part: list(arrays) for part, arrays in expected.items()}
    for part, arrays in expected.items():
        for name, array in arrays.items():
            own = found[part][name]
            assert type(own) is np.ndarray and (own.shape, own.dtype) == (np.shape(array), array.dtype), name
            assert own.tobytes() == array.tobytes(), name
            assert own.flags.writeable and own.flags.aligned


def assert_first(snapshot):
    assert snapshot.content == {"step": 1}
    assert_equal(snapshot.parts, first_parts())


def assert_second(snapshot):
    assert snapshot.content == {"step": 2}
    assert_equal({name: snapshot.parts[name] for name in ("params", "data")}, second_parts() | {"data": first_parts()["data"]})


def looked_on(path):
    """What somebody sees who only looks, which changes nothing."""
    before = {name: os.lstat(path / name) for name in names(path)}
    found = read_snapshot(path)
    after = {name: os.lstat(path / name) for name in names(path)}
    assert {name: (one.st_ino, one.st_size, one.st_mtime_ns) for name, one in before.items()} == {
        name: (one.st_ino, one.st_size, one.st_mtime_ns) for name, one in after.items()
    }
    return found


def assert_agree(looked, folder):
    """Who opens the folder finds the same, and says beside it what damaged files are called now."""
    snapshot, damaged = looked
    assert (snapshot is None) == (folder.snapshot is None) and len(damaged) == len(folder.damaged) - (snapshot is None and bool(damaged))
    assert all(own.startswith(f"{sentence}; ") for own, sentence in zip(folder.damaged, damaged, strict=False)), (damaged, folder.damaged)
    if snapshot is not None:
        assert snapshot.content == folder.snapshot.content
        assert_equal(snapshot.parts, folder.snapshot.parts)


# What is written comes back


@pytest.mark.parametrize("dtype", NATIVE + FOREIGN)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 0, 3), (2, 3, 4), (1,) * 20])
def test_arrays_come_back_bit_for_bit(tmp_path, dtype, shape):
    bits = np.random.default_rng(0).integers(-7, 8, shape)
    array = np.asarray(bits % 2 if dtype == "bool" else abs(bits)).astype(dtype)
    with Folder(tmp_path) as folder:
        folder.write({}, {"part": {"array": array}})
        assert_equal(folder.snapshot.parts, {"part": {"array": array}})
    with Folder(tmp_path) as folder:
        assert_equal(folder.snapshot.parts, {"part": {"array": array}})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("view", ["a[::2]", "a[:, ::-1]", "a.T", "np.asfortranarray(a)", "a[..., 0]", "np.broadcast_to(a[0], (3, 4, 5))"])
def test_views_come_back_as_what_they_show(tmp_path, dtype, view):
    array = eval(view, {"a": numbers(0, 60).reshape(3, 4, 5).astype(dtype), "np": np})
    with Folder(tmp_path) as folder:
        folder.write({}, {"part": {"array": array, "scalar": array.ravel()[0]}})
    with Folder(tmp_path) as folder:
        own = folder.snapshot.parts["part"]
        assert own["array"].tobytes() == array.tobytes() and own["array"].shape == array.shape
        assert own["scalar"].shape == () and own["scalar"].dtype == array.dtype and own["scalar"].tobytes() == array.ravel()[0].tobytes()


def test_bits_of_nans_come_back(tmp_path):
    bits = np.array([0x7FF8000000000001, 0xFFF0000000000001, 0x7FF0000000000000, 1 << 63], np.uint64)
    with Folder(tmp_path) as folder:
        folder.write({}, {"part": {"array": bits.view(float)}})
        assert folder.snapshot.parts["part"]["array"].view(np.uint64).tolist() == bits.tolist()


def test_an_array_of_several_chunks_comes_back(tmp_path):
    array = numbers(0, 500_001)  # four reads of a mebibyte, the last one not full
    with Folder(tmp_path) as folder:
        folder.write({}, {"part": {"array": array, "after": array[:3]}})
        assert_equal(folder.snapshot.parts, {"part": {"array": array, "after": array[:3]}})


def test_names_of_arrays_may_be_any_text(tmp_path):
    arrays = {name: numbers(i) for i, name in enumerate(["validation/loss", "a.b", "é ", "%2F", "C:\\x", ".", "a\0b", "x" * 1000, "X"])}
    with Folder(tmp_path) as folder:
        folder.write({}, {"part": arrays, "Other_part-2": {}})
        assert_equal(folder.snapshot.parts, {"part": arrays, "Other_part-2": {}})


def random_json(rng, depth=0):
    kind = rng.integers(8 if depth < 4 else 6)
    if kind < 6:
        return [
            None,
            True,
            int(rng.integers(-(2**62), 2**62)),
            float(rng.normal() * 10.0 ** rng.integers(-300, 300)),
            'é"\\\n\ud800',
            -0.0,
        ][kind]
    values = [random_json(rng, depth + 1) for _ in range(rng.integers(4))]
    return values if kind == 6 else {f"{rng.integers(99)} key": value for value in values}


def test_content_comes_back_in_its_order(tmp_path):
    rng = np.random.default_rng(0)
    with Folder(tmp_path) as folder:
        for _ in range(30):
            content = {"z": random_json(rng), "a": [random_json(rng) for _ in range(5)], "whole": 10**3000}
            folder.write(content, {})
            assert repr(folder.snapshot.content) == repr(content)  # also the sign of zero and the order of keys
        folder.write({"values": [np.nan, np.inf, -np.inf, np.float64(0.1)]}, {})
        assert repr(folder.snapshot.content) == "{'values': [nan, inf, -inf, 0.1]}"


def test_a_snapshot_is_what_was_written_though_the_arrays_change_later(tmp_path):
    array, content = np.zeros(3), {"list": [1]}
    with Folder(tmp_path) as folder:
        folder.write(content, {"part": {"array": array}})
        array += 1
        content["list"].append(2)
        assert folder.snapshot.parts["part"]["array"].tolist() == [0, 0, 0] and folder.snapshot.content == {"list": [1]}


def test_equal_arrays_make_equal_files_that_numpy_reads(two, tmp_path):
    """The layout, checked by NumPy, zipfile and hashlib: what a person would use to get at the numbers without funcnet."""
    with Folder(tmp_path / "other") as folder:
        folder.write({"step": 1}, first_parts())
        folder.write({"step": 2}, second_parts(), keep=["data"])
    assert names(two) == OF_FIRST | OF_SECOND == names(tmp_path / "other")
    for name in names(two):
        assert (two / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    with np.load(two / PART, allow_pickle=False) as arrays:
        assert arrays["w"].tobytes() == numbers(3).tobytes() and arrays["b"].view("bfloat16").tolist() == [0.5]
    assert all(member.compress_type == zipfile.ZIP_STORED for member in zipfile.ZipFile(two / PART).infolist())
    manifest = json.loads((two / MANIFEST).read_bytes())
    own = manifest.pop("sha256")
    assert own == hashlib.sha256(json.dumps(manifest, separators=(",", ":")).encode()).hexdigest()
    assert manifest["format"] == 1 and manifest["number"] == 2 and manifest["content"] == {"step": 2}
    for name, file in {"params": PART, "data": COPY}.items():
        raw = (two / file).read_bytes()
        dtypes = {"b": "bfloat16"} if name == "params" else {}
        assert manifest["parts"][name] == {"file": file, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest(), "dtypes": dtypes}


def test_a_kept_part_is_written_twice_and_two_snapshots_stay(two):
    """The copies take turns, so that no two snapshots in a row share a file."""
    (two / "notes.txt").write_text("mine")
    (two / "part-1-x.npz").write_text("mine")
    before = {name: (two / name).stat() for name in (KEPT, COPY)}
    assert (two / KEPT).read_bytes() == (two / COPY).read_bytes()
    with Folder(two) as folder:
        folder.write({"step": 3}, {"params": {"w": numbers(4)}}, keep=(name for name in ["data"]))
        third = {"snapshot-00000003.json", "part-00000003-params.npz", KEPT}
        mine = {"notes.txt", "part-1-x.npz", "lock.json"}
        assert names(two) == OF_SECOND | third | mine
        folder.write({"step": 4}, {}, keep=["data"])
        for name, own in before.items():
            after = (two / name).stat()
            assert (after.st_ino, after.st_mtime_ns) == (own.st_ino, own.st_mtime_ns)
        assert names(two) == third | {"snapshot-00000004.json", COPY} | mine
        assert_equal(folder.snapshot.parts, {"data": first_parts()["data"]})
        folder.write({"step": 5}, {})
        assert names(two) == {"snapshot-00000004.json", COPY, "snapshot-00000005.json"} | mine
        folder.write({"step": 6}, {})
        assert names(two) == {"snapshot-00000005.json", "snapshot-00000006.json"} | mine


def test_a_part_of_before_that_is_another_is_no_copy(tmp_path):
    """Of one name and size; also where the snapshot before can't be read any more."""
    with Folder(tmp_path) as folder:
        for step, start in enumerate((0.0, 1.0, None)):
            new = {} if start is None else {"data": {"x": np.full(9, start)}}
            folder.write({"step": step}, new, keep=[] if new else ["data"])
        assert_equal(folder.snapshot.parts, {"data": {"x": np.full(9, 1.0)}})
        assert {"part-00000002-data.npz", "part-00000003-data.npz"} < names(tmp_path)
    (tmp_path / "snapshot-00000002.json").write_text("no manifest")
    with Folder(tmp_path) as folder:
        folder.write({"step": 4}, {}, keep=["data"])
    assert "part-00000004-data.npz" in names(tmp_path)
    with Folder(tmp_path) as folder:
        assert_equal(folder.snapshot.parts, {"data": {"x": np.full(9, 1.0)}})


def test_a_folder_whose_snapshots_share_a_file_goes_on_with_two(tmp_path):
    """As it was written before copies took turns."""
    with Folder(tmp_path) as folder:
        folder.write({"step": 1}, first_parts())
    manifest = json.loads((tmp_path / "snapshot-00000001.json").read_bytes())
    del manifest["sha256"]
    (tmp_path / "snapshot-00000002.json").write_bytes(sealed(manifest | {"number": 2, "content": {"step": 2}}))
    with Folder(tmp_path) as folder:
        assert folder.damaged == [] and folder.snapshot.content == {"step": 2}
        folder.write({"step": 3}, {}, keep=["data", "params"])
        files_of = {own["file"] for own in json.loads((tmp_path / "snapshot-00000003.json").read_bytes())["parts"].values()}
        assert files_of == {"part-00000003-data.npz", "part-00000003-params.npz"}
        assert_equal(folder.snapshot.parts, first_parts())


def test_the_folder_is_made_and_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Folder(pathlib.Path("a") / "b") as folder:
        monkeypatch.chdir("/")
        assert folder.snapshot is None and folder.damaged == []
        folder.write({}, {})
    assert names(tmp_path / "a" / "b") == {"snapshot-00000001.json"}


# What can't be written


class Odd(dict):
    pass


NOT_CONTENT = {
    "list": ([1], TypeError, r"store: content must be a dict, got list"),
    "tuple": ({"a": [0, (1, 2)]}, TypeError, r"content\['a'\]\[1\] must be what JSON gives back as it is, got tuple; a list"),
    "key": ({"a": {1: 2}}, TypeError, r"keys in content\['a'\] must be text, got 1"),
    "array": ({"a": np.ones(2)}, TypeError, r"got ndarray; .*an array in parts"),
    "whole": ({"a": np.int64(1)}, TypeError, r"got int64; .*a number of Python's"),
    "bytes": ({"a": b"x"}, TypeError, r"got bytes"),
    "class": ({"a": Odd()}, TypeError, r"got Odd"),
    "long": ({"a": 1 << 20_000}, ValueError, r"content\['a'\] must have at most 10000 bits, got 20001"),
}


@pytest.mark.parametrize("name", NOT_CONTENT)
def test_what_json_would_change_is_refused(tmp_path, name):
    content, kind, match = NOT_CONTENT[name]
    with Folder(tmp_path) as folder:
        with pytest.raises(kind, match=match):
            folder.write(content, {})
        assert folder.snapshot is None and names(tmp_path) == {"lock.json"}


def test_deep_and_long_content_is_refused(tmp_path, monkeypatch):
    def nested(depth):
        return {"a": nested(depth - 1)} if depth > 1 else {}

    with Folder(tmp_path) as folder:
        folder.write(nested(100), {})
        assert folder.snapshot.content == nested(100)
        with pytest.raises(ValueError, match="content must be at most 100 deep, got more at content.*; make it flatter"):
            folder.write(nested(101), {})
        circle = []
        circle.append(circle)
        with pytest.raises(ValueError, match="at most 100 deep"):
            folder.write({"a": circle}, {})
        monkeypatch.setattr(files, "_LONGEST", 500)
        with pytest.raises(ValueError, match="content must have at most 500 bytes as JSON, got .*; put numbers into parts"):
            folder.write({"a": "x" * 500}, {})
        assert folder.snapshot.content == nested(100)


NOT_ARRAYS = {
    "object": (
        np.array([None]),
        TypeError,
        r"'x' in part 'p' must be an array of numbers, got Python objects \(dtype object\); give numbers",
    ),
    "objects in fields": (np.zeros(1, [("a", object)]), TypeError, "Python objects"),
    "text": (np.array(["a"]), TypeError, r"must be an array of booleans or numbers, got dtype <U1; text goes into content"),
    "bytes": (np.array([b"a"]), TypeError, r"got dtype \|S1"),
    "structured": (np.zeros(1, [("a", "f4"), ("b", "i4")]), TypeError, "each field of a structured array is one of its own"),
    "void": (np.zeros(1, "V4"), TypeError, r"got dtype \|V4"),
    "date": (np.zeros(1, "M8[s]"), TypeError, r"got dtype datetime64\[s\]"),
    "list": ([1.0], TypeError, "'x' in part 'p' must be a NumPy array, got list; np.asarray makes one"),
    "number": (1.0, TypeError, "must be a NumPy array, got float"),
    "masked": (np.ma.masked_array([1.0], [True]), TypeError, "must be a NumPy array, got MaskedArray"),
    "of JAX": (jnp.ones(2), TypeError, "must be a NumPy array, got ArrayImpl; np.asarray"),
    "key": (jax.random.key(0), TypeError, "must be a NumPy array, got .*; jax.random.key_data gives a key's numbers"),
}


@pytest.mark.parametrize("name", NOT_ARRAYS)
def test_what_is_no_array_of_numbers_is_refused(tmp_path, name):
    array, kind, match = NOT_ARRAYS[name]
    with Folder(tmp_path) as folder:
        with pytest.raises(kind, match=match):
            folder.write({}, {"fine": {"x": np.ones(1)}, "p": {"x": array}})
        assert folder.snapshot is None and names(tmp_path) == {"lock.json"}


NOT_NAMES = {
    "up": ({"..": {}}, ValueError, r"a part's name must have 1 to 64 of the letters .*, got '\.\.'"),
    "separator": ({"a/b": {}}, ValueError, "got 'a/b'"),
    "newline": ({"a\n": {}}, ValueError, r"got 'a\\n'"),
    "none": ({"": {}}, ValueError, "got ''"),
    "letter": ({"é": {}}, ValueError, "got 'é'"),
    "digit": ({"٣": {}}, ValueError, "got '٣'"),
    "long": ({"x" * 65: {}}, ValueError, "1 to 64"),
    "number": ({1: {}}, TypeError, "got 1"),
    "case": ({"a": {}, "A": {}}, ValueError, "names of parts must differ in more than case, got 'a' and 'A'"),
    "array up": ({"p": {"a..b": np.ones(1)}}, ValueError, r"names of arrays in part 'p' must be text of 1 to 1000 .*, got 'a\.\.b'"),
    "array long": ({"p": {"x" * 1001: np.ones(1)}}, ValueError, "1 to 1000"),
    "array none": ({"p": {"": np.ones(1)}}, ValueError, "1 to 1000"),
    "array half": ({"p": {"\ud800": np.ones(1)}}, ValueError, "1 to 1000"),
    "array number": ({"p": {1: np.ones(1)}}, TypeError, "names of arrays in part 'p' must be text, got 1"),
    "parts": ([1], TypeError, "parts must be a dict of dicts of arrays, got list"),
    "arrays": ({"p": np.ones(1)}, TypeError, "part 'p' must be a dict of arrays, got ndarray"),
}


@pytest.mark.parametrize("name", NOT_NAMES)
def test_names_that_could_leave_the_folder_are_refused(tmp_path, name):
    parts, kind, match = NOT_NAMES[name]
    with Folder(tmp_path) as folder:
        with pytest.raises(kind, match=match):
            folder.write({}, parts)
        assert names(tmp_path) == {"lock.json"}


def test_keep_names_parts_of_the_snapshot_before(two):
    with Folder(two) as folder:
        with pytest.raises(ValueError, match="keep has 'dat', which is no part of the snapshot before; did you mean 'data'?"):
            folder.write({}, {}, keep=["dat"])
        with pytest.raises(ValueError, match="a part must be written or kept, got 'data' in both parts and keep"):
            folder.write({}, {"data": {}}, keep=["data"])
        with pytest.raises(TypeError, match=r"keep must be a list of names, got 'data'; \['data'\]"):
            folder.write({}, {}, keep="data")
        assert_second(folder.snapshot)
        folder.write({"step": 3}, {}, keep=["data"])
        with pytest.raises(ValueError, match="keep has 'params', which is no part of the snapshot before; there are 'data'"):
            folder.write({}, {}, keep=["params"])
        assert list(folder.snapshot.parts) == ["data"]
    with Folder(two / "new") as folder, pytest.raises(ValueError, match="there are none"):
        folder.write({}, {}, keep=["params"])


@pytest.mark.parametrize("change", ["removed", "shorter", "a link"])
def test_a_kept_file_that_is_gone_is_said(two, change):
    with Folder(two) as folder:
        raw = (two / COPY).read_bytes()
        (two / COPY).unlink()
        if change == "shorter":
            (two / COPY).write_bytes(raw[:-1])
        elif change == "a link":
            (two / "other").write_bytes(raw)
            (two / COPY).symlink_to(two / "other")
        got = "no such file" if change == "removed" else f"another file of {len(raw) - 1 if change == 'shorter' else '.*'} bytes"
        with pytest.raises(StoreDamaged, match=f"{COPY}, which is kept, must be as it was written, got {got}; write the part 'data' again"):
            folder.write({"step": 3}, {}, keep=["data"])
        folder.write({"step": 3}, {"data": first_parts()["data"]})
        assert_equal(folder.snapshot.parts, {"data": first_parts()["data"]})


@pytest.mark.parametrize("change", ["a bit", "removed", "a folder"])
def test_a_kept_file_is_checked_as_it_is_copied(two, change, monkeypatch):
    """Where it has changed since its size was looked at, or without another size."""
    (two / KEPT).unlink()  # so that there must be another copy
    with Folder(two) as folder:
        if change == "a bit":
            flip(two / COPY, 200, 0)
        else:
            monkeypatch.setattr(Folder, "_differs", lambda self, entry: "" if entry.file == COPY else "gone")
            (two / COPY).unlink()
            (two / COPY).mkdir() if change == "a folder" else None
        got = {"a bit": "one of other bytes", "removed": "one that is missing", "a folder": "one that"}[change]
        with pytest.raises(StoreDamaged, match=f"{COPY}, which is kept, must be as it was written, got {got}"):
            folder.write({"step": 3}, {}, keep=["data"])
        assert not {name for name in names(two) if "0003" in name}
        folder.write({"step": 3}, {"data": first_parts()["data"]})
        assert_equal(folder.snapshot.parts, {"data": first_parts()["data"]})


def test_a_snapshot_that_is_damaged_while_the_folder_is_open_is_said(two):
    with Folder(two) as folder:
        folder.write({"step": 3}, {"params": {"w": numbers(4)}})
        flip(two / "part-00000003-params.npz", 200, 3)
        with pytest.raises(
            StoreDamaged, match="snapshot 3 in .* must be as it was written, got one that has not the bytes .*; open the folder"
        ):
            _ = folder.snapshot
    with Folder(two) as folder:
        assert_second(folder.snapshot)


def test_a_closed_folder_says_so(two):
    folder = Folder(two)
    folder.write({"step": 3}, {})
    folder.close()
    folder.close()
    with pytest.raises(ValueError, match="the folder must be open to write, got one that was closed; open it again"):
        folder.write({}, {})
    with pytest.raises(ValueError, match="the folder must be open to read"):
        _ = folder.snapshot
    with Folder(two) as folder:
        assert folder.snapshot.content == {"step": 3}
    assert folder.snapshot.content == {"step": 3}  # what was read stays


def test_messages_begin_as_asked(tmp_path):
    with Folder(tmp_path, where="sweep") as folder, pytest.raises(TypeError, match="^sweep: content must be a dict"):
        folder.write(1, {})
    with pytest.raises(ValueError, match="^sweep: path must be a folder's name, got ''"):
        Folder("", where="sweep")


# Damage


def flip(path, at, bit):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << bit
    path.write_bytes(raw)


def offsets(path, n):
    return np.random.default_rng(0).integers(0, [[path.stat().st_size], [8]], (2, n)).T.tolist()


def assert_falls_back(two, file, raw, match):
    """With that file damaged, the first snapshot is found, the second manifest and the file are renamed, and writing goes on."""
    looked = looked_on(two)
    with Folder(two) as folder:
        assert_agree(looked, folder)
        assert folder.snapshot is not None, folder.damaged
        assert_first(folder.snapshot)
        (sentence,) = folder.damaged
        assert sentence.startswith(f"{MANIFEST} is damaged: {'it' if file == MANIFEST else file} ") and match in sentence, sentence
        gone = {MANIFEST, file}
        assert names(two) - {"lock.json"} == (OF_FIRST | OF_SECOND) - gone | {
            f"{name}.damaged" for name in gone if raw is not None or name != file
        }
        if raw is not None:
            assert (two / f"{file}.damaged").read_bytes() == raw and f"{file} is now {file}.damaged" in sentence


def restore(two, whole):
    for name in names(two):
        os.unlink(two / name)
    for name, raw in whole.items():
        (two / name).write_bytes(raw)


@pytest.mark.parametrize("file", [MANIFEST, PART])
def test_truncated_at_every_byte(two, file):
    whole = {name: (two / name).read_bytes() for name in names(two)}
    for length in range(len(whole[file])):
        restore(two, whole | {file: whole[file][:length]})
        match = "has not the bytes that were written" if file == MANIFEST else f"has {length} bytes, not {len(whole[file])}"
        assert_falls_back(two, file, whole[file][:length], match)


@pytest.mark.parametrize("file", [MANIFEST, PART])
def test_a_flipped_bit(two, file):
    whole = {name: (two / name).read_bytes() for name in names(two)}
    for at, bit in offsets(two / file, 200):
        restore(two, whole)
        flip(two / file, at, bit)
        assert_falls_back(two, file, (two / file).read_bytes(), "has not the bytes that were written")


@pytest.mark.parametrize("file", [MANIFEST, PART])
@pytest.mark.parametrize("change", ["longer", "other JSON", "zeros", "missing"])
def test_other_damage(two, file, change):
    raw = (two / file).read_bytes()
    raw = {"longer": raw + b" ", "other JSON": b'{"format":1}', "zeros": bytes(len(raw)), "missing": None}[change]
    if raw is None and file == MANIFEST:
        (two / file).unlink()
        with Folder(two) as folder:  # as if it had never been written
            assert_first(folder.snapshot)
        return
    if raw is None:
        (two / file).unlink()
        return assert_falls_back(two, file, None, "is missing")
    (two / file).write_bytes(raw)
    assert_falls_back(two, file, raw, "has")


def swap(first, second):
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def test_swapped_files_are_noticed(tmp_path):
    with Folder(tmp_path) as folder:
        for step in (1, 2, 3):
            folder.write({"step": step}, {"a": {"x": numbers(step)}, "b": {"x": numbers(-step % 10)}})
    swap(tmp_path / "part-00000003-a.npz", tmp_path / "part-00000003-b.npz")
    with Folder(tmp_path) as folder:
        assert folder.snapshot.content == {"step": 2} and len(folder.damaged) == 1
        assert {"part-00000003-a.npz.damaged", "part-00000003-b.npz.damaged", "snapshot-00000003.json.damaged"} <= names(tmp_path)
        folder.write({"step": 4}, {"a": {"x": numbers(4)}})
        assert "part-00000004-a.npz" in names(tmp_path)
        assert {"part-00000003-a.npz.damaged", "part-00000003-b.npz.damaged", "snapshot-00000003.json.damaged"} <= names(tmp_path)
    swap(tmp_path / "snapshot-00000002.json", tmp_path / "snapshot-00000004.json")
    with Folder(tmp_path) as folder:
        assert (
            folder.snapshot is None
            and [f"it is no manifest (ValueError: it must be snapshot {n}, got {6 - n})" in s for n, s in zip((4, 2), folder.damaged)]
            == [True] * 2
        )


def test_none_is_good(two):
    for name in (KEPT, COPY):
        flip(two / name, 100, 0)
    looked = looked_on(two)
    with Folder(two) as folder:
        assert_agree(looked, folder)
        assert folder.snapshot is None
        assert [sentence.split(" ")[0] for sentence in folder.damaged] == [MANIFEST, "snapshot-00000001.json", "no"]
        assert folder.damaged[-1].startswith(
            f"no snapshot in {two} is good; other parts are now part-00000001-params.npz.damaged, {PART}.damaged"
        )
        assert names(two) == {f"{name}.damaged" for name in OF_FIRST | OF_SECOND} | {"lock.json"}
        folder.write({"step": 7}, {"params": {"w": numbers(7)}})
        assert "snapshot-00000003.json" in names(two)  # no number is used twice
    with Folder(two) as folder:
        assert folder.snapshot.content == {"step": 7} and folder.damaged == []


def test_damaged_files_never_replace_each_other(two):
    for name in (f"{MANIFEST}.damaged", f"{MANIFEST}.damaged-2"):
        (two / name).write_text("earlier")
    (two / MANIFEST).write_text("now")
    with Folder(two) as folder:
        assert f"{MANIFEST} is now {MANIFEST}.damaged-3" in folder.damaged[0]
        folder.write({}, {})
    assert [(two / f"{MANIFEST}.damaged{end}").read_text() for end in ("", "-2", "-3")] == ["earlier", "earlier", "now"]


# Files that somebody made to do harm


def sealed(fields):
    body = json.dumps(fields, separators=(",", ":")).encode()
    return body[:-1] + f',"sha256":"{hashlib.sha256(body).hexdigest()}"'.encode() + b"}"


def craft(two, raw=None, entry=None, fields=None):
    """Writes snapshot 3 with right sums: a part of those bytes, other fields of its entry, other fields of the manifest."""
    own = {"file": "part-00000003-evil.npz", "bytes": 0, "sha256": hashlib.sha256(raw or b"").hexdigest(), "dtypes": {}}
    if raw is not None:
        (two / own["file"]).write_bytes(raw)
        own["bytes"] = len(raw)
    parts = {"evil": own | (entry or {})}
    (two / "snapshot-00000003.json").write_bytes(sealed({"format": 1, "number": 3, "content": {}, "parts": parts} | (fields or {})))


def npy(header, data=b""):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def header(descr="<f8", shape="(2,)"):
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


FINE = npy(header(), bytes(16))


def archive(*members, compression=zipfile.ZIP_STORED):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", compression) as made:
        for name, data in members:
            made.writestr(zipfile.ZipInfo(name), data, compression)
    return raw.getvalue()


def pickled():
    raw = io.BytesIO()
    np.savez(raw, x=np.array([{}], object))
    return raw.getvalue()


def compressed():
    raw = io.BytesIO()
    np.savez_compressed(raw, x=np.zeros(10**6))
    return raw.getvalue()


def in_directory(raw, at, value, size=4):
    """A zip file of which a field of the first member's entry in the directory is another."""
    start = raw.index(b"PK\x01\x02") + at
    return raw[:start] + value.to_bytes(size, "little") + raw[start + size :]


def overlapping():
    """Two entries of the directory that lead to one member: 1000 of them would fill a memory from a small file."""
    raw = archive(("x.npy", FINE))
    start, end = raw.index(b"PK\x01\x02"), raw.index(b"PK\x05\x06")
    entry = raw[start:end]
    counted = raw[end : end + 8] + (9).to_bytes(2, "little") * 2 + (9 * len(entry)).to_bytes(4, "little") + raw[end + 16 :]
    return raw[:start] + entry * 9 + counted


HOSTILE_PARTS = {
    "objects": (pickled, "'x' must be an array of numbers"),
    "compressed": (compressed, "must fit into its"),
    "compressed a little": (
        lambda: archive(("x.npy", npy(header(), bytes(range(16)))), compression=zipfile.ZIP_DEFLATED),
        "neither compressed",
    ),
    "encrypted": (lambda: in_directory(archive(("x.npy", FINE)), 8, 1, 2), "nor encrypted"),
    "overlapping": (overlapping, "must fit into its"),
    "huge member": (lambda: in_directory(archive(("x.npy", FINE)), 24, 2**32 - 2), "must fit into its"),
    "longer member": (lambda: in_directory(in_directory(archive(("x.npy", FINE)), 24, 100), 20, 100), "is no file of arrays"),
    "wrong sum": (lambda: in_directory(archive(("x.npy", FINE)), 16, 7), "Bad CRC-32"),
    "twice": (lambda: archive(("x.npy", FINE), ("y.npy", FINE)).replace(b"y.npy", b"x.npy"), "got 'x' twice"),
    "up": (lambda: archive(("../x.npy", FINE)), "an array's name must be plain, got '../x.npy'"),
    "dots": (lambda: archive(("..", FINE)), "must be plain"),
    "dots as a name": (lambda: archive(("...npy", FINE)), "must be plain"),
    "absolute": (lambda: archive(("/tmp/x.npy", FINE)), "must be plain"),
    "folder": (lambda: archive(("a/b.npy", FINE)), "must be plain"),
    "backslash": (lambda: archive(("a\\b.npy", FINE)), "must be plain"),
    "drive": (lambda: archive(("C:x.npy", FINE)), "must be plain"),
    "null": (lambda: archive(("xqy.npy", FINE)).replace(b"xqy", b"x\0y"), "must be plain"),
    "no npy": (lambda: archive(("x.txt", FINE)), "must be plain"),
    "quoted up": (lambda: archive(("%2E%2E%2Fx.npy", FINE)), "must be plain"),
    "huge array": (lambda: archive(("x.npy", npy(header(shape=f"({10**15},)"), bytes(16)))), "must have the 8000000000000000 bytes"),
    "overflowing array": (lambda: archive(("x.npy", npy(header(shape=f"({2**32}, {2**32}, 2)"), bytes(16)))), "must have the"),
    "shorter array": (lambda: archive(("x.npy", npy(header(shape="(1,)"), bytes(16)))), "must have the 8 bytes"),
    "huge and none": (lambda: archive(("x.npy", npy(header(shape=f"(0, {10**30})")))), "is no file of arrays"),
    "many axes": (lambda: archive(("x.npy", npy(header(shape="(" + "1," * 500 + ")"), bytes(8)))), "is no file of arrays"),
    "negative": (lambda: archive(("x.npy", npy(header(shape="(-2,)"), bytes(16)))), "must be an array of numbers"),
    "text": (lambda: archive(("x.npy", npy(header("<U4"), bytes(32)))), "must be an array of numbers"),
    "odd dtype": (lambda: archive(("x.npy", npy(header("<f3"), bytes(6)))), "is no file of arrays"),
    "fields": (lambda: archive(("x.npy", npy(header().replace("'<f8'", "[('a', '<f8')]"), bytes(16)))), "must be an array of numbers"),
    "code": (lambda: archive(("x.npy", npy("__import__('os').abort()"))), "must be an array of numbers"),
    "deep": (lambda: archive(("x.npy", npy("(" * 60_000))), "must be an array of numbers"),
    "other version": (lambda: archive(("x.npy", FINE.replace(b"NUMPY\x01", b"NUMPY\x02"))), "must be an array of numbers"),
    "empty member": (lambda: archive(("x.npy", b"")), "must be an array of numbers"),
    "no zip": (lambda: b"x" * 100, "File is not a zip file"),
    "empty": (lambda: b"", "File is not a zip file"),
}


@pytest.fixture
def outside(two, monkeypatch):
    """Fails if files.py touches a path that is not in the folder, or if anything next to it changes."""
    (two.parent / "canary.npz").write_bytes(archive(("x.npy", FINE)))
    before = {path: path.read_bytes() for path in two.parent.iterdir() if path.is_file()}
    touched = []

    def act(name, own, args, kwargs):
        touched.extend(os.fspath(path) for path in args[: 2 if name in ("replace", "rename", "link") else 1] if not isinstance(path, int))
        return own(*args, **kwargs)

    monkeypatch.setattr(files, "os", System(act))
    yield two.parent / "canary.npz"
    assert touched and {path for path in touched if os.path.dirname(path) != str(two)} <= {str(two)}
    assert {path: path.read_bytes() for path in two.parent.iterdir() if path.is_file()} == before


class System:
    """Stands in for `os` in files.py: act(name, function, args, kwargs) is asked to make each call that the disk sees."""

    SEEN = ("open", "write", "fsync", "replace", "rename", "unlink", "ftruncate", "link", "makedirs", "stat", "listdir")

    def __init__(self, act, seen=SEEN):
        self._act, self._seen = act, seen

    def __getattr__(self, name):
        own = getattr(os, name)
        return (lambda *args, **kwargs: self._act(name, own, args, kwargs)) if name in self._seen else own


def assert_refused(two, match):
    looked = looked_on(two)
    with Folder(two) as folder:
        assert_agree(looked, folder)
        assert_second(folder.snapshot)
        assert len(folder.damaged) == 1 and match in folder.damaged[0], folder.damaged
        assert "snapshot-00000003.json.damaged" in names(two)
        folder.write({"step": 9}, {}, keep=["data"])


@pytest.mark.parametrize("name", HOSTILE_PARTS)
def test_hostile_parts_are_set_aside(two, outside, name):
    make, match = HOSTILE_PARTS[name]
    raw = make()
    craft(two, raw)
    assert_refused(two, match)
    assert (two / "part-00000003-evil.npz.damaged").read_bytes() == raw


def test_the_hand_made_parts_are_refused_for_their_one_fault(two):
    craft(two, archive(("x.npy", FINE), ("y.npy", npy(header("|u1", "(3, 2)"), bytes(6)))), {"dtypes": {"y": "bfloat16"}})
    with Folder(two) as folder:
        assert_equal(folder.snapshot.parts, {"evil": {"x": np.zeros(2), "y": np.zeros(3, "bfloat16")}})


HOSTILE_ENTRIES = {
    "up": ({"file": "../canary.npz"}, "the file of part 'evil' must be named after it, got '../canary.npz'"),
    "absolute": ({"file": "/etc/passwd"}, "must be named after it"),
    "up in a name": ({"file": "part-00000003-../../canary.npz"}, "must be named after it"),
    "lock": ({"file": "lock.json"}, "must be named after it"),
    "other part": ({"file": "part-00000002-params.npz"}, "must be named after it"),
    "later part": ({"file": "part-00000004-evil.npz"}, "must be named after it"),
    "padded": ({"file": "part-000000003-evil.npz"}, "must be named after it"),
    "newline": ({"file": "part-00000003-evil.npz\n"}, "must be named after it"),
    "no text": ({"file": ["part-00000003-evil.npz"]}, "is no manifest (TypeError"),
    "size": ({"bytes": True}, "must have a size and a sum"),
    "sum": ({"sha256": None}, "must have a size and a sum"),
    "other sum": ({"sha256": "0" * 64}, "has not the bytes"),
    "dtypes": ({"dtypes": []}, "is no manifest (AttributeError"),
    "dtype object": ({"dtypes": {"x": "object"}}, "a dtype that is stored as bytes must be bfloat16 or of its kind, got 'object'"),
    "dtype of fields": ({"dtypes": {"x": "i4,(1000000,1000000)f8"}}, "a dtype must be a number's"),
    "dtype float": ({"dtypes": {"x": "float32"}}, "must be bfloat16 or of its kind"),
    "not bytes": ({"dtypes": {"x": "bfloat16"}}, "'x' must be the bytes of bfloat16, got shape (2,) and float64"),
    "not there": ({"dtypes": {"y": "bfloat16"}}, "it must hold ['y']"),
}


@pytest.mark.parametrize("name", HOSTILE_ENTRIES)
def test_hostile_entries_are_set_aside(two, outside, name):
    entry, match = HOSTILE_ENTRIES[name]
    craft(two, archive(("x.npy", FINE)), entry)
    assert_refused(two, match)


HOSTILE_FIELDS = {
    "format 0": ({"format": 0}, "format must be a whole number from 1 on, got 0"),
    "format True": ({"format": True}, "got True"),
    "format text": ({"format": "1"}, "got '1'"),
    "format float": ({"format": 1.0}, "got 1.0"),
    "number": ({"number": 2}, "it must be snapshot 3, got 2"),
    "content": ({"content": []}, "content must be a dict"),
    "parts": ({"parts": []}, "is no manifest (AttributeError"),
    "entry": ({"parts": {"evil": []}}, "is no manifest (TypeError"),
    "no entry": ({"parts": {"evil": {}}}, "is no manifest (KeyError"),
}


@pytest.mark.parametrize("name", HOSTILE_FIELDS)
def test_hostile_manifests_are_set_aside(two, outside, name):
    fields, match = HOSTILE_FIELDS[name]
    craft(two, archive(("x.npy", FINE)), None, fields)
    assert_refused(two, match)


@pytest.mark.parametrize(
    "body", [b"[" * 10**6, b'{"a":' * 10**5, b"nonsense}", b"\xff\xfe}", b"[]", b'{"format":1}', b'{"format":' + b"1" * 5000 + b"}"]
)
def test_other_json_with_a_right_sum_is_set_aside(two, body):
    body = body[:-1] + b"}"
    (two / "snapshot-00000003.json").write_bytes(body[:-1] + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}')
    assert_refused(two, "it is no manifest")


def test_a_manifest_without_end_is_not_read(two):
    with open(two / "snapshot-00000003.json", "wb") as file:
        file.truncate(2**40)  # a hole: more than there is memory or disk for
    assert_refused(two, f"it has {2**40} bytes, more than a manifest's {2**26}")


def test_links_pipes_and_folders_are_not_followed(two, outside):
    raw = (two / PART).read_bytes()
    (two / PART).unlink()
    (two / PART).symlink_to(outside)  # the link itself is renamed
    assert_falls_back_to(two, PART, "is a link")
    (two / f"{PART}.damaged").unlink()
    (two / PART).write_bytes(raw)
    for make, match in [
        (os.mkfifo, "is no plain file"),
        (os.mkdir, "is no plain file"),
        (lambda path: os.symlink(outside, path), "is a link"),
    ]:
        make(two / "snapshot-00000005.json")
        with Folder(two) as folder:
            assert f"snapshot-00000005.json is damaged: it {match}" in folder.damaged[0]
            assert_first(folder.snapshot)


def assert_falls_back_to(two, file, match):
    looked = looked_on(two)
    with Folder(two) as folder:
        assert_agree(looked, folder)
        assert_first(folder.snapshot)
        assert f"{file} {match}" in folder.damaged[0] and (two / f"{file}.damaged").is_symlink()


def test_a_link_in_the_place_of_a_draft_is_not_followed(two, outside):
    with Folder(two) as folder:
        for name in ("part-00000003-params.npz.draft", "snapshot-00000003.json.draft", "snapshot-00000003.json"):
            (two / name).symlink_to(outside)
        folder.write({"step": 3}, {"params": {"w": numbers(4)}})
        assert folder.snapshot.content == {"step": 3}


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_lock_that_is_no_file_is_refused(two, outside, kind):
    {"link": lambda path: os.symlink(outside, path), "folder": os.mkdir, "pipe": os.mkfifo}[kind](two / "lock.json")
    with pytest.raises(OSError, match="must be a folder that can be read and written, got .* at lock.json"):
        Folder(two)


def test_a_newer_version_is_refused_and_nothing_is_renamed(two):
    (two / "snapshot-00000004.json").write_text("damaged")
    craft(two, None, None, {"format": 2})
    before = names(two)
    for opened in (Folder, read_snapshot):
        with pytest.raises(ValueError, match="got format 2, which is written by a newer version of funcnet; update funcnet"):
            opened(two)
    assert names(two) == before
    (two / "snapshot-00000003.json").unlink()
    with Folder(two) as folder:
        assert_second(folder.snapshot)
    craft(two, archive(("x.npy", FINE)), {"dtypes": {"x": "float99_e1"}})
    with pytest.raises(ValueError, match="got dtype float99_e1, which this version of JAX doesn't know"):
        Folder(two)


# Looking on, while others write


def test_who_looks_on_finds_the_newest_and_takes_no_lock(two):
    assert_second(looked_on(two)[0])
    assert "lock.json" not in names(two)
    with Folder(two) as folder:
        folder.write({"step": 3}, {"params": {"w": numbers(5)}}, keep=["data"])
        snapshot, damaged = looked_on(two)
        assert snapshot.content == {"step": 3} and damaged == []
        assert_equal(snapshot.parts, {"params": {"w": numbers(5)}} | {"data": first_parts()["data"]})
        folder.write({"step": 4}, {})  # it is still the owner's
        assert looked_on(two)[0].content == {"step": 4}


def test_parts_that_are_not_wanted_are_checked_and_left_out(two, monkeypatch):
    made = []
    monkeypatch.setattr(files, "_array", lambda *args, own=files._array: made.append(args[2]) or own(*args))
    snapshot, damaged = read_snapshot(two, only={"data", "not there"})
    assert_equal(snapshot.parts, {"data": first_parts()["data"]})
    assert snapshot.content == {"step": 2} and damaged == [] and made == ["x"]
    flip(two / PART, 100, 1)
    snapshot, damaged = read_snapshot(two, only={"data"})
    assert snapshot.content == {"step": 1} and damaged == [f"{MANIFEST} is damaged: {PART} has not the bytes that were written"]


def during(at, act, monkeypatch):
    """An `os` for files.py: before its call number `at` (each, where that is None) something else happens."""
    calls, inside = itertools.count(1), []

    def met(name, own, args, kwargs):
        if not inside and at in (None, next(calls)):
            inside.append(True)
            act()
            inside.clear()
        return own(*args, **kwargs)

    monkeypatch.setattr(files, "os", System(met))
    return calls


@pytest.mark.parametrize("writes", [1, 2, 5])
def test_snapshots_that_come_while_one_is_read_at_any_call(two, monkeypatch, writes):
    """A reading is as one before or after them, though what it had begun with has been removed."""
    with Folder(two) as folder:

        def write():
            for _ in range(writes):
                folder.write({"step": (step := folder.snapshot.content["step"] + 1)}, {name: {"x": np.full(9, step)} for name in "ab"})

        write()
        seen, last = set(), folder.snapshot.content["step"]
        for at in itertools.count(1):
            with monkeypatch.context() as patch:
                calls = during(at, write, patch)
                snapshot, damaged = read_snapshot(two)
            step = snapshot.content["step"]
            assert damaged == [] and snapshot.parts["a"]["x"].tolist() == snapshot.parts["b"]["x"].tolist() == [step] * 9
            if next(calls) <= at:  # the reading was over before
                break
            seen.add(step - last)
            assert step - last in (0, writes) and folder.snapshot.content["step"] == last + writes
            last += writes
        assert seen == ({0, 1} if writes == 1 else {writes}) and at == 5  # calls: to list, to open the manifest and its two parts


def test_snapshots_that_come_faster_than_one_can_be_read(two, monkeypatch):
    monkeypatch.setattr(files, "_MOST_TRIES", 4)
    with Folder(two) as folder:
        match = r"store: .* must hold still for as long as it is read, got newer snapshots each time; try again"
        with monkeypatch.context() as patch, pytest.raises(StoreInUse, match=match):
            during(None, lambda: [folder.write({"step": 0}, {"a": {"x": np.zeros(3)}}) for _ in range(2)], patch)
            read_snapshot(two)
        assert looked_on(two)[0].content == {"step": 0}


def test_looking_on_while_a_process_writes(tmp_path, start):
    process, found = start(WRITES, tmp_path), []
    process.stdout.readline()
    while not found or found[-1] < found[0] + 50:
        content, parts = read_snapshot(tmp_path)[0]
        assert parts["fast"]["x"].tolist() == [content["step"]] * 20_000 and parts["slow"]["x"].tolist() == [content["slow"]] * 50_000
        found.append(content["step"])
    assert found == sorted(found) and process.poll() is None
    kill(process)
    snapshot, damaged = looked_on(tmp_path)
    assert snapshot.content["step"] >= found[-1] and damaged == []


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda path: None,
            r"store: .*there must be a folder that can be read, got No such file or directory at there; give the path of a",
        ),
        (
            lambda path: path.write_text(""),
            r"store: .*there must be a folder that can be read, got Not a directory at there; give the path",
        ),
    ],
)
def test_looking_on_where_there_is_no_folder(tmp_path, make, match):
    make(tmp_path / "there")
    before = names(tmp_path)
    with pytest.raises(OSError, match=match):
        read_snapshot(tmp_path / "there")
    assert names(tmp_path) == before
    with pytest.raises(ValueError, match="show: path must be a folder's name, got ''"):
        read_snapshot("", where="show")


def test_when_the_newest_was_written(two):
    os.utime(two / "snapshot-00000001.json", (10, 10))
    os.utime(two / MANIFEST, (5, 5))
    assert written_at(two) == 5.0
    for name in OF_FIRST | OF_SECOND:
        (two / name).unlink()
    assert written_at(two) is None


# Death at every call


class Dead(BaseException):
    """The process is no more: nothing that it would still do is done."""


def dying(at, during):
    """An `os` whose call number `at`, and all after it, is not made; or that call is made, a write by half, and none after it."""
    calls = itertools.count(1)

    def act(name, own, args, kwargs):
        call = next(calls)
        if call < at:
            return own(*args, **kwargs)
        if call == at and during:
            if name == "write":
                os.write(args[0], bytes(args[1])[: len(args[1]) // 2])
            elif name == "open":
                os.close(own(*args, **kwargs))
            else:
                own(*args, **kwargs)
        raise Dead

    return System(act)


def bury(folder):
    """What the kernel does with a dead process: its files are closed, and so its lock ends; lock.json stays."""
    os.close(folder._lock.descriptor)
    folder._lock.descriptor = -1


def third(folder):
    folder.write({"step": 3}, {"ledger": {"x": np.arange(5)}, "params": {"w": numbers(4)}}, keep=["data"])


OF_THIRD = {"snapshot-00000003.json", "part-00000003-ledger.npz", "part-00000003-params.npz", KEPT}  # the copies take turns


@pytest.mark.parametrize("during", [False, True])
def test_death_at_any_call_of_a_write_leaves_a_whole_snapshot(two, tmp_path, monkeypatch, during):
    found = []
    for at in itertools.count(1):
        path = shutil.copytree(two, tmp_path / f"{at}")
        folder = Folder(path)
        with monkeypatch.context() as patched:
            patched.setattr(files, "os", dying(at, during))
            try:
                third(folder)
                break
            except Dead:
                pass
        bury(folder)
        was_there = "snapshot-00000003.json" in names(path)
        with Folder(path) as folder:
            assert folder.damaged == []
            assert not [name for name in names(path) if name.endswith(".draft")]
            step = folder.snapshot.content["step"]
            found.append(step)
            assert step == (3 if was_there else 2)
            assert_second(folder.snapshot) if step == 2 else assert_equal(
                {"x": folder.snapshot.parts["ledger"]}, {"x": {"x": np.arange(5)}}
            )
            folder.write({"step": 4}, {}, keep=["data"])
            number = 4 if step == 3 else 3 + ("part-00000003-ledger.npz" in names(path))
            assert names(path) - {"lock.json"} == (OF_THIRD if step == 3 else OF_SECOND) | {
                f"snapshot-{number:08d}.json",
                COPY if step == 3 else KEPT,
            }
        shutil.rmtree(path)
    assert found == sorted(found) and found.count(2) > 12 and found.count(3) > 3  # the new one is there from one call on


@pytest.mark.parametrize("during", [False, True])
def test_death_as_a_folder_is_opened_changes_nothing(two, tmp_path, monkeypatch, during):
    flip(two / PART, 200, 1)
    (two / "part-00000003-ledger.npz.draft").write_bytes(b"half")
    for at in itertools.count(1):
        path = shutil.copytree(two, tmp_path / f"{at}")
        with monkeypatch.context() as patched:
            patched.setattr(files, "os", dying(at, during))
            try:
                bury(Folder(path))
                break
            except Dead:
                pass
        if (path / "lock.json").exists() and not (path / "lock.json").read_bytes().endswith(b"}"):
            os.utime(path / "lock.json", (0, 0))  # some seconds later
        with Folder(path) as folder:
            assert_first(folder.snapshot)
            assert names(path) - {"lock.json"} <= OF_FIRST | OF_SECOND | {f"{MANIFEST}.damaged", f"{PART}.damaged"}
        shutil.rmtree(path)
    assert at > 10


@pytest.mark.parametrize("copied", [False, True])
def test_the_order_of_calls(two, monkeypatch, copied):
    """A file is flushed before it is named, the parts' names before the manifest's, and that before anything is removed."""
    if copied:
        (two / KEPT).unlink()  # so that there must be another copy, and nothing else is new
    calls, paths = [], {}

    def act(name, own, args, kwargs):
        value = own(*args, **kwargs)
        if name == "open":
            paths[value] = os.path.basename(args[0])
        about = paths[args[0]] if isinstance(args[0], int) else os.path.basename(args[1 if name == "replace" else 0])
        if calls[-1:] != [("write", about)] or name != "write":
            calls.append((name, about))
        return value

    with Folder(two) as folder:
        monkeypatch.setattr(files, "os", System(act, ("open", "write", "fsync", "replace", "unlink")))
        folder.write({"step": 3}, {}, keep=["data"]) if copied else third(folder)
    own = [call for call in calls if call[0] not in ("open",)]
    parts = ["part-00000003-data.npz"] if copied else ["part-00000003-ledger.npz", "part-00000003-params.npz"]
    writes = [[("write", f"{name}.draft"), ("fsync", f"{name}.draft"), ("replace", name)] for name in [*parts, "snapshot-00000003.json"]]
    flushed = [("fsync", "store")]
    removed = [
        ("unlink", "snapshot-00000001.json"),
        ("unlink", "part-00000001-params.npz"),
        ("unlink", "lock.json"),
    ]  # part-00000001-data.npz is snapshot 3's
    assert own == [*itertools.chain(*writes[:-1])] + flushed + writes[-1] + flushed + removed


class Disk:
    """Notes what reaches a disk, for a power cut: what was not flushed may be there, in part, or not; names in any combination."""

    def __init__(self, path, flushes=True):
        self.path, self.flushes = str(path), flushes
        self.names = {name: (path / name).read_bytes() for name in names(path) - {"lock.json"}}  # or the number of a new file
        self.flushed, self.later = dict(self.names), []  # names as they are after a cut for certain, and changes that may be lost
        self.contents, self.safe = [], []  # of new files: all of it, and whether it is flushed
        self.open = {}
        self.states = []

    def act(self, name, own, args, kwargs):
        value = own(*args, **kwargs)
        if name == "open":
            self.open[value] = None if args[0] == self.path else len(self.contents)
            if args[0] != self.path and args[1] & os.O_CREAT:
                self.contents.append(b"")
                self.safe.append(False)
                self.change(args[0], self.open[value])
        elif name == "write":
            self.contents[self.open[args[0]]] += bytes(args[1][:value])
            self.safe[self.open[args[0]]] = False
        elif name == "fsync" and self.flushes:
            if self.open[args[0]] is None:
                self.flushed, self.later = dict(self.names), []
            else:
                self.safe[self.open[args[0]]] = True
        elif name == "replace":
            file = self.names[os.path.basename(args[0])]
            self.change(args[1], file)
            self.change(args[0], None)
        elif name == "unlink":
            self.change(args[0], None)
        self.states.append((self.flushed, list(self.later), list(self.contents), list(self.safe)))
        return value

    def change(self, path, file):
        self.later.append((os.path.basename(path), file))
        self.apply(self.names, *self.later[-1])

    @staticmethod
    def apply(found, name, file):
        found[name] = file
        if file is None:
            del found[name]

    @classmethod
    def after_cut(cls, state, rng):
        """One of the folders that may be there when the power is back."""
        flushed, later, contents, safe = state
        found = dict(flushed)
        for change in later:
            if rng.random() < 0.5:
                cls.apply(found, *change)
        for name, file in found.items():
            if isinstance(file, int):
                whole = contents[file]
                found[name] = whole if safe[file] else whole[: rng.integers(len(whole) + 1)] + bytes(rng.integers(3))
        return found


def after_cuts(two, tmp_path, monkeypatch, disk):
    """The step that is found, and what is damaged, for cuts at every call of the third snapshot."""
    rng = np.random.default_rng(0)
    with Folder(two) as folder, monkeypatch.context() as patched:
        patched.setattr(files, "os", System(disk.act, ("open", "write", "fsync", "replace", "unlink")))
        third(folder)
    for state in disk.states:
        for _ in range(8):
            path = tmp_path / "after"
            path.mkdir()
            for name, raw in disk.after_cut(state, rng).items():
                (path / name).write_bytes(raw)
            with Folder(path) as folder:
                yield folder.snapshot, folder.damaged
            shutil.rmtree(path)


def test_a_power_cut_at_any_call_leaves_a_whole_snapshot(two, tmp_path, monkeypatch):
    found = []
    for snapshot, damaged in after_cuts(two, tmp_path, monkeypatch, Disk(two)):
        assert damaged == []
        found.append(snapshot.content["step"])
        if found[-1] == 2:
            assert_second(snapshot)
        else:
            assert_equal({"ledger": snapshot.parts["ledger"]}, {"ledger": {"x": np.arange(5)}})
    assert set(found[: len(found) // 2]) == {2} and set(found[-8:]) == {3}


def test_a_power_cut_shows_whether_files_were_flushed(two, tmp_path, monkeypatch):
    """The test before this one can fail: a disk on which nothing is flushed has damaged snapshots after a cut."""
    assert sum(bool(damaged) for _, damaged in after_cuts(two, tmp_path, monkeypatch, Disk(two, flushes=False))) > 10


RUN = "import sys, os, signal, numpy as np\nfrom funcnet.sweeps.files import *\nfrom funcnet.sweeps import files\npath = sys.argv[1]\n"


@pytest.fixture
def start():
    """start(code, *args) -> a process, which does not outlive its test."""
    env, pipe, processes = os.environ | {"PYTHONPATH": str(ROOT)}, subprocess.PIPE, []

    def started(code, *args):
        command = [sys.executable, "-c", RUN + code, *map(str, args)]
        processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env))
        return processes[-1]

    yield started
    for process in processes:
        process.kill()
        with process:
            pass


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


WRITES = """
folder = Folder(path)
step = folder.snapshot.content["step"] if folder.snapshot else 0
while True:
    step += 1
    keep = [] if step % 7 == 1 or not folder.snapshot else ["slow"]
    parts = {"fast": {"x": np.full(20_000, step)}} | ({} if keep else {"slow": {"x": np.full(50_000, step)}})
    folder.write({"step": step, "slow": step if not keep else folder.snapshot.content["slow"]}, parts, keep)
    print(step, flush=True)
"""


def test_killed_processes_lose_nothing(tmp_path, start):
    """Each of them goes on where the one before was killed, wherever that was."""
    last = 0
    for lines in (1, 9, 4):
        process = start(WRITES, tmp_path)
        said = [int(process.stdout.readline()) for _ in range(lines)]
        kill(process)
        with Folder(tmp_path) as folder:
            content, parts = folder.snapshot
            assert folder.damaged == [] and said[0] == last + 1 and content["step"] >= said[-1]
            assert parts["fast"]["x"].tolist() == [content["step"]] * 20_000 and parts["slow"]["x"].tolist() == [content["slow"]] * 50_000
            last = content["step"]


@pytest.mark.parametrize(("name", "at", "step"), [("replace", 1, 2), ("fsync", 3, 2), ("replace", 3, 2), ("unlink", 1, 3)])
def test_killed_at_a_call(two, name, at, step, start):
    code = f"""
own, left = os.{name}, [{at}]
def call(*args):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return own(*args)
folder = Folder(path)
os.{name} = call
folder.write({{"step": 3}}, {{"a": {{"x": np.ones(3)}}, "b": {{"x": np.ones(3)}}}}, ["data"])
"""
    process = start(code, two)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    with Folder(two) as folder:
        assert folder.snapshot.content == {"step": step} and folder.damaged == []


# A full disk and its kind


def failing(at, number, seen=("open", "write", "fsync", "replace")):
    """An `os` whose call number `at` of those fails once."""
    calls = itertools.count(1)

    def act(name, own, args, kwargs):
        if next(calls) == at:
            raise OSError(number, os.strerror(number))
        return own(*args, **kwargs)

    return System(act, seen)


def test_a_full_disk_at_any_call_leaves_the_snapshot_and_the_folder_usable(two, tmp_path, monkeypatch):
    for at in itertools.count(1):
        path = shutil.copytree(two, tmp_path / f"{at}")
        with Folder(path) as folder:
            with monkeypatch.context() as patched:
                patched.setattr(files, "os", failing(at, errno.ENOSPC))
                try:
                    third(folder)
                    break
                except OSError as error:
                    assert error.errno == errno.ENOSPC and error.filename == str(path)
                    said = str(error)
            assert f"store: {path} must be a folder that can be read and written, got No space left on device at " in said
            assert "free some space, then write again: the snapshot before is whole" in said
            assert names(path) == OF_FIRST | OF_SECOND | {"lock.json"}  # nothing of it takes room
            assert_second(folder.snapshot)
            third(folder)  # as the message says
        with Folder(path) as folder:
            assert folder.snapshot.content == {"step": 3} and folder.damaged == []
        shutil.rmtree(path)
    assert at > 15


def test_a_write_may_take_a_few_bytes_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "os", System(lambda name, own, args, kwargs: own(args[0], args[1][:7]), ("write",)))
    monkeypatch.setattr(files, "_Lock", unlocked(files._Lock))
    with Folder(tmp_path) as folder:
        folder.write({"step": 1}, {"part": {"x": numbers(0, 100)}})
        assert_equal(folder.snapshot.parts, {"part": {"x": numbers(0, 100)}})


def unlocked(lock):
    """A lock that is taken with the real `os`."""

    def take(folder, where):
        stand_in, files.os = files.os, os
        try:
            return lock(folder, where)
        finally:
            files.os = stand_in

    return take


def test_an_interruption_is_as_a_failed_write(two, monkeypatch):
    with Folder(two) as folder:
        with monkeypatch.context() as patched:
            calls = itertools.count(1)

            def act(name, own, args, kwargs):
                if next(calls) == 2:
                    raise KeyboardInterrupt
                return own(*args, **kwargs)

            patched.setattr(files, "os", System(act, ("replace",)))
            with pytest.raises(KeyboardInterrupt):
                third(folder)
        assert names(two) == OF_FIRST | OF_SECOND | {"lock.json"}
        third(folder)


def test_a_limit_on_the_size_of_files(tmp_path, start):
    code = """
import resource
folder = Folder(path)
folder.write({"step": 1}, {"part": {"x": np.ones(10)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    folder.write({"step": 2}, {"small": {"x": np.ones(10)}, "part": {"x": np.ones(10_000)}})
except OSError as error:
    print(error.errno, sorted(os.listdir(path)), folder.snapshot.content, error)
folder.write({"step": 3}, {"part": {"x": np.ones(20)}})
"""
    said = finish(start(code, tmp_path))
    left = "['lock.json', 'part-00000001-part.npz', 'snapshot-00000001.json']"
    assert said.startswith(f"{errno.EFBIG} {left} {{'step': 1}} ")
    assert "got File too large at" in said and r"raise the limit on the size of files (ulimit -f)" in said
    with Folder(tmp_path) as folder:
        assert folder.snapshot.content == {"step": 3} and folder.snapshot.parts["part"]["x"].tolist() == [1] * 20


def test_a_path_that_can_be_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="got File exists at file; give the path of a folder, or of none") as caught:
        Folder(tmp_path / "file")
    assert caught.value.errno == errno.EEXIST and (tmp_path / "file").read_text() == ""
    with pytest.raises(NotADirectoryError, match="give the path of a folder, or of none"):
        Folder(tmp_path / "file" / "store")
    with Folder(tmp_path / "store"):
        pass


@pytest.mark.parametrize(("name", "at"), [("makedirs", 1), ("open", 2), ("write", 1)])  # the first to be opened is the folder above
def test_a_folder_that_can_not_be_written(tmp_path, monkeypatch, name, at):
    """Whether it can't be made, its lock can't be made, or nothing can be written into that."""
    with monkeypatch.context() as patched:
        patched.setattr(files, "os", failing(at, errno.EACCES, (name,)))
        with pytest.raises(PermissionError, match="got Permission denied at .*; give a folder that can be read and written") as caught:
            Folder(tmp_path / "store")
    assert caught.value.errno == errno.EACCES
    with Folder(tmp_path / "store"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_of_somebody_else(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(PermissionError, match="must be a folder that can be read and written"):
        Folder(tmp_path)
    tmp_path.chmod(stat.S_IRWXU)
    Folder(tmp_path).close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM])
def test_an_error_that_says_nothing_of_a_file_renames_none(two, monkeypatch, number):
    for at in range(2, 6):  # the manifest and the parts; the first is the lock
        with monkeypatch.context() as patched:
            patched.setattr(files, "os", failing(at, number, ("open",)))
            with pytest.raises(OSError) as caught:
                Folder(two)
            assert caught.value.errno == number
        assert names(two) == OF_FIRST | OF_SECOND
        if at == 4:
            break
    with Folder(two) as folder:
        assert_second(folder.snapshot)


def test_a_disk_that_can_not_read_a_file_is_damage(two, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(files, "os", failing(3, errno.EIO, ("open",)))
        with Folder(two) as folder:
            assert_first(folder.snapshot)
            assert "can't be read (Input/output error)" in folder.damaged[0]


def test_no_file_stays_open(two):
    def count():
        return len(os.listdir("/proc/self/fd"))

    before = count()
    flip(two / MANIFEST, 100, 1)
    folder = Folder(two)
    third_of_first = {"step": 3}
    folder.write(third_of_first, {"params": {"w": numbers(4)}}, keep=["data"])
    _ = folder.snapshot
    assert count() == before + 1  # the lock
    folder.close()
    os.mkdir(two / "snapshot-00000009.json")
    Folder(two).close()
    (two / "snapshot-00000008.json").write_bytes(sealed({"format": 2}))
    with pytest.raises(ValueError, match="newer version"):
        Folder(two)
    assert count() == before


# The lock


HOLDS = """
folder = Folder(path)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_living_owner_is_named_and_a_killed_one_is_succeeded(two, start):
    process = start(HOLDS, two)
    assert process.stdout.readline() == "open\n"
    match = rf"^store: .*store is in use by process {process.pid} on host {socket.gethostname()}; wait until it ends or closes the folder"
    with pytest.raises(StoreInUse, match=match):
        Folder(two)
    kill(process)
    assert json.loads((two / "lock.json").read_bytes())["pid"] == process.pid
    with Folder(two) as folder:
        assert json.loads((two / "lock.json").read_bytes())["pid"] == os.getpid()
        assert_second(folder.snapshot)
    assert "lock.json" not in names(two)


def test_whose_lock_it_is_can_be_read_and_is_left_alone(two, start, monkeypatch):
    assert read_owner(two) is None
    process = start(HOLDS, two)
    assert process.stdout.readline() == "open\n"
    assert read_owner(two) == (process.pid, socket.gethostname(), True)
    with pytest.raises(StoreInUse):
        Folder(two)
    kill(process)
    before = (two / "lock.json").read_bytes()
    assert read_owner(two) == (process.pid, socket.gethostname(), False)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert read_owner(two).alive is None
    assert (two / "lock.json").read_bytes() == before


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"pid": 0, "host": "a", "started": null}', b'{"pid": 1, "host": "a\\u001b[1m", "started": null}']
)
def test_a_lock_that_says_nothing_has_no_owner(two, raw):
    (two / "lock.json").write_bytes(raw)
    assert read_owner(two) is None
    (two / "lock.json").unlink()
    os.mkfifo(two / "lock.json")
    assert read_owner(two) is None


def test_a_process_that_ends_lets_go(two, start):
    finish(start("folder = Folder(path)", two))
    assert "lock.json" not in names(two)


def test_a_second_folder_of_one_process_is_refused(two):
    folder = Folder(two)
    with pytest.raises(StoreInUse, match=rf"in use by process {os.getpid()} on host .*closes the folder"):
        Folder(two)
    folder.close()
    with Folder(two), pytest.raises(StoreInUse, match="in use by"):
        Folder(os.path.relpath(two))


def test_who_makes_the_lock_has_it_though_another_looks_first(two, monkeypatch):
    """Between the making of the file and its locking another may come, who finds that it says nothing, and goes."""
    flock, refused = files._flock, []

    def after_a_look(descriptor):
        if refused:
            return flock(descriptor)
        refused.append(None)
        other = os.open(two / "lock.json", os.O_RDWR)  # by now it has locked the file, to look at it
        assert flock(other)
        taken = flock(descriptor)
        with monkeypatch.context() as patched, pytest.raises(StoreInUse, match="in use by another process"):
            patched.setattr(files, "_flock", flock)
            Folder(two)
        os.close(other)
        return taken

    monkeypatch.setattr(files, "_flock", after_a_look)
    with Folder(two) as folder:
        assert folder._lock.is_held() and json.loads((two / "lock.json").read_bytes())["pid"] == os.getpid()


def test_a_lock_that_its_owner_removes_as_it_is_opened_is_made_again(two, monkeypatch):
    """What was opened has no name any more then, so that locking it keeps nobody out."""
    first, flock = Folder(two), files._flock

    def after_close(descriptor):
        first.close()
        return flock(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(files, "_flock", after_close)
        second = Folder(two)
    with second, pytest.raises(StoreInUse, match="in use by"):
        Folder(two)


def test_a_forgotten_folder_lets_go(two):
    folder = Folder(two)
    del folder
    Folder(two).close()


def test_a_folder_that_can_not_be_opened_lets_go(two):
    craft(two, None, None, {"format": 2})
    for _ in range(2):
        with pytest.raises(ValueError, match="newer version"):
            Folder(two)
    assert "lock.json" not in names(two)


@pytest.mark.parametrize("flock", [True, False])
def test_a_lock_of_another_host_is_never_taken(two, monkeypatch, flock):
    if not flock:
        monkeypatch.setattr(files, "fcntl", None)
    lock = json.dumps({"pid": os.getpid(), "host": "elsewhere", "started": None})
    (two / "lock.json").write_text(lock)
    os.utime(two / "lock.json", (0, 0))
    match = rf"is in use by process {os.getpid()} on host elsewhere; if that process has ended, delete {two / 'lock.json'}, else give another folder"
    with pytest.raises(StoreInUse, match=match):
        Folder(two)
    assert (two / "lock.json").read_text() == lock
    (two / "lock.json").unlink()  # as the message says
    Folder(two).close()


GARBAGE = [
    b"",
    b"{",
    b"[1]",
    b"null",
    b'{"pid": 1}',
    b'{"pid": "1", "host": "a", "started": null}',
    b'{"pid": -1, "host": "a", "started": 1}',
]


@pytest.mark.parametrize("flock", [True, False])
@pytest.mark.parametrize(
    "raw", [*GARBAGE, b'{"pid": 1, "host": "\\u001b[2J", "started": 1}', b"[" * 4000, bytes(10**5)], ids=lambda raw: repr(raw[:30])
)
def test_a_lock_that_says_nothing_is_taken_once_it_is_old(two, monkeypatch, flock, raw):
    if not flock:
        monkeypatch.setattr(files, "fcntl", None)
    (two / "lock.json").write_bytes(raw)
    with pytest.raises(StoreInUse, match="is in use by another process; try again in 5 seconds"):
        Folder(two)
    assert (two / "lock.json").read_bytes() == raw
    written = (two / "lock.json").stat().st_mtime
    os.utime(two / "lock.json", (written - 6, written - 6))  # the seconds have passed
    with Folder(two) as folder:
        assert_second(folder.snapshot)
        assert json.loads((two / "lock.json").read_bytes())["pid"] == os.getpid()


def ended():
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_without_flock_an_owner_is_known_by_its_pid_and_start(two, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    own, host = files._started(os.getpid()), socket.gethostname()
    assert own is not None and files._started(ended()) is None
    for started in (own, None):
        (two / "lock.json").write_text(json.dumps({"pid": os.getpid(), "host": host, "started": started}))
        with pytest.raises(StoreInUse, match=f"in use by process {os.getpid()} on host"):
            Folder(two)
    for pid, started in [(os.getpid(), own + 1), (ended(), 1), (ended(), None)]:  # the first is a pid that was used again
        (two / "lock.json").write_text(json.dumps({"pid": pid, "host": host, "started": started}))
        with Folder(two) as folder:
            assert_second(folder.snapshot)
            assert json.loads((two / "lock.json").read_bytes()) == {"pid": os.getpid(), "host": host, "started": own}
            with pytest.raises(StoreInUse, match="in use by"):
                Folder(two)
    assert names(two) == OF_FIRST | OF_SECOND


def test_a_disk_without_flock(two, monkeypatch):
    class Fcntl:
        LOCK_EX = LOCK_NB = 0

        @staticmethod
        def flock(descriptor, operation):
            raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(files, "fcntl", Fcntl)
    with Folder(two), pytest.raises(StoreInUse, match=f"in use by process {os.getpid()} on host"):
        Folder(two)
    Folder(two).close()


@pytest.mark.parametrize("flock", [True, False])
@pytest.mark.parametrize("stale", [True, False])
def test_of_two_at_once_one_opens(two, monkeypatch, flock, stale):
    """In threads, whose locks are as apart as those of processes: many rounds in which both come at the same moment."""
    if not flock:
        monkeypatch.setattr(files, "fcntl", None)
    lock = json.dumps({"pid": ended(), "host": socket.gethostname(), "started": 1})
    barrier, opened = threading.Barrier(2), []

    def take():
        for _ in range(60):
            barrier.wait()
            try:
                folder = Folder(two)
            except StoreInUse as error:
                folder = error
            opened.append(folder)
            barrier.wait()
            if isinstance(folder, Folder):
                assert folder._lock.is_held()
                folder.close()
                if stale:
                    (two / "lock.json").write_text(lock)

    if stale:
        (two / "lock.json").write_text(lock)
    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 120
    for both in zip(opened[::2], opened[1::2]):
        assert sorted(type(one).__name__ for one in both) == ["Folder", "StoreInUse"]


def test_of_several_processes_at_once_one_takes_a_dead_owners_place(two, start):
    (two / "lock.json").write_text(json.dumps({"pid": ended(), "host": socket.gethostname(), "started": 1}))
    code = """
print("ready", flush=True)
sys.stdin.readline()
try:
    folder = Folder(path)
    print("open", flush=True)
except StoreInUse as error:
    print("in use", flush=True)
sys.stdin.read()
"""
    processes = [start(code, two) for _ in range(3)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert sorted(process.stdout.readline() for process in processes) == ["in use\n", "in use\n", "open\n"]
    for process in processes:
        finish(process)


def test_a_forked_child_does_not_hold_its_parents_lock(two, start):
    """A worker process may outlive its parent for a while, and must neither keep others out nor write."""
    code = """
import warnings
warnings.simplefilter("ignore")
folder = Folder(path)
if os.fork() == 0:
    try:
        folder.write({}, {})
    except StoreInUse as error:
        os.write(1, f"child: {error}\\n".encode())
    else:
        os.write(1, b"child: wrote\\n")
    folder.close()
    sys.stdin.read()
    os._exit(0)
os.write(1, b"parent\\n")
os.wait()
"""
    process = start(code, two)
    said = sorted(process.stdout.readline() for _ in range(2))
    assert said[0].startswith("child: store: ") and "in the process that opened it" in said[0] and said[1] == "parent\n"
    with pytest.raises(StoreInUse, match=f"process {process.pid} on"):
        Folder(two)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Folder(two) as folder:
        assert_second(folder.snapshot)
    process.communicate(timeout=120)  # ends the child, which reads from the same pipe


@pytest.mark.parametrize("other", [True, False])
def test_a_lock_that_was_removed_by_hand_stops_the_owner(two, other):
    folder = Folder(two)
    (two / "lock.json").unlink()
    if other:
        second = Folder(two)
    with pytest.raises(StoreInUse, match="lock.json must stay while the folder is open, .*; open the folder again"):
        folder.write({}, {})
    folder.close()
    if other:
        assert second._lock.is_held()  # it is not the first one's to remove
        second.close()
    Folder(two).close()


def test_windows_can_import_it(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    code = "import sys; sys.modules['fcntl'] = None\n" + RUN + "with Folder(path) as folder: folder.write({}, {}); print(files.fcntl)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, env=env).stdout == "None\n"


def test_every_dtype_of_ml_dtypes_is_known():
    kinds = [
        name for name in dir(ml_dtypes) if isinstance(getattr(ml_dtypes, name), type) and issubclass(getattr(ml_dtypes, name), np.generic)
    ]
    assert len(kinds) > 10 and all(files._is_foreign(np.dtype(getattr(ml_dtypes, name))) for name in kinds)
