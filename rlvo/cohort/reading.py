"""Reading a cohort table: typed values, checked units and ranges, volumes that exist, all findings reported at once."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlvo.cohort.cells import abbreviate, missing_words, typed_column
from rlvo.cohort.consistency import check_cohort, volume_order
from rlvo.cohort.label import OUTCOMES, derive_label, isles24_has_no_label
from rlvo.cohort.mapping import misspelt_columns, suggest_column
from rlvo.cohort.missing_codes import missing_codes
from rlvo.cohort.numerals import ambiguous_separators, mixed_decimals
from rlvo.cohort.selection import UNLABELLED, Selection, select_patients
from rlvo.cohort.tables import read_table
from rlvo.cohort.variables import (
    PERFUSION,
    PERFUSION_VOLUMES,
    VOLUMES,
    check_predictors,
    known_variables,
    source_columns,
)
from rlvo.config.base import content_hash
from rlvo.config.commands import command_line
from rlvo.config.predictors import PAPER_PREDICTORS, OwnPredictor
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.progress import Advance


@dataclass(frozen=True, eq=False)
class Cohort:
    """A checked table (index: patient id, text; columns: those of `variables` it has), and who of it is included.

    Continuous and binary columns are float64, NaN if missing; sex, side, site, eTICI, etiology and others that have
    levels hold them as text; paths are as written.
    """

    table: pd.DataFrame
    folder: Path
    """What the table's paths are relative to."""
    selection: Selection
    label: pd.Series
    """rLVO of each included patient: 0 or 1, int64."""
    ignored: tuple[str, ...]
    """Columns of the file that rlvo does not know."""
    notes: tuple[str, ...] = ()
    """What had to be decided to read the file."""
    own: tuple[OwnPredictor, ...] = ()
    """The declarations of predictors that rlvo does not know."""

    @property
    def included(self) -> pd.DataFrame:
        """The rows of the included patients."""
        return self.table.loc[list(self.selection.included)]

    def restricted(self, patients: Collection[str], rule: str) -> "Cohort":
        """The cohort without the included patients who are not among `patients`; `rule` says why, if there are any."""
        others = set(self.selection.included).difference(patients)
        selection = self.selection.without(others, rule)
        return replace(self, selection=selection, label=self.label.loc[list(selection.included)])

    def recovering(self, predictors: Sequence[str]) -> "Cohort":
        """The cohort with whom only CTP variables excluded that are not among `predictors`, if their label is sound."""
        wider = select_patients(self.table, predictors, only_theirs=True)
        recovered = [patient for patient in wider.included if patient not in self.label.index]
        label, unlabelled = derive_label(self.table.loc[recovered])
        without = {str(finding.patient) for finding in unlabelled}
        label = pd.concat([self.label, label.drop([*without]).astype("int64")])
        return replace(self, selection=wider.without(without, rule=UNLABELLED), label=label)

    @property
    def has_volumes(self) -> bool:
        """Whether the table names volumes; if not, the cohort is tabular and imaging exclusions do not apply."""
        return "ncct" in self.table and "cta" in self.table


def volume_paths(table: pd.DataFrame, folder: Path) -> dict[str, dict[str, Path | None]]:
    """Return each patient's `ncct`, `cta` and `vessels`: a file or DICOM folder, or None if there is none."""
    rows = table.reindex(columns=list(VOLUMES)).to_dict("index").items()
    return {str(p): {name: None if pd.isna(row[name]) else folder / row[name] for name in VOLUMES} for p, row in rows}


