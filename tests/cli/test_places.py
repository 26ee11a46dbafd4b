"""Every command says at once, before any work, that a place it is to write to cannot be written."""

import re
from pathlib import Path

import pytest
import typer
from support.commands import refused

from rlvo.cli.main import app

PLACE = "PLACE"
"""Stands for a place below a file."""
CASES = [
    *(("validate", "cohort.csv", option, PLACE) for option in ("--html", "--pictures")),
    ("baseline", "cohort.csv", "--pictures", PLACE),
    *(("prepare", "cohort.csv", option, PLACE) for option in ("--store", "--workdir")),
    ("prepare", "cohort.csv", "--biomarkers", PLACE),
    ("prepare", "cohort.csv", "--biomarkers", "new.csv", "--biomarker-pictures", PLACE),
    ("import-isles", "folder", PLACE),
    ("init", "cohort.csv", "--out", f"{PLACE}.yaml"),
    ("schema", "--out", PLACE),
    ("synth", PLACE),
    ("convert-weights", "weights.pth", "--backbone", "segresnet", "--out", PLACE),
    ("pretrain", "demo", "unlabelled.csv", "--out", PLACE),
    ("explain", "model", "cohort.csv", "--patient", "a", "--out", f"{PLACE}.html"),
    ("report", "study", "--out", f"{PLACE}.html"),
    ("bundle", "model", "--output", f"{PLACE}.tar.gz"),
    ("bundle", "model", "--output", "model.tar.gz", "--wheels", PLACE),
    *(("predict", "model", "cohort.csv", option, PLACE) for option in ("--output", "--sr")),
    *((command, "demo", "--workdir", PLACE) for command in ("search", "ensemble", "evaluate", "ablate")),
    ("ensemble", "study", "--compare", "--csv", PLACE),
    ("demo", "--workdir", PLACE),
]
WRITES = re.compile(r"\b[Ww]rite\b|Folder for|Store folder|Archive to")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[-2]}")
def test_a_place_below_a_file_is_refused_at_once(case: tuple[str, ...], tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    arguments = [word.replace(PLACE, str(file / "new")) for word in case]
    message = refused(*arguments)
    assert "cannot be written (Not a directory)" in message
    assert str(file) in message


def test_no_option_that_names_a_place_to_write_is_forgotten() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    covered = {(case[0], case[-2] if case[-2].startswith("--") else "argument") for case in CASES}
    found = [
        {(name, option) for option in (parameter.opts if parameter.param_type_name == "option" else ["argument"])}
        for name, command in commands.items()
        for parameter in command.params
        if WRITES.search(str(getattr(parameter, "help", "")))
    ]
    assert len(found) >= 13
    assert [options for options in found if not options & covered] == []
