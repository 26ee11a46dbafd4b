"""What a study's ensemble relies on and where it looks: sections of the report that take volumes, networks, minutes.

All of it is about validation patients, each seen by the networks that were not trained on it; the hold-out stays
closed. The sections are kept in the study's folder, and shown as long as they are about its ensemble.
"""

from collections.abc import Iterator, Mapping

import pandas as pd

from rlvo.config.base import content_hash
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.fitting import Validation, score_patients
from rlvo.ensemble.spec import EnsembleSpec, FoldSpec
from rlvo.errors import RlvoError
from rlvo.explain.examples import RULE, Example, choose_examples
from rlvo.imaging.store import open_volumes
from rlvo.inference.description import Variant
from rlvo.inference.members import Members
from rlvo.inference.patients import Patient
from rlvo.inference.saliency import explain, patient_views
from rlvo.progress import ShowProgress, no_progress
from rlvo.report.exhibit import Section
from rlvo.report.importance import importance_exhibits
from rlvo.report.kept_section import keep_section, kept_section
from rlvo.report.saliency_examples import ShownExample, examples_exhibit
from rlvo.study.folder import read_declared
from rlvo.study.trials import member_weights
from rlvo.workflows.importance import readers, variable_importance
from rlvo.workflows.study import OpenStudy, ReadStudy

SECTIONS = ("importance", "saliency")
SALIENCY = (
    "Grad-CAM (Selvaraju et al. 2017) of the last feature map: where the image speaks for rLVO, before and after the "
    "fusion with the table. Maps are means over the networks of the patient's fold; 1 is an even spread. Slices go "
    "through the maximum after the fusion. Two checks stand below: a map that stays alike if the weights are shuffled "
    "(Adebayo et al. 2018), or whose order of deletion is no better than chance (Petsiuk et al. 2018), says nothing "
    "about the networks and is marked."
)


def explain_study(study: OpenStudy, *, progress: ShowProgress = no_progress) -> list[Section]:
    """Make the sections about the study's own ensemble, and keep them for its report.

    Raises RlvoError if no ensemble was built, or a trial is missing or altered.
    """
    spec = read_declared(study.folder)[STUDY_ENSEMBLE]
    sections = []
    for section in (_importance(study, spec, progress), _saliency(study, spec, progress)):
        keep_section(section, study.folder.explanations / section.anchor, content_hash(spec))
        sections.append(section)
    return sections


def kept_explanations(study: ReadStudy) -> list[Section]:
    """The sections that were made of the study's ensemble as it is now."""
    try:
        subject = content_hash(read_declared(study.folder)[STUDY_ENSEMBLE])
    except RlvoError:  # none was built
        return []
    found = (kept_section(study.folder.explanations / name, subject) for name in SECTIONS)
    return [section for section in found if section is not None]


def _importance(study: OpenStudy, spec: EnsembleSpec, progress: ShowProgress) -> Section:
    title = "What the networks take from the table"
    if not any(readers(fold, spec.weighting) for fold in spec.folds):
        return Section("importance", title, ["No network of the ensemble reads the table and has a say."])
    found = variable_importance(study, progress=progress)
    text = "Of the study's ensemble, on the validation patients of its folds. It describes the networks, not patients."
    return Section("importance", title, [text], importance_exhibits(found, study.inputs.predictors))


def _saliency(study: OpenStudy, spec: EnsembleSpec, progress: ShowProgress) -> Section:
    title = "Where the networks look (Fig. 3)"
    examples, exhibits = [], []
    chosen = list(_choose(study, spec))
    with progress("saliency") as advance:
        for number, (example, fold, own) in enumerate(chosen, 1):
            shown = _look(study, spec, fold, example, own)
            volumes = open_volumes(study.inputs.volumes[example.patient])
            examples.append(shown)
            exhibits.append(shown.exhibit(number, volumes, study.config.grid))
            advance(number, len(chosen))
    if not examples:
        return Section("saliency", title, ["There are no true positives, false positives or false negatives to show."])
    return Section("saliency", title, [SALIENCY, f"Who is shown: {RULE}"], [examples_exhibit(examples), *exhibits])


def _choose(study: OpenStudy, spec: EnsembleSpec) -> Iterator[tuple[Example, FoldSpec, dict[str, float]]]:
    """The patients to show, with their fold, and what its networks say: `label`, `score`, `vote`, probabilities."""
    validation = Validation.of(study.ended_trials().predictions)
    parts = []
    for fold in spec.folds:
        table = validation.table(fold.fold, spec.contenders)
        parts.append(score_patients(fold, table, spec.weighting).join(table.drop(columns="label")))
    answers = pd.concat(parts)
    rows, folds = answers.to_dict("index"), {fold.fold: fold for fold in spec.folds}
    for example in choose_examples(answers["label"], answers["vote"], answers["score"]):
        own = {str(name): float(value) for name, value in rows[example.patient].items()}
        yield example, folds[int(own["fold"])], own


def _look(
    study: OpenStudy, spec: EnsembleSpec, fold: FoldSpec, example: Example, own: Mapping[str, float]
) -> ShownExample:
    """Ask the fold's networks where they look in one of its validation patients."""
    inputs, patient = study.inputs, example.patient
    named = {member.key: member for member in fold.networks}
    networks = Members(lambda name: (member_weights(study.folder, named[name]), None))
    labels = {member.configuration.key: member.configuration.label for member in named.values()}
    if len({*labels.values()}) < len(labels):
        labels = {key: f"{label} {key}" for key, label in labels.items()}
    alone = spec.model_copy(update={"folds": (fold,)})
    variant = Variant(name=STUDY_ENSEMBLE, spec=alone, encoders={fold.fold: inputs.encoder(fold.fold)})
    looked_at = Patient(patient, inputs.table.loc[[patient]], open_volumes(inputs.volumes[patient]), ())
    saliency = explain(patient_views(networks, named, variant, looked_at))
    return ShownExample(
        example,
        fold.fold,
        int(own["label"]),
        int(own["vote"]),
        own["score"],
        {label: own[key] for key, label in labels.items()},
        saliency.maps["all"],
        saliency.checks,
    )
