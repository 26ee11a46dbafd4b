"""A model with the linear model of the volumes as a member, from raw volumes and the raw table."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from support.tiny_study import GRID, TinyStudy

from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.build import fit_ensemble, fit_fallbacks
from rlvo.ensemble.fitting import Validation
from rlvo.ensemble.spec import IMAGE, IMAGE_TABLE, Baseline, EnsembleSpec, baseline_key
from rlvo.imaging.target import Target
from rlvo.inference.description import Variant, describe, write_model_folder
from rlvo.inference.explanation import explain_answer
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.progress import no_progress
from rlvo.study.folder import StudyFolder, write_declared
from rlvo.study.image_baseline import fit_image_baselines, image_predictions, read_image_models
from rlvo.study.trials import EndedTrials
from rlvo.workflows.importance import variable_importance
from rlvo.workflows.study import OpenStudy

KEYS = {IMAGE: "alone", IMAGE_TABLE: "with_table"}


@pytest.fixture(scope="module")
def folder(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """The study's folder with the linear models."""
    return fit(study, tmp_path_factory.mktemp("fitted"))


def fit(study: TinyStudy, place: Path, **changed: object) -> StudyFolder:
    own = StudyFolder(place)
    shutil.copy(study.folder.inputs, own.inputs)
    fit_image_baselines(own, type(study.inputs)(**{**vars(study.inputs), **changed}), GRID, no_progress)  # type: ignore[arg-type]
    return own


@pytest.fixture(scope="module")
def predictions(study: TinyStudy, trials: EndedTrials, folder: StudyFolder) -> pd.DataFrame:
    return pd.concat([trials.predictions, image_predictions(folder, study.inputs.label)], ignore_index=True)


@pytest.fixture(scope="module", params=[IMAGE, IMAGE_TABLE])
def baseline(request: pytest.FixtureRequest) -> Baseline:
    return request.param  # type: ignore[no-any-return]


def settings_with(baseline: Baseline) -> EnsembleConfig:
    return EnsembleConfig.model_validate(
        {"linear_image": KEYS[baseline], "weighting": "mean", "chance_members": "count"}
    )


@pytest.fixture(scope="module")
def spec(baseline: Baseline, specs: dict[str, EnsembleSpec], predictions: pd.DataFrame) -> EnsembleSpec:
    """Networks that see images alone, and the linear model."""
    images = specs["resnet18 none"]
    settings = settings_with(baseline)
    hashes = images.split_hash, images.data_hash
    contenders = [*images.configurations, baseline]
    return fit_ensemble(contenders, range(len(images.folds)), Validation.of(predictions, settings), settings, hashes)


@pytest.fixture(scope="module")
def late(
    study: TinyStudy,
    spec: EnsembleSpec,
    baseline: Baseline,
    folder: StudyFolder,
    predictions: pd.DataFrame,
    tmp_path_factory: pytest.TempPathFactory,
) -> EnsemblePredictor:
    models, fallbacks = read_image_models(folder, spec), fit_fallbacks(spec, predictions, settings_with(baseline))
    description = describe(spec, study.encoders, Target(grid=GRID), image_models=models, fallbacks=fallbacks)
    model: Path = tmp_path_factory.mktemp("late") / "model"
    write_model_folder(model, description, study.weights)
    assert sorted(path.name for path in model.iterdir()) == ["ensemble.json", "members.safetensors"]
    return EnsemblePredictor.load(model)


