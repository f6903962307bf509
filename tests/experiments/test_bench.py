"""The benchmark at tiny sizes: everyone comes to the same losses, and what isn't the same work doesn't count."""

import collections
import functools
import importlib.util
import json
import pickle
import sys
import types

import jax
import numpy as np
import pytest

import funcnet as fn
from experiments.bench import __main__ as command
from experiments.bench import cold, harness, mixed_widths, ours, pairs, report, timing
from experiments.bench.peers import NAMES, peer
from experiments.bench.place import PLACES, Place
from experiments.bench.program import Peer, Program
from experiments.bench.workloads import COLD, GOALS, WORKLOADS, products
from funcnet.sweeps import rehearsal

TINY = {
    "W1": dict(variants=3, rows=256, epochs=3),
    "W2": dict(variants=3, steps=60),
    "W3": dict(variants=2, rows=128, epochs=1),
    "W4": dict(variants=2, rows=128, epochs=2),
    "W5": dict(variants=2, rows=256, epochs=2, widths=(8,), optimizers=("rmsprop", "adagrad"), activations=("arctan_sigmoid", "sigmoid")),
    "W6": dict(variants=3, rows=256, epochs=2, depth=3),
    "W7": dict(rows=256, steps=4, width=32),
    "W8": dict(variants=2, rows=256, epochs=1),
}
PATIENT = dict(repeats=2, patience=60.0, peak=100.0, tell=lambda line: None)
every_workload = pytest.mark.parametrize("name", [name for name in WORKLOADS if name not in ("W7", "W8")])  # which are dense nets too


@pytest.fixture(scope="module")
def tiny():
    """A workload at its tiny size, as funcnet starts it, and funcnet's losses; each made once."""
    made = {}

    def get(name):
        if name not in made:
            workload = ours.recorded(WORKLOADS[name](**TINY[name]))
            made[name] = workload, ours.build(workload).run(everyone(workload))
        return made[name]

    return get


def everyone(workload):
    return tuple(range(len(workload.variants)))


def test_every_workload_is_at_its_stated_size():
    counts = {name: len(make().variants) for name, make in WORKLOADS.items()}
    assert counts == {"W1": 64, "W2": 1024, "W3": 16, "W4": 32, "W5": 960, "W6": 32, "W7": 1, "W8": 64}
    assert [WORKLOADS[name]().num_steps for name in ("W1", "W2", "W3", "W4", "W5", "W6")] == [220, 1000, 124, 110, 55, 220]
    assert set(GOALS) == set(WORKLOADS)


def test_products_are_counted_by_hand():
    assert products(WORKLOADS["W1"]().layers, (64,)) == (64 * 64 + 64 * 10, 64 * 64)
    assert products(WORKLOADS["W3"]().layers, (1, 28, 28)) == (9 * 8 * 28 * 28 + 9 * 8 * 16 * 14 * 14 + 16 * 7 * 7 * 10, 9 * 8 * 28 * 28)
    assert products(WORKLOADS["W4"]().layers, (8, 8)) == (8 * 32 * (8 + 32) + 8 * 3 * 32 * (32 + 32) + 32 * 10, 8 * 32 * 8)
    workload = WORKLOADS["W2"](variants=2, steps=5)
    assert workload.flops() == 2 * 2 * (5 * 300 * (2 * 10 + 3 * 10) + 300 * 20)  # the points need no gradient


@pytest.mark.parametrize("name", ["W1", "W2", "W5"])
def test_what_was_recorded_is_what_trains(name, tiny):
    """A loop in NumPy from the recorded parameters, on the recorded minibatches, with gradients written out."""
    workload, losses = tiny(name)
    np.testing.assert_allclose([numpy_loss(workload, variant) for variant in workload.variants], losses, rtol=2e-4)


BENDS = {  # each with its slope, as a function of its value or of its input
    "relu": (lambda x: np.maximum(x, 0), lambda x, y: y > 0),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda x, y: y * (1 - y)),
    "arctan_sigmoid": (lambda x: np.arctan(x) * 2 / np.pi, lambda x, y: 2 / np.pi / (1 + x * x)),
}


