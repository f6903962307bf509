"""A stored sweep seen from outside: its result without its recipe, in words, as its events come, and as a page for a browser."""

import collections
import hashlib
import html.parser
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet import __main__ as command
from funcnet import page, plot, prune
from funcnet.sweeps import show, shown
from funcnet.sweeps.events import EVENTS, to_file
from funcnet.sweeps.files import Folder

ROOT = pathlib.Path(fn.__file__).parent.parent
RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32) + (X[:, 1] > 1).astype(np.int32)
DATA = fn.split(fn.Dataset(X, Y), key=jax.random.key(0))
RATES = np.geomspace(1e-4, 3.0, 24).tolist()
SETTINGS = dict(key=jax.random.key(5), num_steps=162, batch_size=16, progress=False, chunk_size=4)


def recipe(learning_rate, activation="relu", width=8, **more):
    model = fn.mlp((width, 3), activation)
    return fn.training(model, fn.cross_entropy, fn.adam(learning_rate), in_shape=(6,), metrics=["accuracy"])


def swept(variants, **changed):
    return fn.sweep(recipe, variants, DATA, **(SETTINGS | changed))


def own_names(learning_rate, **_):
    """Measures something of which nobody knows which way it is better; with a rate above 1 it is lost at step 7."""
    return fn.Training(
        lambda key: jnp.zeros(()),
        lambda state, batch, key: (jnp.where((learning_rate > 1) & (state >= 6), jnp.nan, state + 1), {"odd": state}),
        lambda state, data: {"odd": state * learning_rate},
    )