def test_it_reproduces_the_stored_predictions_which_are_scikit_learns(
    study: TinyStudy, late: EnsemblePredictor, predictions: pd.DataFrame, baseline: Baseline
) -> None:
    answers = late.predict(study.raw, study.cohort.parent, members=True).set_index("patient_id")
    inputs, stored = study.inputs, predictions.set_index(["member", "patient"])["probability"]
    for fold, encoder in study.encoders.items():
        own, training = stored[baseline_key(baseline, fold)], list(inputs.split.training(fold))
        assert sorted(own.index) == sorted(inputs.split.validation(fold))
        np.testing.assert_allclose(answers.loc[own.index, f"p_{baseline_key(baseline, fold)}"], own, atol=1e-9)
        known, asked = (means_of_blocks(study, ids) for ids in (training, list(own.index)))
        centre, spread = known.mean(axis=(0, 2, 3, 4), keepdims=True), known.std(axis=(0, 2, 3, 4), keepdims=True)
        shown = [np.arcsinh((each - centre) / spread) for each in (known, asked)]
        halves = [(each[:, :, :4], (each - each[:, :, ::-1])[:, :, :4]) for each in shown]
        rows = [np.hstack([part.reshape(len(part), -1) for part in each]) for each in halves]
        components = PCA(len(training) - 1, whiten=True, svd_solver="full").fit(rows[0])
        rows = [components.transform(each) for each in rows]
        tables = [encoder.transform(inputs.table.loc[ids]).astype(float) for ids in (training, list(own.index))]
        mean, sd = tables[0].mean(axis=0), tables[0].std(axis=0)
        designs = [np.hstack([each, (table - mean) / np.where(sd > 0, sd, 1)])
                   for each, table in zip(rows, tables, strict=True)]  # fmt: skip
        labels = inputs.label[training]
        ridge = LogisticRegression(C=0.03, tol=1e-8).fit(designs[0], labels)
        if baseline == IMAGE_TABLE:
            np.testing.assert_allclose(ridge.predict_proba(designs[1])[:, 1], own, atol=1e-4)
        else:
            slopes = ridge.coef_[0, : rows[0].shape[1]]
            images, of_asked = (each @ slopes for each in rows)
            share = labels.mean()
            intercept = brentq(lambda x, z=images, share=share: expit(z + x).mean() - share, -20, 20)
            np.testing.assert_allclose(expit(of_asked + intercept), own, atol=1e-4)


def means_of_blocks(study: TinyStudy, ids: list[str]) -> np.ndarray:
    """Of two voxels of 8 mm along each axis, the occlusion on the left: [N, C, X, Y, Z]."""
    found = []
    for patient in ids:
        volumes = [np.load(study.inputs.volumes[patient] / f"{name}.npy").astype(float) for name in ("ncct", "cta")]
        turned = study.inputs.table.loc[patient, "occlusion_side"] == "right"
        shown = np.stack([volume[::-1] if turned else volume for volume in volumes])
        found.append(shown.reshape(2, 8, 2, 8, 2, 8, 2).mean(axis=(2, 4, 6)))
    return np.array(found)


def test_nothing_but_the_training_patients_decides_a_folds_model(
    study: TinyStudy, folder: StudyFolder, spec: EnsembleSpec, tmp_path: Path
) -> None:
    """Labels, table and volumes of all others are exchanged, and then the label of one training patient."""
    inputs = study.inputs
    training = inputs.split.training(0)
    others = [patient for patient in inputs.table.index if patient not in training]
    label, table, volumes = inputs.label.copy(), inputs.table.copy(), dict(inputs.volumes)
    label[others] = 1 - label[others]
    table.loc[others, "nihss"] = 28
    table.loc[others, "occlusion_side"] = "left"
    volumes |= dict.fromkeys(others, inputs.volumes[training[0]])
    places = [tmp_path / name for name in ("others", "one")]
    for place in places:
        place.mkdir()
    own = read_image_models(folder, spec)
    changed = read_image_models(fit(study, places[0], label=label, table=table, volumes=volumes), spec)
    assert changed[0] == own[0]
    assert changed[1] != own[1]
    label = inputs.label.copy()
    label[training[0]] = 1 - label[training[0]]
    assert read_image_models(fit(study, places[1], label=label), spec)[0] != own[0]


