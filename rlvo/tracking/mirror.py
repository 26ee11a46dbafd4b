"""One writer beside the search that carries a study's records into MLflow: study → configuration → trial."""

from __future__ import annotations

import logging
import statistics
import tempfile
import threading
from collections.abc import Callable, Sequence
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
from rlvo.tracking.runs import DIGEST, RunTree, Status, TrackedRun
from rlvo.tracking.trials import Trial, started_trials, study_identity
from rlvo.training.records import BEST_WEIGHTS, EPOCHS, PREDICTIONS, CompletionRecord, read_epochs, read_record

logger = logging.getLogger(__name__)

STATUS: dict[str, Status] = {"finished": "FINISHED", "failed": "FAILED"}


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
        self._delivered: dict[Path, int] = {}  # completion record → its modification time
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
        waiting = [trial for trial in started_trials(self._study, self._folder) if not self._is_delivered(trial)]
        return f"MLflow lacks {len(waiting)} trial(s), which are safe on disk: {self._problem}"

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
                logger.warning("the study goes on without MLflow, which gets everything later: %s", one_line(error))
            self._problem = one_line(error)

    def _sync(self, unfinished: Status) -> None:
        trials = started_trials(self._study, self._folder)
        if not trials:
            return
        tree, self._tree = self._tree or RunTree(*self._address), None  # after a failure, ask MLflow where it stands
        study = open_study_run(tree, self._study, self._folder)
        configurations: dict[str, list[Trial]] = {}
        for trial in trials:
            configurations.setdefault(trial.configuration.key, []).append(trial)
        states = [self._configuration(tree, study, siblings, unfinished) for siblings in configurations.values()]
        is_complete = states.count("FINISHED") + states.count("FAILED") >= self._study.configurations
        tree.set_status(study, "FINISHED" if is_complete or unfinished == "FAILED" else unfinished)
        self._tree = tree

    def _configuration(self, tree: RunTree, study: TrackedRun, trials: Sequence[Trial], unfinished: Status) -> str:
        """A configuration's run and, below it, a run for each of its trials. Returns the configuration's status."""
        configuration = trials[0].configuration
        run = tree.open(
            f"{study.tags['rlvo.identity']}/{configuration.key}",
            "configuration",
            configuration.label,
            parent=study,
            params=hyperparameters(configuration),
            tags={"rlvo.configuration": configuration.key},
        )
        states = [self._trial(tree, run, trial, unfinished) for trial in trials]
        if "FAILED" in states:
            tree.set_status(run, "FAILED")
        elif states.count("FINISHED") == self._study.folds.folds:
            if run.status != "FINISHED":
                records = [record for trial in trials if (record := read_record(trial.folder)) is not None]
                tree.log_summary(run, over_folds([record.metrics for record in records]))
            tree.set_status(run, "FINISHED")
        else:
            tree.set_status(run, "RUNNING" if unfinished == "RUNNING" else "KILLED")
        return run.status

    def _trial(self, tree: RunTree, parent: TrackedRun, trial: Trial, unfinished: Status) -> str:
        """A trial's run, as far as the trial has come. Returns the run's status."""
        run = tree.open(
            trial.identity.key,
            "trial",
            f"fold {trial.identity.fold}, {trial.configuration.label}",
            parent=parent,
            params={**hyperparameters(trial.configuration), "fold": trial.identity.fold},
            tags={"rlvo.configuration": trial.configuration.key},
        )
        if self._is_delivered(trial):
            return run.status
        record = read_record(trial.folder)
        epochs = trial.folder / EPOCHS
        if epochs.exists():
            tree.log_epochs(run, read_epochs(trial.folder), int(epochs.stat().st_mtime * 1000))
        if record is None:
            tree.set_status(run, unfinished)
            return run.status
        self._end(tree, run, trial, record)
        return run.status

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
            if BEST_WEIGHTS in record.files:
                tree.client.log_artifact(run.id, str(trial.folder / BEST_WEIGHTS), "best")
            reason = {"rlvo.reason": self._without_identities(record.reason)} if record.reason else {}
            tree.set_tags(run, {**reason, DIGEST: digest})
        tree.set_status(run, STATUS[record.status])
        self._delivered[trial.record] = modified

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

    def _is_delivered(self, trial: Trial) -> bool:
        return trial.record.exists() and self._delivered.get(trial.record) == trial.record.stat().st_mtime_ns


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
