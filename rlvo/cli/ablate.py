"""`rlvo ablate`: Models A, B and C of a study (section 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlvo.about import NOTICE
from rlvo.cli.common import AddressOption, JsonOption, StudyArgument, WorkdirOption, print_notes
from rlvo.config.commands import command_line
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError
from rlvo.report.console import console, print_json, print_line, show_progress, text_table

if TYPE_CHECKING:
    from rlvo.report.exhibit import Exhibit
    from rlvo.study.ablation import AblationPlan
    from rlvo.workflows.ablation_results import AblationResults, ModelComparison


def ablate(
    study: StudyArgument,
    drop: Annotated[
        str | None,
        typer.Option(
            help="Predictors that B and C go without: names (hir,ivt) or how many of the ranking's last (6); default: "
            "ablation.drop of the study, else the least predictive.",
            metavar="NAMES|NUMBER",
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Then open the hold-out, once for all three models.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Open a hold-out that was opened before.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is opened again; kept in the log.")] = None,
    address: AddressOption = None,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Compare a study's ensemble (Model A) with one of fewer variables (B), and with B on more patients (C).

    The least predictive variables are chosen on validation patients. B and C train the ensemble's configurations anew,
    as the studies STUDY-b and STUDY-c, on the same folds; C trains also on patients who were excluded only for want of
    these variables. All three are compared out of fold, and on the hold-out with --evaluate. Run again, it continues.

    Example: rlvo ablate demo; rlvo ablate demo --evaluate
    """
    if again != bool(reason and reason.strip()):
        raise RlvoError("--again goes with --reason TEXT, and only with it", fix="Give both, or neither")
    if again and not evaluate:
        raise RlvoError("--again goes with --evaluate", fix="Give both, or neither")
    from rlvo.cli.search import show_search
    from rlvo.workflows.ablation import ablate
    from rlvo.workflows.study import open_searched_study

    opened = open_searched_study(study, Workdir.at(workdir), progress=show_progress)
    print_notes(opened.inputs.notes)
    found = ablate(
        opened,
        drop=_parse(drop),
        evaluate=evaluate,
        reason=reason,
        address=address,
        progress=show_progress,
        show_state=show_search,
        on_plan=_print_plan,
        warn=lambda warning: print_line(f"warning: {warning}"),
    )
    if json:
        print_json(_json(found))
        return
    from rlvo.report.ablation import CAPTION, models_table

    for each in filter(None, (found.holdout, found.nested)):
        console.print(models_table(found.patients, each.models, title=f"\n{each.about}"))
        for exhibit in each.exhibits[1:]:
            _print_exhibit(exhibit)
    print_line(CAPTION)
    name = opened.config.name
    if found.holdout is None:
        opening = command_line("ablate", name, "--evaluate", workdir=opened.work.path)
        print_line(f"not compared on the hold-out. This opens it, once for all of them: {opening}")
    print_line(f"next: {command_line('report', name, workdir=opened.work.path)}")
    print_line(NOTICE)


def _parse(drop: str | None) -> int | tuple[str, ...] | None:
    if drop is None:
        return None
    if drop.strip().isdecimal() and int(drop) > 0:
        return int(drop)
    return tuple(name.strip() for name in drop.split(",") if name.strip())


def _print_plan(plan: AblationPlan) -> None:
    print_line(f"Model B goes without {', '.join(plan.dropped)}")
    print_line(f"the rule: {plan.rule}")
    if plan.recovered:
        print_line(f"Model C also trains on {plan.recovered} patients who were excluded only for want of them")
    else:
        print_line("no patient was excluded only for want of them: there is no Model C")


def _print_exhibit(exhibit: Exhibit) -> None:
    shown = exhibit.shown
    assert shown is not None
    rows = [[str(cell) for cell in row] for row in shown.itertuples(index=False)]
    console.print(text_table(list(map(str, shown.columns)), rows, title=f"\n{exhibit.title}"))


def _json(found: AblationResults) -> dict[str, Any]:
    return {
        "plan": found.plan.model_dump(mode="json"),
        "patients": found.patients.to_dict("records"),
        "out_of_fold": _comparison_json(found.nested),
        "hold_out": None if found.holdout is None else _comparison_json(found.holdout),
        "notice": NOTICE,
    }


def _comparison_json(comparison: ModelComparison) -> dict[str, Any]:
    from rlvo.report.external import comparison_json

    return {
        "standing": comparison.standing,
        "about": comparison.about,
        "models": {letter: model.estimates.to_dict("index") for letter, model in comparison.models.items()},
        "paired_tests": [{"a": a, "b": b, **comparison_json(found)} for (a, b), found in comparison.tests.items()],
        "errors": comparison.errors.to_dict("records"),
    }
