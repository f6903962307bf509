"""Nothing comes late, unclear, or is lost: what is found before training, and what an interrupted sweep hands out."""

import gc
import multiprocessing
import pickle
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forgetting import forget_programs

import funcnet as fn
from funcnet.sweeps import loop, program
from funcnet.sweeps import run as engine
from funcnet.sweeps.executors import Slot

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
Y = X[:, :1] - X[:, 1:2]
DATA = fn.split(fn.Dataset(X, Y), key=jax.random.key(0))
SETTINGS = dict(key=jax.random.key(5), num_steps=6, batch_size=8, progress=False)


def made(learning_rate=0.1, width=3, penalty=None):
    return fn.training(fn.mlp((width, 1), "tanh"), fn.squared_error, fn.sgd(learning_rate), in_shape=(4,), penalty=penalty)


@pytest.fixture
def nothing_is_compiled(monkeypatch):
    def fails(*_):
        raise AssertionError("a program was compiled")

    monkeypatch.setattr(program, "_compile", fails)


# A recipe that looks at a number.


def branches(learning_rate, l2, width=3):
    return made(learning_rate, width, penalty=fn.l2(l2) if l2 > 0 else None)


def counts(learning_rate, scale):
    return made(learning_rate, width=int(10 * scale))


def converts(learning_rate, l2):
    return made(learning_rate, penalty=fn.l2(np.asarray(l2)))


def both(learning_rate, l2):
    return made(learning_rate if learning_rate > 0 else 1.0, penalty=fn.l2(l2) if l2 > 0 else None)


def late(learning_rate, l2):
    """It looks in the step alone."""
    training = made(learning_rate)
    return training._replace(step=lambda state, batch, key: training.step(state, batch, key) if l2 > 0 else (state, {}))


def in_evaluation(learning_rate, l2):
    training = made(learning_rate)
    return training._replace(evaluate=lambda state, part: {"loss": training.evaluate(state, part)["loss"] * (2.0 if l2 > 0 else 1.0)})


