"""One example or many: a function is written once, on a batch whose examples lie on the last axis.

Layers and losses speak of one example; `jax.vmap` makes them speak of many. But vmap's rules move axes about, and on a
CPU the transposes cost more than half of a small net's speed. So funcnet's own layers and losses are written on a batch
with the examples last, where a layer is one matrix product `weight @ x`, and the one-example form is the same function
on a batch of one. A function that knows only one example is vmapped: both kinds mix freely.
"""

from __future__ import annotations  # these decorators run for every layer that a recipe makes: nothing is computed for their sake

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
    """Makes a one-example function of one written on a batch, and remembers the batch form.

    Args:
      argnums: which arguments, counted from 0, are arrays with the examples on their last axis; so is the result. They may
        be given by position or by name.
      padded: whether the function takes a `Padded` there; the others refuse it.

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
    """The form of fn that takes a batch with the examples last: its own where it has one, else vmapped.

    A vmapped fn that is given a `key` gets one of its own for each example. A wrapper, such as jax.jit's or one made with
    functools.wraps, takes over the attributes of what it wraps: the batch form there is not its own.
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
