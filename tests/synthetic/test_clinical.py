"""A cohort as it is read from disk against the paper's Table 1 (training patients) and the copula's own algebra.

Tolerances allow for rounding, the cap on volumes and sampling. Those of Tmax>4 s and Tmax>10 s are wider: they follow
from Tmax>6 s and the two ratios, and the paper does not say how its perfusion variables depend on each other.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal, norm, spearmanr

from rlvo.cohort.reading import read_cohort
from rlvo.synthetic.clinical import PREVALENCES
from rlvo.synthetic.cohort import write_synthetic_cohort


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("paper")
    write_synthetic_cohort(out, patients=20_000, profile="paper", seed=0, volumes=False)
    table = read_cohort(out / "cohort.csv", need_volumes=False).table
    ratio = table["tmax_gt4_ml"] / table["tmax_gt6_ml"]
    return table.assign(hir=table["tmax_gt10_ml"] / table["tmax_gt6_ml"], tmax4_tmax6_ratio=ratio)


@pytest.mark.parametrize(
    ("variable", "table1", "tolerance"),
    [
        ("age", (72, 81, 88), 1),
        ("nihss", (9, 15, 20), 1),
        ("aspects", (8, 9, 10), 0),
        ("cbf_lt30_ml", (0, 0, 15), 1),
        ("tmax_gt6_ml", (61, 102, 155), 3),
        ("tmax_gt4_ml", (128, 191, 261), 22),
        ("tmax_gt10_ml", (17, 40, 82), 10),
        ("hir", (0.25, 0.43, 0.57), 0.01),
        ("tmax4_tmax6_ratio", (1.49, 1.78, 2.29), 0.05),
    ],
)
def test_quartiles(table: pd.DataFrame, variable: str, table1: tuple[float, ...], tolerance: float) -> None:
    np.testing.assert_allclose(np.nanpercentile(table[variable], [25, 50, 75]), table1, atol=tolerance)


@pytest.mark.parametrize(
    ("variable", "percent"),
    [
        ("hypertension", 39.9), ("dyslipidemia", 43.9), ("diabetes", 26.4), ("atrial_fibrillation", 34.3),
        ("smoking", 23.3), ("unwitnessed_onset", 36.6), ("ivt", 37.2),
    ],
)  # fmt: skip
def test_prevalences_within_a_point(table: pd.DataFrame, variable: str, percent: float) -> None:
    assert set(table[variable]) == {0, 1}
    assert 100 * table[variable].mean() == pytest.approx(percent, abs=1)


def test_categories(table: pd.DataFrame) -> None:
    assert (table["sex"] == "F").mean() == pytest.approx(0.543, abs=0.01)
    assert (table["occlusion_side"] == "left").mean() == pytest.approx(0.5, abs=0.01)
    shares = table["occlusion_site"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"M1": 0.5, "M2": 0.3, "TICA": 0.2}, abs=0.01)


def test_volumes_are_consistent_and_values_in_range(table: pd.DataFrame) -> None:
    assert not table.drop(columns=["hir", "tmax4_tmax6_ratio", "etiology"]).isna().any().any()  # undefined for some
    assert (table["tmax_gt10_ml"] <= table["tmax_gt6_ml"]).all()
    assert (table["tmax_gt6_ml"] <= table["tmax_gt4_ml"]).all()
    assert (table["cbf_lt30_ml"] <= table["tmax_gt6_ml"]).all()
    assert table["tmax_gt4_ml"].max() <= 450
    assert table["age"].between(18, 104).all()
    assert table["nihss"].between(0, 42).all()
    assert table["aspects"].between(0, 10).all()
    assert (table["cbf_lt30_ml"] == 0).mean() == pytest.approx(0.55, abs=0.01)


def test_dependence_is_the_copulas(table: pd.DataFrame) -> None:
    def spearman(correlation: float) -> float:
        return 6 / np.pi * np.arcsin(correlation / 2)

    assert spearmanr(table["nihss"], table["tmax_gt6_ml"])[0] == pytest.approx(spearman(0.35), abs=0.02)
    assert spearmanr(table["age"], table["nihss"])[0] == pytest.approx(0, abs=0.02)
    thresholds = [norm.ppf(PREVALENCES[name]) for name in ("unwitnessed_onset", "ivt")]
    both = multivariate_normal([0, 0], [[1, -0.4], [-0.4, 1]]).cdf(thresholds)
    assert (table["unwitnessed_onset"] * table["ivt"]).mean() == pytest.approx(both, abs=0.01)
