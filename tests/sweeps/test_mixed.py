"""Sizes that are traced: variants of many widths in one program have the numbers of a program for each."""

import contextlib
import logging
import re
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.sweeps import executors, mixed, rehearsal

RNG = np.random.default_rng(0)
DATA = fn.split(fn.Dataset(RNG.normal(size=(60, 6)).astype(np.float32), RNG.integers(0, 3, 60)), key=jax.random.key(0))
IMAGES = fn.split(fn.Dataset(RNG.normal(size=(40, 1, 5, 5)).astype(np.float32), RNG.integers(0, 3, 40)), key=jax.random.key(0))
WORDS = fn.split(fn.Dataset(RNG.integers(0, 7, (40, 4)), RNG.integers(0, 3, 40)), key=jax.random.key(0))
SETTINGS = dict(key=jax.random.key(1), num_steps=9, batch_size=16, eval_every=4, chunk_size=2, progress=False)  # one width: shared programs


@pytest.fixture(autouse=True)
def compiling_is_slow(monkeypatch):
    """So that one program for all sizes is always the faster way; on one core, also for two sizes."""
    own = mixed.seconds_each_way
    monkeypatch.setattr(mixed, "_COMPILE", 1e3)
    monkeypatch.setattr(rehearsal, "seconds_each_way", lambda *given: own(*given[:-1], 1))


def made(model, optimizer=None, in_shape=(6,), **settings):
    return fn.training(model, fn.cross_entropy, optimizer or fn.adam(1e-2), in_shape=in_shape, metrics=["accuracy"], **settings)


def net(width, learning_rate=1e-2, activation="relu"):
    return made(fn.mlp((width, 3), activation), fn.adam(learning_rate))


def dropping(width, rate=0.3):
    return made(fn.mlp((width, width, 3), "tanh", rate), fn.momentum(0.1), penalty=fn.l2(1e-3))


def two(width, second):
    return made(fn.mlp((width, second, 3), "gelu"), fn.rmsprop(1e-2), penalty=fn.penalty(l1=1e-3, l3=1e-3))


def skipping(width):
    inner = fn.serial(fn.dense(width), fn.activation("silu"), fn.dense(width))
    return made(fn.serial(fn.dense(width), fn.residual(inner), fn.dropout(0.2), fn.dense(3)), fn.adamw(1e-2))


def pictures(width):
    model = fn.serial(fn.conv(width, (3, 3)), fn.activation("relu"), fn.max_pool((2, 2)), fn.global_avg_pool(), fn.dense(3))
    return made(model, fn.sgd(0.1), in_shape=(1, 5, 5))


def flat(width):
    return made(fn.serial(fn.conv(width, (3, 3)), fn.flatten(), fn.dense(3)), in_shape=(1, 5, 5))


def words(width):
    mean = fn.Layer(lambda key, in_shape: (), lambda params, x, *, key=None: x.mean(0))
    return made(fn.serial(fn.embedding(7, width), mean, fn.dense(3)), fn.adagrad(0.1), in_shape=(4,))


def own_layer(width):
    def init(key, in_shape):
        return {"w": jax.random.normal(key, (width, *in_shape)), "g": jnp.ones(width)}

    return made(
        fn.serial(fn.Layer(init, lambda params, x, *, key=None: params["g"] * jnp.tanh(params["w"] @ x)), fn.dense(3)), fn.lion(1e-2)
    )


def clipped(width):
    return made(fn.mlp((width, 3), "relu"), fn.chain(fn.clip_by_global_norm(0.1), fn.adam(1e-2)))


def with_optax(width):
    optax = pytest.importorskip("optax", reason="optax is in the extra [bench]")
    return made(fn.mlp((width, 3), "relu"), optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2)))


def named(width, optimizer):
    return made(fn.mlp((width, 3), "relu"), fn.optimizer(optimizer, 0.01))


def scheduled(width, rate=0.05):
    return made(fn.mlp((width, 3), "relu"), fn.lamb(fn.cosine_decay(rate, 9)))


