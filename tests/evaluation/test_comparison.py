"""McNemar's and DeLong's tests against statsmodels, their definitions, published numbers, and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from rlvo.evaluation.comparison import delong, mcnemar

METHODS = {
    "exact": {"exact": True},
    "chi2": {"exact": False, "correction": False},
    "chi2_corrected": {"exact": False, "correction": True},
}


def decisions(only_a: int, only_b: int, both: int = 3, neither: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and decisions of a and b with so many patients that only a, only b, both or neither decides rightly."""
    right_a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
    right_b = np.repeat([False, True, True, False], [only_a, only_b, both, neither])
    y = np.arange(len(right_a)) % 2
    return y, np.where(right_a, y, 1 - y), np.where(right_b, y, 1 - y)


@pytest.mark.parametrize("method", METHODS)
@given(only_a=st.integers(0, 40), only_b=st.integers(0, 40))
def test_mcnemar_is_statsmodels(method: str, only_a: int, only_b: int) -> None:
    result = mcnemar(*decisions(only_a, only_b), method)  # type: ignore[arg-type]
    assert (result.only_a, result.only_b) == (only_a, only_b)
    if only_a + only_b == 0:
        assert (result.statistic, result.p_value) == (0, 1)
        return
    expected = statsmodels_mcnemar([[3, only_a], [only_b, 2]], **METHODS[method])
    assert result.statistic == pytest.approx(expected.statistic)
    assert result.p_value == pytest.approx(expected.pvalue)


@given(only_a=st.integers(0, 40), only_b=st.integers(0, 40))
def test_mid_p_halves_the_outcomes_as_likely_as_the_observed(only_a: int, only_b: int) -> None:
    n = only_a + only_b
    likelihood = binom.pmf(np.arange(n + 1), n, 0.5)
    distance = np.abs(2 * np.arange(n + 1) - n)
    observed = abs(only_a - only_b)
    expected = likelihood[distance > observed].sum() + likelihood[distance == observed].sum() / 2 if n else 1
    assert mcnemar(*decisions(only_a, only_b), "mid_p").p_value == pytest.approx(expected)


def test_published_numbers() -> None:
    # The paper's uncorrected chi-square of 26 against 8; Fagerland et al. 2013, Table 1: 1 against 7.
    paper = mcnemar(*decisions(26, 8), "chi2")
    assert paper.statistic == pytest.approx(9.53, abs=0.005)
    assert mcnemar(*decisions(1, 7)).p_value == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar(*decisions(1, 7), "mid_p").p_value == pytest.approx(0.0391, abs=5e-5)


def test_mcnemar_refuses_scores_and_unknown_methods() -> None:
    with pytest.raises(ValueError, match="decisions must be 0 or 1"):
        mcnemar([0, 1], [0.2, 0.7], [0, 1])
    with pytest.raises(ValueError, match="'midp'"):
        mcnemar([0, 1], [0, 1], [0, 1], "midp")  # type: ignore[arg-type]


def kernel(y: np.ndarray, score: np.ndarray) -> np.ndarray:
    """1 for a positive above a negative, ½ for a tie: [positives, negatives]."""
    positives, negatives = score[y][:, None], score[~y][None]
    return np.asarray((positives > negatives) + 0.5 * (positives == negatives))


def brute_force(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """DeLong's statistic from the definition: every positive against every negative."""
    kernels = [kernel(y, a), kernel(y, b)]
    s10 = np.cov([k.mean(axis=1) for k in kernels])
    s01 = np.cov([k.mean(axis=0) for k in kernels])
    contrast = np.array([1, -1])
    variance = contrast @ (s10 / y.sum() + s01 / (~y).sum()) @ contrast
    return float((kernels[0].mean() - kernels[1].mean()) / np.sqrt(variance))


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_delong_is_the_definition_also_with_ties(decimals: int) -> None:
    random = np.random.default_rng(decimals)
    for _ in range(20):
        y = random.random(60) < 0.3
        y[:2], y[2:4] = True, False
        a = (random.normal(size=60) + y).round(decimals)
        b = (0.5 * a + random.normal(size=60)).round(decimals)
        result = delong(y, a, b)
        assert result.auc_a == pytest.approx(roc_auc_score(y, a))
        assert result.auc_b == pytest.approx(roc_auc_score(y, b))
        assert result.statistic == pytest.approx(brute_force(y, a, b))
        assert result.statistic * result.standard_error == pytest.approx(result.auc_a - result.auc_b)
        reverse = delong(y, b, a)
        assert (reverse.statistic, reverse.p_value) == pytest.approx((-result.statistic, result.p_value))


def test_without_variance_equal_is_equal_and_unequal_is_certain() -> None:
    y, score = [0, 0, 1, 1], np.array([0.1, 0.3, 0.2, 0.4])
    same = delong(y, score, np.exp(score))
    assert (same.statistic, same.p_value) == (0, 1)
    certain = delong(y, [1, 2, 3, 4], [0, 0, 0, 0])
    assert (certain.statistic, certain.p_value) == (np.inf, 0)
    with pytest.raises(ValueError, match="two patients of each class"):
        delong([0, 0, 1], [1, 2, 3], [1, 2, 3])


def test_p_values_are_uniform_if_nothing_differs() -> None:
    random = np.random.default_rng(9)
    p = []
    for _ in range(400):
        y = random.random(240) < 0.3
        p.append(delong(y, random.normal(size=240) + y, random.normal(size=240) + y).p_value)
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)
