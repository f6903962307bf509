"""A thread-safe LRU cache, with which a second sweep reuses the programs of the first."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp


class _Key:
    """A key that computes its hash only once: hashing what a program computes takes long."""

    def __init__(self, value: Any):
        self._value, self._hash = value, hash(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._hash == other._hash and bool(self._value == other._value)


class Recent:
    """Thread-safe LRU cache of size results; concurrent callers of one key compute it once."""

    def __init__(self, size: int):
        self._size, self._lock, self._futures = size, threading.Lock(), OrderedDict[_Key, tuple[_Key, Future[Any]]]()

    def get(self, key: Any, make: Callable[[], Any]) -> tuple[Any, bool]:
        """The result of make() for a key, and whether this call computed it. Results for unhashable keys are not cached."""
        try:
            key = _Key(key)
        except TypeError:
            return make(), True
        with self._lock:
            found = self._futures.get(key)
            mine = found is None
            if found is None:
                found = self._futures[key] = key, Future()
            key, future = found  # the stored key object: comparing it again is fast, since it is identical
            self._futures.move_to_end(key)
            while len(self._futures) > self._size:
                self._futures.popitem(last=False)
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                self._forget(key)
                future.set_exception(error)
        return future.result(), mine

    def __contains__(self, key: Any) -> bool:
        """Whether a result is cached, or being computed."""
        with self._lock:
            return _Key(key) in self._futures

    def clear(self) -> None:
        """Empties the cache."""
        with self._lock:
            self._futures.clear()

    def forget(self, key: Any) -> None:
        with contextlib.suppress(TypeError):  # an unhashable key was never cached
            self._forget(_Key(key))

    def _forget(self, key: _Key) -> None:
        with self._lock:
            self._futures.pop(key, None)


def signature(tree: Any) -> Any:
    """Structure, shapes and dtypes of a pytree of arrays: what the trace of a function of it depends on."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((jnp.shape(leaf), str(leaf.dtype)) for leaf in leaves)
