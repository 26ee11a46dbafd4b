"""What the commands share: options, the console, progress bars and JSON output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
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
from rich.text import Text

from rlvo.config.workdir import DEFAULT

console = Console(stderr=True)
"""Messages, tables and progress; standard output is for results (`--json`)."""

WorkdirOption = Annotated[
    Path,
    typer.Option("--workdir", envvar="RLVO_WORKDIR", help="Work folder: MLflow, store, studies.", show_default=DEFAULT),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]


def say(text: str) -> None:
    """Print a line as it is, on standard error."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def emit_json(value: Any) -> None:
    """Print one JSON document on standard output; NaN and infinity, which JSON does not have, as null."""
    plain = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    print(json.dumps(plain, indent=2, ensure_ascii=False))


class RateColumn(ProgressColumn):
    """How many are done in a minute, or an hour where that is less than one."""

    def render(self, task: Task) -> Text:
        """Nothing before there is a rate."""
        if not (speed := task.finished_speed or task.speed):
            return Text("")
        return Text(f"{60 * speed:.0f}/min" if 60 * speed >= 1 else f"{3600 * speed:.0f}/h", style="dim")


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; call the yielded function with (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
