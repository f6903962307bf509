"""A name as a traced argument: a number selects one of several functions while the program runs.

So a sweep of ten activations and five optimizers is one program. Lanes that train together have the same name, and XLA runs
its branch alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp


class Option:
    """What a recipe gets in place of a name marked `traced`: to be handed on to what takes a name, and nothing else."""

    def __init__(self, hyperparameter: str, names: Sequence[str], index: jax.Array):
        self.hyperparameter, self.names, self.index = hyperparameter, tuple(names), index

    def __repr__(self) -> str:
        return f"Option({self.hyperparameter!r}, {self.names})"

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError(
            f"sweep: a recipe may only hand on a traced name, to fn.activation, fn.mlp, fn.recurrent or fn.optimizer, "
            f"got a look at {self.hyperparameter!r}; leave out traced, and each name gets a program of its own"
        )

    __eq__ = __ne__ = __lt__ = __bool__ = __hash__ = __str__ = __format__ = __len__ = __getitem__ = __iter__ = _refuse

    def switch(self, fns: Sequence[Callable[..., Any]], *operands: Any) -> Any:
        """What the selected function gives; there is one for each name, all of them with results of the same structure."""
        return _switch(self.index, fns, *operands)

    def elementwise(self, fns: Sequence[Callable[[jax.Array], jax.Array]]) -> Callable[[jax.Array], jax.Array]:
        """The selected function of one array, each of them acting on every element alone.

        Backpropagation keeps the slope alone, one array, whichever function is selected.
        """

        def slope(fn: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
            return lambda x: jax.jvp(fn, (x,), (jnp.ones_like(x),))[1]

        @jax.custom_jvp
        def selected(index: jax.Array, x: jax.Array) -> jax.Array:
            y: jax.Array = _switch(index, fns, x)
            return y

        @selected.defjvp
        def selected_jvp(primals: tuple[jax.Array, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
            index, x = primals
            return selected(index, x), _switch(index, [slope(fn) for fn in fns], x) * tangents[1]

        return lambda x: selected(self.index, x)


def _switch(index: jax.Array, fns: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """jax.lax.switch that stays a branch where there is one function alone.

    XLA would fuse what is no branch with what surrounds it, and its last bits could differ from those of the same function among others.
    """

    def never(*operands: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(fns[0], *operands))

    return jax.lax.switch(index, fns if len(fns) > 1 else [*fns, never], *operands)
