"""What a number of patients can show: how precise their AUC will be, and how likely it is told from another one."""

from dataclasses import dataclass
from math import nan, sqrt

from scipy.stats import norm

from rlvo.evaluation.metrics import TAILS

EXPECTED, REFERENCE = 0.70, 0.60
"""The AUC of the paper's vote, and one that would hardly help."""


@dataclass(frozen=True)
class AucPower:
    """What patients can show of an AUC. NaN: nothing, because a class is empty."""

    patients: int
    positives: int
    auc: float
    standard_error: float
    """Of this AUC (Hanley & McNeil 1982)."""
    reference: float
    power: float
    """Probability that an AUC of `auc` is told from `reference`, a fixed value, by a two-sided test at 5 %."""

    @property
    def statement(self) -> str:
        """The same in a sentence."""
        counted = f"{self.positives} of {self.patients} patients with rLVO"
        if self.power != self.power:
            return f"{counted}: no AUC can be estimated"
        return (
            f"{counted}: an AUC of {self.auc:.2f} has a standard error of {self.standard_error:.3f}, and is told from "
            f"{self.reference:.2f} with a power of {self.power:.2f}"
        )


def auc_standard_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC under exponential scores (Hanley & McNeil 1982, eq. 1–2); NaN if a class is empty."""
    if not positives or not negatives:
        return nan
    two_positives, two_negatives = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = (positives - 1) * (two_positives - auc**2) + (negatives - 1) * (two_negatives - auc**2)
    return sqrt((auc * (1 - auc) + spread) / (positives * negatives))


def auc_power(patients: int, positives: int, *, auc: float = EXPECTED, reference: float = REFERENCE) -> AucPower:
    """What `patients`, of whom `positives` have an rLVO, can show."""
    error = auc_standard_error(auc, positives, patients - positives)
    shift, critical = abs(auc - reference) / error, norm.ppf(TAILS[1])
    power = float(norm.sf(critical - shift) + norm.cdf(-critical - shift))
    return AucPower(patients, positives, auc, error, reference, power)
