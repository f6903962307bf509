"""A sweep's result: the table, the best, the files."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_same_bits

import funcnet as fn

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
DATA = fn.split(fn.Dataset(X, X[:, :1]), key=jax.random.key(0), validation=0.2, test=0.2)
SETTINGS = dict(key=jax.random.key(1), num_steps=20, batch_size=8, eval_every=5, progress=False)


def recipe(learning_rate, optimizer="sgd", activation="tanh"):
    return fn.training(fn.mlp((3, 1), activation), fn.squared_error, fn.optimizer(optimizer, learning_rate), in_shape=(4,), metrics=["r2"])


def bend(x):
    return x / (1 + x * x)


@pytest.fixture(scope="module")
def result():
    return fn.sweep(recipe, fn.grid(learning_rate=[0.01, 1e38, 0.1], optimizer=["sgd", "adam"]), DATA, replicates=2, **SETTINGS)


def test_table_has_a_row_a_run_in_the_order_given(result):
    names = [
        "variant",
        "replicate",
        "learning_rate",
        "optimizer",
        "train/loss",
        "train/r2",
        "validation/loss",
        "validation/r2",
        "status",
        "steps",
    ]
    assert list(result.table) == names and len(result) == 12
    assert {len(column) for column in result.table.values()} == {12}
    assert all(isinstance(column, np.ndarray) for column in result.table.values())
    assert result.table["variant"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert result.table["optimizer"].tolist() == ["sgd", "sgd", "adam", "adam"] * 3
    assert result.table["learning_rate"].tolist() == [0.01] * 4 + [1e38] * 4 + [0.1] * 4


def test_curves_are_rows_by_evaluations(result):
    assert result.curves["step"].tolist() == [5, 10, 15, 20]
    for name in result.metrics:
        assert result.curves[name].shape == (12, 4)
        np.testing.assert_array_equal(result.curves[name][:, -1], result.table[name])


def test_curves_of_runs_of_different_lengths():
    result = fn.sweep(recipe, [{"learning_rate": 0.1, "num_steps": n} for n in (7, 20)], DATA, **SETTINGS)
    assert result.curves["step"].tolist() == [5, 7, 10, 15, 20]
    measured = np.isfinite(result.curves["train/loss"])
    np.testing.assert_array_equal(measured, [[1, 1, 0, 0, 0], [1, 0, 1, 1, 1]])
    assert result.table["steps"].tolist() == [7, 20]


def test_best_and_ranking_leave_out_what_diverged(result):
    completed = np.flatnonzero(result.table["status"] == "completed")
    assert 0 < len(completed) < 12
    for mode, pick in (("min", np.argmin), ("max", np.argmax)):
        best = result.best("validation/r2", mode)
        assert best.row == completed[pick(result.table["validation/r2"][completed])]
    best = result.best("validation/loss")
    assert best.hyperparameters == result.hyperparameters(best.row) and set(best.metrics) == set(result.metrics)
    assert_same_bits(best.state, result.state(best.row))
    ranked = result.ranking("validation/loss")
    assert sorted(ranked) == sorted(completed) and np.all(np.diff(result.table["validation/loss"][ranked]) >= 0)


def test_best_knows_which_way_a_metric_is_better(result):
    completed = np.flatnonzero(result.table["status"] == "completed")
    assert result.best("validation/r2").row == completed[np.argmax(result.table["validation/r2"][completed])]
    assert result.ranking("validation/r2").tolist() == result.ranking("validation/r2", "max").tolist()


def test_a_row_can_be_scored_on_new_data(result):
    best = result.best()
    scores = result.training(best.row).evaluate(best.state, DATA.validation)
    np.testing.assert_allclose(scores["loss"], best.metrics["validation/loss"], rtol=1e-5)
    assert set(result.training(best.row).evaluate(best.state, DATA.test)) == {"loss", "r2"}
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(best.state))  # on the host


def test_bad_names_and_rows(result):
    with pytest.raises(ValueError, match="ranking: unknown metric 'validation/los'; did you mean 'validation/loss'"):
        result.best("validation/los")
    with pytest.raises(ValueError, match="ranking: unknown mode 'least'; there are 'min', 'max'"):
        result.best("validation/loss", "least")
    with pytest.raises(ValueError, match=r"state: row must be in \[0, 11\], got 12"):
        result.state(12)
    with pytest.raises(TypeError, match="state: row must be a whole number, got 1.5"):
        result.state(1.5)


def test_printed_are_the_ten_best_in_columns(result):
    summary, header, *rows = str(result).splitlines()
    assert summary == f"12 runs, {np.sum(result.table['status'] == 'diverged')} diverged; the {len(rows)} best by validation/loss:"
    assert len({len(line) for line in [header, *rows]}) == 1  # aligned
    assert [int(row.split()[0]) for row in rows] == result.table["variant"][result.ranking()[:10]].tolist()
    many = fn.sweep(recipe, fn.grid(learning_rate=np.geomspace(0.01, 0.1, 14).tolist()), DATA, **SETTINGS)
    assert len(str(many).splitlines()) == 12 and "replicate" not in str(many)


def test_html_is_escaped():
    result = fn.sweep(lambda learning_rate, note: recipe(learning_rate), [{"learning_rate": 0.1, "note": "<b>&"}], DATA, **SETTINGS)
    assert "<td>&lt;b&gt;&amp;</td>" in result._repr_html_() and "<b>" not in result._repr_html_()
    assert result._repr_html_().count("<tr>") == 2


def test_to_pandas(result, monkeypatch):
    frame = result.to_pandas()
    assert list(frame.columns) == list(result.table) and len(frame) == 12
    assert frame.groupby("optimizer")["validation/loss"].min().idxmin() in ("sgd", "adam")
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_pandas: needs pandas, which is not installed; pip install 'funcnet\[experiments\]'"):
        result.to_pandas()


# Files.


def assert_same(loaded, result):
    assert list(loaded.table) == list(result.table) and list(loaded.curves) == list(result.curves)
    for left, right in ((loaded.table, result.table), (loaded.curves, result.curves)):
        for name in right:
            assert left[name].dtype == right[name].dtype
            np.testing.assert_array_equal(left[name], right[name])
    assert loaded.timing == result.timing
    for row in range(len(result)):
        assert_same_bits(loaded.state(row), result.state(row))


def test_saved_and_loaded_bit_for_bit(result, tmp_path):
    """With states of two structures, as sgd and Adam have."""
    result.save(tmp_path / "a" / "b")
    loaded = fn.load_result(tmp_path / "a" / "b", recipe)
    assert_same(loaded, result)
    best = loaded.best()
    assert type(best.state) is fn.TrainState and best.hyperparameters == result.best().hyperparameters
    np.testing.assert_array_equal(
        loaded.training(best.row).evaluate(best.state, DATA.test)["loss"], result.training(best.row).evaluate(best.state, DATA.test)["loss"]
    )
    result.save(tmp_path / "a" / "b")  # replaces
    assert str(fn.load_result(tmp_path / "a" / "b")) == str(result)


class Memory(NamedTuple):
    short: jax.Array
    parts: dict


def odd_states(rate):
    """A state of every kind of node, bfloat16 and integers among its leaves."""

    def init(key):
        parts = {"b": [jax.random.normal(key, (2,)), None], "a": (jnp.arange(3), jnp.array(True))}
        return Memory(jax.random.normal(key, (3,)).astype(jnp.bfloat16), parts)

    return (
        init,
        lambda state, batch, key: (state._replace(short=state.short * rate.astype(jnp.bfloat16)), {}),
        lambda state, data: {"loss": rate * jnp.ones(())},
    )


def test_states_of_every_kind_of_node(tmp_path):
    def traced_rate(rate):
        return odd_states(jnp.asarray(rate, jnp.float32))

    result = fn.sweep(traced_rate, fn.grid(rate=[0.5, 0.25]), DATA, **SETTINGS)
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path)
    for row in range(2):
        state = loaded.state(row)
        assert type(state).__name__ == "Memory" and state._fields == ("short", "parts") and state.parts["b"][1] is None
        assert state.short.dtype == jnp.bfloat16
        leaves, expected = jax.tree.leaves(state), jax.tree.leaves(result.state(row))
        assert_same_bits(leaves, expected)


class _Walk(NamedTuple):
    key: jax.Array
    place: jax.Array


def walk(rate):
    """A state that carries a random key of its own."""

    def step(state, batch, key):
        key, now = jax.random.split(state.key)
        return _Walk(key, state.place + rate * jax.random.normal(now, (2,))), {}

    return lambda key: _Walk(key, jnp.zeros(2)), step, lambda state, data: {"loss": jnp.sum(state.place)}


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_states_with_random_keys_go_on_where_they_were(tmp_path, kind):
    key = jax.random.key(1, impl=kind)
    result = fn.sweep(walk, fn.grid(rate=[0.1, 0.2]), DATA, **(SETTINGS | {"key": key}))
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path)
    assert jax.tree.structure(loaded.state(0)) == jax.tree.structure(loaded.state(1))
    for row in range(2):
        state, expected = loaded.state(row), result.state(row)
        assert type(state).__name__ == "_Walk" and state.key.dtype == key.dtype
        assert_same_bits(jax.random.bits(state.key, (3,)), jax.random.bits(expected.key, (3,)))
        assert_same_bits(state.place, expected.place)


def test_states_that_differ_in_dtype_or_structure_keep_both(tmp_path):
    def scalar(dtype, nested):
        def init(key):
            value = jax.random.normal(key, ()).astype(dtype)
            return [value] if nested else value

        return init, lambda state, batch, key: (state, {}), lambda state, data: {"loss": jnp.ones(())}

    for name, variants in (
        ("dtype", fn.grid(dtype=["bfloat16", "float32"], nested=[False])),
        ("structure", fn.grid(dtype=["bfloat16"], nested=[False, True])),
    ):
        result = fn.sweep(scalar, variants, DATA, **SETTINGS)
        result.save(tmp_path / name)
        assert_same(fn.load_result(tmp_path / name), result)


def test_hyperparameters_keep_every_bit_and_functions_become_names(tmp_path):
    variants = [{"learning_rate": 0.1 + 0.2, "activation": bend, "more": (1, (2.5, None)), "limit": float("inf")}]

    def many(learning_rate, activation, more, limit):
        return recipe(learning_rate, activation=activation)

    result = fn.sweep(many, variants, DATA, **SETTINGS)
    assert result.table["activation"].tolist() == ["bend"]
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path)
    assert loaded.hyperparameters(0) == {"learning_rate": 0.1 + 0.2, "activation": "bend", "more": (1, (2.5, None)), "limit": float("inf")}
    with pytest.raises(ValueError, match=r"training: needs the recipe, which a file can't hold, got None; load_result\(path, recipe=...\)"):
        loaded.training(0)


def test_a_kept_few_are_saved_as_such(tmp_path):
    result = fn.sweep(recipe, fn.grid(learning_rate=[0.01, 0.1, 0.05]), DATA, keep=1, **SETTINGS)
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path)
    assert_same_bits(loaded.best().state, result.best().state)
    with pytest.raises(ValueError, match="row must be one whose state was kept"):
        loaded.state(0)


def test_no_folder_no_result(tmp_path):
    with pytest.raises(
        ValueError, match=r"load_result: the folder must hold arrays.npz and result.json, got .*nowhere; save\(path\) writes them"
    ):
        fn.load_result(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["arrays.npz", "result.json"])
def test_a_truncated_file_is_refused(result, tmp_path, name):
    result.save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="load_result: the files must be whole and unaltered"):
        fn.load_result(tmp_path)


def test_whatever_is_damaged_is_refused_or_harmless(result, tmp_path):
    """Bytes changed at random: a result, or a ValueError; nothing else."""
    result.save(tmp_path)
    rng = np.random.default_rng(0)
    refused = 0
    for name in ("arrays.npz", "result.json"):
        whole = (tmp_path / name).read_bytes()
        for place in rng.integers(0, len(whole), 200):
            damaged = bytearray(whole)
            damaged[place] = rng.integers(256)
            (tmp_path / name).write_bytes(damaged)
            try:
                fn.load_result(tmp_path)
            except ValueError as error:
                assert str(error).startswith("load_result: the files must be whole and unaltered, got ")
                refused += 1
        (tmp_path / name).write_bytes(whole)
    assert refused > 200


def damage_method(content):
    """Marks every member of a zip as compressed by a method that doesn't exist."""
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset : at + offset + 2] = b"\x63\x00"
            at = content.find(signature, at + 4)
    return content


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("result.json", lambda content: b"[" * 100_000),
        ("result.json", lambda content: content.replace(b"0x1.4", b"0x1p9999", 1)),
        ("arrays.npz", damage_method),
    ],
    ids=["too deep", "too large", "unknown compression"],
)
def test_damage_that_python_reports_in_its_own_ways(result, tmp_path, name, damage):
    result.save(tmp_path)
    content = (tmp_path / name).read_bytes()
    damaged = bytes(damage(bytearray(content)))
    assert damaged != content
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(ValueError, match="load_result: the files must be whole and unaltered"):
        fn.load_result(tmp_path)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


