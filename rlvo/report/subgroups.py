"""One model in groups of patients, as a table: every figure with its interval and counts, every test with its p."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from rlvo.evaluation.subgroups import SHOWN, Subgroup
from rlvo.report.forest import p_words
from rlvo.report.labels import NAMES


def subgroup_table(subgroups: Sequence[Subgroup], *, title: str) -> Table:
    """A row a level; below each grouping the tests of whether its levels differ, and what they lack."""
    table = Table(
        title=title,
        title_justify="left",
        caption="95 % intervals; p values are not corrected for the number of groupings.",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("", "patients\n(rLVO)", "AUC", "sens.", "spec."):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
    for each in subgroups:
        for row in each.levels.to_dict("records"):
            figures: dict[Any, Any] = row
            name = f"{NAMES.get(each.name, each.name.capitalize())}: {figures['level']}"
            counts = f"{figures['patients']} ({figures['positives']})"
            table.add_row(name, counts, *(_interval(figures, metric) for metric in SHOWN))
        p_values = {"AUC p": each.auc_p, "decision p": each.decision_p}
        tests = [f"{what} {p_words(p)}" for what, p in p_values.items() if not math.isnan(p)]
        table.add_row(f"  {'; '.join([*tests, *each.notes]) or 'nothing to compare'}", style="dim", end_section=True)
    return table


def _interval(row: dict[Any, Any], metric: str) -> str:
    value, low, high = (row[f"{metric}{end}"] for end in ("", "_low", "_high"))
    return "n.e." if math.isnan(value) else f"{value:.2f} ({low:.2f}–{high:.2f})"
