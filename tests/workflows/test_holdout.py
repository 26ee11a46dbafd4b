"""The hold-out of a study that was really trained: opened once for all its ensembles, on record, and kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, f1_score, roc_auc_score
from support.tiny_study import TinyStudy

from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError
from rlvo.evaluation.predictions import read_predictions
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.study.folder import StudyFolder, read_config, read_declared, write_declared
from rlvo.study.openings import Openings
from rlvo.workflows.holdout import HoldOut, kept_evaluation, kept_holdout, open_holdout
from rlvo.workflows.study import OpenStudy


@pytest.fixture
def copy(study: TinyStudy, model_folder: Path, tmp_path: Path) -> TinyStudy:
    """The study with its model folder, free to be opened."""
    own = study.copy(tmp_path / "work")
    shutil.copytree(model_folder, own.folder.model)
    return own


def opened(study: TinyStudy, specs: dict[str, EnsembleSpec], reason: str | None = None) -> HoldOut:
    of_study = OpenStudy(read_config(study.folder), study.workdir, study.inputs)
    return open_holdout(of_study, specs, Openings(study.workdir.path), reason=reason)


def test_every_declared_ensemble_in_one_opening(
    copy: TinyStudy, specs: dict[str, EnsembleSpec], predictor: EnsemblePredictor
) -> None:
    shown = opened(copy, specs)
    assert (shown.opening, shown.seen_before) == (1, 0)
    assert list(shown.ensembles) == list(specs)
    assert list(shown.baselines) == ["NIHSS", "all clinical", "all clinical, ridge", "all clinical, boosted"]

    test = list(copy.inputs.split.test)
    raw = copy.raw[copy.raw["patient_id"].isin(test)]
    alone = predictor.predict(raw, copy.cohort.parent).set_index("patient_id").loc[test]
    own = shown.own_answers.loc[test]
    np.testing.assert_allclose(own["score"], alone["score"], rtol=0, atol=1e-6)
    assert own["rlvo"].tolist() == alone["rlvo"].tolist()

    for name, found in shown.ensembles.items():
        of_name = shown.answers[shown.answers["ensemble"] == name]
        truth, vote = of_name["label"].to_numpy(int), of_name["rlvo"].to_numpy(int)
        assert truth.tolist() == copy.inputs.label[of_name["patient_id"]].tolist()
        assert (found.patients, found.unanswered, found.positives) == (6, 0, truth.sum())
        assert found.auc == pytest.approx(roc_auc_score(truth, of_name["score"]))
        assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, vote))
        assert found.f1 == pytest.approx(f1_score(truth, vote))
        assert found.sensitivity == pytest.approx(vote[truth == 1].mean())
        assert found.specificity == pytest.approx(1 - vote[truth == 0].mean())
        assert found.interval[0] <= found.auc <= found.interval[1]

    kept = read_predictions(copy.folder.holdout_members)
    assert set(kept["patient"]) == set(test)
    distinct = {member.key for spec in specs.values() for member in spec.members}
    assert len(kept) == 6 * len(distinct)  # each member once per patient, in however many ensembles
    assert len(pd.read_csv(copy.folder.holdout_answers)) == 6 * len(specs)


def test_a_second_opening_is_refused_and_the_first_is_kept(copy: TinyStudy, specs: dict[str, EnsembleSpec]) -> None:
    one, log = {"ensemble": specs["ensemble"]}, copy.workdir.path / "openings.jsonl"
    assert kept_holdout(copy.folder, one) is None
    first = opened(copy, one)
    with pytest.raises(RlvoError, match="opened before: opening 1"):
        opened(copy, one)
    kept = kept_holdout(copy.folder, one)
    assert kept is not None
    assert (kept.opening, kept.ensembles, kept.baselines) == (1, first.ensembles, first.baselines)
    pd.testing.assert_frame_equal(kept.answers, first.answers, check_dtype=False)
    assert kept_holdout(copy.folder, {"other": specs["CTA"]}) is None
    again = opened(copy, one, reason="a test")
    assert (again.opening, again.seen_before) == (2, 6)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["reason"] for line in lines] == [None, "a test"]
    assert all(line["split_hash"] == copy.inputs.split.hash for line in lines)
    assert "PLANTED" not in log.read_text()

    content = json.loads(copy.folder.holdout_figures.read_text())
    assert list(content) == ["opening", "seen_before", "unknown", "ensembles", "figures", "baselines"]
    for damaged in ("{", json.dumps(content | {"figures": {"ensemble": {"auc": 1}}}), json.dumps({"opening": 1})):
        copy.folder.holdout_figures.write_text(damaged)
        with pytest.raises(RlvoError, match="damaged"):
            kept_holdout(copy.folder, one)


@pytest.mark.slow
def test_the_hold_outs_own_questions_are_answered(copy: TinyStudy, specs: dict[str, EnsembleSpec]) -> None:
    shown = opened(copy, specs)
    write_declared(copy.folder, specs)
    of_study = OpenStudy(read_config(copy.folder), copy.workdir, copy.inputs)
    evaluated = kept_evaluation(of_study)
    assert evaluated is not None
    pairs = {(each.a, each.b): each.found for each in evaluated.tests}
    assert list(pairs) == [("ensemble", "all clinical"), ("resnet18 daft", "resnet18 none")]
    for (a, b), found in pairs.items():
        auc_a, auc_b = ({**shown.ensembles, **shown.baselines}[name].auc for name in (a, b))
        assert (found.auc.auc_a, found.auc.auc_b) == pytest.approx((auc_a, auc_b))
        assert found.patients == 6
        assert 0 <= found.decisions.p_value <= 1
    by_name = {name: own.set_index("patient_id") for name, own in shown.answers.groupby("ensemble")}
    daft, none = by_name["resnet18 daft"], by_name["resnet18 none"]
    right = [own["rlvo"].astype(int) == own["label"] for own in (daft, none)]
    decisions = pairs["resnet18 daft", "resnet18 none"].decisions
    assert (decisions.only_a, decisions.only_b) == ((right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum())

    own = shown.own_answers
    brier = evaluated.usefulness["ensemble"].calibration.estimates.loc["brier", "value"]
    assert brier == pytest.approx(brier_score_loss(own["label"], own["probability"]))
    at_half = evaluated.usefulness["ensemble"].benefit.set_index("threshold").loc[0.5, "model"]
    alerts = own["probability"] >= 0.5
    assert at_half == pytest.approx(((alerts & (own["label"] == 1)).sum() - (alerts & (own["label"] == 0)).sum()) / 6)
    assert list(evaluated.usefulness) == ["ensemble", "all clinical"]
    assert {path.name for path in evaluated.pictures} == {
        f"holdout-{name}.{kind}" for name in ("calibration", "decision-curve") for kind in ("svg", "png")
    }
    assert (evaluated.power.patients, evaluated.power.positives) == (6, 2)


def test_altered_weights_and_another_split_are_refused_and_open_nothing(
    copy: TinyStudy, specs: dict[str, EnsembleSpec]
) -> None:
    member = specs["NCCT"].members[0]
    weights = copy.folder.trial(member.configuration.key, member.fold) / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RlvoError, match="altered"):
        opened(copy, {"NCCT": specs["NCCT"]})
    other = specs["CTA"].model_copy(update={"split_hash": "other"})
    with pytest.raises(RlvoError, match="another split: CTA"):
        opened(copy, {"CTA": other})
    assert not (copy.workdir.path / "openings.jsonl").exists()


def test_declared_ensembles_read_back(specs: dict[str, EnsembleSpec], tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with pytest.raises(RlvoError, match="no ensemble was built"):
        read_declared(folder)
    write_declared(folder, specs)
    assert read_declared(folder) == specs
    folder.declared.write_text("{")
    with pytest.raises(RlvoError, match="damaged"):
        read_declared(folder)
