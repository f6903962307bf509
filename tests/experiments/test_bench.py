"""The benchmark at tiny sizes: everyone comes to the same losses, and what isn't the same work doesn't count."""

import collections
import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import funcnet as fn
from experiments.bench import __main__ as command
from experiments.bench import cold, foresee, harness, ours, pairs, profile, report
from experiments.bench.peers import NAMES, peer
from experiments.bench.place import PLACES, Place, missing
from experiments.bench.program import Peer, Program
from experiments.bench.workloads import COLD, GOALS, WORKLOADS, products

ROOT = Path(__file__).parents[2]
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
every_workload = pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "W8"])  # W8 is W1's sweep


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


@pytest.mark.parametrize("name", ["W3", "W4", "W6"])
def test_the_sweep_agrees_with_fit_one_at_a_time(name, tiny):
    workload, losses = tiny(name)
    np.testing.assert_allclose(ours.fit_alone(workload, len(losses) - 1), losses[-1], rtol=1e-4)


@pytest.mark.parametrize("name", ["W1", "W2", "W5", "W7"])
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


@every_workload
@pytest.mark.parametrize("who", ["optax_vmap", "jitted_loop"])
def test_optax_comes_to_the_same_losses(name, who, tiny, usual_promotion):
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
    assert own["seconds_min"] <= own["seconds"] <= own["seconds_max"] and own["runs"] == 2
    assert own["variants_per_second"] == pytest.approx(3 / own["seconds"])
    assert result["sgemm_fraction"] == pytest.approx(WORKLOADS["W1"](**TINY["W1"]).flops() / own["seconds"] / 1e11)
    assert {"cpu", "cores", "versions", "sgemm_gflops", "date"} <= set(measured["machine"])