RULES = {
    "patience": (prune.patience(1), 27),
    "threshold": (prune.threshold(above=1.0), 27),
    "median": (prune.median(), 27),
    "percentile": (prune.percentile(0.3), 27),
    "successive_halving": (prune.successive_halving(6), None),
    "hyperband": (prune.hyperband(6), None),
    "asha": (prune.asha(6), None),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """name -> (folder, result), each trained once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("stores") / name
            made[name] = folder, STORES[name](folder)
        return made[name]

    return get


def pruned_by(name):
    policy, eval_every = RULES[name]
    return lambda folder: swept(fn.grid(learning_rate=RATES), prune=policy, eval_every=eval_every, store=folder)


STORES = {
    **{name: pruned_by(name) for name in RULES},
    "replicates": lambda folder: swept(
        fn.grid(learning_rate=RATES[4:16:4], activation=["relu", "tanh"]), eval_every=54, replicates=2, store=folder
    ),
    "at the best": lambda folder: swept(fn.grid(learning_rate=RATES), eval_every=9, keep_best=True, store=folder),
    "another metric": lambda folder: swept(fn.grid(learning_rate=RATES[:3]), metric="train/accuracy", store=folder),
    "lost": lambda folder: fn.sweep(own_names, fn.grid(learning_rate=[0.5, 2.0, 3.0]), DATA, **SETTINGS, store=folder),
    "all lost": lambda folder: fn.sweep(
        own_names, fn.grid(learning_rate=[2.0, 3.0]), DATA, **SETTINGS, metric="train/odd", mode="min", store=folder
    ),
    "one": lambda folder: swept([{"learning_rate": 0.01}], store=folder),
    "values": lambda folder: fn.sweep(
        own_names,
        [dict(learning_rate=0.1, a=jax.nn.relu, b=(1, None), c=None), dict(learning_rate=0.2, a=np.tanh, b="text", c=3)],
        DATA,
        **SETTINGS,
        store=folder,
    ),
}
every_store = pytest.mark.parametrize("name", STORES)


def stands(path):
    return {name: (found.st_ino, found.st_size, found.st_mtime_ns) for name in os.listdir(path) for found in [os.stat(path / name)]}


def table_of(result):
    return {name: column.tolist() for name, column in result.table.items()}


def assert_same(loaded, result):
    assert list(loaded.table) == list(result.table) and list(loaded.curves) == list(result.curves)
    for name in result.table:
        np.testing.assert_array_equal(loaded.table[name], result.table[name], err_msg=name)
        assert loaded.table[name].dtype == result.table[name].dtype, name
    for name in result.curves:
        np.testing.assert_array_equal(loaded.curves[name], result.curves[name], err_msg=name)


# The result without its recipe.


@every_store
def test_a_finished_store_is_the_result_and_nothing_in_it_changes(stores, name):
    folder, result = stores(name)
    before = stands(folder)
    loaded = fn.load_store(folder)
    assert_same(loaded, result)
    assert repr(loaded) == repr(result) and (loaded.metric, loaded.mode) == (result.metric, result.mode)
    assert loaded.timing["seconds"] <= result.timing["seconds"] and loaded.timing["lane_widths"] == result.timing["lane_widths"]
    assert stands(folder) == before
    if result.mode is not None:
        np.testing.assert_array_equal(loaded.ranking(), result.ranking())


def test_it_has_no_states_and_no_recipe_and_says_so(stores):
    loaded = fn.load_store(stores("one")[0])
    with pytest.raises(ValueError, match="row must be one whose state was kept"):
        loaded.state(0)
    with pytest.raises(ValueError, match="training: needs the recipe"):
        loaded.training(0)


def test_functions_come_back_as_themselves_or_as_their_names(stores):
    own = fn.load_store(stores("values")[0]).hyperparameters(0)
    assert own["a"] is jax.nn.relu and own["b"] == (1, None) and own["c"] is None


@pytest.mark.parametrize("rule", [None, "successive_halving", "asha"])
def test_while_a_sweep_trains_its_store_tells_how_far_it_is(tmp_path, rule, monkeypatch):
    """Each look, from inside the process that trains, is the whole sweep's beginning."""
    from funcnet.sweeps import store

    monkeypatch.setattr(store, "_LEAST", 0.0)
    monkeypatch.setattr(store, "_SHARE", 1e9)  # a snapshot whenever there is news
    folder, seen = tmp_path / "store", []

    def tell(progress):
        if folder.exists() and shown.read_stored(folder, where="test") is not None:
            seen.append(show.look(folder))

    changed = dict(prune=None if rule is None else RULES[rule][0], eval_every=27, num_steps=486)
    whole = swept(fn.grid(learning_rate=RATES[:12]), **changed, replicates=2, store=folder, progress=tell)
    assert len(seen) > 3
    met = collections.Counter()
    for view in seen:
        stored = view.stored
        assert view.state == "running" and (view.owner.pid, view.owner.host) == (os.getpid(), socket.gethostname())
        assert stored.steps_done <= whole.table["steps"].sum() and stored.result.table["steps"].sum() <= stored.steps_done
        for row in range(24):
            status, steps = str(stored.result.table["status"][row]), int(stored.result.table["steps"][row])
            met[status, 0 < steps < 486] += 1
            assert steps <= whole.table["steps"][row] and (status == "unfinished" or status == whole.table["status"][row])
            assert (status == "completed") == (steps == 486)
            columns = np.searchsorted(whole.curves["step"], stored.result.curves["step"])
            known = stored.result.curves["step"] <= steps
            for name in ("train/loss", "validation/accuracy"):
                ours, theirs = stored.result.curves[name][row], whole.curves[name][row][columns]
                np.testing.assert_array_equal(ours[known], theirs[known])
        for rung in stored.rule.rungs if rule else ():
            assert rung.came == rung.went_on + rung.stopped + rung.waiting
    assert met["unfinished", True] and met["completed", False] + met["pruned", True]
    if rule == "successive_halving":
        assert any(rung.waiting for view in seen for rung in view.stored.rule.rungs)
    assert_same(fn.load_store(folder), whole)


def test_a_run_that_is_lost_on_its_way_is_shown_so(tmp_path):
    """As the sweep itself would hand it out, were it interrupted now: its chunk goes on, and it doesn't."""

    def stop(progress):
        if progress.steps_done:
            raise KeyboardInterrupt

    with pytest.raises(fn.SweepStopped) as caught:
        fn.sweep(own_names, fn.grid(learning_rate=[0.5, 2.0]), DATA, **(SETTINGS | dict(num_steps=2000, progress=stop)), store=tmp_path)
    loaded, handed_out = fn.load_store(tmp_path), caught.value.result
    found = table_of(loaded)
    assert found["status"] == ["unfinished", "diverged"] and found["steps"][1] == 6 and 6 < found["steps"][0] < 2000
    assert table_of(handed_out)["status"] == found["status"] and table_of(handed_out)["steps"][1] == 6


@pytest.mark.parametrize(("at", "lost", "status"), [(100, -1, "unfinished"), (162, -1, "completed"), (162, 40, "diverged")])
def test_how_far_a_chunk_on_its_way_has_come(copy, at, lost, status):
    """A run with all its steps behind it has ended, though the snapshot was written before that was noted; one that is lost stays where it was."""
    folder = copy("one")
    with Folder(folder) as opened:
        content, parts = opened.snapshot
        parts = {part: dict(arrays) for part, arrays in parts.items()}
        parts["ledger"] |= {"status": np.array([0]), "ended": np.array([False]), "at": np.array([0])}
        parts["cohorts"] = {"0/diverged": np.array([-1, lost, -1])}
        content["cohorts"] = [{"request": [0, 3, True], "rows": [-1, 0, -1], "at": at, "goal": 162, "stand": True, "frozen": []}]
        opened.write(content, parts)
    table = fn.load_store(folder).table
    assert table["status"].tolist() == [status] and table["steps"].tolist() == [at if lost < 0 else lost]
    assert show.look(folder).state.startswith("finished" if status != "unfinished" else "not running; the same call goes on")


# Rungs.


def rungs(folder):
    return shown.read_stored(folder, where="test").rule.rungs


def test_rungs_of_successive_halving_by_hand(stores):
    """24 variants, a third of which goes on at 6, 18 and 54 steps."""
    expected = [(None, 6, 24, 8, 16, 0), (None, 18, 8, 2, 6, 0), (None, 54, 2, 1, 1, 0)]
    assert [tuple(rung) for rung in rungs(stores("successive_halving")[0])] == expected


def test_rungs_of_hyperband_by_its_rule(stores):
    """First rungs from Li et al.'s table for R / first = 27; of n that came max(1, n // 3) go on; the dealt variants are all."""
    folder, result = stores("hyperband")
    found = rungs(folder)
    assert [(rung.bracket, rung.step) for rung in found] == [(3, 6), (3, 18), (3, 54), (2, 18), (2, 54), (1, 54)]
    assert all(rung.went_on == max(1, rung.came // 3) and rung.came == rung.went_on + rung.stopped for rung in found)
    assert sum(rung.stopped for rung in found) == np.sum(result.table["status"] == "pruned")
    dealt = [rung.came for rung in found if rung.step == {3: 6, 2: 18, 1: 54}[rung.bracket]]
    shares = np.array([27, 12, 6, 4]) / 49 * 24  # n_s = ceil(4 / (s + 1) * 3^s)
    assert np.all(np.abs(np.array([*dealt, 24 - sum(dealt)]) - shares) < 1)


@pytest.mark.parametrize("name", RULES)
def test_what_each_rung_stopped_is_what_the_table_says(stores, name):
    folder, result = stores(name)
    counts = collections.Counter()
    for rung in rungs(folder):
        counts[rung.step] += rung.stopped
        assert rung.waiting == 0
    pruned = result.table["status"] == "pruned"
    assert +counts == collections.Counter(result.table["steps"][pruned].tolist())


def test_a_variant_counts_where_all_its_runs_came(tmp_path):
    rule = prune.successive_halving(6)
    result = swept(fn.grid(learning_rate=RATES[:9]), prune=rule, replicates=3, store=tmp_path)
    assert [tuple(rung)[1:] for rung in rungs(tmp_path)] == [(6, 9, 3, 6, 0), (18, 3, 1, 2, 0), (54, 1, 1, 0, 0)]
    assert np.sum(result.table["status"] == "pruned") == 24


def test_a_rung_by_hand():
    """Three variants of two runs at step 6: one goes on, of one a run was lost on its way, and one waits."""
    at, status = np.array([6, 9, 6, 4, 6, 6]), np.array([0, 0, 0, 2, 0, 0])
    allowed, six, none = np.array([18, 18, 6, 6, 6, 6]), np.full(6, 162), np.zeros(6, bool)
    ledger = shown.Ledger(
        steps=np.array([6]),
        values={},
        measured=np.zeros((6, 1), bool),
        num_steps=six,
        at=at,
        status=status,
        ended=none,
        allowed=allowed,
        stopped=none,
        numbers={},
        parents=np.zeros((6, 0), int),
        generations=np.zeros(0, int),
        history={},
        best=np.full(6, -1),
    )
    assert shown._rung(ledger, 2, None, 6, np.ones(3, bool)) == (None, 6, 2, 1, 0, 1)
    assert shown._rung(ledger, 2, 1, 6, np.array([False, True, True])) == (1, 6, 1, 0, 0, 1)
    assert shown._rung(ledger, 2, None, 162, np.ones(3, bool)) == (None, 162, 0, 0, 0, 0)


# What is no sweep's store.


def run(*arguments):
    return command.main(["show", *map(str, arguments)])


def assert_says(capsys, match, *arguments):
    """Exit code 1, one line on standard error, and nothing else."""
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert re.search(match, err) and err.count("\n") == 1 and "Traceback" not in err + out and not out, (out, err)


def test_no_store_there(tmp_path, capsys):
    assert_says(
        capsys, r"^show: .*nothing must be a folder that can be read, got No such file .*; give the path of a folder", tmp_path / "nothing"
    )
    assert not (tmp_path / "nothing").exists()
    assert_says(capsys, "must be the folder of a stored sweep, got an empty one; .*store=folder.* makes one", tmp_path)
    (tmp_path / "file").write_text("")
    assert_says(capsys, "got Not a directory at file", tmp_path / "file")
    assert_says(capsys, "must be the folder of a stored sweep, got one without a snapshot", tmp_path)
    assert_says(capsys, "path must be a folder's name, got ''", "")
    with pytest.raises(ValueError, match="load_store: .* must hold a stored sweep, got no snapshot; .* one that has just begun soon will"):
        fn.load_store(tmp_path)
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def copy(stores, tmp_path):
    """copy(name) -> a copy of its folder, to be spoilt."""

    def copied(name):
        shutil.copytree(stores(name)[0], tmp_path / "copy")
        return tmp_path / "copy"

    return copied


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_damage_is_said_and_nothing_is_renamed(copy, capsys):
    folder = copy("one")
    with Folder(folder) as opened:  # a second one
        opened.write(opened.snapshot.content, {}, keep=list(opened.snapshot.parts))
    manifests = sorted(folder.glob("snapshot-*.json"))
    flip(manifests[-1])
    before = stands(folder)
    assert run(folder) == 0
    assert f"damaged        {manifests[-1].name} is damaged: it has not the bytes that were written" in capsys.readouterr().out
    for manifest in manifests[:-1]:
        flip(manifest)
    assert_says(capsys, f"must hold a snapshot that is whole, got {manifests[-1].name} is damaged: it has not the bytes", folder)
    assert {name: stand for name, stand in stands(folder).items() if "snapshot" not in name} == {
        name: stand for name, stand in before.items() if "snapshot" not in name
    }


def test_a_newer_version_is_refused(copy, capsys):
    folder = copy("one")
    newest = sorted(folder.glob("snapshot-*.json"))[-1]
    found = json.loads(newest.read_bytes())
    del found["sha256"]
    body = json.dumps(found | {"format": 99}, separators=(",", ":")).encode()
    newest.write_bytes(body[:-1] + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}')
    assert_says(
        capsys, "must be one that this version can read, got format 99, which is written by a newer version .*; update funcnet", folder
    )


def other_shape(content, parts):
    parts["ledger"]["at"] = parts["ledger"]["at"][:-1]


WRONG = {
    "another's": lambda content, parts: content.pop("identity"),
    "replicates": lambda content, parts: content["identity"].update(replicates=10**9),
    "no variants": lambda content, parts: content["identity"].update(variants=[]),
    "no ledger": lambda content, parts: parts.pop("ledger"),
    "other shape": other_shape,
    "status": lambda content, parts: parts["ledger"]["status"].fill(9),
    "status below": lambda content, parts: parts["ledger"]["status"].fill(-1),
    "best": lambda content, parts: parts["ledger"]["best"].fill(99),
    "floats": lambda content, parts: parts["ledger"].update(at=parts["ledger"]["at"] + 0.5),
    "values": lambda content, parts: parts["ledger"].update({"values/train/loss": np.zeros((1, 1))}),
    "metrics": lambda content, parts: content.update(metrics=["nothing"]),
    "row": lambda content, parts: content.update(cohorts=[{"rows": [99], "at": 3, "goal": 5, "stand": False, "frozen": []}]),
    "cohort": lambda content, parts: content.update(cohorts=[3]),
    "programs": lambda content, parts: content.update(programs={"a": 3}),
    "value": lambda content, parts: content["identity"]["variants"][0]["hyperparameters"].update(learning_rate={"code": "x"}),
    "rule": lambda content, parts: content["identity"].update(rule=3),
    "brackets": lambda content, parts: content.update(policy={"dict": []}),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_content_is_refused(copy, capsys, name):
    folder = copy("hyperband")
    with Folder(folder) as opened:
        content, parts = opened.snapshot
        parts = {part: dict(arrays) for part, arrays in parts.items()}
        WRONG[name](content, parts)
        opened.write(content, parts)
    assert_says(capsys, r"^show: the snapshot in .* must be a sweep's of this version of funcnet, got .*; was it written by sweep", folder)
    with pytest.raises(ValueError, match="load_store: the snapshot in .* must be a sweep's"):
        fn.load_store(folder)


# In words.


def test_a_finished_sweep_in_words(stores, capsys):
    folder, result = stores("successive_halving")
    assert run(folder) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert not err and lines[0] == f"sweep in {folder}"
    facts = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines[1:10])
    assert facts["state"] == "finished" and facts["variants"] == "24 over learning_rate" and facts["runs"] == "24: 1 completed, 23 pruned"
    trained = 24 * 6 + 8 * 12 + 2 * 36 + 108
    assert facts["steps"] == f"{trained} of at most 3,888 ({trained / 3888:.0%}), summed over the runs"
    assert facts["ranked by"] == "validation/loss, the smaller the better" and facts["open in"] == "no process"
    assert re.fullmatch("just now|.* ago", facts["last snapshot"]) and facts["last event"].startswith("finished, ")
    at = lines.index("successive_halving(first=6, eta=3.0) decides by validation/loss, the smaller the better")
    assert [line.split() for line in lines[at + 1 : at + 5]] == [
        ["step", "came", "went", "on", "stopped", "waiting"],
        ["6", "24", "8", "16", "0"],
        ["18", "8", "2", "6", "0"],
        ["54", "2", "1", "1", "0"],
    ]
    assert out.endswith(f"\n\n{result!r}\n")


@every_store
def test_every_store_can_be_shown(stores, name, capsys):
    folder, result = stores(name)
    assert run(folder) == 0
    assert repr(result) in capsys.readouterr().out


def test_a_sweep_that_has_stored_nothing_yet(tmp_path, capsys):
    with Folder(tmp_path):
        to_file(tmp_path)("begun", runs=3, programs=1)
        assert run(tmp_path, "--html", tmp_path / "page.html") == 0
    out = capsys.readouterr().out
    assert "running" in out and "nothing yet" in out and f"process {os.getpid()} on host" in out and "begun, just now" in out
    assert "nothing yet" in words_of((tmp_path / "page.html").read_text())


def test_who_has_it_open_and_who_has_died(copy, monkeypatch):
    folder = copy("one")
    holder = "import sys; from funcnet.sweeps.files import Folder; folder = Folder(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", holder, folder], stdin=-1, stdout=-1, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "1\n"
        assert show.look(folder).state == "running" and f"process {process.pid} on host" in show.described(show.look(folder))
        process.send_signal(signal.SIGKILL)
    assert "which has died" in show.described(show.look(folder)) and show.look(folder).state == "finished"
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert "as its lock says" in show.described(show.look(folder))


def test_text_can_not_steer_a_terminal(tmp_path, capsys):
    fn.sweep(own_names, [dict(learning_rate=0.1, remark="\x1b[2J\x9b\u202e\rx")], DATA, **SETTINGS, store=tmp_path)
    to_file(tmp_path)("odd\x1b", what="\x1b[31m\n")
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    assert r"\x1b[2J\x9b\u202e\rx" in out and r"odd\x1b" in out
    assert all(letter.isprintable() or letter == "\n" for letter in out)
    assert show.event_line({"time": 0, "event": "a\nb", "what": "\x1b"})[8:] == r"  a\nb: what \x1b"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min"), (3600, "1 h"), (3661, "1 h 1 min"), (86_400 + 120, "1 d"), (1e9, "11574 d 1 h")],
)
def test_durations(seconds, words):
    assert show._duration(seconds) == words


def test_of_many_names_a_few_are_said(tmp_path):
    names = {f"{'long' * 8}_{i}": 1.0 for i in range(12)}
    fn.sweep(own_names, [dict(learning_rate=0.1, **names)], DATA, **SETTINGS, store=tmp_path)
    found = dict(show.facts(show.look(tmp_path)))["variants"]
    assert found == f"1 over learning_rate, {', '.join(list(names)[:4])} and 8 more"


# Events.


def appended(folder, *lines):
    with open(folder / EVENTS, "a") as file:
        file.write("".join(lines))


def event(name, **values):
    return json.dumps({"time": time.time(), "event": name, **values}) + "\n"


@pytest.mark.parametrize("end", show.ENDS)
def test_events_are_told_as_they_come(tmp_path, end):
    """Once each, and never by halves; lines that are no events are passed over."""
    appended(tmp_path, event("begun", runs=2))
    _, after = show.read_events(tmp_path, 0)
    halves = event("ended", step=6, rows=list(range(20)))
    steps = [
        [],
        [event("stored", runs_done=1), halves[:9]],
        [halves[9:-1]],
        ["\n", "nonsense\n", "[]\n", '{"event": 3, "time": 1}\n'],
        [event(end)],
    ]
    told, waits = [], iter(steps)
    ended = show.follow(tmp_path, after, told.append, wait=lambda seconds: appended(tmp_path, *next(waits)))
    assert ended == end and [line[10:] for line in told] == [
        "stored: runs_done 1",
        "ended: step 6, rows 0, 1, 2, 3, 4, 5, ... (20)",
        end,
    ]
    assert next(waits, None) is None


def test_a_log_that_was_begun_again_is_read_from_its_start(tmp_path):
    appended(tmp_path, event("begun", runs=2), event("finished"))
    _, after = show.read_events(tmp_path, 0)
    (tmp_path / EVENTS).write_text(event("resumed"))
    assert [found["event"] for found in show.read_events(tmp_path, after)[0]] == ["resumed"]


def test_a_process_that_dies_ends_the_following(copy):
    folder = copy("one")
    holder = "import sys; from funcnet.sweeps.files import Folder; folder = Folder(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", holder, folder], stdin=-1, stdout=-1, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "1\n"
        waits = itertools.count()

        def wait(seconds):
            if next(waits) == 3:
                process.send_signal(signal.SIGKILL)
                process.wait()

        assert show.follow(folder, show.read_events(folder, 0)[1], print, wait=wait) == show.GONE
    assert next(waits) == 4


