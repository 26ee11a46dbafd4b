"""What MLflow is to hold of a study, read from its folder: items in the order in which they are written.

No item holds a path or a patient id: patients are named by pseudonym, and text ends before its first path.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rlvo.cohort.splits import read_split
from rlvo.config.base import content_hash
from rlvo.config.model import Configuration
from rlvo.config.study import MlflowConfig, StudyConfig
from rlvo.errors import RlvoError
from rlvo.evaluation.predictions import read_predictions
from rlvo.files import file_sha256
from rlvo.study.folder import StartedTrial, StudyFolder, started_trials, study_identity
from rlvo.study.state import State, combined_state
from rlvo.study.status import TrialKey, read_note
from rlvo.tracking.runs import Artifact, Epochs, Item, NewRun, NoOpenRuns, RunStatus, Status, Summary, Tags
from rlvo.training.records import BEST_WEIGHTS, EPOCHS, PREDICTIONS, CompletionRecord, read_epochs, read_record

DIGEST = "rlvo.digest"
"""Tag: SHA-256 of the file that a run shows in full; set once everything is there."""
BEST, CHECKPOINT = "rlvo.best", "rlvo.checkpoint"
"""Tags: `true` on the best trial and the best configuration; SHA-256 of the weights that a trial's run holds."""
STATUS: dict[State, RunStatus] = {"finished": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}

Pseudonymise = Callable[[str], str]


@dataclass
class TrialFiles:
    """A trial that was started, and what it has written so far."""

    trial: StartedTrial
    record: CompletionRecord | None = None
    """None if the trial has not ended."""
    record_ns: int | None = None
    """When the record was written, nanoseconds since 1970."""
    epochs: Sequence[Mapping[str, float]] = ()
    is_delivered: bool = False
    """Whether the trial has ended and all its items were written."""

    @property
    def run(self) -> str:
        """The identity of its run."""
        return self.trial.identity.key

    @property
    def score(self) -> float:
        """What trials are compared by; minus infinity unless the trial has finished."""
        objective = self.record.objective if self.record and self.record.outcome == "finished" else None
        return -math.inf if objective is None else objective


