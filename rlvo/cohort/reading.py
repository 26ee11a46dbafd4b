"""A cohort table, checked: typed values, units and ranges, volumes that exist; all that is wrong told at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from rlvo.cohort.label import OUTCOMES, derive_label, rlvo_label
from rlvo.cohort.selection import select_rows
from rlvo.cohort.tables import read_table
from rlvo.cohort.variables import VARIABLES, Variable, check_predictors, source_columns
from rlvo.config.base import content_hash
from rlvo.config.study import PAPER_PREDICTORS
from rlvo.errors import CohortError, Finding, RlvoError

MISSING = frozenset(("", "na", "n/a", "#n/a", "nan", "<na>", "null", "none", "nat"))
"""Cells that say nothing, in any case. Not applied to patient ids: "NA" can be one."""
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


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
) -> Cohort:
    """Read and check a cohort table (CSV, TSV or XLSX; columns of VARIABLES).

    Raises:
        RlvoError: the file cannot be read as a table, or a predictor cannot be one.
        CohortError: every missing column, unreadable or out-of-range cell, missing file and missing or contradictory
            label of an included patient.
    """
    raw = read_table(path)
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
    if "patient_id" not in table:
        raise CohortError(findings)
    typed, problems = examine_table(table, folder=folder, decimal_comma=decimal_comma)
    findings += problems
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
    or one that occurs twice) leave rows that cannot be told apart. Rows keep their order.

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

    findings = _id_findings(patients)
    if decimal_comma:
        findings += _mixed_decimals(text)
    typed = pd.DataFrame(index=patients)
    for name in text.columns.astype(str):
        variable = VARIABLES[name]
        values, problems = _typed(text[name], variable, decimal_comma)
        if variable.role == "image" and folder is not None:
            values, absent = _existing(values, folder)
            problems += absent
        typed[name] = values
        findings += problems
    return typed, tuple(findings)


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
        close = difflib.get_close_matches(name, unknown, n=1)
        fix = (
            f"Is it the column '{close[0]}'? Rename it"
            if close
            else "Add it; leave a cell empty where a value is missing"
        )
        derived = ", ".join(p for p in predictors if p != name and name in source_columns([p]))
        what = f"the column is missing, and {derived} needs it" if derived else "the column is missing"
        findings.append(Finding(None, name, what, fix))
    return findings


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


def _mixed_decimals(text: pd.DataFrame) -> list[Finding]:
    continuous = [name for name, variable in VARIABLES.items() if name in text and variable.kind == "continuous"]
    cells = text[continuous].stack()
    comma = cells[cells.str.fullmatch(DECIMAL_COMMA)]
    point = cells[cells.str.fullmatch(r"[+-]?\d+\.\d+")]
    if comma.empty or point.empty:
        return []
    what = f"decimal commas ({comma.iloc[0]}) and decimal points ({point.iloc[0]}) in one table"
    return [Finding(None, None, what, "Write one of them throughout, and no thousands separators")]


def _typed(text: pd.Series, variable: Variable, decimal_comma: bool) -> tuple[pd.Series, list[Finding]]:
    """Values of one column; what cannot be one, or lies outside the range or levels, is missing and a finding."""
    if variable.kind == "text":
        return text, []
    if variable.kind == "categorical" or variable.levels:
        written = {level.lower(): level for level in variable.levels}
        written |= {f"{level}.0": level for level in variable.levels if level.isdigit()}  # eTICI read as a number
        values = text.map(lambda cell: written.get(cell.lower(), cell), na_action="ignore").astype("str")
        check = pa.Check.isin(variable.levels)
    else:
        values = _numbers(text, decimal_comma, words={"true": "1", "false": "0"} if variable.kind == "binary" else {})
        check = pa.Check.isin([0, 1]) if variable.kind == "binary" else pa.Check.in_range(variable.low, variable.high)
    wrong = _violations(values, check) | (values.isna() & text.notna())
    findings = [
        Finding(str(patient) or None, variable.name, f"'{cell}' is not allowed", f"Allowed: {variable.allowed}")
        for patient, cell in text[wrong].items()
    ]
    return values.mask(wrong), findings


def _numbers(text: pd.Series, decimal_comma: bool, words: dict[str, str]) -> pd.Series:
    """Float64; NaN where the text is no number."""
    cells = text.str.lower().replace(words) if words else text
    if decimal_comma:
        cells = cells.mask(cells.str.fullmatch(DECIMAL_COMMA), cells.str.replace(",", "."))
    is_number = cells.str.fullmatch(NUMBER)
    return pd.to_numeric(cells.where(is_number), errors="coerce").astype("float64")


def _violations(values: pd.Series, check: pa.Check) -> pd.Series:
    """Which values fail the check, by position."""
    wrong = pd.Series(False, index=range(len(values)))
    try:
        pa.SeriesSchema(checks=check, nullable=True).validate(values.reset_index(drop=True), lazy=True)
    except pa.errors.SchemaErrors as error:
        wrong[error.failure_cases["index"]] = True
    return wrong.set_axis(values.index)


def _existing(written: pd.Series, folder: Path) -> tuple[pd.Series, list[Finding]]:
    """Paths that lead to a file or folder; a finding for each of the others."""
    exists = [isinstance(path, str) and (folder / path).exists() for path in written]
    findings = [
        Finding(
            str(patient) or None, str(written.name), f"no such file: {path}", "Paths are relative to the table's folder"
        )
        for patient, path, there in zip(written.index, written, exists, strict=True)
        if isinstance(path, str) and not there
    ]
    return written.where(pd.Series(exists, index=written.index)), findings
