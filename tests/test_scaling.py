"""The scaler: statistics that stay in float64, applied to new rows and taken back from predictions."""

import jax
import numpy as np
import pandas
import pytest

import funcnet as fn

preprocessing = pytest.importorskip("sklearn.preprocessing")

KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, size=(40, 3))
Y = 1.7e9 + 100 * RNG.normal(size=40)
RAW = fn.Split(fn.Dataset(X[:25], Y[:25]), fn.Dataset(X[25:35], Y[25:35]), fn.Dataset(X[35:], Y[35:]))


def test_statistics_are_sklearns_in_float64():
    scale, theirs = fn.scaler(RAW), preprocessing.StandardScaler().fit(X[:25])
    assert all(field.dtype == np.float64 for field in scale)
    np.testing.assert_allclose(scale.x_mean, theirs.mean_, rtol=1e-13)
    np.testing.assert_allclose(scale.x_scale, theirs.scale_, rtol=1e-13)
    new = RNG.normal(size=(7, 3))
    np.testing.assert_allclose(scale.apply(new), theirs.transform(new), rtol=1e-6)
    targets = preprocessing.StandardScaler().fit(Y[:25, None])
    np.testing.assert_allclose(scale.apply(RAW).validation.y, targets.transform(Y[25:35, None])[:, 0], rtol=1e-6)


def test_standardize_is_its_short_form():
    short, long = fn.standardize(RAW), fn.scaler(RAW).apply(RAW)
    for a, b, raw in zip(short, long, RAW, strict=True):
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.y, raw.y)
        train = np.asarray(RAW.train.x)
        np.testing.assert_array_equal(a.x, ((raw.x - train.mean(0)) / train.std(0)).astype(np.float32))  # as it has always been
    np.testing.assert_array_equal(fn.scaler(RAW.train).apply(RAW.train).x, short.train.x)


def test_targets_that_float32_cannot_tell_apart_come_back():
    scale = fn.scaler(RAW)
    done = scale.apply(RAW)
    for part, raw in zip(done, RAW, strict=True):
        assert part.y.dtype == np.float32 and np.abs(part.y).max() < 5
        np.testing.assert_allclose(scale.undo(part.y), raw.y, rtol=0, atol=1e-4)
        assert len(np.unique(scale.undo(part.y))) == len(raw.y)


@pytest.mark.parametrize(
    "y", [np.arange(40) % 3, np.arange(40) % 2 == 0, (np.arange(40) % 2).astype(float), np.arange(40) % 2 * 2.0 - 1], ids=str
)
def test_labels_are_left_as_they_are(y):
    scale = fn.scaler(fn.Dataset(X, y))
    np.testing.assert_array_equal(scale.apply(fn.Dataset(X, y)).y, y)
    np.testing.assert_array_equal(scale.undo(y), y)
    counted = fn.scaler(fn.Dataset(X, y), targets=True)
    np.testing.assert_allclose(counted.apply(fn.Dataset(X, y)).y.std(), 1, rtol=1e-6)
    real = fn.scaler(fn.Dataset(X, Y), targets=False)
    np.testing.assert_array_equal(real.apply(fn.Dataset(X, Y)).y, Y)


def test_weights_and_frames_and_features_that_do_not_vary():
    x = np.hstack([X, np.full((40, 1), 7.0)])
    data = fn.WeightedDataset(pandas.DataFrame(x), Y, np.arange(40.0))
    scale = fn.scaler(data)
    done = scale.apply(data)
    assert isinstance(done, fn.WeightedDataset) and np.all(done.x[:, 3] == 0) and scale.x_scale[3] == 1
    np.testing.assert_array_equal(done.weights, np.arange(40.0))
    np.testing.assert_array_equal(scale.apply(pandas.DataFrame(x)), done.x)
    assert isinstance(fn.standardize(data), fn.WeightedDataset)
    assert scale.apply(fn.Dataset(x[:1], Y[:1])).x.shape == (1, 4)


def test_a_saved_model_takes_raw_rows(tmp_path):
    x = 50 + 10 * np.linspace(-1, 1, 40)[:, None]
    parts = fn.split(fn.Dataset(x, 1000 * x), key=KEY)
    scale = fn.scaler(parts)
    line = fn.training(fn.dense(1), "squared_error", fn.adam(0.1), in_shape=(1,))
    state = fn.fit(line, scale.apply(parts), key=KEY, num_steps=300, batch_size=8).state
    np.savez(tmp_path / "scaler.npz", **scale._asdict())
    with np.load(tmp_path / "scaler.npz") as stored:
        again = fn.Scaler(**stored)
    for name in scale._fields:
        np.testing.assert_array_equal(getattr(again, name), getattr(scale, name))
    raw = np.array([[45.0], [60.0]])
    np.testing.assert_allclose(again.undo(fn.predict(line, state, again.apply(raw))), 1000 * raw, rtol=1e-3)


def test_other_shapes_are_refused():
    scale = fn.scaler(RAW)
    with pytest.raises(ValueError, match=r"apply: each example of x must have shape \(3,\), got \(2,\)"):
        scale.apply(X[:, :2])
    with pytest.raises(ValueError, match=r"apply: each example of x must have shape \(3,\), got \(\); x\[None\] makes a set of one"):
        scale.apply(X[0])
    scale.apply(X[0][None])
    np.testing.assert_array_equal(scale.undo(Y[:, None]), scale.undo(Y)[:, None])
    two = fn.scaler(fn.Dataset(X, X[:, :2]))
    np.testing.assert_allclose(two.undo(two.apply(fn.Dataset(X, X[:, :2])).y), X[:, :2], rtol=1e-5)
    with pytest.raises(ValueError, match=r"undo: each example of y must have shape \(2,\), got \(3,\)"):
        two.undo(X)
    with pytest.raises(ValueError, match=r"apply: x must be finite, got nan at index \(0, 0\)"):
        scale.apply(X * np.nan)
