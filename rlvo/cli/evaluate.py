"""`rlvo evaluate`: a study's frozen ensembles on its hold-out, whose openings are counted, or a model elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlvo.about import NOTICE
from rlvo.cli.common import (
    ColumnsOption,
    JsonOption,
    UngatedOption,
    WorkdirOption,
    column_mapping,
    print_links,
    print_notes,
)
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError
from rlvo.report.console import console, print_json, print_line, show_progress

if TYPE_CHECKING:
    from rlvo.evaluation.subgroups import SubgroupAnalysis
    from rlvo.workflows.external import ExternalCohort, ExternalQuestion
    from rlvo.workflows.holdout import Evaluation
    from rlvo.workflows.study import ReadStudy


def evaluate(
    name: Annotated[
        str,
        typer.Argument(
            help="A study's name or YAML file; with COHORT a registered model (rlvo-ensemble@champion) or its folder.",
            metavar="STUDY|MODEL",
        ),
    ],
    cohort: Annotated[
        Path | None,
        typer.Argument(help="Table of another cohort, with outcomes: external validation.", metavar="COHORT"),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Show again what the last opening showed, without opening anything.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Open a hold-out that was opened before.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is opened again; kept in the log.")] = None,
    record: Annotated[
        str | None,
        typer.Option(
            help="With COHORT: add the figures to the version's description under this title.", metavar="TEXT"
        ),
    ] = None,
    columns: ColumnsOption = None,
    ungated: UngatedOption = False,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Open the hold-out, once, for all ensembles a study has declared and the clinical baselines.

    The study's own ensemble is shown in subgroups too. A later opening needs --again and a --reason; all are counted.
    --show shows the kept figures of the last opening again, and opens nothing.
    With COHORT: a registered model on another hospital's patients, at its frozen thresholds; run again, it continues.

    Example: rlvo evaluate demo; rlvo evaluate rlvo-ensemble@champion hospital-b.csv
    """
    if cohort is not None:
        from rlvo.workflows.external import open_external

        if again or reason or show:
            raise RlvoError("--show, --again and --reason are for a hold-out", where=cohort, fix="Leave them out")
        work = Workdir.at(workdir, create=False)
        question = open_external(
            [name], cohort, work, columns=column_mapping(columns), ungated=ungated, progress=show_progress
        )
        _evaluate_external(question, record=record, json=json)
        return
    if record:
        raise RlvoError("--record goes with COHORT; an opening of a hold-out is recorded anyway", fix="Leave it out")
    if ungated or columns:
        raise RlvoError(f"{'--ungated' if ungated else '--columns'} goes with COHORT", fix="Leave it out")
    if again != bool(reason and reason.strip()):
        raise RlvoError("--again goes with --reason TEXT, and only with it", fix="Give both, or neither")
    if show and again:
        raise RlvoError("--show opens nothing, and --again does", fix="Give one of them")
    if show:
        _show_evaluation(name, Workdir.at(workdir), json=json)
    else:
        _evaluate_study(name, Workdir.at(workdir), reason=reason, json=json)


def _evaluate_study(name: str, work: Workdir, *, reason: str | None, json: bool) -> None:
    from rlvo.workflows.evaluate import check_evaluation, evaluate
    from rlvo.workflows.study import open_searched_study

    check_evaluation(name, work, reason)
    study = open_searched_study(name, work, progress=show_progress)
    print_notes(study.inputs.notes)
    _print_evaluation(study, evaluate(study, reason=reason, progress=show_progress), json=json)


def _show_evaluation(name: str, work: Workdir, *, json: bool) -> None:
    from rlvo.workflows.holdout import kept_evaluation
    from rlvo.workflows.study import read_study

    study = read_study(name, work)
    print_notes(study.inputs.notes)
    if (kept := kept_evaluation(study)) is None:
        what = "its ensembles, as they are now, were not evaluated: there is nothing to show"
        fix = f"`{study.folder.command('evaluate')}` opens the hold-out, which is counted"
        raise RlvoError(what, where=study.config.name, fix=fix)
    _print_evaluation(study, kept, json=json)


