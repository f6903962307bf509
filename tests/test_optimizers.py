"""Optimizers: every property over the registry, and 100 steps against optax's and torch's."""

import functools
import inspect
import types
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import ours
import pytest
from properties import assert_close, assert_quarantined, check_gradient, check_mistake, lane, mistakes, stack, traced_once
from references import make
from registries import OPTIMIZERS, TRACED, VARIANTS, optimizer_params, stacked, variant

from funcnet import optimizers
from funcnet.data import Dataset
from funcnet.layers import dense, dropout, serial
from funcnet.losses import squared_error
from funcnet.optimizers import (
    Optimizer,
    adabelief,
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    adamw,
    adaptive_clip,
    amsgrad,
    apply_updates,
    chain,
    clip_by_global_norm,
    clip_by_value,
    lamb,
    lars,
    lion,
    momentum,
    nadam,
    optimizer,
    radam,
    rmsprop,
    sgd,
)
from funcnet.optimizers.moments import effective_count
from funcnet.option import Option
from funcnet.penalties import l2
from funcnet.schedules import constant_schedule, linear_schedule, step_decay
from funcnet.train import penalized, training
from funcnet.tree import all_finite

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
STEPS = 4


def step_of(optimizer):
    """One step down a bowl that tilts from step to step."""

    def one(carry, tilt):
        params, state = carry
        grads = jax.tree.map(lambda p: p + tilt.astype(p.dtype), params)
        updates, state = optimizer.update(grads, state, params)
        return (apply_updates(params, updates), state), None

    return one


def steps(optimizer, params, count=STEPS):
    return jax.lax.scan(step_of(optimizer), (params, optimizer.init(params)), jnp.sin(1.0 + jnp.arange(float(count))))[0]


@functools.cache
def programs(name):
    """A few steps of one variant, and of all together; compiled once."""

    def run(numbers, params):
        return steps(OPTIMIZERS[name][0](**numbers), params)

    return traced_once(run, f"optimizer_{name}"), jax.jit(jax.vmap(run))


def inputs(name):
    return stacked(OPTIMIZERS[name][1]), stack([optimizer_params(seed) for seed in range(VARIANTS)])


NO_NUMBERS = {"where", "decay_where", "nesterov", "centered", "mu_dtype", "min_dim_size_to_factor", "multiply_by_parameter_scale"}


def test_registry_holds_every_optimizer_and_every_number():
    assert set(optimizers.OPTIMIZERS) <= set(OPTIMIZERS)
    for name, factory in optimizers.OPTIMIZERS.items():
        own = {key for key in inspect.signature(factory).parameters if key not in NO_NUMBERS}
        assert own == set(OPTIMIZERS[name][1]), name


@every_optimizer
def test_dtypes_and_structure_are_kept(name):
    """Of params, updates and state; and in bfloat16 the steps are the same, as well as eight bits can say."""
    build, numbers = OPTIMIZERS[name]
    opt = build(**variant(numbers, 2))  # decays so near to one that bfloat16 would round them to it, and little in eps to hide that
    for dtype in (jnp.float32, jnp.bfloat16):
        params = optimizer_params(dtype=dtype)
        state = opt.init(params)
        updates, after = jax.eval_shape(opt.update, params, state, params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(updates)] == [(p.shape, p.dtype) for p in jax.tree.leaves(params)]
        assert jax.tree.structure(after) == jax.tree.structure(state)
        assert [(a.shape, a.dtype) for a in jax.tree.leaves(after)] == [(s.shape, s.dtype) for s in jax.tree.leaves(state)]
    start = optimizer_params()
    full, _ = programs(name)[0](lane(inputs(name)[0], 2), start)
    short, _ = jax.jit(lambda params: steps(opt, params))(optimizer_params(dtype=jnp.bfloat16))
    for key, moved in jax.tree.map(lambda a, b: a - b, full, start).items():
        reach = float(jnp.max(jnp.abs(moved)))
        rounding = 2**-8 * float(jnp.max(jnp.abs(start[key]))) * STEPS
        np.testing.assert_allclose(np.asarray(short[key], np.float32), full[key], atol=0.1 * reach + rounding)


@every_optimizer
def test_jit_equals_no_jit(name):
    build, numbers = OPTIMIZERS[name]
    opt = build(**variant(numbers, 1))
    carry = (optimizer_params(1), opt.init(optimizer_params(1)))
    for step in range(STEPS):
        carry, _ = step_of(opt)(carry, jnp.sin(1.0 + step))
    assert_close(programs(name)[0](*lane(inputs(name), 1)), carry)


@every_optimizer
def test_variants_together_equal_each_alone_without_a_new_trace(name):
    alone, together = programs(name)
    outputs = together(*inputs(name))
    for i in range(VARIANTS):
        assert_close(lane(outputs, i), alone(*lane(inputs(name), i)))


@every_optimizer
def test_nan_variant_leaves_the_others_alone(name):
    assert_quarantined(programs(name)[1], inputs(name), 1)


@every_optimizer
def test_gradients_through_training(name):
    """A whole training can be differentiated: in every hyperparameter and in the initial parameters."""
    build, numbers = OPTIMIZERS[name]
    with jax.enable_x64(True):
        arguments = (lane(stacked(numbers, jnp.float64), 1), optimizer_params(1, jnp.float64))
        check_gradient(lambda numbers, params: steps(build(**numbers), params, 3)[0], arguments)


