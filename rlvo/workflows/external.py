"""Registered models on a cohort they were not made from: who counts, what they answer, and what that is worth.

A model answers in a process of its own and is given what it takes, never an outcome; labels stay here.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from rlvo.cohort.reading import Cohort, cell_text, read_cohort, volume_paths
from rlvo.cohort.selection import select_patients
from rlvo.cohort.tables import read_table
from rlvo.cohort.variables import known_variables
from rlvo.config.base import content_hash
from rlvo.config.predictors import OwnPredictor
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.evaluation.answers import (
    AnswerComparison,
    AnswerPerformance,
    answer_subgroups,
    compare_answers,
    measure_answers,
)
from rlvo.evaluation.subgroups import SubgroupAnalysis
from rlvo.files import atomic_write, csv_text, file_sha256, parse_json
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.inference.description import DESCRIPTION, read_description
from rlvo.progress import ShowProgress, no_progress
from rlvo.registry.admission import AdmittedModel, admit_model
from rlvo.registry.card import add_to_description
from rlvo.registry.client import PatientTable, answer_table, input_columns, own_predictors, shift_warnings
from rlvo.registry.location import ARTIFACT_PATH, is_folder
from rlvo.registry.model import MANIFEST
from rlvo.report.calibration import draw_reliability
from rlvo.report.external import card_lines
from rlvo.study.folder import started_studies
from rlvo.study.membership import patient_marks, recognise, refuse_held_out
from rlvo.workflows.study import tracking_of

FITTED_TO = "fitted_to"
"""Entry of a recalibrated model's provenance: under which keys its patients are noted, with spaces between."""
GIVEN = ("id", "image", "predictor")
"""Roles of the columns that a model may be given."""


@dataclass(frozen=True, eq=False)
class ExternalCohort:
    """Another cohort, checked."""

    path: Path
    cohort: Cohort
    patients: PatientTable
    """The included patients as they were written, without outcomes."""
    lacking: tuple[str, ...]
    """Columns that models take and the table does not have."""


@dataclass(frozen=True, eq=False)
class ExternalQuestion:
    """Verified models and a cohort that none of them was made from. Nothing was asked yet."""

    models: tuple[AdmittedModel, ...]
    external: ExternalCohort
    work: Workdir
    shifts: tuple[str, ...]
    """How the patients differ from those that a single model was trained on, and what could not be checked."""
    stores: tuple[Path | None, ...]
    """Where the patients' volumes are prepared already, for each model."""

    def ask(self, number: int, progress: ShowProgress, description: str) -> pd.DataFrame:
        """A model's answers in the columns of a prediction, index patient id; those given before are not asked for."""
        kept = answers_folder(self.work, self.external.path) / "answered.jsonl"
        kept.parent.mkdir(parents=True, exist_ok=True)
        with progress(description) as advance:
            model, store = self.models[number], self.stores[number]
            params = {} if store is None else {"store": str(store)}
            answers = answer_table(
                model.folder, self.external.patients, caution=model.caution, kept=kept, progress=advance, **params
            )
        return answers.astype({"score": float, "probability": float}).set_index("patient_id")


@dataclass(frozen=True, eq=False)
class ExternalResult:
    """What a model is worth on another cohort, at its frozen thresholds."""

    performance: AnswerPerformance
    subgroups: list[SubgroupAnalysis]
    answers: Path
    """Table of answers and labels."""
    picture: Path | None
    """The reliability curve; None if the model gives no probability."""


