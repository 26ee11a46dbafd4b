import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from rlvo.ensemble.declared import read_declared, write_declared
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError
from rlvo.evaluation.predictions import read_predictions
from rlvo.imaging.store import VolumeStore
from rlvo.registry import holdout
from rlvo.registry.folder import read_description
from rlvo.registry.holdout import HoldOut, evaluate_ensembles, kept_holdout
from rlvo.registry.inference import EnsemblePredictor
from rlvo.registry.openings import openings_of


def opened(
    study: Any, specs: dict[str, EnsembleSpec], model_folder: Path, study_folder: Path, reason: str | None = None
) -> HoldOut:
    return evaluate_ensembles(
        specs,
        read_description(model_folder),
        study_folder,
        study.inputs.table.loc[list(study.inputs.split.test)],
        study.inputs.label,
        study.cohort.parent,
        openings_of(study_folder),
        reason=reason,
        store=VolumeStore(study.workdir.store),
    )


def test_every_declared_ensemble_in_one_opening(
    study: Any, specs: dict[str, EnsembleSpec], model_folder: Path, predictor: EnsemblePredictor
) -> None:
    shown = opened(study, specs, model_folder, study.folder)
    assert shown.opening == 1
    assert list(shown.figures) == list(specs)

    test = list(study.inputs.split.test)
    raw = study.raw[study.raw["patient_id"].isin(test)]
    alone = predictor.predict(raw, study.cohort.parent).set_index("patient_id").loc[test]
    own = shown.answers[shown.answers["ensemble"] == "ensemble"].set_index("patient_id").loc[test]
    np.testing.assert_allclose(own["score"], alone["score"], rtol=0, atol=1e-6)
    assert own["rlvo"].tolist() == alone["rlvo"].tolist()

    for name, figures in shown.figures.items():
        of_name = shown.answers[shown.answers["ensemble"] == name]
        truth, vote = of_name["label"].to_numpy(int), of_name["rlvo"].to_numpy(int)
        assert truth.tolist() == study.inputs.label[of_name["patient_id"]].tolist()
        assert (figures.patients, figures.unanswered, figures.positives) == (6, 0, truth.sum())
        assert figures.auc == pytest.approx(roc_auc_score(truth, of_name["score"]))
        assert figures.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, vote))
        assert figures.f1 == pytest.approx(f1_score(truth, vote))
        assert figures.sensitivity == pytest.approx(vote[truth == 1].mean())
        assert figures.specificity == pytest.approx(1 - vote[truth == 0].mean())
        assert figures.interval[0] <= figures.auc <= figures.interval[1]

    kept = read_predictions(study.folder / holdout.MEMBER_PREDICTIONS)
    assert set(kept["patient"]) == set(test)
    distinct = {member.key for spec in specs.values() for member in spec.members}
    assert len(kept) == 6 * len(distinct)  # each member once a patient, in however many ensembles
    assert len(pd.read_csv(study.folder / holdout.ANSWERS)) == 6 * len(specs)


def test_a_second_opening_is_refused_and_the_first_is_kept(
    study: Any, specs: dict[str, EnsembleSpec], model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study.folder / "trials", folder / "trials")
    one = {"ensemble": specs["ensemble"]}
    assert kept_holdout(folder, one) is None
    first = opened(study, one, model_folder, folder)
    with pytest.raises(RlvoError, match="opened before: opening 1"):
        opened(study, one, model_folder, folder)
    kept = kept_holdout(folder, one)
    assert kept is not None
    assert (kept.opening, kept.figures) == (1, first.figures)
    pd.testing.assert_frame_equal(kept.answers, first.answers, check_dtype=False)
    assert kept_holdout(folder, {"other": specs["CTA"]}) is None
    assert opened(study, one, model_folder, folder, reason="a test").opening == 2
    lines = [json.loads(line) for line in (folder / "openings.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == [None, "a test"]
    assert all(line["split_hash"] == study.inputs.split.hash for line in lines)
    assert "PLANTED" not in (folder / "openings.jsonl").read_text()


def test_altered_weights_and_another_split_are_refused_and_open_nothing(
    study: Any, specs: dict[str, EnsembleSpec], model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study.folder / "trials", folder / "trials")
    member = specs["NCCT"].members[0]
    weights = folder / "trials" / member.configuration.key / f"fold-{member.fold}" / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RlvoError, match="altered"):
        opened(study, {"NCCT": specs["NCCT"]}, model_folder, folder)
    other = specs["CTA"].model_copy(update={"split_hash": "other"})
    with pytest.raises(RlvoError, match="another split: CTA"):
        opened(study, {"CTA": other}, model_folder, folder)
    assert not (folder / "openings.jsonl").exists()


def test_declared_ensembles_read_back(specs: dict[str, EnsembleSpec], tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match="no ensemble was built"):
        read_declared(tmp_path)
    write_declared(tmp_path, specs)
    assert read_declared(tmp_path) == specs
    (tmp_path / "ensemble" / "declared.json").write_text("{")
    with pytest.raises(RlvoError, match="damaged"):
        read_declared(tmp_path)
