"""What stopping early is worth: what is counted is counted right, claims that can fail, and peers that train the same. No test asserts seconds."""

import json
import math
import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.pruning import __main__ as command
from experiments.pruning import contestant, ours, race, run, study
from experiments.pruning import problem as problems
from experiments.pruning.ours import RULES, Run
from experiments.pruning.problem import BATCH_SIZE
from experiments.pruning.race import Trace

SMALL = dict(variants=27, num_steps=54, first=2)


@pytest.fixture(scope="module")
def small():
    (problem,) = study.drawn(seeds=1, **SMALL)
    return problem


@pytest.fixture(scope="module")
def found(small):
    return study.measure([small])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


# The problem, and funcnet on it.


def test_each_seed_has_its_own_split_which_survives_a_file(tmp_path):
    first, second = study.drawn(seeds=2, seed=4, **SMALL)
    assert (first.seed, second.seed) == (4, 5) and [len(part[1]) for part in first[:3]] == [1079, 359, 359] and first.batches == 16
    assert not np.array_equal(first.train[1], second.train[1])
    problems.save(first, tmp_path / "problem.npz")
    loaded = problems.load(tmp_path / "problem.npz")
    assert loaded[3:] == first[3:]
    for ours_, theirs in zip(jax.tree.leaves(first[:3]), jax.tree.leaves(loaded[:3]), strict=True):
        np.testing.assert_array_equal(ours_, theirs)
        assert ours_.dtype == theirs.dtype


def test_variants_lie_in_the_ranges_and_differ_by_seed_and_turn(small):
    drawn = ours.variants(small)
    assert len(drawn) == 27 and drawn == ours.variants(small)
    assert drawn != ours.variants(small, turn=1) and drawn != ours.variants(small._replace(seed=1))
    for name, (low, high) in {"learning_rate": problems.LEARNING_RATE, "l2": problems.L2, "dropout": problems.DROPOUT}.items():
        values = [variant[name] for variant in drawn]
        assert low <= min(values) < max(values) < high


def test_scores_are_those_of_digits_counted_by_hand(small, found):
    result = ours.swept(small, ours.WHOLE)

    def accuracy(row, part):
        first, _, _, last = result.state(row).params
        hidden = np.maximum(part[0] @ np.asarray(first["weight"]).T + np.asarray(first["bias"]), 0)
        read = np.argmax(hidden @ np.asarray(last["weight"]).T + np.asarray(last["bias"]), -1)
        return 100 * np.mean(read == part[1])

    accuracies = [accuracy(row, small.validation) for row in range(27)]
    best = int(np.argmax(accuracies))
    (whole,) = found.runs[ours.WHOLE]
    assert whole.validation == pytest.approx(accuracies[best], abs=1e-3)
    assert whole.test == pytest.approx(accuracy(best, small.test), abs=1e-3)
    assert whole.steps == 1


def test_rules_take_the_steps_that_they_say_and_never_beat_the_whole_sweep(small, found):
    """27 to 2 steps, 9 on to 6, 3 on to 18, and one to 54: each rung costs as much, but the first."""
    (halving,), (hyperband,), (asha,) = (found.runs[rule] for rule in ("successive_halving", "hyperband", "asha"))
    assert halving.steps == pytest.approx((27 * 2 + 9 * 4 + 3 * 12 + 1 * 36) / (27 * 54))
    assert halving.steps < hyperband.steps < 0.5 and asha.steps < 0.5
    assert (small.first_of("hyperband"), small._replace(first=60).first_of("optuna_hyperband"), small.first_of("asha")) == (1, 20, 2)
    assert set(found.runs) == set(RULES) and all(run.steps < 1 for rule in RULES[2:] for run in found.runs[rule])
    for rule in RULES:
        assert found.behind(rule)[0] >= 0 and found.runs[rule][0].programs == 0  # timed warm: nothing is compiled


def test_a_competing_sweep_goes_on_with_other_variants(small):
    told = []
    ours.compete(small, "successive_halving", lambda **said: told.append(said), turns=iter([0, 1, 2, 0]))
    first, *others, again = told
    assert first == again and first["steps"] == 162
    assert any(other["answer"] != first["answer"] for other in others)  # two sweeps may well read as many digits


