"""Transformations: each alone against optax's, and the named optimizers as chains of them."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close, assert_same_bits, check_mistake, lane, mistakes
from registries import OPTIMIZERS, optimizer_params, variant

import funcnet as fn

STEPS = 5

# Of each transformation: its numbers, as two variants, and how it is made of them.
CASES = {
    "scale_by_rss": (fn.scale_by_rss, {"eps": (0.1, 1e-8), "eps_root": (1e-2, 1e-3), "initial_sum": (0.5, 0.1)}),
    "scale_by_rms": (fn.scale_by_rms, {"decay": (0.9, 0.5), "eps": (0.1, 1e-8), "eps_root": (1e-2, 1e-3)}),
    "scale_by_rms_centered": (
        functools.partial(fn.scale_by_rms, centered=True),
        {"decay": (0.9, 0.5), "eps": (0.1, 1e-8), "eps_root": (1e-2, 1e-1)},
    ),
    "scale_by_adadelta": (fn.scale_by_adadelta, {"rho": (0.9, 0.5), "eps": (1e-2, 1e-4)}),
    "scale_by_factored_rms": (
        functools.partial(fn.scale_by_factored_rms, min_dim_size_to_factor=2),
        {"decay_rate": (0.8, 0.5), "eps": (1e-30, 1e-3)},
    ),
    "scale_by_adam": (fn.scale_by_adam, {"b1": (0.9, 0.5), "b2": (0.99, 0.9), "eps": (0.1, 1e-8), "eps_root": (1e-2, 1e-3)}),
    "scale_by_adam_mu_dtype": (functools.partial(fn.scale_by_adam, mu_dtype="bfloat16"), {"b1": (0.9, 0.5)}),
    "scale_by_amsgrad": (fn.scale_by_amsgrad, {"b1": (0.9, 0.5), "b2": (0.99, 0.9), "eps": (0.1, 1e-8), "eps_root": (1e-2, 1e-3)}),
    "scale_by_adamax": (fn.scale_by_adamax, {"b1": (0.9, 0.5), "b2": (0.99, 0.9), "eps": (0.1, 1e-8)}),
    "scale_by_belief": (fn.scale_by_belief, {"b1": (0.9, 0.5), "b2": (0.99, 0.9), "eps": (0.1, 1e-8), "eps_root": (1e-2, 1e-3)}),
    "scale_by_radam": (fn.scale_by_radam, {"b1": (0.9, 0.5), "b2": (0.9, 0.8), "eps": (0.1, 1e-8), "eps_root": (1e-2, 1e-3)}),
    "scale_by_nadam": (fn.scale_by_nadam, {"b1": (0.9, 0.5), "b2": (0.99, 0.9), "eps": (0.1, 1e-8), "eps_root": (1e-2, 1e-3)}),
    "scale_by_lion": (fn.scale_by_lion, {"b1": (0.9, 0.5), "b2": (0.99, 0.9)}),
    "trace": (fn.trace, {"decay": (0.9, 0.5)}),
    "trace_nesterov": (functools.partial(fn.trace, nesterov=True), {"decay": (0.9, 0.5)}),
    "add_decayed_weights": (fn.add_decayed_weights, {"weight_decay": (0.1, 2.0)}),
    "add_decayed_weights_where": (
        functools.partial(fn.add_decayed_weights, where=lambda path, leaf: path == "weight"),
        {"weight_decay": (0.1, 2.0)},
    ),
    "scale_by_trust_ratio": (fn.scale_by_trust_ratio, {"trust_coefficient": (0.1, 2.0), "eps": (0.1, 1e-8)}),
    "scale_by_trust_ratio_where": (functools.partial(fn.scale_by_trust_ratio, where=fn.is_weight), {"trust_coefficient": (0.1, 2.0)}),
    "clip_by_block_rms": (fn.clip_by_block_rms, {"threshold": (0.1, 2.0)}),
    "scale_by_param_block_rms": (fn.scale_by_param_block_rms, {"min_scale": (1e-3, 2.0)}),
    "scale_by_learning_rate": (fn.scale_by_learning_rate, {"learning_rate": (0.1, 2.0)}),
    "scale_by_learning_rate_upwards": (functools.partial(fn.scale_by_learning_rate, flip_sign=False), {"learning_rate": (0.1, 2.0)}),
    "scale_by_learning_rate_of_a_schedule": (
        lambda learning_rate: fn.scale_by_learning_rate(lambda step: learning_rate / (1.0 + jnp.asarray(step, jnp.result_type(float)))),
        {"learning_rate": (0.1, 2.0)},
    ),
}
every_transformation = pytest.mark.parametrize("name", CASES)
MASK = {"weight": True, "bias": False}


def moves(transformation, dtype=None, steps=STEPS):
    """The moves of a few steps, of gradients that change; the parameters stay."""
    params = optimizer_params(dtype=dtype or jnp.result_type(float))

    def step(state, tilt):
        grads = jax.tree.map(lambda p: jnp.flip(p) + tilt.astype(p.dtype), params)
        moved, state = transformation.update(grads, state, params)
        return state, moved

    state, moved = jax.lax.scan(step, transformation.init(params), jnp.sin(1.0 + jnp.arange(float(steps))))
    return moved, state


def test_every_transformation_is_tried():
    public = {name for name in dir(fn) if name.startswith("scale_by_")} | {"trace", "add_decayed_weights", "clip_by_block_rms"}
    assert public == {case if case in public else max((p for p in public if case.startswith(p)), key=len) for case in CASES}


@every_transformation
def test_variants_together_equal_each_alone_and_dtypes_are_kept(name):
    make, numbers = CASES[name]
    both = jax.jit(jax.vmap(lambda numbers: moves(make(**numbers))))({key: jnp.array(values) for key, values in numbers.items()})
    for i in range(2):
        assert_close(lane(both, i), jax.jit(lambda i=i: moves(make(**variant(numbers, i))))())
    for dtype in (jnp.bfloat16, jnp.float16):
        params, transformation = optimizer_params(dtype=dtype), make(**variant(numbers, 0))
        state = transformation.init(params)
        moved, after = jax.eval_shape(transformation.update, params, state, params)
        assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype(dtype)}
        assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda s: (s.shape, s.dtype), state)


def optaxs(optax, name, n):
    """optax's own of those numbers."""
    table = {
        "scale_by_rss": lambda: optax.scale_by_rss(n["initial_sum"], n["eps"]),
        "scale_by_rms": lambda: optax.scale_by_rms(n["decay"], n["eps"], eps_in_sqrt=False),
        "scale_by_rms_centered": lambda: optax.scale_by_stddev(n["decay"], n["eps"]),
        "scale_by_adadelta": lambda: optax.scale_by_adadelta(n["rho"], n["eps"]),
        "scale_by_factored_rms": lambda: optax.scale_by_factored_rms(
            decay_rate=n["decay_rate"],
            min_dim_size_to_factor=2,
            epsilon=n["eps"],
            decay_rate_fn=lambda step, power: 1 - (step.astype(float) + 1) ** -power,
        ),
        "scale_by_adam": lambda: optax.scale_by_adam(n["b1"], n["b2"], n["eps"], n["eps_root"]),
        "scale_by_amsgrad": lambda: optax.scale_by_amsgrad(n["b1"], n["b2"], n["eps"], n["eps_root"]),
        "scale_by_adamax": lambda: optax.scale_by_adamax(n["b1"], n["b2"], n["eps"]),
        "scale_by_belief": lambda: optax.scale_by_belief(n["b1"], n["b2"], n["eps"], n["eps_root"]),
        "scale_by_radam": lambda: optax.scale_by_radam(n["b1"], n["b2"], n["eps"], n["eps_root"]),
        "scale_by_nadam": lambda: optax.scale_by_adam(n["b1"], n["b2"], n["eps"], n["eps_root"], nesterov=True),
        "scale_by_lion": lambda: optax.scale_by_lion(n["b1"], n["b2"]),
        "trace": lambda: optax.trace(n["decay"]),
        "trace_nesterov": lambda: optax.trace(n["decay"], nesterov=True),
        "add_decayed_weights": lambda: optax.add_decayed_weights(n["weight_decay"]),
        "add_decayed_weights_where": lambda: optax.add_decayed_weights(n["weight_decay"], MASK),
        "scale_by_trust_ratio": lambda: optax.scale_by_trust_ratio(trust_coefficient=n["trust_coefficient"], eps=n["eps"]),
        "scale_by_trust_ratio_where": lambda: optax.masked(optax.scale_by_trust_ratio(trust_coefficient=n["trust_coefficient"]), MASK),
        "clip_by_block_rms": lambda: optax.clip_by_block_rms(n["threshold"]),
        "scale_by_param_block_rms": lambda: optax.scale_by_param_block_rms(n["min_scale"]),
        "scale_by_learning_rate": lambda: optax.scale_by_learning_rate(n["learning_rate"]),
        "scale_by_learning_rate_upwards": lambda: optax.scale_by_learning_rate(n["learning_rate"], flip_sign=False),
        "scale_by_learning_rate_of_a_schedule": lambda: optax.scale_by_learning_rate(
            lambda step: n["learning_rate"] / (1.0 + step.astype(float))
        ),
    }
    return table[name]()


