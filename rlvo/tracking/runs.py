"""The runs of one MLflow experiment, and the one writer into them, which writes nothing twice."""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy.exc import SQLAlchemyError

from rlvo.about import SOURCES, source_commit
from rlvo.config.study import StudyConfig
from rlvo.errors import MachineError
from rlvo.mlflow_client import Tracking, one_line
from rlvo.moved_folder import local_path
from rlvo.tracking.datasets import PatientGroup
from rlvo.tracking.views import NOTE, save_views, varied

Kind = Literal["study", "configuration", "trial", "ensemble", "baseline", "pretraining"]
RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]

KIND, IDENTITY, PARENT = "rlvo.kind", "rlvo.identity", "mlflow.parentRunId"
NEUTRAL = {"mlflow.user": "rlvo", "mlflow.source.name": "rlvo", "mlflow.source.type": "LOCAL"}
"""Replaces the user's name and the path of a script."""
COMMIT, MODEL = "mlflow.source.git.commit", "rlvo.model"
"""Tags: the commit of the sources; the id of the run's logged model."""
EPOCHS_PER_BATCH = 100
"""MLflow accepts 1000 metrics per batch; an epoch has eight."""


class TrackedRun:
    """What MLflow holds of a run, as far as we know."""

    def __init__(self, run: Run) -> None:
        self.id: str = run.info.run_id
        self.name: str = run.info.run_name
        self.status, self.artifact_uri = run.info.status, run.info.artifact_uri
        self.params, self.metrics, self.tags = {**run.data.params}, {**run.data.metrics}, {**run.data.tags}
        self.datasets = {each.dataset.digest for each in run.inputs.dataset_inputs} if run.inputs else set()
        self.models = {each.model_id for each in run.outputs.model_outputs} if run.outputs else set()
        self.is_inherited = False
        """Whether an earlier process had made it."""
        self.last_epoch: int | None = None  # not asked for yet


def trial_runs(tracking: Tracking, experiment: str) -> dict[str, str]:
    """The ids of the trials' runs in an experiment by `rlvo.identity`; none if there is no such experiment. Only reads.

    Raises:
        MachineError: MLflow does not answer.
    """
    if (file := tracking.database_file) is not None and not file.is_file():  # MLflow would create one
        return {}
    try:
        client = tracking.client()
        if (found := client.get_experiment_by_name(experiment)) is None:
            return {}
        runs, after, has_more = dict[str, str](), None, True
        while has_more:
            page = client.search_runs([found.experiment_id], f"tags.`{KIND}` = 'trial'", page_token=after)
            after, has_more = page.token, bool(page.token)
            runs |= {run.data.tags[IDENTITY]: run.info.run_id for run in page if IDENTITY in run.data.tags}
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        raise MachineError(f"MLflow does not answer ({one_line(error)})", where=tracking.uri) from None
    return runs


