"""What the trials of a study have written: looked at again and again, and read once it has changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.files import file_sha256, file_version
from rlvo.study.folder import StudyFolder
from rlvo.study.state import State
from rlvo.study.trials import StartedTrial, started_configuration, started_folds, started_trial
from rlvo.training.records import (
    BEST_WEIGHTS,
    EPOCHS,
    PREDICTIONS,
    RECORD,
    CompletionRecord,
    check_file,
    damaged,
    read_epochs,
    read_record,
)
from rlvo.training.usage import USAGE, read_usage

AGAIN = 16
"""Configurations that were delivered and are looked at again, in turn, each time."""


@dataclass(eq=False)
class TrialFiles:
    """A trial that was started, and what it has written so far."""

    trial: StartedTrial
    record: CompletionRecord | None = None
    """None if the trial has not ended."""
    digest: str | None = None
    """SHA-256 of the record's file."""
    epochs: Sequence[Mapping[str, float]] = ()
    """Not read of a trial that MLflow holds already."""
    score: float = -math.inf
    """What trials are compared by; minus infinity unless the trial has finished."""
    weights_bytes: int | None = None
    """Size of its weights, if it has finished."""
    is_checked: bool = False
    """Whether its weights were compared with the record."""
    version: Sequence[object] | None = None
    """Of its files when they were read; None: they are to be read again."""
    is_delivered: bool = False
    """Whether the trial has ended and MLflow holds all of it, but perhaps its pictures."""
    lacks_pictures: bool = False
    """Whether the trial has ended and MLflow lacks its pictures."""

    @cached_property
    def run(self) -> str:
        """The identity of its run."""
        return self.trial.identity.key

    @property
    def weights(self) -> Path:
        """The best checkpoint's."""
        return self.trial.folder / BEST_WEIGHTS

    @property
    def is_new(self) -> bool:
        """Whether its files are others than those that were read."""
        return self.version is None or self.version != self.version_now()

    def version_now(self) -> Sequence[object]:
        """Of its files: of a trial that has ended the record's alone."""
        names = (RECORD,) if self.is_delivered else (RECORD, EPOCHS, USAGE)
        return [file_version(f"{self.trial.folder}/{name}") for name in names]

    def note_delivered(self) -> None:
        """Note that MLflow holds all of it but pictures: only another record would be news."""
        self.is_delivered, self.epochs = True, ()
        self.version = self.version[:1] if self.version is not None else None

    def forget(self) -> None:
        """Have it read again."""
        self.is_delivered, self.version = False, None


@dataclass(eq=False)
class Siblings:
    """A configuration that was started, and its trials by fold."""

    configuration: Configuration
    trials: dict[int, TrialFiles] = field(default_factory=dict)
    is_new: bool = True
    """Whether something is to be written."""
    state: State = "waiting"
    """`finished`, `failed`, `pruned`, or `waiting` if it has not ended."""

    def is_settled(self, folds: int) -> bool:
        """Whether MLflow holds all that there will be: of what was pruned or has failed no other fold starts."""
        has_all = len(self.trials) == folds or self.state in ("failed", "pruned")
        return has_all and all(files.is_delivered for files in self.trials.values())

    @property
    def is_open(self) -> bool:
        """Whether one of its trials has not ended."""
        return any(files.record is None for files in self.trials.values())


