"""Tables show every estimate with its interval, what is optimistic, and what cannot be estimated."""

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from rlvo.evaluation.metrics import over_folds
from rlvo.evaluation.performance import Performance
from rlvo.evaluation.subgroups import analyse_subgroups
from rlvo.report.tables import ModelResults, baseline_table, odds_table, performance_table, subgroup_table

NAN = float("nan")


def printed(table: Table, width: int = 80) -> str:
    console = Console(record=True, width=width)
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize("ceiling", [0.978, None])
def test_a_models_row_fits_a_terminal_and_says_what_is_optimistic(ceiling: float | None) -> None:
    holdout = Performance(96, 0, 29, 0.873, (0.791, 0.934), 0.8, NAN, 0.7, 0.9)
    results = ModelResults(pd.DataFrame({"auc": [0.6, 0.7, 0.8]}), holdout, ceiling)
    text = printed(performance_table({"efficientnet-b0 daft": results}, title="study"))
    [line] = [line for line in text.splitlines() if line.startswith("efficientnet")]
    cells = ["0.70±0.10", "0.87", "(0.79–0.93)", *(["0.98"] if ceiling else []), "0.80", "0.70", "0.90", "n.e."]
    assert line.split() == ["efficientnet-b0", "daft", *cells]
    for expected in ("AUC*", "* Optimistic", "96 patients, 29 rLVO"):
        assert expected in text


def test_one_ensemble_under_two_names_is_shown_once_and_rows_are_explained() -> None:
    holdout = Performance(96, 0, 29, 0.873, (0.791, 0.934), 0.8, NAN, 0.7, 0.9)
    folds = pd.DataFrame({"auc": [0.6, 0.7, 0.8]})
    models = {
        "ensemble": ModelResults(folds, holdout, 0.9),
        "BOTH": ModelResults(folds, holdout, 0.9, same_as="ensemble"),
        "densenet121 none": ModelResults(folds, holdout, 0.9),
    }
    text = printed(performance_table(models, title="study"))
    assert sum(line.startswith(("ensemble  ", "BOTH  ", "densenet121 none  ")) for line in text.splitlines()) == 2
    for note in (
        "ensemble and BOTH are the same ensemble",
        "NCCT, CTA, BOTH: ",
        "none: images alone",
        "Best possible: ",
    ):
        assert note in text
    assert "all clinical" not in text


def test_a_baselines_row_holds_mean_and_sd_over_folds() -> None:
    metrics = ("auc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity")
    folds = pd.DataFrame({metric: [0.6, 0.8] for metric in metrics} | {"f1": [NAN, NAN], "auprc": [0.5, NAN]})
    text = printed(baseline_table({"NIHSS + ASPECTS": over_folds(folds)}, title="t"))
    [line] = [line for line in text.splitlines() if line.startswith("NIHSS")]
    assert line.split() == ["NIHSS", "+", "ASPECTS", "0.70±0.14", "0.50", "0.70±0.14", "n.e.", "0.70±0.14", "0.70±0.14"]
    assert "* Optimistic" in text


def test_odds_ratios_that_are_not_estimable_say_why() -> None:
    columns = ["term", "unit", "odds_ratio", "low", "high", "p", "note"]
    rows = [("nihss", "per point", 1.04, 0.9, 1.2, 0.05, ""), ("smoking", "vs no", NAN, NAN, NAN, NAN, "constant")]
    text = printed(odds_table(pd.DataFrame(rows, columns=columns)))
    assert "1.04 (0.90–1.20)" in text
    assert "not estimable: constant" in text


def test_levels_of_subgroups_have_counts_and_tests_their_p_or_the_reason_for_none() -> None:
    random = np.random.default_rng(0)
    label = np.arange(120) % 2
    score = label + random.normal(size=120)
    vote = (score > 0.5).astype(int)
    levels = {"sex": ["F"] * 90 + ["M"] * 30, "occlusion_site": ["M1"] * 118 + ["M2"] * 2}
    shown = [analyse_subgroups(name, pd.Series(level), label, score, vote) for name, level in levels.items()]
    text = printed(subgroup_table(shown, title="groups"), width=160)
    women = shown[0].levels.set_index("level").loc["F"]
    interval = f"{women['auc']:.2f} ({women['auc_low']:.2f}–{women['auc_high']:.2f})"
    for expected in ("Sex: F", "90 (45)", interval, "AUC p", "M2: only 1 with rLVO"):
        assert expected in text
