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
