"""What a type checker and an editor see: decorated functions keep their signatures, and a wrong call is found before it runs."""

import inspect
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import registries

import funcnet as fn

ROOT = pathlib.Path(__file__).parents[1]
ARRAY = "jax._src.basearray.Array"
# Each line, and what mypy must say of it.
LINES = {
    "reveal_type(fn.adam)": r"def \(learning_rate: .*, b1: .* =, b2: .* =, eps: .* =.*\) -> .*funcnet\.optimizers\.protocol\.Optimizer",
    "reveal_type(fn.adam(1e-3))": r"funcnet\.optimizers\.protocol\.Optimizer",
    "reveal_type(fn.momentum)": r"def \(learning_rate: .*, decay: .* =, \*, nesterov: .*bool =, where: .* =\) -> ",
    "reveal_type(fn.squared_error)": rf"def \(prediction: {ARRAY}, target: {ARRAY}\) -> {ARRAY}",
    "reveal_type(fn.cross_entropy)": rf"def \(logits: {ARRAY}, target: {ARRAY}, \*, label_smoothing: .* =\) -> {ARRAY}",
    "reveal_type(fn.dense(3).apply.__call__)": rf"def \(params: Any, x: {ARRAY}, \*, key: {ARRAY} \| None =\) -> {ARRAY}",
    "reveal_type(fn.dense(3).init.__call__)": rf"def \(key: {ARRAY}, in_shape: .*int.*\) -> Any",
    "reveal_type(fn.mlp((64, 10)).apply(params, x))": ARRAY,
    "reveal_type(fn.mlp((64, 10)).apply(params, x=x, key=key))": ARRAY,
    "fn.adam(1e-3, beta1=0.9)": 'Unexpected keyword argument "beta1"',
    'fn.adam("fast")': "incompatible type",
    "fn.momentum(nesterov=True)": 'Missing positional argument "learning_rate"',
    "fn.squared_error(x)": 'Missing positional argument "target"',
    "fn.squared_error(x, label=x)": 'Unexpected keyword argument "label"',
    "fn.dense(3).apply(params, x, training=True)": 'Unexpected keyword argument "training"',
    "fn.dense(3).apply(params)": 'Missing positional argument "x"',
    "fn.Layer(lambda key, in_shape: (), lambda x: x)": "incompatible type",
}
FUNCTIONS = [name for name in dir(fn) if inspect.isfunction(getattr(fn, name))]
LINES |= {f"reveal_type(fn.{name})": r"def \(" for name in FUNCTIONS if f"reveal_type(fn.{name})" not in LINES}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What mypy says of each line."""
    pytest.importorskip("mypy", reason="needs mypy: pip install -e '.[test]'")
    script = tmp_path_factory.mktemp("typing") / "script.py"
    start = [
        "import jax",
        "import funcnet as fn",
        "key = jax.random.key(0)",
        "x = jax.numpy.ones(2)",
        "params = fn.dense(3).init(key, (2,))",
    ]
    script.write_text("\n".join([*start, *LINES]) + "\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found: dict = {}
    for line, kind, message in re.findall(r"script\.py:(\d+): (note|error): (.*)", done.stdout):
        found.setdefault(int(line), []).append((kind, message))
    assert set(found) <= set(range(len(start) + 1, len(start) + len(LINES) + 1)), done.stdout
    return {line: found.get(i, []) for i, line in enumerate(LINES, len(start) + 1)}


@pytest.mark.parametrize("line", LINES)
def test_a_type_checker_sees(line, said):
    kind, message = said[line][0]
    assert kind == ("note" if line.startswith("reveal_type") else "error")
    if kind == "note":
        revealed = message.removeprefix('Revealed type is "').removesuffix('"')
        assert re.search(LINES[line], revealed) and not revealed.startswith("def (*Any"), revealed
    else:
        assert LINES[line] in message


@pytest.mark.parametrize("name", registries.LAYERS)
def test_an_editor_sees_the_signature_of_every_layer(name):
    case = registries.LAYERS[name]
    layer = case.make(**registries.variant(case.numbers, 0))
    assert [str(each).split(":")[0] for each in inspect.signature(layer.apply).parameters.values()][:2] == ["params", "x"]
    key = inspect.signature(layer.apply).parameters["key"]
    assert key.kind == key.KEYWORD_ONLY and key.default is None
    assert list(inspect.signature(layer.init).parameters) == ["key", "in_shape"]


@pytest.mark.parametrize("name", fn.OPTIMIZERS)
def test_an_editor_sees_the_signature_of_every_optimizer(name):
    parameters = inspect.signature(fn.OPTIMIZERS[name]).parameters
    assert next(iter(parameters)) == "learning_rate"
    assert not any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters.values())


@pytest.mark.parametrize("name", fn.LOSSES)
def test_an_editor_sees_the_signature_of_every_loss(name):
    first, target, *_ = inspect.signature(fn.LOSSES[name]).parameters.values()
    assert first.name in ("prediction", "logits") and target.name == "target"
    assert {first.kind, target.kind} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_mypy_is_strict_and_exempts_nothing():
    """`make lint` runs it so; here is seen that it stays so."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] is True and settings["files"] == ["funcnet"] and "overrides" not in settings
    assert {name for name in settings if name.startswith(("disallow", "warn", "disable", "exclude", "ignore_errors"))} == set()
