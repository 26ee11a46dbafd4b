"""The terminal: users' own text is harmless and nothing of it is lost, numbers read as in a paper."""

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
    format_odds,
    format_p,
    literal,
    numeric,
    print_json,
    print_line,
    show_progress,
    text_table,
)

NAN = math.nan
SHOWN = {
    "[/red]col [bold]x[/]": "[/red]col [bold]x[/]",
    ":smile: 12 'a' /tmp/x": ":smile: 12 'a' /tmp/x",
    "\x1b[31mred\x9b2J": r"\x1b[31mred\x9b2J",
    "a\rb\tc\x07": r"a\rb\tc\x07",
    "a\u202eb\u2028c\udc80": r"a\u202eb\u2028c\udc80",
    "Größe 60 % μ 漢字": "Größe 60 % μ 漢字",
}
"""What a user may name a patient, a column or a file, and how it is shown."""


@pytest.fixture(params=["terminal", "file"])
def printed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """All that reached an 80-column terminal, or a file, with its control codes."""
    is_terminal = request.param == "terminal"
    shown = Console(width=80, record=True, force_terminal=is_terminal, markup=False, highlight=False, emoji=False)
    monkeypatch.setattr(terminal, "console", shown)
    return lambda: shown.export_text(styles=True)


@pytest.mark.parametrize(("text", "expected"), SHOWN.items())
def test_users_text_is_shown_literally(printed: Callable[[], str], text: str, expected: str) -> None:
    print_line(text)
    assert printed() == expected + "\n"
    reader = Console(width=80, record=True)  # even by a console that reads markup
    reader.print(text_table([text, numeric(text)], [[text, text], [literal(text)]], title=text, caption=text))
    assert reader.export_text().count(expected) == 7
    with terminal.show_progress(text) as advance:
        advance(2, 2)
    progress = printed()
    assert expected in progress
    assert "2/2" in progress


def test_a_line_is_one_line_however_long_and_a_line_break_in_it_is_visible(printed: Callable[[], str]) -> None:
    print_line("x" * 200 + "\n漢")
    assert printed() == "x" * 200 + r"\n漢" + "\n"


def test_a_table_fits_the_terminal_and_loses_nothing() -> None:
    rows = [["a" * 150, "one\ntwo", "0.86 (0.78–0.93)"], ["漢" * 60, "", "1"], ["short"]]
    shown = Console(width=80, record=True)
    shown.print(text_table(["", "two\nlines", numeric("AUC")], rows, title="a title", caption="first\nsecond"))
    text = shown.export_text()
    lines = [line.rstrip() for line in text.splitlines()]
    assert (text.count("a"), text.count("漢")) == (150 + len("a"), 60)
    for expected in (r"one\ntwo", "0.86 (0.78–0.93)"):
        assert expected in text
    assert [lines[0], *lines[-2:]] == ["a title", "first", "second"]
    assert max(map(cell_len, lines)) <= 80
    assert len({cell_len(line) for line in lines if line.endswith(("AUC", ")", " 1"))}) == 1  # right-aligned
    shown.print(text_table(["", numeric("")], [["patients", "12"]]))
    assert shown.export_text().split() == ["patients", "12"]


def test_numbers_read_as_in_a_paper() -> None:
    assert format_interval(0.8649, 0.78, 0.9251) == "0.86 (0.78–0.93)"
    assert [format_interval(1.0, NAN, NAN), format_interval(NAN, 0.1, 0.2)] == ["1.00 (n.e.–n.e.)", "n.e."]
    assert [format_mean_sd(0.8, 0.031), format_mean_sd(0.8, NAN), format_mean_sd(NAN, 1)] == [
        "0.80±0.03",
        "0.80",
        "n.e.",
    ]
    assert [format_odds(1.04, 1.01, 1.07), format_odds(0.5, 0.3, 0.9)] == ["1.040 (1.010–1.070)", "0.50 (0.30–0.90)"]
    p_values = [0.0, 0.00099, 0.001, 0.0994, 0.1, 0.847, 1.0, NAN]
    assert [*map(format_p, p_values)] == ["< 0.001", "< 0.001", "0.001", "0.099", "0.10", "0.85", "1.00", "n.e."]


def test_json_is_one_document_on_standard_output_and_all_else_goes_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json({"auc": NAN, "low": [float("-inf"), 0.5], "name": "Größe\x1b\x9b\u202e\udc80", "path": Path("a/b")})
    out = capsys.readouterr().out
    found = json.loads(out, parse_constant=pytest.fail)
    assert found == {"auc": None, "low": [None, 0.5], "name": "Größe\x1b\x9b\u202e\udc80", "path": "a/b"}
    assert "Größe" in out
    assert out.replace("\n", "").isprintable()
    console.print(text_table([""], [["cell"]]))
    print_line("line")
    show: ShowProgress = show_progress
    with show("patients") as advance:
        advance(1, 1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.split()[:3] == ["cell", "line", "patients"]
