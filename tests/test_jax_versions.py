"""The JAX that is installed computes right, and one that doesn't is neither installed nor used without a word."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib
import warnings

import jax
import jaxlib.version
import pytest

import funcnet as fn
from funcnet import inner

SUMS = """
import jax
import jax.numpy as jnp

x = jnp.stack((jnp.arange(32_769, dtype=jnp.float32), jnp.zeros(32_769), jnp.zeros(32_769)), axis=1)


def squares(x):
    return jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x)


print(float(jax.jit(squares)(x)[-1]), flush=True)
a, b = jnp.ones((2, 3, 4, 5, 1, 1, 1, 6)), jnp.ones((1, 1, 1, 5, 2, 3, 4, 6))
c = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(a, b)
print(c.shape, float(c.min()), float(c.max()), flush=True)
a = jnp.full((3, 1, 2, 2, 8, 8, 8), 2.0)
b = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(a, a)
print(b.shape, float(b.min()), float(b.max()))
"""


def test_the_installed_jax_computes_right_on_a_cpu():
    """The first sum is 1071645696 in 0.10.2 (jax-ml/jax#39103), the second NaN there and in 0.11.0 (#39257), the third a crash (#40412)."""
    done = subprocess.run(
        [sys.executable, "-c", SUMS], capture_output=True, text=True, check=False, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode == 0, f"JAX {jax.__version__} crashed: {done.stderr}"
    assert done.stdout.splitlines() == ["1073741824.0", "(2, 3, 4, 2, 3, 4, 6) 5.0 5.0", "(3, 1, 2, 8, 8, 8) 8.0 8.0"]


def one_sweep():
    recipe = lambda rate: fn.training(fn.dense(1), fn.squared_error, fn.sgd(rate), in_shape=(1,))
    data = fn.Split(*[fn.Dataset([[1.0], [2.0]], [[1.0], [2.0]])] * 2)
    return fn.sweep(recipe, fn.grid(rate=[0.1]), data, key=jax.random.key(0), num_steps=1, batch_size=None)


@pytest.fixture
def versions(monkeypatch):
    """Makes JAX say that it is of other versions; what was warned of before is forgotten."""

    def fake(own, library):
        monkeypatch.setattr(jax, "__version__", own)
        monkeypatch.setattr(jaxlib.version, "__version__", library)

    inner._warn_of_wrong.cache_clear()
    yield fake
    inner._warn_of_wrong.cache_clear()


@pytest.mark.parametrize(
    ("own", "library", "named"),
    [
        ("0.10.2", "0.10.2", "jax 0.10.2 and jaxlib 0.10.2"),
        ("0.11.0", "0.11.0", "jax 0.11.0 and jaxlib 0.11.0"),
        ("0.10.1", "0.10.2", "jaxlib 0.10.2"),
        ("0.11.0", "0.12.0.1", "jax 0.11.0"),
    ],
)
def test_a_first_sweep_on_a_wrong_jax_warns_by_name_and_says_what_to_install(own, library, named, versions):
    versions(own, library)
    with pytest.warns(RuntimeWarning, match=f"sweep: needs a JAX that computes right, got {named}, .*; pip install 'jax>=") as caught:
        one_sweep()
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_sweep()  # the second says nothing
    asked = re.findall(r"'(jax\w*)(>=\S+)'", str(caught[0].message))
    assert dict(asked) == {name: rule for name, rule in requirements() if name in ("jax", "jaxlib")}  # what pip would do anyway
    versions("0.12.0.1", "0.12.0.1")  # and after it
    one_sweep()


@pytest.mark.parametrize("version", ["0.10.1", "0.12.0.1", "0.10.20", "0.110.0"])
def test_a_sweep_on_another_jax_says_nothing(version, versions):
    versions(version, version)
    one_sweep()


def requirements():
    project = tomllib.loads((pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    everything = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    return [re.fullmatch(r"([\w-]+(?:\[\w+\])?)(.*)", each).groups() for each in everything]


def test_no_requirement_takes_a_wrong_jax():
    of_jax = {name: rule for name, rule in requirements() if name.startswith("jax")}
    assert set(of_jax) == {"jax", "jaxlib", "jax[tpu]"} and set(of_jax.values()) == {inner._WANTED}


def test_the_installed_jax_is_none_of_the_wrong():
    assert jax.__version__ not in inner.WRONG and jaxlib.version.__version__ not in inner.WRONG


def test_a_python_is_claimed_only_where_it_was_run():
    """The classifiers are the Pythons of the table in CONTRIBUTING under which everything was right."""
    root = pathlib.Path(__file__).parents[1]
    table = re.findall(r"^\| (0\.\S+) \| (3\.\d+) \| (\S+) \| (.*) \| (.*) \|$", (root / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    right = {python for _, python, _, ran, outcome in table if ran == "everything" and outcome == "right"}
    classifiers = tomllib.loads((root / "pyproject.toml").read_text())["project"]["classifiers"]
    assert {each.split(" :: ")[-1] for each in classifiers if "Python :: 3." in each} == right
    assert {version for version, *_, outcome in table if "excluded" in outcome} == set(inner.WRONG)
