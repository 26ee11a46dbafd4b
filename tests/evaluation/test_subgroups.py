"""Subgroups against the figures of their patients, and the tests against likelihoods and tables computed otherwise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, fisher_exact
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from rlvo.errors import RlvoError
from rlvo.evaluation.comparison import equal_aucs
from rlvo.evaluation.figures import estimates
from rlvo.evaluation.subgroups import age_groups, standard_groupings, subgroup


@pytest.fixture
def model() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and votes of 240 patients."""
    random = np.random.default_rng(0)
    y = (random.random(240) < 0.3).astype(int)
    score = (random.normal(size=240) + y).round(1)
    return y, score, (score > 0.7).astype(int)


def test_each_level_has_its_own_patients_figures(model: tuple[np.ndarray, ...]) -> None:
    y, score, vote = model
    sex = pd.Series(np.where(np.arange(240) % 3 == 0, "M", "F"))
    sex[:6] = np.nan
    found = subgroup("sex", sex, y, score, vote)
    assert list(found.levels["level"]) == ["F", "M"]
    assert (found.ungrouped, found.levels["patients"].sum()) == (6, 234)
    for row in found.levels.to_dict("records"):
        own = (sex == row["level"]).to_numpy()
        assert row["positives"] == y[own].sum()
        expected = estimates(y[own], score[own], vote[own])
        for metric in ("auc", "sensitivity", "specificity"):
            assert [row[metric], row[f"{metric}_low"], row[f"{metric}_high"]] == expected.loc[metric].tolist()
    masks = [(sex == level).to_numpy() for level in ("F", "M")]
    assert found.auc_p == equal_aucs(y[6:], score[6:], [mask[6:] for mask in masks])
    assert found.notes == ()


def test_the_interaction_is_the_likelihood_ratio(model: tuple[np.ndarray, ...]) -> None:
    y, score, vote = model
    site = pd.Series(np.array(["M1", "M2", "TICA"])[np.arange(240) % 3])
    found = subgroup("occlusion_site", site, y, score, vote)
    level = pd.get_dummies(site).to_numpy(float)

    def deviance(terms: np.ndarray) -> float:
        x = np.column_stack([level, terms])
        fit = LogisticRegression(C=np.inf, tol=1e-8, fit_intercept=False, max_iter=1000).fit(x, y)
        return 2 * log_loss(y, fit.predict_proba(x), normalize=False)

    expected = chi2.sf(deviance(vote[:, None]) - deviance(vote[:, None] * level), 2)
    assert found.decision_p == pytest.approx(expected, abs=1e-4)


def test_a_model_that_works_in_one_group_only_is_found_out() -> None:
    random = np.random.default_rng(1)
    y = (random.random(600) < 0.3).astype(int)
    group = pd.Series(np.arange(600) % 2).map({0: "a", 1: "b"})
    score = random.normal(size=600) + 2 * y * (group == "a")
    found = subgroup("center", group, y, score, (score > 0.8).astype(int))
    assert found.auc_p < 0.001
    assert found.decision_p < 0.001


def test_etiology_sets_each_causes_patients_against_all_without_rlvo(model: tuple[np.ndarray, ...]) -> None:
    y, score, vote = model
    etiology = pd.Series(np.where(np.arange(240) % 2 == 0, "icad", "other"), dtype=object).where(y == 1)
    etiology[np.flatnonzero(y)[0]] = np.nan
    found = subgroup("etiology", etiology, y, score, vote)
    icad, other = ((etiology == cause).to_numpy() for cause in ("icad", "other"))
    first = found.levels.iloc[0]
    assert (first["level"], first["patients"], first["positives"]) == ("icad", icad.sum(), icad.sum())
    assert first["sensitivity"] == vote[icad].mean()
    assert first["auc"] == pytest.approx(roc_auc_score(y[icad | (y == 0)], score[icad | (y == 0)]))
    assert found.ungrouped == 1
    counts = [[vote[own].sum(), (1 - vote[own]).sum()] for own in (icad, other)]
    assert found.decision_p == fisher_exact(counts).pvalue
    assert found.auc_p == equal_aucs(y, score, [icad | (y == 0), other | (y == 0)])


def test_small_groups_are_said_to_be_small() -> None:
    y = np.array([0, 1] * 12)
    level = pd.Series(["big"] * 20 + ["small"] * 4)
    found = subgroup("center", level, y, np.arange(24) % 7, y)
    assert "small: only 2 with rLVO" in found.notes
    assert "decisions are not compared: a level has no patient of some outcome and decision" in found.notes
    assert np.isnan(found.decision_p)
    assert 0 < found.auc_p <= 1
    tiny = subgroup("center", pd.Series(["big"] * 23 + ["tiny"]), y, np.arange(24) % 7, y)
    assert np.isnan(tiny.auc_p)
    assert tiny.levels.iloc[1][["auc", "specificity"]].isna().all()
    assert any("fewer than two patients of a class" in note for note in tiny.notes)
    alone = subgroup("center", pd.Series(["A"] * 24), y, np.arange(24) % 7, y)
    assert np.isnan([alone.auc_p, alone.decision_p]).all()
    assert "one level only: nothing to compare" in alone.notes
    with pytest.raises(RlvoError, match="no level for these patients"):
        subgroup("center", pd.Series([np.nan] * 24), y, y, y)


def test_ages_are_cut_at_the_median_or_as_asked() -> None:
    age = pd.Series([50, 60, 70, 80, np.nan])
    assert list(age_groups(age)[:4]) == ["< 65", "< 65", "≥ 65", "≥ 65"]
    cut = age_groups(age, [80, 60])
    assert list(cut[:4]) == ["< 60", "60 to < 80", "60 to < 80", "≥ 80"]
    assert cut.isna()[4]


def test_groupings_are_those_the_table_has() -> None:
    table = pd.DataFrame(
        {"age": [60.0, 70], "sex": ["F", "M"], "center": [None, None], "nihss": [3, 4], "etiology": ["icad", "other"]}
    )
    found = standard_groupings(table, pd.Series([1, 0]))
    assert set(found) == {"sex", "age", "etiology"}
    assert list(found["age"]) == ["< 65", "≥ 65"]
    assert found["etiology"][0] == "icad"
    assert pd.isna(found["etiology"][1])
    assert set(standard_groupings(table[["sex"]], pd.Series([1, 0]))) == {"sex"}
