"""How far an ensemble's folds disagree about patients who are new to all of them."""

import json
import math
from collections.abc import Mapping

import numpy as np

from rlvo.config.base import content_hash
from rlvo.ensemble.calibration import disagreement
from rlvo.ensemble.spec import EnsembleSpec, fold_margins
from rlvo.files import atomic_write, parse_json
from rlvo.inference.description import describe
from rlvo.progress import ShowProgress
from rlvo.study.folder import StudyFolder
from rlvo.study.image_baseline import read_image_models
from rlvo.workflows.holdout import ask
from rlvo.workflows.study import OpenStudy

UNLABELLED = 24
"""On so many patients of the hold-out, at most, the folds' disagreement is measured: with 4 folds, to some 15 %."""


def measure_disagreement(
    study: OpenStudy, champion: EnsembleSpec, specs: Mapping[str, EnsembleSpec], progress: ShowProgress
) -> dict[str, float]:
    """How much the folds disagree, by name, for those ensembles whose members are all the champion's, asked alike.

    Patients who are new to every fold are those of the hold-out: the members are asked about some of them, and no label
    is looked at. Nothing is measured if the study's calibrators are for single folds.
    """
    if study.config.ensemble.calibrated_to != "answers":
        return {}
    members, networks = {m.key for m in champion.members}, {m.key: m for m in champion.networks}
    own = {
        name: spec
        for name, spec in specs.items()
        if {m.key for m in spec.members} <= members and not any(m.absent for m in spec.members)
    }
    keys = {name: content_hash(spec) for name, spec in own.items()}
    measured = read_disagreements(study.folder)
    if not set(keys.values()) <= set(measured):
        table = study.test.sample(min(UNLABELLED, len(study.test)), random_state=0)
        encoders = {fold.fold: study.inputs.encoder(fold.fold) for fold in champion.folds}
        with progress("folds' disagreement") as advance:
            models, linear = study.inputs.table_models(champion), read_image_models(study.folder, champion)
            target = study.inputs.target
            description = describe(champion, encoders, target, table_models=models, image_models=linear)
            asked = ask(study, description, networks, table, advance)
        answers = {key: np.array([each.probabilities.get(key, np.nan) for each in asked]) for key in members}
        measured |= {keys[name]: disagreement(fold_margins(spec, answers)) for name, spec in own.items()}
        atomic_write(study.folder.disagreement, json.dumps(measured))
    return {name: measured[key] for name, key in keys.items() if math.isfinite(measured[key])}


def read_disagreements(folder: StudyFolder) -> dict[str, float]:
    """Those measured so far; a damaged file is measured again."""
    try:
        return dict(parse_json(folder.disagreement.read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}
