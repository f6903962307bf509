"""Losses: every property over the registry, and their numbers against torch's, scikit-learn's and closed forms."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import ours
import pytest
from properties import (
    assert_close,
    assert_quarantined,
    assert_same_bits,
    check_gradient,
    check_mistake,
    lane,
    mistakes,
    traced_once,
)
from references import make
from registries import EXAMPLES, LOSSES, VARIANTS, stacked, variant
from scipy import special

from funcnet import losses
from funcnet.batching import on_batch
from funcnet.losses import (
    absolute_error,
    binary_cross_entropy,
    check_targets,
    cosine_distance,
    cross_entropy,
    each_loss,
    focal,
    hinge,
    huber,
    kl_divergence,
    poisson,
    squared_error,
)

every_loss = pytest.mark.parametrize("name", LOSSES)


def target_of(case, dtype=jnp.float32):
    return jnp.asarray(case.target, case.target.dtype if case.target.dtype == np.int32 else dtype)


@functools.cache
def programs(name):
    """A batch's losses and the gradient of their sum, for one variant and for all together; compiled once."""
    case = LOSSES[name]

    def run(numbers, prediction):
        def total(prediction):
            each = jax.vmap(case.make(**numbers))(prediction, target_of(case))
            return jnp.sum(each), each

        return jax.grad(total, has_aux=True)(prediction)

    return traced_once(run, f"loss_{name}"), jax.jit(jax.vmap(run))


def inputs(name):
    predictions = jnp.asarray(LOSSES[name].prediction, jnp.float32)
    return stacked(LOSSES[name].numbers), jnp.stack([predictions, 1.5 * predictions, predictions - 0.3])


def test_registry_holds_every_loss():
    assert set(losses.LOSSES) <= set(LOSSES)


@every_loss
def test_gives_one_number_of_the_predictions_dtype(name):
    case = LOSSES[name]
    loss = case.make(**variant(case.numbers, 1))
    for dtype in (jnp.float32, jnp.bfloat16):
        y = loss(jnp.asarray(case.prediction[0], dtype), target_of(case)[0])
        assert (y.shape, y.dtype) == ((), dtype)
        full = loss(jnp.asarray(case.prediction[0], jnp.float32), target_of(case)[0])
        np.testing.assert_allclose(float(y), float(full), rtol=0.03, atol=0.02)


@every_loss
def test_jit_equals_no_jit(name):
    case = LOSSES[name]
    numbers, predictions = lane(inputs(name), 1)
    loss = case.make(**variant(case.numbers, 1))
    each = jnp.stack([loss(p, t) for p, t in zip(predictions, target_of(case))])
    assert_close(programs(name)[0](numbers, predictions)[1], each)


@every_loss
def test_batch_form_equals_vmap(name):
    case = LOSSES[name]
    loss = case.make(**variant(case.numbers, 1))
    predictions = jnp.asarray(case.prediction, jnp.float32)
    batch = on_batch(loss, argnums=(0, 1))(jnp.moveaxis(predictions, 0, -1), jnp.moveaxis(target_of(case), 0, -1))
    assert batch.shape == (EXAMPLES,)
    assert_close(batch, jax.vmap(loss)(predictions, target_of(case)))


@every_loss
def test_variants_together_equal_each_alone_without_a_new_trace(name):
    alone, together = programs(name)
    outputs = together(*inputs(name))
    for i in range(VARIANTS):
        assert_close(lane(outputs, i), alone(*lane(inputs(name), i)))


@every_loss
def test_nan_variant_leaves_the_others_alone(name):
    assert_quarantined(programs(name)[1], inputs(name), 1, shown=lambda outputs: outputs[1])  # a hinge's slope may be zero there


@every_loss
def test_gradients(name):
    """In the prediction, in the numbers, and in a target that is not a label."""
    case = LOSSES[name]
    with jax.enable_x64(True):
        arguments = (lane(stacked(case.numbers, jnp.float64), 1), jnp.asarray(case.prediction))
        target = target_of(case, jnp.float64)
        arguments = arguments if target.dtype == jnp.int32 else (*arguments, target)
        check_gradient(lambda numbers, p, t=target: jax.vmap(case.make(**numbers))(p, t), arguments)


