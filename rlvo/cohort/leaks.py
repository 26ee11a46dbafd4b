"""Predictors that know too much: a variable that alone separates rLVO from the others may be an outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from rlvo.cohort.variables import VARIABLES, source_columns
from rlvo.errors import Finding

SUSPICIOUS_AUC = 0.95
MIN_PATIENTS = 10
"""Patients of each class with a value that an AUC is judged on: below, a high one is easily chance."""


def suspected_leaks(table: pd.DataFrame, label: pd.Series, predictors: Sequence[str]) -> list[Finding]:
    """A finding for every predictor whose values, or whose being missing, separate the classes with AUC > 0.95.

    Categorical variables are judged level by level. Give development patients only: what is learned of test patients
    is learned too early.

    Args:
        table: checked rows.
        label: 0 or 1 a patient, on the table's index.
        predictors: columns or derived variables; derived ones are judged by their columns.
    """
    findings = []
    for name in (name for name in source_columns(predictors) if name in table):
        candidates = [(_auc(score, label), what) for score, what in _scores(table[name])]
        area, what = max(candidates, key=lambda candidate: abs(candidate[0] - 0.5), default=(0.5, ""))
        if abs(area - 0.5) > SUSPICIOUS_AUC - 0.5:
            findings.append(
                Finding(
                    None,
                    name,
                    f"{what} alone separates rLVO from the others (AUC {area:.2f}): suspected leak",
                    "Make sure it is recorded before the procedure, or leave it out",
                    f"{area:.3f}",
                    f"{1 - SUSPICIOUS_AUC:.2f} to {SUSPICIOUS_AUC:.2f}",
                )
            )
    return findings


def _scores(values: pd.Series) -> Iterator[tuple[pd.Series, str]]:
    """Numbers that may separate the classes: the values or each level of them, and whether they are missing."""
    present = values.dropna()
    levels = VARIABLES[str(values.name)].levels
    if levels:
        yield from (((present == level).astype("float64"), f"'{level}'") for level in levels)
    else:
        yield present, "its value"
    yield values.isna().astype("float64"), "whether it is missing"


def _auc(score: pd.Series, label: pd.Series) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney); 0.5 where a class has too few patients to tell."""
    from scipy.stats import mannwhitneyu

    with_value = label.reindex(score.index).to_numpy()
    positive, negative = score.to_numpy()[with_value == 1], score.to_numpy()[with_value == 0]
    if min(len(positive), len(negative)) < MIN_PATIENTS:
        return 0.5
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))