class StartedTrials:
    """The trials of a study that were started, and what is new of them.

    What was delivered is left alone: only a few such trials are looked at again each time, in turn, and all of them at
    the end.
    """

    def __init__(self, config: StudyConfig, study: StudyFolder) -> None:
        self._config, self._study, self._turn = config, study, 0
        self._siblings: dict[str, Siblings] = {}  # by the configuration's folder
        self.has_changed = False
        """Whether trials have come or gone, or their records are others, since this was set to False."""
        self.damage: RlvoError | None = None
        """What is wrong with a trial's files, if they could not be read."""

    @property
    def configurations(self) -> list[Siblings]:
        """Those that were started, by key, with their trials."""
        return list(self._siblings.values())

    def __iter__(self) -> Iterator[TrialFiles]:
        return (files for each in self._siblings.values() for files in each.trials.values())

    @property
    def undelivered(self) -> int:
        """How many trials MLflow does not hold in full."""
        return sum(not files.is_delivered or files.lacks_pictures or files.is_new for files in self)

    def find(self, *, every: bool = False) -> bool:
        """Look which trials were started, and what has changed. False: none was.

        Args:
            every: look at those that were delivered, too.

        Raises:
            RlvoError: the study's inputs are damaged, or it is lost which configuration a folder's trials have.
        """
        self.damage, found, folds = None, {}, self._config.folds.folds
        folders = self._study.configurations()
        again = {folders[(self._turn + number) % len(folders)].name for number in range(min(AGAIN, len(folders)))}
        self._turn += AGAIN
        for folder in folders:
            siblings = self._siblings.get(folder.name)
            if siblings is None or every or folder.name in again:
                siblings = self._look(folder, siblings, started_configuration(folder))
            elif not siblings.is_settled(folds):
                siblings = self._look(folder, siblings, siblings.configuration)
            if siblings is not None and siblings.trials:
                found[folder.name] = siblings
        self.has_changed |= not found.keys() >= self._siblings.keys()
        self._siblings = found
        return bool(found)

    def _look(self, folder: Path, known: Siblings | None, configuration: Configuration | None) -> Siblings | None:
        """Look what has become of a configuration's trials."""
        if configuration is None:
            return None
        known = known or Siblings(configuration)
        before, known.trials = known.trials, {}
        for fold in started_folds(folder, self._config):
            trial = before.get(fold) or TrialFiles(
                started_trial(self._study, self._config, folder, configuration, fold)
            )
            known.trials[fold] = trial
            if trial.is_new:
                trial.is_delivered, known.is_new = False, True
            elif trial.record is not None and not trial.is_delivered:  # an artifact was refused
                known.is_new = True
            elif trial.weights_bytes is not None and not trial.weights.is_file():
                self.damage = damaged(trial.weights)
        if before.keys() != known.trials.keys():
            known.is_new = self.has_changed = True
        return known

    def read(self, files: TrialFiles, delivered: str | None) -> None:
        """Read what a trial has written, unless that is known.

        Args:
            delivered: the digest of the record that MLflow holds with all that belongs to it; None if it holds none.
        """
        if not files.is_new:
            return
        folder, before = files.trial.folder, files.digest
        files.is_delivered = files.lacks_pictures = False
        files.version = files.version_now()
        files.record, files.digest, files.epochs, files.score, files.weights_bytes = None, None, (), -math.inf, None
        try:
            if files.trial.record.exists():
                files.digest = file_sha256(files.trial.record)
            is_held = files.digest is not None and files.digest == delivered
            limits = self._config.mlflow
            files.is_checked = not is_held and limits.keep_checkpoints is limits.checkpoint_gb is None
            unchecked = (EPOCHS, PREDICTIONS) if is_held else ()  # of weights, most are never copied if few are kept
            files.record = read_record(folder, unchecked=unchecked if files.is_checked else (*unchecked, BEST_WEIGHTS))
            if not is_held:
                usage = read_usage(folder)
                files.epochs = [{**epoch, **usage.get(int(epoch["epoch"]), {})} for epoch in read_epochs(folder)]
            if files.record is not None and BEST_WEIGHTS in files.record.files:
                files.weights_bytes = files.weights.stat().st_size
        except RlvoError as damage:  # the other trials do not wait for it
            self.damage, files.version, files.digest = damage, None, None
        if files.record is not None and files.record.outcome == "finished":
            files.score = -math.inf if files.record.objective is None else files.record.objective
        self.has_changed |= files.digest != before

    def are_weights_whole(self, files: TrialFiles, record: CompletionRecord) -> bool:
        """Whether a finished trial's weights are as its record says; if not, the trial is to be read again."""
        try:
            check_file(files.trial.folder, record, BEST_WEIGHTS)
        except RlvoError as damage:  # the other trials do not wait for it
            self.damage = damage
            files.forget()
            return False
        return True
