"""Numbers in steps: how many, how they are rounded, and which is nearest."""

import math
from fractions import Fraction

import numpy as np
import pytest

from funcnet.lattice import Lattice, lattice


def numbers(*given):
    own = lattice("uniform", *given)
    return [own.at(k) for k in range(own.size)]


@pytest.mark.parametrize(("low", "high", "step"), [(0, 10, 3), (-7, 8, 5), (1, 2, 1), (1, 2, 100), (0, 12, 4), (0, 13, 4), (-3, -1, 1)])
def test_whole_numbers_are_pythons_range(low, high, step):
    found = numbers(low, high, step)
    assert found == list(range(low, high, step)) and {type(value) for value in found} == {int}


@pytest.mark.parametrize("step", ["0.1", "0.05", "0.025", "0.3", "0.7", "1e-3"])
@pytest.mark.parametrize(("low", "high"), [("0", "0.3"), ("1", "1.3"), ("0.1", "0.7"), ("-0.6", "0.6"), ("100", "100.4")])
def test_decimals_are_exact_and_the_end_is_left_out(low, high, step):
    """As computed in fractions: np.arange(1, 1.3, 0.1) ends in 1.3."""
    exact = [Fraction(low) + k * Fraction(step) for k in range(2000) if Fraction(low) + k * Fraction(step) < Fraction(high)]
    assert numbers(float(low), float(high), float(step)) == [float(value) for value in exact]


@pytest.mark.parametrize("parts", [3, 7, 9, 11, 49, 1000])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1 / 3, 1.0), (math.pi, math.e**2), (0.0, 1e-30), (-1e30, 1e30)])
def test_a_step_that_divides_a_range_of_floats_leaves_out_its_end(low, high, parts):
    """However the division was rounded: the last is a whole step below high."""
    found = numbers(low, high, (high - low) / parts)
    assert len(found) == parts and found[-1] < high - 0.9 * (high - low) / parts
    assert np.all(np.diff(found) > 0) and np.float32(found[-1] / high) < 1


def test_the_nearest_in_steps():
    own = lattice("uniform", 0.1, 0.75, 0.2)
    assert [own.at(k) for k in range(own.size)] == [0.1, 0.3, 0.5, 0.7]
    given = [-math.inf, -5.0, 0.1, 0.19, 0.21, 0.4, 0.61, 0.75, 9.0, math.inf]
    assert [own.nearest(value) for value in given] == [0.1, 0.1, 0.1, 0.1, 0.3, 0.5, 0.7, 0.7, 0.7, 0.7]
    whole = Lattice(1, 4, 3)
    assert [whole.nearest(value) for value in (-3, 2.9, 3.1, 5, 7.1, 99)] == [1, 1, 5, 5, 9, 9]
    assert type(whole.nearest(4.0)) is int and own == Lattice(0.1, 0.2, 4)


def test_too_many():
    with pytest.raises(ValueError, match="uniform: step must leave at most 2147483648 values between 0 and 1, got 1e-12"):
        lattice("uniform", 0.0, 1.0, 1e-12)
    assert lattice("uniform", 0.0, 1.0, 1e-9).size == 10**9