@every_optimizer
def test_gradients_are_finite_where_the_slope_is_zero(name):
    """Parameters that have no gradient yet, such as those behind a dead relu, must not turn the hypergradient NaN."""
    build, numbers = OPTIMIZERS[name]

    def run(numbers):
        opt, params = build(**numbers), optimizer_params()
        updates, _ = opt.update(jax.tree.map(jnp.zeros_like, params), opt.init(params), params)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(apply_updates(params, updates)))

    grads = jax.jit(jax.grad(run))(lane(stacked(numbers), 2))  # nothing in eps_root or initial_sum keeps the root from zero
    assert all(bool(jnp.isfinite(grad)) for grad in jax.tree.leaves(grads))


def path(optimizer, params, gradients):
    """The updates of one step after the other, and the last state."""
    state, updates = optimizer.init(params), []
    for grads in gradients:
        moved, state = optimizer.update(grads, state, params)
        updates.append(moved)
    return updates, state


def each_rate(build, numbers, run):
    """run(optimizer) for a few learning rates, alone and under vmap."""
    rates = jnp.array([0.5, 0.03])
    settings = {key: value for key, value in numbers.items() if key != "learning_rate"}
    alone = [run(build(learning_rate=rate, **settings)) for rate in (0.5, 0.03)]
    together = jax.vmap(lambda rate: run(build(learning_rate=rate, **settings)))(rates)
    return [*alone, *(lane(together, i) for i in range(2))]


def jitted(optimizer):
    """One that compiles its branches once, and not with each call."""
    return optimizer._replace(init=jax.jit(optimizer.init), update=jax.jit(optimizer.update))


DEFAULTS = {name: factory for name, factory in optimizers.OPTIMIZERS.items()} | {
    "nesterov": functools.partial(momentum, nesterov=True),
    "rmsprop_momentum": functools.partial(rmsprop, momentum=0.9),
    "rmsprop_centered": functools.partial(rmsprop, centered=True),
    "adafactor_of_rows": functools.partial(adafactor, min_dim_size_to_factor=1),
    "clipped_by_value": lambda learning_rate: chain(clip_by_value(1.0), sgd(learning_rate)),
    "clipped_by_neuron": lambda learning_rate: chain(adaptive_clip(0.1), sgd(learning_rate)),
    "clipped": lambda learning_rate: chain(clip_by_global_norm(1.0), sgd(learning_rate)),
    "scheduled": lambda learning_rate: adam(lambda step: learning_rate / (1.0 + jnp.asarray(step, jnp.float32))),
    **{
        f"traced_{name}": lambda learning_rate, i=i: jitted(optimizer(Option("optimizer", TRACED, jnp.int32(i)), learning_rate))
        for i, name in enumerate(TRACED)
    },
}
by_default = pytest.mark.parametrize("name", DEFAULTS)


@by_default
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_gradients_of_zero_move_nothing(name, dtype):
    """At the defaults, whose eps is zero in float16; weight decay of parameters of zero is nothing too."""
    zeros = jax.tree.map(jnp.zeros_like, optimizer_params(dtype=dtype))
    for updates, state in each_rate(DEFAULTS[name], {}, lambda opt: path(opt, zeros, [zeros, zeros])):
        for leaf in jax.tree.leaves(updates):
            assert leaf.dtype == dtype
            np.testing.assert_array_equal(np.asarray(leaf, np.float32), 0)
        assert bool(all_finite(state))


FITTING = {"w": jnp.ones((2, 3)), "b": jnp.ones(2)}
UNFIT = {
    "a gradient for each example": (lambda g: {name: jnp.stack(5 * [leaf]) for name, leaf in g.items()}, "mean over the examples"),
    "an axis of length 1": (lambda g: g | {"w": g["w"][:, :1]}, r"\(2, 3\) at \['w'\], got \(2, 1\)"),
    "turned": (lambda g: g | {"w": g["w"].T}, r"\(2, 3\) at \['w'\], got \(3, 2\)"),
    "one leaf less": (lambda g: {"w": g["w"]}, "the structure of params, leaves 'b', 'w', got leaves 'w'; take jax.grad by these"),
    "a list": (lambda g: list(g.values()), "the structure of params, leaves 'b', 'w', got leaves '0', '1'"),
}


@by_default
@pytest.mark.parametrize("what", UNFIT)
def test_gradients_that_do_not_fit_the_params_are_an_error(name, what):
    """They would be broadcast, and so would the params."""
    change, match = UNFIT[what]
    optimizer = DEFAULTS[name](0.1)
    state = optimizer.init(FITTING)
    with pytest.raises(ValueError, match=match):
        optimizer.update(change(FITTING), state, FITTING)
    if jax.tree.leaves(state):  # from which it can tell without params
        with pytest.raises(ValueError):
            optimizer.update(change(FITTING), state)
    with pytest.raises(ValueError, match=match):
        apply_updates(FITTING, change(FITTING))


@by_default
@pytest.mark.parametrize("size", [3e-5, 1.0, 1000.0])
def test_float16_gradients_move_as_in_float32(name, size):
    """Those whose squares are zero or infinite in float16 too; a mean of gradients is as coarse as float16 is so near zero."""
    draws = [jax.tree.map(lambda leaf: (size * leaf).astype(jnp.float16), optimizer_params(seed)) for seed in range(1, 4)]
    params = optimizer_params(dtype=jnp.float16)
    exact = [jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree) for tree in (params, *draws)]
    short = each_rate(DEFAULTS[name], {}, lambda opt: path(opt, params, draws)[0])
    full = each_rate(DEFAULTS[name], {}, lambda opt: path(opt, exact[0], exact[1:])[0])
    for a, b in zip(jax.tree.leaves(short), jax.tree.leaves(full), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float32), b, rtol=0.01, atol=1e-6 + (0.05 if size < 1 else 0.01) * float(jnp.max(jnp.abs(b)))
        )


