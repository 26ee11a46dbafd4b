"""A cohort before any study: who is included, what is suspect, what clinical variables predict; preparing volumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rlvo.cohort.leaks import suspected_leaks
from rlvo.cohort.pseudonym import cohort_key
from rlvo.cohort.reading import Cohort, examine_table, read_cohort, volume_paths
from rlvo.cohort.selection import FlowStep, flow
from rlvo.cohort.splits import Split, check_split, make_split, persons, read_split, split_rest
from rlvo.cohort.tables import read_table
from rlvo.cohort.variables import VOLUMES, known_variables
from rlvo.config.loading import named_study
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.config.sections import FoldsConfig
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.evaluation.calibration import Calibration, measure_calibration
from rlvo.evaluation.metrics import over_folds
from rlvo.evaluation.odds import events_per_variable
from rlvo.imaging.biomarkers import PREFIX
from rlvo.imaging.cohort_preparation import PreparedCohort, prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.progress import ShowProgress, no_progress
from rlvo.report.cohort_page import CohortContents
from rlvo.report.cohort_pictures import Part, flow_chart, missingness_plot
from rlvo.report.contact_sheet import write_contact_sheet
from rlvo.report.table_one import predictors_and_scores, table_one
from rlvo.study.folder import StudyFolder, read_or_shipped_config, started_studies
from rlvo.study.image_baseline import read_image_baselines
from rlvo.study.membership import SharedPatients, shared_patients
from rlvo.training.baseline import BASELINES, clinical_baselines, clinical_odds
from rlvo.workflows.biomarkers import section_of_table

DRAWN = ("all clinical", "all clinical, boosted")
"""Baselines whose calibration is measured, and drawn beside their decision curves."""


@dataclass(frozen=True, eq=False)
class ExaminedCohort:
    """A sound cohort table, and whom of its included patients is held out from figures about the others."""

    cohort: Cohort
    predictors: tuple[str, ...]
    split: Split
    studies: tuple[str, ...]
    """Whose hold-outs the split holds out; none: it is that of a study with default settings."""
    notes: tuple[str, ...]
    """How the patients were split, and whose outcomes the figures show all the same."""
    path: Path
    """Its table."""
    mapping: Mapping[str, str] | None
    """Our column names to the table's, if they differ."""

    @cached_property
    def leaks(self) -> list[Finding]:
        """Predictors that alone separate the classes of the development patients: they may be known only afterwards."""
        development = list(self.split.development)
        table, label = self.cohort.table.loc[development], self.cohort.label[development]
        return suspected_leaks(table, label, self.predictors, self.cohort.own)

    @cached_property
    def table_one(self) -> pd.DataFrame:
        """The patients' characteristics, as `rlvo.report.table_one` gives them."""
        return table_one(self.cohort.included, self.cohort.label, self.split.test, self.cohort.own)

    def contents(self) -> CohortContents:
        """What a page about the cohort shows; the excluded are named by pseudonym."""
        split, cohort = self.split, self.cohort
        steps = flow(cohort.selection, cohort_key(cohort.folder))

        chart = draw_flow(cohort.selection.considered, steps, cohort.label, split)
        values = predictors_and_scores(cohort.included, known_variables(cohort.own))
        missingness = missingness_plot(values) if values.isna().any(axis=None) else None
        biomarkers = section_of_table(self.path, cohort.included, cohort.label, split, self.mapping)
        ignored = [name for name in cohort.ignored if biomarkers is None or not name.startswith(PREFIX)]
        return CohortContents(
            chart, steps, self.table_one, missingness, split.hash, ignored, self.notes, biomarkers=biomarkers
        )


@dataclass(frozen=True, eq=False)
class Baselines:
    """What networks have to beat. Hold-out patients play no part."""

    metrics: dict[str, pd.DataFrame]
    """For each baseline `rlvo.evaluation.metrics.over_folds` of its validation metrics."""
    left_out: tuple[str, ...]
    """Baselines whose columns are missing."""
    odds: pd.DataFrame
    """Odds ratios of one fit to all development patients."""
    events_per_variable: float
    """Of that fit."""
    validation: dict[str, pd.DataFrame]
    """Validation predictions of the baselines that are drawn."""
    calibrations: dict[str, Calibration]
    """Of the same."""


