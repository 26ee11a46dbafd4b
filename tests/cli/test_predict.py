"""`rlvo predict` with a registered model: tables, folders of patients, who cannot be scored, continuing; `rlvo serve`.

How a server answers is in tests/registry/test_server.py.
"""

import json
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from support.catalogue import write_series
from support.commands import call, refused, run
from support.privacy import open_to_others
from support.registered_study import Registered
from support.tiny_study import TinyStudy

import rlvo
from rlvo.about import NOTICE
from rlvo.errors import CohortError, RlvoError
from rlvo.inference.predictor import EnsemblePredictor


@pytest.mark.slow
def test_it_answers_as_the_model_does_and_continues(
    study: TinyStudy, package: Path, predictor: EnsemblePredictor, tmp_path: Path
) -> None:
    table = study.raw.head(5)
    table.to_csv(study.cohort.parent / "five.csv", index=False)
    arguments = ("predict", package, study.cohort.parent / "five.csv", "-o", tmp_path / "out.csv")
    assert NOTICE in run(*arguments).stderr
    expected = predictor.predict(table, study.cohort.parent)
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert written.columns.tolist() == expected.columns.tolist()
    np.testing.assert_allclose(written["score"], expected["score"], rtol=0, atol=1e-6)
    for column in ("patient_id", "rlvo", "votes", "folds", "warnings", "notice"):
        assert written[column].tolist() == expected[column].tolist()

    kept = tmp_path / "out.csv.answered.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    kept.write_text("".join(json.dumps(line | {"answer": line["answer"] | {"votes": 9}}) + "\n" for line in lines))
    run(*arguments)
    assert pd.read_csv(tmp_path / "out.csv")["votes"].tolist() == [9] * 5

    names = {"patient_id": "NHC", "age": "Edad", "cta": "Angio", "rlvo": "Refractaria"}
    (tmp_path / "names.yaml").write_text(json.dumps({"cohort": {"columns": names}, "name": "theirs"}))
    theirs = study.cohort.parent / "theirs.csv"
    table.drop(columns="rlvo").rename(columns=names).to_csv(theirs, index=False)
    run("predict", package, theirs, "-o", tmp_path / "out.csv", "--columns", tmp_path / "names.yaml")
    assert pd.read_csv(tmp_path / "out.csv")["votes"].tolist() == [9] * 5  # the rows are the same to the model
    assert not open_to_others(tmp_path, "PLANTED")


@pytest.mark.slow
def test_a_copied_work_folder_answers_the_same_from_its_own_files(
    registered: Registered, predictor: EnsemblePredictor, tmp_path: Path
) -> None:
    study = registered.study.copy(tmp_path / "another 100%41?")
    listed = json.loads(run("models", "--workdir", study.workdir.path, "--json").stdout)
    assert listed == json.loads(run("models", "--workdir", registered.study.workdir.path, "--json").stdout)
    table = study.raw.head(1)
    table.to_csv(study.cohort.parent / "one.csv", index=False)
    arguments = ("rlvo-ensemble", study.cohort.parent / "one.csv", "-o", tmp_path / "out.csv")
    said = run("predict", *arguments, "--workdir", study.workdir.path)
    assert NOTICE in said.stderr
    expected = predictor.predict(table, study.cohort.parent)
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out.csv")["score"], expected["score"], rtol=0, atol=1e-6)
    assert study.workdir.path in rlvo.load_model("rlvo-ensemble", study.workdir.path).folder.parents


@pytest.mark.slow
def test_who_cannot_be_scored_is_named_and_null(study: TinyStudy, package: Path, tmp_path: Path) -> None:
    table = study.raw.head(2).drop(columns="nihss").astype({"cta": object, "ncct": object})
    table.loc[0, ["ncct", "cta"]] = None
    path = study.cohort.parent / "two.csv"
    table.to_csv(path, index=False)
    result = call("predict", package, path, "-o", tmp_path / "out.csv", "--json")
    assert isinstance(result.exception, CohortError)
    [finding] = result.exception.findings
    assert finding.patient == str(table.loc[0, "patient_id"])
    assert finding.what.startswith("not answered: no NCCT")
    assert "no column nihss" in result.stderr
    first, second = json.loads(result.stdout)
    assert (first["rlvo"], first["score"], first["votes"]) == (None, None, None)
    assert second["rlvo"] in (0, 1)
    assert "imputed: NIHSS" in second["warnings"]
    assert pd.read_csv(tmp_path / "out.csv")["rlvo"].isna().tolist() == [True, False]


@pytest.mark.slow
def test_structured_reports_are_filed_with_dicom_scans(study: TinyStudy, package: Path, tmp_path: Path) -> None:
    """A second run adds none."""
    write_series(tmp_path / "cta", StudyInstanceUID="1.2.3")
    table = study.raw.head(1).drop(columns=["ncct", "vessels"]).assign(cta=tmp_path / "cta")
    path = study.cohort.parent / "scans.csv"
    table.to_csv(path, index=False)
    arguments = ("predict", package, path, "-o", tmp_path / "out.csv", "--sr", tmp_path / "sr", "--json")
    for already in ("", "; 1 were there already"):
        result = run(*arguments)
        assert f"sr: 1 structured report(s){already}\n" in result.stderr
    [report] = [pydicom.dcmread(file) for file in (tmp_path / "sr").iterdir()]
    assert (report.PatientID, report.StudyInstanceUID) == ("SECRET", "1.2.3")
    answer = json.loads(result.stdout)[0]
    texts = [item.get("TextValue") for item in report.ContentSequence]
    assert f"{answer['votes']} of {answer['folds']} folds" in texts
    assert set(answer["warnings"].split("; ")) <= set(texts)
    (tmp_path / "sr" / "notes.txt").touch()
    assert "something other" in refused(*arguments)