def with_a_key(width):
    """Its state has a random key and a count beside the net's."""
    plain = net(width)

    def init(key):
        return plain.init(key), key, 0

    def step(state, batch, key):
        inner, own, count = state
        inner, metrics = plain.step(inner, batch, jax.random.fold_in(own, count))
        return (inner, own, count + 1), metrics

    return fn.Training(init, step, lambda state, part: plain.evaluate(state[0], part))


WIDTHS = [3, 9]
THREE = fn.grid(width=[3, 9, 5], learning_rate=[1e-2, 3e-2])
SHARED = {
    "dense": (net, DATA, THREE),
    "traced activations": (net, DATA, fn.grid(width=WIDTHS, activation=fn.traced(["relu", "tanh"]))),
    "traced optimizers": (named, DATA, fn.grid(width=WIDTHS, optimizer=fn.traced(["momentum", "amsgrad"]))),
    "dropout and momentum": (dropping, DATA, fn.grid(width=WIDTHS, rate=[0.2, 0.5])),
    "two sizes": (two, DATA, [dict(width=3, second=7), dict(width=8, second=2)]),
    "residual and adamw": (skipping, DATA, fn.grid(width=WIDTHS)),
    "channels": (pictures, IMAGES, fn.grid(width=WIDTHS)),
    "flattened channels": (flat, IMAGES, fn.grid(width=WIDTHS)),
    "vectors of words": (words, WORDS, fn.grid(width=WIDTHS)),
    "a layer of one's own": (own_layer, DATA, fn.grid(width=WIDTHS)),
    "a random key in the state": (with_a_key, DATA, fn.grid(width=WIDTHS)),
    "clipping by the norm": (clipped, DATA, fn.grid(width=WIDTHS)),
    "optax": (with_optax, DATA, fn.grid(width=WIDTHS)),
    "a schedule, and trust ratios": (scheduled, DATA, fn.grid(width=WIDTHS, rate=[0.01, 0.05])),
}


def traced(variants):
    return [{name: fn.traced(own) if isinstance(own, int) else own for name, own in variant.items()} for variant in variants]


def assert_same_numbers(one, other, rows=None):
    """Of two results; of these rows of the first one."""
    assert one.table.keys() == other.table.keys()
    rows = list(range(len(one)) if rows is None else rows)
    for name in other.table.keys() - {"variant"}:
        ours, theirs = one.table[name][rows], other.table[name]
        if theirs.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    for i, row in enumerate(rows):
        ours, theirs = one.state(row), other.state(i)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(mixed._bare(a), mixed._bare(b), rtol=1e-3, atol=1e-4), ours, theirs)


def programs(result):
    return len(result.timing["lane_widths"])


@pytest.mark.parametrize("name", SHARED)
def test_sizes_in_one_program_have_the_numbers_of_a_program_for_each(name):
    recipe, data, variants = SHARED[name]
    if name == "optax":  # which adds whole numbers to floats
        usual = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    else:
        usual = ()
    with contextlib.ExitStack() as stack:
        for setting in usual:
            stack.enter_context(setting)
        _both_agree(name, recipe, data, variants)


def _both_agree(name, recipe, data, variants):
    together = fn.sweep(recipe, traced(variants), data, **SETTINGS)
    rows = range(len(variants)) if name == "dense" else [i for i, own in enumerate(variants) if own["width"] == 3]  # those filled up
    apart = fn.sweep(recipe, [variants[row] for row in rows], data, **SETTINGS)
    assert programs(together) == 1 and programs(apart) == (3 if name == "dense" else 1)
    assert_same_numbers(together, apart, rows)


def test_a_state_is_of_its_own_size_wherever_it_goes(tmp_path):
    result = fn.sweep(net, traced(THREE), DATA, **SETTINGS, replicates=2, keep=3)
    best = result.best("validation/loss")
    assert best.state.params[0]["weight"].shape == (best.hyperparameters["width"], 6)
    evaluated = result.evaluate(best.row, DATA.validation)
    np.testing.assert_allclose(evaluated["loss"], best.metrics["validation/loss"], rtol=1e-5)
    assert result.predict(best.row, DATA.validation.x).shape == (len(DATA.validation.y), 3)
    result.save(tmp_path / "saved")
    again = fn.load_result(tmp_path / "saved", net)
    jax.tree.map(np.testing.assert_array_equal, again.state(best.row), best.state)
    jax.eval_shape(again.training(best.row).step, best.state, DATA.train, jax.random.key(0))


