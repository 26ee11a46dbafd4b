"""Subgroups against the metrics of their patients alone, and their tests against other ways to compute them."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from scipy.stats import chi2, chi2_contingency, fisher_exact, norm
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from rlvo.evaluation.metrics import expected_auc_variance
from rlvo.evaluation.performance import estimate_metrics
from rlvo.evaluation.subgroups import (
    analyse_subgroups,
    correct_together,
    equal_aucs,
    equal_calibration,
    standard_groupings,
)


@pytest.fixture
def model() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and votes of 240 patients."""
    random = np.random.default_rng(0)
    y = (random.random(240) < 0.3).astype(int)
    score = (random.normal(size=240) + y).round(1)
    return y, score, (score > 0.7).astype(int)


def test_each_level_has_the_metrics_of_its_own_patients(model: tuple[np.ndarray, ...]) -> None:
    y, score, vote = model
    sex = pd.Series(np.where(np.arange(240) % 3 == 0, "M", "F"))
    sex[:6] = np.nan
    found = analyse_subgroups("sex", sex, y, score, vote)
    assert list(found.levels["level"]) == ["F", "M"]
    assert (found.ungrouped, found.levels["patients"].sum()) == (6, 234)
    for row in found.levels.to_dict("records"):
        own = (sex == row["level"]).to_numpy()
        assert row["positives"] == y[own].sum()
        expected = estimate_metrics(y[own], score[own], vote[own])
        for metric in ("auc", "sensitivity", "specificity"):
            assert [row[metric], row[f"{metric}_low"], row[f"{metric}_high"]] == expected.loc[metric].tolist()
    masks = [(sex == level).to_numpy() for level in ("F", "M")]
    assert found.auc_p == equal_aucs(y[6:], score[6:], [mask[6:] for mask in masks])
    assert found.notes == ()


def decided(rates: dict[str, tuple[int, int, int, int]]) -> tuple[pd.Series, np.ndarray, np.ndarray, np.ndarray]:
    """Level, label, score and vote of groups with so many positives, of them found, negatives, of them spared."""
    level, y, vote = [], [], []
    for name, (positives, found, negatives, spared) in rates.items():
        level += [name] * (positives + negatives)
        y += [1] * positives + [0] * negatives
        vote += [1] * found + [0] * (positives - found) + [0] * spared + [1] * (negatives - spared)
    score = np.array(vote) + np.random.default_rng(0).random(len(vote))
    return pd.Series(level), np.array(y), score, np.array(vote)


def test_sensitivity_and_specificity_that_differ_in_opposite_ways_are_found() -> None:
    """Diagnostic odds ratios of 9 in both groups: a test that compares them sees nothing."""
    found = analyse_subgroups("sex", *decided({"F": (40, 36, 40, 20), "M": (40, 20, 40, 36)}))
    expected = fisher_exact([[36, 4], [20, 20]]).pvalue
    assert (found.sensitivity_p, found.specificity_p) == pytest.approx((expected, expected))
    assert found.decision_p == pytest.approx(2 * expected)  # Holm, of two
    assert found.corrected["sensitivity"] == pytest.approx(3 * expected)  # of three, the AUCs' test included
    assert found.corrected["specificity"] < 0.01
    assert np.isnan(found.calibration_p)


@pytest.mark.parametrize(("sensitivities", "is_found"), [((36, 20, 36), True), ((28, 25, 31), False)])
def test_three_levels_are_compared_at_once(sensitivities: tuple[int, int, int], is_found: bool) -> None:
    a, b, c = sensitivities
    table = decided({"M1": (40, a, 60, 40), "M2": (40, b, 60, 40), "TICA": (40, c, 60, 40)})
    found = analyse_subgroups("occlusion_site", *table)
    assert found.sensitivity_p == analyse_subgroups("occlusion_site", *table).sensitivity_p
    assert found.sensitivity_p == pytest.approx(
        chi2_contingency([[a, b, c], [40 - a, 40 - b, 40 - c]]).pvalue, abs=0.03
    )
    assert (found.corrected["sensitivity"] < 0.05) == is_found
    assert found.specificity_p == 1


