"""The label model of a profile, and outcomes that agree with the drawn label."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit

from rlvo.synthetic.clinical import PREVALENCES, draw_clinic
from rlvo.synthetic.profiles import Profile

Array = np.ndarray

LOG_ODDS = {
    "atrial_fibrillation": np.log(0.36),
    "nihss": np.log(1.04),
    "tmax_gt4_ml": np.log(1.006),
    "dyslipidemia": np.log(0.55),
}
"""Per unit: the significant predictors of the paper's clinical regression (section 3.1)."""
ICAD_SHARE = 0.505
"""Share of probable ICAD among rLVO (section 3)."""
RESCUE_SHARE, RESCUE_SUCCESS = 0.182, 0.129
"""Rescue treatment among rLVO, and eTICI 2b-3 after it (section 3)."""


@dataclass(frozen=True)
class Reference:
    """A large fixed sample of the population, the same for every profile and seed."""

    clinic: pd.DataFrame
    z_cta: Array
    z_ncct: Array


@lru_cache(maxsize=1)
def reference(patients: int = 200_000) -> Reference:
    """The sample over which intercepts and ceilings are computed."""
    rng = np.random.default_rng(20_250_101)
    clinic = draw_clinic(patients, rng)
    z_cta, z_ncct = rng.standard_normal((2, patients))
    return Reference(clinic, z_cta, z_ncct)


@dataclass(frozen=True)
class LabelModel:
    """rLVO ~ Bernoulli(expit(logit)), fitted to the profile's prevalence by `calibrate`."""

    profile: Profile
    intercept: float
    means: dict[str, float]
    icad_intercept: float

    def clinical_logit(self, clinic: pd.DataFrame) -> Array:
        """Intercept and clinical terms [N]: the logit less its image terms."""
        terms = [slope * (clinic[name].to_numpy() - self.means[name]) for name, slope in LOG_ODDS.items()]
        return self.intercept + self.profile.clinical_scale * np.sum(terms, axis=0)

    def cta_weight(self, atrial_fibrillation: Array | float) -> Array | float:
        """Log odds per standard deviation of the CTA latent, given atrial fibrillation (0/1)."""
        centred = atrial_fibrillation - PREVALENCES["atrial_fibrillation"]
        return self.profile.cta_weight + self.profile.interaction * centred

    def logit(self, clinic: pd.DataFrame, z_cta: Array, z_ncct: Array) -> Array:
        """The true logit [N]."""
        weight = self.cta_weight(clinic["atrial_fibrillation"].to_numpy())
        return self.clinical_logit(clinic) + weight * z_cta + self.profile.ncct_weight * z_ncct


@lru_cache
def calibrate(profile: Profile) -> LabelModel:
    """Find the intercepts at which the reference sample has the profile's prevalence and the share of ICAD."""
    sample = reference()
    means = {name: float(sample.clinic[name].mean()) for name in LOG_ODDS}
    terms = LabelModel(profile, 0.0, means, 0.0).logit(sample.clinic, sample.z_cta, sample.z_ncct)
    intercept = brentq(lambda b: expit(b + terms).mean() - profile.prevalence, -30, 30)
    probability = expit(intercept + terms)
    icad = brentq(lambda a: np.average(expit(a + sample.z_cta), weights=probability) - ICAD_SHARE, -30, 30)
    return LabelModel(profile, intercept, means, icad)


def draw_outcomes(model: LabelModel, logit: Array, z_cta: Array, rng: np.random.Generator) -> pd.DataFrame:
    """Draw the label and columns that imply it: `final_stenosis_pct`, `etici`, `rescue_treatment`, `etiology`.

    ICAD leaves a stenosis above 50 %; other causes end at eTICI 0-2a, unless a rescue treatment succeeded.
    `etiology` is empty without rLVO.
    """
    patients = len(logit)
    positive = rng.random(patients) < expit(logit)
    icad = positive & (rng.random(patients) < expit(model.icad_intercept + z_cta))
    rescue = positive & (rng.random(patients) < RESCUE_SHARE)
    saved = rescue & (rng.random(patients) < RESCUE_SUCCESS)
    failed = positive & ~saved & (~icad | (rng.random(patients) < 0.3))
    mild = np.where(rng.random(patients) < 0.85, 0, rng.integers(1, 51, patients))
    return pd.DataFrame({
        "final_stenosis_pct": np.where(icad, rng.integers(51, 100, patients), mild),
        "etici": np.where(failed, rng.choice(["0", "1", "2a"], patients, p=[0.4, 0.15, 0.45]),
                          rng.choice(["2b", "2c", "3"], patients, p=[0.35, 0.25, 0.40])),
        "rescue_treatment": rescue.astype(int),
        "etiology": np.where(icad, "icad", np.where(positive, "other", "")),
    })  # fmt: skip
