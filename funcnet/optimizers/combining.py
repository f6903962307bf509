"""Several optimizers as one: in sequence (`chain`), or each for different leaves (`combine`)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp  # noqa: F401  (the examples use it)

from funcnet import check
from funcnet.leaves import Where, chosen, paths, takes_path
from funcnet.optimizers.freezing import only, still
from funcnet.optimizers.protocol import Functions, Optimizer, State, taken
from funcnet.tree import Params, PyTree


def chain(*optimizers: Functions, where: Where | None = None) -> Optimizer:
    """Applies optimizers in sequence: each takes the updates of the one before it as its gradients.

    The extra arguments of a step (`value`, `grad`, `value_fn`) are passed unchanged to each optimizer whose `update` names them or takes
    `**extra`, such as a line search, or a rule that lowers the learning rate when the loss stops falling.

    Args:
      *optimizers: anything with init and update, funcnet's or another library's gradient transformations.
      where: leaf or (path, leaf) -> bool, which leaves the whole chain sees; None for all of them. The others are frozen, as `combine`
        says, and count in no norm that is clipped.

    Returns:
      An `Optimizer` whose state is the tuple of the optimizers' states.

    Raises:
      TypeError: an optimizer lacks init or update.

    Example:
      >>> from funcnet import clip_by_global_norm, sgd
      >>> optimizer = chain(clip_by_global_norm(1.0), sgd(0.5))
      >>> updates, state = optimizer.update(jnp.array([30.0, 40.0]), optimizer.init(jnp.zeros(2)))
      >>> print(updates)
      [-0.3 -0.4]
    """
    _check_optimizers("chain", optimizers)

    def init(params: Params) -> tuple[State, ...]:
        return tuple(optimizer.init(params) for optimizer in optimizers)

    def update(grads: PyTree, state: tuple[State, ...], params: Params | None = None, **extra: Any) -> tuple[PyTree, tuple[State, ...]]:
        states = []
        for optimizer, own in zip(optimizers, state, strict=True):
            grads, own = optimizer.update(grads, own, params, **taken(optimizer.update, extra))
            states.append(own)
        return grads, tuple(states)

    return only("chain", where, Functions(init, update))


def combine(*optimizers: Functions) -> Optimizer:
    """Uses several optimizers at once, each for the leaves that its own `where=` picks.

    A leaf that none of them trains is frozen: its update is zero, no state is kept for it, and its gradient counts in no norm.
    A compiled step leaves out the parts of the backward pass that only frozen leaves need.

    Args:
      *optimizers: each with a `where=`, such as adam(1e-4, where=body). For several in sequence, or another library's gradient
        transformation, use `chain(..., where=)`. Each may have its own schedule or traced learning rate.

    Returns:
      An `Optimizer` whose state is the tuple of the optimizers' states. It trains all leaves that any of them trains, also inside another
      `combine`.

    Raises:
      ValueError: there is no optimizer; or, once init or update gets the parameters, two train the same leaf or one trains no leaf.
      TypeError: an optimizer lacks init or update.

    Example:
      Training a head on a frozen, pretrained body: `init` returns the pretrained parameters.

      >>> import funcnet as fn
      >>> model = fn.mlp((4, 1))
      >>> pretrained = model.init(jax.random.key(0), (2,))
      >>> tuned = fn.Layer(lambda key, in_shape: pretrained, model.apply)
      >>> body, head = (lambda path, leaf: path.startswith("0/")), (lambda path, leaf: path.startswith("3/"))
      >>> data = fn.Dataset(jnp.ones((8, 2)), jnp.ones((8, 1)))
      >>> fine_tuning = fn.training(tuned, fn.squared_error, fn.sgd(0.1, where=head), in_shape=(2,))
      >>> params = fn.fit(fine_tuning, data, key=jax.random.key(1), num_steps=5, batch_size=4).state.params
      >>> [bool(jnp.any(params[i]["weight"] != pretrained[i]["weight"])) for i in (0, 3)]
      [False, True]

      The body at a hundredth of the head's learning rate:

      >>> both = fn.combine(fn.adam(1e-4, where=body), fn.sgd(1e-2, where=head))
      >>> _, state = both.update(pretrained, both.init(pretrained), pretrained)
      >>> [jnp.shape(leaf) for leaf in jax.tree.leaves(state[0].mean)]  # of the body alone
      [(4,), (4, 2)]
    """
    _check_optimizers("combine", optimizers)
    if not optimizers:
        raise ValueError(check.message("combine", "needs at least one optimizer", "none", "such as adam(1e-4, where=...)"))
    wheres = [getattr(optimizer, "where", None) for optimizer in optimizers]

    def init(params: Params) -> tuple[State, ...]:
        _owners(wheres, params)
        return tuple(optimizer.init(params) for optimizer in optimizers)

    def update(grads: PyTree, state: tuple[State, ...], params: Params | None = None, **extra: Any) -> tuple[PyTree, tuple[State, ...]]:
        owners = _owners(wheres, grads if params is None else params)
        leaves, structure = jax.tree.flatten(grads)
        moved, states = [], []
        for optimizer, own in zip(optimizers, state, strict=True):
            updates, own = optimizer.update(grads, own, params, **taken(optimizer.update, extra))
            moved.append(jax.tree.leaves(updates))
            states.append(own)
        each = [still(leaf) if owner is None else moved[owner][i] for i, (leaf, owner) in enumerate(zip(leaves, owners, strict=True))]
        return jax.tree.unflatten(structure, each), tuple(states)

    return Optimizer(init, update, where=None if None in wheres else _any_of(wheres))


def _any_of(wheres: Sequence[Where | None]) -> Where:
    """A predicate that picks what any of these predicates picks."""

    def where(path: str, leaf: jax.Array) -> bool:
        return any(each(path, leaf) if takes_path("combine", each) else each(leaf) for each in wheres)  # type: ignore[call-arg, misc, arg-type]

    return where


def _owners(wheres: Sequence[Where | None], params: Params) -> list[int | None]:
    """The index of the optimizer that trains each leaf, None for a frozen leaf.

    Raises:
      ValueError: two optimizers train the same leaf.
    """
    flags = [chosen(f"combine: optimizer {i}", where, params) for i, where in enumerate(wheres)]
    owners: list[int | None] = []
    for path, picked in zip(paths(params), zip(*flags, strict=True), strict=True):
        by = [i for i, flag in enumerate(picked) if flag]
        if len(by) > 1:
            without = [i for i in by if wheres[i] is None]
            fix = f"optimizer {without[0]} has no where=, and trains every leaf" if without else "let their where= exclude each other"
            raise ValueError(check.message("combine", f"one optimizer must train {path!r}", f"{' and '.join(map(str, by))}", fix))
        owners.append(by[0] if by else None)
    return owners


def _check_optimizers(name: str, optimizers: Sequence[Any]) -> None:
    for i, optimizer in enumerate(optimizers):
        check.callables(f"{name}: optimizer {i}", optimizer, ("init", "update"), "an optimizer is made by a call, such as adam(1e-3)")
