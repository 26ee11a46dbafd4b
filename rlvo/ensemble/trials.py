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
    predictions: pd.DataFrame
    """Of the finished trials, columns of `rlvo.evaluation.predictions`."""


def read_trials(study_folder: Path) -> Trials:
    """Records and predictions of every trial that has ended, their files verified.

    Raises:
        RlvoError: no trial has finished, or a file of one is missing or altered.
    """
    folders = sorted(path for path in study_folder.glob("trials/*/fold-*") if path.is_dir())
    records = {folder: record for folder in folders if (record := read_record(folder)) is not None}
    finished = [folder for folder, record in records.items() if record.status == "finished"]
    if not finished:
        raise RlvoError("no trial of this study has finished", where=study_folder, fix="Run 'rlvo search' first")
    predictions = [read_predictions(folder / PREDICTIONS) for folder in finished]
    return Trials(tuple(records.values()), pd.concat(predictions, ignore_index=True))


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
