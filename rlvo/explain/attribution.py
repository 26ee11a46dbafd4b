"""How much each tabular variable moves DAFT's scales and shifts (González et al. 2025, section 2.5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.func import jacfwd, vmap

from rlvo.models.fusion import DAFT

Formula = Literal["mean_of_absolutes", "literal"]


def tabular_gradients(daft: DAFT, features: Tensor, tabular: Tensor) -> tuple[Tensor, Tensor]:
    """Exact derivatives of each patient's scale and shift with respect to the encoded variables, for a fixed image.

    Args:
        daft: a DAFT (or FiLM) layer.
        features: the layer's input feature map [B, C, X, Y, Z].
        tabular: encoded table [B, T].

    Returns:
        ∂S/∂T and ∂B/∂T, each [B, C, T].
    """
    with torch.no_grad():
        pooled = features.mean(dim=(2, 3, 4))
        scale, shift = vmap(jacfwd(daft.scale_and_shift, argnums=1))(pooled, tabular)
    return scale, shift


@dataclass(frozen=True)
class Contributions:
    """What N patients' predictors contribute to one member; tables are [N, P], one column per predictor.

    A predictor's features (one-hots, missing flag) are summed.
    """

    scale: pd.DataFrame
    """Through the scale: mean over channels of |∂S_c/∂T_i|·|P_c|, where P is the pooled feature map."""
    shift: pd.DataFrame
    """Through the shift: mean over channels of |∂B_c/∂T_i|."""
    absolute: pd.Series
    """By predictor, over all the patients; see `contributions`."""

    @property
    def individual(self) -> pd.DataFrame:
        """Through both, by patient and predictor."""
        return self.scale + self.shift

    def shares(self) -> "Contributions":
        """The same divided by the sum of the absolute ones, so that networks of other scales can be compared."""
        total = self.absolute.abs().sum() or 1.0  # nothing contributes in a network that starts as the identity
        return Contributions(self.scale / total, self.shift / total, self.absolute / total)


def contributions(
    daft: DAFT,
    features: Tensor,
    tabular: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    *,
    formula: Formula = "mean_of_absolutes",
    patients: Sequence[str] | None = None,
) -> Contributions:
    """Individual and absolute contributions of the predictors to a member's scales and shifts.

    Args:
        daft: the member's DAFT (or FiLM) layer.
        features: its input feature maps [N, C, X, Y, Z].
        tabular: encoded table [N, T].
        groups: the columns of each predictor (`TabularEncoder.feature_groups`).
        formula: of the absolute contribution. `mean_of_absolutes`: the mean of the individual ones. `literal`: as under
            Fig. 4, |mean ∂S/∂T_i|·P̄ + |mean ∂B/∂T_i| with means over patients and channels, where gradients of
            opposite signs cancel, and P̄ can be negative.
        patients: names the rows of the tables; None: their positions.
    """
    table = torch.as_tensor(tabular, dtype=features.dtype, device=features.device)
    by_scale, by_shift = tabular_gradients(daft, features, table)
    pooled = features.mean(dim=(2, 3, 4))
    scale = _summed((by_scale.abs() * pooled.abs()[:, :, None]).mean(dim=1), groups, patients)
    shift = _summed(by_shift.abs().mean(dim=1), groups, patients)
    if formula == "literal":
        means = by_scale.mean(dim=(0, 1)).abs() * pooled.mean() + by_shift.mean(dim=(0, 1)).abs()
        return Contributions(scale, shift, _summed(means[None], groups).iloc[0])
    return Contributions(scale, shift, (scale + shift).mean())


def _summed(
    by_feature: Tensor, groups: Mapping[str, Sequence[int]], patients: Sequence[str] | None = None
) -> pd.DataFrame:
    """Sum [N, T] over the features of each predictor: [N, P]."""
    values = by_feature.double().cpu().numpy()
    sums = {predictor: values[:, list(columns)].sum(axis=1) for predictor, columns in groups.items()}
    return pd.DataFrame(sums, index=None if patients is None else list(patients))
