"""A cohort over several processes: resumable, and one bad patient stops nobody."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from rlvo.config.grid import PRESETS
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target

FOCUS = PRESETS["focus"]
TARGET = Target(grid=FOCUS)


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
    assert list(first.addresses) == list(first.warnings) == ["1", "2", "3"]
    assert {patient: error.what for patient, error in first.failed.items()} == {
        "cut": "truncated gzip file",
        "missing": "no such file or folder",
        "nothing": "neither NCCT nor CTA given",
    }
    assert all(f"patient {patient}" in str(error) for patient, error in first.failed.items())
    written = {path: path.stat().st_mtime_ns for path in store.path.rglob("*.npy")}
    assert len(written) == 6
    assert prepare_cohort(rows, TARGET, store, workers=1).addresses == first.addresses
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*.npy")} == written


@pytest.mark.slow
def test_processes_give_what_one_process_gives(rows: dict[str, dict[str, Path | None]], tmp_path: Path) -> None:
    alone = prepare_cohort(rows, TARGET, VolumeStore(tmp_path / "alone"), workers=1)
    store = VolumeStore(tmp_path / "together")
    together = prepare_cohort(rows, TARGET, store, workers=2)
    assert together.addresses == alone.addresses
    assert list(together.addresses) == ["1", "2", "3"]
    assert {patient: str(error) for patient, error in together.failed.items()} == {
        patient: str(error) for patient, error in alone.failed.items()
    }
    for address in alone.addresses.values():
        for name, volume in VolumeStore(tmp_path / "alone").open(address).items():
            np.testing.assert_array_equal(volume, store.open(address)[name])
