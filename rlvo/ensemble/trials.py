"""A study's trials as an ensemble builder needs them: their records and stored predictions, nothing heavier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rlvo.ensemble.member import MemberSpec
from rlvo.errors import RlvoError
from rlvo.evaluation.predictions import read_predictions
from rlvo.training.records import BEST_WEIGHTS, PREDICTIONS, CompletionRecord, read_record


@dataclass(frozen=True)
class Trials:
    """What the trials of one study left."""

    records: tuple[CompletionRecord, ...]
    """Of those that have ended, their files verified."""
    predictions: pd.DataFrame
    """Of the finished trials, columns of `rlvo.evaluation.predictions`."""
    missing: tuple[str, ...] = ()
    """Files that are lost or altered, whose trial is left out, and configurations no fold of which has ended."""


def read_trials(study_folder: Path) -> Trials:
    """Records and predictions of every trial that has ended.

    Raises:
        RlvoError: no trial has finished.
    """
    records, predictions, missing, seen = [], [], [], set()
    for folder in sorted(path for path in study_folder.glob("trials/*/fold-*") if path.is_dir()):
        try:
            record = read_record(folder)
            if record is not None and record.status == "finished":
                predictions.append(read_predictions(folder / PREDICTIONS))
        except RlvoError as error:
            missing.append(f"{Path(str(error.where)).relative_to(study_folder)}: {error.what}")
            seen.add(folder.parent)
            continue
        if record is not None:
            records.append(record)
            seen.add(folder.parent)
    if not predictions:
        where = missing[0] if missing else study_folder
        raise RlvoError("no trial of this study has finished", where=where, fix="Run 'rlvo search' first")
    started = sorted(path for path in study_folder.glob("trials/*") if path.is_dir())
    missing += [f"{path.relative_to(study_folder)}: no fold has ended" for path in started if path not in seen]
    return Trials(tuple(records), pd.concat(predictions, ignore_index=True), tuple(missing))


def trial_weights(study_folder: Path, member: MemberSpec) -> Path:
    """The best checkpoint's weights of a member's trial.

    Raises:
        RlvoError: the trial is missing, or a file of it was altered since its record was written.
    """
    folder = study_folder / "trials" / member.configuration.key / f"fold-{member.fold}"
    if read_record(folder) is None:
        raise RlvoError(
            "the trial of a member is missing", where=folder, fix="Put it back, or build the ensemble again"
        )
    return folder / BEST_WEIGHTS
