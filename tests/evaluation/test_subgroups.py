"""Subgroups against the metrics of their patients alone, and their tests against other ways to compute them."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, fisher_exact
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from rlvo.evaluation.comparison import equal_aucs
from rlvo.evaluation.performance import estimate_metrics
from rlvo.evaluation.subgroups import analyse_subgroups, standard_groupings


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


def test_the_interaction_is_the_likelihood_ratio(model: tuple[np.ndarray, ...]) -> None:
    y, score, vote = model
    site = pd.Series(np.array(["M1", "M2", "TICA"])[np.arange(240) % 3])
    found = analyse_subgroups("occlusion_site", site, y, score, vote)
    level = pd.get_dummies(site).to_numpy(float)

    def deviance(terms: np.ndarray) -> float:
        x = np.column_stack([level, terms])
        fit = LogisticRegression(C=np.inf, tol=1e-8, fit_intercept=False, max_iter=1000).fit(x, y)
        return 2 * log_loss(y, fit.predict_proba(x), normalize=False)

    expected = chi2.sf(deviance(vote[:, None]) - deviance(vote[:, None] * level), 2)
    assert found.decision_p == pytest.approx(expected, abs=1e-4)


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
    assert found.decision_p == fisher_exact(counts).pvalue
    assert found.auc_p == equal_aucs(y, score, [icad | (y == 0), other | (y == 0)])


def test_small_groups_are_said_to_be_small() -> None:
    y = np.array([0, 1] * 12)
    level = pd.Series(["big"] * 20 + ["small"] * 4)
    found = analyse_subgroups("center", level, y, np.arange(24) % 7, y)
    assert "small: only 2 with rLVO" in found.notes
    assert "decisions are not compared: a level lacks some combination of outcome and decision" in found.notes
    assert np.isnan(found.decision_p)
    assert 0 < found.auc_p <= 1
    tiny = analyse_subgroups("center", pd.Series(["big"] * 23 + ["tiny"]), y, np.arange(24) % 7, y)
    assert np.isnan(tiny.auc_p)
    assert tiny.levels.iloc[1][["auc", "specificity"]].isna().all()
    assert any("fewer than two patients of a class" in note for note in tiny.notes)
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
