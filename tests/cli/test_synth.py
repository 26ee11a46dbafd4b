"""`rlvo synth` as a command."""

import json
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from rlvo.cli.synth import synth
from rlvo.errors import RlvoError

app = typer.Typer()
app.command()(synth)


def test_writes_and_tells_the_ceilings(tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    result = CliRunner().invoke(app, [str(out), "--patients", "30", "--profile", "paper", "--no-volumes", "--json"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["ceilings"] == json.loads((out / "truth.json").read_text())["ceilings"]
    assert len(pd.read_csv(told["cohort"])) == 30


def test_grid(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path), "--patients", "10", "--grid", "whole"])
    assert result.exit_code == 0
    assert json.loads((tmp_path / "truth.json").read_text())["grid"]["shape"] == [40, 48, 40]
    assert "next: rlvo validate" in result.stderr


def test_errors_are_ours(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path), "--profile", "demmo"])
    assert isinstance(result.exception, RlvoError)
    assert CliRunner().invoke(app, [str(tmp_path), "--seed", "-1"]).exit_code == 2
    assert CliRunner().invoke(app, [str(tmp_path), "--grid", "paper"]).exit_code == 2


def test_help_has_an_example() -> None:
    assert "Example: rlvo synth" in CliRunner().invoke(app, ["--help"]).stdout


@pytest.mark.parametrize("module", ["sklearn", "scipy.stats", "nibabel", "torch"])
def test_importing_the_command_is_light(module: str) -> None:
    import subprocess
    import sys

    code = f"import sys, rlvo.cli.synth; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
