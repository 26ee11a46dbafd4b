"""Bad input, as a user meets it in a terminal: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.commands import run

from rlvo.synthetic.cohort import write_synthetic_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_synthetic_cohort(folder, patients=16, profile="demo", seed=0, workers=1)
    return folder


def rlvo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlvo.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def spoil(table: pd.DataFrame, folder: Path, how: str) -> pd.DataFrame:
    volume = folder / table.loc[2, "cta"]
    match how:
        case "column":
            return table.drop(columns="nihss")
        case "volume":
            return table.assign(cta=["nowhere.nii.gz", *table["cta"][1:]])
        case "truncated":
            short = folder / "short.nii.gz"
            short.write_bytes(volume.read_bytes()[: volume.stat().st_size // 2])
            return table.assign(cta=[*table["cta"][:2], short.name, *table["cta"][3:]])
    raise ValueError(how)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "command", "told"),
    [
        ("column", "validate", r"nihss: .*missing"),
        ("volume", "validate", r"synth-00001, cta: .*nowhere\.nii\.gz"),
        ("truncated", "prepare", r"synth-00003.*short\.nii\.gz.*(incomplete|truncated|ends)"),
    ],
)
def test_a_spoilt_cohort_ends_in_a_clear_line(cohort: Path, tmp_path: Path, how: str, command: str, told: str) -> None:
    table = spoil(pd.read_csv(cohort / "cohort.csv", dtype=str), cohort, how)
    path = cohort / f"{how}.csv"
    table.to_csv(path, index=False)
    options: list[object] = ["--grid", "focus", "--workdir", tmp_path] if command == "prepare" else []
    ended = rlvo(command, path, *options)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert [line for line in ended.stderr.splitlines() if re.search(told, line)], ended.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (lambda folder: ("plan", folder / "study.yaml"), "unknown key 'training.epoch'; did you mean 'epochs'?"),
        (lambda folder: ("plan", folder / "none.yaml"), "there is no such file"),
        (lambda folder: ("validate", folder / "none.csv"), "none.csv"),
        (lambda folder: ("evaluate", "nothing", "--workdir", folder), "no study"),
    ],
)
def test_other_mistakes_too(tmp_path: Path, arguments: Callable[[Path], tuple[object, ...]], told: str) -> None:
    (tmp_path / "study.yaml").write_text("name: s\ntraining: {epoch: 3}\n")
    ended = rlvo(*arguments(tmp_path))
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.strip().splitlines()) == 1
    assert told in ended.stderr


def test_every_command_has_help_with_an_example() -> None:
    page = rlvo("--help").stdout
    commands = re.findall(r"^│ ([a-z][a-z-]+) ", page, flags=re.MULTILINE)
    assert {
        "demo", "synth", "validate", "baseline", "import-isles", "prepare", "plan", "search", "status", "ensemble",
        "evaluate", "predict", "serve", "bundle", "models",
    } <= set(commands)  # fmt: skip
    for command in commands:
        assert f"Example: rlvo {command}" in run(command, "--help").stdout


def test_starting_loads_nothing_heavy() -> None:
    heavy = {"torch", "mlflow", "ray", "optuna", "sklearn", "scipy", "pandas", "nibabel", "matplotlib", "fastapi"}
    code = f"import sys, rlvo.cli.main; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_fault_of_ours_shows_its_traceback_without_passwords() -> None:
    code = (
        "from rlvo.cli import main\n"
        "def app(): raise ValueError('postgresql://user:pass/w0rd@host/db')\n"
        "main.app = app\n"
        "main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: postgresql://host/db" in done.stderr
    assert "w0rd" not in done.stderr
