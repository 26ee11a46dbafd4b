"""The registered model in a process of its own: its answers, its death, and what earlier models find there."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support.tiny_study import TinyStudy

from rlvo.errors import MachineError, RlvoError
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.registry.location import write_manifest
from rlvo.registry.process import run_model, start_interpreter


@pytest.mark.slow
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


@pytest.mark.slow
def test_its_death_is_reported_in_one_line(package: Path) -> None:
    with run_model(package) as running:
        os.kill(running.process.pid, signal.SIGKILL)
        with pytest.raises(MachineError, match=r"died \(code -9\)") as fault:
            running.answer({"patient_id": "a"})
    assert "\n" not in str(fault.value)


@pytest.mark.slow
def test_a_model_that_does_not_load_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="the model failed") as fault, run_model(tmp_path / "nothing"):
        pass
    assert "\n" not in str(fault.value)


ONLY_THE_STAND_IN = """
import importlib.machinery, sys
class OnlyTheStandIn:
    def find_spec(name, path=None, target=None):
        if name == "pandera":  # a real one may be installed here
            return importlib.machinery.PathFinder.find_spec(name, sys.path[-1:])
sys.meta_path.insert(0, OnlyTheStandIn)
"""
EARLIER_CHECKS = """
import json, sys
import numpy as np, pandas as pd
import pandera.pandas as pa

def _violations(values: pd.Series, check: pa.Check) -> pd.Series:
    wrong = np.zeros(len(values), dtype=bool)
    try:
        pa.SeriesSchema(checks=check, nullable=True).validate(values.reset_index(drop=True), lazy=True)
    except pa.errors.SchemaErrors as error:
        wrong[error.failure_cases["index"].to_numpy(dtype=int)] = True
    return pd.Series(wrong, index=values.index)

numbers = pd.Series([0.0, 1.0, None, -0.1, 2.5, 1.0], index=list("abcdde"))
words = pd.Series(["F", "x", None, "M", "f"], index=list("abcde"), dtype="str")
print(json.dumps([_violations(*each).tolist() for each in (
    (numbers, pa.Check.isin([0, 1])), (numbers, pa.Check.in_range(0.0, 2.5)), (words, pa.Check.isin(("F", "M"))),
    (numbers, pa.Check.in_range(-1.0, 3.0)), (numbers.iloc[:0], pa.Check.isin([0])))]))
print(pa.__file__)
"""
"""The part of earlier copies of rlvo that uses pandera, as it was, on cells of every kind they knew."""


def run(program: str, **environment: str) -> list[str]:
    process = start_interpreter(program, environment=environment, stdout=subprocess.PIPE, text=True)
    return str(process.communicate(timeout=60)[0]).splitlines()


def test_the_stand_in_finds_the_wrong_cells() -> None:
    found, source = run(ONLY_THE_STAND_IN + EARLIER_CHECKS)
    assert source.endswith("rlvo/registry/stand_ins/pandera/pandas.py")
    assert json.loads(found) == [
        [False, False, False, True, True, False],
        [False, False, False, True, False, False],
        [False, True, False, False, True],
        [False] * 6,
        [],
    ]


def test_an_installed_package_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "pandera").mkdir()
    (tmp_path / "pandera" / "__init__.py").write_text("")
    (tmp_path / "pandera" / "pandas.py").write_text("print('the real one')")
    assert run("import pandera.pandas", PYTHONPATH=str(tmp_path)) == ["the real one"]


@pytest.mark.slow
def test_a_model_that_needs_a_stand_in_gives_the_same_answer(study: TinyStudy, package: Path, tmp_path: Path) -> None:
    earlier = Path(shutil.copytree(package, tmp_path / "earlier"))
    cells = earlier / "code/rlvo/cohort/cells.py"
    cells.write_text(
        cells.read_text().replace("\nimport pandas as pd\n", "\nimport pandas as pd\nimport pandera.pandas\n")
    )
    assert "pandera" in cells.read_text()
    write_manifest(earlier)
    row = json.loads(study.raw.head(1).drop(columns="rlvo").to_json(orient="records"))[0]
    answers = []
    for model in (package, earlier):
        with run_model(model) as process:
            answers.append(process.answer(row, folder=str(study.cohort.parent), members=True))
    assert answers[0] == answers[1]
