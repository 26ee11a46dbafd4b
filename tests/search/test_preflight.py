"""Refusals before a search starts: a second search, too little disk, too little memory."""

import fcntl
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.small_study import MakeStudy

from rlvo.errors import MachineError, RlvoError
from rlvo.files import atomic_write
from rlvo.search import preflight
from rlvo.search.plan import plan_study
from rlvo.search.preflight import (
    check_disk,
    check_memory,
    check_start,
    count_gpus,
    cut_torn_line,
    study_lock,
)
from rlvo.study.folder import StudyFolder
from rlvo.study.status import Note, write_note
from rlvo.training.records import RECORD

HOLD = """
import sys
from pathlib import Path
from rlvo.search.preflight import study_lock
from rlvo.study.folder import StudyFolder
with study_lock(StudyFolder(Path(sys.argv[1]))):
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_second_search_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "at work\n"
        message = rf"another search.*process {first.pid} on .*rlvo status"
        with pytest.raises(RlvoError, match=message) as refusal, study_lock(StudyFolder(tmp_path)):
            pytest.fail("two searches")
        assert refusal.value.exit_code == 2
        assert "\n" not in str(refusal.value)
        first.kill()
    with study_lock(StudyFolder(tmp_path)):
        pass
    with study_lock(StudyFolder(tmp_path)):
        pass


def test_children_of_a_killed_search_do_not_hold_its_lock(tmp_path: Path) -> None:
    with study_lock(StudyFolder(tmp_path)):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with StudyFolder(tmp_path).lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        child.kill()
        child.communicate()


def test_the_disk_must_hold_the_checkpoints_of_what_has_not_ended(make_small: MakeStudy, tmp_path: Path) -> None:
    planned = plan_study(make_small())
    assert check_disk(planned, StudyFolder(tmp_path)) == planned.checkpoint_bytes
    huge = replace(planned, checkpoint_bytes=10**18)
    for fold in range(2):
        left = rf"{2 - fold} trial\(s\) need {1e9 - fold * 5e8:.1f} GB for checkpoints, but only [0-9.]+ GB are free"
        with pytest.raises(MachineError, match=left):
            check_disk(huge, StudyFolder(tmp_path))
        trial = StudyFolder(tmp_path).trial("key", fold)
        trial.mkdir(parents=True)
        (trial / RECORD).touch()
    check_disk(huge, StudyFolder(tmp_path))


def test_a_batch_that_cannot_fit_is_refused_and_one_that_may_not_is_doubted(
    make_small: MakeStudy, caplog: pytest.LogCaptureFixture
) -> None:
    def batch(size: int) -> int:
        """Bytes of one batch."""
        return size * 16**3 * 4

    available = psutil.virtual_memory().total
    with caplog.at_level(logging.WARNING):
        check_memory(plan_study(make_small()), on_gpu=False)
        assert not caplog.messages
        doubtful = available // batch(1) // 2
        check_memory(plan_study(make_small(training={"batch_size": doubtful})), on_gpu=False)
        (warning,) = caplog.messages
    assert f"resnet18 with training.batch_size {doubtful} may need" in warning
    with pytest.raises(RlvoError, match=r"needs at least .* GB, but the machine has"):
        check_memory(plan_study(make_small(training={"batch_size": available // batch(1) + 1})), on_gpu=False)


def test_what_a_trial_asks_for_is_compared_with_this_machine_unless_nothing_is_left(
    make_small: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "is_local", lambda address: True)  # another test's Ray may be connected
    folder = StudyFolder(tmp_path)
    check_start(make_small(), folder, None)
    greedy = make_small(resources={"gpus": count_gpus() + 1})
    with pytest.raises(
        RlvoError, match=rf"a trial asks for {count_gpus() + 1} GPU, but this machine has {count_gpus()}"
    ):
        check_start(greedy, folder, None)
    with pytest.raises(RlvoError, match="asks for 100000 CPU"):
        check_start(make_small(resources={"cpus": 100_000}), folder, None)
    atomic_write(folder.config, greedy.model_dump_json())
    write_note(folder, Note(has_finished=True))
    check_start(greedy, folder, None)  # a finished study is shown again anywhere
    more = {"enumerate": {"model.dropout": [0.0, 0.1]}}
    with pytest.raises(RlvoError, match="GPU"):
        check_start(make_small(resources={"gpus": count_gpus() + 1}, space=more), folder, None)


def test_a_cluster_that_does_not_answer_is_told_before_anything_is_prepared(
    make_small: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests of this process may share a Ray
    with pytest.raises(MachineError, match="no Ray cluster answers"):
        check_start(make_small(resources={"gpus": 99}), StudyFolder(tmp_path), "127.0.0.1:1")


@pytest.mark.usefixtures("ray_session")
def test_a_clusters_nodes_are_asked_before_anything_is_prepared(make_small: MakeStudy, tmp_path: Path) -> None:
    said: list[str] = []
    check_start(make_small(resources={"gpus": 99}), StudyFolder(tmp_path), "auto", said.append)
    assert "no node of the cluster can hold a trial: it asks for 1 CPU, 99 GPU, " in said[0]
    assert "and the largest node has 2 CPU, 0 GPU, " in said[0]


def test_a_line_cut_short_is_dropped_and_a_whole_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    cut_torn_line(path)
    for content, left in ((b'{"a":1}\n{"b":2}\n', 2), (b'{"a":1}\n{"b":', 1), (b'{"a', 0)):
        path.write_bytes(content)
        cut_torn_line(path)
        assert len([json.loads(line) for line in path.read_text().splitlines()]) == left
