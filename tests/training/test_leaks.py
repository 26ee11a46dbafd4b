"""What a trial learns depends on nothing of its validation patients, whatever options it is trained with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from support.networks import narrow

from rlvo.cohort.encoding import fit_encoder
from rlvo.config.grid import Grid
from rlvo.config.model import Configuration
from rlvo.config.training import TrainingConfig
from rlvo.evaluation.predictions import read_predictions
from rlvo.training.dataset import FoldData, Patients
from rlvo.training.fit import fit
from rlvo.training.records import CompletionRecord, TrialIdentity

SHAPE = (12, 10, 8)
GRID = Grid(shape=SHAPE, spacing=(12, 12, 12), origin=(-66, -54, -54))
EPOCHS = 2
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "daft": {
        "model": {"side": "canonical", "contrast": "mirror_difference", "prior": True},
        "training": {"auxiliary": 0.5, "modality_dropout": 0.5, "perfusion_dropout": 0.5, "ema": 0.8, "repeat": 1},
    },
    "offset": {
        "model": {"fusion": "offset", "side": "halves", "norm": "group"},
        "training": {"auxiliary": 0.5, "modality_dropout": 0.5, "label_smoothing": 0.1},
    },
    "crop": {
        "model": {"side": "halves", "crop": "occlusion"},
        "training": {"auxiliary": 0.5, "modality_dropout": 0.5, "augmentation": {"crop_shift_mm": 15}},
    },
    "film": {
        "model": {"fusion": "film", "norm": "group", "crop": "vessels"},
        "training": {"micro_batch": 2, "perfusion_dropout": 0.5},
    },
    "images": {"model": {"fusion": "none", "norm": "group"}, "training": {"beside_table": True, "auxiliary": 0.5}},
    "concat": {"model": {"fusion": "concat"}, "training": {"pos_weight": True, "restarts": 1}},
}
"""Every option of training and of the network that sees a patient, in as few trials as they go together."""
PERMUTED = ["daft", "offset", "crop", "images"]


def configured(options: dict[str, dict[str, Any]], **training: Any) -> Configuration:
    settings = {"epochs": EPOCHS, "batch_size": 4, "learning_rate": 1e-2, "schedule": "one_cycle"}
    settings |= options.get("training", {}) | training
    model = narrow("resnet18", **{"fusion": "daft", **options.get("model", {})})
    return Configuration(model=model, training=TrainingConfig.model_validate(settings))


def make_fold(folder: Path, training: int, validation: int, signal: float = 1.0) -> FoldData:
    """Random volumes and predictors; the label shows in the images and in two of the predictors."""
    random, n = np.random.default_rng(3), training + validation
    labels = (random.permutation(n) % 2).astype(int)
    table = pd.DataFrame(
        {
            "age": random.normal(70, 10, n),
            "nihss": (10 + 3 * signal * labels + random.normal(0, 4, n)).clip(0, 42),
            "occlusion_side": random.choice(["left", "right"], n),
            "occlusion_site": np.random.default_rng(4).choice(["TICA", "M1", "M2"], n),
            "tmax_gt4_ml": random.uniform(100, 200, n) + 40 * signal * labels,
            "tmax_gt6_ml": random.uniform(20, 90, n),
        },
        index=pd.Index([f"p{i:03}" for i in range(n)], name="patient_id"),
    )
    table.loc[table.index[::5], "tmax_gt4_ml"] = np.nan
    for patient, label in zip(table.index, labels, strict=True):
        write_volumes(folder / patient, random, 6 * signal * label)
    encoder = fit_encoder(table[:training], list(table), missing_flags=True)
    mask = np.zeros(SHAPE, bool)
    mask[2:-2, 2:-2, 2:-2] = True

    def patients(rows: slice) -> Patients:
        ids = tuple(table.index[rows])
        encoded, measured = encoder.transform(table[rows]), encoder.measured(table[rows])
        return Patients(ids, tuple(folder / each for each in ids), encoded, labels[rows], measured=measured)

    return FoldData(patients(slice(training)), patients(slice(training, n)), mask, encoder, GRID)


def write_volumes(folder: Path, random: np.random.Generator, contrast: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, level in (("ncct", 35), ("cta", 90)):
        volume = random.normal(level, 8, SHAPE)
        volume[4:9, 3:8, 2:7] += contrast
        np.save(folder / f"{name}.npy", volume.astype(np.float16))
    np.save(folder / "vessels.npy", (random.random(SHAPE) < 0.1).astype(np.uint8))


def others(patients: Patients, folder: Path) -> Patients:
    """Other patients under the same names: other volumes, rows and labels, and other cells that are missing."""
    random = np.random.default_rng(11)
    for patient in patients.ids:
        write_volumes(folder / patient, random, random.normal(0, 50))
    assert patients.measured is not None
    return replace(
        patients,
        volumes=tuple(folder / patient for patient in patients.ids),
        labels=1 - patients.labels,
        tabular=1 - patients.tabular,
        measured=~patients.measured,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FoldData:
    return make_fold(tmp_path_factory.mktemp("store"), training=14, validation=8)


@pytest.fixture(scope="module")
def changed(data: FoldData, tmp_path_factory: pytest.TempPathFactory) -> FoldData:
    """The fold with other validation patients."""
    return replace(data, validation=others(data.validation, tmp_path_factory.mktemp("others")))


def train(
    data: FoldData, configuration: Configuration, folder: Path, until: int | None = None, seed: int = 1
) -> CompletionRecord | None:
    """All trials draw the same random numbers, whatever their options."""
    identity = TrialIdentity(study="t", configuration="same", fold=0, split_hash="a", data_hash="b")
    return fit(configuration, data, folder, identity, seed=seed, device="cpu", until=until)


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name / "model.safetensors")


def are_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """To the bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_other_validation_patients_change_no_weight(
    data: FoldData, changed: FoldData, tmp_path: Path, options: dict[str, dict[str, Any]]
) -> None:
    configuration = configured(options, checkpoint="last")
    for name, fold in (("one", data), ("other", changed)):
        train(fold, configuration, tmp_path / name)
    for name in ("last", "best"):
        assert are_same(weights(tmp_path / "one", name), weights(tmp_path / "other", name))
    said = [(tmp_path / name / "predictions.csv").read_text() for name in ("one", "other")]
    assert said[0] != said[1]


