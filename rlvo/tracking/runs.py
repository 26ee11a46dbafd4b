"""Runs of one experiment, found or made by their identity, so that nothing is written twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.time import get_current_time_millis

from rlvo.tracking.connection import connect

Kind = Literal["study", "configuration", "trial", "ensemble", "baseline"]
Status = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]

KIND, IDENTITY, PARENT = "rlvo.kind", "rlvo.identity", "mlflow.parentRunId"
DIGEST = "rlvo.digest"
"""SHA-256 of the file that a run shows in full; set once everything is there."""
NEUTRAL = {"mlflow.user": "rlvo", "mlflow.source.name": "rlvo"}
"""In place of the user's name and the path of a script."""
EPOCHS_A_BATCH = 100
"""MLflow takes 1000 metrics a batch; an epoch has eight."""


@dataclass
class TrackedRun:
    """What MLflow holds of a run, as far as we know."""

    id: str
    status: str
    artifact_uri: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    last_step: int | None = None
    """Last epoch logged; None: not yet asked for."""


class RunTree:
    """The runs of an experiment by `rlvo.identity`. One process at a time writes to an experiment's study."""

    def __init__(self, tracking_uri: str, experiment: str, artifacts: Path) -> None:
        """Connect and read which runs there are. Raises MachineError where MLflow does not answer."""
        self.client, self._experiment = connect(tracking_uri, experiment, artifacts)
        self._tracking_uri = tracking_uri
        found: dict[str, list[Run]] = {}
        for run in self._search():
            if IDENTITY in run.data.tags:
                found.setdefault(run.data.tags[IDENTITY], []).append(run)
        self._runs = {identity: _tracked(self._only(runs)) for identity, runs in found.items()}

    def open(
        self,
        identity: str,
        kind: Kind,
        name: str,
        *,
        parent: TrackedRun | None = None,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> TrackedRun:
        """The run of this identity, made where it is missing; it has `params` (once set, they stay) afterwards."""
        run = self._runs.get(identity)
        if run is None:
            nesting = {PARENT: parent.id} if parent else {}
            fixed = {KIND: kind, IDENTITY: identity, **nesting, **NEUTRAL, **(tags or {})}
            self.client.create_run(self._experiment, tags=fixed, run_name=name)
            # MLflow's client asks again where an answer was lost on its way, and so makes a second run.
            found = self._search(f"tags.`{IDENTITY}` = '{identity}'")
            run = self._runs[identity] = _tracked(self._only(found))
        missing = {key: str(value) for key, value in (params or {}).items() if key not in run.params}
        if missing:
            self.client.log_batch(run.id, params=[Param(key, value) for key, value in missing.items()])
            run.params.update(missing)
        return run

    def log_epochs(self, run: TrackedRun, epochs: Sequence[Mapping[str, float]], when: int) -> None:
        """Log the epochs (`epoch` is the step, counted from 1) that are not there yet; `when` in ms since 1970."""
        if run.last_step is None:
            history = self.client.get_metric_history(run.id, "train/loss")
            run.last_step = max((metric.step for metric in history), default=0)
        new = [epoch for epoch in epochs if epoch["epoch"] > run.last_step]
        for start in range(0, len(new), EPOCHS_A_BATCH):
            batch = new[start : start + EPOCHS_A_BATCH]
            metrics = [
                Metric(name, value, when, int(epoch["epoch"]))
                for epoch in batch
                for name, value in epoch.items()
                if name != "epoch"
            ]
            self.client.log_batch(run.id, metrics=metrics)
            run.last_step = int(batch[-1]["epoch"])

    def log_summary(self, run: TrackedRun, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log figures that describe the whole run; those that are there already are left alone."""
        now = get_current_time_millis()
        new = {name: value for name, value in metrics.items() if run.metrics.get(name) != value}
        if new:
            self.client.log_batch(run.id, metrics=[Metric(name, value, now, step) for name, value in new.items()])
            run.metrics.update(new)

    def set_tags(self, run: TrackedRun, tags: Mapping[str, str]) -> None:
        """Set tags, in one call."""
        self.client.log_batch(run.id, tags=[RunTag(key, value) for key, value in tags.items()])
        run.tags.update(tags)

    def set_status(self, run: TrackedRun, status: Status) -> None:
        """End a run, or mark it as running or waiting again."""
        if run.status == status:
            return
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run.id, status)
        else:
            self.client.set_terminated(run.id, status)
        run.status = status

    def remove_tags(self, run: TrackedRun, *keys: str) -> None:
        """Remove tags, where the run has them."""
        for key in keys:
            if key in run.tags:
                self.client.delete_tag(run.id, key)
                del run.tags[key]

    def delete_artifacts(self, run: TrackedRun, path: str) -> None:
        """Delete a file or folder of a run's artifacts; one that is not there is fine."""
        get_artifact_repository(run.artifact_uri, self._tracking_uri).delete_artifacts(path)

    def below(self, ancestor: TrackedRun) -> list[TrackedRun]:
        """The runs whose parent, or parent's parent, is `ancestor`."""
        children = [run for run in self._runs.values() if run.tags.get(PARENT) == ancestor.id]
        parents = {run.id for run in children}
        return children + [run for run in self._runs.values() if run.tags.get(PARENT) in parents]

    def _search(self, query: str = "") -> list[Run]:
        page = self.client.search_runs([self._experiment], query)
        runs = list(page)
        while page.token:
            page = self.client.search_runs([self._experiment], query, page_token=page.token)
            runs += page
        return runs

    def _only(self, runs: Sequence[Run]) -> Run:
        """Of several runs of one identity the one that holds most, else the oldest; the others are deleted."""

        def holds(run: Run) -> tuple[int, int]:
            return len(run.data.params) + len(run.data.metrics) + len(run.data.tags), -run.info.start_time

        kept, *others = sorted(runs, key=holds, reverse=True)
        for other in others:
            self.client.delete_run(other.info.run_id)
        return kept


def _tracked(run: Run) -> TrackedRun:
    return TrackedRun(
        run.info.run_id,
        run.info.status,
        run.info.artifact_uri,
        dict(run.data.params),
        dict(run.data.metrics),
        dict(run.data.tags),
    )
