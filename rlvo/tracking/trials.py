"""The trials of a study as they lie on disk.

A study folder holds `inputs.json` (split and data hash), `trials/<configuration key>/configuration.json` and, for each
fold that was started, `trials/<configuration key>/fold-<k>/`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rlvo.config.base import content_hash
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.training.records import CONFIGURATION, RECORD, TrialIdentity

INPUTS = "inputs.json"


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
    """Every trial that was started, by configuration and fold."""
    trials = []
    for path in sorted(folder.glob(f"trials/*/{CONFIGURATION}")):
        configuration = Configuration.model_validate_json(path.read_bytes())
        for fold in range(study.folds.folds):
            if (trial := path.parent / f"fold-{fold}").is_dir():
                identity = TrialIdentity(
                    study=study.name, configuration=configuration.key, fold=fold, **_inputs(folder)
                )
                trials.append(Trial(identity, configuration, trial))
    return trials


def study_identity(study: StudyConfig, folder: Path) -> str:
    """Twelve hex digits: a study of this name on this split of these data. Studies of one name on other data differ."""
    return content_hash({"study": study.name, **_inputs(folder)})[:12]


def _inputs(folder: Path) -> dict[str, str]:
    return json.loads((folder / INPUTS).read_text())
