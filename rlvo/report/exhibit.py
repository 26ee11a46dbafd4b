"""What a report is made of: sections of exhibits, each a table that is kept as CSV, mostly with a figure of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from rlvo.files import atomic_write, csv_text, parse_json
from rlvo.report.style import Drawing, say_about, write_picture

Standing = Literal["hold-out", "nested", "optimistic"]
"""What figures are about: patients whom nothing was chosen on, patients out of fold, or those things were chosen on."""
IN_WORDS: Mapping[Standing, str] = {
    "hold-out": "Hold-out",
    "nested": "Validation: out of fold, nested",
    "optimistic": "Optimistic: things were chosen on these patients",
}
WRITTEN = ".written.json"
"""Lists the files in a folder of exhibits that were written as such; all others are the user's own."""


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A table or a figure, under one name: `<name>.csv`, and `<name>.svg` and `.png` if there is a figure."""

    name: str
    title: str
    table: pd.DataFrame
    """What is kept as CSV, in full precision. Names no patient."""
    caption: str = ""
    standing: Standing | None = None
    """None: it describes, and claims nothing about a model."""
    shown: pd.DataFrame | None = None
    """The table as text, for the page; None: the figure stands for it."""
    best: frozenset[tuple[int, str]] = frozenset()
    """Cells of `shown`, by row number and column, that are set in bold."""
    figure: Figure | Drawing | None = None
    small: Figure | Drawing | None = None
    """The figure for small screens, if it is another one: on the page only."""
    is_narrow: bool = False
    """Whether two of them fit side by side."""

    def __post_init__(self) -> None:
        """The picture itself says what its figures are about, wherever it is copied to."""
        if self.standing is not None and isinstance(self.figure, Figure):
            say_about(self.figure, IN_WORDS[self.standing])


@dataclass(frozen=True, eq=False)
class Section:
    """A chapter of a report."""

    anchor: str
    title: str
    text: Sequence[str] = ()
    """Paragraphs before the exhibits."""
    exhibits: Sequence[Exhibit] = ()


def write_exhibits(sections: Iterable[Section], folder: Path) -> list[Path]:
    """Write every exhibit's table and figure into `folder`; return their paths.

    What an earlier call wrote there and this one does not is removed. Other files are left alone.
    """
    exhibits = [each for section in sections for each in section.exhibits]
    names = [f"{e.name}{suffix}" for e in exhibits for suffix in (".csv", *((".svg", ".png") if e.figure else ()))]
    earlier = _written(folder)
    atomic_write(folder / WRITTEN, json.dumps(sorted({*earlier, *names}), indent=1))  # first: this may be cut short
    for exhibit in exhibits:
        path = folder / exhibit.name
        atomic_write(path.with_suffix(".csv"), csv_text(exhibit.table))
        if exhibit.figure is not None:
            write_picture(exhibit.figure, path)
    for name in {*earlier} - {*names}:
        (folder / name).unlink(missing_ok=True)
    atomic_write(folder / WRITTEN, json.dumps(sorted(names), indent=1))
    return [folder / name for name in names]


def _written(folder: Path) -> list[str]:
    """The names of files that were written into `folder` as exhibits; none if nothing says so."""
    with suppress(OSError, ValueError):
        names = parse_json((folder / WRITTEN).read_bytes())
        return [name for name in names if isinstance(name, str) and Path(name).name == name]
    return []
