"""A stored sweep as one page for a browser: text, tables, and pictures if matplotlib is installed.

The page is one file: it holds its styles and its pictures, runs no script, and loads nothing from the network. Names that a user has
chosen are never more than text in it: they are escaped, and a policy in the page forbids to load or run anything that it doesn't hold.
"""

import contextlib
import html
import io
import os
import re
import secrets
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from funcnet import check, plot
from funcnet.sweeps.ranking import rankable, why_none
from funcnet.sweeps.result import SweepResult
from funcnet.sweeps.show import View, facts, rule_words, rung_lines
from funcnet.sweeps.shown import Rule

_MOST_ROWS = 200
_MOST_RUNGS = 40
_MOST_LETTERS = 300  # of one value
_MANY = 12  # columns; a table with more is printed in landscape, in small letters
_LONG = 28  # letters in a cell; one with more may have several lines
_MOST_PICTURES = 4  # over one hyperparameter each
_MOST_COLUMNS = 8  # of parallel coordinates
_FEWEST = 3  # runs with a finite metric, for a picture over a hyperparameter
_STATUSES = {"completed": "#0072B2", "pruned": "#E69F00", "diverged": "#D55E00", "unfinished": "#999999"}  # Okabe and Ito (2008)
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5a626b; --line: #d9dde2; --paper: #fff; --shade: #f4f6f8; --bar: #56b4e9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a2abb5; --line: #3a4149; --paper: #16191d; --shade: #1f2429; --bar: #2f7fb0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 68rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .6rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
.soft, caption, figcaption { color: var(--soft); font-size: .9rem; }
.state { display: inline-block; margin: .5rem 0 1rem; padding: .1rem .7rem; border: 1px solid var(--line); border-radius: 1rem;
  background: var(--shade); font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
.shares { display: flex; height: .8rem; border-radius: .4rem; overflow: hidden; background: var(--shade); margin: .3rem 0 .4rem; }
.shares span { min-width: 2px; }
.key { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .35em; }
.keys span.one { margin-right: 1.1em; white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; }
td { white-space: nowrap; }
.words { text-align: left; }
td.long { min-width: 14em; white-space: normal; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid var(--line); }
tr.best td { background: var(--shade); font-weight: 600; }
td.share { width: 12rem; min-width: 6rem; }
td.share div { background: var(--bar); height: .8rem; border-radius: 2px; min-width: 1px; margin-top: .25rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .5rem; border: 1px solid var(--line); border-radius: .5rem; background: #fff; break-inside: avoid; }
figure.whole { grid-column: 1 / -1; }
figure svg { display: block; width: 100%; height: auto; max-height: 34rem; }
figcaption { color: #5a626b; padding: .2rem .3rem .3rem; overflow-wrap: anywhere; }
@page across { size: landscape; }
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --shade: #f4f4f4; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .wide { overflow: visible; }
  .pictures { grid-template-columns: 1fr 1fr; }
  table { font-size: 8pt; }
  th, td { padding: .15rem .3rem; }
  th, td.long { min-width: 0; white-space: normal; overflow-wrap: anywhere; }
  .many { page: across; }
  .many table { font-size: 5.5pt; }
  tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .shares, td.share div, .key, tr.best td { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_Draw = Callable[[Any], Any]


class _Picture(NamedTuple):
    title: str
    size: tuple[float, float]  # inches
    draw: _Draw  # on axes
    whole: bool = False  # as wide as the page


def write_page(view: View, path: str | os.PathLike[str]) -> None:
    """Writes a page to a file, whole or not at all; an existing file is replaced.

    Raises:
      OSError: the file can't be written; its errno is the system's.
    """
    draft = f"{os.fsdecode(path)}.{secrets.token_hex(4)}.draft"
    text = page(view).encode("utf-8", "replace")
    try:
        with open(draft, "xb") as file:
            file.write(text)
        os.replace(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        said = check.message("show", f"--html {os.fsdecode(path)} must be a file that can be written", error.strerror)
        raise OSError(error.errno, said, os.fspath(path)) from error


def page(view: View) -> str:
    """A sweep as one page of HTML: its state, what was pruned, pictures, and the table, the best runs first.

    Args:
      view: the sweep as `funcnet.sweeps.show.look` returns it.

    Returns:
      The page. Without matplotlib it has no pictures, and says how to get them.
    """
    name = os.path.basename(os.path.abspath(view.path)) or view.path
    state, *rest = facts(view)
    body = [f"<h1>Sweep {_text(name)}</h1>", f'<div class="state">{_text(state[1])}</div>']
    stored = view.stored
    if stored is not None:
        body.append(_shares(stored.result))
    seen = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(view.now))
    pairs = [("folder", view.path), ("seen", seen), *(pair for pair in rest if pair[0] != "runs")]  # the bar above shows the runs
    if stored is not None:
        same, differing = _constants(stored.result)
        pairs += [("in every run", ", ".join(f"{key} = {_cell(value)}" for key, value in same.items()))] if same else []
        pairs.append(("trained with", ", ".join(f"{package} {version}" for package, version in stored.versions.items())))
    body.append(f"<dl>{''.join(f'<dt>{_text(key)}</dt><dd>{_text(words)}</dd>' for key, words in pairs)}</dl>")
    if stored is not None:
        if stored.rule is not None:
            body.append(_rungs(stored.rule))
        body.append(_pictures(stored.result, differing))
        body.append(_table(stored.result, differing))
    title = f"sweep {name}: {state[1]}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{chr(10).join(body)}\n</body>\n</html>\n"
    )


def _text(words: Any) -> str:
    """Text escaped for HTML; invisible characters, such as those that change the direction of writing, become escape sequences."""
    whole = str(words)
    shown = whole if len(whole) <= _MOST_LETTERS else f"{whole[: _MOST_LETTERS - 4]} ..."
    plain = "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape", "surrogatepass").decode() for letter in shown
    )
    return html.escape(plain)


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{float(value):.4g}"
    return str(getattr(value, "__name__", value))


def _shares(result: SweepResult) -> str:
    """How many runs have each status, as a bar and as text."""
    counts = Counter(result.table["status"].tolist())
    order = [name for name in (*_STATUSES, *sorted(set(counts) - set(_STATUSES))) if counts[name]]
    bars = "".join(f'<span style="flex:{counts[name]};background:{_STATUSES.get(name, "#999")}"></span>' for name in order)
    keys = "".join(
        f'<span class="one"><span class="key" style="background:{_STATUSES.get(name, "#999")}"></span>{counts[name]:,} {_text(name)}</span> '
        for name in order
    )
    runs = f"{len(result):,} run{'s' if len(result) != 1 else ''}"
    return f'<div class="shares" role="img" aria-label="{runs}">{bars}</div>\n<p class="keys">{keys}<span class="soft">of {runs}</span></p>'


def _constants(result: SweepResult) -> tuple[dict[str, Any], list[str]]:
    """The hyperparameters that are the same in every run, and the names of the others; with a single variant, all are others."""
    names = result.hyperparameter_names
    columns = {name: result.table[name].tolist() for name in names}
    if len(set(result.table["variant"].tolist())) == 1:
        return {}, names
    same = {name: column[0] for name, column in columns.items() if len({(type(value), value) for value in column}) == 1}
    return same, [name for name in names if name not in same]


def _rungs(rule: Rule) -> str:
    headers, cells = rung_lines(rule)
    most = max([rung.came for rung in rule.rungs], default=0)
    lines = []
    for rung, line in list(zip(rule.rungs, cells, strict=True))[:_MOST_RUNGS]:
        bar = f'<td class="share"><div style="width:{100 * rung.came / max(1, most):.1f}%"></div></td>'
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}{bar}</tr>")
    more = f'<p class="soft">and {len(cells) - _MOST_RUNGS} more</p>' if len(cells) > _MOST_RUNGS else ""
    head = "".join(f'<th scope="col">{name}</th>' for name in headers) + '<th scope="col" class="words">variants that came</th>'
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>{more}'
    none = '<p class="soft">It has stopped none so far.</p>'
    return f"<h2>Pruning</h2>\n<p>{_text(rule_words(rule))}</p>\n{table if lines else none}"


