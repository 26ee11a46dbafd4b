"""Pages about a study's own patients, each explained by the networks that were not trained on them."""

import re
from collections.abc import Sequence
from pathlib import Path

from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.spec import EnsembleSpec, FoldSpec
from rlvo.errors import RlvoError
from rlvo.imaging.store import VolumeStore
from rlvo.inference.description import describe
from rlvo.inference.explanation import Explanation, explain_answer
from rlvo.inference.members import Members
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.inference.training_cohort import summarise
from rlvo.progress import Advance, ShowProgress, no_progress
from rlvo.study.folder import read_declared
from rlvo.study.image_baseline import read_image_models
from rlvo.study.trials import member_weights
from rlvo.synthetic.cohort import has_synthetic
from rlvo.workflows.explanation import ExplainedPatient, occlusion_side, warnings_of
from rlvo.workflows.study import OpenStudy

OPTIMISTIC = "The fold's threshold and weights, and each network's best epoch, were chosen on its validation patients."


def write_patient_pages(
    study: OpenStudy, patients: Sequence[str], folder: Path, *, check: bool = True, progress: ShowProgress = no_progress
) -> list[Path]:
    """Explain development patients by the networks of their own fold, and write a page each; return the pages.

    The pages name the patients, and show their outcome. The hold-out stays closed.

    Args:
        patients: ids.
        folder: where the pages go, `<id>.html`, each with a folder of tables, pictures and maps beside it.
        check: whether to check the saliency maps, which takes most of the time.

    Raises:
        RlvoError: no ensemble was built, or a patient validates none of its folds, or cannot be scored.
        OSError: a page cannot be written.
    """
    spec, inputs = read_declared(study.folder)[STUDY_ENSEMBLE], study.inputs
    folds = {patient: _fold(study, spec, patient) for patient in patients}  # all of them before any work
    pages: list[Path] = []
    for patient, fold in folds.items():
        with progress(f"explaining {patient}") as advance:
            explanation = _explain(study, spec, fold, patient, check, advance)
        by = f"study {study.config.name}: the networks of fold {fold.fold}, which were not trained on this patient"
        explained = ExplainedPatient(
            patient,
            by,
            explanation,
            (OPTIMISTIC, *warnings_of(explanation)),
            occlusion_side(inputs.table, patient),
            outcome=int(inputs.label[patient]),
        )
        name = re.sub(r"[^\w.-]+", "_", patient)
        while (page := folder / f"{name}.html") in pages:
            name += "_"
        explained.write(page)
        pages.append(page)
    return pages


def _fold(study: OpenStudy, spec: EnsembleSpec, patient: str) -> FoldSpec:
    """The fold of the ensemble whose networks were not trained on a patient, who isn't held out either."""
    split, where = study.inputs.split, f"patient {patient}"
    if patient in split.test:
        fix = f"`{study.folder.command('evaluate')}` shows its answers, on record"
        raise RlvoError("belongs to the hold-out", where=where, fix=fix)
    for fold in spec.folds:
        if patient in split.validation(fold.fold):
            return fold
    fix = "Name a development patient of the study"
    raise RlvoError("validates no fold of the study's ensemble", where=where, fix=fix)


def _explain(
    study: OpenStudy, spec: EnsembleSpec, fold: FoldSpec, patient: str, check: bool, advance: Advance
) -> Explanation:
    inputs, named = study.inputs, {member.key: member for member in fold.networks}
    training = list(inputs.split.training(fold.fold))
    alone = spec.model_copy(update={"folds": (fold,), "calibration": None})  # it is the calibration of all folds' mean
    description = describe(
        alone,
        {fold.fold: inputs.encoder(fold.fold)},
        inputs.target,
        table_models=inputs.table_models(alone),
        image_models=read_image_models(study.folder, alone),
        cohort=summarise(
            inputs.table.loc[training],
            inputs.label[training],
            inputs.predictors,
            inputs.own,
            synthetic=has_synthetic(training),
        ),
    )
    networks = Members(lambda key: (member_weights(study.folder, named[key]), None))
    return explain_answer(
        EnsemblePredictor(description, networks),
        inputs.table.loc[[patient]].reset_index(names="patient_id"),
        inputs.cohort_folder,
        store=VolumeStore(study.work.store),
        check=check,
        progress=advance,
    )
