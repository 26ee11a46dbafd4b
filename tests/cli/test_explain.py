"""`rlvo explain` with a registered model: the page and its files, who is refused, models that cannot explain."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from support.commands import refused, run
from support.privacy import open_to_others
from support.tiny_study import GRID, TinyStudy

from rlvo.about import NOTICE
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.registry.location import write_manifest


@pytest.mark.slow
def test_the_page_shows_the_answer_and_leaves_nothing_of_an_earlier_patient(
    study: TinyStudy, package: Path, predictor: EnsemblePredictor, tmp_path: Path
) -> None:
    path, page, files = study.cohort.parent / "explained.csv", tmp_path / "page.html", tmp_path / "page_files"
    table = study.raw.head(2).drop(columns="rlvo").astype({"cta": object, "vessels": object})
    table.loc[1, ["cta", "vessels"]] = None
    table.to_csv(path, index=False)
    first, second = table["patient_id"]
    expected = predictor.predict(table, study.cohort.parent).to_json(orient="records", double_precision=15)
    shown = json.loads(run("explain", package, path, "--patient", first, "-o", page, "--json").stdout)
    assert shown["answer"] == pytest.approx(json.loads(expected)[0], abs=1e-6)
    assert len(shown["values"]) == 18
    added = sum(value["contribution"] for value in shown["values"])
    assert shown["typical_score"] + added == pytest.approx(shown["answer"]["score"], abs=1e-4)
    assert set(shown["checks"]) == {"before", "after"}
    assert {Path(name).name for name in shown["files"]} == {each.name for each in files.iterdir()}
    assert NOTICE in page.read_text()
    assert f"<h1>Patient {first}</h1>" in page.read_text()
    image = nibabel.load(files / "cta.nii.gz")
    assert nibabel.load(files / "all-after.nii.gz").shape == image.shape == GRID.shape
    np.testing.assert_allclose(image.affine, GRID.affine)
    for each in files.glob("*.csv"):
        assert first not in each.read_text()
    assert pd.read_csv(files / "decision.csv")["contribution"].sum() == pytest.approx(added)
    assert not open_to_others(tmp_path, first)
    assert {each.stat().st_mode & 0o777 for each in files.iterdir()} == {0o600}  # the patient's images and values

    (files / "mine.txt").write_text("kept")
    result = run("explain", package, path, "--patient", second, "-o", page, "--no-checks")
    assert "answered by the ensemble 'without CTA'" in result.stderr
    names = {each.name for each in files.iterdir()}
    assert {"mine.txt", "ncct.nii.gz", "ncct-after.nii.gz"} <= names
    assert not {"cta.nii.gz", "vessels.nii.gz", "cta-after.nii.gz", "both-after.nii.gz"} & names
    assert first not in page.read_text()
    assert "The maps were not checked" in page.read_text()


@pytest.mark.slow
def test_who_cannot_be_explained_is_told_in_one_line(study: TinyStudy, package: Path, tmp_path: Path) -> None:
    work, path, out = study.workdir.path, study.cohort.parent / "refused.csv", ("-o", tmp_path / "page.html")
    table = study.raw.drop(columns="rlvo").astype({"cta": object})
    own, held_out = study.inputs.split.development[0], study.inputs.split.test[0]
    table.loc[table["patient_id"] == own, "cta"] = "nowhere.nii.gz"
    table.to_csv(path, index=False)

    def refusal(patient: str) -> str:
        return refused("explain", package, path, "--patient", patient, "--workdir", work, *out)

    assert "the patient belongs to the hold-out of study tiny" in refusal(held_out)
    assert f"patient {own}: not answered: cta" in refusal(own)  # others of the table are held out
    assert "the table has no patient 'PLANTED-1' (did you mean" in refusal("PLANTED-1")
    assert "not the name of a page" in refused("explain", package, path, "--patient", own, "-o", path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_registered_before_models_could_explain_says_so(
    study: TinyStudy, package: Path, tmp_path: Path
) -> None:
    earlier = Path(shutil.copytree(package, tmp_path / "earlier"))
    for entry in (earlier / "model.py", earlier / "code/rlvo/registry/model.py"):
        entry.write_text(entry.read_text().replace("def explain", "def unknown"))
    write_manifest(earlier)
    patient = study.raw["patient_id"][0]
    said = refused("explain", earlier, study.cohort, "--patient", patient, "-o", tmp_path / "page.html")
    assert (
        "earlier: this version was registered before rlvo could explain answers. Build and register its study" in said
    )