def examine_cohort(
    path: Path,
    predictors: Sequence[str] | None = None,
    mapping: Mapping[str, str] | None = None,
    *,
    study: str | Path | StudyConfig | None = None,
    work: Workdir | None = None,
    progress: ShowProgress = no_progress,
) -> ExaminedCohort:
    """Read and check a cohort table, with or without volumes, and split its included patients as studies do.

    Args:
        predictors: None: the study's if one is named, else the paper's. The study may declare what rlvo does not know.
        mapping: our column names to the table's, if they differ; None: the study's, if one is named.
        study: whose split is used; None: that of the work folder's studies of these patients.
        work: the work folder.
        progress: shows how many columns of the table are checked.

    Raises:
        RlvoError: the file cannot be read as a table, there is no such study, or it has none of these patients.
        CohortError: everything that is wrong with the table.
    """
    name, given = named_study(study) if study is not None else (None, None)
    if name is not None and given is None:
        given = read_or_shipped_config(StudyFolder((work or Workdir.at(Path(DEFAULT), create=False)).study(name)))
    if given is not None and given.folds.of_study is not None and not (work and _is_split(name, work)):
        name = given.folds.of_study  # it takes over that study's split when it begins
    chosen = tuple(predictors or (given.cohort.names if given is not None else PAPER_PREDICTORS))
    declared = given.cohort.own if given is not None else ()
    mapping = mapping or (given.cohort.columns if given is not None else None)
    with progress("columns") as advance:
        cohort = read_cohort(path, chosen, declared, need_volumes=False, mapping=mapping, progress=advance)
    examined = partial(_examined, path, mapping)
    known = shared_patients(cohort.included, started_studies(work.studies)) if work is not None else []
    known = [each for each in known if each.test or each.development]
    if name is not None and not any(each.study == name for each in known):
        if work is not None and _is_split(name, work):
            raise RlvoError(f"none of its included patients are in study {name}", where=path)
        assert given is not None
        if given.folds.of_study is not None:
            what = f"it will take over the split of study {given.folds.of_study}, which is not in the work folder"
            raise RlvoError(what, where=study, fix="Name the work folder of that study (--workdir)")
        split = make_split(cohort.label, given.folds, cohort.included)
        return examined(cohort, chosen, split, (name,), f"split as study {name} will be", known)
    if name is not None or (known and _are_one(known, cohort)):
        own = next(each for each in reversed(known) if name in (None, each.study))
        cohort, split = _restricted(cohort, own), own.split
        check_split(split, cohort.label, persons(cohort.label, cohort.included))
        return examined(cohort, chosen, split, (own.study,), f"the split of study {own.study}", known)
    folds = FoldsConfig()
    if known:
        held_out = {patient for each in known for patient in each.test}
        split, studies = split_rest(cohort.label, held_out, folds, cohort.included), tuple(each.study for each in known)
        what = f"held out are the hold-outs of studies {', '.join(studies)}; the others are in {folds.folds} new folds"
        return examined(cohort, chosen, split, studies, what, known)
    what = (
        f"no study is known to have these patients: {folds.test_fraction:.0%} are held out at random, seed "
        f"{folds.seed}. A study that splits them otherwise has hold-out patients among those whose outcomes are shown, "
        "and this does not count as an opening: name the study (--study)"
    )
    return examined(cohort, chosen, make_split(cohort.label, folds, cohort.included), (), what, known)


def _is_split(name: str | None, work: Workdir) -> bool:
    """Whether a study of this name has a split."""
    return name is not None and StudyFolder(work.study(name)).split.is_file()


def _examined(
    path: Path,
    mapping: Mapping[str, str] | None,
    cohort: Cohort,
    predictors: tuple[str, ...],
    split: Split,
    studies: tuple[str, ...],
    what: str,
    known: Sequence[SharedPatients],
) -> ExaminedCohort:
    """With a note for every study whose hold-out patients are not held out here."""
    shown = {each.study: len({*each.test} & {*split.development}) for each in known}
    others = (
        f"{count} patients whose outcomes are shown are in the hold-out of study {name}"
        for name, count in shown.items()
        if count
    )
    return ExaminedCohort(cohort, predictors, split, studies, (what, *others), path, mapping)


def _are_one(known: Sequence[SharedPatients], cohort: Cohort) -> bool:
    """Whether studies hold out the same patients, and the last of them has most of the cohort's."""
    last = known[-1]
    return len({each.test for each in known}) == 1 and 2 * len((*last.test, *last.development)) >= len(cohort.label)


def _restricted(cohort: Cohort, study: SharedPatients) -> Cohort:
    """Without included patients who are not in the study, e.g. because it could not use their volumes."""
    return cohort.restricted((*study.test, *study.development), f"not in study {study.study}")


