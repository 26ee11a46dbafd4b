"""What users see in a terminal: lines, tables, intervals, progress, JSON. Users' own text is shown literally."""

import itertools
import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from rlvo.progress import Advance
from rlvo.text import escape_controls, escape_json

console = Console(stderr=True, markup=False, highlight=False, emoji=False)
"""Messages, tables and progress go to standard error; standard output is for results (`--json`)."""


def literal(text: str, style: str = "") -> Text:
    """Text to be shown as it is: rich reads no markup in it, and its control characters are visible, not obeyed."""
    return Text(escape_controls(text), style=style)


def print_line(text: str) -> None:
    """Print one line as it is on standard error, however wide the terminal is."""
    console.print(literal(text), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON document on standard output; NaN and infinity, which JSON does not have, become null."""
    _working.stop()
    plain = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    parts = json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(plain)
    while document := "".join(itertools.islice(parts, 100_000)):  # one may list every cell of a large table
        print(escape_json(document), end="")
    print()


def numeric(heading: str) -> Column:
    """A column of `text_table` for numbers, which are right-aligned."""
    return Column(_lines(heading), justify="right", overflow="fold")


def text_table(
    columns: Sequence[str | Column],
    rows: Iterable[Sequence[str | Text]],
    *,
    title: str | None = None,
    caption: str | None = None,
) -> Table:
    """A table without lines, for `console.print`. Cells, headings, title and caption are shown literally.

    Args:
        columns: a heading for each column of text, `numeric(heading)` for each column of numbers. Headings, title and
            caption may have several lines; a line break in a cell is shown as `\\n`.
        rows: cells, one for each column; fewer leave the last columns empty. `literal(text, style)` for a styled one.
    """
    table = Table(
        *(Column(_lines(each), overflow="fold") if isinstance(each, str) else each for each in columns),
        title=_lines(title) if title else None,
        caption=_lines(caption) if caption else None,
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.show_header = any(str(column.header) for column in table.columns)
    for row in rows:
        table.add_row(*(literal(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def align(rows: Sequence[Sequence[str | Text]], right: Collection[int] = ()) -> list[str]:
    """Rows as lines whose columns stand below one another; those in `right`, by number, are right-aligned."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    places = [f"{{:{'>' if number in right else '<'}{width}}}" for number, width in enumerate(widths)]
    return [" ".join(places).format(*row).rstrip() for row in cells]


def _lines(text: str) -> Text:
    return Text("\n").join(literal(line) for line in text.split("\n"))


def format_number(value: float | None) -> str:
    """Two decimals: "0.86"; "n.e." (not estimable) for NaN, nothing for None."""
    if value is None:
        return ""
    return "n.e." if math.isnan(value) else f"{value:.2f}"


def format_interval(value: float, low: float, high: float) -> str:
    """A value and its interval: "0.86 (0.78–0.93)"; "n.e." if the value is NaN."""
    return "n.e." if math.isnan(value) else f"{value:.2f} ({format_number(low)}–{format_number(high)})"


def format_mean_sd(mean: float, sd: float) -> str:
    """Mean and standard deviation: "0.86±0.03"; the mean alone if the SD is NaN, "n.e." if the mean is."""
    return format_number(mean) if math.isnan(mean) or math.isnan(sd) else f"{mean:.2f}±{sd:.2f}"


def format_p(p: float) -> str:
    """A p-value as papers print it: "< 0.001", "0.021", "0.34"; "n.e." for NaN."""
    if math.isnan(p):
        return "n.e."
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def format_odds(ratio: float, low: float, high: float) -> str:
    """An odds ratio and its interval, with three decimals if two would hide how narrow it is."""
    digits = 3 if high - low < 0.1 else 2
    between = "–" if low >= 0.01 and high <= 100 else " to "
    ends = [
        "> 100" if value > 100 else "< 0.01" if value < 0.01 else f"{value:.{digits}f}" for value in (ratio, low, high)
    ]
    return f"{ends[0]} ({ends[1]}{between}{ends[2]})"


class _RateColumn(ProgressColumn):
    """How many are done per minute, or per hour if fewer than one per minute."""

    def render(self, task: Task) -> Text:
        """Nothing before there is a rate."""
        if not (speed := task.finished_speed or task.speed):
            return Text("")
        return Text(f"{60 * speed:.0f}/min" if 60 * speed >= 1 else f"{3600 * speed:.0f}/h", style="dim")


_working = Live(console=console, transient=True, refresh_per_second=4, redirect_stdout=False)
"""The moving line of `show_working`; what else is shown meanwhile stands above it."""


@contextmanager
def show_working(description: str) -> Iterator[None]:
    """A line that moves on a terminal as long as a command works, so that it is never silent."""
    if not console.is_terminal or _working.is_started:
        yield
        return
    _working.update(_moving(description))
    with _working:
        yield


@contextmanager
def show_step(description: str) -> Iterator[None]:
    """Say on standard error what is being done: in the moving line of the command if there is one, else in a line."""
    if not _working.is_started:
        print_line(f"{description} ...")
        yield
        return
    before = _working.renderable
    _working.update(_moving(description))
    yield
    _working.update(before)


def _moving(description: str) -> Spinner:
    return Spinner("dots", literal(description, style="dim"))


@contextmanager
def show_progress(description: str) -> Iterator[Advance]:
    """A progress bar on standard error, of the type `rlvo.progress.ShowProgress`."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(escape_controls(description), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
