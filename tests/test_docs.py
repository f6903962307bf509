"""The guide, without building it: every page can be reached, what it names exists, and the reference has every public name once."""

import ast
import functools
import importlib
import importlib.util
import inspect
import re
import types
from collections import Counter
from pathlib import Path

import pytest

import funcnet as fn

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
NAMES = [str(page.relative_to(DOCS)) for page in PAGES]
READ = importlib.util.spec_from_file_location("docstrings", DOCS / "docstrings.py")
docstrings = importlib.util.module_from_spec(READ)
READ.loader.exec_module(docstrings)


def fenced(page, kind):
    """The blocks of a kind, each as its argument and its text, without options."""
    blocks = re.findall(rf"^```\{{{kind}\}} *([^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [(argument, re.sub(r"^:.*\n", "", text, flags=re.MULTILINE).strip()) for argument, text in blocks]


def code(page):
    """Its cells, without what is IPython's own: an empty line in the place of each magic."""
    return [re.sub(r"^[%!].*$", "", text, flags=re.MULTILINE) for _, text in fenced(page, "code-cell")]


def test_there_are_pages_with_code_and_pages_with_names():
    assert sum(bool(code(page)) for page in PAGES) >= 8 and sum(bool(fenced(page, "names")) for page in PAGES) >= 15


def test_every_page_is_in_a_table_of_contents():
    found, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        assert page.exists(), f"a table of contents has {page}"
        assert page not in found, f"{page} is in two tables of contents"
        found.add(page)
        waiting += [page.parent / f"{entry}.md" for _, text in fenced(page, "toctree") for entry in text.split()]
    assert found == set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_internal_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).resolve().is_file(), link


@functools.cache
def loaded(module):
    return importlib.import_module(module)


def member(module, name):
    """What an import of this name gives: an attribute or a module below."""
    return getattr(loaded(module), name) if hasattr(loaded(module), name) else loaded(f"{module}.{name}")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_name_of_funcnet_in_code_exists(page):
    roots = {"fn": fn}
    for text in code(page):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "funcnet":
                roots |= {alias.asname or alias.name: member(node.module, alias.name) for alias in node.names}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and isinstance(roots.get(node.value.id), types.ModuleType)
            ):
                assert hasattr(roots[node.value.id], node.attr), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_name_of_funcnet_in_words_exists(page):
    for name in re.findall(r"`fn\.([\w.]+)", page.read_text()):
        assert functools.reduce(lambda value, part: getattr(value, part, None), name.split("."), fn) is not None, name


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_code_is_as_wide_as_the_page(page):
    lines = [line for text in code(page) for line in text.splitlines()]
    assert [line for line in lines if len(line) > 100] == []


def public(module):
    """Its functions and classes; of funcnet itself whatever it has."""
    if module == "funcnet":
        return {name for name, value in vars(fn).items() if not name.startswith("_") and not isinstance(value, types.ModuleType)}
    module = pytest.importorskip(module, reason="needs what this module needs") if module == "funcnet.sklearn" else loaded(module)
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    own = {name for name in own if not name.startswith("_")}
    if module.__name__ == "funcnet.suggest":  # what its functions give is a Strategy
        own = {name for name in own if inspect.isfunction(getattr(module, name))} | {"Strategy"}
    return own


@pytest.mark.parametrize("module", ["funcnet", "funcnet.plot", "funcnet.prune", "funcnet.suggest", "funcnet.sklearn"])
def test_the_reference_has_every_public_name_once(module):
    blocks = [block for page in PAGES for block in fenced(page, "names")]
    named = Counter(name for argument, text in blocks if (argument or "funcnet") == module for name in text.split())
    assert {name for name, count in named.items() if count > 1} == set()
    assert set(named) - public(module) == set(), "the reference names what isn't public"
    assert public(module) - set(named) == set(), "a page of docs/reference/ needs a line for each of these"


def shown(value):
    lines = inspect.getdoc(value).splitlines()
    docstrings.as_rst(None, "function", value.__name__, value, None, lines)
    return "\n".join(lines)


def test_a_formula_is_a_block_and_what_looks_like_markup_is_not():
    def rule(rate, *, norm=1.0):
        """Rolls on.

        velocity <- decay * velocity + |gradient|
        params   <- params - rate * velocity

        With norm, params <- params - rate.

        A rule of `fn.adam`'s kind: 2 * x, |x|, names_ and `rate`.

        Returns:
          An `Optimizer`: (params) -> state.

        Example:
          >>> 2 * 3
          6
        """

    text = shown(rule)
    assert "::\n\n    velocity <- decay * velocity + |gradient|\n    params   <- params" in text
    assert "\nWith norm, params <- params - rate.\n" in text
    assert r"A rule of :py:obj:`fn.adam <funcnet.adam>`'s kind: 2 \* x, \|x\|, names\_ and ``rate``." in text
    assert ":returns: An :py:obj:`Optimizer <funcnet.Optimizer>`: (params) -> state." in text
    assert ">>> 2 * 3\n  6" in text


def test_a_tuple_shows_what_its_fields_say():
    assert "Attributes:\n  row: the variant's best run\n" in shown(fn.Best)
    assert "  x: shape (examples, \\*in_shape)" in shown(fn.Dataset)


def test_a_list_stays_a_list():
    assert "\n- torch, ``weight_decay`` of SGD" in shown(fn.l2) and "\n  of biases too" in shown(fn.l2)


def test_what_is_said_of_one_function_each_is_a_paragraph():
    text = shown(fn.Layer)
    assert "\n\ninit(key, in_shape) -> params: " in text and "\n\napply(params, x, \\*, key=None) -> y: " in text
    assert "Attributes:" not in text  # its fields have no words of their own


def test_jax_is_left_its_own_words():
    assert shown(fn.relu) == "Rectified linear unit activation function.\n\nJAX's own function."


@pytest.mark.parametrize("name", sorted(public("funcnet") - set(fn.ACTIVATIONS)))
def test_backticks_of_a_docstring_close_on_their_line(name):
    lines = (inspect.getdoc(getattr(fn, name)) or "").splitlines()
    assert [line for line in lines if line.count("`") % 2] == []
