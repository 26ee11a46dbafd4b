"""The ceilings against the published figures of the prototype, brute force and fitted models."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from rlvo.synthetic.ceilings import ceilings, soft_auc
from rlvo.synthetic.outcome import LOG_ODDS, calibrate, reference
from rlvo.synthetic.profiles import PROFILES


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


def test_no_fitted_additive_model_beats_the_additive_ceiling() -> None:
    profile, sample = PROFILES["interaction"], reference()
    logit = calibrate(profile).logit(sample.clinic, sample.z_cta, sample.z_ncct)
    labels = np.random.default_rng(3).random(len(logit)) < expit(logit)
    clinic = sample.clinic[list(LOG_ODDS)].to_numpy(float)
    design = np.column_stack([clinic, sample.z_cta, sample.z_ncct])
    design = (design - design.mean(axis=0)) / design.std(axis=0)
    half = len(labels) // 2

    def fitted(x: np.ndarray) -> float:
        model = LogisticRegression().fit(x[:half], labels[:half])
        return float(roc_auc_score(labels[half:], model.decision_function(x[half:])))

    assert fitted(design) == pytest.approx(ceilings(profile)["additive"], abs=0.006)
    product = design[:, [0]] * design[:, [4]]
    assert fitted(np.hstack([design, product])) == pytest.approx(ceilings(profile)["bayes"], abs=0.006)


@pytest.mark.parametrize("image", ["cta", "ncct"])
def test_a_model_of_the_table_and_one_image_reaches_their_ceiling(image: str) -> None:
    profile, sample = PROFILES["demo"], reference()
    model = calibrate(profile)
    logit = model.logit(sample.clinic, sample.z_cta, sample.z_ncct)
    labels = np.random.default_rng(4).random(len(logit)) < expit(logit)
    seen = np.column_stack([model.clinical_logit(sample.clinic), getattr(sample, f"z_{image}")])
    half = len(labels) // 2
    fitted = LogisticRegression().fit(seen[:half], labels[:half]).decision_function(seen[half:])
    expected = ceilings(profile)[f"{image}_clinical"]
    assert roc_auc_score(labels[half:], fitted) == pytest.approx(expected, abs=0.006)
