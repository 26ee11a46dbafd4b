"""The page about a cohort is self-contained, escapes what tables hold, and says that it is about patients."""

import base64
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure

from rlvo.cohort.selection import FlowStep
from rlvo.errors import Finding
from rlvo.report.cohort_page import MOST_FINDINGS, CohortContents, cohort_page
from rlvo.report.table_one import HEADINGS

FINDINGS = (
    Finding("p<1>", "age", "'200' is not allowed", None, "200", "0 to 120 years"),
    Finding(None, "sex", "the column is missing", "Add it"),
)


def contents(missingness: Figure | None = None) -> CohortContents:
    row = dict.fromkeys(HEADINGS, "12 (30.0)") | {"variable": "NIHSS & more"}
    steps = (FlowStep("synchronous occlusions", 2, 10, ("p-aa", "p-bb")),)
    return CohortContents(Figure(), steps, pd.DataFrame([row]), missingness, "f00d" * 16, ("note<s>",))


class _Balance(HTMLParser):
    """Checks that every element is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("findings", [(), FINDINGS])
@pytest.mark.parametrize("sound", [None, contents(), contents(Figure())])
def test_it_is_complete_and_self_contained(findings: tuple[Finding, ...], sound: CohortContents | None) -> None:
    page = cohort_page("a<b.csv", findings, sound)
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert "a&lt;b.csv" in page
    assert "<script" not in page
    assert "This page is about patients" in page
    for source in re.findall(r'(?:src|href)="([^"]*)"', page):
        kind, _, picture = source.partition("base64,")
        assert kind == "data:image/svg+xml;"
        assert b"<svg" in base64.b64decode(picture)


def test_findings_are_shown_in_full() -> None:
    page = cohort_page("cohort.csv", FINDINGS, None)
    for expected in ("2 findings", "p&lt;1&gt;", "0 to 120 years", "the column is missing", "Add it", "name them"):
        assert expected in page
    assert "Table 1</h2>" not in page


def test_control_characters_are_visible() -> None:
    page = cohort_page("a\x1b[31m.csv", [Finding("p\u202e", "[/red]\x9b", "\u200b", value="\x07")], contents())
    assert all(character.isprintable() for character in page.replace("\n", ""))
    for expected in (r"a\x1b[31m.csv", r"p\u202e", r"[/red]\x9b", r"\u200b", r"\x07"):
        assert expected in page


def test_many_findings_are_counted_and_not_all_listed() -> None:
    page = cohort_page("cohort.csv", FINDINGS[:1] * (MOST_FINDINGS + 5), None)
    assert page.count("p&lt;1&gt;") == MOST_FINDINGS
    assert f"The first {MOST_FINDINGS} of {MOST_FINDINGS + 5}" in page
    assert f"age {MOST_FINDINGS + 5}" in page


def test_a_sound_cohort_shows_who_is_in_it() -> None:
    page = cohort_page("cohort.csv", (), contents())
    for expected in (
        "Sound",
        "NIHSS &amp; more",
        "p-aa p-bb",
        "synchronous occlusions: 2",
        "f00df00d",
        "note&lt;s&gt;",
    ):
        assert expected in page
    assert "No value of a predictor is missing" in page
    assert page.count("<img") == 1
    assert cohort_page("cohort.csv", (), contents(Figure())).count("<img") == 2
