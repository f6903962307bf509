"""Schedules: every property over the registry, traced lengths too, and their values against optax's and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import ours
import pytest
from properties import assert_close, assert_quarantined, check_gradient, check_mistake, lane, mistakes, traced_once
from references import make
from registries import SCHEDULES, VARIANTS, stacked, variant

from funcnet import schedules
from funcnet.schedules import (
    constant_schedule,
    cosine_decay,
    cosine_restarts,
    delayed,
    exponential_decay,
    exponential_growth,
    join_schedules,
    linear_schedule,
    one_cycle,
    piecewise_constant,
    polynomial_decay,
    step_decay,
    warmup_cosine_decay,
)

STEPS = np.arange(40)  # the longest schedule of the registry, and beyond
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@functools.cache
def programs(name):
    """The values at all steps, of one variant and of all together; lengths are traced like any other number."""

    def run(numbers):
        return jax.vmap(SCHEDULES[name][0](**numbers))(jnp.asarray(STEPS))

    return traced_once(run, f"schedule_{name}"), jax.jit(jax.vmap(run))


def test_registry_holds_every_schedule():
    assert set(schedules.SCHEDULES) <= set(SCHEDULES)


@every_schedule
def test_gives_one_float_for_a_step_of_any_kind(name):
    build, numbers = SCHEDULES[name]
    schedule = build(**variant(numbers, 1))
    values = [schedule(step) for step in (3, 3.0, np.int64(3), jnp.array(3), jnp.array(3.0), jnp.array(3, jnp.uint32))]
    assert {(value.shape, value.dtype) for value in values} == {((), jnp.dtype(jnp.float32))}
    assert len({float(value) for value in values}) == 1


@every_schedule
def test_numbers_may_be_bfloat16_or_whole(name):
    """A sweep over bfloat16 rates, or lengths given as integers, must not change the dtype of a learning rate."""
    build, numbers = SCHEDULES[name]
    short = {key: jnp.asarray(value, jnp.bfloat16) for key, value in variant(numbers, 1).items()}
    assert_close(build(**short)(3), build(**variant(numbers, 1))(3), rtol=0.05)
    assert build(**short)(3).dtype == jnp.float32
    whole = {key: int(value) if "steps" in key else value for key, value in variant(numbers, 1).items()}
    assert_close(build(**whole)(3), build(**variant(numbers, 1))(3), rtol=1e-6)


@every_schedule
def test_jit_equals_no_jit(name):
    build, numbers = SCHEDULES[name]
    for i in range(VARIANTS):
        schedule = build(**variant(numbers, i))
        values = programs(name)[0](lane(stacked(numbers), i))
        assert_close(values[::9], jnp.stack([schedule(step) for step in STEPS[::9]]))


@every_schedule
def test_variants_together_equal_each_alone_without_a_new_trace(name):
    alone, together = programs(name)
    numbers = stacked(SCHEDULES[name][1])
    values = together(numbers)
    for i in range(VARIANTS):
        assert_close(values[i], alone(lane(numbers, i)))


@every_schedule
def test_nan_variant_leaves_the_others_alone(name):
    assert_quarantined(programs(name)[1], (stacked(SCHEDULES[name][1]),), 1)


@every_schedule
def test_gradients(name):
    """In every number, lengths included, at steps away from where one phase meets the next."""
    with jax.enable_x64(True):
        numbers = lane(stacked(SCHEDULES[name][1], jnp.float64), 1)
        check_gradient(lambda numbers: [SCHEDULES[name][0](**numbers)(step) for step in (1.3, 2.7, 6.1, 20.5)], (numbers,))


@every_schedule
def test_values_are_finite_and_not_negative(name):
    values = programs(name)[1](stacked(SCHEDULES[name][1]))
    assert bool(jnp.all(jnp.isfinite(values))) and bool(jnp.all(values >= 0))


@pytest.mark.parametrize("name", make.SCHEDULES)
def test_agrees_with_optax(name):
    ours.assert_agree(ours.schedule(name, "float64"), make.load(f"schedules/{name}"), "float64")


def test_references_cover_the_registry():
    assert set(schedules.SCHEDULES) <= set(make.SCHEDULES)


@pytest.mark.parametrize(
    "schedule, expected",
    [
        (constant_schedule(0.3), {0: 0.3, 99: 0.3}),
        (linear_schedule(1.0, 0.0, 10), {0: 1.0, 3: 0.7, 10: 0.0, 11: 0.0}),
        (exponential_decay(1.0, 0.5), {0: 1.0, 1: 0.5, 3: 0.125}),
        (step_decay(1.0, 0.1, 5), {0: 1.0, 4: 1.0, 5: 0.1, 9: 0.1, 10: 0.01}),
        (cosine_decay(2.0, 10, 1.0), {0: 2.0, 5: 1.5, 10: 1.0, 11: 1.0}),
        (warmup_cosine_decay(1.0, 4, 10, 0.2, 0.1), {0: 0.2, 2: 0.6, 4: 1.0, 7: 0.55, 10: 0.1, 50: 0.1}),
        (warmup_cosine_decay(1.0, 0, 10), {0: 1.0, 5: 0.5, 10: 0.0}),
        (one_cycle(1.0, 10, 0.4, 10.0, 2.0), {0: 0.1, 2: 0.55, 4: 1.0, 7: 0.525, 10: 0.05, 20: 0.05}),
        (one_cycle(1.0, 10, 0.0), {0: 1.0}),
        (polynomial_decay(1.0, 4, 2.0, 0.2), {0: 1.0, 2: 0.4, 4: 0.2, 9: 0.2}),
        (exponential_growth(0.001, 10.0, 4), {0: 0.001, 1: 0.01, 3: 1.0, 4: 10.0, 9: 10.0}),
        (cosine_restarts(1.0, 4, 3.0, 0.2), {0: 1.0, 2: 0.6, 4: 1.0, 10: 0.6, 16: 1.0, 34: 0.6, 52: 1.0}),
        (piecewise_constant([1.0, 0.5, 0.1], [3, 5]), {0: 1.0, 2: 1.0, 3: 0.5, 4: 0.5, 5: 0.1, 99: 0.1}),
        (join_schedules([linear_schedule(0.0, 1.0, 4), linear_schedule(1.0, 0.0, 2)], [4]), {0: 0.0, 3: 0.75, 4: 1.0, 5: 0.5, 6: 0.0}),
        (delayed(step_decay(1.0, 0.1, 2), 3), {0: 1.0, 4: 1.0, 5: 0.1, 7: 0.01}),
    ],
)
def test_landmarks(schedule, expected):
    assert_close({step: schedule(step) for step in expected}, expected)


LENGTHS = np.arange(1, 301)
_SHORT = LENGTHS.astype(np.float32)
# Lengths as a program's constants, by whose inverse a compiler may multiply: all that this puts wrong, and some others.
CONSTANTS = LENGTHS[(_SHORT * (np.float32(1) / _SHORT) != 1) | np.isin(LENGTHS, (1, 2, 3, 10, 100, 300))]


def at_multiples(schedule_of, length):
    """A schedule's values one step before, at and one step after each of the first multiples of its length."""
    steps = length * jnp.arange(1, 8, dtype=jnp.int32)[:, None] + jnp.arange(-1, 2, dtype=jnp.int32)[None]
    return jax.vmap(jax.vmap(schedule_of(length)))(steps)


