"""Reading a volume: a NIfTI file or a DICOM series, checked before any library may crash on it."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rlvo.errors import RlvoError
from rlvo.imaging.dicom import read_series
from rlvo.imaging.dicom_headers import SUFFIXES, Header, read_header, read_headers
from rlvo.imaging.dicom_series import Role, Series, group, named, pick
from rlvo.imaging.nifti import read_nifti
from rlvo.imaging.volume import Volume


@dataclass(frozen=True)
class Source:
    """Where a volume comes from. Equal where two roles mean the same scan.

    Attributes:
        path: file or folder, resolved.
        series: the DICOM series in it, and what was left out beside it; None for NIfTI.
        uid: SeriesInstanceUID of that series.
        where: patient and path in words, for errors.
        mask: whether it is read as a mask.
    """

    path: Path
    uid: str | None
    where: str = field(compare=False)
    mask: bool = field(compare=False)
    series: Series | None = field(compare=False, repr=False)
    notes: tuple[str, ...] = field(compare=False)


def read_volume(path: Path, *, role: Role = "cta", patient: str | None = None) -> Volume:
    """`locate` and `read`."""
    return read(locate(path, role, patient=patient))


def locate(path: Path, role: Role, *, patient: str | None = None) -> Source:
    """Find the one scan that a path means for a role; of DICOM, the headers are read.

    Args:
        path: `.nii`, `.nii.gz`, a folder with DICOM, an enhanced multi-frame DICOM file, or
            `<folder>#<SeriesInstanceUID>`; a folder's series is picked by the rule of `dicom_series`.

    Raises:
        RlvoError: nothing there, not readable, no scan in it, or several that may be meant.
    """
    where = check_exists(path, patient=patient)
    place, uid = split_series(path)
    with _told(where):
        resolved = place.resolve()
        if place.is_dir():
            series, notes = group(read_headers(place, where), where)
        elif _is_dicom(place):
            series, notes = group(_read_enhanced(place, where), where)
        else:
            return Source(resolved, None, where, role == "vessels", None, ())
        chosen, others = (named(series, uid, where), []) if uid else pick(series, role, where)
        return Source(resolved, chosen.uid, where, role == "vessels", chosen, (*notes, *others))


def read(source: Source) -> Volume:
    """Read a located volume.

    Returns:
        The volume in HU (a mask: in its own values), RAS+; notes say what was corrected, doubts what was guessed.

    Raises:
        RlvoError: damaged, or not one three-dimensional volume; names patient, file and the mending.
    """
    with _told(source.where):
        if source.series is None:
            return read_nifti(source.path, source.where, mask=source.mask)
        volume = read_series(source.series, source.where)
        return Volume(volume.array, volume.affine, (*source.notes, *volume.notes), volume.doubts)


def split_series(path: Path) -> tuple[Path, str | None]:
    """`<folder>#<SeriesInstanceUID>` as its two parts; the path and None without #, or where a file has that name."""
    folder, mark, uid = str(path).rpartition("#")
    if not (folder and mark and uid) or "/" in uid:
        return path, None
    try:
        return (path, None) if path.exists() else (Path(folder), uid)
    except OSError:
        return path, None


def check_exists(path: Path, *, patient: str | None = None) -> str:
    """The words that name patient and path in errors. Raises RlvoError where there is no file or folder to read."""
    where = f"patient {patient}, {path}" if patient is not None else str(path)
    place, uid = split_series(path)
    fix = "Correct the path in the cohort table"
    with _told(where):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise RlvoError("no such file or folder", where=where, fix=fix) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise RlvoError(
            "neither a regular file nor a folder", where=where, fix="Give a .nii, .nii.gz or a DICOM folder"
        )
    if uid and not stat.S_ISDIR(mode):
        raise RlvoError("a series is named, but it is no folder", where=where, fix=fix)
    return where


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM" or file.suffix.lower() in SUFFIXES


def _read_enhanced(file: Path, where: str) -> list[Header]:
    header = read_header(file, where)
    if header is None or header.frames == 1:
        fix = f"Give the folder of the series: {file.parent}"
        raise RlvoError("one DICOM file, which is no volume by itself", where=where, fix=fix)
    return [header]


@contextmanager
def _told(where: str) -> Iterator[None]:
    """What the machine refuses to read, told as an error about the input; pydicom's remarks on odd values are not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise RlvoError(f"cannot be read: {reason}", where=where, fix="Check the path and its permissions") from None
    except MemoryError:
        fix = "Crop it to the head, or use a larger machine"
        raise RlvoError("does not fit into memory", where=where, fix=fix) from None
