"""Finding a registered model by every name, and refusing one that is not what was registered."""

import shutil
from pathlib import Path

import pytest
from support.registered_study import Registered

from rlvo.errors import RlvoError
from rlvo.mlflow_client import Tracking
from rlvo.registry.location import ARTIFACT_PATH, locate_model


@pytest.fixture
def tracking(registered: Registered) -> Tracking:
    work = registered.study.workdir
    return Tracking(work.tracking_uri(), work.artifacts)


def test_models_are_found_by_every_name(registered: Registered, tracking: Tracking) -> None:
    expected = (registered.study.folder.model / "ensemble.json").read_bytes()
    found = str(locate_model("rlvo-ensemble", tracking))
    names = ("rlvo-ensemble@champion", "models:/rlvo-ensemble@champion", "models:/rlvo-ensemble/1", found)
    for name in names:
        assert (locate_model(name, tracking) / ARTIFACT_PATH / "ensemble.json").read_bytes() == expected


def test_an_altered_version_is_refused_by_every_name(tracking: Tracking, tmp_path: Path) -> None:
    root = Path(shutil.copytree(locate_model("rlvo-ensemble", tracking), tmp_path / "copy"))
    (root / "code/rlvo/errors.py").write_text("")
    with pytest.raises(RlvoError, match=r"code/rlvo/errors\.py"):
        locate_model(str(root), tracking)
    stored = locate_model("rlvo-ensemble", tracking) / "code/rlvo/errors.py"
    original = stored.read_bytes()
    try:
        stored.write_bytes(original + b"\n")
        with pytest.raises(RlvoError, match=r"code/rlvo/errors\.py"):
            locate_model("rlvo-ensemble", tracking)
    finally:
        stored.write_bytes(original)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other@champion", "not in the registry"),
        ("rlvo-ensemble@old", "not in the registry"),
        ("rlvo-ensemble/7", "not in the registry"),
        ("/no/such/folder", "there is no model here"),
        ("/", "there is no model here"),
    ],
)
def test_a_model_that_does_not_exist_is_one_line(tracking: Tracking, name: str, message: str) -> None:
    with pytest.raises(RlvoError, match=message) as error:
        locate_model(name, tracking)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
