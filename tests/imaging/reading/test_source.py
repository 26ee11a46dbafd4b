"""Where a volume comes from: files, folders and series, good ones oddly written, and when two are the same scan."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support import catalogue
from support.catalogue import EDGES, head, nifti, write_series

from rlvo.errors import RlvoError
from rlvo.imaging.reading.source import check_exists, locate_source, read_source, read_volume, split_series

GOOD = [name for name, case in catalogue.CASES.items() if case.outcome == "read"]


@pytest.mark.parametrize("name", GOOD)
def test_oddly_written_volumes_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    volume = read_volume(catalogue.CASES[name].build(tmp_path))
    assert (volume.notes, volume.doubts) == ((), ())
    if "DICOM" in name or "series" in name or "folder" in name:  # rows run to the left and back: LPS
        expected, corner = head()[::-1, ::-1], [-4.0 * 47, -4.0 * 55, 0]
    else:  # x runs to the left
        expected, corner = head()[::-1], [-4.0 * 47, 0, 0]
    np.testing.assert_array_equal(volume.array, expected)
    np.testing.assert_allclose(
        volume.affine, np.block([[np.abs(EDGES[:3, :3]), np.c_[corner]], [0, 0, 0, 1]]), atol=1e-6
    )


def test_the_same_scan_is_equal_for_two_roles(tmp_path: Path) -> None:
    path = nifti()(tmp_path)
    (tmp_path / "link.nii").symlink_to(path)
    (tmp_path / "other.nii").write_bytes(path.read_bytes())
    folder = write_series(tmp_path / "series")
    ncct = locate_source(path, "ncct", patient="1")
    assert ncct == locate_source(tmp_path / "link.nii", "cta", patient="1")
    assert hash(ncct) == hash(locate_source(tmp_path / "link.nii", "cta"))
    assert ncct != locate_source(tmp_path / "other.nii", "ncct")
    assert locate_source(folder, "ncct") == locate_source(tmp_path / f"series#{catalogue.SERIES}", "cta")
    assert len({ncct, locate_source(path, "cta"), locate_source(folder, "ncct"), locate_source(folder, "cta")}) == 2
    np.testing.assert_array_equal(read_source(ncct).array, head()[::-1])


def test_split_series(tmp_path: Path) -> None:
    (tmp_path / "a#1.2").mkdir()
    assert split_series(tmp_path / "a#1.2") == (tmp_path / "a#1.2", None)
    assert split_series(tmp_path / "a#1.2#3.4") == (tmp_path / "a#1.2", "3.4")
    assert split_series(tmp_path / "b#5" / "c.nii") == (tmp_path / "b#5" / "c.nii", None)
    assert split_series(tmp_path / "c") == (tmp_path / "c", None)
    assert check_exists(tmp_path / "a#1.2#3.4", patient="7") == f"patient 7, {tmp_path / 'a#1.2#3.4'}"
    (tmp_path / "ct.nii").write_text("")
    with pytest.raises(RlvoError, match="the path is not a folder"):
        check_exists(tmp_path / "ct.nii#1.2")
    with pytest.raises(RlvoError, match="no such file"):
        check_exists(tmp_path / "nowhere#1.2")


@contextmanager
def any_user() -> Iterator[None]:
    """This process as a user without rights of its own, if it is root's: root may read everything."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())


def test_unreadable_paths_are_reported() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)
        path, folder = nifti()(Path(temporary)), write_series(Path(temporary) / "series")
        for place in (path, folder / "003.dcm", folder):
            mode = place.stat().st_mode
            place.chmod(0)
            with any_user(), pytest.raises(RlvoError, match="cannot be read: permission denied"):
                read_volume(path if place == path else folder)
            place.chmod(mode)