WAYS = {
    "replicates of their own randomness": (DATA, dict(replicates=2, randomness="independent")),
    "all examples at once": (DATA, dict(batch_size=None)),
    "chunks as wide as suits": (DATA, dict(chunk_size=None)),
    "folds of several sizes": ([DATA, fn.split(fn.Dataset(*DATA.train), key=jax.random.key(3))], {}),
    "a rule that stops runs": (DATA, dict(prune=fn.prune.median())),
    "the best state of each": (DATA, dict(keep_best=True)),
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_else_is_asked_of_the_sweep(way):
    data, more = WAYS[way]
    together = fn.sweep(dropping, fn.grid(width=fn.traced(WIDTHS), rate=[0.2, 0.5]), data, **SETTINGS | more)
    apart = fn.sweep(dropping, fn.grid(width=WIDTHS, rate=[0.2, 0.5]), data, **SETTINGS | more)
    assert programs(together) == 1 and programs(apart) == len(WIDTHS)
    assert_same_numbers(together, apart)


def test_sequences_with_a_label_at_each_step(monkeypatch):
    lengths = RNG.integers(2, 5, 40)
    x = fn.pad([RNG.normal(size=(length, 2)).astype(np.float32) for length in lengths])
    data = fn.split(fn.Dataset(x, fn.pad([RNG.integers(0, 3, length) for length in lengths])), key=jax.random.key(0))

    def recipe(width):
        model = fn.serial(fn.dense(width, leading_axes=1), fn.activation("tanh"), fn.dense(3, leading_axes=1))
        return made(model, in_shape=fn.Padded((4, 2), ()))

    tried, both_ways = [], mixed._both_ways
    monkeypatch.setattr(mixed, "_both_ways", lambda *given: tried.append(len(given[-1].y.length)) or both_ways(*given))
    settings = SETTINGS | {"batch_size": None}
    together, apart = (fn.sweep(recipe, fn.grid(width=own), data, **settings) for own in (fn.traced(WIDTHS), WIDTHS))
    assert programs(together) == 1 and programs(apart) == len(WIDTHS) and tried == [32]
    assert_same_numbers(together, apart)


def test_fewer_examples_than_there_are():
    variants = dict(width=WIDTHS, num_examples=[20, 40])
    together, apart = (
        fn.sweep(net, fn.grid(**own), DATA, **SETTINGS) for own in (variants | {"width": fn.traced(variants["width"])}, variants)
    )
    assert programs(together) == 1
    assert_same_numbers(together, apart)


def test_on_workers():
    variants = traced(THREE)
    here = fn.sweep(net, variants, DATA, **SETTINGS)
    with ThreadPoolExecutor(1) as pool:
        there = fn.sweep(net, variants, DATA, **SETTINGS, executor=pool)
    np.testing.assert_array_equal(there.table["validation/loss"], here.table["validation/loss"])


def test_a_second_sweep_compiles_nothing():
    fn.sweep(net, traced(THREE), DATA, **SETTINGS)
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixed, "_both_ways", None)  # not called either
        again = fn.sweep(net, fn.grid(width=fn.traced([3, 9, 5]), learning_rate=[2e-2, 4e-2]), DATA, **SETTINGS)
    assert again.timing["programs"] == 0


def normalised(width):
    return made(fn.serial(fn.dense(width), fn.layer_norm(), fn.dense(3)))


def recurrent(width):
    return made(fn.serial(fn.embedding(7, 4), fn.recurrent(width, cell="gru"), fn.dense(3)), in_shape=(4,))


def by_width(width):
    return made(fn.mlp((width, 3), "relu"), fn.sgd(0.1 / width))


def shifted(width):
    shift = fn.Layer(lambda key, in_shape: jnp.zeros(()), lambda params, x, *, key=None: jnp.tanh(x + params))
    return made(fn.serial(fn.dense(width), shift, fn.dense(3)))


