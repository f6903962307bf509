"""What was measured, for a reader: the README's table, and a line for each who ran."""

from typing import Any

from experiments.bench import timing
from experiments.bench.peers import NAMES

TORCH = ("torch_loop", "torch_func")


def ratio(result: dict[str, Any], name: str, key: str = "seconds") -> float:
    """Wall time of the peer over funcnet's: above 1, funcnet is ahead."""
    return result["peers"][name][key] / result["funcnet"][key]


def goal(result: dict[str, Any], name: str) -> float | None:
    """What the ratio is to reach; of torch's two the better one has the goal."""
    if name not in TORCH:
        return result["goals"].get(name)
    counted = [other for other in TORCH if other in result["peers"] and result["peers"][other]["equal"]]
    return result["goals"].get("torch") if counted and name == min(counted, key=lambda other: ratio(result, other)) else None


def table(results: dict[str, Any]) -> str:
    """A row a workload, the ratios with their goals in brackets; where funcnet is behind, in bold; unequal ones in parentheses."""
    rows = []
    for workload, result in results.items():
        if workload != "machine":
            own, wanted, share = result["funcnet"], result["goals"].get("sgemm"), result["sgemm_fraction"]
            of_peak = "-" if share is None else f"{share:.2f}" + (f" [{wanted:g}]" if wanted else "")
            rows.append([f"{workload} {result['title']}", *_figures(result, "seconds"), of_peak])
            if "cached_seconds" in own:
                rows.append([f"{workload}, JAX's compilation cache filled", *_figures(result, "cached_seconds"), "-"])
    return timing.markdown(["", "funcnet, s", *(f"`{name}`" for name in NAMES), "of sgemm peak"], rows)


def _figures(result: dict[str, Any], key: str) -> list[str]:
    return [f"{result['funcnet'][key]:.3g}", *(_ratio_and_goal(result, name, key) for name in NAMES)]


def _ratio_and_goal(result: dict[str, Any], name: str, key: str) -> str:
    if name not in result["peers"]:
        return "-"
    value, wanted = ratio(result, name, key), goal(result, name)
    text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
    if not result["peers"][name]["equal"]:
        return f"({text})"
    return (f"**{text}**" if value < 1 else text) + (f" [{wanted:g}]" if wanted else "")


def details(results: dict[str, Any]) -> str:
    """Each one's median and range, how it ran, and what has to be said of it; and who was left out, and why."""
    lines = []
    for workload, result in results.items():
        if workload != "machine":
            lines += [_detail(f"{workload} {name}", row) for name, row in {"funcnet": result["funcnet"], **result["peers"]}.items()]
            lines += [f"{workload} {name}: left out: {why}" for name, why in result["left_out"].items()]
    return "\n".join(lines)


def _detail(who: str, row: dict[str, Any]) -> str:
    notes = [] if row.get("equal", True) else [f"NOT EQUAL, does not count: {row['agreement']}"]
    if row["variants_run"] < row["variants"]:
        notes.append(f"timed on {row['variants_run']} of {row['variants']} variants and scaled")
    if "foreseen" in row:
        notes.append(f"fn.plan foresees {row['foreseen']:.3g} s")
    seconds = f"{row['seconds']:.3g} s ({row['seconds_min']:.3g} to {row['seconds_max']:.3g}, {row['runs']} runs)"
    return f"{who}: {seconds}, {row['variants_per_second']:.3g} variants/s, compiling {row['compile_seconds']:.1f} s; " + "; ".join(
        [*notes, row["form"]]
    )


def machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = f"{machine['cpu']}, {machine['cores']} cores"
    if machine["platform"] == "gpu":
        where = f"everyone on one {machine['device']} (scikit-learn on the CPU: {where})"
    return (
        f"{machine['date']}: {where}, sgemm peak {machine['sgemm_gflops']:.0f} GFLOP/s; {versions}\n"
        "ratio: wall time over funcnet's, medians of warm runs in turn; W5 and W8 from the start of a new process"
    )
