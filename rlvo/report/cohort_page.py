"""One page about a cohort: what is wrong with its table, who is included, who the patients are, what is missing."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from rlvo.cohort.selection import FlowStep
from rlvo.errors import Finding
from rlvo.report.style import svg
from rlvo.report.table_one import CAPTION, HEADINGS

TEMPLATE = Path(__file__).with_name("cohort_page.html")
MOST_FINDINGS = 1000
"""On the page; a table in another unit has one in every row."""


@dataclass(frozen=True)
class CohortContents:
    """What a sound table holds.

    Attributes:
        flow: the flow chart; steps: what it shows, with the pseudonyms of the excluded.
        table_one: of `rlvo.report.table_one`.
        missingness: None where no value is missing.
        split_hash: of hold-out and folds.
        ignored: columns rlvo does not know.
    """

    flow: Figure
    steps: Sequence[FlowStep]
    table_one: pd.DataFrame
    missingness: Figure | None
    split_hash: str
    ignored: Sequence[str] = ()


def cohort_page(name: str, findings: Sequence[Finding], contents: CohortContents | None) -> str:
    """HTML that needs nothing but itself: no script, pictures within.

    Args:
        name: of the cohort's table.
        findings: all of them; the first `MOST_FINDINGS` are listed, all are counted.
        contents: None where findings left no table to look at.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["picture"] = _embedded
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        findings=findings[:MOST_FINDINGS],
        total=len(findings),
        by_column=Counter(finding.field or "the table" for finding in findings).most_common(),
        contents=contents,
        headings=HEADINGS,
        caption=CAPTION,
    )


def _embedded(figure: Figure) -> str:
    """A figure as the address of a picture."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg(figure).encode()).decode()}"
