"""`rlvo prepare` as a command."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from rlvo.cli.imaging import prepare
from rlvo.config.grid import PRESETS
from rlvo.errors import RlvoError
from rlvo.synthetic.cohort import write_synthetic_cohort

app = typer.Typer()
app.command()(prepare)
FOCUS = PRESETS["focus"]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    write_synthetic_cohort(tmp_path / "cohort", patients=10, profile="demo", seed=0, grid=FOCUS, workers=1)
    return tmp_path / "cohort" / "cohort.csv"


def arguments(cohort: Path, *more: str) -> list[str]:
    return [str(cohort), "--grid", "focus", "--workdir", str(cohort.parent / "work"), "--workers", "1", *more]


def test_every_patient_is_prepared(cohort: Path) -> None:
    result = CliRunner().invoke(app, arguments(cohort, "--json"))
    assert result.exit_code == 0, result.output
    patients = json.loads(result.stdout)["patients"]
    assert [each["patient_id"] for each in patients] == list(pd.read_csv(cohort, dtype=str)["patient_id"])
    assert {each["status"] for each in patients} == {"prepared"}
    assert {tuple(each["warnings"]) for each in patients} == {()}
    assert len(list((cohort.parent / "work" / "store").glob("*/*/cta.npy"))) == 10
    told = CliRunner().invoke(app, arguments(cohort))
    assert "10 of 10 patients prepared" in told.stderr


def test_a_refused_patient_is_told_and_the_others_are_prepared(cohort: Path) -> None:
    table = pd.read_csv(cohort, dtype=str)
    ncct = cohort.parent / table.loc[3, "ncct"]
    ncct.write_bytes(ncct.read_bytes()[:-100])
    cta = cohort.parent / table.loc[5, "cta"]
    nibabel.save(nibabel.Nifti1Image(np.zeros((*FOCUS.shape, 2), dtype=np.int16), FOCUS.affine), cta)
    result = CliRunner().invoke(app, arguments(cohort, "--json"))
    assert isinstance(result.exception, RlvoError)
    assert result.exception.exit_code == 2
    assert "2 of 10 patients refused" in str(result.exception)
    refused = {each["patient_id"]: each["reason"] for each in json.loads(result.stdout)["patients"] if "reason" in each}
    assert set(refused) == set(table.loc[[3, 5], "patient_id"])
    assert "truncated" in refused[table.loc[3, "patient_id"]]
    assert "4-D" in refused[table.loc[5, "patient_id"]]
