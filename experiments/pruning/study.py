"""The measurements, the claims, the table and the pictures."""

import datetime
import importlib.metadata
import json
import math
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments import report
from experiments.digits_sweep import digits
from experiments.pruning import problem as problems
from experiments.pruning.contestant import FORMS, FUNCNET, OPTUNA, OPTUNA_FORMS, PEERS
from experiments.pruning.ours import RULES, WHOLE, Run, measured
from experiments.pruning.problem import CORES, Problem
from experiments.pruning.race import Trace, watch
from funcnet import plot

WITHIN = 0.3  # points: one of 359 validation digits
SHARE = 1 / 3  # of the whole sweep's time
SOONER = 10  # times sooner than the best of the peers
CLAIMED = ("successive_halving", "hyperband")  # chosen before anything was measured
RACING = CLAIMED[0]
PROBE = 20.0  # seconds that each form of Optuna's loop is tried for

Tell = Callable[[str], None]


class Measured(NamedTuple):
    """Everything measured; each list has one entry per seed."""

    runs: Mapping[str, list[Run]]  # by rule, warm, in one process
    traces: Mapping[str, list[Trace]]  # by "funcnet RULE" or a peer's name, each from a cold start; empty without a race
    forms: Mapping[str, str]  # the form of each peer that raced
    paces: Mapping[str, float]  # steps per second of each form of Optuna's loop
    left_out: Mapping[str, str]  # contestants that could not run, and why
    machine: Mapping[str, Any]

    def aims(self) -> list[float]:
        """The accuracy to reach on each seed: 0.3 points below the whole sweep's best, which is known before the race."""
        return [run.validation - WITHIN for run in self.runs[WHOLE]]

    def behind(self, rule: str) -> np.ndarray:
        """Points by which a rule's best is below the whole sweep's."""
        return np.array([whole.validation - run.validation for run, whole in zip(self.runs[rule], self.runs[WHOLE], strict=True)])

    def share(self, rule: str) -> np.ndarray:
        """The time that a rule takes, as a share of the whole sweep's."""
        return np.array([run.seconds / whole.seconds for run, whole in zip(self.runs[rule], self.runs[WHOLE], strict=True)])

    def reached(self, name: str) -> np.ndarray:
        """Seconds from a cold start to the first answer as good as the aim; infinite if there was none."""
        return np.array([trace.reached(aim) for trace, aim in zip(self.traces[name], self.aims(), strict=True)])

    def raced(self) -> list[str]:
        """The peers that raced."""
        return [name for name in PEERS if name in self.traces]


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    """Measures the rules, warm, without peers."""
    sizes = dict(seeds=1, variants=27, num_steps=54, first=2) if quick else dict(seeds=5, variants=512, num_steps=1620, first=60)
    return outcome(measure(drawn(seed=seed, **sizes)))


def drawn(*, seeds: int, variants: int, num_steps: int, first: int, seed: int = 0) -> list[Problem]:
    """One problem per seed, each with its own split of the digits."""
    return [_problem(own, variants, num_steps, first) for own in range(seed, seed + seeds)]


def _problem(seed: int, variants: int, num_steps: int, first: int) -> Problem:
    parts = [(np.asarray(x, np.float32), np.asarray(y, np.int32)) for x, y in digits(jax.random.key(seed))]
    return Problem(*parts, seed, variants, num_steps, first)


def measure(problems: list[Problem], tell: Tell = lambda line: None) -> Measured:
    """Measures every rule on every seed, in turn, after one round in which everything compiles."""
    for rule in RULES:
        tell(f"{rule} compiles")
        measured(problems[0], rule)
    runs: dict[str, list[Run]] = {rule: [] for rule in RULES}
    for own in problems:
        for rule in RULES:
            runs[rule].append(measured(own, rule))
            tell(f"seed {own.seed}: {rule}: {runs[rule][-1].validation:.2f} points in {runs[rule][-1].seconds:.2f} s")
    return Measured(runs, {}, {}, {}, {}, machine())


