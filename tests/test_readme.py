"""The README says what the code does: its sweep runs as it stands there, and what it names exists."""

import concurrent.futures
import contextlib
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import funcnet

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SWEEP, PLAN, SPACES, FOLDS, STOP, TENSORBOARD, MLFLOW, WANDB, DASK, FIT = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_complete_sweep_runs_as_it_stands(capsys):
    names: dict = {}
    exec(SWEEP, names)
    printed = capsys.readouterr().out
    assert "64 runs" in printed
    assert len(names["result"].timing["lane_widths"]) == 2  # one group an activation, as the text says
    best = names["best"]
    test = names["result"].training(best.row).evaluate(best.state, names["data"].test)
    assert test["accuracy"] > 0.95

    exec(FIT, names)
    curves = names["fit"](1e-2, names["jax"].random.key(3)).curves
    assert curves["validation/loss"][-1] < 0.3


def test_the_plan_is_the_one_that_is_shown(capsys):
    names: dict = {}
    exec(SWEEP.split("result = ")[0], names)
    exec(PLAN, names)
    printed, shown = (text.strip().splitlines() for text in (capsys.readouterr().out, README.split(PLAN)[1].split("```")[2]))
    assert len(printed) == len(shown) == 8
    assert [line.split()[0] for line in printed[:5]] == [line.split()[0] for line in shown[:5]]
    assert printed[0] == shown[0]  # runs, programs and compilations
    assert printed[5].split() == shown[5].split()
    assert [line.split()[:2] for line in printed[6:]] == [line.split()[:2] for line in shown[6:]]  # activations, and runs of each


def test_the_cross_validation_runs_as_it_stands(capsys):
    names: dict = {}
    exec(SWEEP.split("result = ")[0], names)
    exec(FOLDS, names)
    assert float(capsys.readouterr().out.splitlines()[-1]) > 0.95
    result = names["result"]
    assert len(result) == 320 and result.folds == 5
    assert len(result.timing["lane_widths"]) == 2  # one group an activation, as the text says


def test_the_space_with_conditions_runs_as_it_stands():
    names: dict = {}
    exec(SWEEP.split("data = ")[0] + SPACES, names)
    variants = names["variants"]
    assert len(variants) == 64 and {variant["optimizer"] for variant in variants} == {"sgd", "momentum"}
    for variant in variants:
        assert (variant["decay"] is funcnet.MISSING) == (variant["optimizer"] == "sgd") and variant["width"] * variant["depth"] <= 512


def test_the_sweep_that_stops_early_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(SWEEP.split("result = ")[0], names)
    exec(STOP, names)
    statuses = names["result"].table["status"].tolist()
    assert statuses.count("pruned") > 40 and names["result"].best().metrics["validation/accuracy"] > 0.9
    steps = names["result"].table["steps"]
    assert {30, 90, 270}.issubset(steps.tolist())
    before = names["result"]
    exec(STOP, names)
    assert names["result"].timing["programs"] == 0 and names["result"].best().row == before.best().row


EVALUATION = funcnet.Evaluation(30, np.array([4, 7]), np.array([4, 7]), np.array([0, 0]), {"validation/loss": np.array([0.5, 0.25])})


def test_the_callback_for_tensorboard_is_one(monkeypatch):
    said = []

    class SummaryWriter:
        def __init__(self, folder):
            pass

        def add_scalar(self, tag, value, step):
            said.append((tag, float(value), step))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    for name in ("torch", "torch.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    names: dict = {}
    exec(TENSORBOARD, names)
    names["log"](EVALUATION)
    assert said == [("loss/4", 0.5, 30), ("loss/7", 0.25, 30)]


def test_the_callback_for_mlflow_is_one(monkeypatch):
    said, module = [], types.ModuleType("mlflow")
    module.log_metric = lambda key, value, step: said.append((key, value, step))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    names: dict = {}
    exec(MLFLOW, names)
    names["log"](EVALUATION)
    assert said == [("loss/4", 0.5, 30), ("loss/7", 0.25, 30)] and type(said[0][1]) is float


def test_the_callback_for_weights_and_biases_is_one(monkeypatch):
    said, module = [], types.ModuleType("wandb")
    run = types.SimpleNamespace(define_metric=lambda name, step_metric: said.append((name, step_metric)), log=said.append)
    module.init = lambda project: run
    monkeypatch.setitem(sys.modules, "wandb", module)
    names: dict = {}
    exec(WANDB, names)
    names["log"](EVALUATION)
    assert said == [("loss/*", "step"), {"step": 30, "loss/4": 0.5, "loss/7": 0.25}]


def test_the_sweep_on_many_machines_is_one(tmp_path, monkeypatch):
    """With a stand-in for Dask's client, whose workers are threads."""
    monkeypatch.chdir(tmp_path)

    class Client(contextlib.nullcontext):
        def __enter__(self):
            return self

        def get_executor(self):
            return threads

    module = types.ModuleType("distributed")
    module.Client = Client
    monkeypatch.setitem(sys.modules, "distributed", module)
    names: dict = {}
    exec(SWEEP.split("result = ")[0], names)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        exec(DASK.replace("num_steps=300", "num_steps=20"), names)
    assert names["result"].timing["workers"]


def test_the_complete_sweep_has_at_most_20_lines():
    assert len([line for line in SWEEP.splitlines() if line.strip()]) <= 20


def test_every_name_in_the_table_exists():
    table = README[README.index("## What is in it") : README.index("Layers and losses speak")]
    names = re.findall(r"`(\w+)`", table)
    assert len(names) > 50
    assert [name for name in names if not hasattr(funcnet, name)] == []


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_local_link_leads_somewhere(link):
    assert (ROOT / link).exists()


def test_the_changelog_starts_with_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == funcnet.__version__
    assert f'version = "{funcnet.__version__}"' in (ROOT / "pyproject.toml").read_text()
