"""The picture of a prepared patient."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from scipy import ndimage

from rlvo.config.grid import PRESETS, over_field_of_view
from rlvo.imaging.alignment.atlas import built_in_atlas, sample_mask
from rlvo.imaging.prepare import Prepared
from rlvo.imaging.volume import grid_axes
from rlvo.report.pictures import draw_overlay

GRID = over_field_of_view((98, 116, 94))
X, Y, Z = np.meshgrid(*grid_axes(GRID), indexing="ij")
COLOURS = {"yellow": [True, True, False], "cyan": [False, True, True], "red": [True, False, False]}
"""Channels that are lit."""


def draw(path: Path, **volumes: np.ndarray) -> np.ndarray:
    """The picture's pixels [row, column, RGB], 0–1."""
    draw_overlay(Prepared(volumes), GRID, path)
    return matplotlib.image.imread(path)[..., :3]


def panels(pixels: np.ndarray) -> list[np.ndarray]:
    """Sagittal, coronal and axial part of a picture of one volume."""
    y, x = (GRID.shape[axis] * GRID.spacing[axis] for axis in (1, 0))
    ends = np.rint(np.cumsum([y, x]) / (y + 2 * x) * pixels.shape[1]).astype(int)
    return np.split(pixels, ends, axis=1)


def coloured(pixels: np.ndarray, colour: str) -> np.ndarray:
    lit = np.array(COLOURS[colour])
    return pixels[..., lit].min(axis=-1) - pixels[..., ~lit].max(axis=-1) > 0.3


def ncct(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 100, 0).astype(np.float16)


@pytest.mark.parametrize(
    ("mask", "bright"),
    [
        (X > 0, {"coronal": "left", "axial": "left"}),
        (Y > -18, {"sagittal": "left", "axial": "top"}),
        (Z > 22, {"sagittal": "top", "coronal": "top"}),
    ],
)
def test_sides_are_where_radiologists_look_for_them(mask: np.ndarray, bright: dict[str, str], tmp_path: Path) -> None:
    views = dict(zip(("sagittal", "coronal", "axial"), panels(draw(tmp_path / "p.png", ncct=ncct(mask))), strict=True))
    for name, side in bright.items():
        rows, columns = np.nonzero(views[name].min(axis=-1) > 0.9)
        place, extent = (rows, views[name].shape[0]) if side == "top" else (columns, views[name].shape[1])
        assert 0.15 < place.mean() / extent < 0.4, name


def test_the_contours_are_those_of_the_atlas(tmp_path: Path) -> None:
    atlas = built_in_atlas()
    brain = sample_mask(atlas.brain, atlas.head.affine, GRID)
    pixels = draw(tmp_path / "p.png", ncct=ncct(brain))
    white, yellow = pixels.min(axis=-1) > 0.9, coloured(pixels, "yellow")
    boundary = ndimage.binary_dilation(white, iterations=4) & ndimage.binary_dilation(~white & ~yellow, iterations=4)
    assert yellow.sum() > 1000
    assert boundary[yellow].mean() > 0.99
    reached = ndimage.binary_dilation(yellow, iterations=4)
    brains = ndimage.binary_opening(white, iterations=4)  # without the letters
    edge = brains & ~ndimage.binary_erosion(brains)
    assert reached[edge].mean() > 0.95
    cyan = coloured(pixels, "cyan")
    assert cyan.sum() > 1000
    assert ndimage.distance_transform_edt(~white)[cyan].mean() > 10  # scalp lies outside of the brain


def test_vessels_beside_the_plane_show_on_the_cta(tmp_path: Path) -> None:
    vessels = ((np.hypot(X - 30, Y) < 8) & (np.abs(Z - 8) < 1.5)).astype(np.uint8)
    grey = ncct(np.zeros(GRID.shape, dtype=bool))
    assert coloured(panels(draw(tmp_path / "c.png", cta=grey, vessels=vessels))[2], "red").sum() > 20
    assert not coloured(panels(draw(tmp_path / "n.png", ncct=grey, vessels=vessels))[2], "red").any()
    assert not coloured(draw(tmp_path / "0.png", cta=grey), "red").any()


def test_a_grid_that_misses_the_planes_is_drawn_at_its_edge(tmp_path: Path) -> None:
    above = PRESETS["focus"].model_copy(update={"origin": (-62, -35, 60)})
    draw_overlay(Prepared({"ncct": np.full(above.shape, 50, np.float16)}), above, tmp_path / "p.png")
    axial = matplotlib.image.imread(tmp_path / "p.png")[:, -200:, :3]
    assert np.median(axial) == pytest.approx(0.5, abs=0.02)


def test_the_same_volumes_give_the_same_bytes_for_both_scans(tmp_path: Path) -> None:
    scan = np.random.default_rng(0).uniform(0, 100, GRID.shape).astype(np.float16)
    first = draw(tmp_path / "a" / "1.png", ncct=scan, cta=scan)
    draw(tmp_path / "a" / "2.png", ncct=scan, cta=scan)
    assert (tmp_path / "a" / "1.png").read_bytes() == (tmp_path / "a" / "2.png").read_bytes()
    alone = draw(tmp_path / "3.png", ncct=scan)
    assert first.shape[0] == pytest.approx(2 * alone.shape[0], abs=2)
