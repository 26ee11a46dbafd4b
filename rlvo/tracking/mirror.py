"""One writer beside the search that carries a study's records into MLflow: study → configuration → trial."""

from __future__ import annotations

import logging
import math
import statistics
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mlflow.exceptions import MlflowException

from rlvo.cohort.splits import read_split
from rlvo.config.base import content_hash
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.evaluation.predictions import read_predictions
from rlvo.files import file_sha256
from rlvo.tracking.connection import one_line
from rlvo.tracking.privacy import shareable, without_identities
from rlvo.tracking.ranking import FinishedTrial, keep_checkpoints, tag_best
from rlvo.tracking.runs import DIGEST, RunTree, Status, TrackedRun
from rlvo.tracking.trials import Trial, started_trials, study_identity, training_now
from rlvo.training.records import EPOCHS, OBJECTIVE, PREDICTIONS, CompletionRecord, read_epochs, read_record

logger = logging.getLogger(__name__)

STATUS: dict[str, Status] = {"finished": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}
UNFINISHED = ("RUNNING", "SCHEDULED")
"""A trial that waits until others have come as far shows SCHEDULED."""


@dataclass(frozen=True)
class MirroredConfiguration:
    """A configuration's run as it was just written, and the trials of it that have finished."""

    run: TrackedRun
    finished: Sequence[FinishedTrial]
    has_ended: bool

    @property
    def score(self) -> float:
        """Mean over folds of what configurations are compared by; minus infinity where not all have finished."""
        return self.run.metrics.get(f"{OBJECTIVE}_mean", -math.inf) if self.run.status == "FINISHED" else -math.inf


