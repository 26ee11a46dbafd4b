"""A cohort before any study: who is included, what is suspect, what clinical variables predict; preparing volumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from rlvo.cohort.leaks import suspected_leaks
from rlvo.cohort.pseudonym import cohort_key
from rlvo.cohort.reading import Cohort, examine_table, read_cohort, volume_paths
from rlvo.cohort.selection import flow
from rlvo.cohort.splits import Split, make_split
from rlvo.cohort.tables import read_table
from rlvo.cohort.variables import VARIABLES, VOLUMES
from rlvo.config.study import PAPER_PREDICTORS, FoldsConfig
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.evaluation.calibration import Calibration, measure_calibration
from rlvo.evaluation.metrics import over_folds
from rlvo.imaging.cohort_preparation import PreparedCohort, prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.progress import ShowProgress, no_progress
from rlvo.report.cohort_page import CohortContents
from rlvo.report.cohort_pictures import Part, flow_chart, missingness_plot
from rlvo.report.contact_sheet import write_contact_sheet
from rlvo.report.table_one import table_one
from rlvo.training.baseline import BASELINES, clinical_baselines, clinical_odds

DRAWN = ("all clinical", "all clinical, boosted")
"""Baselines whose calibration is measured, and drawn beside their decision curves."""


@dataclass(frozen=True, eq=False)
class ExaminedCohort:
    """A sound cohort table, and how a study with default settings would split its included patients."""

    cohort: Cohort
    predictors: tuple[str, ...]
    split: Split

    @cached_property
    def leaks(self) -> list[Finding]:
        """Predictors that alone separate the classes of the development patients: they may be known only afterwards."""
        development = list(self.split.development)
        return suspected_leaks(self.cohort.table.loc[development], self.cohort.label[development], self.predictors)

    @cached_property
    def table_one(self) -> pd.DataFrame:
        """The patients' characteristics, as `rlvo.report.table_one` gives them."""
        return table_one(self.cohort.included, self.cohort.label, self.split.test)

    def contents(self) -> CohortContents:
        """What a page about the cohort shows; the excluded are named by pseudonym."""
        split, cohort = self.split, self.cohort
        steps = flow(cohort.selection, cohort_key(cohort.folder))

        def part(name: str, patients: Sequence[str]) -> Part:
            return Part(name, len(patients), int(cohort.label[list(patients)].sum()))

        chart = flow_chart(
            cohort.selection.considered,
            steps,
            part("Development", split.development),
            part("Test set (held out)", split.test),
            [part(f"Fold {k + 1}", fold) for k, fold in enumerate(split.folds)],
        )
        values = cohort.included.filter([name for name, v in VARIABLES.items() if v.role in ("predictor", "score")])
        missingness = missingness_plot(values) if values.isna().any(axis=None) else None
        return CohortContents(chart, steps, self.table_one, missingness, split.hash, cohort.ignored)


@dataclass(frozen=True, eq=False)
class Baselines:
    """What networks have to beat. Test patients play no part."""

    metrics: dict[str, pd.DataFrame]
    """For each baseline `rlvo.evaluation.metrics.over_folds` of its validation metrics."""
    left_out: tuple[str, ...]
    """Baselines whose columns are missing."""
    odds: pd.DataFrame
    """Odds ratios of one fit to all development patients."""
    validation: dict[str, pd.DataFrame]
    """Validation predictions of the baselines that are drawn."""
    calibrations: dict[str, Calibration]
    """Of the same."""


def examine_cohort(
    path: Path, predictors: Sequence[str] = PAPER_PREDICTORS, mapping: Mapping[str, str] | None = None
) -> ExaminedCohort:
    """Read and check a cohort table, with or without volumes, and split its included patients.

    Args:
        mapping: our column names to the table's, if they differ.

    Raises:
        RlvoError: the file cannot be read as a table.
        CohortError: everything that is wrong with it.
    """
    cohort = read_cohort(path, predictors, need_volumes=False, mapping=mapping)
    return ExaminedCohort(cohort, tuple(predictors), make_split(cohort.label, FoldsConfig(), cohort.included))


def fit_baselines(examined: ExaminedCohort) -> Baselines:
    """Logistic regressions and boosted trees on clinical variables, over the validation folds, and odds ratios."""
    cohort = examined.cohort
    given = cohort.included, cohort.label, examined.split, examined.predictors
    results = clinical_baselines(*given)
    validation = {name: results[name].validation for name in DRAWN if name in results}
    return Baselines(
        metrics={name: over_folds(result.validation_metrics()) for name, result in results.items()},
        left_out=tuple(name for name in BASELINES if name not in results),
        odds=clinical_odds(*given),
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
    progress: ShowProgress = no_progress,
) -> tuple[PreparedCohort, Path]:
    """Read, check and register every patient's volumes, find vessels, store them, and draw a contact sheet.

    Outcomes and other columns are not looked at. Patients whose files cannot be used are refused; the others continue.

    Args:
        workers: processes; None: one per core.
        address: Ray cluster to prepare on.

    Returns:
        What has become of the patients, and the contact sheet.

    Raises:
        RlvoError: the table cannot be read or names no volumes, or patients cannot be told apart.
    """
    raw = read_table(path)
    columns = [name for name in ("patient_id", *VOLUMES, "occlusion_side") if name in raw.cells]
    if not {"ncct", "cta"} & set(columns):
        what = "the table has neither a column ncct nor a column cta"
        raise RlvoError(what, where=path, fix="Name each patient's volumes in them")
    table, findings = examine_table(raw.cells[columns], decimal_comma=raw.decimal_comma)
    if nameless := [finding for finding in findings if finding.field == "patient_id"]:
        raise CohortError(nameless, where=path)
    files = volume_paths(table, path.resolve().parent)
    spread = None
    if address is not None:
        from rlvo.imaging.cluster import prepare_on_cluster  # loads Ray

        spread = partial(prepare_on_cluster, address=address)
    with progress("volumes") as advance:
        prepared = prepare_cohort(files, target, store, workers=workers, spread=spread, verify=True, progress=advance)
    prepared = prepared.with_sides(table["occlusion_side"].dropna() if "occlusion_side" in table else {})
    sheet = store.path / "contact-sheets" / path.stem
    with progress("pictures") as advance:
        page = write_contact_sheet(prepared, store, target.grid, sheet, workers=workers, progress=advance)
    return prepared, page
