"""A member as a function of the table alone: what it makes of a patient's image is computed once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import logit
from torch import Tensor

from rlvo.models.classifier import Classifier
from rlvo.training.member import VolumeSequence, full_precision

CHUNK_BYTES = 1 << 26
"""Feature maps are fused in chunks of about this size."""


@dataclass(frozen=True)
class FixedLinear:
    """A linear model of volumes and table, and N patients' images."""

    image: np.ndarray
    """What each image adds to the log-odds, [N]."""
    coefficients: np.ndarray
    """Of the encoded table, [T]."""

    @classmethod
    def of(cls, coefficients: ArrayLike, probability: ArrayLike, tabular: np.ndarray) -> "FixedLinear":
        """From what the model says, [N], of patients with these encoded rows [N, T]."""
        of_table = np.asarray(coefficients, np.float64)
        kept = np.clip(np.asarray(probability, np.float64), 1e-12, 1 - 1e-12)
        return cls(logit(kept) - tabular.astype(np.float64) @ of_table, of_table)

    def logits(self, tabular: np.ndarray) -> np.ndarray:
        """The logits [N] of encoded rows [N, T]; row i is about patient i."""
        return np.asarray(self.image + tabular.astype(np.float64) @ self.coefficients)

    def of_one(self, patient: int) -> Callable[[np.ndarray], np.ndarray]:
        """Gives the logits [M] of encoded rows [M, T], all with the image of one patient."""
        return lambda tabular: np.asarray(self.image[patient] + tabular.astype(np.float64) @ self.coefficients)


@dataclass(frozen=True)
class FixedImages:
    """A member and the last feature maps of N patients, before the fusion."""

    classifier: Classifier
    features: Tensor
    """[N, C, X, Y, Z], on the classifier's device."""

    @classmethod
    def of(
        cls, classifier: Classifier, volumes: VolumeSequence, tabular: np.ndarray | None = None, batch: int = 8
    ) -> "FixedImages":
        """Run the image network on volumes [N, C, X, Y, Z], whose channels are in the model's order.

        Args:
            tabular: encoded table [N, T], for models that turn the head to the affected side.
        """
        device = classifier.channel_mean.device
        table = torch.as_tensor(np.zeros((len(volumes), 0)) if tabular is None else tabular).to(device, torch.float32)
        classifier.eval()
        with torch.no_grad(), full_precision():
            parts = [
                classifier.features(volumes[i : i + batch].to(device, torch.float32), table[i : i + batch])
                for i in range(0, len(volumes), batch)
            ]
        return cls(classifier, torch.cat(parts))

    def logits(self, tabular: np.ndarray, patients: np.ndarray | None = None) -> np.ndarray:
        """The logits [M] of encoded rows [M, T], each with the image of one patient.

        Args:
            patients: whose image belongs to each row, by position [M]; None: row i is about patient i.
        """
        images = torch.arange(len(tabular)) if patients is None else torch.as_tensor(patients)
        table = torch.as_tensor(tabular, dtype=torch.float32)
        size = max(1, CHUNK_BYTES // self.features[0].nbytes)
        with torch.no_grad(), full_precision():
            parts = [
                self.classifier.fuse(
                    self.features[images[i : i + size].to(self.features.device)],
                    table[i : i + size].to(self.features.device),
                ).cpu()
                for i in range(0, len(table), size)
            ]
        return torch.cat(parts).numpy().astype(np.float64)

    def of_one(self, patient: int) -> Callable[[np.ndarray], np.ndarray]:
        """Gives the logits [M] of encoded rows [M, T], all with the image of one patient."""
        return lambda tabular: self.logits(tabular, np.full(len(tabular), patient))
