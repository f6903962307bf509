"""A group's programs: the pieces of a training run, mapped over lanes and compiled ahead of time.

There are three: `init`, `advance` from any step to any other, and `evaluate`. Step numbers, hyperparameters and data are
arguments, so that no number is compiled in: one compilation serves a group's every chunk and every stretch of steps, and
another sweep of the same recipe and shapes.
"""

import functools
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from funcnet import inner
from funcnet.data import Split
from funcnet.sweep.plan import Group, trial_of
from funcnet.sweep.recent import Recent, signature
from funcnet.sweep.trial import Constants, Numbers, training_of
from funcnet.training import Draws, Run, RunKeys, Training, draw, measure, settle, start, still_finite, take_step
from funcnet.tree import PyTree

Options: TypeAlias = tuple[tuple[str, Any], ...]  # the compiler's, by name


class Executable(NamedTuple):
    """One compiled program."""

    program: Any
    bytes_needed: int


Compiling: TypeAlias = Future[tuple[Executable, bool, float]]  # the program, whether it was made for this, and when it was done

STRETCH = 64  # steps whose minibatches and keys are drawn together, in a few large operations, and after which lanes are looked at


class Lanes(NamedTuple):
    """What tells the lanes of a chunk apart."""

    lane: jax.Array  # (lanes,), int32: 0, 1, ...
    hyperparameters: dict[str, jax.Array]  # each (lanes,)
    options: dict[str, jax.Array]  # each of shape (), int32: which of the group's options all lanes have
    num_examples: jax.Array | None  # (lanes,), int32
    keys: RunKeys  # shape () where the lanes share them, else (lanes,)


class Programs(NamedTuple):
    """The three programs of a group. `Run`s have a leading axis of lanes; constants are what the recipe closed over."""

    init: Callable[..., Run]  # (constants, lanes) -> run
    advance: Callable[..., Run]  # (constants, lanes, run, data, first, last) -> run; run's memory is used again
    evaluate: Callable[..., dict[str, jax.Array]]  # (constants, lanes, run, data) -> metrics, each (lanes,)


class Compiled(NamedTuple):
    """Programs, and what they cost."""

    programs: Programs
    seconds: float  # of lowering and compiling
    new: int  # how many had not been compiled before
    bytes_needed: int  # memory one chunk takes while it trains: the state, and what a step makes on its way


class Request(NamedTuple):
    """What a group's programs depend on; two requests that are equal share them."""

    trial: tuple[Any, ...]  # what the recipe computes
    batch_size: int | None
    limits_examples: bool
    lanes: Any  # structure, shapes and dtypes
    data: Any  # likewise
    shared: bool
    device: jax.Device
    context: tuple[Any, ...]  # all of JAX's configuration that decides a trace


def request(group: Group, lanes: Lanes, data: Split, shared: bool, device: jax.Device) -> Request:
    trial, context = trial_of(group).key, inner.trace_context()
    return Request(trial, group.batch_size, group.limits_examples, signature(lanes), signature(data), shared, device, context)


_programs = Recent(256)  # by request: a second sweep compiles nothing
_executables = Recent(512)  # by the program's own text: groups that differ elsewhere share what is the same


def clear_caches() -> None:
    """Forgets every program that sweeps have compiled, and everything that JAX itself remembers (`jax.clear_caches`).

    A sweep sees by itself that its recipe computes something else than before. What it can't see is what JAX doesn't look
    at again: a function under `jax.jit` reads globals, attributes and closures when it is first traced, and never after.
    Programs are freed once no sweep runs them; without this, those of the last 256 groups stay.

    Example:
      >>> clear_caches()
    """
    _programs.clear()
    _executables.clear()
    jax.clear_caches()


class Pending:
    """A group's programs while they are compiled."""

    def __init__(self, key: Request, futures: list[Compiling], began: float, new: bool):
        self._key, self.futures, self._began, self._new = key, futures, began, new

    def done(self) -> bool:
        return all(future.done() for future in self.futures)

    def result(self) -> Compiled:
        """Waits for the programs."""
        try:
            executables, made, ended = zip(*(future.result() for future in self.futures), strict=True)
        except BaseException:
            _programs.forget(self._key)
            raise
        needed = max(executable.bytes_needed for executable in executables[1:])
        programs = Programs(*(executable.program for executable in executables))
        return Compiled(programs, max(ended) - self._began if self._new else 0.0, sum(made) if self._new else 0, needed)


