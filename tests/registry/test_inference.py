from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rlvo.ensemble.spec import EnsembleSpec
from rlvo.ensemble.trials import Trials, trial_weights
from rlvo.errors import RlvoError
from rlvo.imaging.store import VolumeStore
from rlvo.registry.folder import describe, read_description
from rlvo.registry.inference import ANSWER_COLUMNS, EnsemblePredictor, Members

NUMBERS = ["score", "p_ncct", "p_cta", "p_both"]


@pytest.fixture(scope="module")
def answers(study: Any, predictor: EnsemblePredictor) -> pd.DataFrame:
    return predictor.predict(study.raw, study.cohort.parent)


def assert_same(one: pd.DataFrame, other: pd.DataFrame, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(one[NUMBERS].to_numpy(float), other[NUMBERS].to_numpy(float), rtol=0, atol=atol)
    assert one["rlvo"].tolist() == other["rlvo"].tolist()
    assert one["votes"].tolist() == other["votes"].tolist()


def test_one_row_a_patient_with_the_promised_columns(study: Any, answers: pd.DataFrame) -> None:
    assert tuple(answers.columns) == ANSWER_COLUMNS
    assert answers["patient_id"].tolist() == study.raw["patient_id"].tolist()
    assert set(answers["rlvo"]) <= {0, 1}
    assert (answers["folds"] == 2).all()
    assert (answers["rlvo"] == (answers["votes"] == 2)).all()  # one of two is a tie, which is negative
    assert (answers["warnings"] == "").all()
    assert answers["notice"].str.contains("never an indication").all()
    assert answers[NUMBERS].notna().all().all()


def test_members_reproduce_their_stored_validation_predictions(
    study: Any, predictor: EnsemblePredictor, trials: Trials
) -> None:
    """From raw volumes and the raw table, through the registered encoders: what training stored, in every fold."""
    answer = predictor.members.answer(study.raw, study.cohort.parent)
    stored = trials.predictions.set_index(["member", "patient"])["probability"]
    for key, probabilities in answer.probabilities.items():
        own = stored[key]
        fresh = pd.Series(probabilities, index=answer.patients)[own.index]
        assert len(own) == 9
        np.testing.assert_allclose(fresh, own, rtol=0, atol=1e-5)


def test_the_types_of_cells_do_not_matter(study: Any, predictor: EnsemblePredictor, answers: pd.DataFrame) -> None:
    text = study.raw.astype(str)
    mixed = study.raw.assign(
        hypertension=study.raw["hypertension"].astype(bool),
        age=study.raw["age"].astype("int8"),
        vessels=None,
        ivt=study.raw["ivt"].astype(float),
    )
    for table in (text, mixed, study.raw.convert_dtypes(), study.raw.set_index(pd.RangeIndex(100, 124))):
        assert_same(predictor.predict(table, study.cohort.parent), answers)


def test_outcomes_and_other_columns_are_not_looked_at(
    study: Any, predictor: EnsemblePredictor, answers: pd.DataFrame
) -> None:
    table = study.raw.assign(rlvo="nonsense", etici="9", remark="x", aspects=99)
    again = predictor.predict(table, study.cohort.parent)
    assert_same(again, answers, atol=0)
    assert (again["warnings"] == "").all()


def test_a_patient_alone_is_answered_as_among_others_in_any_order(
    study: Any, predictor: EnsemblePredictor, answers: pd.DataFrame
) -> None:
    chosen = study.raw.iloc[[7, 2, 15]]
    assert_same(predictor.predict(chosen, study.cohort.parent), answers.iloc[[7, 2, 15]])
    assert_same(predictor.predict(chosen.iloc[:1], study.cohort.parent), answers.iloc[[7]])


def test_the_store_gives_the_same_answers(study: Any, predictor: EnsemblePredictor, answers: pd.DataFrame) -> None:
    told: list[tuple[int, int]] = []
    store = VolumeStore(study.workdir.store)
    stored = predictor.predict(study.raw, study.cohort.parent, store=store, progress=lambda *at: told.append(at))
    assert_same(stored, answers)
    assert told == [(i + 1, 24) for i in range(24)]


def test_a_missing_or_damaged_volume_costs_that_patient_only(
    study: Any, predictor: EnsemblePredictor, answers: pd.DataFrame, tmp_path: Path
) -> None:
    whole = (study.cohort.parent / study.raw["cta"][1]).read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    table = study.raw.iloc[:5].copy()
    table["cta"] = ["", str(tmp_path / "short.nii.gz"), "nowhere.nii.gz", *table["cta"][3:]]
    got = predictor.predict(table, study.cohort.parent)
    assert got["rlvo"].isna().tolist() == [True, True, True, False, False]
    assert got.loc[:2, ["score", "votes", "p_ncct", "p_cta", "p_both"]].isna().all().all()
    assert_same(got.iloc[3:], answers.iloc[3:5])
    assert "not answered: no CTA" in got["warnings"][0]
    assert "short.nii.gz" in got["warnings"][1]
    assert "no such file: nowhere.nii.gz" in got["warnings"][2]
    assert got["warnings"][3:].tolist() == ["", ""]
    assert (got["folds"] == 2).all()
    assert got["notice"].notna().all()


def test_what_is_missing_or_not_allowed_is_imputed_and_named(
    study: Any, predictor: EnsemblePredictor, specs: dict[str, EnsembleSpec]
) -> None:
    known = predictor.members.description
    description = describe(specs["resnet18 daft"], known.encoders, known.target)
    members = specs["resnet18 daft"].members  # of which every one looks at the table
    predictor = EnsemblePredictor(Members.load(description, members, lambda m: trial_weights(study.folder, m)))
    whole = predictor.predict(study.raw.iloc[:4], study.cohort.parent)
    table = study.raw.iloc[:4].astype(object)
    table.loc[0, "nihss"] = None
    table.loc[1, "age"] = 250
    table.loc[2, "occlusion_site"] = "M7"
    got = predictor.predict(table, study.cohort.parent)
    assert got["rlvo"].notna().all()
    assert got["warnings"][0] == "imputed: nihss"
    assert "age: '250' is not allowed" in got["warnings"][1]
    assert "imputed: age" in got["warnings"][1]
    assert "occlusion_site: 'M7' is not allowed" in got["warnings"][2]
    assert got["warnings"][3] == ""
    assert_same(got.iloc[3:], whole.iloc[3:])
    assert (got["p_both"][:3] != whole["p_both"][:3]).all()
    # Imputed is what the fold's training patients have in the middle, nothing of this table.
    medians = [study.inputs.table.loc[list(study.inputs.split.training(k)), "nihss"].median() for k in range(2)]
    assert [encoder.fill["nihss"] for encoder in predictor.members.description.encoders.values()] == medians


def test_without_any_clinical_column_all_is_imputed(study: Any, predictor: EnsemblePredictor) -> None:
    got = predictor.predict(study.raw[["patient_id", "ncct", "cta"]].head(2), study.cohort.parent)
    assert got["rlvo"].notna().all()
    assert got["warnings"].str.contains("imputed: age, sex").all()


def test_rows_that_cannot_be_told_apart_are_refused(study: Any, predictor: EnsemblePredictor) -> None:
    with pytest.raises(RlvoError, match="more than once"):
        predictor.predict(study.raw.iloc[[0, 0]], study.cohort.parent)
    with pytest.raises(RlvoError, match="patient_id"):
        predictor.predict(study.raw.drop(columns="patient_id"), study.cohort.parent)


def test_the_description_names_no_patient_and_no_path(study: Any, model_folder: Path) -> None:
    text = (model_folder / "ensemble.json").read_text()
    assert "PLANTED" not in text
    assert str(study.workdir.path.parent) not in text
    description = read_description(model_folder)
    assert description.predictors == study.config.cohort.predictors
    assert {path.stem for path in (model_folder / "members").iterdir()} == {m.key for m in description.spec.members}


def test_a_model_of_another_preparation_or_a_damaged_one_is_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match="no model lies here"):
        EnsemblePredictor.load(tmp_path)
    description = read_description(model_folder)
    (tmp_path / "ensemble.json").write_text(description.model_copy(update={"preparation": "other"}).model_dump_json())
    with pytest.raises(RlvoError, match="prepares them otherwise"):
        EnsemblePredictor.load(tmp_path)
    (tmp_path / "ensemble.json").write_text(description.model_dump_json()[:-40])
    with pytest.raises(RlvoError, match="damaged"):
        EnsemblePredictor.load(tmp_path)
    (tmp_path / "ensemble.json").write_text(description.model_dump_json())
    with pytest.raises(RlvoError, match="no weights"):
        EnsemblePredictor.load(tmp_path)