def numpy_loss(workload, variant):
    """The final training loss of a dense net."""
    start = [[array.astype(float) for array in own] for own in workload.start[workload.layers_of(variant)] if own]
    weights, biases = map(list, zip(*start, strict=True))
    bend, bend_slope = BENDS[variant.activation]
    rule = RULES[variant.optimizer](variant.learning_rate)

    def forward(x):
        inputs, sums = [x], []
        for weight, bias in zip(weights, biases, strict=True):
            sums.append(inputs[-1] @ weight.T + bias)
            inputs.append(bend(sums[-1]))
        return inputs, sums

    def loss_and_slope(prediction, y):
        if not workload.classifies:
            return np.mean((prediction - y) ** 2), 2 * (prediction - y) / prediction.size
        likely = np.exp(prediction - prediction.max(1, keepdims=True))
        likely /= likely.sum(1, keepdims=True)
        return -np.mean(np.log(likely[np.arange(len(y)), y])), (likely - np.eye(10)[y]) / len(y)

    for step in range(workload.num_steps):
        rows = slice(None) if workload.order is None else workload.order[step]
        inputs, sums = forward(workload.x[rows])
        _, back = loss_and_slope(sums[-1], workload.y[rows])
        for i in reversed(range(len(weights))):
            grads = {("weight", i): (weights[i], back.T @ inputs[i]), ("bias", i): (biases[i], back.sum(0))}
            if i:
                back = (back @ weights[i]) * bend_slope(sums[i - 1], inputs[i])
            for place, (leaf, grad) in grads.items():
                leaf += rule(place, grad, step + 1)
    return loss_and_slope(forward(workload.x)[1][-1], workload.y)[0]


def momentum(rate):
    velocity = collections.defaultdict(float)

    def update(place, grad, step):
        velocity[place] = 0.9 * velocity[place] - rate * grad
        return velocity[place]

    return update


def scaled(rate, keep, add, b1=0.0, corrected=False, eps=1e-8):
    """Adam, and without its first moment and corrections RMSProp and AdaGrad."""
    m, v = collections.defaultdict(float), collections.defaultdict(float)

    def update(place, grad, step):
        m[place] = b1 * m[place] + (1 - b1) * grad
        v[place] = keep * v[place] + add * grad**2
        of_m, of_v = (1 - b1**step, 1 - keep**step) if corrected else (1, 1)
        return -rate * m[place] / of_m / (np.sqrt(v[place] / of_v) + eps)

    return update


RULES = {
    "momentum": momentum,
    "adagrad": lambda rate: scaled(rate, 1.0, 1.0, eps=1e-10),
    "rmsprop": lambda rate: scaled(rate, 0.9, 0.1),
    "adam": lambda rate: scaled(rate, 0.999, 0.001, b1=0.9, corrected=True),
}


def test_the_recorded_minibatches_are_epochs(tiny):
    workload, _ = tiny("W1")
    batches = len(workload.x) // workload.batch_size
    first = workload.order[:batches].ravel()
    assert sorted(first) == list(range(len(workload.x))) and list(first) != sorted(first)


@pytest.fixture
def usual_promotion():
    """What optax and flax are written for; not thread by thread, since the peers compile on threads."""
    strict = {name: getattr(jax.config, name) for name in ("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")}
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    for name, value in strict.items():
        jax.config.update(name, value)


@pytest.mark.parametrize(
    ("who", "name"),
    [("optax_vmap", name) for name in ("W1", "W2", "W3", "W4", "W5", "W6")] + [("jitted_loop", name) for name in ("W5", "W7")],
)
def test_optax_comes_to_the_same_losses(who, name, tiny, usual_promotion):
    pytest.importorskip("optax")
    pytest.importorskip("flax")
    workload, losses = tiny(name)
    alone, threaded = peer(who).forms.values()
    check_form(workload, losses, alone if name == "W7" else threaded, streams_differ=workload.random_steps)


