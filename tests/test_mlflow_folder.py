"""The folder `mlflow/` of this repository must not hide the package of that name."""

import subprocess
import sys
from pathlib import Path

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
