"""Trials that share a GPU: the part of `make bench-gpu` that runs through Ray."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch

from benchmarks.measure import Put
from benchmarks.training import SHORT, configure, random_fold
from rlvo.cohort.splits import Split
from rlvo.config.grid import PRESETS
from rlvo.config.loading import parse_study
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.files import atomic_write
from rlvo.imaging.target import Target
from rlvo.search.execute import run_search
from rlvo.search.packing import settle_on_cluster
from rlvo.search.plan import plan_study
from rlvo.study.folder import StudyFolder
from rlvo.study.inputs import StudyInputs, settle
from rlvo.study.state import StudyState
from rlvo.training.dataset import FoldData
from rlvo.training.usage import read_usage

PAPER = PRESETS["paper"].shape


def packing(put: Put, short: bool) -> None:
    """Trials that share the GPU, through Ray: a number of them, then as many as `auto` finds."""
    on_gpu, rows = torch.cuda.is_available(), dict[str, Sequence[float]]()
    columns = ("share", "at once", "patients/s in all", "times one trial", "peak of one, GB", "study, s")
    shape, network = (SHORT, "demo's DenseNet") if short else (PAPER, "DenseNet169")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        patients = 8 if short else 12
        data = random_fold(place, shape, patients, 0, different=2)
        ray.init(
            "local",
            num_cpus=None if on_gpu else 4,
            num_gpus=None if on_gpu else 1,  # without one, Ray shares out one that is not there
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=128 * 2**20,
        )
        alone = math.nan
        shares: list[tuple[float | str, int]] = (
            [(1, 2), ("auto", 2)] if short else [(1, 2), (0.5, 2), ("auto", 4), (0.25, 4)]
        )
        for gpus, trials in shares:
            name = f"gpus: {gpus}"
            config, inputs = _study(f"packed-{gpus}", place, data, network, shape, trials, gpus, short=short)
            config = settle_on_cluster(config, plan_study(config))  # what a search does first
            study = StudyFolder(Workdir.at(place).study(config.name))
            study.path.mkdir(parents=True)
            atomic_write(study.config, config.model_dump_json())
            seen, begun = list[int](), time.monotonic()
            state = run_search(config, inputs, study, on_state=partial(_note_running, seen))
            wall = time.monotonic() - begun
            if len(state.failed):
                raise RuntimeError(f"{name}: {next(iter(state.failed[0].reasons('failed').values()))}")
            share = config.resources.known_gpus
            peaks = [
                line.get("system/gpu_memory_peak_gb", math.nan)
                for trial in study.trials()
                for line in read_usage(trial).values()
            ]
            at_once = min(int(1 / share), trials)
            speed = patients_per_second([read_usage(trial) for trial in study.trials()], at_once, patients)
            alone = speed if gpus == 1 else alone
            rows[name] = (share, max(seen), speed, speed / alone, max(peaks), wall)
            put(f"trials on one GPU, {network}", columns, rows, ratio="times one trial")
        ray.shutdown()


def patients_per_second(usage: Sequence[Mapping[int, Mapping[str, float]]], at_once: int, patients: int) -> float:
    """Of the trials that started first, together, while all of them had ended an epoch and none its last; or NaN.

    Args:
        usage: of each trial, by epoch.
        at_once: how many trials run at once.
        patients: whom an epoch shows the network.
    """
    ends = sorted(sorted(line["when"] / 1000 for line in trial.values()) for trial in usage)[:at_once]
    start, end = max(each[0] for each in ends), min(each[-1] for each in ends)
    epochs = sum(
        (min(end, after) - max(start, before)) / (after - before)
        for each in ends
        for before, after in pairwise(each)
        if after > start and before < end
    )
    return patients * epochs / (end - start) if end > start else math.nan


def _note_running(seen: list[int], state: StudyState) -> None:
    seen.append(state.count("running"))


def _study(
    name: str,
    place: Path,
    data: FoldData,
    network: str,
    shape: tuple[int, int, int],
    trials: int,
    gpus: float | str,
    *,
    short: bool,
) -> tuple[StudyConfig, StudyInputs]:
    """A study of so many trials on two folds of random volumes, without a cohort to prepare."""
    ids, predictors = data.training.ids, ("age", "nihss")
    rates = [1e-4 / (1 + number) for number in range(trials // 2)]
    content: dict[str, Any] = {
        "name": name,
        "grid": {"shape": shape, "spacing": (1, 1, 1), "origin": (0, 0, 0)},
        "cohort": {"predictors": predictors},
        "model": configure(network, 1).model.model_dump(),
        "training": {"epochs": 4, "batch_size": 2 if short else 1},
        "space": {"enumerate": {"training.learning_rate": rates}},
        "folds": {"folds": 2},
        "resources": {"gpus": gpus, "cpus": 1 if short else max(1, min(4, (os.cpu_count() or 1) // 4))},
    }
    config = settle(parse_study(content), StudyFolder(Workdir.at(place).study(name)))
    random = np.random.default_rng(0)
    columns = {"age": random.normal(70, 10, len(ids)), "nihss": random.normal(12, 3, len(ids))}
    labels = pd.Series(data.training.labels, index=list(ids))
    half = len(ids) // 2
    return config, StudyInputs(
        study=name,
        cohort=config.cohort,
        table=pd.DataFrame(columns, index=pd.Index(ids, name="patient_id")),
        label=labels,
        split=Split(test=("held out",), folds=(ids[:half], ids[half:])),
        volumes=dict(zip(ids, data.training.volumes, strict=True)),
        target=Target(grid=config.grid),
        brain_mask=data.brain_mask,
        data_hash="d" * 64,
        cohort_folder=place,
    )
