"""Hyperparameters and states in files: back as themselves, or an error that says which and where."""

import collections
import concurrent.futures
import copy
import dataclasses
import enum
import functools
import json
import math
import multiprocessing
import pickle
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_same_bits

import funcnet as fn
from funcnet.sweeps.written import Named, Names, Reader, written


class Kind(enum.Enum):
    RIDGE = 1
    LASSO = "two"


class Size(enum.IntEnum):
    SMALL = 1


class Rate(float, enum.Enum):
    LOW = 0.1


class Window(NamedTuple):
    width: int
    kinds: Any


@dataclasses.dataclass(frozen=True)
class Block:
    width: int
    act: Any = None
    made: list = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.made.append("built")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Carry:
    weight: Any
    steps: Any
    name: str = dataclasses.field(default="plain", metadata={"static": True})


@jax.tree_util.register_pytree_node_class
class Pair:
    """A node that is known to JAX alone."""

    def __init__(self, left, right, tag):
        self.left, self.right, self.tag = left, right, tag

    def tree_flatten(self):
        return (self.left, self.right), self.tag

    @classmethod
    def tree_unflatten(cls, tag, children):
        return cls(*children, tag)


def relu(x):
    return jnp.where(x > 0, x, 5.65 * x)


def line(rate, *args, **kwargs):
    return fn.training(fn.dense(1), fn.squared_error, fn.sgd(0.1), in_shape=(2,))


def made(hyperparameters, states=None, recipe=None):
    """A result with these hyperparameters and states; nothing is trained."""
    runs = len(hyperparameters)
    outcome = {
        "variant": np.arange(runs),
        "replicate": np.zeros(runs, int),
        "train/loss": np.ones(runs),
        "status": np.array(["completed"] * runs),
        "steps": np.full(runs, 3),
    }
    curves = {"step": np.array([3]), "train/loss": np.ones((runs, 1))}
    return fn.SweepResult(hyperparameters, outcome, curves, dict(enumerate(states or [])), recipe, list(hyperparameters[0]), {})


def assert_alike(left, right):
    """Equal, and of one type, all the way down."""
    assert type(left) is type(right)
    if isinstance(right, tuple | list):
        assert len(left) == len(right)
        for mine, other in zip(left, right, strict=True):
            assert_alike(mine, other)
    elif isinstance(right, dict):
        assert_alike(list(left.items()), list(right.items()))
    elif dataclasses.is_dataclass(right):
        assert_alike(vars(left), vars(right))
    elif isinstance(right, np.generic):
        assert left.dtype == right.dtype and left.tobytes() == right.tobytes()
    else:
        assert left == right or (math.isnan(left) and math.isnan(right))


VALUES = {
    "nothing": None,
    "true": True,
    "one": 1,
    "large": -(10**40),
    "float": 0.1 + 0.2,
    "negative zero": -0.0,
    "nan": math.nan,
    "infinite": -math.inf,
    "complex": complex(0.1, -math.inf),
    "text": "a 'b' \n \u00e9 \ud800",
    "empty": "",
    "like a file's": "relu",
    "bytes": b"\x00\xff",
    "range": range(1, 9, 2),
    "empty tuple": (),
    "nested": (1, (2.5, None, [True, "x"], {"a": (1,), 2: {3.5}}), frozenset({1, 2}), {"b"}),  # numbers and text in one set: any order
    "enum": Kind.LASSO,
    "whole enum": Size.SMALL,
    "enum of floats": Rate.LOW,
    "named tuple": Window(3, (Kind.RIDGE, Window(1, None))),
    "dataclass": Block(2, Kind.RIDGE),
    "nested dataclass": (Block(2, Block(1, jax.nn.gelu)), {"block": Block(1)}),
    "float32": np.float32(0.1),
    "float64": np.float64(0.1),
    "int8": np.int8(-3),
    "bool_": np.bool_(True),
    "text of numpy": np.str_("abc"),
    "empty text of numpy": np.str_(""),
    "time": np.datetime64("2020-01-01"),
    "bfloat16": np.dtype(jnp.bfloat16).type(1.5),
    "nan of float32": np.float32("nan"),
    "dtype": np.dtype("float16"),
    "dtype of jax": np.dtype(jnp.bfloat16),
    "class of a dtype": jnp.float16,
    "class of numpy's": np.float32,
    "own function": fn.ACTIVATIONS["relu"],
    "own activation of a name": fn.ACTIVATIONS["arctan_sigmoid"],
    "own optimizer": fn.adam,
    "own layer": fn.dense,
    "own loss": fn.squared_error,
    "own penalty": fn.l2,
    "own schedule": fn.cosine_decay,
    "own metric": fn.accuracy,
    "of jax.nn": jax.nn.softplus,
    "of jax.numpy": jnp.tanh,
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_as_itself(tmp_path, name):
    """Through JSON, alone and inside others."""
    for value in (VALUES[name], (VALUES[name],), Window(1, {"x": [VALUES[name]]})):
        reader = Reader({})
        text = json.dumps(written(value, Names(), "x"))
        assert_alike(reader.read(json.loads(text)), value)
        assert not reader.missing
    result = made([{"rate": 0.5, "x": VALUES[name]}])
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path, line)
    assert_alike(loaded.hyperparameters(0)["x"], VALUES[name])
    assert loaded.table["x"].dtype == result.table["x"].dtype and str(loaded) == str(result)


