"""Networks that learn to add to the clinical log-odds: what the regression learns from, and whom it is asked about."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from support.networks import narrow
from torch.nn.functional import binary_cross_entropy_with_logits

from rlvo.cohort.encoding import fit_encoder
from rlvo.cohort.label import derive_label
from rlvo.cohort.splits import make_split
from rlvo.config.model import Configuration, FusionName
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.config.sections import FoldsConfig
from rlvo.config.training import TrainingConfig
from rlvo.errors import RlvoError
from rlvo.models.classifier import Classifier
from rlvo.synthetic.cohort import draw_patients
from rlvo.synthetic.outcome import PROFILES
from rlvo.training.baseline import BASELINES, clinical_baseline
from rlvo.training.dataset import FoldData, Patients, Volumes
from rlvo.training.fit import fit
from rlvo.training.member import load_classifier, predict_logits
from rlvo.training.offset import clinical_logits
from rlvo.training.records import TrialIdentity, read_epochs

CONFIGURATION = Configuration(
    model=narrow("resnet18", fusion="offset"), training=TrainingConfig(epochs=2, batch_size=4, learning_rate=1e-2)
)
BESIDE = Configuration(
    model=narrow("resnet18", fusion="none", norm="group"),
    training=TrainingConfig(
        epochs=1, batch_size=4, learning_rate=1e-12, beside_table=True, augmentation={"flip": 0.0, "shift_voxels": 0}
    ),
)
EMPTY = np.zeros((1, 1, 1), bool)


def table_fold(table: pd.DataFrame, label: pd.Series, training: list[str], validation: list[str]) -> FoldData:
    """A fold without volumes, encoded as a baseline encodes."""
    encoder = fit_encoder(table.loc[training], PAPER_PREDICTORS, scaling="min_max")

    def patients(ids: list[str]) -> Patients:
        return Patients(tuple(ids), (), encoder.transform(table.loc[ids]), label[ids].to_numpy())

    return FoldData(patients(training), patients(validation), EMPTY, encoder)


def trained(data: FoldData, folder: Path, configuration: Configuration = CONFIGURATION) -> Path:
    identity = TrialIdentity(study="t", configuration=configuration.key, fold=0, split_hash="a", data_hash="b")
    fit(configuration, data, folder, identity, seed=3, device="cpu")
    return folder / "best" / "model.safetensors"


def test_the_networks_regression_is_the_ridge_baseline() -> None:
    """Asked about patients whom neither saw; the baseline is fitted by other code, from the table."""
    table = draw_patients(240, PROFILES["paper"], seed=0).table.set_index("patient_id")
    label = derive_label(table)[0].astype(int)
    split = make_split(label, FoldsConfig())
    baseline = clinical_baseline(table, label, split, PAPER_PREDICTORS, BASELINES["all clinical, ridge"])
    for fold in range(2):
        data = table_fold(table, label, list(split.training(fold)), list(split.validation(fold)))
        classifier = Classifier(narrow(fusion="offset"), data.training.tabular.shape[1])
        clinical_logits(data, 0).write_to(classifier.offset)
        said = classifier.offset(torch.as_tensor(data.validation.tabular)).numpy()
        rows = baseline.validation[baseline.validation["fold"] == fold]
        np.testing.assert_allclose(said, logit(rows["probability"]), atol=1e-5)


def test_nobody_has_a_part_in_their_own_log_odds(fold_data: FoldData) -> None:
    """Left out by hand, with scikit-learn; and a patient whose row says something else changes others' only."""
    found = clinical_logits(fold_data, 1).cross_fitted
    labels, tabular = fold_data.training.labels, fold_data.training.tabular
    changed = copy.deepcopy(fold_data)
    changed.training.tabular[3] = 1 - changed.training.tabular[3]
    again = clinical_logits(changed, 1)
    own_part = again.cross_fitted == found  # the same regression, the same row
    assert 1 <= own_part.sum() <= 2  # ten parts of 23 patients
    assert again.cross_fitted[3] != found[3]  # asked about another row
    others = ~own_part
    others[3] = False
    used = [0, 1, 3]  # age, nihss and the right side; the left is the reference
    mean, spread = tabular[others][:, used].mean(axis=0), tabular[others][:, used].std(axis=0)
    ridge = LogisticRegression(C=0.03, tol=1e-8).fit((tabular[others][:, used] - mean) / spread, labels[others])
    expected = ridge.decision_function((tabular[own_part][:, used] - mean) / spread)
    np.testing.assert_allclose(found[own_part], expected, atol=1e-3)


def test_rows_of_one_person_are_left_out_together(fold_data: FoldData) -> None:
    ids = fold_data.training.ids
    persons = tuple("one" if i in (0, 1, 2, 3) else patient for i, patient in enumerate(ids))
    data = replace(fold_data, training=replace(fold_data.training, persons=persons))
    changed = copy.deepcopy(data)
    changed.training.tabular[0] = 1 - changed.training.tabular[0]
    before, after = (clinical_logits(each, 1).cross_fitted for each in (data, changed))
    np.testing.assert_array_equal(before[1:4], after[1:4])
    assert (before[4:] != after[4:]).sum() > len(ids) / 2


def test_one_patient_of_a_class_is_too_few(fold_data: FoldData) -> None:
    labels = np.eye(1, len(fold_data.training), dtype=int)[0]
    few = replace(fold_data, training=replace(fold_data.training, labels=labels))
    with pytest.raises(RlvoError, match=r"two training patients of each class; of one there are 1"):
        clinical_logits(few, 0)


