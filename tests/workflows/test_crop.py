"""A study whose networks look at boxes, from its search to a registered model that answers for new patients."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from support.small_study import MakeStudy, OpenStudy
from support.tiny_study import STUDY

import rlvo
from rlvo.config.workdir import Workdir
from rlvo.ensemble.build import STUDY_ENSEMBLE, study_ensembles
from rlvo.imaging.target import Target
from rlvo.inference.description import describe, write_model_folder
from rlvo.inference.patients import CheckedTable
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.inference.saliency import explain_patient
from rlvo.study.folder import StudyFolder
from rlvo.study.trials import member_weights, read_ended_trials
from rlvo.training.fit import fit

PREDICTORS = ("age", "nihss", "occlusion_side", "occlusion_site")
BOXES = {
    "vessels": {"crop": "vessels"},
    "occlusion": {"crop": "occlusion"},
    "halves": {"crop": "occlusion", "side": "halves"},
}
VOXELS = {"vessels": 16 * 8 * 10, "occlusion": 6 * 4 * 6, "halves": 2 * 6 * 4 * 6}
"""Of the boxes on the tiny study's grid of 8 mm, and of both halves."""


@pytest.mark.parametrize("boxes", BOXES)
def test_a_model_folder_answers_as_its_members_did_in_validation(
    boxes: str, make_small: MakeStudy, open_small: OpenStudy, small_cohort: Path, small_work: Workdir
) -> None:
    """From raw volumes and the raw table; the maps are on the whole grid, and zero outside the boxes."""
    model = STUDY.model.model_dump(mode="json") | {"modality": "CTA", "fusion": "none", "prior": True} | BOXES[boxes]
    config = make_small(boxes, model=model, cohort={"predictors": PREDICTORS})
    inputs, folder = open_small(config), StudyFolder(small_work.study(boxes))
    configuration = config.configuration({})
    for fold in range(2):
        trial, identity = folder.trial(configuration.key, fold), inputs.identity(configuration.key, fold)
        fit(configuration, inputs.fold_data(fold), trial, identity, seed=fold, device="cpu", threads=1)
    trials = read_ended_trials(folder)
    spec = study_ensembles(trials.records, trials.predictions, config.ensemble)[STUDY_ENSEMBLE]
    description = describe(spec, {fold: inputs.encoder(fold) for fold in range(2)}, Target(grid=config.grid))
    write_model_folder(small_work.path / "model", description, lambda v, member: member_weights(folder, member))
    predictor, raw = EnsemblePredictor.load(small_work.path / "model"), pd.read_csv(small_cohort)

    answers = predictor.predict(raw, small_cohort.parent, members=True).set_index("patient_id")
    stored = trials.predictions.set_index(["member", "patient"])["probability"]
    for member in spec.members:
        own = stored[member.key]
        assert len(own) == 9
        np.testing.assert_allclose(answers.loc[own.index, f"p_{member.key}"], own, rtol=0, atol=1e-5)

    missing = raw.head(1).astype(object).assign(occlusion_side=None, occlusion_site=None)
    (got,) = predictor.predict(missing, small_cohort.parent).to_dict("records")
    assert np.isfinite(got["score"])
    told = "missing: Occlusion side, Occlusion site; networks look where most training patients' occlusions were"
    assert (told in got["warnings"]) == (boxes != "vessels")
    typical = {name: inputs.table.loc[list(inputs.split.training(0)), name].mode()[0] for name in PREDICTORS[2:]}
    (same,) = predictor.predict(raw.head(1).assign(**typical), small_cohort.parent, members=True).to_dict("records")
    (imputed,) = predictor.predict(missing, small_cohort.parent, members=True).to_dict("records")
    column = f"p_{next(member.key for member in spec.members if member.fold == 0)}"
    assert imputed[column] == same[column]

    variant = description.variants[0]
    rows = CheckedTable.read(raw.head(1), small_cohort.parent, description.predictors)
    patient = next(rows.prepare(description.target, [variant.channels]))
    for name, network in predictor.named_members(variant).items():
        features = len(variant.encoders[network.fold].feature_names)
        predictor.members.classifier(name, network, features).head.weight.data.abs_()  # or maps might be all zero
    shown = explain_patient(predictor, patient, check=False).maps["all"].after
    assert shown.shape == config.grid.shape
    assert 0 < np.count_nonzero(shown) <= VOXELS[boxes]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
def test_it_is_searched_combined_and_registered(small_cohort: Path, small_work: Workdir, tmp_path: Path) -> None:
    """Networks of whole volumes and of boxes in one study and one ensemble."""
    points = [
        {"model.modality": modality, "model.crop": crop}
        for modality, crop in (("NCCT", "whole"), ("CTA", "vessels"), ("BOTH", "occlusion"))
    ]
    content = STUDY.model_dump(mode="json", include={"grid", "training", "folds"}) | {
        "name": "cropped",
        "cohort": {"predictors": PREDICTORS},
        "model": STUDY.model.model_dump(mode="json") | {"fusion": "daft"},
        "space": {"points": points},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(content))
    study = rlvo.Study(tmp_path / "study.yaml", cohort=small_cohort, workdir=small_work.path)
    assert {model.options for model in study.plan().models} == {("crop whole",), ("crop vessels",), ("crop occlusion",)}
    assert study.search().is_complete
    assert study.trials["model.crop"].value_counts().to_dict() == {"vessels": 2, "occlusion": 2}, "whole goes unsaid"

    built = study.ensemble()
    client = MlflowClient(small_work.tracking_uri())
    assert client.get_model_version_by_alias("rlvo-ensemble", "champion").version
    predictor, raw = EnsemblePredictor.load(built.folder), pd.read_csv(small_cohort)
    assert {member.configuration.model.crop for member in predictor.description.spec.networks} == {
        "whole", "vessels", "occlusion"
    }  # fmt: skip
    own = predictor.predict(raw, small_cohort.parent, members=True).set_index("patient_id")
    stored = study.predictions.set_index(["member", "patient"])["probability"]
    for member in predictor.description.spec.networks:
        expected = stored[member.key]
        np.testing.assert_allclose(own.loc[expected.index, f"p_{member.key}"], expected, rtol=0, atol=1e-5)
    registered = rlvo.load_model("rlvo-ensemble", workdir=small_work.path)
    known = raw[raw["patient_id"].isin(stored.index.unique("patient"))]  # the others are held out
    answers = registered.predict(known.drop(columns="rlvo"), folder=small_cohort.parent).set_index("patient_id")
    np.testing.assert_allclose(answers["score"], own.loc[answers.index, "score"], rtol=0, atol=1e-6)