def compile_programs(group: Group, lanes: Lanes, data: Split, shared: bool, device: jax.Device) -> Pending:
    """Lowers a group's programs now, in the caller's thread and configuration, and has them compiled on other threads.

    Args:
      lanes: an example of what the programs will be given, with as many lanes.
      data: likewise.
      shared: whether the lanes share one key.
      device: where the programs run.
    """
    key = request(group, lanes, data, shared, device)
    began = time.perf_counter()
    futures, new = _programs.get(key, lambda: _compile(group, lanes, data, shared, device))
    return Pending(key, futures, began, new)


def lane_functions(group: Group, shared: bool) -> Programs:
    """A group's programs as plain functions of what its recipe closed over and of lanes, to be compiled for any device."""
    # What is remembered holds nobody's arrays and functions: neither the group nor the whole trial may be closed over.
    trial = trial_of(group)._replace(constants=Constants((), (), ()), structure=None)
    batch_size, limits_examples = group.batch_size, group.limits_examples
    axes = Lanes(0, 0, None, 0 if limits_examples else None, None if shared else 0)  # type: ignore[arg-type]

    def training(constants: Constants, lane: Lanes) -> Training:
        return training_of(trial, constants, Numbers(lane.hyperparameters, lane.options))

    def init(constants: Constants, lane: Lanes) -> Run:
        return start(training(constants, lane), lane.keys)

    def one_step(constants: Constants, lane: Lanes, state: PyTree, data: Split, draws: Draws) -> tuple[PyTree, jax.Array]:
        return take_step(training(constants, lane), state, data, draws, lane.num_examples)

    def draws_of(lane: Lanes, data: Split, steps: jax.Array) -> Draws:
        seen = len(data.train.y) if lane.num_examples is None else lane.num_examples
        return jax.vmap(lambda step: draw(lane.keys, step, batch_size, seen))(steps)

    def evaluate(constants: Constants, lane: Lanes, run: Run, data: Split) -> dict[str, jax.Array]:
        return measure(training(constants, lane), run, data, lane.num_examples)

    # Lanes that share their keys and see the same examples share their draws, which then have no axis of lanes.
    apart = not shared or (limits_examples and batch_size is not None)
    own = Draws(None if batch_size is None else 1, None if shared else 1)  # type: ignore[arg-type]
    draw_all = jax.vmap(draws_of, (axes, None, None), own) if apart else draws_of
    step_all = jax.vmap(one_step, (None, axes, 0, None, jax.tree.map(lambda axis: axis - 1, own) if apart else None))
    advance_all = functools.partial(_advance, step_all, draw_all)
    return Programs(jax.vmap(init, (None, axes)), advance_all, jax.vmap(evaluate, (None, axes, 0, None)))


class _Stretch(NamedTuple):
    """Where a chunk is between two stretches of steps."""

    begin: jax.Array  # shape (), int32: steps taken
    careful_until: jax.Array  # shape (), int32: before this, stretches are one step long
    suspects: jax.Array  # (lanes,), bool: which lanes something has happened to in the stretch that is taken again
    run: Run


def _advance(
    step_all: Callable[..., Any],
    draw_all: Callable[..., Draws],
    constants: Constants,
    lanes: Lanes,
    run: Run,
    data: Split,
    first: jax.Array,
    last: jax.Array,
) -> Run:
    """Steps first .. last - 1 of all lanes.

    To look after each step whether a lane is still finite costs as much as a small net's layer. So the lanes are looked at
    after a stretch of steps; if one is lost, the stretch is taken again a step at a time, in the same loop's code, and the
    lane is frozen where it was. A neighbour takes the same steps twice, and has the same bits.
    """

    def stretch(at: _Stretch) -> _Stretch:
        careful = at.begin < at.careful_until
        end = jnp.minimum(jnp.where(careful, at.begin + 1, at.begin + STRETCH - at.begin % STRETCH), last)
        draws = draw_all(lanes, data, at.begin + jnp.arange(STRETCH, dtype=jnp.int32))

        def one_step(step: jax.Array, carry: tuple[PyTree, jax.Array]) -> tuple[PyTree, jax.Array]:
            state, fine = carry
            state, finite = step_all(constants, lanes, state, data, jax.tree.map(lambda drawn: drawn[step - at.begin], draws))
            return state, fine & finite

        state, fine = jax.lax.fori_loop(at.begin, end, one_step, (at.run.state, jnp.ones_like(at.suspects)))
        fine &= jax.vmap(still_finite)(at.run, state)
        lost = ~fine & (at.run.diverged < 0)
        again = jnp.any(lost) & ~careful & (end > at.begin + 1)
        lost &= at.suspects | ~careful
        settled = jax.vmap(settle, (0, 0, 0, None))(at.run, state, ~(lost | again), at.begin)
        run = settled._replace(diverged=jnp.where(again, at.run.diverged, settled.diverged))
        return _Stretch(jnp.where(again, at.begin, end), jnp.where(again, end, at.careful_until), jnp.where(again, lost, at.suspects), run)

    def goes_on(at: _Stretch) -> jax.Array:
        return (at.begin < last) & jnp.any(at.run.diverged < 0)

    begin = _Stretch(first, jnp.zeros_like(first), jnp.zeros(run.diverged.shape, bool), run)
    return jax.lax.while_loop(goes_on, stretch, begin).run


