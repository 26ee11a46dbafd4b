"""Table 4 and its neighbours, on answers made by hand."""

import pandas as pd
import pytest

from rlvo.evaluation.answers import compare_answers
from rlvo.evaluation.errors_by_cause import error_breakdown
from rlvo.report.ablation import ablation_exhibits, dropped_exhibit, models_table
from rlvo.report.console import literal
from rlvo.report.model_tables import ScoredModel

LABEL = pd.Series([1, 1, 1, 1, 0, 0, 0, 0], index=[f"p{i}" for i in range(8)])
SCORES = {"A": [4, 3, 2, 1, -1, -2, -3, 1], "B": [4, -1, 2, -1, -1, 2, -3, 1], "C": [4, 3, 2, -1, -1, -2, 3, 1]}
PATIENTS = pd.DataFrame(
    {"model": ["A", "B", "C"], "study": ["s", "s-b", "s-c"], "predictors": [18, 12, 12], "development": [20, 20, 24]}
    | {"training_only": [0, 0, 4], "test": [8, 8, 8]}
)


def answers(letter: str) -> pd.DataFrame:
    score = pd.Series(SCORES[letter], index=LABEL.index, dtype=float)
    return pd.DataFrame({"label": LABEL, "score": score, "rlvo": (score >= 0).astype(int), "probability": float("nan")})


def test_each_table_has_a_row_per_model_or_pair() -> None:
    own = {letter: answers(letter) for letter in "ABC"}
    etiology = pd.Series(["icad", "icad", "other", "other"], index=LABEL.index[:4])
    models = {letter: ScoredModel(letter, each) for letter, each in own.items()}
    tests = {(a, b): compare_answers(own[a], own[b], LABEL) for a, b in ("AB", "BC")}
    errors = error_breakdown(own, etiology)
    table, paired, breakdown = ablation_exhibits(
        PATIENTS, models, tests, errors, standing="hold-out", about="Hold-out, opening 1."
    )
    assert [each.name for each in (table, paired, breakdown)] == ["table-4", "table-4-tests", "table-a2-models"]
    assert table.table["model"].tolist()[1:] == [
        "Model B: 12 variables",
        "Model C: 12 variables, 4 more training patients",
    ]
    in_terminal = models_table(PATIENTS, models, title="t")
    assert [*in_terminal.columns[3].cells] == [literal(each) for each in ("1.00", "0.50", "0.75")]  # sensitivity
    assert table.table["study"].tolist() == ["s", "s-b", "s-c"]
    assert paired.table["mcnemar_chi2"].tolist() == [pytest.approx(3.0), pytest.approx(1 / 3)]
    assert breakdown.shown is not None
    assert breakdown.shown["rLVO found"].tolist() == ["4/4", "2/4", "3/4"]
    assert breakdown.shown["ICAD found"].str[:3].tolist() == ["2/2", "1/2", "2/2"]
    nested = ablation_exhibits(
        PATIENTS, models, {}, errors, standing="optimistic", about="Out of fold.", out_of_fold=True
    )
    assert [each.name for each in nested] == ["table-4-out-of-fold", "table-a2-models-out-of-fold"]


def test_the_ranking_says_which_variables_went() -> None:
    ranks = dict.fromkeys(("auc_drop", "auc_drop_sd", "shapley", "rank_contribution", "rank_permutation"), 0.1)
    row: dict[str, object] = ranks | {"absolute_contribution": None, "rank_shapley": 1.0, "mean_rank": 1.0}
    ranked = dropped_exhibit(
        [row | {"predictor": "age"}, row | {"predictor": "hir"}], ["hir"], "the rule", (0.05, 0.01)
    )
    assert ranked.table["dropped"].tolist() == [False, True]
    assert ranked.shown is not None
    assert ranked.shown["goes"].tolist() == ["", "yes"]
    assert ranked.shown.iloc[:, 1].tolist() == ["", ""]  # no member has a scale or a shift
    assert "the rule" in ranked.caption
    assert "All of CT perfusion shuffled together: 0.05 (SD 0.01)" in ranked.caption
    named = dropped_exhibit([], ["hir", "ivt"], "named")
    assert named.table["predictor"].tolist() == ["hir", "ivt"]
    assert named.shown is not None
    assert named.shown["Predictor"].tolist() == ["HIR", "IV thrombolysis"]
