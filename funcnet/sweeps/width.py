"""How many lanes a chunk has: enough to share the cost of starting an operation, few enough for the cache and the memory."""

import math
from collections.abc import Sequence

_CORE_BYTES = 200e6
_WIDTHS: list[int] = sorted({2**i for i in range(14)} | {3 * 2**i for i in range(13)})
_FIXED_COST = 0.2  # of a chunk's step, as a fraction of a step of as many lanes as suit a core


def lane_width(lots: Sequence[int], workers: int, most: int) -> int:
    """How many lanes a group's chunks have: enough chunks for all workers, few lanes left over, few widths to compile.

    Args:
      lots: how many rows there are of each kind that can train together.
      workers: how many chunks train at a time.
      most: how many lanes suit a worker.
    """
    enough = min([width for width in _WIDTHS if width * workers >= sum(lots)], default=most)
    widths = [width for width in _WIDTHS if width <= min(enough, most)]

    def time(width: int) -> float:
        chunks = sum(math.ceil(lot / width) for lot in lots)
        return math.ceil(chunks / workers) * (width + _FIXED_COST * most)

    return min(reversed(widths), key=time)


def core_lanes(step_bytes: int) -> int:
    """How many lanes suit one core of a CPU.

    More lanes share the cost of starting each operation, which is a lane's part of a / lanes, and soon need more than the
    core's own cache, which costs b * lanes * step_bytes: least where lanes is as sqrt(1 / step_bytes). The constant was
    measured on nets of 30 to 50,000 weights, dense, recurrent and convolutional (experiments/bench/README.md).
    """
    wanted = math.sqrt(_CORE_BYTES / max(step_bytes, 1))
    return min((width for width in _WIDTHS if 2 <= width <= 64), key=lambda width: abs(math.log(width / wanted)))


def fitting(width: int, bytes_needed: int, budget: float) -> int:
    """As many of these lanes as fit in a budget; at least one.

    Args:
      width: of a chunk that needs bytes_needed.
      budget: bytes that one chunk may take.
    """
    return max(1, min(width, int(width * budget / max(1, bytes_needed))))
