"""plan(...) says before anything trains what a sweep will do; the sweep then does that."""

import dataclasses
import gc
import importlib.util
import json
import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forgetting import forget_programs

import funcnet as fn
from funcnet.sweeps import executors, foresight
from funcnet.sweeps.cost import bytes_touched, flops
from funcnet.sweeps.foreseen import Plan, PlannedProgram, Seconds
from funcnet.sweeps.show import read_events

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 6)).astype(np.float32)
LABELED = fn.Dataset(X, (X[:, 0] > 0).astype(np.int32))
DATA = fn.split(LABELED, key=jax.random.key(0))
RATES = np.geomspace(1e-3, 1.0, 11).tolist()
SETTINGS = dict(key=jax.random.key(5), num_steps=70, batch_size=16, progress=False, eval_every=30)
TINY = 300_000  # bytes, which 48 lanes of some forty examples do not fit in


def recipe(learning_rate, width=6, activation="relu", dropout=0.2):
    model = fn.mlp((width, 2), activation, dropout)
    return fn.training(model, fn.cross_entropy, fn.adam(learning_rate), in_shape=(6,))


CASES = {
    "one program": (fn.grid(learning_rate=RATES), {}),
    "several programs": (fn.grid(learning_rate=RATES[:5], width=[4, 6]) + fn.grid(learning_rate=RATES[:2], width=[7]), {}),
    "names": (fn.grid(learning_rate=RATES[:3], activation=["relu", "tanh"]), {}),
    "traced names": (fn.grid(learning_rate=RATES[:3], activation=fn.traced(["relu", "tanh"])), {}),
    "static numbers": (fn.grid(learning_rate=[0.1, 0.2], dropout=fn.static([0.1, 0.3])), {}),
    "replicates": (fn.grid(learning_rate=RATES[:5]), {"replicates": 3}),
    "more replicates than variants": (fn.grid(learning_rate=RATES[:1]), {"replicates": 20}),
    "a chunk size that leaves lanes over": (fn.grid(learning_rate=RATES), {"chunk_size": 4}),
    "little memory": (fn.grid(learning_rate=np.geomspace(1e-3, 1.0, 100).tolist()), {"memory_budget": TINY}),
    "some examples": (fn.grid(learning_rate=RATES[:3], num_examples=[20, 40]), {}),
    "own lengths": (fn.grid(learning_rate=RATES[:3], num_steps=[20, 70], batch_size=[8, 16]), {}),
    "whole batches, nothing to validate by": (fn.grid(learning_rate=RATES), {"batch_size": None, "data": LABELED}),
    "a key for each variant": (fn.grid(learning_rate=RATES), {"randomness": "independent"}),
    "pruned": (fn.grid(learning_rate=RATES), {"prune": fn.prune.successive_halving(10)}),
    "pruned in brackets": (fn.grid(learning_rate=RATES), {"prune": fn.prune.hyperband(10)}),
    "a population": (fn.grid(learning_rate=RATES), {"evolve": fn.population()}),
}


def given(changed):
    """A call's arguments after the variants."""
    own = SETTINGS | changed
    return own.pop("data", DATA), own


@pytest.mark.parametrize("name", CASES)
def test_a_sweep_does_what_its_plan_says(name, monkeypatch, tmp_path):
    variants, changed = CASES[name]
    data, own = given(changed)
    forget_programs()
    found = fn.plan(recipe, variants, data, **own)
    assert fn.plan(recipe, variants, data, **own).compilations == found.compilations  # whatever has been compiled by now

    forget_programs()
    begun, run_task = [], executors.run_task

    def counted(task, *others):
        begun.extend([task.group] * (task.stand is None))
        return run_task(task, *others)

    monkeypatch.setattr(executors, "run_task", counted)
    result = fn.sweep(recipe, variants, data, **own, store=tmp_path)
    assert found.compilations == result.timing["programs"] > 0
    assert found.lane_widths == result.timing["lane_widths"]
    assert [own.chunks for own in found.programs] == [begun.count(group) for group in range(len(found.programs))]
    assert found.runs == sum(program.runs for program in found.programs) == len(result)
    events, _ = read_events(tmp_path, 0)
    compiled = {event["group"]: (event["lanes"], event["bytes"]) for event in events if event["event"] == "compiled"}
    assert compiled == {i: (program.lanes, program.bytes_needed) for i, program in enumerate(found.programs)}
    assert found.at_most == ("prune" in own or "evolve" in own)


