"""Table 1 shows what one computes by hand, and nothing about any single patient."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import chi2_contingency, fisher_exact, kruskal

from rlvo.config.predictors import OwnPredictor
from rlvo.report.console import format_p
from rlvo.report.table_one import HEADINGS, table_one, table_one_table

IS_TEST = np.arange(160) % 5 == 0


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """160 patients; NIHSS and M2 go with rLVO, ten patients have no age, ASPECTS is never known."""
    random = np.random.default_rng(2)
    n = 160
    tmax6 = random.uniform(20, 200, n)
    tmax6[:3] = 0
    frame = pd.DataFrame(
        {
            "age": random.integers(40, 95, n).astype(float),
            "sex": random.choice(["F", "M"], n),
            "hypertension": random.integers(0, 2, n).astype(float),
            "nihss": random.integers(0, 30, n).astype(float),
            "occlusion_site": random.choice(["TICA", "M1", "M2"], n),
            "tmax_gt6_ml": tmax6,
            "tmax_gt10_ml": tmax6 / random.uniform(1.5, 5, n),
            "aspects": np.nan,
            "etici": "3",
        },
        index=pd.Index([f"secret-{i}" for i in range(n)], name="patient_id"),
    )
    frame.iloc[5:15, 0] = np.nan
    return frame


@pytest.fixture(scope="module")
def label(table: pd.DataFrame) -> pd.Series:
    risk = table["nihss"] / 10 + (table["occlusion_site"] == "M2") - 2
    return (np.random.default_rng(3).random(len(table)) < 1 / (1 + np.exp(-risk))).astype(int)


@pytest.fixture(scope="module")
def rows(table: pd.DataFrame, label: pd.Series) -> pd.DataFrame:
    return table_one(table, label, table.index[::5]).set_index("variable")


def quartiles(values: pd.Series, digits: int = 0) -> str:
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def test_cells_are_medians_and_counts_of_each_group(table: pd.DataFrame, label: pd.Series, rows: pd.DataFrame) -> None:
    groups = {
        "development": table[~IS_TEST],
        "development_rlvo": table[~IS_TEST & (label == 1)],
        "test": table[IS_TEST],
        "test_rlvo": table[IS_TEST & (label == 1)],
    }
    for name, group in groups.items():
        assert rows.loc["Patients", name] == str(len(group))
        assert rows.loc["Age, years", name] == quartiles(group["age"])
        assert rows.loc["NIHSS", name] == quartiles(group["nihss"])
        for row, holds in {
            "Sex, female": group["sex"] == "F",
            "Hypertension": group["hypertension"] == 1,
            "Occlusion, M2": group["occlusion_site"] == "M2",
        }.items():
            assert rows.loc[row, name] == f"{holds.sum()} ({100 * holds.mean():.1f})"
        hir = (group["tmax_gt10_ml"] / group["tmax_gt6_ml"]).fillna(0)
        assert rows.loc["HIR", name] == quartiles(hir, 2)


def test_p_compares_rlvo_with_the_others_in_development_only(
    table: pd.DataFrame, label: pd.Series, rows: pd.DataFrame
) -> None:
    development, own = table[~IS_TEST], label[~IS_TEST]
    expected = kruskal(development.loc[own == 1, "nihss"], development.loc[own == 0, "nihss"]).pvalue
    assert rows.loc["NIHSS", "p"] == format_p(expected)
    counts = pd.crosstab(development["occlusion_site"], own)
    assert rows.loc["Occlusion, TICA", "p"] == format_p(chi2_contingency(counts).pvalue)
    changed = label.where(~IS_TEST, 1 - label)
    assert table_one(table, changed, table.index[IS_TEST]).set_index("variable")["p"].equals(rows["p"])


def test_small_counts_are_tested_exactly(table: pd.DataFrame, label: pd.Series) -> None:
    rare = table.assign(hypertension=(np.arange(len(table)) % 40 == 1).astype(float))
    development, own = rare[~IS_TEST], label[~IS_TEST]
    found = table_one(rare, label, table.index[::5]).set_index("variable")
    expected = fisher_exact(pd.crosstab(development["hypertension"], own)).pvalue
    assert found.loc["Hypertension", "p"] == format_p(expected)


def test_smd_is_the_standardised_difference_of_test_from_development(table: pd.DataFrame, rows: pd.DataFrame) -> None:
    a, b = table.loc[~IS_TEST, "nihss"], table.loc[IS_TEST, "nihss"]
    assert rows.loc["NIHSS", "smd"] == f"{abs(b.mean() - a.mean()) / np.sqrt((a.var() + b.var()) / 2):.2f}"
    p, q = (table.loc[chosen, "hypertension"].mean() for chosen in (~IS_TEST, IS_TEST))
    assert rows.loc["Hypertension", "smd"] == f"{abs(q - p) / np.sqrt((p * (1 - p) + q * (1 - q)) / 2):.2f}"


def test_missing_values_are_counted_and_a_variable_without_any_value_is_not_estimable(rows: pd.DataFrame) -> None:
    assert rows.loc["Age, years", "missing"] == "10"
    assert rows.loc["ASPECTS", "missing"] == "160"
    assert list(rows.loc["ASPECTS", ["development", "test_rlvo", "p", "smd"]]) == ["–", "–", "n.e.", "n.e."]


def test_it_holds_no_patient_and_no_outcome(rows: pd.DataFrame) -> None:
    text = rows.reset_index().to_csv()
    assert "secret" not in text
    assert "etici" not in text.lower()
    assert list(rows.reset_index()) == list(HEADINGS)


def test_it_fits_a_terminal(rows: pd.DataFrame) -> None:
    text = io.StringIO()
    Console(file=text, width=80).print(table_one_table(rows.reset_index()))
    [line] = [line for line in text.getvalue().splitlines() if line.startswith("Hypertension")]
    shown = rows.loc["Hypertension", ["development", "development_rlvo", "test", "test_rlvo", "smd"]]
    assert line.split() == ["Hypertension", *" ".join(shown).split()]


def test_a_studys_own_predictors_have_their_rows_with_unit_and_digits(table: pd.DataFrame, label: pd.Series) -> None:
    random, n = np.random.default_rng(4), len(table)
    own = (
        OwnPredictor(name="troponin", kind="continuous", unit="ng/mL", range=(0, 0.5)),
        OwnPredictor(name="collaterals", kind="ordinal", levels=("none", "poor", "good")),
        OwnPredictor(name="anaemia", kind="binary"),
    )
    more = table.assign(
        troponin=random.uniform(0, 0.1, n),
        collaterals=random.choice(["none", "poor", "good"], n),
        anaemia=random.integers(0, 2, n).astype(float),
    )
    rows = table_one(more, label, table.index[::5], own).set_index("variable")
    assert rows.loc["Troponin, ng/mL", "test"] == quartiles(more["troponin"][IS_TEST], 3)
    levels = rows.loc[["Collaterals, none", "Collaterals, poor", "Collaterals, good"], "test"]
    counts = more["collaterals"][IS_TEST].value_counts()[["none", "poor", "good"]]
    assert [int(cell.split(" ")[0]) for cell in levels] == counts.tolist()
    assert rows.loc["Anaemia", "test"].startswith(f"{more['anaemia'][IS_TEST].sum():.0f} (")
    assert not {"Troponin, ng/mL", "Anaemia"} & {*table_one(more, label, table.index[::5])["variable"]}
