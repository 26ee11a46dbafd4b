"""A cohort table, checked: typed values, units and ranges, volumes that exist; all that is wrong told at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlvo.cohort.cells import MISSING, typed_column
from rlvo.cohort.consistency import check_cohort, mixed_decimals, thousands, volume_order
from rlvo.cohort.label import OUTCOMES, derive_label, isles24_has_no_label, rlvo_label
from rlvo.cohort.mapping import slips, suggestion
from rlvo.cohort.selection import select_rows
from rlvo.cohort.tables import read_table
from rlvo.cohort.variables import VARIABLES, check_predictors, source_columns
from rlvo.config.base import content_hash
from rlvo.config.study import PAPER_PREDICTORS
from rlvo.errors import CohortError, Finding, RlvoError


@dataclass(frozen=True)
class Cohort:
    """A checked table (index: patient id, text; columns: those of VARIABLES that it has) and the folder of its paths.

    Continuous and binary columns are float64 with NaN where missing; sex, side, site, eTICI and etiology are the
    levels of VARIABLES; paths are as written.
    """

    table: pd.DataFrame
    folder: Path
    ignored: tuple[str, ...] = ()
    """Columns of the file that rlvo does not know."""

    @property
    def has_volumes(self) -> bool:
        """Whether the table names volumes; without, the cohort is tabular and imaging exclusions do not apply."""
        return "ncct" in self.table and "cta" in self.table

    def volume(self, patient: str, name: str) -> Path | None:
        """File or DICOM folder of a patient's `ncct`, `cta` or `vessels`; None where there is none."""
        written = self.table[name].get(patient) if name in self.table else None
        return None if written is None or pd.isna(written) else self.folder / written

    def subset(self, ids: Iterable[str]) -> Cohort:
        """The cohort of these patients, in this order."""
        return replace(self, table=self.table.loc[list(ids)])


def read_cohort(
    path: Path,
    predictors: Sequence[str] = PAPER_PREDICTORS,
    *,
    need_outcome: bool = True,
    need_volumes: bool = True,
    mapping: Mapping[str, str] | None = None,
) -> Cohort:
    """Read and check a cohort table (CSV, TSV or XLSX; columns of VARIABLES).

    Args:
        path: the table.
        predictors: columns or derived variables that models are given.
        need_outcome: every included patient needs a label.
        need_volumes: the table names an NCCT and a CTA.
        mapping: our column name to the table's, where it is another (`rlvo.cohort.mapping`).

    Raises:
        RlvoError: the file cannot be read as a table, a mapping does not fit, or a predictor cannot be one.
        CohortError: every missing column, unreadable or out-of-range cell, missing file and missing or contradictory
            label of an included patient.
    """
    raw = read_table(path, mapping)
    folder = path.resolve().parent
    try:
        table = check_table(
            raw.cells,
            predictors,
            need_outcome=need_outcome,
            need_volumes=need_volumes,
            folder=folder,
            decimal_comma=raw.decimal_comma,
        )
    except CohortError as error:
        raise CohortError(error.findings, where=path) from None
    return Cohort(table, folder, tuple(name for name in raw.cells.columns if name not in VARIABLES))


def check_table(
    table: pd.DataFrame,
    predictors: Sequence[str] = PAPER_PREDICTORS,
    *,
    need_outcome: bool = False,
    need_volumes: bool = False,
    folder: Path | None = None,
    decimal_comma: bool = False,
) -> pd.DataFrame:
    """As `read_cohort`, on a table in memory, whose cells may be numbers, booleans, text or None.

    Args:
        folder: resolves relative volume paths; None: volumes are not looked for.
        decimal_comma: "70,5" is a number.

    Raises:
        RlvoError: a predictor that cannot be one.
        CohortError: all findings.
    """
    check_predictors(predictors)
    findings = _missing_columns(table.columns, predictors, need_outcome=need_outcome, need_volumes=need_volumes)
    findings += slips(table.columns, told={finding.field for finding in findings})
    if "patient_id" not in table:
        raise CohortError(findings)
    typed, problems = examine_table(table, folder=folder, decimal_comma=decimal_comma)
    findings += [*problems, *check_cohort(typed)]
    if need_outcome:
        findings += _empty_columns(typed, predictors)
        findings += isles24_has_no_label(typed.index) if "rlvo" not in typed else ()
    if need_outcome and ("rlvo" in typed or set(OUTCOMES) <= set(typed)):
        told = {finding.patient for finding in findings if finding.field in ("patient_id", "rlvo", *OUTCOMES)}
        included = [patient for patient in select_rows(typed, predictors).included if patient and patient not in told]
        findings += derive_label(typed.loc[included])[1]
    if findings:
        raise CohortError(findings)
    return typed


