"""The linear model of the volumes that can be a member of an ensemble (`ensemble.linear_image`).

What answers for a patient; `training.linear_image` fits it.
"""

from collections.abc import Mapping

import numpy as np
from scipy.special import expit
from torch import Tensor, from_numpy
from torch.nn.functional import adaptive_avg_pool3d

from rlvo.config.base import Frozen
from rlvo.training.dataset import stack_channels


class LinearImage(Frozen):
    """A logistic regression on standardised, compressed blocks; plain numbers, stored as JSON.

    It is fitted to principal components of the blocks and of their differences from the other side. All of that is
    linear, so what is left of it is one weight per block.
    """

    channels: tuple[str, ...]
    """The volumes that it needs."""
    shape: tuple[int, int, int]
    """Blocks along each axis."""
    mean: tuple[float, ...]
    """Of each channel's blocks, HU; likewise `sd`."""
    sd: tuple[float, ...]
    weights: tuple[float, ...]
    """[C, X, Y, Z], in that order."""
    coefficients: tuple[float, ...] | None
    """One per feature of the fold's encoder; None: of images alone."""
    intercept: float

    def blocks(self, volumes: Mapping[str, np.ndarray], is_right: bool) -> np.ndarray:
        """One patient's blocks [1, C, X, Y, Z] of prepared volumes [x, y, z] by name, as `read_blocks` gives them."""
        return block_means(from_numpy(stack_channels(volumes, self.channels)), self.shape, is_right)[None]

    def predict(self, blocks: np.ndarray, tabular: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of rLVO [N]; a patient's do not depend on the other rows."""
        shown = compressed(blocks, np.array(self.mean), np.array(self.sd)).reshape(len(blocks), -1)
        # Summed row by row: a matrix product rounds a row differently by what stands beside it.
        logits = (shown * np.array(self.weights)).sum(axis=1) + self.intercept
        if self.coefficients is not None:
            assert tabular is not None, "it reads the table too"
            logits = logits + (np.ascontiguousarray(tabular, np.float64) * np.array(self.coefficients)).sum(axis=1)
        return np.asarray(expit(logits))


def block_means(volume: Tensor, shape: tuple[int, int, int], turned: bool) -> np.ndarray:
    """Means [C, X, Y, Z] of so many blocks of a patient's volumes [C, x, y, z]; of the mirrored ones if `turned`."""
    volume = volume.float()
    return np.asarray(adaptive_avg_pool3d(volume.flip(1) if turned else volume, shape).numpy())


def compressed(blocks: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """As networks see them: standardised and asinh-compressed, [N, C, X, Y, Z]."""
    mean, sd = (each[:, None, None, None] for each in (mean, np.where(sd > 0, sd, 1.0)))
    return np.asarray(np.arcsinh((blocks.astype(np.float64) - mean) / sd))