def test_a_dataclass_comes_back_with_what_was_set_on_it():
    block = Block(1)
    object.__setattr__(block, "later", (1, None))
    again = Reader({}).read(written(block, Names(), "x"))
    assert vars(again) == {"width": 1, "act": None, "made": ["built"], "later": (1, None)}  # made without __post_init__


class Odd:
    pass


class Text(str):
    pass


def local_kind():
    class Local(enum.Enum):
        A = 1

    return Local.A


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Odd(), "<tests.*Odd object> of type Odd|.*Odd"),
        (Text("x"), "x of type Text"),
        (np.ones(2), "of type ndarray"),
        (collections.OrderedDict(a=1), "of type OrderedDict"),
        (enum.Flag("Bits", "A B")(3), "Bits"),
        (b"".__class__.__new__(type("Sub", (bytes,), {})), "of type Sub"),
    ],
    ids=["object", "text", "array", "ordered dict", "flags", "bytes"],
)
def test_what_could_not_come_back_is_refused_when_it_is_saved(tmp_path, value, kind):
    for nested, at in ((value, "odd"), ((1, {"k": value}), r"odd\[1\]\['k'\]"), (Window(1, value), r"odd\.kinds")):
        result = made([{"rate": 1.0, "odd": 0}, {"rate": 1.0, "odd": nested}])
        with pytest.raises(TypeError, match=rf"save: odd of variant 1{at[3:]} must be of a kind that a file can hold.*got .*({kind})"):
            result.save(tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_a_class_made_in_a_function_is_refused_when_it_is_saved(tmp_path):
    result = made([{"rate": 1.0, "kind": local_kind()}])
    match = r"save: kind of variant 0 must be of a class that is found by its name, got local_kind.<locals>.Local; define it at the top of"
    with pytest.raises(TypeError, match=match):
        result.save(tmp_path)
    made([{"rate": 1.0, "kind": Kind.RIDGE}]).save(tmp_path)


def test_a_class_that_is_not_imported_is_known_by_its_name(tmp_path):
    made([{"rate": 1.0, "kind": Kind.RIDGE, "block": Block(2)}]).save(tmp_path / "a")
    text = (tmp_path / "a" / "result.json").read_text().replace(Kind.__module__, "elsewhere")
    (tmp_path / "a" / "result.json").write_text(text)
    loaded = fn.load_result(tmp_path / "a")
    assert loaded.table["kind"].tolist() == ["Kind.RIDGE"] and repr(loaded.hyperparameters(0)["block"]).startswith("Block(width=2")
    match = r"load_result: .*must be given.*'Kind' \(kind\) and 'Block' \(block\).*functions=\{'Kind': ..., 'Block': ...\}\)"
    with pytest.raises(ValueError, match=match):
        fn.load_result(tmp_path / "a", line)
    given = fn.load_result(tmp_path / "a", line, functions={"Kind": Kind, "Block": Block})
    assert given.hyperparameters(0) == {"rate": 1.0, "kind": Kind.RIDGE, "block": Block(2)}
    loaded.save(tmp_path / "b")  # nothing is lost on the way
    assert (tmp_path / "b" / "result.json").read_text() == text


def test_a_class_that_has_changed_is_known_by_its_name(tmp_path):
    made([{"rate": 1.0, "x": Window(1, 2), "y": Kind.LASSO, "z": Block(1)}]).save(tmp_path)
    path = tmp_path / "result.json"
    for old, new in (('"kinds"', '"other"'), ('"LASSO"', '"ELASTIC"'), ('"act"', '"activation"')):
        text = path.read_text()
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match="load_result: functions and classes that were hyperparameters must be given"):
            fn.load_result(tmp_path, line)
        path.write_text(text)


