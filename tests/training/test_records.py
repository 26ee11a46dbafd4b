import json

import pytest

from rlvo.config.model import Configuration
from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.training.records import CompletionRecord, TrialIdentity, read_epochs, read_record, write_epochs, write_record

IDENTITY = TrialIdentity(study="s", configuration=Configuration().key, fold=0, split_hash="x", data_hash="y")


@pytest.fixture
def record(tmp_path):
    (tmp_path / "predictions.csv").write_text("patient\n")
    record = CompletionRecord(
        identity=IDENTITY,
        configuration=Configuration(),
        status="finished",
        best_epoch=2,
        epochs=3,
        metrics={"val/auc": 0.8123456789012345},
        files={"predictions.csv": file_sha256(tmp_path / "predictions.csv")},
        seconds=1.5,
    )
    write_record(tmp_path, record)
    return record


def test_round_trip(record, tmp_path):
    assert read_record(tmp_path) == record
    assert read_record(tmp_path / "elsewhere") is None


def test_altered_or_missing_file_is_told(record, tmp_path):
    (tmp_path / "predictions.csv").write_text("patient\n1\n")
    with pytest.raises(RlvoError, match=r"predictions\.csv: missing or altered"):
        read_record(tmp_path)
    (tmp_path / "predictions.csv").unlink()
    with pytest.raises(RlvoError, match=r"predictions\.csv: missing or altered"):
        read_record(tmp_path)


def test_truncated_record_is_told(record, tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RlvoError, match=r"record\.json: missing or altered.*delete the trial's record\.json"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("written", "altered"),
    [("0.8123456789012345", "0.9123456789012345"), ('"finished"', '"pruned"'), ('"epochs": 3', '"epochs": 4')],
)
def test_an_altered_record_is_told(record, tmp_path, written, altered):
    path = tmp_path / "record.json"
    assert path.read_text().count(written) == 1
    path.write_text(path.read_text().replace(written, altered))
    with pytest.raises(RlvoError, match=r"record\.json: missing or altered.*delete the trial's record\.json"):
        read_record(tmp_path)


def test_a_record_without_a_digest_or_with_another_is_told_and_white_space_does_not_matter(record, tmp_path):
    path = tmp_path / "record.json"
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(content, sort_keys=True))
    assert read_record(tmp_path) == record
    for digest in ({}, {"digest": None}, {"digest": "0" * 64}):
        path.write_text(json.dumps({name: value for name, value in content.items() if name != "digest"} | digest))
        with pytest.raises(RlvoError, match=r"record\.json: missing or altered"):
            read_record(tmp_path)


@pytest.mark.parametrize("field", ["study", "configuration", "fold", "split_hash", "data_hash"])
def test_every_part_of_the_identity_makes_another_trial(field):
    other = IDENTITY.model_copy(update={field: 1 if field == "fold" else "z"})
    assert other.key != IDENTITY.key
    assert IDENTITY.model_copy().key == IDENTITY.key


def test_epochs(tmp_path):
    assert read_epochs(tmp_path) == []
    write_epochs(tmp_path, [{"val/loss": 0.1 + 0.2}, {"val/loss": 0.25}])
    assert read_epochs(tmp_path) == [{"epoch": 1, "val/loss": 0.1 + 0.2}, {"epoch": 2, "val/loss": 0.25}]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_epochs(tmp_path, [{"val/loss": float("nan")}])


@pytest.mark.parametrize("damage", [b'{"epoch": 1, "val/lo', bytes(30), b"\xff\xfe\n"])
def test_damaged_epochs_are_told(tmp_path, damage):
    (tmp_path / "epochs.jsonl").write_bytes(damage)
    with pytest.raises(RlvoError, match=r"epochs\.jsonl: missing or altered"):
        read_epochs(tmp_path)
