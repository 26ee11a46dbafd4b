"""The trials of a study on disk: those that were started, and what those that have ended left."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.study.folder import CONFIGURATION, StudyFolder, read_configuration, read_hashes, trial_place
from rlvo.training.records import (
    BEST_WEIGHTS,
    PREDICTIONS,
    RECORD,
    CompletionRecord,
    EpochMetrics,
    TrialIdentity,
    check_file,
    damaged,
    member_key,
    read_epochs,
    read_record,
)

if TYPE_CHECKING:
    import pandas as pd  # `rlvo status` reads this module, and starts without pandas and scikit-learn

    from rlvo.ensemble.spec import EnsembleSpec, MemberSpec


@dataclass(frozen=True)
class StartedTrial:
    """A trial that was started: what it is and where it lies."""

    identity: TrialIdentity
    configuration: Configuration
    folder: Path

    @property
    def record(self) -> Path:
        """The file that exists once the trial has ended."""
        return self.folder / RECORD


def started_trials(study: StudyFolder, config: StudyConfig) -> list[StartedTrial]:
    """Every trial that was started, by configuration and fold. Raises RlvoError if it is lost which one a trial is."""
    trials = []
    for folder in study.configurations():
        if (configuration := started_configuration(folder)) is not None:
            folds = started_folds(folder, config)
            trials += [started_trial(study, config, folder, configuration, fold) for fold in folds]
    return trials


def started_configuration(folder: Path) -> Configuration | None:
    """Whose trials lie in `folder`; None: its first one is about to start. Raises RlvoError if that is lost."""
    configuration = read_configuration(folder)
    if configuration is None and (folder / CONFIGURATION).exists():
        raise damaged(folder / CONFIGURATION)
    return configuration


def started_folds(folder: Path, config: StudyConfig) -> list[int]:
    """The folds on which a configuration, given by its folder, was started."""
    return [fold for fold in range(config.folds.folds) if os.path.isdir(trial_place(folder, fold))]


def started_trial(
    study: StudyFolder, config: StudyConfig, folder: Path, configuration: Configuration, fold: int
) -> StartedTrial:
    """The trial of a configuration, given with its folder, on a fold. Raises RlvoError if the inputs are damaged."""
    key = configuration.key
    identity = TrialIdentity(study=config.name, configuration=key, fold=fold, **read_hashes(study))
    return StartedTrial(identity, configuration, Path(trial_place(folder, fold)))


@dataclass(frozen=True)
class TrialStore:
    """The trials of one study on disk, by the configuration's key and the fold, as its search reads and prunes them."""

    study: StudyFolder
    identify: Callable[[str, int], TrialIdentity]

    def record(self, key: str, fold: int) -> CompletionRecord | None:
        """This trial's completion record; None if it has not ended. Raises RlvoError if the record is damaged."""
        found = read_record(self.study.trial(key, fold))
        return found if found is not None and found.identity == self.identify(key, fold) else None

    def epochs(self, key: str, fold: int) -> Sequence[EpochMetrics]:
        """The metrics of every epoch so far; none if the file is damaged: the trial's next epoch writes it anew."""
        with suppress(RlvoError):
            return read_epochs(self.study.trial(key, fold))
        return []

    def prune(self, key: str, fold: int, configuration: Configuration, reason: str) -> None:
        """End a trial at its last checkpoint. Raises RlvoError if that is damaged."""
        from rlvo.training.checkpoint import Progress, end_trial, load_progress  # torch: only if something is pruned

        folder, identity = self.study.trial(key, fold), self.identify(key, fold)
        progress = load_progress(folder) or Progress(identity.key)
        end_trial(folder, configuration, identity, progress, "pruned", reason)


@dataclass(frozen=True)
class EndedTrials:
    """What the ended trials of a study left, their records and predictions verified."""

    records: tuple[CompletionRecord, ...]
    predictions: pd.DataFrame
    """Of the finished trials, columns of `rlvo.evaluation.predictions`."""
    missing: tuple[str, ...] = ()
    """Trials left out because a file is lost or altered, and configurations of which no fold has ended."""

    def without(self, altered: Mapping[MemberSpec, str]) -> EndedTrials:
        """Those that are left if these members' trials are not there, and why they are not."""
        keys = {member.key for member in altered}
        return EndedTrials(
            tuple(each for each in self.records if member_key(each.configuration, each.identity.fold) not in keys),
            self.predictions[~self.predictions["member"].str.partition(" ")[0].isin(keys)],
            (*altered.values(), *self.missing),
        )


def read_ended_trials(study: StudyFolder) -> EndedTrials:
    """Records and predictions of every trial that has ended. Raises RlvoError if no trial has finished.

    Weights are only looked for. Whoever chooses members checks that theirs are as recorded (`altered_weights`).
    """
    import pandas as pd

    from rlvo.evaluation.predictions import read_all_predictions

    records, missing = dict[Path, CompletionRecord](), list[str]()
    seen = set[Path]()

    def leave_out(folder: Path, error: RlvoError) -> None:
        missing.append(f"{Path(str(error.where)).relative_to(study.path)}: {error.what}")
        records.pop(folder, None)

    for folder in study.trials():
        try:
            if (record := read_record(folder, unchecked=[BEST_WEIGHTS])) is None:
                continue
            records[folder] = record
        except RlvoError as error:
            leave_out(folder, error)
        seen.add(folder.parent)
    finished = [folder for folder, record in records.items() if record.status == "finished"]
    predictions, refused = read_all_predictions([folder / PREDICTIONS for folder in finished])
    for path, refusal in refused.items():
        leave_out(path.parent, refusal)
    if not predictions:
        where = missing[0] if missing else study.path
        fix = f"`{study.command('status')}` shows why; `{study.command('search')}` continues it"
        raise RlvoError("no trial of this study has finished", where=where, fix=fix)
    unended = [folder for folder in study.configurations() if folder not in seen]
    missing += [f"{folder.relative_to(study.path)}: no fold has ended" for folder in unended]
    return EndedTrials(tuple(records.values()), pd.concat(predictions, ignore_index=True), tuple(missing))


def altered_weights(
    study: StudyFolder, trials: EndedTrials, ensembles: Mapping[str, EnsembleSpec]
) -> dict[MemberSpec, str]:
    """The members of ensembles whose weights are not as recorded, and what is wrong, as in `EndedTrials.missing`."""
    members = {member.key: member for spec in ensembles.values() for member in spec.networks}
    altered = {}
    for record in trials.records:
        fold = record.identity.fold
        member = members.get(member_key(record.configuration, fold))
        if member is not None and BEST_WEIGHTS in record.files:
            folder = study.trial(record.configuration.key, fold)
            try:
                check_file(folder, record, BEST_WEIGHTS)
            except RlvoError as error:
                altered[member] = f"{(folder / BEST_WEIGHTS).relative_to(study.path)}: {error.what}"
    return altered


def member_weights(study: StudyFolder, member: MemberSpec) -> Path:
    """The best checkpoint's weights of a member's trial. Raises RlvoError if the trial is missing or was altered."""
    folder = study.trial(member.configuration.key, member.fold)
    if read_record(folder) is None:
        fix = "Put it back, or build the ensemble again"
        raise RlvoError("the trial of a member is missing", where=folder, fix=fix)
    return folder / BEST_WEIGHTS
