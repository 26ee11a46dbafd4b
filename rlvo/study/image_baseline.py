"""The linear model of the volumes as a study's baseline, and as a member: fitted once per fold, kept in its folder.

What it says of the hold-out's patients is kept too, without a label, and the models themselves. What was fitted by
another algorithm (`training.linear_image.VERSION`), or to other patients, is not shown, and fitted anew.
"""

import numpy as np
import pandas as pd
from pydantic import ValidationError

from rlvo.config.base import Frozen, content_hash
from rlvo.config.grid import Grid
from rlvo.ensemble.spec import IMAGE as ALONE
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError, get_logger
from rlvo.evaluation.predictions import COLUMNS
from rlvo.evaluation.thresholds import youden_threshold
from rlvo.files import atomic_write, csv_text, read_csv
from rlvo.progress import ShowProgress
from rlvo.study.folder import StudyFolder, read_hashes
from rlvo.study.inputs import StudyInputs
from rlvo.training.baseline import BaselineResult, StoredFold
from rlvo.training.linear_image import CHANNELS, VERSION, common_channels, fit_linear_images, read_blocks
from rlvo.training.linear_model import LinearImage
from rlvo.training.records import linear_member_key

logger = get_logger(__name__)

IMAGE, JOINT = "linear image", "linear image + table"
"""The baselines' names."""
TYPES = {"baseline": "str", "patient": "str", "fold": "int64", "split": "str", "probability": "float64"}
ORIGIN = "origin"
"""Column with what all rows were fitted by and to (`_origin`)."""


class _Models(Frozen):
    """The fitted models."""

    origin: str
    models: dict[str, dict[int, LinearImage]]
    """By the baseline's name, and fold."""


def fit_image_baselines(
    study: StudyFolder, inputs: StudyInputs, grid: Grid, progress: ShowProgress, *, need_models: bool = False
) -> None:
    """Fit the baselines of the volumes to each fold's training patients, unless that was done before, and as now.

    Heads are turned to the affected side if the study's predictors tell it; if a patient's side is missing, the head
    stays as it is.

    Args:
        need_models: also fit them if only what they say was kept, as older versions of rlvo did.

    Raises PatientError if a volume is damaged.
    """
    origin = _origin(inputs.data_hash, inputs.split.hash)
    if study.image_baselines.exists() and _written_by(_read(study)) == origin:
        kept = _read_models(study) if need_models else None
        if not need_models or (kept is not None and kept.origin == origin):
            return
    split, ids = inputs.split, tuple(inputs.table.index)
    knows_side = "occlusion_side" in inputs.predictors
    is_right = (inputs.table["occlusion_side"] == "right").to_numpy(bool) if knows_side else np.zeros(len(ids), bool)
    patients = inputs.patients(ids, inputs.encoder(0))
    channels = common_channels(patients)
    if lacking := sorted({*CHANNELS} - {*channels}):
        what = "the linear model of the volumes goes without %s: not every patient's is in the store"
        logger.warning(what, " and ".join(lacking))
    with progress("linear image") as advance:
        blocks = read_blocks(patients, grid.spacing, is_right, advance)
    row = {patient: number for number, patient in enumerate(ids)}
    parts = []
    models: dict[str, dict[int, LinearImage]] = {IMAGE: {}, JOINT: {}}
    for fold in range(len(split.folds)):
        training, asked = split.training(fold), [*split.validation(fold), *split.test]
        encoder = inputs.encoder(fold)
        known, new = ([row[patient] for patient in patients] for patients in (training, asked))
        table, other = (encoder.transform(inputs.table.iloc[own]) for own in (known, new))
        alone, with_table = fit_linear_images(blocks[known], inputs.label[list(training)], table, channels)
        for name, model in ((IMAGE, alone), (JOINT, with_table)):
            models[name][fold] = model
            where = np.where(np.isin(asked, split.test), "test", "validation")
            said = {"patient": asked, "split": where, "probability": model.predict(blocks[new], other)}
            parts.append(pd.DataFrame({"baseline": name, "fold": fold, **said}))
    rows = pd.concat(parts, ignore_index=True)[list(TYPES)].assign(**{ORIGIN: origin})
    atomic_write(study.image_models, _Models(origin=origin, models=models).model_dump_json())
    atomic_write(study.image_baselines, csv_text(rows))