def test_little_memory_makes_chunks_narrower():
    variants, changed = CASES["little memory"]
    narrow, wide = (fn.plan(recipe, variants, DATA, **SETTINGS | own) for own in (changed, {}))
    assert narrow.lane_widths[0] < wide.lane_widths[0] and narrow.chunks > wide.chunks
    assert narrow.programs[0].bytes_needed <= narrow.budget < wide.programs[0].bytes_needed
    assert narrow.compilations > wide.compilations  # those that were too wide too


def test_what_a_plan_compiled_a_sweep_finds():
    forget_programs()
    variants = fn.grid(learning_rate=RATES, width=[4, 6])
    found = fn.plan(recipe, variants, DATA, **SETTINGS)
    assert found.compilations > 4 and found.seconds.compile > 0
    assert fn.sweep(recipe, variants, DATA, **SETTINGS).timing["programs"] == 0


def test_a_plan_changes_no_bit_and_keeps_no_array():
    variants = fn.grid(learning_rate=RATES)
    fn.clear_caches()
    before = fn.sweep(recipe, variants, DATA, **SETTINGS)
    fn.clear_caches()
    gc.collect()
    alive = {id(array) for array in jax.live_arrays()}
    fn.plan(recipe, variants, DATA, **SETTINGS)
    gc.collect()
    assert [array.shape for array in jax.live_arrays() if id(array) not in alive and array.size > 1] == []
    after = fn.sweep(recipe, variants, DATA, **SETTINGS)
    for name, column in before.table.items():
        np.testing.assert_array_equal(column, after.table[name], err_msg=name)


def test_a_million_steps_are_planned_without_being_taken(monkeypatch):
    monkeypatch.setattr(foresight, "_TIMED_SECONDS", 0.0)
    steps, run_task = [], executors.run_task

    def counted(task, *others):
        done = run_task(task, *others)
        steps.append(done.at - task.at)
        return done

    monkeypatch.setattr(executors, "run_task", counted)
    found = fn.plan(recipe, fn.grid(learning_rate=RATES), DATA, **SETTINGS | dict(num_steps=10**6))
    short = fn.plan(recipe, fn.grid(learning_rate=RATES), DATA, **SETTINGS)
    assert 0 < sum(steps) < 10**5
    assert found.seconds.train > 100 * short.seconds.train > 0


def test_few_steps_are_not_exceeded(monkeypatch):
    most, run_task = [], executors.run_task
    monkeypatch.setattr(executors, "run_task", lambda task, *others: (most.append(task.stops[-1][0]), run_task(task, *others))[1])
    fn.plan(recipe, fn.grid(learning_rate=RATES), DATA, **SETTINGS | dict(num_steps=4))
    assert max(most) == 4


def test_seconds_add_up():
    found = fn.plan(recipe, fn.grid(learning_rate=RATES), DATA, **SETTINGS)
    parts = found.seconds
    assert parts.total == parts.rehearse + parts.compile + parts.train and min(parts) > 0 and found.measured
    more = fn.plan(recipe, fn.grid(learning_rate=RATES), DATA, **SETTINGS, replicates=2, chunk_size=1)
    assert more.seconds.train >= max(program.seconds for program in more.programs) * math.ceil(more.chunks / more.slots) * 0.99


# Operations and bytes.


def test_products_of_a_dense_net():
    """Forward 2 m n k each; backward as much for the weights, and as much again for what comes in, but for the data."""
    examples, wide, batch, out = 256, 128, 64, 32
    x = RNG.normal(size=(examples, 96)).astype(np.float32)
    data = fn.Dataset(x, np.zeros((examples, out), np.float32))

    def linear(learning_rate):
        return fn.training(fn.mlp((wide, out), "relu"), fn.squared_error, fn.sgd(learning_rate), in_shape=(96,))

    first, second = 2 * 96 * wide, 2 * wide * out
    steps, lanes = 10, 3
    own = dict(key=jax.random.key(0), num_steps=steps, batch_size=batch, chunk_size=lanes)
    found = fn.plan(linear, fn.grid(learning_rate=RATES[:6]), data, **own, eval_every=5)
    products = 6 * (steps * batch * (2 * first + 3 * second) + 2 * examples * (first + second))
    assert products < found.flops < 1.05 * products
    padded = fn.plan(linear, fn.grid(learning_rate=RATES[:4]), data, **own, eval_every=5)  # two lanes of six are left over
    assert padded.flops == found.flops and padded.chunks == 2


