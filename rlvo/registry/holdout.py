"""The hold-out: opened for frozen ensembles only, every opening on record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from rlvo.config.base import content_hash
from rlvo.ensemble.member import MemberSpec
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.ensemble.trials import trial_weights
from rlvo.errors import RlvoError
from rlvo.evaluation.figures import Figures, figures
from rlvo.evaluation.predictions import write_predictions
from rlvo.files import atomic_write
from rlvo.imaging.store import VolumeStore
from rlvo.registry.folder import ModelDescription
from rlvo.registry.inference import MemberAnswers, Progress, answer_table, ask_members
from rlvo.registry.openings import Openings

FIGURES = "ensemble/holdout.json"
MEMBER_PREDICTIONS = "ensemble/holdout-members.csv"
ANSWERS = "ensemble/holdout-answers.csv"
DTYPES: dict[str, str] = {"patient_id": "str", "rlvo": "Int64", "votes": "Int64"}


@dataclass(frozen=True)
class HoldOut:
    """What one opening showed."""

    opening: int
    """How often this split's hold-out has been opened, this time included."""
    figures: dict[str, Figures]
    """By ensemble."""
    baselines: dict[str, Figures]
    """By clinical baseline."""
    answers: pd.DataFrame
    """`ensemble`, `label`, and the columns of a prediction but the notice; a row an ensemble and patient."""


@dataclass(frozen=True)
class _Kept:
    """The file of an opening's figures."""

    opening: int
    ensembles: dict[str, str]
    """Content hash of each, by name."""
    figures: dict[str, Figures]
    baselines: dict[str, Figures]


_KEPT = TypeAdapter(_Kept)


def evaluate_ensembles(
    specs: Mapping[str, EnsembleSpec],
    description: ModelDescription,
    study_folder: Path,
    table: pd.DataFrame,
    label: pd.Series,
    folder: Path,
    openings: Openings,
    *,
    reason: str | None = None,
    baselines: Callable[[], dict[str, Figures]] = dict,
    store: VolumeStore | None = None,
    progress: Progress | None = None,
) -> HoldOut:
    """Evaluate frozen ensembles of one study in one opening of its hold-out, each distinct member once a patient.

    The opening is put on record before anything is compared with a label. Figures, predictions and answers are kept
    in the study folder.

    Args:
        specs: by name; their members' weights are the study's trials.
        description: of any of the study's ensembles: encoders, grid and preparation are theirs all.
        table: the hold-out's rows, index patient id.
        label: 0 or 1, by patient id.
        folder: what relative volume paths are relative to.
        openings: the log that the opening goes to.
        reason: why, where the hold-out was opened before.
        baselines: gives the figures of the clinical baselines on the same hold-out, in the same opening.

    Raises:
        RlvoError: the hold-out was opened before and no reason is given, an ensemble of another split, or a member
            whose files were altered.
    """
    split_hash = description.spec.split_hash
    if strangers := sorted(name for name, spec in specs.items() if spec.split_hash != split_hash):
        raise RlvoError(f"built on another split: {', '.join(strangers)}", fix="Run 'rlvo ensemble' again")
    openings.check_may_open(split_hash, reason)
    distinct = {member.key: member for spec in specs.values() for member in spec.members}
    answers = ask_members(
        distinct,
        description,
        lambda key: trial_weights(study_folder, distinct[key]),
        table.reset_index(names="patient_id"),
        folder,
        store=store,
        progress=progress,
    )

    hashes = _hashes(specs)
    opening = openings.append(split_hash, study_folder.name, hashes, reason).opening
    truth = label.loc[list(answers.patients)].to_numpy(int)
    tables = {name: _with_label(answer_table(spec, answers, description.notice), truth) for name, spec in specs.items()}
    everything = pd.concat(tables, names=["ensemble"]).reset_index("ensemble").reset_index(drop=True)
    kept = _Kept(opening, hashes, {name: _figures(own) for name, own in tables.items()}, baselines())
    write_predictions(_member_predictions(distinct, answers, truth), study_folder / MEMBER_PREDICTIONS)
    atomic_write(study_folder / ANSWERS, everything.to_csv(index=False))
    atomic_write(study_folder / FIGURES, json.dumps(_KEPT.dump_python(kept), indent=1))
    return HoldOut(opening, kept.figures, kept.baselines, everything)


def kept_holdout(study_folder: Path, specs: Mapping[str, EnsembleSpec]) -> HoldOut | None:
    """What the last opening showed of these ensembles; None where they have not been evaluated.

    Raises RlvoError where the kept files are damaged.
    """
    path = study_folder / FIGURES
    try:
        kept = _KEPT.validate_json(path.read_bytes())
        if kept.ensembles != _hashes(specs):
            return None
        answers = pd.read_csv(study_folder / ANSWERS, dtype=DTYPES).fillna({"warnings": ""})
    except FileNotFoundError:
        return None
    except ValidationError:
        raise RlvoError("damaged", where=path, fix="Put the file back; the log says when it was written") from None
    return HoldOut(kept.opening, kept.figures, kept.baselines, answers)


def _hashes(specs: Mapping[str, EnsembleSpec]) -> dict[str, str]:
    return {name: content_hash(spec) for name, spec in specs.items()}


def _with_label(answers: pd.DataFrame, truth: np.ndarray) -> pd.DataFrame:
    answers = answers.drop(columns="notice")
    answers.insert(1, "label", truth)
    return answers


def _figures(answers: pd.DataFrame) -> Figures:
    return figures(answers["label"], answers["score"], answers["rlvo"].to_numpy(float, na_value=np.nan))


def _member_predictions(members: Mapping[str, MemberSpec], answers: MemberAnswers, truth: np.ndarray) -> pd.DataFrame:
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
        for key, member in members.items()
    ]
    return pd.concat(parts, ignore_index=True).dropna(subset="probability")
