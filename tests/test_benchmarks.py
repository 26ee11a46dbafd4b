"""The benchmarks run, and both ways that they compare compute the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.networks import BACKBONES, narrow

from benchmarks.__main__ import main
from benchmarks.training import losses_apart, random_fold
from rlvo.config.model import BackboneName, Configuration

NO_AUGMENTATION = {"flip": 0, "shift_voxels": 0}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_losses_of_ours_and_of_the_plain_loop_agree_over_20_steps(backbone: BackboneName, tmp_path: Path) -> None:
    training = {"batch_size": 4, "learning_rate": 1e-3, "augmentation": NO_AUGMENTATION}
    configuration = Configuration.model_validate({"model": narrow(backbone, fusion="daft"), "training": training})
    assert losses_apart(configuration, random_fold(tmp_path, (32, 32, 32), 12, 4), steps=20) < 1e-5


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
