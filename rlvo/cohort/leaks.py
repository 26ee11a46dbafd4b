"""Suspected leaks: a predictor that alone separates rLVO from the others may be an outcome."""

from collections.abc import Iterator, Sequence

import pandas as pd

from rlvo.cohort.variables import Variable, known_variables, source_columns
from rlvo.config.predictors import OwnPredictor
from rlvo.digits import tell_apart
from rlvo.errors import Finding

SUSPICIOUS_AUC = 0.95
MIN_PATIENTS = 10
"""Patients with a value that each class must have: with fewer, a high AUC is easily due to chance."""


def suspected_leaks(
    table: pd.DataFrame, label: pd.Series, predictors: Sequence[str], own: Sequence[OwnPredictor] = ()
) -> list[Finding]:
    """Find predictors whose values, or whose missing values, separate the classes with AUC > 0.95 or < 0.05.

    Categorical and ordinal variables are judged level by level, the latter also by their order, derived ones by their
    columns. `label` is 0 or 1, on the table's index; `own` declares predictors that rlvo does not know. Pass checked
    rows of development patients only, so that nothing is learned about the hold-out.
    """
    findings, variables = [], known_variables(own)
    for name in (name for name in source_columns(predictors) if name in table):
        candidates = [(_auc(score, label), what) for score, what in _scores(table[name], variables[name])]
        area, what = max(candidates, key=lambda candidate: abs(candidate[0] - 0.5), default=(0.5, ""))
        if abs(area - 0.5) > SUSPICIOUS_AUC - 0.5:
            limits = 1 - SUSPICIOUS_AUC, SUSPICIOUS_AUC
            shown, *_ = tell_apart(lambda value, more: f"{value:.{2 + more}f}", area, *limits)
            told = f"{what} alone separates rLVO from the others (AUC {shown}): suspected leak"
            fix = "Make sure it is recorded before the procedure, or remove it from the predictors"
            allowed = " to ".join(f"{limit:.2f}" for limit in limits)
            value, *_ = tell_apart(lambda value, more: f"{value:.{3 + more}f}", area, *limits)
            findings.append(Finding(None, name, told, fix, value, allowed))
    return findings


def _scores(values: pd.Series, variable: Variable) -> Iterator[tuple[pd.Series, str]]:
    """Yield what may separate the classes, with its name: the values or each of their levels, and which are missing."""
    present = values.dropna()
    levels = variable.levels
    if variable.kind == "ordinal":
        yield present.map(levels.index).astype("float64"), "its value"
    if levels:
        yield from (((present == level).astype("float64"), f"'{level}'") for level in levels)
    else:
        yield present, "its value"
    yield values.isna().astype("float64"), "whether it is missing"


def _auc(score: pd.Series, label: pd.Series) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney); 0.5 if a class has too few patients to tell."""
    from scipy.stats import mannwhitneyu

    with_value = label.reindex(score.index).to_numpy()
    positive, negative = score.to_numpy()[with_value == 1], score.to_numpy()[with_value == 0]
    if min(len(positive), len(negative)) < MIN_PATIENTS:
        return 0.5
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))