def test_products_of_a_convolution():
    """2 * 9 * channels in * channels out for each place.

    On a CPU windows are gathered along the rows alone, and the products of rows that nobody needs are computed too. Elsewhere
    it is a convolution, whose products with the zeros around the image don't count.
    """
    examples, channels, inputs, side = 32, 16, 8, 10
    x = RNG.normal(size=(examples, inputs, side, side)).astype(np.float32)
    data = fn.Dataset(x, np.zeros(examples, np.int32))

    def conv(learning_rate):
        model = fn.serial(fn.conv(channels, 3), fn.activation("relu"), fn.flatten(), fn.dense(2))
        return fn.training(model, fn.cross_entropy, fn.sgd(learning_rate), in_shape=x.shape[1:])

    def products(met):
        window, dense = 2 * inputs * channels * met, 2 * channels * side**2 * 2
        return examples * (2 * window + 3 * dense), examples * (window + dense)

    found = fn.plan(conv, fn.grid(learning_rate=[0.1]), data, key=jax.random.key(0), num_steps=7, batch_size=None)
    step, evaluation = products(9 * side * (side + 2))
    assert 7 * step + evaluation < found.flops < 1.06 * (7 * step + evaluation)
    one = conv(0.1)
    jaxpr = jax.make_jaxpr(one.step)(one.init(jax.random.key(0)), data, jax.random.key(1)).jaxpr
    step, _ = products((3 * side - 2) ** 2)
    assert step < flops(jaxpr, cpu=False) < 1.06 * step < flops(jaxpr)


