"""Sequences of different lengths in layers that act on each step separately, as most do."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from funcnet import check
from funcnet.batching import examples_last
from funcnet.padded import Padded, checked, filled, zeroed
from funcnet.tree import Params

ApplyBatch = Callable[..., jax.Array]  # (params, x, *, key=None) -> y, with the examples last


def each_step(where: str, axes: int = 0) -> Callable[[ApplyBatch], ApplyBatch]:
    """Like `examples_last`, for a layer that acts on each step of a sequence (time, *rest) separately; it then takes a `Padded` too.

    Args:
      axes: how many of a step's last axes the layer uses together: 1 for a product with the features, 0 if it acts on each number.
    """

    def decorate(batch_fn: ApplyBatch) -> ApplyBatch:
        @examples_last(argnums=(1,), padded=True)
        @functools.wraps(batch_fn)
        def apply(params: Params, x: Any, *, key: jax.Array | None = None) -> Any:
            if not isinstance(x, Padded):
                return batch_fn(params, x, key=key)
            x = checked(where, x)
            if x.values.ndim < 2 + axes:
                rule = f"each step of a Padded must have at least {axes} axes"
                raise ValueError(check.message(where, rule, f"shape {x.values.shape[:-1]}", "values[..., None] gives every step one"))
            return zeroed(batch_fn(params, filled(x), key=key), x)

        return apply

    return decorate
