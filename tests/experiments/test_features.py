"""The features experiment: its L1 paths against scikit-learn, its order of features and verdicts against what they are made of."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression

import funcnet as fn
from experiments import features, report


@pytest.fixture(scope="module")
def outcome():
    return features.run(quick=True, seed=0)


@pytest.mark.parametrize(("load", "unique"), [(load_wine, True), (load_breast_cancer, False)])
def test_l1_paths_are_scikit_learns(load, unique):
    """The same objective: C = 1 / (strength * examples), the intercepts free. Two logits share what one has: |w| = |w0| + |w1|.

    Breast cancers' radius and perimeter say the same, so that their weights are not unique: which ones are zero is compared.
    """
    source = load()
    data = fn.standardize(fn.split(fn.Dataset(source.data, source.target), key=jax.random.key(0), validation=0.2, test=0.2))
    strengths = np.array([0.02, 0.1])
    path, _, accuracy = features.l1_path(data, strengths, 8000, jax.random.key(1))
    x, y = (np.asarray(part, float) for part in data.train)
    for strength, weights, share in zip(strengths, path, accuracy, strict=True):
        reference = LogisticRegression(l1_ratio=1.0, C=1 / (strength * len(y)), solver="saga", tol=1e-7, max_iter=100_000)
        reference.fit(x, y)
        wanted = np.abs(reference.coef_).sum(0)
        np.testing.assert_array_equal(weights[wanted == 0] < features.ZERO, True)
        np.testing.assert_array_equal(weights[wanted > 2 * features.ZERO] > features.ZERO, True)
        if unique:
            np.testing.assert_allclose(weights, wanted, atol=features.ZERO)
        assert abs(share - reference.score(data.test.x, data.test.y)) < 1.5 / len(data.test.y)  # at most one example differs


def test_the_last_strength_at_which_a_feature_weighs():
    path = np.array([[0.5, 0.2, 0.0], [0.3, 0.0, 0.0], [0.1, 0.0, 0.0]])
    np.testing.assert_array_equal(features.entry_strengths(path, np.array([0.01, 0.1, 1.0])), [1.0, 0.01, 0.0])


def test_raw_wines_are_hardly_learnt_and_standardized_ones_are(outcome):
    figures = outcome.findings[0].figures
    assert figures["wine, standardized: accuracy on new examples"].mean > 0.9
    assert figures["wine: standardized is ahead by"].low > 0


def test_verdicts_follow_from_the_figures(outcome):
    standardized, few, agree = outcome.findings
    assert standardized.holds == all(value.low > 0 for name, value in standardized.figures.items() if "ahead" in name)
    kept = [value for name, value in few.figures.items() if "keeps" in name]
    lost = [value for name, value in few.figures.items() if "lost" in name]
    assert few.holds == (all(value.high < 0.5 for value in kept) and all(value.high < features.NEAR for value in lost))
    assert agree.holds == all(value.low > 0.5 for value in agree.figures.values())
    assert all(isinstance(value, report.Interval) for finding in outcome.findings for value in finding.figures.values())


def test_a_claim_that_is_false_is_said_to_be():
    noise = np.random.default_rng(0)
    splits = [
        {
            "standardized": {"accuracy": 0.9 + 0.01 * i},
            "raw": {"accuracy": 0.9 + 0.01 * (i % 2)},
            "entry": noise.normal(size=20),
            "importance": noise.normal(size=20),
            "path": np.ones((2, 20)),
            "choice": np.array([0.9, 0.9]),
            "path_accuracy": np.array([0.9, 0.9]),
        }
        for i in range(3)
    ]
    measured = {"made up": splits}
    assert not features._standardized(measured).holds
    assert not features._few_features(measured, np.array([0.1, 1.0])).holds
    assert not features._agreement(measured).holds


def test_pictures_show_both_data_sets(outcome):
    for figure in outcome.pictures.values():
        assert [ax.get_title().split(":")[0] for ax in figure.axes] == ["breast cancer", "wine"]
    assert len(outcome.pictures["l1_paths"].axes[0].lines) == 30 and len(outcome.pictures["l1_paths"].axes[1].lines) == 13
