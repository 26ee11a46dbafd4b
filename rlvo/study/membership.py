"""Who is the same patient: in a table and in a study, or in two hold-outs, whatever their ids are now."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from rlvo.cohort.reading import examine_table
from rlvo.cohort.splits import Split, read_split
from rlvo.cohort.tables import read_table
from rlvo.cohort.variables import PERFUSION_VOLUMES, VARIABLES, source_columns
from rlvo.config.sections import CohortConfig
from rlvo.errors import RlvoError
from rlvo.study.folder import StudyFolder, read_config

CLINICAL = tuple(name for name, v in VARIABLES.items() if v.role == "predictor" and name not in PERFUSION_VOLUMES)
KINDS = {
    "perfusion": (PERFUSION_VOLUMES, 3),
    "clinical": (CLINICAL, 10),
    "id": (("age", "sex", "nihss", "occlusion_side", "occlusion_site"), 4),
}
"""What patients are recognised by: columns, and how many must be known (of perfusion: be above 0), because chance makes
rows of few values equal. An id alone tells nothing: another hospital may use the same ones."""
MIN_LIKELY, MIN_LIKELY_SHARE = 3, 0.05
"""So many patients, and such a share, must be likely ones before they count: a few may be chance."""
Marks = Mapping[str, str]
"""By kind."""


@dataclass(frozen=True)
class SharedPatients:
    """Patients of a table who also belong to a study, by their ids in the table."""

    study: str
    split_hash: str
    test: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    """By the fold that they validate."""
    training_only: tuple[str, ...] = ()

    @property
    def split(self) -> Split:
        """The study's, as far as the table has its patients."""
        return Split(test=self.test, folds=self.folds, training_only=self.training_only)

    @property
    def development(self) -> tuple[str, ...]:
        """Those the study was developed on."""
        return self.split.development


def shared_patients(table: pd.DataFrame, studies: Iterable[StudyFolder]) -> list[SharedPatients]:
    """For each study that was split, the patients of the table who also belong to it.

    The same id is the same patient unless a predictor differs; others are known by their values (`recognise`). If a
    study's own table is gone, ids decide alone.

    Args:
        table: checked rows, indexed by patient id.
        studies: the folders of the studies to look into.
    """
    found = []
    for study in studies:
        if study.split.is_file():
            config, split = read_config(study), read_split(study.split)
            own = study_table(config.cohort)
            names = known_as(table, own, source_columns(config.cohort.names))
            test, *folds, training_only = (
                tuple(p for p, name in names.items() if name in {*part})
                for part in (split.test, *split.folds, split.training_only)
            )
            found.append(SharedPatients(config.name, split.hash, test, tuple(folds), training_only))
    return found


def refuse_held_out(
    table: pd.DataFrame, studies: Iterable[StudyFolder], where: object, *, asked: str | None = None
) -> list[SharedPatients]:
    """Return `shared_patients`. Raise RlvoError if some are held out by a study: asking about them would open it.

    Args:
        asked: the one patient who is asked about; None: all of the table's.
    """
    by_name = {study.path.name: study for study in studies}
    found = shared_patients(table, by_name.values())
    for shared in found:
        if asked in shared.test or (asked is None and shared.test):
            some = (
                f"{len(shared.test)} of these patients are the hold-out of study {shared.study}, say {shared.test[0]}"
            )
            opening = by_name[shared.study].command("evaluate")
            raise RlvoError(
                some if asked is None else f"the patient belongs to the hold-out of study {shared.study}",
                where=where,
                fix=f"`{opening}` opens it, on record; leave them out here",
            )
    return found


def study_table(cohort: CohortConfig) -> pd.DataFrame | None:
    """A study's own table as it is now, typed; None if it is gone or cannot be read."""
    try:
        raw = read_table(cohort.table, cohort.columns, own=cohort.own) if cohort.table is not None else None
    except RlvoError:
        raw = None
    if raw is None or "patient_id" not in raw.cells:
        return None
    known = examine_table(raw.cells, cohort.own, decimal_comma=raw.decimal_comma)[0]
    return known[~known.index.duplicated()]


def patient_marks(table: pd.DataFrame, volumes: Mapping[str, str] | None = None) -> dict[str, Marks]:
    """What each patient of a typed table can be recognised by, by kind; a kind without enough values is left out.

    Args:
        volumes: the address of each patient's prepared volumes, if there are some.
    """
    marks: dict[str, dict[str, str]] = {str(patient): {} for patient in table.index}
    for kind, (columns, least) in KINDS.items():
        cells = table.reindex(columns=list(columns))
        telling = (cells > 0) if kind == "perfusion" else cells.notna()
        known = cells[telling.sum(axis=1) >= least].astype(object)
        for patient, *values in known.where(known.notna(), None).itertuples(name=None):
            marks[str(patient)][kind] = str([str(patient), *values] if kind == "id" else values)
    for patient, address in (volumes or {}).items():
        marks[patient]["volumes"] = address
    return dict(marks)


def recognise(patients: Mapping[str, Marks], known: Mapping[str, Marks]) -> dict[str, str]:
    """Which of the known patients each of `patients` is, for those who are one: by their keys in the two mappings.

    The same perfusion volumes, the same scans, or the same id and clinical predictors are the same patient. So is one
    of the latter two if perfusion cannot be compared, but only if that holds for several patients: few may be chance.
    """
    place = {mark: name for name, marks in known.items() for mark in marks.items()}
    sure, likely = {}, {}
    for patient, marks in patients.items():
        for name in dict.fromkeys(place[mark] for mark in marks.items() if mark in place):
            same = {kind for kind, mark in marks.items() if known[name].get(kind) == mark}
            if same & {"perfusion", "volumes"} or {"id", "clinical"} <= same:
                sure[patient] = name
            elif "perfusion" not in marks or "perfusion" not in known[name]:
                likely[patient] = name
    enough = max(MIN_LIKELY, MIN_LIKELY_SHARE * min(len(patients), len(known)))
    return (likely if len(likely) >= enough else {}) | sure


def known_as(table: pd.DataFrame, own: pd.DataFrame | None, predictors: Iterable[str]) -> dict[str, str]:
    """The id in a study's `own` table of each patient of `table` who is there; all have their own id if it is None."""
    if own is None:
        return {str(patient): str(patient) for patient in table.index}
    both = table.index[table.index.isin(own.index)]
    columns = [name for name in predictors if name in table and name in own]
    here, there = table.loc[both, columns], own.loc[both, columns]
    differs = ((here != there) & here.notna() & there.notna()).any(axis=1)
    columns = [name for name in (*CLINICAL, *PERFUSION_VOLUMES) if name in table and name in own]
    recognised = recognise(patient_marks(table[columns]), patient_marks(own[columns]))
    return recognised | {str(patient): str(patient) for patient in both[~differs]}
