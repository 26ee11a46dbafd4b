"""The trials of a study as they lie on disk.

A study folder holds `inputs.json` (split and data hash), `trials/<configuration key>/configuration.json` and, for each
fold that was started, `trials/<configuration key>/fold-<k>/`. While a search runs, `progress.json` names the trials
that train at the moment.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rlvo.config.base import content_hash
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.training.records import CONFIGURATION, RECORD, CompletionRecord, TrialIdentity, damaged

INPUTS, NOTE = "inputs.json", "progress.json"


@dataclass(frozen=True)
class Trial:
    """A trial that was started: what it is and where it lies."""

    identity: TrialIdentity
    configuration: Configuration
    folder: Path

    @property
    def record(self) -> Path:
        """The file that is there once the trial has ended."""
        return self.folder / RECORD


def started_trials(study: StudyConfig, folder: Path) -> list[Trial]:
    """Every trial that was started, by configuration and fold. Raises RlvoError where it is lost what a trial is."""
    trials = []
    for place in sorted(folder.glob("trials/*")):
        if (configuration := read_configuration(place)) is None:
            if (place / CONFIGURATION).exists():
                raise damaged(place / CONFIGURATION)
            continue  # its first trial is about to start
        for fold in range(study.folds.folds):
            if (trial := place / f"fold-{fold}").is_dir():
                identity = TrialIdentity(
                    study=study.name, configuration=configuration.key, fold=fold, **_inputs(folder)
                )
                trials.append(Trial(identity, configuration, trial))
    return trials


def read_configuration(place: Path) -> Configuration | None:
    """The configuration whose folds lie in `place`, from its own file, else from a fold's record; None: it is lost."""
    try:
        return Configuration.model_validate_json((place / CONFIGURATION).read_bytes())
    except (FileNotFoundError, ValidationError):
        pass
    for path in sorted(place.glob(f"fold-*/{RECORD}")):
        try:
            return CompletionRecord.model_validate_json(path.read_bytes()).configuration
        except ValidationError:
            continue
    return None


def study_identity(study: StudyConfig, folder: Path) -> str:
    """Twelve hex digits: a study of this name on this split of these data. Studies of one name on other data differ."""
    return content_hash({"study": study.name, **_inputs(folder)})[:12]


def training_now(folder: Path) -> set[tuple[str, int]] | None:
    """Key and fold of the trials that train at the moment, as the search says; None where it says nothing."""
    try:
        return {(key, fold) for key, fold in json.loads((folder / NOTE).read_bytes())["running"]}
    except (FileNotFoundError, ValueError):
        return None


def _inputs(folder: Path) -> dict[str, str]:
    try:
        return json.loads((folder / INPUTS).read_bytes())
    except ValueError:
        raise damaged(folder / INPUTS, "put the file back, or give the study another name") from None
