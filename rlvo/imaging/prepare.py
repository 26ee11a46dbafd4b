"""One patient, from files to clipped volumes on the grid (section 2.2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from rlvo.config.base import content_hash
from rlvo.config.grid import Grid
from rlvo.errors import RlvoError
from rlvo.imaging.atlas import Atlas, load_atlas
from rlvo.imaging.intensity import CTA_WINDOW, NCCT_WINDOW, clip_cta, clip_ncct
from rlvo.imaging.plausibility import check_head_ct, has_contrast
from rlvo.imaging.quality import assess
from rlvo.imaging.reading import read_volume
from rlvo.imaging.registration import REGISTRATION_VERSION, register_cta, register_ncct
from rlvo.imaging.resampling import mask_onto_grid, onto_grid
from rlvo.imaging.target import Target
from rlvo.imaging.volume import Volume

PREPARATION_VERSION = 1
"""Raised whenever the same files would give other volumes; stored entries of older versions are then prepared again."""

NAMES = {"ncct": "NCCT", "cta": "CTA", "vessels": "vessel mask"}
MAX_VESSEL_SHARE = 0.3
"""A mask that fills more of its volume is no vessel mask (an intensity image, say)."""
CLIP = {"ncct": clip_ncct, "cta": clip_cta}


@dataclass(frozen=True, eq=False)
class Prepared:
    """One patient's volumes on the grid.

    Attributes:
        volumes: `ncct`, `cta` float16 HU, clipped; `vessels` uint8 0/1; [x, y, z]; a key only where a file was given.
        doubts: why a person should look before the patient is trusted, in words; no names, dates, UIDs or paths.
        notes: what was done to the volumes, in such words.
        figures: quality, `<volume>/<figure>`.
        transforms: by volume (`ncct`, `cta`), 4×4 RAS mm, atlas point to scan point; identity for one on the grid.
    """

    volumes: Mapping[str, np.ndarray]
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    transforms: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def verdict(self) -> Literal["prepared", "review"]:
        """`review` where there is doubt. A `refused` patient has no volumes at all: preparation raises."""
        return "review" if self.doubts else "prepared"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts, then notes."""
        return (*self.doubts, *self.notes)

    @property
    def registered(self) -> bool:
        """Whether a volume had to be registered."""
        return any(not np.array_equal(transform, np.eye(4)) for transform in self.transforms.values())


def preparation_key(target: Target) -> str:
    """Hash of everything but the files that prepared volumes depend on."""
    return content_hash(
        {
            "versions": [PREPARATION_VERSION, REGISTRATION_VERSION, load_atlas(target.atlas).key],
            "windows": [NCCT_WINDOW, CTA_WINDOW],
            "grid": target.grid.model_dump(mode="json"),
        }
    )


