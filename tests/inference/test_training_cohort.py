import json

import numpy as np
import pandas as pd
import pytest

from rlvo.config.predictors import PAPER_PREDICTORS, OwnPredictor
from rlvo.inference.training_cohort import CohortSummary, shift_warnings, summarise


def draw(patients: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    tmax6 = rng.uniform(40, 200, patients)
    return pd.DataFrame(
        {
            "patient_id": [f"secret-{i}" for i in range(patients)],
            "age": rng.normal(70, 10, patients).round(),
            "sex": rng.choice(["F", "M"], patients),
            "nihss": rng.integers(2, 28, patients).astype(float),
            "occlusion_site": rng.choice(["TICA", "M1", "M2"], patients, p=[0.2, 0.6, 0.2]),
            "tmax_gt6_ml": tmax6,
            "tmax_gt10_ml": tmax6 * rng.uniform(0.2, 0.6, patients),
            **{name: rng.integers(0, 2, patients).astype(float) for name in ("hypertension", "ivt")},
        }
    )


PREDICTORS = ("age", "sex", "nihss", "occlusion_site", "hypertension", "ivt", "tmax_gt6_ml", "hir")


@pytest.fixture(scope="module")
def summary() -> CohortSummary:
    table = draw(400, 0)
    table.loc[:39, "nihss"] = np.nan
    return summarise(table.set_index("patient_id"), [1] * 60 + [0] * 340, PREDICTORS)


def test_the_summary_matches_the_table_and_names_no_patient(summary: CohortSummary) -> None:
    table = draw(400, 0)
    assert (summary.patients, summary.prevalence) == (400, 0.15)
    assert summary.continuous["age"].mean == pytest.approx(table["age"].mean())
    assert summary.continuous["nihss"].sd == pytest.approx(table["nihss"][40:].std())
    assert summary.continuous["hir"].mean == pytest.approx(0.4, abs=0.02)
    assert summary.shares["sex"] == {"F": pytest.approx((table["sex"] == "F").mean())}
    assert summary.shares["hypertension"] == {"1": pytest.approx(table["hypertension"].mean())}
    assert sum(summary.shares["occlusion_site"].values()) == pytest.approx(1)
    assert summary.missing["nihss"] == 0.1
    assert "secret" not in json.dumps(summary.model_dump())
    assert CohortSummary.model_validate_json(summary.model_dump_json()) == summary


def test_values_are_placed_among_the_patients_by_counts_and_percentiles(summary: CohortSummary) -> None:
    table = draw(400, 0)
    assert summary.same("sex", "M") == (table["sex"] == "M").sum()
    assert summary.same("hypertension", 0.0) == (table["hypertension"] == 0).sum()
    assert summary.same("occlusion_site", "M2") == (table["occlusion_site"] == "M2").sum()
    assert summary.same("age", 70.0) is None
    assert (summary.known("nihss"), summary.known("age")) == (360, 400)
    age = summary.continuous["age"]
    for value in (40.0, 60.0, 70.0, 99.0):
        low, high = age.between(value) or (None, None)
        assert low is not None
        assert low <= 100 * (table["age"] < value).mean() + 1
        assert 100 * (table["age"] <= value).mean() - 1 <= high
    earlier = summary.model_dump(exclude={"continuous": {"age": {"percentiles"}}})
    assert CohortSummary.model_validate(earlier).continuous["age"].between(70.0) is None


def warnings(summary: CohortSummary, table: pd.DataFrame) -> list[str]:
    return shift_warnings(summary, table.set_index("patient_id"))


def test_similar_patients_raise_no_alarm(summary: CohortSummary) -> None:
    raised = [warnings(summary, draw(n, seed)) for n in (1, 5, 30, 200) for seed in range(1, 11)]
    assert sum(map(bool, raised)) <= 2  # hardly ever: of 40 tables


def test_a_shift_is_reported_with_both_numbers(summary: CohortSummary) -> None:
    table = draw(60, 1)
    assert warnings(summary, table.assign(age=table["age"] + 15))[0].startswith("Age: mean 8")
    (warning,) = warnings(summary, table.assign(sex="F"))
    assert warning.startswith("Sex, female: 100% of these patients, ")
    assert any("Occlusion, M2" in line for line in warnings(summary, table.assign(occlusion_site="M2")))
    without = warnings(summary, table.drop(columns="ivt"))
    assert without == ["IV thrombolysis: missing in 100% of these patients, 0% in training"]
    severe = table.assign(tmax_gt10_ml=table["tmax_gt6_ml"] * 0.9)
    assert any("HIR: mean 0.9" in line for line in warnings(summary, severe))


def test_every_predictor_of_the_paper_is_summarised() -> None:
    empty = pd.DataFrame(index=pd.Index(["a", "b"], name="patient_id"))
    summary = summarise(empty, [0, 1], PAPER_PREDICTORS)
    assert set(summary.missing) == set(PAPER_PREDICTORS)
    assert set(summary.missing.values()) == {1.0}


def test_a_studys_own_predictors_are_summed_up_and_compared() -> None:
    siphon = OwnPredictor(name="siphon", kind="continuous", unit="mm3", range=(0, 2000))
    grade = OwnPredictor(name="grade", kind="ordinal", levels=("none", "poor", "good"))
    random, names = np.random.default_rng(0), ("siphon", "grade")
    table = pd.DataFrame({"siphon": random.normal(300, 50, 200), "grade": random.choice(["none", "poor", "good"], 200)})
    summary = summarise(table, [0, 1] * 100, names, (siphon, grade))
    assert CohortSummary.model_validate_json(summary.model_dump_json()) == summary
    assert summary.shares["grade"] == table["grade"].value_counts(normalize=True).to_dict()
    assert summary.continuous["siphon"].in_words("siphon", summary.variables).count(" mm3 (SD ") == 1
    assert shift_warnings(summary, table.head(60)) == []
    moved = table.assign(siphon=table["siphon"] + 100, grade="none")
    told = "\n".join(shift_warnings(summary, moved))
    assert f"Siphon: mean {moved['siphon'].mean():.0f} mm3 in these patients" in told
    assert "Grade, none: 100% of these patients" in told
