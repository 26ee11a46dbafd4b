"""How much each tabular variable moves DAFT's scales and shifts (González et al. 2025, section 2.5)."""

import torch
from torch import Tensor
from torch.func import jacfwd, vmap

from rlvo.models.fusion import DAFT


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
