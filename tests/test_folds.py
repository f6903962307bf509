"""Parts and folds: strata and groups keep what scikit-learn promises."""

import itertools

import jax
import numpy as np
import pandas
import pytest

import funcnet as fn

model_selection = pytest.importorskip("sklearn.model_selection")

KEY = jax.random.key(1)
SEEDS = range(8)


def numbered(examples):
    """A data set whose x says which example it was."""
    return fn.Dataset(np.arange(float(examples))[:, None], np.zeros(examples, int))


def rows(part):
    return part.x[:, 0].astype(int)


def classes_of(rng, examples, shares):
    """Labels of random classes, each at least five times."""
    rest = rng.choice(len(shares), examples - 5 * len(shares), p=shares)
    return rng.permutation(np.concatenate([np.repeat(np.arange(len(shares)), 5), rest]))


# split.


def test_two_positives_in_thirty_are_in_both_parts():
    y = np.repeat([0, 1], [28, 2])
    for seed in range(60):
        parts = fn.split(fn.Dataset(np.arange(30.0)[:, None], y), key=jax.random.key(seed), stratify=y)
        assert [np.bincount(part.y).tolist() for part in parts[:2]] == [[23, 1], [5, 1]]
    first = {
        tuple(rows(fn.split(fn.Dataset(np.arange(30.0)[:, None], y), key=jax.random.key(seed), stratify=y).validation)) for seed in SEEDS
    }
    assert len(first) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_strata_are_shared_out_to_within_one(seed):
    """The promise of StratifiedShuffleSplit, for three parts too; and no class is missing where its share can be rounded up."""
    rng = np.random.default_rng(seed)
    y = classes_of(rng, int(rng.choice([41, 100])), rng.dirichlet(np.ones(rng.integers(2, 7))))
    validation, test = 0.25, float(rng.choice([0.0, 0.25, 0.3]))
    parts = [part for part in fn.split(numbered(len(y)), key=jax.random.key(seed), validation=validation, test=test, stratify=y) if part]
    plain = [part for part in fn.split(numbered(len(y)), key=jax.random.key(seed), validation=validation, test=test) if part]
    assert [len(part.y) for part in parts] == [len(part.y) for part in plain]
    assert sorted(np.concatenate([rows(part) for part in parts])) == list(range(len(y)))
    for part in parts:
        exact = np.bincount(y) * len(part.y) / len(y)
        got = np.bincount(y[rows(part)], minlength=y.max() + 1)
        assert np.all(np.abs(got - exact) < 1) and np.all(got > 0)
    if test == 0:
        splitter = model_selection.StratifiedShuffleSplit(1, test_size=len(parts[1].y), random_state=seed)
        _, theirs = next(splitter.split(y, y))
        assert np.abs(np.bincount(y[theirs]) - np.bincount(y[rows(parts[1])])).max() <= 1


def test_remainders_are_rounded_as_in_sklearn_where_no_class_is_rare():
    y = np.repeat([0, 1, 2], [53, 31, 16])
    part = fn.split(numbered(100), key=KEY, validation=0.3, stratify=y).validation
    splitter = model_selection.StratifiedShuffleSplit(1, test_size=30, random_state=0)
    np.testing.assert_array_equal(np.bincount(y[rows(part)]), np.bincount(y[next(splitter.split(y, y))[1]]))


def test_strata_may_be_text_bools_series_and_rows():
    y = np.repeat([0, 1], [20, 10])
    expected = fn.split(numbered(30), key=KEY, stratify=y)
    words = np.where(y == 1, "yes", "no")
    for strata in (words, y == 1, pandas.Series(words), pandas.Series(words).astype("category"), y[:, None], np.eye(2)[1 - y], y.tolist()):
        got = fn.split(numbered(30), key=KEY, stratify=strata)
        np.testing.assert_array_equal(rows(got.train), rows(expected.train))


def test_without_shuffling_time_runs_from_train_to_test():
    parts = fn.split(numbered(10), shuffle=False, validation=0.2, test=0.1)
    assert [rows(part).tolist() for part in parts] == [[0, 1, 2, 3, 4, 5, 6], [7, 8], [9]]
    y = np.tile([0, 1], 10)
    parts = fn.split(numbered(20), shuffle=False, validation=0.2, test=0.2, stratify=y)
    assert [rows(part).tolist() for part in parts] == [list(range(12)), list(range(12, 16)), list(range(16, 20))]