def xla_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def traced_flops(function, *arguments):
    return flops(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_convolutions_and_their_gradients_as_xla_counts_them(padding, stride, dilation, groups):
    image, kernel = jnp.ones((4, 8, 12, 11)), jnp.ones((16, 8 // groups, 3, 3))

    def conv(image, kernel):
        dilations = (dilation, dilation)
        return jax.lax.conv_general_dilated(image, kernel, (stride, stride), padding, rhs_dilation=dilations, feature_group_count=groups)

    out, back = jax.vjp(conv, image, kernel)
    forward = traced_flops(conv, image, kernel)
    assert forward == xla_flops(conv, image, kernel)
    assert traced_flops(back, out) == xla_flops(back, out) == 2 * forward


def test_products_as_xla_counts_them():
    a, b = jnp.ones((5, 7, 11)), jnp.ones((5, 11, 13))
    assert traced_flops(jnp.matmul, a, b) == xla_flops(jnp.matmul, a, b) == 2 * 5 * 7 * 11 * 13
    net = lambda w, x: jnp.sum(jnp.maximum(x @ w, 0.0) ** 2)
    w, x = jnp.ones((64, 10)), jnp.ones((32, 64))
    assert traced_flops(jax.value_and_grad(net), w, x) == pytest.approx(xla_flops(jax.value_and_grad(net), w, x), rel=0.03)


def test_loops_count_in_full_and_choices_by_their_most_expensive_branch():
    x = jnp.ones((10, 10))
    product = 2 * 10**3
    assert traced_flops(lambda x: jax.lax.scan(lambda h, _: (x @ h, None), x, None, length=7)[0], x) == 7 * product
    assert traced_flops(lambda x: jax.lax.fori_loop(0, 5, lambda _, h: h @ x, x), x) == 5 * product
    assert traced_flops(lambda x, n: jax.lax.fori_loop(0, n, lambda _, h: h @ x, x), x, 3) == product  # nobody knows how often
    branches = [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x]
    assert traced_flops(lambda x, i: jax.lax.switch(i, branches, x), x, 1) == 2 * product
    assert traced_flops(lambda x: jnp.sum(x), x) == 100 and traced_flops(lambda x: jnp.exp(x), x) == 100
    assert traced_flops(lambda x: x.T.reshape(4, 25)[1:], x) == 0 and traced_flops(lambda n: n + n, jnp.arange(9)) == 0
    looped = jax.make_jaxpr(lambda x: jax.lax.scan(lambda h, _: (h + 1.0, None), x, None, length=7)[0])(x).jaxpr
    assert bytes_touched(looped, full=True) == 7 * bytes_touched(looped, full=False)


def test_bytes_are_at_least_the_state_s_and_at_most_what_operations_touch():
    numbers = 6 * 64 + 64 + 64 * 2 + 2
    steps, width = 50, 8
    own = SETTINGS | dict(num_steps=steps, eval_every=None, chunk_size=width)
    found = fn.plan(recipe, fn.grid(learning_rate=RATES[:8], width=[64], dropout=[0.0]), DATA, **own)
    adam = 3 * 4 * numbers  # bytes of weights and of two means
    assert width * steps * 2 * adam < found.bytes_moved < 100 * width * steps * 2 * adam


def test_bytes_grow_with_the_rounds_of_a_loop_inside_a_step():
    def looping(rounds):
        def step(state, batch, key):
            return jax.lax.scan(lambda state, _: (jnp.sin(state) + jnp.mean(batch.x), None), state, None, length=rounds)[0], {}

        return fn.Training(lambda key: jnp.zeros(50_000), step, lambda state, data: {"sum": jnp.sum(state)}, modes={"sum": "min"})

    moved = [fn.plan(looping, [{"rounds": rounds}], DATA, **SETTINGS).bytes_moved for rounds in (10, 40)]
    assert 3 < moved[1] / moved[0] < 4.5


# What it prints.

MADE = Plan(
    (
        PlannedProgram({"activation": "relu", "note": "<script>&\"'"}, 16, 8, 4, 2, 3_000_000, 5e9, 7e10, 0.25),
        PlannedProgram({"activation": "tanh", "note": "x" * 100}, 32, 1, 1, 1, 1000, 12.0, 2500.0, 75.5),
    ),
    9,
    8,
    2,
    "cpu",
    10**9,
    Seconds(0.5, 2.5, 75.5),
    True,
    False,
)


def test_a_plan_prints_as_a_table():
    assert str(MADE) == repr(MADE)
    lines = str(MADE).splitlines()
    assert lines[:5] == [
        "plan    9 runs in 2 programs, 8 compilations",
        "on      cpu, 2 chunks at a time",
        "memory  6 MB of 2 GB, beside the data",
        "work    5 GFLOP, 70 GB moved",
        "time    78 s: 0.5 s to rehearse, 2.5 s to compile, 76 s to train, as timed here",
    ]
    assert len({len(line) for line in lines[5:]}) == 1 and len(lines) == 8
    assert lines[5].split() == "activation note batch_size runs lanes chunks memory FLOP moved a chunk's time".split()
    assert lines[6].split() == "relu <script>&\"' 16 8 4 2 3 MB 5 G 70 GB 0.25 s".split()
    bound = str(dataclasses.replace(MADE, measured=False, at_most=True))
    assert "at most 5 GFLOP" in bound and "not a measurement" in bound and "as timed" not in bound
    many = dataclasses.replace(MADE, programs=MADE.programs * 30)
    assert str(many).endswith("and 40 more") and len(str(many).splitlines()) == 5 + 1 + 20 + 1


def test_html_is_well_formed_and_names_are_text():
    for made in (MADE, dataclasses.replace(MADE, programs=MADE.programs * 30)):
        page = ET.fromstring(f"<div>{made._repr_html_()}</div>")
        assert {element.tag for element in page.iter()} <= {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}
        cells = ["".join(element.itertext()) for element in page.iter("td")]
        assert "<script>&\"'" in cells and not any("x" * 40 in cell for cell in cells)
        rows = page.findall("table")[1].findall("thead/tr") + page.findall("table")[1].findall("tbody/tr")
        assert len({len(row) for row in rows}) == 1


def test_the_totals_are_those_of_the_programs():
    assert (MADE.chunks, MADE.lane_widths, MADE.flops, MADE.bytes_moved) == (3, [4, 1], 5e9 + 12, 7e10 + 2500)
    assert MADE.bytes_needed == 6_000_000  # two chunks of the larger at a time


# Errors.


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        (dict(variants=[{"learning_rat": 0.1}]), ValueError),
        (dict(variants=[{"learning_rate": -1.0}]), ValueError),
        (dict(variants=[]), ValueError),
        (dict(num_steps=0), ValueError),
        (dict(batch_size=1000), ValueError),
        (dict(chunk_size=0), ValueError),
        (dict(randomness="none"), ValueError),
        (dict(metric="train/los"), ValueError),
        (dict(keep=0), ValueError),
        (dict(max_seconds=0.0), ValueError),
        (dict(callback=3), TypeError),
        (dict(store=3), TypeError),
        (dict(progress=3), TypeError),
        (dict(prune=fn.prune.median(), evolve=fn.population()), ValueError),
        (dict(prune=3), TypeError),
        (dict(key=3), TypeError),
        (dict(data=fn.Dataset(X[:, :5], X[:, 0])), ValueError),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_sweep_refuses_its_plan_refuses_with_the_same_words(changed, error):
    def said(call):
        data, own = given(dict(variants=fn.grid(learning_rate=[0.1])) | changed)
        with pytest.raises(error) as caught:
            call(recipe, own.pop("variants"), data, **own)
        return str(caught.value)

    assert said(fn.plan) == said(fn.sweep)


def test_a_device_that_cannot_be(monkeypatch):
    def planned(device):
        return fn.plan(recipe, [{"learning_rate": 0.1}], DATA, **SETTINGS, device=device)

    for wrong in ("v4", "gpu", "", "v5e2x2"):
        with pytest.raises(ValueError, match="plan: device must be the name of a TPU: v5e or v6e.*got '.*a jax.Device stands for"):
            planned(wrong)
    with pytest.raises(TypeError, match="device must be a name, a jax.Device or None, got 3"):
        planned(3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"plan: needs libtpu.*pip install 'funcnet\[tpu\]'"):
        planned("v5e")


def test_a_device_at_hand_is_planned_for_as_under_default_device():
    device, variants = jax.devices("cpu")[0], fn.grid(learning_rate=RATES)
    forget_programs()
    found = fn.plan(recipe, variants, DATA, **SETTINGS, device=device)
    assert found.measured and found.slots == len(executors.local_slots())
    with jax.default_device(device):
        result = fn.sweep(recipe, variants, DATA, **SETTINGS)
    assert result.timing["programs"] == 0 and result.timing["lane_widths"] == found.lane_widths


def test_a_program_too_large_to_compile_is_halved_as_the_sweep_halves_it(monkeypatch):
    own, variants = executors.compile_programs, fn.grid(learning_rate=RATES)

    class Lost:
        futures = ()

        def done(self):
            return True

        def result(self):
            raise MemoryError

    monkeypatch.setattr(executors, "compile_programs", lambda trial, kind: Lost() if len(kind.lanes.lane) > 3 else own(trial, kind))
    found = fn.plan(recipe, variants, DATA, **SETTINGS, chunk_size=12)
    assert found.lane_widths == fn.sweep(recipe, variants, DATA, **SETTINGS, chunk_size=12).timing["lane_widths"] == [3]
    monkeypatch.setattr(executors, "compile_programs", lambda trial, kind: Lost())
    with pytest.raises(MemoryError):
        fn.plan(recipe, variants, DATA, **SETTINGS)


# TPUs, in a process of their own, as in test_platforms.

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
PLANNED = f"""
import json, sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
import funcnet as fn
from funcnet import inner
from test_foresight import DATA, RATES, SETTINGS, recipe

found = {{}}
for device in ("v5e", "v6e", "v5e:2x2", inner.tpu_devices("v5e:2x2")[0]):
    plan = fn.plan(recipe, fn.grid(learning_rate=RATES), DATA, **SETTINGS, device=device)
    each = [plan.slots, plan.chunks, plan.compilations, plan.measured, plan.budget, plan.bytes_needed, plan.flops, plan.bytes_moved]
    found[str(device)[:20]] = [*each, plan.seconds.train, plan.seconds.compile, plan.device, str(plan)]
try:
    fn.plan(recipe, fn.grid(learning_rate=RATES), DATA, **SETTINGS, device="v5e:3x5x7x9")
except ValueError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


def test_a_plan_for_a_tpu_is_a_roofline():
    pytest.importorskip("libtpu", reason="needs the TPU's compiler: pip install -e '.[tpu]'")
    command = [sys.executable, "-W", "error", "-c", PLANNED]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "device must be the name of a TPU" in found.pop("error")
    for name, (slots, chunks, compilations, measured, budget, needed, work, moved, train, compiling, device, printed) in found.items():
        figures = foresight.CHIPS["v6e" if name == "v6e" else "v5e"]
        several = name == "v5e:2x2"
        assert slots == (4 if several else 1) and chunks == (4 if several else 1) and compilations == (20 if several else 5)
        assert not measured and "not a measurement" in printed and device.endswith(figures.kind) and compiling > 0
        assert 0 < needed < budget * slots < 0.75 * figures.memory * slots
        assert train == pytest.approx(max(work / figures.flops, moved / figures.bandwidth) / slots)
    own = next(found[name] for name in found if name not in ("v5e", "v6e", "v5e:2x2"))
    assert own[:9] == found["v5e"][:9]