LOOKS = {
    "if": (branches, {"l2": [0.0, 0.1]}, "'l2'"),
    "if, of one value": (branches, {"l2": [0.1]}, "'l2'"),
    "int()": (counts, {"scale": [0.3, 0.5]}, "'scale'"),
    "np.asarray": (converts, {"l2": [0.1, 0.2]}, "'l2'"),
    "two numbers": (both, {"l2": [0.0, 0.1]}, "'learning_rate' and 'l2'"),
    "in the step": (late, {"l2": [0.0, 0.1]}, "'l2'"),
    "in evaluate": (in_evaluation, {"l2": [0.0, 0.1]}, "'l2'"),
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_number_that_a_recipe_looks_at_is_named_before_anything_is_compiled(name, nothing_is_compiled):
    recipe, values, guilty = LOOKS[name]
    pattern = rf"sweep: variant 0 \(learning_rate=0\.1, .*\): recipe: the recipe must not look at {guilty} in Python.*static\(.*jax\.numpy\.where\("
    with pytest.raises(TypeError, match=pattern):
        fn.sweep(recipe, fn.grid(learning_rate=[0.1], **values), DATA, **SETTINGS)


def test_of_a_later_group_too(nothing_is_compiled):
    def recipe(learning_rate, l2, width):
        return branches(learning_rate, l2) if width == 4 else made(learning_rate, width, fn.l2(l2))

    with pytest.raises(TypeError, match=r"variant 2 \(learning_rate=0\.1, l2=0\.1, width=4\): recipe: .*'l2'"):
        fn.sweep(recipe, [dict(learning_rate=0.1, l2=0.1, width=width) for width in (2, 3, 4)], DATA, **SETTINGS)


@pytest.mark.parametrize("way", ["static", "where"])
def test_both_ways_out_work(way):
    def recipe(learning_rate, l2):
        return made(learning_rate, penalty=fn.l2(jnp.where(l2 > 0, l2, 0.0)))

    values = [fn.static(0.0), fn.static(0.1)] if way == "static" else [0.0, 0.1]
    result = fn.sweep(branches if way == "static" else recipe, fn.grid(learning_rate=[0.1], l2=values), DATA, **SETTINGS)
    assert result.table["status"].tolist() == ["completed"] * 2


# An exception of any type.


class Odd(Exception):
    def __init__(self, code, reason):
        super().__init__(code, reason)


class Silent(Exception):
    def __str__(self):
        return "hush"


ERRORS = {
    "ValueError": (ValueError("no"), ValueError),
    "KeyError": (KeyError("no"), KeyError),
    "ZeroDivisionError": (ZeroDivisionError("no"), ZeroDivisionError),
    "AttributeError": (AttributeError("no"), AttributeError),
    "of a type that isn't made from a text": (Odd(1, "no"), Odd),
    "one that says what it likes": (Silent("no"), Silent),
    "a UnicodeDecodeError": (UnicodeDecodeError("utf8", b"", 0, 1, "no"), ValueError),
}


@pytest.mark.parametrize("when", ["with numbers", "while traced"])
@pytest.mark.parametrize("name", ERRORS)
def test_an_exception_of_any_type_names_the_variant(name, when, nothing_is_compiled):
    error, kind = ERRORS[name]

    def recipe(learning_rate, width):
        def init(key):
            raise error

        if width == 4 and when == "with numbers":
            raise error
        return made(learning_rate, width)._replace(**({"init": init} if width == 4 else {}))

    with pytest.raises(kind) as found:
        fn.sweep(recipe, fn.grid(width=[3, 4], learning_rate=[0.1]), DATA, **SETTINGS)
    said = "\n".join([str(found.value), *getattr(found.value, "__notes__", [])])
    assert "sweep: variant 1 (width=4, learning_rate=0.1)" in said


def test_a_state_that_holds_a_function_of_a_traced_number_is_told():
    class WithOptimizer:
        """As flax's TrainState: the optimizer rides in the state's structure."""

        def __init__(self, w, optimizer):
            self.w, self.optimizer = w, optimizer

    jax.tree_util.register_pytree_node(
        WithOptimizer, lambda it: ((it.w,), it.optimizer), lambda optimizer, leaves: WithOptimizer(*leaves, optimizer)
    )

    def recipe(learning_rate):
        return fn.Training(
            lambda key: WithOptimizer(jnp.zeros(1), lambda grad: -learning_rate * grad),
            lambda state, batch, key: (WithOptimizer(state.w + state.optimizer(state.w - 1), state.optimizer), {"loss": state.w[0]}),
            lambda state, part: {"loss": state.w[0]},
        )

    with pytest.raises(TypeError, match=r"variant 0 .*a state must hold arrays, and no function made from a hyperparameter.*TrainState"):
        fn.sweep(recipe, fn.grid(learning_rate=[0.1, 0.2]), DATA, **SETTINGS)


# What the sweep passes on.


def test_a_recipe_that_declares_num_steps_gets_the_sweeps_own():
    """A cosine decay over 1,000 steps in a run of 6 would hardly fall."""

    def recipe(learning_rate, num_steps=1000):
        rate = fn.cosine_decay(learning_rate, num_steps)
        return fn.training(fn.dense(1), fn.squared_error, fn.sgd(rate), in_shape=(4,))

    result = fn.sweep(recipe, fn.grid(learning_rate=[0.1]), DATA, **SETTINGS)
    told = fn.sweep(recipe, fn.grid(learning_rate=[0.1], num_steps=[6]), DATA, **SETTINGS)
    other = fn.sweep(recipe, fn.grid(learning_rate=[0.1], num_steps=[12]), DATA, **SETTINGS)
    assert result.table["train/loss"][0] == told.table["train/loss"][0] != other.table["train/loss"][0]
    assert "num_steps" not in result.table


def test_each_of_the_sweeps_own_values_is_passed_and_trained_with_again():
    seen = []

    def recipe(learning_rate, batch_size, num_steps, num_examples):
        seen.append((batch_size, num_steps, num_examples))
        return made(learning_rate)

    result = fn.sweep(recipe, fn.grid(learning_rate=[0.1]), DATA, **SETTINGS)
    assert set(seen) == {(8, 6, len(DATA.train.y))}
    seen.clear()
    result.training(0)
    assert seen == [(8, 6, len(DATA.train.y))]


# Interrupted.

RATES = [0.01, 0.02, 0.03, 0.04]


def stopped(error, when, **changed):
    """What a sweep raises whose progress function raises."""

    def tell(progress):
        if when(progress):
            raise error

    settings = SETTINGS | dict(num_steps=2000, eval_every=100, chunk_size=1, progress=tell) | changed
    with pytest.raises(fn.SweepInterrupted) as found:
        fn.sweep(made, fn.grid(learning_rate=RATES), DATA, **settings)
    return found.value


def test_ctrl_c_in_the_first_wave_loses_nothing():
    error = stopped(KeyboardInterrupt(), lambda progress: progress.steps_done > 0)
    result = error.result
    statuses = result.table["status"].tolist()
    assert "unfinished" in statuses and set(statuses) <= {"unfinished", "completed"}
    begun = [row for row in range(4) if result.table["steps"][row] > 0]
    assert begun
    whole = fn.sweep(made, fn.grid(learning_rate=RATES), DATA, **(SETTINGS | dict(num_steps=2000, eval_every=100, chunk_size=1)))
    for row in begun:
        steps = int(result.table["steps"][row])
        known = np.flatnonzero(whole.curves["step"] <= steps)
        np.testing.assert_array_equal(result.curves["train/loss"][row][: len(known)], whole.curves["train/loss"][row][known])
        again = fn.sweep(made, [{"learning_rate": RATES[row]}], DATA, **(SETTINGS | dict(num_steps=steps, chunk_size=1)))
        for ours, theirs in zip(jax.tree.leaves(result.state(row)), jax.tree.leaves(again.state(0)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert f"{statuses.count('unfinished')} unfinished" in repr(result)
    assert "KeyboardInterrupt after" in str(error)


def test_ctrl_c_is_a_keyboard_interrupt_and_no_exception():
    error = stopped(KeyboardInterrupt(), lambda progress: progress.steps_done > 0)
    assert isinstance(error, KeyboardInterrupt) and not isinstance(error, Exception)
    assert isinstance(error, fn.SweepStopped)


def test_a_failure_is_a_runtime_error():
    error = stopped(OSError("disk"), lambda progress: progress.steps_done > 0)
    assert isinstance(error, RuntimeError) and isinstance(error, fn.SweepFailed)
    assert isinstance(error.__cause__, OSError) and str(error).endswith(": disk")


def test_before_anything_has_begun_the_error_is_itself():
    def tell(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as found:
        fn.sweep(made, fn.grid(learning_rate=RATES), DATA, **(SETTINGS | dict(progress=tell)))
    assert not isinstance(found.value, fn.SweepInterrupted)


def recipe_of_a_module(learning_rate):
    return made(learning_rate)


def interrupted_in_a_process(_):
    def tell(progress):
        if progress.steps_done:
            raise RuntimeError("enough")

    fn.sweep(recipe_of_a_module, fn.grid(learning_rate=RATES), DATA, **(SETTINGS | dict(num_steps=500, chunk_size=1, progress=tell)))


def test_it_crosses_processes_with_its_result():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        waiting = pool.apply_async(interrupted_in_a_process, (0,))
        with pytest.raises(fn.SweepFailed, match="enough") as found:
            waiting.get(timeout=240)
    assert len(found.value.result) == len(RATES)
    assert found.value.result.table["steps"].max() > 0


@pytest.mark.parametrize("kind", [fn.SweepFailed, fn.SweepStopped, fn.SweepNotFinite, fn.SweepInterrupted])
def test_each_kind_pickles(kind):
    result = fn.sweep(recipe_of_a_module, fn.grid(learning_rate=[0.1]), DATA, **SETTINGS)
    again = pickle.loads(pickle.dumps(kind("stopped", result)))
    assert type(again) is kind and str(again) == "stopped"
    np.testing.assert_array_equal(again.result.table["train/loss"], result.table["train/loss"])
    np.testing.assert_array_equal(jax.tree.leaves(again.result.state(0))[0], jax.tree.leaves(result.state(0))[0])


@pytest.mark.parametrize("where", ["one_lane", "Progress"])
def test_a_stop_while_a_chunk_is_noted_loses_none_of_it(where, monkeypatch):
    """Ctrl-C can come at any line of the host's own: with two chunks trained and nothing noted yet, both are handed out."""
    own, stopped = getattr(loop, where), []

    def stop_once(*arguments):
        if not stopped and (where == "one_lane" or arguments[2] > 0):  # Progress tells the steps that are done
            stopped.append(True)
            raise KeyboardInterrupt
        return own(*arguments)

    monkeypatch.setattr(loop, where, stop_once)
    monkeypatch.setattr(engine, "local_slots", lambda: [Slot(jax.devices()[0], 0)])
    variants = fn.grid(learning_rate=[0.01, 0.02, 0.05, 0.1])
    with pytest.raises(fn.SweepStopped) as caught:
        fn.sweep(made, variants, DATA, **(SETTINGS | dict(progress=lambda progress: None)), chunk_size=2)
    result = caught.value.result
    assert stopped and result.table["status"].tolist()[:2] == ["completed"] * 2
    whole = fn.sweep(made, variants, DATA, **SETTINGS, chunk_size=2)
    for row in range(2):
        assert result.table["train/loss"][row] == whole.table["train/loss"][row]
        np.testing.assert_array_equal(result.state(row).params[0]["weight"], whole.state(row).params[0]["weight"])


@pytest.mark.parametrize("on", [True, False])
def test_pythons_collector_is_left_as_it_was(on):
    def fails(learning_rate):
        return made()._replace(step=lambda state, batch, key: 1 / 0)

    (gc.enable if on else gc.disable)()
    try:
        fn.sweep(made, fn.grid(learning_rate=[0.1]), DATA, **SETTINGS)
        assert gc.isenabled() == on
        with pytest.raises(ZeroDivisionError, match="variant 0 .*division by zero"):
            fn.sweep(fails, fn.grid(learning_rate=[0.1]), DATA, **SETTINGS)
        assert gc.isenabled() == on
    finally:
        gc.enable()


def test_the_end_is_told_once():
    told = []
    fn.sweep(made, fn.grid(learning_rate=[0.1, 0.2]), DATA, **(SETTINGS | dict(progress=told.append)))
    assert told[-1].runs_done == 2 and sum(progress.runs_done == 2 for progress in told) == 1


# Compiling takes no one's place.


def test_training_goes_on_while_other_programs_are_compiled(monkeypatch):
    """The second group's programs wait until the first group's every run is done: nothing may wait for them."""
    compiled, done, own = threading.Event(), threading.Event(), program._executable
    waiting = []

    def slow(*given):
        if compiled.is_set():  # the second group's
            waiting.append(time.monotonic())
            assert done.wait(120), "training stood still while another group was compiled"
        return own(*given)

    def tell(progress):
        if progress.steps_done and not compiled.is_set():
            compiled.set()
        if progress.runs_done >= 8:
            done.set()

    forget_programs()
    monkeypatch.setattr(program, "_executable", slow)
    monkeypatch.setattr(engine, "local_slots", lambda: [Slot(jax.devices()[0], 0)])

    def recipe(learning_rate, width):
        return made(learning_rate, width)

    variants = [*fn.grid(width=[3], learning_rate=np.geomspace(1e-3, 1e-1, 8).tolist()), *fn.grid(width=[4, 5], learning_rate=[0.1])]
    result = fn.sweep(recipe, variants, DATA, **(SETTINGS | dict(num_steps=300, chunk_size=1, progress=tell)))
    assert waiting and result.table["status"].tolist() == ["completed"] * 10
