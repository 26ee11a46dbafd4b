"""`rlvo prepare` as a command."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
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
    assert {each["reason"] for each in patients} == {None}
    transform = sitk.ReadTransform(patients[0]["transforms"]["ncct"])
    assert transform.TransformPoint((1.0, 2.0, 3.0)) == (1.0, 2.0, 3.0)
    store = cohort.parent / "work" / "store"
    assert len(list(store.glob("*/*/cta.npy"))) == 10
    pictures = list((store / "contact-sheets" / "cohort" / "pictures").glob("*.png"))
    assert len(pictures) == 10
    drawn = {path: path.stat().st_mtime_ns for path in pictures}
    told = CliRunner().invoke(app, arguments(cohort))
    assert "10 prepared, 0 to review, 0 refused" in told.stderr
    assert {path: path.stat().st_mtime_ns for path in pictures} == drawn


def test_a_store_elsewhere_on_the_grid_of_a_study(cohort: Path, tmp_path: Path) -> None:
    config = tmp_path / "study.yaml"
    config.write_text("name: x\ngrid: {shape: [20, 20, 20], spacing: [4, 4, 4], origin: [-62, -35, -40]}\n")
    table = pd.read_csv(cohort, dtype=str).head(1)
    table.to_csv(cohort, index=False)
    for column in ("ncct", "cta", "vessels"):
        image = nibabel.load(cohort.parent / table[column][0])
        nibabel.save(image.slicer[:20, :20, :20], cohort.parent / table[column][0])
    more = ["--config", str(config), "--store", str(tmp_path / "elsewhere"), "--workers", "1", "--json"]
    result = CliRunner().invoke(app, [str(cohort), *more])
    assert result.exit_code == 0, result.output
    (volume,) = (tmp_path / "elsewhere").glob("*/*/ncct.npy")
    assert np.load(volume).shape == (20, 20, 20)


def test_what_is_no_business_of_preparation_is_not_looked_at(cohort: Path) -> None:
    table = pd.read_csv(cohort, dtype=str).head(2)[["patient_id", "ncct", "age"]].assign(age="old", rlvo="9")
    table.loc[1, "ncct"] = "not-there.nii.gz"
    table.to_csv(cohort, index=False)
    result = CliRunner().invoke(app, arguments(cohort, "--json"))
    assert isinstance(result.exception, RlvoError)
    first, second = json.loads(result.stdout)["patients"]
    assert (first["status"], second["status"]) == ("prepared", "refused")
    assert "no such file" in second["reason"]


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
    refused = {
        each["patient_id"]: each["reason"]
        for each in json.loads(result.stdout)["patients"]
        if each["status"] == "refused"
    }
    assert set(refused) == set(table.loc[[3, 5], "patient_id"])
    assert "truncated" in refused[table.loc[3, "patient_id"]]
    assert "4-D" in refused[table.loc[5, "patient_id"]]
