import pandas as pd

from rlvo.explain.examples import Example, choose_examples


def test_the_largest_and_the_median_score_of_each_kind() -> None:
    scores = {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3, "e": -0.2, "f": -0.4, "g": 0.9, "h": None}
    label = {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 0, "h": 1}
    score = pd.Series(scores, dtype=float)
    decision = (score >= 0).astype("Int64").where(score.notna())
    found = choose_examples(pd.Series(label), decision, score)
    assert found == [
        Example("b", "true positive", "largest score"),
        Example("c", "true positive", "median score"),
        Example("g", "false positive", "largest score"),
        Example("f", "false negative", "largest score"),
        Example("e", "false negative", "median score"),
    ]
    order = list(reversed(scores))
    assert choose_examples(pd.Series(label).loc[order], decision.loc[order], score.loc[order]) == found


def test_ties_go_by_patient_and_nobody_is_invented() -> None:
    label = pd.Series({"b": 1, "a": 1, "c": 0})
    found = choose_examples(label, pd.Series({"b": 1, "a": 1, "c": 0}), pd.Series({"b": 0.2, "a": 0.2, "c": -0.1}))
    assert [(each.patient, each.kind) for each in found] == [("a", "true positive"), ("b", "true positive")]