def _compile(group: Group, lanes: Lanes, data: Split, shared: bool, device: jax.Device) -> list[Compiling]:
    """Traces each program and has it compiled meanwhile: its executable, whether it was made for this, and when it was done."""

    def shapes(tree: Any) -> Any:
        place = jax.sharding.SingleDeviceSharding(device)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)

    def start(function: Callable[..., Any], computes: Any, options: Options, *arguments: Any, **how: Any) -> Compiling:
        # No argument is left out, used or not: programs of one text and one signature are then the same program, but for the
        # Python functions that they call back, which the text only numbers.
        lowered = jax.jit(function, keep_unused=True, **how).lower(*arguments)
        return _compilers().submit(_executable, lowered, (computes, *_text_key(lowered, device, options)), device.platform, options)

    functions = lane_functions(group, shared)
    of_init, of_step, *of_evaluate = trial_of(group).key
    constants, lanes, data = shapes(trial_of(group).constants), shapes(lanes), shapes(data)
    step = shapes(jax.ShapeDtypeStruct((), jnp.int32))
    run = shapes(jax.eval_shape(functions.init, constants, lanes))
    init_options, evaluate_options = _quick(device, run)
    advance = start(
        functions.advance, of_step, (), constants, lanes, run, data, step, step, donate_argnums=2
    )  # first, as it takes the longest
    evaluate = start(functions.evaluate, tuple(of_evaluate), evaluate_options, constants, lanes, run, data)
    return [start(functions.init, of_init, init_options, constants, lanes), advance, evaluate]


@functools.cache
def _compilers() -> ThreadPoolExecutor:
    """Threads to compile on, one a core: XLA compiles one program on one."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="funcnet-compile")


def _quick(device: jax.Device, run: Any) -> tuple[Options, Options]:
    """The compiler's options for `init` and `evaluate`, which on a CPU would take longer to make fast than they run.

    What runs now and then needs no last optimization; what runs once needs none at all, unless it is large.
    """
    if device.platform != "cpu":
        return (), ()
    written = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run))
    plain = ("xla_cpu_use_fusion_emitters", False), ("xla_cpu_parallel_codegen_split_count", 1)
    level = "xla_backend_optimization_level"
    return (*plain, (level, 0 if written < _LARGE else 1)), ((level, 1),)


_LARGE = 2**24  # bytes


def _executable(lowered: Any, key: tuple[Any, ...], platform: str, options: Options) -> tuple[Executable, bool, float]:
    def make() -> Executable:
        program = _compile_with_hints(lowered, platform, options)
        return Executable(program, inner.memory_needed(program))

    executable, made = _executables.get(key, make)
    return executable, made, time.perf_counter()


_unknown: set[tuple[str, str]] = set()  # (platform, option): what a backend has said it doesn't know


def _compile_with_hints(lowered: Any, platform: str, options: Options) -> Any:
    """The program, compiled with as many of the options as the backend knows: they are hints, and change with XLA."""
    hints = {name: value for name, value in options if (platform, name) not in _unknown}
    while True:
        try:
            return lowered.compile(hints)
        except Exception as error:
            # XLA names the first option it doesn't know; anything else that goes wrong is not about the options.
            refused = [name for name in hints if f"No such compile option: '{name}'" in str(error)]
            if not refused:
                raise
            for name in refused:
                _unknown.add((platform, name))
                del hints[name]


def _text_key(lowered: Any, device: jax.Device, options: Options) -> tuple[Any, ...]:
    text = hashlib.sha256(lowered.as_text().encode()).digest()
    beside_text = object() if getattr(jax.config, "jax_use_simplified_jaxpr_constants", False) else None  # constants outside it
    return text, str(lowered.args_info), str(lowered.out_tree), device, options, beside_text, inner.trace_context()
