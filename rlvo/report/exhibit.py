"""What a report is made of: sections of exhibits, each a table that is kept as CSV, mostly with a figure of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from rlvo.files import atomic_write, csv_text
from rlvo.report.style import write_picture

Standing = Literal["hold-out", "nested", "optimistic"]
"""What figures are about: patients whom nothing was chosen on, patients out of fold, or those things were chosen on."""


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
    figure: Figure | None = None
    is_narrow: bool = False
    """Whether two of them fit side by side."""


@dataclass(frozen=True, eq=False)
class Section:
    """A chapter of a report."""

    anchor: str
    title: str
    text: Sequence[str] = ()
    """Paragraphs before the exhibits."""
    exhibits: Sequence[Exhibit] = ()


def write_exhibits(sections: Iterable[Section], folder: Path) -> list[Path]:
    """Write every exhibit's table and figure into `folder`; return their paths."""
    written = []
    for exhibit in (each for section in sections for each in section.exhibits):
        path = folder / exhibit.name
        atomic_write(path.with_suffix(".csv"), csv_text(exhibit.table))
        written.append(path.with_suffix(".csv"))
        if exhibit.figure is not None:
            written += write_picture(exhibit.figure, path)
    return written
