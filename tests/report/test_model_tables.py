"""Tables of models: their numbers are scikit-learn's, AUC and balanced accuracy are told apart, the best is bold."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, confusion_matrix, roc_auc_score, roc_curve

from rlvo.report.curves import precision_recall_exhibit, roc_exhibit
from rlvo.report.decisions import confusion_exhibit, votes_exhibit
from rlvo.report.model_tables import NESTED, SAW_CTA, VALIDATION, ScoredModel, models_exhibit


def answers(seed: int, shift: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    label = (rng.random(80) < 0.3).astype(int)
    score = label * shift + rng.normal(size=80)
    return pd.DataFrame({"label": label, "score": score, "rlvo": (score > 0.8).astype(int), "probability": 0.5})


PER_FOLD = pd.DataFrame({"auc": [0.9, 0.7]})
MODELS = [
    ScoredModel("weak", answers(0, 0.2), PER_FOLD, answers(2), {"prior": "yes", SAW_CTA: "yes"}),
    ScoredModel("strong", answers(0, 2.5), PER_FOLD, answers(3), {"prior": "no", SAW_CTA: "no"}),
]


def test_a_row_holds_the_models_own_figures_with_intervals() -> None:
    found = models_exhibit("table-3", "Table 3", MODELS, standing="nested", about="80 patients.")
    rows = found.table.set_index("model")
    for model in MODELS:
        row, own = rows.loc[model.name], model.answers
        assert row["auc"] == pytest.approx(roc_auc_score(own["label"], own["score"]))
        assert row["auprc"] == pytest.approx(average_precision_score(own["label"], own["score"]))
        assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(own["label"], own["rlvo"]))
        assert row["auc"] != pytest.approx(row["balanced_accuracy"])
        for metric in ("auc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity"):
            assert row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"]
            assert row[f"{metric}_low"] < row[f"{metric}_high"]
        assert (row["validation_auc_mean"], row["validation_auc_sd"]) == pytest.approx(
            (0.8, np.std([0.9, 0.7], ddof=1))
        )
    shown = found.shown
    assert shown is not None
    assert shown[""].tolist() == ["weak*", "strong"]
    assert shown.loc[0, VALIDATION] == "0.80±0.14"
    assert NESTED in shown
    assert shown.loc[1, "AUC"] == f"{rows.loc['strong', 'auc']:.2f} " + "({:.2f}–{:.2f})".format(
        *rows.loc["strong", ["auc_low", "auc_high"]]
    )
    assert "vessel prior comes from CTA" in found.caption
    assert "95 % intervals: AUC by DeLong, logit scale; balanced accuracy by MOVER" in found.caption
    assert (1, "AUC") in found.best
    assert (0, "AUC") not in found.best


def test_nothing_is_said_of_a_prior_or_of_validation_that_is_not_there() -> None:
    found = models_exhibit("t", "T", [ScoredModel("a", answers(1))], standing="hold-out", about="")
    assert "prior" not in found.caption
    assert "Validation" not in found.caption
    assert found.shown is not None
    assert not {NESTED, VALIDATION} & {*found.shown.columns}
    assert found.best == frozenset()


def test_curves_and_matrices_are_of_the_same_answers() -> None:
    roc = roc_exhibit(MODELS, standing="nested", about="").table
    for model in MODELS:
        own = roc[roc["model"] == model.name]
        false_positive, true_positive, _ = roc_curve(model.answers["label"], model.answers["score"])
        np.testing.assert_array_equal(own["one_minus_specificity"], false_positive)
        np.testing.assert_array_equal(own["sensitivity"], true_positive)
    curve = precision_recall_exhibit(MODELS, standing="nested", about="").table
    strong = curve[curve["model"] == "strong"]
    area = (strong["sensitivity"].diff() * strong["precision"]).sum()
    assert area == pytest.approx(average_precision_score(MODELS[1].answers["label"], MODELS[1].answers["score"]))
    matrix = confusion_exhibit(MODELS, standing="nested", about="").table.set_index("model").loc["strong"]
    tn, fp, fn, tp = confusion_matrix(MODELS[1].answers["label"], MODELS[1].answers["rlvo"]).ravel()
    assert matrix.to_dict() == {
        "true_positive": tp, "false_negative": fn, "false_positive": fp, "true_negative": tn,
    }  # fmt: skip


def test_votes_are_counted_by_what_was_true() -> None:
    given = pd.DataFrame({"label": [0, 0, 1, 1, 1], "votes": [0, 2, 2, 4, 4], "folds": 4})
    found = votes_exhibit(given, "negative", standing="hold-out", about="")
    assert found.table["patients_without_rlvo"].tolist() == [1, 0, 1, 0, 0]
    assert found.table["patients_with_rlvo"].tolist() == [0, 0, 1, 0, 2]
    assert "agree on 60 % of the patients; 40 % are tied" in found.caption
