"""A report's subgroups: Table A2 (errors by subgroup, tested), and the figure of sensitivity and specificity."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from rlvo.cohort.labels import LEVELS, variable_name
from rlvo.evaluation.subgroups import SubgroupAnalysis
from rlvo.report.console import format_interval, format_p
from rlvo.report.exhibit import Exhibit, Standing
from rlvo.report.style import BLUE, GREY, ORANGE, PAGE_WIDTH, paper_style

SHOWN = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity"}


def subgroups_exhibit(subgroups: Sequence[SubgroupAnalysis], *, standing: Standing, about: str) -> Exhibit:
    """One row per level, and below each grouping its tests of equality."""
    rows, shown = [], []
    for each in subgroups:
        title = variable_name(each.name)
        for number, level in enumerate(each.levels.to_dict("records")):
            row = {str(name): value for name, value in level.items()}
            tests = {f"{test}_p_corrected": p for test, p in each.corrected.items()} if number == 0 else {}
            rows.append({"grouping": each.name, **row, **tests})
            cells = {"": f"{title}: {LEVELS.get(row['level'], row['level'])}"}
            cells["patients (rLVO)"] = f"{row['patients']} ({row['positives']})"
            cells |= {heading: format_interval(*(row[f"{m}{end}"] for end in ("", "_low", "_high")))
                      for m, heading in SHOWN.items()}  # fmt: skip
            if number == 0:
                found = [f"{test} {format_p(p)}" for test, p in each.corrected.items() if not math.isnan(p)]
                cells["p of equality"] = "; ".join([*found, *each.notes]) or "nothing to compare"
            shown.append(cells)
    table = pd.DataFrame(rows)
    caption = (
        f"{about} The study's own ensemble. Missed rLVO are 1 − sensitivity, needless alerts 1 − specificity. 95 % "
        "intervals: AUC by DeLong, the others by Wilson. p: equality between levels, corrected for all tests in this "
        "table (Holm); above 0.05 it does not say that levels are alike."
    )
    return Exhibit(
        "table-a2", "Table A2 and Fig. A2: errors by subgroup", table, caption, standing,
        pd.DataFrame(shown).fillna(""),
        figure=_draw(table, [str(cells[""]) for cells in shown]),
    )  # fmt: skip


@paper_style
def _draw(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Sensitivity and specificity of every level with their intervals."""
    figure = Figure(figsize=(PAGE_WIDTH, 0.24 * len(table) + 0.7), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric, colour in zip(panels, ("sensitivity", "specificity"), (ORANGE, BLUE), strict=True):
        own = table[[metric, f"{metric}_low", f"{metric}_high"]].to_numpy(float)
        for y, (value, low, high) in enumerate(own):
            if not math.isnan(value):
                axes.plot([low, high], [y, y], color=colour, linewidth=1.2)
                axes.plot(value, y, marker="s", color=colour, markersize=4)
        for y in range(1, len(table)):
            if table["grouping"].iloc[y] != table["grouping"].iloc[y - 1]:
                axes.axhline(y - 0.5, color=GREY, linewidth=0.4)
        axes.set(xlim=(0, 1), xlabel=metric.capitalize(), yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
        axes.set_yticklabels(names)
        axes.tick_params(left=False)
    return figure