def read_cohort(
    path: Path,
    predictors: Sequence[str] = PAPER_PREDICTORS,
    own: Sequence[OwnPredictor] = (),
    *,
    need_volumes: bool = True,
    mapping: Mapping[str, str] | None = None,
    partly: bool = False,
    progress: Advance | None = None,
) -> Cohort:
    """Read and check a cohort table (CSV, TSV or XLSX; columns of VARIABLES).

    Args:
        predictors: columns or derived variables that models are given.
        own: the declarations of those that rlvo does not know.
        need_volumes: whether the table must name an NCCT and a CTA.
        mapping: our column name to the table's, if it has another (`rlvo.cohort.mapping`).
        partly: the table may lack columns that the mapping names; those that are needed are findings all the same.
        progress: called with (columns checked, columns in all).

    Raises:
        RlvoError: the file cannot be read as a table, the mapping does not fit, or a predictor cannot be one.
        CohortError: lists every missing column, unreadable or out-of-range cell and missing file, and every included
            patient whose label is missing or contradicts the outcomes.
    """
    check_predictors(predictors, own)
    raw, variables = read_table(path, mapping, partly=partly, own=own), known_variables(own)
    columns, folder = raw.cells.columns, path.resolve().parent
    findings = _missing_columns(columns, predictors, own, path, need_volumes=need_volumes)
    findings += misspelt_columns(columns, reported={finding.field for finding in findings}, variables=variables)
    if "patient_id" not in columns:
        raise CohortError(findings, where=path, notes=raw.notes)
    table, problems = examine_table(raw.cells, own, folder=folder, decimal_comma=raw.decimal_comma, progress=progress)
    findings += [*problems, *check_cohort(table, variables), *_empty_columns(table, predictors)]
    if "rlvo" not in table:
        findings += isles24_has_no_label(table.index)
    selection, label = select_patients(table, predictors), pd.Series()
    if "rlvo" in table or set(OUTCOMES) <= set(table):
        reported = {finding.patient for finding in findings if finding.field in ("patient_id", "rlvo", *OUTCOMES)}
        judged = [patient for patient in selection.included if patient and patient not in reported]
        label, unlabelled = derive_label(table.loc[judged])
        findings += unlabelled
    if findings:
        raise CohortError(findings, where=path, notes=raw.notes)
    ignored = tuple(name for name in columns if name not in variables)
    return Cohort(table, folder, selection, label.astype("int64"), ignored, raw.notes, tuple(own))


def examine_table(
    table: pd.DataFrame,
    own: Sequence[OwnPredictor] = (),
    *,
    folder: Path | None = None,
    decimal_comma: bool = False,
    progress: Advance | None = None,
) -> tuple[pd.DataFrame, tuple[Finding, ...]]:
    """Type and check the columns that rlvo knows, whichever are there, and return what is wrong instead of raising it.

    A cell with a finding is missing in the typed table. Exceptions: rows with a finding on `patient_id` (no id, or one
    that occurs twice) stay and cannot be told apart, and so do perfusion volumes that contradict each other. Rows keep
    their order.

    Args:
        table: needs only `patient_id`; cells may be numbers, booleans, text or None.
        own: the declarations of predictors that rlvo does not know.
        folder: what volume paths are relative to; None: volumes are not looked for.
        decimal_comma: "70,5" is a number.
        progress: called with (columns checked, columns in all).

    Raises:
        RlvoError: there is no column `patient_id`.
    """
    if "patient_id" not in table:
        raise RlvoError("the column is missing", where="patient_id", fix="Every row needs the patient's id")
    patients = pd.Index([cell_text(cell) or "" for cell in table["patient_id"]], name="patient_id", dtype="str")
    text, variables = pd.DataFrame(index=patients), known_variables(own)
    for name in (name for name in variables if name in table and name != "patient_id"):
        cells = pd.Series([cell_text(cell) for cell in table[name]], index=patients, dtype="str")
        text[name] = cells.mask(cells.str.lower().isin(missing_words(variables[name])))
    findings = [*_id_findings(patients), *ambiguous_separators(table, decimal_comma, variables)]
    if decimal_comma:
        findings += mixed_decimals(text, table, variables)
    typed = pd.DataFrame(index=patients)
    for done, name in enumerate(text.columns.astype(str)):
        if progress is not None:
            progress(done, len(text.columns))
        variable = variables[name]
        values, problems = typed_column(text[name], variable, decimal_comma)
        if variable.role == "image" and folder is not None:
            values, absent = _existing(values, folder)
            problems += absent
        typed[name] = values
        findings += problems
    return typed, (*findings, *missing_codes(text, typed, variables), *volume_order(typed))