def test_a_level_without_patients_of_a_class_is_not_compared_there() -> None:
    found = analyse_subgroups("center", *decided({"A": (30, 27, 30, 15), "B": (30, 10, 30, 15), "C": (0, 0, 9, 9)}))
    assert found.sensitivity_p == fisher_exact([[27, 3], [10, 20]]).pvalue
    assert found.specificity_p < 0.05
    lone = analyse_subgroups("center", *decided({"A": (30, 27, 30, 15), "C": (0, 0, 9, 9)}))
    assert np.isnan(lone.sensitivity_p)
    assert "C: only 0 with rLVO" in lone.notes
    assert lone.decision_p == lone.specificity_p


def test_calibration_in_the_large_is_compared_by_the_likelihood_ratio_in_large_groups() -> None:
    """An offset for all against one per level, in 600 patients; a common miscalibration is none between levels."""
    random = np.random.default_rng(1)
    level = np.arange(600) % 3
    true = expit(random.normal(-1, 1, 600) + 0.2 * (level == 2))
    y = (random.random(600) < true).astype(int)
    told = expit(logit(true) - 0.2 * (level == 2) + 1)
    deviances = [
        sm.GLM(y, x.astype(float), sm.families.Binomial(), offset=logit(told)).fit().deviance
        for x in (np.ones((600, 1)), np.eye(3)[level])
    ]
    expected = chi2.sf(deviances[0] - deviances[1], 2)
    assert equal_calibration(y, told, np.eye(3, dtype=bool)[level].T) == pytest.approx(expected, abs=0.02)
    found = analyse_subgroups("center", pd.Series(level), y, told, (told > 0.5).astype(int), told)
    assert found.calibration_p == equal_calibration(y, told, np.eye(3, dtype=bool)[level].T)


def test_calibration_that_differs_is_found_and_extreme_probabilities_are_no_obstacle() -> None:
    y = np.array([1, 0, 0, 0] * 20)
    groups = np.arange(80) < 40, np.arange(80) >= 40
    assert equal_calibration(y, np.where(groups[0], 0.6, 0.1), groups) < 0.001
    assert equal_calibration(y, np.full(80, 0.6), groups) == 1
    assert 0 < equal_calibration(y, y.astype(float), groups) <= 1
    assert np.isnan(equal_calibration(np.zeros(80), np.full(80, 0.6), groups))


@pytest.mark.parametrize("kind", ["two", "three", "small", "shared"])
def test_p_values_of_equal_aucs_are_uniform(kind: str) -> None:
    random, p = np.random.default_rng(9), []
    half, third, small = (np.arange(240) % k == 0 for k in (2, 3, 16))
    for _ in range(300):
        y = random.random(240) < 0.3
        score = (random.normal(size=240) + y).round(1)
        groups = {
            "two": [half, ~half],
            "three": [third, half & ~third, ~half & ~third],
            "small": [small, ~small],  # 15 patients, of whom 4 or 5 are positive
            "shared": [half | ~y, ~half | ~y],
        }[kind]
        p.append(equal_aucs(y, score, groups))
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(p) == pytest.approx(0.5, abs=0.07)


def test_aucs_that_differ_are_found_and_a_group_without_a_class_does_not_count() -> None:
    random, group = np.random.default_rng(8), np.arange(240) % 2 == 0
    y = random.random(240) < 0.3
    score = random.normal(size=240) + y * np.where(group, 2.5, 0.5)
    aucs = [roc_auc_score(y[own], score[own]) for own in (group, ~group)]
    z = (aucs[0] - aucs[1]) / np.sqrt(2 * expected_auc_variance(np.mean(aucs), y.sum() / 2, (~y).sum() / 2)[0])
    assert equal_aucs(y, score, [group, ~group]) == pytest.approx(2 * norm.sf(z), rel=0.5)
    assert equal_aucs(y, score, [group, ~group, ~y & group]) == equal_aucs(y, score, [group, ~group]) < 0.01
    assert equal_aucs(y, y.astype(float), [group, ~group]) == 1
    assert np.isnan(equal_aucs(y, score, [group]))


def test_tests_of_all_groupings_are_corrected_together(model: tuple[np.ndarray, ...]) -> None:
    y, score, vote = model
    analyses = [analyse_subgroups(str(k), pd.Series(np.arange(240) % k), y, score, vote, expit(score)) for k in (2, 3)]
    together = correct_together(analyses)
    raw = [p for a in analyses for p in (a.auc_p, a.sensitivity_p, a.specificity_p, a.calibration_p)]
    assert [p for a in together for p in a.corrected.values()] == multipletests(raw, method="holm")[1].tolist()
    assert correct_together([]) == []


