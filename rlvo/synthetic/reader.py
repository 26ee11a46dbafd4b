"""A reader of drawn volumes that knows the phantom: what a grid shows of the two image latents, at least.

It knows the mean course of every artery, the occlusion's side and its site, and learns each latent from a few thousand
patients whose latents are known. Where the clot lies along the artery, how the head is turned, and the patient's own
course of the arteries it has to make do without, as a network has.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rlvo.config.grid import Grid
from rlvo.imaging.target import WINDOWS
from rlvo.synthetic.phantom import TERRITORY
from rlvo.synthetic.rasterise import grid_axes
from rlvo.synthetic.vessels import HOSTS, SEGMENTS, TERMINUS, TRUNK, Lesion

RINGS_MM = ((0.0, 3.0), (3.0, 6.0))
"""Distances from the trunk's mean course between which HU are summed."""
BIN_MM = 2.0
"""Length of trunk that a sum covers."""
WIDTHS = 0.3
"""The kernel's gamma, in units of one over the number of sums."""
PENALTIES = (0.1, 0.3, 1.0, 3.0)
"""Ridge penalties, of which cross-validation within the training patients chooses one for each site and latent."""


def region_masks(grid: Grid) -> csr_array:
    """Where HU are summed in a head whose occlusion is on the left: 0/1 [R, voxels].

    Stretches of the trunk in two rings; every artery, and the territory, on either side. Empty ones are left out.
    """
    x, y, z = np.broadcast_arrays(*grid_axes(grid))
    voxels = np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(float)
    along, course = _mean_course(TRUNK)
    apart = np.linalg.norm(voxels[:, None] - course, axis=2)
    stretch, distance = (along[apart.argmin(axis=1)] // BIN_MM).astype(int), apart.min(axis=1)
    masks = [
        (stretch == number) & (distance >= low) & (distance < high)
        for low, high in RINGS_MM
        for number in range(stretch.max() + 1)
    ]
    (centre_x, *centre), radii = TERRITORY
    for sign in (1, -1):
        for segment in SEGMENTS:
            _, course = _mean_course([segment.name])
            masks.append(np.linalg.norm(voxels[:, None] - course * (sign, 1, 1), axis=2).min(axis=1) < RINGS_MM[-1][1])
        from_centre = (voxels - (-sign * centre_x, *centre)) / radii
        masks.append((from_centre**2).sum(axis=1) < 1)
    return csr_array(np.array([mask for mask in masks if mask.any()], dtype=np.float32))


def _mean_course(names: tuple[str, ...] | list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Points every 0.5 mm along consecutive arteries of the left: mm from their start [N], and RAS mm [N, 3]."""
    points = {segment.name: segment.points for segment in SEGMENTS}
    nodes = np.concatenate([points[name] for name in names]) * (-1, 1, 1) + TERMINUS
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(nodes, axis=0), axis=1))])
    along = np.arange(0, arc[-1], 0.5)
    return along, np.stack([np.interp(along, arc, nodes[:, axis]) for axis in range(3)], axis=1)


def region_sums(masks: csr_array, volume: np.ndarray, name: str, lesion: Lesion) -> np.ndarray:
    """Sums of clipped HU [R] in a drawn volume [x, y, z] that lies on the grid, as preparation clips and stores it.

    Args:
        masks: of `region_masks`; the grid is symmetric about the midline.
        name: ncct or cta.
        lesion: a head whose occlusion is on the right is mirrored.
    """
    prepared = np.clip(volume, *WINDOWS[name]).astype(np.float16).astype(np.float32)
    turned = prepared[::-1] if lesion.side == "right" else prepared
    return np.asarray(masks @ turned.ravel())


@dataclass(frozen=True)
class Reading:
    """What the reader says about test patients: expected latents, and the true ones, each [N]."""

    z_cta: np.ndarray
    z_ncct: np.ndarray
    read_cta: np.ndarray
    read_ncct: np.ndarray

    @property
    def correlations(self) -> dict[str, float]:
        """Of what is read with the latents, by volume."""
        pairs = {"ncct": (self.read_ncct, self.z_ncct), "cta": (self.read_cta, self.z_cta)}
        return {name: float(np.corrcoef(*pair)[0, 1]) for name, pair in pairs.items()}


def read_latent(sums: np.ndarray, sites: np.ndarray, latent: np.ndarray, training: int) -> np.ndarray:
    """The expected latent of the test patients, learned from the first `training` patients.

    For each site, a ridge regression with a Gaussian kernel on standardised sums.

    Args:
        sums: [N, R] of one volume.
        sites: [N] names.
        latent: [N]; only the training patients' are used.
    """
    read = np.empty(len(sums) - training)
    for site in HOSTS:
        own = sites == site
        learned, asked = own[:training], own[training:]
        kernel = KernelRidge(kernel="rbf", gamma=WIDTHS / sums.shape[1])
        choice = GridSearchCV(kernel, {"alpha": PENALTIES}, cv=KFold(4), scoring="neg_mean_squared_error")
        model = make_pipeline(StandardScaler(), choice).fit(sums[:training][learned], latent[:training][learned])
        read[asked] = model.predict(sums[training:][asked])
    return read
