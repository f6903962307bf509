"""The learning curve against scikit-learn's net on the same digits; every size in one program; the verdicts."""

import jax
import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from experiments import more_data as experiment


@pytest.fixture(scope="module")
def results():
    return experiment.trained(quick=True, seed=0)


@pytest.fixture(scope="module")
def measured(results):
    return {name: np.array([result.table[name] for result in results]) for name in results[0].metrics}


def test_every_size_of_every_split_is_one_program(results):
    assert sum(result.timing["programs"] for result in results) <= 4  # to begin, to draw, to train and to score; fewer if compiled before
    assert all(len(result.timing["lane_widths"]) == 1 for result in results)


def test_the_errors_are_those_of_scikit_learns_net_on_the_same_first_digits(measured):
    """The same width, rule, batch and steps; other initial draws and another order, hence splits are averaged."""
    splits = [experiment.digits(key) for key in jax.random.split(jax.random.key(0), 16)[:6]]
    for size in (20, 160, 1258):
        steps_an_epoch = -(-size // 10)
        settings = dict(hidden_layer_sizes=(64,), learning_rate_init=1e-3, alpha=0, batch_size=10, tol=0, n_iter_no_change=10_000)
        net = MLPClassifier(**settings, max_iter=1000 // steps_an_epoch, random_state=0)
        theirs = []
        for split in splits:
            with pytest.warns(match="Maximum iterations"):
                net.fit(split.train.x[:size], split.train.y[:size])
            theirs.append(1 - net.score(*split.validation))
        ours = measured["validation/error"][:6, experiment.SIZES.index(size)]
        spread = np.std(ours - theirs, ddof=1) / len(splits) ** 0.5
        assert abs(np.mean(ours - theirs)) < 4 * spread + 0.01


def test_with_ten_digits_no_more_classes_are_read_than_were_seen(measured):
    """A digit whose class is not among the ten examples is misread for certain."""
    for seed, key in enumerate(jax.random.split(jax.random.key(0), 16)):
        split = experiment.digits(key)
        unseen = ~np.isin(split.validation.y, split.train.y[:10])
        assert measured["validation/error"][seed, 0] > 0.9 * unseen.mean()


def test_both_claims_hold_and_are_refuted_by_data_that_do_not_help(results, measured):
    assert [finding.holds for finding in experiment.findings(measured, results)] == [True, True]
    shuffled = {name: values[:, ::-1] for name, values in measured.items()}
    assert [finding.holds for finding in experiment.findings(shuffled, results)] == [False, False]


def test_run_draws_the_learning_curve(results, monkeypatch):
    monkeypatch.setattr(experiment, "trained", lambda quick, seed: results)
    outcome = experiment.run(quick=True)
    left, right = outcome.pictures["learning_curve"].axes
    np.testing.assert_array_equal(left.lines[0].get_xdata(), experiment.SIZES)
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["digits trained on", "new digits"]
