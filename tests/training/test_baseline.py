from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from rlvo.cohort.label import derive_label
from rlvo.cohort.splits import Split, make_split
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.config.sections import FoldsConfig
from rlvo.evaluation.predictions import check_out_of_fold, check_predictions
from rlvo.synthetic.cohort import draw_patients
from rlvo.synthetic.outcome import PROFILES
from rlvo.training.baseline import (
    BASELINES,
    Baseline,
    BaselineResult,
    clinical_baseline,
    clinical_baselines,
    clinical_odds,
)

CLINICAL = BASELINES["all clinical"]
BOTH = [CLINICAL, pytest.param(BASELINES["all clinical, boosted"], marks=pytest.mark.slow)]
PREDICTORS = ("age", "nihss", "occlusion_site", "ivt")


class Cohort(NamedTuple):
    table: pd.DataFrame
    label: pd.Series
    split: Split


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    random = np.random.default_rng(0)
    n = 300
    table = pd.DataFrame(
        {
            "age": random.normal(75, 8, n),
            "nihss": random.integers(0, 30, n).astype(float),
            "occlusion_site": random.choice(["TICA", "M1", "M2"], n),
            "ivt": random.integers(0, 2, n).astype(float),
        },
        index=pd.Index([f"{i:03d}" for i in range(n)], name="patient_id"),
    )
    logit = (table["nihss"] - 15) / 4 - 2 * table["ivt"]
    label = (np.random.default_rng(1).random(n) < 1 / (1 + np.exp(-logit))).astype(int)
    return Cohort(table, label, make_split(label, FoldsConfig()))


def test_validation_predictions_cover_development_and_find_the_signal(cohort: Cohort) -> None:
    table, label, split = cohort
    result = clinical_baseline(table, label, split, PREDICTORS, CLINICAL)
    predictions = check_predictions(result.validation)
    check_out_of_fold(predictions, split.folds, split.test)
    assert sorted(predictions["patient"]) == sorted(split.development)
    assert set(predictions["member"]) == {f"clinical-f{k}" for k in range(4)}
    assert list(predictions["label"]) == list(label[predictions["patient"]])
    metrics = result.validation_metrics()
    assert metrics["auc"].min() > 0.75
    first = predictions[predictions["fold"] == 0]
    assert metrics["auc"][0] == roc_auc_score(first["label"], first["probability"])
    assert metrics["auprc"][0] == pytest.approx(average_precision_score(first["label"], first["probability"]))
    # Site: three one-hots less the reference level.
    assert len(result.folds[0].model.coefficients) == 5


PROBE = pd.DataFrame({"age": [60.0, 90], "nihss": [4.0, 22], "occlusion_site": ["M1", "TICA"], "ivt": [0.0, 1]})


def learned(result: BaselineResult, k: int) -> tuple[str, bytes]:
    """Everything fold k learned: its encoder, and its model's answers, bit by bit."""
    return result.folds[k].encoder.model_dump_json(), result.folds[k].probability(PROBE).tobytes()


@pytest.mark.parametrize("baseline", BOTH)
@settings(deadline=None, max_examples=6, derandomize=True)
@given(data=st.data())
def test_whatever_changes_in_validation_and_test_rows_the_fold_learns_the_same_to_the_bit(
    cohort: Cohort, baseline: Baseline, data: st.DataObject
) -> None:
    table, label, split = cohort
    k = data.draw(st.integers(0, 3))
    outside = [*split.validation(k), *split.test]
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    rows = random.choice(outside, data.draw(st.integers(1, len(outside))), replace=False)
    changed, relabelled = table.copy(), label.copy()
    for column in data.draw(st.sets(st.sampled_from(PREDICTORS), min_size=1)):
        values = random.choice(["TICA", "M2"] if column == "occlusion_site" else range(1000), len(rows))
        missing = random.random(len(rows)) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
        changed.loc[rows, column] = pd.Series(values, index=rows).mask(missing)
    relabelled[rows] = 1 - label[rows]
    before = clinical_baseline(table, label, split, PREDICTORS, baseline)
    after = clinical_baseline(changed, relabelled, split, PREDICTORS, baseline)
    assert learned(after, k) == learned(before, k)
    # Thresholds come from validation: the test set is blind to every fold's.
    if set(rows) <= set(split.test):
        assert [fold.threshold for fold in after.folds] == [fold.threshold for fold in before.folds]


def test_a_fold_does_learn_from_its_training_rows(cohort: Cohort) -> None:
    table, label, split = cohort
    changed = table.copy()
    changed.loc[list(split.validation(0)), "nihss"] += 5
    before, after = (clinical_baseline(each, label, split, PREDICTORS, CLINICAL) for each in (table, changed))
    assert learned(after, 1) != learned(before, 1)


