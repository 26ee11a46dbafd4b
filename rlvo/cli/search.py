"""`rlvo plan` and `rlvo search`: what a study would run, and running it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json, progress_bar
from rlvo.config.loading import load_study
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError

if TYPE_CHECKING:
    from rlvo.search.inputs import StudyInputs
    from rlvo.search.plan import StudyPlan
    from rlvo.search.progress import OnProgress, SearchProgress
    from rlvo.search.results import SearchResult

LINE_INTERVAL = 10.0
"""Seconds between lines where the output is not a terminal."""
GIB = 2**30

ConfigArgument = Annotated[Path, typer.Argument(help="Study configuration (YAML).")]


def plan(
    config: ConfigArgument,
    cohort: Annotated[Path | None, typer.Option(help="Cohort table, to plan the disk for its patients.")] = None,
    json: JsonOption = False,
) -> None:
    """What a study would run, without running it: trials, epochs, and what its models and volumes need.

    Example: rlvo plan tune_configs/paper_grid.yaml
    """
    from rlvo.cohort.tables import read_table
    from rlvo.search.plan import plan_study

    study = load_study(config)
    table = cohort or study.cohort.table
    planned = plan_study(study, patients=len(read_table(table).cells) if table is not None else None)
    if json:
        emit_json(asdict(planned))
    else:
        _print_plan(planned)


def search(
    config: ConfigArgument,
    cohort: Annotated[Path | None, typer.Option(help="Cohort table; wins over the configuration's.")] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    configurations: Annotated[
        int | None, typer.Option(min=1, help="How many in all; more than a finished study has extends it.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster, e.g. auto or ray://head:10001; default RAY_ADDRESS, else this machine."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train a study's configurations on all folds; run again, it goes on where it stopped.

    Example: rlvo search tune_configs/paper_grid.yaml --cohort cohort/cohort.csv
    """
    from rlvo.search.guards import alone
    from rlvo.search.study import open_study

    study, work = load_study(config), Workdir.at(workdir)
    if configurations is not None:
        study = _with_configurations(study, configurations)
    table = cohort or study.cohort.table
    if table is None:
        raise RlvoError(
            "no cohort table is named", where=config, fix="Give --cohort, or cohort.table in the configuration"
        )
    with alone(work.study(study.name)):
        inputs = open_study(study, table, work, progress=progress_bar)
        _print_cohort(inputs)
        result = run_mirrored(study, inputs, table, work, address=address)
    if json:
        emit_json(_result_json(study, result))
    else:
        _print_result(study, result)
        console.print(f"next: rlvo ensemble {study.name} --workdir {work.path}", highlight=False, soft_wrap=True)
    if result.best is None:
        reason = next(iter(result.failed[0].failures.values()))
        raise RlvoError(f"no configuration finished; the first failed because: {reason}", where=study.name)


def _with_configurations(study: StudyConfig, configurations: int) -> StudyConfig:
    search = study.search.model_copy(update={"configurations": configurations})
    study = study.model_copy(update={"search": search})
    if study.configurations < configurations:
        raise RlvoError(
            f"the grid has {study.configurations} points, not {configurations}",
            where="--configurations",
            fix="Add values to the space under another name, or sample it: search.sampler tpe",
        )
    return study


def run_mirrored(
    study: StudyConfig, inputs: StudyInputs, cohort_path: Path, workdir: Workdir, *, address: str | None = None
) -> SearchResult:
    """Run a study with its progress on the terminal, and carry what it writes into MLflow meanwhile."""
    from rlvo.cohort.pseudonym import cohort_key, pseudonym
    from rlvo.search.execute import run_search
    from rlvo.tracking.mirror import Mirror

    folder = workdir.study(study.name)
    pseudonymise = partial(pseudonym, key=cohort_key(cohort_path.expanduser().resolve().parent))
    mirror = Mirror(study, folder, workdir.tracking_uri(study.mlflow.tracking_uri), workdir.artifacts, pseudonymise)
    with mirror, search_display(study.name) as show:
        result = run_search(study, inputs, folder, on_progress=show, address=address)
    if not result.had_work:
        console.print(f"{study.name}: finished before, nothing was left to run", highlight=False)
    return result


