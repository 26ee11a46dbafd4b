"""What MLflow is to hold of a study, read from its folder.

No path and no patient id is written: patients are named by pseudonym, and text ends before its first path.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from statistics import fmean, stdev

from rlvo.cohort.splits import read_split
from rlvo.config.base import by_path, content_hash
from rlvo.config.model import Configuration
from rlvo.config.space import conditions
from rlvo.config.study import MlflowConfig, StudyConfig
from rlvo.errors import RlvoError
from rlvo.evaluation.predictions import read_predictions
from rlvo.files import csv_text, file_sha256
from rlvo.study.folder import StartedTrial, StudyFolder, started_trials, study_identity
from rlvo.study.state import State, combined_state
from rlvo.study.status import TrialKey, read_note
from rlvo.tracking.datasets import StudyGroups
from rlvo.tracking.notes import configuration_note, study_note, trial_note
from rlvo.tracking.runs import RunStatus, RunTree
from rlvo.tracking.trial_figures import trial_figures
from rlvo.training.records import BEST_WEIGHTS, EPOCHS, PREDICTIONS, CompletionRecord, read_epochs, read_record
from rlvo.training.usage import read_usage

DIGEST = "rlvo.digest"
"""Tag: SHA-256 of the file that a run shows in full; set once everything is there."""
BEST, CHECKPOINT, CONFIGURATION = "rlvo.best", "rlvo.checkpoint", "rlvo.configuration"
"""Tags: `true` on the best trial and the best configuration; SHA-256 of the weights that a trial's run holds;
the configuration's key."""
RETRIES = "rlvo.out_of_memory"
"""Tag: from which epoch on how many patients of a batch were computed at once, if memory ran out."""
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
    """Whether the trial has ended and MLflow holds all of it."""

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


def open_study_run(tree: RunTree, config: StudyConfig, study: StudyFolder, groups: StudyGroups) -> str:
    """The identity of a study's run, which is created if need be, with its configuration as an artifact."""
    run, content = study_identity(study, config), shareable(config)
    tree.save_views(config)
    grid = "×".join(map(str, config.grid.shape))
    params = {"sampler": config.search.sampler, "folds": config.folds.folds, "seed": config.seed, "grid": grid}
    tree.open(run, "study", config.name, params, note=study_note(config, groups), datasets=[groups.optimistic])
    tree.write_artifact(run, study.config.name, json.dumps(content, indent=2), tag=DIGEST, digest=content_hash(content))
    return run


