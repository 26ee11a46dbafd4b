"""A linear model of the volumes, asked without and with the table: what networks have to beat, in seconds.

It can be a member of an ensemble too (`ensemble.linear_image`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from rlvo.evaluation.baselines import PENALTY, intercept_of
from rlvo.progress import Advance
from rlvo.training.dataset import Patients, Volumes
from rlvo.training.linear_model import LinearImage, block_means, compressed

VERSION = 2
"""Raised by whoever changes what the model says: what studies keep of it is then fitted anew."""
CHANNELS = ("ncct", "cta")
BLOCK_MM = 16.0
COMPONENTS = 50
"""Both fixed, like the penalty (docs/method.md); fewer components if there are fewer patients."""


def common_channels(patients: Patients) -> tuple[str, ...]:
    """Those of NCCT and CTA that all of the patients have."""
    return tuple(name for name in CHANNELS if all((folder / f"{name}.npy").exists() for folder in patients.volumes))


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
    volumes, blocks = Volumes(patients, common_channels(patients)), []
    for number, turned in enumerate(np.asarray(is_right, bool)):
        volume: Tensor = volumes[number : number + 1][0]
        x, y, z = (max(1, round(n * step / BLOCK_MM)) for n, step in zip(volume.shape[1:], spacing, strict=True))
        blocks.append(block_means(volume, (x, y, z), bool(turned)))
        if advance is not None:
            advance(number + 1, len(patients))
    volumes.check_unchanged()
    return np.stack(blocks)


def fit_linear_images(
    blocks: np.ndarray, y: ArrayLike, tabular: np.ndarray, channels: Sequence[str] = CHANNELS
) -> tuple[LinearImage, LinearImage]:
    """Fit one regression to images and table of the training patients: models of images alone, and with the table.

    Both have the same weights for the images. What the table explains of the labels is no noise to them then, also if
    the answer leaves the table out; the intercept of images alone gives the training patients their prevalence.

    Args:
        blocks: of the training patients, as from `read_blocks`, [N, C, X, Y, Z].
        y: labels, 0 or 1, [N].
        tabular: the encoded table, [N, T].
    """
    mean, sd = blocks.mean(axis=(0, 2, 3, 4)), blocks.std(axis=(0, 2, 3, 4))
    shown, y, tabular = compressed(blocks, mean, sd), np.asarray(y), np.asarray(tabular, float)
    pairs = shown.shape[2] // 2
    affected = shown[:, :, : shown.shape[2] - pairs]  # with the middle, if there is one
    differences = (shown - shown[:, :, ::-1])[:, :, :pairs]
    features = np.hstack([affected.reshape(len(y), -1), differences.reshape(len(y), -1)])
    # Beyond the rank there would be nothing to whiten but rounding.
    rank = int(np.linalg.matrix_rank(features - features.mean(axis=0)))
    components = PCA(min(COMPONENTS, rank), whiten=True, svd_solver="full").fit(features)
    location, spread = _location(tabular)
    design = np.hstack([components.transform(features), (tabular - location) / spread])  # all with an SD of 1
    ridge = LogisticRegression(C=PENALTY, tol=1e-6, max_iter=1000).fit(design, y)
    slopes, count = ridge.coef_[0], components.n_components_

    of_features = (slopes[:count] / np.sqrt(components.explained_variance_)) @ components.components_
    of_affected, of_differences = np.split(of_features, [affected[0].size])
    of_differences = of_differences.reshape(differences.shape[1:])
    weights = np.zeros(shown.shape[1:])
    weights[:, : affected.shape[2]] = of_affected.reshape(affected.shape[1:])
    weights[:, :pairs] += of_differences
    weights[:, ::-1][:, :pairs] -= of_differences

    coefficients = slopes[count:] / spread
    with_table = LinearImage(
        channels=tuple(channels),
        shape=blocks.shape[2:],
        mean=tuple(mean.tolist()),
        sd=tuple(sd.tolist()),
        weights=tuple(weights.ravel().tolist()),
        coefficients=tuple(coefficients.tolist()),
        intercept=float(ridge.intercept_[0] - of_features @ components.mean_ - coefficients @ location),
    )
    intercept = intercept_of(shown.reshape(len(y), -1) @ weights.ravel(), float(np.mean(y)))
    return with_table.model_copy(update={"coefficients": None, "intercept": intercept}), with_table


def _location(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spread = values.std(axis=0)
    return values.mean(axis=0), np.where(spread > 0, spread, 1.0)