def race(
    before: Measured,
    drawn: list[Problem],
    *,
    patience: float,
    peers: Iterable[str] = PEERS,
    rules: Iterable[str] = RULES,
    probe: float = PROBE,
    tell: Tell = lambda line: None,
    keep: Callable[[Measured], None] = lambda measured: None,
) -> Measured:
    """Runs every contestant from a cold start on every seed, one after the other.

    Args:
      before: the result of `measure` on these problems; its whole sweeps set the aims.
      drawn: the problems.
      patience: seconds after which a contestant is ended if it has not reached the aim.
      peers: some of `PEERS`.
      rules: some of `RULES`.
      probe: seconds for which each form of Optuna's loop is tried on the first problem; the fastest form races.
      tell: is called with lines about the progress.
      keep: is called after each seed with the results so far.
    """
    traces: dict[str, list[Trace]] = {}
    forms, left_out, paces = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{own.seed}.npz" for own in drawn]
        for own, path in zip(drawn, paths, strict=True):
            problems.save(own, path)
        wanted = list(peers)
        if any(name in OPTUNA for name in wanted):
            paces, why = probed(paths[0], probe, tell)
            left_out |= {name: why for name in wanted if name in OPTUNA and why}
            forms |= {name: max(paces, key=lambda form: paces[form]) for name in wanted if name in OPTUNA and not why}
        forms |= {name: FORMS[name] for name in wanted if name in FORMS}
        contestants = [(f"{FUNCNET} {rule}", FUNCNET, rule) for rule in rules] + [(name, name, form) for name, form in forms.items()]
        for own, path, aim in zip(drawn, paths, before.aims(), strict=True):
            for label, name, form in contestants:
                if label in left_out:
                    continue
                trace = watch(name, path, form, seconds=patience, aim=aim)
                if trace.cannot:
                    left_out[label] = trace.cannot
                    tell(f"{label} is left out: {trace.cannot}")
                    continue
                traces.setdefault(label, []).append(trace)
                tell(
                    f"seed {own.seed}: {label}: {trace.best:.2f} of {aim:.2f} points in {trace.seconds:.1f} s, {len(trace.answers)} answers"
                )
            keep(before._replace(traces=traces, forms=forms, paces=paces, left_out=left_out))
    forms = {name: form for name, form in forms.items() if name not in left_out}
    return before._replace(traces=traces, forms=forms, paces=paces, left_out=left_out)


def probed(path: Path, seconds: float, tell: Tell) -> tuple[dict[str, float], str]:
    """The steps per second of each form of Optuna's loop, and ""; or no steps, and the reason why Optuna can't run."""
    paces = {}
    for form in OPTUNA_FORMS:
        trace = watch(OPTUNA[0], path, form, seconds=seconds)
        if trace.cannot:
            tell(f"optuna is left out: {trace.cannot}")
            return {}, trace.cannot
        paces[form] = trace.pace
        tell(f"optuna, {form}: {trace.pace:.0f} steps a second")
    return paces, ""


def machine() -> dict[str, Any]:
    """The machine and the versions on which the figures depend."""
    versions = {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "torch", "optuna", "scikit-learn", "hyperoptax", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    )
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": CORES,
        "date": datetime.date.today().isoformat(),
        "versions": versions,
    }


# The claims.


def outcome(found: Measured) -> report.Outcome:
    findings = [pays(found, rule) for rule in CLAIMED]
    if found.raced() and f"{FUNCNET} {RACING}" in found.traces:
        findings.append(sooner(found))
        return report.Outcome(findings, {"time_to_best": draw(found)})
    return report.Outcome(findings, {"rules": draw_rules(found)})


