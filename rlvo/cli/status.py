"""`rlvo status`: where the studies of a work folder stand, from any terminal and after a crash."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from rlvo.cli.common import JsonOption, WorkdirOption
from rlvo.config.commands import command_line
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError
from rlvo.report import console as terminal
from rlvo.report.console import align, literal, numeric, print_json, print_line, text_table
from rlvo.search.forecast import read_forecast
from rlvo.study.folder import StudyFolder, no_study, started_studies
from rlvo.study.state import ENDED, ConfigurationState, FinishedConfiguration, StudyState
from rlvo.text import escape_controls
from rlvo.training.usage import UsageReader

INTERVAL = 2.0
"""Seconds between two looks at the folder."""
MARKS = {"finished": "✓", "pruned": "−", "failed": "✗", "damaged": "?", "waiting": "·", "skipped": " "}
STYLES = {"running": "bold", "silent": "yellow", "failed": "red", "damaged": "red", "pruned": "dim"}
ORDER = ("running", "silent", "damaged", "failed", "waiting", "finished", "pruned")
LINES_PER_REASON = 6
"""On a terminal, one line in this many is left to the reasons of failures."""


def status(
    study: Annotated[str | None, typer.Argument(help="Study.", show_default="all of the work folder")] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    watch: Annotated[bool, typer.Option("--watch", help="Stay and redraw, until every trial has ended.")] = False,
    csv: Annotated[
        bool,
        typer.Option("--csv", help="One row per trial: parameters, state, metrics, times, folder, run in MLflow."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Where a study stands: configurations, folds, epochs, the best, what failed and why, time to go.

    Only reads the work folder, so it works from any terminal, and after a crash.

    Example: rlvo status paper_grid --watch
    """
    work = Workdir.at(workdir, create=False)
    if watch + json + csv > 1:
        shown = "--csv" if csv else "--json"
        again = command_line("status", *([study] if study else []), shown, workdir=work.path)
        what = "--watch, --csv and --json exclude each other"
        raise RlvoError(what, fix=f"Call `{again}` as often as you like")

    usage = UsageReader()

    def look() -> list[StudyState]:
        with _no_garbage():
            return [read_forecast(folder, usage) for folder in _find_studies(work, study)]

    if csv:
        _print_csv(work, _find_studies(work, study))
    elif watch:
        _watch(look)
    else:
        with _no_garbage():
            if json:
                found = [_as_json(each) for each in look()]
                print_json(found[0] if study else {"studies": found})
            else:
                terminal.console.print(_page(look()), crop=terminal.console.is_terminal)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Without Python's search for garbage: it would look through thousands of records again and again, in which there
    are no circles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _print_csv(work: Workdir, studies: Sequence[StudyFolder]) -> None:
    from rlvo.files import csv_text
    from rlvo.workflows.trials import trials_and_runs  # pandas and MLflow: only for this

    if len(studies) > 1:
        names = ", ".join(folder.path.name for folder in studies)
        raise RlvoError("--csv shows one study", fix=f"Name one: {names}")
    print(csv_text(trials_and_runs(studies[0], work, lambda warning: print_line(f"warning: {warning}"))), end="")


