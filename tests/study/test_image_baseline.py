"""The linear model of the volumes as a baseline of a real study: fitted in its folds, kept, read without volumes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from support.tiny_study import GRID, TinyStudy

from rlvo.evaluation.predictions import check_out_of_fold
from rlvo.progress import no_progress
from rlvo.study import image_baseline
from rlvo.study.folder import StudyFolder
from rlvo.study.image_baseline import IMAGE, JOINT, fit_image_baselines, read_image_baselines


@pytest.fixture(scope="module")
def folder(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    own = StudyFolder(tmp_path_factory.mktemp("study"))
    shutil.copy(study.folder.inputs, own.inputs)
    fit_image_baselines(own, study.inputs, GRID, no_progress)
    return own


def test_both_are_out_of_fold_and_kept(study: TinyStudy, folder: StudyFolder) -> None:
    inputs, found = study.inputs, read_image_baselines(folder, study.inputs.label)
    assert list(found) == [IMAGE, JOINT]
    for result in found.values():
        check_out_of_fold(result.validation, inputs.split.folds, inputs.split.test)
        assert sorted(result.validation["patient"]) == sorted(inputs.split.development)
        metrics = result.validation_metrics()
        for fold, own in result.validation.groupby("fold"):
            assert metrics["auc"][fold] == pytest.approx(roc_auc_score(own["label"], own["probability"]))
    before = folder.image_baselines.read_bytes()
    fit_image_baselines(folder, inputs, GRID, no_progress)
    assert folder.image_baselines.read_bytes() == before


def test_the_hold_out_is_answered_without_volumes_and_holds_no_label(study: TinyStudy, folder: StudyFolder) -> None:
    inputs = study.inputs
    test = inputs.table.loc[list(inputs.split.test)]
    assert "label" not in folder.image_baselines.read_text().partition("\n")[0]
    for result in read_image_baselines(folder, inputs.label).values():
        answers = result.score(test)
        assert answers.index.equals(test.index)
        assert answers["probability"].between(0, 1).all()
        assert set(answers["rlvo"]) <= {0, 1}


def test_labels_of_others_than_the_training_patients_change_nothing(
    study: TinyStudy, folder: StudyFolder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    inputs = study.inputs
    label, others = inputs.label.copy(), list(inputs.split.test)
    label[others] = 1 - label[others]
    changed = type(inputs)(**{**vars(inputs), "label": label})
    own = StudyFolder(tmp_path_factory.mktemp("changed"))
    fit_image_baselines(own, changed, GRID, no_progress)
    assert own.image_baselines.read_bytes() == folder.image_baselines.read_bytes()
    label[next(iter(inputs.split.training(0)))] ^= 1
    again = StudyFolder(tmp_path_factory.mktemp("again"))
    fit_image_baselines(again, type(inputs)(**{**vars(inputs), "label": label}), GRID, no_progress)
    assert again.image_baselines.read_bytes() != folder.image_baselines.read_bytes()


def test_what_another_algorithm_or_other_patients_gave_is_told_and_fitted_anew(
    study: TinyStudy, folder: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    own, inputs = StudyFolder(tmp_path), study.inputs
    shutil.copytree(folder.path, own.path, dirs_exist_ok=True)
    as_now = own.image_baselines.read_text()

    def is_trusted() -> bool:
        caplog.clear()
        found = read_image_baselines(own, inputs.label)
        assert bool(found) == ("rlvo ensemble" not in caplog.text)
        return bool(found)

    assert is_trusted()
    false = pd.read_csv(own.image_baselines, dtype={"patient": str}).assign(probability=0.123)
    for changed in (false.drop(columns="origin"), false.assign(origin="0123456789ab")):  # before there were versions
        changed.to_csv(own.image_baselines, index=False)
        assert not is_trusted()
        fit_image_baselines(own, inputs, GRID, no_progress)
        assert own.image_baselines.read_text() == as_now
    with monkeypatch.context() as patched:
        patched.setattr(image_baseline, "VERSION", image_baseline.VERSION + 1)
        assert not is_trusted()
        fit_image_baselines(own, inputs, GRID, no_progress)
        assert is_trusted()
        assert own.image_baselines.read_text() != as_now
    assert not is_trusted()
    other = type(inputs)(**{**vars(inputs), "data_hash": "0" * 64})
    fit_image_baselines(own, other, GRID, no_progress)
    own.inputs.write_text(json.dumps({"data_hash": "0" * 64, "split_hash": inputs.split.hash}))
    assert is_trusted()


def test_a_study_without_an_ensemble_has_none(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert read_image_baselines(StudyFolder(tmp_path_factory.mktemp("none")), study.inputs.label) == {}
    assert np.all(study.inputs.label.isin([0, 1]))
