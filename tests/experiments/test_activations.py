"""The linear net against logistic regression and the best line; the step's hidden layer; the verdicts."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import funcnet as fn
from experiments import activations as experiment


@pytest.fixture(scope="module")
def results():
    return experiment.trained(quick=True, seed=0)


@pytest.fixture(scope="module")
def data():
    return experiment.problems(seed=0)


def test_a_net_without_activation_is_logistic_regression(results, data):
    for name, split in data.items():
        best = LogisticRegression(C=1e6).fit(*split.train)
        logits = best.decision_function(split.train.x)
        least = np.mean(np.logaddexp(0, logits) - split.train.y * logits)
        losses = results[name].table["train/loss"][experiment.rows(results[name], "identity")]
        np.testing.assert_allclose(losses, least, atol=2e-3)
        if name == "two moons":  # on XOR the best line by cross-entropy is hardly one
            np.testing.assert_allclose(experiment.accuracy(results[name], "identity"), best.score(*split.validation), atol=0.01)


def test_the_best_line_is_found_and_is_right_about_three_corners_of_four():
    corners = fn.Dataset(np.array([[1.0, 1], [-1, 1], [-1, -1], [1, -1]]), np.array([1, 0, 1, 0]))
    assert experiment.best_line(corners) == 0.75
    x = np.random.default_rng(0).normal(size=(400, 2))
    for direction in ([1, 0], [-0.6, 0.8], [0, -1]):
        assert experiment.best_line(fn.Dataset(x, (x @ direction > 0.3).astype(int))) > 0.99


def test_the_corners_are_as_many_of_each_and_a_line_through_them_is_at_chance(data):
    for part in data["XOR"][:2]:
        assert part.y.mean() == pytest.approx(0.5, abs=0.01)
        assert abs(((part.x[:, 0] > 0) == part.y).mean() - 0.5) < 0.05
    assert experiment.best_line(data["XOR"].validation) == pytest.approx(0.75, abs=0.01)


def test_every_claim_holds(results, data):
    lines = {name: experiment.best_line(split.validation) for name, split in data.items()}
    assert experiment.stays_a_line(results, lines).holds
    assert experiment.bends(results, lines).holds
    assert experiment.needs_a_gradient(results, data).holds
    for name in results:
        for activation in ("relu", "tanh", "snake"):
            accuracy = experiment.accuracy(results[name], activation)  # single seeds of relu stop at a straighter boundary
            assert np.max(accuracy) > 0.95 and np.mean(accuracy) > 0.9


def test_the_claims_are_refuted_where_the_line_is_better(results):
    lines = dict.fromkeys(results, 0.4)
    assert not experiment.stays_a_line(results, lines).holds
    assert not experiment.bends(results, dict.fromkeys(results, 1.0)).holds


def test_a_step_moves_no_hidden_weight_by_a_bit(results):
    """Whatever the learning rate, the hidden layer ends as its seed drew it; with tanh it doesn't."""
    result = results["XOR"]

    def hidden(activation, replicate):
        own = np.flatnonzero((result.table["activation"] == activation) & (result.table["replicate"] == replicate))
        return [result.state(row).params[0]["weight"] for row in own]

    for replicate in range(3):
        first, *others = hidden("step", replicate)
        assert all(np.array_equal(first, other) for other in others)
        first, *others = hidden("tanh", replicate)
        assert not any(np.array_equal(first, other) for other in others)


def test_the_step_is_refused_by_name_and_passes_once_it_is_smooth():
    with pytest.raises(ValueError, match=r"step must be differentiable, got a jump from 0 to 1 near x = .*smooth it"):
        fn.activation(experiment.step)
    fn.activation(lambda x: jax.nn.sigmoid(5 * x))


def test_the_drawn_derivatives_are_the_slopes_of_the_drawn_functions(results):
    axes = experiment.draw_functions().axes
    for ax, name in zip(axes, experiment.FUNCTIONS):
        assert ax.get_title().startswith(name)
        function, slope = ax.lines[-2:]
        x, y = function.get_data()
        rise = (y[2:] - y[:-2]) / (x[2:] - x[:-2])
        smooth = np.abs(x[1:-1]) > 0.03  # a kink or a jump is at zero
        np.testing.assert_allclose(slope.get_ydata()[1:-1][smooth], rise[smooth], atol=2e-3)


def test_run_draws_every_activation_trained(results, monkeypatch):
    monkeypatch.setattr(experiment, "trained", lambda quick, seed: results)
    outcome = experiment.run(quick=True)
    assert set(outcome.pictures) == {"functions", "accuracy", "boundaries"}
    labels = [label.get_text() for label in outcome.pictures["accuracy"].axes[0].get_yticklabels()]
    assert labels[::-1] == ["relu", "tanh", "snake", "identity", "step"]  # from top to bottom: bent, then not
