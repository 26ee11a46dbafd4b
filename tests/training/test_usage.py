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
    note_total,
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


def test_of_a_trial_that_has_ended_the_last_line_is_read_alone_and_says_what_all_say(tmp_path: Path) -> None:
    """Thousands of such trials are looked at by each `rlvo status`."""
    note_total(tmp_path)
    assert not (tmp_path / USAGE).exists()
    lines = [{"code": "x"}, {"epoch": 1, SECONDS: 4.5, CPU: 10.25}, {"epoch": 2, SECONDS: 2.1, CPU: 0.3}]
    (tmp_path / USAGE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    told, epochs = UsageReader().pace_and_energy(tmp_path), read_usage(tmp_path)
    assert UsageReader().pace_and_energy(tmp_path, has_ended=True) == told, "of an earlier version"
    note_total(tmp_path)
    assert UsageReader().pace_and_energy(tmp_path, has_ended=True) == told
    assert (read_pace(tmp_path), read_energy(tmp_path)) == told
    assert (read_usage(tmp_path), read_code(tmp_path)) == (epochs, ("x",))

    whole = (tmp_path / USAGE).read_bytes()
    (tmp_path / USAGE).write_bytes(bytes(5000) + b"\n" + whole[whole.rindex(b"\n", 0, -1) + 1 :])
    assert UsageReader().pace_and_energy(tmp_path, has_ended=True) == told, "the lines above are not read"
    (tmp_path / USAGE).write_bytes(whole[:-5])  # the machine died
    assert UsageReader().pace_and_energy(tmp_path, has_ended=True) == told
    with (tmp_path / USAGE).open("wb") as file:  # its record was deleted, and it was completed again
        file.write(whole + b'{"epoch": 3, "%b": 2.1}\n' % SECONDS.encode())
    reader = UsageReader()
    assert reader.pace_and_energy(tmp_path, has_ended=True) == (Pace(2.1, 2.4), 10.55)
    note_total(tmp_path)
    assert reader.pace_and_energy(tmp_path) == UsageReader().pace_and_energy(tmp_path, has_ended=True)
