"""The look of pictures and pages: quiet, in colours that colour-blind readers can tell apart, vectors and pixels."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import jinja2
from matplotlib import rc_context
from matplotlib.figure import Figure

from rlvo.files import atomic_write
from rlvo.text import escape_controls

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#8E4585"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
"""After Okabe and Ito (2008)."""
INK, GREY, PALE_INK, PALE = "#1a1d21", "#6b737c", "#b4bbc3", "#eef1f4"
PAGE_WIDTH = 6.9
"""Width of two columns of a journal page, in inches."""
DPI = 300
STYLE = Path(__file__).with_name("paper.mplstyle")

paper_style = rc_context(fname=STYLE)
"""Decorator for functions that draw."""


@dataclass(frozen=True)
class Drawing:
    """A figure that was drawn earlier."""

    vector: str
    """SVG."""
    pixels: bytes
    """PNG at 300 dpi."""


def say_about(figure: Figure, words: str) -> None:
    """Write whose figures are drawn, and whether they are optimistic, into the upper right corner."""
    figure.suptitle(words, x=0.995, ha="right", fontsize=7, color=GREY, fontweight="normal")


def svg(figure: Figure | Drawing) -> str:
    """Render a figure as SVG; the same figure always gives the same text."""
    if isinstance(figure, Drawing):
        return figure.vector
    with rc_context(fname=STYLE):
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def png(figure: Figure | Drawing) -> bytes:
    """Render a figure as PNG at 300 dpi."""
    if isinstance(figure, Drawing):
        return figure.pixels
    pixels = io.BytesIO()
    figure.savefig(pixels, format="png", dpi=DPI)
    return pixels.getvalue()


def write_picture(figure: Figure | Drawing, path: Path) -> tuple[Path, Path]:
    """Write `path` with the suffix .svg, and .png at 300 dpi beside it; return both paths."""
    vector, raster = path.with_suffix(".svg"), path.with_suffix(".png")
    atomic_write(vector, svg(figure))
    atomic_write(raster, png(figure))
    return vector, raster


def render_page(template: Path, **contents: object) -> str:
    """Fill in an HTML template, which escapes all text; its filter `picture` embeds a figure as a data URL."""
    environment = jinja2.Environment(
        autoescape=True,
        finalize=lambda value: escape_controls(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["picture"] = lambda figure: (
        f"data:image/svg+xml;base64,{base64.b64encode(svg(figure).encode()).decode()}"
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(**contents)