def test_bfloat16_averages_do_not_stand_still():
    """A mean of squares of decay 0.999 falls by a thousandth a step, which eight bits can't say."""
    for build in (functools.partial(adam, b1=0.0), functools.partial(rmsprop, decay=0.999), nadam, functools.partial(adadelta, rho=0.999)):
        states = []
        for dtype in (jnp.bfloat16, jnp.float32):
            opt, big = build(0.1), jnp.full(1, 8.0, dtype)
            _, state = opt.update(big, opt.init(big), big)
            one = lambda state, _, opt=opt, big=big: (opt.update(big / 1024, state, big)[1], None)
            states.append(float(jax.lax.scan(one, state, None, 1000)[0].mean_square[0]))
        np.testing.assert_allclose(*states, rtol=1e-3)


@by_default
def test_whole_gradients_count_as_their_numbers(name):
    params = jnp.array([0.5, -1.0, 2.0])
    whole, floats = (jnp.array([3, -2, 1], dtype) for dtype in (jnp.int32, jnp.float32))
    got = each_rate(DEFAULTS[name], {}, lambda opt: path(opt, params, [whole, whole])[0])
    assert_close(got, each_rate(DEFAULTS[name], {}, lambda opt: path(opt, params, [floats, floats])[0]))
    assert all(leaf.dtype == jnp.float32 and bool(jnp.all(leaf != 0)) for leaf in jax.tree.leaves(got))


@by_default
def test_python_floats_as_leaves_are_numbers(name):
    """Of params and of gradients; updates and new params are arrays."""

    def run(opt, params, grads):
        updates, _ = path(opt, params, [grads, grads])
        return apply_updates(params, updates[-1])

    floats = {"w": 2.0, "b": -1.0}
    arrays = jax.tree.map(jnp.float32, floats)
    got = each_rate(DEFAULTS[name], {}, lambda opt: run(opt, floats, {"w": 0.5, "b": 3.0}))
    assert_close(got, each_rate(DEFAULTS[name], {}, lambda opt: run(opt, arrays, {"w": jnp.float32(0.5), "b": jnp.float32(3.0)})))
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(got))


@by_default
def test_counters_stay_at_the_largest_whole_number(name):
    params, last = optimizer_params(), 2**31 - 1

    def late(opt):
        state = jax.tree.map(lambda leaf: jnp.full_like(leaf, last) if leaf.dtype == jnp.int32 else leaf, opt.init(params))
        before = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int32]
        updates, state = opt.update(params, state, params)
        return updates, state, before

    for updates, state, before in each_rate(DEFAULTS[name], {}, late):
        assert [int(leaf) for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int32] == [last] * len(before)
        assert bool(all_finite(updates))


@by_default
def test_hypergradients_are_finite_where_gradients_are_zero(name):
    """In the rate and in the parameters' start: of all parameters and of some."""
    zeros = jax.tree.map(jnp.zeros_like, optimizer_params())
    some = {**zeros, "bias": jnp.array([0.0, 1.0, 0.0])}
    for grads in (zeros, some):

        def moved(rate, grads):
            updates, _ = path(DEFAULTS[name](rate), zeros, [grads, grads])
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(updates))

        found = jax.grad(moved, (0, 1))(0.1, grads)
        assert all(bool(all_finite(leaf)) for leaf in jax.tree.leaves(found))
        assert bool(all_finite(jax.vmap(jax.grad(moved), (0, None))(jnp.array([0.1, 0.2]), grads)))


@by_default
def test_healthy_steps_raise_nothing_under_debug_nans(name):
    params = optimizer_params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    with jax.debug_nans(True):
        for grads in (params, zeros):
            opt = DEFAULTS[name](0.1)
            jax.block_until_ready(path(opt, params, [grads, grads]))
            jax.block_until_ready(jax.grad(lambda rate: jnp.sum(path(DEFAULTS[name](rate), params, [grads] * 2)[0][1]["bias"]))(0.1))  # noqa: B023


def test_an_eps_of_zero_moves_nothing_where_no_gradient_has_been():
    for build in (adagrad, rmsprop, adam, adamw, nadam, adadelta, amsgrad, adamax, adabelief, radam, lamb, adafactor):
        for eps in (0.0, jnp.float32(0.0)):
            opt = build(0.1, eps=eps)
            updates, _ = opt.update(jnp.array([0.0, 1.0]), opt.init(jnp.zeros(2)), jnp.zeros(2))
            assert float(updates[0]) == 0 and bool(jnp.isfinite(updates[1])), build.__name__
            slope = jax.grad(
                lambda eps, build=build: build(0.1, eps=eps).update(jnp.zeros(2), build(0.1).init(jnp.zeros(2)), jnp.zeros(2))[0][0]
            )
            assert bool(jnp.isfinite(slope(0.0)))


def test_clipping_has_a_gradient_at_zero_and_clips_in_float32():
    clip = clip_by_global_norm(1e-3)
    assert_close(jax.jacobian(lambda g: clip.update(g, ())[0])(jnp.zeros(2)), jnp.eye(2))
    slope = jax.vmap(jax.grad(lambda norm: jnp.sum(clip_by_global_norm(norm).update(jnp.zeros(2), ())[0])))(jnp.array([1.0, 2.0]))
    assert_close(slope, jnp.zeros(2))
    long = jnp.full(4, 60000.0, jnp.float16)  # a factor of 1e-8, zero in float16
    assert_close(clip.update(long, ())[0], jnp.full(4, 5e-4), rtol=1e-3)
    assert_close(clip.update(jnp.array([3 + 4j, 0j]), ())[0].real, jnp.array([0.6e-3, 0.0]))


