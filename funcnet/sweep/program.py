"""A group's programs: the pieces of a training run, mapped over lanes and compiled ahead of time.

There are three: `init`, `advance` from any step to any other, and `evaluate`. Step numbers, hyperparameters and data are
arguments, so that no number is compiled in: one compilation serves a group's every chunk and every stretch of steps, and
another sweep of the same recipe and shapes.
"""

import functools
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet.data import Split
from funcnet.option import Option
from funcnet.sweep.plan import Group, Recipe, typed
from funcnet.training import Draws, Run, RunKeys, as_training, draw, measure, settle, start, take_step
from funcnet.tree import PyTree, all_finite

STRETCH = 64  # steps whose minibatches and keys are drawn together, in a few large operations, and after which lanes are looked at


class Lanes(NamedTuple):
    """What tells the lanes of a chunk apart."""

    lane: jax.Array  # (lanes,), int32: 0, 1, ...
    hyperparameters: dict[str, jax.Array]  # each (lanes,)
    options: dict[str, jax.Array]  # each of shape (), int32: which of the group's options all lanes have
    num_examples: jax.Array | None  # (lanes,), int32
    keys: RunKeys  # shape () where the lanes share them, else (lanes,)


class Programs(NamedTuple):
    """The three programs of a group. `Run`s have a leading axis of lanes."""

    init: Callable[[Lanes], Run]
    advance: Callable[..., Run]  # (lanes, run, data, first, last) -> run; run's memory is used again
    evaluate: Callable[..., dict[str, jax.Array]]  # (lanes, run, data) -> metrics, each (lanes,)


class Compiled(NamedTuple):
    """Programs, and what they cost."""

    programs: Programs
    seconds: float  # of tracing and compiling
    new: int  # how many had not been compiled before


class Request(NamedTuple):
    """What a group's programs depend on; two requests that are equal share them."""

    recipe: Recipe
    static: tuple
    options: tuple
    batch_size: int | None
    limits_examples: bool
    lanes: Any  # structure, shapes and dtypes
    data: Any  # likewise
    shared: bool
    device: jax.Device
    settings: tuple


def request(recipe: Recipe, group: Group, lanes: Lanes, data: Split, shared: bool, device: jax.Device) -> Request:
    static = tuple((name, typed(value)) for name, value in sorted(group.static.items()))
    options = tuple(sorted(group.options.items()))
    return Request(
        recipe, static, options, group.batch_size, group.limits_examples, _signature(lanes), _signature(data), shared, device, _settings()
    )


def _settings() -> tuple[str, ...]:
    """What of JAX's configuration decides how a program is traced."""
    names = ("jax_enable_x64", "jax_numpy_dtype_promotion", "jax_numpy_rank_promotion", "jax_default_matmul_precision")
    return tuple(str(getattr(jax.config, name)) for name in names)


