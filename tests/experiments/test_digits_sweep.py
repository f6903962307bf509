"""The main job at a small size: what it writes, what it prints, and that its figures are right."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import funcnet as fn
from experiments import digits_sweep

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One run of the command, with 4 variants."""
    folder = tmp_path_factory.mktemp("digits")
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "experiments.digits_sweep",
        "--variants",
        "4",
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
    assert len(rows) == 4
    result = fn.load_result(folder / "result", digits_sweep.recipe)
    np.testing.assert_allclose([float(row["validation/loss"]) for row in rows], result.table["validation/loss"], rtol=1e-6)
    for name in ("learning_curves.png", "learning_rates.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_it_prints_the_best_and_scores_the_best_on_the_test_part(out):
    folder, printed, progress = out
    result = fn.load_result(folder / "result", digits_sweep.recipe)
    lines = printed.splitlines()
    assert lines[0].startswith("4 runs, 0 diverged; the 4 best by validation/loss")
    assert int(lines[2].split()[0]) == result.best().row
    _, data = digits_sweep.run(variants=1, steps=1, seed=3, progress=False)
    best = result.best()
    accuracy = 1 - result.training(best.row).evaluate(best.state, data.test)["error"]
    assert f"test digits that no choice has seen: {accuracy:.1%}" in printed
    assert "4/4 runs, 100% of the steps" in progress


def test_the_parts_of_the_digits_are_disjoint_and_all_of_them():
    parts = digits_sweep.digits(digits_sweep.jax.random.key(0))
    assert [len(part.y) for part in parts] == [1079, 359, 359]
    assert all(part.x.min() == -1 and part.x.max() == 1 for part in parts)
    scans, labels = load_digits(return_X_y=True)
    rows = sorted((*x, y) for part in parts for x, y in zip((part.x + 1) * 8, part.y, strict=True))
    np.testing.assert_array_equal(rows, sorted((*x, y) for x, y in zip(scans, labels, strict=True)))


def test_the_space_covers_every_optimizer_and_activation():
    variants = digits_sweep.search_space().sample(256, key=digits_sweep.jax.random.key(0), method="sobol")
    assert {(v["optimizer"].value, v["activation"].value) for v in variants} == {
        (o, a) for o in digits_sweep.OPTIMIZERS for a in digits_sweep.ACTIVATIONS
    }
