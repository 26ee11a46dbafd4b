import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from rlvo.cohort.leaks import suspected_leaks
from rlvo.cohort.reading import examine_table
from rlvo.config.predictors import PAPER_PREDICTORS


@pytest.fixture
def label() -> pd.Series:
    return pd.Series([int(i % 3 == 0) for i in range(40)], index=[f"{i:03d}" for i in range(40)])


@pytest.fixture
def table(rows: pd.DataFrame) -> pd.DataFrame:
    return examine_table(rows)[0]


def test_sound_predictors_are_not_suspected(table: pd.DataFrame, label: pd.Series) -> None:
    assert suspected_leaks(table, label, PAPER_PREDICTORS) == []


@pytest.mark.parametrize("direction", [1, -1])
def test_an_auc_above_the_limit_either_way_is_reported_with_its_value(
    table: pd.DataFrame, label: pd.Series, direction: int
) -> None:
    table["nihss"] = np.random.default_rng(0).normal(0, 1, 40) + direction * 3.5 * label.to_numpy()
    (finding,) = suspected_leaks(table, label, PAPER_PREDICTORS)
    assert (finding.patient, finding.field) == (None, "nihss")
    assert float(finding.value or "") == pytest.approx(roc_auc_score(label, table["nihss"]), abs=5e-4)
    assert "its value alone separates rLVO" in finding.what


def test_levels_missing_values_and_inputs_of_derived_predictors_are_judged(
    table: pd.DataFrame, label: pd.Series
) -> None:
    table["occlusion_site"] = np.where(label == 1, "M1", np.where(np.arange(40) % 2, "M2", "TICA"))
    table["cbf_lt30_ml"] = table["cbf_lt30_ml"].mask(label == 0)
    table["tmax_gt10_ml"] = label.astype(float)
    found = suspected_leaks(table, label, ("occlusion_site", "cbf_lt30_ml", "hir"))
    assert {finding.field: finding.what.partition(" alone")[0] for finding in found} == {
        "occlusion_site": "'M1'",
        "cbf_lt30_ml": "whether it is missing",
        "tmax_gt10_ml": "its value",
    }


def test_few_patients_are_not_enough_evidence(table: pd.DataFrame, label: pd.Series) -> None:
    table["age"] = label.astype(float)
    few = [*label.index[label == 1][:9], *label.index[label == 0]]
    assert suspected_leaks(table.loc[few], label[few], ("age",)) == []
    assert len(suspected_leaks(table, label, ("age",))) == 1