def test_a_sweep_is_followed_to_its_end_from_another_process(tmp_path):
    """The whole of it: the command is started first, and ends by itself."""
    appended(tmp_path, event("expected"))
    with subprocess.Popen(
        [sys.executable, "-m", "funcnet", "show", tmp_path, "--follow", "--html", tmp_path / "page.html"],
        stdout=-1,
        stderr=-1,
        text=True,
        cwd=ROOT,
    ) as process:
        out = "".join(iter(process.stdout.readline, "\n"))  # up to the empty line before the page is named
        assert "nothing yet" in out
        swept(fn.grid(learning_rate=RATES[:4]), store=tmp_path)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and not err
    assert [line.split()[1].rstrip(",:") for line in out.splitlines() if re.match(r"\d\d:\d\d:\d\d  ", line)][-1] == "finished"
    assert "begun: runs 4, programs 1" in out and "how completed" in out
    assert "4 completed" in words_of((tmp_path / "page.html").read_text())  # written anew


@pytest.mark.parametrize(
    ("ends", "code"), [("finished", 0), ("out of time", 0), ("failed", 1), ("stopped", 1), (show.GONE, 1), (KeyboardInterrupt, 0)]
)
def test_the_exit_code_says_how_it_ended(tmp_path, ends, code, monkeypatch, capsys):
    def follow(*_):
        if ends is KeyboardInterrupt:
            raise ends
        return ends

    appended(tmp_path, event("begun"))
    monkeypatch.setattr(command, "follow", follow)
    assert run(tmp_path, "--follow") == code
    assert ("gone without a word" in capsys.readouterr().err) == (ends == show.GONE)


