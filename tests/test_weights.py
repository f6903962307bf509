"""Weights from end to end: every way in takes them, and the numbers are those of scikit-learn and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn

KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = np.digitize(X[:, 0] + 0.5 * RNG.normal(size=60), [0.4, 1.3]).astype(np.int32)  # three classes, of 40, 16 and 4
WEIGHTS = RNG.exponential(size=60)
DATA = fn.WeightedDataset(X, Y, WEIGHTS)
SETTINGS = dict(key=KEY, num_steps=12, batch_size=16, eval_every=6)


def softmax(learning_rate=0.1, penalty=None, metrics="accuracy"):
    return fn.training(fn.dense(3), "cross_entropy", fn.sgd(learning_rate), in_shape=(4,), metrics=metrics, penalty=penalty)


@pytest.mark.parametrize("y", [Y, Y[:, None], Y > 0, Y.tolist()], ids=["labels", "column", "bools", "list"])
def test_class_weights_are_sklearns(y):
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.asarray(y).astype(int).ravel()
    expected = sklearn.compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    np.testing.assert_allclose(fn.class_weights(y), expected, rtol=1e-6)
    assert np.mean(fn.class_weights(y)[labels]) == pytest.approx(1)


def test_class_weights_of_classes_without_examples():
    np.testing.assert_allclose(fn.class_weights([0, 0, 0, 2], 4), [4 / 6, 0, 2, 0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"class_weights: labels must be in \[0, 1\], got 2"):
        fn.class_weights([0, 2], 2)
    with pytest.raises(ValueError, match=r"class_weights: labels must be in \[0, 2\], got -1"):
        fn.class_weights([-1, 2])
    with pytest.raises(TypeError, match=r"class_weights: y must hold labels, whole numbers, got float32; such as y.astype\(int\)"):
        fn.class_weights([0.0, 1.0])
    with pytest.raises(ValueError, match=r"class_weights: y must hold one label an example, got shape \(2, 2\)"):
        fn.class_weights([[0, 1], [1, 0]])


@pytest.mark.parametrize("balanced", [False, True])
def test_the_optimum_is_that_of_logistic_regression(balanced):
    """scikit-learn minimises C * sum(w * loss) + |W|^2 / 2: funcnet's objective, times C * sum(w), at l2 = 1 / (2 * C * sum(w))."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    theirs = linear_model.LogisticRegression(C=0.7, class_weight="balanced" if balanced else None, tol=1e-10, max_iter=2000)
    theirs.fit(X.astype(float), Y, sample_weight=None if balanced else WEIGHTS)
    weights = fn.class_weights(Y)[Y] if balanced else WEIGHTS
    params = {"weight": jnp.asarray(theirs.coef_, jnp.float32), "bias": jnp.asarray(theirs.intercept_, jnp.float32)}

    def slope(weights):
        objective = fn.penalized(fn.dense(3), fn.cross_entropy, fn.l2(1 / (2 * 0.7 * float(np.sum(weights)))))
        found = jax.grad(objective)(params, (X, Y, jnp.asarray(weights, jnp.float32)))
        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(found))

    assert slope(weights) < 1e-5 < 1e-3 < slope(np.ones(60))


