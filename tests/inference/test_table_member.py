"""A model with late fusion, from raw volumes and the raw table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from support.tiny_study import GRID, TinyStudy

from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.build import fit_ensemble, fit_fallbacks
from rlvo.ensemble.fitting import Validation
from rlvo.ensemble.spec import TABLE, EnsembleSpec
from rlvo.imaging.target import Target
from rlvo.inference.description import describe, write_model_folder
from rlvo.inference.explanation import explain_answer
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.study.trials import EndedTrials
from rlvo.training.table_model import table_member_key


@pytest.fixture(scope="module")
def predictions(study: TinyStudy, trials: EndedTrials) -> pd.DataFrame:
    return pd.concat([trials.predictions, study.inputs.table_predictions()], ignore_index=True)


@pytest.fixture(scope="module")
def late(
    study: TinyStudy,
    specs: dict[str, EnsembleSpec],
    predictions: pd.DataFrame,
    tmp_path_factory: pytest.TempPathFactory,
) -> EnsemblePredictor:
    """Networks that see images alone, and the table's model."""
    images = specs["resnet18 none"]
    settings = EnsembleConfig(table_member="ridge", weighting="mean", chance_members="count")
    hashes = images.split_hash, images.data_hash
    contenders = [*images.configurations, TABLE]
    spec = fit_ensemble(contenders, range(len(images.folds)), Validation.of(predictions, settings), settings, hashes)
    models = study.inputs.table_models(spec)
    fallbacks = fit_fallbacks(spec, predictions, settings)
    description = describe(spec, study.encoders, Target(grid=GRID), table_models=models, fallbacks=fallbacks)
    folder: Path = tmp_path_factory.mktemp("late") / "model"
    write_model_folder(folder, description, study.weights)
    return EnsemblePredictor.load(folder)


def test_it_reproduces_the_stored_predictions_which_are_scikit_learns(
    study: TinyStudy, late: EnsemblePredictor, predictions: pd.DataFrame
) -> None:
    answers = late.predict(study.raw, study.cohort.parent, members=True).set_index("patient_id")
    inputs, stored = study.inputs, predictions.set_index(["member", "patient"])["probability"]
    for fold, encoder in study.encoders.items():
        own, training = stored[table_member_key(fold)], list(inputs.split.training(fold))
        assert sorted(own.index) == sorted(inputs.split.validation(fold))
        np.testing.assert_allclose(answers.loc[own.index, f"p_{table_member_key(fold)}"], own, atol=1e-9)
        scale = StandardScaler()
        free = [name not in encoder.reference_features for name in encoder.feature_names]
        known, asked = (encoder.transform(inputs.table.loc[ids])[:, free] for ids in (training, list(own.index)))
        ridge = LogisticRegression(C=0.03, tol=1e-8).fit(scale.fit_transform(known), inputs.label[training])
        np.testing.assert_allclose(ridge.predict_proba(scale.transform(asked))[:, 1], own, atol=1e-4)


def test_nothing_but_the_training_patients_decides_a_folds_model(study: TinyStudy) -> None:
    inputs = study.inputs
    others = [patient for patient in inputs.table.index if patient not in inputs.split.training(0)]
    label, table = inputs.label.copy(), inputs.table.copy()
    label[others] = 1 - label[others]
    table.loc[others, "nihss"] = 28
    changed = type(inputs)(**{**vars(inputs), "label": label, "table": table})
    assert changed.table_model(0) == inputs.table_model(0)
    assert changed.table_model(1) != inputs.table_model(1)


def test_a_patient_without_cta_is_answered_with_the_table(study: TinyStudy, late: EnsemblePredictor) -> None:
    row = study.raw.head(1).assign(cta="", vessels="")
    one, other = (late.predict(row.assign(nihss=nihss), study.cohort.parent, members=True).iloc[0] for nihss in (2, 27))
    assert "answered by the ensemble 'without CTA': no CTA" in one["warnings"]
    assert np.isfinite([one["score"], one[f"p_{table_member_key(0)}"]]).all()
    assert one["p_ncct"] == other["p_ncct"]
    assert one["score"] != other["score"]
    neither = late.predict(row.assign(ncct=""), study.cohort.parent)
    assert neither["rlvo"].isna().all(), "the table alone is a baseline and does not answer for the ensemble"


def test_its_effects_add_up_to_the_score_and_the_page_shows_what_it_says(
    study: TinyStudy, late: EnsemblePredictor
) -> None:
    facts = explain_answer(late, study.raw.head(1), study.cohort.parent, check=False).facts
    assert facts.typical_score is not None
    effects = [value.contribution for value in facts.values]
    assert np.any(np.abs(effects) > 1e-3)
    assert facts.typical_score + sum(effects) == pytest.approx(facts.answer["score"], abs=1e-4)
    row = study.inputs.table.iloc[[0]]
    for vote in facts.votes:
        model, encoder = study.inputs.table_model(vote.fold), study.encoders[vote.fold]
        assert vote.table == pytest.approx(float(model.predict(encoder.transform(row))[0]))
        assert set(vote.probabilities) == {"NCCT", "CTA", "BOTH"}
