"""Penalties: every property over the registry, and their numbers against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close, assert_quarantined, check_gradient, check_mistake, lane, mistakes, stack, traced_once
from registries import PENALTIES, VARIANTS, penalty_params, stacked, variant

from funcnet import penalties
from funcnet.data import Dataset
from funcnet.layers import dense
from funcnet.losses import binary_cross_entropy, cross_entropy, squared_error
from funcnet.optimizers import adam, momentum, rmsprop, sgd
from funcnet.penalties import is_weight, l1, l2, l3, l4, lp, penalty
from funcnet.train import fit, penalized, training

every_penalty = pytest.mark.parametrize("name", PENALTIES)


@functools.cache
def programs(name):
    def run(numbers, params):
        return jax.value_and_grad(PENALTIES[name][0](**numbers))(params)

    return traced_once(run, f"penalty_{name}"), jax.jit(jax.vmap(run))


def inputs(name):
    return stacked(PENALTIES[name][1]), stack([penalty_params(seed) for seed in range(VARIANTS)])


def by_hand(params, **strengths):
    """strength * sum |w|^p over the leaves with two axes or more, in NumPy."""
    weights = [np.abs(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(params) if leaf.ndim >= 2]
    return sum(strength * sum((weight ** int(name[1:])).sum() for weight in weights) for name, strength in strengths.items())


def test_registry_holds_every_penalty():
    assert set(penalties.PENALTIES) <= set(PENALTIES)


@every_penalty
def test_gives_one_number_of_at_least_float32(name):
    """Each exact: a sum of squares in bfloat16 has two digits."""
    make, numbers = PENALTIES[name]
    for i in range(VARIANTS):
        y = make(**variant(numbers, i))(penalty_params(dtype=jnp.float32))
        short = make(**variant(numbers, i))(penalty_params(dtype=jnp.bfloat16))
        rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), penalty_params(dtype=jnp.bfloat16))
        assert (y.shape, y.dtype, short.shape, short.dtype) == ((), jnp.float32, (), jnp.float32)
        np.testing.assert_allclose(float(short), float(make(**variant(numbers, i))(rounded)), rtol=1e-6)


@every_penalty
def test_jit_equals_no_jit(name):
    make, numbers = PENALTIES[name]
    for i in range(VARIANTS):
        eager = jax.value_and_grad(make(**variant(numbers, i)))(penalty_params(i))
        assert_close(programs(name)[0](*lane(inputs(name), i)), eager)


@every_penalty
def test_variants_together_equal_each_alone_without_a_new_trace(name):
    alone, together = programs(name)
    outputs = together(*inputs(name))
    for i in range(VARIANTS):
        assert_close(lane(outputs, i), alone(*lane(inputs(name), i)))


@every_penalty
def test_nan_variant_leaves_the_others_alone(name):
    assert_quarantined(programs(name)[1], inputs(name), 1, shown=lambda outputs: outputs[0])  # a bias has no slope


@every_penalty
def test_gradients(name):
    """In the weights, the strengths and the power."""
    make, numbers = PENALTIES[name]
    with jax.enable_x64(True):
        arguments = (lane(stacked(numbers, jnp.float64), 1), penalty_params(dtype=jnp.float64))
        check_gradient(lambda numbers, params: make(**numbers)(params), arguments)


def test_agrees_with_numpy():
    params = penalty_params(3)
    for p, make in enumerate((l1, l2, l3, l4), start=1):
        expected = by_hand(params, **{f"l{p}": 0.3})
        assert_close(make(0.3)(params), expected)
        assert_close(lp(p, 0.3)(params), expected)
        assert_close(jax.jit(lambda p: lp(p, 0.3)(params))(float(p)), expected)  # traced, it takes another way
    assert_close(penalty(l1=0.1, l2=0.2, l3=0.3, l4=0.4)(params), by_hand(params, l1=0.1, l2=0.2, l3=0.3, l4=0.4))
    weights = np.concatenate([np.abs(np.asarray(leaf)).ravel() for leaf in jax.tree.leaves(params) if leaf.ndim >= 2])
    assert_close(lp(1.5, 2.0)(params), 2 * (weights**1.5).sum())


def test_only_weights_count_unless_where_says_otherwise():
    params = {"weight": jnp.full((2, 2), 2.0), "bias": jnp.full(3, 5.0)}
    assert_close(l2(1.0)(params), 16.0)
    assert_close(l2(1.0, where=lambda leaf: leaf.ndim == 1)(params), 75.0)
    assert_close(penalty(l1=1.0, where=lambda leaf: True)(params), 23.0)
    assert [is_weight(jnp.zeros(shape)) for shape in ((), (3,), (2, 2), (1, 2, 3))] == [False, False, True, True]


def test_nothing_to_count_is_zero_in_the_dtype_of_something():
    for make in (lambda: penalty(), lambda: penalty(l1=0.0, l2=0.0)):
        for dtype in (jnp.float32, jnp.bfloat16):
            zero = make()({"weight": jnp.ones((2, 2), dtype)})
            assert (float(zero), zero.shape, zero.dtype) == (0.0, (), jnp.float32)
    assert float(penalty()(())) == 0.0


def test_float16_weights_are_summed_in_float32():
    """Squares of 300 and of 1e-4 are infinity and zero in float16, and so is a strength of 1e-8."""
    for size in (300.0, 1e-4):
        params = {"weight": jnp.full((4, 4), size, jnp.float16)}
        for p, make in enumerate((l1, l2), start=1):
            assert_close(make(1e-8)(params), 1e-8 * 16 * float(jnp.float16(size)) ** p, rtol=1e-5, atol=0)
            slope = jax.grad(make(0.5))(params)["weight"]
            assert slope.dtype == jnp.float16
            assert_close(slope, jnp.full((4, 4), 0.5 * p * size ** (p - 1)), rtol=1e-3, atol=0)


@every_penalty
def test_of_a_complex_weight_the_modulus_counts(name):
    """A number of radius 5 costs as 5 does, is real, and its slope points along it (conjugated, as JAX's gradients are)."""
    make, numbers = PENALTIES[name]
    for i in range(VARIANTS):
        fn = make(**variant(numbers, i))
        turned, real = {"weight": jnp.full((2, 2), 3.0 + 4.0j)}, {"weight": jnp.full((2, 2), 5.0)}
        for of in (fn, jax.jit(fn), lambda params, fn=fn: jax.vmap(fn)(stack([params]))[0]):
            assert of(turned).dtype == jnp.float32
            assert_close(of(turned), of(real))
        slope = jax.grad(fn)(turned)["weight"]
        expected = np.asarray(jax.grad(fn)(real)["weight"]) * (3 - 4j) / 5
        np.testing.assert_allclose(slope, expected, rtol=1e-5)
        np.testing.assert_array_equal(jax.grad(fn)({"weight": jnp.zeros((2, 2), jnp.complex64)})["weight"], np.zeros((2, 2)))


@every_penalty
def test_healthy_weights_raise_nothing_under_debug_nans(name):
    make, numbers = PENALTIES[name]
    with jax.debug_nans(True):
        for params in (penalty_params(), jax.tree.map(jnp.zeros_like, penalty_params())):
            jax.block_until_ready(jax.value_and_grad(lambda numbers, params: make(**numbers)(params), (0, 1))(variant(numbers, 1), params))
            jax.block_until_ready(jax.value_and_grad(make(**variant(numbers, 1)))(params))


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 4])
def test_gradient_at_zero_is_zero(p):
    """Weights that start at zero, or arrive there, must not turn NaN; whether p is known or traced."""
    zeros = {"weight": jnp.zeros((2, 2))}
    for grad in (jax.grad(lp(p, 1.0))(zeros), jax.jit(lambda p: jax.grad(lp(p, 1.0))(zeros))(float(p))):
        np.testing.assert_array_equal(grad["weight"], np.zeros((2, 2)))


