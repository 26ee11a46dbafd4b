"""Opening a study: the same inputs at every start, or a refusal that says what differs."""

import json
import os
import pickle
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from support.small_study import MakeStudy, OpenStudy

from rlvo.cohort import reading
from rlvo.cohort.selection import REFUSED, Exclusion
from rlvo.cohort.splits import read_split
from rlvo.config.workdir import Workdir
from rlvo.errors import CohortError, RlvoError
from rlvo.study import inputs as inputs_module
from rlvo.study.folder import StudyFolder, read_config
from rlvo.study.inputs import settle


@pytest.fixture
def own_cohort(small_cohort: Path, tmp_path: Path) -> Path:
    """A copy of the cohort that a test may change."""
    return Path(shutil.copytree(small_cohort.parent, tmp_path / "own")) / "cohort.csv"


def test_the_fold_data_are_the_splits_patients_encoded_by_the_training_fold(
    make_small: MakeStudy, open_small: OpenStudy
) -> None:
    inputs = open_small(make_small())
    table = inputs.table
    for fold in range(2):
        data = inputs.fold_data(fold)
        assert data.training.ids == inputs.split.training(fold)
        assert data.validation.ids == inputs.split.validation(fold)
        assert data.validation.labels.tolist() == inputs.label[list(data.validation.ids)].tolist()
        low, high = np.sort(table["age"].loc[list(data.training.ids)])[[1, -2]]  # one patient does not set the scale
        expected = ((table["age"].loc[list(data.validation.ids)] - low) / (high - low)).clip(0, 1)
        np.testing.assert_allclose(data.validation.tabular[:, 0], expected, rtol=1e-6)
        assert all((folder / "ncct.npy").is_file() for folder in data.training.volumes)
    assert len(pickle.dumps(inputs)) < 50_000 + inputs.brain_mask.nbytes, "light to send"