def test_an_epoch_of_one_batch_is_mlpclassifiers():
    """Both average weighted losses; scikit-learn divides by the number of examples, funcnet by the sum of their weights: alike at a mean of 1.

    partial_fit takes one step of SGD on all of the examples. The weights that it starts from, which it draws itself, are funcnet's after it.
    """
    network = pytest.importorskip("sklearn.neural_network")
    weights = WEIGHTS / WEIGHTS.mean()
    theirs = network.MLPClassifier(
        (5,), "tanh", solver="sgd", momentum=0.0, alpha=0.0, batch_size=60, learning_rate_init=0.3, random_state=0
    )
    theirs.partial_fit(X.astype(float), Y, classes=[0, 1, 2], sample_weight=np.zeros(60) + 1e-12)  # makes the network, and all but stays
    one = fn.training(fn.mlp((5, 3), "tanh"), "cross_entropy", fn.sgd(0.3), in_shape=(4,))
    state = one.init(KEY)
    layers = [layer for layer in state.params if layer]
    for layer, weight, bias in zip(layers, theirs.coefs_, theirs.intercepts_, strict=True):
        layer["weight"], layer["bias"] = jnp.asarray(weight.T, jnp.float32), jnp.asarray(bias, jnp.float32)
    after, metrics = one.step(state, fn.WeightedDataset(X, Y, jnp.asarray(weights, jnp.float32)), KEY)
    theirs.partial_fit(X.astype(float), Y, sample_weight=weights)
    np.testing.assert_allclose(metrics["loss"], theirs.loss_, rtol=1e-5)
    for layer, weight, bias in zip([own for own in after.params if own], theirs.coefs_, theirs.intercepts_, strict=True):
        np.testing.assert_allclose(layer["weight"], weight.T, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(layer["bias"], bias, rtol=1e-4, atol=1e-6)


def test_losses_and_gradients_are_torchs():
    torch = pytest.importorskip("torch")
    by_class = fn.class_weights(Y)
    one = softmax()
    state = one.init(KEY)
    batch = fn.WeightedDataset(X[:16], Y[:16], by_class[Y[:16]])
    weight, bias = (torch.tensor(np.asarray(state.params[name]), requires_grad=True) for name in ("weight", "bias"))
    scores = torch.tensor(X[:16]) @ weight.T + bias
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor(np.array(by_class)))(scores, torch.tensor(Y[:16], dtype=torch.long))
    loss.backward()
    after, metrics = one.step(state, batch, KEY)
    np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-5)
    np.testing.assert_allclose(after.params["weight"], np.asarray(state.params["weight"]) - 0.1 * weight.grad.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one.evaluate(state, batch)["loss"], loss.item(), rtol=1e-5)


def test_every_way_in_takes_weights():
    parts = fn.split(DATA, key=KEY, stratify=Y)
    assert all(isinstance(part, fn.WeightedDataset) for part in parts if part is not None)
    weight_of = {tuple(x): np.float32(weight) for x, weight in zip(X, WEIGHTS, strict=True)}
    for part in (*parts[:2], fn.k_fold(DATA, 3, key=KEY)[0].train, fn.time_series_folds(DATA, 3)[0].validation):
        np.testing.assert_array_equal(part.weights, [weight_of[tuple(x)] for x in part.x])
    scaled = fn.standardize(parts)
    np.testing.assert_array_equal(scaled.train.weights, parts.train.weights)
    fitted = fn.fit(softmax(), parts, **{**SETTINGS, "key": jax.random.fold_in(KEY, 0)})  # as a sweep's first replicate
    names = {"loss", "unweighted_loss", "accuracy"}
    assert set(fitted.curves) == {"step", *(f"{part}/{name}" for part in ("train", "validation") for name in names)}
    result = fn.sweep(softmax, fn.grid(learning_rate=[0.1, 0.5]), parts, progress=False, **SETTINGS)
    for name in fitted.curves.keys() - {"step"}:
        np.testing.assert_allclose(result.curves[name][0], fitted.curves[name], rtol=1e-5)
    assert result.metric == "validation/loss" and result.best("validation/unweighted_loss").row in (0, 1)
    scores = np.asarray(fn.predict(softmax(), fitted.state, parts.validation.x))
    right = scores.argmax(1) == parts.validation.y
    np.testing.assert_allclose(fitted.curves["validation/accuracy"][-1], np.average(right, weights=parts.validation.weights), rtol=1e-6)
    measured = result.evaluate(0, parts.validation)
    for name in ("accuracy", "loss", "unweighted_loss"):
        np.testing.assert_allclose(measured[name], fitted.curves[f"validation/{name}"][-1], rtol=1e-5)
    plain = softmax().evaluate(fitted.state, fn.Dataset(*parts.validation[:2]))["loss"]
    np.testing.assert_allclose(measured["unweighted_loss"], plain, rtol=1e-5)
    importance = fn.permutation_importance(softmax(), fitted.state, parts.validation, key=KEY, repeats=2)
    assert importance.shape == (4, 2)
    assert fn.gradient_norms(fn.dense(3), fitted.state.params, "cross_entropy", parts.train).shape == (1,)