@mistakes(
    {
        "strength negative": (lambda: l2(-0.1), ValueError, r"^lp: strength must be in \[0, inf\), got -0.1$", lambda: l2(0.1)),
        "strength NaN": (lambda: l1(float("nan")), ValueError, r"^lp: strength must be in \[0, inf\), got nan$", lambda: l1(0.0)),
        "strength infinite": (lambda: l3(float("inf")), ValueError, r"^lp: strength must be in \[0, inf\), got inf$", lambda: l3(10)),
        "strength no number": (lambda: l4("much"), TypeError, "^lp: strength must be one number, got 'much'$", lambda: l4(0.1)),
        "strengths": (lambda: l4([0.1, 0.2]), TypeError, r"^lp: strength must be one number, got \[0.1, 0.2\]$", lambda: l4(0.1)),
        "power below one": (lambda: lp(0.5, 0.1), ValueError, r"^lp: p must be in \[1, inf\), got 0.5$", lambda: lp(1, 0.1)),
        "one of several negative": (
            lambda: penalty(l1=0.1, l3=-1),
            ValueError,
            r"^penalty: l3 must be in \[0, inf\), got -1$",
            lambda: penalty(l1=0.1, l3=1),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)


# The same strength elsewhere, as l2's docstring says.

N, STRENGTH = 30, 0.02
_RNG = np.random.default_rng(7)
X = _RNG.normal(size=(N, 4))
Y = X @ _RNG.normal(size=(4, 2)) + 0.3 * _RNG.normal(size=(N, 2))
SIDES = (Y[:, 0] > 0).astype(int)
THIRDS = np.digitize(Y[:, 0], np.quantile(Y[:, 0], [1 / 3, 2 / 3]))


def slope(loss, weight, bias, y):
    """Of the objective with l2(STRENGTH), in the weight and the bias of a linear model, in float64."""
    with jax.enable_x64(True):
        objective = penalized(dense(len(weight)), loss, l2(STRENGTH))
        params = {"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)}
        return jax.jit(jax.grad(objective))(params, (jnp.asarray(X), jnp.asarray(y)))


def test_l2_is_scikit_learns_alpha_and_c():
    """At scikit-learn's solutions the objective is flat; at those of twice the strength it isn't."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    cases = []
    for factor in (1, 2):
        one = linear_model.Ridge(alpha=factor * N * STRENGTH).fit(X, Y[:, 0])
        several = linear_model.Ridge(alpha=factor * N * 2 * STRENGTH).fit(X, Y)
        logistic = linear_model.LogisticRegression(C=1 / (2 * N * factor * STRENGTH), tol=1e-10, max_iter=10_000).fit(X, SIDES)
        cases += [
            (factor, squared_error, one.coef_[None], one.intercept_[None], Y[:, :1]),
            (factor, squared_error, several.coef_, several.intercept_, Y),
            (factor, binary_cross_entropy, logistic.coef_, logistic.intercept_, SIDES[:, None]),
        ]
        softmax = linear_model.LogisticRegression(C=1 / (2 * N * factor * STRENGTH), tol=1e-10, max_iter=10_000).fit(X, THIRDS)
        of_two = linear_model.LogisticRegression(C=1 / (N * factor * STRENGTH), tol=1e-10, max_iter=10_000).fit(X, SIDES)
        halves = [np.concatenate([-part, part]) / 2 for part in (of_two.coef_, of_two.intercept_)]
        cases += [(factor, cross_entropy, softmax.coef_, softmax.intercept_, THIRDS), (factor, cross_entropy, *halves, SIDES)]
    for factor, *case in cases:
        steepest = max(float(np.max(np.abs(part))) for part in jax.tree.leaves(slope(*case)))
        assert steepest < 1e-6 if factor == 1 else steepest > 1e-3


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_l2_is_the_alpha_of_scikit_learns_nets():
    """Its loss at the first step is the objective at its first weights, of which half is the regressor's."""
    nets = pytest.importorskip("sklearn.neural_network")
    given = {"hidden_layer_sizes": (), "solver": "sgd", "learning_rate_init": 1e-12, "batch_size": N, "max_iter": 1, "random_state": 0}
    regressor = nets.MLPRegressor(alpha=N * STRENGTH, **given).fit(X, Y[:, 0])
    classifier = nets.MLPClassifier(alpha=2 * N * STRENGTH, **given).fit(X, SIDES)
    for net, loss, y, share in ((regressor, squared_error, Y[:, :1], 2), (classifier, binary_cross_entropy, SIDES[:, None], 1)):
        with jax.enable_x64(True):
            params = {"weight": jnp.asarray(net.coefs_[0].T), "bias": jnp.asarray(net.intercepts_[0])}
            value = penalized(dense(1), loss, l2(STRENGTH))(params, (jnp.asarray(X), jnp.asarray(y)))
        np.testing.assert_allclose(value, share * net.loss_, rtol=1e-8)


def test_l2_is_half_of_torchs_weight_decay():
    torch = pytest.importorskip("torch")
    weight, bias = _RNG.normal(size=(2, 4)), _RNG.normal(size=2)
    parts = [torch.tensor(part, requires_grad=True) for part in (weight, bias)]
    optimizer = torch.optim.SGD([{"params": parts[:1], "weight_decay": 2 * STRENGTH}, {"params": parts[1:]}], lr=1.0)
    torch.nn.functional.mse_loss(torch.nn.functional.linear(torch.tensor(X), *parts), torch.tensor(Y)).backward()
    optimizer.step()
    grads = slope(squared_error, weight, bias, Y)
    np.testing.assert_allclose(parts[0].detach().numpy(), weight - np.asarray(grads["weight"]), rtol=1e-9)
    np.testing.assert_allclose(parts[1].detach().numpy(), bias - np.asarray(grads["bias"]), rtol=1e-9)


def test_descent_ends_at_ridges_solution():
    """Not only is the slope zero there: gradient descent from anywhere comes there."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    expected = linear_model.Ridge(alpha=N * 2 * STRENGTH).fit(X, Y)
    with jax.enable_x64(True):
        line = training(dense(2), squared_error, sgd(0.3), in_shape=(4,), penalty=l2(STRENGTH))
        state = fit(line, Dataset(X, Y), key=jax.random.key(0), num_steps=2000, batch_size=None).state
        np.testing.assert_allclose(state.params["weight"], expected.coef_, rtol=1e-8)
        np.testing.assert_allclose(state.params["bias"], expected.intercept_, rtol=1e-8)


RULES = {
    "sgd": (lambda rate: sgd(rate), lambda torch, parts, rate: torch.optim.SGD(parts, lr=rate)),
    "momentum": (lambda rate: momentum(rate), lambda torch, parts, rate: torch.optim.SGD(parts, lr=rate, momentum=0.9)),
    "adam": (lambda rate: adam(rate), lambda torch, parts, rate: torch.optim.Adam(parts, lr=rate)),
    "rmsprop": (lambda rate: rmsprop(rate), lambda torch, parts, rate: torch.optim.RMSprop(parts, lr=rate, alpha=0.9)),
}


@pytest.mark.parametrize("name", RULES)
def test_l2_is_half_of_torchs_weight_decay_step_after_step(name):
    torch = pytest.importorskip("torch")
    ours, theirs = RULES[name]
    weight, bias = _RNG.normal(size=(2, 4)), _RNG.normal(size=2)
    parts = [torch.tensor(part, requires_grad=True) for part in (weight, bias)]
    optimizer = theirs(torch, [{"params": parts[:1], "weight_decay": 2 * STRENGTH}, {"params": parts[1:]}], 0.05)
    with jax.enable_x64(True):
        line = training(dense(2), squared_error, ours(0.05), in_shape=(4,), penalty=l2(STRENGTH))
        first = line.init(jax.random.key(0))
        state = first._replace(params={"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)})
        for _ in range(25):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(torch.nn.functional.linear(torch.tensor(X), *parts), torch.tensor(Y)).backward()
            optimizer.step()
            state, _ = line.step(state, Dataset(X, Y), jax.random.key(0))
        for part, ours_now in zip(parts, (state.params["weight"], state.params["bias"]), strict=True):
            np.testing.assert_allclose(ours_now, part.detach().numpy(), rtol=1e-6)