def study_page(study: StudyState) -> Group:
    """Where a study stands: one screen on a terminal; elsewhere everything. The live view of a search shows it too."""
    console = terminal.console
    reasons = [
        f"{trial.state}: {each.label} ({each.key}) fold {trial.fold}: {trial.reason}"
        for each in study.configurations
        for trial in each.trials
        if trial.state in ("failed", "damaged")
    ]
    shown = sorted(study.configurations, key=lambda each: (ORDER.index(each.state), -(each.auc or 0.0)))
    head, more = headlines(study), 0
    if console.is_terminal:
        reasons = reasons[: console.height // LINES_PER_REASON]
        room = max(console.height - len(head) - len(reasons) - 4, 1)  # bar, table head, "and … more", prompt
        shown, more = shown[:room], len(shown) - room
    ended = study.trials_total - _left(study)
    bar = Table.grid()
    bar.add_row(ProgressBar(total=study.trials_total, completed=ended, width=min(console.width, 60)))
    parts: list[RenderableType] = [*(_one_line(line) for line in head), bar]
    if shown:
        parts.append(_configurations(shown, study.folds))
    if more > 0:
        parts.append(literal(f"and {more} more"))
    return Group(*parts, *(_one_line(reason, "red") for reason in reasons))


def headlines(study: StudyState) -> list[str]:
    """A study in a few lines: counts, the best, the time to go."""
    counts = [f"{study.count('finished')}/{study.trials_total} trials finished"]
    counts += [f"{count} {state}" for state in STYLES if (count := study.count(state))]  # type: ignore[arg-type]
    started = f"{len(study.configurations)}/{study.configurations_total} configurations"
    lines = [f"{study.name}: {', '.join(counts)}; {started}"]
    if (best := study.best) is not None:
        repeats = f", mean of {len(best.repeats)} repeats" if len(best.repeats) > 1 else ""
        lines.append(f"best {best.label} ({best.key}), val/auc {_auc(best.objective)}{_se(best)}{repeats}")
    if study.restarted:
        lines.append(f"{study.restarted} trial(s) had not left chance and started again with another seed")
    if study.at_chance:
        lines.append(f"{study.at_chance} trial(s) never left chance, not even on their own training patients")
    if study.retried:
        lines.append(f"{study.retried} trial(s) ran out of memory and went on with fewer patients at once")
    if not study.is_complete and study.quiet_seconds is not None:
        eta = "unknown" if study.eta_seconds is None else f"about {_duration(study.eta_seconds)}"
        eta += ", if no trial starts again" if study.may_restart else ""
        lines.append(f"time to go {eta}; last sign of life {_duration(study.quiet_seconds)} ago")
    if study.energy_kwh is not None:
        lines.append(f"energy so far {study.energy_kwh:.3g} kWh, by the counters of processors and GPUs")
    if study.count("silent") and not study.count("running"):
        lines.append("no search is running: start it again with the same command, and it continues")
    return lines


@dataclass(frozen=True)
class _AsTheyAre:
    """Lines that Rich need not fit into a width: a hundredth of the work."""

    lines: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment("".join(f"{escape_controls(line)}\n" for line in self.lines))


def _one_line(text: str, style: str = "") -> RenderableType:
    line = literal(text, style)
    line.no_wrap, line.overflow = True, "ellipsis" if terminal.console.is_terminal else "ignore"
    return line


def _find_studies(work: Workdir, name: str | None) -> list[StudyFolder]:
    """The study of this name; None: all of the work folder."""
    if not (folders := started_studies(work.path / "studies")):
        start = command_line("search", "STUDY.yaml", "--cohort", "TABLE", workdir=work.path)
        fix = f"Name another --workdir, or start one: {start}"
        raise RlvoError("no study was started here", where=work.path, fix=fix)
    names = [folder.path.name for folder in folders]
    if name is not None and name not in names:
        raise no_study(work.studies, name)
    return [folder for folder in folders if name in (None, folder.path.name)]


def _watch(look: Callable[[], list[StudyState]]) -> None:
    with Live(console=terminal.console, auto_refresh=False) as live, suppress(KeyboardInterrupt):
        while True:
            studies = look()
            live.update(_page(studies), refresh=True)
            if all(each.is_complete for each in studies):
                return
            time.sleep(INTERVAL)


def _page(studies: Sequence[StudyState]) -> RenderableType:
    if len(studies) == 1:
        return study_page(studies[0])
    counted = ("finished", "running", "silent", "pruned", "failed", "best")
    rows = [
        (
            each.name,
            f"{each.count('finished')}/{each.trials_total}",
            *(str(each.count(state) or "") for state in ("running", "silent", "pruned")),
            str(each.count("failed", "damaged") or ""),
            _auc(each.best.objective if each.best else None),
            "" if each.quiet_seconds is None else f"{_duration(each.quiet_seconds)} ago",
        )
        for each in studies
    ]
    return text_table(["study", *map(numeric, counted), "last sign of life"], rows)


def _configurations(shown: Sequence[ConfigurationState], folds: int) -> RenderableType:
    numbers = (*map(str, range(folds)), "epochs", "val/auc", "SE")
    rows: list[tuple[str | Text, ...]] = []
    for each in shown:
        is_whole = all(trial.state == "finished" for trial in each.trials)
        auc = _auc(each.auc) if is_whole or each.auc is None else f"({_auc(each.auc)})"
        marks = [MARKS.get(trial.state, str(trial.epoch)) for trial in each.trials]
        state = literal(each.state, STYLES.get(each.state, ""))
        rows.append((each.label, each.key, *marks, str(each.epochs), auc, _auc(each.standard_error), state))
    if not terminal.console.is_terminal:  # as wide as it is, and in a tenth of the time
        lines = align([("configuration", "key", *numbers, "state"), *rows], right=range(2, 2 + len(numbers)))
        return _AsTheyAre(lines)
    columns = [Column("configuration", overflow="ellipsis", no_wrap=True), Column("key", no_wrap=True)]
    columns += [numeric(heading) for heading in numbers]
    return text_table([*columns, Column("state", no_wrap=True)], rows)


def _left(study: StudyState) -> int:
    return max(study.trials_total - study.count(*ENDED), 0)


def _as_json(study: StudyState) -> dict[str, Any]:
    counted = [state for state in (*MARKS, "running", "silent") if state != "waiting"]
    return {
        "study": study.name,
        "configurations_total": study.configurations_total,
        "trials": {
            "total": study.trials_total,
            **{state: study.count(state) for state in counted},  # type: ignore[arg-type]
            "waiting": _left(study) - study.count("running", "silent", "damaged"),
        },
        "never_left_chance": study.at_chance,
        "complete": study.is_complete,
        "best": study.best.key if study.best else None,
        "best_val/auc": study.best.objective if study.best else None,
        "eta_seconds": study.eta_seconds,
        "energy_kwh": study.energy_kwh,
        "quiet_seconds": study.quiet_seconds,
        "configurations": [
            {
                "key": each.key,
                "label": each.label,
                "state": each.state,
                "val/auc": each.auc,
                "val/auc_se": each.standard_error,
                "epochs": each.epochs,
                "folds": [
                    {name: getattr(trial, name) for name in ("fold", "state", "epoch", "auc", "reason")}
                    for trial in each.trials
                ],
            }
            for each in study.configurations
        ],
    }


def _auc(auc: float | None) -> str:
    return "" if auc is None else f"{auc:.3f}"


def _se(configuration: FinishedConfiguration) -> str:
    error = configuration.standard_error
    return "" if error is None else f" ± {error:.3f} (standard error over folds)"


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
