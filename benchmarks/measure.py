"""Taking times and printing them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table


def seconds(work: Callable[[], object], repeat: int = 3) -> float:
    """The quickest of `repeat` runs."""
    taken = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def show(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> None:
    """Print a table: a name and figures a row."""
    table = Table("", *columns, title=title, title_justify="left")
    for name, figures in rows.items():
        table.add_row(name, *(f"{figure:.3g}" if figure < 100 else f"{figure:.0f}" for figure in figures))
    Console().print(table)
