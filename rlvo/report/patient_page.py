"""One page about one patient: the answer, the votes, where the image speaks for it, and what moved the decision."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import get_args

import numpy as np
import pandas as pd

from rlvo.about import NOTICE
from rlvo.config.grid import Grid
from rlvo.config.model import Modality
from rlvo.explain.faithfulness import Faithfulness
from rlvo.explain.gradcam import MeanMaps, Which
from rlvo.report.decision import format_signed
from rlvo.report.exhibit import Exhibit, Section
from rlvo.report.saliency import NAMES, saliency_figure, slice_point
from rlvo.report.study_page import TEMPLATE
from rlvo.report.style import render_page

WARNINGS = "warnings"
"""Anchor of the page's warnings."""


def patient_page(
    patient: str, facts: Mapping[str, str], warnings: Sequence[str], sections: Sequence[Section], files: str
) -> str:
    """Render a self-contained HTML page: pictures embedded, no script.

    Args:
        patient: whose id is in the title, for the user's own disk.
        facts: what stands at the top, by heading.
        warnings: one sentence each.
        sections: in order.
        files: the folder beside the page that holds every exhibit's files.
    """
    return render_page(
        TEMPLATE,
        title=f"Patient {patient}",
        trust=WARNINGS,
        trust_title="Warnings",
        facts=facts,
        cautions=warnings,
        sections=sections,
        files=files,
        notice=NOTICE,
        badges={},
    )


def votes_exhibit(votes: pd.DataFrame) -> Exhibit:
    """How the folds voted.

    Args:
        votes: one row per fold: `fold`, a column of each modality with its members' probabilities (a tuple),
            `abstaining` (members without a say), `score`, `threshold`; `table` and `linear_image`, the probabilities of
            the fold's models of the table and of the volumes, if it has them.
    """
    modalities = [name for name in get_args(Modality) if name in votes]
    baselines = {column: column.replace("_", " ") for column in ("table", "linear_image") if column in votes}
    rows = [
        {
            "Fold": f"{row['fold']}",
            **{f"p, {name}": ", ".join(f"{p:.2f}" for p in row[name]) for name in modalities},
            **{f"p, {name}": f"{row[column]:.2f}" for column, name in baselines.items()},
            "Combined": f"{row['score']:.3f}",
            "Threshold": f"{row['threshold']:.3f}",
            "Margin": format_signed(row["score"] - row["threshold"]),
            "Vote": "for rLVO" if row["score"] >= row["threshold"] else "against",
        }
        for row in votes.to_dict("records")
    ]
    silent = int(votes["abstaining"].sum())
    without = f" {silent} members have no say, because they are no better than chance." if silent else ""
    written = {str(name): [" ".join(map(str, cell)) for cell in votes[name]] for name in modalities}
    return Exhibit(
        "votes",
        "How the folds voted",
        votes.assign(**written),
        caption=f"Each fold combines the probabilities of its members and compares them with its own threshold; the "
        f"majority decides.{without}",
        shown=pd.DataFrame(rows),
    )


def saliency_exhibit(
    volumes: Mapping[str, np.ndarray],
    maps: MeanMaps,
    checks: Mapping[Which, Faithfulness],
    grid: Grid,
    side: str | None = None,
) -> Exhibit:
    """Where the image speaks for rLVO; arguments as for `saliency_figure`."""
    figures = {f"{which}/silent_networks": float(count) for which, count in maps.silent.items()}
    figures |= {name: value for check in checks.values() for name, value in check.figures.items()}
    where = f" The slices go through the map's maximum on the {side}, where the occlusion is." if side else ""
    if side and (slice_point(volumes, maps, grid)[0] > 0) != (side == "right"):
        where += " Its largest value is on the other side."
    checked = "The lines below the pictures say how the maps were checked." if checks else "The maps were not checked."
    title = f"Saliency, mean of {maps.networks} networks"
    draw = partial(saliency_figure, volumes, maps, grid, title=title, checks=checks, side=side)
    return Exhibit(
        "saliency",
        "Where the image speaks for rLVO",
        pd.DataFrame({"figure": [*figures], "value": [*figures.values()]}),
        caption=f"Grad-CAM, the mean of {maps.networks} networks' maps, each divided by its own mean; vessels in red."
        f"{where} {checked} A map shows where the networks look, and is no proof of why.",
        figure=draw(),
        small=draw(is_narrow=True),
    )


def map_warnings(maps: MeanMaps, checks: Mapping[Which, Faithfulness]) -> list[str]:
    """What the page must say about maps that show nothing or fail their checks."""
    nothing = [f"The map {NAMES[which]} is empty: nothing in the image speaks for rLVO." for which in maps.silent
               if maps.is_silent(which)]  # fmt: skip
    return nothing + [
        f"The map {NAMES[which]} fails its checks, so its places mean little: {'; '.join(check.failures)}."
        for which, check in checks.items()
        if check.failures and not maps.is_silent(which)
    ]
