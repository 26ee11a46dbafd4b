"""Whom a series is of reads the same whatever its character set, and only what finds patient and study is read."""

from pathlib import Path

import pytest
from support.catalogue import head, write_dicom

from rlvo.imaging.reading.dicom_identity import read_identity

STUDY = {"StudyInstanceUID": "1.2.3", "PatientID": "4711"}


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        ("ISO_IR 100", "Müller-Lüdenscheidt^Jörg^^Dr."),
        ("ISO_IR 144", "Люкceмбypг^Роза"),
        ("ISO_IR 192", "Žižek^Ивана=張^美麗"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        (None, "Nobody^Nowhere"),
    ],
)
def test_a_name_is_what_it_is_in_every_character_set(tmp_path: Path, characters: object, name: str) -> None:
    values = {"SpecificCharacterSet": characters, "PatientName": name, "AccessionNumber": "A1"} | STUDY
    file = write_dicom(tmp_path / "a.dcm", head()[:, :, 0].T, [0, 0, 0], **values, PatientAddress="At home")
    assert read_identity(file) == {"PatientName": name, "AccessionNumber": "A1"} | STUDY


def test_values_that_dicom_does_not_allow_stay_as_they_are_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    long = "0123456789" * 8
    values = {"PatientID": long, "StudyInstanceUID": "1.2.003", "PatientBirthDate": "around 1950", "PatientName": ""}
    with pytest.warns(UserWarning, match="Invalid value|exceeds"):
        file = write_dicom(tmp_path / "a.dcm", head()[:, :, 0].T, [0, 0, 0], **values)
    assert read_identity(file) == {name: value for name, value in values.items() if value}


def test_a_file_that_is_not_dicom_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x89PNG\r\n" * 50)
    assert read_identity(tmp_path / "a") == {}
