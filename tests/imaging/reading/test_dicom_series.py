"""The rule that picks a folder's series for a role, and what its messages reveal."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.catalogue import write_dicom, write_series

from rlvo.errors import RlvoError
from rlvo.imaging.reading.source import locate_source, read_source


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
        (tmp_path / "series").mkdir()
        for number in range(30):
            place = {"position": [0, 5 * number, 0], "pixels": np.zeros((56, 48)), "SeriesInstanceUID": "1.2.1"}
            write_dicom(tmp_path / "series" / f"{number}.dcm", **(place | series["coronal"]))
        series = {"none": {"heights": []}, "thick": series["thick"]}
    source = locate_source(write_study(tmp_path / "series", **series), role)
    assert source.uid == uid
    assert not any(uid in note for note in source.notes)
    assert read_source(source).doubts == ()


@pytest.mark.parametrize(
    ("role", "series"),
    [
        ("ncct", {"a": {}, "b": THICK}),  # nothing says that they are one scan
        ("cta", {"early": ANGIO, "late": ANGIO | {"AcquisitionNumber": 3}}),
        ("ncct", {"a": NATIVE, "b": NATIVE | {"AcquisitionNumber": 4}, "c": ANGIO}),
        ("cta", {"a": ANGIO, "b": ANGIO}),
    ],
)
def test_several_candidates_are_listed(tmp_path: Path, role: Any, series: dict[str, Any]) -> None:
    folder = write_study(tmp_path / "series", **series)
    with pytest.raises(RlvoError, match=r"2 series to choose from: 1\.2\.1 \(36 slices every 5 mm") as refusal:
        locate_source(folder, role)
    assert "1.2.2" in str(refusal.value)
    assert "1.2.3" not in str(refusal.value)
    assert locate_source(folder.with_name("series#1.2.2"), role).uid == "1.2.2"


def test_nothing_of_the_patient_is_kept(tmp_path: Path) -> None:
    elements = {"PatientBirthDate": "19500101", "StudyDate": "20200202", "AccessionNumber": "A77"}
    folder = write_study(tmp_path / "series", a=NATIVE | elements, b=ANGIO | elements | {"PatientName": "Doe^Jane"})
    source = locate_source(folder, "cta")
    volume = read_source(source)
    kept = repr([header.elements for header in source.series.headers]) if source.series else ""
    for secret in ("SECRET", "Nobody", "Doe", "19500101", "20200202", "A77"):
        assert secret not in kept
    assert volume.notes == ("picked from 2 series: 36 slices every 5 mm, contrast yes",)
