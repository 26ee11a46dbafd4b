"""External validation and comparisons, as tables, card lines and JSON."""

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from rlvo.cohort.selection import Exclusion, Selection
from rlvo.evaluation.answers import compare_answers, measure_answers
from rlvo.report.external import answers_json, answers_table, card_lines, comparison_json, comparison_table

PATIENTS = pd.Index([f"p{i}" for i in range(40)], name="patient_id")
LABEL = pd.Series(np.tile([1, 0, 0, 0], 10), index=PATIENTS)


def answers(seed: int) -> pd.DataFrame:
    """The first two patients have no answer, one of them with rLVO."""
    score = np.random.default_rng(seed).normal(LABEL - 0.4)
    table = pd.DataFrame({"rlvo": pd.array((score > 0).astype(int), "Int64"), "score": score}, index=PATIENTS)
    table["probability"] = 1 / (1 + np.exp(-score))
    table.iloc[:2] = pd.NA
    return table.astype({"score": float, "probability": float})


def text(table: Table) -> str:
    console = Console(record=True, width=100)
    console.print(table)
    return " ".join(console.export_text().split())


def test_every_patient_is_accounted_for() -> None:
    found = measure_answers(answers(0), LABEL)
    selection = Selection(tuple(PATIENTS), (Exclusion("severe artefacts", ("x", "y", "z")),))
    shown = text(answers_table(found, selection, title="a on b"))
    for line in ("patients 43", "− severe artefacts 3", "− not scored 2 (1 with rLVO)", "scored 38 (9 with rLVO)"):
        assert line in shown
    auc = found.estimates.loc["auc", "value"]
    assert f"AUC {auc:.2f} (" in shown
    assert "Slope" in shown
    lines = card_lines(found)
    assert lines[:2] == ["38 patients scored, 9 with rLVO", "not scored: 2, 1 with rLVO"]
    assert f"AUC {auc:.2f} (" in lines[2]
    assert answers_json(found)["estimates"]["auc"]["value"] == auc


def test_a_model_without_probabilities_says_so() -> None:
    found = measure_answers(answers(0).assign(probability=np.nan), LABEL)
    shown = text(answers_table(found, Selection(tuple(PATIENTS), ()), title=""))
    assert "the model gives no probability" in shown
    assert answers_json(found)["calibration"] is None
    assert not [line for line in card_lines(found) if "probability" in line]


def test_two_models_stand_side_by_side() -> None:
    compared = compare_answers(answers(0), answers(1), LABEL)
    shown = text(comparison_table(compared, ("one", "two"), title=""))
    auc = compared.auc
    assert f"{auc.auc_a - auc.auc_b:+.2f} (".replace("-", "−") in shown
    assert f"right alone {compared.decisions.only_a} {compared.decisions.only_b} p" in shown
    assert f"{len(compared.changed)} changed answers" in shown
    named = comparison_json(compared)["changed"]
    assert [each["patient_id"] for each in named] == compared.changed.index.tolist()