def pays(found: Measured, rule: str) -> report.Finding:
    behind, share = over_seeds(found.behind(rule)), over_seeds(found.share(rule))
    runs, whole = found.runs[rule], found.runs[WHOLE]
    return report.Finding(
        f"{_words(rule).capitalize()} ends within {WITHIN} points of the whole sweep's best, in a third of its time or less.",
        behind.high <= WITHIN and share.high <= SHARE,
        {
            "validation accuracy (points) below the whole sweep's": behind,
            "share of the whole sweep's time, warm": share,
            "share of the whole sweep's steps": over_seeds([run.steps for run in runs]),
            "validation accuracy (points)": over_seeds([run.validation for run in runs]),
            "the whole sweep's": over_seeds([run.validation for run in whole]),
            "test accuracy (points) of the same variant": over_seeds([run.test for run in runs]),
            "of the whole sweep's": over_seeds([run.test for run in whole]),
            "seconds, median": statistics.median(run.seconds for run in runs),
            "the whole sweep's seconds, median": statistics.median(run.seconds for run in whole),
            "programs compiled while timed": max(run.programs for run in [*runs, *whole]),
        },
        f"Seeds: {len(runs)}, each with its own split, variants and minibatches, which rule and whole sweep share. Time depends on the machine.",
    )


def sooner(found: Measured) -> report.Finding:
    """A peer without an answer at the end of patience counts as reaching the aim then, which favours it; for funcnet that isn't done."""
    own = found.reached(f"{FUNCNET} {RACING}")
    waited = {name: np.minimum(found.reached(name), [trace.seconds for trace in found.traces[name]]) for name in found.raced()}
    best = min(waited, key=lambda name: statistics.median(waited[name]))
    times = _geometric(waited[best] / own) if np.isfinite(own).all() else report.Interval(math.nan, math.nan, math.nan)
    return report.Finding(
        f"From a cold start {_words(RACING)} is within {WITHIN} points of the best {SOONER} times sooner than the best of the peers.",
        times.low >= SOONER,  # False if it is NaN
        {
            "times sooner than the best of the peers": times,
            "the best of the peers": best,
            "seconds, median": float(np.median(own)),
            **{f"seconds, median, {name}": _at_least(found, name) for name in found.raced()},
            "seeds that each got there on": "; ".join(
                f"{name} {int(np.isfinite(found.reached(name)).sum())} of {len(own)}" for name in [f"{FUNCNET} {RACING}", *found.raced()]
            ),
            **{f"how {name} was run": form for name, form in found.forms.items()},
            **{f"left out: {name}": why for name, why in found.left_out.items()},
        },
        "Counted from the start of a process: imports and compilation too. The best is the whole sweep's on the same split. A geometric mean; a "
        "peer that was not there when patience ended counts as there just then.",
    )


def over_seeds(values: Any) -> report.Interval:
    """The mean and its interval; for one seed just the value."""
    values = [float(value) for value in values]
    return report.interval(values) if len(values) > 1 else report.Interval(values[0], values[0], values[0])


def _geometric(ratios: np.ndarray) -> report.Interval:
    """The geometric mean of ratios and its interval."""
    return report.Interval(*(math.exp(part) for part in over_seeds(np.log(ratios))))


def _at_least(found: Measured, name: str) -> float | str:
    """The median over seeds of the seconds to the aim; "over ..." if half of the seeds or more did not reach it."""
    median = float(np.median(found.reached(name)))
    return median if math.isfinite(median) else f"over {statistics.median(trace.seconds for trace in found.traces[name]):.3g}"


def _words(rule: str) -> str:
    return "the whole sweep" if rule == WHOLE else rule.replace("_", " ")


# The table.

HEAD = ("", "validation", "test", "warm s", "of the whole's time", "of its steps", "cold s to the aim", "there on", "")


