"""Is a registered head where the atlas is? Quality figures, and the limits beyond which they are doubtful or hopeless.

The limits were set on two real heads (a patient's and a template of several), on copies of them with noise, thick
slices, contrast, bleeding, a craniectomy, streaks or a headrest, and on scans that must fail: flipped heads, a
face-and-neck scan, an angiogram without bone, phantoms (balls, cylinders, Shepp-Logan, ellipsoids in a skull). Phantoms
reach a mutual information of 0.66 and a correlation of 0.77, and fit a mirrored atlas equally well (margin at most
1.02). The worst copies that registered well had 0.58 and 0.79, but fitted 1.2 times better than mirrored; those without
a skull base did not (0.95).
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from rlvo.imaging.alignment.atlas import Atlas
from rlvo.imaging.alignment.pyramid import Pyramid, atlas_pyramid, head_pyramid, mirror_pyramid, remap_hu, working_copy
from rlvo.imaging.alignment.registration import nearest_rotation, optimise
from rlvo.imaging.resampling import resample
from rlvo.imaging.volume import Volume

LEVEL_MM = 2.0
BINS = 32
BRAIN_MARGIN_MM = 6.0
"""Brain this far from its surface is still brain if the registration is slightly off."""
BONE_HU = 250.0
SOFT_HU = (0.0, 80.0)
FLIPS = {"front_to_back": (1, -1, 1), "upside_down": (1, 1, -1), "turned_over": (1, -1, -1)}
"""Signs of x, y and z."""
NODS = (-30.0, 0.0, 30.0)
"""Degrees about x: starting angles of the mirrored atlas, about the pose that was found and about the header's."""
MAX_MARGIN = 9.0
"""Larger margins are cut to this; if nothing of the mirrored atlas fits, they would be infinite."""


@dataclass(frozen=True)
class Limit:
    """Outside `good` a figure is a doubt, outside `usable` the volume is refused; `words` say so to the user."""

    good: tuple[float, float]
    usable: tuple[float, float]
    words: str


UPRIGHT = (1.08, 9), (0.90, 9)
AXES = (0.73, 1.31), (0.70, 1.35)
"""Scales along one axis: they may differ from a good size by the square root of a good ratio of axes."""
LIMITS = {
    "mutual_information": Limit((0.74, 9), (0.55, 9), "it hardly resembles the atlas (mutual information {:.2f})"),
    "correlation": Limit((0.80, 1), (0.75, 1), "it hardly resembles the atlas (correlation {:.2f})"),
    "front_to_back": Limit(*UPRIGHT, "it may be mirrored front to back (fits {:.2f} times as well as mirrored)"),
    "upside_down": Limit(*UPRIGHT, "it may be upside down (fits {:.2f} times as well as turned over)"),
    "turned_over": Limit(*UPRIGHT, "it may be upside down and face down (fits {:.2f} times as well as turned)"),
    "coverage": Limit((0.95, 1), (0.60, 1), "the scan covers {:.0%} of the brain"),
    "soft_tissue": Limit((0.80, 1), (0.60, 1), "{:.0%} of the brain has HU of soft tissue"),
    "brain_hu": Limit((20, 70), (10, 110), "the median of the brain is {:.0f} HU"),
    "skull": Limit((0.75, 1), (0.50, 1), "only {:.0%} of the skull shows bone"),
    "scale": Limit((0.80, 1.20), (0.70, 1.35), "the head is scaled by {:.2f} to fit the atlas"),
    "smallest_scale": Limit(*AXES, "the head is scaled by {:.2f} to fit the atlas"),
    "largest_scale": Limit(*AXES, "the head is scaled by {:.2f} to fit the atlas"),
    "anisotropy": Limit((1, 1.20), (1, 1.50), "the head is stretched by {:.2f} to fit the atlas"),
    "rotation": Limit((0, 45), (0, 60), "the head is rotated by {:.0f}° against the orientation in the header"),
}
"""By figure. `mutual_information` (nats, 32 bins) and `correlation`: of the remapped HU over the atlas region.
`front_to_back`, `upside_down`, `turned_over`: how many times better the atlas fits than when mirrored (`flip_margins`).
`coverage`: share of the atlas brain inside the scan. `soft_tissue`: share of the inner brain at 0–80 HU; `brain_hu`:
its median. `skull`: share of the atlas skull with bone within 2 mm. Scales: singular values of the transform, scan mm
per atlas mm; `scale`: their geometric mean, the size of the head, whose shape `anisotropy`, their greatest ratio, is
about; `rotation`: degrees. Inside the skull, adults have 1,385 ± 135 ml (doi:10.1007/s00276-010-0650-4), and the atlas
has 1,887 ml: three SD below the mean is a `scale` of .80."""

LOOKS_LIKE_A_HEAD = 0.70
"""With less mutual information, a volume must also fit clearly worse when mirrored: phantoms reach 0.66 both ways."""


@dataclass(frozen=True)
class Assessment:
    """Figures by name (see `LIMITS`); in words, those that are doubtful and those that make the volume unusable."""

    figures: dict[str, float]
    doubtful: tuple[str, ...]
    hopeless: tuple[str, ...]


