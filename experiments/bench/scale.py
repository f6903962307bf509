"""How a sweep grows: its time a variant, its peak memory and the cost of storing it, from hundreds of variants to thousands.

python -m experiments.bench.scale [--variants 256 1024 4096 16384] [--repeats 3]
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.bench import timing

VARIANTS = (256, 1024, 4096, 16384)
MEASURE = "from experiments.bench.scale import measure as run"


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

    def sweep(store: Path | None = None) -> fn.SweepResult:
        rates = fn.grid(learning_rate=np.geomspace(1e-3, 0.3, variants).tolist())
        settings = dict(key=jax.random.key(2), num_steps=200, batch_size=None, eval_every=50, progress=False)
        return fn.sweep(recipe, rates, data, **settings, store=store)

    def stored() -> float:
        with tempfile.TemporaryDirectory() as folder:
            seconds, result = timing.seconds_of(lambda: sweep(Path(folder) / "store"))
        shares.append(result.timing["store_seconds"] / seconds)
        return seconds

    sweep()  # compiles
    shares: list[float] = []
    seconds = timing.in_turn({"plain": timing.timed(sweep), "stored": stored}, repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024) / 1e3 * 1.024
    return {
        "variants": variants,
        "milliseconds": 1e3 * statistics.median(seconds["plain"]) / variants,
        "stored": statistics.median(timing.ratios(seconds["stored"], seconds["plain"])) - 1,
        "store_share": statistics.median(shares),
        "gigabytes": peak,
    }


def table(found: list[dict[str, Any]]) -> str:
    """The figures in Markdown."""
    head = ["variants", "ms a variant", "with a store", "of it writing", "peak memory"]
    forms = {"variants": "{:,}", "milliseconds": "{:.3f}", "stored": "{:+.1%}", "store_share": "{:.1%}", "gigabytes": "{:.2f} GB"}
    return timing.markdown(head, [[form.format(row[name]) for name, form in forms.items()] for row in found])


def main() -> None:
    parser = timing.parser(".scale", __doc__, repeats=3)
    parser.add_argument("--variants", type=timing.number, nargs="+", default=VARIANTS, help="how many (default: %(default)s)")
    arguments = parser.parse_args()
    found = [timing.fresh(MEASURE, variants, arguments.repeats) for variants in sorted(arguments.variants)]
    print(table(found))


if __name__ == "__main__":
    main()