# Claims and figures on numbers made by hand.


def made(validations, seconds, test=97.0):
    return [Run(validation, test, spent, 0.3, 0) for validation, spent in zip(validations, seconds, strict=True)]


def by_hand(*, halving=((98.9, 98.8, 98.9), (1.0, 1.1, 0.9)), hyperband=((99.0, 98.9, 99.0), (1.2, 1.2, 1.3)), traces=None, **rest):
    whole = made((99.0, 98.9, 99.1), (5.0, 5.2, 4.9))
    runs = {rule: whole for rule in RULES} | {"successive_halving": made(*halving), "hyperband": made(*hyperband)}
    forms = {name: "its form" for name in traces or {} if name in contestant.PEERS}
    machine = {"cpu": "a processor", "cores": 2, "date": "2026-01-01", "versions": {"python": "3.11"}}
    return study.Measured(runs, traces or {}, forms, {}, rest.get("left_out", {}), machine)


def there_after(*seconds, patience=300.0):
    """A trace a seed that is poor at first and 99.5 after so many seconds; None: never."""
    return [
        Trace(((0.5 if own is None else own / 2, 90.0),) + (() if own is None else ((own, 99.5),)), patience if own is None else own, 100)
        for own in seconds
    ]


def test_the_claim_on_a_rule_needs_both_the_score_and_the_time():
    holds = lambda **changed: study.pays(by_hand(**changed), "successive_halving").holds
    assert holds()
    assert not holds(halving=((98.4, 98.3, 98.4), (1.0, 1.1, 0.9)))  # 0.6 to 0.7 points behind
    assert not holds(halving=((98.9, 98.8, 98.9), (2.0, 2.1, 1.9)))  # two fifths of the time
    assert not holds(halving=((99.0, 98.1, 99.1), (1.0, 1.1, 0.9)))  # behind in one seed: the interval is wide
    figures = study.pays(by_hand(), "successive_halving").figures
    assert figures["validation accuracy (points) below the whole sweep's"].mean == pytest.approx((0.1 + 0.1 + 0.2) / 3)
    assert figures["share of the whole sweep's time, warm"].mean == pytest.approx((1 / 5 + 1.1 / 5.2 + 0.9 / 4.9) / 3)
    assert (figures["seconds, median"], figures["the whole sweep's seconds, median"]) == (1.0, 5.0)


def raced(own=(4.0, 5.0, 4.5), **peers):
    return by_hand(traces={"funcnet successive_halving": there_after(*own), **{name: there_after(*each) for name, each in peers.items()}})


def test_the_claim_on_the_race_is_against_the_best_of_the_peers():
    slow, fast = (90.0, 110.0, 100.0), (52.0, 61.0, 55.0)
    finding = study.sooner(raced(optuna_median=slow, sklearn_halving=fast))
    assert finding.holds and finding.figures["the best of the peers"] == "sklearn_halving"
    assert finding.figures["times sooner than the best of the peers"].mean == pytest.approx((13 * 12.2 * 55 / 4.5) ** (1 / 3))
    assert not study.sooner(raced(optuna_median=slow, sklearn_halving=(36.0, 40.0, 44.0))).holds
    assert not study.sooner(raced(own=(9.5, 11.5, 10.5), optuna_median=slow)).holds


def test_a_peer_that_is_never_there_counts_as_there_when_patience_ended():
    finding = study.sooner(raced(optuna_median=(None, None, 200.0)))
    assert finding.figures["times sooner than the best of the peers"].mean == pytest.approx((75 * 60 * 200 / 4.5) ** (1 / 3))
    assert (
        finding.figures["seconds, median, optuna_median"] == "over 300"
        and "optuna_median 1 of 3" in finding.figures["seeds that each got there on"]
    )


def test_who_is_never_there_itself_was_not_sooner():
    finding = study.sooner(raced(own=(4.0, None, 4.5), optuna_median=(90.0, 110.0, 100.0)))
    assert not finding.holds and math.isnan(finding.figures["times sooner than the best of the peers"].mean)


