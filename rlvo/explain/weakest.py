"""Which predictors a smaller model goes without: the least predictive of a ranking (section 3.2, Model B)."""

from collections.abc import Collection, Sequence

from rlvo.cohort.variables import CTP, PERFUSION
from rlvo.errors import RlvoError
from rlvo.explain.ranking import VariableImportance

RANKING = "the ranking on validation patients (mean of the ranks by contribution, permutation and Shapley values)"
RULE = (
    f"out of the lower half of {RANKING} go the variables whose loss of AUC by permutation is not above its SD over "
    f"folds and shuffles; {PERFUSION} counts as one variable, because its values are measured, and missing, together"
)
LAST = f"the last {{}} of {RANKING} go"
NAMED = "the variables that were named go"
WHERE = "ablation.drop"


def weakest(importance: VariableImportance, drop: int | None = None) -> tuple[tuple[str, ...], str]:
    """The predictors to go without, in the ranking's order, and the rule they were chosen by.

    Args:
        importance: on validation patients.
        drop: how many, from the end of the ranking; None: by `RULE`.

    Raises:
        RlvoError: by `RULE` none is weak, or none would be left.
    """
    ranked = [str(name) for name in importance.table.index]
    if drop is not None:
        chosen, rule = ranked[-drop:], LAST.format(drop)
    elif not (chosen := _not_above_chance(importance)):
        what = "by permutation, every variable in the lower half of the ranking is needed"
        raise RlvoError(what, where=WHERE, fix="Name some (--drop hir,ivt), or say how many of the last go (--drop 6)")
    else:
        rule = RULE
    return check_droppable(chosen, ranked), rule


def check_droppable(names: Collection[str], predictors: Sequence[str]) -> tuple[str, ...]:
    """The names in the order of the predictors. Raises RlvoError if one is none of them, or if none goes or is left."""
    if unknown := [name for name in names if name not in predictors]:
        what = f"no predictors of this study: {', '.join(unknown)}"
        raise RlvoError(what, where=WHERE, fix=f"They are {', '.join(predictors)}")
    dropped = tuple(name for name in predictors if name in names)
    if not 0 < len(dropped) < len(predictors):
        what = f"{len(dropped)} of {len(predictors)} predictors would go"
        raise RlvoError(what, where=WHERE, fix="Drop at least one, and leave at least one")
    return dropped


def _not_above_chance(importance: VariableImportance) -> list[str]:
    """By `RULE`, the last of the ranking first."""
    table = importance.table
    perfusion = [name for name in table.index if name in CTP]
    variables = {name: [name] for name in table.index if name not in perfusion}
    losses = {name: (table.loc[name, "auc_drop"], table.loc[name, "auc_drop_sd"]) for name in variables}
    if perfusion:
        variables[PERFUSION], losses[PERFUSION] = perfusion, importance.perfusion
    rank = {name: float(table.loc[members, "mean_rank"].mean()) for name, members in variables.items()}
    lower_half = sorted(variables, key=lambda name: rank[name])[::-1][: len(variables) // 2]
    weak = [name for name in lower_half if not losses[name][0] > losses[name][1]]
    return [member for name in weak for member in variables[name]]
