"""The reference: a directive that documents names, from their docstrings.

    ```{names} funcnet.prune
    patience
    threshold
    ```

gives a table of what is named, with each one's first sentence, and then all of it.
"""

import enum
import importlib
import inspect

import docstrings
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList


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


def skipped(app, what, name, value, skip, options):
    return True if type(value).__name__ == "_tuplegetter" or isinstance(value, enum.Enum) else None


def setup(app):
    app.add_directive("names", Names)
    app.connect("autodoc-process-docstring", docstrings.as_rst, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", skipped)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
