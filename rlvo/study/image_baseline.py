"""The linear model of the volumes as a study's baseline: fitted once per fold, kept in the study's folder.

What it says of the hold-out's patients is kept too, without a label. What was fitted by another algorithm
(`training.linear_image.VERSION`), or to other patients, is not shown, and fitted anew.
"""

import numpy as np
import pandas as pd

from rlvo.config.base import content_hash
from rlvo.config.grid import Grid
from rlvo.errors import get_logger
from rlvo.evaluation.thresholds import youden_threshold
from rlvo.files import atomic_write, csv_text, read_csv
from rlvo.progress import ShowProgress
from rlvo.study.folder import StudyFolder, read_hashes
from rlvo.study.inputs import StudyInputs
from rlvo.training.baseline import BaselineResult, StoredFold
from rlvo.training.linear_image import VERSION, LinearImage, read_blocks

logger = get_logger(__name__)

IMAGE, JOINT = "linear image", "linear image + table"
MEMBERS = {IMAGE: "linear-image", JOINT: "linear-image-table"}
"""The baselines' names, and what they are in `evaluation.predictions`, without the fold."""
TYPES = {"baseline": "str", "patient": "str", "fold": "int64", "split": "str", "probability": "float64"}
ORIGIN = "origin"
"""Column with what all rows were fitted by and to (`_origin`)."""


def fit_image_baselines(study: StudyFolder, inputs: StudyInputs, grid: Grid, progress: ShowProgress) -> None:
    """Fit the baselines of the volumes to each fold's training patients, unless that was done before, and as now.

    Heads are turned to the affected side if the study's predictors tell it.

    Raises PatientError if a volume is damaged.
    """
    origin = _origin(inputs.data_hash, inputs.split.hash)
    if study.image_baselines.exists() and _written_by(_read(study)) == origin:
        return
    split, ids = inputs.split, tuple(inputs.table.index)
    knows_side = "occlusion_side" in inputs.predictors
    is_right = (inputs.table["occlusion_side"] == "right").to_numpy(bool) if knows_side else np.zeros(len(ids), bool)
    with progress("linear image") as advance:
        blocks = read_blocks(inputs.patients(ids, inputs.encoder(0)), grid.spacing, is_right, advance)
    row = {patient: number for number, patient in enumerate(ids)}
    parts = []
    for fold in range(len(split.folds)):
        training, asked = split.training(fold), [*split.validation(fold), *split.test]
        encoder = inputs.encoder(fold)
        known, new = ([row[patient] for patient in patients] for patients in (training, asked))
        tables = {IMAGE: (None, None), JOINT: tuple(encoder.transform(inputs.table.iloc[own]) for own in (known, new))}
        for name, (table, other) in tables.items():
            model = LinearImage.fit(blocks[known], inputs.label[list(training)], table)
            where = np.where(np.isin(asked, split.test), "test", "validation")
            said = {"patient": asked, "split": where, "probability": model.predict(blocks[new], other)}
            parts.append(pd.DataFrame({"baseline": name, "fold": fold, **said}))
    rows = pd.concat(parts, ignore_index=True)[list(TYPES)].assign(**{ORIGIN: origin})
    atomic_write(study.image_baselines, csv_text(rows))


def read_image_baselines(study: StudyFolder, label: pd.Series) -> dict[str, BaselineResult]:
    """The baselines of the volumes by name; none if they were not fitted, or, which is warned of, otherwise than now.

    Args:
        label: 0 or 1, by patient id.

    Raises RlvoError if the file is damaged.
    """
    if not study.image_baselines.exists():
        return {}
    rows, results = _read(study), dict[str, BaselineResult]()
    hashes = read_hashes(study)
    if _written_by(rows) != _origin(hashes["data_hash"], hashes["split_hash"]):
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
            predictions.append(validation.assign(member=f"{MEMBERS[str(name)]}-f{fold}", label=truth))
        results[str(name)] = BaselineResult((), tuple(folds), pd.concat(predictions, ignore_index=True))
    return results


def _origin(data_hash: str, split_hash: str) -> str:
    """Twelve hex digits: the algorithm, the patients' labels, predictors and volumes, and the split."""
    return content_hash({"version": VERSION, "data_hash": data_hash, "split_hash": split_hash})[:12]


def _read(study: StudyFolder) -> pd.DataFrame:
    return read_csv(study.image_baselines, {**TYPES, ORIGIN: "str"})


def _written_by(rows: pd.DataFrame) -> str | None:
    """The origin of what was read; None if it was written before there was one."""
    return str(rows[ORIGIN].iloc[0]) if ORIGIN in rows and len(rows) else None