def test_whole_weights_are_repeated_examples():
    """Without minibatches, an example of weight 3 is the same example three times, and one of weight 0 isn't there."""
    counts = RNG.integers(0, 4, 60)
    again = fn.Dataset(np.repeat(X, counts, axis=0), np.repeat(Y, counts))
    settings = dict(key=KEY, num_steps=20, batch_size=None)
    weighted, plain = (fn.fit(softmax(0.5), data, **settings) for data in (fn.WeightedDataset(X, Y, counts), again))
    np.testing.assert_allclose(weighted.state.params["weight"], plain.state.params["weight"], rtol=1e-4, atol=1e-6)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(weighted.curves[f"train/{name}"], plain.curves[f"train/{name}"], rtol=1e-5)


def test_a_loss_says_whether_it_is_weighted():
    mixed = fn.Split(fn.WeightedDataset(X[:40], Y[:40], WEIGHTS[:40]), fn.Dataset(X[40:], Y[40:]))
    fitted = fn.fit(softmax(), mixed, **SETTINGS)
    assert "train/unweighted_loss" in fitted.curves and "validation/unweighted_loss" not in fitted.curves
    result = fn.sweep(softmax, [{"num_examples": 30}], fn.Dataset(X, Y), progress=False, **SETTINGS)
    assert "train/unweighted_loss" not in result.table
    limited = fn.sweep(softmax, [{"num_examples": 30}], DATA, progress=False, **SETTINGS)
    plain = fn.sweep(softmax, [{}], fn.WeightedDataset(X[:30], Y[:30], WEIGHTS[:30]), progress=False, **SETTINGS)
    for name in ("loss", "unweighted_loss", "accuracy"):
        np.testing.assert_allclose(limited.table[f"train/{name}"], plain.table[f"train/{name}"], rtol=1e-5)


def test_a_minibatch_that_counts_nothing_changes_nothing():
    weights = np.zeros(60)
    weights[0] = 1
    fitted = fn.fit(softmax(), fn.WeightedDataset(X, Y, weights), **{**SETTINGS, "batch_size": 2})
    assert np.isfinite(fitted.curves["train/loss"]).all()
    one = softmax()
    state = one.init(KEY)
    after, metrics = one.step(state, fn.WeightedDataset(X[1:3], Y[1:3], jnp.zeros(2)), KEY)
    assert metrics["loss"] == 0
    np.testing.assert_array_equal(after.params["weight"], state.params["weight"])


def test_metrics_that_take_no_weights_are_left_out_with_a_word():
    def error(predictions, targets):
        return jnp.mean(jnp.argmax(predictions, 1) != targets)

    with pytest.warns(RuntimeWarning, match="must take weights=None, .* count alike .*, got 'error' without; left out"):
        found = fn.fit(softmax(metrics=[error, "accuracy"]), DATA, **SETTINGS)
    assert "train/accuracy" in found.curves and "train/error" not in found.curves


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (-WEIGHTS, "weights must be at least 0, got -"),
        (WEIGHTS * 0, "some weight must be above 0, got none"),
        (WEIGHTS[:9], r"weights must have shape \(60,\), got \(9,\); one for each example"),
        (WEIGHTS * np.nan, r"weights must be finite, got nan at index \(0,\)"),
    ],
    ids=["negative", "zero", "short", "nan"],
)
def test_bad_weights_are_refused(weights, match):
    for call in (lambda data: fn.split(data, key=KEY), lambda data: fn.fit(softmax(), data, **SETTINGS)):
        with pytest.raises(ValueError, match=match):
            call(fn.WeightedDataset(X, Y, weights))
        call(DATA)


def test_three_arrays_are_told_apart_from_a_weighted_set():
    with pytest.raises(TypeError, match=r"split: data must be Dataset\(x, y\) or a Split, got tuple; WeightedDataset\(x, y, weights\)"):
        fn.split((X, Y, WEIGHTS), key=KEY)


# scikit-learn's losses with sample_weight, of predictions as a net makes them: (the loss's name, predictions, targets, scikit-learn's).
SCORES, MARGINS, SIDES = RNG.normal(size=(60, 3)), RNG.normal(size=(60, 1)), RNG.integers(0, 2, 60)
COUNTS, VALUES, GUESSES = RNG.poisson(2.0, 60), RNG.normal(size=(60, 2)), RNG.normal(size=(60, 2))


