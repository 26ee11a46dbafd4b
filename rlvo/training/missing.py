"""Volumes and CT perfusion that a patient lacks: how a network sees that, and patients who lack them in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import pandas as pd
import torch
from torch import Tensor

from rlvo.cohort.encoding import TabularEncoder
from rlvo.cohort.variables import CTP, source_columns
from rlvo.config.training import TrainingConfig
from rlvo.training.dataset import Volumes


@dataclass(frozen=True)
class Lost:
    """What the patients of a batch lose; on the CPU."""

    volumes: Tensor | None
    """[B, C] bool: the channels; None: nobody loses any."""
    perfusion: Tensor | None
    """[B] bool; None likewise."""

    @classmethod
    def draw(cls, settings: TrainingConfig, channels: Sequence[str], patients: int) -> Lost:
        """Random losses of B patients, from torch's CPU generator, which is left alone if nothing can be lost.

        Args:
            settings: `modality_dropout` and `perfusion_dropout`.
            channels: C names; a lost CTA takes the vessel mask with it, which is made from it.
        """
        volumes = perfusion = None
        if settings.modality_dropout > 0:
            is_lost = torch.rand(patients) < settings.modality_dropout
            without_cta = torch.rand(patients) < 0.5
            of_cta = torch.tensor([name != "ncct" for name in channels])
            volumes = is_lost[:, None] & (of_cta == without_cta[:, None])
        if settings.perfusion_dropout > 0:
            perfusion = torch.rand(patients) < settings.perfusion_dropout
        return cls(volumes, perfusion)

    def split(self, sizes: list[int]) -> Iterator[Lost]:
        """The losses of consecutive parts of the batch, of these sizes."""
        volumes = repeat(None) if self.volumes is None else torch.split(self.volumes, sizes)
        perfusion = repeat(None) if self.perfusion is None else torch.split(self.perfusion, sizes)
        for _, own_volumes, own_perfusion in zip(sizes, volumes, perfusion, strict=False):
            yield Lost(own_volumes, own_perfusion)


def blank_volumes(volumes: Tensor, mean: Tensor, lost: Tensor) -> Tensor:
    """Volumes [B, C, X, Y, Z], float32, with lost channels as what becomes 0 when they are standardised.

    Args:
        mean: [C], with which the classifier standardises; 0 for the vessel mask.
        lost: [B, C] bool.
    """
    lost = lost.to(volumes.device, non_blocking=True)[..., None, None, None]
    return torch.where(lost, mean.to(volumes.device)[:, None, None, None], volumes.float())


@dataclass(frozen=True)
class NoPerfusion:
    """How a patient without any CT perfusion variable is encoded."""

    features: Tensor
    """Their places among the T, missing flags with them."""
    values: Tensor
    """What they then are: imputed."""

    @classmethod
    def of(cls, encoder: TabularEncoder) -> NoPerfusion:
        """As the fold's encoder imputes them: its medians, which depend on no patient's own values."""
        groups = encoder.feature_groups
        features = torch.tensor(
            [i for name in encoder.predictors if name in CTP for i in groups[name]], dtype=torch.long
        )
        row = pd.DataFrame([dict.fromkeys(source_columns(encoder.predictors))], dtype=object)
        encoded = torch.from_numpy(encoder.transform(row))[0]
        return cls(features, encoded[features])

    def blank(self, tabular: Tensor, lost: Tensor) -> Tensor:
        """The table [B, T] with the CT perfusion of patients who lose it (bool [B]) imputed."""
        blanked = tabular.clone()
        blanked[lost.nonzero(), self.features] = self.values
        return blanked


@dataclass(frozen=True)
class WithoutChannels:
    """Volumes [N, C, X, Y, Z] of patients who all lack some channels."""

    volumes: Volumes
    mean: Tensor
    """[C], as for `blank_volumes`."""
    absent: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, indices: slice | Tensor) -> Tensor:
        chosen = self.volumes[indices]
        lost = torch.tensor([[name in self.absent for name in self.volumes.channels]])
        return blank_volumes(chosen, self.mean, lost)
