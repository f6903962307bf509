"""The README says what the code does: its sweep runs as it stands there, and what it names exists."""

import re
from pathlib import Path

import pytest

import funcnet

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SWEEP, FIT = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


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
