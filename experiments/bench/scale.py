"""How a sweep grows: its time a variant, its peak memory and the cost of storing it, from hundreds of variants to thousands.

python -m experiments.bench.scale [--variants 256 1024 4096 16384] [--repeats 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VARIANTS = (256, 1024, 4096, 16384)


def measure(variants: int, repeats: int) -> dict[str, Any]:
    """In this process, warm: seconds of a sweep without a store and with one, in turn, and the peak of the process's memory.

    The net is small (1-10-1, 200 steps on 300 points), so that what the host does for each variant is as large a part as it gets.
    """
    import resource

    import jax
    import numpy as np

    import funcnet as fn

    rng = np.random.default_rng(0)
    x = np.linspace(-1, 1, 300, dtype=np.float32)[:, None]
    data = fn.split(fn.Dataset(x, (x**2 + 0.1 * rng.normal(size=x.shape)).astype(np.float32)), key=jax.random.key(0))

    def recipe(learning_rate: float) -> fn.Training:
        return fn.training(fn.mlp((10, 1), "tanh"), fn.squared_error, fn.momentum(learning_rate), in_shape=(1,))

    def sweep(store: Path | None) -> tuple[float, fn.SweepResult]:
        rates = fn.grid(learning_rate=np.geomspace(1e-3, 0.3, variants).tolist())
        began = time.perf_counter()
        settings = dict(key=jax.random.key(2), num_steps=200, batch_size=None, eval_every=50, progress=False)
        result = fn.sweep(recipe, rates, data, **settings, store=store)
        return time.perf_counter() - began, result

    sweep(None)  # compiles
    plain, stored, shares = [], [], []
    for _ in range(repeats):
        plain.append(sweep(None)[0])
        with tempfile.TemporaryDirectory() as folder:
            seconds, result = sweep(Path(folder) / "store")
            stored.append(seconds)
            shares.append(result.timing["store_seconds"] / seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024) / 1e3 * 1.024
    return {
        "variants": variants,
        "milliseconds": 1e3 * statistics.median(plain) / variants,
        "stored": statistics.median(b / a for a, b in zip(plain, stored, strict=True)) - 1,
        "store_share": statistics.median(shares),
        "gigabytes": peak,
    }


def in_process(variants: int, repeats: int) -> dict[str, Any]:
    """The same in a process of its own, whose peak is nobody else's."""
    code = "import json, sys; from experiments.bench.scale import measure; print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))"
    done = subprocess.run([sys.executable, "-c", code, str(variants), str(repeats)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"scale: the measurement of {variants} variants must finish, got exit code {done.returncode}: {done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def verdicts(found: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """What is asked of the figures, and whether it holds."""
    growth = max(row["milliseconds"] for row in found) / found[0]["milliseconds"] - 1
    memory, share = max(row["gigabytes"] for row in found), max(row["store_share"] for row in found)
    return [
        (f"time a variant grows by a tenth at most, from {found[0]['variants']:,} variants on: by {growth:+.1%}", growth <= 0.1),
        (f"peak memory stays under 2 GB: {memory:.2f} GB", memory < 2),
        (f"storing takes at most 5% of the time: {share:.1%}", share <= 0.05),
    ]


def table(found: list[dict[str, Any]]) -> str:
    """The figures in Markdown."""
    lines = ["| variants | ms a variant | with a store | of it writing | peak memory |", "|---|---|---|---|---|"]
    for row in found:
        figures = f"{row['milliseconds']:.3f} | {row['stored']:+.1%} | {row['store_share']:.1%} | {row['gigabytes']:.2f} GB"
        lines.append(f"| {row['variants']:,} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, nargs="+", default=VARIANTS, help="how many, upwards (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement, whose median counts (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder to write to (default: %(default)s)")
    arguments = parser.parse_args()
    if min(*arguments.variants, arguments.repeats, 1 << 30) < 1:
        parser.error("--variants and --repeats must be at least 1")
    found = [in_process(variants, arguments.repeats) for variants in sorted(arguments.variants)]
    folder = arguments.out / "scale"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(table(found) + "\n")
    (folder / "figures.json").write_text(json.dumps(found, indent=1))
    print(table(found))
    for words, holds in verdicts(found):
        print(f"{'holds' if holds else 'FAILS'}: {words}")


if __name__ == "__main__":
    main()