def test_the_test_set_changes_no_threshold_and_no_odds(cohort: Cohort) -> None:
    table, label, split = cohort
    changed = table.copy()
    changed.loc[list(split.test), ["age", "nihss"]] = 1000.0
    before, after = (clinical_baseline(each, label, split, PREDICTORS, CLINICAL) for each in (table, changed))
    assert [fold.threshold for fold in after.folds] == [fold.threshold for fold in before.folds]
    pd.testing.assert_frame_equal(after.validation, before.validation, check_exact=True)
    odds = [clinical_odds(each, label, split, PREDICTORS) for each in (table, changed)]
    pd.testing.assert_frame_equal(*odds, check_exact=True)


def test_scores_are_means_and_votes_over_folds(cohort: Cohort) -> None:
    table, label, split = cohort
    result = clinical_baseline(table, label, split, PREDICTORS, CLINICAL)
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


def test_baselines_are_those_whose_columns_have_values(cohort: Cohort) -> None:
    table, label, split = cohort
    found = clinical_baselines(table, label, split, PREDICTORS)
    assert list(found) == ["NIHSS", "all clinical", "all clinical, ridge", "all clinical, boosted"]
    members = {name: set(result.validation["member"]) for name, result in found.items()}
    assert members["all clinical"] == {f"clinical-f{k}" for k in range(4)}
    assert len(set.union(*members.values())) == 16
    everything = check_out_of_fold(pd.concat([r.validation for r in found.values()]), split.folds, split.test)
    assert len(everything) == 4 * len(split.development)
    with_aspects = table.assign(aspects=np.random.default_rng(3).integers(5, 11, len(table)).astype(float))
    names = ["NIHSS", "ASPECTS", "NIHSS + ASPECTS", "all clinical", "all clinical, ridge", "all clinical, boosted"]
    assert list(clinical_baselines(with_aspects, label, split, PREDICTORS)) == names
    empty = table.assign(aspects=np.nan)
    assert list(clinical_baselines(empty, label, split, PREDICTORS)) == list(found)


def test_odds_are_of_natural_units_on_development_patients(cohort: Cohort) -> None:
    table, label, split = cohort
    odds = clinical_odds(table, label, split, PREDICTORS)
    assert dict(zip(odds["term"], odds["unit"], strict=True)) == {
        "age": "per year",
        "nihss": "per point",
        "occlusion_site=M1": "vs TICA",
        "occlusion_site=M2": "vs TICA",
        "ivt": "vs no",
    }
    own = table.loc[list(split.development)]
    design = own[["age", "nihss"]].assign(
        m1=own["occlusion_site"] == "M1", m2=own["occlusion_site"] == "M2", ivt=own["ivt"]
    )
    fit = sm.Logit(label[own.index], sm.add_constant(design.astype(float))).fit(disp=0)
    np.testing.assert_allclose(odds["odds_ratio"], np.exp(fit.params[1:]), rtol=1e-4)
    np.testing.assert_allclose(odds[["low", "high"]], np.exp(fit.conf_int()[1:]), rtol=1e-4)
    np.testing.assert_allclose(odds["p"], fit.pvalues[1:], rtol=1e-3)


@pytest.mark.parametrize("baseline", BOTH)
def test_permuted_labels_give_no_signal(cohort: Cohort, baseline: Baseline) -> None:
    table, label, _ = cohort
    aucs = []
    for seed in range(20):
        permuted = pd.Series(np.random.default_rng(seed).permutation(label), index=label.index)
        split = make_split(permuted, FoldsConfig(seed=seed))
        result = clinical_baseline(table, permuted, split, PREDICTORS, baseline)
        scored = result.score(table.loc[list(split.test)])
        aucs.append(roc_auc_score(permuted[scored.index], scored["score"]))
    assert np.mean(aucs) == pytest.approx(0.5, abs=2 * np.std(aucs, ddof=1) / np.sqrt(20))


@pytest.mark.slow
def test_on_20000_patients_the_baseline_ranks_as_the_true_clinical_score() -> None:
    drawn = draw_patients(20_000, PROFILES["paper"], seed=0)
    table = drawn.table.set_index("patient_id")
    label = derive_label(table)[0].astype(int)
    split = make_split(label, FoldsConfig())
    truth = drawn.logits.set_index("patient_id")["clinical_logit"]
    result = clinical_baseline(table, label, split, PAPER_PREDICTORS, CLINICAL)
    test = list(split.test)
    reached = roc_auc_score(label[test], result.score(table.loc[test])["score"])
    best = roc_auc_score(label[test], truth[test])
    assert best > 0.7
    assert reached == pytest.approx(best, abs=0.02)
    for k, auc in enumerate(result.validation_metrics()["auc"]):
        own = list(split.validation(k))
        assert auc == pytest.approx(roc_auc_score(label[own], truth[own]), abs=0.02)
