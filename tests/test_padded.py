"""Sequences of different lengths: every number is that of the sequences one by one, whatever stands in the padding."""

import functools
import pickle
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as theirs
from properties import assert_close, check_mistake, mistakes
from registries import LOSSES as LOSS_CASES
from registries import variant

import funcnet as fn
from funcnet import losses, metrics
from funcnet.data import part_digest
from funcnet.layers.steps import each_step

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
TIME, LENGTHS = 4, (2, 4)
SYMBOLS = 4
INSIDE = np.arange(TIME)[None] < np.array(LENGTHS)[:, None]  # (examples, time)


def sequences(rest=(4,), seed=0):
    return [np.random.default_rng((seed, i)).normal(size=(length, *rest)).astype(np.float32) for i, length in enumerate(LENGTHS)]


def poisoned(arrays, size=TIME):
    """Padded with what no layer could take: NaN, or a symbol out of any vocabulary."""
    whole = np.issubdtype(arrays[0].dtype, np.integer)
    padded = fn.pad(arrays, size, -7 if whole else np.nan)
    return jax.tree.map(jnp.asarray, padded)


def last(padded):
    """A data set's arrays as a batch's."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), padded)


def root_of_square(x):
    return jnp.sqrt(x * x)  # whose slope at zero is NaN


def _rooted():
    @each_step("rooted")
    def apply(params, x, *, key=None):
        return root_of_square(params["scale"] * x)

    return fn.Layer(lambda key, in_shape: {"scale": jnp.ones(())}, apply)


def _by_hand():
    """A layer of one's own, given one example as a Padded."""

    def apply(params, x, *, key=None):
        inside = jnp.arange(len(x.values)) < x.length
        return fn.Padded(jnp.where(inside[:, None], 2 * x.values, 0), x.length)

    return fn.Layer(lambda key, in_shape: (), apply)


LAYERS = {
    "rnn": lambda: fn.recurrent(3),
    "lstm": lambda: fn.recurrent(3, cell="lstm"),
    "gru_sequence": lambda: fn.recurrent(3, cell="gru", return_sequence=True),
    "both_ways": lambda: fn.bidirectional(fn.recurrent(3)),
    "both_ways_sequence": lambda: fn.bidirectional(fn.recurrent(2, return_sequence=True)),
    "attention": lambda: fn.attention(2),
    "attention_causal": lambda: fn.attention(1, causal=True),
    "attention_masked": lambda: fn.attention(2, mask=lambda x: (x[:, 0] > 0)[None]),
    "mean": fn.global_avg_pool,
    "largest": fn.global_max_pool,
    "embedding": lambda: fn.embedding(SYMBOLS, 3),
    "dense": lambda: fn.dense(3, leading_axes=1),
    "activation": lambda: fn.activation("gelu"),
    "slope_nan_at_zero": _rooted,
    "dropout": lambda: fn.dropout(0.5),
    "layer_norm": fn.layer_norm,
    "rms_norm": fn.rms_norm,
    "softmax": fn.softmax,
    "prelu": fn.prelu,
    "positional_encoding": fn.positional_encoding,
    "positional_embedding": fn.positional_embedding,
    "residual": lambda: fn.residual(fn.dense(4, leading_axes=1)),
    "parallel": lambda: fn.parallel(fn.dense(2, leading_axes=1), fn.layer_norm()),
    "parallel_of_vectors": lambda: fn.parallel(fn.global_avg_pool(), fn.global_max_pool()),
    "mixed_precision": lambda: fn.mixed_precision(fn.serial(fn.dense(3, leading_axes=1), fn.softmax()), "float32"),
    "weight_norm": lambda: fn.weight_norm(fn.dense(3, leading_axes=1)),
    "drop_connect": lambda: fn.drop_connect(fn.dense(3, leading_axes=1), 0.5),
    "by_hand": lambda: fn.serial(fn.dense(3, leading_axes=1), _by_hand(), fn.global_avg_pool()),
    "transformer": lambda: fn.serial(
        fn.positional_encoding(), fn.residual(fn.serial(fn.layer_norm(), fn.attention(2))), fn.global_avg_pool(), fn.dense(2)
    ),
}


# Of an array these pool, or join, along another axis; a sequence alone is a Padded without padding.
POOLED = {"mean", "largest", "parallel", "parallel_of_vectors", "by_hand", "transformer"}


def test_the_layers_are_all_that_take_sequences():
    """Each public layer is here, or among those that refuse a Padded."""
    factories = {name for name, value in vars(fn.layers).items() if callable(value) and name.islower() and hasattr(fn, name)}
    here = {"recurrent", "bidirectional", "global_avg_pool", "global_max_pool", "serial", "out_shape", "apply_batch", *LAYERS}
    elsewhere = {"branches", "mlp"}  # below; a serial of what is here
    assert factories - here - elsewhere == {name.partition(" ")[0] for name in REFUSED} - {"dense", "prelu"}


