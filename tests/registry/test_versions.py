"""The champion: which version may become it, which one was it, and going back."""

import shutil
from pathlib import Path

import pytest

from rlvo.errors import RlvoError
from rlvo.mlflow_client import Tracking
from rlvo.registry.location import DIGEST_TAG, write_manifest
from rlvo.registry.versions import HISTORY_TAG, list_versions, promote, registered_version, rollback

NAME = "rlvo-ensemble"


@pytest.fixture
def registry(empty_database: Path, tmp_path: Path) -> Tracking:
    """Versions 1, 2 and 4 passed their gate, 3 failed; there is no champion."""
    tracking = Tracking(f"sqlite:///{shutil.copy(empty_database, tmp_path)}", tmp_path / "artifacts")
    client, experiment = tracking.open_experiment("study")
    client.create_registered_model(NAME)
    for number, gate in enumerate(["passed: 8", "passed: 8", "failed: a member differs", "passed: 8"], 1):
        folder = tmp_path / f"model-{number}"
        folder.mkdir()
        (folder / "MLmodel").write_text(f"# {number}\n")
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "val/auc_mean", number / 10)
        tags = {DIGEST_TAG: write_manifest(folder), "rlvo.gate": gate, "rlvo.study": "study"}
        client.create_model_version(NAME, str(folder), run, tags=tags)
    return tracking


def champion(registry: Tracking) -> int:
    return int(registry.client().get_model_version_by_alias(NAME, "champion").version)


def test_versions_are_listed_the_newest_first(registry: Tracking) -> None:
    promote(registry, NAME, 2)
    versions = list_versions(registry, NAME)
    assert [version.number for version in versions] == [4, 3, 2, 1]
    assert [version.aliases for version in versions] == [(), (), ("champion",), ()]
    assert [version.metrics["val/auc_mean"] for version in versions] == [0.4, 0.3, 0.2, 0.1]
    assert versions[1].gate == "failed: a member differs"
    assert registered_version(registry, NAME, {"rlvo.study": "study"}) == "4"
    assert registered_version(registry, NAME, {"rlvo.study": "another"}) is None


def test_rolling_back_goes_through_the_champions_of_the_past(registry: Tracking) -> None:
    assert [promote(registry, NAME, number) for number in (1, 4, 2, 2)] == [None, 1, 4, 2]
    assert registry.client().get_registered_model(NAME).tags[HISTORY_TAG] == "1 4 2"
    assert (rollback(registry, NAME), champion(registry)) == ((2, 4), 4)
    assert (rollback(registry, NAME), champion(registry)) == ((4, 1), 1)
    with pytest.raises(RlvoError, match="no earlier champion"):
        rollback(registry, NAME)
    assert champion(registry) == 1


def test_an_alias_that_was_moved_by_other_means_counts(registry: Tracking) -> None:
    promote(registry, NAME, 1)
    registry.client().set_registered_model_alias(NAME, "champion", "4")
    assert rollback(registry, NAME) == (4, 1)
    registry.client().set_registered_model_alias(NAME, "champion", "4")
    assert promote(registry, NAME, 2) == 4
    assert rollback(registry, NAME) == (2, 4)


def test_deleted_versions_are_passed_over(registry: Tracking) -> None:
    for number in (1, 4, 2):
        promote(registry, NAME, number)
    registry.client().delete_model_version(NAME, "4")
    assert rollback(registry, NAME) == (2, 1)


def test_what_failed_or_was_altered_does_not_become_the_champion(registry: Tracking, tmp_path: Path) -> None:
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
