"""A cohort over several processes: resumable, and one bad patient stops nobody."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest

from rlvo.config.grid import PRESETS
from rlvo.imaging.cohort_preparation import PreparedCohort, PreparedPatient, prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target

FOCUS = PRESETS["focus"]
TARGET = Target(grid=FOCUS)
STUCK = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from rlvo.imaging.cohort_preparation import begin_worker
def work(_):
    print(os.getpid(), flush=True)
    time.sleep(600)
if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=begin_worker) as pool:
        pool.submit(work, 0).result()
"""


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, dict[str, Path | None]]:
    """Three sound patients, one with a truncated file, one with a missing one, one with nothing."""
    rng = np.random.default_rng(0)
    rows: dict[str, dict[str, Path | None]] = {}
    for patient in ("1", "2", "3", "cut"):
        rows[patient] = {"vessels": None}
        for role in ("ncct", "cta"):
            path = tmp_path / f"{patient}-{role}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(rng.integers(0, 90, FOCUS.shape).astype(np.int16), FOCUS.affine), path)
            rows[patient][role] = path
    cut = tmp_path / "cut-cta.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-50])
    rows["missing"] = {"ncct": rows["1"]["ncct"], "cta": tmp_path / "none.nii"}
    rows["nothing"] = {"ncct": None, "cta": None, "vessels": None}
    return rows


def test_one_bad_patient_stops_nobody_and_a_second_run_prepares_nothing_anew(
    rows: dict[str, dict[str, Path | None]], tmp_path: Path
) -> None:
    store, steps = VolumeStore(tmp_path / "store"), []
    first = prepare_cohort(rows, TARGET, store, workers=1, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(number, 6) for number in range(1, 7)]
    assert list(first.prepared) == ["1", "2", "3"]
    assert {patient: error.what for patient, error in first.refused.items()} == {
        "cut": "truncated gzip file",
        "missing": "no such file or folder",
        "nothing": "neither NCCT nor CTA given",
    }
    assert all(f"patient {patient}" in str(error) for patient, error in first.refused.items())
    written = {path: path.stat().st_mtime_ns for path in store.path.rglob("*.npy")}
    assert len(written) == 6
    assert prepare_cohort(rows, TARGET, store, workers=1, verify=True).prepared == first.prepared
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*.npy")} == written


@pytest.mark.slow
def test_processes_give_what_one_process_gives(rows: dict[str, dict[str, Path | None]], tmp_path: Path) -> None:
    alone = prepare_cohort(rows, TARGET, VolumeStore(tmp_path / "alone"), workers=1)
    store = VolumeStore(tmp_path / "together")
    together = prepare_cohort(rows, TARGET, store, workers=2)
    assert list(together.prepared) == ["1", "2", "3"]
    assert {patient: str(error) for patient, error in together.refused.items()} == {
        patient: str(error) for patient, error in alone.refused.items()
    }
    for patient, each in alone.prepared.items():
        assert together.prepared[patient] == replace(each, seconds=together.prepared[patient].seconds)
        for name, volume in VolumeStore(tmp_path / "alone").open(each.address).items():
            np.testing.assert_array_equal(volume, store.open(each.address)[name])


def test_a_damaged_entry_is_found_and_prepared_again(rows: dict[str, dict[str, Path | None]], tmp_path: Path) -> None:
    store, one = VolumeStore(tmp_path / "store"), {"1": rows["1"]}
    address = prepare_cohort(one, TARGET, store, workers=1).prepared["1"].address
    before = np.array(store.open(address)["cta"])
    path = store.folder(address) / "cta.npy"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    assert not np.array_equal(store.open(address)["cta"], before)
    prepare_cohort(one, TARGET, store, workers=1, verify=True)
    np.testing.assert_array_equal(store.open(address)["cta"], before)


def test_vessels_on_the_other_side_are_a_doubt() -> None:
    patient = PreparedPatient("ab12", ("cta",), (), (), {"vessels/asymmetry": 0.8}, 1.0)
    cohort = PreparedCohort({"1": patient}, {})
    assert cohort.prepared["1"].verdict == "prepared"
    assert cohort.with_sides({"1": "left"}) == cohort.with_sides({}) == cohort
    swapped = cohort.with_sides({"1": "right"}).prepared["1"]
    assert swapped.verdict == "review"
    assert "occlusion_side is right" in swapped.doubts[0]


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "prepare.py"
    script.write_text(STUCK)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not psutil.pid_exists(worker):
            return
        time.sleep(0.05)
    raise AssertionError("the worker outlived its parent by 10 s")
