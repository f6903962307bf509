"""What was measured, for a reader: one table, one chart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.bench.peers import NAMES
from funcnet import plot

TORCH = ("torch_loop", "torch_func")


def ratio(result: dict[str, Any], name: str, key: str = "seconds") -> float:
    """Wall time of the peer over funcnet's: above 1, funcnet is ahead."""
    return result["peers"][name][key] / result["funcnet"][key]


def goal(result: dict[str, Any], name: str) -> float | None:
    """What the ratio is to reach; of torch's two the better one has the goal."""
    goals = result["goals"]
    if name not in TORCH:
        return goals.get(name)
    counted = [other for other in TORCH if other in result["peers"] and result["peers"][other]["equal"]]
    return goals.get("torch") if counted and name == min(counted, key=lambda other: ratio(result, other)) else None


def table(results: dict[str, Any]) -> str:
    """Every workload and everyone who ran it, losing rows too."""
    head = ["", "", "seconds", "min - max", "variants/s", "compile s", "ratio", "goal", ""]
    rows = [row for workload, result in results.items() if workload != "machine" for row in _rows(workload, result)]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: list[str]) -> str:
        cells = [
            cell.ljust(width) if i in (0, 1, 8) else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([_machine(results["machine"]), line(head), *map(line, rows)])


def _rows(workload: str, result: dict[str, Any]) -> Iterator[list[str]]:
    own = result["funcnet"]
    note = ""
    if result["sgemm_fraction"] is not None:
        wanted = result["goals"].get("sgemm")
        note = f"{result['sgemm_fraction']:.2f} of sgemm peak" + (f" (goal {wanted:g})" if wanted else "")
    yield [workload, "funcnet", *_figures(own), "", "", note]
    for name, row in result["peers"].items():
        wanted = goal(result, name)
        yield ["", name, *_figures(row), *_verdict(row, ratio(result, name), wanted), _note(row, result["variants"])]
    for name, why in result["left_out"].items():
        yield ["", name, "-", "", "", "", "", "", f"left out: {why}"]
    if "cached_seconds" in own:
        yield [f"{workload} cached", "funcnet", *_figures(own, "cached_"), "", "", "with JAX's persistent compilation cache, filled"]
        for name, row in result["peers"].items():
            wanted = goal(result, name)
            yield ["", name, *_figures(row, "cached_"), *_verdict(row, ratio(result, name, "cached_seconds"), wanted), row["form"]]


def _figures(row: dict[str, Any], prefix: str = "") -> list[str]:
    spread = f"{row[prefix + 'seconds_min']:.3g} - {row[prefix + 'seconds_max']:.3g}"
    rest = ["", ""] if prefix else [f"{row['variants_per_second']:.3g}", f"{row['compile_seconds']:.1f}"]
    return [f"{row[prefix + 'seconds']:.3g}", spread, *rest]


def _verdict(row: dict[str, Any], ratio: float, wanted: float | None) -> list[str]:
    if not row["equal"]:
        return [f"({ratio:.2f})", ""]
    if wanted is None:
        return [f"{ratio:.2f}", ""]
    return [f"{ratio:.2f}", f"{wanted:g} {'met' if ratio >= wanted else 'missed'}"]


def _note(row: dict[str, Any], variants: int) -> str:
    notes = [] if row["equal"] else [f"NOT EQUAL, does not count: {row['agreement']}"]
    if row["variants_run"] < variants:
        notes.append(f"timed on {row['variants_run']} of {variants} variants and scaled")
    if row["runs"] < 3:
        notes.append(f"{row['runs']} run{'s' if row['runs'] > 1 else ''}")
    return "; ".join([*notes, row["form"]])


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = f"{machine['cpu']}, {machine['cores']} cores"
    if machine["platform"] == "gpu":
        where = f"everyone on one {machine['device']} (scikit-learn on the CPU: {where})"
    return (
        f"{machine['date']}: {where}, sgemm peak {machine['sgemm_gflops']:.0f} GFLOP/s; {versions}\n"
        "ratio: wall time over funcnet's, medians of alternating warm runs; W5 and W8 from the start of a new process"
    )


def markdown(results: dict[str, Any]) -> str:
    """The README's table: a row a workload, the ratios with their goals in brackets; where funcnet is behind, in bold."""
    head = ["", "funcnet, s", *(f"`{name}`" for name in NAMES), "of sgemm peak"]
    rows = [head, ["---"] * len(head)]
    for workload, result in results.items():
        if workload != "machine":
            own, wanted = result["funcnet"], result["goals"].get("sgemm")
            share = "-" if result["sgemm_fraction"] is None else f"{result['sgemm_fraction']:.2f}"
            figures = [_ratio_and_goal(result, name, "seconds") for name in NAMES]
            rows.append([f"{workload} {result['title']}", f"{own['seconds']:.3g}", *figures, f"{share} [{wanted:g}]" if wanted else share])
            if "cached_seconds" in own:
                figures = [_ratio_and_goal(result, name, "cached_seconds") for name in NAMES]
                rows.append([f"{workload}, JAX's compilation cache filled", f"{own['cached_seconds']:.3g}", *figures, "-"])
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", _machine(results["machine"])])


def _ratio_and_goal(result: dict[str, Any], name: str, key: str) -> str:
    if name not in result["peers"]:
        return "-"
    value, wanted = ratio(result, name, key), goal(result, name)
    text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
    text = text if result["peers"][name]["equal"] else f"({text})"
    return (f"**{text}**" if value < 1 else text) + (f" [{wanted:g}]" if wanted else "")


def chart(results: dict[str, Any], path: Path) -> None:
    """A bar for each workload and peer from 1 to its ratio, on a logarithmic axis, and its goal as a tick."""
    bars = []  # (workload, peer, ratio, goal, equal)
    for workload, result in results.items():
        for name in result.get("peers", {}):
            counts = result["peers"][name]["equal"]
            bars.append((workload, name, ratio(result, name), goal(result, name), counts))
            if "cached_seconds" in result["funcnet"]:
                bars.append((f"{workload} cached", name, ratio(result, name, "cached_seconds"), goal(result, name), counts))
    groups = list(dict.fromkeys(bar[0] for bar in bars))
    figure, ax = plt.subplots(figsize=(9, 1.3 + 0.27 * (len(bars) + len(groups))), layout="constrained")
    colours, shown, places, y = dict(zip(NAMES, plot.COLOURS, strict=False)), set(), {}, 0.0
    for group in groups:
        own = [bar for bar in bars if bar[0] == group]
        places[group] = y + (len(own) - 1) / 2
        for _, name, value, wanted, counts in own:
            style = {"color": colours[name]} if counts else {"facecolor": "white", "edgecolor": colours[name], "hatch": "///"}
            ax.barh(y, value - 1, left=1, height=0.85, label=name if name not in shown else None, **style)
            text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
            text += "" if counts else ", not equal"
            ax.annotate(
                text,
                (value, y),
                (4 if value >= 1 else -4, 0),
                textcoords="offset points",
                va="center",
                ha="left" if value >= 1 else "right",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                zorder=3,  # a goal may lie behind it
            )
            if wanted is not None:
                ax.plot([wanted, wanted], [y - 0.48, y + 0.48], color="black", linewidth=2.5, label="goal" if "goal" not in shown else None)
                shown.add("goal")
            shown.add(name)
            y += 1
        y += 1
    ax.axvline(1, color="black", linewidth=1)
    for text, side, shift in (("funcnet slower", "right", -6), ("funcnet faster", "left", 6)):
        ax.annotate(text, (1, 1), (shift, 3), xycoords=("data", "axes fraction"), textcoords="offset points", ha=side, weight="bold")
    ax.set_xscale("log")
    values = [value for bar in bars for value in (bar[2], bar[3]) if value]
    low, high = min(0.8, 0.5 * min(values, default=1)), max(2.0, 1.7 * max(values, default=1))
    ax.set(xlim=(low, high), xlabel="wall time, in multiples of funcnet's (logarithmic)")
    ax.set_yticks(list(places.values()), list(places))
    ax.set_ylim(y - 1, -1)
    ax.xaxis.set_major_locator(
        FixedLocator([tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= tick <= high])
    )
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
