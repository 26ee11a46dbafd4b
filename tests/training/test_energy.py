"""Energy is counted once per package, past the counter's end, and by share; where nothing is counted, none is said."""

import json
import os
from pathlib import Path

import pytest
import torch

from rlvo.training.energy import CPU, GPU, EnergyMeter
from rlvo.training.usage import USAGE, UsageMeter, read_energy, read_usage

CORES = float(os.cpu_count() or 1)
RANGE_UJ = 262_143_328_850


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages of 10 J each, one of them shown by a second driver too, with a part; the platform; a fan's zone."""
    zones = ["intel-rapl:0 package-0", "intel-rapl:0:0 core", "intel-rapl:1 package-1", "intel-rapl:2 psys"]
    for zone in [*zones, "intel-rapl-mmio:0 package-0"]:
        folder, name = zone.split()
        (tmp_path / "powercap" / folder).mkdir(parents=True)
        (tmp_path / "powercap" / folder / "name").write_text(f"{name}\n")
        (tmp_path / "powercap" / folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        count(tmp_path / "powercap", folder, 10)
    (tmp_path / "powercap" / "fan").mkdir()
    return tmp_path / "powercap"


def count(powercap: Path, zone: str, joules: float) -> None:
    (powercap / zone / "energy_uj").write_text(f"{round(joules * 1e6)}\n")


def test_packages_are_summed_since_the_last_reading(powercap: Path) -> None:
    meter = EnergyMeter(CORES, 0, powercap)
    for zone in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl-mmio:0", "intel-rapl:2"):
        count(powercap, zone, 13)
    count(powercap, "intel-rapl:1", 14)
    assert meter.since_last() == {CPU: pytest.approx(3 + 4)}
    assert meter.since_last() == {CPU: 0}
    count(powercap, "intel-rapl:1", 15)
    meter.read_packages()  # as the thread does
    count(powercap, "intel-rapl:1", 16)
    assert meter.since_last() == {CPU: pytest.approx(2)}


def test_a_counter_that_starts_again_loses_nothing(powercap: Path) -> None:
    count(powercap, "intel-rapl:0", RANGE_UJ / 1e6 - 1)
    meter = EnergyMeter(CORES, 0, powercap)
    count(powercap, "intel-rapl:0", 2)
    assert meter.since_last() == {CPU: pytest.approx(3)}


def test_a_trial_counts_for_its_share_of_the_processors(powercap: Path) -> None:
    meter = EnergyMeter(CORES / 4, 0, powercap)
    count(powercap, "intel-rapl:0", 18)
    assert meter.since_last() == {CPU: pytest.approx(2)}


def test_counters_that_cannot_be_read_are_left_out(powercap: Path, tmp_path: Path) -> None:
    for zone in ("intel-rapl:0", "intel-rapl-mmio:0"):
        (powercap / zone / "energy_uj").unlink()
    (powercap / "intel-rapl:1" / "energy_uj").write_text("none\n")
    assert EnergyMeter(CORES, 0, powercap).since_last() == {}
    assert EnergyMeter(CORES, 0, tmp_path / "none").since_last() == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_none_is_counted(tmp_path: Path) -> None:
    assert EnergyMeter(CORES, 0.5, tmp_path).since_last() == {}


def test_epochs_carry_it_and_the_sum_counts_those_that_were_trained_twice(powercap: Path, tmp_path: Path) -> None:
    assert str(read_energy(tmp_path)) == "nan"
    UsageMeter(tmp_path, images=10).after_epoch(1)
    assert str(read_energy(tmp_path)) == "nan"
    for joules in (20, 25):  # the second is a restart, which trains the epoch again
        meter = UsageMeter(tmp_path, 10, EnergyMeter(CORES, 0, powercap))
        count(powercap, "intel-rapl:1", joules)
        meter.after_epoch(2)
    assert read_usage(tmp_path)[2][CPU] == pytest.approx(5)
    with (tmp_path / USAGE).open("a") as file:
        file.write(json.dumps({"epoch": 3, GPU: 100.0}) + "\n")
    assert read_energy(tmp_path) == pytest.approx(10 + 5 + 100)