def _one_by_one(layer, params, values, like, alone):
    """The outputs for each sequence alone, without its padding, laid out as those of all of them."""
    outputs = [layer.apply(params, alone(values[i, :length])) for i, length in enumerate(LENGTHS)]
    if isinstance(outputs[0], fn.Padded):
        outputs = [y.values for y in outputs]
    if not isinstance(like, fn.Padded):
        return jnp.stack(outputs, -1)
    filled = [jnp.pad(y, ((0, TIME - len(y)), *((0, 0),) * (y.ndim - 1))) for y in outputs]
    return fn.Padded(jnp.stack(filled, -1), jnp.array(LENGTHS, jnp.int32))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_the_numbers_of_the_sequences_one_by_one(name):
    """Outputs and gradients in parameters and inputs, of two variants under vmap."""
    layer = LAYERS[name]()
    symbols = name == "embedding"
    rest = () if symbols else (4,)
    arrays = [RNG.integers(0, SYMBOLS, length) for length in LENGTHS] if symbols else sequences(rest)
    x = poisoned([array.astype(np.int32) for array in arrays] if symbols else arrays)
    shape = fn.Padded((TIME, *rest), ())
    params = jax.jit(jax.vmap(lambda key: layer.init(key, shape)))(jax.random.split(KEY, 2))

    def outputs(params, values, apart):
        y = fn.apply_batch(layer, params, last(x._replace(values=values)))
        alone = (lambda x: fn.Padded(x, len(x))) if name in POOLED else jnp.asarray
        return _one_by_one(layer, params, values, y, alone) if apart else y

    def total(params, values, apart):
        y = outputs(params, values, apart)
        first = jax.tree.leaves(y)[0]
        return jnp.sum(first * jnp.cos(1.0 + jnp.arange(first.size, dtype=first.dtype)).reshape(first.shape)), y

    @jax.jit
    @jax.vmap
    def run(params, values):
        slopes = jax.value_and_grad(total, (0,) if symbols else (0, 1), has_aux=True)
        return [(y, grads) for (_, y), grads in (slopes(params, values, apart) for apart in (False, True))]

    got, expected = run(params, np.stack([x.values, x.values if symbols else 2 * x.values]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    assert_close(got, expected)
    if not symbols:
        assert not np.any(got[1][1][0][~INSIDE]), "what stands after a length has no slope"
    promised = fn.out_shape(layer, shape, jnp.int32 if symbols else None)
    one = jax.eval_shape(layer.apply, jax.tree.map(lambda leaf: leaf[0], params), jax.tree.map(lambda leaf: leaf[0], x))
    assert promised == jax.tree.map(lambda leaf: leaf.shape, one)
    if isinstance(one, fn.Padded):
        assert not np.any(np.moveaxis(np.asarray(got[0].values), -1, 1)[:, ~INSIDE]), "zero after the length"


def test_pools_are_closed_forms():
    x = last(poisoned(sequences()))
    for layer, reduce in ((fn.global_avg_pool(), np.mean), (fn.global_max_pool(), np.max)):
        expected = np.stack([reduce(array, axis=0) for array in sequences()], -1)
        np.testing.assert_allclose(fn.apply_batch(layer, (), x), expected, rtol=1e-6)


def test_dropout_draws_for_real_steps_and_keeps_the_padding_zero():
    layer, x = fn.dropout(0.5), last(poisoned(sequences((50,))))
    y = fn.apply_batch(layer, (), x, key=KEY)
    values, inside = np.moveaxis(np.asarray(y.values), -1, 0), np.asarray(INSIDE)
    assert np.isfinite(values).all() and not values[~inside].any()
    share = np.mean(values[inside] == 0)
    assert 0.4 < share < 0.6
    np.testing.assert_allclose(
        values[inside][values[inside] != 0], 2 * np.moveaxis(np.asarray(x.values), -1, 0)[inside][values[inside] != 0]
    )


def test_one_example_and_a_length_as_a_number():
    layer = fn.recurrent(3)
    params = layer.init(KEY, fn.Padded((TIME, 4), ()))
    (x, *_), values = sequences(), np.asarray(poisoned(sequences()).values)[0]

    @jax.jit
    def run(params):
        number = layer.apply(params, fn.Padded(values, LENGTHS[0]))
        return layer.apply(params, jnp.asarray(x)), number, jax.vmap(layer.apply, (None, 0))(params, poisoned(sequences()))[0]

    one, *others = run(params)
    for other in others:
        np.testing.assert_allclose(other, one, rtol=1e-6)


TORCH_NAMES = {"input": "weight_ih_l0", "recurrent": "weight_hh_l0", "bias": "bias_ih_l0", "recurrent_bias": "bias_hh_l0"}


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_recurrent_layers_agree_with_torchs_packed_sequences(cell, both_ways):
    torch = pytest.importorskip("torch")
    one = fn.recurrent(3, cell=cell, return_sequence=True)
    layer = fn.bidirectional(one) if both_ways else one
    params = layer.init(KEY, fn.Padded((TIME, 4), ()))
    module = getattr(torch.nn, cell.upper())(4, 3, batch_first=True, bidirectional=both_ways)
    for direction, suffix in {"forward": "", "backward": "_reverse"}.items() if both_ways else {"": ""}.items():
        for name, theirs_name in TORCH_NAMES.items():
            own = params[direction][name] if both_ways else params[name]
            module._parameters[theirs_name + suffix].data = torch.tensor(np.asarray(own))
    x = fn.pad(sequences(), TIME)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(x.values), torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    out, state = module(packed)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=TIME)
    ends = fn.recurrent(3, cell=cell)
    ends = fn.bidirectional(ends) if both_ways else ends
    y, found = jax.jit(lambda params, x: [fn.apply_batch(net, params, x) for net in (layer, ends)])(params, last(poisoned(sequences())))
    np.testing.assert_allclose(np.moveaxis(np.asarray(y.values), -1, 0), expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    state = (state[0] if cell == "lstm" else state).detach().numpy()  # (directions, examples, width)
    np.testing.assert_allclose(np.asarray(found).T, np.concatenate(list(state), -1), rtol=1e-5, atol=1e-6)


def test_attention_agrees_with_torchs_under_a_padding_mask():
    torch = pytest.importorskip("torch")
    layer = fn.attention(2)
    params = layer.init(KEY, fn.Padded((TIME, 4), ()))
    module = torch.nn.MultiheadAttention(4, 2, batch_first=True)
    module.in_proj_weight.data = torch.tensor(np.concatenate([params[name] for name in ("query", "key", "value")]))
    module.out_proj.weight.data = torch.tensor(np.asarray(params["out"]))
    x = torch.tensor(fn.pad(sequences(), TIME).values)
    expected, _ = module(x, x, x, key_padding_mask=torch.tensor(~INSIDE))
    y = jax.jit(lambda params, x: fn.apply_batch(layer, params, x))(params, last(poisoned(sequences())))
    np.testing.assert_allclose(np.moveaxis(np.asarray(y.values), -1, 0)[INSIDE], expected.detach().numpy()[INSIDE], rtol=1e-5, atol=1e-6)


# Losses and metrics.


def steps_of_case(name):
    """The examples of a registry's case as the steps of two sequences, of 3 and 1 steps; and as they are."""
    case = LOSS_CASES[name]
    parts = [(array[:3], array[3:]) for array in (case.prediction.astype(np.float32), case.target)]
    parts = [[a.astype(np.float32 if np.issubdtype(a.dtype, np.floating) else np.int32) for a in part] for part in parts]
    return case.make(**variant(case.numbers, 1)), *(poisoned(part, TIME) for part in parts), [np.concatenate(part) for part in parts]


@pytest.mark.parametrize("name", LOSS_CASES)
def test_a_loss_is_the_mean_over_the_real_steps_of_an_example(name):
    loss, prediction, target, (rows, goals) = steps_of_case(name)

    def total(values, goal):
        each = losses.each_loss(loss, last(prediction._replace(values=values)), last(goal))
        return jnp.sum(each * jnp.array([1.0, 10.0])), each

    @jax.jit
    def run(rows, goals):
        (_, each), grad = jax.value_and_grad(total, has_aux=True)(prediction.values, target)
        other = total(prediction.values, target.values)[1]  # an array of targets
        one = loss(*(jax.tree.map(lambda leaf: leaf[0], part) for part in (prediction, target)))
        return each, grad, other, one, jax.vmap(jax.value_and_grad(loss))(rows, goals)

    each, grad, other, one, (steps, slopes) = run(rows, goals)
    np.testing.assert_allclose(each, [np.mean(steps[:3]), steps[3]], rtol=1e-5)
    np.testing.assert_allclose(grad[0, :3], slopes[:3] / 3, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad[1, :1], slopes[3:] * 10, rtol=1e-5, atol=1e-6)
    assert not np.any(grad[0, 3:]) and not np.any(grad[1, 1:])
    np.testing.assert_array_equal(each, other)
    np.testing.assert_allclose(one, each[0], rtol=1e-6)


def test_targets_of_other_lengths():
    values = jnp.zeros((2, 3, 1))
    said, goal = fn.Padded(values, jnp.array([2, 3])), fn.Padded(values, jnp.array([2, 2]))
    with pytest.raises(ValueError, match="squared_error: sequences of one example must have one length, got 3 and 2 for example 1"):
        losses.each_loss(fn.squared_error, last(said), last(goal))
    found = jax.jit(lambda *both: losses.each_loss(fn.squared_error, *map(last, both)))(said, goal)
    np.testing.assert_array_equal(found, [0, np.nan])
    assert np.isnan(jax.jit(fn.mean_squared_error)(said, goal)) and jax.jit(fn.mean_squared_error)(said, said) == 0
    with pytest.raises(ValueError, match="mean_squared_error: sequences of one example must have one length"):
        fn.mean_squared_error(said, goal)


SAID = [RNG.normal(size=(length, 3)).astype(np.float32) for length in (3, 4, 1, 3, 4, 1)]
LABELS = [np.append(RNG.integers(0, 3, length - 1), i % 3).astype(np.int32) for i, length in enumerate((3, 4, 1, 3, 4, 1))]
NUMBERS = [(array + 0.5 * RNG.normal(size=array.shape)).astype(np.float32) for array in SAID]
COUNTS = np.array([1.0, 0.5, 0.0, 3.0, 1.0, 0.25], np.float32)


@pytest.mark.parametrize("weighted", [False, True])
def test_every_metric_is_that_of_all_real_steps(weighted):
    said, labels, numbers = (poisoned(arrays) for arrays in (SAID, LABELS, NUMBERS))
    each = np.repeat(COUNTS, [len(array) for array in SAID])
    names = list(fn.METRICS)

    @jax.jit
    def both(said, labels, numbers):
        given, rows = ({"weights": COUNTS}, {"weights": each}) if weighted else ({}, {})
        targets = {name: (numbers, NUMBERS) if name in metrics._OF_NUMBERS else (labels, LABELS) for name in names}
        padded = [fn.METRICS[name](said, targets[name][0], **given) for name in names]
        arrays = {name: fn.METRICS[name](said, targets[name][0].values, **given) for name in ("accuracy", "r2")}
        return padded, arrays, [fn.METRICS[name](np.concatenate(SAID), np.concatenate(targets[name][1]), **rows) for name in names]

    padded, arrays, expected = both(said, labels, numbers)
    np.testing.assert_allclose(padded, expected, rtol=1e-5, err_msg=str(names))
    real, rows = np.concatenate(LABELS), np.concatenate(SAID)
    of = dict(zip(names, padded, strict=True))
    assert all(of[name] == value for name, value in arrays.items())
    weights = {"sample_weight": each} if weighted else {}
    np.testing.assert_allclose(of["f1"], theirs.f1_score(real, rows.argmax(1), average="macro", **weights), rtol=1e-5)
    shares = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    np.testing.assert_allclose(of["roc_auc"], theirs.roc_auc_score(real, shares, multi_class="ovr", **weights), rtol=1e-5)
    np.testing.assert_allclose(of["r2"], theirs.r2_score(np.concatenate(NUMBERS), rows, **weights), rtol=1e-5)


# From the data to the prediction.

MANY = [RNG.normal(size=(length, 3)) for length in RNG.integers(1, 7, 48)]
CLASS = np.array([int(array[:, 0].sum() > 0) for array in MANY])
STEPS = [(np.cumsum(array[:, 0]) > 0).astype(int) for array in MANY]
SHAPE = fn.Padded((6, 3), ())
SETTINGS = dict(num_steps=20, batch_size=8, eval_every=10)


def classifier(learning_rate, kind="gru", activation="tanh", time=6):
    if kind == "attention":
        model = fn.serial(
            fn.dense(4, leading_axes=1), fn.residual(fn.attention(2)), fn.activation(activation), fn.global_avg_pool(), fn.dense(2)
        )
    else:
        model = fn.serial(fn.recurrent(4, cell=kind, activation=activation), fn.dense(2))
    return fn.training(model, "cross_entropy", fn.adam(learning_rate), in_shape=fn.Padded((time, 3), ()), metrics=["accuracy"])


def tagger(learning_rate):
    model = fn.serial(fn.recurrent(3, return_sequence=True), fn.dropout(0.1), fn.dense(2, leading_axes=1))
    return fn.training(model, "cross_entropy", fn.adam(learning_rate), in_shape=SHAPE, metrics=["accuracy", "f1"])


def swept(recipe, variants, data, **others):
    return fn.sweep(recipe, variants, data, key=KEY, progress=False, **(SETTINGS | others))


@functools.cache
def data(kind="class"):
    return fn.split(fn.Dataset(fn.pad(MANY), CLASS if kind == "class" else fn.pad(STEPS)), key=KEY)


def test_the_objective_is_the_mean_over_the_sequences_one_by_one():
    """And its gradient; labels for each step, examples weighted."""
    model = fn.serial(fn.recurrent(3, return_sequence=True), fn.dense(2, leading_axes=1))
    params, counts = model.init(KEY, SHAPE), RNG.uniform(0, 2, 8).astype(np.float32)

    def apart(params):
        each = [
            fn.cross_entropy(model.apply(params, jnp.asarray(x, jnp.float32)), jnp.asarray(y))
            for x, y in zip(MANY[:8], STEPS[:8], strict=True)
        ]
        return jnp.sum(jnp.stack(each) * counts) / counts.sum()

    batch = fn.WeightedDataset(
        poisoned([x.astype(np.float32) for x in MANY[:8]], 6), poisoned([y.astype(np.int32) for y in STEPS[:8]], 6), counts
    )
    together = functools.partial(fn.penalized(model, fn.cross_entropy), batch=batch)
    assert_close(*(jax.jit(jax.value_and_grad(objective))(params) for objective in (together, apart)))


def test_padding_decides_nothing_of_a_sweep(tmp_path):
    """NaN in it, or more of it; every row is what fit gives; a plan, names that are traced, files and a store."""
    variants = fn.grid(learning_rate=[0.01, 0.05], activation=fn.traced(["tanh", "relu"]), kind=["rnn", "attention"])
    result = swept(classifier, variants, data(), store=tmp_path / "store")
    assert set(result.table["status"]) == {"completed"} and len(np.unique(result.table["train/loss"])) == 8
    nan = fn.split(fn.Dataset(fn.pad(MANY, value=np.nan), CLASS), key=KEY)
    again = swept(classifier, variants, nan, store=tmp_path / "store")  # it is the very sweep of the store
    np.testing.assert_array_equal(result.table["train/loss"], again.table["train/loss"])
    more = fn.split(fn.Dataset(fn.pad(MANY, 9), CLASS), key=KEY)
    for kind in ("rnn", "attention"):
        row = int(np.flatnonzero((result.table["kind"] == kind) & (result.table["activation"] == "relu"))[0])
        own = classifier(float(result.table["learning_rate"][row]), kind, "relu", 9)
        alone = fn.fit(own, more, key=jax.random.fold_in(KEY, 0), **SETTINGS)
        for name in result.metrics:
            np.testing.assert_allclose(result.curves[name][row], alone.curves[name], rtol=1e-4, atol=1e-6, err_msg=name)
    part = data().validation
    scores = result.predict(row, part.x)
    assert result.evaluate(row, part)["accuracy"] == pytest.approx(np.mean(scores.argmax(1) == part.y))
    result.save(tmp_path / "result")
    np.testing.assert_array_equal(fn.load_result(tmp_path / "result", classifier).predict(row, part.x), scores)
    assert "8 runs in 2 programs" in str(fn.plan(classifier, variants, data(), key=KEY, **SETTINGS))


def test_labels_for_each_step_in_folds_and_by_an_executor(tmp_path):
    folds = fn.standardize(fn.k_fold(fn.Dataset(fn.pad(MANY[:47]), fn.pad(STEPS[:47])), 3, key=KEY))
    variants = fn.grid(learning_rate=[0.02, 0.1])
    result = swept(tagger, variants, folds)
    assert result.table["fold"].tolist() == [0, 1, 2, 0, 1, 2] and result.best().metrics["validation/accuracy"] > 0.7
    assert {"train/f1", "validation/f1"} <= set(result.metrics)
    with ThreadPoolExecutor(1) as executor:
        sent = swept(tagger, variants, folds, executor=executor)
    np.testing.assert_array_equal(result.table["validation/loss"], sent.table["validation/loss"])
    part = folds[0].validation
    said = result.predict(0, part.x)
    inside = np.arange(6)[None] < part.x.length[:, None]
    assert isinstance(said, fn.Padded) and said.values.shape == (16, 6, 2) and not np.any(np.asarray(said.values)[~inside])
    right = np.asarray(said.values).argmax(-1) == part.y.values
    assert result.evaluate(0, part)["accuracy"] == pytest.approx(right[inside].mean())
    assert result.table["validation/accuracy"][0] == pytest.approx(right[inside].mean())


def test_a_padded_is_pickled_and_told_apart():
    part = data("step").train
    assert_close(pickle.loads(pickle.dumps(part)), part, rtol=0, atol=0)
    shorter = part._replace(y=part.y._replace(length=np.maximum(part.y.length - 1, 1)))
    assert part_digest(part) == part_digest(pickle.loads(pickle.dumps(part))) != part_digest(shorter)
    assert part_digest(part) != part_digest(part._replace(y=tuple(part.y)))


def test_scaling_goes_by_the_real_steps():
    x, y = fn.pad(MANY, 8, value=77.0), fn.pad([array[:, 1] for array in MANY])
    scale = fn.scaler(fn.Dataset(x, y))
    real = np.concatenate(MANY)
    np.testing.assert_allclose(scale.x_mean, real.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scale.x_scale, real.std(0), rtol=1e-12)
    scaled = scale.apply(fn.Dataset(x, y))
    inside = np.arange(8)[None] < x.length[:, None]
    np.testing.assert_allclose(scaled.x.values[inside], (real - real.mean(0)) / real.std(0), rtol=1e-5, atol=1e-6)
    assert not scaled.x.values[~inside].any() and np.isfinite(scaled.x.values).all()
    back = scale.undo(scaled.y)
    np.testing.assert_allclose(back.values[inside[:, :6]], real[:, 1], rtol=1e-5, atol=1e-6)
    assert not back.values[~inside[:, :6]].any()
    np.testing.assert_allclose(scale.apply(x).values, scaled.x.values)


def test_branches_of_sequences():
    """Joined step by step where their lengths are the same; one that is read first goes beside an array."""
    symbols = [RNG.integers(0, SYMBOLS, length).astype(np.int32) for length in LENGTHS]
    x = {"word": poisoned(symbols), "sound": poisoned(sequences((2,)))}
    net = fn.branches(word=fn.embedding(SYMBOLS, 3), sound=fn.dense(2, leading_axes=1))
    shapes = {"word": fn.Padded((TIME,), ()), "sound": fn.Padded((TIME, 2), ())}
    params = jax.tree.map(np.asarray, jax.jit(lambda key: net.init(key, shapes))(KEY))
    batch = jax.jit(lambda x: fn.apply_batch(net, params, last(x)))
    y = jax.tree.map(np.asarray, batch(x))
    assert y.values.shape == (TIME, 5, 2)
    for i, (length, sound) in enumerate(zip(LENGTHS, sequences((2,)), strict=True)):
        alone = [params["word"]["table"][symbols[i]], sound @ params["sound"]["weight"].T + params["sound"]["bias"]]
        np.testing.assert_allclose(y.values[:length, :, i], np.concatenate(alone, 1), rtol=1e-5, atol=1e-6)
    other = x | {"word": x["word"]._replace(length=jnp.array([3, 4]))}
    with pytest.raises(ValueError, match="branches: sequences of one example must have one length, got 3 and 2 for example 0"):
        fn.apply_batch(net, params, last(other))
    traced = batch(other)
    assert np.isnan(traced.values[..., 0]).all() and np.isfinite(traced.values[..., 1]).all()

    both = fn.serial(fn.branches(word=fn.serial(fn.embedding(SYMBOLS, 3), fn.global_max_pool()), age=fn.dense(2)), fn.dense(2))
    age = RNG.normal(size=(48, 1))
    words = fn.pad([RNG.integers(0, SYMBOLS, len(array)) for array in MANY])
    mixed = fn.Dataset({"word": words, "age": age}, CLASS)
    one = fn.training(both, "cross_entropy", fn.adam(0.01), in_shape={"word": fn.Padded((6,), ()), "age": (1,)})
    assert np.isfinite(fn.fit(one, mixed, key=KEY, **SETTINGS).curves["train/loss"]).all()
    wrong = words._replace(values=np.where(np.arange(6) == words.length[7] - 1, SYMBOLS, words.values) * (np.arange(48) == 7)[:, None])
    with pytest.raises(ValueError, match=rf"a symbol must be in the vocabulary, got 4 at index \(7, {words.length[7] - 1}\) of x"):
        fn.fit(one, mixed._replace(x={"word": wrong, "age": age}), key=KEY, **SETTINGS)


def test_a_loss_and_a_metric_of_ones_own_get_a_padded():
    def own_loss(said, wanted):
        assert isinstance(said, fn.Padded) and isinstance(wanted, fn.Padded) and said.length.shape == ()
        inside = jnp.arange(6) < said.length
        return jnp.sum(jnp.where(inside, (said.values[:, 0] - wanted.values) ** 2, 0)) / said.length.astype(jnp.float32)

    def worst(said, wanted):
        assert said.values.shape[1:] == (6, 1)
        inside = jnp.arange(6)[None] < said.length[:, None]
        return jnp.max(jnp.where(inside, jnp.abs(said.values[..., 0] - wanted.values), 0))

    def recipe(learning_rate, loss=own_loss):
        return fn.training(
            fn.dense(1, leading_axes=1), loss, fn.adam(learning_rate), in_shape=SHAPE, metrics={"worst": fn.metric(worst, "min")}
        )

    numbers = fn.Dataset(fn.pad(MANY), fn.pad([array[:, 0] for array in MANY]))
    one, other = (fn.fit(recipe(0.01, loss), numbers, key=KEY, **SETTINGS) for loss in (own_loss, "squared_error"))
    assert_close(one.curves, other.curves)


REFUSED = {
    "conv": (fn.conv(2, 3), (5, 4)),
    "conv_transpose": (fn.conv_transpose(2, 3), (5, 4)),
    "max_pool": (fn.max_pool(2), (5, 4)),
    "avg_pool": (fn.avg_pool(2), (5, 4)),
    "adaptive_avg_pool": (fn.adaptive_avg_pool(2), (5, 4)),
    "adaptive_max_pool": (fn.adaptive_max_pool(2), (5, 4)),
    "flatten": (fn.flatten(), (5, 4)),
    "group_norm": (fn.group_norm(1), (5, 4)),
    "dense": (fn.dense(2), (4,)),
    "prelu": (fn.prelu(shared=False), (5, 4)),
    "augment": (fn.augment(lambda key, x: x), (5, 4)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_layers_refuse_sequences(name):
    layer, shape = REFUSED[name]
    said = f"{name}: x must be an array, got a Padded, sequences of different lengths; a layer for each step is dense"
    with pytest.raises(TypeError, match=said):
        layer.init(KEY, fn.Padded((5, 4), ()))
    params = layer.init(KEY, shape)
    for call in (
        lambda x: layer.apply(params, x, key=KEY),
        lambda x: fn.apply_batch(layer, params, fn.Padded(x.values[..., None], x.length[None])),
    ):
        with pytest.raises(TypeError, match=said):
            call(fn.Padded(jnp.ones((5, 4)), jnp.int32(3)))
    with pytest.raises(TypeError, match=f"serial: layer 0 does not fit its input of shape Padded.*{name}: x must be an array"):
        fn.serial(layer).init(KEY, fn.Padded((5, 4), ()))
    fn.serial(fn.dense(2, leading_axes=1), fn.recurrent(2)).init(KEY, fn.Padded((5, 4), ()))


def _fit(x=None, y=CLASS, recipe=classifier):
    """Checked and traced as ever; nothing is compiled."""
    data = fn.Dataset(fn.pad(MANY) if x is None else x, y)
    return jax.eval_shape(lambda: fn.fit(recipe(0.01), data, key=KEY, num_steps=1, batch_size=8))


def _predict(x):
    return jax.eval_shape(lambda: classifier(0.1).predict(classifier(0.1).init(KEY), x))


def _residual(layer):
    return jax.eval_shape(lambda: fn.residual(layer).apply(layer.init(KEY, (5, 4)), fn.Padded(jnp.ones((5, 4)), 2)))


PADDED, LABELLED = fn.pad(MANY), fn.pad(STEPS)
BAD_LABEL = [np.where(np.arange(len(array)) == 0, 5, array) if i == 9 else array for i, array in enumerate(STEPS)]


def _run_of(length, layer=None, rest=(4,)):
    layer = fn.recurrent(3) if layer is None else layer
    return jax.eval_shape(lambda: layer.apply(layer.init(KEY, fn.Padded((5, 4), ())), fn.Padded(jnp.ones((5, *rest)), length)))


MISTAKES = {
    "no list": (lambda: fn.pad(3), TypeError, "pad: sequences must be a list of arrays, got int", lambda: fn.pad([[3]])),
    "none": (lambda: fn.pad([]), ValueError, "pad: there must be at least one sequence, got none", lambda: fn.pad([[3]])),
    "empty": (lambda: fn.pad([[1], []]), ValueError, r"at least one step, got shape \(0,\) in sequence 1", lambda: fn.pad([[1], [1]])),
    "rest": (
        lambda: fn.pad([np.ones((2, 3)), np.ones((4, 2))]),
        ValueError,
        r"pad: each step must have the shape of the first sequence's, \(3,\), got \(2,\) in sequence 1, of shape \(4, 2\)",
        lambda: fn.pad([np.ones((2, 3)), np.ones((4, 3))]),
    ),
    "ragged": (
        lambda: fn.pad([[[1], [1, 2]]]),
        ValueError,
        "must have the same shape, got several in sequence 0",
        lambda: fn.pad([[[1], [2]]]),
    ),
    "text": (
        lambda: fn.pad([[1.0], ["a"]]),
        TypeError,
        "pad: sequences must hold numbers, got dtype <U1 in sequence 1",
        lambda: fn.pad([[1.0]]),
    ),
    "size": (
        lambda: fn.pad([[1], [1, 2, 3]], 2),
        ValueError,
        r"pad: size must be at least the longest sequence's length, got 2 and sequence 1 of shape \(3,\)",
        lambda: fn.pad([[1], [1, 2, 3]]),
    ),
    "value": (
        lambda: fn.pad([[1]], 2, 0.5),
        ValueError,
        "value must be one number of the sequences' dtype int64, got 0.5",
        lambda: fn.pad([[1]], 2, 5),
    ),
    "length 0": (
        lambda: _run_of(0),
        ValueError,
        r"recurrent: a length must be in \[1, 5\], as there are 5 steps, got 0 for example 0",
        lambda: _run_of(1),
    ),
    "length 6": (
        lambda: _run_of(6),
        ValueError,
        r"a length must be in \[1, 5\].*got 6 for example 0; the values are cut off",
        lambda: _run_of(5),
    ),
    "length 1.5": (lambda: _run_of(1.5), TypeError, "the lengths of a Padded must be whole numbers, got float", lambda: _run_of(1)),
    "axes": (
        lambda: fn.layer_norm().init(KEY, fn.Padded((5,), ())),
        ValueError,
        r"layer_norm: each step of a Padded must have at least 1 axes, got shape \(5,\); values\[..., None\] gives every step one",
        lambda: fn.layer_norm().init(KEY, fn.Padded((5, 1), ())),
    ),
    "softmax over time": (
        lambda: _run_of(2, fn.softmax(), rest=()),
        ValueError,
        r"softmax: each step of a Padded must have at least 1 axes",
        lambda: _run_of(2, fn.softmax()),
    ),
    "in_shape": (
        lambda: fn.training(fn.recurrent(2), "squared_error", fn.sgd(0.1), in_shape=fn.Padded((6, 3), (1,))),
        ValueError,
        r"training: in_shape of sequences must be Padded\(\(time, \*rest\), \(\)\), got",
        lambda: fn.training(fn.recurrent(2), "squared_error", fn.sgd(0.1), in_shape=SHAPE),
    ),
    "data: length 0": (
        lambda: _fit(PADDED._replace(length=np.where(np.arange(48) == 5, 0, PADDED.length))),
        ValueError,
        r"fit: x: a length must be in \[1, 6\], as there are 6 steps, got 0 for example 5; .*leave the empty ones out",
        _fit,
    ),
    "data: NaN": (
        lambda: _fit(PADDED._replace(values=np.where(np.arange(48)[:, None, None] == 4, np.nan, PADDED.values))),
        ValueError,
        r"fit: x.values must be finite, got nan at index \(4, 0, 0\)",
        _fit,
    ),
    "data: lengths apart": (
        lambda: _fit(y=LABELLED._replace(length=np.where(np.arange(48) == 2, 1, LABELLED.length)), recipe=tagger),
        ValueError,
        r"training: train: y must have the lengths of x, got 1 and \d for example 2",
        lambda: _fit(y=LABELLED, recipe=tagger),
    ),
    "data: a label": (
        lambda: _fit(y=fn.pad(BAD_LABEL), recipe=tagger),
        ValueError,
        r"cross_entropy: labels must be in \[0, 1\].* got 5 in row 0; .*\(a row is a step of example 9\)",
        lambda: _fit(y=LABELLED, recipe=tagger),
    ),
    "data: one label each": (
        lambda: _fit(recipe=tagger),
        ValueError,
        r"y must hold a target for each of the 6 steps, shape \(examples, 6, ...\), got \(48,\); or end the model with one vector",
        lambda: _fit(y=LABELLED, recipe=tagger),
    ),
    "data: labels for a vector": (
        lambda: _fit(y=LABELLED),
        TypeError,
        "cross_entropy: a Padded target needs a Padded prediction, got .*; end the model with a layer for each step",
        _fit,
    ),
    "data: in_shape": (
        lambda: _fit(fn.pad(MANY, 7)),
        ValueError,
        r"training: each example must have in_shape Padded\(values=\(6, 3\), length=\(\)\), got Padded\(values=\(7, 3\)",
        lambda: _fit(fn.pad(MANY, 6)),
    ),
    "parts": (
        lambda: fn.fit(
            classifier(0.1), fn.Split(fn.Dataset(PADDED, CLASS), fn.Dataset(fn.pad(MANY, 9), CLASS)), key=KEY, num_steps=1, batch_size=2
        ),
        ValueError,
        r"fit: validation: each x must have the shape of train's, .*; pad\(sequences, size\) makes both as long",
        _fit,
    ),
    "predict": (
        lambda: _predict(fn.pad(MANY, 9)),
        ValueError,
        r"predict: each example of x must have shape .*; pad\(sequences, size\) makes them as long",
        lambda: _predict(fn.pad(MANY, 6)),
    ),
    "residual": (
        lambda: _residual(fn.recurrent(4)),
        TypeError,
        "residual: the layer must give a Padded for a Padded",
        lambda: _residual(fn.attention(1)),
    ),
    "joined": (
        lambda: fn.parallel(fn.recurrent(4), fn.attention(1)).init(KEY, fn.Padded((5, 4), ())),
        TypeError,
        "parallel: outputs must be all arrays, or all a Padded, got shapes .*; recurrent",
        lambda: fn.parallel(fn.recurrent(4), fn.global_avg_pool()).init(KEY, fn.Padded((5, 4), ())),
    ),
    "mixup": (
        lambda: fn.mixup(KEY, fn.Dataset(PADDED, np.ones((48, 1)))),
        TypeError,
        "mixup: x and y must be arrays, got a Padded",
        lambda: jax.eval_shape(lambda: fn.mixup(KEY, fn.Dataset(np.ones((48, 1)), np.ones((48, 1))))),
    ),
    "permutation_importance": (
        lambda: fn.permutation_importance(classifier(0.1), None, fn.Dataset(PADDED, CLASS), key=KEY),
        TypeError,
        "permutation_importance: x must be one array, .* got a Padded",
        lambda: None,
    ),
    "scaler": (
        lambda: fn.scaler(fn.Dataset(PADDED, np.random.default_rng(0).normal(size=(48, 6)))),
        TypeError,
        r"scaler: targets of each step must be a Padded, .*; Padded\(y, x.length\), or targets=False",
        lambda: fn.scaler(fn.Dataset(PADDED, fn.Padded(np.random.default_rng(0).normal(size=(48, 6)), PADDED.length))),
    ),
    "scaler of others": (
        lambda: fn.scaler(fn.Dataset(PADDED, CLASS)).apply(fn.pad([[1.0]])),
        ValueError,
        r"apply: each example of each step of x must have shape \(3,\), got \(\)",
        lambda: fn.scaler(fn.Dataset(PADDED, CLASS)).apply(fn.pad([[[1.0, 2.0, 3.0]]])),
    ),
}


@mistakes(MISTAKES)
def test_mistakes_say_what_to_do(mistake):
    check_mistake(mistake)


def test_a_traced_length_counts_as_the_nearest_that_can_be():
    layer = fn.global_avg_pool()
    means = jax.jit(lambda n: layer.apply((), fn.Padded(jnp.arange(5.0)[:, None], n)))
    assert [float(means(n)[0]) for n in (-1, 0, 1, 4, 5, 9)] == [0, 0, 0, 1.5, 2, 2]


def test_dtypes_are_kept():
    for dtype in (jnp.bfloat16, jnp.float16):
        x = fn.Padded(jnp.ones((TIME, 4, 2), dtype), jnp.array([2, TIME]))
        for layer in (
            fn.recurrent(3),
            fn.attention(2),
            fn.global_avg_pool(),
            fn.global_max_pool(),
            fn.layer_norm(),
            fn.bidirectional(fn.recurrent(2)),
        ):
            y = jax.eval_shape(lambda layer=layer, x=x: fn.apply_batch(layer, layer.init(KEY, fn.Padded((TIME, 4), ())), x))
            assert jax.tree.leaves(y)[0].dtype == dtype
    longs = fn.pad([np.ones(2, np.int64), np.ones(3, np.int64)])
    whole = fn.split(fn.Dataset(longs, np.arange(2)), key=KEY, validation=0).train.x
    assert whole.values.dtype == whole.length.dtype == np.int32
    assert fn.apply_batch(fn.global_max_pool(), (), last(jax.tree.map(jnp.asarray, whole))).dtype == jnp.int32