def test_what_is_finished_is_not_waited_for(stores, monkeypatch):
    monkeypatch.setattr(command, "follow", lambda *_: pytest.fail("it waited"))
    assert run(stores("one")[0], "--follow") == 0


# The command line.


def called(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "funcnet", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


def test_alone_it_prints_help():
    done = called()
    assert done.returncode == 0 and "show a stored sweep, running or finished" in done.stdout and not done.stderr
    assert called("shaw").returncode == 2


def test_no_device_is_touched_that_a_sweep_may_need(stores, tmp_path):
    """A second process that asks a GPU for its memory would end the first. Any use of a device fails here: there is no such platform."""
    folder, result = stores("replicates")
    done = called("show", folder, "--html", tmp_path / "page.html", JAX_PLATFORMS="nonsense", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert repr(result).replace("±", r"\xb1") in done.stdout and (tmp_path / "page.html").stat().st_size > 10_000
    touches = "import jax; jax.devices()"
    assert subprocess.run([sys.executable, "-c", touches], capture_output=True, env=os.environ | {"JAX_PLATFORMS": "nonsense"}).returncode


# The page.


class Page(html.parser.HTMLParser):
    """What a page holds: its elements with their attributes, nested as they should be, and its text outside of styles."""

    VOID = ("meta", "wbr", "br")

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and "defs" not in self.open:
            self.text.append(data)

    def of(self, tag):
        return [attributes for own, attributes in self.elements if own == tag]


def words_of(text):
    return " ".join("".join(Page(text).text).split())


def page_of(folder):
    return page.page(show.look(folder))


def assert_alone(text):
    """It loads and runs nothing, whatever is in it, and its ids are its own."""
    found = Page(text)
    assert {tag for tag, _ in found.elements} & {"script", "iframe", "object", "embed", "link", "base", "form", "img"} == set()
    for _, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "xlink:href", "src"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), attributes
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in found.elements:
        for name in re.findall(r"url\(#([^)]*)\)", " ".join(map(str, attributes.values()))):
            assert name in ids
    assert "<!--" not in text and "@import" not in text and re.findall(r"url\((?!#)", text) == []
    assert {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"} in found.of(
        "meta"
    )
    return found


@every_store
def test_every_store_makes_a_page(stores, name):
    folder, result = stores(name)
    found = assert_alone(page_of(folder))
    words = " ".join("".join(found.text).split())
    assert "finished" in words and str(folder) in words and "could not be drawn" not in words
    for status, count in collections.Counter(result.table["status"].tolist()).items():
        assert f"{count} {status}" in words
    assert len(found.of("tr")) == 1 + len(result) + (1 + len(rungs(folder)) if name in RULES else 0)


def cells(text):
    """The last table's lines, their cells as text."""
    table = text[text.rindex("<table>") :]
    lines = re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)
    return [["".join(Page(cell).text) for cell in re.findall(r"<(?:td|th)[ >].*?</(?:td|th)>", line, flags=re.DOTALL)] for line in lines]


