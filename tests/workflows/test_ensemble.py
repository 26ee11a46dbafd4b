"""From trials to a registered model: what is registered again, built in part, or answers without CT perfusion."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.registered_study import Registered
from support.tiny_study import TinyStudy

from rlvo.config.space import Space
from rlvo.config.study import CohortConfig, EnsembleConfig
from rlvo.errors import RlvoError
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.progress import no_progress
from rlvo.study.folder import StudyFolder
from rlvo.study.inputs import open_study
from rlvo.training.fit import fit
from rlvo.workflows.ensemble import BuiltEnsemble, build_and_register
from rlvo.workflows.study import open_searched_study

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
    whole, without = EnsemblePredictor.load(built.folder).predict(table, study.cohort.parent)["warnings"]
    assert whole == ""
    assert "answered by the ensemble 'fewer predictors (tiny-b)'" in without
    assert "imputed" not in without

    other = fewer.model_copy(update={"name": "tiny-c", "folds": fewer.folds.model_copy(update={"seed": 9})})
    open_study(other, study.cohort, study.workdir, progress=no_progress, workers=1)
    with pytest.raises(RlvoError, match="another split"):
        build(study, reduced="tiny-c")
