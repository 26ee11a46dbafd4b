"""`rlvo pretrain`: a study's image network learns from volumes without outcome first."""

from pathlib import Path
from typing import Annotated

import typer

from rlvo.cli.common import (
    AddressOption,
    ColumnsOption,
    JsonOption,
    WorkdirOption,
    column_mapping,
    writable_file,
)
from rlvo.cli.search import ConfigArgument
from rlvo.cli.weights import print_study_lines
from rlvo.config.model import Modality
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.report.console import print_json, print_line, show_progress
from rlvo.study.folder import load_or_started


def pretrain(
    config: ConfigArgument,
    table: Annotated[Path, typer.Argument(help="Patients with an NCCT or CTA: CSV, TSV or XLSX.", metavar="TABLE")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write (safetensors).", callback=writable_file)],
    cohort: Annotated[
        Path | None,
        typer.Option(help="The study's own table, whose patients are left out.", show_default="the study's"),
    ] = None,
    modality: Annotated[
        Modality | None, typer.Option(help="Which of its networks.", show_default="the one with the fewest channels")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="How often each patient is seen.", show_default="the study's")
    ] = None,
    columns: ColumnsOption = None,
    workdir: WorkdirOption = Path(DEFAULT),
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Pretrain a study's image network on volumes without outcome; run again, it continues where it stopped.

    Blocks of each head are hidden, and the network learns to tell what they hide. Outcomes are not read. Patients of
    the study, and of any study of the work folder, are left out, under other ids too. It prints the lines for a study.

    Example: rlvo pretrain study.yaml unlabelled.csv -o encoder.safetensors
    """
    study = load_or_started(config, Workdir.at(workdir, create=False).studies)
    from rlvo.workflows.pretrain import pretrain

    made = pretrain(
        study,
        table,
        Workdir.at(workdir),
        out,
        cohort=cohort,
        modality=modality,
        epochs=epochs,
        mapping=column_mapping(columns),
        address=address,
        progress=show_progress,
        tell=(lambda _: None) if json else print_line,
    )
    epoch, best = made.best
    if json:
        print_json(
            {
                "file": out,
                "sha256": made.sha256,
                "backbone": made.model.backbone,
                "modality": made.model.modality,
                "tensors": len(made.match.taken),
                "patients": made.training,
                "held_back": made.held_back,
                "epoch": epoch,
                "error": best["val/loss"],
                "curve": made.epochs,
                "picture": made.picture,
                "notes": made.notes,
            }
        )
        return
    print_line(
        f"error at hidden voxels of the patients held back: {best['val/loss']:.2f} of that of telling the mean "
        f"(epoch {epoch} of {len(made.epochs)})"
    )
    print_line(f"curve, and a slice of a patient's head: {made.picture}")
    for line in made.match.lines:
        print_line(line)
    print_study_lines(out, made.model.backbone, made.sha256)
