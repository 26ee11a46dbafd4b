"""Reading a volume: a NIfTI file or a DICOM folder, checked before any library may crash on it."""

from __future__ import annotations

from pathlib import Path

from rlvo.errors import RlvoError
from rlvo.imaging.dicom import read_dicom
from rlvo.imaging.nifti import read_nifti
from rlvo.imaging.volume import Volume


def read_volume(path: Path, *, patient: str | None = None) -> Volume:
    """Read `.nii`, `.nii.gz` or a folder with one DICOM series.

    Returns:
        The volume in HU (a mask: in its own values), RAS+, its notes saying what had to be corrected.

    Raises:
        RlvoError: not there, damaged, or not one three-dimensional volume; names patient, file and the mending.
    """
    where = check_exists(path, patient=patient)
    try:
        return read_dicom(path, where) if path.is_dir() else read_nifti(path, where)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise RlvoError(f"cannot be read: {reason}", where=where, fix="Check the path and its permissions") from None
    except MemoryError:
        raise RlvoError(
            "does not fit into memory", where=where, fix="Crop it to the head, or use a larger machine"
        ) from None


def check_exists(path: Path, *, patient: str | None = None) -> str:
    """The words that name patient and path in errors. Raises RlvoError where there is no file or folder to read."""
    where = f"patient {patient}, {path}" if patient is not None else str(path)
    if not path.exists():
        raise RlvoError("no such file or folder", where=where, fix="Correct the path in the cohort table")
    if not (path.is_file() or path.is_dir()):
        raise RlvoError(
            "neither a regular file nor a folder", where=where, fix="Give a .nii, .nii.gz or a DICOM folder"
        )
    return where
