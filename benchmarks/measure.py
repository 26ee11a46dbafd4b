"""Taking times, and what becomes of the figures: a table on the terminal and, for `--json`, the same as data."""

from __future__ import annotations

import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rlvo.about import code_version

Rows = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Shown:
    """A table that was printed."""

    title: str
    columns: tuple[str, ...]
    rows: Rows
    ratio: str | None
    """The column that says how many times as good rlvo is as the other way; the picture shows it."""


_shown: list[Shown] = []


class Put:
    """Sends tables to the process that shows them, each again with every row that it gets."""

    def __init__(self, sent: Connection) -> None:
        self._sent = sent

    def __call__(self, title: str, columns: Sequence[str], rows: dict[str, Sequence[float]], ratio: str = "") -> None:
        kept = {name: [float(x) if math.isfinite(x) else None for x in figures] for name, figures in rows.items()}
        table = {"title": title, "columns": list(columns), "rows": kept, "ratio": ratio or None}
        self._sent.send(("table", table))


def seconds(work: Callable[[], object], repeat: int = 3) -> float:
    """The quickest of `repeat` runs."""
    taken = []
    for _ in range(repeat):
        wait_for_device()
        start = time.perf_counter()
        work()
        wait_for_device()
        taken.append(time.perf_counter() - start)
    return min(taken)


def context(*, short: bool) -> BaseContext:
    """How processes are started: each on its own, so that its memory is its own, or (`short`) quickly."""
    if not short:
        return multiprocessing.get_context("spawn")
    quick = multiprocessing.get_context("forkserver")
    quick.set_forkserver_preload(["benchmarks.concurrent", "benchmarks.inference"])
    return quick


def wait_for_device() -> None:
    """Wait until a GPU has done what it was given; it computes beside the process."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def default_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def show(title: str, columns: Sequence[str], rows: Rows, *, ratio: str | None = None) -> None:
    """Print a table, a name and figures per row, and keep it for `take_shown`; NaN stands for what was not measured.

    Args:
        ratio: the column that says how many times as good rlvo is as the other way; above 1 is better.
    """
    table = Table("", *columns, title=title, title_justify="left")
    for name, figures in rows.items():
        table.add_row(name, *map(_figure, figures))
    Console().print(table)
    _shown.append(Shown(title, tuple(columns), rows, ratio))


def take_shown() -> list[dict[str, Any]]:
    """The tables printed since the last call, as JSON holds them: NaN is null."""
    taken = [asdict(each) for each in _shown]
    _shown.clear()
    for table in taken:
        rows = table["rows"].items()
        table["rows"] = {name: [float(x) if math.isfinite(x) else None for x in figures] for name, figures in rows}
    return taken


def machine() -> dict[str, Any]:
    """What the figures were measured on, and when."""
    cores = os.cpu_count() or 1
    return {
        "cores": cores,
        "threads": torch.get_num_threads(),
        "cpu": _cpu(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "code": code_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_per_core": round(os.getloadavg()[0] / cores, 2),
    }


def _cpu() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":", 1)[1].strip() if names else platform.machine()


def _figure(figure: float) -> str:
    if not math.isfinite(figure):
        return "–"
    return f"{figure:.3g}" if abs(figure) < 100 else f"{figure:.0f}"


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log cost over log size, by least squares: 1 if cost is in proportion to size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
