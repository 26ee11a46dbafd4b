"""The label: refractory large-vessel occlusion (rLVO), derived from outcomes or given."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from rlvo.errors import CohortError, Finding

STENOSIS_ABOVE_PCT = 50
FAILED_ETICI = ("0", "1", "2a")
OUTCOMES = ("final_stenosis_pct", "etici", "rescue_treatment")
ISLES24_PATIENT = re.compile(r"sub-stroke(case)?\d{4}")
WITHOUT_LABEL = (
    "ISLES'24 tells neither final stenosis nor rescue treatment and holds practically no eTICI 0-2a: "
    "it cannot train rLVO"
)


def isles24_has_no_label(patients: Iterable[str]) -> tuple[Finding, ...]:
    """A finding where all patients are those of ISLES'24, whose lack of a label no filling in of cells will mend."""
    ids = list(patients)
    is_isles24 = bool(ids) and all(ISLES24_PATIENT.fullmatch(patient) for patient in ids)
    return (Finding(None, "rlvo", WITHOUT_LABEL, "Use it to predict for, not to train"),) if is_isles24 else ()


def rlvo_label(table: pd.DataFrame) -> pd.Series:
    """rLVO of each patient: 0 or 1, int64, on the table's index.

    1 where the final stenosis is above 50 %, or eTICI is 0–2a, or rescue treatment was needed (section 2.3); 0 where
    all three are known and none holds; column `rlvo` where outcomes do not settle it.

    Raises:
        CohortError: patients without a label, or whose `rlvo` contradicts their outcomes.
    """
    label, findings = derive_label(table)
    if findings:
        raise CohortError(findings)
    return label.astype("int64")


def derive_label(table: pd.DataFrame) -> tuple[pd.Series, tuple[Finding, ...]]:
    """As `rlvo_label`, with the findings returned: the label is float, NaN where it cannot be told."""
    given = table["rlvo"] if "rlvo" in table else pd.Series(float("nan"), index=table.index)
    derived = _from_outcomes(table)
    findings = []
    for patient, by_hand, by_outcome in zip(table.index, given, derived, strict=True):
        if pd.isna(by_hand) and pd.isna(by_outcome):
            what = f"no label: {', '.join(OUTCOMES)} do not settle it and rlvo is not given"
            findings.append(Finding(patient, "rlvo", what, "Fill them in"))
        elif not pd.isna(by_hand) and not pd.isna(by_outcome) and by_hand != by_outcome:
            what = f"{by_hand:.0f} contradicts the outcomes, which say {by_outcome:.0f}"
            findings.append(Finding(patient, "rlvo", what, f"Mend it or {', '.join(OUTCOMES)}"))
    return derived.fillna(given).rename("rlvo"), tuple(findings)


def _from_outcomes(table: pd.DataFrame) -> pd.Series:
    """1 where one criterion holds, 0 where all are known and none holds, NaN otherwise."""
    outcomes = table.reindex(columns=list(OUTCOMES))
    holds = (
        (outcomes["final_stenosis_pct"] > STENOSIS_ABOVE_PCT)
        | outcomes["etici"].isin(FAILED_ETICI)
        | (outcomes["rescue_treatment"] == 1)
    )
    return holds.astype("float64").where(holds | outcomes.notna().all(axis=1))
