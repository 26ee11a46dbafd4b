"""What `make bench-gpu` measures, part by part; each prints nothing and puts its rows as soon as it has them."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
import torch
from monai.networks.nets.efficientnet import EfficientNetBN
from safetensors.torch import load_file

from benchmarks.ceilings import Ceilings, measure_ceilings
from benchmarks.gpu_packing import PAPER, packing
from benchmarks.inference import FEATURES, FOLDS, members_of_all_folds, write_members
from benchmarks.measure import Put, default_device, seconds
from benchmarks.training import FINER, NETWORKS, SHORT, Ours, configure, plain_loop, random_fold
from rlvo.cohort.encoding import unfitted_encoder
from rlvo.config.grid import PRESETS
from rlvo.config.loading import load_study
from rlvo.config.model import Configuration
from rlvo.config.sections import ResourcesConfig
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.inference.members import Members
from rlvo.models.classifier import Classifier
from rlvo.models.cost import model_cost
from rlvo.search.calibration import Measured, measure_models
from rlvo.search.plan import plan_study
from rlvo.search.verdict import judge
from rlvo.study.specs import Spec
from rlvo.training.dataset import FoldData, stack_channels
from rlvo.training.execution import Execution
from rlvo.training.fit import fit
from rlvo.training.member import Precision
from rlvo.training.records import TrialIdentity
from rlvo.training.shortage import free_memory, keep_to_share

PAPER_STUDY = Path(__file__).parents[1] / "tune_configs" / "paper_grid.yaml"
PAPER_PATIENTS = 481
"""Of the paper that train and validate: 361 and 120 in each of four folds."""
RESOURCES = ResourcesConfig()
SLOW_SECONDS = 8.0
"""An epoch that takes longer is measured once."""


@dataclass(frozen=True)
class Part:
    """One of the things that are measured."""

    work: Callable[[Put, bool], None]
    share: float
    """Of the time, in seconds of eight minutes."""


def ceilings(put: Put, short: bool) -> None:
    """What the device can do at most."""
    found = measure_ceilings(default_device(), short=short)
    source = torch.ones(1 << (16 if short else 28))
    if found.device.type == "cuda":
        source = source.pin_memory()
    copied = source.nbytes / seconds(lambda: source.to(found.device, non_blocking=True)) / 1e9
    columns = ("fp32, TFLOP/s", "bf16, TFLOP/s", "copy on it, GB/s", "copy to it, GB/s")
    put("ceilings", columns, {str(found.device): (found.fp32, found.bf16, found.bandwidth, copied)})


def training(put: Put, short: bool) -> None:
    """Ours against the plain loop, at the paper's grid and a smaller one."""
    limits, rows = measure_ceilings(default_device(), short=short), dict[str, Sequence[float]]()
    columns = ("patients/s", "plain loop", "ratio", "of products", "of bandwidth", "peak, GB", "plain loop's, GB")
    cases = (
        [(SHORT, 2, list(NETWORKS)[:1])] if short else [(PAPER, 1, [*NETWORKS][::-1]), (FINER, 4, [*NETWORKS][::-1])]
    )
    for shape, batch, networks in cases:
        with _fold(shape, 4 * batch, 2 * batch) as data:
            for network in networks:
                configuration = configure(network, batch)
                ours, peak = _patients_per_second(configuration, data, Ours)
                plain, plain_peak = _patients_per_second(configuration, data, plain_loop)
                shares = _of_ceilings(configuration, data, ours, limits)
                name = f"{network}, {'×'.join(map(str, shape))}, batch {batch}"
                rows[name] = (ours, plain, ours / plain, *shares, peak, plain_peak)
                put("training and validation, ours against the plain loop", columns, rows, ratio="ratio")


