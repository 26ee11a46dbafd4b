import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rlvo.cohort.encoding import fit_encoder
from rlvo.cohort.variables import CTP
from rlvo.ensemble.build import fallbacks
from rlvo.ensemble.member import MemberSpec
from rlvo.ensemble.spec import EnsembleSpec, apply
from rlvo.ensemble.trials import Trials, trial_weights
from rlvo.errors import RlvoError
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.models.classifier import build_classifier
from rlvo.registry.folder import Variant, describe, read_description, write_model_folder
from rlvo.registry.inference import ANSWER_COLUMNS, EnsemblePredictor
from rlvo.registry.members import Members

NUMBERS = ["score", "probability", "p_ncct", "p_cta", "p_both"]


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
    is_developed_on = answers["patient_id"].isin(study.inputs.split.development)
    assert (answers["warnings"][is_developed_on] == "").all()
    assert answers["warnings"][~is_developed_on].str.match("$|.*counts as the nearest in training").all()
    assert answers.sort_values("score")["probability"].is_monotonic_increasing
    assert answers["probability"].between(0, 1, inclusive="neither").all()
    assert answers["notice"].str.contains("never an indication").all()
    assert answers[NUMBERS].notna().all().all()


def test_members_reproduce_their_stored_validation_predictions(
    study: Any, predictor: EnsemblePredictor, trials: Trials
) -> None:
    """From raw volumes and the raw table, through the registered encoders: what training stored, in every fold."""
    answers = predictor.predict(study.raw, study.cohort.parent, members=True).set_index("patient_id")
    stored = trials.predictions.set_index(["member", "patient"])["probability"]
    for member in predictor.description.spec.members:
        own = stored[member.key]
        assert len(own) == 9
        np.testing.assert_allclose(answers.loc[own.index, f"p_{member.key}"], own, rtol=0, atol=1e-5)


def test_bfloat16_is_near_and_other_precisions_are_refused(
    study: Any, predictor: EnsemblePredictor, answers: pd.DataFrame
) -> None:
    rough = predictor.predict(study.raw.head(6), study.cohort.parent, precision="bfloat16")
    np.testing.assert_allclose(rough["p_both"], answers["p_both"][:6], rtol=0, atol=0.02)
    assert (rough["p_both"] != answers["p_both"][:6]).any()
    with pytest.raises(RlvoError, match="precision"):
        predictor.predict(study.raw.head(1), study.cohort.parent, precision="float64")  # type: ignore[arg-type]


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
    assert again["warnings"].tolist() == answers["warnings"].tolist()


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


def test_a_volume_that_is_named_and_cannot_be_used_costs_that_patient_only(
    study: Any, predictor: EnsemblePredictor, answers: pd.DataFrame, tmp_path: Path
) -> None:
    whole = (study.cohort.parent / study.raw["cta"][1]).read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    table = study.raw.iloc[:4].copy()
    table["cta"] = [str(tmp_path / "short.nii.gz"), "nowhere.nii.gz", *table["cta"][2:]]
    got = predictor.predict(table, study.cohort.parent)
    assert got["rlvo"].isna().tolist() == [True, True, False, False]
    assert got.loc[:1, ["score", "probability", "votes", "p_ncct", "p_cta", "p_both"]].isna().all().all()
    assert_same(got.iloc[2:], answers.iloc[2:4])
    assert "short.nii.gz" in got["warnings"][0]
    assert "not answered: cta: no such file: nowhere.nii.gz" in got["warnings"][1]
    assert (got["folds"] == 2).all()
    assert got["notice"].notna().all()


