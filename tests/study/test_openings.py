"""The lock on the hold-out: what it refuses, counts and notices."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.small_study import MakeStudy, OpenStudy

from rlvo.cohort.pseudonym import KEY_FILE
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.study.inputs import StudyInputs
from rlvo.study.openings import Opening, Openings


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


@pytest.fixture
def listed(small_cohort: Path, tmp_path: Path) -> Path:
    """A copy of the cohort with three centers; every fourth patient is listed in `test.txt` beside it."""
    table = Path(shutil.copytree(small_cohort.parent, tmp_path / "own")) / "cohort.csv"
    rows = pd.read_csv(table)
    rows.assign(center=list("AAAAAAAABBBBBBBBCCCCCCCC")).to_csv(table, index=False)
    table.with_name("test.txt").write_text("\n".join(rows["patient_id"][::4]))
    return table


def folds(table: Path, **changes: Any) -> dict[str, Any]:
    return {"holdout": "list", "test_patients": table.with_name("test.txt"), "folds": 2, **changes}


def open_hold_out(work: Workdir, inputs: StudyInputs, reason: str | None = None) -> Opening:
    split = inputs.split
    return Openings(work.path).append(split.hash, inputs.study, {}, reason, inputs.marks(split.test))


@pytest.mark.parametrize(
    "change", ["nothing", "folds", "centers", "a patient less", "ids", "ids and ages", "predictors", "no perfusion"]
)
def test_the_same_patients_are_the_same_hold_out(
    make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir, listed: Path, change: str
) -> None:
    first = open_small(make_small(folds=folds(listed)), listed)
    assert open_hold_out(small_work, first).opening == 1
    rows, changed = pd.read_csv(listed), folds(listed)
    study: dict[str, Any] = {"name": "another"}
    if change == "folds":
        changed["folds"] = 3
    if change == "centers":
        changed |= {"folds": 3, "scheme": "leave_one_center_out"}
    if change == "a patient less":
        rows = rows.drop(index=5)
    if "ids" in change:
        rows["patient_id"] = [f"renamed-{i}" for i in range(24)]
        listed.with_name("test.txt").write_text("\n".join(rows["patient_id"][::4]))
    if "ages" in change:
        rows["age"] += 1
    if change == "predictors":
        study["cohort"] = {"predictors": ("age", "nihss")}
    if change == "no perfusion":
        rows = rows.drop(columns=[name for name in rows if str(name).endswith("_ml")])
    rows.to_csv(listed, index=False)
    again = open_small(make_small(folds=changed, **study), listed)
    with pytest.raises(RlvoError, match=r"this hold-out was opened before: opening 1, .*, study small"):
        open_hold_out(small_work, again)
    counted = open_hold_out(small_work, again, "asked")
    assert (counted.opening, counted.seen_before) == (2, 6)
    log = (small_work.path / "openings.jsonl").read_text()
    assert not [patient for patient in (*first.table.index, *again.table.index) if patient in log]


def test_an_overlap_is_told_and_counted(make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir) -> None:
    first, other = (open_small(make_small(f"seed-{s}", folds={"folds": 2, "seed": s})) for s in (0, 1))
    shared = len({*first.split.test} & {*other.split.test})
    assert 0 < shared < len(other.split.test)
    open_hold_out(small_work, first)
    with pytest.raises(RlvoError, match=f": {shared} of this hold-out's 5 patients were opened before: opening 1"):
        open_hold_out(small_work, other)
    counted = open_hold_out(small_work, other, "another seed")
    assert (counted.opening, counted.seen_before) == (2, shared)


def test_other_patients_are_not_opened_by_it_even_under_the_same_ids(
    make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir, listed: Path
) -> None:
    first = open_small(make_small(folds=folds(listed)), listed)
    open_hold_out(small_work, first)
    rest = Openings(small_work.path).earlier(first.marks(first.split.development))
    assert (rest.openings, rest.patients) == ((), frozenset())
    rows = pd.read_csv(listed)
    scans = rows[["ncct", "cta", "vessels"]].iloc[::-1].reset_index(drop=True)
    rows = rows.sample(frac=1, random_state=1).assign(patient_id=rows["patient_id"].to_numpy(), age=50)
    rows[["ncct", "cta", "vessels"]] = scans.to_numpy()
    rows["tmax_gt4_ml"] += 1
    rows.to_csv(listed, index=False)
    elsewhere = open_small(make_small("elsewhere", folds=folds(listed)), listed)
    shown = Openings(small_work.path).earlier(elsewhere.marks(elsewhere.split.test)).patients
    assert len(shown) < 6, "only those whose scans were shown"


@pytest.mark.parametrize("left", ["everything", "no table", "nothing"])
def test_openings_of_older_versions_count_as_far_as_their_study_tells(
    make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir, listed: Path, left: str
) -> None:
    first = open_small(make_small(folds=folds(listed)), listed)
    Openings(small_work.path).append(first.split.hash, "small", {}, None)
    other = open_small(make_small("another", folds=folds(listed, folds=3)), listed)
    if left == "no table":
        listed.unlink()
    if left == "nothing":
        shutil.rmtree(small_work.study("small"))
        counted = open_hold_out(small_work, other)
        assert (counted.opening, counted.unknown) == (1, 1)
    else:
        with pytest.raises(RlvoError, match="this hold-out was opened before: opening 1"):
            open_hold_out(small_work, other)
    with pytest.raises(RlvoError, match="this hold-out was opened before"):
        open_hold_out(small_work, first)


def test_a_lost_key_is_noticed(make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir) -> None:
    inputs = open_small(make_small())
    open_hold_out(small_work, inputs)
    (small_work.path / KEY_FILE).unlink()
    with pytest.raises(RlvoError, match="key of the log of hold-out openings"):
        open_hold_out(small_work, inputs, "any")
