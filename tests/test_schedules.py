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
from funcnet.schedules import constant, cosine_decay, exponential_decay, linear, one_cycle, step_decay, warmup_cosine_decay

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
        (constant(0.3), {0: 0.3, 99: 0.3}),
        (linear(1.0, 0.0, 10), {0: 1.0, 3: 0.7, 10: 0.0, 11: 0.0}),
        (exponential_decay(1.0, 0.5), {0: 1.0, 1: 0.5, 3: 0.125}),
        (step_decay(1.0, 0.1, 5), {0: 1.0, 4: 1.0, 5: 0.1, 9: 0.1, 10: 0.01}),
        (cosine_decay(2.0, 10, 1.0), {0: 2.0, 5: 1.5, 10: 1.0, 11: 1.0}),
        (warmup_cosine_decay(1.0, 4, 10, 0.2, 0.1), {0: 0.2, 2: 0.6, 4: 1.0, 7: 0.55, 10: 0.1, 50: 0.1}),
        (warmup_cosine_decay(1.0, 0, 10), {0: 1.0, 5: 0.5, 10: 0.0}),
        (one_cycle(1.0, 10, 0.4, 10.0, 2.0), {0: 0.1, 2: 0.55, 4: 1.0, 7: 0.525, 10: 0.05, 20: 0.05}),
        (one_cycle(1.0, 10, 0.0), {0: 1.0}),
    ],
)
def test_landmarks(schedule, expected):
    assert_close({step: schedule(step) for step in expected}, expected)


LENGTHS = np.arange(1, 301)


def at_multiples(schedule_of, length):
    """A schedule's values one step before, at and one step after each of the first multiples of its length."""
    steps = length * jnp.arange(1, 8, dtype=jnp.int32)[:, None] + jnp.arange(-1, 2, dtype=jnp.int32)[None]
    return jax.vmap(jax.vmap(schedule_of(length)))(steps)


def test_a_stair_begins_at_each_multiple_of_its_length():
    """Of every length from 1 to 300, as a constant of the program, traced, mapped and without jit."""
    expected = np.stack([[0.5 ** ((k * length + i) // length) for i in (-1, 0, 1)] for length in LENGTHS for k in range(1, 8)])
    expected = expected.reshape(len(LENGTHS), 7, 3)

    def stairs(length):
        return at_multiples(lambda length: step_decay(1.0, 0.5, length), length)

    np.testing.assert_array_equal(jax.jit(lambda: jnp.stack([stairs(int(length)) for length in LENGTHS]))(), expected)
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
        lambda length: linear(1.0, 0.0, length),
        lambda length: cosine_decay(1.0, length, 0.25),
        lambda length: warmup_cosine_decay(1.0, 0, length, final=0.25),
        lambda length: one_cycle(1.0, length, final_factor=1.0, start_factor=4.0),
    ],
    ids=["linear", "cosine", "warmup", "one_cycle"],
)
def test_the_end_is_reached_exactly_at_the_last_step(make, traced):
    """And a warmup's peak at its own: 41 times the inverse of 41 is less than one in float32."""
    if traced:
        ends = jax.jit(jax.vmap(lambda length: jnp.stack([make(length)(length - 1), make(length)(length), make(length)(length + 7)])))
        values = ends(jnp.asarray(LENGTHS))
    else:
        values = jax.jit(lambda: jnp.stack([jnp.stack([make(int(n))(n - 1), make(int(n))(n), make(int(n))(n + 7)]) for n in LENGTHS]))()
    final = make(10)(10)
    np.testing.assert_array_equal(values[:, 1:], np.full((len(LENGTHS), 2), final))
    assert bool(jnp.all(values[:, 0] > final - 1e-6))


def test_the_peak_is_reached_exactly_at_the_end_of_a_warmup():
    peaks = jax.jit(lambda: jnp.stack([warmup_cosine_decay(0.5, int(n), 400)(n) for n in LENGTHS]))()
    np.testing.assert_array_equal(peaks, np.full(len(LENGTHS), 0.5, np.float32))
    before = jax.jit(lambda: jnp.stack([warmup_cosine_decay(0.5, int(n), 400)(n - 1) for n in LENGTHS]))()
    assert_close(before, 0.5 * (LENGTHS - 1) / LENGTHS)
    cycles = jax.jit(lambda: jnp.stack([one_cycle(0.5, int(n) * 10, 0.3)(3 * n) for n in LENGTHS]))()
    np.testing.assert_allclose(cycles, 0.5, rtol=1e-6)


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
        "value negative": (lambda: constant(-0.1), ValueError, r"^constant: value must be in \[0, inf\), got -0.1$", lambda: constant(0.1)),
        "value NaN": (lambda: constant(float("nan")), ValueError, r"^constant: value .* got nan$", lambda: constant(0.1)),
        "value no number": (lambda: constant(None), TypeError, "^constant: value must be one number, got None$", lambda: constant(0.1)),
        "initial negative": (
            lambda: linear(-1, 0, 5),
            ValueError,
            r"^linear: initial must be in \[0, inf\), got -1$",
            lambda: linear(1, 0, 5),
        ),
        "final negative": (lambda: linear(1, -1, 5), ValueError, r"^linear: final must be in \[0, inf\), got -1$", lambda: linear(1, 0, 5)),
        "no steps": (lambda: linear(1, 0, 0), ValueError, r"^linear: num_steps must be in \[1, inf\), got 0$", lambda: linear(1, 0, 1)),
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
        "peak NaN": (lambda: one_cycle(float("nan"), 10), ValueError, r"^one_cycle: peak .* got nan$", lambda: one_cycle(1, 10)),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)
