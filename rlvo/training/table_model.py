"""The ridge model of the table that can be a member of an ensemble: late fusion (`ensemble.table_member`).

What answers for a patient; `training.baseline` fits it.
"""

import numpy as np
from scipy.special import expit

from rlvo.config.base import Frozen

NAME = "table-ridge"


class TableModel(Frozen):
    """A logistic regression on a fold's encoded table; plain numbers, stored as JSON beside the fold's encoder."""

    coefficients: tuple[float, ...]
    """One per feature of the encoder; 0 for reference levels."""
    intercept: float

    def logits(self, tabular: np.ndarray) -> np.ndarray:
        """Log-odds of rLVO [N] for an encoded table [N, T]; a patient's do not depend on the other rows."""
        # Summed row by row: a matrix product rounds a row differently by what stands beside it.
        weighted = np.ascontiguousarray(tabular, np.float64) * np.array(self.coefficients)
        return np.asarray(weighted.sum(axis=1) + self.intercept)

    def predict(self, tabular: np.ndarray) -> np.ndarray:
        """Probabilities of rLVO [N] for an encoded table [N, T]."""
        return np.asarray(expit(self.logits(tabular)))


def table_member_key(fold: int) -> str:
    """The member's name in predictions and files."""
    return f"{NAME}-f{fold}"
