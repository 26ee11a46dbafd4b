"""The gate: a version must reproduce the stored out-of-fold predictions in a fresh process."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support.tiny_study import TinyStudy

from rlvo.inference.description import ModelDescription, read_description
from rlvo.registry.gate import TOLERANCE, Evidence, check_version, choose_patients
from rlvo.study.trials import EndedTrials

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def evidence(study: TinyStudy, trials: EndedTrials) -> Evidence:
    return Evidence(trials.predictions, study.inputs.table, study.cohort.parent, study.workdir.store)


@pytest.fixture(scope="module")
def description(model_folder: Path) -> ModelDescription:
    return read_description(model_folder)


def test_patients_of_both_classes_are_chosen_complete_ones_first(
    description: ModelDescription, evidence: Evidence
) -> None:
    own = evidence.predictions.query("split == 'validation' and fold == 0").drop_duplicates("patient")
    label = own.set_index("patient")["label"]
    chosen = choose_patients(0, description, evidence)
    assert set(chosen) <= set(label.index)
    assert len(chosen) == len(set(chosen)) == min(4, len(label))
    assert label[chosen].sum() == min(2, label.sum())
    lacking = evidence.table.assign(age=evidence.table["age"].where(evidence.table.index != chosen[0]))
    assert choose_patients(0, description, replace(evidence, table=lacking))[0] != chosen[0]


def test_what_was_trained_passes(package: Path, description: ModelDescription, evidence: Evidence) -> None:
    passed = check_version(package, description, replace(evidence, check_bfloat16=True))
    assert passed.failure is None
    assert re.fullmatch(r"\d+ of 8 decisions the same, largest difference \S+", passed.tags["rlvo.bfloat16"])
    assert 0 < float(passed.tags["rlvo.bfloat16"].split()[-1]) < 0.1
    assert passed.tags["rlvo.gate"].startswith("passed: 8 patients, largest difference ")
    assert float(passed.tags["rlvo.gate"].split()[-1]) <= TOLERANCE


def test_what_does_not_reproduce_its_training_fails_and_the_tag_names_no_patient(
    package: Path, description: ModelDescription, evidence: Evidence
) -> None:
    rows, (first, *_, last) = evidence.predictions, [member.key for member in description.spec.members]
    moved = rows.assign(probability=rows["probability"].where(rows["member"] != last, lambda p: (p - 1e-3).abs()))
    unnamed = evidence.table.assign(ncct=pd.NA, cta=pd.NA, vessels=pd.NA)
    for changed, tag, told in (
        (replace(evidence, predictions=moved), "a member does not reproduce its stored probability (difference 1", ""),
        (replace(evidence, predictions=rows[rows["member"] != first]), "there is no stored prediction", first),
        (replace(evidence, table=unnamed), "a development patient is not answered for", "PLANTED"),
    ):
        failed = check_version(package, description, changed)
        assert failed.failure is not None
        assert told in failed.failure
        assert list(failed.tags) == ["rlvo.gate"]
        assert failed.tags["rlvo.gate"].startswith(f"failed: {tag}")
        assert "PLANTED" not in failed.tags["rlvo.gate"]


def test_a_version_that_does_not_load_does_not_pass(
    package: Path, description: ModelDescription, evidence: Evidence, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(package, tmp_path / "copy"))
    (root / "code/rlvo/errors.py").unlink()
    failed = check_version(root, description, evidence)
    assert failed.failure is not None
    assert "code/rlvo/errors.py is missing" in failed.failure
    assert failed.tags == {"rlvo.gate": "failed: it does not load or answer"}