def test_a_prepared_volume_of_other_content_is_prepared_again_at_the_next_start(
    make_small: MakeStudy, open_small: OpenStudy
) -> None:
    inputs = open_small(make_small())
    path = inputs.volumes[inputs.split.test[0]] / "ncct.npy"
    prepared, state = path.read_bytes(), path.stat()
    path.write_bytes(prepared[:-1] + bytes([prepared[-1] ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    open_small(make_small())
    assert path.read_bytes() == prepared


@pytest.mark.parametrize("is_refused", [False, True])
def test_label_and_selection_are_derived_once_and_the_split_again_only_if_patients_are_refused(
    make_small: MakeStudy, open_small: OpenStudy, own_cohort: Path, monkeypatch: pytest.MonkeyPatch, is_refused: bool
) -> None:
    counted = {"derive_label": reading, "select_patients": reading, "make_split": inputs_module}
    spies = {name: Mock(wraps=getattr(module, name)) for name, module in counted.items()}
    for name, module in counted.items():
        monkeypatch.setattr(module, name, spies[name])
    if is_refused:
        (own_cohort.parent / "PLANTED-003/ncct.nii.gz").write_bytes(b"")
    open_small(make_small(), own_cohort)
    calls = {name: spy.call_count for name, spy in spies.items()}
    assert calls == {"derive_label": 1, "select_patients": 1, "make_split": 1 + is_refused}


def test_the_split_and_the_settings_are_frozen_at_the_first_start(
    make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir
) -> None:
    study = make_small()
    inputs = open_small(study)
    folder = StudyFolder(small_work.study("small"))
    assert read_split(folder.split) == inputs.split
    frozen = read_config(folder)
    assert frozen.model_copy(update={"cohort": study.cohort, "ensemble": study.ensemble}) == study
    again = open_small(study)
    assert (again.split, again.data_hash) == (inputs.split, inputs.data_hash)
    open_small(make_small(search={"concurrent_trials": 1}, ensemble={"tie": "positive"}))  # they change no trial
    assert read_config(folder).ensemble.tie == "positive"

    folder.split.write_text(folder.split.read_text().replace(inputs.split.test[0], inputs.split.test[0] + "x"))
    with pytest.raises(RlvoError, match="edited"):
        open_small(study)


def test_other_settings_under_the_same_name_are_refused_with_their_paths(
    make_small: MakeStudy, open_small: OpenStudy
) -> None:
    open_small(make_small(space={"enumerate": {"model.modality": ["NCCT", "CTA"]}}))
    changed = make_small(
        space={"enumerate": {"model.modality": ["NCCT"]}},
        training={"epochs": 9, "batch_size": 4, "learning_rate": 0.01},
        seed=5,
    )
    with pytest.raises(RlvoError) as refusal:
        open_small(changed)
    assert "training.epochs: 1 became 9" in str(refusal.value)
    assert "seed: 0 became 5" in str(refusal.value)
    assert "space.enumerate.model.modality: ['NCCT', 'CTA'] became ['NCCT']" in str(refusal.value)
    assert "batch_size" not in str(refusal.value)


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [("rlvo", 0, "split differently"), ("nihss", 41, "predictors or volumes"), (None, None, "predictors or volumes")],
)
def test_a_cohort_that_changed_is_refused(
    make_small: MakeStudy, open_small: OpenStudy, own_cohort: Path, column: str | None, value: int, complaint: str
) -> None:
    open_small(make_small(), own_cohort)
    if column is None:
        shutil.copy(own_cohort.parent / "PLANTED-001/ncct.nii.gz", own_cohort.parent / "PLANTED-000/ncct.nii.gz")
    else:
        table = pd.read_csv(own_cohort, dtype=str)
        table.loc[0, column] = str(value)
        table.to_csv(own_cohort, index=False)
    with pytest.raises(RlvoError, match=complaint):
        open_small(make_small(), own_cohort)


def test_patients_with_unreadable_volumes_are_excluded_and_the_others_stay(
    make_small: MakeStudy, open_small: OpenStudy, own_cohort: Path
) -> None:
    for name in ("PLANTED-003/ncct.nii.gz", "PLANTED-007/cta.nii.gz"):
        path = own_cohort.parent / name
        path.write_bytes(path.read_bytes()[:-200])
    inputs = open_small(make_small(), own_cohort)
    assert Exclusion(REFUSED, ("PLANTED-003", "PLANTED-007")) in inputs.excluded
    assert "truncated" in str(inputs.refused["PLANTED-003"])
    assert set(inputs.split.development) | set(inputs.split.test) == set(inputs.volumes) == set(inputs.table.index)
    assert len(inputs.table) == 22


def test_a_cohort_without_a_usable_patient_is_refused_with_every_reason(
    make_small: MakeStudy, open_small: OpenStudy, own_cohort: Path, small_work: Workdir
) -> None:
    for path in own_cohort.parent.glob("*/cta.nii.gz"):
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CohortError) as refusal:
        open_small(make_small(), own_cohort)
    assert len(refusal.value.findings) == 24
    assert not StudyFolder(small_work.study("small")).config.exists()


def test_a_prior_without_vessel_masks_is_refused(
    make_small: MakeStudy, open_small: OpenStudy, own_cohort: Path
) -> None:
    pd.read_csv(own_cohort).drop(columns="vessels").to_csv(own_cohort, index=False)
    with pytest.raises(RlvoError, match=r"24 patient.*too coarse"):
        open_small(make_small(space={"enumerate": {"model.prior": [False, True]}}), own_cohort)


def test_a_grid_too_small_for_a_network_is_refused_before_anything_is_read(
    make_small: MakeStudy, open_small: OpenStudy
) -> None:
    with pytest.raises(RlvoError, match="smallest cube"):
        open_small(make_small(training={"batch_size": 1}), Path("no-such-cohort.csv"))


def test_a_study_from_before_a_setting_goes_on_without_it(
    make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir
) -> None:
    config = make_small()
    inputs = open_small(config)
    assert (inputs.cohort.scaling, inputs.cohort.imputation) == ("quantile", "ratio")
    folder = StudyFolder(small_work.study("small"))
    written = json.loads(folder.config.read_text())
    for name in ("scaling", "imputation", "missing_flags"):
        del written["cohort"][name]
    folder.config.write_text(json.dumps(written))
    for _ in range(2):  # the first opening writes the settings out
        again = open_small(config)
        assert (again.cohort.scaling, again.cohort.imputation, again.cohort.missing_flags) == (
            "min_max",
            "median",
            False,
        )
        assert again.encoder(0).bounds == again.encoder(0).extremes
        assert again.encoder(0).parts == {}
    with pytest.raises(RlvoError, match=r"cohort\.scaling: 'min_max' became 'quantile'"):
        open_small(config.with_setting("cohort.scaling", "quantile"))


def test_networks_from_before_a_setting_keep_their_keys(
    make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir
) -> None:
    model = {"backbone": "efficientnet-b0", "modality": "NCCT", "fusion": "none", "efficientnet": {"width": 0.25}}
    given = make_small(model=model)
    path, folder = "model.efficientnet.batch_norm_momentum", StudyFolder(small_work.study("small"))
    open_small(given.with_setting(path, 0.01))
    written = folder.config.read_text()
    assert json.loads(written)["model"]["efficientnet"] == {"width": 0.25, "depth": 1.0}, "as written then"
    open_small(given)
    assert folder.config.read_text() == written
    assert settle(given, folder).configuration({}).key == read_config(folder).configuration({}).key
    with pytest.raises(RlvoError, match=r"batch_norm_momentum: 0\.01 became 0\.1"):
        open_small(given.with_setting(path, 0.1))


def test_missing_flags_are_a_setting_of_the_cohort(make_small: MakeStudy, open_small: OpenStudy) -> None:
    inputs = open_small(make_small(cohort={"missing_flags": True, "predictors": ("age", "sex")}))
    data = inputs.fold_data(0)
    assert data.encoder.feature_names[-1].endswith("=missing")
    assert data.training.tabular.shape[1] == len(data.encoder.feature_names)


def test_a_study_on_anothers_folds_may_declare_a_predictor(
    make_small: MakeStudy, open_small: OpenStudy, small_cohort: Path
) -> None:
    own = {"name": "siphon", "kind": "continuous", "unit": "mm3", "range": [0, 100], "source": "Calcio"}
    first = open_small(make_small("first"))
    cohort = {"predictors": ["age", own]}
    config = make_small("second", cohort=cohort, folds={"folds": 2, "of_study": "first"})
    with pytest.raises(RlvoError, match="siphon: the table has no such column"):
        open_small(config)
    table = pd.read_csv(small_cohort)
    wider = small_cohort.with_name("wider.csv")
    table.assign(Calcio=range(1, 25)).to_csv(wider, index=False)
    second = open_small(config, wider)
    assert second.split.hash == first.split.hash
    assert second.encoder(0).feature_names == ("age", "siphon")
    assert second.table["siphon"].tolist() == list(range(1, 25))
    known = make_small(
        "third", cohort={"predictors": ["age", own | {"name": "nihss"}]}, folds=config.folds.model_dump()
    )
    with pytest.raises(RlvoError, match="nihss is declared, but rlvo knows it"):
        open_small(known, wider)