def test_the_table_has_the_best_first_then_what_came_farthest(stores):
    folder, result = stores("successive_halving")
    (header, *lines) = cells(page_of(folder))
    assert header == [
        "variant",
        "validation/loss",
        "learning_rate",
        "train/accuracy",
        "train/loss",
        "validation/accuracy",
        "status",
        "steps",
    ]
    rows = [int(line[0]) for line in lines]
    assert rows[0] == result.best().row and sorted(rows) == list(range(24))
    steps = result.table["steps"][rows].tolist()
    assert steps == sorted(steps, reverse=True)
    losses = result.table["validation/loss"][rows]
    for step in (6, 18):
        own = losses[np.array(steps) == step]
        assert np.all(np.diff(own) >= 0) and len(own) > 2
    assert lines[0][1] == f"{losses[0]:.4g}"


def test_what_is_the_same_in_every_run_is_said_once(tmp_path):
    swept(fn.grid(learning_rate=RATES[:3], width=[5]), store=tmp_path)
    text = page_of(tmp_path)
    assert "in every run" in words_of(text) and "width = 5" in words_of(text) and "width" not in cells(text)[0]


def test_of_many_runs_the_page_has_the_first(stores, monkeypatch):
    folder, result = stores("replicates")
    monkeypatch.setattr(page, "_MOST_ROWS", 5)
    text = page_of(folder)
    assert "5 of 12 runs by validation/loss, the best first; variants are ranked by the mean over their runs." in words_of(text)
    assert [int(line[0]) for line in cells(text)[1:]] == result.table["variant"][result.ranking()[:5]].tolist()