def draw_flow(considered: int, steps: Sequence[FlowStep], label: pd.Series, split: Split) -> Figure:
    """The flow chart of a cohort (Fig. 1), from the table's rows to hold-out and folds."""

    def part(name: str, patients: Sequence[str]) -> Part:
        return Part(name, len(patients), int(label[list(patients)].sum()))

    return flow_chart(
        considered,
        steps,
        part("Development", split.development),
        part("Hold-out", split.test),
        [part(f"Fold {k}", fold) for k, fold in enumerate(split.folds)],
    )


def fit_baselines(examined: ExaminedCohort, work: Workdir | None = None) -> Baselines:
    """Logistic regressions and boosted trees on clinical variables, over the validation folds, and odds ratios.

    With them the linear models of the volumes, if the split is that of a study of the work folder whose ensemble was
    built.
    """
    cohort = examined.cohort
    given = cohort.included, cohort.label, examined.split, examined.predictors
    results = clinical_baselines(*given, own=cohort.own)
    for study in [StudyFolder(work.study(name)) for name in examined.studies] if work is not None else []:
        if study.split.is_file() and read_split(study.split).hash == examined.split.hash:
            results |= read_image_baselines(study, cohort.label)
    validation = {name: results[name].validation for name in DRAWN if name in results}
    odds = clinical_odds(*given, own=cohort.own)
    return Baselines(
        metrics={name: over_folds(result.validation_metrics()) for name, result in results.items()},
        left_out=tuple(name for name in BASELINES if name not in results),
        odds=odds,
        events_per_variable=events_per_variable(cohort.label[list(examined.split.development)], len(odds)),
        validation=validation,
        calibrations={n: measure_calibration(own["label"], own["probability"]) for n, own in validation.items()},
    )


def prepare_volumes(
    path: Path,
    target: Target,
    store: VolumeStore,
    *,
    workers: int | None = None,
    address: str | None = None,
    mapping: Mapping[str, str] | None = None,
    progress: ShowProgress = no_progress,
) -> tuple[PreparedCohort, Path, tuple[str, ...]]:
    """Read, check and register every patient's volumes, find vessels, store them, and draw a contact sheet.

    Outcomes and other columns are not looked at. Patients whose files cannot be used are refused; the others continue.

    Args:
        workers: processes; None: one per core.
        address: Ray cluster to prepare on.
        mapping: our column names to the table's, if they differ.

    Returns:
        What has become of the patients, the contact sheet, and what had to be decided to read the table.

    Raises:
        RlvoError: the table cannot be read or names no volumes, or patients cannot be told apart.
    """
    table, notes = read_volumes_table(path, ("patient_id", *VOLUMES, "occlusion_side"), mapping)
    files = volume_paths(table, path.resolve().parent)
    spread = None
    if address is not None:
        from rlvo.imaging.cluster import prepare_on_cluster  # loads Ray

        spread = partial(prepare_on_cluster, address=address)
    with progress("volumes") as advance:
        prepared = prepare_cohort(
            files, target, store, workers=workers, spread=spread, look_again=True, progress=advance
        )
    prepared = prepared.with_sides(table["occlusion_side"].dropna() if "occlusion_side" in table else {})
    sheet = store.path / "contact-sheets" / path.stem
    with progress("pictures") as advance:
        page = write_contact_sheet(prepared, store, target.grid, sheet, workers=workers, progress=advance)
    return prepared, page, notes


def read_volumes_table(
    path: Path, looked_at: Sequence[str], mapping: Mapping[str, str] | None = None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read the columns `looked_at` of a table that names volumes; others, as outcomes, are not looked at.

    A cell other than an id that cannot be read is missing.

    Args:
        mapping: our column names to the table's, if they differ.

    Returns:
        The typed table, and what had to be decided to read it.

    Raises:
        RlvoError: the table cannot be read or names no volumes, or patients cannot be told apart.
    """
    raw = read_table(path, {ours: theirs for ours, theirs in (mapping or {}).items() if ours in looked_at}, partly=True)
    columns = [name for name in looked_at if name in raw.cells]
    if not {"ncct", "cta"} & set(columns):
        what = "the table has neither a column ncct nor a column cta"
        raise RlvoError(what, where=path, fix="Name each patient's volumes in them")
    table, findings = examine_table(raw.cells[columns], decimal_comma=raw.decimal_comma)
    if nameless := [finding for finding in findings if finding.field == "patient_id"]:
        raise CohortError(nameless, where=path, notes=raw.notes)
    return table, raw.notes