@every_workload
@pytest.mark.parametrize("kind", ["loop", "vmap", "batched"])
def test_torch_comes_to_the_same_losses(name, kind, tiny):
    """In this process: without a pool there is nothing to start."""
    pytest.importorskip("torch")
    from experiments.bench.peers import torch_training

    workload, losses = tiny(name)
    try:
        if kind == "loop":
            trainer = torch_training.Loop(workload, threads=1, compiled=False)
        else:
            trainer = torch_training.Ensemble(workload, threads=1, compiled=False, by_hand=kind == "batched")
    except NotImplementedError:
        assert name in ("W3", "W4") and kind == "batched"
        return
    build = lambda workload: Program(lambda indices: np.array(trainer.train(indices)))
    check_form(workload, losses, build, streams_differ=workload.random_steps)


def check_form(workload, losses, build, streams_differ):
    program = build(workload)
    theirs = program.run(everyone(workload))
    program.close()
    if streams_differ:
        np.testing.assert_allclose(theirs, losses, rtol=0.2)
    else:
        np.testing.assert_allclose(theirs, losses, rtol=1e-3)


def test_torch_trains_in_processes_and_in_part(tiny):
    pytest.importorskip("torch")
    workload, losses = tiny("W1")
    program = peer("torch_loop").forms["eager, one process"](workload)
    np.testing.assert_allclose(program.run((2, 0)), losses[[2, 0]], rtol=1e-3)
    program.close()


def test_sklearn_does_the_digits_and_nothing_else(tiny):
    workload, losses = tiny("W1")
    (build,) = peer("sklearn").forms.values()
    theirs = build(workload).run(everyone(workload))
    np.testing.assert_allclose(theirs, losses, rtol=0.5)  # its own initial weights and minibatches
    for name in ("W2", "W3", "W4", "W5", "W6", "W7"):
        with pytest.raises(NotImplementedError, match="MLPClassifier"):
            build(WORKLOADS[name](**TINY[name]))


def fake(forms, one_at_a_time=False):
    return Peer(forms, one_at_a_time, next(iter(forms)))


@pytest.fixture(scope="module")
def measured():
    """W1 at a tiny size with two made-up peers: one returns funcnet's losses, the other the double of them."""
    workload = WORKLOADS["W1"](**TINY["W1"])
    own = ours.build(workload).run(everyone(workload))
    peers = {
        "optax_vmap": fake({"honest": lambda workload: Program(lambda indices: own[list(indices)])}),
        "torch_loop": fake({"wrong": lambda workload: Program(lambda indices: 2 * own[list(indices)])}),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "peer", lambda name, place: peers[name])
        return {"machine": harness.machine({"numpy": 100.0}), "W1": harness.measure(workload, ["optax_vmap", "torch_loop"], **PATIENT)}


def test_the_json_has_the_promised_shape(measured):
    result = json.loads(json.dumps(measured))["W1"]
    keys = {"seconds", "compile_seconds", "variants_per_second"}
    assert keys <= set(result["funcnet"]) and set(result["peers"]) == {"optax_vmap", "torch_loop"}
    assert all(keys | {"equal"} <= set(row) for row in result["peers"].values())
    own = result["funcnet"]
    assert own["seconds_min"] <= own["seconds"] <= own["seconds_max"] and own["runs"] == 2 and own["foreseen"] > 0
    assert own["variants_per_second"] == pytest.approx(3 / own["seconds"])
    assert result["sgemm_fraction"] == pytest.approx(WORKLOADS["W1"](**TINY["W1"]).flops() / own["seconds"] / 1e11)
    assert {"cpu", "cores", "versions", "sgemm_gflops", "date"} <= set(measured["machine"])


