"""The hypergradient: against central differences, and against a training run whose derivative is known in closed form."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import funcnet as fn
from experiments import hypergradient


@pytest.fixture(scope="module")
def outcome():
    yield hypergradient.run(quick=True)
    plt.close("all")


def test_it_is_the_derivative(outcome):
    finding = outcome.findings[0]
    assert finding.holds and finding.figures["largest relative difference"] < 1e-6
    assert finding.figures["of derivatives"] == 16  # two hyperparameters in eight seeds


def test_a_wrong_derivative_would_show(monkeypatch):
    right = hypergradient.hypergradient

    def wrong(*arguments):
        values, gradient = right(*arguments)
        return values, gradient * 1.001

    monkeypatch.setattr(hypergradient, "hypergradient", wrong)
    with jax.enable_x64(True):
        assert not hypergradient.agrees_with_differences(*hypergradient.drawn(8, 0)).holds


def test_through_gradient_descent_on_a_parabola_it_is_the_closed_form():
    """w after n steps down w^2 is (1 - 2 rate)^n w0, so the loss's derivative by the log of the rate is known."""

    def loss(log_rate):
        def step(w, batch, key):
            updates, _ = fn.sgd(jnp.exp(log_rate)).update(2 * w, ())
            return fn.apply_updates(w, updates), {"loss": w**2}

        triple = fn.Training(lambda key: jnp.ones(()), step, lambda w, data: {"loss": w**2})
        data = fn.Dataset(jnp.zeros((2, 1)), jnp.zeros((2, 1)))
        return fn.fit(triple, data, key=jax.random.key(0), num_steps=7, batch_size=None).curves["train/loss"][-1]

    rate = 0.1
    derivative = jax.grad(loss)(jnp.log(jnp.asarray(rate, jnp.float32)))
    assert float(derivative) == pytest.approx(-4 * 7 * rate * (1 - 2 * rate) ** 13, rel=1e-5)


def test_descending_it_improves_what_nothing_was_chosen_by(outcome):
    finding = outcome.findings[1]
    assert finding.holds and finding.figures["test loss lower by (share), paired over seeds"].low > 0
    assert finding.figures["validation loss at the end"].mean < finding.figures["validation loss at the start"].mean


def test_findings_can_refute():
    path = np.zeros((3, 4, 2))
    worse = np.array([[1.0, 1.1, 0.9, 1.0], [1.0, 1.1, 0.9, 1.0], [1.2, 1.3, 1.1, 1.25]])
    assert not hypergradient.improves(path, worse, worse).holds and hypergradient.improves(path, worse[::-1], worse[::-1]).holds
    assert hypergradient.beats_random_search(worse[::-1], (worse, worse + [[0.1, 0.12, 0.11, 0.09]])).holds
    assert not hypergradient.beats_random_search(worse, (worse, worse)).holds
    chosen = hypergradient.beats_random_search(worse, (worse[:, ::-1], worse[::-1] + [[0.5], [0.2], [0.0]])).figures
    assert chosen["test loss of random search"].mean == pytest.approx(np.mean(worse[2] + 0.5))  # of the least validation loss