def _print_evaluation(study: ReadStudy, evaluated: Evaluation, *, json: bool) -> None:
    from rlvo.report.calibration import format_benefit, format_calibration
    from rlvo.report.external import calibration_json, comparison_json
    from rlvo.report.tables import paired_table, performance_table, subgroup_table
    from rlvo.workflows.study import where_in_mlflow

    holdout = evaluated.holdout
    if json:
        print_json(
            {
                "opening": holdout.opening,
                "seen_before": holdout.seen_before,
                "unknown_openings": holdout.unknown,
                "split_hash": study.inputs.split.hash,
                "ensembles": {name: asdict(each) for name, each in holdout.ensembles.items()},
                "baselines": {name: asdict(each) for name, each in holdout.baselines.items()},
                "subgroups": _subgroups_json(evaluated.subgroups),
                "paired_tests": [{"a": t.a, "b": t.b, **comparison_json(t.found)} for t in evaluated.tests],
                "calibration": {n: calibration_json(each.calibration) for n, each in evaluated.usefulness.items()},
                "decision_curve": {n: each.benefit.to_dict("records") for n, each in evaluated.usefulness.items()},
                "power": asdict(evaluated.power),
                "pictures": evaluated.pictures,
                "notice": NOTICE,
            }
        )
        return
    title = study.config.name
    console.print(performance_table(evaluated.models, title=f"{title}: opening {holdout.opening} of its hold-out"))
    console.print(
        subgroup_table(evaluated.subgroups, title=f"\n{title}: its own ensemble in subgroups of the hold-out")
    )
    if evaluated.tests:
        compared = {(each.a, each.b): each.found for each in evaluated.tests}
        console.print(paired_table(compared, title=f"\n{title}: paired tests on the hold-out"))
    print_line("")
    print_line(evaluated.power.statement)
    for name, each in evaluated.usefulness.items():
        print_line(f"calibration of {name}: {', '.join(format_calibration(each.calibration))}")
        print_line(f"{name}: {format_benefit(each.benefit)}")
    if evaluated.pictures:
        print_line(f"pictures: {', '.join(map(str, evaluated.pictures))}")
    print_links(where_in_mlflow(study.work, study.config))
    if holdout.seen_before:
        print_line(f"{holdout.seen_before} of its {len(holdout.own_answers)} patients had been opened before")
    if holdout.unknown:
        print_line(f"warning: {holdout.unknown} earlier openings were of patients who are no longer known")
    own = next(iter(holdout.ensembles.values()))
    if own.unanswered:
        print_line(f"{own.unanswered} patients could not be scored and are left out; the kept answers say why")
    print_line(NOTICE)


def _evaluate_external(question: ExternalQuestion, *, record: str | None, json: bool) -> None:
    from rlvo.report.external import answers_json, answers_table
    from rlvo.report.tables import subgroup_table
    from rlvo.workflows.external import evaluate_external

    print_question(question)
    found = evaluate_external(question, record=record, progress=show_progress)
    named, external = question.models[0].name, question.external
    if json:
        print_json(
            {
                "model": named,
                **selection_json(external),
                **answers_json(found.performance),
                "subgroups": _subgroups_json(found.subgroups),
                "answers": found.answers,
                "notice": NOTICE,
            }
        )
        return
    console.print(answers_table(found.performance, external.cohort.selection, title=f"{named} on {external.path.name}"))
    if found.subgroups:
        console.print(subgroup_table(found.subgroups, title="\nin subgroups"))
    print_line(f"answers and warnings: {', '.join(map(str, filter(None, (found.answers, found.picture))))}")
    if record:
        print_line(f"added to the description of {named.replace('/', ' version ')}")
    print_line(NOTICE)


def print_question(question: ExternalQuestion) -> None:
    """What is to be known before a model is asked about another cohort."""
    print_notes(question.external.cohort.notes)
    for name in question.external.lacking:
        print_line(f"no column {name}: missing for every patient")
    cautions = [f"{model.name}: {model.caution}" for model in question.models if model.caution]
    for warning in (*cautions, *question.shifts):
        print_line(f"warning: {warning}")


def selection_json(external: ExternalCohort) -> dict[str, Any]:
    """Who was considered, and how many each rule excluded."""
    selection = external.cohort.selection
    excluded = {exclusion.rule: len(exclusion.patients) for exclusion in selection.excluded}
    return {"considered": selection.considered, "excluded": excluded, "lacking_columns": list(external.lacking)}


def _subgroups_json(subgroups: Sequence[SubgroupAnalysis]) -> list[dict[str, Any]]:
    return [{**vars(each), "levels": each.levels.to_dict("records")} for each in subgroups]
