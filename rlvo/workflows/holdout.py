"""A study's hold-out: opened for its frozen ensembles and the clinical baselines only, every opening on record."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from rlvo.config.base import content_hash
from rlvo.ensemble.build import STUDY_ENSEMBLE, validation_metrics
from rlvo.ensemble.spec import EnsembleSpec, MemberSpec, first_names
from rlvo.errors import RlvoError
from rlvo.evaluation.answers import answer_subgroups
from rlvo.evaluation.performance import Performance, measure_performance
from rlvo.evaluation.power import AucPower, auc_power
from rlvo.evaluation.predictions import COLUMNS, write_predictions
from rlvo.evaluation.subgroups import SubgroupAnalysis
from rlvo.files import atomic_write, csv_text, parse_json, read_csv
from rlvo.imaging.store import VolumeStore
from rlvo.inference.description import ModelDescription, read_description
from rlvo.inference.members import Members
from rlvo.inference.patients import CheckedTable
from rlvo.inference.predictor import PatientAnswers, ask_members, shape_answers
from rlvo.progress import Advance
from rlvo.report.baselines import baseline_performance
from rlvo.report.tables import ModelResults
from rlvo.study.folder import StudyFolder, read_declared
from rlvo.study.openings import Opening, Openings
from rlvo.study.trials import member_weights
from rlvo.workflows.holdout_questions import PairedTest, Usefulness, draw_usefulness, paired_tests, usefulness
from rlvo.workflows.study import OpenStudy, ReadStudy

PERFORMANCES = TypeAdapter(dict[str, Performance])
ANSWER_TYPES: dict[str, str] = {"patient_id": "str", "rlvo": "Int64", "votes": "Int64"}


@dataclass(frozen=True, eq=False)
class HoldOut:
    """What one opening showed."""

    opening: int
    """How often patients of this hold-out have been opened, this time included."""
    seen_before: int
    """How many of them had been opened before, in this hold-out or another one."""
    unknown: int
    """How many earlier openings were of patients who are no longer known, and may be among these."""
    ensembles: dict[str, Performance]
    """By ensemble, the study's own first."""
    baselines: dict[str, Performance]
    """By clinical baseline."""
    answers: pd.DataFrame
    """One row per ensemble and patient: `ensemble`, `label`, and the columns of a prediction but the notice."""

    @property
    def own_answers(self) -> pd.DataFrame:
        """Those of the study's own ensemble, index patient id."""
        return self.answers[self.answers["ensemble"] == STUDY_ENSEMBLE].set_index("patient_id")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One opening of a study's hold-out, beside the validation."""

    holdout: HoldOut
    models: dict[str, ModelResults]
    """The clinical baselines on the same folds, then every declared ensemble, the study's own first."""
    subgroups: list[SubgroupAnalysis]
    """The study's own ensemble by sex, age, site, center and etiology."""
    tests: list[PairedTest]
    """The study's ensemble against the clinical baseline, and every fusion against images alone."""
    usefulness: dict[str, Usefulness]
    """Calibration and net benefit of the study's ensemble, then of the clinical baseline."""
    pictures: list[Path]
    """Of the same."""
    power: AucPower
    """What so many patients can show."""


def kept_evaluation(study: ReadStudy) -> Evaluation | None:
    """What the last opening showed of the study's declared ensembles, opening nothing; None if they were not evaluated.

    Raises RlvoError if the kept files are damaged.
    """
    if not study.folder.declared.is_file():
        return None
    specs = read_declared(study.folder)
    holdout = kept_holdout(study.folder, specs)
    return evaluation_of(study, specs, holdout) if holdout is not None else None


def open_holdout(
    study: OpenStudy,
    specs: Mapping[str, EnsembleSpec],
    openings: Openings,
    *,
    reason: str | None = None,
    advance: Advance | None = None,
) -> HoldOut:
    """As `open_together`, for one study."""
    return open_together([(study, specs)], openings, reason=reason, advance=advance)[0]