def test_a_file_cannot_run_code(result, tmp_path):
    result.save(tmp_path)
    with np.load(tmp_path / "arrays.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["outcome/steps"] = np.array([Bomb()], object)
    np.savez(tmp_path / "arrays.npz", **arrays)
    with pytest.raises(
        ValueError, match="load_result: the files must be whole and unaltered, got ValueError: Object arrays cannot be loaded"
    ):
        fn.load_result(tmp_path)


@pytest.mark.parametrize("part", ["named", "fields"])
@pytest.mark.parametrize("name", ["__import__('os')", "a b", "x;y", "", 3])
def test_names_of_nodes_must_be_plain(result, tmp_path, name, part):
    result.save(tmp_path)
    rest = json.loads((tmp_path / "result.json").read_text())
    rest["states"][0][part] = name if part == "named" else [name, "optimizer_state", "step"]
    (tmp_path / "result.json").write_text(json.dumps(rest))
    with pytest.raises(ValueError, match="load_result: .*a state's names must be identifiers"):
        fn.load_result(tmp_path)


def test_another_format_is_refused(result, tmp_path):
    result.save(tmp_path)
    rest = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps(rest | {"format": 99}))
    with pytest.raises(ValueError, match="load_result: .*format must be 1, got 99; written by another version of funcnet"):
        fn.load_result(tmp_path)
