"""The terminal: users' own text is harmless and nothing of it is lost, numbers read as in a paper."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from rlvo.progress import ShowProgress
from rlvo.report import console as terminal
from rlvo.report.console import (
    console,
    format_interval,
    format_mean_sd,
    format_p,
    literal,
    numeric,
    print_json,
    print_line,
    show_progress,
    text_table,
)

HOSTILE = {
    "[/red]col": "[/red]col",
    "[bold]x[/]": "[bold]x[/]",
    ":smile: 12 'a' /tmp/x": ":smile: 12 'a' /tmp/x",
    "\x1b[31mred": r"\x1b[31mred",
    "a\x9b2Jb": r"a\x9b2Jb",
    "a\rb\tc\x07": r"a\rb\tc\x07",
    "a\u202eb\u2028c": r"a\u202eb\u2028c",
    "a\udc80b": r"a\udc80b",
    "Größe 60 % μ 漢字": "Größe 60 % μ 漢字",
}
"""What a user may name a patient, a column or a file, and what is shown."""


@pytest.fixture(params=["terminal", "file"])
def printed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What reaches an 80-column terminal without colours, or a file."""
    shown = Console(
        width=80, record=True, force_terminal=request.param == "terminal", markup=False, highlight=False, emoji=False
    )
    monkeypatch.setattr(terminal, "console", shown)
    return lambda: shown.export_text(styles=True)


@pytest.mark.parametrize(("text", "expected"), HOSTILE.items())
def test_users_text_is_shown_literally(printed: Callable[[], str], text: str, expected: str) -> None:
    table = text_table([text, numeric(text)], [[text, text], [literal(text)]], title=text, caption=text)
    plain = Console(width=80, record=True)  # with markup and highlighting, which must not matter
    plain.print(table)
    print_line(text)
    assert printed().splitlines() == [expected]
    assert plain.export_text().count(expected) == 7
    assert "\x1b" not in plain.export_text()


def test_a_line_is_one_line_however_long_and_a_line_break_in_it_is_visible(printed: Callable[[], str]) -> None:
    print_line("x" * 200 + "\n漢")
    assert printed() == "x" * 200 + r"\n漢" + "\n"


def test_a_table_fits_the_terminal_and_loses_nothing() -> None:
    long, wide = "a" * 150, "漢" * 60
    rows = [[long, "one\ntwo", "0.86 (0.78–0.93)"], [wide, "", "1"], ["short"]]
    shown = Console(width=80, record=True)
    shown.print(text_table(["", "two\nlines", numeric("AUC")], rows, title="a title", caption="first\nsecond"))
    text = shown.export_text()
    lines = text.splitlines()
    assert text.count("a") == 150 + 1 and text.count("漢") == 60
    assert r"one\ntwo" in text and "0.86 (0.78–0.93)" in text and lines[0].startswith("a title")
    assert [line.strip() for line in lines[-2:]] == ["first", "second"]
    assert all(cell_len(line) <= 80 for line in lines)
    ends = [cell_len(line.rstrip()) for line in lines if line.rstrip().endswith(("AUC", ")", " 1"))]
    assert len(set(ends)) == 1  # numbers are right-aligned


def test_a_table_without_headings_shows_no_empty_line() -> None:
    shown = Console(width=80, record=True)
    shown.print(text_table(["", numeric("")], [["patients", "12"]]))
    assert shown.export_text().split() == ["patients", "12"] and shown.export_text().count("\n") <= 2


def test_numbers_read_as_in_a_paper() -> None:
    assert format_interval(0.8649, 0.78, 0.9251) == "0.86 (0.78–0.93)"
    assert format_interval(1.0, math.nan, math.nan) == "1.00 (n.e.–n.e.)"
    assert format_interval(math.nan, 0.1, 0.2) == "n.e."
    assert format_mean_sd(0.855, 0.031) == f"{0.855:.2f}±0.03"
    assert (format_mean_sd(0.8, math.nan), format_mean_sd(math.nan, 0.1)) == ("0.80", "n.e.")
    p_values = [0.0, 0.00099, 0.001, 0.0994, 0.1, 0.847, 1.0, math.nan]
    assert [*map(format_p, p_values)] == ["< 0.001", "< 0.001", "0.001", "0.099", "0.10", "0.85", "1.00", "n.e."]


def test_json_is_one_document_without_what_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"auc": float("nan"), "low": [float("-inf"), 0.5], "name": "Größe\x1b", "path": Path("a/b")})
    text = capsys.readouterr().out
    assert json.loads(text, parse_constant=pytest.fail) == {
        "auc": None,
        "low": [None, 0.5],
        "name": "Größe\x1b",
        "path": "a/b",
    }
    assert "Größe" in text and "\x1b" not in text


def test_progress_is_shown_with_its_description_literally(printed: Callable[[], str]) -> None:
    show: ShowProgress = show_progress
    with show("[/red]patients\x1b[31m") as advance:
        for done in range(3):
            advance(done, 2)
    text = printed()
    assert r"[/red]patients\x1b[31m" in text and "2/2" in text


def test_messages_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    console.print(text_table([""], [["cell"]]))
    print_line("line")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.split() == ["cell", "line"]