OURS = {  # where optax's has its eps elsewhere, or no such number
    "scale_by_rss": {"eps": 0.0, "eps_root": (0.1, 1e-8)},
    "scale_by_rms": {"eps_root": 0.0},
    "scale_by_rms_centered": {"eps": 0.0, "eps_root": (0.1, 1e-3)},
}
THEIRS = {"scale_by_rss": {"eps": (0.1, 1e-8)}, "scale_by_rms_centered": {"eps": (0.1, 1e-3)}}


@pytest.mark.parametrize("name", [name for name in CASES if name != "scale_by_adam_mu_dtype"])
@pytest.mark.parametrize("i", range(2))
def test_agrees_with_optaxs(name, i):
    """Over five steps, to ten digits in float64."""
    optax = pytest.importorskip("optax", reason="optax is in the extra [bench]")
    make, numbers = CASES[name]
    chosen = lambda more: {key: value[i] if isinstance(value, tuple) else value for key, value in (numbers | more).items()}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        got, _ = jax.jit(lambda: moves(make(**chosen(OURS.get(name, {})))))()
        expected, _ = jax.jit(lambda: moves(optaxs(optax, name, chosen(THEIRS.get(name, {})))))()
        assert_close(got, expected, rtol=1e-10, atol=1e-12)


CHAINS = {
    "sgd": lambda n: fn.chain(fn.scale_by_learning_rate(**n)),
    "momentum": lambda n: fn.chain(fn.trace(n["decay"]), rate(n)),
    "nesterov": lambda n: fn.chain(fn.trace(n["decay"], nesterov=True), rate(n)),
    "adagrad": lambda n: fn.chain(fn.scale_by_rss(**rest(n)), rate(n)),
    "rmsprop": lambda n: fn.chain(fn.scale_by_rms(**rest(n, "momentum")), fn.trace(n["momentum"]), rate(n)),
    "adam": lambda n: fn.chain(fn.scale_by_adam(**rest(n)), rate(n)),
    "adamw": lambda n: fn.chain(fn.scale_by_adam(**rest(n, "weight_decay")), fn.add_decayed_weights(n["weight_decay"]), rate(n)),
    "adadelta": lambda n: fn.chain(fn.scale_by_adadelta(**rest(n)), rate(n)),
    "nadam": lambda n: fn.chain(fn.scale_by_nadam(**rest(n)), rate(n)),
    "lion": lambda n: fn.chain(fn.scale_by_lion(**rest(n, "weight_decay")), fn.add_decayed_weights(n["weight_decay"]), rate(n)),
    "amsgrad": lambda n: fn.chain(fn.scale_by_amsgrad(**rest(n)), rate(n)),
    "adamax": lambda n: fn.chain(fn.scale_by_adamax(**rest(n)), rate(n)),
    "adabelief": lambda n: fn.chain(fn.scale_by_belief(**rest(n)), rate(n)),
    "radam": lambda n: fn.chain(fn.scale_by_radam(**rest(n)), rate(n)),
    "lamb": lambda n: fn.chain(
        fn.scale_by_adam(**rest(n, "weight_decay")), fn.add_decayed_weights(n["weight_decay"]), fn.scale_by_trust_ratio(), rate(n)
    ),
    "lars": lambda n: fn.chain(
        fn.add_decayed_weights(n["weight_decay"]),
        fn.scale_by_trust_ratio(n["trust_coefficient"], n["eps"]),
        rate(n),  # the schedule acts on what is added to the velocity
        fn.trace(n["momentum"]),
    ),
    "adafactor": lambda n: fn.chain(
        fn.scale_by_factored_rms(n["decay_rate"], n["eps"], min_dim_size_to_factor=2),
        fn.clip_by_block_rms(n["clipping_threshold"]),
        fn.scale_by_param_block_rms(),
        rate(n),
    ),
}


