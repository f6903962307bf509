"""The plan of a sweep: its variants, the rows of its table, and which of them share a program.

Nothing here is traced, compiled or trained.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from funcnet import check
from funcnet.space import MISSING, Variants
from funcnet.sweep.assignment import RESERVED, Variant, assign, brief, program_of
from funcnet.training import Training, evaluation_steps

# Names that the tables of the result have for themselves.
_COLUMNS = ("variant", "replicate", "status", "steps", "best_step", "pruned_by", "completed", "pruned", "diverged", "unfinished")
Recipe = Callable[..., Training]


class Row(NamedTuple):
    """One run: a variant in a replicate."""

    variant: int
    replicate: int


class Group(NamedTuple):
    """Rows that share a program."""

    static: dict[str, Any]
    batch_size: int | None
    limits_examples: bool  # whether its variants see only their first num_examples examples
    rows: list[int]
    names: dict[str, tuple[str, ...]] = {}  # noqa: RUF012  # of each hyperparameter that is a name, all that its variants have


class Plan(NamedTuple):
    """What is to be trained."""

    recipe: Recipe
    variants: list[Variant]
    rows: list[Row]
    groups: list[Group]
    eval_every: int | None
    replicates: int
    group_of: list[int]  # by row
    looks: tuple[int, ...] = ()  # steps at which every run is evaluated, beside its own evaluations

    def of_row(self, row: int) -> Variant:
        """The variant of a row."""
        return self.variants[self.rows[row].variant]

    def evaluations(self, num_steps: int) -> list[int]:
        """After which steps a run of so many is evaluated."""
        return sorted({*evaluation_steps(num_steps, self.eval_every or num_steps), *(step for step in self.looks if step < num_steps)})


def make_plan(
    recipe: Recipe,
    variants: Variants,
    examples: int,
    *,
    num_steps: int,
    batch_size: int | None,
    eval_every: int | None,
    replicates: int,
) -> Plan:
    """Assigns each variant's values, and groups the variants by program.

    Args:
      examples: how many there are to train on.

    Raises:
      ValueError, TypeError: the recipe lacks a hyperparameter, or a value can't be one; the message names the variant.
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
        assigned.append(assign(where, setting, declared, wants, num_steps, batch_size, examples))
    rows = [Row(variant, replicate) for variant in range(len(assigned)) for replicate in range(replicates)]
    groups: dict[Any, Group] = {}
    for i, row in enumerate(rows):
        variant = assigned[row.variant]
        new = Group(variant.static, variant.batch_size, variant.num_examples is not None, [], {})
        groups.setdefault(program_of(variant), new).rows.append(i)
    for group in groups.values():
        own = [assigned[rows[row].variant].names for row in group.rows]
        group.names.update({name: tuple(sorted({names[name] for names in own})) for name in own[0]})
    group_of = [0] * len(rows)
    for i, group in enumerate(groups.values()):
        for place in group.rows:
            group_of[place] = i
    return Plan(recipe, assigned, rows, list(groups.values()), eval_every, replicates, group_of)


def _check_signature(recipe: Recipe, variants: Variants) -> tuple[set[str], set[str]]:
    """The hyperparameters that go to the recipe, and the sweep's own names that it declares; a name that it lacks is an error."""
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
