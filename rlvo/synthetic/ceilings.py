"""The best AUC that any model can reach from each block of a profile's predictors.

The best score from a block is E[expit(logit) | what the block observes]: Gauss-Hermite over image latents, a
reference sample over the clinic. Its AUC takes every reference patient as positive with weight expit(logit)
and negative with the rest, so no label noise enters.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from rlvo.synthetic.clinical import PREVALENCES
from rlvo.synthetic.outcome import LabelModel, calibrate, reference
from rlvo.synthetic.profiles import Profile

Array = np.ndarray

BLOCKS = ("clinical", "ncct", "cta", "both", "ncct_clinical", "cta_clinical", "additive", "bayes")
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_LATENTS = np.linspace(-6, 6, 241)
_CLINICS = 20_000


def soft_auc(probability: Array, score: Array) -> float:
    """AUC of `score` [N] where patient i is positive with `probability` [N]."""
    truth = np.repeat([1, 0], len(score))
    weight = np.concatenate([probability, 1 - probability])
    return float(roc_auc_score(truth, np.tile(score, 2), sample_weight=weight))


@lru_cache
def ceilings(profile: Profile) -> dict[str, float]:
    """Ceiling AUC of each of `BLOCKS`.

    `additive` is the logit without its product term: what a fusion that only adds can reach. It equals `bayes`
    where the profile has no interaction.
    """
    model, sample = calibrate(profile), reference()
    clinical = model.clinical_logit(sample.clinic)
    fibrillation = sample.clinic["atrial_fibrillation"].to_numpy()
    logit = model.logit(sample.clinic, sample.z_cta, sample.z_ncct)
    cta_weight = model.cta_weight(fibrillation)
    image_sd = np.hypot(cta_weight, profile.ncct_weight)
    images = _ImageScore(model, clinical[:_CLINICS], fibrillation[:_CLINICS])
    scores = {
        "clinical": _over_normal(clinical, image_sd),
        "ncct": np.interp(sample.z_ncct, _LATENTS, _WEIGHTS @ images(_NODES[:, None], _LATENTS)),
        "cta": np.interp(sample.z_cta, _LATENTS, _WEIGHTS @ images(_LATENTS, _NODES[:, None])),
        "both": images(sample.z_cta, sample.z_ncct),
        "ncct_clinical": _over_normal(clinical + profile.ncct_weight * sample.z_ncct, cta_weight),
        "cta_clinical": _over_normal(clinical + cta_weight * sample.z_cta, profile.ncct_weight),
        "additive": clinical + profile.cta_weight * sample.z_cta + profile.ncct_weight * sample.z_ncct,
        "bayes": logit,
    }
    return {block: soft_auc(expit(logit), scores[block]) for block in BLOCKS}


def _over_normal(logit: Array, sd: Array | float) -> Array:
    """E[expit(logit + sd·z)] over a standard normal z that the block does not observe."""
    return np.sum([weight * expit(logit + sd * node) for node, weight in zip(_NODES, _WEIGHTS, strict=True)], axis=0)


class _ImageScore:
    """E[expit(logit) | both latents]: the mean over the clinic, tabulated in the image term of the logit."""

    def __init__(self, model: LabelModel, clinical: Array, fibrillation: Array) -> None:
        self.model = model
        self.terms = np.linspace(-60, 60, 601)
        self.means = {
            value: np.array([expit(clinical[fibrillation == value] + term).mean() for term in self.terms])
            for value in (0, 1)
        }

    def __call__(self, z_cta: Array, z_ncct: Array) -> Array:
        share = PREVALENCES["atrial_fibrillation"]
        ncct = self.model.profile.ncct_weight * z_ncct
        without, with_fibrillation = (
            np.interp(self.model.cta_weight(value) * z_cta + ncct, self.terms, self.means[value]) for value in (0, 1)
        )
        return (1 - share) * without + share * with_fibrillation
