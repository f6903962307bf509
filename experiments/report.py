"""The results of an experiment: pictures, figures with intervals, and a verdict on each of its claims.

An experiment is a module with one function, `run(quick, seed) -> Outcome`. This module writes what it returns.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.axes
import matplotlib.figure
import matplotlib.pyplot
import numpy as np
from scipy import stats

import funcnet as fn

LEVEL = 0.95  # of every confidence interval


class Interval(NamedTuple):
    """A mean over seeds and the ends of its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def interval(values: Any) -> Interval:
    """The mean of independent values and its 95% confidence interval, by Student's t.

    Args:
      values: shape (seeds,), at least two.

    Example:
      >>> print(interval([1.0, 2.0, 3.0]))
      2 [-0.484, 4.48]
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"interval: values must be at least two numbers, got shape {values.shape}; run more seeds")
    mean, error = float(values.mean()), float(stats.sem(values))
    if error == 0:
        return Interval(mean, mean, mean)
    low, high = stats.t.interval(LEVEL, len(values) - 1, loc=mean, scale=error)
    return Interval(mean, float(low), float(high))


def band(ax: matplotlib.axes.Axes, x: Any, values: Any, **style: Any) -> None:
    """Draws the mean over seeds, with its confidence interval as a band.

    Args:
      x: shape (points,).
      values: shape (seeds, points).
      style: of the line, as matplotlib's plot takes it.
    """
    each = [interval(column) for column in np.transpose(values)]
    (line,) = ax.plot(x, [one.mean for one in each], linewidth=2, **style)
    ax.fill_between(x, [one.low for one in each], [one.high for one in each], color=line.get_color(), alpha=0.2, linewidth=0)


def best_rows(result: fn.SweepResult, metric: str, mode: str | None = None, **hyperparameters: Any) -> np.ndarray:
    """The rows, one per seed, of the variant with the best mean of a metric, among variants with these hyperparameters.

    Args:
      result: of a sweep.
      metric: to choose by, such as "validation/loss".
      mode: whether a small ("min") or a large ("max") value is good; may be left out for losses and `fn.METRICS`.
      hyperparameters: values that the variant must have; the other hyperparameters are chosen.

    Raises:
      ValueError: no such variant can be ranked, since each has a run that diverged or has no finite metric.
    """
    ranking = result.ranking(metric, mode)
    own = np.ones(len(ranking), bool)
    for name, value in hyperparameters.items():
        own &= result.table[name][ranking] == value
    if not own.any():
        rule = f"needs a variant with {hyperparameters} whose every run completed with a finite {metric}"
        raise ValueError(f"best_rows: {rule}, got none; train more of them")
    return np.flatnonzero(result.table["variant"] == result.table["variant"][ranking[own][0]])


class Finding(NamedTuple):
    """One claim, what was measured, and whether it holds."""

    claim: str  # a sentence that could be false
    holds: bool
    figures: Mapping[str, Any]  # what was measured, by name with its unit: Interval, number or text
    depends: str = ""  # what the verdict depends on, in a sentence


class Outcome(NamedTuple):
    """What `run` returns."""

    findings: Sequence[Finding]
    pictures: Mapping[str, matplotlib.figure.Figure]  # by file name, without an ending


def write(name: str, title: str, outcome: Outcome, folder: Path, *, quick: bool, seed: int, seconds: float) -> dict[str, Any]:
    """Writes the pictures, as PNG and SVG, and summary.json; returns the summary.

    Args:
      name: of the experiment; a folder of this name is made in `folder`.
    """
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    for picture, figure in outcome.pictures.items():
        figure.savefig(own / f"{picture}.png", dpi=120)
        figure.savefig(own / f"{picture}.svg", metadata={"Date": None})
        matplotlib.pyplot.close(figure)
    findings = [
        {
            "claim": finding.claim,
            "holds": bool(finding.holds),
            "figures": {key: _plain(value) for key, value in finding.figures.items()},
            "depends": finding.depends,
        }
        for finding in outcome.findings
    ]
    summary = {
        "name": name,
        "title": title,
        "quick": quick,
        "seed": seed,
        "seconds": round(seconds, 1),
        "confidence": LEVEL,
        "findings": findings,
        "pictures": list(outcome.pictures),
    }
    (own / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return summary


def text(summary: Mapping[str, Any]) -> str:
    """The verdicts of one experiment, for a terminal."""
    lines = [f"{summary['name']}: {summary['title']}"]
    for finding in summary["findings"]:
        lines.append(f"  {'HOLDS         ' if finding['holds'] else 'DOES NOT HOLD '} {finding['claim']}")
        lines += [f"      {key}: {shown(value)}" for key, value in finding["figures"].items()]
        lines += [f"      {finding['depends']}"] if finding["depends"] else []
    return "\n".join(lines)


def page(summaries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes one HTML page with every verdict and picture; its links are relative to its folder."""
    rows, sections = [], []
    for summary in summaries:
        name, title = html.escape(summary["name"]), html.escape(summary["title"])
        claims = []
        for finding in summary["findings"]:
            claim, kind = html.escape(finding["claim"]), "yes" if finding["holds"] else "no"
            words = "holds" if finding["holds"] else "does not hold"
            rows.append(f'<tr><td><a href="#{name}">{name}</a></td><td>{claim}</td><td class="{kind}">{words}</td></tr>')
            figures = "".join(
                f"<tr><th>{html.escape(key)}</th><td>{html.escape(shown(value))}</td></tr>" for key, value in finding["figures"].items()
            )
            claims.append(
                f'<h3>{claim} <span class="{kind}">{words}</span></h3><table>{figures}</table><p>{html.escape(finding["depends"])}</p>'
            )
        pictures = "".join(
            f'<img src="{name}/{html.escape(picture)}.svg" alt="{html.escape(picture.replace("_", " "))}">'
            for picture in summary["pictures"]
        )
        sections.append(f'<section id="{name}"><h2>{name}: {title}</h2>{pictures}{"".join(claims)}</section>')
    table = f"<table><tr><th>experiment</th><th>claim</th><th>verdict</th></tr>{''.join(rows)}</table>"
    path.write_text(_PAGE.format(table=table, sections="".join(sections)))


def markdown(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The table of claims with their verdicts, and the first figures of each; summary.json has all of them."""
    lines = ["| experiment | claim | verdict | measured |", "|---|---|---|---|"]
    for summary in summaries:
        for finding in summary["findings"]:
            first = [f"{key}: {shown(value)}" for key, value in finding["figures"].items()]
            measured = "; ".join(first[:3]) + ("; ..." if len(first) > 3 else "")
            cells = [f"`{summary['name']}`", finding["claim"], "holds" if finding["holds"] else "**does not hold**", measured]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A figure of a summary as text for a reader."""
    if isinstance(value, Mapping):
        return str(Interval(**value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """A figure as JSON can hold it; a number that is not finite becomes text."""
    if isinstance(value, Interval):
        return {field: _plain(part) for field, part in value._asdict().items()}
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    return value.item() if isinstance(value, np.generic) else value


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>funcnet: the experiments</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
img {{ max-width: 100%; }} table {{ border-collapse: collapse; }} td, th {{ text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top; }}
.yes {{ color: #00674b; font-weight: 600; }} .no {{ color: #b34700; font-weight: 600; }} section {{ border-top: 1px solid #ccc; margin-top: 2rem; }}
</style>
<h1>funcnet: the experiments</h1>
<p>What the source teaches, each claim tried on data. Intervals are 95% confidence intervals of a mean over seeds.</p>
{table}
{sections}
</html>
"""