def test_a_patient_who_lacks_a_volume_is_answered_by_networks_alone(
    study: TinyStudy, late: EnsemblePredictor, baseline: Baseline
) -> None:
    row = study.raw.head(1).assign(cta="", vessels="")
    one = late.predict(row, study.cohort.parent, members=True).iloc[0]
    assert "answered by the ensemble 'without CTA': no CTA" in one["warnings"]
    assert np.isfinite(one["score"])
    assert np.isnan(one[f"p_{baseline_key(baseline, 0)}"])


def test_a_missing_side_leaves_the_head_as_it_is_and_is_told(
    study: TinyStudy, late: EnsemblePredictor, baseline: Baseline
) -> None:
    said = f"p_{baseline_key(baseline, 0)}"
    rows = [study.raw.head(1).assign(occlusion_side=side) for side in ("left", "right", "")]
    left, right, missing = (late.predict(row, study.cohort.parent, members=True).iloc[0] for row in rows)
    assert left[said] != right[said]
    as_it_is = "no occlusion side: the linear model of the volumes takes the head as it is"
    assert as_it_is in missing["warnings"]
    assert as_it_is not in left["warnings"]
    if baseline == IMAGE:
        assert missing[said] == left[said]


def test_its_effects_add_up_to_the_score_and_the_page_shows_what_it_says(
    study: TinyStudy, late: EnsemblePredictor, baseline: Baseline
) -> None:
    row = study.raw.head(1)
    facts = explain_answer(late, row, study.cohort.parent, check=False).facts
    answer = late.predict(row, study.cohort.parent, members=True).iloc[0]
    for vote in facts.votes:
        assert vote.linear_image == pytest.approx(answer[f"p_{baseline_key(baseline, vote.fold)}"])
        assert (vote.table, set(vote.probabilities)) == (None, {"NCCT", "CTA", "BOTH"})
    if baseline == IMAGE:
        assert facts.typical_score is None
        assert facts.values == ()
        return
    assert facts.typical_score is not None
    effects = {value.predictor: value for value in facts.values}
    assert np.any(np.abs([value.contribution for value in effects.values()]) > 1e-3)
    assert facts.typical_score + sum(value.contribution for value in effects.values()) == pytest.approx(
        facts.answer["score"], abs=1e-4
    )
    nihss = effects["nihss"]
    typical = late.predict(row.assign(nihss=nihss.typical), study.cohort.parent).iloc[0]
    # Folds' medians may differ a little from the median over the folds.
    assert nihss.score_if_typical == pytest.approx(typical["score"], abs=0.02)


def test_of_the_table_it_takes_what_its_coefficients_say(
    study: TinyStudy, folder: StudyFolder, spec: EnsembleSpec, trials: EndedTrials, baseline: Baseline, tmp_path: Path
) -> None:
    own = study.copy(tmp_path / "work")
    write_declared(own.folder, {"ensemble": spec})
    for path in (folder.image_models, folder.image_baselines):
        own.folder.model.parent.mkdir(exist_ok=True)
        shutil.copy(path, own.folder.path / path.relative_to(folder.path))
    opened = OpenStudy(study.config, own.workdir, own.inputs)
    if baseline == IMAGE:
        with pytest.raises(Exception, match="no member of this ensemble reads the table"):
            variable_importance(opened)
        return
    found = variable_importance(opened, shuffles=2, explained=2, background=3)
    assert found.members == tuple(baseline_key(IMAGE_TABLE, fold) for fold in range(2))
    assert np.isfinite(found.table["auc_drop"]).all()
    assert found.table["shapley"].max() > 0


def test_only_ensembles_with_it_hold_its_numbers(late: EnsemblePredictor, spec: EnsembleSpec) -> None:
    own, *others = late.description.variants
    assert {*own.image_models} == {fold.fold for fold in spec.folds}
    assert own.channels == ("ncct", "cta")
    assert others
    assert not any(variant.image_models for variant in others)
    assert "image_models" not in others[0].model_dump()
    assert Variant.model_validate_json(own.model_dump_json()) == own
