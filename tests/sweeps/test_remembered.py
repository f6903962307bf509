"""What is remembered between sweeps is what a recipe computes: a sweep trains what the recipe says now."""

import functools
import gc
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.sweeps import program
from funcnet.sweeps.recent import Recent

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
DATA = fn.split(fn.Dataset(X, Y), key=jax.random.key(0))
SETTINGS = dict(key=jax.random.key(1), num_steps=4, batch_size=8, progress=False)


def made(learning_rate, width=3, loss=fn.cross_entropy, optimizer=fn.sgd):
    return fn.training(fn.mlp((width, 2), "relu"), loss, optimizer(learning_rate), in_shape=(4,))


def swept(recipe, data=DATA, **changed):
    return fn.sweep(recipe, fn.grid(learning_rate=[0.1, 0.2]), data, **(SETTINGS | changed))


def in_a_module(source, **names):
    """A module as a notebook is one: cells that run one after another."""
    module = types.ModuleType("cells")
    vars(module).update(fn=fn, jax=jax, jnp=jnp, np=np, made=made, **names)
    exec(source, vars(module))
    return module


def assert_true(result):
    """The table says what the states and the recipe say."""
    for row in range(len(result)):
        evaluated = result.training(row).evaluate(result.state(row), DATA.validation)
        for name, value in evaluated.items():
            assert result.table[f"validation/{name}"][row] == pytest.approx(float(value), rel=1e-5)