def test_an_enum_of_floats_is_swept_and_printed(tmp_path):
    result = fn.sweep(lambda rate: bent(rate, "tanh"), [{"rate": Rate.LOW}], DATA, **STEPS)
    assert result.table["rate"].tolist() == ["Rate.LOW"] and "rate=0.1" in repr(result.best())
    result.save(tmp_path)
    assert fn.load_result(tmp_path).hyperparameters(0)["rate"] is Rate.LOW


# Functions.


def bent(rate, activation):
    return fn.training(fn.mlp((3, 1), activation), fn.squared_error, fn.sgd(rate), in_shape=(2,))


X = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
DATA = fn.Dataset(X, X[:, :1])
STEPS = dict(key=jax.random.key(1), num_steps=3, batch_size=None, progress=False)


def test_a_function_of_ones_own_is_never_taken_for_a_built_in_of_its_name(tmp_path):
    result = fn.sweep(bent, fn.grid(rate=[0.1], activation=[relu, "relu", fn.ACTIVATIONS["relu"]]), DATA, **STEPS)
    assert result.table["activation"].tolist() == ["relu 2", "relu", "relu 3"]
    predictions = [result.predict(row, X) for row in range(3)]
    assert np.max(np.abs(predictions[0] - predictions[1])) > 0.1
    result.save(tmp_path)
    match = r"must be given, which a file can't hold: 'relu 2' \(activation\), got none of that name; load_result\(path, recipe, functions=\{'relu 2': ...\}\)"
    with pytest.raises(ValueError, match=match):
        fn.load_result(tmp_path, bent)
    loaded = fn.load_result(tmp_path, bent, functions={"relu 2": relu})
    assert [loaded.hyperparameters(row)["activation"] for row in range(3)] == [relu, "relu", fn.ACTIVATIONS["relu"]]
    for row in range(3):
        assert_same_bits(loaded.predict(row, X), predictions[row])
    table = fn.load_result(tmp_path)  # the table alone
    assert table.table["activation"].tolist() == result.table["activation"].tolist() and str(table) == str(result)
    own = table.hyperparameters(0)["activation"]
    assert own == "relu 2" and hash(own) == hash("relu 2")
    match = "a function that was a hyperparameter must be given, got its name relu 2; load_result"
    with pytest.raises(TypeError, match=match):
        own(X)
    with pytest.raises(ValueError, match=match):
        bent(0.1, own)


def test_two_lambdas_stay_two(tmp_path):
    first, second = (lambda x: x), (lambda x: -x)
    result = made([{"rate": 1.0, "f": f, "more": (f, second)} for f in (first, second, first, max, functools.partial(pow, 2))])
    assert result.table["f"].tolist() == ["<lambda>", "<lambda> 2", "<lambda>", "max", "partial(pow, 2)"]
    result.save(tmp_path)
    table = fn.load_result(tmp_path)
    assert table.table["f"].tolist() == result.table["f"].tolist()
    with pytest.raises(ValueError, match=r"functions=\{'<lambda>': ..., '<lambda> 2': ..., 'partial\(pow, 2\)': ...\}"):
        fn.load_result(tmp_path, line, functions={})
    given = {"<lambda>": first, "<lambda> 2": second, "partial(pow, 2)": pow}
    loaded = fn.load_result(tmp_path, line, functions=given)
    assert [loaded.hyperparameters(row)["f"] for row in range(5)] == [first, second, first, max, pow]
    assert loaded.hyperparameters(0)["more"] == (first, second)
    table.save(tmp_path / "again")
    assert fn.load_result(tmp_path / "again", line, functions=given).hyperparameters(1) == loaded.hyperparameters(1)


