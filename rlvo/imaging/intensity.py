"""Intensity windows of the paper (section 2.2.1), in HU."""

from __future__ import annotations

import numpy as np

NCCT_WINDOW = (0.0, 100.0)
CTA_WINDOW = (0.0, 400.0)


def clip_ncct(hu: np.ndarray) -> np.ndarray:
    """HU of a non-contrast CT clipped to 0–100."""
    return np.clip(hu, *NCCT_WINDOW)


def clip_cta(hu: np.ndarray) -> np.ndarray:
    """HU of a CT angiogram clipped to 0–400."""
    return np.clip(hu, *CTA_WINDOW)
