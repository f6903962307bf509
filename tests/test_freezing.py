"""Some leaves are trained and the others frozen, by every optimizer; and several optimizers, each for leaves of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close, assert_same_bits, check_mistake, lane, mistakes
from registries import TRACED, optimizer_params

import funcnet as fn
from funcnet.option import Option

RATES = (0.05, 0.3)


def trained(path, leaf):
    return not path.startswith("frozen")


NAMED = {
    **fn.OPTIMIZERS,
    "rmsprop_momentum": functools.partial(fn.rmsprop, momentum=0.9, centered=True),
    "lion_decayed": functools.partial(fn.lion, weight_decay=0.1, decay_where=fn.is_weight),
    "adafactor_of_rows": functools.partial(fn.adafactor, min_dim_size_to_factor=2),
    "clipped": lambda rate, where: fn.chain(fn.clip_by_global_norm(1.0), fn.adaptive_clip(0.1), fn.momentum(rate), where=where),
    "scheduled": lambda rate, where: fn.adam(lambda step: rate / (1.0 + jnp.asarray(step, jnp.result_type(float))), where=where),
    "by_name": lambda rate, where: fn.optimizer("adam", rate, where=where),
    **{
        f"traced_{name}": lambda rate, where, i=i: fn.optimizer(Option("optimizer", TRACED, jnp.int32(i)), rate, where=where)
        for i, name in enumerate(TRACED)
    },
}


def descend(optimizer, params, grads, steps=2):
    """The updates of each step, and the last state; of gradients that change."""
    state, updates = optimizer.init(params), []
    for step in range(steps):
        moved, state = optimizer.update(jax.tree.map(lambda g: (1 - 2 * step) * g, grads), state, params)  # noqa: B023
        updates.append(moved)
    return updates, state


@pytest.mark.parametrize("name", NAMED)
def test_frozen_leaves_stand_still_and_count_for_nothing(name):
    """Under jit and vmap over rates, in float32 and bfloat16: the others move as if there were no frozen ones, of which no state is kept; bit
    for bit, whatever their gradients are."""
    dtypes = jnp.float32, jnp.bfloat16
    free, grads = ([optimizer_params(seed, dtype) for dtype in dtypes] for seed in (0, 5))
    frozen = {"a": jnp.full((3, 2), 7.0), "b": [jnp.array(-0.0, jnp.bfloat16)]}
    infinite = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), frozen)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def both(rate, infinite):
        whole = descend(NAMED[name](rate, where=trained), {"free": free, "frozen": frozen}, {"free": grads, "frozen": infinite})
        return whole, descend(NAMED[name](rate, where=None), free, grads)

    (updates, state), (expected, alone) = both(jnp.array(RATES), infinite)
    for moved, of_free in zip(updates, expected, strict=True):
        assert_same_bits(moved["free"], of_free)
        assert jax.tree.structure(moved["frozen"]) == jax.tree.structure(frozen)
        for leaf, p in zip(jax.tree.leaves(lane(moved["frozen"], 0)), jax.tree.leaves(frozen), strict=True):
            assert leaf.dtype == p.dtype
            assert_same_bits(fn.apply_updates(p, leaf), p)
    assert_same_bits(jax.tree.leaves(state), jax.tree.leaves(alone))


@pytest.mark.parametrize("name", fn.OPTIMIZERS)
def test_a_predicate_of_the_leaf_alone(name):
    """Without params too, where the optimizer needs none."""
    params, grads = optimizer_params(), optimizer_params(5)
    opt, plain = fn.OPTIMIZERS[name](0.1, where=fn.is_weight), fn.OPTIMIZERS[name](0.1)
    one = {"weight": params["weight"]}
    expected, _ = plain.update({"weight": grads["weight"]}, plain.init(one), one)
    updates, _ = opt.update(grads, opt.init(params), params)
    assert_same_bits(updates, {**expected, "bias": -jnp.zeros(3)})
    if name not in ("adamw", "lamb", "lars", "adafactor"):
        assert_same_bits(opt.update(grads, opt.init(params))[0], updates)
    assert opt.where is fn.is_weight and plain.where is None and opt._replace(init=len).where is fn.is_weight


def test_each_predicate_of_adamw_is_its_own():
    """What decays is said of the leaves that are trained; a frozen leaf doesn't decay."""
    params = {"body": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "head": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for build in (fn.adamw, fn.lion):
        opt = build(
            0.5, weight_decay=0.1, where=lambda path, leaf: path.startswith("head"), decay_where=lambda path, leaf: path == "head/w"
        )
        updates, _ = opt.update(zeros, opt.init(params), params)
        moved = {"w": jnp.full((2, 2), -0.05), "b": jnp.zeros(2)}
        assert_close(updates, {"body": zeros["body"], "head": moved})


# Several optimizers


def body(path, leaf):
    return path.startswith("0/")


def head(path, leaf):
    return path.startswith("1/")


def parts(dtype=jnp.float32):
    return [optimizer_params(dtype=dtype), optimizer_params(3, dtype), optimizer_params(7, dtype)]


def walk(optimizer, params, steps=20):
    """Down a bowl around one."""

    def step(carry, tilt):
        params, state = carry
        grads = jax.tree.map(lambda p: p - 1 + tilt.astype(p.dtype), params)
        updates, state = optimizer.update(grads, state, params)
        return (jax.tree.map(lambda p, u: p + u, params, updates), state), None

    tilts = jnp.sin(jnp.arange(float(steps)))
    return jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), tilts)[0][0])(params)


