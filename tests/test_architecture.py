"""Imports run downhill only, in the order of the layout, and nothing but JAX, NumPy, SciPy and chex is needed to import funcnet."""

import ast
import importlib
import pathlib
import subprocess
import sys
import types

import pytest

import funcnet

ROOT = pathlib.Path(funcnet.__file__).parent
ORDER = "inner check lattice policy prune evolve padded tree leaves option batching draws activations layers losses penalties schedules optimizers metrics partition data folds scaling train inspection spaces suggest sweeps scales plot page sklearn __main__".split()
NEEDED = {"jax", "jaxlib", "numpy", "scipy", "chex"}
EXTRAS = {"tqdm", "pandas", "matplotlib", "sklearn", "optuna", "cloudpickle", "dask"}  # imported inside the functions that use them
EXCEPTED = {("sklearn",): {"sklearn"}}  # funcnet/sklearn.py is a part of scikit-learn's world, and loaded only where it is asked for
MODULES = sorted(ROOT.rglob("*.py"))
every_module = pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])


def imports(path):
    """The absolute name of every module that a file imports, and whether that happens as the file is imported."""
    parsed = ast.parse(path.read_text())
    inside = {
        id(node) for fn in ast.walk(parsed) if isinstance(fn, ast.FunctionDef | ast.Lambda | ast.AsyncFunctionDef) for node in ast.walk(fn)
    }
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) not in inside


def module_of(name):
    """The funcnet module in which an imported name lies: funcnet.layers.affine.dense is in layers/affine.py."""
    parts = name.split(".")[1:]
    while parts:
        if (ROOT.joinpath(*parts).with_suffix(".py")).exists() or (ROOT.joinpath(*parts) / "__init__.py").exists():
            return tuple(parts)
        parts = parts[:-1]
    return ()


def place(path):
    return path.relative_to(ROOT).with_suffix("").parts


def test_every_module_has_a_place_in_the_layout():
    tops = {place(path)[0] for path in MODULES} - {"__init__"}
    assert tops <= set(ORDER), f"{tops - set(ORDER)} must be placed in ORDER, and in the design"


@every_module
def test_imports_run_downhill(path):
    own = place(path)
    if own == ("__init__",):
        return  # the names of all modules in one place: nothing may import it, which is checked for each of the others
    for name, _ in imports(path):
        if name.split(".")[0] != "funcnet":
            continue
        target = module_of(name)
        assert target, f"{path.name} imports {name}: the top of the package lies above everything"
        if target[0] != own[0]:
            assert ORDER.index(target[0]) < ORDER.index(own[0]), f"{path.name} imports {name}, which lies above it"


def test_no_cycles_inside_a_folder():
    """Files of one folder may import each other, in one direction; its __init__ gathers them and is imported by none."""
    edges = {}
    for path in MODULES:
        own = place(path)
        if len(own) > 1 and own[-1] != "__init__":
            targets = {module_of(name) for name, _ in imports(path) if name.startswith(f"funcnet.{own[0]}")}
            assert (own[0],) not in targets, f"{path.name} imports from its own folder's __init__"
            edges[own] = targets
    assert edges
    while edges:
        free = {own for own, targets in edges.items() if not targets & set(edges)}
        assert free, f"a cycle among {sorted(edges)}"
        edges = {own: targets for own, targets in edges.items() if own not in free}


@every_module
def test_nothing_else_is_imported(path):
    for name, at_import in imports(path):
        package = name.split(".")[0]
        allowed = set(sys.stdlib_module_names) | NEEDED | {"funcnet"} | (EXCEPTED.get(place(path), set()) if at_import else EXTRAS)
        assert package in allowed, f"{path.name} imports {name}{' as it is imported' if at_import else ''}"


INNER = {"extend", "_src", "core", "interpreters", "lib", "experimental", "api_util"}  # of jax: not its stable interface
INNER_NAMES = {"memory_analysis", "cost_analysis", "platform_dependent", "branches_platforms", "jaxpr_as_fun", "trace_context"}


def inner_uses(path):
    """What a file uses of JAX's inner names: as modules that it imports, attributes of jax, or names of their own."""
    parsed = ast.parse(path.read_text())
    yield from (name for name, _ in imports(path) if name.split(".")[0] == "jax" and {*name.split(".")[1:]} & INNER)
    for node in ast.walk(parsed):
        if isinstance(node, ast.Attribute):
            of_jax = isinstance(node.value, ast.Name) and node.value.id == "jax"
            of_inner = isinstance(node.value, ast.Name) and node.value.id == "inner"
            if (of_jax and node.attr in INNER) or (node.attr in INNER_NAMES and not of_inner):
                yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and node.value in INNER_NAMES:
            yield repr(node.value)


@every_module
def test_jax_inner_names_are_used_in_one_place(path):
    uses = list(inner_uses(path))
    if place(path) == ("inner",):
        assert uses
    else:
        assert not uses, f"{path.name} uses {uses}: JAX's inner names belong in inner.py"


def test_importing_funcnet_loads_no_extra():
    """What the files say is what happens: a fresh interpreter has none of the extras or of the peers afterwards, funcnet.sklearn included."""
    code = "import sys, funcnet; print(sorted({'funcnet.sklearn', 'tqdm', 'pandas', 'matplotlib', 'sklearn', 'torch', 'optax', 'flax', 'optuna', 'dask', 'distributed'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent).stdout
    assert loaded.strip() == "[]"


def test_the_order_is_the_designs():
    """Each module is there, so that a renamed one is not passed over in silence."""
    assert {name for name in ORDER if (ROOT / f"{name}.py").exists() or (ROOT / name / "__init__.py").exists()} == set(ORDER)


def test_every_module_can_be_imported_by_its_name():
    """`import funcnet.spaces as spaces` takes an attribute of the package, where a function of the same name would hide the module."""
    for path in MODULES:
        *package, name = place(path)
        if name in ("__init__", "__main__"):
            continue
        importlib.import_module(".".join(["funcnet", *package, name]))
        owner = importlib.import_module(".".join(["funcnet", *package]))
        assert isinstance(getattr(owner, name), types.ModuleType), f"{path} has the name of something that its package exports"
