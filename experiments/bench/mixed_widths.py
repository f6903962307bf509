"""Mixed widths in one program, beside a program for each width: MLPs (width, width, 10) with dropout on the digits.

python -m experiments.bench.mixed_widths [--variants 48] [--steps 300] [--repeats 3]

Each measurement is a new process, which sweeps twice: cold, from the call of `fn.sweep` on, with everything to be compiled, and once more,
with the programs of the first. Both ways train the same variants, to losses that must agree, and take turns.
"""

import statistics
from typing import Any

import jax
import numpy as np

import funcnet as fn
from experiments.bench import timing
from experiments.bench.harness import agreement
from experiments.bench.workloads import digits

WAYS = ("one program", "a program each")
MEASURE = "from experiments.bench.mixed_widths import measure as run"
Found = dict[str, list[dict[str, Any]]]  # by way, what `measure` gave in each round


def recipe(learning_rate: float, width: int) -> fn.Training:
    net, penalty = fn.mlp((width, width, 10), "relu", dropout=0.2), fn.l2(1e-4)
    return fn.training(net, fn.cross_entropy, fn.adam(learning_rate), in_shape=(64,), penalty=penalty, metrics=["accuracy"])


def measure(way: str, variants: int, steps: int) -> dict[str, Any]:
    """In this process: seconds of both sweeps, how many widths and programs there were, and the final losses."""
    widths = fn.integers(8, 65)
    space = fn.space(learning_rate=fn.log_uniform(1e-3, 1e-2), width=fn.traced(widths) if way == "one program" else widths)
    drawn, data = space.sample(variants, key=jax.random.key(1)), fn.split(fn.Dataset(*digits()), key=jax.random.key(0))
    settings = dict(key=jax.random.key(2), num_steps=steps, batch_size=64, progress=False)
    (cold, result), (warm, _) = (timing.seconds_of(lambda: fn.sweep(recipe, drawn, data, **settings)) for _ in range(2))
    table, programs = result.table, len(result.timing["lane_widths"])
    return {"cold": cold, "warm": warm, "widths": len(set(table["width"])), "programs": programs, "losses": table["train/loss"].tolist()}


def in_turn(variants: int, steps: int, repeats: int) -> Found:
    found: Found = {way: [] for way in WAYS}

    def run(way: str) -> float:
        found[way].append(timing.fresh(MEASURE, way, variants, steps))
        return found[way][-1]["cold"]

    timing.in_turn({way: lambda way=way: run(way) for way in WAYS}, repeats)
    return found


def said(found: Found) -> str:
    """The figures in Markdown, how many times as fast one program is, and whether the losses agree."""
    together, apart = (found[way] for way in WAYS)
    rows = []
    for way, rounds in found.items():
        spreads = [timing.spread([own[key] for own in rounds]) for key in ("cold", "warm")]
        rows.append([way, f"{rounds[0]['programs']} for {rounds[0]['widths']} widths", *spreads])
    ratios = [statistics.median(timing.ratios(*([own[key] for own in each] for each in (apart, together)))) for key in ("cold", "warm")]
    equal, how = agreement(*(np.array(each[0]["losses"]) for each in (apart, together)), streams_differ=False)
    return "\n".join(
        [
            timing.markdown(["", "programs", "cold, s", "second sweep, s"], rows),
            f"one program is {ratios[0]:.2f} times as fast from a cold start, and {ratios[1]:.2f} times in the second sweep",
            f"losses {'agree' if equal else 'DO NOT AGREE'}: {how}",
        ]
    )


def main() -> None:
    parser = timing.parser(".mixed_widths", __doc__, repeats=3)
    parser.add_argument("--variants", type=timing.number, default=48, help="(default: %(default)s)")
    parser.add_argument("--steps", type=timing.number, default=300, help="(default: %(default)s)")
    arguments = parser.parse_args()
    print(said(in_turn(arguments.variants, arguments.steps, arguments.repeats)))


if __name__ == "__main__":
    main()