def test_a_stair_begins_at_each_multiple_of_its_length():
    """Of every length from 1 to 300, traced and mapped; of some as a constant of the program, and without jit."""
    expected = np.stack([[0.5 ** ((k * length + i) // length) for i in (-1, 0, 1)] for length in LENGTHS for k in range(1, 8)])
    expected = expected.reshape(len(LENGTHS), 7, 3)

    def stairs(length):
        return at_multiples(lambda length: step_decay(1.0, 0.5, length), length)

    constants = jax.jit(lambda: jnp.stack([stairs(int(length)) for length in CONSTANTS]))()
    np.testing.assert_array_equal(constants, expected[CONSTANTS - 1])
    np.testing.assert_array_equal(jax.jit(jax.vmap(stairs))(jnp.asarray(LENGTHS)), expected)
    alone = jax.jit(stairs)
    np.testing.assert_array_equal(jnp.stack([alone(length) for length in jnp.asarray(LENGTHS)]), expected)
    for length in (41, 47, 55, 61, 82, 300):
        eager = [[step_decay(1.0, 0.5, length)(k * length + i) for i in (-1, 0, 1)] for k in (1, 3)]
        np.testing.assert_array_equal(eager, expected[length - 1, [0, 2]])


@pytest.mark.parametrize("length, multiples", [(1.1, (10, 50)), (2.5, (2, 4)), (3_000_001, (1,)), (999, (1001, 4003))])
def test_stairs_of_other_lengths(length, multiples):
    """A length with decimals, and steps in the millions."""
    for times in multiples:
        step = round(times * length)
        for of in (step_decay(1.0, 0.999, length), jax.jit(step_decay(1.0, 0.999, length))):
            assert_close([of(step - 1), of(step), of(step + 1)], [0.999**i for i in (times - 1, times, (step + 1) // length)], rtol=4e-4)
        traced = jax.jit(lambda length, step: step_decay(1.0, 0.999, length)(step))
        assert_close([traced(length, step - 1), traced(length, step)], [0.999 ** (times - 1), 0.999**times], rtol=4e-4)


@pytest.mark.parametrize("traced", [False, True], ids=["constant", "traced"])
@pytest.mark.parametrize(
    "make",
    [
        lambda length: linear_schedule(1.0, 0.0, length),
        lambda length: cosine_decay(1.0, length, 0.25),
        lambda length: warmup_cosine_decay(1.0, 0, length, final=0.25),
        lambda length: one_cycle(1.0, length, final_factor=1.0, start_factor=4.0),
        lambda length: polynomial_decay(1.0, length, 2.0, 0.25),
        lambda length: exponential_growth(1.0, 2.0, length),
        lambda length: exponential_growth(1.0, 0.25, length),
    ],
    ids=["linear", "cosine", "warmup", "one_cycle", "polynomial", "growth", "falling growth"],
)
def test_the_end_is_reached_exactly_at_the_last_step(make, traced):
    """And a warmup's peak at its own: 41 times the inverse of 41 is less than one in float32."""
    ends = lambda length: jax.vmap(make(length))(length + jnp.array([-1, 0, 7]))
    if traced:
        values = jax.jit(jax.vmap(ends))(jnp.asarray(LENGTHS))
    else:
        values = jax.jit(lambda: jnp.stack([ends(int(length)) for length in CONSTANTS]))()
    final = make(10)(10)
    np.testing.assert_array_equal(values[:, 1:], np.full((len(values), 2), final))
    assert bool(jnp.all((values[:, 0] - final) * (make(10)(0) - final) > -1e-6))


def test_the_peak_is_reached_exactly_at_the_end_of_a_warmup():
    def around(n):
        before, peak = (warmup_cosine_decay(0.5, n, 400)(step) for step in (n - 1, n))
        return jnp.stack([before, peak, one_cycle(0.5, n * 10, 0.3)(3 * n)])

    before, peaks, cycles = np.asarray(jax.jit(lambda: jnp.stack([around(int(n)) for n in CONSTANTS]))()).T
    np.testing.assert_array_equal(peaks, np.full(len(CONSTANTS), 0.5, np.float32))
    assert_close(before, 0.5 * (CONSTANTS - 1) / CONSTANTS)
    np.testing.assert_allclose(cycles, 0.5, rtol=1e-6)


def test_cosines_restart_at_each_multiple_of_their_length():
    """Of every length from 1 to 300, traced, and of some as constants: at their start they are whole, a step before they are lowest."""

    def around(length):
        return at_multiples(lambda length: cosine_restarts(1.0, length), length)

    some = LENGTHS[40::20]
    constants = jax.jit(lambda: jnp.stack([around(int(length)) for length in some]))()
    for lengths, values in ((some, constants), (LENGTHS, jax.jit(jax.vmap(around))(jnp.asarray(LENGTHS)))):
        np.testing.assert_array_equal(values[:, :, 1], 1)
        assert_close(values[:, :, 0], np.tile((1 + np.cos(np.pi * (lengths - 1) / lengths))[:, None] / 2, 7), atol=1e-5)


@pytest.mark.parametrize("factor", [1.5, 2, 3, 7])
def test_longer_cosines_restart_where_the_sum_of_lengths_says(factor):
    for length in (1, 4, 10, 41, 47, 100):
        starts = np.cumsum([0] + [length * factor**k for k in range(6)])
        starts = starts[starts == np.round(starts)]
        traced = jax.jit(lambda length, factor, step: cosine_restarts(1.0, length, factor)(step))
        for step in starts:
            np.testing.assert_allclose([cosine_restarts(1.0, length, factor)(int(step)), traced(length, factor, int(step))], 1, rtol=1e-6)
        before = np.array([traced(length, factor, int(step) - 1) for step in starts[1:]])
        assert np.all(before < 1) or length == 1


def torch_values(scheduler_of, steps=40):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5)
    scheduler, values = scheduler_of(torch.optim.lr_scheduler, optimizer), []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(
    "schedule, theirs",
    [
        (polynomial_decay(0.5, 25, 1.5), lambda s, o: s.PolynomialLR(o, 25, 1.5)),
        (cosine_restarts(0.5, 5, 2, 0.01), lambda s, o: s.CosineAnnealingWarmRestarts(o, 5, 2, eta_min=0.01)),
        (piecewise_constant([0.5, 0.05, 0.005], [8, 20]), lambda s, o: s.MultiStepLR(o, [8, 20], 0.1)),
        (
            join_schedules([constant_schedule(0.05), exponential_decay(0.5, 0.9)], [6]),
            lambda s, o: s.SequentialLR(o, [s.ConstantLR(o, 0.1, 100), s.ExponentialLR(o, 0.9)], [6]),
        ),
    ],
    ids=["polynomial", "restarts", "piecewise", "joined"],
)
def test_agrees_with_torch(schedule, theirs):
    assert_close(jax.vmap(schedule)(jnp.arange(40)), np.array(torch_values(theirs)), rtol=1e-5)


@every_schedule
def test_healthy_numbers_raise_nothing_under_debug_nans(name):
    build, numbers = SCHEDULES[name]
    with jax.debug_nans(True):
        for i in range(VARIANTS):
            for step in (0, 1, 3, 5, 12, 30, 31):
                jax.block_until_ready(build(**variant(numbers, i))(step))
                jax.block_until_ready(jax.grad(lambda numbers, step=step: build(**numbers)(step))(variant(numbers, i)))


@mistakes(
    {
        "value negative": (
            lambda: constant_schedule(-0.1),
            ValueError,
            r"^constant_schedule: value must be in \[0, inf\), got -0.1$",
            lambda: constant_schedule(0.1),
        ),
        "value NaN": (
            lambda: constant_schedule(float("nan")),
            ValueError,
            r"^constant_schedule: value .* got nan$",
            lambda: constant_schedule(0.1),
        ),
        "value no number": (
            lambda: constant_schedule(None),
            TypeError,
            "^constant_schedule: value must be one number, got None$",
            lambda: constant_schedule(0.1),
        ),
        "initial negative": (
            lambda: linear_schedule(-1, 0, 5),
            ValueError,
            r"^linear_schedule: initial must be in \[0, inf\), got -1$",
            lambda: linear_schedule(1, 0, 5),
        ),
        "final negative": (
            lambda: linear_schedule(1, -1, 5),
            ValueError,
            r"^linear_schedule: final must be in \[0, inf\), got -1$",
            lambda: linear_schedule(1, 0, 5),
        ),
        "no steps": (
            lambda: linear_schedule(1, 0, 0),
            ValueError,
            r"^linear_schedule: num_steps must be in \[1, inf\), got 0$",
            lambda: linear_schedule(1, 0, 1),
        ),
        "negative steps": (
            lambda: cosine_decay(1, -3),
            ValueError,
            r"^cosine_decay: num_steps must be in \[1, inf\), got -3$",
            lambda: cosine_decay(1, 3),
        ),
        "rate that grows": (
            lambda: exponential_decay(1, 1.1),
            ValueError,
            r"^exponential_decay: decay_rate must be in \(0, 1\], got 1.1$",
            lambda: exponential_decay(1, 1),
        ),
        "rate of zero": (
            lambda: step_decay(1, 0, 5),
            ValueError,
            r"^step_decay: decay_rate must be in \(0, 1\], got 0$",
            lambda: step_decay(1, 0.1, 5),
        ),
        "warmup too long": (
            lambda: warmup_cosine_decay(1, 10, 10),
            ValueError,
            "^warmup_cosine_decay: warmup_steps must be below num_steps = 10, got 10$",
            lambda: warmup_cosine_decay(1, 9, 10),
        ),
        "warmup negative": (
            lambda: warmup_cosine_decay(1, -1, 10),
            ValueError,
            r"^warmup_cosine_decay: warmup_steps must be in \[0, inf\), got -1$",
            lambda: warmup_cosine_decay(1, 0, 10),
        ),
        "warmup all": (
            lambda: one_cycle(1, 10, 1.0),
            ValueError,
            r"^one_cycle: warmup_share must be in \[0, 1\), got 1.0$",
            lambda: one_cycle(1, 10, 0.9),
        ),
        "factor below one": (
            lambda: one_cycle(1, 10, start_factor=0.5),
            ValueError,
            r"^one_cycle: start_factor must be in \[1, inf\), got 0.5$",
            lambda: one_cycle(1, 10, start_factor=1),
        ),
        "power of zero": (
            lambda: polynomial_decay(1, 10, 0.0),
            ValueError,
            r"^polynomial_decay: power must be in \(0, inf\), got 0.0$",
            lambda: polynomial_decay(1, 10, 0.1),
        ),
        "growth from nothing": (
            lambda: exponential_growth(0.0, 1.0, 10),
            ValueError,
            r"^exponential_growth: initial must be in \(0, inf\), got 0.0$",
            lambda: exponential_growth(1e-6, 1.0, 10),
        ),
        "growth to nothing": (
            lambda: exponential_growth(1.0, 0, 10),
            ValueError,
            r"^exponential_growth: final must be in \(0, inf\), got 0$",
            lambda: exponential_growth(1.0, 1e-6, 10),
        ),
        "shorter and shorter": (
            lambda: cosine_restarts(1.0, 10, 0.5),
            ValueError,
            r"^cosine_restarts: factor must be in \[1, inf\), got 0.5$",
            lambda: cosine_restarts(1.0, 10, 1),
        ),
        "a boundary too many": (
            lambda: piecewise_constant([0.1, 0.2], [5, 9]),
            ValueError,
            "^piecewise_constant: boundaries must be one fewer than values, got 2 beside 2 values$",
            lambda: piecewise_constant([0.1, 0.2], [5]),
        ),
        "no schedules": (
            lambda: join_schedules([], []),
            ValueError,
            "^join_schedules: boundaries must be one fewer than schedules, got 0 beside 0 schedules$",
            lambda: join_schedules([constant_schedule(0.1)], []),
        ),
        "boundaries that fall": (
            lambda: piecewise_constant([0.1, 0.2, 0.3], [9, 5]),
            ValueError,
            r"^piecewise_constant: boundaries must rise, got \[9.0, 5.0\]$",
            lambda: piecewise_constant([0.1, 0.2, 0.3], [5, 9]),
        ),
        "value below zero": (
            lambda: piecewise_constant([0.1, -0.2], [5]),
            ValueError,
            r"^piecewise_constant: every value must be in \[0, inf\), got -0.2$",
            lambda: piecewise_constant([0.1, 0.2], [5]),
        ),
        "boundary below zero": (
            lambda: join_schedules([constant_schedule(0.1), constant_schedule(0.2)], [-1]),
            ValueError,
            r"^join_schedules: every boundary must be in \[0, inf\), got -1$",
            lambda: join_schedules([constant_schedule(0.1), constant_schedule(0.2)], [0]),
        ),
        "a number for a schedule": (
            lambda: delayed(0.1, 5),
            TypeError,
            "^delayed: a schedule must be a function, got 0.1; constant_schedule makes one of a number$",
            lambda: delayed(constant_schedule(0.1), 5),
        ),
        "a number among schedules": (
            lambda: join_schedules([constant_schedule(0.1), 0.2], [5]),
            TypeError,
            "^join_schedules: a schedule must be a function, got 0.2; constant_schedule makes one of a number$",
            lambda: join_schedules([constant_schedule(0.1), constant_schedule(0.2)], [5]),
        ),
        "peak NaN": (lambda: one_cycle(float("nan"), 10), ValueError, r"^one_cycle: peak .* got nan$", lambda: one_cycle(1, 10)),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)
