"""Users' text is never obeyed, by a terminal, a browser or a spreadsheet, and reads back as it was."""

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.text import OBEYED, escape_controls, escape_formula, escape_json, unescape_formula

ANY = st.text(st.characters(), max_size=12) | st.text("'=+-@\t\r\n \x1b\u202e\u200b\x9b＝a1", max_size=6)


def is_harmless(shown: str) -> bool:
    return not any(unicodedata.category(c) in OBEYED for c in shown)


@given(ANY)
def test_what_is_shown_is_printable_and_escaping_it_again_changes_nothing(text: str) -> None:
    shown = escape_controls(text)
    assert is_harmless(shown)
    assert escape_controls(shown) == shown
    assert (shown == text) == is_harmless(text)


@given(ANY)
def test_every_error_and_finding_is_shown_harmlessly(text: str) -> None:
    finding = Finding(text, text, text, text, text, text)
    assert is_harmless(str(finding))
    assert is_harmless(str(RlvoError(text, where=text, fix=text)))
    assert all(map(is_harmless, str(CohortError([finding, finding], where=text)).split("\n")))


@given(st.dictionaries(ANY, ANY, max_size=3))
def test_json_stays_the_same_value_and_nothing_in_it_is_obeyed(value: dict[str, str]) -> None:
    document = escape_json(json.dumps(value, indent=2, ensure_ascii=False))
    assert json.loads(document) == value
    assert is_harmless(document.replace("\n", ""))


@given(ANY)
def test_no_cell_of_a_csv_file_is_a_formula_and_every_cell_reads_back(cell: str) -> None:
    written = escape_formula(cell)
    assert unescape_formula(written) == cell
    assert not written.strip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "＝"))
    assert written in (cell, f"'{cell}")
