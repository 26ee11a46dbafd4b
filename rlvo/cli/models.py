"""`rlvo models`: the versions of a registered model, which is the champion, and how two of them differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json, say
from rlvo.cli.external import compare_models
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError

if TYPE_CHECKING:
    from rlvo.registry.versions import Version

NameOption = Annotated[str, typer.Option("--model", help="The registered model.")]
NAME = "rlvo-ensemble"

app = typer.Typer(no_args_is_help=False)


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context, model: NameOption = NAME, workdir: WorkdirOption = Path(DEFAULT), json: JsonOption = False
) -> None:
    """List a registered model's versions: aliases, gate, figures. Or promote, roll back, compare.

    Example: rlvo models; rlvo models promote 3; rlvo models compare 2 3 hospital-b.csv
    """
    if (command := context.invoked_subcommand) is not None:
        _refuse_options_before(command, context)
        return
    from rlvo.registry.versions import has_passed, list_versions

    versions = list_versions(_uri(workdir), model)
    if json:
        emit_json({"model": model, "versions": [{**vars(version), "gate": version.gate} for version in versions]})
    else:
        console.print(_table(model, versions))
        for version in (version for version in versions if not has_passed(version.tags)):
            say(f"version {version.number}: gate {version.gate}")


@app.command()
def promote(
    version: Annotated[int, typer.Argument(help="Number of the version.", min=1)],
    model: NameOption = NAME,
    workdir: WorkdirOption = Path(DEFAULT),
) -> None:
    """Make a version that passed its gate the champion.

    Example: rlvo models promote 3
    """
    from rlvo.registry import versions

    before = versions.promote(_uri(workdir), model, version)
    if before == version:
        say(f"{model} version {version} is the champion already")
    else:
        instead = f", instead of version {before}" if before is not None else ""
        say(f"{model} version {version} is the champion{instead}")


@app.command()
def rollback(model: NameOption = NAME, workdir: WorkdirOption = Path(DEFAULT)) -> None:
    """Go back to the champion before this one.

    Example: rlvo models rollback
    """
    from rlvo.registry import versions

    before, now = versions.rollback(_uri(workdir), model)
    say(f"{model} version {now} is the champion again, instead of version {before}")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="Number of a version, a registered model, or its folder.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
    cohort: Annotated[Path, typer.Argument(help="Table of patients with outcomes whom neither was made on.")],
    model: NameOption = NAME,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Two versions on the same patients: AUCs by DeLong, decisions by McNemar, changed answers. Run again, it goes on.

    Example: rlvo models compare 2 3 hospital-b.csv
    """
    first, second = (f"{model}/{each}" if each.isdecimal() else each for each in (a, b))
    compare_models((first, second), cohort, workdir, json=json)


def _refuse_options_before(command: str, context: typer.Context) -> None:
    """A sub-command would not see them, and act elsewhere."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise RlvoError(f"--{name} stands before {command}", fix=f"Put it after: rlvo models {command} --{name}")


def _uri(workdir: Path) -> str:
    return Workdir(workdir.expanduser().resolve()).tracking_uri()


def _table(model: str, versions: list[Version]) -> Table:
    table = Table(
        title=model,
        title_justify="left",
        caption="* Validation, optimistic: thresholds and weights were chosen there. Opened: how often the test was.",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("version", "alias", "gate", "study", "registered"):
        table.add_column(heading, no_wrap=True)
    for heading in ("val.\nAUC*", "test\nAUC", "opened"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in versions:
        found = [each.metrics.get(metric) for metric in ("val/auc_mean", "test/auc")]
        table.add_row(
            str(each.number),
            ", ".join(each.aliases),
            each.gate.partition(":")[0],
            each.tags.get("rlvo.study", ""),
            f"{each.created:%Y-%m-%d}",
            *("" if value is None else f"{value:.2f}" for value in found),
            f"{each.metrics.get('test/opening', 0):.0f}",
        )
    return table
