"""One patient, from files to clipped volumes on the grid (section 2.2.1 of the paper)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rlvo.config.base import content_hash
from rlvo.config.grid import Grid
from rlvo.errors import RlvoError
from rlvo.imaging.alignment.on_grid import check_on_grid
from rlvo.imaging.alignment.quality import Assessment, assess
from rlvo.imaging.alignment.registration import REGISTRATION_VERSION, RegisteredScan, register_cta, register_ncct
from rlvo.imaging.alignment.template import atlas_key, load_atlas
from rlvo.imaging.laterality import ASYMMETRY, vessel_asymmetry
from rlvo.imaging.plausibility import check_head_ct
from rlvo.imaging.reading.dicom_series import Role
from rlvo.imaging.reading.source import Source, locate_source, read_source
from rlvo.imaging.resampling import resample_mask_to_grid, resample_to_grid
from rlvo.imaging.target import WINDOWS, Target
from rlvo.imaging.vessel_mask import check_mask, doubt_mask
from rlvo.imaging.vessels import find_vessels, too_coarse
from rlvo.imaging.volume import Volume

PREPARATION_VERSION = 2
"""Increased whenever the same files would give other volumes; stored entries of older versions are prepared again."""

ROLE_NAMES: dict[str, str] = {"ncct": "NCCT", "cta": "CTA", "vessels": "vessel mask"}


@dataclass(frozen=True, eq=False)
class Prepared:
    """One patient's volumes on the grid.

    Attributes:
        volumes: `ncct`, `cta` float16 HU, clipped; `vessels` uint8 0/1; [x, y, z]; only those there are.
        doubts: why a person should look before trusting the patient, in words; no names, dates, UIDs or paths.
        notes: what was done to the volumes, likewise.
        figures: quality, `<volume>/<figure>`.
        transforms: by volume (`ncct`, `cta`), 4×4 RAS mm, atlas point to scan point; identity for one on the grid.
    """

    volumes: Mapping[str, np.ndarray]
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    transforms: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return doubts, then notes."""
        return (*self.doubts, *self.notes)


def preparation_key(target: Target) -> str:
    """Hash everything that prepared volumes depend on except the files."""
    versions = [PREPARATION_VERSION, REGISTRATION_VERSION, atlas_key(target.atlas)]
    windows = [WINDOWS["ncct"], WINDOWS["cta"]]
    return content_hash({"versions": versions, "windows": windows, "grid": target.grid.model_dump(mode="json")})


def prepare(
    target: Target,
    ncct: Path | None,
    cta: Path | None,
    vessels: Path | None,
    *,
    patient: str | None = None,
    threads: int | None = None,
) -> Prepared:
    """Read a patient's scans, register those that are not on the grid yet, check all, resample, clip, and find vessels.

    The CTA is registered to the atlas, the NCCT to the registered CTA (without one, to the atlas). A given vessel mask
    follows the CTA; otherwise vessels are found in the CTA, unless its voxels are too coarse.

    Args:
        ncct, cta, vessels: NIfTI file or DICOM folder in HU; vessels a mask. The same scan given twice is read once.
        threads: for the registration; None: one per core. Results do not depend on it.

    Raises RlvoError if no scan is given, a file is unreadable or not in HU, or a scan clearly does not lie as the atlas
    does.
    """
    given: list[tuple[Role, Path | None]] = [("cta", cta), ("ncct", ncct)]
    sources = {role: locate_source(path, role, patient=patient) for role, path in given if path is not None}
    if not sources:
        where = f"patient {patient}" if patient is not None else None
        raise RlvoError("neither NCCT nor CTA is given", where=where, fix="Fill column ncct or cta")
    roles_of: dict[Source, tuple[Role, ...]] = {}
    for role, source in sources.items():
        roles_of[source] = (role, *roles_of.get(source, ()))  # NCCT before CTA; the CTA's scan comes first
    doubts: list[str] = []
    notes: list[str] = []
    figures: dict[str, float] = {}
    scans: dict[str, RegisteredScan] = {}
    for source, roles in roles_of.items():
        name, scan = " and ".join(ROLE_NAMES[role] for role in roles), read_source(source)
        notes += [f"{name}: {note}" for note in scan.notes]
        doubts += [f"{name}: {doubt}" for doubt in scan.doubts]
        if len(roles) > 1:
            doubts.append("NCCT and CTA are the same scan")
        transform, assessment = _place(scan, source.where, scans.get("cta"), target, threads)
        doubts += [f"{name}: {words}" for words in assessment.doubtful]
        figures |= {f"{role}/{figure}": value for role in roles for figure, value in assessment.figures.items()}
        scans |= dict.fromkeys(roles, RegisteredScan(scan, transform))
    volumes = {role: _clip_on_grid(scan, target.grid, WINDOWS[role]) for role, scan in scans.items()}
    prior = _vessel_prior(vessels, scans, target, patient, threads)
    return Prepared(
        volumes={**volumes, **prior.volumes},
        doubts=(*doubts, *prior.doubts),
        notes=(*notes, *prior.notes),
        figures={**figures, **prior.figures},
        transforms={role: scan.transform for role, scan in scans.items()},
    )


