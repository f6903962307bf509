"""Argument checks: what passes, what doesn't, and what is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import check_mistake, mistakes

from funcnet import check

NUMBERS = [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), jnp.array(0.5), jnp.array(0.5, jnp.bfloat16)]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_of_every_kind_pass(number):
    check.in_range("here", "rate", number, 0, 1)
    assert check.as_number("here", "rate", number) == 0.5


def test_a_traced_number_passes_unchecked():
    jax.jit(lambda rate: check.in_range("here", "rate", rate, 0, 1))(7.0)
    jax.vmap(lambda rate: check.in_range("here", "rate", rate, 0, 1))(jnp.array([7.0, jnp.nan]))


@pytest.mark.parametrize(
    "ends, inside, outside", [("[)", [0, 0.9], [1, -0.1]), ("(]", [0.1, 1], [0, 1.1]), ("[]", [0, 1], [-0.1, 1.1]), ("()", [0.5], [0, 1])]
)
def test_ends_of_a_range(ends, inside, outside):
    for value in inside:
        check.in_range("here", "rate", value, 0, 1, ends=ends)
    for value in [*outside, float("nan"), float("inf"), -float("inf")]:
        with pytest.raises(ValueError, match=rf"^here: rate must be in \{ends[0]}0, 1\{ends[1]}, got {value}$"):
            check.in_range("here", "rate", value, 0, 1, ends=ends)


@pytest.mark.parametrize(
    "bad",
    [
        True,
        np.True_,
        None,
        "0.5",
        1j,
        np.array(1j),
        [0.5],
        (),
        np.ones(1),
        jnp.ones(2),
        np.array("0.5"),
        np.str_("0.5"),
        np.array(True),
        jnp.array(True),
        object(),
    ],
)
def test_what_is_no_number(bad):
    with pytest.raises(TypeError, match="^here: rate must be one number, got "):
        check.in_range("here", "rate", bad, 0, 1)


@pytest.mark.parametrize("number", [3, np.int64(3), np.uint8(3), np.array(3), jnp.array(3)])
def test_whole_numbers_of_every_kind_pass(number):
    assert check.whole("here", "width", number, 1) == 3 and type(check.whole("here", "width", number, 1)) is int
    assert check.is_integer(number)


@pytest.mark.parametrize("bad", [3.0, True, np.True_, "3", None, np.float32(3), np.array([3]), jnp.array(3.0)])
def test_what_is_no_whole_number(bad):
    assert not check.is_integer(bad)
    with pytest.raises(TypeError, match="^here: width must be a whole number, got "):
        check.whole("here", "width", bad, 1)


def test_the_form_of_a_message():
    assert check.message("where", "rule", 3) == "where: rule, got 3"
    assert check.message("where", "rule", 3, "likely fix") == "where: rule, got 3; likely fix"
    assert check.needs_extra("plot", "matplotlib", "experiments") == (
        "plot: needs matplotlib, which is not installed; pip install 'funcnet[experiments]'"
    )


def test_nearest_names_one_or_all():
    assert check.nearest("rleu", ["relu", "tanh"]) == "did you mean 'relu'?"
    assert check.nearest("xyzzy", ["relu", "tanh"]) == "there are 'relu', 'tanh'"
    assert check.nearest("relu", []) == "there are none"


def test_lookup_takes_a_name_or_a_function():
    assert check.lookup("here", "loss", "abs", {"abs": abs}) is abs
    assert check.lookup("here", "loss", max, {"abs": abs}) is max


@pytest.mark.parametrize(
    "value, floating",
    [(1.0, True), (jnp.ones(2, jnp.bfloat16), True), (np.float64(1), True), (1, False), (True, False), (jnp.ones(2, int), False)],
)
def test_is_floating(value, floating):
    assert check.is_floating(value) is floating


class Half:
    def init(self):
        pass


@mistakes(
    {
        "several traced": (
            lambda: jax.jit(lambda rate: check.in_range("here", "rate", rate, 0, 1))(jnp.ones(2)),
            TypeError,
            r"^here: rate must be one number, got shape \(2,\); use jax.vmap for several",
            lambda: jax.vmap(lambda rate: check.in_range("here", "rate", rate, 0, 1))(jnp.ones(2)),
        ),
        "out of range with a fix": (
            lambda: check.in_range("here", "rate", 20, 0, 1, fix="a share, not per cent"),
            ValueError,
            r"^here: rate must be in \[0, 1\), got 20; a share, not per cent$",
            lambda: check.in_range("here", "rate", 0.2, 0, 1),
        ),
        "whole too small": (
            lambda: check.whole("here", "width", 0, 1),
            ValueError,
            "^here: width must be at least 1, got 0$",
            lambda: check.whole("here", "width", 1, 1),
        ),
        "whole too large": (
            lambda: check.whole("here", "k", 5, 1, 3, fix="there are 3"),
            ValueError,
            r"^here: k must be in \[1, 3\], got 5; there are 3$",
            lambda: check.whole("here", "k", 3, 1, 3),
        ),
        "whole traced": (
            lambda: jax.jit(lambda width: check.whole("here", "width", width, 1))(3),
            TypeError,
            "^here: width must be a whole number, got ",
            lambda: jax.jit(lambda width: check.whole("here", "width", width, 1), static_argnums=0)(3),
        ),
        "name unknown": (
            lambda: check.one_of("here", "loss", "hubert", ["huber", "hinge"]),
            ValueError,
            r"^here: unknown loss 'hubert'; did you mean 'huber'\?$",
            lambda: check.one_of("here", "loss", "huber", ["huber", "hinge"]),
        ),
        "no name": (
            lambda: check.lookup("here", "loss", 3, {"huber": abs}),
            TypeError,
            "^here: loss must be a name, got 3; there are 'huber'$",
            lambda: check.lookup("here", "loss", "huber", {"huber": abs}),
        ),
        "a batch": (
            lambda: check.shape_is("here", "x", (32, 3), (3,)),
            ValueError,
            r"^here: x must have shape \(3,\), got \(32, 3\); for a batch, use jax.vmap$",
            lambda: jax.vmap(lambda x: check.shape_is("here", "x", x.shape, (3,)))(jnp.ones((32, 3))),
        ),
        "another shape": (
            lambda: check.shape_is("here", "x", (4,), (3,)),
            ValueError,
            r"^here: x must have shape \(3,\), got \(4,\)$",
            lambda: check.shape_is("here", "x", [3], (3,)),
        ),
        "half an optimizer": (
            lambda: check.callables("here", Half(), ("init", "update"), "make one"),
            TypeError,
            "^here: needs an object with init and update, got <.*; make one$",
            lambda: check.callables("here", Half(), ("init",), "make one"),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)