CHANGES: dict[str, Callable[[Patients, Path], Patients]] = {
    "label": lambda own, folder: replace(own, labels=own.labels ^ (np.arange(len(own)) == 3)),
    "row": lambda own, folder: replace(own, tabular=np.where(np.arange(len(own))[:, None] == 3, 0.9, own.tabular)),
    "volumes": lambda own, folder: replace(own, volumes=(*own.volumes[:3], folder, *own.volumes[4:])),
}


def test_one_training_patient_does(data: FoldData, tmp_path: Path) -> None:
    """So the test above could fail."""
    write_volumes(tmp_path / "p", np.random.default_rng(1), 0)
    configuration, found = configured({}, checkpoint="last", epochs=1), []
    for what, change in {"nothing": lambda own, folder: own, **CHANGES}.items():
        altered = replace(data, training=change(data.training, tmp_path / "p"))
        train(altered, configuration, tmp_path / what)
        found.append(weights(tmp_path / what, "best"))
    assert not any(are_same(found[0], other) for other in found[1:])


@pytest.mark.parametrize(("by", "ema"), [("loss", None), ("auc", 0.8)])
def test_validation_labels_choose_the_epoch_and_nothing_else(
    data: FoldData, tmp_path: Path, by: str, ema: float | None
) -> None:
    """Whoever validates, what is kept are the weights after one of the same epochs."""
    known, steps = [], tmp_path / "steps"
    for epoch in range(1, EPOCHS + 1):
        train(data, configured({}, checkpoint="last", ema=ema), steps, until=epoch)
        known.append(weights(steps, "best"))
    assert not are_same(known[0], known[1])
    chosen = []
    for labels in (data.validation.labels, 1 - data.validation.labels):
        fold, folder = replace(data, validation=replace(data.validation, labels=labels)), tmp_path / str(labels[0])
        record = train(fold, configured({}, checkpoint=by, ema=ema), folder)
        assert record is not None
        assert record.best_epoch is not None
        assert are_same(weights(folder, "best"), known[record.best_epoch - 1])
        chosen.append(record.best_epoch)
    assert chosen[0] != chosen[1]


@pytest.mark.slow
@pytest.mark.parametrize("options", [OPTIONS[name] for name in PERMUTED], ids=PERMUTED)
def test_permuted_labels_are_chance(tmp_path: Path, options: dict[str, dict[str, Any]]) -> None:
    """Networks that learn their training patients by heart say nothing of others; true labels they find in the same.

    So small a training may end anywhere, by how a processor rounds: of true labels the better half of six count.
    """
    whole = make_fold(tmp_path / "store", training=40, validation=100, signal=8.0)
    configuration = configured(options, checkpoint="last", epochs=7)
    labels = np.concatenate([whole.training.labels, whole.validation.labels])

    def trained(own: np.ndarray, name: str, seed: int = 1) -> float:
        """The AUC on the validation patients."""
        training, validation = replace(whole.training, labels=own[:40]), replace(whole.validation, labels=own[40:])
        train(replace(whole, training=training, validation=validation), configuration, tmp_path / name, seed=seed)
        rows = read_predictions(tmp_path / name / "predictions.csv").drop_duplicates("patient")
        return float(roc_auc_score(rows["label"], rows["probability"]))

    true = [trained(labels, f"true, seed {seed}", seed) for seed in range(1, 7)]
    found = [trained(np.random.default_rng(seed).permutation(labels), str(seed)) for seed in range(6)]
    positive = 50  # about; the Mann-Whitney statistic's SD, for a mean of six
    error = np.sqrt(101 / (12 * positive * (100 - positive)) / 6)
    assert np.mean(sorted(true)[3:]) > 0.9
    assert abs(np.mean(found) - 0.5) < 3 * error