def test_a_plain_split_is_the_one_of_before():
    order = np.asarray(jax.random.permutation(KEY, 10))
    parts = fn.split(numbered(10), key=KEY, validation=0.3, test=0.2)
    assert [rows(part).tolist() for part in parts] == [order[:5].tolist(), order[5:8].tolist(), order[8:].tolist()]


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_is_in_one_part(seed, stratified):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 25, 200)
    y = (groups % 3 == 0).astype(int) if stratified else None
    parts = fn.split(numbered(200), key=jax.random.key(seed), validation=0.2, test=0.2, groups=groups, stratify=y)
    members = [set(groups[rows(part)]) for part in parts]
    assert all(not a & b for a, b in itertools.combinations(members, 2))
    assert sorted(np.concatenate([rows(part) for part in parts])) == list(range(200))
    largest = np.bincount(groups).max()
    for part, size in zip(parts, (120, 40, 40), strict=True):
        assert abs(len(part.y) - size) < 2 * largest
        if stratified:
            assert abs(np.mean(y[rows(part)]) - np.mean(y)) < 0.15


def test_one_huge_group_leaves_no_part_empty():
    groups = np.repeat([0, 1, 2, 3], [2, 2, 2, 44])
    for seed in SEEDS:
        parts = fn.split(numbered(50), key=jax.random.key(seed), validation=0.04, test=0.04, groups=groups)
        assert all(len(part.y) for part in parts)


SPLIT_ERRORS = {
    "a class of one": (
        dict(stratify=[0] * 9 + [1]),
        "stratify must have at least 2 examples of each class, got 1; leave such examples out, or join classes",
        dict(stratify=[0] * 8 + [1] * 2),
    ),
    "a small part": (
        dict(stratify=[0, 1] * 5, validation=0.1),
        "validation must hold at least one example of each of the 2 classes to stratify by, got 1 example; a larger share",
        dict(stratify=[0, 1] * 5, validation=0.2),
    ),
    "lengths": (
        dict(stratify=[0, 1]),
        r"stratify must hold one value for each of the 10 examples, got shape \(2,\); such as dataset.y",
        dict(stratify=np.tile([0, 1], 5)),
    ),
    "groups": (dict(groups=[0] * 10), "there must be a group for each of the 2 parts, got 1", dict(groups=[0, 1] * 5)),
}


@pytest.mark.parametrize("name", SPLIT_ERRORS)
def test_split_says_what_is_wrong(name):
    wrong, match, right = SPLIT_ERRORS[name]
    with pytest.raises(ValueError, match=f"split: {match}"):
        fn.split(numbered(10), key=KEY, **wrong)
    fn.split(numbered(10), key=KEY, **right)
    with pytest.raises(TypeError, match="split: stratify must hold values of one kind, got dtype object; such as stratify.astype"):
        fn.split(numbered(10), key=KEY, stratify=np.array([1, "a"] * 5, object))
    with pytest.raises(TypeError, match="split: key must be a JAX random key, got None"):
        fn.split(numbered(10))


# Folds.


def same_folds(ours, theirs):
    theirs = list(theirs)
    assert len(ours) == len(theirs)
    for part, (train, validation) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(rows(part.train), train)
        np.testing.assert_array_equal(rows(part.validation), validation)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_in_order_are_sklearns(folds, seed):
    rng = np.random.default_rng(seed)
    y = classes_of(rng, 60, rng.dirichlet(np.ones(4)))
    groups = rng.integers(0, 17, len(y))
    data = numbered(len(y))
    same_folds(fn.k_fold(data, folds, shuffle=False), model_selection.KFold(folds).split(y))
    same_folds(fn.k_fold(data, folds, shuffle=False, stratify=y), model_selection.StratifiedKFold(folds).split(y, y))
    same_folds(fn.k_fold(data, folds, shuffle=False, groups=groups), model_selection.GroupKFold(folds).split(y, y, groups))
    both = model_selection.StratifiedGroupKFold(folds).split(y, y, groups)
    same_folds(fn.k_fold(data, folds, shuffle=False, groups=groups, stratify=y), both)


