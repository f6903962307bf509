"""Numbers in steps: low, low + step, low + 2 step, ... below high."""

import math
from decimal import Decimal
from typing import NamedTuple

from funcnet import check

_MOST = 2**31


class Lattice(NamedTuple):
    """The numbers low + k * step for k = 0, ..., size - 1; whole numbers if low and step are."""

    low: float
    step: float
    size: int

    def at(self, k: int) -> float:
        """The number at place k, computed in decimals: the third of 0.1, 0.2, ... is 0.3 and not 0.30000000000000004."""
        if isinstance(self.low, int) and isinstance(self.step, int):
            return self.low + k * self.step
        return float(Decimal(repr(self.low)) + k * Decimal(repr(self.step)))

    def nearest(self, value: float) -> float:
        """The number of the lattice nearest to value; the larger one if two are equally near."""
        place = min(max((value - self.low) / self.step, 0.0), self.size - 1.0)
        return self.at(math.floor(place + 0.5))


def lattice(where: str, low: float, high: float, step: float) -> Lattice:
    """The numbers low, low + step, ... below high; low is always among them.

    A number within a billionth of a step of high counts as high and is left out, such as 3 * 0.1 in uniform(0, 0.3, step=0.1).

    Args:
      where: name of the caller, for messages.
      low: finite, below high.
      high: finite.
      step: positive and finite; whole where low is.

    Raises:
      ValueError: there are more than 2**31 of them.

    Example:
      >>> numbers = lattice("uniform", 0.0, 0.3, 0.1)
      >>> [numbers.at(k) for k in range(numbers.size)], numbers.nearest(0.17)
      ([0.0, 0.1, 0.2], 0.2)
    """
    if isinstance(low, int) and isinstance(step, int):
        size = -((low - int(high)) // step)
    else:
        size = max(1, math.ceil((Decimal(repr(high)) - Decimal(repr(low))) / Decimal(repr(step)) - Decimal("1e-9")))
    if size > _MOST:
        raise ValueError(check.message(where, f"step must leave at most {_MOST} values between {low:g} and {high:g}", f"{step:g}"))
    return Lattice(low, step, size)
