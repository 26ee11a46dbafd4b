"""The benchmarks run, and both ways that they compare compute the same."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.networks import BACKBONES, narrow

from benchmarks import biomarker_learning, gpu, learning
from benchmarks.__main__ import main
from benchmarks.biomarkers import grid_of
from benchmarks.gpu_packing import patients_per_second
from benchmarks.gpu_parts import PARTS, Part
from benchmarks.measure import Put
from benchmarks.training import losses_apart, random_fold
from rlvo.config.grid import PRESETS
from rlvo.config.model import BackboneName, Configuration
from rlvo.synthetic.outcome import PROFILES

NO_AUGMENTATION = {"flip": 0, "shift_voxels": 0}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_losses_of_ours_and_of_the_plain_loop_agree_over_20_steps(backbone: BackboneName, tmp_path: Path) -> None:
    training = {"batch_size": 4, "learning_rate": 1e-3, "augmentation": NO_AUGMENTATION}
    configuration = Configuration.model_validate({"model": narrow(backbone, fusion="daft"), "training": training})
    assert losses_apart(configuration, random_fold(tmp_path, (32, 32, 32), 12, 4), steps=20) < 1e-5


def test_each_profile_is_read_on_its_grid() -> None:
    grids = {profile: learning.Setting(profile, 480, 1, "baseline").config.grid for profile in PROFILES}
    assert grids == {profile: PRESETS["arteries" if profile == "paper" else "focus"] for profile in PROFILES}


def test_what_options_give_is_kept_for_every_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To pandas the name of one, `null`, is a missing value."""
    monkeypatch.setattr(learning, "MEASURED", tmp_path / "learning.csv")
    settings = [learning.Setting(profile, 480, seed, "baseline") for profile in ("null", "demo") for seed in (1, 2)]
    for setting in settings:
        learning.keep(setting, 60.0, {"all, best": 0.5})
    rows = learning.read_measured().set_index(learning.FACTS)
    assert list(rows.index) == sorted((each.profile, 480, each.seed, "baseline") for each in settings)


@pytest.mark.slow
def test_biomarkers_are_measured_once_and_join_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "STUDY": 16,
        "FRESH": 10,
        "COUNTS": (16,),
        "BLOCK": 8,
        "WRONG_SIDES": 0.5,
        "MEASURED": tmp_path / "found.csv",
    }
    for name, value in sizes.items():
        monkeypatch.setattr(biomarker_learning, name, value)
    monkeypatch.setattr(biomarker_learning, "grid_of", lambda _: grid_of(2.0))  # drawn sooner
    arguments = [str(tmp_path), "--profiles", "demo", "--seeds", "1000", "3", "--ways", "right place"]
    monkeypatch.setattr("sys.argv", ["biomarker_learning", *arguments])
    biomarker_learning.main()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("demo-*/*.csv")}
    assert len(files) == 4
    found = pd.read_csv(tmp_path / "found.csv").set_index("way")
    assert sorted(found.index) == ["50% of sides wrong", "right place"]
    assert (found[biomarker_learning.TABLE] != found[biomarker_learning.BOTH]).any()

    biomarker_learning.main()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("demo-*/*.csv")} == files
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "found.csv").set_index("way"), found)

    right, wrong = (
        biomarker_learning.cohort("demo", 3, "right place", tmp_path, wrong_sides=each).table for each in (False, True)
    )
    other = right["occlusion_side"] != wrong["occlusion_side"]
    assert 0 < other.sum() < 16
    measured = [*biomarker_learning.BIOMARKERS]
    assert right.loc[~other, measured].equals(wrong.loc[~other, measured])
    told, told_wrongly = (each.loc[other, "biomarkers_calcium_difference_mm3"] for each in (right, wrong))
    assert told.any()
    assert (told == -told_wrongly).all()


