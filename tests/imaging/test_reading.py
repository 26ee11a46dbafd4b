"""Where a volume comes from: files, folders, series picked by rule or by name, and what is the same scan."""

import os
from pathlib import Path
from typing import Any

import catalogue
import numpy as np
import pytest
from catalogue import EDGES, head, nifti, write_dicom, write_enhanced, write_series

from rlvo.errors import RlvoError
from rlvo.imaging.reading import check_exists, locate, read, read_volume, split_series

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


def test_compressed_slices(tmp_path: Path) -> None:
    import pydicom
    from pydicom.uid import RLELossless

    folder = write_series(tmp_path / "series")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(folder).array, head()[::-1, ::-1])


def test_the_same_scan_is_equal_for_two_roles(tmp_path: Path) -> None:
    path = nifti()(tmp_path)
    (tmp_path / "link.nii").symlink_to(path)
    (tmp_path / "other.nii").write_bytes(path.read_bytes())
    folder = write_series(tmp_path / "series")
    ncct = locate(path, "ncct", patient="1")
    assert ncct == locate(tmp_path / "link.nii", "cta", patient="1")
    assert hash(ncct) == hash(locate(tmp_path / "link.nii", "cta"))
    assert ncct != locate(tmp_path / "other.nii", "ncct")
    assert locate(folder, "ncct") == locate(tmp_path / f"series#{catalogue.SERIES}", "cta")
    assert len({ncct, locate(path, "cta"), locate(folder, "ncct"), locate(folder, "cta")}) == 2
    np.testing.assert_array_equal(read(ncct).array, head()[::-1])


def write_study(folder: Path, **series: dict[str, Any]) -> Path:
    """Series with these elements, told apart by the last number of their UID: 1.2.<number>."""
    for number, (name, elements) in enumerate(series.items(), 1):
        write_series(folder, name, SeriesInstanceUID=f"1.2.{number}", **elements)
    return folder


NATIVE: dict[str, Any] = {"AcquisitionNumber": 1}
ANGIO: dict[str, Any] = {"AcquisitionNumber": 2, "ContrastBolusAgent": "Iomeprol"}
BONE: dict[str, Any] = {"ConvolutionKernel": ["Hr60s", "3"]}
THICK: dict[str, Any] = {"heights": np.arange(0, 180, 10.0)}
SHORT: dict[str, Any] = {"heights": np.arange(0, 60, 5.0)}


@pytest.mark.parametrize(
    ("role", "series", "uid"),
    [
        ("ncct", {"a": NATIVE, "b": ANGIO}, "1.2.1"),
        ("cta", {"a": NATIVE, "b": ANGIO}, "1.2.2"),
        ("vessels", {"a": NATIVE, "b": ANGIO}, "1.2.2"),
        ("cta", {"a": {"SeriesDescription": "Kopf nativ"}, "b": {"SeriesDescription": "CT-Angio_Kopf"}}, "1.2.2"),
        ("ncct", {"a": {"SeriesDescription": "Head W/O contrast"}, "b": {"SeriesDescription": "HEAD"}}, "1.2.1"),
        ("cta", {"thick": ANGIO | THICK, "thin": ANGIO}, "1.2.2"),
        ("cta", {"bone": ANGIO | BONE, "soft but thick": ANGIO | THICK}, "1.2.2"),
        ("cta", {"bone": ANGIO | {"SeriesDescription": "CTA bone"}, "soft": ANGIO}, "1.2.2"),
        ("ncct", {"thin part": NATIVE | SHORT, "whole": NATIVE | THICK}, "1.2.2"),
        ("ncct", {"derived": NATIVE | {"ImageType": ["DERIVED", "SECONDARY"]}, "thick": NATIVE | THICK}, "1.2.2"),
        ("cta", {"MIP": ANGIO | {"SeriesDescription": "CTA MIP thin"}, "thick": ANGIO | THICK}, "1.2.2"),
        ("cta", {"coronal": ANGIO | {"orientation": [[1, 0, 0], [0, 0, -1]]}, "thick": ANGIO | THICK}, "1.2.2"),
        ("ncct", {"perfusion": ANGIO | {"heights": [0, 5, 10, 15] * 10}, "native": ANGIO | THICK}, "1.2.2"),
    ],
)
def test_series_are_picked_by_rule(tmp_path: Path, role: Any, series: dict[str, Any], uid: str) -> None:
    if "coronal" in series:
        pixels = np.zeros((56, 48))
        for number in range(30):
            place = {"position": [0, 5 * number, 0], "pixels": pixels, "SeriesInstanceUID": "1.2.1"}
            (tmp_path / "series").mkdir(exist_ok=True)
            write_dicom(tmp_path / "series" / f"{number}.dcm", **(place | series["coronal"]))
        series = {"none": {"heights": []}, "thick": series["thick"]}
    source = locate(write_study(tmp_path / "series", **series), role)
    assert source.uid == uid
    assert not any(uid in note for note in source.notes)
    assert read(source).doubts == ()


