"""Gradients layer by layer against closed forms and finite differences; permutation importance against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.inspection
from sklearn.base import BaseEstimator, RegressorMixin

import funcnet as fn

BATCH = fn.Dataset(jax.random.normal(jax.random.key(0), (16, 3)), jax.random.normal(jax.random.key(1), (16, 2)))


def chain(depth, width=2, weight=1.0):
    """Linear layers of weight times the identity, without biases at work: the gradient has a closed form."""

    def diagonal(key, shape, dtype):
        return weight * jnp.eye(*shape, dtype=dtype)

    return fn.serial(*(fn.dense(width, initializer=diagonal) for _ in range(depth)))


@pytest.mark.parametrize("weight", [1e-3, 0.5, 1.0, 2.0])
def test_a_linear_chain_has_the_gradient_of_its_product(weight):
    """y = w^depth x and loss = mean y^2 over 2 outputs: d/dW_l = w^(depth - 1) * y x^T, the same for every layer."""
    depth, x = 6, np.array([[3.0, -1.0]], np.float32)
    model = chain(depth, weight=weight)
    norms = fn.gradient_norms(model, model.init(jax.random.key(0), (2,)), "squared_error", fn.Dataset(x, 0 * x))
    np.testing.assert_allclose(norms, np.full(depth, weight ** (depth - 1) * weight**depth * np.sum(x**2)), rtol=1e-5)


def test_finite_differences_agree():
    model = fn.serial(fn.dense(4), fn.activation("tanh"), fn.layer_norm(), fn.dropout(0.5), fn.mlp((5, 2), "sigmoid"))
    params = model.init(jax.random.key(2), (3,))
    objective = fn.penalized(model, fn.squared_error, fn.l2(0.1))
    with jax.enable_x64(True):
        params, batch = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (params, BATCH))
        norms = fn.gradient_norms(model, params, fn.squared_error, batch, penalty=fn.l2(0.1))
        leaves, tree = jax.tree.flatten(params)
        squares = []
        for place, leaf in enumerate(leaves):
            slopes = []
            for index in np.ndindex(leaf.shape) if leaf.ndim > 1 else ():
                either = [
                    objective(tree.unflatten([*leaves[:place], leaf.at[index].add(step), *leaves[place + 1 :]]), batch)
                    for step in (1e-5, -1e-5)
                ]
                slopes.append((either[0] - either[1]) / 2e-5)
            squares.append(float(np.sum(np.square(slopes))))
    weights = [square for square, leaf in zip(squares, leaves, strict=True) if leaf.ndim > 1]
    assert norms.shape == (3,)  # the dense layer and the two of the mlp: the others have no weights
    np.testing.assert_allclose(norms, np.sqrt(weights), rtol=1e-7)


def test_many_variants_under_jit_equal_each_alone():
    """Over the params, an activation's steepness and a penalty's strength at once."""

    def norms(params, steepness, strength):
        model = fn.serial(fn.dense(4), fn.activation(lambda z: jnp.tanh(steepness.astype(z.dtype) * z)), fn.dense(2))
        return fn.gradient_norms(model, params, fn.squared_error, BATCH, penalty=fn.l2(strength))

    model = fn.mlp((4, 2))
    bare = [jax.vmap(lambda key: model.init(key, (3,)))(jax.random.split(jax.random.key(3), 5))[i] for i in (0, 1, 3)]
    steepness, strength = jnp.linspace(0.1, 2.0, 5), jnp.logspace(-3, 0, 5)
    together = jax.jit(jax.vmap(norms))(bare, steepness, strength)
    alone = [norms(jax.tree.map(lambda leaf, i=i: leaf[i], bare), steepness[i], strength[i]) for i in range(5)]
    assert together.shape == (5, 2)
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-5)


def test_what_would_overflow_or_underflow_when_squared_is_a_norm_all_the_same():
    small = jnp.full((1, 2), 1e-13)
    for x, expected in [(small, 2e-26), (1e26 * small, 2e26)]:
        model = chain(1)
        norms = fn.gradient_norms(model, model.init(jax.random.key(0), (2,)), "squared_error", fn.Dataset(x, 0 * x))
        np.testing.assert_allclose(norms, [expected], rtol=1e-5)
    zero = jnp.zeros((1, 2))
    assert fn.gradient_norms(model, model.init(jax.random.key(0), (2,)), "squared_error", fn.Dataset(zero, zero)) == 0


def test_a_gradient_that_is_not_finite_is_not_called_finite():
    model = chain(1)
    params = model.init(jax.random.key(0), (2,))
    for bad in (jnp.nan, jnp.inf):
        assert not np.isfinite(fn.gradient_norms(model, params, "squared_error", fn.Dataset(jnp.full((1, 2), bad), jnp.zeros((1, 2)))))


def test_a_key_turns_dropout_on_and_where_chooses_the_leaves():
    model = fn.mlp((8, 2), "relu", 0.5)
    params = model.init(jax.random.key(0), (3,))
    still = fn.gradient_norms(model, params, "squared_error", BATCH)
    assert not np.allclose(still, fn.gradient_norms(model, params, "squared_error", BATCH, key=jax.random.key(1)))
    biases = fn.gradient_norms(model, params, "squared_error", BATCH, where=lambda leaf: leaf.ndim == 1)
    residuals = 2 * (jax.vmap(model.apply, (None, 0))(params, BATCH.x) - BATCH.y) / 2
    np.testing.assert_allclose(biases[-1], np.linalg.norm(np.mean(residuals, axis=0)), rtol=1e-5)
    one_layer = fn.dense(2)
    assert fn.gradient_norms(one_layer, one_layer.init(jax.random.key(0), (3,)), "squared_error", BATCH).shape == (1,)


def test_gradient_norms_refuses_what_it_cannot_use():
    model = fn.mlp((4, 2))
    params = model.init(jax.random.key(0), (3,))
    with pytest.raises(ValueError, match=r"gradient_norms: unknown loss 'squared_eror'; did you mean 'squared_error'\?"):
        fn.gradient_norms(model, params, "squared_eror", BATCH)
    with pytest.raises(ValueError, match=r"gradient_norms: where must pick a leaf, got none of '0/bias', '0/weight'"):
        fn.gradient_norms(model, params, "squared_error", BATCH, where=lambda leaf: leaf.ndim == 7)
    with pytest.raises(TypeError, match="model must be a Layer"):
        fn.gradient_norms(params, params, "squared_error", BATCH)


# ---- permutation importance


def linear(**kwargs):
    return fn.training(fn.dense(1), fn.squared_error, fn.sgd(0.1), in_shape=(3,), **kwargs)


def state_of(training, weights):
    state = training.init(jax.random.key(0))
    return state._replace(params={"weight": jnp.asarray([weights]), "bias": jnp.zeros(1)})


@pytest.fixture(scope="module")
def scored():
    """A linear model that is exactly right, on features of unlike spread."""
    x = np.asarray(jax.random.normal(jax.random.key(4), (500, 3))) * np.array([1.0, 2.0, 5.0], np.float32)
    weights = np.array([1.0, -1.0, 0.0], np.float32)
    return x, weights, fn.Dataset(x, x @ weights[:, None])


def test_importance_of_a_linear_model_is_twice_its_weights_share_of_the_variance(scored):
    """Shuffling x_j adds w_j (x'_j - x_j) to an error of 0: 2 w_j^2 Var(x_j) in the mean over shuffles."""
    x, weights, data = scored
    training = linear()
    importance = fn.permutation_importance(training, state_of(training, weights), data, key=jax.random.key(5), repeats=400)
    assert importance.shape == (3, 400)
    mean, error = importance.mean(1), importance.std(1) / np.sqrt(400)
    np.testing.assert_array_less(np.abs(mean - 2 * weights**2 * x.var(0)), 4 * error + 1e-6)
    np.testing.assert_array_equal(importance[2], 0)


class Exact(RegressorMixin, BaseEstimator):
    """The same model for scikit-learn."""

    def __init__(self, weights=None):
        self.weights = weights

    def fit(self, x, y):
        self.fitted_ = True
        return self

    def predict(self, x):
        return x @ self.weights


def test_scikit_learn_agrees_in_distribution(scored):
    x, weights, data = scored
    noisy = data.y + np.asarray(jax.random.normal(jax.random.key(6), data.y.shape))
    training = linear(metrics=["r2"])
    state = state_of(training, weights)
    repeats = 200
    ours = fn.permutation_importance(training, state, fn.Dataset(x, noisy), key=jax.random.key(7), metric="r2", mode="max", repeats=repeats)
    theirs = sklearn.inspection.permutation_importance(
        Exact(weights).fit(x, noisy[:, 0]), x, noisy[:, 0], scoring="r2", n_repeats=repeats, random_state=0
    ).importances
    assert ours.shape == theirs.shape
    error = np.sqrt((ours.var(1) + theirs.var(1)) / repeats)
    np.testing.assert_array_less(np.abs(ours.mean(1) - theirs.mean(1)), 4 * error + 1e-6)
    np.testing.assert_allclose(ours.std(1), theirs.std(1), rtol=0.25, atol=1e-6)  # 4 standard errors of a deviation of 200


def test_any_training_will_do_and_the_whole_may_be_jitted_and_vmapped(scored):
    _, weights, data = scored

    def evaluate(state, dataset):
        return {"error": jnp.mean(jnp.abs(dataset.x @ state - dataset.y[:, 0]))}

    other = fn.Training(lambda key: weights, lambda state, batch, key: (state, {}), evaluate)

    def importance(state):
        return fn.permutation_importance(other, state, data, key=jax.random.key(8), metric="error", repeats=3)

    states = jnp.stack([weights, 2 * weights])
    together = jax.jit(jax.vmap(importance))(states)
    np.testing.assert_allclose(together, jnp.stack([importance(state) for state in states]), rtol=1e-4, atol=1e-5)


def test_permutation_importance_refuses_what_it_cannot_use(scored):
    x, weights, data = scored
    training = linear()
    state = state_of(training, weights)
    with pytest.raises(ValueError, match=r"permutation_importance: unknown metric 'los'; did you mean 'loss'\?"):
        fn.permutation_importance(training, state, data, key=jax.random.key(0), metric="los")
    with pytest.raises(ValueError, match="unknown mode 'most'"):
        fn.permutation_importance(training, state, data, key=jax.random.key(0), mode="most")
    with pytest.raises(ValueError, match=r"x must have shape \(examples, features\), got \(500,\); x\[:, None\]"):
        fn.permutation_importance(training, state, fn.Dataset(x[:, 0], data.y), key=jax.random.key(0))
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        fn.permutation_importance(training, state, data, key=jax.random.key(0), repeats=0)


# ---- predictions


def test_predict_says_what_the_model_says():
    model = fn.mlp((8, 2), "tanh", 0.5)
    training = fn.training(model, fn.squared_error, fn.sgd(0.1), in_shape=(3,))
    state, x = training.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (700, 3))  # more than one batch of an evaluation
    np.testing.assert_allclose(fn.predict(training, state, x), jax.vmap(model.apply, (None, 0))(state.params, x), rtol=1e-5, atol=1e-6)


