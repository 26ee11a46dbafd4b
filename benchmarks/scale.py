"""The control plane of large studies, without training: mirror, search events, `rlvo status`, `plan` and `report`.

Trials are planted as a search leaves them: five folds, 60 epochs, 96 validation patients, weights of 8 MB (one file
under many names). MLflow is a dictionary and a folder in memory here, so that a figure is ours alone; one row shows
MLflow's SQLite.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
from mlflow.entities import LoggedModelStatus
from mlflow.store.entities import PagedList

from benchmarks.measure import exponent, show
from benchmarks.search import HALVING, MEMORY, REPOSITORY, event_seconds
from rlvo.cohort.pseudonym import pseudonym
from rlvo.cohort.reading import read_cohort
from rlvo.cohort.splits import make_split, write_split
from rlvo.config.loading import parse_study
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.evaluation.predictions import check_predictions
from rlvo.files import atomic_write, csv_text, file_sha256
from rlvo.mlflow_client import Tracking
from rlvo.search.execute import TuneEvents, frozen_objects
from rlvo.search.forecast import with_forecast
from rlvo.study.folder import StudyFolder, write_configuration
from rlvo.study.status import read_state
from rlvo.study.trials import read_ended_trials
from rlvo.tracking import study_items
from rlvo.tracking.mirror import Mirror
from rlvo.training.energy import CPU
from rlvo.training.records import (
    BEST_WEIGHTS,
    EPOCHS,
    PREDICTIONS,
    RECORD,
    CompletionRecord,
    TrialIdentity,
    member_key,
    write_epochs,
    write_record,
)
from rlvo.training.usage import SECONDS, USAGE, UsageReader, note_total

sys.path.append(str(REPOSITORY / "tests"))
from support.file_calls import count_calls
from support.made_up_study import PREDICTORS, write_table

SIZES = (100, 1000, 6000)
FOLDS, EPOCHS_PER_TRIAL, PATIENTS_PER_FOLD = 5, 60, 96
WEIGHTS_BYTES = 8_000_000
KEPT = 10
"""Trials whose weights MLflow gets."""
SPECS = {
    "model.backbone": ["densenet169", "efficientnet-b0"],
    "model.modality": ["NCCT", "CTA", "BOTH"],
    "model.prior": [False, True],
    "model.fusion": ["none", "daft"],
}
METRICS = ("train/loss", "val/loss", "val/auc", "val/balanced_accuracy", "val/f1", "val/sensitivity", "val/specificity")
SLOTS, EPOCH_SECONDS, SYNC_SECONDS, FORECAST_SECONDS = 64, 30.0, 5.0, 5.0
NAME = "scale"


def benchmark_scale(*, short: bool = False) -> None:
    """Print what each part costs at three sizes and how it grows, and the driver's share of a cluster."""
    sizes = (10, 20, 40) if short else SIZES
    found = [_measure(size) for size in sizes]
    rows = {}
    for name in found[0]:
        costs = [each[name] for each in found]
        rows[name] = (*costs, exponent(sizes, [max(cost, 1e-9) for cost in costs]))
    show("the control plane, CPU time by ended trials", [*(f"{size:,}" for size in sizes), "exponent"], rows)
    shares = {f"{size:,}": driver_share(each) for size, each in zip(sizes, found, strict=True)}
    title = f"the driver at {SLOTS} slots and epochs of {EPOCH_SECONDS:g} s, by trials that have ended"
    show(title, ("% of one core", f"% of {SLOTS} slots"), shares)
    show(
        "with MLflow's SQLite",
        ("first sync, pictures apart, ms per trial",),
        {f"{sizes[0]}": (_first_sync_into_sqlite(sizes[0]),)},
    )


def driver_share(cost: dict[str, float]) -> tuple[float, float]:
    """Per cent of a core that the driver takes while all slots train, and of as many cores as there are slots."""
    epochs_per_second = SLOTS / EPOCH_SECONDS
    trials_per_second = epochs_per_second / EPOCHS_PER_TRIAL
    milliseconds = (
        epochs_per_second * cost["search event, mean ms"]
        + 2 * trials_per_second * cost["search event, mean ms"]  # its start and its end
        + trials_per_second * cost["sync when a trial has ended, with its files, ms"]
        + epochs_per_second * (cost["sync when an epoch has ended, ms"] - cost["steady sync, ms"])
        + cost["steady sync, ms"] / SYNC_SECONDS
        + cost["telling the state, ms"]
        + cost["forecast halfway, ms"] / FORECAST_SECONDS
    )
    return milliseconds / 10, milliseconds / 10 / SLOTS


