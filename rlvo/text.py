"""Users' text (cells, column names, ids, paths) as it may be shown: nothing in it is obeyed, and nothing is lost.

Every terminal, log, page, table and JSON document that rlvo writes takes users' text from here.
"""

import json
import re
import unicodedata

OBEYED = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that terminals obey or do not show: controls, marks of direction, zero width, surrogates."""
FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠\t\r\n]")
"""How a cell begins that spreadsheets take for a formula, or would but for its apostrophes."""


def escape_controls(text: str) -> str:
    r"""Make control characters visible: an escape character becomes `\x1b`, a line break `\n`."""
    return text.translate({ord(c): c.encode("unicode_escape").decode() for c in _obeyed(text)})


def escape_json(document: str) -> str:
    r"""Escape what terminals obey in a JSON document, which stays the same value: U+009B becomes `\u009b`."""
    return document.translate({ord(c): json.dumps(c)[1:-1] for c in _obeyed(document) - {"\n"}})


def escape_formula(cell: str) -> str:
    """Put an apostrophe before a cell of a CSV file that a spreadsheet would take for a formula.

    A cell that has one or more apostrophes already gets one more, so that `unescape_formula` gives every cell back.
    """
    return f"'{cell}" if FORMULA.match(cell) else cell


def unescape_formula(cell: str) -> str:
    """A cell as it was before `escape_formula`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def _obeyed(text: str) -> set[str]:
    return set() if text.isprintable() else {c for c in set(text) if unicodedata.category(c) in OBEYED}
