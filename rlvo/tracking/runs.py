"""The runs of one MLflow experiment, and the one writer that carries items into them, each no more than once."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from rlvo.mlflow_client import Tracking

Kind = Literal["study", "configuration", "trial", "ensemble", "baseline"]
RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]

KIND, IDENTITY, PARENT = "rlvo.kind", "rlvo.identity", "mlflow.parentRunId"
NEUTRAL = {"mlflow.user": "rlvo", "mlflow.source.name": "rlvo"}
"""Replaces the user's name and the path of a script."""
EPOCHS_PER_BATCH = 100
"""MLflow accepts 1000 metrics per batch; an epoch has eight."""


@dataclass(frozen=True)
class NewRun:
    """A run, created unless it exists. Parameters that it lacks are added; those that are set stay."""

    run: str
    """The identity (tag `rlvo.identity`) by which all items name their run."""
    kind: Kind
    name: str
    parent: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Epochs:
    """Metrics by epoch (`epoch` is the step, from 1), of which those after the last one logged are written."""

    run: str
    epochs: Sequence[Mapping[str, float]]
    when: int
    """Milliseconds since 1970."""


@dataclass(frozen=True)
class Summary:
    """Metrics of the whole run, of which those that changed are written."""

    run: str
    metrics: Mapping[str, float]
    step: int = 0


@dataclass(frozen=True)
class Artifact:
    """A file, written unless the run's `tag` is `digest` already; the tag is set afterwards."""

    run: str
    name: str
    """Its path among the run's artifacts."""
    content: str | Path | None
    """Its text, or a file of the same name; None: a run with this tag loses both."""
    tag: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class NoOpenRuns:
    """What still runs or waits below a run is killed."""

    run: str


@dataclass(frozen=True)
class Tags:
    """Values of tags; a tag that is None is removed."""

    run: str
    tags: Mapping[str, str | None]


@dataclass(frozen=True)
class Status:
    """How a run stands."""

    run: str
    status: RunStatus


Item = NewRun | Epochs | Summary | Artifact | NoOpenRuns | Tags | Status


class TrackedRun:
    """What MLflow holds of a run, as far as we know."""

    def __init__(self, run: Run) -> None:
        self.id: str = run.info.run_id
        self.status, self.artifact_uri = run.info.status, run.info.artifact_uri
        self.params, self.metrics, self.tags = {**run.data.params}, {**run.data.metrics}, {**run.data.tags}
        self.last_epoch: int | None = None  # not asked for yet


