"""One patient's answer at the paper's grid: an ensemble of 12 EfficientNet-B0, compared with plain MONAI networks."""

from __future__ import annotations

import math
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from monai.networks.nets.efficientnet import EfficientNetBN
from safetensors.torch import load_file, save_file

from benchmarks.measure import context, show
from benchmarks.preparation import write_raw_patient
from rlvo.config.model import Configuration, Modality, ModelConfig
from rlvo.ensemble.spec import MemberSpec
from rlvo.imaging.prepare import prepare
from rlvo.imaging.target import Target
from rlvo.inference.members import Members
from rlvo.models.classifier import Classifier
from rlvo.training.dataset import stack_channels
from rlvo.training.member import Precision

FOLDS = 4
FEATURES = 20
"""Size of the encoded table, which these networks do not look at."""


def benchmark_inference(*, short: bool = False) -> None:
    """Print seconds from prepared and from raw volumes and peak memory, measured in one process per way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_members(folder)
        grid = "64×64×64" if short else "paper's"
        if short:
            raw = taken = math.nan
            rng = np.random.default_rng(0)
            np.savez(folder / "volumes.npz", **{each: rng.normal(40, 9, (64, 64, 64)) for each in ("ncct", "cta")})
        else:
            raw, taken = alone(partial(_prepare, folder, write_raw_patient(folder, 0)))
        ways: dict[str, Callable[[], object]] = {"one after the other, plain MONAI": partial(_plain, folder)}
        ways |= {f"rlvo, {precision}": partial(_members, folder, precision) for precision in get_args(Precision)}
        measured = {way: alone(work, short=short) for way, work in ways.items()}
        plain = measured["one after the other, plain MONAI"][0]
        show(
            f"12 EfficientNet-B0 for one patient at the {grid} grid, {os.cpu_count()} cores",
            ("s from prepared", "times as fast", "s from raw", "peak memory, GB"),
            {way: (seconds, plain / seconds, raw + seconds, peak) for way, (seconds, peak) in measured.items()},
            ratio="times as fast",
        )
        print(f"preparation: {raw:.3g} s, peak memory {taken:.3g} GB")


def members_of_all_folds() -> dict[str, MemberSpec]:
    """Members without fusion, so that MONAI's own networks compute the same."""
    configurations = [
        Configuration(model=ModelConfig(backbone="efficientnet-b0", modality=modality, fusion="none"))
        for modality in get_args(Modality)
    ]
    rates = {"threshold": 0.5, "tpr": 0.7, "tnr": 0.7, "better_than_chance": True}
    members = [MemberSpec(configuration=c, fold=fold, **rates) for c in configurations for fold in range(FOLDS)]
    return {member.key: member for member in members}


def write_members(folder: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for key, member in members_of_all_folds().items():
        model = member.configuration.model
        classifier = Classifier(model, FEATURES)
        classifier.standardise_with([40.0, 60.0][-len(model.channels) :], [8.0, 50.0][-len(model.channels) :])
        tensors |= {f"{key}/{name}": tensor for name, tensor in classifier.state_dict().items()}
        network = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=len(model.channels))
        save_file(network.state_dict(), folder / f"{key}.safetensors")
    save_file(tensors, folder / "members.safetensors")


def _prepare(folder: Path, files: dict[str, Path | None]) -> None:
    prepared = prepare(Target(grid="paper"), files["ncct"], files["cta"], None)
    np.savez(folder / "volumes.npz", ncct=prepared.volumes["ncct"], cta=prepared.volumes["cta"])


def _volumes(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "volumes.npz") as volumes:
        return {name: volumes[name] for name in ("ncct", "cta")}


def _plain(folder: Path) -> None:
    """Read, load and run every network in turn, exactly as MONAI provides it."""
    volumes = _volumes(folder)
    for key, member in members_of_all_folds().items():
        channels = member.configuration.model.channels
        network = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=len(channels))
        network.load_state_dict(load_file(folder / f"{key}.safetensors"))
        volume = torch.from_numpy(stack_channels(volumes, channels)).float()[None]
        with torch.inference_mode():
            network.eval()(((volume - 40) / 50).asinh())


def _members(folder: Path, precision: Precision) -> None:
    members = Members(lambda name: (folder / "members.safetensors", name))
    features = {fold: np.zeros((1, FEATURES), np.float32) for fold in range(FOLDS)}
    members.probabilities(members_of_all_folds(), _volumes(folder), features, precision)


def alone(work: Callable[[], object], *, short: bool = False) -> tuple[float, float]:
    """Seconds that `work` takes in a new process, and that process's peak memory in GB."""
    with context(short=short).Pool(1) as pool:
        return pool.apply(_measured, (work,))


def _measured(work: Callable[[], object]) -> tuple[float, float]:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