# What a recipe may look at: (first cell, later cell). The later one changes what is computed, not the recipe.
CELLS = {
    "a global width": (
        "WIDTH = 3\ndef recipe(learning_rate):\n  return made(learning_rate, WIDTH)",
        "WIDTH = 7",
    ),
    "a global weight of the loss": (
        "WEIGHT = 1.0\ndef recipe(learning_rate):\n  return made(learning_rate, loss=lambda p, t: WEIGHT * fn.cross_entropy(p, t))",
        "WEIGHT = 10.0",
    ),
    "a helper": (
        "def loss(p, t):\n  return fn.cross_entropy(p, t)\ndef recipe(learning_rate):\n  return made(learning_rate, loss=lambda p, t: loss(p, t))",
        "def loss(p, t):\n  return 3 * fn.cross_entropy(p, t)",
    ),
    "an optimizer": (
        "optimizer = fn.sgd\ndef recipe(learning_rate):\n  return made(learning_rate, optimizer=optimizer)",
        "optimizer = fn.adam",
    ),
    "an attribute of a bound method's object": (
        "class Recipe:\n  width = 3\n  def make(self, learning_rate):\n    return made(learning_rate, self.width)\n"
        "it = Recipe()\nrecipe = it.make",
        "it.width = 7",
    ),
    "an attribute of a callable": (
        "class Recipe:\n  scale = 1.0\n  def __call__(self, learning_rate):\n"
        "    return made(learning_rate, loss=lambda p, t: self.scale * fn.cross_entropy(p, t))\nrecipe = Recipe()",
        "recipe.scale = -2.0",
    ),
    "a cell of its closure": (
        "def close():\n  scale = 1.0\n  def recipe(learning_rate):\n    return made(learning_rate, loss=lambda p, t: scale * fn.cross_entropy(p, t))\n"
        "  def put(value):\n    nonlocal scale\n    scale = value\n  return recipe, put\nrecipe, put = close()",
        "put(5.0)",
    ),
    "an array changed in place": (
        "WEIGHTS = np.array([1.0, 1.0], np.float32)\ndef recipe(learning_rate):\n"
        "  weights = jnp.asarray(WEIGHTS.copy())\n  return made(learning_rate, loss=lambda p, t: weights[t] * fn.cross_entropy(p, t))",
        "WEIGHTS[0] = 9.0",
    ),
    "a NumPy array in a loss, changed in place": (
        "WEIGHTS = np.array([1.0, 1.0], np.float32)\ndef recipe(learning_rate):\n"
        "  return made(learning_rate, loss=lambda p, t: jnp.asarray(WEIGHTS)[t] * fn.cross_entropy(p, t))",
        "WEIGHTS[0] = 9.0",
    ),
    "an entry of a dict": (
        "config = {'width': 3}\ndef recipe(learning_rate):\n  return made(learning_rate, config['width'])",
        "config['width'] = 7",
    ),
    "a default": (
        "def recipe(learning_rate, scale=1.0):\n  return made(learning_rate, loss=lambda p, t: scale * fn.cross_entropy(p, t))",
        "recipe.__defaults__ = (4.0,)",
    ),
    "the sign of zero": (
        "ZERO = 0.0\ndef recipe(learning_rate):\n"
        "  return made(learning_rate, loss=lambda p, t: fn.cross_entropy(p, t) * jnp.where(jnp.arctan2(ZERO, -1.0) > 0, 1.0, 2.0))",
        "ZERO = -0.0",
    ),
    "how an integer is typed": (
        "N = 1\ndef recipe(learning_rate):\n  return made(learning_rate, loss=lambda p, t: fn.cross_entropy(p, t) * (2.0 if N is True else 1.0))",
        "N = True",
    ),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_sweep_trains_what_the_recipe_says_now(name):
    first_cell, later_cell = CELLS[name]
    cells = in_a_module(first_cell)
    first = swept(cells.recipe)
    assert_true(first)
    exec(later_cell, vars(cells))
    second = swept(cells.recipe)
    assert_true(second)
    assert not np.array_equal(first.table["validation/loss"], second.table["validation/loss"])
    fresh = in_a_module(first_cell)
    exec(later_cell, vars(fresh))
    again = swept(fresh.recipe)  # another recipe that computes the same
    assert again.timing["programs"] == 0
    np.testing.assert_array_equal(again.table["validation/loss"], second.table["validation/loss"])


@pytest.mark.parametrize("randomness", ["shared", "independent"])
def test_weights_of_each_fold_train_as_they_are_and_compile_once(randomness):
    """Arrays that a recipe closes over are arguments of its programs."""
    programs, losses = [], []
    for _ in range(3):
        weights = jnp.asarray(RNG.uniform(0.1, 3.0, 2).astype(np.float32))
        result = swept(
            lambda learning_rate, weights=weights: made(learning_rate, loss=lambda p, t: weights[t] * fn.cross_entropy(p, t)),
            randomness=randomness,
        )
        assert_true(result)
        programs.append(result.timing["programs"])
        losses.append(result.table["validation/loss"][0])
    assert programs[1:] == [0, 0] and len(set(losses)) == 3


def test_arrays_that_init_step_and_evaluate_close_over():
    """Each function has constants of its own; a triple written by hand, with integers, keys and arrays of shape ()."""

    def recipe_of(start, noise_key, offset):
        def recipe(learning_rate):
            def init(key):
                return {"w": start + 0.0, "n": jnp.asarray(3)}

            def step(state, batch, key):
                pull = jax.random.normal(noise_key, (2,))
                return {"w": state["w"] + learning_rate * pull, "n": state["n"] + 1}, {"loss": state["w"].sum()}

            return fn.Training(init, step, lambda state, data: {"loss": state["w"].sum() + offset, "n": state["n"]})

        return recipe

    made_of = [(jnp.ones(2), jax.random.key(0), jnp.asarray(0.5)), (jnp.array([7.0, 7.0]), jax.random.key(3), jnp.asarray(-4.0))]
    results = [swept(recipe_of(*arrays)) for arrays in made_of]
    for (start, key, offset), result in zip(made_of, results, strict=True):
        pull = np.asarray(jax.random.normal(key, (2,)))
        for row, rate in enumerate((0.1, 0.2)):
            expected = float(np.sum(np.asarray(start) + 4 * rate * pull) + offset)
            assert result.table["train/loss"][row] == pytest.approx(expected, rel=1e-5)
            assert result.table["train/n"][row] == 7
    assert results[1].timing["programs"] == 0


@pytest.mark.parametrize("vmap_method", ["sequential", "expand_dims"])
def test_python_that_a_recipe_calls_back_is_the_one_of_now(vmap_method):
    """A program's text only numbers such functions; a recipe that hands on the same one compiles nothing anew."""

    def recipe_of(scaled):
        def recipe(learning_rate):
            training = made(learning_rate)

            def evaluate(state, part):
                loss = training.evaluate(state, part)["loss"]
                return {"loss": jax.pure_callback(scaled, jax.ShapeDtypeStruct((), jnp.float32), loss, vmap_method=vmap_method)}

            return training._replace(evaluate=evaluate)

        return recipe

    tenfold = lambda loss: np.asarray(10 * loss, np.float32)
    first, second, third = (swept(recipe_of(function)) for function in (lambda loss: np.asarray(loss), tenfold, tenfold))
    np.testing.assert_allclose(second.table["validation/loss"], 10 * first.table["validation/loss"], rtol=1e-6)
    np.testing.assert_array_equal(second.table["validation/loss"], third.table["validation/loss"])
    assert third.timing["programs"] == 0


def test_what_a_recipe_prints_is_what_it_says_now(capfd):
    def recipe_of(text):
        def recipe(learning_rate):
            training = made(learning_rate)

            def step(state, batch, key):
                jax.debug.print(text + " {}", learning_rate)
                return training.step(state, batch, key)

            return training._replace(step=step)

        return recipe

    for text in ("one", "another"):
        swept(recipe_of(text))
        jax.effects_barrier()
        printed = capfd.readouterr().out
        assert {line.split()[0] for line in printed.splitlines()} == {text} and f"{text} 0.2" in printed


def test_a_second_sweep_compiles_nothing_whoever_the_recipe_is():
    first = swept(lambda learning_rate: made(learning_rate, 5))
    second = swept(functools.partial(made, width=5))
    assert second.timing["programs"] == 0
    np.testing.assert_array_equal(first.table["validation/loss"], second.table["validation/loss"])


def test_cleared_caches_compile_anew():
    recipe = functools.partial(made, width=6)
    swept(recipe)
    assert swept(recipe).timing["programs"] == 0
    fn.clear_caches()
    assert swept(recipe).timing["programs"] == 4


def test_cleared_caches_forget_what_jax_remembers_too():
    """A function under jax.jit reads a global once, as JAX says; that is what is left to forget."""
    cells = in_a_module(
        "WEIGHT = 1.0\n@jax.jit\ndef loss(p, t):\n  return WEIGHT * fn.cross_entropy(p, t)\n"
        "def recipe(learning_rate):\n  return made(learning_rate, loss=loss)"
    )
    first = swept(cells.recipe)
    cells.WEIGHT = 10.0
    fn.clear_caches()
    second = swept(cells.recipe)
    assert_true(second)
    assert not np.array_equal(first.table["validation/loss"], second.table["validation/loss"])


class Held:
    """Something large that a recipe's closure holds."""

    def __init__(self):
        self.array = np.ones(1000)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_recipes_closure_is_freed_with_the_recipe(interrupted):
    def run():
        held = Held()
        weights = jnp.asarray(held.array[:2], jnp.float32)

        def recipe(learning_rate):
            assert held.array.size
            return made(learning_rate, loss=lambda p, t: weights[t] * fn.cross_entropy(p, t))

        def stop(progress):
            if interrupted and progress.steps_done:
                raise RuntimeError("enough")

        try:
            swept(recipe, progress=stop)
        except fn.SweepInterrupted:
            assert interrupted
        return weakref.ref(held), weakref.ref(weights), weakref.ref(recipe)

    found = [run() for _ in range(3)]
    gc.collect()
    assert [reference() for references in found for reference in references] == [None] * 9


def test_nothing_remembered_keeps_executables_alive():
    fn.clear_caches()
    swept(functools.partial(made, width=4))
    executables = [weakref.ref(found.result().program) for found in _futures(program._executables)]
    assert len(executables) == 4
    fn.clear_caches()
    gc.collect()
    assert [reference() for reference in executables] == [None] * 4


def test_what_is_dropped_for_what_came_later_is_freed(monkeypatch):
    fn.clear_caches()
    for memory in (program._programs, program._executables):
        monkeypatch.setattr(memory, "_size", 3)
    swept(functools.partial(made, width=4))
    first = [weakref.ref(found.result().program) for found in _futures(program._executables)]
    for width in (5, 6, 8):
        swept(functools.partial(made, width=width))
    gc.collect()
    assert [reference() for reference in first] == [None] * 3


def test_a_long_key_is_gone_through_once():
    """What a program computes is a value of thousands of entries, whose hash is most of the time to find it."""
    hashed = []

    class Long(tuple):
        def __hash__(self):
            hashed.append(None)
            return super().__hash__()

    memory = Recent(4)
    for made in (True, False):
        hashed.clear()
        assert memory.get(Long([1, 2.0, "three"]), lambda: "program") == ("program", made)
        assert len(hashed) == 1
    memory.forget(Long([1, 2.0, "three"]))
    assert memory.get(Long([1, 2.0, "three"]), lambda: "another") == ("another", True)
    assert memory.get([1], lambda: "no hash") == ("no hash", True)


def _futures(memory):
    return [future for _, future in memory._futures.values()]
