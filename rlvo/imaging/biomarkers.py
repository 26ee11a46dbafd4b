"""Imaging biomarkers of a large-vessel occlusion, measured in HU before any clipping, in atlas space.

What is known to tell refractory occlusions apart is specific (Rodrigo-Gisbert et al. 2024; Baek et al. 2019): calcium
in the siphon and M1, density and length of the clot, a stump that tapers, filling beyond it, and how the territory
differs from its mirror image. Each is one number per patient, missing with a reason if it cannot be measured. Nothing
here is learned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from rlvo.config.predictors import OwnPredictor
from rlvo.imaging.biomarker_regions import Regions, regions
from rlvo.imaging.stump import measure_stump

PREFIX = "biomarkers."
"""Of the table's columns."""
CALCIUM_HU = 130.0
"""Calcium from here (Agatston et al. 1990)."""
MG_PER_MM3_HU = 0.0008
"""Nominal mass factor at 120 kV; no scanner is calibrated here."""
BONE_MM3 = 1000.0
"""Connected dense voxels of more than this are skull. Calcium within 2 mm of bone is not told from it."""
CONTRAST_HU = 60.0
"""A vessel of the CTA is filled from here on above the brain around it."""
SOFT_HU = (0.0, 80.0)
VESSEL_SD_MM, CLOT_SD_MM, SHARP_SD_MM, AROUND_SD_MM = 0.7, 1.0, 0.4, 4.0
"""SD of the smoothing: of the CTA; of the NCCT when a clot is looked for, and measured; of the brain around a voxel."""
FAINT_HU = 4.0
"""A clot exceeds the brain around it by this, and by three SDs of the smoothed noise."""
HARD_HU = 50.0
"""What exceeds the brain by more is calcium, not clot: clots have 50 to 80 HU."""
CLOT_MM3, LONGEST_MM = 15.0, 60.0
BRIGHTEST = 400
"""So many of a third's brightest voxels (mm³) stand for its branches."""
LEAST_LUMEN_MM3, LEAST_FILLING_HU = 100.0, 20.0
DENSEST, MOST_DENSE_HU = 60, 25.0
"""So many of a side's densest voxels (mm³) tell the sides apart, and what each counts at most."""
COVERED, AIR_HU = 0.8, -500.0
"""A region counts as scanned if this share of it is not air. The sphenoid sinus is within reach of the siphon."""
EVEN = 0.05
"""With less asymmetry than this, no side is named with certainty."""
TOUCHING = np.ones((3, 3, 3))

DECLARED: dict[str, tuple[str, tuple[float, float], str]] = {
    "calcium_mm3": ("mm3", (0, 5000), "calcium near siphon, M1 and proximal M2, both sides"),
    "calcium_mg": ("mg", (0, 5000), "its mass, with a nominal calibration"),
    "calcium_difference_mm3": ("mm3", (-5000, 5000), "its volume on the affected side minus the other"),
    "clot_hu": ("HU", (0, 130), "density of the clot"),
    "clot_excess_hu": ("HU", (0, 100), "by how much the clot is denser than the brain around it"),
    "clot_mm": ("mm", (0, 60), "length of the clot along its course"),
    "taper_mm": ("mm", (0, 20), "over how much of the vessel before the clot the lumen narrows"),
    "collaterals": ("share", (0, 3), "filling of the worst third of the branches, relative to the other side"),
    "deep_filling_hu": ("HU", (-60, 60), "CTA, insula and lentiform nucleus: affected side minus the other"),
    "cortex_filling_hu": ("HU", (-60, 60), "CTA, cortical territory: affected side minus the other"),
    "density_hu": ("HU", (-30, 30), "NCCT, the whole territory: affected side minus the other"),
}
"""Unit, plausible range and meaning of each biomarker."""


@dataclass(frozen=True, eq=False)
class Biomarkers:
    """What was measured in one patient.

    Attributes:
        values: by name (`DECLARED`), NaN if it could not be measured.
        side: `left` or `right`, as the images show it; None if they do not.
        doubts: what was not measured and why, and what to look at, in words.
        calcium, clot, stump: bool [x, y, z] on `biomarker_regions.BOX`, for the picture; None if not found.
    """

    values: Mapping[str, float]
    side: str | None = None
    doubts: tuple[str, ...] = ()
    calcium: np.ndarray | None = field(default=None, repr=False)
    clot: np.ndarray | None = field(default=None, repr=False)
    stump: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Clot:
    """A clot: bool [x, y, z], density in HU, excess over the brain around it in HU, length in mm."""

    mask: np.ndarray
    hu: float
    excess_hu: float
    length_mm: float


