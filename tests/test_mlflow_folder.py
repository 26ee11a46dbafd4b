"""The folder `mlflow/` of this repository must not hide the package of that name."""

import shutil
import subprocess
import sys
from pathlib import Path

from rlvo.mlflow_client import Tracking

REPOSITORY = Path(__file__).parents[1]


def test_the_real_package_wins_from_the_repository_root() -> None:
    assert list((REPOSITORY / "mlflow").rglob("*.py")) == []
    program = "import mlflow; from mlflow import MlflowClient; print(mlflow.__file__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).is_relative_to(REPOSITORY / "mlflow")


def test_the_start_script_tells_where_there_is_no_work_folder(tmp_path: Path) -> None:
    script = REPOSITORY / "mlflow" / "ui.sh"
    for folder in (tmp_path, tmp_path / "missing"):
        done = subprocess.run([script, folder], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"{folder}: there is no mlflow.db here. Name a work folder, as for --workdir\n"


def test_the_start_script_prints_a_link_to_the_runs_of_each_study(empty_database: Path, tmp_path: Path) -> None:
    script = (REPOSITORY / "mlflow" / "ui.sh").read_text()
    program = script.partition("<< 'END'\n")[2].partition("END\n")[0]
    tracking = Tracking(f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}", tmp_path)
    _, number = tracking.open_experiment("a study")
    command = [sys.executable, "-c", program, tmp_path / "mlflow.db", "http://127.0.0.1:5000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"  a study: {tracking.runs_page('a study')}\n"
    assert number in done.stdout