def test_pictures_where_there_is_something_to_draw(stores):
    counts = {name: len(Page(page_of(stores(name)[0])).of("svg")) for name in ("one", "all lost", "successive_halving", "replicates")}
    assert counts == {"one": 0, "all lost": 0, "successive_halving": 1, "replicates": 3}
    assert "not ranked (none: of 2 runs 2 diverged later: try lower learning rates)" in words_of(page_of(stores("all lost")[0]))
    assert "None yet: nothing has been measured" in words_of(page_of(stores("all lost")[0]))


def test_without_matplotlib_it_has_all_but_the_pictures(stores, monkeypatch):
    folder, _ = stores("replicates")
    whole = cells(page_of(folder))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = page_of(folder)
    assert "pictures: needs matplotlib, which is not installed; pip install 'funcnet[experiments]'" in words_of(text)
    assert not assert_alone(text).of("svg") and cells(text) == whole


def test_a_picture_that_fails_says_so(stores, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("<b>no</b>")

    monkeypatch.setattr(plot, "learning_curves", fails)
    text = page_of(stores("replicates")[0])
    assert "could not be drawn: <b>no</b>" in words_of(text) and len(assert_alone(text).of("svg")) == 2


def test_pictures_leave_matplotlib_as_it_was(stores):
    import matplotlib

    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"text.usetex": True, "svg.fonttype": "none", "figure.facecolor": "red"}):
        text = page_of(stores("replicates")[0])
        assert text.count("<svg") == 3 and "could not be drawn" not in text and "#ff0000" not in text
    assert dict(matplotlib.rcParams) == before