def _order(result: SweepResult) -> tuple[list[int], int]:
    """The table's rows in order, and how many are ranked: the ranked ones, best first, then the others by steps and metric."""
    try:
        ranking = result.ranking().tolist() if result.metrics else []
    except ValueError:  # the metric's mode isn't known
        ranking = []
    known = set(ranking)
    rest = [row for row in range(len(result)) if row not in known]
    values = result.table[result.metric].astype(float) if result.metrics else np.zeros(len(result))
    goodness = np.where(np.isnan(values), np.inf, -values if result.mode == "max" else values).tolist()
    rest.sort(key=lambda row: (result.table["status"][row] == "diverged", -int(result.table["steps"][row]), goodness[row]))
    return ranking + rest, len(ranking)


def _table(result: SweepResult, differing: Sequence[str]) -> str:
    rows, ranked = _order(result)
    shown, table = rows[:_MOST_ROWS], result.table
    replicated = bool(np.any(table["replicate"]))
    others = [name for name in ("status", "steps", "best_step") if name in table]
    first = [result.metric] if result.metric in result.metrics else []  # near the left edge, however wide the table is
    metrics = [*first, *(name for name in result.metrics if name not in first)]
    names = [
        "variant",
        *(["replicate"] if replicated else []),
        *(["fold"] if "fold" in table else []),
        *first,
        *differing,
        *metrics[len(first) :],
        *others,
    ]
    words = {name for name in names if not np.issubdtype(table[name].dtype, np.number)}
    head = "".join(f'<th scope="col" class="{_kind(name in words)}">{_breakable(name)}</th>' for name in names)
    lines = []
    for place, row in enumerate(shown):
        cells = "".join(_entry(_cell(table[name][row]), name in words) for name in names)
        lines.append(f"<tr{' class=best' if place == 0 and ranked else ''}>{cells}</tr>")
    order = "the best first, then those that are not ranked" if ranked < len(rows) else "the best first"
    if replicated:
        order += "; variants are ranked by the mean over their runs"
    if not ranked:
        why = (
            ": ".join(filter(None, why_none(table, result.metric))) if result.mode or not rankable(table).any() else "no direction is known"
        )
        order = f"not ranked ({why})"
    many = len(names) > _MANY
    part = f"{len(shown):,} of {len(rows):,} runs" if len(shown) < len(rows) else f"{len(rows):,} run{'s' if len(rows) != 1 else ''}"
    caption = f"{part} by {result.metric}, {order}." if ranked else f"{part}, {order}."
    return (
        f'<h2>Runs</h2>\n<p class="soft">{_text(caption)}</p>\n<div class="wide{" many" * many}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{chr(10).join(lines)}</tbody></table></div>"
    )