class StudyItems:
    """Reads a study and its trials and writes them to MLflow, again and again, and knows what was delivered."""

    def __init__(self, config: StudyConfig, study: StudyFolder, pseudonymise: Pseudonymise) -> None:
        self._config, self._study, self._pseudonymise = config, study, pseudonymise
        self._trials: dict[str, TrialFiles] = {}  # by run
        self.damage: RlvoError | None = None
        """What is wrong with a trial's files, if they could not be read."""

    @property
    def undelivered(self) -> int:
        """How many trials MLflow does not hold in full."""
        return sum(not self._is_delivered(trial) for trial in self._trials.values())

    def find_trials(self) -> bool:
        """Look which trials were started. False: none."""
        self.damage = None
        self._trials = {
            trial.identity.key: self._trials.get(trial.identity.key, TrialFiles(trial))
            for trial in started_trials(self._study, self._config)
        }
        return bool(self._trials)

    def write(self, tree: RunTree, closing: RunStatus | None = None) -> None:
        """Have MLflow hold the trials that were found: study → configuration → trial.

        Args:
            tree: the study's experiment.
            closing: how trials without a record have ended; None while the search runs.
        """
        groups, note = StudyGroups.of(self._study), read_note(self._study)
        root = open_study_run(tree, self._config, self._study, groups)
        states: dict[str, State] = {}
        scores: dict[str, float] = {}
        for key, siblings in groupby(self._trials.values(), key=lambda files: files.trial.configuration.key):
            run, folds = f"{root}/{key}", [self._read(files) for files in siblings]
            self._write_runs(tree, root, run, folds, groups)
            states[run] = self._set_statuses(tree, run, folds, note.running if note is not None else None, closing)
            scores[run] = fmean(trial.score for trial in folds) if states[run] == "finished" else -math.inf
        _tag_best(tree, {run: trial.score for run, trial in self._trials.items()})
        _tag_best(tree, scores)
        self._summarise(tree, root, scores)
        _keep_checkpoints(tree, self._trials.values(), self._config.mlflow, groups)
        is_complete = sum(state in STATUS for state in states.values()) >= self._config.configurations
        tree.set_status(root, "FINISHED" if is_complete or closing == "FAILED" else closing or "RUNNING")
        if closing is not None:
            tree.kill_open_runs(root)  # what is left are runs of trials whose folders are gone

    def _summarise(self, tree: RunTree, root: str, scores: Mapping[str, float]) -> None:
        """At the study's run: the best configuration, and how many trials have ended, each by how many had by then."""
        records = {run: files.record for run, files in self._trials.items() if files.record is not None}
        outcomes = Counter[State](record.outcome for record in records.values())
        figures: dict[str, float] = {f"trials_{outcome}": outcomes[outcome] for outcome in STATUS}
        figures["trials_planned"] = self._config.configurations * self._config.folds.folds
        best = max(scores, key=scores.__getitem__)
        if math.isfinite(scores[best]):
            run = tree.runs[best]
            figures |= {f"best/auc_{statistic}": run.metrics[f"val/auc_{statistic}"] for statistic in ("mean", "sd")}
            tree.set_tags(root, {"rlvo.best_configuration": f"{run.name} ({run.tags[CONFIGURATION]})"})
        tree.log_summary(root, figures, step=len(records))

    def _read(self, files: TrialFiles) -> TrialFiles:
        """Read what a trial has written, unless it was delivered."""
        if not self._is_delivered(files):
            files.is_delivered, files.record, files.epochs = False, None, ()
            folder, files.record_ns = files.trial.folder, modified_ns(files.trial.record)
            try:
                files.record, usage = read_record(folder), read_usage(folder)
                files.epochs = [{**epoch, **usage.get(int(epoch["epoch"]), {})} for epoch in read_epochs(folder)]
            except RlvoError as damage:  # the other trials do not wait for it
                self.damage = damage
        return files

    @staticmethod
    def _is_delivered(files: TrialFiles) -> bool:
        return files.is_delivered and files.record_ns == modified_ns(files.trial.record)

    def _write_runs(self, tree: RunTree, root: str, run: str, folds: Sequence[TrialFiles], groups: StudyGroups) -> None:
        """The run of a configuration and those of its trials, with what each trial has written so far."""
        configuration = folds[0].trial.configuration
        params, tags = hyperparameters(configuration), {CONFIGURATION: configuration.key}
        tree.open(
            run,
            "configuration",
            run_name(configuration),
            params,
            parent=root,
            tags=tags,
            note=configuration_note(configuration),
            datasets=[groups.optimistic],
        )
        for files in folds:
            fold = files.trial.identity.fold
            tree.open(
                files.run,
                "trial",
                run_name(configuration, fold),
                {**params, "fold": fold},
                parent=run,
                tags=tags,
                note=trial_note(configuration, fold, groups.training(fold), groups.validation(fold)),
                datasets=(groups.training(fold), groups.validation(fold)),
            )
            if files.epochs and not files.is_delivered:
                written = modified_ns(files.trial.folder / EPOCHS) or 0
                tree.log_epochs(files.run, files.epochs, written // 1_000_000)
            if files.record is not None and not files.is_delivered:
                self._write_ended(tree, files, files.record)
                files.is_delivered = True

    def _write_ended(self, tree: RunTree, files: TrialFiles, record: CompletionRecord) -> None:
        """What a trial left when it ended."""
        tree.log_summary(files.run, {**at_best(record), "seconds": record.seconds}, step=record.best_epoch or 0)
        tags = {DIGEST: file_sha256(files.trial.record)}
        if tree.runs[files.run].tags.get(DIGEST) != tags[DIGEST]:
            stored = files.trial.folder / PREDICTIONS
            predictions = read_predictions(stored) if PREDICTIONS in record.files else None
            for name, figure in trial_figures(files.epochs, record, predictions).items():
                tree.write_artifact(files.run, name, figure)
            if predictions is not None:
                predictions["patient"] = predictions["patient"].map(self._pseudonymise)
                tree.write_artifact(files.run, "validation_predictions.csv", csv_text(predictions))
        if record.reason:
            split = read_split(self._study.split)
            patients = [*split.development, *split.test]
            tags["rlvo.reason"] = without_identities(record.reason, patients, self._pseudonymise)
        elif record.failure:
            tags["rlvo.reason"] = record.failure
        if record.retries:
            tags[RETRIES] = ", ".join(f"epoch {each.epoch}: {each.micro_batch} at once" for each in record.retries)
        tree.set_tags(files.run, tags)
        tree.set_status(files.run, STATUS[record.outcome])

    def _set_statuses(
        self,
        tree: RunTree,
        run: str,
        folds: Sequence[TrialFiles],
        training: Collection[TrialKey] | None,
        closing: RunStatus | None,
    ) -> State:
        """Say how a configuration and those of its trials that have no record stand.

        Returns:
            The configuration's state: `finished`, `failed`, `pruned`, or `waiting` for any that has not ended.
        """
        records = [files.record for files in folds if files.record is not None]
        outcomes: list[State] = [record.outcome for record in records]
        for files in folds:
            if files.record is None:
                outcomes.append("failed" if closing == "FAILED" else "waiting")
                is_training = training is None or (files.trial.configuration.key, files.trial.identity.fold) in training
                status: RunStatus = closing or ("RUNNING" if is_training else "SCHEDULED")
                tree.set_status(files.run, "KILLED" if "pruned" in outcomes else status)
        outcomes += ["waiting"] * (self._config.folds.folds - len(folds))
        if (state := combined_state(outcomes)) == "finished":
            tree.log_summary(run, over_folds([record.metrics for record in records]))
        tree.set_status(run, STATUS.get(state, "KILLED" if closing else "RUNNING"))
        return state


def _tag_best(tree: RunTree, scores: Mapping[str, float]) -> None:
    """Tag the run with the highest score, the first of equals, and no other; none if no score is finite."""
    best = max(scores, key=scores.__getitem__)
    for run, score in scores.items():
        tree.set_tags(run, {BEST: "true" if run == best and math.isfinite(score) else None})


def _keep_checkpoints(tree: RunTree, trials: Collection[TrialFiles], limits: MlflowConfig, groups: StudyGroups) -> None:
    """Have MLflow hold the weights of the best trials, as many as the limits allow, and no others; likewise as models.

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
    for run in weights.keys() - set(kept):
        tree.write_artifact(run, "best", None, CHECKPOINT)
        tree.delete_model(run)
    by_run = {files.run: files for files in candidates}
    for run in kept:
        tree.write_artifact(run, f"best/{weights[run].name}", weights[run], CHECKPOINT, digests[run])
        trial, record = by_run[run].trial, by_run[run].record
        assert record is not None  # candidates have one
        fold = trial.identity.fold
        tree.log_model(
            run, run_name(trial.configuration, fold), record.best_epoch or 0, at_best(record), groups.validation(fold)
        )


def run_name(configuration: Configuration, fold: int | None = None) -> str:
    """Begins with what differs most, because tables cut it: `BOTH +prior daft, fold 0, densenet169`."""
    backbone, _, rest = configuration.label.partition(" ")
    return ", ".join([rest, *([] if fold is None else [f"fold {fold}"]), backbone])


def at_best(record: CompletionRecord) -> dict[str, float]:
    """The validation metrics of the best epoch: `best/auc`, …"""
    return {name.replace("val/", "best/"): at for name, at in record.metrics.items() if name.startswith("val/")}


def hyperparameters(configuration: Configuration) -> dict[str, object]:
    """Model spec and hyperparameters by (dotted) name: `backbone`, `modality`, …, `learning_rate`, `daft.bias`.

    Options of other backbones, fusions and schedules than the configuration's are left out.
    """
    values = by_path(configuration.model_dump())

    def matters(path: str) -> bool:
        return all(values[field] in needed for field, needed in conditions(path))

    return {path.partition(".")[2]: value for path, value in values.items() if matters(path)}


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