def _signature(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((jnp.shape(leaf), str(leaf.dtype)) for leaf in leaves)


class _Recent:
    """The last so many results by key, for threads; each is made once even if several ask for it at a time."""

    def __init__(self, size: int):
        self._size, self._lock, self._futures = size, threading.Lock(), OrderedDict[Any, Future]()

    def get(self, key: Any, make: Callable[[], Any]) -> tuple[Any, bool]:
        """The result, and whether it was made for this call."""
        with self._lock:
            future, mine = self._futures.get(key), False
            if future is None:
                future, mine = self._futures.setdefault(key, Future()), True
            self._futures.move_to_end(key)
            while len(self._futures) > self._size:
                self._futures.popitem(last=False)
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    self._futures.pop(key, None)
                future.set_exception(error)
        return future.result(), mine


_programs = _Recent(256)  # by request: a second sweep traces nothing
_executables = _Recent(512)  # by the program's own text: groups that differ elsewhere share what is the same


def trace(recipe: Recipe, group: Group, lanes: Lanes, data: Split, shared: bool, device: jax.Device) -> Callable[[], Compiled]:
    """Traces a group's programs now, in the caller's thread and configuration; returns what compiles them, in any thread.

    Args:
      lanes: an example of what the programs will be given, with as many lanes.
      data: likewise.
      shared: whether the lanes share one key.
      device: where the programs run.
    """
    key = request(recipe, group, lanes, data, shared, device)
    began = time.perf_counter()
    try:
        lowered, new = _programs.get(key, lambda: _lower(recipe, group, lanes, data, shared, device))
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        lowered, new = _lower(recipe, group, lanes, data, shared, device), True
    tracing = time.perf_counter() - began

    @functools.cache  # every task asks for its programs
    def compiled() -> Compiled:
        began = time.perf_counter()
        with ThreadPoolExecutor(len(lowered)) as pool:  # XLA compiles one program on one core
            found = list(pool.map(lambda each: _executables.get(each[1], lambda: each[0].compile(dict(each[2]))), lowered))
        compiled_now = sum(made for _, made in found)
        seconds = tracing + time.perf_counter() - began if new or compiled_now else 0.0
        return Compiled(Programs(*(program for program, _ in found)), seconds, compiled_now)

    return compiled


@functools.lru_cache(256)  # the compiler takes a millisecond or two to say
def bytes_needed(programs: Programs) -> int:
    """Memory one chunk takes while it trains: the state, and what a step makes on its way."""
    pair: tuple[Any, Any] = (programs.advance, programs.evaluate)
    analyses = [program.memory_analysis() for program in pair]
    return max(a.argument_size_in_bytes + a.output_size_in_bytes - a.alias_size_in_bytes + a.temp_size_in_bytes for a in analyses if a)


def lane_functions(recipe: Recipe, group: Group, shared: bool) -> Programs:
    """A group's programs as plain functions of lanes, to be compiled for any device."""
    axes = Lanes(0, 0, None, 0 if group.limits_examples else None, None if shared else 0)  # type: ignore[arg-type]

    def training(lane: Lanes):
        options = {name: Option(name, names, lane.options[name]) for name, names in group.options.items()}
        return as_training("sweep", recipe(**group.static, **lane.hyperparameters, **options))

    def init(lane: Lanes) -> Run:
        return start(training(lane), lane.keys)

    def one_step(lane: Lanes, state: PyTree, data: Split, draws: Draws) -> tuple[PyTree, jax.Array]:
        return take_step(training(lane), state, data, draws, lane.num_examples)

    def draws_of(lane: Lanes, data: Split, steps: jax.Array) -> Draws:
        seen = len(data.train.y) if lane.num_examples is None else lane.num_examples
        return jax.vmap(lambda step: draw(lane.keys, step, group.batch_size, seen))(steps)

    def evaluate(lane: Lanes, run: Run, data: Split) -> dict[str, jax.Array]:
        return measure(training(lane), run, data, lane.num_examples)

    # Lanes that share their keys and see the same examples share their draws, which then have no axis of lanes.
    apart = not shared or (group.limits_examples and group.batch_size is not None)
    own = Draws(None if group.batch_size is None else 1, None if shared else 1)  # type: ignore[arg-type]
    draw_all = jax.vmap(draws_of, (axes, None, None), own) if apart else draws_of
    step_all = jax.vmap(one_step, (axes, 0, None, jax.tree.map(lambda axis: axis - 1, own) if apart else None))
    advance_all = functools.partial(_advance, step_all, draw_all)
    return Programs(jax.vmap(init, (axes,)), advance_all, jax.vmap(evaluate, (axes, 0, None)))


class _Stretch(NamedTuple):
    """Where a chunk is between two stretches of steps."""

    begin: jax.Array  # shape (), int32: steps taken
    careful_until: jax.Array  # shape (), int32: before this, stretches are one step long
    suspects: jax.Array  # (lanes,), bool: which lanes something has happened to in the stretch that is taken again
    run: Run


def _advance(step_all: Callable, draw_all: Callable, lanes: Lanes, run: Run, data: Split, first: jax.Array, last: jax.Array) -> Run:
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
            state, finite = step_all(lanes, state, data, jax.tree.map(lambda drawn: drawn[step - at.begin], draws))
            return state, fine & finite

        state, fine = jax.lax.fori_loop(at.begin, end, one_step, (at.run.state, jnp.ones_like(at.suspects)))
        fine &= jax.vmap(all_finite)(state)
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


def _lower(recipe: Recipe, group: Group, lanes: Lanes, data: Split, shared: bool, device: jax.Device) -> list[tuple[Any, tuple, tuple]]:
    """Each program lowered, the key under which its executable is shared, and its compiler's options."""

    def shapes(tree: Any) -> Any:
        place = jax.sharding.SingleDeviceSharding(device)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)

    functions = lane_functions(recipe, group, shared)
    lanes, data = shapes(lanes), shapes(data)
    step = shapes(jax.ShapeDtypeStruct((), jnp.int32))
    run = shapes(jax.eval_shape(functions.init, lanes))
    # No argument is left out, used or not: programs of one text and one signature are then the same program.
    lowered = [
        jax.jit(functions.init, keep_unused=True).lower(lanes),
        jax.jit(functions.advance, keep_unused=True, donate_argnums=1).lower(lanes, run, data, step, step),
        jax.jit(functions.evaluate, keep_unused=True).lower(lanes, run, data),
    ]
    # Initialization runs once, evaluation now and then: on a CPU most of their compilation is spent on making them fast.
    quick = (("xla_backend_optimization_level", 1),) if device.platform == "cpu" else ()
    return [(low, _text_key(low, device, options), options) for low, options in zip(lowered, (quick, (), quick), strict=True)]


def _text_key(lowered: Any, device: jax.Device, options: tuple) -> tuple:
    text = hashlib.sha256(lowered.as_text().encode()).digest()
    beside_text = object() if getattr(jax.config, "jax_use_simplified_jaxpr_constants", False) else None  # constants outside it
    return text, str(lowered.args_info), str(lowered.out_tree), device, options, beside_text