def test_a_race_has_a_claim_more_and_another_picture():
    alone, together = study.outcome(by_hand()), study.outcome(raced(optuna_median=(90.0, 110.0, None)))
    assert [len(outcome.findings) for outcome in (alone, together)] == [2, 3]
    assert set(alone.pictures) == {"rules"} and set(together.pictures) == {"time_to_best"}
    over_time, times = together.pictures["time_to_best"].axes
    assert [line.get_label() for line in over_time.lines if not line.get_label().startswith("_")] == [
        "funcnet, successive halving",
        "optuna median",
    ]
    arrows = [line for line in times.lines if line.get_marker() == ">" and len(line.get_xdata())]
    assert [line.get_xdata().tolist() for line in arrows] == [[300.0]]
    assert [text.get_text() for text in times.get_yticklabels()] == ["funcnet, successive halving", "optuna median"]


def test_the_best_so_far_is_the_median_over_seeds():
    traces = [
        Trace(((1.0, 90.0), (3.0, 80.0), (5.0, 99.0)), 5.0, 0),
        Trace(((2.0, 97.0),), 9.0, 0),
        Trace(((4.0, 98.0),), 9.0, 0),
    ]
    above = study.best_so_far(traces, [99.0, 98.0, 98.0], np.array([0.5, 1.0, 2.0, 3.5, 4.0, 5.0]))
    assert above.tolist() == [-math.inf, -math.inf, -9.0, -9.0, -1.0, 0.0]


def test_a_trace_says_when_it_was_there():
    trace = Trace(((1.0, 90.0), (2.0, 95.0), (3.0, 94.0)), 10.0, 0)
    assert (trace.reached(90.0), trace.reached(90.1), trace.reached(95.1)) == (1.0, 2.0, math.inf)
    assert (trace.best, trace.first) == (95.0, 1.0) and Trace((), 10.0, 0).best == -math.inf


def test_the_table_has_everyone_and_who_was_left_out():
    found = raced(optuna_median=(None, None, 200.0))._replace(left_out={"hyperoptax": "No module named 'hyperoptax'"})
    printed = study.text(found).splitlines()
    for rule in RULES:
        assert sum(line.startswith(f"funcnet {rule} ") for line in printed) == 1
    (halving,) = [line.split() for line in printed if line.startswith("funcnet successive_halving")]
    assert halving[2:] == ["98.87", "97.00", "1", "0.20", "0.30", "4.5", "3", "of", "3"]
    (optuna,) = [line for line in printed if line.startswith("optuna_median")]
    assert "over 300" in optuna and "1 of 3" in optuna and optuna.endswith("its form")
    assert printed[-1].endswith("left out: No module named 'hyperoptax'")
    lines = study.markdown(found).splitlines()
    assert all(line.count("|") == len(study.HEAD) + 1 for line in lines[: len(RULES) + 4])


# The race.

