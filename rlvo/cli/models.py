"""`rlvo models` and `rlvo bundle`: a registered model's versions, the champion, how two differ; one as an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rlvo.about import NOTICE
from rlvo.cli.command import WORDS, Command, CommandGroup
from rlvo.cli.common import (
    ColumnsOption,
    JsonOption,
    ModelArgument,
    UngatedOption,
    WorkdirOption,
    column_mapping,
    print_notes,
    writable_file,
    writable_folder,
)
from rlvo.cli.evaluate import print_question, selection_json
from rlvo.config.commands import command_line
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError
from rlvo.files import writing
from rlvo.report.console import console, numeric, print_json, print_line, show_progress, text_table

if TYPE_CHECKING:
    from rlvo.mlflow_client import Tracking
    from rlvo.registry.versions import Version

NameOption = Annotated[str, typer.Option("--model", help="The registered model.")]
NAME = "rlvo-ensemble"

app = typer.Typer(cls=CommandGroup, no_args_is_help=False)


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context, model: NameOption = NAME, workdir: WorkdirOption = Path(DEFAULT), json: JsonOption = False
) -> None:
    """List a registered model's versions: aliases, gate, figures. Or promote, roll back, compare, import.

    Example: rlvo models; rlvo models promote 3; rlvo models compare 2 3 hospital-b.csv
    """
    if (command := context.invoked_subcommand) is not None:
        for name in context.params:  # an option that the sub-command would not see: it would act elsewhere
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                words: list[str] = context.meta[WORDS]
                at = words.index(command)
                fix = f"Put it after: {command_line('models', command, *words[at + 1 :], *words[:at])}"
                raise RlvoError(f"--{name} stands before {command}", fix=fix)
        return
    from rlvo.registry.gate import has_passed
    from rlvo.registry.versions import list_versions

    versions = list_versions(_registry(workdir), model)
    if json:
        print_json({"model": model, "versions": [{**vars(version), "gate": version.gate} for version in versions]})
    else:
        console.print(_table(model, versions))
        for version in (version for version in versions if not has_passed(version.gate)):
            print_line(f"version {version.number}: gate {version.gate}")


@app.command(cls=Command)
def promote(
    version: Annotated[int, typer.Argument(help="Number of the version.", min=1)],
    model: NameOption = NAME,
    workdir: WorkdirOption = Path(DEFAULT),
) -> None:
    """Make a version that passed its gate the champion.

    Example: rlvo models promote 3
    """
    from rlvo.registry import versions

    before = versions.promote(_registry(workdir), model, version)
    if before == version:
        print_line(f"{model} version {version} is the champion already")
    else:
        instead = f", instead of version {before}" if before is not None else ""
        print_line(f"{model} version {version} is the champion{instead}")


@app.command(cls=Command)
def rollback(model: NameOption = NAME, workdir: WorkdirOption = Path(DEFAULT)) -> None:
    """Go back to the champion before this one.

    Example: rlvo models rollback
    """
    from rlvo.registry import versions

    before, now = versions.rollback(_registry(workdir), model)
    print_line(f"{model} version {now} is the champion again, instead of version {before}")


@app.command(cls=Command)
def compare(
    a: Annotated[str, typer.Argument(help="Number of a version, a registered model, or its folder.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
    cohort: Annotated[Path, typer.Argument(help="Table of patients with outcomes whom neither was made from.")],
    model: NameOption = NAME,
    columns: ColumnsOption = None,
    ungated: UngatedOption = False,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Two versions on the same patients: AUCs by DeLong, decisions by McNemar, changed answers.

    Run again after an interruption, it continues.

    Example: rlvo models compare 2 3 hospital-b.csv
    """
    from rlvo.report.external import comparison_json, comparison_table
    from rlvo.workflows.external import compare_models, open_external

    first, second = (f"{model}/{each}" if each.isdecimal() else each for each in (a, b))
    work = Workdir.at(workdir, create=False)
    question = open_external(
        (first, second), cohort, work, columns=column_mapping(columns), ungated=ungated, progress=show_progress
    )
    print_question(question)
    compared = compare_models(question, progress=show_progress)
    if json:
        shown = {"a": first, "b": second, **selection_json(question.external), **comparison_json(compared)}
        print_json({**shown, "notice": NOTICE})
        return
    counted = f"{compared.patients} patients ({compared.positives} with rLVO)"
    console.print(comparison_table(compared, (first, second), title=f"{cohort.name}: {counted} whom both answer for"))
    if compared.neither:
        print_line(f"neither answers for {compared.neither} patients")
    print_line(NOTICE)


