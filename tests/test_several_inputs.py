"""Several inputs: x may be a dict or a tuple of arrays, wherever a data set goes, and `branches` takes one layer for each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(60, 1, 4, 4)).astype(np.float32)
AGE = RNG.normal(size=(60, 2))
KIND = RNG.integers(0, 3, (60, 1))
Y = (IMAGE.sum((1, 2, 3)) + AGE[:, 0] + KIND[:, 0] > 1).astype(int)
X = {"image": IMAGE, "age": AGE, "kind": KIND}
SHAPES = {"image": (1, 4, 4), "age": (2,), "kind": (1,)}
SETTINGS = dict(key=KEY, num_steps=40, batch_size=8, eval_every=20)


def model(drop=0.1):
    kind = fn.serial(fn.embedding(3, 2), fn.flatten())
    image = fn.serial(fn.avg_pool(2), fn.flatten())
    return fn.serial(fn.branches(image=image, age=fn.dense(3), kind=kind), fn.mlp((8, 2), "relu", drop))


def recipe(learning_rate, l2=1e-4):
    return fn.training(model(), "cross_entropy", fn.adam(learning_rate), in_shape=SHAPES, penalty=fn.l2(l2), metrics=["accuracy"])


def test_a_branch_sees_its_own_input_alone():
    net = fn.branches(image=fn.flatten(), age=fn.dense(3))
    params = net.init(KEY, {"image": (1, 4, 4), "age": (2,)})
    assert params["image"] == () and params["age"]["weight"].shape == (3, 2)
    x = {"image": jnp.asarray(IMAGE[0]), "age": jnp.asarray(AGE[0], jnp.float32)}
    expected = np.concatenate([IMAGE[0].ravel(), params["age"]["weight"] @ x["age"] + params["age"]["bias"]])
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-6)
    batch = jax.tree.map(lambda leaf: jnp.moveaxis(jnp.asarray(leaf[:5], jnp.float32), 0, -1), {"image": IMAGE, "age": AGE})
    together = fn.apply_batch(net, params, batch)
    np.testing.assert_allclose(together[:, 0], expected, rtol=1e-5)
    mapped = jax.vmap(net.apply, (None, 0))(params, {"image": jnp.asarray(IMAGE[:5]), "age": jnp.asarray(AGE[:5], jnp.float32)})
    np.testing.assert_allclose(together.T, mapped, rtol=1e-5, atol=1e-6)


def test_in_order_for_a_tuple():
    net = fn.serial(fn.branches(fn.serial(fn.conv(2, 3), fn.flatten()), fn.dense(3)), fn.dense(2))
    params = net.init(KEY, ((1, 4, 4), (2,)))
    assert net.apply(params, (jnp.asarray(IMAGE[0]), jnp.asarray(AGE[0], jnp.float32))).shape == (2,)
    one = fn.training(net, "cross_entropy", fn.sgd(0.1), in_shape=((1, 4, 4), (2,)))
    assert np.isfinite(fn.fit(one, fn.Dataset((IMAGE, AGE), Y), **SETTINGS).curves["train/loss"]).all()


def test_dropout_in_branches_draws_for_each_of_them():
    net = fn.branches(a=fn.dropout(0.5), b=fn.dropout(0.5))
    params = net.init(KEY, {"a": (64,), "b": (64,)})
    drawn = np.asarray(net.apply(params, {"a": jnp.ones(64), "b": jnp.ones(64)}, key=KEY)) > 0
    assert 0 < drawn.sum() < 128 and (drawn[:64] != drawn[64:]).any()


def test_one_layer_on_all_of_it_joined_is_the_same():
    """A branch for each of two inputs of a linear model is the linear model of both side by side."""
    both = fn.serial(fn.branches(a=fn.flatten(), b=fn.flatten()), fn.dense(1))
    one = fn.training(both, "squared_error", fn.sgd(0.1), in_shape={"a": (2,), "b": (3,)})
    x = RNG.normal(size=(40, 5)).astype(np.float32)
    y = x.sum(1)
    joined = fn.training(fn.serial(fn.serial(), fn.dense(1)), "squared_error", fn.sgd(0.1), in_shape=(5,))
    apart = fn.fit(one, fn.Dataset({"a": x[:, :2], "b": x[:, 2:]}, y), **SETTINGS)
    together = fn.fit(joined, fn.Dataset(x, y), **SETTINGS)
    np.testing.assert_allclose(apart.curves["train/loss"], together.curves["train/loss"], rtol=1e-5)


def test_from_the_split_to_the_prediction():
    parts = fn.split(fn.Dataset(X, Y), key=KEY, stratify=Y, test=0.2)
    row = int(np.argmax((IMAGE == parts.train.x["image"][0]).all((1, 2, 3))))
    np.testing.assert_allclose(parts.train.x["age"][0], AGE[row].astype(np.float32))
    assert parts.train.x["kind"].dtype == np.int32 and Y[row] == parts.train.y[0]
    result = fn.sweep(recipe, fn.grid(learning_rate=[0.001, 0.01, 0.03]), parts, progress=False, **SETTINGS)
    fitted = fn.fit(recipe(0.01), parts, **SETTINGS | {"key": jax.random.fold_in(KEY, 0)})
    for name in result.metrics:
        np.testing.assert_allclose(result.curves[name][1], fitted.curves[name], rtol=1e-4, atol=1e-6, err_msg=name)
    best = result.best()
    scores = result.predict(best.row, parts.test.x)
    assert scores.shape == (12, 2)
    assert result.evaluate(best.row, parts.test)["accuracy"] == pytest.approx(np.mean(scores.argmax(1) == parts.test.y))
    assert result.predict(best.row, jax.tree.map(lambda leaf: leaf[:0], parts.test.x)).shape == (0, 2)


def test_large_sets_are_measured_a_part_at_a_time():
    many = jax.tree.map(lambda leaf: np.concatenate([leaf] * 30)[:1777], X)
    labels = np.concatenate([Y] * 30)[:1777]
    one = recipe(0.01)
    state = one.init(KEY)
    scores = np.asarray(one.predict(state, many))
    assert one.evaluate(state, fn.Dataset(many, labels))["accuracy"] == pytest.approx(np.mean(scores.argmax(1) == labels), rel=1e-6)
    some = jax.tree.map(lambda leaf: leaf[1700:1710], many)
    np.testing.assert_allclose(one.predict(state, some), scores[1700:1710], rtol=1e-5, atol=1e-6)


def test_folds_weights_and_stores(tmp_path):
    data = fn.WeightedDataset(X, Y, fn.class_weights(Y)[Y])
    folds = fn.k_fold(fn.WeightedDataset(*jax.tree.map(lambda leaf: leaf[:59], data)), 3, key=KEY)
    settings = SETTINGS | {"progress": False, "store": tmp_path}
    result = fn.sweep(recipe, fn.grid(learning_rate=[0.01, 0.03]), folds, **settings)
    assert result.table["fold"].tolist() == [0, 1, 2, 0, 1, 2] and "validation/unweighted_loss" in result.metrics
    again = fn.sweep(recipe, fn.grid(learning_rate=[0.01, 0.03]), folds, **settings)
    np.testing.assert_array_equal(again.table["validation/loss"], result.table["validation/loss"])
    swapped = [fold._replace(train=fold.train._replace(x=fold.train.x | {"age": fold.train.x["age"][:, ::-1]})) for fold in folds]
    with pytest.raises(ValueError, match="must hold this very sweep, got another .*data"):
        fn.sweep(recipe, fn.grid(learning_rate=[0.01, 0.03]), swapped, **settings)


def test_a_tuple_of_rows_is_still_a_table():
    rows = tuple(np.arange(3.0) + i for i in range(10))
    np.testing.assert_array_equal(fn.split(fn.Dataset(rows, np.arange(10)), key=KEY, shuffle=False).train.x[:, 0], np.arange(8))


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"age": AGE[:9]}, ValueError, "fit: x and y must have one entry for each example, got 9 or 60 and 60"),
        ({"age": AGE * np.nan}, ValueError, r"fit: x\['age'\] must be finite, got nan at index \(0, 0\)"),
        ({"age": [["a"]] * 60}, TypeError, r"fit: x\['age'\] must hold numbers, got dtype <U1"),
        ({"age": AGE[:, :1]}, ValueError, r"training: each example must have in_shape \{'image': \(1, 4, 4\), 'age': \(2,\)"),
        ({"kind": KIND + 1}, ValueError, r"a symbol must be in the vocabulary, got 3 at index \(\d+, 0\) of x"),
        ({"more": AGE}, ValueError, r"training: each example must have in_shape .*, got .*'more': \(2,\)"),
    ],
    ids=["short", "nan", "text", "shape", "symbol", "another"],
)
def test_inputs_that_will_not_do_are_refused(change, kind, match):
    fit = lambda x: fn.fit(recipe(0.01), fn.Dataset(x, Y), **SETTINGS)
    with pytest.raises(kind, match=match):
        fit(X | change)
    jax.eval_shape(lambda: fit(X))  # checked and traced as ever; nothing is compiled


def test_branches_say_what_does_not_fit():
    net = fn.branches(a=fn.dense(2), b=fn.dense(3))
    with pytest.raises(ValueError, match="branches: in_shape must be a dict with one entry for each of a, b, got a"):
        net.init(KEY, {"a": (2,)})
    with pytest.raises(ValueError, match="branches: in_shape must be a dict with one entry for each of a, b, got 0"):
        net.init(KEY, (2,))
    with pytest.raises(ValueError, match=r"branches: layer b does not fit its input of shape \(1, 2\): dense"):
        net.init(KEY, {"a": (2,), "b": (1, 2)})
    with pytest.raises(ValueError, match="branches: outputs must agree in all axes but the first"):
        fn.branches(fn.dense(2), fn.conv(2, 1)).init(KEY, ((2,), (1, 3)))
    for layers, named in (((), {}), ((fn.dense(1),), {"a": fn.dense(1)})):
        with pytest.raises(ValueError, match="branches: needs layers, either in order or by name, got"):
            fn.branches(*layers, **named)
    with pytest.raises(TypeError, match="branches: x must be a dict with one entry for each of a, b, got"):
        net.apply(net.init(KEY, {"a": (2,), "b": (2,)}), jnp.ones(2))


def test_what_takes_one_array_says_so():
    with pytest.raises(TypeError, match=r"scaler: x must be one array of features, got 3 inputs; scale each by itself"):
        fn.standardize(fn.Dataset(X, Y))
    with pytest.raises(TypeError, match=r"permutation_importance: x must be one array"):
        fn.permutation_importance(recipe(0.1), recipe(0.1).init(KEY), fn.Dataset(X, Y), key=KEY)
    with pytest.raises(ValueError, match=r"predict: each example of x must have shape .*; x\[None\] makes a set of one example"):
        recipe(0.1).predict(recipe(0.1).init(KEY), jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), X))