def _measure(size: int) -> dict[str, float]:
    with frozen_objects():
        events = list(itertools.chain(*event_seconds(_grid(size), **HALVING, first_folds=1).values()))
    cost = {"search event, mean ms": 1000 * float(np.mean(events)), "search event, worst ms": 1000 * max(events)}
    with in_memory() as folder:
        planted, server = Planted(folder, size), HeldInMemory(folder / "artifacts")
        last = planted.trials[-1] / RECORD
        last.rename(last.with_name("away"))  # it is the one that ends later
        with without_files():
            for name in ("first sync, pictures apart", "first sync of a new process"):
                mirror = planted.mirror(server)
                cost[f"{name}, ms per trial"] = 1000 * seconds(mirror.sync, repeat=1) / size
        cost["steady sync, ms"] = 1000 * seconds(mirror.sync)
        cost["steady sync, calls to the file system"] = count_calls(mirror.sync)
        os.utime(last.with_name(EPOCHS))  # as if an epoch had ended
        cost["sync when an epoch has ended, ms"] = 1000 * seconds(mirror.sync, repeat=1)
        last.with_name("away").rename(last)
        cost["sync when a trial has ended, with its files, ms"] = 1000 * seconds(mirror.sync, repeat=1)
        cost["configurations, ms"] = 1000 * seconds(lambda: planted.config.configurations)
        cost["reading for an ensemble, s"] = seconds(partial(read_ended_trials, planted.study), repeat=1)
        cost |= _driver(planted)
        commands: dict[str, tuple[object, ...]] = {"status": (), "status --json": ()}
        if size >= min(SIZES):
            commands |= {"plan": (), "report": ("--out", folder / "report.html")}
        for name, options in commands.items():
            command, *shown = name.split()
            call = (command, NAME, *shown, *options, "--workdir", folder)
            cost[f"{name}, s"], cost[f"{name}, MB"] = _command(*call)
    return cost


def _driver(planted: Planted) -> dict[str, float]:
    """What the driver does about every second, and every five."""
    state = read_state(planted.study)
    searcher = cast(Any, SimpleNamespace(state=state, note_running=lambda *args, **options: None))
    events = TuneEvents(searcher, planted.config, planted.study, lambda state: None)
    trials = [cast(Any, SimpleNamespace(trial_id=str(number), status="TERMINATED")) for number in planted.trials]
    usage = UsageReader()
    half = state.configurations[: len(state.configurations) // 2]  # the others are yet to be proposed
    halfway = replace(state, configurations=half, at_once=SLOTS)
    foretell = partial(with_forecast, halfway, planted.study, planted.config, usage)
    foretell()  # the first reads every trial's usage
    return {
        "telling the state, ms": 1000 * seconds(partial(events.tell, trials)),
        "forecast halfway, ms": 1000 * seconds(foretell),
    }


def seconds(work: Callable[[], object], repeat: int = 3) -> float:
    """CPU seconds of the quickest of `repeat` runs: what else runs on the machine hardly counts."""
    taken = []
    for _ in range(repeat):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


IN_A_SMALL_PROCESS = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "rlvo", *sys.argv[1:]], check=True, stdout=-3, stderr=-3)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
"""A process's peak memory begins with that of the one that starts it."""


def _command(*arguments: object) -> tuple[float, float]:
    """CPU seconds and peak MB of `rlvo` in a process of its own, its start included; the quicker of two."""
    call = [sys.executable, "-c", IN_A_SMALL_PROCESS, *map(str, arguments)]
    taken = [subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout.split() for _ in range(2)]
    return min((float(cpu), float(peak)) for cpu, peak in taken)


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder in memory, if possible."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