@dataclass(frozen=True, eq=False)
class Dense:
    """What is dense in the NCCT, [x, y, z].

    Attributes:
        excess, sharp: HU above the brain around, smoothed to find a clot and to measure it.
        allowed: where a clot may be: in the trunk, without contrast, calcium or bone.
    """

    excess: np.ndarray
    sharp: np.ndarray
    allowed: np.ndarray


def declarations() -> tuple[OwnPredictor, ...]:
    """The biomarkers as a study's own predictors, with the columns of the table as their sources."""
    return tuple(
        OwnPredictor(name=f"biomarkers_{name}", kind="continuous", unit=unit, range=ends, source=f"{PREFIX}{name}")
        for name, (unit, ends, _) in DECLARED.items()
    )


def measure(
    ncct: np.ndarray | None, cta: np.ndarray | None, *, side: str | None = None, site: str | None = None
) -> Biomarkers:
    """Measure all biomarkers of a patient.

    Args:
        ncct, cta: HU, not clipped, [x, y, z] on `biomarker_regions.BOX`; air outside the scan; None if there is none.
        side: of the occlusion, as the table says; None: as the images show it.
        site: TICA, M1 or M2; None: the clot may be anywhere in the trunk.
    """
    where = regions()
    values: dict[str, float] = dict.fromkeys(DECLARED, float("nan"))
    doubts: list[str] = []
    ncct, cta = (_if_covered(scan, name, where, doubts) for scan, name in ((ncct, "NCCT"), (cta, "CTA")))
    plain = ncct if ncct is not None else cta
    if plain is None:
        return Biomarkers(values, None, (*doubts, "nothing was measured"))
    bone, calcium = _bone_and_calcium(plain, where)
    near_bone = ndimage.binary_dilation(bone, iterations=2)
    calcium &= ~near_bone  # slivers of the skull base lie there: 6 mm3 in the sella of a real head
    brain = _brain_around(plain, near_bone, cta)
    filling = None if cta is None else np.where(near_bone, 0, _smooth(cta, VESSEL_SD_MM) - brain)
    if filling is not None and not _has_contrast(filling, where):
        filling = None
        doubts.append("CTA: no contrast in the trunk: clot, filling and collaterals were not measured")
    dense = None if ncct is None else _dense(ncct, brain, near_bone, filling, where)

    seen, asymmetry = _seen_side(filling, dense, where)
    if seen is None or asymmetry < EVEN:
        doubts.append("the images hardly show a side")
    elif filling is None:
        doubts.append(f"only the NCCT's density says that it is the {seen} side")
    elif side is not None and seen != side:
        doubts.append(f"the images show the {seen} side, but occlusion_side is {side}")
    affected = side or seen
    if ncct is not None:
        values |= _calcium_values(ncct, calcium, affected, where)
    else:
        doubts.append("no NCCT: calcium, clot and density were not measured")
    if cta is None:
        doubts.append("no CTA: clot, filling and collaterals were not measured")
    shown = calcium if ncct is not None else None
    if affected is None:
        return Biomarkers(values, None, tuple(doubts), shown)

    own, clot, stump = where.side(affected), None, None
    tissue = _tissue(plain, near_bone, filling)
    if ncct is not None:
        values["density_hu"] = _difference(ncct, tissue & (where.deep | where.cortex), own, doubts, "density_hu")
    if cta is not None and filling is not None:
        for name, region in (("deep_filling_hu", where.deep), ("cortex_filling_hu", where.cortex)):
            values[name] = _difference(cta, tissue & region, own, doubts, name)
        values["collaterals"] = collateral_ratio(filling, own, where)
        if np.isnan(values["collaterals"]):
            doubts.append("collaterals were not measured: hardly any branches on the other side")
        if dense is not None:
            near = where.trunk if site is None else where.parts.get(site, where.trunk)
            clot = find_clot(dense, brain, own, near)
            if clot is None:
                doubts.append("clot was not measured: nothing dense without contrast where the occlusion should be")
            else:
                values |= {"clot_hu": clot.hu, "clot_excess_hu": clot.excess_hu, "clot_mm": clot.length_mm}
                stump = measure_stump(filling, clot.mask, where.trunk & own)
                if stump is None:
                    doubts.append("taper was not measured: the lumen cannot be followed from the carotid to the clot")
                else:
                    values["taper_mm"] = stump.taper_mm
                    if (ndimage.binary_dilation(calcium) & stump.mask).any():
                        doubts.append("calcium in the stump may hide a taper")
    clot_mask, stump_mask = (None if each is None else each.mask for each in (clot, stump))
    return Biomarkers(_plausible(values, doubts), seen, tuple(doubts), shown, clot_mask, stump_mask)


