"""Maps of an ensemble's networks for one patient, and their files."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from support.tiny_study import GRID, TinyStudy

from rlvo.errors import RlvoError
from rlvo.explain.gradcam import before_and_after
from rlvo.inference.patients import CheckedTable, Patient
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.inference.saliency import explain, explain_patient, patient_views


@pytest.fixture(scope="module")
def patient(study: TinyStudy, predictor: EnsemblePredictor) -> Patient:
    description = predictor.description
    rows = CheckedTable.read(study.raw.head(1), study.cohort.parent, description.predictors)
    return next(rows.prepare(description.target, [variant.channels for variant in description.variants]))


def test_maps_are_the_means_of_the_folds_networks(predictor: EnsemblePredictor, patient: Patient) -> None:
    description, variant = predictor.description, predictor.description.variants[0]
    named = {description.member_name(variant, member): member for member in variant.spec.members}
    views = patient_views(predictor.members, named, variant, patient)
    assert set(views) <= {"NCCT", "CTA", "BOTH"}
    assert all(1 <= len(own) <= 2 for own in views.values())  # folds; a member that abstains is left out
    saliency = explain(views, check=False)
    assert set(saliency.maps) == {"all", *views}
    for modality, own in views.items():
        parts = [before_and_after(view.classifier, view.volume, view.tabular).after[0].numpy() for view in own]
        evened = [part / part.mean() if part.any() else part for part in parts]
        weights = [view.weight for view in own]
        expected = np.average(evened, axis=0, weights=weights)
        np.testing.assert_allclose(saliency.maps[modality].after, expected, rtol=1e-4, atol=1e-6)
    every = [saliency.maps[modality].after * sum(view.weight for view in own) for modality, own in views.items()]
    total = sum(view.weight for own in views.values() for view in own)
    np.testing.assert_allclose(saliency.maps["all"].after, sum(every) / total, rtol=1e-4, atol=1e-6)


def test_a_registered_model_explains_a_patient_and_says_what_it_checked(
    predictor: EnsemblePredictor, patient: Patient, tmp_path: Path
) -> None:
    saliency = explain_patient(predictor, patient)
    assert "after" in saliency.checks
    # Networks of one feature voxel give maps that say nothing about places.
    assert saliency.checks["after"].failures
    files = saliency.write(tmp_path / "maps", GRID)
    assert {path.name for path in files} >= {"all-before.nii.gz", "all-after.nii.gz"}


def test_files_keep_the_grids_orientation(predictor: EnsemblePredictor, patient: Patient, tmp_path: Path) -> None:
    saliency = explain_patient(predictor, patient, check=False)
    saliency.maps["all"].after[:] = 0
    saliency.maps["all"].after[12, 3, 9] = 7
    saliency.write(tmp_path, GRID)
    image = nibabel.load(tmp_path / "all-after.nii.gz")
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    (index,) = np.argwhere(image.get_fdata() == 7)
    np.testing.assert_allclose(nibabel.affines.apply_affine(image.affine, index), [-60 + 96, -78 + 24, -52 + 72])


def test_a_patient_who_cannot_be_scored_is_refused(predictor: EnsemblePredictor, patient: Patient) -> None:
    refused = replace(patient, volumes=None, warnings=("not answered: no NCCT",))
    with pytest.raises(RlvoError, match="no NCCT"):
        explain_patient(predictor, refused)
    assert torch.is_grad_enabled()
