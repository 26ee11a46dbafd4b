"""`rlvo bundle`: the archive is the same each time, vouched for, and answers without a tracking server."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.commands import refused, run
from support.tiny_study import TinyStudy

from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.registry.bundle import wheelhouse


@pytest.fixture(scope="module")
def packed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    archive = tmp_path_factory.mktemp("archive") / "model.tar.gz"
    shown: dict[str, Any] = json.loads(run("bundle", package, "-o", archive, "--json").stdout)
    return shown


@pytest.fixture
def unpacked(packed: dict[str, Any], tmp_path: Path) -> Path:
    with tarfile.open(packed["archive"]) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "rlvo-model"


def verify(folder: Path, *digest: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(folder / "verify.py"), *digest]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_same_model_gives_the_same_bytes(packed: dict[str, Any], package: Path, tmp_path: Path) -> None:
    again = run("bundle", package, "-o", tmp_path / "again.tar.gz")
    assert file_sha256(tmp_path / "again.tar.gz") == packed["sha256"] == file_sha256(Path(packed["archive"]))
    assert packed["digest"] in again.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["again.tar.gz"]


@pytest.mark.parametrize("name", ["model.zip", "model.tar", "model", "model.tar.xz", "model.gz"])
def test_another_kind_of_archive_is_refused(name: str, package: Path, tmp_path: Path) -> None:
    said = refused("bundle", package, "-o", tmp_path / name)
    assert name in said
    assert "FILE.tar.gz" in said
    assert not (tmp_path / name).exists()


def test_a_place_that_cannot_be_written_is_named(package: Path, tmp_path: Path) -> None:
    (tmp_path / "taken.tar.gz").mkdir()
    assert "cannot be written" in refused("bundle", package, "-o", tmp_path / "taken.tar.gz")
    (tmp_path / "file").touch()
    assert "cannot be written" in refused("bundle", package, "-o", tmp_path / "file" / "model.tar.gz")


def test_it_is_vouched_for_by_its_digest(packed: dict[str, Any], unpacked: Path) -> None:
    done = verify(unpacked, packed["digest"])
    assert (done.returncode, done.stdout) == (0, "every file is as it was packed\n")
    assert "give the DIGEST" in verify(unpacked).stdout
    assert "SHA256SUMS is not the one" in verify(unpacked, "0" * 64).stderr


@pytest.mark.parametrize("name", ["model/artifacts/model/ensemble.json", "model/model.py", "wheelhouse.txt"])
def test_what_was_altered_is_named(packed: dict[str, Any], unpacked: Path, name: str) -> None:
    content = bytearray((unpacked / name).read_bytes())
    content[len(content) // 2] ^= 1
    (unpacked / name).write_bytes(content)
    done = verify(unpacked, packed["digest"])
    assert done.returncode == 1
    assert name in done.stderr
    if name.startswith("model/"):
        (unpacked / "table.csv").write_text("patient_id,ncct,cta\na,b,c\n")
        told = refused("predict", unpacked / "model", unpacked / "table.csv", "--json")
        assert name.removeprefix("model/") in told


def test_what_was_added_or_is_missing_is_named(packed: dict[str, Any], unpacked: Path) -> None:
    (unpacked / "model" / "code" / "rlvo" / "extra.py").touch()
    assert "model/code/rlvo/extra.py was added" in verify(unpacked, packed["digest"]).stderr
    (unpacked / "requirements.txt").unlink()
    assert "requirements.txt is missing" in verify(unpacked, packed["digest"]).stderr


@pytest.mark.slow
def test_it_answers_without_a_tracking_server(
    study: TinyStudy, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    table = study.cohort.parent / "one.csv"
    study.raw.head(1).to_csv(table, index=False)
    assert json.loads(run("predict", unpacked / "model", table, "--json").stdout)[0]["rlvo"] in (0, 1)
    assert verify(unpacked).returncode == 0  # answering leaves nothing behind


def test_the_wheelhouse_lists_what_is_needed_pinned() -> None:
    lines = wheelhouse("pandas==1.2.3\nmlflow==9.9\n")
    named = dict(line.split("==") for line in lines)
    assert (named["pandas"], named["mlflow"]) == ("1.2.3", "9.9")  # as the model says
    assert {"numpy", "python-dateutil", "fastapi", "starlette"} <= set(named)
    assert list(named) == sorted(named)
    with pytest.raises(RlvoError, match="not installed"):
        wheelhouse("not-a-package-of-anyone==1\n")