@every_optimizer
def test_takes_a_learning_rate_of_zero_and_gradients_of_zero(name):
    build, numbers = OPTIMIZERS[name]
    params = optimizer_params()
    still = build(**(variant(numbers, 2) | {"learning_rate": 0.0}))
    updates, _ = still.update(params, still.init(params), params)
    assert_close(apply_updates(params, updates), params, rtol=0, atol=0)
    opt = build(**variant(numbers, 2))
    updates, _ = opt.update(jax.tree.map(jnp.zeros_like, params), opt.init(params), params)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(updates))


REFERENCES = [(library, name) for library, table in (("optax", make.OPTAX), ("torch", make.TORCH)) for name in table]


@pytest.mark.parametrize("dtype", ours.TOLERANCE)
@pytest.mark.parametrize("library, name", REFERENCES)
def test_agrees_with_the_library_over_100_steps(library, name, dtype):
    ours.assert_same_path(ours.descent(library, name, dtype), make.load(f"{library}/{name}/{dtype}"), dtype)


@pytest.mark.parametrize("name", list(filter(make.takes_complex, make.OPTAX)))
def test_complex_parameters_train_as_in_optax(name):
    ours.assert_same_path(ours.descent("optax", name, "complex128"), make.load(f"optax/{name}/complex128"), "complex128")


@pytest.mark.parametrize("suffix", ["", "_of_a_schedule"])
def test_references_cover_the_registry(suffix):
    only_optax = {"lion", "amsgrad", "adabelief", "lamb", "lars", "adafactor"}  # torch's AMSGrad and Adafactor are other rules
    assert {name + suffix for name in optimizers.OPTIMIZERS} <= set(make.OPTAX)
    assert {name + suffix for name in set(optimizers.OPTIMIZERS) - only_optax} <= set(make.TORCH)


def test_a_schedule_gives_each_step_its_learning_rate():
    params = jnp.array([1.0, -2.0])
    opt = sgd(linear_schedule(0.4, 0.1, 3))
    state = opt.init(params)
    for rate in (0.4, 0.3, 0.2, 0.1, 0.1):
        updates, state = opt.update(params, state)
        assert_close(updates, -rate * params)
    assert int(state.step) == 5


def test_a_schedule_acts_on_the_whole_velocity():
    """As in torch and optax: four gradients of one, at rates that fall tenfold after two, by hand."""
    velocities = [1, 1.9, 2.71, 3.439]
    rates = [1.0, 1.0, 0.1, 0.1]
    scheduled = momentum(step_decay(1.0, 0.1, 2))
    params, state = jnp.zeros(()), scheduled.init(jnp.zeros(()))
    for velocity, rate in zip(velocities, rates):
        updates, state = scheduled.update(jnp.ones(()), state, params)
        assert_close(updates, -rate * velocity)
        assert_close(state.state.velocity, velocity)


def test_velocity_is_what_torch_and_optax_keep_and_the_other_form_is_the_same_at_a_constant_rate():
    rate, decay = 0.1, 0.9
    opt = momentum(rate, decay)
    state, step = opt.init(jnp.zeros(2)), jnp.zeros(2)
    for i in range(5):
        grads = jnp.array([1.0, -2.0]) * jnp.cos(float(i))
        updates, state = opt.update(grads, state)
        step = decay * step - rate * grads
        assert_close(updates, step)
        assert_close(-rate * state.velocity, step)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_a_constant_schedule_is_its_number(name):
    settings = variant(OPTIMIZERS[name][1], 1)
    rate = settings.pop("learning_rate")
    scheduled, _ = steps(optimizer(name, constant_schedule(rate), **settings), optimizer_params(), 2)
    plain, _ = steps(optimizer(name, rate, **settings), optimizer_params(), 2)
    assert_close(scheduled, plain)