def test_a_file_of_names_alone_still_loads(tmp_path):
    """As it was written before functions could be told apart."""
    result = made([{"rate": 1.0, "f": relu}])
    result.save(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["hyperparameters"][0]["f"] == {"name": "relu"}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "os.system"},
        {"known": "os.system"},
        {"known": "jax.numpy.save"},
        {"dataclass": "subprocess:Popen", "fields": [["args", "touch ran"]]},
        {"namedtuple": "builtins:eval", "fields": [["x", "print()"]]},
        {"namedtuple": "os:stat_result", "fields": [["x", 1]]},
        {"enum": "os:system", "member": "touch ran"},
        {"enum": "antigravity:Kind", "member": "A"},
    ],
    ids=["name", "known", "saving", "dataclass", "namedtuple", "structure", "enum", "module"],
)
def test_a_file_can_name_nothing_that_does_anything(tmp_path, value):
    before = set(sys.modules)
    assert isinstance(Reader({}).read(value), Named)
    assert set(sys.modules) - before == set()


def test_attributes_that_belong_to_python_are_not_set():
    value = written(Block(1), Names(), "x")
    value["fields"].append(["__class__", {"known": "numpy.float32"}])
    assert isinstance(Reader({}).read(value), Named)


# The table.


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ([None, 0.5, 2], [None, 0.5, 2]),
        ([None, None], [None, None]),
        ([None, "None", "x"], [None, "None", "x"]),
        ([True, None, False], [True, None, False]),
        ([1, True, 1.0, "1"], [1, True, 1.0, "1"]),
        ([None, (1, None), relu, Kind.RIDGE], [None, "(1, None)", "relu", "Kind.RIDGE"]),
        ([None, (1,), (True,), (1.0,), (1,)], [None, "(1,)", "(True,)", "(1.0,)", "(1,)"]),
        ([None, "(1,)", (1,)], [None, "(1,)", "(1,) 2"]),
    ],
    ids=["number", "none", "text", "truth", "ones", "kinds", "tuples", "text of a tuple"],
)
def test_none_is_a_value_like_any_other(tmp_path, values, column):
    result = made([{"rate": 1.0, "x": value} for value in values])
    own = result.table["x"]
    assert own.dtype == object and own.tolist() == column and [type(entry) for entry in own] == list(map(type, column))
    result.save(tmp_path)
    assert fn.load_result(tmp_path).table["x"].tolist() == column
    assert fn.load_result(tmp_path).by_variant()["x"].tolist() == column


@pytest.mark.parametrize(("values", "dtype"), [([1, 2], int), ([1, 2.5], float), ([True, False], bool), (["a", "bc"], "<U2")])
def test_plain_columns_have_a_dtype_of_their_own(values, dtype):
    column = made([{"x": value} for value in values]).table["x"]
    assert column.dtype == np.dtype(dtype) and column.tolist() == values


# States.


def carries(rate, kind="carry"):
    """A training whose state is of a registered class, and counts."""

    def init(key):
        weight = jax.random.normal(key, (2, 3))
        return {
            "carry": lambda: Carry(weight, jnp.array(0)),
            "wide": lambda: Carry(jnp.zeros((2, 4)), jnp.array(0)),
            "pair": lambda: Pair(weight, {"b": jnp.array(0), "a": (None, jnp.zeros(()))}, "tag"),
            "pairs": lambda: [Pair(weight, jnp.array(0), "tag"), Carry(Pair(weight, None, 3), jnp.array(0), "other")],
            "ordered": lambda: collections.OrderedDict(z=weight, a=jnp.array(0)),
        }[kind]()

    def step(state, batch, key):
        return jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), state), {}

    return init, step, lambda state, data: {"loss": sum(jnp.sum(leaf).astype(float) for leaf in jax.tree.leaves(state))}