def find_clot(dense: Dense, brain: np.ndarray, own: np.ndarray, near: np.ndarray) -> Clot | None:
    """Find the largest dense tube that passes `near`, its density and its length; None if there is none.

    Its course is followed from one end to the other. The densest point of each millimetre gives a profile: the clot's
    density is its median, and the clot's length is how much of it is above half of that.

    Args:
        dense: the NCCT above the brain around it.
        brain: that brain, HU, [x, y, z].
        own: the affected half.
        near: where the occlusion is, on either side.
    """
    excess, allowed = dense.excess, dense.allowed & own
    near = near & own
    least = max(FAINT_HU, 3 * _noise(excess, brain))
    labels, _ = ndimage.label(allowed & (excess > least), TOUCHING)
    met = np.unique(labels[near & (labels > 0)])
    if not len(met):
        return None
    amount = ndimage.sum_labels(np.clip(excess, 0, MOST_DENSE_HU), labels, met)
    mask = labels == met[np.argmax(amount)]
    mask = _largest(mask & (excess > max(least, 0.5 * np.quantile(excess[mask], 0.7))))
    voxels = np.argwhere(mask)
    if len(voxels) < CLOT_MM3:
        return None
    stretch = np.floor(_course_mm(voxels)).astype(int)
    order = np.lexsort((-excess[mask], stretch))
    ridge = tuple(voxels[order[np.unique(stretch[order], return_index=True)[1]]].T)
    typical = float(np.median(excess[ridge]))
    length = float((excess[ridge] > typical / 2).sum())
    if length > LONGEST_MM:
        return None
    density = np.array([dense.sharp[mask][stretch == each].max() for each in np.unique(stretch)])
    return Clot(mask, float(np.median(density + brain[ridge])), float(np.median(density)), length)


def collateral_ratio(filling: np.ndarray, own: np.ndarray, where: Regions) -> float:
    """Filling of the branches on the affected side relative to the other, of the third in which it is least.

    Of each third the brightest `BRIGHTEST` voxels count. NaN if the other side shows hardly any branches there.

    Args:
        filling: CTA above the brain, HU, [x, y, z], 0 at bone.
        own: the affected half.
    """
    ratios = []
    for third in where.thirds:
        here, there = (float(np.sort(filling[third & half])[-BRIGHTEST:].mean()) for half in (own, ~own))
        if there >= LEAST_FILLING_HU:
            ratios.append(max(here, 0.0) / there)
    return min(ratios, default=float("nan"))


def _if_covered(hu: np.ndarray | None, name: str, where: Regions, doubts: list[str]) -> np.ndarray | None:
    """The scan if it shows the trunk."""
    if hu is not None and (hu[where.trunk] > AIR_HU).mean() < COVERED:
        doubts.append(f"{name}: carotid end and M1 are outside the scan: it was not measured")
        return None
    return hu


def _bone_and_calcium(hu: np.ndarray, where: Regions) -> tuple[np.ndarray, np.ndarray]:
    dense = hu > CALCIUM_HU
    labels, _ = ndimage.label(dense, TOUCHING)
    large = np.bincount(labels.ravel()) > BONE_MM3
    large[0] = False  # what is not dense
    bone = large[labels]
    return bone, dense & ~bone & where.trunk


def _brain_around(hu: np.ndarray, near_bone: np.ndarray, cta: np.ndarray | None) -> np.ndarray:
    """Brain around each voxel: a mean over soft tissue that is neither vessel nor clot, HU."""
    soft = (hu > SOFT_HU[0]) & (hu < SOFT_HU[1]) & ~near_bone
    if cta is not None:
        soft &= cta < SOFT_HU[1] + CONTRAST_HU / 2
    first = _mean_over(hu, soft)
    return _mean_over(hu, soft & (np.abs(_smooth(hu, CLOT_SD_MM) - first) < FAINT_HU))


def _mean_over(hu: np.ndarray, soft: np.ndarray) -> np.ndarray:
    weight = _smooth(soft, AROUND_SD_MM)
    usual = float(np.median(hu[soft])) if soft.any() else 35.0
    total = _smooth(np.where(soft, hu - usual, 0), AROUND_SD_MM)
    return np.asarray(usual + total / np.maximum(weight, 1e-2))


def _has_contrast(filling: np.ndarray, where: Regions) -> bool:
    filled = (filling > CONTRAST_HU) & where.trunk
    return bool(max((filled & where.right).sum(), (filled & where.left).sum()) >= LEAST_LUMEN_MM3)


