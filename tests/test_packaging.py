"""What pip installs: the sdist and the wheel are built from a copy of the tree, and the wheel trains a sweep in an empty environment.

Nothing is downloaded. The environment holds the wheel and what it requires, no extra: each distribution that the metadata
ask for, and those that they ask for in turn, is linked there from where the tests run. pip then finds the requirements met.
"""

import importlib.metadata
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"tqdm", "pandas", "matplotlib", "sklearn", "mlxtend", "torch", "optax", "flax", "pytest", "libtpu"}
BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, f'build_{sys.argv[1]}')(sys.argv[2])"
MODULES = {str(path.relative_to(ROOT)) for path in (ROOT / "funcnet").rglob("*") if path.suffix == ".py" or path.name == "py.typed"}
SWEEP = f"""
import json, sys
import importlib.util
import jax
import funcnet as fn

def recipe(learning_rate):
    return fn.training(fn.mlp((4, 2), "tanh"), fn.cross_entropy, fn.adam(learning_rate), in_shape=(2,), metrics=["accuracy"])

x = jax.random.normal(jax.random.key(0), (40, 2))
data = fn.split(fn.Dataset(x, (x[:, 0] > 0).astype(int)), key=jax.random.key(1), validation=0.25)
result = fn.sweep(recipe, fn.grid(learning_rate=[0.1, 0.01]), data, key=jax.random.key(2), num_steps=40, batch_size=10)
print(json.dumps({{
    "file": fn.__file__,
    "version": fn.__version__,
    "status": list(map(str, result.table["status"])),
    "accuracy": max(map(float, result.table["validation/accuracy"])),
    "extras": [name for name in {sorted(EXTRAS)} if importlib.util.find_spec(name)],
}}))
"""


def run(*command, cwd):
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of the tree, and the wheel that is made of what the sdist holds and nothing else."""
    pytest.importorskip("setuptools", minversion="77", reason="needs what builds the package: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("packaging")
    unwanted = shutil.ignore_patterns(".git", ".venv*", "*.egg-info", "build", "dist", "results", "shared", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder / "tree", ignore=unwanted)
    run(sys.executable, "-c", BUILD, "sdist", folder, cwd=folder / "tree")
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    run(sys.executable, "-c", BUILD, "wheel", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def test_the_sdist_holds_the_package_and_its_papers_and_no_tests(built):
    with tarfile.open(built[0]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert MODULES | {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO"} <= names
    beside = {name for name in names if not name.startswith("funcnet")}
    assert beside <= {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "PKG-INFO", "setup.cfg", "MANIFEST.in"}


def test_the_wheel_holds_every_module_the_license_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = set(archive.namelist())
        info = f"funcnet-{PROJECT['version']}.dist-info"
        license_text = archive.read(f"{info}/licenses/LICENSE").decode()
    assert built[1].name == f"funcnet-{PROJECT['version']}-py3-none-any.whl"
    assert "funcnet/py.typed" in MODULES
    assert {name for name in names if not name.startswith(f"{info}/")} == MODULES
    assert license_text == (ROOT / "LICENSE").read_text()


def test_the_wheel_says_what_it_needs(built):
    with zipfile.ZipFile(built[1]) as archive:
        text = archive.read(f"funcnet-{PROJECT['version']}.dist-info/METADATA").decode()
    fields = re.findall(r"^([\w-]+): (.*)$", text.split("\n\n")[0], re.MULTILINE)
    assert ("Requires-Python", PROJECT["requires-python"]) in fields and ("License-Expression", "Apache-2.0") in fields
    needed = [Requirement(value) for field, value in fields if field == "Requires-Dist"]
    assert {str(each) for each in needed if each.marker is None} == {str(Requirement(each)) for each in PROJECT["dependencies"]}
    assert {value for field, value in fields if field == "Provides-Extra"} == set(PROJECT["optional-dependencies"])


def needed_by(requirements):
    """The installed distributions that these need, and those that they need in turn."""
    found, waiting = {}, [Requirement(each) for each in requirements]
    while waiting:
        requirement = waiting.pop()
        if requirement.name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[requirement.name] = importlib.metadata.distribution(requirement.name)
        waiting += [Requirement(each) for each in found[requirement.name].requires or ()]
    return found.values()


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """The Python of an environment that holds what funcnet needs, and no pip."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    packages = pathlib.Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=folder).strip())
    for distribution in needed_by(PROJECT["dependencies"]):
        for top in {path.parts[0] for path in distribution.files} - {"..", "__pycache__"}:
            (packages / top).symlink_to(distribution.locate_file(top))
    return python


def test_the_wheel_installs_and_trains_a_sweep_without_any_extra(built, empty, tmp_path):
    pytest.importorskip("pip", reason="needs pip")
    pip = sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", empty
    run(*pip, "install", "--no-index", built[1], cwd=tmp_path)
    assert "No broken requirements" in run(*pip, "check", cwd=tmp_path)
    found = json.loads(run(empty, "-I", "-W", "error", "-c", SWEEP, cwd=tmp_path))
    assert pathlib.Path(found["file"]).is_relative_to(empty.parents[1])
    assert found["version"] == PROJECT["version"] and found["extras"] == []
    assert found["status"] == ["completed", "completed"] and found["accuracy"] > 0.7