def test_an_unequal_peer_does_not_count(measured, tmp_path):
    assert measured["W1"]["peers"]["optax_vmap"]["equal"] and not measured["W1"]["peers"]["torch_loop"]["equal"]
    printed = report.table(measured)
    (honest,) = [line for line in printed.splitlines() if "optax_vmap" in line]
    (wrong,) = [line for line in printed.splitlines() if "torch_loop" in line]
    assert "NOT EQUAL" in wrong and "met" not in wrong and "missed" not in wrong
    assert "NOT EQUAL" not in honest and ("met" in honest or "missed" in honest)
    report.chart(measured, tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_the_readmes_table_shows_losing_rows_and_goals(measured):
    measured = json.loads(json.dumps(measured))
    for name, multiple in (("optax_vmap", 0.5), ("torch_loop", 3.0)):
        measured["W1"]["peers"][name]["seconds"] = multiple * measured["W1"]["funcnet"]["seconds"]
    head, _, row = report.markdown(measured).splitlines()[:3]
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


def test_a_cold_start_comes_to_the_same_losses(tiny):
    """W8: a process of its own, timed until its first variant has finished, with a compilation cache that it fills."""
    workload, _ = tiny("W8")
    losses = ours.build(workload).run(everyone(workload))
    with cold.Processes(workload, first_only=True) as processes:
        seconds, outcome = processes.run("funcnet", cached=True)
        assert any((processes.folder / "cache_funcnet").iterdir())
    assert seconds > 0
    np.testing.assert_allclose(outcome["losses"], losses, rtol=1e-5)


def test_help_and_an_unknown_workload():
    command = [sys.executable, "-W", "error", "-m", "experiments.bench"]
    done = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(word in done.stdout for word in ("--json", "--repeats", "--peers", *WORKLOADS, *NAMES))
    wrong = subprocess.run([*command, "W9"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "unknown workload 'W9'; one of W1" in wrong.stderr
    assert set(COLD) <= set(WORKLOADS)


def test_kernels_are_told_apart_by_what_they_do():
    text = """HloModule jit__advance

%fused (a: f32[4,4], b: f32[4,4]) -> f32[4,4] {
  %a = f32[4,4]{1,0} parameter(0)
  %b = f32[4,4]{1,0} parameter(1)
  %dot.1 = f32[4,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %max = f32[4,4]{1,0} maximum(%dot.1, %a)
}

%added (c: f32[4,4], d: f32[]) -> f32[4] {
  %c = f32[4,4]{1,0} parameter(0)
  %d = f32[] parameter(1)
  ROOT %reduce.1 = f32[4]{0} reduce(%c, %d), dimensions={1}, to_apply=%plus
}

ENTRY %main (x: f32[4,4], y: f32[]) -> f32[4] {
  %x = f32[4,4]{1,0} parameter(0)
  %y = f32[] parameter(1)
  %copy.1 = f32[4,4]{1,0} copy(%x)
  %ynn_fusion.2 = f32[4,4]{1,0} fusion(%copy.1, %x), kind=kCustom, calls=%fused
  %exp_fusion = f32[4,4]{1,0} fusion(%ynn_fusion.2), kind=kLoop, calls=%exp
  ROOT %sum_fusion = f32[4]{0} fusion(%exp_fusion, %y), kind=kLoop, calls=%added
}
"""
    kinds = profile.kinds_of(text)
    assert {name: kinds.get(name) for name in ("x", "copy.1", "ynn_fusion.2", "exp_fusion", "sum_fusion")} == {
        "x": None,
        "copy.1": "copies",
        "ynn_fusion.2": "products",
        "exp_fusion": "elementwise",
        "sum_fusion": "sums",
    }


def test_a_profile_accounts_for_a_workloads_time():
    found = profile.profile("W1")
    assert all(found[kind] > 0 for kind in ("products", "sums", "elementwise"))
    assert found["products"] + found["sums"] + found["elementwise"] + found["copies"] + found["rest"] >= found["seconds"] * 0.999
    assert found["gflops"] == pytest.approx(WORKLOADS["W1"]().flops() / found["products"] / 1e9)


# Two checkouts in turn.

BESIDE = """
import sys
from pathlib import Path
print("ready", flush=True)
for line in sys.stdin:
    seconds = float(Path("seconds").read_text())
    Path("../order").open("a").write(Path.cwd().name)
    print(seconds, flush=True)
"""


def checkout(folder, seconds):
    (folder / "experiments" / "bench").mkdir(parents=True)
    (folder / "seconds").write_text(str(seconds))
    (folder / "experiments" / "bench" / "cold.py").write_text(
        f"import time\nfrom pathlib import Path\ntime.sleep({seconds})\nprint('finished', flush=True)\n"
    )
    return folder


def test_two_checkouts_take_turns_and_who_was_first_is_second_next(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "_BUILT", BESIDE)
    trees = checkout(tmp_path / "a", 3.0), checkout(tmp_path / "b", 2.0)
    measured = pairs.in_turn("W1", trees, 3)
    assert measured == [(3.0, 2.0)] * 3 and (tmp_path / "order").read_text() == "abbaab"
    assert pairs.line("W1", [(3.0, 2.0), (1.0, 2.0), (4.0, 2.0)]) == "W1 warm     3.000    2.000   1.500 [0.500, 2.000]"


def test_cold_ones_are_timed_from_the_start_of_a_process_to_its_word(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "_RECORDED", "")
    ((here, there),) = pairs.in_turn("W8", (checkout(tmp_path / "a", 0.6), checkout(tmp_path / "b", 0.0)), 1)
    assert 0.6 < here and there < here - 0.3
    (tmp_path / "b" / "experiments" / "bench" / "cold.py").write_text("raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="W8 must finish in .*b, got exit code 3"):
        pairs.in_turn("W8", (tmp_path / "a", tmp_path / "b"), 1)


def test_what_is_no_checkout_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pairs", str(tmp_path)])
    with pytest.raises(SystemExit):
        pairs.main()
    assert "OTHER must be a checkout of funcnet" in capsys.readouterr().err


def test_a_plan_stands_beside_its_sweep(monkeypatch):
    calls, sweep, plan = [], fn.sweep, fn.plan
    monkeypatch.setattr(fn, "sweep", lambda *given, **named: calls.append(sweep(*given, **named)) or calls[-1])
    monkeypatch.setattr(fn, "plan", lambda *given, **named: calls.append(plan(*given, **named)) or calls[-1])
    found = foresee.foresee(WORKLOADS["W1"](**TINY["W1"]))
    planned, *warm, cold = calls
    assert [result.timing["programs"] for result in warm] == [0, 0] and cold.timing["programs"] == planned.compilations > 0
    assert found.warm == planned.seconds.rehearse + planned.seconds.train and found.cold == planned.seconds.total
    assert len(found.warm_taken) == 2 and all(taken > 0 for taken in (*found.warm_taken, found.cold_taken, found.planning))


def test_a_line_of_what_was_foreseen():
    rounds = [foresee.Foreseen(1.0, 2.0, 6.0, (1.0, 3.0), 3.0), foresee.Foreseen(3.0, 4.0, 6.0, (2.0, 2.0), 6.0)]
    line = foresee.line("W1", [*rounds, rounds[0]])
    assert line == "| W1 | 2 | 2 | 1.00 (1.00 to 2.00) | 6 | 3 | 2.00 (1.00 to 2.00) | 1 |"
    assert {text.count("|") for text in (line, *foresee.HEADER.splitlines())} == {9}


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
def test_without_a_gpu_it_ends_at_once_and_says_what_is_missing(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "experiments.bench", "--platform", "gpu", "--out", str(tmp_path / "out")]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and not done.stdout and not (tmp_path / "out").exists()
    lines = done.stderr.splitlines()
    wanted = (
        "bench: --platform gpu needs a GPU that JAX can see, got cpu alone; pip install 'jax[cuda12]' or 'jax[cuda13]', JAX's CUDA plugin"
    )
    assert lines[0] == wanted
    if importlib.util.find_spec("torch") is not None:
        assert "torch_loop and torch_func need a GPU that PyTorch can see, got PyTorch 2." in lines[1] and "CUDA build" in lines[1]
    assert len(lines) == 1 + (importlib.util.find_spec("torch") is not None)


@pytest.mark.skipif(not sees_no_gpu(), reason="there is a GPU")
def test_what_hides_a_gpu_is_named(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "unset JAX_PLATFORMS, which is 'cpu'" in missing(PLACES["gpu"], ["jitted_loop"])[0]
    monkeypatch.delenv("JAX_PLATFORMS")
    own = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "jax_cuda13_plugin" else own(name))
    assert "nvidia-smi" in missing(PLACES["gpu"], ["jitted_loop"])[0]


def test_only_who_trains_there_needs_it(monkeypatch):
    assert missing(PRETENDED, NAMES) == []
    wrong = PRETENDED._replace(torch="nowhere")
    assert missing(wrong, ["sklearn", "jitted_loop"]) == []
    if importlib.util.find_spec("torch") is not None:
        (line,) = missing(wrong, ["torch_loop", "sklearn"])
        assert line.startswith("torch_loop need a GPU that PyTorch can see, got PyTorch 2.") and line.endswith("leave it out with --peers")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # not installed: left out, as on a CPU
    assert missing(wrong, ["torch_loop"]) == []


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


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name not in COLD])
def test_every_workload_trains_as_on_a_gpu(name, default_device, usual_promotion, monkeypatch):
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
    ways = {"vmap", "vmap, torch.compile"} | (set() if name in ("W3", "W4") else {"batched products", "batched products, torch.compile"})
    assert forms["torch_func"] == {f"{way}, one process" for way in ways}
    assert (name == "W1") == ("sklearn" in forms) and "reduce-overhead" in modes
    assert name != "W1" or forms["sklearn"] == {"joblib, a process a core, on the CPU"}
    assert result["goals"] == {} and set(result["left_out"]) <= {"sklearn"}
    if name != "W6":  # of whose few variants, which draw differently, a test can say nothing
        assert all(row["equal"] for peer, row in result["peers"].items() if peer != "sklearn"), result["peers"]


@pytest.mark.parametrize(("name", "names"), [("W5", ["jitted_loop", "torch_func"]), ("W8", ["optax_vmap"])])
def test_cold_ones_start_as_on_a_gpu(name, names):
    pytest.importorskip("torch")
    pytest.importorskip("flax")
    result = harness.measure(WORKLOADS[name](**TINY[name]), names, place=PRETENDED, **PATIENT | dict(repeats=1))
    forms = {"jitted_loop": "one thread", "torch_func": "batched products, one process", "optax_vmap": "one program"}
    assert {peer: row["form"] for peer, row in result["peers"].items()} == {peer: forms[peer] for peer in names}
    assert all(row["equal"] for row in result["peers"].values()) and result["goals"] == {}


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


def test_the_peak_is_that_of_the_device():
    peaks = harness.sgemm_peak(PRETENDED, size=64, seconds=0.01)
    assert set(peaks) == {"xla"} | ({"torch"} if importlib.util.find_spec("torch") else set())
    assert all(peak > 0 for peak in peaks.values())
    assert set(harness.sgemm_peak(size=64, seconds=0.01)) == {"numpy", *peaks}


def test_the_command_on_a_gpu_names_the_device_and_has_no_goals(default_device, usual_promotion, monkeypatch, tmp_path, capsys):
    pytest.importorskip("flax")
    for variable in PRETENDED.environment():
        monkeypatch.setenv(variable, "")  # set back when the test ends
    monkeypatch.setitem(PLACES, "gpu", PRETENDED)
    monkeypatch.setitem(command.WORKLOADS, "W1", functools.partial(WORKLOADS["W1"], **TINY["W1"]))
    monkeypatch.setattr(harness, "sgemm_peak", functools.partial(harness.sgemm_peak, size=64, seconds=0.01))
    words = ["bench", "W1", "--platform", "gpu", "--repeats", "1", "--peers", "jitted_loop", "sklearn"]
    monkeypatch.setattr(sys, "argv", [*words, "--json", str(tmp_path / "found.json"), "--out", str(tmp_path)])
    command.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["machine"]["platform"] == "gpu" and found["machine"]["device"] == jax.local_devices(backend="cpu")[0].device_kind
    printed, chart = capsys.readouterr().out, (tmp_path / "ratios.png").read_bytes()
    assert f"everyone on one {found['machine']['device']} (scikit-learn on the CPU: " in printed
    (row,) = [line for line in printed.splitlines() if "jitted_loop" in line]
    assert "met" not in row and "missed" not in row and chart.startswith(b"\x89PNG")
    assert "[" not in (tmp_path / "table.md").read_text().split("\n\n")[0]


# Cross-validation


def test_cross_validation_is_the_same_work_for_everyone(monkeypatch):
    pytest.importorskip("sklearn")
    from experiments.bench import cross_validation

    monkeypatch.setattr(cross_validation, "RATES", [1e-5, 1e-3])
    monkeypatch.setattr(cross_validation, "STRENGTHS", [0.0, 10.0])  # so strong that nothing is learnt
    seconds, scores = cross_validation.measure(1, 5)
    assert {name: len(each) for name, each in seconds.items()} == {"one sweep": 1, "a sweep a fold": 1, "GridSearchCV": 1}
    np.testing.assert_allclose(scores["one sweep"], scores["a sweep a fold"], atol=1e-6)
    np.testing.assert_allclose(scores["one sweep"], scores["GridSearchCV"], atol=0.12)  # draws of their own
    assert scores["GridSearchCV"].argmax() == scores["one sweep"].argmax() == 2
