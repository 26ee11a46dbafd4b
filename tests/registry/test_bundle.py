"""`rlvo bundle`: the archive is the same each time, vouched for by one digest, and answers without a server."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from support.commands import call, refused, run
from support.processes import free_port, listens, wait_until
from support.tiny_study import TinyStudy

from rlvo.errors import MachineError, RlvoError
from rlvo.files import file_sha256
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.registry import verify as verifying
from rlvo.registry.bundle import unpack_bundle
from rlvo.registry.packages import Package, find_wheels, gather_wheels, lock, needed_packages


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


def verify(folder: Path, *arguments: object, isolated: bool = True) -> subprocess.CompletedProcess[str]:
    options = ["-I", "-S"] if isolated else ["-S"]
    command = [sys.executable, *options, str(folder / "verify.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_same_model_gives_the_same_bytes(packed: dict[str, Any], package: Path, tmp_path: Path) -> None:
    run("bundle", package, "-o", tmp_path / "again.tar.gz")
    assert file_sha256(tmp_path / "again.tar.gz") == packed["sha256"] == file_sha256(Path(packed["archive"]))
    assert [path.name for path in tmp_path.iterdir()] == ["again.tar.gz"]


def test_one_digest_is_shown_and_it_is_that_of_sha256sum(package: Path, tmp_path: Path) -> None:
    said = run("bundle", package, "-o", tmp_path / "model.tar.gz").stderr
    done = subprocess.run(["sha256sum", tmp_path / "model.tar.gz"], capture_output=True, text=True, check=True)
    assert re.findall(r"\b[0-9a-f]{64}\b", said) == [done.stdout.split()[0]]
    assert f"SHA-256 {done.stdout.split()[0]}" in said


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


def test_a_folder_is_compared_with_its_archive_and_that_with_its_digest(packed: dict[str, Any], unpacked: Path) -> None:
    done = verify(unpacked, packed["archive"], packed["sha256"])
    assert (done.returncode, done.stdout) == (0, "every file is as it was packed, and there is no other\n")
    assert verify(unpacked, packed["archive"], packed["sha256"].upper()).returncode == 0
    done = verify(unpacked, packed["archive"], "0" * 64)
    assert (done.returncode, "not the archive that this digest belongs to" in done.stderr) == (1, True)
    assert "is no SHA-256" in verify(unpacked, packed["archive"], "abc").stderr
    for arguments in ((), (packed["sha256"],), (packed["archive"],)):  # no digest, no answer
        done = verify(unpacked, *arguments)
        assert (done.returncode, done.stdout) == (2, "")


def test_what_lies_beside_the_check_is_not_run(packed: dict[str, Any], unpacked: Path) -> None:
    (unpacked / "hashlib.py").write_text("print('ran')\nraise SystemExit(0)\n")
    done = verify(unpacked, packed["archive"], packed["sha256"], isolated=False)
    assert (done.returncode, done.stdout, "python3 -I verify.py" in done.stderr) == (1, "", True)
    done = verify(unpacked, packed["archive"], packed["sha256"])
    assert (done.returncode, done.stdout) == (1, "")
    assert "hashlib.py was added" in done.stderr


@pytest.mark.parametrize(
    "name", ["model/artifacts/model/ensemble.json", "model/model.py", "requirements.txt", "verify.py", "README.md"]
)
def test_what_was_altered_is_named(packed: dict[str, Any], unpacked: Path, name: str) -> None:
    content = bytearray((unpacked / name).read_bytes())
    content[3] ^= 1  # of verify.py a letter of its first line, which is a comment
    (unpacked / name).write_bytes(content)
    done = verify(unpacked, packed["archive"], packed["sha256"])
    assert done.returncode == 1
    assert f"{name} was altered" in done.stderr
    if name.startswith("model/"):
        (unpacked / "table.csv").write_text("patient_id,ncct,cta\na,b,c\n")
        told = refused("predict", unpacked / "model", unpacked / "table.csv", "--json")
        assert name.removeprefix("model/") in told


@pytest.mark.parametrize("name", ["model/code/rlvo/extra.py", "wheels/torch-9.9-py3-none-any.whl", "sitecustomize.py"])
def test_what_was_added_is_named(packed: dict[str, Any], unpacked: Path, name: str) -> None:
    (unpacked / name).touch()
    assert f"{name} was added" in verify(unpacked, packed["archive"], packed["sha256"]).stderr
    (unpacked / name).unlink()
    (unpacked / name).symlink_to(unpacked / "README.md")
    assert f"{name} was added" in verify(unpacked, packed["archive"], packed["sha256"]).stderr


def test_what_is_missing_or_became_a_link_is_named(packed: dict[str, Any], unpacked: Path) -> None:
    moved = unpacked.parent / "elsewhere"
    (unpacked / "requirements.txt").rename(moved)
    assert "requirements.txt is missing" in verify(unpacked, packed["archive"], packed["sha256"]).stderr
    (unpacked / "requirements.txt").symlink_to(moved)
    assert "requirements.txt is missing" in verify(unpacked, packed["archive"], packed["sha256"]).stderr


@pytest.mark.slow
def test_it_answers_without_a_tracking_server(
    study: TinyStudy, packed: dict[str, Any], unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    table = study.cohort.parent / "one.csv"
    study.raw.head(1).to_csv(table, index=False)
    assert json.loads(run("predict", unpacked / "model", table, "--json").stdout)[0]["rlvo"] in (0, 1)
    assert verify(unpacked, packed["archive"], packed["sha256"]).returncode == 0  # answering leaves nothing behind


def hostile(kind: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The entries of an archive that must not be unpacked."""

    def entry(name: str, content: bytes = b"x", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
        found = tarfile.TarInfo(name)
        found.size = len(content)
        for key, value in attributes.items():
            setattr(found, key, value)
        return found, content

    yield entry("rlvo-model/model/MLmodel")
    yield {
        "outside": entry("rlvo-model/model/../../../escaped"),
        "absolute": entry("/rlvo-model/model/escaped"),
        "another folder": entry("model/escaped"),
        "dot": entry("rlvo-model/./gate.txt"),
        "control": entry("rlvo-model/model/a\x1b[31m"),
        "link": entry("rlvo-model/model/code", b"", type=tarfile.SYMTYPE, linkname="/etc"),
        "hard link": entry("rlvo-model/model/code", b"", type=tarfile.LNKTYPE, linkname="rlvo-model/model/MLmodel"),
        "device": entry("rlvo-model/model/code", b"", type=tarfile.CHRTYPE),
        "pipe": entry("rlvo-model/model/code", b"", type=tarfile.FIFOTYPE),
        "twice": entry("rlvo-model/model/MLMODEL"),
        "through a file": entry("rlvo-model/model/MLmodel/escaped"),
        "unknown": entry("rlvo-model/sitecustomize.py"),
        "unknown folder": entry("rlvo-model/hooks/run.py"),
        "a file for a folder": entry("rlvo-model/wheels"),
        "a folder for a file": entry("rlvo-model/gate.txt/x"),
    }[kind]


KINDS = {
    "outside": "name", "absolute": "name", "another folder": "name", "dot": "name", "control": "name",
    "link": "ordinary", "hard link": "ordinary", "device": "ordinary", "pipe": "ordinary", "twice": "twice",
    "through a file": "twice", "unknown": "no part", "unknown folder": "no part", "a file for a folder": "no part",
    "a folder for a file": "no part",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_of_somebody_else_puts_nothing_anywhere(kind: str, tmp_path: Path) -> None:
    (into := tmp_path / "deep" / "into").mkdir(parents=True)
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for entry, content in hostile(kind):
            tar.addfile(entry, io.BytesIO(content))
    with pytest.raises(RlvoError, match=KINDS[kind]) as error:
        unpack_bundle(archive, file_sha256(archive), into)
    assert "\x1b" not in str(error.value)
    assert "\n" not in str(error.value)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"archive.tar.gz", "deep/into/model/MLmodel"}


def test_what_is_too_large_or_no_archive_is_refused(
    packed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Path(packed["archive"])
    content = archive.read_bytes()
    damages = (content[: len(content) // 2], content[:-1], content[:100], b"PK" + content, b"")
    for number, damaged in enumerate(damages):
        (into := tmp_path / f"into-{number}").mkdir()
        (other := tmp_path / "other.tar.gz").write_bytes(damaged)
        with pytest.raises(RlvoError, match="no whole"):
            unpack_bundle(other, file_sha256(other), into)
    (into := tmp_path / "into").mkdir()
    with pytest.raises(RlvoError, match="not the archive that this digest"):
        unpack_bundle(archive, "1" * 64, into)
    assert not any(into.iterdir())
    with pytest.raises(RlvoError, match="cannot be unpacked"):
        unpack_bundle(tmp_path / "missing.tar.gz", packed["sha256"], into)
    for limit in ("MOST_FILES", "MOST_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(verifying, limit, 40)
            shutil.rmtree(into)
            into.mkdir()
            with pytest.raises(RlvoError, match="more than"):
                unpack_bundle(archive, packed["sha256"], into)


def test_what_is_needed_is_listed_pinned_with_its_build() -> None:
    packages, notes = needed_packages(f"pandas=={version('pandas')}\nmlflow=={version('mlflow')}\ntorch==2.13.0\n")
    named = {each.name: str(each.version) for each in packages}
    assert notes == []
    assert {"numpy", "python-dateutil", "fastapi", "starlette"} <= set(named)
    assert named["torch"] == version("torch")  # another build than the one without "+cpu"
    assert list(named) == sorted(named)
    assert {"numpy", "python-dateutil"} <= set(next(each.needs for each in packages if each.name == "pandas"))
    with pytest.raises(RlvoError, match="not installed"):
        needed_packages("not-a-package-of-anyone==1\n")


def test_a_version_of_the_model_is_kept_unless_another_package_cannot_do_with_it() -> None:
    packages, notes = needed_packages("safetensors==0.1\npydantic==1.2.3\nmlflow\n")
    named = {each.name: str(each.version) for each in packages}
    assert (named["safetensors"], named["pydantic"]) == ("0.1", version("pydantic"))
    [note] = notes
    assert "registered with pydantic 1.2.3" in note


def test_wheels_are_those_of_this_platform_and_of_the_very_version(tmp_path: Path) -> None:
    [numpy] = [each for each in needed_packages("numpy")[0] if each.name == "numpy"]
    for tag in ("py3-none-any", "cp27-cp27m-win32"):
        (tmp_path / f"numpy-{numpy.version}-{tag}.whl").write_text(tag)
    (tmp_path / "numpy-1.0-py3-none-any.whl").touch()
    (tmp_path / "no wheel.whl").touch()
    assert find_wheels([numpy], tmp_path) == {numpy: tmp_path / f"numpy-{numpy.version}-py3-none-any.whl"}
    other = Package(numpy.name, type(numpy.version)(f"{numpy.version}+other"))
    assert find_wheels([other], tmp_path) == {}
    assert gather_wheels([numpy], tmp_path)[numpy].read_text() == "py3-none-any"  # pip is not asked


def test_a_wheel_that_pip_cannot_fetch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    [package] = needed_packages("packaging")[0]
    absent = Package(package.name, type(package.version)("0.0.1+nobodys"))
    with pytest.raises(MachineError, match=r"no wheel of packaging==0\.0\.1\+nobodys for Python 3") as error:
        gather_wheels([absent], tmp_path / "wheels")
    assert "\n" not in str(error.value)


def test_a_lock_names_every_wheel_by_its_hash(tmp_path: Path) -> None:
    packages, _ = needed_packages("rlvo")
    text = lock(packages, "wheels/rlvo.whl", {each.name: "0" * 64 for each in packages})
    assert len(text.splitlines()) == len(packages)
    assert all(line.endswith(f" --hash=sha256:{'0' * 64}") for line in text.splitlines())
    assert f"torch=={version('torch')} --hash" in text
    assert "wheels/rlvo.whl --hash" in text
    assert "--hash" not in lock(packages, "wheels/rlvo.whl", {})


def test_pip_takes_no_wheel_that_was_exchanged(unpacked: Path) -> None:
    """rlvo's own stands for all; the others are those of the test below."""
    [wheel] = (unpacked / "wheels").iterdir()
    place = f"rlvo-model/wheels/{wheel.name}"
    [rlvo] = [each for each in needed_packages("rlvo")[0] if each.name == "rlvo"]
    (unpacked / "lock.txt").write_text(lock([rlvo], place, {rlvo.name: file_sha256(wheel)}))
    options = ["--dry-run", "--no-deps", "--no-index", "--ignore-installed", "--require-hashes", "--requirement"]
    command = [sys.executable, "-m", "pip", "install", *options, "rlvo-model/lock.txt"]
    install = partial(subprocess.run, command, cwd=unpacked.parent, capture_output=True, text=True, check=False)
    assert "Would install rlvo" in install().stdout
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("rlvo/extra.py", "")
    assert "DO NOT MATCH THE HASHES" in install().stderr


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_it_installs_and_serves_with_no_index_at_all(
    study: TinyStudy, package: Path, predictor: EnsemblePredictor
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # some GB, which pytest would keep
        place = Path(folder)
        made = call("bundle", package, "-o", place / "model.tar.gz", "--wheels", place / "made" / "wheels", "--json")
        if isinstance(made.exception, MachineError):
            pytest.skip(f"pip finds no wheels here: {made.exception}")
        assert made.exit_code == 0, made.output
        shutil.rmtree(place / "made")
        environment = {
            "PATH": f"{place / 'venv' / 'bin'}:/usr/bin:/bin",
            "HOME": folder,
            "PIP_CONFIG_FILE": os.devnull,  # no index and no folder of wheels but what the command says
            "PIP_NO_COMPILE": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
        }
        start = partial(subprocess.run, cwd=place, env=environment, check=True, capture_output=True, text=True)
        start([sys.executable, "-m", "venv", "venv"])
        start(["tar", "-xzf", "model.tar.gz"])
        [install] = re.findall(r"`(pip install [^`]*)`", (place / "rlvo-model" / "README.md").read_text())
        assert "--no-index" in install
        assert "--require-hashes" in install
        start(["bash", "-c", install])
        start(["pip", "check"])
        found = start(["python", "-c", "import rlvo, torch; print(rlvo.__file__, torch.__version__)"]).stdout.split()
        assert Path(found[0]).is_relative_to(place / "venv")
        assert found[1] == version("torch")
        table, port = study.raw.head(1), free_port()
        command = ["rlvo", "serve", "./rlvo-model/model", "--data-root", study.cohort.parent, "--port", str(port)]
        with (place / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: listens(port), process)
            row = {name: cell for name, cell in table.to_dict("records")[0].items() if cell == cell}
            body = json.dumps({"dataframe_records": [row]}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=120) as reply:
                [answer] = json.load(reply)["predictions"]
        finally:
            process.terminate()
            process.wait(timeout=60)
        expected = predictor.predict(table, study.cohort.parent).iloc[0]
        assert (answer["rlvo"], answer["votes"]) == (expected["rlvo"], expected["votes"])
        assert answer["score"] == pytest.approx(expected["score"], abs=1e-6)


def test_what_it_is_made_of_is_said_as_the_standard_has_it(packed: dict[str, Any], unpacked: Path) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    from cyclonedx.schema import SchemaVersion

    text = (unpacked / "sbom.cdx.json").read_text()
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    named = {each["name"]: each for each in document["components"]}
    assert document["metadata"]["component"]["hashes"][0]["content"] == file_sha256(unpacked / "model/manifest.json")
    assert named["torch"]["version"] == version("torch")
    assert {"rlvo", "mlflow", "ray", "numpy"} <= set(named)
    [wheel] = (unpacked / "wheels").iterdir()
    assert named["rlvo"]["hashes"][0]["content"] == file_sha256(wheel)
    pinned = [line for line in (unpacked / "requirements.txt").read_text().splitlines() if line[0] != "#"]
    assert len(pinned) == len(named)
