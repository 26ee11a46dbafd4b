"""A picture of a patient's biomarkers, for a neuroradiologist to check: calcium, clot, stump, territories, values."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlvo.files import atomic_write
from rlvo.imaging.biomarker_regions import BOX, regions
from rlvo.imaging.biomarkers import DECLARED, Biomarkers
from rlvo.report.pictures import BEHIND, Plane, label_sides
from rlvo.text import escape_controls

WINDOWS = {"ncct": (0, 100), "cta": (0, 400)}
TRUNK_Z_MM, TERRITORY_Z_MM, TRUNK_Y_MM = -14.0, 10.0, 6.0
SLAB_MM = 12.0
COLOURS = {"calcium": "cyan", "clot": "red", "stump": "magenta", "trunk": "gold", "deep": "lime", "cortex": "orange"}
DPI, WIDTH_INCHES, HEIGHT_INCHES = 100, 12.0, 8.4


@dataclass(frozen=True)
class DrawBiomarkers:
    """Draws patients into a folder; can be sent to other processes. `names`: each patient's file."""

    folder: Path
    names: Mapping[str, str]

    def __call__(self, patient: str, scans: Mapping[str, np.ndarray], measured: Biomarkers) -> None:
        """Write the patient's PNG, readable by its owner alone. Raises OSError if that fails."""
        atomic_write(self.folder / self.names[patient], draw_biomarkers(patient, scans, measured))


def picture_names(patients: list[str]) -> dict[str, str]:
    """A file name per patient, from the id; no two are the same."""
    names: dict[str, str] = {}
    for patient in patients:
        name = re.sub(r"[^\w.-]+", "_", patient)
        while f"{name}.png".lower() in (taken.lower() for taken in names.values()):
            name += "_"
        names[patient] = f"{name}.png"
    return names


def draw_biomarkers(patient: str, scans: Mapping[str, np.ndarray], measured: Biomarkers) -> bytes:
    """Draw a PNG: per scan the trunk axial and coronal, and the territories; values and doubts beside them.

    The slabs lie at the clot if one was found, else at the trunk's usual height. Radiological orientation.
    """
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), facecolor="black")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 4, width_ratios=[1, 1, 1, 0.9])
    figure.subplots_adjust(left=0.005, bottom=0.005, right=0.995, top=0.995, wspace=0.02, hspace=0.02)
    where, place = regions(), _place(measured)
    views = (
        (Plane("axial", 2, place[2], ("R", "L")), SLAB_MM, {"trunk": where.trunk}),
        (Plane("coronal", 1, place[1], ("R", "L")), SLAB_MM, {"trunk": where.trunk}),
        (Plane("axial", 2, TERRITORY_Z_MM, ("R", "L")), 0.0, {"deep": where.deep, "cortex": where.cortex}),
    )
    found = {"calcium": measured.calcium, "clot": measured.clot, "stump": measured.stump}
    for row, name in zip(panels, ("ncct", "cta"), strict=True):
        for axes, (plane, thickness, masks) in zip(row, views, strict=False):
            axes.set_axis_off()
            if name not in scans:
                axes.text(0.5, 0.5, f"no {name.upper()}", color="white", ha="center", transform=axes.transAxes)
                continue
            shown = plane.slab(scans[name], BOX, thickness)
            axes.imshow(np.clip(shown, *WINDOWS[name]), cmap="gray", origin="lower", vmin=0, vmax=WINDOWS[name][1])
            for kind, mask in {**masks, **found}.items():
                slab = None if mask is None else plane.slab(mask, BOX, 0 if kind in ("deep", "cortex") else thickness)
                if slab is not None and slab.any() and not slab.all():
                    axes.contour(slab, levels=[0.5], colors=[COLOURS[kind]], linewidths=0.5 if kind in masks else 1.2)
            axes.invert_xaxis()
            title = f"{name.upper()}, {plane.name}, {'xyz'[plane.axis]} = {plane.position:.0f} mm"
            axes.text(0.02, 0.98, title, transform=axes.transAxes, va="top", color="white", fontsize=9, bbox=BEHIND)
            label_sides(axes, plane.sides)
    _write_words(panels[:, 3], patient, measured)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="black")
    return buffer.getvalue()


def _place(measured: Biomarkers) -> tuple[float, float, float]:
    """The middle of the clot, mm, or of the trunk."""
    if measured.clot is None or not measured.clot.any():
        return (0.0, TRUNK_Y_MM, TRUNK_Z_MM)
    x, y, z = np.argwhere(measured.clot).mean(axis=0) + BOX.origin
    return (float(x), float(y), float(z))


def _write_words(panels: np.ndarray, patient: str, measured: Biomarkers) -> None:
    upper, lower = panels
    values = [
        f"{name.replace('_', ' '):<24}{'—' if np.isnan(value) else f'{value:.3g}'} {DECLARED[name][0]}"
        for name, value in measured.values.items()
    ]
    legend = [f"{colour}: {kind}" for kind, colour in COLOURS.items()]
    side = f"side in the images: {measured.side or 'not clear'}"
    _write(upper, [f"patient {escape_controls(patient)}", side, "", *values, "", *legend])
    doubts = [part for doubt in measured.doubts for part in _wrapped(f"• {doubt}")]
    _write(lower, ["doubts:" if doubts else "no doubts", *doubts])


def _write(axes: Axes, lines: list[str]) -> None:
    axes.set_axis_off()
    text = "\n".join(lines).replace("$", r"\$")
    axes.text(0, 0.98, text, transform=axes.transAxes, va="top", color="white", fontsize=7.5, family="monospace")


def _wrapped(text: str, width: int = 44) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append(" ")
        lines[-1] = f"{lines[-1]} {word}".lstrip() if lines[-1] != " " else f"  {word}"
    return lines
