"""From a cohort table to patients that members can be asked about: checked rows and prepared volumes."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from rlvo.cohort.reading import examine_table
from rlvo.cohort.variables import VOLUMES, source_columns
from rlvo.config.predictors import OwnPredictor
from rlvo.errors import CohortError, Finding, MachineError, RlvoError
from rlvo.imaging.cohort_preparation import find_entry
from rlvo.imaging.laterality import side_doubts
from rlvo.imaging.prepare import ROLE_NAMES, Prepared, prepare
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.progress import Advance

NOT_ANSWERED = "not answered: "
"""Prefix of the last warning of a patient who could not be scored. Other versions of rlvo look for it."""
NOT_STORED = "volumes: the entry of the store is damaged or was not made by rlvo, so they were prepared again"


@dataclass(frozen=True, eq=False)
class Patient:
    """One patient, ready for members to be asked about."""

    id: str
    row: pd.DataFrame
    """The patient's row of the typed table."""
    volumes: Mapping[str, np.ndarray] | None
    """Prepared volumes by name; None if the patient cannot be scored, and then the last warning says why."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CheckedTable:
    """A cohort table, typed, whose rows can be told apart."""

    typed: pd.DataFrame
    findings: Mapping[str, Sequence[Finding]]
    """What is wrong with each patient's cells, by patient id."""
    folder: Path

    @classmethod
    def read(
        cls, table: pd.DataFrame, folder: Path, predictors: Sequence[str], own: Sequence[OwnPredictor] = ()
    ) -> "CheckedTable":
        """Type the columns that `predictors` need and those of the volumes; other columns are ignored.

        `own` declares predictors that rlvo does not know; one whose name is not a column is read from its `source`.

        Raises:
            RlvoError: if `patient_id` is missing, or ids are missing or occur twice.
        """
        sources = {each.source: each.name for each in own if each.source in table and each.name not in table}
        table = table.rename(columns=sources)
        columns = [name for name in ("patient_id", *VOLUMES, *source_columns(predictors)) if name in table]
        typed, findings = examine_table(table[columns], own, folder=folder)
        check_rows(findings)
        by_patient: dict[str, list[Finding]] = {str(patient): [] for patient in typed.index}
        for finding in findings:
            by_patient[str(finding.patient)].append(finding)
        return cls(typed, by_patient, folder)

    def prepare(
        self,
        target: Target,
        sufficient: Sequence[Collection[str]],
        *,
        store: VolumeStore | None = None,
        progress: Advance | None = None,
    ) -> Iterator[Patient]:
        """Yield each patient with volumes from the store or prepared now; only one patient's are in memory at a time.

        Args:
            target: what volumes are prepared to.
            sufficient: sets of volumes; a patient needs all volumes of at least one set.

        Raises:
            MachineError: if the machine is at fault, not the patient.
        """
        for at, (patient, findings) in enumerate(self.findings.items()):
            warnings = [_in_words(finding) for finding in findings if finding.field not in VOLUMES]
            row, volumes = self.typed.iloc[[at]], None
            try:
                prepared = self._prepare(row, target, sufficient, store)
                warnings += [*prepared.warnings, *side_doubts(prepared.figures, _text(row, "occlusion_side"))]
                _check_sufficient(prepared.volumes, sufficient)
                volumes = prepared.volumes
            except MachineError:
                raise
            except RlvoError as error:
                warnings.append(f"{NOT_ANSWERED}{error}")
            yield Patient(patient, row, volumes, tuple(warnings))
            if progress is not None:
                progress(at + 1, len(self.typed))

    def _prepare(
        self, row: pd.DataFrame, target: Target, sufficient: Sequence[Collection[str]], store: VolumeStore | None
    ) -> Prepared:
        patient = str(row.index[0])
        for finding in self.findings[patient]:
            if finding.field in VOLUMES:
                fix = "Correct it, or leave the cell empty to be scored without this volume"
                raise RlvoError(finding.what, where=finding.field, fix=fix)
        written = {name: _text(row, name) for name in VOLUMES}
        files = {name: None if path is None else self.folder / path for name, path in written.items()}
        given = {name for name, file in files.items() if file is not None}
        # Vessels can be found in the CTA.
        _check_sufficient(given | ({"vessels"} if "cta" in given else set()), sufficient)
        notes: tuple[str, ...] = ()
        if store is not None:
            address = store.address(target, files)
            if (stored := find_entry(store, address, target, look_again=True)) is not None:
                return stored
            notes = (NOT_STORED,) if store.folder(address).exists() else ()
        prepared = prepare(target, files["ncct"], files["cta"], files["vessels"], patient=patient)
        return replace(prepared, notes=(*prepared.notes, *notes))


def check_rows(findings: Sequence[Finding]) -> None:
    """Raise CohortError if patients cannot be told apart, or cells can only be read with the rest of their column."""
    if unusable := [finding for finding in findings if finding.patient is None or finding.field == "patient_id"]:
        raise CohortError(unusable)


def format_missing(volumes: Sequence[str]) -> str:
    """E.g. "no CTA and no vessel mask"."""
    return " and ".join(f"no {ROLE_NAMES[name]}" for name in volumes)


def _in_words(finding: Finding) -> str:
    """What is wrong with a cell, and what is allowed there."""
    allowed = f" (allowed: {finding.allowed})" if finding.allowed else ""
    return f"{finding.field}: {finding.what}{allowed}"


def _check_sufficient(given: Collection[str], sufficient: Sequence[Collection[str]]) -> None:
    missing = [[name for name in needed if name not in given] for needed in sufficient]
    if all(missing):
        raise RlvoError(format_missing(missing[0]))


def _text(row: pd.DataFrame, name: str) -> str | None:
    cell = row[name].iloc[0] if name in row else None
    return None if cell is None or pd.isna(cell) else str(cell)
