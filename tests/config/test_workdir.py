from pathlib import Path

import pytest

from rlvo.config.workdir import Workdir


def test_the_environments_tracking_server_comes_before_the_configured_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    work = Workdir.at(Path("work"))
    assert work.path == tmp_path / "work"
    assert work.path.is_dir()
    assert work.tracking_uri() == f"sqlite:///{tmp_path}/work/mlflow.db"
    assert work.tracking_uri("http://configured") == "http://configured"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert work.tracking_uri("http://configured") == "http://environment"
