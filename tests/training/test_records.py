"""What a trial writes reads back as it was, or is refused; and how a trial ended is decided in one place."""

import json
from pathlib import Path

import pytest

from rlvo.config.model import Configuration
from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.training.records import (
    CompletionRecord,
    Status,
    TrialIdentity,
    mean_objective,
    member_key,
    read_epochs,
    read_record,
    write_epochs,
    write_record,
)

IDENTITY = TrialIdentity(study="s", configuration=Configuration().key, fold=0, split_hash="x", data_hash="y")
RECORD = CompletionRecord(
    identity=IDENTITY,
    configuration=Configuration(),
    status="finished",
    best_epoch=2,
    epochs=3,
    metrics={"val/auc": 0.8123456789012345},
    seconds=1.5,
)
REFUSED = r"record\.json: the file is missing or altered.*delete the trial's record\.json"


@pytest.fixture
def record(tmp_path: Path) -> CompletionRecord:
    predictions = tmp_path / "predictions.csv"
    predictions.write_text("patient\n")
    record = RECORD.model_copy(update={"files": {"predictions.csv": file_sha256(predictions)}})
    write_record(tmp_path, record)
    return record


def test_round_trip(record: CompletionRecord, tmp_path: Path) -> None:
    assert read_record(tmp_path) == record
    assert read_record(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("damage", [lambda path: path.write_text("patient\n1\n"), Path.unlink])
def test_an_altered_or_missing_file_is_refused(record: CompletionRecord, tmp_path: Path, damage) -> None:
    damage(tmp_path / "predictions.csv")
    with pytest.raises(RlvoError, match=r"predictions\.csv: the file is missing or altered"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("written", "altered"),
    [("0.8123456789012345", "0.9123456789012345"), ('"finished"', '"pruned"'), ('"epochs": 3', '"epochs": 4')],
)
def test_an_altered_record_is_refused(record: CompletionRecord, tmp_path: Path, written: str, altered: str) -> None:
    path = tmp_path / "record.json"
    assert path.read_text().count(written) == 1
    path.write_text(path.read_text().replace(written, altered))
    with pytest.raises(RlvoError, match=REFUSED):
        read_record(tmp_path)


def test_a_truncated_record_or_one_with_a_wrong_digest_is_refused(record: CompletionRecord, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(content, sort_keys=True))
    assert read_record(tmp_path) == record  # order and white space do not matter
    without = {name: value for name, value in content.items() if name != "digest"}
    wrong = (json.dumps(without | digest) for digest in ({}, {"digest": None}, {"digest": "0" * 64}))
    for text in (path.read_text()[:-20], *wrong):
        path.write_text(text)
        with pytest.raises(RlvoError, match=REFUSED):
            read_record(tmp_path)


@pytest.mark.parametrize(
    ("status", "reason", "metrics", "outcome", "failure"),
    [
        ("finished", None, {"val/auc": 0.5}, "finished", None),
        ("finished", None, {}, "failed", "val/auc is undefined at the best epoch"),
        ("finished", None, {"val/auc": float("nan")}, "failed", "val/auc is undefined at the best epoch"),
        ("failed", "the loss became nan", {}, "failed", "the loss became nan"),
        ("failed", None, {"val/auc": 0.5}, "failed", "training failed"),
        ("pruned", "another was better", {}, "pruned", None),
    ],
)
def test_a_trial_without_an_objective_has_failed(
    status: Status, reason: str | None, metrics: dict[str, float], outcome: Status, failure: str | None
) -> None:
    record = RECORD.model_copy(update={"status": status, "reason": reason, "metrics": metrics})
    assert (record.outcome, record.failure) == (outcome, failure)
    assert record.objective == (0.5 if metrics.get("val/auc") == 0.5 else None)


def test_configurations_are_compared_by_the_mean_over_folds() -> None:
    folds = [RECORD.model_copy(update={"metrics": {"val/auc": auc}}) for auc in (0.7, 0.75, 0.8)]
    assert mean_objective(folds) == pytest.approx(0.75)
    assert member_key(Configuration(), 2) == f"{Configuration().key}-f2"


@pytest.mark.parametrize("field", ["study", "configuration", "fold", "split_hash", "data_hash"])
def test_every_part_of_the_identity_makes_another_trial(field: str) -> None:
    other = IDENTITY.model_copy(update={field: 1 if field == "fold" else "z"})
    assert other.key != IDENTITY.key
    assert IDENTITY.model_copy().key == IDENTITY.key


def test_epochs_read_back_to_the_bit(tmp_path: Path) -> None:
    assert read_epochs(tmp_path) == []
    write_epochs(tmp_path, [{"val/loss": 0.1 + 0.2}, {"val/loss": 0.25}])
    assert read_epochs(tmp_path) == [{"epoch": 1, "val/loss": 0.1 + 0.2}, {"epoch": 2, "val/loss": 0.25}]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_epochs(tmp_path, [{"val/loss": float("nan")}])


@pytest.mark.parametrize(
    "damage", [b'{"epoch": 1, "val/lo', bytes(30), b"\xff\xfe\n", b"[" * 100_000 + b"]" * 100_000, b"[]"]
)
def test_damaged_epochs_are_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "epochs.jsonl").write_bytes(damage)
    with pytest.raises(RlvoError, match=r"epochs\.jsonl: the file is missing or altered"):
        read_epochs(tmp_path)
