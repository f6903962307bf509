"""A group's programs: the parts of a training run, mapped over lanes (vmap) and compiled ahead of time.

`init` makes states, `draw` draws the minibatches and keys of a stretch, `advance` takes steps within one stretch, and `evaluate`
measures. Step numbers, hyperparameters and data are arguments, not constants: one compilation serves every chunk and stretch
of a group, and other sweeps of the same recipe and shapes. A part that is the same in several groups is compiled once for
all of them, such as `draw` if they differ only in the net.
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
import numpy as np

from funcnet import inner
from funcnet.data import Split
from funcnet.sweeps.lanes import Lanes, keys_of
from funcnet.sweeps.mixed import ALIKE
from funcnet.sweeps.recent import Recent, signature
from funcnet.sweeps.trial import Arguments, Constants, Trial, training_of, uncollected
from funcnet.train import Draws, Metrics, RunKeys, Training, draw, metrics_of, take_step
from funcnet.tree import examples_of, finite_leaves

Options: TypeAlias = tuple[tuple[str, Any], ...]  # the compiler's, by name


class Executable(NamedTuple):
    """One compiled program."""

    program: Any
    bytes_needed: int
    seconds: float  # spent lowering and compiling it


Compiling: TypeAlias = Future[tuple[Executable, bool, float]]  # the program, whether this request compiled it, time.perf_counter at its end

STRETCH = 64  # steps whose minibatches and keys are drawn together, in a few large operations; after each stretch lanes are checked
State: TypeAlias = list[jax.Array]  # the leaves of a state, each with a leading axis of lanes


class Programs(NamedTuple):
    """A group's programs. Constants are the arrays that the recipe closed over; key is the sweep's."""

    init: Callable[..., State]  # (constants, lanes, key) -> state
    draw: Callable[..., Draws]  # (key, replicate, variant, num_examples, first) -> minibatches and keys of the STRETCH steps from first on
    advance: Callable[..., tuple[State, jax.Array]]  # (constants, lanes, state, data, draws, begin, end) -> state, fine
    evaluate: Callable[..., Metrics]  # (constants, lanes, state, data) -> metrics, each (lanes,)
    finite: Callable[[State], Any]  # state -> (lanes, leaves), bool: which leaves are finite throughout


class Compiled(NamedTuple):
    """Programs, and what they cost."""

    programs: Programs
    seconds: float  # spent lowering and compiling
    new: int  # how many had not been compiled before
    bytes_needed: int  # memory one chunk takes while it trains: its state and a step's intermediate values
    executables: tuple[Executable, ...]  # init, draw, advance, evaluate, and (except on a CPU) finite


class Kind(NamedTuple):
    """What a group's programs depend on besides what its recipe computes."""

    lanes: Lanes  # example arrays, or their shapes
    key: jax.Array  # example of a sweep's key, or its shape
    data: Split  # example arrays, or their shapes
    shared: bool  # whether the lanes share one key
    device: jax.Device


class ProgramKey(NamedTuple):
    """Everything that a group's programs depend on; groups with equal keys share their programs."""

    trial: tuple[Any, ...]  # what the recipe computes
    batch_size: int | None
    limits_examples: bool
    lanes: Any  # structure, shapes and dtypes
    key: Any  # structure, shapes and dtypes
    data: Any  # structure, shapes and dtypes
    shared: bool
    device: jax.Device
    context: tuple[Any, ...]  # every JAX setting that affects tracing


def program_key(trial: Trial, kind: Kind) -> ProgramKey:
    shapes = signature(kind.lanes), signature(kind.key), signature(kind.data)
    return ProgramKey(trial.key, trial.batch_size, trial.limits_examples, *shapes, kind.shared, kind.device, inner.trace_context())


_programs = Recent(256)  # by ProgramKey: a second sweep compiles nothing
_executables = Recent(512)  # by the lowered program's text: groups share the parts that are the same


def clear_caches() -> None:
    """Empties the cache of the programs that sweeps have compiled, and JAX's own caches (`jax.clear_caches`).

    Needed if a function under `jax.jit` inside a recipe depends on a global, an attribute or a closure that has changed: JAX
    reads these only when it first traces the function. Any other change in what a recipe computes, a sweep notices itself.
    Programs are freed once no sweep runs them; without this call, those of the last 256 groups stay in memory.

    Example:
      >>> clear_caches()
    """
    _programs.clear()
    _executables.clear()
    ALIKE.clear()
    jax.clear_caches()


