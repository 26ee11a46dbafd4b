"""A work folder under any name, moved or copied: MLflow's database and its artifacts stay in it, and go with it."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from rlvo.config.workdir import Workdir
from rlvo.errors import MachineError
from rlvo.mlflow_client import Tracking
from rlvo.tracking.runs import RunTree

NAMES = ("d3 é#x?y=1%41[0]", "a?1", "a?2", "a%3F1", "a%41", "aA", "plain", "a@b:c;d&e", "x%", "100%25")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, in which nothing may be left."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    yield tmp_path / "desk"
    assert not [*(tmp_path / "desk").iterdir()]


def tracking_at(folder: Path) -> Tracking:
    work = Workdir.at(folder)
    return Tracking(work.tracking_uri(), work.artifacts)


def fill(folder: Path, database: Path) -> Tracking:
    """A work folder with a run that has an artifact, and a registered model."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(database, folder / "mlflow.db")
    tracking = tracking_at(folder)
    tree = RunTree(tracking, "study")
    tree.open("id", "study", "a run", {})
    tree.write_artifact("id", "best/weights.txt", "weights", tag="held", digest="1")
    client, experiment = tracking.open_experiment("study")
    model = client.create_logged_model(experiment, "ensemble", tree.runs["id"].id)
    (folder / "package").mkdir()
    (folder / "package" / "MLmodel").write_text("{}\n")
    client.log_model_artifacts(model.model_id, str(folder / "package"))
    with tracking.registry("rlvo-ensemble"):
        tracking.register(f"models:/{model.model_id}", "rlvo-ensemble", {})
    return tracking


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a folder, with its content and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def addresses(folder: Path) -> list[Path]:
    """Where MLflow finds the artifacts of a run and of the registered model."""
    tracking = tracking_at(folder)
    client = tracking.client()
    (run,) = client.search_runs([tracking.open_experiment("study")[1]], "tags.`rlvo.identity` = 'id'")
    found = [run.info.artifact_uri, client.get_model_version_download_uri("rlvo-ensemble", "1")]
    return [Path(mlflow.artifacts.download_artifacts(each, tracking_uri=tracking.uri)) for each in found]


def test_every_folder_holds_its_own_whatever_its_name(empty_database: Path, tmp_path: Path) -> None:
    for name in NAMES:
        fill(tmp_path / "studies of mine" / name, empty_database)
    assert {path.name for path in (tmp_path / "studies of mine").iterdir()} == {*NAMES}
    for name in NAMES:
        folder = tmp_path / "studies of mine" / name
        run, model = addresses(folder)
        assert (run / "best" / "weights.txt").read_text() == "weights"
        assert (model / "MLmodel").is_file()
        assert folder / "mlflow-artifacts" in run.parents
        assert folder / "mlflow-artifacts" in model.parents


def test_an_artifact_is_deleted_in_its_own_folder_only(empty_database: Path, tmp_path: Path) -> None:
    fill(tmp_path / "a%41", empty_database)
    shutil.copytree(tmp_path / "a%41", tmp_path / "aA")
    before = contents(tmp_path / "aA")
    RunTree(tracking_at(tmp_path / "a%41"), "study").write_artifact("id", "best", None, "held")
    assert not (addresses(tmp_path / "a%41")[0] / "best").exists()
    assert contents(tmp_path / "aA") == before


@pytest.mark.parametrize("name", ["plain", "d3 é#x?y=1%41[0]"])
def test_a_moved_folder_answers_the_same(empty_database: Path, tmp_path: Path, name: str) -> None:
    fill(tmp_path / "before%41?", empty_database)
    moved = (tmp_path / "before%41?").rename(tmp_path / name)
    run, model = addresses(moved)
    assert (run / "best" / "weights.txt").read_text() == "weights"
    assert {moved / "mlflow-artifacts"} <= {*run.parents} & {*model.parents}
    RunTree(tracking_at(moved), "study").write_artifact("id", "more.txt", "more")
    assert (run / "more.txt").read_text() == "more"
    assert not (tmp_path / "before%41?").exists()


def test_a_copy_never_writes_into_the_original(empty_database: Path, tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    fill(original, empty_database)
    shutil.copytree(original, copy)
    before = contents(original)
    tracking = tracking_at(copy)
    tree = RunTree(tracking, "study")
    tree.write_artifact("id", "best", None, "held")
    tree.write_artifact("id", "more.txt", "more")
    tree.open("new", "trial", "a new run", {})
    tree.write_artifact("new", "new.txt", "new")
    client, experiment = tracking.open_experiment("study")
    client.log_model_artifact(client.create_logged_model(experiment).model_id, __file__)
    assert contents(original) == before
    assert all(copy in path.parents for path in addresses(copy))
    assert all(original in path.parents for path in addresses(original))
    assert len([*copy.rglob("new.txt")]) == 1


def test_what_was_put_elsewhere_on_purpose_stays(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database in one work folder that another uses for its runs."""
    fill(tmp_path / "one", empty_database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'one' / 'mlflow.db'}")
    tree = RunTree(tracking_at(tmp_path / "other"), "theirs")
    tree.open("id", "study", "a run", {})
    tree.write_artifact("id", "file.txt", "text")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    client, theirs = tracking_at(tmp_path / "one").open_experiment("theirs")
    assert client.get_experiment(theirs).artifact_location == (tmp_path / "other" / "mlflow-artifacts").as_uri()


def test_a_moved_folder_that_cannot_be_written_says_so(empty_database: Path, tmp_path: Path) -> None:
    fill(tmp_path / "before", empty_database)
    moved = (tmp_path / "before").rename(tmp_path / "after")
    with closing(sqlite3.connect(moved / "mlflow.db")) as database:  # root may write a read-only file
        database.execute("CREATE TRIGGER refuse BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'read-only'); END")
    with pytest.raises(MachineError, match="the work folder was moved or copied: use it once where it can be") as error:
        tracking_at(moved).open_experiment("study")
    assert "\n" not in str(error.value)
    with closing(sqlite3.connect(moved / "mlflow.db")) as database:
        database.execute("DROP TRIGGER refuse")
    assert all(moved in path.parents for path in addresses(moved))  # nothing was half done


def test_a_folder_seen_under_two_names_is_left_alone(empty_database: Path, tmp_path: Path) -> None:
    """As through a second mount: both drivers' addresses are good."""
    tracking = fill(tmp_path / "work", empty_database)
    (tmp_path / "link").symlink_to(tmp_path / "work")
    linked = Tracking(f"sqlite:///{tmp_path / 'link' / 'mlflow.db'}", tmp_path / "link" / "mlflow-artifacts")
    client, experiment = linked.open_experiment("study")
    assert client.get_experiment(experiment).artifact_location == tracking.artifacts.as_uri()
