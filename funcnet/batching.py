"""Functions of one example and of a batch, written once: for a batch whose examples are on the last axis.

Layers and losses take one example, and `jax.vmap` extends them to a batch. But vmap transposes arrays, which costs a small net
more than half of its speed on a CPU. So funcnet's own layers and losses are written for a batch with the examples last, where
a layer is one matrix product `weight @ x`. Their one-example form is the same function on a batch of one. A function that is
written for one example is vmapped, so that both kinds can be combined.
"""

from __future__ import annotations  # these decorators run for every layer that a recipe makes: no time goes to evaluating annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.padded import Padded
from funcnet.tree import is_several

P = ParamSpec("P")


def examples_last(*, argnums: tuple[int, ...], padded: bool = False) -> Callable[[Callable[P, jax.Array]], Callable[P, jax.Array]]:
    """Turns a function written for a batch into a function of one example, which keeps the batch form for `on_batch`.

    Args:
      argnums: positions, from 0, of the arguments that have the examples on their last axis, as the result does. Callers may
        pass them by position or by name.
      padded: whether these arguments may be a `Padded`; otherwise one is refused.

    Returns:
      A decorator. The decorated function takes one example, without that axis.

    Example:
      >>> @examples_last(argnums=(1,))
      ... def matvec(weight, x):
      ...     return weight @ x
      >>> print(matvec(jnp.eye(2), jnp.array([1.0, 2.0])))
      [1. 2.]
      >>> print(on_batch(matvec, argnums=(1,))(jnp.eye(2), jnp.ones((2, 5))).shape)
      (2, 5)
    """

    def decorate(batch_fn: Callable[P, jax.Array]) -> Callable[P, jax.Array]:
        form: Callable[..., jax.Array] = batch_fn if padded else _of_arrays(batch_fn, argnums)

        @functools.wraps(batch_fn)
        def one(*given: P.args, **named: P.kwargs) -> jax.Array:
            args, kwargs = list[Any](given), dict[str, Any](named)
            if len(args) <= max(argnums):  # the others were given by name
                for name in list(inspect.signature(batch_fn).parameters)[len(args) : max(argnums) + 1]:
                    if name not in kwargs:
                        break  # Python says that it is missing
                    args.append(kwargs.pop(name))
            batch = [_batch_of_one(arg) if i in argnums else arg for i, arg in enumerate(args)]
            result: jax.Array = jax.tree.map(lambda leaf: leaf[..., 0], form(*batch, **kwargs))
            return result

        one.on_batch = one.__wrapped__ = form  # type: ignore[attr-defined]
        return one

    return decorate


def refused(where: str) -> TypeError:
    """The error of a layer that takes no sequences of different lengths."""
    fix = "a layer for each step is dense(width, leading_axes=1); recurrent(...) or global_avg_pool() makes one vector of a sequence"
    return TypeError(check.message(where, "x must be an array", "a Padded, sequences of different lengths", fix))


def _of_arrays(batch_fn: Callable[..., jax.Array], argnums: tuple[int, ...]) -> Callable[..., jax.Array]:
    def form(*args: Any, **kwargs: Any) -> jax.Array:
        if any(isinstance(args[i], Padded) for i in argnums if i < len(args)):
            raise refused(batch_fn.__qualname__.partition(".")[0].strip("_"))
        return batch_fn(*args, **kwargs)

    form.__wrapped__ = batch_fn  # type: ignore[attr-defined]
    return form


def _batch_of_one(x: Any) -> Any:
    if isinstance(x, Padded) and not check.is_traced(x.length):  # stays concrete under jit, to be checked
        return Padded(_batch_of_one(x.values), np.asarray(x.length)[..., None])
    return jax.tree.map(_batch_of_one, x) if is_several(x) else jnp.asarray(x)[..., None]


def on_batch(fn: Callable[..., jax.Array], *, argnums: tuple[int, ...]) -> Callable[..., jax.Array]:
    """Returns the form of fn that takes a batch with the examples last: the one it was written with, or else fn under vmap.

    Under vmap, a `key` is split so that each example gets a different one. A wrapper made by jax.jit or functools.wraps copies
    the attributes of the function that it wraps, so a batch form found on it is not the wrapper's and isn't used.
    """
    own: Callable[..., jax.Array] | None = getattr(fn, "on_batch", None)
    copied = getattr(fn, "__wrapped__", None) is not own
    if own is not None and not copied:
        return own

    def vmapped(*args: Any, key: jax.Array | None = None, **kwargs: Any) -> jax.Array:
        axes = tuple(-1 if i in argnums else None for i in range(len(args)))
        if key is None:
            return jax.vmap(lambda *args: fn(*args, **kwargs), axes, -1)(*args)
        keys = jax.random.split(key, jax.tree.leaves(args[argnums[0]])[0].shape[-1])
        return jax.vmap(lambda key, *args: fn(*args, key=key, **kwargs), (0, *axes), -1)(keys, *args)

    return vmapped
