"""The precision experiment: what is in how many bits, its verdicts against what they are made of, and the pictures."""

import collections
import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from experiments import precision

TINY = {"MLP": dict(seeds=2, steps=20), "CNN": dict(seeds=2, steps=4)}


def small_cnn(learning_rate, compute, params, choice):
    """The CNN with one convolution, which is compiled in half the time."""
    model = fn.serial(fn.conv(4, 3), fn.activation("relu"), fn.max_pool(4), fn.flatten(), fn.dense(10))
    return precision.training(precision.kept_in(fn.mixed_precision(model, compute), params), (1, 14, 14), learning_rate, choice)


@pytest.fixture(scope="module")
def outcome():
    """As on a GPU, where products have precisions of their own; here their numbers are the same, which is as good for a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "QUICK", TINY)
        patch.setitem(precision.NETS, "CNN", small_cnn)
        patch.setattr(precision, "EXAMPLES", {True: 120})
        patch.setattr(precision, "products_differ", lambda: True)
        patch.setattr(jax, "default_device", lambda device: contextlib.nullcontext())  # which is another configuration, to be compiled for
        return precision.run(quick=True, seed=0)


@pytest.mark.parametrize("net", precision.NETS)
@pytest.mark.parametrize("name", ["float32", "bfloat16", "bfloat16, parameters too"])
def test_what_is_kept_and_what_is_computed_in(net, name):
    own, shape = precision.PRECISIONS[name], {"MLP": (8, 8), "CNN": (1, 14, 14)}[net]
    training = precision.NETS[net](0.01, own.compute, own.params, 1)
    state = jax.eval_shape(training.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.optimizer_state.mean))} == {jnp.dtype(own.params)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.optimizer_state.mean_square)} == {jnp.dtype("float32")}
    batch = fn.Dataset(jax.ShapeDtypeStruct((4, *shape), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32))
    after, _ = jax.eval_shape(training.step, state, batch, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)
    text = jax.jit(training.step).trace(state, batch, jax.random.key(0)).lower(lowering_platforms=("cuda",)).as_text()
    factors = [line.split(" : ")[-1] for line in text.splitlines() if "stablehlo.dot_general" in line or "stablehlo.convolution" in line]
    short = [line for line in factors if "bf16" in line.split("->")[0]]
    # JAX takes a dense layer's products backwards in the dtype of its sums, which is float32; a convolution's are as on the way forward.
    assert len(factors) == 8 and len(short) == (0 if own.compute == "float32" else 3 if net == "MLP" else 6)


def test_all_precisions_start_alike(outcome):
    data = precision.digits(jax.random.key(1))
    found = {
        name: precision.sweep(precision.mlp, data, jax.random.key(2), name, **TINY["MLP"] | {"steps": 1})
        for name in ("float32", "bfloat16")
    }
    whole = precision.rows(found["float32"], precision.PRECISIONS["float32"])
    assert np.sum(whole) == 2 * len(precision.LEARNING_RATES)
    np.testing.assert_array_equal(found["float32"].table["train/loss"][whole], found["bfloat16"].table["train/loss"])


def test_on_a_device_with_such_products_they_are_claims_of_their_own(outcome):
    claims = [finding.claim for finding in outcome.findings]
    assert len(claims) == 5 and "products in tensorfloat32" in claims[0] and "products in bfloat16" in claims[1]
    lost = [value for name, value in outcome.findings[1].figures.items() if "lost" in name]
    assert len(lost) == 2 and all(value == (0, 0, 0) for value in lost)  # on a CPU: not a bit


def test_on_a_cpu_only_bfloat16_changes_numbers_and_elsewhere_the_programs_say_it(outcome):
    finding = outcome.findings[-1]
    assert finding.holds
    assert {name: value for name, value in finding.figures.items() if "end differently" in name} == {
        "runs on a CPU that end differently, products in tensorfloat32": "0 of 10",
        "runs on a CPU that end differently, products in bfloat16": "0 of 10",
        "runs on a CPU that end differently, everything in bfloat16": "10 of 10",
    }
    assert finding.figures["products of a step for cuda, float32"] == "8 HIGHEST"  # 3 forwards, 3 by weights, 2 by inputs


def test_a_word_that_does_not_arrive_is_seen(monkeypatch):
    assert precision.said("tpu", "tensorfloat32") == collections.Counter(HIGH=8)
    key, data = jax.random.key(0), precision.digits(jax.random.key(1))
    sizes = TINY["MLP"]  # whose programs are compiled
    found = {name: precision.sweep(precision.mlp, data, key, name, **sizes) for name in precision.PRODUCTS}
    assert precision.words(found).holds
    monkeypatch.setattr(precision, "said", lambda platform, products: collections.Counter(HIGHEST=7, DEFAULT=1))
    assert not precision.words(found).holds
    monkeypatch.undo()
    other = precision.sweep(precision.mlp, data, jax.random.key(9), "bfloat16", **sizes)
    assert not precision.words(found | {"bfloat16": other}).holds


def made_up(**accuracy):
    names = {"exact": "float32", "short": "bfloat16", "kept": "bfloat16, parameters too"}
    own = {names[name]: {"accuracy": np.array(values), "by_learning_rate": [np.array(values)]} for name, values in accuracy.items()}
    return dict.fromkeys(precision.NETS, own)


def test_verdicts_follow_from_the_figures():
    exact = [0.95, 0.96, 0.97, 0.96]
    near, far = [0.949, 0.958, 0.969, 0.958], [0.91, 0.92, 0.92, 0.91]
    assert precision.cheap(made_up(exact=exact, short=near), "bfloat16", "It").holds
    assert not precision.cheap(made_up(exact=exact, short=far), "bfloat16", "It").holds
    assert not precision.cheap(made_up(exact=exact, short=[0.95, 0.99, 0.90, 0.97]), "bfloat16", "It").holds  # may be: too few seeds to say
    assert precision.parameters_matter(made_up(short=exact, kept=far)).holds
    assert not precision.parameters_matter(made_up(short=exact, kept=[0.95, 0.97, 0.96, 0.96])).holds


def test_pictures_name_the_precisions(outcome):
    for figure in outcome.pictures.values():
        assert len(figure.axes) == 2
    assert outcome.pictures["learning_rates"].axes[1].get_legend_handles_labels()[1] == list(precision.PRECISIONS)
    assert len(outcome.pictures["accuracy"].axes[0].get_yticks()) == 4