@pytest.mark.parametrize("dtype", ours.TOLERANCE)
@pytest.mark.parametrize("name", make.LOSSES)
def test_agrees_with_torch(name, dtype):
    ours.assert_agree(ours.loss(name, dtype), make.load(f"losses/{name}"), dtype)


def test_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    case = LOSSES["cross_entropy"]
    scores, labels = jnp.asarray(case.prediction, jnp.float32), jnp.asarray(case.target)
    mean = {loss: jnp.mean(jax.vmap(loss)(scores, labels)) for loss in (cross_entropy, hinge)}
    assert_close(mean[cross_entropy], metrics.log_loss(case.target, special.softmax(case.prediction, -1), labels=[0, 1, 2]))
    assert_close(mean[hinge], metrics.hinge_loss(case.target, np.asarray(scores), labels=np.arange(3)))
    numbers = LOSSES["squared_error"]
    for loss, theirs in ((squared_error, metrics.mean_squared_error), (absolute_error, metrics.mean_absolute_error)):
        error = jnp.mean(jax.vmap(loss)(jnp.asarray(numbers.prediction, jnp.float32), target_of(numbers)))
        assert_close(error, theirs(numbers.target, numbers.prediction))


def test_hinge_against_its_closed_form():
    case = LOSSES["hinge"]
    for scores, label in zip(case.prediction, case.target):
        expected = max(0, 1 + max(np.delete(scores, label)) - scores[label])
        assert_close(hinge(jnp.asarray(scores, jnp.float32), jnp.asarray(label)), expected)
    sides = LOSSES["hinge_sides"]
    assert_close(
        hinge(jnp.asarray(sides.prediction[0], jnp.float32), target_of(sides)[0]),
        np.maximum(0, 1 - sides.target * sides.prediction)[0].mean(),
    )


@pytest.mark.parametrize("loss", [squared_error, absolute_error, huber])
def test_a_perfect_fit_stays_where_it_is(loss):
    np.testing.assert_array_equal(jax.grad(loss)(jnp.array([1.0, -2.0]), jnp.array([1.0, -2.0])), [0, 0])


def test_large_logits_stay_finite():
    big = jnp.array([1e4, -1e4])
    for loss, target in (
        (cross_entropy, jnp.array(1)),
        (binary_cross_entropy, jnp.array([0.0, 1.0])),
        (cross_entropy, jnp.array([0.5, 0.5])),
    ):
        value, grad = jax.value_and_grad(loss)(big, target)
        assert np.isfinite(value) and np.all(np.isfinite(grad)) and np.any(grad)


def test_a_label_equals_its_one_hot_distribution():
    logits = jnp.array([0.3, -1.0, 2.0])
    for label in range(3):
        assert_close(cross_entropy(logits, jnp.array(label)), cross_entropy(logits, jnp.eye(3)[label]))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.int32, jnp.uint32])
def test_labels_of_any_integer_dtype_name_one_class(dtype):
    """300 classes are more than 8 bits can count: counted in the label's own dtype, two classes would be label 5."""
    logits = jnp.linspace(-3.0, 3.0, 300)
    label = jnp.array(5, dtype)
    assert_close(cross_entropy(logits, label), -jax.nn.log_softmax(logits)[5])
    assert_close(hinge(logits, label), 1 + logits[299] - logits[5])


@pytest.mark.parametrize("loss", [cross_entropy, hinge])
@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_gives_nan(loss, label):
    """Traced, it cannot raise; and it must not count as some other class."""
    assert np.isnan(jax.jit(loss)(jnp.array([1.0, 2.0, 3.0]), jnp.array(label)))


def test_whole_numbers_as_predictions_are_taken_as_floats():
    assert_close(squared_error(jnp.array([1, 2]), jnp.array([1, 4])), 2.0)
    assert_close(cross_entropy(jnp.array([1, 1]), jnp.array(0)), np.log(2))
    assert hinge(jnp.array([1, 2, 4]), jnp.array(0)).dtype == jnp.float32


