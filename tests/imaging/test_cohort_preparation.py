"""A cohort over several processes: resumable, and bad patients do not stop the others."""

import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.volumes import FOCUS, Rows, write_rows

from rlvo.imaging.cluster import prepare_on_cluster
from rlvo.imaging.cohort_preparation import PreparedCohort, PreparedPatient, prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target

TARGET = Target(grid=FOCUS)
STUCK = """
import os, time
from rlvo.imaging.cohort_preparation import worker_pool
with worker_pool(1) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600).result()
"""


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Three sound patients, one with truncated files, one with a missing file, one with nothing."""
    rows = write_rows(tmp_path)
    rows["missing"] = {"ncct": rows["1"]["ncct"], "cta": tmp_path / "none.nii"}
    rows["nothing"] = {"ncct": None, "cta": None, "vessels": None}
    return rows


def test_bad_patients_do_not_stop_others_and_a_second_run_prepares_nothing(rows: Rows, tmp_path: Path) -> None:
    store, steps = VolumeStore(tmp_path / "store"), []
    first = prepare_cohort(rows, TARGET, store, workers=1, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(number, 6) for number in range(1, 7)]
    assert list(first.prepared) == ["1", "2", "3"]
    assert {patient: error.what for patient, error in first.refused.items()} == {
        "cut": "the gzip file is truncated",
        "missing": "no such file or folder",
        "nothing": "neither NCCT nor CTA is given",
    }
    assert all(f"patient {patient}" in str(error) for patient, error in first.refused.items())
    written = {path: path.stat().st_mtime_ns for path in store.path.rglob("*.npy")}
    assert len(written) == 6
    assert prepare_cohort(rows, TARGET, store, workers=1, look_again=True).prepared == first.prepared
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*.npy")} == written


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("where", ["processes", "cluster"])
def test_processes_and_clusters_give_what_one_process_gives(rows: Rows, tmp_path: Path, where: str) -> None:
    alone, together = VolumeStore(tmp_path / "alone"), VolumeStore(tmp_path / "together")
    spread = partial(prepare_on_cluster, address="auto") if where == "cluster" else None
    expected = prepare_cohort(rows, TARGET, alone, workers=1)
    found = prepare_cohort(rows, TARGET, together, workers=2, spread=spread)
    assert list(found.prepared) == ["1", "2", "3"]
    assert [str(error) for error in found.refused.values()] == [str(error) for error in expected.refused.values()]
    for patient, each in expected.prepared.items():
        assert found.prepared[patient] == replace(each, seconds=found.prepared[patient].seconds)
        assert together.verify(each.address)
        for name, volume in alone.read(each.address).volumes.items():
            np.testing.assert_array_equal(volume, together.read(each.address).volumes[name])
    assert not list(together.path.glob(".shared-*"))


def test_a_damaged_entry_is_found_and_prepared_again(rows: Rows, tmp_path: Path) -> None:
    store, one = VolumeStore(tmp_path / "store"), {"1": rows["1"]}
    address = prepare_cohort(one, TARGET, store, workers=1).prepared["1"].address
    before = np.array(store.read(address).volumes["cta"])
    path = store.folder(address) / "cta.npy"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    assert not np.array_equal(store.read(address).volumes["cta"], before)
    prepare_cohort(one, TARGET, store, workers=1)
    np.testing.assert_array_equal(store.read(address).volumes["cta"], before)


def test_an_entry_that_rlvo_did_not_make_is_looked_at(rows: Rows, tmp_path: Path) -> None:
    store, one = VolumeStore(tmp_path / "store"), {"1": rows["1"]}
    first = prepare_cohort(one, TARGET, store, workers=1).prepared["1"]
    sound = store.read(first.address)
    arrays = {name: np.array(volume) for name, volume in sound.volumes.items()}
    for arrays_by_hand in (
        {name: np.zeros_like(array) for name, array in arrays.items()},
        {name: np.asfortranarray(array[:, :, ::-1]) for name, array in arrays.items()},
        {name: array[:-1] for name, array in arrays.items()},
    ):
        store.discard(first.address)
        store.put(first.address, replace(sound, volumes=arrays_by_hand, figures={}), seconds=0)
        again = prepare_cohort(one, TARGET, store, workers=1).prepared["1"]
        assert again.figures == first.figures
        np.testing.assert_array_equal(store.read(first.address).volumes["cta"], arrays["cta"])


def test_a_sound_entry_without_figures_stays_and_is_assessed(rows: Rows, tmp_path: Path) -> None:
    store, one = VolumeStore(tmp_path / "store"), {"1": rows["1"]}
    first = prepare_cohort(one, TARGET, store, workers=1).prepared["1"]
    sound = store.read(first.address)
    store.discard(first.address)
    store.put(first.address, replace(sound, figures={}), seconds=7)
    again = prepare_cohort(one, TARGET, store, workers=1).prepared["1"]
    assert (again.seconds, again.doubts) == (7, ())
    assert again.figures == pytest.approx(first.figures, rel=0.05)  # of the clipped volumes


def test_vessels_on_the_other_side_are_a_doubt() -> None:
    patient = PreparedPatient("ab12", ("cta",), (), (), {"vessels/asymmetry": 0.8}, 1.0)
    cohort = PreparedCohort({"1": patient})
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
