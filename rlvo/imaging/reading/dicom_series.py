"""The series of a DICOM folder, and the rule that picks the one to use for a role.

Files that are not CT slices are left out first: reports, localizers, secondary captures, colour, projections. Among the
series with enough slices for a volume, each criterion in turn keeps those that meet it, or all if none does:

1. one image per position (not perfusion), original (not derived), axial, at least 100 mm long (or among the longest);
2. contrast as the role needs it (with for a CTA, without for an NCCT), by contrast elements or series description;
3. among reconstructions of one scan: no bone or lung kernel, then the thinnest slices.

If several remain (two scans, for example), they are listed, and the user names one: `<folder>#<SeriesInstanceUID>`.
Errors about a folder do not name it; `rlvo.imaging.reading.source` does.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from rlvo.errors import RlvoError
from rlvo.imaging.reading.dicom_headers import CT_CLASSES, DICOM_FAULTS, Header

Role = Literal["ncct", "cta", "vessels"]

MIN_SLICES = 4
MIN_LENGTH_MM = 100.0
SAME_POSITION_MM = 0.01
MAX_LISTED = 12
NAME_ONE = "Append # and the SeriesInstanceUID of one to the folder"

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PROJECTIONS = {"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "VOLUME_RENDERED", "VRT", "RENDERING"}
PROJECTION_WORDS = re.compile(
    r"\b(T|3D|AX|COR|SAG|THIN|THICK)?(MIPS?|MINIPS?|MAX ?IPS?|MIN ?IPS?|VRTS?)(\d+ ?(MM)?)?\b"
)
WITHOUT_CONTRAST = re.compile(
    r"\b(NCCT|NECT|NATIVE?|NON[ -]?(CON|ENH)\w*|WITHOUT|W/?O|PLAIN|UNENHANCED|OHNE|SANS|SIN)\b|\bC-(?!\w)|(?<=\s)-C\b"
)
WITH_CONTRAST = re.compile(r"\b(CTA|\w*ANGIO\w*|CONTRAST\w*|ARTERIAL|CECT|KM)\b|\bC\+|\+C\b")
SHARP_KERNEL = re.compile(r"BONE|LUNG|EDGE|SHARP|\b[A-Z]{1,2}(5[5-9]|[6-9]\d)[A-Z]?\b|\bFC[358]\d\b")
"""By name, by Siemens number (55 and above) or by Toshiba/Canon number."""


@dataclass(frozen=True, eq=False)
class Series:
    """Files with one SeriesInstanceUID, and what distinguishes them from other series."""

    uid: str
    headers: tuple[Header, ...]

    @cached_property
    def _heights(self) -> np.ndarray:
        """Position of every image along the slice normal, mm, ascending; empty if headers do not give it."""
        try:
            positions = {}
            for header in self.headers:
                image = header.elements.get("SOPInstanceUID") or header.path
                for frame in range(header.frames):
                    positions[image, frame] = list(header.element("ImagePositionPatient", frame))
            return np.sort(np.array(list(positions.values()), dtype=float) @ self._normal)
        except DICOM_FAULTS:
            return np.empty(0)

    @property
    def _normal(self) -> np.ndarray:
        row, column = np.array(self.headers[0].element("ImageOrientationPatient"), dtype=float).reshape(2, 3)
        return np.cross(row, column)

    @cached_property
    def _steps(self) -> np.ndarray:
        steps = np.diff(self._heights)
        return steps[steps > SAME_POSITION_MM]

    @property
    def images(self) -> int:
        return sum(header.frames for header in self.headers)

    @property
    def gap(self) -> float:
        """Median distance between neighbouring slices, mm, to a tenth; NaN if there are none."""
        return round(float(np.median(self._steps)), 1) if len(self._steps) else float("nan")

    @property
    def length(self) -> float:
        """Distance from the first to the last slice, mm."""
        return float(self._steps.sum())

    @property
    def repeats(self) -> bool:
        """Whether positions have many images each: perfusion, or several phases."""
        return len(self._heights) > 1.5 * (len(self._steps) + 1)

    @property
    def axial(self) -> bool:
        return len(self._heights) > 0 and abs(self._normal[2]) > 0.7

    @property
    def derived(self) -> bool:
        return "DERIVED" in image_type(self.headers[0])

    @property
    def sharp(self) -> bool:
        kernel = str(self.headers[0].elements.get("ConvolutionKernel") or "").upper()
        return bool(SHARP_KERNEL.search(f"{kernel} {description(self.headers[0])}"))

    @property
    def contrast(self) -> Literal["yes", "no", "unknown"]:
        elements, words = self.headers[0].elements, description(self.headers[0])
        agent = str(elements.get("ContrastBolusAgent") or "").strip().upper()
        if WITHOUT_CONTRAST.search(words) or agent in ("NONE", "NO"):
            return "no"
        given = agent or elements.get("ContrastBolusVolume") or elements.get("ContrastBolusRoute")
        return "yes" if given or WITH_CONTRAST.search(words) else "unknown"

    @property
    def scans(self) -> set[str]:
        """Ids of the exposures it is reconstructed from; its own UID if headers do not say."""
        elements = [header.elements for header in self.headers]
        return {str(each.get("IrradiationEventUID") or each.get("AcquisitionNumber") or self.uid) for each in elements}

    def __str__(self) -> str:
        kernel = ", sharp kernel" if self.sharp else ""
        return f"{self.images} slices every {self.gap:g} mm, contrast {self.contrast}{kernel}"


def image_type(header: Header) -> set[str]:
    """Return the values of ImageType, in capitals."""
    values = header.elements.get("ImageType") or []
    return {str(value).upper() for value in ([values] if isinstance(values, str) else values)}


def description(header: Header) -> str:
    """Return the series description in capitals, its words separated by spaces."""
    return str(header.elements.get("SeriesDescription") or "").upper().replace("_", " ")


def group_series(headers: Sequence[Header]) -> tuple[list[Series], list[str]]:
    """Return the series of CT slices, and a note on what was left out. Raises RlvoError if there are none."""
    by_uid: dict[str, list[Header]] = {}
    left_out: Counter[str] = Counter()
    for header in headers:
        if kind := _not_a_slice(header):
            left_out[kind] += 1
        else:
            by_uid.setdefault(str(header.elements.get("SeriesInstanceUID")), []).append(header)
    kinds = ", ".join(sorted(left_out))
    if not by_uid:
        what = f"there is no CT slice in it, only {kinds}" if left_out else "there is no DICOM file in it"
        raise RlvoError(what, fix="Give the folder of the axial CT series, or a NIfTI file")
    notes = [f"{left_out.total()} image(s) left out ({kinds})"] if left_out else []
    series = []
    for uid, of_series in by_uid.items():
        slices = _without_scouts(of_series)
        notes += [f"{scouts} scout(s) among the slices left out"] if (scouts := len(of_series) - len(slices)) else []
        series.append(Series(uid, tuple(slices)))
    return series, notes


def _without_scouts(headers: list[Header]) -> list[Header]:
    """Leave out the few images of a series that lie across most of the others: scouts that are not labelled as such."""
    try:
        axes = np.array([header.element("ImageOrientationPatient") for header in headers], dtype=float)
        normals = np.cross(*np.moveaxis(axes.reshape(-1, 2, 3), 1, 0))
    except DICOM_FAULTS:
        return headers
    if not np.isfinite(normals).all():
        return headers
    alike = np.abs(normals @ normals.T) > 0.5
    main = alike[alike.sum(axis=1).argmax()]
    few = len(headers) - main.sum() < min(MIN_SLICES, main.sum())
    return [header for header, kept in zip(headers, main, strict=True) if kept or not few]


def _not_a_slice(header: Header) -> str:
    """Say what a file is instead of a CT slice; empty for CT slices."""
    elements = header.elements
    kind = str(elements.get("SOPClassUID") or "")
    modality = str(elements.get("Modality") or ("CT" if kind in CT_CLASSES else None))
    if not header.pixel_bytes or not (kind or modality == "CT"):
        return "no image"
    if modality != "CT":
        return f"modality {modality}" if re.fullmatch(r"\w{1,16}", modality) else "unknown modality"
    if "LOCALIZER" in image_type(header):
        return "localizer"
    if kind.startswith(SECONDARY_CAPTURE):
        return "secondary capture"
    words = " ".join([*image_type(header), description(header)])
    if image_type(header) & PROJECTIONS or PROJECTION_WORDS.search(words):
        return "projection"
    return "colour" if elements.get("SamplesPerPixel", 1) != 1 else ""


def pick_series(series: Sequence[Series], role: Role) -> tuple[Series, list[str]]:
    """Pick the series for a role by the module's rule; also notes on others. Raises RlvoError if several remain."""
    volumes = [each for each in series if each.images >= MIN_SLICES]
    if not volumes:
        largest = max(each.images for each in series)
        what = f"its largest series has only {largest} slice(s)"
        raise RlvoError(what, fix=f"Give the whole series, at least {MIN_SLICES} slices")
    longest = max(each.length for each in volumes)
    wanted, unwanted = ("no", "yes") if role == "ncct" else ("yes", "no")
    rules: list[Callable[[Series], bool]] = [
        lambda each: not each.repeats,
        lambda each: not each.derived,
        lambda each: each.axial,
        lambda each: each.length >= min(MIN_LENGTH_MM, 0.9 * longest),
        lambda each: each.contrast != unwanted,
        lambda each: each.contrast == wanted,
    ]
    left = volumes
    for fits in rules:
        left = [each for each in left if fits(each)] or left
    if all(each.scans & left[0].scans for each in left):
        left = [each for each in left if not each.sharp] or left
        thinnest = min(each.gap for each in left)
        left = [each for each in left if each.gap == thinnest] or left
    if len(left) > 1:
        raise RlvoError(f"there are {len(left)} series to choose from: {_format_series(left)}", fix=NAME_ONE)
    notes = [f"picked from {len(volumes)} series: {left[0]}"] if len(volumes) > 1 else []
    others = sum(each.images for each in series if each not in volumes)
    return left[0], [*notes, *([f"{others} slice(s) of other series left out"] if others else [])]


def find_series(series: Sequence[Series], uid: str) -> Series:
    """Return the series with a SeriesInstanceUID. Raises RlvoError, listing all, if there is none."""
    for each in series:
        if each.uid == uid:
            return each
    raise RlvoError(f"it has no CT series {uid}, only {_format_series(series)}", fix=NAME_ONE)


def _format_series(series: Sequence[Series]) -> str:
    """Format series in one line, with their UIDs: for the user's terminal only."""
    shown = [f"{' '.join(each.uid.split())} ({each})" for each in series[:MAX_LISTED]]
    more = [f"{len(series) - MAX_LISTED} more"] if len(series) > MAX_LISTED else []
    return "; ".join([*shown, *more])
