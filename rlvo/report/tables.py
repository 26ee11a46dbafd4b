"""Tables of performance, as people read them in a paper: every figure with its interval, what is optimistic said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from rich.table import Table

from rlvo.evaluation.figures import Figures


@dataclass(frozen=True)
class Performance:
    """One model: its validation metrics, a row a fold (optimistic), and its figures on the hold-out."""

    validation: pd.DataFrame
    holdout: Figures
    ceiling: float | None = None
    """The best AUC there is, where the truth is known."""


def performance_table(models: Mapping[str, Performance], *, title: str) -> Table:
    """Rich table, a row a model in the order given."""
    first = next(iter(models.values())).holdout
    table = Table(
        title=title,
        caption=f"Hold-out: {first.patients} patients, {first.positives} rLVO, 95 % bootstrap intervals.\n"
        "* Optimistic: checkpoints, weights and thresholds were chosen there.",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    has_ceilings = any(model.ceiling is not None for model in models.values())
    table.add_column("", no_wrap=True)
    for name in ("validation\nAUC*", "hold-out\nAUC", *(["ceil."] if has_ceilings else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("bal.\nacc.", "sens.", "spec.", "F1"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, model in models.items():
        auc, seen = model.validation["auc"], model.holdout
        low, high = seen.interval
        table.add_row(
            name,
            f"{_number(auc.mean())}±{_number(auc.std())}",
            f"{_number(seen.auc)} ({_number(low)}–{_number(high)})",
            *([_number(model.ceiling)] if has_ceilings else []),
            *(_number(value) for value in (seen.balanced_accuracy, seen.sensitivity, seen.specificity, seen.f1)),
        )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return "n.e." if math.isnan(value) else f"{value:.2f}"
