"""That a table's encoding was guessed is said once, by every command that reads a table, whatever else it says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.commands import call
from support.made_up_study import write_study, write_table

from rlvo.cli.search import show_cohort_and_search
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.study.inputs import StudyInputs
from rlvo.workflows.answers import read_patients
from rlvo.workflows.study import read_study

GUESSED = "was read as Windows-1252"
PREDICTORS = "age,sex,nihss,occlusion_side"
PLAN = "name: plan\ncohort: {predictors: [age, sex, nihss, occlusion_side]}\n"


def in_latin_1(table: Path, **columns: Any) -> Path:
    """The table with a remark in Latin-1, and other columns if they are given, beside it."""
    path = table.with_name("latin-1.csv")
    pd.read_csv(table).assign(remark="sin oclusión", **columns).to_csv(path, index=False, encoding="latin-1")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return in_latin_1(write_table(tmp_path / "cohort", 90))


@pytest.mark.parametrize("command", ["validate", "baseline", "prepare", pytest.param("plan", marks=pytest.mark.slow)])
def test_a_command_about_a_table_says_it_once(command: str, table: Path, tmp_path: Path) -> None:
    arguments: list[object] = [command, table, "--workdir", tmp_path / "work", "--predictors", PREDICTORS]
    if command == "prepare":  # refuses the volumes, which are empty files
        arguments = [command, table, "--workdir", tmp_path / "work", "--grid", "focus", "--workers", 1]
    if command == "plan":
        (tmp_path / "plan.yaml").write_text(PLAN)
        arguments = [command, tmp_path / "plan.yaml", "--cohort", table]
    shown = call(*arguments)
    assert " ".join(shown.output.split()).count(GUESSED) == 1
    assert shown.exit_code == (1 if command == "prepare" else 0)


def test_a_table_with_findings_keeps_it(tmp_path: Path) -> None:
    unsound = in_latin_1(write_table(tmp_path / "cohort", 90), age=300)
    shown = call("validate", unsound, "--predictors", PREDICTORS, "--json")
    assert GUESSED in json.loads(shown.stdout)["notes"][0]
    assert str(shown.exception).count(GUESSED) == 1


def test_a_study_keeps_it(table: Path, tmp_path: Path) -> None:
    write_study(tmp_path / "work", table, {"model.modality": ["NCCT"]})
    (note,) = read_study("made-up", Workdir.at(tmp_path / "work")).inputs.notes
    assert GUESSED in note


@pytest.mark.slow
def test_a_search_says_it_once(
    small_cohort: Path,
    open_small: Callable[..., StudyInputs],
    make_small: Callable[..., StudyConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:
    inputs = open_small(make_small(), in_latin_1(small_cohort))
    with show_cohort_and_search(inputs, "rlvo prepare"):
        pass
    assert " ".join(capsys.readouterr().err.split()).count(GUESSED) == 1


def test_patients_in_folders_with_a_clinical_table_keep_it(table: Path, tmp_path: Path) -> None:
    (tmp_path / "patients" / "PLANTED-000").mkdir(parents=True)
    (tmp_path / "patients" / "PLANTED-000" / "ncct.nii.gz").touch()
    _, _, notes = read_patients(tmp_path / "patients", table)
    assert sum(GUESSED in note for note in notes) == 1
