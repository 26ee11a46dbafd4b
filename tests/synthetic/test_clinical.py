"""The clinic against the paper's Table 1 (training column) and the copula's own algebra."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal, norm, spearmanr

from rlvo.synthetic.clinical import PREVALENCES, draw_clinic

N = 40_000


@pytest.fixture(scope="module")
def clinic() -> pd.DataFrame:
    return draw_clinic(N, np.random.default_rng(5))


@pytest.mark.parametrize(
    ("column", "table1", "tolerance"),
    [
        ("age", (72, 81, 88), 1),
        ("nihss", (9, 15, 20), 1),
        ("aspects", (8, 9, 10), 0),
        ("cbf_lt30_ml", (0, 0, 15), 1),
        ("tmax_gt6_ml", (61, 102, 155), 3),
        # Derived: the paper's margins follow only as far as its correlations are those of the copula.
        ("tmax_gt4_ml", (128, 191, 261), 22),
        ("tmax_gt10_ml", (17, 40, 82), 10),
    ],
)
def test_quartiles(clinic: pd.DataFrame, column: str, table1: tuple[float, ...], tolerance: float) -> None:
    np.testing.assert_allclose(np.percentile(clinic[column], [25, 50, 75]), table1, atol=tolerance)


def test_derived_predictors(clinic: pd.DataFrame) -> None:
    some = clinic[clinic["tmax_gt6_ml"] > 0]
    hir = some["tmax_gt10_ml"] / some["tmax_gt6_ml"]
    ratio = some["tmax_gt4_ml"] / some["tmax_gt6_ml"]
    np.testing.assert_allclose(np.percentile(hir, [25, 50, 75]), (0.25, 0.43, 0.57), atol=0.01)
    np.testing.assert_allclose(np.percentile(ratio, [25, 50, 75]), (1.49, 1.78, 2.29), atol=0.05)


@pytest.mark.parametrize(
    ("column", "percent"),
    [
        ("hypertension", 39.9), ("dyslipidemia", 43.9), ("diabetes", 26.4), ("atrial_fibrillation", 34.3),
        ("smoking", 23.3), ("unwitnessed_onset", 36.6), ("ivt", 37.2),
    ],
)  # fmt: skip
def test_prevalences(clinic: pd.DataFrame, column: str, percent: float) -> None:
    assert set(clinic[column]) == {0, 1}
    assert 100 * clinic[column].mean() == pytest.approx(percent, abs=1)


def test_categories(clinic: pd.DataFrame) -> None:
    assert (clinic["sex"] == "F").mean() == pytest.approx(0.543, abs=0.01)
    assert (clinic["occlusion_side"] == "left").mean() == pytest.approx(0.5, abs=0.01)
    shares = clinic["occlusion_site"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"M1": 0.5, "M2": 0.3, "TICA": 0.2}, abs=0.01)


def test_volumes_are_consistent_and_values_in_range(clinic: pd.DataFrame) -> None:
    assert not clinic.isna().any().any()
    assert (clinic["tmax_gt10_ml"] <= clinic["tmax_gt6_ml"]).all()
    assert (clinic["tmax_gt6_ml"] <= clinic["tmax_gt4_ml"]).all()
    assert (clinic["cbf_lt30_ml"] <= clinic["tmax_gt6_ml"]).all()
    assert clinic["tmax_gt4_ml"].max() <= 450
    assert clinic["age"].between(18, 104).all()
    assert clinic["nihss"].between(0, 42).all()
    assert clinic["aspects"].between(0, 10).all()
    assert (clinic["cbf_lt30_ml"] == 0).mean() == pytest.approx(0.55, abs=0.01)


def test_dependence_is_the_copulas(clinic: pd.DataFrame) -> None:
    def spearman(correlation: float) -> float:
        return 6 / np.pi * np.arcsin(correlation / 2)

    assert spearmanr(clinic["nihss"], clinic["tmax_gt6_ml"])[0] == pytest.approx(spearman(0.35), abs=0.02)
    assert spearmanr(clinic["age"], clinic["nihss"])[0] == pytest.approx(0, abs=0.02)
    thresholds = [norm.ppf(PREVALENCES[name]) for name in ("unwitnessed_onset", "ivt")]
    both = multivariate_normal([0, 0], [[1, -0.4], [-0.4, 1]]).cdf(thresholds)
    assert (clinic["unwitnessed_onset"] & clinic["ivt"]).mean() == pytest.approx(both, abs=0.01)