class RunTree:
    """The runs of an experiment by `rlvo.identity`. Only one process at a time may write to an experiment."""

    def __init__(self, tracking: Tracking, experiment: str) -> None:
        """Connect and read which runs exist. Raises MachineError if MLflow does not answer."""
        self._client, self._experiment = tracking.open_experiment(experiment)
        self._tracking_uri = tracking.uri
        self.runs = self._find()

    def write(self, item: Item) -> None:
        """Make MLflow hold what the item says. What it holds already is not written again."""
        if isinstance(item, NewRun):
            return self._open(item)
        run = self.runs[item.run]
        match item:
            case Epochs():
                self._log_epochs(run, item)
            case Summary():
                new = {name: value for name, value in item.metrics.items() if run.metrics.get(name) != value}
                if new:
                    self._log_metrics(run, {item.step: new}, time.time_ns() // 1_000_000)
                    run.metrics.update(new)
            case Artifact():
                if item.tag is None or run.tags.get(item.tag) != item.digest:
                    self._write_artifact(run, item)
                    self._set_tags(run, {item.tag: item.digest} if item.tag else {})
            case NoOpenRuns():
                self._kill_open_runs(run)
            case Tags():
                self._set_tags(run, item.tags)
            case Status():
                self._set_status(run, item.status)

    def _open(self, item: NewRun) -> None:
        if item.run not in self.runs:
            parent = {PARENT: self.runs[item.parent].id} if item.parent else {}
            tags = {KIND: item.kind, IDENTITY: item.run, **parent, **NEUTRAL, **item.tags}
            self._client.create_run(self._experiment, tags=tags, run_name=item.name)
            # If an answer is lost on its way, MLflow's client asks again and so makes a second run.
            self.runs |= self._find(f"tags.`{IDENTITY}` = '{item.run}'")
        run = self.runs[item.run]
        missing = {key: str(value) for key, value in item.params.items() if key not in run.params}
        if missing:
            self._client.log_batch(run.id, params=[Param(key, value) for key, value in missing.items()])
            run.params.update(missing)

    def _log_epochs(self, run: TrackedRun, item: Epochs) -> None:
        if run.last_epoch is None:
            history = self._client.get_metric_history(run.id, "train/loss")
            run.last_epoch = max((metric.step for metric in history), default=0)
        new = [epoch for epoch in item.epochs if epoch["epoch"] > run.last_epoch]
        for start in range(0, len(new), EPOCHS_PER_BATCH):
            batch = {int(epoch["epoch"]): epoch for epoch in new[start : start + EPOCHS_PER_BATCH]}
            self._log_metrics(run, batch, item.when)
            run.last_epoch = max(batch)

    def _log_metrics(self, run: TrackedRun, metrics: Mapping[int, Mapping[str, float]], when: int) -> None:
        """Log metrics by step."""
        rows = [(step, name, value) for step, values in metrics.items() for name, value in values.items()]
        self._client.log_batch(run.id, [Metric(name, at, when, step) for step, name, at in rows if name != "epoch"])

    def _write_artifact(self, run: TrackedRun, item: Artifact) -> None:
        if item.content is None:
            repository = get_artifact_repository(run.artifact_uri, self._tracking_uri)
            repository.delete_artifacts(item.name)  # type: ignore[no-untyped-call]
        elif isinstance(item.content, Path):
            self._client.log_artifact(run.id, str(item.content), os.path.dirname(item.name) or None)
        else:
            self._client.log_text(run.id, item.content, item.name)

    def _set_tags(self, run: TrackedRun, tags: Mapping[str, str | None]) -> None:
        new = {key: value for key, value in tags.items() if value is not None and run.tags.get(key) != value}
        if new:
            self._client.log_batch(run.id, tags=[RunTag(key, value) for key, value in new.items()])
            run.tags.update(new)
        for key in [key for key, value in tags.items() if value is None and key in run.tags]:
            self._client.delete_tag(run.id, key)
            del run.tags[key]

    def _set_status(self, run: TrackedRun, status: RunStatus) -> None:
        if run.status == status:
            return
        if status in ("RUNNING", "SCHEDULED"):
            self._client.update_run(run.id, status)
        else:
            self._client.set_terminated(run.id, status)
        run.status = status

    def _kill_open_runs(self, ancestor: TrackedRun) -> None:
        children = {run.id for run in self.runs.values() if run.tags.get(PARENT) == ancestor.id}
        for run in self.runs.values():
            if run.tags.get(PARENT) in {ancestor.id, *children} and run.status in ("RUNNING", "SCHEDULED"):
                self._set_status(run, "KILLED")

    def _find(self, query: str = "") -> dict[str, TrackedRun]:
        """The runs by identity. Of several the one that holds most, or else the oldest, is kept; others are deleted."""

        def rank(run: Run) -> tuple[int, int]:
            return len(run.data.params) + len(run.data.metrics) + len(run.data.tags), -run.info.start_time

        token: str | None = None
        found: dict[str, list[Run]] = {}
        while token != "":
            page = self._client.search_runs([self._experiment], query, page_token=token)
            token = page.token or ""
            for run in page:
                if IDENTITY in run.data.tags:
                    found.setdefault(run.data.tags[IDENTITY], []).append(run)
        tracked = {}
        for identity, runs in found.items():
            kept, *others = sorted(runs, key=rank, reverse=True)
            for other in others:
                self._client.delete_run(other.info.run_id)
            tracked[identity] = TrackedRun(kept)
        return tracked
