"""A study folder as a search leaves it, written with the real record writers; no network is trained.

A pytest plugin (tests/conftest.py loads it).
"""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import pytest

from rlvo.cohort.pseudonym import pseudonym
from rlvo.cohort.splits import Split, write_split
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import sqlite_address
from rlvo.evaluation.predictions import write_predictions
from rlvo.files import atomic_write, file_sha256
from rlvo.study.folder import StudyFolder, write_configuration
from rlvo.training.records import (
    BEST_WEIGHTS,
    EPOCHS,
    PREDICTIONS,
    CompletionRecord,
    EpochMetrics,
    TrialIdentity,
    member_key,
    write_epochs,
    write_record,
)

if TYPE_CHECKING:  # imported where they are used: every run of pytest loads this module, and MLflow takes a second
    from mlflow.entities import Run

    from rlvo.mlflow_client import Tracking
    from rlvo.tracking.mirror import Mirror

KEY = b"k" * 32
NCCT = Configuration.model_validate({"model": {"modality": "NCCT", "fusion": "none"}})
CTA = Configuration.model_validate({"model": {"modality": "CTA", "fusion": "daft"}})


@dataclass
class StudyOnDisk:
    """A study of two folds in a work folder. Its methods do what trials do."""

    workdir: Path
    config: StudyConfig
    data_hash: str = "d" * 64
    patients: tuple[str, ...] = tuple(f"PLANTED-{number:03d}" for number in range(12))

    def __post_init__(self) -> None:
        self.split = Split(test=self.patients[:4], folds=(self.patients[4:8], self.patients[8:]))
        write_split(self.split, self.folder.split)
        hashes = {"data_hash": self.data_hash, "split_hash": self.split.hash}
        atomic_write(self.folder.inputs, json.dumps(hashes))
        atomic_write(self.folder.config, self.config.model_dump_json())

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.workdir / "studies" / self.config.name)

    @property
    def artifacts(self) -> Path:
        return self.workdir / "mlflow-artifacts"

    @property
    def tracking(self) -> "Tracking":
        from rlvo.mlflow_client import Tracking

        return Tracking(sqlite_address(self.workdir / "mlflow.db"), self.artifacts)

    def trial(self, configuration: Configuration, fold: int) -> Path:
        return self.folder.trial(configuration.key, fold)

    def identity(self, key: str, fold: int) -> TrialIdentity:
        hashes = {"split_hash": self.split.hash, "data_hash": self.data_hash}
        return TrialIdentity(study=self.config.name, configuration=key, fold=fold, **hashes)

    @staticmethod
    def epochs(seed: int, count: int = 3) -> list[EpochMetrics]:
        """Epochs of a trial; the last has the lowest validation loss."""
        rng = np.random.default_rng(seed)
        names = ("val/auc", "val/balanced_accuracy", "val/f1", "val/sensitivity", "val/specificity")
        return [
            {
                "train/loss": 0.7 / epoch,
                "val/loss": 0.8 / epoch,
                **{name: float(rng.uniform(0.5, 0.9)) for name in names},
                "lr": 1e-3,
            }
            for epoch in range(1, count + 1)
        ]

    def start(self, configuration: Configuration, fold: int, epochs: list[EpochMetrics] | None = None) -> None:
        folder = self.trial(configuration, fold)
        folder.mkdir(parents=True, exist_ok=True)
        write_configuration(folder.parent, configuration)
        if epochs:
            write_epochs(folder, epochs)

    def end(
        self,
        configuration: Configuration,
        fold: int,
        epochs: list[EpochMetrics],
        reason: str | None = None,
        status: Literal["failed", "pruned"] = "failed",
    ) -> None:
        """The trial has finished; with a reason it has the status instead."""
        self.start(configuration, fold)
        folder, files = self.trial(configuration, fold), [EPOCHS]
        write_epochs(folder, epochs)
        if reason is None:
            from safetensors.numpy import save_file

            patients = self.split.validation(fold)
            (folder / "best").mkdir(exist_ok=True)
            save_file({"weight": np.full(3, fold, np.float32)}, folder / BEST_WEIGHTS)
            table = {"patient": patients, "member": member_key(configuration, fold), "fold": fold}
            table |= {"split": "validation", "probability": np.linspace(0.1, 0.9, len(patients))}
            write_predictions(pd.DataFrame({**table, "label": [0, 1] * (len(patients) // 2)}), folder / PREDICTIONS)
            files += [BEST_WEIGHTS, PREDICTIONS]
        record = CompletionRecord(
            identity=self.identity(configuration.key, fold),
            configuration=configuration,
            status="finished" if reason is None else status,
            reason=reason,
            best_epoch=len(epochs) or None,
            epochs=len(epochs),
            metrics=epochs[-1] if epochs else {},
            files={name: file_sha256(folder / name) for name in files},
            seconds=1.5,
        )
        write_record(folder, record)

    def end_all(self, *configurations: Configuration) -> None:
        """Both trials of each have finished."""
        for configuration in configurations:
            for fold in range(2):
                self.end(configuration, fold, self.epochs(fold))

    def mirror(self, tracking: "Tracking | None" = None) -> "Mirror":
        from rlvo.tracking.mirror import Mirror

        return Mirror(self.config, self.folder, tracking or self.tracking, lambda patient: pseudonym(patient, KEY))

    def runs(self, kind: str | None = None, tracking: "Tracking | None" = None) -> "list[Run]":
        """Runs of the study's experiment, by MLflow's own account."""
        client = (tracking or self.tracking).client()
        experiment = client.get_experiment_by_name(self.config.name)
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        return [run for run in runs if kind in (None, run.data.tags["rlvo.kind"])]

    def statuses(self, kind: str | None = None) -> list[str]:
        """Of the runs, sorted."""
        return sorted(run.info.status for run in self.runs(kind))

    def history(self, run: "Run", name: str = "val/auc", tracking: "Tracking | None" = None) -> list[tuple[int, float]]:
        """All steps and values of a run's metric."""
        history = (tracking or self.tracking).client().get_metric_history(run.info.run_id, name)
        return [(each.step, each.value) for each in history]

    def logged(self, run: "Run") -> Path:
        """The folder of a run's artifacts."""
        return self.artifacts / run.info.run_id / "artifacts"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables; creating them takes a second, copying them nothing."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def new_study(empty_database: Path, tmp_path: Path) -> Callable[..., StudyOnDisk]:
    """Creates studies of two folds and 2 × 2 configurations, all in one work folder."""

    def create(data_hash: str = "d" * 64, folder: str = "a work folder", **settings: object) -> StudyOnDisk:
        space = {"enumerate": {"model.modality": ["NCCT", "CTA"], "model.fusion": ["none", "daft"]}}
        content = {"name": "fake", "space": space, "folds": {"folds": 2}, **settings}
        study = StudyOnDisk(tmp_path / folder, StudyConfig.model_validate(content), data_hash)
        if not (database := study.workdir / "mlflow.db").exists():
            shutil.copy(empty_database, database)
        return study

    return create


@pytest.fixture
def on_disk(new_study: Callable[..., StudyOnDisk]) -> StudyOnDisk:
    return new_study()
