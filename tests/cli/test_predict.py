"""`rlvo predict` with a registered model: tables, folders of studies, what cannot be answered, and going on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner, Result

from rlvo import NOTICE
from rlvo.cli import predict
from rlvo.cohort.tables import RawTable
from rlvo.errors import CohortError, RlvoError
from rlvo.registry.inference import EnsemblePredictor
from rlvo.registry.patient_folders import read_patient_folders

app = typer.Typer()
app.command()(predict.predict)
app.command("nothing")(lambda: None)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The one line of a command whose input is at fault."""
    result = run(*arguments)
    assert isinstance(result.exception, RlvoError), result.output
    assert result.exception.exit_code == 2
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.mark.slow
def test_it_answers_as_the_model_does_and_goes_on(
    study: Any, package: Path, predictor: EnsemblePredictor, tmp_path: Path
) -> None:
    table = study.raw.head(5)
    table.to_csv(study.cohort.parent / "five.csv", index=False)
    arguments = (package, study.cohort.parent / "five.csv", "-o", tmp_path / "out.csv")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert NOTICE in " ".join(result.stderr.split())
    expected = predictor.predict(table, study.cohort.parent)
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert written.columns.tolist() == expected.columns.tolist()
    np.testing.assert_allclose(written["score"], expected["score"], rtol=0, atol=1e-6)
    for column in ("patient_id", "rlvo", "votes", "folds", "warnings", "notice"):
        assert written[column].tolist() == expected[column].tolist()

    kept = tmp_path / "out.csv.answered.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    kept.write_text("".join(json.dumps(line | {"answer": line["answer"] | {"votes": 9}}) + "\n" for line in lines))
    assert run(*arguments).exit_code == 0
    assert pd.read_csv(tmp_path / "out.csv")["votes"].tolist() == [9] * 5


@pytest.mark.slow
def test_who_cannot_be_answered_for_is_named_and_null(study: Any, package: Path, tmp_path: Path) -> None:
    table = study.raw.head(2).drop(columns="nihss").astype({"cta": object, "ncct": object})
    table.loc[0, ["ncct", "cta"]] = None
    path = study.cohort.parent / "two.csv"
    table.to_csv(path, index=False)
    result = run(package, path, "-o", tmp_path / "out.csv", "--json")
    assert isinstance(result.exception, CohortError)
    [finding] = result.exception.findings
    assert finding.patient == str(table.loc[0, "patient_id"])
    assert finding.what.startswith("not answered: no NCCT")
    assert "no column nihss" in result.stderr
    first, second = json.loads(result.stdout)
    assert (first["rlvo"], first["score"], first["votes"]) == (None, None, None)
    assert second["rlvo"] in (0, 1)
    assert "nihss" in second["warnings"]
    assert pd.read_csv(tmp_path / "out.csv")["rlvo"].isna().tolist() == [True, False]


@pytest.mark.slow
def test_a_folder_of_studies_is_answered_as_its_table(
    study: Any, package: Path, predictor: EnsemblePredictor, tmp_path: Path
) -> None:
    for patient in study.raw["patient_id"][:2]:
        (tmp_path / "studies" / patient).mkdir(parents=True)
        for name in ("ncct", "cta", "vessels"):
            (tmp_path / "studies" / patient / f"{name.upper()}_thin.nii.gz").symlink_to(
                study.cohort.parent / patient / f"{name}.nii.gz"
            )
    clinical = study.raw.head(3).drop(columns=["ncct", "cta", "vessels"])
    clinical.to_csv(tmp_path / "clinical.csv", index=False)
    result = run(package, tmp_path / "studies", "--clinical", tmp_path / "clinical.csv", "--json")
    assert result.exit_code == 0, result.output
    expected = predictor.predict(study.raw.head(2), study.cohort.parent)
    answers = json.loads(result.stdout)
    assert [row["patient_id"] for row in answers] == expected["patient_id"].tolist()
    assert [row["score"] for row in answers] == pytest.approx(expected["score"].tolist(), abs=1e-6)
    assert f"no folder for patient {study.raw['patient_id'][2]}" in result.stderr


def test_patient_folders_as_a_table(tmp_path: Path) -> None:
    for name in ("7/ncct.nii.gz", "7/CTA-1.0mm/1.dcm", "7/ncct.json", "007/cta.nii", ".cache/cta.nii", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    clinical = RawTable(pd.DataFrame({"patient_id": ["7 ", "8"], "age": ["70,5", "60"], "cta": ["x", "y"]}), True)
    raw, notes = read_patient_folders(tmp_path, clinical)
    assert raw.decimal_comma
    rows = raw.cells.astype(object).where(raw.cells.notna(), None).to_dict("records")
    assert rows == [
        {"patient_id": "007", "ncct": None, "cta": "007/cta.nii", "vessels": None, "age": None},
        {"patient_id": "7", "ncct": "7/ncct.nii.gz", "cta": "7/CTA-1.0mm", "vessels": None, "age": "70,5"},
    ]
    assert notes == ["no folder for patient 8: not asked about", "no clinical row for patient 007"]
    (tmp_path / "7" / "ncct_bone.nii").touch()
    with pytest.raises(CohortError, match=r"patient 7, ncct: several may be meant: ncct.nii.gz, ncct_bone.nii"):
        read_patient_folders(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RlvoError, match="no patient's folder"):
        read_patient_folders(tmp_path / "empty")
    twice = RawTable(pd.DataFrame({"patient_id": ["7", "7"]}), False)
    (tmp_path / "7" / "ncct_bone.nii").unlink()
    with pytest.raises(RlvoError, match="more than one clinical row for 7"):
        read_patient_folders(tmp_path, twice)


def test_what_is_at_fault_is_said_in_one_line(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("patient_id,ncct,cta\na,b,c\n")
    out = ("-o", tmp_path / "x.csv", "--workdir", tmp_path / "none")
    assert "nowhere to write" in refused("rlvo-ensemble", table)
    assert "no such cohort table" in refused("rlvo-ensemble", tmp_path / "none.csv", *out)
    assert "no registry" in refused("rlvo-ensemble", table, *out)
    assert "only a folder" in refused("rlvo-ensemble", table, "--clinical", table, *out)
    assert not (tmp_path / "none").exists()


def test_the_commands_import_nothing_heavy() -> None:
    heavy = "{'torch', 'mlflow', 'ray', 'sklearn', 'pandas', 'fastapi'}"
    code = f"import sys, rlvo.cli.predict, rlvo.cli.serve, rlvo.cli.bundle; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