def _entry(text: str, words: bool) -> str:
    return f'<td class="{_kind(words)}{" long" * (len(text) > _LONG)}">{_text(text)}</td>'


def _kind(words: bool) -> str:
    return "words" if words else "number"


def _breakable(name: str) -> str:
    """A name in HTML that may be broken into lines after each of its words."""
    return re.sub(r"([_/.]|-)(?=\w)", r"\1<wbr>", _text(name))


# Pictures


def _pictures(result: SweepResult, differing: Sequence[str]) -> str:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        said = check.needs_extra("pictures", "matplotlib", "experiments")
        return f'<h2>Pictures</h2>\n<p class="soft">{_text(said)}</p>'
    figures = "\n".join(_figure(picture, i) for i, picture in enumerate(_chosen(result, differing)))
    none = '<p class="soft">None yet: nothing has been measured that could be drawn.</p>'
    return f'<h2>Pictures</h2>\n<div class="pictures">{figures}</div>' if figures else f"<h2>Pictures</h2>\n{none}"


def _chosen(result: SweepResult, differing: Sequence[str]) -> list[_Picture]:
    """Chooses the pictures for a result: no curves if there is one evaluation, and no points if there are too few."""
    small, found = (5.6, 3.8), []
    if len(result.curves["step"]) > 1 and np.isfinite(result.curves[result.metric]).any():
        title = f"{result.metric} over steps: every run, the best variant bold"
        found.append(_Picture(title, (7.2, 3.9), lambda ax: plot.learning_curves(result, ax=ax), True))
    fine = (result.table["status"] == "completed") & np.isfinite(result.table[result.metric].astype(float))
    if int(fine.sum()) < _FEWEST or not differing:
        return found
    columns = {name: result.table[name] for name in differing}
    numeric = [name for name, column in columns.items() if np.issubdtype(column.dtype, np.number)]
    named = [name for name in differing if name not in numeric and len(set(map(str, columns[name].tolist()))) <= len(plot.COLOURS)]
    for name in numeric[:_MOST_PICTURES]:
        by = named[0] if named else None
        title = f"{result.metric} over {name}" + (f", by {by}" if by else "")
        found.append(_Picture(title, small, _over(result, name, by)))
    if len(numeric) == 2 and len(differing) == 2 and _is_grid(columns[numeric[0]], columns[numeric[1]]):
        title = f"{result.metric} over {numeric[0]} and {numeric[1]}"
        found.append(_Picture(title, small, lambda ax: plot.heatmap(result, *numeric, ax=ax)))
    if 2 <= len(differing) <= _MOST_COLUMNS:
        title = "every run as a line through its hyperparameters, the best bold"
        found.append(_Picture(title, (7.2, 3.9), lambda ax: plot.parallel_coordinates(result, names=list(differing), ax=ax), True))
    return found


