"""What epochs took of the machine is beside a trial's result, and a line that was cut short costs that line only."""

import json
import os
import time
from pathlib import Path

import pytest
from support.file_calls import count_calls

from rlvo.training.energy import CPU
from rlvo.training.usage import (
    SECONDS,
    USAGE,
    Pace,
    UsageMeter,
    UsageReader,
    read_code,
    read_energy,
    read_pace,
    read_usage,
)


def test_every_epoch_is_measured_by_itself_and_the_lines_read_back(tmp_path: Path) -> None:
    assert read_usage(tmp_path) == {}
    meter = UsageMeter(tmp_path, images=10)
    meter.after_epoch(1)
    time.sleep(0.5)
    meter.after_epoch(2)
    usage = read_usage(tmp_path)
    assert set(usage) == {1, 2}
    assert 0 < usage[2]["system/images_per_second"] <= 20 < usage[1]["system/images_per_second"]
    assert 0.01 < usage[2]["system/memory_peak_gb"] < 1000
    assert usage[2]["system/memory_peak_gb"] >= usage[1]["system/memory_peak_gb"]


def test_the_pace_is_that_of_the_epochs_and_what_every_start_adds(tmp_path: Path) -> None:
    assert read_pace(tmp_path) is None
    lines = [
        {"code": "x"},
        {SECONDS: 5.0},
        {SECONDS: 2.0},
        {SECONDS: 1.0},
        {"code": "x"},
        {SECONDS: 4.0},
        {SECONDS: 3.0},
    ]
    for count, pace in ((2, Pace(5)), (3, Pace(2, 3)), (7, Pace(2, 2.5))):
        (tmp_path / USAGE).write_text("".join(json.dumps({"epoch": 1, **line}) + "\n" for line in lines[:count]))
        assert read_pace(tmp_path) == pace
    for line in ({"epoch": 1, "system/images_per_second": 9.0}, {"epoch": 1, SECONDS: 0.0}):
        (tmp_path / USAGE).write_text(json.dumps(line))
        assert read_pace(tmp_path) == (Pace(0) if SECONDS in line else None), "written by an earlier version"
    measured = UsageMeter(tmp_path, images=10)
    time.sleep(0.1)
    measured.after_epoch(2)
    assert 0.1 <= read_usage(tmp_path)[2][SECONDS] < 5


@pytest.mark.parametrize("torn", ['{"epoch": 2, "system/im', "[]", "{}", "", "[" * 100_000 + "]" * 100_000])
def test_a_torn_line_is_left_out(tmp_path: Path, torn: str) -> None:
    UsageMeter(tmp_path, images=10).after_epoch(1)
    with (tmp_path / USAGE).open("a") as file:
        file.write(f"{torn}\n")
    assert set(read_usage(tmp_path)) == {1}


def test_the_code_of_every_start_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_code(tmp_path) == ()
    for code in ("rlvo 1", "rlvo 1", "rlvo 2"):
        monkeypatch.setattr("rlvo.training.usage.code_version", lambda code=code: code)
        meter = UsageMeter(tmp_path, images=10)
        meter.after_epoch(1)
        meter.after_epoch(2)
    assert read_code(tmp_path) == ("rlvo 1", "rlvo 2")
    assert set(read_usage(tmp_path)) == {1, 2}
    assert all(isinstance(value, int | float) for line in read_usage(tmp_path).values() for value in line.values())


def test_a_file_is_read_again_only_if_it_has_changed(tmp_path: Path) -> None:
    """A change within the clock's resolution changes the size; one of the same size, the time."""
    reader = UsageReader()

    def told(folder: Path) -> tuple[Pace | None, str]:
        pace, joules = reader.pace_and_energy(folder)
        return pace, str(joules)

    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    assert told(one) == told(other) == (None, "nan")
    (one / USAGE).write_text(json.dumps({"epoch": 1, SECONDS: 4.0, CPU: 10.0}) + "\n")
    assert told(one) == told(one) == (Pace(4), "10.0")
    assert count_calls(lambda: told(one)) == 1, "it is opened again"
    with (one / USAGE).open("a") as file:
        file.write(json.dumps({"epoch": 2, SECONDS: 2.0, CPU: 20.0}) + "\n")
    assert told(one) == (Pace(2, 2), "30.0")
    (one / USAGE).write_text((one / USAGE).read_text().replace("2.0", "3.0"))
    os.utime(one / USAGE, (1, 1))
    assert told(one) == (Pace(3, 1), "30.0")
    assert told(one)[0] == read_pace(one)
    assert float(told(one)[1]) == read_energy(one)
