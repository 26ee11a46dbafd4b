"""Profiles of synthetic cohorts, the label model of a profile, and outcomes that agree with the drawn label."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit

from rlvo.errors import RlvoError
from rlvo.synthetic.clinical import PREVALENCES, draw_clinic

LOG_ODDS = {
    "atrial_fibrillation": np.log(0.36),
    "nihss": np.log(1.04),
    "tmax_gt4_ml": np.log(1.006),
    "dyslipidemia": np.log(0.55),
}
"""Per unit, of the significant predictors in the paper's clinical regression (section 3.1)."""
ICAD_SHARE = 0.505
"""Share of probable ICAD among rLVO (section 3)."""
RESCUE_SHARE, RESCUE_SUCCESS = 0.182, 0.129
"""Rescue treatment among rLVO, and eTICI 2b–3 after it (section 3)."""
REFERENCE_PATIENTS = 200_000


@dataclass(frozen=True)
class Profile:
    """How strongly the clinical variables, the CTA and the NCCT drive the label, and what the images show.

    Attributes:
        clinical_scale: factor on the clinical log odds ratios of the paper (section 3.1).
        cta_weight, ncct_weight: log odds per standard deviation of the CTA and the NCCT latent.
        interaction: log odds of atrial fibrillation × CTA latent.
        prevalence: share of patients with rLVO.
        full_images: collateral filling, blush and plaque vary with the latents; else only taper and clot density do.
        note: what the profile is for, as stated in `truth.json`.
    """

    name: str
    clinical_scale: float
    cta_weight: float
    ncct_weight: float
    interaction: float
    prevalence: float
    full_images: bool
    note: str


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("demo", 3.0, 4.5, 3.0, 0.0, 0.30, True,
                "Engineered to be learnable in minutes: its signal is far stronger than in real patients."),
        Profile("paper", 1.0, 0.9, 0.5, 0.0, 0.155, False,
                "Effect sizes and prevalence of the order of the paper's."),
        Profile("interaction", 1.0, 0.9, 0.5, -1.2, 0.155, False,
                "As paper, but the CTA counts differently in atrial fibrillation: only a fusion that multiplies "
                "reaches the Bayes ceiling."),
        Profile("null", 0.0, 0.0, 0.0, 0.0, 0.30, True,
                "No predictor and no image carries any information on the label; images as demo."),
    )
}  # fmt: skip


def get_profile(name: str) -> Profile:
    """The profile of this name. Raises RlvoError if there is none."""
    if name not in PROFILES:
        raise RlvoError(f"there is no profile '{name}'", where="--profile", fix=f"Profiles: {', '.join(PROFILES)}")
    return PROFILES[name]


@cache
def reference() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The sample over which intercepts and ceilings are computed: clinical variables, CTA latent, NCCT latent."""
    rng = np.random.default_rng(20_250_101)
    clinic = draw_clinic(REFERENCE_PATIENTS, rng)
    z_cta, z_ncct = rng.standard_normal((2, REFERENCE_PATIENTS))
    return clinic, z_cta, z_ncct


@dataclass(frozen=True)
class LabelModel:
    """rLVO ~ Bernoulli(expit(logit)), fitted to the profile's prevalence by `calibrate`."""

    profile: Profile
    intercept: float
    means: dict[str, float]
    icad_intercept: float

    def clinical_logit(self, clinic: pd.DataFrame) -> np.ndarray:
        """Intercept and clinical terms [N]: the logit without its image terms."""
        terms = [slope * (clinic[name].to_numpy() - self.means[name]) for name, slope in LOG_ODDS.items()]
        return np.asarray(self.intercept + self.profile.clinical_scale * np.sum(terms, axis=0))

    def cta_weight(self, atrial_fibrillation: np.ndarray | float) -> np.ndarray | float:
        """Log odds per standard deviation of the CTA latent, given atrial fibrillation (0/1)."""
        centred = atrial_fibrillation - PREVALENCES["atrial_fibrillation"]
        return self.profile.cta_weight + self.profile.interaction * centred

    def logit(self, clinic: pd.DataFrame, z_cta: np.ndarray, z_ncct: np.ndarray) -> np.ndarray:
        """The true logit [N]."""
        weight = self.cta_weight(clinic["atrial_fibrillation"].to_numpy())
        return np.asarray(self.clinical_logit(clinic) + weight * z_cta + self.profile.ncct_weight * z_ncct)


@cache
def calibrate(profile: Profile) -> LabelModel:
    """Find the intercepts that give the reference sample the profile's prevalence and the share of ICAD."""
    clinic, z_cta, z_ncct = reference()
    means = {name: float(clinic[name].mean()) for name in LOG_ODDS}
    terms = LabelModel(profile, 0.0, means, 0.0).logit(clinic, z_cta, z_ncct)
    intercept = brentq(lambda b: expit(b + terms).mean() - profile.prevalence, -30, 30)
    probability = expit(intercept + terms)
    icad = brentq(lambda a: np.average(expit(a + z_cta), weights=probability) - ICAD_SHARE, -30, 30)
    return LabelModel(profile, intercept, means, icad)


def draw_outcomes(model: LabelModel, logit: np.ndarray, z_cta: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Draw the label, and the columns that imply it: `final_stenosis_pct`, `etici`, `rescue_treatment`, `etiology`.

    ICAD leaves a stenosis above 50 %; other causes end at eTICI 0–2a unless a rescue treatment succeeded. Without rLVO,
    `etiology` is empty.
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