@pytest.mark.slow
def test_a_folder_of_patients_is_answered_as_its_table(
    study: TinyStudy, package: Path, predictor: EnsemblePredictor, tmp_path: Path
) -> None:
    for patient in study.raw["patient_id"][:2]:
        (tmp_path / "studies" / patient).mkdir(parents=True)
        for name in ("ncct", "cta", "vessels"):
            (tmp_path / "studies" / patient / f"{name.upper()}_thin.nii.gz").symlink_to(
                study.cohort.parent / patient / f"{name}.nii.gz"
            )
    clinical = study.raw.head(3).drop(columns=["ncct", "cta", "vessels"])
    clinical.to_csv(tmp_path / "clinical.csv", index=False)
    result = run("predict", package, tmp_path / "studies", "--clinical", tmp_path / "clinical.csv", "--json")
    expected = predictor.predict(study.raw.head(2), study.cohort.parent)
    answers = json.loads(result.stdout)
    assert [row["patient_id"] for row in answers] == expected["patient_id"].tolist()
    assert [row["score"] for row in answers] == pytest.approx(expected["score"].tolist(), abs=1e-6)
    assert f"patient {study.raw['patient_id'][2]} has no folder" in result.stderr


@pytest.mark.slow
def test_a_studys_hold_out_is_not_asked_about(study: TinyStudy, package: Path, tmp_path: Path) -> None:
    """Renamed patients are recognised; those of the development are answered."""
    work, path = study.workdir.path, study.cohort.parent / "own.csv"
    own = study.raw[study.raw["patient_id"].isin(study.inputs.split.test)].drop(columns="rlvo")
    for table in (own, own.assign(patient_id=[f"B-{i}" for i in range(len(own))])):
        table.to_csv(path, index=False)
        assert "6 of these patients are the hold-out of study tiny" in refused(
            "predict", package, path, "--json", "--workdir", work
        )
        with pytest.raises(RlvoError, match="the hold-out of study tiny"):
            rlvo.load_model(str(package), workdir=work).predict(table, folder=path.parent)
    study.raw[study.raw["patient_id"].isin(study.inputs.split.development[:1])].to_csv(path, index=False)
    assert len(json.loads(run("predict", package, path, "--json", "--workdir", work).stdout)) == 1


def test_what_is_at_fault_is_said_in_one_line(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("patient_id,ncct,cta\na,b,c\n")
    out = ("-o", tmp_path / "x.csv", "--workdir", tmp_path / "none")
    assert "nowhere to write" in refused("predict", "rlvo-ensemble", table)
    assert "no registry" in refused("predict", "rlvo-ensemble", tmp_path / "none.csv", *out)  # told before the table
    (tmp_path / "MLmodel").touch()
    assert "no such cohort table" in refused("predict", tmp_path, tmp_path / "none.csv", *out)
    assert "only a folder" in refused("predict", tmp_path, table, "--clinical", table, *out)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why_in_one_line(
    package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "no such folder" in refused("serve", package, "--data-root", tmp_path / "none")
    audit = tmp_path / "none" / "audit.jsonl"
    assert "cannot be written" in refused("serve", package, "--data-root", tmp_path, "--audit", audit)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert call("serve", package, "--data-root", tmp_path, "--port", port).exit_code == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if "error" in line.lower()]
    assert line.startswith(f"error: 127.0.0.1:{port}: Address already in use")


def test_other_machines_need_a_token_or_a_proxy(tmp_path: Path) -> None:
    """All of it is told before the model is looked for."""
    root, token = ("--data-root", tmp_path), tmp_path / "token"
    for host in ("0.0.0.0", "::", "10.0.0.1", "hospital.example"):
        assert "anyone on them could ask" in refused("serve", "no-such-model", *root, "--host", host)
    guarded = (*root, "--host", "0.0.0.0", "--token-file", token)
    assert "cannot be read" in refused("serve", "no-such-model", *guarded)
    for content in ("short", "a b" * 20, "é" * 40, "a" * 40 + "\n" + "b" * 40, ""):
        token.write_text(content)
        token.chmod(0o600)
        assert "not a token" in refused("serve", "no-such-model", *guarded)
    token.write_text("a" * 64 + "\n")
    for mode in (0o644, 0o640, 0o602):
        token.chmod(mode)
        assert f"chmod 600 {token}" in refused("serve", "no-such-model", *guarded)
    token.chmod(0o600)
    elsewhere = ("--workdir", tmp_path / "none")
    for accepted in (guarded, (*root, "--host", "0.0.0.0", "--behind-proxy"), (*root, "--host", "127.0.0.2"), root):
        assert "no registry" in refused("serve", "no-such-model", *accepted, *elsewhere)
