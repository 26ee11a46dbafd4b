"""`rlvo plan` and `rlvo search`: what a study would run, and running it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live

from rlvo.cli.common import AddressOption, JsonOption, WorkdirOption, print_links, print_notes
from rlvo.cli.status import headlines, study_page
from rlvo.config.commands import command_line
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError
from rlvo.progress import no_progress
from rlvo.report.console import console, numeric, print_json, print_line, show_progress, show_step, text_table
from rlvo.study.folder import load_or_started
from rlvo.study.state import StudyState, finished_configurations

if TYPE_CHECKING:
    from rlvo.search.plan import StudyPlan
    from rlvo.search.verdict import Verdict
    from rlvo.study.inputs import StudyInputs

LINE_INTERVAL = 10.0
"""Seconds between lines if the output is not a terminal."""
GIB = 2**30

ConfigArgument = Annotated[
    Path, typer.Argument(help="A study's YAML file, or the name of a shipped study or of one in the work folder.")
]


def plan(
    config: ConfigArgument,
    cohort: Annotated[Path | None, typer.Option(help="Cohort table, to plan the disk and the hold-out.")] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    measure: Annotated[
        bool, typer.Option("--measure", help="Run each network for some seconds here: hours, energy, memory.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """What a study would run, without running it: trials, epochs, what it needs, and whether this machine has that.

    How long it takes is told if the work folder has trials of such networks on such a grid, or by --measure.

    Example: rlvo plan paper_grid
    """
    work = Workdir.at(workdir, create=False)
    study = load_or_started(config, work.studies)
    from rlvo.workflows.search import plan

    work = Workdir.at(workdir, create=False)
    with show_step(f"planning {study.name}"):
        shown = show_progress if measure else no_progress
        planned, verdict = plan(study, cohort, work, file=config, measure=measure, progress=shown)
    print_notes(planned.notes)
    if json:
        print_json({**asdict(planned), "verdict": asdict(verdict)})
    else:
        _print_plan(planned)
        _print_measured(planned, verdict)
        _print_verdict(verdict, is_auto=study.resources.gpus == "auto")


def search(
    config: ConfigArgument,
    cohort: Annotated[Path | None, typer.Option(help="Cohort table; wins over the configuration's.")] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    configurations: Annotated[
        int | None, typer.Option(min=1, help="How many in all; more than a finished study has extend it.")
    ] = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Train a study's configurations on all folds; run again, it continues where it stopped.

    Example: rlvo search paper_grid --cohort cohort/cohort.csv
    """
    study = load_or_started(config, Workdir.at(workdir, create=False).studies)
    from rlvo.workflows.search import search, with_configurations
    from rlvo.workflows.study import where_in_mlflow

    if configurations is not None:
        study = with_configurations(study, configurations)
    work = Workdir.at(workdir)
    review = command_line("prepare", cohort or study.cohort.table, "--config", config, workdir=work.path)
    _, state = search(
        study,
        cohort,
        work,
        address=address,
        progress=show_progress,
        show_state=partial(show_cohort_and_search, review=review),
        warn=lambda warning: print_line(f"warning: {warning}"),
    )
    if json:
        print_json(_result_json(state))
    else:
        _print_result(state)
        print_links({name: link for name, link in where_in_mlflow(work, study).items() if name != "ensembles"})
        print_line(f"next: {command_line('ensemble', study.name, workdir=work.path)}")
    if state.best is None:
        reason = next(iter(state.failed[0].reasons("failed").values()))
        raise RlvoError(f"no configuration finished; the first failed because: {reason}", where=study.name)


@contextmanager
def show_search(inputs: StudyInputs) -> Iterator[Callable[[StudyState], None]]:
    """Where a search stands: on a terminal the page of `rlvo status`, elsewhere its first lines now and then."""
    first: StudyState | None = None
    shown, last = 0.0, ""
    with Live(console=console, refresh_per_second=4) if console.is_terminal else nullcontext() as live:

        def show(state: StudyState) -> None:
            nonlocal first, shown, last
            first = first or state
            if live is not None:
                live.update(study_page(state))
                return
            is_due = state.is_complete or time.monotonic() - shown >= LINE_INTERVAL
            if is_due and (line := "; ".join(headlines(state)[:2])) != last:
                print_line(line)
                shown, last = time.monotonic(), line

        yield show
    if first is not None and first.is_complete:
        print_line(f"{first.name}: finished before, nothing was left to run")


