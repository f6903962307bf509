"""Data: what is accepted, how it is cut, and the order in which training meets it."""

import collections
import itertools

import jax
import jax.experimental.sparse
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import scipy.sparse
from scipy.stats import chisquare

import funcnet as fn
from funcnet.data import as_dataset

X = np.random.default_rng(0).normal(3, 2, size=(40, 3))
Y = np.arange(40)
KEY = jax.random.key(1)


RAGGED = np.empty(3, object)
RAGGED[:] = [np.arange(1.0), np.arange(2.0), np.arange(3.0)]

# What is accepted.


def _memory_mapped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def _read_only():
    x = X.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    "make",
    [
        lambda _: X,
        lambda _: X.tolist(),
        lambda _: [list(row) for row in X],
        lambda _: pandas.DataFrame(X, columns=list("abc")),
        lambda _: jnp.asarray(X),
        lambda _: _read_only(),
        _memory_mapped,
        lambda _: np.asfortranarray(X),
        lambda _: np.repeat(X, 2, axis=0)[::2],
        lambda _: X.astype(">f8"),
        lambda _: X.astype(np.longdouble),
    ],
    ids=["float64", "lists", "rows", "pandas", "jax", "read only", "memory mapped", "fortran", "strided", "big-endian", "long double"],
)
def test_all_kinds_of_arrays_work(make, tmp_path):
    parts = fn.split(fn.Dataset(make(tmp_path), pandas.Series(Y)), key=KEY, validation=0.25)
    assert parts.train.x.dtype == np.float32 and parts.train.y.dtype == np.int32
    np.testing.assert_allclose(parts.train.x, X[parts.train.y].astype(np.float32), rtol=1e-6)  # y says which row it was


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.uint8, np.uint8),
        (np.int64, np.int32),
        (">i8", np.int32),
        (bool, np.int32),
        (np.float16, np.float16),
        (jnp.bfloat16, jnp.bfloat16),
        (">f4", np.float32),
    ],
)
def test_dtypes(given, kept):
    made = as_dataset("test", (np.ones((4, 2), given), np.zeros(4, given)))
    assert made.x.dtype == made.y.dtype == kept and made.x.dtype.isnative
    np.testing.assert_array_equal(made.x.astype(np.float32), 1)


def test_frames_of_several_targets_and_lists_of_bools_work():
    parts = fn.split(fn.Dataset(pandas.DataFrame(X), pandas.DataFrame({"a": Y, "b": -Y})), key=KEY)
    assert parts.train.y.shape == (32, 2) and np.all(parts.train.y.sum(1) == 0)
    sides = fn.split(fn.Dataset(X.tolist(), [True, False] * 20), key=KEY).train.y
    assert sides.dtype == np.int32 and set(sides.tolist()) == {0, 1}