def shares(scores):
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def halved_deviance(metrics, counts, log_rates, weights):
    """The Poisson deviance is twice what the loss lies above the loss of the best rates, the counts themselves."""
    best = np.where(counts > 0, counts - counts * np.log(np.maximum(counts, 1)), 0)
    return metrics.mean_poisson_deviance(counts, np.exp(log_rates), sample_weight=weights) / 2 + np.average(best, weights=weights)


REFERENCES = {
    "squared_error": (GUESSES, VALUES, lambda metrics, weights: metrics.mean_squared_error(VALUES, GUESSES, sample_weight=weights)),
    "absolute_error": (GUESSES, VALUES, lambda metrics, weights: metrics.mean_absolute_error(VALUES, GUESSES, sample_weight=weights)),
    "cross_entropy": (SCORES, Y, lambda metrics, weights: metrics.log_loss(Y, shares(SCORES), sample_weight=weights)),
    "binary_cross_entropy": (
        MARGINS,
        SIDES[:, None],
        lambda metrics, weights: metrics.log_loss(SIDES, 1 / (1 + np.exp(-MARGINS[:, 0])), sample_weight=weights),
    ),
    "hinge": (SCORES, Y, lambda metrics, weights: metrics.hinge_loss(Y, SCORES, sample_weight=weights)),
    "poisson": (MARGINS, COUNTS[:, None], lambda metrics, weights: halved_deviance(metrics, COUNTS, MARGINS[:, 0], weights)),
}


@pytest.mark.parametrize("masks", [False, True], ids=["weights", "mask"])
@pytest.mark.parametrize("name", REFERENCES)
def test_a_weighted_loss_is_scikit_learns_with_sample_weight(name, masks):
    metrics = pytest.importorskip("sklearn.metrics")
    predictions, targets, reference = REFERENCES[name]
    weights = (WEIGHTS > 0.7).astype(float) if masks else WEIGHTS
    given = fn.Layer(lambda key, in_shape: (), lambda params, x, *, key=None: x)
    with jax.enable_x64(True):
        training = fn.training(given, name, fn.sgd(0.1), in_shape=predictions.shape[1:])
        evaluate = jax.jit(training.evaluate)
        found = evaluate(training.init(KEY), fn.WeightedDataset(predictions, targets, weights))
        np.testing.assert_allclose(found["loss"], reference(metrics, weights), rtol=1e-9)
        some = weights > 0
        if masks:  # a mask is the set without the others
            alone = evaluate(training.init(KEY), fn.Dataset(predictions[some], targets[some]))
            np.testing.assert_allclose(found["loss"], alone["loss"], rtol=1e-9)


@pytest.mark.parametrize("loss", sorted(fn.LOSSES))
def test_a_weighted_loss_is_the_weighted_mean_of_what_each_example_loses(loss):
    """Of every loss there is, in training and in evaluation, and of its gradient."""
    targets = {"cross_entropy": Y, "focal": Y, "hinge": Y, "kl_divergence": shares(SCORES[::-1])}.get(loss, np.abs(SCORES[::-1].copy()))
    targets = (targets > 0.5).astype(float) if loss == "binary_cross_entropy" else targets
    with jax.enable_x64(True):
        training = fn.training(fn.dense(3), loss, fn.sgd(1.0), in_shape=(4,))
        state, batch = training.init(KEY), fn.WeightedDataset(X.astype(float), targets, WEIGHTS)

        def mean(params):
            each = jax.vmap(lambda x, y: fn.LOSSES[loss](fn.dense(3).apply(params, x), y))(jnp.asarray(batch.x), jnp.asarray(targets))
            return jnp.average(each, weights=jnp.asarray(WEIGHTS))

        @jax.jit
        def run(state, batch):
            return jax.value_and_grad(mean)(state.params), training.step(state, batch, KEY), training.evaluate(state, batch)

        (value, slope), (after, metrics), evaluated = run(state, batch)
        for found in (metrics["loss"], evaluated["loss"]):
            np.testing.assert_allclose(found, value, rtol=1e-9)
        for name in ("weight", "bias"):
            np.testing.assert_allclose(state.params[name] - after.params[name], slope[name], rtol=1e-7, atol=1e-10)
