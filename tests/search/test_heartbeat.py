"""Two searches on hosts whose locks do not meet: what each sees of the other is a file that changes."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvo.errors import RlvoError
from rlvo.search import heartbeat
from rlvo.search.heartbeat import Heartbeat
from rlvo.search.preflight import study_lock
from rlvo.study.folder import StudyFolder

ELSEWHERE = """
import sys, time
from pathlib import Path
from rlvo.search import heartbeat
from rlvo.study.folder import StudyFolder
heartbeat.BEAT_SECONDS, heartbeat.kernel_id = 0.05, lambda: "another host's"
with heartbeat.Heartbeat(StudyFolder(Path(sys.argv[1]))) as search:
    print("at work", flush=True)
    while True:
        time.sleep(0.02)
        search.check()
"""


@pytest.fixture
def study(quick_folder: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    """A study whose hearts beat fast, in memory: a beat that waits for the disk could be taken for death."""
    for name, seconds in {"BEAT_SECONDS": 0.05, "WATCH_SECONDS": 0.6, "POLL_SECONDS": 0.02}.items():
        monkeypatch.setattr(heartbeat, name, seconds)
    return StudyFolder(quick_folder)


@pytest.mark.slow
def test_a_search_elsewhere_keeps_this_one_away_until_it_is_dead_whatever_the_clocks_say(
    study: StudyFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "WATCH_SECONDS", 20)  # the first beat ends it
    with subprocess.Popen([sys.executable, "-c", ELSEWHERE, study.path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "at work\n"
        refusal = rf"another search is at work on this study \(process {other.pid} on .*, since .*rlvo status"
        with pytest.raises(RlvoError, match=refusal) as refused, study_lock(study):
            pytest.fail("two searches")
        assert "\n" not in str(refused.value)
        other.kill()
    monkeypatch.setattr(heartbeat, "WATCH_SECONDS", 0.6)
    os.utime(study.heartbeat, (3e9, 3e9))  # by the storage's clock, it beat in the year 2065
    started = time.monotonic()
    with caplog.at_level(logging.WARNING), study_lock(study) as search:
        assert 0.6 <= time.monotonic() - started < 10
        search.check()
    assert re.search(rf"\(process {other.pid} on .*watching for 1 s whether it still runs", caplog.messages[-1])
    assert not study.heartbeat.exists()


@pytest.mark.slow
def test_a_search_that_stood_still_while_another_took_over_ends(study: StudyFolder) -> None:
    command = [sys.executable, "-c", ELSEWHERE, study.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "at work\n"
        other.send_signal(signal.SIGSTOP)
        with study_lock(study) as search:
            other.send_signal(signal.SIGCONT)
            _, error = other.communicate(timeout=20)
            assert f"this search stood still, and another has taken the study over (process {os.getpid()} on" in error
            time.sleep(0.2)
            search.check()


def test_one_that_died_on_this_host_is_replaced_at_once(study: StudyFolder, caplog: pytest.LogCaptureFixture) -> None:
    """The lock proves that it is dead."""
    with Heartbeat(study):
        left = study.heartbeat.read_bytes()
    study.heartbeat.write_bytes(left)
    with study_lock(study):
        assert not caplog.messages, "nothing is watched"
        assert [path.name for path in study.path.glob("search.heartbeat*")] == ["search.heartbeat.1"]
    assert not list(study.path.glob("search.heartbeat*"))
    study.heartbeat.write_bytes(left)
    started = time.monotonic()
    with Heartbeat(study, is_locked=False):
        assert time.monotonic() - started > 0.6, "without a lock nothing proves it"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000 + b"]" * 100_000])
def test_a_damaged_file_keeps_nobody_away(study: StudyFolder, content: bytes) -> None:
    study.heartbeat.write_bytes(content)
    with study_lock(study) as search:
        search.check()
    assert not study.heartbeat.exists()


@pytest.mark.parametrize("after_a_death", [False, True])
def test_of_many_that_start_at_once_one_runs(study: StudyFolder, after_a_death: bool) -> None:
    if after_a_death:
        with Heartbeat(study):
            left = study.heartbeat.read_bytes()
        study.heartbeat.write_bytes(left)
    ready, over, outcomes = threading.Barrier(6), threading.Barrier(6), list[str]()

    def start() -> None:
        ready.wait()
        try:
            with Heartbeat(study, is_locked=False) as search:
                outcomes.append("runs")
                over.wait()
                search.check()
        except RlvoError as refused:
            outcomes.append(refused.what.partition(" (")[0])
            over.wait()

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == ["another search is at work on this study"] * 5 + ["runs"]


@pytest.mark.parametrize(
    "meanwhile", ["one takes over", "one takes over and ends", "one takes over and ends, one starts"]
)
def test_who_stands_still_before_taking_a_study_over_finds_out(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    with Heartbeat(study):
        left = study.heartbeat.read_bytes()
    study.heartbeat.write_bytes(left)
    late, first, second = (Heartbeat(study, is_locked=False) for _ in range(3))
    watch = late._is_dead

    def watch_and_stand_still(generation: int, found: bytes) -> bool:
        is_dead = watch(generation, found)
        first.__enter__()
        monkeypatch.setattr(heartbeat, "WATCH_SECONDS", 20)  # who beats now is seen to beat
        if "ends" in meanwhile:
            first.__exit__(None, None, None)
        if "starts" in meanwhile:
            second.__enter__()
        return is_dead

    monkeypatch.setattr(late, "_is_dead", watch_and_stand_still)
    if meanwhile == "one takes over and ends":
        late.__enter__()
        late.check()
        late.__exit__(None, None, None)
    else:
        with pytest.raises(RlvoError, match="another search is at work"):
            late.__enter__()
        running = second if "starts" in meanwhile else first
        running.beat()
        running.check()
        running.__exit__(None, None, None)
    assert not list(study.path.glob("search.heartbeat*"))


def test_a_heart_beats_on_if_its_file_is_removed_or_cannot_be_written(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with Heartbeat(study) as search:
        study.heartbeat.unlink()
        wait_for(lambda: study.heartbeat.exists() and study.heartbeat.stat().st_size > 0)
        size = study.heartbeat.stat().st_size
        monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        time.sleep(0.2)
        still = study.heartbeat.read_bytes()
        monkeypatch.undo()
        monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.05)
        wait_for(lambda: study.heartbeat.read_bytes() != still)
        search.check()
        assert study.heartbeat.stat().st_size == size, "no beat takes more room"
