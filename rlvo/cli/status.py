"""`rlvo status`: where the studies of a work folder stand, from any terminal and after a crash."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError

if TYPE_CHECKING:
    from rlvo.search.status import ConfigurationStatus, StudyStatus

INTERVAL = 2.0
"""Seconds between two looks at the folder."""
MARKS = {"finished": "✓", "pruned": "−", "failed": "✗", "damaged": "?", "waiting": "·", "skipped": " "}
STYLES = {"running": "bold", "silent": "yellow", "failed": "red", "damaged": "red", "pruned": "dim"}
ORDER = ("running", "silent", "damaged", "failed", "waiting", "finished", "pruned")
LINES_A_REASON = 6
"""On a terminal, a line in so many is left to the reasons of failures."""


def status(
    study: Annotated[str | None, typer.Argument(help="Study.", show_default="all of the work folder")] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    watch: Annotated[bool, typer.Option("--watch", help="Stay and redraw, until every trial has ended.")] = False,
    json: JsonOption = False,
) -> None:
    """Where a study stands: configurations, folds, epochs, the best, what failed and why, time to go.

    Only reads the work folder, so it works from any terminal, and after a crash.

    Example: rlvo status paper_grid --watch
    """
    from rlvo.search.status import study_status

    work = Workdir(workdir.expanduser().resolve())
    if watch and json:
        raise RlvoError("--watch and --json exclude each other", fix="Call rlvo status --json as often as you like")
    if study is not None:
        _check_exists(study, work)

    def look() -> list[StudyStatus]:
        return [study_status(folder) for folder in ([work.study(study)] if study else _folders(work))]

    if watch:
        _watch(look)
    elif json:
        found = [_as_json(each) for each in look()]
        emit_json(found[0] if study else {"studies": found})
    else:
        console.print(_page(look()), crop=console.is_terminal)


def _folders(work: Workdir) -> list[Path]:
    from rlvo.search.status import study_folders

    folders = study_folders(work.path / "studies")
    if not folders:
        raise RlvoError(
            "no study was started here", where=work.path, fix="Start one with rlvo search, or name --workdir"
        )
    return folders


def _check_exists(study: str, work: Workdir) -> None:
    names = [folder.name for folder in _folders(work)]
    if study not in names:
        raise RlvoError("no study of this name was started", where=study, fix=f"There is {', '.join(names)}")


def _watch(look: Callable[[], list[StudyStatus]]) -> None:
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                studies = look()
                live.update(_page(studies), refresh=True)
                if all(each.is_complete for each in studies):
                    return
                time.sleep(INTERVAL)
        except KeyboardInterrupt:
            return


def _page(studies: Sequence[StudyStatus]) -> RenderableType:
    return _study(studies[0]) if len(studies) == 1 else _overview(studies)


def _overview(studies: Sequence[StudyStatus]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("study")
    for column in ("finished", "running", "silent", "pruned", "failed", "best"):
        table.add_column(column, justify="right")
    table.add_column("last sign of life")
    for each in studies:
        table.add_row(
            each.name,
            f"{each.count('finished')}/{each.trials_total}",
            *(_nonzero(each.count(state)) for state in ("running", "silent", "pruned")),
            _nonzero(each.count("failed", "damaged")),
            _auc(each.best.auc if each.best else None),
            "" if each.quiet_seconds is None else f"{_duration(each.quiet_seconds)} ago",
        )
    return table


def _study(study: StudyStatus) -> Group:
    """One screen on a terminal; elsewhere everything."""
    reasons = [
        f"{trial.state}: {each.label} ({each.key}) fold {trial.fold}: {trial.reason}"
        for each in study.configurations
        for trial in each.trials
        if trial.state in ("failed", "damaged")
    ]
    shown = sorted(study.configurations, key=lambda each: (ORDER.index(each.state), -(each.auc or 0.0)))
    head = [Text(line, overflow="ellipsis", no_wrap=True) for line in _headlines(study)]
    bar = Table.grid()
    bar.add_row(
        ProgressBar(total=study.trials_total, completed=study.trials_total - _left(study), width=min(console.width, 60))
    )
    if console.is_terminal:
        reasons = reasons[: console.height // LINES_A_REASON]
        room = max(console.height - len(head) - len(reasons) - 4, 1)  # bar, table head, "and … more", prompt
        shown, more = shown[:room], len(shown) - room
    else:
        more = 0
    parts: list[RenderableType] = [*head, bar]
    if shown:
        parts.append(_configurations(shown, study.folds))
    if more > 0:
        parts.append(Text(f"and {more} more"))
    parts += [
        Text(reason, style="red", overflow="ellipsis" if console.is_terminal else "ignore", no_wrap=True)
        for reason in reasons
    ]
    return Group(*parts)


def _headlines(study: StudyStatus) -> list[str]:
    counts = [f"{study.count('finished')}/{study.trials_total} trials finished"]
    counts += [
        f"{count} {state}"
        for state in ("running", "silent", "pruned", "failed", "damaged")
        if (count := study.count(state))
    ]
    lines = [
        f"{study.name}: {', '.join(counts)}; {len(study.configurations)}/{study.configurations_total} configurations"
    ]
    if study.best is not None:
        lines.append(f"best {study.best.label} ({study.best.key}), val/auc {_auc(study.best.auc)}")
    if not study.is_complete and study.quiet_seconds is not None:
        eta = "unknown" if study.eta_seconds is None else f"{_duration(study.eta_seconds)} at most"
        lines.append(f"time to go {eta}; last sign of life {_duration(study.quiet_seconds)} ago")
    if study.count("silent") and not study.count("running"):
        lines.append("the search does not run: start it again with the same command, and it goes on")
    return lines


def _configurations(shown: Sequence[ConfigurationStatus], folds: int) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("configuration", overflow="ellipsis")
    table.add_column("key", no_wrap=True)
    for fold in range(folds):
        table.add_column(str(fold), justify="right", no_wrap=True)
    table.add_column("epochs", justify="right", no_wrap=True)
    table.add_column("val/auc", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for each in shown:
        is_whole = all(trial.state == "finished" for trial in each.trials)
        auc = _auc(each.auc) if is_whole or each.auc is None else f"({_auc(each.auc)})"
        marks = [MARKS.get(trial.state, str(trial.epoch)) for trial in each.trials]
        state = Text(each.state, style=STYLES.get(each.state, ""))
        table.add_row(
            Text(each.label, no_wrap=True, overflow="ellipsis"), each.key, *marks, str(each.epochs), auc, state
        )
    return table


def _left(study: StudyStatus) -> int:
    from rlvo.search.status import ENDED

    return max(study.trials_total - study.count(*ENDED), 0)


def _as_json(study: StudyStatus) -> dict[str, Any]:
    return {
        "study": study.name,
        "configurations_total": study.configurations_total,
        "trials": {
            "total": study.trials_total,
            **{state: study.count(state) for state in (*MARKS, "running", "silent") if state != "waiting"},  # type: ignore[arg-type]
            "waiting": _left(study) - study.count("running", "silent", "damaged"),
        },
        "complete": study.is_complete,
        "best": study.best.key if study.best else None,
        "eta_seconds": study.eta_seconds,
        "quiet_seconds": study.quiet_seconds,
        "configurations": [
            {
                "key": each.key,
                "label": each.label,
                "state": each.state,
                "val/auc": each.auc,
                "epochs": each.epochs,
                "folds": [asdict(trial) for trial in each.trials],
            }
            for each in study.configurations
        ],
    }


def _nonzero(count: int) -> str:
    return str(count) if count else ""


def _auc(auc: float | None) -> str:
    return "" if auc is None else f"{auc:.3f}"


def _duration(seconds: float) -> str:
    """In the two largest units that matter: `12 s`, `4 min`, `3 h 20 min`, `2 d 5 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"