def modified_ns(path: Path) -> int | None:
    """When a file was last written, nanoseconds since 1970; None if there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def study_run(config: StudyConfig, study: StudyFolder) -> Iterator[Item]:
    """The run of a study, with its configuration as an artifact."""
    run, content = study_identity(study, config), shareable(config)
    grid = "×".join(map(str, config.grid.shape))
    params = {"sampler": config.search.sampler, "folds": config.folds.folds, "seed": config.seed, "grid": grid}
    yield NewRun(run, "study", config.name, params=params)

    text = json.dumps(content, indent=2)
    yield Artifact(run, study.config.name, text, tag=DIGEST, digest=content_hash(content))


class StudyItems:
    """Reads a study and its trials as items, again and again, and knows what was delivered."""

    def __init__(self, config: StudyConfig, study: StudyFolder, pseudonymise: Pseudonymise) -> None:
        self._config, self._study, self._pseudonymise = config, study, pseudonymise
        self._trials: dict[str, TrialFiles] = {}  # by run
        self.damage: RlvoError | None = None
        """What is wrong with a trial's files, if they could not be read."""

    @property
    def undelivered(self) -> int:
        """How many trials MLflow does not hold in full."""
        return sum(not self._is_delivered(trial) for trial in self._trials.values())

    def items(self, closing: RunStatus | None = None) -> Iterator[Item]:
        """Everything MLflow is to hold: study → configuration → trial. To ask for an item is to have written the last.

        Args:
            closing: how trials without a record have ended; None while the search runs.
        """
        self.damage = None
        started = started_trials(self._study, self._config)
        self._trials = {
            trial.identity.key: self._trials.get(trial.identity.key, TrialFiles(trial)) for trial in started
        }
        if not started:
            return
        yield from study_run(self._config, self._study)
        root, note = study_identity(self._study, self._config), read_note(self._study)
        states: dict[str, State] = {}
        scores: dict[str, float] = {}
        for key, siblings in groupby(self._trials.values(), key=lambda files: files.trial.configuration.key):
            run, folds = f"{root}/{key}", [self._read(files) for files in siblings]
            yield from self._runs(root, run, folds)
            states[run] = self._state(folds, closing)
            scores[run] = fmean(trial.score for trial in folds) if states[run] == "finished" else -math.inf
            yield from _statuses(run, states[run], folds, note.running if note is not None else None, closing)
        yield from _best({run: trial.score for run, trial in self._trials.items()})
        yield from _best(scores)
        yield from _checkpoints(self._trials.values(), self._config.mlflow)
        is_complete = sum(state in STATUS for state in states.values()) >= self._config.configurations
        yield Status(root, "FINISHED" if is_complete or closing == "FAILED" else closing or "RUNNING")
        if closing is not None:
            yield NoOpenRuns(root)  # what is left are runs of trials whose folders are gone

    def _read(self, files: TrialFiles) -> TrialFiles:
        """Read what a trial has written, unless it was delivered."""
        if not self._is_delivered(files):
            files.is_delivered, files.record, files.epochs = False, None, ()
            folder, files.record_ns = files.trial.folder, modified_ns(files.trial.record)
            try:
                files.record, files.epochs = read_record(folder), read_epochs(folder)
            except RlvoError as damage:  # the other trials do not wait for it
                self.damage = damage
        return files

    @staticmethod
    def _is_delivered(files: TrialFiles) -> bool:
        return files.is_delivered and files.record_ns == modified_ns(files.trial.record)

    def _runs(self, root: str, run: str, folds: Sequence[TrialFiles]) -> Iterator[Item]:
        """The run of a configuration and those of its trials, with what each trial has written so far."""
        configuration = folds[0].trial.configuration
        params, tags = hyperparameters(configuration), {"rlvo.configuration": configuration.key}
        yield NewRun(run, "configuration", configuration.label, root, params, tags)
        for files in folds:
            fold = files.trial.identity.fold
            name = f"fold {fold}, {configuration.label}"
            yield NewRun(files.run, "trial", name, run, {**params, "fold": fold}, tags)
            if files.epochs and not files.is_delivered:
                written = modified_ns(files.trial.folder / EPOCHS) or 0
                yield Epochs(files.run, files.epochs, written // 1_000_000)
            if files.record is not None and not files.is_delivered:
                yield from self._ended(files, files.record)
                files.is_delivered = True

    def _ended(self, files: TrialFiles, record: CompletionRecord) -> Iterator[Item]:
        """What a trial left when it ended."""
        best = {name.replace("val/", "best/"): at for name, at in record.metrics.items() if name.startswith("val/")}
        yield Summary(files.run, {**best, "seconds": record.seconds}, step=record.best_epoch or 0)
        tags = {DIGEST: file_sha256(files.trial.record)}
        if PREDICTIONS in record.files:
            predictions = read_predictions(files.trial.folder / PREDICTIONS)
            predictions["patient"] = predictions["patient"].map(self._pseudonymise)
            content = predictions.to_csv(index=False)
            yield Artifact(files.run, "validation_predictions.csv", content, tag=DIGEST, digest=tags[DIGEST])
        if record.reason:
            split = read_split(self._study.split)
            patients = [*split.development, *split.test]
            tags["rlvo.reason"] = without_identities(record.reason, patients, self._pseudonymise)
        elif record.failure:
            tags["rlvo.reason"] = record.failure
        yield Tags(files.run, tags)
        yield Status(files.run, STATUS[record.outcome])

    def _state(self, folds: Sequence[TrialFiles], closing: RunStatus | None) -> State:
        """The state of a configuration: `finished`, `failed`, `pruned`, or `waiting` for any that has not ended."""
        without_record: State = "failed" if closing == "FAILED" else "waiting"
        states = [without_record if files.record is None else files.record.outcome for files in folds]
        not_started: list[State] = ["waiting"] * (self._config.folds.folds - len(folds))
        return combined_state([*states, *not_started])


def _statuses(
    run: str,
    state: State,
    folds: Sequence[TrialFiles],
    training: Collection[TrialKey] | None,
    closing: RunStatus | None,
) -> Iterator[Item]:
    """How a configuration and those of its trials that have no record stand."""
    records = [files.record for files in folds if files.record is not None]
    is_pruned = any(record.outcome == "pruned" for record in records)
    for files in folds:
        if files.record is None:
            is_training = training is None or (files.trial.configuration.key, files.trial.identity.fold) in training
            status: RunStatus = closing or ("RUNNING" if is_training else "SCHEDULED")
            yield Status(files.run, "KILLED" if is_pruned else status)
    if state == "finished":
        yield Summary(run, over_folds([record.metrics for record in records]))
    yield Status(run, STATUS.get(state, "KILLED" if closing else "RUNNING"))


def _best(scores: Mapping[str, float]) -> Iterator[Item]:
    """Tag the run with the highest score, the first of equals, and no other; none if no score is finite."""
    best = max(scores, key=scores.__getitem__)
    for run, score in scores.items():
        yield Tags(run, {BEST: "true" if run == best and math.isfinite(score) else None})


def _checkpoints(trials: Collection[TrialFiles], limits: MlflowConfig) -> Iterator[Item]:
    """Have MLflow hold the weights of the best trials, as many as the limits allow, and no others.

    On disk every trial keeps its weights. What drops out is deleted before anything is added, so MLflow never holds
    more than it may.
    """
    weights = {files.run: files.trial.folder / BEST_WEIGHTS for files in trials}
    digests = {files.run: files.record.files.get(BEST_WEIGHTS, "") if files.record else "" for files in trials}
    candidates = [files for files in trials if math.isfinite(files.score) and digests[files.run]]
    ranked = [files.run for files in sorted(candidates, key=lambda files: -files.score)]
    room = math.inf if limits.checkpoint_gb is None else limits.checkpoint_gb * 1e9
    sizes = accumulate(weights[run].stat().st_size for run in ranked)
    kept = ranked[: min(sum(size <= room for size in sizes), limits.keep_checkpoints or len(ranked))]
    yield from (Artifact(run, "best", None, CHECKPOINT) for run in weights.keys() - set(kept))
    for run in kept:
        yield Artifact(run, f"best/{weights[run].name}", weights[run], CHECKPOINT, digests[run])


def hyperparameters(configuration: Configuration) -> dict[str, object]:
    """Model spec and hyperparameters by (dotted) name: `backbone`, `modality`, …, `learning_rate`, `daft.bias`."""

    def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
        flat: dict[str, object] = {}
        for name, value in values.items():
            flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        return flat

    return flatten({**configuration.model.model_dump(), **configuration.training.model_dump()})


def over_folds(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean and SD (n − 1) over folds of every metric that all folds have: `val/auc_mean`, `val/auc_sd`, …"""
    summary = {}
    for name in metrics[0]:
        values = [fold[name] for fold in metrics if name in fold]
        if name != "lr" and len(values) == len(metrics):
            summary[f"{name}_mean"], summary[f"{name}_sd"] = fmean(values), stdev(values)
    return summary


def shareable(config: StudyConfig) -> dict[str, object]:
    """The study's configuration without the paths of cohort and atlas, patient ids and the server's address."""
    return config.model_dump(
        mode="json",
        exclude={"cohort": {"table"}, "atlas": True, "folds": {"test_patients"}, "mlflow": {"tracking_uri"}},
    )


def without_identities(text: str, patients: Iterable[str], pseudonymise: Pseudonymise) -> str:
    """`text` up to its first path (which may hold spaces, so its end is unknown), with patient ids replaced."""
    text = re.sub(r"\S*[/\\].*", "…", text, flags=re.DOTALL)
    ids = "|".join(re.escape(patient) for patient in sorted(patients, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{ids})(?!\w)", lambda match: pseudonymise(match[0]), text) if ids else text
