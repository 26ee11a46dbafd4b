"""The views of a study that MLflow's UI opens by a link: its trials, best first or compared in charts, its ensembles.

The UI (3.17) reads a shared view from a tag of the experiment and the view's key from the address: filter, order,
columns and charts, as its own *Share view* writes them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from rlvo.config.study import StudyConfig
from rlvo.errors import MachineError
from rlvo.mlflow_client import Tracking, one_line

SHARED, NOTE = "mlflow.sharedViewState.", "mlflow.note.content"
"""Tags: a shared view, before its key; the description that MLflow shows above an experiment or a run."""
RUNS = "runs?workflowType=machine_learning"
"""The tab of an experiment that shows its runs; MLflow's own links open one for language models."""
NO_STUDY = "0"
"""Id of the experiment that every database begins with."""
USUALLY_VARIED = ("backbone", "modality", "fusion")
TRIALS, ENSEMBLES = "trials", "ensembles"
"""Keys of the views."""
TRIAL_METRICS = ("best/auc", "best/balanced_accuracy", "best/sensitivity", "best/specificity", "seconds")
ENSEMBLE_METRICS = ("test/auc", "nested/auc", "val/auc_mean", "test/sensitivity", "test/specificity", "test/patients")


@dataclass(frozen=True)
class StudyPages:
    """Addresses of a study in MLflow's UI."""

    trials: str
    """All trials in a table, best first."""
    compared: str
    """All trials in charts: parallel coordinates, validation AUC by epoch."""
    ensembles: str

    @classmethod
    def at(cls, address: str, experiment: str) -> "StudyPages":
        """Those of an experiment, given by its id, of the UI at `address`."""
        trials, ensembles = (
            f"{address}#/experiments/{experiment}/{RUNS}&viewStateShareKey={key}" for key in (TRIALS, ENSEMBLES)
        )
        return cls(trials, f"{trials}&compareRunsMode=CHART", ensembles)


def study_pages(config: StudyConfig, tracking: Tracking) -> StudyPages:
    """The pages of a study, which are made if need be. Raises MachineError if MLflow does not answer, or refuses."""
    client, experiment = tracking.open_experiment(config.name)
    with _refusal(tracking):
        save_views(client, experiment, varied(config))
    return StudyPages.at(tracking.ui, experiment)


def all_pages(studies: Mapping[str, StudyConfig], tracking: Tracking, address: str) -> dict[str, StudyPages]:
    """The pages of every study that MLflow knows, by name, which are made if need be.

    Args:
        studies: configurations by name. A database file may hold others' runs, too, whose folders are gone.
        address: of the UI.

    Raises:
        MachineError: MLflow does not answer, or refuses.
    """
    pages = {}
    with _refusal(tracking):
        client = tracking.client()
        for each in client.search_experiments():
            if each.name in studies or (tracking.database_file is not None and each.experiment_id != NO_STUDY):
                config = studies.get(each.name)
                save_views(client, each.experiment_id, varied(config) if config else USUALLY_VARIED)
                pages[each.name] = StudyPages.at(address, each.experiment_id)
    return pages


@contextmanager
def _refusal(tracking: Tracking) -> Iterator[None]:
    """Turn what MLflow raises into a MachineError."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        raise MachineError(f"MLflow refuses the views of a study ({one_line(error)})", where=tracking.uri) from None


def save_views(client: MlflowClient, experiment: str, params: Sequence[str]) -> None:
    """Have an experiment, given by its id, hold the views of its study, and links to them unless it has a note.

    Args:
        params: those that differ between configurations.
    """
    held = client.get_experiment(experiment).tags
    pages = StudyPages.at("", experiment)
    links = f"[Trials, best first]({pages.trials}) · [all trials compared]({pages.compared})"
    tags = {SHARED + key: json.dumps(view) for key, view in _views(params).items()}
    tags[NOTE] = held.get(NOTE) or f"{links} · [ensembles]({pages.ensembles})"
    for tag, value in tags.items():
        if held.get(tag) != value:
            client.set_experiment_tag(experiment, tag, value)


def varied(config: StudyConfig) -> Sequence[str]:
    """What differs between the study's configurations, as their parameters are named in MLflow; not empty."""
    paths = {path: len(values) for path, values in config.space.enumerated.items()}
    paths |= dict.fromkeys(config.space.sample, 2)
    names = [path.partition(".")[2] for path, values in paths.items() if values > 1]
    return names or USUALLY_VARIED


def _views(params: Sequence[str]) -> dict[str, Mapping[str, object]]:
    trials = _table("trial", (*params, "fold"), TRIAL_METRICS)
    return {TRIALS: trials | _charts((*params, "fold")), ENSEMBLES: _table("ensemble", (), ENSEMBLE_METRICS)}


def _table(kind: str, params: Sequence[str], metrics: Sequence[str]) -> dict[str, object]:
    """Runs of one kind, the highest first by the first of the metrics."""
    columns = [*(f"params.`{name}`" for name in params), *(f"metrics.`{name}`" for name in metrics)]
    return {
        "searchFilter": f"tags.`rlvo.kind` = '{kind}'",
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", *columns],
        "columnWidths": {"attributes.`Run Name`": 240},
    }


def _charts(params: Sequence[str]) -> dict[str, object]:
    section = {"uuid": "rlvo", "name": "All trials", "display": True, "isReordered": True, "columns": 1}
    card = {"metricSectionId": section["uuid"], "deleted": False, "isGenerated": False}
    parallel = {"selectedParams": list(params), "selectedMetrics": ["best/auc"], "showAllRuns": True}
    line = {"metricKey": "val/auc", "selectedMetricKeys": ["val/auc"], "xAxisKey": "step", "yAxisKey": "metric"}
    plain: dict[str, object] = {"xAxisScaleType": "linear", "scaleType": "linear", "range": {}, "yAxisExpressions": []}
    return {
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # keeps the section first
        "compareRunSections": [section | {"deleted": False, "isGenerated": False, "cardHeight": 420}],
        "compareRunCharts": [
            {"type": "PARALLEL", "uuid": "rlvo-parallel", **card, **parallel},
            {"type": "LINE", "uuid": "rlvo-auc", **card, **line, **plain, "useGlobalXaxisKey": True},
        ],
    }
