"""What the training patients were like, and whether a table's patients are like them. Names no patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rlvo.cohort.reading import examine_table
from rlvo.cohort.variables import INPUTS, VARIABLES, source_columns
from rlvo.config.base import Frozen

MARKED = 0.5
"""From this standardised difference on, a medium one after Cohen (1988), a distribution is said to have shifted."""
STANDARD_ERRORS = 3.0
"""And where it is this many standard errors, so that a few patients who happen to be alike raise no alarm."""


class ContinuousSummary(Frozen):
    """Of a continuous predictor, where it was measured."""

    mean: float
    sd: float


class CohortSummary(Frozen):
    """The development patients, in figures."""

    patients: int
    prevalence: float
    """Share with rLVO."""
    continuous: dict[str, ContinuousSummary]
    shares: dict[str, dict[str, float]]
    """By binary or categorical predictor, then by level ("1" for yes): its share where it was recorded."""
    missing: dict[str, float]
    """By predictor, the share of patients without it; a derived one is missing where an input is."""


def summarise(table: pd.DataFrame, label: Sequence[int] | pd.Series, predictors: Sequence[str]) -> CohortSummary:
    """Summarise the typed table of the development patients and their labels, 0 or 1."""
    values = {predictor: predictor_values(table, predictor) for predictor in predictors}
    continuous = {
        name: ContinuousSummary(mean=float(each.mean()), sd=float(each.std()))
        for name, each in values.items()
        if _is_continuous(name) and each.count() > 1
    }
    return CohortSummary(
        patients=len(table),
        prevalence=float(np.mean(label)),
        continuous=continuous,
        shares={name: _shares(name, each) for name, each in values.items() if not _is_continuous(name)},
        missing={name: float(each.isna().mean()) for name, each in values.items()},
    )


def shift_warnings(summary: CohortSummary, table: pd.DataFrame, *, decimal_comma: bool = False) -> list[str]:
    """How a cohort table's patients differ from those of the training, a line a predictor; mostly none.

    Means are compared by their difference in SDs, shares by Cohen's h. An alarm says that answers may hold less well
    than they did; silence is no promise.

    Args:
        table: `patient_id` and predictors, as it was read.
        decimal_comma: "70,5" is a number.
    """
    known = ["patient_id", *source_columns(summary.missing)]
    typed, _ = examine_table(table[[name for name in known if name in table]], decimal_comma=decimal_comma)
    warnings = []
    for name, absent in summary.missing.items():
        values = predictor_values(typed, name)
        measured = values.dropna()
        absent_here = float(values.isna().mean())
        if absent_here > absent and _has_shifted(
            _cohens_h(absent_here, len(values), absent), len(values), summary.patients
        ):
            here = f"{absent_here:.0%} of these patients"
            warnings.append(f"{name}: missing in {here}, {absent:.0%} in training")
        trained_on = round(summary.patients * (1 - absent))
        if (known_as := summary.continuous.get(name)) is not None and known_as.sd > 0 and len(measured):
            mean = float(measured.mean())
            if _has_shifted((mean - known_as.mean) / known_as.sd, len(measured), trained_on):
                there = f"{known_as.mean:.3g} (SD {known_as.sd:.2g})"
                warnings.append(f"{name}: mean {mean:.3g} in these patients, {there} in training")
        for level, share in summary.shares.get(name, {}).items():
            own = _shares(name, measured).get(level, 0.0)
            if len(measured) and _has_shifted(_cohens_h(own, len(measured), share), len(measured), trained_on):
                label = name if level == "1" else f"{name}={level}"
                warnings.append(f"{label}: {own:.0%} of these patients, {share:.0%} in training")
    return warnings


def predictor_values(table: pd.DataFrame, predictor: str) -> pd.Series:
    """A predictor of a typed table's patients, missing where it, an input of it, or its denominator is none."""
    columns = table.reindex(columns=list(INPUTS.get(predictor, (predictor,))))
    if predictor not in INPUTS:
        return columns[predictor]
    numerator, denominator = (columns[name].astype(float) for name in INPUTS[predictor])
    return (numerator / denominator).where(denominator > 0)


def _is_continuous(predictor: str) -> bool:
    return predictor in INPUTS or VARIABLES[predictor].kind == "continuous"


def _shares(predictor: str, values: pd.Series) -> dict[str, float]:
    """Share of each level; of a variable with two, only of the one that counts."""
    recorded, levels = values.dropna(), VARIABLES[predictor].levels
    if recorded.empty:
        return {}
    if not levels:
        return {"1": float((recorded == 1).mean())}
    return {level: float((recorded == level).mean()) for level in (levels[1:] if len(levels) == 2 else levels)}


def _cohens_h(share: float, patients: int, other: float) -> float:
    """Of a share among few patients, corrected after Anscombe (1948): none of five is not yet nobody."""
    share = (share * patients + 0.375) / (patients + 0.75)
    return float(2 * np.arcsin(np.sqrt(share)) - 2 * np.arcsin(np.sqrt(other)))


def _has_shifted(difference: float, patients: int, trained_on: int) -> bool:
    """Both a standardised difference of means and Cohen's h have a variance of about 1/n + 1/N."""
    error = np.sqrt(1 / max(patients, 1) + 1 / max(trained_on, 1))
    return bool(abs(difference) > max(MARKED, STANDARD_ERRORS * error))