def test_an_unequal_peer_does_not_count(measured):
    assert measured["W1"]["peers"]["optax_vmap"]["equal"] and not measured["W1"]["peers"]["torch_loop"]["equal"]
    own, honest, wrong = report.details(measured).splitlines()
    assert own.startswith("W1 funcnet: ") and "2 runs" in own and "fn.plan foresees" in own
    assert "NOT EQUAL, does not count: median relative difference 1" in wrong and "NOT EQUAL" not in honest


def test_the_readmes_table_shows_losing_rows_and_goals(measured):
    measured = json.loads(json.dumps(measured))
    for name, multiple in (("optax_vmap", 0.5), ("torch_loop", 3.0)):
        measured["W1"]["peers"][name]["seconds"] = multiple * measured["W1"]["funcnet"]["seconds"]
    head, _, row = report.table(measured).splitlines()
    cells = dict(zip(*([cell.strip() for cell in line.strip("|").split("|")] for line in (head, row)), strict=True))
    assert (cells["`optax_vmap`"], cells["`torch_loop`"], cells["`sklearn`"]) == ("**0.50** [2]", "(3.00)", "-")
    assert cells["of sgemm peak"].endswith("[0.6]")


@pytest.mark.parametrize(
    ("theirs", "streams_differ", "equal"),
    [
        (lambda x: x * (1 + 1e-5), False, True),
        (lambda x: x * 1.01, False, False),
        (lambda x: np.where(np.arange(len(x)) < 5, x, np.nan), False, False),
        (lambda x: x[::-1], True, True),
        (lambda x: x[::-1], False, False),
        (lambda x: x + 1.0, True, False),
    ],
)
def test_agreement(theirs, streams_differ, equal):
    losses = np.linspace(0.1, 2.0, 40)
    assert harness.agreement(losses, theirs(losses), streams_differ=streams_differ)[0] is equal


def test_the_fastest_form_is_kept_and_a_slow_loop_trains_a_sample():
    workload = WORKLOADS["W2"](variants=40, steps=1)
    ran, closed = [], []

    def form(name, seconds):
        def run(indices):
            ran.append((name, indices))
            clock[0] += seconds * len(indices)
            return np.zeros(len(indices))

        return lambda workload: Program(run, close=lambda: closed.append(name))

    def refuses(workload):
        raise NotImplementedError("not here")

    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.time, "perf_counter", lambda: clock[0])
        forms = {"slow": form("slow", 2.0), "fast": form("fast", 1.0), "none": refuses}
        best = harness.fastest(fake(forms, one_at_a_time=True), workload, 20.0, lambda line: None)
    assert best.form == "fast" and closed == ["slow"]
    assert best.tried == {"slow": 80.0, "fast": 40.0}
    assert len(best.indices) == 20 and best.indices[0] == 0 and best.indices[-1] == 39
    with pytest.raises(NotImplementedError, match="not here"):
        harness.fastest(fake({"none": refuses}), workload, 20.0, lambda line: None)


def test_a_cold_start_comes_to_the_same_losses(tiny, tmp_path):
    """W8: a process of its own, timed until its first variant has finished, with a compilation cache that it fills."""
    workload, losses = tiny("W8")
    seconds, outcome = cold.start(workload, "funcnet", tmp_path / "cache")
    assert seconds > 0 and outcome["form"] == "fn.sweep" and any((tmp_path / "cache").iterdir())
    np.testing.assert_allclose(outcome["losses"], losses, rtol=1e-5)


@pytest.mark.parametrize(("first_only", "said"), [(True, ["finished", "all", "all"]), (False, ["all", "finished", "all"])])
def test_a_cold_start_has_finished_with_its_first_variant_or_with_all(first_only, said, tmp_path, monkeypatch, capsys):
    def build(workload, tell):
        def run(indices):
            for runs_done in (0, 1, 2):
                tell(types.SimpleNamespace(runs_done=runs_done))
            print("all")
            return np.zeros(len(indices))

        return Program(run)

    monkeypatch.setattr(ours, "build", build)
    (tmp_path / "workload").write_bytes(pickle.dumps(WORKLOADS["W8"](**TINY["W8"])))
    cold.main("funcnet", tmp_path, first_only)
    assert capsys.readouterr().out.split() == said


