"""The best AUC that any model can reach with each block of a profile's predictors.

The best score of a block is E[expit(logit) | what the block observes], integrated over image latents by Gauss-Hermite
quadrature and over clinical variables with a reference sample. Its AUC counts every reference patient as positive with
weight expit(logit) and as negative with the remaining weight, so that no label noise enters.

The images are latents there. What voxels show of them depends on the grid: `grid_ceilings` says what a known reader of
the volumes reaches, which is a lower bound of the ceiling of that grid.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from rlvo.config.grid import PRESETS, Grid
from rlvo.files import read_csv
from rlvo.synthetic.clinical import PREVALENCES
from rlvo.synthetic.outcome import LabelModel, Profile, calibrate, reference
from rlvo.synthetic.reader import Reading

BLOCKS = ("clinical", "ncct", "cta", "both", "ncct_clinical", "cta_clinical", "additive", "bayes")
GRID_BLOCKS = ("ncct", "cta", "both", "ncct_clinical", "cta_clinical", "bayes")
"""Those that look at volumes; `bayes`: both and the table."""
GRID_CEILINGS = Path(__file__).with_name("grid_ceilings.csv")
"""`grid`, `profile`, `block`, `auc`, `se`: what `python -m benchmarks.grid_ceilings` measured."""
_GROUPS = 20
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_LATENTS = np.linspace(-6, 6, 241)
_CLINICS = 20_000


def soft_auc(probability: np.ndarray, score: np.ndarray) -> float:
    """AUC of `score` [N] for patients who are positive with `probability` [N]."""
    truth = np.repeat([1, 0], len(score))
    weight = np.concatenate([probability, 1 - probability])
    return float(roc_auc_score(truth, np.tile(score, 2), sample_weight=weight))


@cache
def ceilings(profile: Profile) -> dict[str, float]:
    """Ceiling AUC of each of `BLOCKS`.

    `additive` is the logit without its product term: what a fusion that only adds can reach. It equals `bayes` if the
    profile has no interaction.
    """
    model, (clinic, z_cta, z_ncct) = calibrate(profile), reference()
    clinical = model.clinical_logit(clinic)
    fibrillation = clinic["atrial_fibrillation"].to_numpy()
    logit = model.logit(clinic, z_cta, z_ncct)
    cta_weight = model.cta_weight(fibrillation)
    image_sd = np.hypot(cta_weight, profile.ncct_weight)
    images = _image_score(model, clinical[:_CLINICS], fibrillation[:_CLINICS])
    scores = {
        "clinical": _over_normal(clinical, image_sd),
        "ncct": np.interp(z_ncct, _LATENTS, _WEIGHTS @ images(_NODES[:, None], _LATENTS)),
        "cta": np.interp(z_cta, _LATENTS, _WEIGHTS @ images(_LATENTS, _NODES[:, None])),
        "both": images(z_cta, z_ncct),
        "ncct_clinical": _over_normal(clinical + profile.ncct_weight * z_ncct, cta_weight),
        "cta_clinical": _over_normal(clinical + cta_weight * z_cta, profile.ncct_weight),
        "additive": clinical + profile.cta_weight * z_cta + profile.ncct_weight * z_ncct,
        "bayes": logit,
    }
    return {block: soft_auc(expit(logit), scores[block]) for block in BLOCKS}


def grid_ceilings(profile: Profile, reading: Reading) -> dict[str, tuple[float, float]]:
    """AUC of each of `GRID_BLOCKS` for a reader of volumes, with its standard error over the test patients.

    The best score of a block is that of `ceilings`, with what is read in place of the latent, and the reader's error
    beside what the block does not observe; both are taken as normal. Clinical variables are independent of the images,
    so each test patient's images are seen with many tables of the reference sample.
    """
    model, (clinic, *_) = calibrate(profile), reference()
    patient = np.arange(len(clinic)) % len(reading.z_cta)
    clinical = model.clinical_logit(clinic)
    cta_weight = model.cta_weight(clinic["atrial_fibrillation"].to_numpy())
    errors = (np.std(reading.z_cta - reading.read_cta), np.std(reading.z_ncct - reading.read_ncct))
    cta, ncct = reading.read_cta[patient], reading.read_ncct[patient]
    unseen_cta, unseen_ncct = cta_weight * errors[0], profile.ncct_weight * errors[1]
    images = profile.cta_weight * cta, profile.ncct_weight * ncct
    scores = {
        "ncct": images[1],
        "cta": images[0],
        "both": images[0] + images[1],
        "ncct_clinical": _over_normal(clinical + images[1], np.hypot(cta_weight, unseen_ncct)),
        "cta_clinical": _over_normal(clinical + cta_weight * cta, np.hypot(unseen_cta, profile.ncct_weight)),
        "bayes": _over_normal(clinical + cta_weight * cta + images[1], np.hypot(unseen_cta, unseen_ncct)),
    }
    truth = expit(model.logit(clinic, reading.z_cta[patient], reading.z_ncct[patient]))
    groups = patient % _GROUPS
    found = {}
    for block in GRID_BLOCKS:
        parts = [soft_auc(truth[groups == group], scores[block][groups == group]) for group in range(_GROUPS)]
        found[block] = (soft_auc(truth, scores[block]), float(np.std(parts, ddof=1) / np.sqrt(_GROUPS)))
    return found


def known_grid_ceilings(profile: Profile, grid: Grid) -> dict[str, float]:
    """The measured AUC of the known reader by block; empty if the grid was not measured."""
    table = read_csv(GRID_CEILINGS, dict.fromkeys(("grid", "profile", "block"), "str"))  # `null` is a profile
    names = [name for name, preset in PRESETS.items() if preset == grid]
    own = table[table["grid"].isin(names) & (table["profile"] == profile.name)]
    return {str(block): float(auc) for block, auc in zip(own["block"], own["auc"], strict=True)}


def _over_normal(logit: np.ndarray, sd: np.ndarray | float) -> np.ndarray:
    """E[expit(logit + sd·z)] over a standard normal z, which the block does not observe."""
    terms = [weight * expit(logit + sd * node) for node, weight in zip(_NODES, _WEIGHTS, strict=True)]
    return np.asarray(np.sum(terms, axis=0))


def _image_score(
    model: LabelModel, clinical: np.ndarray, fibrillation: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """E[expit(logit) | both latents]: the mean over clinical variables, tabulated by the image term of the logit."""
    terms, share = np.linspace(-60, 60, 601), PREVALENCES["atrial_fibrillation"]
    means = [[expit(clinical[fibrillation == value] + term).mean() for term in terms] for value in (0, 1)]

    def score(z_cta: np.ndarray, z_ncct: np.ndarray) -> np.ndarray:
        ncct = model.profile.ncct_weight * z_ncct
        without, with_fibrillation = (
            np.interp(model.cta_weight(value) * z_cta + ncct, terms, means[value]) for value in (0, 1)
        )
        return np.asarray((1 - share) * without + share * with_fibrillation)

    return score
