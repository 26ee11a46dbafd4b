"""The rows of a cohort table, checked, and each patient's volumes, prepared: what members are asked about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rlvo.cohort.reading import examine_table
from rlvo.cohort.variables import source_columns
from rlvo.errors import CohortError, Finding, MachineError, RlvoError
from rlvo.imaging.laterality import side_doubts
from rlvo.imaging.prepare import NAMES, Prepared, prepare
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target

VOLUMES = ("ncct", "cta", "vessels")
NOT_ANSWERED = "not answered: "
"""How the last warning of a patient begins who could not be answered for."""

Progress = Callable[[int, int], None]
"""Called with (patients done, patients in all)."""


@dataclass(frozen=True, eq=False)
class Patient:
    """One patient, as members are asked about them."""

    id: str
    row: pd.DataFrame
    """Their row of the typed table."""
    volumes: Mapping[str, np.ndarray] | None
    """Prepared; None where the patient cannot be answered for, which the last warning says."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Rows:
    """A cohort table whose rows can be told apart."""

    typed: pd.DataFrame
    findings: Mapping[str, Sequence[Finding]]
    """By patient id."""
    folder: Path

    @classmethod
    def read(cls, table: pd.DataFrame, folder: Path, predictors: Sequence[str], *, decimal_comma: bool) -> Rows:
        """Type the columns that `predictors` need, and the volumes'; other columns are not looked at.

        Raises:
            RlvoError: no `patient_id`, or ids that are missing or occur twice.
        """
        known = ["patient_id", *VOLUMES, *source_columns(predictors)]
        known = [name for name in known if name in table]
        typed, findings = examine_table(table[known], folder=folder, decimal_comma=decimal_comma)
        if unusable := [finding for finding in findings if finding.patient is None or finding.field == "patient_id"]:
            raise CohortError(unusable)
        by_patient: dict[str, list[Finding]] = {str(patient): [] for patient in typed.index}
        for finding in findings:
            by_patient[str(finding.patient)].append(finding)
        return cls(typed, by_patient, folder)

    def prepared(
        self,
        target: Target,
        sufficient: Sequence[Collection[str]],
        *,
        store: VolumeStore | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Patient]:
        """Each patient in turn, with volumes from the store or prepared now; only one's are in memory at a time.

        Args:
            target: what volumes are prepared to.
            sufficient: sets of volumes, any of which suffices.

        Raises:
            MachineError: not the patient's fault.
        """
        for at, (patient, findings) in enumerate(self.findings.items()):
            warnings = [f"{finding.field}: {finding.what}" for finding in findings if finding.field not in VOLUMES]
            row, volumes = self.typed.iloc[[at]], None
            try:
                prepared = self._prepare(patient, row, target, sufficient, store)
                warnings += [*prepared.warnings, *side_doubts(prepared.figures, _text(row, "occlusion_side"))]
                volumes = prepared.volumes
                _check_sufficient(volumes, sufficient)
            except MachineError:
                raise
            except RlvoError as error:
                volumes = None
                warnings.append(f"{NOT_ANSWERED}{error}")
            yield Patient(patient, row, volumes, tuple(warnings))
            if progress is not None:
                progress(at + 1, len(self.typed))

    def _prepare(
        self,
        patient: str,
        row: pd.DataFrame,
        target: Target,
        sufficient: Sequence[Collection[str]],
        store: VolumeStore | None,
    ) -> Prepared:
        for finding in self.findings[patient]:
            if finding.field in VOLUMES:
                fix = "Mend it, or leave the cell empty to be answered without"
                raise RlvoError(finding.what, where=finding.field, fix=fix)
        named = {name: _text(row, name) for name in VOLUMES}
        files = {name: None if written is None else self.folder / written for name, written in named.items()}
        there = {name for name, file in files.items() if file is not None}
        # A vessel mask may be found in the CTA.
        _check_sufficient(there | ({"vessels"} if "cta" in there else set()), sufficient)
        if store is not None and store.has(address := store.address(target, files)):
            return store.read(address)
        return prepare(target, files["ncct"], files["cta"], files["vessels"], patient=patient)


def _check_sufficient(there: Collection[str], sufficient: Sequence[Collection[str]]) -> None:
    lacking = [[name for name in needed if name not in there] for needed in sufficient]
    if all(lacking):
        raise RlvoError(words_for_missing(lacking[0]))


def words_for_missing(volumes: Sequence[str]) -> str:
    """E.g. "no CTA and no vessel mask"."""
    return " and ".join(f"no {NAMES[name]}" for name in volumes)


def _text(row: pd.DataFrame, name: str) -> str | None:
    written = row[name].iloc[0] if name in row else None
    return None if written is None or pd.isna(written) else str(written)