def test_logarithmic_axes_have_plain_numbers():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.set(xscale="log", yscale="symlog", xlim=(1e-3, 1e2), ylim=(-100, 100))
    for axis in (axes.xaxis, axes.yaxis):
        page._without_formulas(axis)
    across, up = ([label.get_text() for label in axis.get_ticklabels()] for axis in (axes.xaxis, axes.yaxis))
    assert {"0.001", "0.01", "0.1", "1", "10", "100"} <= set(across) and {"-100", "0", "100"} <= set(up)
    assert not any("$" in text for text in across + up)


HOSTILE = [
    '"><script>document.title="owned"</script>',
    "<img src=x onerror=document.title='owned'>",
    "</style><script>document.title='owned'</script>",
    "--><svg onload=document.title='owned'>",
    "$\\frac$",
    'id="p0-x" url(#y) href="#z"',
    "&lt;b&gt; &amp;",
    "\u202egnp.exe \x1b[2J \u5b57",
]
EVIL = '"><script>document.title="owned"</script>$'


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "<script>document.title='owned'<"
    variants = [{"learning_rate": 0.1 + i, EVIL: value, "<b>": float(i)} for i, value in enumerate(HOSTILE)]

    def mild(learning_rate, **_):
        return own_names(learning_rate / 100)

    fn.sweep(mild, variants, DATA, **SETTINGS, eval_every=54, metric="train/odd", mode="min", store=folder)
    to_file(folder)("<script>document.title='owned'</script>")
    return folder


