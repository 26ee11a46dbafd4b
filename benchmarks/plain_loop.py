"""What a user would write without rlvo: MONAI's `CacheDataset`, a `DataLoader`, fp32, eager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, Dataset
from monai.transforms import (
    Compose,
    Lambdad,
    LoadImaged,
    NormalizeIntensityd,
    RandAffined,
    RandFlipd,
)
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from rlvo.config.model import Configuration
from rlvo.models.classifier import Classifier
from rlvo.training.dataset import FoldData, Patients


def files(patients: Patients, channels: Sequence[str]) -> list[dict[str, Any]]:
    """What MONAI's datasets are given: each patient's files, encoded table and label."""
    return [
        {
            "volume": [str(folder / f"{name}.npy") for name in channels],
            "table": torch.as_tensor(table, dtype=torch.float32),
            "label": torch.tensor(float(label)),
        }
        for folder, table, label in zip(patients.volumes, patients.tabular, patients.labels, strict=True)
    ]


def standardised(mean: Sequence[float], std: Sequence[float], compress: bool) -> list[Callable[..., Any]]:
    """The transforms that every pass would repeat if nothing were cached."""
    return [
        LoadImaged("volume", dtype=np.float32),  # stacks the channels
        NormalizeIntensityd("volume", subtrahend=mean, divisor=std, channel_wise=True),
        *([Lambdad("volume", torch.asinh)] if compress else []),
    ]


def cached(rows: list[dict[str, Any]], transform: Compose) -> Dataset:
    """A `CacheDataset` of all rows."""
    return CacheDataset(rows, transform, progress=False)


class PlainLoop:
    """A trial as a plain loop: the network of `Configuration` with the weights that it is given.

    Volumes are standardised once, as they are cached, so the network's own standardisation leaves them unchanged.

    Args:
        classifier: on the device that trains it.
        mean, std: of each channel, in HU.
        fused: torch's fused Adam, which rounds differently; None is torch's default.
    """

    def __init__(
        self,
        classifier: Classifier,
        configuration: Configuration,
        data: FoldData,
        mean: list[float],
        std: list[float],
        *,
        fused: bool | None = None,
    ) -> None:
        settings, channels = configuration.training, configuration.model.channels
        self.classifier, self.compresses = classifier, classifier.compresses
        self.device = classifier.channel_mean.device
        classifier.standardise_with([0.0] * len(channels), [1.0] * len(channels))
        classifier.to(self.device)
        classifier.compresses = False
        augmentation = settings.augmentation
        random = [
            RandFlipd("volume", prob=augmentation.flip, spatial_axis=0),
            RandAffined(
                "volume",
                prob=1.0,
                translate_range=[augmentation.shift_voxels] * 3,
                mode="nearest",
                padding_mode="border",
            ),
        ]
        augmented = augmentation.flip > 0 or augmentation.shift_voxels > 0
        steps = standardised(mean, std, self.compresses)
        self.dataset = cached(files(data.training, channels), Compose([*steps, *(random if augmented else [])]))
        self.training = DataLoader(self.dataset, settings.batch_size, shuffle=True)
        validation = cached(files(data.validation, channels), Compose(steps))
        self.validation = DataLoader(validation, settings.batch_size)
        optimizer = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = optimizer(
            classifier.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
        )

    def train(self) -> None:
        """One epoch."""
        for batch in self.training:
            self.step(**batch)

    def step(self, volume: torch.Tensor, table: torch.Tensor, label: torch.Tensor, **_: object) -> float:
        """One step; its loss."""
        self.classifier.train()
        self.optimizer.zero_grad()
        volume, table, label = (each.to(self.device) for each in (volume, table, label))
        loss = binary_cross_entropy_with_logits(self.classifier(volume, table), label)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def validate(self) -> float:
        """The validation patients' AUC."""
        self.classifier.eval()
        with torch.no_grad():
            parts = [
                (self.classifier(batch["volume"].to(self.device), batch["table"].to(self.device)).cpu(), batch["label"])
                for batch in self.validation
            ]
        logits, labels = (torch.cat(each) for each in zip(*parts, strict=True))
        return float(roc_auc_score(labels, logits))