@pytest.mark.parametrize("seed", SEEDS)
def test_shuffled_folds_keep_the_promises(seed):
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    y = classes_of(rng, int(rng.choice([41, 100])), rng.dirichlet(np.ones(4)))
    groups = rng.integers(0, 17, len(y))
    data = numbered(len(y))
    for asked in ({}, {"stratify": y}, {"groups": groups}, {"stratify": y, "groups": groups}):
        parts = fn.k_fold(data, 5, key=key, **asked)
        assert sorted(np.concatenate([rows(part.validation) for part in parts])) == list(range(len(y)))
        for part in parts:
            assert sorted([*rows(part.train), *rows(part.validation)]) == list(range(len(y)))
            if "groups" in asked:
                assert not set(groups[rows(part.train)]) & set(groups[rows(part.validation)])
        sizes = [len(part.validation.y) for part in parts]
        counts = np.stack([np.bincount(y[rows(part.validation)], minlength=4) for part in parts])
        if "groups" not in asked:
            assert np.ptp(sizes) <= 1
        elif "stratify" not in asked:
            theirs = [len(test) for _, test in model_selection.GroupKFold(5).split(y, y, groups)]
            assert sorted(sizes) == sorted(theirs)
        if asked.keys() == {"stratify"}:
            assert np.ptp(counts, axis=0).max() <= 1
        other = fn.k_fold(data, 5, key=jax.random.key(seed + 100), **asked)
        again = fn.k_fold(data, 5, key=key, **asked)
        same_folds(again, [(rows(part.train), rows(part.validation)) for part in parts])
        if "groups" not in asked:
            assert any(not np.array_equal(rows(a.validation), rows(b.validation)) for a, b in zip(parts, other, strict=True))


def test_strata_within_groups_are_spread_better_than_without():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 400)
    y = (rng.random(40) < 0.2)[groups].astype(int)

    def unevenness(**asked):
        found = [fn.k_fold(numbered(400), 4, key=jax.random.key(seed), groups=groups, **asked) for seed in SEEDS]
        return np.mean([np.std([np.sum(y[rows(part.validation)]) for part in parts]) for parts in found])

    assert unevenness(stratify=y) < unevenness() / 2


@pytest.mark.parametrize(
    "asked", [{}, {"gap": 2}, {"test_size": 3}, {"max_train_size": 5, "gap": 1}, {"test_size": 2, "max_train_size": 4}], ids=str
)
@pytest.mark.parametrize("examples", [23, 40])
def test_time_series_folds_are_sklearns(asked, examples):
    ours = {("validation_size" if name == "test_size" else name): value for name, value in asked.items()}
    theirs = model_selection.TimeSeriesSplit(4, **asked).split(np.zeros(examples))
    same_folds(fn.time_series_folds(numbered(examples), 4, **ours), theirs)


def test_folds_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"k_fold: folds must be in \[2, 10\], got 11"):
        fn.k_fold(numbered(10), 11, key=KEY)
    with pytest.raises(ValueError, match=r"k_fold: folds must be in \[2, 10\], got 1"):
        fn.k_fold(numbered(10), 1, key=KEY)
    with pytest.raises(TypeError, match="k_fold: key must be a JAX random key, got None"):
        fn.k_fold(numbered(10), 2)
    with pytest.raises(ValueError, match="k_fold: there must be a group for each of the 3 folds, got 2; fewer folds"):
        fn.k_fold(numbered(10), 3, key=KEY, groups=[0, 1] * 5)
    fn.k_fold(numbered(10), 2, key=KEY, groups=[0, 1] * 5)
    with pytest.raises(
        ValueError, match="k_fold: stratify must have at least 3 examples of a class, got at most 1; fewer folds; bin a target"
    ):
        fn.k_fold(numbered(10), 3, key=KEY, stratify=np.arange(10.0))
    fn.k_fold(numbered(10), 3, key=KEY, stratify=np.arange(10.0) > 4)
    with pytest.warns(
        UserWarning, match="k_fold: every class must have at least 5 examples to be in each fold, got 2; fewer folds, or join classes"
    ):
        fn.k_fold(numbered(10), 5, key=KEY, stratify=[0] * 8 + [1] * 2)
    fn.k_fold(numbered(10), 2, key=KEY, stratify=[0] * 8 + [1] * 2)
    with pytest.raises(ValueError, match="k_fold: every fold must leave at least two examples to train on, got 1 in fold 0"):
        fn.k_fold(numbered(3), 2, key=KEY)
    with pytest.raises(
        ValueError, match="the first of 4 folds of 2 must have at least two of the 10 examples to train on, got 1; fewer folds"
    ):
        fn.time_series_folds(numbered(10), 4, validation_size=2, gap=1)
    fn.time_series_folds(numbered(10), 4, validation_size=2)


def test_folds_train():
    x = np.linspace(-1, 1, 40)[:, None]
    line = fn.training(fn.dense(1), "squared_error", fn.adam(0.1), in_shape=(1,))
    for part in fn.k_fold(fn.Dataset(x, 3 * x), 4, key=KEY):
        assert fn.fit(line, part, key=KEY, num_steps=200, batch_size=10).curves["validation/loss"][-1] < 1e-3
