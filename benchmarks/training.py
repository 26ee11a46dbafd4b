"""One trial's epochs, ours against the plain loop."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks.ceilings import Ceilings, measure_ceilings, show_ceilings
from benchmarks.measure import default_device, seconds, show
from benchmarks.plain_loop import PlainLoop
from rlvo.cohort.encoding import fit_encoder
from rlvo.config.model import Configuration
from rlvo.models.classifier import Classifier
from rlvo.models.cost import model_cost
from rlvo.training.dataset import FoldData, Patients, Volumes, channel_statistics
from rlvo.training.epoch import build_optimizer, build_schedule, train_epoch, validate

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
Case = tuple[str, tuple[int, int, int], int]
"""A network of `NETWORKS`, a grid and a batch size."""
CASES: list[Case] = [
    ("demo's DenseNet", FOCUS, 8),
    *((name, WHOLE, 4) for name in list(NETWORKS)[1:]),
    *((name, FINER, 1) for name in NETWORKS),
]
SHORT = (32, 32, 32)
STEPS = 20
"""Over which the losses of both are compared."""
COLUMNS = ("patients/s", "plain loop", "ratio", "of the ceiling", "peak, GB", f"losses over {STEPS} steps differ by")
"""`of the ceiling`: floating-point operations of the network (backward counts as two forward passes) per second, as a
share of what a matrix product reaches. `peak`: GPU memory of our trial."""


def benchmark_training(cases: Sequence[Case] = CASES, *, epochs: int = 3, short: bool = False) -> None:
    """Print patients per second of both, their ratio, and how far their losses differ without augmentation."""
    if short:
        cases, epochs = [(name, SHORT, 2) for name in NETWORKS], 1
    ceilings = measure_ceilings(default_device(), short=short)
    show_ceilings(ceilings)
    rows = {}
    for case in cases:
        rows[case_name(case)] = compare(case, epochs, ceilings, steps=2 if short else STEPS)
    show(f"one trial's training and validation, {torch.get_num_threads()} threads", COLUMNS, rows, ratio="ratio")


def compare(case: Case, epochs: int, ceilings: Ceilings, *, steps: int = STEPS) -> tuple[float, ...]:
    """The figures of `COLUMNS` for one case."""
    network, shape, batch = case
    with tempfile.TemporaryDirectory() as folder:
        data = random_fold(Path(folder), shape, 4 * max(batch, 2), max(batch, 4))
        configuration = configure(network, batch)
        ours, plain, peak = _patients_per_second(configuration, data, epochs)
        apart = losses_apart(configure(network, batch, flip=0, shift_voxels=0), data, steps) if steps else math.nan
    cost = model_cost(configuration.model, shape, data.training.tabular.shape[1])
    passes = (3 * len(data.training) + len(data.validation)) / (len(data.training) + len(data.validation))
    share = ours * passes * cost.forward_gflop / 1000 / ceilings.training(configuration.training.mixed_precision)
    return ours, plain, ours / plain, share, peak, apart


def case_name(case: Case) -> str:
    """What a table calls it."""
    network, shape, batch = case
    return f"{network}, {'×'.join(map(str, shape))}, batch {batch}"


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
        self.classifier.to(default_device())
        self.optimizer = build_optimizer(self.classifier, self.settings)
        self.schedule = build_schedule(self.optimizer, self.settings, len(data.training))

    def train(self) -> float:
        """One epoch; its mean loss."""
        part = (self.classifier, self.training, self.data, self.settings, self.optimizer, self.schedule)
        return train_epoch(*part, weight=1.0)["train/loss"]

    def step(self, rows: Tensor) -> float:
        """One step with these training patients; its loss."""
        data, settings = replace(self.data, training=_chosen(self.data.training, rows)), self.settings
        volumes = Volumes(data.training, self.training.channels)
        return train_epoch(self.classifier, volumes, data, settings, self.optimizer, self.schedule, 1.0)["train/loss"]

    def validate(self) -> None:
        """The validation patients' metrics."""
        validate(self.classifier, self.validation, self.data.validation, self.settings.batch_size, 1.0)


def plain_loop(configuration: Configuration, data: FoldData, *, fused: bool | None = None) -> PlainLoop:
    """The plain loop, with the weights and the standardisation of `Ours`."""
    scale = channel_statistics(Volumes(data.training, configuration.model.channels), data.brain_mask)
    classifier = first_weights(configuration, data).to(default_device())
    return PlainLoop(classifier, configuration, data, *scale, fused=fused)


def configure(network: str, batch: int, **augmentation: float) -> Configuration:
    """A network of `NETWORKS` with DAFT, and how it is trained."""
    training = {"batch_size": batch, "learning_rate": 1e-4, "augmentation": augmentation}
    return Configuration.model_validate({"model": {**NETWORKS[network], "fusion": "daft"}, "training": training})


def first_weights(configuration: Configuration, data: FoldData) -> Classifier:
    """The same random weights each time."""
    torch.manual_seed(0)
    return Classifier(configuration.model, data.training.tabular.shape[1])


def _patients_per_second(configuration: Configuration, data: FoldData, epochs: int) -> tuple[float, float, float]:
    """Of ours and of the plain loop, training and validation; epochs in turn, the quickest of each. Our peak in GB."""
    trials = (Ours(configuration, data), plain_loop(configuration, data))
    taken: dict[object, list[float]] = {trial: [] for trial in trials}
    peak = math.nan
    for _ in range(epochs):
        for trial in trials:
            if on_gpu := torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            taken[trial].append(seconds(lambda trial=trial: (trial.train(), trial.validate()), repeat=1))
            if on_gpu and isinstance(trial, Ours):
                peak = torch.cuda.max_memory_allocated() / 1e9
    patients = len(data.training) + len(data.validation)
    ours, plain = (patients / min(each) for each in taken.values())
    return ours, plain, peak


def losses_apart(configuration: Configuration, data: FoldData, steps: int = STEPS) -> float:
    """The largest difference of a step's loss: same weights, same batches, no augmentation, the same kind of Adam.

    Torch's fused Adam rounds differently from its default. A step of Adam has the size of the learning rate whatever
    the size of the gradient, so where a gradient is next to nothing, rounding alone decides which way a weight goes,
    and the losses of two correct trials part after a few steps.
    """
    configuration = configuration.model_copy(
        update={"training": configuration.training.model_copy(update={"mixed_precision": False})}
    )
    ours, plain = Ours(configuration, data), plain_loop(configuration, data, fused=True)
    apart = 0.0
    for step in range(steps):
        size = configuration.training.batch_size
        rows = torch.randperm(len(data.training), generator=torch.Generator().manual_seed(step))[:size]
        torch.manual_seed(step)
        own = ours.step(rows)
        torch.manual_seed(step)
        order = rows[torch.randperm(size)]
        torch.rand(size), torch.randint(1, (size, 3))  # what our augmentation draws, even if it does nothing
        theirs = plain.step(**default_collate([plain.dataset[row] for row in order]))
        apart = max(apart, abs(own - theirs))
    return apart


def _chosen(patients: Patients, rows: Tensor) -> Patients:
    chosen = rows.tolist()
    ids, folders = (tuple(each[row] for row in chosen) for each in (patients.ids, patients.volumes))
    return Patients(ids, folders, patients.tabular[chosen], patients.labels[chosen])
