"""Performance of answers and their comparison, against the same metrics of the patients with answers alone."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from rlvo.errors import RlvoError
from rlvo.evaluation.answers import answer_subgroups, compare_answers, measure_answers
from rlvo.evaluation.calibration import measure_calibration
from rlvo.evaluation.metrics import wilson_interval

PATIENTS = pd.Index([f"p{i}" for i in range(60)], name="patient_id")
LABEL = pd.Series(np.tile([1, 0, 0], 20), index=PATIENTS)


def answers(seed: int, unanswered: int = 0) -> pd.DataFrame:
    """As a model gives them; the first patients are without one."""
    random = np.random.default_rng(seed)
    score = random.normal(LABEL * 1.2 - 0.6)
    table = pd.DataFrame({"rlvo": pd.array((score > 0).astype(int), "Int64"), "score": score}, index=PATIENTS)
    table["probability"] = 1 / (1 + np.exp(-score))
    table.iloc[:unanswered] = pd.NA
    return table.astype({"score": float, "probability": float})


def test_patients_without_an_answer_are_counted_and_left_out() -> None:
    found = measure_answers(answers(0, unanswered=4), LABEL.sample(frac=1, random_state=1))
    assert (found.patients, found.unanswered, found.unanswered_positives) == (56, 4, 2)
    own, y = answers(0).iloc[4:], LABEL.iloc[4:]
    assert found.positives == y.sum()
    assert found.estimates.loc["auc", "value"] == pytest.approx(roc_auc_score(y, own["score"]))
    hits, positives = int(own["rlvo"][y == 1].sum()), int(y.sum())
    expected = (hits / positives, *wilson_interval(hits, positives))
    assert found.estimates.loc["sensitivity"].tolist() == pytest.approx(expected)
    assert found.calibration is not None
    pd.testing.assert_frame_equal(found.calibration.estimates, measure_calibration(y, own["probability"]).estimates)


def test_a_model_without_probabilities_has_no_calibration() -> None:
    assert measure_answers(answers(0).assign(probability=np.nan), LABEL).calibration is None
    with pytest.raises(RlvoError, match="no patient could be scored"):
        measure_answers(answers(0, unanswered=60), LABEL)


def test_subgroups_are_of_patients_with_an_answer() -> None:
    table = pd.DataFrame({"center": np.repeat(["a", "b"], 30)}, index=PATIENTS)
    [centers] = answer_subgroups(answers(0, unanswered=4), LABEL, table)
    assert centers.name == "center"
    assert centers.levels["patients"].tolist() == [26, 30]
    own = answers(0).loc[PATIENTS[30:]]
    assert centers.levels["auc"].iloc[1] == pytest.approx(roc_auc_score(LABEL[30:], own["score"]))


def test_two_models_are_compared_on_patients_with_both_answers() -> None:
    a, b = answers(0, unanswered=4), answers(1)
    b.iloc[3:5] = pd.NA
    found = compare_answers(a, b.sample(frac=1, random_state=0), LABEL)
    assert (found.patients, found.only_a, found.only_b, found.neither) == (55, 1, 3, 1)
    own_a, own_b, y = answers(0).iloc[5:], answers(1).iloc[5:], LABEL.iloc[5:]
    assert (found.auc.auc_a, found.auc.auc_b) == pytest.approx(
        (roc_auc_score(y, own_a["score"]), roc_auc_score(y, own_b["score"]))
    )
    right_a, right_b = own_a["rlvo"] == y, own_b["rlvo"] == y
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    assert (found.decisions.only_a, found.decisions.only_b) == (only_a, only_b)
    assert found.decisions.p_value == pytest.approx(binomtest(only_a, only_a + only_b).pvalue)
    assert found.changed.index.tolist() == own_a.index[own_a["rlvo"] != own_b["rlvo"]].tolist()
    assert (found.changed["label"] == LABEL[found.changed.index]).all()


def test_a_model_does_not_differ_from_itself() -> None:
    found = compare_answers(answers(0), answers(0), LABEL)
    assert (found.auc.p_value, found.decisions.p_value, len(found.changed)) == (1, 1, 0)
    one_class = answers(0).where(LABEL == 0)
    with pytest.raises(RlvoError, match="fewer than two patients of a class"):
        compare_answers(answers(0), one_class, LABEL)
