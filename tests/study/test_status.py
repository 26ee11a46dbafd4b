"""Where a study stands, told from what trials leave in its folder."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.study_on_disk import CTA, NCCT, StudyOnDisk

from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.study.folder import StudyFolder, started_studies
from rlvo.study.state import ENDED
from rlvo.study.status import FIRST_EPOCH_SECONDS, Note, read_state, write_note


@pytest.fixture
def started(tmp_path: Path) -> StudyOnDisk:
    """A study of 2 × 2 configurations and two folds of which no trial has started yet."""
    space = {"enumerate": {"model.modality": ["NCCT", "CTA"], "model.fusion": ["none", "daft"]}}
    return StudyOnDisk(tmp_path, StudyConfig.model_validate({"name": "fake", "space": space, "folds": {"folds": 2}}))


def set_time(started: StudyOnDisk, when: float) -> None:
    """Everything below the trials was last touched at `when`."""
    for path in started.folder.path.glob("trials/**/*"):
        os.utime(path, (when, when))


def states(started: StudyOnDisk, now: float | None = None) -> dict[str, list[str]]:
    return {c.key: [trial.state for trial in c.trials] for c in read_state(started.folder, now=now).configurations}


def test_nothing_has_run_yet(started: StudyOnDisk) -> None:
    status = read_state(started.folder)
    assert (status.configurations_total, status.trials_total, status.configurations) == (4, 8, ())
    assert (status.best, status.eta_seconds, status.quiet_seconds, status.is_complete) == (None, None, None, False)
    (started.folder.path.parent / "not a study").mkdir()
    assert started_studies(started.folder.path.parent) == [started.folder]


def test_the_state_of_a_trial_follows_from_its_files(started: StudyOnDisk) -> None:
    started.end(NCCT, 0, epochs := started.epochs(0))
    started.start(NCCT, 1, started.epochs(1)[:2])
    started.end(CTA, 0, started.epochs(2), reason="the loss is nan in epoch 4")
    behind = started.config.configuration({"model.modality": "NCCT", "model.fusion": "daft"})
    started.end(behind, 0, started.epochs(0), reason="it fell behind", status="pruned")
    status = read_state(started.folder)
    expected = {NCCT.key: ["finished", "running"], CTA.key: ["failed", "skipped"], behind.key: ["pruned", "skipped"]}
    assert states(started) == expected
    by_key = {each.key: each for each in status.configurations}
    assert [by_key[key].state for key in expected] == ["running", "failed", "pruned"]
    assert status.count(*ENDED) == 5
    assert by_key[NCCT.key].label == NCCT.label
    assert by_key[NCCT.key].auc == pytest.approx(epochs[-1]["val/auc"])
    assert [trial.epoch for trial in by_key[NCCT.key].trials] == [3, 2]
    assert by_key[CTA.key].trials[0].reason == "the loss is nan in epoch 4"
    assert status.best is None, "no configuration has finished on both folds"


def test_a_complete_study_has_nothing_left(started: StudyOnDisk) -> None:
    for values in started.config.space.combinations():
        for fold in range(2):
            started.end(started.config.configuration(values), fold, started.epochs(fold))
    status = read_state(started.folder)
    assert status.is_complete
    assert status.count("finished") == status.trials_total == 8
    assert status.eta_seconds is None


def test_a_trial_that_died_is_silent_after_three_of_its_epochs(started: StudyOnDisk) -> None:
    started.start(NCCT, 0, started.epochs(0)[:2])
    set_time(started, 1e9)
    assert states(started, now=1e9 + FIRST_EPOCH_SECONDS - 1)[NCCT.key] == ["running", "waiting"]
    assert states(started, now=1e9 + FIRST_EPOCH_SECONDS + 1)[NCCT.key] == ["silent", "waiting"]
    started.end(CTA, 0, started.epochs(0))  # three epochs in 1.5 s: epochs are short here
    set_time(started, 1e9)
    assert states(started, now=1e9 + 59)[NCCT.key] == ["running", "waiting"]
    assert states(started, now=1e9 + 61)[NCCT.key] == ["silent", "waiting"]
    assert read_state(started.folder, now=1e9 + 61).quiet_seconds == pytest.approx(61)


def test_a_note_says_what_no_record_does(started: StudyOnDisk) -> None:
    for fold in range(2):
        started.start(NCCT, fold, started.epochs(fold))
    started.start(CTA, 0, started.epochs(0))
    set_time(started, 1e9)
    note = Note(
        running=frozenset({(NCCT.key, 0)}),
        failures={CTA.key: {0: "its process died"}},
        prunings={"0" * 12: {0: "it fell behind"}},
    )
    write_note(started.folder, note)
    assert states(started) == {NCCT.key: ["running", "waiting"], CTA.key: ["failed", "skipped"]}
    assert read_state(started.folder).quiet_seconds == pytest.approx(0, abs=30)
    later = time.time() + 61
    assert states(started, now=later) == {NCCT.key: ["silent", "silent"], CTA.key: ["failed", "skipped"]}

    write_note(started.folder, Note(prunings={NCCT.key: {0: "it fell behind", 1: "it fell behind"}}, has_finished=True))
    assert states(started)[NCCT.key] == ["pruned", "pruned"]
    assert read_state(started.folder).is_complete, "though fewer configurations than were asked for are different"


def test_a_note_that_is_damaged_or_from_before_the_last_start_is_ignored(started: StudyOnDisk) -> None:
    started.start(NCCT, 0)
    write_note(started.folder, Note(failures={NCCT.key: {0: "its process died"}}, has_finished=True))
    os.utime(started.folder.progress, (1e9, 1e9))
    assert states(started) == {NCCT.key: ["running", "waiting"]}
    assert not read_state(started.folder).is_complete
    started.folder.progress.write_bytes(b"\0" * 10)
    assert states(started) == {NCCT.key: ["running", "waiting"]}


@pytest.mark.parametrize("name", ["record.json", "epochs.jsonl"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"\0" * len(data),
        lambda data: b"[" * 100_000 + b"]" * 100_000,
        lambda data: b"[]",
    ],
)
def test_a_damaged_file_is_told_and_stops_nothing(
    started: StudyOnDisk, name: str, damage: Callable[[bytes], bytes]
) -> None:
    started.end(NCCT, 0, started.epochs(0))
    started.end(CTA, 0, started.epochs(0))
    path = started.trial(NCCT, 0) / name
    path.write_bytes(damage(path.read_bytes()))
    by_key = {each.key: each for each in read_state(started.folder).configurations}
    assert by_key[NCCT.key].trials[0].state == "damaged"
    assert by_key[NCCT.key].trials[0].reason == f"{name} cannot be read"
    assert by_key[CTA.key].trials[0].state == "finished"


def test_a_damaged_configuration_is_known_from_a_record(started: StudyOnDisk) -> None:
    started.end(NCCT, 0, started.epochs(0))
    started.start(CTA, 0)
    for configuration in (NCCT, CTA):
        (started.trial(configuration, 0).parent / "configuration.json").write_bytes(b"\0\0")
    labels = {each.key: each.label for each in read_state(started.folder).configurations}
    assert labels == {NCCT.key: NCCT.label, CTA.key: "configuration.json cannot be read"}


def test_a_study_that_is_missing_or_unreadable_is_refused(started: StudyOnDisk, tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match="no study was started here"):
        read_state(StudyFolder(tmp_path))
    started.folder.config.write_text("{")
    with pytest.raises(RlvoError, match="damaged"):
        read_state(started.folder)


def test_looking_needs_no_ray_torch_or_mlflow(started: StudyOnDisk) -> None:
    started.end(NCCT, 0, started.epochs(0))
    script = (
        "import json, pathlib, sys\n"
        "from rlvo.study.folder import StudyFolder\nfrom rlvo.study.status import read_state\n"
        "read_state(StudyFolder(pathlib.Path(sys.argv[1]))); print(json.dumps(sorted(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, started.folder.path], check=True, capture_output=True, text=True
    ).stdout
    assert {"ray", "torch", "mlflow", "optuna", "pandas", "sklearn"} & set(json.loads(output)) == set()