def clipped_by_blocks(width):
    optax = pytest.importorskip("optax", reason="optax is in the extra [bench]")
    return made(fn.mlp((width, 3), "relu"), optax.chain(optax.clip_by_block_rms(1.0), optax.sgd(0.1)))


def deep(width):
    return made(fn.mlp((*[4] * width, 3), "relu"))


UNLIKE = {
    "a mean over units": (normalised, DATA, "would"),
    "an activation that is not zero at zero": (lambda width: net(width, activation="sigmoid"), DATA, "would not stay zero"),
    "such a one before a norm that is small as yet": (
        lambda width: made(fn.mlp((width, 3), "softplus"), fn.chain(fn.clip_by_global_norm(1e9), fn.sgd(0.1))),
        DATA,
        "would not stay zero",
    ),
    "a shift of all units that begins at zero": (shifted, DATA, "would not stay zero"),
    "a mean over a weight's gradients": (lambda width: made(fn.mlp((width, 3), "relu"), fn.adafactor(1e-2)), DATA, "would"),
    "a mean that only large gradients meet": (clipped_by_blocks, DATA, "would"),
    "gates side by side": (recurrent, WORDS, "would"),
    "a size in a rate": (by_width, DATA, "would"),
    "a depth": (deep, DATA, "differ in structure"),
}


class Enough(Exception):
    """Raised where programs would be compiled: what shares one has been decided."""


@pytest.mark.parametrize("name", UNLIKE)
def test_sizes_that_would_change_the_numbers_have_a_program_each_and_the_log_says_why(name, caplog, monkeypatch):
    recipe, data, why = UNLIKE[name]

    def compile_programs(trial, kind):
        raise Enough

    monkeypatch.setattr(executors, "compile_programs", compile_programs)
    with caplog.at_level(logging.INFO, "funcnet"), pytest.raises(Enough):
        fn.sweep(recipe, fn.grid(width=fn.traced([2, 3])), data, **SETTINGS)
    said = [record.getMessage() for record in caplog.records if "sizes, of" in record.getMessage()]
    assert len(said) == 1 and re.search(rf"width in 2 sizes up to 3: a program for each, since .*({why})", said[0]), said


def test_sizes_that_have_a_program_each_are_trained_as_if_they_were_not_traced():
    widths = [2, 3, 5]
    together, apart = (fn.sweep(normalised, fn.grid(width=own), DATA, **SETTINGS) for own in (fn.traced(widths), widths))
    assert programs(together) == programs(apart) == 3
    for metric in ("train/loss", "validation/loss"):
        np.testing.assert_array_equal(together.table[metric], apart.table[metric])


def test_some_kinds_share_a_program_and_others_have_one_for_each():
    variants = fn.grid(activation=["relu", "sigmoid"], width=[3, 9, 5], learning_rate=[1e-2])
    planned = fn.plan(net, traced(variants), DATA, **SETTINGS)
    assert len(planned.programs) == 1 + 3 and len(planned.notes) == 2
    together, apart = (fn.sweep(net, own, DATA, **SETTINGS) for own in (traced(variants), variants))
    assert programs(together) == 1 + 3
    assert_same_numbers(together, apart)


def narrowing(width, second):
    if second >= width:
        raise ValueError(f"narrowing: second must be below width, got {second} and {width}")
    return made(fn.mlp((width, second, 3), "relu"))


