"""num_epochs in place of num_steps: the same run, of as many steps as the epochs have minibatches."""

import jax
import numpy as np
import pytest

import funcnet as fn

KEY = jax.random.key(1)
X = np.linspace(-1, 1, 23)[:, None]
DATA = fn.Dataset(X, 3 * X)


def recipe(learning_rate=0.1):
    return fn.training(fn.dense(1), "squared_error", fn.sgd(learning_rate), in_shape=(1,))


@pytest.mark.parametrize(("batch_size", "steps"), [(5, 12), (23, 3), (None, 3), (12, 3)])
def test_fit_takes_the_steps_of_so_many_epochs(batch_size, steps):
    by_epochs = fn.fit(recipe(), DATA, key=KEY, num_epochs=3, batch_size=batch_size)
    by_steps = fn.fit(recipe(), DATA, key=KEY, num_steps=steps, batch_size=batch_size)
    assert by_epochs.curves["step"].tolist() == [steps]
    np.testing.assert_array_equal(by_epochs.state.params["weight"], by_steps.state.params["weight"])


def test_each_variant_has_the_steps_of_its_own_batches():
    variants = [{"batch_size": 5, "num_examples": 23}, {"batch_size": 5, "num_examples": 11}, {"batch_size": None, "num_examples": 23}]
    result = fn.sweep(recipe, variants, DATA, key=KEY, num_epochs=3, batch_size=4, progress=False)
    assert result.table["steps"].tolist() == [12, 6, 3]
    own = fn.sweep(recipe, [{"num_steps": 7}], DATA, key=KEY, num_epochs=3, batch_size=4, progress=False)
    assert own.table["steps"].tolist() == [7]
    found = fn.plan(recipe, [{}], DATA, key=KEY, num_epochs=2, batch_size=5)
    assert found.runs == 1
    strategy = fn.suggest.quasi_random(fn.space(learning_rate=fn.log_uniform(1e-2, 1e-1)), key=KEY)
    rounds = fn.search(recipe, strategy, DATA, rounds=1, per_round=2, key=KEY, num_epochs=2, batch_size=5, progress=False)
    assert rounds.table["steps"].tolist() == [8, 8]


@pytest.mark.parametrize("name", ["fit", "sweep", "plan", "search"])
def test_just_one_says_how_long(name):
    strategy = fn.suggest.quasi_random(fn.space(learning_rate=fn.log_uniform(1e-2, 1e-1)), key=KEY)
    common = dict(key=KEY, batch_size=5)
    call, where = {
        "fit": (lambda **how: fn.fit(recipe(), DATA, **common, **how), "fit"),
        "sweep": (lambda **how: fn.sweep(recipe, [{}], DATA, **common, **how, progress=False), "sweep"),
        "plan": (lambda **how: fn.plan(recipe, [{}], DATA, **common, **how), "sweep"),
        "search": (lambda **how: fn.search(recipe, strategy, DATA, rounds=1, per_round=1, **common, **how, progress=False), "search"),
    }[name]
    with pytest.raises(
        TypeError, match=f"{where}: needs either num_steps or num_epochs, got neither; an epoch is examples // batch_size steps"
    ):
        call()
    with pytest.raises(TypeError, match=f"{where}: needs either num_steps or num_epochs, got num_steps=8 and num_epochs=2"):
        call(num_steps=8, num_epochs=2)
    with pytest.raises(ValueError, match=f"{where}: num_epochs must be at least 1, got 0"):
        call(num_epochs=0)
    with pytest.raises(TypeError, match=f"{where}: num_epochs must be a whole number, got 1.5"):
        call(num_epochs=1.5)