@pytest.mark.parametrize("kind", ["carry", "pair", "pairs", "ordered"])
def test_a_state_comes_back_as_the_recipe_makes_it_and_goes_on(tmp_path, kind):
    result = fn.sweep(carries, fn.grid(rate=[0.1, 0.2], kind=[kind]), DATA, **STEPS)
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path, carries)
    for row in range(2):
        state, expected = loaded.state(row), result.state(row)
        assert jax.tree.structure(state) == jax.tree.structure(expected)
        assert_same_bits(jax.tree.leaves(state), jax.tree.leaves(expected))
        assert loaded.evaluate(row, DATA) == result.evaluate(row, DATA)
        after, _ = jax.lax.scan(lambda state, _, row=row: loaded.training(row).step(state, DATA, STEPS["key"]), state, length=2)
        assert jax.tree.structure(after) == jax.tree.structure(expected)
    loaded.save(tmp_path / "again")
    assert jax.tree.structure(fn.load_result(tmp_path / "again", carries).state(1)) == jax.tree.structure(result.state(1))


def test_without_a_recipe_a_state_is_itself_where_its_class_is_imported(tmp_path):
    result = made([{"rate": 0.5}], [{"a": Carry(np.ones(2), np.array(3), "named")}])
    result.save(tmp_path)
    state = fn.load_result(tmp_path).state(0)["a"]
    assert type(state) is Carry and state.name == "named" and state.steps == 3
    assert jax.tree.structure(state) == jax.tree.structure(result.state(0)["a"])


@pytest.mark.parametrize("kind", ["class", "pair", "elsewhere"])
def test_a_state_that_only_its_recipe_makes_says_so(tmp_path, kind):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Local:
        weight: Any

    def recipe(rate):
        values = {"class": lambda w: Local(w), "pair": lambda w: Pair(w, None, lambda: 0), "elsewhere": lambda w: Carry(w, jnp.array(0))}
        return lambda key: values[kind](jnp.zeros(2)), lambda state, batch, key: (state, {}), lambda state, data: {}

    state = jax.tree.map(np.asarray, recipe(0.1)[0](None))
    made([{"rate": 0.5}], [state]).save(tmp_path / "a")
    path = tmp_path / "a" / "result.json"
    path.write_text(path.read_text().replace(Carry.__module__, "elsewhere"))
    loaded = fn.load_result(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"state: the state of row 0 needs its recipe, which knows how it is made, got none; load_result\("
    ):
        loaded.state(0)
    loaded.save(tmp_path / "b")
    again = fn.load_result(tmp_path / "b", recipe).state(0)
    assert type(again) is type(state)
    assert_same_bits(jax.tree.leaves(again), jax.tree.leaves(state))


class TrainState(NamedTuple):
    """Of the name and fields of funcnet's."""

    params: Any
    optimizer_state: Any
    step: Any


def test_a_state_of_ones_own_is_never_taken_for_one_of_its_name(tmp_path):
    made([{"rate": 0.5}], [TrainState(np.ones(2), (), np.array(1))]).save(tmp_path)
    assert type(fn.load_result(tmp_path).state(0)) is TrainState


def test_a_state_of_a_class_made_in_a_function_is_never_taken_for_one_of_its_name(tmp_path):
    local = collections.namedtuple("TrainState", fn.TrainState._fields)
    made([{"rate": 0.5}], [local(np.ones(2), (), np.array(1))]).save(tmp_path)
    state = fn.load_result(tmp_path).state(0)
    assert type(state) is not fn.TrainState and state._fields == local._fields and type(state).__name__ == "TrainState"


def of(init):
    return lambda rate: (init, lambda state, batch, key: (state, {}), lambda state, data: {})


