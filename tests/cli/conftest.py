"""The tiny study of tests/registry, trained once for the commands, and the MLflow model it gives."""

import importlib.util
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("tiny_study", Path(__file__).parents[1] / "registry" / "conftest.py")
assert spec is not None
assert spec.loader is not None
tiny_study = importlib.util.module_from_spec(spec)
sys.modules["tiny_study"] = tiny_study
spec.loader.exec_module(tiny_study)

study = tiny_study.study
trials = tiny_study.trials
specs = tiny_study.specs
model_folder = tiny_study.model_folder
predictor = tiny_study.predictor


@pytest.fixture(scope="session")
def package(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow model as it is registered."""
    from rlvo.registry.packaging import package_model

    package = tmp_path_factory.mktemp("commanded") / "package"
    package_model(model_folder, package, "# A card\n")
    return package