def test_cold_starts_take_turns_with_a_cache_and_without(monkeypatch):
    started = []

    def start(workload, name, cache, place):
        started.append((name, cache is not None))
        if name == "torch_func":
            raise cold.CannotRun("no torch")
        if cache is not None:
            cache.mkdir(exist_ok=True)
        return (1.0 if cache else 2.0), {"losses": [0.5, 0.7], "compile_seconds": 3.0 if cache else 4.0, "form": "one"}

    monkeypatch.setattr(cold, "start", start)
    result = harness.measure(WORKLOADS["W8"](**TINY["W8"]), ["optax_vmap", "sklearn"], **PATIENT | dict(repeats=3))
    assert set(result["peers"]) == {"optax_vmap"} and result["sgemm_fraction"] is None and not result["left_out"]
    for row in (result["funcnet"], result["peers"]["optax_vmap"]):
        assert (row["seconds"], row["cached_seconds"], row["compile_seconds"], row["runs"]) == (2.0, 1.0, 4.0, 3)
    assert started.count(("funcnet", True)) == 4 and started.count(("funcnet", False)) == 3  # the first of four fills it
    result = harness.measure(WORKLOADS["W5"](**TINY["W5"] | dict(optimizers=("sgd",), activations=("relu",))), ["torch_func"], **PATIENT)
    assert (
        started.count(("torch_func", False)) == 1
        and result["left_out"] == {"torch_func": "no torch"}
        and not result["peers"]
        and "cached_seconds" not in result["funcnet"]
    )


def test_help_and_an_unknown_workload(monkeypatch, capsys):
    for words, code in ((["--help"], 0), (["W9"], 2), (["--repeats", "0"], 2)):
        with pytest.raises(SystemExit) as ended:
            command.parser().parse_args(words)
        assert ended.value.code == code
    said = capsys.readouterr()
    assert all(word in said.out for word in ("--json", "--repeats", "--peers", *WORKLOADS, *NAMES))
    assert "unknown workload 'W9'; one of W1" in said.err and "must be at least 1, got 0" in said.err
    assert command.parser().parse_args([]).workloads == list(WORKLOADS) and set(COLD) <= set(WORKLOADS)


# What all measurements share.


def test_runs_take_turns_and_who_was_first_is_last_next():
    order = []
    runs = {name: lambda name=name: order.append(name) or {"a": 1.0, "b": 2.0, "c": 9.0}[name] for name in "abc"}
    assert timing.in_turn(runs, 3, patience=5.0) == {"a": [1.0] * 3, "b": [2.0] * 3, "c": [9.0]}
    assert order == list("abc" + "ba" + "ab")


def test_a_process_of_its_own_gives_back_what_it_returns_or_ends_with_what_it_said(tmp_path):
    code = "def run(who, times):\n    import os\n    return [os.getcwd(), who * times]"
    assert timing.fresh(code, "a", 3, root=tmp_path) == [str(tmp_path.resolve()), "aaa"]
    with pytest.raises(RuntimeError, match="(?s)must finish in .*, got exit code 1: .*ModuleNotFoundError"):
        timing.fresh("from nowhere import run")


def test_medians_and_tables():
    assert timing.spread([3.0, 1.0, 2.5]) == "2.5 (1 to 3)" and timing.ratios([2.0, 3.0], [1.0, 2.0]) == [2.0, 1.5]
    assert timing.markdown(["", "b"], [["x", "1"]]) == "|  | b |\n| --- | --- |\n| x | 1 |"


# Two checkouts in turn.


def checkout(folder, seconds):
    """Whose processes say that they took so many seconds, or take them from a cold start."""
    (folder / "experiments" / "bench").mkdir(parents=True)
    (folder / "seconds").write_text(str(seconds))
    (folder / "experiments" / "bench" / "cold.py").write_text(
        "import sys, time\nfrom pathlib import Path\n"
        f"time.sleep({seconds})\nPath(sys.argv[2], 'funcnet.json').write_text('[\"' + sys.argv[3] + '\"]')\nprint('finished', flush=True)\n"
    )
    return folder


