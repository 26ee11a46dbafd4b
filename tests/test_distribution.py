"""What is built from a checkout holds all that rlvo needs, and works from any folder it is installed in."""

import email
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.distribution import ROOT, build, python

from rlvo.about import __version__, source_commit
from rlvo.config.shipped import shipped_studies
from rlvo.registry.own_wheel import own_wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build(folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [found] = built.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_what_is_shipped(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    package = [path for path in (ROOT / "rlvo").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    shipped = [path for name in ("tune_configs", "ray_cluster", "mlflow", "docker") for path in (ROOT / name).iterdir()]
    expected = {path.relative_to(ROOT).as_posix(): path for path in package}
    expected |= {f"rlvo/shipped/{path.relative_to(ROOT).as_posix()}": path for path in shipped if path.is_file()}
    expected["rlvo/shipped/constraints.txt"] = ROOT / "constraints.txt"
    inside = {name: data for name, data in content.items() if not name.startswith(f"rlvo-{__version__}.dist-info/")}
    commit = inside.pop("rlvo/shipped/commit.txt", None)
    assert {name: path.read_bytes() for name, path in expected.items()} == inside
    assert (commit and commit.decode().strip()) == source_commit(ROOT / "rlvo")
    assert content[f"rlvo-{__version__}.dist-info/top_level.txt"] == b"rlvo\n"


@pytest.mark.slow
def test_an_archive_of_a_model_brings_the_same_wheel(wheel: Path) -> None:
    name, content = own_wheel()
    assert name == wheel.name
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(io.BytesIO(content)) as second:
        assert second.testzip() is None
        of_build = f"rlvo-{__version__}.dist-info/"
        files = [
            {each.filename: (each.CRC, each.external_attr >> 16 & 0o111) for each in archive.infolist()
             if not each.filename.startswith(of_build)}
            for archive in (first, second)
        ]  # fmt: skip
        assert files[0] == files[1]
        assert {*first.namelist()} == {*second.namelist()}
        assert first.read(f"{of_build}entry_points.txt").split() == second.read(f"{of_build}entry_points.txt").split()
        said = [email.message_from_bytes(archive.read(f"{of_build}METADATA")) for archive in (first, second)]
        for field in ("Name", "Version", "Requires-Python", "Requires-Dist"):  # the README may have changed since
            assert said[0].get_all(field) == said[1].get_all(field)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout")
def test_what_a_user_keeps_in_the_checkout_stays_there(tmp_path: Path) -> None:
    """Work folders hold patients and models, and settings hold passwords."""
    checkout, kept = tmp_path / "checkout", "Jane Doe, 1950-01-01"
    git = ["git", "-c", f"safe.directory={ROOT}"]
    listed = subprocess.run([*git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    for command in ("init --quiet", "add --all"):
        subprocess.run(["git", *command.split()], cwd=checkout, check=True)
    for place in (
        "rlvo-work/models/code/rlvo/__init__.py", "rlvo-work/cohort.csv", "rlvo_old/__init__.py", "rlvo/cohort.csv",
        "mlflow/server.env", "tune_configs/ours.yaml", "ray_cluster/ours.yaml", "docs/cohort.csv", "tests/patients.py",
    ):  # fmt: skip
        (checkout / place).parent.mkdir(parents=True, exist_ok=True)
        (checkout / place).write_text(kept)
    wheel = build(tmp_path / "dist", checkout)
    [sources] = wheel.parent.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sources) as tar:
        assert not any(kept.encode() in archive.read(name) for name in archive.namelist())
        assert "rlvo/about.py" in archive.namelist()
        files = [member for member in tar.getmembers() if member.isfile()]
        assert not any(member.size == len(kept) and tar.extractfile(member).read() == kept.encode() for member in files)
        assert any(member.name.endswith("/tests/conftest.py") for member in files)


@pytest.mark.slow
def test_the_checks_of_the_index_find_nothing(built: Path, wheel: Path) -> None:
    assert python("-m", "twine", "check", "--strict", *built.iterdir()).count("PASSED") == 2
    assert python("-m", "check_wheel_contents", wheel).strip().endswith("OK")


@pytest.mark.slow
def test_the_sources_build_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    [sources] = built.glob("*.tar.gz")
    with tarfile.open(sources) as archive:
        archive.extractall(tmp_path, filter="data")
    [unpacked] = tmp_path.iterdir()
    assert {"tests", "docs", "benchmarks", "Makefile", "CHANGELOG.md"} <= {path.name for path in unpacked.iterdir()}
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "again", cwd=unpacked)
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(tmp_path / "again" / wheel.name) as second:
        assert {each.filename: each.CRC for each in first.infolist()} == {
            each.filename: each.CRC for each in second.infolist()
        }


@pytest.mark.slow
def test_it_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    """`pip install --target`."""
    python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", tmp_path / "any", wheel)
    check_installed(Path(sys.executable), tmp_path, PYTHONPATH=str(tmp_path / "any"))
    planned = python("-m", "rlvo", "plan", "demo", "--json", cwd=tmp_path, PYTHONPATH=str(tmp_path / "any"))
    assert json.loads(planned)["study"] == "demo"


@pytest.mark.slow
def test_it_works_from_the_users_own_folder(wheel: Path, tmp_path: Path) -> None:
    """`pip install --user`, which virtual environments don't have, so it is the Python below that of the tests."""
    base = Path(os.path.realpath(sys.executable))
    options = ("--quiet", "--user", "--break-system-packages", "--no-deps", "--no-index")
    python("-m", "pip", "--python", base, "install", *options, wheel, PYTHONUSERBASE=str(tmp_path / "me"))
    check_installed(base, tmp_path, PYTHONUSERBASE=str(tmp_path / "me"), PYTHONPATH=sysconfig.get_path("purelib"))


def check_installed(interpreter: Path, place: Path, **environment: str) -> None:
    """The package is the one below `place`, knows its version, and finds the shipped studies."""

    def said(*arguments: str) -> str:
        return python(*arguments, cwd=place, interpreter=interpreter, **environment).strip()

    assert Path(said("-c", "import rlvo; print(rlvo.__file__)")).is_relative_to(place)
    commit = source_commit(ROOT / "rlvo")
    assert said("-m", "rlvo", "--version") == f"rlvo {__version__}" + (f", commit {commit}" if commit else "")
    names = "from rlvo.config.shipped import shipped_studies; print(*shipped_studies())"
    assert said("-c", names).split() == [*shipped_studies()]
    [script] = (path for path in place.rglob("bin/rlvo"))
    assert os.access(script, os.X_OK)
