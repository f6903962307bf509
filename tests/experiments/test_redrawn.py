"""Runs on data of their own: what differs between seeds, what doesn't, and that the training itself is unchanged."""

import jax
import numpy as np
import pytest

import funcnet as fn
from experiments.redrawn import drawn, numbered, redrawn

GIVEN = numbered(np.linspace(-1, 1, 6)[:, None], np.linspace(-1, 1, 4)[:, None])


def noisy(key, x):
    return x, x + jax.random.normal(key, (1,))


def line(learning_rate):
    return fn.training(fn.dense(1), fn.squared_error, fn.sgd(learning_rate), in_shape=(1,))


@pytest.fixture(scope="module")
def result():
    def recipe(learning_rate):
        return redrawn(line(learning_rate), noisy)

    variants = fn.grid(learning_rate=[0.01, 0.1])
    return fn.sweep(recipe, variants, GIVEN, key=jax.random.key(0), num_steps=20, batch_size=None, replicates=2, progress=False)


def data(result, row):
    return [drawn(noisy, result.state(row).data_key, part) for part in GIVEN[:2]]


def test_seeds_differ_in_their_data_and_variants_of_one_seed_do_not(result):
    by_seed = {}
    for row in range(len(result)):
        train, _ = data(result, row)
        by_seed.setdefault(result.table["replicate"][row], []).append(np.asarray(train.y))
    for own in by_seed.values():
        np.testing.assert_array_equal(own[0], own[1])
    assert not np.isclose(by_seed[0][0], by_seed[1][0]).any()


def test_new_points_have_noise_of_their_own(result):
    train, new = data(result, 0)
    noise = np.concatenate([np.ravel(part.y - part.x) for part in (train, new)])
    assert len(np.unique(noise)) == 10


def test_it_trains_and_scores_as_the_training_does_on_that_data(result):
    for row in range(len(result)):
        train, new = data(result, row)
        plain = line(float(result.table["learning_rate"][row]))
        key = jax.random.fold_in(jax.random.key(0), int(result.table["replicate"][row]))
        init_key, _ = jax.random.split(jax.random.fold_in(key, 0))  # a run's first stream is its initial draw
        state = plain.init(init_key)
        for _ in range(20):
            state, _ = plain.step(state, train, None)
        for part, name in ((train, "train/loss"), (new, "validation/loss")):
            np.testing.assert_allclose(result.table[name][row], plain.evaluate(state, part)["loss"], rtol=1e-5)