def test_two_checkouts_take_turns_and_each_runs_its_own_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pairs, "WARM", "\ndef run(name, runs):\n    return float(open('seconds').read())\n")
    here, there = checkout(tmp_path / "a", 3.0), checkout(tmp_path / "b", 2.0)
    assert pairs.in_turn("W1", (here, there), 2) == [[3.0, 3.0], [2.0, 2.0]]
    assert pairs.cells("W1", [3.0, 1.0, 4.0], [2.0] * 3) == ["W1 warm", "3.000", "2.000", "1.500 (0.500 to 2.000)"]
    monkeypatch.setattr(sys, "argv", ["pairs", str(tmp_path)])
    with pytest.raises(SystemExit):
        pairs.main()
    assert "must be a checkout of funcnet" in capsys.readouterr().err


def test_this_checkouts_code_is_what_runs_warm():
    text = pairs.WARM.replace("WORKLOADS[name]()", "WORKLOADS[name](variants=2, rows=256, epochs=1)")
    assert text != pairs.WARM and timing.fresh(text, "W1", 1) > 0


def test_cold_ones_are_timed_from_the_start_of_a_process_to_its_word(tmp_path):
    (here,), (there,) = pairs.in_turn("W8", (checkout(tmp_path / "a", 0.6), checkout(tmp_path / "b", 0.0)), 1)
    assert 0.6 < here and there < here - 0.3
    assert [cold.start(WORKLOADS[name](**TINY[name]), "funcnet", root=tmp_path / "b")[1] for name in ("W8", "W5")] == [["first"], ["all"]]
    (tmp_path / "b" / "experiments" / "bench" / "cold.py").write_text("raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="funcnet must finish its cold start in .*b, got exit code 3"):
        pairs.in_turn("W8", (tmp_path / "a", tmp_path / "b"), 1)


# On a GPU.

PRETENDED = Place("gpu", "cpu", "cpu")  # whatever is done on a GPU, with the CPU in its place


@pytest.fixture
def default_device():
    yield
    jax.config.update("jax_default_device", None)


def sees_no_gpu():
    try:
        return not jax.local_devices(backend="gpu")
    except RuntimeError:
        return True


@pytest.mark.skipif(not sees_no_gpu(), reason="there is a GPU")
def test_without_a_gpu_it_ends_at_once_and_says_what_is_missing(monkeypatch):
    for variable in PLACES["gpu"].environment():
        monkeypatch.setenv(variable, "")  # set back when the test ends
    monkeypatch.setattr(sys, "argv", ["bench", "--platform", "gpu"])
    with pytest.raises(SystemExit, match=r"--platform gpu needs a device that JAX can see, got .*; install JAX's plugin"):
        command.main()


def test_everyone_is_told_of_the_place(default_device, monkeypatch):
    assert PLACES["cpu"].environment() == {"JAX_PLATFORMS": "cpu"}
    assert PRETENDED.environment() == {"JAX_DEFAULT_MATMUL_PRECISION": "float32", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    PLACES["cpu"].use()
    assert jax.config.jax_default_device is None
    PRETENDED.use()
    assert jax.config.jax_default_device == jax.local_devices(backend="cpu")[0]


def in_this_process(kind, workload, *, processes, **settings):
    """PyTorch's processes are tested above; here there is one, as on a GPU."""
    from experiments.bench.peers import torch_training

    assert processes == 1
    trainer = getattr(torch_training, kind)(workload, 1, **settings)
    return Program(lambda indices: np.array(trainer.train(indices)))


@pytest.mark.parametrize("name", ["W1", "W3"])
def test_everyone_trains_as_on_a_gpu(name, default_device, usual_promotion, monkeypatch):
    """Every form of every peer that a GPU has, but for what torch.compile makes of them."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("flax")
    from experiments.bench.peers import torch_peers

    modes = []
    monkeypatch.setattr(torch, "compile", lambda function, mode=None, **_: modes.append(mode) or function)
    monkeypatch.setattr(torch_peers, "pooled", in_this_process)
    PRETENDED.use()
    result = harness.measure(WORKLOADS[name](**TINY[name]), NAMES, place=PRETENDED, **PATIENT | dict(repeats=1))
    forms = {peer: set(row["forms_tried"]) for peer, row in result["peers"].items()}
    assert forms["optax_vmap"] == {"one program"} and forms["jitted_loop"] == {"one thread"}
    assert forms["torch_loop"] == {f"{way}, one process" for way in ("eager", "torch.compile", "torch.compile with CUDA graphs")}
    ways = {"vmap", "vmap, torch.compile"} | (set() if name == "W3" else {"batched products", "batched products, torch.compile"})
    assert forms["torch_func"] == {f"{way}, one process" for way in ways}
    assert (name == "W1") == ("sklearn" in forms) and "reduce-overhead" in modes
    assert name != "W1" or forms["sklearn"] == {"joblib, a process a core, on the CPU"}
    assert result["goals"] == {} and set(result["left_out"]) <= {"sklearn"}
    assert all(row["equal"] for peer, row in result["peers"].items() if peer != "sklearn"), result["peers"]


def test_a_cold_start_is_as_on_a_gpu():
    pytest.importorskip("torch")
    result = harness.measure(WORKLOADS["W5"](**TINY["W5"]), ["torch_func", "sklearn"], place=PRETENDED, **PATIENT | dict(repeats=1))
    (row,) = result["peers"].values()
    assert row["form"] == "batched products, one process" and row["equal"] and result["goals"] == {}
    assert "MLPClassifier" in result["left_out"]["sklearn"]


@every_workload
@pytest.mark.parametrize("kind", ["loop", "vmap", "batched"])
def test_pytorch_keeps_everything_on_its_device(name, kind, tiny, monkeypatch):
    """The device "meta" knows shapes and no numbers; whatever lay elsewhere could not meet what is there."""
    torch = pytest.importorskip("torch")
    from experiments.bench.peers import torch_training

    own = torch._foreach_add_

    def add(tensors, other, **named):
        if not isinstance(other, torch.Tensor) or tensors[0].device.type != "meta":  # Adam counts its steps on the CPU
            return own(tensors, other, **named)
        assert other.device.type == "meta"
        for tensor in tensors:  # of shapes alone PyTorch would ask for the number
            tensor.add_(other)

    monkeypatch.setattr(torch, "_foreach_add_", add)
    workload, _ = tiny(name)
    try:
        if kind == "loop":
            loss = torch_training.Loop(workload, 1, compiled=False, device="meta").train_one(workload.variants[0])
        else:
            ensemble = torch_training.Ensemble(workload, 1, compiled=False, by_hand=kind == "batched", device="meta")
            loss = ensemble.train_group(workload.groups()[0])
    except NotImplementedError:
        assert name in ("W3", "W4") and kind == "batched"
        return
    assert loss.device.type == "meta" and loss.shape == (() if kind == "loop" else (len(workload.groups()[0].indices),))


def test_the_peak_is_that_of_the_device(monkeypatch):
    with_torch = {"torch"} if importlib.util.find_spec("torch") else set()
    found = harness.sgemm_peak(size=64, seconds=0.01)
    assert set(found) == {"numpy", "xla"} | with_torch and all(peak > 0 for peak in found.values())

    def fails(text, device, *rest):
        raise RuntimeError(f"no {device}")

    monkeypatch.setattr(timing, "fresh", fails)
    assert set(harness.sgemm_peak(PRETENDED, size=64, seconds=0.01)) == {"xla"}


def test_the_command_on_a_gpu_names_the_device_and_has_no_goals(default_device, usual_promotion, monkeypatch, tmp_path, capsys):
    for variable in PRETENDED.environment():
        monkeypatch.setenv(variable, "")
    monkeypatch.setitem(PLACES, "gpu", PRETENDED)
    monkeypatch.setitem(command.WORKLOADS, "W1", functools.partial(WORKLOADS["W1"], **TINY["W1"]))
    monkeypatch.setattr(harness, "sgemm_peak", functools.partial(harness.sgemm_peak, size=64, seconds=0.01))
    monkeypatch.setattr(
        sys, "argv", ["bench", "W1", "--platform", "gpu", "--repeats", "1", "--peers", "sklearn", "--json", str(tmp_path / "found.json")]
    )
    command.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["machine"]["platform"] == "gpu" and found["machine"]["device"] == jax.local_devices(backend="cpu")[0].device_kind
    printed = capsys.readouterr().out
    assert f"everyone on one {found['machine']['device']} (scikit-learn on the CPU: " in printed
    assert "| W1 digits MLP" in printed and "W1 sklearn: " in printed and "[" not in printed


# Cross-validation


def test_cross_validation_is_the_same_work_for_everyone(monkeypatch):
    pytest.importorskip("sklearn")
    from experiments.bench import cross_validation

    monkeypatch.setattr(cross_validation, "RATES", [1e-5, 1e-3])
    monkeypatch.setattr(cross_validation, "STRENGTHS", [0.0, 10.0])  # so strong that nothing is learnt
    import sklearn.neural_network as theirs

    widths, mlp, net = [], fn.mlp, theirs.MLPClassifier
    monkeypatch.setattr(fn, "mlp", lambda sizes: widths.append(sizes) or mlp(sizes))
    monkeypatch.setattr(theirs, "MLPClassifier", lambda sizes, **rest: widths.append(sizes) or net(sizes, **rest))
    seconds, scores = cross_validation.measure(1, 5, 48)
    assert set(widths) == {(48, 10), (48,)}
    assert {name: len(each) for name, each in seconds.items()} == {"one sweep": 1, "a sweep a fold": 1, "GridSearchCV": 1}
    np.testing.assert_allclose(scores["one sweep"], scores["a sweep a fold"], atol=1e-6)
    np.testing.assert_allclose(scores["one sweep"], scores["GridSearchCV"], atol=0.12)  # draws of their own
    assert scores["GridSearchCV"].argmax() == scores["one sweep"].argmax() == 2


# Mixed widths


def test_mixed_widths_have_one_program_and_the_losses_of_a_program_each(monkeypatch):
    monkeypatch.setattr(rehearsal, "seconds_each_way", lambda *_: (1.0, 2.0))  # one program for two widths pays where there are more steps
    found = {way: [mixed_widths.measure(way, 2, 4)] for way in mixed_widths.WAYS}
    ((together,), (apart,)) = found.values()
    assert (together["programs"], apart["programs"]) == (1, 2) and together["widths"] == apart["widths"] == 2
    np.testing.assert_allclose(together["losses"], apart["losses"], rtol=1e-4)
    said = mixed_widths.said(found)
    assert "| one program | 1 for 2 widths | " in said and "| a program each | 2 for 2 widths | " in said and "losses agree: " in said
    together.update(losses=[9.0, 9.0], cold=apart["cold"] / 3)
    assert "DO NOT AGREE" in mixed_widths.said(found) and "is 3.00 times as fast from a cold start" in mixed_widths.said(found)


def test_mixed_widths_are_measured_in_turn(monkeypatch):
    asked = []
    monkeypatch.setattr(timing, "fresh", lambda text, *given: asked.append((text, *given)) or {"cold": 1.0})
    found = mixed_widths.in_turn(48, 300, 2)
    assert [given[1] for given in asked] == ["one program", "a program each", "a program each", "one program"]
    assert set(given[0] for given in asked) == {mixed_widths.MEASURE} and {len(each) for each in found.values()} == {2}