@pytest.fixture(scope="module")
def whole_model(study: Any, specs: dict[str, EnsembleSpec], trials: Trials, tmp_path_factory: Any) -> EnsemblePredictor:
    """Members that all look at the table, beside them members of another study without perfusion, and fallbacks."""
    champion = specs["resnet18 daft"]
    few = tuple(p for p in study.config.cohort.predictors if p not in CTP)
    reduced = Variant(
        name="fewer variables",
        # Another study by its hashes, which trained the same configurations: their names would be the same.
        spec=champion.model_copy(update={"data_hash": "other", "calibration": None}),
        encoders={k: fit_encoder(study.inputs.table.loc[list(study.inputs.split.training(k))], few) for k in range(2)},
    )
    encoders = {fold: study.inputs.encoder(fold) for fold in range(2)}
    description = describe(
        champion,
        encoders,
        Target(grid=study.config.grid),
        reduced=[reduced],
        fallbacks=fallbacks(champion, trials.predictions),
    )
    trained = tmp_path_factory.mktemp("reduced")

    def weights(variant: Variant, member: MemberSpec) -> Path:
        if variant is not description.variants[1]:
            return trial_weights(study.folder, member)
        features = len(variant.encoders[member.fold].feature_names)
        torch.manual_seed(member.fold)
        path = trained / f"{member.key}.safetensors"
        save_file(build_classifier(member.configuration.model, features).state_dict(), path)
        return path

    folder = tmp_path_factory.mktemp("whole") / "model"
    write_model_folder(folder, description, weights)
    return EnsemblePredictor.load(folder)


MISSING: dict[str, tuple[dict[str, Any], str | None, tuple[str, ...]]] = {
    "nothing": ({}, "all inputs", ()),
    "no CTA": ({"cta": None, "vessels": None}, "without CTA", ("answered by the ensemble 'without CTA': no CTA",)),
    "no NCCT": ({"ncct": ""}, "without NCCT", ("answered by the ensemble 'without NCCT': no NCCT",)),
    "no vessel mask": ({"vessels": None}, "all inputs", ("too coarse to find vessels",)),
    "neither": ({"ncct": None, "cta": None}, None, ("not answered: no NCCT and no CTA",)),
    "no perfusion": (
        dict.fromkeys(("cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml")),
        "fewer variables",
        ("answered by the ensemble 'fewer variables': no cbf_lt30_ml, tmax_gt4_ml, tmax_gt6_ml, tmax_gt10_ml, hir",),
    ),
    "one perfusion value": ({"tmax_gt10_ml": None}, "fewer variables", ("no tmax_gt10_ml, hir",)),
    "perfusion and CTA": (
        {"tmax_gt10_ml": None, "cta": None, "vessels": None},
        "without CTA",
        ("answered by the ensemble 'without CTA': no CTA", "imputed: tmax_gt10_ml, hir"),
    ),
    "another variable": ({"nihss": None}, "all inputs", ("imputed: nihss",)),
    "out of what is allowed": ({"age": 250}, "all inputs", ("age: '250' is not allowed", "imputed: age")),
    "out of the training range": ({"age": 119}, "all inputs", ("age: 119 counts as the nearest in training",)),
    "unknown site": ({"occlusion_site": "M7"}, "all inputs", ("occlusion_site: 'M7' is not allowed", "imputed")),
}
"""What is changed in a patient's row, which variant answers (None: none does), and what stands in the warnings."""


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_answered_as_stated_and_said(study: Any, whole_model: EnsemblePredictor, case: str) -> None:
    changes, name, told = MISSING[case]
    patient = study.raw["patient_id"].isin(study.inputs.split.development).idxmax()
    table = study.raw.loc[[patient]].astype(object)
    for column, value in changes.items():
        table.loc[patient, column] = value
    (got,) = whole_model.predict(table, study.cohort.parent, members=True).to_dict("records")
    for words in told:
        assert words in got["warnings"]
    assert bool(got["warnings"]) == bool(told)
    asked = {
        column for column, value in got.items() if re.fullmatch(r"p_\w{12}-f.*", str(column)) and np.isfinite(value)
    }
    assert pd.isna(got["rlvo"]) == (name is None)
    if name is None:
        assert not asked
        return
    (variant,) = (v for v in whole_model.description.variants if v.name == name)
    assert asked == {f"p_{whole_model.description.member_name(variant, member)}" for member in variant.spec.members}
    # The answer is that of the variant's own members, thresholds and calibrator.
    probabilities = {
        m.key: np.array([got[f"p_{whole_model.description.member_name(variant, m)}"]]) for m in variant.spec.members
    }
    expected = apply(variant.spec, probabilities)
    assert got["score"] == expected.score[0]
    assert (got["rlvo"], got["votes"]) == (expected.rlvo[0], expected.votes[0])
    np.testing.assert_equal(got["probability"], expected.calibrated[0])
    assert np.isnan(got["p_both"]) == (name not in ("all inputs", "fewer variables"))


