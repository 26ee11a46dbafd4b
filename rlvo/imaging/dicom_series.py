"""The series of a DICOM folder, and the rule that picks the one a role means.

What is no CT slice is left out first: reports, localizers, secondary captures, colour, projections. Of the series with
slices enough for a volume, each line of the rule keeps those it fits, or all where it fits none:

1. one image a position (not perfusion), original (not derived), axial, at least 100 mm long (or among the longest);
2. contrast as the role wants it (a CTA with, an NCCT without), by the contrast elements or the series' description;
3. among reconstructions of one scan: no bone or lung kernel, then the thinnest slices.

Where several are left (two scans, say), they are listed, and the user names one: `<folder>#<SeriesInstanceUID>`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from rlvo.errors import RlvoError
from rlvo.imaging.dicom_headers import DICOM_FAULTS, Header

Role = Literal["ncct", "cta", "vessels"]

MIN_SLICES = 4
MIN_LENGTH_MM = 100.0
SAME_POSITION_MM = 0.01
MAX_LISTED = 12

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PROJECTIONS = {"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "VOLUME_RENDERED", "VRT", "RENDERING"}
PROJECTION_WORDS = re.compile(r"\b(MIP|MINIP|VRT)\b")
WITHOUT_CONTRAST = re.compile(
    r"\b(NCCT|NECT|NATIVE?|NON[ -]?(CON|ENH)\w*|WITHOUT|W/?O|PLAIN|UNENHANCED|OHNE|SANS|SIN)\b|\bC-(?!\w)|(?<=\s)-C\b"
)
WITH_CONTRAST = re.compile(r"\b(CTA|\w*ANGIO\w*|CONTRAST\w*|ARTERIAL|CECT|KM)\b|\bC\+|\+C\b")
SHARP_KERNEL = re.compile(r"BONE|LUNG|EDGE|SHARP|\b[A-Z]{1,2}(5[5-9]|[6-9]\d)[A-Z]?\b|\bFC[358]\d\b")
"""By name, as Siemens number (55 and more) or as Toshiba/Canon number."""


@dataclass(frozen=True, eq=False)
class Series:
    """Files with one SeriesInstanceUID, and what tells them from other series."""

    uid: str
    headers: tuple[Header, ...]

    @cached_property
    def _heights(self) -> np.ndarray:
        """Every image's position along the slice normal, mm, ascending; empty where headers do not give it."""
        try:
            normal = self._normal
            places = {
                (header.elements.get("SOPInstanceUID") or header.path, frame): header.element(
                    "ImagePositionPatient", frame
                )
                for header in self.headers
                for frame in range(header.frames)
            }
            return np.sort(np.array([list(place) for place in places.values()], dtype=float) @ normal)
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
        """Distance between neighbouring slices, mm, to a tenth; NaN where there are none."""
        return round(float(np.median(self._steps)), 1) if len(self._steps) else float("nan")

    @property
    def length(self) -> float:
        """From the first to the last slice, mm."""
        return float(self._steps.sum())

    @property
    def repeats(self) -> bool:
        """Many images at one position: perfusion, or several phases."""
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
        """The exposures it is reconstructed from; where headers do not say, it stands for itself."""
        elements = [header.elements for header in self.headers]
        return {str(each.get("IrradiationEventUID") or each.get("AcquisitionNumber") or self.uid) for each in elements}

    def __str__(self) -> str:
        kernel = ", sharp kernel" if self.sharp else ""
        return f"{self.images} slices every {self.gap:g} mm, contrast {self.contrast}{kernel}"


def image_type(header: Header) -> set[str]:
    """Values of ImageType, in capitals."""
    values = header.elements.get("ImageType") or []
    return {str(value).upper() for value in ([values] if isinstance(values, str) else values)}


def description(header: Header) -> str:
    """The series' description in capitals, its words apart."""
    return str(header.elements.get("SeriesDescription") or "").upper().replace("_", " ")


def group(headers: Sequence[Header], where: str) -> tuple[list[Series], list[str]]:
    """The series of CT slices, and a note on what was left out. Raises RlvoError where there is none."""
    by_uid: dict[str, list[Header]] = {}
    left_out: Counter[str] = Counter()
    for header in headers:
        if kind := _not_a_slice(header):
            left_out[kind] += 1
        else:
            by_uid.setdefault(str(header.elements.get("SeriesInstanceUID")), []).append(header)
    kinds = ", ".join(sorted(left_out))
    if not by_uid:
        what = f"holds no CT slice, only {kinds}" if left_out else "holds no DICOM file"
        raise RlvoError(what, where=where, fix="Give the folder of the axial CT series, or a NIfTI file")
    notes = [f"{left_out.total()} image(s) left out ({kinds})"] if left_out else []
    return [Series(uid, tuple(of_series)) for uid, of_series in by_uid.items()], notes


def _not_a_slice(header: Header) -> str:
    """What a file is that is no CT slice; empty for slices."""
    elements = header.elements
    if not header.pixel_bytes or "SOPClassUID" not in elements:
        return "no image"
    if elements.get("Modality") != "CT":
        modality = str(elements.get("Modality"))
        return f"modality {modality}" if re.fullmatch(r"\w{1,16}", modality) else "unknown modality"
    if "LOCALIZER" in image_type(header):
        return "localizer"
    if str(elements.SOPClassUID).startswith(SECONDARY_CAPTURE):
        return "secondary capture"
    if image_type(header) & PROJECTIONS or PROJECTION_WORDS.search(description(header)):
        return "projection"
    return "colour" if elements.get("SamplesPerPixel", 1) != 1 else ""


def pick(series: Sequence[Series], role: Role, where: str) -> tuple[Series, list[str]]:
    """The one series for a role by the module's rule, and notes on others. Raises RlvoError where several remain."""
    volumes = [each for each in series if each.images >= MIN_SLICES]
    if not volumes:
        largest = max(each.images for each in series)
        fix = f"Give the whole series, at least {MIN_SLICES} slices"
        raise RlvoError(f"only {largest} slice(s) in its largest series", where=where, fix=fix)
    left = volumes
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
    for fits in rules:
        left = [each for each in left if fits(each)] or left
    if all(each.scans & left[0].scans for each in left):
        left = [each for each in left if not each.sharp] or left
        thinnest = min(each.gap for each in left)
        left = [each for each in left if each.gap == thinnest] or left
    if len(left) > 1:
        raise RlvoError(f"{len(left)} series that may be meant: {listing(left)}", where=where, fix=ASK)
    notes = [f"picked from {len(volumes)} series: {left[0]}"] if len(volumes) > 1 else []
    others = sum(each.images for each in series if each not in volumes)
    return left[0], [*notes, *([f"{others} slice(s) of other series left out"] if others else [])]


def named(series: Sequence[Series], uid: str, where: str) -> Series:
    """The series with a SeriesInstanceUID. Raises RlvoError that lists all where there is none."""
    for each in series:
        if each.uid == uid:
            return each
    raise RlvoError(f"no CT series {uid} in it, but {listing(series)}", where=where, fix=ASK)


ASK = "Append # and the SeriesInstanceUID of one to the folder"


def listing(series: Sequence[Series]) -> str:
    """Series in one line, with their UIDs: for the user's terminal only."""
    shown = [f"{' '.join(each.uid.split())} ({each})" for each in series[:MAX_LISTED]]
    more = [f"{len(series) - MAX_LISTED} more"] if len(series) > MAX_LISTED else []
    return "; ".join([*shown, *more])