def falling(step):
    return 0.1 / (2.0 + step.astype(float))


PAIRS = {
    "adam and sgd": (lambda o: (o.adam(1e-2, where=body), o.sgd(0.1, where=head)), lambda x: (x.adam(1e-2), x.sgd(0.1))),
    "two rates": (lambda o: (o.adam(1e-3, where=body), o.adam(1e-1, where=head)), lambda x: (x.adam(1e-3), x.adam(1e-1))),
    "clipped and decayed": (
        lambda o: (
            o.chain(o.clip_by_global_norm(0.5), o.momentum(0.1), where=body),
            o.adamw(falling, weight_decay=0.1, where=head),
        ),
        lambda x: (
            x.chain(x.clip_by_global_norm(0.5), x.sgd(0.1, momentum=0.9)),
            x.adamw(falling, weight_decay=0.1),
        ),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_optaxs_partition(name):
    """Where a third part is frozen; and optax's own transformations in funcnet's combine, and funcnet's in its."""
    optax = pytest.importorskip("optax", reason="optax is in the extra [bench]")
    ours, theirs = PAIRS[name]
    labels = [{"weight": label, "bias": label} for label in ("body", "head", "frozen")]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        params = parts(jnp.float64)
        expected = walk(
            optax.multi_transform(dict(zip(("body", "head"), theirs(optax))) | {"frozen": optax.set_to_zero()}, labels),
            params,
        )
        assert_close(walk(fn.combine(*ours(fn)), params), expected, rtol=1e-12, atol=1e-14)
        taken = fn.combine(*(fn.chain(opt, where=where) for opt, where in zip(theirs(optax), (body, head))))
        assert_close(walk(taken, params), expected, rtol=1e-12, atol=1e-14)
        chained = optax.chain(optax.identity(), fn.combine(*ours(fn)))
        assert_close(walk(chained, params), expected, rtol=1e-12, atol=1e-14)
        assert_same_bits(expected[2], params[2])


@pytest.mark.parametrize("kind", ["Adam", "SGD", "AdamW"])
def test_agrees_with_torchs_parameter_groups(kind):
    torch = pytest.importorskip("torch", reason="torch is in the extra [bench]")
    make = {
        "Adam": (fn.adam, {}),
        "SGD": (functools.partial(fn.momentum, decay=0.9), {"momentum": 0.9}),
        "AdamW": (functools.partial(fn.adamw, weight_decay=0.1), {"weight_decay": 0.1}),
    }
    build, settings = make[kind]
    with jax.enable_x64(True):
        params = parts(jnp.float64)
        got = walk(fn.combine(build(1e-3, where=body), build(0.1, where=head)), params)
    tensors = [{key: torch.nn.Parameter(torch.tensor(np.asarray(value))) for key, value in part.items()} for part in params]
    groups = [{"params": tensors[0].values(), "lr": 1e-3}, {"params": tensors[1].values(), "lr": 0.1}]
    opt = getattr(torch.optim, kind)(groups, **settings)
    for tilt in np.sin(np.arange(20.0)):
        for part in tensors:
            for tensor in part.values():
                tensor.grad = tensor.detach() - 1 + tilt
        opt.step()
    for part, tensor in zip(got, tensors, strict=True):
        for key in part:
            np.testing.assert_allclose(part[key], tensor[key].detach().numpy(), rtol=1e-10)


def test_a_combination_is_an_optimizer_like_any_other():
    """In another combination, in a chain, with a schedule, under vmap over each of its rates: every part moves as by its optimizer alone."""
    draws = lambda seed: [
        optimizer_params(seed),
        optimizer_params(seed + 2),
        {"cube": jnp.full((2, 2, 2), 1.5 + seed)},
        jnp.ones(4),
        jnp.ones(5),
    ]
    params, grads = draws(0), draws(1)

    def optimizers(rates):
        name = Option("optimizer", ("momentum", "adam"), jnp.int32(1))
        return [
            lambda where: fn.adam(rates[0], where=where),
            lambda where: fn.sgd(lambda step: rates[1] / (1.0 + jnp.asarray(step, jnp.float32)), where=where),
            lambda where: fn.rmsprop(rates[2], where=where),
            lambda where: fn.optimizer(name, rates[3], where=where),
        ]

    def made(rates):
        first, second, third, fourth = optimizers(rates)
        inner = fn.combine(first(body), third(lambda leaf: leaf.ndim == 3), second(head))
        return fn.chain(fn.clip_by_value(1.0), fn.combine(inner, fourth(lambda leaf: leaf.shape == (4,))))

    rates = jnp.array([[0.1, 0.2, 0.3, 0.4], [0.01, 0.5, 0.05, 0.2]])
    together, state = jax.jit(jax.vmap(lambda rates: descend(made(rates), params, grads)))(rates)
    clipped = jax.tree.map(lambda g: jnp.clip(g, -1, 1), grads)
    for i, each in enumerate(rates):
        for part, build in enumerate(optimizers(each)):
            expected, _ = descend(build(None), params[part], clipped[part])
            assert_close([lane(moved[part], i) for moved in together], expected)
    assert not any(np.any(moved[4]) for moved in together)  # the last, which none trains
    counted = (1 + 2 * 9) + 1 + 8 + (1 + 2 * 4)  # a step's number, and of each number trained a mean and a mean square
    assert sum(leaf.size for leaf in jax.tree.leaves(lane(state, 0))) == counted


def test_one_optimizer_alone_may_be_combined():
    params = parts()
    for opt in (fn.sgd(0.1), fn.adam(0.1, where=head)):
        assert_same_bits(walk(fn.combine(opt), params), walk(opt, params))
    assert fn.combine(fn.sgd(0.1)).where is None
    assert fn.combine(fn.sgd(0.1, where=head)).where("1/weight", jnp.ones(2))


def test_a_leaf_of_its_own_kind_is_left_alone():
    """What is frozen may be of any dtype that a gradient has; only what is trained is looked at."""
    params = {"w": jnp.ones((2, 2)), "table": jnp.ones(3, jnp.complex64)}
    opt = fn.lion(0.1, where=lambda path, leaf: path == "w")
    updates, _ = opt.update(params, opt.init(params), params)
    assert_close(updates["w"], jnp.full((2, 2), -0.1))
    assert updates["table"].dtype == jnp.complex64 and not np.any(updates["table"])


# Fine-tuning

X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
DATA = fn.Dataset(X, np.sin(X[:, :1]))
RUN = dict(key=jax.random.key(1), num_steps=6, batch_size=None)  # all in order, so that a sweep draws nothing that a fit doesn't
NET = fn.mlp((5, 1), "tanh")


def pretrained():
    params = NET.init(jax.random.key(0), (3,))
    params[0]["bias"] = params[0]["bias"].at[0].set(-0.0)
    return params


def tuned(optimizer, **settings):
    params = pretrained()
    return fn.training(fn.Layer(lambda key, in_shape: params, NET.apply), fn.squared_error, optimizer, in_shape=(3,), **settings)


def last(path, leaf):
    return path.startswith("3/")


@pytest.mark.parametrize("build", [fn.adamw, fn.lamb, fn.momentum])
def test_a_head_is_trained_alone_and_the_bodys_bits_stay(build):
    """In fit and in a sweep, which is one program for all rates, and is stored."""
    start = pretrained()
    alone = fn.fit(tuned(build(0.05, where=last)), DATA, **RUN).state.params
    together = fn.sweep(lambda rate: tuned(build(rate, where=last)), fn.grid(rate=[0.05, 0.2]), DATA, **RUN)
    assert len(together.timing["lane_widths"]) == 1
    for params in (alone, *(together.state(row).params for row in range(2))):
        assert_same_bits(params[0], start[0])
        assert np.all(np.asarray(params[3]["weight"]) != np.asarray(start[3]["weight"]))
    assert_close(together.state(0).params, alone)
    assert np.any(np.asarray(together.state(1).params[3]["weight"]) != np.asarray(alone[3]["weight"]))


def test_each_part_has_a_traced_rate_of_its_own(tmp_path):
    """Two rates by two are one program, of which each is a fit of its own; in a store and in a file too."""

    def recipe(body_rate, head_rate):
        return tuned(fn.combine(fn.adam(body_rate, where=body), fn.momentum(head_rate, where=last)), penalty=fn.l2(0.1, where=last))

    variants = fn.grid(body_rate=[0.0, 1e-2], head_rate=[0.02, 0.1])
    result = fn.sweep(recipe, variants, DATA, **RUN, store=tmp_path / "store")
    assert len(result.timing["lane_widths"]) == 1 and list(result.table["status"]) == ["completed"] * 4
    again = fn.sweep(recipe, variants, DATA, **RUN, store=tmp_path / "store")
    result.save(tmp_path / "saved")
    loaded = fn.load_result(tmp_path / "saved", recipe)
    for row, variant in enumerate(variants):
        alone = fn.fit(recipe(**variant), DATA, **RUN).state
        assert_close(result.state(row), alone)
        for other in (again, loaded):
            assert_same_bits(other.state(row), result.state(row))
        assert (variant["body_rate"] == 0) == bool(np.all(result.state(row).params[0]["weight"] == pretrained()[0]["weight"]))


def test_a_traced_name_trains_a_part_in_a_sweep():
    def recipe(optimizer, rate):
        return tuned(fn.optimizer(optimizer, rate, where=last))

    together = fn.sweep(recipe, fn.grid(optimizer=fn.traced(["adam", "sgd"]), rate=[0.05]), DATA, **RUN)
    assert len(together.timing["lane_widths"]) == 1
    for row, name in enumerate(("adam", "sgd")):
        assert_same_bits(together.state(row).params[0], pretrained()[0])
        assert_close(together.state(row).params, fn.fit(recipe(name, 0.05), DATA, **RUN).state.params)


def test_a_compiled_step_spares_the_work_that_only_frozen_leaves_need():
    """The gradients of the body, and its optimizer's arithmetic and memory."""
    net = fn.mlp((64, 64, 1))

    def cost(optimizer):
        line = fn.training(net, fn.squared_error, optimizer, in_shape=(64,))
        state, batch = jax.eval_shape(line.init, jax.random.key(0)), fn.Dataset(jnp.ones((32, 64)), jnp.ones((32, 1)))
        work = jax.jit(line.step).lower(state, batch, jax.random.key(0)).compile().cost_analysis()["flops"]
        return work, sum(leaf.size for leaf in jax.tree.leaves(state.optimizer_state))

    (work, memory), (of_all, whole) = cost(fn.adam(0.1, where=lambda path, leaf: path.startswith("6/"))), cost(fn.adam(0.1))
    assert work < of_all / 2 and memory == 1 + 2 * 65 < whole / 50


def test_a_line_search_sees_the_loss_as_a_function_of_what_is_trained():
    """optax's L-BFGS of the head is that of a model whose body is a constant."""
    optax = pytest.importorskip("optax", reason="optax is in the extra [bench]")
    start = pretrained()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        part = fn.fit(tuned(fn.chain(optax.lbfgs(), where=last)), DATA, **RUN).state.params
        of_head = fn.Layer(lambda key, in_shape: start[3], lambda head, x, *, key=None: NET.apply([*start[:3], head], x))
        alone = fn.fit(fn.training(of_head, fn.squared_error, optax.lbfgs(), in_shape=(3,)), DATA, **RUN).state.params
    assert_same_bits(part[0], start[0])
    assert_close(part[3], alone, rtol=1e-4, atol=1e-5)


ONES = [{"w": jnp.ones(2)}, {"w": jnp.ones(2)}]
NONE = r"where must pick a leaf, got none of '0/w', '1/w'; such as where=lambda path, leaf: path.startswith\('0/'\)$"


@mistakes(
    {
        **{
            f"{name} of nothing": (
                lambda build=build: build(0.1, where=lambda path, leaf: path.startswith("2/")).init(ONES),
                ValueError,
                rf"^{name}: {NONE}",
                lambda build=build: build(0.1, where=lambda path, leaf: path.startswith("0/")).init(ONES),
            )
            for name, build in fn.OPTIMIZERS.items()
        },
        **{
            f"{name} of a name": (
                lambda build=build: build(0.1, where="head"),
                TypeError,
                rf"^{name}: where must be a function of a leaf or of \(path, leaf\), got 'head'; such as where=lambda path, leaf: ",
                lambda build=build: build(0.1, where=head),
            )
            for name, build in fn.OPTIMIZERS.items()
        },
        "chain of nothing": (
            lambda: fn.chain(fn.sgd(0.1), where=lambda leaf: leaf.ndim == 2).init(ONES),
            ValueError,
            f"^chain: {NONE}",
            lambda: fn.chain(fn.sgd(0.1), where=lambda leaf: leaf.ndim == 1).init(ONES),
        ),
        "traced name of nothing": (
            lambda: fn.optimizer(Option("optimizer", ("sgd", "adam"), jnp.int32(0)), 0.1, where=lambda leaf: False).init(ONES),
            ValueError,
            f"^optimizer: {NONE}",
            lambda: fn.optimizer(Option("optimizer", ("sgd", "adam"), jnp.int32(0)), 0.1, where=lambda leaf: True).init(ONES),
        ),
        "decay of nothing": (
            lambda: fn.adamw(0.1, decay_where=lambda leaf: False).update(ONES, fn.adamw(0.1).init(ONES), ONES),
            ValueError,
            r"^adamw: decay_where must pick a leaf, got none of '0/w', '1/w'; such as decay_where=lambda path, leaf: ",
            lambda: fn.adamw(0.1, weight_decay=0.0).update(ONES, fn.adamw(0.1).init(ONES), ONES),
        ),
        "a leaf of two": (
            lambda: fn.combine(fn.sgd(0.1, where=body), fn.adam(0.1, where=lambda leaf: True)).init(ONES),
            ValueError,
            r"^combine: one optimizer must train '0/w', got 0 and 1; let their where= exclude each other$",
            lambda: fn.combine(fn.sgd(0.1, where=body), fn.adam(0.1, where=head)).init(ONES),
        ),
        "one without where": (
            lambda: fn.combine(fn.sgd(0.1, where=body), fn.adam(0.1)).init(ONES),
            ValueError,
            r"^combine: one optimizer must train '0/w', got 0 and 1; optimizer 1 has no where=, and trains every leaf$",
            lambda: fn.combine(fn.sgd(0.1, where=body), fn.adam(0.1, where=head)).init(ONES),
        ),
        "one of nothing": (
            lambda: fn.combine(fn.sgd(0.1, where=body), fn.adam(0.1, where=lambda path, leaf: path == "tail")).init(ONES),
            ValueError,
            f"^combine: optimizer 1: {NONE}",
            lambda: fn.combine(fn.sgd(0.1, where=body), fn.adam(0.1, where=head)).init(ONES),
        ),
        "none": (
            lambda: fn.combine(),
            ValueError,
            r"^combine: needs at least one optimizer, got none; such as adam\(1e-4, where=...\)$",
            lambda: fn.combine(fn.sgd(0.1, where=head)),
        ),
        "a factory": (
            lambda: fn.combine(fn.sgd(0.1, where=head), fn.adam),
            TypeError,
            r"^combine: optimizer 1: needs an object with init and update, got <function adam.*such as adam\(1e-3\)$",
            lambda: fn.combine(fn.sgd(0.1, where=head), fn.adam(1e-3, where=body)),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)
