"""Errors a user can cause or must know about: one line that says what, where and how to fix it."""

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote, unquote_to_bytes

from rlvo.text import escape_controls

MOST_SHOWN = 100
"""Findings of one column that are shown: a column in the wrong unit has one in every row."""
SECRETS = ("PASSWORD", "TOKEN", "SECRET_ACCESS_KEY")
"""How the names of environment variables end that hold a password."""


def hide_passwords(text: str) -> str:
    """`text` without what precedes the host in an address, and without passwords from the environment.

    An address loses everything between `scheme://` and the last `@` of its line, because a password may hold any
    character, spaces included.
    """
    for name, value in os.environ.items():
        if name.endswith(SECRETS) and len(value) > 3:  # hiding a shorter one would garble ordinary words
            text = text.replace(value, "***").replace(quote(value, safe=""), "***")
    return re.sub(r"://(?!/).*@", "://", text)


def encode_password(address: str) -> str:
    """An address with its user and password percent-encoded, so that no library takes a part of them for the host."""
    scheme, mark, rest = address.partition("://")
    user, at, host = rest.rpartition("@")
    if not at or rest.startswith("/"):  # no user, or a file
        return address
    return f"{scheme}{mark}{':'.join(quote(unquote_to_bytes(part), safe='') for part in user.split(':', 1))}@{host}"


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; what it prints is one line that holds no password and no control characters."""
    logger = logging.getLogger(name)
    logger.addFilter(_hide_in_record)
    return logger


def _hide_in_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = escape_controls(hide_passwords(record.getMessage())), ()
    return True


class RlvoError(Exception):
    """The input is at fault. Shown as one line, without a traceback; the process ends with `exit_code`.

    Args:
        what: what is wrong, as a short clause.
        where: file, patient or field it is about.
        fix: how to fix it, as a sentence without its full stop.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where is not None else self.what
        return escape_controls(hide_passwords(f"{text}. {self.fix}" if self.fix else text))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling of exceptions (worker processes raise these).
        return partial(type(self), self.what, where=self.where, fix=self.fix), ()


class MachineError(RlvoError):
    """The machine or a service is at fault (disk full, server away), not the input."""

    exit_code = 1


class PatientError(RlvoError):
    """A patient's prepared volumes are at fault. Every trial would fail on them, so the search stops."""


class StorageError(MachineError):
    """The study's storage takes nothing any more. Every trial would fail on that, so the search stops."""


class DiskFullError(StorageError):
    """The disk is full."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one cell, row, column or file of a cohort."""

    patient: str | None
    field: str | None
    what: str
    fix: str | None = None
    value: str | None = None
    """The cell as it was written, if the finding is about one."""
    allowed: str | None = None
    """What the cell may hold, in words."""

    def __str__(self) -> str:
        where = ", ".join(filter(None, (f"patient {self.patient}" if self.patient else None, self.field)))
        text = f"{where}: {self.what}" if where else self.what
        parts = filter(None, (text, f"Allowed: {self.allowed}" if self.allowed else None, self.fix))
        return escape_controls(". ".join(parts))


class CohortError(RlvoError):
    """Everything wrong with a cohort, reported at once: one line per finding, up to a limit.

    Args:
        notes: what had to be decided to read the table.
    """

    def __init__(self, findings: Sequence[Finding], *, where: object = None, notes: Sequence[str] = ()) -> None:
        self.findings, self.notes = tuple(findings), tuple(notes)
        super().__init__(f"{len(self.findings)} finding(s)", where=where)

    def __str__(self) -> str:
        """At most `MOST_SHOWN` findings of each column and ten times as many in all; the others are counted."""
        shown, seen = list[Finding](), Counter[str | None]()
        for finding in self.findings:
            seen[finding.field] += 1
            if seen[finding.field] <= MOST_SHOWN and len(shown) < 10 * MOST_SHOWN:
                shown.append(finding)
        lines = [super().__str__(), *(f"  note: {note}" for note in self.notes), *(f"  {finding}" for finding in shown)]
        if more := len(self.findings) - len(shown):
            columns = ", ".join(f"{field or 'the table'} {count}" for field, count in seen.most_common(10))
            lines.append(f"  and {more} more (found most in: {escape_controls(columns)}); --json lists all")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return partial(CohortError, self.findings, where=self.where, notes=self.notes), ()