@pytest.mark.slow
def test_in_small_groups_without_a_difference_no_more_than_5_percent_are_found() -> None:
    """40 draws of a calibrated model in patients a fifth of whom have an rLVO; 99 % of binomial(40, .05) are ≤ 6."""
    random = np.random.default_rng(0)
    level, p_values = pd.Series(np.repeat([0, 1], [12, 108])), []
    for _ in range(40):
        probability = expit(random.normal(-1.7, 1, 120))
        y = (random.random(120) < probability).astype(int)
        found = analyse_subgroups("x", level, y, probability, (probability > 0.2).astype(int), probability)
        p_values.append([found.sensitivity_p, found.specificity_p, found.calibration_p, min(found.corrected.values())])
    assert ((np.array(p_values) < 0.05).sum(axis=0) <= 6).all()


def test_etiology_sets_each_causes_patients_against_all_without_rlvo(model: tuple[np.ndarray, ...]) -> None:
    y, score, vote = model
    etiology = pd.Series(np.where(np.arange(240) % 2 == 0, "icad", "other"), dtype=object).where(y == 1)
    etiology[np.flatnonzero(y)[0]] = np.nan
    found = analyse_subgroups("etiology", etiology, y, score, vote)
    icad, other = ((etiology == cause).to_numpy() for cause in ("icad", "other"))
    first = found.levels.iloc[0]
    assert (first["level"], first["patients"], first["positives"]) == ("icad", icad.sum(), icad.sum())
    assert first["sensitivity"] == vote[icad].mean()
    assert first["auc"] == pytest.approx(roc_auc_score(y[icad | (y == 0)], score[icad | (y == 0)]))
    assert found.ungrouped == 1
    counts = [[vote[own].sum(), (1 - vote[own]).sum()] for own in (icad, other)]
    assert found.sensitivity_p == found.decision_p == fisher_exact(counts).pvalue
    assert np.isnan([found.specificity_p, found.calibration_p]).all()
    assert found.auc_p == equal_aucs(y, score, [icad | (y == 0), other | (y == 0)])


def test_small_groups_are_said_to_be_small() -> None:
    y = np.array([0, 1] * 12)
    level = pd.Series(["big"] * 20 + ["small"] * 4)
    found = analyse_subgroups("center", level, y, np.arange(24) % 7, y)
    assert "small: only 2 with rLVO" in found.notes
    assert found.decision_p == 1
    assert 0 < found.auc_p <= 1
    tiny = analyse_subgroups("center", pd.Series(["big"] * 23 + ["tiny"]), y, np.arange(24) % 7, y)
    assert np.isnan([tiny.auc_p, tiny.specificity_p]).all()
    assert tiny.levels.iloc[1][["auc", "specificity"]].isna().all()
    assert {"tiny: only 1 with rLVO", "tiny: only 0 without"} <= set(tiny.notes)
    alone = analyse_subgroups("center", pd.Series(["A"] * 24), y, np.arange(24) % 7, y)
    assert np.isnan([alone.auc_p, alone.decision_p]).all()
    assert "there is one level only: nothing to compare" in alone.notes
    with pytest.raises(ValueError, match="no patient has a level"):
        analyse_subgroups("center", pd.Series([np.nan] * 24), y, y, y)


def test_groupings_are_those_the_table_has() -> None:
    columns = {"age": [50, 80, np.nan], "sex": ["F", "M", "M"], "etiology": ["icad", "other", None]}
    table = pd.DataFrame(columns | {"center": [None] * 3, "nihss": [3, 4, 5]})
    found = standard_groupings(table, pd.Series([1, 0, 0]))
    assert set(found) == {"sex", "age", "etiology"}
    assert list(found["age"][:2]) == ["< 65", "≥ 65"]
    assert found["etiology"][0] == "icad"
    assert found["age"].isna().tolist() == [False, False, True]
    assert found["etiology"].isna().tolist() == [False, True, True]
    assert set(standard_groupings(table[["sex"]], pd.Series([1, 0, 0]))) == {"sex"}
