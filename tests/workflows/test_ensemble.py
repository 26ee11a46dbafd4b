"""From trials to a registered model: what is registered again, built in part, or answers without CT perfusion."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from support.made_up_study import write_study, write_table
from support.registered_study import Registered
from support.tiny_study import TinyStudy

from rlvo.config.sections import CohortConfig, EnsembleConfig
from rlvo.config.space import Space
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.progress import no_progress
from rlvo.study.folder import StudyFolder, read_declared
from rlvo.study.image_baseline import JOINT, read_image_baselines
from rlvo.study.inputs import open_study
from rlvo.study.openings import Openings
from rlvo.training.fit import fit
from rlvo.workflows.ensemble import BuiltEnsemble, build_and_register
from rlvo.workflows.ensemble_comparison import compare, compare_tie_rules
from rlvo.workflows.evidence import gather_evidence
from rlvo.workflows.holdout import kept_evaluation, open_holdout
from rlvo.workflows.study import open_searched_study, read_study

pytestmark = pytest.mark.slow


def build(study: TinyStudy, **options: object) -> BuiltEnsemble:
    return build_and_register(open_searched_study("tiny", study.workdir), **options)  # type: ignore[arg-type]


def test_building_again_registers_only_what_has_changed(registered: Registered, tmp_path: Path) -> None:
    study = registered.study.copy(tmp_path / "work")
    again = build(study)
    assert (again.version, again.is_new) == ("1", False)

    settings = study.config.model_copy(update={"ensemble": EnsembleConfig(selection="greedy", calibration="isotonic")})
    changed = build_and_register(open_searched_study(settings, study.workdir))
    client = MlflowClient(study.workdir.tracking_uri())
    champion = client.get_model_version_by_alias("rlvo-ensemble", "champion")
    assert (changed.version, changed.is_new) == (str(champion.version), True) == ("2", True)
    assert champion.tags["rlvo.gate"].startswith("passed")
    assert champion.tags["rlvo.ensemble"] != client.get_model_version("rlvo-ensemble", "1").tags["rlvo.ensemble"]


def test_a_lost_trial_is_named_and_left_out_if_asked(registered: Registered, tmp_path: Path) -> None:
    study = registered.study.copy(tmp_path / "work")
    lost = sorted(study.folder.path.glob("trials/*/fold-1/predictions.csv"))[0]
    lost.unlink()
    with pytest.raises(RlvoError, match=lost.parent.parent.name):
        build(study)
    assert any(lost.parent.parent.name in note for note in build(study, partial=True).notes)


def test_a_study_of_fewer_predictors_answers_without_perfusion(study: TinyStudy, tmp_path: Path) -> None:
    study = study.copy(tmp_path / "work")
    for record in study.folder.path.glob("trials/*/fold-0/record.json"):
        if json.loads(record.read_text())["configuration"]["model"]["fusion"] == "none":
            shutil.rmtree(record.parents[1])  # so that every member looks at the table
    fewer = study.config.model_copy(
        update={
            "name": "tiny-b",
            "cohort": CohortConfig(predictors=("age", "sex", "nihss")),
            "model": study.config.model.model_copy(update={"fusion": "daft"}),
            "space": Space(),
            "ensemble": EnsembleConfig(linear_image="with_table"),  # without the side of the occlusion, too
        }
    )
    inputs = open_study(fewer, study.cohort, study.workdir, progress=no_progress, workers=1)
    configuration, folder = fewer.configuration({}), StudyFolder(study.workdir.study("tiny-b"))
    for fold in range(2):
        trial, identity = folder.trial(configuration.key, fold), inputs.identity(configuration.key, fold)
        fit(configuration, inputs.fold_data(fold), trial, identity, seed=fold, device="cpu", threads=1)

    built = build(study, reduced="tiny-b", check_bfloat16=True)
    client = MlflowClient(study.workdir.tracking_uri())
    assert "decisions the same" in client.get_model_version_by_alias("rlvo-ensemble", "champion").tags["rlvo.bfloat16"]

    table = study.raw.head(2).astype(object)
    table.loc[1, "tmax_gt6_ml"] = None
    answers = EnsemblePredictor.load(built.folder).predict(table, study.cohort.parent, members=True)
    whole, without = answers["warnings"]
    assert whole == ""
    assert "answered by the ensemble 'fewer predictors (tiny-b)'" in without
    assert "imputed" not in without
    linear = answers.filter(regex="^p_linear-image-table-f[01]-")
    assert linear.notna().sum(axis=1).tolist() == [0, 2]

    other = fewer.model_copy(update={"name": "tiny-c", "folds": fewer.folds.model_copy(update={"seed": 9})})
    open_study(other, study.cohort, study.workdir, progress=no_progress, workers=1)
    with pytest.raises(RlvoError, match="another split"):
        build(study, reduced="tiny-c")


def test_the_linear_model_of_the_volumes_is_a_member_from_the_study_to_the_hold_out(
    registered: Registered, tmp_path: Path
) -> None:
    study = registered.study.copy(tmp_path / "work")
    study.folder.image_models.unlink()  # as older versions of rlvo left it
    way = EnsembleConfig(linear_image="with_table", weighting="mean")
    opened = open_searched_study(study.config.model_copy(update={"ensemble": way}), study.workdir)
    built = build_and_register(opened)
    champion = MlflowClient(study.workdir.tracking_uri()).get_model_version_by_alias("rlvo-ensemble", "champion")
    assert (built.version, str(champion.version)) == ("2", "2")
    assert champion.tags["rlvo.gate"].startswith("passed")
    assert champion.description is not None
    assert "linear image + table" in champion.description

    specs = read_declared(study.folder)
    open_holdout(opened, specs, Openings(study.workdir.path))
    members = pd.read_csv(study.folder.holdout_members).set_index(["member", "patient"])["probability"]
    baseline = read_image_baselines(study.folder, opened.inputs.label)[JOINT]
    for number, fold in enumerate(baseline.folds):
        answered = members[f"linear-image-table-f{number}"]
        assert {*answered.index} == {*opened.inputs.split.test}
        np.testing.assert_allclose(answered, fold.probability(opened.test.loc[answered.index]), atol=1e-6)
    assert kept_evaluation(read_study("tiny", study.workdir)) is not None

    ways = compare("tiny", study.workdir)[1]
    assert ways["linear_image"].value_counts().to_dict() == {"with_table": 120, "none": 2, "alone": 2}


def test_before_the_linear_model_is_fitted_a_study_is_shown_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work, table = Workdir.at(tmp_path / "work"), write_table(tmp_path / "planted-hospital", 60)
    space = {"model.modality": ["NCCT", "CTA", "BOTH"]}
    write_study(work.path, table, space, ensemble={"linear_image": "alone", "table_member": "ridge"})
    ways = compare("made-up", work)[1]
    assert set(ways["linear_image"]) == {"none"}
    assert "not fitted yet; 'rlvo ensemble made-up" in caplog.text
    assert not compare_tie_rules("made-up", work).is_measured
    study = read_study("made-up", work)
    spec = gather_evidence(study, study.ended_trials()).specs["ensemble"]
    assert (spec.has_table, spec.linear_image) == (True, None)