class Pending:
    """A group's programs while they are being compiled."""

    def __init__(self, key: ProgramKey, futures: list[Compiling], began: float, new: bool):
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
        init, draw, advance, evaluate, *finite = [executable.program for executable in executables]
        programs = Programs(init, draw, advance, evaluate, finite[0] if finite else _finite_on_host)
        return Compiled(programs, max(ended) - self._began if self._new else 0.0, sum(made) if self._new else 0, needed, executables)


def compile_programs(trial: Trial, kind: Kind) -> Pending:
    """Lowers a group's programs in the caller's thread, under its JAX settings, and starts compiling them in other threads."""
    key = program_key(trial, kind)
    began = time.perf_counter()
    with uncollected():
        futures, new = _programs.get(key, lambda: _compile(trial, kind))
    return Pending(key, futures, began, new)


def lane_functions(trial: Trial, examples: int, shared: bool, *, limits_each: bool | None = None) -> Programs:
    """A group's programs as plain functions, to be compiled for any device.

    Args:
      examples: number of training examples.
      shared: whether the lanes share one key.
      limits_each: whether each lane has its own num_examples; None for trial.limits_examples.
    """
    # These functions are cached, so they must not close over the user's arrays and functions: not over the whole trial.
    bare = trial._replace(constants=Constants((), (), ()), structure=None)
    batch_size, limits_each = trial.batch_size, trial.limits_examples if limits_each is None else limits_each
    axes = Lanes(0, 0, None, 0 if limits_each else None, None, None)  # type: ignore[arg-type]

    def training(constants: Constants, lane: Lanes) -> Training:
        return training_of(bare, constants, Arguments(lane.numbers, lane.names))

    def init(constants: Constants, lane: Lanes, key: jax.Array) -> State:
        state: State = training(constants, lane).init(key)
        return state

    def one_step(constants: Constants, lane: Lanes, state: State, data: Split, draws: Draws) -> tuple[State, jax.Array]:
        return take_step(training(constants, lane), state, data, draws, lane.num_examples)

    def draws_of(keys: RunKeys, num_examples: jax.Array | None, steps: jax.Array) -> Draws:
        seen = examples if num_examples is None else num_examples
        return jax.vmap(lambda step: draw(keys, step, batch_size, seen))(steps)

    def evaluate(constants: Constants, lane: Lanes, state: State, data: Split) -> Metrics:
        return metrics_of(training(constants, lane), state, data, lane.num_examples)

    # Lanes that share their key and their examples share their draws, which then have no axis of lanes.
    separate = not shared or (limits_each and batch_size is not None)
    own = Draws(None if batch_size is None else 1, None if shared else 1)  # type: ignore[arg-type]
    each = (None if shared else 0, 0 if limits_each else None, None)
    draw_all = jax.vmap(draws_of, each, own) if separate else draws_of
    step_all = jax.vmap(one_step, (None, axes, 0, None, jax.tree.map(lambda axis: axis - 1, own) if separate else None))

    init_all = jax.vmap(init, (None, axes, None if shared else 0))

    def begin(constants: Constants, lanes: Lanes, key: jax.Array) -> State:
        state: State = init_all(constants, lanes, keys_of(key, lanes.replicate, lanes.variant).init)
        return state

    def stretch(key: jax.Array, replicate: jax.Array, variant: jax.Array | None, num_examples: jax.Array | None, first: jax.Array) -> Draws:
        return draw_all(keys_of(key, replicate, variant), num_examples, first + jnp.arange(STRETCH, dtype=jnp.int32))

    return Programs(
        begin,
        stretch,
        functools.partial(_advance, step_all),
        jax.vmap(evaluate, (None, axes, 0, None)),
        jax.vmap(finite_leaves),
    )


