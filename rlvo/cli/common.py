"""What the commands share: options, and how a place that cannot be written is told."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from rlvo.config.workdir import DEFAULT
from rlvo.files import check_writable
from rlvo.report.console import print_line

WorkdirOption = Annotated[
    Path,
    typer.Option("--workdir", envvar="RLVO_WORKDIR", help="Work folder: MLflow, store, studies.", show_default=DEFAULT),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]
StudyArgument = Annotated[str, typer.Argument(help="A study's name in the work folder, or its YAML file.")]
ModelArgument = Annotated[str, typer.Argument(help="Registered model (rlvo-ensemble@champion) or its folder.")]
AddressOption = Annotated[
    str | None, typer.Option(help="Ray cluster, e.g. auto or ray://head:10001; default RAY_ADDRESS, else this machine.")
]
ColumnsOption = Annotated[
    Path | None,
    typer.Option(
        "--columns",
        "--mapping",
        help="If the table's columns have other names: a study's YAML file that maps them (cohort.columns), or one "
        "with a line 'ours: theirs' per column.",
        metavar="FILE",
    ),
]
UngatedOption = Annotated[
    bool, typer.Option("--ungated", help="Also take a model that did not pass its gate; every answer says so.")
]


def writable_file(path: Path | None) -> Path | None:
    """For an option that names a file to write: refuse, before any work, a place that cannot be written."""
    if path is not None:
        check_writable(path)
    return path


def writable_folder(path: Path | None) -> Path | None:
    """The same for a folder."""
    if path is not None:
        check_writable(path, folder=True)
    return path


def column_mapping(file: Path | None, items: Sequence[str] | None = None) -> dict[str, str]:
    """Our column names to the table's: by the file, and by the items (ours=theirs) where they say otherwise."""
    from rlvo.cohort.mapping import parse_map, read_mapping

    return (read_mapping(file) if file else {}) | parse_map(*(items or ()))


def print_notes(notes: Iterable[str]) -> None:
    """What had to be decided to read a table."""
    for note in notes:
        print_line(f"note: {note}")


def print_links(links: Mapping[str, str]) -> None:
    """How to open MLflow, and the pages of a study in it (`where_in_mlflow`)."""
    for name, link in links.items():
        print_line(f"{name}: {link}")
