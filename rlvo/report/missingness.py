"""Which values are missing, and in how many patients."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from rlvo.report.labels import NAMES
from rlvo.report.style import BLUE, PAGE_WIDTH, paper_style


@paper_style
def missingness_plot(table: pd.DataFrame) -> Figure:
    """A bar a column with missing values, most first: the share of patients without one, and how many they are.

    Raises:
        ValueError: no value is missing.
    """
    missing = table.isna().sum().sort_values(ascending=False, kind="stable")
    missing = missing[missing > 0]
    if missing.empty:
        raise ValueError("no value is missing")
    height = 0.19 * len(missing) + 0.5
    figure = Figure(figsize=(PAGE_WIDTH, height))
    axes = figure.add_axes((0.25, 0.42 / height, 0.68, 1 - 0.5 / height))
    shares = missing / len(table)
    axes.barh(range(len(missing)), shares, color=BLUE, height=0.65)
    for y, (count, share) in enumerate(zip(missing, shares, strict=True)):
        axes.text(share, y, f" {count:,}", va="center", fontsize=7)
    axes.set(ylim=(len(missing) - 0.4, -0.6), xlim=(0, max(0.05, shares.max())), xlabel="Patients without a value")
    axes.set_yticks(range(len(missing)), [NAMES.get(str(name), str(name)) for name in missing.index])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.tick_params(left=False)
    return figure
