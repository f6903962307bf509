"""Results remembered by what they depend on, so that a second sweep makes nothing anew."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp


class Recent:
    """The last so many results by key, for threads; each is made once even if several ask for it at a time."""

    def __init__(self, size: int):
        self._size, self._lock, self._futures = size, threading.Lock(), OrderedDict[Any, Future[Any]]()

    def get(self, key: Any, make: Callable[[], Any]) -> tuple[Any, bool]:
        """The result, and whether it was made for this call, as it always is for a key without a hash."""
        try:
            hash(key)
        except TypeError:
            return make(), True
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
                self.forget(key)
                future.set_exception(error)
        return future.result(), mine

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._futures.clear()

    def forget(self, key: Any) -> None:
        try:
            with self._lock:
                self._futures.pop(key, None)
        except TypeError:  # a key without a hash was never remembered
            return


def signature(tree: Any) -> Any:
    """What of a pytree of arrays decides how a program on it is traced: structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((jnp.shape(leaf), str(leaf.dtype)) for leaf in leaves)
