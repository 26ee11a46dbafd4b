"""The registered model in a process of its own: its answers, and how its death is reported."""

import json
import os
import signal
from pathlib import Path

import pytest
from support.tiny_study import TinyStudy

from rlvo.errors import MachineError, RlvoError
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.registry.process import run_model

pytestmark = pytest.mark.slow


def test_it_answers_as_the_model_does_and_survives_bad_rows(
    study: TinyStudy, predictor: EnsemblePredictor, package: Path
) -> None:
    expected = predictor.predict(study.raw.head(2), study.cohort.parent, members=True)
    rows = json.loads(study.raw.head(2).drop(columns="rlvo").to_json(orient="records"))
    with run_model(package) as running:
        with pytest.raises(RlvoError, match="patient_id: row 1 ") as fault:
            running.answer({**rows[0], "patient_id": None})
        assert (fault.value.exit_code, "\n" in str(fault.value)) == (2, False)
        with pytest.raises(MachineError, match="the model failed"):
            running.answer({"age": 70})
        for row, wanted in zip(rows, expected.to_dict("records"), strict=True):
            got = running.answer(row, folder=str(study.cohort.parent), members=True)
            assert list(got) == list(wanted)
            assert got == pytest.approx(wanted, abs=1e-6, nan_ok=True)
        pid = running.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_its_death_is_reported_in_one_line(package: Path) -> None:
    with run_model(package) as running:
        os.kill(running.process.pid, signal.SIGKILL)
        with pytest.raises(MachineError, match=r"died \(code -9\)") as fault:
            running.answer({"patient_id": "a"})
    assert "\n" not in str(fault.value)


def test_a_model_that_does_not_load_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="the model failed") as fault, run_model(tmp_path / "nothing"):
        pass
    assert "\n" not in str(fault.value)