def open_external(
    models: Sequence[str],
    table: Path,
    work: Workdir,
    *,
    columns: Mapping[str, str] | None = None,
    ungated: bool = False,
    progress: ShowProgress = no_progress,
) -> ExternalQuestion:
    """Find and verify models, and check that a cohort may be used to evaluate them.

    Args:
        columns: our column name to the table's, if it has another.
        ungated: also take a model that did not pass its gate.
        progress: shows how far the preparation of volumes is, if a model tells which scans it was pretrained on.

    Raises:
        RlvoError: there is no such model, or it did not pass its gate; the table is at fault, no patient is included,
            or it holds patients whom a study of the work folder held out or whom a model was made from, or scans that
            one was pretrained on.
        MachineError: the registry does not answer, or volumes cannot be prepared here.
    """
    tracking = tracking_of(work)
    admitted = tuple(admit_model(name, tracking, ungated=ungated) for name in models)
    roots = [model.folder for model in admitted]
    taken = tuple(dict.fromkeys(name for root in roots for name in input_columns(root)))
    own = tuple(dict.fromkeys(each for root in roots for each in own_predictors(root)))
    external = read_external(table, taken, columns, own)
    # Each model's description is read as it is, whichever rlvo wrote it.
    descriptions = [parse_json((root / ARTIFACT_PATH / DESCRIPTION).read_bytes()) for root in roots]
    _check_strangers(external, {each["variants"][0]["spec"]["split_hash"] for each in descriptions}, work)
    for each in descriptions:
        for key in each["provenance"].get(FITTED_TO, "").split():
            _check_not_fitted_to(external, key, work)
    shifts = shift_warnings(roots[0], external.patients) if len(roots) == 1 else []
    stores = list[Path | None]()
    for root, each in zip(roots, descriptions, strict=True):
        seen = frozenset(each.get("seen_scans", ()))
        stores.append(_check_not_pretrained_on(external, root, seen, work, progress) if seen else None)
        if seen and stores[-1] is None:
            shifts.append("another version of rlvo made the model; scans it was pretrained on are known by file alone")
    return ExternalQuestion(admitted, external, work, tuple(dict.fromkeys(shifts)), tuple(stores))


def evaluate_external(
    question: ExternalQuestion, *, record: str | None = None, progress: ShowProgress = no_progress
) -> ExternalResult:
    """External validation of one registered model; nothing is fitted. Continues where an earlier call was interrupted.

    Args:
        record: title under which the figures are added to the version's description.

    Raises:
        RlvoError: no patient could be scored, or `record` is given for a folder, which has no description.
        MachineError: the model failed; what it answered before is kept.
    """
    ((model, root),) = ((each.name, each.folder) for each in question.models)
    cohort = question.external.cohort
    if record and is_folder(model):
        fix = "Name a registered version, or leave --record out"
        raise RlvoError("a folder has no description that figures could be added to", where=model, fix=fix)
    answers = question.ask(0, progress, "patients")
    performance = measure_answers(answers, cohort.label)
    place = answers_folder(question.work, question.external.path) / f"model-{file_sha256(root / MANIFEST)[:12]}"
    table, picture = place.with_suffix(".csv"), None
    atomic_write(table, csv_text(answers.assign(label=cohort.label).drop(columns="notice").reset_index()))
    if (found := performance.calibration) is not None:
        probability = answers["probability"].dropna()
        label = cohort.label.loc[probability.index].to_numpy(int)
        draw_reliability(place, label, probability.to_numpy(), name="External validation", found=found)
        picture = place.with_suffix(".svg")
    if record:
        considered, included = cohort.selection.considered, len(cohort.selection.included)
        lines = [f"{considered} patients, {considered - included} excluded by the rules of the development cohort"]
        if question.external.lacking:
            lines.append(f"columns that were missing: {', '.join(question.external.lacking)}")
        name, _, version = model.rpartition("/")
        add_to_description(tracking_of(question.work), name, version, record, [*lines, *card_lines(performance)])
    return ExternalResult(performance, answer_subgroups(answers, cohort.label, cohort.included), table, picture)


def compare_models(question: ExternalQuestion, *, progress: ShowProgress = no_progress) -> AnswerComparison:
    """Two registered models on the same patients of another cohort. Raises as `evaluate_external`."""
    a, b = (question.ask(number, progress, model.name) for number, model in enumerate(question.models))
    return compare_answers(a, b, question.external.cohort.label)


