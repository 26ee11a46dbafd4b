"""Draws of clinical variables: a Gaussian copula with the marginals of the paper's Table 1 (training column)."""

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

PREVALENCES = {
    "sex": 0.543, "hypertension": 0.399, "dyslipidemia": 0.439, "diabetes": 0.264, "smoking": 0.233,
    "atrial_fibrillation": 0.343, "ivt": 0.372, "unwitnessed_onset": 0.366,
}  # fmt: skip
"""Share of ones; for `sex`, the share of women."""
VARIABLES = ("age", *PREVALENCES, "nihss", "tmax6", "hir", "ratio", "cbf")
"""Variables of the copula; `ratio` is Tmax>4 s / Tmax>6 s."""
CORRELATIONS = {
    ("age", "atrial_fibrillation"): 0.30, ("age", "hypertension"): 0.25, ("age", "smoking"): -0.30,
    ("age", "sex"): 0.20, ("nihss", "tmax6"): 0.35, ("nihss", "cbf"): 0.30, ("tmax6", "cbf"): 0.40,
    ("hir", "cbf"): 0.40, ("tmax6", "hir"): 0.25, ("ratio", "tmax6"): -0.45,
    ("hypertension", "dyslipidemia"): 0.30, ("hypertension", "diabetes"): 0.25, ("unwitnessed_onset", "ivt"): -0.40,
}  # fmt: skip
SITES = {"TICA": 0.2, "M1": 0.5, "M2": 0.3}
MAX_VOLUME_ML = 450.0
CBF_ZERO, CBF_THIRD_QUARTILE_ML, CBF_SIGMA = 0.55, 15.0, 0.9


def _copula_factor() -> np.ndarray:
    correlation = np.eye(len(VARIABLES))
    for (first, second), value in CORRELATIONS.items():
        i, j = VARIABLES.index(first), VARIABLES.index(second)
        correlation[i, j] = correlation[j, i] = value
    return np.linalg.cholesky(correlation)


def two_piece_normal(z: np.ndarray, median: float, first_quartile: float, third_quartile: float) -> np.ndarray:
    """Map standard normal z to values with this median and these quartiles."""
    spread = np.where(z < 0, median - first_quartile, third_quartile - median)
    return np.asarray(median + z * spread / ndtri(0.75))


def _log_two_piece(z: np.ndarray, median: float, first_quartile: float, third_quartile: float) -> np.ndarray:
    return np.asarray(np.exp(two_piece_normal(z, *np.log([median, first_quartile, third_quartile]))))


def _cbf(z: np.ndarray) -> np.ndarray:
    """CBF<30 % [mL]: zero with probability `CBF_ZERO`, else log-normal; the third quartile of all is as in Table 1."""
    rank = (ndtr(z) - CBF_ZERO) / (1 - CBF_ZERO)
    mu = np.log(CBF_THIRD_QUARTILE_ML) - CBF_SIGMA * ndtri((0.75 - CBF_ZERO) / (1 - CBF_ZERO))
    positive = rank > 0
    return np.where(positive, np.exp(mu + CBF_SIGMA * ndtri(np.where(positive, rank, 0.5))), 0.0)


def draw_clinic(patients: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw `patients` rows with the predictor columns of the cohort table and `aspects`, without missing values.

    Volumes are rounded to 0.1 mL, which preserves Tmax>10 s <= Tmax>6 s <= Tmax>4 s and CBF<30 % <= Tmax>6 s.
    """
    z = dict(zip(VARIABLES, _copula_factor() @ rng.standard_normal((len(VARIABLES), patients)), strict=True))
    binary = {name: (z[name] > ndtri(1 - share)).astype(int) for name, share in PREVALENCES.items()}
    tmax6 = np.minimum(_log_two_piece(z["tmax6"], 102, 61, 155), MAX_VOLUME_ML)
    ratio = 1 + _log_two_piece(z["ratio"], 0.78, 0.49, 1.29)
    hir = np.clip(two_piece_normal(z["hir"], 0.43, 0.25, 0.57), 0, 1)
    return pd.DataFrame({
        "age": _whole(two_piece_normal(z["age"], 81, 72, 88), 18, 104),
        **binary,
        "sex": np.where(binary["sex"] == 1, "F", "M"),
        "nihss": _whole(two_piece_normal(z["nihss"], 15, 9, 20), 0, 42),
        "occlusion_side": rng.choice(["left", "right"], patients),
        "occlusion_site": rng.choice(list(SITES), patients, p=list(SITES.values())),
        "cbf_lt30_ml": np.minimum(_cbf(z["cbf"]), tmax6).round(1),
        "tmax_gt4_ml": np.minimum(tmax6 * ratio, MAX_VOLUME_ML).round(1),
        "tmax_gt6_ml": tmax6.round(1),
        "tmax_gt10_ml": (tmax6 * hir).round(1),
        "aspects": _whole(two_piece_normal(rng.standard_normal(patients), 9, 8, 10), 0, 10),
    })  # fmt: skip


def _whole(values: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.asarray(np.clip(np.rint(values), low, high), dtype=int)