def prepare(
    target: Target,
    ncct: Path | None,
    cta: Path | None,
    vessels: Path | None,
    *,
    patient: str | None = None,
    threads: int | None = None,
) -> Prepared:
    """Read, register where a volume does not lie on the grid yet, resample, clip.

    CTA goes to the atlas, NCCT to the registered CTA (without one, to the atlas), the vessel mask with the CTA.

    Args:
        ncct, cta, vessels: NIfTI file or DICOM folder in HU; vessels a mask. The same path twice is read once.
        threads: for the registration; None: one a core. Results do not depend on it.

    Raises:
        RlvoError: nothing given, a file that is unreadable or not in HU, or a registration that plainly failed.
    """
    paths = {role: path for role, path in (("cta", cta), ("ncct", ncct)) if path is not None}
    if not paths:
        raise RlvoError("neither NCCT nor CTA given", where=_where(patient), fix="Fill column ncct or cta")
    grid = target.grid
    volumes: dict[str, np.ndarray] = {}
    doubts: list[str] = []
    notes: list[str] = []
    figures: dict[str, float] = {}
    registered: dict[str, tuple[Volume, np.ndarray]] = {}
    transforms: dict[str, np.ndarray] = {}
    for roles, path in _by_file(paths):
        name, where = " and ".join(NAMES[role] for role in roles), _where(patient, path)
        scan = read_volume(path, patient=patient)
        notes += [f"{name}: {note}" for note in scan.notes]
        doubts += [f"{name}: {doubt}" for doubt in scan.doubts]
        if len(roles) > 1:
            doubts.append("NCCT and CTA are the same scan")
        hu = scan.array
        if not scan.lies_on(grid):
            check_head_ct(scan, where)
            atlas = load_atlas(target.atlas)
            transform = _register(scan, registered.get("cta"), atlas, threads, where)
            assessment = assess(scan, transform, atlas)
            if assessment.hopeless:
                what = f"does not register to the atlas: {', '.join(assessment.hopeless)}"
                raise RlvoError(what, where=where, fix="Give a head CT in HU with the right orientation in its header")
            doubts += [f"{name}: {words}" for words in assessment.doubtful]
            if "cta" in roles and not has_contrast(scan, transform):
                doubts.append("CTA: no contrast seen in it")
            hu = onto_grid(scan, grid, transform)
            for role in roles:
                registered[role] = scan, transform
                figures |= {f"{role}/{figure}": value for figure, value in assessment.figures.items()}
        for role in roles:
            transforms[role] = registered[role][1] if role in registered else np.eye(4)
            volumes[role] = np.ascontiguousarray(CLIP[role](hu), dtype=np.float16)
    if vessels is not None:
        mask = read_volume(vessels, patient=patient)
        followed = registered.get("cta") or registered.get("ncct")
        volumes["vessels"] = _vessels(mask, grid, followed[1] if followed else np.eye(4), _where(patient, vessels))
        notes += [f"vessel mask: {note}" for note in mask.notes]
        doubts += [f"vessel mask: {doubt}" for doubt in mask.doubts]
        if not volumes["vessels"].any():
            doubts.append("vessel mask: empty on the grid")
    return Prepared(volumes, tuple(doubts), tuple(notes), figures, transforms)


def _by_file(paths: Mapping[str, Path]) -> list[tuple[tuple[str, ...], Path]]:
    """Files, each with the roles it is given for; the CTA's first."""
    files: dict[Path, tuple[str, ...]] = {}
    for role, path in paths.items():
        files[path.resolve()] = (*files.get(path.resolve(), ()), role)
    return [(roles[::-1], paths[roles[0]]) for roles in files.values()]


def _register(
    scan: Volume, cta: tuple[Volume, np.ndarray] | None, atlas: Atlas, threads: int | None, where: str | None
) -> np.ndarray:
    """Atlas point to scan point; by way of the registered CTA where there is one."""
    try:
        if cta is None:
            return register_cta(scan, atlas, threads=threads)
        return register_ncct(scan, *cta, atlas, threads=threads)
    except RlvoError as error:
        raise RlvoError(error.what, where=where, fix=error.fix) from None


def _vessels(mask: Volume, grid: Grid, transform: np.ndarray, where: str | None) -> np.ndarray:
    """The mask on the grid, uint8 0/1."""
    mask = Volume((mask.array > 0.5).astype(np.float32), mask.affine)
    if mask.array.mean() > MAX_VESSEL_SHARE:
        fix = "Give a mask that is 1 in vessels and 0 elsewhere"
        raise RlvoError(f"a vessel mask that fills {mask.array.mean():.0%} of its volume", where=where, fix=fix)
    if mask.lies_on(grid):
        return np.ascontiguousarray(mask.array, dtype=np.uint8)
    return np.ascontiguousarray(mask_onto_grid(mask, grid, transform))


def _where(patient: str | None, path: Path | None = None) -> str | None:
    parts = [f"patient {patient}" if patient is not None else "", str(path) if path is not None else ""]
    return ", ".join(part for part in parts if part) or None
