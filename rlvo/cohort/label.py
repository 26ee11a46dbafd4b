"""The label: refractory large-vessel occlusion (rLVO), derived from outcomes or given."""

import re
from collections.abc import Collection

import pandas as pd

from rlvo.errors import Finding

STENOSIS_ABOVE_PCT = 50
FAILED_ETICI = ("0", "1", "2a")
OUTCOMES = ("final_stenosis_pct", "etici", "rescue_treatment")
ISLES24_PATIENT = re.compile(r"sub-stroke(case)?\d{4}")
WITHOUT_LABEL = (
    "ISLES'24 records neither final stenosis nor rescue treatment and has almost no eTICI 0-2a: it cannot train rLVO"
)


def isles24_has_no_label(patients: Collection[str]) -> tuple[Finding, ...]:
    """Return a finding if all patients are from ISLES'24, whose missing labels cannot be filled in."""
    is_isles24 = len(patients) > 0 and all(ISLES24_PATIENT.fullmatch(patient) for patient in patients)
    return (Finding(None, "rlvo", WITHOUT_LABEL, "Use it for predictions, not for training"),) if is_isles24 else ()


def derive_label(table: pd.DataFrame) -> tuple[pd.Series, list[Finding]]:
    """Return each patient's rLVO, 0 or 1 (float64, NaN if it cannot be derived), on the table's index.

    1 if the final stenosis is above 50 %, or eTICI is 0–2a, or rescue treatment was needed (section 2.3); 0 if all
    three are known and none of them holds; the column `rlvo` if the outcomes do not decide. Patients without a label,
    or whose `rlvo` contradicts their outcomes, are findings.
    """
    given = table["rlvo"] if "rlvo" in table else pd.Series(float("nan"), index=table.index)
    outcomes = table.reindex(columns=list(OUTCOMES))
    holds = (
        (outcomes["final_stenosis_pct"] > STENOSIS_ABOVE_PCT)
        | outcomes["etici"].isin(FAILED_ETICI)
        | (outcomes["rescue_treatment"] == 1)
    )
    derived = holds.astype("float64").where(holds | outcomes.notna().all(axis=1))
    findings = []
    for patient, by_hand, by_outcome in zip(table.index, given, derived, strict=True):
        if pd.isna(by_hand) and pd.isna(by_outcome):
            what = f"no label: {', '.join(OUTCOMES)} do not decide, and rlvo is missing"
            findings.append(Finding(patient, "rlvo", what, "Fill them in"))
        elif not pd.isna(by_hand) and not pd.isna(by_outcome) and by_hand != by_outcome:
            what = f"{by_hand:.0f} contradicts the outcomes, which give {by_outcome:.0f}"
            findings.append(Finding(patient, "rlvo", what, f"Correct it, or {', '.join(OUTCOMES)}"))
    return derived.fillna(given).rename("rlvo"), findings
