"""The reference, from the docstrings: a directive that documents names, and plain text made reStructuredText.

    ```{names} funcnet.prune
    patience
    threshold
    ```

gives a table of what is named, with each one's first sentence, and then all of it. A docstring is plain text, for `help()`: here its
formulas become blocks, its `names` links, and characters that reStructuredText would take for markup themselves.
"""

import enum
import importlib
import inspect
import re
import types

from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

SECTION = re.compile(r"(Args|Returns|Raises|Warns|Example|Attributes|Source):")
FORMULA = re.compile(r"\S[^.:;]{0,40}?\s(<-|=)\s")
FIELD = re.compile(r"    (\w+): [^#]+?(?:  # (.+))?$", re.MULTILINE)


class Names(Directive):
    """The names in its content, one a line, of the module that is its argument, or else of funcnet."""

    optional_arguments, has_content = 1, True

    def run(self):
        module = self.arguments[0] if self.arguments else "funcnet"
        names = [f"{module}.{line.strip()}" for line in self.content if line.strip()]
        blocks = [[".. autosummary::", "   :nosignatures:", "", *(f"   {name}" for name in names if kind(name) != "data")]]
        blocks += [documented(name) for name in names]
        lines = ["```{eval-rst}", *(line for block in blocks for line in (*block, "")), "```"]
        node = self.state.document.__class__(self.state.document.settings, self.state.document.reporter)
        self.state.nested_parse(StringList(lines, self.state.document["source"]), self.content_offset, node)
        return node.children


def found(name):
    module, _, rest = name.rpartition(".")
    return getattr(importlib.import_module(module), rest)


def kind(name):
    value = found(name)
    return "class" if inspect.isclass(value) else "function" if callable(value) else "data"


def documented(name):
    """The directive that documents a name."""
    value = found(name)
    if isinstance(value, dict):
        return [f".. py:data:: {name}", "", "   By name: " + ", ".join(f"``{each}``" for each in value) + "."]
    if kind(name) == "data":
        return [f".. py:data:: {name}", "", f"   {inspect.getdoc(type(value))}"]
    members = ["   :members:"] if inspect.isclass(value) and not issubclass(value, BaseException) else []
    return [f".. auto{kind(name)}:: {name}", *members]


def as_rst(app, what, name, value, options, lines):
    """Makes a docstring, lines of plain text, reStructuredText in place."""
    if inspect.isclass(value) and issubclass(value, tuple) and hasattr(value, "_fields") and "Attributes:" not in lines:
        lines += ["", "Attributes:", *fields(value)]
    module = getattr(inspect.unwrap(value) if callable(value) else value, "__module__", None) or ""
    if module.startswith("jax"):
        lines[:] = [lines[0], "", "JAX's own function."]
        return
    own = parameters(value)
    text = []
    for paragraph in paragraphs(lines):
        if paragraph[0].lstrip().startswith(">>>") or (SECTION.match(paragraph[0]) and any(">>>" in line for line in paragraph)):
            text += paragraph
        elif text and is_formula(paragraph):
            text += ["::", "", *("    " + line for line in paragraph)]
        elif paragraph[0] == "Returns:":  # napoleon would take what stands before a colon for a type
            text += [":returns: " + plain(paragraph[1].strip(), own), *("  " + plain(line, own) for line in paragraph[2:])]
        elif paragraph[0] == "Attributes:":
            text += [plain(line, own) for entry in paragraph for line in each_attribute(entry)]
        else:
            text += [plain(line, own) for line in paragraph]
        text.append("")
    lines[:] = text


def paragraphs(lines):
    """The lines between empty ones."""
    lot = []
    for line in [*lines, ""]:
        if line.strip():
            lot.append(line)
        elif lot:
            yield lot
            lot = []


def is_formula(paragraph):
    indented = [line.startswith(" ") for line in paragraph]
    return not SECTION.match(paragraph[0]) and not indented[0] and (any(indented) or all(FORMULA.match(line) for line in paragraph))


def each_attribute(line):
    """A line a name, where one line is about several."""
    several = re.fullmatch(r"  (\w+(?:, \w+)+): (.*)", line)
    return [f"  {name}: {several[2]}" for name in several[1].split(", ")] if several else [line]


def parameters(value):
    try:
        return set(inspect.signature(value).parameters) | (set(dir(value)) if inspect.isclass(value) else set())
    except (TypeError, ValueError):
        return set()


def plain(line, own):
    """Where nothing is markup but backticks."""
    pieces = re.split(r"(`[^`]+`)", line)
    return "".join(
        linked(piece[1:-1], own) if piece.startswith("`") else re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", piece) for piece in pieces
    )


def linked(code, own):
    """What stood between backticks, with a link if it names something public, and not something of the object's own."""
    import funcnet

    name = re.fullmatch(r"(?:fn\.|funcnet\.)?([A-Za-z_]\w*)", code)
    if name and name[1] not in own and hasattr(funcnet, name[1]) and not isinstance(getattr(funcnet, name[1]), types.ModuleType):
        return f":py:obj:`{code} <funcnet.{name[1]}>`"
    return f"``{code}``"


def fields(value):
    """A NamedTuple's fields, with the comments that stand beside them."""
    said = dict(FIELD.findall(inspect.getsource(value)))
    return [f"  {field}: {said.get(field, '')}" for field in value._fields]


def skipped(app, what, name, value, skip, options):
    return True if type(value).__name__ == "_tuplegetter" or isinstance(value, enum.Enum) else None


def setup(app):
    app.add_directive("names", Names)
    app.connect("autodoc-process-docstring", as_rst, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", skipped)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
