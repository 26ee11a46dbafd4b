"""The ceilings against the published figures of the prototype, brute force and fitted models."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from rlvo.synthetic.ceilings import ceilings, soft_auc
from rlvo.synthetic.outcome import LOG_ODDS, PROFILES, Profile, calibrate, reference


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("demo", {"clinical": 0.728, "ncct": 0.718, "cta": 0.831, "both": 0.905, "additive": 0.978, "bayes": 0.978}),
        ("paper", {"clinical": 0.731, "ncct": 0.610, "cta": 0.697, "both": 0.726, "additive": 0.820, "bayes": 0.820}),
        ("interaction", {"additive": 0.829, "bayes": 0.844}),
        ("null", dict.fromkeys(("clinical", "ncct", "cta", "both", "additive", "bayes"), 0.5)),
    ],
)
def test_figures(name: str, expected: dict[str, float]) -> None:
    found = ceilings(PROFILES[name])
    assert {block: found[block] for block in expected} == pytest.approx(expected, abs=0.005)


def test_soft_auc_is_the_expected_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    probability, score = rng.random(40), rng.integers(0, 8, 40)  # with ties
    weight = np.outer(probability, 1 - probability)
    ordered = (score[:, None] > score[None]) + 0.5 * (score[:, None] == score[None])
    assert soft_auc(probability, score) == pytest.approx((weight * ordered).sum() / weight.sum())


def draw_labels(profile: Profile, seed: int) -> np.ndarray:
    logit = calibrate(profile).logit(*reference())
    return np.random.default_rng(seed).random(len(logit)) < expit(logit)


def fitted_auc(x: np.ndarray, labels: np.ndarray) -> float:
    """Of a logistic regression, fitted on one half of the patients and evaluated on the other."""
    half = len(labels) // 2
    model = LogisticRegression().fit(x[:half], labels[:half])
    return float(roc_auc_score(labels[half:], model.decision_function(x[half:])))


def test_no_fitted_additive_model_beats_the_additive_ceiling() -> None:
    profile, (clinic, *latents) = PROFILES["interaction"], reference()
    labels = draw_labels(profile, seed=3)
    design = np.column_stack([clinic[list(LOG_ODDS)].to_numpy(float), *latents])
    design = (design - design.mean(axis=0)) / design.std(axis=0)
    assert fitted_auc(design, labels) == pytest.approx(ceilings(profile)["additive"], abs=0.006)
    product = design[:, [0]] * design[:, [4]]
    assert fitted_auc(np.hstack([design, product]), labels) == pytest.approx(ceilings(profile)["bayes"], abs=0.006)


@pytest.mark.parametrize("image", ["cta", "ncct"])
def test_a_model_of_the_table_and_one_image_reaches_their_ceiling(image: str) -> None:
    profile, (clinic, z_cta, z_ncct) = PROFILES["demo"], reference()
    latent = {"cta": z_cta, "ncct": z_ncct}[image]
    seen = np.column_stack([calibrate(profile).clinical_logit(clinic), latent])
    expected = ceilings(profile)[f"{image}_clinical"]
    assert fitted_auc(seen, draw_labels(profile, seed=4)) == pytest.approx(expected, abs=0.006)
