import itertools

import numpy as np
import pandas as pd

from rlvo.cohort.label import derive_label


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index([f"p{i}" for i in range(len(next(iter(columns.values()))))]))  # type: ignore[arg-type]


def test_every_combination_of_outcomes() -> None:
    combinations = list(itertools.product([50.0, 50.1], ["0", "1", "2a", "2b", "2b50", "2b67", "2c", "3"], [0.0, 1.0]))
    stenosis, etici, rescue = zip(*combinations, strict=True)
    label, findings = derive_label(table(final_stenosis_pct=stenosis, etici=etici, rescue_treatment=rescue))
    assert not findings
    assert list(label) == [int(s > 50 or e in ("0", "1", "2a") or r == 1) for s, e, r in combinations]
    assert sum(label == 0) == 5


def test_one_criterion_makes_a_patient_rlvo_and_all_three_are_needed_to_exclude_it() -> None:
    some = table(final_stenosis_pct=[np.nan, 20], etici=["1", "3"], rescue_treatment=[np.nan, np.nan])
    label, (finding,) = derive_label(some)
    assert label["p0"] == 1
    assert np.isnan(label["p1"])
    assert str(finding).startswith("patient p1, rlvo: no label")


def test_a_given_label_fills_gaps_and_must_not_contradict_outcomes() -> None:
    label, findings = derive_label(table(rlvo=[1.0, 0.0, np.nan], etici=["3", None, "2a"]))
    assert (list(label), findings) == ([1, 0, 1], [])
    assert list(derive_label(table(rlvo=[1.0, 0.0]))[0]) == [1, 0]
    _, (finding,) = derive_label(table(rlvo=[0.0, 1.0], etici=["2a", "2a"]))
    assert str(finding).startswith("patient p0, rlvo: 0 contradicts the outcomes, which give 1")
