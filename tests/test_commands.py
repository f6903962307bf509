"""The Makefile and .ci/run do what they say: with a Python and a make that only note how they are called, nothing is installed."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PYTHON = """#!/bin/sh
echo "python $*" >> "$LOG"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *"version_info.minor"*) echo {minor} ;;
  "--version") echo "Python 3.{minor}" ;;
esac
"""
MAKE = """#!/bin/sh
echo "make $*" >> "$LOG"
mkdir -p .venv/bin && [ -x .venv/bin/python ] || cp "$OWN" .venv/bin/python
"""
pytestmark = pytest.mark.skipif(shutil.which("make") is None or shutil.which("bash") is None, reason="needs make and bash")


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path):
    """A copy of the project's commands on a machine of its own; `run` gives what was called."""

    class Machine:
        project, path, home = tmp_path / "project", tmp_path / "bin", tmp_path / "home"

        def has(self, place, minor, works=True):
            return script(place, PYTHON.format(minor=minor) if works else "#!/bin/sh\nexit 127\n")

        def run(self, *command, own=None):
            log = tmp_path / "log"
            log.write_text("")
            environment = {"PATH": f"{self.path}:/usr/bin:/bin", "HOME": str(self.home), "LOG": str(log), "OWN": str(own)}
            done = subprocess.run(command, cwd=self.project, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return log.read_text().splitlines(), done.stdout

    for name in ("Makefile", "pyproject.toml", ".ci/run"):
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "project" / name)
    machine = Machine()
    for minor in (12, 13, 14):  # those that this machine has stand behind
        machine.has(machine.path / f"python3.{minor}", minor, works=False)
    return machine


DEMO = "python -m experiments.digits_sweep"
TEST = "python -m pytest -q -n 2 --dist worksteal"


def install(extra):
    return f"python -m pip install --disable-pip-version-check --quiet --editable .[{extra}]"


def test_a_second_demo_installs_nothing(machine):
    machine.has(machine.path / "python3", 11)
    assert machine.run("make", "demo")[0] == ["python -m venv .venv", install("experiments"), DEMO]
    assert machine.run("make", "demo")[0] == [DEMO]
    assert machine.run("make", "test")[0] == [install("test"), TEST]
    assert machine.run("make", "test")[0] == [TEST]
    assert machine.run("make", "demo")[0] == [DEMO]


def test_what_the_project_needs_anew_is_installed(machine):
    machine.has(machine.path / "python3", 11)
    machine.run("make", "demo")
    later = (machine.project / ".venv/experiments").stat().st_mtime + 10
    os.utime(machine.project / "pyproject.toml", (later, later))
    assert machine.run("make", "demo")[0] == [install("experiments"), DEMO]


def test_another_python_has_an_environment_of_its_own(machine):
    machine.has(machine.path / "python3", 11)
    other = machine.has(machine.path / "other", 13)
    machine.run("make", "test")
    assert machine.run("make", "test", "BIN=.venv-newest/bin", f"PYTHON={other}")[0] == [
        "python -m venv .venv-newest",
        install("experiments"),
        install("test"),
        TEST,
    ]
    assert machine.run("make", "test")[0] == [TEST]


def test_what_compiles_for_tpus_is_kept_away_from_the_rest(machine):
    machine.has(machine.path / "python3", 11)
    calls = ["python -m pytest -q tests/sweeps/test_tpu.py"]
    assert machine.run("make", "tpu", "BIN=.venv-tpu/bin")[0] == ["python -m venv .venv-tpu", install("tpu"), install("test"), *calls]
    assert machine.run("make", "tpu", "BIN=.venv-tpu/bin")[0] == calls
    assert not (machine.project / ".venv").exists()


def test_the_guide_is_built_with_what_its_pages_use(machine):
    machine.has(machine.path / "python3", 11)
    calls, _ = machine.run("make", "docs", "OPTIONS=-D nb_execution_mode=cache")
    assert calls[:-1] == ["python -m venv .venv", *map(install, ("experiments", "bench", "cluster", "docs"))]
    built = "-D nb_execution_mode=cache -d docs/_build/doctrees docs docs/_build/html"
    assert calls[-1] == f"python -m sphinx -W --keep-going -q -E -j 2 {built}"


FIRST = ["make .venv/bench", "make lint", "make test", "make docs", "make tpu BIN=.venv-tpu/bin"]


@pytest.mark.parametrize(
    ("pyenv", "on_path", "chosen"),
    [
        (["3.12.1"], [], "pyenv 3.12.1"),
        (["3.12.1", "3.13.0"], [], "pyenv 3.13.0"),
        (["3.13.0"], [14], "python3.14"),
        (["3.14.2", "3.12.1"], [13], "pyenv 3.14.2"),
        (["3.13.0"], [13], "python3.13"),
    ],
)
def test_the_tests_run_once_more_under_the_newest_python(pyenv, on_path, chosen, machine):
    own = machine.has(machine.path / "own", 11)
    script(machine.path / "make", MAKE)
    for version in pyenv:
        minor = version.split(".")[1]
        machine.has(machine.home / f".pyenv/versions/{version}/bin/python3.{minor}", minor)
    for minor in on_path:
        machine.has(machine.path / f"python3.{minor}", minor)
    if chosen.startswith("pyenv "):
        version = chosen.removeprefix("pyenv ")
        chosen = str(machine.home / f".pyenv/versions/{version}/bin/python3.{version.split('.')[1]}")
    calls, _ = machine.run(".ci/run", own=own)
    assert [call for call in calls if call.startswith("make")] == [
        *FIRST,
        f"make lint BIN=.venv-newest/bin PYTHON={chosen}",
        f"make test BIN=.venv-newest/bin PYTHON={chosen} TESTS=--ignore=tests/experiments",
    ]


@pytest.mark.parametrize(("own", "others"), [(11, []), (13, ["3.12.1"]), (13, ["3.13.0"]), (14, ["3.14.2"])])
def test_where_no_python_is_newer_that_is_said(own, others, machine):
    script(machine.path / "make", MAKE)
    for version in others:
        minor = version.split(".")[1]
        machine.has(machine.home / f".pyenv/versions/{version}/bin/python3.{minor}", minor)
    calls, said = machine.run(".ci/run", own=machine.has(machine.path / "own", own))
    assert [call for call in calls if call.startswith("make")] == FIRST
    assert f"skipped: the tests under a newer Python, for there is none newer than 3.{own} here" in said


def test_a_test_that_fails_ends_the_run(machine):
    script(machine.path / "make", MAKE + '[ "$*" != lint ]')
    with pytest.raises(AssertionError):
        machine.run(".ci/run", own=machine.has(machine.path / "own", 11))
