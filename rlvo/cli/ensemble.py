"""`rlvo ensemble`: from trials to a registered model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rlvo.cli.common import JsonOption, StudyArgument, WorkdirOption, print_links, print_notes, writable_file
from rlvo.config.commands import command_line
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError
from rlvo.files import atomic_write, csv_text
from rlvo.report.console import console, format_interval, numeric, print_json, print_line, show_progress, text_table
from rlvo.study.folder import StudyFolder, read_config

if TYPE_CHECKING:
    import pandas as pd

    from rlvo.workflows.ensemble import BuiltEnsemble
    from rlvo.workflows.ensemble_comparison import TieRules


def ensemble(
    study: StudyArgument,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Compare the study's way to combine with ways that differ in one setting, out of fold."
        ),
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="With --compare: write every selection × weighting × scale, without and with the table's model, "
            "and the study's own with either linear model of the volumes.",
            callback=writable_file,
        ),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Build even if trials or modalities are missing.")] = False,
    reduced: Annotated[
        str | None,
        typer.Option(help="A study of fewer predictors (Model B), whose ensemble answers without CT perfusion."),
    ] = None,
    check_bfloat16: Annotated[
        bool, typer.Option("--check-bfloat16", help="At registration, also measure what reduced precision changes.")
    ] = False,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Build a study's ensembles from its stored validation predictions, and register the study's own.

    The registered version must reproduce the stored predictions before it becomes the champion.

    Example: rlvo ensemble demo
    """
    from rlvo.ensemble.comparison import one_change
    from rlvo.workflows import ensemble as workflow
    from rlvo.workflows import ensemble_comparison
    from rlvo.workflows.study import labels_by_modality, open_searched_study, where_in_mlflow

    work = Workdir.at(workdir)
    if csv is not None and not compare:
        fix = command_line("ensemble", study, "--compare", "--csv", csv, workdir=work.path)
        raise RlvoError("--csv needs --compare", fix=f"Call `{fix}`")
    if compare:
        name, compared = ensemble_comparison.compare(study, work)
        ties = ensemble_comparison.compare_tie_rules(study, work)
        if json:
            from rlvo.evaluation.performance import INTERVAL_METHODS

            rows = compared.to_dict("records")
            known = {"correlation": ties.correlation, "is_measured": ties.is_measured}
            simulated = {**known, "rules": ties.votes.reset_index().to_dict("records")}
            shown = {"study": name, "interval_method": INTERVAL_METHODS["auc"], "out_of_fold": rows}
            print_json({**shown, "ties_simulated": simulated})
        else:
            own = read_config(StudyFolder(work.study(name))).ensemble
            console.print(_comparison_table(name, compared, one_change(compared, own)))
            console.print(_tie_table(ties))
        if csv is not None:
            atomic_write(csv, csv_text(compared))
            print_line(f"written: {csv}")
        return
    opened = open_searched_study(study, work, progress=show_progress)
    print_notes(opened.inputs.notes)
    built = workflow.build_and_register(
        opened, partial=partial, reduced=reduced, check_bfloat16=check_bfloat16, progress=show_progress
    )
    if json:
        ensembles = {
            name: {
                "configurations": labels_by_modality(spec),
                "validation_optimistic": workflow.mean_and_sd(built.validation[name]),
                "notes": spec.notes,
            }
            for name, spec in built.specs.items()
        }
        print_json({"model": built.model, "version": built.version, "folder": built.folder, "ensembles": ensembles})
        return
    console.print(_validation_table(built, opened.config.name))
    for note in built.notes:
        print_line(f"note: {note}")
    for note in built.unbeaten:
        print_line(f"note: out of fold: {note}")
    print_line(built.registered)
    print_line(f"calibration: {opened.folder.reliability}.png")
    print_links(where_in_mlflow(opened.work, opened.config))
    print_line(f"next: {command_line('evaluate', opened.config.name, workdir=work.path)}")


def _comparison_table(study: str, compared: pd.DataFrame, shown: pd.DataFrame) -> Table:
    """The ways to be shown, and the one that is highest of all."""
    from rlvo.ensemble.comparison import WAY
    from rlvo.evaluation.performance import INTERVAL_METHODS

    nested = compared[compared["estimate"] == "nested"]
    highest = nested.sort_values("auc", ascending=False, kind="stable").iloc[0]
    own = shown.sort_values("change", key=lambda change: change != "", kind="stable")
    rows = []
    for change, pair in own.groupby("change", sort=False):
        rows.append((str(change) or "the study's own", *_figures(pair)))
    best = compared[(compared[list(WAY)] == highest[list(WAY)]).all(axis=1)]
    rows.append(("highest of all†", *_figures(best)))
    setting = ", ".join(f"{name} {highest[name]}" for name in WAY)
    return text_table(
        ["way to combine", *map(numeric, ("AUC*", "AUC (95 %)", "bal. acc.", "sens.", "spec."))],
        rows,
        title=f"{study}: out-of-fold patients, each scored by its own fold",
        caption="* Optimistic: chosen, weighted and thresholded on the patients who are scored. The others: nested, on "
        f"other folds; {highest['basis']}. The vote over folds cannot be seen here; the hold-out shows it. "
        f"Intervals: {INTERVAL_METHODS['auc']}.\n"
        f"† Of {len(nested)} ways (--csv FILE, --json): {setting}. The highest of so many is too high by chance.",
    )


def _figures(estimates: pd.DataFrame) -> tuple[str, ...]:
    """A way's optimistic AUC, and what it is worth nested."""
    by_name: dict[Any, Any] = estimates.set_index("estimate").to_dict("index")
    nested = by_name["nested"]
    decisions = (f"{nested[column]:.2f}" for column in ("balanced_accuracy", "sensitivity", "specificity"))
    auc = format_interval(nested["auc"], nested["low"], nested["high"])
    return f"{by_name['optimistic']['auc']:.2f}", auc, *decisions


def _tie_table(ties: TieRules) -> Table:
    columns = ["balanced_accuracy", "sensitivity", "specificity"]
    known = "measured" if ties.is_measured else "assumed: it is measured when the ensemble is built"
    return text_table(
        ["rule for ties", *map(numeric, ("bal. acc.", "sens.", "spec."))],
        [(str(rule), *(f"{values[name]:.2f}" for name in columns)) for rule, values in ties.votes.iterrows()],
        title="The vote over folds, simulated for the study's selection and weighting",
        caption=f"Normal margins with each class's nested mean and SD, correlated {ties.correlation:.2f} between folds "
        f"({known}); {ties.votes['tied'].iloc[0]:.0%} of the patients are tied.",
    )


def _validation_table(built: BuiltEnsemble, study: str) -> Table:
    rows = []
    for name, spec in built.specs.items():
        metrics = built.validation[name]
        members = ", ".join(dict.fromkeys(f"{c.model.modality} {c.model.fusion}" for c in spec.configurations))
        baselines = dict.fromkeys(each for each in spec.contenders if isinstance(each, str))
        members = ", ".join([members, *(each.replace("_", " ") for each in baselines)])
        shown = [metrics[column] for column in ("auc", "balanced_accuracy", "sensitivity", "specificity")]
        rows.append((name, members, *(f"{values.mean():.2f} ({values.std():.2f})" for values in shown)))
    return text_table(
        ["", "members", *map(numeric, ("AUC", "bal. acc.", "sens.", "spec."))],
        rows,
        title=f"{study}: mean over folds (SD) on validation patients",
        caption="Optimistic: weights and thresholds were fitted to them.",
    )
