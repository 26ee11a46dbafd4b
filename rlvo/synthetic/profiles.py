"""The named synthetic cohorts: how strongly the clinic, the CTA and the NCCT drive the label."""

from __future__ import annotations

from dataclasses import dataclass

from rlvo.errors import RlvoError


@dataclass(frozen=True)
class Profile:
    """Weights of the label's logit, its prevalence, and what the images show.

    Attributes:
        clinical_scale: factor on the clinical log odds ratios of the paper (section 3.1).
        cta_weight, ncct_weight: log odds per standard deviation of the CTA and the NCCT latent.
        interaction: log odds of atrial fibrillation × CTA latent.
        prevalence: share of patients with rLVO.
        full_images: collateral filling, blush and plaque vary with the latents; else only taper and clot density do.
        note: what the profile is for, told in `truth.json`.
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
    """The profile of that name. Raises RlvoError for an unknown one."""
    if name not in PROFILES:
        raise RlvoError(f"no synthetic profile is named '{name}'", where="--profile", fix=f"Use {', '.join(PROFILES)}.")
    return PROFILES[name]