@pytest.mark.parametrize(
    ("role", "series"),
    [
        ("ncct", {"a": {}, "b": THICK}),  # nothing says that they are one scan
        ("cta", {"early": ANGIO, "late": ANGIO | {"AcquisitionNumber": 3}}),
        ("ncct", {"a": NATIVE, "b": NATIVE | {"AcquisitionNumber": 4}, "c": ANGIO}),
        ("cta", {"a": ANGIO, "b": ANGIO}),
    ],
)
def test_series_that_may_be_meant_are_listed(tmp_path: Path, role: Any, series: dict[str, Any]) -> None:
    folder = write_study(tmp_path / "series", **series)
    with pytest.raises(RlvoError, match=r"2 series that may be meant: 1\.2\.1 \(36 slices every 5 mm") as refusal:
        locate(folder, role)
    assert "1.2.2" in str(refusal.value)
    assert "1.2.3" not in str(refusal.value)
    assert locate(folder.with_name("series#1.2.2"), role).uid == "1.2.2"


def test_enhanced_file_keeps_its_geometry(tmp_path: Path) -> None:
    """Frames out of order, each with its own rescale."""
    from pydicom import dcmread

    path = write_enhanced(tmp_path / "ct.dcm")
    dataset = dcmread(path)
    frames = dataset.PerFrameFunctionalGroupsSequence
    for number, frame in enumerate(frames):
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 5.0 * ((7 * number) % len(frames))]
    dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleIntercept = "-3"
    dataset.save_as(path)
    volume = read_volume(path)
    order = [(7 * number) % len(frames) for number in range(len(frames))]
    np.testing.assert_array_equal(volume.array[:, :, order], np.maximum(head()[::-1, ::-1] - 3, -1024))


@pytest.mark.parametrize("delimited", [False, True])
def test_long_headers(tmp_path: Path, delimited: bool) -> None:
    """Per-frame sequences beyond the first bytes that are read, of given length or ended by a delimiter."""
    from pydicom import Dataset, dcmread

    path = write_enhanced(tmp_path / "ct.dcm")
    dataset = dcmread(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        content = Dataset()
        content.FrameComments = "x" * 5000
        frame.FrameContentSequence = [content]
        frame["FrameContentSequence"].is_undefined_length = delimited
        frame.is_undefined_length_sequence_item = delimited
    dataset["PerFrameFunctionalGroupsSequence"].is_undefined_length = delimited
    dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(path).array, head()[::-1, ::-1])


def test_split_series(tmp_path: Path) -> None:
    (tmp_path / "a#1.2").mkdir()
    assert split_series(tmp_path / "a#1.2") == (tmp_path / "a#1.2", None)
    assert split_series(tmp_path / "a#1.2#3.4") == (tmp_path / "a#1.2", "3.4")
    assert split_series(tmp_path / "b#5" / "c.nii") == (tmp_path / "b#5" / "c.nii", None)
    assert split_series(tmp_path / "c") == (tmp_path / "c", None)
    assert check_exists(tmp_path / "a#1.2#3.4", patient="7") == f"patient 7, {tmp_path / 'a#1.2#3.4'}"
    (tmp_path / "ct.nii").write_text("")
    with pytest.raises(RlvoError, match="it is no folder"):
        check_exists(tmp_path / "ct.nii#1.2")
    with pytest.raises(RlvoError, match="no such file"):
        check_exists(tmp_path / "nowhere#1.2")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    path, folder = nifti()(tmp_path), write_series(tmp_path / "series")
    for place in (path, folder / "003.dcm", folder):
        place.chmod(0)
        with pytest.raises(RlvoError, match="cannot be read: permission denied"):
            read_volume(path if place == path else folder)
        place.chmod(0o700)


def test_nothing_of_the_patient_is_kept(tmp_path: Path) -> None:
    elements = {"PatientBirthDate": "19500101", "StudyDate": "20200202", "AccessionNumber": "A77"}
    folder = write_study(tmp_path / "series", a=NATIVE | elements, b=ANGIO | elements | {"PatientName": "Doe^Jane"})
    source = locate(folder, "cta")
    volume = read(source)
    kept = repr([header.elements for header in source.series.headers]) if source.series else ""
    for secret in ("SECRET", "Nobody", "Doe", "19500101", "20200202", "A77"):
        assert secret not in kept
    assert volume.notes == ("picked from 2 series: 36 slices every 5 mm, contrast yes",)