def rate(numbers):
    return fn.scale_by_learning_rate(numbers["learning_rate"])


def rest(numbers, *less):
    return {key: value for key, value in numbers.items() if key not in ("learning_rate", *less)}


def test_every_named_optimizer_is_a_chain():
    assert set(fn.OPTIMIZERS) <= set(CHAINS)


@pytest.mark.parametrize("name", CHAINS)
def test_a_named_optimizer_is_the_chain_of_its_transformations(name):
    """Its decay and rate may be multiplied in another order, and nothing else."""
    build, numbers = OPTIMIZERS[name]
    got, expected = jax.jit(lambda n: (moves(CHAINS[name](n))[0], moves(build(**n))[0]))({k: jnp.float32(v[1]) for k, v in numbers.items()})
    assert_close(got, expected, rtol=1e-5, atol=1e-7)


def test_a_named_optimizer_rounds_once():
    """In bfloat16 a chain rounds at each transformation, and what is named at its end alone."""
    params = jnp.linspace(0.1, 9.0, 99).astype(jnp.bfloat16)
    named, chained = fn.adagrad(0.3, eps=0.1), fn.chain(fn.scale_by_rss(eps=0.1), fn.scale_by_learning_rate(0.3))
    exact, _ = named.update(params.astype(jnp.float32), named.init(params.astype(jnp.float32)))
    once, twice = (opt.update(params, opt.init(params))[0] for opt in (named, chained))
    assert_same_bits(once, exact.astype(jnp.bfloat16))
    assert_close(twice, once, rtol=2**-7, atol=0)
    assert bool(jnp.any(twice != once))


