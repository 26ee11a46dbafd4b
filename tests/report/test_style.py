"""Pictures come as SVG, the same every time, and as PNG fit for print."""

from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure
from matplotlib.image import imread

from rlvo.report.style import paper_style, write_picture


@paper_style
def drawn() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def test_both_files_hold_the_picture_and_repeat(tmp_path: Path) -> None:
    vector, raster = write_picture(drawn(), tmp_path / "new" / "a.b")
    assert (vector.name, raster.name) == ("a.svg", "a.png")
    assert ElementTree.parse(vector).getroot().tag.endswith("svg")
    assert imread(raster).shape[:2] == (300, 600)
    again, _ = write_picture(drawn(), tmp_path / "again")
    assert vector.read_bytes() == again.read_bytes()


def test_the_style_of_others_is_left_alone() -> None:
    before = dict(matplotlib.rcParams)
    drawn()
    assert dict(matplotlib.rcParams) == before
