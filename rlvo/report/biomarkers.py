"""The imaging biomarkers of a cohort: how many were measured, why others were not, and their values by outcome."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rlvo.cohort.labels import format_number
from rlvo.imaging.biomarker_doubts import count_doubts, count_reasons
from rlvo.imaging.biomarkers import DECLARED
from rlvo.report.exhibit import Exhibit, Section
from rlvo.report.style import BLUE, INK, ORANGE, PAGE_WIDTH, paper_style
from rlvo.report.table_one import ABSENT

TITLES = {
    "calcium_mm3": "Calcium volume",
    "calcium_mg": "Calcium mass",
    "calcium_difference_mm3": "Calcium, difference",
    "clot_hu": "Clot density",
    "clot_excess_hu": "Clot over brain",
    "clot_mm": "Clot length",
    "taper_mm": "Taper of the stump",
    "collaterals": "Collaterals",
    "deep_filling_hu": "Filling, deep",
    "cortex_filling_hu": "Filling, cortex",
    "density_hu": "Territory density",
}
GROUPS = {"rlvo": ("rLVO", ORANGE), "other": ("others", BLUE)}
COLUMNS = 5
WHAT = (
    "Measured: in how many of the included patients; reasons for the others are counted, the first that applies. "
    "Median (quartiles) of the development patients in whom it was measured; of the hold-out no outcome is looked at. "
    "They describe: nothing is adjusted or tested."
)
BOXES = (
    "Boxes: quartiles and median of development patients; whiskers: the furthest value within 1.5 interquartile "
    "ranges; dots: beyond."
)


def biomarkers_section(
    measured: pd.DataFrame, label: pd.Series, development: Collection[str], side: pd.Series | None
) -> Section:
    """The section "Imaging biomarkers" of the cohort's page and of the report. It names no patient.

    Args:
        measured: of the included patients, indexed by id: columns of `imaging.biomarkers.DECLARED` (NaN: not measured),
            `doubts`, `side` (or NaN), and `unreadable`, how many cells hold no possible value.
        label: 0 or 1 per patient, indexed likewise. Only that of development patients is looked at.
        development: who they are.
        side: of the occlusion, as the table says; None if it does not.
    """
    names = [name for name in DECLARED if name in measured]
    own = measured.loc[list(development)]
    is_rlvo = (label.loc[own.index] == 1).to_numpy()
    groups = {"rlvo": own[is_rlvo], "other": own[~is_rlvo]}
    rows = [_row(name, measured, groups) for name in names]
    first = {"": "Patients", "Measured": str(len(measured)), "Not measured: why": ""}
    shown = [first | {_heading(group): str(len(each)) for group, each in groups.items()}, *map(_shown, rows)]
    drawn = [name for name in names if own[name].notna().any()]
    doubts = count_doubts(measured["doubts"])
    exhibits = [
        Exhibit(
            "biomarkers", "Imaging biomarkers by outcome", pd.DataFrame(rows), f"{WHAT} {BOXES}" if drawn else WHAT,
            shown=pd.DataFrame(shown), figure=_draw(drawn, groups) if drawn else None,
        )
    ]  # fmt: skip
    if doubts:
        counted = pd.DataFrame(doubts.most_common(), columns=["doubt", "patients"])
        what = "Included patients by what was not measured or is to be looked at; one may have several doubts."
        text = counted.astype(str).rename(columns={"doubt": "Doubt", "patients": "Patients"})
        exhibits.append(Exhibit("biomarker-doubts", "Doubts of the measurement", counted, what, shown=text))
    return Section("biomarkers", "Imaging biomarkers", _words(measured, side), exhibits)


def _words(measured: pd.DataFrame, side: pd.Series | None) -> list[str]:
    doubtful = int((measured["doubts"] != "").sum())
    words = [
        "Measured in the raw scans when these were prepared, and columns of the table. Models are given those that a "
        f"study declares as predictors. {doubtful} of the {len(measured)} included patients have a doubt."
    ]
    if side is not None:
        pair = pd.DataFrame({"seen": measured["side"], "told": side.loc[measured.index]}).dropna()
        other = int((pair["seen"] != pair["told"]).sum())
        words.append(
            f"The side that the images show is another than occlusion_side in {other} of the {len(pair)} patients in "
            f"whom both are known{': look at their pictures' if other else ''}."
        )
    if unreadable := int(measured["unreadable"].sum()):
        words.append(f"Cells of these columns that hold no possible value, and count as not measured: {unreadable}.")
    return words


def _row(name: str, measured: pd.DataFrame, groups: dict[str, pd.DataFrame]) -> dict[str, object]:
    unit, _, meaning = DECLARED[name]
    reasons = count_reasons(name, measured["doubts"][measured[name].isna()])
    row: dict[str, object] = {
        "biomarker": name,
        "unit": unit,
        "meaning": meaning,
        "measured": int(measured[name].notna().sum()),
        "not_measured": "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common()),
    }
    for group, each in groups.items():
        values = each[name].dropna()
        quartiles = np.quantile(values, [0.5, 0.25, 0.75]) if len(values) else [np.nan] * 3
        row[f"{group}_patients"] = len(values)
        row |= {f"{group}_{what}": value for what, value in zip(("median", "q1", "q3"), quartiles, strict=True)}
    return row


def _shown(row: dict[str, object]) -> dict[str, str]:
    name = str(row["biomarker"])
    cells = {"": f"{TITLES[name]}, {row['unit']}", "Measured": str(row["measured"])}
    cells["Not measured: why"] = str(row["not_measured"])
    for group in GROUPS:
        median, low, high = (float(str(row[f"{group}_{what}"])) for what in ("median", "q1", "q3"))
        numbers = [format_number("", value) for value in (median, low, high) if not np.isnan(value)]
        between = " to " if low < 0 else "–"
        cells[_heading(group)] = f"{numbers[0]} ({numbers[1]}{between}{numbers[2]})" if numbers else ABSENT
    return cells


def _heading(group: str) -> str:
    return f"Development: {GROUPS[group][0]}"


@paper_style
def _draw(names: list[str], groups: dict[str, pd.DataFrame]) -> Figure:
    """A panel per biomarker, a box per outcome."""
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(PAGE_WIDTH, 1.75 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        for place, (group, (_, colour)) in enumerate(GROUPS.items()):
            axes.boxplot(
                [groups[group][name].dropna()],
                positions=[place],
                widths=0.6,
                boxprops={"color": colour},
                whiskerprops={"color": colour},
                capprops={"color": colour},
                medianprops={"color": INK},
                flierprops={"marker": ".", "markersize": 3, "markeredgecolor": colour},
            )
        axes.set_xticks(range(len(GROUPS)), [words for words, _ in GROUPS.values()])
        axes.set_title(TITLES[name], fontsize=7)
        axes.set_ylabel(DECLARED[name][0], fontsize=7)
        axes.tick_params(axis="x", length=0)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    return figure