def test_what_users_name_is_text(hostile):
    text = page_of(hostile)
    found = assert_alone(text)
    assert len(found.of("svg")) == 4 and "could not be drawn" not in text
    (header, *lines) = cells(text)
    assert "<b>" in header
    column = header.index(EVIL)
    shown_values = [value.encode("unicode_escape").decode() if "\x1b" in value else value for value in HOSTILE]
    shown_values[-1] = "\\u202egnp.exe \\x1b[2J \u5b57"
    assert sorted(line[column] for line in lines) == sorted(shown_values)
    assert [tag for tag, _ in found.elements if tag in ("b", "img", "script")] == []
    assert "<script>document.title='owned'</script>, just now" in "".join(found.text)


def test_long_values_are_cut(tmp_path):
    fn.sweep(own_names, [dict(learning_rate=0.1, remark="x" * 5000)], DATA, **SETTINGS, store=tmp_path)
    text = page_of(tmp_path)
    assert "x" * 290 in text and "x" * 301 not in text


def test_a_page_is_written_whole_or_not_at_all(stores, tmp_path, capsys, monkeypatch):
    file = tmp_path / "page.html"
    file.write_text("before")
    assert run(stores("one")[0], "--html", file) == 0
    assert file.read_text().startswith("<!doctype html>") and os.listdir(tmp_path) == ["page.html"]
    assert f"written: {file}" in capsys.readouterr().out
    assert run(stores("one")[0], "--html", tmp_path / "no" / "page.html") == 1
    assert re.search("^show: --html .*page.html must be a file that can be written, got No such file", capsys.readouterr().err)

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    assert run(stores("one")[0], "--html", file) == 1 and os.listdir(tmp_path) == ["page.html"]


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed, which shows what a browser makes of the page")


def title_in_browser(text, folder):
    (folder / "page.html").write_text(text)
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}/profile",
        "--dump-dom",
        f"file://{folder}/page.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return re.search("<title>(.*?)</title>", done.stdout, flags=re.DOTALL)[1]


@needs_browser
def test_a_browser_runs_nothing_that_users_name(hostile, tmp_path):
    """Neither for what is escaped, though the page's own ban on scripts is taken away, nor, were something not escaped, for the ban."""
    text = page_of(hostile)
    own = re.search("<title>(.*?)</title>", text)[1]
    without_ban = re.sub(r"<meta http-equiv.*?>", "", text)
    script = "<script>document.title='owned'</script></body>"
    for name, body, title in [
        ("escaped", without_ban, own),
        ("banned", text.replace("</body>", script), own),
        ("neither", without_ban.replace("</body>", script), "owned"),
    ]:
        (tmp_path / name).mkdir()
        found = title_in_browser(body, tmp_path / name)
        assert (found == "owned") == (title == "owned"), name