def examine_table(
    table: pd.DataFrame, *, folder: Path | None = None, decimal_comma: bool = False
) -> tuple[pd.DataFrame, tuple[Finding, ...]]:
    """Type and check the columns rlvo knows, whichever are there, without raising for what cells hold.

    A cell with a finding is missing in the typed table, except patient ids: findings on the field `patient_id` (none,
    or one that occurs twice) leave rows that cannot be told apart. Perfusion volumes that contradict each other stay.
    Rows keep their order.

    Args:
        table: needs `patient_id` only; cells may be numbers, booleans, text or None.
        folder: resolves relative volume paths; None: volumes are not looked for.
        decimal_comma: "70,5" is a number.

    Raises:
        RlvoError: no column `patient_id`.
    """
    if "patient_id" not in table:
        raise RlvoError("the column is missing", where="patient_id", fix="Every row needs the patient's id")
    patients = pd.Index([_text(cell) or "" for cell in table["patient_id"]], name="patient_id", dtype="str")
    text = pd.DataFrame(index=patients)
    for name in (name for name in VARIABLES if name in table and name != "patient_id"):
        cells = [_text(cell) for cell in table[name]]
        text[name] = pd.Series(
            [None if c is None or c.lower() in MISSING else c for c in cells], index=patients, dtype="str"
        )

    findings = [*_id_findings(patients), *thousands(table)]
    if decimal_comma:
        findings += mixed_decimals(text)
    typed = pd.DataFrame(index=patients)
    for name in text.columns.astype(str):
        variable = VARIABLES[name]
        values, problems = typed_column(text[name], variable, decimal_comma)
        if variable.role == "image" and folder is not None:
            values, absent = _existing(values, folder)
            problems += absent
        typed[name] = values
        findings += problems
    return typed, (*findings, *volume_order(typed))


def data_hash(cohort: Cohort, ids: Iterable[str], predictors: Sequence[str]) -> str:
    """SHA-256 over the labels and predictor values of these patients, whatever their order; not over paths."""
    table = cohort.table.loc[sorted(ids)]
    columns = [*table.reindex(columns=list(source_columns(predictors))).items(), ("label", rlvo_label(table))]
    return content_hash({name: {p: None if pd.isna(v) else v for p, v in values.items()} for name, values in columns})


def _missing_columns(
    present: Collection[str], predictors: Sequence[str], *, need_outcome: bool, need_volumes: bool
) -> list[Finding]:
    needed = ["patient_id", *source_columns(predictors)]
    if need_volumes or {"ncct", "cta"} & set(present):
        needed += ["ncct", "cta"]
    if need_outcome and "rlvo" not in present:
        needed += OUTCOMES
    unknown = [name for name in present if name not in VARIABLES]
    findings = []
    for name in (name for name in needed if name not in present):
        close = suggestion(name, unknown)
        fix = (
            f"Is it the column '{close}'? Rename it or map it ({name}={close})"
            if close
            else "Add it; leave a cell empty where a value is missing"
        )
        derived = ", ".join(p for p in predictors if p != name and name in source_columns([p]))
        what = f"the column is missing, and {derived} needs it" if derived else "the column is missing"
        findings.append(Finding(None, name, what, fix))
    return findings


def _empty_columns(typed: pd.DataFrame, predictors: Sequence[str]) -> list[Finding]:
    columns = [name for name in source_columns(predictors) if name in typed]
    empty = [name for name in columns if len(typed) and typed[name].isna().all()]
    return [Finding(None, name, "no patient has a readable value", "Fill it in, or leave it out") for name in empty]


def _text(cell: Any) -> str | None:
    """A cell as text, as its writer saw it: 7.0 is "7", True is "1"."""
    if pd.api.types.is_scalar(cell) and pd.isna(cell):
        return None
    if isinstance(cell, bool | np.bool_) or (isinstance(cell, float | np.floating) and cell.is_integer()):
        return str(int(cell))
    return str(cell).strip()


def _id_findings(patients: pd.Index) -> list[Finding]:
    findings = [
        Finding(None, "patient_id", f"row {i + 1} has none") for i, patient in enumerate(patients) if not patient
    ]
    twice = patients[patients.duplicated()].unique()
    return findings + [Finding(p, "patient_id", "occurs more than once", "Keep one row a patient") for p in twice if p]


def _existing(written: pd.Series, folder: Path) -> tuple[pd.Series, list[Finding]]:
    """Paths that lead to a file or folder; a finding for each of the others."""
    exists = [isinstance(path, str) and os.path.exists(folder / path) for path in written]
    findings = [
        Finding(
            str(patient) or None, str(written.name), f"no such file: {path}", "Paths are relative to the table's folder"
        )
        for patient, path, there in zip(written.index, written, exists, strict=True)
        if isinstance(path, str) and not there
    ]
    return written.where(pd.Series(exists, index=written.index)), findings