def test_weight_decay_spares_what_where_leaves_out():
    params = {"weight": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    grads = jax.tree.map(jnp.zeros_like, params)
    for build in (adamw, lion):
        opt = build(0.5, weight_decay=0.1, decay_where=lambda leaf: leaf.ndim > 1)
        updates, _ = opt.update(grads, opt.init(params), params)
        assert_close(updates, {"weight": jnp.full((2, 2), -0.05), "bias": jnp.zeros(2)})


def test_clipping_shortens_what_is_too_long_and_nothing_else():
    clip = clip_by_global_norm(1.0)
    for dtype in (jnp.float32, jnp.bfloat16):
        long = {"a": jnp.array([3.0], dtype), "b": jnp.array([[4.0]], dtype)}
        short = jax.tree.map(lambda leaf: leaf / 10, long)
        clipped, _ = clip.update(long, clip.init(long))
        assert {leaf.dtype for leaf in jax.tree.leaves(clipped)} == {jnp.dtype(dtype)}
        assert_close(clipped, {"a": jnp.array([0.6]), "b": jnp.array([[0.8]])}, rtol=0.01)
        assert_close(clip.update(short, ())[0], short, rtol=0, atol=0)
    zero = jnp.zeros(3)
    assert_close(clip.update(zero, ())[0], zero)


def test_what_where_leaves_out_takes_plain_steps():
    """Of LAMB Adam's, of LARS momentum's; the other leaves decay and are as long as their norms say."""
    params, grads = optimizer_params(), optimizer_params(5)
    for build, plain in ((lamb, adam(0.5, eps=1e-6)), (lars, momentum(0.5))):
        opt = build(0.5, weight_decay=0.1, decay_where=lambda leaf: leaf.ndim > 1)
        updates, _ = opt.update(grads, opt.init(params), params)
        expected, _ = plain.update(grads, plain.init(params), params)
        assert_close(updates["bias"], expected["bias"])
        assert not np.any(np.isclose(updates["weight"], expected["weight"]))
        share = 1.0 if build is lamb else 0.001
        assert_close(jnp.linalg.norm(updates["weight"]), 0.5 * share * jnp.linalg.norm(params["weight"]))


def test_radam_counts_its_gradients_to_rounding():
    """Also where the count is a small difference of large numbers: in float32 as in float64, by the definition in whole fractions."""
    for decay in (Fraction(1, 2), Fraction(9, 10), Fraction(999, 1000), Fraction(99999, 100000)):
        for step in (1, 2, 5, 6, 40, 1000):
            weights = [decay**age for age in range(step)]
            expected = 1 + 2 * float(sum(age * weight for age, weight in enumerate(weights)) / sum(weights))
            for dtype, rtol in ((jnp.float32, 3e-6), (jnp.float64, 1e-9)):
                with jax.enable_x64(dtype == jnp.float64):
                    n, last = effective_count(jnp.int32(step - 1) + 1, jnp.asarray(float(decay), dtype))
                    np.testing.assert_allclose(n, expected, rtol=rtol * (1 if dtype == jnp.float64 else 1 + 0.1 / float(1 - decay) ** 0.5))
                    np.testing.assert_allclose(last, float(2 / (1 - decay) - 1), rtol=1e-2)


def test_adafactor_keeps_rows_and_columns_of_long_leaves_alone():
    """So many numbers as rows and columns, along the two longest axes, and the whole of what is short."""
    params = {"long": jnp.ones((3, 7, 5)), "short": jnp.ones((9, 2)), "bias": jnp.ones(8)}
    state = adafactor(0.1, min_dim_size_to_factor=4).init(params)
    assert jax.tree.map(jnp.shape, state.mean_square) == {"long": ((3, 5), (3, 7)), "short": (9, 2), "bias": (8,)}


@pytest.mark.parametrize("build", [adam, adamw, nadam, amsgrad, lion])
def test_mu_dtype_is_that_of_the_mean_alone(build):
    """Of real leaves; updates and all else are as without it, and the mean loses its last bits only when it is kept."""
    params = optimizer_params()
    opt, plain = build(0.1, mu_dtype="bfloat16"), build(0.1)
    for state in (opt.init(params), opt.update(params, opt.init(params), params)[1]):
        assert {leaf.dtype for leaf in jax.tree.leaves(state.mean)} == {jnp.dtype("bfloat16")}
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, plain.init(params))
        assert "bfloat16" not in {str(leaf.dtype) for leaf in jax.tree.leaves(state._replace(mean=()))}
    updates, _ = opt.update(params, opt.init(params), params)
    assert_close(updates, plain.update(params, plain.init(params), params)[0], rtol=0, atol=0)
    short = optimizer_params(dtype=jnp.bfloat16)
    wide = build(0.1, mu_dtype=jnp.float32)
    updates, state = wide.update(short, wide.init(short), short)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.mean)} == {jnp.dtype("float32")}


def test_mu_dtype_leaves_complex_means_as_they_are():
    params = {"w": jnp.ones(2, jnp.complex64), "b": jnp.ones(2)}
    state = adam(0.1, mu_dtype="bfloat16").init(params)
    assert (state.mean["w"].dtype, state.mean["b"].dtype) == (jnp.complex64, jnp.bfloat16)


def test_a_deviation_of_nothing_is_no_root_of_less():
    """Centered, equal gradients leave a variance of rounding errors, some below zero."""
    opt = rmsprop(0.1, 0.5, 1.0, centered=True)
    grads = jnp.linspace(0.1, 900.0, 200)
    state = opt.init(grads)
    for _ in range(30):
        updates, state = opt.update(grads, state)
    assert bool(jnp.any(state.mean_square - state.mean**2 < 0)) and bool(jnp.all(jnp.isfinite(updates)))


def test_clip_by_value_is_by_entry():
    clip = clip_by_value(1.0)
    given = {"a": jnp.array([3.0, -0.5]), "b": jnp.array([[-4.0]], jnp.float16)}
    clipped, _ = clip.update(given, clip.init(given))
    assert_close(clipped, {"a": jnp.array([1.0, -0.5]), "b": jnp.array([[-1.0]])}, rtol=0, atol=0)
    assert clipped["b"].dtype == jnp.float16


def test_adaptive_clip_goes_by_neuron_and_lets_weights_of_zero_grow():
    clip = adaptive_clip(0.1, eps=0.5)
    params = {"dense": jnp.array([[3.0, 4.0], [0.0, 0.0]]), "kernel": jnp.full((2, 3, 2), 2.0), "bias": jnp.array([0.6, 0.8]), "scale": 2.0}
    grads = {"dense": jnp.array([[3.0, 4.0], [3.0, 4.0]]), "kernel": jnp.ones((2, 3, 2)), "bias": jnp.ones(2), "scale": 0.1}
    got, _ = clip.update(grads, clip.init(params), params)
    expected = {
        "dense": jnp.array([[0.3, 0.4], [0.03, 0.04]]),  # norms of 0.1 * 5 and 0.1 * 0.5
        "kernel": jnp.full((2, 3, 2), 0.2),
        "bias": jnp.full(2, 0.1 / 2**0.5),
        "scale": jnp.float32(0.1),
    }
    assert_close(got, expected)


def test_chain_runs_in_order_and_keeps_each_state():
    params = jnp.array([3.0, 4.0])
    opt = chain(clip_by_global_norm(1.0), momentum(0.5))
    updates, state = opt.update(params, opt.init(params), params)
    assert_close(updates, -0.5 * params / 5)
    assert_close(state[1].velocity, params / 5)
    other_way = chain(momentum(0.5), clip_by_global_norm(1.0))
    assert_close(other_way.update(params, other_way.init(params))[0], -params / 5)
    assert_close(chain().update(params, chain().init(params))[0], params)


