"""Results remembered by what they depend on, so that a second sweep makes nothing anew."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp


class _Key:
    """A key whose hash is found once: what a program computes is a long one."""

    def __init__(self, value: Any):
        self._value, self._hash = value, hash(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._hash == other._hash and bool(self._value == other._value)


class Recent:
    """The last so many results by key, for threads; each is made once even if several ask for it at a time."""

    def __init__(self, size: int):
        self._size, self._lock, self._futures = size, threading.Lock(), OrderedDict[_Key, tuple[_Key, Future[Any]]]()

    def get(self, key: Any, make: Callable[[], Any]) -> tuple[Any, bool]:
        """The result, and whether it was made for this call, as it always is for a key without a hash."""
        try:
            key = _Key(key)
        except TypeError:
            return make(), True
        with self._lock:
            found = self._futures.get(key)
            mine = found is None
            if found is None:
                found = self._futures[key] = key, Future()
            key, future = found  # the key that is there, which is found again at a glance
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
        """Whether a result is there now, or being made."""
        with self._lock:
            return _Key(key) in self._futures

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._futures.clear()

    def forget(self, key: Any) -> None:
        with contextlib.suppress(TypeError):  # a key without a hash was never remembered
            self._forget(_Key(key))

    def _forget(self, key: _Key) -> None:
        with self._lock:
            self._futures.pop(key, None)


def signature(tree: Any) -> Any:
    """What of a pytree of arrays decides how a program on it is traced: structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((jnp.shape(leaf), str(leaf.dtype)) for leaf in leaves)
