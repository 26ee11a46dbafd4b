"""An explanation is written by one version and read by another, and says what `predict` says."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.tiny_study import TinyStudy

from rlvo.errors import RlvoError
from rlvo.inference.explanation import FACTS, Explanation, explain_answer
from rlvo.inference.predictor import EnsemblePredictor


def test_it_explains_the_answer_that_predict_gives_and_reads_back(
    study: TinyStudy, predictor: EnsemblePredictor, tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    row = study.raw.head(1)
    found = explain_answer(predictor, row, study.cohort.parent, progress=lambda *step: steps.append(step))
    [predicted] = predictor.predict(row, study.cohort.parent).to_dict("records")
    assert found.facts.answer == predicted
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    assert steps[-1][0] <= steps[-1][1]
    votes = found.facts.votes
    assert sum(vote.score >= vote.threshold for vote in votes) == predicted["votes"]
    assert np.mean([vote.score - vote.threshold for vote in votes]) == pytest.approx(predicted["score"])
    assert np.mean([vote.probabilities["CTA"] for vote in votes]) == pytest.approx(predicted["p_cta"])

    found.write(tmp_path)
    newer = json.loads((tmp_path / FACTS).read_text()) | {"added by a later version": 1}
    (tmp_path / FACTS).write_text(json.dumps(newer))
    again = Explanation.read(tmp_path)
    assert again.facts == found.facts
    for group, maps in found.saliency.maps.items():
        np.testing.assert_array_equal(again.saliency.maps[group].after, maps.after)
        assert again.saliency.maps[group].silent == maps.silent
    assert again.saliency.checks == found.saliency.checks
    assert set(again.volumes) == {"ncct", "cta", "vessels"}
    assert str(row["patient_id"].iloc[0]) not in (tmp_path / FACTS).read_text().replace(
        json.dumps(found.facts.answer), ""
    )


def test_a_patient_without_scans_gets_one_line(study: TinyStudy, predictor: EnsemblePredictor) -> None:
    row = study.raw.head(1).assign(ncct=None, cta=None, vessels=None)
    with pytest.raises(RlvoError, match=r"^patient PLANTED-000: not answered: no NCCT"):
        explain_answer(predictor, row, study.cohort.parent)


def test_without_a_volume_the_variant_that_answers_is_explained(study: TinyStudy, predictor: EnsemblePredictor) -> None:
    row = study.raw.head(1).assign(cta=None, vessels=None)
    found = explain_answer(predictor, row, study.cohort.parent, check=False)
    assert found.facts.ensemble == "without CTA"
    assert {name for vote in found.facts.votes for name in vote.probabilities} == {"NCCT"}
    assert set(found.volumes) == {"ncct"}
    assert not found.saliency.checks
