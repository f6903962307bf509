"""Which leaves a predicate picks: of a leaf, or of its path and the leaf, asked for shape, dtype and path alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import check_mistake, mistakes

import funcnet as fn
from funcnet.leaves import chosen, is_weight, kept, paths, takes_path
from funcnet.train import TrainState

PARAMS = [{"bias": jnp.zeros(3), "weight": jnp.ones((3, 2), jnp.bfloat16)}, (), {"bias": jnp.zeros(1), "weight": jnp.ones((1, 3))}]


def pick(where, tree=PARAMS):
    return chosen("adam", where, tree)


def test_paths_are_names_and_places_in_the_order_of_leaves():
    assert paths(PARAMS) == ["0/bias", "0/weight", "2/bias", "2/weight"]
    assert paths(TrainState({"a": 1.0}, (2.0, None), 3)) == ["params/a", "optimizer_state/0", "step"]
    assert paths(1.0) == [""] and paths([]) == []


class Method:
    def ask(self, path, leaf):
        return path == "2/bias"

    def __call__(self, leaf):
        return leaf.ndim == 1


@pytest.mark.parametrize(
    "where, expected",
    [
        (None, [True] * 4),
        (is_weight, [False, True, False, True]),
        (lambda leaf: leaf.dtype == jnp.bfloat16, [False, True, False, False]),
        (lambda leaf: np.bool_(leaf.size == 3), [True, False, False, True]),
        (lambda leaf, axes=1: jnp.ndim(leaf) == axes, [True, False, True, False]),
        (lambda path, leaf: path.startswith("2/"), [False, False, True, True]),
        (lambda path, leaf: path.endswith("weight") and leaf.shape == (1, 3), [False, False, False, True]),
        (lambda path, leaf, ending="bias": path.endswith(ending), [True, False, True, False]),
        (functools.partial(lambda start, path, leaf: path.startswith(start), "0"), [True, True, False, False]),
        (Method().ask, [False, False, True, False]),
        (Method(), [True, False, True, False]),
    ],
)
def test_a_predicate_picks(where, expected):
    """Of arrays, of their shapes alone, and of traced ones, each alone and mapped."""
    assert pick(where) == expected
    assert pick(where, jax.eval_shape(lambda: PARAMS)) == expected
    seen = []
    jax.jit(lambda params: seen.append(pick(where, params)))(PARAMS)
    jax.vmap(lambda params: seen.append(pick(where, params)) or 0.0)(jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), PARAMS))
    assert seen == [expected] * 2


def test_what_is_no_array_is_shown_as_it_is():
    assert pick(lambda leaf: leaf != "relu", ["relu", jnp.ones(2)]) == [False, True]
    assert pick(lambda leaf: jnp.ndim(leaf) == 0, [1.0, 2, np.float32(3), np.ones(2), jax.random.key(0)]) == [True, True, True, False, True]


def test_weights_may_be_none_and_so_may_leaves():
    assert pick(is_weight, [jnp.ones(3)]) == [False] and pick(lambda leaf: False, []) == []


def test_what_is_not_kept_is_none():
    assert jax.tree.leaves(kept(PARAMS, [False, True, False, False])) == [PARAMS[0]["weight"]]
    assert kept([1.0, (2.0,)], [False, True]) == [None, (2.0,)]


MANY = [jnp.ones(2) for _ in range(20)]
FORM = r"^adam: where must be a function of a leaf or of \(path, leaf\), got "


@mistakes(
    {
        "picks none": (
            lambda: pick(lambda path, leaf: path.startswith("3/")),
            ValueError,
            r"^adam: where must pick a leaf, got none of '0/bias', '0/weight', '2/bias', '2/weight'; "
            r"such as where=lambda path, leaf: path.startswith\('0/'\)$",
            lambda: pick(lambda path, leaf: path.startswith("0/")),
        ),
        "picks none of many": (
            lambda: pick(lambda leaf: False, MANY),
            ValueError,
            r"got none of '0', .*'11' and 8 more; such as where=lambda path, leaf: path.startswith\('0'\)$",
            lambda: pick(lambda path, leaf: path.startswith("0"), MANY),
        ),
        "picks none of one": (
            lambda: pick(lambda leaf: False, jnp.ones(2)),
            ValueError,
            r"^adam: where must pick a leaf, got none of ''; leave out where: there is one leaf alone$",
            lambda: pick(None, jnp.ones(2)),
        ),
        "gives no bool": (
            lambda: pick(lambda leaf: leaf.shape),
            TypeError,
            r"^adam: where must give a bool, got \(3,\) for '0/bias'; ask a leaf for its shape, its dtype or its path$",
            lambda: pick(lambda leaf: leaf.shape == (3,)),
        ),
        "gives nothing": (
            lambda: pick(lambda path, leaf: None),
            TypeError,
            r"^adam: where must give a bool, got None for '0/bias'",
            lambda: pick(lambda path, leaf: path != ""),
        ),
        "gives a number": (
            lambda: pick(lambda leaf: leaf.ndim),
            TypeError,
            "got 1 for '0/bias'",
            lambda: pick(lambda leaf: leaf.ndim == 1),
        ),
        "an array of values": (
            lambda: pick(lambda leaf: jnp.any(leaf > 0)),
            TypeError,
            r"^adam: where must give a bool, got a look at values for '0/bias'; ask a leaf for its shape",
            lambda: pick(lambda leaf: leaf.size > 0),
        ),
        "a bool of values": (
            lambda: pick(lambda leaf: bool(jnp.any(leaf > 0))),
            TypeError,
            r"^adam: where must give a bool, got a look at values; ask a leaf for its shape",
            lambda: pick(lambda leaf: bool(leaf.size)),
        ),
        "values in NumPy": (
            lambda: pick(lambda leaf: np.asarray(leaf).all()),
            TypeError,
            r"^adam: where must give a bool, got a look at values; ask a leaf for its shape",
            lambda: pick(lambda leaf: np.ndim(leaf) == 1),
        ),
        "no function": (lambda: pick("head"), TypeError, FORM + "'head'; such as", lambda: pick(lambda path, leaf: path.startswith("0/"))),
        "of nothing": (
            lambda: takes_path("adam", lambda: True),
            TypeError,
            FORM + r"one of \(\);",
            lambda: takes_path("adam", lambda leaf: True),
        ),
        "of three": (
            lambda: takes_path("adam", lambda key, path, leaf: True),
            TypeError,
            FORM + r"one of \(key, path, leaf\);",
            lambda: takes_path("adam", lambda path, leaf: True),
        ),
        "of any": (
            lambda: takes_path("adam", lambda *leaf: True),
            TypeError,
            FORM + r"one of \(\*leaf\);",
            lambda: takes_path("adam", lambda leaf: True),
        ),
        "of a keyword": (
            lambda: takes_path("adam", lambda leaf, *, axes: True),
            TypeError,
            FORM + r"one of \(leaf, \*, axes\);",
            lambda: takes_path("adam", lambda leaf, *, axes=2: True),
        ),
    }
)
def test_mistakes(mistake):
    check_mistake(mistake)


PENALIZED = {"body": {"weight": jnp.full((2, 2), 2.0), "bias": jnp.full(3, 5.0)}, "head": {"weight": jnp.full((1, 2), 3.0)}}


@pytest.mark.parametrize(
    "make", [fn.l1, fn.l2, fn.l3, fn.l4, functools.partial(fn.lp, 1.5), lambda s, where: fn.penalty(l1=s, l4=s, where=where)]
)
def test_every_penalty_takes_a_path(make):
    """And is the penalty of the leaves that it picks."""
    of_head = make(0.3, where=lambda path, leaf: path.startswith("head/"))
    alone = make(0.3, where=lambda leaf: True)
    for run in (lambda penalty, params: penalty(params), lambda penalty, params: jax.jit(penalty)(params)):
        np.testing.assert_array_equal(run(of_head, PENALIZED), run(alone, PENALIZED["head"]))
    together = jax.vmap(of_head)(jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PENALIZED))
    np.testing.assert_allclose(together, [of_head(PENALIZED), of_head(jax.tree.map(lambda leaf: 2 * leaf, PENALIZED))], rtol=1e-6)
    with pytest.raises(ValueError, match="^lp: where must pick a leaf, got none of 'body/bias', 'body/weight', 'head/weight'; such as"):
        make(0.3, where=lambda path, leaf: path.startswith("tail"))(PENALIZED)
    with pytest.raises(TypeError, match="^lp: where must be a function of a leaf or of"):
        make(0.3, where="head")


def test_gradient_norms_take_a_path():
    model = fn.mlp((4, 2))
    params = model.init(jax.random.key(0), (3,))
    batch = fn.Dataset(jnp.ones((5, 3)), jnp.ones((5, 2)))
    both = fn.gradient_norms(model, params, "squared_error", batch)
    one = fn.gradient_norms(model, params, "squared_error", batch, where=lambda path, leaf: path == "3/weight")
    np.testing.assert_array_equal(one, both[1:])
