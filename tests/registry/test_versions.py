"""The champion: who may become it, who was it, and going back."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from rlvo.errors import RlvoError
from rlvo.registry.manifest import DIGEST_TAG, write_manifest
from rlvo.registry.versions import HISTORY_TAG, list_versions, promote, registered_version, rollback

NAME = "rlvo-ensemble"


@pytest.fixture(scope="module")
def emptied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables, which takes seconds to make."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").create_registered_model(NAME)
    return path


@pytest.fixture
def registry(emptied: Path, tmp_path: Path) -> str:
    """Versions 1, 2 and 4 passed their gate, 3 failed; nobody is the champion."""
    database = tmp_path / "mlflow.db"
    database.write_bytes(emptied.read_bytes())
    uri = f"sqlite:///{database}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("study", artifact_location=str(tmp_path / "artifacts"))
    for number, gate in enumerate(["passed: 8", "passed: 8", "failed: a member differs", "passed: 8"], 1):
        folder = tmp_path / f"model-{number}"
        folder.mkdir()
        (folder / "MLmodel").write_text(f"# {number}\n")
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "val/auc_mean", number / 10)
        tags = {DIGEST_TAG: write_manifest(folder), "rlvo.gate": gate, "rlvo.study": "study"}
        client.create_model_version(NAME, str(folder), run, tags=tags)
    return uri


def champion(uri: str) -> int:
    return int(MlflowClient(uri).get_model_version_by_alias(NAME, "champion").version)


def test_versions_are_listed_the_newest_first(registry: str) -> None:
    promote(registry, NAME, 2)
    versions = list_versions(registry, NAME)
    assert [version.number for version in versions] == [4, 3, 2, 1]
    assert [version.aliases for version in versions] == [(), (), ("champion",), ()]
    assert [version.metrics["val/auc_mean"] for version in versions] == [0.4, 0.3, 0.2, 0.1]
    assert versions[1].gate == "failed: a member differs"
    assert registered_version(registry, NAME, {"rlvo.study": "study"}) == "4"
    assert registered_version(registry, NAME, {"rlvo.study": "another"}) is None


def test_rolling_back_goes_through_the_champions_of_the_past(registry: str) -> None:
    assert [promote(registry, NAME, number) for number in (1, 4, 2, 2)] == [None, 1, 4, 2]
    assert MlflowClient(registry).get_registered_model(NAME).tags[HISTORY_TAG] == "1 4 2"
    assert (rollback(registry, NAME), champion(registry)) == ((2, 4), 4)
    assert (rollback(registry, NAME), champion(registry)) == ((4, 1), 1)
    with pytest.raises(RlvoError, match="no earlier champion"):
        rollback(registry, NAME)
    assert champion(registry) == 1


def test_an_alias_that_was_moved_by_other_means_counts(registry: str) -> None:
    promote(registry, NAME, 1)
    MlflowClient(registry).set_registered_model_alias(NAME, "champion", "4")
    assert rollback(registry, NAME) == (4, 1)
    MlflowClient(registry).set_registered_model_alias(NAME, "champion", "4")
    assert promote(registry, NAME, 2) == 4
    assert rollback(registry, NAME) == (2, 4)


def test_deleted_versions_are_passed_over(registry: str) -> None:
    for number in (1, 4, 2):
        promote(registry, NAME, number)
    MlflowClient(registry).delete_model_version(NAME, "4")
    assert rollback(registry, NAME) == (2, 1)


def test_what_failed_or_was_altered_does_not_become_the_champion(registry: str, tmp_path: Path) -> None:
    promote(registry, NAME, 1)
    with pytest.raises(RlvoError, match=r"did not pass its gate \(failed: a member differs"):
        promote(registry, NAME, 3)
    with pytest.raises(RlvoError, match="not in the registry"):
        promote(registry, NAME, 9)
    (tmp_path / "model-2" / "MLmodel").write_text("# forged\n")
    with pytest.raises(RlvoError, match="MLmodel is missing, or was altered"):
        promote(registry, NAME, 2)
    assert champion(registry) == 1
    promote(registry, NAME, 4)
    (tmp_path / "model-1" / "MLmodel").write_text("# forged\n")
    with pytest.raises(RlvoError, match="altered"):
        rollback(registry, NAME)
    assert champion(registry) == 4


def test_a_registry_that_is_not_there_is_said_and_not_made(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for call in (lambda: list_versions(uri, NAME), lambda: promote(uri, NAME, 1), lambda: rollback(uri, NAME)):
        with pytest.raises(RlvoError, match="no registry"):
            call()
    assert not list(tmp_path.iterdir())