def rows(found: Measured) -> list[list[str]]:
    """The table's rows: one for each rule and each peer, also those that were left out."""
    table = []
    for rule in RULES:
        runs, label = found.runs[rule], f"{FUNCNET} {rule}"
        table.append(
            [
                label,
                f"{np.mean([run.validation for run in runs]):.2f}",
                f"{np.mean([run.test for run in runs]):.2f}",
                f"{statistics.median(run.seconds for run in runs):.3g}",
                f"{np.mean(found.share(rule)):.2f}",
                f"{np.mean([run.steps for run in runs]):.2f}",
                *_raced(found, label),
                "",
            ]
        )
    for name in found.raced():
        best = np.mean([trace.best for trace in found.traces[name]])
        table.append([name, f"{best:.2f}" if math.isfinite(best) else "-", "-", "-", "-", "-", *_raced(found, name), found.forms[name]])
    table += [[name, *["-"] * 7, f"left out: {why}"] for name, why in found.left_out.items()]
    return table


def _raced(found: Measured, name: str) -> list[str]:
    if name not in found.traces:
        return ["-", "-"]
    reached = found.reached(name)
    median = _at_least(found, name)
    return [median if isinstance(median, str) else f"{median:.3g}", f"{int(np.isfinite(reached).sum())} of {len(reached)}"]


