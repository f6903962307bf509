"""The plan of a sweep: its variants, the rows of its table, and which rows share a program.

Nothing here is traced, compiled or trained.
"""

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from funcnet import check
from funcnet.spaces import MISSING, Variants
from funcnet.sweeps.assignment import RESERVED, Variant, assign, brief, program_of
from funcnet.sweeps.mixed import Mixed, Sizes
from funcnet.train import Training, evaluation_steps

# Columns of the result's tables that are not hyperparameters.
_COLUMNS = ("variant", "replicate", "fold", "status", "steps", "best_step", "pruned_by", "completed", "pruned", "diverged", "unfinished")
Recipe = Callable[..., Training]


class Row(NamedTuple):
    """One run: a variant in a replicate, on a fold of the data."""

    variant: int
    replicate: int
    fold: int


class Group(NamedTuple):
    """Rows that share a program."""

    static: dict[str, Any]
    batch_size: int | None
    limits_examples: bool  # whether its rows use only their first num_examples examples
    rows: list[int]
    names: dict[str, tuple[str, ...]] = {}  # noqa: RUF012  # for each hyperparameter that is a name, every value in the group
    sizes: Sizes | None = None  # if some of its numbers decide shapes


class Plan(NamedTuple):
    """What a sweep trains."""

    recipe: Recipe
    variants: list[Variant]
    rows: list[Row]
    groups: list[Group]
    eval_every: int | None
    replicates: int
    group_of: list[int]  # by row
    examples: tuple[int, ...]  # by fold: the number of training examples
    has_folds: bool  # False for a single split, which counts as fold 0
    looks: tuple[int, ...] = ()  # steps at which every run is evaluated, in addition to its own evaluations

    def recipe_of(self, group: Group) -> Recipe:
        """The recipe that a group's program is made from: wrapped in `Mixed` if its sizes share the program."""
        return self.recipe if group.sizes is None else Mixed(self.recipe, group.sizes)

    def of_row(self, row: int) -> Variant:
        """The variant of a row."""
        return self.variants[self.rows[row].variant]

    @property
    def runs(self) -> int:
        """Rows of each variant: replicates * folds; they are consecutive."""
        return self.replicates * len(self.examples)

    def columns(self) -> dict[str, np.ndarray]:
        """The table's columns "variant", "replicate" and, if there are folds, "fold": (rows,) each, int."""
        columns = dict(zip(Row._fields, np.array(self.rows).T, strict=True))
        return columns if self.has_folds else {name: columns[name] for name in ("variant", "replicate")}

    def seen(self, row: int) -> int:
        """The number of examples a row trains on."""
        own = self.of_row(row).num_examples
        return self.examples[self.rows[row].fold] if own is None else own

    def evaluations(self, num_steps: int) -> list[int]:
        """The steps after which a run of num_steps steps is evaluated, ascending."""
        return sorted({*evaluation_steps(num_steps, self.eval_every or num_steps), *(step for step in self.looks if step < num_steps)})


def make_plan(
    recipe: Recipe,
    variants: Variants,
    examples: Sequence[int],
    *,
    has_folds: bool,
    num_steps: int | None,
    num_epochs: int | None,
    batch_size: int | None,
    eval_every: int | None,
    replicates: int,
) -> Plan:
    """Assigns each variant's values, and groups the variants by program.

    Args:
      examples: by fold, the number of training examples; the smallest limits batch_size and num_examples, and decides an epoch's length.
      has_folds: whether the data was given in folds.

    Raises:
      ValueError, TypeError: the recipe lacks a hyperparameter, or a value is invalid; the message names the variant.
    """
    if not variants:
        raise ValueError(check.message("sweep", "needs at least one variant", "none", "such as grid(learning_rate=[0.1, 0.01])"))
    if eval_every is not None:
        check.whole("sweep", "eval_every", eval_every, 1)
    check.whole("sweep", "replicates", replicates, 1)
    declared, wants = _check_signature(recipe, variants)
    assigned = []
    for i, setting in enumerate(variants):
        where = f"sweep: variant {i} {brief(setting)}"
        assigned.append(assign(where, setting, declared, wants, num_steps, num_epochs, batch_size, min(examples)))
    rows = list(itertools.starmap(Row, itertools.product(range(len(assigned)), range(replicates), range(len(examples)))))
    return _grouped(Plan(recipe, assigned, rows, [], eval_every, replicates, [], tuple(examples), has_folds))


def with_static(plan: Plan, group: Group, names: Sequence[str]) -> Plan:
    """The plan, regrouped, with these numbers of a group's variants static: each value picks a program."""
    variants = list(plan.variants)
    for i in {plan.rows[row].variant for row in group.rows}:
        own = variants[i]
        picks = {name: own.numbers[name] for name in names}
        variants[i] = own._replace(
            static=own.static | picks, numbers={name: own.numbers[name] for name in own.numbers if name not in picks}
        )
    return _grouped(plan._replace(variants=variants))


def _grouped(plan: Plan) -> Plan:
    """The plan with its rows grouped by program."""
    unequal = len(set(plan.examples)) > 1
    groups: dict[Any, Group] = {}
    for i, row in enumerate(plan.rows):
        variant = plan.variants[row.variant]
        new = Group(variant.static, variant.batch_size, unequal or variant.num_examples is not None, [], {})
        groups.setdefault(program_of(variant), new).rows.append(i)
    for group in groups.values():
        own = [plan.of_row(row).names for row in group.rows]
        group.names.update({name: tuple(sorted({names[name] for names in own})) for name in own[0]})
    group_of = [0] * len(plan.rows)
    for i, group in enumerate(groups.values()):
        for place in group.rows:
            group_of[place] = i
    return plan._replace(groups=list(groups.values()), group_of=group_of)


def _check_signature(recipe: Recipe, variants: Variants) -> tuple[set[str], set[str]]:
    """Which hyperparameters the recipe takes, and which of the sweep's `RESERVED` names; one that it doesn't take is an error."""
    if not callable(recipe):
        raise TypeError(check.message("sweep", "recipe must be a function of hyperparameters", repr(recipe)))
    parameters = inspect.signature(recipe).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    setting = variants[0]
    for name in setting:
        if name in _COLUMNS:
            rule = "a hyperparameter must have a name that the result's table doesn't use itself"
            raise ValueError(check.message("sweep", rule, repr(name), "give it another"))
        if name not in names and name not in RESERVED and not takes_any:
            raise ValueError(f"sweep: recipe has no hyperparameter {name!r}; {check.nearest(name, [*names, *RESERVED])}")
    for p in parameters:
        if p.name in names and p.default is p.empty and p.name not in setting and p.name not in RESERVED:
            raise ValueError(f"sweep: recipe needs the hyperparameter {p.name!r}, which no variant sets; give it a default or a value")
        lacking = next((i for i, each in enumerate(variants) if each.get(p.name) is MISSING), None)
        if lacking is not None and p.name in names and p.default is p.empty and p.name not in RESERVED:
            without = f"variant {lacking} {brief(variants[lacking])} does not have"
            raise ValueError(f"sweep: recipe needs the hyperparameter {p.name!r}, which {without}; give it a default")
    return {name for name in setting if name in names or (takes_any and name not in RESERVED)}, {*names} & {*RESERVED}
