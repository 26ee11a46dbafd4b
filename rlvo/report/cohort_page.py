"""One page about a cohort: what is wrong with its table, who is included, who the patients are, what is missing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rlvo.cohort.selection import FlowStep
from rlvo.errors import Finding
from rlvo.report.exhibit import Section
from rlvo.report.style import render_page
from rlvo.report.table_one import CAPTION, HEADINGS

TEMPLATE = Path(__file__).with_name("cohort_page.html")
MOST_FINDINGS = 1000
"""Listed on the page at most: a table in the wrong unit has one in every row."""


@dataclass(frozen=True)
class CohortContents:
    """The contents of a sound table.

    Attributes:
        flow: the flow chart.
        steps: the exclusions it shows, with the pseudonyms of the excluded.
        table_one: from `rlvo.report.table_one`.
        missingness: the plot of missing values; None if there are none.
        split_hash: of hold-out and folds.
        ignored: columns that rlvo does not use.
        notes: how the patients were split.
        biomarkers: the section about them, if the table holds some.
    """

    flow: Figure
    steps: Sequence[FlowStep]
    table_one: pd.DataFrame
    missingness: Figure | None
    split_hash: str
    ignored: Sequence[str] = ()
    notes: Sequence[str] = ()
    biomarkers: Section | None = None


def cohort_page(name: str, findings: Sequence[Finding], contents: CohortContents | None) -> str:
    """Render a self-contained HTML page: pictures embedded, no script.

    Args:
        name: of the cohort's table.
        findings: all of them; the first `MOST_FINDINGS` are listed, all are counted.
        contents: None if the findings leave no table to show.
    """
    return render_page(
        TEMPLATE,
        name=name,
        findings=findings[:MOST_FINDINGS],
        total=len(findings),
        by_column=Counter(finding.field or "the table" for finding in findings).most_common(),
        contents=contents,
        headings=HEADINGS,
        caption=CAPTION,
    )
