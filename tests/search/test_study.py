"""Opening a study: the same inputs at every start, or a refusal that says what differs."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlvo.cohort.selection import REFUSED, Exclusion
from rlvo.cohort.splits import read_split
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.errors import CohortError, RlvoError
from rlvo.search.inputs import StudyInputs
from rlvo.search.study import read_study

MakeStudy = Callable[..., StudyConfig]
Opened = Callable[..., StudyInputs]


@pytest.fixture
def own_cohort(cohort_path: Path, tmp_path: Path) -> Path:
    """A copy of the cohort that a test may change."""
    return Path(shutil.copytree(cohort_path.parent, tmp_path / "own")) / "cohort.csv"


def edit(table: Path, row: int, column: str, value: object) -> None:
    cells = pd.read_csv(table, dtype=str)
    cells.loc[row, column] = str(value)
    cells.to_csv(table, index=False)


def test_the_fold_data_are_the_splits_patients_encoded_by_the_training_fold(
    make_study: MakeStudy, opened: Opened
) -> None:
    inputs = opened(make_study())
    table = inputs.table
    for fold in range(2):
        data = inputs.fold_data(fold)
        assert data.training.ids == inputs.split.training(fold)
        assert data.validation.ids == inputs.split.validation(fold)
        assert data.validation.labels.tolist() == inputs.label[list(data.validation.ids)].tolist()
        age = table["age"].loc[list(data.training.ids)]
        expected = ((table["age"].loc[list(data.validation.ids)] - age.min()) / (age.max() - age.min())).clip(0, 1)
        np.testing.assert_allclose(data.validation.tabular[:, 0], expected, rtol=1e-6)
        assert all((folder / "ncct.npy").is_file() for folder in data.training.volumes)


def test_the_inputs_are_light_to_send(make_study: MakeStudy, opened: Opened) -> None:
    inputs = opened(make_study())
    assert len(pickle.dumps(inputs)) < 50_000 + inputs.brain_mask.nbytes


def test_the_split_and_the_settings_are_frozen_at_the_first_start(
    make_study: MakeStudy, opened: Opened, workdir: Workdir
) -> None:
    study = make_study()
    inputs = opened(study)
    folder = workdir.study("small")
    assert read_split(folder / "split.json") == inputs.split
    assert read_study(folder).model_copy(update={"cohort": study.cohort}) == study
    again = opened(study)
    assert (again.split, again.data_hash) == (inputs.split, inputs.data_hash)


def test_other_settings_under_the_same_name_are_refused_with_their_paths(make_study: MakeStudy, opened: Opened) -> None:
    opened(make_study(space={"enumerate": {"model.modality": ["NCCT", "CTA"]}}))
    changed = make_study(
        space={"enumerate": {"model.modality": ["NCCT"]}},
        training={"epochs": 9, "batch_size": 4, "learning_rate": 1e-3, "optimizer": "adamw"},
        seed=5,
    )
    with pytest.raises(RlvoError) as refusal:
        opened(changed)
    assert "training.epochs: 1 became 9" in str(refusal.value)
    assert "seed: 0 became 5" in str(refusal.value)
    assert "space.enumerate.model.modality: ['NCCT', 'CTA'] became ['NCCT']" in str(refusal.value)
    assert "batch_size" not in str(refusal.value)


def test_settings_that_change_no_trial_may_differ(make_study: MakeStudy, opened: Opened, workdir: Workdir) -> None:
    opened(make_study())
    opened(make_study(search={"concurrent_trials": 1}, ensemble={"tie": "positive"}))
    assert read_study(workdir.study("small")).ensemble.tie == "positive"


@pytest.mark.parametrize(
    ("column", "value", "complaint"), [("rlvo", 1, "split otherwise"), ("nihss", 41, "predictors or volumes")]
)
def test_a_cohort_that_changed_is_refused(
    make_study: MakeStudy, opened: Opened, own_cohort: Path, column: str, value: int, complaint: str
) -> None:
    opened(make_study(), own_cohort)
    edit(own_cohort, 0, column, value)
    with pytest.raises(RlvoError, match=complaint):
        opened(make_study(), own_cohort)


def test_a_volume_that_changed_is_refused(make_study: MakeStudy, opened: Opened, own_cohort: Path) -> None:
    opened(make_study(), own_cohort)
    shutil.copy(own_cohort.parent / "ncct-1.nii.gz", own_cohort.parent / "ncct-0.nii.gz")
    with pytest.raises(RlvoError, match="predictors or volumes"):
        opened(make_study(), own_cohort)


def test_an_edited_split_is_refused(make_study: MakeStudy, opened: Opened, workdir: Workdir) -> None:
    inputs = opened(make_study())
    path = workdir.study("small") / "split.json"
    path.write_text(path.read_text().replace(inputs.split.test[0], inputs.split.test[0] + "x"))
    with pytest.raises(RlvoError, match="edited"):
        opened(make_study())


def test_patients_with_unreadable_volumes_are_excluded_and_the_others_go_on(
    make_study: MakeStudy, opened: Opened, own_cohort: Path
) -> None:
    for name in ("ncct-3.nii.gz", "cta-7.nii.gz"):
        path = own_cohort.parent / name
        path.write_bytes(path.read_bytes()[:-200])
    inputs = opened(make_study(), own_cohort)
    assert Exclusion(REFUSED, ("planted-003", "planted-007")) in inputs.excluded
    assert "truncated" in str(inputs.refused["planted-003"])
    assert set(inputs.split.development) | set(inputs.split.test) == set(inputs.volumes) == set(inputs.table.index)
    assert len(inputs.table) == 22


def test_a_cohort_without_one_usable_patient_is_told_with_every_reason(
    make_study: MakeStudy, opened: Opened, own_cohort: Path, workdir: Workdir
) -> None:
    for path in own_cohort.parent.glob("cta-*.nii.gz"):
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CohortError) as refusal:
        opened(make_study(), own_cohort)
    assert len(refusal.value.findings) == 24
    assert not (workdir.study("small") / "study.json").exists()


def test_a_prior_without_vessel_masks_is_refused(make_study: MakeStudy, opened: Opened) -> None:
    with pytest.raises(RlvoError, match=r"24 patient.*too coarse"):
        opened(make_study(space={"enumerate": {"model.prior": [False, True]}}))


def test_a_grid_too_small_for_a_network_is_refused_before_anything_is_read(
    make_study: MakeStudy, opened: Opened
) -> None:
    with pytest.raises(RlvoError, match="smallest cube"):
        opened(make_study(training={"batch_size": 1}), Path("no-such-cohort.csv"))