BAD = {
    "lengths": ((X, Y[:-1]), ValueError, "x and y must have one entry for each example, got 40 and 39", (X[:-1], Y[:-1])),
    "empty": ((X[:0], Y[:0]), ValueError, "a data set must have at least 2 examples, got 0", (X, Y)),
    "one example": ((X[:1], Y[:1]), ValueError, "a data set must have at least 2 examples, got 1", (X[:2], Y[:2])),
    "nan": (
        (np.where(X == X[3, 1], np.nan, X), Y),
        ValueError,
        r"x must be finite, got nan at index \(3, 1\); fill or drop such examples",
        (X, Y),
    ),
    "infinity": ((X, np.where(Y == 5, np.inf, Y)), ValueError, r"y must be finite, got inf at index \(5,\)", (X, Y)),
    "float64 that float32 can't hold": ((X * 1e300, Y), ValueError, r"x must be finite, got \S+ at index \(0, 0\)", (X, Y)),
    "big-endian that float32 can't hold": (
        (X.astype(">f8") * 1e300, Y),
        ValueError,
        r"x must be finite, got \S+ at index \(0, 0\)",
        (X, Y),
    ),
    "durations": ((X, Y.astype("m8[s]")), TypeError, "y must hold numbers, got dtype timedelta64", (X, Y)),
    "integer that int32 can't hold": ((X, Y + 2**40), ValueError, "y must fit in int32, got 1099511627776", (X, Y)),
    "objects": (
        (X.astype(object), Y),
        TypeError,
        "x must hold numbers, got dtype object; turn text and categories into numbers first",
        (X, Y),
    ),
    "text": ((X, Y.astype(str)), TypeError, "y must hold numbers, got dtype <U", (X, Y)),
    "complex": ((X + 1j, Y), TypeError, "x must hold numbers, got dtype complex128; complex numbers are not supported", (X, Y)),
    "ragged": (
        ([[1.0], [1.0, 2.0]], [0, 1]),
        ValueError,
        r"x must be an array of numbers, got rows of different lengths; pad\(rows\) makes sequences of them",
        ([[1.0], [1.0]], [0, 1]),
    ),
    "ragged arrays": (
        (RAGGED, [0, 1, 2]),
        ValueError,
        r"x must be an array of numbers, got rows of different lengths; pad\(rows\) makes sequences of them",
        (np.array([np.pad(row, (0, 3 - len(row))) for row in RAGGED]), [0, 1, 2]),
    ),
    "ragged series": (
        (pandas.Series([[1, 2], [3], [4]]), [0, 1, 2]),
        ValueError,
        "x must be an array of numbers, got rows of different lengths",
        (pandas.Series([[1, 2], [3, 0], [4, 0]]), [0, 1, 2]),
    ),
    "sparse": (
        (scipy.sparse.csr_matrix(np.eye(40)), Y),
        TypeError,
        r"x must be an array of numbers, got a sparse csr_matrix; x.toarray\(\) or x.todense\(\) is dense",
        (scipy.sparse.csr_matrix(np.eye(40)).toarray(), Y),
    ),
    "sparse of JAX's": (
        (jax.experimental.sparse.BCOO.fromdense(jnp.eye(40)), Y),
        TypeError,
        r"x must be an array of numbers, got a sparse BCOO; x.toarray\(\) or x.todense\(\) is dense",
        (jax.experimental.sparse.BCOO.fromdense(jnp.eye(40)).todense(), Y),
    ),
    "a column of text": (
        (pandas.DataFrame({"size": X[:, 0], "city": "Ulm"}), Y),
        TypeError,
        "x must hold numbers, got dtype .* in column 'city'; turn text and categories into numbers first",
        (pandas.DataFrame({"size": X[:, 0], "city": 1}), Y),
    ),
    "missing in a column": (
        (pandas.DataFrame({"a": pandas.array([1, None] * 20, "Int64"), "b": True}), Y),
        ValueError,
        r"x must be finite, got nan at index \(1, 0\)",
        (pandas.DataFrame({"a": pandas.array([1, 2] * 20, "Int64"), "b": True}), Y),
    ),
    "two data sets": (
        (fn.Dataset(X[:30], Y[:30]), fn.Dataset(X[30:], Y[30:])),
        TypeError,
        r"data must be Dataset\(x, y\) or a Split, got 2 data sets; Split\(train, validation\) says which is which",
        (X, Y),
    ),
    "three pairs": (
        ((X[:20], Y[:20]), (X[20:30], Y[20:30]), (X[30:], Y[30:])),
        TypeError,
        r"data must be Dataset\(x, y\) or a Split, got 3 data sets; Split\(train, validation\)",
        (X, Y),
    ),
    "no axes": ((1.0, Y), ValueError, r"x must have a first axis of examples, got shape \(\)", (X, Y)),
    "not a pair": (X, TypeError, r"data must be Dataset\(x, y\) or a Split, got ndarray; such as Dataset\(x, y\)", (X, Y)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused(name):
    wrong, error, match, right = BAD[name]
    with pytest.raises(error, match=f"split: {match}"):
        fn.split(wrong, key=KEY)
    with pytest.raises(error, match=f"standardize: {match}"):
        fn.standardize(fn.Dataset(*wrong) if isinstance(wrong, tuple) and len(wrong) == 2 else wrong)
    fn.split(right, key=KEY, validation=0.0)


FRAMES = {
    "bool and float": pandas.DataFrame({"a": X[:, 0], "b": X[:, 1] > 3}),
    "bool, int and float32": pandas.DataFrame({"a": X[:, 0].astype(np.float32), "b": X[:, 1] > 3, "c": Y}),
    "nullable": pandas.DataFrame(
        {"a": pandas.array(X[:, 0], "Float64"), "b": pandas.array(X[:, 1] > 3, "boolean"), "c": pandas.array(Y, "Int64")}
    ),
    "one name twice": pandas.DataFrame(np.stack([X[:, 0], X[:, 1] > 3], 1), columns=["a", "a"]).astype({"a": float}),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_of_several_dtypes_work(name):
    frame = FRAMES[name]
    made = as_dataset("test", (frame, pandas.Series(Y)))
    assert made.x.dtype == np.float32
    expected = np.stack([X[:, 0], X[:, 1] > 3, Y], 1)[:, : frame.shape[1]]
    np.testing.assert_array_equal(made.x, expected.astype(np.float32))
    np.testing.assert_allclose(fn.standardize(fn.Dataset(frame, Y)).x.std(0), 1, rtol=1e-5)
    one = fn.training(fn.dense(1), "squared_error", fn.sgd(0.1), in_shape=made.x.shape[1:])
    state = one.init(KEY)
    np.testing.assert_array_equal(fn.predict(one, state, frame), fn.predict(one, state, made.x))


def test_series_of_bools_and_nullable_numbers_work():
    for values in (pandas.Series(Y > 3), pandas.Series(Y > 3).astype("boolean"), pandas.Series((Y > 3).astype(int), dtype="Int64")):
        np.testing.assert_array_equal(as_dataset("test", (X, values)).y, Y > 3)


def _tables():
    """Constructors of a table of named columns, of one column, and of text beside numbers; by library."""
    polars, arrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    return {
        "polars": (polars.DataFrame, polars.Series),
        "arrow": (arrow.table, arrow.array),
        "chunked": (arrow.table, lambda values: arrow.chunked_array([values[:7], values[7:]])),
    }


@pytest.mark.parametrize("kind", ["polars", "arrow", "chunked"])
def test_frames_of_polars_and_tables_of_arrow_work(kind):
    table, column = _tables()[kind]
    for fields in ({"a": X[:, 0], "b": X[:, 1]}, {"a": X[:, 0], "b": X[:, 1] > 3, "c": Y}, {"b": X[:, 1] > 3, "c": Y}):
        made = as_dataset("test", (table(fields), column(Y)))
        assert made.x.dtype == (np.float32 if "a" in fields else np.int32)
        np.testing.assert_array_equal(made.x, np.column_stack(list(fields.values())).astype(made.x.dtype))
        np.testing.assert_array_equal(made.y, Y)
    np.testing.assert_array_equal(as_dataset("test", (X, column(Y > 3))).y, Y > 3)
    frame = table({"a": X[:, 0], "b": X[:, 1]})
    parts = fn.split(fn.Dataset(frame, column(Y)), key=KEY, stratify=column(Y % 2), groups=column(Y))
    np.testing.assert_array_equal(parts.train.x, X[parts.train.y, :2].astype(np.float32))
    np.testing.assert_array_equal(fn.scaler(fn.Dataset(frame, Y)).apply(frame), fn.scaler(fn.Dataset(X[:, :2], Y)).apply(X[:, :2]))
    one = fn.training(fn.dense(1), "squared_error", fn.sgd(0.1), in_shape=(2,))
    state = one.init(KEY)
    np.testing.assert_array_equal(fn.predict(one, state, frame), fn.predict(one, state, X[:, :2]))


@pytest.mark.parametrize("kind", ["polars", "arrow"])
def test_what_tables_lack_is_named(kind):
    table, column = _tables()[kind]
    with pytest.raises(TypeError, match="test: x must hold numbers, got dtype .* in column 'city'; turn text and categories into numbers"):
        as_dataset("test", (table({"size": X[:, 0], "city": ["Ulm"] * 40}), Y))
    for missing in ([1, None] * 20, [1.5, None] * 20):
        with pytest.raises(ValueError, match=r"test: x must be finite, got nan at index \(1, 1\)"):
            as_dataset("test", (table({"a": X[:, 0], "b": missing}), Y))
    with pytest.raises(ValueError, match=r"test: y must be finite, got nan at index \(1,\)"):
        as_dataset("test", (X, column([1, None] * 20)))
    with pytest.warns(UserWarning, match="in column 'time' of x"):
        as_dataset("test", (table({"size": X[:, 0], "time": 1e9 + Y}), Y))


def test_a_lazy_frame_is_refused():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": X[:, 0]})
    with pytest.raises(TypeError, match=r"test: x must be an array of numbers, got a lazy LazyFrame; x.collect\(\) is a table"):
        as_dataset("test", (frame.lazy(), Y))
    as_dataset("test", (frame.lazy().collect(), Y))


def test_two_rows_of_tuples_are_no_data_sets():
    assert as_dataset("test", (((1.0, 2.0), (3.0, 4.0)), (0, 1))).x.shape == (2, 2)


@pytest.mark.parametrize("key", [0, 7, np.int32(7), None, "seed", np.zeros(2), jax.random.split(KEY, 3)], ids=str)
def test_what_is_no_key_is_refused(key):
    several = getattr(key, "shape", ()) == (3,)
    error, match = (
        (ValueError, r"key must be one key, got shape \(3,\)")
        if several
        else (TypeError, r"key must be a JAX random key, got .*; such as jax.random.key\([07]\)")
    )
    linear = fn.training(fn.dense(1), "squared_error", fn.sgd(0.1), in_shape=(3,))
    calls = {
        "split": lambda key: fn.split(fn.Dataset(X, Y), key=key),
        "fit": lambda key: fn.fit(linear, fn.Dataset(X, Y), key=key, num_steps=1, batch_size=4),
        "init": linear.init,
        "init ": lambda key: fn.serial(fn.dense(2)).init(key, (3,)),
    }
    layers = {
        "dense": (fn.dense(2), (3,)),
        "conv": (fn.conv(2, 3), (1, 4)),
        "embedding": (fn.embedding(3, 2), (4,)),
        "gru": (fn.recurrent(3), (4, 2)),
        "parallel": (fn.parallel(fn.flatten()), (2,)),
    }
    calls |= {f"init  {name}": lambda key, layer=layer: layer[0].init(key, layer[1]) for name, layer in layers.items()}
    for where, call in calls.items():
        with pytest.raises(error, match=f"{where.split()[0]}: {match}"):
            call(key)
        call(jax.random.PRNGKey(7))
        call(jax.random.key(7))


# split and standardize.

SECONDS = 1.7e9 + np.arange(800.0)


@pytest.mark.parametrize("kind", [float, np.int64, ">f8"], ids=str)
@pytest.mark.parametrize("shuffled", [False, True])
def test_seconds_since_1970_keep_their_values(kind, shuffled):
    x = np.stack([SECONDS, np.sin(SECONDS)], 1) if kind != np.int64 else np.stack([SECONDS, SECONDS % 7], 1)
    x = x.astype(kind)
    data = fn.Dataset(x, np.arange(800))
    done = fn.standardize(fn.split(data, key=KEY) if shuffled else fn.Split(data)).train
    assert done.x.dtype == np.float32 and len(np.unique(done.x[:, 0])) == len(done.x)
    exact = x[done.y].astype(np.float64)
    np.testing.assert_allclose(done.x, (exact - exact.mean(0)) / exact.std(0), rtol=1e-5, atol=1e-6)


def test_split_keeps_what_float32_cannot_tell_apart():
    parts = fn.split(fn.Dataset(X, 1e8 + Y % 5), key=KEY)
    assert set(parts.train.y - 1e8) == {0, 1, 2, 3, 4} and parts.train.x.dtype == np.float32
    np.testing.assert_array_equal(fn.standardize(parts).train.y, parts.train.y)


COLLAPSE = {
    "target": (X, 1e8 + Y % 5, r"different values of y must differ in float32, got only [12] left of 5 in y; standardize them first"),
    "two values": (X, 1e8 + Y % 2, "values of y must differ in float32, got only 1 left of 2 in y"),
    "column": (np.stack([X[:, 0], 1e9 + Y], 1), Y, "values of x must differ in float32, got only . left of 40 in column 1 of x"),
    "integers": (np.stack([Y, 2**30 + Y], 1), Y, "got only . left of 40 in column 1 of x"),
    "frame": (pandas.DataFrame({"size": X[:, 0], "time": 1e9 + Y}), Y, "got only . left of 40 in column 'time' of x"),
    "image": (np.stack([X, 1e9 + np.outer(Y, [1, 1, 1])], 1), Y, r"got only . left of 40 in x at \(1, 0\)"),
}


@pytest.mark.parametrize("name", COLLAPSE)
def test_a_column_that_collapses_in_float32_is_named(name):
    x, y, match = COLLAPSE[name]
    with pytest.warns(UserWarning, match=f"test: .*{match}"):
        as_dataset("test", (x, y))
    shape = np.asarray(x).shape[1:]
    model = fn.serial(fn.flatten(), fn.dense(1))
    recipe = lambda rate: fn.training(model, "squared_error", fn.sgd(rate), in_shape=shape)
    settings = dict(key=KEY, num_steps=1, batch_size=4)
    with pytest.warns(UserWarning, match=f"fit: .*{match}"):
        fn.fit(recipe(0.1), fn.Dataset(x, y), **settings)
    with pytest.warns(UserWarning, match=f"sweep: .*{match}"):
        fn.sweep(recipe, fn.grid(rate=[0.1]), fn.Dataset(x, y), progress=False, **settings)
    with jax.enable_x64(True):
        as_dataset("test", (x, y))
    as_dataset("test", fn.standardize(fn.Dataset(x, (np.asarray(y) - np.mean(y)).astype(np.float32))))


def test_a_collapse_is_found_among_many_examples():
    for seconds in (1.7e9 + np.arange(3e6), 1.7e9 + np.random.default_rng(0).permutation(100).repeat(15_000)):
        with pytest.warns(UserWarning, match=r"test: .* left of \d+ in x"):
            as_dataset("test", (seconds, np.zeros(len(seconds), int)))


def test_columns_that_do_not_collapse_are_cast_without_a_word():
    noise = np.random.default_rng(2).normal(size=(3000, 4))
    x = np.stack(
        [noise[:, 0], 2000 + noise[:, 1], np.full(3000, 0.1) + np.spacing(0.1) * (noise[:, 2] > 0), np.round(noise[:, 3]) * 0.1], 1
    )
    assert as_dataset("test", (x, noise[:, 0] * 1e-30)).x.dtype == np.float32
    assert as_dataset("test", (x, 2**24 + np.arange(3000) * 4)).x.dtype == np.float32


def test_split_covers_everything_once_in_another_order():
    parts = fn.split(fn.Dataset(X, Y), key=KEY, validation=0.2, test=0.1)
    assert [len(part.y) for part in parts] == [28, 8, 4]
    everything = np.concatenate([part.y for part in parts])
    assert sorted(everything) == list(range(40)) and list(everything) != list(range(40))
    again, other = (fn.split(fn.Dataset(X, Y), key=key, validation=0.2, test=0.1) for key in (KEY, jax.random.key(2)))
    np.testing.assert_array_equal(parts.train.y, again.train.y)
    assert np.any(parts.train.y != other.train.y)


def test_a_share_of_zero_gives_none():
    parts = fn.split(fn.Dataset(X, Y), key=KEY, validation=0.0)
    assert parts.validation is None and parts.test is None and len(parts.train.y) == 40


def test_split_refuses_shares_that_leave_a_part_empty():
    with pytest.raises(ValueError, match="split: validation must hold at least one example, got a share of 0.01 of 40"):
        fn.split(fn.Dataset(X, Y), key=KEY, validation=0.01)
    with pytest.raises(ValueError, match="split: at least two examples must be left to train on, got 0; lower validation or test"):
        fn.split(fn.Dataset(X, Y), key=KEY, validation=0.5, test=0.5)
    with pytest.raises(ValueError, match=r"split: test must be in \[0, 1\), got 1.5"):
        fn.split(fn.Dataset(X, Y), key=KEY, test=1.5)
    with pytest.raises(ValueError, match=r"split: validation must be in \[0, 1\), got nan"):
        fn.split(fn.Dataset(X, Y), key=KEY, validation=float("nan"))


def test_standardize_uses_the_training_part_alone():
    x = X.copy()
    x[:, 2] = 7  # doesn't vary
    parts = fn.split(fn.Dataset(x, Y), key=KEY, validation=0.2, test=0.1)
    done = fn.standardize(parts)
    np.testing.assert_allclose(done.train.x[:, :2].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(done.train.x[:, :2].std(0), 1, rtol=1e-5)
    train, test = (np.asarray(part.x[:, :2], np.float64) for part in (parts.train, parts.test))
    np.testing.assert_allclose(done.test.x[:, :2], (test - train.mean(0)) / train.std(0), rtol=1e-5)
    assert all(np.all(part.x[:, 2] == 0) for part in done)
    np.testing.assert_array_equal(done.validation.y, parts.validation.y)
    whole = fn.standardize(fn.Dataset(np.arange(6).reshape(3, 2), np.zeros(3)))
    assert isinstance(whole, fn.Dataset) and whole.x.dtype == np.float32
    np.testing.assert_allclose(whole.x.std(0), 1, rtol=1e-6)


def test_standardize_tells_small_numbers_from_equal_ones():
    small = np.random.default_rng(1).normal(size=(30, 1)) * 1e-14
    x = np.hstack([small, np.full((30, 1), 1e6), np.full((30, 1), 0.1), np.zeros((30, 1))])
    done = fn.standardize(fn.Dataset(x, np.zeros(30)))
    np.testing.assert_allclose(done.x.std(0), [1, 0, 0, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(done.x.mean(0), 0, atol=1e-6)


def test_one_hot():
    np.testing.assert_array_equal(fn.one_hot([2, 0], 3), [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(jax.jit(lambda y: fn.one_hot(y, 2))(jnp.array([1])), [[0, 1]])
    with pytest.raises(ValueError, match=r"one_hot: labels must be in \[0, 2\], got 3"):
        fn.one_hot([0, 3], 3)
    with pytest.raises(ValueError, match=r"one_hot: labels must be in \[0, 2\], got -1"):
        fn.one_hot([-1], 3)
    with pytest.raises(TypeError, match=r"one_hot: labels must be integers, got float64; such as labels.astype\(int\)"):
        fn.one_hot([0.0], 3)


def test_mixup_mixes_each_example_with_one_other_by_a_share_of_the_beta_distribution():
    """Of unit vectors the mixture shows who was mixed with whom; its targets are those of the same mixture. Three alphas at once."""
    alphas, keys = jnp.array([0.2, 1.0, 8.0]), jax.random.split(jax.random.key(3), 2000)
    y = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    draw = jax.vmap(lambda alpha, key: fn.mixup(key, fn.Dataset(jnp.eye(5), y), alpha), (None, 0))
    mixed = jax.jit(jax.vmap(draw, (0, None)))(alphas, keys)
    np.testing.assert_allclose(mixed.y, mixed.x @ y, atol=1e-5)
    np.testing.assert_allclose(mixed.x.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed.x.sum(-2), 1, atol=1e-6)
    for x, alpha in zip(np.asarray(mixed.x), (0.2, 1.0, 8.0)):
        own = np.diagonal(x, axis1=1, axis2=2).min(1)  # but of a permutation that leaves everybody alone, one of 120
        deviation = 1 / np.sqrt(4 * (2 * alpha + 1))
        np.testing.assert_allclose(own.mean(), 0.5 + 0.5 / 120, atol=4 * deviation / np.sqrt(len(own)))
        np.testing.assert_allclose(own.std(), deviation, rtol=0.1)


def test_mixup_computes_in_floating_point_at_least_float32():
    y = fn.one_hot(np.array([0, 1, 2, 0]), 3)
    for x in (np.ones((4, 3), np.uint8), jnp.ones((4, 3), jnp.bfloat16), jnp.ones((4, 3))):
        mixed = jax.eval_shape(lambda key, x=x: fn.mixup(key, fn.Dataset(x, y)), jax.random.key(0))
        assert mixed.x.dtype == mixed.y.dtype == jnp.float32


def test_mixup_refuses_labels_weights_and_an_alpha_of_zero():
    key, x = jax.random.key(0), jnp.ones((4, 2))
    with pytest.raises(TypeError, match="^mixup: y must be floating point, got int32; one_hot makes distributions of labels$"):
        fn.mixup(key, fn.Dataset(x, jnp.zeros(4, jnp.int32)))
    fn.mixup(key, fn.Dataset(x, fn.one_hot(jnp.zeros(4, jnp.int32), 2)))
    with pytest.raises(TypeError, match=r"^mixup: batch must be \(x, y\), got 3 arrays; set batch_size where num_examples varies$"):
        fn.mixup(key, fn.data.WeightedDataset(x, jnp.ones(4), jnp.ones(4)))
    with pytest.raises(ValueError, match=r"^mixup: alpha must be in \(0, inf\), got 0$"):
        fn.mixup(key, fn.Dataset(x, jnp.ones(4)), 0)
    fn.mixup(key, fn.Dataset(x, jnp.ones(4)), 0.1)


# The order of minibatches.


def batches(key, steps, num_examples, batch_size):
    return np.asarray(jax.jit(jax.vmap(lambda step: fn.minibatch(key, step, num_examples, batch_size)))(jnp.asarray(steps)))


@pytest.mark.parametrize(("num_examples", "batch_size"), [(2, 1), (6, 2), (7, 7), (7, 3), (64, 64), (100, 9), (1079, 64), (5000, 64)])
def test_every_epoch_shows_each_example_at_most_once_and_misses_less_than_a_batch(num_examples, batch_size):
    per_epoch = num_examples // batch_size
    for epoch in range(3):
        seen = batches(KEY, range(epoch * per_epoch, (epoch + 1) * per_epoch), num_examples, batch_size).ravel()
        assert len(set(seen)) == len(seen) == per_epoch * batch_size > num_examples - batch_size
        assert seen.min() >= 0 and seen.max() < num_examples


def test_epochs_and_keys_have_orders_of_their_own():
    orders = [tuple(batches(key, range(e * 10, e * 10 + 10), 100, 10).ravel()) for key in (KEY, jax.random.key(2)) for e in range(3)]
    assert len(set(orders)) == 6


def test_any_step_is_reached_alone_and_traced_counts_change_nothing():
    together = batches(KEY, range(40), 33, 5)
    traced = jax.jit(lambda step, count: fn.minibatch(KEY, step, count, 5))
    for step in (0, 5, 6, 23, 39):
        np.testing.assert_array_equal(fn.minibatch(KEY, step, 33, 5), together[step])
        np.testing.assert_array_equal(traced(step, 33), together[step])
    counts, keys = jnp.array([33, 5, 100]), jax.random.split(KEY, 3)
    mapped = jax.jit(jax.vmap(lambda key, count: fn.minibatch(key, 7, count, 5)))(keys, counts)
    for i, count in enumerate((33, 5, 100)):
        np.testing.assert_array_equal(mapped[i], fn.minibatch(keys[i], 7, count, 5))


@pytest.mark.parametrize("n", [3, 4, 5])
def test_every_order_is_as_likely(n):
    """Chi-square over all n! orders of 20,000 epochs; it fails for one correct shuffle in ten thousand."""
    orders = collections.Counter(map(tuple, batches(KEY, range(20_000), n, n)))
    counts = [orders[order] for order in itertools.permutations(range(n))]
    assert chisquare(counts).pvalue > 1e-4


def test_places_and_neighbours_are_evenly_spread():
    orders = batches(KEY, range(5_000), 100, 100)
    for place in (0, 1, 50, 99):
        assert chisquare(np.bincount(orders[:, place], minlength=100)).pvalue > 1e-4
    for first, second in ((0, 1), (98, 99), (3, 71)):
        apart = (orders[:, second] - orders[:, first]) % 100
        assert chisquare(np.bincount(apart, minlength=100)[1:]).pvalue > 1e-4


def test_minibatch_refuses_a_batch_larger_than_the_data():
    with pytest.raises(ValueError, match="minibatch: batch_size must be at most the 5 examples, got 6"):
        fn.minibatch(KEY, 0, 5, 6)
    with pytest.raises(ValueError, match="minibatch: batch_size must be at least 1, got 0"):
        fn.minibatch(KEY, 0, 5, 0)
