"""The main job at a small size: what it writes, what it prints, and that its figures are right."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import funcnet as fn
from experiments import digits_sweep

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One run of the command, with 12 variants."""
    folder = tmp_path_factory.mktemp("digits")
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "experiments.digits_sweep",
        "--variants",
        "12",
        "--steps",
        "60",
        "--seed",
        "3",
        "--out",
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return folder, done.stdout, done.stderr


def test_it_writes_the_table_the_result_and_the_pictures(out):
    folder, _, _ = out
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    result = fn.load_result(folder / "result", digits_sweep.recipe)
    np.testing.assert_allclose([float(row["validation/loss"]) for row in rows], result.table["validation/loss"], rtol=1e-6)
    for name in ("learning_curves.png", "learning_rates.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_it_prints_the_ten_best_and_scores_the_best_on_the_test_part(out):
    folder, printed, progress = out
    result = fn.load_result(folder / "result", digits_sweep.recipe)
    lines = printed.splitlines()
    assert lines[0].startswith("12 runs, 0 diverged; the 10 best by validation/loss")
    assert int(lines[2].split()[0]) == result.best().row
    _, data = digits_sweep.run(variants=1, steps=1, seed=3, progress=False)
    best = result.best()
    accuracy = 1 - result.training(best.row).evaluate(best.state, data.test)["error"]
    assert f"test digits that no choice has seen: {accuracy:.1%}" in printed
    assert "12/12 runs, 100% of the steps" in progress


def test_the_parts_of_the_digits_are_disjoint_and_standardized():
    parts = digits_sweep.digits(digits_sweep.jax.random.key(0))
    assert [len(part.y) for part in parts] == [1079, 359, 359]
    np.testing.assert_allclose(parts.train.x.mean(0), 0, atol=1e-6)


def test_the_space_covers_every_optimizer_and_activation():
    variants = digits_sweep.search_space().sample(256, key=digits_sweep.jax.random.key(0), method="sobol")
    assert {(v["optimizer"], v["activation"]) for v in variants} == {
        (o, a) for o in digits_sweep.OPTIMIZERS for a in digits_sweep.ACTIVATIONS
    }