def test_predict_on_one_row_and_on_none():
    """One row is told to be a set of one; none gives none, of the shape and dtype that there would be."""
    for model, in_shape in ((fn.mlp((3, 2)), (4,)), (fn.serial(fn.conv(2, 3), fn.flatten()), (1, 6)), (fn.embedding(5, 2), (4,))):
        one = fn.training(model, lambda p, t: jnp.mean(p), fn.sgd(0.1), in_shape=in_shape)
        state, x = one.init(jax.random.key(0)), np.ones((3, *in_shape), np.int32)
        rows = fn.predict(one, state, x)
        none = fn.predict(one, state, x[:0])
        assert none.shape == (0, *rows.shape[1:]) and none.dtype == rows.dtype
        assert jax.jit(one.predict)(state, x[:0]).shape == none.shape
        with pytest.raises(
            ValueError, match=r"predict: each example of x must have shape \(.*\), got \(.*\); x\[None\] makes a set of one example"
        ):
            fn.predict(one, state, x[0])
        np.testing.assert_allclose(fn.predict(one, state, x[0][None]), rows[:1], rtol=1e-6)
        np.testing.assert_allclose(fn.predict(one, state, x.tolist()), rows, rtol=1e-6)
        with pytest.raises(ValueError, match=r"predict: each example of x must have shape"):
            fn.predict(one, state, np.ones((3, 9)))


def test_predict_refuses_a_training_that_cannot():
    foreign = fn.Training(lambda key: 0.0, lambda state, batch, key: (state, {}), lambda state, dataset: {"loss": state})
    with pytest.raises(
        TypeError, match=r"predict: the training must say how to predict, got none; Training\(init, step, evaluate, predict=...\)"
    ):
        fn.predict(foreign, 0.0, jnp.ones((2, 1)))
    foreign = foreign._replace(predict=lambda state, x: state + x)
    np.testing.assert_array_equal(fn.predict(foreign, 1.0, jnp.ones((2, 1))), 2)
