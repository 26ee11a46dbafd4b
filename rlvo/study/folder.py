"""A study on disk: the only module that spells a path inside a study's folder, and every reader of what lies there.

```
study.json                the frozen configuration          search.lock     held by the process that runs the search
split.json  inputs.json   hold-out and folds; data hash     progress.json   what only that process knows
optuna.journal            Optuna's proposals (or optuna.name: the study's name in a database)
trials/<configuration key>/configuration.json
trials/<configuration key>/fold-<k>/                        one trial: see `rlvo.training.records`, `usage`
ablation.json             what Models B and C go without, and where they are
ensemble/                 declared.json, the model folder, pictures, what openings of the hold-out showed
explanations/             sections of the report that take minutes to make
```
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from rlvo.config.base import content_hash
from rlvo.config.commands import command_line
from rlvo.config.loading import load_study
from rlvo.config.model import Configuration
from rlvo.config.shipped import shipped_studies
from rlvo.config.study import DEFAULTS, StudyConfig
from rlvo.errors import RlvoError
from rlvo.files import atomic_write
from rlvo.training.records import (
    BEST_WEIGHTS,
    PREDICTIONS,
    RECORD,
    CompletionRecord,
    EpochMetrics,
    TrialIdentity,
    damaged,
    read_epochs,
    read_record,
)

if TYPE_CHECKING:
    import pandas as pd  # `rlvo status` reads this module, and starts without pandas and scikit-learn

    from rlvo.ensemble.spec import EnsembleSpec, MemberSpec

CONFIGURATION = "configuration.json"


class Inside:
    """A file or folder at a fixed place inside a study's folder."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __get__(self, study: StudyFolder, owner: type) -> Path:
        return study.path / self._place


@dataclass(frozen=True)
class StudyFolder:
    """`studies/<name>/` of a work folder."""

    path: Path

    config = Inside("study.json")
    """The study's frozen configuration, written anew at every start."""
    split = Inside("split.json")
    inputs = Inside("inputs.json")
    progress = Inside("progress.json")
    lock = Inside("search.lock")
    journal = Inside("optuna.journal")
    name_in_database = Inside("optuna.name")
    """Work folders can share a database."""
    tune = Inside("tune")
    """Ray Tune's own state, which the journal and the records make redundant."""
    declared = Inside("ensemble/declared.json")
    """The ensembles that the study declares, frozen before its hold-out is opened."""
    model = Inside("ensemble/model")
    """The model folder of the study's own ensemble."""
    disagreement = Inside("ensemble/disagreement.json")
    """How much the folds of each ensemble disagree, by the ensemble's content hash: measured once."""
    reliability = Inside("ensemble/reliability")
    """The ensemble's reliability curve, without a suffix."""
    holdout_figures = Inside("ensemble/holdout.json")
    """What the last opening of the hold-out showed; the predictions of its patients lie beside it."""
    holdout_answers = Inside("ensemble/holdout-answers.csv")
    holdout_members = Inside("ensemble/holdout-members.csv")
    holdout_calibration = Inside("ensemble/holdout-calibration")
    """Pictures, without a suffix; likewise the next one."""
    holdout_benefit = Inside("ensemble/holdout-decision-curve")
    explanations = Inside("explanations")
    """What the report shows of the ensemble's networks, one folder per section: made on request."""

    ablation = Inside("ablation.json")
    """Which predictors Models B and C go without, and the names of their studies."""

    def command(self, name: str, *arguments: object) -> str:
        """A command of rlvo about this study, for the user to run."""
        return command_line(name, self.path.name, *arguments, workdir=self.path.parent.parent)

    def trial(self, configuration: str, fold: int) -> Path:
        """The folder of one trial, by the configuration's key and the fold."""
        return self.path / "trials" / configuration / f"fold-{fold}"

    def configurations(self) -> list[Path]:
        """The folders of the configurations that were started, by key."""
        return sorted(path for path in self.path.glob("trials/*") if path.is_dir())

    def trials(self) -> list[Path]:
        """The folders of the trials that were started, by configuration and fold."""
        return sorted(path for path in self.path.glob("trials/*/fold-*") if path.is_dir())


def started_studies(studies: Path) -> list[StudyFolder]:
    """The studies that were started in a work folder's `studies/`, by name."""
    return [StudyFolder(path.parent) for path in sorted(studies.glob("*/study.json"))]


def no_study(studies: Path, name: str, file: Path | None = None) -> RlvoError:
    """The error for a study that was not started in a work folder's `studies/`; `file` is its YAML file, if known."""
    others = [each.path.name for each in started_studies(studies)]
    start = command_line("search", file or "STUDY.yaml", "--cohort", "TABLE", workdir=studies.parent)
    fix = f"Studies here: {', '.join(others)}" if others else f"Name another --workdir, or start it: {start}"
    return RlvoError("no study was started here", where=studies / name, fix=fix)


def read_config(study: StudyFolder, file: Path | None = None) -> StudyConfig:
    """The study's frozen configuration. Raises RlvoError if no study was started there or the file is damaged.

    Args:
        file: its YAML file, if the user named it so.
    """
    try:
        config = StudyConfig.model_validate_json(study.config.read_bytes())
    except FileNotFoundError:
        raise no_study(study.path.parent, study.path.name, file) from None
    except ValidationError:
        raise RlvoError("damaged, or written by another version of rlvo", where=study.config) from None
    for path, (before, _) in DEFAULTS.items():
        if config.default(path) is None:
            config = config.with_setting(path, before)
    return config


def read_or_shipped_config(study: StudyFolder) -> StudyConfig:
    """The study's frozen configuration, or if it was not started, that of the shipped study of this name."""
    shipped = None if study.config.exists() else shipped_studies().get(study.path.name)
    return read_config(study) if shipped is None else load_study(shipped)