def test_a_rate_of_a_schedule_counts_its_steps():
    opt = fn.scale_by_learning_rate(fn.linear_schedule(0.4, 0.1, 3))
    state = opt.init(jnp.ones(2))
    for expected in (0.4, 0.3, 0.2, 0.1, 0.1):
        updates, state = opt.update(jnp.ones(2), state)
        assert_close(updates, jnp.full(2, -expected))
    assert int(state.step) == 5


def test_a_schedule_makes_nothing_anew():
    """One trace of the optimizer's making serves all steps: a factory is called once, however many steps there are."""
    calls = []

    def schedule(step):
        calls.append(step)
        return 0.1

    opt = fn.adam(schedule)
    assert not calls  # no rate is asked for before the first step
    opt.update(jnp.ones(2), opt.init(jnp.ones(2)))
    assert len(calls) == 1


@mistakes(
    {
        **{
            f"{name} {argument}": (
                lambda name=name, argument=argument: getattr(fn, name)(**{argument: -0.1}),
                ValueError,
                rf"^{name}: {argument} must be in \[0, (1|inf)\), got -0.1$",
                lambda name=name, argument=argument: getattr(fn, name)(**{argument: 0.5}),
            )
            for name in sorted({name for name in CASES if hasattr(fn, name)})
            for argument in CASES[name][1]
        },
        **{
            f"{name} without params": (
                lambda make=make: make().update(jnp.ones(2), ()),
                ValueError,
                rf"^{name}: update needs params for {what}, got None; call update\(grads, state, params\)$",
                lambda make=make: make().update(jnp.ones(2), (), jnp.ones(2)),
            )
            for name, make, what in (
                ("add_decayed_weights", lambda: fn.add_decayed_weights(0.1), "its weight decay"),
                ("scale_by_trust_ratio", fn.scale_by_trust_ratio, "its ratio of norms"),
                ("scale_by_param_block_rms", fn.scale_by_param_block_rms, "the size of its steps"),
            )
        },
        "where picks none": (
            lambda: fn.add_decayed_weights(0.1, where=lambda path, leaf: path == "w").update({"b": jnp.ones(2)}, (), {"b": jnp.ones(2)}),
            ValueError,
            r"^add_decayed_weights: where must pick a leaf, got none of 'b'; such as where=lambda path, leaf: path.startswith\('b'\)$",
            lambda: fn.add_decayed_weights(0.1, where=lambda path, leaf: path == "b").update({"b": jnp.ones(2)}, (), {"b": jnp.ones(2)}),
        ),
        "where is no function": (
            lambda: fn.scale_by_trust_ratio(where="w"),
            TypeError,
            r"^scale_by_trust_ratio: where must be a function of a leaf or of \(path, leaf\), got 'w'",
            lambda: fn.scale_by_trust_ratio(where=lambda leaf: True),
        ),
        "complex numbers": (
            lambda: fn.scale_by_lion().init(jnp.ones(2, jnp.complex64)),
            TypeError,
            "^scale_by_lion: params must be floating-point, got complex64; sgd, momentum and adam take complex numbers$",
            lambda: fn.scale_by_adam().init(jnp.ones(2, jnp.complex64)),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)


def test_every_transformation_says_its_signature():
    for name in sorted({name for name in CASES if hasattr(fn, name)}):
        assert not any(
            each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in inspect.signature(getattr(fn, name)).parameters.values()
        )
    assert np.isfinite(float(moves(fn.scale_by_adam())[0]["bias"].sum()))