def _dense(
    ncct: np.ndarray, brain: np.ndarray, near_bone: np.ndarray, filling: np.ndarray | None, where: Regions
) -> Dense:
    hard = near_bone | ndimage.binary_dilation(ncct - brain > HARD_HU, iterations=2)
    above = np.where(hard, 0, ncct - brain)
    allowed = where.trunk & ~hard
    if filling is not None:
        allowed &= filling < CONTRAST_HU
    return Dense(_smooth_over(above, ~hard, CLOT_SD_MM), _smooth_over(above, allowed, SHARP_SD_MM), allowed)


def _seen_side(filling: np.ndarray | None, dense: Dense | None, where: Regions) -> tuple[str | None, float]:
    """The affected side, and how clearly: less is filled there, more is dense, each as a share of both sides."""
    asymmetry, halves = 0.0, (where.right, where.left)
    if filling is not None:
        filled = (filling > CONTRAST_HU) & (where.trunk | np.logical_or.reduce(where.thirds))
        right, left = (float((filled & half).sum()) for half in halves)
        asymmetry += (left - right) / max(left + right, 1.0)
    if dense is not None:
        densest = (np.sort(dense.excess[dense.allowed & half])[-DENSEST:] for half in halves)
        right, left = (float(np.clip(each, 0, MOST_DENSE_HU).sum()) for each in densest)
        asymmetry += (right - left) / max(right + left, 1.0)
    return (None if asymmetry == 0 else "right" if asymmetry > 0 else "left"), abs(asymmetry)


def _calcium_values(hu: np.ndarray, calcium: np.ndarray, affected: str | None, where: Regions) -> dict[str, float]:
    values = {"calcium_mm3": float(calcium.sum()), "calcium_mg": float(hu[calcium].sum()) * MG_PER_MM3_HU}
    if affected is not None:
        own = where.side(affected)
        values["calcium_difference_mm3"] = float((calcium & own).sum()) - float((calcium & ~own).sum())
    return values


def _tissue(hu: np.ndarray, near_bone: np.ndarray, filling: np.ndarray | None) -> np.ndarray:
    soft = (hu > SOFT_HU[0]) & (hu < SOFT_HU[1]) & ~near_bone
    return np.asarray(soft if filling is None else soft & (filling < CONTRAST_HU / 2))


def _difference(hu: np.ndarray, region: np.ndarray, own: np.ndarray, doubts: list[str], name: str) -> float:
    """Mean of the affected side minus that of the other, HU; a tenth of the values at each end does not count."""
    here, there = (np.sort(hu[region & half]) for half in (own, ~own))
    if min(len(here), len(there)) < BRIGHTEST:
        doubts.append(f"{name} not measured: the region is outside the scan")
        return float("nan")
    here, there = (each[len(each) // 10 : len(each) - len(each) // 10] for each in (here, there))
    return float(here.mean() - there.mean())


def _plausible(values: Mapping[str, float], doubts: list[str]) -> dict[str, float]:
    """The values, but for those that no patient can have."""
    kept = dict(values)
    for name, (unit, (low, high), _) in DECLARED.items():
        if not np.isnan(kept[name]) and not low <= kept[name] <= high:
            doubts.append(f"{name} not measured: {kept[name]:.0f} {unit} cannot be")
            kept[name] = float("nan")
    return kept


def _noise(excess: np.ndarray, brain: np.ndarray) -> float:
    """SD of the smoothed NCCT in brain, HU, by the median of deviations."""
    near = excess[(np.abs(excess) < SOFT_HU[1]) & (brain > 20)]
    return 1.4826 * float(np.median(np.abs(near))) if len(near) else 0.0


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(mask, TOUCHING)
    return labels == 1 + int(np.bincount(labels.ravel())[1:].argmax()) if count else mask


def _course_mm(voxels: np.ndarray) -> np.ndarray:
    """Distance of each of the connected voxels [N, 3] of 1 mm from one end, along them: [N] mm."""
    pairs = cKDTree(voxels).query_pairs(1.8, output_type="ndarray")
    steps = np.linalg.norm(voxels[pairs[:, 0]] - voxels[pairs[:, 1]], axis=1)
    graph = csr_array((steps, (pairs[:, 0], pairs[:, 1])), shape=(len(voxels), len(voxels)))
    far = int(dijkstra(graph, directed=False, indices=0).argmax())
    return np.asarray(dijkstra(graph, directed=False, indices=far))


def _smooth_over(values: np.ndarray, use: np.ndarray, sd_mm: float) -> np.ndarray:
    """Smooth over the voxels in `use` alone; 0 elsewhere."""
    share = np.maximum(_smooth(use, sd_mm), 0.1)
    return np.where(use, _smooth(np.where(use, values, 0), sd_mm) / share, 0)


def _smooth(values: np.ndarray, sd_mm: float) -> np.ndarray:
    return np.asarray(ndimage.gaussian_filter(values.astype(np.float32), sd_mm, truncate=3))
