import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from support.tiny_study import TinyStudy

from rlvo.cohort.encoding import fit_encoder
from rlvo.cohort.labels import names_in_words
from rlvo.cohort.variables import CTP
from rlvo.ensemble.build import fit_fallbacks
from rlvo.ensemble.spec import EnsembleSpec, MemberSpec, apply_ensemble
from rlvo.errors import RlvoError
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.inference.description import Variant, describe, write_model_folder
from rlvo.inference.members import Members
from rlvo.inference.patients import CheckedTable
from rlvo.inference.predictor import ANSWER_COLUMNS, EnsemblePredictor, ask_members, shape_answers
from rlvo.inference.training_cohort import SYNTHETIC
from rlvo.models.classifier import Classifier
from rlvo.study.trials import EndedTrials

NUMBERS = ["score", "probability", "p_ncct", "p_cta", "p_both"]
Predict = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def predict(study: TinyStudy, predictor: EnsemblePredictor) -> Predict:
    return partial(predictor.predict, folder=study.cohort.parent)


@pytest.fixture(scope="module")
def answers(study: TinyStudy, predict: Predict) -> pd.DataFrame:
    return predict(study.raw)


def assert_same(one: pd.DataFrame, other: pd.DataFrame, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(one[NUMBERS].to_numpy(float), other[NUMBERS].to_numpy(float), rtol=0, atol=atol)
    assert one["rlvo"].tolist() == other["rlvo"].tolist()
    assert one["votes"].tolist() == other["votes"].tolist()


def test_one_row_per_patient_with_the_promised_columns(study: TinyStudy, answers: pd.DataFrame) -> None:
    assert tuple(answers.columns) == ANSWER_COLUMNS
    assert answers["patient_id"].tolist() == study.raw["patient_id"].tolist()
    assert set(answers["rlvo"]) <= {0, 1}
    assert (answers["folds"] == 2).all()
    assert (answers["rlvo"] == (answers["votes"] == 2)).all()  # one of two is a tie, which is negative
    is_development = answers["patient_id"].isin(study.inputs.split.development)
    assert (answers["warnings"][is_development] == "").all()
    assert answers["warnings"][~is_development].str.match("$|.*counts as the nearest in training").all()
    assert answers.sort_values("score")["probability"].is_monotonic_increasing
    assert answers["probability"].between(0, 1, inclusive="neither").all()
    assert answers["notice"].str.contains("never an indication").all()
    assert answers[NUMBERS].notna().all().all()


def test_every_answer_of_a_model_of_synthetic_patients_says_so(study: TinyStudy, predictor: EnsemblePredictor) -> None:
    cohort = predictor.description.cohort
    assert cohort is not None
    description = predictor.description.model_copy(update={"cohort": cohort.model_copy(update={"synthetic": True})})
    own = EnsemblePredictor(description, predictor.members).predict(study.raw.head(3), study.cohort.parent)
    assert own["warnings"].str.startswith(SYNTHETIC).all()


def test_members_reproduce_their_stored_validation_predictions(
    study: TinyStudy, predictor: EnsemblePredictor, trials: EndedTrials
) -> None:
    """From raw volumes and the raw table, through the registered encoders, to what training stored in every fold."""
    answers = predictor.predict(study.raw, study.cohort.parent, members=True).set_index("patient_id")
    stored = trials.predictions.set_index(["member", "patient"])["probability"]
    for member in predictor.description.spec.members:
        own = stored[member.key]
        assert len(own) == 9
        np.testing.assert_allclose(answers.loc[own.index, f"p_{member.key}"], own, rtol=0, atol=1e-5)


def test_bfloat16_is_close_and_others_are_refused(study: TinyStudy, predict: Predict, answers: pd.DataFrame) -> None:
    rough = predict(study.raw.head(6), precision="bfloat16")
    np.testing.assert_allclose(rough["p_both"], answers["p_both"][:6], rtol=0, atol=0.02)
    assert (rough["p_both"] != answers["p_both"][:6]).any()
    with pytest.raises(RlvoError, match="precision: 'float64' is not one of"):
        predict(study.raw.head(1), precision="float64")


@pytest.mark.slow
def test_the_types_of_cells_do_not_matter(study: TinyStudy, predict: Predict, answers: pd.DataFrame) -> None:
    text = study.raw.astype(str)
    mixed = study.raw.assign(
        hypertension=study.raw["hypertension"].astype(bool),
        age=study.raw["age"].astype("int8"),
        vessels=None,
        ivt=study.raw["ivt"].astype(float),
    )
    for table in (text, mixed, study.raw.convert_dtypes(), study.raw.set_index(pd.RangeIndex(100, 124))):
        assert_same(predict(table), answers)


def test_outcomes_and_other_columns_are_ignored(study: TinyStudy, predict: Predict, answers: pd.DataFrame) -> None:
    again = predict(study.raw.assign(rlvo="nonsense", etici="9", remark="x", aspects=99))
    assert_same(again, answers, atol=0)
    assert again["warnings"].tolist() == answers["warnings"].tolist()


def test_answers_depend_neither_on_the_other_patients_nor_on_their_order(
    study: TinyStudy, predict: Predict, answers: pd.DataFrame
) -> None:
    chosen = study.raw.iloc[[7, 2, 15]]
    assert_same(predict(chosen), answers.iloc[[7, 2, 15]])
    assert_same(predict(chosen.iloc[:1]), answers.iloc[[7]])


def test_the_store_gives_the_same_answers(study: TinyStudy, predict: Predict, answers: pd.DataFrame) -> None:
    assert_same(predict(study.raw, store=VolumeStore(study.workdir.store)), answers)


def test_members_asked_one_by_one_and_shaped_together_give_the_same_answers(
    study: TinyStudy, predictor: EnsemblePredictor, answers: pd.DataFrame
) -> None:
    """As the hold-out is evaluated."""
    description = predictor.description
    members = {member.key: member for member in description.spec.members}
    table = CheckedTable.read(study.raw, study.cohort.parent, description.predictors)
    seen: list[tuple[int, int]] = []
    sufficient = [description.variants[0].channels]
    patients = table.prepare(description.target, sufficient, progress=lambda *counts: seen.append(counts))
    asked = [ask_members(predictor.members, members, description.variants[0], patient) for patient in patients]
    pd.testing.assert_frame_equal(shape_answers(description.spec, asked, description.notice), answers)
    assert seen == [(i + 1, 24) for i in range(24)]


def test_a_volume_that_cannot_be_used_affects_only_its_patient(
    study: TinyStudy, predict: Predict, answers: pd.DataFrame, tmp_path: Path
) -> None:
    whole = (study.cohort.parent / study.raw["cta"][1]).read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    table = study.raw.iloc[:4].copy()
    table["cta"] = [str(tmp_path / "short.nii.gz"), "nowhere.nii.gz", *table["cta"][2:]]
    got = predict(table)
    assert got["rlvo"].isna().tolist() == [True, True, False, False]
    assert got.loc[:1, [*NUMBERS, "votes"]].isna().all().all()
    assert_same(got.iloc[2:], answers.iloc[2:4])
    assert "short.nii.gz" in got["warnings"][0]
    assert "not answered: cta: no such file: nowhere.nii.gz" in got["warnings"][1]
    assert (got["folds"] == 2).all()
    assert got["notice"].notna().all()


@pytest.fixture(scope="module")
def whole_model(
    study: TinyStudy, specs: dict[str, EnsembleSpec], trials: EndedTrials, tmp_path_factory: pytest.TempPathFactory
) -> EnsemblePredictor:
    """Members that all look at the table, members of another study without perfusion, and fallbacks."""
    champion = specs["resnet18 daft"]
    few = tuple(p for p in study.config.cohort.predictors if p not in CTP)
    reduced = Variant(
        name="fewer variables",
        # Another study, judging by its hashes, which trained the same configurations: their keys are the same.
        spec=champion.model_copy(update={"data_hash": "other", "calibration": None}),
        encoders={k: fit_encoder(study.inputs.table.loc[list(study.inputs.split.training(k))], few) for k in range(2)},
    )
    fallbacks = fit_fallbacks(champion, trials.predictions, study.config.ensemble)
    description = describe(
        champion, study.encoders, Target(grid=study.config.grid), reduced=[reduced], fallbacks=fallbacks
    )
    trained = tmp_path_factory.mktemp("reduced")

    def weights(variant: Variant, member: MemberSpec) -> Path:
        if variant is not description.variants[1]:
            return study.weights(variant, member)
        return write_random_member(trained, variant, member)

    folder = tmp_path_factory.mktemp("whole") / "model"
    write_model_folder(folder, description, weights)
    return EnsemblePredictor.load(folder)


def write_random_member(folder: Path, variant: Variant, member: MemberSpec) -> Path:
    torch.manual_seed(member.fold)
    path = folder / f"{member.key}.safetensors"
    features = len(variant.encoders[member.fold].feature_names)
    save_file(Classifier(member.configuration.model, features).state_dict(), path)
    return path


MISSING: dict[str, tuple[dict[str, Any], str | None, tuple[str, ...]]] = {
    "nothing": ({}, "all inputs", ()),
    "no CTA": ({"cta": None, "vessels": None}, "without CTA", ("answered by the ensemble 'without CTA': no CTA",)),
    "no NCCT": ({"ncct": ""}, "without NCCT", ("answered by the ensemble 'without NCCT': no NCCT",)),
    "no vessel mask": ({"vessels": None}, "all inputs", ("too coarse to find vessels",)),
    "neither": ({"ncct": None, "cta": None}, None, ("not answered: no NCCT and no CTA",)),
    "no perfusion": (
        dict.fromkeys(("cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml")),
        "fewer variables",
        ("answered by the ensemble 'fewer variables': no CBF < 30 %, Tmax > 4 s, Tmax > 6 s, Tmax > 10 s, HIR",),
    ),
    "one perfusion value": ({"tmax_gt10_ml": None}, "fewer variables", ("no Tmax > 10 s, HIR",)),
    "perfusion and CTA": (
        {"tmax_gt10_ml": None, "cta": None, "vessels": None},
        "without CTA",
        (
            "answered by the ensemble 'without CTA': no CTA",
            "imputed: Tmax > 10 s, HIR (Tmax volumes in proportion to the measured ones)",
        ),
    ),
    "another variable": ({"nihss": None}, "all inputs", ("imputed: NIHSS",)),
    "not allowed": (
        {"age": 250},
        "all inputs",
        ("age: '250' is not allowed (allowed: 0 to 120 years)", "imputed: Age"),
    ),
    "outside the training range": ({"age": 119}, "all inputs", ("Age: 119 years counts as the nearest in training",)),
    "unknown site": ({"occlusion_site": "M7"}, "all inputs", ("occlusion_site: 'M7' is not allowed", "imputed")),
}
"""What is changed in a patient's row, which variant answers (None: none does), and what the warnings contain."""


@pytest.mark.parametrize("case", MISSING)
def test_missing_inputs_are_handled_as_documented_and_reported(
    study: TinyStudy, whole_model: EnsemblePredictor, case: str
) -> None:
    changes, name, expected_warnings = MISSING[case]
    patient = study.raw["patient_id"].isin(study.inputs.split.development).idxmax()
    table = study.raw.loc[[patient]].astype(object)
    for column, value in changes.items():
        table.loc[patient, column] = value
    (got,) = whole_model.predict(table, study.cohort.parent, members=True).to_dict("records")
    for text in expected_warnings:
        assert text in got["warnings"]
    assert bool(got["warnings"]) == bool(expected_warnings)
    asked = {
        column for column, value in got.items() if re.fullmatch(r"p_\w{12}-f.*", str(column)) and np.isfinite(value)
    }
    assert pd.isna(got["rlvo"]) == (name is None)
    if name is None:
        assert not asked
        return
    (variant,) = (v for v in whole_model.description.variants if v.name == name)
    columns = {m.key: f"p_{whole_model.description.member_name(variant, m)}" for m in variant.spec.members}
    assert asked == set(columns.values())
    # The answer is that of the variant's own members, thresholds and calibrator.
    expected = apply_ensemble(variant.spec, {key: np.array([got[column]]) for key, column in columns.items()})
    assert got["score"] == expected.score[0]
    assert (got["rlvo"], got["votes"]) == (expected.rlvo[0], expected.votes[0])
    np.testing.assert_equal(got["probability"], expected.calibrated[0])
    assert np.isnan(got["p_both"]) == (name not in ("all inputs", "fewer variables"))


def test_members_that_need_a_vessel_mask_are_not_asked_without_one(
    study: TinyStudy, specs: dict[str, EnsembleSpec], predictor: EnsemblePredictor, tmp_path: Path
) -> None:
    def with_prior(member: MemberSpec) -> MemberSpec:
        model = member.configuration.model.model_copy(update={"prior": True})
        return member.model_copy(update={"configuration": member.configuration.model_copy(update={"model": model})})

    without = specs["NCCT"]
    folds = [f.model_copy(update={"members": tuple(map(with_prior, f.members))}) for f in without.folds]
    champion = without.model_copy(update={"folds": tuple(folds)})
    description = describe(
        champion, study.encoders, predictor.description.target, fallbacks={"without vessels": without}
    )
    write_model_folder(tmp_path / "model", description, lambda v, member: write_random_member(tmp_path, v, member))
    table = study.raw.head(2).astype(object)
    table.loc[1, "vessels"] = None
    got = EnsemblePredictor.load(tmp_path / "model").predict(table, study.cohort.parent, members=True)
    for member in champion.members:
        assert got[f"p_{member.key}"].notna().tolist() == [True, False]
    for member in without.members:
        assert got[f"p_{member.key}"].notna().tolist() == [False, True]
    assert "answered by the ensemble 'without vessels': no vessel mask" in got["warnings"][1]
    assert "too coarse to find vessels" in got["warnings"][1]


def test_an_ensemble_that_ignores_the_table_imputes_nothing_and_answers_without_perfusion(
    study: TinyStudy, specs: dict[str, EnsembleSpec], predictor: EnsemblePredictor
) -> None:
    blind = {"images only": specs["resnet18 none"]}
    description = describe(specs["resnet18 daft"], study.encoders, predictor.description.target, fallbacks=blind)
    named = description.networks()
    members = Members(lambda name: (study.weights(*named[name]), None))
    table = study.raw[["patient_id", "ncct", "cta"]].head(1)
    got = EnsemblePredictor(description, members).predict(table, study.cohort.parent)
    missing = names_in_words(p for p in study.config.cohort.predictors if p in CTP)
    assert got["warnings"][0].startswith(f"answered by the ensemble 'images only': no {missing}; ")
    assert "imputed" not in got["warnings"][0]
    assert got["rlvo"].notna().all()


def test_an_empty_table_gives_an_empty_answer(study: TinyStudy, predict: Predict) -> None:
    assert predict(study.raw.head(0)).columns.tolist() == list(ANSWER_COLUMNS)
