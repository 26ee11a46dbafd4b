"""The lock on the hold-out: what it refuses, counts and notices."""

import json
from pathlib import Path

import pytest

from rlvo.errors import RlvoError
from rlvo.study.openings import Openings


def opened(folder: Path) -> Openings:
    """A log of three openings of two splits, with its seal."""
    log = Openings(folder)
    log.append("split-a", "first", {"ensemble": "1"}, None)
    log.append("split-b", "first", {"ensemble": "2"}, None)
    log.append("split-a", "second", {"ensemble": "3"}, "a bug in the report")
    return Openings(folder, [seal for seal in [log.seal()] if seal])


def test_openings_are_counted_by_split(tmp_path: Path) -> None:
    log = opened(tmp_path)
    assert [opening.opening for opening in log.of_split("split-a")] == [1, 2]
    assert [opening.opening for opening in log.of_split("split-b")] == [1]
    assert log.of_split("split-a")[1].reason == "a bug in the report"
    log.check_may_open("split-c", None)
    log.append("split-c", "third", {}, None)  # MLflow was away when it was to be sealed
    assert log.of_split("split-c")


def test_a_second_opening_needs_a_reason_whichever_study_asks(tmp_path: Path) -> None:
    log = opened(tmp_path)
    before = log.path.read_bytes()
    for reason in (None, ""):
        with pytest.raises(RlvoError, match=r"opened before: opening 1, .*study first") as refused:
            log.append("split-b", "another", {}, reason)
        assert refused.value.exit_code == 2
    assert log.path.read_bytes() == before
    assert log.append("split-b", "another", {}, "asked by a reviewer").opening == 2


@pytest.mark.parametrize("line", [0, 1, 2])
@pytest.mark.parametrize("damage", ["edit", "delete", "garbage"])
def test_an_altered_log_is_noticed(tmp_path: Path, line: int, damage: str) -> None:
    log = opened(tmp_path)
    lines = log.path.read_text().splitlines()
    if damage == "edit":
        lines[line] = json.dumps(json.loads(lines[line]) | {"time": "1970-01-01T00:00:00+00:00"}, separators=(",", ":"))
    elif damage == "delete":
        del lines[line]
    else:
        lines[line] = "{"
    log.path.write_text("".join(f"{each}\n" for each in lines))
    with pytest.raises(RlvoError, match="altered or lost"):
        log.check_may_open("split-c", "any")
    with pytest.raises(RlvoError, match="altered or lost"):
        log.append("split-c", "third", {}, None)


def test_a_log_that_is_gone_is_noticed_by_its_seal(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.path.unlink()
    with pytest.raises(RlvoError, match="altered or lost"):
        log.check_may_open("split-a", None)
    Openings(tmp_path).check_may_open("split-a", None)  # nothing else remembers it
