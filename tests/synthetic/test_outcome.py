"""The label model and the outcomes drawn from it."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from rlvo.synthetic.cohort import SyntheticPatients, draw_patients
from rlvo.synthetic.outcome import PROFILES, calibrate, reference

N = 30_000


def label(table: pd.DataFrame) -> np.ndarray:
    """The paper's definition (section 2.3), written out again."""
    stenosis, reperfusion = table["final_stenosis_pct"] > 50, table["etici"].isin(["0", "1", "2a"])
    return (stenosis | reperfusion | (table["rescue_treatment"] == 1)).to_numpy()


def latents(drawn: SyntheticPatients) -> np.ndarray:
    """z_cta and z_ncct, [2, N]."""
    return np.array([(lesion.z_cta, lesion.z_ncct) for lesion in drawn.lesions]).T


@pytest.fixture(scope="module")
def demo() -> SyntheticPatients:
    return draw_patients(N, PROFILES["demo"], seed=11)


def test_logit_is_the_formula(demo: SyntheticPatients) -> None:
    z_cta, z_ncct = latents(demo)
    image = (demo.logits["logit"] - demo.logits["clinical_logit"]).to_numpy()
    np.testing.assert_allclose(image, 4.5 * z_cta + 3 * z_ncct, atol=1e-9)
    design = demo.table[["atrial_fibrillation", "nihss", "tmax_gt4_ml", "dyslipidemia"]].to_numpy(float)
    expected = (design - design[0]) @ (3 * np.log([0.36, 1.04, 1.006, 0.55]))
    clinical = demo.logits["clinical_logit"].to_numpy()
    np.testing.assert_allclose(clinical - clinical[0], expected, atol=1e-9)


def test_interaction_multiplies_only_the_cta() -> None:
    drawn = draw_patients(200, PROFILES["interaction"], seed=1)
    z_cta, z_ncct = latents(drawn)
    weight = 0.9 - 1.2 * (drawn.table["atrial_fibrillation"].to_numpy() - 0.343)
    image = (drawn.logits["logit"] - drawn.logits["clinical_logit"]).to_numpy()
    np.testing.assert_allclose(image, weight * z_cta + 0.5 * z_ncct, atol=1e-9)


@pytest.mark.parametrize("name", PROFILES)
def test_label_follows_prevalence_and_logit(name: str) -> None:
    profile = PROFILES[name]
    drawn = draw_patients(N, profile, seed=2)
    positive = label(drawn.table)
    assert positive.mean() == pytest.approx(profile.prevalence, abs=0.01)
    if name != "null":
        expected = {"demo": 0.978, "paper": 0.820, "interaction": 0.844}[name]
        assert roc_auc_score(positive, drawn.logits["logit"]) == pytest.approx(expected, abs=0.012)


def test_outcomes_agree_with_the_label(demo: SyntheticPatients) -> None:
    table, positive = demo.table, label(demo.table)
    assert set(table.loc[~positive, "etiology"]) == {""}
    assert set(table.loc[positive, "etiology"]) == {"icad", "other"}
    icad = table["etiology"] == "icad"
    assert icad[positive].mean() == pytest.approx(0.505, abs=0.02)
    assert (table.loc[icad, "final_stenosis_pct"] > 50).all()
    assert table["final_stenosis_pct"].between(0, 100).all()
    assert set(table.loc[~positive, "etici"]) == {"2b", "2c", "3"}
    assert table.loc[positive, "rescue_treatment"].mean() == pytest.approx(0.182, abs=0.02)
    assert "rlvo" not in table


def test_rlvo_patients_differ_as_in_the_paper_where_it_found_predictors() -> None:
    table = draw_patients(20_000, PROFILES["paper"], seed=0).table
    rlvo = table[label(table)]
    # 77 patients in Table 1: one standard error of its shares is 4 to 5 points.
    assert 100 * rlvo["atrial_fibrillation"].mean() == pytest.approx(16.9, abs=4)
    assert 100 * rlvo["dyslipidemia"].mean() == pytest.approx(35.1, abs=2)
    # Section 3; 2 points are two standard errors of a half among some 3,000 synthetic patients with rLVO.
    assert 100 * (rlvo["etiology"] == "icad").mean() == pytest.approx(50.5, abs=2)
    assert 100 * rlvo["rescue_treatment"].mean() == pytest.approx(18.2, abs=2)


def test_icad_has_the_tapered_occlusions(demo: SyntheticPatients) -> None:
    z_cta, _ = latents(demo)
    positive, icad = label(demo.table), demo.table["etiology"] == "icad"
    assert z_cta[icad].mean() > z_cta[positive & ~icad].mean() + 0.3


def test_reference_is_one_population() -> None:
    assert reference() is reference()
    assert calibrate(PROFILES["paper"]).means == calibrate(PROFILES["demo"]).means