def open_together(
    studies: Sequence[tuple[OpenStudy, Mapping[str, EnsembleSpec]]],
    openings: Openings,
    *,
    reason: str | None = None,
    advance: Advance | None = None,
) -> list[HoldOut]:
    """Evaluate frozen ensembles and the clinical baselines in one opening, asking each member once per patient.

    The opening is put on record before anything is compared with a label. Figures, predictions and answers are kept
    in each study's folder.

    Args:
        studies: each with ensembles of its trials, by name; all hold out the same patients. The opening is recorded
            in the name of the first.
        openings: the log that the opening goes to.
        reason: why, if the hold-out was opened before.

    Raises:
        RlvoError: the hold-out was opened before and no reason is given, an ensemble belongs to another split, the
            studies hold out different patients, or a member's files were altered.
    """
    first = studies[0][0]
    descriptions = [read_description(study.folder.model) for study, _ in studies]
    for (study, specs), description in zip(studies, descriptions, strict=True):
        if strangers := sorted(n for n, spec in specs.items() if spec.split_hash != description.spec.split_hash):
            fix = f"Build them again: {study.folder.command('ensemble')}"
            raise RlvoError(f"built on another split: {', '.join(strangers)}", where=study.config.name, fix=fix)
        if {*study.inputs.split.test} != {*first.inputs.split.test}:
            raise RlvoError(f"{study.config.name} holds out other patients", where=first.config.name)
    split_hash, patients = descriptions[0].spec.split_hash, first.inputs.marks(first.inputs.split.test)
    openings.check_may_open(split_hash, reason, patients)
    answers, count = [], len(first.test)
    for number, ((study, specs), description) in enumerate(zip(studies, descriptions, strict=True)):
        shown = None if advance is None else partial(_advance, advance, number * count, len(studies) * count)
        answers.append(ask(study, description, _networks(specs), study.test, shown))
    hashes = {
        name if study is first else f"{study.config.name}: {name}": each
        for study, specs in studies
        for name, each in _hashes(specs).items()
    }
    opening = openings.append(split_hash, first.config.name, hashes, reason, patients)
    return [
        _measure(study, specs, given, opening, description.notice)
        for (study, specs), given, description in zip(studies, answers, descriptions, strict=True)
    ]


def _advance(advance: Advance, before: int, total: int, done: int, _: int) -> None:
    advance(before + done, total)


def _networks(specs: Mapping[str, EnsembleSpec]) -> dict[str, MemberSpec]:
    return {member.key: member for spec in specs.values() for member in spec.networks}


def _measure(
    study: OpenStudy,
    specs: Mapping[str, EnsembleSpec],
    answers: Sequence[PatientAnswers],
    opening: Opening,
    notice: str,
) -> HoldOut:
    """Compare a study's answers with the labels, and keep what that shows."""
    folder, label = study.folder, study.inputs.label
    truth = label.loc[[answer.patient for answer in answers]].to_numpy(int)
    tables = {name: shape_answers(spec, answers, notice).drop(columns="notice") for name, spec in specs.items()}
    for table in tables.values():
        table.insert(1, "label", truth)
    performance = baseline_performance(study.baselines, study.test, label)
    holdout = HoldOut(
        opening.opening,
        opening.seen_before,
        opening.unknown,
        {
            name: measure_performance(own["label"], own["score"], own["rlvo"].to_numpy(float, na_value=np.nan))
            for name, own in tables.items()
        },
        {name: model.holdout for name, model in performance.items()},
        pd.concat(tables, names=["ensemble"]).reset_index("ensemble").reset_index(drop=True),
    )
    write_predictions(_member_predictions(specs, answers, truth), folder.holdout_members)
    atomic_write(folder.holdout_answers, csv_text(holdout.answers))
    kept = {
        "figures": PERFORMANCES.dump_python(holdout.ensembles),
        "baselines": PERFORMANCES.dump_python(holdout.baselines),
    }
    counts = {"opening": holdout.opening, "seen_before": holdout.seen_before, "unknown": holdout.unknown}
    atomic_write(folder.holdout_figures, json.dumps({**counts, "ensembles": _hashes(specs), **kept}, indent=1))
    return holdout


