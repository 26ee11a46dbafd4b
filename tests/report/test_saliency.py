"""The picture of a map: what it shows, and what it says."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from rlvo.config.grid import Grid
from rlvo.explain.faithfulness import STEPS, Curve, Faithfulness
from rlvo.explain.gradcam import MeanMaps
from rlvo.report.saliency import ALL_ZERO, saliency_figure, slice_point
from rlvo.report.style import write_picture

GRID = Grid(shape=(10, 8, 6), spacing=(4, 4, 5), origin=(-18, -14, -10))


def make_maps(before: tuple[int, int, int] | None, after: tuple[int, int, int] | None) -> MeanMaps:
    arrays = [np.zeros(GRID.shape, np.float32) for _ in range(2)]
    for array, place in zip(arrays, (before, after), strict=True):
        if place is not None:
            array[place] = 5
    return MeanMaps(*arrays, {"before": 0 if before else 4, "after": 0 if after else 4}, 4)


@pytest.fixture
def volumes() -> dict[str, np.ndarray]:
    vessels = np.zeros(GRID.shape, np.uint8)
    vessels[2:4, 2:4, 2:4] = 1
    return {"cta": np.full(GRID.shape, 40, np.float16), "vessels": vessels}


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_slices_go_through_the_maximum_and_the_picture_is_radiological(volumes: dict[str, np.ndarray]) -> None:
    maps = make_maps((1, 1, 1), (7, 2, 3))
    assert slice_point(volumes, maps, GRID) == (10, -6, 5)
    assert slice_point(volumes, make_maps((1, 1, 1), None), GRID) == (-14, -10, -5)
    both = make_maps((1, 1, 1), (7, 2, 3))
    both.after[1, 5, 4] = 2
    assert slice_point(volumes, both, GRID, "left") == (-14, 6, 10)
    assert slice_point(volumes, maps, GRID, "left") == (10, -6, 5)  # nothing on that side
    figure = saliency_figure(volumes, maps, GRID, title="A patient")
    axial_after = figure.axes[2]
    (image,) = axial_after.images
    shown = np.asarray(image.get_array())
    assert np.argwhere(shown == 5).tolist() == [[2, 7]]  # [up: front, across: right]
    left_edge, right_edge = axial_after.get_xlim()
    assert left_edge > right_edge  # the patient's right, at high x, is on the left
    assert "A patient" in texts(figure)


def test_an_all_zero_map_is_said_and_not_shown_as_noise(volumes: dict[str, np.ndarray]) -> None:
    figure = saliency_figure(volumes, make_maps((1, 1, 1), None), GRID, title="")
    assert texts(figure).count(ALL_ZERO) == 2
    assert "after the fusion is all zero in all 4 networks" in texts(figure)
    (shown,) = figure.axes[2].images
    assert not np.asarray(shown.get_array()).any()
    partly = make_maps((1, 1, 1), (1, 1, 1))
    partly.silent["after"] = 3
    assert "All zero in 3 of 4 networks after the fusion" in texts(saliency_figure(volumes, partly, GRID, title=""))


def test_figures_of_the_checks_stand_below_and_a_failed_map_is_marked(
    volumes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    curve = Curve(tuple(np.linspace(1, 0, STEPS + 1)), (0.25, 0.75))
    check = Faithfulness(
        "after", {"head": 0.9, "all layers": -0.12}, curve, curve, ("it hardly depends on the weights",)
    )
    figure = saliency_figure(volumes, make_maps((1, 1, 1), (7, 2, 3)), GRID, title="x", checks={"after": check})
    said = texts(figure)
    assert "from the head to all layers: 0.90, −0.12." in said
    assert "deletion 0.500 (random orders 0.500)" in said
    assert "FAILED, after the fusion: it hardly depends on the weights." in said
    assert all(path.stat().st_size > 0 for path in write_picture(figure, tmp_path / "picture"))


def test_a_patient_without_cta_or_vessels_has_a_picture_too(volumes: dict[str, np.ndarray]) -> None:
    figure = saliency_figure({"ncct": volumes["cta"]}, make_maps(None, None), GRID, title="")
    assert "NCCT" in texts(figure)


def test_the_narrow_figure_says_and_shows_the_same_within_its_width(volumes: dict[str, np.ndarray]) -> None:
    curve = Curve(tuple(np.linspace(1, 0, STEPS + 1)), (0.25, 0.75))
    check = Faithfulness(
        "after", {"head": 0.9}, curve, curve, ("deletion is no better than random orders are, nor insertion",)
    )
    maps = make_maps((1, 1, 1), (7, 2, 3))
    wide, narrow = (
        saliency_figure(volumes, maps, GRID, title="x", checks={"after": check}, is_narrow=is_narrow)
        for is_narrow in (False, True)
    )
    assert narrow.get_figwidth() == wide.get_figwidth() / 2
    pictures = [[image for axes in figure.axes for image in axes.images] for figure in (wide, narrow)]
    for one, other in zip(*pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(one.get_array()), np.asarray(other.get_array()))
    assert {*texts(wide).split()} == {*texts(narrow).split()}
    canvas = FigureCanvasAgg(narrow)
    canvas.draw()
    for text in narrow.findobj(Text):
        assert text.get_window_extent().x1 <= narrow.bbox.x1, text.get_text()