def _advance(
    step_all: Callable[..., tuple[State, jax.Array]],
    constants: Constants,
    lanes: Lanes,
    state: State,
    data: Split,
    draws: Draws,
    begin: jax.Array,
    end: jax.Array,
) -> tuple[State, jax.Array]:
    """Takes steps begin .. end - 1, all within one stretch, in all lanes; also returns which lanes had only finite losses."""

    def one_step(step: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
        state, fine = carry
        state, finite = step_all(constants, lanes, state, data, jax.tree.map(lambda drawn: drawn[step % STRETCH], draws))
        return state, fine & finite

    after: tuple[State, jax.Array] = jax.lax.fori_loop(begin, end, one_step, (state, jnp.ones(lanes.lane.shape, bool)))
    return after


def _finite_on_host(state: State) -> np.ndarray:
    """`finite_leaves` of each lane in NumPy, which reads a CPU device's memory directly: nothing to compile."""

    found = np.ones((len(state[0]) if state else 0, len(state)), bool)
    with np.errstate(all="ignore"):
        for i, leaf in enumerate(state):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                host = np.asarray(leaf)
                if not np.isfinite(np.add.reduce(host, axis=None)):  # a finite sum has finite terms only: mostly one check is enough
                    found[:, i] = np.isfinite(host).reshape(len(host), -1).all(1)
    return found


def _compile(trial: Trial, kind: Kind) -> list[Compiling]:
    """Traces each program in turn while those already traced compile: futures of init, draw, advance, evaluate and maybe finite."""
    device = kind.device

    def shapes(tree: Any) -> Any:
        place = jax.sharding.SingleDeviceSharding(device)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)

    def start(function: Callable[..., Any], computes: Any, options: Options, *arguments: Any) -> Compiling:
        # keep_unused: programs with equal text and signature are then the same program, except for Python callbacks, which the
        # text only numbers; hence `computes` in the key.
        began = time.perf_counter()
        lowered = jax.jit(function, keep_unused=True).lower(*arguments)
        key = computes, *_text_key(lowered, device, options)
        return _compilers().submit(_executable, lowered, key, device.platform, options, time.perf_counter() - began)

    limits = kind.lanes.num_examples
    functions = lane_functions(trial, examples_of(kind.data.train.y), kind.shared, limits_each=limits is not None and limits.ndim == 1)
    of_init, of_step, *of_evaluate = trial.key
    constants, lanes, key, data = shapes(trial.constants), shapes(kind.lanes), shapes(kind.key), shapes(kind.data)
    step = shapes(jax.ShapeDtypeStruct((), jnp.int32))
    drawn_by = key, lanes.replicate, lanes.variant, lanes.num_examples, step
    state = shapes(jax.eval_shape(functions.init, constants, lanes, key))
    draws = shapes(jax.eval_shape(functions.draw, *drawn_by))
    init_options, draw_options, evaluate_options = _quick(device, state, draws)
    # The one that compiles longest is started first.
    advance = start(functions.advance, of_step, (), constants, lanes, state, data, draws, step, step)
    evaluate = start(functions.evaluate, tuple(of_evaluate), evaluate_options, constants, lanes, state, data)
    draw = start(functions.draw, None, draw_options, *drawn_by)
    init = start(functions.init, of_init, init_options, constants, lanes, key)
    if device.platform == "cpu":
        return [init, draw, advance, evaluate]
    return [init, draw, advance, evaluate, start(functions.finite, None, (), state)]


@functools.cache
def _compilers() -> ThreadPoolExecutor:
    """Threads to compile on, one per core: XLA compiles a program on one thread."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="funcnet-compile")


def _quick(device: jax.Device, state: State, draws: Draws) -> tuple[Options, Options, Options]:
    """The compiler's options for `init`, `draw` and `evaluate`; on a CPU, optimizing these fully takes longer than they run.

    `evaluate` and small draws, which run now and then, are optimized less; `init`, which runs once, not at all unless it is large.
    """
    if device.platform != "cpu":
        return (), (), ()
    state_size, draws_size = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (state, draws))
    plain = ("xla_cpu_use_fusion_emitters", False), ("xla_cpu_parallel_codegen_split_count", 1)
    level = "xla_backend_optimization_level"
    init = *plain, (level, 0 if state_size < _LARGE_STATE else 1)
    return init, (*plain, (level, 1)) if draws_size < _LARGE_DRAWS else (), ((level, 1),)


_LARGE_STATE = 2**22  # numbers, which take about ten milliseconds
_LARGE_DRAWS = 2**15  # numbers, which take about a millisecond: if lanes share draws, those of a stretch with batch_size 512


def _executable(lowered: Any, key: tuple[Any, ...], platform: str, options: Options, lowering: float) -> tuple[Executable, bool, float]:
    def make() -> Executable:
        began = time.perf_counter()
        program = _compile_with_hints(lowered, platform, options)
        return Executable(program, inner.memory_needed(program), lowering + time.perf_counter() - began)

    executable, made = _executables.get(key, make)
    return executable, made, time.perf_counter()


_unknown: set[tuple[str, str]] = set()  # (platform, option) pairs that a backend has rejected as unknown


def _compile_with_hints(lowered: Any, platform: str, options: Options) -> Any:
    """Compiles the program with those of the options that the backend knows; options come and go with XLA versions."""
    hints = {name: value for name, value in options if (platform, name) not in _unknown}
    while True:
        try:
            return lowered.compile(hints)
        except Exception as error:
            # XLA names the first option it doesn't know; any other error is not about the options.
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
