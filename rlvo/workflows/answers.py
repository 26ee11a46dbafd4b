"""Asking a registered model about patients, from a table or from folders of volumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlvo.cohort.tables import RawTable, check_table, read_table
from rlvo.cohort.variables import VOLUMES
from rlvo.config.predictors import OwnPredictor
from rlvo.config.workdir import Workdir
from rlvo.errors import Finding, RlvoError
from rlvo.inference.patients import NOT_ANSWERED
from rlvo.progress import ShowProgress, no_progress
from rlvo.registry import admission
from rlvo.registry.admission import AdmittedModel, admit_model
from rlvo.registry.client import (
    PatientTable,
    answer_table,
    check_patients,
    input_columns,
    own_predictors,
    shift_warnings,
)
from rlvo.registry.patient_folders import read_patient_folders
from rlvo.study.folder import started_studies
from rlvo.study.membership import refuse_held_out
from rlvo.workflows.study import tracking_of

if TYPE_CHECKING:
    from rlvo.workflows.explanation import ExplainedPatient


@dataclass(frozen=True, eq=False)
class Question:
    """A verified model and the patients it is to be asked about. Nothing was asked yet."""

    model: AdmittedModel
    patients: PatientTable
    notes: tuple[str, ...]
    """Patients who have no folder or no row in the clinical table; columns without a value for any patient."""
    shifts: tuple[str, ...]
    """How these patients differ from those of the training."""

    def ask(self, *, kept: Path | None = None, progress: ShowProgress = no_progress, **params: Any) -> pd.DataFrame:
        """The model's answers, one row per patient, by the code that was registered with it in a process of its own.

        Args:
            kept: file that answers are added to as they come, and taken from when they are asked for again.
            params: of the model's `predict`: `members`, `precision`.
        """
        with progress("patients") as advance:
            return answer_table(
                self.model.folder, self.patients, caution=self.model.caution, kept=kept, progress=advance, **params
            )


@dataclass(frozen=True)
class Model:
    """A registered model whose files were verified. It answers with its own code, in a process of its own."""

    admitted: AdmittedModel
    work: Workdir | None = None
    """The work folder whose studies' hold-outs it does not answer for."""

    @property
    def folder(self) -> Path:
        """Its MLflow model folder."""
        return self.admitted.folder

    @property
    def own(self) -> tuple[OwnPredictor, ...]:
        """The declarations of its predictors that rlvo does not know."""
        return own_predictors(self.folder)

    def predict(
        self,
        patients: pd.DataFrame | str | Path,
        *,
        folder: str | Path = ".",
        columns: Mapping[str, str] | None = None,
        progress: ShowProgress = no_progress,
        **params: Any,
    ) -> pd.DataFrame:
        """Answers, one row per patient, empty for a patient who cannot be scored: `warnings` says why.

        Args:
            patients: a cohort table, in memory or as a file, or a folder that holds one folder of volumes per patient.
            folder: what the volume paths of a table in memory are relative to.
            columns: our column name to the table's, if it has another, e.g. `{"age": "Edad"}`.
            params: `members=True` adds every member's probability; `precision="bfloat16"`.
        """
        return self._question(patients, folder, columns).ask(progress=progress, **params)

    def explain(
        self,
        patients: pd.DataFrame | str | Path,
        patient: str,
        page: str | Path | None = None,
        *,
        folder: str | Path = ".",
        columns: Mapping[str, str] | None = None,
        check: bool = True,
        progress: ShowProgress = no_progress,
    ) -> "ExplainedPatient":
        """The answer for one patient and why: votes, saliency maps, what the table's values do to it.

        Args:
            patients, folder, columns: as for `predict`.
            patient: the id.
            page: an HTML file to write; tables, pictures and maps (NIfTI) go into a folder beside it.
            check: whether to check the saliency maps, which takes most of the time.

        Raises:
            RlvoError: also if the patient cannot be scored, or the model was registered before models could explain.
        """
        from rlvo.workflows.explanation import check_page, explain_patient

        if page is not None:
            check_page(Path(page))
        raw, place, _ = self._read(patients, folder, columns)
        found = explain_patient(self.admitted, raw, place, patient, work=self.work, check=check, progress=progress)
        if page is not None:
            found.write(Path(page))
        return found

    def check(
        self, patients: pd.DataFrame | str | Path, *, columns: Mapping[str, str] | None = None
    ) -> tuple[str, ...]:
        """What is unusual about patients: columns that are missing for all, differences from the training patients."""
        question = self._question(patients, ".", columns)
        return (*question.notes, *question.shifts)

    def _question(
        self, patients: pd.DataFrame | str | Path, folder: str | Path, columns: Mapping[str, str] | None
    ) -> Question:
        return pose_question(self.admitted, *self._read(patients, folder, columns), work=self.work)

    def _read(
        self, patients: pd.DataFrame | str | Path, folder: str | Path, columns: Mapping[str, str] | None
    ) -> tuple[RawTable, Path, tuple[str, ...]]:
        if isinstance(patients, pd.DataFrame):
            raw = RawTable(patients, decimal_comma=False).renamed(columns or {}, "patients", partly=True, own=self.own)
            return raw, Path(folder).resolve(), raw.notes
        return read_patients(Path(patients), columns=columns, own=self.own)