def read_external(
    path: Path,
    taken: Sequence[str],
    columns: Mapping[str, str] | None = None,
    own: Sequence[OwnPredictor] = (),
) -> ExternalCohort:
    """Read, check and select another cohort, as a study's own is (section 2.2, Fig. 1).

    Args:
        path: its table.
        taken: columns that the models take; those the table lacks, or has empty, are missing for every patient.
        columns: our column name to the table's, if it has another.
        own: the declarations of the models' predictors that rlvo does not know.

    Raises:
        RlvoError: the table or cells of it are at fault, or no patient is included.
    """
    raw, variables = read_table(path, columns, partly=True, own=own), known_variables(own)
    wanted = [name for name in taken if name in variables and variables[name].role == "predictor"]
    filled = [name for name in wanted if name in raw.cells and raw.cells[name].map(cell_text).any()]
    cohort = read_cohort(path, filled, own, mapping=columns, partly=True)
    cohort = replace(cohort, selection=select_patients(cohort.table, wanted))
    if not cohort.selection.included:
        counts = ", ".join(f"{each.rule} {len(each.patients)}" for each in cohort.selection.excluded if each.patients)
        raise RlvoError(f"no patient meets the inclusion criteria; excluded: {counts}", where=path)
    given = [name for name in map(str, raw.cells) if name in variables and variables[name].role in GIVEN]
    written = replace(raw, cells=raw.cells.loc[cohort.table.index.isin(cohort.selection.included), given])
    patients = PatientTable(written, cohort.included, path.resolve().parent)
    return ExternalCohort(path, cohort, patients, tuple(name for name in wanted if name not in filled))


def answers_folder(work: Workdir, cohort: Path) -> Path:
    """Where answers to a table's patients are kept: they name patients, so they stay in the work folder."""
    place = hashlib.sha256(str(cohort.resolve()).encode()).hexdigest()[:8]
    return work.path / "external" / f"{cohort.stem}-{place}"


def _check_strangers(external: ExternalCohort, splits: set[str], work: Workdir) -> None:
    """Raise RlvoError if patients are in the hold-out of a study of the work folder, or a model was made from them."""
    for shared in refuse_held_out(external.cohort.included, started_studies(work.studies), external.path):
        if shared.development and shared.split_hash in splits:
            raise RlvoError(
                f"the model was made from {len(shared.development)} of these patients, say {shared.development[0]}",
                where=external.path,
                fix="Leave them out: the model's performance on them would be optimistic",
            )


def _check_not_pretrained_on(
    external: ExternalCohort, model: Path, seen: frozenset[str], work: Workdir, progress: ShowProgress
) -> Path | None:
    """Raise RlvoError if scans of the cohort are among those that a model's networks were pretrained on.

    They are known by their files, and in another format once prepared: the store is returned in which they are then.
    None if this rlvo prepares volumes differently than for the model.
    """
    files, store = volume_paths(external.cohort.included, external.path.resolve().parent), VolumeStore(work.store)
    _refuse_seen(external, {patient: _scans(store, own) & seen for patient, own in files.items()})
    try:
        target = read_description(model / ARTIFACT_PATH).target
    except RlvoError:
        return None
    with progress("preparing volumes") as advance:
        prepared = prepare_cohort(files, target, store, progress=advance).prepared
    _refuse_seen(external, {name: _scans(store, files[name], each.address) & seen for name, each in prepared.items()})
    return store.path


def _refuse_seen(external: ExternalCohort, seen: Mapping[str, frozenset[str]]) -> None:
    if known := [patient for patient, scans in seen.items() if scans]:
        raise RlvoError(
            f"the model's networks were pretrained on scans of {len(known)} of these patients, say {known[0]}",
            where=external.path,
            fix="Leave them out: the model's performance on them would be optimistic",
        )


def _scans(store: VolumeStore, files: Mapping[str, Path | None], address: str | None = None) -> frozenset[str]:
    """What a patient's scans are recognised by; nothing if they cannot be read, as the model will say."""
    try:
        return store.scans(files, address)
    except RlvoError:
        return frozenset()


def note_fitted_patients(table: pd.DataFrame, work: Workdir) -> str:
    """Note in the work folder to which patients probabilities were fitted; return the key to find them by."""
    marks = patient_marks(table)
    key = content_hash(marks)[:12]
    place = _fitted_patients(key, work)
    place.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(place, json.dumps(marks))
    return key


def _check_not_fitted_to(external: ExternalCohort, key: str, work: Workdir) -> None:
    """Raise RlvoError if a model's probabilities were fitted to patients of the cohort, as far as is known here."""
    if not (place := _fitted_patients(key, work)).is_file():
        return
    known = recognise(patient_marks(external.cohort.included), parse_json(place.read_bytes()))
    if known:
        raise RlvoError(
            f"the model was recalibrated on {len(known)} of these patients, say {min(known)}",
            where=external.path,
            fix="Leave them out: the probabilities were fitted to them",
        )


def _fitted_patients(key: str, work: Workdir) -> Path:
    return work.path / "recalibrated" / f"{key}.json"
