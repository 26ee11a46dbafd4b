"""A study folder as a search leaves it, written with the real record writers; no network is trained."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.numpy import save_file

from rlvo.cohort.pseudonym import pseudonym
from rlvo.cohort.splits import Split, write_split
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.evaluation.predictions import write_predictions
from rlvo.files import atomic_write, file_sha256
from rlvo.tracking.mirror import Mirror
from rlvo.training.records import (
    BEST_WEIGHTS,
    EPOCHS,
    PREDICTIONS,
    CompletionRecord,
    EpochMetrics,
    TrialIdentity,
    write_epochs,
    write_record,
)

sys.path.append(str(Path(__file__).parent))  # for `mlflow_server`, which is no test

KEY = b"k" * 32


@dataclass
class StudyOnDisk:
    """A study of two folds below a work folder; its methods do what trials do."""

    workdir: Path
    study: StudyConfig
    data_hash: str = "d" * 64
    patients: tuple[str, ...] = tuple(f"PLANTED-{number:03d}" for number in range(12))

    def __post_init__(self) -> None:
        self.split = Split(test=self.patients[:4], folds=(self.patients[4:8], self.patients[8:]))
        write_split(self.split, self.folder / "split.json")
        hashes = {"data_hash": self.data_hash, "split_hash": self.split.hash}
        atomic_write(self.folder / "inputs.json", json.dumps(hashes))

    @property
    def folder(self) -> Path:
        return self.workdir / "studies" / self.study.name

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.workdir / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.workdir / "mlflow-artifacts"

    def trial(self, configuration: Configuration, fold: int) -> Path:
        return self.folder / "trials" / configuration.key / f"fold-{fold}"

    def identity(self, configuration: Configuration, fold: int) -> TrialIdentity:
        return TrialIdentity(
            study=self.study.name,
            configuration=configuration.key,
            fold=fold,
            split_hash=self.split.hash,
            data_hash=self.data_hash,
        )

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
        atomic_write(folder.parent / "configuration.json", configuration.model_dump_json())
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
        write_epochs(self.trial(configuration, fold), epochs)
        folder, files = self.trial(configuration, fold), [EPOCHS]
        if reason is None:
            patients = self.split.validation(fold)
            (folder / "best").mkdir(exist_ok=True)
            save_file({"weight": np.full(3, fold, np.float32)}, folder / BEST_WEIGHTS)
            member = f"{configuration.key}-f{fold}"
            table = {"patient": patients, "member": member, "fold": fold, "split": "validation"}
            table |= {"probability": np.linspace(0.1, 0.9, len(patients)), "label": [0, 1] * (len(patients) // 2)}
            write_predictions(pd.DataFrame(table), folder / PREDICTIONS)
            files += [BEST_WEIGHTS, PREDICTIONS]
        record = CompletionRecord(
            identity=self.identity(configuration, fold),
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

    def mirror(self, tracking_uri: str | None = None) -> Mirror:
        return Mirror(
            self.study,
            self.folder,
            tracking_uri or self.tracking_uri,
            self.artifacts,
            lambda patient: pseudonym(patient, KEY),
        )

    def runs(self, kind: str | None = None, tracking_uri: str | None = None) -> list[Run]:
        """Runs of the study's experiment, by MLflow's own account."""
        client = MlflowClient(tracking_uri or self.tracking_uri)
        experiment = client.get_experiment_by_name(self.study.name)
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        return [run for run in runs if kind in (None, run.data.tags["rlvo.kind"])]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables; making them takes a second, copying them nothing."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def new_study(empty_database: Path, tmp_path: Path) -> Callable[..., StudyOnDisk]:
    """Makes studies of two folds and 2 × 2 configurations, all in one work folder."""

    def make(data_hash: str = "d" * 64, folder: str = "a work folder", **settings: object) -> StudyOnDisk:
        space = {"enumerate": {"model.modality": ["NCCT", "CTA"], "model.fusion": ["none", "daft"]}}
        content = {"name": "fake", "space": space, "folds": {"folds": 2}, **settings}
        study = StudyOnDisk(tmp_path / folder, StudyConfig.model_validate(content), data_hash)
        if not (database := study.workdir / "mlflow.db").exists():
            shutil.copy(empty_database, database)
        return study

    return make


@pytest.fixture
def on_disk(new_study: Callable[..., StudyOnDisk]) -> StudyOnDisk:
    return new_study()