def load_model(name: str, workdir: str | Path = "rlvo-work", *, ungated: bool = False) -> Model:
    """Find a registered model that passed its gate, and verify every file of it.

    Args:
        name: `rlvo-ensemble@champion`, `rlvo-ensemble/3`, `rlvo-ensemble`, or the folder of an MLflow model.
        workdir: the work folder whose registry is asked, unless `MLFLOW_TRACKING_URI` is set.
        ungated: also load a model that did not pass; every answer's `warnings` says so.

    Example:
        ```python
        rlvo.load_model("rlvo-ensemble@champion").predict("new_patients.csv")
        ```
    """
    work = Workdir.at(Path(workdir), create=False)
    return Model(admit_model(name, tracking_of(work), ungated=ungated), work)


def check_model(name: str, workdir: Path, *, ungated: bool = False) -> None:
    """Raise RlvoError if there is no such model, or one that did not pass, before anything large is read.

    Arguments are those of `load_model`.
    """
    admission.check_model(name, tracking_of(Workdir.at(workdir, create=False)), ungated=ungated)


def check_source(patients: Path, clinical: Path | None = None, columns: Mapping[str, str] | None = None) -> None:
    """Check before a model is loaded that `read_patients` can be asked so, and that there are such tables.

    Raises:
        RlvoError: arguments do not go together, or a table is missing.
    """
    if patients.is_dir() and columns and clinical is None:
        what = "a folder of patients has no columns to rename"
        raise RlvoError(what, where=patients, fix="Leave --columns out, or name a table with --clinical")
    if not patients.is_dir() and clinical is not None:
        raise RlvoError("only a folder of patients takes a clinical table", where=patients, fix="Leave it out")
    for table in (patients, clinical):
        if table is not None and not table.is_dir():
            check_table(table)


def read_patients(
    patients: Path,
    clinical: Path | None = None,
    columns: Mapping[str, str] | None = None,
    own: Sequence[OwnPredictor] = (),
) -> tuple[RawTable, Path, tuple[str, ...]]:
    """Read patients to ask about.

    Args:
        patients: a cohort table, or a folder that holds one folder of volumes per patient.
        clinical: for a folder, the table of the patients' other columns.
        columns: our column name to the table's, if it has another.
        own: the declarations of the model's predictors that rlvo does not know.

    Returns:
        The table; what its volume paths are relative to; who has no folder or no row in the clinical table.

    Raises:
        RlvoError: the table or the folder is at fault.
    """
    check_source(patients, clinical, columns)
    if patients.is_dir():
        table = read_table(clinical, columns, partly=True, own=own) if clinical is not None else None
        raw, notes = read_patient_folders(patients, table)
        return raw, patients.resolve(), tuple(notes)
    raw = read_table(patients, columns, partly=True, own=own)
    return raw, patients.resolve().parent, raw.notes


def pose_question(
    model: AdmittedModel, raw: RawTable, folder: Path, notes: tuple[str, ...] = (), *, work: Workdir | None = None
) -> Question:
    """Check patients before a model is asked about them.

    Args:
        model: of `admit_model`.
        raw, folder, notes: of `read_patients`.
        work: the work folder whose studies' hold-outs must not be asked about.

    Raises:
        CohortError: patients cannot be told apart, or cells from one another.
        RlvoError: patients are in the hold-out of a study of the work folder.
    """
    patients = check_patients(model.folder, raw, folder)
    if work is not None:
        refuse_held_out(patients.typed, started_studies(work.studies), where="patients")
    absent = [name for name in input_columns(model.folder) if name not in (*raw.cells, *VOLUMES)]
    missing = (f"no column {', '.join(absent)}: missing for every patient",) if absent else ()
    return Question(model, patients, (*notes, *missing), tuple(shift_warnings(model.folder, patients)))


def unanswered(answers: pd.DataFrame) -> list[Finding]:
    """A finding for every patient without an answer; the reason is the last of the warnings."""
    without = answers[answers["rlvo"].isna()]
    return [
        Finding(str(row.patient_id), None, NOT_ANSWERED + str(row.warnings).rpartition(NOT_ANSWERED)[2])
        for row in without.itertuples()
    ]
