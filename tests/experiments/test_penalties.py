"""The coefficients against scikit-learn (L1, L2) and SciPy (L3, L4); which are zero; the verdicts."""

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import Lasso, LinearRegression, Ridge

import funcnet as fn
from experiments import penalties as experiment


@pytest.fixture(scope="module")
def paths():
    return experiment.sweep(experiment.patients(), quick=True, key=jax.random.key(0))


@pytest.fixture(scope="module")
def data():
    return tuple(part.astype(float) for part in fn.standardize(experiment.patients()))


def objective(w, x, y, power, strength):
    """The mean squared error plus strength * sum |w|^power; y is centred, so the bias is zero."""
    residual = x @ w - y.ravel()
    slope = 2 * x.T @ residual / len(x) + strength * power * np.abs(w) ** (power - 1) * np.sign(w)
    return np.mean(residual**2) + strength * np.sum(np.abs(w) ** power), slope


@pytest.mark.parametrize("power", [2.0, 3.0, 4.0])
def test_l2_l3_and_l4_are_at_the_minimum_that_scipy_finds(paths, data, power):
    for strength, w in zip(*experiment.coefficients(paths, power)):
        best = minimize(objective, np.zeros(10), (*data, power, strength), jac=True, method="BFGS", options={"gtol": 1e-9}).x
        np.testing.assert_allclose(w, best, atol=1e-3)


def test_l1_is_lasso_and_sets_the_same_coefficients_to_zero(paths, data):
    for strength, w in zip(*experiment.coefficients(paths, 1.0)):
        lasso = Lasso(alpha=strength / 2, tol=1e-6, max_iter=100_000).fit(data[0], data[1].ravel()).coef_
        np.testing.assert_allclose(w, lasso, atol=1e-3)
        np.testing.assert_array_equal(np.abs(w) < experiment.ZERO, lasso == 0)


def test_l2_is_ridge(paths, data):
    for strength, w in zip(*experiment.coefficients(paths, 2.0)):
        ridge = Ridge(alpha=strength * len(data[1])).fit(data[0], data[1].ravel()).coef_
        np.testing.assert_allclose(w, ridge, atol=1e-3)


def test_l1_leaves_nothing_above_the_strength_that_theory_says(paths, data):
    """The subgradient at zero: every |2 x'y / n| is at most the strength."""
    x, y = data
    bound = np.abs(2 * x.T @ y / len(y)).max()
    strengths, w = experiment.coefficients(paths, 1.0)
    np.testing.assert_array_equal((np.abs(w) < experiment.ZERO).all(1), strengths >= bound)


def test_without_penalty_it_is_least_squares(paths, data):
    rows = np.flatnonzero(paths.table["strength"] == 0)
    least_squares = LinearRegression().fit(data[0], data[1].ravel()).coef_
    for row in rows:  # one for each power
        np.testing.assert_allclose(paths.state(row).params["weight"][0], least_squares, atol=2e-3)


def test_a_change_of_sign_is_not_held_at_zero():
    w = np.array([[-0.1, 0.3, 0.0], [0.0, 0.1, 1e-6], [0.1, 0.0, -1e-6], [0.2, 0.0, 0.1]])
    np.testing.assert_array_equal(experiment.held(w).sum(0), [0, 2, 3])


def test_the_verdicts_follow_the_figures(paths):
    zeros, agreement = experiment.zeros(paths), experiment.agreement(paths)
    assert zeros.holds and agreement.holds
    counts = [int(count) for count in zeros.figures["coefficients of 10 that L1 holds at zero, by rising strength"].split(", ")]
    assert counts[0] == 0 and counts[-1] == 10
    assert [zeros.figures[f"that L{power} does, at most"] for power in (2, 3, 4)] == [0, 0, 0]
    better, same = {power: 0.5 for power in experiment.POWERS} | {0.0: 0.6}, {power: 0.6 for power in (0.0, *experiment.POWERS)}
    assert experiment.on_new_patients([better] * 3).holds
    assert not experiment.on_new_patients([same] * 3).holds


def test_the_strength_is_chosen_by_validation_and_scored_on_patients_that_no_choice_has_seen():
    split = fn.split(experiment.patients(), key=jax.random.key(1), **experiment.SHARES)
    assert [len(part.y) for part in split] == [88, 177, 177]
    result = experiment.sweep(split, quick=True, key=jax.random.key(0))
    scaled = fn.standardize(split)
    scores = experiment.chosen(result, scaled.test)
    for power in experiment.POWERS:
        row = min(np.flatnonzero(result.table["power"] == power), key=lambda row: result.table["validation/loss"][row])
        params = result.state(row).params
        predictions = scaled.test.x @ params["weight"].T + params["bias"]
        np.testing.assert_allclose(scores[power], np.mean((predictions - scaled.test.y) ** 2), rtol=1e-5)


def test_run_draws_the_paths_and_the_validation_error(monkeypatch):
    own = experiment.sweep
    results = {}  # one split stands for all of them: the pictures are looked at here, not the figures

    def once(data, quick, key):
        kind = isinstance(data, fn.Split)
        if kind not in results:
            results[kind] = own(data, quick, key)
        return results[kind]

    monkeypatch.setattr(experiment, "sweep", once)
    outcome = experiment.run(quick=True)
    assert [axes.get_title()[:2] for axes in outcome.pictures["paths"].axes] == ["L1", "L2", "L3", "L4"]
    assert outcome.pictures["validation"].axes[0].get_xscale() == "log"
    assert len(outcome.findings) == 3
