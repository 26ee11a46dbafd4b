"""The items of reporting guidelines, and where a report answers them: TRIPOD+AI (2024) and CLAIM (2024 update).

Collins et al., BMJ 2024;385:e078378; Tejani et al., Radiol Artif Intell 2024;6:e240300. Topics are in our
own words: the guidelines' own text decides. `CHECKED` says what numbers and topics were compared with.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from rlvo.report.exhibit import Exhibit, Section

CHECKED = {
    "TRIPOD+AI": "Compared, item by item, with a public copy of the statement's 52 items.",
    "CLAIM 2024": "Compared, item by item, with two public copies of its 44 items; not with the journal's own table.",
}
"""In November 2026, with `TRIPOD_AI.md` and `CLAIM_2024.md` of github.com/Aperivue/medsci-skills (the first quotes the
statement, CC BY 4.0) and with a CLAIM checklist that the authors of another study had filled in."""
ITEMS = Path(__file__).with_name("guidelines.csv")
"""One row per item: `guideline`, `item`, `topic`, `section` (anchor) and `exhibits` (names) that answer it, and what is
`left` to the study's authors."""


def read_items() -> pd.DataFrame:
    """All items, as text."""
    return pd.read_csv(ITEMS, dtype=str, keep_default_na=False)


def guidelines_section(sections: Sequence[Section], others: Mapping[str, str] | None = None) -> Section:
    """The appendix: for each item where the page answers it, or that the authors must.

    Args:
        sections: of the page; an item is answered by those that are there.
        others: titles of what else the page has, by anchor.
    """
    titles = {section.anchor: section.title for section in sections} | dict(others or {})
    exhibits = {each.name: each.title for section in sections for each in section.exhibits}
    items = read_items()
    pairs = zip(items["section"], items["exhibits"], strict=True)
    items["answered"] = [_answer(section, names.split(), titles, exhibits) for section, names in pairs]
    caption = "Topics are abridged; the guidelines' own text decides. The last column is what the page cannot answer."
    shown = [
        Exhibit(
            f"guideline-{str(name).split()[0].lower().replace('+', '-')}",
            str(name),
            own.drop(columns="guideline"),
            f"{caption} {CHECKED[str(name)]}",
            shown=own[["item", "topic", "answered", "left"]].rename(
                columns={"item": "Item", "topic": "Topic", "answered": "On this page", "left": "For the authors"}
            ),
        )
        for name, own in items.groupby("guideline", sort=False)
    ]
    text = "What the reporting guidelines TRIPOD+AI and CLAIM 2024 ask for, and where this page answers it."
    return Section("guidelines", "Appendix: reporting guidelines", [text], shown)


def _answer(section: str, names: Sequence[str], titles: Mapping[str, str], exhibits: Mapping[str, str]) -> str:
    """Where the page answers an item, in words; "" if it does not."""
    if not section:
        return ""
    if section not in titles:
        return "not on this page yet"
    found = [exhibits[name] for name in names if name in exhibits]
    return f"{titles[section]}{': ' if found else ''}{'; '.join(found)}"