def test_members_that_want_a_vessel_mask_are_not_asked_without_one(
    study: Any, specs: dict[str, EnsembleSpec], predictor: EnsemblePredictor, tmp_path: Path
) -> None:
    def with_prior(member: MemberSpec) -> MemberSpec:
        model = member.configuration.model.model_copy(update={"prior": True})
        return member.model_copy(update={"configuration": member.configuration.model_copy(update={"model": model})})

    without, known = specs["NCCT"], predictor.description
    folds = [f.model_copy(update={"members": tuple(map(with_prior, f.members))}) for f in without.folds]
    champion = without.model_copy(update={"folds": tuple(folds)})

    def weights(variant: Variant, member: MemberSpec) -> Path:
        path, features = tmp_path / member.key, len(variant.encoders[member.fold].feature_names)
        save_file(build_classifier(member.configuration.model, features).state_dict(), path)
        return path

    description = describe(champion, known.encoders, known.target, fallbacks={"without vessels": without})
    write_model_folder(tmp_path / "model", description, weights)
    table = study.raw.head(2).astype(object)
    table.loc[1, "vessels"] = None
    got = EnsemblePredictor.load(tmp_path / "model").predict(table, study.cohort.parent, members=True)
    for member in champion.members:
        assert got[f"p_{member.key}"].notna().tolist() == [True, False]
    for member in without.members:
        assert got[f"p_{member.key}"].notna().tolist() == [False, True]
    assert "answered by the ensemble 'without vessels': no vessel mask" in got["warnings"][1]
    assert "too coarse to find vessels" in got["warnings"][1]


def test_imputed_is_what_the_training_patients_have_in_the_middle(study: Any, whole_model: EnsemblePredictor) -> None:
    encoders = whole_model.description.encoders.values()
    medians = [study.inputs.table.loc[list(study.inputs.split.training(k)), "nihss"].median() for k in range(2)]
    assert [encoder.fill["nihss"] for encoder in encoders] == medians
    got = whole_model.predict(study.raw[["patient_id", "ncct", "cta"]].head(1), study.cohort.parent)
    assert "imputed: age, sex" in got["warnings"][0]


def test_what_no_member_looks_at_is_not_said_to_be_imputed(
    study: Any, specs: dict[str, EnsembleSpec], predictor: EnsemblePredictor
) -> None:
    known = predictor.description
    blind = describe(specs["resnet18 none"], known.encoders, known.target)
    members = Members(lambda key: (study.folder / "trials" / key.split("-")[0] / f"fold-{key[-1]}", None))
    got = EnsemblePredictor(blind, members).predict(
        study.raw[["patient_id", "ncct", "cta"]].head(1), study.cohort.parent
    )
    assert "imputed" not in got["warnings"][0]
    assert got["rlvo"].notna().all()


def test_members_there_is_no_room_for_are_read_again(
    study: Any, model_folder: Path, answers: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvo.registry.members.KEPT_BYTES", 0)
    assert_same(
        EnsemblePredictor.load(model_folder).predict(study.raw.head(2), study.cohort.parent), answers[:2], atol=0
    )


def test_no_row_gives_no_answer(study: Any, predictor: EnsemblePredictor) -> None:
    assert predictor.predict(study.raw.head(0), study.cohort.parent).columns.tolist() == list(ANSWER_COLUMNS)


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
    with safe_open(model_folder / "members.safetensors", "pt") as file:
        named = {name.partition("/")[0] for name in file.keys()}  # noqa: SIM118
    assert named == {member.key for member in description.spec.members}


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