EXTRA = {"value": jnp.float32(3.0), "grad": jnp.ones(2), "value_fn": jnp.sum}


@every_optimizer
def test_ignores_what_else_is_known_of_the_step(name):
    build, numbers = OPTIMIZERS[name]
    params, grads = optimizer_params(), optimizer_params(5)

    def moved(numbers, **extra):
        opt = build(**numbers)
        return opt.update(grads, opt.init(params), params, **extra)[0]

    assert_close(moved(variant(numbers, 1), **EXTRA), moved(variant(numbers, 1)))
    together = jax.vmap(lambda numbers, value: moved(numbers, value=value))(stacked(numbers), jnp.arange(1.0 * VARIANTS))
    assert_close(lane(together, 1), moved(variant(numbers, 1)))


def named(note):
    return lambda grads, state, params=None, *, value, grad: note(grads, state, value=value, grad=grad)


def method(note):
    return types.MethodType(lambda self, grads, state, params=None, *, value: note(grads, state, value=value), note)


def chained(note):
    return lambda grads, state, params=None, **extra: chain(Optimizer(tuple, named(note))).update(grads, (state,), params, **extra)


WAYS = {
    "none": (lambda note: lambda grads, state, params=None: note(grads, state), set()),
    "all": (lambda note: lambda grads, state, params=None, **extra: note(grads, state, **extra), set(EXTRA)),
    "one and all": (lambda note: lambda grads, state, params=None, *, grad, **extra: note(grads, state, grad=grad, **extra), set(EXTRA)),
    "named": (named, {"value", "grad"}),
    "with a default": (lambda note: lambda grads, state, params=None, value_fn=None: note(grads, state, value_fn=value_fn), {"value_fn"}),
    "partial": (lambda note: functools.partial(named(note)), {"value", "grad"}),
    "jit": (lambda note: jax.jit(named(note)), {"value", "grad"}),
    "method": (method, {"value"}),
    "chain": (chained, {"value", "grad"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_else_is_known_goes_to_an_update_that_takes_it(way):
    """In a chain, in a chain in it, and in a training's step; alone and under vmap."""
    make, expected = WAYS[way]
    seen = []

    def note(grads, state, **extra):
        assert all(given is not None for given in extra.values())
        seen.append(set(extra))
        return grads, state

    def opt():
        return Optimizer(lambda params: (), make(note))

    for both in (chain(sgd(0.5), opt()), chain(chain(sgd(0.5)), chain(opt()))):
        state = both.init(jnp.ones(2))
        both.update(jnp.ones(2), state, jnp.ones(2), **EXTRA)
        jax.vmap(lambda grads, both=both, state=state: both.update(grads, state, jnp.ones(2), **EXTRA)[0])(jnp.ones((3, 2)))
    line = training(dense(1), squared_error, opt(), in_shape=(2,))
    data = Dataset(jnp.ones((3, 2)), jnp.ones((3, 1)))
    states = jax.vmap(line.init)(jax.random.split(jax.random.key(0), 2))
    jax.vmap(lambda state: line.step(state, data, jax.random.key(1))[0])(states)
    assert len(seen) >= 3 and all(given == expected for given in seen)


def test_a_training_knows_the_value_the_gradient_and_the_function_of_its_batch():
    """The penalty counted, dropout drawn as in the step."""
    seen = {}

    def update(grads, state, params=None, **extra):
        seen.update(extra, grads=grads, params=params)
        seen["again"] = jax.value_and_grad(extra["value_fn"])(params)
        return grads, state

    model = serial(dropout(0.5), dense(1))
    line = training(model, squared_error, Optimizer(lambda params: (), update), in_shape=(6,), penalty=l2(0.3))
    data = Dataset(jnp.arange(12.0).reshape(2, 6), jnp.ones((2, 1)))
    state = line.init(jax.random.key(0))
    _, metrics = line.step(state, data, jax.random.key(1))
    objective = penalized(model, squared_error, l2(0.3))
    value, grad = jax.value_and_grad(objective)(state.params, data, key=jax.random.key(1))
    assert_close((seen["value"], seen["grad"], seen["again"]), (value, grad, (value, grad)))
    assert_close(metrics["loss"], value)


def test_chain_takes_any_object_with_init_and_update():
    """As another library's gradient transformations are."""
    negate = Optimizer(lambda params: None, lambda grads, state, params=None: (jax.tree.map(jnp.negative, grads), state))
    opt = chain(negate, sgd(0.5))
    assert_close(opt.update(jnp.array([2.0]), opt.init(jnp.array([1.0])))[0], jnp.array([1.0]))


def test_apply_updates_keeps_the_params_dtypes():
    params = {"weight": jnp.ones(2, jnp.bfloat16), "bias": jnp.ones(2)}
    after = apply_updates(params, jax.tree.map(lambda leaf: jnp.full(2, 0.5, jnp.float32), params))
    assert (after["weight"].dtype, after["bias"].dtype) == (jnp.bfloat16, jnp.float32)
    assert_close(after, {"weight": jnp.full(2, 1.5), "bias": jnp.full(2, 1.5)})


def test_adadelta_needs_no_learning_rate():
    params = optimizer_params()
    assert_close(steps(adadelta(), params, 1)[0], steps(adadelta(1.0), params, 1)[0], rtol=0, atol=0)


def test_optimizer_by_name():
    """With its settings; two steps, as Adam's first is the same for every b1."""
    by_name, _ = steps(optimizer("adam", 0.1, b1=0.5), optimizer_params(), 2)
    assert_close(by_name, steps(adam(0.1, b1=0.5), optimizer_params(), 2)[0], rtol=0, atol=0)


def positive(name, setting, build):
    """A negative number, NaN and infinity are refused, and zero is taken."""
    return {
        f"{name} {setting} {bad}": (
            lambda bad=bad: build(bad),
            ValueError,
            rf"^{name}: {setting} must be in \[0, inf\), got {bad}$",
            lambda: build(0.0),
        )
        for bad in (-1.0, float("nan"), float("inf"))
    }


def share(name, setting, build):
    return {
        f"{name} {setting} {bad}": (
            lambda bad=bad: build(bad),
            ValueError,
            rf"^{name}: {setting} must be in \[0, 1\), got {bad}$",
            lambda: build(0.5),
        )
        for bad in (-0.1, 1.0, float("nan"))
    }


def rows():
    """Every number of every optimizer: shares in [0, 1), the others not negative."""
    table = {}
    for name, factory in optimizers.OPTIMIZERS.items():
        for setting in OPTIMIZERS[name][1]:
            rule = share if setting in ("decay", "b1", "b2", "rho", "momentum") else positive
            table |= rule(name, setting, lambda value, f=factory, s=setting: f(**({"learning_rate": 0.1} | {s: value})))
    return table


@mistakes(
    rows()
    | {
        "rate no number": (lambda: sgd("0.1"), TypeError, r"^sgd: learning_rate must be one number, got '0.1'$", lambda: sgd(0.1)),
        "rates": (
            lambda: jax.jit(lambda rates: sgd(rates).update(jnp.ones(2), ())[0])(jnp.array([0.1, 0.2])),
            TypeError,
            r"^sgd: learning_rate must be one number, got shape \(2,\); use jax.vmap for several",
            lambda: jax.vmap(lambda rate: sgd(rate).update(jnp.ones(2), ())[0])(jnp.array([0.1, 0.2])),
        ),
        "rate missing": (
            lambda: adam(),
            TypeError,
            r"^adam\(\) missing 1 required positional argument: 'learning_rate'$",
            lambda: adam(1e-3),
        ),
        "with a schedule": (
            lambda: rmsprop(constant_schedule(0.1), decay=1.5),
            ValueError,
            r"^rmsprop: decay must be in \[0, 1\), got 1.5$",
            lambda: rmsprop(constant_schedule(0.1), decay=0.9),
        ),
        "no params": (
            lambda: adamw(0.1).update(jnp.ones(2), adamw(0.1).init(jnp.ones(2))),
            ValueError,
            r"^adamw: update needs params for its weight decay, got None; call update\(grads, state, params\)$",
            lambda: adamw(0.1).update(jnp.ones(2), adamw(0.1).init(jnp.ones(2)), jnp.ones(2)),
        ),
        "no params for lion": (
            lambda: lion(0.1, weight_decay=0.1).update(jnp.ones(2), lion(0.1).init(jnp.ones(2))),
            ValueError,
            "^lion: update needs params for its weight decay, got None",
            lambda: (
                lion(0.1).update(jnp.ones(2), lion(0.1).init(jnp.ones(2))),
                lion(0.1, weight_decay=0.1).update(jnp.ones(2), lion(0.1).init(jnp.ones(2)), jnp.ones(2)),
            ),
        ),
        **{
            f"no params for {name}": (
                lambda build=build: build(0.1).update(jnp.ones(2), build(0.1).init(jnp.ones(2))),
                ValueError,
                rf"^{name}: update needs params for {what}, got None; call update\(grads, state, params\)$",
                lambda build=build: build(0.1).update(jnp.ones(2), build(0.1).init(jnp.ones(2)), jnp.ones(2)),
            )
            for name, build, what in (
                ("lamb", lamb, "its ratio of norms"),
                ("lars", lars, "its ratio of norms"),
                ("adafactor", adafactor, "the size of its steps"),
                ("adaptive_clip", adaptive_clip, "the norms of its weights"),
            )
        },
        **{
            f"{build.__name__} of whole means": (
                lambda build=build, bad=bad: build(0.1, mu_dtype=bad),
                TypeError,
                rf"^{build.__name__}: mu_dtype must be a floating-point dtype, got {bad!r}; such as 'bfloat16'$",
                lambda build=build: build(0.1, mu_dtype="bfloat16"),
            )
            for build, bad in ((adam, "int8"), (adamw, "bfloat"), (nadam, "complex64"), (amsgrad, "int8"), (lion, "int8"))
        },
        "factored from nothing on": (
            lambda: adafactor(0.1, min_dim_size_to_factor=0),
            ValueError,
            r"^adafactor: min_dim_size_to_factor must be at least 1, got 0$",
            lambda: adafactor(0.1, min_dim_size_to_factor=1),
        ),
        "momentum of one": (
            lambda: rmsprop(0.1, momentum=1.0),
            ValueError,
            r"^rmsprop: momentum must be in \[0, 1\), got 1.0$",
            lambda: rmsprop(0.1, momentum=0.9),
        ),
        "value of zero": (
            lambda: clip_by_value(0),
            ValueError,
            r"^clip_by_value: max_value must be in \(0, inf\), got 0$",
            lambda: clip_by_value(1e-6),
        ),
        "share of zero": (
            lambda: adaptive_clip(0),
            ValueError,
            r"^adaptive_clip: clipping must be in \(0, inf\), got 0$",
            lambda: adaptive_clip(0.01),
        ),
        "least norm of zero": (
            lambda: adaptive_clip(0.01, 0.0),
            ValueError,
            r"^adaptive_clip: eps must be in \(0, inf\), got 0.0$",
            lambda: adaptive_clip(0.01, 1e-6),
        ),
        **{
            f"{name} of complex numbers": (
                lambda build=build: build(0.1).init({"w": jnp.ones(2, jnp.complex64)}),
                TypeError,
                rf"^{name}: params must be floating-point, got complex64 at \['w'\]; sgd, momentum and adam take complex numbers$",
                lambda build=build: [take(0.1).init({"w": jnp.ones(2, jnp.complex64)}) for take in (sgd, momentum, adam)],
            )
            for name, build in (("lion", lion), ("adadelta", adadelta), ("adamax", adamax), ("adafactor", adafactor))
        },
        **{
            f"{name} of whole numbers": (
                lambda build=build: build(0.1).init({"w": jnp.ones(2), "steps": jnp.int32(3)}),
                TypeError,
                rf"^{name}: params must be floating-point( or complex)?, got int32 at \['steps'\]; keep what isn't trained out of params$",
                lambda build=build: build(0.1).init({"w": jnp.ones(2)}),
            )
            for name, build in optimizers.OPTIMIZERS.items()
        },
        "complex gradients of real params": (
            lambda: adam(0.1).update(jnp.ones(2, jnp.complex64), adam(0.1).init(jnp.ones(2)), jnp.ones(2)),
            TypeError,
            "^adam: gradients must be real where params are, got complex64; take the real part$",
            lambda: adam(0.1).update(jnp.ones(2, jnp.complex64).real, adam(0.1).init(jnp.ones(2)), jnp.ones(2)),
        ),
        "complex gradients and no params": (
            lambda: adam(0.1).update(jnp.ones(2, jnp.complex64), adam(0.1).init(jnp.ones(2))),
            TypeError,
            "^optimizer: gradients must be real where params are, got complex64; take the real part$",
            lambda: adam(0.1).update(jnp.ones(2, jnp.complex64).real, adam(0.1).init(jnp.ones(2))),
        ),
        "gradients of whole params": (
            lambda: sgd(0.1).update(jax.grad(lambda n: 1.0 * n, allow_int=True)(3), ()),
            TypeError,
            r"^sgd: gradients must be floating-point or complex, got \[\('float0', 'V'\)\]; keep what isn't trained out of params$",
            lambda: sgd(0.1).update(jax.grad(lambda n: 1.0 * n)(3.0), ()),
        ),
        "a name as a leaf": (
            lambda: sgd(0.1).init([jnp.ones(2), "relu"]),
            TypeError,
            r"^sgd: params must be floating-point or complex, got 'relu' at \[1\]; keep what isn't trained out of params$",
            lambda: sgd(0.1).init([jnp.ones(2)]),
        ),
        "a random key as a leaf": (
            lambda: momentum(0.1).init({"key": jax.random.key(0)}),
            TypeError,
            r"^momentum: params must be floating-point or complex, got key<fry> at \['key'\]; keep",
            lambda: momentum(0.1).init({}),
        ),
        "updates of whole params": (
            lambda: apply_updates(jnp.array([3]), jnp.array([-0.2])),
            TypeError,
            "^apply_updates: params must be floating-point or complex, got int32; keep what isn't trained out of params$",
            lambda: apply_updates(jnp.array([3.0]), jnp.array([-0.2])),
        ),
        "complex updates of real params": (
            lambda: apply_updates({"w": jnp.array([3.0])}, {"w": jnp.array([1j])}),
            TypeError,
            r"^apply_updates: updates must be real where params are, got complex64 at \['w'\]; take the real part$",
            lambda: apply_updates({"w": jnp.array([3.0])}, {"w": jnp.array([1j]).real}),
        ),
        "a schedule of several numbers": (
            lambda: sgd(lambda step: jnp.ones(2)).update(jnp.ones(2), sgd(constant_schedule(0.1)).init(jnp.ones(2))),
            TypeError,
            r"^sgd: a schedule must give one number a step, got shape \(2,\); return a scalar$",
            lambda: sgd(lambda step: jnp.ones(())).update(jnp.ones(2), sgd(constant_schedule(0.1)).init(jnp.ones(2))),
        ),
        "norm of zero": (
            lambda: clip_by_global_norm(0),
            ValueError,
            r"^clip_by_global_norm: max_norm must be in \(0, inf\), got 0$",
            lambda: clip_by_global_norm(1e-6),
        ),
        "factory for optimizer": (
            lambda: chain(clip_by_global_norm(1.0), adam),
            TypeError,
            r"^chain: optimizer 1: needs an object with init and update, got <function adam.*; "
            r"an optimizer is made by a call, such as adam\(1e-3\)$",
            lambda: chain(clip_by_global_norm(1.0), adam(1e-3)),
        ),
        "unknown name": (
            lambda: optimizer("adm", 0.1),
            ValueError,
            r"^optimizer: unknown optimizer 'adm'; did you mean 'adam'\?$",
            lambda: optimizer("adam", 0.1),
        ),
        "unknown setting": (
            lambda: optimizer("momentum", 0.1, decai=0.9),
            TypeError,
            r"^optimizer: momentum has no argument 'decai'; did you mean 'decay'\?$",
            lambda: optimizer("momentum", 0.1, decay=0.9),
        ),
        "bad setting by name": (
            lambda: optimizer("adagrad", -0.1),
            ValueError,
            r"^adagrad: learning_rate must be in \[0, inf\), got -0.1$",
            lambda: optimizer("adagrad", 0.1),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)


def test_every_named_optimizer_is_tried_above():
    older = {sgd, momentum, adagrad, rmsprop, adam, adamw, adadelta, nadam, lion}
    assert older | {amsgrad, adamax, adabelief, radam, lamb, lars, adafactor} == set(optimizers.OPTIMIZERS.values())
