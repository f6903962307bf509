"""The depth experiment: its gradients against the theory of wide random nets, its verdicts against its own figures."""

import jax
import numpy as np
import pytest

import funcnet as fn
from experiments import depth, report

SEED = 1


@pytest.fixture(scope="module")
def outcome():
    return depth.run(quick=True, seed=SEED)


def test_gradients_of_a_relu_net_shrink_as_theory_says():
    """Each layer of relus keeps scale^2 / 2 of the squares, forwards and backwards (He et al., 2015), so that the norm of any
    layer's gradient goes as (scale / sqrt 2)^depth. A narrow net scatters about that; over many seeds the slope is right."""
    batch = fn.Dataset(jax.random.normal(jax.random.key(0), (64, 64)), np.arange(64) % 10)
    keys = jax.random.split(jax.random.key(1), 64)
    scales = np.array([1.0, np.sqrt(2)])
    shallow, deep = (depth.layer_gradients("relu", layers, scales, batch, keys) for layers in (3, 7))
    decades = np.log10(deep[:, :, 0]) - np.log10(shallow[:, :, 0])
    per_layer = [report.interval(values / 4) for values in decades]
    between = report.interval((decades[1] - decades[0]) / 4)
    np.testing.assert_allclose(between.mean, np.log10(np.sqrt(2)), atol=0.02)  # the seeds are shared, and so is their scatter
    assert abs(per_layer[1].mean) < 0.05 and abs(per_layer[0].mean + np.log10(np.sqrt(2))) < 0.05


def test_the_loop_over_stacked_weights_is_the_net_written_out():
    loop = depth.recipe(0.1, 1.0, "tanh", 5, 10).init(jax.random.key(2)).params
    blocks = [loop[0]] + [jax.tree.map(lambda leaf, i=i: leaf[i], loop[2]) for i in range(3)] + [loop[3]]
    written_out = fn.mlp((32, 32, 32, 32, 10), "tanh")
    layers = iter(blocks)
    params = [next(layers) if part else part for part in written_out.init(jax.random.key(0), (64,))]
    x = jax.random.normal(jax.random.key(3), (64,))
    training = depth.recipe(0.1, 1.0, "tanh", 5, 10)
    state = training.init(jax.random.key(2))
    np.testing.assert_allclose(fn.predict(training, state, x[None])[0], written_out.apply(params, x), rtol=1e-5, atol=1e-6)


def test_a_sigmoid_vanishes_by_its_slope_of_a_quarter_a_layer(outcome):
    """At scale 1 a layer passes on at most a quarter of the gradient: eight more layers cost at least 8 log10(4) powers
    of ten, but for what the first layer's larger input makes good."""
    figures = outcome.findings[1].figures
    assert figures["sigmoid, scale 1: powers of ten"].high < -8 * np.log10(4) + 1.5
    assert abs(figures["tanh, scale 1: powers of ten"].mean) < 1.5
    assert figures["tanh, scale 8: powers of ten"].low > 1


def test_verdicts_follow_from_the_figures(outcome):
    shallow, gradients, deep = outcome.findings
    behind = [value for name, value in shallow.figures.items() if "behind by" in name]
    assert shallow.holds == all(difference.high < depth.NEAR for difference in behind) and len(behind) == 1
    assert gradients.holds
    (difference,) = [value for name, value in deep.figures.items() if " behind " in name]
    read = {name: value.mean for name, value in deep.figures.items() if " behind " not in name}
    np.testing.assert_allclose(difference.mean, max(read.values()) - min(read.values()), atol=1e-9)
    assert deep.holds == (difference.low > depth.FAR)


def test_a_claim_that_is_false_is_said_to_be():
    equal = np.array([0.5, 0.6, 0.7])
    accuracy = {("relu", 50): equal, ("tanh", 50): equal + 0.01, ("relu", 2): equal, ("tanh", 2): equal + 0.1}
    choice = {key: value.mean() for key, value in accuracy.items()}
    assert not depth._deep_accuracy(accuracy, choice, ("relu", "tanh"), 50).holds
    assert not depth._any_activation(accuracy, choice, ("relu", "tanh"), [2]).holds
    flat = {name: np.zeros((2, 3)) + [-0.1, 0.0, 0.1] for name in ("relu", "tanh")}
    assert not depth._gradients(flat, np.array([1.0, 2.0]), 50).holds


def test_pictures_show_every_layer_and_every_depth(outcome):
    axes = outcome.pictures["gradients"].axes
    assert [ax.get_title() for ax in axes[:2]] == ["tanh", "sigmoid"]
    assert all(ax.collections[0].get_array().shape == (5, 10) for ax in axes[:2])
    assert [text.get_text() for text in outcome.pictures["accuracy"].axes[0].get_xticklabels()] == ["2", "10"]