@contextmanager
def _fold(shape: tuple[int, int, int], training: int, validation: int) -> Iterator[FoldData]:
    """A fold of random volumes; intensities are measured in a part of them only, which no figure counts."""
    with tempfile.TemporaryDirectory() as folder:
        data = random_fold(Path(folder), shape, training, validation, different=2)
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(slice(size // 3, size // 2 + 1) for size in shape)] = True
        yield replace(data, brain_mask=mask)


def _patients_per_second(
    configuration: Configuration,
    data: FoldData,
    build: Callable[[Configuration, FoldData], Any],
    resources: ResourcesConfig = RESOURCES,
) -> tuple[float, float]:
    """Of training and validation, after a first epoch; and the most memory (GB) that was taken of the GPU."""
    on_gpu, patients, taken = torch.cuda.is_available(), len(data.training) + len(data.validation), list[float]()
    free_memory()
    execution = Execution(
        default_device(), configuration.training, resources.activation_checkpointing, resources.compile
    )
    with execution.libraries() if build is Ours else nullcontext():
        trial = build(configuration, data)
        if build is Ours:
            execution.prepare(trial.classifier)

        def epoch() -> None:
            trial.train()
            trial.validate()

        for number in range(3):
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            took = seconds(epoch, repeat=1)
            if number > 0 or took > SLOW_SECONDS:
                taken.append(took)
            if took > SLOW_SECONDS:
                break
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else math.nan
    return patients / min(taken), peak


def _of_ceilings(configuration: Configuration, data: FoldData, speed: float, limits: Ceilings) -> tuple[float, float]:
    """Shares of a matrix product's speed, and of the bandwidth: if kept maps were written and read but once."""
    cost = model_cost(configuration.model, data.brain_mask.shape, data.training.tabular.shape[1])
    share = len(data.training) / (len(data.training) + len(data.validation))
    mixed = configuration.training.mixed_precision
    halved = 2 if mixed and limits.device.type == "cuda" else 1
    gflop, kept = (1 + 2 * share) * cost.forward_gflop, 2 * share * cost.activation_bytes / halved
    return speed * gflop / 1000 / limits.training(mixed), speed * kept / 1e9 / limits.bandwidth


OPTIONS: dict[str, tuple[dict[str, object], ResourcesConfig]] = {
    "as it is": ({}, RESOURCES),
    "fp32": ({"mixed_precision": False}, RESOURCES),
    "deterministic": ({"deterministic": True}, RESOURCES),
    "activation checkpointing": ({}, ResourcesConfig(activation_checkpointing=True)),
    "compiled": ({}, ResourcesConfig(compile="default")),
    "compiled, CUDA graphs": ({}, ResourcesConfig(compile="cuda_graphs")),
}
"""Changes of `training`, and `resources`. Compiling comes last: it may take the rest of the part's time."""


def options(put: Put, short: bool) -> None:
    """What options of training cost, or save."""
    rows, columns = dict[str, Sequence[float]](), ("patients/s", "ratio", "peak, GB")
    with _fold(SHORT if short else PAPER, 4, 2) as data:
        for network in ["demo's DenseNet"] if short else ["DenseNet169", "EfficientNet-B0"]:
            base, first = configure(network, 2 if short else 1), math.nan
            for name, (changed, resources) in OPTIONS.items():
                if short and resources.compile != "none":
                    continue  # a compiler takes a minute on a CPU
                settings = base.training.model_copy(update=changed)
                configuration = base.model_copy(update={"training": settings})
                speed, peak = _patients_per_second(configuration, data, Ours, resources)
                first = speed if math.isnan(first) else first
                rows[f"{network}, {name}"] = (speed, speed / first, peak)
                put("options of training", columns, rows, ratio="ratio")


def memory(put: Put, short: bool) -> None:
    """A trial that runs out of memory, truly on a GPU, goes on with fewer patients; a share is kept to."""
    batch, shape = 8, SHORT if short else FINER
    configuration = configure("demo's DenseNet" if short else "DenseNet169", batch)
    configuration = configuration.model_copy(
        update={"training": configuration.training.model_copy(update={"epochs": 1})}
    )
    rows, columns = dict[str, Sequence[float]](), ("at once", "retries", "peak, GB", "validation loss")
    on_gpu = torch.cuda.is_available()
    with _fold(shape, batch, 4) as data, tempfile.TemporaryDirectory() as folder:

        def run(name: str, micro_batch: int | None) -> float:
            """The most memory (bytes) that a trial of one epoch reserves."""
            settings = configuration.training.model_copy(update={"micro_batch": micro_batch})
            changed = configuration.model_copy(update={"training": settings})
            identity = TrialIdentity(
                study="memory", configuration=configuration.key, fold=0, split_hash="a" * 64, data_hash="b" * 64
            )
            free_memory()
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            record = fit(changed, data, Path(folder) / name, identity, seed=0)
            if record is None or record.status != "finished":
                raise RuntimeError(f"{name}: {record and record.failure}")
            retries = [each.micro_batch for each in record.retries]
            peak = torch.cuda.max_memory_reserved() if on_gpu else math.nan
            at_once = (retries or [settings.at_once])[-1]
            rows[name] = (at_once, len(retries), peak / 1e9, record.metrics["val/loss"])
            put("a trial that runs out of memory", columns, rows)
            return peak

        half = run("half of the batch at once", batch // 2)
        whole = run("the whole batch", None)
        with _too_little(half, whole, batch // 2):
            run("the whole batch, with too little memory", None)
        if rows["the whole batch, with too little memory"][1] == 0:
            raise RuntimeError("memory did not run out")
    if on_gpu:
        free_memory()
        keep_to_share(0.25)
        total = torch.cuda.get_device_properties(0).total_memory
        try:
            torch.empty(total // 3, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            put("a quarter of the GPU", ("a third was refused (1: yes)",), {"keep_to_share": (1.0,)})
        else:
            raise RuntimeError("a process with a quarter of the GPU took a third of its memory")


@contextmanager
def _too_little(half: float, whole: float, patients: int) -> Iterator[None]:
    """Memory for half of a batch and not for all of it; on a CPU, a network that refuses more patients."""
    if torch.cuda.is_available():
        free_memory()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((half + whole) / 2 / total)
        yield
        torch.cuda.set_per_process_memory_fraction(1.0)
        return
    forward = Classifier.forward

    def limited(classifier: Classifier, volume: torch.Tensor, tabular: torch.Tensor | None = None) -> torch.Tensor:
        if classifier.training and len(volume) > patients:
            raise torch.OutOfMemoryError("stands for a GPU that is too small")
        return forward(classifier, volume, tabular)

    with patch.object(Classifier, "forward", limited):
        yield


def inference(put: Put, short: bool) -> None:
    """One patient's answer by twelve networks, against MONAI's one after the other, on the same device."""
    shape, random = (64, 64, 64) if short else PAPER, np.random.default_rng(0)
    volumes = {name: random.normal(40, 9, shape).astype(np.float32) for name in ("ncct", "cta")}
    members, device, rows = members_of_all_folds(), default_device(), dict[str, Sequence[float]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_members(folder)

        def plain() -> None:
            for key, member in members.items():
                channels = member.configuration.model.channels
                network = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=len(channels))
                network.load_state_dict(load_file(folder / f"{key}.safetensors"))
                volume = torch.from_numpy(stack_channels(volumes, channels)).float()[None].to(device)
                with torch.inference_mode():
                    network.eval().to(device)(((volume - 40) / 50).asinh()).cpu()

        def taken(work: Callable[[], object]) -> tuple[float, float, float]:
            """Seconds of the first time and of a later one, and the most memory (GB) of the GPU."""
            free_memory()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            first = seconds(work, repeat=1)
            again = seconds(work, repeat=1)
            peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else math.nan
            return first, again, peak

        columns = ("s, first patient", "s, later ones", "times as fast", "peak, GB")
        first, again, peak = taken(plain)
        rows["plain MONAI, fp32"] = (first, again, 1.0, peak)
        for precision in get_args(Precision):
            ours = Members(lambda key: (folder / "members.safetensors", key))
            features = {fold: np.zeros((1, FEATURES), np.float32) for fold in range(FOLDS)}
            own = taken(partial(ours.probabilities, members, volumes, features, precision))
            rows[f"rlvo, {precision}"] = (own[0], own[1], again / own[1], own[2])
            put("12 EfficientNet-B0 for one patient, from prepared volumes", columns, rows, ratio="times as fast")


def projection(put: Put, short: bool) -> None:
    """Hours of the paper's grid, of 96 trials of 60 epochs, from steps of its largest networks measured here."""
    config, cpus = load_study(PAPER_STUDY), os.cpu_count() or 1
    if short:
        config = config.with_setting("grid", PRESETS["whole"]).with_setting("training.batch_size", 2)
    on_gpu = torch.cuda.is_available()
    halving = config.with_setting("search.pruning", "halving")
    planned = plan_study(halving)
    axes = {"model.modality": ["BOTH"], "model.prior": [False], "model.fusion": ["daft"]}
    backbones = config.space.enumerated["model.backbone"]
    few = config.model_dump(mode="json", exclude_unset=True)
    few["space"]["enumerate"] = {"model.backbone": list(backbones)[: 1 if short else None], **axes}
    encoder = unfitted_encoder(config.cohort)

    def measure(asked: StudyConfig, at_once: int) -> dict[Spec, Measured | str]:
        fewer = StudyConfig.model_validate(few).with_setting("resources", asked.resources)
        return measure_models(fewer, at_once, encoder, lambda done, total: None)

    rows, columns = dict[str, Sequence[float]](), ("trials at once", "hours", "hours with halving", "kWh with halving")
    for share in (1.0, 0.25) if on_gpu else (0.0,):
        trials = round(1 / share) if share else 1
        resources = config.resources.model_copy(update={"gpus": share, "cpus": max(1, min(4, cpus // trials))})
        asked = halving.with_setting("resources", resources).with_setting("search.concurrent_trials", trials)
        with tempfile.TemporaryDirectory() as work:
            found = judge(asked, planned, Workdir.at(Path(work)), development=PAPER_PATIENTS, measure=measure)
        if failed := [each for each in found.measured if isinstance(each, str)]:
            raise RuntimeError(f"{trials} at once: {failed[0]}")
        hours = (found.hours_without_pruning, found.hours, found.kwh)
        rows[f"{trials} on the device"] = (found.at_once, *(math.nan if each is None else each for each in hours))
        put("the paper's 96 trials of 60 epochs, foretold", columns, rows)


PARTS = {
    "ceilings": Part(ceilings, 20),
    "training": Part(training, 115),
    "memory": Part(memory, 35),
    "packing": Part(packing, 145),
    "inference": Part(inference, 25),
    "options": Part(options, 65),
    "projection": Part(projection, 75),
}
