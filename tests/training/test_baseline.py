from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from rlvo.cohort.splits import Split, make_split
from rlvo.config.study import FoldsConfig
from rlvo.evaluation.predictions import check_predictions
from rlvo.training.baseline import clinical_baseline

PREDICTORS = ("age", "nihss", "occlusion_site", "ivt")


@pytest.fixture
def table() -> pd.DataFrame:
    random = np.random.default_rng(0)
    n = 300
    return pd.DataFrame(
        {
            "age": random.normal(75, 8, n),
            "nihss": random.integers(0, 30, n).astype(float),
            "occlusion_site": random.choice(["TICA", "M1", "M2"], n),
            "ivt": random.integers(0, 2, n).astype(float),
        },
        index=pd.Index([f"{i:03d}" for i in range(n)], name="patient_id"),
    )


@pytest.fixture
def label(table: pd.DataFrame) -> pd.Series:
    logit = (table["nihss"] - 15) / 4 - 2 * table["ivt"]
    return (np.random.default_rng(1).random(len(table)) < 1 / (1 + np.exp(-logit))).astype(int)


@pytest.fixture
def split(label: pd.Series) -> Split:
    return make_split(label, FoldsConfig())


def test_validation_predictions_cover_development_and_find_the_signal(
    table: pd.DataFrame, label: pd.Series, split: Split
) -> None:
    result = clinical_baseline(table, label, split, PREDICTORS)
    predictions = check_predictions(result.validation)
    assert sorted(predictions["patient"]) == sorted(split.development)
    assert set(predictions["member"]) == {f"clinical-f{k}" for k in range(4)}
    assert list(predictions["label"]) == list(label[predictions["patient"]])
    metrics = result.validation_metrics()
    assert metrics["auc"].min() > 0.75
    first = predictions[predictions["fold"] == 0]
    assert metrics["auc"][0] == roc_auc_score(first["label"], first["probability"])
    # Site: three one-hots less the reference level.
    assert len(result.folds[0].logistic.coefficients) == 5


def test_a_fold_is_blind_to_its_validation_and_test_patients(
    table: pd.DataFrame, label: pd.Series, split: Split
) -> None:
    before = clinical_baseline(table, label, split, PREDICTORS)
    outside = [*split.validation(0), *split.test]
    changed = table.copy()
    changed.loc[outside, ["age", "nihss"]] = np.random.default_rng(2).random((len(outside), 2)) * 100
    after = clinical_baseline(changed, label, split, PREDICTORS)
    assert before.folds[0].encoder == after.folds[0].encoder
    np.testing.assert_array_equal(before.folds[0].logistic.coefficients, after.folds[0].logistic.coefficients)
    assert before.folds[1].encoder != after.folds[1].encoder


def test_scores_are_means_and_votes_over_folds(table: pd.DataFrame, label: pd.Series, split: Split) -> None:
    result = clinical_baseline(table, label, split, PREDICTORS)
    test = table.loc[list(split.test)]
    scored = result.score(test)
    each = np.array([fold.probability(test) for fold in result.folds])
    thresholds = np.array([fold.threshold for fold in result.folds])
    votes = sum((each[k] >= thresholds[k]).astype(int) for k in range(4))
    np.testing.assert_allclose(scored["probability"], each.mean(axis=0))
    np.testing.assert_allclose(scored["score"], each.mean(axis=0) - thresholds.mean())
    np.testing.assert_array_equal(scored["votes"], votes)
    np.testing.assert_array_equal(scored["rlvo"], (votes > 2).astype(int))
    assert list(scored.index) == list(split.test)
    assert roc_auc_score(label[scored.index], scored["score"]) > 0.75
    np.testing.assert_array_equal(result.score(test.iloc[[3]]).iloc[0], scored.iloc[3])


def test_permuted_labels_give_no_signal(table: pd.DataFrame, label: pd.Series) -> None:
    aucs = []
    for seed in range(20):
        permuted = pd.Series(np.random.default_rng(seed).permutation(label), index=label.index)
        split = make_split(permuted, FoldsConfig(seed=seed))
        scored = clinical_baseline(table, permuted, split, PREDICTORS).score(table.loc[list(split.test)])
        aucs.append(roc_auc_score(permuted[scored.index], scored["score"]))
    assert np.mean(aucs) == pytest.approx(0.5, abs=3 * np.std(aucs) / np.sqrt(20))
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.06)