@contextmanager
def show_cohort_and_search(inputs: StudyInputs, review: str) -> Iterator[Callable[[StudyState], None]]:
    """What a search trains on, then where it stands.

    Args:
        review: the command that shows patients whose volumes a person should look at.
    """
    print_notes(inputs.notes)
    split = inputs.split
    for exclusion in inputs.excluded:
        if exclusion.patients:
            print_line(f"excluded, {exclusion.rule}: {len(exclusion.patients)} patients")
    for error in inputs.refused.values():
        print_line(str(error))
    counted = f"{len(inputs.table)} patients ({int(inputs.label.sum())} rLVO)"
    print_line(f"{counted}: {len(split.validated)} in {len(split.folds)} folds, {len(split.test)} held out")
    for line in inputs.pretrained:
        print_line(f"pretrained weights: {line}")
    if split.training_only:
        print_line(f"{len(split.training_only)} more train every fold, and validate and test none")
    if inputs.doubts:
        print_line(f"the volumes of {len(inputs.doubts)} patients need a review: `{review}` shows them")
    with show_search(inputs) as show:
        yield show


def _print_plan(planned: StudyPlan) -> None:
    pruned = f" at most, about {planned.expected_epochs} with pruning" if planned.pruning != "none" else ""
    sampled = f"; {planned.sampler} over {', '.join(planned.sampled)}" if planned.sampled else ""
    trials = f"{planned.configurations} configurations × {planned.folds} folds = {planned.trials} trials"
    print_line(f"{planned.study}: {trials}, {planned.epochs} epochs{pruned}")
    if planned.restarts:
        times = f"up to {planned.restarts} time(s), which neither epochs nor hours count"
        most = f"at most {planned.restarts + 1} times as many, if none ever leaves chance"
        print_line(f"a trial that never left chance starts again {times}: {most}")
    print_line(f"{planned.combinations} enumerated combinations{sampled}")
    shape = "×".join(map(str, planned.grid))
    print_line(f"volumes {shape}, {planned.tabular_features} encoded clinical variables")
    columns = ("input\nchannels", "batch", "weights\nM", "forward\nGFLOP", "saved maps\nGiB", "last map")
    rows = [
        (
            " ".join([model.backbone, model.fusion, *model.options]),
            str(model.channels),
            str(model.batch_size) + (f"\n({model.at_once} at once)" if model.at_once < model.batch_size else ""),
            f"{model.parameters / 1e6:.2f}",
            f"{model.forward_gflop:.4g}",
            f"{model.activation_bytes / GIB:.3g}",
            "×".join(map(str, model.last_map)),
        )
        for model in planned.models
    ]
    console.print(text_table(["model", *map(numeric, columns)], rows))
    store = f"prepared volumes {planned.store_bytes_a_patient / 2**20:.3g} MiB per patient"
    if planned.patients is not None:
        store += f", {planned.patients * planned.store_bytes_a_patient / GIB:.3g} GiB for {planned.patients}"
    if planned.holdout is not None:
        print_line(f"hold-out: {planned.holdout.statement}")
    print_line(f"disk: checkpoints {planned.checkpoint_bytes / GIB:.3g} GiB, {store}")