def test_a_single_output_may_stand_without_its_axis():
    for loss in (squared_error, absolute_error, huber, binary_cross_entropy):
        assert_close(loss(jnp.array([0.3]), jnp.array(1.0)), loss(jnp.array([0.3]), jnp.array([1.0])))
        assert_close(loss(jnp.array(0.3), jnp.array([1.0])), loss(jnp.array([0.3]), jnp.array([1.0])))


two, three = jnp.zeros(2), jnp.zeros(3)


@mistakes(
    {
        "other shape": (
            lambda: squared_error(three, two),
            ValueError,
            r"^squared_error: target must have the prediction's shape \(3,\), got \(2,\)$",
            lambda: squared_error(three, three),
        ),
        "labels for numbers": (
            lambda: absolute_error(three, jnp.array(1)),
            ValueError,
            r"^absolute_error: target must have the prediction's shape \(3,\), got \(\); integer labels go with cross_entropy or hinge$",
            lambda: (cross_entropy(three, jnp.array(1)), hinge(three, jnp.array(1))),
        ),
        "delta of zero": (
            lambda: huber(three, three, 0.0),
            ValueError,
            r"^huber: delta must be in \(0, inf\), got 0.0$",
            lambda: huber(three, three, 0.1),
        ),
        "delta NaN": (lambda: huber(three, three, float("nan")), ValueError, "^huber: delta .* got nan$", lambda: huber(three, three)),
        "floats as labels": (
            lambda: cross_entropy(three, jnp.array(1.0)),
            TypeError,
            r"^cross_entropy: a label must be an integer, got float32; or give a distribution over the classes$",
            lambda: (cross_entropy(three, jnp.array(1)), cross_entropy(three, jnp.array([0.0, 1.0, 0.0]))),
        ),
        "floats as labels of hinge": (
            lambda: hinge(three, jnp.array(1.0)),
            TypeError,
            r"^hinge: a label must be an integer, got float32",
            lambda: hinge(three, jnp.array(1)),
        ),
        "distribution over other classes": (
            lambda: cross_entropy(three, jnp.array([0.5, 0.5])),
            ValueError,
            r"^cross_entropy: a distribution must have shape \(3,\), got \(2,\)$",
            lambda: cross_entropy(two, jnp.array([0.5, 0.5])),
        ),
        "one label for two positions": (
            lambda: cross_entropy(jnp.zeros((2, 3)), jnp.array(1)),
            ValueError,
            r"^cross_entropy: labels must have shape \(2,\), got \(\); a label for each position; for a batch, use jax.vmap$",
            lambda: (
                cross_entropy(jnp.zeros((2, 3)), jnp.array([1, 0])),
                jax.vmap(cross_entropy, (0, None))(jnp.zeros((2, 3)), jnp.array(1)),
            ),
        ),
        "smoothing above 1": (
            lambda: cross_entropy(three, jnp.array(1), label_smoothing=1.1),
            ValueError,
            r"^cross_entropy: label_smoothing must be in \[0, 1\], got 1.1$",
            lambda: cross_entropy(three, jnp.array(1), label_smoothing=1.0),
        ),
        "gamma below 0": (
            lambda: focal(three, jnp.array(1), -1.0),
            ValueError,
            r"^focal: gamma must be in \[0, inf\), got -1.0$",
            lambda: focal(three, jnp.array(1), 0.0),
        ),
        "alpha among several classes": (
            lambda: focal(three, jnp.array(1), alpha=0.25),
            ValueError,
            r"^focal: alpha must be None for a label among several classes, got 0.25; weigh the examples$",
            lambda: (focal(three, jnp.array(1)), focal(three, jnp.zeros(3), alpha=0.25)),
        ),
        "label for a distribution": (
            lambda: kl_divergence(three, jnp.array(1)),
            ValueError,
            r"^kl_divergence: a distribution must have shape \(3,\), got \(\)$",
            lambda: kl_divergence(three, jax.nn.one_hot(1, 3)),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)


def given(loss, outputs, targets):
    return lambda: check_targets(loss, outputs, np.asarray(targets))


@mistakes(
    {
        "label too large": (
            given(cross_entropy, (3,), [0, 2, 3]),
            ValueError,
            r"^cross_entropy: labels must be in \[0, 2\], as the model has 3 outputs, got 3 in row 2; "
            r"number the classes from 0, or widen the model's last layer$",
            lambda: (given(cross_entropy, (4,), [0, 2, 3])(), given(cross_entropy, (3,), [0, 1, 2])()),
        ),
        "label negative": (
            given(hinge, (3,), [0, -1]),
            ValueError,
            r"^hinge: labels must be in \[0, 2\].* got -1 in row 1",
            given(hinge, (3,), [0, 1]),
        ),
        "labels as floats": (
            given(cross_entropy, (3,), [0.0, 1.0]),
            TypeError,
            r"^cross_entropy: labels must be integers, got float64; such as y.astype\(int\); or give a distribution over the classes$",
            lambda: (given(cross_entropy, (3,), np.array([0.0, 1.0]).astype(int))(), given(cross_entropy, (2,), [[0.0, 1.0]])()),
        ),
        "distribution that sums to 2": (
            given(cross_entropy, (2,), [[0.5, 0.5], [1.0, 1.0]]),
            ValueError,
            r"^cross_entropy: each row of y must be a distribution, got one that is negative or doesn't sum to 1$",
            given(cross_entropy, (2,), [[0.5, 0.5], [0.0, 1.0]]),
        ),
        "distribution over other classes": (
            given(cross_entropy, (3,), [[0.5, 0.5]]),
            ValueError,
            r"^cross_entropy: each row of y must have shape \(3,\), got \(2,\)$",
            given(cross_entropy, (2,), [[0.5, 0.5]]),
        ),
        "no probability": (
            given(binary_cross_entropy, (1,), [0, 2]),
            ValueError,
            r"^binary_cross_entropy: targets must be in \[0, 1\], got 2 in row 1$",
            given(binary_cross_entropy, (1,), [0, 1]),
        ),
        "no side": (
            given(hinge, (1,), [0, 1]),
            ValueError,
            r"^hinge: targets must be -1 or 1, got 0 in row 0; such as 2 \* y - 1$",
            given(hinge, (1,), 2 * np.array([0, 1]) - 1),
        ),
        "label in a sequence": (
            given(cross_entropy, (2, 3), [[0, 2], [1, 3]]),
            ValueError,
            r"^cross_entropy: labels must be in \[0, 2\].* got 3 in row 1",
            given(cross_entropy, (2, 3), [[0, 2], [1, 2]]),
        ),
        "another length": (
            given(cross_entropy, (3, 3), [[0, 2], [1, 2]]),
            ValueError,
            r"^cross_entropy: each row of y must have shape \(3,\), got \(2,\); a label for each position$",
            given(cross_entropy, (2, 3), [[0, 2], [1, 2]]),
        ),
        "negative count": (
            given(poisson, (1,), [2, -1]),
            ValueError,
            r"^poisson: targets must be at least 0, got -1 in row 1$",
            given(poisson, (1,), [2, 0]),
        ),
        "no side of focal": (
            given(focal, (1,), [1, -1]),
            ValueError,
            r"^focal: targets must be 0 or 1, got -1 in row 1$",
            given(focal, (1,), [1, 0]),
        ),
        "label of focal": (given(focal, (3,), [1, 3]), ValueError, r"^focal: labels must be in \[0, 2\]", given(focal, (3,), [1, 2])),
        "no distribution of the divergence": (
            given(kl_divergence, (2,), [[0.5, 1.0]]),
            ValueError,
            r"^kl_divergence: each row of y must be a distribution",
            given(kl_divergence, (2,), [[0.5, 0.5]]),
        ),
        "other shape": (
            given(squared_error, (3,), [1.0, 2.0]),
            ValueError,
            r"^squared_error: each target must have the shape of the model's output, \(3,\), got \(\)$",
            lambda: (given(squared_error, (1,), [1.0, 2.0])(), given(huber, (3,), np.ones((2, 3)))()),
        ),
    }
)
def test_wrong_targets(mistake):
    check_mistake(mistake)


def test_a_loss_of_ones_own_checks_its_targets_itself():
    def own(prediction, target):
        return jnp.sum(prediction) * target

    check_targets(own, (3,), np.array([1.0]))  # nothing is known of it
    seen = []
    own.check_targets = lambda outputs, y: seen.append((outputs, y.shape))
    check_targets(own, (3,), np.array([1.0]))
    assert seen == [((3,), (1,))]


@every_loss
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_few_bits_are_computed_with_in_float32(name, dtype):
    """Only the result is rounded, and no target: in the value, and in training nothing is."""
    case = LOSSES[name]
    loss, target = case.make(**variant(case.numbers, 1)), target_of(case)
    short = jnp.asarray(7 * case.prediction, dtype)
    exact = jax.vmap(loss)(short.astype(jnp.float32), target)
    assert_same_bits(jax.vmap(loss)(short, target), exact.astype(dtype))
    assert_same_bits(each_loss(loss, jnp.moveaxis(short, 0, -1), jnp.moveaxis(target, 0, -1)), exact)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sums_over_outputs_are_taken_in_float32(dtype):
    many = jnp.full(70_000, 3, dtype)
    for loss, expected in ((squared_error, 9), (absolute_error, 3), (huber, 2.5)):
        assert loss(many, jnp.zeros(70_000, dtype)) == expected
    assert loss(many, jnp.zeros(70_000, jnp.uint8)) == expected
    even = cross_entropy(jnp.zeros(70_000, dtype), jnp.full(70_000, 1 / 70_000))
    np.testing.assert_allclose(float(even), np.log(70_000), rtol=0.01)


TAILS = np.array([0.0, 0.1, -0.1, 3, -3, 5, -5, 17, -17, 40, -40, 80, -80])


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_both_tails_of_focal_are_exact(gamma):
    """Value and slope against float64, of a logit and of two classes of which one is surer."""
    margins = np.concatenate([TAILS, -TAILS])
    value = np.exp(-gamma * np.logaddexp(0, margins)) * np.logaddexp(0, -margins)
    slope = -np.exp(-gamma * np.logaddexp(0, margins)) * (
        gamma * special.expit(margins) * np.logaddexp(0, -margins) + special.expit(-margins)
    )
    x = jnp.asarray(margins, jnp.float32)
    got = jax.vmap(jax.value_and_grad(lambda margin: focal(margin, jnp.float32(1), gamma)))(x)
    two = jax.vmap(jax.value_and_grad(lambda margin: focal(jnp.stack([margin, jnp.zeros_like(margin)]), jnp.array(0), gamma)))(x)
    for found in (got, two):
        np.testing.assert_allclose(found[0], value, rtol=3e-5, atol=1e-44)
        np.testing.assert_allclose(found[1], slope, rtol=3e-5, atol=1e-44)


def test_losses_that_are_zero_where_prediction_and_target_agree():
    logits = jnp.array([0.5, -2.0, 3.0])
    value, slope = jax.value_and_grad(kl_divergence)(logits, jax.nn.softmax(logits))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    assert_close(jax.grad(poisson)(jnp.log(jnp.array([3.0, 0.2])), jnp.array([3.0, 0.2])), jnp.zeros(2))
    assert cosine_distance(3e25 * logits, 1e-25 * logits) < 1e-6  # whose squares no float32 holds
    angle = 1e-4
    small = cosine_distance(jnp.array([1.0, 0.0]), jnp.array([np.cos(angle), np.sin(angle)], jnp.float32))
    np.testing.assert_allclose(small, angle**2 / 2, rtol=1e-4)  # 1 - cos is 0 in float32
    np.testing.assert_array_equal(jax.value_and_grad(cosine_distance)(jnp.zeros(3), logits)[1], jnp.zeros(3))
    assert cosine_distance(jnp.zeros(3), logits) == cosine_distance(logits, jnp.zeros(3)) == 1


def test_a_class_that_does_not_occur_has_no_part_in_the_divergence():
    logits, p = jnp.array([0.5, -jnp.inf, 2.0]), jnp.array([0.25, 0.0, 0.75])
    both = jax.jit(jax.value_and_grad(kl_divergence))
    value, slope = both(logits[::2], p[::2])
    assert_close(both(logits, p), (value, jnp.array([slope[0], 0, slope[1]])))
    assert_close(value, special.rel_entr([0.25, 0.75], special.softmax([0.5, 2.0])).sum())


def test_no_smoothing_and_no_focus_change_nothing():
    case = LOSSES["cross_entropy"]
    for prediction, target in zip(jnp.asarray(case.prediction, jnp.float32), target_of(case)):
        plain = cross_entropy(prediction, target)
        assert_same_bits(cross_entropy(prediction, target, label_smoothing=0), plain)
        assert_close(jax.jit(lambda s, p=prediction, t=target: cross_entropy(p, t, label_smoothing=s))(0.0), plain)
        assert_close(focal(prediction, target, 0.0), plain)
    masked = jnp.array([1.0, -jnp.inf])
    assert np.isfinite(jax.jit(lambda s: cross_entropy(masked, jnp.array(0), label_smoothing=s))(0.0))


def test_cross_entropy_of_a_sequence_is_the_mean_over_its_positions():
    case = LOSSES["cross_entropy_sequence"]
    scores, labels = jnp.asarray(case.prediction[0], jnp.float32), jnp.asarray(case.target[0])
    assert_close(cross_entropy(scores, labels), jnp.mean(jax.vmap(cross_entropy)(scores, labels)))
    assert_close(cross_entropy(scores, jax.nn.one_hot(labels, 3)), cross_entropy(scores, labels))
    assert_close(kl_divergence(scores, jax.nn.one_hot(labels, 3)), cross_entropy(scores, labels))
    assert np.isnan(cross_entropy(scores, jnp.array([1, 3])))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("label", [0, 1, 0.25])
def test_both_tails_of_binary_cross_entropy_are_exact(dtype, label):
    """Value and slope against float64: at label 1 both were 0 from a logit of 17 on, where label 0 was right."""
    logits = jnp.asarray(TAILS, dtype)
    exact = np.asarray(logits, np.float64)
    value = label * np.logaddexp(0, -exact) + (1 - label) * np.logaddexp(0, exact)
    slope = (1 - label) * special.expit(exact) - label * special.expit(-exact)
    rtol = 1e-6 if dtype == jnp.float32 else 2**-8
    both = jax.value_and_grad(lambda logit: binary_cross_entropy(logit, jnp.float32(label)))
    alone = tuple(jnp.stack(each) for each in zip(*map(both, logits)))
    for got in (alone, jax.vmap(both)(logits), jax.jit(jax.vmap(both))(logits)):
        assert got[0].dtype == got[1].dtype == dtype
        np.testing.assert_allclose(np.asarray(got[0], np.float64), value, rtol=rtol)
        np.testing.assert_allclose(np.asarray(got[1], np.float64), slope, rtol=rtol, atol=1e-7 if label == 0.25 else 0)
    far = jnp.array([1e30, -1e30], jnp.float32)
    np.testing.assert_array_equal(
        jax.vmap(jax.grad(binary_cross_entropy), (0, None))(far, jnp.float32(label)), np.float32([1 - label, -label])
    )


def test_a_class_that_is_impossible_and_does_not_occur_costs_nothing():
    """0 log 0 is 0, and so are its slopes: logits of minus infinity mask classes."""
    logits = jnp.array([0.5, -jnp.inf, 2.0, -jnp.inf])
    p = jnp.array([0.25, 0.0, 0.75, 0.0])
    both = jax.value_and_grad(cross_entropy)
    value, slope = both(logits[::2], p[::2])
    for run in (both, jax.jit(both)):
        masked = run(logits, p)
        assert_close(masked, (value, jnp.array([slope[0], 0, slope[1], 0])))
    together = jax.vmap(both)(jnp.stack([logits, jnp.zeros(4)]), jnp.stack([p, p]))
    assert_close(lane(together, 0), masked)
    assert cross_entropy(logits, jnp.array([0.0, 0.5, 0.5, 0.0])) == jnp.inf
    slopes = jax.grad(cross_entropy, 1)(jnp.zeros(2), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(slopes, np.log([2, 2]), rtol=1e-6)


@every_loss
def test_a_healthy_loss_raises_nothing_under_debug_nans(name):
    case = LOSSES[name]
    loss, target = case.make(**variant(case.numbers, 1)), target_of(case)
    with jax.debug_nans(True):
        far = 10 if name == "poisson" else 100  # the exponential of more is infinite
        for prediction in (jnp.asarray(case.prediction[0], jnp.float32), far * jnp.asarray(case.prediction[0], jnp.float32)):
            for run in (jax.value_and_grad(loss), jax.jit(jax.value_and_grad(loss))):
                assert np.isfinite(run(prediction, target[0])[0])


OUT_OF_RANGE = {
    "label too large": (cross_entropy, (3,), [0, 1, 2, 0], 3),
    "label negative": (cross_entropy, (3,), [0, 1, 2, 0], -1),
    "label of a hinge": (hinge, (3,), [0, 1, 2, 0], 7),
    "probability": (binary_cross_entropy, (), [0.0, 0.5, 1.0, 0.0], 1.5),
    "negative probability": (binary_cross_entropy, (2,), [[0.0, 0.5]] * 4, -0.25),
    "class of three": (binary_cross_entropy, (1,), [0, 1, 1, 0], 2),
    "side": (hinge, (1,), [-1, 1, 1, -1], 0),
    "side of two": (hinge, (2,), [[-1.0, 1.0]] * 4, 0.5),
    "label of focal": (focal, (3,), [0, 1, 2, 0], 3),
    "side of focal": (focal, (2,), [[0.0, 1.0]] * 4, 0.5),
    "count": (poisson, (2,), [[0.0, 3.0]] * 4, -1.0),
    "distribution": (kl_divergence, (2,), [[0.25, 0.75]] * 4, -0.5),
    "label in a sequence": (cross_entropy, (2, 3), [[0, 2]] * 4, 3),
}
WRAPPERS = {
    "lambda": lambda loss: lambda prediction, target: loss(prediction, target),
    "weight": lambda loss: lambda prediction, target: 3.0 * loss(prediction, target),
    "wraps": lambda loss: functools.wraps(loss)(lambda prediction, target: 2 * loss(prediction, target)),
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "partial": lambda loss: functools.partial(lambda loss, prediction, target: loss(prediction, target), loss),
    "partial by name": lambda loss: functools.partial(lambda prediction, target, weight: weight * loss(prediction, target), weight=2.0),
}


@pytest.mark.parametrize("kind", OUT_OF_RANGE)
def test_out_of_range_is_nan(kind):
    loss, outputs, good, odd = OUT_OF_RANGE[kind]
    targets = np.array(good)
    fine = jax.vmap(loss, (None, 0))(jnp.full(outputs, 0.3), jnp.asarray(targets))
    assert np.all(np.isfinite(fine))
    targets[2] = odd
    np.testing.assert_array_equal(np.isnan(jax.vmap(loss, (None, 0))(jnp.full(outputs, 0.3), jnp.asarray(targets))), [0, 0, 1, 0])


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("kind", OUT_OF_RANGE)
def test_a_wrapped_loss_checks_its_targets_too(kind, wrapper):
    loss, outputs, good, odd = OUT_OF_RANGE[kind]
    wrapped, targets = WRAPPERS[wrapper](loss), np.array(good)
    check_targets(wrapped, outputs, targets)
    targets[2] = odd
    with pytest.raises(ValueError, match=r"training: the loss \S+ must be a number for every target.*, got NaN for the target .* in row 2"):
        check_targets(wrapped, outputs, targets)
    with pytest.raises(ValueError, match=r"in row 0"):  # all of them
        check_targets(wrapped, outputs, np.full_like(targets, odd))
    with jax.debug_nans(True), pytest.raises(ValueError, match="in row 2"):
        check_targets(wrapped, outputs, targets)


def test_a_wrapper_that_changes_the_targets_is_judged_by_what_it_does():
    one_based = functools.wraps(cross_entropy)(lambda logits, target: cross_entropy(logits, target - 1))
    check_targets(one_based, (3,), np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="NaN for the target 0 in row 1"):
        check_targets(one_based, (3,), np.array([1, 0, 3]))


def test_many_targets_are_tried_a_part_at_a_time(monkeypatch):
    monkeypatch.setattr(losses, "_TRIED_AT_ONCE", 12)
    targets = np.arange(50) % 3
    wrapped = lambda logits, target: cross_entropy(logits, target)
    check_targets(wrapped, (3,), targets)
    targets[37] = 3
    with pytest.raises(ValueError, match="NaN for the target 3 in row 37"):
        check_targets(wrapped, (3,), targets)


def test_a_loss_that_is_nan_whatever_the_target_is_not_the_datas_fault():
    check_targets(lambda prediction, target: jnp.log(-prediction) + target, (), np.arange(3.0))


def test_a_loss_of_a_traced_hyperparameter_is_not_tried():
    @jax.jit
    def run(weight):
        check_targets(lambda logits, target: weight * cross_entropy(logits, target), (3,), np.array([0, 1, 7]))
        return weight

    run(1.0)


@mistakes(
    {
        "whole batch": (
            given(lambda p, t: jnp.mean(p[jnp.arange(len(t)), t]), (3,), [0, 1]),
            TypeError,
            r"training: a loss must take one example, a prediction of shape \(3,\) and a target of shape \(\), got TypeError: len\(\) of "
            r"unsized object; a loss sees one example, without a batch axis",
            given(lambda p, t: p[t], (3,), [0, 1]),
        ),
        "axis of the batch": (
            given(lambda p, t: jnp.mean((p - t) ** 2, axis=1), (3,), np.ones((2, 3))),
            ValueError,
            r"training: a loss must take one example, .* a loss sees one example",
            given(lambda p, t: jnp.mean((p - t) ** 2, axis=0), (3,), np.ones((2, 3))),
        ),
        "one for each output": (
            given(lambda p, t: (p - t) ** 2, (3,), np.ones((2, 3))),
            ValueError,
            r"training: a loss must give one number for one example, got shape \(3,\); a loss sees one example",
            given(lambda p, t: jnp.mean((p - t) ** 2), (3,), np.ones((2, 3))),
        ),
        "two numbers": (
            given(lambda p, t: (p[0], t), (3,), [0.0, 1.0]),
            ValueError,
            r"training: a loss must give one number for one example, got tuple",
            given(lambda p, t: p[0] - t, (3,), [0.0, 1.0]),
        ),
        "NumPy": (
            given(lambda p, t: np.mean((np.asarray(p) - t) ** 2), (3,), np.ones((2, 3))),
            TypeError,
            r"training: a loss must be written in jax.numpy, got one that turns its arguments into NumPy arrays",
            given(lambda p, t: jnp.mean((p - t) ** 2), (3,), np.ones((2, 3))),
        ),
    }
)
def test_what_a_loss_is_given_and_gives(mistake):
    check_mistake(mistake)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_by_name_as_by_position(name):
    loss, prediction = losses.LOSSES[name], jnp.array([0.5, -2.0, 3.0])
    target = jnp.array(1) if name in ("cross_entropy", "hinge") else jnp.array([1.0, 0.0, 1.0])
    first, second, *_ = inspect.signature(loss).parameters
    by_position = loss(prediction, target)
    assert by_position > 0
    assert loss(prediction, **{second: target}) == loss(**{second: target, first: prediction}) == by_position
