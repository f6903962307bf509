"""Chooses how many lanes a chunk has: enough to share the cost of starting operations, few enough for cache and memory."""

import math
from collections.abc import Sequence

_CORE_BYTES = 200e6
_WIDTHS: list[int] = sorted({2**i for i in range(14)} | {3 * 2**i for i in range(13)})
_FIXED_COST = 0.2  # fixed cost of a chunk's step, as a fraction of a full-width step


def lane_width(lots: Sequence[int], workers: int, most: int) -> int:
    """How many lanes a group's chunks have, so that there are chunks for all workers, few unused lanes and few widths to compile.

    Args:
      lots: the number of rows of each lot.
      workers: how many chunks train at a time.
      most: the largest number of lanes that suits a worker.
    """
    enough = min([width for width in _WIDTHS if width * workers >= sum(lots)], default=most)
    widths = [width for width in _WIDTHS if width <= min(enough, most)]

    def time(width: int) -> float:
        chunks = sum(math.ceil(lot / width) for lot in lots)
        return math.ceil(chunks / workers) * (width + _FIXED_COST * most)

    return min(reversed(widths), key=time)


def core_lanes(step_bytes: int) -> int:
    """How many lanes suit one core of a CPU.

    The time per lane has two terms: a / lanes, its share of the fixed cost of starting operations, and b * lanes * step_bytes,
    for exceeding the core's cache. The sum is smallest for lanes proportional to sqrt(1 / step_bytes). The constant was
    measured on nets of 30 to 50,000 weights, dense, recurrent and convolutional (experiments/bench/README.md).

    Args:
      step_bytes: bytes that one step of one lane writes.
    """
    wanted = math.sqrt(_CORE_BYTES / max(step_bytes, 1))
    return min((width for width in _WIDTHS if 2 <= width <= 64), key=lambda width: abs(math.log(width / wanted)))


def fitting(width: int, bytes_needed: int, budget: float) -> int:
    """The largest number of lanes, at most width, that fits in a budget; at least one.

    Args:
      width: lanes of a chunk that needs bytes_needed.
      budget: bytes that one chunk may take.
    """
    return max(1, min(width, int(width * budget / max(1, bytes_needed))))
