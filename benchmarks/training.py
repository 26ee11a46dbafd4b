"""One trial's epochs, ours against the plain loop."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import default_collate

from benchmarks.measure import show
from benchmarks.plain_loop import PlainLoop
from rlvo.cohort.encoding import fit_encoder
from rlvo.config.model import Configuration
from rlvo.models.classifier import Classifier
from rlvo.training.dataset import FoldData, Patients, Volumes, channel_statistics
from rlvo.training.epoch import batches, build_optimizer, build_schedule, train_epoch, validate

FOCUS, WHOLE, FINER = (32, 24, 20), (40, 48, 40), (64, 80, 64)
DEMO = {
    "backbone": "densenet121",
    "densenet": {"init_features": 8, "growth_rate": 8, "block_config": (3, 3), "stem_kernel": 3},
}
NETWORKS = {
    "demo's DenseNet": DEMO,
    "ResNet18": {"backbone": "resnet18"},
    "EfficientNet-B0": {"backbone": "efficientnet-b0"},
    "DenseNet169": {"backbone": "densenet169"},
}
CASES = [
    ("demo's DenseNet", FOCUS, 8),
    *((name, WHOLE, 4) for name in list(NETWORKS)[1:]),
    *((name, FINER, 1) for name in NETWORKS),
]
STEPS = 20
"""Over which the losses of both are compared."""


def benchmark_training(cases: Sequence[tuple[str, tuple[int, int, int], int]] = CASES, epochs: int = 3) -> None:
    """Print patients per second of both, their ratio, and how far their losses differ without augmentation."""
    rows = {}
    for name, shape, batch in cases:
        with tempfile.TemporaryDirectory() as folder:
            data = random_fold(Path(folder), shape, 4 * max(batch, 2), max(batch, 4))
            ours, plain = _patients_per_second(configure(name, batch), data, epochs)
            apart = _losses_apart(configure(name, batch, flip=0, shift_voxels=0), data)
        rows[f"{name}, {'×'.join(map(str, shape))}, batch {batch}"] = (ours, plain, ours / plain, apart)
    columns = ("patients/s", "plain loop", "ratio", f"losses differ over {STEPS} steps by")
    show(f"one trial's training and validation, {torch.get_num_threads()} threads", columns, rows)


def random_fold(
    folder: Path, shape: tuple[int, int, int], training: int, validation: int, *, different: int | None = None
) -> FoldData:
    """A fold of random volumes, in files of their own; `different`: how many patients' volumes differ (None: all)."""
    rng = np.random.default_rng(0)
    patients = training + validation
    labels = np.arange(patients) % 2
    columns = {"age": rng.normal(70, 10, patients), "nihss": 10.0 + 5 * labels + rng.normal(0, 3, patients)}
    table = pd.DataFrame(columns | {"occlusion_side": rng.choice(["left", "right"], patients)})
    for row in range(patients):
        own = folder / f"p{row}"
        if different is not None and row >= different:
            shutil.copytree(folder / f"p{row % different}", own)
            continue
        own.mkdir()
        for name, level in (("ncct", 35), ("cta", 90)):
            np.save(own / f"{name}.npy", rng.normal(level, 30, shape).astype(np.float16))
    encoder = fit_encoder(table[:training], list(table))

    def chosen(rows: slice) -> Patients:
        ids = tuple(f"p{row}" for row in range(patients)[rows])
        return Patients(ids, tuple(folder / name for name in ids), encoder.transform(table[rows]), labels[rows])

    mask = np.ones(shape, dtype=bool)
    return FoldData(chosen(slice(training)), chosen(slice(training, None)), mask, encoder)


class Ours:
    """A trial's parts as `training.fit` puts them together."""

    def __init__(self, configuration: Configuration, data: FoldData) -> None:
        self.settings, self.data = configuration.training, data
        self.classifier = first_weights(configuration, data)
        channels = configuration.model.channels
        self.training, self.validation = Volumes(data.training, channels), Volumes(data.validation, channels)
        self.classifier.standardise_with(*channel_statistics(self.training, data.brain_mask))
        self.optimizer = build_optimizer(self.classifier, self.settings)
        self.schedule = build_schedule(self.optimizer, self.settings, len(data.training))

    def train(self) -> float:
        """One epoch; its mean loss."""
        part = (self.classifier, self.training, self.data, self.settings, self.optimizer, self.schedule)
        return train_epoch(*part, weight=1.0)

    def validate(self) -> None:
        """The validation patients' metrics."""
        validate(self.classifier, self.validation, self.data.validation, self.settings.batch_size, 1.0)


def plain_loop(configuration: Configuration, data: FoldData, *, fused: bool | None = None) -> PlainLoop:
    """The plain loop, with the weights and the standardisation of `Ours`."""
    scale = channel_statistics(Volumes(data.training, configuration.model.channels), data.brain_mask)
    return PlainLoop(first_weights(configuration, data), configuration, data, *scale, fused=fused)


def configure(network: str, batch: int, **augmentation: float) -> Configuration:
    """A network of `NETWORKS` with DAFT, and how it is trained."""
    training = {"batch_size": batch, "learning_rate": 1e-4, "augmentation": augmentation}
    return Configuration.model_validate({"model": {**NETWORKS[network], "fusion": "daft"}, "training": training})


def first_weights(configuration: Configuration, data: FoldData) -> Classifier:
    """The same random weights each time."""
    torch.manual_seed(0)
    return Classifier(configuration.model, data.training.tabular.shape[1])


def _patients_per_second(configuration: Configuration, data: FoldData, epochs: int) -> tuple[float, float]:
    """Of ours and of the plain loop, training and validation; epochs in turn, the quickest of each."""
    trials = (Ours(configuration, data), plain_loop(configuration, data))
    seconds: dict[object, list[float]] = {trial: [] for trial in trials}
    for _ in range(epochs):
        for trial in trials:
            start = time.perf_counter()
            trial.train()
            trial.validate()
            seconds[trial].append(time.perf_counter() - start)
    patients = len(data.training) + len(data.validation)
    ours, plain = (patients / min(taken) for taken in seconds.values())
    return ours, plain


def _losses_apart(configuration: Configuration, data: FoldData) -> float:
    """The largest difference of an epoch's loss over the first steps: same batches, same Adam, no augmentation."""
    size = configuration.training.batch_size
    ours, plain = Ours(configuration, data), plain_loop(configuration, data, fused=True)
    apart = []
    for epoch in range(STEPS * size // len(data.training)):
        torch.manual_seed(epoch)
        own = ours.train()
        torch.manual_seed(epoch)
        losses = []
        for part in batches(torch.randperm(len(data.training)), size):
            (
                torch.rand(len(part)),
                torch.randint(1, (len(part), 3)),
            )  # what our augmentation draws, if it does nothing too
            losses.append(plain.step(**default_collate([plain.dataset[i] for i in part])))
        apart.append(abs(own - float(np.mean(losses))))
    return max(apart)
