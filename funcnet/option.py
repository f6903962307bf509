"""Names as batched arguments: a traced number selects one of several functions.

So a sweep over ten activations and five optimizers is one program. Lanes that train together have the same name, so that XLA
runs only the selected branch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp


class Option:
    """Stands for a name marked `traced` in a recipe, which may only pass it on to a function that takes such a name."""

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

    def elementwise(self, fns: Sequence[Callable[[jax.Array], jax.Array]]) -> Callable[[jax.Array], jax.Array]:
        """Returns the selected one of these functions, each of which acts on every element of an array separately.

        Backpropagation only needs the slope, one array, whichever function is selected.
        """

        def slope(fn: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
            return lambda x: jax.jvp(fn, (x,), (jnp.ones_like(x),))[1]

        # A branch that is never selected: with it a single function stays a branch too, and gives the same bits as among several.
        fns = [*fns, jnp.zeros_like]
        slopes = [slope(fn) for fn in fns]

        @jax.custom_jvp
        def chosen(index: jax.Array, x: jax.Array) -> jax.Array:
            y: jax.Array = jax.lax.switch(index, fns, x)
            return y

        @chosen.defjvp
        def chosen_jvp(primals: tuple[jax.Array, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
            index, x = primals
            return chosen(index, x), jax.lax.switch(index, slopes, x) * tangents[1]

        return lambda x: chosen(self.index, x)
