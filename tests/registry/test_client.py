"""What is asked about a table's patients, and how answers are kept and used again."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from support.tiny_study import TinyStudy

from rlvo.cohort.tables import RawTable
from rlvo.config.predictors import OwnPredictor
from rlvo.errors import CohortError, RlvoError
from rlvo.inference.description import DESCRIPTION
from rlvo.registry.client import PatientTable, answer_table, check_patients, own_predictors, shift_warnings
from rlvo.registry.location import ARTIFACT_PATH


def patients(study: TinyStudy, package: Path, cells: pd.DataFrame, *, decimal_comma: bool = False) -> PatientTable:
    return check_patients(package, RawTable(cells, decimal_comma), study.cohort.parent)


def mark_kept(kept: Path) -> None:
    """Make kept answers recognisable."""
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    kept.write_text("".join(json.dumps(line | {"answer": line["answer"] | {"score": 7.0}}) + "\n" for line in lines))


@pytest.mark.slow
def test_kept_answers_are_used_again_if_nothing_has_changed(study: TinyStudy, package: Path, tmp_path: Path) -> None:
    kept, folder = tmp_path / "kept.jsonl", study.cohort.parent
    table = study.raw.head(4).astype(object)
    table.loc[3, "ncct"] = "nowhere.nii.gz"
    first = answer_table(package, patients(study, package, table.head(2)), kept=kept)
    assert len(kept.read_text().splitlines()) == 2

    # Killed while the second answer was written.
    mark_kept(kept)
    kept.write_text(kept.read_text()[:-20])
    done: list[tuple[int, int]] = []
    asked = patients(study, package, table)
    answers = answer_table(package, asked, kept=kept, progress=lambda *counts: done.append(counts))
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert answers["score"][0] == 7.0
    assert answers["score"][1] == first["score"][1]
    assert answers["rlvo"].isna().tolist() == [False, False, False, True]

    # A patient who could not be scored is asked about again; so is one with another cell, file or parameter.
    mark_kept(kept)
    table.loc[1, "age"] = 60
    scan = folder / str(table.loc[2, "ncct"])
    os.utime(scan, ns=(scan.stat().st_atime_ns, scan.stat().st_mtime_ns + 1_000_000))
    again = answer_table(package, patients(study, package, table), kept=kept)
    assert again["score"][0] == 7.0
    assert 7.0 not in again["score"][1:].tolist()
    mark_kept(kept)
    all_kept = answer_table(package, patients(study, package, table.head(3)), kept=kept)  # starts no process
    assert all_kept["score"].tolist() == [7.0] * 3
    with_members = answer_table(package, patients(study, package, table.head(1)), kept=kept, members=True)
    assert with_members["score"][0] == first["score"][0]


@pytest.mark.slow
def test_decimal_commas_mean_what_they_mean_in_the_table(study: TinyStudy, package: Path) -> None:
    table = study.raw.head(1)
    commas = table.astype(str)
    for name in [name for name in map(str, commas) if name.endswith("_ml")]:
        commas[name] = commas[name].str.replace(".", ",")
    expected = answer_table(package, patients(study, package, table))
    pd.testing.assert_frame_equal(answer_table(package, patients(study, package, commas, decimal_comma=True)), expected)
    assert "cbf_lt30_ml: '" in answer_table(package, patients(study, package, commas))["warnings"][0]


def test_rows_that_cannot_be_told_apart_are_refused_before_anything_runs(study: TinyStudy, package: Path) -> None:
    with pytest.raises(CohortError, match="more than once"):
        patients(study, package, study.raw.iloc[[0, 0]])
    with pytest.raises(RlvoError, match="patient_id"):
        patients(study, package, study.raw.drop(columns="patient_id"))


def test_patients_who_differ_from_the_training_patients_are_reported(study: TinyStudy, package: Path) -> None:
    table = study.raw.astype(str)
    assert shift_warnings(package, patients(study, package, table)) == []
    shifted = patients(study, package, table.assign(age="95").drop(columns="nihss"))
    age, nihss = shift_warnings(package, shifted)
    assert age.startswith("Age: mean 95 years in these patients, ")
    assert nihss == "NIHSS: missing in 100% of these patients, 0% in training"


def test_declarations_are_read_from_whatever_description_there_is(tmp_path: Path) -> None:
    own = {"name": "siphon", "kind": "continuous", "unit": "mm3", "range": [0, 2000]}
    place = tmp_path / ARTIFACT_PATH / DESCRIPTION
    assert own_predictors(tmp_path) == ()
    place.parent.mkdir(parents=True)
    for encoder, declared in (({"predictors": ["age"]}, []), ({"own": [own]}, [own]), ({"own": [{"other": 1}]}, [])):
        place.write_text(json.dumps({"variants": [{"encoders": {"0": encoder}}]}))
        assert own_predictors(tmp_path) == tuple(map(OwnPredictor.model_validate, declared))
    place.write_text(json.dumps({"variants": []}))
    assert own_predictors(tmp_path) == ()