@pytest.mark.parametrize(
    ("recipe", "difference"),
    [
        (
            functools.partial(carries, kind="wide"),
            r"state.weight is float32 of shape \(2, 3\) in the file and float32 of shape \(2, 4\) from",
        ),
        (
            of(lambda key: Carry(jnp.zeros((2, 3)), jnp.zeros(()))),
            r"state.steps is int32 of shape \(\) in the file and float32 of shape \(\)",
        ),
        (of(lambda key: Carry([jnp.zeros(2)], jnp.array(0))), "state.weight is an array in the file and a list of 1 from the recipe"),
        (of(lambda key: {"a": jnp.zeros(2)}), r"state is Carry\(weight, steps\) in the file and a dict of a from the recipe"),
        (of(lambda key: Carry(jax.random.key(0), jnp.array(0))), "state.weight is an array in the file and a random key from the recipe"),
        (of(lambda key: Carry(None, jnp.array(0))), "state.weight is an array in the file and None from the recipe"),
    ],
    ids=["shape", "dtype", "nested", "kind", "key", "nothing"],
)
def test_a_recipe_whose_states_differ_says_where(tmp_path, recipe, difference):
    made([{"rate": 0.5}], [Carry(np.ones((2, 3), np.float32), np.array(3, np.int32))]).save(tmp_path)
    match = f"load_result: the state of row 0 must be as the recipe makes it, got {difference}.*; give the recipe that was swept, or none"
    with pytest.raises(ValueError, match=match):
        fn.load_result(tmp_path, recipe)
    assert type(fn.load_result(tmp_path, carries).state(0)) is Carry


def test_each_rows_state_is_as_its_own_recipe_makes_it(tmp_path):
    result = fn.sweep(carries, fn.grid(rate=[0.1], kind=["carry", "wide", "pair"]), DATA, **STEPS)
    result.save(tmp_path)
    loaded = fn.load_result(tmp_path, carries)
    assert [jax.tree.structure(loaded.state(row)) for row in range(3)] == [jax.tree.structure(result.state(row)) for row in range(3)]


def test_a_leaf_that_is_no_number_is_refused_when_it_is_saved(tmp_path):
    result = made([{"rate": 1.0}] * 2, [[np.ones(2), 1.5], [np.ones(2), np.array(["x"])]])
    with pytest.raises(TypeError, match=r"save: the state of row 1 must hold nothing but numbers, got ndarray at \[1\]"):
        result.save(tmp_path)


def test_optax_states_come_back_as_themselves(tmp_path):
    optax = pytest.importorskip("optax")

    def recipe(rate):
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.inject_hyperparams(optax.adam)(rate))
        return fn.training(fn.dense(1), fn.squared_error, optimizer, in_shape=(2,))

    with jax.numpy_dtype_promotion("standard"):
        result = fn.sweep(recipe, fn.grid(rate=[0.1, 0.2]), DATA, **STEPS)
        result.save(tmp_path)
        for loaded in (fn.load_result(tmp_path, recipe), fn.load_result(tmp_path)):
            assert jax.tree.structure(loaded.state(1)) == jax.tree.structure(result.state(1))
            assert_same_bits(jax.tree.leaves(loaded.state(1)), jax.tree.leaves(result.state(1)))


def test_the_files_of_one_program_are_read_by_another(tmp_path):
    """The classes are in neither, and nothing is imported for them."""
    made([{"rate": 0.5, "kind": Kind.RIDGE, "f": relu}], [Carry(np.ones(2), np.array(3))]).save(tmp_path)
    program = f"import funcnet as fn; r = fn.load_result({str(tmp_path)!r}); print(r.table['kind'], r.table['f'], len(r))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["['Kind.RIDGE']", "['relu']", "1"]


# States of the host at use.


def test_an_embedding_works_on_the_arrays_of_the_host(tmp_path):
    def recipe(rate):
        model = fn.serial(fn.embedding(5, 3), fn.flatten(), fn.dense(1))
        return fn.training(model, fn.squared_error, fn.sgd(rate), in_shape=(2,))

    x = np.array([[0, 1], [2, 4], [3, 3]])
    data = fn.Dataset(x, x[:, :1].astype(np.float32))
    result = fn.sweep(recipe, fn.grid(rate=[0.1]), data, **STEPS)
    result.save(tmp_path)
    for one in (result, fn.load_result(tmp_path, recipe)):
        np.testing.assert_allclose(one.evaluate(0, data)["loss"], one.table["train/loss"][0], rtol=1e-5)
        assert one.predict(0, x).shape == (3, 1)
        plain = recipe(0.1)
        assert plain.evaluate(one.state(0), data)["loss"] == one.evaluate(0, data)["loss"]