@contextmanager
def without_files() -> Iterator[None]:
    """No pictures are drawn of trials: they wait until all else has arrived, and cost each trial the same."""
    drawn, study_items.trial_figures = study_items.trial_figures, lambda folder: {}
    try:
        yield
    finally:
        study_items.trial_figures = drawn


def _grid(size: int) -> dict[str, dict[str, Any]]:
    """Model specs × learning rates: so many points, or some more."""
    rates = np.logspace(-5, -3, -(-size // FOLDS // 24) or 1).tolist()
    return {"enumerate": SPECS | {"training.learning_rate": rates}}


class Planted:
    """A study in a work folder whose trials have all finished.

    Args:
        folder: the work folder.
        size: how many trials.
    """

    def __init__(self, folder: Path, size: int) -> None:
        configurations = -(-size // FOLDS)
        table = write_table(folder / "cohort", patients=(FOLDS + 1) * PATIENTS_PER_FOLD)
        self.config: StudyConfig = parse_study(
            {
                "name": NAME,
                "space": _grid(size),
                "search": {"sampler": "grid", "configurations": configurations},
                "folds": {"folds": FOLDS, "test_fraction": 1 / (FOLDS + 1)},
                "cohort": {"table": str(table), "predictors": PREDICTORS},
                "training": {"epochs": EPOCHS_PER_TRIAL},
                "mlflow": {"keep_checkpoints": KEPT},
            }
        )
        self.folder, self.study = folder, StudyFolder(folder / "studies" / NAME)
        cohort = read_cohort(table, PREDICTORS)
        self.label, self.split = cohort.label, make_split(cohort.label, self.config.folds, cohort.included)
        self.hashes = {"data_hash": "d" * 64, "split_hash": self.split.hash}
        write_split(self.split, self.study.split)
        atomic_write(self.study.inputs, json.dumps(self.hashes))
        atomic_write(self.study.config, self.config.model_dump_json())
        self._weights = folder / "weights"
        self._weights.write_bytes(np.random.default_rng(0).bytes(WEIGHTS_BYTES))
        self._sha256 = file_sha256(self._weights)
        self._predictions = [self._predict(fold) for fold in range(FOLDS)]
        points = itertools.islice(self.config.grid_points(), configurations)
        self.trials = [
            self._plant(configuration, fold)
            for configuration in map(self.config.configuration, points)
            for fold in range(FOLDS)
        ]

    def mirror(self, server: HeldInMemory) -> Mirror:
        """A new process's."""
        return Mirror(self.config, self.study, cast(Tracking, server), partial(pseudonym, key=b"k" * 32))

    def _predict(self, fold: int) -> str:
        """As `write_predictions` writes them, of a member whose name is to be filled in."""
        rng, patients = np.random.default_rng(fold), self.split.validation(fold)
        label = self.label[list(patients)].to_numpy()
        table = {"patient": patients, "member": "MEMBER", "fold": fold, "split": "validation"}
        table |= {"probability": 1 / (1 + np.exp(1 - 2 * label + rng.normal(size=len(label)))), "label": label}
        return csv_text(check_predictions(pd.DataFrame(table)))

    def _plant(self, configuration: Configuration, fold: int) -> Path:
        folder = self.study.trial(configuration.key, fold)
        if fold == 0:
            write_configuration(folder.parent, configuration)
        (folder / BEST_WEIGHTS).parent.mkdir(parents=True)
        os.link(self._weights, folder / BEST_WEIGHTS)
        rng = np.random.default_rng([int(configuration.key, 16), fold])
        values = rng.uniform(0.5, 0.9, (EPOCHS_PER_TRIAL, len(METRICS))).tolist()
        epochs = [dict(zip(METRICS, row, strict=True)) | {"lr": 1e-4} for row in values]
        write_epochs(folder, epochs, durable=False)
        usage = [{"epoch": number, "when": 1_700_000_000_000 + 30_000 * number, SECONDS: 30.0 + number / 100,
                  "system/images_per_second": 12.5, "system/memory_peak_gb": 1.5, CPU: 900.0}
                 for number in range(1, EPOCHS_PER_TRIAL + 1)]  # fmt: skip
        (folder / USAGE).write_text("".join(json.dumps(line) + "\n" for line in [{"code": "planted"}, *usage]))
        note_total(folder)
        (folder / PREDICTIONS).write_text(self._predictions[fold].replace("MEMBER", member_key(configuration, fold)))
        best = min(range(EPOCHS_PER_TRIAL), key=lambda number: epochs[number]["val/loss"])
        record = CompletionRecord(
            identity=TrialIdentity(study=NAME, configuration=configuration.key, fold=fold, **self.hashes),
            configuration=configuration,
            status="finished",
            best_epoch=best + 1,
            epochs=EPOCHS_PER_TRIAL,
            metrics=epochs[best],
            files={
                EPOCHS: file_sha256(folder / EPOCHS),
                BEST_WEIGHTS: self._sha256,
                PREDICTIONS: file_sha256(folder / PREDICTIONS),
            },
            seconds=EPOCHS_PER_TRIAL * EPOCH_SECONDS,
        )
        write_record(folder, record)
        return folder


@dataclass
class HeldInMemory:
    """Stands for MLflow: a server and its client in one, which keep runs in a dictionary."""

    artifacts: Path
    uri: str = "memory"
    runs: dict[str, SimpleNamespace] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    """Of each run, the last step of its metrics."""

    def open_experiment(self, name: str) -> tuple[HeldInMemory, str]:
        return self, "1"

    def get_experiment(self, experiment: str) -> SimpleNamespace:
        return SimpleNamespace(tags=self.tags)

    def set_experiment_tag(self, experiment: str, key: str, value: str) -> None:
        self.tags[key] = value

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> None:
        id = f"{len(self.runs):032x}"
        place = (self.artifacts / id).as_uri()
        info = SimpleNamespace(run_id=id, run_name=run_name, status="RUNNING", artifact_uri=place, start_time=0)
        data = SimpleNamespace(params={}, metrics={}, tags={**tags})
        self.runs[id] = SimpleNamespace(info=info, data=data, inputs=SimpleNamespace(dataset_inputs=[]), outputs=None)

    def search_runs(self, experiments: Sequence[str], query: str, page_token: str | None) -> PagedList[Any]:
        """All runs, or the newest: the only one that the mirror asks for."""
        return PagedList(list(self.runs.values())[-1 if query else 0 :], None)

    def log_batch(self, run: str, metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Any = ()) -> None:
        data = self.runs[run].data
        data.metrics.update({each.key: each.value for each in metrics})
        self.steps[run] = max([self.steps.get(run, 0), *(each.step for each in metrics)])
        data.params.update({each.key: each.value for each in params})
        data.tags.update({each.key: each.value for each in tags})

    def log_inputs(self, run: str, datasets: Sequence[Any]) -> None:
        self.runs[run].inputs.dataset_inputs += datasets

    def get_metric_history(self, run: str, name: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(step=self.steps[run])] if run in self.steps else []

    def search_logged_models(self, experiments: Sequence[str], query: str, max_results: int) -> list[SimpleNamespace]:
        return []

    def create_logged_model(self, *about: object) -> SimpleNamespace:
        return SimpleNamespace(model_id="m", status=LoggedModelStatus.PENDING, metrics=())

    def log_outputs(self, run: str, models: Sequence[object]) -> None: ...

    def finalize_logged_model(self, model: str, status: object) -> None: ...

    def set_terminated(self, run: str, status: str) -> None:
        self.runs[run].info.status = status

    def update_run(self, run: str, status: str) -> None:
        self.runs[run].info.status = status

    def delete_tag(self, run: str, key: str) -> None:
        del self.runs[run].data.tags[key]


def _first_sync_into_sqlite(size: int) -> float:
    """Milliseconds per trial, pictures apart, with a database on this disk."""
    with tempfile.TemporaryDirectory() as folder:
        planted = Planted(Path(folder), size)
        tracking = Tracking(f"sqlite:///{folder}/mlflow.db", Path(folder) / "artifacts")
        tracking.open_experiment(NAME)  # creates its tables
        with without_files():
            mirror = Mirror(planted.config, planted.study, tracking, partial(pseudonym, key=b"k" * 32))
            return 1000 * seconds(mirror.sync, repeat=1) / size
