"""`rlvo status` as a user runs it."""

import io
import json
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from support import commands
from support.commands import refused

from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.files import atomic_write
from rlvo.report import console
from rlvo.training.records import CompletionRecord, TrialIdentity, write_epochs, write_record

LONG = "no volume of " + " and ".join(f"patient-{number:03}" for number in range(12))


def run(*arguments: object) -> tuple[str, str]:
    """Standard output and error of `rlvo status`, which ends well."""
    result = commands.run("status", *arguments)
    return result.stdout, result.stderr


def write_study(work: Path, name: str, modalities: Sequence[str] = ("NCCT", "CTA", "BOTH")) -> list[Configuration]:
    """The folder of a study that has just been started; returns its configurations."""
    study = StudyConfig.model_validate(
        {"name": name, "folds": {"folds": 2}, "space": {"enumerate": {"model.modality": list(modalities)}}}
    )
    atomic_write(work / "studies" / name / "study.json", study.model_dump_json())
    return [study.configuration(values) for values in study.space.combinations()]


def write_trial(
    work: Path, name: str, configuration: Configuration, fold: int, auc: float, reason: str | None = None
) -> None:
    folder = work / "studies" / name / "trials" / configuration.key / f"fold-{fold}"
    metrics = {"train/loss": 0.5, "val/loss": 0.6, "val/auc": auc, "lr": 1e-3}
    atomic_write(folder.parent / "configuration.json", configuration.model_dump_json())
    write_epochs(folder, [metrics])
    identity = TrialIdentity(
        study=name, configuration=configuration.key, fold=fold, split_hash="s" * 64, data_hash="d" * 64
    )
    record = CompletionRecord(
        identity=identity,
        configuration=configuration,
        status="failed" if reason else "finished",
        reason=reason,
        best_epoch=1,
        epochs=1,
        metrics=metrics,
        seconds=2.0,
    )
    write_record(folder, record)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """NCCT has finished, CTA has failed, BOTH is not started."""
    ncct, cta, _ = write_study(tmp_path, "small")
    write_trial(tmp_path, "small", ncct, 0, 0.7)
    write_trial(tmp_path, "small", ncct, 1, 0.8)
    write_trial(tmp_path, "small", cta, 0, 0.6, reason=LONG)
    return tmp_path


def test_the_page_tells_counts_the_best_and_every_reason_in_full(work: Path) -> None:
    page = run("small", "--workdir", work)[1]
    assert "small: 2/6 trials finished, 1 failed; 2/3 configurations" in page
    assert "best densenet169 NCCT" in page
    assert "0.750" in page
    assert f"fold 0: {LONG}" in page
    again, seconds = run("--workdir", work)[1], r"last sign of life \d+ s ago"  # the only study needs no name
    assert re.sub(seconds, "", again) == re.sub(seconds, "", page)


def test_repeats_of_a_configuration_are_called_the_best_by_their_mean(tmp_path: Path) -> None:
    space = {"model.modality": ["NCCT", "CTA"], "training.repeat": [0, 1]}
    study = StudyConfig.model_validate({"name": "again", "folds": {"folds": 2}, "space": {"enumerate": space}})
    atomic_write(tmp_path / "studies" / "again" / "study.json", study.model_dump_json())
    aucs = {("NCCT", 0): 0.6, ("NCCT", 1): 0.9, ("CTA", 0): 0.8, ("CTA", 1): 0.79}
    keys = {}
    for (modality, repeat), auc in aucs.items():
        configuration = study.configuration({"model.modality": modality, "training.repeat": repeat})
        keys[modality, repeat] = configuration.key
        for fold in range(2):
            write_trial(tmp_path, "again", configuration, fold, auc)
    page = run("again", "--workdir", tmp_path)[1]
    assert f"best densenet169 CTA daft ({keys['CTA', 0]}), val/auc 0.795 ± 0.000" in page
    assert "mean of 2 repeats" in page
    assert keys["NCCT", 1] in page
    told = json.loads(run("again", "--workdir", tmp_path, "--json")[0])
    assert (told["best"], told["best_val/auc"]) == (keys["CTA", 0], pytest.approx(0.795))


def test_several_studies_are_an_overview(work: Path) -> None:
    write_study(work, "other")
    lines = run("--workdir", work)[1].splitlines()
    assert [line.split()[0] for line in lines] == ["study", "other", "small"]
    assert "2/6" in lines[2]
    assert "0.750" in lines[2]


def test_json_is_one_study_or_all(work: Path) -> None:
    study = json.loads(run("small", "--workdir", work, "--json")[0])
    assert study["trials"] == {
        "total": 6, "finished": 2, "pruned": 0, "failed": 1, "damaged": 0, "skipped": 1, "running": 0, "silent": 0,
        "waiting": 2,
    }  # fmt: skip
    assert study["complete"] is False
    best = next(each for each in study["configurations"] if each["key"] == study["best"])
    assert best["val/auc"] == pytest.approx(0.75)
    assert best["val/auc_se"] == pytest.approx(0.05), "half the difference of two folds"
    assert {each["val/auc_se"] for each in study["configurations"] if each["state"] != "finished"} == {None}
    assert [fold["auc"] for fold in best["folds"]] == [0.7, 0.8]
    everything = json.loads(run("--workdir", work, "--json")[0])
    assert [each["study"] for each in everything["studies"]] == ["small"]


def test_a_study_that_is_not_there_is_told(work: Path, tmp_path: Path) -> None:
    assert "Studies here: small" in refused("status", "smal", "--workdir", work)
    assert "no study was started here" in refused("status", "--workdir", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_watching_ends_with_the_study(work: Path) -> None:
    ncct, *_ = write_study(work, "watched", ["NCCT"])
    write_trial(work, "watched", ncct, 0, 0.7)
    watching = threading.Thread(target=run, args=("watched", "--workdir", work, "--watch"))
    watching.start()
    time.sleep(0.5)
    assert watching.is_alive()
    write_trial(work, "watched", ncct, 1, 0.7)
    watching.join(30)
    assert not watching.is_alive()


@pytest.mark.parametrize("height", [8, 12, 24])
def test_many_configurations_fit_on_one_screen(work: Path, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    configurations = write_study(work, "wide")
    for number in range(40):
        training = configurations[0].training.model_copy(update={"epochs": number + 1})
        each = configurations[0].model_copy(update={"training": training})
        for fold in range(2):
            write_trial(work, "wide", each, fold, 0.5, reason=LONG if number % 4 == 0 else None)
    screen = Console(force_terminal=True, width=80, height=height, record=True, file=io.StringIO())
    monkeypatch.setattr(console, "console", screen)
    run("wide", "--workdir", work)
    lines = screen.export_text().splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("and ") for line in lines)
