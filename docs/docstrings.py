"""A docstring is plain text, for `help()`: here its formulas become blocks, its `names` links, and its fields a list, for the reference.

Characters that reStructuredText would take for markup stand for themselves, so that nobody has to think of it who writes one.
"""

import inspect
import re
import types

SECTION = re.compile(r"(Args|Returns|Raises|Warns|Example|Attributes|Source):")
FORMULA = re.compile(r"[\w']+\s+(<-|=)\s|[^A-Z].* <- ")
SIGNATURE = re.compile(r"\w+(\(.*?\) -> |: \{)")
FIELD = re.compile(r"    (\w+): [^#]+?(?:  # (.+))?$", re.MULTILINE)


def as_rst(app, what, name, value, options, lines):
    """Makes a docstring, lines of plain text, reStructuredText in place."""
    if inspect.isclass(value) and issubclass(value, tuple) and hasattr(value, "_fields") and "Attributes:" not in lines:
        lines += fields(value)
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
            for i, line in enumerate(paragraph):  # what is said of one function each begins a paragraph
                text += [*([""] if i and SIGNATURE.match(line) else []), plain(line, own)]
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
    """Whether each of its lines is one, or what hangs from one; a list isn't."""
    if SECTION.match(paragraph[0]) or paragraph[0].startswith((" ", "- ")):
        return False
    indented = [line.startswith(" ") for line in paragraph]
    return any(indented) or all(FORMULA.match(line) for line in paragraph)


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
    return ["", "Attributes:", *(f"  {field}: {said[field]}" for field in value._fields)] if any(said.values()) else []
