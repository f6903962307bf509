"""A sweep's programs lower for accelerators that this machine doesn't have; `test_tpu.py` compiles them for one."""

import re

import jax
import pytest
from platforms import BATCH, FORMS, LANES, RECIPES, lowered, programs, unwanted

from funcnet.sweeps.program import STRETCH


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", RECIPES)
def test_every_program_lowers_for_cpu_cuda_and_tpu(name, form):
    functions, arguments = programs(name, FORMS[form])
    for which, function in functions._asdict().items():
        text = lowered(function, *getattr(arguments, which))
        assert unwanted(text) == set()
        assert ("stablehlo.while" in text) or which != "advance"


@pytest.mark.parametrize("form", FORMS)
def test_draws_have_an_axis_of_lanes_only_where_lanes_draw_differently(form):
    functions, arguments = programs("dense", FORMS[form])
    keys, batch_size, limits_examples = FORMS[form]
    drawn = jax.eval_shape(functions.draw, *arguments.draw)
    assert drawn.key.shape == ((STRETCH,) if keys == "shared" else (STRETCH, LANES))
    if batch_size is None:
        assert drawn.rows is None
    else:
        assert drawn.rows.shape == (STRETCH, *((LANES,) if keys != "shared" or limits_examples else ()), BATCH)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", (0, 0)), ("cuda", (5, 4)), ("rocm", (5, 4)), ("tpu", (5, 4))])
def test_a_convolution_is_a_product_on_a_cpu_and_a_convolution_elsewhere(platform, convolutions):
    """A step's two, on the way forward and for the kernels' gradients; none for the gradient of data. Evaluation's, of two sets."""
    functions, arguments = programs("conv")
    for which, number in zip(("advance", "evaluate"), convolutions, strict=True):
        text = jax.jit(getattr(functions, which)).trace(*getattr(arguments, which)).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == number


def test_nothing_of_the_choice_is_left_once_compiled():
    """No branch, no form but the one, and for each convolution windows gathered once for both ways."""
    functions, arguments = programs("conv")
    text = jax.jit(functions.advance).lower(*arguments.advance).compile().as_text()
    assert not re.search(r" (conditional|convolution)\(", text)
    assert len(re.findall(r"f32\[[^ ]* concatenate\(", text)) == 2


def test_a_traced_name_is_a_branch_and_no_select_among_all():
    """Forwards and backwards one branch is taken; a batched switch would have become selects."""
    functions, arguments = programs("named")
    text = jax.jit(functions.advance).lower(*arguments.advance).as_text()
    assert text.count("stablehlo.case") == 3  # the activation, its slope, and the optimizer
