"""The hold-out: opened for frozen ensembles only, every opening on record."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from rlvo.config.base import content_hash
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.ensemble.trials import trial_weights
from rlvo.errors import RlvoError
from rlvo.evaluation.figures import Figures, figures
from rlvo.evaluation.predictions import write_predictions
from rlvo.files import atomic_write
from rlvo.imaging.store import VolumeStore
from rlvo.registry.folder import ModelDescription
from rlvo.registry.inference import MemberAnswers, Members, Progress, answer_table

OPENINGS = "openings.jsonl"
MEMBER_PREDICTIONS = "ensemble/holdout-members.csv"
ANSWERS = "ensemble/holdout-answers.csv"


@dataclass(frozen=True)
class HoldOut:
    """What one opening showed."""

    opening: int
    """How often this split's hold-out has been opened by the study, this time included."""
    figures: dict[str, Figures]
    """By ensemble."""
    answers: pd.DataFrame
    """`ensemble`, `label`, and the columns of a prediction but the notice; a row an ensemble and patient."""


def evaluate_ensembles(
    specs: Mapping[str, EnsembleSpec],
    description: ModelDescription,
    study_folder: Path,
    table: pd.DataFrame,
    label: pd.Series,
    folder: Path,
    *,
    store: VolumeStore | None = None,
    progress: Progress | None = None,
) -> HoldOut:
    """Evaluate frozen ensembles of one study in one opening of its hold-out, each distinct member once a patient.

    Appends to `openings.jsonl` and keeps predictions and answers in the study folder.

    Args:
        specs: by name; their members' weights are the study's trials.
        description: of any of the study's ensembles: encoders, grid and preparation are theirs all.
        table: the hold-out's rows, index patient id.
        label: 0 or 1, by patient id.
        folder: what relative volume paths are relative to.

    Raises:
        RlvoError: an ensemble of another split, or a member whose files were altered.
    """
    if strangers := sorted(name for name, s in specs.items() if s.split_hash != description.spec.split_hash):
        raise RlvoError(f"built on another split: {', '.join(strangers)}", fix="Run 'rlvo ensemble' again")
    distinct = {member.key: member for spec in specs.values() for member in spec.members}
    members = Members.load(description, distinct.values(), lambda member: trial_weights(study_folder, member))
    answers = members.answer(table.reset_index(names="patient_id"), folder, store=store, progress=progress)

    opening = _open(study_folder, specs, description.spec.split_hash)
    truth = label.loc[list(answers.patients)].to_numpy(int)
    tables = {name: _with_label(answer_table(spec, answers, description.notice), truth) for name, spec in specs.items()}
    everything = pd.concat(tables, names=["ensemble"]).reset_index("ensemble").reset_index(drop=True)
    write_predictions(_member_predictions(members, answers, truth), study_folder / MEMBER_PREDICTIONS)
    atomic_write(study_folder / ANSWERS, everything.to_csv(index=False))
    return HoldOut(opening, {name: _figures(own) for name, own in tables.items()}, everything)


def _open(study_folder: Path, specs: Mapping[str, EnsembleSpec], split_hash: str) -> int:
    """Put an opening on record, flushed to disk, before anything is compared with a label."""
    path = study_folder / OPENINGS
    before = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    number = 1 + sum(line["split_hash"] == split_hash for line in before)
    entry = {
        "opening": number,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "split_hash": split_hash,
        "ensembles": {name: content_hash(spec) for name, spec in specs.items()},
    }
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return number


def _with_label(answers: pd.DataFrame, truth: np.ndarray) -> pd.DataFrame:
    answers = answers.drop(columns="notice")
    answers.insert(1, "label", truth)
    return answers


def _figures(answers: pd.DataFrame) -> Figures:
    return figures(answers["label"], answers["score"], answers["rlvo"].to_numpy(float, na_value=np.nan))


def _member_predictions(members: Members, answers: MemberAnswers, truth: np.ndarray) -> pd.DataFrame:
    """The answered patients in the columns of `rlvo.evaluation.predictions`."""
    parts = [
        pd.DataFrame(
            {
                "patient": answers.patients,
                "member": key,
                "fold": member.fold,
                "split": "test",
                "probability": answers.probabilities[key],
                "label": truth,
            }
        )
        for key, (member, _) in members.classifiers.items()
    ]
    return pd.concat(parts, ignore_index=True).dropna(subset="probability")