def test_training_starts_as_the_table_model(fold_data: FoldData) -> None:
    tabular = torch.as_tensor(fold_data.validation.tabular)
    classifier = Classifier(CONFIGURATION.model, tabular.shape[1])
    clinical = clinical_logits(fold_data, 0)
    clinical.write_to(classifier.offset)
    volumes = Volumes(fold_data.validation, CONFIGURATION.model.channels)
    said = predict_logits(classifier, volumes, fold_data.validation.tabular, 4)
    np.testing.assert_allclose(said.numpy(), clinical.regression.logit(fold_data.validation.tabular), atol=1e-5)


def test_a_trained_model_adds_to_the_regression_that_is_saved_with_it(fold_data: FoldData, tmp_path: Path) -> None:
    path = trained(fold_data, tmp_path)
    weights, clinical = load_file(path), clinical_logits(fold_data, 3)
    np.testing.assert_allclose(weights["offset.coefficients"], clinical.regression.coefficients, rtol=1e-6)
    assert float(weights["offset.intercept"]) == pytest.approx(clinical.regression.intercept)
    patients = fold_data.validation
    classifier = load_classifier(path, CONFIGURATION.model, patients.tabular.shape[1])
    volumes = Volumes(patients, CONFIGURATION.model.channels)
    image = (
        predict_logits(classifier, volumes, np.zeros_like(patients.tabular), 4).numpy() - clinical.regression.intercept
    )
    assert np.ptp(image) > 0.01
    whole = predict_logits(classifier, volumes, patients.tabular, 4).numpy()
    np.testing.assert_allclose(whole, image + clinical.regression.logit(patients.tabular), atol=1e-5)


def test_validation_patients_labels_and_tables_change_nothing_that_is_learned(
    fold_data: FoldData, tmp_path: Path
) -> None:
    own = fold_data.validation
    other = replace(own, labels=1 - own.labels, tabular=1 - own.tabular)
    # Auxiliary heads too; and one cycle, because plateau looks at validation.
    settings = CONFIGURATION.training.model_copy(update={"schedule": "one_cycle", "auxiliary": 0.5})
    configuration = CONFIGURATION.model_copy(update={"training": settings})
    trained(fold_data, tmp_path / "a", configuration)
    trained(replace(fold_data, validation=other), tmp_path / "b", configuration)
    one, two = (load_file(tmp_path / name / "last" / "model.safetensors") for name in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_permuted_labels_are_told_only_by_log_odds_that_patients_have_a_part_in(fold_data: FoldData) -> None:
    """Why they are cross-fitted: the regression's own log-odds tell its patients' labels, those out of fold do not."""
    labels = np.arange(200) % 2
    noise, fresh = np.random.default_rng(0).random((2, 200, len(fold_data.encoder.feature_names)), np.float32)
    wide = replace(fold_data.training, ids=tuple(map(str, range(200))), tabular=noise, labels=labels)
    found: list[tuple[float, ...]] = []
    for seed in range(20):
        labels = np.random.default_rng(seed).permutation(labels)
        clinical = clinical_logits(replace(fold_data, training=replace(wide, labels=labels)), seed)
        log_odds = (clinical.cross_fitted, clinical.regression.logit(fresh), clinical.regression.logit(noise))
        found.append(tuple(roc_auc_score(labels, each) for each in log_odds))
    (cross_fitted, out_of_fold, own), error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(20)
    assert cross_fitted < 0.5 + 3 * error[0]
    assert abs(out_of_fold - 0.5) < 3 * error[1]
    assert own > 0.54


def test_beside_the_table_the_loss_is_that_of_both_and_the_answers_are_the_networks(
    fold_data: FoldData, tmp_path: Path
) -> None:
    """At a learning rate of next to nothing the kept weights are those that were trained, and no batch matters."""
    path, patients = trained(fold_data, tmp_path, BESIDE), fold_data.training
    classifier = load_classifier(path, BESIDE.model, patients.tabular.shape[1])
    assert classifier.offset is None
    own = predict_logits(classifier, Volumes(patients, BESIDE.model.channels), np.full_like(patients.tabular, 9), 4)
    labels = torch.as_tensor(patients.labels, dtype=torch.float32)
    clinical = clinical_logits(fold_data, 3).cross_fitted
    centred = clinical_logits(fold_data, 3).with_offset(fold_data, centred=True).training.offset
    assert centred is not None
    np.testing.assert_allclose(np.diff(centred), np.diff(clinical), atol=1e-5)
    prevalence = patients.labels.mean()
    assert expit(logit(prevalence) + centred.astype(float)).mean() == pytest.approx(prevalence, abs=1e-6)
    (epoch,) = read_epochs(tmp_path)
    expected = binary_cross_entropy_with_logits(own + torch.as_tensor(centred), labels)
    assert epoch["train/loss"] == pytest.approx(float(expected), abs=1e-5)
    assert abs(float(binary_cross_entropy_with_logits(own, labels)) - float(expected)) > 0.01


def test_only_images_alone_are_learned_beside_the_table() -> None:
    keys = {
        fusion: {
            Configuration(model=narrow(fusion=fusion), training=TrainingConfig(beside_table=beside)).key
            for beside in (False, True)
        }
        for fusion in get_args(FusionName)
    }
    assert {fusion: len(own) for fusion, own in keys.items()} == {f: 1 + (f == "none") for f in get_args(FusionName)}
