"""A volume in scanner or atlas space: an array and where its voxels lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from rlvo.config.grid import Grid
from rlvo.files import private

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK uses LPS coordinates, NIfTI and this package RAS."""

AIR = -1000.0
"""HU outside the scanned region."""
ON_GRID_MM = 1e-3
"""A volume lies on a grid if no element of their affines differs by more than this."""


@dataclass(frozen=True, eq=False)
class Volume:
    """One CT volume or mask.

    Attributes:
        array: [x, y, z] float32, HU for CT. Axes point roughly to the right, front and top (RAS+).
        affine: 4×4, voxel to RAS mm; its axes are orthogonal.
        notes: what reading corrected, in words for the user; never names, dates, UIDs or paths.
        doubts: what reading had to guess, likewise; a patient with doubts needs a review.
    """

    array: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size along x, y, z in mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    def lies_on(self, grid: Grid) -> bool:
        """Whether the voxels are those of the grid: same shape, same affine."""
        return self.array.shape == grid.shape and bool(np.allclose(self.affine, grid.affine, atol=ON_GRID_MM, rtol=0))


def grid_axes(grid: Grid) -> tuple[np.ndarray, ...]:
    """Voxel centres along x, y and z, RAS mm."""
    return tuple(
        first + step * np.arange(n) for first, step, n in zip(grid.origin, grid.spacing, grid.shape, strict=True)
    )


def write_on_grid(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Write an array [x, y, z] on the grid as NIfTI (`.nii.gz`), in MNI space. Raises OSError if that fails."""
    image = nibabel.Nifti1Image(array, grid.affine)
    image.set_sform(grid.affine, code="mni")
    image.set_qform(grid.affine, code="mni")
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, private(path))


def to_sitk(volume: Volume) -> sitk.Image:
    """Convert to an ITK image (LPS)."""
    image = sitk.GetImageFromArray(volume.array.T)
    set_geometry(image, volume.affine)
    return image


def set_geometry(image: sitk.Image, affine: np.ndarray) -> None:
    """Give an ITK image the geometry of a voxel-to-RAS `affine` with orthogonal axes."""
    lps = RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())


def from_sitk(image: sitk.Image) -> Volume:
    """Convert from an ITK image; the array is float32."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(image.GetDirection()).reshape(3, 3) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).T.astype(np.float32, copy=False), RAS_TO_LPS @ affine)


def allocate_volume(shape: Sequence[int], affine: np.ndarray) -> tuple[Volume, np.ndarray]:
    """Allocate a volume on RAS+ axes for voxels stored with `shape` and `affine` (4×4, voxel to RAS mm).

    Return it uninitialised, x fastest in memory; and a view of its array with the axes as stored: values written to
    the view end up reoriented in the volume, without a second copy in memory.
    """
    orientation = nibabel.io_orientation(affine)
    axes = orientation[:, 0].astype(int)
    reoriented = np.empty([shape[axis] for axis in np.argsort(axes)], dtype=np.float32, order="F")
    as_stored = reoriented.transpose(axes)[tuple(slice(None, None, int(sign)) for sign in orientation[:, 1])]
    return Volume(reoriented, affine @ nibabel.orientations.inv_ornt_aff(orientation, shape)), as_stored