@app.command("import", cls=Command)
def import_(
    archive: Annotated[Path, typer.Argument(help="Archive of rlvo bundle.")],
    digest: Annotated[str, typer.Argument(help="Its SHA-256, which whoever made it gave you by another way.")],
    model: Annotated[str | None, typer.Option("--model", help="Register it under another name than its own.")] = None,
    ungated: UngatedOption = False,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Register the model of an archive as a new version, with its tags and figures; promote it when you want to use it.

    The archive is checked against the digest, the model's files against their manifest, and its made-up patients, if
    it has any, must get the answers they got where it was packed.

    Example: rlvo models import rlvo-model.tar.gz DIGEST
    """
    from rlvo.workflows.shipping import import_model

    version = import_model(archive, digest, workdir, name=model, ungated=ungated, progress=show_progress)
    if json:
        print_json(vars(version))
        return
    if not version.is_new:
        print_line(f"{version.name} version {version.number} is this model already")
        return
    print_line(f"registered {version.name} version {version.number}, gate {version.gate}")
    work = Workdir.at(workdir, create=False).path
    if version.gate.startswith("passed"):
        name = () if version.name == NAME else ("--model", version.name)
        print_line(f"next: {command_line('models', 'promote', version.number, *name, workdir=work)}")


def bundle(
    model: ModelArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Archive to write: FILE.tar.gz.", callback=writable_file)
    ],
    wheels: Annotated[
        Path | None,
        typer.Option(
            help="Also pack the wheels of all packages, for this platform, so that it installs without a network. "
            "Folder for them; pip fetches those that are missing.",
            callback=writable_folder,
            metavar="DIR",
        ),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option(
            help="Table of rlvo synth: its first patients are packed with the model's answers, to be asked about again "
            "on import.",
            metavar="TABLE",
        ),
    ] = None,
    ungated: UngatedOption = False,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Pack a verified model to carry into an isolated network: it loads there without a tracking server.

    The SHA-256 that is shown vouches for the archive: send it by another way than the archive.

    Example: rlvo bundle rlvo-ensemble@champion -o rlvo-model.tar.gz
    """
    from rlvo.workflows.shipping import pack_model

    if not output.name.lower().endswith((".tar.gz", ".tgz")):
        fix = "Name it FILE.tar.gz"
        raise RlvoError("a bundle is a gzip-compressed tar archive, whatever its name says", where=output, fix=fix)
    archive = output.expanduser().resolve()
    with writing(output):
        packed = pack_model(
            model, archive, workdir, ungated=ungated, wheels=wheels, patients=patients, progress=show_progress
        )
    if json:
        print_json({"archive": archive, "sha256": packed.digest, "notes": packed.notes})
        return
    print_notes(packed.notes)
    print_line(f"wrote {output}; to be sent by another way than the archive:")
    print_line(f"SHA-256 {packed.digest}")


def _registry(workdir: Path) -> Tracking:
    """Where models are registered: as the environment says, or else in the work folder."""
    from rlvo.mlflow_client import Tracking

    work = Workdir.at(workdir, create=False)
    return Tracking(work.tracking_uri(), work.artifacts)


def _table(model: str, versions: list[Version]) -> Table:
    rows = []
    for each in versions:
        found = [each.metrics.get(metric) for metric in ("val/auc_mean", "test/auc")]
        rows.append(
            (
                str(each.number),
                ", ".join(each.aliases),
                each.gate.partition(":")[0],
                each.tags.get("rlvo.study", "") + (", SYNTHETIC" if "rlvo.synthetic" in each.tags else ""),
                f"{each.created:%Y-%m-%d}",
                *("" if value is None else f"{value:.2f}" for value in found),
                f"{each.metrics.get('test/opening', 0):.0f}",
            )
        )
    return text_table(
        ["version", "alias", "gate", "study", "registered", *map(numeric, ("val.\nAUC*", "test\nAUC", "opened"))],
        rows,
        title=model,
        caption="* Validation, optimistic: thresholds and weights were chosen there.\n"
        "Opened: how often the hold-out was opened.",
    )