def _place(
    scan: Volume, where: str, cta: RegisteredScan | None, target: Target, threads: int | None
) -> tuple[np.ndarray, Assessment]:
    """Register a scan, to the registered CTA if there is one, unless it lies on the grid; in any case assess it.

    Return the transform (4×4 RAS mm, atlas point to scan point) and how well the scan fits. Raises RlvoError if it does
    not.
    """
    atlas = load_atlas(target.atlas)
    if scan.lies_on(target.grid):
        return np.eye(4), check_on_grid(scan.array, target.grid, atlas, where)
    check_head_ct(scan, where)
    try:
        if cta is not None:
            transform = register_ncct(scan, cta, atlas, threads=threads)
        else:
            transform = register_cta(scan, atlas, threads=threads)
    except RlvoError as error:
        raise RlvoError(error.what, where=where, fix=error.fix) from None
    assessment = assess(scan, transform, atlas, threads=threads)
    if assessment.hopeless:
        what = f"the scan does not register to the atlas: {', '.join(assessment.hopeless)}"
        fix = "Give a head CT in HU; if the patient lay turned by more than 45°, turn it upright, else check its header"
        raise RlvoError(what, where=where, fix=fix)
    return transform, assessment


def check_entry(entry: Prepared, target: Target, *, again: bool = False) -> Prepared:
    """Return an entry of the store with the doubts and figures that looking at its volumes adds.

    Args:
        again: look at volumes on the grid that have been assessed, too. Registered ones have been compared whole.

    Raises RlvoError if these are not volumes that `prepare` could have made.
    """
    doubts, figures = list(entry.doubts), dict(entry.figures)
    for role, array in entry.volumes.items():
        if array.shape != target.grid.shape or array.dtype != (np.uint8 if role == "vessels" else np.float16):
            raise RlvoError(f"{ROLE_NAMES[role]}: not a volume on the grid")
        known = {name for name in ("mutual_information", "likeness") if f"{role}/{name}" in entry.figures}
        if role in WINDOWS and (not known or (again and known == {"likeness"})):
            assessment = check_on_grid(array, target.grid, load_atlas(target.atlas), None)
            doubts += [f"{ROLE_NAMES[role]}: {words}" for words in assessment.doubtful]
            figures |= {f"{role}/{figure}": value for figure, value in assessment.figures.items()}
    return replace(entry, doubts=tuple(dict.fromkeys(doubts)), figures=figures)


def _clip_on_grid(registered: RegisteredScan, grid: Grid, window: tuple[float, float]) -> np.ndarray:
    scan = registered.scan
    hu = scan.array if scan.lies_on(grid) else resample_to_grid(scan, grid, registered.transform)
    return np.ascontiguousarray(np.clip(hu, *window), dtype=np.float16)


def _vessel_prior(
    given: Path | None, scans: Mapping[str, RegisteredScan], target: Target, patient: str | None, threads: int | None
) -> Prepared:
    """Prepare the vessel mask, given or else found in the CTA; doubt a CTA without contrast."""
    grid, cta, found = target.grid, scans.get("cta"), None
    usable = cta is not None and not too_coarse(cta.scan)
    if cta is not None and (not cta.scan.lies_on(grid) or (usable and given is None)):
        ncct = scans.get("ncct")
        plain = ncct if ncct and ncct.scan is not cta.scan else None
        found = find_vessels(cta, plain, load_atlas(target.atlas), threads=threads)
    doubts = ["CTA: it shows no contrast"] if found and not found.contrast else []
    notes: list[str] = []
    volumes = {}
    if given is not None:
        source = locate_source(given, "vessels", patient=patient)
        mask = read_source(source)
        mask = replace(mask, array=(mask.array > 0.5).astype(np.float32))
        followed, name = (cta, "CTA") if cta is not None else (scans["ncct"], "NCCT")
        check_mask(mask, source.where, followed.scan, name)
        on_grid = mask.array if mask.lies_on(grid) else resample_mask_to_grid(mask, grid, followed.transform)
        volumes["vessels"] = np.ascontiguousarray(on_grid, dtype=np.uint8)
        notes += [f"vessel mask: {note}" for note in mask.notes]
        said = list(mask.doubts)
        if not volumes["vessels"].any():
            said.append("it is empty on the grid")
        else:
            said += doubt_mask(mask, followed, name, in_atlas_space=mask.lies_on(grid))
        doubts += [f"vessel mask: {doubt}" for doubt in said]
    elif found and usable:
        volumes["vessels"] = resample_mask_to_grid(found.mask, grid, np.eye(4))
    elif cta is not None:
        notes.append("CTA: too coarse to find vessels in; give a mask if you want the vessel prior")
    figures = {f"vessels/{name}": value for name, value in found.figures.items()} if found else {}
    if "vessels" in volumes and np.isfinite(asymmetry := vessel_asymmetry(volumes["vessels"], grid)):
        figures[ASYMMETRY] = asymmetry
    return Prepared(volumes, tuple(doubts), tuple(notes), figures)