def data_hash(
    table: pd.DataFrame, label: pd.Series, predictors: Sequence[str], own: Sequence[OwnPredictor] = ()
) -> str:
    """SHA-256 over patients' labels and predictor values, whatever the order of rows; paths do not count.

    What `own` declares of predictors that rlvo does not know is part of it, but for the table's names of them.
    """
    columns = [*table.reindex(columns=list(source_columns(predictors))).items(), ("label", label.loc[table.index])]
    content: dict[str, object] = {
        str(name): {p: None if pd.isna(v) else v for p, v in values.items()} for name, values in columns
    }
    declared = {f"declared {each.name}": each.model_dump(mode="json", exclude={"source"}) for each in own}
    return content_hash({**content, **declared})


def _missing_columns(
    present: Collection[str],
    predictors: Sequence[str],
    own: Sequence[OwnPredictor],
    path: Path,
    *,
    need_volumes: bool,
) -> list[Finding]:
    needed = ["patient_id", *source_columns(predictors)]
    if need_volumes or {"ncct", "cta"} & set(present):
        needed += ["ncct", "cta"]
    if "rlvo" not in present:
        needed += OUTCOMES
    unknown = [name for name in present if name not in known_variables(own)]
    sources = {each.name: each.source for each in own if each.source is not None}
    findings, missing = [], [name for name in needed if name not in present]
    if {*PERFUSION_VOLUMES} <= {*missing} and not any(suggest_column(name, unknown) for name in PERFUSION_VOLUMES):
        missing = [name for name in missing if name not in PERFUSION_VOLUMES]
        what = f"the table has none of {', '.join(PERFUSION_VOLUMES)}"
        write = command_line("init", path, "-o", "study.yaml")
        fix = f"Add them, or leave its predictors out (cohort.predictors), as a study that `{write}` writes does"
        findings.append(Finding(None, PERFUSION, what, fix))
    for name in missing:
        close = suggest_column(name, unknown)
        rename = f"Is it the column '{close}'? Rename it or map it ({name}={close})"
        derived = ", ".join(p for p in predictors if p != name and name in source_columns([p]))
        what = f"the column is missing, and {derived} needs it" if derived else "the column is missing"
        what += f", and so is its source '{sources[name]}'" if name in sources else ""
        fix = rename if close else "Add it; leave a cell empty if its value is missing"
        findings.append(Finding(None, name, what, fix))
    return findings


def _empty_columns(typed: pd.DataFrame, predictors: Sequence[str]) -> list[Finding]:
    empty = [name for name in source_columns(predictors) if name in typed and len(typed) and typed[name].isna().all()]
    what, fix = "no patient has a readable value", "Fill in the column, or remove it from the predictors"
    return [Finding(None, name, what, fix) for name in empty]


def cell_text(cell: Any) -> str | None:
    """Return a cell's text as its writer saw it: 7.0 is "7", True is "TRUE"."""
    if isinstance(cell, str):
        return cell.strip()
    if pd.api.types.is_scalar(cell) and pd.isna(cell):
        return None
    if isinstance(cell, bool | np.bool_):
        return str(cell).upper()
    if isinstance(cell, float | np.floating) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _id_findings(patients: pd.Index) -> list[Finding]:
    findings = [Finding(None, "patient_id", f"row {i + 1} has no id") for i, each in enumerate(patients) if not each]
    findings += [
        Finding(abbreviate(patient), "patient_id", "contains a line break or control character", "Remove it")
        for patient in patients
        if not patient.isprintable()
    ]
    twice = patients[patients.duplicated()].unique()
    what, fix = "occurs more than once", "Keep one row per patient"
    return findings + [Finding(patient, "patient_id", what, fix) for patient in twice if patient]


def _existing(written: pd.Series, folder: Path) -> tuple[pd.Series, list[Finding]]:
    """Keep the paths that lead to a file or folder, with a finding for each of the others."""
    absent = np.array([isinstance(path, str) and not os.path.exists(folder / path) for path in written], dtype=bool)
    fix = "Paths are relative to the table's folder"
    findings = [
        Finding(str(patient) or None, str(written.name), f"no such file: {path}", fix)
        for patient, path in written[absent].items()
    ]
    return written.mask(absent), findings
