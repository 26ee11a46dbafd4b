"""The pictures of a search have the proposals behind them, whatever kinds of hyperparameters there are."""

import numpy as np
import pandas as pd
import pytest

from rlvo.report.search_figures import history_exhibit, importance_exhibit, parallel_exhibit
from rlvo.report.search_tables import MOST, compute_exhibit, configurations_exhibit, settings_exhibit

PROPOSALS = pd.DataFrame(
    {
        "number": [0, 1, 2, 3, 4],
        "state": ["finished", "failed", "finished", "pruned", "finished"],
        "objective": [0.6, np.nan, 0.8, np.nan, 0.7],
        "model.modality": ["NCCT", "CTA", "CTA", "NCCT", "BOTH"],
        "model.daft.bias": [True, None, False, None, None],
        "training.learning_rate": [1e-4, 1e-3, 1e-2, 1e-5, 3e-3],
        "training.epochs": [5, 5, 5, 5, 5],
    }
)
IMPORTANCE = pd.DataFrame({"parameter": ["training.learning_rate", "model.modality"], "fANOVA": [0.7, 0.3]})


def test_history_keeps_the_best_so_far_and_counts_what_ended_how() -> None:
    found = history_exhibit(PROPOSALS)
    assert found.table["best_so_far"].tolist() == [0.6, 0.6, 0.8, 0.8, 0.8]
    assert found.caption.startswith("3 finished, 1 failed, 1 pruned.")
    assert found.standing == "optimistic"


def test_parallel_coordinates_show_what_varied_the_most_important_first() -> None:
    found = parallel_exhibit(PROPOSALS, IMPORTANCE)
    assert found is not None
    assert list(found.table) == ["number", "training.learning_rate", "model.modality", "model.daft.bias", "objective"]
    assert len(found.table) == 3
    assert parallel_exhibit(PROPOSALS.head(2), IMPORTANCE) is None
    assert parallel_exhibit(PROPOSALS[["number", "state", "objective", "training.epochs"]], IMPORTANCE) is None
    assert importance_exhibit(IMPORTANCE).figure is not None


def test_configurations_come_best_first_and_all_are_in_the_file() -> None:
    trials = pd.DataFrame(
        [
            {"configuration": f"k{number}", "label": f"c{number}", "fold": fold, "epochs": 2, "seconds": 30.0}
            | {"val/auc": 0.5 + fold / 10 + number / 100}
            for number in range(MOST + 2)
            for fold in range(2)
        ]
    )
    found = configurations_exhibit(trials)
    assert found.table["configuration"].tolist() == [f"k{number}" for number in reversed(range(MOST + 2))]
    assert found.shown is not None
    assert len(found.shown) == MOST
    assert found.shown.loc[0, "AUC (optimistic)"] == "0.71±0.07"
    assert found.shown.loc[0, "SE of AUC"] == "0.050"
    assert found.shown.loc[0, "minutes"] == "1.0"
    assert f"The first {MOST} of {MOST + 2}." in found.caption
    assert "repeats" not in found.shown


def test_settings_are_in_words() -> None:
    siphon = {"name": "siphon", "kind": "continuous", "unit": "mm3", "range": [0.0, 2000.0], "levels": None}
    found = settings_exhibit("settings", "Settings", [("cohort.predictors", ["age", siphon]), ("folds.folds", 4)])
    shown = dict(found.table.itertuples(index=False))
    assert shown["cohort.predictors"] == "age, siphon (kind continuous; unit mm3; range 0.0, 2000.0)"
    assert shown["folds.folds"] == "4"


def test_repeats_are_one_row_with_their_mean() -> None:
    aucs = {"lucky": [(0.9, 0.9), (0.5, 0.6)], "steady": [(0.8, 0.7)]}
    trials = pd.DataFrame(
        {"configuration": name, "label": name, "fold": fold, "epochs": 2, "seconds": 30.0, "val/auc": auc}
        for name, repeats in aucs.items()
        for repeat in repeats
        for fold, auc in enumerate(repeat)
    )
    found = configurations_exhibit(trials)
    assert found.shown is not None
    assert found.shown["configuration"].tolist() == ["steady", "lucky"]
    assert found.shown["repeats"].tolist() == ["1", "2"]
    assert found.shown["epochs"].tolist() == ["4", "8"]
    lucky = found.table.iloc[1]
    assert (lucky["val/auc_mean"], lucky["val/auc_se"]) == pytest.approx((0.725, 0.025))
    assert "of the mean over repeats" in found.caption


@pytest.mark.parametrize(
    ("joules", "shown", "caption"),
    [
        ((3.6e6, 1.8e6, np.nan, np.nan), ["1.5", "not recorded", "not recorded", "1.5"], "of 2 of 4 trials"),
        ((np.nan,) * 4, ["not recorded"] * 4, "Energy was not recorded"),
    ],
)
def test_what_trials_took_adds_up(joules: tuple[float, ...], shown: list[str], caption: str) -> None:
    rows = [("finished", 4, 4, 3600.0), ("finished", 4, 4, 1800.0), ("pruned", 1, 4, 900.0), ("skipped", 0, 4, np.nan)]
    trials = pd.DataFrame(rows, columns=["state", "epochs", "planned", "seconds"]).assign(joules=joules)
    found = compute_exhibit(trials)
    assert found.shown is not None
    assert found.shown["energy, kWh"].tolist() == shown
    assert caption in found.caption
    table = found.table.set_index("state").drop(columns="energy_kwh")
    assert table.loc["all"].to_dict() == {"trials": 4, "epochs": 9, "epochs_planned": 16, "seconds": 6300.0}
    assert found.shown["hours of training"].tolist() == ["1.50", "0.25", "0.00", "1.75"]