class Mirror:
    """Writes what a study folder holds to MLflow, as often as it is asked, and nothing twice.

    The folder is the truth and MLflow a view of it: a new process, or a server that was away, goes on where MLflow
    stands. As a context manager it runs in the background and closes at the end.

    Args:
        study: the study's configuration.
        folder: the study folder.
        tracking_uri: where MLflow is.
        artifacts: artifact folder, where MLflow is a database file.
        pseudonymise: gives a patient's pseudonym.
    """

    def __init__(
        self, study: StudyConfig, folder: Path, tracking_uri: str, artifacts: Path, pseudonymise: Callable[[str], str]
    ) -> None:
        self._study, self._folder, self._pseudonymise = study, folder, pseudonymise
        self._address = tracking_uri, study.name, artifacts
        self._tree: RunTree | None = None
        self._delivered: dict[Path, tuple[int, CompletionRecord]] = {}  # by file, with its modification time
        self._trials: list[Trial] = []
        self._training: set[tuple[str, int]] | None = None
        self._damage: RlvoError | None = None
        self._problem: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, interval: float = 5.0) -> None:
        """Sync every `interval` seconds in the background. If MLflow is away that is logged once, and tried again."""
        self._thread = threading.Thread(target=self._run, args=(interval,), name="mlflow-mirror", daemon=True)
        self._thread.start()

    def close(self, *, interrupted: bool = False) -> str | None:
        """Stop, sync a last time and end every run: a trial without a record was stopped, or else has failed.

        Args:
            interrupted: the search was stopped and will go on another time.

        Returns:
            In one line what MLflow did not get; None where it has everything.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._try(unfinished="KILLED" if interrupted else "FAILED")
        if self._problem is None:
            return None
        waiting = sum(not self._is_delivered(trial) for trial in self._trials)
        return f"MLflow lacks {f'{waiting} trial(s)' if waiting else 'something'} that is on disk: {self._problem}"

    def __enter__(self) -> Mirror:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if problem := self.close(interrupted=kind is not None):
            logger.warning(problem)

    def sync(self) -> None:
        """Carry over what is new.

        Raises:
            RlvoError: MLflow does not answer (MachineError), or a trial's files are damaged.
            MlflowException, OSError: MLflow stopped answering, or refused.
        """
        self._sync(unfinished="RUNNING")

    def _run(self, interval: float) -> None:
        while not self._stop.wait(interval):
            self._try(unfinished="RUNNING")

    def _try(self, unfinished: Status) -> None:
        try:
            self._sync(unfinished)
            self._problem = None
        except (MlflowException, OSError, RlvoError) as error:
            if self._problem is None:
                logger.warning("MLflow does not get everything yet; the study goes on: %s", one_line(error))
            self._problem = one_line(error)

    def _sync(self, unfinished: Status) -> None:
        self._trials, self._training = started_trials(self._study, self._folder), training_now(self._folder)
        if not self._trials:
            return
        tree, self._tree = self._tree or RunTree(*self._address), None  # after a failure, ask MLflow where it stands
        self._damage = None
        study = open_study_run(tree, self._study, self._folder)
        siblings: dict[str, list[Trial]] = {}
        for trial in self._trials:
            siblings.setdefault(trial.configuration.key, []).append(trial)
        configurations = [self._configuration(tree, study, each, unfinished) for each in siblings.values()]
        finished = [trial for each in configurations for trial in each.finished]
        tag_best(tree, [(trial.run, trial.score) for trial in finished])
        tag_best(tree, [(each.run, each.score) for each in configurations])
        keep_checkpoints(tree, finished, self._study.mlflow)
        is_complete = sum(each.has_ended for each in configurations) >= self._study.configurations
        tree.set_status(study, "FINISHED" if is_complete or unfinished == "FAILED" else unfinished)
        if unfinished != "RUNNING":
            for run in tree.below(study):
                if run.status in UNFINISHED:  # its trial's folder is no longer there
                    tree.set_status(run, "KILLED")
        self._tree = tree
        if self._damage is not None:
            raise self._damage

    def _configuration(
        self, tree: RunTree, study: TrackedRun, trials: Sequence[Trial], unfinished: Status
    ) -> MirroredConfiguration:
        """A configuration's run and, below it, a run for each of its trials."""
        configuration = trials[0].configuration
        run = tree.open(
            f"{study.tags['rlvo.identity']}/{configuration.key}",
            "configuration",
            configuration.label,
            parent=study,
            params=hyperparameters(configuration),
            tags={"rlvo.configuration": configuration.key},
        )
        finished: list[FinishedTrial] = []
        open_runs: list[tuple[TrackedRun, Trial]] = []
        states: set[str] = set()
        for trial in trials:
            trial_run, record = self._trial(tree, run, trial)
            states.add(record.status if record else "unfinished")
            if record is None:
                open_runs.append((trial_run, trial))
            elif record.status == "finished":
                finished.append(FinishedTrial(trial_run, trial, record))
        for trial_run, trial in open_runs:
            is_waiting = unfinished == "RUNNING" and not self._trains(trial)
            tree.set_status(trial_run, "KILLED" if "pruned" in states else "SCHEDULED" if is_waiting else unfinished)
        if "failed" in states or ("unfinished" in states and unfinished == "FAILED"):
            tree.set_status(run, "FAILED")
        elif "pruned" in states:
            tree.set_status(run, "KILLED")
        elif len(finished) == self._study.folds.folds:
            tree.log_summary(run, over_folds([trial.record.metrics for trial in finished]))
            tree.set_status(run, "FINISHED")
        else:
            tree.set_status(run, "RUNNING" if unfinished == "RUNNING" else "KILLED")
            return MirroredConfiguration(run, finished, has_ended=False)
        return MirroredConfiguration(run, finished, has_ended=True)

    def _trial(self, tree: RunTree, parent: TrackedRun, trial: Trial) -> tuple[TrackedRun, CompletionRecord | None]:
        """A trial's run, as far as the trial has come, and its record where it has ended."""
        run = tree.open(
            trial.identity.key,
            "trial",
            f"fold {trial.identity.fold}, {trial.configuration.label}",
            parent=parent,
            params={**hyperparameters(trial.configuration), "fold": trial.identity.fold},
            tags={"rlvo.configuration": trial.configuration.key},
        )
        if self._is_delivered(trial):
            return run, self._delivered[trial.record][1]
        try:
            record, epochs = read_record(trial.folder), read_epochs(trial.folder)
        except RlvoError as damage:  # the others' figures do not wait for it
            self._damage = damage
            return run, None
        if epochs:
            tree.log_epochs(run, epochs, int((trial.folder / EPOCHS).stat().st_mtime * 1000))
        if record is not None:
            self._end(tree, run, trial, record)
        return run, record

    def _end(self, tree: RunTree, run: TrackedRun, trial: Trial, record: CompletionRecord) -> None:
        """Deliver what an ended trial left, then end its run."""
        modified, digest = trial.record.stat().st_mtime_ns, file_sha256(trial.record)
        if run.tags.get(DIGEST) != digest:
            best = {
                name.replace("val/", "best/"): value
                for name, value in record.metrics.items()
                if name.startswith("val/")
            }
            tree.log_summary(run, {**best, "seconds": record.seconds}, step=record.best_epoch or 0)
            if PREDICTIONS in record.files:
                self._log_predictions(tree, run, trial)
            reason = {"rlvo.reason": self._without_identities(record.reason)} if record.reason else {}
            tree.set_tags(run, {**reason, DIGEST: digest})
        tree.set_status(run, STATUS[record.status])
        self._delivered[trial.record] = modified, record

    def _log_predictions(self, tree: RunTree, run: TrackedRun, trial: Trial) -> None:
        predictions = read_predictions(trial.folder / PREDICTIONS)
        predictions["patient"] = predictions["patient"].map(self._pseudonymise)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "validation_predictions.csv"
            predictions.to_csv(path, index=False)
            tree.client.log_artifact(run.id, str(path))

    def _without_identities(self, text: str) -> str:
        split = read_split(self._folder / "split.json")
        return without_identities(text, [*split.development, *split.test], self._pseudonymise)

    def _trains(self, trial: Trial) -> bool:
        return self._training is None or (trial.identity.configuration, trial.identity.fold) in self._training

    def _is_delivered(self, trial: Trial) -> bool:
        known = self._delivered.get(trial.record)
        return known is not None and trial.record.exists() and known[0] == trial.record.stat().st_mtime_ns


def open_study_run(tree: RunTree, study: StudyConfig, folder: Path) -> TrackedRun:
    """The run of the study in `folder`, with its configuration as an artifact."""
    params = {
        "sampler": study.search.sampler,
        "folds": study.folds.folds,
        "seed": study.seed,
        "grid": "×".join(map(str, study.grid.shape)),
    }
    run = tree.open(study_identity(study, folder), "study", study.name, params=params)
    content = shareable(study)
    if run.tags.get(DIGEST) != content_hash(content):
        tree.client.log_dict(run.id, content, "study.json")
        tree.set_tags(run, {DIGEST: content_hash(content)})
    return run


def hyperparameters(configuration: Configuration) -> dict[str, object]:
    """Model spec and hyperparameters by (dotted) name: `backbone`, `modality`, …, `learning_rate`, `daft.bias`."""
    return {**_flat(configuration.model.model_dump()), **_flat(configuration.training.model_dump())}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def over_folds(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean and SD (n − 1) over folds of every metric that all folds have: `val/auc_mean`, `val/auc_sd`, …"""
    summary = {}
    for name in metrics[0]:
        values = [fold[name] for fold in metrics if name in fold]
        if name != "lr" and len(values) == len(metrics):
            summary[f"{name}_mean"], summary[f"{name}_sd"] = statistics.fmean(values), statistics.stdev(values)
    return summary