def test_a_largest_that_the_recipe_refuses_is_no_reason_to_refuse_the_others(caplog):
    variants = [dict(width=fn.traced(width), second=fn.traced(second)) for width, second in ((3, 2), (9, 8), (9, 3), (12, 11))]
    variants.append(dict(width=fn.traced(5), second=fn.traced(4)))
    assert programs(fn.sweep(narrowing, variants, DATA, **SETTINGS)) == 1  # (12, 11) is one of them
    crossed = [dict(width=fn.traced(width), second=fn.traced(second)) for width, second in ((-2, -3), (9, 8), (9, 3))]
    with pytest.raises(ValueError, match=r"variant 0 \(width=-2, second=-3\): mlp: every width must be at least 1, got -2"):
        fn.sweep(narrowing, crossed, DATA, **SETTINGS)

    def apart(width, second):
        if width * second > 20:
            raise ValueError("too large")
        return made(fn.mlp((width, second, 3), "relu"))

    with caplog.at_level(logging.INFO, "funcnet"):
        result = fn.sweep(apart, [dict(width=fn.traced(a), second=fn.traced(b)) for a, b in ((2, 9), (9, 2))], DATA, **SETTINGS)
    assert programs(result) == 2 and "filled up to the largest it fails: ValueError: too large" in caplog.text


@pytest.mark.parametrize("more, why", [("store", "a store may grow"), ("evolve", "numbers that evolve")])
def test_what_can_not_be_filled_up_has_a_program_each(more, why, tmp_path):
    given = {"store": tmp_path / "store"} if more == "store" else {"evolve": fn.population()}
    variants = fn.grid(width=fn.traced(WIDTHS), learning_rate=[1e-2, 1e-3])
    planned = fn.plan(net, variants, DATA, **{**SETTINGS, "progress": None} | given)
    assert len(planned.programs) == 2 and why in planned.notes[0] and why in repr(planned)
    result = fn.sweep(net, variants, DATA, **SETTINGS | given)
    assert programs(result) == 2
    if more == "store":
        more_variants = variants + fn.grid(width=fn.traced([5]), learning_rate=[1e-2])
        assert programs(fn.sweep(net, more_variants, DATA, **SETTINGS | given)) == 3


def test_one_size_alone_picks_its_program_without_a_word():
    planned = fn.plan(net, fn.grid(width=fn.traced([5]), learning_rate=[1e-2, 1e-3]), DATA, **SETTINGS)
    assert planned.notes == () and planned.programs[0].static == {"width": 5}


def test_a_plan_says_what_it_does_with_sizes():
    planned = fn.plan(net, traced(THREE), DATA, **SETTINGS)
    assert len(planned.programs) == 1
    assert "sizes" in repr(planned) and "width in 3 sizes up to 9: one program, filled up to the largest, about" in repr(planned)


def test_the_planner_fills_up_only_where_that_is_faster(monkeypatch):
    monkeypatch.undo()
    shapes = tuple(((width, width),) for width in (10, 20, 100))
    sizes = mixed.Sizes(("width",), ((10,), (20,), (100,)), shapes, (100,), ((100, 100),))
    long = [(5, 5_000_000)] * 3
    one, many = mixed.seconds_each_way(sizes, [(5, 500)] * 3, 2e4, 16, 1)
    assert one < many  # next to nothing is trained: compiling decides
    one, many = mixed.seconds_each_way(sizes, long, 2e7, 16, 1)
    assert one > many  # two thirds of the work would be for nothing
    alike = mixed.Sizes(
        ("width",), tuple((width,) for width in range(81, 101)), tuple(((width, width),) for width in range(81, 101)), (100,), ((100, 100),)
    )
    one, many = mixed.seconds_each_way(alike, [(1, 10_000)] * 20, 2e4, 16, 1)
    assert one < many  # chunks of one lane each would not be faster


def test_a_whole_number_that_is_computed_with_stays_an_argument():
    def recipe(length):
        return made(fn.mlp((4, 3), "relu"), fn.sgd(fn.cosine_decay(0.1, length)))

    planned = fn.plan(recipe, fn.grid(length=fn.traced([5, 9, 20])), DATA, **SETTINGS)
    assert len(planned.programs) == 1 and planned.notes == ()


def test_what_the_recipe_computes_now_is_tried_again():
    slope = {"activation": "relu"}

    def recipe(width):
        return made(fn.mlp((width, 3), slope["activation"]))

    variants = fn.grid(width=fn.traced([3, 4]))
    assert programs(fn.sweep(recipe, variants, DATA, **SETTINGS)) == 1
    slope["activation"] = "sigmoid"
    assert programs(fn.sweep(recipe, variants, DATA, **SETTINGS)) == 2