@pytest.mark.slow
def test_benchmarks_are_kept_with_the_machine_and_their_ratios_drawn(tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "bench.json"
    main(["profile", "reading", "--short", "--json", str(kept)])
    held: dict[str, Any] = json.loads(kept.read_text())
    assert list(held) == ["profile", "reading"]
    for benchmark in held.values():
        assert benchmark["short"]
        assert {"cores", "torch", "device", "date"} <= benchmark["machine"].keys()
        (table,) = benchmark["tables"]
        assert all(len(row) == len(table["columns"]) for row in table["rows"].values())
    (compared,) = held["reading"]["tables"]
    ours = compared["rows"]["rlvo"][1]
    for _, later, _, ratio in compared["rows"].values():
        assert ratio == pytest.approx(later / ours)
    assert all(kept.with_suffix(suffix).stat().st_size > 5000 for suffix in (".svg", ".png"))


def test_trials_that_share_a_gpu_count_only_while_they_run_together() -> None:
    def usage(*seconds: float) -> dict[int, dict[str, float]]:
        return {number: {"when": 1000 * each} for number, each in enumerate(seconds, start=1)}

    alone, beside, later = usage(10, 12, 14, 16), usage(13, 17, 21), usage(30, 31)
    assert patients_per_second([alone], 1, patients=6) == pytest.approx(6 / 2)
    assert patients_per_second([beside, alone, later], 2, patients=6) == pytest.approx(6 / 2 + 6 / 4)
    assert str(patients_per_second([alone, later], 2, patients=6)) == "nan", "one began when the other had ended"


def halfway(put: Put, short: bool) -> None:
    rows: dict[str, Sequence[float]] = {"first": (1.0, 2.0)}
    put("before the failure", ("figure", "ratio"), rows, ratio="ratio")
    raise RuntimeError("the GPU\nhas fallen off the bus")


def dies(put: Put, short: bool) -> None:
    put("before the end", ("figure",), {"first": (float("nan"),)})
    os._exit(7)


def stuck(put: Put, short: bool) -> None:
    put("before it waited", ("figure",), {"first": (3.0,)})
    time.sleep(600)


@pytest.mark.slow
def test_a_part_that_fails_dies_or_waits_loses_nothing_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts run in processes that are forked here, so that they know the test's."""
    monkeypatch.setattr(gpu, "START", "fork")
    monkeypatch.setattr(gpu, "CLOSING_SECONDS", 1.0)
    for name, work in {"halfway": halfway, "dies": dies, "stuck": stuck}.items():
        monkeypatch.setitem(PARTS, name, Part(work, 10))
    kept = tmp_path / "kept" / "gpu.json"
    assert gpu.main(["halfway", "dies", "stuck", "--short", "--minutes", "0.1", "--json", str(kept)]) == 1
    held = json.loads(kept.read_text())
    assert [each["failed"] for each in held.values()][:2] == [
        "RuntimeError: the GPU has fallen off the bus",
        "its process died (exit code 7)",
    ]
    assert "took longer than its" in held["gpu: stuck"]["failed"]
    titles = [table["title"] for each in held.values() for table in each["tables"]]
    assert titles == ["before the failure", "before the end", "before it waited"]
    assert held["gpu: halfway"]["tables"][0]["rows"] == {"first": [1.0, 2.0]}
    assert kept.with_suffix(".svg").exists()
    assert "failed: halfway, dies, stuck" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_that_a_gpu_is_to_show_runs_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "gpu.json"
    names = ["ceilings", "memory", "options"]  # the others take Ray, or a minute
    assert gpu.main([*names, "--short", "--json", str(kept)]) == 0, capsys.readouterr().err
    held = json.loads(kept.read_text())
    assert list(held) == [f"gpu: {name}" for name in names]
    rows = held["gpu: memory"]["tables"][0]["rows"]
    half, retried = rows["half of the batch at once"], rows["the whole batch, with too little memory"]
    assert retried[:2] == [4, 1]
    assert retried[3] == half[3], "the loss of a trial of half a batch at once"
    assert len(held["gpu: options"]["tables"][0]["rows"]) == 4
