"""A linear model of the volumes, without and with the table: what networks have to beat, in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

from rlvo.evaluation.baselines import PENALTY
from rlvo.progress import Advance
from rlvo.training.dataset import Patients, Volumes

VERSION = 1
"""Raised by whoever changes what the model says: what studies keep of it is then fitted anew."""
CHANNELS = ("ncct", "cta")
BLOCK_MM = 16.0
COMPONENTS = 50
"""Both fixed, like the penalty (docs/method.md); fewer components if there are fewer patients."""


def read_blocks(
    patients: Patients, spacing: Sequence[float], is_right: ArrayLike, advance: Advance | None = None
) -> np.ndarray:
    """Means of NCCT and CTA over blocks of about 16 mm, in HU: float32 [N, C, X, Y, Z], the affected side on the left.

    Nothing is learned from the patients. A volume that not all of them have is left out.

    Args:
        spacing: size of a voxel along each axis, mm.
        is_right: whether the occlusion is on the right, [N]; those heads are mirrored (`models.symmetry`).
        advance: told how many patients are done, and of how many.

    Raises:
        PatientError: a volume is damaged.
    """
    channels = [name for name in CHANNELS if all((folder / f"{name}.npy").exists() for folder in patients.volumes)]
    volumes, blocks = Volumes(patients, channels), []
    for number, turned in enumerate(np.asarray(is_right, bool)):
        volume: Tensor = volumes[number : number + 1][0].float()
        x, y, z = (max(1, round(n * step / BLOCK_MM)) for n, step in zip(volume.shape[1:], spacing, strict=True))
        blocks.append(adaptive_avg_pool3d(volume.flip(1) if turned else volume, (x, y, z)).numpy())
        if advance is not None:
            advance(number + 1, len(patients))
    return np.stack(blocks)


@dataclass(frozen=True)
class LinearImage:
    """Standardised, compressed blocks and their differences from the other side; principal components; ridge."""

    mean: np.ndarray
    """Of each channel, [C, 1, 1, 1]; likewise `sd`."""
    sd: np.ndarray
    components: PCA
    """Scores have an SD of 1."""
    table: tuple[np.ndarray, np.ndarray] | None
    """Mean and SD of the encoded table's features [T]; None: of images alone."""
    ridge: LogisticRegression

    @classmethod
    def fit(cls, blocks: np.ndarray, y: ArrayLike, tabular: np.ndarray | None = None) -> Self:
        """Fit everything to the training patients: blocks [N, C, X, Y, Z], labels [N], encoded table [N, T] or None."""
        mean = blocks.mean(axis=(0, 2, 3, 4))[:, None, None, None]
        sd = blocks.std(axis=(0, 2, 3, 4))[:, None, None, None]
        features = _features(blocks, mean, sd)
        # Beyond the rank (the differences follow from the blocks) there would be nothing to whiten but rounding.
        rank = int(np.linalg.matrix_rank(features - features.mean(axis=0)))
        components = PCA(min(COMPONENTS, rank), whiten=True, svd_solver="full").fit(features)
        table = None if tabular is None else _location(np.asarray(tabular, float))
        unfitted = cls(mean, sd, components, table, LogisticRegression(C=PENALTY, tol=1e-6, max_iter=1000))
        unfitted.ridge.fit(unfitted._design(blocks, tabular), np.asarray(y))
        return unfitted

    def predict(self, blocks: np.ndarray, tabular: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of rLVO [N]."""
        return np.asarray(self.ridge.predict_proba(self._design(blocks, tabular))[:, 1])

    def _design(self, blocks: np.ndarray, tabular: np.ndarray | None) -> np.ndarray:
        scores = self.components.transform(_features(blocks, self.mean, self.sd))
        if self.table is None or tabular is None:
            return np.asarray(scores)
        return np.hstack([scores, (np.asarray(tabular, float) - self.table[0]) / self.table[1]])


def _location(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spread = values.std(axis=0)
    return values.mean(axis=0), np.where(spread > 0, spread, 1.0)


def _features(blocks: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """As networks see them: standardised, asinh-compressed; and minus the mirror image. [N, F]"""
    shown = np.arcsinh((blocks.astype(np.float64) - mean) / np.where(sd > 0, sd, 1.0))
    return np.concatenate([shown, shown - shown[:, :, ::-1]], axis=1).reshape(len(blocks), -1)