def test_a_training_of_ones_own_gets_arrays_that_can_be_updated():
    def recipe(rate):
        def step(state, batch, key):
            return state.at[0].add(1.0), {}

        return lambda key: jnp.zeros(2), step, lambda state, data: {"loss": state.at[0].get()}

    result = fn.sweep(recipe, [{"rate": 0.1}], DATA, **STEPS)
    assert isinstance(result.state(0), np.ndarray) and result.evaluate(0, DATA) == {"loss": 3.0}
    assert result.training(0).step(result.state(0), DATA, None)[0].tolist() == [4.0, 0.0]
    with pytest.raises(TypeError, match=r"predict: the recipe's training must have a predict function, got none; .* predict=...\)"):
        result.predict(0, X)


# Pickled and copied.


def drawing(rate):
    """A state with a random key."""
    return lambda key: {"key": key, "x": jnp.zeros(2)}, lambda state, batch, key: (state, {}), lambda state, data: {"loss": rate * 1.0}


@pytest.mark.parametrize("through", ["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize(
    ("recipe", "more"),
    [(bent, {"activation": ["tanh"]}), (carries, {"kind": ["pairs"]}), (drawing, {})],
    ids=["functions", "classes", "keys"],
)
def test_a_result_is_pickled_and_copied_whole(through, recipe, more):
    result = fn.sweep(recipe, fn.grid(rate=[0.1, 0.2], **more), DATA, **STEPS)
    again = {"pickle": lambda one: pickle.loads(pickle.dumps(one)), "copy": copy.copy, "deepcopy": copy.deepcopy}[through](result)
    assert str(again) == str(result) and again.by_variant().keys() == result.by_variant().keys()
    for row in range(2):
        assert again.hyperparameters(row) == result.hyperparameters(row)
        assert jax.tree.structure(again.state(row)) == jax.tree.structure(result.state(row))
        plain = [
            jax.tree.map(lambda leaf: jax.random.key_data(leaf) if leaf.dtype == STEPS["key"].dtype else leaf, one.state(row))
            for one in (again, result)
        ]
        assert_same_bits(*map(jax.tree.leaves, plain))
        assert again.evaluate(row, DATA) == result.evaluate(row, DATA)


def test_what_pickle_cannot_hold_says_so():
    first, second = (lambda x: x), (lambda x: -x)
    result = fn.sweep(
        lambda rate, activation: bent(rate, activation), fn.grid(rate=[0.1], activation=[first, second, jnp.tanh]), DATA, **STEPS
    )
    again = pickle.loads(pickle.dumps(result))
    assert again.table["activation"].tolist() == result.table["activation"].tolist() == ["<lambda>", "<lambda> 2", "tanh"]
    assert_same_bits(again.state(1), result.state(1))
    with pytest.raises(
        ValueError, match="training: needs the recipe, which pickle can't hold, got <lambda>; a function at the top of a module"
    ):
        again.training(0)
    kept = pickle.loads(pickle.dumps(fn.SweepResult.__copy__(result)._with({**vars(result), "_recipe": bent})))
    assert_same_bits(kept.predict(2, X), result.predict(2, X))
    assert kept.hyperparameters(2)["activation"] is jnp.tanh
    with pytest.raises(
        ValueError, match="training: activation must be itself, which pickle can't hold, got its name <lambda> 2; a function at"
    ):
        kept.training(1)
    for one in (copy.copy(result), copy.deepcopy(result)):
        assert_same_bits(one.predict(1, X), result.predict(1, X))


def test_a_result_crosses_processes():
    result = made([{"rate": 0.1, "kind": "carry"}], [Carry(np.ones((2, 3), np.float32), np.array(1))], line)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(str, result).result() == str(result)
