"""Where a volume comes from: a NIfTI file or a DICOM series, checked before any library may crash on it."""

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rlvo.errors import RlvoError
from rlvo.imaging.reading.dicom import read_series
from rlvo.imaging.reading.dicom_headers import DICOM_SUFFIXES, looks_like_dicom, read_header, read_headers
from rlvo.imaging.reading.dicom_series import Role, Series, find_series, group_series, pick_series
from rlvo.imaging.reading.nifti import read_nifti
from rlvo.imaging.volume import Volume


@dataclass(frozen=True)
class Source:
    """Where a volume comes from. Two sources are equal if they are the same scan, whatever their roles.

    Attributes:
        path: file or folder, resolved.
        uid: SeriesInstanceUID of the DICOM series; None for NIfTI.
        where: patient and path in words, for errors.
        mask: whether it is read as a mask.
        series: the DICOM series; None for NIfTI.
        notes: which series was picked, and what was left out beside it.
    """

    path: Path
    uid: str | None
    where: str = field(compare=False)
    mask: bool = field(compare=False)
    series: Series | None = field(compare=False, repr=False)
    notes: tuple[str, ...] = field(compare=False)


def read_volume(path: Path, *, role: Role = "cta", patient: str | None = None) -> Volume:
    """Locate and read a volume; see `locate_source` and `read_source`."""
    return read_source(locate_source(path, role, patient=patient))


def locate_source(path: Path, role: Role, *, patient: str | None = None) -> Source:
    """Find the one scan to use for a role; of DICOM, only headers are read.

    `path` is a `.nii`, `.nii.gz`, a folder with DICOM, an enhanced multi-frame DICOM file, or
    `<folder>#<SeriesInstanceUID>`; a folder's series is picked by the rule of `dicom_series`.
    Raises RlvoError if the path does not exist, cannot be read, or holds no scan or several candidates.
    """
    where = check_exists(path, patient=patient)
    place, uid = split_series(path)
    with _reading_errors(where):
        resolved = place.resolve()
        if place.is_dir():
            headers = read_headers(place, where)
        elif _is_dicom(place):
            header = read_header(place, where)
            if header is None or header.frames == 1:
                raise RlvoError(
                    "a single DICOM slice is not a volume", fix=f"Give the folder of the series: {place.parent}"
                )
            headers = [header]
        else:
            return Source(resolved, None, where, role == "vessels", None, ())
        series, notes = group_series(headers)
        chosen, others = (find_series(series, uid), []) if uid else pick_series(series, role)
        return Source(resolved, chosen.uid, where, role == "vessels", chosen, (*notes, *others))


def read_source(source: Source) -> Volume:
    """Read a located volume in HU (a mask: in its own values), RAS+, with notes and doubts.

    Raises RlvoError, naming patient and file, if it is damaged or not one three-dimensional volume.
    """
    with _reading_errors(source.where):
        if source.series is None:
            return read_nifti(source.path, mask=source.mask)
        volume = read_series(source.series, source.where)
        return Volume(volume.array, volume.affine, (*source.notes, *volume.notes), volume.doubts)


def split_series(path: Path) -> tuple[Path, str | None]:
    """Split `<folder>#<SeriesInstanceUID>`; the path and None if it has no #, or if a file has that very name."""
    folder, mark, uid = str(path).rpartition("#")
    if not (folder and mark and uid) or "/" in uid:
        return path, None
    try:
        return (path, None) if path.exists() else (Path(folder), uid)
    except OSError:
        return path, None


def check_exists(path: Path, *, patient: str | None = None) -> str:
    """Raise RlvoError if there is no file or folder to read; otherwise return patient and path in words, for errors."""
    where = f"patient {patient}, {path}" if patient is not None else str(path)
    place, uid = split_series(path)
    fix = "Correct the path in the cohort table"
    with _reading_errors(where):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise RlvoError("no such file or folder", fix=fix) from None
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise RlvoError("neither a regular file nor a folder", fix="Give a .nii or .nii.gz file, or a DICOM folder")
        if uid and not stat.S_ISDIR(mode):
            raise RlvoError("a series is named after #, but the path is not a folder", fix=fix)
    return where


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as opened:
        return looks_like_dicom(opened.read(133)) or file.suffix.lower() in DICOM_SUFFIXES


@contextmanager
def _reading_errors(where: str) -> Iterator[None]:
    """Name `where` in errors of the input, what the machine refuses to read included; mute pydicom's warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RlvoError as error:
        raise RlvoError(error.what, where=error.where or where, fix=error.fix) from None
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise RlvoError(f"cannot be read: {reason}", where=where, fix="Check the path and its permissions") from None
    except MemoryError:
        fix = "Crop it to the head, or use a larger machine"
        raise RlvoError("the volume does not fit into memory", where=where, fix=fix) from None
