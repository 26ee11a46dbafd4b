"""One patient's phantom in the atlas frame: NCCT, CTA and vessel mask.

Tissues are ellipsoids, vessels are a tree. A patient's two latents show in the images: z_cta lengthens the taper before
the occlusion and increases collateral filling and the territory's blush; z_ncct makes the clot less dense and the
plaque before it larger.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from scipy.spatial.transform import Rotation

from rlvo.cohort.variables import VOLUMES
from rlvo.config.grid import Grid
from rlvo.imaging.volume import write_on_grid
from rlvo.synthetic.rasterise import cross_sections, ellipsoid, grid_axes, splat
from rlvo.synthetic.vessels import PLAQUE_MM, TRUNK, Lesion, OccludedTree, collateral_filling, draw_tree, occlude

HEAD_CENTRE = np.array([0.0, -18.0, 8.0])
AIR_HU, LUMEN_HU, VESSEL_HU = -1000.0, 315.0, 5.0
TISSUES = (
    ((0, -18, 8), (74, 91, 72), 900.0),  # skull
    ((0, -18, 8), (68, 85, 66), 38.0),  # brain
    ((0, -22, 12), (46, 60, 42), 29.0),  # deep grey
    ((11, -24, 18), (6, 26, 10), 16.0),  # ventricles
    ((-11, -24, 18), (6, 26, 10), 16.0),
)
"""Centre and radii (RAS mm) and HU of ellipsoids, each painted over those before it."""
TERRITORY = ((44, 0, 16), (22, 38, 28))
NOISE_HU = {"ncct": 2.0, "cta": 6.0}
PLAIN_COLLATERAL = 0.25
"""Collateral filling of every patient without `full_images`."""


@dataclass(frozen=True)
class PhantomVolumes:
    """A patient's volumes on the grid: `ncct` and `cta` in HU (int16), `vessels` 0/1 (uint8)."""

    ncct: np.ndarray
    cta: np.ndarray
    vessels: np.ndarray


@dataclass(frozen=True)
class Misregistration:
    """The residual error of registration to the atlas: patient = centre + matrix (atlas − centre) + shift, in mm."""

    matrix: np.ndarray
    shift: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """Draw rotation, scale and shift, with SDs of 1.5°, 2 % and 1.5 mm per axis."""
        rotation = Rotation.from_euler("xyz", rng.normal(0, 1.5, 3), degrees=True).as_matrix()
        return cls(rotation @ np.diag(rng.normal(1, 0.02, 3)), rng.normal(0, 1.5, 3))

    def to_patient(self, atlas: np.ndarray) -> np.ndarray:
        """[N, 3] atlas mm to patient mm."""
        return np.asarray(HEAD_CENTRE + (atlas - HEAD_CENTRE) @ self.matrix.T + self.shift)

    def atlas_coordinates(self, grid: Grid) -> list[np.ndarray]:
        """x, y and z of the grid's voxels in atlas mm, each [x, y, z]."""
        inverse = np.linalg.inv(self.matrix)
        axes = [axis - offset for axis, offset in zip(grid_axes(grid), HEAD_CENTRE + self.shift, strict=True)]
        rows = zip(inverse.astype(np.float32), HEAD_CENTRE.astype(np.float32), strict=True)
        return [row[0] * axes[0] + row[1] * axes[1] + row[2] * axes[2] + centre for row, centre in rows]


def make_phantom(lesion: Lesion, grid: Grid, rng: np.random.Generator, *, full_images: bool) -> PhantomVolumes:
    """Draw a patient's volumes. Without `full_images`, only taper and clot density depend on the latents."""
    collateral = _collateral(lesion, full_images)
    frame, tree = _draw_vessels(lesion, grid, rng, collateral)
    plaque_mm3 = 20 * np.exp(0.8 * lesion.z_ncct) if full_images else 0.0

    coordinates = frame.atlas_coordinates(grid)
    tissue = _tissue(grid, coordinates)
    lumen, opacified, vessels_hu = _vessels(grid, frame, tree, lesion, plaque_mm3)
    blush = 12 * (collateral - 1) * (0.6 if lesion.site == "M2" else 1.0)
    (x, y, z), radii = TERRITORY
    territory = ellipsoid(grid, coordinates, (x if lesion.side == "right" else -x, y, z), radii)
    return PhantomVolumes(
        ncct=_scan(tissue + vessels_hu, NOISE_HU["ncct"], rng),
        cta=_scan(tissue + LUMEN_HU * lumen + blush * territory, NOISE_HU["cta"], rng),
        vessels=(opacified >= 0.03).astype(np.uint8),
    )


def occlusion_point(lesion: Lesion, grid: Grid, rng: np.random.Generator, *, full_images: bool) -> np.ndarray:
    """Where contrast ends in the patient that `make_phantom` draws from the same arguments: [3] RAS mm."""
    frame, tree = _draw_vessels(lesion, grid, rng, _collateral(lesion, full_images))
    first = int(np.argmin(np.where(tree.clot, tree.beyond, np.inf)))
    return np.asarray(frame.to_patient(tree.tree.position[[first]])[0])


def _draw_vessels(
    lesion: Lesion, grid: Grid, rng: np.random.Generator, collateral: float
) -> tuple[Misregistration, OccludedTree]:
    frame = Misregistration.draw(rng)
    return frame, occlude(draw_tree(min(grid.spacing) / 4, rng), lesion, collateral, rng)


def _collateral(lesion: Lesion, full_images: bool) -> float:
    return collateral_filling(lesion.z_cta) if full_images else PLAIN_COLLATERAL


def _scan(hu: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    noisy = hu + noise * rng.standard_normal(hu.shape, dtype=np.float32)
    return np.asarray(np.rint(np.maximum(noisy, -1024)), dtype=np.int16)  # as scanners store it


def _vessels(grid: Grid, frame: Misregistration, tree: OccludedTree, lesion: Lesion, plaque_mm3: float) -> np.ndarray:
    """[3, x, y, z]: lumen (fraction × contrast), fraction of lumen with visible contrast, NCCT of vessels (HU)."""
    points, full = tree.tree, np.pi * tree.tree.radius**2 * tree.tree.step
    lumen = full * tree.lumen**2
    clot_hu = np.clip(55 - 7 * lesion.z_ncct, 36, 90) - 35
    plaque = (tree.beyond < 0) & (tree.beyond >= -PLAQUE_MM) & np.isin(points.segment, TRUNK)
    ncct = full * np.where(tree.clot, clot_hu, VESSEL_HU) + 400 * plaque_mm3 * plaque / plaque.sum()
    position, copies = cross_sections(points.position, points.tangent, points.radius, min(grid.spacing))
    volume = np.stack([lumen * tree.contrast, lumen * (tree.contrast > 0.35), ncct]) / copies
    return splat(grid, frame.to_patient(position), np.repeat(volume, copies, axis=1))


def _tissue(grid: Grid, coordinates: list[np.ndarray]) -> np.ndarray:
    hu = np.full(grid.shape, AIR_HU, np.float32)
    for centre, radii, value in TISSUES:
        hu += ellipsoid(grid, coordinates, centre, radii) * (value - hu)
    return hu


def write_phantom(folder: Path, lesion: Lesion, seed: np.random.SeedSequence, *, grid: Grid, full_images: bool) -> None:
    """Draw a patient's volumes and write `<name>.nii.gz` for each of `VOLUMES` into `folder`."""
    phantom = make_phantom(lesion, grid, np.random.default_rng(seed), full_images=full_images)
    for name in VOLUMES:
        write_on_grid(folder / f"{name}.nii.gz", getattr(phantom, name), grid)
