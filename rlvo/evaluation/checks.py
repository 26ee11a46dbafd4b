"""Labels and scores as arrays that can be compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlvo.errors import RlvoError


def labels_and_scores(y_true: ArrayLike, *scores: ArrayLike) -> tuple[np.ndarray, ...]:
    """Labels as bool [N] and each score as float64 [N].

    Raises:
        RlvoError: labels other than 0 and 1, lengths that differ, no patient, or scores that are not finite.
    """
    labels = np.asarray(y_true)
    arrays = [np.asarray(score, dtype=np.float64) for score in scores]
    if labels.ndim != 1 or not labels.size or not np.isin(labels, (0, 1)).all():
        raise RlvoError("labels are 0 or 1, one a patient", where="y_true")
    for array in arrays:
        if array.shape != labels.shape:
            raise RlvoError(f"shape {array.shape} for {len(labels)} labels", where="score")
        if not np.isfinite(array).all():
            raise RlvoError(f"{np.count_nonzero(~np.isfinite(array))} of {len(array)} are not finite", where="score")
    return labels.astype(bool), *arrays