def kept_holdout(folder: StudyFolder, specs: Mapping[str, EnsembleSpec]) -> HoldOut | None:
    """What the last opening showed of these ensembles; None if they were not evaluated.

    Raises RlvoError if the kept files are damaged.
    """
    path = folder.holdout_figures
    try:
        kept = parse_json(path.read_bytes())
        if kept["ensembles"] != _hashes(specs):
            return None
        ensembles, baselines = (PERFORMANCES.validate_python(kept[name]) for name in ("figures", "baselines"))
        answers = read_csv(folder.holdout_answers, ANSWER_TYPES).fillna({"warnings": ""})
        seen_before, unknown = kept.get("seen_before", 0), kept.get("unknown", 0)
        return HoldOut(kept["opening"], seen_before, unknown, ensembles, baselines, answers)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise RlvoError("damaged", where=path, fix="Put the file back; the log says when it was written") from None


def _hashes(specs: Mapping[str, EnsembleSpec]) -> dict[str, str]:
    return {name: content_hash(spec) for name, spec in specs.items()}


def ask(
    study: OpenStudy,
    description: ModelDescription,
    members: Mapping[str, MemberSpec],
    table: pd.DataFrame,
    advance: Advance | None,
) -> list[PatientAnswers]:
    """What each of the networks, by its key, says of each patient of a table, and the linear models.

    Args:
        description: of the study's own ensemble, whose encoders, linear models, grid and preparation are those of all.
    """
    networks = Members(lambda key: (member_weights(study.folder, members[key]), None))
    channels = tuple(dict.fromkeys(c for member in members.values() for c in member.configuration.model.channels))
    rows = CheckedTable.read(
        table.reset_index(names="patient_id"), study.inputs.cohort_folder, description.predictors, description.own
    )
    store = VolumeStore(study.work.store)
    prepared = rows.prepare(description.target, [channels], store=store, progress=advance)
    return [ask_members(networks, members, description.variants[0], patient) for patient in prepared]


def _member_predictions(
    specs: Mapping[str, EnsembleSpec], answers: Sequence[PatientAnswers], truth: np.ndarray
) -> pd.DataFrame:
    """The answered patients in the columns of `rlvo.evaluation.predictions`."""
    members = {member.key: member for spec in specs.values() for member in spec.members}
    rows = [
        (answer.patient, key, member.fold, "test", answer.probabilities[key], label)
        for key, member in members.items()
        for answer, label in zip(answers, truth, strict=True)
        if key in answer.probabilities
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).dropna(subset="probability")


def evaluation_of(study: ReadStudy, specs: Mapping[str, EnsembleSpec], holdout: HoldOut) -> Evaluation:
    """What an opening answers, beside the validation; its pictures go to the study's folder."""
    predictions = study.ended_trials().predictions
    validation = {name: result.validation_metrics() for name, result in study.baselines.items()}
    validation |= {name: validation_metrics(spec, predictions) for name, spec in specs.items()}
    shown = {**holdout.baselines, **holdout.ensembles}
    first = first_names(specs)
    models = {
        name: ModelResults(validation[name], found, same_as=first[name] if first.get(name, name) != name else None)
        for name, found in shown.items()
    }
    label = study.inputs.label
    subgroups = answer_subgroups(holdout.own_answers, label, study.inputs.table)
    answers = {str(name): own.set_index("patient_id") for name, own in holdout.answers.groupby("ensemble", sort=False)}
    answers |= {name: result.score(study.test) for name, result in study.baselines.items()}
    useful = usefulness(answers, label)
    pictures = draw_usefulness(study.folder, useful, answers, label)
    own_figures = holdout.ensembles[STUDY_ENSEMBLE]
    power = auc_power(own_figures.patients, own_figures.positives)
    return Evaluation(holdout, models, subgroups, paired_tests(specs, answers, label), useful, pictures, power)