def read_image_models(study: StudyFolder, spec: EnsembleSpec) -> dict[int, LinearImage]:
    """The linear models of the volumes of an ensemble's folds; none if they are not its members.

    Raises RlvoError if they are not there, or not of the study's patients and this version of rlvo.
    """
    if spec.linear_image is None:
        return {}
    kept = _read_models(study)
    if kept is None or kept.origin != _current_origin(study):
        what = "the linear models of the volumes are missing, damaged or of another version of rlvo"
        raise RlvoError(what, where=study.image_models, fix=f"Build the ensemble again: {study.command('ensemble')}")
    of_folds = kept.models[IMAGE if spec.linear_image == ALONE else JOINT]
    return {fold.fold: of_folds[fold.fold] for fold in spec.folds}


def image_predictions(study: StudyFolder, label: pd.Series) -> pd.DataFrame:
    """What the baselines of the volumes say of each fold's validation patients: columns of `evaluation.predictions`.

    None if they were not fitted, or, without a word (`read_image_baselines` warns), otherwise than now.
    """
    if not study.image_baselines.exists() or _written_by(_read(study)) != _current_origin(study):
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat([each.validation for each in read_image_baselines(study, label).values()], ignore_index=True)


def read_image_baselines(study: StudyFolder, label: pd.Series) -> dict[str, BaselineResult]:
    """The baselines of the volumes by name; none if they were not fitted, or, which is warned of, otherwise than now.

    Args:
        label: 0 or 1, by patient id.

    Raises RlvoError if the file is damaged.
    """
    if not study.image_baselines.exists():
        return {}
    rows, results = _read(study), dict[str, BaselineResult]()
    if _written_by(rows) != _current_origin(study):
        what = "the linear models of the volumes are of another version of rlvo and left out; '%s' fits them anew"
        logger.warning(what, study.command("ensemble"))
        return {}
    for name, own in rows.drop(columns=ORIGIN).groupby("baseline", sort=False):
        folds, predictions = [], []
        for fold, of_fold in own.groupby("fold"):
            validation = of_fold[of_fold["split"] == "validation"].drop(columns="baseline")
            truth = label.loc[validation["patient"]].to_numpy(int)
            threshold = youden_threshold(truth, validation["probability"])
            folds.append(StoredFold(of_fold.set_index("patient")["probability"], threshold))
            key = linear_member_key(int(str(fold)), with_table=name == JOINT)
            predictions.append(validation.assign(member=key, label=truth))
        results[str(name)] = BaselineResult((), tuple(folds), pd.concat(predictions, ignore_index=True))
    return results


def _origin(data_hash: str, split_hash: str) -> str:
    """Twelve hex digits: the algorithm, the patients' labels, predictors and volumes, and the split."""
    return content_hash({"version": VERSION, "data_hash": data_hash, "split_hash": split_hash})[:12]


def _current_origin(study: StudyFolder) -> str:
    hashes = read_hashes(study)
    return _origin(hashes["data_hash"], hashes["split_hash"])


def _read_models(study: StudyFolder) -> _Models | None:
    """Those that are kept; None if they are not there, or damaged."""
    try:
        return _Models.model_validate_json(study.image_models.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _read(study: StudyFolder) -> pd.DataFrame:
    return read_csv(study.image_baselines, {**TYPES, ORIGIN: "str"})


def _written_by(rows: pd.DataFrame) -> str | None:
    """The origin of what was read; None if it was written before there was one."""
    return str(rows[ORIGIN].iloc[0]) if ORIGIN in rows and len(rows) else None