FAKE = """
import json, signal, sys
name, path, form, folder, worker = sys.argv[1:]
say = lambda **said: print(json.dumps(said), flush=True)
if form == "absent":
    say(cannot="No module named 'absent'")
    sys.exit()
if form == "broken":
    say(steps=1)
    sys.exit("it is broken")
say(answer=10.0, steps=7)
if worker != "0" or form == "alone":
    say(answer=95.0, steps=5)
signal.pause()
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Contestants that answer at once, and then wait to be ended."""
    folder = tmp_path / "experiments" / "pruning"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    (folder / "contestant.py").write_text(FAKE)
    monkeypatch.setattr(race, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda form, **limits: race.watch("name", Path("path"), form, **({"seconds": 60.0, "aim": 95.0} | limits))


def test_a_contestant_is_ended_when_it_is_there(fake):
    trace = fake("alone")
    assert [value for _, value in trace.answers] == [10.0, 95.0] and trace.steps == 12 and not trace.cannot
    assert 0 < trace.reached(0) <= trace.reached(95) <= trace.seconds < math.inf


def test_processes_that_share_a_study_answer_into_one_trace(fake, monkeypatch):
    monkeypatch.setitem(contestant.OPTUNA_FORMS, "several", (2, 1, 1))
    trace = fake("several")
    values = [value for _, value in trace.answers]
    assert values[-1] == 95.0 and set(values) == {10.0, 95.0}


def test_patience_ends(fake):
    trace = fake("alone", seconds=0.001)
    assert trace.answers == () and trace.reached(0) == math.inf


def test_a_contestant_without_its_library_says_so_and_one_that_breaks_is_an_error(fake):
    assert fake("absent").cannot == "No module named 'absent'"
    with pytest.raises(RuntimeError, match=r"must go on until it is ended, got exit codes \[1\]: it is broken"):
        fake("broken")


def test_a_new_process_comes_to_the_same_answer(small, tmp_path):
    problems.save(small, tmp_path / "problem.npz")
    trace = race.watch("funcnet", tmp_path / "problem.npz", "successive_halving", seconds=120, aim=0)
    told = []
    ours.compete(small, "successive_halving", lambda **said: told.append(said), turns=iter([0]))
    assert trace.answers[0][1] == pytest.approx(told[0]["answer"], abs=0.3) and trace.steps == 162


@pytest.mark.parametrize(("name", "missing"), [("optuna_median", "optuna"), ("sklearn_halving", "sklearn"), ("hyperoptax", "hyperoptax")])
def test_a_missing_library_is_told(name, missing, small, tmp_path, monkeypatch, capsys):
    problems.save(small, tmp_path / "problem.npz")
    module = f"{'optuna' if missing == 'optuna' else missing}_peer"
    monkeypatch.delitem(sys.modules, f"experiments.pruning.{module}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "sklearn":
        monkeypatch.setitem(sys.modules, "sklearn.experimental", None)
    if missing == "hyperoptax":
        pytest.importorskip("optax", reason="its training loop is optax's")
    contestant.main(name, tmp_path / "problem.npz", "one process", tmp_path, 0)
    assert missing in json.loads(capsys.readouterr().out)["cannot"]


def test_a_race_probes_optuna_leaves_out_who_cannot_and_stops_at_the_aim(small, monkeypatch):
    watched, kept = [], []

    def watch(name, path, form, *, seconds, aim=math.inf):
        watched.append((name, form, seconds, aim))
        assert problems.load(path).seed in (0, 1)
        if name == "hyperoptax":
            return Trace((), 1.0, 0, 0.0, "No module named 'hyperoptax'")
        return Trace(((1.0, 99.0),), 1.0, 0, {"one process, a job a core": 900.0}.get(form, 500.0))

    monkeypatch.setattr(study, "watch", watch)
    before = by_hand()
    before = before._replace(runs={rule: runs[:2] for rule, runs in before.runs.items()})
    problems_ = study.drawn(seeds=2, **SMALL)
    found = study.race(before, problems_, patience=30.0, rules=["successive_halving"], probe=5.0, keep=kept.append)
    probes, turns = watched[:4], watched[4:]
    assert [probe[:3] for probe in probes] == [("optuna_median", form, 5.0) for form in contestant.OPTUNA_FORMS]
    assert all(form == "one process, a job a core" for name, form, *_ in turns if name.startswith("optuna"))
    assert {(seconds, round(aim, 6)) for *_, seconds, aim in turns} == {(30.0, 98.7), (30.0, 98.6)}
    assert [name for name, *_ in turns].count("hyperoptax") == 1 and found.left_out == {"hyperoptax": "No module named 'hyperoptax'"}
    assert set(found.traces) == {"funcnet successive_halving", *contestant.PEERS} - {"hyperoptax"} and "hyperoptax" not in found.forms
    assert len(kept) == 2 and all(len(traces) == 2 for traces in found.traces.values())
    json.dumps(study.plain(found), allow_nan=False)


def test_without_optuna_the_others_race(small, monkeypatch):
    monkeypatch.setattr(
        study, "watch", lambda name, *_, **__: Trace((), 1.0, 0, 0.0, "no optuna") if "optuna" in name else Trace(((1.0, 99.0),), 1.0, 0)
    )
    before = by_hand()
    found = study.race(before, study.drawn(seeds=3, **SMALL), patience=30.0, rules=["successive_halving"])
    assert set(found.left_out) == set(contestant.OPTUNA) and found.raced() == ["sklearn_halving", "hyperoptax"]
    assert "left out: optuna_median" in study.outcome(found).findings[2].figures


# The peers, a few steps each.


@pytest.fixture
def digits(small):
    pytest.importorskip("torch")
    from experiments.pruning.torch_net import Digits

    return Digits(small)


def test_torch_learns_and_is_evaluated_where_rungs_are(digits):
    course = list(digits.training(1e-2, 1e-6, 0.1, seed=0, every=2))
    assert [step for step, _ in course] == list(range(2, 55, 2))
    assert course[0][1] < 80 < course[-1][1] <= 100
    counts = np.array([accuracy for _, accuracy in course]) * 3.59
    np.testing.assert_allclose(counts, counts.round(), atol=1e-3)  # shares of 359 digits, in points


def test_torch_drops_nothing_while_it_is_evaluated(digits):
    from torch import nn

    net = nn.Sequential(nn.Dropout(0.9), nn.Linear(64, 10))
    assert len({digits.accuracy(net) for _ in range(5)}) == 1 and net.training  # and goes on dropping afterwards


def test_torch_has_funcnets_penalty(digits, monkeypatch):
    """Down the gradient of l2 * w^2 by plain descent, a weight of w moves by rate * 2 * l2 * w more; a bias doesn't."""
    import torch

    moved = {}
    for l2 in (0.0, 0.5):
        held = []

        def plain(groups, lr, fused, held=held):
            held.extend(parameter for group in groups for parameter in group["params"])
            held.append([parameter.detach().clone() for parameter in held])
            return torch.optim.SGD(groups, lr=lr)

        with monkeypatch.context() as patch:
            patch.setattr("experiments.pruning.torch_net.torch.optim.Adam", plain)
            torch.manual_seed(0)
            digits.problem = digits.problem._replace(num_steps=1)
            list(digits.training(0.1, l2, 0.0, seed=0, every=2))
        *parameters, start = held
        moved[l2] = start, [parameter.detach() for parameter in parameters]
    (start, without), (_, within) = moved[0.0], moved[0.5]
    for before, one, other in zip(start, without, within, strict=True):
        np.testing.assert_allclose(one - other, 0.1 * 2 * 0.5 * before if before.ndim > 1 else 0 * before, atol=1e-6)


@pytest.mark.parametrize("name", contestant.OPTUNA)
def test_optuna_trains_to_the_end_or_to_a_rung(name, small, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("optuna")
    from experiments.pruning import optuna_peer

    told = []
    optuna_peer.compete(small, name, (1, 1, 1), lambda **said: told.append(said), tmp_path, 0, trials=16)
    ended = [said for said in told if "answer" in said]
    assert len(told) == 16 and ended and all(said["steps"] == 54 for said in ended) and max(said["answer"] for said in ended) > 80
    stopped = {said["steps"] for said in told if "answer" not in said}
    assert (
        stopped
        and stopped <= {"optuna_halving": {2, 6, 18}, "optuna_hyperband": {1, 3, 9, 27}, "optuna_median": set(range(2, 54, 2))}[name]
    )


def test_optunas_processes_share_one_study(small, tmp_path):
    pytest.importorskip("torch")
    optuna = pytest.importorskip("optuna")
    from experiments.pruning import optuna_peer

    for worker in range(2):
        optuna_peer.compete(small, "optuna_median", (2, 1, 1), lambda **said: None, tmp_path, worker, trials=2)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal")))
    trials = optuna.load_study(study_name="optuna_median", storage=storage).trials
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert len({trial.params["learning_rate"] for trial in trials}) == 4  # each process draws its own


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learns_rungs_are_as_many_as_funcnets(small):
    from experiments.pruning import sklearn_peer

    assert sklearn_peer.epochs(small._replace(num_steps=810, first=30)) == (2, 54)
    assert sklearn_peer.epochs(small) == (1, 27)
    told = []
    few = small._replace(variants=9, num_steps=51, first=17)
    sklearn_peer.compete(few, lambda **said: told.append(said), turns=iter([0]))
    assert told[0]["steps"] == (9 * 1 + 3 * 3) * 17 and 10 < told[0]["answer"] <= 100
    searched = sklearn_peer.search(few, 0)
    fit, judged = next(searched.cv.split())
    np.testing.assert_array_equal(fit, np.arange(1079))
    np.testing.assert_array_equal(judged, np.arange(1079, 1079 + 359))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learns_alpha_is_as_many_times_the_strength_of_l2(small):
    from sklearn.neural_network import MLPClassifier

    from experiments.pruning import sklearn_peer

    low, high = sklearn_peer.search(small, 0).param_distributions["alpha"].interval(1)
    l2 = 0.01
    settings = dict(batch_size=BATCH_SIZE, learning_rate_init=1e-12, max_iter=1, random_state=0)
    x, y = (part[:128] for part in small.train)
    without, within = (MLPClassifier((64,), alpha=alpha, **settings).fit(x, y) for alpha in (0.0, high / problems.L2[1] * l2))
    squares = sum(float((weight.astype(float) ** 2).sum()) for weight in within.coefs_)
    assert within.loss_ - without.loss_ == pytest.approx(l2 * squares, rel=1e-3)
    assert (low, high) == pytest.approx(tuple(2 * BATCH_SIZE * strength for strength in problems.L2))


@pytest.fixture
def usual_promotion():
    """What hyperoptax and optax are written for."""
    strict = {name: getattr(jax.config, name) for name in ("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")}
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    for name, value in strict.items():
        jax.config.update(name, value)


def test_hyperoptax_trains_a_lot_at_once(small, usual_promotion):
    pytest.importorskip("hyperoptax")
    from experiments.pruning import hyperoptax_peer

    told = []
    hyperoptax_peer.compete(small, lambda **said: told.append(said), turns=iter([0]))
    assert told[0]["steps"] == 27 * 54 and 80 < told[0]["answer"] <= 100


# The command.


@pytest.fixture
def measured_before(found, small, monkeypatch):
    """The command and `run` ask for the problem that has been measured already, and get what was found."""

    def measure(drawn, tell=None):
        assert [own[3:] for own in drawn] == [small[3:]]
        return found

    monkeypatch.setattr(study, "measure", measure)


def test_the_command_writes_and_prints_what_it_measured(measured_before, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pruning", "--quick", "--out", str(tmp_path)])
    command.main()
    printed, folder = capsys.readouterr().out, tmp_path / "pruning"
    measured, summary = (json.loads((folder / name).read_text()) for name in ("measured.json", "summary.json"))
    assert set(measured["runs"]) == set(RULES) and measured["traces"] == {} and summary["title"].startswith("The gain of stopping early")
    assert len(summary["findings"]) == 2 and summary["quick"]
    for finding in summary["findings"]:
        assert f"{'HOLDS' if finding['holds'] else 'DOES NOT HOLD'}" in printed and finding["claim"] in printed
    assert f"{measured['runs']['none'][0]['validation']:.2f}" in printed and (folder / "table.md").read_text().startswith("|")
    assert (folder / "rules.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--first", "30", "--steps", "30"], ["--patience", "nan"], ["--probe", "0"]])
def test_the_command_refuses_what_cannot_be_measured(wrong, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pruning", *wrong])
    with pytest.raises(SystemExit):
        command.main()
    assert "must be positive, and --first below --steps" in capsys.readouterr().err


def test_the_experiment_is_run_like_the_others(measured_before):
    outcome = run(quick=True)
    assert [finding.claim.split(" ends")[0] for finding in outcome.findings] == ["Successive halving", "Hyperband"]
    assert all(finding.figures["programs compiled while timed"] == 0 for finding in outcome.findings)