def text(found: Measured) -> str:
    """The table as text for a terminal."""
    lines = [list(HEAD), *rows(found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    shown = [
        "  ".join(cell.ljust(width) if i in (0, 8) else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join([_about(found), *(line.rstrip() for line in shown)])


def markdown(found: Measured) -> str:
    """The same table in Markdown, for a README."""
    lines = [list(HEAD), ["---"] * len(HEAD), *rows(found)]
    return "\n".join([*(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines), "", _about(found)])


def _about(found: Measured) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found.machine["versions"].items())
    return (
        f"{found.machine['date']}: {found.machine['cpu']}, {found.machine['cores']} cores; {versions}\n"
        f"seeds: {len(found.runs[WHOLE])}; accuracies in points, means; seconds are medians; the aim is {WITHIN} points below the whole sweep's best"
    )


def plain(found: Measured) -> dict[str, Any]:
    """Everything measured, for JSON."""
    return {
        "machine": found.machine,
        "aims": found.aims(),
        "runs": {rule: [run._asdict() for run in runs] for rule, runs in found.runs.items()},
        "traces": {name: [trace._asdict() for trace in traces] for name, traces in found.traces.items()},
        "forms": found.forms,
        "optuna_steps_a_second": found.paces,
        "left_out": found.left_out,
    }


def write(found: Measured, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(found), indent=1, allow_nan=False) + "\n")


# The pictures.


def draw_rules(found: Measured) -> matplotlib.figure.Figure:
    """Draws what each rule loses over its time, with a point for each seed."""
    figure, ax = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for i, rule in enumerate(RULES):
        style = dict(color=plot.COLOURS[i], marker=plot.MARKERS[i])
        ax.scatter(found.share(rule), -found.behind(rule), s=22, alpha=0.4, linewidth=0, **style)
        ax.scatter(found.share(rule).mean(), -found.behind(rule).mean(), s=90, label=_words(rule), **style)
    ax.axhline(-WITHIN, color="k", linestyle=":", linewidth=1)
    ax.axvline(SHARE, color="k", linestyle=":", linewidth=1)
    ax.set(xscale="log", xlabel="wall time, as a share of the whole sweep's", ylabel="validation accuracy above the whole sweep's (points)")
    _plain_ticks(ax, (0.05, 0.1, 0.2, 0.5, 1, 2))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set_title("each seed (small) and the mean (large)" if len(found.runs[WHOLE]) > 1 else "one seed")
    return figure


def best_so_far(traces: list[Trace], wholes: list[float], seconds: np.ndarray) -> np.ndarray:
    """Points above the whole sweep's best at each of these seconds, as the median over seeds; -inf until half of them have an answer."""
    curves = []
    for trace, whole in zip(traces, wholes, strict=True):
        at, value = np.array(trace.answers, float).reshape(-1, 2).T
        best = np.append(-np.inf, np.maximum.accumulate(value))
        curves.append(best[np.searchsorted(at, seconds, side="right")] - whole)
    return np.quantile(curves, 0.5, axis=0, method="inverted_cdf")


def draw(found: Measured) -> matplotlib.figure.Figure:
    """Draws, left, the best so far over time, and right, the time until each is within 0.3 points."""
    figure, (over_time, times) = plt.subplots(1, 2, figsize=(13, 5.2), layout="constrained", width_ratios=[1.25, 1])
    wholes = [run.validation for run in found.runs[WHOLE]]
    ours = [name for name in found.traces if name.startswith(FUNCNET)]
    lines = [name for name in (f"{FUNCNET} {WHOLE}", *(f"{FUNCNET} {rule}" for rule in CLAIMED)) if name in ours] + found.raced()
    low = min(trace.first for name in lines for trace in found.traces[name]) * 0.8
    high = max(trace.seconds for traces in found.traces.values() for trace in traces) * 1.2
    colours = dict(zip(found.raced(), plot.COLOURS[1:], strict=False))
    worst = 0.0
    for i, name in enumerate(lines):
        seconds = np.array(sorted(at for trace in found.traces[name] for at, _ in trace.answers))
        above = best_so_far(found.traces[name], wholes, seconds)
        seconds, above = seconds[np.isfinite(above)], above[np.isfinite(above)]
        colour = plot.COLOURS[0] if name in ours else colours[name]
        style = dict(color=colour, linestyle=plot.LINES[i % len(plot.LINES)], linewidth=2.6 if name in ours else 1.6)
        there = np.flatnonzero(above >= -WITHIN - 1e-9)[:1]
        style |= dict(marker=plot.MARKERS[i % len(plot.MARKERS)], markersize=8, markevery=[int(place) + 1 for place in there])
        rise = (
            np.append(seconds[:1], seconds),
            np.append(np.full(len(seconds[:1]), -100.0), above),
        )  # a line up to the first answer
        over_time.step(*rise, where="post", label=_label(name), zorder=3 if name in ours else 2, **style)
        worst = min(worst, *above, -1.0)
    over_time.axhline(-WITHIN, color="k", linestyle=":", linewidth=1)
    over_time.text(0.01, -WITHIN, f"within {WITHIN} points", va="bottom", transform=over_time.get_yaxis_transform())
    over_time.set(
        xscale="log",
        ylim=(max(worst, -5.0) - 0.3, 0.9),
        xlabel="seconds since the process began",
        ylabel="best validation accuracy so far\nabove the whole sweep's (points)",
    )
    over_time.set_title("median over seeds; each is watched until it is within\n(a mark), or until patience ends")
    over_time.legend(framealpha=0.9, edgecolor="none", loc="lower right").set_zorder(5)
    names = [*ours, *found.raced()]
    for y, name in enumerate(names):
        colour = plot.COLOURS[0] if name in ours else colours[name]
        reached = found.reached(name)
        there = np.isfinite(reached)
        late = np.array([trace.seconds for trace in found.traces[name]])[~there]
        times.plot(reached[there], np.full(there.sum(), y), "o", color=colour, alpha=0.5, markersize=6, markeredgewidth=0)
        times.plot(late, np.full(len(late), y), ">", markerfacecolor="none", color=colour, markersize=8)
        middle = np.median(reached)
        if math.isfinite(middle):
            times.plot([middle, middle], [y - 0.32, y + 0.32], color=colour, linewidth=3)
    times.set_yticks(range(len(names)), [_label(name) for name in names])
    times.invert_yaxis()
    times.set(xscale="log", xlabel="seconds since the process began")
    times.set_title(f"time until within {WITHIN} points, of each seed\n(bar: median; arrow: not there when patience ended)")
    for ax in (over_time, times):
        ax.set_xlim(low, high)
        _plain_ticks(ax, (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000))
    return figure


def _label(name: str) -> str:
    return name.replace(f"{FUNCNET} {WHOLE}", f"{FUNCNET}, whole sweep").replace(f"{FUNCNET} ", f"{FUNCNET}, ").replace("_", " ")


def _plain_ticks(ax: Any, ticks: tuple[float, ...]) -> None:
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