def _print_verdict(verdict: Verdict, *, is_auto: bool) -> None:
    has = "" if verdict.available_bytes is None else f"; this machine has {verdict.available_bytes / 1e9:.1f} GB"
    need = f"a trial needs about {verdict.trial_bytes / 1e9:.1f} GB"
    if verdict.at_once > 1:
        need += f", {verdict.at_once} at once {verdict.needed_bytes / 1e9:.1f} GB"
    print_line(f"{verdict.device} memory: {need}{has}")
    if verdict.per_gpu:
        auto = "auto: here " if is_auto else ""
        print_line(f"trials per GPU: {verdict.per_gpu} (resources.gpus {auto}{verdict.gpus:g})")
    elif is_auto:
        print_line("resources.gpus auto: no GPU here, so trials would train on the CPU")
    print_line(
        f"free disk: {verdict.free_disk_bytes / 1e9:.1f} GB, of which it needs {verdict.disk_bytes / 1e9:.1f} GB"
    )
    print_line(f"time: {'not known' if verdict.hours is None else _duration(verdict.hours)}: {verdict.pace}")
    if verdict.hours_without_pruning is not None and verdict.hours_without_pruning != verdict.hours:
        print_line(f"without pruning: {_duration(verdict.hours_without_pruning)}")
    if verdict.measured:
        counted = "not counted on this machine" if verdict.kwh is None else f"about {verdict.kwh:.3g} kWh"
        print_line(f"energy of processors and GPUs: {counted}")
    print_line(
        "verdict: fits this machine"
        if verdict.fits
        else f"verdict: does not fit this machine: {'; '.join(verdict.reasons)}"
    )


def _print_measured(planned: StudyPlan, verdict: Verdict) -> None:
    """What was measured of each model; nothing without --measure."""
    rows = []
    for model, found in zip(planned.models, verdict.measured, strict=False):
        name = f"{model.backbone} {model.fusion}, {model.channels} channels"
        if isinstance(found, str):
            print_line(f"{name} cannot be run here: {found}")
            continue
        times = (f"{1000 * each:.3g}" for each in (found.training, found.validation, found.reading))
        rows.append(
            (
                name,
                str(model.channels),
                *times,
                f"{found.input_share:.0%}",
                f"{1000 * found.saving:.3g}",
                f"{found.peak_bytes / 1e9:.2f}",
            )
        )
    if rows:
        heads = (
            "input\nchannels",
            "training\nms/patient",
            "validation\nms/patient",
            "reading\nms/patient",
            "share of\na step",
            "saving\nms",
            "peak\nGB",
        )
        print_line(f"measured with {verdict.at_once} at once; volumes are read while the step before runs")
        console.print(text_table(["model", *map(numeric, heads)], rows))


def _duration(hours: float) -> str:
    return f"about {hours:.1f} hours" if hours >= 1 else f"about {max(60 * hours, 1):.0f} min"


def _print_result(state: StudyState) -> None:
    rows, finished = [], finished_configurations(state.configurations)
    means = {
        each.key: f"mean of {len(each.repeats)} repeats: {each.objective:.3f}" for each in finished if each.repeats[1:]
    }
    best_first = [repeat for each in finished for repeat in each.repeats]
    for each in [*best_first, *(other for other in state.configurations if other.objective is None)]:
        failures = [f"fold {fold}: {reason}" for fold, reason in each.reasons("failed").items()]
        notes = dict.fromkeys(failures or each.reasons("pruned").values() or filter(None, [means.get(each.key)]))
        auc = each.state if each.objective is None else f"{each.objective:.3f}"
        rows.append((each.label, each.key, auc, "; ".join(notes)))
    print_line(f"{state.name}: mean over folds of val/auc (validation, so optimistic)")
    console.print(text_table(["configuration", "key", numeric("val/auc"), "note"], rows))


def _result_json(state: StudyState) -> dict[str, Any]:
    return {
        "study": state.name,
        "best": state.best.key if state.best else None,
        "configurations": [
            {
                "key": each.key,
                "label": each.label,
                "state": each.state,
                "val/auc": each.objective,
                "folds": {fold: record.metrics for fold, record in sorted(each.records.items())},
                "failures": dict(sorted(each.reasons("failed").items())),
                "prunings": dict(sorted(each.reasons("pruned").items())),
                "configuration": each.configuration.model_dump(mode="json") if each.configuration else None,
            }
            for each in state.configurations
        ],
    }