def _over(result: SweepResult, name: str, by: str | None) -> _Draw:
    return lambda ax: plot.over_hyperparameter(result, name, by=by, ax=ax)


def _is_grid(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether every value of one column occurs with every value of the other, and there are neither too few nor too many values."""
    counts = [len(set(column.tolist())) for column in (first, second)]
    return len(set(zip(first.tolist(), second.tolist(), strict=True))) == counts[0] * counts[1] and min(counts) > 1 and max(counts) <= 60


def _figure(picture: _Picture, i: int) -> str:
    try:
        drawn = _svg(picture, f"p{i}-")
    except Exception as error:  # the page is useful without it, and says so
        drawn = f'<p class="soft">could not be drawn: {_text(error)}</p>'
    caption = f"<figcaption>{_text(picture.title)}</figcaption>"
    return f"<figure{' class=whole' if picture.whole else ''}>{drawn}{caption}</figure>"


def _without_formulas(axis: Any) -> None:
    """Labels a logarithmic axis with plain numbers, not formulas: formulas are off, since a name may contain a $."""
    from matplotlib.ticker import FuncFormatter, LogFormatter

    def plain(own: Any) -> Any:
        return FuncFormatter(lambda x, place=None: f"{x:g}" if own(x, place) else "")  # only where its own formatter has a label

    for minor, get, put in (
        (False, axis.get_major_formatter, axis.set_major_formatter),
        (True, axis.get_minor_formatter, axis.set_minor_formatter),
    ):
        if isinstance(own := get(), LogFormatter):
            own.set_locs(axis.get_ticklocs(minor=minor))  # from these it chooses the ticks to label
            put(plain(own))


@contextlib.contextmanager
def _plain_style() -> Iterator[None]:
    """Matplotlib's default style, whatever a user has set: no text is a formula or needs a font of the reader's, and warnings are off."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as a letter that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"text.parse_math": False, "svg.fonttype": "path", "svg.hashsalt": "funcnet", "axes.spines.top": False})
        matplotlib.rcParams.update({"axes.spines.right": False})
        yield


def _svg(picture: _Picture, prefix: str) -> str:
    """A picture as an SVG element of the page: its ids are unique there, and the page decides its width."""
    from matplotlib.figure import Figure

    with _plain_style():
        figure = Figure(figsize=picture.size, layout="constrained")
        picture.draw(figure.subplots())
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                _without_formulas(axis)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={name: None for name in ("Date", "Creator", "Format", "Type")})
    whole = re.sub(r"<!--.*?-->", "", file.getvalue(), flags=re.DOTALL)  # comments repeat texts
    svg = whole[whole.index("<svg") :]
    svg = re.sub(r' (?:width|height)="[^"]*pt"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    svg = re.sub(r'\b(id="|href="#)|(url\(#)', lambda found: f"{found[0]}{prefix}", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{_text(picture.title)}" ', 1)
