"""The classification net: its scores against scikit-learn's, and against each other."""

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

import funcnet as fn
from experiments import classification_net, regression_net


@pytest.fixture(scope="module")
def outcome():
    yield classification_net.run(quick=True)
    plt.close("all")


def test_the_two_programs_score_by_every_metric_there_is():
    assert set(classification_net.SCORES) | set(regression_net.SCORES) == set(fn.METRICS)


def test_its_scores_are_scikit_learns(outcome):
    finding = outcome.findings[0]
    assert finding.holds and finding.figures["largest difference"] < 1e-5
    means = {name: finding.figures[f"{name}, on the test part"].mean for name in classification_net.SCORES}
    assert 0.95 < means["accuracy"] < means["top_k_accuracy"] <= 1
    assert all(abs(means[name] - means["accuracy"]) < 0.01 for name in ("precision", "recall", "f1"))  # the classes are of one size


def test_a_difference_from_scikit_learn_would_show():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 50, 10)).astype(np.float32), rng.integers(0, 10, (2, 50))
    scores = {name: np.array([fn.METRICS[name](*pair) for pair in zip(logits, targets)]) for name in classification_net.SCORES}
    assert classification_net.agrees_with_scikit_learn(scores, logits, targets).holds
    for name in scores:
        assert not classification_net.agrees_with_scikit_learn({**scores, name: scores[name] + [0, 1e-3]}, logits, targets).holds


def test_the_net_and_the_linear_model_err_by_what_they_are_known_to(outcome):
    linear, net, fewer = outcome.findings[1].figures.values()
    assert fewer.mean == pytest.approx(linear.mean - net.mean)
    assert net.mean == pytest.approx(1 - outcome.findings[0].figures["accuracy, on the test part"].mean)
    assert 0.02 < linear.mean < 0.06


def test_a_net_that_is_no_better_refutes_the_claim():
    same = np.array([0.95, 0.96, 0.97])
    assert not classification_net.beats_a_linear_model(same, same[::-1]).holds
    assert classification_net.beats_a_linear_model(same + 0.02, same + np.array([0.001, 0, -0.001])).holds


def test_the_picture_counts_the_mistakes():
    test = classification_net.digits(jax.random.key(0)).test
    logits = np.eye(10)[test.y]
    logits[:3] = np.eye(10)[(test.y[:3] + 1) % 10]
    table = classification_net.draw_mistakes(test, logits).axes[0]
    plt.close("all")
    assert table.get_title().startswith("3 of 359")
    assert sum(int(text.get_text()) for text in table.texts) == 359