def load_or_started(given: Path, studies: Path) -> StudyConfig:
    """The study of a YAML file or of a shipped name, or else the one of this name that was started in `studies/`.

    Raises RlvoError as `load_study`.
    """
    started = StudyFolder(studies / given.name)
    is_named = given.name == str(given) and not given.is_file() and given.name not in shipped_studies()
    return read_config(started) if is_named and started.config.is_file() else load_study(given)


def read_hashes(study: StudyFolder) -> dict[str, str]:
    """`data_hash` and `split_hash` of what the study was started with. Raises RlvoError if the file is damaged."""
    try:
        return dict(json.loads(study.inputs.read_bytes()))
    except ValueError:
        raise damaged(study.inputs, "give the study another name") from None


def study_identity(study: StudyFolder, config: StudyConfig) -> str:
    """Twelve hex digits: the study of this name on this split of these data; one of the same name elsewhere differs."""
    return content_hash({"study": config.name, **read_hashes(study)})[:12]


def read_configuration(folder: Path) -> Configuration | None:
    """The configuration whose folds lie in `folder`: from its own file, or else from a fold's record; None if lost."""
    for path in (folder / CONFIGURATION, *sorted(folder.glob(f"fold-*/{RECORD}"))):
        with suppress(FileNotFoundError, ValidationError):
            if path.name == RECORD:
                return CompletionRecord.model_validate_json(path.read_bytes()).configuration
            return Configuration.model_validate_json(path.read_bytes())
    return None


def write_configuration(folder: Path, configuration: Configuration) -> None:
    """Note in a configuration's folder what it is, before its first fold ends."""
    atomic_write(folder / CONFIGURATION, configuration.model_dump_json(indent=1))


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
        if (configuration := read_configuration(folder)) is None:
            if (folder / CONFIGURATION).exists():
                raise damaged(folder / CONFIGURATION)
            continue  # its first trial is about to start
        for fold in range(config.folds.folds):
            if (place := folder / f"fold-{fold}").is_dir():
                key = configuration.key
                identity = TrialIdentity(study=config.name, configuration=key, fold=fold, **read_hashes(study))
                trials.append(StartedTrial(identity, configuration, place))
    return trials


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
        from rlvo.training.checkpoint import Progress, end_trial, load_last  # torch: only if something is pruned

        folder, identity = self.study.trial(key, fold), self.identify(key, fold)
        checkpoint = load_last(folder)
        progress = checkpoint.progress if checkpoint is not None else Progress(identity.key)
        end_trial(folder, configuration, identity, progress, "pruned", reason)


@dataclass(frozen=True)
class EndedTrials:
    """What the ended trials of a study left, their files verified."""

    records: tuple[CompletionRecord, ...]
    predictions: pd.DataFrame
    """Of the finished trials, columns of `rlvo.evaluation.predictions`."""
    missing: tuple[str, ...] = ()
    """Trials left out because a file is lost or altered, and configurations of which no fold has ended."""


def read_ended_trials(study: StudyFolder) -> EndedTrials:
    """Records and predictions of every trial that has ended. Raises RlvoError if no trial has finished."""
    import pandas as pd

    from rlvo.evaluation.predictions import read_predictions

    records, predictions, missing, seen = [], [], [], set()
    for folder in study.trials():
        try:
            record = read_record(folder)
            if record is not None and record.status == "finished":
                predictions.append(read_predictions(folder / PREDICTIONS))
        except RlvoError as error:
            missing.append(f"{Path(str(error.where)).relative_to(study.path)}: {error.what}")
            seen.add(folder.parent)
            continue
        if record is not None:
            records.append(record)
            seen.add(folder.parent)
    if not predictions:
        where = missing[0] if missing else study.path
        fix = f"`{study.command('status')}` shows why; `{study.command('search')}` continues it"
        raise RlvoError("no trial of this study has finished", where=where, fix=fix)
    unended = [folder for folder in study.configurations() if folder not in seen]
    missing += [f"{folder.relative_to(study.path)}: no fold has ended" for folder in unended]
    return EndedTrials(tuple(records), pd.concat(predictions, ignore_index=True), tuple(missing))


def member_weights(study: StudyFolder, member: MemberSpec) -> Path:
    """The best checkpoint's weights of a member's trial. Raises RlvoError if the trial is missing or was altered."""
    folder = study.trial(member.configuration.key, member.fold)
    if read_record(folder) is None:
        fix = "Put it back, or build the ensemble again"
        raise RlvoError("the trial of a member is missing", where=folder, fix=fix)
    return folder / BEST_WEIGHTS


def write_declared(study: StudyFolder, ensembles: Mapping[str, EnsembleSpec]) -> None:
    """Freeze the study's ensembles by name, atomically."""
    atomic_write(study.declared, _ensembles().dump_json(dict(ensembles), indent=1).decode())


def read_declared(study: StudyFolder) -> dict[str, EnsembleSpec]:
    """The study's ensembles by name. Raises RlvoError if none were built or the file is damaged."""
    if not study.declared.is_file():
        fix = f"Build it: {study.command('ensemble')}"
        raise RlvoError("no ensemble was built for this study", where=study.path, fix=fix)
    try:
        return _ensembles().validate_json(study.declared.read_bytes())
    except ValidationError:
        fix = f"Build them again: {study.command('ensemble')}"
        raise RlvoError("damaged, or written by another version of rlvo", where=study.declared, fix=fix) from None


def _ensembles() -> TypeAdapter[dict[str, EnsembleSpec]]:
    from rlvo.ensemble.spec import EnsembleSpec

    return TypeAdapter(dict[str, EnsembleSpec])