class RunTree:
    """The runs of an experiment by `rlvo.identity`, by which the methods name them too.

    What MLflow holds already is not written again. Only one process at a time may write to an experiment.

    Args:
        goes_on: whether a store that takes no more artifacts (its disk may be full) holds up nothing but artifacts:
            the refusal is kept, and until it is set to None none is tried again.
    """

    def __init__(self, tracking: Tracking, experiment: str, *, goes_on: bool = False) -> None:
        """Connect and read which runs exist. Raises MachineError if MLflow does not answer."""
        self._client, self._experiment = tracking.open_experiment(experiment)
        self._goes_on = goes_on
        self.refusal: OSError | MlflowException | None = None
        """Why an artifact was not taken."""
        self._tracking_uri = tracking.uri
        self._source = NEUTRAL | ({COMMIT: commit} if (commit := source_commit(SOURCES)) else {})
        self._has_views = False
        self.runs = self._find()
        for run in self.runs.values():
            run.is_inherited = True

    def save_views(self, config: StudyConfig) -> None:
        """Have the experiment hold the views of its study."""
        if not self._has_views:
            save_views(self._client, self._experiment, varied(config))
            self._has_views = True

    def open(
        self,
        identity: str,
        kind: Kind,
        name: str,
        params: Mapping[str, object],
        *,
        parent: str | None = None,
        tags: Mapping[str, str] = {},
        note: str = "",
        datasets: Sequence[PatientGroup] = (),
    ) -> None:
        """Create a run, with tags and a note in Markdown, unless it exists; the note may then be edited in MLflow.

        Parameters and datasets that it lacks are added; those that are set stay. In the note, `{page}` stands for the
        run's page in the UI, and `{artifact}` for the address of an artifact, but for its path.
        """
        if identity not in self.runs:
            above = {PARENT: self.runs[parent].id} if parent else {}
            tags = {KIND: kind, IDENTITY: identity, **above, **self._source, **tags}
            self._client.create_run(self._experiment, tags=tags, run_name=name)
            # If an answer is lost on its way, MLflow's client asks again and so makes a second run.
            self.runs |= self._find(f"tags.`{IDENTITY}` = '{identity}'")
        run = self.runs[identity]
        if NOTE not in run.tags:  # its addresses need the run's id
            page, artifact = f"#/experiments/{self._experiment}/runs/{run.id}", f"get-artifact?run_uuid={run.id}&path="
            self.set_tags(identity, {NOTE: note.replace("{page}", page).replace("{artifact}", artifact)})
        missing = {key: str(value) for key, value in params.items() if key not in run.params}
        if missing:
            self._client.log_batch(run.id, params=[Param(key, value) for key, value in missing.items()])
            run.params.update(missing)
        if lacking := [group for group in datasets if group.digest not in run.datasets]:
            self._client.log_inputs(run.id, [group.as_input() for group in lacking])
            run.datasets |= {group.digest for group in lacking}

    def log_epochs(self, identity: str, epochs: Sequence[Mapping[str, float]], when: int) -> None:
        """Write the metrics of those epochs (`epoch` is the step, from 1) that come after the last one logged.

        `when` is in milliseconds since 1970; an epoch that names its own (`when`) gets that.
        """
        run = self.runs[identity]
        if run.last_epoch is None:
            history = self._client.get_metric_history(run.id, "train/loss")
            run.last_epoch = max((metric.step for metric in history), default=0)
        new = [epoch for epoch in epochs if epoch["epoch"] > run.last_epoch]
        for start in range(0, len(new), EPOCHS_PER_BATCH):
            batch = {int(epoch["epoch"]): epoch for epoch in new[start : start + EPOCHS_PER_BATCH]}
            self._log_metrics(run, batch, when)
            run.last_epoch = max(batch)

    def log_summary(self, identity: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Write metrics of the whole run."""
        run = self.runs[identity]
        new = {name: value for name, value in metrics.items() if run.metrics.get(name) != value}
        if new:
            self._log_metrics(run, {step: new}, time.time_ns() // 1_000_000)
            run.metrics.update(new)

    def _log_metrics(self, run: TrackedRun, metrics: Mapping[int, Mapping[str, float]], when: int) -> None:
        """Log metrics by step."""
        rows = [
            Metric(name, value, at, step)
            for step, values in metrics.items()
            for at in [int(values.get("when", when))]
            for name, value in values.items()
            if name not in ("epoch", "when")
        ]
        self._client.log_batch(run.id, rows)

    def write_artifact(
        self, identity: str, name: str, content: str | Path | None, tag: str | None = None, digest: str | None = None
    ) -> None:
        """Write a file, unless the run's `tag` is `digest` already; the tag is set afterwards.

        `name` is its path among the run's artifacts, `content` its text or a file of the same name; with None, a run
        that has the tag loses both.
        """
        run = self.runs[identity]
        if tag is not None and run.tags.get(tag) == digest:
            return
        if content is None:
            self._delete_artifact(run.artifact_uri, name)
        elif self.refusal is not None:
            return
        else:
            try:
                self._store_artifact(run.artifact_uri, name, content)
            except (OSError, MlflowException) as error:
                if not self._goes_on:
                    raise
                self.refusal = error
                return
        self.set_tags(identity, {tag: digest} if tag else {})

    def _store_artifact(self, place: str, name: str, content: str | Path) -> None:
        if isinstance(content, str) and (root := local_path(place)) is not None:
            self._put(root / name, content)
            return
        # MLflow's client remembers a run's place by its id, which is the same in a copy of the work folder.
        repository, folder = get_artifact_repository(place, self._tracking_uri), os.path.dirname(name) or None
        if isinstance(content, Path):
            repository.log_artifact(str(content), folder)  # type: ignore[no-untyped-call]
            return
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / os.path.basename(name)
            file.write_text(content, encoding="utf-8")
            repository.log_artifact(str(file), folder)  # type: ignore[no-untyped-call]

    def _put(self, path: Path, text: str) -> None:
        """What MLflow does in ten times as many steps, by way of a folder for temporary files."""
        path.parent.mkdir(parents=True, exist_ok=True)
        (new := path.with_name(f".{path.name}.new")).write_text(text, encoding="utf-8")
        new.replace(path)

    def _delete_artifact(self, place: str, name: str) -> None:
        if (folder := local_path(place)) is None:
            repository = get_artifact_repository(place, self._tracking_uri)
            repository.delete_artifacts(name)  # type: ignore[no-untyped-call]
        elif (folder / name).is_dir():  # of a path with a % in it, MLflow would delete another
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)

    def log_model(self, identity: str, name: str, step: int, metrics: Mapping[str, float], group: PatientGroup) -> None:
        """Have a run's checkpoint as a logged model, unless there is one: by its metrics MLflow ranks models.

        Args:
            name: of the model; it may repeat.
            step: the epoch of the checkpoint.
            metrics: of the checkpoint, on `group`, which is among the run's datasets.
        """
        run = self.runs[identity]
        if MODEL in run.tags:
            return
        if (made := self._half_logged_model(run)) is None:
            shown = (NOTE, *self._source)
            tags = {key: value for key, value in run.tags.items() if key.startswith("rlvo.") or key in shown}
            made = self._client.create_logged_model(self._experiment, name, run.id, tags, run.params, "checkpoint")
        if made.status != LoggedModelStatus.READY:
            self._client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
        if not made.metrics:
            self.log_model_metrics(identity, made.model_id, metrics, group, step)
        if made.model_id not in run.models:
            self._client.log_outputs(run.id, [LoggedModelOutput(made.model_id, step)])
        self.set_tags(identity, {MODEL: made.model_id})

    def _half_logged_model(self, run: TrackedRun) -> LoggedModel | None:
        """The run's model, if an earlier process was killed before it had told the run which one that is."""
        if not run.is_inherited:
            return None
        found = self._client.search_logged_models([self._experiment], f"source_run_id = '{run.id}'", max_results=1)
        return found[0] if found else None

    def log_model_metrics(
        self, identity: str, model: str, metrics: Mapping[str, float], group: PatientGroup, step: int = 0
    ) -> None:
        """Write a run's metrics at its logged model, given by id, as those on a group of patients."""
        when, about = time.time_ns() // 1_000_000, (model, group.name, group.digest)
        self._client.log_batch(
            self.runs[identity].id, [Metric(name, value, when, step, *about) for name, value in metrics.items()]
        )
        self.runs[identity].metrics.update(metrics)

    def describe_model(self, identity: str, model: str) -> None:
        """Say of a run's logged model, given by id, what it is and where it comes from, as the run does."""
        tags = self.runs[identity].tags
        self._client.set_logged_model_tags(model, {key: tags[key] for key in (NOTE, *self._source) if key in tags})

    def delete_model(self, identity: str) -> None:
        """Delete a run's logged model, if it has one."""
        if model := self.runs[identity].tags.get(MODEL):
            self._client.delete_logged_model(model)
            self.set_tags(identity, {MODEL: None})

    def set_tags(self, identity: str, tags: Mapping[str, str | None]) -> None:
        """Set tags; a tag that is None is removed."""
        run = self.runs[identity]
        new = {key: value for key, value in tags.items() if value is not None and run.tags.get(key) != value}
        if new:
            self._client.log_batch(run.id, tags=[RunTag(key, value) for key, value in new.items()])
            run.tags.update(new)
        for key in [key for key, value in tags.items() if value is None and key in run.tags]:
            self._client.delete_tag(run.id, key)
            del run.tags[key]

    def set_status(self, identity: str, status: RunStatus) -> None:
        """Say how a run stands."""
        run = self.runs[identity]
        if run.status == status:
            return
        if status in ("RUNNING", "SCHEDULED"):
            self._client.update_run(run.id, status)
        else:
            self._client.set_terminated(run.id, status)
        run.status = status

    def kill_open_runs(self, identity: str) -> None:
        """Kill what still runs or waits below a run."""
        ancestor = self.runs[identity].id
        above = {ancestor, *(run.id for run in self.runs.values() if run.tags.get(PARENT) == ancestor)}
        for below, run in self.runs.items():
            if run.tags.get(PARENT) in above and run.status in ("RUNNING", "SCHEDULED"):
                self.set_status(below, "KILLED")

    def _find(self, query: str = "") -> dict[str, TrackedRun]:
        """The runs by identity. Of several the one that holds most, or else the oldest, is kept; others are deleted."""

        def rank(run: Run) -> tuple[int, int]:
            return len(run.data.params) + len(run.data.metrics) + len(run.data.tags), -run.info.start_time

        token: str | None = None
        found: dict[str, list[Run]] = {}
        while token != "":  # nosec B105 # a page token of MLflow, no password
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
