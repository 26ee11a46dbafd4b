from pathlib import Path

import pytest
from support.tiny_study import TinyStudy

from rlvo.inference.members import Members
from rlvo.inference.patients import CheckedTable
from rlvo.inference.predictor import EnsemblePredictor


@pytest.mark.parametrize(("max_kept_bytes", "reads"), [(2**30, 1), (0, 2)])
def test_members_that_do_not_fit_into_memory_are_read_again(
    study: TinyStudy, predictor: EnsemblePredictor, monkeypatch: pytest.MonkeyPatch, max_kept_bytes: int, reads: int
) -> None:
    monkeypatch.setattr("rlvo.inference.members.MAX_KEPT_BYTES", max_kept_bytes)
    ensemble = predictor.description.variants[0]
    specs = {member.key: member for member in ensemble.spec.members}
    read: list[str] = []

    def weights(name: str) -> tuple[Path, None]:
        read.append(name)
        return study.weights(ensemble, specs[name]), None

    members = Members(weights)
    table = CheckedTable.read(study.raw.head(2), study.cohort.parent, ensemble.predictors)
    for patient in table.prepare(predictor.description.target, [ensemble.channels]):
        assert patient.volumes is not None
        features = {fold: encoder.transform(patient.row) for fold, encoder in ensemble.encoders.items()}
        given = (specs, patient.volumes, features)
        assert members.probabilities(*given) == predictor.members.probabilities(*given)
    assert sorted(read) == sorted([*specs] * reads)
