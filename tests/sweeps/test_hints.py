"""Compiler options are hints: one that a backend doesn't know is left out, and asked for only once."""

import jax
import jax.numpy as jnp
import pytest

from funcnet.sweeps import program


@pytest.fixture
def nothing_refused(monkeypatch):
    monkeypatch.setattr(program, "_unknown", set())


def test_an_option_that_the_backend_does_not_know_is_left_out(nothing_refused):
    lowered = jax.jit(lambda x: 2 * x).lower(jnp.ones(3))
    options = (("xla_no_such_option", True), ("xla_backend_optimization_level", 1), ("xla_nor_this_one", 3))
    compiled = program._compile_with_hints(lowered, "cpu", options)
    assert compiled(jnp.ones(3)).tolist() == [2.0, 2.0, 2.0]
    assert program._unknown == {("cpu", "xla_no_such_option"), ("cpu", "xla_nor_this_one")}


def test_it_is_found_out_once(nothing_refused):
    class Lowered:
        asked: list = []  # noqa: RUF012

        def compile(self, options):
            self.asked.append(dict(options))
            if "gone" in options:
                raise ValueError("INVALID_ARGUMENT: No such compile option: 'gone'")
            return "program"

    lowered = Lowered()
    for _ in range(2):
        assert program._compile_with_hints(lowered, "cpu", (("gone", True), ("kept", 1))) == "program"
    assert lowered.asked == [{"gone": True, "kept": 1}, {"kept": 1}, {"kept": 1}]


def test_what_else_goes_wrong_is_raised(nothing_refused):
    class Lowered:
        def compile(self, options):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        program._compile_with_hints(Lowered(), "cpu", (("kept", 1),))
    assert not program._unknown