def assess(volume: Volume, transform: np.ndarray, atlas: Atlas, *, threads: int | None = None) -> Assessment:
    """Compare a registered scan (`transform`: 4×4 RAS, atlas point to scan point) with the atlas at 2 mm.

    Results do not depend on `threads` (None: one per core). Raises RlvoError if there is no head in the volume.
    """
    level = atlas_pyramid(atlas).levels[LEVEL_MM]
    hu = resample(working_copy(volume), level.values.affine, level.valid.shape, transform, outside=float("nan")).array
    margins = flip_margins(atlas_pyramid(atlas), head_pyramid(volume), transform, threads=threads)
    figures = _measure_appearance(hu, atlas) | measure_geometry(transform) | margins
    upright = all(figures[flip] >= LIMITS[flip].good[0] for flip in FLIPS)
    information = LIMITS["mutual_information"]
    if not upright:
        information = replace(information, usable=(LOOKS_LIKE_A_HEAD, information.usable[1]))
    return Assessment(figures, *judge(figures, LIMITS | {"mutual_information": information}))


def judge(figures: Mapping[str, float], limits: Mapping[str, Limit]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Say, in words, which figures are doubtful, and which make the volume unusable."""
    doubtful, hopeless = [], []
    for name, limit in limits.items():
        if name in figures and not limit.usable[0] <= figures[name] <= limit.usable[1]:
            hopeless.append(limit.words.format(figures[name]))
        elif name in figures and not limit.good[0] <= figures[name] <= limit.good[1]:
            doubtful.append(limit.words.format(figures[name]))
    return tuple(dict.fromkeys(doubtful)), tuple(dict.fromkeys(hopeless))


def flip_margins(
    atlas: Pyramid, scan: Pyramid, transform: np.ndarray, *, threads: int | None = None
) -> dict[str, float]:
    """Divide the mutual information of scan and atlas by that of scan and mirrored atlas, by flip; 0 without overlap.

    Both after affine registration at 4 mm: after a rigid one a head's outline fits front to back nearly as well. Since
    the two sides of a head look alike, a mirrored atlas also stands for a turned one, and left and right are not told.
    """
    found = transform[:3, :3] @ atlas.centre + transform[:3, 3], nearest_rotation(transform[:3, :3])
    nods = [Rotation.from_euler("x", degrees, degrees=True).as_matrix() for degrees in NODS]
    poses = [(centre, turn @ nod) for centre, turn in (found, (scan.centre, np.eye(3))) for nod in nods]

    def mirrored_fit(signs: Sequence[int]) -> float:
        mirrored = mirror_pyramid(atlas, signs)
        starts = [_rigid_transform(mirrored.centre, *pose) for pose in poses]
        rigid = [optimise(mirrored, scan, 8.0, "rigid", start) for start in starts]
        best = max((each for each in rigid if each), key=lambda each: each.information, default=None)
        return _fit(mirrored, scan, best.transform) if best else 0.0

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        upright = pool.submit(_fit, atlas, scan, transform)
        mirrored = pool.map(mirrored_fit, FLIPS.values())
        fits = dict(zip(FLIPS, mirrored, strict=True))
        return {flip: min(MAX_MARGIN, upright.result() / max(fit, 1e-6)) for flip, fit in fits.items()}


def _fit(fixed: Pyramid, scan: Pyramid, start: np.ndarray) -> float:
    """Return mutual information (nats) after affine registration from `start`; 0 without overlap."""
    found = optimise(fixed, scan, 4.0, "affine", start)
    return found.information if found else 0.0


def _rigid_transform(centre: np.ndarray, to: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return the rigid transform with this rotation that takes `centre` to `to`."""
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = to - rotation @ centre
    return transform


def _measure_appearance(hu: np.ndarray, atlas: Atlas) -> dict[str, float]:
    """Compute figures from HU at 2 mm on the atlas frame, NaN outside the scan."""
    level = atlas_pyramid(atlas).levels[LEVEL_MM]
    inside = np.isfinite(hu)
    brain = atlas.brain[::2, ::2, ::2]  # one of the eight 1 mm voxels in each 2 mm voxel
    inner = inside & ndimage.binary_erosion(brain, iterations=round(BRAIN_MARGIN_MM / LEVEL_MM))
    skull = inside & level.valid & (atlas.head.array[::2, ::2, ::2] > 400)
    compared = inside & level.valid
    if not (inner.any() and skull.any()):
        return {"coverage": float(inside[brain].mean())} | dict.fromkeys(
            ("mutual_information", "correlation", "soft_tissue", "brain_hu", "skull"), 0.0
        )
    expected, found = level.values.array[compared], remap_hu(hu[compared])
    near_bone = ndimage.maximum_filter(np.where(inside, hu, -np.inf), 3) > BONE_HU
    return {
        "mutual_information": mutual_information(expected, found),
        "correlation": float(np.corrcoef(expected, found)[0, 1]) if np.ptp(found) > 0 else 0.0,
        "coverage": float(inside[brain].mean()),
        "soft_tissue": float(((hu[inner] > SOFT_HU[0]) & (hu[inner] < SOFT_HU[1])).mean()),
        "brain_hu": float(np.median(hu[inner])),
        "skull": float(near_bone[skull].mean()),
    }


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Compute mutual information (nats) of paired values 0–1, in 32 bins each."""
    joint = np.histogram2d(a, b, BINS, [[0, 1], [0, 1]])[0] / len(a)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / independent[filled])).sum())


def measure_geometry(transform: np.ndarray) -> dict[str, float]:
    """Return the figures of a transform (4×4 RAS mm, atlas point to scan point) that need no image."""
    scales = np.linalg.svd(transform[:3, :3], compute_uv=False)
    cosine = (np.trace(nearest_rotation(transform[:3, :3])) - 1) / 2
    return {
        "scale": float(scales.prod() ** (1 / 3)),
        "smallest_scale": float(scales[-1]),
        "largest_scale": float(scales[0]),
        "anisotropy": float(scales[0] / scales[-1]),
        "rotation": float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))),
    }