@contextmanager
def search_display(name: str) -> Iterator[OnProgress]:
    """Shows a search: one screen that is redrawn on a terminal, a line now and then elsewhere."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield lambda progress: live.update(_screen(name, progress))
        return
    told, last = 0.0, ""

    def line(progress: SearchProgress) -> None:
        nonlocal told, last
        ended = _ended(progress) == progress.trials_total
        if (ended or time.monotonic() - told >= LINE_INTERVAL) and (text := _headline(name, progress)) != last:
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            told, last = time.monotonic(), text

    yield line


def _ended(progress: SearchProgress) -> int:
    return progress.trials_done + progress.trials_failed + progress.trials_pruned


def _headline(name: str, progress: SearchProgress) -> str:
    parts = [f"{name}: {progress.trials_done}/{progress.trials_total} trials", f"{len(progress.running)} running"]
    if progress.trials_pruned:
        parts.append(f"{progress.trials_pruned} pruned")
    if progress.trials_failed:
        parts.append(f"{progress.trials_failed} failed")
    if progress.best_auc is not None:
        parts.append(f"best {progress.best_label} {progress.best_auc:.3f}")
    return ", ".join(parts)


def _screen(name: str, progress: SearchProgress) -> Group:
    table = Table(box=None, pad_edge=False)
    for column in ("running", "fold", "epoch", "val/auc"):
        table.add_column(column, justify="left" if column == "running" else "right")
    room = max(console.height - 5, 1)
    for trial in progress.running[:room]:
        auc = "" if trial.auc is None else f"{trial.auc:.3f}"
        table.add_row(trial.label, str(trial.fold), f"{trial.epoch}/{trial.epochs}", auc)
    if len(progress.running) > room:
        table.add_row(f"and {len(progress.running) - room} more")
    bar = Table.grid()
    bar.add_row(ProgressBar(total=progress.trials_total, completed=_ended(progress), width=min(console.width, 60)))
    return Group(Text(_headline(name, progress)), bar, *([table] if progress.running else []))


def _print_cohort(inputs: StudyInputs) -> None:
    split = inputs.split
    for exclusion in inputs.excluded:
        if exclusion.patients:
            console.print(f"excluded, {exclusion.rule}: {len(exclusion.patients)} patients", highlight=False)
    for error in inputs.refused.values():
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{len(inputs.table)} patients ({int(inputs.label.sum())} rLVO): "
        f"{len(split.development)} in {len(split.folds)} folds, {len(split.test)} held out",
        highlight=False,
    )
    if inputs.doubts:
        console.print(f"{len(inputs.doubts)} patients' volumes need a review: rlvo prepare shows them", highlight=False)


def _print_plan(planned: StudyPlan) -> None:
    shape = "×".join(map(str, planned.grid))
    pruned = f" at most, about {planned.expected_epochs} with pruning" if planned.pruning != "none" else ""
    sampled = f"; {planned.sampler} over {', '.join(planned.sampled)}" if planned.sampled else ""
    console.print(
        f"{planned.study}: {planned.configurations} configurations × {planned.folds} folds = {planned.trials} trials, "
        f"{planned.epochs} epochs{pruned}",
        highlight=False,
    )
    console.print(f"{planned.combinations} enumerated combinations{sampled}", highlight=False)
    console.print(f"volumes {shape}, {planned.tabular_features} encoded clinical variables", highlight=False)
    table = Table("model", box=None, padding=(0, 1), pad_edge=False)
    for column in ("input\nchannels", "batch", "weights\nM", "forward\nGFLOP", "saved maps\nGiB", "last map"):
        table.add_column(column, justify="right", no_wrap=True)
    for model in planned.models:
        table.add_row(
            f"{model.backbone} {model.fusion}",
            str(model.channels),
            str(model.batch_size),
            f"{model.parameters / 1e6:.2f}",
            f"{model.forward_gflop:.4g}",
            f"{model.activation_bytes / GIB:.3g}",
            "×".join(map(str, model.last_map)),
        )
    console.print(table)
    store = f"prepared volumes {planned.store_bytes_a_patient / 2**20:.3g} MiB a patient"
    if planned.patients is not None:
        store += f", {planned.patients * planned.store_bytes_a_patient / GIB:.3g} GiB for {planned.patients}"
    console.print(f"disk: checkpoints {planned.checkpoint_bytes / GIB:.3g} GiB, {store}", highlight=False)


def _print_result(study: StudyConfig, result: SearchResult) -> None:
    console.print(f"{study.name}: mean over folds of val/auc (validation, so optimistic)", highlight=False)
    table = Table("configuration", "key", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("val/auc", justify="right")
    table.add_column("note")
    for each in sorted(result.configurations, key=lambda r: -1.0 if r.auc is None else r.auc, reverse=True):
        notes = [f"fold {fold}: {reason}" for fold, reason in each.failures.items()] or each.prunings.values()
        note = "; ".join(dict.fromkeys(notes))
        auc = f"{each.auc:.3f}" if each.auc is not None else each.state
        table.add_row(each.configuration.label, each.configuration.key, auc, Text(note))
    console.print(table)


def _result_json(study: StudyConfig, result: SearchResult) -> dict[str, Any]:
    return {
        "study": study.name,
        "best": result.best.configuration.key if result.best else None,
        "configurations": [
            {
                "key": each.configuration.key,
                "label": each.configuration.label,
                "state": each.state,
                "val/auc": each.auc,
                "folds": {fold: record.metrics for fold, record in sorted(each.records.items())},
                "failures": dict(sorted(each.failures.items())),
                "prunings": dict(sorted(each.prunings.items())),
                "configuration": each.configuration.model_dump(mode="json"),
            }
            for each in result.configurations
        ],
    }
